"""Several agents against independent truth: a linear programme, enumeration, finite differences, PettingZoo itself."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from mpe2 import simple_speaker_listener_v4, simple_spread_v3
from scipy.optimize import linprog
from torch import Tensor

from alignlab.rl import multi_agent as marl
from alignlab.rl.multi_agent import QMixer, SpeakerListener, Spread

PENNIES = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
RPS = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
SHAPLEY = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64).roll(1, 1)


def linear_programme(payoffs: np.ndarray) -> float:
    """The value of a zero-sum game by scipy, which knows nothing of supports."""
    m, n = payoffs.shape
    solved = linprog(
        np.append(np.zeros(m), -1.0),
        A_ub=np.hstack([-payoffs.T, np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(m), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * m + [(None, None)],
    )
    return float(solved.x[-1])


# -- exploitability -------------------------------------------------------------------------------------------------

Exploitability = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def check_exploitability(exploitability: Exploitability) -> None:
    """Against its definition over all pure deviations, one by one; zero at equilibria, and in batches."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        row, column = torch.randint(-4, 5, (2, 3, 4), generator=draw).double()
        x, y = (torch.rand(k, generator=draw, dtype=torch.float64) for k in (3, 4))
        x, y = x / x.sum(), y / y.sum()

        def payoff(table: Tensor, a: Tensor, b: Tensor) -> float:
            return sum(a[i].item() * b[j].item() * table[i, j].item() for i in range(len(a)) for j in range(len(b)))

        rows, columns = torch.eye(3, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        gain = max(payoff(row, e, y) for e in rows) - payoff(row, x, y)
        gain += max(payoff(column, x, e) for e in columns) - payoff(column, x, y)
        assert exploitability(row, column, x, y).item() == pytest.approx(gain)
    third, half = torch.full((3,), 1 / 3, dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert exploitability(RPS, -RPS, third, third).item() == pytest.approx(0)
    assert exploitability(PENNIES, -PENNIES, half, half).item() == pytest.approx(0)


def test_exploitability_equals_its_definition_by_pure_deviations() -> None:
    check_exploitability(marl.exploitability)


WRONG_EXPLOITABILITY: dict[str, Exploitability] = {
    "best response against one's own strategy": lambda row, column, x, y: marl.exploitability(
        row, column, *(torch.nn.functional.pad(p, (0, k - len(p))) for p, k in ((y[: len(x)], len(x)), (x, len(y))))
    ),
    "the row player's table for both": lambda row, column, x, y: marl.exploitability(row, -row, x, y),
    "minimum for the column player": lambda row, column, x, y: (
        (row @ y).max() - x @ row @ y + x @ column @ y - (x @ column).min()
    ),
    "one player alone": lambda row, column, x, y: (row @ y).max() - x @ row @ y,
    "the best cell": lambda row, column, x, y: row.max() + column.max() - x @ (row + column) @ y,
}


@pytest.mark.parametrize("name", WRONG_EXPLOITABILITY)
def test_a_wrong_exploitability_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_exploitability(WRONG_EXPLOITABILITY[name])


# -- equilibria -----------------------------------------------------------------------------------------------------

Equilibria = Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor]]]


def check_equilibria(equilibria: Equilibria) -> None:
    """Games whose equilibria are known, then random games: nobody may gain, and the count is odd (Wilson, 1971)."""
    stag = torch.tensor([[4.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    found = {(round(x[0].item(), 4), round(y[0].item(), 4)) for x, y in equilibria(stag, stag.T)}
    assert found == {(1.0, 1.0), (0.0, 0.0), (0.75, 0.75)}
    dilemma = torch.tensor([[-1.0, -3.0], [0.0, -2.0]], dtype=torch.float64)
    assert [(x.tolist(), y.tolist()) for x, y in equilibria(dilemma, dilemma.T)] == [([0.0, 1.0], [0.0, 1.0])]
    battle = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    mixed = [(x, y) for x, y in equilibria(battle, battle.flip(0, 1)) if x.min() > 0]
    assert len(mixed) == 1
    assert mixed[0][0].tolist() == pytest.approx([2 / 3, 1 / 3]) and mixed[0][1].tolist() == pytest.approx(
        [1 / 3, 2 / 3]
    )
    for row, column in ((RPS, -RPS), SHAPLEY):
        ((x, y),) = equilibria(row, column)
        assert x.tolist() == pytest.approx([1 / 3] * 3) and y.tolist() == pytest.approx([1 / 3] * 3)
    draw = torch.Generator().manual_seed(1)
    for _ in range(30):
        row, column = torch.randn(2, 3, 4, generator=draw, dtype=torch.float64)
        pairs = equilibria(row, column)
        assert len(pairs) % 2 == 1
        for x, y in pairs:
            assert (
                min(x.min(), y.min()) >= 0 and x.sum().item() == pytest.approx(1) and y.sum().item() == pytest.approx(1)
            )
            assert (row @ y).max().item() <= (x @ row @ y).item() + 1e-6
            assert (x @ column).max().item() <= (x @ column @ y).item() + 1e-6


def test_support_enumeration_finds_all_equilibria() -> None:
    check_equilibria(marl.nash_equilibria)


WRONG_EQUILIBRIA: dict[str, Equilibria] = {
    "pure ones alone": lambda row, column: [p for p in marl.nash_equilibria(row, column) if p[0].max() == 1],
    "players swapped": lambda row, column: [(y, x) for x, y in marl.nash_equilibria(row, column)],
    "column player minimizes": lambda row, column: marl.nash_equilibria(row, -column),
    "tables exchanged": lambda row, column: marl.nash_equilibria(column, row),
    "the first alone": lambda row, column: marl.nash_equilibria(row, column)[:1],
}


@pytest.mark.parametrize("name", WRONG_EQUILIBRIA)
def test_a_wrong_enumeration_is_rejected(name: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        check_equilibria(WRONG_EQUILIBRIA[name])


def test_the_value_of_a_zero_sum_game_is_the_linear_programmes_degenerate_games_included() -> None:
    draw = np.random.default_rng(0)
    for case in range(60):
        shape = draw.integers(1, 5, size=2)
        payoffs = draw.integers(-2, 3, size=shape).astype(float) if case % 2 else draw.normal(size=shape)
        value, x, y = marl.solve_zero_sum(torch.tensor(payoffs))
        assert value == pytest.approx(linear_programme(payoffs), abs=1e-7)
        assert (x.numpy() @ payoffs).min() == pytest.approx(value, abs=1e-7)
        assert (payoffs @ y.numpy()).max() == pytest.approx(value, abs=1e-7)


# -- fictitious play ------------------------------------------------------------------------------------------------

Play = Callable[[Tensor, Tensor, int], Any]


def check_fictitious_play(play: Play) -> None:
    """Every action is a best response to the other's frequencies before it, which are those of the actions."""
    draw = torch.Generator().manual_seed(2)
    for row, column in (torch.randn(2, 3, 4, generator=draw, dtype=torch.float64), (RPS, -RPS), SHAPLEY):
        played = play(row, column, 60)
        for step in range(1, 60):
            x = torch.bincount(played.rows[0, :step], minlength=row.shape[0]).double() / step
            y = torch.bincount(played.columns[0, :step], minlength=row.shape[1]).double() / step
            assert torch.allclose(played.x[0, step - 1], x) and torch.allclose(played.y[0, step - 1], y)
            assert (row @ y)[played.rows[0, step]].item() == pytest.approx((row @ y).max().item())
            assert (x @ column)[played.columns[0, step]].item() == pytest.approx((x @ column).max().item())


def test_fictitious_play_answers_the_frequencies_of_the_other() -> None:
    check_fictitious_play(marl.fictitious_play)


def _own_history(row: Tensor, column: Tensor, steps: int) -> Any:
    """Each answers its own frequencies: the best response against the wrong player."""
    rows, columns = torch.zeros(1, steps, dtype=torch.long), torch.zeros(1, steps, dtype=torch.long)
    for step in range(1, steps):
        x = torch.bincount(rows[0, :step], minlength=row.shape[0]).double()
        y = torch.bincount(columns[0, :step], minlength=row.shape[1]).double()
        rows[0, step] = (row[:, : row.shape[0]] @ x).argmax()
        columns[0, step] = (y[: row.shape[0]] @ column).argmax()
    return _frequencies(rows, columns, row.shape)


def _last_action(row: Tensor, column: Tensor, steps: int) -> Any:
    rows, columns = torch.zeros(1, steps, dtype=torch.long), torch.zeros(1, steps, dtype=torch.long)
    for step in range(1, steps):
        rows[0, step], columns[0, step] = row[:, columns[0, step - 1]].argmax(), column[rows[0, step - 1]].argmax()
    return _frequencies(rows, columns, row.shape)


def _frequencies(rows: Tensor, columns: Tensor, shape: Any) -> marl.Played:
    count = torch.arange(1, rows.shape[1] + 1).double()[:, None]
    x, y = (
        torch.nn.functional.one_hot(a, k).double().cumsum(1) / count for a, k in ((rows, shape[0]), (columns, shape[1]))
    )
    return marl.Played(rows, columns, x, y)


def _late(row: Tensor, column: Tensor, steps: int) -> Any:
    """Frequencies that leave out the newest action."""
    played = marl.fictitious_play(row, column, steps)
    return played._replace(x=played.x.roll(1, 1), y=played.y.roll(1, 1))


WRONG_PLAY: dict[str, Play] = {
    "best response to one's own history": _own_history,
    "best response to the last action": _last_action,
    "column player minimizes": lambda row, column, steps: marl.fictitious_play(row, -column, steps),
    "frequencies a step late": _late,
}


@pytest.mark.parametrize("name", WRONG_PLAY)
def test_a_wrong_fictitious_play_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_fictitious_play(WRONG_PLAY[name])


def test_it_converges_in_a_zero_sum_game_and_not_in_shapleys() -> None:
    starts = torch.tensor(list(product(range(3), repeat=2)))
    rps, shapley = marl.fictitious_play(RPS, -RPS, 4000, starts), marl.fictitious_play(*SHAPLEY, 4000, starts)
    assert marl.exploitability(RPS, -RPS, rps.x[:, -1], rps.y[:, -1]).max() < 0.05
    assert marl.exploitability(*SHAPLEY, shapley.x[:, 200:], shapley.y[:, 200:]).min() > 0.25
    changes = (shapley.rows[0].diff() != 0).nonzero()[:, 0]
    stretches = changes.diff()
    assert (stretches[4:].diff() > 0).all()  # they get longer and longer


# -- Markov games ---------------------------------------------------------------------------------------------------


def random_markov_game(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, 2, 3, generator=draw, dtype=torch.float64)
    transitions = torch.rand(3, 2, 3, 4, generator=draw, dtype=torch.float64)
    return rewards, (transitions / transitions.sum(-1, keepdim=True))[..., :3]  # the fourth part is the end


Solver = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def check_markov_game(solve: Solver) -> None:
    """Against a fixed policy the other faces an MDP: enumerate all its deterministic policies, solve each exactly."""
    for seed in range(3):
        rewards, transitions = random_markov_game(seed)
        values, x, y = solve(rewards, transitions, 0.8)
        for fixed, best, free in ((y, max, 2), (x, min, 3)):
            answers = []
            for policy in product(range(free), repeat=3):
                if free == 2:
                    r = torch.stack([rewards[s, policy[s]] @ fixed[s] for s in range(3)])
                    p = torch.stack([fixed[s] @ transitions[s, policy[s]] for s in range(3)])
                else:
                    r = torch.stack([fixed[s] @ rewards[s, :, policy[s]] for s in range(3)])
                    p = torch.stack([fixed[s] @ transitions[s, :, policy[s]] for s in range(3)])
                answers.append(torch.linalg.solve(torch.eye(3, dtype=torch.float64) - 0.8 * p, r))
            for s in range(3):
                assert best(answer[s].item() for answer in answers) == pytest.approx(values[s].item(), abs=1e-7)


def test_nobody_gains_against_the_solution_of_a_markov_game() -> None:
    check_markov_game(marl.solve_markov_game)


WRONG_SOLVERS: dict[str, Solver] = {
    "end bootstrapped": lambda r, p, g: marl.solve_markov_game(r, p / p.sum(-1, keepdim=True), g),
    "gamma squared": lambda r, p, g: marl.solve_markov_game(r, p, g * g),
    "a step too early": lambda r, p, g: marl.solve_markov_game(r, p, g, tolerance=0.3),
    "players exchanged": lambda r, p, g: marl.solve_markov_game(-r, p, g),
}


@pytest.mark.parametrize("name", WRONG_SOLVERS)
def test_a_wrong_solver_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_markov_game(WRONG_SOLVERS[name])


# -- mixers ---------------------------------------------------------------------------------------------------------


def setting(agents: int = 3, actions: int = 3, copies: int = 4, batch: int = 40) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(copies, batch, agents, actions, generator=draw) * 2, torch.randn(
        copies, batch, 5, generator=draw
    )


def check_mixer(mixer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Rising in every utility, by finite differences; the agents' own choices are the best joint action, by count."""
    utilities, state = setting()
    chosen = utilities[..., 0]
    for agent in range(3):
        for step in (1e-2, 1.0):
            raised = chosen.clone()
            raised[..., agent] += step
            assert (mixer(raised, state) >= mixer(chosen, state) - 1e-5).all()
    greedy = utilities.argmax(-1)
    best = torch.full(utilities.shape[:2], -torch.inf)
    for joint in product(range(3), repeat=3):
        best = torch.maximum(best, mixer(torch.stack([utilities[:, :, i, a] for i, a in enumerate(joint)], -1), state))
    own = mixer(utilities.gather(-1, greedy[..., None])[..., 0], state)
    assert torch.allclose(own, best, atol=1e-4)


@pytest.mark.parametrize("mixer", [marl.vdn, QMixer(3, 5, 8, copies=4, seed=1)], ids=["vdn", "qmix"])
def test_a_mixer_is_monotone_and_keeps_individual_global_max(mixer: Any) -> None:
    with torch.no_grad():
        check_mixer(mixer)
        assert not marl.igm_violations(mixer, *setting()).any()


class SecondLayerFree(QMixer):
    """Only the first layer's weights are made non-negative."""

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        first = self.first_weights(state).abs().unflatten(-1, (self.agents, self.width))
        hidden = torch.nn.functional.elu((utilities[..., None] * first).sum(-2) + self.first_bias(state))
        return (hidden * self.second_weights(state)).sum(-1) + self.second_bias(state)[..., 0]


WRONG_MIXERS: dict[str, Any] = {
    "weights not made non-negative": QMixer(3, 5, 8, copies=4, seed=1, monotone=False),
    "second layer's signs free": SecondLayerFree(3, 5, 8, copies=4, seed=1),
    "one agent subtracted": lambda q, s: q[..., :2].sum(-1) - q[..., 2],
    "product": lambda q, s: q.prod(-1),
    "largest magnitude": lambda q, s: q.abs().amax(-1),
}


@pytest.mark.parametrize("name", WRONG_MIXERS)
def test_a_wrong_mixer_is_rejected(name: str) -> None:
    with torch.no_grad(), pytest.raises(AssertionError):
        check_mixer(WRONG_MIXERS[name])


def test_violations_are_found_where_signs_are_free_and_the_mean_is_not_taken() -> None:
    mixer = QMixer(3, 5, 8, copies=4, seed=1, monotone=False)
    with torch.no_grad():
        broken = marl.igm_violations(mixer, *setting())
    assert broken.shape == (4, 40) and 0.3 < broken.float().mean() < 1


def test_vdn_is_qmix_with_ones_and_the_copies_of_a_mixer_are_separate() -> None:
    mixer = QMixer(2, 3, 4, copies=2, seed=0)
    alone = QMixer(2, 3, 4, copies=1, seed=1)
    utilities, state = torch.randn(2, 7, 2), torch.randn(2, 7, 3)
    with torch.no_grad():
        assert torch.allclose(mixer(utilities, state)[1], alone(utilities[1:], state[1:])[0], atol=1e-6)
        for name, value in (
            ("first_weights", 1.0),
            ("first_bias", 50.0),
            ("second_weights", 0.25),
            ("second_bias", 0.0),
        ):
            for parameter in getattr(mixer, name).parameters():
                parameter.zero_()
            getattr(mixer, name).biases[-1].fill_(value)
        flat = mixer(utilities, state)
    assert torch.allclose(flat, utilities.sum(-1) + 50, atol=1e-4)  # elu is the identity above 0


def test_joint_values_enumerate_every_joint_action_in_place() -> None:
    utilities, state = setting(agents=2, actions=3, copies=2, batch=4)
    mixer = QMixer(2, 5, 4, copies=2)
    with torch.no_grad():
        table = marl.joint_values(mixer, utilities, state)
        for a, b in product(range(3), repeat=2):
            one = mixer(torch.stack([utilities[:, :, 0, a], utilities[:, :, 1, b]], -1), state)
            assert torch.allclose(table[:, :, a, b], one, atol=1e-6)


# -- targets --------------------------------------------------------------------------------------------------------

Target = Callable[[Any, Tensor, Tensor, Tensor, Tensor, float], Tensor]


def check_target(target: Target) -> None:
    """r + gamma times the best joint value, found by enumeration; r alone after the end; no gradient."""
    utilities, state = setting()
    mixer = QMixer(3, 5, 8, copies=4, seed=2)
    rewards = torch.randn(4, 40, generator=torch.Generator().manual_seed(6))
    terminated = torch.arange(40).expand(4, -1) % 3 == 0
    for mix in (mixer, marl.vdn):
        with torch.no_grad():
            best = marl.joint_values(mix, utilities, state).flatten(2).amax(-1)
        truth = torch.where(terminated, rewards, rewards + 0.9 * best)
        got = target(mix, rewards, utilities.clone().requires_grad_(), state, terminated, 0.9)
        assert got.shape == truth.shape and not got.requires_grad and torch.allclose(got, truth, atol=1e-4)


def test_the_target_takes_the_best_joint_action_agent_by_agent() -> None:
    check_target(marl.td_target)


def _summed_rewards(mixer: Any, r: Tensor, q: Tensor, s: Tensor, end: Tensor, gamma: float) -> Tensor:
    return marl.td_target(mixer, r * q.shape[2], q, s, end, gamma)


def _same_action(mixer: Any, r: Tensor, q: Tensor, s: Tensor, end: Tensor, gamma: float) -> Tensor:
    with torch.no_grad():
        each = torch.stack([mixer(q[..., a], s) for a in range(q.shape[-1])], -1).amax(-1)
        return r + gamma * torch.where(end, 0.0, each)


WRONG_TARGETS: dict[str, Target] = {
    "end bootstrapped": lambda m, r, q, s, end, g: marl.td_target(m, r, q, s, torch.zeros_like(end), g),
    "individual rewards added up": _summed_rewards,
    "all agents take the same action": _same_action,
    "mean instead of maximum": lambda m, r, q, s, end, g: marl.td_target(
        m, r, q.mean(-1, keepdim=True).expand_as(q), s, end, g
    ),
    "minimum": lambda m, r, q, s, end, g: marl.td_target(m, r, q.amin(-1, keepdim=True).expand_as(q), s, end, g),
    "no discount": lambda m, r, q, s, end, g: marl.td_target(m, r, q, s, end, 1.0),
    "gradient flows": lambda m, r, q, s, end, g: r + g * torch.where(end, 0.0, m(q.amax(-1), s)),
    "mixer forgotten": lambda m, r, q, s, end, g: marl.td_target(marl.vdn, r, q, s, end, g),
}


@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_a_wrong_target_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_target(WRONG_TARGETS[name])


def test_the_additive_fit_is_the_least_squares_sum() -> None:
    table = torch.tensor([[0.0, 1.0, 4.0], [1.0, 8.0, -2.0]], dtype=torch.float64)
    rows, columns = (index.flatten() for index in torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"))
    design = torch.cat([torch.nn.functional.one_hot(rows, 2), torch.nn.functional.one_hot(columns, 3)], 1).double()
    fitted = design @ torch.linalg.lstsq(design, table.flatten()[:, None], driver="gelsd").solution
    assert torch.allclose(marl.additive_fit(table).flatten(), fitted[:, 0])
    two_step = torch.tensor([[0.0, 1.0], [1.0, 8.0]], dtype=torch.float64)
    assert marl.additive_fit(two_step).tolist() == [[-1.5, 2.5], [2.5, 6.5]]


# -- MADDPG ---------------------------------------------------------------------------------------------------------

ActorLoss = Callable[[Any, Any, Any, Tensor, int], Tensor]


def check_actor_loss(loss: ActorLoss) -> None:
    """Minus the critic at the joint action with one action replaced; its gradient by finite differences, own alone."""
    draw = torch.Generator().manual_seed(7)
    observations = [torch.randn(5, 2, generator=draw, dtype=torch.float64) for _ in range(3)]
    actions = [torch.rand(5, 2, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)]
    own = torch.rand(5, 2, generator=draw, dtype=torch.float64)
    layer = torch.randn(12, 6, generator=draw, dtype=torch.float64)
    out = torch.randn(6, 1, generator=draw, dtype=torch.float64)

    def critic(x: Tensor) -> Tensor:
        return (x @ layer).tanh() @ out

    for agent in range(3):

        def value(action: Tensor, agent: int = agent) -> Tensor:
            joint = [action if i == agent else actions[i].detach() for i in range(3)]
            return critic(torch.cat([*observations, *joint], -1))[:, 0]

        variable = own.clone().requires_grad_()
        got = loss(critic, observations, actions, variable, agent)
        assert got.shape == (5,) and torch.allclose(got, -value(own))
        got.sum().backward()
        assert variable.grad is not None and all(action.grad is None for action in actions)
        for column in range(2):
            nudge = torch.zeros_like(own)
            nudge[:, column] = 1e-5
            slope = (value(own + nudge) - value(own - nudge)) / 2e-5
            assert torch.allclose(variable.grad[:, column], -slope, atol=1e-7)


def test_the_actors_gradient_goes_through_its_own_action_alone() -> None:
    check_actor_loss(marl.maddpg_actor_loss)


def _others_too(critic: Any, observations: Any, actions: Any, own: Tensor, agent: int) -> Tensor:
    joint = [own if i == agent else action for i, action in enumerate(actions)]
    return -critic(torch.cat([*observations, *joint], -1)).squeeze(-1)


WRONG_LOSSES: dict[str, ActorLoss] = {
    "sign flipped": lambda c, o, a, own, i: -marl.maddpg_actor_loss(c, o, a, own, i),
    "another agent's action replaced": lambda c, o, a, own, i: marl.maddpg_actor_loss(c, o, a, own, (i + 1) % 3),
    "gradient to the others as well": _others_too,
    "everybody plays the policy's action": lambda c, o, a, own, i: -c(torch.cat([*o, own, own, own], -1)).squeeze(-1),
    "action from memory": lambda c, o, a, own, i: -c(torch.cat([*o, *a], -1)).squeeze(-1) + 0 * own.sum(-1),
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_wrong_actor_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_actor_loss(WRONG_LOSSES[name])


# -- particles ------------------------------------------------------------------------------------------------------


def check_spread(make: Callable[..., Spread]) -> None:
    """Same state, same actions: mpe2's observations and rewards, step by step, with collisions, for 2 to 4 agents."""
    for agents in (2, 3, 4):
        theirs = simple_spread_v3.parallel_env(N=agents)
        theirs.reset(seed=agents)
        world = theirs.aec_env.unwrapped.world
        ours = make((1,), agents=agents, dtype=torch.float64)
        ours.position[0] = 0.25 * torch.tensor(np.stack([agent.state.p_pos for agent in world.agents]))
        ours.landmarks[0] = torch.tensor(np.stack([landmark.state.p_pos for landmark in world.landmarks]))
        for agent, place in zip(world.agents, ours.position[0], strict=True):
            agent.state.p_pos = place.numpy().copy()
        draw, touched = torch.Generator().manual_seed(agents), False
        for step in range(marl.EPISODE):
            actions = torch.randint(5, (1, agents), generator=draw)
            seen, rewards, _, ended, _ = theirs.step({f"agent_{i}": int(a) for i, a in enumerate(actions[0])})
            got = ours.step(actions)
            assert ours.observe()[0].numpy() == pytest.approx(np.stack(list(seen.values())), abs=1e-6)
            assert got[0].tolist() == pytest.approx(list(rewards.values()), abs=1e-6)
            touched |= bool((torch.pdist(ours.position[0]) < 2 * ours.radius).any())
            assert all(ended.values()) == (step == marl.EPISODE - 1)
        assert touched  # otherwise collisions were not put to the test


def test_spread_is_pettingzoos_simple_spread() -> None:
    check_spread(Spread)


class NoDamping(Spread):
    def move(self, force: Tensor) -> None:
        before = self.velocity.clone()
        super().move(force)
        self.velocity = self.velocity + marl.DAMPING * before


class VelocityFirst(Spread):
    def move(self, force: Tensor) -> None:
        position = self.position.clone()
        super().move(force)
        self.position = position + self.velocity * marl.DT


class NoCollisions(Spread):
    collide = False


class LocalOnly(Spread):
    def step(self, actions: Tensor) -> Tensor:
        rewards = super().step(actions)
        nearest = -self._to_landmarks().norm(dim=-1).amin(-1)  # each agent's nearest landmark: agents may share one
        team = -self._to_landmarks().norm(dim=-1).amin(-2).sum(-1, keepdim=True)
        return rewards - 0.5 * team + 0.5 * nearest.sum(-1, keepdim=True)


class Transposed(Spread):
    def _to_others(self) -> Tensor:
        return -super()._to_others()


@pytest.mark.parametrize("wrong", [NoDamping, VelocityFirst, NoCollisions, LocalOnly, Transposed])
def test_a_wrong_world_is_rejected(wrong: type[Spread]) -> None:
    with pytest.raises(AssertionError):
        check_spread(wrong)


def test_speaker_and_listener_are_pettingzoos() -> None:
    for seed in range(4):
        theirs = simple_speaker_listener_v4.parallel_env(continuous_actions=True)
        theirs.reset(seed=seed)
        world = theirs.aec_env.unwrapped.world
        ours = SpeakerListener((1,), dtype=torch.float64)
        ours.position[0, 0] = torch.tensor(world.agents[1].state.p_pos)
        ours.landmarks[0] = torch.tensor(np.stack([landmark.state.p_pos for landmark in world.landmarks]))
        ours.goal[0] = next(i for i, landmark in enumerate(world.landmarks) if landmark is world.agents[0].goal_b)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(marl.EPISODE):
            message, moves = (torch.rand(1, width, generator=draw) for width in (3, 5))
            seen, rewards, *_ = theirs.step({"speaker_0": message[0].numpy(), "listener_0": moves[0].numpy()})
            got = ours.step((message, moves))
            for name, mine in zip(("speaker_0", "listener_0"), ours.observe(), strict=True):
                assert mine[0].numpy() == pytest.approx(seen[name], abs=1e-6)
            assert got.item() == pytest.approx(rewards["listener_0"], abs=1e-6)
            assert rewards["speaker_0"] == rewards["listener_0"]


def test_worlds_side_by_side_are_the_same_as_one_by_one() -> None:
    many, actions = Spread((2, 3), seed=4, dtype=torch.float64), torch.randint(5, (2, 3, 3))
    one = Spread((1, 1), dtype=torch.float64)
    one.position, one.landmarks = many.position[1:, 2:].clone(), many.landmarks[1:, 2:].clone()
    one.velocity = many.velocity[1:, 2:].clone()
    assert torch.allclose(many.step(actions)[1, 2], one.step(actions[1:, 2:])[0, 0])
    assert many.observe().shape == (2, 3, 3, 18)
    assert torch.allclose(many.observe()[1, 2], one.observe()[0, 0])


def test_bad_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="one shape"):
        marl.nash_equilibria(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="finite"):
        marl.exploitability(torch.tensor([[torch.nan]]), torch.zeros(1, 1), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="one step or more"):
        marl.fictitious_play(RPS, -RPS, 0)
    with pytest.raises(ValueError, match="pairs of actions"):
        marl.fictitious_play(RPS, -RPS, 5, torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="gamma is 1"):
        marl.solve_markov_game(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1), 1)
    with pytest.raises(ValueError, match="probabilities"):
        marl.solve_markov_game(torch.zeros(1, 1, 1), 2 * torch.ones(1, 1, 1, 1), 0.9)
    with pytest.raises(ValueError, match="gamma is 2"):
        marl.td_target(marl.vdn, torch.zeros(1, 1), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1), torch.zeros(1, 1), 2)
    with pytest.raises(ValueError, match="one reward of the team"):
        marl.td_target(
            marl.vdn, torch.zeros(1, 4, 2), torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 1), torch.zeros(1, 4), 1
        )
