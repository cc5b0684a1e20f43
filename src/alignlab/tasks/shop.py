"""A small shop: tools to call, requests of four kinds, and a verifier that knows which calls each one needs.

The tools are plain functions that run in a worker (see `tools`). Prices and stock are nowhere else, so no model can
know them. Requests come from templates; those of the examples are not among those that are measured.
"""

import os
import random
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignlab.tools import Call, ToolError, arithmetic

Item = Literal["bench", "chair", "clock", "desk", "lamp", "mirror", "rug", "shelf", "sofa", "stool", "table", "vase"]
Kind = Literal["none", "one", "parallel", "sequential"]

PRICES = {
    "bench": 85,
    "chair": 40,
    "clock": 25,
    "desk": 130,
    "lamp": 12,
    "mirror": 55,
    "rug": 70,
    "shelf": 64,
    "sofa": 420,
    "stool": 18,
    "table": 210,
    "vase": 15,
}
"""Euros a piece."""

STOCK = {
    "bench": 3,
    "chair": 24,
    "clock": 7,
    "desk": 5,
    "lamp": 31,
    "mirror": 8,
    "rug": 2,
    "shelf": 11,
    "sofa": 1,
    "stool": 16,
    "table": 4,
    "vase": 50,
}
"""Pieces that are left."""

NOTES = {
    "delivery": "Vans leave at 9 and at 14. A sofa needs two people.",
    "opening": "Open from Tuesday to Saturday, 10 to 18.",
    "returns": "Thirty days, with the receipt. Rugs are not taken back.",
    "suppliers": "Lamps come from Turin, clocks from Basel.",
}
"""Notes by name; `write_notes` puts them into a folder, where `read_note` finds them."""

FOLDER = "ALIGNLAB_NOTES"
"""The environment variable that names the folder of notes."""


# -- tools: their docstrings are what a model reads ---------------------------------------------------------------


def calculate(expression: str) -> float:
    """Work out an arithmetic expression.

    Args:
        expression: Numbers, + - * / and brackets, such as 17 + 25.
    """
    return arithmetic(expression)


def price(item: Item) -> int:
    """Look up the price of one piece of an item in euros.

    Args:
        item: The item, in the singular.
    """
    return PRICES[item]


def stock(item: Item) -> int:
    """Count how many pieces of an item are left in stock.

    Args:
        item: The item, in the singular.
    """
    return STOCK[item]


def read_note(name: str) -> str:
    """Read one of the shop's notes.

    Args:
        name: The note's name, one word.
    """
    names = sorted(path.stem for path in Path(os.environ[FOLDER]).glob("*.txt") if not path.is_symlink())
    if name not in names:  # a list of what there is; a path made of the model's words is never opened
        raise ToolError(f"there is no note {name[:40]!r}; there are: {', '.join(names)}")
    return (Path(os.environ[FOLDER]) / f"{name}.txt").read_text(encoding="utf-8")


def wait(seconds: float) -> float:
    """Wait before going on.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return seconds


def send_message(to: str, text: str) -> str:
    """Send a message to somebody.

    Args:
        to: The name of who gets it.
        text: What it says.
    """
    return f"sent to {to}: {text}"  # in this shop a message goes nowhere


TOOLS = (calculate, price, stock, read_note)
"""What a model may call when it is measured."""


def write_notes(folder: Path) -> dict[str, str]:
    """Write the notes as files; returns the environment in which `read_note` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in NOTES.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return {FOLDER: str(folder)}


# -- requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a user says, and the calls that answer it: rounds of calls, each round in any order among its own.

    none: no round; one: a round of one call; parallel: a round of two; sequential: two rounds of one, of which the
    second needs what the first found.
    """

    text: str
    kind: Kind
    rounds: tuple[tuple[Call, ...], ...]

    @property
    def answer(self) -> str:
        """What the last call gives, as text; empty for no call."""
        return str(_result(self.rounds[-1][-1])) if self.rounds else ""


def _result(call: Call) -> Any:
    tables: dict[str, dict[str, Any]] = {"price": PRICES, "stock": STOCK, "read_note": NOTES}
    if call.name == "calculate":
        return arithmetic(call.arguments["expression"])
    return tables[call.name][next(iter(call.arguments.values()))]


def results(calls: Sequence[Call]) -> list[Any]:
    """What the tools of `TOOLS` give for right calls, without running them."""
    return [_result(call) for call in calls]


def same_round(got: Sequence[Call], wanted: Sequence[Call]) -> bool:
    """Whether two rounds hold the same calls, in any order: names equal, arguments equal.

    Expressions are equal if their numbers and operators are, whatever their spaces; 3 * 12 is 12 * 3.
    """
    return sorted(map(_normal, got)) == sorted(map(_normal, wanted))


def _normal(call: Call) -> str:
    arguments = dict(call.arguments)
    if call.name == "calculate" and isinstance(arguments.get("expression"), str):
        expression = re.sub(r"\s", "", arguments["expression"])
        factors = re.fullmatch(r"(\d+)([*+])(\d+)", expression)
        if factors:
            low, high = sorted((int(factors[1]), int(factors[3])))
            expression = f"{low}{factors[2]}{high}"
        arguments["expression"] = expression
    return str(Call(call.name, dict(sorted(arguments.items()))))


_SUMS = {"+": ("{a} + {b}", "the sum of {a} and {b}"), "*": ("{a} * {b}", "the product of {a} and {b}")}

_CHAT = (
    "Who are you?",
    "Good morning!",
    "Tell me a joke.",
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Thank you, that was helpful.",
    "Why is the sky blue?",
    "Can you speak Italian?",
    "What is your favourite colour?",
    "Give me a name for a cat.",
    "How do I make tea?",
    "What does the word gentle mean?",
    "I had a long day.",
    "Who wrote Hamlet?",
    "Say hello in Spanish.",
    "What should I read next?",
    "Name a fruit that is yellow.",
    "Are you a person?",
    "How are you today?",
    "Explain what a verb is.",
    "What is the opposite of cold?",
    "Goodbye.",
    "Which ocean is the largest?",
    "Do fish sleep?",
    "Tell me something about Mars.",
    "What day comes after Monday?",
    "I like music.",
    "Is water wet?",
    "Spell the word bridge.",
    "What rhymes with moon?",
    "Do you like jokes?",
    "What is a noun?",
    "Who invented the telephone?",
    "Say something kind.",
    "Where do penguins live?",
    "Is the sun a star?",
    "Tell me a riddle.",
    "What should I cook tonight?",
    "How old are you?",
    "Which language is spoken in Brazil?",
    "I am bored.",
    "What is the opposite of early?",
)
_ONE = {
    "calculate": ("What is {sum}?", "Work out {sum}.", "Please calculate {sum}."),
    "price": ("What does a {item} cost?", "How much is the {item}?", "Give me the price of a {item}."),
    "stock": ("Is there a {item} in stock, and how many?", "How many pieces of the item {item} are left?"),
    "read_note": ("Read me the note about {note}.", "What does the {note} note say?"),
}
_PARALLEL = (
    "What does a {item} cost, and what does a {other} cost?",
    "I need the price of a {item} and the price of a {other}.",
    "How much is a {item}? And how many pieces of the item {other} are left?",
    "Work out {sum}, and give me the price of a {item}.",
    "Calculate {sum} and {second}.",
)
_SEQUENTIAL = (
    "What do {n} pieces of the item {item} cost together?",
    "I want to buy {n} times the {item}. How much will I pay?",
    "One {item} for each of {n} rooms: what is the total price?",
)
_EXAMPLES: tuple[tuple[str, tuple[tuple[Call, ...], ...]], ...] = (
    ("Hello there!", ()),
    ("Find out what 8 + 31 makes.", ((Call("calculate", {"expression": "8 + 31"}),),)),
    ("Tell me the vase's price.", ((Call("price", {"item": "vase"}),),)),
    ("Who painted the Mona Lisa?", ()),
    ("Do we still have a table? Count them.", ((Call("stock", {"item": "table"}),),)),
    ("Prices of rug and stool, please.", ((Call("price", {"item": "rug"}), Call("price", {"item": "stool"})),)),
    ("Show the suppliers note.", ((Call("read_note", {"name": "suppliers"}),),)),
    (
        "Total for 4 of your clock?",
        ((Call("price", {"item": "clock"}),), (Call("calculate", {"expression": "4 * 25"}),)),
    ),
    ("What is your name?", ()),
    ("The bench: how many have we got?", ((Call("stock", {"item": "bench"}),),)),
    (
        "Add 31 and 4; multiply 12 * 6 as well.",
        ((Call("calculate", {"expression": "31 + 4"}), Call("calculate", {"expression": "12 * 6"})),),
    ),
    (
        "3 times a mirror makes how many euros in all?",
        ((Call("price", {"item": "mirror"}),), (Call("calculate", {"expression": "3 * 55"}),)),
    ),
    ("Tell me a story.", ()),
    ("The desk is how many euros?", ((Call("price", {"item": "desk"}),),)),
    ("Shelf: its price. Chair: how many?", ((Call("price", {"item": "shelf"}), Call("stock", {"item": "chair"})),)),
    (
        "I take 6 of the stool, so the sum is?",
        ((Call("price", {"item": "stool"}),), (Call("calculate", {"expression": "6 * 18"}),)),
    ),
)


def examples() -> list[Request]:
    """Worked examples of all four kinds, for a prompt."""
    return [Request(text, _kind(rounds), rounds) for text, rounds in _EXAMPLES]


def _kind(rounds: tuple[tuple[Call, ...], ...]) -> Kind:
    if not rounds:
        return "none"
    return "sequential" if len(rounds) > 1 else "parallel" if len(rounds[0]) > 1 else "one"


def requests(
    count: int,
    seed: int = 0,
    kinds: Sequence[Kind] = ("none", "one", "parallel", "sequential"),
    exclude: Collection[str] = (),
) -> list[Request]:
    """`count` different requests, the kinds in turn, none in `exclude`. ValueError where there are not so many."""
    draw = random.Random(seed)
    made: dict[str, Request] = {}
    chats = [text for text in draw.sample(_CHAT, len(_CHAT)) if text not in exclude]
    for index in range(count):
        kind = kinds[index % len(kinds)]
        for _ in range(200):
            request = Request(chats.pop(), "none", ()) if kind == "none" and chats else _request(kind, draw)
            if request.text and request.text not in made and request.text not in exclude:
                break
        else:
            raise ValueError(f"there are not {count} different requests of the kinds {', '.join(kinds)}")
        made[request.text] = request
    return list(made.values())


def _request(kind: Kind, draw: random.Random) -> Request:
    item, other = draw.sample(sorted(PRICES), 2)
    note, n = draw.choice(sorted(NOTES)), draw.randint(2, 9)
    terms = [(draw.choice("+*"), draw.randint(11, 49), draw.randint(2, 49)) for _ in range(2)]
    written = [draw.choice(_SUMS[sign]).format(a=a, b=b) for sign, a, b in terms]
    sums = [Call("calculate", {"expression": f"{a} {sign} {b}"}) for sign, a, b in terms]
    fill = {"item": item, "other": other, "note": note, "n": n, "sum": written[0], "second": written[1]}
    its_price = Call("price", {"item": item})
    if kind == "none":
        return Request("", "none", ())
    if kind == "one":
        tool = draw.choice(sorted(_ONE))
        one = {"calculate": sums[0], "price": its_price, "stock": Call("stock", {"item": item})}
        call = one.get(tool, Call("read_note", {"name": note}))
        return Request(draw.choice(_ONE[tool]).format(**fill), kind, ((call,),))
    if kind == "parallel":
        which = draw.randrange(len(_PARALLEL))
        second = (Call("price", {"item": other}), Call("price", {"item": other}), Call("stock", {"item": other}))
        both = (its_price, second[which]) if which < 3 else (sums[0], its_price) if which == 3 else tuple(sums)
        return Request(_PARALLEL[which].format(**fill), kind, (both,))
    product = Call("calculate", {"expression": f"{n} * {PRICES[item]}"})
    return Request(draw.choice(_SEQUENTIAL).format(**fill), kind, ((its_price,), (product,)))
