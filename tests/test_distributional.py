"""Return distributions: exact by enumeration and by sampling, the projection, the quantile loss, distances, tails."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from alignlab.rl import distributional as dist
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, policy_iteration, q_from_v, sample, values

D = torch.float64


def small(gamma: float = 0.9) -> FiniteMDP:
    """Three states, the last terminal; rewards depend on where one lands."""
    p, r = torch.zeros(3, 2, 3, dtype=D), torch.zeros(3, 2, 3, dtype=D)
    p[0, 0], p[0, 1] = torch.tensor([0.0, 0.5, 0.5], dtype=D), torch.tensor([0.2, 0.8, 0.0], dtype=D)
    p[1, 0], p[1, 1] = torch.tensor([0.0, 0.3, 0.7], dtype=D), torch.tensor([0.0, 0.0, 1.0], dtype=D)
    r[0, 0, 1], r[0, 0, 2], r[0, 1, 0], r[0, 1, 1] = 1.0, -2.0, -0.5, 0.25
    r[1, 0, 1], r[1, 0, 2], r[1, 1, 2] = -1.0, 2.0, 0.5
    start, terminal = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([False, False, True])
    return FiniteMDP(p, (p * r).sum(-1), gamma, start, terminal, r)


def by_enumeration(mdp: FiniteMDP, policy: Tensor, s: int, a: int, depth: int) -> dict[float, float]:
    """Every path of `depth` steps after (s, a), its return and its probability: exponential, and independent."""
    found: dict[float, float] = {}

    def walk(state: int, action: int, probability: float, gained: float, worth: float, left: int) -> None:
        for following in range(mdp.states):
            p = probability * mdp.transitions[state, action, following].item()
            if p == 0:
                continue
            total = gained + worth * mdp.outcomes[state, action, following].item()  # type: ignore[index]
            if mdp.terminal[following] or left == 1:
                key = round(total, 9) + 0.0
                found[key] = found.get(key, 0.0) + p
                continue
            for b in range(mdp.actions):
                pi = policy[following, b].item()
                if pi:
                    walk(following, b, p * pi, total, worth * mdp.gamma, left - 1)

    walk(s, a, 1.0, 0.0, 1.0, depth)
    return found


Exact = Callable[[FiniteMDP, Tensor], list[list[dist.Distribution]]]


def check_exact(exact: Exact) -> None:
    """Equal to the enumeration of all paths, with the mean of the linear solve."""
    mdp = small()
    policy = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.5, 0.5]], dtype=D)
    z = exact(mdp, policy)
    q = q_from_v(mdp, values(mdp, policy))
    for s, a in itertools.product(range(2), range(2)):
        assert z[s][a].mean() == pytest.approx(q[s, a].item(), abs=1e-6)
        paths = by_enumeration(mdp, policy, s, a, 11)
        other = dist.distribution(torch.tensor(sorted(paths)), torch.tensor([paths[x] for x in sorted(paths)]))
        assert dist.wasserstein(z[s][a], other) < 1e-3  # what still runs after 11 steps
        assert z[s][a].probs.sum().item() == pytest.approx(1.0, abs=1e-7)
    assert z[2][0].values.tolist() == [0.0]


def test_return_distributions_equal_the_enumeration_of_all_paths() -> None:
    check_exact(dist.return_distributions)


def _other_gamma(mdp: FiniteMDP, policy: Tensor) -> list[list[dist.Distribution]]:
    return dist.return_distributions(mdp.with_gamma(1.0), policy)


def _mean_rewards(mdp: FiniteMDP, policy: Tensor) -> list[list[dist.Distribution]]:
    return dist.return_distributions(
        FiniteMDP(mdp.transitions, mdp.rewards, mdp.gamma, mdp.start, mdp.terminal), policy
    )


def _greedy_instead(mdp: FiniteMDP, policy: Tensor) -> list[list[dist.Distribution]]:
    return dist.return_distributions(mdp, policy_iteration(mdp).policy)


def _cut_short(mdp: FiniteMDP, policy: Tensor) -> list[list[dist.Distribution]]:
    return dist.return_distributions(mdp, policy, tail=0.3)


@pytest.mark.parametrize("wrong", [_other_gamma, _mean_rewards, _greedy_instead, _cut_short])
def test_a_wrong_return_distribution_is_rejected(wrong: Exact) -> None:
    with pytest.raises(AssertionError):
        check_exact(wrong)


def test_return_distributions_are_what_episodes_show() -> None:
    mdp = GridWorld("textbook").mdp(0.95)
    policy = policy_iteration(mdp).policy
    z = dist.return_distributions(mdp, policy)
    home = int(mdp.start.argmax())
    seen = sample(mdp, policy, 20_000, 200, seed=0)
    returns = (seen.rewards * mdp.gamma ** torch.arange(200, dtype=D)).sum(1)
    assert dist.wasserstein(dist.distribution(returns), z[home][int(policy[home].argmax())]) < 0.01


def test_a_policy_that_never_ends_has_no_distribution_at_gamma_one() -> None:
    mdp = GridWorld("corridor", slip=0.0).mdp(1.0)
    stay = torch.zeros(mdp.states, 4, dtype=D)
    stay[:, 3] = 1.0
    with pytest.raises(ValueError, match="never ends"):
        dist.return_distributions(mdp, stay)


def test_too_many_returns_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="more than 50 values"):
        dist.return_distributions(small(0.97), small().uniform(), most=50)


# ---- projection

Project = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def project_by_definition(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    """Bellemare et al. (2017), eq. 7, term by term: O(N^2)."""
    gap = atoms[1] - atoms[0]
    moved = (rewards[..., None] + discounts[..., None] * atoms).clamp(atoms[0], atoms[-1])
    near = (1 - (moved[..., None, :] - atoms[:, None]).abs() / gap).clamp(0, 1)  # (..., i, j)
    return (near * probs[..., None, :]).sum(-1)


def check_projection(project: Project) -> None:
    """Its definition, no probability lost, the mean kept inside the range, edges and ends included."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linspace(-1, 1, 9, dtype=D)
    probs = torch.rand(7, 9, generator=generator, dtype=D).softmax(-1)
    rewards = torch.tensor([0.0, 0.1, 0.25, 5.0, -5.0, 0.3, 1.0], dtype=D)
    discounts = torch.tensor([1.0, 0.9, 1.0, 0.9, 0.9, 0.0, 0.0], dtype=D)
    got = project(probs, rewards, discounts, atoms)
    assert torch.allclose(got, project_by_definition(probs, rewards, discounts, atoms), atol=1e-12)
    assert torch.allclose(got.sum(-1), torch.ones(7, dtype=D), atol=1e-12)
    assert torch.allclose(got[0], probs[0], atol=1e-12)  # nothing moves
    assert got[3, -1] == pytest.approx(1.0) and got[4, 0] == pytest.approx(1.0)  # all beyond an edge
    assert (got[5] @ atoms).item() == pytest.approx(0.3)  # after the end the return is the reward
    inside = project(probs[:1], torch.tensor([0.05], dtype=D), torch.tensor([0.9], dtype=D), atoms)
    assert (inside @ atoms).item() == pytest.approx(0.05 + 0.9 * (probs[0] @ atoms).item())


def test_the_projection_equals_its_definition_and_loses_nothing() -> None:
    check_projection(dist.project)


def _neighbours_by_floor_and_ceil(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    moved = (rewards[..., None] + discounts[..., None] * atoms).clamp(atoms[0], atoms[-1])
    place = (moved - atoms[0]) / (atoms[1] - atoms[0])
    low, high, out = place.floor(), place.ceil(), torch.zeros_like(probs)
    out.scatter_add_(-1, low.long(), probs * (high - place))
    return out.scatter_add_(-1, high.long(), probs * (place - low))


def _falls_off_the_edges(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    moved = rewards[..., None] + discounts[..., None] * atoms
    return dist.project(probs * ((moved >= atoms[0]) & (moved <= atoms[-1])), rewards, discounts, atoms)


def _bootstraps_after_the_end(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    return dist.project(probs, rewards, torch.where(discounts == 0, 0.9, discounts), atoms)


def _shares_swapped(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    place = ((rewards[..., None] + discounts[..., None] * atoms).clamp(-1, 1) + 1) / (atoms[1] - atoms[0])
    left, out = place.floor().clamp(0, len(atoms) - 2), torch.zeros_like(probs)
    out.scatter_add_(-1, left.long(), probs * (place - left))
    return out.scatter_add_(-1, left.long() + 1, probs * (1 - place + left))


def _nearest_atom(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    place = ((rewards[..., None] + discounts[..., None] * atoms).clamp(-1, 1) + 1) / (atoms[1] - atoms[0])
    return torch.zeros_like(probs).scatter_add_(-1, place.round().long(), probs)


def _reward_discounted(probs: Tensor, rewards: Tensor, discounts: Tensor, atoms: Tensor) -> Tensor:
    return dist.project(probs, rewards * discounts, discounts, atoms)


WRONG_PROJECTIONS: dict[str, Project] = {
    "an atom hit exactly loses its mass": _neighbours_by_floor_and_ceil,
    "mass beyond the edges is lost": _falls_off_the_edges,
    "a value after the end": _bootstraps_after_the_end,
    "the neighbours' shares swapped": _shares_swapped,
    "all to the nearest atom": _nearest_atom,
    "the reward discounted too": _reward_discounted,
}


@pytest.mark.parametrize("name", WRONG_PROJECTIONS)
def test_a_wrong_projection_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_projection(WRONG_PROJECTIONS[name])


def test_the_categorical_loss_is_cross_entropy_with_a_constant_target() -> None:
    logits = torch.tensor([[0.2, -1.0, 0.5]], requires_grad=True)
    target = torch.tensor([[0.1, 0.6, 0.3]], requires_grad=True)
    loss = dist.categorical_loss(logits, target)
    p = logits.detach().softmax(-1)
    assert loss.item() == pytest.approx(-(target * p.log()).sum().item(), rel=1e-5)
    loss.sum().backward()
    assert logits.grad is not None and torch.allclose(logits.grad, p - target.detach(), atol=1e-6)  # the known gradient
    assert target.grad is None


# ---- quantiles

QuantileLoss = Callable[[Tensor, Tensor, float], Tensor]


def check_quantile_loss(loss: QuantileLoss) -> None:
    """Eq. 8-10 as loops; its minimum at the quantiles; a constant target; kappa's limit."""
    theta = torch.tensor([[-0.5, 0.1, 0.7, 2.0]], dtype=D)
    targets = torch.tensor([[0.0, 0.3, -1.4, 1.5, 0.1]], dtype=D)
    for kappa in (1.0, 0.4):
        want = 0.0
        for i in range(4):
            tau = (2 * i + 1) / 8
            for t in targets[0].tolist():
                u = t - theta[0, i].item()
                huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                want += abs(tau - (u < 0)) * huber / kappa / 5
        assert loss(theta, targets, kappa).item() == pytest.approx(want)
    samples = torch.from_numpy(np.random.default_rng(0).normal(size=4001))[None]
    grid = torch.linspace(-3, 3, 1201, dtype=D)
    # Each level on its own: hold the others still, and look for the lowest loss on a grid.
    for i, tau in enumerate(dist.midpoints(4).tolist()):
        theta = torch.zeros(len(grid), 4, dtype=D)
        theta[:, i] = grid
        best = grid[loss(theta, samples.expand(len(grid), -1), 0.0).argmin()].item()
        assert best == pytest.approx(np.quantile(samples.numpy(), tau), abs=0.01)
    moving = torch.tensor([[0.3]], dtype=D, requires_grad=True)
    loss(torch.zeros(1, 2, dtype=D, requires_grad=True), moving, 1.0).sum().backward()
    assert moving.grad is None


def test_quantile_loss_equals_its_definition_and_finds_the_quantiles() -> None:
    check_quantile_loss(dist.quantile_loss)


def _quantile_loss(
    tau_of: Callable[[Tensor], Tensor], flip: bool = False, mean: bool = False, over_kappa: bool = True
) -> QuantileLoss:
    def loss(predicted: Tensor, targets: Tensor, kappa: float) -> Tensor:
        u = targets.detach()[..., None, :] - predicted[..., :, None]
        u = -u if flip else u
        weight = (tau_of(dist.midpoints(predicted.shape[-1])).to(predicted)[:, None] - (u < 0).to(u)).abs()
        error = u.abs()
        if kappa:
            error = torch.where(error <= kappa, 0.5 * u**2, kappa * (error - 0.5 * kappa))
            error = error / kappa if over_kappa else error
        total = (weight * error).mean(-1)
        return total.mean(-1) if mean else total.sum(-1)

    return loss


def _target_moves(predicted: Tensor, targets: Tensor, kappa: float) -> Tensor:
    return dist.quantile_loss(predicted, targets, kappa) + 0 * targets.sum()


WRONG_QUANTILE_LOSSES: dict[str, QuantileLoss] = {
    "tau flipped": _quantile_loss(lambda tau: 1 - tau),
    "error's sign flipped": _quantile_loss(lambda tau: tau, flip=True),
    "levels i / N": _quantile_loss(lambda tau: tau + tau[0]),
    "all medians": _quantile_loss(lambda tau: 0 * tau + 0.5),
    "mean over quantiles": _quantile_loss(lambda tau: tau, mean=True),
    "not divided by kappa": _quantile_loss(lambda tau: tau, over_kappa=False),
    "gradient into the target": _target_moves,
}


@pytest.mark.parametrize("name", WRONG_QUANTILE_LOSSES)
def test_a_wrong_quantile_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_quantile_loss(WRONG_QUANTILE_LOSSES[name])


def test_the_test_itself_accepts_the_same_loss_written_otherwise() -> None:
    check_quantile_loss(_quantile_loss(lambda tau: tau))


def test_quantiles_at_midpoints_are_the_nearest_equally_likely_values() -> None:
    z = dist.distribution(torch.tensor([-1.0, 0.2, 0.7, 1.0]), torch.tensor([0.3, 0.25, 0.25, 0.2]))
    best = dist.wasserstein(dist.distribution(dist.quantiles(z, 3)), z)
    grid = torch.linspace(-1, 1, 11, dtype=D).tolist()
    others = [dist.wasserstein(dist.distribution(torch.tensor(x)), z) for x in itertools.combinations(grid, 3)]
    assert best <= min(others) + 1e-12
    ends = (torch.arange(3, dtype=D) + 1) / 3
    worse = torch.tensor([z.values[int((z.probs.cumsum(0) >= t - 1e-9).nonzero()[0])] for t in ends])
    assert dist.wasserstein(dist.distribution(worse), z) > best + 0.01


# ---- distances and tails


@pytest.mark.parametrize("seed", range(5))
def test_wasserstein_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=7), rng.normal(size=4)
    p, q = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(4))
    first, second = (
        dist.distribution(torch.tensor(a), torch.tensor(p)),
        dist.distribution(torch.tensor(b), torch.tensor(q)),
    )
    assert dist.wasserstein(first, second) == pytest.approx(stats.wasserstein_distance(a, b, p, q))
    assert dist.wasserstein(first, first) == 0.0


def test_cvar_is_the_mean_of_the_worst_share() -> None:
    z = dist.distribution(torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.5, 0.2, 0.3]))
    assert dist.cvar(z, 0.1) == pytest.approx(-1.0)
    assert dist.cvar(z, 0.4) == pytest.approx((0.2 * -1.0 + 0.2 * 0.0) / 0.4)
    assert dist.cvar(z, 1.0) == pytest.approx(z.mean()) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="share is 0"):
        dist.cvar(z, 0.0)


def test_a_mixture_draws_its_part_first() -> None:
    parts = [dist.distribution(torch.tensor([0.0, 1.0])), dist.distribution(torch.tensor([1.0]))]
    both = dist.mixture(parts, torch.tensor([0.5, 0.5]))
    assert both.values.tolist() == [0.0, 1.0] and both.probs.tolist() == pytest.approx([0.25, 0.75])


def test_moments_of_a_distribution() -> None:
    z = dist.distribution(torch.tensor([1.0, -1.0]), torch.tensor([0.75, 0.25]))
    assert (z.mean(), z.std(), z.below(0.0)) == pytest.approx((0.5, 0.75**0.5, 0.25))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dist.distribution(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.4])), "sum to 0.9"),
        (lambda: dist.distribution(torch.tensor([1.0, 2.0]), torch.tensor([1.0])), "one for each"),
        (lambda: dist.support(1.0, -1.0), "low < high"),
        (lambda: dist.support(-1.0, 1.0, 1), "two atoms"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
