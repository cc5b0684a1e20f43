"""Diagrams of section 3.4: where each knob of DPO acts, what beta does to a distribution, where probability goes.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

UNEMBEDDINGS = {"chosen": (1.0, 1.0), "rejected": (1.0, 0.0), "third": (0.0, 2.0)}
"""Output vectors of three one-token answers in the worked example of displacement."""

STATES = ((2.0, 0.0), (2.0, 2.0), (2.0, 3.0))
"""The hidden state before training, after two steps and after three: each adds chosen minus rejected."""

REFERENCE, REWARD = (0.6, 0.3, 0.1), (0.0, 1.0, 2.0)
"""Three answers of the worked example of beta: probability under the reference, and reward."""

BETAS = (math.inf, 2.0, 1.0, 0.5, 0.25)

ANSWERS = (("chosen", "chosen"), ("rejected", "rejected"), ("third", "reference"))


def probabilities(state: tuple[float, float]) -> dict[str, float]:
    """Softmax of the three answers' logits at a hidden state."""
    weights = {
        name: math.exp(sum(a * b for a, b in zip(vector, state, strict=True))) for name, vector in UNEMBEDDINGS.items()
    }
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def tilted(beta: float) -> list[float]:
    """pi_ref exp(r / beta) / Z of the three answers."""
    weights = [p * math.exp(r / beta) for p, r in zip(REFERENCE, REWARD, strict=True)]
    return [weight / sum(weights) for weight in weights]


# -- knobs ------------------------------------------------------------------------------------------------------

KNOBS = [
    ("reference", "**Reference** $π_{ref}$", "SFT first", "which answers have probability to win or lose"),
    ("policy", "**Log-ratios** $Δ_w, Δ_l$", "sum or mean", "what a long answer counts"),
    ("reward", "**Scaled margin** $β · m$", "beta", "how far a pair goes before it rests"),
    ("chosen", "**Target** of $σ(β m)$", "label smoothing", "whether it ever rests"),
    ("value", "**Extra terms**", "NLL, mixing", "what holds up all that the margin does not see"),
    ("kl", "**Steps**", "learning rate, epochs", "how far it walks"),
]
"""Stages of the loss in order: role, what stands there, the knob that acts on it, what it moves."""


def knobs(narrow: bool = False) -> Diagram:
    """Six knobs, each at the place of the computation where it acts."""
    stages = "; ".join(f"{knob.replace('$', '')} moves {moves}" for _, _, knob, moves in KNOBS)
    diagram = sheet(
        "ch03_practice.knobs",
        "Where each knob of DPO acts",
        "The computation of DPO in six stages: reference, log-ratios, scaled margin, target of the sigmoid, extra "
        f"terms, steps. On each acts one knob: {stages}.",
        narrow,
    )
    d = diagram
    if narrow:
        y = 8.0
        for index, (role, stage, knob, moves) in enumerate(KNOBS):
            box = d.box(8, y, 344, [Line(stage, d.size), Line(f"**{knob}:** {moves}", d.small, "muted", 4)], role=role)
            if index + 1 < len(KNOBS):
                d.arrow((box.cx, box.y1 + 1), (box.cx, box.y1 + 20))
            y = box.y1 + 22
        d.height = y - 14
        return d
    wide, gap, top = 306.0, 46.0, 16.0
    boxes: list[Rect] = []
    for index, (role, stage, knob, moves) in enumerate(KNOBS):
        column, row = index % 3, index // 3
        x, y = 20 + column * (wide + gap), top + row * 216
        boxes.append(d.box(x, y, wide, [Line(stage)], role=role, h=62))
        d.note(x + 12, y + 78, wide - 16, [Line(f"**{knob}**", d.size), Line(moves, d.small, "muted", 4)], role=role)
    for first, second in ((0, 1), (1, 2), (3, 4), (4, 5)):
        d.arrow(boxes[first].right, (boxes[second].x - 2, boxes[second].cy))
    right, low = boxes[2].x1 + 22, boxes[3].y - 26
    d.arrow(boxes[2].right, (right, boxes[2].cy), (right, low), (boxes[3].cx, low), (boxes[3].cx, boxes[3].y - 2))
    d.height = boxes[3].y1 + 110
    return d


# -- beta -------------------------------------------------------------------------------------------------------


def beta(narrow: bool = False) -> Diagram:
    """The optimum of three answers at five values of beta, as stacked bars."""
    rows = [tilted(value) for value in BETAS]
    said = "; ".join(
        f"{'reference' if math.isinf(value) else f'beta {value:g}'} " + ", ".join(f"{p:.0%}" for p in row)
        for value, row in zip(BETAS, rows, strict=True)
    )
    d = sheet(
        "ch03_practice.beta",
        "What beta does: the optimum of three answers",
        f"Five stacked bars of the probabilities of three answers with rewards 0, 1 and 2: {said}. A smaller beta "
        "moves probability to the answer with the highest reward, and farther from the reference.",
        narrow,
    )
    left, right, height, step = (64.0, 344.0, 34.0, 50.0) if narrow else (150.0, 1040.0, 52.0, 74.0)
    roles = ("rejected", "reference", "chosen")
    top = 10.0 if narrow else 18.0
    end = d.legend(
        left if not narrow else 8,
        top,
        right - (left if not narrow else 8),
        [(role, f"reward {reward:g}") for role, reward in zip(roles, REWARD, strict=True)],
    )
    y = end.y1 + (14 if narrow else 24)
    for value, row in zip(BETAS, rows, strict=True):
        name = "$π_{ref}$" if math.isinf(value) else f"$β = {value:g}$"
        d.text(left - 10, y + height / 2 - d.small * 0.55, name, size=d.small, anchor="end")
        x = left
        for role, share in zip(roles, row, strict=True):
            rect = Rect(x, y, share * (right - left), height)
            d.rect(rect, role, radius=0)
            if rect.w > d.small * 3.1:
                d.text(rect.cx, rect.cy - d.small * 0.55, f"{share:.0%}", size=d.small, anchor="middle")
            x = rect.x1
        y += step
    d.height = y - step + height + 10
    return d


# -- displacement -----------------------------------------------------------------------------------------------


def displacement(narrow: bool = False) -> Diagram:
    """Preferring one answer to a similar one lifts a third that no pair mentions."""
    rows = [probabilities(state) for state in STATES]
    said = "; ".join(
        f"after {step}: chosen {row['chosen']:.0%}, rejected {row['rejected']:.0%}, third {row['third']:.0%}"
        for step, row in zip((0, 2, 3), rows, strict=True)
    )
    d = sheet(
        "ch03_practice.displacement",
        "Likelihood displacement in two dimensions",
        "Left, the output vectors of three answers: chosen (1, 1), rejected (1, 0) and a third answer (0, 2). Each "
        "step adds chosen minus rejected, (0, 1), to the hidden state: straight towards the third answer. Right, "
        f"the probabilities as stacked bars: {said}. The margin grows from 0 to 3 nats all the while.",
        narrow,
    )
    if narrow:
        end = _vectors(d, Rect(56, 40, 190, 190))
        _bars(d, Rect(8, end + 16, 344, 0), rows)
        return d
    _vectors(d, Rect(70, 62, 300, 300))
    _bars(d, Rect(480, 30, 580, 0), rows)
    d.height = 424
    return d


def _vectors(d: Diagram, rect: Rect) -> float:
    """The three output vectors and the direction of a step."""
    d.text(rect.x - (40 if d.narrow else 50), rect.y - d.size * 2.2, "**Output vectors**, and the step")
    unit = rect.w / 2.2

    def at(x: float, y: float) -> tuple[float, float]:
        return rect.x + x * unit, rect.y1 - y * unit

    d.line(at(0, 0), at(2.2, 0), role="faint")
    d.line(at(0, 0), at(0, 2.2), role="faint")
    for name, role in ANSWERS:
        x, y = UNEMBEDDINGS[name]
        d.line(at(0, 0), at(x, y), role=role, stroke=d.stroke * 1.5)
        d.dot(*at(x, y), role)
        px, py = at(x, y)
        label = {"chosen": f"chosen ({x:g}, {y:g})", "rejected": f"rejected ({x:g}, {y:g})"}.get(
            name, f"a third answer ({x:g}, {y:g})"
        )
        above = -d.small * 0.5 if y else d.small * 0.7
        d.text(px + (10 if d.narrow else 16), py + above, label, size=d.small, color=role)
    sx = 1.32
    (x0, y0), (x1, y1) = at(sx, 0.22), at(sx, 0.72)
    d.arrow((x0, y0), (x1, y1), role="policy", stroke=d.stroke * 1.6)
    d.text(x0 + (8 if d.narrow else 14), (y0 + y1) / 2 - d.small * 0.5, "step (0, 1)", size=d.small, color="policy")
    return rect.y1 + d.small * 1.8


def _bars(d: Diagram, rect: Rect, rows: list[dict[str, float]]) -> None:
    """Stacked bars of the probabilities before and after."""
    head = d.text(rect.x, rect.y, "**Probabilities**")
    height, step = (38.0, 66.0) if d.narrow else (58.0, 104.0)
    y = head.y1 + (12 if d.narrow else 18)
    for (count, margin), row in zip(((0, 0), (2, 2), (3, 3)), rows, strict=True):
        words = "before" if count == 0 else f"after {count} steps"
        label = d.text(rect.x, y, f"{words}, margin {margin} nats", size=d.small, color="muted")
        x, top = rect.x, label.y1 + 6
        for name, role in ANSWERS:
            cell = Rect(x, top, row[name] * rect.w, height)
            d.rect(cell, role, radius=0)
            if cell.w > d.small * 3.1:
                d.text(cell.cx, cell.cy - d.small * 0.55, f"{row[name]:.0%}", size=d.small, anchor="middle")
            x = cell.x1
        y = y + step if not d.narrow else top + height + 12
    names = {"chosen": "chosen", "rejected": "rejected", "third": "a third answer"}
    end = d.legend(rect.x, y + (0 if d.narrow else 6), rect.w, [(role, names[name]) for name, role in ANSWERS])
    d.height = end.y1 + 12
