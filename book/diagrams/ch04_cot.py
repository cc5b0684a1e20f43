"""Diagrams of section 4.2: where the serial computation goes, shapes of thought, a vote by hand, a picture.

What they state about sums and votes is recomputed by tests.
"""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

QUESTION = "What is 17 + 25 + 8?"

CHAINS = (
    ("17 + 8 = 25, 25 + 25 = 50, so 50.", 0.25),
    ("25 + 8 = 33, 33 + 17 = 50, so 50.", 0.20),
    ("17 + 25 = 42, 42 + 8 = 50, so 50.", 0.15),
    ("17 + 25 = 32, 32 + 8 = 40, so 40.", 0.30),
    ("25 + 8 = 32, 32 + 17 = 49, so 49.", 0.10),
)
"""The worked example of a vote: five chains and the probability of each."""

ROUNDS = (("What is 17 + 25 + 8?", "17 + 25 =", "42"), ("the same, and 42", "42 + 8 =", "50"))
"""What the layers read, up to which text, and what they write."""

LAYERS = 4


def answers() -> dict[str, float]:
    """Probability of each answer: the sum over its chains."""
    found: dict[str, float] = {}
    for chain, probability in CHAINS:
        name = chain.rsplit(" ", 1)[1].rstrip(".")
        found[name] = round(found.get(name, 0.0) + probability, 10)
    return found


# -- serial computation -----------------------------------------------------------------------------------------


def serial(narrow: bool = False) -> Diagram:
    """A direct answer passes the layers once, a chain once for every step."""
    d = sheet(
        "ch04_cot.serial",
        "Where the serial computation goes",
        f"Above: the question passes {LAYERS} layers; the answer 50 must be found in these {LAYERS} rounds. Below, a "
        f"chain: the question passes the {LAYERS} layers and 42 is written; 42 is read again at the bottom, passes the "
        f"{LAYERS} layers, and 50 is written. Two steps are {2 * LAYERS} rounds, and any number of steps can follow.",
        narrow,
    )
    if narrow:
        lane = d.lane(Rect(6, 6, 348, 110), f"**Direct:** {LAYERS} rounds", "reference")
        _round(d, lane.x, lane.y, (112, 86, 62), 56, (QUESTION, "", "50"), "?")
        lane = d.lane(Rect(6, 128, 348, 226), f"**Chain:** {LAYERS} rounds a step", "policy")
        y = lane.y
        before: Rect | None = None
        for read, upto, wrote in ROUNDS:
            first, last = _round(d, lane.x, y, (112, 86, 62), 68, (read, upto, wrote))
            if before is not None:
                middle = (before.y1 + first.y) / 2
                d.arrow((before.cx, before.y1), (before.cx, middle), (first.cx, middle), (first.cx, first.y))
            before = last
            y = first.y1 + 30
        d.height = 362
        return d
    lane = d.lane(Rect(20, 14, 350, 340), f"**Direct:** {LAYERS} rounds", "reference", note="whatever the question")
    _column(d, lane.x + 30, lane, 250, (QUESTION, "", "50"), "?")
    lane = d.lane(
        Rect(392, 14, 668, 340), f"**Chain:** {LAYERS} rounds for every step", "policy", note="written, and read again"
    )
    x, before = lane.x + 14, None
    for read, upto, wrote in ROUNDS:
        bottom, top = _column(d, x, lane, 236, (read, upto, wrote))
        if before is not None:
            middle = (before.x1 + bottom.x) / 2
            d.arrow((before.x1, before.cy), (middle, before.cy), (middle, bottom.cy), (bottom.x, bottom.cy))
        before = top
        x = bottom.x1 + 70
    assert before is not None
    d.text(before.x1 + 14, before.cy - d.size * 0.5, "…", color="muted")
    d.height = 368
    return d


def _said(d: Diagram, read: str, upto: str) -> list[Line]:
    return [Line(read.replace(" + ", "~+~"), d.small)] + ([Line(f"`{upto}`", d.small, "ink", 3)] if upto else [])


def _round(
    d: Diagram,
    x: float,
    y: float,
    widths: tuple[float, float, float],
    h: float,
    texts: tuple[str, str, str],
    mark: str = "",
) -> tuple[Rect, Rect]:
    """Input, layers and output in a row; returns the first and the last box."""
    read, upto, wrote = texts
    gap = 22.0
    first = d.box(x, y, widths[0], _said(d, read, upto), h=h, role="prompt", pad=5)
    middle = d.box(first.x1 + gap, y, widths[1], [f"{LAYERS} layers"], h=h, role="policy")
    last = d.box(
        middle.x1 + gap, y, widths[2], [Line(f"**{wrote}**{mark}")], h=h, role="reference" if mark else "chosen"
    )
    d.arrow(first.right, middle.left)
    d.arrow(middle.right, last.left)
    return first, last


def _column(
    d: Diagram, x: float, lane: Rect, w: float, texts: tuple[str, str, str], mark: str = ""
) -> tuple[Rect, Rect]:
    """The same from bottom to top; returns the lowest and the highest box."""
    read, upto, wrote = texts
    bottom = d.box(x, lane.y1 - 84, w, _said(d, read, upto), h=84, role="prompt")
    layers = d.box(x + 30, bottom.y - 76, w - 60, [f"{LAYERS} layers"], h=50, role="policy")
    role = "reference" if mark else "chosen"
    top = d.box(x + w / 2 - 50, layers.y - 76, 100, [Line(f"**{wrote}**{mark}")], h=50, role=role)
    d.arrow(bottom.top, layers.bottom)
    d.arrow(layers.top, top.bottom)
    return bottom, top


# -- shapes of thought ------------------------------------------------------------------------------------------

Node = tuple[float, float, str]
SHAPES: tuple[tuple[str, str, tuple[Node, ...], tuple[tuple[int, int], ...]], ...] = (
    ("Direct", "an answer, nothing else", ((0.5, 0.0, "prompt"), (0.5, 1.0, "chosen")), ((0, 1),)),
    (
        "Chain (CoT)",
        "one line of thoughts",
        ((0.5, 0.0, "prompt"), (0.5, 0.33, "policy"), (0.5, 0.67, "policy"), (0.5, 1.0, "chosen")),
        ((0, 1), (1, 2), (2, 3)),
    ),
    (
        "Self-consistency",
        "several chains, a vote",
        (
            (0.5, 0.0, "prompt"),
            *((x, y, "policy") for x in (0.08, 0.5, 0.92) for y in (0.33, 0.67)),
            (0.5, 1.0, "chosen"),
        ),
        ((0, 1), (1, 2), (0, 3), (3, 4), (0, 5), (5, 6), (2, 7), (4, 7), (6, 7)),
    ),
    (
        "Tree (ToT)",
        "propose, judge, keep the best",
        (
            (0.5, 0.0, "prompt"),
            (0.08, 0.33, "rejected"),
            (0.5, 0.33, "policy"),
            (0.92, 0.33, "rejected"),
            (0.25, 0.67, "policy"),
            (0.75, 0.67, "rejected"),
            (0.25, 1.0, "chosen"),
        ),
        ((0, 1), (0, 2), (0, 3), (2, 4), (2, 5), (4, 6)),
    ),
    (
        "Graph (GoT)",
        "take apart, solve, join",
        (
            (0.5, 0.0, "prompt"),
            (0.15, 0.33, "policy"),
            (0.85, 0.33, "policy"),
            (0.5, 0.67, "policy"),
            (0.5, 1.0, "chosen"),
        ),
        ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4)),
    ),
)
"""Name, what it does, nodes (x and y from 0 to 1, role) and edges."""


def thoughts(narrow: bool = False) -> Diagram:
    """Five shapes in which a model can think: question, thoughts, answer."""
    said = "; ".join(f"{name}: {what}" for name, what, _, _ in SHAPES)
    d = sheet(
        "ch04_cot.thoughts",
        "Five shapes of thought",
        f"Each shape is a graph from question (top) to answer (bottom). {said}. Only the graph lets two "
        "thoughts flow into one; only tree and graph judge thoughts before the answer stands.",
        narrow,
    )
    roles = [("prompt", "question"), ("policy", "thought"), ("rejected", "dropped"), ("chosen", "answer")]
    end = d.legend(10 if narrow else 24, 8 if narrow else 14, 340 if narrow else 1030, roles)
    if narrow:
        y = end.y1 + 24
        for name, what, nodes, edges in SHAPES:
            _shape(d, Rect(22, y, 104, 118), nodes, edges)
            d.text(154, y + 34, f"**{name}**")
            d.text(154, y + 56, what, size=d.small, color="muted", width=196)
            y += 162
        d.height = y - 26
        return d
    for place, (name, what, nodes, edges) in enumerate(SHAPES):
        x = 24 + place * 212
        _shape(d, Rect(x + 26, end.y1 + 34, 132, 220), nodes, edges)
        d.text(x + 92, end.y1 + 286, f"**{name}**", anchor="middle")
        d.text(x + 92, end.y1 + 314, what, size=d.small, color="muted", anchor="middle", width=196)
    d.height = end.y1 + 368
    return d


def _shape(d: Diagram, rect: Rect, nodes: tuple[Node, ...], edges: tuple[tuple[int, int], ...]) -> None:
    places = [(rect.x + x * rect.w, rect.y + y * rect.h) for x, y, _ in nodes]
    clear = 9.0 if d.narrow else 14.0
    for a, b in edges:
        (x0, y0), (x1, y1) = places[a], places[b]
        long = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        dx, dy = (x1 - x0) / long * clear, (y1 - y0) / long * clear
        d.arrow((x0 + dx, y0 + dy), (x1 - dx, y1 - dy), role="rejected" if nodes[b][2] == "rejected" else "muted")
    for (x, y), (_, _, role) in zip(places, nodes, strict=True):
        d.dot(x, y, role)


# -- a vote -----------------------------------------------------------------------------------------------------


def vote(narrow: bool = False) -> Diagram:
    """Five chains, three answers: the likeliest chain and the likeliest answer are not the same."""
    shares = answers()
    best = max(CHAINS, key=lambda one: one[1])
    said = "; ".join(f"{chain} with probability {p:.2f}" for chain, p in CHAINS)
    d = sheet(
        "ch04_cot.vote",
        "Chains are summed, answers win",
        f"Five chains for {QUESTION} {said}. Summed by answer: "
        + ", ".join(f"{name} has {share:.2f}" for name, share in shares.items())
        + f". The likeliest single chain, {best[1]:.2f}, ends in a wrong answer.",
        narrow,
    )
    width, h, gap = (210.0, 46.0, 8.0) if narrow else (500.0, 54.0, 14.0)
    left, answer_x, answer_w = (8.0, 256.0, 96.0) if narrow else (20.0, 690.0, 360.0)
    head = d.text(left, 8 if narrow else 14, "**Chains**, probability of each")
    y = head.y1 + (10 if narrow else 14)
    names = list(shares)
    boxes: dict[str, list[Rect]] = {name: [] for name in names}
    for chain, probability in CHAINS:
        name = chain.rsplit(" ", 1)[1].rstrip(".")
        role = "chosen" if name == "50" else "rejected"
        text = f"{chain} **{probability:.2f}**" if not narrow else f"{chain.split(', so')[0]} **{probability:.2f}**"
        size = d.small
        boxes[name].append(d.box(left, y, width, [Line(text, size)], h=h, role=role, pad=5 if narrow else None))
        y += h + gap
    for name in names:
        rows = boxes[name]
        top, bottom = rows[0].y, rows[-1].y1
        parts = " + ".join(f"{p:.2f}" for chain, p in CHAINS if chain.endswith(f" {name}."))
        role = "chosen" if name == "50" else "rejected"
        summed = f"{parts} = **{shares[name]:.2f}**" if len(rows) > 1 and not narrow else f"**{shares[name]:.2f}**"
        content = [Line(f"answer **{name}**" if not narrow else f"**{name}**"), Line(summed, d.small, "ink", 3)]
        if len(rows) == 1:
            content = [
                Line(f"answer **{name}:** {shares[name]:.2f}" if not narrow else f"**{name}:** {shares[name]:.2f}")
            ]
        high = max(66.0, min(bottom - top, 90.0)) if not narrow else max(46.0, min(bottom - top, 60.0))
        middle = (top + bottom) / 2
        high = high if len(rows) > 1 else bottom - top
        box = d.box(answer_x, middle - high / 2, answer_w, content, h=high, role=role, pad=3)
        for row, at in zip(rows, _spread(box, len(rows)), strict=True):
            bend = (row.x1 + box.x) / 2
            if abs(row.cy - at) < 1:
                d.arrow((row.x1, row.cy), (box.x, row.cy), role=role)
            else:
                d.arrow((row.x1, row.cy), (bend, row.cy), (bend, at), (box.x, at), role=role)
    d.height = y + 4
    return d


def _spread(box: Rect, count: int) -> list[float]:
    """Heights at which so many arrows end on a box, apart from one another."""
    step = box.h / (count + 1)
    return [box.y + step * (place + 1) for place in range(count)]


# -- thoughts about a picture -----------------------------------------------------------------------------------

PLATES = (5, 3)
RATIONALE = (
    f"Left there are {PLATES[0]} apples, right {PLATES[1]}. {PLATES[0]} − {PLATES[1]} = {PLATES[0] - PLATES[1]}."
)
BLIND = "Left there are 6 apples, right 3. 6 − 3 = 3."


def picture(narrow: bool = False) -> Diagram:
    """Multimodal chain of thought in two stages, both of which see the picture."""
    d = sheet(
        "ch04_cot.picture",
        "Chain of thought about a picture, in two stages",
        f"A picture of two plates with {PLATES[0]} and {PLATES[1]} apples; how many more are on the left? "
        f"Stage 1 reads picture and question and writes a rationale: {RATIONALE} Stage 2 reads picture, question and "
        f"rationale and writes the answer {PLATES[0] - PLATES[1]}. A first stage that does not see the picture writes "
        f"something plausible instead: {BLIND}",
        narrow,
    )
    question = "How many more apples are on the left plate?"
    answer = f"**{PLATES[0] - PLATES[1]}**"
    if narrow:
        image = _plates(d, Rect(30, 10, 300, 84))
        asked = d.box(30, image.y1 + 12, 300, [question], role="prompt")
        one = d.box(90, asked.y1 + 26, 180, [Line("**Stage 1:** rationale")], role="policy")
        thought = d.box(30, one.y1 + 26, 300, [Line(RATIONALE, d.small)], role="value")
        two = d.box(90, thought.y1 + 26, 180, [Line("**Stage 2:** answer")], role="policy")
        said = d.box(140, two.y1 + 26, 80, [answer], role="chosen")
        d.arrow(asked.bottom, one.top)
        d.arrow(one.bottom, thought.top)
        d.arrow(thought.bottom, two.top)
        d.arrow(two.bottom, said.top)
        d.arrow((image.x1, image.cy), (346, image.cy), (346, two.cy), (two.x1, two.cy), role="prompt")
        note = d.note(
            14,
            said.y1 + 20,
            332,
            [Line("**Stage 1 without the picture**", d.small, "rejected"), Line(BLIND, d.small, "muted", 3)],
            role="rejected",
        )
        d.height = note.y1 + 12
        return d
    image = _plates(d, Rect(20, 20, 280, 130))
    asked = d.box(20, 184, 280, [question], h=84, role="prompt")
    one = d.box(370, 184, 150, [Line("**Stage 1**"), Line("rationale", d.small, "muted")], h=84, role="policy")
    thought = d.box(
        570, 166, 216, [Line(RATIONALE.replace(" − ", "~−~").replace(" = ", "~=~"), d.small)], h=120, role="value"
    )
    two = d.box(836, 184, 120, [Line("**Stage 2**"), Line("answer", d.small, "muted")], h=84, role="policy")
    said = d.box(1004, 196, 56, [answer], h=60, role="chosen")
    for a, b in ((asked, one), (one, thought), (thought, two), (two, said)):
        d.arrow((a.x1, 226), (b.x, 226))
    d.arrow((image.x1, 66), (two.cx, 66), (two.cx, two.y), role="prompt")
    d.arrow((image.x1, 110), (one.cx, 110), (one.cx, one.y), role="prompt")
    d.text(470, 78, "the picture's features go into both stages", size=d.small, color="muted")
    note = d.note(
        370,
        326,
        690,
        [
            Line("**Stage 1 without the picture:** plausible, and invented", d.small, "rejected"),
            Line(BLIND, d.small, "muted", 4),
        ],
        role="rejected",
    )
    d.height = note.y1 + 20
    return d


def _plates(d: Diagram, rect: Rect) -> Rect:
    """Two plates with apples."""
    d.boxes.append(rect)
    d.rect(rect, "prompt")
    half = rect.w / 2
    for place, count in enumerate(PLATES):
        plate = Rect(rect.x + place * half, rect.y, half, rect.h).grown(-10 if d.narrow else -14)
        d.rect(plate, "reference", fill="panel", radius=plate.h / 2)
        rows = [min(3, count), max(0, count - 3)]
        for row, number in enumerate(rows):
            for column in range(number):
                x = plate.cx + (column - (number - 1) / 2) * plate.w * 0.2
                y = plate.cy + ((row - 0.5) if rows[1] else 0.0) * plate.h * 0.36
                d.dot(x, y, "rejected")
    return rect
