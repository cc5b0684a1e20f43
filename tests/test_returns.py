"""Returns against their definitions, sum by sum; ends and cuts told apart; importance weights by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from alignlab.rl.returns import discounted_returns, importance_weights, lambda_returns, n_step_returns

GENERATOR = torch.Generator().manual_seed(0)
REWARDS = torch.randn(4, 9, generator=GENERATOR, dtype=torch.float64)
VALUES = torch.randn(4, 9, generator=GENERATOR, dtype=torch.float64)
TERMINATED = torch.zeros(4, 9, dtype=torch.bool)
TERMINATED[1, 3] = TERMINATED[2, 8] = TERMINATED[3, 5] = True
TRUNCATED = torch.zeros(4, 9, dtype=torch.bool)
TRUNCATED[0, 4] = TRUNCATED[3, 1] = True


def n_step(row: int, t: int, n: int, gamma: float) -> float:
    """The n-step return from step t of a row, as its definition says: a sum, stopped by an end or by a cut."""
    total = 0.0
    for k in range(n):
        now = t + k
        total += gamma**k * REWARDS[row, now].item()
        if TERMINATED[row, now]:
            return total
        if k == n - 1 or TRUNCATED[row, now] or now == REWARDS.shape[1] - 1:
            return total + gamma ** (k + 1) * VALUES[row, now].item()
    raise AssertionError


def reach(row: int, t: int) -> int:
    """How many steps there are from t to the end of its episode or row, the last one included."""
    for k in range(REWARDS.shape[1] - t):
        if TERMINATED[row, t + k] or TRUNCATED[row, t + k]:
            return k + 1
    return REWARDS.shape[1] - t


def lambda_return(row: int, t: int, gamma: float, lam: float) -> float:
    """The weighted mean of all n-step returns, weights (1 - lam) lam^(n-1), the rest of the weight on the longest."""
    longest = reach(row, t)
    parts = [(1 - lam) * lam ** (n - 1) * n_step(row, t, n, gamma) for n in range(1, longest)]
    return sum(parts) + lam ** (longest - 1) * n_step(row, t, longest, gamma)


def whole(function: Callable[[int, int], float]) -> Tensor:
    return torch.tensor([[function(row, t) for t in range(9)] for row in range(4)], dtype=torch.float64)


# ---- discounted returns

Returns = Callable[[Tensor, float, Tensor | float], Tensor]


def check_returns(function: Returns) -> None:
    for gamma in (0.0, 0.6, 0.99, 1.0):
        for last in (0.0, 2.5, torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)):
            found = function(REWARDS.clone(), gamma, last)
            tail = torch.zeros(4, dtype=torch.float64) + last
            for row, t in itertools.product(range(4), range(9)):
                want = sum(gamma**k * REWARDS[row, t + k].item() for k in range(9 - t)) + gamma ** (9 - t) * tail[row]
                assert found[row, t].item() == pytest.approx(float(want), abs=1e-12)


def test_discounted_returns_equal_their_sums() -> None:
    check_returns(discounted_returns)


def test_discounted_returns_equal_scipys_filter() -> None:
    want = lfilter([1.0], [1.0, -0.97], REWARDS.numpy()[:, ::-1])[:, ::-1].copy()
    torch.testing.assert_close(discounted_returns(REWARDS, 0.97), torch.from_numpy(want))


def _loop(rewards: Tensor, gamma: float, last: Tensor | float, mix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    following, found = torch.zeros_like(rewards[..., 0]) + last, []
    for t in reversed(range(rewards.shape[-1])):
        following = mix(rewards[..., t], following)
        found.append(following)
    return torch.stack(found[::-1], -1)


WRONG_RETURNS: dict[str, Returns] = {
    "forwards": lambda r, g, v: discounted_returns(r.flip(-1), g, v).flip(-1),
    "cut taken for an end": lambda r, g, v: discounted_returns(r, g, 0.0),
    "discount one step early": lambda r, g, v: _loop(r, g, v, lambda now, later: g * (now + later)),
    "discount left out": lambda r, g, v: discounted_returns(r, 1.0, v),
    "last value not discounted": lambda r, g, v: discounted_returns(r, g, (torch.zeros(4).double() + v) / max(g, 1e-9)),
    "one step too late": lambda r, g, v: discounted_returns(r, g, v).roll(-1, -1),
    "averaged": lambda r, g, v: _loop(r, g, v, lambda now, later: (1 - g) * now + g * later),
    "order not turned back": lambda r, g, v: discounted_returns(r, g, v).flip(-1),
}


@pytest.mark.parametrize("name", WRONG_RETURNS)
def test_wrong_returns_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_returns(WRONG_RETURNS[name])


# ---- n steps and lambda

NStep = Callable[[Tensor, Tensor, Tensor, float, int, Tensor], Tensor]
Lambda = Callable[[Tensor, Tensor, Tensor, float, float, Tensor], Tensor]


def check_n_step(function: NStep) -> None:
    for gamma, n in ((0.9, 1), (0.9, 3), (1.0, 2), (0.5, 9), (0.9, 40)):
        want = whole(lambda row, t, n=n, gamma=gamma: n_step(row, t, min(n, 9 - t), gamma))  # type: ignore[misc]
        found = function(REWARDS, VALUES, TERMINATED, gamma, n, TRUNCATED)
        torch.testing.assert_close(found, want, atol=1e-12, rtol=0)


def check_lambda(function: Lambda) -> None:
    for gamma, lam in ((0.9, 0.0), (0.9, 0.7), (1.0, 0.5), (0.6, 1.0)):
        want = whole(lambda row, t, gamma=gamma, lam=lam: lambda_return(row, t, gamma, lam))  # type: ignore[misc]
        found = function(REWARDS, VALUES, TERMINATED, gamma, lam, TRUNCATED)
        torch.testing.assert_close(found, want, atol=1e-12, rtol=0)


def test_n_step_returns_equal_their_sums() -> None:
    check_n_step(n_step_returns)


def test_lambda_returns_are_the_weighted_mean_of_all_n_step_returns() -> None:
    check_lambda(lambda_returns)


NONE = torch.zeros_like(TERMINATED)


def _not_stopped(r: Tensor, v: Tensor, over: Tensor, gamma: float, n: int, cut: Tensor) -> Tensor:
    return n_step_returns(r, v, NONE, gamma, n, NONE)


WRONG_N_STEP: dict[str, NStep] = {
    "end bootstrapped": lambda r, v, over, g, n, cut: n_step_returns(r, v, NONE, g, n, over | cut),
    "cut taken for an end": lambda r, v, over, g, n, cut: n_step_returns(r, v, over | cut, g, n, cut),
    "next episode's rewards counted": _not_stopped,
    "one step too many": lambda r, v, over, g, n, cut: n_step_returns(r, v, over, g, n + 1, cut),
    "discount left out": lambda r, v, over, g, n, cut: n_step_returns(r, v, over, 1.0, n, cut),
    "value of this state for the next": lambda r, v, over, g, n, cut: n_step_returns(r, v.roll(1, -1), over, g, n, cut),
    "no bootstrap": lambda r, v, over, g, n, cut: n_step_returns(r, 0 * v, over, g, n, cut),
}

WRONG_LAMBDA: dict[str, Lambda] = {
    "end bootstrapped": lambda r, v, over, g, lam, cut: lambda_returns(r, v, NONE, g, lam, over | cut),
    "cut taken for an end": lambda r, v, over, g, lam, cut: lambda_returns(r, v, over | cut, g, lam, cut),
    "next episode's rewards counted": lambda r, v, over, g, lam, cut: lambda_returns(r, v, NONE, g, lam, NONE),
    "lambda and one minus lambda swapped": lambda r, v, over, g, lam, cut: lambda_returns(r, v, over, g, 1 - lam, cut),
    "trace not decayed by gamma": lambda r, v, over, g, lam, cut: lambda_returns(r, v, over, 1.0, lam, cut),
    "trace decayed by lambda twice": lambda r, v, over, g, lam, cut: lambda_returns(r, v, over, g, lam**2, cut),
    "TD(0)": lambda r, v, over, g, lam, cut: lambda_returns(r, v, over, g, 0.0, cut),
}


@pytest.mark.parametrize("name", WRONG_N_STEP)
def test_wrong_n_step_returns_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_n_step(WRONG_N_STEP[name])


@pytest.mark.parametrize("name", WRONG_LAMBDA)
def test_wrong_lambda_returns_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_lambda(WRONG_LAMBDA[name])


# ---- importance weights

Weights = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_weights(function: Weights) -> None:
    """Averaged over everything that the behaviour may do, weighted returns are the target's; hence unbiased."""
    target = torch.tensor([0.7, 0.3], dtype=torch.float64)
    behaviour = torch.tensor([0.4, 0.6], dtype=torch.float64)
    reward = torch.tensor([1.0, -2.0], dtype=torch.float64)
    sequences = torch.tensor(list(itertools.product(range(2), repeat=3)))  # all sequences of three actions
    running = torch.ones(8, 3, dtype=torch.bool)
    running[sequences[:, 0] == 1, 1:] = False  # action 1 at the first step ends the episode
    steps = torch.where(running, reward[sequences], 0.0)

    def mean(probabilities: Tensor, weights: Tensor) -> Tensor:
        return (probabilities[sequences].prod(-1)[:, None] * weights * steps).sum(0)  # expected reward of each step

    found = function(target[sequences], behaviour[sequences], running)
    torch.testing.assert_close(mean(behaviour, found), mean(target, torch.ones(8, 3, dtype=torch.float64)))
    after = found[~running[:, 2], 2] - found[~running[:, 0] | (sequences[:, 0] == 1), 0]
    assert (after == 0).all(), "an end freezes the weight"


def test_importance_weights_turn_the_behaviours_mean_into_the_targets() -> None:
    check_weights(importance_weights)


WRONG_WEIGHTS: dict[str, Weights] = {
    "inverted": lambda t, b, on: importance_weights(b, t, on),
    "one step only": lambda t, b, on: torch.where(on, t / b, 1.0),
    "left out": lambda t, b, on: torch.ones_like(t),
    "summed for multiplied": lambda t, b, on: (t / b).cumsum(-1),
    "goes on after the end": lambda t, b, on: importance_weights(t, b),
    "the target's probabilities alone": lambda t, b, on: torch.where(on, t, 1.0).cumprod(-1),
    "one step late": lambda t, b, on: torch.cat(
        [torch.ones_like(t[..., :1]), importance_weights(t, b, on)[..., :-1]], -1
    ),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_wrong_importance_weights_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_weights(WRONG_WEIGHTS[name])


# ---- bad input


def test_what_makes_no_return_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is 1\.1"):
        discounted_returns(REWARDS, 1.1)
    with pytest.raises(ValueError, match="gamma is -0"):
        lambda_returns(REWARDS, VALUES, TERMINATED, -0.5, 0.5)
    with pytest.raises(ValueError, match="lambda is 2"):
        lambda_returns(REWARDS, VALUES, TERMINATED, 0.9, 2)
    with pytest.raises(ValueError, match="n is 0"):
        n_step_returns(REWARDS, VALUES, TERMINATED, 0.9, 0)
    with pytest.raises(ValueError, match="next_values are"):
        n_step_returns(REWARDS, VALUES[:, 1:], TERMINATED, 0.9, 2)
    with pytest.raises(ValueError, match="rewards hold a number that is not finite: nan"):
        discounted_returns(torch.tensor([1.0, torch.nan]), 0.9)
    with pytest.raises(ValueError, match="must cover the target"):
        importance_weights(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.0]))
