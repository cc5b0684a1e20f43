"""Options: courses of action that last several steps, planned with and learned like actions. Sutton et al. (1999).

Knows finite processes; nothing about where options come from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignlab.rl.mdp import FiniteMDP, policy_transitions


class Option(NamedTuple):
    """Where it may begin, how it acts, when it ends. begins: (S,) bool. policy: (S, A). ends: (S,), probability.

    A terminal state of the process ends every option.
    """

    begins: Tensor
    policy: Tensor
    ends: Tensor


def primitive(mdp: FiniteMDP, action: int) -> Option:
    """An action as an option: possible everywhere, over after one step."""
    one = torch.zeros(mdp.actions, dtype=torch.float64)
    one[action] = 1.0
    everywhere = torch.ones(mdp.states, dtype=torch.bool)
    return Option(everywhere, one.expand(mdp.states, -1), torch.ones(mdp.states, dtype=torch.float64))


def option_model(mdp: FiniteMDP, option: Option) -> tuple[Tensor, Tensor]:
    """The multi-time model of an option, Sutton et al. (1999), section 3: rewards (S,) and transitions (S, S).

    rewards[s] = E[r_1 + gamma r_2 + ... + gamma^(k-1) r_k], k being the number of steps that it runs from s;
    transitions[s, s'] = sum_k gamma^k P(it ends in s' after k steps). Their rows sum to E[gamma^k], less than 1.
    """
    p, r = policy_transitions(mdp, option.policy)
    ends = option.ends.double().masked_fill(mdp.terminal, 1.0)
    # One step, then either over (ends) or the same again: R = r + gamma P (1 - ends) R, and likewise for transitions.
    going_on = torch.eye(mdp.states, dtype=torch.float64) - mdp.gamma * p * (1 - ends)
    going_on[mdp.terminal] = torch.eye(mdp.states, dtype=torch.float64)[mdp.terminal]
    rewards = torch.linalg.solve(going_on, r)
    transitions = torch.linalg.solve(going_on, mdp.gamma * p * ends)
    rewards[mdp.terminal], transitions[mdp.terminal] = 0.0, 0.0
    return rewards, transitions


def option_values(mdp: FiniteMDP, options: Sequence[Option], tolerance: float = 1e-10) -> tuple[Tensor, list[Tensor]]:
    """The best values with these options, by value iteration on their models: Q (S, O), and V after each sweep.

    Q(s, o) = R(s, o) + sum_s' P(s' | s, o) max_o' Q(s', o'), section 3.1; -inf where an option may not begin.
    """
    models = [option_model(mdp, option) for option in options]
    rewards, transitions = torch.stack([m[0] for m in models], 1), torch.stack([m[1] for m in models], 1)
    allowed = torch.stack([option.begins for option in options], 1)
    if not allowed.any(-1)[~mdp.terminal].all():
        raise ValueError("in some state no option may begin; add primitive actions, or let one begin there")
    v, sweeps = torch.zeros(mdp.states, dtype=torch.float64), []
    while True:
        q = (rewards + transitions @ v).masked_fill(~allowed, -torch.inf)
        new = q.max(-1).values.masked_fill(mdp.terminal, 0.0)
        sweeps.append(new)
        if (new - v).abs().max() < tolerance:
            return q, sweeps
        v = new


class OptionRuns(NamedTuple):
    """What learners did. steps: (runs, episodes), steps in the world. choices: (runs, episodes). q: (runs, S, O)."""

    steps: np.ndarray
    choices: np.ndarray
    q: np.ndarray


def learn(
    mdp: FiniteMDP,
    options: Sequence[Option],
    runs: int = 30,
    episodes: int = 100,
    alpha: float = 0.1,
    epsilon: float = 0.1,
    intra: bool = False,
    most: int = 2_000,
    seed: int = 0,
) -> OptionRuns:
    """Q-learning over options, in `runs` runs side by side; with `primitive` options alone it is Q-learning.

    An option is chosen epsilon-greedily among those that may begin, and followed until it ends. SMDP Q-learning
    (section 3.2): then Q(s, o) moves towards R + gamma^k max Q(s', .), s being where it began and k how long it ran.
    intra: learn after every step instead (section 6), and for every option that would have done the same: its policy
    must take one action in each state. most: an episode is cut off after so many steps.
    """
    count, gamma = len(options), mdp.gamma
    allowed = torch.stack([option.begins for option in options], 1).numpy()  # (S, O)
    policies = torch.stack([option.policy.double() for option in options], 1)  # (S, O, A)
    acts, cumulative = policies.argmax(-1).numpy(), policies.cumsum(-1).numpy()
    ends = torch.stack([option.ends.double().masked_fill(mdp.terminal, 1.0) for option in options], 1).numpy()
    if intra and not bool((policies.max(-1).values > 1 - 1e-12).all()):
        raise ValueError("intra-option learning here needs options that take one action in each state")
    worlds, outcomes = mdp.transitions.cumsum(-1).numpy(), mdp.outcomes.numpy()  # type: ignore[union-attr]
    terminal, begins = mdp.terminal.numpy(), mdp.start.numpy()
    rng = np.random.default_rng(seed)
    q = np.where(allowed, 0.0, -np.inf)[None].repeat(runs, 0)

    def draw(rows: np.ndarray) -> np.ndarray:
        """One index per row of cumulative probabilities."""
        picks: np.ndarray = (rng.random((len(rows), 1)) * rows[:, -1:] < rows).argmax(-1)
        return picks

    def new_state(n: int) -> np.ndarray:
        return rng.choice(mdp.states, n, p=begins)

    state, origin, chosen = new_state(runs), np.zeros(runs, dtype=int), np.full(runs, -1)
    gained, worth = np.zeros(runs), np.ones(runs)  # the option's discounted reward so far, and gamma^k
    length, picked, done = (np.zeros(runs, dtype=int) for _ in range(3))
    steps, choices = (np.zeros((runs, episodes), dtype=int) for _ in range(2))
    while len(live := np.flatnonzero(done < episodes)):
        s = state[live]
        free = chosen[live] < 0
        rows, at = live[free], s[free]
        if len(rows):
            best = q[rows, at] + 1e-9 * rng.random((len(rows), count))
            anything = np.where(allowed[at], rng.random((len(rows), count)), -1.0).argmax(-1)
            chosen[rows] = np.where(rng.random(len(rows)) < epsilon, anything, best.argmax(-1))
            origin[rows], gained[rows], worth[rows] = at, 0.0, 1.0
            picked[rows] += 1
        o = chosen[live]
        a = draw(cumulative[s, o])
        s2 = draw(worlds[s, a])
        r, over = outcomes[s, a, s2], terminal[s2]
        gained[live] += worth[live] * r
        worth[live] *= gamma
        best_next = np.where(over, 0.0, q[live, s2].max(-1))
        stops = rng.random(len(live)) < ends[s2, o]
        if intra:
            same = allowed[s] & (acts[s] == a[:, None])  # (live, O): whose policy would have taken this action
            with np.errstate(invalid="ignore"):
                goes_on = np.where(ends[s2] < 1, (1 - ends[s2]) * q[live, s2], 0.0)
            onward = np.where(over[:, None], 0.0, goes_on + ends[s2] * best_next[:, None])
            here = q[live, s]
            with np.errstate(invalid="ignore"):
                moved = here + alpha * (r[:, None] + gamma * onward - here)
            q[live, s] = np.where(same, moved, here)
        else:
            w, where, which = live[stops], origin[live][stops], o[stops]
            target = gained[w] + worth[w] * best_next[stops]
            q[w, where, which] += alpha * (target - q[w, where, which])
        length[live] += 1
        state[live] = s2
        chosen[live[stops]] = -1
        cut = over | (length[live] >= most)
        rows = live[cut]
        steps[rows, done[rows]], choices[rows, done[rows]] = length[rows], picked[rows]
        done[rows] += 1
        length[rows], picked[rows], chosen[rows] = 0, 0, -1
        state[rows] = new_state(len(rows))
    return OptionRuns(steps, choices, q)
