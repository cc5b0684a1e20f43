"""Diagrams of the architecture families: masks, objectives, LLaMA's block, tokens per parameter.

Sizes and counts are those of `alignlab.counting`; tests compare them.
"""

from __future__ import annotations

import math
from itertools import groupby

from alignlab import counting
from diagrams.kit import Diagram, Line, Rect, measure, runs, sheet

PROMPT, ANSWER = ("Who", "are", "you", "?"), ("I", "am", "tiny")
"""The running example as words: a prompt that is given, an answer that is written."""

WORDS = PROMPT + ANSWER
SIZE, PREFIX = len(WORDS), len(PROMPT)


def seen(family: str, row: int, column: int) -> str:
    """The role of a cell: who sees whom in a family, empty for nobody."""
    causal, within = column <= row, column < PREFIX
    if family == "encoder":
        return "value"
    if family == "causal decoder":
        return "policy" if causal else ""
    if family == "prefix decoder":
        return "value" if row < PREFIX and within else "policy" if causal else ""
    if row < PREFIX:  # the encoder-decoder's two stacks, and the cross-attention between them
        return "value" if within else ""
    return "reward" if within else "policy" if causal else ""


FAMILIES = {
    "encoder": "BERT, ModernBERT",
    "encoder-decoder": "T5, BART",
    "prefix decoder": "UniLM, GLM",
    "causal decoder": "GPT, LLaMA, Qwen",
}


def pairs(family: str) -> int:
    """How many of the row-column pairs of a family are seen."""
    return sum(bool(seen(family, row, column)) for row in range(SIZE) for column in range(SIZE))


def masks(narrow: bool = False) -> Diagram:
    """Four masks over the same seven words."""
    d = sheet(
        "ch01_families.masks",
        "Who sees whom in four families",
        "Four square tables over the words Who, are, you, ?, I, am, tiny; each row is a word that looks, each column a "
        "word that is seen. Encoder: all 49 pairs. Encoder-decoder: the four words of the question see one another, "
        "the answer sees the whole question by cross-attention and its own past; the question never sees the answer. "
        "Prefix decoder: the same pairs, in one stack. Causal decoder: each word sees itself and what is before it, "
        "28 pairs.",
        narrow,
    )
    cell = 17.0 if narrow else 25.0
    label = 42.0 if narrow else 60.0
    for number, (family, models) in enumerate(FAMILIES.items()):
        x0 = (8 + (number % 2) * 176 if narrow else 14 + number * 266) + label
        y0 = 8 + (number // 2) * 190 if narrow else 12.0
        left = x0 - label
        title = d.text(left, y0, f"**{family}**", color="ink")
        head = d.text(left, title.y1 + 2, models, size=d.small, color="muted")
        top = head.y1 + d.small * 0.6
        d.rect(Rect(x0, top, SIZE * cell, SIZE * cell), None, fill="none", radius=3, stroke=d.stroke * 0.5)
        for row, word in enumerate(WORDS):
            y = top + row * cell
            d.text(x0 - 6, y + (cell - d.small) / 2, word, size=d.small, color="muted", anchor="end")
            marks = [seen(family, row, column) for column in range(SIZE)]
            for role, group in groupby(range(SIZE), key=marks.__getitem__):
                columns = list(group)
                if role:
                    bar = Rect(x0 + columns[0] * cell + 1, y + 1, len(columns) * cell - 2, cell - 2)
                    d.rect(bar, role, radius=3, stroke=d.stroke * 0.6)
        end = top + SIZE * cell
        d.text(x0, end + 4, f"{pairs(family)} pairs", size=d.small, color="muted")
    low = 8 + 190 * 2.0 if narrow else end + d.small * 2
    legend = d.legend(
        8 if narrow else 20, low, 344 if narrow else 1040,
        [("value", "both ways"), ("policy", "the past only"), ("reward", "cross-attention")],
    )  # fmt: skip
    d.height = legend.y1 + 12
    return d


# -- what is asked ----------------------------------------------------------------------------------------------

Strip = list[tuple[str, str]]
GIVEN, HIDDEN, ASKED = "prompt", "reference", "policy"
OBJECTIVES: dict[str, tuple[str, Strip, Strip, str]] = {
    "encoder": (
        "masked tokens",
        [("17", GIVEN), ("+", GIVEN), ("▢", HIDDEN), ("=", GIVEN), ("▢", HIDDEN)],
        [("25", ASKED), ("42", ASKED)],
        "all at once, each in its place",
    ),
    "encoder-decoder": (
        "span corruption",
        [("17", GIVEN), ("+", GIVEN), ("<X>", HIDDEN), ("=", GIVEN), ("42", GIVEN)],
        [("<X>", ASKED), ("25", ASKED), ("<Y>", ASKED)],
        "the gap, token by token",
    ),
    "prefix decoder": (
        "blank infilling",
        [("17", GIVEN), ("+", GIVEN), ("▢", HIDDEN), ("=", GIVEN), ("42", GIVEN), ("‹", GIVEN)],
        [("25", ASKED), ("›", ASKED)],
        "the gap, at the end of the row",
    ),
    "causal decoder": (
        "next token",
        [("17", GIVEN), ("+", GIVEN), ("25", GIVEN), ("=", GIVEN)],
        [("+", ASKED), ("25", ASKED), ("=", ASKED), ("42", ASKED)],
        "each token’s successor",
    ),
}


def objectives(narrow: bool = False) -> Diagram:
    """What each family is given, and what it must say."""
    d = sheet(
        "ch01_families.objectives",
        "What goes in, and what is asked for",
        "Four rows for the line 17 + 25 = 42. Encoder: 17 + blank = blank goes in, 25 and 42 are asked at the blanks. "
        "Encoder-decoder: 17 + X = 42 goes in, the decoder writes X 25 Y. Prefix decoder: 17 + blank = 42 and a start "
        "sign go in, 25 and an end sign follow in the same row. Causal decoder: 17 + 25 = goes in, and each next token "
        "is asked for.",
        narrow,
    )
    y = 8.0 if narrow else 14.0
    for family, (name, given, asked, how) in OBJECTIVES.items():
        if narrow:
            title = d.text(8, y, f"**{family}:** {name}")
            cells = d.tokens(8, title.y1 + 6, 190, given)
            out = d.tokens(232, title.y1 + 6, 122, asked)
            d.arrow((cells[-1].x1 + 4, cells[0].cy), (228, cells[0].cy))
            note = d.text(8, cells[0].y1 + 6, how, size=d.small, color="muted")
            y = note.y1 + 16
            assert out[0].y == cells[0].y
        else:
            d.text(20, y, f"**{family}**")
            d.text(20, y + d.size * 1.35, name, size=d.small, color="muted")
            cells = d.tokens(230, y + 6, 330, given)
            out = d.tokens(620, y + 6, 250, asked)
            d.arrow((cells[-1].x1 + 6, cells[0].cy), (612, cells[0].cy))
            d.text(800, cells[0].cy - d.small * 0.55, how, size=d.small, color="muted", width=270)
            y += 74
    end = d.legend(
        8 if narrow else 20, y, 344 if narrow else 1040, [(GIVEN, "given"), (HIDDEN, "hidden"), (ASKED, "predicted")]
    )
    d.height = end.y1 + 12
    return d


# -- LLaMA's block ------------------------------------------------------------------------------------------------

LLAMA = counting.published("LLaMA-7B").architecture

EXCHANGED = {
    "RMSNorm": "for LayerNorm: no mean, no bias",
    "RoPE": "for learned positions: turns $q$ and $k$ in every layer",
    "GQA": "for one key and value head per query head (Llama 2 70B: 64 on 8)",
    "SwiGLU": "for ReLU or GELU: three matrices, so $d_{ff} ≈ 8d/3$",
}


def llama_block(narrow: bool = False) -> Diagram:
    """One layer of LLaMA-7B with shapes, and what each part stands in for."""
    d = sheet(
        "ch01_families.llama_block",
        "LLaMA’s layer, and what it exchanged",
        "From top to bottom: the residual stream x of shape T by 4096 goes through RMSNorm into attention with 32 "
        "heads of width 128, queries and keys turned by RoPE, and is added back; then through RMSNorm into SwiGLU with "
        "inner width 11008, and is added back. Beside each part stands what it replaced: RMSNorm for LayerNorm, RoPE "
        "for learned positions, grouped queries for one key and value head per query head, SwiGLU for ReLU or GELU.",
        narrow,
    )
    a = LLAMA
    parts = [
        ("**RMSNorm**", f"`(T, {a.hidden_size})`", "reference", "RMSNorm"),
        ("$q, k, v$, turned by **RoPE**", f"`({a.num_attention_heads}, T, {a.head_dim})` each", "policy", "RoPE"),
        ("**attention**, output", f"`(T, {a.hidden_size})`", "policy", "GQA"),
        ("**RMSNorm**", f"`(T, {a.hidden_size})`", "reference", ""),
        (
            "**SwiGLU**: gate, up, down",
            f"{a.hidden_size} → {a.intermediate_size} → {a.hidden_size}",
            "value",
            "SwiGLU",
        ),
    ]
    x, w, h, step = (40.0, 190.0, 54.0, 80.0) if narrow else (120.0, 400.0, 78.0, 104.0)
    spine = 16.0 if narrow else 60.0
    y = 30.0 if narrow else 40.0
    d.text(spine - 8, 6, f"$x$ `(T, {a.hidden_size})`", size=d.small, color="muted")
    boxes = []
    for number, (name, shape, role, key) in enumerate(parts):
        y += d.small * 1.2 if number == 3 else 0
        box = d.box(x, y, w, [Line(name), Line(shape, d.small, "muted", 2)], role=role, h=h)
        boxes.append(box)
        if key:
            left = box.x1 + (12 if narrow else 30)
            width = (352 if narrow else 1060) - left
            if narrow:
                short = {
                    "RMSNorm": "for LayerNorm", "RoPE": "for learned positions",
                    "GQA": "later GQA, for a key head per query", "SwiGLU": "for ReLU or GELU",
                }  # fmt: skip
                d.note(left, box.y + 4, width, [Line(short[key], d.small, "muted")], role="kl")
            else:
                d.note(left, box.y + 10, width, [Line(f"**{key}**", d.small, "kl"), EXCHANGED[key]], role="kl")
        y += step
    for upper, lower in ((0, 1), (1, 2), (3, 4)):
        d.arrow((boxes[upper].cx, boxes[upper].y1 + 1), (boxes[lower].cx, boxes[lower].y - 2))
    bottom = boxes[-1].y1 + (34 if narrow else 46)
    for first, last in ((0, 2), (3, 4)):
        d.arrow((spine, boxes[first].cy), (boxes[first].x - 2, boxes[first].cy), role="ink")
        low = boxes[last].y1 + (9 if narrow else 14)
        d.arrow((boxes[last].cx, boxes[last].y1 + 1), (boxes[last].cx, low), (spine + (9 if narrow else 14), low))
    d.arrow((spine, d.small + 12), (spine, bottom), role="ink")
    radius = 8.0 if narrow else 12.0
    for last in (2, 4):
        low = boxes[last].y1 + (9 if narrow else 14)
        mark = Rect(spine - radius, low - radius, 2 * radius, 2 * radius)
        d.rect(mark, "ink", fill="panel", radius=radius)
        for ends in (((spine - 5, low), (spine + 5, low)), ((spine, low - 5), (spine, low + 5))):
            d.line(*ends, role="ink")
    d.text(spine + 14, bottom - d.small, f"to the next of {a.num_hidden_layers} layers", size=d.small, color="muted")
    d.height = bottom + 10
    return d


# -- tokens per parameter -----------------------------------------------------------------------------------------

OUTSIDE = {"GPT-3": (300e9, 175e9, 2020), "Chinchilla": (1.4e12, 70e9, 2022)}
"""Training tokens and parameters as stated (Brown et al., 2020, table 2.1; Hoffmann et al., 2022, table 4)."""

SHOWN = ("LLaMA-65B", "LLaMA-7B", "Llama-2-7B", "Llama-3.1-8B", "Qwen3-8B", "SmolLM2-135M")


def ratios() -> list[tuple[str, int, float]]:
    """Name, year, and training tokens per parameter."""
    rows = [(name, year, tokens / size) for name, (tokens, size, year) in OUTSIDE.items()]
    for name in SHOWN:
        model = counting.published(name)
        assert model.tokens is not None
        rows.append((name, model.year, 1e12 * model.tokens / sum(counting.parameters(model.architecture).values())))
    return rows


def tokens_per_parameter(narrow: bool = False) -> Diagram:
    """How long models are trained for their size, on a logarithmic axis."""
    rows = ratios()
    d = sheet(
        "ch01_families.tokens_per_parameter",
        "Training tokens per parameter",
        "A bar for each model on a logarithmic axis: "
        + ", ".join(f"{name} ({year}) {value:,.0f}" for name, year, value in rows)
        + ". A line marks 20, the rule of thumb of compute-optimal training.",
        narrow,
    )
    label = 128.0 if narrow else 230.0
    right = 300.0 if narrow else 960.0
    row = 26.0 if narrow else 42.0
    top = 26.0 if narrow else 40.0

    def at(value: float) -> float:
        return label + (right - label) * math.log10(value) / math.log10(20_000)

    d.text(at(20), 4, "20", size=d.small, color="rejected", anchor="middle")
    for number, (name, year, value) in enumerate(rows):
        y = top + number * row
        d.text(
            label - 8, y + (row - d.small) / 2 - 2, name if narrow else f"{name}, {year}", size=d.small, anchor="end"
        )
        bar = Rect(label, y + 2, at(value) - label, row - 8)
        d.rect(bar, "policy" if number > 1 else "reference", radius=3, stroke=d.stroke * 0.7)
        text = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
        edge = at(20) if bar.x1 + 60 > at(20) >= bar.x1 else bar.x1
        d.text(edge + 6, y + (row - d.small) / 2 - 2, text, size=d.small, color="muted")
        assert edge + 6 + measure(runs(text), d.small) < d.width
    low = top + len(rows) * row
    d.line((at(20), top - 6), (at(20), low), role="rejected", dashed=True)
    d.height = low + 10
    return d
