"""Diagrams of section 5.7: four ways to use an expert, the road and the ditch, the adversarial game.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, sheet

EPSILON = 0.01
"""The chance of an error at each step, in the worked example of the road."""

HORIZONS = (10, 100, 1000)


def clone_cost(epsilon: float, horizon: int) -> float:
    """Expected steps in the ditch of a clone that never comes back."""
    return horizon - (1 - (1 - epsilon) ** horizon) / epsilon


def dagger_cost(epsilon: float, horizon: int) -> float:
    """The same, of a learner that errs as often in the ditch as on the road, and so comes back at once."""
    return epsilon * (horizon - 1)


# -- kinds ------------------------------------------------------------------------------------------------------

WAYS = (
    ("Behaviour cloning", "rejected", ("demonstrations", "classify the expert's action", "policy")),
    ("DAgger", "chosen", ("own states, labelled by the expert", "classify, on all rounds", "policy")),
    ("Inverse RL", "reward", ("demonstrations, and the world", "match feature expectations", "reward, then a policy")),
    ("GAIL", "policy", ("demonstrations, and own trials", "fool a discriminator", "policy")),
)
"""Name, role, and: what is needed, what is done, what comes out."""


def kinds(narrow: bool = False) -> Diagram:
    """Four ways to use an expert: what each needs, does and gives."""
    said = "; ".join(f"{name}: from {needs} by {does} to a {gives}" for name, _, (needs, does, gives) in WAYS)
    d = sheet(
        "ch05_imitation.kinds",
        "Four ways to use an expert",
        f"Four rows, each from what is needed over what is done to what comes out. {said}.",
        narrow,
    )
    if narrow:
        y = 8.0
        for name, role, (needs, does, gives) in WAYS:
            content = [
                Line(f"**{name}**"),
                Line(f"needs: {needs}", d.small, "muted", 4),
                Line(f"does: {does}", d.small, "muted", 2),
                Line(f"gives: {gives}", d.small, "muted", 2),
            ]
            y = d.box(8, y, 344, content, role=role, align="start").y1 + 12
        d.height = y - 4
        return d
    for x, heading in ((280, "needs"), (570, "does"), (860, "gives")):
        d.text(x + 5, 10, heading, size=d.small, color="muted")
    y = 44.0
    for name, role, parts in WAYS:
        d.text(20, y + 38 - d.size * 0.5, f"**{name}**", color=role)
        boxes = [
            d.box(x, y, w, [Line(part, d.small)], role=role, h=76)
            for (x, w), part in zip(((280, 240), (570, 240), (860, 200)), parts, strict=True)
        ]
        for left, right in pairwise(boxes):
            d.arrow(left.right, (right.x - 2, right.cy))
        y += 96
    d.height = y - 8
    return d


# -- road -------------------------------------------------------------------------------------------------------


def road(narrow: bool = False) -> Diagram:
    """The road and the ditch, and the share of time that two learners spend in it."""
    shares = [
        (horizon, clone_cost(EPSILON, horizon) / horizon, dagger_cost(EPSILON, horizon) / horizon)
        for horizon in HORIZONS
    ]
    said = "; ".join(f"over {t:,} steps {a:.1%} and {b:.1%}" for t, a, b in shares)
    d = sheet(
        "ch05_imitation.road",
        "The road and the ditch",
        "Two states. From the road an error of probability epsilon leads into the ditch. The clone never comes back; a "
        "learner that was taught in the ditch comes back with probability one minus epsilon. Below, the share of steps "
        f"in the ditch for epsilon 1%, clone and DAgger: {said}.",
        narrow,
    )
    if narrow:
        on = d.box(8, 14, 134, [Line("**road**"), Line("cost 0", d.small, "muted")], role="chosen")
        off = d.box(218, 14, 134, [Line("**ditch**"), Line("cost 1", d.small, "muted")], role="rejected")
        bottom, left, right, height, step = on.y1, 8.0, 352.0, 22.0, 30.0
    else:
        on = d.box(60, 40, 240, [Line("**on the road**"), Line("cost 0 a step", d.small, "muted")], role="chosen")
        off = d.box(780, 40, 240, [Line("**in the ditch**"), Line("cost 1 a step", d.small, "muted")], role="rejected")
        bottom, left, right, height, step = on.y1, 60.0, 1020.0, 30.0, 40.0
    third = on.h / 3
    d.arrow((on.x1, on.y + third), (off.x - 2, on.y + third), role="rejected")
    d.arrow((off.x, on.y1 - third), (on.x1 + 2, on.y1 - third), role="chosen", dashed=True)
    middle = (on.x1 + off.x) / 2
    d.text(
        middle,
        on.y + third - d.small * 1.35,
        "error, $ε$" if narrow else "an error, $ε$",
        size=d.small,
        anchor="middle",
    )
    back = "back" if narrow else "“back”: the clone never saw it; taught there, $1-ε$"
    d.text(middle, on.y1 - third + d.small * 0.45, back, size=d.small, anchor="middle")
    y = bottom + (20 if narrow else 34)
    if narrow:
        note = d.text(
            8,
            y,
            "“back”: the clone never saw it; DAgger's learner does it with $1-ε$",
            size=d.small,
            color="muted",
            width=344,
        )
        y = note.y1 + 14
    d.text(left, y, "**Share of steps in the ditch**, $ε=0.01$")
    y += d.size * 1.7
    for horizon, clone, dagger in shares:
        label = d.text(left, y, f"$T={horizon:,}$", size=d.small)
        y = label.y1 + 6
        for share, role in ((clone, "rejected"), (dagger, "chosen")):
            room = (right - left) * 0.84
            bar = Rect(left, y, max(share * room, 2.0), height)
            d.rect(bar, role, radius=0)
            d.text(bar.x1 + 8, bar.cy - d.small * 0.5, f"{share:.1%}", size=d.small)
            y += step
        y += 4
    end = d.legend(left, y + 4, right - left, [("rejected", "clone"), ("chosen", "DAgger")])
    d.height = end.y1 + 12
    return d


# -- game -------------------------------------------------------------------------------------------------------


def game(narrow: bool = False) -> Diagram:
    """The adversarial game: policy, world, discriminator, and the reward that closes the loop."""
    d = sheet(
        "ch05_imitation.game",
        "Generative adversarial imitation",
        "The policy acts in the world, which gives the learner's states and actions, (M, d). They and the expert's, "
        "(N, d), go to the discriminator D, the probability that a row is the expert's. Its logit is the learner's "
        "reward, with which a policy gradient improves the policy: a loop.",
        narrow,
    )
    policy = [Line("**policy** $π_θ$"), Line("learns by policy gradient", d.small, "muted")]
    world = [Line("**world**"), Line("only tried, never told", d.small, "muted")]
    fake = [Line("learner's pairs $(s, a)$"), Line("`(M, d)`", d.small, "muted")]
    real = [Line("expert's pairs $(s, a)$"), Line("`(N, d)`, fixed", d.small, "muted")]
    judge = [Line("**discriminator** $D$"), Line("whose pair is it?", d.small, "muted")]
    reward = [Line("reward $log D - log(1-D)$"), Line("how much like the expert", d.small, "muted")]
    if narrow:
        a = d.box(40, 10, 312, policy, role="policy")
        b = d.box(40, a.y1 + 26, 312, world, role="reference")
        c = d.box(40, b.y1 + 26, 148, fake, role="policy")
        e = d.box(204, c.y, 148, real, role="chosen", h=c.h)
        f = d.box(40, c.y1 + 26, 312, judge, role="value")
        g = d.box(40, f.y1 + 26, 312, reward, role="reward")
        d.arrow(a.bottom, (b.cx, b.y - 2))
        d.arrow((c.cx, b.y1), (c.cx, c.y - 2))
        d.arrow(c.bottom, (c.cx, f.y - 2))
        d.arrow(e.bottom, (e.cx, f.y - 2))
        d.arrow(f.bottom, (g.cx, g.y - 2))
        d.arrow(g.left, (16, g.cy), (16, a.cy), (a.x - 2, a.cy), role="reward")
        d.height = g.y1 + 12
        return d
    a = d.box(20, 30, 240, policy, role="policy", h=104)
    b = d.box(310, 30, 200, world, role="reference", h=104)
    c = d.box(560, 30, 220, fake, role="policy", h=104)
    e = d.box(560, 190, 220, real, role="chosen", h=104)
    f = d.box(850, 104, 210, judge, role="value", h=104)
    g = d.box(310, 330, 330, reward, role="reward", h=104)
    d.arrow(a.right, (b.x - 2, b.cy))
    d.arrow(b.right, (c.x - 2, c.cy))
    d.arrow(c.right, (f.cx, c.cy), (f.cx, f.y - 2))
    d.arrow(e.right, (f.x + 40, e.cy), (f.x + 40, f.y1 + 2))
    d.arrow((f.x1 - 50, f.y1), (f.x1 - 50, g.cy), (g.x1 + 2, g.cy), role="reward")
    d.arrow(g.left, (a.cx, g.cy), (a.cx, a.y1 + 2), role="reward")
    d.height = g.y1 + 14
    return d
