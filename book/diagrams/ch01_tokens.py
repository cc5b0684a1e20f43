"""Diagrams of sections 1.1.2 and 1.1.3: from text to vectors, merges by hand, from the last vector to probabilities.

Tokens, ids, logits and probabilities are SmolLM2's; tests recompute them, and the merges of the small text.
"""

from __future__ import annotations

import drawsvg as draw

from diagrams.kit import ASCENT, DESCENT, FONTS, Diagram, Line, Placed, Rect, Run, color, measure, sheet

TEXT = "What is 17 + 25?"
PIECES = [
    ("What", 1),
    ("·is", 1),
    ("·", 1),
    ("1", 1),
    ("7", 1),
    ("·+", 1),
    ("·", 1),
    ("2", 1),
    ("5", 1),
    ("?", 1),
]
"""The pieces that SmolLM2 cuts the text into, digits first, and how many tokens each becomes; the dot is a space."""

TOKENS = ["What", "·is", "·", "1", "7", "·+", "·", "2", "5", "?"]
IDS = [1780, 314, 216, 33, 39, 1232, 216, 34, 37, 47]

SMALL_TEXT = "are you there? where are you? were you here?"
WORDS = ["are", "·where", "·here"]
MERGES = [
    ("r", "e", 6),
    ("e", "re", 4),
    ("h", "ere", 3),
    ("o", "u", 3),
    ("y", "ou", 3),
    ("·", "you", 3),
    ("a", "re", 2),
]
"""The first seven merges of the small text, and how often their pair occurs when it is joined."""

SHOWN = (0, 1, 3, 7)
"""After how many merges the diagram shows the words."""

TOP = [("1", 34.30, 43.5), ("To", 33.51, 19.8), ("This", 32.19, 5.3)]
"""After the chat prompt of TEXT: the likeliest tokens, their logits and their probabilities in percent."""

NORM, ROW, COSINE = 55.09, 2.605, 0.2389
"""The length of the last vector, of the row of the likeliest token, and the cosine between the two."""


def states(words: list[str], merges: int) -> list[list[str]]:
    """The words after so many of MERGES, as symbols."""
    symbols = [list(word) for word in words]
    for left, right, _ in MERGES[:merges]:
        for word in symbols:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == (left, right):
                    word[i : i + 2] = [left + right]
                i += 1
    return symbols


def _cells(d: Diagram, cells: list[tuple[Rect, str, str]]) -> None:
    """Cells (where, text, role) of fixed-width text: one path for each role and one group of texts, to be light."""
    for role in dict.fromkeys(role for _, _, role in cells):
        path = draw.Path(fill=color(f"{role}-soft"), stroke=color(role), stroke_width=round(d.stroke * 0.7, 2))
        for rect, _, its in cells:
            if its == role:
                path.M(round(rect.x, 1), round(rect.y, 1)).h(round(rect.w, 1)).v(round(rect.h, 1)).h(
                    -round(rect.w, 1)
                ).Z()
        d._elements.append(path)
    group = draw.Group(font_family=FONTS["mono"], font_size=d.small, text_anchor="middle")
    for rect, text, _ in cells:
        top, wide = rect.cy - d.small * (ASCENT + DESCENT) / 2, measure([Run(text, "mono", 0)], d.small)
        d.boxes.append(rect)
        d.texts.append(Placed(text, Rect(rect.cx - wide / 2, top, wide, d.small), d.small, rect))
        group.append(draw.Text(text, None, round(rect.cx, 1), round(top + d.small * ASCENT, 1)))
    d._elements.append(group)


# -- text to vectors ---------------------------------------------------------------------------------------------------


def input_layer(narrow: bool = False) -> Diagram:
    """Text, pieces, tokens, ids, rows of the embedding matrix."""
    d = sheet(
        "ch01_tokens.input_layer",
        "The input layer: text, pieces, tokens, ids, vectors",
        f"The text {TEXT} is cut into ten pieces: What, space is, space, 1, 7, space +, space, 2, 5, question mark. "
        "Each digit is one, and so is the space before a number. Merges make one token of each. Their ids are "
        f"{', '.join(map(str, IDS))}. Each id picks a row of the embedding matrix E of shape 49,152 by 576, and "
        "the ten rows are stacked to a matrix of shape 10 by 576.",
        narrow,
    )
    left, width = (2.0, 356.0) if narrow else (170.0, 890.0)
    air = 0.5 if narrow else 1.5
    column = width / len(TOKENS)
    high = d.small * 1.75
    gap = d.small * (2.1 if narrow else 1.5)
    y = 30.0 if narrow else 14.0

    def label(text: str, top: float) -> None:
        if narrow:
            d.text(8, top - d.small * 1.35, text, size=d.small, color="muted")
        else:
            d.text(20, top + (high - d.small) / 2, text, size=d.small, color="muted")

    label("text", y)
    cells = [(Rect(left, y, width, high), TEXT.replace(" ", "·"), "reference")]
    y += high + gap
    label("pieces", y)
    at = left
    for piece, tokens in PIECES:
        cells.append((Rect(at + air, y, column * tokens - 2 * air, high), piece, "prompt"))
        at += column * tokens
    y += high + gap
    label("tokens", y)
    for k, token in enumerate(TOKENS):
        cells.append((Rect(left + column * k + air, y, column - 2 * air, high), token, "policy"))
    y += high + gap
    label("token ids, $(T,)$", y)
    for k, number in enumerate(IDS):
        cells.append((Rect(left + column * k + air, y, column - 2 * air, high), str(number), "value"))
    _cells(d, cells)
    last = y + high
    y = last + (30.0 if narrow else 44.0)
    if narrow:
        matrix = d.tensor(20, y, "embedding E", "(V, d) = (49152, 576)", dims=2, role="value", width=330)
        d.arrow((34, last + 2), (34, matrix.y - 2), role="policy")
        y = matrix.y1 + 42
        d.text(48, matrix.y1 + 12, "one row for each id", size=d.small, color="muted")
        stacked = d.tensor(20, y, "vectors x", "(T, d) = (10, 576)", dims=2, role="policy", width=330)
        d.arrow((34, matrix.y1 + 2), (34, stacked.y - 2), role="value")
        d.height = stacked.y1 + 12
        return d
    matrix = d.tensor(190, y, "embedding E", "(V, d) = (49152, 576)", dims=2, role="value", width=330)
    d.arrow((212, last + 2), (212, matrix.y - 2), role="policy")
    stacked = d.tensor(740, y, "vectors x", "(T, d) = (10, 576)", dims=2, role="policy", width=320)
    d.arrow((545, matrix.cy), (730, matrix.cy), role="value")
    d.text(637, matrix.cy - d.small * 1.5, "row of each id", size=d.small, color="muted", anchor="middle")
    d.height = max(matrix.y1, stacked.y1) + 14
    return d


# -- merges by hand ----------------------------------------------------------------------------------------------------


def merging(narrow: bool = False) -> Diagram:
    """Three words of the small text after some merges."""
    told = "; ".join(f"{left} and {right}, which stand side by side {n} times" for left, right, n in MERGES[:3])
    d = sheet(
        "ch01_tokens.merging",
        "Merges by hand: three words after 0, 1, 3 and 7 merges",
        f"The text is: {SMALL_TEXT} The first merges join {told}. After one merge are is a, re; after two where is "
        "space, w, h, ere; after three here is a token. After seven, are is one as well.",
        narrow,
    )
    y, size = 12.0, d.small
    letter, pad, gap = size * 0.61, (3.5 if narrow else 6.0), (3.0 if narrow else 5.0)
    cells = []
    for count in SHOWN:
        left, right, times = MERGES[count - 1] if count else ("", "", 0)
        told = f"merge {count}: {left} + {right}, {times} times" if count else "bytes"
        d.text(8 if narrow else 20, y + (0 if narrow else size * 0.3), told, size=size, color="muted")
        y += size * 1.5 if narrow else 0
        x = 8.0 if narrow else 370.0
        for word in states(WORDS, count):
            for symbol in word:
                rect = Rect(x, y, len(symbol) * letter + 2 * pad, size * 1.55)
                cells.append((rect, symbol, "chosen" if count and symbol == left + right else "prompt"))
                x = rect.x1 + gap
            x += 11 if narrow else 35
        y += size * 1.55 + (14 if narrow else 16)
    _cells(d, cells)
    d.height = y - 2
    return d


# -- the last vector to probabilities ----------------------------------------------------------------------------------


def output_layer(narrow: bool = False) -> Diagram:
    """One vector, one product with the whole matrix, a softmax."""
    shown = "; ".join(f"{token} has the logit {z:.2f} and {p:.1f} percent" for token, z, p in TOP)
    d = sheet(
        "ch01_tokens.output_layer",
        "The output layer: one dot product for each token, then softmax",
        "The last vector h of 576 numbers is multiplied with the embedding matrix E of shape 49,152 by 576. Each logit "
        f"is a dot product of h with a row of E. For {TEXT} {shown}. The logit of the first is the product of the "
        f"length of h, {NORM}, the length of its row, {ROW}, and the cosine of the angle between them, {COSINE}. "
        "Softmax turns logits into probabilities; a decoding rule takes one token.",
        narrow,
    )
    high = d.small * 1.8
    if narrow:
        h = d.tensor(20, 10, "last vector h", "(d,) = (576,)", dims=1, role="policy", width=330)
        matrix = d.tensor(20, h.y1 + 34, "the same matrix E", "(V, d)", dims=2, role="value", width=330)
        d.arrow((34, h.y1 + 2), (34, matrix.y - 2), role="policy")
        top = matrix.y1 + 36
        d.arrow((34, matrix.y1 + 2), (34, top - 8), role="value")
        x0, widths = 8.0, (90.0, 116.0, 130.0)
    else:
        h = d.tensor(20, 60, "last vector h", "(d,) = (576,)", dims=1, role="policy", width=230)
        matrix = d.tensor(285, 60, "the same matrix E", "(V, d)", dims=2, role="value", width=290)
        d.arrow((232, h.cy), (matrix.x - 8, h.cy), role="policy")
        x0, widths = 640.0, (100.0, 140.0, 160.0)
        top = 14.0
        d.arrow((575, h.cy), (x0 - 12, h.cy), role="value")
    x = x0
    for name, w in zip(("token", "logit $z_v = h·E_v$" if narrow else "$z_v = h·E_v$", "softmax"), widths, strict=True):
        d.text(x + w / 2, top, name, size=d.small, color="muted", anchor="middle")
        x += w + 4
    y = top + d.small * 1.6
    for token, z, p in [*TOP, ("…", None, None)]:
        x = x0
        cells = (token, "49,149 more" if z is None else f"{z:.2f}", "…" if p is None else f"{p:.1f}%")
        for k, (text, w) in enumerate(zip(cells, widths, strict=True)):
            role = ("prompt", "policy", "chosen")[k]
            d.cell(Rect(x, y, w, high), text, role if z is not None else None, mono=k == 0)
            x += w + 4
        y += high + 5
    told = Line(f"{TOP[0][1]:.2f} ≈ {NORM} · {ROW} · {COSINE}", d.small)
    meant = Line(f"length of $h$, length of the row of “{TOP[0][0]}”, their cosine", d.small, "muted")
    left, top, wide = (12, y + 10, 336) if narrow else (40, max(h.y1, matrix.y1) + 26, 520)
    note = d.note(left, top, wide, [told, meant], role="value")
    d.height = max(note.y1, y) + 12
    return d
