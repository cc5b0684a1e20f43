"""The whole distribution of the return, not only its mean: exact for a finite process, and learned in two ways.

Categorical (C51): fixed values, learned probabilities. Quantiles (QR-DQN): fixed probabilities, learned values. Knows
tensors and tables; nothing about networks or about how experience is gathered.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignlab.rl.mdp import FiniteMDP, may_end, policy_transitions


class Distribution(NamedTuple):
    """A distribution over finitely many returns. values: (n,) ascending. probs: (n,), sum 1. Both float64."""

    values: Tensor
    probs: Tensor

    def mean(self) -> float:
        """The expected return."""
        return float(self.probs @ self.values)

    def std(self) -> float:
        """The standard deviation of the return."""
        return float((self.probs @ (self.values - self.mean()) ** 2).clamp_min(0).sqrt())

    def below(self, x: float) -> float:
        """P(G <= x)."""
        return float(self.probs[self.values <= x].sum())


def distribution(values: Tensor, probs: Tensor | None = None) -> Distribution:
    """Values (n,) with their probabilities (n,), sorted; equally likely where none are given, as n quantiles are.

    ValueError where the probabilities do not sum to 1.
    """
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    probs = torch.full_like(values, 1 / len(values)) if probs is None else torch.as_tensor(probs, dtype=torch.float64)
    if probs.shape != values.shape:
        raise ValueError(f"{len(values)} values and probabilities of shape {tuple(probs.shape)}; give one for each")
    if (probs < 0).any() or not torch.isclose(probs.sum(), probs.new_ones(()), atol=1e-5):
        raise ValueError(f"the probabilities sum to {probs.sum():g}, the least is {probs.min():g}; they must sum to 1")
    order = values.argsort()
    return Distribution(values[order], probs[order])


def return_distributions(
    mdp: FiniteMDP, policy: Tensor, tail: float = 1e-9, decimals: int = 9, most: int = 100_000
) -> list[list[Distribution]]:
    """The exact distribution of the return Z(s, a) of each action in each state, then following the policy.

    The distributional Bellman equation Z(s, a) = r + gamma Z(s', a'), Bellemare et al. (2017), section 2.1, applied to
    whole distributions step after step: n applications give the return of n steps. policy: (S, A). It ends when the
    probability that an episode still runs, times what later rewards count, is below `tail` from every state. Returns
    equal to `decimals` places are one value. Result: [s][a].
    ValueError where there are more than `most` values (rewards that never add up to the same sum), or no end in sight.
    """
    p, r, pi = mdp.transitions.numpy(), mdp.outcomes.numpy(), policy.double().numpy()  # type: ignore[union-attr]
    terminal = mdp.terminal.numpy()
    moves, _ = policy_transitions(mdp, policy)
    chain = moves.numpy()
    nothing = (np.zeros(1), np.ones(1))
    state = [nothing] * mdp.states

    def after(s: int, a: int) -> tuple[np.ndarray, np.ndarray]:
        if terminal[s]:
            return nothing
        reached = np.flatnonzero(p[s, a])
        values = np.concatenate([r[s, a, t] + mdp.gamma * state[t][0] for t in reached])
        return _merged(values, np.concatenate([p[s, a, t] * state[t][1] for t in reached]), decimals)

    running, weight = (~terminal).astype(float), 1.0
    while running.max() * weight > tail:
        before = running.max() * weight
        state = [
            _merged(
                np.concatenate([z for z, _ in parts]),
                np.concatenate([w * q for w, (_, q) in zip(pi[s][pi[s] > 0], parts, strict=True)]),
                decimals,
            )
            for s, parts in ((s, [after(s, a) for a in np.flatnonzero(pi[s]).tolist()]) for s in range(mdp.states))
        ]
        running, weight = chain @ running * ~terminal, weight * mdp.gamma
        largest = max(len(values) for values, _ in state)
        if largest > most:
            raise ValueError(f"the return takes more than {most} values; round more coarsely (decimals={decimals})")
        if running.max() * weight >= before and mdp.gamma == 1 and not may_end(moves, mdp.terminal).all():
            raise ValueError("gamma is 1 and from some state this policy never ends: the return has no distribution")
    return [[_as_distribution(*after(s, a)) for a in range(mdp.actions)] for s in range(mdp.states)]


def _as_distribution(values: np.ndarray, probs: np.ndarray) -> Distribution:
    return Distribution(torch.from_numpy(values), torch.from_numpy(probs))


def _merged(values: np.ndarray, probs: np.ndarray, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Equal values as one, ascending. -0.0 counts as 0.0."""
    unique, index = np.unique(np.round(values, decimals) + 0.0, return_inverse=True)
    return unique, np.bincount(index.ravel(), weights=probs, minlength=len(unique))


def mixture(parts: list[Distribution], weights: Tensor, decimals: int = 9) -> Distribution:
    """Which part is drawn first, by its weight, then the return from it: sum_k w_k P_k. weights: (K,)."""
    values = np.concatenate([part.values.numpy() for part in parts])
    probs = np.concatenate([w * part.probs.numpy() for w, part in zip(weights.tolist(), parts, strict=True)])
    return _as_distribution(*_merged(values, probs, decimals))


def wasserstein(first: Distribution, second: Distribution) -> float:
    """The 1-Wasserstein distance, the area between the two cumulative distributions: int |F(x) - G(x)| dx.

    In units of return: how far probability has to be carried, on average.
    """
    points = torch.cat([first.values, second.values]).sort().values
    return float(((_cdf(first, points) - _cdf(second, points)).abs()[:-1] * points.diff()).sum())


def _cdf(one: Distribution, points: Tensor) -> Tensor:
    cumulative = torch.cat([one.probs.new_zeros(1), one.probs.cumsum(0)])
    return cumulative[torch.searchsorted(one.values.contiguous(), points.contiguous(), right=True)]


def cvar(one: Distribution, share: float) -> float:
    """Conditional value at risk: the mean of the worst `share` of the returns, 0 < share <= 1; 1 gives the mean."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must lie in (0, 1]")
    before = one.probs.cumsum(0) - one.probs
    counted = torch.minimum(one.probs, (share - before).clamp_min(0))
    return float(counted @ one.values / counted.sum())


# -- fixed values, learned probabilities


def support(low: float, high: float, atoms: int = 51) -> Tensor:
    """The values z_i of a categorical distribution, (atoms,), evenly spaced from low to high."""
    if not low < high or atoms < 2:
        raise ValueError(f"low {low}, high {high}, atoms {atoms}; give low < high and at least two atoms")
    return torch.linspace(low, high, atoms)


def project(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    """The target r + gamma Z on the fixed atoms: C51, Bellemare et al. (2017), eq. 7 and algorithm 1.

    probs: (..., N) of the next state's distribution. rewards, discounts: (...); the discount is 0 after a terminal
    state, whose whole return is r. atoms: (N,) evenly spaced. Each r + gamma z_j is cut to the range of the atoms, and
    its probability divided between its two neighbours in proportion to nearness. Result: (..., N), the same sum.
    """
    low, high, gap = atoms[0], atoms[-1], atoms[1] - atoms[0]
    moved = (rewards[..., None] + discounts[..., None] * atoms).clamp(low, high)
    place = (moved - low) / gap  # between 0 and N - 1
    left = place.floor().clamp(0, len(atoms) - 2)  # an atom that is hit exactly at the upper end is the right neighbour
    right_share = (place - left).to(probs.dtype)
    index = left.long()
    out = torch.zeros_like(probs)
    out.scatter_add_(-1, index, probs * (1 - right_share))
    return out.scatter_add_(-1, index + 1, probs * right_share)


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the projected target, in nats: C51, algorithm 1, last line. Both (..., N), result (...).

    The target is a constant: no gradient flows into it.
    """
    return -(target.detach() * logits.log_softmax(-1)).sum(-1)


# -- fixed probabilities, learned values


def midpoints(n: int) -> Tensor:
    """The levels (2 i - 1) / 2 n, (n,): quantiles at these give the nearest n equally likely values, by `wasserstein`.

    Dabney et al. (2017), lemma 2.
    """
    return (torch.arange(n) + 0.5) / n


def quantiles(one: Distribution, n: int) -> Tensor:
    """The n quantiles at the midpoints, (n,): what quantile regression would learn from endless samples."""
    levels = midpoints(n).double()
    place = torch.searchsorted(one.probs.cumsum(0).contiguous(), levels - 1e-12)
    return one.values[place.clamp_max(len(one.values) - 1)]


def quantile_loss(predicted: Tensor, targets: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile Huber loss: Dabney et al. (2017), eq. 9 and 10; kappa 0 is plain quantile regression (eq. 8).

    Divided by kappa, as in their later papers, so that it tends to plain quantile regression; at kappa 1 it is theirs.

    predicted: (..., N), the quantiles at the midpoints. targets: (..., M), samples or quantiles of r + gamma Z, taken
    as constants. With u = target - predicted, an error is weighed tau where the target lies above (u > 0) and 1 - tau
    where it lies below. Mean over targets, sum over quantiles, (...).
    """
    u = targets.detach()[..., None, :] - predicted[..., :, None]  # (..., N, M)
    tau = midpoints(predicted.shape[-1]).to(predicted)[:, None]
    weight = (tau - (u.detach() < 0).to(u)).abs()
    if kappa == 0:
        return (weight * u.abs()).mean(-1).sum(-1)
    huber = torch.where(u.abs() <= kappa, 0.5 * u**2, kappa * (u.abs() - 0.5 * kappa))
    return (weight * huber / kappa).mean(-1).sum(-1)
