"""Tabular learning: against definitions that sum everything, exact solutions and enumeration; wrong versions fail."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.rl import mdp as exact
from alignlab.rl import tabular
from alignlab.rl.mdp import Episodes, FiniteMDP
from alignlab.rl.returns import discounted_returns

GAMMA = 0.9


def chain(gamma: float = GAMMA) -> FiniteMDP:
    """Four states in a row and an end on either side; moves slip, every step costs, the right end pays."""
    p, outcome = torch.zeros(2, 6, 2, 6, dtype=torch.float64)
    for s in range(1, 5):
        for a, step in ((0, -1), (1, 1)):
            p[s, a, s + step], p[s, a, s - step], p[s, a, s] = 0.7, 0.2, 0.1
    p[0, :, 0] = p[5, :, 5] = 1.0
    outcome += -0.1
    outcome[:, :, 5], outcome[:, :, 0] = 1.0, -0.5
    start, terminal = torch.tensor([0, 0.2, 0.5, 0.3, 0, 0]), torch.tensor([True, *[False] * 4, True])
    return FiniteMDP(p, (p * outcome).sum(-1), gamma, start, terminal, outcome)


MDP = chain()
POLICY = torch.tensor([[0.5, 0.5], [0.3, 0.7], [0.6, 0.4], [0.5, 0.5], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
TABLE = torch.tensor([9.0, 0.3, -0.4, 0.2, 0.8, -7.0], dtype=torch.float64)
"""A guess at the values; the ends hold nonsense that no algorithm may use."""


def episodes(seed: int = 0, runs: int = 40, limit: int = 12) -> Episodes:
    """Some terminate, some are cut by the limit; both kinds are in every sample."""
    found = tabular.rollouts(MDP, POLICY, runs, torch.Generator().manual_seed(seed), limit)
    assert found.terminated.any() and not found.terminated.all()
    return found


def as_lists(found: Episodes, run: int) -> tuple[list[int], list[float], bool]:
    steps = int(found.running[run].sum())
    return found.states[run, : steps + 1].tolist(), found.rewards[run, :steps].tolist(), bool(found.terminated[run])


def value_after(values: list[float], states: list[int], t: int, ended: bool) -> float:
    """V(s_t) as a target may use it."""
    return 0.0 if ended and t == len(states) - 1 else values[states[t]]


def n_step_target(
    values: list[float], states: list[int], rewards: list[float], ended: bool, t: int, n: int, gamma: float
) -> float:
    stop = min(t + n, len(rewards))
    total = sum(gamma ** (k - t) * rewards[k] for k in range(t, stop))
    return total + gamma ** (stop - t) * value_after(values, states, stop, ended)


def lambda_target(
    values: list[float], states: list[int], rewards: list[float], ended: bool, t: int, gamma: float, lam: float
) -> float:
    """The weighted mean of all n-step returns, eq. 12.3."""
    left = len(rewards) - t
    targets = [n_step_target(values, states, rewards, ended, t, n, gamma) for n in range(1, left + 1)]
    weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
    assert math.isclose(sum(weights), 1.0)
    return sum(w * target for w, target in zip(weights, targets, strict=True))


def repeated(runs: int = 40) -> Tensor:
    return TABLE.expand(runs, -1).clone()


# ---- experience


def test_rollouts_visit_and_pay_as_often_as_the_tables_say() -> None:
    found = tabular.rollouts(MDP, POLICY, 20_000, torch.Generator().manual_seed(0))
    assert found.terminated.all()
    gains = discounted_returns(found.rewards, GAMMA)[:, 0]
    want = (MDP.start * exact.values(MDP, POLICY)).sum()
    assert abs(gains.mean() - want) < 4 * gains.std() / math.sqrt(20_000)
    assert not found.rewards[~found.running].any()


def test_each_run_may_follow_a_policy_of_its_own() -> None:
    left, right = (torch.nn.functional.one_hot(torch.full((6,), a), 2).double() for a in (0, 1))
    found = tabular.rollouts(MDP, torch.stack([left, right]), 2, torch.Generator().manual_seed(0))
    assert (found.actions[0][found.running[0]] == 0).all() and (found.actions[1][found.running[1]] == 1).all()


# ---- Monte Carlo


def check_visits(visit_returns: Callable[..., tabular.Visits]) -> None:
    found = episodes()
    for first_visit in (True, False):
        totals, weights, counts = visit_returns(found, 6, GAMMA, first_visit)
        for run in range(len(found.states)):
            states, rewards, _ = as_lists(found, run)
            want, number = [0.0] * 6, [0] * 6
            for t in range(len(rewards)):
                if not first_visit or states[t] not in states[:t]:
                    want[states[t]] += sum(GAMMA ** (k - t) * rewards[k] for k in range(t, len(rewards)))
                    number[states[t]] += 1
            assert torch.allclose(totals[run], torch.tensor(want, dtype=torch.float64))
            assert counts[run].tolist() == number and weights[run].tolist() == number


def test_returns_are_collected_at_first_visits_or_at_all() -> None:
    check_visits(tabular.visit_returns)


def last_visit(found: Episodes, states: int, gamma: float, first: bool = True, w: Any = None) -> tabular.Visits:
    flipped = found._replace(running=found.running.clone())
    for run, t in itertools.product(range(len(found.states)), range(found.actions.shape[1])):
        if first and found.states[run, t] in found.states[run, t + 1 : int(found.running[run].sum())]:
            flipped.running[run, t] = False
    return tabular.visit_returns(flipped, states, gamma, False, w)


WRONG_VISITS: dict[str, Callable[..., tabular.Visits]] = {
    "first visit ignored": lambda f, s, g, first=True, w=None: tabular.visit_returns(f, s, g, False, w),
    "last visit for first": last_visit,
    "undiscounted": lambda f, s, g, first=True, w=None: tabular.visit_returns(f, s, 1.0, first, w),
    "steps after the end counted": lambda f, s, g, first=True, w=None: tabular.visit_returns(
        f._replace(running=torch.ones_like(f.running)), s, g, first, w
    ),
}


@pytest.mark.parametrize("name", WRONG_VISITS)
def test_wrong_collectors_of_returns_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_visits(WRONG_VISITS[name])


def short_process() -> FiniteMDP:
    """Two decisions and an end, so that all paths can be listed."""
    p, outcome = torch.zeros(2, 4, 2, 4, dtype=torch.float64)
    p[0, 0, 1], p[0, 0, 2], p[0, 1, 2] = 0.6, 0.4, 1.0
    p[1, :, 3] = p[2, :, 3] = p[3, :, 3] = 1.0
    outcome[0, :, 1], outcome[0, :, 2], outcome[1, 0, 3], outcome[1, 1, 3], outcome[2, 1, 3] = 0.5, -0.2, 2.0, -1.0, 1.5
    terminal = torch.tensor([False, False, False, True])
    return FiniteMDP(p, (p * outcome).sum(-1), GAMMA, torch.tensor([1.0, 0, 0, 0]), terminal, outcome)


def check_weights(weights_to_end: Callable[[Episodes, Tensor, Tensor], Tensor]) -> None:
    """The weighted return has the target policy's value as its expectation: summed over every path."""
    small = short_process()
    target = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)
    behaviour = torch.tensor([[0.4, 0.6], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    want, expectation, second, mass = exact.values(small, target), 0.0, torch.zeros(4, dtype=torch.float64), 0.0
    for a, s, b in itertools.product((0, 1), (1, 2), (0, 1)):
        chance = (behaviour[0, a] * small.transitions[0, a, s] * behaviour[s, b]).item()
        if not chance:
            continue
        rewards = torch.tensor([[small.outcomes[0, a, s], small.outcomes[s, b, 3], 0.0]])  # type: ignore[index]
        running = torch.tensor([[True, True, False]])
        path = Episodes(torch.tensor([[0, s, 3, 3]]), torch.tensor([[a, b, 0]]), rewards, running, torch.tensor([True]))
        weight, gains = weights_to_end(path, target, behaviour), discounted_returns(rewards, GAMMA)
        expectation += chance * (weight[0, 0] * gains[0, 0]).item()
        second[s] += chance * (weight[0, 1] * gains[0, 1]).item()
        mass += chance * weight[0, 0].item()
        assert weight[0, 2] == 1.0
    assert mass == pytest.approx(1.0) and expectation == pytest.approx(want[0].item())
    reach = torch.stack([(behaviour[0] * small.transitions[0, :, s]).sum() for s in range(4)])
    assert torch.allclose(second[1:3] / reach[1:3], want[1:3])


def test_importance_weights_give_the_target_policys_value() -> None:
    check_weights(tabular.weights_to_end)


WRONG_WEIGHTS: dict[str, Callable[[Episodes, Tensor, Tensor], Tensor]] = {
    "ratio inverted": lambda e, target, behaviour: tabular.weights_to_end(e, behaviour, target),
    "up to t instead of from t": lambda e, t, b: (
        t[e.states[:, :-1], e.actions] / b[e.states[:, :-1], e.actions]
    ).cumprod(-1),
    "only this step": lambda e, t, b: t[e.states[:, :-1], e.actions] / b[e.states[:, :-1], e.actions],
    "no weights": lambda e, t, b: torch.ones_like(e.rewards),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_wrong_importance_weights_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_weights(WRONG_WEIGHTS[name])


def test_a_behaviour_that_leaves_an_action_out_is_refused() -> None:
    narrow = torch.tensor([[1.0, 0.0]] * 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="never takes an action that the target policy takes"):
        tabular.weights_to_end(episodes(), POLICY, narrow)


# ---- n-step TD


def check_n_step(n_step_td: Callable[..., Tensor]) -> None:
    found = episodes()
    for n, offline in itertools.product((1, 2, 5, 12, None), (False, True)):
        got = n_step_td(repeated(), found, 0.3, GAMMA, n, offline)
        for run in range(len(found.states)):
            states, rewards, ended = as_lists(found, run)
            values, known = TABLE.tolist(), TABLE.tolist()
            for t in range(len(rewards)):
                source = known if offline else values
                target = n_step_target(source, states, rewards, ended, t, n or 10**6, GAMMA)
                values[states[t]] += 0.3 * (target - source[states[t]])
            assert torch.allclose(got[run], torch.tensor(values, dtype=torch.float64), atol=1e-12)


def test_n_step_td_equals_the_definition_for_ended_and_for_cut_episodes() -> None:
    check_n_step(tabular.n_step_td)


def end_bootstrapped(v: Tensor, e: Episodes, *rest: Any) -> Tensor:
    return tabular.n_step_td(v, e._replace(terminated=torch.zeros_like(e.terminated)), *rest)


def cut_for_end(v: Tensor, e: Episodes, *rest: Any) -> Tensor:
    return tabular.n_step_td(v, e._replace(terminated=torch.ones_like(e.terminated)), *rest)


WRONG_N_STEP: dict[str, Callable[..., Tensor]] = {
    "terminal state bootstrapped": end_bootstrapped,
    "truncation taken for termination": cut_for_end,
    "one step more": lambda v, e, a, g, n=1, off=False: tabular.n_step_td(
        v, e, a, g, None if n is None else n + 1, off
    ),
    "always one step": lambda v, e, a, g, n=1, off=False: tabular.n_step_td(v, e, a, g, 1, off),
    "offline for online": lambda v, e, a, g, n=1, off=False: tabular.n_step_td(v, e, a, g, n, True),
    "undiscounted": lambda v, e, a, g, n=1, off=False: tabular.n_step_td(v, e, a, 1.0, n, off),
    "moves away": lambda v, e, a, g, n=1, off=False: tabular.n_step_td(v, e, -a, g, n, off),
}


@pytest.mark.parametrize("name", WRONG_N_STEP)
def test_a_wrong_n_step_td_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_n_step(WRONG_N_STEP[name])


def test_step_sizes_are_broadcast_over_leading_axes() -> None:
    found, alphas = episodes(), torch.tensor([0.1, 0.5], dtype=torch.float64)[:, None]
    both = tabular.n_step_td(repeated().expand(2, -1, -1), found, alphas, GAMMA, 3)
    for k, alpha in enumerate((0.1, 0.5)):
        assert torch.allclose(both[k], tabular.n_step_td(repeated(), found, alpha, GAMMA, 3))


@pytest.mark.parametrize(("n", "gamma", "words"), [(0, 0.9, "at least one reward"), (1, 1.2, "gamma is 1.2")])
def test_n_and_gamma_out_of_range_are_refused(n: int, gamma: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tabular.n_step_td(repeated(), episodes(), 0.1, gamma, n)


# ---- TD(lambda)


def check_targets(lambda_targets: Callable[..., Tensor]) -> None:
    found = episodes()
    for lam in (0.0, 0.4, 0.9, 1.0):
        got = lambda_targets(repeated(), found, GAMMA, lam)
        for run in range(len(found.states)):
            states, rewards, ended = as_lists(found, run)
            for t in range(len(rewards)):
                want = lambda_target(TABLE.tolist(), states, rewards, ended, t, GAMMA, lam)
                assert got[run, t].item() == pytest.approx(want, abs=1e-12)


def test_the_lambda_return_is_the_weighted_mean_of_all_n_step_returns() -> None:
    check_targets(tabular.lambda_targets)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v, e, g, lam: tabular.lambda_targets(v, e, g, 1 - lam),
        lambda v, e, g, lam: tabular.lambda_targets(v, e, g * lam, 1.0),
        lambda v, e, g, lam: tabular.lambda_targets(v, e._replace(terminated=e.terminated & False), g, lam),
        lambda v, e, g, lam: tabular.lambda_targets(v, e._replace(terminated=e.terminated | True), g, lam),
    ],
    ids=["weights turned round", "lambda as a discount", "terminal state bootstrapped", "truncation for termination"],
)
def test_wrong_lambda_returns_are_rejected(wrong: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_targets(wrong)


def online_forward_view(
    states: list[int], rewards: list[float], ended: bool, alpha: float, gamma: float, lam: float
) -> list[float]:
    """At each horizon h start again and correct all states so far towards lambda-returns cut at h (van Seijen 2016)."""
    history = [TABLE.tolist()]
    for h in range(1, len(rewards) + 1):
        current = TABLE.tolist()
        for t in range(h):
            total = 0.0
            for n in range(1, h - t + 1):
                stop = t + n
                gain = sum(gamma**k * rewards[t + k] for k in range(n))
                gain += gamma**n * value_after(history[stop - 1], states, stop, ended)
                total += (lam ** (n - 1) if stop == h else (1 - lam) * lam ** (n - 1)) * gain
            current[states[t]] += alpha * (total - current[states[t]])
        history.append(current)
    return history[-1]


def traces_by_hand(
    states: list[int], rewards: list[float], ended: bool, alpha: float, gamma: float, lam: float, replacing: bool
) -> list[float]:
    values, trace = TABLE.tolist(), [0.0] * 6
    for t, reward in enumerate(rewards):
        delta = reward + gamma * value_after(values, states, t + 1, ended) - values[states[t]]
        trace = [gamma * lam * e for e in trace]
        trace[states[t]] = 1.0 if replacing else trace[states[t]] + 1.0
        values = [v + alpha * delta * e for v, e in zip(values, trace, strict=True)]
    return values


def check_td_lambda(td_lambda: Callable[..., Tensor]) -> None:
    found = episodes()
    for lam in (0.0, 0.6, 1.0):
        offline = td_lambda(repeated(), found, 0.3, GAMMA, lam, "accumulating", True)
        kinds = {
            kind: td_lambda(repeated(), found, 0.3, GAMMA, lam, kind) for kind in ("accumulating", "replacing", "dutch")
        }
        for run in range(len(found.states)):
            states, rewards, ended = as_lists(found, run)
            forward = TABLE.clone()
            for t in range(len(rewards)):  # the forward view, with all errors taken from the first values
                want = lambda_target(TABLE.tolist(), states, rewards, ended, t, GAMMA, lam)
                forward[states[t]] += 0.3 * (want - TABLE[states[t]])
            assert torch.allclose(offline[run], forward, atol=1e-12)
            given = states, rewards, ended, 0.3, GAMMA, lam
            for kind, want in (
                ("accumulating", traces_by_hand(*given, False)),
                ("replacing", traces_by_hand(*given, True)),
                ("dutch", online_forward_view(*given)),
            ):
                assert torch.allclose(kinds[kind][run], torch.tensor(want, dtype=torch.float64), atol=1e-12), kind


def test_the_backward_view_equals_the_forward_view_offline_and_true_online() -> None:
    check_td_lambda(tabular.td_lambda)


WRONG_TD_LAMBDA: dict[str, Callable[..., Tensor]] = {
    "trace not decayed": lambda v, e, a, g, lam, *rest: tabular.td_lambda(v, e, a, g, 1.0, *rest),
    "decayed by lambda alone": lambda v, e, a, g, lam, *rest: tabular.td_lambda(v, e, a, g, min(lam / g, 1.0), *rest),
    "no trace": lambda v, e, a, g, lam, *rest: tabular.td_lambda(v, e, a, g, 0.0, *rest),
    "terminal state bootstrapped": lambda v, e, *rest: tabular.td_lambda(
        v, e._replace(terminated=torch.zeros_like(e.terminated)), *rest
    ),
    "truncation taken for termination": lambda v, e, *rest: tabular.td_lambda(
        v, e._replace(terminated=torch.ones_like(e.terminated)), *rest
    ),
    "accumulating for dutch": lambda v, e, a, g, lam, kind="accumulating", off=False: tabular.td_lambda(
        v, e, a, g, lam, "accumulating" if kind == "dutch" else kind, off
    ),
    "replacing for accumulating": lambda v, e, a, g, lam, kind="accumulating", off=False: tabular.td_lambda(
        v, e, a, g, lam, "replacing" if kind == "accumulating" else kind, off
    ),
    "online for offline": lambda v, e, a, g, lam, kind="accumulating", off=False: tabular.td_lambda(
        v, e, a, g, lam, kind
    ),
}


@pytest.mark.parametrize("name", WRONG_TD_LAMBDA)
def test_a_wrong_td_lambda_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_td_lambda(WRONG_TD_LAMBDA[name])


def test_the_ends_of_lambda_are_td0_and_monte_carlo() -> None:
    found = episodes()
    assert torch.allclose(
        tabular.td_lambda(repeated(), found, 0.2, GAMMA, 0.0), tabular.n_step_td(repeated(), found, 0.2, GAMMA, 1)
    )
    whole = tabular.n_step_td(repeated(), found, 0.2, GAMMA, None, offline=True)
    assert torch.allclose(tabular.td_lambda(repeated(), found, 0.2, GAMMA, 1.0, offline=True), whole)
    summed = tabular.lambda_return_update(repeated(), found, 0.2, GAMMA, 1.0, summed=True)
    assert torch.allclose(summed, whole)


def test_lambda_may_be_a_tensor_of_many() -> None:
    found, lams = episodes(), torch.tensor([0.0, 0.7], dtype=torch.float64)[:, None]
    both = tabular.td_lambda(repeated(), found, 0.1, GAMMA, lams)
    assert both.shape == (2, 40, 6)
    assert torch.allclose(both[1], tabular.td_lambda(repeated(), found, 0.1, GAMMA, 0.7))


def test_the_offline_lambda_return_corrects_in_order_of_time() -> None:
    found = episodes()
    got = tabular.lambda_return_update(repeated(), found, 0.3, GAMMA, 0.6)
    for run in range(len(found.states)):
        states, rewards, ended = as_lists(found, run)
        values = TABLE.tolist()
        for t in range(len(rewards)):
            want = lambda_target(TABLE.tolist(), states, rewards, ended, t, GAMMA, 0.6)
            values[states[t]] += 0.3 * (want - values[states[t]])
        assert torch.allclose(got[run], torch.tensor(values, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("lam", [-0.1, 1.1])
def test_lambda_out_of_range_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        tabular.td_lambda(repeated(), episodes(), 0.1, GAMMA, lam)


def test_a_dutch_trace_cannot_be_offline() -> None:
    with pytest.raises(ValueError, match="belongs to the online algorithm"):
        tabular.td_lambda(repeated(), episodes(), 0.1, GAMMA, 0.5, "dutch", True)


def test_td0_with_falling_steps_comes_to_the_exact_values() -> None:
    values, generator = torch.zeros(400, 6, dtype=torch.float64), torch.Generator().manual_seed(0)
    for k in range(300):
        found = tabular.rollouts(MDP, POLICY, 400, generator)
        values = tabular.n_step_td(values, found, 0.5 * 10 / (10 + k), GAMMA, 1)
    want = exact.values(MDP, POLICY)
    assert (values.mean(0) - want)[1:5].abs().max() < 0.02


# ---- control


def test_epsilon_greedy_shares_among_equals() -> None:
    got = tabular.epsilon_greedy(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 0.2)
    assert torch.allclose(got, torch.tensor([[0.05, 0.45, 0.45, 0.05]]))


NEXT = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 0.0]], dtype=torch.float64)
OTHER = torch.tensor([[4.0, 0.2, 1.0], [-2.0, 6.0, 5.0]], dtype=torch.float64)


def test_what_a_target_takes_of_the_next_state() -> None:
    assert tabular.sarsa_value(NEXT, torch.tensor([2, 1])).tolist() == [2.0, -1.0]
    policy = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=torch.float64)
    assert tabular.expected_sarsa_value(NEXT, policy).tolist() == pytest.approx([2.3, -0.05])
    assert tabular.q_learning_value(NEXT).tolist() == [3.0, 0.5]
    assert tabular.double_q_value(NEXT, OTHER).tolist() == [0.2, -2.0]  # NEXT chooses, OTHER says what it is worth
    got = tabular.td_target(torch.tensor([1.0, 1.0]), torch.tensor([5.0, 5.0]), torch.tensor([False, True]), 0.5)
    assert got.tolist() == [3.5, 1.0]


def fixed_point(rule: str, epsilon: float) -> Tensor:
    """Where the rule comes to rest: Q* for Q-learning, Q of the epsilon-greedy policy of itself for both SARSAs."""
    if rule in ("q_learning", "double_q"):
        return exact.value_iteration(MDP).q
    q = torch.zeros(6, 2, dtype=torch.float64)
    for _ in range(200):
        q = exact.q_from_v(MDP, exact.values(MDP, tabular.epsilon_greedy(q, epsilon)))
    return q


def check_control(control: Callable[..., tabular.Learned], rule: str) -> None:
    epsilon, want = 0.5, fixed_point(rule, 0.5)
    assert (fixed_point("sarsa", epsilon) - fixed_point("q_learning", epsilon))[1:5].abs().max() > 0.1
    number = 800 if rule == "double_q" else 250  # each of its two tables gets half of the steps
    found = control(MDP, rule, 60, number, alpha=0.05, epsilon=epsilon)
    assert found.returns.shape == found.lengths.shape == (60, number) and (found.lengths >= 1).all()
    assert (found.q[:, [0, 5]] == 0).all()  # a terminal state is worth nothing
    assert (found.q.mean(0) - want)[1:5].abs().max() < 0.06
    longer = found.lengths > 30
    assert abs(found.returns[~longer].mean()) < 1.1


@pytest.mark.parametrize("rule", ["sarsa", "expected_sarsa", "q_learning", "double_q"])
def test_each_rule_comes_to_its_own_fixed_point(rule: str) -> None:
    check_control(tabular.control, rule)


@pytest.mark.parametrize(
    ("rule", "instead"), [("sarsa", "q_learning"), ("q_learning", "sarsa"), ("expected_sarsa", "double_q")]
)
def test_swapped_targets_are_rejected(rule: str, instead: str) -> None:
    def swapped(mdp: FiniteMDP, _: str, *sizes: int, **settings: float) -> tabular.Learned:
        return tabular.control(mdp, instead, *sizes, **settings)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        check_control(swapped, rule)


def test_a_bootstrapped_end_is_rejected_in_control(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tabular.td_target
    monkeypatch.setattr(tabular, "td_target", lambda r, v, terminated, gamma: right(r, v + 1.0, ~terminated, gamma))
    with pytest.raises(AssertionError):
        check_control(tabular.control, "q_learning")


def test_double_q_does_not_overestimate_noise_where_q_learning_does() -> None:
    """One choice among eight actions, each worth 0 with noise; the maximum of noisy means is above 0."""
    p, outcome = torch.zeros(2, 4, 8, 4, dtype=torch.float64)
    p[0, :, 1] = 1.0  # a first step without reward, whose target holds the maximum
    p[1, :, 2] = p[1, :, 3] = 0.5
    p[2, :, 2] = p[3, :, 3] = 1.0
    outcome[1, :, 2], outcome[1, :, 3] = 1.0, -1.0
    terminal = torch.tensor([False, False, True, True])
    noisy = FiniteMDP(p, torch.zeros(4, 8), 1.0, torch.tensor([1.0, 0, 0, 0]), terminal, outcome)
    single = tabular.control(noisy, "q_learning", 200, 200, epsilon=1.0).q[:, 0].mean()
    double = tabular.control(noisy, "double_q", 200, 200, epsilon=1.0).q[:, 0].mean()
    assert single > 0.15 and abs(double) < 0.05


def test_monte_carlo_control_finds_a_good_policy() -> None:
    found = tabular.monte_carlo_control(MDP, 40, 300, epsilon=0.2)
    best = (MDP.start * exact.value_iteration(MDP).values).sum()
    worth = [(MDP.start * exact.values(MDP, exact.greedy(q))).sum() for q in found.q]
    assert torch.stack(worth).mean() > best - 0.02
    assert found.returns.shape == (40, 300)


def test_a_cut_episode_still_counts_on_its_future() -> None:
    """One state that pays 1 for ever: cut after 5 steps, Q-learning must still find 1 / (1 - gamma)."""
    p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    endless = FiniteMDP(p, torch.tensor([[1.0], [0.0]]), 0.5, torch.tensor([1.0, 0.0]), torch.tensor([False, True]))
    found = tabular.control(endless, "q_learning", 2, 60, alpha=0.2, limit=5)
    assert found.q[:, 0, 0].tolist() == pytest.approx([2.0, 2.0], abs=0.01)
    assert (found.lengths == 5).all() and (found.returns == 5).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"alpha": 0.0}, "alpha is 0"), ({"epsilon": 1.5}, "epsilon 1.5"), ({"rule": "dqn"}, "the rule is 'dqn'")],
)
def test_bad_settings_are_refused_before_learning(settings: dict[str, Any], words: str) -> None:
    rule = settings.pop("rule", "sarsa")
    with pytest.raises(ValueError, match=words):
        tabular.control(MDP, rule, 2, 2, **settings)


def test_the_same_seed_learns_the_same() -> None:
    first, second = (tabular.control(MDP, "sarsa", 3, 10, seed=4) for _ in range(2))
    assert torch.equal(first.q, second.q) and torch.equal(first.returns, second.returns)
    assert not torch.equal(first.q, tabular.control(MDP, "sarsa", 3, 10, seed=5).q)
