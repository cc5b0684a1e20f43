"""DQN's parts against definitions, enumeration and stable-baselines3, and wrong versions that must be rejected."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from alignlab.rl import dqn
from alignlab.rl.dqn import Batch, Config, PrioritizedReplay, Replay, SumTree
from alignlab.rl.environments import Step

Targets = Callable[..., Tensor]


def some_batch(copies: int = 2, batch: int = 6, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(copies, batch, 3, generator=draw),
        torch.randint(4, (copies, batch), generator=draw),
        torch.randn(copies, batch, generator=draw),
        torch.randn(copies, batch, 3, generator=draw),
        torch.rand(copies, batch, generator=draw) < 0.4,
        0.9 ** torch.randint(1, 4, (copies, batch), generator=draw).float(),
        torch.zeros(copies, batch, dtype=torch.long),
        torch.ones(copies, batch),
    )


# -- targets ----------------------------------------------------------------------------------------------------


def check_targets(targets: Targets) -> None:
    """Number by number, with and without double Q-learning."""
    batch, draw = some_batch(), torch.Generator().manual_seed(1)
    judge, chooser = torch.randn(2, 2, 6, 4, generator=draw)
    for online in (None, chooser):
        found = targets(batch, judge, online)
        assert found.shape == (2, 6)
        for c in range(2):
            for b in range(6):
                values = judge[c, b].tolist()
                choose = values if online is None else online[c, b].tolist()
                follows = values[choose.index(max(choose))]
                wanted = batch.reward[c, b].item()
                if not batch.terminated[c, b]:
                    wanted += batch.discount[c, b].item() * follows
                assert math.isclose(found[c, b].item(), wanted, rel_tol=1e-5, abs_tol=1e-6)


def test_targets_equal_their_definition() -> None:
    check_targets(dqn.td_targets)


def terminal_bootstrapped(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch._replace(terminated=torch.zeros_like(batch.terminated)), judge, online)


def flag_turned_round(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch._replace(terminated=~batch.terminated), judge, online)


def target_network_chooses(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch, judge, None)


def roles_swapped(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch, judge if online is None else online, None if online is None else judge)


def online_chooses_and_judges(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch, judge if online is None else online, None)


def mean_for_max(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return batch.reward + batch.discount * ~batch.terminated * judge.mean(-1)


def max_over_the_batch(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return batch.reward + batch.discount * ~batch.terminated * judge.amax((1, 2))[:, None]


def not_discounted(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch._replace(discount=torch.ones_like(batch.discount)), judge, online)


def reward_discounted(batch: Batch, judge: Tensor, online: Tensor | None = None) -> Tensor:
    return dqn.td_targets(batch._replace(reward=batch.discount * batch.reward), judge, online)


@pytest.mark.parametrize(
    "wrong",
    [
        terminal_bootstrapped,
        flag_turned_round,
        target_network_chooses,
        roles_swapped,
        online_chooses_and_judges,
        mean_for_max,
        max_over_the_batch,
        not_discounted,
        reward_discounted,
    ],
)
def test_a_wrong_target_is_rejected(wrong: Targets) -> None:
    with pytest.raises(AssertionError):
        check_targets(wrong)


# -- dueling and the loss ---------------------------------------------------------------------------------------


def check_duel(duel: Callable[[Tensor], Tensor]) -> None:
    """Wang et al., eq. 9: their mean is V, and a constant added to all advantages changes nothing."""
    streams = torch.tensor(
        [[[2.0, 1.0, -1.0, 3.0], [0.0, 5.0, 5.0, 5.0]], [[-1.0, 0.0, 0.0, 6.0], [1.0, -2.0, 2.0, 0.0]]]
    )
    found = duel(streams)
    assert torch.allclose(found[0, 0], torch.tensor([2.0, 0.0, 4.0]))
    assert torch.allclose(found[1, 0], torch.tensor([-3.0, -3.0, 3.0]))
    assert torch.allclose(found.mean(-1), streams[..., 0])
    shifted = streams.clone()
    shifted[..., 1:] += 7.0
    assert torch.allclose(duel(shifted), found)


def test_dueling_streams_add_up_to_values() -> None:
    check_duel(dqn.duel)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s[..., :1] + s[..., 1:],  # not identifiable
        lambda s: s[..., :1] + s[..., 1:] - s[..., 1:].max(-1, keepdim=True).values,  # eq. 8
        lambda s: s[..., :1] + s[..., 1:] - s[..., 1:].mean((-2, -1), keepdim=True),  # mean over the batch too
        lambda s: s[..., :1] + s[..., 1:] - s.mean(-1, keepdim=True),  # V in the mean
        lambda s: s[..., -1:] + s[..., :-1] - s[..., :-1].mean(-1, keepdim=True),  # V last
    ],
)
def test_a_wrong_duel_is_rejected(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_duel(wrong)


def check_huber(huber: Callable[[Tensor], Tensor]) -> None:
    """Its value piece by piece, and its slope: the error, clipped to [-1, 1]."""
    errors = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.2, 2.0], requires_grad=True)
    found = huber(errors)
    wanted = torch.tensor([e * e / 2 if abs(e) <= 1 else abs(e) - 0.5 for e in errors.tolist()])
    assert torch.allclose(found, wanted)
    found.sum().backward()
    assert errors.grad is not None and torch.allclose(errors.grad, errors.detach().clamp(-1, 1))


def test_huber_is_a_parabola_with_straight_arms() -> None:
    check_huber(dqn.huber)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda e: e.square(),
        lambda e: e.square() / 2,
        lambda e: e.abs(),
        lambda e: e.clamp(-1, 1).square() / 2,  # its gradient is zero where the error is largest
    ],
)
def test_a_wrong_huber_is_rejected(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_huber(wrong)


def test_the_error_is_that_of_the_action_taken() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert dqn.td_errors(values, torch.tensor([[1, 0]]), torch.tensor([[5.0, 5.0]])).tolist() == [[3.0, 2.0]]


# -- replay -----------------------------------------------------------------------------------------------------


def step_of(next_observation: float, reward: float, terminated: bool, truncated: bool, real: bool = True) -> Step:
    """One copy's step in a world whose observation is one number."""
    flags = (torch.tensor([flag]) for flag in (terminated, truncated, real))
    return Step(torch.tensor([[next_observation]]), torch.tensor([reward]), *flags)


def story(lengths: list[tuple[int, str]], rewards: list[float]) -> list[tuple[float, int, Step]]:
    """Episodes of given lengths and ends ("terminated", "truncated", "running"), with the row that only begins anew."""
    told, t = [], 0
    for length, end in lengths:
        for i in range(length):
            over = i + 1 == length
            step = step_of(t + 1.0, rewards[t], over and end == "terminated", over and end == "truncated")
            told.append((float(t), t % 3, step))
            t += 1
        if end != "running":
            told.append((-99.0, 0, step_of(-98.0, 50.0, False, False, real=False)))
    return told


def slow_n_step(
    lengths: list[tuple[int, str]], rewards: list[float], begin: int, n: int, gamma: float
) -> tuple[float, float, bool, float]:
    """Return, where it ends, whether that is terminal, and the discount there: from the list of episodes."""
    first = 0
    for length, end in lengths:
        if begin < first + length:
            total, last = 0.0, min(begin + n, first + length)
            for k, t in enumerate(range(begin, last)):
                total += gamma**k * rewards[t]
            return total, float(last), end == "terminated" and last == first + length, gamma ** (last - begin)
        first += length
    raise AssertionError("no such step")


def check_replay(make: Callable[..., Replay]) -> None:
    """Every stored transition, for n of 1 to 4, against the slow definition; rows that begin anew are not there."""
    lengths = [(4, "terminated"), (3, "truncated"), (1, "terminated"), (5, "running")]
    rewards = [1.0, 0.5, -2.0, 3.0, 0.25, 7.0, -1.0, 2.0, 1.5, -0.5, 4.0, 8.0, -3.0]
    for n in (1, 2, 3, 4):
        replay = make(1, 32, 1, n, 0.9, 0)
        for observation, action, step in story(lengths, rewards):
            replay.add(torch.tensor([[observation]]), torch.tensor([action]), step)
        assert replay.count.tolist() == [13]
        found = replay.at(torch.arange(13)[None], torch.ones(1, 13))
        for t in range(13):
            total, where, terminal, factor = slow_n_step(lengths, rewards, t, n, 0.9)
            assert found.observation[0, t].item() == t and found.action[0, t].item() == t % 3
            assert math.isclose(found.reward[0, t].item(), total, rel_tol=1e-5, abs_tol=1e-5), (n, t)
            assert found.next_observation[0, t].item() == where, (n, t)
            assert bool(found.terminated[0, t]) == terminal, (n, t)
            if not terminal:
                assert math.isclose(found.discount[0, t].item(), factor, rel_tol=1e-5), (n, t)


def test_replay_returns_the_n_step_transitions_that_happened() -> None:
    check_replay(Replay)
    check_replay(PrioritizedReplay)


class TruncationEnds(Replay):
    """Takes the clock for the end of the task."""

    def add(self, observation: Tensor, action: Tensor, step: Step) -> Tensor:
        return super().add(observation, action, step._replace(terminated=step.terminated | step.truncated))


class RunsOn(Replay):
    """Sees no end of a truncated episode: its window runs into the next one."""

    def add(self, observation: Tensor, action: Tensor, step: Step) -> Tensor:
        return super().add(observation, action, step._replace(truncated=torch.zeros_like(step.truncated)))


class KeepsResets(Replay):
    """Learns from the rows that only begin anew."""

    def add(self, observation: Tensor, action: Tensor, step: Step) -> Tensor:
        return super().add(observation, action, step._replace(real=torch.ones_like(step.real)))


class DiscountOffByOne(Replay):
    def at(self, place: Tensor, weight: Tensor) -> Batch:
        found = super().at(place, weight)
        return found._replace(discount=found.discount / 0.9)


class DiscountFixed(Replay):
    """gamma^n even where the return ended early."""

    def at(self, place: Tensor, weight: Tensor) -> Batch:
        found = super().at(place, weight)
        return found._replace(discount=torch.full_like(found.discount, 0.9**self.n))


class RewardsNotDiscounted(Replay):
    def __init__(self, *rules: Any) -> None:
        super().__init__(*rules)
        self._discounts = torch.cat([torch.ones(self.n), self._discounts[-1:]])


class OneTooFew(Replay):
    def __init__(self, copies: int, capacity: int, size: int, n: int, gamma: float, seed: int) -> None:
        super().__init__(copies, capacity, size, max(n - 1, 1), gamma, seed)


@pytest.mark.parametrize(
    "wrong",
    [TruncationEnds, RunsOn, KeepsResets, DiscountOffByOne, DiscountFixed, RewardsNotDiscounted, OneTooFew],
)
def test_a_wrong_replay_is_rejected(wrong: Callable[..., Replay]) -> None:
    with pytest.raises(AssertionError):
        check_replay(wrong)


def test_replay_forgets_the_oldest_and_draws_the_others_alike() -> None:
    replay = Replay(1, 5, 1, seed=3)
    for t in range(12):
        replay.add(torch.tensor([[float(t)]]), torch.tensor([0]), step_of(t + 1.0, 1.0, False, False))
    drawn = replay.sample(20_000).observation[0, :, 0]
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [7.0, 8.0, 9.0, 10.0, 11.0]
    assert (counts / 20_000 - 0.2).abs().max() < 0.015  # five standard errors
    # A window that would reach beyond the newest transition ends there, and does not run into the oldest.
    three = Replay(1, 5, 1, n=3, gamma=1.0)
    for t in range(12):
        three.add(torch.tensor([[float(t)]]), torch.tensor([0]), step_of(t + 1.0, 1.0, False, False))
    found = three.at(torch.arange(5)[None], torch.ones(1, 5))
    assert dict(zip(found.observation[0, :, 0].tolist(), found.reward[0].tolist(), strict=True)) == {
        7.0: 3.0, 8.0: 3.0, 9.0: 3.0, 10.0: 2.0, 11.0: 1.0,
    }  # fmt: skip


def test_each_copy_keeps_and_draws_its_own() -> None:
    replay = Replay(2, 8, 1)
    for t in range(6):
        real = torch.tensor([True, t % 2 == 0])
        flags = torch.zeros(2, dtype=torch.bool)
        step = Step(torch.tensor([[t + 1.0], [100.0 + t + 1]]), torch.ones(2), flags, flags, real)
        replay.add(torch.tensor([[float(t)], [100.0 + t]]), torch.tensor([0, 1]), step)
    found = replay.sample(200)
    assert set(found.observation[0].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(found.observation[1].flatten().tolist()) == {100.0, 102.0, 104.0}
    assert found.action[0].eq(0).all() and found.action[1].eq(1).all()


# -- priorities -------------------------------------------------------------------------------------------------


def check_tree(make: Callable[[int, int], SumTree]) -> None:
    """Every node the sum of its leaves, and find the inverse of the running sum, for sizes that are no power of two."""
    draw = np.random.default_rng(0)
    for leaves in (2, 5, 13, 16):
        tree, kept = make(2, leaves), np.zeros((2, leaves))
        for _ in range(30):
            index, values = draw.integers(leaves, size=(2, 3)), draw.random((2, 3)) * draw.integers(0, 2, (2, 3))
            index = np.sort(index, -1)
            for c in range(2):
                for i, value in zip(index[c], values[c], strict=True):
                    kept[c, i] = value  # of two values for one leaf the last counts
            tree.set(np.arange(2)[:, None], index, values)
            assert np.allclose(tree.nodes[:, 1], kept.sum(-1))
        kept[:, 1] = 0.5
        tree.set(np.arange(2)[:, None], np.ones((2, 1), dtype=int), np.full((2, 1), 0.5))
        total = kept.sum(-1, keepdims=True)
        mass = np.linspace(0, 1, 97)[None, 1:-1] * total
        wanted = np.stack([np.searchsorted(np.cumsum(kept[c]), mass[c], side="right") for c in range(2)])
        assert (tree.find(mass) == wanted).all()
        assert (np.take_along_axis(kept, tree.find(total), -1) > 0).all()  # the very end is no empty leaf


class LeftForRight(SumTree):
    def find(self, mass: np.ndarray) -> np.ndarray:
        return super().find(self.nodes[:, 1:2] - mass)


class MassKept(SumTree):
    """Goes to the right without taking off what stood left."""

    def find(self, mass: np.ndarray) -> np.ndarray:
        copies, node = np.arange(len(mass))[:, None], np.ones(mass.shape, dtype=int)
        while node.flat[0] < self.leaves:
            node = 2 * node + (mass >= self.nodes[copies, 2 * node])
        return node - self.leaves


class RootForgotten(SumTree):
    """Mends the parents, but not their ancestors."""

    def set(self, copies: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
        node = index + self.leaves
        self.nodes[copies, node] = values
        self.nodes[copies, node // 2] = self.nodes[copies, node // 2 * 2] + self.nodes[copies, node // 2 * 2 + 1]


class Largest(SumTree):
    """A tree of maxima."""

    def set(self, copies: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
        node = index + self.leaves
        self.nodes[copies, node] = values
        while node.flat[0] > 1:
            node = node // 2
            self.nodes[copies, node] = np.maximum(self.nodes[copies, 2 * node], self.nodes[copies, 2 * node + 1])


def test_the_sum_tree_finds_a_leaf_in_proportion_to_its_size() -> None:
    check_tree(SumTree)


@pytest.mark.parametrize("wrong", [LeftForRight, MassKept, RootForgotten, Largest])
def test_a_wrong_tree_is_rejected(wrong: type[SumTree]) -> None:
    with pytest.raises(AssertionError):
        check_tree(wrong)


def filled(make: Callable[..., PrioritizedReplay], alpha: float, beta: float) -> tuple[PrioritizedReplay, np.ndarray]:
    """A replay of eight transitions with errors of 0 to 7, and the probabilities that follow."""
    replay = make(1, 8, 1, 1, 0.9, 0, alpha, beta)
    for t in range(8):
        replay.add(torch.tensor([[float(t)]]), torch.tensor([0]), step_of(t + 1.0, float(t * t), False, False))
    replay.update(torch.arange(8)[None], torch.tensor([[-float(t) if t % 2 else float(t) for t in range(8)]]))
    wanted = (np.arange(8) + 0.01) ** alpha
    return replay, wanted / wanted.sum()


def check_priorities(make: Callable[..., PrioritizedReplay]) -> None:
    """How often each is drawn, each one's weight, and with beta 1 a mean that is not biased."""
    for alpha, beta in ((0.6, 0.4), (1.0, 1.0)):
        replay, probability = filled(make, alpha, beta)
        batches = [replay.sample(16) for _ in range(1_500)]
        place = torch.cat([batch.place[0] for batch in batches])
        counts = np.bincount(place.numpy(), minlength=8) / len(place)
        assert np.abs(counts - probability).max() < 0.015
        for batch in batches[:20]:
            drawn = batch.place[0].numpy()
            wanted = (1 / (8 * probability[drawn])) ** beta
            assert np.allclose(batch.weight[0].numpy(), wanted / wanted.max(), rtol=1e-5)
            assert batch.observation[0, :, 0].tolist() == drawn.astype(float).tolist()
        if beta == 1.0:  # the weighted mean of the rewards is the plain mean over the replay
            weight = 1 / (8 * probability[place.numpy()])
            reward = torch.cat([batch.reward[0] for batch in batches]).numpy()
            assert abs((weight * reward).mean() - np.square(np.arange(8)).mean()) < 0.6


class NoWeights(PrioritizedReplay):
    def sample(self, batch: int) -> Batch:
        found = super().sample(batch)
        return found._replace(weight=torch.ones_like(found.weight))


class WeightsInverted(PrioritizedReplay):
    def sample(self, batch: int) -> Batch:
        found = super().sample(batch)
        return found._replace(weight=found.weight.min() / found.weight)


class WeightsNotScaled(PrioritizedReplay):
    def sample(self, batch: int) -> Batch:
        found = super().sample(batch)
        return found._replace(weight=found.weight * 8)


class ExponentForgotten(PrioritizedReplay):
    def update(self, place: Tensor, errors: Tensor) -> None:
        super().update(place, (errors.abs() + 0.01) ** (1 / self.alpha) if self.alpha != 1 else errors.sign())


class SignKept(PrioritizedReplay):
    """Negative errors get the least priority."""

    def update(self, place: Tensor, errors: Tensor) -> None:
        super().update(place, errors.clamp_min(0.0))


class DrawnUniformly(PrioritizedReplay):
    def sample(self, batch: int) -> Batch:
        return Replay.sample(self, batch)


def test_transitions_are_drawn_by_their_error_and_weighted_back() -> None:
    check_priorities(PrioritizedReplay)


@pytest.mark.parametrize(
    "wrong", [NoWeights, WeightsInverted, WeightsNotScaled, ExponentForgotten, SignKept, DrawnUniformly]
)
def test_wrong_priorities_are_rejected(wrong: type[PrioritizedReplay]) -> None:
    with pytest.raises(AssertionError):
        check_priorities(wrong)


def test_a_new_transition_gets_the_largest_priority_so_far() -> None:
    replay, _ = filled(PrioritizedReplay, 0.6, 0.4)
    replay.add(torch.tensor([[8.0]]), torch.tensor([0]), step_of(9.0, 0.0, False, False))
    assert math.isclose(replay.tree.nodes[0, replay.tree.leaves], 7.01**0.6)  # it took the place of the oldest


# -- training ---------------------------------------------------------------------------------------------------


def test_each_copys_gradient_is_that_of_its_own_loss() -> None:
    """The sum over copies does not mix them: copy 1 alone has the same gradient."""
    batch = some_batch(2, 6)
    both = dqn.QNetworks(3, (8,), 4, copies=2, seed=5)
    alone = dqn.QNetworks(3, (8,), 4, copies=1, seed=6)
    for networks, rows in ((both, slice(0, 2)), (alone, slice(1, 2))):
        errors = dqn.td_errors(networks(batch.observation[rows]), batch.action[rows], batch.reward[rows])
        dqn.huber(errors).mean(-1).sum().backward()
    for a, b in zip(both.parameters(), alone.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad[1], b.grad[0], atol=1e-6)


def test_the_target_and_the_loss_equal_stable_baselines3() -> None:
    """One batch, the same weights: the targets that its DQN computes, and its loss."""
    sb3 = pytest.importorskip("stable_baselines3")
    peer = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", gamma=0.9)
    ours = [dqn.QNetworks(4, (16,), 2, seed=seed) for seed in (0, 1)]
    for mine, theirs in zip(ours, (peer.q_net, peer.q_net_target), strict=True):
        layers = [layer for layer in theirs.modules() if isinstance(layer, torch.nn.Linear)]
        for layer, weight, bias in zip(layers, mine.body.weights, mine.body.biases, strict=True):
            layer.weight.data, layer.bias.data = weight[0].T.clone(), bias[0, 0].clone()
    draw = torch.Generator().manual_seed(2)
    observation, following = torch.randn(2, 32, 4, generator=draw)
    action, reward = torch.randint(2, (32,), generator=draw), torch.randn(32, generator=draw)
    ended, clock = torch.rand(32, generator=draw) < 0.4, torch.rand(32, generator=draw) < 0.5
    for i in range(32):
        info = [{"TimeLimit.truncated": bool(ended[i] & clock[i])}]
        rows = (x[i : i + 1].numpy() for x in (observation, following, action, reward, ended.float()))
        peer.replay_buffer.add(*rows, info)
    peer.replay_buffer.sample = lambda *_, **__: peer.replay_buffer._get_samples(np.arange(32))
    logged: dict[str, float] = {}
    from stable_baselines3.common.logger import Logger

    class Kept(Logger):
        def __init__(self) -> None:
            super().__init__(None, [])

        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged[key] = float(value)

    peer.set_logger(Kept())
    peer.train(1, 32)

    replay = Replay(1, 32, 4, 1, 0.9)
    for i in range(32):
        flags = (torch.tensor([flag]) for flag in (bool(ended[i] & ~clock[i]), bool(ended[i] & clock[i]), True))
        replay.add(observation[i : i + 1], action[i : i + 1], Step(following[i : i + 1], reward[i : i + 1], *flags))
    batch = replay.at(torch.arange(32)[None], torch.ones(1, 32))
    with torch.no_grad():
        targets = dqn.td_targets(batch, ours[1](batch.next_observation))
    loss = dqn.huber(dqn.td_errors(ours[0](batch.observation), batch.action, targets)).mean(-1)
    assert math.isclose(loss.item(), logged["train/loss"], rel_tol=1e-5)


class TwoRooms(gym.Env[np.ndarray, int]):
    """Two rooms, one-hot. Action 0 stays: 1 in room 0, 3 in room 1. Action 1 changes rooms for 0. The clock stops at 7.

    With gamma 0.5 the optimal values solve by hand: V(1) = 3 / (1 - 0.5) = 6, Q(0, change) = 0 + 0.5 * 6 = 3, V(0) = 3.
    """

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.room, self.time = int(self.np_random.integers(2)), 0
        return np.eye(2, dtype=np.float32)[self.room], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = 0.0 if action else (1.0, 3.0)[self.room]
        self.room, self.time = self.room ^ int(action), self.time + 1
        over = self.time == 7
        return np.eye(2, dtype=np.float32)[self.room], reward, over and self.ends, over and not self.ends, {}


@pytest.fixture(scope="module", autouse=True)
def rooms() -> None:
    gym.register("alignlab-tests/TwoRooms-v0", TwoRooms)
    gym.register("alignlab-tests/Ending-v0", TwoRooms, kwargs={"ends": True})


def exact_values() -> Tensor:
    """Q* (room, action) of TwoRooms at gamma 0.5 by value iteration."""
    q = torch.zeros(2, 2)
    for _ in range(60):
        v = q.max(-1).values
        q = torch.stack([torch.tensor([1.0, 3.0]) + 0.5 * v, 0.5 * v.flip(0)], -1)
    return q


SMALL = Config(
    steps=1_500, gamma=0.5, hidden=(16,), learning_rate=1e-2, batch=32, begin=100, every=1, sync=20, explore=1,
    epsilon=(1.0, 1.0),
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "prioritized": {"priority": 0.6},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_dqn_learns_the_exact_values_where_the_clock_only_truncates(name: str) -> None:
    """Q* of a world that goes on forever, seen through episodes of 7 steps."""
    assert exact_values().tolist() == [[2.5, 3.0], [6.0, 1.5]]
    networks = dqn.train("alignlab-tests/TwoRooms-v0", 2, 0, replace(SMALL, **VARIANTS[name]))
    with torch.no_grad():
        found = networks(torch.eye(2).expand(2, 2, 2))
    assert (found - exact_values()).abs().max() < 0.15, found


def test_truncation_taken_for_an_end_gives_other_values() -> None:
    """The same world, its clock reported as termination: what a wrong flag costs is not small."""
    networks = dqn.train("alignlab-tests/Ending-v0", 2, 0, SMALL)
    with torch.no_grad():
        found = networks(torch.eye(2).expand(2, 2, 2))
    assert (found - exact_values()).abs().max() > 0.3, found


def test_a_target_network_that_is_never_synced_leaves_the_values_low() -> None:
    networks = dqn.train("alignlab-tests/TwoRooms-v0", 2, 0, replace(SMALL, sync=10**6))
    with torch.no_grad():
        found = networks(torch.eye(2).expand(2, 2, 2))
    assert found.max() < 4.5  # the reward of 3, and half of what the untrained copy says


def test_the_same_seed_gives_the_same_networks_and_another_seed_others() -> None:
    config = replace(SMALL, steps=200)
    first, again, other = (dqn.train("alignlab-tests/TwoRooms-v0", 2, seed, config) for seed in (0, 0, 7))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_watch_sees_every_step_and_can_end_the_run() -> None:
    seen: list[int] = []
    dqn.train("CartPole-v1", 2, 0, Config(steps=50), lambda now: seen.append(now.step) or now.step == 20)
    assert seen == list(range(1, 21))


def test_environments_and_settings_that_dqn_cannot_use_are_refused_before_training() -> None:
    with pytest.raises(TypeError, match="Discrete"):
        dqn.train("Pendulum-v1", 1, 0, Config(steps=5))
    with pytest.raises(TypeError, match="Box"):
        dqn.train("FrozenLake-v1", 1, 0, Config(steps=5))
    with pytest.raises(ValueError, match="gamma is 1"):
        Config(gamma=1.5)
    with pytest.raises(ValueError, match="n is 0"):
        Config(n=0)
    with pytest.raises(ValueError, match="epsilon"):
        Config(epsilon=(1.0, -0.1))
    with pytest.raises(ValueError, match="learning_rate"):
        Config(learning_rate=0.0)


class Broken(TwoRooms):
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return observation * np.nan, *rest  # type: ignore[return-value]


def test_an_observation_that_is_no_number_stops_the_run() -> None:
    gym.register("alignlab-tests/Broken-v0", Broken)
    with pytest.raises(ValueError, match="not finite"):
        dqn.train("alignlab-tests/Broken-v0", 1, 0, Config(steps=5))


def test_evaluation_plays_each_copys_own_policy() -> None:
    """A network that always pushes right beside one that pushes left and right in turn: 10 steps against more."""
    networks = dqn.QNetworks(4, (), 2, copies=2)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.zero_()
        networks.body.biases[0][0, 0] = torch.tensor([0.0, 1.0])  # copy 0: always right
        networks.body.weights[0][1, :, 1] = torch.tensor([0.0, 0.0, 1.0, 1.0])  # copy 1: to where the pole falls
    returns = dqn.evaluate(networks, "CartPole-v1", episodes=5)
    assert returns.shape == (2, 5)
    assert returns[0].max() < 15 and returns[1].min() > 100


def test_observations_are_scaled_by_their_bounds_and_outputs_to_values() -> None:
    """CartPole: positions within 4.8, angles within 0.418, speeds unbounded; and an output of 1 is worth `unit`."""
    scale = dqn.bounded_to_one(gym.make("CartPole-v1").observation_space)
    assert torch.allclose(scale, torch.tensor([1 / 4.8, 1.0, 1 / 0.41887903, 1.0]))
    plain, scaled = dqn.QNetworks(4, (8,), 2, seed=3), dqn.QNetworks(4, (8,), 2, seed=3, scale=scale, unit=100.0)
    x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scaled(x), 100 * plain(x * scale), atol=1e-5)


def test_an_expert_balances_the_pole() -> None:
    networks = dqn.expert(seed=0)
    assert dqn.evaluate(networks, "CartPole-v1", 100, seed=77).mean() >= 475
