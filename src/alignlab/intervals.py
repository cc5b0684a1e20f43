"""How sure a measured share is, and whether two measured on the same items differ: three classical answers.

Knows counts and 0/1 outcomes; nothing about models or tasks.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share, Wilson (1927): low and high end, both between 0 and 1.

    right: how many of `total` were right. z: 1.96 for 95%. The interval holds every share p from which the measured one
    is at most z of p's own standard errors away. Unlike p ± z sqrt(p (1 - p) / n) it stays within 0 and 1, and has a
    width where all or none were right. ValueError where total is not positive or right not between 0 and total.
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}; give a total of at least 1, and between 0 and total right")
    share, squared = right / total, z * z
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    half = z / (1 + squared / total) * math.sqrt(share * (1 - share) / total + squared / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(first: Sequence[bool] | Tensor, second: Sequence[bool] | Tensor) -> float:
    """Exact two-sided p-value that two methods are right equally often, from the same items; McNemar (1947).

    first, second: whether each was right, (N,) each, in the same order. Only items on which they differ count: if both
    were equally good, each such item would fall to either side like a coin. No such item gives p = 1.
    """
    a, b = _outcomes(first, second)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    differ, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(differ, k) for k in range(fewer + 1)) / 2**differ
    return min(1.0, 2 * tail)


def paired_difference(
    first: Sequence[bool] | Tensor, second: Sequence[bool] | Tensor, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Share right of the second minus that of the first, with its 95% bootstrap interval, Efron (1979).

    first, second: whether each was right, (N,) each, in the same order. Items are drawn anew with replacement,
    each with both of its outcomes; that is what makes it paired.
    """
    a, b = _outcomes(first, second)
    gains = b.double() - a.double()
    rows = torch.randint(len(gains), (draws, len(gains)), generator=torch.Generator().manual_seed(seed))
    means = gains[rows].mean(-1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return gains.mean().item(), low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, Holm (1979): the chance of one false alarm among all stays below the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _outcomes(first: Sequence[bool] | Tensor, second: Sequence[bool] | Tensor) -> tuple[Tensor, Tensor]:
    a, b = torch.as_tensor(first).bool(), torch.as_tensor(second).bool()
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            f"outcomes of shapes {tuple(a.shape)} and {tuple(b.shape)}; give one for each of the same items"
        )
    return a, b
