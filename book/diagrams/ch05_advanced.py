"""Diagrams of section 5.8: Dyna's loop, planning with a model, options in time, manager and workers, C51, quantiles.

Numbers are those of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diagrams.kit import Diagram, Line, Point, Rect, sheet

ATOMS = (-1.0, -0.5, 0.0, 0.5, 1.0)
NEXT = (0.1, 0.0, 0.2, 0.4, 0.3)
REWARD, DISCOUNT = 0.2, 0.9
"""The worked example of the projection: five atoms, the next state's probabilities, reward and discount."""

RETURNS = (-1.0, 0.0, 0.6, 0.8, 1.0)
"""Five equally likely returns in the worked example of quantile regression."""

PLANS = ((("left", "left", "right"), 2.4), (("right", "left", "right"), 3.0), (("right", "right", "left"), 1.2))
"""Three plans of the drawing of model-predictive control, and their predicted returns."""


def projected() -> list[float]:
    """The worked example's projection, by the definition."""
    gap = ATOMS[1] - ATOMS[0]
    out = []
    for z in ATOMS:
        total = 0.0
        for p, atom in zip(NEXT, ATOMS, strict=True):
            moved = min(max(REWARD + DISCOUNT * atom, ATOMS[0]), ATOMS[-1])
            total += p * max(0.0, 1 - abs(moved - z) / gap)
        out.append(total)
    return out


def quantile_losses(tau: float, points: Sequence[float]) -> list[float]:
    """Mean weighed error of the five returns at each point."""
    return [sum((tau if g > x else 1 - tau) * abs(g - x) for g in RETURNS) / len(RETURNS) for x in points]


# -- Dyna -------------------------------------------------------------------------------------------------------


def dyna(narrow: bool = False) -> Diagram:
    """Real experience teaches the values and the model; the model teaches the values again."""
    d = sheet(
        "ch05_advanced.dyna",
        "Dyna: learn, remember, plan",
        "The world gives real steps (s, a, r, s'). Each real step updates the action values directly, and is stored in "
        "the model. From the model n remembered steps are drawn after each real one, and update the same action values "
        "by the same rule. The values choose the next action in the world.",
        narrow,
    )
    if narrow:
        world = d.box(90, 10, 180, ["**World**", Line("one real step", d.small, "muted")], role="prompt")
        model = d.box(8, 150, 150, ["**Model**", Line("remembers $(s, a)$ → $r, s′$", d.small, "muted")], role="reward")
        values = d.box(206, 290, 146, ["**Values** $Q(s, a)$"], role="value")
        d.arrow((130, world.y1), (130, 100), (model.cx, 100), model.top)
        d.text(8, 78, "remember", size=d.small, color="muted")
        d.arrow((230, world.y1), (230, values.y - 1), role="policy")
        d.text(238, 150, "learn: once", size=d.small, color="policy")
        d.text(238, 168, "per real step", size=d.small, color="muted")
        d.arrow(model.bottom, (model.cx, values.cy), values.left, role="reward")
        d.text(8, values.y1 + 10, "plan: $n$ updates from what", size=d.small, color="reward")
        d.text(8, values.y1 + 27, "is remembered, same rule", size=d.small, color="muted")
        d.arrow((340, values.y), (340, world.cy), world.right)
        d.text(334, 58, "act", size=d.small, color="muted", anchor="end")
        d.height = values.y1 + 56
        return d
    world = d.box(
        40, 130, 230, ["**World**", Line("one real step $(s, a, r, s′)$", d.small, "muted", 4)], role="prompt"
    )
    model = d.box(
        420, 260, 260, ["**Model**", Line("remembers $(s, a)$ → $r, s′$", d.small, "muted", 4)], role="reward"
    )
    values = d.box(
        830, 130, 210, ["**Values** $Q(s, a)$", Line("one table for both", d.small, "muted", 4)], role="value"
    )
    d.arrow(world.right, (values.x - 2, world.cy), role="policy")
    d.text(550, world.cy - d.size * 2.6, "**learn**: one update", color="policy", anchor="middle")
    d.text(550, world.cy - d.size * 1.35, "from the real step", size=d.small, color="muted", anchor="middle")
    d.arrow(world.bottom, (world.cx, model.cy), (model.x - 2, model.cy))
    d.text(270, model.cy - d.size * 1.5, "**remember**", anchor="middle")
    d.arrow(model.right, (values.cx, model.cy), (values.cx, values.y1 + 2), role="reward")
    d.text(700, model.cy + d.size * 0.7, "**plan**: $n$ updates, the same rule,", color="reward")
    d.text(700, model.cy + d.size * 2.0, "from remembered steps", size=d.small, color="muted")
    d.arrow(values.top, (values.cx, 50), (world.cx, 50), (world.cx, world.y - 2))
    d.text(550, 58, "**act** $ε$-greedily, one real step", anchor="middle")
    d.height = model.y1 + 40
    return d


# -- planning ---------------------------------------------------------------------------------------------------


def mpc(narrow: bool = False) -> Diagram:
    """Imagine several plans, take the first action of the best, look again."""
    best = max(range(len(PLANS)), key=lambda k: PLANS[k][1])
    said = "; ".join(f"{', '.join(actions)}: {value:g}" for actions, value in PLANS)
    d = sheet(
        "ch05_advanced.mpc",
        "Model-predictive control",
        f"From the observed state three plans are imagined with the model, with predicted returns: {said}. The first "
        f"action of the best, {PLANS[best][0][0]}, is taken in the world. The rest of the plan is thrown away; the "
        "next state is observed and planned from anew.",
        narrow,
    )
    x0, width, height = (8.0, 74.0, 32.0) if narrow else (300.0, 128.0, 54.0)
    gap, step = (8.0, 46.0) if narrow else (26.0, 84.0)
    top = 96.0 if narrow else 66.0
    if narrow:
        state = d.box(8, 10, 344, ["**Observed state** $s_t$: imagine plans with the model"], role="prompt")
    else:
        state = d.box(30, top + step - 20, 190, ["**Observed**", "**state** $s_t$"], role="prompt", h=94)
        d.text(x0, 18, "Three of many plans, imagined", size=d.small, color="muted")
    for k, (actions, value) in enumerate(PLANS):
        y = top + k * step - (20 if narrow else 0)
        cells = []
        for h, action in enumerate(actions):
            role = "chosen" if k == best and h == 0 else "policy" if k == best else None
            cells.append(d.cell(Rect(x0 + h * (width + gap), y, width, height), action, role, mono=False))
        for a, b in pairwise(cells):
            d.arrow(a.right, (b.x - 1, b.cy), dashed=True)
        words = f"**{value:.1f}**" if k == best else f"{value:.1f}"
        d.text(cells[-1].x1 + (12 if narrow else 24), cells[-1].cy - d.size * 0.55, words, color="reward")
        if not narrow:
            d.arrow((258, cells[0].cy) if k != 1 else state.right, (cells[0].x - 2, cells[0].cy))
    if not narrow:
        d.line((258, top + height / 2), (258, top + 2 * step + height / 2), role="muted", stroke=d.stroke * 1.1)
    if narrow:
        d.text(x0 + 3 * (width + gap) + 4, top - 40, "return", size=d.small, color="muted")
        last = d.box(
            8,
            top + 3 * step - 14,
            344,
            [
                Line("Take **right**, the first action of the best.", d.small),
                Line("Throw the rest away, observe $s_{t+1}$, plan anew.", d.small, "muted", 3),
            ],
            role="chosen",
        )
    else:
        d.text(x0 + 3 * (width + gap) + 2, 18, "predicted return", size=d.small, color="muted")
        last = d.box(
            300,
            top + 3 * step + 14,
            740,
            ["Take **right**, the first action of the best plan. Throw the rest away, observe $s_{t+1}$, plan anew."],
            role="chosen",
        )
        d.arrow(last.left, (state.cx, last.cy), (state.cx, state.y1 + 2))
    d.height = last.y1 + 14
    return d


# -- options ----------------------------------------------------------------------------------------------------


def option_timeline(narrow: bool = False) -> Diagram:
    """Choices at two scales of time: every step, and at the ends of options."""
    d = sheet(
        "ch05_advanced.option_timeline",
        "An option is one choice that lasts several steps",
        "Two time lines of eight steps. Above, primitive actions: eight choices, each value discounted by gamma. "
        "Below, two options of five and three steps: two choices, and the value after an option of k steps is "
        "discounted by gamma to the power k.",
        narrow,
    )
    left, unit, h = (16.0, 41.0, 34.0) if narrow else (60.0, 118.0, 56.0)
    head = d.text(left, 8, "**Actions**: a choice at every step", color="policy")
    y = head.y1 + (10 if narrow else 16)
    for k in range(8):
        d.cell(Rect(left + k * unit, y, unit - (4 if narrow else 8), h), f"$a_{k}$", "policy", mono=False)
    y += h + (14 if narrow else 20)
    note = "each time: $r + γ max Q$"
    y = d.text(left, y, note, size=d.small, color="muted").y1 + (24 if narrow else 34)
    y = d.text(left, y, "**Options**: a choice at the end of each", color="reward").y1 + (10 if narrow else 16)
    spans = ((0, 5, "to the hallway"), (5, 3, "to the goal"))
    for begin, length, name in spans:
        rect = Rect(left + begin * unit, y, length * unit - (4 if narrow else 8), h)
        d.cell(rect, name, "reward", mono=False)
    y += h + (6 if narrow else 10)
    for begin, length, _ in spans:
        tip = d.brace(left + begin * unit + 4, left + (begin + length) * unit - (8 if narrow else 14), y)
        d.text(tip[0], tip[1] + 5, f"$k = {length}$, $γ^{length}$", size=d.small, color="muted", anchor="middle")
    y += (30 if narrow else 48) + d.small
    y = d.text(left, y, "$r_t + γ r_{t+1} + … + γ^{k-1} r_{t+k-1} + γ^k max Q$", size=d.small, color="muted").y1
    d.height = y + 14
    return d


def feudal(narrow: bool = False) -> Diagram:
    """A manager that sees rooms, workers that see cells, and two kinds of reward."""
    d = sheet(
        "ch05_advanced.feudal",
        "Feudal control: who sees what, who is paid for what",
        "The manager sees only the room, gives a command such as go to the south-east room, and is paid by the world. "
        "A worker sees the cell and the command, takes the actions, and is paid 1 by the manager when it has obeyed, "
        "whatever the world pays.",
        narrow,
    )
    w = 344.0 if narrow else 560.0
    x = 8.0 if narrow else 260.0
    manager = d.box(
        x,
        12,
        w,
        [
            "**Manager**",
            Line("sees: the room. Chooses: a command, every $k$ steps", d.small, "muted", 4),
            Line("is paid: the world's reward, $γ^k$", d.small, "reward", 2),
        ],
        role="reward",
    )
    gap = 66.0 if narrow else 92.0
    worker = d.box(
        x,
        manager.y1 + gap,
        w,
        [
            "**Worker**",
            Line("sees: the cell and the command. Chooses: an action", d.small, "muted", 4),
            Line("is paid: 1 for obeying, else 0", d.small, "policy", 2),
        ],
        role="policy",
    )
    world = d.box(x, worker.y1 + gap, w, ["**World**: cells, walls, a goal"], role="prompt")
    third = w / 3
    for upper, lower, down, up in (
        (manager, worker, "command", "obeyed: 1"),
        (worker, world, "action", "next cell"),
    ):
        d.arrow((x + third, upper.y1), (x + third, lower.y - 2))
        d.arrow((x + 2 * third, lower.y), (x + 2 * third, upper.y1 + 2))
        middle = (upper.y1 + lower.y) / 2 - d.small * 0.5
        d.text(x + third - 10, middle, down, size=d.small, anchor="end")
        d.text(x + 2 * third + 10, middle, up, size=d.small)
    d.height = world.y1 + 12
    return d


# -- projection -------------------------------------------------------------------------------------------------


def projection(narrow: bool = False) -> Diagram:
    """The five atoms of the worked example: shrink and shift, then share out."""
    result = projected()
    said = ", ".join(f"{p:.2f}" for p in result)
    d = sheet(
        "ch05_advanced.projection",
        "C51: shift the distribution, then share it out among the atoms",
        f"Three bar charts over the atoms {', '.join(f'{z:g}' for z in ATOMS)}. First the next state's distribution "
        f"{', '.join(f'{p:g}' for p in NEXT)}. Then the same bars at r + gamma z with r = {REWARD} and gamma = "
        f"{DISCOUNT}; the last would lie beyond the edge and is cut to 1. Then each bar divided between its two "
        f"neighbours: {said}.",
        narrow,
    )
    left, right = (40.0, 330.0) if narrow else (90.0, 1010.0)
    height, gap = (74.0, 58.0) if narrow else (112.0, 88.0)
    most = max(*NEXT, *result)

    def at(z: float) -> float:
        return left + (z - ATOMS[0]) / (ATOMS[-1] - ATOMS[0]) * (right - left)

    moved = [min(REWARD + DISCOUNT * z, ATOMS[-1]) for z in ATOMS]
    parts = (
        ("**1** the next state's distribution $Z(s′, a′)$", ATOMS, NEXT, "value"),
        (f"**2** each value moves to $r + γ z$: here ${REWARD} + {DISCOUNT} z$", moved, NEXT, "reward"),
        ("**3** shared between the two nearest atoms", ATOMS, result, "policy"),
    )
    y = 8.0
    half = 9.0 if narrow else 18.0
    for words, places, probs, role in parts:
        head = d.text(8 if narrow else 30, y, words, width=344 if narrow else None)
        base = head.y1 + height + d.small * 1.5
        d.line((left - 20, base), (right + 20, base), role="muted")
        for z in ATOMS:
            d.line((at(z), base), (at(z), base + 5), role="muted")
            d.text(at(z), base + 8, f"{z:g}".replace("-", "−"), size=d.small, color="muted", anchor="middle")
        for place, p in zip(places, probs, strict=True):
            if p > 0:
                tall = p / most * height
                d.rect(Rect(at(place) - half, base - tall, 2 * half, tall), role, radius=0)
                d.text(at(place), base - tall - d.small * 1.15, f"{p:.2f}", size=d.small, anchor="middle")
        y = base + gap * (0.75 if narrow else 0.62)
    d.height = y
    return d


# -- quantiles --------------------------------------------------------------------------------------------------


def quantiles(narrow: bool = False) -> Diagram:
    """Five returns, and the loss of a guess at three levels: each has its minimum at its quantile."""
    levels = ((0.1, "rejected"), (0.5, "reference"), (0.9, "policy"))
    points = [-1.2 + 0.02 * k for k in range(121)]
    curves = {tau: quantile_losses(tau, points) for tau, _ in levels}
    lows = {tau: min(zip(curve, points, strict=True)) for tau, curve in curves.items()}
    d = sheet(
        "ch05_advanced.quantiles",
        "Quantile regression: three weights, three minima",
        f"Five equally likely returns, {', '.join(f'{g:g}' for g in RETURNS)}. The mean weighed error of a guess x, at "
        "three levels: "
        + "; ".join(f"tau {tau:g} is least at {low[1]:.1f}" for tau, low in lows.items())
        + ". With tau 0.9 a return above the guess weighs nine times one below, so the guess goes up.",
        narrow,
    )
    plot = Rect(34, 66, 300, 200) if narrow else Rect(90, 70, 900, 300)
    top = max(max(curve) for curve in curves.values())

    def at(x: float, y: float) -> Point:
        return plot.x + (x + 1.2) / 2.4 * plot.w, plot.y1 - y / top * plot.h

    d.legend(plot.x, 10, plot.w, [(role, f"$τ = {tau:g}$") for tau, role in levels])
    d.text(plot.x, plot.y - d.small * 1.4, "mean weighed error of a guess $x$", size=d.small, color="muted")
    d.line(at(-1.2, 0), at(1.2, 0), role="muted")
    for g in RETURNS:
        d.dot(*at(g, 0), "value")
        d.text(at(g, 0)[0], plot.y1 + (8 if narrow else 14), f"{g:g}".replace("-", "−"), size=d.small, anchor="middle")
    for tau, role in levels:
        kept = list(zip(points, curves[tau], strict=True))[::5]
        corners = sorted({*kept, *((g, quantile_losses(tau, [g])[0]) for g in RETURNS)})
        d.line(*[at(x, y) for x, y in corners], role=role, stroke=d.stroke * 1.5)
        low, x = lows[tau]
        d.dot(*at(x, low), role)
    d.height = plot.y1 + d.small * 2.6
    return d
