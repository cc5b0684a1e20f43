"""Several agents: matrix games and their equilibria, mixers of utilities, and worlds of particles stepped together.

Knows payoffs, mixers and a physics of discs; nothing about training, which the lab does in the open.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from alignlab.rl.environments import discount
from alignlab.rl.networks import Networks

# -- matrix games ---------------------------------------------------------------------------------------------------


def _payoffs(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    row, column = torch.as_tensor(row).double(), torch.as_tensor(column).double()
    if row.dim() != 2 or row.shape != column.shape or not (row.isfinite().all() and column.isfinite().all()):
        raise ValueError(
            f"payoffs are {tuple(row.shape)} and {tuple(column.shape)}; give two finite tables of one shape, "
            "(row player's actions, column player's actions)"
        )
    return row, column


def exploitability(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """What both players together would gain if each alone changed to a best response; 0 exactly at a Nash equilibrium.

    row, column: (m, n), the payoffs of the two players. x: (..., m), y: (..., n), their mixed strategies. Returns
    (...,), in units of reward. Also called NashConv.
    """
    row, column = _payoffs(row, column)
    x, y = x.double(), y.double()
    of_rows, of_columns = y @ row.T, x @ column  # each action's payoff against the other's strategy
    return (of_rows.amax(-1) - (x * of_rows).sum(-1)) + (of_columns.amax(-1) - (y * of_columns).sum(-1))


def nash_equilibria(row: Tensor, column: Tensor, tolerance: float = 1e-9) -> list[tuple[Tensor, Tensor]]:
    """All equilibria (x, y) of a bimatrix game whose supports have equal sizes; of a nondegenerate game, all there are.

    row, column: (m, n). Support enumeration: for every choice of k rows and k columns, solve for the strategies that
    make the other player indifferent, and keep those that are probabilities and best responses.
    """
    row, column = _payoffs(row, column)
    m, n = row.shape
    found: list[tuple[Tensor, Tensor]] = []
    for size in range(1, min(m, n) + 1):
        for rows, columns in product(combinations(range(m), size), combinations(range(n), size)):
            y_part, x_part = _indifferent(row[rows, :][:, columns]), _indifferent(column[rows, :][:, columns].T)
            if x_part is None or y_part is None or min(x_part.min(), y_part.min()) < -tolerance:
                continue
            x, y = torch.zeros(m, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
            x[list(rows)], y[list(columns)] = x_part.clamp_min(0), y_part.clamp_min(0)
            new = not any(torch.allclose(x, u, atol=1e-7) and torch.allclose(y, v, atol=1e-7) for u, v in found)
            if new and exploitability(row, column, x, y) <= 1e3 * tolerance:
                found.append((x, y))
    return found


def _indifferent(payoffs: Tensor) -> Tensor | None:
    """Probabilities of the columns, (k,), against which all k rows earn the same; None where they are not unique."""
    size = len(payoffs)
    system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    system[:size, :size], system[:size, size], system[size, :size] = payoffs, -1, 1
    if torch.linalg.matrix_rank(system) <= size:
        return None
    return torch.linalg.solve(system, torch.tensor([0.0] * size + [1.0], dtype=torch.float64))[:size]


def solve_zero_sum(payoffs: Tensor) -> tuple[float, Tensor, Tensor]:
    """Value of a zero-sum game for the row player, and a maximin strategy of each.

    payoffs: (m, n), what the row player wins and the column player loses. One square part of the table always carries
    a solution (Shapley and Snow, 1950), so that support enumeration finds it, be the game degenerate or not.
    """
    x, y = nash_equilibria(payoffs, -torch.as_tensor(payoffs))[0]
    return (x @ torch.as_tensor(payoffs).double() @ y).item(), x, y


class Played(NamedTuple):
    """Fictitious play, step by step. rows, columns: (runs, steps), actions. x: (runs, steps, m), y: (runs, steps, n):
    the frequencies of all actions up to and with that step."""

    rows: Tensor
    columns: Tensor
    x: Tensor
    y: Tensor


def fictitious_play(row: Tensor, column: Tensor, steps: int, starts: Tensor | None = None) -> Played:
    """Each player answers, at every step, with a best response to the other's frequencies so far (Brown, 1951).

    row, column: (m, n). starts: (runs, 2) integers, the first actions; one run from (0, 0) if none. Of equally good
    actions the first is played.
    """
    row, column = _payoffs(row, column)
    starts = torch.zeros(1, 2, dtype=torch.long) if starts is None else starts
    (m, n), runs = row.shape, len(starts)
    if steps < 1 or starts.shape != (runs, 2) or (starts < 0).any() or (starts >= torch.tensor([m, n])).any():
        raise ValueError(f"steps {steps}, starts {tuple(starts.shape)}; give one step or more, and pairs of actions")
    rows, columns = torch.empty(runs, steps, dtype=torch.long), torch.empty(runs, steps, dtype=torch.long)
    rows[:, 0], columns[:, 0] = starts.T
    for_rows, for_columns = row.T[columns[:, 0]], column[rows[:, 0]]  # summed payoffs of each action so far
    for step in range(1, steps):
        rows[:, step], columns[:, step] = for_rows.argmax(-1), for_columns.argmax(-1)
        for_rows = for_rows + row.T[columns[:, step]]
        for_columns = for_columns + column[rows[:, step]]
    count = torch.arange(1, steps + 1, dtype=torch.float64)[:, None]
    x, y = (nn.functional.one_hot(a, k).double().cumsum(1) / count for a, k in ((rows, m), (columns, n)))
    return Played(rows, columns, x, y)


def solve_markov_game(
    rewards: Tensor, transitions: Tensor, gamma: float, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimax values of a zero-sum Markov game, (S,), and a maximin policy of each player, (S, m) and (S, n).

    rewards: (S, m, n), to the row player. transitions: (S, m, n, S); a row may sum to less than 1, the rest is the end.
    Shapley (1953): value iteration in which the maximum is replaced by the value of the matrix game at each state.
    """
    discount(gamma, endless=True)
    rewards, transitions = rewards.double(), transitions.double()
    states, m, n = rewards.shape
    if transitions.shape != (states, m, n, states) or (transitions < 0).any() or (transitions.sum(-1) > 1 + 1e-9).any():
        raise ValueError(f"transitions {tuple(transitions.shape)}; give probabilities (S, m, n, S) for {states} states")
    values = torch.zeros(states, dtype=torch.float64)
    while True:
        games = rewards + gamma * transitions @ values
        solved = [solve_zero_sum(game) for game in games]
        new = torch.tensor([value for value, _, _ in solved], dtype=torch.float64)
        if (new - values).abs().max() <= tolerance:
            return new, torch.stack([x for _, x, _ in solved]), torch.stack([y for _, _, y in solved])
        values = new


# -- one value from many --------------------------------------------------------------------------------------------


class Mixer(Protocol):
    """From the agents' utilities of their actions (copies, B, agents) and the state (copies, B, d) to (copies, B)."""

    def __call__(self, utilities: Tensor, state: Tensor) -> Tensor: ...


def vdn(utilities: Tensor, state: Tensor | None = None) -> Tensor:
    """VDN's mixer: the sum over agents; the state is not looked at. (Sunehag et al. 2017, section 3)"""
    return utilities.sum(-1)


class QMixer(nn.Module):
    """QMIX's mixing network: two layers whose weights are made from the state, and made non-negative.

    f(q; s) = elu(q |W1(s)| + b1(s)) |w2(s)| + b2(s), with W1, b1, w2 linear in s and b2 a network with one hidden layer
    (Rashid et al. 2018, section 4). With `monotone` false the absolute values are left out: then an agent's best
    action for itself need not be part of the best joint action.
    """

    def __init__(
        self, agents: int, state_size: int, width: int = 8, copies: int = 1, seed: int = 0, monotone: bool = True
    ) -> None:
        super().__init__()
        self.agents, self.width, self.monotone = agents, width, monotone
        self.first_weights = Networks((state_size, agents * width), copies, seed)
        self.first_bias = Networks((state_size, width), copies, seed + 1000)
        self.second_weights = Networks((state_size, width), copies, seed + 2000)
        self.second_bias = Networks((state_size, width, 1), copies, seed + 3000)

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        """utilities: (copies, B, agents), state: (copies, B, d), to the joint value, (copies, B)."""
        first, second = self.first_weights(state), self.second_weights(state)
        if self.monotone:
            first, second = first.abs(), second.abs()
        first = first.unflatten(-1, (self.agents, self.width))
        hidden = nn.functional.elu((utilities[..., None] * first).sum(-2) + self.first_bias(state))
        return (hidden * second).sum(-1) + self.second_bias(state)[..., 0]


def joint_values(mixer: Mixer, utilities: Tensor, state: Tensor) -> Tensor:
    """The joint value of every joint action, by enumeration.

    utilities: (copies, B, agents, actions), state: (copies, B, d). Returns (copies, B, actions, ..., actions), one axis
    per agent: actions ** agents values, which is why nobody does this with many agents.
    """
    copies, batch, agents, actions = utilities.shape
    joint = torch.tensor(list(product(range(actions), repeat=agents)))  # (joint, agents)
    chosen = utilities[:, :, torch.arange(agents), joint]  # (copies, B, joint, agents)
    flat = mixer(chosen.flatten(1, 2), state.repeat_interleave(len(joint), 1))
    return flat.view(copies, batch, *[actions] * agents)


def igm_violations(mixer: Mixer, utilities: Tensor, state: Tensor) -> Tensor:
    """Where the agents' own best actions are not the best joint action: (copies, B) bool, false where IGM holds.

    Individual-global-max (Son et al. 2019): argmax of the joint value = each agent's own argmax. The test is by value,
    so that ties do no harm.
    """
    table = joint_values(mixer, utilities, state).flatten(2)
    together = mixer(utilities.amax(-1), state)
    return together < table.amax(-1) - 1e-6 * (1 + table.abs().amax(-1))


def td_target(
    mixer: Mixer, rewards: Tensor, next_utilities: Tensor, next_state: Tensor, terminated: Tensor, gamma: float
) -> Tensor:
    """r + gamma max_u Q_tot(s', u), the maximum found agent by agent, as IGM allows. No gradient. (copies, B).

    rewards: (copies, B), the team's one reward. next_utilities: (copies, B, agents, actions), of the target networks.
    terminated: (copies, B) bool: nothing follows; a truncated episode is not terminated. (QMIX, section 4)
    """
    discount(gamma)
    if rewards.shape != next_utilities.shape[:2] or terminated.shape != rewards.shape:
        raise ValueError(
            f"rewards are {tuple(rewards.shape)}, terminated {tuple(terminated.shape)}, utilities "
            f"{tuple(next_utilities.shape)}; give one reward of the team for each of (copies, B) transitions"
        )
    with torch.no_grad():
        following = mixer(next_utilities.amax(-1), next_state)
        return rewards + gamma * torch.where(terminated, 0.0, following)


def additive_fit(table: Tensor) -> Tensor:
    """The least-squares fit u_i + v_j of a table (m, n), every cell counting the same: the best that VDN can do.

    Row mean plus column mean minus mean, as in an analysis of variance.
    """
    return table.mean(1, keepdim=True) + table.mean(0, keepdim=True) - table.mean()


# -- actors with a critic that sees all -----------------------------------------------------------------------------


def maddpg_actor_loss(
    critic: Callable[[Tensor], Tensor],
    observations: Sequence[Tensor],
    actions: Sequence[Tensor],
    own: Tensor,
    agent: int,
) -> Tensor:
    """-Q_i(x, a_1, ..., mu_i(o_i), ..., a_N), (..., B): only agent i's action is its policy's, the rest is from memory.

    critic: from (..., B, all observations and all actions) to (..., B, 1). observations, actions: one tensor
    (..., B, d) per agent. own: (..., B, d), mu_i(o_i), the only thing a gradient flows through. (Lowe et al. 2017,
    section 4.1)
    """
    others = [own if index == agent else action.detach() for index, action in enumerate(actions)]
    return -critic(torch.cat([*observations, *others], -1)).squeeze(-1)


# -- worlds of particles --------------------------------------------------------------------------------------------

DT, DAMPING, CONTACT_FORCE, CONTACT_MARGIN, SENSITIVITY = 0.1, 0.25, 100.0, 1e-3, 5.0
"""Constants of the multi-agent particle environments (Lowe et al. 2017), as in mpe2."""

MOVES = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
"""The five actions of a particle: stay, left, right, down, up."""

EPISODE = 25
"""Steps after which an episode is truncated, as in mpe2."""


class Particles:
    """n worlds of discs on a plane, stepped together; the physics of mpe2, without its loop over pairs.

    shape: leading axes, for example (copies, environments). Positions and velocities are (*shape, agents, 2), landmarks
    (*shape, landmarks, 2). A subclass says what is seen and what is rewarded.
    """

    agents: int
    landmarks_count: int
    radius = 0.15
    collide = False

    def __init__(self, shape: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        self.generators = torch.Generator().manual_seed(seed)
        self.reset()

    def _uniform(self, count: int) -> Tensor:
        drawn = torch.rand((*self.shape, count, 2), generator=self.generators, dtype=self.dtype)
        return drawn * 2 - 1

    def reset(self) -> None:
        """Everything at rest at places drawn uniformly from the square from -1 to 1."""
        self.position, self.landmarks = self._uniform(self.agents), self._uniform(self.landmarks_count)
        self.velocity = torch.zeros_like(self.position)

    def move(self, force: Tensor) -> None:
        """One step of 0.1 s under the agents' forces (*shape, agents, 2), each component from -1 to 1."""
        force = force.to(self.dtype) * SENSITIVITY
        if self.collide:
            apart = self.position.unsqueeze(-2) - self.position.unsqueeze(-3)  # (..., i, j, 2), from j to i
            distance = apart.norm(dim=-1)
            depth = nn.functional.softplus((2 * self.radius - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
            push = CONTACT_FORCE * depth / distance.clamp_min(1e-12)
            force = force + (apart * push.unsqueeze(-1)).sum(-2)
        self.position = self.position + self.velocity * DT
        self.velocity = self.velocity * (1 - DAMPING) + force * DT

    def _to_landmarks(self) -> Tensor:
        """(*shape, agents, landmarks, 2): from each agent to each landmark."""
        return self.landmarks.unsqueeze(-3) - self.position.unsqueeze(-2)

    def _to_others(self) -> Tensor:
        """(*shape, agents, agents - 1, 2): from each agent to the others, in order."""
        apart = self.position.unsqueeze(-3) - self.position.unsqueeze(-2)  # (..., i, j, 2), from i to j
        others = torch.tensor([[j for j in range(self.agents) if j != i] for i in range(self.agents)])
        return apart.gather(-2, others[..., None].expand(*self.shape, -1, -1, 2))


class Spread(Particles):
    """Cooperative navigation, mpe2's `simple_spread_v3`: as many landmarks as agents, cover all, do not touch.

    Observations (*shape, agents, 6 agents): velocity, place, the way to each landmark, the way to each other agent, and
    their messages, which are always 0 here. Rewards (*shape, agents): half minus the distance from each landmark to its
    nearest agent, summed; half minus the number of agents it touches.
    """

    collide = True

    def __init__(
        self, shape: Sequence[int], seed: int = 0, agents: int = 3, dtype: torch.dtype = torch.float32
    ) -> None:
        self.agents = self.landmarks_count = agents
        super().__init__(shape, seed, dtype)

    def observe(self) -> Tensor:
        ways = self._to_landmarks().flatten(-2), self._to_others().flatten(-2)
        silence = torch.zeros_like(ways[1])
        return torch.cat([self.velocity, self.position, *ways, silence], -1)

    def step(self, actions: Tensor) -> Tensor:
        """actions: (*shape, agents) integers 0 to 4. Returns the rewards (*shape, agents)."""
        self.move(MOVES.to(self.dtype)[actions])
        distances = self._to_landmarks().norm(dim=-1)  # (..., agents, landmarks)
        team = -distances.amin(-2).sum(-1, keepdim=True)
        touches = (self._to_others().norm(dim=-1) < 2 * self.radius).sum(-1)
        return 0.5 * team - 0.5 * touches


class SpeakerListener(Particles):
    """mpe2's `simple_speaker_listener_v4`, continuous actions: one sees which landmark is the goal, the other walks.

    Agent 0, the speaker, observes the goal's colour (3,) and sends a message (3,) from 0 to 1; it cannot move. Agent 1,
    the listener, observes its velocity, the ways to the landmarks and the last message (2 + 6 + 3,), and moves by five
    numbers from 0 to 1 (nothing, left, right, down, up). Both are rewarded with minus the squared distance to the goal.
    """

    agents, landmarks_count, radius = 1, 3, 0.075
    sizes = ((3, 3), (11, 5))

    def reset(self) -> None:
        super().reset()
        self.goal = torch.randint(3, self.shape, generator=self.generators)
        self.message = torch.zeros((*self.shape, 3), dtype=self.dtype)

    def observe(self) -> tuple[Tensor, Tensor]:
        colours = torch.full((3, 3), 0.15, dtype=self.dtype) + 0.5 * torch.eye(3, dtype=self.dtype)
        ways = self._to_landmarks().flatten(-3)
        return colours[self.goal], torch.cat([self.velocity.squeeze(-2), ways, self.message], -1)

    def step(self, actions: Sequence[Tensor]) -> Tensor:
        """actions: message (*shape, 3) and moves (*shape, 5). Returns the one reward (*shape,)."""
        message, moves = (action.to(self.dtype) for action in actions)
        self.message = message
        self.move(torch.stack([moves[..., 2] - moves[..., 1], moves[..., 4] - moves[..., 3]], -1).unsqueeze(-2))
        there = self.landmarks.gather(-2, self.goal[..., None, None].expand(*self.shape, 1, 2))
        return -(self.position - there).square().sum((-2, -1))


def episodes(world: Particles, count: int) -> Iterator[int]:
    """Steps of `count` episodes, each begun anew."""
    for _ in range(count):
        world.reset()
        yield from range(EPISODE)
