"""Diagrams of 1.1.1: the whole model with its shapes, one layer with all its tensors, and a forward pass by hand.

Sizes are SmolLM2-135M's; tests hold them against the model, and the forward pass against the library.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

D, D_FF, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY = 576, 1536, 30, 9, 3, 64, 49_152
TOKENS = ("What", " is", " ", "1", "7", " +", " ", "2", "5", "?")
"""The question's own tokens."""

EMBEDDING = VOCABULARY * D
ATTENTION = 2 * D * HEADS * HEAD + 2 * D * KV_HEADS * HEAD
MLP = 3 * D * D_FF
NORMS = (2 * LAYERS + 1) * D
PARAMETERS = EMBEDDING + LAYERS * (ATTENTION + MLP) + NORMS


def millions(count: int) -> str:
    """28311552 -> 28.3 M."""
    return f"{count / 1e6:.1f} M"


# -- the forward pass by hand -----------------------------------------------------------------------------------------

ROWS = {"a": (1.0, 1.0), "b": (1.0, -1.0), "c": (-1.0, 0.0)}
"""A vocabulary of three tokens with two numbers each. All matrices are the identity, all scales are 1."""


def _normed(x: tuple[float, ...]) -> tuple[float, ...]:
    size = math.sqrt(sum(v * v for v in x) / len(x))
    return tuple(v / size for v in x)


def _softmax(x: tuple[float, ...]) -> tuple[float, ...]:
    whole = sum(math.exp(v) for v in x)
    return tuple(math.exp(v) / whole for v in x)


def by_hand() -> dict[str, tuple[float, ...]]:
    """Every number of the pass over the text "a b" at the token b, in the order of computation."""
    x, other = ROWS["b"], _normed(ROWS["a"])
    own = _normed(x)
    scores = tuple(sum(q * k for q, k in zip(own, key, strict=True)) / math.sqrt(2) for key in (other, own))
    weights = _softmax(scores)
    mixed = tuple(weights[0] * v + weights[1] * w for v, w in zip(other, own, strict=True))
    middle = tuple(a + b for a, b in zip(x, mixed, strict=True))
    normed = _normed(middle)
    written = tuple(u * u / (1 + math.exp(-u)) for u in normed)
    out = tuple(a + b for a, b in zip(middle, written, strict=True))
    final = _normed(out)
    logits = tuple(sum(a * b for a, b in zip(final, row, strict=True)) for row in ROWS.values())
    return {
        "x": x, "scores": scores, "weights": weights, "mixed": mixed, "middle": middle, "normed": normed,
        "written": written, "out": out, "final": final, "logits": logits, "probabilities": _softmax(logits),
    }  # fmt: skip


STEPS = (
    ("x", "embedding of b", "prompt"),
    ("scores", "scores with a and b", "value"),
    ("weights", "softmax: weights", "value"),
    ("mixed", "mean of the values", "value"),
    ("middle", "stream + attention", "policy"),
    ("normed", "norm", "reference"),
    ("written", "silu(u) · u", "reward"),
    ("out", "stream + MLP", "policy"),
    ("final", "last norm", "reference"),
    ("logits", "logits of a, b, c", "prompt"),
    ("probabilities", "softmax", "chosen"),
)


def _shown(x: float) -> str:
    return f"{x:.2f}".replace("-", "−")


def hand(narrow: bool = False) -> Diagram:
    """The table of a forward pass that a reader can check with a pocket calculator."""
    numbers = by_hand()
    said = "; ".join(f"{what}: {', '.join(_shown(v) for v in numbers[key])}" for key, what, _ in STEPS)
    d = sheet(
        "ch01_model.hand",
        "A whole forward pass by hand",
        f"A model of one layer, width 2 and three tokens reads a, b. At the token b: {said}.",
        narrow,
    )
    left, wide = (8.0, 344.0) if narrow else (150.0, 780.0)
    name = 150.0 if narrow else 330.0
    cell, row, y = (wide - name) / 3, d.small * 2.0, 10.0
    for key, what, role in STEPS:
        top = y + (row - d.small) / 2 - 3
        sums = key in ("middle", "out")
        d.text(left, top, f"**{what}**" if sums else what, size=d.small)
        for k, value in enumerate(numbers[key]):
            d.cell(Rect(left + name + cell * k + 2, y, cell - 4, row - 6), _shown(value), role, mono=False)
        y += row
    d.height = y + 6
    return d


# -- the whole model ------------------------------------------------------------------------------------------------


def panorama(narrow: bool = False) -> Diagram:
    """Text in, tokens, embedding, thirty layers on one stream, output head, next token, and back."""
    d = sheet(
        "ch01_model.panorama",
        "A language model, end to end",
        f"The text What is 17 + 25? becomes T tokens and their ids. The embedding looks up a row of {D} numbers for "
        f"each id: the residual stream x of shape (T, {D}). {LAYERS} layers read it and add to it: a norm and "
        f"attention, where a position reads earlier ones with {HEADS} query heads and {KV_HEADS} key heads, then a "
        f"norm and an MLP of inner width {D_FF}, where each position works alone. After the last norm the output head, "
        f"which is the embedding matrix again, gives logits of shape (T, {VOCABULARY:,}). The last row becomes a "
        f"probability for each token; one is chosen and appended, and the model reads on. Parameters: embedding "
        f"{millions(EMBEDDING)}, attention {millions(LAYERS * ATTENTION)}, MLPs {millions(LAYERS * MLP)}.",
        narrow,
    )
    return _panorama_narrow(d) if narrow else _panorama_wide(d)


def _token_cells() -> list[tuple[str, str]]:
    return [(token.replace(" ", "·"), "prompt") for token in TOKENS]


def _layer(d: Diagram, inner: Rect) -> tuple[float, float]:
    """The inside of the layers' lane. Returns where the stream enters (x, top)."""
    gap = 20.0 if d.narrow else 30.0
    rail = inner.x + (16.0 if d.narrow else 30.0)
    x = rail + (34.0 if d.narrow else 66.0)
    w = inner.x1 - x
    parts = [
        (f"**Attention**, {HEADS} heads", "reads earlier positions", "value"),
        (f"**MLP**, {D_FF:,} units", "each position by itself", "reward"),
    ]
    each = (inner.h - 3 * gap) / 2
    radius = 11.0 if d.narrow else 17.0
    y = inner.y + gap
    for name, what, role in parts:
        box = d.box(
            x,
            y,
            w,
            [Line("norm, then", d.small, "muted"), Line(name, d.size), Line(what, d.small, "muted")],
            h=each - gap,
            role=role,
            pad=5,
        )
        enter = y + 14
        plus = box.y1 + (10.0 if d.narrow else 14.0)
        d.arrow((rail + 2, enter), (box.x - 2, enter), role=role)
        d.arrow((box.cx, box.y1), (box.cx, plus), (rail + radius + 2, plus), role=role)
        d.badge(rail, plus, "+", role="policy")
        y += each + gap
    return rail, inner.y


def _panorama_wide(d: Diagram) -> Diagram:
    top, high = 14.0, 486.0
    first = d.lane(Rect(16, top, 292, high), "**In**", "prompt")
    y = first.y
    d.text(first.x, y, "“What is 17 + 25?”")
    cells = d.tokens(first.x, y + 44, first.w, _token_cells())
    y = cells[-1].y1 + 16
    d.arrow((first.cx, y - 10), (first.cx, y + 26), role="prompt")
    ids = d.tensor(first.x + 30, y + 34, "token ids", "(T,)", dims=1, role="prompt")
    box = d.box(
        first.x,
        ids.y1 + 34,
        first.w,
        ["**Embedding**", Line("one row an id", d.small, "muted"), Line(millions(EMBEDDING), d.small, "muted")],
        role="prompt",
        pad=6,
    )
    d.arrow((ids.cx, ids.y1 + 3), (ids.cx, box.y - 2), role="prompt")
    stream = d.tensor(first.x + 30, box.y1 + 32, "stream x", f"(T, {D})", dims=2, role="policy")
    d.arrow((stream.cx, box.y1), (stream.cx, stream.y - 3), role="prompt")

    lane = Rect(372, top, 350, high)
    layers = d.lane(
        lane, f"**{LAYERS} layers**, one stream", "policy", note=f"each: {millions(ATTENTION)} + {millions(MLP)}"
    )
    rail, upper = _layer(d, layers)
    # The stream enters at the top of the lane: up beside it from the left lane.
    between = (308 + 372) / 2
    d.arrow(
        (stream.x1 + 158, stream.cy), (between, stream.cy), (between, upper + 6), (rail, upper + 6),
        (rail, _plus(d, layers, 0) - 19), role="policy",
    )  # fmt: skip
    d.arrow((rail, _plus(d, layers, 0) + 17), (rail, _plus(d, layers, 1) - 19), role="policy")

    last = d.lane(Rect(786, top, 278, high), "**Out**", "chosen")
    norm = d.box(last.x, last.y, last.w, ["**Last norm**"], role="reference", pad=7)
    output = d.box(
        last.x,
        norm.y1 + 30,
        last.w,
        ["**Output head**", Line("the embedding again", d.small, "muted")],
        role="prompt",
        pad=6,
    )
    d.arrow(norm.bottom, (output.cx, output.y - 2), role="policy")
    logits = d.tensor(last.x, output.y1 + 34, "logits", f"(T, {VOCABULARY})", dims=2, role="prompt")
    d.arrow((logits.cx, output.y1), (logits.cx, logits.y - 3), role="prompt")
    soft = d.box(
        last.x, logits.y1 + 30, last.w, ["**softmax**", Line("of the last row", d.small, "muted")], role="chosen", pad=6
    )
    d.arrow((logits.cx, logits.y1 + 3), (logits.cx, soft.y - 2), role="prompt")
    chosen = d.box(last.x, soft.y1 + 28, last.w, ["**next token**"], role="chosen", pad=7)
    d.arrow(soft.bottom, (chosen.cx, chosen.y - 2), role="chosen")
    bottom = _plus(d, layers, 1)
    middle = (722 + 786) / 2
    d.arrow(
        (rail, bottom + 17),
        (rail, layers.y1 + 8),
        (middle, layers.y1 + 8),
        (middle, norm.cy),
        (norm.x - 2, norm.cy),
        role="policy",
    )
    below = top + high + 34
    d.arrow((chosen.cx, top + high), (chosen.cx, below), (120, below), (120, top + high + 2), role="chosen")
    d.text(540, below + 10, "append the token and read on: T + 1", size=d.small, color="muted", anchor="middle")
    d.height = below + 44
    return d


def _plus(d: Diagram, inner: Rect, k: int) -> float:
    """Where the k-th plus of `_layer` stands."""
    gap = 20.0 if d.narrow else 30.0
    each = (inner.h - 3 * gap) / 2
    return inner.y + gap + k * (each + gap) + each - gap + (10.0 if d.narrow else 14.0)


def _panorama_narrow(d: Diagram) -> Diagram:
    left, wide = 26.0, 326.0
    first = d.lane(Rect(left, 8, wide, 200), "**In**: “What is 17 + 25?”", "prompt")
    cells = d.tokens(first.x, first.y + 2, first.w, _token_cells())
    ids = d.tensor(first.x + 10, cells[-1].y1 + 30, "token ids", "(T,)", dims=1, role="prompt")
    d.arrow((ids.cx, cells[-1].y1 + 4), (ids.cx, ids.y - 3), role="prompt")
    box = d.box(
        first.x, ids.y1 + 22, 150, ["**Embedding**", Line(millions(EMBEDDING), d.small, "muted")], role="prompt", pad=5
    )
    d.arrow((ids.cx, ids.y1 + 2), (ids.cx, box.y - 2), role="prompt")
    stream = d.tensor(box.x1 + 34, box.cy - 14, "stream x", f"(T, {D})", dims=2, role="policy")
    d.arrow((box.x1, box.cy), (stream.x - 4, box.cy), role="prompt")
    lane = Rect(left, 236, wide, 272)
    layers = d.lane(
        lane, f"**{LAYERS} layers**, one stream", "policy", note=f"each: {millions(ATTENTION)} + {millions(MLP)}"
    )
    rail, upper = _layer(d, layers)
    d.arrow((stream.cx, stream.y1 + 2), (stream.cx, 222), (rail, 222), (rail, lane.y - 1), role="policy")
    d.arrow((rail, upper), (rail, _plus(d, layers, 0) - 13), role="policy")
    d.arrow((rail, _plus(d, layers, 0) + 11), (rail, _plus(d, layers, 1) - 13), role="policy")
    last = d.lane(Rect(left, 538, wide, 216), "**Out**", "chosen")
    norm = d.box(last.x, last.y, last.w, ["**Last norm**"], role="reference", pad=5)
    d.arrow((rail, _plus(d, layers, 1) + 11), (rail, lane.y1), role="policy", head=False)
    d.arrow((rail, lane.y1), (rail, 538 - 1), role="policy")
    output = d.box(last.x, norm.y1 + 20, last.w, ["**Output head**: the embedding again"], role="prompt", pad=5)
    d.arrow(norm.bottom, (output.cx, output.y - 2), role="policy")
    logits = d.tensor(last.x + 60, output.y1 + 20, "logits", f"(T, {VOCABULARY})", dims=2, role="prompt")
    d.arrow((logits.cx, output.y1), (logits.cx, logits.y - 2), role="prompt")
    chosen = d.box(last.x, logits.y1 + 22, last.w, ["**softmax**, then the **next token**"], role="chosen", pad=5)
    d.arrow((logits.cx, logits.y1 + 2), (logits.cx, chosen.y - 2), role="chosen")
    d.arrow((last.x - 10, chosen.cy), (10, chosen.cy), (10, 110), (left - 2, 110), role="chosen")
    d.text(left + 4, 764, "← append the token and read on: T + 1", size=d.small, color="muted")
    d.height = 790
    return d


# -- one layer --------------------------------------------------------------------------------------------------------


def block(narrow: bool = False) -> Diagram:
    """One layer with every tensor and its shape."""
    q, kv = HEADS * HEAD, KV_HEADS * HEAD
    d = sheet(
        "ch01_model.block",
        "One layer, tensor by tensor",
        f"The stream x of shape (T, {D}) is normed and projected to queries ({HEADS}, T, {HEAD}), keys and values "
        f"({KV_HEADS}, T, {HEAD}). Queries and keys are turned by position. Scores, divided by the root of {HEAD} and "
        f"masked, become weights ({HEADS}, T, T) by softmax; the weights mix the values to (T, {q}), and W_o writes "
        f"the result back: it is added to the stream. The stream is normed again; gate and up of shape (T, {D_FF}) are "
        f"multiplied as silu(gate) times up, and W_down writes (T, {D}) back, added again. Weights: {D} x {q} for "
        f"queries, {D} x {kv} each for keys and values, {q} x {D} for W_o, and three of {D} x {D_FF}.",
        narrow,
    )
    rows = [
        ("norm", f"RMSNorm: {D} scales", f"(T, {D})", "reference"),
        ("project", "$W_q$, $W_k$, $W_v$", f"({HEADS}, T, {HEAD}) and 2 × ({KV_HEADS}, T, {HEAD})", "value"),
        ("turn", "rotary positions: $q$ and $k$", "no weights, same shapes", "value"),
        ("weigh", f"softmax($q·k$ / {math.isqrt(HEAD)} + mask)", f"({HEADS}, T, T)", "value"),
        ("mix", "weights times values", f"(T, {q})", "value"),
        ("write", f"$W_o$: {q} × {D}", f"(T, {D})", "value"),
        ("add", "$x ← x$ + attention", f"(T, {D})", "policy"),
        ("norm", f"RMSNorm: {D} scales", f"(T, {D})", "reference"),
        ("open", "silu($W_{gate}x$) · $W_{up}x$", f"(T, {D_FF})", "reward"),
        ("write", f"$W_{{down}}$: {D_FF} × {D}", f"(T, {D})", "reward"),
        ("add", "$x ← x$ + MLP", f"(T, {D})", "policy"),
    ]
    rail = 20.0 if narrow else 120.0
    x, w = (52.0, 300.0) if narrow else (190.0, 760.0)
    gap = 9.0 if narrow else 12.0
    y, start = 10.0, 10.0
    adds: list[Rect] = []
    norms: list[float] = []
    name = 68.0 if narrow else 130.0
    for word, what, shape, role in rows:
        high = 50.0 if narrow else 56.0
        rect = Rect(x, y, w, high)
        d.boxes.append(rect)
        d.rect(rect, role)
        middle = y + high / 2
        d.text(x + 10, middle - d.size * 0.55, f"**{word}**", color=role, inside=rect)
        if narrow:
            d.text(x + name, y + 6, what, size=d.small, inside=rect)
            d.text(x + name, y + 27, f"`{shape}`", size=d.small, color="muted", inside=rect)
        else:
            d.text(x + name, middle - d.small * 0.55, what, size=d.small, inside=rect)
            d.text(
                x + w - 14,
                middle - d.small * 0.55,
                f"`{shape}`",
                size=d.small,
                color="muted",
                anchor="end",
                inside=rect,
            )
        if word == "add":
            adds.append(rect)
        if word == "norm":
            norms.append(middle)
        y += high + gap
    # The stream runs past the boxes at the left, is read by each norm, and goes into each "add".
    for from_y, add, norm_y in ((start + 4, adds[0], norms[0]), (adds[0].cy, adds[1], norms[1])):
        d.arrow((rail, from_y), (rail, add.cy), (add.x - 2, add.cy), role="policy")
        d.arrow((rail + 2, norm_y), (x - 2, norm_y), role="reference")
    if not narrow:
        d.text(rail - 12, (start + adds[0].cy) / 2, "stream", size=d.small, color="policy", anchor="end")
    d.height = y + 4
    return d
