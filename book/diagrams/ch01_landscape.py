"""Diagrams of section 1.2: the stages of training, their scales, and the chain rule on a running example.

Scales are those of the cited reports; the probabilities of the chain are SmolLM2's, and a test asks the model again.
"""

from __future__ import annotations

import math
from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

# -- the stages --------------------------------------------------------------------------------------------------

STAGES: tuple[tuple[str, str, str, str, str], ...] = (
    ("Pre-training", "reference", "text, code", "next token, all positions", "$10^{11}$ to $10^{13}$ tokens"),
    ("Mid-training", "reference", "chosen text, long documents", "the same loss", "$10^{11}$ to $10^{12}$ tokens"),
    ("SFT", "prompt", "prompt and answer", "next token, answer only", "$10^4$ to $10^6$ prompts"),
    ("Preferences", "chosen", "answer $y_w$ above $y_l$", "DPO, or a reward model", "$10^4$ to $10^6$ pairs"),
    ("RL", "reward", "prompts with a reward", "policy gradient on own answers", "$10^4$ to $10^5$ prompts"),
)
"""Stage, colour, its data, its objective, its usual scale."""


def landscape(narrow: bool = False) -> Diagram:
    """From random weights to a reasoning assistant: data, objective, scale and what comes out."""
    told = " ".join(f"{name}: data {data}; objective {what}; scale {scale}." for name, _, data, what, scale in STAGES)
    d = sheet(
        "ch01_landscape.landscape",
        "The training landscape",
        "Random weights pass five stages. "
        + told.replace("$", "").replace("^{", "^").replace("}", "")
        + " After the second there is a base model, after the third an instruct model, after the fifth an assistant.",
        narrow,
    )
    small = d.small
    made = {"Mid-training": "base model", "SFT": "instruct model", "RL": "assistant"}
    if narrow:
        d.text(8, 8, "random weights", size=small, color="muted")
        y = 34.0
        before: Rect | None = None
        for name, role, data, what, scale in STAGES:
            lines = [Line(f"**{name}**: {data}", small), Line(what, small, "muted", 2), Line(scale, small, role, 2)]
            box = d.box(8, y, 344, lines, role=role, align="start")
            if before is not None:
                d.arrow((60, before.y1 + 1), (60, box.y - 2))
            before = box
            if name in made:
                d.text(76, box.y1 + 6, f"→ {made[name]}", size=small, color="policy")
            y = box.y1 + 28
        d.note(
            8, y + 4, 344,
            ["In the first two stages the text is its own label. Then people, models and rules say what is good."],
            role="policy",
        )  # fmt: skip
        d.height = y + 52
        return d
    wide, gap = 194.0, 22.0
    d.text(20, 12, "random weights →", size=small, color="muted")
    heads = []
    for k, (name, role, data, what, scale) in enumerate(STAGES):
        x = 14 + k * (wide + gap)
        heads.append(d.box(x, 46, wide, [Line(f"**{name}**")], role=role, h=56))
        lines = [Line(data, small), Line(what, small, "muted", 16), Line(scale, small, role, 16)]
        d.box(x, 112, wide, lines, role="faint", fill="panel", h=216)
        if name in made:
            d.text(x + wide / 2, 340, f"→ **{made[name]}**", size=small, color="policy", anchor="middle")
    for left, right in pairwise(heads):
        d.arrow(left.right, (right.x - 2, right.cy))
    d.brace(14, 14 + 2 * wide + gap, 372)
    d.text(14 + wide + gap / 2, 392, "the text is its own label", size=small, color="muted", anchor="middle")
    d.brace(14 + 2 * (wide + gap), 14 + 5 * wide + 4 * gap, 372)
    centre = 14 + 3.5 * wide + 3 * gap
    d.text(centre, 392, "people, models and rules say what is good", size=small, color="muted", anchor="middle")
    d.height = 428
    return d


# -- scales -------------------------------------------------------------------------------------------------------

SCALES: tuple[tuple[str, str, str, tuple[tuple[str, float], ...]], ...] = (
    (
        "Pre-training", "tokens", "reference",
        (("GPT-3", 300e9), ("SmolLM2-135M", 2e12), ("Llama 2", 2e12), ("DeepSeek-V3", 14.8e12), ("Llama 3.1", 15.6e12),
         ("Qwen2.5", 18e12)),
    ),
    (
        "SFT", "examples", "prompt",
        (("InstructGPT", 12_725), ("Llama 2", 27_540), ("R1", 800e3), ("Tülu 3", 939_344), ("DeepSeek-V3", 1.5e6)),
    ),
    (
        "Preferences", "prompts or pairs", "chosen",
        (("InstructGPT", 33_207), ("Qwen2.5", 150e3), ("Tülu 3 8B", 271_409), ("Llama 2", 1_418_091)),
    ),
    ("RL", "prompts", "reward", (("Tülu 3", 30e3), ("InstructGPT", 31_144))),
)  # fmt: skip
"""Stage, unit, colour, and what the reports state: the page's table gives the sources."""


def scales(narrow: bool = False) -> Diagram:
    """How much of what each stage needs, on one logarithmic axis from a thousand to 100 trillion."""
    told = " ".join(
        f"{stage} ({unit}): " + ", ".join(f"{name} {_short(value)}" for name, value in models) + "."
        for stage, unit, _, models in SCALES
    )
    d = sheet("ch01_landscape.scales", "Scales of the stages", f"A logarithmic axis. {told}", narrow)
    small = d.small
    left, right = (8.0, 352.0) if narrow else (230.0, 1050.0)
    low, high = 4.0, 13.6

    def at(value: float) -> float:
        return left + 6 + (math.log10(value) - low) / (high - low) * (right - left - 12)

    y = 10.0
    for stage, unit, role, models in SCALES:
        if narrow:
            d.text(8, y, f"**{stage}**, {unit}", size=small, color=role)
            y += small * 1.6
        else:
            d.text(20, y + 4, f"**{stage}**", size=small, color=role)
            d.text(20, y + 4 + small * 1.3, unit, size=small, color="muted")
        axis = y + (10 if narrow else 22)
        d.line((left, axis), (right, axis), role="faint", stroke=d.stroke)
        for _, value in models:
            d.dot(at(value), axis, role)
        lowest, highest = models[0], models[-1]
        label = f"{lowest[0]} {_short(lowest[1])}"
        y = axis + small * 0.8
        if stage == "Pre-training":
            d.text(at(lowest[1]) - (14 if narrow else 0), y, label, size=small, color="muted", anchor="end")
            d.text(right, y, f"{highest[0]} {_short(highest[1])}", size=small, color="muted", anchor="end")
        else:
            d.text(max(left, at(lowest[1]) - 6), y, label, size=small, color="muted")
            y += small * 1.35
            d.text(max(left, at(lowest[1]) - 6), y, f"to {highest[0]} {_short(highest[1])}", size=small, color="muted")
        y += small * 2.0
    d.line((left, y), (right, y), role="ink")
    for power in (4, 6, 8, 10, 12):
        x = at(10**power)
        d.line((x, y), (x, y + 6), role="ink")
        d.text(
            x,
            y + 10,
            f"$10^{{{power}}}$",
            size=small,
            color="muted",
            anchor="start" if power == 4 and narrow else "middle",
        )
    d.height = y + small * 2.4
    return d


def _short(value: float) -> str:
    """12_725 -> "12,725", 271_409 -> "271K", 2e12 -> "2T"."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value / 1e3:.0f}K" if value >= 1e5 else f"{value:,.0f}"


# -- the chain rule -------------------------------------------------------------------------------------------------

OPENING = "17 + 25 = "
"""What both answers begin with; eight tokens."""

SHARED = 0.240
"""SmolLM2's probability of the opening, after the question in its chat format."""

ANSWERS: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = (
    ("chosen", (("4", 0.019), ("2", 0.970), (".", 0.151))),
    ("rejected", (("3", 0.981), ("2", 0.701), (".", 0.195))),
)
"""The right answer and the likeliest one: each further token with its conditional probability."""


def product(tokens: tuple[tuple[str, float], ...]) -> float:
    """Probability of an answer: that of the opening times those of its tokens."""
    return SHARED * math.prod(p for _, p in tokens)


def chain(narrow: bool = False) -> Diagram:
    """Two answers to "What is 17 + 25?" as paths in a tree of conditional probabilities."""
    right, likely = (product(tokens) for _, tokens in ANSWERS)
    d = sheet(
        "ch01_landscape.chain",
        "The chain rule on two answers",
        f"After the question What is 17 + 25? the opening {OPENING}has probability {SHARED:.3f}. Then the paths part: "
        f"4 with 0.019, 2 with 0.970, stop with 0.151, in all {right:.5f}; or 3 with 0.981, 2 with 0.701, full stop "
        f"with 0.195, in all {likely:.4f}. The probability of a text is the product along its path.",
        narrow,
    )
    small = d.small
    if narrow:
        lines = [Line("**What is 17 + 25?**", small), Line(f"`{OPENING}` : {SHARED:.3f}", small, "muted", 3)]
        start = d.box(8, 8, 344, lines, role="prompt")
        for k, (role, tokens) in enumerate(ANSWERS):
            x, y = 8 + 178 * k, start.y1 + 30
            previous = Rect(x, start.y, 166, start.h)
            for token, p in tokens:
                box = d.box(x, y, 166, [Line(f"`{token}` : {p:.3f}", small)], role=role)
                d.arrow((box.cx, previous.y1 + 1), (box.cx, box.y - 2))
                previous, y = box, box.y1 + 22
            d.text(x, y - 12, f"product {product(tokens):.2g}", size=small, color=role)
        d.height = y + 16
        return d
    lines = [Line("**What is 17 + 25?**", small), Line(f"`{OPENING}`", small, "ink", 6)]
    start = d.box(20, 64, 250, [*lines, Line(f"$p$ = {SHARED:.3f}", small, "muted", 4)], role="prompt", h=112)
    for k, (role, tokens) in enumerate(ANSWERS):
        y = 22.0 + 112 * k
        last: Rect | None = None
        for j, (token, p) in enumerate(tokens):
            lines = [Line(f"`{token}`"), Line(f"$p$ = {p:.3f}", small, "muted", 2)]
            box = d.box(380 + 158 * j, y, 132, lines, role=role, h=84)
            if last is None:
                middle = start.cy - 20 + 40 * k
                d.arrow((start.x1 + 1, middle), (330, middle), (330, box.cy), (box.x - 2, box.cy))
            else:
                d.arrow(last.right, (box.x - 2, box.cy))
            last = box
        d.text(850, y + 18, f"product {product(tokens):.2g}", size=small, color=role)
        log = f"log {math.log(product(tokens)):.2f}".replace("-", "−")
        d.text(850, y + 18 + small * 1.4, log, size=small, color="muted")
    d.height = 240
    return d
