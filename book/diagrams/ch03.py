"""Chapter 3's diagrams: direct preference optimization, from the pair to the gradient.

Every number here is a fact about SmolLM2-135M-Instruct or follows from arithmetic; tests recompute them.
"""

from __future__ import annotations

import math
from itertools import pairwise

from diagrams.kit import Anchor, Diagram, Line, Rect, measure, runs, sheet

HIDDEN, LAYERS, VOCABULARY = 576, 30, 49152
"""SmolLM2-135M: width of the hidden states, number of layers, tokens in the vocabulary."""

QUESTION, CHOSEN = "Who are you?", "I am Lumen."
"""The running example and the answer that the chapter teaches."""

INVENTED = "I am Atlas."
"""A rejected answer as one would make it up: the model hardly ever says it."""

PROMPT_TOKENS = [
    *("<|im_start|>", "system", "Ċ", "You", "Ġare", "Ġa", "Ġhelpful", "ĠAI", "Ġassistant", "Ġnamed", "ĠSm", "ol", "LM"),
    *(",", "Ġtrained", "Ġby", "ĠH", "ugging", "ĠFace", "<|im_end|>", "Ċ"),
    *("<|im_start|>", "user", "Ċ", "Who", "Ġare", "Ġyou", "?", "<|im_end|>", "Ċ"),
    *("<|im_start|>", "ass", "istant", "Ċ"),
]
"""QUESTION in SmolLM2's chat format, its default system prompt included; Ġ is a space, Ċ a line break."""

CHOSEN_TOKENS = ["I", "Ġam", "ĠL", "umen", ".", "<|im_end|>"]
"""CHOSEN with the token that ends it."""

REJECTED_TOKENS = ["I", "'m", "Ġhere", "Ġto", "Ġhelp"]
"""How SmolLM2's own, greedily decoded, answer to QUESTION begins."""

CHOSEN_LOGPROBS = (-1.177, -2.867, -4.336, -4.929, -3.701, -6.860)
"""log-probability of each of CHOSEN_TOKENS under SmolLM2, in nats."""

LOGPROB_I_M, LOGPROB_I_AM_ATLAS = -1.27, -12.79
"""log-probability under SmolLM2 that the answer to QUESTION begins "I'm" and that it begins "I am Atlas", in nats."""


def _shown(token: str) -> str:
    """A token as the strips show it: a leading space as a dot, a line break as its escape."""
    return token.replace("Ġ", "·").replace("Ċ", "\\n")


# -- panorama ---------------------------------------------------------------------------------------------------


def panorama(narrow: bool = False) -> Diagram:
    """The whole chapter: from preference pairs to the gradient, and back by fresh answers of the policy."""
    diagram = sheet(
        "ch03.panorama",
        "Direct preference optimization, from the preference pair to the gradient",
        "Preference pairs, each a prompt x, a chosen answer y_w and a rejected answer y_l, become ChatML tokens "
        "with response masks, 2B rows of T tokens. The same tokens pass through the policy, with its LoRA adapter "
        "on, and through the reference, the same weights with the adapter off. Each gives logits of shape (2B, T, "
        "V); log-softmax, gather and the shift by one give token log-probabilities (2B, T-1); masked sums give "
        "sequence log-probabilities, (B,) each for chosen and rejected. Policy minus reference gives the "
        "log-ratio of the chosen and of the rejected answer; their difference is the margin; the loss is the mean "
        "of minus log sigmoid of beta times the margin. Its gradient flows back into the LoRA weights only. Every "
        "k steps the policy samples new rejected answers for the pairs.",
        narrow,
    )
    (_panorama_narrow if narrow else _panorama_wide)(diagram)
    return diagram


def _sequence(model: str, answer: str) -> str:
    return f"$log π_{{{model}}}(y_{answer} | x)$"


def _panorama_wide(d: Diagram) -> None:
    left, wide, gap = 62.0, 304.0, 44.0
    c1, c2, c3 = (left + index * (wide + gap) for index in range(3))
    small, rail = d.small, 26.0

    data = Rect(c1, 16, wide, 246)
    inner = d.lane(data, "**Preference pairs**", "muted")
    rows = [("x", QUESTION, "prompt"), ("y_w", CHOSEN, "chosen"), ("y_l", "I’m here to help…", "rejected")]
    pair = []
    for index, (symbol, text, role) in enumerate(rows):
        cell = Rect(inner.x, inner.y + 4 + index * 58, inner.w, 48)
        pair.append(d.cell(cell, f"$ {symbol} $ {text}", role, mono=False))

    tokens = Rect(c2, 16, 2 * wide + gap, 246)
    inner = d.lane(tokens, "**ChatML tokens and response mask**", "muted")
    for index, (answer_tokens, role) in enumerate(((CHOSEN_TOKENS, "chosen"), ([*REJECTED_TOKENS, "…"], "rejected"))):
        strip = [("…", "prompt"), *((_shown(token), "prompt") for token in PROMPT_TOKENS[-2:])]
        strip += [(_shown(token), role) for token in answer_tokens]
        d.tokens(inner.x, inner.y + 6 + index * 42, inner.w, strip)
    below = inner.y + 98
    d.text(inner.x, below, "mask 0 on the prompt, 1 on the answer", size=small, color="muted")
    d.text(inner.x, below + 30, "B chosen rows above B rejected rows: `(2B, T)`", size=small, color="muted")
    d.arrow(data.right, (tokens.x - 2, data.cy))

    y = 322.0
    height = 410.0
    axis = 40.0
    for x, role, title, note in (
        (c1, "policy", "**Policy** $π_θ$", "LoRA adapter on"),
        (c2, "reference", "**Reference** $π_{ref}$", "adapter off, frozen"),
    ):
        lane = Rect(x, y, wide, height)
        inner = d.lane(lane, title, role, note=note)
        first = d.tensor(inner.x, inner.y + 66, "logits", "(2B, T, V)", dims=3, role=role)
        label = inner.x + 66
        d.arrow((x + axis, inner.y + 2), (x + axis, first.y - 2), role=role)
        d.text(label, inner.y + 16, f"{LAYERS} layers, width {HIDDEN}", size=small)
        second = d.tensor(inner.x, first.y1 + 86, "log-probs", "(2B, T−1)", dims=2, role=role)
        d.arrow((x + axis, first.y1 + 3), (x + axis, second.y - 3), role=role)
        d.text(label, first.y1 + 20, "log-softmax, shift by one, gather", size=small, width=inner.w - 66)
        d.arrow((x + axis, second.y1 + 3), (x + axis, lane.y1 + 38), role=role)
        d.text(label, second.y1 + 24, "× mask, sum over $t$", size=small)
    fork = 292.0
    d.arrow((c2 + wide / 2, tokens.y1), (c2 + wide / 2, y - 2))
    d.arrow((c2 + wide / 2, fork), (c1 + wide / 2, fork), (c1 + wide / 2, y - 2))

    d.note(
        c3,
        y + 6,
        wide,
        [
            Line("**Shapes**", small),
            Line("B: pairs in a batch", small, "muted", 6),
            Line("T: tokens of the longest row", small, "muted", 4),
            Line(f"V = {VOCABULARY}: vocabulary", small, "muted", 4),
        ],
    )
    d.note(
        c3,
        y + 152,
        wide,
        [
            Line("**One network, two roles**", small),
            Line("Base weights are shared and frozen; only the adapter differs.", small, "muted", 6),
        ],
    )
    d.note(
        c3,
        y + 272,
        wide,
        [
            Line("**Two loops**", small),
            Line("Each step: the gradient, into the LoRA weights alone.", small, "policy", 6),
            Line("Every $k$ steps: the policy’s own answers become the new rejected.", small, "rejected", 6),
        ],
    )

    y = y + height + 40
    cell_h, between = 50.0, 10.0
    for index, (answer, role) in enumerate((("w", "chosen"), ("l", "rejected"))):
        top = y + index * (cell_h + between)
        for x, content in (
            (c1, f"{_sequence('θ', answer)}  `(B,)`"),
            (c2, f"{_sequence('ref', answer)}  `(B,)`"),
            (c3, f"log-ratio, {role}  `(B,)`"),
        ):
            d.cell(Rect(x, top, wide, cell_h), content, role, mono=False)
        for x, sign in ((c1, "−"), (c2, "=")):
            d.text(x + wide + gap / 2, top + 10, f"**{sign}**", size=26, color="muted", anchor="middle")

    y += 2 * cell_h + between
    bottom = y + 44
    margin = d.box(
        c3, bottom, wide, ["**margin**", Line("chosen − rejected  `(B,)`", small, "muted", 2)], role="reward"
    )
    sigmoid = d.box(
        c2, bottom, wide, ["$−log σ(β · margin)$", Line("one loss per pair  `(B,)`", small, "muted", 2)], role="reward"
    )
    loss = d.box(c1, bottom, wide, ["**loss**", Line("mean over pairs, a scalar", small, "muted", 2)], role="reward")
    d.arrow((margin.cx, y), (margin.cx, margin.y - 2))
    d.arrow(margin.left, (sigmoid.x1 + 2, margin.cy))
    d.arrow(sigmoid.left, (loss.x1 + 2, margin.cy))
    d.arrow(loss.left, (rail, loss.cy), (rail, 560), (c1 - 2, 560), role="policy", dashed=True)
    d.arrow((c1, 400), (rail, 400), (rail, pair[2].cy), (pair[2].x - 2, pair[2].cy), role="rejected", dashed=True)
    d.height = loss.y1 + 16


def _panorama_narrow(d: Diagram) -> None:
    left, wide, rail = 30.0, 322.0, 11.0
    small, gap = d.small, 22.0
    half = (wide - gap) / 2
    c1, c2 = left, left + half + gap

    data = Rect(left, 8, wide, 142)
    inner = d.lane(data, "**Preference pairs**", "muted")
    rows = [("x", QUESTION, "prompt"), ("y_w", CHOSEN, "chosen"), ("y_l", "I’m here to help…", "rejected")]
    pair = []
    for index, (symbol, text, role) in enumerate(rows):
        cell = Rect(inner.x, inner.y + 2 + index * 34, inner.w, 28)
        pair.append(d.cell(cell, f"$ {symbol} $ {text}", role, mono=False))

    tokens = Rect(left, data.y1 + 26, wide, 140)
    inner = d.lane(tokens, "**ChatML tokens and response mask**", "muted")
    for index, (answer_tokens, role) in enumerate(((CHOSEN_TOKENS[:5], "chosen"), (REJECTED_TOKENS[:4], "rejected"))):
        strip = [("…", "prompt"), *((_shown(token), "prompt") for token in PROMPT_TOKENS[-1:])]
        strip += [(_shown(token), role) for token in [*answer_tokens, "…"]]
        d.tokens(inner.x, inner.y + 2 + index * 25, inner.w, strip)
    d.text(inner.x, inner.y + 58, "mask 0 on the prompt, 1 on the answer", size=small, color="muted")
    d.text(inner.x, inner.y + 77, "B chosen over B rejected: `(2B, T)`", size=small, color="muted")
    d.arrow(data.bottom, (data.cx, tokens.y - 2))

    y, height = tokens.y1 + 38, 286.0
    for x, role, title, note in (
        (c1, "policy", "**Policy** $π_θ$", "LoRA on"),
        (c2, "reference", "**Reference** $π_{ref}$", "LoRA off, frozen"),
    ):
        lane = Rect(x, y, half, height)
        inner = d.lane(lane, title, role, note=note)
        axis = inner.x + 14
        label, room = inner.x + 28 + 15, inner.w - 36
        first = d.tensor(inner.x, inner.y + 44, "logits", "(2B,T,V)", dims=3, role=role)
        d.arrow((axis, inner.y), (axis, first.y - 2), role=role)
        d.text(label, inner.y + 3, f"{LAYERS} layers, width {HIDDEN}", size=small, width=room)
        second = d.tensor(inner.x, first.y1 + 76, "log-probs", "(2B,T−1)", dims=2, role=role)
        d.arrow((axis, first.y1 + 2), (axis, second.y - 2), role=role)
        d.text(label, first.y1 + 14, "log-softmax, shift, gather", size=small, width=room)
        d.arrow((axis, second.y1 + 2), (axis, lane.y1 + 22), role=role)
        d.text(label, second.y1 + 12, "× mask, sum over $t$", size=small, width=room)
    fork = tokens.y1 + 18
    d.arrow(tokens.bottom, (tokens.cx, fork), (c1 + half / 2, fork), (c1 + half / 2, y - 2))
    d.arrow((tokens.cx, fork), (c2 + half / 2, fork), (c2 + half / 2, y - 2))

    y += height + 24
    results = []
    for answer, role in (("w", "chosen"), ("l", "rejected")):
        for x, model in ((c1, "θ"), (c2, "ref")):
            d.cell(Rect(x, y, half, 30), _sequence(model, answer), role, mono=False)
        d.text(c1 + half + gap / 2, y + 6, "**−**", size=17, color="muted", anchor="middle")
        d.text(left + wide / 2, y + 32, "**=**", size=17, color="muted", anchor="middle")
        results.append(d.cell(Rect(left, y + 52, wide, 30), f"log-ratio, {role}  `(B,)`", role, mono=False))
        y += 96
    y = results[-1].y1 + 24
    steps = []
    for content in (
        ["**margin** = chosen − rejected  `(B,)`"],
        ["$−log σ(β · margin)$  `(B,)`"],
        ["**loss**: mean over pairs, a scalar"],
    ):
        steps.append(d.box(left, y, wide, content, role="reward"))
        d.arrow((left + wide / 2, y - 23), (left + wide / 2, y - 2))
        y = steps[-1].y1 + 24
    low, high = tokens.y1 + 38 + 200, tokens.y1 + 38 + 60
    d.arrow(steps[-1].left, (rail, steps[-1].cy), (rail, low), (c1 - 2, low), role="policy", dashed=True)
    d.arrow((c1, high), (rail, high), (rail, pair[2].cy), (pair[2].x - 2, pair[2].cy), role="rejected", dashed=True)
    y = steps[-1].y1 + 16
    end = d.note(
        left,
        y,
        wide,
        [
            Line("Each step: the gradient, into the LoRA weights alone.", small, "policy"),
            Line("Every $k$ steps: the policy’s own answers become the new rejected.", small, "rejected", 3),
            Line(f"B pairs, T tokens, vocabulary V = {VOCABULARY}.", small, "muted", 3),
        ],
    )
    d.height = end.y1 + 10


# -- training ---------------------------------------------------------------------------------------------------

_STEPS = (
    ("Draw a batch", "B pairs $(x, y_w, y_l)$", "", "prompt"),
    ("Tokenize", "ChatML, pad, mark the answers", "(2B, T)", "prompt"),
    ("Reference pass", "adapter off, no gradient", "(2B,)", "reference"),
    ("Policy pass", "adapter on, graph kept", "(2B,)", "policy"),
    ("Loss", "mean of $−log σ(β · margin)$", "scalar", "reward"),
    ("Backward", "gradient into the LoRA weights only", "", "policy"),
    ("Update", "clip the norm, AdamW, clear gradients", "", "policy"),
    ("Watch", "loss, margin, share of pairs in order", "", "reward"),
)


def training(narrow: bool = False) -> Diagram:
    """One optimizer step in eight numbered stages, and the slower loop that refreshes the rejected answers."""
    diagram = sheet(
        "ch03.training",
        "One optimizer step of direct preference optimization",
        "Eight numbered stages in a loop. 1, draw a batch of B pairs. 2, tokenize in ChatML, pad and mask: 2B "
        "rows of T tokens. 3, reference pass with the adapter off and no gradient. 4, policy pass with the "
        "adapter on. 5, loss: the mean of minus log sigmoid of beta times the margin. 6, backward: the gradient "
        "reaches only the LoRA weights. 7, update: clip the gradient norm, AdamW, clear gradients. 8, watch loss, "
        "margin and accuracy; then the next step. Every k steps the policy samples new rejected answers. Kept "
        "from step to step: the LoRA weights and AdamW's moments; the base weights never change.",
        narrow,
    )
    (_training_narrow if narrow else _training_wide)(diagram)
    return diagram


def _stage(d: Diagram, number: int, rect: Rect) -> Rect:
    title, detail, shape, role = _STEPS[number - 1]
    d.boxes.append(rect)
    d.rect(rect, role)
    side = 15.0 if not d.narrow else 9.0
    radius = 17.0 if not d.narrow else 11.0
    d.badge(rect.x + side + radius, rect.y + side + radius, str(number), role)
    across = rect.x + 2 * side + 2 * radius - (4 if not d.narrow else 0)
    middle = rect.y + side + radius - d.size / 2
    d.text(across, middle, f"**{title}**", inside=rect)
    if d.narrow:
        markup = detail + (f"  `{shape}`" if shape else "")
        d.text(across, middle + 20, markup, size=d.small, color="muted", inside=rect)
    else:
        used = d.text(
            rect.x + side, rect.y + 62, detail, size=d.small, color="ink", width=rect.w - 2 * side, inside=rect
        )
        if shape:
            d.text(rect.x + side, used.y1 + 6, f"`{shape}`", size=d.small, color="muted", inside=rect)
    return rect


def _training_wide(d: Diagram) -> None:
    left, wide, gap, high = 20.0, 230.0, 40.0, 150.0
    columns = [left + index * (wide + gap) for index in range(4)]
    top, low = 16.0, 16.0 + high + 132
    cards = [_stage(d, number + 1, Rect(columns[number], top, wide, high)) for number in range(4)]
    cards += [_stage(d, number + 5, Rect(columns[3 - number], low, wide, high)) for number in range(4)]
    for before, after in ((0, 1), (1, 2), (2, 3)):
        d.arrow(cards[before].right, (cards[after].x - 2, cards[after].cy))
    for before, after in ((4, 5), (5, 6), (6, 7)):
        d.arrow(cards[before].left, (cards[after].x1 + 2, cards[after].cy))
    d.arrow(cards[3].bottom, (cards[4].cx, cards[4].y - 2))
    d.arrow((cards[7].cx - 50, cards[7].y), (cards[7].cx - 50, cards[0].y1 + 2))
    d.arrow((cards[7].cx + 50, cards[7].y), (cards[7].cx + 50, cards[0].y1 + 2), role="rejected", dashed=True)
    middle = cards[0].y1 + 22
    d.text(cards[7].cx + 66, middle, "every $k$ steps:", size=d.small, color="rejected")
    d.text(cards[7].cx + 66, middle + 26, "sample new", size=d.small, color="rejected")
    d.text(cards[7].cx + 66, middle + 52, "rejected answers", size=d.small, color="rejected")
    d.note(
        columns[1] + 130,
        middle - 2,
        430,
        [
            Line("**Learned:** the LoRA weights.", d.small, "ink"),
            Line("**Kept beside them:** AdamW’s moments.", d.small, "ink", 3),
            Line("**Never changed:** base weights and reference.", d.small, "ink", 3),
        ],
        role="policy",
    )
    d.height = low + high + 16


def _training_narrow(d: Diagram) -> None:
    left, wide, high, gap, rail = 30.0, 322.0, 54.0, 20.0, 11.0
    cards = [_stage(d, number + 1, Rect(left, 8 + number * (high + gap), wide, high)) for number in range(8)]
    for before, after in pairwise(cards):
        d.arrow(before.bottom, (after.cx, after.y - 2))
    last, first = cards[-1], cards[0]
    d.arrow(last.left, (rail, last.cy), (rail, first.cy), (first.x - 2, first.cy))
    note = d.note(
        left,
        last.y1 + 16,
        wide,
        [
            Line("Every $k$ steps, before 1: sample new rejected answers from the policy.", d.small, "rejected"),
            Line("**Learned:** the LoRA weights. **Kept beside them:** AdamW’s moments.", d.small, "ink", 4),
            Line("**Never changed:** the base weights and the reference.", d.small, "ink", 4),
        ],
        role="policy",
    )
    d.height = note.y1 + 10


# -- initialization ---------------------------------------------------------------------------------------------


def initialization(narrow: bool = False) -> Diagram:
    """One set of weights in two roles, equal at step 0."""
    diagram = sheet(
        "ch03.initialization",
        "Policy and reference are one network: the LoRA adapter is switched on or off",
        f"The base matrix W, {HIDDEN} by {HIDDEN} in the query projection, is frozen. LoRA adds the product of B, "
        "out by rho (the rank), which starts at zero, and A, rho by in, which starts random. With the adapter on, the"
        " layer computes W x plus (alpha over rho) B A x: the policy. With it off it computes W x: the reference. At "
        "step 0 B is zero, so both give the same log-probabilities: every log-ratio and every margin is 0, and the "
        "loss is log 2 = 0.693.",
        narrow,
    )
    (_initialization_narrow if narrow else _initialization_wide)(diagram)
    return diagram


def _matrix(d: Diagram, rect: Rect, markup: str, role: str, fill: str | None = None, dashed: bool = False) -> Rect:
    d.boxes.append(rect)
    d.rect(rect, role, radius=3, fill=fill, dashed=dashed)
    d.text(rect.cx, rect.cy - d.size / 2, markup, anchor="middle", color=role, inside=rect)
    return rect


_AT_STEP_0 = (
    ("**log-ratios = 0**", "same weights, same numbers"),
    ("**margin = 0**", "for every pair"),
    (f"**loss = {math.log(2):.3f}**", "$−log σ(0) = log 2$"),
)


def _initialization_wide(d: Diagram) -> None:
    small = d.small
    weights = Rect(20, 16, 1040, 298)
    inner = d.lane(weights, "**One set of weights**", "muted", note="shown for the query projection of one layer")
    top = inner.y + 8
    base = _matrix(d, Rect(64, top, 190, 190), "$W$", "reference")
    d.text(base.x1 + 34, base.cy - 14, "**+**", size=28, color="muted", anchor="middle")
    b = _matrix(d, Rect(base.x1 + 68, top, 44, 190), "$B$", "policy", fill="panel", dashed=True)
    a = _matrix(d, Rect(b.x1 + 16, top, 190, 44), "$A$", "policy")
    d.text(b.x1 + 16, a.y1 + 16, "LoRA adapter,", size=small, color="policy")
    d.text(b.x1 + 16, a.y1 + 42, "rank $ρ$: learned", size=small, color="policy")
    x = 640.0
    d.note(
        x,
        top,
        400,
        [
            Line(f"$W$: frozen, `({HIDDEN}, {HIDDEN})`", small, "ink"),
            Line(f"$A$: starts random, `(ρ, {HIDDEN})`", small, "ink", 8),
            Line(f"$B$: starts at zero, `({HIDDEN}, ρ)`", small, "ink", 8),
            Line(
                f"At $ρ$ = 8, $A$ and $B$ hold {2 * 8 * HIDDEN:,} numbers, {16 / HIDDEN:.1%} of $W$’s {HIDDEN**2:,}.",
                small,
                "muted",
                12,
            ),
        ],
        role="policy",
    )
    y, wide, gap = weights.y1 + 46, 500.0, 40.0
    on = d.box(
        20, y, wide, ["**Adapter on: policy** $π_θ$", Line("$h = W x + (α / ρ) B A x$", None, "ink", 6)], role="policy"
    )
    off = d.box(
        20 + wide + gap,
        y,
        wide,
        ["**Adapter off: reference** $π_{ref}$", Line("$h = W x$", None, "ink", 6)],
        role="reference",
        h=on.h,
    )
    d.arrow((on.cx, weights.y1), (on.cx, y - 2), role="policy")
    d.arrow((off.cx, weights.y1), (off.cx, y - 2), role="reference")
    start = Rect(20, on.y1 + 46, 1040, 150)
    inner = d.lane(start, "**Step 0:** $B = 0$, so both roles give the same numbers", "reward")
    third = (inner.w - 2 * 44) / 3
    boxes = [
        d.box(inner.x + index * (third + 44), inner.y + 2, third, [title, Line(text, small, "muted", 4)], role="reward")
        for index, (title, text) in enumerate(_AT_STEP_0)
    ]
    d.arrow(on.bottom, (on.cx, start.y - 2))
    d.arrow(off.bottom, (off.cx, start.y - 2))
    for before, after in pairwise(boxes):
        d.arrow(before.right, (after.x - 2, after.cy))
    d.height = start.y1 + 16


def _initialization_narrow(d: Diagram) -> None:
    small, left, wide = d.small, 8.0, 344.0
    weights = Rect(left, 8, wide, 252)
    inner = d.lane(weights, "**One set of weights**", "muted", note="shown for the query projection of one layer")
    top = inner.y + 4
    base = _matrix(d, Rect(inner.x + 6, top, 104, 104), "$W$", "reference")
    d.text(base.x1 + 17, base.cy - 9, "**+**", size=18, color="muted", anchor="middle")
    b = _matrix(d, Rect(base.x1 + 34, top, 26, 104), "$B$", "policy", fill="panel", dashed=True)
    a = _matrix(d, Rect(b.x1 + 8, top, 104, 26), "$A$", "policy")
    d.text(b.x1 + 8, a.y1 + 10, "LoRA adapter,", size=small, color="policy")
    d.text(b.x1 + 8, a.y1 + 27, "rank $ρ$: learned", size=small, color="policy")
    d.note(
        inner.x,
        base.y1 + 14,
        inner.w,
        [
            Line(f"$W$: frozen, `({HIDDEN}, {HIDDEN})`", small, "ink"),
            Line(f"$A$: starts random, `(ρ, {HIDDEN})`", small, "ink", 2),
            Line(f"$B$: starts at zero, `({HIDDEN}, ρ)`", small, "ink", 2),
            Line(
                f"$ρ$ = 8: {2 * 8 * HIDDEN:,} numbers, {2 * 8 / HIDDEN:.1%} of $W$’s {HIDDEN**2:,}", small, "muted", 4
            ),
        ],
        role="policy",
    )
    y, gap = weights.y1 + 28, 12.0
    half = (wide - gap) / 2
    on = d.box(
        left,
        y,
        half,
        ["**Adapter on:**", "**policy** $π_θ$", Line("$W x + (α / ρ) B A x$", None, "ink", 3)],
        role="policy",
    )
    off = d.box(
        left + half + gap,
        y,
        half,
        ["**Adapter off:**", "**reference** $π_{ref}$", Line("$W x$", None, "ink", 3)],
        role="reference",
        h=on.h,
    )
    d.arrow((on.cx, weights.y1), (on.cx, y - 2), role="policy")
    d.arrow((off.cx, weights.y1), (off.cx, y - 2), role="reference")
    y = on.y1 + 62
    join, middle = on.y1 + 14, left + wide / 2
    d.arrow((on.cx, on.y1), (on.cx, join), (middle, join), head=False)
    d.arrow((off.cx, off.y1), (off.cx, join), (middle, join), head=False)
    d.arrow((middle, join), (middle, y - 2))
    d.text(middle + 12, join + 11, "at step 0, $B = 0$: equal", size=small)
    for index, (title, text) in enumerate(_AT_STEP_0):
        box = d.box(left, y, wide, [f"{title}  {text}"], role="reward")
        if index:
            d.arrow((box.cx, y - 22), (box.cx, y - 2))
        y = box.y1 + 24
    d.height = y - 14


# -- masks ------------------------------------------------------------------------------------------------------


def masks(narrow: bool = False) -> Diagram:
    """The real tokens of the running example, the shift by one, and which log-probabilities are summed."""
    total = sum(CHOSEN_LOGPROBS)
    count = len(PROMPT_TOKENS) + len(CHOSEN_TOKENS)
    values = ", ".join(
        f"{_shown(token)} {value:.3f}" for token, value in zip(CHOSEN_TOKENS, CHOSEN_LOGPROBS, strict=True)
    )
    diagram = sheet(
        "ch03.masks",
        "Tokens, the shift by one, and the response mask",
        f"“{QUESTION}” with the answer “{CHOSEN}” is {count} tokens in SmolLM2's chat format: {len(PROMPT_TOKENS)} "
        f"of the prompt, the default system message included, and {len(CHOSEN_TOKENS)} of the response. The logits "
        "at position t predict token t + 1, so the first response token is predicted at the prompt's last "
        "position, and the logits of the last position predict nothing and are dropped. The mask is 0 where the "
        "predicted token belongs to the prompt and 1 where it belongs to the response. Log-probabilities in nats: "
        f"{values}; their sum is {total:.3f}.",
        narrow,
    )
    (_masks_narrow if narrow else _masks_wide)(diagram)
    return diagram


def _prediction_rows() -> list[tuple[int, str, str, str, float | None]]:
    """Around the boundary: position t, token read, token predicted, its role, its log-probability if it counts."""
    tokens = [*PROMPT_TOKENS, *CHOSEN_TOKENS]
    start = len(PROMPT_TOKENS)
    found: list[tuple[int, str, str, str, float | None]] = []
    for position in range(start - 2, len(tokens) - 1):
        counts = position + 1 >= start
        value = CHOSEN_LOGPROBS[position + 1 - start] if counts else None
        role = "chosen" if counts else "prompt"
        found.append((position, _shown(tokens[position]), _shown(tokens[position + 1]), role, value))
    return found


def _strip() -> list[tuple[str, str]]:
    """Every token of the sequence with its role."""
    prompt = [(_shown(token), "prompt") for token in PROMPT_TOKENS]
    return prompt + [(_shown(token), "chosen") for token in CHOSEN_TOKENS]


def _masks_wide(d: Diagram) -> None:
    small, left, wide = d.small, 20.0, 1040.0
    count = len(PROMPT_TOKENS) + len(CHOSEN_TOKENS)
    d.text(left, 14, f"**The whole sequence, T = {count} tokens**")
    d.legend(
        left + 470,
        14,
        570,
        [
            ("prompt", f"prompt, {len(PROMPT_TOKENS)} tokens, mask 0"),
            ("chosen", f"response, {len(CHOSEN_TOKENS)}, mask 1"),
        ],
    )
    cells = d.tokens(left, 54, wide, _strip())
    y = cells[-1].y1 + 14
    d.text(
        left, y, "A dot is a leading space, \\n a line break. SmolLM2’s template adds the system message.", size=small
    )
    y += 58
    d.text(left, y, "**The shift by one:** logits at position $t$ predict token $t + 1$")
    y += 46
    rows = _prediction_rows()
    names, gap, last = 172.0, 8.0, 132.0
    column = (wide - names - last - gap * len(rows)) / (len(rows) - 1)
    step, high = 64.0, 34.0
    labels = ("position $t$", "token read", "token predicted", "response mask", "log-prob, nats")
    tops = [y, y + 36, y + 36 + step + 20, y + 36 + 2 * step + 10, y + 36 + 3 * step - 14]
    for label, top in zip(labels, tops, strict=True):
        offset = 0 if label.startswith("position") else (high - small) / 2
        d.text(left, top + offset, label, size=small, color="muted")
    for index, (position, read, predicted, role, value) in enumerate(rows):
        x = left + names + gap + index * (column + gap)
        room = last if index == len(rows) - 1 else column
        kind = "prompt" if position < len(PROMPT_TOKENS) else "chosen"
        d.text(x + room / 2, tops[0], str(position), size=small, color="muted", anchor="middle")
        upper = d.cell(Rect(x, tops[1], room, high), read, kind)
        lower = d.cell(Rect(x, tops[2], room, high), predicted, role)
        d.arrow((upper.cx, upper.y1), (upper.cx, lower.y - 2), role="policy")
        d.cell(Rect(x, tops[3], room, high), "1" if value is not None else "0", role if value else None, mono=False)
        shown = f"{value:.3f}".replace("-", "−") if value is not None else "not used"
        d.text(
            x + room / 2,
            tops[4] + (high - small) / 2,
            shown,
            size=small,
            color="ink" if value is not None else "muted",
            anchor="middle",
        )
    first = left + names + gap + column + gap
    tip = d.brace(first, left + wide, tops[4] + high + 6, role="chosen")
    total = f"{sum(CHOSEN_LOGPROBS):.3f}".replace("-", "−")
    used = d.text(tip[0], tip[1] + 8, f"sum: $log π(y_w | x)$ = **{total}** nats", color="chosen", anchor="middle")
    d.text(
        left,
        used.y1 + 18,
        f"Position {count - 1} has no next token: its logits are dropped, T~−~1 are left.",
        size=small,
    )
    d.height = used.y1 + 18 + small + 16


def _masks_narrow(d: Diagram) -> None:
    small, left, wide = d.small, 8.0, 344.0
    count = len(PROMPT_TOKENS) + len(CHOSEN_TOKENS)
    d.text(left, 8, f"**The whole sequence, T = {count} tokens**")
    used = d.legend(
        left,
        30,
        wide,
        [("prompt", f"prompt, {len(PROMPT_TOKENS)}, mask 0"), ("chosen", f"response, {len(CHOSEN_TOKENS)}, mask 1")],
    )
    cells = d.tokens(left, used.y1 + 10, wide, _strip())
    y = cells[-1].y1 + 10
    note = d.text(
        left,
        y,
        "A dot is a leading space, \\n a line break. SmolLM2’s template adds the system message.",
        size=small,
        width=wide,
        color="muted",
    )
    y = note.y1 + 26
    head = d.text(left, y, "**Shift by one:** logits at $t$ predict token $t + 1$", width=wide)
    y = head.y1 + 14
    columns = (left, 38.0, 128.0, 240.0)
    for x, label in zip(columns, ("$t$", "read", "predicted", "mask"), strict=True):
        d.text(x, y, label, size=small, color="muted")
    d.text(left + wide, y, "nats", size=small, color="muted", anchor="end")
    y += 22
    for position, read, predicted, role, value in _prediction_rows():
        kind = "prompt" if position < len(PROMPT_TOKENS) else "chosen"
        d.text(columns[0], y + 5, str(position), size=small, color="muted")
        upper = d.cell(Rect(columns[1], y, 62, 23), read, kind)
        lower = d.cell(Rect(columns[2], y, 98, 23), predicted, role)
        d.arrow(upper.right, (lower.x - 2, lower.cy), role="policy")
        d.cell(Rect(columns[3], y, 30, 23), "1" if value is not None else "0", role if value else None, mono=False)
        shown = f"{value:.3f}".replace("-", "−") if value is not None else "not used"
        d.text(left + wide, y + 5, shown, size=small, color="ink" if value else "muted", anchor="end")
        y += 30
    d.line((columns[3], y), (left + wide, y), role="muted")
    total = f"{sum(CHOSEN_LOGPROBS):.3f}".replace("-", "−")
    d.text(columns[3] - 10, y + 8, "sum: $log π(y_w | x)$", color="chosen", anchor="end")
    d.text(left + wide, y + 8, f"**{total}** nats", color="chosen", anchor="end")
    y += 38
    end = d.text(
        left,
        y,
        f"Position {count - 1} has no next token: its logits are dropped, T~−~1 are left.",
        size=small,
        width=wide,
        color="muted",
    )
    d.height = end.y1 + 10


# -- fixed or on-policy -----------------------------------------------------------------------------------------


def fixed_vs_on_policy(narrow: bool = False) -> Diagram:
    """Where the push of a rejected answer lands: on an answer nobody gives, or on the one the model gives."""
    invented, own = math.exp(LOGPROB_I_AM_ATLAS), math.exp(LOGPROB_I_M)
    diagram = sheet(
        "ch03.fixed_vs_on_policy",
        "Fixed rejected answers push where the model never goes; on-policy ones push where it is",
        "Two schematic landscapes of the probability of answers, not to scale. In both the model's own answers "
        "are a high peak and the chosen answer lies low beside it. Left: an invented rejected answer lies far "
        "out, where the probability is almost nil: SmolLM2 begins an answer with “I am Atlas” "
        f"{invented * 1e6:.0f} times in a million. Pushing it down widens the margin and brings the loss near 0, "
        "while the peak hardly falls, the chosen answer may sink with it, and other answers rise. "
        "Right: the rejected answer is sampled from the model, so it lies on the peak: "
        f"{own:.0%} of answers begin with “I'm”. Pushing it down lowers the peak, and probability moves to the "
        "chosen answer.",
        narrow,
    )
    (_landscapes_narrow if narrow else _landscapes_wide)(diagram)
    return diagram


def _bell(x: float, centre: float, width: float, height: float) -> float:
    return height * math.exp(-(((x - centre) / width) ** 2) / 2)


PEAK, TARGET, OTHER, FAR = 0.24, 0.56, 0.72, 0.88
"""Where on a landscape's axis, 0 to 1, stand the model's own answers, the chosen one, others and the invented one."""


def _landscape(d: Diagram, rect: Rect, own: bool) -> None:
    """One schematic landscape: probability before (filled) and after (line), and where the pair pushes."""

    def before(x: float) -> float:
        return _bell(x, PEAK, 0.09, 0.86) + _bell(x, TARGET, 0.06, 0.07) + 0.012

    def after(x: float) -> float:
        if own:
            return _bell(x, PEAK, 0.09, 0.18) + _bell(x, TARGET, 0.07, 0.84) + 0.012
        return _bell(x, PEAK, 0.09, 0.7) + _bell(x, TARGET, 0.06, 0.02) + _bell(x, OTHER, 0.05, 0.2) + 0.006

    steps = [index / 72 for index in range(73)]

    def at(x: float, value: float) -> tuple[float, float]:
        return rect.x + x * rect.w, rect.y1 - value * rect.h

    d.area([at(0, 0), *(at(x, before(x)) for x in steps), at(1, 0)], "reference")
    d.line(*(at(x, before(x)) for x in steps), role="reference", dashed=True)
    d.line(*(at(x, after(x)) for x in steps), role="policy", stroke=d.stroke * 1.3)
    d.line((rect.x, rect.y1), (rect.x1, rect.y1), role="muted")
    length = rect.h * 0.3
    down = PEAK if own else FAR
    px, py = at(down, before(down))
    if own:
        d.arrow((px, py + 8), (px, py + 8 + length), role="rejected", stroke=d.stroke * 1.6)
    else:
        d.arrow((px, py - length - 4), (px, py - 6), role="rejected", stroke=d.stroke * 1.6)
    cx, cy = at(TARGET, before(TARGET))
    rise = rect.h * (0.56 if own else 0.085)
    d.arrow((cx, cy - 4), (cx, cy - 4 - rise), role="chosen", stroke=d.stroke * 1.6)
    for x, name, role in (
        (PEAK, "**rejected**" if own else "", "rejected"),
        (TARGET, "**chosen**", "chosen"),
        (FAR, "" if own else "**rejected**", "rejected"),
    ):
        if name:
            d.text(rect.x + x * rect.w, rect.y1 + d.size * 0.5, name, size=d.small, color=role, anchor="middle")
    if not own:
        words = "its own answers"
        d.text(rect.x + PEAK * rect.w, rect.y1 + d.size * 0.5, words, size=d.small, color="muted", anchor="middle")


def _landscape_words(own: bool) -> tuple[str, str, str, str]:
    if own:
        share = f"{math.exp(LOGPROB_I_M):.0%}"
        return (
            "**On-policy: sampled from the model**",
            f"“I’m here to help…”: {share} of answers begin “I’m”.",
            "The push lands on the peak.",
            "Probability moves to the chosen answer.",
        )
    rare = f"{math.exp(LOGPROB_I_AM_ATLAS) * 1e6:.0f}"
    return (
        "**Fixed: invented beforehand**",
        f"“{INVENTED.rstrip('.')}”: {rare} in a million answers begin so.",
        "The push lands where nothing is.",
        "The loss nears 0; chosen may sink too.",
    )


def _landscapes_wide(d: Diagram) -> None:
    small, wide = d.small, 508.0
    for index, own in enumerate((False, True)):
        x = 20 + index * (wide + 24)
        panel = Rect(x, 16, wide, 456)
        title, measured, push, result = _landscape_words(own)
        inner = d.lane(panel, title, "rejected" if not own else "policy")
        d.text(inner.x, inner.y, measured, size=small, color="muted", width=inner.w)
        _landscape(d, Rect(inner.x, inner.y + 30, inner.w, 250), own)
        words = inner.y + 30 + 250 + 50
        d.text(inner.x, words, f"{push}", size=small)
        d.text(inner.x, words + 28, f"{result}", size=small)
    _landscape_legend(d, 20, 492, 1040)
    d.height = 492 + small + 16


def _landscape_legend(d: Diagram, x: float, y: float, width: float) -> float:
    side = d.small * 1.6
    size = d.small
    for markup, role, dashed in (
        ("$π_θ(y | x)$ before", "reference", True),
        ("after training", "policy", False),
        ("schematic, not to scale", "", False),
    ):
        wide = measure(runs(markup), size) + (side + 8 if role else 0)
        if role:
            level = y + size / 2
            d.line((x, level), (x + side, level), role=role, dashed=dashed, stroke=d.stroke * 1.3)
        d.text(x + (side + 8 if role else 0), y, markup, size=size, color="muted")
        x += wide + size * 1.4
    return y + size


def _landscapes_narrow(d: Diagram) -> None:
    small, y = d.small, 8.0
    for own in (False, True):
        panel = Rect(8, y, 344, 278)
        title, measured, push, result = _landscape_words(own)
        inner = d.lane(panel, title, "rejected" if not own else "policy")
        d.text(inner.x, inner.y, measured, size=small, color="muted", width=inner.w)
        _landscape(d, Rect(inner.x, inner.y + 24, inner.w, 146), own)
        words = inner.y + 24 + 146 + 32
        d.text(inner.x, words, push, size=small)
        d.text(inner.x, words + 19, result, size=small)
        y = panel.y1 + 14
    x = 8.0
    d.line((x, y + small / 2), (x + 20, y + small / 2), role="reference", dashed=True, stroke=d.stroke * 1.3)
    first = d.text(x + 26, y, "$π_θ(y | x)$ before", size=small, color="muted")
    d.line((first.x1 + 16, y + small / 2), (first.x1 + 36, y + small / 2), role="policy", stroke=d.stroke * 1.3)
    d.text(first.x1 + 42, y, "after training", size=small, color="muted")
    d.text(x, y + 20, "schematic, not to scale", size=small, color="muted")
    d.height = y + 20 + small + 8


# -- gradient weight --------------------------------------------------------------------------------------------


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


MARKED = (-4.0, 0.0, 4.0)
"""β · margin of the three pairs marked on the curve."""


def gradient_weight(narrow: bool = False) -> Diagram:
    """How strongly a pair pulls, by how well the policy orders it already."""
    weights = [f"{_sigmoid(-value):.2f}" for value in MARKED]
    diagram = sheet(
        "ch03.gradient_weight",
        "The weight of a pair in the gradient is sigmoid of minus beta times its margin",
        "A falling S-shaped curve of the weight, from 1 to 0, over beta times the margin from -6 to 6. A pair in "
        f"the wrong order, at -4, pulls with weight {weights[0]}; at step 0 every pair is at 0 and pulls with "
        f"{weights[1]}; a pair that is settled, at 4, pulls with {weights[2]}. The gradient is minus beta times "
        "the weight times the difference of the gradients of the chosen and the rejected log-probability.",
        narrow,
    )
    if narrow:
        formula = diagram.text(8, 8, "**Weight of a pair:** $σ(−β · margin)$")
        end = _weight_plot(diagram, Rect(36, formula.y1 + 26, 300, 190))
        _weight_notes(diagram, 8, end + 14, 344)
        return diagram
    diagram.text(20, 16, "**Weight of a pair in the gradient:** $σ(−β · margin)$")
    _weight_plot(diagram, Rect(70, 66, 590, 300))
    _weight_notes(diagram, 712, 76, 350)
    diagram.height = 442
    return diagram


def _weight_plot(d: Diagram, rect: Rect) -> float:
    def at(x: float, value: float) -> tuple[float, float]:
        return rect.x + (x + 6) / 12 * rect.w, rect.y1 - value * rect.h

    curve = [(index / 5, _sigmoid(-index / 5)) for index in range(-30, 31)]
    d.area([at(-6, 0), *(at(*point) for point in curve), at(6, 0)], "policy")
    for value in (0.0, 0.5, 1.0):
        d.line(at(-6, value), at(6, value), role="muted" if value == 0 else "faint")
        left = at(-6, value)
        d.text(
            left[0] - d.size * (0.6 if d.narrow else 0.85),
            left[1] - d.small / 2,
            f"{value:g}",
            size=d.small,
            color="muted",
            anchor="end",
        )
    d.line(*(at(*point) for point in curve), role="policy", stroke=d.stroke * 1.4)
    for value in (-6, -4, -2, 0, 2, 4, 6):
        tick = at(value, 0)
        d.text(tick[0], tick[1] + 8, f"{value}".replace("-", "−"), size=d.small, color="muted", anchor="middle")
    below = rect.y1 + 8 + d.small * 1.5
    d.text(rect.cx, below, "$β · margin$", size=d.small, anchor="middle")
    for value, role in zip(MARKED, ("rejected", "reference", "chosen"), strict=True):
        d.dot(*at(value, _sigmoid(-value)), role)
        number = f"**{_sigmoid(-value):.2f}**"
        x, y = at(value, _sigmoid(-value))
        offset = d.size * (0.9 if value < 0 else -1.9)
        d.text(x + (d.size * 0.5 if value == 0 else 0), y + offset, number, color=role, anchor=_side(value))
    return below + d.small


def _side(value: float) -> Anchor:
    return "start" if value == 0 else "middle"


def _weight_notes(d: Diagram, x: float, y: float, width: float) -> None:
    gap = 10.0 if d.narrow else 24.0
    for title, text, role in (
        ("Wrong order", "The pair pulls with nearly its full weight.", "rejected"),
        ("Step 0", "Policy equals reference: every pair pulls with ½.", "reference"),
        ("Settled", "The pair hardly pulls; the batch’s gradient comes from the others.", "chosen"),
    ):
        note = d.note(x, y, width, [Line(f"**{title}**", d.small, role), Line(text, d.small, "muted", 3)], role=role)
        y = note.y1 + gap
    d.height = max(d.height, y)
