"""Diagrams of section 5.4: the cliff, DQN's loop, double, dueling, the sum tree of prioritized replay.

Every number is that of a worked example on the page; tests recompute them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

ONLINE, TARGET = (2.0, 3.1, 2.6), (2.4, 1.9, 2.8)
"""What the network and the target network say of the three actions of the next state."""

VALUE, ADVANTAGES = 2.0, (1.0, -1.0, 3.0)
"""The two streams of the dueling network in the worked example."""

LEAVES, MASS = (4, 1, 3, 8, 2, 2, 1, 3), 14
"""Priorities of eight transitions, and the number that was drawn between 0 and their sum."""

EDGE, SAFE = 13, 17
"""Steps of the shortest path and of the path along the upper edge of the cliff grid."""


# -- cliff ------------------------------------------------------------------------------------------------------


def cliff(narrow: bool = False) -> Diagram:
    """Two ways round the cliff."""
    d = sheet(
        "ch05_dqn.cliff",
        "Two ways round a cliff",
        "A grid of 4 by 12 cells. Start S at the lower left, goal G at the lower right, the ten cells between them are "
        f"the cliff. The shortest path of {EDGE} steps runs along its edge; the path of {SAFE} steps runs along the "
        "upper border. Q-learning learns the first, and falls when it explores there; SARSA learns to keep away.",
        narrow,
    )
    side, left, top = (28.0, 12.0, 10.0) if narrow else (72.0, 108.0, 16.0)
    for row in range(4):
        for column in range(12):
            rect = Rect(left + column * side, top + row * side, side, side)
            role = "rejected" if row == 3 and 0 < column < 11 else None
            d.rect(rect, role, radius=0, stroke=d.stroke * 0.6)
    for column, name in ((0, "S"), (11, "G")):
        cx, cy = left + (column + 0.5) * side, top + 3.5 * side
        d.text(cx, cy - d.size * 0.5, f"**{name}**", anchor="middle")

    def at(column: float, row: float) -> tuple[float, float]:
        return left + (column + 0.5) * side, top + (row + 0.5) * side

    lift = 0.34
    d.arrow(at(-0.2, 3 - lift), at(-0.2, 0), at(11.2, 0), at(11.2, 3 - lift), role="chosen", stroke=d.stroke * 1.6)
    d.arrow(at(0.15, 3 - lift), at(0.15, 2), at(10.85, 2), at(10.85, 3 - lift), role="policy", stroke=d.stroke * 1.6)
    end = d.legend(
        left,
        top + 4 * side + (12 if narrow else 20),
        12 * side,
        [
            ("chosen", f"safe path, {SAFE} steps (SARSA)"),
            ("policy", f"shortest path, {EDGE} steps (Q-learning)"),
            ("rejected", "cliff: −100, back to S"),
        ],
    )
    d.height = end.y1 + 12
    return d


# -- loop -------------------------------------------------------------------------------------------------------


def loop(narrow: bool = False) -> Diagram:
    """Act, remember, learn: DQN with its replay memory and its target network."""
    d = sheet(
        "ch05_dqn.loop",
        "The loop of DQN",
        "The environment gives transitions to a replay memory. Batches drawn from it go to two networks: the trained "
        "one reads the states and says the values of the actions that were taken; the target network reads the next "
        "states and gives the target r + gamma max Q. The Huber loss of their difference changes the trained network "
        "alone, which chooses the next action and is copied into the target network every C updates.",
        narrow,
    )
    small = d.small
    environment = [Line("**Environment**"), Line("state $s$ (4,), reward $r$", small, "muted", 3)]
    memory = [Line("**Replay memory**"), Line("last 50,000 of $(s, a, r, s′, end)$", small, "muted", 3)]
    batch = [Line("**Batch**, $B = 128$"), Line("drawn at random", small, "muted", 3)]
    online = [Line("**Network** $Q_θ$"), Line("$s$ (B, 4) → (B, A)", small, "muted", 3)]
    loss = [Line("**Huber loss** of $y − Q_θ(s, a)$"), Line("(B,); the target $y$ is a constant", small, "muted", 3)]
    if narrow:
        target = [
            Line("**Target network**"),
            Line("$s′$ (B, 4) → (B, A); copy of $Q_θ$ every C updates", small, "muted", 3),
        ]
        online.append(Line("also chooses $a$, ε-greedily", small, "muted", 3))
        a = d.box(28, 8, 324, environment, role="prompt")
        b = d.box(28, a.y1 + 26, 324, memory, role="reference")
        c = d.box(28, b.y1 + 26, 324, batch, role="reference")
        height = 118.0
        e = d.box(28, c.y1 + 26, 152, online, role="policy", h=height)
        f = d.box(200, c.y1 + 26, 152, target, role="value", h=height)
        g = d.box(28, e.y1 + 44, 324, loss, role="kl")
        d.arrow(a.bottom, (a.cx, b.y - 1))
        d.arrow(b.bottom, (b.cx, c.y - 1))
        for net in (e, f):
            d.arrow((net.cx, c.y1), (net.cx, net.y - 1))
            d.arrow((net.cx, net.y1), (net.cx, g.y - 1))
        d.arrow(e.left, (12, e.cy), (12, a.cy), (a.x - 1, a.cy), role="policy")
        d.text(e.cx + 8, e.y1 + 14, "$Q_θ(s, a)$", size=small)
        d.text(f.cx + 8, f.y1 + 14, "$y$", size=small)
        d.height = g.y1 + 10
        return d
    target = [Line("**Target network** $Q_{target}$"), Line("$s′$ (B, 4) → (B, A)", small, "muted", 3)]
    w = 286.0
    a = d.box(70, 16, w, environment, role="prompt")
    b = d.box(440, 16, w, memory, role="reference")
    c = d.box(440, 196, w, batch, role="reference")
    e = d.box(70, 196, w, online, role="policy", h=c.h)
    f = d.box(774, 196, w, target, role="value", h=c.h)
    g = d.box(440, 376, w, loss, role="kl", h=112)
    d.arrow(a.right, (b.x - 2, a.cy))
    d.arrow(b.bottom, (b.cx, c.y - 2))
    d.arrow(c.left, (e.x1 + 2, c.cy))
    d.arrow(c.right, (f.x - 2, c.cy))
    d.text(398, c.cy - small * 1.6, "$s$", size=small, anchor="middle")
    d.text(750, c.cy - small * 1.6, "$s′$", size=small, anchor="middle")
    d.arrow((150, e.y), (150, a.y1 + 2), role="policy")
    d.text(166, (a.y1 + e.y) / 2 - small * 0.5, "action $a$, ε-greedy", size=small, color="muted")
    d.arrow((290, e.y1), (290, g.y + 30), (g.x - 2, g.y + 30))
    d.text(306, e.y1 + 34, "$Q_θ(s, a)$", size=small, color="muted")
    d.arrow((g.x, g.y1 - 26), (130, g.y1 - 26), (130, e.y1 + 2), role="kl")
    d.text(146, g.y1 - 26 - small * 1.5, "gradient, this network alone", size=small, color="muted")
    d.arrow((850, f.y1), (850, g.cy), (g.x1 + 2, g.cy))
    d.text(866, f.y1 + 30, "$y = r + γ$ max $Q_{target}$", size=small, color="muted", width=190)
    low = g.y1 + 46
    d.arrow((e.x, e.cy), (34, e.cy), (34, low), (1046, low), (1046, f.y1 + 2), role="value", dashed=True)
    d.text(540, low - small * 1.45, "copied every C updates", size=small, color="muted", anchor="middle")
    d.height = low + 18
    return d


# -- double -----------------------------------------------------------------------------------------------------


def double(narrow: bool = False) -> Diagram:
    """Who chooses, and who judges."""
    choice, top = ONLINE.index(max(ONLINE)), TARGET.index(max(TARGET))
    d = sheet(
        "ch05_dqn.double",
        "DQN and double DQN: who chooses and who judges",
        "Values of three actions in the next state. The network says "
        + ", ".join(map(str, ONLINE))
        + "; the target network says "
        + ", ".join(map(str, TARGET))
        + f". DQN takes the target network's largest, {max(TARGET)}. Double DQN takes the action that the network "
        f"finds best, number {choice + 1}, and the target network's value of it, {TARGET[choice]}.",
        narrow,
    )
    label, cell, high, left, y = (0.0, 96.0, 34.0, 36.0, 8.0) if narrow else (300.0, 150.0, 54.0, 40.0, 20.0)
    rows = (
        ("**Network** $Q_θ$ chooses", ONLINE, "policy", choice),
        ("**Target network** judges", TARGET, "value", None),
    )
    cells: list[list[Rect]] = []
    for name, values, role, marked in rows:
        if narrow:
            y = d.text(left, y, name).y1 + 5
        else:
            d.text(left, y + high / 2 - d.size * 0.5, name)
        x = left + label
        drawn = []
        for index, value in enumerate(values):
            rect = Rect(x + index * cell, y, cell - (6 if narrow else 12), high)
            on = index == marked or (role == "value" and index in (choice, top))
            drawn.append(d.cell(rect, f"$a_{index + 1}$: {value}", role if on else None, mono=False))
        cells.append(drawn)
        y += high + (46 if narrow else 60)
    first, second = cells[0][choice], cells[1][choice]
    d.arrow(first.bottom, (second.cx, second.y - (22 if narrow else 2)), role="policy")
    y += -46 + 12 if narrow else -60 + 24
    lines = [
        Line(f"DQN: its own largest, **{max(TARGET)}**", d.size),
        Line(f"Double DQN: its value of the chosen action, **{TARGET[choice]}**", d.size, "ink", 4),
    ]
    end = d.note(left, y, 300 if narrow else 900, lines, role="value")
    d.height = end.y1 + 12
    return d


# -- dueling ----------------------------------------------------------------------------------------------------


def dueling(narrow: bool = False) -> Diagram:
    """One trunk, two streams, one sum."""
    mean = sum(ADVANTAGES) / len(ADVANTAGES)
    q = [VALUE + a - mean for a in ADVANTAGES]

    def shown(values: list[float] | tuple[float, ...]) -> str:
        return "(" + ", ".join(f"{v:g}".replace("-", "−") for v in values) + ")"

    d = sheet(
        "ch05_dqn.dueling",
        "The dueling network",
        "Shared layers read the state. One stream gives the value of the state, one number; the other the advantages, "
        "one for each action. Their sum, less the mean advantage, is Q. "
        f"In the example V = {VALUE:g}, A = {shown(ADVANTAGES)}, mean {mean:g}, Q = {shown(q)}.",
        narrow,
    )
    small = d.small
    trunk = [Line("**Shared layers**"), Line("$s$ (B, 4) → (B, 64)", small, "muted", 3)]
    value = [Line(f"**Value** $V = {VALUE:g}$"), Line("(B, 1): how good the state is", small, "muted", 3)]
    advantage = [Line(f"**Advantages** {shown(ADVANTAGES)}"), Line("(B, A): what the action adds", small, "muted", 3)]
    total = [
        Line("$Q = V + A − mean(A)$"),
        Line(f"mean {mean:g}, so $Q$ = {shown(q)}", small, "muted", 3),
    ]
    if narrow:
        a = d.box(8, 8, 344, trunk, role="policy")
        b = d.box(8, a.y1 + 28, 166, value, role="value", h=96)
        c = d.box(186, a.y1 + 28, 166, advantage, role="reward", h=96)
        e = d.box(8, b.y1 + 28, 344, total, role="policy")
        for box in (b, c):
            d.arrow((box.cx, a.y1), (box.cx, box.y - 1))
            d.arrow((box.cx, box.y1), (box.cx, e.y - 1))
        d.height = e.y1 + 10
        return d
    b = d.box(372, 16, 330, value, role="value")
    c = d.box(372, b.y1 + 26, 330, advantage, role="reward")
    middle = (b.y + c.y1) / 2
    a = d.box(20, middle - 50, 270, trunk, role="policy", h=100)
    e = d.box(784, middle - 50, 276, total, role="policy", h=100)
    for box, shift in ((b, -20), (c, 20)):
        d.arrow((a.x1, middle + shift), (331, middle + shift), (331, box.cy), (box.x - 2, box.cy))
    d.arrow(b.right, (743, b.cy), (743, middle - 20), (e.x - 2, middle - 20))
    d.arrow(c.right, (743, c.cy), (743, middle + 20), (e.x - 2, middle + 20))
    d.height = c.y1 + 16
    return d


# -- sum tree ---------------------------------------------------------------------------------------------------


def levels() -> list[list[int]]:
    """The sums from the root down to the leaves."""
    rows = [list(LEAVES)]
    while len(rows[0]) > 1:
        below = rows[0]
        rows.insert(0, [below[i] + below[i + 1] for i in range(0, len(below), 2)])
    return rows


def path() -> list[tuple[int, int, int]]:
    """(level, position, what is left of the drawn number) on the way down."""
    rows, position, mass = levels(), 0, MASS
    taken = [(0, 0, mass)]
    for level in range(1, len(rows)):
        position *= 2
        if mass >= rows[level][position]:
            mass -= rows[level][position]
            position += 1
        taken.append((level, position, mass))
    return taken


def sum_tree(narrow: bool = False) -> Diagram:
    """A number between 0 and the total finds its transition in log2(n) steps."""
    rows, way = levels(), path()
    leaf = way[-1][1]
    d = sheet(
        "ch05_dqn.sum_tree",
        "A sum tree finds a transition in proportion to its priority",
        f"Eight leaves hold the priorities {', '.join(map(str, LEAVES))}; every node above holds the sum of its two "
        f"children, the root {sum(LEAVES)}. The number {MASS} was drawn. Going down, it turns left where it is smaller "
        f"than the left child, else it loses the left child's sum and turns right; it arrives at leaf {leaf + 1}, "
        f"priority {LEAVES[leaf]}, which is drawn with probability {LEAVES[leaf]} of {sum(LEAVES)}.",
        narrow,
    )
    left, width, high, gap, y = (8.0, 344.0, 30.0, 30.0, 10.0) if narrow else (60.0, 960.0, 52.0, 44.0, 16.0)
    cell = 36.0 if narrow else 84.0
    centres: list[list[Rect]] = []
    for level, sums in enumerate(rows):
        step = width / len(sums)
        drawn = []
        for position, total in enumerate(sums):
            on = any((level, position) == (a, b) for a, b, _ in way)
            rect = Rect(left + (position + 0.5) * step - cell / 2, y, cell, high)
            drawn.append(d.cell(rect, str(total), "reward" if on else None))
        centres.append(drawn)
        y += high + gap
    for level in range(1, len(rows)):
        for position, rect in enumerate(centres[level]):
            parent = centres[level - 1][position // 2]
            on = any((level, position) == (a, b) for a, b, _ in way)
            role = "reward" if on else "faint"
            d.line((parent.cx, parent.y1), (rect.cx, rect.y), role=role, stroke=d.stroke * (1.6 if on else 0.9))
    words = [f"{MASS} is drawn from 0 to {sum(LEAVES)}."]
    for (_, _, before), (level, position, after) in pairwise(way):
        first = rows[level][position // 2 * 2]
        words.append(
            f"{before} < {first}: left."
            if position % 2 == 0
            else f"{before} ≥ {first}: right, {before} − {first} = {after}."
        )
    words.append(f"Leaf {leaf + 1} of 8: chance {LEAVES[leaf]}/{sum(LEAVES)}.")
    end = d.note(left, y - gap + (14 if narrow else 20), width, [Line(" ".join(words), d.size)], role="reward")
    d.height = end.y1 + 12
    return d
