"""Diagrams of attention and positions: shared heads, the latent, blocks, rotation, where positions enter, the norm.

Sizes are SmolLM2's and DeepSeek-V2's; every number follows from them or from the page's worked examples, and tests
recompute it.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

HEADS, GROUPS, SIZE = 9, 3, 64
"""SmolLM2's query heads, key and value heads, and width of a head."""

DEEPSEEK = {"width": 5120, "heads": 128, "size": 128, "latent": 512, "turned": 64, "query": 1536}
"""DeepSeek-V2's sizes, as its paper gives them."""

CACHED = {"MHA": 2 * HEADS * SIZE, "GQA": 2 * GROUPS * SIZE, "MQA": 2 * SIZE, "MLA": 4 * SIZE + SIZE // 2}
"""Numbers kept of a token in a layer at SmolLM2's sizes; MLA with DeepSeek-V2's proportions."""

SCORES, VALUES = (1.0, 2.0, 4.0, 0.0), (10.0, 20.0, 30.0, 40.0)
"""The worked example of attention in two blocks."""


def _number(x: float, digits: int = 3) -> str:
    return f"{x:.{digits}f}".replace("-", "−")


# -- shared heads -------------------------------------------------------------------------------------------------

ABOUT = {
    "MHA": "a key and a value head for each query head",
    "GQA": "three query heads share one",
    "MQA": "all share one",
    "MLA": "one vector that all keys and values are made from",
}


def heads(narrow: bool = False) -> Diagram:
    """What MHA, GQA, MQA and MLA keep of a token, at SmolLM2's sizes."""
    d = sheet(
        "ch01_attention.heads",
        "What is kept of a token",
        f"Four variants over {HEADS} query heads of width {SIZE}. Multi-head attention keeps {HEADS} keys and "
        f"{HEADS} values, {CACHED['MHA']:,} numbers. Grouped-query attention keeps {GROUPS} of each, each serving "
        f"three query heads, {CACHED['GQA']} numbers. Multi-query attention keeps one of each, {CACHED['MQA']}. Latent "
        f"attention keeps one vector of {4 * SIZE} and one turned key of {SIZE // 2}, {CACHED['MLA']} numbers.",
        narrow,
    )
    wide, row = (152.0, 22.0) if narrow else (234.0, 32.0)
    places = [(8.0 + (k % 2) * 184, 8.0 + (k // 2) * 236) if narrow else (20.0 + k * 268, 16.0) for k in range(4)]
    bottom = 0.0
    for name, (x, y) in zip(CACHED, places, strict=True):
        d.text(x, y, f"**{name}**", color="policy")
        y += d.size * 1.7
        d.text(x, y, "queries", size=d.small, color="muted")
        y += d.small * 1.4
        _row(d, Rect(x, y, wide, row), HEADS, "policy")
        y += row + (8 if narrow else 12)
        d.text(x, y, "kept", size=d.small, color="muted")
        y += d.small * 1.4
        if name == "MLA":
            split = wide * 8 / 9
            d.cell(Rect(x + 1, y, split - 2, row), f"$c$: {4 * SIZE}", "chosen", mono=False)
            d.rect(Rect(x + split + 1, y, wide - split - 2, row), "prompt", radius=3, stroke=d.stroke * 0.7)
            y += row + 6
            d.text(x + wide, y, f"turned key: {SIZE // 2}", size=d.small, color="prompt", anchor="end")
            y += row
        else:
            share = {"MHA": HEADS, "GQA": GROUPS, "MQA": 1}[name]
            for role in ("value", "reward"):
                _row(d, Rect(x, y, wide, row), share, role)
                y += row + 6
        y += 4
        d.text(x, y, f"**{CACHED[name]:,}** numbers", size=d.small)
        y += d.small * LEADING
        used = d.text(x, y, ABOUT[name], size=d.small, color="muted", width=wide)
        bottom = max(bottom, used.y1)
    end = d.legend(
        8 if narrow else 20, bottom + (14 if narrow else 18), 344 if narrow else 1040,
        [("policy", "query head"), ("value", "key head"), ("reward", "value head"), ("chosen", "latent"),
         ("prompt", "key with the position")],
    )  # fmt: skip
    d.height = end.y1 + 12
    return d


LEADING = 1.4


def _row(d: Diagram, rect: Rect, parts: int, role: str) -> None:
    """A row of equal heads: one outline, and one line that goes down and up between them."""
    d.rect(rect, role, radius=3, stroke=d.stroke * 0.8)
    comb = [(rect.x, rect.y)]
    for k in range(1, parts):
        x = rect.x + rect.w * k / parts
        comb += [(x, rect.y), (x, rect.y1), (x, rect.y)]
    if parts > 1:
        d.line(*comb, role=role, stroke=d.stroke * 0.8)


# -- the latent ---------------------------------------------------------------------------------------------------


def latent(narrow: bool = False) -> Diagram:
    """Latent attention with DeepSeek-V2's sizes: what is made from what, and what is kept."""
    s = DEEPSEEK
    whole = 2 * s["heads"] * s["size"]
    kept = s["latent"] + s["turned"]
    d = sheet(
        "ch01_attention.latent",
        "Latent attention, with DeepSeek-V2's sizes",
        f"A token's state of {s['width']} numbers goes three ways. To a latent of {s['latent']}, which is kept, and "
        f"from which keys and values of all {s['heads']} heads are made. To one key of {s['turned']} numbers that is "
        f"turned by the position, which is kept too and shared by all heads. And through {s['query']} numbers to the "
        f"queries, each of {s['size']} numbers without and {s['turned']} with position. Kept are {kept} numbers "
        f"instead of {whole:,}.",
        narrow,
    )
    small = d.small

    def box(x: float, y: float, w: float, title: str, shape: str, role: str, h: float) -> Rect:
        return d.box(x, y, w, [Line(title, small), Line(shape, small, "muted", 2)], role=role, h=h)

    h = 54.0 if narrow else 78.0
    if narrow:
        state = box(100, 8, 160, "**state** $x_t$", f"`({s['width']},)`", "reference", h)
        query = box(8, 104, 100, "$c^Q$", f"`({s['query']},)`", "policy", h)
        kept_box = d.lane(Rect(118, 84, 234, 108), "kept", "chosen")
        vector = box(126, kept_box.y - 2, 106, "**latent** $c_t$", f"`({s['latent']},)`", "chosen", h)
        turned = box(240, kept_box.y - 2, 104, "$k^R$, turned", f"`({s['turned']},)`", "prompt", h)
        q = box(8, 236, 100, "**queries**", f"`({s['heads']}, {s['size'] + s['turned']})`", "policy", h + 20)
        k = box(118, 236, 112, "**keys**", f"`({s['heads']}, {s['size'] + s['turned']})`", "value", h + 20)
        v = box(240, 236, 112, "**values**", f"`({s['heads']}, {s['size']})`", "reward", h + 20)
        d.arrow((120, state.y1 + 1), (120, 70), (58, 70), (58, query.y - 2))
        d.arrow((180, state.y1 + 1), (180, 82))
        d.arrow((58, query.y1 + 1), (58, q.y - 2))
        d.arrow((160, vector.y1 + 10), (160, k.y - 2))
        d.arrow((205, vector.y1 + 10), (205, 214), (280, 214), (280, v.y - 2))
        out = d.box(60, 346, 240, [Line("**attention**, then $W^O$", small)], role="reference", h=40)
        for part, at in ((q, 80), (k, 174), (v, 282)):
            d.arrow((at, part.y1 + 1), (at, out.y - 2))
        d.note(
            8, 404, 326,
            [f"**{kept}** numbers kept of a token in a layer; {whole:,} as keys and values. The turned key joins every "
             "head’s key."],
            role="chosen",
        )  # fmt: skip
        d.height = 478
        return d
    state = box(20, 150, 170, "**state** $x_t$", f"`({s['width']},)`", "reference", h)
    query = box(260, 20, 200, "**query latent** $c^Q$", f"`({s['query']},)`", "policy", h)
    d.lane(Rect(242, 116, 236, 244), "kept", "chosen")
    vector = box(260, 166, 200, "**latent** $c_t$", f"`({s['latent']},)`", "chosen", h)
    turned = box(260, 262, 200, "**turned key** $k^R$", f"`({s['turned']},)`", "prompt", h)
    q = box(560, 20, 230, "**queries** $q$", f"`({s['heads']}, {s['size']} + {s['turned']})`", "policy", h)
    v = box(560, 140, 230, "**values** $v$", f"`({s['heads']}, {s['size']})`", "reward", h)
    k = box(560, 262, 230, "**keys** $k$", f"`({s['heads']}, {s['size']} + {s['turned']})`", "value", h)
    out = d.box(870, 130, 190, [Line("**attention**"), Line("then $W^O$", small, "muted", 3)], role="reference", h=100)
    d.arrow((105, state.y - 1), (105, query.cy), (query.x - 2, query.cy))
    d.arrow((state.x1, state.cy), (240, state.cy))
    d.arrow(query.right, (q.x - 2, q.cy))
    d.arrow((vector.x1, 180), (v.x - 2, 180))
    d.arrow((vector.x1, 224), (520, 224), (520, 284), (k.x - 2, 284))
    d.arrow((turned.x1, 318), (k.x - 2, 318))
    d.arrow(q.right, (965, q.cy), (965, out.y - 2))
    d.arrow((v.x1, 180), (out.x - 2, 180))
    d.arrow(k.right, (965, k.cy), (965, out.y1 + 2))
    d.note(
        20, 386, 980,
        [f"**{kept}** numbers are kept of a token in a layer; as keys and values of {s['heads']} heads they would be "
         f"{whole:,}. The turned key joins every head’s key."],
        role="chosen",
    )  # fmt: skip
    d.height = 448
    return d


# -- in blocks ----------------------------------------------------------------------------------------------------


def joined(block: int = 2) -> list[tuple[float, float, float]]:
    """Largest score, sum and weighted sum after each block of the worked example."""
    m, total, mixed, found = -math.inf, 0.0, 0.0, []
    for start in range(0, len(SCORES), block):
        scores, values = SCORES[start : start + block], VALUES[start : start + block]
        new = max(m, *scores)
        shrink = math.exp(m - new)
        total = total * shrink + sum(math.exp(s - new) for s in scores)
        mixed = mixed * shrink + sum(math.exp(s - new) * v for s, v in zip(scores, values, strict=True))
        m = new
        found.append((m, total, mixed))
    return found


def blocks(narrow: bool = False) -> Diagram:
    """One row of attention in two blocks: what is carried from the first to the second."""
    first, second = joined()
    out = second[2] / second[1]
    shrink = math.exp(first[0] - second[0])
    d = sheet(
        "ch01_attention.blocks",
        "A softmax in two pieces",
        f"One query, four keys with scores {', '.join(f'{s:g}' for s in SCORES)} and values "
        f"{', '.join(f'{v:g}' for v in VALUES)}. After the first block of two: largest score {first[0]:g}, sum "
        f"{_number(first[1])}, weighted sum {_number(first[2], 2)}. The second block has the score {second[0]:g}, so "
        f"the old sums shrink to {_number(shrink)} of what they were; then sum {_number(second[1])}, weighted sum "
        f"{_number(second[2], 2)}. Their quotient, {_number(out, 2)}, is the output.",
        narrow,
    )
    small = d.small
    carried = [
        [f"$m = {m:g}$", f"$ℓ = {_number(total)}$", f"$o = {_number(mixed, 2)}$"] for m, total, mixed in (first, second)
    ]
    if narrow:
        y = 8.0
        for k in range(2):
            y = _pair(d, 8, y, 164, k) + 10
            box = d.box(186, y - 92, 166, [Line(text, small) for text in carried[k]], role="value", h=80)
            if k == 0:
                d.arrow((268, box.y1 + 1), (268, box.y1 + 40))
                d.text(176, y + 4, f"times $e^{{2−4}} = {_number(shrink)}$", size=small, color="muted", anchor="end")
                y += 34
        d.box(60, y + 2, 240, [Line(f"output $o / ℓ = {_number(out, 2)}$")], role="chosen", h=40)
        d.height = y + 54
        return d
    for k in range(2):
        x = 20.0 + k * 470
        bottom = _pair(d, x, 16, 380, k)
        box = d.box(x, bottom + 16, 380, [Line("~~~".join(carried[k]))], role="value", h=56)
        if k == 0:
            d.arrow(box.right, (488, box.cy))
            told = f"times $e^{{2−4}} = {_number(shrink)}$"
            d.text(445, box.y1 + 10, told, size=small, color="muted", anchor="middle")
        else:
            d.arrow(box.right, (918, box.cy))
            d.box(
                920,
                box.cy - 50,
                140,
                [Line("output"), Line("$o / ℓ$"), Line(f"$= {_number(out, 2)}$")],
                role="chosen",
                h=100,
            )
    d.height = bottom + 118
    return d


def _pair(d: Diagram, x: float, y: float, width: float, k: int) -> float:
    """Scores and values of one block; returns where it ends."""
    d.text(x, y, f"**block {k + 1}**", color="policy", size=d.small)
    y += d.small * 1.6
    label = d.small * 3.6
    side = (width - label) / 2
    height = d.small * 1.9
    for name, numbers, role in (("scores", SCORES, "policy"), ("values", VALUES, "reward")):
        d.text(x, y + height / 2 - d.small * 0.55, name, size=d.small, color="muted")
        for j in range(2):
            d.cell(Rect(x + label + j * side + 3, y, side - 6, height), f"{numbers[2 * k + j]:g}", role, mono=False)
        y += height + 6
    return y


# -- rotation -----------------------------------------------------------------------------------------------------

FREQUENCY, PLACES = 30.0, ((3, 1), (8, 6))
"""Degrees a position, and two pairs of positions at the same distance."""


def rotation(narrow: bool = False) -> Diagram:
    """A query and a key turned by their positions: the angle between them depends on the distance alone."""
    between = [FREQUENCY * (m - n) for m, n in PLACES]
    score = math.cos(math.radians(between[0]))
    d = sheet(
        "ch01_attention.rotation",
        "Turned twice, the angle between stays",
        f"A pair of numbers of a query and of a key, both (1, 0) at first, turned by {FREQUENCY:g} degrees a position. "
        f"At positions {PLACES[0][0]} and {PLACES[0][1]} they stand at {FREQUENCY * PLACES[0][0]:g} and "
        f"{FREQUENCY * PLACES[0][1]:g} degrees; at {PLACES[1][0]} and {PLACES[1][1]} at {FREQUENCY * PLACES[1][0]:g} "
        f"and {FREQUENCY * PLACES[1][1]:g}. Both times the angle between them is {between[0]:g} degrees and their "
        f"product {score:g}.",
        narrow,
    )
    radius = 62.0 if narrow else 96.0
    small = d.small
    for k, (m, n) in enumerate(PLACES):
        cx, cy = (92.0 + k * 180, 122.0) if narrow else (200.0 + k * 400, 170.0)
        points = [
            (cx + radius * math.cos(math.radians(a)), cy - radius * math.sin(math.radians(a)))
            for a in range(0, 361, 12)
        ]
        d.line(*points, role="faint", stroke=d.stroke)
        d.text(cx, cy - radius - d.size * 2.6, f"**positions {m} and {n}**", anchor="middle", size=small)
        ends = {}
        for name, position, role in (("q", m, "policy"), ("k", n, "value")):
            angle = math.radians(FREQUENCY * position)
            tip = cx + radius * math.cos(angle), cy - radius * math.sin(angle)
            d.arrow((cx, cy), tip, role=role, stroke=d.stroke * 1.6)
            far = 1.17 if narrow else 1.14
            d.text(
                cx + far * radius * math.cos(angle), cy - far * radius * math.sin(angle) - small * 0.55, f"${name}$",
                color=role, anchor="middle", size=small,
            )  # fmt: skip
            ends[name] = FREQUENCY * position
        low, high = sorted(ends.values())
        inner = radius * 0.36
        arc = [
            (cx + inner * math.cos(math.radians(a)), cy - inner * math.sin(math.radians(a)))
            for a in range(int(low), int(high) + 1, 6)
        ]
        d.line(*arc, role="reward", stroke=d.stroke * 1.4)
        told = f"{ends['q']:g}° − {ends['k']:g}° = {between[k]:g}°"
        d.text(cx, cy + radius + small * 1.7, told, size=small, color="reward", anchor="middle")
    text = [
        Line(f"product: cos {between[0]:g}° = **{score:g}**, both times", small, "ink"),
        Line(
            "A head has $d_h/2$ such pairs, each with a speed of its own: pair $i$ turns by $θ^{−2i/d_h}$ "
            "radians a position.",
            small,
            "muted",
            6,
        ),
    ]
    if narrow:
        d.note(8, 240, 344, text, role="reward")
        d.height = 310
    else:
        d.note(780, 96, 280, text, role="reward")
        d.height = 330
    return d


# -- where positions enter ----------------------------------------------------------------------------------------

STAGES = (
    ("input", "$x_t$", "reference"),
    ("queries, keys", "$q_t$, $k_s$", "policy"),
    ("scores", "$q_t · k_s$", "value"),
    ("weights", "softmax", "reward"),
)
ENTER = (
    ("**sinusoidal**", "add $p_t$", "prompt", "absolute; once, at the bottom"),
    ("**RoPE**", "turn by $t$", "policy", "each layer; scores see $t − s$"),
    ("**ALiBi**", "subtract $m·(t − s)$", "chosen", "each layer; far is fainter"),
)


def entrances(narrow: bool = False) -> Diagram:
    """Where sinusoidal positions, RoPE and ALiBi enter attention."""
    d = sheet(
        "ch01_attention.entrances",
        "Three doors for a position",
        "From a token's input come queries and keys, from these scores, from these weights. Sinusoidal positions are "
        "added to the input, once. RoPE turns queries and keys by their positions in each layer, so that scores depend "
        "on the distance. ALiBi subtracts a slope times the distance from the scores. With none of them only the "
        "causal mask tells what came before.",
        narrow,
    )
    small = d.small
    if narrow:
        y = 8.0
        for k, (name, symbol, role) in enumerate(STAGES):
            box = d.box(8, y, 120, [Line(name, small), Line(symbol, small, "muted", 2)], role=role, h=54)
            if k < 3:
                title, what, colour, note = ENTER[k]
                d.arrow((68, box.y1 + 1), (68, box.y1 + 32))
                d.text(150, y + 1, title, size=small, color=colour)
                d.text(150, y + 19, what, size=small)
                d.text(150, y + 37, note, size=small, color="muted")
                d.line((132, y + 27), (144, y + 27), role=colour, stroke=d.stroke)
            y += 88
        d.height = y - 22
        return d
    for k, (name, symbol, role) in enumerate(STAGES):
        x = 20.0 + k * 280
        box = d.box(x, 20, 200, [Line(name), Line(symbol, small, "muted", 3)], role=role, h=84)
        if k < 3:
            title, what, colour, note = ENTER[k]
            d.arrow(box.right, (x + 278, box.cy))
            d.line((box.cx, 110), (box.cx, 134), role=colour, stroke=d.stroke * 1.4)
            d.text(x, 142, title, color=colour)
            d.text(x, 172, what, size=small)
            d.text(x, 200, note, size=small, color="muted", width=262)
    d.text(860, 142, "**none**", color="reference")
    d.text(860, 172, "only the mask tells", size=small, color="muted", width=200)
    d.height = 256
    return d


# -- the norm -----------------------------------------------------------------------------------------------------


def norms(narrow: bool = False) -> Diagram:
    """Pre-norm and post-norm: where the norm stands on the residual stream."""
    d = sheet(
        "ch01_attention.norms",
        "Pre-norm and post-norm",
        "Two blocks side by side. Pre-norm: the stream goes straight up; a branch leaves it, passes the norm and then "
        "attention or the feed-forward layer, and is added. Post-norm: the branch passes the layer alone; after the "
        "addition the norm stands on the stream itself, so that no path through the stack is free of it.",
        narrow,
    )
    small = d.small
    cases = (
        ("pre-norm", "$x + f(norm(x))$", "a free path from top to bottom", "chosen"),
        ("post-norm", "$norm(x + f(x))$", "every gradient passes every norm", "rejected"),
    )
    for k, (name, formula, note, role) in enumerate(cases):
        x = 8.0 + k * 176 if narrow else 60.0 + k * 520
        line, right = (x + 22, x + 62) if narrow else (x + 40, x + 120)
        wide = 100.0 if narrow else 200.0
        high = 34.0 if narrow else 50.0
        top = 54.0 if narrow else 76.0
        d.text(x, 8, f"**{name}**", color=role)
        d.text(x, 8 + d.size * 1.4, formula, size=small, color="muted")
        base = top + (190 if narrow else 262)
        plus = top + (76 if name == "post-norm" else 36) * (1 if narrow else 1.35)
        layer = d.box(right, plus + (38 if narrow else 52), wide, [Line("layer $f$", small)], role="policy", h=high)
        low = layer.y1
        if name == "pre-norm":
            norm = d.box(right, layer.y1 + (20 if narrow else 28), wide, [Line("norm", small)], role="prompt", h=high)
            d.arrow((norm.cx, norm.y - 1), (norm.cx, layer.y1 + 2))
            low = norm.y1
        turn = low + (16 if narrow else 22)
        d.arrow((line, turn), (layer.cx, turn), (layer.cx, low + 2))
        d.arrow((layer.cx, layer.y - 1), (layer.cx, plus), (line + (11 if narrow else 17), plus))
        if name == "post-norm":
            norm = d.box(
                line - (22 if narrow else 40), top, 70 if narrow else 120, [Line("norm", small)], role="prompt", h=high
            )
            d.arrow((line, plus - (12 if narrow else 18)), (line, norm.y1 + 2))
        else:
            d.arrow((line, plus - (12 if narrow else 18)), (line, top))
        d.arrow((line, base), (line, plus + (13 if narrow else 19)))
        d.badge(line, plus, "+", "muted")
        d.text(x, base + 6, note, size=small, color=role, width=168 if narrow else 440)
    d.height = (54 + 190 + 52) if narrow else (76 + 262 + 46)
    return d
