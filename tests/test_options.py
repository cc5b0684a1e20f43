"""Options: models by enumeration over time, planning equal to value iteration, learning equal to Q-learning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, value_iteration
from alignlab.rl.options import Option, learn, option_model, option_values, primitive

D = torch.float64


def world(gamma: float = 0.9) -> FiniteMDP:
    return GridWorld("textbook", slip=0.2).mdp(gamma)


def wander(mdp: FiniteMDP) -> Option:
    """Up or right, each half of the time; over with probability 0.3 wherever it is."""
    policy = torch.zeros(mdp.states, 4, dtype=D)
    policy[:, :2] = 0.5
    return Option(torch.ones(mdp.states, dtype=torch.bool), policy, torch.full((mdp.states,), 0.3, dtype=D))


Model = Callable[[FiniteMDP, Option], tuple[Tensor, Tensor]]


def check_model(model: Model) -> None:
    """Step after step: what is earned, and where it ends after exactly k steps, discounted by gamma^k."""
    mdp = world()
    option = wander(mdp)
    ends = option.ends.masked_fill(mdp.terminal, 1.0)
    p = torch.einsum("sa,sat->st", option.policy, mdp.transitions)
    r = (option.policy * mdp.rewards).sum(-1)
    running = torch.eye(mdp.states, dtype=D)
    rewards, transitions = torch.zeros(mdp.states, dtype=D), torch.zeros(mdp.states, mdp.states, dtype=D)
    for k in range(1, 400):
        rewards += mdp.gamma ** (k - 1) * running @ r
        arrived = running @ p
        transitions += mdp.gamma**k * arrived * ends
        running = arrived * (1 - ends)
    got = model(mdp, option)
    open_ = ~mdp.terminal
    assert torch.allclose(got[0][open_], rewards[open_], atol=1e-9)
    assert torch.allclose(got[1][open_], transitions[open_], atol=1e-9)
    assert (got[0][mdp.terminal] == 0).all() and (got[1][mdp.terminal] == 0).all()


def test_the_model_of_an_option_is_the_sum_over_its_durations() -> None:
    check_model(option_model)


def _gamma_once(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    return option_model(mdp, option)[0], mdp.gamma * option_model(mdp.with_gamma(1.0), option)[1]


def _not_discounted(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    return option_model(mdp, option)[0], option_model(mdp.with_gamma(1.0), option)[1]


def _rewards_not_discounted(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    return option_model(mdp.with_gamma(1.0), option)[0], option_model(mdp, option)[1]


def _one_step(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    return option_model(mdp, option._replace(ends=torch.ones(mdp.states, dtype=D)))


def _runs_on(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    return option_model(mdp, option._replace(ends=option.ends / 2))


@pytest.mark.parametrize("wrong", [_gamma_once, _not_discounted, _rewards_not_discounted, _one_step, _runs_on])
def test_a_wrong_model_of_an_option_is_rejected(wrong: Model) -> None:
    with pytest.raises(AssertionError):
        check_model(wrong)


def test_a_primitive_action_as_an_option_has_the_actions_model() -> None:
    mdp = world()
    rewards, transitions = option_model(mdp, primitive(mdp, 2))
    open_ = ~mdp.terminal
    assert torch.allclose(rewards[open_], mdp.rewards[open_, 2])
    assert torch.allclose(transitions[open_], mdp.gamma * mdp.transitions[open_, 2])


def test_planning_with_actions_is_value_iteration_and_options_change_no_optimum() -> None:
    mdp = world()
    actions = [primitive(mdp, a) for a in range(4)]
    best = value_iteration(mdp)
    q, _ = option_values(mdp, actions)
    assert torch.allclose(q[~mdp.terminal], best.q[~mdp.terminal], atol=1e-8)
    more, _ = option_values(mdp, [*actions, wander(mdp)])
    assert torch.allclose(more.max(-1).values, best.values, atol=1e-8)


def deterministic() -> tuple[FiniteMDP, list[Option]]:
    """A corridor of six cells, and an option that runs right for all that it is worth from the first three."""
    mdp = GridWorld(("S....G",), slip=0.0, step_reward=-0.1).mdp(0.9)
    begins = torch.tensor([True, True, True, False, False, False])
    right = torch.zeros(6, 4, dtype=D)
    right[:, 1] = 1.0
    return mdp, [primitive(mdp, 1), primitive(mdp, 3), Option(begins, right, (~begins).double())]


@pytest.mark.parametrize("intra", [False, True])
def test_learning_over_options_comes_to_the_exact_values(intra: bool) -> None:
    mdp, some = deterministic()
    exact, _ = option_values(mdp, some)
    done = learn(mdp, some, runs=4, episodes=400, alpha=0.5, epsilon=0.5, intra=intra, seed=0)
    allowed = torch.stack([option.begins for option in some], 1) & ~mdp.terminal[:, None]
    for q in done.q:
        assert np.abs(q[allowed.numpy()] - exact[allowed].numpy()).max() < 1e-4
    assert np.isneginf(done.q[:, 3, 2]).all()  # where it may not begin, it has no value


def test_for_actions_alone_all_learners_are_q_learning() -> None:
    mdp = world()
    actions = [primitive(mdp, a) for a in range(4)]
    one, other = (learn(mdp, actions, runs=4, episodes=20, intra=intra, seed=3) for intra in (False, True))
    assert np.array_equal(one.steps, other.steps) and np.allclose(one.q, other.q)
    assert np.array_equal(one.steps, one.choices)


def test_an_option_is_one_choice_of_several_steps() -> None:
    mdp, some = deterministic()
    only = [some[2], some[0]._replace(begins=~some[2].begins)]
    done = learn(mdp, only, runs=2, episodes=5, epsilon=0.0)
    assert (done.steps == 5).all() and (done.choices == 3).all()  # three cells at a stroke, then one by one


def test_episodes_are_cut_off() -> None:
    mdp = world()
    done = learn(mdp, [primitive(mdp, 3)], runs=2, episodes=3, most=7)
    assert (done.steps <= 7).all() and (done.steps == 7).any()


def test_bad_options_are_named() -> None:
    mdp, some = deterministic()
    with pytest.raises(ValueError, match="no option may begin"):
        option_values(mdp, [some[2]])
    with pytest.raises(ValueError, match="one action in each state"):
        learn(world(), [wander(world())], runs=1, episodes=1, intra=True)
