"""Diagrams of section 4.3.5: one round of speculative decoding, where the residual comes from, a tree and its mask.

Every number follows from the page's worked examples; tests recompute them with the library.
"""

from __future__ import annotations

from collections.abc import Sequence

from diagrams.kit import Diagram, Rect, sheet

ROUND = (("x1", 0.5, 0.6, 0.83), ("x2", 0.4, 0.3, 0.2), ("x3", 0.6, 0.2, 0.71), ("x4", 0.3, 0.45, 0.12))
"""Drafted tokens of the worked round: name, q, p, and the random number u."""

TARGET, DRAFT = (0.5, 0.2, 0.2, 0.1), (0.1, 0.6, 0.05, 0.25)
"""p and q of four tokens in the worked example of the residual."""

KINDS = [("chosen", "kept: min(p, q)"), ("rejected", "rejected: q has more"), ("reward", "added: p has more")]

PARENTS = (-1, 0, 0, 1, 1, 2)
WORDS = ("I", "am", "can", "an", "a", "help")
"""A tree of guesses: each node's parent, and its word. Node 0 is known."""


def decisions() -> list[str]:
    """What becomes of each drafted token: it stays, it goes, or it is thrown away with what went before it."""
    found, standing = [], True
    for _, q, p, u in ROUND:
        stays = u < p / q
        found.append("thrown away" if not standing else "stays" if stays else "goes")
        standing &= stays
    return found


def one_round(narrow: bool = False) -> Diagram:
    """Four drafted tokens, one pass, two kept, one replaced."""
    words = decisions()
    said = "; ".join(
        f"token {k} has q {q:g} and p {p:g}, is kept with probability {min(1, p / q):.2f}, the draw is {u:g}: it {word}"
        for k, ((_, q, p, u), word) in enumerate(zip(ROUND, words, strict=True), 1)
    )
    d = sheet(
        "ch04_fast.one_round",
        "One round of speculative decoding",
        f"A table of four drafted tokens and the place after it. {said}. The round gives the first two tokens and one "
        "from the residual; had all four stayed, the model's fifth distribution would have given a bonus token.",
        narrow,
    )
    label, left, top = (84.0, 92.0, 10.0) if narrow else (270.0, 290.0, 18.0)
    gap = 4.0 if narrow else 10.0
    cell = (348.0 - left - 4 * gap) / 5 if narrow else (1060.0 - left - 4 * gap) / 5
    height, step = (26.0, 33.0) if narrow else (44.0, 58.0)
    x = [left + k * (cell + gap) for k in range(5)]

    def row(y: float, name: str, values: Sequence[tuple[str, str | None]]) -> None:
        d.text(label, y + height / 2 - d.small * 0.55, name, size=d.small, anchor="end", color="muted")
        for at, (value, role) in zip(x, values, strict=False):
            if value:
                d.cell(Rect(at, y, cell, height), value, role, mono=False)

    row(top, "drafted" if narrow else "drafted, one by one", [(f"$x_{k}$", "reference") for k in range(1, 5)])
    y = top + step
    row(y, "$q(x)$", [(f"{q:.2f}", None) for _, q, _, _ in ROUND])
    y += step
    row(
        y,
        "$p(x)$" if narrow else "$p(x)$, all in one pass",
        [(f"{p:.2f}", "policy") for _, _, p, _ in ROUND] + [("$p$", "policy")],
    )
    y += step
    row(
        y,
        "keep with" if narrow else "keep with min(1, $p/q$)",
        [(f"{min(1, p / q):.2f}", None) for _, q, p, _ in ROUND],
    )
    y += step
    row(y, "draw $u$", [(f"{u:.2f}", None) for _, _, _, u in ROUND])
    y += step
    roles = {"stays": "chosen", "goes": "rejected", "thrown away": "faint"}
    short = {"stays": "stays", "goes": "goes", "thrown away": "lost"}
    row(y, "so it", [(short[word], roles[word]) for word in words] + [("unused" if not narrow else "–", "faint")])
    y += step + (6 if narrow else 10)
    row(y, "result" if narrow else "the round gives", [("$x_1$", "chosen"), ("$x_2$", "chosen"), ("$y$", "policy")])
    d.text(
        x[3],
        y + height / 2 - d.small * 0.55,
        "$y$: residual" if narrow else "$y$ from the residual at place 3",
        size=d.small,
        color="muted",
    )
    d.height = y + height + 12
    return d


def leftover(narrow: bool = False) -> Diagram:
    """p and q of four tokens: what is kept, what is rejected, what the residual adds."""
    kept = [min(p, q) for p, q in zip(TARGET, DRAFT, strict=True)]
    d = sheet(
        "ch04_fast.leftover",
        "Kept, rejected, added",
        "Bars of four tokens. Kept is the smaller of p and q: "
        + ", ".join(f"{name} {value:g}" for name, value in zip("ABCD", kept, strict=True))
        + f", together {sum(kept):g}. What q has more is rejected: B 0.4 and D 0.15. What p has more is added by the "
        "residual: A 0.4 and C 0.15. Both come to 0.55, so that kept and added together are exactly p.",
        narrow,
    )
    left, right, height, step = (34.0, 344.0, 26.0, 80.0) if narrow else (90.0, 1040.0, 38.0, 116.0)
    head = d.legend(8 if narrow else 90, 10, right - (8 if narrow else 90), KINDS)
    unit = (right - left) / 0.68
    y = head.y1 + (14 if narrow else 22)
    for name, p, q in zip("ABCD", TARGET, DRAFT, strict=True):
        d.text(left - (10 if narrow else 18), y + height - d.size * 0.5, f"**{name}**", anchor="end")
        low = min(p, q)
        for line, (value, role, word) in enumerate(((q, "rejected", "q"), (p, "reward", "p"))):
            top = y + line * (height + 3)
            d.rect(Rect(left, top, low * unit, height), "chosen", radius=0)
            if value > low:
                d.rect(
                    Rect(left + low * unit, top, (value - low) * unit, height),
                    role,
                    radius=0,
                    fill="panel" if role == "reward" else None,
                )
            d.text(
                left + value * unit + (7 if narrow else 12),
                top + height / 2 - d.small * 0.55,
                f"${word}$ = {value:g}",
                size=d.small,
                color="muted",
            )
        y += step
    d.height = y - step + 2 * height + 16
    return d


def tree(narrow: bool = False) -> Diagram:
    """A tree of guesses and the mask by which one pass reads all its branches."""
    sees = [[j == i or _is_ancestor(j, i) for j in range(len(PARENTS))] for i in range(len(PARENTS))]
    d = sheet(
        "ch04_fast.tree",
        "A tree of guesses, read in one pass",
        "Left: node 0, the word I, is known. Its children are the first head's guesses, am and can; below am stand the "
        "second head's an and a, below can stands help. Right: the attention mask. Each row's word sees the text "
        "before, itself and its ancestors: help sees I, can and help, but neither am nor a.",
        narrow,
    )
    if narrow:
        bottom = _branches(d, 8, 34, 92, 30, (8, 126, 252))
        _mask(d, sees, 64, bottom + 60, 45, 26)
        return d
    _branches(d, 24, 70, 140, 52, (24, 200, 376))
    _mask(d, sees, 700, 92, 58, 46)
    d.height = 400
    return d


def _is_ancestor(a: int, node: int) -> bool:
    while node >= 0:
        node = PARENTS[node]
        if node == a:
            return True
    return False


def _branches(d: Diagram, x: float, y: float, w: float, h: float, columns: tuple[float, ...]) -> float:
    """Nodes in columns by depth; returns the lowest edge."""
    pitch = h * 1.55
    rows = {3: 0.0, 4: 1.0, 5: 2.4, 1: 0.5, 2: 2.4, 0: 1.45}
    depths = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2}
    roles = ("policy", "reference", "reference", "reference", "reference", "reference")
    heads = ("known", "head 1", "head 2")
    boxes: dict[int, Rect] = {}
    for column, name in zip(columns, heads, strict=True):
        d.text(column + w / 2, y - d.small * 1.9, name, size=d.small, color="muted", anchor="middle")
    for node, word in enumerate(WORDS):
        rect = Rect(columns[depths[node]], y + rows[node] * pitch, w, h)
        boxes[node] = d.cell(rect, f"{node} {word}", roles[node])
    for node, parent in enumerate(PARENTS[1:], 1):
        (ax, ay), (bx, by) = boxes[parent].right, boxes[node].left
        if abs(ay - by) < 1:
            d.arrow((ax, ay), (bx - 2, by))
            continue
        middle = (ax + bx) / 2 - (3 if d.narrow else 6)
        ay += (4 if d.narrow else 7) * (1 if by > ay else -1)  # two branches leave side by side
        d.arrow((ax, ay), (middle, ay), (middle, by), (bx - 2, by))
    return max(box.y1 for box in boxes.values())


def _mask(d: Diagram, sees: list[list[bool]], x: float, y: float, w: float, h: float) -> None:
    """The mask as a grid: rows see columns."""
    d.text(x, y - h - d.small * (1.5 if d.narrow else 1.1), "**Mask:** each row sees", size=d.small)
    for j, word in enumerate(WORDS):
        d.text(x + (j + 0.5) * w, y - d.small * 1.35, word, size=d.small, color="muted", anchor="middle")
    for i, word in enumerate(WORDS):
        d.text(
            x - (7 if d.narrow else 12),
            y + (i + 0.5) * h - d.small * 0.55,
            word,
            size=d.small,
            color="muted",
            anchor="end",
        )
    for shade in (False, True):  # what is seen is drawn last, so that its edges show
        for i, row in enumerate(sees):
            for j, seen in enumerate(row):
                if seen == shade:
                    cell = Rect(x + j * w, y + i * h, w, h)
                    fill = None if seen else "panel"
                    d.rect(cell, "chosen" if seen else "faint", radius=0, stroke=d.stroke * 0.6, fill=fill)
    d.height = y + len(sees) * h + 12
