"""Exercises of the lab ch01_architecture_families: prefix mask, masking, spans, cross-attention, a model's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Mistake, Wrong, require, same

IGNORED = -100
IDS = torch.tensor([11, 12, 13, 14, 15, 16, 17, 18])
CHOSEN = torch.tensor([True, False, True, True, False, True, False, False])
FATE = torch.tensor([0.3, 0.1, 0.85, 0.95, 0.99, 0.79, 0.5, 0.82])
OTHERS = torch.tensor([31, 32, 33, 34, 35, 36, 37, 38])
MASK = 99
SENTINELS = [90, 91, 92, 93]
SPAN_CASES = (
    ([1, 7, 10, 2, 5, 11, 4, 2], [(3, 5)]),
    ([1, 7, 10, 2, 5, 11, 4, 2], [(0, 2), (6, 8)]),
    ([1, 7, 10, 2, 5, 11, 4, 2], [(1, 2), (3, 6)]),
)
GENERATOR = torch.Generator().manual_seed(0)
X, MEMORY = (torch.randn(n, 6, generator=GENERATOR, dtype=torch.float64) for n in (4, 7))
W_Q, W_K, W_V = (torch.randn(3, 6, generator=GENERATOR, dtype=torch.float64) for _ in range(3))
SIZES = (
    (32_000, 4096, 11_008, 32, 32, 32, 128, False),
    (49_152, 576, 1536, 30, 9, 3, 64, True),
    (151_936, 1024, 3072, 28, 16, 8, 128, True),
)


# ---- solutions
def prefix_mask(prefix: int, length: int) -> Tensor:
    """A column may be seen if it is not later than the row, or belongs to the prefix."""
    place = torch.arange(length)
    return (place[None, :] <= place[:, None]) | (place[None, :] < prefix)


def masking(ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Labels where a token was chosen, whatever became of it."""
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), others, inputs)
    return inputs, torch.where(chosen, ids, -100)


def spans(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Each span leaves its sentinel in the source, and stands behind it in the target."""
    source: list[int] = []
    target: list[int] = []
    at = 0
    for (start, end), sentinel in zip(spans, sentinels, strict=False):
        source += [*ids[at:start], sentinel]
        target += [sentinel, *ids[start:end]]
        at = end
    return [*source, *ids[at:]], [*target, sentinels[len(spans)]]


def cross_attention(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Queries from x, keys and values from memory."""
    q, k, v = x @ w_q.T, memory @ w_k.T, memory @ w_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v


def count(
    vocabulary: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, head_width: int, tied: bool
) -> int:
    """Embedding, head unless tied, and in each layer attention, three matrices and two norms; one norm at the end."""
    attention = 2 * width * heads * head_width + 2 * width * kv_heads * head_width
    return vocabulary * width * (2 - tied) + layers * (attention + 3 * width * inner + 2 * width) + width


# ---- wrong answers
def mask_transposed(prefix: int, length: int) -> Tensor:
    return prefix_mask(prefix, length).T


def mask_causal(prefix: int, length: int) -> Tensor:
    return prefix_mask(0, length)


def mask_one_more(prefix: int, length: int) -> Tensor:
    return prefix_mask(prefix + 1, length)


def mask_open(prefix: int, length: int) -> Tensor:
    return prefix_mask(length, length)


def mask_prefix_alone(prefix: int, length: int) -> Tensor:
    place = torch.arange(length)
    inside = place < prefix
    return torch.where(inside[:, None], inside[None, :], (place[None, :] <= place[:, None]) & ~inside[None, :])


def mask_not_itself(prefix: int, length: int) -> Tensor:
    place = torch.arange(length)
    return (place[None, :] < place[:, None]) | (place[None, :] < prefix)


def all_masked(ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


def labels_everywhere(ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    return masking(ids, chosen, fate, others, mask_id)[0], ids


def labels_where_masked(
    ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    inputs = masking(ids, chosen, fate, others, mask_id)[0]
    return inputs, torch.where(inputs == mask_id, ids, -100)


def fate_swapped(ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    return torch.where(chosen & (fate >= 0.9), others, inputs), torch.where(chosen, ids, -100)


def fate_without_choice(
    ids: Tensor, chosen: Tensor, fate: Tensor, others: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    return masking(ids, torch.ones_like(chosen), fate, others, mask_id)[0], torch.where(chosen, ids, -100)


def spans_without_end(ids: Any, where: Any, sentinels: Any) -> tuple[list[int], list[int]]:
    source, target = spans(ids, where, sentinels)
    return source, target[:-1]


def spans_one_sentinel(ids: Any, where: Any, sentinels: Any) -> tuple[list[int], list[int]]:
    return spans(ids, where, [sentinels[0]] * len(where) + [sentinels[len(where)]])


def spans_sentinel_per_token(ids: Any, where: Any, sentinels: Any) -> tuple[list[int], list[int]]:
    source, target = list(ids), spans(ids, where, sentinels)[1]
    for (start, end), sentinel in zip(where, sentinels, strict=False):
        source[start:end] = [sentinel] * (end - start)
    return source, target


def spans_end_included(ids: Any, where: Any, sentinels: Any) -> tuple[list[int], list[int]]:
    return spans(ids, [(start, min(end + 1, len(ids))) for start, end in where], sentinels)


def spans_bare_target(ids: Any, where: Any, sentinels: Any) -> tuple[list[int], list[int]]:
    source, _ = spans(ids, where, sentinels)
    return source, [token for start, end in where for token in ids[start:end]]


def cross_self(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return cross_attention(x, x, w_q, w_k, w_v)


def cross_turned(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return cross_attention(memory, x, w_q, w_k, w_v)


def cross_unscaled(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return cross_attention(x, memory, w_q * math.sqrt(len(w_q)), w_k, w_v)


def cross_wrong_axis(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k, v = x @ w_q.T, memory @ w_k.T, memory @ w_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(0) @ v


def cross_causal(x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k, v = x @ w_q.T, memory @ w_k.T, memory @ w_v.T
    scores = q @ k.T / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


def count_without_groups(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, h, h, w, tied)


def count_head_again(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, h, kv, w, False)


def count_two_matrices(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, h, kv, w, tied) - n * d * f


def count_without_norms(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, h, kv, w, tied) - (2 * n + 1) * d


def count_last_norm_missing(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, h, kv, w, tied) - d


def count_square_attention(v: int, d: int, f: int, n: int, h: int, kv: int, w: int, tied: bool) -> int:
    return count(v, d, f, n, 1, 1, d, tied)


# ---- graders
def _grade_prefix_mask(answer: Callable[..., Any]) -> None:
    for prefix, length in ((3, 6), (1, 5), (4, 9)):
        mistakes = {
            "Rows and columns are swapped: the row is the token that looks.": mask_transposed(prefix, length),
            "That is the causal mask: within the prefix every token sees every other, later ones too.": mask_causal(
                prefix, length
            ),
            "One token too many is prefix: places count from 0, so the prefix is `place < prefix`.": mask_one_more(
                prefix, length
            ),
            "That is an encoder's mask: what follows the prefix must not see its own future.": mask_open(
                prefix, length
            ),
            "The tokens after the prefix do not see the prefix; they answer it, so they must.": mask_prefix_alone(
                prefix, length
            ),
            "A token after the prefix does not see itself; at its place the *next* one is predicted.": mask_not_itself(
                prefix, length
            ),
        }
        same(answer(prefix, length), prefix_mask(prefix, length), "your mask", mistakes=mistakes)


def _grade_masking(answer: Callable[..., Any]) -> None:
    given = IDS, CHOSEN, FATE, OTHERS, MASK
    got = answer(*(part.clone() if isinstance(part, Tensor) else part for part in given))
    require(isinstance(got, tuple) and len(got) == 2, "return two tensors: inputs and labels")

    def both(pair: Any) -> Tensor:
        return torch.cat([torch.as_tensor(part).double() for part in pair])

    mistakes = {
        "You masked every chosen token; BERT leaves 10% as they are and replaces 10%, since no mask ever comes up "
        "when the model is used.": both(all_masked(*given)),
        "Your labels are set everywhere: where nothing was chosen, the label is -100 and no loss is taken.": both(
            labels_everywhere(*given)
        ),
        "Your labels are set only where the mask stands; the replaced and the kept ones are predicted, too.": both(
            labels_where_masked(*given)
        ),
        "The kept and the replaced are swapped: below 0.8 mask, from 0.8 to 0.9 another token, from 0.9 on the "
        "token itself.": both(fate_swapped(*given)),
        "You changed tokens that were not chosen.": both(fate_without_choice(*given)),
    }
    same(both(got), both(masking(*given)), "inputs and labels", mistakes=mistakes)


def _grade_spans(answer: Callable[..., Any]) -> None:
    says = (
        ("The last sentinel is missing: it ends the target, so that the model can say it is done.", spans_without_end),
        ("Your spans share one sentinel; with two gaps nobody knows which is which.", spans_one_sentinel),
        ("You left a sentinel for each token; a span leaves one, so that its length must be guessed.",
         spans_sentinel_per_token),
        ("The end of a span is not part of it, as in Python's slices.", spans_end_included),
        ("Your target lacks the sentinels that say which gap is being filled.", spans_bare_target),
    )  # fmt: skip
    for ids, where in SPAN_CASES:
        want = spans(ids, where, SENTINELS)
        got = answer(list(ids), list(where), list(SENTINELS))
        require(isinstance(got, tuple | list) and len(got) == 2, "return two lists: source and target")
        source, target = ([int(token) for token in part] for part in got)
        if (source, target) == want:
            continue
        for message, wrong in says:
            if (source, target) == tuple(wrong(ids, where, SENTINELS)):
                raise Mistake(message)
        which, said, right = ("source", source, want[0]) if source != want[0] else ("target", target, want[1])
        raise Mistake(f"for spans {where} your {which} is {said}; it should be {right}.")


def _grade_cross_attention(answer: Callable[..., Any]) -> None:
    given = X, MEMORY, W_Q, W_K, W_V
    mistakes = {
        "Keys and values come from the text that is written: that is self-attention. They come from memory.": (
            cross_self(*given)
        ),
        "Queries come from memory, keys and values from x: turn it around, each new token asks the source.": (
            cross_turned(*given)
        ),
        "The scale is missing: divide the scores by the root of the head's width.": cross_unscaled(*given),
        "Your softmax runs over the queries; each query's weights over the source add up to 1.": cross_wrong_axis(
            *given
        ),
        "You applied a causal mask; the source was there before the first word was written.": cross_causal(*given),
    }
    same(answer(*(part.clone() for part in given)), cross_attention(*given), "your output", mistakes=mistakes)


def _grade_count(answer: Callable[..., Any]) -> None:
    wrong = {
        "Keys and values have fewer heads than queries: their matrices are width x (kv_heads * head_width).": (
            count_without_groups
        ),
        "You counted the head although it is tied: it is the embedding's own matrix.": count_head_again,
        "SwiGLU has three matrices: gate, up and down.": count_two_matrices,
        "The norms are missing: two in each layer and one at the end, a weight for each of width entries.": (
            count_without_norms
        ),
        "One norm is missing: the last layer's output passes one more before the head.": count_last_norm_missing,
        "Your attention matrices are width x width; heads times head_width need not be the width, and keys and values "
        "have heads of their own.": count_square_attention,
    }
    for sizes in (SIZES[2], SIZES[1], SIZES[0]):
        got = answer(*sizes)
        require(isinstance(got, int), f"return an integer, not a {type(got).__name__}")
        want = count(*sizes)
        for message, mistaken in wrong.items():
            if got == mistaken(*sizes) != want:
                raise Mistake(message)
        require(got == want, f"for {sizes} you count {got:,}; there are {want:,}.")


EXERCISES = [
    Exercise(
        name="architecture_families.prefix_mask",
        task="Give the mask of a prefix decoder for one row of `length` tokens, the first `prefix` of which are the "
        "prefix: (length, length), True where the row may see the column.",
        difficulty=1,
        minutes=5,
        grade=_grade_prefix_mask,
        solution=prefix_mask,
        wrong=[
            Wrong(mask_transposed, "Rows and columns are swapped"),
            Wrong(mask_causal, "That is the causal mask"),
            Wrong(mask_one_more, "One token too many"),
            Wrong(mask_open, "an encoder's mask"),
            Wrong(mask_prefix_alone, "do not see the prefix"),
            Wrong(mask_not_itself, "does not see itself"),
        ],
        hint="Two conditions joined by `|`: the column is not later than the row, or the column is in the prefix.",
    ),
    Exercise(
        name="architecture_families.masking",
        task="Give inputs and labels of masked language modelling: of the chosen tokens 80% become the mask, 10% the "
        "random token given, 10% stay. Labels are -100 where nothing was chosen.",
        difficulty=2,
        minutes=7,
        grade=_grade_masking,
        solution=masking,
        wrong=[
            Wrong(all_masked, "You masked every chosen token"),
            Wrong(labels_everywhere, "labels are set everywhere"),
            Wrong(labels_where_masked, "only where the mask stands"),
            Wrong(fate_swapped, "kept and the replaced are swapped"),
            Wrong(fate_without_choice, "tokens that were not chosen"),
        ],
        hint="torch.where(chosen & (fate < 0.8), mask_id, ids), then once more for 0.8 to 0.9.",
    ),
    Exercise(
        name="architecture_families.spans",
        task="Give source and target of span corruption. Spans are (start, end) in order; sentinels one more than "
        "spans.",
        difficulty=2,
        minutes=8,
        grade=_grade_spans,
        solution=spans,
        wrong=[
            Wrong(spans_without_end, "The last sentinel is missing"),
            Wrong(spans_one_sentinel, "share one sentinel"),
            Wrong(spans_sentinel_per_token, "a sentinel for each token"),
            Wrong(spans_end_included, "The end of a span"),
            Wrong(spans_bare_target, "lacks the sentinels"),
        ],
        hint="Walk over the spans with a position `at`; copy what stands before a span, then leave its sentinel.",
    ),
    Exercise(
        name="architecture_families.cross_attention",
        task="Give one head of cross-attention: x (T, d) asks memory (S, d); the weights are (d_h, d).",
        difficulty=2,
        minutes=7,
        grade=_grade_cross_attention,
        solution=cross_attention,
        wrong=[
            Wrong(cross_self, "that is self-attention"),
            Wrong(cross_turned, "turn it around"),
            Wrong(cross_unscaled, "The scale is missing"),
            Wrong(cross_wrong_axis, "softmax runs over the queries"),
            Wrong(cross_causal, "You applied a causal mask"),
        ],
        hint="Scores are (T, S); each row's softmax weighs the S values.",
    ),
    Exercise(
        name="architecture_families.count",
        task="Count the parameters of a dense model of the Llama family from its sizes.",
        difficulty=3,
        minutes=8,
        grade=_grade_count,
        solution=count,
        wrong=[
            Wrong(count_without_groups, "fewer heads than queries"),
            Wrong(count_head_again, "although it is tied"),
            Wrong(count_two_matrices, "three matrices"),
            Wrong(count_without_norms, "The norms are missing"),
            Wrong(count_last_norm_missing, "One norm is missing"),
            Wrong(count_square_attention, "need not be the width"),
        ],
        hint="SmolLM2-135M, (49152, 576, 1536, 30, 9, 3, 64, True), has 134,515,008.",
    ),
]
