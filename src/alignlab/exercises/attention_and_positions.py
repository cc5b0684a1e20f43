"""Exercises of the lab ch01_attention_and_positions: the cache, grouped heads, turning, joining blocks, absorbing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

Heads = tuple[Tensor, Tensor, Tensor]
Block = tuple[Tensor, Tensor, Tensor]


def _drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = 2 * _drawn(2, 6, 5, 4, seed=0), _drawn(2, 2, 5, 4, seed=1), _drawn(2, 2, 5, 4, seed=2)
X, POSITIONS = _drawn(4, 8, seed=3), torch.tensor([0, 1, 7, 30])
SCORES, VALUES = 3 * _drawn(3, 7, seed=4), _drawn(7, 2, seed=5)
QUERY, MAKE, LATENTS = _drawn(3, 4, 5, seed=6), _drawn(3, 5, 6, seed=7), _drawn(7, 6, seed=8)
SMOLLM2 = (30, 3, 64, 1000, 5, 4)
DEEPSEEK = (60, 128, 128, 1000, 1, 2, (512, 64))


# ---- solutions
def cache_bytes(
    layers: int,
    kv_heads: int,
    head_dim: int,
    tokens: int,
    batch: int,
    bytes_per_number: int,
    latent: tuple[int, int] | None = None,
) -> int:
    """Numbers of one token in one layer, times everything else."""
    numbers = 2 * kv_heads * head_dim if latent is None else sum(latent)
    return layers * numbers * tokens * batch * bytes_per_number


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each key head stands beside itself as often as query heads share it; then as always."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def turn(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Each pair (x_i, x_{i + d_h/2}) as a point in the plane, turned by position times frequency."""
    size = x.shape[-1]
    frequencies = theta ** -(torch.arange(0, size, 2, dtype=x.dtype) / size)
    angles = positions[:, None] * frequencies  # (T, d_h / 2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


def join(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    """Both sums count from the larger of the two largest scores."""
    m = torch.maximum(m1, m2)
    first, second = (m1 - m).exp(), (m2 - m).exp()
    return m, l1 * first + l2 * second, o1 * first + o2 * second


def absorbed(q: Tensor, make: Tensor, c: Tensor) -> Tensor:
    """(make^T q)^T c: the queries move to the latents, not the latents to the queries."""
    return (q @ make) @ c.T


# ---- wrong answers
def keys_alone(layers: int, kv: int, d: int, t: int, b: int, n: int, latent: Any = None) -> int:
    return cache_bytes(layers, kv, d, t, b, n, latent) // (1 if latent else 2)


def no_layers(layers: int, kv: int, d: int, t: int, b: int, n: int, latent: Any = None) -> int:
    return cache_bytes(1, kv, d, t, b, n, latent)


def no_bytes(layers: int, kv: int, d: int, t: int, b: int, n: int, latent: Any = None) -> int:
    return cache_bytes(layers, kv, d, t, b, 1, latent)


def latent_twice(layers: int, kv: int, d: int, t: int, b: int, n: int, latent: Any = None) -> int:
    return cache_bytes(layers, kv, d, t, b, n, latent) * (2 if latent else 1)


def latent_for_each_head(layers: int, kv: int, d: int, t: int, b: int, n: int, latent: Any = None) -> int:
    return cache_bytes(layers, kv, d, t, b, n, latent) * (kv if latent else 1)


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
    return grouped(q, k, v)


def without_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return grouped(q * q.shape[-1] ** 0.5, k, v)


def with_future(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


def masked_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1).tril() @ v


def masked_with_zero(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).tril().softmax(-1) @ v


def turned_back(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return turn(x, -positions, theta)


def neighbours(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    halves = torch.cat([x[..., ::2], x[..., 1::2]], dim=-1)
    return torch.stack(turn(halves, positions, theta).chunk(2, dim=-1), dim=-1).flatten(-2)


def dense_frequencies(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return turn(x, positions, theta**0.5)


def positions_from_one(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return turn(x, positions + 1, theta)


def sums_added(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    return torch.maximum(m1, m2), l1 + l2, o1 + o2


def second_not_shrunk(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    m = torch.maximum(m1, m2)
    return m, l1 * (m1 - m).exp() + l2, o1 * (m1 - m).exp() + o2


def values_not_shrunk(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    m, total, _ = join(m1, l1, o1, m2, l2, o2)
    return m, total, o1 + o2


def stretched(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    m = torch.maximum(m1, m2)
    first, second = (m - m1).exp(), (m - m2).exp()
    return m, l1 * first + l2 * second, o1 * first + o2 * second


def averaged(m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor) -> Block:
    m, total, mixed = join(m1, l1, o1, m2, l2, o2)
    return m, total, mixed / total


def one_head_for_all(q: Tensor, make: Tensor, c: Tensor) -> Tensor:
    return (q @ make[0]) @ c.T


def divided(q: Tensor, make: Tensor, c: Tensor) -> Tensor:
    return absorbed(q, make, c) / q.shape[-1] ** 0.5


def heads_summed(q: Tensor, make: Tensor, c: Tensor) -> Tensor:
    return absorbed(q, make, c).sum(0)


# ---- graders
def _grade_cache_bytes(answer: Callable[..., Any]) -> None:
    for given in (SMOLLM2, DEEPSEEK):
        mistakes = {
            "Keys and values are both kept: twice as many numbers.": keys_alone(*given),
            "Every layer has keys and values of its own.": no_layers(*given),
            "That is a count of numbers; each takes bytes_per_number bytes.": no_bytes(*given),
            "Of the latent there is one copy: keys and values are both made from it.": latent_twice(*given),
            "The latent is shared by all heads: do not multiply by them.": latent_for_each_head(*given),
        }
        same(answer(*given), cache_bytes(*given), "your count", mistakes=mistakes)


def _grade_grouped(answer: Callable[..., Any]) -> None:
    mistakes = {
        "Your key heads stand in the order 0, 1, 0, 1, ...: query heads that share one stand side by side, so it is "
        "0, 0, 0, 1, 1, 1 (repeat_interleave, not repeat).": tiled(Q, K, V),
        "The scale is missing: divide the scores by the root of d_h.": without_scale(Q, K, V),
        "Your queries see the future: row t may look at columns 0 to t.": with_future(Q, K, V),
        "You masked after the softmax, so the rows no longer sum to 1: put -inf into the scores before it.": (
            masked_after(Q, K, V)
        ),
        "You masked with 0, which is a score like any other (e^0 = 1): put -inf.": masked_with_zero(Q, K, V),
    }
    same(answer(Q.clone(), K.clone(), V.clone()), grouped(Q, K, V), "your attention", mistakes=mistakes)


def _grade_turn(answer: Callable[..., Any]) -> None:
    for theta in (10_000.0, 100.0):
        given = X, POSITIONS, theta
        mistakes = {
            "You turned the other way: the first of a pair becomes a cos - b sin.": turned_back(*given),
            "You paired neighbours (x_0, x_1); here x_i goes with x_{i + d_h/2}. The original paper pairs neighbours; "
            "weights trained one way do not work the other way.": neighbours(*given),
            "Your frequencies fall half as fast as they should: pair i has theta^(-2i/d_h).": dense_frequencies(*given),
            "Your positions begin at 1; the first token stands at 0 and is not turned.": positions_from_one(*given),
        }
        got = answer(X.clone(), POSITIONS.clone(), theta)
        same(got, turn(*given), "your vector", mistakes=mistakes)


def _part(start: int, stop: int) -> Block:
    scores = SCORES[:, start:stop]
    m = scores.amax(1, keepdim=True)
    p = (scores - m).exp()
    return m, p.sum(1, keepdim=True), p @ VALUES[start:stop]


def _grade_join(answer: Callable[..., Any]) -> None:
    for cut in (2, 5):
        given = *_part(0, cut), *_part(cut, 7)
        got = answer(*(x.clone() for x in given))
        require(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: m, l and o")
        both = torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in got])
        wrong: dict[str, Callable[..., Block]] = {
            "The two sums count from different largest scores: shrink each by e^(its m - the new m) first.": sums_added,
            "You shrank only the first part: where the first holds the larger score, the second must shrink.": (
                second_not_shrunk
            ),
            "l is joined right, but o is not: values were weighed with the same exponentials.": values_not_shrunk,
            "Your exponent has the wrong sign: old sums shrink, by e^(old - new), never above 1.": stretched,
            "You divided already; o stays a sum until the last block has come.": averaged,
        }
        flat = {say: torch.cat([part.flatten() for part in make(*given)]) for say, make in wrong.items()}
        want = torch.cat([part.flatten() for part in join(*given)])
        same(both, want, "m, l and o, one after the other,", mistakes=flat)


def _grade_absorbed(answer: Callable[..., Any]) -> None:
    given = QUERY, MAKE, LATENTS
    mistakes = {
        "All your heads use the first head's matrix: make has one for each.": one_head_for_all(*given),
        "The scores are not to be divided here.": divided(*given),
        "You summed over the heads: each has scores of its own, (h, T, S).": heads_summed(*given),
    }
    same(answer(*(x.clone() for x in given)), absorbed(*given), "your scores", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="attention_and_positions.cache_bytes",
        task="Count the bytes of a KV cache; where `latent` is given as (d_c, d_r), of the latents that MLA keeps.",
        difficulty=1,
        minutes=4,
        grade=_grade_cache_bytes,
        solution=cache_bytes,
        wrong=[
            Wrong(keys_alone, "Keys and values are both kept"),
            Wrong(no_layers, "Every layer has keys"),
            Wrong(no_bytes, "a count of numbers"),
            Wrong(latent_twice, "there is one copy"),
            Wrong(latent_for_each_head, "shared by all heads"),
        ],
        hint="Per token and layer: 2 kv_heads head_dim numbers, or d_c + d_r with a latent.",
    ),
    Exercise(
        name="attention_and_positions.grouped",
        task="Give causal attention of h query heads over h_kv key and value heads, h a multiple of h_kv.",
        difficulty=2,
        minutes=8,
        grade=_grade_grouped,
        solution=grouped,
        wrong=[
            Wrong(tiled, "repeat_interleave, not repeat"),
            Wrong(without_scale, "The scale is missing"),
            Wrong(with_future, "queries see the future"),
            Wrong(masked_after, "masked after the softmax"),
            Wrong(masked_with_zero, "You masked with 0"),
        ],
        hint="k.repeat_interleave(h // h_kv, dim=1), scores over the root of d_h, -inf above the diagonal, softmax.",
    ),
    Exercise(
        name="attention_and_positions.turn",
        task="Turn each pair (x_i, x_{i + d_h/2}) of x (T, d_h) by position times theta^(-2i/d_h).",
        difficulty=2,
        minutes=8,
        grade=_grade_turn,
        solution=turn,
        wrong=[
            Wrong(turned_back, "turned the other way"),
            Wrong(neighbours, "You paired neighbours"),
            Wrong(dense_frequencies, "fall half as fast"),
            Wrong(positions_from_one, "positions begin at 1"),
        ],
        hint="a, b = x.chunk(2, -1); angles (T, d_h/2); the new halves are a cos - b sin and b cos + a sin.",
    ),
    Exercise(
        name="attention_and_positions.join",
        task="Join two parts of a softmax, each given by its largest score m, sum l of exp(score - m) and weighted sum "
        "o of values, into (m, l, o) of the whole.",
        difficulty=3,
        minutes=10,
        grade=_grade_join,
        solution=join,
        wrong=[
            Wrong(sums_added, "count from different largest"),
            Wrong(second_not_shrunk, "shrank only the first part"),
            Wrong(values_not_shrunk, "but o is not"),
            Wrong(stretched, "exponent has the wrong sign"),
            Wrong(averaged, "You divided already"),
        ],
        hint="m = max(m1, m2); multiply l1 and o1 by exp(m1 - m), l2 and o2 by exp(m2 - m), then add.",
    ),
    Exercise(
        name="attention_and_positions.absorbed",
        task="Give the scores q^T (make c) of all heads without making a key: q (h, T, d_h), make (h, d_h, d_c), c (S, "
        "d_c) -> (h, T, S).",
        difficulty=3,
        minutes=10,
        grade=_grade_absorbed,
        solution=absorbed,
        wrong=[
            Wrong(one_head_for_all, "first head's matrix"),
            Wrong(divided, "not to be divided"),
            Wrong(heads_summed, "You summed over the heads"),
        ],
        hint="q^T (make c) = (make^T q)^T c; with rows for vectors that is q @ make, then times c transposed.",
    ),
]
