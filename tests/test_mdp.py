"""Finite decision processes: exact values against linear programmes, enumeration and sampled episodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from alignlab.rl import mdp as dynamic
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP


def random_mdp(seed: int, states: int = 6, actions: int = 3, gamma: float = 0.9) -> FiniteMDP:
    """Every state leads everywhere with some probability; the last one is terminal."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(states, actions, states, generator=generator, dtype=torch.float64) ** 3
    outcomes = torch.randn(states, actions, states, generator=generator, dtype=torch.float64)
    p /= p.sum(-1, keepdim=True)
    start = torch.rand(states, generator=generator, dtype=torch.float64)
    start[-1] = 0.0
    terminal = torch.arange(states) == states - 1
    return FiniteMDP(p, (p * outcomes).sum(-1), gamma, start / start.sum(), terminal, outcomes)


def random_policy(mdp: FiniteMDP, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(mdp.states, mdp.actions, generator=generator, dtype=torch.float64).log_softmax(-1).exp()


def by_walking(mdp: FiniteMDP, policy: Tensor, steps: int) -> Tensor:
    """V by its definition: sum over t of gamma^t times the expected reward after t steps, from each state; (S,)."""
    v = torch.zeros(mdp.states, dtype=torch.float64)
    for s in range(mdp.states):
        there = torch.zeros(mdp.states, dtype=torch.float64)
        there[s] = 1.0
        for t in range(steps):
            onward = torch.zeros(mdp.states, dtype=torch.float64)
            for now, a in itertools.product(range(mdp.states), range(mdp.actions)):
                if not mdp.terminal[now]:
                    weight = there[now] * policy[now, a]
                    v[s] += mdp.gamma**t * weight * mdp.rewards[now, a]
                    onward += weight * mdp.transitions[now, a]
            there = onward
    return v


def by_enumeration(mdp: FiniteMDP) -> Tensor:
    """V* as the best of all deterministic policies, each solved on its own; (S,)."""
    best = torch.full((mdp.states,), -torch.inf, dtype=torch.float64)
    for actions in itertools.product(range(mdp.actions), repeat=mdp.states - 1):
        policy = torch.nn.functional.one_hot(torch.tensor([*actions, 0]), mdp.actions).double()
        p = torch.einsum("sa,sat->st", policy, mdp.transitions)[:-1, :-1]
        r = (policy * mdp.rewards).sum(-1)[:-1]
        v = np.linalg.solve(np.eye(mdp.states - 1) - mdp.gamma * p.numpy(), r.numpy())
        best[:-1] = torch.maximum(best[:-1], torch.from_numpy(v))
    best[-1] = 0.0
    return best


def by_linear_programme(mdp: FiniteMDP) -> Tensor:
    """V* as the smallest V that no action improves on; (S,)."""
    states, actions = mdp.states, mdp.actions
    eye = np.eye(states)[:, None, :].repeat(actions, 1)
    rows = (mdp.gamma * mdp.transitions.numpy() - eye).reshape(-1, states)
    bounds = [(0, 0) if over else (None, None) for over in mdp.terminal.tolist()]
    return torch.from_numpy(linprog(np.ones(states), A_ub=rows, b_ub=-mdp.rewards.numpy().ravel(), bounds=bounds).x)


# ---- the values of a policy

Values = Callable[[FiniteMDP, Tensor], Tensor]


def check_values(values: Values) -> None:
    """Equal to the definition, state by state; 0 at the end; right for gamma 0 and 1."""
    for seed, gamma in ((0, 0.9), (1, 0.5), (2, 0.0), (3, 1.0)):
        mdp = random_mdp(seed, gamma=gamma)
        policy = random_policy(mdp, seed + 10)
        found = values(mdp, policy)
        assert found.shape == (mdp.states,) and found[-1] == 0
        torch.testing.assert_close(found, by_walking(mdp, policy, 400 if gamma == 1 else 250), atol=1e-8, rtol=0)


def test_values_equal_their_definition() -> None:
    check_values(dynamic.values)


def _solve(mdp: FiniteMDP, p: Tensor, r: Tensor, gamma: float | None = None) -> Tensor:
    gamma = mdp.gamma if gamma is None else gamma
    return torch.linalg.lstsq(torch.eye(mdp.states, dtype=torch.float64) - gamma * p, r[:, None]).solution[:, 0]


def _terminal_pays(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    p, r = dynamic.policy_transitions(mdp, policy)
    r = r.clone()
    r[mdp.terminal] = 1.0
    return _solve(mdp, p, r, min(mdp.gamma, 0.99))


def _terminal_starts_anew(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    p, r = dynamic.policy_transitions(mdp, policy)
    p = p.clone()
    p[mdp.terminal] = mdp.start
    return _solve(mdp, p, r)


WRONG_VALUES: dict[str, Values] = {
    "terminal state pays again": _terminal_pays,
    "terminal state starts anew": _terminal_starts_anew,
    "transposed": lambda m, pi: _solve(m, dynamic.policy_transitions(m, pi)[0].T, dynamic.policy_transitions(m, pi)[1]),
    "discount one step early": lambda m, pi: m.gamma * dynamic.values(m, pi),
    "discount one step late": lambda m, pi: dynamic.values(m, pi) / max(m.gamma, 1e-9),
    "max for mean": lambda m, pi: dynamic.value_iteration(m).values,
    "uniform policy": lambda m, pi: dynamic.values(m, m.uniform()),
    "one step": lambda m, pi: dynamic.policy_transitions(m, pi)[1],
    "start distribution": lambda m, pi: m.start * dynamic.values(m, pi),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_values(WRONG_VALUES[name])


# ---- optimal values

Solver = Callable[[FiniteMDP], Tensor]


def check_optimum(solver: Solver) -> None:
    """The best of all policies, enumerated; and the linear programme's."""
    for seed, gamma in ((0, 0.9), (1, 0.5), (2, 0.99)):
        mdp = random_mdp(seed, states=5, gamma=gamma)
        torch.testing.assert_close(solver(mdp), by_enumeration(mdp), atol=1e-7, rtol=0)
    mdp = GridWorld("maze").mdp(0.95)
    torch.testing.assert_close(solver(mdp), by_linear_programme(mdp), atol=1e-6, rtol=0)


def _iterate(update: Callable[[FiniteMDP, Tensor], Tensor]) -> Solver:
    def solver(mdp: FiniteMDP) -> Tensor:
        v = torch.zeros(mdp.states, dtype=torch.float64)
        for _ in range(3000):
            v = update(mdp, v).clamp(-1e6, 1e6)
        return v

    return solver


RIGHT_SOLVERS: dict[str, Solver] = {
    "value iteration": lambda m: dynamic.value_iteration(m).values,
    "value iteration in place": lambda m: dynamic.value_iteration(m, in_place=True).values,
    "value iteration from elsewhere": lambda m: dynamic.value_iteration(m, start=torch.full((m.states,), 7.0)).values,
    "policy iteration": lambda m: dynamic.policy_iteration(m).values,
    "Q of value iteration": lambda m: dynamic.v_from_q(dynamic.value_iteration(m).q),
    "values of its policy": lambda m: dynamic.values(m, dynamic.value_iteration(m).policy),
}


@pytest.mark.parametrize("name", RIGHT_SOLVERS)
def test_optimal_values_are_the_best_of_all_policies(name: str) -> None:
    check_optimum(RIGHT_SOLVERS[name])


WRONG_SOLVERS: dict[str, Solver] = {
    "mean for max": _iterate(lambda m, v: dynamic.q_from_v(m, v).mean(-1)),
    "min for max": _iterate(lambda m, v: dynamic.q_from_v(m, v).min(-1).values),
    "terminal state bootstrapped": _iterate(
        lambda m, v: (m.rewards + m.gamma * m.transitions @ v).max(-1).values + m.terminal
    ),
    "discount one step early": _iterate(lambda m, v: m.gamma * (m.rewards + m.transitions @ v).max(-1).values),
    "discount squared": _iterate(lambda m, v: (m.rewards + m.gamma**2 * m.transitions @ v).max(-1).values),
    "discount left out": _iterate(lambda m, v: (m.rewards + m.transitions @ v).max(-1).values),
    "max inside the expectation": _iterate(
        lambda m, v: (
            (m.rewards + m.gamma * torch.where(m.transitions > 0, v, -torch.inf).max(-1).values)
            .max(-1)
            .values.masked_fill(m.terminal, 0.0)
        )
    ),
    "one sweep": lambda m: dynamic.v_from_q(m.rewards),
    "one improvement": lambda m: dynamic.values(
        m, dynamic.greedy(dynamic.q_from_v(m, dynamic.values(m, m.uniform()) * 0))
    ),
}


@pytest.mark.parametrize("name", WRONG_SOLVERS)
def test_a_wrong_optimum_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_optimum(WRONG_SOLVERS[name])


# ---- one sweep: Jacobi and Gauss-Seidel are told apart


def jacobi(mdp: FiniteMDP, v: Tensor) -> Tensor:
    found = v.clone()
    for s in range(mdp.states - 1):
        found[s] = max(mdp.rewards[s, a] + mdp.gamma * mdp.transitions[s, a] @ v for a in range(mdp.actions))
    return found


def gauss_seidel(mdp: FiniteMDP, v: Tensor) -> Tensor:
    found = v.clone()
    for s in range(mdp.states - 1):
        found[s] = max(mdp.rewards[s, a] + mdp.gamma * mdp.transitions[s, a] @ found for a in range(mdp.actions))
    return found


@pytest.mark.parametrize("in_place", [False, True])
def test_changes_are_those_of_the_sweep_that_was_asked_for(in_place: bool) -> None:
    mdp = random_mdp(4)
    right, other = (gauss_seidel, jacobi) if in_place else (jacobi, gauss_seidel)
    changes = dynamic.value_iteration(mdp, in_place=in_place).changes
    for sweep, agrees in ((right, True), (other, False)):
        v, by_hand = torch.zeros(mdp.states, dtype=torch.float64), []
        for _ in range(6):
            new = sweep(mdp, v)
            by_hand.append((new - v).abs().max().item())
            v = new
        assert (np.allclose(changes[:6], by_hand, atol=1e-12)) is agrees


def test_each_sweep_shrinks_the_error_by_gamma_and_policy_iteration_never_gets_worse() -> None:
    mdp = random_mdp(5, gamma=0.9)
    exact = by_enumeration(mdp)
    v = torch.full((mdp.states,), 10.0, dtype=torch.float64).masked_fill(mdp.terminal, 0.0)
    for _ in range(20):
        new = dynamic.v_from_q(dynamic.q_from_v(mdp, v))
        assert (new - exact).abs().max() <= 0.9 * (v - exact).abs().max() + 1e-12
        v = new
    policy, before = mdp.uniform(), dynamic.values(mdp, mdp.uniform())
    for _ in range(5):
        policy = dynamic.greedy(dynamic.q_from_v(mdp, before), policy)
        after = dynamic.values(mdp, policy)
        assert (after >= before - 1e-12).all()
        before = after


# ---- Q and V

Conversion = Callable[[FiniteMDP, Tensor], Tensor]


def check_q(q_from_v: Conversion) -> None:
    for seed in range(3):
        mdp = random_mdp(seed)
        v = torch.randn(mdp.states, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        q = q_from_v(mdp, v)
        for s, a in itertools.product(range(mdp.states), range(mdp.actions)):
            want = 0.0
            if not mdp.terminal[s]:
                outcomes = mdp.outcomes
                assert outcomes is not None
                for s2 in range(mdp.states):
                    future = 0.0 if mdp.terminal[s2] else mdp.gamma * v[s2].item()
                    want += mdp.transitions[s, a, s2].item() * (outcomes[s, a, s2].item() + future)
            assert q[s, a].item() == pytest.approx(want, abs=1e-12)


def test_q_from_v_is_one_step_of_looking_ahead() -> None:
    check_q(dynamic.q_from_v)


WRONG_Q: dict[str, Conversion] = {
    "terminal state bootstrapped": lambda m, v: m.rewards + m.gamma * m.transitions @ v,
    "discount left out": lambda m, v: m.rewards + m.transitions @ v.masked_fill(m.terminal, 0),
    "reward left out": lambda m, v: m.gamma * m.transitions @ v.masked_fill(m.terminal, 0),
    "reward discounted": lambda m, v: m.gamma * (m.rewards + m.transitions @ v.masked_fill(m.terminal, 0)),
    "best outcome for the mean": lambda m, v: m.rewards + m.gamma * v.masked_fill(m.terminal, 0).max(),
    "summed over the wrong axis": lambda m, v: (
        m.rewards + m.gamma * torch.einsum("sat,s->ta", m.transitions, v.masked_fill(m.terminal, 0))
    ),
}


@pytest.mark.parametrize("name", WRONG_Q)
def test_a_wrong_q_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_q(WRONG_Q[name])


def test_v_from_q_weighs_by_the_policy_or_takes_the_maximum_and_inverts_q_from_v() -> None:
    mdp = random_mdp(7)
    policy = random_policy(mdp, 1)
    v = dynamic.values(mdp, policy)
    torch.testing.assert_close(dynamic.v_from_q(dynamic.q_from_v(mdp, v), policy), v)
    q = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -5.0]], dtype=torch.float64)
    assert dynamic.v_from_q(q).tolist() == [3.0, 0.0]
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(dynamic.v_from_q(q, weights), torch.tensor([1.75, -3.7], dtype=torch.float64))


def test_greedy_takes_the_first_of_equals_and_keeps_what_is_as_good() -> None:
    q = torch.tensor([[1.0, 2.0, 2.0 + 1e-12], [0.0, 0.0, -1.0]], dtype=torch.float64)
    assert dynamic.greedy(q).argmax(-1).tolist() == [1, 0]
    current = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(dynamic.greedy(q, current), current)
    spoiled = torch.tensor([[0.1, 0.0, 0.9], [0.5, 0.0, 0.5]], dtype=torch.float64)
    assert dynamic.greedy(q, spoiled).argmax(-1).tolist() == [1, 0]


# ---- occupancy and samples


def test_occupancy_counts_discounted_visits_and_pays_the_return() -> None:
    for gamma in (0.8, 1.0):
        mdp = random_mdp(8, gamma=gamma)
        policy = random_policy(mdp, 2)
        p, r = dynamic.policy_transitions(mdp, policy)
        there, visits = mdp.start.clone(), torch.zeros(mdp.states, dtype=torch.float64)
        for t in range(500):
            visits += gamma**t * there.masked_fill(mdp.terminal, 0.0)
            there = there @ p
        found = dynamic.occupancy(mdp, policy)
        torch.testing.assert_close(found, visits, atol=1e-9, rtol=0)
        torch.testing.assert_close(found @ r, mdp.start @ dynamic.values(mdp, policy))
    assert not torch.allclose(dynamic.occupancy(mdp, policy), dynamic.occupancy(mdp, mdp.uniform()))


def test_sampled_episodes_follow_the_tables() -> None:
    mdp = random_mdp(9, gamma=0.9)
    policy = random_policy(mdp, 3)
    runs = 40_000
    found = dynamic.sample(mdp, policy, runs, 30, seed=1)
    assert found.states.shape == (runs, 31) and found.actions.shape == found.rewards.shape == (runs, 30)
    assert torch.equal(found.running, ~mdp.terminal[found.states[:, :-1]])
    assert torch.equal(found.terminated, mdp.terminal[found.states[:, -1]])
    assert (found.rewards[~found.running] == 0).all()
    first = torch.bincount(found.states[:, 0], minlength=mdp.states) / runs
    torch.testing.assert_close(first.double(), mdp.start, atol=0.015, rtol=0)
    s, a, s2 = found.states[:, :-1][found.running], found.actions[found.running], found.states[:, 1:][found.running]
    counts = torch.zeros(mdp.states, mdp.actions, mdp.states, dtype=torch.float64)
    counts.index_put_((s, a, s2), torch.ones(len(s), dtype=torch.float64), accumulate=True)
    taken = counts.sum(-1)
    torch.testing.assert_close((taken / taken.sum(-1, keepdim=True))[:-1], policy[:-1], atol=0.02, rtol=0)
    torch.testing.assert_close((counts / taken[..., None])[:-1], mdp.transitions[:-1], atol=0.03, rtol=0)
    outcomes = mdp.outcomes
    assert outcomes is not None
    assert torch.equal(found.rewards[found.running], outcomes[s, a, s2])
    returns = (found.rewards * 0.9 ** torch.arange(30)).sum(-1)
    error = (returns.mean() - mdp.start @ dynamic.values(mdp, policy)).abs()
    assert error < 4 * returns.std() / runs**0.5 + 0.9**30


def test_samples_repeat_with_their_seed_and_never_do_what_has_no_probability() -> None:
    mdp = GridWorld("textbook", slip=0.0).mdp(1.0)
    always_right = torch.zeros(mdp.states, 4, dtype=torch.float64)
    always_right[:, 1] = 1.0
    a, b = (dynamic.sample(mdp, always_right, 50, 10, seed=3) for _ in range(2))
    assert torch.equal(a.states, b.states)
    assert (a.actions[a.running] == 1).all()
    assert set(a.states[:, -1].tolist()) == {10}  # the corner below the pit: no slip, no other end


# ---- Gymnasium's tables


@pytest.mark.parametrize(
    ("name", "options", "terminal"),
    [("FrozenLake-v1", {"is_slippery": True}, 5), ("CliffWalking-v1", {}, 1), ("Taxi-v4", {}, 4)],
)
def test_tables_of_gymnasium_are_what_its_environment_does(name: str, options: dict[str, bool], terminal: int) -> None:
    env = gym.make(name, **options)
    mdp = FiniteMDP.from_gym(env, 0.9)
    assert int(mdp.terminal.sum()) == terminal
    outcomes = mdp.outcomes
    assert outcomes is not None
    env.action_space.seed(0)
    state, over = env.reset(seed=0)[0], False
    for _ in range(800):
        action = env.action_space.sample()
        following, reward, over, cut, _ = env.step(action)
        assert mdp.transitions[state, action, following] > 0
        assert outcomes[state, action, following].item() == pytest.approx(reward)
        assert bool(mdp.terminal[following]) == over
        state = env.reset()[0] if over or cut else following


def test_taxi_is_solved_as_well_as_its_environment_allows() -> None:
    env = gym.make("Taxi-v4")
    mdp = FiniteMDP.from_gym(env, 1.0)
    policy = dynamic.policy_iteration(mdp.with_gamma(0.99)).policy
    values = dynamic.values(mdp, policy)
    for seed in range(20):
        state, total, over = env.reset(seed=seed)[0], 0.0, False
        first = state
        while not over:
            state, reward, over, _, _ = env.step(int(policy[state].argmax()))
            total += float(reward)
        assert total == pytest.approx(values[first].item())


def test_an_environment_without_tables_is_refused() -> None:
    with pytest.raises(TypeError, match="no table P"):
        FiniteMDP.from_gym(gym.make("CartPole-v1"), 0.9)


def test_a_state_that_ends_episodes_only_at_times_is_refused() -> None:
    class Odd:
        P = {0: {0: [(0.5, 1, 0.0, True), (0.5, 1, 0.0, False)]}, 1: {0: [(1.0, 0, 0.0, False)]}}  # noqa: RUF012
        initial_state_distrib = np.array([1.0, 0.0])
        unwrapped: Odd

    odd = Odd()
    odd.unwrapped = odd
    with pytest.raises(ValueError, match=r"states \[1\] end an episode"):
        FiniteMDP.from_gym(odd, 0.9)


# ---- bad input


def test_what_terminal_rows_hold_is_overwritten() -> None:
    mdp = random_mdp(0)
    assert (mdp.rewards[-1] == 0).all() and (mdp.transitions[-1, :, -1] == 1).all()
    outcomes = mdp.outcomes
    assert outcomes is not None and (outcomes[-1] == 0).all()


def test_tables_that_are_no_process_are_refused() -> None:
    mdp = random_mdp(0)
    for change, words in (
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"transitions": mdp.transitions * 0.9}, "no probabilities"),
        ({"transitions": mdp.transitions[0]}, r"must be \(S, A, S\)"),
        ({"rewards": mdp.rewards[:, :2], "outcomes": None}, "rewards are"),
        ({"rewards": mdp.rewards * torch.nan, "outcomes": None}, "not finite"),
        ({"rewards": mdp.rewards + 1}, "mean of outcomes"),
        ({"start": torch.full((6,), 0.5)}, "no probabilities"),
        ({"terminal": torch.zeros(3, dtype=torch.bool)}, "terminal are"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(mdp, **change)
    with pytest.raises(ValueError, match="the policy is"):
        dynamic.values(mdp, mdp.uniform()[:3])
    with pytest.raises(ValueError, match="no probabilities"):
        dynamic.values(mdp, mdp.uniform() * 1.1)


def test_without_discount_and_without_end_there_is_no_value() -> None:
    mdp = GridWorld("textbook").mdp(1.0)
    always_left = torch.zeros(mdp.states, 4, dtype=torch.float64)
    always_left[:, 3] = 1.0
    for function in (dynamic.values, dynamic.occupancy):
        with pytest.raises(ValueError, match="never reaches a terminal state"):
            function(mdp, always_left)
    endless = GridWorld(["S.G"], slip=0.0, step_reward=1.0).mdp(1.0)  # every further step pays
    with pytest.raises(ValueError, match="still change"):
        dynamic.value_iteration(endless, sweeps=50)


def test_other_rewards_and_another_gamma_leave_the_world_as_it_is() -> None:
    mdp = random_mdp(3)
    per_state = torch.arange(6, dtype=torch.float64)
    other = mdp.with_rewards(per_state)
    assert torch.equal(other.rewards[2], torch.full((3,), 2.0, dtype=torch.float64)) and (other.rewards[-1] == 0).all()
    assert torch.equal(other.transitions, mdp.transitions)
    assert mdp.with_gamma(0.3).gamma == 0.3 and torch.equal(mdp.with_gamma(0.3).rewards, mdp.rewards)
