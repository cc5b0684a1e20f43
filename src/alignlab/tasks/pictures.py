"""Little pictures with captions: coloured shapes on a dark ground, made, described, and read back by a rule.

A world in which "does this picture show what the text says?" has an exact answer. Knows nothing about models.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alignlab.tasks import held_out

SIDE, CELL, SIZE = 24, 8, 6
"""Pixels of a picture's side, of one of its nine cells, of a thing. A thing lies at one of two corners of its cell."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.18, 0.15),
    "green": (0.15, 0.72, 0.25),
    "blue": (0.20, 0.38, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.62, 0.22, 0.80),
    "white": (0.95, 0.95, 0.95),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("..##..", ".####.", "######", "######", ".####.", "..##.."),
    "square": ("######", "######", "######", "######", "######", "######"),
    "triangle": ("..##..", "..##..", ".####.", ".####.", "######", "######"),
    "cross": ("#....#", "##..##", ".####.", ".####.", "##..##", "#....#"),
}
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
NUMBERS = {2: "two", 3: "three", 4: "four"}
GROUND = 0.08
BLOT = "blot"
"""What `read` calls a spot that is none of the shapes."""

NAMES = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
"""What a thing may be, 24 names: "red circle" and so on."""
UNSEEN = ("red triangle", "green circle", "blue cross", "yellow square")
"""Names that no training caption holds, though it holds each of their words."""
HELD_OUT = 0.15
"""The share of all other captions that is kept from training as well."""

PictureSplit = Literal["train", "held-out", "unseen"]
Kind = Literal["place", "count", "pair"]

_PLURAL = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
WORDS = (
    "a", *NUMBERS.values(), *COLOURS, *SHAPES, *_PLURAL.values(), "at", "the", *ROWS, *COLUMNS, "of", "above",
)  # fmt: skip
"""Every word of every caption."""
_ID = {word: index for index, word in enumerate(WORDS)}
_MASKS = {name: np.array([[mark == "#" for mark in line] for line in lines]) for name, lines in SHAPES.items()}


@dataclass(frozen=True, order=True)
class Thing:
    """One thing in one of the nine cells; row and column 0, 1, 2 from the upper left."""

    row: int
    column: int
    colour: str
    shape: str

    @property
    def name(self) -> str:
        """Such as "red circle"."""
        return f"{self.colour} {self.shape}"


Scene = tuple[Thing, ...]
"""The things of a picture, sorted."""


def caption(scene: Sequence[Thing]) -> str | None:
    """The one caption of a scene: of one thing and its place, of two to four alike, or of two in one row or column.

    None for any other scene: it has no caption in this world.
    """
    things = sorted(scene)
    names = {thing.name for thing in things}
    if not things or any(thing.shape not in SHAPES or thing.colour not in COLOURS for thing in things):
        return None
    first, last = things[0], things[-1]
    if len(things) == 1:
        return f"a {first.name} at the {ROWS[first.row]} {COLUMNS[first.column]}"
    if len(names) == 1:
        return f"{NUMBERS[len(things)]} {first.colour} {_PLURAL[first.shape]}" if len(things) in NUMBERS else None
    if len(things) == 2 and first.row == last.row:
        return f"a {first.name} left of a {last.name}"
    if len(things) == 2 and first.column == last.column:
        return f"a {first.name} above a {last.name}"
    return None


def shows(scene: Sequence[Thing], text: str) -> bool:
    """The rule that judges: whether these things are what the text says, no less and no more."""
    return caption(scene) == text


def names_in(text: str) -> list[str]:
    """The names that a caption holds: "two red circles" holds "red circle"."""
    singular = {plural: shape for shape, plural in _PLURAL.items()}
    words = [singular.get(word, word) for word in text.split()]
    return [f"{a} {b}" for a, b in pairwise(words) if f"{a} {b}" in NAMES]


def split_of(text: str) -> PictureSplit:
    """To which part a caption belongs, the same on every machine."""
    if any(name in UNSEEN for name in names_in(text)):
        return "unseen"
    return "held-out" if held_out(f"picture {text}", HELD_OUT) else "train"


def captions(split: PictureSplit | None = None, kind: Kind | None = None) -> Iterator[str]:
    """Every caption there is, 1,392 of them; of one split and of one kind, if given."""
    plurals = [f"{colour} {_PLURAL[shape]}" for colour, shape in product(COLOURS, SHAPES)]
    of_kind: dict[Kind, Iterator[str]] = {
        "place": (f"a {name} at the {row} {column}" for name, row, column in product(NAMES, ROWS, COLUMNS)),
        "count": (f"{number} {plural}" for number, plural in product(NUMBERS.values(), plurals)),
        "pair": (f"a {a} {how} a {b}" for (a, b), how in product(permutations(NAMES, 2), ("left of", "above"))),
    }
    for which, texts in of_kind.items():
        if kind in (None, which):
            yield from (text for text in texts if split in (None, split_of(text)))


def scene(text: str, rng: random.Random) -> Scene:
    """A scene of which the caption is `text`, drawn at random among all; ValueError for a text that is no caption."""
    names, words = names_in(text), text.split()
    cells = list(product(range(3), range(3)))
    places: list[tuple[int, int]] = []
    if len(names) == 1 and " at the " in text and words[-2] in ROWS and words[-1] in COLUMNS:
        places = [(ROWS.index(words[-2]), COLUMNS.index(words[-1]))]
    elif len(names) == 1 and words[0] in NUMBERS.values():
        count = next(number for number, word in NUMBERS.items() if word == words[0])
        places, names = rng.sample(cells, count), names * count
    elif len(names) == 2:
        line, (near, far) = rng.randrange(3), sorted(rng.sample(range(3), 2))
        places = [(near, line), (far, line)] if "above" in words else [(line, near), (line, far)]
    made = tuple(sorted(Thing(*place, *name.split()) for place, name in zip(places, names, strict=False)))
    if not shows(made, text):
        raise ValueError(f"{text!r} is no caption of this world; see pictures.captions()")
    return made


def draw(scenes: Sequence[Sequence[Thing]], seed: int) -> Tensor:
    """Pictures of scenes: (B, 3, 24, 24), channels red, green, blue from 0 to 1.

    Chance sets whether a thing lies at the upper left or the lower right of its cell, and how bright it is, 0.9 to 1.
    """
    chance = np.random.default_rng(seed)
    pixels = np.full((len(scenes), 3, SIDE, SIDE), GROUND, np.float32)
    for picture, things in zip(pixels, scenes, strict=True):
        for thing in things:
            corner = (CELL - SIZE) * chance.integers(2)
            y, x = thing.row * CELL + corner, thing.column * CELL + corner
            colour = np.array(COLOURS[thing.colour], np.float32)[:, None] * chance.uniform(0.9, 1.0)
            picture[:, y : y + SIZE, x : x + SIZE][:, _MASKS[thing.shape]] = colour
    return torch.from_numpy(pixels)


def read(picture: Tensor) -> Scene:
    """What a picture (3, 24, 24) shows, found by comparing each cell with every shape in every position.

    A spot whose overlap with the best shape is below 0.7 (of their union) is a BLOT.
    """
    if picture.shape != (3, SIDE, SIDE):
        raise ValueError(f"the picture has shape {tuple(picture.shape)}; expected {(3, SIDE, SIDE)}")
    pixels, things = picture.detach().cpu().numpy(), []
    for row, column in product(range(3), range(3)):
        cell = pixels[:, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        lit = (cell - GROUND).max(0) > 0.3
        if lit.sum() < 6:
            continue
        overlap, shape = max((_overlap(lit, mask), name) for name, mask in _MASKS.items())
        mean = cell[:, lit].mean(1)
        mean = mean / max(mean.max(), 1e-6)
        colour = min(COLOURS, key=lambda name: float(np.abs(mean - np.array(COLOURS[name]) / max(COLOURS[name])).sum()))
        things.append(Thing(row, column, colour, shape if overlap >= 0.7 else BLOT))
    return tuple(things)


def _overlap(lit: np.ndarray, mask: np.ndarray) -> float:
    """The largest intersection over union of a cell's lit pixels with a shape, over its nine positions."""
    best = 0.0
    for y, x in product(range(CELL - SIZE + 1), range(CELL - SIZE + 1)):
        common = (lit[y : y + SIZE, x : x + SIZE] & mask).sum()
        best = max(best, float(common / (lit.sum() + mask.sum() - common)))
    return best


def word_ids(text: str) -> list[int]:
    """Positions in WORDS; ValueError that names a word which is not there."""
    unknown = [word for word in text.split() if word not in _ID]
    if unknown:
        raise ValueError(f"{text!r} holds {', '.join(unknown)}; the words are {', '.join(WORDS)}")
    return [_ID[word] for word in text.split()]
