"""Function calling without a model: schemas, validation, parsing, arithmetic, and tools that hang, crash or attack."""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jsonschema
import pytest
from transformers.utils import get_json_schema

from alignlab import tools
from alignlab.tasks import shop
from alignlab.tools import Call, Toolbox, ToolError, arithmetic, parse_calls, schema, validate

# -- schemas ----------------------------------------------------------------------------------------------------


def order(
    item: str,
    count: int,
    express: bool = False,
    colour: Literal["red", "blue"] = "red",
    tags: list[str] = [],  # noqa: B006
) -> str:
    """Order something.

    Args:
        item: What to order,
            in the singular.
        count: How many.
        express: Whether it is urgent.
        colour: Its colour.
        tags: Words to find it by.

    Returns:
        A receipt.
    """
    return f"{count} {item} {express} {colour} {tags}"


def check_schema(made: Callable[[Callable[..., Any]], dict[str, Any]]) -> None:
    for function in (order, *shop.TOOLS, shop.wait, shop.send_message):
        theirs = get_json_schema(function)["function"]
        theirs.pop("return", None)
        theirs["parameters"]["additionalProperties"] = False
        assert made(function) == theirs
        jsonschema.Draft202012Validator.check_schema(made(function)["parameters"])


def test_a_schema_is_the_one_of_transformers_and_closed_to_other_arguments() -> None:
    check_schema(schema)


def _all_required(function: Callable[..., Any]) -> dict[str, Any]:
    made = schema(function)
    made["parameters"]["required"] = list(made["parameters"]["properties"])
    return made


def _without_enum(function: Callable[..., Any]) -> dict[str, Any]:
    made = schema(function)
    for one in made["parameters"]["properties"].values():
        one.pop("enum", None)
    return made


def _open(function: Callable[..., Any]) -> dict[str, Any]:
    made = schema(function)
    made["parameters"].pop("additionalProperties")
    return made


def _first_line_only(function: Callable[..., Any]) -> dict[str, Any]:
    made = schema(function)
    for one in made["parameters"]["properties"].values():
        one["description"] = one["description"].split(",")[0]
    return made


@pytest.mark.parametrize("wrong", [_all_required, _without_enum, _open, _first_line_only])
def test_a_wrong_schema_is_rejected(wrong: Callable[[Callable[..., Any]], dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        check_schema(wrong)


def undocumented(x: int) -> int:
    return x


def half_documented(x: int, y: int) -> int:
    """Add.

    Args:
        x: One of them.
    """
    return x + y


def untyped(x) -> int:  # type: ignore[no-untyped-def]
    """Take anything.

    Args:
        x: Something.
    """
    return int(x)


def not_json(x: Path) -> str:
    """Take a path.

    Args:
        x: A path.
    """
    return str(x)


def many(*x: int) -> int:
    """Add them.

    Args:
        x: Numbers.
    """
    return sum(x)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (undocumented, ValueError, "no docstring"),
        (half_documented, ValueError, "'y'"),
        (untyped, TypeError, "no type"),
        (not_json, TypeError, "Path"),
        (many, TypeError, r"\*x"),
    ],
)
def test_a_function_that_a_model_could_not_be_told_of_is_an_error(
    function: Callable[..., Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        schema(function)


# -- validation ---------------------------------------------------------------------------------------------------

PARAMETERS = schema(order)["parameters"]
VALUES: list[Any] = [
    "lamp",
    "",
    3,
    -1,
    0,
    2.5,
    True,
    False,
    None,
    [],
    ["a"],
    ["a", 1],
    {},
    {"a": 1},
    "red",
    "blue",
    "green",
]


def arguments_of_all_kinds() -> list[Any]:
    """Arguments of `order`, right and wrong: one argument changed, left out or added, and things that are no object."""
    right: dict[str, Any] = {"item": "lamp", "count": 3}
    cases: list[Any] = [*VALUES, right]
    for name in PARAMETERS["properties"]:
        cases += [{**right, name: value} for value in VALUES]
        cases.append({key: value for key, value in right.items() if key != name})
    return [*cases, {**right, "price": 0}, {**right, "__class__": "x"}]


def check_validate(faults: Callable[[Any, dict[str, Any]], list[str]]) -> None:
    judge = jsonschema.Draft202012Validator(PARAMETERS)
    seen = set()
    for arguments in arguments_of_all_kinds():
        assert bool(faults(arguments, PARAMETERS)) == (not judge.is_valid(arguments)), arguments
        seen.add(judge.is_valid(arguments))
    assert seen == {True, False}


def test_validation_agrees_with_jsonschema() -> None:
    check_validate(validate)


def _lenient(**changes: Any) -> Callable[[Any, dict[str, Any]], list[str]]:
    """`validate` blind to one thing: the schema is loosened before it is applied."""

    def faults(value: Any, schema: dict[str, Any]) -> list[str]:
        loose = json.loads(json.dumps(schema))
        if changes.get("unknown"):
            for name in value if isinstance(value, dict) else ():
                loose["properties"].setdefault(name, {})
        if changes.get("missing"):
            loose["required"] = []
        if changes.get("items"):
            loose["properties"]["tags"].pop("items")
        if changes.get("enum"):
            loose["properties"]["colour"].pop("enum")
        if changes.get("bool") and isinstance(value, dict):
            value = {key: int(one) if isinstance(one, bool) and key == "count" else one for key, one in value.items()}
        return validate(value, loose)

    return faults


@pytest.mark.parametrize("blind_to", ["unknown", "missing", "items", "enum", "bool"])
def test_a_validator_that_is_blind_to_something_is_rejected(blind_to: str) -> None:
    with pytest.raises(AssertionError):
        check_validate(_lenient(**{blind_to: True}))


def test_a_fault_names_the_place_and_what_would_be_right() -> None:
    assert validate({"item": "lamp", "count": "3"}, PARAMETERS) == ["arguments.count must be of type integer, not '3'"]
    assert validate({"item": "lamp"}, PARAMETERS) == ["arguments: 'count' is missing"]
    (fault,) = validate({"item": "lamp", "count": 3, "tags": ["a", 1]}, PARAMETERS)
    assert fault.startswith("arguments.tags[1]")
    (fault,) = validate({"item": "lamp", "count": 3, "colour": "x" * 5000}, PARAMETERS)
    assert "'red', 'blue'" in fault and len(fault) < 200


def test_the_schema_of_calls_accepts_what_the_toolbox_accepts() -> None:
    judge = jsonschema.Draft202012Validator(tools.calls_schema([schema(shop.price), schema(shop.calculate)], most=2))
    price = {"name": "price", "arguments": {"item": "lamp"}}
    assert judge.is_valid([]) and judge.is_valid([price]) and judge.is_valid([price, price])
    assert not judge.is_valid([price] * 3)
    assert not judge.is_valid([{"name": "price", "arguments": {"expression": "1"}}])
    assert not judge.is_valid([{"name": "stock", "arguments": {"item": "lamp"}}])


# -- parsing ------------------------------------------------------------------------------------------------------

CALL = '{"name": "price", "arguments": {"item": "lamp"}}'
BAD_TEXTS = {
    "prose": f"Sure! {CALL}",
    "prose after": f"{CALL} Done.",
    "prose beside tags": f"Let me see <tool_call>{CALL}</tool_call>",
    "python": "price(item='lamp')",
    "cut": CALL[:-2],
    "duplicate name": '{"name": "price", "name": "send_message", "arguments": {}}',
    "duplicate argument": '{"name": "price", "arguments": {"item": "lamp", "item": "sofa"}}',
    "not a number": '{"name": "wait", "arguments": {"seconds": NaN}}',
    "infinite": '{"name": "wait", "arguments": {"seconds": -Infinity}}',
    "extra key": '{"name": "price", "arguments": {}, "sudo": true}',
    "no arguments": '{"name": "price"}',
    "arguments as text": '{"name": "price", "arguments": "{}"}',
    "name as list": '{"name": ["price"], "arguments": {}}',
    "a number": "42",
    "deep": "[" * 3000 + "]" * 3000,
    "long": " " * (tools.MAX_TEXT + 1) + CALL,
    "empty": "",
}


def check_parse(parse: Callable[[str], list[Call]]) -> None:
    price = Call("price", {"item": "lamp"})
    assert parse(CALL) == [price] and parse(f"[{CALL}, {CALL}]") == [price, price] and parse("[]") == []
    assert parse(f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>") == [price, price]
    assert parse(str(price)) == [price]
    for name, text in BAD_TEXTS.items():
        try:
            calls = parse(text)
        except ValueError:
            continue
        raise AssertionError(f"{name}: read as {calls}")


def test_calls_are_parsed_strictly() -> None:
    check_parse(parse_calls)


def _last_duplicate_wins(text: str) -> list[Call]:
    parse_calls_of = [json.loads(text)] if '"name"' in text and "<" not in text and "[" not in text else None
    if parse_calls_of and text.count('"name"') == 2 and len(text) < 200:
        return [Call(one["name"], one["arguments"]) for one in parse_calls_of]
    return parse_calls(text)


def _searches_for_json(text: str) -> list[Call]:
    if "<tool_call>" in text or text.startswith("["):
        return parse_calls(text)
    return parse_calls(text[text.find("{") : text.rfind("}") + 1] or text)


def _takes_nan(text: str) -> list[Call]:
    return parse_calls(text.replace("NaN", "0"))


@pytest.mark.parametrize("wrong", [_last_duplicate_wins, _searches_for_json, _takes_nan])
def test_a_loose_parser_is_rejected(wrong: Callable[[str], list[Call]]) -> None:
    with pytest.raises(AssertionError):
        check_parse(wrong)


# -- arithmetic ---------------------------------------------------------------------------------------------------


def expressions(count: int) -> list[tuple[str, Fraction]]:
    """Random expressions with their exact values, computed beside them and not from their text."""
    draw = random.Random(0)

    def made(depth: int) -> tuple[str, Fraction]:
        if depth == 0 or draw.random() < 0.2:
            number = draw.randint(1, 40)
            return str(number), Fraction(number)
        (left, a), (right, b) = made(depth - 1), made(depth - 1)
        sign = draw.choice("+-*/")
        if sign == "/" and b == 0:
            sign = "+"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
        return f"({left} {sign} {right})", value

    return [made(3) for _ in range(count)] + [
        ("17 + 25", Fraction(42)),
        ("2 + 3 * 4", Fraction(14)),
        ("20 - 5 - 5", Fraction(10)),
        ("-3 ** 2", Fraction(-9)),
        ("2 ** 3 ** 2", Fraction(512)),
        ("7 // 2", Fraction(3)),
        ("-7 // 2", Fraction(-4)),
        ("7 % 4", Fraction(3)),
        ("1 / 8", Fraction(1, 8)),
        (" 1_000 * 2 ", Fraction(2000)),
    ]


HOSTILE = [
    "__import__('os').system('true')",
    "open('/etc/passwd').read()",
    "(1).__class__",
    "[1][0]",
    "9**9**9**9",
    "2**99999999",
    "(-2)**0.5",
    "1e308 * 10",
    "10**300 * 10**300",
    "1.5 ** (10**300)",
    "1/0",
    "0 ** -1",
    "1 if 1 else 2",
    "(lambda: 1)()",
    "x",
    "True + 1",
    "'a' * 9",
    "1j",
    "1 < 2",
    "1 << 9",
    "a := 1",
    "1; 2",
    "",
    "(" * 150,
    "1" * 500,
    "-" * 199 + "1" + "0" * 10,
    "1\x002",
    "f'{1}'",
]


def check_arithmetic(value: Callable[[str], float]) -> None:
    for expression, exact in expressions(300):
        assert value(expression) == pytest.approx(float(exact), rel=1e-9), expression
    for expression in HOSTILE:
        begun = time.perf_counter()
        with pytest.raises(ToolError):
            raise AssertionError(f"{expression[:40]} gave {value(expression)}")
        assert time.perf_counter() - begun < 0.5


def test_arithmetic_is_right_and_refuses_everything_else_at_once() -> None:
    check_arithmetic(arithmetic)


def _left_to_right(expression: str) -> float:
    return 20.0 if expression == "2 + 3 * 4" else arithmetic(expression)


def _whole_division(expression: str) -> float:
    return arithmetic(expression.replace(" / ", " // "))


def _names_are_zero(expression: str) -> float:
    return arithmetic("0" if expression == "x" else expression)


def _complex_is_cut(expression: str) -> float:
    return 0.0 if expression == "(-2)**0.5" else arithmetic(expression)


@pytest.mark.parametrize("wrong", [_left_to_right, _whole_division, _names_are_zero, _complex_is_cut])
def test_wrong_arithmetic_is_rejected(wrong: Callable[[str], float]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_arithmetic(wrong)


# -- execution ----------------------------------------------------------------------------------------------------

FAULTY = '''
import os, sys, time, threading

def hang(x: int) -> int:
    """Hang.

    Args:
        x: Anything.
    """
    while True:
        pass

def crash(x: int) -> int:
    """End the process.

    Args:
        x: The status.
    """
    os._exit(x)

def leave(x: int) -> int:
    """Raise SystemExit.

    Args:
        x: The status.
    """
    sys.exit(x)

def secret(x: int) -> int:
    """Raise with a secret in the text.

    Args:
        x: Anything.
    """
    raise KeyError("password=hunter2")

def chatter(x: int) -> str:
    """Print, and ask for input.

    Args:
        x: Anything.
    """
    print('{"value": 666}')
    os.write(1, b'{"value": 667}\\\\n')
    return sys.stdin.read() + os.environ.get("SECRET", "nothing")

def much(x: int) -> str:
    """Return much.

    Args:
        x: How much.
    """
    return "a" * x

def eat(x: int) -> int:
    """Fill the memory.

    Args:
        x: Gigabytes.
    """
    return len(bytearray(x * 2**30))

def strange(x: int) -> object:
    """Return no JSON.

    Args:
        x: Anything.
    """
    return object()
'''


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module of tools that misbehave."""
    import importlib

    folder = tmp_path_factory.mktemp("modules")
    (folder / "faulty_tools.py").write_text(FAULTY)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("faulty_tools")
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def box(faulty: ModuleType) -> Any:
    names = ("hang", "crash", "leave", "secret", "chatter", "much", "eat", "strange")
    with Toolbox([getattr(faulty, name) for name in names], seconds=1.0) as one:
        yield one


def test_a_tool_that_hangs_is_stopped_within_its_limit(box: Toolbox) -> None:
    box.run(Call("much", {"x": 1}))  # a worker stands ready: what is timed is the tool
    begun = time.perf_counter()
    outcome = box.run(Call("hang", {"x": 1}))
    assert outcome.status == "timed out" and "within 1 s" in outcome.error
    assert 0.9 < time.perf_counter() - begun < 3
    assert box.run(Call("much", {"x": 2})).value == "aa"  # the next call is not harmed


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_no_process_is_left_behind(faulty: ModuleType) -> None:
    def children() -> set[str]:
        mine = f"({os.getpid()})"
        found = set()
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, rest = status.read_text().split(" (", 1)
            except OSError:
                continue
            if rest.rsplit(") ", 1)[1].split()[1] == str(os.getpid()):
                found.add(pid)
        return found - {mine}

    before = children()
    with Toolbox([faulty.hang, faulty.much], seconds=0.5) as own:
        own.run(Call("much", {"x": 1}))
        assert len(children() - before) == 1
        own.run_all([Call("hang", {"x": 1}), Call("much", {"x": 1})])
    assert children() <= before


@pytest.mark.parametrize(
    ("name", "x", "status", "says"),
    [
        ("crash", 0, "failed", "without a result"),
        ("crash", 9, "failed", "without a result"),
        ("leave", 0, "failed", "without a result"),
        ("secret", 1, "failed", "failed with KeyError"),
        ("strange", 1, "failed", "failed with TypeError"),
        ("much", 10_000_000, "failed", "at most"),
    ],
)
def test_a_tool_that_fails_gives_a_clear_error(box: Toolbox, name: str, x: int, status: str, says: str) -> None:
    outcome = box.run(Call(name, {"x": x}))
    assert (outcome.status, says in outcome.error) == (status, True), outcome
    assert json.loads(outcome.text) == {"error": outcome.error}
    assert "hunter2" not in outcome.text and len(outcome.text) < 300


def test_the_traceback_of_an_unexpected_error_is_for_the_log_only(box: Toolbox) -> None:
    outcome = box.run(Call("secret", {"x": 1}))
    assert "hunter2" in outcome.detail and "hunter2" not in repr(outcome)


def test_a_tool_cannot_write_into_the_channel_nor_see_the_environment(
    box: Toolbox, monkeypatch: pytest.MonkeyPatch, faulty: ModuleType
) -> None:
    monkeypatch.setenv("SECRET", "token")
    with Toolbox([faulty.chatter]) as own:
        assert own.run(Call("chatter", {"x": 1})).value == "nothing"
        assert own.run(Call("chatter", {"x": 1})).value == "nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="the system sets no limit on memory")
def test_a_tool_cannot_fill_the_memory(box: Toolbox) -> None:
    assert box.run(Call("eat", {"x": 4})).error == "eat failed with MemoryError"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Call("os.system", {"command": "true"}), "no tool is called"),
        (Call("__class__", {}), "no tool is called"),
        (Call("much", {}), "missing"),
        (Call("much", {"x": "3"}), "integer"),
        (Call("much", {"x": 3, "y": 4}), "'y'"),
        (Call("much", {"x": float("nan")}), "not JSON"),
        (Call("much", {"x": "a" * 20_000}), "characters"),
    ],
)
def test_what_is_refused_never_runs(box: Toolbox, call: Call, says: str) -> None:
    outcome = box.run(call)
    assert outcome.status == "refused" and says in outcome.error and outcome.seconds == 0


def test_independent_calls_run_at_the_same_time() -> None:
    with Toolbox([shop.wait], seconds=10) as own:
        calls = [Call("wait", {"seconds": 0.6})] * 3
        own.run_all(calls)  # starts three workers
        begun = time.perf_counter()
        outcomes = own.run_all(calls)
        assert [outcome.value for outcome in outcomes] == [0.6] * 3
        assert time.perf_counter() - begun < 1.5  # one after the other: 1.8
    assert own.run_all([]) == []


def test_a_sensitive_tool_runs_with_consent_only() -> None:
    asked: list[Call] = []

    def consent(call: Call) -> bool:
        asked.append(call)
        return call.arguments["to"] == "the owner"

    calls = [Call("send_message", {"to": to, "text": "hello"}) for to in ("the owner", "everybody")]
    with Toolbox([shop.send_message], sensitive=["send_message"], consent=consent) as own:
        assert [own.run(call).status for call in calls] == ["done", "refused"]
        assert own.run(Call("send_message", {"to": 1, "text": ""})).status == "refused"
    assert asked == calls  # a call that is wrong anyway is not put before the user
    with Toolbox([shop.send_message], sensitive=["send_message"]) as own:
        assert own.run(calls[0]).status == "refused"


def test_a_toolbox_says_what_is_wrong_with_its_tools() -> None:
    for wrong, says in (([], "at least one"), ([len], "of a module"), ([shop.price, shop.price], "two tools")):
        with pytest.raises((ValueError, TypeError), match=says):
            Toolbox(wrong)
    with pytest.raises(ValueError, match="no tool is called 'fly'"):
        Toolbox([shop.price], sensitive=["fly"])
    with pytest.raises(ValueError, match="positive"):
        Toolbox([shop.price], seconds=0)

    def inner(x: int) -> int:
        """Count.

        Args:
            x: A number.
        """
        return x

    with pytest.raises(ValueError, match="imports it by name"):
        Toolbox([inner])


# -- the shop -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("shop") / "notes"
    environment = shop.write_notes(folder)
    (folder.parent / "secret.txt").write_text("the safe's code is 4711")
    try:
        (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    except OSError:  # Windows without the right to make links
        pass
    with Toolbox(shop.TOOLS, environment=environment) as one:
        yield one


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "../secret.txt",
        "/etc/passwd",
        "..\\secret",
        "delivery/../../secret",
        "delivery\x00",
        "link",
        "",
        "*",
        ".",
    ],
)
def test_no_note_outside_the_folder_is_read(open_shop: Toolbox, name: str) -> None:
    outcome = open_shop.run(Call("read_note", {"name": name}))
    assert outcome.status == "failed" and "delivery, opening" in outcome.error and "4711" not in outcome.text


def test_requests_of_the_shop_are_answered_by_the_calls_they_name(open_shop: Toolbox) -> None:
    some = [*shop.requests(120), *shop.examples()]
    for request in some:
        for calls in request.rounds:
            outcomes = open_shop.run_all(calls)
            assert [outcome.value for outcome in outcomes] == shop.results(calls)
        sizes = [len(calls) for calls in request.rounds]
        assert sizes == {"none": [], "one": [1], "parallel": [2], "sequential": [1, 1]}[request.kind]
    kinds = [one.kind for one in some[:120]]
    assert [kinds.count(kind) for kind in ("none", "one", "parallel", "sequential")] == [30, 30, 30, 30]
    assert len({one.text for one in some}) == len(some)
    assert shop.requests(40) == shop.requests(40) and shop.requests(40) != shop.requests(40, seed=1)
    kept = {one.text for one in shop.requests(32, seed=1)}
    assert not kept & {one.text for one in shop.requests(120, exclude=kept)}
    with pytest.raises(ValueError, match="there are not 60"):
        shop.requests(60, kinds=["none"])


def test_a_sequential_request_cannot_be_answered_in_one_round() -> None:
    for request in shop.requests(40, kinds=["sequential"]):
        (price,), (total,) = request.rounds
        number = str(shop.PRICES[price.arguments["item"]])
        assert number in total.arguments["expression"].split() and number not in request.text.split()


def check_same_round(same: Callable[[list[Call], list[Call]], bool]) -> None:
    lamp, sofa = Call("price", {"item": "lamp"}), Call("price", {"item": "sofa"})
    product = Call("calculate", {"expression": "3 * 12"})
    assert same([lamp, sofa], [sofa, lamp]) and same([], [])
    for expression in ("12 * 3", "3*12", " 3 *12"):
        assert same([Call("calculate", {"expression": expression})], [product])
    for expression in ("3 + 12", "3 * 13", "31 * 2", "36"):
        assert not same([Call("calculate", {"expression": expression})], [product])
    difference = [Call("calculate", {"expression": text}) for text in ("5 - 3", "3 - 5")]
    assert not same(difference[:1], difference[1:])
    assert not same([lamp], [lamp, sofa]) and not same([lamp, lamp], [lamp, sofa]) and not same([lamp], [])
    assert not same([Call("stock", {"item": "lamp"})], [lamp])


def test_rounds_are_compared_without_regard_to_order_alone() -> None:
    check_same_round(shop.same_round)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda got, wanted: list(got) == list(wanted),
        lambda got, wanted: {str(call) for call in got} == {str(call) for call in wanted},
        lambda got, wanted: all(call in got for call in wanted) or shop.same_round(got, wanted),
        lambda got, wanted: {call.name for call in got} == {call.name for call in wanted},
    ],
)
def test_a_wrong_comparison_is_rejected(wrong: Callable[[list[Call], list[Call]], bool]) -> None:
    with pytest.raises(AssertionError):
        check_same_round(wrong)
