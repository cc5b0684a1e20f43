"""Exercises of the lab ch01_open_the_model: norm, rotary positions, grouped attention, counting, one cached step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Mistake, Wrong, require, same

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(3, 5, 6, generator=GENERATOR, dtype=torch.float64) + 0.3
WEIGHT = torch.tensor([0.5, 1.5, -1.0, 2.0, 0.8, 1.1], dtype=torch.float64)
EPSILON = 0.05
TURNED = torch.randn(5, 8, generator=GENERATOR, dtype=torch.float64)
POSITIONS = torch.tensor([0, 1, 2, 7, 30])
Q = torch.randn(6, 5, 4, generator=GENERATOR, dtype=torch.float64)
K, V = torch.randn(2, 2, 5, 4, generator=GENERATOR, dtype=torch.float64)
MODELS = (  # SmolLM2-135M, a small model without tied weights and with wider heads, Llama 2 7B
    (49_152, 576, 1_536, 30, 9, 3, 64, True),
    (1_000, 64, 200, 3, 4, 2, 24, False),
    (32_000, 4_096, 11_008, 32, 32, 32, 128, False),
)
STEP = tuple(torch.randn(3, 4, generator=GENERATOR, dtype=torch.float64))
PAST = tuple(torch.randn(2, 6, 4, generator=GENERATOR, dtype=torch.float64))


# ---- solutions
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root of the mean square; epsilon stands under the root."""
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """The two halves are real and imaginary parts; each pair has its own frequency."""
    left, right = x.chunk(2, dim=-1)
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Neighbouring query heads share a key head; scores are scaled, masked, and normalized over the keys."""
    k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


def parameters(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    """Embedding, layers (two square-ish and two narrow projections, three of the MLP, two norms), last norm, head."""
    layer = 2 * d * heads * d_h + 2 * d * kv_heads * d_h + 3 * d * d_ff + 2 * d
    return vocab * d + layers * layer + d + (0 if tied else vocab * d)


def cached_step(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The new key and value join the cache first: a token sees itself."""
    keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
    weights = (keys @ q / len(q) ** 0.5).softmax(-1)
    return weights @ values, keys, values


# ---- wrong answers
def epsilon_outside(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True).sqrt() + eps)


def epsilon_forgotten(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / x.square().mean(-1, keepdim=True).sqrt()


def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()


def norm_by_length(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().sum(-1, keepdim=True) + eps).sqrt()


def norm_over_all(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean() + eps).sqrt()


def interleaved(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten()  # even places first
    return rotate(x[:, order], positions, theta)[:, order.argsort()]


def backwards(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, -positions, theta)


def half_frequencies(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta**0.5)


def one_frequency(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, 1.0)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float = 0.5, diagonal: int = 1, tile: bool = False) -> Tensor:
    """The solution for heads of 4, with one thing to change."""
    times = len(q) // len(k)
    k, v = (x.repeat(times, 1, 1) if tile else x.repeat_interleave(times, dim=0) for x in (k, v))
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(diagonal)
    return (q @ k.transpose(1, 2) * scale).masked_fill(future, -torch.inf).softmax(-1) @ v


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v, scale=1.0)


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v, tile=True)


def sees_one_ahead(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v, diagonal=2)


def sees_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v, diagonal=q.shape[1])


def masked_with_zero(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    return ((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).tril()).softmax(-1) @ v


def over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    return (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(future, -torch.inf).softmax(-2) @ v


def two_matrices(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    return parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, tied) - layers * d * d_ff


def as_many_keys(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    return parameters(vocab, d, d_ff, layers, heads, heads, d_h, tied)


def head_twice(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    return parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, False)


def head_never(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    return parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, True)


def no_norms(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    return parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, tied) - (2 * layers + 1) * d


def last_norm_forgotten(
    vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool
) -> int:
    return parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, tied) - d


def past_only(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = (keys @ q / len(q) ** 0.5).softmax(-1)
    return weights @ values, torch.cat([keys, k[None]]), torch.cat([values, v[None]])


def cache_not_grown(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cached_step(q, k, v, keys, values)[0], keys, values


def put_in_front(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cached_step(q, k, v, keys, values)[0], torch.cat([k[None], keys]), torch.cat([v[None], values])


def query_kept(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cached_step(q, q, v, keys, values)


def step_unscaled(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, keys, values = cached_step(q, k, v, keys, values)
    return (keys @ q).softmax(-1) @ values, keys, values


# ---- graders
def _grade_rms_norm(answer: Callable[..., Any]) -> None:
    given = X, WEIGHT, EPSILON
    mistakes = {
        "Epsilon stands outside the root; it belongs under it, added to the mean square.": epsilon_outside(*given),
        "Epsilon is missing: a row of zeros would be divided by zero.": epsilon_forgotten(*given),
        "That is LayerNorm: RMSNorm subtracts no mean.": layer_norm(*given),
        "You divided by the length of the vector; the mean of the squares is their sum over d.": norm_by_length(*given),
        "You took one mean over everything; each position has its own, over the last axis.": norm_over_all(*given),
    }
    same(answer(X.clone(), WEIGHT.clone(), EPSILON), rms_norm(*given), "your norm", mistakes=mistakes)


def _grade_rotate(answer: Callable[..., Any]) -> None:
    for theta in (100.0, 10_000.0):
        given = TURNED, POSITIONS, theta
        mistakes = {
            "You paired neighbours; this family pairs element i with element i + d_h/2.": interleaved(*given),
            "You turned the other way: the first half becomes left cos - right sin.": backwards(*given),
            "Your frequencies fall too slowly: the exponent is 2i/d_h, for i = 0 ... d_h/2 - 1.": half_frequencies(
                *given
            ),
            "All pairs turn at one speed; pair i turns by position times theta^(-2i/d_h).": one_frequency(*given),
        }
        got = answer(TURNED.clone(), POSITIONS.clone(), theta)
        same(got, rotate(*given), "your rotation", mistakes=mistakes)


def _grade_attention(answer: Callable[..., Any]) -> None:
    given = Q, K, V
    mistakes = {
        "The scores are not scaled: divide them by the root of d_h.": unscaled(*given),
        "The key heads stand in the wrong order: neighbouring query heads share one (repeat_interleave, not repeat).": (
            tiled(*given)
        ),
        "Your mask is off by one: each token sees the one after it.": sees_one_ahead(*given),
        "There is no mask: tokens see the future.": sees_all(*given),
        "You masked with zeros; exp(0) is 1. Fill with minus infinity before the softmax.": masked_with_zero(*given),
        "Your softmax runs over the queries; each row of weights must sum to 1 over the keys.": over_queries(*given),
    }
    same(answer(Q.clone(), K.clone(), V.clone()), attention(*given), "your attention", mistakes=mistakes)


def _grade_parameters(answer: Callable[..., Any]) -> None:
    known = {
        "You gave the MLP two matrices; SwiGLU has three: gate, up and down.": two_matrices,
        "You gave keys and values as many heads as queries; they have kv_heads.": as_many_keys,
        "A tied output head is the embedding itself: count it once.": head_twice,
        "Where the weights are not tied, the output head is a second matrix of V times d.": head_never,
        "The norms are missing: two of d numbers a layer, and one at the end.": no_norms,
        "The last norm, before the output head, is missing.": last_norm_forgotten,
    }
    for sizes in MODELS:
        got, right = answer(*sizes), parameters(*sizes)
        require(isinstance(got, int), f"a count is a whole number; you gave {got!r}")
        for message, wrong in known.items():
            if got == wrong(*sizes) != right:
                raise Mistake(message)
        same(got, right, f"the count for {sizes}", tolerance=0.0)


def _grade_cached_step(answer: Callable[..., Any]) -> None:
    given = *STEP, *PAST
    right = cached_step(*given)
    got = answer(*(x.clone() for x in given))
    require(isinstance(got, tuple) and len(got) == 3, "return three tensors: the output, the keys, the values")
    mistakes = {
        "The token does not see itself: its key and value join the cache before the softmax.": past_only(*given)[0],
        "The scores are not scaled by the root of d_h.": step_unscaled(*given)[0],
        "You put the query into the cache; the key is what later tokens are matched with.": query_kept(*given)[0],
    }
    same(got[0], right[0], "your output", mistakes=mistakes)
    for name, mine, its, front in zip(("keys", "values"), got[1:], right[1:], put_in_front(*given)[1:], strict=True):
        require(mine.shape[0] == its.shape[0], f"Your {name} did not grow: the next token needs this one's too.")
        same(
            mine, its, f"your {name}", mistakes={"You put the new one in front; the cache is in order of time.": front}
        )


EXERCISES = [
    Exercise(
        name="open_the_model.rms_norm",
        task="Divide the last axis of `x` by its root mean square, `eps` under the root, and multiply by `weight`.",
        difficulty=1,
        minutes=3,
        grade=_grade_rms_norm,
        solution=rms_norm,
        wrong=[
            Wrong(epsilon_outside, "Epsilon stands outside"),
            Wrong(epsilon_forgotten, "Epsilon is missing"),
            Wrong(layer_norm, "That is LayerNorm"),
            Wrong(norm_by_length, "length of the vector"),
            Wrong(norm_over_all, "one mean over everything"),
        ],
        hint="x.square().mean(-1, keepdim=True) is the mean square of each position.",
    ),
    Exercise(
        name="open_the_model.rotate",
        task="Turn the pairs (x_i, x_{i + d_h/2}) of `x` (T, d_h) by position times theta^(-2i/d_h).",
        difficulty=2,
        minutes=8,
        grade=_grade_rotate,
        solution=rotate,
        wrong=[
            Wrong(interleaved, "You paired neighbours"),
            Wrong(backwards, "turned the other way"),
            Wrong(half_frequencies, "fall too slowly"),
            Wrong(one_frequency, "turn at one speed"),
        ],
        hint="Turning (a, b) by an angle gives (a cos - b sin, b cos + a sin); `x.chunk(2, -1)` gives a and b.",
    ),
    Exercise(
        name="open_the_model.attention",
        task="Causal attention in which h query heads share h_kv key and value heads: (h, T, d_h) and twice "
        "(h_kv, T, d_h) -> (h, T, d_h).",
        difficulty=2,
        minutes=8,
        grade=_grade_attention,
        solution=attention,
        wrong=[
            Wrong(unscaled, "not scaled"),
            Wrong(tiled, "in the wrong order"),
            Wrong(sees_one_ahead, "off by one"),
            Wrong(sees_all, "There is no mask"),
            Wrong(masked_with_zero, "masked with zeros"),
            Wrong(over_queries, "runs over the queries"),
        ],
        hint="repeat_interleave the key heads, divide by the root of d_h, fill the future with -inf, softmax over -1.",
    ),
    Exercise(
        name="open_the_model.parameters",
        task="Count the parameters of a Llama-family decoder from its sizes; `tied` says whether the output head is "
        "the embedding.",
        difficulty=2,
        minutes=6,
        grade=_grade_parameters,
        solution=parameters,
        wrong=[
            Wrong(two_matrices, "SwiGLU has three"),
            Wrong(as_many_keys, "as many heads as queries"),
            Wrong(head_twice, "count it once"),
            Wrong(head_never, "a second matrix"),
            Wrong(no_norms, "two of d numbers"),
            Wrong(last_norm_forgotten, "The last norm"),
        ],
        hint="A layer: q and o are d by heads*d_h, k and v are d by kv_heads*d_h, gate, up and down are d by d_ff.",
    ),
    Exercise(
        name="open_the_model.cached_step",
        task="One head takes one new token: append its key and value to the cache, attend, and return the output and "
        "both caches.",
        difficulty=2,
        minutes=6,
        grade=_grade_cached_step,
        solution=cached_step,
        wrong=[
            Wrong(past_only, "does not see itself"),
            Wrong(cache_not_grown, "did not grow"),
            Wrong(put_in_front, "in order of time"),
            Wrong(query_kept, "put the query into the cache"),
            Wrong(step_unscaled, "not scaled by the root"),
        ],
        hint="torch.cat([keys, k[None]]) makes the cache longer; there is no mask, since all of it is the past.",
    ),
]
