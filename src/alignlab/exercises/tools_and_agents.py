"""Exercises of the lab ch04_tools_and_agents: allowed tokens, checked arguments, rounds, when to stop, a reply."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from alignlab.exercises import Exercise, Mistake, Wrong, require

END = 0
VOCABULARY = {
    "p": 1,
    "pr": 2,
    "price": 3,
    "ice": 4,
    "s": 5,
    "stock": 6,
    "st": 7,
    "o": 8,
    "ock": 9,
    "price(": 10,
    "(": 11,
}
"""A vocabulary of eleven tokens; 0 is the end token."""

SCHEMA = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "enum": ["lamp", "sofa"]},
        "count": {"type": "integer"},
        "note": {"type": "string"},
    },
    "required": ["item", "count"],
}


# ---- solutions
def allowed(written: str, alternatives: list[str], vocabulary: dict[str, int], end: int) -> set[int]:
    """Every token that is a beginning of what is left of an alternative; the end where nothing is left."""
    ids = set()
    for alternative in alternatives:
        if alternative.startswith(written):
            rest = alternative[len(written) :]
            ids |= {vocabulary[rest[:k]] for k in range(1, len(rest) + 1) if rest[:k] in vocabulary}
            ids |= {end} if not rest else set()
    return ids


def faults(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Names that are missing, unknown, of the wrong type or not among the choices. A bool is an int in Python."""
    types = {"string": str, "integer": int}
    wrong = set(schema["required"]) - set(arguments)
    for name, value in arguments.items():
        one = schema["properties"].get(name)
        right = one is not None and isinstance(value, types[one["type"]]) and not isinstance(value, bool)
        if not right or value not in one.get("enum", [value]):
            wrong.add(name)
    return wrong


def rounds(needs: dict[str, set[str]]) -> list[set[str]]:
    """In each round everything whose needs are met; nothing new means that calls wait for one another."""
    done: set[str] = set()
    planned = []
    while len(done) < len(needs):
        ready = {call for call, needed in needs.items() if call not in done and needed <= done}
        if not ready:
            raise ValueError("calls wait for one another")
        planned.append(ready)
        done |= ready
    return planned


def stop(steps: list[tuple[str, str]], limit: int) -> str:
    """Steps are (action, observation): the same action with the same outcome will not do better the third time."""
    if steps and steps[-1][0].startswith("finish"):
        return "finished"
    if len(steps) >= 2 and steps[-1] == steps[-2]:
        return "repeats"
    return "limit" if len(steps) >= limit else ""


def reply(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> dict[str, Any] | None:
    """A notification has no id and gets no reply; a tool that fails is a result, an unknown method an error."""
    if "id" not in message:
        return None
    base = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/list":
        return {**base, "result": {"tools": [{"name": name} for name in tools]}}
    if message["method"] != "tools/call":
        return {**base, "error": {"code": -32601, "message": "Method not found"}}
    try:
        text, failed = str(tools[message["params"]["name"]](**message["params"]["arguments"])), False
    except Exception as error:
        text, failed = str(error), True
    return {**base, "result": {"content": [{"type": "text", "text": text}], "isError": failed}}


# ---- wrong answers
def longest_token_only(written: str, alternatives: list[str], vocabulary: dict[str, int], end: int) -> set[int]:
    ids = set()
    for alternative in alternatives:
        if alternative.startswith(written):
            rest = alternative[len(written) :]
            found = [rest[:k] for k in range(1, len(rest) + 1) if rest[:k] in vocabulary]
            ids |= {vocabulary[found[-1]]} if found else {end}
    return ids


def never_ends(written: str, alternatives: list[str], vocabulary: dict[str, int], end: int) -> set[int]:
    return allowed(written, alternatives, vocabulary, end) - {end}


def overshoots(written: str, alternatives: list[str], vocabulary: dict[str, int], end: int) -> set[int]:
    rests = [one[len(written) :] for one in alternatives if one.startswith(written)]
    longer = {i for token, i in vocabulary.items() for rest in rests if rest and token.startswith(rest)}
    return allowed(written, alternatives, vocabulary, end) | longer


def forgets_written(written: str, alternatives: list[str], vocabulary: dict[str, int], end: int) -> set[int]:
    rests = [one[len(written) :] for one in alternatives]
    return set().union(*(allowed("", [rest], vocabulary, end) for rest in rests))


def bools_count(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    plain = {name: int(value) if isinstance(value, bool) else value for name, value in arguments.items()}
    return faults(plain, schema)


def unknown_is_fine(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    return faults({name: value for name, value in arguments.items() if name in schema["properties"]}, schema)


def missing_is_fine(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    return faults(arguments, {**schema, "required": []})


def all_are_required(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    return faults(arguments, {**schema, "required": list(schema["properties"])})


def choices_ignored(arguments: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    loose = copy.deepcopy(schema)
    loose["properties"]["item"].pop("enum")
    return faults(arguments, loose)


def one_after_the_other(needs: dict[str, set[str]]) -> list[set[str]]:
    return [{call} for ready in rounds(needs) for call in sorted(ready)]


def all_at_once(needs: dict[str, set[str]]) -> list[set[str]]:
    return [set(needs)]


def as_late_as_possible(needs: dict[str, set[str]]) -> list[set[str]]:
    users = {call: {other for other, needed in needs.items() if call in needed} for call in needs}
    return rounds(users)[::-1]


def cycles_are_dropped(needs: dict[str, set[str]]) -> list[set[str]]:
    try:
        return rounds(needs)
    except ValueError:
        return []


def limit_only(steps: list[tuple[str, str]], limit: int) -> str:
    told = stop(steps, limit)
    return "limit" if told == "repeats" and len(steps) >= limit else "" if told == "repeats" else told


def any_repeated_action(steps: list[tuple[str, str]], limit: int) -> str:
    if len(steps) >= 2 and steps[-1][0] == steps[-2][0] and not steps[-1][0].startswith("finish"):
        return "repeats"
    return stop(steps, limit)


def name_of_the_tool(steps: list[tuple[str, str]], limit: int) -> str:
    short = [(action.partition("(")[0], seen) for action, seen in steps]
    return stop(short, limit)


def one_step_too_many(steps: list[tuple[str, str]], limit: int) -> str:
    return stop(steps, limit + 1)


def answers_notifications(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> dict[str, Any] | None:
    return reply({"id": None, **message}, tools)


def tool_failure_is_protocol_error(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> Any:
    made = reply(message, tools)
    if made and made.get("result", {}).get("isError"):
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32603, "message": "Internal error"}}
    return made


def failure_not_marked(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> Any:
    made = reply(message, tools)
    if made and made.get("result", {}).get("isError"):
        made["result"]["isError"] = False
    return made


def forgets_id(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> Any:
    made = reply(message, tools)
    return made and {key: value for key, value in made.items() if key != "id"}


def unknown_method_is_a_result(message: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> Any:
    made = reply(message, tools)
    if made and "error" in made:
        text = made["error"]["message"]
        return {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [text], "isError": True}}
    return made


# ---- graders
def _known(got: Any, want: Any, mistakes: dict[str, Any], what: str) -> None:
    """Raises the message of the mistake that gives `got`, or says what was wanted."""
    for message, value in mistakes.items():
        if got == value and value != want:
            raise Mistake(message)
    require(got == want, f"{what} is {got!r}; it should be {want!r}.")


def _grade_allowed(answer: Callable[..., Any]) -> None:
    for written, alternatives in (("", ["price", "stock"]), ("p", ["price", "so"]), ("price", ["price", "price("])):
        given = written, alternatives, VOCABULARY, END
        mistakes = {
            "One token for each alternative is too few: the model may spell a text in any of its tokens.": (
                longest_token_only(*given)
            ),
            "The end is missing: where an alternative is complete, the model must be able to stop.": never_ends(*given),
            "A token that is longer than what is left would write more than any alternative holds.": overshoots(*given),
            "You went on with alternatives that do not begin with what is already written.": forgets_written(*given),
        }
        got = answer(written, list(alternatives), dict(VOCABULARY), END)
        require(got is not None, "your answer is None: is a `return` missing?")
        _known(set(got), allowed(*given), mistakes, f"your set after {written!r}")


def _grade_faults(answer: Callable[..., Any]) -> None:
    cases: list[dict[str, Any]] = [
        {"item": "lamp", "count": 3},
        {"item": "lamp", "count": True},
        {"item": "lamp", "count": 3, "sudo": "yes"},
        {"item": "lamp"},
        {"item": "lamps", "count": 3},
        {"item": "lamp", "count": "3"},
        {"item": ["lamp"], "count": 3, "note": 5},
    ]
    for arguments in cases:
        mistakes = {
            "True is an instance of int in Python, but no JSON integer.": bools_count(arguments, SCHEMA),
            "An argument that the schema does not name must be a fault: nobody has thought about it.": unknown_is_fine(
                arguments, SCHEMA
            ),
            "A required argument that is not there is a fault too.": missing_is_fine(arguments, SCHEMA),
            "Only the arguments in `required` must be there; `note` may be left out.": all_are_required(
                arguments, SCHEMA
            ),
            "The choices in `enum` are not looked at.": choices_ignored(arguments, SCHEMA),
        }
        got = answer(dict(arguments), copy.deepcopy(SCHEMA))
        require(got is not None, "your answer is None: is a `return` missing?")
        _known(set(got), faults(arguments, SCHEMA), mistakes, f"your set for {arguments}")


def _grade_rounds(answer: Callable[..., Any]) -> None:
    plans: list[dict[str, set[str]]] = [
        {"lamp": set(), "sofa": set(), "total": {"lamp", "sofa"}, "note": set()},
        {"a": set(), "b": {"a"}, "c": {"b"}},
    ]
    for needs in plans:
        mistakes = {
            "One call a round is right but slow: what does not wait for anything can run together.": (
                one_after_the_other(needs)
            ),
            "A call that needs another's result cannot run in the same round.": all_at_once(needs),
            "You plan backwards, as late as possible; the task asks for as early as possible.": as_late_as_possible(
                needs
            ),
        }
        got = answer(copy.deepcopy(needs))
        require(got is not None, "your answer is None: is a `return` missing?")
        _known([set(one) for one in got], rounds(needs), mistakes, "your plan")
    try:
        got = answer({"a": {"b"}, "b": {"a"}})
    except ValueError:
        return
    raise Mistake(f"Two calls that wait for each other must raise a ValueError; yours returned {got!r}.")


def _grade_stop(answer: Callable[..., Any]) -> None:
    cases = [
        ([], 3),
        ([("price(lamp)", "12")], 3),
        ([("price(x)", "no such item"), ("price(x)", "no such item")], 5),
        ([("poll(job)", "running"), ("poll(job)", "done")], 5),
        ([("price(x)", "no such item"), ("price(y)", "no such item")], 5),
        ([("a(1)", "1"), ("b(1)", "2"), ("c(1)", "3")], 3),
        ([("a(1)", "1"), ("finish(42)", "")], 2),
    ]
    for steps, limit in cases:
        mistakes = {
            "Two equal steps one after the other are not noticed: the loop goes on to its limit.": limit_only(
                steps, limit
            ),
            "The same action with another observation is progress (polling a job, say): compare both.": (
                any_repeated_action(steps, limit)
            ),
            "You compare the tool alone; another argument is another action.": name_of_the_tool(steps, limit),
            "After `limit` steps it is over; yours allows one more.": one_step_too_many(steps, limit),
        }
        got = answer(list(steps), limit)
        require(got is not None, "your answer is None: is a `return` missing?")
        _known(got, stop(steps, limit), mistakes, f"your word on {steps} with limit {limit}")


def _broken(**_: Any) -> str:
    raise LookupError("no such item")


def _grade_reply(answer: Callable[..., Any]) -> None:
    tools: dict[str, Callable[..., Any]] = {"add": lambda a, b: a + b, "price": _broken}
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 17, "b": 25}}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "price", "arguments": {"item": "x"}}},
        {"jsonrpc": "2.0", "id": "four", "method": "tools/destroy"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]
    for message in messages:
        mistakes = {
            "A message without an id is a notification: nobody waits for a reply, so none is sent.": (
                answers_notifications(message, tools)
            ),
            "A tool that fails is a result with isError true: the model shall read it and try again.": (
                tool_failure_is_protocol_error(message, tools)
            ),
            "The failure is not marked: isError must be true, or the text passes for a result.": failure_not_marked(
                message, tools
            ),
            "The id is missing: with several requests under way, the client cannot tell whose reply this is.": (
                forgets_id(message, tools)
            ),
            "An unknown method is an error of the protocol (code -32601), not a tool's result.": (
                unknown_method_is_a_result(message, tools)
            ),
        }
        got = answer(copy.deepcopy(message), dict(tools))
        _known(got, reply(message, tools), mistakes, f"your reply to {message['method']}")


EXERCISES = [
    Exercise(
        name="tools_and_agents.allowed",
        task="Give the ids of all tokens with which the text `written` can be continued towards one of the "
        "`alternatives`, and `end` where an alternative is complete.",
        difficulty=2,
        minutes=8,
        grade=_grade_allowed,
        solution=allowed,
        wrong=[
            Wrong(longest_token_only, "any of its tokens"),
            Wrong(never_ends, "able to stop"),
            Wrong(overshoots, "longer than what is left"),
            Wrong(forgets_written, "do not begin with"),
        ],
        hint="For each alternative that starts with `written`, look at every beginning of what is left.",
    ),
    Exercise(
        name="tools_and_agents.faults",
        task="Give the names of the arguments that are wrong under a flat JSON schema of strings and integers: "
        "missing, unknown, of the wrong type, or not among the choices.",
        difficulty=1,
        minutes=6,
        grade=_grade_faults,
        solution=faults,
        wrong=[
            Wrong(bools_count, "no JSON integer"),
            Wrong(unknown_is_fine, "nobody has thought about it"),
            Wrong(missing_is_fine, "not there is a fault"),
            Wrong(all_are_required, "may be left out"),
            Wrong(choices_ignored, "not looked at"),
        ],
        hint="Start with `set(required) - set(arguments)`, then go through the arguments that were given.",
    ),
    Exercise(
        name="tools_and_agents.rounds",
        task="`needs` maps each call to the calls whose results it needs. Plan rounds of calls that can run at the "
        "same time, each as early as possible; ValueError if calls wait for one another.",
        difficulty=2,
        minutes=8,
        grade=_grade_rounds,
        solution=rounds,
        wrong=[
            Wrong(one_after_the_other, "right but slow"),
            Wrong(all_at_once, "in the same round"),
            Wrong(as_late_as_possible, "as late as possible"),
            Wrong(cycles_are_dropped, "must raise a ValueError"),
        ],
        hint="A round is everything that is not done and whose needs are a subset of what is done.",
    ),
    Exercise(
        name="tools_and_agents.stop",
        task="Say whether an agent's loop is over, from its steps (action, observation): `finished` after a finish "
        "action, `repeats` if its last two steps are equal, `limit` after `limit` steps, else an empty string.",
        difficulty=1,
        minutes=5,
        grade=_grade_stop,
        solution=stop,
        wrong=[
            Wrong(limit_only, "not noticed"),
            Wrong(any_repeated_action, "compare both"),
            Wrong(name_of_the_tool, "another argument is another action"),
            Wrong(one_step_too_many, "allows one more"),
        ],
        hint="Ask in this order: finished, repeats, limit.",
    ),
    Exercise(
        name="tools_and_agents.reply",
        task="Write the server's side of MCP for `tools/list` and `tools/call`: the JSON-RPC reply to a message, or "
        "None where there is none.",
        difficulty=3,
        minutes=12,
        grade=_grade_reply,
        solution=reply,
        wrong=[
            Wrong(answers_notifications, "nobody waits"),
            Wrong(tool_failure_is_protocol_error, "read it and try again"),
            Wrong(failure_not_marked, "not marked"),
            Wrong(forgets_id, "whose reply"),
            Wrong(unknown_method_is_a_result, "error of the protocol"),
        ],
        hint="Three outcomes: no reply to a notification, `error` for an unknown method, `result` for all else.",
    ),
]
