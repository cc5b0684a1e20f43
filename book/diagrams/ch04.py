"""Chapter 4's panorama: what can be changed around a model whose weights stay as they are."""

from __future__ import annotations

from diagrams.kit import Diagram, Line, Rect, sheet

CONTEXT = [
    ("instruction, examples", "4.1", "prompt"),
    ("passages found", "4.4", "reference"),
    ("tools and their results", "4.5", "value"),
    ("What is 17 + 25?", "", "prompt"),
]
"""What stands in the context window: its name, its section, its role."""

CHOICE = [
    ("mask", "what a grammar forbids: −∞"),
    ("reshape", "penalties, temperature"),
    ("truncate", "top-k, top-p, min-p, typical"),
    ("choose", "argmax, draw, or beam"),
]
"""From logits to one token, in the order of their application."""

OUTCOMES = [
    ("Thoughts", "4.2", "N chains of steps: vote over their answers, or search", "policy"),
    ("Sources", "4.4", "an answer that cites its passages, or none", "reference"),
    ("Calls", "4.5", "JSON: checked, run, and its result read", "value"),
]
"""What the text is used for."""


def panorama(narrow: bool = False) -> Diagram:
    """The whole chapter: context in, frozen model, choice of each token, use of the text, and the ways back."""
    d = sheet(
        "ch04.panorama",
        "Better results without training: three places to act on, one frozen model",
        "A context window holds instruction and examples, passages found, tools and their results, and the "
        "question What is 17 + 25. Its B rows of T tokens go into a model whose weights stay frozen, which gives "
        "logits of shape (B, V). Each next token is chosen in four steps: a grammar masks what it forbids, "
        "penalties and temperature reshape, top-k, top-p, min-p or typical sampling truncate, and argmax, a draw "
        "or a beam chooses. The token is appended and the model reads on. The finished text is used in three "
        "ways: as thoughts, N chains over which one votes or searches; as an answer with sources; as a call that "
        "is checked and run. Results of calls and the thoughts kept go back into the context.",
        narrow,
    )
    return _narrow(d) if narrow else _wide(d)


def _context(d: Diagram, lane: Rect) -> None:
    inner = d.lane(lane, "**Into the context**", "prompt")
    each, gap = (inner.h - 3 * _gap(d)) / 4, _gap(d)
    for index, (name, section, role) in enumerate(CONTEXT):
        lines = [Line(name, d.small)] + ([Line(section, d.small, "muted")] if section else [])
        d.box(inner.x, inner.y + index * (each + gap), inner.w, lines, h=each, role=role, pad=4)


def _gap(d: Diagram) -> float:
    return 8.0 if d.narrow else 12.0


def _choice(d: Diagram, lane: Rect) -> None:
    inner = d.lane(lane, "**Choosing a token**", "chosen", note="section 4.3")
    gap = 16.0 if d.narrow else 22.0
    each = (inner.h - 3 * gap) / 4
    last: Rect | None = None
    for index, (name, how) in enumerate(CHOICE):
        lines = [Line(f"**{name}**", d.small), Line(how, d.small, "muted")]
        box = d.box(inner.x, inner.y + index * (each + gap), inner.w, lines, h=each, role="chosen", pad=4)
        if last:
            d.arrow(last.bottom, (box.cx, box.y - 2), role="chosen")
        last = box


def _outcomes(d: Diagram, lane: Rect) -> None:
    inner = d.lane(lane, "**What becomes of the text**", "muted")
    gap = _gap(d) if d.narrow else 24.0
    for index, (name, section, what, role) in enumerate(OUTCOMES):
        lines = [Line(f"**{name}** {section}", d.size), Line(what, d.small, "muted", 4)]
        if d.narrow:
            each = (inner.h - 2 * gap) / 3
            d.box(inner.x, inner.y + index * (each + gap), inner.w, lines, h=each, role=role, pad=5)
        else:
            each = (inner.w - 2 * gap) / 3
            d.box(inner.x + index * (each + gap), inner.y, each, lines, h=inner.h, role=role, pad=8)


def _wide(d: Diagram) -> Diagram:
    context = Rect(60, 16, 290, 430)
    model = Rect(404, 16, 256, 430)
    choice = Rect(714, 16, 346, 430)
    _context(d, context)
    inner = d.lane(model, "**The model**", "policy", note="weights frozen")
    first = d.tensor(inner.x, inner.y + 26, "tokens", "(B, T)", dims=2, role="prompt")
    box = d.box(
        inner.x, first.y1 + 42, inner.w, ["layers", Line("and their KV cache", d.small, "muted")], role="policy"
    )
    second = d.tensor(inner.x, box.y1 + 44, "logits", "(B, V)", dims=2, role="policy")
    d.arrow((first.cx, first.y1 + 4), (first.cx, box.y - 2), role="policy")
    d.arrow((second.cx, box.y1), (second.cx, second.y - 4), role="policy")
    _choice(d, choice)
    y = context.y + 46
    d.arrow((context.x1, y), (model.x - 2, y))
    d.arrow((model.x1, second.cy), (choice.x - 2, second.cy), role="policy")
    below = choice.y1 + 36
    d.arrow((choice.cx, choice.y1), (choice.cx, below), (model.cx, below), (model.cx, model.y1 + 2), role="chosen")
    d.text(
        (model.cx + choice.x) / 2 + 66,
        below + 8,
        "the token is appended: T + 1",
        size=d.small,
        color="muted",
        anchor="middle",
    )
    outcomes = Rect(60, below + 66, 1000, 178)
    d.arrow((choice.x1 - 40, choice.y1), (choice.x1 - 40, outcomes.y - 2))
    d.text(choice.x1 - 56, below + 34, "at the end", size=d.small, color="muted", anchor="end")
    _outcomes(d, outcomes)
    rail = 28.0
    d.arrow(
        (outcomes.x, outcomes.cy), (rail, outcomes.cy), (rail, context.cy), (context.x - 2, context.cy), role="value"
    )
    d.text(context.x, below + 22, "results and thoughts go back", size=d.small, color="value")
    d.height = outcomes.y1 + 16
    return d


def _narrow(d: Diagram) -> Diagram:
    left, wide = 26.0, 326.0
    context = Rect(left, 8, wide, 218)
    _context(d, context)
    model = Rect(left, context.y1 + 26, wide, 126)
    inner = d.lane(model, "**The model**, weights frozen", "policy")
    first = d.tensor(inner.x, inner.y + 6, "tokens", "(B, T)", dims=2, role="prompt")
    second = d.tensor(inner.x + 186, inner.y + 6, "logits", "(B, V)", dims=2, role="policy")
    d.arrow((inner.x + 110, first.cy), (second.x - 8, first.cy), role="policy")
    d.text(inner.x, first.y1 + 8, "layers and their KV cache in between", size=d.small, color="muted")
    choice = Rect(left, model.y1 + 26, wide, 298)
    d.arrow(context.bottom, (context.cx, model.y - 2))
    d.arrow((second.cx, model.y1), (second.cx, choice.y - 2), role="policy")
    _choice(d, choice)
    far = 10.0
    d.arrow((choice.x, choice.cy), (far, choice.cy), (far, model.cy), (model.x - 2, model.cy), role="chosen")
    d.text(left, model.y1 + 5, "the token is appended", size=d.small, color="muted")
    outcomes = Rect(left, choice.y1 + 26, wide, 250)
    d.arrow(choice.bottom, (choice.cx, outcomes.y - 2))
    d.text(choice.cx + 12, choice.y1 + 4, "at the end", size=d.small, color="muted")
    _outcomes(d, outcomes)
    d.arrow(
        (outcomes.x, outcomes.cy),
        (far - 5, outcomes.cy),
        (far - 5, context.cy),
        (context.x - 2, context.cy),
        role="value",
    )
    d.text(left, outcomes.y1 + 8, "← results and thoughts go back into the context", size=d.small, color="value")
    d.height = outcomes.y1 + 34
    return d
