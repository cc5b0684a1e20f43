"""Exercises of the lab ch01_multimodal: patches, CLIP's loss, splicing, zero-shot classes, straight-through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

_generator = torch.Generator().manual_seed(14)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


COSINES = torch.tensor([[0.8, 0.3, -0.1], [0.1, 0.6, 0.5], [0.2, 0.4, 0.9]], dtype=torch.float64)
EMBEDDED, PATCHES = _normal(2, 6, 3), _normal(2, 2, 3)
IDS = torch.tensor([[5, -1, -1, 7, 8, 9], [5, 6, -1, 7, -1, 9]])
PROMPTS = _normal(3, 4, 5) * torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)[:, None, None]
PROMPTS[0] += torch.tensor([0.3, 0.1, 0.0, 0.0, 0.0])
IMAGES = _normal(64, 5)
CODEBOOK, VECTORS, PULL = _normal(4, 2), _normal(6, 2), _normal(6, 2)
SIZES = ((336, 336, 14, 1), (224, 448, 14, 2), (24, 24, 6, 1))


# ---- solutions
def patch_tokens(height: int, width: int, size: int, merge: int) -> int:
    """One token for each merge x merge patches."""
    return (height // size // merge) * (width // size // merge)


def clip_loss(cosines: Tensor, scale: float) -> Tensor:
    """The mean of two cross-entropies: over the rows and over the columns, each with the diagonal as target."""
    own = torch.arange(len(cosines))
    return (F.cross_entropy(scale * cosines, own) + F.cross_entropy(scale * cosines.T, own)) / 2


def splice(embedded: Tensor, input_ids: Tensor, patches: Tensor) -> Tensor:
    """Row by row: the k-th place marked -1 receives the k-th patch."""
    out = embedded.clone()
    for row, ids in enumerate(input_ids):
        out[row, ids == -1] = patches[row]
    return out


def zero_shot(images: Tensor, prompts: Tensor) -> Tensor:
    """Unit vectors, averaged over a class's prompts, to unit length again; then the largest cosine."""
    classes = F.normalize(F.normalize(prompts, dim=-1).mean(1), dim=-1)
    return (F.normalize(images, dim=-1) @ classes.T).argmax(-1)


def straight_through(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Forwards the nearest code, backwards the identity."""
    codes = torch.cdist(vectors, codebook).argmin(-1)
    return vectors + (codebook[codes] - vectors).detach()


# ---- wrong answers
def tokens_unmerged(height: int, width: int, size: int, merge: int) -> int:
    return (height // size) * (width // size)


def tokens_merged_once(height: int, width: int, size: int, merge: int) -> int:
    return (height // size) * (width // size) // merge


def tokens_of_a_square(height: int, width: int, size: int, merge: int) -> int:
    return (height // size // merge) ** 2


def tokens_as_numbers(height: int, width: int, size: int, merge: int) -> int:
    return 3 * height * width


def loss_of_images(cosines: Tensor, scale: float) -> Tensor:
    return F.cross_entropy(scale * cosines, torch.arange(len(cosines)))


def loss_of_texts(cosines: Tensor, scale: float) -> Tensor:
    return F.cross_entropy(scale * cosines.T, torch.arange(len(cosines)))


def loss_unscaled(cosines: Tensor, scale: float) -> Tensor:
    return clip_loss(cosines, 1.0)


def loss_divided(cosines: Tensor, scale: float) -> Tensor:
    return clip_loss(cosines, 1 / scale)


def loss_of_the_whole_table(cosines: Tensor, scale: float) -> Tensor:
    return -(scale * cosines).flatten().log_softmax(0).view_as(cosines).diagonal().mean()


def loss_summed(cosines: Tensor, scale: float) -> Tensor:
    return 2 * clip_loss(cosines, scale)


def splice_at_the_start(embedded: Tensor, input_ids: Tensor, patches: Tensor) -> Tensor:
    return torch.cat([patches, embedded[:, patches.shape[1] :]], 1)


def splice_by_the_first_row(embedded: Tensor, input_ids: Tensor, patches: Tensor) -> Tensor:
    out = embedded.clone()
    out[:, input_ids[0] == -1] = patches
    return out


def splice_added(embedded: Tensor, input_ids: Tensor, patches: Tensor) -> Tensor:
    return torch.where((input_ids == -1)[..., None], embedded + splice(embedded, input_ids, patches), embedded)


def splice_first_patch_only(embedded: Tensor, input_ids: Tensor, patches: Tensor) -> Tensor:
    return torch.where((input_ids == -1)[..., None], patches[:, :1], embedded)


def classes_not_normalized(images: Tensor, prompts: Tensor) -> Tensor:
    return (F.normalize(images, dim=-1) @ prompts.mean(1).T).argmax(-1)


def classes_of_the_first_prompt(images: Tensor, prompts: Tensor) -> Tensor:
    return (F.normalize(images, dim=-1) @ F.normalize(prompts[:, 0], dim=-1).T).argmax(-1)


def classes_by_the_least(images: Tensor, prompts: Tensor) -> Tensor:
    classes = F.normalize(F.normalize(prompts, dim=-1).mean(1), dim=-1)
    return (F.normalize(images, dim=-1) @ classes.T).argmin(-1)


def classes_over_images(images: Tensor, prompts: Tensor) -> Tensor:
    classes = F.normalize(F.normalize(prompts, dim=-1).mean(1), dim=-1)
    return (F.normalize(images, dim=-1) @ classes.T).argmax(0)


def quantized_and_cut(vectors: Tensor, codebook: Tensor) -> Tensor:
    return codebook[torch.cdist(vectors, codebook).argmin(-1)]


def not_quantized(vectors: Tensor, codebook: Tensor) -> Tensor:
    return vectors * 1.0


def to_both(vectors: Tensor, codebook: Tensor) -> Tensor:
    return codebook[torch.cdist(vectors, codebook).argmin(-1)] + vectors - vectors.detach()


def to_the_farthest(vectors: Tensor, codebook: Tensor) -> Tensor:
    codes = torch.cdist(vectors, codebook).argmax(-1)
    return vectors + (codebook[codes] - vectors).detach()


# ---- graders
def _grade_patch_tokens(answer: Callable[..., Any]) -> None:
    def counts(of: Callable[..., int]) -> list[int]:
        return [of(*sizes) for sizes in SIZES]

    mistakes = {
        "You did not merge: merge x merge neighbouring patches become one token.": counts(tokens_unmerged),
        "You merged along one side only: a merge by 2 leaves a quarter of the tokens.": counts(tokens_merged_once),
        "You took the picture for a square: width and height count apart.": counts(tokens_of_a_square),
        "You counted numbers; a patch is one token, however many pixels it has.": counts(tokens_as_numbers),
    }
    same([answer(*sizes) for sizes in SIZES], counts(patch_tokens), "your number of tokens", mistakes=mistakes)


def _grade_clip_loss(answer: Callable[..., Any]) -> None:
    for scale in (5.0, 1 / 0.07):
        mistakes = {
            "You asked each picture for its text, and no text for its picture: add the loss of the columns.": (
                loss_of_images(COSINES, scale)
            ),
            "You asked each text for its picture, and no picture for its text: add the loss of the rows.": (
                loss_of_texts(COSINES, scale)
            ),
            "The scale is missing: cosines of at most 1 cannot make a softmax sure.": loss_unscaled(COSINES, scale),
            "You divided by the scale: that is for a temperature, its inverse.": loss_divided(COSINES, scale),
            "Your softmax runs over the whole table: a picture competes within its row, a text within its column.": (
                loss_of_the_whole_table(COSINES, scale)
            ),
            "That is the sum of both directions; take their mean.": loss_summed(COSINES, scale),
        }
        same(answer(COSINES.clone(), scale), clip_loss(COSINES, scale), "your loss", mistakes=mistakes)


def _grade_splice(answer: Callable[..., Any]) -> None:
    mistakes = {
        "You put the patches at the start of the row: they go where the id is -1.": splice_at_the_start(
            EMBEDDED, IDS, PATCHES
        ),
        "You used the first row's places for all rows: each row has places of its own.": splice_by_the_first_row(
            EMBEDDED, IDS, PATCHES
        ),
        "You added the patches to what stood there: they replace it.": splice_added(EMBEDDED, IDS, PATCHES),
        "You put the same patch into every place of a row: the k-th place takes the k-th patch.": (
            splice_first_patch_only(EMBEDDED, IDS, PATCHES)
        ),
    }
    given = EMBEDDED.clone()
    same(answer(given, IDS.clone(), PATCHES.clone()), splice(EMBEDDED, IDS, PATCHES), "your rows", mistakes=mistakes)


def _grade_zero_shot(answer: Callable[..., Any]) -> None:
    mistakes = {
        "You averaged vectors of different lengths: bring each prompt's vector to length 1, and the mean again.": (
            classes_not_normalized(IMAGES, PROMPTS)
        ),
        "You used one prompt of each class: average over all of them.": classes_of_the_first_prompt(IMAGES, PROMPTS),
        "You chose the least similar class.": classes_by_the_least(IMAGES, PROMPTS),
        "You chose a picture for each class: the largest is to be taken over the classes.": classes_over_images(
            IMAGES, PROMPTS
        ),
    }
    same(answer(IMAGES.clone(), PROMPTS.clone()), zero_shot(IMAGES, PROMPTS), "your class", mistakes=mistakes)


def _values_and_gradients(answer: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor]:
    vectors, codebook = VECTORS.clone().requires_grad_(), CODEBOOK.clone().requires_grad_()
    value = answer(vectors, codebook)
    require(isinstance(value, Tensor) and value.shape == VECTORS.shape, "return vectors of the shape of the input")
    require(value.requires_grad, "No gradient comes back at all: you detached everything.")
    found = torch.autograd.grad((value * PULL).sum(), (vectors, codebook), allow_unused=True)
    one, two = (torch.zeros_like(x) if g is None else g for g, x in zip(found, (vectors, codebook), strict=True))
    return value.detach(), one, two


def _grade_straight_through(answer: Callable[..., Any]) -> None:
    value, to_vectors, to_codebook = _values_and_gradients(answer)
    mistakes = {
        "You returned the input itself: forwards, the nearest code stands there.": VECTORS,
        "You took the farthest code.": to_the_farthest(VECTORS, CODEBOOK).detach(),
    }
    same(value, straight_through(VECTORS, CODEBOOK), "your value", mistakes=mistakes)
    require(bool(to_vectors.abs().sum() > 0), "No gradient reaches the encoder: looking up a code has none. Add it.")
    same(to_vectors, PULL, "the gradient at your input")
    require(bool(to_codebook.abs().sum() == 0), "A gradient reaches the codebook: its own loss moves it; detach here.")


EXERCISES = [
    Exercise(
        name="multimodal.patch_tokens",
        task="Give the number of tokens of a picture, from its height, its width, the patch's side and the side of the "
        "squares of patches that are merged into one token.",
        difficulty=1,
        minutes=3,
        grade=_grade_patch_tokens,
        solution=patch_tokens,
        wrong=[
            Wrong(tokens_unmerged, "You did not merge"),
            Wrong(tokens_merged_once, "along one side only"),
            Wrong(tokens_of_a_square, "for a square"),
            Wrong(tokens_as_numbers, "You counted numbers"),
        ],
        hint="336 pixels and patches of 14 make 24 by 24 patches. Merged by 2, 12 by 12 tokens are left.",
    ),
    Exercise(
        name="multimodal.clip_loss",
        task="Give the mean CLIP loss of a batch from its cosines (B, B), pictures in the rows, and the scale.",
        difficulty=2,
        minutes=6,
        grade=_grade_clip_loss,
        solution=clip_loss,
        wrong=[
            Wrong(loss_of_images, "no text for its picture"),
            Wrong(loss_of_texts, "no picture for its text"),
            Wrong(loss_unscaled, "The scale is missing"),
            Wrong(loss_divided, "You divided by the scale"),
            Wrong(loss_of_the_whole_table, "over the whole table"),
            Wrong(loss_summed, "the sum of both directions"),
        ],
        hint="Two calls of F.cross_entropy with the targets 0 to B - 1: one for the table, one for its transpose.",
    ),
    Exercise(
        name="multimodal.splice",
        task="Put patches (B, n, d) in place of the rows of embedded (B, T, d) where input_ids (B, T) is -1, in order.",
        difficulty=2,
        minutes=6,
        grade=_grade_splice,
        solution=splice,
        wrong=[
            Wrong(splice_at_the_start, "at the start of the row"),
            Wrong(splice_by_the_first_row, "first row's places"),
            Wrong(splice_added, "You added the patches"),
            Wrong(splice_first_patch_only, "same patch into every place"),
        ],
        hint="A loop over rows with out[row, ids == -1] = patches[row], or masked_scatter.",
    ),
    Exercise(
        name="multimodal.zero_shot",
        task="Give each picture's class: images (B, e) and prompts (C, M, e), M texts for each class -> (B,).",
        difficulty=2,
        minutes=6,
        grade=_grade_zero_shot,
        solution=zero_shot,
        wrong=[
            Wrong(classes_not_normalized, "vectors of different lengths"),
            Wrong(classes_of_the_first_prompt, "one prompt of each class"),
            Wrong(classes_by_the_least, "least similar class"),
            Wrong(classes_over_images, "a picture for each class"),
        ],
        hint="Normalize, average over the prompts, normalize again, and take the argmax of the cosines over classes.",
    ),
    Exercise(
        name="multimodal.straight_through",
        task="Replace vectors (N, e) by their nearest codes (K, e), so that the gradient of the result passes to the "
        "vectors unchanged and none of it to the codebook.",
        difficulty=3,
        minutes=8,
        grade=_grade_straight_through,
        solution=straight_through,
        wrong=[
            Wrong(quantized_and_cut, "No gradient reaches the encoder"),
            Wrong(not_quantized, "You returned the input itself"),
            Wrong(to_both, "A gradient reaches the codebook"),
            Wrong(to_the_farthest, "You took the farthest code"),
        ],
        hint="x + (y - x).detach() has the value of y and the gradient of x.",
    ),
]
