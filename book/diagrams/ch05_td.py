"""Diagrams of section 5.3: one step of TD(0), forward and backward view, four ways to a value.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Point, Rect, sheet

CELLS, VALUES, ALPHA = "ABCDE", {"D": 0.5, "E": 0.55}, 0.1
"""The second walk of the worked example steps from D to E; estimates before the step."""

ALONG, REWARD, LAM = (0.5, 0.6, 0.8), 1.0, 0.5
"""Values of the three states of the worked example of lambda, the reward at the end, and lambda."""


def step() -> tuple[float, float, float]:
    """Target, TD error and new value of the step from D to E, reward 0."""
    target = 0.0 + VALUES["E"]
    error = target - VALUES["D"]
    return target, error, VALUES["D"] + ALPHA * error


def returns() -> list[float]:
    """Returns of one, two and three steps; only the last step pays."""
    return [ALONG[1], ALONG[2], REWARD]


def weights() -> list[float]:
    """What lambda gives them: the last one takes the rest."""
    return [1 - LAM, (1 - LAM) * LAM, LAM**2]


def errors() -> list[float]:
    """The three TD errors."""
    return [ALONG[1] - ALONG[0], ALONG[2] - ALONG[1], REWARD - ALONG[2]]


def traces() -> list[float]:
    """The first state's trace at the three steps."""
    return [LAM**k for k in range(3)]


def lambda_return() -> float:
    return sum(weight * gain for weight, gain in zip(weights(), returns(), strict=True))


# -- one step ---------------------------------------------------------------------------------------------------


def one_step(narrow: bool = False) -> Diagram:
    """A walk steps from D to E: reward and next estimate make the target, a tenth of the difference is learned."""
    target, error, after = step()
    d = sheet(
        "ch05_td.one_step",
        "One step of TD(0)",
        f"Five cells A to E in a row, all estimates 0.5 but that of E, {VALUES['E']:g}. The walk steps from D to E "
        f"at reward 0. The target is 0 + {VALUES['E']:g} = {target:g}, the TD error {target:g} - 0.5 = {error:.2f}; "
        f"with step size {ALPHA:g} the estimate of D becomes {after:.3f}. No other cell changes.",
        narrow,
    )
    side, gap = (56.0, 8.0) if narrow else (128.0, 40.0)
    left = (d.width - 5 * side - 4 * gap) / 2
    top = 44.0 if narrow else 64.0
    cells = {}
    for k, name in enumerate(CELLS):
        role = "policy" if name == "D" else "value" if name == "E" else "reference"
        value = VALUES.get(name, 0.5)
        content = [Line(f"**{name}**", d.size), Line(f"{value:g}", d.small, "muted")]
        cells[name] = d.box(left + k * (side + gap), top, side, content, role=role, h=58 if narrow else 84)
    up = top - (14 if narrow else 22)
    d.arrow(cells["D"].top, (cells["D"].cx, up), (cells["E"].cx, up), cells["E"].top, role="policy")
    d.text(
        (cells["D"].cx + cells["E"].cx) / 2,
        up - d.small * 1.35,
        "reward 0",
        size=d.small,
        color="reward",
        anchor="middle",
    )
    y = cells["A"].y1 + (16 if narrow else 34)
    facts = [
        ("value", "**TD target** $r + γ V(E)$", f"0 + {VALUES['E']:g} = {target:g}"),
        ("kl", "**TD error** $δ$ = target $−$ $V(D)$", f"{target:g} − {VALUES['D']:g} = {error:.2f}"),
        ("policy", "**Learned** $V(D) + α δ$", f"{VALUES['D']:g} + {ALPHA:g} · {error:.2f} = {after:.3f}"),
    ]
    boxes: list[Rect] = []
    for k, (role, words, sum_) in enumerate(facts):
        content = [Line(words, d.size), Line(sum_, d.small, "muted", 4)]
        if narrow:
            boxes.append(d.box(20, y, 320, content, role=role))
            y = boxes[-1].y1 + 22
        else:
            boxes.append(d.box(20 + k * 356, y, 328, content, role=role, h=100))
    for first, second in pairwise(boxes):
        if narrow:
            d.arrow((first.cx, first.y1 + 1), (first.cx, second.y - 1))
        else:
            d.arrow((first.x1 + 1, first.cy), (second.x - 1, second.cy))
    d.height = boxes[-1].y1 + 16
    return d


# -- two views --------------------------------------------------------------------------------------------------


def views(narrow: bool = False) -> Diagram:
    """Three returns with their weights, and three errors with their traces, make the same lambda-return."""
    total = lambda_return()
    forward = " + ".join(f"{w:g} · {g:g}" for w, g in zip(weights(), returns(), strict=True))
    backward = " + ".join(f"{e:g} · {x:.1f}" for e, x in zip(traces(), errors(), strict=True))
    d = sheet(
        "ch05_td.views",
        "Forward and backward view of TD(lambda)",
        f"Three steps with values 0.5, 0.6, 0.8 and reward 1 at the end, lambda 0.5. Forward: the returns of one, "
        f"two and three steps, {forward} = {total:g}. Backward: 0.5 plus the TD errors times the first state's trace, "
        f"{backward}, which is {total:g} as well.",
        narrow,
    )
    wide = 344.0 if narrow else 500.0
    top = 8.0 if narrow else 14.0
    states = ["$s_0$", "$s_1$", "$s_2$", "end"]

    def part(x: float, y: float, title: str, role: str, rows: list[tuple[str, float, str]], sum_: str) -> float:
        """A strip of the states, one bar for each return or error, and the sum."""
        head = d.text(x, y, title, color=role)
        cell = (wide - 12) / 4
        row_y = head.y1 + (10 if narrow else 14)
        for k, state in enumerate(states):
            value = f" {ALONG[k]:g}" if k < 3 else f" +{REWARD:g}"
            rect = Rect(x + k * (cell + 4), row_y, cell, 28 if narrow else 44)
            d.cell(rect, state + value, "value" if k < 3 else "reward", mono=False)
        y = row_y + (44 if narrow else 68)
        label = 118.0 if narrow else 170.0
        for name, weight, words in rows:
            d.text(x, y, name, size=d.small)
            room = wide - label - (88 if narrow else 130)
            bar = Rect(x + label, y, max(2.0, room * weight), d.small * 1.1)
            d.rect(bar, role, radius=2)
            d.text(bar.x1 + 6, y, words, size=d.small, color="muted")
            y += d.small * 1.75
        return d.text(x, y + 4, sum_, size=d.small, width=wide).y1

    forward_rows = [
        (f"{n} step{'s' if n > 1 else ''}: {g:g}", w, f"weight {w:g}")
        for n, (g, w) in enumerate(zip(returns(), weights(), strict=True), start=1)
    ]
    backward_rows = [
        (f"error {k}: {x:.1f}", e, f"trace {e:g}") for k, (x, e) in enumerate(zip(errors(), traces(), strict=True))
    ]
    first = part(
        8 if narrow else 20, top, "**Forward:** what will come", "policy", forward_rows, f"{forward} = **{total:g}**"
    )
    second = part(
        8 if narrow else 560,
        first + 26 if narrow else top,
        "**Backward:** whom to tell",
        "kl",
        backward_rows,
        f"{ALONG[0]:g} + {backward} = **{total:g}**",
    )
    d.height = max(first, second) + 14
    return d


# -- four ways --------------------------------------------------------------------------------------------------

WAYS = (
    ("Exhaustive search", "all successors, to the end", "a model; cost grows as $b^d$", True, True),
    ("Dynamic programming", "all successors, one step", "a model; sweeps over all states", True, False),
    ("Monte Carlo", "one sample, to the end", "samples; noisy, unbiased", False, True),
    ("TD(0)", "one sample, one step", "samples; less noise, some bias", False, False),
)
"""Name, what it looks at, what it needs and costs, whether it is full width, whether it is full depth."""


def _tree(d: Diagram, x: float, y: float, w: float, full_width: bool, full_depth: bool) -> float:
    """A small backup diagram: what is used is dark, what is not is faint; an open ring is an estimate."""
    levels, gap = 3, 30.0 if d.narrow else 46.0
    spots = [[x + w * (2 * k + 1) / 2 ** (level + 1) for k in range(2**level)] for level in range(levels + 1)]
    taken = [0, 1, 2, 5]  # the sampled path: one node of each level

    def used(level: int, k: int) -> bool:
        if level == 0:
            return True
        if not full_depth and level > 1:
            return False
        return full_width or k == taken[level]

    def walk(level: int, k: int, whole: bool) -> list[Point]:
        """One line through the tree and back: every edge, or those that are used."""
        here = (spots[level][k], y + level * gap)
        path = [here]
        for child in (2 * k, 2 * k + 1) if level < levels else ():
            if whole or used(level + 1, child):
                path += [*walk(level + 1, child, whole), here]
        return path

    if not (full_width and full_depth):
        d.line(*walk(0, 0, True), role="faint", stroke=d.stroke * 0.7)
    d.line(*walk(0, 0, False), role="policy", stroke=d.stroke * 1.3)
    for level in range(levels + 1):
        for k, at in enumerate(spots[level]):
            if used(level, k):
                guess = not full_depth and level == 1
                end = full_depth and level == levels
                d.dot(at, y + level * gap, "value" if guess else "reward" if end else "policy")
    return y + levels * gap


def four_ways(narrow: bool = False) -> Diagram:
    """Width and depth of the update of exhaustive search, dynamic programming, Monte Carlo and TD."""
    said = "; ".join(f"{name}: {looks}" for name, looks, *_ in WAYS)
    d = sheet(
        "ch05_td.four_ways",
        "Four ways to a value",
        f"Four trees of what can follow a state, three levels deep, with the part that an update uses drawn dark. "
        f"{said}. Methods of one step end in estimates, methods that go to the end end in rewards.",
        narrow,
    )
    wide, x0 = (344.0, 8.0) if narrow else (500.0, 20.0)
    end = d.legend(
        x0,
        8,
        d.width - 2 * x0,
        [("policy", "state looked at"), ("value", "estimate trusted"), ("reward", "end, reward")],
    )
    y = end.y1 + (14 if narrow else 22)
    bottom = y
    for index, (name, looks, needs, width, depth) in enumerate(WAYS):
        x = x0 if narrow else x0 + (index % 2) * (wide + 40)
        if not narrow and index == 2:
            y = bottom + 24
        text_w = 164.0 if narrow else 232.0
        tree_w = wide - text_w - 16
        low = _tree(d, x + text_w + 12, y + 12, tree_w, width, depth)
        used = d.text(x, y, f"**{name}**", width=text_w)
        used = d.text(x, used.y1 + 6, looks, size=d.small, width=text_w)
        used = d.text(x, used.y1 + 6, needs, size=d.small, color="muted", width=text_w)
        here = max(low, used.y1) + (18 if narrow else 14)
        if narrow:
            y = here
        bottom = max(bottom, here) if (narrow or index % 2) else here
    d.height = bottom + 4
    return d
