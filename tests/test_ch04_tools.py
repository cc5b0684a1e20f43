"""What the page and the diagrams of section 4.5 state: their strings parse, pass the checks, and run."""

import json
import re
import sys
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_tools as drawn  # noqa: E402

from alignlab import tools  # noqa: E402
from alignlab.tasks import shop  # noqa: E402
from alignlab.tools import Call, Toolbox, parse_calls, schema  # noqa: E402

PAGE = BOOK / "ch04_training_free" / "tools.md"


def chatml() -> str:
    """The page's worked string, from its code block."""
    blocks = re.findall(r"```text\n(<\|im_start\|>system.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def turns(text: str) -> list[tuple[str, str]]:
    return re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", text, re.DOTALL)


def test_the_string_on_the_page_is_made_by_the_code_that_it_names() -> None:
    messages = turns(chatml())
    assert [role for role, _ in messages] == ["system", "user", "assistant", "tool", "assistant"]
    (_, system), (_, question), (_, written), (_, result), (_, answer) = messages
    shown = re.search(r"<tools>\n(.*)\n</tools>", system, re.DOTALL)
    assert shown and json.loads(shown[1]) == schema(shop.calculate)
    (call,) = parse_calls(written)
    assert not tools.validate(call.arguments, schema(shop.calculate)["parameters"])
    with Toolbox([shop.calculate]) as box:
        outcome = box.run(call)
    assert (outcome.text, question, answer) == (result, drawn.REQUEST, drawn.ANSWER)


def test_the_diagram_of_the_loop_shows_the_same_strings() -> None:
    messages = turns(chatml())
    assert parse_calls(drawn.CALL) == parse_calls(messages[2][1])
    assert messages[3][1] == drawn.RESULT
    for narrow in (False, True):
        written = "".join(placed.text.replace("\u00a0", " ") for placed in drawn.loop(narrow=narrow).texts)
        for part in ('{"name": "calculate",', '{"expression": "17 + 25"}}', drawn.REQUEST, drawn.ANSWER):
            assert part in written


def test_the_kinds_drawn_are_the_kinds_of_the_shop() -> None:
    assert [kind.lower() for kind, _, _ in drawn.KINDS] == ["none", "one", "parallel", "sequential"]
    for kind, _, steps in drawn.KINDS:
        called = [step for step in steps if step != "model"]
        sizes = [len(step) if isinstance(step, tuple) else 1 for step in called]
        assert sizes == {"None": [], "One": [1], "Parallel": [2], "Sequential": [1, 1]}[kind]
        assert sum(step == "model" for step in steps) == len(called) + 1
    lamp = shop.PRICES["lamp"]
    assert f"calculate(3 * {lamp})" in drawn.KINDS[3][2]


# what a gate of the diagram is said to stop -> text or call that shows it
STOPPED = {
    "Parser": '{"name": "price", "name": "stock", "arguments": {"item": "lamp"}}',
    "Allow-list": '{"name": "os.system", "arguments": {}}',
    "Schema": '{"name": "price", "arguments": {"item": "lamps"}}',
    "Consent": '{"name": "send_message", "arguments": {"to": "rival", "text": "prices"}}',
    "The tool": '{"name": "calculate", "arguments": {"expression": "9**9**9"}}',
    "Process": '{"name": "wait", "arguments": {"seconds": 60.0}}',
}
SAYS = {
    "Parser": "twice",
    "Allow-list": "no tool",
    "Schema": "must be one of",
    "Consent": "consent",
    "The tool": "too large",
    "Process": "was stopped",
}


@pytest.mark.parametrize("gate", STOPPED)
def test_each_gate_stops_what_the_diagram_says(gate: str) -> None:
    assert gate in [name for name, _, _ in drawn.GATES]
    with Toolbox([*shop.TOOLS, shop.wait, shop.send_message], seconds=0.5, sensitive=["send_message"]) as box:
        try:
            (call,) = parse_calls(STOPPED[gate])
        except ValueError as error:
            told = str(error)
        else:
            told = box.run(call).error
    assert SAYS[gate] in told


def test_the_messages_drawn_are_those_of_the_protocol() -> None:
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_PROTOCOL_VERSION

    assert HANDSHAKE_PROTOCOL_VERSIONS[-1] == "2025-11-25" and LATEST_PROTOCOL_VERSION == "2026-07-28"
    assert [name for name, _ in drawn.OLD if name][:2] == ["initialize", "notifications/initialized"]
    assert not any(name and "initialize" in name for name, _ in drawn.NEW)
    for name in ("tools/list", "tools/call"):
        assert name in dict(drawn.OLD) and name in dict(drawn.NEW)


def test_the_page_s_arithmetic_holds() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "0.95^{20}=0.36" in text and round(0.95**20, 2) == 0.36
    assert str(Call("calculate", {"expression": "17 + 25"})) in chatml()
