"""Diagrams of the topic "mixture of experts": the layer with its shapes, a full expert, the two balances.

The numbers of the worked examples are computed here; tests hold them against the library.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

LOGITS = (2.0, 1.0, 0.0, -1.0)
"""Router logits of the worked example: one token, four experts."""

QUEUE = (0, 2, 0, 0, 1, 0)
"""Choices of six tokens among three experts."""

LIMIT = 2
"""Six tokens, three experts, capacity factor 1: two each."""


def probabilities() -> list[float]:
    """Softmax of the worked example's logits."""
    total = sum(math.exp(z) for z in LOGITS)
    return [math.exp(z) / total for z in LOGITS]


def top_two() -> list[float]:
    """Weights of the two best experts, divided by their sum."""
    first, second = probabilities()[:2]
    return [first / (first + second), second / (first + second)]


def dropped() -> list[bool]:
    """For each token of QUEUE: whether its expert was full already."""
    return [QUEUE[:t].count(expert) >= LIMIT for t, expert in enumerate(QUEUE)]


# -- the layer ---------------------------------------------------------------------------------------------------


def layer(narrow: bool = False) -> Diagram:
    """One token through a layer of four experts and a shared one."""
    p, w = probabilities(), top_two()
    d = sheet(
        "ch01_moe.layer",
        "A mixture-of-experts layer, for one token",
        "The token's normalized state, d numbers, goes to a router with one logit for each of four experts: "
        f"{', '.join(f'{z:g}' for z in LOGITS)}. Softmax gives {', '.join(f'{x:.2f}' for x in p)}. The two best, "
        f"experts 1 and 2, are kept with weights {w[0]:.2f} and {w[1]:.2f}; 3 and 4 are not computed. Each is a "
        "SwiGLU network of width f. A shared expert always works. The weighted sum goes back to the residual stream.",
        narrow,
    )
    small = d.small

    def expert(x: float, y: float, wide: float, high: float, i: int) -> Rect:
        chosen = i < 2
        lines = [Line(f"expert {i + 1}", small), Line(f"$p$ = {p[i]:.2f}", small, "muted", 2)]
        role = "policy" if chosen else "reference"
        return d.box(
            x,
            y,
            wide,
            lines,
            role=role,
            h=high,
            dashed=not chosen,
            fill=None if chosen else "panel",
            pad=2 if narrow else None,
        )

    if narrow:
        state = d.box(100, 8, 160, [Line("state $x$"), Line("`(n, d)`", small, "muted", 2)], role="value", h=54)
        lines = [Line("**Router** $W_r x$, softmax, top 2"), Line("`(n, E)` → `(n, k)`", small, "muted", 2)]
        router = d.box(8, 96, 250, lines,
                       role="reward", h=60)  # fmt: skip
        d.arrow((130, state.y1 + 1), (130, router.y - 2))
        boxes = [expert(8 + 66 * i, 196, 62, 62, i) for i in range(4)]
        shared = d.box(274, 196, 78, [Line("shared", small), Line("always", small, "muted", 2)], role="chosen", h=62)
        for i in range(2):
            d.arrow((boxes[i].cx, router.y1 + 1), (boxes[i].cx, boxes[i].y - 2), role="policy")
        d.arrow((state.x1 + 1, state.cy), (shared.cx, state.cy), (shared.cx, shared.y - 2))
        terms = f"{w[0]:.2f} · expert 1 + {w[1]:.2f} · expert 2 + shared"
        total = d.box(8, 310, 344, [Line("weighted sum"), Line(terms, small, "muted", 3)],
                      role="value", h=58)  # fmt: skip
        for i in range(2):
            d.arrow((boxes[i].cx, boxes[i].y1 + 1), (boxes[i].cx, total.y - 2), role="policy")
        d.arrow((shared.cx, shared.y1 + 1), (shared.cx, total.y - 2))
        d.text(142, 272, "not computed", size=small, color="muted")
        d.note(8, 386, 344, ["Back to the residual stream, `(n, d)`, as an MLP’s output would."], role="value")
        d.height = 426
        return d
    state = d.box(20, 150, 150, [Line("state $x$"), Line("`(n, d)`", small, "muted", 4)], role="value", h=84)
    lines = [
        Line("**Router**"),
        Line("$softmax(W_r x)$", small, "ink", 4),
        Line("`(n, E)`, top $k$", small, "muted", 4),
    ]
    router = d.box(230, 130, 200, lines,
                   role="reward", h=124)  # fmt: skip
    d.arrow(state.right, (router.x - 2, state.cy))
    boxes = [expert(540, 14 + 94 * i, 190, 84, i) for i in range(4)]
    for i in range(2):
        d.arrow((router.x1 + 1, router.cy - 24 + 30 * i), (485 + 24 * i, router.cy - 24 + 30 * i),
                (485 + 24 * i, boxes[i].cy), (boxes[i].x - 2, boxes[i].cy), role="policy")  # fmt: skip
    shared = d.box(
        540, 404, 190, [Line("shared expert", small), Line("every token", small, "muted", 2)], role="chosen", h=76
    )
    d.arrow((state.cx, state.y1 + 1), (state.cx, shared.cy), (shared.x - 2, shared.cy))
    total = d.box(860, 150, 200, [Line("**weighted sum**"), Line("`(n, d)`", small, "muted", 4)], role="value", h=84)
    d.arrow((731, boxes[0].cy), (830, boxes[0].cy), (830, 172), (858, 172), role="policy")
    d.arrow((731, boxes[1].cy), (800, boxes[1].cy), (800, 192), (858, 192), role="policy")
    d.arrow(shared.right, (830, shared.cy), (830, 212), (858, 212))
    d.text(748, boxes[0].cy - small * 1.5, f"× {w[0]:.2f}", size=small, color="policy")
    d.text(744, boxes[1].cy - small * 1.5, f"× {w[1]:.2f}", size=small, color="policy")
    d.text(960, 250, "to the residual", size=small, color="muted", anchor="middle")
    d.text(960, 274, "stream", size=small, color="muted", anchor="middle")
    d.height = 484
    return d


# -- capacity ----------------------------------------------------------------------------------------------------


def capacity(narrow: bool = False) -> Diagram:
    """Six tokens queue for three experts with two places each; two find no room."""
    gone = dropped()
    late = [str(t + 1) for t, drop in enumerate(gone) if drop]
    d = sheet(
        "ch01_moe.capacity",
        "Capacity: first come, first served",
        "Six tokens, three experts, capacity factor 1: two places each. Tokens 1 and 3 fill expert A; tokens "
        f"{' and '.join(late)} come too late, are dropped, and go on by the residual stream alone. Token 2 takes a "
        "place of expert C, token 5 one of expert B; two places stay empty and are computed for nothing.",
        narrow,
    )
    names = "ABC"
    side = 40.0 if narrow else 62.0
    gap = 8.0 if narrow else 14.0
    left = 8.0 if narrow else 20.0
    label = 62.0 if narrow else 130.0
    top = 8.0
    d.text(left, top + side * 0.3, "tokens", size=d.small, color="muted")
    x0 = left + label
    for t, expert in enumerate(QUEUE):
        rect = Rect(x0 + t * (side + gap), top, side, side)
        d.cell(rect, f"{t + 1}→{names[expert]}", "rejected" if gone[t] else "prompt", mono=False)
    y = top + side + (26 if narrow else 40)
    for e, name in enumerate(names):
        d.text(left, y + side * 0.3, f"expert {name}", size=d.small, color="policy")
        inside = [t for t, expert in enumerate(QUEUE) if expert == e and not gone[t]]
        for place in range(LIMIT):
            rect = Rect(x0 + place * (side + gap), y, side, side)
            if place < len(inside):
                d.cell(rect, str(inside[place] + 1), "policy", mono=False)
            else:
                d.rect(rect, "reference", fill="panel", dashed=True, radius=4)
        if e == 0:
            d.text(
                x0 + LIMIT * (side + gap) + 6,
                y + side * 0.3,
                f"full: {' and '.join(late)} are dropped",
                size=d.small,
                color="rejected",
            )
        y += side + gap
    d.note(left, y + 4, 344 if narrow else 900, [
        "A dropped token skips the layer: only the residual stream carries it on. "
        "An empty place costs as much as a full one."
    ], role="rejected")  # fmt: skip
    d.height = y + (64 if narrow else 62)
    return d


# -- two ways to keep the load even -------------------------------------------------------------------------------


def balance(narrow: bool = False) -> Diagram:
    """An extra loss pushes the router; a bias only moves the choice."""
    d = sheet(
        "ch01_moe.balance",
        "Two ways to keep experts evenly loaded",
        "Left: the auxiliary loss, E times the sum of f times P, is added to the task's loss; its gradient reaches the "
        "router and with it the states. Right: a bias per expert is added to the scores for the choice alone; after "
        "each step it goes up by gamma for an expert with too little load and down for one with too much. No gradient.",
        narrow,
    )
    small = d.small
    left, right = (
        (Rect(8, 8, 344, 250), Rect(8, 272, 344, 250)) if narrow else (Rect(20, 12, 510, 336), Rect(550, 12, 510, 336))
    )
    a = d.lane(left, "**Auxiliary loss** (Switch)", "rejected")
    b = d.lane(right, "**Bias** (DeepSeek-V3)", "chosen")
    high = 50 if narrow else 72
    step = high + (18 if narrow else 24)
    x1 = d.box(a.x, a.y, a.w, [Line("scores $p$ `(n, E)`, choice by $p$", small)], role="reward", h=high)
    x2 = d.box(a.x, a.y + step, a.w, [Line("$E · Σ_i f_i P_i$, added to the loss", small)], role="rejected", h=high)
    x3 = d.box(
        a.x,
        a.y + 2 * step,
        a.w,
        [Line("its gradient changes the router, and the states before it", small)],
        role="reference",
        h=high,
    )
    d.arrow(x1.bottom, (x2.cx, x2.y - 2))
    d.arrow(x2.bottom, (x3.cx, x3.y - 2))
    y1 = d.box(b.x, b.y, b.w, [Line("choice by $s + b$, weight by $s$ alone", small)], role="reward", h=high)
    y2 = d.box(b.x, b.y + step, b.w, [Line("count: who got too many tokens?", small)], role="value", h=high)
    y3 = d.box(
        b.x, b.y + 2 * step, b.w, [Line("$b_i$: down by $γ$, or up by $γ$; no gradient", small)], role="chosen", h=high
    )
    d.arrow(y1.bottom, (y2.cx, y2.y - 2))
    d.arrow(y2.bottom, (y3.cx, y3.y - 2))
    d.height = 530 if narrow else 360
    return d
