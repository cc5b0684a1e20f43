"""Planning with a model of the world: Dyna-Q on tables, and random shooting with any model that can be stepped.

Knows tables and a function that predicts; nothing about how a network learns to predict.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignlab.rl.environments import discount
from alignlab.rl.mdp import FiniteMDP


class DynaRuns(NamedTuple):
    """What Dyna did. steps: (runs, episodes), real steps of each episode. reward: (runs, steps), of each real step.

    q: (runs, S, A). One of the first two is empty: a call counts either episodes or steps.
    """

    steps: np.ndarray
    reward: np.ndarray
    q: np.ndarray


def dyna_q(
    worlds: FiniteMDP | Sequence[tuple[int, FiniteMDP]],
    planning: int,
    runs: int = 30,
    episodes: int = 0,
    steps: int = 0,
    alpha: float = 0.1,
    epsilon: float = 0.1,
    kappa: float = 0.0,
    seed: int = 0,
) -> DynaRuns:
    """Tabular Dyna-Q, Sutton and Barto (2018), section 8.2, in `runs` independent runs side by side.

    After each real step: one Q-learning update from it, the model remembers it (it is told the truth once: the world is
    taken as deterministic), then `planning` updates from remembered pairs (s, a), each pair equally likely.
    worlds: a deterministic process, or (from real step, process) pairs, of equal size, for a world that changes.
    episodes or steps: when to stop, each run for itself. kappa > 0 is Dyna-Q+ (section 8.3): a remembered pair that was
    last tried m real steps ago is planned with the reward r + kappa sqrt(m), and in a state that was visited all
    actions may be planned; one never tried is taken to lead back to where it began, at reward 0.
    """
    changes = [(0, worlds)] if isinstance(worlds, FiniteMDP) else list(worlds)
    first = changes[0][1]
    for _, world in changes:
        if not bool((world.transitions.max(-1).values > 1 - 1e-12).all()):
            raise ValueError("this Dyna-Q remembers one outcome for each pair; the world must be deterministic")
        if world.transitions.shape != first.transitions.shape:
            raise ValueError("the worlds must have the same states and actions")
    if (episodes > 0) == (steps > 0) or planning < 0:
        raise ValueError(f"episodes {episodes}, steps {steps}, planning {planning}; give episodes or steps")
    size, actions, gamma = first.states, first.actions, discount(first.gamma)
    tables = [
        (at, w.transitions.argmax(-1).numpy(), w.rewards.numpy(), w.terminal.numpy())  # (S, A), (S, A), (S,)
        for at, w in changes
    ]
    rng, start = np.random.default_rng(seed), int(first.start.argmax())
    q = np.zeros((runs, size, actions))
    model_next = np.broadcast_to(np.arange(size)[:, None], (runs, size, actions)).copy()
    model_reward, tried = np.zeros((runs, size, actions)), np.zeros((runs, size, actions), dtype=int)
    known, count = np.zeros((runs, size * actions), dtype=int), np.zeros(runs, dtype=int)  # pairs s * A + a
    listed = np.zeros((runs, size, actions), dtype=bool)
    state, length, done = np.full(runs, start), np.zeros(runs, dtype=int), np.zeros(runs, dtype=int)
    lengths, gains = np.zeros((runs, episodes), dtype=int), np.zeros((runs, steps))
    time = 0
    while len(live := np.flatnonzero(done < episodes) if episodes else np.arange(runs)) and (episodes or time < steps):
        _, following, rewards, terminal = [table for table in tables if table[0] <= time][-1]
        time += 1
        s = state[live]
        best = q[live, s] + 1e-9 * rng.random((len(live), actions))  # of equal ones any
        a = np.where(rng.random(len(live)) < epsilon, rng.integers(actions, size=len(live)), best.argmax(-1))
        s2, r = following[s, a], rewards[s, a]
        q[live, s, a] += alpha * (r + gamma * q[live, s2].max(-1) - q[live, s, a])  # q of a terminal state stays 0
        model_next[live, s, a], model_reward[live, s, a], tried[live, s, a] = s2, r, time
        for b in range(actions) if kappa else (a,):
            new = ~listed[live, s, b]
            rows, pair = live[new], (s * actions + b)[new]
            known[rows, count[rows]] = pair
            count[rows] += 1
            listed[live, s, b] = True
        # While no reward is known every update changes 0 into 0: those runs can skip them.
        plan = live if kappa else live[q[live].any((1, 2))]
        picks = (rng.random((planning, len(plan))) * count[plan]).astype(int) if len(plan) else ()
        for pick in picks:
            ps, pa = np.divmod(known[plan, pick], actions)
            pr = model_reward[plan, ps, pa]
            if kappa:
                pr = pr + kappa * np.sqrt(time - tried[plan, ps, pa])
            pq = q[plan, ps, pa]
            q[plan, ps, pa] = pq + alpha * (pr + gamma * q[plan, model_next[plan, ps, pa]].max(-1) - pq)
        length[live] += 1
        if steps:
            gains[:, time - 1] = r
        ended = terminal[s2]
        state[live] = np.where(ended, start, s2)
        over = live[ended]
        if episodes:
            lengths[over, done[over]] = length[over]
        done[over] += 1
        length[over] = 0
    return DynaRuns(lengths, gains, q)


Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""states (copies, n, d), actions (copies, n) -> next states (copies, n, d), rewards, terminated: (copies, n)."""


@torch.no_grad()
def imagine(
    predict: Predict, states: Tensor, plans: Tensor, gamma: float = 1.0, value: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The predicted return of each plan: sum_h gamma^h r_h up to and with the step that terminates, (copies, n).

    states: (copies, d), where each copy stands. plans: (copies, n, horizon), actions. value: of the last states
    (copies, n, d), counted where the plan did not terminate; default 0.
    """
    n, horizon = plans.shape[1:]
    s = states[:, None].expand(-1, n, -1)
    total, running = torch.zeros(plans.shape[:2]), torch.ones(plans.shape[:2])
    for h in range(horizon):
        s, reward, terminated = predict(s, plans[..., h])
        total += gamma**h * running * reward
        running = running * ~terminated
    return total if value is None else total + gamma**horizon * running * value(s)


@torch.no_grad()
def random_shooting(
    predict: Predict,
    states: Tensor,
    actions: int,
    horizon: int,
    plans: int,
    gamma: float = 1.0,
    value: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Model-predictive control with random plans: the first action of the best of `plans` plans, (copies,).

    Each plan is `horizon` actions drawn uniformly, judged by `imagine`. The rest of the best plan is thrown away: the
    next state is observed, and planned from anew. (Chua et al. (2018) put the cross-entropy method in its place.)
    """
    if horizon < 1 or plans < 1:
        raise ValueError(f"horizon {horizon}, plans {plans}; both must be at least 1")
    tried = torch.randint(actions, (len(states), plans, horizon), generator=generator)
    best = imagine(predict, states, tried, gamma, value).argmax(-1)
    return tried[torch.arange(len(states)), best, 0]
