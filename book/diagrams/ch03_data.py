"""Section 3.2's diagrams: from prompts to pairs as a funnel, MinHash with its bands, the shape of a packed record.

The funnel counts are read from the executed lab ch03_preference_data; the tokens are SmolLM2's.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from diagrams.kit import Diagram, Line, Rect, sheet

NOTEBOOK = Path(__file__).parents[2] / "labs" / "ch03_preference_data.ipynb"
RESULTS = "application/vnd.alignlab.results+json"

QUESTION, CHOSEN, REJECTED = "What is 17 + 25?", "17 + 25 = 42.", "17 + 25 = 32."
"""The second running example as a preference pair."""

PROMPT_COUNT = 40
"""Tokens of QUESTION in SmolLM2's chat format, its default system message included."""

PROMPT_END = ["<|im_end|>", "Ċ", "<|im_start|>", "ass", "istant", "Ċ"]
CHOSEN_TOKENS = ["1", "7", "Ġ+", "Ġ", "2", "5", "Ġ=", "Ġ", "4", "2", ".", "<|im_end|>"]
REJECTED_TOKENS = ["1", "7", "Ġ+", "Ġ", "2", "5", "Ġ=", "Ġ", "3", "2", ".", "<|im_end|>"]
"""Ġ is a space, Ċ a line break."""

TEXTS = ("who are you", "so who are you")
"""Two prompts that MinHash compares in the diagram."""

SHINGLE, FUNCTIONS, PER_BAND, PRIME = 4, 6, 2, 97
COEFFICIENTS = ((35, 37), (89, 87), (25, 83), (31, 85), (20, 28), (84, 93))
"""Six hash functions (a x + b) mod 97 on the number of a shingle in alphabetical order."""


def _shown(token: str) -> str:
    return token.replace("Ġ", "·").replace("Ċ", "\\n")


@cache
def counts() -> dict[str, str]:
    """The lab's results as the book prints them; empty where the lab has not been executed."""
    if not NOTEBOOK.is_file():
        return {}
    for cell in reversed(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", []):
            if RESULTS in output.get("data", {}):
                return {name: str(result["text"]) for name, result in output["data"][RESULTS]["results"].items()}
    return {}


# -- the funnel -------------------------------------------------------------------------------------------------

_PROMPTS = (
    ("collected", "Collect", "logs and templates"),
    ("unique", "Drop exact doubles", "same normal form"),
    ("prompts", "Drop near doubles", "MinHash and LSH"),
    ("answered", "Take for answering", "what one can afford"),
)
_PAIRS = (
    ("all_left", "Pair", "best against worst"),
    ("broken_left", "Broken", "empty, equal, too long"),
    ("contradictions_left", "Contradicted", "same two, reversed"),
    ("ties_left", "Near ties", "margin too small"),
    ("length_left", "Unequal lengths", "ratio too large"),
    ("leaks_left", "Leaks", "overlap with held-out"),
    ("judge_left", "Not trusted", "judge alone says so"),
    ("cut_left", "Cut answers", "no end of their own"),
)


_RECORDS = "prompt, chosen, rejected: what DPO reads"


def pipeline(narrow: bool = False) -> Diagram:
    """Prompts, answers, scores, pairs and filters, with the counts of the lab."""
    known = counts()

    def said(rows: tuple[tuple[str, str, str], ...]) -> str:
        return "; ".join(f"{title}: {known.get(key, 'not counted')} left" for key, title, _ in rows)

    diagram = sheet(
        "ch03_data.pipeline",
        "From prompts to clean preference pairs, with the counts of the lab",
        f"Three parts. Prompts, a bar for what is left after each step: {said(_PROMPTS)}. Then several answers are "
        "sampled for "
        "each prompt, and scored by a rule, by a verifier and by a judge. Pairs, a bar for what is left after each "
        "filter: "
        f"{said(_PAIRS)}. The same answers paired again, with the filters in mind, give "
        f"{known.get('finished', 'not counted')} records of prompt, chosen and rejected.",
        narrow,
    )
    (_pipeline_narrow if narrow else _pipeline_wide)(diagram)
    return diagram


def _bars(d: Diagram, rect: Rect, rows: tuple[tuple[str, str, str], ...], role: str, names: float, step: float) -> None:
    """One bar for each row, as long as its count; name and reason at the left."""
    known = counts()
    values = [float(known[key].replace(",", "")) if key in known else 1.0 for key, _, _ in rows]
    room = rect.w - names - (58.0 if not d.narrow else 34.0)
    high = d.small * 1.25
    for index, ((key, title, why), value) in enumerate(zip(rows, values, strict=True)):
        y = rect.y + index * step
        d.text(rect.x, y, f"**{title}**", size=d.small)
        d.text(rect.x, y + d.small * 1.25, why, size=d.small, color="muted")
        bar = Rect(rect.x + names, y + d.small * 0.55, max(3.0, room * value / max(1.0, *values)), high)
        d.boxes.append(bar)
        d.rect(bar, role if index < len(rows) - 1 else "chosen", radius=3)
        d.text(bar.x1 + (8 if not d.narrow else 5), bar.cy - d.small / 2, known.get(key, "–"), size=d.small)


def _pipeline_wide(d: Diagram) -> None:
    small = d.small
    left = Rect(20, 16, 500, 372)
    inner = d.lane(left, "**Prompts**", "prompt")
    _bars(d, Rect(inner.x, inner.y + 6, inner.w, inner.h), _PROMPTS, "prompt", 256, 76)
    right = Rect(560, 16, 500, 690)
    inner = d.lane(right, "**Pairs**: each filter removes something", "reward")
    _bars(d, Rect(inner.x, inner.y + 6, inner.w, inner.h), _PAIRS, "reward", 236, 78)
    sample = d.box(
        20, left.y1 + 44, 230, ["**Sample**", Line("several answers a prompt", small, "muted", 3)], role="policy", h=104
    )
    score = d.box(
        290, left.y1 + 44, 230, ["**Score**", Line("rule, verifier, judge", small, "muted", 3)], role="reward", h=104
    )
    d.arrow((sample.cx, left.y1), (sample.cx, sample.y - 2))
    d.arrow(sample.right, (score.x - 2, score.cy))
    d.arrow(score.right, (right.x - 2, score.cy))
    records = d.box(
        20,
        sample.y1 + 44,
        500,
        [
            f"**Paired again**, filters in mind: **{counts().get('finished', '–')}** records",
            Line(_RECORDS, small, "muted", 3),
        ],
        role="chosen",
    )
    d.arrow(score.bottom, (score.cx, records.y - 2))
    d.height = max(right.y1, records.y1) + 16


def _pipeline_narrow(d: Diagram) -> None:
    small, left, wide = d.small, 8.0, 344.0
    top = Rect(left, 8, wide, 208)
    inner = d.lane(top, "**Prompts**", "prompt")
    _bars(d, Rect(inner.x, inner.y + 2, inner.w, inner.h), _PROMPTS, "prompt", 176, 42)
    half = (wide - 24) / 2
    sample = d.box(
        left, top.y1 + 24, half, ["**Sample**", Line("several answers", small, "muted", 2)], role="policy", h=58
    )
    score = d.box(
        left + half + 24,
        top.y1 + 24,
        half,
        ["**Score**", Line("rule, verifier, judge", small, "muted", 2)],
        role="reward",
        h=58,
    )
    d.arrow((sample.cx, top.y1), (sample.cx, sample.y - 2))
    d.arrow(sample.right, (score.x - 2, score.cy))
    low = Rect(left, sample.y1 + 24, wide, 376)
    inner = d.lane(low, "**Pairs**: each filter removes something", "reward")
    _bars(d, Rect(inner.x, inner.y + 2, inner.w, inner.h), _PAIRS, "reward", 164, 42)
    d.arrow((score.cx, score.y1), (score.cx, low.y - 2))
    records = d.box(
        left,
        low.y1 + 24,
        wide,
        [f"**Paired again:** **{counts().get('finished', '–')}** records", Line(_RECORDS, small, "muted", 2)],
        role="chosen",
    )
    d.arrow((records.cx, low.y1), (records.cx, records.y - 2))
    d.height = records.y1 + 10


# -- MinHash ----------------------------------------------------------------------------------------------------


def shingles(text: str) -> list[str]:
    """The different shingles of a text, in the order in which they first occur."""
    return list(dict.fromkeys(text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)))


def signature(text: str) -> list[int]:
    """The smallest value of each of the six functions over the text's shingles."""
    every = sorted(set(shingles(TEXTS[0])) | set(shingles(TEXTS[1])))
    return [min((a * every.index(s) + b) % PRIME for s in shingles(text)) for a, b in COEFFICIENTS]


def minhash(narrow: bool = False) -> Diagram:
    """Two prompts, their shingles, their signatures, and the bands in which they agree."""
    first, second = (shingles(text) for text in TEXTS)
    shared, union = len(set(first) & set(second)), len(set(first) | set(second))
    equal = sum(a == b for a, b in zip(*(signature(text) for text in TEXTS), strict=True))
    diagram = sheet(
        "ch03_data.minhash",
        "MinHash: from a prompt to its signature, and from signatures to candidates",
        f"Two prompts, “{TEXTS[0]}” and “{TEXTS[1]}”, are cut into shingles of {SHINGLE} characters; {shared} of "
        f"{union} "
        f"shingles occur in both, so the Jaccard similarity is {shared / union:.2f}. Each of {FUNCTIONS} hash "
        "functions gives every "
        "shingle a number, and the smallest number of each prompt goes into its signature. The signatures agree in "
        f"{equal} of {FUNCTIONS} places, an estimate of {equal / FUNCTIONS:.2f}. Cut into bands of {PER_BAND} "
        "places, the prompts become a "
        "candidate pair if one band agrees in full.",
        narrow,
    )
    _minhash(diagram)
    return diagram


def _minhash(d: Diagram) -> None:
    small, left, wide = d.small, (20.0 if not d.narrow else 8.0), (1040.0 if not d.narrow else 344.0)
    first, second = (shingles(text) for text in TEXTS)
    shared, union = set(first) & set(second), set(first) | set(second)
    y = 14.0 if not d.narrow else 8.0
    for text, mine in zip(TEXTS, (first, second), strict=True):
        d.text(left, y, f"“{text}” in shingles of {SHINGLE} characters")
        cells = d.tokens(
            left,
            y + small * 1.7,
            wide,
            [(s.replace(" ", "·"), "chosen" if s in shared else "reference") for s in mine],
        )
        y = cells[-1].y1 + small * 1.1
    used = d.text(
        left,
        y,
        f"Green: in both. $J$ = {len(shared)} / {len(union)} = **{len(shared) / len(union):.2f}**",
        width=wide,
    )
    y = used.y1 + small * 1.6
    names = 150.0 if not d.narrow else 66.0
    gap, between = (8.0, 34.0) if not d.narrow else (3.0, 11.0)
    bands = FUNCTIONS // PER_BAND
    column = (wide - names - (bands - 1) * between - (FUNCTIONS - bands) * gap) / FUNCTIONS
    column = min(column, 108.0)
    lines = [signature(text) for text in TEXTS]
    high = small * 1.7
    d.text(left, y + (high - small) / 2, "function" if not d.narrow else "hash", size=small, color="muted")
    tops = [y, y + high + 6, y + 2 * high + 12]
    for label, top in zip(("prompt 1", "prompt 2"), tops[1:], strict=True):
        d.text(left, top + (high - small) / 2, label, size=small, color="muted")
    ends: list[tuple[float, float]] = []
    for index in range(FUNCTIONS):
        band = index // PER_BAND
        x = left + names + index * (column + gap) + band * (between - gap)
        d.text(x + column / 2, y + (high - small) / 2, f"$h_{index + 1}$", size=small, color="muted", anchor="middle")
        role = "chosen" if lines[0][index] == lines[1][index] else "reference"
        for row, top in zip(lines, tops[1:], strict=True):
            d.cell(Rect(x, top, column, high), str(row[index]), role, mono=False)
        if index % PER_BAND == 0:
            ends.append((x, x))
        ends[-1] = (ends[-1][0], x + column)
    bottom = tops[2] + high + 6
    for band, (x0, x1) in enumerate(ends):
        tip = d.brace(x0, x1, bottom)
        agree = all(lines[0][i] == lines[1][i] for i in range(band * PER_BAND, (band + 1) * PER_BAND))
        d.text(
            tip[0],
            tip[1] + 4,
            "**agrees**" if agree else "differs",
            size=small,
            color="chosen" if agree else "muted",
            anchor="middle",
        )
        y = tip[1] + 4 + small
    equal = sum(a == b for a, b in zip(*lines, strict=True))
    end = d.note(
        left,
        y + small * 0.9,
        wide,
        [
            Line(f"Equal places estimate $J$: {equal} / {FUNCTIONS} = **{equal / FUNCTIONS:.2f}**.", small, "ink"),
            Line(
                "One band that agrees in full makes the two a candidate pair: found by a dictionary.", small, "ink", 4
            ),
        ],
        role="chosen",
    )
    d.height = end.y1 + (16 if not d.narrow else 10)


# -- the record -------------------------------------------------------------------------------------------------


def record(narrow: bool = False) -> Diagram:
    """A record of three texts becomes two rows of token ids with masks."""
    shared = sum(1 for _ in _common(CHOSEN_TOKENS, REJECTED_TOKENS))
    diagram = sheet(
        "ch03_data.record",
        "A preference record, and the two rows that it becomes",
        f"A record holds three texts: the prompt “{QUESTION}” in chat format, the chosen answer “{CHOSEN}” and the "
        "rejected "
        f"answer “{REJECTED}”. It becomes two rows of token ids, each the prompt's {PROMPT_COUNT} tokens followed "
        "by one answer of "
        f"{len(CHOSEN_TOKENS)} tokens, its end token included. The response mask is 0 on the prompt and 1 on the "
        "answer. The "
        f"answers share their first {shared} tokens and part at the digit. B records give a batch of 2B rows, "
        "padded to the "
        "longest; padding has attention mask 0 and response mask 0.",
        narrow,
    )
    _record(diagram)
    return diagram


def _common(first: list[str], second: list[str]) -> list[str]:
    found = []
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        found.append(a)
    return found


def _record(d: Diagram) -> None:
    small, left, wide = d.small, (20.0 if not d.narrow else 8.0), (1040.0 if not d.narrow else 344.0)
    y = 16.0 if not d.narrow else 8.0
    fields = (("prompt", QUESTION, "prompt"), ("chosen", CHOSEN, "chosen"), ("rejected", REJECTED, "rejected"))
    lane = Rect(left, y, wide, 112.0 if not d.narrow else 146.0)
    inner = d.lane(lane, "**The record**: three texts", "muted")
    gap = 18.0
    each = (inner.w - 2 * gap) / 3
    for index, (name, text, role) in enumerate(fields):
        if d.narrow:
            rect = Rect(inner.x, inner.y + 2 + index * 36, inner.w, 30)
        else:
            rect = Rect(inner.x + index * (each + gap), inner.y + 2, each, 46)
        d.cell(rect, f"`{name}`  {text}", role, mono=False)
    y = lane.y1 + (54.0 if not d.narrow else 30.0)
    d.arrow(lane.bottom, (lane.cx, y - 4))
    rows = Rect(left, y, wide, 0)
    d.text(left, y + 2, "**Two rows of token ids**")
    d.text(
        left,
        y + d.size * 1.5,
        f"each {PROMPT_COUNT} + {len(CHOSEN_TOKENS)} = {PROMPT_COUNT + len(CHOSEN_TOKENS)} tokens; a dot is a "
        "space, \\n a line break",
        size=small,
        color="muted",
        width=wide,
    )
    y += d.size * 1.5 + small * (2.2 if not d.narrow else 3.2)
    before = PROMPT_END if not d.narrow else PROMPT_END[-2:]
    for answer, role in ((CHOSEN_TOKENS, "chosen"), (REJECTED_TOKENS, "rejected")):
        strip = [("…", "prompt"), *((_shown(t), "prompt") for t in before), *((_shown(t), role) for t in answer)]
        cells = d.tokens(rows.x, y, wide, strip)
        y = cells[-1].y1 + small * 0.9
    masks = [("prompt", "prompt: response mask 0"), ("chosen", "answer: 1"), ("rejected", "answer: 1")]
    used = d.legend(left, y + 2, wide, masks)
    shared = len(_common(CHOSEN_TOKENS, REJECTED_TOKENS))
    end = d.note(
        left,
        used.y1 + small * 1.1,
        wide,
        [
            Line(
                f"The two answers share {shared} tokens and part at the digit: that is what this pair teaches.",
                small,
                "ink",
            ),
            Line(
                "B records make `(2B, T)`: chosen rows, then rejected rows, padded to the longest, T.", small, "ink", 4
            ),
            Line("The end token `<|im_end|>` belongs to an answer that ended, and to no other.", small, "ink", 4),
        ],
        role="reward",
    )
    d.height = end.y1 + (16 if not d.narrow else 10)
