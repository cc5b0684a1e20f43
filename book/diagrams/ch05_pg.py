"""Diagrams of section 5.5: one decision and its scores, the theorem unrolled, credit, actor-critic.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from itertools import groupby

from diagrams.kit import Diagram, Line, Rect, sheet

PROBABILITIES, REWARDS = (0.5, 0.3, 0.2), (1.0, 0.0, 0.0)
"""Three answers to "What is 17 + 25?": what the policy gives them, and what they earn."""

ANSWERS = ("42", "32", "52")


def score(action: int) -> list[float]:
    """The gradient of log pi(action) by the three logits: unit vector minus probabilities."""
    return [(i == action) - p for i, p in enumerate(PROBABILITIES)]


def estimates(baseline: float) -> list[list[float]]:
    """What one sample of each action gives as an estimate of the gradient."""
    return [[(REWARDS[a] - baseline) * x for x in score(a)] for a in range(3)]


def mean(baseline: float) -> list[float]:
    """The expectation of the estimates."""
    rows = estimates(baseline)
    return [sum(p * row[i] for p, row in zip(PROBABILITIES, rows, strict=True)) for i in range(3)]


def variance(baseline: float) -> float:
    """The total variance of one estimate: of its three entries together."""
    middle, rows = mean(baseline), estimates(baseline)
    return sum(
        p * sum((x - m) ** 2 for x, m in zip(row, middle, strict=True))
        for p, row in zip(PROBABILITIES, rows, strict=True)
    )


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−") if abs(x) > 1e-9 else "0"


# -- one decision -----------------------------------------------------------------------------------------------


def samples(narrow: bool = False) -> Diagram:
    """The estimates of one decision with three actions, without and with a baseline, and their common mean."""
    base = sum(p * r for p, r in zip(PROBABILITIES, REWARDS, strict=True))
    d = sheet(
        "ch05_pg.samples",
        "One decision: three samples, two baselines, one mean",
        "Three answers with probabilities 0.5, 0.3 and 0.2; the first earns 1, the others 0. For each answer that may "
        "be sampled, a row with the estimate of the gradient by the three logits: without a baseline only the first is "
        f"not zero; with the baseline {base:g} all are. The mean, weighted by the probabilities, is "
        f"{', '.join(_signed(x) for x in mean(0.0))} both times; the total variance falls from {variance(0.0):.3f} to "
        f"{variance(base):.3f}.",
        narrow,
    )
    blocks = [("no baseline", 0.0), (f"baseline $J = {base:g}$", base)]
    if narrow:
        y = 8.0
        for title, value in blocks:
            y = _block(d, Rect(8, y, 344, 0), title, value) + 18
        d.height = y - 10
        return d
    ends = [_block(d, Rect(20 + k * 530, 14, 500, 0), title, value) for k, (title, value) in enumerate(blocks)]
    d.height = max(ends) + 10
    return d


def _block(d: Diagram, rect: Rect, title: str, baseline: float) -> float:
    """One table: sampled action, weight, estimate; its mean and variance below."""
    size = d.small
    row = size * 2.0
    head = d.text(rect.x, rect.y, f"{title}: variance {variance(baseline):.3f}", color="policy")
    name, weight = rect.w * 0.24, rect.w * 0.2
    cell = (rect.w - name - weight) / 3
    y = head.y1 + size * 0.6
    d.text(rect.x, y, "sampled", size=size, color="muted")
    d.text(rect.x + name, y, "$r − b$", size=size, color="muted")
    for i, answer in enumerate(ANSWERS):
        middle = rect.x + name + weight + cell * (i + 0.5)
        d.text(middle, y, f"logit {answer}" if not d.narrow else answer, size=size, color="muted", anchor="middle")
    y += row * 0.85
    for a, values in enumerate(estimates(baseline)):
        top = y + (row - size) / 2 - 2
        d.text(
            rect.x, top, f"{ANSWERS[a]} ({PROBABILITIES[a]:g})", size=size, color="chosen" if REWARDS[a] else "rejected"
        )
        d.text(rect.x + name, top, _signed(REWARDS[a] - baseline), size=size)
        for i, value in enumerate(values):
            x = rect.x + name + weight + cell * i
            role = "chosen" if value > 1e-9 else "rejected" if value < -1e-9 else "reference"
            d.cell(Rect(x + 2, y, cell - 4, row - 6), _signed(value), role, mono=False)
        y += row
    y += 4
    d.line((rect.x, y), (rect.x1, y), role="faint")
    y += 8
    d.text(rect.x, y + (row - size) / 2 - 4, "**mean**", size=size)
    for i, value in enumerate(mean(baseline)):
        x = rect.x + name + weight + cell * i
        d.cell(Rect(x + 2, y, cell - 4, row - 6), _signed(value), "policy", mono=False)
    return y + row - 4


# -- the theorem, unrolled ----------------------------------------------------------------------------------------


COLLECTED = (
    "each state’s local part counts as often as the state is visited, $d(s) = Σ_t γ^t P(s_t = s)$. Nowhere is $d$ "
    "differentiated."
)


def unrolled(narrow: bool = False) -> Diagram:
    """The gradient of V at the start is what the policy does here, plus the gradient of V one step on, and so forth."""
    steps = ["$s_0$", "$s_1$", "$s_2$"]
    factors = ["1", "$γ · P(s_0 → s_1)$", "$γ^2 · P(s_0 → s_2)$"]
    d = sheet(
        "ch05_pg.unrolled",
        "The theorem, unrolled",
        "The gradient of the value of the first state splits into two parts: what changing the policy here is worth, "
        "sum over actions of grad pi times Q, and gamma times the gradient of the value one step on. The second part "
        "splits in the same way, and so forth. Collected over all times, the local part of each state is weighted by "
        "its discounted number of visits d(s).",
        narrow,
    )
    if narrow:
        y = 8.0
        for k, (state, factor) in enumerate(zip(steps, factors, strict=True)):
            left = d.box(8, y, 96, [Line(f"$∇V$ at {state}", d.small)], role="value", h=56)
            local = d.box(
                140, y, 212, [Line(f"$Σ_a ∇π · Q$ at {state}", d.small), Line(f"times {factor}", d.small, "muted", 2)],
                role="policy", h=56,
            )  # fmt: skip
            d.arrow(left.right, (local.x - 1, local.cy))
            if k < 2:
                d.arrow(left.bottom, (left.cx, y + 80))
            y += 82
        d.note(8, y - 8, 344, [f"… and so on: {COLLECTED}"], role="reward")
        d.height = y + 54
        return d
    for k, (state, factor) in enumerate(zip(steps, factors, strict=True)):
        x = 20 + k * 345
        top = d.box(x, 20, 190, [Line(f"$∇V$ at {state}")], role="value", h=60)
        local = d.box(
            x, 150, 290,
            [Line(f"$Σ_a ∇π(a|s) · Q(s,a)$ at {state}", d.small), Line(f"times {factor}", d.small, "muted", 6)],
            role="policy", h=86,
        )  # fmt: skip
        d.arrow((top.cx, top.y1 + 1), (top.cx, local.y - 2))
        d.text(top.cx + 12, 100, "here", size=d.small, color="muted")
        if k < 2:
            d.arrow(top.right, (x + 343, top.cy))
            d.text(x + 266, 24, "later, $γ$", size=d.small, color="muted", anchor="middle")
    d.note(20, 262, 1030, [f"Collect the lower row over all times: {COLLECTED}"], role="reward")
    d.height = 320
    return d


# -- credit -----------------------------------------------------------------------------------------------------

CREDITS = {
    "whole return": lambda t, k: "all",
    "reward-to-go": lambda t, k: "own" if k >= t else "",
    "actor-critic, 2 steps": lambda t, k: "own" if t <= k < t + 2 else "value" if k == t + 2 else "",
}
"""For the action at time t: whether the reward at time k counts ("own", "all"), or a value stands there."""

STEPS = 5


def _mark(kind: str, t: int, k: int) -> str:
    """The colour of a reward in the row of an action; empty where it does not count."""
    return {"own": "reward", "all": "reward" if k >= t else "rejected", "value": "value"}.get(kind, "")


def credit(narrow: bool = False) -> Diagram:
    """Which rewards weigh which action, in three estimators."""
    d = sheet(
        "ch05_pg.credit",
        "Which rewards count for which action",
        "Three square tables with an action in each row and a reward in each column, five of each. Whole return: every "
        "reward counts for every action. Reward-to-go: only rewards from the action on, the upper triangle. "
        "Actor-critic with two steps: the next two rewards, then the critic's value in place of the rest.",
        narrow,
    )
    side = 30.0 if narrow else 44.0
    y = 8.0
    for number, (name, rule) in enumerate(CREDITS.items()):
        x0 = 84.0 if narrow else 70.0 + number * 345
        top = y if narrow else 16.0
        head = d.text(8 if narrow else x0 - 50, top, f"**{name}**", color="policy")
        top = head.y1 + d.small * 1.6
        for k in range(STEPS):
            d.text(
                x0 + (k + 0.5) * side, top - d.small * 1.25, f"$r_{k}$", size=d.small, color="muted", anchor="middle"
            )
        for t in range(STEPS):
            d.text(
                x0 - 10, top + (t + 0.5) * side - d.small * 0.55, f"$a_{t}$", size=d.small, color="muted", anchor="end"
            )
            marks = [_mark(rule(t, k), t, k) for k in range(STEPS)]
            for role, run in groupby(range(STEPS), key=lambda k: marks[k]):  # one bar for neighbours that are alike
                ks = list(run)
                if role:
                    bar = Rect(x0 + ks[0] * side + 1.5, top + t * side + 1.5, len(ks) * side - 3, side - 3)
                    d.rect(bar, role, radius=3, stroke=d.stroke * 0.6)
                    if role == "value":
                        d.text(bar.cx, bar.cy - d.small * 0.55, "$V$", size=d.small, anchor="middle")
        y = top + STEPS * side + 16
    end = d.legend(
        8 if narrow else 20, y if narrow else y + 4, 344 if narrow else 1040,
        [("reward", "counts"), ("rejected", "came before it: noise only"), ("value", "the critic’s estimate")],
    )  # fmt: skip
    d.height = end.y1 + 12
    return d


# -- actor-critic -----------------------------------------------------------------------------------------------


RULES = (
    "**critic:** minimize $δ_t^2 / 2$, target held fixed",
    "**actor:** minimize $− δ_t · log π(a_t|s_t)$, $δ_t$ held fixed",
)


def actor_critic(narrow: bool = False) -> Diagram:
    """Actor, critic, environment, and the one number that teaches both."""
    d = sheet(
        "ch05_pg.actor_critic",
        "Actor-critic: one error teaches two networks",
        "The state goes to the actor, which gives probabilities, and to the critic, which gives a value. The sampled "
        "action goes to the environment, which answers with a reward and the next state. Reward, discounted value of "
        "the next state and value of this one make the TD error. It is the critic's error, and it weighs the actor's "
        "score. No gradient goes through it from the actor's loss.",
        narrow,
    )
    small = d.small

    def box(x: float, y: float, w: float, h: float, title: str, note: str, role: str) -> Rect:
        return d.box(x, y, w, [Line(title), Line(note, small, "muted", 3)], role=role, h=h)

    if narrow:
        state = box(90, 8, 180, 58, "**State** $s_t$", "`(C, n, d)`", "prompt")
        actor = box(8, 100, 160, 76, "**Actor** $π_θ$", "logits `(C, n, A)`", "policy")
        critic = box(192, 100, 160, 76, "**Critic** $V_φ$", "values `(C, n)`", "value")
        world = box(8, 214, 160, 76, "**Environment**", "$r_t$ and $s_{t+1}$", "reference")
        error = box(60, 334, 240, 78, "**TD error** $δ_t$", "$r_t + γ V(s_{t+1}) − V(s_t)$", "reward")
        d.arrow((130, state.y1 + 1), (130, actor.y - 2))
        d.arrow((230, state.y1 + 1), (230, critic.y - 2))
        d.arrow((88, actor.y1 + 1), (88, world.y - 2))
        d.text(96, 186, "$a_t$", size=small, color="muted")
        d.arrow((110, world.y1 + 1), (110, error.y - 2))
        d.arrow((250, critic.y1 + 1), (250, error.y - 2))
        d.note(8, 428, 344, [Line(RULES[0], small, "value"), Line(RULES[1], small, "policy", 4)], role="reward")
        d.height = 500
        return d
    state = box(20, 130, 170, 84, "**State** $s_t$", "`(C, n, d)`", "prompt")
    actor = box(270, 20, 230, 84, "**Actor** $π_θ$", "logits `(C, n, A)`", "policy")
    critic = box(270, 240, 230, 84, "**Critic** $V_φ$", "values `(C, n)`", "value")
    world = box(580, 20, 200, 84, "**Environment**", "$r_t$ and $s_{t+1}$", "reference")
    error = box(580, 240, 320, 84, "**TD error** $δ_t$", "$r_t + γ V(s_{t+1}) − V(s_t)$", "reward")
    d.arrow((105, state.y - 1), (105, actor.cy), (actor.x - 2, actor.cy))
    d.arrow((105, state.y1 + 1), (105, critic.cy), (critic.x - 2, critic.cy))
    d.arrow(actor.right, (world.x - 2, world.cy))
    d.text(540, world.cy - small * 1.5, "$a_t$", size=small, color="muted", anchor="middle")
    d.arrow(critic.right, (error.x - 2, error.cy))
    d.arrow((680, world.y1 + 1), (680, error.y - 2))
    d.text(692, 160, "$r_t$, and $V$ of $s_{t+1}$", size=small, color="muted")
    d.note(
        20, 356, 500, [Line("**critic:** minimize $δ_t^2 / 2$, its target held fixed", small, "value")], role="value"
    )
    d.note(
        550,
        356,
        510,
        [Line("**actor:** minimize $− δ_t · log π(a_t|s_t)$, $δ_t$ held fixed", small, "policy")],
        role="policy",
    )
    d.height = 396
    return d
