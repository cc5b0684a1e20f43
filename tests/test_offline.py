"""Offline learning's data and losses, against what they must satisfy: minimizers, gradients, and the rows of a log."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.rl.environments import Copies
from alignlab.rl.offline import advantage_weights, collect, cql_penalty, expectile_loss


def swinging(seen: Tensor) -> Tensor:
    return (seen[:, 2] + 0.5 * seen[:, 3] + 0.3 * seen[:, 1] > 0.05).long()


# ---- the log
def test_a_log_holds_transitions_and_no_resets() -> None:
    """Row by row: the next observation is the following one's own, except where an episode ended."""
    log = collect(lambda seen: torch.ones(len(seen), dtype=torch.long), "CartPole-v1", 60, copies=3, seed=2)
    assert log.observation.shape == (3, 60, 4) and log.action.shape == log.terminated.shape == (3, 60)
    for copy in range(3):
        for at in range(59):
            goes_on = torch.equal(log.next_observation[copy, at], log.observation[copy, at + 1])
            assert goes_on == (not log.ended[copy, at])
    assert (log.reward == 1).all()  # a row in which a copy only began anew would have reward 0
    assert log.terminated.sum() >= 15  # a pole that is pushed one way falls within 8 to 11 steps


def test_the_clock_ends_an_episode_and_terminates_nothing() -> None:
    log = collect(swinging, "CartPole-v1", 600, copies=1, seed=0)
    ends = log.ended[0].nonzero()[:, 0].tolist()
    assert ends[0] == 499 and not log.terminated[0, 499]


def test_a_log_is_what_stepping_by_hand_sees() -> None:
    log, world = collect(swinging, "CartPole-v1", 25, copies=2, seed=5), Copies("CartPole-v1", 2, seed=5)
    for at in range(25):
        assert torch.equal(log.observation[:, at], world.observation)
        step = world.step(swinging(world.observation))
        assert torch.equal(log.next_observation[:, at], step.next_observation)


def test_drawn_rows_stay_together_and_stay_with_their_copy() -> None:
    log = collect(swinging, "CartPole-v1", 40, copies=2, seed=1)
    batch = log.draw(200, torch.Generator().manual_seed(0))
    for copy in range(2):
        own = {tuple(row) for row in torch.cat([log.observation[copy], log.next_observation[copy]], -1).tolist()}
        drawn = [tuple(row) for row in torch.cat([batch.observation[copy], batch.next_observation[copy]], -1).tolist()]
        assert set(drawn) <= own and len(set(drawn)) > 30


# ---- the losses
Penalty = Callable[[Tensor, Tensor], Tensor]


def check_cql(penalty: Penalty) -> None:
    """Never negative, near zero where the data's action is far the best, with the gradient softmax - onehot; and in one
    state, the sum of penalty and squared error is least where the derivative by hand vanishes."""
    q = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.0, 40.0]], dtype=torch.float64, requires_grad=True)
    action = torch.tensor([0, 2])
    value = penalty(q, action)
    assert value.shape == (2,) and (value >= 0).all() and value[1] < 1e-12
    assert value[0].item() == pytest.approx(torch.tensor([1.0, 3.0, -2.0]).exp().sum().log().item() - 1.0, abs=1e-6)
    gradient = torch.autograd.grad(value.sum(), q)[0]
    torch.testing.assert_close(gradient, q.softmax(-1) - F.one_hot(action, 3))
    free, target, mu = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 2.0, 3.0]), [2, 1, 1]
    rows = torch.repeat_interleave(torch.arange(3), torch.tensor(mu))
    optimizer = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (0.5 * penalty(free.expand(4, 3), rows) + 0.5 * (free[rows] - target[rows]).square()).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    share = torch.tensor(mu).double() / 4
    left = 0.5 * (free.softmax(-1) - share) + share * (free - target)
    assert left.abs().max() < 1e-6
    assert (free[0] - target[0]) > (free[2] - target[2])  # tried twice as often, and pushed down less


def check_expectile(loss: Callable[[Tensor, float], Tensor]) -> None:
    """At 0.5 half the square; the minimizer balances the weighted distances above and below; it grows with tau."""
    u = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(loss(u, 0.5), 0.5 * u.square())
    targets, found = torch.tensor([0.0, 1.0, 5.0, 6.0], dtype=torch.float64), []
    at = torch.linspace(-1, 7, 80_001, dtype=torch.float64)
    for tau in (0.1, 0.5, 0.8, 0.99):
        best = at[loss(targets[:, None] - at, tau).sum(0).argmin()]
        above, below = (targets - best).clamp_min(0).sum(), (best - targets).clamp_min(0).sum()
        assert (tau * above - (1 - tau) * below).abs() < 1e-3
        found.append(best.item())
    assert found == sorted(found) and found[1] == pytest.approx(3.0, abs=1e-3) and found[3] > 5.8


def check_weights(weights: Callable[..., Tensor]) -> None:
    """Cloning with these weights converges to mu exp(beta A) / Z, by the minimizer of the weighted cross-entropy."""
    mu, advantage, beta = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([-1.0, 0.5, 1.0]).double(), 2.0
    weighted = mu * weights(advantage, beta)
    want = mu * torch.exp(beta * advantage)
    torch.testing.assert_close(weighted / weighted.sum(), want / want.sum())
    assert weights(torch.tensor([50.0, -50.0]), 1.0).tolist() == [100.0, pytest.approx(0.0, abs=1e-12)]
    torch.testing.assert_close(weights(advantage, 0.0), torch.ones(3).double())


def test_the_conservative_penalty() -> None:
    check_cql(cql_penalty)


def test_the_expectile_loss() -> None:
    check_expectile(expectile_loss)
    for tau in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="strictly between"):
            expectile_loss(torch.ones(2), tau)


def test_the_advantage_weights() -> None:
    check_weights(advantage_weights)


WRONG_PENALTIES: dict[str, Penalty] = {
    "the sign is flipped": lambda q, a: q.gather(-1, a[:, None]).squeeze(-1) - q.logsumexp(-1),
    "a maximum for the log-sum": lambda q, a: q.amax(-1) - q.gather(-1, a[:, None]).squeeze(-1),
    "a mean for the log-sum": lambda q, a: q.mean(-1) - q.gather(-1, a[:, None]).squeeze(-1),
    "the data's action is not pushed up": lambda q, a: q.logsumexp(-1),
    "the sum runs over the batch": lambda q, a: q.logsumexp(0)[a] - q.gather(-1, a[:, None]).squeeze(-1),
}
WRONG_EXPECTILES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "tau is flipped": lambda u, tau: torch.where(u < 0, tau, 1 - tau) * u.square(),
    "a quantile: distances, not squares": lambda u, tau: torch.where(u < 0, 1 - tau, tau) * u.abs(),
    "no asymmetry": lambda u, tau: 0.5 * u.square(),
}
WRONG_WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "beta divides": lambda a, beta, most=100.0: (a / max(beta, 1e-9)).exp().clamp_max(most),
    "not cut off": lambda a, beta, most=100.0: (beta * a).exp(),
    "the sign is flipped": lambda a, beta, most=100.0: (-beta * a).exp().clamp_max(most),
    "a softmax over the batch": lambda a, beta, most=100.0: (beta * a).softmax(-1),
}


@pytest.mark.parametrize("wrong", WRONG_PENALTIES.values(), ids=WRONG_PENALTIES.keys())
def test_a_wrong_penalty_is_rejected(wrong: Penalty) -> None:
    with pytest.raises(AssertionError):
        check_cql(wrong)


@pytest.mark.parametrize("wrong", WRONG_EXPECTILES.values(), ids=WRONG_EXPECTILES.keys())
def test_a_wrong_expectile_is_rejected(wrong: Callable[[Tensor, float], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_expectile(wrong)


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS.keys())
def test_wrong_weights_are_rejected(wrong: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_weights(wrong)
