"""What the page on value-based algorithms and its diagrams work out by hand, computed anew."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from alignlab.rl import dqn, tabular

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book/ch05_rl/value_based.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def diagrams() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "book"))
    from diagrams import ch05_dqn

    yield ch05_dqn
    sys.path.remove(str(ROOT / "book"))


def stated(*words: str) -> None:
    """The page says so, in these words."""
    for word in words:
        assert word in PAGE, word


def test_the_update_on_the_cliff_by_hand() -> None:
    """Q-learning -3.5, SARSA -52.5, expected SARSA -4.76."""
    following = torch.tensor([[-3.0, -2.0, -100.0, -4.0]])  # up, right, down, left
    reward, alive = torch.tensor([-1.0]), torch.tensor([False])
    values = {
        "q": tabular.q_learning_value(following),
        "sarsa": tabular.sarsa_value(following, torch.tensor([2])),
        "expected": tabular.expected_sarsa_value(following, tabular.epsilon_greedy(following, 0.1)),
    }
    new = {name: -4 + 0.5 * (tabular.td_target(reward, value, alive, 1.0).item() + 4) for name, value in values.items()}
    assert math.isclose(new["q"], -3.5) and math.isclose(new["sarsa"], -52.5)
    assert math.isclose(values["expected"].item(), -4.525, abs_tol=1e-5)
    assert math.isclose(new["expected"], -4.7625, abs_tol=1e-5)
    stated("$-4+0.5\\,(-3+4)=-3.5$", "$-4+0.5\\,(-101+4)=-52.5$", "=-4.525$", "$-5.525$", "$-4.76$")


def test_the_network_has_as_many_parameters_as_the_page_says() -> None:
    networks = dqn.QNetworks(4, (64, 64), 2)
    assert sum(parameter.numel() for parameter in networks.parameters()) == 4_610
    stated("4{,}610")


def test_values_grow_by_one_step_with_each_copy() -> None:
    """With perfect fits: 1, 1.99, 2.97 ..., and 63 of 100 after 98 copies."""
    q, seen = 0.0, []
    for _ in range(100):
        q = 1 + 0.99 * q
        seen.append(q)
    assert [round(x, 2) for x in seen[:3]] == [1.0, 1.99, 2.97]
    assert math.isclose(seen[98], (1 - 0.99**99) / 0.01) and seen[97] < 63 <= seen[98]
    stated("$1+0.99\\cdot1=1.99$", "$2.97$", "$k=98$")


def batch_of(rewards: list[float], terminated: list[bool], discount: float) -> dqn.Batch:
    n = len(rewards)
    zeros = torch.zeros(1, n, 1)
    return dqn.Batch(
        zeros,
        torch.zeros(1, n, dtype=torch.long),
        torch.tensor([rewards]),
        zeros,
        torch.tensor([terminated]),
        torch.full((1, n), discount),
        torch.zeros(1, n, dtype=torch.long),
        torch.ones(1, n),
    )


def test_three_targets_and_their_losses_by_hand() -> None:
    batch = batch_of([1.0, 1.0, 1.0], [False, True, False], 0.99)
    targets = dqn.td_targets(batch, torch.tensor([[[20.0, 3.0]] * 3]))
    assert torch.allclose(targets, torch.tensor([[20.8, 1.0, 20.8]]))
    errors = (targets - 20.0).requires_grad_()
    losses = dqn.huber(errors)
    losses.sum().backward()
    assert torch.allclose(losses, torch.tensor([[0.32, 18.5, 0.32]]), atol=1e-4)
    assert errors.grad is not None and torch.allclose(-errors.grad, torch.tensor([[-0.8, 1.0, -0.8]]), atol=1e-4)
    stated("| 0.8 | 0.32 | $-0.8$ |", "| 1 | $-19$ | 18.5 | $+1$ |")


def test_the_clock_taken_for_an_end_has_its_price() -> None:
    """V = 1 + gamma (1 - 1/T) V: 33.6 of 100 for T = 50, and about 50 for T = 100; the fixed point, by iteration."""
    for clock, wanted in ((50, 33.6), (100, 50.3)):
        value = 0.0
        for _ in range(5_000):
            value = 1 + 0.99 * (1 - 1 / clock) * value
        assert round(value, 1) == wanted
    assert round((1 - 0.99**100) / (1 - 0.99)) == 63  # the discounted return of 100 steps, in the quiz
    assert round(0.99**15 * 200) == 172
    stated("33.6", "\\approx50", "is 63")


def test_the_maximum_of_uniform_errors_has_the_bias_that_is_derived() -> None:
    """(m - 1) / (m + 1) c, against a simulation."""
    draw = torch.Generator().manual_seed(0)
    for m, share in ((2, 1 / 3), (100, 0.98)):
        assert math.isclose((m - 1) / (m + 1), share, abs_tol=0.001)
        found = (2 * torch.rand(20_000, m, generator=draw) - 1).max(-1).values.mean().item()
        assert math.isclose(found, (m - 1) / (m + 1), abs_tol=0.015)
    stated("\\frac{m-1}{m+1}", "$c/3$", "$0.98\\,c$")


def test_the_double_example(diagrams: ModuleType) -> None:
    online, target = torch.tensor([[diagrams.ONLINE]]), torch.tensor([[diagrams.TARGET]])
    batch = batch_of([0.0], [False], 1.0)
    assert math.isclose(dqn.td_targets(batch, target).item(), 2.8, abs_tol=1e-6)
    assert math.isclose(dqn.td_targets(batch, target, online).item(), 1.9, abs_tol=1e-6)
    stated("$(2.0, 3.1, 2.6)$", "$(2.4, 1.9, 2.8)$", "DQN takes 2.8", "1.9")


def test_the_dueling_example(diagrams: ModuleType) -> None:
    streams = torch.tensor([diagrams.VALUE, *diagrams.ADVANTAGES])
    assert dqn.duel(streams).tolist() == [2.0, 0.0, 4.0]
    assert "(2, 0, 4)" in diagrams.dueling().desc
    stated("$V=2$ and $A=(1,-1,3)$", "$Q=(2,0,4)$")


def test_the_sum_tree_of_the_diagram_is_the_librarys(diagrams: ModuleType) -> None:
    import numpy as np

    tree = dqn.SumTree(1, 8)
    tree.set(np.zeros((1, 1), dtype=int), np.arange(8)[None], np.array([diagrams.LEAVES], dtype=float))
    rows = diagrams.levels()
    assert [int(x) for x in tree.nodes[0, 1:]] == [number for row in rows for number in row]
    leaf = int(tree.find(np.array([[float(diagrams.MASS)]]))[0, 0])
    assert diagrams.path()[-1][1] == leaf == 3
    assert sum(diagrams.LEAVES) == 24 and diagrams.LEAVES[3] == 8
    assert math.isclose(24 / (8 * 8), 0.375) and 24 / (8 * 1) == 3
    stated("$P=\\frac{8}{24}=\\frac13$", "0.375", "priorities 4, 1, 3, 8, 2, 2, 1, 3")
    assert dqn.SumTree(1, 50_000).leaves == 2**16


def test_the_three_step_target_by_hand() -> None:
    assert round(1 + 0.99 + 0.9801 + 0.9703 * 20, 1) == 22.4
    assert math.isclose(0.99**3, 0.9703, abs_tol=1e-4)
    stated("$1+0.99+0.9801+0.9703\\cdot20=22.4$")


def test_the_two_paths_of_the_cliff_have_their_lengths(diagrams: ModuleType) -> None:
    """Walked in Gymnasium: up, right, down; and along the upper border."""
    import gymnasium as gym

    for lift, steps in ((1, diagrams.EDGE), (3, diagrams.SAFE)):
        world = gym.make("CliffWalking-v1")
        world.reset(seed=0)
        total, over = 0.0, False
        for action in [0] * lift + [1] * 11 + [2] * lift:
            assert not over
            _, reward, over, _, _ = world.step(action)
            total += float(reward)
        assert over and total == -steps
