"""Diagrams of section 1.3: four things to scale, where 6ND comes from, valleys of equal compute, tries at test time.

The curves and numbers are computed by `alignlab.scaling` from the published constants; tests recompute them.
"""

from __future__ import annotations

import math

from alignlab.reasoning.voting import vote_accuracy
from alignlab.scaling import KAPLAN_COMPUTE, KAPLAN_PARAMETERS, KAPLAN_TOKENS, REPLICATION
from diagrams.kit import Diagram, Line, Rect, sheet

FOUR = (
    ("parameters", "N", "policy", "a larger model, text in plenty", KAPLAN_PARAMETERS.exponent, "wider, deeper"),
    ("tokens", "D", "prompt", "more text, a model large enough", KAPLAN_TOKENS.exponent, "each text read once"),
    ("compute", "C", "value", "both, in the best proportion", KAPLAN_COMPUTE.exponent, "$6ND$ FLOPs, spent once"),
)
"""The three laws of pre-training: what grows, what must not be short, Kaplan's exponent, how."""


def left(exponent: float) -> float:
    """What ten times as much leaves of the loss, as a share."""
    return float(10**-exponent)


def four(narrow: bool = False) -> Diagram:
    """The four scaling behaviours: three before the model is used, one at each answer."""
    d = sheet(
        "ch01_scaling.four",
        "Four things to scale",
        "Four panels. Parameters, tokens and compute lower the loss of pre-training as power laws; Kaplan's exponents "
        + ", ".join(f"{exponent:.3f}" for *_, exponent, _ in FOUR)
        + " mean that ten times as much leaves "
        + ", ".join(f"{100 * left(exponent):.0f}%" for *_, exponent, _ in FOUR)
        + " of the loss. The fourth is compute at test time: tries, votes and longer thinking raise the accuracy of "
        "answers, and are paid at each question anew.",
        narrow,
    )
    width, height = (344.0, 118.0) if narrow else (250.0, 252.0)
    gap = 12.0 if narrow else 13.0
    x, y = (8.0, 8.0) if narrow else (20.0, 20.0)
    for name, symbol, role, needs, exponent, how in FOUR:
        box = d.box(
            x, y, width,
            [
                Line(f"**{name}** ${symbol}$", color=role),
                Line(f"$L = (c / x)^{{{exponent:.3f}}}$" if not narrow else f"$L ∝ x^{{−{exponent:.3f}}}$", gap=6),
                Line(f"10 times as much leaves {100 * left(exponent):.0f}% of the loss", d.small, gap=6),
                Line(needs, d.small, "muted", 6),
                Line(how, d.small, "muted", 2),
            ],
            role=role, fill="panel", h=height,
        )  # fmt: skip
        x, y = (x, box.y1 + gap) if narrow else (box.x1 + gap, y)
    last = d.box(
        x, y, width,
        [
            Line("**test time**", color="reward"),
            Line("$1 − (1 − p)^k$", gap=6),
            Line("right at least once in $k$ tries", d.small, gap=6),
            Line("a verifier, or a vote", d.small, "muted", 6),
            Line("$2N$ FLOPs a token, paid at each question", d.small, "muted", 2),
        ],
        role="reward", fill="panel", h=height,
    )  # fmt: skip
    if narrow:
        d.height = last.y1 + 10
        return d
    y = last.y1 + 14
    tip, _ = d.brace(20, 20 + 3 * width + 2 * gap, y, role="muted"), None
    d.text(
        tip[0],
        tip[1] + 6,
        "paid once, before anyone asks; lowers the loss",
        size=d.small,
        color="muted",
        anchor="middle",
    )
    tip = d.brace(last.x, last.x1, y, role="muted")
    d.text(tip[0], tip[1] + 6, "paid at each answer", size=d.small, color="muted", anchor="middle")
    d.height = tip[1] + 40
    return d


def six(narrow: bool = False) -> Diagram:
    """Why training costs 6 FLOPs a parameter and token: three products of the same size."""
    d = sheet(
        "ch01_scaling.six",
        "Where 6ND comes from",
        "A weight matrix meets one token in three products of equal cost: forward, y = W x; "
        "backward to the input, grad x = W transposed times grad y; backward to the weights, grad W = grad y times x. "
        "Each takes one multiplication and one addition per weight: 2 FLOPs. Together 6 for each parameter and token.",
        narrow,
    )
    steps = (
        ("forward", "$y = W x$", "the answer of the layer", "policy"),
        ("back to the input", "$∇x = W^⊤ ∇y$", "what the layer below needs", "rejected"),
        ("back to the weights", "$∇W = ∇y x^⊤$", "what the optimizer needs", "reward"),
    )
    if narrow:
        y = 8.0
        for name, formula, why, role in steps:
            box = d.box(
                8,
                y,
                262,
                [Line(f"**{name}**", color=role), Line(formula, gap=4), Line(why, d.small, "muted", 4)],
                role=role,
            )
            d.text(288, box.cy - d.size * 0.6, "2 FLOPs", color=role)
            y = box.y1 + 10
        note = d.note(8, y + 4, 344, ["a weight and a token", "**6 FLOPs** to train, **2** to use"], role="ink")
        d.height = note.y1 + 12
        return d
    x = 20.0
    for k, (name, formula, why, role) in enumerate(steps):
        box = d.box(
            x,
            20,
            240,
            [Line(f"**{name}**", color=role), Line(formula, gap=6), Line(why, d.small, "muted", 6)],
            role=role,
            h=136,
        )
        d.text(box.cx, box.y1 + 12, "2 FLOPs", color=role, anchor="middle")
        if k < 2:
            d.text(box.x1 + 17, 70, "+", anchor="middle")
        x = box.x1 + 34
    d.text(x - 17, 70, "=", anchor="middle")
    d.box(
        x,
        20,
        208,
        [
            Line("**6 FLOPs**"),
            Line("a weight and a token, to train", d.small, "muted", 6),
            Line("2 of them to use", d.small, "muted", 2),
        ],
        h=136,
    )
    d.height = 196
    return d


GOPHER, CHINCHILLA_70B = (280e9, 300e9), (70e9, 1.4e12)
"""Parameters and tokens of two models of nearly the same compute, Hoffmann et al. (2022)."""

BUDGETS = (5.76e21, 5.76e22, 5.76e23)
"""FLOPs of the three valleys; the last is Gopher's as the paper states it."""


def valleys(narrow: bool = False) -> Diagram:
    """Loss along lines of equal compute, by the replication's constants, and the lowest points."""
    law = REPLICATION
    best = [law.optimal(c) for c in BUDGETS]
    gap = law(*GOPHER) - law(*CHINCHILLA_70B)
    d = sheet(
        "ch01_scaling.valleys",
        "Valleys of equal compute",
        "Loss against parameters on a logarithmic axis, three curves of equal compute, each with one lowest point: "
        + "; ".join(
            f"{n / 1e9:.1f} billion parameters at {c:.2e} FLOPs" for c, (n, _) in zip(BUDGETS, best, strict=True)
        )
        + f". The lowest points move right and down as compute grows. Gopher stands right of the lowest point of its "
        f"valley, Chinchilla nearly on it, {gap:.3f} nats lower.",
        narrow,
    )
    frame = Rect(46, 16, 302, 270) if narrow else Rect(90, 20, 700, 400)
    low, high = 9.0, 12.25
    bottom, top = 1.9, 2.35

    def at(n: float, loss: float) -> tuple[float, float]:
        return (
            frame.x + (math.log10(n) - low) / (high - low) * frame.w,
            frame.y1 - (loss - bottom) / (top - bottom) * frame.h,
        )

    for power in range(9, 13):
        x = at(10.0**power, bottom)[0]
        d.line((x, frame.y), (x, frame.y1))
        d.text(x, frame.y1 + 14, ("1B", "10B", "100B", "1T")[power - 9], size=d.small, color="muted", anchor="middle")
    for loss in (1.9, 2.0, 2.1, 2.2, 2.3):
        y = at(1e9, loss)[1]
        d.line((frame.x, y), (frame.x1, y))
        d.text(frame.x - 8, y - d.small * 0.5, f"{loss:.1f}", size=d.small, color="muted", anchor="end")
    d.text(frame.cx, frame.y1 + 14 + d.small * 1.5, "parameters", size=d.small, color="muted", anchor="middle")
    d.text(frame.x + 10, frame.y + 6, "loss, nats a token", size=d.small, color="muted")
    for budget in BUDGETS:
        points = []
        for step in range(121):
            n = 10 ** (low + (high - low) * step / 120)
            loss = law(n, budget / (6 * n))
            if loss <= top:
                points.append(at(n, loss))
        d.line(*points, role="policy", stroke=d.stroke * 1.3)
    d.line(*(at(n, law(n, t)) for n, t in best), role="chosen", stroke=d.stroke * 1.3, dashed=True)
    for n, t in best:
        d.dot(*at(n, law(n, t)), "chosen")
    for model in (GOPHER, CHINCHILLA_70B):
        d.dot(*at(model[0], law(*model)), "reward")
    rows = [
        Line("each curve: one compute, all sizes", d.small, "policy"),
        *(
            Line(f"{c / 1e21:.3g} · 10$^{{21}}$: {n / 1e9:.0f}B", d.small, "chosen", 3)
            for c, (n, _) in zip(BUDGETS, best, strict=True)
        ),
        Line(f"Gopher, 280B: {law(*GOPHER):.3f}", d.small, "reward", 6),
        Line(f"Chinchilla, 70B: {law(*CHINCHILLA_70B):.3f}", d.small, "reward", 3),
    ]  # fmt: skip
    if narrow:
        note = d.note(12, frame.y1 + 50, 340, rows, role="faint")
        d.height = note.y1 + 12
    else:
        d.note(820, 60, 240, rows, role="faint")
        d.height = 492
    return d


SHARES = {"42": 0.5, "32": 0.3, "52": 0.2}
"""A model's answers to "What is 17 + 25?" in the worked example, and how often it gives each."""

TRIES = 5


def solved(k: int) -> float:
    """Chance that one of k tries is right."""
    return 1 - (1 - SHARES["42"]) ** k


def voted(k: int) -> float:
    """Chance that the most frequent of k answers is right."""
    return vote_accuracy(SHARES, "42", k)


def tries(narrow: bool = False) -> Diagram:
    """Several tries at one question: a verifier takes any right one, a vote takes the most frequent."""
    d = sheet(
        "ch01_scaling.tries",
        "Spending compute on an answer",
        f"The question What is 17 + 25 is answered {TRIES} times: 42, 32, 42, 52, 42. A verifier needs one right "
        f"answer among them: chance {solved(TRIES):.3f} where one try has {SHARES['42']}. A vote needs the right "
        f"answer to be the most frequent: chance {voted(TRIES):.3f}.",
        narrow,
    )
    answers = ("42", "32", "42", "52", "42")
    roles = [("chosen" if a == "42" else "rejected") for a in answers]
    if narrow:
        ask = d.box(8, 8, 344, ["**What is 17 + 25?**"], role="prompt")
        cells = [
            d.cell(Rect(8 + k * 70, ask.y1 + 34, 64, 34), a, r)
            for k, (a, r) in enumerate(zip(answers, roles, strict=True))
        ]
        d.arrow((180, ask.y1 + 1), (180, cells[0].y - 2))
        y = cells[0].y1 + 34
        verify = d.box(
            8,
            y,
            166,
            [
                Line("**verifier**", color="chosen"),
                Line("any right one", d.small, "muted", 3),
                Line(f"{solved(1):.2f} → {solved(TRIES):.3f}", gap=6),
            ],
            role="chosen",
        )
        vote = d.box(
            186,
            y,
            166,
            [
                Line("**vote**", color="value"),
                Line("the most frequent", d.small, "muted", 3),
                Line(f"{voted(1):.2f} → {voted(TRIES):.3f}", gap=6),
            ],
            role="value",
        )
        d.arrow((91, cells[0].y1 + 2), (91, verify.y - 2))
        d.arrow((269, cells[0].y1 + 2), (269, vote.y - 2))
        d.height = verify.y1 + 10
        return d
    ask = d.box(20, 96, 210, ["**What is** **17 + 25?**"], role="prompt", h=84)
    cells = [d.cell(Rect(350, 14 + k * 52, 90, 42), a, r) for k, (a, r) in enumerate(zip(answers, roles, strict=True))]
    d.arrow(ask.right, (cells[2].x - 4, ask.cy))
    d.text(290, ask.cy - d.small * 1.6, f"{TRIES} tries", size=d.small, color="muted", anchor="middle")
    verify = d.box(
        590,
        20,
        470,
        [
            Line("**verifier:** takes any right one", color="chosen"),
            Line(f"$1 − (1 − p)^k$: {solved(1):.2f} becomes {solved(TRIES):.3f}", gap=6),
        ],
        role="chosen",
        h=100,
    )
    vote = d.box(
        590,
        160,
        470,
        [
            Line("**vote:** takes the most frequent", color="value"),
            Line(f"right is the mode: {voted(1):.2f} becomes {voted(TRIES):.3f}", gap=6),
        ],
        role="value",
        h=100,
    )
    d.arrow((cells[1].x1 + 4, verify.cy), (verify.x - 2, verify.cy))
    d.arrow((cells[3].x1 + 4, vote.cy), (vote.x - 2, vote.cy))
    d.height = 286
    return d
