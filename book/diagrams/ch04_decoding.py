"""Diagrams of section 4.3: kinds of decoding, a beam by hand, six truncations of one distribution, the order of steps.

Every number follows from the worked examples of the page; tests recompute them.
"""

from __future__ import annotations

import math
from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

# -- families ---------------------------------------------------------------------------------------------------

FAMILIES = [
    ("Search", "4.3.2, 4.3.3", "a text of high score", "greedy, beam, diverse, constrained", "policy"),
    ("Draw", "4.3.4", "a text by chance", "temperature, top-k, top-p, min-p, typical, eta", "value"),
    ("Correct", "4.3.5, 4.3.6", "another score", "penalties, contrastive search, DoLa", "reward"),
    ("Restrict", "4.3.5", "only texts of a form", "grammar, JSON schema, required phrases", "prompt"),
    ("Hasten", "4.3.5", "same text, fewer passes", "speculative, lookahead, Medusa", "chosen"),
]
"""Name, section, what is wanted, members, role."""


def families(narrow: bool = False) -> Diagram:
    """Five answers to one question: what becomes of a next-token distribution."""
    said = "; ".join(f"{name}: {wanted} ({members})" for name, _, wanted, members, _ in FAMILIES)
    d = sheet(
        "ch04_decoding.families",
        "Five kinds of decoding",
        f"From the logits of the next token, five kinds of strategy. {said}. The first two choose, the others combine "
        "with either.",
        narrow,
    )
    if narrow:
        source = d.box(8, 8, 344, [Line("logits of the next token, (B, V)")], role="reference")
        y = source.y1 + 24
        d.arrow(source.bottom, (source.cx, y - 2))
        for name, section, wanted, members, role in FAMILIES:
            box = d.box(
                8,
                y,
                344,
                [Line(f"**{name}** {section}", d.size), Line(wanted, d.small), Line(members, d.small, "muted", 2)],
                role=role,
            )
            y = box.y1 + 8
        d.height = y
        return d
    source = d.box(
        20, 203, 190, [Line("logits of the"), Line("next token"), Line("(B, V)", d.small, "muted")], role="reference"
    )
    top, height, gap = 14.0, 84.0, 14.0
    trunk, ends = 250.0, []
    for index, (name, section, wanted, members, role) in enumerate(FAMILIES):
        y = top + index * (height + gap)
        box = d.box(
            290,
            y,
            330,
            [Line(f"**{name}**: {wanted}", d.small), Line(section, d.small, "muted", 2)],
            role=role,
            h=height,
        )
        d.text(640, y + height / 2 - d.small * 0.5, members, size=d.small, color="muted", width=420)
        d.arrow((trunk, box.cy), (box.x - 2, box.cy))
        ends.append(box.cy)
    d.line((trunk, ends[0]), (trunk, ends[-1]), role="muted", stroke=d.stroke * 1.1)
    d.line(source.right, (trunk, source.cy), role="muted", stroke=d.stroke * 1.1)
    d.height = top + 5 * (height + gap)
    return d


# -- beam -------------------------------------------------------------------------------------------------------

NEXT = {
    (): {"The": 0.5, "A": 0.4, "Its": 0.1},
    ("The",): {"dog": 0.4, "cat": 0.35, "end": 0.25},
    ("A",): {"fish": 0.9, "end": 0.1},
}
"""A model by hand: the next token's probabilities after each beginning."""

WIDTH = 2


def step(beams: dict[tuple[str, ...], float]) -> list[tuple[tuple[str, ...], float]]:
    """All continuations of the beams with their probabilities, the likeliest first."""
    found = [((*ids, token), p * q) for ids, p in beams.items() for token, q in NEXT[ids].items()]
    return sorted(found, key=lambda pair: -pair[1])


def beam(narrow: bool = False) -> Diagram:
    """Two steps of beam search at width 2 that find what greedy search misses."""
    first = step({(): 1.0})
    second = step(dict(first[:WIDTH]))
    d = sheet(
        "ch04_decoding.beam",
        "Beam search by hand: width 2, two steps",
        "Step 1: "
        + ", ".join(f"{ids[-1]} {p:.2f}" for ids, p in first)
        + "; the best two are kept. Step 2, in order: "
        + ", ".join(f"{' '.join(ids)} {p:.3f}" for ids, p in second)
        + ". Greedy search takes The, then dog. The beam finds A fish, which is likelier.",
        narrow,
    )
    w, h = (96.0, 30.0) if narrow else (210.0, 50.0)
    columns = (8.0, 128.0, 248.0) if narrow else (40.0, 400.0, 770.0)
    gap = 12.0 if narrow else 20.0
    top = 30.0 if narrow else 48.0
    heads = ("prompt", "step 1", "step 2") if narrow else ("prompt", "step 1: keep 2 of 3", "step 2: keep 2 of 5")
    for x, head in zip(columns, heads, strict=True):
        d.text(x, 6 if narrow else 12, head, size=d.small, color="muted")
    root = d.cell(Rect(columns[0], top + h + gap, w, h), "start", "prompt", mono=False)
    spots: dict[tuple[str, ...], Rect] = {}
    for rank, (ids, p) in enumerate(first):
        kept = rank < WIDTH
        rect = Rect(columns[1], top + rank * (h + gap), w, h)
        d.cell(rect, f"{ids[-1]} {p:.2f}", "policy" if kept else None, mono=False, ink=None if kept else "muted")
        spots[ids] = rect
    second_best = first[0][0]
    for rank, (ids, p) in enumerate(second):
        kept = rank < WIDTH
        rect = Rect(columns[2], top + rank * (h + gap), w, h)
        role = "chosen" if rank == 0 else "policy" if kept else None
        d.cell(rect, f"{ids[-1]} {p:.3f}", role, mono=False, ink=None if kept else "muted")
        spots[ids] = rect
    for rank, (ids, _) in enumerate(first):
        d.line(root.right, spots[ids].left, role="policy" if rank < WIDTH else "faint", stroke=d.stroke)
    for rank, (ids, _) in enumerate(second):
        role = "chosen" if rank == 0 else "policy" if rank < WIDTH else "faint"
        d.line(spots[ids[:-1]].right, spots[ids].left, role=role, stroke=d.stroke * (1.6 if rank == 0 else 1))
    greedy = max((pair for pair in second if pair[0][:1] == second_best), key=lambda pair: pair[1])
    y = top + len(second) * (h + gap) + (4 if narrow else 8)
    note = d.note(
        columns[0],
        y,
        (344 if narrow else 1000),
        [
            Line(f"Greedy search: {' '.join(greedy[0])}, probability {greedy[1]:.2f}.", d.small),
            Line(
                f"Beam search: {' '.join(second[0][0])}, {second[0][1]:.2f}. It stood second after step 1.",
                d.small,
                "chosen",
                3,
            ),
        ],
        role="chosen",
    )
    d.height = note.y1 + 12
    return d


# -- truncations ------------------------------------------------------------------------------------------------

PROBS = (0.40, 0.25, 0.14, 0.09, 0.06, 0.04, 0.02)
"""One next-token distribution, by falling probability."""

RULES = ("top-k 3", "top-p 0.9", "min-p 0.2", "typical 0.35", "eta 0.1", "epsilon 0.1")


def _entropy() -> float:
    return -sum(p * math.log(p) for p in PROBS)


def kept() -> dict[str, list[bool]]:
    """Which tokens each rule keeps, by its definition."""
    entropy = _entropy()
    order = sorted(range(len(PROBS)), key=lambda k: abs(-math.log(PROBS[k]) - entropy))
    typical = [sum(PROBS[j] for j in order[: order.index(k)]) < 0.35 for k in range(len(PROBS))]
    threshold = min(0.1, math.sqrt(0.1) * math.exp(-entropy))
    return {
        "top-k 3": [k < 3 for k in range(len(PROBS))],
        "top-p 0.9": [sum(PROBS[:k]) < 0.9 for k in range(len(PROBS))],
        "min-p 0.2": [p >= 0.2 * PROBS[0] for p in PROBS],
        "typical 0.35": typical,
        "eta 0.1": [p >= threshold for p in PROBS],
        "epsilon 0.1": [p >= 0.1 for p in PROBS],
    }


def truncations(narrow: bool = False) -> Diagram:
    """Six rules on one distribution: which tokens can still be drawn."""
    table = kept()
    said = "; ".join(
        f"{rule} keeps {', '.join(f'{p:.2f}' for p, stays in zip(PROBS, row, strict=True) if stays)}"
        for rule, row in table.items()
    )
    d = sheet(
        "ch04_decoding.truncations",
        "Six truncations of one distribution",
        f"Seven tokens with probabilities {', '.join(f'{p:.2f}' for p in PROBS)}. {said}.",
        narrow,
    )
    left = 92.0 if narrow else 190.0
    w, h, gap = (35.0, 24.0, 3.0) if narrow else (112.0, 42.0, 8.0)
    base = 92.0 if narrow else 170.0
    tall = 72.0 if narrow else 130.0
    for k, p in enumerate(PROBS):
        x = left + k * (w + gap)
        high = p / PROBS[0] * tall
        d.rect(Rect(x, base - high, w, high), "reference", radius=0)
        d.text(
            x + w / 2,
            base - high - d.small * 1.2,
            f"{p:.2f}"[1:] if narrow else f"{p:.2f}",
            size=d.small,
            anchor="middle",
            color="muted",
        )
    d.text(4 if narrow else 20, base - d.small * 1.3, "$p$", size=d.size)
    y = base + (12 if narrow else 22)
    for rule in RULES:
        d.text(4 if narrow else 20, y + h / 2 - d.small * 0.5, rule, size=d.small)
        for k, stays in enumerate(table[rule]):
            x = left + k * (w + gap)
            d.rect(Rect(x, y, w, h), "policy" if stays else None, dashed=not stays, radius=3)
        y += h + gap + (3 if narrow else 4)
    end = d.legend(left, y + 4, 260 if narrow else 600, [("policy", "can be drawn")])
    d.height = end.y1 + 10
    return d


# -- order ------------------------------------------------------------------------------------------------------

ORDER = [
    ("bias, grammar", "your own rules", "prompt"),
    ("repetition, frequency, presence", "what occurred", "reward"),
    ("no-repeat n-gram", "cuts", "reward"),
    ("temperature", "reshapes", "value"),
    ("top-k", "cuts", "policy"),
    ("top-p", "cuts", "policy"),
    ("min-p", "cuts", "policy"),
    ("typical, eta", "cuts", "policy"),
    ("softmax, draw", "one token", "chosen"),
]
"""Steps from logits to a token, in the order in which they are taken."""


def order(narrow: bool = False) -> Diagram:
    """The steps from logits to a token."""
    d = sheet(
        "ch04_decoding.order",
        "From logits to a token: the order of the steps",
        "In this order: "
        + ", then ".join(f"{name} ({does})" for name, does, _ in ORDER)
        + ". Greedy and beam search skip "
        "temperature and what follows it, and take the largest.",
        narrow,
    )
    if narrow:
        y = 8.0
        for index, (name, does, role) in enumerate(ORDER):
            box = d.box(60, y, 240, [Line(name, d.small), Line(does, d.small, "muted")], role=role, pad=5)
            if index + 1 < len(ORDER):
                d.arrow((box.cx, box.y1 + 1), (box.cx, box.y1 + 14))
            y = box.y1 + 15
        d.height = y
        return d
    w, h, gap = 306.0, 100.0, 46.0
    boxes: list[Rect] = []
    for index, (name, does, role) in enumerate(ORDER):
        column, row = index % 3, index // 3
        boxes.append(
            d.box(
                30 + column * (w + gap),
                14 + row * (h + 44),
                w,
                [Line(name, d.small), Line(does, d.small, "muted", 3)],
                role=role,
                h=h,
            )
        )
    for a, b in pairwise(boxes):
        if abs(a.cy - b.cy) < 1:
            d.arrow(a.right, (b.x - 2, b.cy))
        else:
            middle = (a.y1 + b.y) / 2
            d.arrow(a.bottom, (a.cx, middle), (b.cx, middle), (b.cx, b.y - 2))
    d.height = boxes[-1].y1 + 14
    return d
