"""Diagrams of section 4.4: the system end to end, one text cut four ways, two rankings fused, kinds of hallucination.

The numbers are those of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

DENSE, WORDS = ("Q", "P", "R"), ("P", "S", "R")
"""The worked example of fusion: two rankings of passages, best first."""

K = 60

TEXT = "Sorting by length gets most of the gain. The prompt is computed twice in any case."
"""Two sentences of section 3.2.4; the second is the evidence that must stay whole."""

EVIDENCE = "The prompt is computed twice"

LETTER = "The lighthouse was finished in 1874. It is 41 metres high."

CLAIMS = (
    ("chosen", "Finished in 1874.", "supported", "the source says so"),
    ("rejected", "Finished in 1941.", "intrinsic", "contradicts the source"),
    ("reward", "It has 12 windows.", "extrinsic", "the source cannot tell"),
    ("reference", "I do not know.", "abstention", "claims nothing"),
)
"""Four answers to questions about LETTER: role, answer, its kind, why."""


def fused(k: float = K) -> list[tuple[str, float]]:
    """The worked example of reciprocal rank fusion, written out."""
    names = sorted({*DENSE, *WORDS})
    scores = {name: sum(1 / (k + one.index(name) + 1) for one in (DENSE, WORDS) if name in one) for name in names}
    return sorted(scores.items(), key=lambda item: -item[1])


# -- pipeline ---------------------------------------------------------------------------------------------------

BEFORE = [
    ("prompt", "**Pages**", "text with headings"),
    ("reference", "**Chunks**", "some 120 tokens each"),
    ("policy", "**Two indexes**", "vectors; words"),
]
ASKED = [
    ("prompt", "**Question**", "as the reader asks it"),
    ("policy", "**Search twice**", "nearest vectors; BM25"),
    ("value", "**Fuse, rerank**", "one list of the best"),
    ("kl", "**Good enough?**", "a threshold"),
    ("prompt", "**Prompt**", "numbered passages, then the question"),
    ("reward", "**Model**", "answers, and cites"),
    ("chosen", "**Check**", "is the answer in what it cites?"),
]
"""Stages before and after a question: role, name, what it is."""


def pipeline(narrow: bool = False) -> Diagram:
    """Indexing once, and then one pass for every question."""
    d = sheet(
        "ch04_rag.pipeline",
        "Retrieval-augmented generation, end to end",
        "Two lanes. Before any question: pages are cut into chunks, and chunks go into two indexes, one of vectors and "
        "one of words. For each question: both indexes are searched, the two rankings are fused and reranked, a "
        "threshold decides whether anything is good enough (if not, the system says that it does not know), passages "
        "and question form the prompt, the model answers with citations, and a check compares the answer with them.",
        narrow,
    )
    if narrow:
        y = 8.0
        for title, stages in (("Once, before any question", BEFORE), ("For each question", ASKED)):
            end = d.text(8, y, f"**{title}**", color="muted")
            y = end.y1 + 8
            for index, (role, name, what) in enumerate(stages):
                box = d.box(8, y, 344, [Line(name), Line(what, d.small, "muted", 2)], role=role, pad=6)
                y = box.y1 + 20
                if index + 1 < len(stages):
                    d.arrow((box.cx, box.y1 + 1), (box.cx, y - 2))
            y += 4
        end = d.note(8, y, 344, ['Below the threshold: "I do not know", and no model is asked.'], role="kl")
        d.height = end.y1 + 10
        return d
    wide, high, gap = 296.0, 102.0, 66.0
    xs = [30 + column * (wide + gap) for column in range(3)]
    d.text(xs[0], 12, "**Once, before any question**", color="muted")
    top = 48.0
    before = [
        d.box(x, top, wide, [Line(name), Line(what, d.small, "muted", 2)], h=high, role=role)
        for x, (role, name, what) in zip(xs, BEFORE, strict=True)
    ]
    for a, b in pairwise(before):
        d.arrow(a.right, (b.x - 2, b.cy))
    d.text(xs[0], top + high + 42, "**For each question**", color="muted")
    first = top + high + 78
    row_one = [
        d.box(x, first, wide, [Line(name), Line(what, d.small, "muted", 2)], h=high, role=role)
        for x, (role, name, what) in zip((xs[0], xs[2]), (ASKED[0], ASKED[1]), strict=True)
    ]
    d.arrow(row_one[0].right, (row_one[1].x - 2, row_one[1].cy))
    d.arrow(before[2].bottom, (before[2].cx, row_one[1].y - 2))
    second = first + high + 62
    row_two = [
        d.box(x, second, wide, [Line(name), Line(what, d.small, "muted", 2)], h=high, role=role)
        for x, (role, name, what) in zip(reversed(xs), (ASKED[2], ASKED[3], ASKED[4]), strict=True)
    ]
    d.arrow(row_one[1].bottom, (row_two[0].cx, row_two[0].y - 2))
    for a, b in pairwise(row_two):
        d.arrow(a.left, (b.x1 + 2, b.cy))
    third = second + high + 62
    row_three = [
        d.box(x, third, wide, [Line(name), Line(what, d.small, "muted", 2)], h=high, role=role)
        for x, (role, name, what) in zip((xs[0], xs[2]), (ASKED[5], ASKED[6]), strict=True)
    ]
    d.arrow(row_two[2].bottom, (row_three[0].cx, row_three[0].y - 2))
    d.arrow((row_two[1].cx, row_two[1].y1), (row_two[1].cx, row_two[1].y1 + 34), role="kl")
    d.text(row_two[1].cx, row_two[1].y1 + 40, 'no: "I do not know"', size=d.small, color="kl", anchor="middle")
    d.arrow((row_three[0].x1, row_three[0].cy + 20), (row_three[1].x - 2, row_three[1].cy + 20))
    d.height = third + high + 16
    return d


# -- chunks -----------------------------------------------------------------------------------------------------


def cuts(size: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Word positions of the pieces of TEXT: what `retrieval.pieces` gives."""
    number, found, start = len(TEXT.split()), [], 0
    while True:
        end = min(number, start + size)
        found.append((start, end))
        if end == number:
            return found
        start = end - overlap


WAYS = (("8 words", 8, 0), ("10 words", 10, 0), ("10 words, overlap 5", 10, 5))
"""The ways of the figure: name, size, overlap."""


def chunks(narrow: bool = False) -> Diagram:
    """One text of sixteen words, cut three ways; what matters survives whole, or does not."""
    words = TEXT.split()
    begin = len(TEXT[: TEXT.index(EVIDENCE)].split())
    end = begin + len(EVIDENCE.split())

    def whole(size: int, overlap: int) -> bool:
        return any(a <= begin and end <= b for a, b in cuts(size, overlap))

    fate = {True: "is whole in one", False: "is cut"}
    said = "; ".join(
        f"{name}: {len(cuts(size, overlap))} chunks, the evidence {fate[whole(size, overlap)]}"
        for name, size, overlap in WAYS
    )
    d = sheet(
        "ch04_rag.chunks",
        "One text, cut three ways",
        f"Sixteen words as a row of cells. The evidence is words {begin + 1} to {end}. {said}.",
        narrow,
    )
    left, right = (8.0, 352.0) if narrow else (30.0, 1050.0)
    unit = (right - left) / len(words)
    height = 22.0 if narrow else 40.0
    y = 8.0
    head = d.text(left, y, TEXT, size=d.small, color="muted", width=right - left)
    y = head.y1 + 12
    for index in range(len(words)):
        role = "chosen" if begin <= index < end else "prompt"
        d.rect(Rect(left + index * unit, y, unit * 0.9, height), role, radius=3)
    y += height + 6
    label = d.text(left, y, f'a cell a word; green: "{EVIDENCE}"', size=d.small, color="muted", width=right - left)
    y = label.y1 + (14 if narrow else 22)
    for name, size, overlap in WAYS:
        found = whole(size, overlap)
        verdict = "evidence whole" if found else "evidence cut in two"
        line = d.text(left, y, f"**{name}**: {verdict}", size=d.small, color="chosen" if found else "rejected")
        y = line.y1 + 6
        for row, (a, b) in enumerate(cuts(size, overlap)):
            holds = a <= begin and end <= b
            lift = (height * 0.62) * (row % 2 if overlap else 0)
            cell = Rect(left + a * unit, y + lift, (b - a) * unit - unit * 0.1, height * 0.5)
            d.rect(cell, "chosen" if holds else "reference", radius=3)
        y += height * (1.2 if overlap else 0.5) + (16 if narrow else 26)
    d.height = y - 4
    return d


# -- fusion -----------------------------------------------------------------------------------------------------


def fusion(narrow: bool = False) -> Diagram:
    """Two rankings and their fusion: third in both beats first in one."""
    ranked = fused()
    said = ", ".join(f"{name} {score:.4f}" for name, score in ranked)
    d = sheet(
        "ch04_rag.fusion",
        "Reciprocal rank fusion by hand",
        f"Dense search ranks {', '.join(DENSE)}; BM25 ranks {', '.join(WORDS)}. With k = {K} the fused scores are "
        f"{said}. R, third in both, comes before Q, which is first in one and absent from the other.",
        narrow,
    )
    roles = {"P": "chosen", "Q": "policy", "R": "value", "S": "prompt"}
    lists = (("**Dense**", list(DENSE)), ("**BM25**", list(WORDS)))
    if narrow:
        side, step, top = 84.0, 44.0, 34.0
        for column, (title, names) in enumerate(lists):
            x = 8 + column * (side + 14)
            d.text(x, 8, title)
            for rank, name in enumerate(names):
                d.box(x, top + rank * step, side, [Line(f"{rank + 1}  **{name}**")], role=roles[name], h=36, pad=6)
        d.text(212, 8, "**Fused**")
        for rank, (name, score) in enumerate(ranked):
            text = f"**{name}**  {score:.4f}"
            d.box(212, top + rank * step, 140, [Line(text)], role=roles[name], h=36, pad=6)
        d.height = top + 4 * step + 4
        return d
    side, step, top = 220.0, 76.0, 56.0
    for column, (title, names) in enumerate(lists):
        x = 30 + column * (side + 40)
        d.text(x, 16, title)
        for rank, name in enumerate(names):
            text = f"rank {rank + 1}: **{name}**, $1/({K}+{rank + 1})$"
            d.box(x, top + rank * step, side, [Line(text)], role=roles[name], h=60)
    d.text(630, 16, "**Fused**, the sums")
    for rank, (name, _) in enumerate(ranked):
        terms = [f"{1 / (K + one.index(name) + 1):.4f}" for one in (DENSE, WORDS) if name in one]
        total = f"{' + '.join(terms)} = {dict(ranked)[name]:.4f}" if len(terms) > 1 else f"{terms[0]}"
        d.box(630, top + rank * step, 420, [Line(f"**{name}**: {total}")], role=roles[name], h=60)
    d.arrow((530, top + 30 + step), (626, top + 30 + step))
    d.height = top + 4 * step
    return d


# -- hallucination ----------------------------------------------------------------------------------------------


def kinds(narrow: bool = False) -> Diagram:
    """Four answers to questions about one short document, and what each of them is."""
    said = "; ".join(f'"{answer}" is {kind}: {why}' for _, answer, kind, why in CLAIMS)
    d = sheet(
        "ch04_rag.kinds",
        "What an answer can be to its source",
        f'The source says: "{LETTER}" Four answers: {said}.',
        narrow,
    )
    if narrow:
        source = d.box(8, 8, 344, [Line("**Source**"), Line(LETTER, d.small, "muted", 2)], role="prompt")
        y = source.y1 + 14
        for role, answer, kind, why in CLAIMS:
            box = d.box(
                8, y, 344, [Line(f'"{answer}"'), Line(f"**{kind}**: {why}", d.small, "muted", 2)], role=role, pad=6
            )
            y = box.y1 + 10
        d.height = y
        return d
    source = d.box(30, 16, 1020, [Line("**Source**"), Line(LETTER, d.size, "muted", 4)], role="prompt")
    wide, gap = 237.0, 24.0
    top = source.y1 + 56
    for index, (role, answer, kind, why) in enumerate(CLAIMS):
        x = 30 + index * (wide + gap)
        content = [Line(f'"{answer}"'), Line(f"**{kind}**", gap=10), Line(why, d.small, "muted", 4)]
        box = d.box(x, top, wide, content, h=150, role=role)
        d.arrow((box.cx, source.y1 + 2), (box.cx, box.y - 3), role=role)
    d.height = top + 166
    return d
