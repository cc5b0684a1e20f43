"""Deep Q-learning: replay, targets, loss and one training loop, with the extensions that are worth their lines.

Knows networks and environments; nothing about tables or policies with parameters of their own. Everything runs for
several seeds at once: the first dimension of a tensor is the copy, each with its own network, replay and environment.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from alignlab.rl.environments import Copies, Step, discount, finite_actions, observation_size, play
from alignlab.rl.networks import Networks, clip_grad_norms


@dataclass(frozen=True)
class Config:
    """What a run may choose. The defaults solve CartPole-v1.

    steps: environment steps of each copy. gamma: discount factor. hidden: widths of the hidden layers.
    learning_rate: Adam's, falling linearly to a tenth. batch: transitions of one update. capacity: transitions kept.
    begin: steps before the first update. every: environment steps to one update. sync: updates between two copies of
    the network into the target network. epsilon: probability of a random action, first and last; explore: steps over
    which it falls. clip: largest norm of the gradient. unit: the size of a value, see `QNetworks`; 0 stands for
    1 / (1 - gamma), what rewards of 1 add up to.
    double: the network chooses, the target network judges (van Hasselt et al., 2015). dueling: value and advantages
    apart (Wang et al., 2015). n: rewards in a target. priority: exponent of the priorities, 0 for uniform replay
    (Schaul et al., 2015); weighting: exponent of the importance weights at first, rising to 1.
    """

    steps: int = 20_000
    gamma: float = 0.99
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    batch: int = 128
    capacity: int = 50_000
    begin: int = 1_000
    every: int = 4
    sync: int = 25
    epsilon: tuple[float, float] = (1.0, 0.05)
    explore: int = 5_000
    clip: float = 10.0
    unit: float = 0.0
    double: bool = False
    dueling: bool = False
    n: int = 1
    priority: float = 0.0
    weighting: float = 0.4

    def __post_init__(self) -> None:
        discount(self.gamma)
        least = {
            "steps": 1,
            "batch": 1,
            "begin": 1,
            "every": 1,
            "sync": 1,
            "explore": 1,
            "n": 1,
            "capacity": self.batch,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {smallest}")
        if not all(0 <= epsilon <= 1 for epsilon in self.epsilon):
            raise ValueError(f"epsilon is {self.epsilon}; probabilities lie in [0, 1]")
        if self.learning_rate <= 0 or self.priority < 0 or not 0 <= self.weighting <= 1:
            raise ValueError(
                f"learning_rate {self.learning_rate}, priority {self.priority}, weighting {self.weighting}; "
                "give a positive rate, a priority of at least 0 and a weighting in [0, 1]"
            )


# -- networks -----------------------------------------------------------------------------------------------------


def duel(streams: Tensor) -> Tensor:
    r"""Q = V + A - mean A, Wang et al. (2015), eq. 9. streams: (..., 1 + actions), V first. Returns (..., actions)."""
    value, advantage = streams[..., :1], streams[..., 1:]
    return value + advantage - advantage.mean(-1, keepdim=True)


class QNetworks(nn.Module):
    """Action values of each copy: (copies, batch, observation) to (copies, batch, actions).

    scale: (observation,), what observations are multiplied by. unit: the value that an output of 1 stands for. Networks
    learn numbers near 1 soonest, and CartPole's angles are near 0.1, its values near 100.
    """

    def __init__(
        self,
        observation: int,
        hidden: tuple[int, ...],
        actions: int,
        copies: int = 1,
        seed: int = 0,
        dueling: bool = False,
        scale: Tensor | None = None,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.body = Networks([observation, *hidden, actions + dueling], copies, seed)
        self.copies, self.dueling, self.unit = copies, dueling, unit
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(observation) if scale is None else scale)

    def forward(self, observations: Tensor) -> Tensor:
        out = self.unit * self.body(observations * self.scale)
        return duel(out) if self.dueling else out


def bounded_to_one(space: spaces.Space[Any]) -> Tensor:
    """1 / bound for the numbers of an observation that have a finite bound, and 1 for the others: (observation,)."""
    assert isinstance(space, spaces.Box)
    bound = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64).flatten()
    return torch.from_numpy(np.where((bound > 0) & (bound < 1e6), 1 / np.maximum(bound, 1e-6), 1.0)).float()


def greedy(networks: QNetworks) -> Callable[[Tensor], Tensor]:
    """The policy that takes the best action: (copies * m, observation) to (copies * m,), the first m for copy 0."""
    return lambda observations: networks(observations.unflatten(0, (networks.copies, -1))).argmax(-1).flatten()


def evaluate(networks: QNetworks, name: str, episodes: int = 100, seed: int = 10_000) -> Tensor:
    """Undiscounted returns of the greedy policies, without exploration: (copies, episodes)."""
    return play(greedy(networks), name, networks.copies * episodes, seed).unflatten(0, (networks.copies, -1))


# -- replay -------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Transitions to learn from; each field is (copies, batch), observations have one dimension more.

    reward: the discounted sum of the rewards up to next_observation. discount: what the value of next_observation is
    multiplied by, gamma to the number of those rewards. terminated: nothing follows, and that value is not counted.
    place: where the transition stands in the replay. weight: its importance weight, 1 in uniform replay.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    discount: Tensor
    place: Tensor
    weight: Tensor


class Replay:
    """The last `capacity` transitions of each copy, in the order in which they happened; batches are drawn uniformly.

    observation: numbers in an observation. n and gamma: rewards in a return, and their discount. A return ends early
    with the episode (terminated or truncated), or at the newest transition.
    """

    def __init__(
        self, copies: int, capacity: int, observation: int, n: int = 1, gamma: float = 0.99, seed: int = 0
    ) -> None:
        self.capacity, self.size, self.n = capacity, observation, n
        self.rows = torch.zeros(copies, capacity, 2 * observation + 4)  # observation, next, action, reward, two flags
        self.count = torch.zeros(copies, dtype=torch.long)  # transitions that were ever added
        self.generator = torch.Generator().manual_seed(seed)
        self._copy = torch.arange(copies)[:, None]
        self._discounts = discount(gamma) ** torch.arange(n + 1)

    def add(self, observation: Tensor, action: Tensor, step: Step) -> Tensor:
        """Keep one transition of each copy, but not where a copy only began anew. Returns the copies that added one."""
        ended = step.terminated | step.truncated
        facts = torch.stack([action.float(), step.reward, step.terminated.float(), ended.float()], -1)
        rows = torch.cat([observation, step.next_observation, facts], -1)
        copies = step.real.nonzero().squeeze(-1)
        self.rows[copies, self.count[copies] % self.capacity] = rows[copies]
        self.count[copies] += 1
        return copies

    def sample(self, batch: int) -> Batch:
        """So many transitions of each copy, each as likely as any other."""
        filled = self.count.clamp_max(self.capacity)[:, None]
        place = (torch.rand(len(filled), batch, generator=self.generator) * filled).long()
        return self.at(place, torch.ones(place.shape))

    def at(self, place: Tensor, weight: Tensor) -> Batch:
        """The n-step transitions that begin at place, (copies, batch)."""
        window = (place[..., None] + torch.arange(self.n)) % self.capacity
        rows = self.rows[self._copy[..., None], window]  # (copies, batch, n, ...)
        action, reward, _, ended = rows[..., -4:].unbind(-1)
        last = (ended > 0) | (window == (self.count[:, None, None] - 1) % self.capacity)
        counted = last.cumsum(-1) - last.int() == 0  # up to the first last row, that row included
        length = counted.sum(-1)
        end = rows.gather(2, (length - 1)[..., None, None].expand(-1, -1, 1, rows.shape[-1])).squeeze(2)
        return Batch(
            rows[..., 0, : self.size],
            action[..., 0].long(),
            (reward * counted * self._discounts[:-1]).sum(-1),
            end[..., self.size : 2 * self.size],
            end[..., -2] > 0,
            self._discounts[length],
            place,
            weight,
        )


class SumTree:
    """Numbers of which each is found in proportion to its size, in log2(leaves) steps: a node is its children's sum.

    nodes: (copies, 2 * leaves); the root is node 1, the children of node i are 2 i and 2 i + 1, leaf i is leaves + i.
    """

    def __init__(self, copies: int, leaves: int) -> None:
        self.leaves = 1 << max(leaves - 1, 1).bit_length()
        self.nodes = np.zeros((copies, 2 * self.leaves))

    def set(self, copies: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
        """Give the leaves at (copies, index), arrays that broadcast together, new values; then mend their ancestors."""
        node = index + self.leaves
        self.nodes[copies, node] = values
        for _ in range(self.leaves.bit_length() - 1):
            node = node // 2
            self.nodes[copies, node] = self.nodes[copies, 2 * node] + self.nodes[copies, 2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The leaf at which the running sum of the leaves passes `mass`, 0 to the total: (copies, batch)."""
        copies, node = np.arange(len(mass))[:, None], np.ones(mass.shape, dtype=int)
        for _ in range(self.leaves.bit_length() - 1):
            left, right = self.nodes[copies, 2 * node], self.nodes[copies, 2 * node + 1]
            to_the_right = (mass >= left) & (right > 0)
            mass = np.where(to_the_right, mass - left, mass)
            node = 2 * node + to_the_right
        return node - self.leaves


class PrioritizedReplay(Replay):
    """Replay that draws a transition in proportion to (|TD error| + 0.01)^alpha, Schaul et al. (2015), section 3.3.

    beta: exponent of the importance weights (1 / (N P))^beta, divided by the batch's largest; 1 undoes the bias whole.
    """

    def __init__(
        self,
        copies: int,
        capacity: int,
        observation: int,
        n: int = 1,
        gamma: float = 0.99,
        seed: int = 0,
        alpha: float = 0.6,
        beta: float = 0.4,
    ) -> None:
        super().__init__(copies, capacity, observation, n, gamma, seed)
        self.alpha, self.beta = alpha, beta
        self.tree = SumTree(copies, capacity)
        self.largest = np.ones(copies)  # the largest priority so far: what a new transition gets

    def add(self, observation: Tensor, action: Tensor, step: Step) -> Tensor:
        copies = super().add(observation, action, step)
        newest = (self.count[copies] - 1) % self.capacity
        self.tree.set(copies.numpy(), newest.numpy(), self.largest[copies])
        return copies

    def sample(self, batch: int) -> Batch:
        """One transition from each of `batch` equal parts of the total priority, with its importance weight."""
        total = self.tree.nodes[:, 1:2]
        part = torch.rand(len(total), batch, generator=self.generator, dtype=torch.float64).numpy()
        place = self.tree.find((np.arange(batch) + part) / batch * total)
        probability = self.tree.nodes[np.arange(len(total))[:, None], place + self.tree.leaves] / total
        weight = (self.count.clamp_max(self.capacity)[:, None].numpy() * probability) ** -self.beta
        weight /= weight.max(-1, keepdims=True)
        return self.at(torch.from_numpy(place), torch.from_numpy(weight).float())

    def update(self, place: Tensor, errors: Tensor) -> None:
        """New priorities for the transitions at place, from their TD errors, both (copies, batch)."""
        priority = (errors.abs().double().numpy() + 0.01) ** self.alpha
        self.tree.set(np.arange(len(priority))[:, None], place.numpy(), priority)
        self.largest = np.maximum(self.largest, priority.max(-1))


# -- loss ---------------------------------------------------------------------------------------------------------


def td_targets(batch: Batch, target_next: Tensor, online_next: Tensor | None = None) -> Tensor:
    r"""r + gamma max_a Q_target(s', a), and r alone where the episode terminated: Mnih et al. (2013), eq. 2.

    target_next, online_next: values of next_observation, (copies, batch, actions), by the target network and by the
    network that is trained. With online_next: double Q-learning, van Hasselt et al. (2015), eq. 4, in which it chooses
    the action and the target network says what that is worth. Returns (copies, batch).
    """
    best = (target_next if online_next is None else online_next).argmax(-1, keepdim=True)
    return batch.reward + batch.discount * ~batch.terminated * target_next.gather(-1, best).squeeze(-1)


def td_errors(values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """target - Q(s, a) of the actions taken. values: (copies, batch, actions); the others (copies, batch)."""
    return targets - values.gather(-1, actions[..., None]).squeeze(-1)


def huber(errors: Tensor) -> Tensor:
    """e^2 / 2 up to |e| = 1, then |e| - 1/2: the clipped error of Mnih et al. (2015). Elementwise."""
    return F.huber_loss(errors, torch.zeros(()).expand_as(errors), reduction="none")


# -- training -----------------------------------------------------------------------------------------------------


class Watched(NamedTuple):
    """What a run shows after each environment step. loss: (copies,), of the last update."""

    step: int
    networks: QNetworks
    target: QNetworks
    replay: Replay
    environment: Copies
    loss: Tensor


def train(
    name: str,
    copies: int = 1,
    seed: int = 0,
    config: Config | None = None,
    watch: Callable[[Watched], bool | None] | None = None,
) -> QNetworks:
    """DQN on an environment with a vector of numbers for an observation and finitely many actions.

    name: as registered with Gymnasium. copies: seeds trained side by side, seed, seed + 1, ... watch: called after each
    environment step; True ends the run. Returns the networks as they are at the end.
    """
    config = config or Config()
    environment = Copies(name, copies, seed)
    actions = finite_actions(environment.action_space, "DQN")
    size = observation_size(environment.observation_space, "DQN")
    unit = config.unit or (1 / (1 - config.gamma) if config.gamma < 1 else 1.0)
    scale = bounded_to_one(environment.observation_space)
    networks = QNetworks(size, config.hidden, actions, copies, seed, config.dueling, scale, unit)
    target = copy.deepcopy(networks)
    rules = (copies, config.capacity, size, config.n, config.gamma, seed)
    replay = PrioritizedReplay(*rules, config.priority, config.weighting) if config.priority else Replay(*rules)
    parameters = list(networks.parameters())
    optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    loss, updates = torch.zeros(copies), 0

    for step in range(1, config.steps + 1):
        epsilon = np.interp(step, (0, config.explore), config.epsilon)
        observation = environment.observation
        with torch.no_grad():
            action = networks(observation[:, None]).argmax(-1).squeeze(-1)
        chance = torch.rand(copies, generator=generator)
        at_random = torch.randint(actions, (copies,), generator=generator)
        action = torch.where(chance < epsilon, at_random, action)
        replay.add(observation, action, environment.step(action))

        if step >= config.begin and step % config.every == 0:
            batch = replay.sample(config.batch)
            with torch.no_grad():
                online_next = networks(batch.next_observation) if config.double else None
                targets = td_targets(batch, target(batch.next_observation), online_next)
            errors = td_errors(networks(batch.observation), batch.action, targets)
            loss = (batch.weight * huber(errors / unit)).mean(-1)
            optimizer.zero_grad()
            loss.sum().backward()  # each copy's loss reaches its own weights alone
            clip_grad_norms(parameters, config.clip)
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - 0.9 * step / config.steps)
            optimizer.step()
            if isinstance(replay, PrioritizedReplay):
                replay.beta = config.weighting + (1 - config.weighting) * step / config.steps
                replay.update(batch.place, errors.detach() / unit)
            updates += 1
            if updates % config.sync == 0:
                target.load_state_dict(networks.state_dict())
        if watch and watch(Watched(step, networks, target, replay, environment, loss.detach())):
            break
    return networks


def expert(
    name: str = "CartPole-v1", seed: int = 0, config: Config | None = None, enough: float = 495.0, look: int = 1_000
) -> QNetworks:
    """One good agent: trains until the mean of 100 greedy episodes reaches `enough`, else keeps the best it saw.

    config: default 3-step targets. look: environment steps between two evaluations.
    """
    best: tuple[float, QNetworks | None] = (-np.inf, None)

    def keep(seen: Watched) -> bool:
        nonlocal best
        if seen.step % look:
            return False
        mean = evaluate(seen.networks, name).mean().item()
        if mean > best[0]:
            best = mean, copy.deepcopy(seen.networks)
        return mean >= enough

    last = train(name, 1, seed, config or Config(n=3), keep)
    return best[1] or last
