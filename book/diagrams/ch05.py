"""Chapter 5's panorama: one loop, what can be computed from its stream, what is learned, and what changes the rules."""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

SIGNALS = [
    ("return", "G = r + γr' + γ²r'' …", "5.2", "reward"),
    ("TD error", "δ = r + γV(s') − V(s)", "5.3", "value"),
    ("score", "∇ log π(a | s)", "5.5", "policy"),
    ("next state", "s' and r, for s and a", "5.8", "reference"),
]
"""What one can compute from a stream of (s, a, r, s'): its name, its formula, its section, its role."""

LEARNED = [
    ("values", "5.4", "Q-learning, DQN", "value"),
    ("a policy", "5.5", "REINFORCE, actor-critic", "policy"),
    ("a model", "5.8", "Dyna, planning", "reference"),
    ("a distribution", "5.8", "C51, QR-DQN", "kl"),
]
"""What an agent keeps and improves."""

RULES = [
    ("no new data", "5.1", "offline: CQL, IQL", "rejected"),
    ("no reward", "5.7", "imitation: BC, IRL, GAIL", "chosen"),
    ("several agents", "5.6", "QMIX, MADDPG, MAPPO", "prompt"),
    ("long tasks", "5.8", "options, feudal control", "reference"),
]
"""What changes when the setting does."""

WORDS = [
    ("In a language model", ""),
    ("state", "prefix"),
    ("action", "next token"),
    ("reward", "at the end: right or not"),
]
"""The same loop for a language model."""


def panorama(narrow: bool = False) -> Diagram:
    """The whole chapter: the loop, four signals from its stream, what is learned from them, and four other settings."""
    d = sheet(
        "ch05.panorama",
        "Reinforcement learning: one loop, four signals, and what they teach",
        "An agent with a policy acts in an environment, which answers with a reward and the next state. For a language "
        "model the state is the prefix, the action the next token, and the reward comes at the end: right or not. "
        "From the stream of states, actions and rewards four signals are computed: the return, the TD error, the score "
        "(the gradient of log pi) and the next state. From them an agent learns values (Q-learning, DQN), a policy "
        "(REINFORCE, actor-critic), a model (Dyna, planning) or a distribution of returns (C51, QR-DQN), and what it "
        "learned changes how it acts. Four settings change the rules: no new data (offline), no reward (imitation), "
        "several agents, and long tasks (options).",
        narrow,
    )
    return _narrow(d) if narrow else _wide(d)


def _loop(d: Diagram, lane: Rect) -> None:
    """Agent above environment, arrows on both sides, and the language model's words below."""
    inner = d.lane(lane, "**The loop** 5.1", "policy")
    high = 44.0 if d.narrow else 62.0
    side = 34.0 if d.narrow else 30.0
    words = d.small * 1.5 * len(WORDS) + (26.0 if d.narrow else 40.0)
    width = inner.w - 2 * side
    agent = d.box(
        inner.x + side, inner.y + 4, width, ["agent", Line("π(a | s)", d.small)], h=high, role="policy", pad=4
    )
    below = inner.y1 - words - high - 8
    world = d.box(
        inner.x + side, below, width, ["environment", Line("p(s', r | s, a)", d.small)], h=high, role="reference", pad=4
    )
    right, left = inner.x1 - 8, inner.x + 8
    d.arrow((agent.x1, agent.cy), (right, agent.cy), (right, world.cy), (world.x1 + 2, world.cy), role="policy")
    d.arrow((world.x, world.cy), (left, world.cy), (left, agent.cy), (agent.x - 2, agent.cy), role="reward")
    middle = (agent.y1 + world.y) / 2
    d.text(agent.x1 + 4, middle - d.small * 0.7, "action a", size=d.small, color="policy", anchor="end")
    d.text(agent.x - 4, middle - d.small * 0.7, "r, s'", size=d.small, color="reward")
    y = world.y1 + (10 if d.narrow else 18)
    for name, what in WORDS:
        d.text(inner.x, y, f"**{name}** {what}", size=d.small, color="muted", width=inner.w)
        y += d.small * 1.55


def _rows(d: Diagram, lane: Rect, title: str, role: str, rows: list[list[Line]], roles: list[str]) -> list[Rect]:
    inner = d.lane(lane, title, role)
    gap = 8.0 if d.narrow else 14.0
    each = (inner.h - (len(rows) - 1) * gap) / len(rows)
    return [
        d.box(inner.x, inner.y + at * (each + gap), inner.w, row, h=each, role=roles[at], pad=4)
        for at, row in enumerate(rows)
    ]


def _signals(d: Diagram, lane: Rect) -> None:
    rows = [[Line(f"**{name}** {section}", d.small), Line(how, d.small, "muted")] for name, how, section, _ in SIGNALS]
    _rows(d, lane, "**Signals** of the stream", "muted", rows, [role for *_, role in SIGNALS])


def _learned(d: Diagram, lane: Rect) -> None:
    rows = [
        [Line(f"**{name}** {section}", d.small), Line(what, d.small, "muted")] for name, section, what, _ in LEARNED
    ]
    _rows(d, lane, "**What is learned**", "muted", rows, [role for *_, role in LEARNED])


def _rules(d: Diagram, lane: Rect) -> None:
    rows = [[Line(f"**{name}** {section}", d.small), Line(what, d.small, "muted")] for name, section, what, _ in RULES]
    if d.narrow:
        _rows(d, lane, "**Other rules**", "muted", rows, [role for *_, role in RULES])
        return
    inner = d.lane(lane, "**Other rules**", "muted")
    gap = 16.0
    each = (inner.w - 3 * gap) / 4
    for at, (row, (*_, role)) in enumerate(zip(rows, RULES, strict=True)):
        d.box(inner.x + at * (each + gap), inner.y, each, row, h=inner.h, role=role, pad=4)


def _wide(d: Diagram) -> Diagram:
    loop, signals, learned = Rect(46, 16, 320, 470), Rect(420, 16, 300, 470), Rect(774, 16, 286, 470)
    _loop(d, loop)
    _signals(d, signals)
    _learned(d, learned)
    d.arrow((loop.x1, loop.cy), (signals.x - 2, signals.cy))
    d.arrow((signals.x1, signals.cy), (learned.x - 2, learned.cy))
    below = loop.y1 + 32
    d.arrow((learned.cx, learned.y1), (learned.cx, below), (loop.cx, below), (loop.cx, loop.y1 + 2), role="policy")
    d.text(signals.cx, below + 8, "and so it acts differently", size=d.small, color="policy", anchor="middle")
    rules = Rect(46, below + 52, 1014, 150)
    _rules(d, rules)
    d.height = rules.y1 + 16
    return d


def _narrow(d: Diagram) -> Diagram:
    left, wide = 24.0, 330.0
    loop = Rect(left, 8, wide, 262)
    _loop(d, loop)
    signals = Rect(left, loop.y1 + 24, wide, 250)
    _signals(d, signals)
    d.arrow(loop.bottom, (loop.cx, signals.y - 2))
    learned = Rect(left, signals.y1 + 24, wide, 250)
    _learned(d, learned)
    d.arrow(signals.bottom, (signals.cx, learned.y - 2))
    rail = 9.0
    d.arrow((learned.x, learned.cy), (rail, learned.cy), (rail, loop.cy), (loop.x - 2, loop.cy), role="policy")
    d.text(left, learned.y1 + 8, "← and so it acts differently", size=d.small, color="policy")
    rules = Rect(left, learned.y1 + 34, wide, 250)
    _rules(d, rules)
    d.height = rules.y1 + 12
    return d
