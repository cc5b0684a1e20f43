"""Chapter 1's panorama: what goes through a language model, what its block is made of, how it is trained and grown."""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

INPUTS = [
    ("text", "What is 17 + 25?", "prompt"),
    ("token ids", "of V = 49,152", "prompt"),
    ("vectors", "(T, d): d = 576", "reference"),
]
"""From text to vectors, for SmolLM2-135M: its name, an example, its role."""

PARTS = [
    ("attention", "each position reads earlier ones", "MHA, MQA, GQA, MLA", "value"),
    ("feed-forward", "each position by itself", "SwiGLU, or experts (MoE)", "policy"),
    ("what holds it", "norms, places, residual sum", "RMSNorm, RoPE", "reference"),
]
"""What a block is made of: its name, what it does, what is chosen for it, its role."""

OUTPUTS = [
    ("logits", "V numbers", "policy"),
    ("probabilities", "softmax", "policy"),
    ("one token", "greedy or drawn", "chosen"),
]
"""From the last vector to the next token."""

BELOW = [
    ("Training", "1.2", "next tokens by the trillion, then answers, preferences, rewards", "chosen"),
    ("Growth", "1.3", "loss against parameters, data, compute, and thinking time", "reward"),
    ("Origin", "1.2", "MLP, RNN, LSTM, attention, Transformer: what each step repaired", "reference"),
]
"""What the rest of the chapter tells of the model: its name, its section, a line, its role."""


def panorama(narrow: bool = False) -> Diagram:
    """The whole chapter: text in, L blocks, a token out; then training, growth and origin."""
    d = sheet(
        "ch01.panorama",
        "A language model: text in, one token out, and what makes it good",
        "Text such as What is 17 + 25? is cut into token ids, of 49,152 in SmolLM2, and each id becomes a vector of "
        "576 numbers. Pictures can enter as vectors too. The vectors go through L = 30 blocks. A block has attention, "
        "in which each position reads those before it (MHA, MQA, GQA or MLA), a feed-forward layer that works on each "
        "position by itself (SwiGLU, or a mixture of experts), and what holds it together: norms, positions and the "
        "residual stream. The last vector gives V logits, a softmax makes them probabilities, and one token is chosen, "
        "greedily or by a draw; it is appended to the text. Below stand the other parts of the chapter: training, "
        "growth, and origin.",
        narrow,
    )
    return _narrow(d) if narrow else _wide(d)


def _steps(d: Diagram, lane: Rect, title: str, role: str, note: str, steps: list[tuple[str, str, str]]) -> None:
    inner = d.lane(lane, title, role, note=note)
    gap = 16.0 if d.narrow else 26.0
    each = (inner.h - (len(steps) - 1) * gap) / len(steps)
    last: Rect | None = None
    for at, (name, what, colour) in enumerate(steps):
        lines = [Line(f"**{name}**", d.small), Line(what, d.small, "muted")]
        box = d.box(inner.x, inner.y + at * (each + gap), inner.w, lines, h=each, role=colour, pad=4)
        if last:
            d.arrow(last.bottom, (box.cx, box.y - 2), role=role)
        last = box


def _across(d: Diagram, lane: Rect, title: str, role: str, note: str, steps: list[tuple[str, str, str]]) -> None:
    inner = d.lane(lane, title, role, note=note)
    gap = 16.0
    each = (inner.w - (len(steps) - 1) * gap) / len(steps)
    last: Rect | None = None
    for at, (name, what, colour) in enumerate(steps):
        lines = [Line(f"**{name}**", d.small), Line(what, d.small, "muted")]
        box = d.box(inner.x + at * (each + gap), inner.y, each, lines, h=inner.h, role=colour, pad=3)
        if last:
            d.arrow(last.right, (box.x - 2, box.cy), role=role)
        last = box


def _block(d: Diagram, lane: Rect) -> None:
    inner = d.lane(lane, "**The block**, L = 30 times", "policy", note="section 1.1.1")
    gap = 10.0 if d.narrow else 18.0
    each = (inner.h - 2 * gap) / 3
    for at, (name, what, choice, role) in enumerate(PARTS):
        lines = [Line(f"**{name}**", d.small), Line(what, d.small), Line(choice, d.small, "muted")]
        d.box(inner.x, inner.y + at * (each + gap), inner.w, lines, h=each, role=role, pad=4)


def _rest(d: Diagram, lane: Rect) -> None:
    gap = 10.0 if d.narrow else 20.0
    for at, (name, section, what, role) in enumerate(BELOW):
        lines = [Line(f"**{name}** {section}", d.small), Line(what, d.small, "muted")]
        if d.narrow:
            each = (lane.h - 2 * gap) / 3
            d.box(lane.x, lane.y + at * (each + gap), lane.w, lines, h=each, role=role, pad=5)
        else:
            each = (lane.w - 2 * gap) / 3
            d.box(lane.x + at * (each + gap), lane.y, each, lines, h=lane.h, role=role, pad=8)


def _wide(d: Diagram) -> Diagram:
    into, block, out = Rect(30, 16, 290, 440), Rect(374, 16, 352, 440), Rect(780, 16, 270, 440)
    _steps(d, into, "**In**", "prompt", "1.1.2", INPUTS)
    _block(d, block)
    _steps(d, out, "**Out**", "policy", "1.1.3", OUTPUTS)
    d.arrow((into.x1, into.cy), (block.x - 2, block.cy))
    d.arrow((block.x1, block.cy), (out.x - 2, out.cy), role="policy")
    below = out.y1 + 32
    d.arrow((out.cx, out.y1), (out.cx, below), (into.cx, below), (into.cx, into.y1 + 2), role="chosen")
    d.text(
        block.cx,
        below + 8,
        "the token is appended, and the model reads on",
        size=d.small,
        color="muted",
        anchor="middle",
    )
    pictures = d.box(into.x, below + 18, 270, [Line("**pictures** 1.1.4", d.small)], h=40, role="value", pad=4)
    d.text(
        pictures.x1 + 14,
        pictures.cy + 8,
        "patches become vectors among those of the tokens",
        size=d.small,
        color="muted",
    )
    rest = Rect(into.x, pictures.y1 + 34, 1020, 128)
    _rest(d, rest)
    d.height = rest.y1 + 16
    return d


def _narrow(d: Diagram) -> Diagram:
    left, wide = 26.0, 326.0
    into = Rect(left, 8, wide, 104)
    _across(d, into, "**In** 1.1.2", "prompt", "", INPUTS)
    block = Rect(left, into.y1 + 24, wide, 250)
    _block(d, block)
    d.arrow(into.bottom, (block.cx, block.y - 2))
    out = Rect(left, block.y1 + 24, wide, 104)
    _across(d, out, "**Out** 1.1.3", "policy", "", OUTPUTS)
    d.arrow(block.bottom, (out.cx, out.y - 2), role="policy")
    rail = 9.0
    d.arrow((out.x, out.cy), (rail, out.cy), (rail, into.cy), (into.x - 2, into.cy), role="chosen")
    d.text(left, out.y1 + 6, "← the token is appended, and it reads on", size=d.small, color="muted")
    d.text(left, out.y1 + 26, "**pictures** 1.1.4 enter as vectors", size=d.small, color="value")
    rest = Rect(left, out.y1 + 54, wide, 236)
    _rest(d, rest)
    d.height = rest.y1 + 12
    return d
