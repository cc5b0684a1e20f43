"""Exercises of the lab ch04_fast_decoding: the cache in bytes, the residual, the chance to stay, length, tree mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

P = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
"""What the target gives four tokens."""

Q = torch.tensor([0.1, 0.6, 0.05, 0.25], dtype=torch.float64)
"""What the draft gives them."""

PARENTS = (-1, 0, 0, 1, 1, 2, 3)
"""A tree: two children of the root, three grandchildren, one below."""


# ---- solutions
def cache_bytes(tokens: int, layers: int, heads: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    """A key and a value for each token, layer and key-value head; query heads keep nothing."""
    return 2 * tokens * layers * kv_heads * head_dim * bytes_per_number


def residual(p: Tensor, q: Tensor) -> Tensor:
    """What the draft gives too rarely, normalized."""
    more = (p - q).clamp(min=0)
    return more / more.sum()


def chance_to_stay(p: Tensor, q: Tensor) -> float:
    """Sum over x of q(x) min(1, p(x) / q(x)), which is min(p(x), q(x))."""
    return float(torch.minimum(p, q).sum())


def best_length(rate: float, cost: float, longest: int) -> int:
    """Expected tokens of a round over its time: length draft steps and one pass."""

    def speed(length: int) -> float:
        return sum(rate**k for k in range(length + 1)) / (length * cost + 1)

    return max(range(1, longest + 1), key=speed)


def tree_mask(parents: Sequence[int]) -> Tensor:
    """A node sees what its parent sees, and itself."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


# ---- wrong answers
def keys_only(tokens: int, layers: int, heads: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return cache_bytes(tokens, layers, heads, kv_heads, head_dim, bytes_per_number) // 2


def all_query_heads(tokens: int, layers: int, heads: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return cache_bytes(tokens, layers, heads, heads, head_dim, bytes_per_number)


def one_layer(tokens: int, layers: int, heads: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return cache_bytes(tokens, 1, heads, kv_heads, head_dim, bytes_per_number)


def target_itself(p: Tensor, q: Tensor) -> Tensor:
    return p


def not_normalized(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).clamp(min=0)


def absolute_difference(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs() / (p - q).abs().sum()


def reversed_residual(p: Tensor, q: Tensor) -> Tensor:
    return residual(q, p)


def drawn_from_target(p: Tensor, q: Tensor) -> float:
    return float((p * (p / q).clamp(max=1)).sum())


def plain_average(p: Tensor, q: Tensor) -> float:
    return float((p / q).clamp(max=1).mean())


def chance_of_meeting(p: Tensor, q: Tensor) -> float:
    return float((p * q).sum())


def total_variation(p: Tensor, q: Tensor) -> float:
    return 1 - chance_to_stay(p, q)


def longest_is_best(rate: float, cost: float, longest: int) -> int:
    return longest


def without_bonus(rate: float, cost: float, longest: int) -> int:
    return max(range(1, longest + 1), key=lambda g: sum(rate**k for k in range(1, g + 1)) / (g * cost + 1))


def without_pass(rate: float, cost: float, longest: int) -> int:
    return max(range(1, longest + 1), key=lambda g: sum(rate**k for k in range(g + 1)) / (g * cost))


def as_if_each_alone(rate: float, cost: float, longest: int) -> int:
    return max(range(1, longest + 1), key=lambda g: (1 + g * rate) / (g * cost + 1))


def all_before(parents: Sequence[int]) -> Tensor:
    return torch.ones(len(parents), len(parents)).tril().bool()


def parents_only(parents: Sequence[int]) -> Tensor:
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node, parent] = True
    return mask


def blind_to_itself(parents: Sequence[int]) -> Tensor:
    return tree_mask(parents) & ~torch.eye(len(parents), dtype=torch.bool)


def transposed(parents: Sequence[int]) -> Tensor:
    return tree_mask(parents).T


# ---- graders
def _grade_cache_bytes(answer: Callable[..., Any]) -> None:
    for sizes in ((2048, 30, 9, 3, 64, 4), (100, 4, 4, 2, 32, 2)):
        mistakes = {
            "You counted half: a token leaves a key and a value.": keys_only(*sizes),
            "You counted the query heads. Only the key-value heads are kept; the queries share them.": (
                all_query_heads(*sizes)
            ),
            "You counted one layer; every layer keeps its own.": one_layer(*sizes),
        }
        same(answer(*sizes), cache_bytes(*sizes), "your number of bytes", mistakes=mistakes)


def _grade_residual(answer: Callable[..., Any]) -> None:
    for p, q in ((P, Q), (Q, P)):
        mistakes = {
            "You draw from p itself. Then tokens that the draft gives often come too often in all.": target_itself(
                p, q
            ),
            "Yours does not sum to 1.": not_normalized(p, q),
            "You took the absolute difference; where q is larger, nothing may be added.": absolute_difference(p, q),
            "The sides are swapped: what is missing is p - q.": reversed_residual(p, q),
        }
        same(answer(p.clone(), q.clone()), residual(p, q), "your residual", mistakes=mistakes)


def _grade_chance_to_stay(answer: Callable[..., Any]) -> None:
    third = torch.tensor([0.05, 0.05, 0.1, 0.8], dtype=torch.float64)
    for p, q in ((P, Q), (P, third)):
        mistakes = {
            "You averaged over tokens drawn from p; the draft draws them from q.": drawn_from_target(p, q),
            "You averaged over the vocabulary; likely tokens must count more.": plain_average(p, q),
            "You computed how often two independent draws agree.": chance_of_meeting(p, q),
            "You computed the chance to be rejected.": total_variation(p, q),
        }
        same(answer(p.clone(), q.clone()), chance_to_stay(p, q), "your chance", mistakes=mistakes)


def _grade_best_length(answer: Callable[..., Any]) -> None:
    got = [answer(*case) for case in CASES]
    require(all(isinstance(g, int) for g in got), f"your lengths are {got}; return a whole number")
    says = {
        longest_is_best: "You always take the longest. Late guesses seldom stand, and each costs a draft step.",
        without_bonus: "The bonus is missing: a pass gives one token more than it accepts.",
        without_pass: "You left out the pass itself: a round takes length * cost + 1.",
        as_if_each_alone: "You count each guess by itself. A guess stays only if all before it do: rate^k.",
    }
    for wrong, message in says.items():
        require(got != [wrong(*case) for case in CASES], message)
    want = [best_length(*case) for case in CASES]
    require(got == want, f"for (rate, cost, longest) = {CASES} yours are {got}; right are {want}")


CASES = [(0.8, 0.1, 12), (0.5, 0.2, 8), (0.9, 0.02, 30), (0.3, 0.5, 4)]
"""Rates, costs and longest lengths on which each of the mistakes shows."""


def _grade_tree_mask(answer: Callable[..., Any]) -> None:
    got = answer(list(PARENTS))
    require(torch.is_tensor(got), f"your mask is a {type(got).__name__}; return a tensor")
    mistakes = {
        "Your nodes see all that stand before them, siblings too: then a guess is read as part of a text that nobody "
        "means.": all_before(PARENTS).double(),
        "Your nodes see their parents, but not the parents of those.": parents_only(PARENTS).double(),
        "Your nodes do not see themselves.": blind_to_itself(PARENTS).double(),
        "Rows and columns are swapped: ancestors see their descendants.": transposed(PARENTS).double(),
    }
    same(got.double(), tree_mask(PARENTS).double(), "your mask (1 for True)", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="fast_decoding.cache_bytes",
        task="Give the bytes of the KV cache of one sequence of `tokens` tokens.",
        difficulty=1,
        minutes=3,
        grade=_grade_cache_bytes,
        solution=cache_bytes,
        wrong=[
            Wrong(keys_only, "counted half"),
            Wrong(all_query_heads, "counted the query heads"),
            Wrong(one_layer, "counted one layer"),
        ],
        hint="Which tensors does a later token need of an earlier one, in each layer?",
    ),
    Exercise(
        name="fast_decoding.residual",
        task="From the probabilities (V,) of target and draft, give what a rejected token is replaced from, (V,).",
        difficulty=2,
        minutes=5,
        grade=_grade_residual,
        solution=residual,
        wrong=[
            Wrong(target_itself, "draw from p itself"),
            Wrong(not_normalized, "does not sum to 1"),
            Wrong(absolute_difference, "absolute difference"),
            Wrong(reversed_residual, "sides are swapped"),
        ],
        hint="An accepted x has probability min(p(x), q(x)). What is missing to p(x)?",
    ),
    Exercise(
        name="fast_decoding.chance_to_stay",
        task="Give the probability that a token drawn from q is accepted, over all tokens.",
        difficulty=2,
        minutes=5,
        grade=_grade_chance_to_stay,
        solution=chance_to_stay,
        wrong=[
            Wrong(drawn_from_target, "drawn from p"),
            Wrong(plain_average, "averaged over the vocabulary"),
            Wrong(chance_of_meeting, "two independent draws"),
            Wrong(total_variation, "chance to be rejected"),
        ],
        hint="Sum over x: the chance to draw it, times the chance to keep it.",
    ),
    Exercise(
        name="fast_decoding.best_length",
        task="Give the draft length from 1 to `longest` that yields the most tokens for the time.",
        difficulty=3,
        minutes=8,
        grade=_grade_best_length,
        solution=best_length,
        wrong=[
            Wrong(longest_is_best, "always take the longest"),
            Wrong(without_bonus, "bonus is missing"),
            Wrong(without_pass, "left out the pass itself"),
            Wrong(as_if_each_alone, "each guess by itself"),
        ],
        hint="Tokens: 1 + a + ... + a^g. Time: g draft steps and one pass.",
    ),
    Exercise(
        name="fast_decoding.tree_mask",
        task="From each node's parent (-1 for the root) make the bool mask (n, n) of who sees whom.",
        difficulty=2,
        minutes=8,
        grade=_grade_tree_mask,
        solution=tree_mask,
        wrong=[
            Wrong(all_before, "siblings too"),
            Wrong(parents_only, "not the parents of those"),
            Wrong(blind_to_itself, "do not see themselves"),
            Wrong(transposed, "Rows and columns are swapped"),
        ],
        hint="Parents come before children: a node's row is its parent's row, and the node itself.",
    ),
]
