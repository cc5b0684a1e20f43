"""Section 5.2: worked examples, diagrams and quizzes, recomputed with the library."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from alignlab.rl import mdp as dynamic
from alignlab.rl import tabular
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP
from alignlab.rl.returns import discounted_returns

BOOK = Path(__file__).parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch05_values as drawn  # noqa: E402

PAGE = (BOOK / "ch05_rl" / "value_functions.md").read_text(encoding="utf-8")
A, B, END = range(3)
ANSWER, THINK = range(2)


def think_or_answer(gamma: float = 1.0) -> FiniteMDP:
    """States A (no thought yet), B (one or more), the end; a right answer pays 1, a thought costs 0.1."""
    p = torch.zeros(3, 2, 3, dtype=torch.float64)
    p[:, ANSWER, END] = 1.0
    p[:, THINK, B] = 1.0
    rewards = torch.tensor([[0.4, -0.1], [0.8, -0.1], [0.0, 0.0]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return FiniteMDP(p, rewards, gamma, start, torch.tensor([False, False, True]))


COIN = torch.full((3, 2), 0.5, dtype=torch.float64)


def says(*words: str) -> None:
    """The page holds these words: the numbers that are recomputed here are those that it prints."""
    for word in words:
        assert word in PAGE, f"the page no longer says {word!r}"


def test_the_return_of_five_rewards_by_definition_and_backwards() -> None:
    rewards = torch.tensor([-1.0, 0.0, 2.0, 0.0, 10.0], dtype=torch.float64)
    assert discounted_returns(rewards, 0.9).tolist() == pytest.approx([7.181, 9.09, 10.1, 9.0, 10.0])
    assert discounted_returns(rewards, 0.0)[0] == -1 and discounted_returns(rewards, 1.0)[0] == 11
    assert drawn.returns() == pytest.approx([7.181, 9.09, 10.1, 9.0, 10.0])
    assert tuple(rewards.tolist()) == drawn.REWARDS and drawn.GAMMA == 0.9
    says("-1+1.62+6.561=7.181", "$G_1=0.9\\cdot10.1=9.09$", "$G_0=-1+0.9\\cdot9.09=7.181$")


def test_horizons_and_half_lives() -> None:
    assert [math.log(0.5) / math.log(gamma) for gamma in (0.9, 0.99)] == pytest.approx([6.6, 69.0], abs=0.05)
    says("10 steps at $\\gamma=0.9$, 100 at 0.99", "6.6 and 69")


def test_the_quizzes_on_returns() -> None:
    assert discounted_returns(torch.tensor([0.0, 0.0, 1.0]), 0.5).tolist() == [0.25, 0.5, 1.0]
    assert pytest.approx((0.83, 0.96), abs=0.005) == (0.99**19, 0.99**4)
    says("$0.99^{19}=0.83$ to its first token, one of 5 tokens $0.96$")


def test_think_or_answer_has_the_values_that_the_page_and_the_diagrams_show() -> None:
    world = think_or_answer()
    v = dynamic.values(world, COIN)
    q = dynamic.q_from_v(world, v)
    assert v[:2].tolist() == pytest.approx([0.5, 0.7]) and v[END] == 0
    torch.testing.assert_close(q[:2], torch.tensor([[0.4, 0.6], [0.8, 0.6]], dtype=torch.float64))
    best = dynamic.policy_iteration(world)
    assert best.values[:2].tolist() == pytest.approx([0.7, 0.8])
    torch.testing.assert_close(best.q[:2], torch.tensor([[0.4, 0.7], [0.8, 0.7]], dtype=torch.float64))
    for values, found in ((drawn.random_values(), v), (drawn.best_values(), best.values)):
        assert (values["A"], values["B"]) == pytest.approx((found[A].item(), found[B].item()))
    for values, table in ((drawn.random_values(), q), (drawn.best_values(), best.q)):
        for (state, action), number in drawn.action_values(values).items():
            assert number == pytest.approx(table["AB".index(state), ("answer", "think").index(action)].item())
    says("so $V(B)=0.7$", "=0.5$. The action values", "$Q(A,\\text{think})=0.6$", "$Q^*(B,\\text{think})=0.7$")


def test_the_linear_solve_by_hand() -> None:
    p, r = dynamic.policy_transitions(think_or_answer(), COIN)
    assert r[:2].tolist() == pytest.approx([0.15, 0.35])
    assert p[:2, :2].tolist() == [[0.0, 0.5], [0.0, 0.5]]
    says("=(0.15,0.35)$")


def test_value_iteration_by_hand_takes_two_sweeps_and_policy_iteration_one_round() -> None:
    world = think_or_answer()
    v, seen = torch.zeros(3, dtype=torch.float64), []
    for _ in range(3):
        v = dynamic.v_from_q(dynamic.q_from_v(world, v))
        seen.append(v[:2].tolist())
    assert [number for row in seen for number in row] == pytest.approx([0.4, 0.8, 0.7, 0.8, 0.7, 0.8])
    assert dynamic.policy_iteration(world, COIN).changes == [2.0, 0.0]
    greedy = dynamic.greedy(dynamic.q_from_v(world, dynamic.values(world, COIN)))
    assert greedy[:2].argmax(-1).tolist() == [THINK, ANSWER]
    says("$V(A)=\\max(0.4,-0.1+0.8)=0.7$", "One round.")


def test_thinking_for_ever_has_no_value_without_a_discount() -> None:
    always_think = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"from the states \[0, 1\]"):
        dynamic.values(think_or_answer(), always_think)
    assert dynamic.q_from_v(think_or_answer(0.9), dynamic.values(think_or_answer(0.9), always_think))[A, ANSWER] == 0.4


def test_twenty_two_sweeps_are_a_factor_of_ten() -> None:
    assert pytest.approx(0.098, abs=5e-4) == 0.9**22 and 5 * 0.9**22 < 0.5 < 5 * 0.9**21
    says("$0.9^{22}=0.098$")


def test_monte_carlo_by_hand() -> None:
    """Three episodes of think or answer: think, answer right; answer wrong; think, think, answer right."""
    returns = [-0.1 + 1, 0.0, -0.1 - 0.1 + 1]
    assert sum(returns) / 3 == pytest.approx(0.567, abs=5e-4)
    stays_in_b = [[1.0], [], [0.9, 1.0]]
    first = [stays[0] for stays in stays_in_b if stays]
    every = [number for stays in stays_in_b for number in stays]
    assert sum(first) / 2 == pytest.approx(0.95) and sum(every) / 3 == pytest.approx(0.967, abs=5e-4)
    says("(0.9+0+0.8)/3=0.567", "$(1+0.9)/2=0.95$", "$(1+0.9+1)/3=0.967$")


def test_monte_carlo_by_the_library_gives_the_same_means() -> None:
    states = torch.tensor([[A, B, END, END], [A, END, END, END], [A, B, B, END]])
    rewards = torch.tensor([[-0.1, 1.0, 0.0], [0.0, 0.0, 0.0], [-0.1, -0.1, 1.0]], dtype=torch.float64)
    returns = discounted_returns(rewards, 1.0)
    for which, want in (("first", (0.567, 0.95)), ("every", (0.567, 0.967))):
        for state, mean in zip((A, B), want, strict=True):
            counts = states[:, :-1] == state
            if which == "first":
                counts &= counts.long().cumsum(-1) == 1
            assert returns[counts].mean().item() == pytest.approx(mean, abs=5e-4)


def test_the_quiz_on_completions() -> None:
    assert pytest.approx(469, abs=0.5) == 0.25 * 0.75 / 0.02**2
    errors = [math.sqrt(0.25 * 0.75 / n) for n in (16, 64)]
    assert errors == pytest.approx([0.11, 0.054], abs=0.002)
    says("gives $N=469$")


def test_a_walk_of_seven_steps_returns_what_the_table_says() -> None:
    grid = GridWorld("textbook", slip=0.0)
    grid.reset(seed=0)
    total, over = 0.0, False
    for action in (2, 2, 0, 0, 1, 1, 1):  # twice against the edge, then up, up, right, right, right
        _, reward, over, _, _ = grid.step(action)
        total += reward
    assert over and total == pytest.approx(0.76)
    says("$1-6\\cdot0.04=0.76$")


@pytest.mark.parametrize("name", ["backwards", "four", "backup", "conversion"])
@pytest.mark.parametrize("narrow", [False, True])
def test_diagrams_are_sound(name: str, narrow: bool) -> None:
    assert getattr(drawn, name)(narrow=narrow).problems() == []


def test_the_functions_that_the_page_names_exist() -> None:
    for name in ("visit_returns", "monte_carlo_control"):
        assert callable(getattr(tabular, name))


def test_one_episode_of_a_state_that_pays_and_stays() -> None:
    """Stays with 0.9, pays 1 a step: value 10; the mean over all visits of one episode is 5.5 in expectation."""
    lengths = range(1, 2000)
    chances = [0.9 ** (length - 1) * 0.1 for length in lengths]
    first = sum(p * length for p, length in zip(chances, lengths, strict=True))
    every = sum(p * sum(range(1, length + 1)) / length for p, length in zip(chances, lengths, strict=True))
    assert (first, every) == pytest.approx((10.0, 5.5), abs=1e-6)
    says("in expectation 5.5: a bias of $-4.5$ after one episode")


def test_in_a_tree_with_verdicts_of_0_or_1_one_round_of_policy_iteration_is_enough() -> None:
    """A binary tree of prefixes, 6 tokens deep, with random verdicts: greedy on Q of a random policy is worth V*."""
    depth, generator = 6, torch.Generator().manual_seed(0)
    inner = 2**depth - 1  # prefixes in the order of a heap: those of prefix s are 2 s + 1 and 2 s + 2
    p, rewards = torch.zeros(inner + 1, 2, inner + 1), torch.zeros(inner + 1, 2)
    for s in range(inner):
        for a in range(2):
            child = 2 * s + 1 + a
            p[s, a, min(child, inner)] = 1.0
            rewards[s, a] = float(child >= inner and torch.rand(1, generator=generator) < 0.3)
    p[inner, :, inner] = 1.0
    terminal = torch.arange(inner + 1) == inner
    tree = FiniteMDP(p, rewards, 1.0, torch.eye(inner + 1)[0], terminal)
    policy = torch.rand(inner + 1, 2, generator=generator, dtype=torch.float64).softmax(-1)
    before = dynamic.values(tree, policy)
    after = dynamic.values(tree, dynamic.greedy(dynamic.q_from_v(tree, before)))
    best = dynamic.value_iteration(tree).values
    assert torch.equal(after, best) and not torch.allclose(before, best)
    assert set(best[:-1].tolist()) == {0.0, 1.0}  # some prefixes are lost, the rest can be finished right
