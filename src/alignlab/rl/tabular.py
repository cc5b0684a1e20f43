"""Tabular reinforcement learning: Monte Carlo, temporal differences, traces and control, for many runs at once.

Knows finite decision processes; nothing about networks. A table has one row per run, and the loop goes over time steps,
so that a hundred runs cost little more than one. Rewards and times are numbered as in the book: r_t follows a_t in s_t.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from alignlab.rl.environments import discount
from alignlab.rl.mdp import Episodes, FiniteMDP, draw
from alignlab.rl.returns import discounted_returns, lambda_returns

Trace = Literal["accumulating", "replacing", "dutch"]
Rule = Literal["sarsa", "expected_sarsa", "q_learning", "double_q"]


class Visits(NamedTuple):
    """What one episode says of each state: sums of weighted returns and of weights, and the number of visits.

    All (runs, S). totals / counts is the mean of returns (ordinary importance sampling where weights were given),
    totals / weights the weighted one.
    """

    totals: Tensor
    weights: Tensor
    counts: Tensor


class Learned(NamedTuple):
    """What control found. q: (runs, S, A). returns: (runs, episodes), undiscounted. lengths: (runs, episodes)."""

    q: Tensor
    returns: Tensor
    lengths: Tensor


# ---- experience


def rollouts(mdp: FiniteMDP, policy: Tensor, runs: int, generator: torch.Generator, limit: int = 10_000) -> Episodes:
    """One whole episode in each of `runs` copies: until all have ended, or taken `limit` steps.

    policy: (S, A), or (runs, S, A) where each run follows its own.
    """
    row, states = torch.arange(runs), [mdp.begin(runs, generator)]
    actions: list[Tensor] = []
    rewards: list[Tensor] = []
    while len(actions) < limit and not bool(mdp.terminal[states[-1]].all()):
        chances = policy[row, states[-1]] if policy.dim() == 3 else policy[states[-1]]
        action = draw(chances.cumsum(-1), generator)
        following, reward, _ = mdp.step(states[-1], action, generator)
        actions.append(action)
        rewards.append(reward)
        states.append(following)
    if not actions:
        raise ValueError("every episode begins in a terminal state; there is nothing to learn from")
    path = torch.stack(states, 1)
    ended = mdp.terminal[path]
    return Episodes(path, torch.stack(actions, 1), torch.stack(rewards, 1), ~ended[:, :-1], ended[:, -1])


def _over(episodes: Episodes) -> Tensor:
    """Whether nothing follows step t because the episode has terminated, (runs, T)."""
    return torch.cat([~episodes.running[:, 1:], episodes.terminated[:, None]], 1)


def _at(values: Tensor, states: Tensor) -> Tensor:
    """values (..., runs, S) at one state of each run, (..., runs)."""
    return values[..., torch.arange(len(states)), states]


# ---- prediction: Monte Carlo


def weights_to_end(episodes: Episodes, target: Tensor, behaviour: Tensor) -> Tensor:
    """Product of target / behaviour over the actions from t to the end, (runs, T) (Sutton and Barto 2018, eq. 5.3).

    target, behaviour: (S, A). ValueError where behaviour never takes an action that target takes.
    """
    if bool(((behaviour == 0) & (target > 0)).any()):
        raise ValueError("the behaviour policy never takes an action that the target policy takes: no weight mends it")
    taken = episodes.states[:, :-1], episodes.actions
    ratios = torch.where(episodes.running, target.double()[taken] / behaviour.double()[taken], 1.0)
    return ratios.flip(-1).cumprod(-1).flip(-1)


def visit_returns(
    episodes: Episodes, states: int, gamma: float, first_visit: bool = True, weights: Tensor | None = None
) -> Visits:
    """The returns that followed each state, summed over its visits in the episode, each (runs, states).

    first_visit: count a state's first visit in an episode only. weights: (runs, T), as of `importance_weights`.
    """
    gains = discounted_returns(episodes.rewards, gamma)
    visited, counted = episodes.states[:, :-1], episodes.running
    if first_visit:
        times = torch.arange(visited.shape[1]).expand_as(visited)
        first = torch.full((len(visited), states), visited.shape[1])
        first = first.scatter_reduce(1, visited, torch.where(counted, times, visited.shape[1]), "amin")
        counted = counted & (first.gather(1, visited) == times)
    weight = counted.double() if weights is None else weights * counted
    zero = torch.zeros(len(visited), states, dtype=torch.float64)
    return Visits(
        zero.scatter_add(1, visited, weight * gains),
        zero.scatter_add(1, visited, weight),
        zero.scatter_add(1, visited, counted.double()),
    )


# ---- prediction: temporal differences


def n_step_td(
    values: Tensor, episodes: Episodes, alpha: float | Tensor, gamma: float, n: int | None = 1, offline: bool = False
) -> Tensor:
    """Values after one episode of n-step TD (Sutton and Barto 2018, eq. 7.2); n=1 is TD(0), None constant-alpha MC.

    values: (..., runs, S); alpha: a number, or a tensor that broadcasts to (..., runs). offline: all targets use the
    values from before the episode, and the errors are summed.
    """
    steps = episodes.rewards.shape[1]
    n = steps if n is None else n
    if n < 1:
        raise ValueError(f"n is {n}; an n-step return holds at least one reward")
    discount(gamma)
    values = values.clone()
    known = values.clone() if offline else values
    sums = torch.zeros_like(episodes.rewards)
    for _ in range(min(n, steps)):  # r_t + ... + gamma^(n-1) r_{t+n-1}; rewards after the end are 0
        sums = episodes.rewards + gamma * torch.nn.functional.pad(sums[:, 1:], (0, 1))
    over, row = _over(episodes), torch.arange(len(episodes.states))
    for t in range(steps):
        last = min(t + n, steps)
        state, after = episodes.states[:, t], episodes.states[:, last]
        ahead = torch.where(over[:, last - 1], 0.0, gamma ** (last - t) * _at(known, after))
        error = torch.where(episodes.running[:, t], sums[:, t] + ahead - _at(known, state), 0.0)
        values[..., row, state] += alpha * error
    return values


def td_lambda(
    values: Tensor,
    episodes: Episodes,
    alpha: float | Tensor,
    gamma: float,
    lam: float | Tensor,
    trace: Trace = "accumulating",
    offline: bool = False,
) -> Tensor:
    """Values after one episode of TD(lambda), backward view (Sutton 1988; Sutton and Barto 2018, eqs. 12.5 to 12.7).

    values: (..., runs, S); alpha, lam: numbers, or tensors that broadcast to (..., runs). "dutch" is true online
    TD(lambda) (van Seijen and Sutton 2014). offline: the values stand still until the episode is over.
    """
    discount(gamma)
    if not bool(((torch.as_tensor(lam) >= 0) & (torch.as_tensor(lam) <= 1)).all()):
        raise ValueError(f"lambda is {lam}; it lies in [0, 1]")
    if offline and trace == "dutch":
        raise ValueError("the dutch trace belongs to the online algorithm; take the accumulating one")
    alpha, lam = (torch.as_tensor(x, dtype=values.dtype) for x in (alpha, lam))
    decay = gamma * lam
    shape = torch.broadcast_shapes(values.shape[:-1], alpha.shape, decay.shape)
    values = values.expand(*shape, values.shape[-1]).clone()
    known = values.clone() if offline else values
    traces = torch.zeros_like(values)
    before = torch.zeros(shape, dtype=values.dtype)  # V(s_t) as it was before the last update
    over, row = _over(episodes), torch.arange(len(episodes.states))
    for t in range(episodes.rewards.shape[1]):
        state, running = episodes.states[:, t], episodes.running[:, t]
        here, there = _at(known, state), torch.where(over[:, t], 0.0, _at(known, episodes.states[:, t + 1]))
        delta = torch.where(running, episodes.rewards[:, t] + gamma * there - here, 0.0)
        traces *= decay[..., None]
        mark = _at(traces, state)
        if trace == "replacing":
            traces[..., row, state] = 1.0
        else:
            traces[..., row, state] = 1.0 + mark * (1.0 if trace == "accumulating" else 1.0 - alpha)
        if trace == "dutch" and t:  # what earlier updates of this episode have already done to V(s_t)
            delta = delta + torch.where(running, here - before, 0.0)
            values += (alpha * delta)[..., None] * traces
            values[..., row, state] -= alpha * torch.where(running, here - before, 0.0)
        else:
            values += (alpha * delta)[..., None] * traces
        before = there
    return values


def lambda_targets(values: Tensor, episodes: Episodes, gamma: float, lam: float) -> Tensor:
    """The lambda-return of every step, (..., runs, T), from values (..., runs, S) that stand still (eq. 12.3)."""
    row = torch.arange(len(episodes.states))[:, None]
    following = values[..., row, episodes.states[:, 1:]]
    rewards, over = episodes.rewards.expand_as(following), _over(episodes).expand_as(following)
    return lambda_returns(rewards, following, over, gamma, lam)


def lambda_return_update(
    values: Tensor, episodes: Episodes, alpha: float | Tensor, gamma: float, lam: float, summed: bool = False
) -> Tensor:
    """Values after one episode of the offline lambda-return algorithm, forward view (Sutton and Barto 2018, eq. 12.4).

    The targets use the values from before the episode. Corrections follow one another in time; summed: all errors
    are taken before the first correction, as the backward view does with offline updates.
    """
    gains = lambda_targets(values, episodes, gamma, lam)
    values = values.clone()
    known = values.clone() if summed else values
    row = torch.arange(len(episodes.states))
    for t in range(episodes.rewards.shape[1]):
        state = episodes.states[:, t]
        error = torch.where(episodes.running[:, t], gains[..., t] - _at(known, state), 0.0)
        values[..., row, state] += alpha * error
    return values


# ---- control


def epsilon_greedy(q: Tensor, epsilon: float) -> Tensor:
    """Probabilities (..., A): epsilon spread over all actions, the rest over those of the highest value, ties alike."""
    best = (q == q.max(-1, keepdim=True).values).to(q.dtype)
    return epsilon / q.shape[-1] + (1 - epsilon) * best / best.sum(-1, keepdim=True)


def td_target(rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma V(s'), and r alone where the episode terminated. All (n,)."""
    return rewards + gamma * torch.where(terminated, 0.0, next_values)


def sarsa_value(next_q: Tensor, next_actions: Tensor) -> Tensor:
    """Q(s', a') of the action that will be taken. next_q: (n, A), next_actions: (n,)."""
    return next_q.gather(-1, next_actions[:, None])[:, 0]


def expected_sarsa_value(next_q: Tensor, next_policy: Tensor) -> Tensor:
    """Mean of Q(s', a') under the policy; both (n, A)."""
    return (next_policy * next_q).sum(-1)


def q_learning_value(next_q: Tensor) -> Tensor:
    """max Q(s', a'), whatever action will be taken (Watkins and Dayan 1992). next_q: (n, A)."""
    return next_q.max(-1).values


def double_q_value(selecting: Tensor, evaluating: Tensor) -> Tensor:
    """The value, in one table, of the action that the other finds best (van Hasselt 2010). Both (n, A)."""
    return evaluating.gather(-1, selecting.argmax(-1, keepdim=True))[:, 0]


def control(
    mdp: FiniteMDP,
    rule: Rule,
    runs: int,
    episodes: int,
    alpha: float = 0.1,
    epsilon: float = 0.1,
    seed: int = 0,
    limit: int = 10_000,
    start: float = 0.0,
) -> Learned:
    """Learn action values by acting epsilon-greedily, in `runs` separate copies of the process.

    rule: what the target takes of the next state. start: every action's first value. limit: steps after which an
    episode is cut; a cut is no end, the target still counts on the next state.
    """
    if rule not in ("sarsa", "expected_sarsa", "q_learning", "double_q"):
        raise ValueError(f"the rule is {rule!r}; there are sarsa, expected_sarsa, q_learning and double_q")
    if not 0 <= epsilon <= 1 or not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha} and epsilon {epsilon}; alpha lies in (0, 1], epsilon in [0, 1]")
    gamma = discount(mdp.gamma)
    generator = torch.Generator().manual_seed(seed)
    row, tables = torch.arange(runs), 2 if rule == "double_q" else 1
    q = torch.full((tables, runs, mdp.states, mdp.actions), start, dtype=torch.float64)
    q[:, :, mdp.terminal] = 0.0

    def act(state: Tensor) -> Tensor:
        return draw(epsilon_greedy(q[:, row, state].sum(0), epsilon).cumsum(-1), generator)

    state = mdp.begin(runs, generator)
    action = act(state)
    gains, lengths = torch.zeros(runs, episodes, dtype=torch.float64), torch.zeros(runs, episodes, dtype=torch.long)
    done, gain, length = torch.zeros(3, runs, dtype=torch.float64)
    while bool((done < episodes).any()):
        following, reward, terminated = mdp.step(state, action, generator)
        table = torch.randint(tables, (runs,), generator=generator)
        ahead = q[table, row, following]
        next_action = act(following)
        if rule == "sarsa":
            next_value = sarsa_value(ahead, next_action)
        elif rule == "expected_sarsa":
            next_value = expected_sarsa_value(ahead, epsilon_greedy(ahead, epsilon))
        elif rule == "q_learning":
            next_value = q_learning_value(ahead)
        else:
            next_value = double_q_value(ahead, q[1 - table, row, following])
        error = td_target(reward, next_value, terminated, gamma) - q[table, row, state, action]
        q[table, row, state, action] += alpha * torch.where(done < episodes, error, 0.0)
        gain, length = gain + reward, length + 1
        ended = terminated | (length >= limit)
        if bool(ended.any()):
            finished = row[ended & (done < episodes)]
            gains[finished, done[finished].long()] = gain[finished]
            lengths[finished, done[finished].long()] = length[finished].long()
            done[finished] += 1
            gain, length = torch.where(ended, 0.0, gain), torch.where(ended, 0.0, length)
            state = torch.where(ended, mdp.begin(runs, generator), following)
            action = torch.where(ended, act(state), next_action)
        else:
            state, action = following, next_action
        if rule != "sarsa":  # only SARSA's target has already named the next action
            action = act(state)
    return Learned(q.mean(0), gains, lengths)


def monte_carlo_control(
    mdp: FiniteMDP,
    runs: int,
    episodes: int,
    epsilon: float = 0.1,
    seed: int = 0,
    limit: int = 1_000,
    start: float = 0.0,
) -> Learned:
    """On-policy first-visit Monte Carlo control with an epsilon-greedy policy (Sutton and Barto 2018, section 5.4).

    Q(s, a) is the mean of the returns that followed the first visits. An episode that reaches `limit` is cut, and its
    return with it.
    """
    gamma = discount(mdp.gamma)
    generator = torch.Generator().manual_seed(seed)
    pairs = mdp.states * mdp.actions
    q = torch.full((runs, mdp.states, mdp.actions), start, dtype=torch.float64)
    q[:, mdp.terminal] = 0.0
    totals, counts = torch.zeros_like(q), torch.zeros_like(q)
    gains, lengths = [], []
    for _ in range(episodes):
        played = rollouts(mdp, epsilon_greedy(q, epsilon), runs, generator, limit)
        taken = played.states.clone()
        taken[:, :-1] = played.states[:, :-1] * mdp.actions + played.actions
        visits = visit_returns(played._replace(states=taken), pairs, gamma)
        totals += visits.totals.view_as(q)
        counts += visits.counts.view_as(q)
        q = torch.where(counts > 0, totals / counts.clamp_min(1), q)
        gains.append(played.rewards.sum(-1))
        lengths.append(played.running.sum(-1))
    return Learned(q, torch.stack(gains, 1), torch.stack(lengths, 1))
