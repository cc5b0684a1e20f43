"""Diagrams of section 5.1: what a learner is told, the loop, a process of three states, whose data.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

ANSWERS = ("42", "32", "52")
"""Three answers to "What is 17 + 25?"; the first is right."""

PROBABILITIES = (0.5, 0.3, 0.2)
"""What the policy of the worked example gives them."""


def supervised_step() -> list[float]:
    """Minus the gradient of the cross-entropy to the right answer, on the logits: e_right - p."""
    return [(index == 0) - p for index, p in enumerate(PROBABILITIES)]


def rewarded_step(drawn: int) -> list[float]:
    """The policy gradient from one drawn answer, reward 1 for the right one and 0 else: r (e_drawn - p)."""
    reward = 1.0 if drawn == 0 else 0.0
    return [reward * ((index == drawn) - p) for index, p in enumerate(PROBABILITIES)]


def _steps(values: list[float]) -> str:
    return ", ".join(f"{value:+.1f}".replace("-", "−") if value else "0" for value in values)


TOLD = [
    (
        "Supervised",
        "chosen",
        "the right answer: “42”",
        "every logit: " + _steps(supervised_step()),
        "knows what to say",
    ),
    (
        "Reinforcement",
        "reward",
        "you said “32”: reward 0",
        "no logit: " + _steps(rewarded_step(1)),
        "must try until it is right",
    ),
    ("Preference", "policy", "“42” is better than “32”", "the two compared", "knows which of two"),
    ("Unsupervised", "reference", "nothing; here is more text", "towards what is common", "knows what is usual"),
]
"""What each kind of learning is told, what moves, and in what state that leaves the learner."""


def told(narrow: bool = False) -> Diagram:
    """Four kinds of learning on one question: what each is told, and what that moves."""
    said = "; ".join(f"{kind}: {feedback}; {moves}; {leaves}" for kind, _, feedback, moves, leaves in TOLD)
    d = sheet(
        "ch05_core.told",
        "What a learner is told",
        f"One question, what is 17 + 25, and four kinds of learning with what each is told and what it moves. {said}.",
        narrow,
    )
    if narrow:
        y = 8.0
        for kind, role, feedback, moves, leaves in TOLD:
            box = d.box(
                8,
                y,
                344,
                [
                    Line(f"**{kind}**", d.size, role),
                    Line(feedback, d.size),
                    Line(f"moves {moves}", d.small, "muted", 3),
                    Line(leaves, d.small, "muted"),
                ],
                role=role,
            )
            y = box.y1 + 10
        d.height = y
        return d
    columns = ((20.0, 210.0), (254.0, 330.0), (608.0, 452.0))
    for (x, _), head in zip(columns, ("", "is told", "what moves, and where that leaves it"), strict=True):
        d.text(x, 12, head, size=d.small, color="muted")
    y = 48.0
    for kind, role, feedback, moves, leaves in TOLD:
        height = 84.0
        first = d.box(columns[0][0], y, columns[0][1], [Line(f"**{kind}**", d.size, role)], role=role, h=height)
        second = d.box(columns[1][0], y, columns[1][1], [feedback], h=height)
        third = d.box(columns[2][0], y, columns[2][1], [moves, Line(leaves, d.small, "muted", 4)], h=height)
        d.arrow(first.right, (second.x - 2, second.cy), role=role)
        d.arrow(second.right, (third.x - 2, third.cy), role=role)
        y += height + 16
    d.height = y
    return d


# -- the loop ---------------------------------------------------------------------------------------------------

WORDS = [
    ("state", "position and speed, 4 numbers", "prompt and tokens so far"),
    ("action", "push left or right, 2", "next token, 49,152"),
    ("reward", "1 for every step upright", "0 … 0, then 1 if right"),
    ("terminated", "the pole fell", "end token"),
    ("truncated", "500 steps are over", "limit of tokens"),
]
"""The words of the loop, for CartPole and for a language model that answers."""


def loop(narrow: bool = False) -> Diagram:
    """The agent-environment loop, and its words in two worlds."""
    said = "; ".join(f"{word}: {cart}, {text}" for word, cart, text in WORDS)
    d = sheet(
        "ch05_core.loop",
        "The loop of agent and environment",
        "The agent, a policy pi, sends action a at time t to the environment; the environment answers with reward r at "
        f"time t and the next state. Below, what the words stand for in CartPole and in a language model: {said}.",
        narrow,
    )
    if narrow:
        agent = d.box(20, 34, 130, ["**Agent**", "$π(a | s)$"], role="policy", h=64)
        world = d.box(214, 34, 130, ["**Environment**", "$p(s' | s, a)$"], role="reference", h=64)
        d.arrow((agent.cx, agent.y), (agent.cx, 20), (world.cx, 20), (world.cx, world.y - 1), role="policy")
        d.text(182, 5, "action $a_t$", size=d.small, color="policy", anchor="middle")
        d.arrow((world.cx, world.y1), (world.cx, 120), (agent.cx, 120), (agent.cx, agent.y1 + 1), role="reward")
        d.text(182, 124, "reward $r_t$, state $s_{t+1}$", size=d.small, color="reward", anchor="middle")
        y = 158.0
        for word, cart, text in WORDS:
            head = d.text(8, y, f"**{word}**", size=d.small)
            d.text(110, y, f"cart: {cart}", size=d.small, color="muted")
            d.text(110, head.y1 + 4, f"text: {text}", size=d.small, color="prompt")
            y = head.y1 + 30
        d.height = y
        return d
    agent = d.box(120, 78, 270, ["**Agent**", Line("policy $π(a | s)$", d.small, "muted", 4)], role="policy", h=96)
    world = d.box(690, 78, 270, ["**Environment**", Line("$p(s' | s, a)$, $r$", d.small, "muted", 4)], h=96)
    d.arrow((agent.cx, agent.y), (agent.cx, 44), (world.cx, 44), (world.cx, world.y - 2), role="policy")
    d.text(540, 14, "action $a_t$", color="policy", anchor="middle")
    d.arrow((world.cx, world.y1), (world.cx, 210), (agent.cx, 210), (agent.cx, agent.y1 + 2), role="reward")
    d.text(540, 218, "reward $r_t$ and next state $s_{t+1}$", color="reward", anchor="middle")
    y = 276.0
    for x, title in ((20.0, ""), (260.0, "CartPole"), (640.0, "a language model that answers")):
        d.text(x, y, title, size=d.small, color="muted")
    for word, cart, text in WORDS:
        y += 40
        d.line((20, y - 8), (1060, y - 8))
        d.text(20, y, f"**{word}**")
        d.text(260, y, cart)
        d.text(640, y, text, color="prompt")
    d.height = y + 40
    return d


# -- the desk ---------------------------------------------------------------------------------------------------

THINK_COST, SURE_AFTER, RIGHT_UNSURE, RIGHT_SURE = 0.05, 0.5, 0.4, 0.9
"""The decision process of the worked example: price of a thought, its success, chances of a right answer."""


def desk(narrow: bool = False) -> Diagram:
    """Three states, two actions: think or answer."""
    d = sheet(
        "ch05_core.desk",
        "A decision process of three states",
        f"From the state unsure, think costs {THINK_COST} and leads to sure with probability {SURE_AFTER}, else back "
        f"to unsure; answer leads to done with expected reward {RIGHT_UNSURE}. From sure, answer leads to done with "
        f"expected reward {RIGHT_SURE}; think costs {THINK_COST} and stays in sure. Done is terminal.",
        narrow,
    )
    cost = f"−{THINK_COST:g}"
    if narrow:
        unsure = d.box(8, 68, 108, ["**unsure**"], role="prompt", h=52)
        sure = d.box(240, 68, 108, ["**sure**"], role="chosen", h=52)
        done = d.box(124, 220, 108, ["**done**"], role="reference", h=46, dashed=True)
        d.arrow(unsure.right, (sure.x - 1, sure.cy), role="policy")
        d.text(178, 48, f"think, ½, {cost}", size=d.small, color="policy", anchor="middle")
        d.arrow((30, 68), (30, 30), (90, 30), (90, 67), role="policy")
        d.text(8, 8, f"think, ½, {cost}", size=d.small, color="policy")
        d.arrow((266, 68), (266, 30), (326, 30), (326, 67), role="policy")
        d.text(348, 8, f"think, 1, {cost}", size=d.small, color="policy", anchor="end")
        d.arrow(unsure.bottom, (unsure.cx, done.cy), (done.x - 1, done.cy), role="reward")
        d.text(70, 158, f"answer, +{RIGHT_UNSURE:g}", size=d.small, color="reward")
        d.arrow(sure.bottom, (sure.cx, done.cy), (done.x1 + 1, done.cy), role="reward")
        d.text(286, 158, f"answer, +{RIGHT_SURE:g}", size=d.small, color="reward", anchor="end")
        d.height = 278
        return d
    unsure = d.box(
        120, 110, 220, ["**unsure**", Line(f"right {RIGHT_UNSURE:.0%}", d.small, "muted", 2)], role="prompt", h=92
    )
    sure = d.box(740, 110, 220, ["**sure**", Line(f"right {RIGHT_SURE:.0%}", d.small, "muted", 2)], role="chosen", h=92)
    done = d.box(
        440, 300, 200, ["**done**", Line("terminal", d.small, "muted", 2)], role="reference", h=84, dashed=True
    )
    d.arrow(unsure.right, (sure.x - 2, sure.cy), role="policy")
    d.text(540, 118, f"think: ½, reward {cost}", color="policy", anchor="middle")
    d.arrow((160, 110), (160, 56), (300, 56), (300, 108), role="policy")
    d.text(230, 20, f"think: ½, reward {cost}", color="policy", anchor="middle")
    d.arrow((780, 110), (780, 56), (920, 56), (920, 108), role="policy")
    d.text(850, 20, f"think: 1, reward {cost}", color="policy", anchor="middle")
    d.arrow(unsure.bottom, (unsure.cx, done.cy), (done.x - 2, done.cy), role="reward")
    d.text(unsure.cx + 14, 250, f"answer: expected reward {RIGHT_UNSURE:g}", color="reward")
    d.arrow(sure.bottom, (sure.cx, done.cy), (done.x1 + 2, done.cy), role="reward")
    d.text(sure.cx - 14, 250, f"answer: expected reward {RIGHT_SURE:g}", color="reward", anchor="end")
    d.height = 400
    return d


# -- whose data -------------------------------------------------------------------------------------------------

SETTINGS = [
    ("On-policy", "policy", "the policy itself", "used once, then thrown away", "SARSA, REINFORCE, PPO, GRPO"),
    (
        "Off-policy",
        "value",
        "an older or another policy, which goes on acting",
        "kept in a buffer",
        "Q-learning, DQN, SAC",
    ),
    ("Offline", "rejected", "somebody, some time ago; never again", "all there will ever be", "CQL, IQL, DPO"),
]
"""Whose data: name, role, who acts, what becomes of the data, examples."""


def whose(narrow: bool = False) -> Diagram:
    """On-policy, off-policy and offline: who makes the data, and whether the loop is closed."""
    said = "; ".join(f"{name}: data from {who}, {kept}; {names}" for name, _, who, kept, names in SETTINGS)
    d = sheet(
        "ch05_core.whose",
        "Whose data a policy learns from",
        f"Three rows, from the world through data to the learner. {said}. On-policy and off-policy the learner acts in "
        "the world again; offline there is no way back.",
        narrow,
    )
    y = 8.0
    for name, role, who, kept, names in SETTINGS:
        closed = name != "Offline"
        if narrow:
            lane = d.lane(Rect(8, y, 344, 168), f"**{name}**", role, note=names)
            data = d.box(lane.x, lane.y + 4, 176, [Line(f"data from {who}", d.small)], role=role, h=84)
            learner = d.box(lane.x1 - 96, lane.y + 4, 96, ["learner"], role="policy", h=84)
            d.arrow(data.right, (learner.x - 1, learner.cy), role=role)
            if closed:
                low = learner.y1 + 12
                d.arrow(
                    (learner.cx, learner.y1), (learner.cx, low), (data.cx, low), (data.cx, data.y1 + 1), role="policy"
                )
            y += 178
            continue
        lane = d.lane(Rect(20, y, 1040, 200), f"**{name}**: {names}", role)
        data = d.box(
            lane.x + 20, lane.y + 2, 460, [f"data from {who}", Line(kept, d.small, "muted", 3)], role=role, h=104
        )
        learner = d.box(lane.x1 - 250, lane.y + 2, 220, ["learner"], role="policy", h=104)
        d.arrow(data.right, (learner.x - 2, learner.cy), role=role)
        if closed:
            low = learner.y1 + 20
            d.arrow((learner.cx, learner.y1), (learner.cx, low), (data.cx, low), (data.cx, data.y1 + 2), role="policy")
            d.text((data.x1 + learner.x) / 2, learner.y1 - 10, "acts", size=d.small, color="policy", anchor="middle")
        y += 214
    d.height = y
    return d
