"""The hand that draws every diagram: boxes, routed arrows, tensors, token strips, lanes, braces, on `drawsvg`.

Knows palette, text widths and geometry; nothing about any chapter. Whatever is drawn is also remembered as geometry, so
that `Diagram.problems` can prove that no text overlaps, leaves its box or is crossed by an arrow.

Markup in texts: `**bold**`, `` `code` ``, `$math$`, `~` for a space that does not break. In math, one letter is an
italic variable, a longer word (log, ref) is upright; `_w`, `_{ref}`, `^2` are sub- and superscripts. Symbols are plain
Unicode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import drawsvg as draw

from alignlab import palette

WIDE, NARROW = 1080, 360
"""Widths of the two drawings in their own units."""

SHOWN_AT = {WIDE: 700, NARROW: 360}
"""The smallest width in px at which the book shows a drawing: its text is measured there."""

SMALLEST_TEXT = 12.0
"""The smallest size in px of a text as shown; sub- and superscripts are SCRIPT times as large."""

SCRIPT = 0.74
ASCENT, DESCENT, LEADING = 0.76, 0.24, 1.3

FONTS = {
    "sans": "var(--al-sans, system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif)",
    "serif": "var(--al-serif, Georgia, serif)",
    "mono": "var(--al-mono, monospace)",
}

_FACE_STYLE: dict[str, dict[str, Any]] = {
    "sans": {},
    "bold": {"font_weight": 600},
    "math": {"font_family": FONTS["serif"], "font_style": "italic"},
    "roman": {"font_family": FONTS["serif"]},
    "mono": {"font_family": FONTS["mono"]},
}

Face = Literal["sans", "bold", "math", "roman", "mono"]
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

_SPECIAL = "πβσθραγλκΔΣ∇−×·→←↑↓≈≤≥∈∞…’“”–—²⊤ℓ′½•✓°"


def _face(widths: str) -> dict[str, int]:
    """Widths of one face by character, in hundredths of the font size."""
    characters = [chr(code) for code in range(32, 127)] + list(_SPECIAL)
    return dict(zip(characters, map(int, widths.split()), strict=True))


# For each character the widest of the families that a page may show it in: the book's own (Instrument Sans, Source
# Serif 4) and the usual stand-ins (Inter, IBM Plex Sans, Arial's and Times' metrics; DejaVu for symbols), measured in a
# browser.
WIDTHS: dict[str, dict[str, int]] = {
    "sans": _face(
        "29 29 47 72 65 99 76 30 41 41 51 67 29 51 29 45 67 60 61 62 65 60 62 60 62 62 30 31 67 67 67 57 102 73 67 75 "
        "76 67 62 78 75 40 58 70 59 91 76 79 67 79 73 67 65 75 73 109 69 68 63 41 45 41 60 57 60 57 62 58 62 59 37 62 "
        "60 25 25 55 28 93 60 60 62 62 38 53 38 60 57 82 56 57 56 43 34 43 67 "
        "69 64 64 62 64 66 60 60 59 69 64 67 67 67 33 100 100 84 84 84 84 84 88 84 100 28 48 48 "
        "59 100 45 88 48 25 97 57 84 50",
    ),
    "bold": _face(
        "28 34 53 73 65 101 77 33 44 44 54 68 32 50 32 45 68 56 63 64 67 62 64 58 64 64 34 34 68 68 68 62 100 74 73 "
        "75 76 67 62 78 75 28 58 73 62 93 76 80 67 81 73 67 67 74 74 109 72 72 66 44 45 44 59 56 36 58 63 59 63 60 39 "
        "63 62 28 28 57 28 95 62 62 63 63 40 56 41 62 59 84 59 59 57 46 36 46 68 "
        "80 72 78 69 72 69 69 64 71 78 69 70 68 68 32 100 100 89 89 84 84 84 90 84 100 30 51 51 "
        "60 100 46 92 49 27 104 51 84 50",
    ),
    "math": _face(
        "25 34 46 58 53 93 78 26 39 39 50 68 30 34 30 34 54 54 54 54 54 54 54 54 54 54 34 34 68 68 68 50 92 69 63 67 "
        "73 62 62 73 78 37 45 69 59 94 75 73 62 73 65 51 60 73 66 92 67 60 57 39 34 39 54 52 40 56 53 45 56 45 33 52 "
        "58 32 28 50 30 87 60 53 55 52 43 39 36 60 52 78 57 52 50 40 29 40 55 "
        "64 57 57 53 55 59 51 53 53 62 60 70 68 68 30 100 100 66 66 84 84 84 74 84 89 34 56 56 "
        "52 89 38 94 42 25 93 35 84 50",
    ),
    "roman": _face(
        "25 34 41 53 52 94 78 19 37 37 50 57 31 34 31 35 53 53 53 53 53 53 53 53 53 53 31 31 57 57 57 45 93 73 67 67 "
        "74 64 62 73 82 38 39 73 62 94 77 74 63 74 69 56 64 76 73 101 73 73 62 34 35 34 54 52 40 55 62 52 62 54 37 56 "
        "65 33 31 60 33 96 65 58 63 61 46 47 36 63 58 84 57 59 49 48 29 48 55 "
        "63 61 61 53 60 61 54 57 57 65 59 70 57 57 31 100 100 68 68 84 84 84 74 84 100 34 45 45 "
        "52 100 39 94 48 25 94 35 84 50",
    ),
    "mono": dict.fromkeys([chr(code) for code in range(32, 127)] + list(_SPECIAL), 61),
}
UNKNOWN = 105
"""Width of a character that is in no table: wider than any Latin or CJK glyph."""


def color(key: str) -> str:
    """A palette colour as CSS: it follows the page's theme, and is the light one where there is no theme."""
    return f"var(--al-{key}, {palette.LIGHT[key]})"


class Rect(NamedTuple):
    """A rectangle in the drawing's units, y downwards."""

    x: float
    y: float
    w: float
    h: float

    @property
    def x1(self) -> float:
        return self.x + self.w

    @property
    def y1(self) -> float:
        return self.y + self.h

    @property
    def cx(self) -> float:
        return self.x + self.w / 2

    @property
    def cy(self) -> float:
        return self.y + self.h / 2

    @property
    def top(self) -> Point:
        return self.cx, self.y

    @property
    def bottom(self) -> Point:
        return self.cx, self.y1

    @property
    def left(self) -> Point:
        return self.x, self.cy

    @property
    def right(self) -> Point:
        return self.x1, self.cy

    def grown(self, by: float) -> Rect:
        """The rectangle with every side moved outwards (inwards where negative)."""
        return Rect(self.x - by, self.y - by, self.w + 2 * by, self.h + 2 * by)

    def holds(self, other: Rect) -> bool:
        return self.x <= other.x and self.y <= other.y and other.x1 <= self.x1 and other.y1 <= self.y1

    def meets(self, other: Rect) -> bool:
        return self.x < other.x1 and other.x < self.x1 and self.y < other.y1 and other.y < self.y1


class Run(NamedTuple):
    """Characters of one face; shift is 1 for a superscript, -1 for a subscript, 0 on the line."""

    text: str
    face: Face
    shift: int


def _script(body: str) -> tuple[str, str]:
    """The argument of _ or ^ at the start of body, and what follows it."""
    if body.startswith("{"):
        inside, _, rest = body[1:].partition("}")
        return inside, rest
    return body[:1], body[1:]


def _math(body: str) -> Iterator[Run]:
    """Runs of a formula: single letters italic, words and digits upright."""
    while body:
        if body[0] in "_^":
            shift = -1 if body[0] == "_" else 1
            inside, body = _script(body[1:])
            yield from (Run(run.text, run.face, shift) for run in _math(inside))
            continue
        match = re.match(r"[^\W\d_]+|[^\w_^]+|\d+", body)
        assert match, f"cannot read the formula at {body!r}"
        word, body = match.group(), body[match.end() :]
        italic = word.isalpha() and len(word) == 1
        yield Run(word.replace(" ", "\u00a0"), "math" if italic else "roman", 0)


def runs(markup: str) -> list[Run]:
    """The runs of a markup text, see the module's docstring."""
    found: list[Run] = []
    for part in re.split(r"(\*\*.+?\*\*|`[^`]+`|\$[^$]+\$)", markup):
        if part.startswith("**"):
            found.append(Run(part[2:-2].replace("~", "\u00a0"), "bold", 0))
        elif part.startswith("`"):
            found.append(Run(part[1:-1].replace(" ", "\u00a0"), "mono", 0))
        elif part.startswith("$"):
            found.extend(_math(part[1:-1]))
        elif part:
            found.append(Run(part.replace("~", "\u00a0"), "sans", 0))
    return found


def measure(line: Iterable[Run], size: float) -> float:
    """Width of a line: no narrower than any of the usual fonts will show it."""
    total = 0.0
    for run in line:
        table = WIDTHS[run.face]
        units = sum(table.get(" " if character == "\u00a0" else character, UNKNOWN) for character in run.text)
        total += units / 100 * size * (SCRIPT if run.shift else 1.0)
    return total


def wrap(markup: str, size: float, width: float) -> list[list[Run]]:
    """Break a markup text into lines no wider than width. ValueError where one word alone is wider."""
    words: list[list[Run]] = [[]]
    for run in runs(markup):
        for index, piece in enumerate(run.text.split(" ")):
            if index:
                words.append([])
            if piece:
                words[-1].append(Run(piece, run.face, run.shift))
    lines: list[list[Run]] = []
    for word in filter(None, words):
        if measure(word, size) > width:
            text = "".join(run.text for run in word)
            raise ValueError(
                f"{text!r} is {measure(word, size):.0f} wide at size {size}, more than the {width:.0f} there are"
            )
        space = Run(" ", word[0].face if word[0].face == "bold" else "sans", 0)
        if lines and measure([*lines[-1], space, *word], size) <= width:
            lines[-1] += [space, *word]
        else:
            lines.append(list(word))
    return lines


def _joined(line: Iterable[Run]) -> list[Run]:
    """The same line with neighbours of one face in one run."""
    found: list[Run] = []
    for run in line:
        if found and found[-1][1:] == run[1:]:
            found[-1] = found[-1]._replace(text=found[-1].text + run.text)
        else:
            found.append(run)
    return found


class Line(NamedTuple):
    """A paragraph of a box: markup and how it is set."""

    markup: str
    size: float | None = None
    color: str = "ink"
    gap: float = 0.0
    """Space above, in units."""


@dataclass
class Placed:
    """A line of text as drawn: its characters, where, how large, and the box it must stay in."""

    text: str
    rect: Rect
    size: float
    inside: Rect | None


@dataclass
class Diagram:
    """A drawing with a title and a description for those who cannot see it. Coordinates: units from the top left."""

    name: str
    title: str
    desc: str
    width: float
    height: float = 0.0
    texts: list[Placed] = field(default_factory=list)
    boxes: list[Rect] = field(default_factory=list)
    lanes: list[Rect] = field(default_factory=list)
    lines: list[list[Point]] = field(default_factory=list)
    _elements: list[Any] = field(default_factory=list)

    @property
    def narrow(self) -> bool:
        return self.width < 500

    @property
    def size(self) -> float:
        """Size of the running text."""
        return 13.2 if self.narrow else 19.5

    @property
    def small(self) -> float:
        """Size of shapes and remarks: the smallest there is."""
        return 12.4 if self.narrow else 18.8

    @property
    def stroke(self) -> float:
        return 1.4 if self.narrow else 2.0

    # -- text -------------------------------------------------------------------------------------------------

    def _line(self, x: float, baseline: float, line: Sequence[Run], size: float, key: str, anchor: Anchor) -> None:
        joined = _joined(line)
        plain = len(joined) == 1
        common: dict[str, Any] = {} if key == "ink" else {"fill": color(key)}
        if anchor != "start":
            common["text_anchor"] = anchor
        if plain:
            common |= _FACE_STYLE[joined[0].face]
        text = draw.Text(joined[0].text if plain else "", round(size, 2), round(x, 1), round(baseline, 1), **common)
        shift = 0
        for run in () if plain else joined:
            style = dict(_FACE_STYLE[run.face])
            if run.shift != shift:
                style["dy"] = round((shift - run.shift) * size * (0.2 if -1 in (run.shift, shift) else 0.36), 2)
                shift = run.shift
            if run.shift:
                style["font_size"] = round(size * SCRIPT, 2)
            text.append(draw.TSpan(run.text, **style))
        self._elements.append(text)

    def text(
        self,
        x: float,
        y: float,
        markup: str,
        *,
        size: float | None = None,
        color: str = "ink",
        anchor: Anchor = "start",
        width: float | None = None,
        inside: Rect | None = None,
    ) -> Rect:
        """Text with its top at y and its start, middle or end at x, broken at width if one is given."""
        size = size or self.size
        lines = [runs(markup)] if width is None else wrap(markup, size, width)
        widest, top = 0.0, y
        for line in lines:
            wide = measure(line, size)
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            characters = "".join(run.text for run in line)
            self.texts.append(Placed(characters, Rect(left, y, wide, size * (ASCENT + DESCENT)), size, inside))
            self._line(x, y + size * ASCENT, line, size, color, anchor)
            widest, y = max(widest, wide), y + size * LEADING
        left = x - {"start": 0.0, "middle": widest / 2, "end": widest}[anchor]
        return Rect(left, top, widest, y - top - size * (LEADING - 1))

    def _block(self, content: Sequence[Line], width: float) -> float:
        """Height of paragraphs at a width."""
        height = 0.0
        for line in content:
            size = line.size or self.size
            height += line.gap + len(wrap(line.markup, size, width)) * size * LEADING
        last = content[-1].size or self.size
        return height - last * (LEADING - 1)

    # -- boxes ------------------------------------------------------------------------------------------------

    def rect(
        self,
        rect: Rect,
        role: str | None = None,
        *,
        fill: str | None = None,
        dashed: bool = False,
        radius: float | None = None,
        stroke: float | None = None,
    ) -> Rect:
        """A bare rectangle: outline of a role's colour, filled softly unless told."""
        filled = fill or (f"{role}-soft" if role and f"{role}-soft" in palette.LIGHT else "panel")
        radius = (5.0 if self.narrow else 8.0) if radius is None else radius
        extra: dict[str, Any] = {"stroke_dasharray": "5 4" if self.narrow else "8 6"} if dashed else {}
        self._elements.append(
            draw.Rectangle(
                *(round(value, 1) for value in rect),
                rx=radius,
                fill="none" if filled == "none" else color(filled),
                stroke=color(role or "faint"),
                stroke_width=round(self.stroke if stroke is None else stroke, 2),
                **extra,
            )
        )
        return rect

    def box(
        self,
        x: float,
        y: float,
        w: float,
        content: Sequence[Line | str],
        *,
        h: float | None = None,
        role: str | None = None,
        fill: str | None = None,
        align: Anchor = "middle",
        dashed: bool = False,
        pad: float | None = None,
    ) -> Rect:
        """A box around paragraphs: as high as they need, or h with them in its middle.

        ValueError where they do not fit.
        """
        pad = (8.0 if self.narrow else 14.0) if pad is None else pad
        lines = [line if isinstance(line, Line) else Line(line) for line in content]
        need = self._block(lines, w - 2 * pad) + 2 * pad
        if h is not None and need > h + 0.5:
            raise ValueError(f"{lines[0].markup!r} needs a box {need:.0f} high, not {h:.0f}")
        rect = Rect(x, y, w, need if h is None else h)
        self.boxes.append(rect)
        self.rect(rect, role, fill=fill, dashed=dashed)
        at = y + pad + (rect.h - need) / 2
        edge = {"start": x + pad, "middle": rect.cx, "end": rect.x1 - pad}[align]
        for line in lines:
            size = line.size or self.size
            at += line.gap
            self.text(edge, at, line.markup, size=size, color=line.color, anchor=align, width=w - 2 * pad, inside=rect)
            at += len(wrap(line.markup, size, w - 2 * pad)) * size * LEADING
        return rect

    def lane(self, rect: Rect, title: str, role: str, *, note: str | None = None) -> Rect:
        """A region that holds other things, with its title at the top left: returns what is left below the title."""
        pad = 10.0 if self.narrow else 18.0
        self.lanes.append(rect)
        self.rect(rect, role, fill="panel", radius=8 if self.narrow else 12)
        used = self.text(rect.x + pad, rect.y + pad, title, color=role, width=rect.w - 2 * pad, inside=rect)
        bottom = used.y1
        if note:
            used = self.text(
                rect.x + pad, bottom + 4, note, size=self.small, color="muted", width=rect.w - 2 * pad, inside=rect
            )
            bottom = used.y1
        return Rect(rect.x + pad, bottom + pad * 0.7, rect.w - 2 * pad, rect.y1 - bottom - pad * 1.7)

    def badge(self, cx: float, cy: float, number: str, role: str = "ink") -> Rect:
        """A number in a disc."""
        radius = 11.0 if self.narrow else 17.0
        rect = Rect(cx - radius, cy - radius, 2 * radius, 2 * radius)
        self.boxes.append(rect)
        self._elements.append(draw.Circle(round(cx, 1), round(cy, 1), radius, fill=color(role)))
        size = self.small
        self.text(cx, cy - size * 0.5, f"**{number}**", size=size, color="panel", anchor="middle", inside=rect.grown(2))
        return rect

    # -- arrows -----------------------------------------------------------------------------------------------

    def arrow(
        self,
        *points: Point,
        role: str = "muted",
        dashed: bool = False,
        head: bool = True,
        stroke: float | None = None,
        radius: float | None = None,
    ) -> None:
        """A line through points (each leg level or upright), corners rounded, with a head at its end."""
        thick = stroke or self.stroke * 1.1
        length = 7.5 if self.narrow else 12.0
        radius = (6.0 if self.narrow else 10.0) if radius is None else radius
        path = list(points)
        self.lines.append(path)
        (px, py), (qx, qy) = path[-2], path[-1]
        leg = math.hypot(qx - px, qy - py)
        ux, uy = (qx - px) / leg, (qy - py) / leg
        shaft = [*path[:-1], (qx - ux * length * 0.7, qy - uy * length * 0.7)] if head else path
        line = draw.Path(
            fill="none",
            stroke=color(role),
            stroke_width=thick,
            stroke_linejoin="round",
            **({"stroke_dasharray": "4 4" if self.narrow else "7 6"} if dashed else {}),
        )
        line.M(*_round(shaft[0]))
        for before, corner, after in zip(shaft, shaft[1:], shaft[2:], strict=False):
            line.L(*_round(_toward(corner, before, radius))).Q(*_round(corner), *_round(_toward(corner, after, radius)))
        line.L(*_round(shaft[-1]))
        self._elements.append(line)
        if head:
            half = length * 0.42
            tip = draw.Path(fill=color(role))
            base = qx - ux * length, qy - uy * length
            tip.M(*_round((qx, qy))).L(*_round((base[0] - uy * half, base[1] + ux * half)))
            tip.L(*_round((base[0] + uy * half, base[1] - ux * half))).Z()
            self._elements.append(tip)

    def brace(self, x0: float, x1: float, y: float, *, role: str = "muted", down: bool = True) -> Point:
        """A curly brace from x0 to x1 whose arms start at y; returns its tip, where a label goes."""
        depth = (7.0 if self.narrow else 12.0) * (1 if down else -1)
        middle, arm = (x0 + x1) / 2, min(abs(depth) / 2, (x1 - x0) / 4)
        path = draw.Path(fill="none", stroke=color(role), stroke_width=self.stroke * 0.9, stroke_linecap="round")
        path.M(x0, y).Q(x0, y + depth / 2, x0 + arm, y + depth / 2).L(middle - arm, y + depth / 2)
        path.Q(middle, y + depth / 2, middle, y + depth).Q(middle, y + depth / 2, middle + arm, y + depth / 2)
        path.L(x1 - arm, y + depth / 2).Q(x1, y + depth / 2, x1, y)
        self._elements.append(path)
        self.lines.append([(x0, y + depth / 2), (x1, y + depth / 2)])
        return middle, y + depth

    # -- tensors and tokens -----------------------------------------------------------------------------------

    def tensor(
        self,
        x: float,
        y: float,
        name: str,
        shape: str,
        *,
        dims: int,
        role: str,
        width: float | None = None,
    ) -> Rect:
        """A tensor: a slab (3 axes), a grid (2) or a column (1), with its name and its shape to the right.

        Returns the rectangle of the glyph. width: room for glyph and label together.
        """
        unit = 7.0 if self.narrow else 11.0
        w, h = (unit * 4, unit * 4) if dims > 1 else (unit * 1.4, unit * 4)
        left = x + (0 if dims > 1 else (unit * 4 - w) / 2)
        depth = unit * 1.4 if dims == 3 else 0.0
        glyph = Rect(left, y + depth, w, h)
        outline = {"stroke": color(role), "stroke_width": self.stroke * 0.8, "stroke_linejoin": "round"}
        if depth:
            for corners in (
                [(glyph.x, glyph.y), (glyph.x + depth, y), (glyph.x1 + depth, y), (glyph.x1, glyph.y)],
                [
                    (glyph.x1, glyph.y),
                    (glyph.x1 + depth, y),
                    (glyph.x1 + depth, glyph.y1 - depth),
                    (glyph.x1, glyph.y1),
                ],
            ):
                flat = [round(value, 1) for corner in corners for value in corner]
                self._elements.append(draw.Lines(*flat, close=True, fill=color("panel"), **outline))
        self._elements.append(
            draw.Rectangle(*(round(value, 1) for value in glyph), fill=color(f"{role}-soft"), **outline)
        )
        grid = draw.Path(fill="none", stroke=color(role), stroke_width=self.stroke * 0.4)
        for step in range(1, 4):
            grid.M(round(glyph.x, 1), round(glyph.y + h * step / 4, 1)).h(round(w, 1))
            if dims > 1:
                grid.M(round(glyph.x + w * step / 4, 1), round(glyph.y, 1)).v(round(h, 1))
        self._elements.append(grid)
        label = x + unit * 4 + unit * 1.4 + (5 if self.narrow else 9)
        room = None if width is None else width - (label - x)
        tall = self.small * (LEADING + 1)
        at = (y + glyph.y1) / 2 - tall / 2
        self.text(label, at, f"**{name}**", size=self.small, color=role, width=room)
        self.text(label, at + self.small * LEADING, f"`{shape}`", size=self.small, color="muted", width=room)
        whole = Rect(x, y, unit * 4 + depth, glyph.y1 - y)
        self.boxes.append(whole)
        return Rect(x, y, unit * 4, glyph.y1 - y)

    def tokens(
        self,
        x: float,
        y: float,
        width: float,
        tokens: Sequence[tuple[str, str]],
        *,
        gap: float | None = None,
        pad: float | None = None,
    ) -> list[Rect]:
        """A strip of tokens (text, role), as wide as their texts, going on in the next row where it is full."""
        gap = (3.0 if self.narrow else 5.0) if gap is None else gap
        pad = (3.5 if self.narrow else 6.0) if pad is None else pad
        height, size, left = self.small * 1.55, self.small, x
        cells: list[tuple[Rect, str, str]] = []
        for token, role in tokens:
            wide = max(measure([Run(token, "mono", 0)], size) + 2 * pad, height * 0.8)
            if left + wide > x + width + 0.5 and left > x:
                left, y = x, y + height + gap
            cells.append((Rect(left, y, wide, height), token, role))
            left += wide + gap
        # One path and one group of texts for each role: a strip has many cells, and a page carries them all.
        for role in dict.fromkeys(role for _, _, role in cells):
            radius = 3 if self.narrow else 4
            fill = color(f"{role}-soft")
            path = draw.Path(fill=fill, stroke=color(role), stroke_width=round(self.stroke * 0.7, 2))
            for rect, _, its in cells:
                if its == role:
                    _rounded(path, rect, radius)
            self._elements.append(path)
        group = draw.Group(font_family=FONTS["mono"], font_size=size, text_anchor="middle")
        for rect, token, _ in cells:
            self.boxes.append(rect)
            top = rect.cy - size * (ASCENT + DESCENT) / 2
            wide = measure([Run(token, "mono", 0)], size)
            self.texts.append(Placed(token, Rect(rect.cx - wide / 2, top, wide, size), size, rect))
            group.append(draw.Text(token, None, round(rect.cx, 1), round(top + size * ASCENT, 1)))
        self._elements.append(group)
        return [rect for rect, _, _ in cells]

    def cell(self, rect: Rect, token: str, role: str | None, *, mono: bool = True, ink: str | None = None) -> Rect:
        """One cell of a strip or a table: a short text in the middle of a rectangle."""
        self.boxes.append(rect)
        self.rect(rect, role, radius=3 if self.narrow else 4, stroke=self.stroke * 0.7)
        at = rect.cy - self.small * (ASCENT + DESCENT) / 2
        shown = f"`{token}`" if mono else token
        self.text(rect.cx, at, shown, size=self.small, color=ink or "ink", anchor="middle", inside=rect)
        return rect

    def note(self, x: float, y: float, width: float, content: Sequence[Line | str], role: str = "faint") -> Rect:
        """A remark beside the flow: text with a bar of its colour at the left."""
        pad = 9.0 if self.narrow else 14.0
        lines = [line if isinstance(line, Line) else Line(line, self.small, "muted") for line in content]
        top = y
        for line in lines:
            y += line.gap
            size = line.size or self.small
            y += self.text(x + pad, y, line.markup, size=size, color=line.color, width=width - pad).h
            y += size * (LEADING - 1)
        bottom = y - (lines[-1].size or self.small) * (LEADING - 1)
        self._elements.append(
            draw.Line(x, round(top, 1), x, round(bottom, 1), stroke=color(role), stroke_width=self.stroke * 1.6)
        )
        return Rect(x, top, width, bottom - top)

    def legend(self, x: float, y: float, width: float, entries: Sequence[tuple[str, str]]) -> Rect:
        """Swatches with their meaning, in rows: (role, meaning)."""
        side, gap = (11.0, 6.0) if self.narrow else (17.0, 9.0)
        left, top, size = x, y, self.small
        for role, meaning in entries:
            wide = side + gap + measure(runs(meaning), size)
            if left + wide > x + width and left > x:
                left, y = x, y + size * 1.5
            self.rect(Rect(left, y + size * 0.5 - side / 2, side, side), role, radius=3, stroke=self.stroke * 0.8)
            self.text(left + side + gap, y, meaning, size=size, color="muted")
            left += wide + gap * 2.4
        return Rect(x, top, width, y + size - top)

    def line(self, *points: Point, role: str = "faint", stroke: float | None = None, dashed: bool = False) -> None:
        """A thin line of a plot or a table, which texts may stand on."""
        extra = {"stroke_dasharray": "3 4" if self.narrow else "5 6"} if dashed else {}
        self._elements.append(
            draw.Lines(
                *(round(value, 1) for point in points for value in point),
                fill="none",
                stroke=color(role),
                stroke_width=stroke or self.stroke * 0.7,
                stroke_linejoin="round",
                **extra,
            )
        )

    def area(self, points: Sequence[Point], role: str) -> None:
        """A filled shape in a role's soft colour."""
        flat = [round(value, 1) for point in points for value in point]
        self._elements.append(draw.Lines(*flat, close=True, fill=color(f"{role}-soft"), stroke="none"))

    def dot(self, x: float, y: float, role: str) -> None:
        """A point of a plot."""
        radius = 4.5 if self.narrow else 7.0
        self._elements.append(
            draw.Circle(
                round(x, 1), round(y, 1), radius, fill=color(role), stroke=color("paper"), stroke_width=self.stroke
            )
        )

    # -- out --------------------------------------------------------------------------------------------------

    def svg(self, id: str | None = None) -> str:
        """The drawing as an SVG element for a page. id: its own, where one diagram stands twice on a page."""
        kind = "narrow" if self.narrow else "wide"
        key = id or f"al-diagram-{self.name.replace('.', '-').replace('_', '-')}-{kind}"
        limit = 460 if self.narrow else WIDE
        drawing = draw.Drawing(
            self.width,
            round(self.height),
            id_prefix=f"{key}-",
            id=key,
            class_=f"al-diagram al-diagram-{kind}",
            role="img",
            aria_labelledby=f"{key}-title {key}-desc",
            fill=color("ink"),
            font_family=FONTS["sans"],
            style=f"display:block;width:100%;max-width:min(100%,{limit}px);height:auto;margin-inline:auto;"
            "font-variant-numeric:lining-nums;letter-spacing:normal",
        )
        drawing.svg_args |= {"width": None, "height": None}
        drawing.append(draw.Title(self.title, id=f"{key}-title"))
        drawing.append(_Description(self.desc, id=f"{key}-desc"))
        drawing.extend(self._elements)
        written = drawing.as_svg(header="", skip_js=True)
        assert isinstance(written, str)
        return re.sub(r"<defs>\s*</defs>\s*", "", written).strip()

    # -- proof ------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What a reader would stumble over, in words; empty for a sound drawing."""
        return [*self._text_problems(), *self._line_problems(), *self._box_problems()]

    def _text_problems(self) -> Iterator[str]:
        page = Rect(0, 0, self.width, self.height).grown(-3)
        scale = SHOWN_AT[WIDE if self.width > 500 else NARROW] / self.width
        for index, placed in enumerate(self.texts):
            tight = placed.rect.grown(-0.5)
            if "$" in placed.text or "**" in placed.text:
                yield f"{placed.text!r} holds markup that was not read"
            if not page.holds(tight):
                yield f"{placed.text!r} leaves the drawing"
            if placed.inside and not placed.inside.grown(-1.5).holds(tight):
                yield f"{placed.text!r} leaves its box"
            if placed.size * scale < SMALLEST_TEXT:
                yield f"{placed.text!r} is shown at {placed.size * scale:.1f} px"
            for other in self.texts[index + 1 :]:
                if tight.meets(other.rect.grown(-0.5)):
                    yield f"{placed.text!r} overlaps {other.text!r}"
            for box in [*self.boxes, *self.lanes]:
                if tight.meets(box) and not box.holds(tight):
                    yield f"{placed.text!r} crosses the edge of a box"
            for line in self.lines:
                if any(_segment_meets(a, b, tight) for a, b in pairwise(line)):
                    yield f"an arrow crosses {placed.text!r}"

    def _line_problems(self) -> Iterator[str]:
        page = Rect(0, 0, self.width, self.height).grown(-2)
        segments = [(index, a, b) for index, line in enumerate(self.lines) for a, b in pairwise(line)]
        for position, (index, a, b) in enumerate(segments):
            if not page.holds(Rect(*a, 0, 0)) or not page.holds(Rect(*b, 0, 0)):
                yield f"an arrow leaves the drawing at {a} or {b}"
            for box in self.boxes:
                if _segment_meets(a, b, box.grown(-1.5)):
                    yield f"an arrow from {a} to {b} runs through the box at ({box.x:.0f}, {box.y:.0f})"
            for other, c, d in segments[position + 1 :]:
                if index != other and _cross(a, b, c, d):
                    yield f"arrows cross: {a}-{b} and {c}-{d}"

    def _box_problems(self) -> Iterator[str]:
        page = Rect(0, 0, self.width, self.height).grown(-1)
        boxes = [*self.boxes, *self.lanes]
        for index, box in enumerate(boxes):
            if not page.holds(box):
                yield f"the box at ({box.x:.0f}, {box.y:.0f}) leaves the drawing"
            for other in boxes[index + 1 :]:
                if box.grown(-0.5).meets(other) and not (box.holds(other) or other.holds(box)):
                    yield f"the boxes at ({box.x:.0f}, {box.y:.0f}) and ({other.x:.0f}, {other.y:.0f}) overlap"


class _Description(draw.Title):
    """What stands in the drawing, in words."""

    TAG_NAME = "desc"


def _round(point: Point) -> Point:
    return round(point[0], 1), round(point[1], 1)


def _rounded(path: Any, rect: Rect, radius: float) -> None:
    """Adds a rectangle with round corners to a path."""
    w, h, r = round(rect.w - 2 * radius, 1), round(rect.h - 2 * radius, 1), radius
    path.M(round(rect.x + r, 1), round(rect.y, 1)).h(w).a(r, r, 0, 0, 1, r, r).v(h).a(r, r, 0, 0, 1, -r, r)
    path.h(-w).a(r, r, 0, 0, 1, -r, -r).v(-h).a(r, r, 0, 0, 1, r, -r).Z()


def _toward(start: Point, end: Point, length: float) -> Point:
    """The point at a length from start on the way to end, at most half of it."""
    whole = math.hypot(end[0] - start[0], end[1] - start[1])
    part = min(length, whole / 2) / whole if whole else 0.0
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _segment_meets(a: Point, b: Point, rect: Rect) -> bool:
    """Whether the segment a-b has a point inside rect (Liang and Barsky's clipping)."""
    low, high = 0.0, 1.0
    for start, delta, near, far in ((a[0], b[0] - a[0], rect.x, rect.x1), (a[1], b[1] - a[1], rect.y, rect.y1)):
        if delta == 0:
            if not near < start < far:
                return False
            continue
        first, second = sorted(((near - start) / delta, (far - start) / delta))
        low, high = max(low, first), min(high, second)
    return low < high


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether two segments cross in their interiors, or lie on one another."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    s1, s2, s3, s4 = side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)
    if s1 == s2 == s3 == s4 == 0:
        axis = 0 if a[0] != b[0] else 1
        return max(min(a[axis], b[axis]), min(c[axis], d[axis])) < min(max(a[axis], b[axis]), max(c[axis], d[axis]))
    return s1 * s2 < 0 and s3 * s4 < 0


def sheet(name: str, title: str, desc: str, narrow: bool) -> Diagram:
    """An empty diagram `module.function`, of the wide or of the narrow width."""
    return Diagram(name, title, desc, NARROW if narrow else WIDE)
