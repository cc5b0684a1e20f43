"""Diagrams of section 3.5: the loops of PPO-based RLHF and of DPO, and what a push-down does to a softmax.

Every number here follows from arithmetic; tests recompute it.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

PROBS = (0.70, 0.20, 0.09, 0.01)
"""Probabilities of four tokens, A to D, before the step. C is the chosen one."""

STEP = 1.0
"""Size of the gradient step on the logits."""

NAMES = "ABCD"
CHOSEN = 2
UNLIKELY, LIKELY = 3, 0
"""The token that is pushed down in the left and in the right panel."""


def pushed_down(token: int) -> tuple[float, ...]:
    """PROBS after one step that lowers log p(token): logits move by STEP (p - e_token)."""
    weights = [p * math.exp(STEP * (p - (index == token))) for index, p in enumerate(PROBS)]
    return tuple(weight / sum(weights) for weight in weights)


# -- loops ------------------------------------------------------------------------------------------------------


def loops(narrow: bool = False) -> Diagram:
    """PPO-based RLHF and DPO side by side: what each keeps in memory, and what it repeats."""
    diagram = sheet(
        "ch03_beyond.loops",
        "RLHF with PPO and DPO: two loops toward the same objective",
        "Left, RLHF with PPO, a loop with four models. A prompt goes to the policy, which samples an answer. The "
        "reward model scores the answer, the reference gives its log-probability, the value model predicts the "
        "reward token by token. Reward minus beta times the log-ratio, minus the prediction, gives an advantage for "
        "each token; a clipped step changes policy and value model, and the policy samples anew. The reward model was "
        "trained on preference pairs before. Right, DPO, a loop with two models. Labelled pairs, collected once, go to "
        "policy and reference, which give log-probabilities of both answers; the margin gives the loss; its gradient "
        "changes the policy, and the next batch follows. A dashed arrow shows on-policy DPO: the policy samples new "
        "pairs, which are labelled and join the data.",
        narrow,
    )
    if narrow:
        end = _ppo(diagram, Rect(8, 8, 344, 462))
        end = _dpo(diagram, Rect(8, end + 14, 344, 428))
        diagram.height = end + 8
        return diagram
    _ppo(diagram, Rect(20, 16, 508, 702))
    end = _dpo(diagram, Rect(552, 16, 508, 702))
    diagram.height = end + 16
    return diagram


def _stack(d: Diagram) -> tuple[float, float]:
    """Space between the rows of a loop, and width of the rails beside it."""
    return (20.0, 20.0) if d.narrow else (34.0, 34.0)


def _ppo(d: Diagram, lane: Rect) -> float:
    gap, rail = _stack(d)
    small = d.small
    inner = d.lane(lane, "**RLHF with PPO**", "policy", note="4 models, 2 of them trained; every step generates")
    x, wide = inner.x + rail, inner.w - rail
    prompts = d.box(x, inner.y, wide, ["prompt $x$"], role="prompt")
    policy = d.box(
        x,
        prompts.y1 + gap,
        wide,
        ["**Policy** $π_θ$", Line("samples an answer $y$", small, "muted", 2)],
        role="policy",
    )
    between = 8.0 if d.narrow else 12.0
    third = (wide - 2 * between) / 3
    top = policy.y1 + gap
    pad = 5.0 if d.narrow else 8.0
    cells = []
    for index, (name, gives, role) in enumerate(
        (
            ("**Reward model**", "$r_φ(x, y)$", "reward"),
            ("**Reference**", "$log π_{ref}(y | x)$", "reference"),
            ("**Value model**", "$V_φ$ at each token", "value"),
        )
    ):
        left = x + index * (third + between)
        content = [Line(name, small), Line(gives, small, "muted", 4)]
        cells.append(d.box(left, top, third, content, role=role, pad=pad, h=_three(d)))
    advantage = d.box(
        x,
        cells[0].y1 + gap,
        wide,
        [
            "$r_φ − β (log π_θ − log π_{ref})$",
            Line("minus the predicted value: an advantage $A_t$ for each token", small, "muted", 4),
        ],
        role="reward",
    )
    step = d.box(
        x,
        advantage.y1 + gap,
        wide,
        ["**Clipped step** on policy and value model", Line("a few epochs on the fresh answers", small, "muted", 2)],
        role="policy",
    )
    d.arrow(prompts.bottom, (policy.cx, policy.y - 2))
    for cell in cells:
        d.arrow((cell.cx, policy.y1), (cell.cx, cell.y - 2))
        d.arrow((cell.cx, cell.y1), (cell.cx, advantage.y - 2))
    d.arrow(advantage.bottom, (step.cx, step.y - 2))
    left = inner.x + rail * 0.3
    d.arrow(step.left, (left, step.cy), (left, policy.cy), (policy.x - 2, policy.cy), role="policy")
    d.note(
        x,
        step.y1 + gap * 0.8,
        wide,
        [Line("Before the loop: preference pairs train the reward model.", small, "muted")],
        role="reward",
    )
    return lane.y1


def _three(d: Diagram) -> float:
    return 76.0 if d.narrow else 88.0


def _dpo(d: Diagram, lane: Rect) -> float:
    gap, rail = _stack(d)
    small = d.small
    inner = d.lane(lane, "**DPO**", "chosen", note="2 models, 1 of them trained; pairs labelled once")
    x, wide = inner.x + rail, inner.w - 2 * rail
    pairs = d.box(
        x,
        inner.y,
        wide,
        ["**Preference pairs**", Line("$(x, y_w, y_l)$, labelled by people or a judge", small, "muted", 2)],
        role="prompt",
    )
    between = 10.0 if d.narrow else 20.0
    half = (wide - between) / 2
    top = pairs.y1 + gap
    cells = []
    for index, (name, gives, role) in enumerate(
        (("**Policy** $π_θ$", "$log π_θ$ of both", "policy"), ("**Reference**", "$log π_{ref}$ of both", "reference"))
    ):
        content = [Line(name, small), Line(gives, small, "muted", 4)]
        cells.append(d.box(x + index * (half + between), top, half, content, role=role, pad=6.0 if d.narrow else 10.0))
    margin = d.box(
        x,
        cells[0].y1 + gap,
        wide,
        ["$−log σ(β m_θ)$", Line("one number per pair, for the whole answer", small, "muted", 4)],
        role="reward",
    )
    step = d.box(
        x,
        margin.y1 + gap,
        wide,
        ["**Gradient step** on the policy", Line("the next batch of the same pairs", small, "muted", 2)],
        role="policy",
    )
    fresh = d.box(
        x,
        step.y1 + gap * 1.7,
        wide,
        [
            "**On-policy DPO**",
            Line("now and then the policy samples new pairs; they are labelled and join the data", small, "muted", 2),
        ],
        role="rejected",
        dashed=True,
    )
    for cell in cells:
        d.arrow((cell.cx, pairs.y1), (cell.cx, cell.y - 2))
        d.arrow((cell.cx, cell.y1), (cell.cx, margin.y - 2))
    d.arrow(margin.bottom, (step.cx, step.y - 2))
    left, right = inner.x + rail * 0.3, inner.x1 - rail * 0.3
    d.arrow(step.left, (left, step.cy), (left, cells[0].cy), (cells[0].x - 2, cells[0].cy), role="policy")
    d.arrow(step.bottom, (step.cx, fresh.y - 2), role="rejected", dashed=True)
    d.arrow(fresh.right, (right, fresh.cy), (right, pairs.cy), (pairs.x1 + 2, pairs.cy), role="rejected", dashed=True)
    return lane.y1


# -- push down --------------------------------------------------------------------------------------------------


def push_down(narrow: bool = False) -> Diagram:
    """Four tokens before and after one step that pushes one of them down: an unlikely one, then the likely one."""
    unlikely, likely = pushed_down(UNLIKELY), pushed_down(LIKELY)
    diagram = sheet(
        "ch03_beyond.push_down",
        "Pushing an unlikely token down lifts the most likely one; pushing the likely one down lifts the others",
        "Two bar charts of the probabilities of four tokens, A 0.70, B 0.20, C 0.09 and D 0.01, before and after one "
        f"gradient step of size {STEP:g} on the logits. Left, the step lowers the unlikely token D: A rises from 0.700 "
        f"to {unlikely[0]:.3f}, and B, C and D all fall; the chosen token C goes from 0.090 to {unlikely[2]:.3f}. "
        f"Right, the step lowers the likely token A, from 0.700 to {likely[0]:.3f}: B, C and D all rise, the chosen "
        f"token C to {likely[2]:.3f}.",
        narrow,
    )
    if narrow:
        end = _bars(diagram, Rect(8, 8, 344, 332), UNLIKELY)
        end = _bars(diagram, Rect(8, end + 12, 344, 332), LIKELY)
        end = _key(diagram, 8, end + 12, 344)
        diagram.height = end + 10
        return diagram
    _bars(diagram, Rect(20, 16, 508, 440), UNLIKELY)
    end = _bars(diagram, Rect(552, 16, 508, 440), LIKELY)
    end = _key(diagram, 20, end + 18, 1040)
    diagram.height = end + 16
    return diagram


def _key(d: Diagram, x: float, y: float, width: float) -> float:
    return d.legend(
        x,
        y,
        width,
        [("reference", "before the step"), ("policy", "after it"), ("chosen", "C, the chosen token, after it")],
    ).y1


def _bars(d: Diagram, lane: Rect, token: int) -> float:
    after = pushed_down(token)
    small = d.small
    if token == UNLIKELY:
        title, note, role = (
            f"**Push down {NAMES[token]}, an unlikely token**",
            "The likeliest token takes all.",
            "rejected",
        )
    else:
        title, note, role = f"**Push down {NAMES[token]}, the likely token**", "All the others rise.", "policy"
    inner = d.lane(lane, title, role, note=note)
    names = 50.0 if d.narrow else 78.0
    rows = 3 * small * 1.55
    plot = Rect(inner.x + names, inner.y + small * 1.2, inner.w - names, inner.h - rows - small * 1.8)
    column = plot.w / len(PROBS)
    bar = column * 0.3
    scale = plot.h / 0.86
    d.line((plot.x, plot.y1), (plot.x1, plot.y1), role="muted")
    tops = [plot.y1 + small * (0.7 + 1.55 * row) for row in range(3)]
    for label, top in zip(("token", "before", "after"), tops, strict=True):
        d.text(inner.x, top, label, size=small, color="muted")
    for index, (old, new) in enumerate(zip(PROBS, after, strict=True)):
        middle = plot.x + (index + 0.5) * column
        shade = "chosen" if index == CHOSEN else "policy"
        for offset, value, kind in ((-bar - 2, old, "reference"), (2, new, shade)):
            high = max(value * scale, 1.0)
            d.rect(Rect(middle + offset, plot.y1 - high, bar, high), kind, radius=2, stroke=d.stroke * 0.7)
        if index == token:
            tip = plot.y1 - old * scale - (4 if d.narrow else 6)
            length = 16.0 if d.narrow else 26.0
            d.arrow((middle - bar / 2 - 2, tip - length), (middle - bar / 2 - 2, tip), role="rejected")
        d.text(
            middle,
            tops[0],
            f"**{NAMES[index]}**",
            size=small,
            anchor="middle",
            color=shade if shade == "chosen" else "ink",
        )
        d.text(middle, tops[1], f"{old:.3f}", size=small, anchor="middle", color="muted")
        d.text(
            middle, tops[2], f"**{new:.3f}**", size=small, anchor="middle", color="chosen" if new > old else "rejected"
        )
    return lane.y1
