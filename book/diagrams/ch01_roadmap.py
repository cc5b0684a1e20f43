"""Diagrams of the roadmap: each step and why it was needed, one backward pass by hand, unrolled time, gates, attention.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, sheet

STEPS = (
    ("MLP", "back-propagation", "learns any map from a vector to a vector", "a fixed window, no order", "reference"),
    ("RNN", "a state, one loop", "reads any length with the same weights", "its gradient vanishes", "rejected"),
    ("LSTM, GRU", "gates, a sum", "keeps what it will need", "one vector for everything", "prompt"),
    ("Attention", "a soft look-up", "keeps all states, one step away", "still reads word by word", "reward"),
    ("Transformer", "attention alone", "all positions at once", "knows nothing yet", "policy"),
    ("Pre-training", "predict raw text", "skills before the first label", "how much is enough?", "value"),
    ("Scaling", "laws of loss", "size, data and compute in balance", "", "chosen"),
)
"""Name, idea, what it gave, what was still missing, colour."""


def steps(narrow: bool = False) -> Diagram:
    """The road in seven steps: what each gave, and which lack called for the next."""
    d = sheet(
        "ch01_roadmap.steps",
        "From the MLP to large models: each step and the lack that called for the next",
        " ".join(
            f"{name}: {idea}; {gave}." + (f" Missing: {lack}." if lack else "") for name, idea, gave, lack, _ in STEPS
        ),
        narrow,
    )
    small = d.small
    if narrow:
        y = 8.0
        for k, (name, idea, gave, lack, role) in enumerate(STEPS):
            box = d.box(
                8, y, 344, [Line(f"**{name}**: {idea}"), Line(gave, small, "muted", 2)], role=role, align="start", h=56
            )
            y = box.y1
            if k < len(STEPS) - 1:
                d.arrow((30, y + 1), (30, y + 34))
                d.text(44, y + 11, lack, size=small, color="rejected")
                y += 36
        d.height = y + 10
        return d
    width, height, gap = 230.0, 132.0, 40.0
    places = [(16 + k * (width + gap), 16.0) for k in range(4)] + [(16 + k * (width + gap), 240.0) for k in range(3)]
    boxes = []
    for (x, y), (name, idea, gave, _, role) in zip(places, STEPS, strict=True):
        boxes.append(
            d.box(
                x, y, width, [Line(f"**{name}**"), Line(idea, small, "muted", 2), Line(gave, small, "ink", 6)],
                role=role, h=height,
            )
        )  # fmt: skip
    for k, (_, _, _, lack, _) in enumerate(STEPS[:-1]):
        here, after = boxes[k], boxes[k + 1]
        if k == 3:
            d.line(
                (here.cx, here.y1 + 34),
                (here.cx, 206),
                (after.cx, 206),
                (after.cx, after.y - 12),
                role="muted",
                stroke=2,
            )
            d.arrow((after.cx, after.y - 14), (after.cx, after.y - 2))
        else:
            d.arrow(here.right, (after.x - 2, after.cy))
        d.text(here.x, here.y1 + 10, lack, size=small, color="rejected")
    d.note(838, 262, 220, ["In red: what was still missing, and called for the next step."], role="rejected")
    d.height = 416
    return d


# -- one backward pass ------------------------------------------------------------------------------------------

INPUT, WEIGHT_1, WEIGHT_2, TARGET = 2.0, 0.5, 1.5, 1.0
"""x, w1, w2 and the target of the worked example: y = w2 tanh(w1 x), loss (y - target)^2 / 2."""


def backward_numbers() -> dict[str, float]:
    """Forward and backward values of the worked example."""
    u = WEIGHT_1 * INPUT
    a = math.tanh(u)
    y = WEIGHT_2 * a
    error = y - TARGET
    back_a = error * WEIGHT_2
    back_u = back_a * (1 - a * a)
    return {
        "u": u,
        "a": a,
        "y": y,
        "loss": error * error / 2,
        "dy": error,
        "da": back_a,
        "du": back_u,
        "dw2": error * a,
        "dw1": back_u * INPUT,
    }


def _n(x: float) -> str:
    return f"{x:.3f}".replace("-", "−")


def backward(narrow: bool = False) -> Diagram:
    """Two weights, one tanh: values forwards, errors backwards."""
    v = backward_numbers()
    d = sheet(
        "ch01_roadmap.backward",
        "Back-propagation with two weights",
        f"Forwards: x = {INPUT:g}, u = w1 x = {_n(v['u'])}, a = tanh(u) = {_n(v['a'])}, y = w2 a = {_n(v['y'])}, loss "
        f"{_n(v['loss'])}. Backwards: by y {_n(v['dy'])}, by a {_n(v['da'])}, by u {_n(v['du'])}. Each weight's "
        f"gradient is its input times the error at its output: by w2 {_n(v['dw2'])}, by w1 {_n(v['dw1'])}.",
        narrow,
    )
    small = d.small
    nodes = [
        ("$x$", f"{INPUT:g}", "", "prompt"),
        ("$u = w_1 x$", _n(v["u"]), _n(v["du"]), "reference"),
        ("$a = tanh u$", _n(v["a"]), _n(v["da"]), "policy"),
        ("$y = w_2 a$", _n(v["y"]), _n(v["dy"]), "policy"),
        ("$ℓ = (y − 1)^2 / 2$", _n(v["loss"]), "1", "rejected"),
    ]
    between = [f"$w_1 = {WEIGHT_1:g}$", "slope", f"$w_2 = {WEIGHT_2:g}$", ""]
    factors = ["", f"× {_n(1 - v['a'] ** 2)}", f"× {WEIGHT_2:g}", f"× {_n(v['dy'])}"]
    if narrow:
        y = 8.0
        for k, (name, value, error, role) in enumerate(nodes):
            box = d.box(60, y, 150, [Line(name), Line(f"value {value}", small, "muted", 2)], role=role, h=54)
            if error:
                d.text(250, box.cy - small * 0.55, f"error {error}", size=small, color="rejected")
            y = box.y1
            if k < len(nodes) - 1:
                d.arrow((box.cx, y + 1), (box.cx, y + 36))
                if between[k] and between[k] != "slope":
                    d.text(box.cx + 10, y + 12, between[k], size=small, color="muted")
                if factors[k]:
                    d.arrow((290, y + 40), (290, y - 12), role="rejected")
                    d.text(300, y + 10, factors[k], size=small, color="rejected")
                y += 38
        d.note(8, y + 12, 344, [_gradients(v)], role="rejected")
        d.height = y + 12 + small * LEAD * 3 + 12
        return d
    boxes = []
    for k, (name, value, _, role) in enumerate(nodes):
        boxes.append(
            d.box(20 + k * 216, 50, 172, [Line(name), Line(f"value {value}", small, "muted", 4)], role=role, h=84)
        )
    for k in range(4):
        d.arrow(boxes[k].right, (boxes[k + 1].x - 2, boxes[k + 1].cy))
        if between[k] and between[k] != "slope":
            d.text((boxes[k].x1 + boxes[k + 1].x) / 2, 20, between[k], size=small, color="muted", anchor="middle")
    for k, (_, _, error, _) in enumerate(nodes):
        if error:
            d.text(boxes[k].cx, 168, error, size=small, color="rejected", anchor="middle")
    for k in range(1, 4):
        left, right = boxes[k], boxes[k + 1]
        d.arrow((right.cx - 44, 177), (left.cx + 44, 177), role="rejected")
        d.text((left.cx + right.cx) / 2, 188, factors[k], size=small, color="rejected", anchor="middle")
    d.text(boxes[0].x, 166, "**errors, backwards**", size=small, color="rejected")
    d.note(20, 236, 1040, [_gradients(v)], role="rejected")
    d.height = 286
    return d


LEAD = 1.3


def _gradients(v: dict[str, float]) -> str:
    return (
        f"A weight’s gradient is what goes in, times the error at what comes out: by $w_2$ {_n(v['a'])} × "
        f"{_n(v['dy'])} = {_n(v['dw2'])}, by $w_1$ {INPUT:g} × {_n(v['du'])} = {_n(v['dw1'])}."
    )


# -- unrolled in time --------------------------------------------------------------------------------------------

FACTORS = (0.9, 1.0, 1.1)
BACK = (1, 10, 50)


def unrolled(narrow: bool = False) -> Diagram:
    """The same weights in every step; the error passes one factor a step on its way back."""
    rows = [[f"{factor:.2f}", *(f"{factor**k:.3g}" for k in BACK[1:])] for factor in FACTORS]
    ends = [f"{factor:g} leaves {', '.join(row)}" for factor, row in zip(FACTORS, rows, strict=True)]
    d = sheet(
        "ch01_roadmap.unrolled",
        "A recurrent network unrolled, and the way back",
        "Four copies of one cell in a row, one for each step, with the same weights. Inputs enter from below, states "
        "go right. The error goes left, and is multiplied by the same factor in each step; after "
        f"{', '.join(map(str, BACK))} steps {'; '.join(ends)}.",
        narrow,
    )
    small = d.small
    count = 3 if narrow else 4
    w, gap, x0 = (76.0, 44.0, 14.0) if narrow else (150.0, 86.0, 60.0)
    top = 38.0 if narrow else 52.0
    cells = []
    for k in range(count):
        x = x0 + k * (w + gap)
        cell = d.box(x, top, w, [Line(f"$h_{k + 1}$")], role="policy", h=46 if narrow else 64)
        source = d.box(
            x, cell.y1 + (34 if narrow else 46), w, [Line(f"$x_{k + 1}$")], role="prompt", h=38 if narrow else 50
        )
        d.arrow(source.top, (cell.cx, cell.y1 + 2))
        cells.append((cell, source))
    for k in range(count - 1):
        here, after = cells[k][0], cells[k + 1][0]
        d.arrow(here.right, (after.x - 2, after.cy))
        d.text((here.x1 + after.x) / 2, here.cy + 6, "$W_{hh}$", size=small, color="muted", anchor="middle")
        d.arrow((after.x + 10, top - 12), (here.x1 - 10, top - 12), role="rejected")
    last = cells[-1][0]
    d.text(cells[0][0].x, top - (28 if narrow else 38), "error", size=small, color="rejected")
    y = cells[0][1].y1 + (24 if narrow else 30)
    names = ["factor a step", *(f"{k} step{'s' if k > 1 else ''} back" for k in BACK)]
    wide = (344 if narrow else 700) / 4
    left = 8.0 if narrow else 60.0
    for c, name in enumerate(["factor", "1", "10", "50 back"] if narrow else names):
        d.text(left + c * wide, y, name, size=small, color="muted")
    for r, (factor, row) in enumerate(zip(FACTORS, rows, strict=True)):
        line = y + (r + 1) * small * 1.5
        role = ("rejected", "reference", "kl")[r]
        d.text(left, line, f"{factor:.2f}", size=small, color=role)
        for c, value in enumerate(row):
            d.text(left + (c + 1) * wide, line, value, size=small, color=role)
    d.height = max(y + 4 * small * 1.5 + 8, last.y1)
    return d


# -- gates --------------------------------------------------------------------------------------------------------


def gates(narrow: bool = False) -> Diagram:
    """An LSTM's cell: a line from left to right that is only scaled and added to."""
    d = sheet(
        "ch01_roadmap.gates",
        "An LSTM's cell is carried by a sum",
        "The old cell is multiplied by the forget gate; the candidate, multiplied by the input gate, is added; that is "
        "the new cell. Its tanh, multiplied by the output gate, is the hidden state. Back along the cell the error is "
        "multiplied by the forget gate alone.",
        narrow,
    )
    small = d.small
    if narrow:
        old = d.box(8, 20, 84, [Line("$c_{t−1}$"), Line("`(B, H)`", small, "muted", 2)], role="value", h=60)
        times = d.box(128, 28, 44, [Line("×")], role="value", h=44)
        plus = d.box(204, 28, 44, [Line("+")], role="value", h=44)
        new = d.box(276, 20, 76, [Line("$c_t$")], role="value", h=60)
        forget = d.box(64, 120, 98, [Line("forget"), Line("$f = σ(·)$", small, "muted", 2)], role="rejected", h=60)
        write = d.box(174, 120, 92, [Line("write"), Line("$i · g$", small, "muted", 2)], role="chosen", h=60)
        read = d.box(
            8,
            228,
            200,
            [Line("reads $x_t$ and $h_{t−1}$"), Line("`(B, d)` and `(B, H)`", small, "muted", 2)],
            role="prompt",
            h=60,
        )
        d.box(232, 228, 120, [Line("$h_t = o · tanh c_t$", small)], role="policy", h=60)
        d.arrow(old.right, (times.x - 2, times.cy))
        d.arrow(times.right, (plus.x - 2, plus.cy))
        d.arrow(plus.right, (new.x - 2, new.cy))
        d.arrow((times.cx, forget.y), (times.cx, times.y1 + 2))
        d.arrow((plus.cx, write.y), (plus.cx, plus.y1 + 2))
        d.arrow((120, read.y), (120, forget.y1 + 2))
        d.arrow((190, read.y), (190, write.y1 + 2))
        d.arrow((new.cx, new.y1 + 1), (new.cx, 226))
        d.note(
            8,
            310,
            344,
            ["Back along the cell the error is multiplied by $f$ alone: no matrix, no tanh."],
            role="rejected",
        )
        d.height = 360
        return d
    old = d.box(20, 30, 140, [Line("$c_{t−1}$"), Line("`(B, H)`", small, "muted", 3)], role="value", h=84)
    times = d.box(280, 42, 60, [Line("×")], role="value", h=60)
    plus = d.box(530, 42, 60, [Line("+")], role="value", h=60)
    new = d.box(720, 30, 140, [Line("$c_t$"), Line("`(B, H)`", small, "muted", 3)], role="value", h=84)
    forget = d.box(215, 176, 190, [Line("forget gate"), Line("$f = σ(·)$", small, "muted", 3)], role="rejected", h=84)
    write = d.box(
        450, 176, 220, [Line("input × candidate"), Line("$σ(·) · tanh(·)$", small, "muted", 3)], role="chosen", h=84
    )
    show = d.box(
        720,
        176,
        220,
        [Line("$h_t = o · tanh c_t$"), Line("output gate $o = σ(·)$", small, "muted", 3)],
        role="policy",
        h=84,
    )
    d.arrow(old.right, (times.x - 2, times.cy))
    d.arrow(times.right, (plus.x - 2, plus.cy))
    d.arrow(plus.right, (new.x - 2, new.cy))
    d.arrow(forget.top, (times.cx, times.y1 + 2))
    d.arrow(write.top, (plus.cx, plus.y1 + 2))
    d.arrow((new.cx, new.y1 + 1), (new.cx, show.y - 2))
    d.note(20, 296, 1040, [
        "Each $·$ stands for $W x_t + U h_{t−1} + b$, with weights of its own. Back along the upper line the error is "
                "multiplied by $f$ alone: no matrix, no tanh.",
    ], role="rejected")  # fmt: skip
    d.height = 362
    return d


# -- attention ------------------------------------------------------------------------------------------------------

SCORES = (2.0, 0.0, 1.0)
"""Scores of three states in the worked example."""


def weights() -> list[float]:
    """Their softmax."""
    raised = [math.exp(score) for score in SCORES]
    return [one / sum(raised) for one in raised]


def looking(narrow: bool = False) -> Diagram:
    """A writer's state scores all states of the reader and takes their weighted mean."""
    alphas = [f"{one:.2f}" for one in weights()]
    d = sheet(
        "ch01_roadmap.looking",
        "Additive attention: score, softmax, weighted mean",
        f"Three states of the reader get scores {', '.join(f'{s:g}' for s in SCORES)} from the writer's state; their "
        f"softmax is {', '.join(alphas)}. The context, their mean with these weights, goes to the writer.",
        narrow,
    )
    small = d.small
    if narrow:
        y = 8.0
        for k in range(3):
            state = d.box(8, y, 74, [Line(f"$h_{k + 1}$")], role="prompt", h=46)
            score = d.box(108, y, 92, [Line(f"$e_{k + 1} = {SCORES[k]:g}$", small)], role="reference", h=46)
            weight = d.box(226, y, 126, [Line(f"$α_{k + 1} = {alphas[k]}$", small)], role="reward", h=46)
            d.arrow(state.right, (score.x - 2, score.cy))
            d.arrow(score.right, (weight.x - 2, weight.cy))
            y += 60
        context = d.box(
            108, y + 30, 244, [Line("sum of $α_j h_j$"), Line("`(B, H)`", small, "muted", 2)], role="policy", h=60
        )
        d.arrow((289, y - 13), (289, context.y - 2))
        d.text(8, y + 2, "softmax over the states", size=small, color="muted")
        d.note(
            8,
            y + 112,
            344,
            ["$e_j = v · tanh(W s + U h_j)$, with $s$ the writer’s state: the only place where it enters."],
            role="reference",
        )
        d.height = y + 168
        return d
    y = 20.0
    for k in range(3):
        state = d.box(20, y, 130, [Line(f"$h_{k + 1}$  `(B, H)`")], role="prompt", h=60)
        score = d.box(230, y, 250, [Line(f"$e_{k + 1} = v · tanh(W s + U h_{k + 1})$", small)], role="reference", h=60)
        value = d.box(530, y, 90, [Line(f"{SCORES[k]:g}")], role="reference", h=60)
        weight = d.box(720, y, 90, [Line(alphas[k])], role="reward", h=60)
        d.arrow(state.right, (score.x - 2, score.cy))
        d.arrow(score.right, (value.x - 2, value.cy))
        d.arrow(value.right, (weight.x - 2, weight.cy))
        y += 80
    context = d.box(
        890,
        84,
        170,
        [Line("context"), Line("sum of $α_j h_j$", small, "ink", 4), Line("`(B, H)`", small, "muted", 4)],
        role="policy",
        h=110,
    )
    d.line((811, 50), (850, 50), (850, 210), (811, 210), role="muted", stroke=2)
    d.arrow((811, 130), (context.x - 2, 130))
    d.text(670, y - 6, "softmax over the states", size=small, color="muted", anchor="middle")
    d.text(355, y - 6, "the writer’s state $s$ enters here", size=small, color="muted", anchor="middle")
    d.height = y + 32
    return d


ALL: tuple[str, ...] = ("steps", "backward", "unrolled", "gates", "looking")
"""The diagrams of this module."""
