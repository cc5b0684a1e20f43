"""Imitation against enumeration, finite differences and closed forms; versions that must fail prove the checks."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from alignlab.rl import imitation
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, occupancy, sample, value_iteration, values
from alignlab.rl.networks import Networks

DOUBLE = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def world(gamma: float = 0.9, states: int = 6, actions: int = 3, seed: int = 0) -> FiniteMDP:
    """A random process whose last state is terminal."""
    terminal = torch.zeros(states, dtype=torch.bool)
    terminal[-1] = True
    return FiniteMDP(
        draw(states, actions, states, seed=seed).softmax(-1),
        draw(states, actions, seed=seed + 1),
        gamma,
        draw(states, seed=seed + 2).softmax(-1),
        terminal,
    )


def layers() -> FiniteMDP:
    """Deterministic, three steps deep, gamma 1: 0 to 1 or 2, to 3 or 4, to the end 5; paths can be counted."""
    follows = {0: (1, 2), 1: (3, 4), 2: (4, 3), 3: (5, 5), 4: (5, 5), 5: (5, 5)}
    p = torch.zeros(6, 2, 6, dtype=DOUBLE)
    for s, nexts in follows.items():
        for a, s2 in enumerate(nexts):
            p[s, a, s2] = 1.0
    start, terminal = torch.zeros(6, dtype=DOUBLE), torch.zeros(6, dtype=torch.bool)
    start[0], terminal[5] = 1.0, True
    return FiniteMDP(p, draw(6, 2, seed=4), 1.0, start, terminal)


def paths(mdp: FiniteMDP) -> Iterator[list[tuple[int, int]]]:
    """Every sequence of (state, action) of `layers`."""
    for code in range(8):
        s, path = 0, []
        for step in range(3):
            a = code >> step & 1
            path.append((s, a))
            s = int(mdp.transitions[s, a].argmax())
        yield path


# -- exact distributions ------------------------------------------------------------------------------------------

Measure = Callable[[FiniteMDP, Tensor], Tensor]


def check_occupancy(measure: Measure) -> None:
    mdp = world()
    policy = draw(2, 6, 3, seed=9).softmax(-1)
    got = measure(mdp, policy)
    times = imitation.state_distributions(mdp, policy, 400)  # a sum over time, no linear system
    discounts = 0.9 ** torch.arange(400, dtype=DOUBLE)
    want = (times * discounts[:, None]).sum(-2) * ~mdp.terminal
    assert torch.allclose(got, want[..., None] * policy, atol=1e-9)
    assert torch.allclose(got[0].sum(-1), occupancy(mdp, policy[0]))
    assert torch.allclose((got[1] * mdp.rewards).sum(), values(mdp, policy[1]) @ mdp.start)


def test_the_occupancy_measure_is_the_discounted_sum_over_time() -> None:
    check_occupancy(imitation.state_action_occupancy)


WRONG_OCCUPANCY: dict[str, Measure] = {
    "scaled to one": lambda m, p: (rho := imitation.state_action_occupancy(m, p)) / rho.sum((-1, -2), keepdim=True),
    "no discount": lambda m, p: imitation.state_action_occupancy(m.with_gamma(0.999999), p),
    "the first step left out": lambda m, p: imitation.state_action_occupancy(m, p) - m.start[:, None] * p,
    "states only": lambda m, p: imitation.state_action_occupancy(m, p).sum(-1, keepdim=True).expand(-1, -1, 3),
}


@pytest.mark.parametrize("name", WRONG_OCCUPANCY)
def test_a_wrong_occupancy_measure_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_occupancy(WRONG_OCCUPANCY[name])


def test_state_distributions_are_sums_over_all_paths() -> None:
    mdp, policy = world(), draw(6, 3, seed=9).softmax(-1)
    want = torch.zeros(3, 6, dtype=DOUBLE)
    for s0 in range(6):
        want[0, s0] += mdp.start[s0]
        for a0 in range(3):
            for s1 in range(6):
                once = mdp.start[s0] * policy[s0, a0] * mdp.transitions[s0, a0, s1]
                want[1, s1] += once
                for a1 in range(3):
                    want[2] += once * policy[s1, a1] * mdp.transitions[s1, a1]
    got = imitation.state_distributions(mdp, policy, 3)
    assert torch.allclose(got, want, atol=1e-12)
    assert torch.equal(imitation.state_distributions(mdp, policy.expand(4, -1, -1), 3)[2], got)


# -- cloning and DAgger -------------------------------------------------------------------------------------------

Table = Callable[..., Tensor]


def check_table(clone: Table) -> None:
    states = torch.tensor([[0, 0, 2, 0], [1, 1, 2, 2]])
    actions = torch.tensor([[1, 1, 0, 2], [2, 2, 1, 0]])
    third = [1 / 3, 1 / 3, 1 / 3]
    want = [[[0, 2 / 3, 1 / 3], third, [1, 0, 0], third], [third, [0, 0, 1], [0.5, 0.5, 0], third]]
    assert torch.allclose(clone(states, actions, (4, 3)), torch.tensor(want, dtype=DOUBLE))
    guess = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    assert torch.equal(clone(states, actions, (4, 3), guess)[:, 3], guess)
    wide = clone(states, actions, (4, 3), guess)
    assert torch.equal(wide[0, 1], guess[0]) and torch.equal(wide[1, 0], guess[1])


def test_a_cloned_table_counts_and_falls_back_where_nothing_was_seen() -> None:
    check_table(imitation.clone_table)
    with pytest.raises(ValueError, match="one action a state"):
        imitation.clone_table(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long), (4, 3))
    with pytest.raises(ValueError, match="actions go from 0 to 3; there are 3"):
        imitation.clone_table(torch.tensor([0, 1]), torch.tensor([0, 3]), (4, 3))


WRONG_TABLES: dict[str, Table] = {
    "the most frequent action alone": lambda s, a, shape, u=None: F.one_hot(
        imitation.clone_table(s, a, shape, u).argmax(-1), shape[1]
    ).double(),
    "joint frequencies": lambda s, a, shape, u=None: imitation.clone_table(s, a, shape, u) / shape[0],
    "one pseudo-count": lambda s, a, shape, u=None: imitation.clone_table(
        torch.cat([s, torch.arange(shape[0]).repeat_interleave(shape[1]).expand(len(s), -1)], -1),
        torch.cat([a, torch.arange(shape[1]).repeat(shape[0]).expand(len(a), -1)], -1),
        shape,
        u,
    ),
    "seeds mixed": lambda s, a, shape, u=None: imitation.clone_table(s.flatten(), a.flatten(), shape).expand(2, -1, -1),
    "fallback ignored": lambda s, a, shape, u=None: imitation.clone_table(s, a, shape),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_wrong_table_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_table(WRONG_TABLES[name])


def separable(copies: int = 2, rows: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    observations = draw(copies, rows, 4, seed=seed).float()
    return observations, (observations[..., 0] + 2 * observations[..., 1] > 0).long()


def test_cloning_learns_what_the_expert_does_and_each_copy_from_its_own_data() -> None:
    observations, actions = separable()
    trained = []
    for turned in (False, True):
        policy = Networks([4, 16, 2], 2, seed=0, activation=torch.tanh)
        second = 1 - actions[1] if turned else actions[1]
        losses = imitation.clone(policy, observations, torch.stack([actions[0], second]), 300, lr=1e-2)
        trained.append(policy)
    assert losses.shape == (300, 2) and abs(losses[0].mean().item() - math.log(2)) < 0.1
    fresh, right = separable(seed=5)
    assert (trained[0](fresh).argmax(-1) == right).float().mean() > 0.96
    assert torch.equal(trained[0].weights[0][0], trained[1].weights[0][0])  # the first copy saw the same
    assert (trained[1](fresh)[1].argmax(-1) == 1 - right[1]).float().mean() > 0.96


def test_cloning_refuses_bad_data_before_training() -> None:
    observations, actions = separable()
    policy = Networks([4, 16, 2], 2)
    with pytest.raises(ValueError, match="not finite"):
        imitation.clone(policy, observations * torch.nan, actions, 1)
    with pytest.raises(ValueError, match="numbered from 0"):
        imitation.clone(policy, observations, actions + 1, 1)
    with pytest.raises(ValueError, match=r"\(copies, N, d\)"):
        imitation.clone(policy, observations[:1], actions[:1], 1)


def road() -> tuple[FiniteMDP, Tensor]:
    """Ten signs and a ditch (state 10), out of which leads the action 2 alone; and the expert's actions."""
    p = torch.zeros(11, 3, 11, dtype=DOUBLE)
    right = torch.arange(10) % 2
    p[:, :, 10] = 1.0
    signs = torch.cat([torch.full((10,), 0.1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])
    p[torch.arange(10), right] = signs
    p[10, 2] = signs
    cost = torch.zeros(11, 3, dtype=DOUBLE)
    cost[10] = -1.0
    return FiniteMDP(p, cost, 1.0, signs, torch.zeros(11, dtype=torch.bool)), torch.cat([right, torch.tensor([2])])


Aggregation = Callable[..., Any]


def check_dagger(dagger: Aggregation) -> None:
    mdp, expert = road()
    generator = torch.Generator().manual_seed(0)
    rolled: list[Tensor | None] = []

    def roll(policy: Tensor | None, i: int) -> Tensor:
        rolled.append(policy)
        chosen = F.one_hot(expert, 3).double() if policy is None else policy
        return sample(mdp, chosen, 1, 12, generator).states[0, :12]

    def fit(states: Tensor, actions: Tensor) -> Tensor:
        return imitation.clone_table(states, actions, (11, 3))

    policies, states, actions = dagger(roll, lambda states: expert[states], fit, 4)
    assert len(policies) == 4 and states.shape == actions.shape == (48,)
    assert rolled[0] is None and all(a is b for a, b in zip(rolled[1:], policies[:-1], strict=True))
    assert torch.equal(actions, expert[states])  # the expert labels, whoever drove
    assert (states == 10).any()  # and it was asked about states that it never visits
    assert torch.equal(policies[-1], fit(states, actions))  # learned from all rounds
    assert torch.equal(policies[0], fit(states[:12], actions[:12]))
    assert policies[-1][10, 2] == 1.0


def test_dagger_asks_the_expert_about_the_learners_states_and_forgets_nothing() -> None:
    check_dagger(imitation.dagger)


def _labelled_by_the_learner(roll: Any, expert: Any, fit: Any, rounds: int) -> Any:
    policies: list[Tensor] = []

    def itself(states: Tensor) -> Tensor:
        return expert(states) if not policies else policies[-1][states].argmax(-1)

    def keep(states: Tensor, actions: Tensor) -> Tensor:
        policies.append(fit(states, actions))
        return policies[-1]

    return imitation.dagger(roll, itself, keep, rounds)


def _expert_always_drives(roll: Any, expert: Any, fit: Any, rounds: int) -> Any:
    return imitation.dagger(lambda policy, i: roll(None, i), expert, fit, rounds)


def _last_round_alone(roll: Any, expert: Any, fit: Any, rounds: int) -> Any:
    return imitation.dagger(roll, expert, lambda s, a: fit(s[-12:], a[-12:]), rounds)


def _one_policy_late(roll: Any, expert: Any, fit: Any, rounds: int) -> Any:
    policies, states, actions = imitation.dagger(roll, expert, fit, rounds)
    return [policies[0], *policies[:-1]], states, actions


WRONG_DAGGERS: dict[str, Aggregation] = {
    "the learner labels": _labelled_by_the_learner,
    "the expert always drives": _expert_always_drives,
    "only the last round is kept": _last_round_alone,
    "the last fit is lost": _one_policy_late,
}


@pytest.mark.parametrize("name", WRONG_DAGGERS)
def test_a_wrong_dagger_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_dagger(WRONG_DAGGERS[name])


def test_the_cost_of_cloning_is_at_most_the_squared_horizon_times_its_error() -> None:
    """Theorem 2.1 of Ross and Bagnell (2010), on random worlds, experts and learners."""
    for seed in range(20):
        mdp = world(1.0, seed=10 * seed)
        costs = draw(6, 3, seed=10 * seed + 5).sigmoid()
        expert = F.one_hot(draw(6, 3, seed=10 * seed + 6).argmax(-1), 3).double()
        share = 0.02 * (seed % 5)
        learner = (1 - share) * expert + share * draw(6, 3, seed=10 * seed + 7).softmax(-1)
        for horizon in (1, 5, 30):
            his, its = (imitation.state_distributions(mdp, policy, horizon) for policy in (expert, learner))
            epsilon = (his.mean(0) * (expert * (1 - learner)).sum(-1)).sum()
            spent = [((d[..., None] * policy) * costs).sum() for d, policy in ((his, expert), (its, learner))]
            assert spent[1] - spent[0] <= horizon**2 * epsilon + 1e-12


# -- soft values --------------------------------------------------------------------------------------------------

Solver = Callable[..., imitation.Soft]


def check_soft(solve: Solver) -> None:
    mdp = layers()
    soft = solve(mdp)
    worths = torch.stack([sum(mdp.rewards[s, a] for s, a in path) for path in paths(mdp)])  # type: ignore[misc]
    assert torch.allclose(soft.values[0], worths.logsumexp(0))  # log Z over all paths
    chances = torch.stack([torch.stack([soft.policy[s, a] for s, a in path]).prod() for path in paths(mdp)])
    assert torch.allclose(chances, worths.softmax(0))  # Ziebart et al. (2008): P(path) = exp(return) / Z
    assert soft.values[5] == 0
    random, tau = world(), 0.7
    soft = solve(random, temperature=tau)
    assert torch.allclose(soft.q, random.rewards + 0.9 * random.transitions @ soft.values)
    entropic = random.with_rewards(random.rewards - tau * soft.policy.log() * ~random.terminal[:, None])
    assert torch.allclose(values(entropic, soft.policy), soft.values, atol=1e-8)
    for seed in range(10):  # and no other policy has more
        other = (soft.policy.log() + 0.3 * draw(6, 3, seed=seed)).softmax(-1)
        rival = random.with_rewards(random.rewards - tau * other.log() * ~random.terminal[:, None])
        assert (values(rival, other) <= soft.values + 1e-9).all()
    cold = solve(random, temperature=1e-4)
    assert torch.allclose(cold.values, value_iteration(random).values, atol=1e-3)


def test_soft_values_are_log_sums_over_paths_and_the_best_of_return_plus_entropy() -> None:
    check_soft(imitation.soft_solve)


def _swept(join: Callable[[Tensor, float], Tensor], gamma: float | None = None, end: float = 0.0) -> Solver:
    def solve(mdp: FiniteMDP, rewards: Tensor | None = None, temperature: float = 1.0) -> imitation.Soft:
        r = mdp.rewards if rewards is None else rewards
        v = torch.zeros(mdp.states, dtype=DOUBLE)
        for _ in range(600):
            q = r + (mdp.gamma if gamma is None else gamma) * mdp.transitions @ v
            v = join(q, temperature).masked_fill(mdp.terminal, end)
        return imitation.Soft(v, q, (q / temperature).softmax(-1))

    return solve


def _soft(q: Tensor, tau: float) -> Tensor:
    return tau * (q / tau).logsumexp(-1)


WRONG_SOFT: dict[str, Solver] = {
    "max instead of log-sum-exp": _swept(lambda q, tau: q.max(-1).values),
    "mean of the exponentials": _swept(lambda q, tau: _soft(q, tau) - tau * math.log(q.shape[-1])),
    "temperature outside only": _swept(lambda q, tau: tau * q.logsumexp(-1)),
    "temperature ignored": _swept(lambda q, tau: q.logsumexp(-1)),
    "expected value under the policy, no entropy": _swept(lambda q, tau: ((q / tau).softmax(-1) * q).sum(-1)),
    "the end has entropy": _swept(_soft, end=math.log(2)),
}


def test_sweeps_of_the_soft_equation_pass_the_same_check() -> None:
    check_soft(_swept(_soft))


@pytest.mark.parametrize("name", WRONG_SOFT)
def test_a_wrong_soft_solution_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_soft(WRONG_SOFT[name])


def test_soft_values_of_many_rewards_at_once_and_bad_input() -> None:
    mdp, rewards = world(), draw(4, 6, 3, seed=8)
    together = imitation.soft_solve(mdp, rewards)
    assert torch.allclose(together.policy[2], imitation.soft_solve(mdp, rewards[2]).policy)
    with pytest.raises(ValueError, match="above 0"):
        imitation.soft_solve(mdp, temperature=0.0)
    with pytest.raises(ValueError, match="must end in"):
        imitation.soft_solve(mdp, draw(6, 2))
    with pytest.raises(ValueError, match="not finite"):
        imitation.soft_solve(mdp, rewards / 0)
    with pytest.raises(ValueError, match="gamma is 1"):  # entropy for ever, at no cost
        imitation.soft_solve(GridWorld("corridor", step_reward=0.0).mdp(1.0), rounds=50)


# -- feature expectations and inverse reinforcement learning ------------------------------------------------------

Expected = Callable[[FiniteMDP, Tensor, Tensor], Tensor]


def check_features(expected: Expected) -> None:
    mdp, policy, features = world(), draw(2, 6, 3, seed=3).softmax(-1), draw(6, 3, 4, seed=4)
    got = expected(mdp, policy, features)
    for k in range(4):  # a feature taken for a reward: its expectation is a value
        for i in range(2):
            assert torch.allclose(got[i, k], values(mdp.with_rewards(features[..., k]), policy[i]) @ mdp.start)


def test_feature_expectations_are_values_of_features() -> None:
    check_features(imitation.feature_expectations)


WRONG_FEATURES: dict[str, Expected] = {
    "policy left out": lambda m, p, f: imitation.feature_expectations(m, p, f.mean(1, keepdim=True).expand_as(f)),
    "averaged over time": lambda m, p, f: imitation.feature_expectations(m, p, f) * (1 - m.gamma),
    "seeds mixed": lambda m, p, f: imitation.feature_expectations(m, p.flip(0), f),
}


@pytest.mark.parametrize("name", WRONG_FEATURES)
def test_wrong_feature_expectations_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_features(WRONG_FEATURES[name])


Demonstrated = Callable[[FiniteMDP, Tensor, Tensor, Tensor], Tensor]


def check_demonstrated(demonstrated: Demonstrated) -> None:
    mdp, features = world(), draw(6, 3, 4, seed=4)
    shown = sample(mdp, mdp.uniform(), 10, 8, seed=1)
    states, actions = shown.states[:, :-1].unflatten(0, (2, 5)), shown.actions.unflatten(0, (2, 5))
    want = torch.zeros(2, 4, dtype=DOUBLE)
    for seed in range(2):
        for episode in range(5):
            for t in range(8):
                s, a = int(states[seed, episode, t]), int(actions[seed, episode, t])
                if not mdp.terminal[s]:
                    want[seed] += 0.9**t * features[s, a] / 5
    assert torch.allclose(demonstrated(mdp, states, actions, features), want)


def test_demonstrated_features_are_discounted_sums_averaged_over_episodes() -> None:
    check_demonstrated(imitation.demonstrated_features)


WRONG_DEMONSTRATED: dict[str, Demonstrated] = {
    "no discount": lambda m, s, a, f: imitation.demonstrated_features(m.with_gamma(1.0), s, a, f),
    "mean over steps": lambda m, s, a, f: imitation.demonstrated_features(m, s, a, f) / s.shape[-1],
    "the end counts": lambda m, s, a, f: ((0.9 ** torch.arange(8))[:, None] * f[s, a]).sum(-2).mean(-2),
}


@pytest.mark.parametrize("name", WRONG_DEMONSTRATED)
def test_wrong_demonstrated_features_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_demonstrated(WRONG_DEMONSTRATED[name])


Objective = Callable[[FiniteMDP, Tensor, Tensor, Tensor], Tensor]


def test_the_objective_is_the_experts_likelihood_over_all_paths() -> None:
    mdp, features, theta = layers(), draw(6, 2, 3, seed=1), draw(3, seed=2)
    shown = imitation.soft_solve(mdp).policy  # any expert
    model = imitation.soft_solve(mdp, features @ theta).policy
    likelihood = torch.zeros((), dtype=DOUBLE)
    for path in paths(mdp):
        chance = torch.stack([shown[s, a] for s, a in path]).prod()
        likelihood += chance * torch.stack([model[s, a] for s, a in path]).log().sum()
    expert = imitation.feature_expectations(mdp, shown, features)
    assert torch.allclose(imitation.irl_objective(mdp, theta, features, expert), likelihood)


def check_gradient(gradient: Objective) -> None:
    mdp, features, theta = world(), draw(6, 3, 4, seed=1), draw(2, 4, seed=2)
    expert = imitation.feature_expectations(mdp, draw(2, 6, 3, seed=3).softmax(-1), features)
    h = 1e-5
    for k in range(4):
        step = h * F.one_hot(torch.tensor(k), 4)
        up, down = (imitation.irl_objective(mdp, theta + sign * step, features, expert) for sign in (1, -1))
        assert torch.allclose(gradient(mdp, theta, features, expert)[:, k], (up - down) / (2 * h), atol=1e-7)


def test_the_irl_gradient_agrees_with_finite_differences() -> None:
    check_gradient(imitation.irl_gradient)


def _hard_gradient(mdp: FiniteMDP, weights: Tensor, features: Tensor, expert: Tensor) -> Tensor:
    best = [value_iteration(mdp.with_rewards(features @ w)).policy for w in weights]
    return expert - imitation.feature_expectations(mdp, torch.stack(best), features)


WRONG_GRADIENTS: dict[str, Objective] = {
    "expert and learner swapped": lambda m, w, f, e: -imitation.irl_gradient(m, w, f, e),
    "the learner is greedy": _hard_gradient,
    "the learner left out": lambda m, w, f, e: e,
    "the learner uniform": lambda m, w, f, e: e - imitation.feature_expectations(m, m.uniform(), f),
    "no discount": lambda m, w, f, e: imitation.irl_gradient(m.with_gamma(0.99), w, f, e),
}


@pytest.mark.parametrize("name", WRONG_GRADIENTS)
def test_a_wrong_irl_gradient_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_gradient(WRONG_GRADIENTS[name])


def test_the_reward_is_recovered_up_to_the_one_direction_that_behaviour_does_not_show() -> None:
    grid = GridWorld("textbook", step_reward=-1.0, goal=10.0, pit=-10.0)
    mdp = grid.mdp(0.9)
    kinds = [grid.map[i][j] for i, j in grid.cells]
    truth = torch.tensor([{"G": 10.0, "X": -10.0}.get(kind, -1.0) for kind in kinds], dtype=DOUBLE)
    entered = mdp.transitions * ~mdp.terminal[:, None, None]
    assert torch.allclose(entered @ truth, mdp.rewards)
    expert = imitation.soft_solve(mdp)
    found = imitation.maximum_entropy_irl(mdp, entered, imitation.feature_expectations(mdp, expert.policy, entered))
    assert found.gap < 1e-6 and torch.allclose(found.policy, expert.policy, atol=1e-6)
    unseen = torch.where(mdp.terminal, 10.0, 1.0).double()  # c for a step, c / (1 - gamma) for an end
    difference = found.weights - truth
    assert (difference - (difference @ unseen / unseen.square().sum()) * unseen).abs().max() < 1e-4
    moved = imitation.soft_solve(mdp, entered @ (truth + 3 * unseen))
    assert torch.allclose(moved.policy, expert.policy, atol=1e-9)


Shaping = Callable[[FiniteMDP, Tensor, Tensor], Tensor]


def check_shaped(shape: Shaping) -> None:
    mdp, potential = world(), draw(6, seed=7)
    rewards = shape(mdp, mdp.rewards, potential)
    before, after = imitation.soft_solve(mdp), imitation.soft_solve(mdp, rewards)
    assert torch.allclose(after.policy[:-1], before.policy[:-1], atol=1e-9)
    assert torch.allclose(after.values, before.values - potential * ~mdp.terminal, atol=1e-8)


def test_shaping_leaves_the_policy_and_moves_the_values_by_the_potential() -> None:
    check_shaped(imitation.shaped)


WRONG_SHAPING: dict[str, Shaping] = {
    "sign flipped at s": lambda m, r, x: r + m.gamma * m.transitions @ (x * ~m.terminal) + x[:, None],
    "gamma left out": lambda m, r, x: r + m.transitions @ (x * ~m.terminal) - x[:, None],
    "the end keeps its potential": lambda m, r, x: r + m.gamma * m.transitions @ x - x[:, None],
}


@pytest.mark.parametrize("name", WRONG_SHAPING)
def test_wrong_shaping_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_shaped(WRONG_SHAPING[name])


def test_log_pi_is_a_reward_whose_soft_optimum_is_pi_in_every_world() -> None:
    policy = draw(6, 3, seed=3).softmax(-1)
    for seed in (0, 50):  # two worlds with nothing in common
        mdp = world(seed=seed)
        solved = imitation.soft_solve(mdp, policy.log() * ~mdp.terminal[:, None])
        assert torch.allclose(solved.policy[:-1], policy[:-1], atol=1e-9) and solved.values.abs().max() < 1e-9


# -- the adversarial game -----------------------------------------------------------------------------------------

Loss = Callable[..., Tensor]


def check_discriminator(loss: Loss) -> None:
    p, q = draw(2, 5, 3, seed=1).flatten(1).softmax(-1), draw(2, 5, 3, seed=2).flatten(1).softmax(-1)
    best = imitation.best_logits(p, q)
    at_best = loss(best, best, p, q)
    js = imitation.jensen_shannon(p.view(2, 5, 3), q.view(2, 5, 3))
    assert torch.allclose(at_best, math.log(4) - 2 * js)
    for seed in range(5):
        other = best + draw(2, 15, seed=seed)
        assert (loss(other, other, p, q) > at_best).all()
    expert, learner = draw(2, 7, seed=3), draw(2, 4, seed=4)
    want = -expert.sigmoid().log().mean(-1) - (1 - learner.sigmoid()).log().mean(-1)
    assert torch.allclose(loss(expert, learner), want)
    zero = torch.zeros(3, dtype=DOUBLE)
    assert torch.allclose(loss(zero, zero), torch.tensor(math.log(4), dtype=DOUBLE))


def test_the_best_discriminators_loss_is_log_4_minus_twice_jensen_shannon() -> None:
    check_discriminator(imitation.discriminator_loss)


def _mean(x: Tensor, w: Tensor | None) -> Tensor:
    return x.mean(-1) if w is None else (x * w).sum(-1) / w.sum(-1)


WRONG_LOSSES: dict[str, Loss] = {
    "labels flipped": lambda e, p, u=None, w=None: imitation.discriminator_loss(-e, -p, u, w),
    "the learner's half left out": lambda e, p, u=None, w=None: _mean(F.softplus(-e), u),
    "averaged instead of summed": lambda e, p, u=None, w=None: imitation.discriminator_loss(e, p, u, w) / 2,
    "pooled rows": lambda e, p, u=None, w=None: (
        imitation.discriminator_loss(e, p, u, w)
        if u is not None
        else 2 * torch.cat([F.softplus(-e), F.softplus(p)], -1).mean(-1)
    ),
    "weights ignored": lambda e, p, u=None, w=None: imitation.discriminator_loss(e, p),
    "logits taken for probabilities of the learner": lambda e, p, u=None, w=None: imitation.discriminator_loss(
        p, e, w, u
    ),
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_wrong_discriminator_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_discriminator(WRONG_LOSSES[name])


Reward = Callable[..., Tensor]


def check_reward(reward: Reward) -> None:
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=DOUBLE)
    d = logits.sigmoid()  # the probability that the row is the expert's
    assert torch.allclose(reward(logits, "gail"), -(1 - d).log()) and (reward(logits, "gail") > 0).all()
    assert torch.allclose(reward(logits, "log D"), d.log()) and (reward(logits, "log D") < 0).all()
    assert torch.allclose(reward(logits, "airl"), d.log() - (1 - d).log())
    assert all((reward(logits, kind).diff() > 0).all() for kind in ("gail", "log D", "airl"))


def test_the_three_rewards_rise_with_the_discriminators_belief() -> None:
    check_reward(imitation.imitation_reward)
    with pytest.raises(ValueError, match="'gail', 'log D' or 'airl'"):
        imitation.imitation_reward(torch.zeros(1), "wgan")  # type: ignore[arg-type]


WRONG_REWARDS: dict[str, Reward] = {
    "the cost, not the reward": lambda x, kind: -imitation.imitation_reward(x, kind),
    "expert and learner swapped": lambda x, kind: imitation.imitation_reward(-x, kind),
    "D for the logit": lambda x, kind: imitation.imitation_reward(x.sigmoid(), kind),
}


@pytest.mark.parametrize("name", WRONG_REWARDS)
def test_a_wrong_reward_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_reward(WRONG_REWARDS[name])


def test_airls_discriminator_is_its_formula_and_half_where_f_is_log_pi() -> None:
    f, policy = draw(6, 3, seed=1), draw(6, 3, seed=2).softmax(-1)
    got = imitation.airl_logits(f, policy.log()).sigmoid()
    assert torch.allclose(got, f.exp() / (f.exp() + policy))
    soft = imitation.soft_solve(world())
    advantage = soft.q - soft.values[:, None]  # the optimum of AIRL: f is the advantage, which is log pi
    assert torch.allclose(
        imitation.airl_logits(advantage, soft.policy.log())[:-1].sigmoid(), torch.tensor(0.5).double()
    )


def test_distances_of_measures_agree_with_scipy_and_their_bounds() -> None:
    p, q = draw(4, 3, seed=1).exp(), draw(4, 3, seed=2).exp()
    js = imitation.jensen_shannon(p, q)
    assert js.item() == pytest.approx(jensenshannon(p.flatten(), q.flatten()) ** 2)
    assert torch.allclose(imitation.jensen_shannon(7 * p, q), js)
    apart = torch.eye(2, dtype=DOUBLE)
    assert imitation.total_variation(apart, 1 - apart) == 1 and imitation.total_variation(p, 2 * p) < 1e-12
    assert imitation.jensen_shannon(apart, 1 - apart).item() == pytest.approx(math.log(2))
    events = [(p / p.sum() - q / q.sum())[mask].sum() for mask in (p / p.sum() > q / q.sum(),)]
    assert imitation.total_variation(p, q).item() == pytest.approx(
        events[0].item()
    )  # the event that tells them apart best
