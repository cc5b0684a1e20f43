"""Finite Markov decision processes, solved exactly: the ground truth for everything that learns from samples.

Knows tables of probabilities and rewards; nothing about learning. All tables are float64, for exact answers. A state
that is terminal has the value 0, whatever an estimate says of it, and an episode that came there is over.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignlab.rl.environments import discount

TIE = 1e-9
"""Values closer than this count as equal: where two actions are equally good, rounding must not choose."""


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A Markov decision process with S states and A actions.

    transitions: (S, A, S), p(s' | s, a). rewards: (S, A), the expected reward of taking a in s. gamma: discount factor.
    start: (S,), probability that an episode begins in s. terminal: (S,) bool. What stands in the tables for terminal
    states is overwritten: each stays where it is, at reward 0.
    outcomes: (S, A, S), the reward of each outcome, where it depends on s'; default: rewards, whatever s' is.
    ValueError for tables that do not fit together, rows that are no probabilities, and numbers that are not finite.
    """

    transitions: Tensor
    rewards: Tensor
    gamma: float
    start: Tensor
    terminal: Tensor
    outcomes: Tensor | None = None

    def __post_init__(self) -> None:
        p = torch.as_tensor(self.transitions, dtype=torch.float64).clone()
        if p.dim() != 3 or p.shape[0] != p.shape[2]:
            raise ValueError(f"transitions are {tuple(p.shape)}; they must be (S, A, S)")
        r = torch.as_tensor(self.rewards, dtype=torch.float64).clone()
        start = torch.as_tensor(self.start, dtype=torch.float64)
        terminal = torch.as_tensor(self.terminal, dtype=torch.bool)
        states, actions = p.shape[:2]
        for name, table, shape in (
            ("rewards", r, (states, actions)),
            ("start", start, (states,)),
            ("terminal", terminal, (states,)),
        ):
            if tuple(table.shape) != shape:
                raise ValueError(
                    f"{name} are {tuple(table.shape)}; with transitions {tuple(p.shape)} it must be {shape}"
                )
        outcomes = r[:, :, None].expand(-1, -1, states) if self.outcomes is None else self.outcomes
        outcomes = torch.as_tensor(outcomes, dtype=torch.float64).clone()
        if outcomes.shape != p.shape:
            raise ValueError(f"outcomes are {tuple(outcomes.shape)}, transitions {tuple(p.shape)}; give the same shape")
        p[terminal] = torch.eye(states, dtype=torch.float64)[terminal][:, None, :].expand(-1, actions, -1)
        r[terminal] = 0.0
        outcomes[terminal] = 0.0
        for name, table in (("transitions", p), ("rewards", r), ("start", start), ("outcomes", outcomes)):
            if not table.isfinite().all():
                raise ValueError(f"{name} hold a number that is not finite")
        for name, table in (("transitions", p), ("start", start)):
            sums = table.sum(-1)
            if (table < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-9):
                raise ValueError(f"{name} are no probabilities: rows sum to {sums.min():g} ... {sums.max():g}")
        if not torch.allclose((p * outcomes).sum(-1), r, atol=1e-9):
            raise ValueError("rewards are not the mean of outcomes; change both, or leave outcomes out")
        discount(self.gamma)
        for name, table in (
            ("transitions", p),
            ("rewards", r),
            ("start", start),
            ("terminal", terminal),
            ("outcomes", outcomes),
        ):
            object.__setattr__(self, name, table)

    @property
    def states(self) -> int:
        """S, the number of states."""
        return self.transitions.shape[0]

    @property
    def actions(self) -> int:
        """A, the number of actions."""
        return self.transitions.shape[1]

    def uniform(self) -> Tensor:
        """The policy that takes each action equally often, (S, A)."""
        return torch.full((self.states, self.actions), 1 / self.actions, dtype=torch.float64)

    def with_rewards(self, rewards: Tensor) -> "FiniteMDP":
        """The same world with other rewards: (S, A) for an action, or (S,) for being in s when it is taken."""
        rewards = torch.as_tensor(rewards, dtype=torch.float64)
        rewards = rewards[:, None].expand(-1, self.actions) if rewards.dim() == 1 else rewards
        return FiniteMDP(self.transitions, rewards, self.gamma, self.start, self.terminal)

    def with_gamma(self, gamma: float) -> "FiniteMDP":
        """The same world, with another discount factor."""
        return FiniteMDP(self.transitions, self.rewards, gamma, self.start, self.terminal, self.outcomes)

    @classmethod
    def from_gym(cls, env: Any, gamma: float) -> "FiniteMDP":
        """The tables of a Gymnasium toy-text environment (FrozenLake, CliffWalking, Taxi), read from its `P`.

        A state that transitions with `terminated` lead to is terminal. Its clock (truncation) is no part of the tables.
        ValueError where one state ends an episode at one time and not at another; TypeError where there is no `P`.
        """
        table = getattr(env.unwrapped, "P", None)
        if table is None:
            raise TypeError(f"{env} has no table P; FrozenLake, CliffWalking and Taxi have one")
        states, actions = len(table), len(table[0])
        p, gains = torch.zeros(2, states, actions, states, dtype=torch.float64)
        for s, row in table.items():
            for a, outcomes in row.items():
                for probability, s2, reward, _ in outcomes:
                    p[s, a, s2] += probability
                    gains[s, a, s2] += probability * reward
        start = torch.as_tensor(env.unwrapped.initial_state_distrib, dtype=torch.float64)
        ends, goes_on = set[int](), set(start.nonzero().flatten().tolist())
        queue = list(goes_on)
        while queue:  # only what an episode can reach: tables may hold states that never occur
            for outcomes in table[queue.pop()].values():
                for probability, s2, _, terminated in outcomes:
                    if probability > 0 and terminated:
                        ends.add(int(s2))
                    elif probability > 0 and s2 not in goes_on:
                        goes_on.add(int(s2))
                        queue.append(int(s2))
        if both := sorted(ends & goes_on):
            raise ValueError(f"the states {both} end an episode at one time and not at another")
        terminal = torch.zeros(states, dtype=torch.bool)
        terminal[sorted(ends)] = True
        outcome = torch.where(p > 0, gains / p.clamp_min(1e-300), 0.0)
        return cls(p, gains.sum(-1), gamma, start, terminal, outcome)

    @cached_property
    def _cumulative(self) -> Tensor:
        return self.transitions.cumsum(-1)

    def begin(self, runs: int, generator: torch.Generator | None = None) -> Tensor:
        """First states of `runs` episodes, (runs,)."""
        return draw(self.start.cumsum(-1).expand(runs, -1), generator)

    def step(
        self, states: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take actions[i] in states[i], (runs,): next states, rewards, whether those states are terminal, (runs,)."""
        following = draw(self._cumulative[states, actions], generator)
        assert self.outcomes is not None
        return following, self.outcomes[states, actions, following], self.terminal[following]


def draw(cumulative: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index per row, by its cumulative probabilities (runs, n). An index of probability 0 is never drawn."""
    u = torch.rand(len(cumulative), 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
    return (
        torch.searchsorted(cumulative.double().contiguous(), u, right=True)
        .squeeze(-1)
        .clamp_max(cumulative.shape[-1] - 1)
    )


class Episodes(NamedTuple):
    """Episodes sampled side by side; one that has ended stays in its terminal state, at reward 0.

    states: (runs, steps + 1). actions, rewards, running: (runs, steps); running is true where an action was taken.
    terminated: (runs,), whether the episode ended within the steps; where not, it was cut off (truncated).
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    running: Tensor
    terminated: Tensor


def sample(mdp: FiniteMDP, policy: Tensor, runs: int, steps: int, seed: int | torch.Generator = 0) -> Episodes:
    """One episode of at most `steps` steps in each of `runs` copies. policy: (S, A)."""
    check_policy(mdp, policy)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    cumulative = policy.double().cumsum(-1)
    states = [mdp.begin(runs, generator)]
    actions, rewards = [], []
    for _ in range(steps):
        action = draw(cumulative[states[-1]], generator)
        following, reward, _ = mdp.step(states[-1], action, generator)
        states.append(following)
        actions.append(action)
        rewards.append(reward)
    path = torch.stack(states, 1)
    ended = mdp.terminal[path]
    return Episodes(path, torch.stack(actions, 1), torch.stack(rewards, 1), ~ended[:, :-1], ended[:, -1])


def check_policy(mdp: FiniteMDP, policy: Tensor) -> None:
    """ValueError unless policy is (S, A) and each row a distribution."""
    if tuple(policy.shape) != (mdp.states, mdp.actions):
        raise ValueError(f"the policy is {tuple(policy.shape)}; it must be {(mdp.states, mdp.actions)}")
    sums = policy.sum(-1)
    if (policy < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-6):
        raise ValueError(f"the policy's rows are no probabilities: they sum to {sums.min():g} ... {sums.max():g}")


def policy_transitions(mdp: FiniteMDP, policy: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the process once the policy chooses: P(s' | s) (S, S) and expected rewards (S,)."""
    check_policy(mdp, policy)
    policy = policy.double()
    return torch.einsum("sa,sat->st", policy, mdp.transitions), (policy * mdp.rewards).sum(-1)


def values(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """V of a policy, exactly: the solution of V = r + gamma P V, Sutton and Barto (2018), eq. 4.4, (S,).

    ValueError if gamma is 1 and from some state the policy never comes to an end: there is no finite sum then.
    """
    open_, inner, r = _equations(mdp, policy)
    v = torch.zeros(mdp.states, dtype=torch.float64)
    v[open_] = torch.linalg.solve(inner, r)
    return v


def _equations(mdp: FiniteMDP, policy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which states are not terminal, (S,) bool; 1 - gamma P and the expected rewards among those.

    ValueError if gamma is 1 and from some state no terminal one can be reached.
    """
    p, r = policy_transitions(mdp, policy)
    if mdp.gamma == 1 and not (reaches := may_end(p, mdp.terminal)).all():
        raise ValueError(
            f"gamma is 1, and from the states {(~reaches).nonzero().flatten().tolist()} this policy never reaches a "
            "terminal state; take gamma below 1 or another policy"
        )
    open_ = ~mdp.terminal
    return open_, torch.eye(int(open_.sum()), dtype=torch.float64) - mdp.gamma * p[open_][:, open_], r[open_]


def may_end(p: Tensor, terminal: Tensor) -> Tensor:
    """The states from which a terminal one can be reached by transitions p (S, S): (S,) bool."""
    reaches = terminal
    while True:
        more = reaches | (p[:, reaches] > 0).any(-1)
        if torch.equal(more, reaches):
            return reaches
        reaches = more


def q_from_v(mdp: FiniteMDP, v: Tensor) -> Tensor:
    """Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) V(s'), (S, A), with V of terminal states taken as 0. v: (S,)."""
    return mdp.rewards + mdp.gamma * mdp.transitions @ v.double().masked_fill(mdp.terminal, 0.0)


def v_from_q(q: Tensor, policy: Tensor | None = None) -> Tensor:
    """V(s) = sum_a pi(a | s) Q(s, a), or max_a Q(s, a) with no policy (the optimal values). q: (S, A) to (S,)."""
    return q.max(-1).values if policy is None else (policy * q).sum(-1)


def greedy(q: Tensor, current: Tensor | None = None) -> Tensor:
    """The policy that takes an action of the highest Q, (S, A); of equal ones the first.

    current: a policy (S, A) that is kept in states where it already takes none but the best.
    """
    best = q >= q.max(-1, keepdim=True).values - TIE
    policy = torch.nn.functional.one_hot(best.long().argmax(-1), q.shape[-1]).double()
    if current is not None:
        keeps = (current.double() * ~best).sum(-1) == 0
        policy = torch.where(keeps[:, None], current.double(), policy)
    return policy


class Solution(NamedTuple):
    """V* (S,), Q* (S, A), an optimal policy (S, A), and how it went.

    changes: for value iteration the largest change of each sweep, max |V_new - V_old|; for policy iteration the number
    of states whose action changed in each round.
    """

    values: Tensor
    q: Tensor
    policy: Tensor
    changes: list[float]


def value_iteration(
    mdp: FiniteMDP,
    tolerance: float = 1e-10,
    sweeps: int = 100_000,
    in_place: bool = False,
    start: Tensor | None = None,
) -> Solution:
    """V <- max_a Q(s, a) until no value changes by more than `tolerance`, Sutton and Barto (2018), eq. 4.10.

    in_place: state by state, each reading what the sweep has already written (Gauss-Seidel); default: all states read
    the values of the last sweep (Jacobi). start: V to begin with, (S,); default 0.
    ValueError if `sweeps` are not enough: with gamma = 1 there may be nothing to converge to.
    """
    v = torch.zeros(mdp.states, dtype=torch.float64) if start is None else start.double().clone()
    v[mdp.terminal] = 0.0
    changes: list[float] = []
    while not changes or changes[-1] > tolerance:
        if len(changes) == sweeps:
            raise ValueError(f"after {sweeps} sweeps values still change by {changes[-1]:g}; gamma is {mdp.gamma}")
        old = v.clone()
        if in_place:
            for s in (~mdp.terminal).nonzero().flatten().tolist():
                v[s] = (mdp.rewards[s] + mdp.gamma * mdp.transitions[s] @ v).max()
        else:
            v = v_from_q(q_from_v(mdp, v))
        changes.append((v - old).abs().max().item())
    q = q_from_v(mdp, v)
    return Solution(v, q, greedy(q), changes)


def policy_iteration(mdp: FiniteMDP, policy: Tensor | None = None, rounds: int = 1_000) -> Solution:
    """Evaluate exactly, then act greedily, until no action changes, Howard (1960). policy: (S, A), default uniform.

    Ends at an optimum after finitely many rounds: each one improves, and there are finitely many policies.
    """
    policy = mdp.uniform() if policy is None else policy.double()
    changes: list[float] = []
    while True:
        v = values(mdp, policy)
        q = q_from_v(mdp, v)
        better = greedy(q, current=policy)
        changes.append(float((better != policy).any(-1)[~mdp.terminal].sum()))
        if changes[-1] == 0:
            return Solution(v, q, greedy(q, policy), changes)
        if len(changes) == rounds:
            raise ValueError(f"after {rounds} rounds {changes[-1]:g} actions still change")
        policy = better


def occupancy(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """Discounted number of times that an episode stands in each state and acts: sum_t gamma^t P(s_t = s), (S,).

    Terminal states have 0. Multiplied by r and summed it gives the expected return; divided by its sum it is the
    discounted state distribution of the policy gradient theorem. ValueError as in `values`.
    """
    open_, inner, _ = _equations(mdp, policy)
    visits = torch.zeros(mdp.states, dtype=torch.float64)
    visits[open_] = torch.linalg.solve(inner.T, mdp.start[open_])
    return visits
