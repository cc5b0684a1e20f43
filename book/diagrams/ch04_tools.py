"""Diagrams of section 4.5: the loop of a call, the four kinds, the gates a call passes, and MCP's messages.

The strings shown are those of the page's worked example; tests parse, check and run them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

REQUEST = "What is 17 + 25?"
CALL = '{"name": "calculate", "arguments": {"expression": "17 + 25"}}'
RESULT = "42"
ANSWER = "17 + 25 = 42."

# -- loop -------------------------------------------------------------------------------------------------------

STEPS = (
    ("value", "Program", "**1** turns functions into schemas", "prompt", "system", "tools: calculate, price, …"),
    ("prompt", "User", "**2** asks", "prompt", "user", REQUEST),
    ("policy", "Model", "**3** writes a call", "policy", "assistant", ""),
    ("value", "Program", "**4** parses, checks, runs", "value", "tool", RESULT),
    ("policy", "Model", "**5** reads the result, then answers or calls again", "policy", "assistant", ANSWER),
)
"""Who acts, what they do, and the message that this adds to the context. The third message is CALL."""


def loop(narrow: bool = False) -> Diagram:
    """Function calling end to end: five steps, and the message that each adds to the context."""
    d = sheet(
        "ch04_tools.loop",
        "Function calling, end to end",
        f"Five steps, each adding a message to the context. 1: the program turns functions into schemas. 2: the user "
        f"asks: {REQUEST} 3: the model writes a call, {CALL} 4: the program parses it, checks its name against an "
        f"allow-list and its arguments against the schema, runs the function in a process with a deadline, and "
        f"appends the result, {RESULT}, or an error. 5: the model reads the result and answers, {ANSWER} or goes back "
        "to step 3 with another call. The model itself runs nothing.",
        narrow,
    )
    if narrow:
        return _loop_narrow(d)
    left, middle = 60.0, 470.0
    d.text(left, 14, "**Who does what**", color="muted")
    d.text(middle, 14, "**The context**, message after message", color="muted")
    y, actors = 56.0, list[Rect]()
    for index, (role, who, does, of, name, said) in enumerate(STEPS):
        lines = [Line(f"`{name}`", d.small, "muted")]
        if index == 2:
            lines += [
                Line('`{"name": "calculate",`', d.small),
                Line('`"arguments": {"expression": "17 + 25"}}`', d.small),
            ]
        else:
            lines.append(Line(said if index == 0 else f"`{said}`", d.small))
        high = 108 if index in (2, 4) else 84
        actor = d.box(left, y, 330, [Line(f"**{who}**", color=role), Line(does, d.small)], role=role, h=high)
        message = d.box(middle, y, 560, lines, role=of, align="start", h=high)
        d.arrow(actor.right, (message.x - 2, actor.cy), role=role)
        actors.append(actor)
        y = actor.y1 + 22
    for first, second in pairwise(actors):
        d.arrow(first.bottom, (second.cx, second.y - 2))
    again = 26.0
    d.arrow(actors[4].left, (again, actors[4].cy), (again, actors[2].cy), (left - 2, actors[2].cy), role="policy")
    d.height = actors[-1].y1 + 14
    return d


def _loop_narrow(d: Diagram) -> Diagram:
    y = 8.0
    boxes: list[Rect] = []
    for index, (role, who, does, _, name, said) in enumerate(STEPS):
        lines = [Line(f"**{index + 1} {who}** {does.partition(' ')[2]}")]
        if index == 2:
            lines += [
                Line(f"`{name}`", d.small, "muted", 3),
                Line('`{"name": "calculate",`', d.small),
                Line('`"arguments":`', d.small),
                Line('`{"expression": "17 + 25"}}`', d.small),
            ]
        else:
            lines += [Line(f"`{name}`", d.small, "muted", 3), Line(said if index == 0 else f"`{said}`", d.small)]
        box = d.box(34, y, 318, lines, role=role, align="start")
        boxes.append(box)
        y = box.y1 + 20
    for first, second in pairwise(boxes):
        d.arrow(first.bottom, (second.cx, second.y - 1))
    d.arrow(boxes[4].left, (14, boxes[4].cy), (14, boxes[2].cy), (33, boxes[2].cy), role="policy")
    d.height = y - 12
    return d


# -- kinds ------------------------------------------------------------------------------------------------------

KINDS = (
    ("None", "Who are you?", ("model",)),
    ("One", "What does a lamp cost?", ("model", "price(lamp)", "model")),
    ("Parallel", "What do a lamp and a sofa cost?", ("model", ("price(lamp)", "price(sofa)"), "model")),
    (
        "Sequential",
        "What do 3 lamps cost?",
        ("model", "price(lamp)", "model", "calculate(3 * 12)", "model"),
    ),
)
"""Kind, request, and what happens one after the other; a pair happens at the same time."""


def kinds(narrow: bool = False) -> Diagram:
    """Four kinds of function calling as time lines of model turns and tools."""
    said = "; ".join(
        f"{kind}: {request} takes {sum(step == 'model' for step in steps)} model turns"
        + (f" and {', then '.join(_words(step) for step in steps if step != 'model')}" if len(steps) > 1 else "")
        for kind, request, steps in KINDS
    )
    d = sheet("ch04_tools.kinds", "Four kinds of function calling", f"Time runs to the right. {said}.", narrow)
    y = 10.0
    for kind, request, steps in KINDS:
        head = d.text(10, y, f"**{kind}.** {request}", width=340 if narrow else 1040)
        y = head.y1 + (8 if narrow else 12)
        y = _line_of_time(d, y, steps) + (22 if narrow else 30)
    d.height = y - 8
    return d


def _words(step: str | tuple[str, ...]) -> str:
    return step if isinstance(step, str) else " beside ".join(step)


def _line_of_time(d: Diagram, y: float, steps: tuple[str | tuple[str, ...], ...]) -> float:
    """One time line; returns where it ends below. Narrow drawings run downwards."""
    high = d.size * 1.9
    if d.narrow:
        last: Rect | None = None
        for step in steps:
            cells = step if isinstance(step, tuple) else (step,)
            wide = (344 - 8 * (len(cells) - 1)) / len(cells)
            row = [Rect(8 + index * (wide + 8), y, wide, high) for index in range(len(cells))]
            for rect, cell in zip(row, cells, strict=True):
                d.cell(rect, cell, "policy" if cell == "model" else "value", mono=cell != "model")
            y, last = row[0].y1 + 5, row[0]
        return last.y1 if last else y
    x, gap = 20.0, 30.0
    tall = high * 2 + 8 if any(isinstance(step, tuple) for step in steps) else high
    before: Rect | None = None
    for step in steps:
        cells = step if isinstance(step, tuple) else (step,)
        wide = 120.0 if step == "model" else 238.0
        top = y + (tall - high * len(cells) - 8 * (len(cells) - 1)) / 2
        for index, cell in enumerate(cells):
            rect = Rect(x, top + index * (high + 8), wide, high)
            d.cell(rect, cell, "policy" if cell == "model" else "value", mono=cell != "model")
        around = Rect(x, y, wide, tall)
        if before is not None:
            d.arrow((before.x1 + 3, around.cy), (around.x - 3, around.cy))
        before, x = around, x + wide + gap
    return y + tall


# -- gates ------------------------------------------------------------------------------------------------------

GATES = (
    ("Constraint", "the text is calls in the right form", "prose, broken JSON, unknown names"),
    ("Parser", "one reading only", "duplicate keys, NaN, text beside the call"),
    ("Allow-list", "the name is one of yours", "`os.system`, `__import__`"),
    ("Schema", "types, choices, no extra arguments", '["lamp"], "lamps", "sudo": true'),
    ("Consent", "the user agrees to what changes things", "send_message, asked for by a note"),
    ("The tool", "its own limits on values", "`../secret`, a power of a power"),
    ("Process", "deadline, memory, size of the result", "a loop, a crash, 10 MB"),
)
"""Gates in the order a call passes them: name, what passes, what is stopped there."""


def gates(narrow: bool = False) -> Diagram:
    """What a call passes before its result reaches the model, and what each gate stops."""
    listed = "; ".join(f"{name}: {passes}, stops {stops.replace('`', '')}" for name, passes, stops in GATES)
    d = sheet(
        "ch04_tools.gates",
        "Seven gates between the model's text and an effect",
        f"A call passes seven gates, from the model's text at the top to the result at the bottom. {listed}.",
        narrow,
    )
    y = 8.0
    boxes: list[Rect] = []
    start = d.box(8 if narrow else 60, y, 344 if narrow else 420, ["What the model wrote"], role="policy")
    boxes.append(start)
    y = start.y1 + (18 if narrow else 20)
    for name, passes, stops in GATES:
        if narrow:
            lines = [Line(f"**{name}:** {passes}"), Line(f"stops {stops}", d.small, "rejected", 3)]
            box = d.box(8, y, 344, lines, role="value", align="start")
        else:
            box = d.box(60, y, 420, [Line(f"**{name}**", color="value"), Line(passes, d.small)], role="value")
            d.arrow((box.x1, box.cy), (box.x1 + 60, box.cy), role="rejected")
            d.text(box.x1 + 74, box.cy - d.small * 0.55, stops, size=d.small, color="rejected")
        boxes.append(box)
        y = box.y1 + (18 if narrow else 20)
    boxes.append(
        d.box(8 if narrow else 60, y, 344 if narrow else 420, ["A result, or an error in words"], role="chosen")
    )
    for first, second in pairwise(boxes):
        d.arrow((first.cx, first.y1 + 1), (second.cx, second.y - 1))
    d.height = boxes[-1].y1 + 10
    return d


# -- MCP --------------------------------------------------------------------------------------------------------

OLD = (
    ("initialize", "version, capabilities, who I am"),
    (None, "the same of the server"),
    ("notifications/initialized", "no answer"),
    ("tools/list", ""),
    (None, "names, descriptions, schemas"),
    ("tools/call", "name, arguments"),
    (None, "content, isError"),
)
NEW = (
    ("server/discover", "if the client wants to ask"),
    (None, "versions, capabilities"),
    ("tools/list", "version and capabilities in _meta"),
    (None, "names, descriptions, schemas"),
    ("tools/call", "name, arguments, _meta"),
    (None, "content, isError, resultType"),
)
"""Messages of two generations of MCP: a method from the client, or None for the server's answer; what it carries."""


def mcp(narrow: bool = False) -> Diagram:
    """Messages between an MCP client and a server, in the handshake revisions and in the stateless one."""

    def told(messages: tuple[tuple[str | None, str], ...]) -> str:
        return "; ".join(
            f"{'client' if name else 'server'}: {name or 'result'} ({what or 'nothing'})" for name, what in messages
        )

    d = sheet(
        "ch04_tools.mcp",
        "The messages of the Model Context Protocol",
        "Left the application that holds the model, with an MCP client; right the server, a process of its own with "
        f"the tools. Revisions up to 2025-11-25 open a session: {told(OLD)}. Revision 2026-07-28 has no session: "
        f"{told(NEW)}.",
        narrow,
    )
    if narrow:
        end = _sequence(d, Rect(8, 8, 344, 0), "**Up to 2025-11-25:** a session", OLD)
        d.height = _sequence(d, Rect(8, end + 22, 344, 0), "**From 2026-07-28:** no session", NEW) + 10
        return d
    ends = [
        _sequence(d, Rect(20, 12, 500, 0), "**Up to 2025-11-25:** a session", OLD),
        _sequence(d, Rect(560, 12, 500, 0), "**From 2026-07-28:** no session", NEW),
    ]
    d.height = max(ends) + 12
    return d


def _sequence(d: Diagram, place: Rect, title: str, messages: tuple[tuple[str | None, str], ...]) -> float:
    """A sequence of messages between two life lines; returns where it ends."""
    head = d.text(place.x, place.y, title)
    wide = place.w * 0.44
    client = d.box(place.x, head.y1 + 8, wide, [Line("Client, in the app with the model", d.small)], role="policy")
    server = d.box(
        place.x1 - wide, head.y1 + 8, wide, [Line("Server, a process with tools", d.small)], role="value", h=client.h
    )
    left, right = place.x + 10, place.x1 - 10
    y = client.y1 + (10 if d.narrow else 16)
    top = y
    for name, what in messages:
        label = f"`{name}`" if name else what
        text = d.text(left + 12, y, label, size=d.small, color="ink" if name else "value")
        bottom = text.y1
        if name and what:
            bottom = d.text(left + 12, text.y1 + 3, what, size=d.small, color="muted").y1
        y = bottom + (7 if d.narrow else 10)
        ends = ((left, y), (right, y)) if name else ((right, y), (left, y))
        d.arrow(*ends, role="policy" if name else "value")
        y += 10 if d.narrow else 16
    d.line((left - 4, top - 4), (left - 4, y), role="policy")
    d.line((right + 4, top - 4), (right + 4, y), role="value")
    del server
    return y
