"""Diagrams of section 5.6: who sees what when, five architectures, QMIX's mixing network, and the two-step game.

Sizes and payoffs are those of the lab; tests hold them against the library.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

# -- ctde -------------------------------------------------------------------------------------------------------


def ctde(narrow: bool = False) -> Diagram:
    """Centralized training, decentralized execution: what exists in each phase."""
    d = sheet(
        "ch05_marl.ctde",
        "Centralized training, decentralized execution",
        "Two phases. In training, observations, actions and the reward of all agents flow to one learner, a critic or "
        "a mixer that sees everything and sends a gradient to each agent's network. In execution the learner is gone: "
        "agent 1 maps its observation o1 to its action a1, agent 2 maps o2 to a2, and nothing passes between them.",
        narrow,
    )
    if narrow:
        top = Rect(8, 8, 344, 218)
        inside = d.lane(top, "**Training:** all is seen", "value")
        learner = d.box(
            inside.x + 40,
            inside.y + 6,
            244,
            ["**Critic or mixer**", _small(d, "all $o_i$, all $a_i$, state, reward")],
            role="value",
        )
        half = 156.0
        for index, x in enumerate((inside.x, inside.x + inside.w - half)):
            box = d.box(
                x,
                learner.y1 + 62,
                half,
                [f"**Agent {index + 1}**", _small(d, f"$o_{index + 1}$ → $a_{index + 1}$")],
                role="policy",
            )
            lift = learner.x + (40 if index == 0 else learner.w - 40)
            _pair(d, box, learner, lift)
        bottom = Rect(8, top.y1 + 14, 344, 102)
        inside = d.lane(bottom, "**Execution:** each for itself", "policy")
        for index, x in enumerate((inside.x, inside.x + inside.w - half)):
            d.box(
                x,
                inside.y + 4,
                half,
                [f"**Agent {index + 1}**", _small(d, f"$o_{index + 1}$ → $a_{index + 1}$")],
                role="policy",
            )
        d.height = bottom.y1 + 8
        return d
    left, right = Rect(16, 12, 600, 306), Rect(646, 12, 418, 306)
    inside = d.lane(left, "**Training:** everything is seen, on one machine", "value")
    learner = d.box(
        inside.x + 82,
        inside.y + 8,
        400,
        ["**Critic or mixer**", _small(d, "all $o_i$, all $a_i$, the state, the reward")],
        role="value",
    )
    for index, x in enumerate((inside.x, inside.x + inside.w - 250)):
        box = d.box(
            x,
            learner.y1 + 80,
            250,
            [f"**Agent {index + 1}**", _small(d, f"$o_{index + 1}$ → network → $a_{index + 1}$")],
            role="policy",
        )
        _pair(d, box, learner, learner.x + (70 if index == 0 else learner.w - 70))
    d.text(left.cx, learner.y1 + 14, "up: seen, done", size=d.small, color="muted", anchor="middle")
    d.text(left.cx, learner.y1 + 42, "down: gradient", size=d.small, color="value", anchor="middle")
    inside = d.lane(right, "**Execution:** each for itself", "policy")
    for index in range(2):
        d.box(
            inside.x,
            inside.y + 8 + index * 112,
            inside.w,
            [f"**Agent {index + 1}**", _small(d, f"$o_{index + 1}$ → network → $a_{index + 1}$")],
            role="policy",
        )
    d.height = left.y1 + 12
    return d


def _small(d: Diagram, markup: str) -> Line:
    return Line(markup, d.small, "muted", 2)


def _pair(d: Diagram, box: Rect, learner: Rect, x: float) -> None:
    """Up what was seen and done, down the gradient."""
    gap = 12.0 if d.narrow else 22.0
    d.arrow((x - gap, box.y), (x - gap, learner.y1 + 2), role="muted")
    d.arrow((x + gap, learner.y1), (x + gap, box.y - 2), role="value", dashed=True)


# -- architectures ----------------------------------------------------------------------------------------------

METHODS: dict[str, tuple[str, str, str, str, str]] = {
    "IQL": ("$Q_1(o_1, ·)$", "$Q_2(o_2, ·)$", "", "own target each: $r + γ max Q_i$", "reference"),
    "VDN": ("$Q_1(o_1, ·)$", "$Q_2(o_2, ·)$", "$Q_{tot} = Q_1 + Q_2$", "one target for $Q_{tot}$", "value"),
    "QMIX": ("$Q_1(o_1, ·)$", "$Q_2(o_2, ·)$", "$Q_{tot} = f_s(Q_1, Q_2)$", "$f_s$ rises in each $Q_i$", "value"),
    "MADDPG": (
        "actor $μ_1(o_1)$",
        "actor $μ_2(o_2)$",
        "critics $Q_1$, $Q_2$ of $(o_1, o_2, a_1, a_2)$",
        "off-policy, from a replay buffer",
        "value",
    ),
    "MAPPO": (
        "actor $π(·|o_1)$",
        "actor $π(·|o_2)$",
        "critic $V(s)$, one for all",
        "on-policy, clipped ratio",
        "value",
    ),
}
"""Each method: what the two agents keep, what joins them in training only, a remark, the colour of the joint part."""


def architectures(narrow: bool = False) -> Diagram:
    """Five methods with two agents: what acts, below, and what joins them in training, above."""
    said = " ".join(
        f"{name}: the agents have {_plain(one)} and {_plain(two)}; "
        + (f"joined in training by {_plain(joint)}; " if joint else "nothing joins them; ")
        + f"{_plain(note)}."
        for name, (one, two, joint, note, _) in METHODS.items()
    )
    d = sheet(
        "ch05_marl.architectures",
        "Five architectures: IQL, VDN, QMIX, MADDPG, MAPPO",
        "Five panels with two agents each. Blue boxes act and stay; what stands above them exists in training only. "
        + said,
        narrow,
    )
    if narrow:
        y = 8.0
        for name in METHODS:
            y = _method(d, name, Rect(8, y, 344, 146 if METHODS[name][2] else 92)).y1 + 10
        d.height = y - 2
        return d
    for index, name in enumerate(METHODS):
        first = index < 3
        w = 338.0 if first else 516.0
        x = 14 + (index if first else index - 3) * (w + 18)
        _method(d, name, Rect(x, 12 if first else 256, w, 230))
    d.height = 500
    return d


def _plain(markup: str) -> str:
    return markup.replace("$", "").replace("_{tot}", "_tot").replace("·|", "given ")


def _method(d: Diagram, name: str, rect: Rect) -> Rect:
    one, two, joint, note, role = METHODS[name]
    inside = d.lane(rect, f"**{name}**", role)
    half = (inside.w - (10 if d.narrow else 16)) / 2
    base = rect.y1 - (62 if d.narrow else 102)
    agents = [
        d.box(x, base, half, [Line(markup, d.small)], role="policy", h=32 if d.narrow else 48)
        for x, markup in ((inside.x, one), (inside.x1 - half, two))
    ]
    if joint:
        top = d.box(
            inside.x,
            inside.y - (2 if d.narrow else 0),
            inside.w,
            [Line(joint, d.small)],
            role=role,
            h=34 if d.narrow else 52,
        )
        for agent in agents:
            d.arrow(agent.top, (agent.cx, top.y1 + 2))
    d.text(inside.x, agents[0].y1 + (8 if d.narrow else 16), note, size=d.small, color="muted", width=inside.w)
    return rect


# -- qmix -------------------------------------------------------------------------------------------------------

AGENTS, WIDTH = 2, 8
"""Agents and hidden units of the mixing network in the lab's two-step game."""


def qmix(narrow: bool = False) -> Diagram:
    """The mixing network: utilities go in from below, weights come from the state through hypernetworks."""
    d = sheet(
        "ch05_marl.qmix",
        "QMIX's mixing network and its hypernetworks",
        f"The utilities of {AGENTS} agents, shape (B, {AGENTS}), pass two layers. Layer one multiplies by W1, shape "
        f"({AGENTS}, {WIDTH}), adds b1, and applies an elu; layer two multiplies by w2, shape ({WIDTH},), adds b2, and "
        "gives Q_tot, shape (B,). All four come from the state s through hypernetworks. The weights W1 and w2 pass an "
        "absolute value, so that they are never negative; the biases b1 and b2 do not.",
        narrow,
    )
    flow = [
        ("policy", "Utilities $Q_1, Q_2$", f"`(B, {AGENTS})`"),
        ("value", "$elu(Q W_1 + b_1)$", f"`(B, {WIDTH})`"),
        ("value", "$· w_2 + b_2$", "`(B,)`"),
        ("reward", "$Q_{tot}(s, a_1, a_2)$", "trained on the team's reward"),
    ]
    hyper = [
        ("$|W_1(s)|$", f"`({AGENTS}, {WIDTH})`", 1),
        ("$b_1(s)$", f"`({WIDTH},)`", 1),
        ("$|w_2(s)|$", f"`({WIDTH},)`", 2),
        ("$b_2(s)$", "`()`", 2),
    ]
    if narrow:
        y, boxes = 8.0, list[Rect]()
        for role, what, shape in flow:
            boxes.append(d.box(8, y, 168, [Line(what, d.small), _small(d, shape)], role=role, h=66))
            y += 100
        for before, after in pairwise(boxes):
            d.arrow(before.bottom, (after.cx, after.y - 2))
        for index, (what, shape, layer) in enumerate(hyper):
            target = boxes[layer]
            box = d.box(
                226, target.y - 16 + (index % 2) * 50, 126, [Line(f"{what} {shape}", d.small)], role="prompt", h=42
            )
            at = target.y + (18 if index % 2 == 0 else 48)
            d.arrow((box.x, box.cy), (200, box.cy), (200, at), (target.x1 + 2, at))
        state = d.box(226, 8, 126, [Line("state $s$", d.small)], role="prompt", h=40)
        d.text(state.x, boxes[3].y + 10, "from $s$, by four hypernetworks", size=d.small, color="muted", width=126)
        d.height = boxes[3].y1 + 10
        return d
    boxes = []
    for index, (role, what, shape) in enumerate(flow):
        boxes.append(d.box(20 + index * 272, 250, 214, [Line(what), _small(d, shape)], role=role, h=108))
    for before, after in pairwise(boxes):
        d.arrow(before.right, (after.x - 2, after.cy))
    state = d.box(20, 16, 214, ["**State** $s$", _small(d, "in training only")], role="prompt")
    for index, (what, shape, layer) in enumerate(hyper):
        target, first = boxes[layer], index % 2 == 0
        box = d.box(
            target.x + (-14 if first else 124),
            132,
            122 if first else 104,
            [Line(what, d.small), Line(shape, d.small, "muted")],
            role="prompt",
            h=72,
        )
        down = target.x + (47 if first else 176)
        d.arrow((down, box.y1), (down, target.y - 2))
        d.arrow((down, state.cy), (down, box.y - 2), role="prompt")
    d.line(state.right, (boxes[2].x + 176, state.cy), role="prompt", stroke=d.stroke * 1.1)
    d.text(
        boxes[2].x1 + 20,
        40,
        "four hypernetworks; the absolute value is on weights alone",
        size=d.small,
        color="muted",
        width=290,
    )
    d.height = 380
    return d


# -- two steps --------------------------------------------------------------------------------------------------

PAYOFFS = {"A": ((7, 7), (7, 7)), "B": ((0, 1), (1, 8))}
"""The two-step game: what the team earns in the second state, after agent 1's first action."""

SUM_FIT = ((-1.5, 2.5), (2.5, 6.5))
"""What VDN makes of the second table: the least-squares sum."""


def two_step(narrow: bool = False) -> Diagram:
    """The two-step game, and the table as a sum sees it."""
    d = sheet(
        "ch05_marl.two_step",
        "The two-step game, and what a sum of utilities makes of it",
        "In the first state agent 1 chooses. After A, every pair of actions earns 7. After B, the four pairs AA, AB, "
        "BA, BB earn 0, 1, 1, 8. The best sum of two utilities turns the last table into -1.5, 2.5, 2.5, 6.5: its best "
        "cell is worth 6.5, less than 7, and so VDN chooses A.",
        narrow,
    )
    if narrow:
        first = d.box(90, 8, 180, ["**First state**", _small(d, "agent 1 chooses")], role="prompt")
        tables = [(20.0, "after A", PAYOFFS["A"], "reference"), (204.0, "after B", PAYOFFS["B"], "chosen")]
        for x, title, cells, role in tables:
            grid = _grid(d, x, first.y1 + 62, 68, title, cells, role)
            d.arrow((grid.cx, first.y1), (grid.cx, first.y1 + 30))
        end = first.y1 + 62 + 2 * 34
        grid = _grid(d, 204, end + 80, 68, "after B, as a sum", SUM_FIT, "rejected")
        d.arrow((grid.cx, end + 6), (grid.cx, end + 46), role="rejected", dashed=True)
        d.text(8, end + 24, "rows: agent 1, columns: agent 2, A before B", size=d.small, color="muted", width=180)
        d.text(8, end + 84, "6.5 < 7: with a sum, the sure 7 looks better", size=d.small, color="muted", width=180)
        d.height = grid.y1 + 14
        return d
    first = d.box(20, 120, 240, ["**First state**", _small(d, "agent 1 chooses A or B")], role="prompt")
    d.text(20, 232, "tables: rows for agent 1, columns for agent 2, A first", size=d.small, color="muted", width=250)
    upper = _grid(d, 400, 50, 90, "after A", PAYOFFS["A"], "reference")
    lower = _grid(d, 400, 216, 90, "after B", PAYOFFS["B"], "chosen")
    d.arrow((first.x1, first.cy - 14), (330, first.cy - 14), (330, upper.cy), (upper.x - 6, upper.cy))
    d.arrow((first.x1, first.cy + 14), (330, first.cy + 14), (330, lower.cy), (lower.x - 6, lower.cy))
    fit = _grid(d, 780, 216, 90, "after B, as a sum", SUM_FIT, "rejected")
    d.arrow((lower.x1 + 8, lower.cy), (fit.x - 8, fit.cy), role="rejected", dashed=True)
    d.text(
        780,
        60,
        "6.5 < 7: with a sum of utilities the sure 7 looks better, and the 8 is never found",
        size=d.small,
        color="muted",
        width=280,
    )
    d.height = 330
    return d


def _grid(
    d: Diagram, x: float, y: float, w: float, title: str, cells: tuple[tuple[float, ...], ...], role: str
) -> Rect:
    h = 34.0 if d.narrow else 46.0
    d.text(x + w, y - d.small * 1.5, title, size=d.small, color=role, anchor="middle")
    best = max(max(row) for row in cells)
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            d.cell(
                Rect(x + j * w, y + i * h, w, h),
                f"{value:g}".replace("-", "−"),
                role if value == best else "faint",
                mono=False,
            )
    return Rect(x, y, 2 * w, 2 * h)
