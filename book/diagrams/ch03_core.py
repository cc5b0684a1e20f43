"""Section 3.1's diagrams: what DPO leaves out of RLHF, what that saves, and the reference tilted by the reward.

Sizes are those of SmolLM2-135M, probabilities those of `tiny` in the lab ch03_dpo_derivation; tests recompute both.
"""

from __future__ import annotations

import math
from itertools import pairwise

from diagrams.kit import WIDE, Diagram, Line, Rect, sheet

PARAMETERS = 134_515_008
"""Parameters of SmolLM2-135M, its tied embedding counted once."""

BETA = 0.5
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
"""The levels of the gold reward among the lab's 200 responses."""

REFERENCE = (0.0473, 0.1484, 0.1187, 0.3843, 0.0700, 0.2313)
"""Probability of each level under `tiny`, for the lab's first prompt, renormalized over the 200 responses."""


_SAME = "**The same objective:** expected reward − $β$ · KL to $π_{ref}$. RLHF climbs to it, DPO has solved it first."

# -- RLHF against DPO -------------------------------------------------------------------------------------------

_LOOP = (
    ("**Write**", "policy samples an answer $y$", "policy"),
    ("**Score**", "reward model: $r_φ(x, y)$", "reward"),
    ("**Compare**", "value model: better than expected?", "value"),
    ("**Update**", "policy and value, held by KL to $π_{ref}$", "policy"),
)


def rlhf_vs_dpo(narrow: bool = False) -> Diagram:
    """The two pipelines from the same pairs to the same objective."""
    diagram = sheet(
        "ch03_core.rlhf_vs_dpo",
        "RLHF with PPO and DPO, from the same preference pairs to the same objective",
        "Two pipelines. RLHF has three stages. Stage 1, supervised fine-tuning, gives the reference. Stage 2 fits a "
        "reward model to preference pairs. Stage 3 is a loop, run thousands of times: the policy samples an answer, "
        "the reward model scores it, the value model says how much better it is than expected, and policy and value "
        "model are updated, held by a KL penalty to the reference. DPO has two stages: the same supervised "
        "fine-tuning, and one classification loss on the same pairs, computed from the log-probabilities of the "
        "policy and the reference. Nothing is sampled, and no reward model or value model exists. Both look for the "
        "maximum of expected reward minus beta times the KL divergence to the reference.",
        narrow,
    )
    (_pipelines_narrow if narrow else _pipelines_wide)(diagram)
    return diagram


def _stage(d: Diagram, x: float, y: float, w: float, number: str, lines: list[Line | str], role: str) -> Rect:
    """A box with the number of its stage at its left."""
    side = 56.0 if not d.narrow else 36.0
    rect = d.box(x + side, y, w - side, lines, role=role)
    d.badge(x + side / 2 - 4, rect.cy, number, role)
    return rect


def _two_stages(d: Diagram, inner: Rect, title: str, detail: str, role: str) -> tuple[Rect, Rect]:
    """SFT and what follows it, with an arrow: side by side where there is room, else one below the other."""
    if d.narrow:
        first = _stage(d, inner.x, inner.y, inner.w, "1", ["**SFT**, gives $π_{ref}$"], "reference")
        second = _stage(d, inner.x, first.y1 + 22, inner.w, "2", [title, Line(detail, d.small, "muted", 2)], role)
        d.arrow(first.bottom, (second.cx, second.y - 2))
        return first, second
    half = (inner.w - 60) / 2
    sft: list[Line | str] = ["**SFT** on demonstrations", Line("gives $π_{ref}$", d.small, "muted", 3)]
    first = _stage(d, inner.x, inner.y, half, "1", sft, "reference")
    second = _stage(d, inner.x + half + 60, inner.y, half, "2", [title, Line(detail, d.small, "muted", 3)], role)
    d.arrow(first.right, (second.x - 60, second.cy))
    return first, second


def _pipelines_wide(d: Diagram) -> None:
    small = d.small
    rlhf = Rect(20, 16, 1040, 356)
    inner = d.lane(rlhf, "**RLHF with PPO:** three stages, four models", "muted")
    first, _ = _two_stages(d, inner, "**Reward model** $r_φ$", "fitted to the preference pairs", "reward")
    top = first.y1 + 46
    d.badge(inner.x + 24, top + small / 2, "3", "policy")
    d.text(
        inner.x + 56, top - 1, "**PPO:** the same four steps again and again, thousands of times", width=inner.w - 70
    )
    gap = 32.0
    wide = (inner.w - 3 * gap) / 4
    y = top + 42
    tallest = 0.0
    for title, text, role in _LOOP:  # first drawn on a blank sheet, to learn the tallest
        blank = Diagram("", "", "", WIDE)
        tallest = max(tallest, blank.box(0, 0, wide, [title, Line(text, small, "ink", 4)], role=role).h)
    loop = [
        d.box(inner.x + k * (wide + gap), y, wide, [title, Line(text, small, "ink", 4)], role=role, h=tallest)
        for k, (title, text, role) in enumerate(_LOOP)
    ]
    for before, after in pairwise(loop):
        d.arrow(before.right, (after.x - 2, after.cy))
    back = loop[0].y1 + 24
    d.arrow(loop[3].bottom, (loop[3].cx, back), (loop[0].cx, back), (loop[0].cx, loop[0].y1 + 2), dashed=True)
    rlhf_end = rlhf.y1
    y = rlhf_end + 22
    dpo = Rect(20, y, 1040, 144)
    inner = d.lane(dpo, "**DPO:** two stages, two models", "policy")
    _two_stages(d, inner, "**One loss** on the same pairs", "$−log σ(β · margin)$, nothing is sampled", "policy")
    y = dpo.y1 + 20
    note = d.note(
        20,
        y,
        1040,
        [Line(_SAME, small, "ink")],
        role="reward",
    )
    d.height = note.y1 + 16


def _pipelines_narrow(d: Diagram) -> None:
    small, left, wide = d.small, 8.0, 344.0
    rlhf = Rect(left, 8, wide, 436)
    inner = d.lane(rlhf, "**RLHF with PPO:** 3 stages, 4 models", "muted")
    _, second = _two_stages(d, inner, "**Reward model** $r_φ$", "fitted to the pairs", "reward")
    top = second.y1 + 22
    d.badge(inner.x + 14, top + small / 2, "3", "policy")
    d.text(inner.x + 36, top - 1, "**PPO:** a loop, thousands of times", width=inner.w - 40)
    y, rail = top + 30, inner.x + 8
    loop: list[Rect] = []
    for title, text, role in _LOOP:
        loop.append(d.box(inner.x + 36, y, inner.w - 36, [title, Line(text, small, "ink", 2)], role=role))
        y = loop[-1].y1 + 18
    for before, after in pairwise(loop):
        d.arrow(before.bottom, (after.cx, after.y - 2))
    d.arrow(loop[3].left, (rail, loop[3].cy), (rail, loop[0].cy), (loop[0].x - 2, loop[0].cy), dashed=True)
    y = rlhf.y1 + 14
    dpo = Rect(left, y, wide, 140)
    inner = d.lane(dpo, "**DPO:** 2 stages, 2 models", "policy")
    _two_stages(d, inner, "**One loss** on the same pairs", "$−log σ(β · margin)$, no sampling", "policy")
    note = d.note(
        left,
        dpo.y1 + 14,
        wide,
        [Line(_SAME, small, "ink")],
        role="reward",
    )
    d.height = note.y1 + 10


# -- memory -----------------------------------------------------------------------------------------------------


def megabytes(trained: int, frozen: int) -> tuple[float, float]:
    """Weights, and gradients with AdamW's two moments, in MB of fp32, for so many trained and frozen models."""
    return (trained + frozen) * PARAMETERS * 4 / 1e6, trained * PARAMETERS * 12 / 1e6


_MODELS = {
    "ppo": (
        ("**Policy** $π_θ$", "policy", True),
        ("**Value model** $V_φ$", "value", True),
        ("**Reward model** $r_φ$", "reward", False),
        ("**Reference** $π_{ref}$", "reference", False),
    ),
    "dpo": (("**Policy** $π_θ$", "policy", True), ("**Reference** $π_{ref}$", "reference", False)),
}


def memory(narrow: bool = False) -> Diagram:
    """Four models against two: what each needs in memory, to scale."""
    ppo, dpo, one = sum(megabytes(2, 2)), sum(megabytes(1, 1)), megabytes(0, 1)[0]
    trained = sum(megabytes(1, 0))
    diagram = sheet(
        "ch03_core.memory",
        "Memory of four models against two",
        "Bars to scale, for SmolLM2-135M in fp32 with AdamW and all weights trained. RLHF with PPO holds a policy "
        f"and a value model, both trained, {trained:,.0f} MB each: {one:,.0f} of weights and {trained - one:,.0f} of "
        f"gradients and moments; and a reward model and a reference, both frozen, {one:,.0f} MB each. Together "
        f"{ppo:,.0f} MB. DPO holds a trained policy and a frozen reference: {dpo:,.0f} MB, half as much. Activations, "
        "and the cache that sampling needs in PPO, come on top.",
        narrow,
    )
    (_memory_narrow if narrow else _memory_wide)(diagram)
    return diagram


def _memory_lane(d: Diagram, rect: Rect, title: str, role: str, kind: str) -> None:
    inner = d.lane(rect, title, role)
    label = 96.0 if not d.narrow else 68.0
    high, step = (30.0, 78.0) if not d.narrow else (18.0, 50.0)
    weights, kept = megabytes(1, 0)
    scale = (inner.w - label) / (weights + kept)
    y = inner.y + 2
    for name, colour, trained in _MODELS[kind]:
        d.text(inner.x, y, f"{name}, {'trained' if trained else 'frozen'}", size=d.small, color=colour)
        bar = Rect(inner.x, y + d.small * 1.45, weights * scale, high)
        d.rect(bar, colour, radius=3)
        if trained:
            d.rect(Rect(bar.x1, bar.y, kept * scale, high), colour, fill="panel", dashed=True, radius=3)
        end = bar.x1 + (kept * scale if trained else 0)
        total = weights + (kept if trained else 0)
        d.text(end + (10 if not d.narrow else 6), bar.cy - d.small / 2, f"{total:,.0f} MB", size=d.small)
        y += step


def _memory_wide(d: Diagram) -> None:
    wide, high = 508.0, 362.0
    _memory_lane(d, Rect(20, 16, wide, high), f"**RLHF with PPO:** {sum(megabytes(2, 2)):,.0f} MB", "muted", "ppo")
    _memory_lane(d, Rect(552, 16, wide, high), f"**DPO:** {sum(megabytes(1, 1)):,.0f} MB", "policy", "dpo")
    d.note(
        574,
        256,
        464,
        [
            Line(
                "PPO also writes answers while it trains: time, and a cache for the keys and values.", d.small, "muted"
            ),
            Line("With LoRA the reference costs nothing: adapter off.", d.small, "muted", 8),
        ],
    )
    y = 16 + high + 18
    d.text(
        20,
        y,
        "filled: weights; dashed: gradients and AdamW’s two moments (fp32, all weights trained)",
        size=d.small,
        color="muted",
    )
    d.height = y + d.small + 16


def _memory_narrow(d: Diagram) -> None:
    _memory_lane(d, Rect(8, 8, 344, 232), f"**RLHF with PPO:** {sum(megabytes(2, 2)):,.0f} MB", "muted", "ppo")
    _memory_lane(d, Rect(8, 252, 344, 132), f"**DPO:** {sum(megabytes(1, 1)):,.0f} MB", "policy", "dpo")
    note = d.note(
        8,
        398,
        344,
        [
            Line(
                "Filled: weights. Dashed: gradients and AdamW’s two moments (fp32, all weights trained).",
                d.small,
                "muted",
            ),
            Line(
                "PPO also writes answers while it trains. With LoRA the reference costs nothing: adapter off.",
                d.small,
                "muted",
                4,
            ),
        ],
    )
    d.height = note.y1 + 10


# -- tilting the reference --------------------------------------------------------------------------------------


def tilted() -> tuple[list[float], float, list[float]]:
    """pi_ref e^(r / beta) of every level, their sum Z, and the optimum."""
    weights = [p * math.exp(r / BETA) for p, r in zip(REFERENCE, LEVELS, strict=True)]
    return weights, sum(weights), [w / sum(weights) for w in weights]


def tilt(narrow: bool = False) -> Diagram:
    """Reference, factor and optimum, level by level of the reward."""
    weights, z, optimum = tilted()
    rows = "; ".join(
        f"reward {r:g}: {p:.3f} times {math.exp(r / BETA):.1f} is {w:.2f}, divided by Z {o:.3f}"
        for r, p, w, o in zip(LEVELS, REFERENCE, weights, optimum, strict=True)
    )
    diagram = sheet(
        "ch03_core.tilt",
        "The optimum is the reference, tilted by the exponential of the reward",
        f"Six levels of reward among 200 responses, with beta {BETA:g}. For each: the reference's probability, the "
        "factor e to the power of reward over beta, their product, and the optimum's probability, which is the "
        f"product divided by the sum of all products, Z = {z:.1f}. {rows}.",
        narrow,
    )
    (_tilt_narrow if narrow else _tilt_wide)(diagram)
    return diagram


def _bar(d: Diagram, x: float, y: float, width: float, high: float, share: float, role: str) -> None:
    d.rect(Rect(x, y, max(width * share, 2.0), high), role, radius=2)
    d.text(
        x + max(width * share, 2.0) + (9 if not d.narrow else 5),
        y + high / 2 - d.small / 2,
        f"{share:.3f}",
        size=d.small,
    )


def _tilt_wide(d: Diagram) -> None:
    small = d.small
    weights, z, optimum = tilted()
    columns = (20.0, 130.0, 424.0, 560.0, 690.0)
    heads = ("reward $r$", "**reference** $π_{ref}$", "$× e^{r / β}$", "product", "**optimum** $π^*$, product ÷ Z")
    roles = ("reward", "reference", "reward", "muted", "policy")
    for x, head, role in zip(columns, heads, roles, strict=True):
        d.text(x, 16, head.replace("÷", "/"), size=small, color=role)
    y = 62.0
    for r, p, w, o in zip(LEVELS, REFERENCE, weights, optimum, strict=True):
        d.text(columns[0] + 20, y + 17 - small / 2, f"**{r:g}**", size=small, color="reward")
        _bar(d, columns[1], y, 200 / max(REFERENCE), 34, p, "reference")
        d.text(
            columns[2] + 70, y + 17 - small / 2, f"{math.exp(r / BETA):.1f}", size=small, color="reward", anchor="end"
        )
        d.text(columns[3] + 60, y + 17 - small / 2, f"{w:.2f}", size=small, anchor="end")
        _bar(d, columns[4], y, 290 / max(optimum), 34, o, "policy")
        y += 48
    d.line((columns[3] - 10, y), (columns[3] + 70, y), role="muted")
    d.text(columns[3] + 60, y + 8, f"**Z = {z:.1f}**", size=small, anchor="end")
    d.text(20, y + 8, f"200 responses to “The old bear”, $β$ = {BETA:g}", size=small, color="muted")
    d.height = y + 8 + small + 16


def _tilt_narrow(d: Diagram) -> None:
    small = d.small
    weights, z, optimum = tilted()
    columns = (8.0, 50.0, 154.0, 202.0, 250.0)
    heads = ("$r$", "**reference**", "$e^{r/β}$", "product", "**optimum**")
    roles = ("reward", "reference", "reward", "muted", "policy")
    for x, head, role in zip((8.0, 50.0, 154.0, 191.0, 258.0), heads, roles, strict=True):
        d.text(x, 8, head, size=small, color=role)
    y = 36.0
    for r, p, w, o in zip(LEVELS, REFERENCE, weights, optimum, strict=True):
        middle = y + 10 - small / 2
        d.text(columns[0], middle, f"**{r:g}**", size=small, color="reward")
        _bar(d, columns[1], y, 54 / max(REFERENCE), 20, p, "reference")
        d.text(columns[2] + 34, middle, f"{math.exp(r / BETA):.1f}", size=small, color="reward", anchor="end")
        d.text(columns[3] + 38, middle, f"{w:.2f}", size=small, anchor="end")
        _bar(d, columns[4] + 8, y, 50 / max(optimum), 20, o, "policy")
        y += 30
    d.line((columns[3] - 8, y), (columns[3] + 42, y), role="muted")
    d.text(columns[3] + 40, y + 6, f"**Z = {z:.1f}**", size=small, anchor="end")
    note = d.text(
        8,
        y + 32,
        f"200 responses to “The old bear”, $β$ = {BETA:g}; optimum = product / Z",
        size=small,
        color="muted",
        width=344,
    )
    d.height = note.y1 + 10
