"""Diagrams of section 1.1.4 and of the topic on CLIP and picture tokens: patches among words, two towers, codes.

Sizes are those of the lab's models; the numbers of the worked examples follow from the constants here.
"""

from __future__ import annotations

import math

from diagrams.kit import Diagram, Line, Rect, sheet

PATCHES, PATCH_NUMBERS, ENCODER_WIDTH, WIDTH, TABLE = 16, 108, 64, 96, 30
"""The lab's vision-language model: 24 x 24 pixels in patches of 6, an encoder of width 64, a
decoder of width 96 with a table of 30 tokens."""

COSINES = ((0.8, 0.3), (0.1, 0.6))
"""The worked example of CLIP's loss: a picture in each row, a text in each column."""
SCALE = 5.0

CLASSES = (("a red circle", 0.7), ("a red square", 0.4), ("a blue cross", 0.1))
"""The worked example of zero-shot classification: cosines of one picture with three texts."""

CODES = {3: (1.0, 0.0), 8: (0.0, 1.0), 21: (0.0, 0.0)}
VECTOR = (0.8, 0.3)
"""The worked example of vector quantization: three codes by their index, and the vector that is looked up."""

CODE_TOKENS = 9


def pair_losses() -> tuple[list[float], list[float]]:
    """The worked example's cross-entropies in nats: of each picture over the texts, of each text over the pictures."""

    def loss(scores: list[float], own: int) -> float:
        return math.log(sum(math.exp(SCALE * (score - scores[own])) for score in scores))

    rows = [loss(list(row), i) for i, row in enumerate(COSINES)]
    return rows, [loss([row[j] for row in COSINES], j) for j in range(len(COSINES))]


def class_probabilities() -> list[float]:
    """Softmax of the scaled cosines of the zero-shot example."""
    weights = [math.exp(SCALE * cosine) for _, cosine in CLASSES]
    return [weight / sum(weights) for weight in weights]


def distances() -> dict[int, float]:
    """Squared distances of the example's vector to the codes."""
    return {index: sum((a - b) ** 2 for a, b in zip(VECTOR, code, strict=True)) for index, code in CODES.items()}


def _picture(d: Diagram, x: float, y: float, side: float, things: str = "dot square", cells: int = 4) -> Rect:
    """A little picture under a grid of patches: a red disc at the upper left, a blue square at the lower right."""
    frame = Rect(x, y, side, side)
    d.boxes.append(frame)
    d.rect(frame, "reference", fill="code", radius=2)
    unit = side / 24
    if "dot" in things:
        disc = Rect(x + 2 * unit, y + 2 * unit, 6 * unit, 6 * unit)
        d.rect(disc, "rejected", fill="rejected", radius=3 * unit)
    if "square" in things:
        d.rect(Rect(x + 17 * unit, y + 16.5 * unit, 6 * unit, 6 * unit), "policy", fill="policy", radius=1)
    for k in range(1, cells):
        at = k * side / cells
        d.line((x + at, y), (x + at, y + side), role="reference", stroke=d.stroke * 0.4)
        d.line((x, y + at), (x + side, y + at), role="reference", stroke=d.stroke * 0.4)
    return frame


# -- a vision-language model ------------------------------------------------------------------------------------

ROW = (
    ("1", "value"), ("2", "value"), ("3", "value"), ("4", "value"), ("…", "value"), (str(PATCHES), "value"),
    ("describe", "reference"), ("a", "policy"), ("red", "policy"), ("circle", "policy"), ("…", "policy"),
    ("end", "policy"),
)  # fmt: skip


def vlm(narrow: bool = False) -> Diagram:
    """A picture's way into a decoder: patches, encoder, projector, places in the row."""
    d = sheet(
        "ch01_vision.vlm",
        "A vision-language model: patches take places in the row",
        f"A picture is cut into {PATCHES} patches. The image encoder lets them read each other and gives {PATCHES} "
        f"vectors of width {ENCODER_WIDTH}; the projector maps them to width {WIDTH}. In the row they "
        "stand before the word describe. The decoder reads the row as any other and "
        "writes the answer, a red circle and so on. Only the answer's tokens are trained on.",
        narrow,
    )
    small = d.small
    encoder = [
        Line("**Image encoder**", None, "value"),
        Line("patches read each other", small, "muted", 3),
        Line(f"`(B, {PATCHES}, {ENCODER_WIDTH})`", small, "muted", 3),
    ]
    projector = [
        Line("**Projector**", None, "value"),
        Line("to the decoder’s width", small, "muted", 3),
        Line(f"`(B, {PATCHES}, {WIDTH})`", small, "muted", 3),
    ]
    table = [
        Line("**Table of tokens**"),
        Line("a row for each word", small, "muted", 3),
        Line(f"`({TABLE}, {WIDTH})`", small, "muted", 3),
    ]
    decoder = [Line("**Decoder**, as for any text", None, "policy"), Line(f"`(B, T, {WIDTH})`", small, "muted", 3)]
    if narrow:
        picture = _picture(d, 8, 8, 96)
        first = d.box(140, 8, 212, encoder, role="value", h=96)
        d.arrow(picture.right, (first.x - 1, first.cy))
        second = d.box(8, 136, 164, projector, role="value", h=96)
        words = d.box(188, 136, 164, table, role="reference", h=96)
        d.arrow((160, first.y1 + 1), (160, second.y - 1))
        cells = d.tokens(8, 268, 344, ROW)
        d.arrow((second.x + 60, second.y1 + 1), (second.x + 60, cells[0].y - 2))
        d.arrow((words.cx, words.y1 + 1), (words.cx, cells[0].y - 2))
        bottom = max(cell.y1 for cell in cells)
        box = d.box(8, bottom + 32, 344, decoder, role="policy", h=62)
        d.arrow((180, bottom + 2), (180, box.y - 1))
        end = d.legend(
            8, box.y1 + 14, 344,
            [("value", "from the picture"), ("reference", "from the table"), ("policy", "answer: trained on")],
        )  # fmt: skip
        d.height = end.y1 + 10
        return d
    picture = _picture(d, 20, 20, 132)
    first = d.box(220, 20, 280, encoder, role="value", h=132)
    second = d.box(560, 20, 250, projector, role="value", h=132)
    words = d.box(850, 20, 210, table, role="reference", h=132)
    d.arrow(picture.right, (first.x - 2, first.cy))
    d.arrow(first.right, (second.x - 2, second.cy))
    cells = d.tokens(20, 226, 1040, ROW, gap=12, pad=20)
    d.arrow((second.cx, second.y1 + 1), (second.cx, 188), (cells[3].cx, 188), (cells[3].cx, cells[3].y - 2))
    d.arrow((words.cx, words.y1 + 1), (words.cx, 206), (cells[6].cx, 206), (cells[6].cx, cells[6].y - 2))
    box = d.box(20, 304, 1040, decoder, role="policy", h=82)
    d.arrow((540, cells[0].y1 + 2), (540, box.y - 2))
    end = d.legend(
        20, box.y1 + 20, 1040,
        [("value", "from the picture"), ("reference", "from the table"), ("policy", "the answer: alone trained on")],
    )  # fmt: skip
    d.height = end.y1 + 14
    return d


# -- three ways in ----------------------------------------------------------------------------------------------

WAYS = (
    ("Projected patches", "LLaVA, Qwen2-VL", "value", "Patch vectors stand in the row among the words’.",
     "encoder, projector",
     (("p1", "value"), ("p2", "value"), ("p3", "value"), ("what", "reference"), ("is", "reference"))),
    ("Cross-attention", "Flamingo", "kl", "New layers between the old ones read them.",
     "encoder, resampler, layers", (("what", "reference"), ("is", "reference"), ("this", "reference"))),
    ("Picture tokens", "DALL-E, Chameleon", "prompt", "Codes are ids as words are, so they can be written.",
     "codebook, vocabulary",
     (("a", "reference"), ("dot", "reference"), ("c3", "prompt"), ("c3", "prompt"), ("c21", "prompt"))),
)  # fmt: skip
"""Name, examples, colour, how it works, what it adds, a row."""


def ways(narrow: bool = False) -> Diagram:
    """Three ways of a picture into a language model."""
    d = sheet(
        "ch01_vision.ways",
        "Three ways of a picture into a language model",
        " ".join(f"{way[0]}, as in {way[1]}: {way[3]} It adds: {way[4]}." for way in WAYS)
        + " The first two read pictures; the third reads and draws them.",
        narrow,
    )
    small = d.small
    wide, y = 344.0 if narrow else 333.0, 8.0
    for k, (name, who, role, how, adds, row) in enumerate(WAYS):
        tall = 158.0 if role == "kl" else 126.0
        frame = Rect(8, y, wide, tall) if narrow else Rect(20 + k * 353, 12, wide, 296)
        y = frame.y1 + 10
        inside = d.lane(frame, f"**{name}**", role, note=who)
        cells = d.tokens(inside.x, inside.y + 4, inside.w, row)
        at = cells[0].y1
        if role == "kl":
            drop = 20 if narrow else 30
            below = d.tokens(inside.x, at + drop, inside.w, (("p1", "kl"), ("p2", "kl"), ("…", "kl"), ("p64", "kl")))
            d.arrow((below[1].cx, below[1].y - 1), (below[1].cx, at + 2), role="kl")
            at = below[0].y1
        else:
            at += 20 if not narrow else 8
        used = d.text(inside.x, at + (10 if narrow else 16), how, size=small, width=inside.w)
        d.text(inside.x, used.y1 + (6 if narrow else 12), f"Adds: {adds}", size=small, color="muted", width=inside.w)
    d.height = frame.y1 + 12
    return d


# -- CLIP -------------------------------------------------------------------------------------------------------


def clip(narrow: bool = False) -> Diagram:
    """CLIP's training on a batch of two pairs, and its use as a classifier."""
    rows, columns = pair_losses()
    shares = class_probabilities()
    d = sheet(
        "ch01_vision.clip",
        "CLIP: find the text that belongs",
        f"Training: two pictures and two texts are encoded; a table holds the cosine of each combination, {COSINES}. "
        f"The diagonal belongs together. With scale {SCALE:g} the pictures' losses are {rows[0]:.3f} and "
        f"{rows[1]:.3f} nats, the texts' {columns[0]:.3f} and {columns[1]:.3f}. Use: a picture against three classes; "
        f"cosines 0.7, 0.4 and 0.1 become probabilities {', '.join(f'{share:.2f}' for share in shares)}.",
        narrow,
    )
    small = d.small
    cell = Rect(0, 0, 74, 36) if narrow else Rect(0, 0, 104, 54)

    def table(x: float, y: float) -> float:
        """The cosines, with the losses at both edges."""
        for j, name in enumerate(("text 1", "text 2")):
            d.text(x + (j + 0.5) * cell.w, y, name, size=small, color="policy", anchor="middle")
        top = y + small * 1.5
        for i, row in enumerate(COSINES):
            at = top + i * cell.h
            d.text(x - 8, at + cell.h / 2 - small / 2, f"picture {i + 1}", size=small, color="value", anchor="end")
            for j, cosine in enumerate(row):
                role = "chosen" if i == j else "reference"
                d.cell(Rect(x + j * cell.w + 2, at + 2, cell.w - 4, cell.h - 4), f"{cosine:g}", role)
            d.text(x + 2 * cell.w + 8, at + cell.h / 2 - small / 2, f"{rows[i]:.3f}", size=small, color="muted")
        low = top + 2 * cell.h + 5
        for j in range(2):
            d.text(x + (j + 0.5) * cell.w, low, f"{columns[j]:.3f}", size=small, color="muted", anchor="middle")
        return low + small

    def classes(x: float, y: float, width: float) -> float:
        """One bar for each class."""
        for (name, cosine), share in zip(CLASSES, shares, strict=True):
            used = d.text(x, y, name, size=small)
            d.text(x + width, y, f"{cosine:g} → {share:.2f}", size=small, color="muted", anchor="end")
            bar = Rect(x, used.y1 + 4, max(width * share, 4), 10 if narrow else 14)
            d.rect(bar, "chosen" if share == max(shares) else "reference", radius=2)
            y = bar.y1 + (12 if narrow else 18)
        return y

    if narrow:
        head = d.text(8, 8, "**Training:** which text belongs to which picture?", width=344)
        low = table(96, head.y1 + 10)
        note = d.note(8, low + 10, 344, [f"cosines; at the edges the losses in nats, scale {SCALE:g}"])
        head = d.text(8, note.y1 + 18, "**Use:** name the classes", width=344)
        _picture(d, 8, head.y1 + 12, 88, "dot", 1)
        end = classes(116, head.y1 + 12, 236)
        d.height = end + 4
        return d
    d.text(20, 14, "**Training:** which text belongs to which picture?")
    pictures = d.box(
        20, 74, 130, [Line("pictures", small), Line("`(B,3,H,W)`", small, "muted", 2)], role="value", h=92, pad=4
    )
    texts = d.box(20, 202, 130, [Line("texts", small), Line("`(B, T)`", small, "muted", 2)], role="policy", h=92, pad=4)
    one = d.box(186, 74, 112, [Line("image encoder", small)], role="value", h=92)
    two = d.box(186, 202, 112, [Line("text encoder", small)], role="policy", h=92)
    d.arrow(pictures.right, (one.x - 2, one.cy))
    d.arrow(texts.right, (two.x - 2, two.cy))
    d.arrow(one.right, (322, one.cy))
    d.arrow(two.right, (322, two.cy))
    low = table(422, 96)
    d.note(340, low + 22, 380, [f"cosines; at the edges the losses in nats, scale {SCALE:g}"])
    d.text(742, 14, "**Use:** name the classes")
    _picture(d, 742, 62, 80, "dot", 1)
    classes(840, 58, 224)
    d.height = 352
    return d


# -- picture tokens ---------------------------------------------------------------------------------------------

FUSED = (
    ("a", "policy"), ("red", "policy"), ("circle", "policy"), ("…", "policy"), ("begin", "reference"),
    ("c3", "prompt"), ("c3", "prompt"), ("c21", "prompt"), ("…", "prompt"), ("c8", "prompt"), ("end", "reference"),
)  # fmt: skip


def tokens(narrow: bool = False) -> Diagram:
    """A patch becomes an id, and a row of words and codes is predicted token by token."""
    found = distances()
    winner = min(found, key=lambda index: found[index])
    d = sheet(
        "ch01_vision.tokens",
        "Pictures as tokens: one row, one vocabulary, one loss",
        f"A patch becomes a vector, {VECTOR}. Of the codes in the codebook the nearest is chosen: squared distances "
        f"{', '.join(f'{value:.2f} to code {index}' for index, value in found.items())}; so its token is c{winner}. "
        f"A row holds the caption's words, begin, the picture's {CODE_TOKENS} codes and end; the decoder predicts each "
        "next token. After the words it draws; if the picture stands first, it describes.",
        narrow,
    )
    small = d.small
    lines = [Line("**Codebook**", None, "prompt")]
    for index, code in CODES.items():
        mark = "**" if index == winner else ""
        numbers = f"({code[0]:g}, {code[1]:g})"
        lines.append(
            Line(f"{mark}c{index}{mark} = {numbers}: {found[index]:.2f}", small, "ink" if mark else "muted", 3)
        )
    vector = f"({VECTOR[0]:g}, {VECTOR[1]:g})"
    decoder = [
        Line("**Decoder:** the next token, word or code", None, "policy"),
        Line("`(B, T, V)`", small, "muted", 3),
    ]
    if narrow:
        picture = _picture(d, 8, 20, 90, cells=3)
        patch = d.box(124, 26, 100, [Line("patch", small), Line(vector, small, "muted", 2)], role="value", h=78, pad=4)
        d.arrow(picture.right, (patch.x - 1, patch.cy))
        book = d.box(8, 132, 216, lines, role="prompt")
        d.arrow((patch.cx, patch.y1 + 1), (patch.cx, book.y - 1))
        chosen = d.box(252, 150, 100, [Line(f"token c{winner}", small)], role="prompt", h=44)
        d.arrow((book.x1, chosen.cy), (chosen.x - 1, chosen.cy))
        cells = d.tokens(8, book.y1 + 34, 344, FUSED)
        low = book.y1 + 17
        d.arrow((302, chosen.y1 + 1), (302, low), (cells[5].cx, low), (cells[5].cx, cells[5].y - 2))
        bottom = max(cell.y1 for cell in cells)
        box = d.box(8, bottom + 28, 344, decoder, role="policy", h=62)
        d.arrow((180, bottom + 2), (180, box.y - 1))
        note = d.note(8, box.y1 + 12, 344, ["Words first: it draws. Picture first: it describes."], role="policy")
        d.height = note.y1 + 12
        return d
    picture = _picture(d, 20, 30, 132, cells=3)
    patch = d.box(214, 48, 150, [Line("one patch", small), Line(vector, small, "muted", 4)], role="value", h=96)
    book = d.box(426, 16, 320, lines, role="prompt", h=160)
    chosen = d.box(
        812, 48, 248, [Line(f"token c{winner}"), Line("the nearest code", small, "muted", 4)], role="prompt", h=96
    )
    d.arrow(picture.right, (patch.x - 2, patch.cy))
    d.arrow(patch.right, (book.x - 2, book.cy))
    d.arrow(book.right, (chosen.x - 2, chosen.cy))
    cells = d.tokens(20, 226, 1040, FUSED, gap=12, pad=24)
    d.arrow((chosen.cx, chosen.y1 + 1), (chosen.cx, 198), (cells[5].cx, 198), (cells[5].cx, cells[5].y - 2))
    box = d.box(20, 300, 1040, decoder, role="policy", h=82)
    d.arrow((540, cells[0].y1 + 2), (540, box.y - 2))
    note = d.note(
        20,
        box.y1 + 18,
        1040,
        ["Words first: it draws. Picture first: it describes. One model, one loss."],
        role="policy",
    )
    d.height = note.y1 + 16
    return d
