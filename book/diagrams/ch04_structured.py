"""Diagrams of structured generation: from schema to mask, an automaton with its index, what masking does to chances.

What they state of automata and probabilities is recomputed by tests/test_ch04_structured.py.
"""

from __future__ import annotations

import math
from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

PATTERN = r"[0-9]+(\.[0-9]{2})?"
"""The price of the worked example: a whole number, or one with two decimals."""

VOCABULARY = ["4", "42", "50", ".", ".5", ".50", "5.", "x"]
"""Eight tokens to walk with; the end token comes to them."""

STATES = ["start", "whole number", "point", "one decimal", "two decimals"]
EDGES = ["digit", "point", "digit", "digit"]
ACCEPTING = (1, 4)
ALLOWED = [
    ["4", "42", "50", "5."],
    ["4", "42", "50", ".", ".5", ".50", "5."],
    ["4", "42", "50"],
    ["4"],
    [],
]
"""For each state the tokens that fit; the end token is allowed in the accepting states."""

STEPS = {"17": (0.60, 0.90, 0.01), "42": (0.20, 0.50, 0.50)}
"""Of the two allowed answers in the worked example: p(first digit), p(second | first), p(end | both)."""


def under_the_mask() -> dict[str, float]:
    """Each step divided by what is allowed there; after the first digit there is no alternative."""
    total = sum(first for first, _, _ in STEPS.values())
    return {answer: first / total for answer, (first, _, _) in STEPS.items()}


def given_valid() -> dict[str, float]:
    """Whole answers, divided by their sum."""
    whole = {answer: math.prod(steps) for answer, steps in STEPS.items()}
    return {answer: p / sum(whole.values()) for answer, p in whole.items()}


# -- the way from a schema to a mask ------------------------------------------------------------------------------

ONCE = [
    ("prompt", "**Schema**", "what the record looks like"),
    ("reference", "**Pattern**", "a regular expression"),
    ("reference", "**Automaton**", "states over bytes"),
    ("value", "**Index**", "for each state the allowed tokens"),
]
EACH = [
    ("policy", "**Logits**", "one for each token"),
    ("value", "**Mask**", "of the present state"),
    ("chosen", "**Token**", "drawn from what is left"),
    ("reference", "**Next state**", "looked up"),
]


def pipeline(narrow: bool = False) -> Diagram:
    """Once: schema, pattern, automaton, index. At each token: logits, mask, token, next state."""
    d = sheet(
        "ch04_structured.pipeline",
        "From a schema to a mask",
        "Two rows. Once for a schema: schema, pattern, automaton over bytes, index from states to allowed tokens. At "
        "each token: the model's logits, the mask of the present state, the token drawn, the next state, and back.",
        narrow,
    )
    if narrow:
        y = 8.0
        for title, stages in (("Once for a schema", ONCE), ("At each token", EACH)):
            d.text(8, y, f"**{title}**", color="muted")
            y += 24
            for i, (role, name, what) in enumerate(stages):
                box = d.box(8, y, 344, [Line(f"{name}: {what}", d.size)], role=role)
                if i + 1 < len(stages):
                    d.arrow((box.cx, box.y1 + 1), (box.cx, box.y1 + 16))
                y = box.y1 + 18
            y += 4
        d.height = y - 14
        return d
    width, gap, y = 222.0, 46.0, 16.0
    lows: list[Rect] = []
    for title, stages in (("Once for a schema", ONCE), ("At each token", EACH)):
        d.text(20, y, f"**{title}**", color="muted")
        boxes = [
            d.box(
                20 + i * (width + gap), y + 34, width, [Line(name), Line(what, d.small, "muted", 4)], role=role, h=108
            )
            for i, (role, name, what) in enumerate(stages)
        ]
        for first, second in pairwise(boxes):
            d.arrow(first.right, (second.x - 2, second.cy))
        y, lows = boxes[0].y1 + 26, boxes
    under = lows[0].y1 + 26
    d.arrow((lows[3].cx, lows[3].y1), (lows[3].cx, under), (lows[0].cx, under), (lows[0].cx, lows[0].y1 + 2))
    d.height = under + 12
    return d


# -- an automaton and its index -----------------------------------------------------------------------------------


def _fitting(state: int) -> str:
    shown = "  ".join(f"`{token}`" for token in ALLOWED[state])
    end = "**end**" if state in ACCEPTING else ""
    return "  ".join(part for part in (shown, end) if part)


def automaton(narrow: bool = False) -> Diagram:
    """Five states of a price, and under each the tokens that fit there."""
    said = "; ".join(
        f"state {k}, {name}: {', '.join(ALLOWED[k]) or 'no token'}{', and the end' if k in ACCEPTING else ''}"
        for k, name in enumerate(STATES)
    )
    d = sheet(
        "ch04_structured.automaton",
        "An automaton and its index",
        "Five states in a row: start, then by digits to whole number, where more digits stay, by a point to point, by "
        f"a digit to one decimal, by a digit to two decimals. Tokens allowed of {', '.join(VOCABULARY)}: {said}.",
        narrow,
    )
    if narrow:
        y = 8.0
        for state, name in enumerate(STATES):
            role = "chosen" if state in ACCEPTING else "reference"
            box = d.box(8, y, 128, [Line(f"**{state}** {name}", d.size)], role=role, h=62)
            d.note(148, y + 4, 204, [Line(_fitting(state), d.size)], role="value")
            if state < 4:
                d.arrow((40, box.y1 + 1), (40, box.y1 + 30))
                d.text(50, box.y1 + 8, EDGES[state], size=d.small, color="muted")
            y = box.y1 + 32
        d.height = y - 26
        return d
    width, gap, top = 164.0, 55.0, 66.0
    boxes = []
    for state, name in enumerate(STATES):
        role = "chosen" if state in ACCEPTING else "reference"
        content = [Line(f"**{state}**"), Line(name, d.small, "muted", 2)]
        boxes.append(d.box(20 + state * (width + gap), top, width, content, role=role, h=92))
    for k, (first, second) in enumerate(pairwise(boxes)):
        d.arrow(first.right, (second.x - 2, second.cy))
        d.text((first.x1 + second.x) / 2 - 2, first.cy - 34, EDGES[k], size=d.small, color="muted", anchor="middle")
    loop = boxes[1]
    d.arrow(
        (loop.cx + 30, loop.y), (loop.cx + 30, loop.y - 24), (loop.cx - 30, loop.y - 24), (loop.cx - 30, loop.y - 2)
    )
    d.text(loop.cx, loop.y - 56, "digit", size=d.small, color="muted", anchor="middle")
    low = boxes[0].y1 + 26
    for state, box in enumerate(boxes):
        tokens = [Line(f"`{token}`", d.size, "ink", 2) for token in ALLOWED[state]]
        end = [Line("**end**", d.size, "chosen", 2)] if state in ACCEPTING else []
        d.box(box.x, low, width, [Line("allowed", d.small, "muted"), *tokens, *end], role="value", fill="panel", h=266)
    d.height = low + 278
    return d


# -- what masking does --------------------------------------------------------------------------------------------


def distortion(narrow: bool = False) -> Diagram:
    """Two allowed answers: step-wise division prefers the one whose continuation the model does not believe."""
    mask, valid = under_the_mask(), given_valid()
    said = "; ".join(
        f"{answer[0]} {steps[0]:.0%}, then {answer[1]} {steps[1]:.0%}, then the end {steps[2]:.0%}"
        for answer, steps in STEPS.items()
    )
    d = sheet(
        "ch04_structured.distortion",
        "Masking step by step is not conditioning",
        f"Two allowed answers, with the model's probabilities: {said}. Under the mask 17 has {mask['17']:.0%} and "
        f"42 has {mask['42']:.0%}; given that the answer is one of the two, 17 has {valid['17']:.0%} and 42 has "
        f"{valid['42']:.0%}.",
        narrow,
    )
    roles = {"17": "rejected", "42": "chosen"}
    x0, w, gap = (8.0, 48.0, 50.0) if narrow else (20.0, 140.0, 160.0)
    y, high = (10.0, 44.0) if narrow else (18.0, 62.0)
    boxes: list[Rect] = []
    start = d.box(x0, y + high * 0.75, w, [Line("start", d.small)], role="prompt", h=high, pad=4)
    for k, (answer, steps) in enumerate(STEPS.items()):
        row, before = y + k * high * 1.5, start
        for j, (text, p) in enumerate(zip((f"`{answer[0]}`", f"`{answer}`", "end"), steps, strict=True)):
            box = d.box(x0 + (j + 1) * (w + gap), row, w, [Line(text)], role=roles[answer], h=high, pad=4)
            if j == 0:
                bend, out = start.x1 + gap * 0.16, start.cy + (8 if k else -8)
                d.arrow((start.x1, out), (bend, out), (bend, box.cy), (box.x - 2, box.cy))
                d.text(box.x - 6, box.cy - d.small * 1.25, f"{p:.0%}", size=d.small, anchor="end")
            else:
                d.arrow(before.right, (box.x - 2, box.cy))
                d.text((before.x1 + box.x) / 2, box.cy - d.small * 1.25, f"{p:.0%}", size=d.small, anchor="middle")
            before = box
        boxes.append(before)
    top = boxes[-1].y1 + (20 if narrow else 34)
    left, right = (8.0, 352.0) if narrow else (290.0, 1060.0)
    for name, chances in (("Under the mask", mask), ("Given that it is valid", valid)):
        if narrow:
            d.text(8, top, name, size=d.small)
            top += 20
        else:
            d.text(left - 14, top + 14, name, size=d.size, anchor="end")
        x = left
        for answer, share in chances.items():
            rect = Rect(x, top, share * (right - left), 30 if narrow else 50)
            d.rect(rect, roles[answer], radius=0)
            text = f"`{answer}` {share:.0%}"
            if rect.w > d.size * 5:
                d.text(rect.cx, rect.cy - d.size * 0.5, text, size=d.size, anchor="middle")
            x = rect.x1
        top += 42 if narrow else 70
    d.height = top - (6 if narrow else 8)
    return d
