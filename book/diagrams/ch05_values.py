"""Diagrams of section 5.2: returns backwards, a world of two states and its four value functions, backups, conversions.

Every number follows from the small worlds defined here; tests recompute them.
"""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

REWARDS, GAMMA = (-1.0, 0.0, 2.0, 0.0, 10.0), 0.9
"""The worked example of returns."""

RIGHT = {"A": 0.4, "B": 0.8}
"""Think or answer: the chance that an answer is right before the first thought (A) and after one (B)."""

COST = 0.1
"""What a thought costs."""


def returns() -> list[float]:
    """G_t of the worked example, computed backwards."""
    found, following = [], 0.0
    for reward in reversed(REWARDS):
        following = reward + GAMMA * following
        found.append(following)
    return found[::-1]


def random_values() -> dict[str, float]:
    """V of the policy that answers or thinks with probability 1/2 each: V(B) = (0.8 + V(B) - 0.1) / 2, then V(A)."""
    b = (RIGHT["B"] - COST) / 2 / (1 - 0.5)
    return {"A": (RIGHT["A"] + b - COST) / 2, "B": b}


def best_values() -> dict[str, float]:
    """V* of the same world."""
    b = RIGHT["B"]
    return {"A": max(RIGHT["A"], b - COST), "B": b}


def action_values(values: dict[str, float]) -> dict[tuple[str, str], float]:
    """Q from V: answering pays its chance, thinking costs and leads to B."""
    q = {(state, "answer"): RIGHT[state] for state in RIGHT}
    return q | {(state, "think"): values["B"] - COST for state in RIGHT}


# -- returns ----------------------------------------------------------------------------------------------------


def backwards(narrow: bool = False) -> Diagram:
    """Five rewards and their returns, computed from the last to the first."""
    found = returns()
    said = "; ".join(f"G{t} = {g:.4g}" for t, g in reversed(list(enumerate(found))))
    d = sheet(
        "ch05_values.backwards",
        "Returns are computed from the last step to the first",
        f"Five rewards in a row: {', '.join(f'{r:g}' for r in REWARDS)}. Below each stands its return. Arrows lead "
        f"from right to left: each return is the reward above it plus 0.9 times the return to its right: {said}.",
        narrow,
    )
    last = len(REWARDS) - 1
    if narrow:
        y = 10.0
        for t in reversed(range(len(REWARDS))):
            paid = d.box(8, y, 96, [f"$r_{t} = {REWARDS[t]:g}$"], role="reward", h=40)
            value = d.box(250, y, 100, [f"$G_{t} = {found[t]:.4g}$"], role="value", h=40)
            d.arrow(paid.right, (value.x - 2, value.cy), role="reward")
            if t:
                d.arrow((value.cx, value.y1), (value.cx, value.y1 + 28), role="value")
                d.text(value.cx - 8, value.y1 + 7, "× 0.9, added to", size=d.small, color="muted", anchor="end")
            y += 70
        d.height = y - 20
        return d
    wide, gap, left = 132.0, 84.0, 42.0
    values: list[Rect] = []
    for t, reward in enumerate(REWARDS):
        x = left + t * (wide + gap)
        paid = d.box(x, 24, wide, [f"$r_{t} = {reward:g}$"], role="reward", h=60)
        values.append(d.box(x, 156, wide, [f"$G_{t} = {found[t]:.4g}$"], role="value", h=60))
        d.arrow(paid.bottom, (paid.cx, values[-1].y - 2), role="reward")
    for t in range(last):
        d.arrow(values[t + 1].left, (values[t].x1 + 2, values[t].cy), role="value")
        d.text(
            (values[t].x1 + values[t + 1].x) / 2,
            values[t].cy + 18,
            "×~0.9",
            size=d.small,
            color="value",
            anchor="middle",
        )
    sum_ = f"$G_2 = {REWARDS[2]:g} + 0.9 · {found[3]:g} = {found[2]:.4g}$: one multiplication a step, and no sum twice"
    d.text(values[0].x, 246, sum_, size=d.small, color="muted")
    d.height = 290
    return d


# -- four value functions ---------------------------------------------------------------------------------------


def _world(d: Diagram, rect: Rect, title: str, role: str, values: dict[str, float], best: bool) -> None:
    """The two states with their actions, V in the states and Q on the actions."""
    q = action_values(values)
    inner = d.lane(rect, title, role)
    high = 46.0 if d.narrow else 70.0
    name = "V^*" if best else "V"
    qname = "Q^*" if best else "Q"
    wide = inner.w * 0.42
    left = d.box(inner.x, inner.y, wide, [f"$A$: ${name} = {values['A']:g}$"], role="value", h=high, pad=3)
    right = d.box(
        inner.x1 - inner.w * 0.42,
        inner.y,
        inner.w * 0.42,
        [f"$B$: ${name} = {values['B']:g}$"],
        role="value",
        h=high,
        pad=3,
    )
    d.arrow(left.right, (right.x - 2, right.cy), role="policy")
    d.text((left.x1 + right.x) / 2, left.cy - d.small * 1.4, "think", size=d.small, color="policy", anchor="middle")
    y = left.y1 + (14 if d.narrow else 24)
    small = d.small
    for state, box in (("A", left), ("B", right)):
        highest = max(q[state, action] for action in ("answer", "think"))
        for at, action in enumerate(("answer", "think")):
            worth = q[state, action]
            taken = best and worth == highest
            cell = Rect(box.x, y + at * small * 2.5, box.w, small * 2.1)
            words = f"**{action}:** ${worth:g}$" if taken else f"{action}: ${worth:g}$"
            d.cell(cell, words, "chosen" if taken else "policy", mono=False)
    d.text(inner.x, y + small * 5.4, f"${qname}$ of each action", size=small, color="muted")


def four(narrow: bool = False) -> Diagram:
    """Think or answer: V and Q of the random policy, V* and Q* of the best one."""
    random, best = random_values(), best_values()
    q, q_best = action_values(random), action_values(best)
    said = (
        f"Random policy: V(A) = {random['A']:g}, V(B) = {random['B']:g}; Q(A, answer) = {q['A', 'answer']:g}, "
        f"Q(A, think) = {q['A', 'think']:g}, Q(B, answer) = {q['B', 'answer']:g}, Q(B, think) = {q['B', 'think']:g}. "
        f"Optimal: V(A) = {best['A']:g}, V(B) = {best['B']:g}; Q(A, answer) = {q_best['A', 'answer']:g}, "
        f"Q(A, think) = {q_best['A', 'think']:g}, Q(B, answer) = {q_best['B', 'answer']:g}, "
        f"Q(B, think) = {q_best['B', 'think']:g}."
    )
    d = sheet(
        "ch05_values.four",
        "Think or answer: two states, two actions, four value functions",
        "State A, before any thought, and state B, after one. To answer ends the episode and is right with chance 0.4 "
        f"in A and 0.8 in B; to think costs 0.1 and leads to B. {said} Think first, then answer, is best.",
        narrow,
    )
    if narrow:
        _world(d, Rect(6, 6, 348, 180), "**Random policy** ½, ½", "reference", random, best=False)
        _world(d, Rect(6, 198, 348, 180), "**Optimal policy**", "chosen", best, best=True)
        d.height = 386
        return d
    _world(d, Rect(12, 12, 518, 284), "**Random policy**, ½ for each action", "reference", random, best=False)
    _world(d, Rect(550, 12, 518, 284), "**Optimal policy**", "chosen", best, best=True)
    d.height = 308
    return d


# -- backups ----------------------------------------------------------------------------------------------------


def backup(narrow: bool = False) -> Diagram:
    """Two backups from the state A: the mean over actions, and the maximum."""
    random, best = random_values(), best_values()
    q, q_best = action_values(random), action_values(best)
    mean = f"½ · {q['A', 'answer']:g} + ½ · {q['A', 'think']:g} = {random['A']:g}"
    top = f"max({q_best['A', 'answer']:g}, {q_best['A', 'think']:g}) = {best['A']:g}"
    d = sheet(
        "ch05_values.backup",
        "Two Bellman backups: a mean over actions, or the maximum",
        "A state at the top, two actions below it, and below these what follows: the end, or the state B with its "
        f"value. Value flows upwards. On the left the mean over actions, {mean}; on the right the maximum, {top}.",
        narrow,
    )
    sides = (
        ("**Expectation:** what this policy gets", "reference", f"$V = {mean}$", random["B"], q, "V"),
        ("**Optimality:** what the best policy gets", "chosen", f"$V^* = {top}$", best["B"], q_best, "V^*"),
    )
    width, high = (348.0, 262.0) if narrow else (518.0, 366.0)
    for at, (title, role, formula, following, worth, name) in enumerate(sides):
        rect = Rect(6, 6 + at * (high + 12), width, high) if narrow else Rect(12 + at * 538, 12, width, high)
        inner = d.lane(rect, title, role)
        box = 40.0 if narrow else 56.0
        gap = (inner.h - 3 * box) / 2
        state = d.box(inner.x, inner.y, inner.w, [formula], role="value", h=box, pad=3)
        half = inner.w / 2 - (6 if narrow else 12)
        for column, action in enumerate(("answer", "think")):
            x = inner.x + column * (inner.w - half)
            node = d.box(
                x, inner.y + box + gap, half, [f"{action}: ${worth['A', action]:g}$"], role="policy", h=box, pad=3
            )
            ends = column == 0
            words = [f"end, reward ${RIGHT['A']:g}$"] if ends else [f"$B$, ${name} = {following:g}$, cost ${COST:g}$"]
            leaf = d.box(
                x, node.y1 + gap, half, [Line(words[0], d.small)], role="reward" if ends else "value", h=box, pad=3
            )
            d.arrow(leaf.top, (leaf.cx, node.y1 + 2), role="reward" if ends else "value")
            d.arrow(node.top, (node.cx, state.y1 + 2), role="policy")
    d.height = (2 * high + 24) if narrow else high + 24
    return d


# -- conversion -------------------------------------------------------------------------------------------------


def conversion(narrow: bool = False) -> Diagram:
    """From Q to V and back, for a policy and for the optimum, and what each way needs."""
    d = sheet(
        "ch05_values.conversion",
        "From Q to V and back",
        "Four boxes: V and Q of a policy above, V* and Q* below. From Q to V of a policy: the mean over actions, needs "
        "the policy. From Q* to V*: the maximum, needs nothing. From V to Q, above and below: the reward plus gamma "
        "times the mean of what follows, needs the model of the world.",
        narrow,
    )
    rows = (
        ("$V^π(s)$", "$Q^π(s, a)$", "$Σ_a π(a | s) Q^π(s, a)$", "needs the policy", "reference"),
        ("$V^*(s)$", "$Q^*(s, a)$", "$max_a Q^*(s, a)$", "needs nothing", "chosen"),
    )
    if narrow:
        y = 10.0
        for v, q, formula, needs, role in rows:
            state = d.box(8, y, 104, [v], role="value", h=108)
            action = d.box(248, y, 104, [q], role="policy", h=108)
            d.arrow((action.x, y + 22), (state.x1 + 2, y + 22), role=role)
            d.arrow((state.x1, y + 86), (action.x - 2, y + 86), role="reward")
            d.text(180, y + 27, needs.replace("needs ", ""), size=d.small, color=role, anchor="middle")
            d.text(180, y + 66, "the model", size=d.small, color="reward", anchor="middle")
            d.text(8, y + 114, f"To $V$: {formula}", size=d.small, color="muted")
            y += 150
        d.text(8, y - 10, "To $Q$: $r + γ Σ_{s'} p(s' | s, a) V(s')$", size=d.small, color="muted")
        d.height = y + 16
        return d
    y = 16.0
    for v, q, formula, needs, role in rows:
        state = d.box(20, y, 210, [v], role="value", h=150)
        action = d.box(850, y, 210, [q], role="policy", h=150)
        d.arrow((action.x, y + 42), (state.x1 + 2, y + 42), role=role)
        d.arrow((state.x1, y + 112), (action.x - 2, y + 112), role="reward")
        d.text(540, y + 10, f"{formula}: {needs}", size=d.small, color=role, anchor="middle")
        d.text(
            540,
            y + 80,
            "$r + γ Σ_{s'} p(s' | s, a) V(s')$: needs the model",
            size=d.small,
            color="reward",
            anchor="middle",
        )
        y += 178
    d.height = y
    return d
