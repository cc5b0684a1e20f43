# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Q-learning and DQN, from a cliff to a pole
#
# One rule, $Q(s,a)\leftarrow r+\gamma\max_{a'}Q(s',a')$: first in a table of 48 cells, where the truth can be computed, then in
# a network that balances a pole. On the way you meet what the rule does to noise, and what each of its remedies is worth.
#
# - **You will** reproduce the textbook's difference between SARSA and Q-learning on the cliff; build DQN in the open and
#   check it against the library and against stable-baselines3; solve CartPole with five seeds side by side; compare
#   double, dueling, prioritized and n-step; measure how much values are overestimated; tell truncation from termination.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 5.4.1-5.4.4

# %% cellView="form" jupyter={"source_hidden": true} tags=["setup", "hide-input"]
# @title Set-up: does nothing where AlignLab is installed; elsewhere it installs it, and leaves torch as it is
import importlib.util

if importlib.util.find_spec("alignlab") is None:
    import os
    import subprocess
    import sys
    from importlib.metadata import version

    source = os.environ.get("ALIGNLAB_SOURCE") or ""
    if not source:
        raise SystemExit(
            "AlignLab is not installed here. Set the environment variable ALIGNLAB_SOURCE to the address of its "
            "repository (git+https://...) or to the folder of a checkout, and run this cell again."
        )
    print("Installing AlignLab, a minute or two ...")
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy") if importlib.util.find_spec(name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source, *kept]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        raise SystemExit(f"pip could not install AlignLab from {source}. It said:\n{installed.stderr[-2000:]}")
    importlib.invalidate_caches()
    print("AlignLab is installed.")

# %% [markdown]
# ## Two rules on a cliff
#
# `CliffWalking` is a grid of 4 by 12 cells. You start at the lower left, the goal is at the lower right, and between them
# is a cliff. Each step costs 1. A step off the cliff costs 100 and puts you back at the start. Nothing is random
# but the agent itself, which takes a random action one time in ten.
#
# Gymnasium gives the whole world as a table, so that 100 agents can walk in it at once.

# %%
import copy
import time

import gymnasium as gym
import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from plotly.subplots import make_subplots

from alignlab import compute, lab, palette
from alignlab.exercises import check
from alignlab.rl import dqn, mdp, tabular
from alignlab.rl.curves import band
from alignlab.rl.environments import Copies, play
from alignlab.rl.networks import Networks, clip_grad_norms

run = lab.Lab("ch05_q_learning_dqn")
budget = run.budget(
    full=dict(
        runs=100, episodes=500, draws=200, steps=14_000, look=1_000, failing=6_000, clocked=9_000, chain=60_000, walks=(2, 4, 6, 8, 10),
        walkers=20, episodes_each=20, last=100, peer=14_000,
    ),
    quick=dict(
        runs=10, episodes=60, draws=20, steps=1_200, look=600, failing=1_100, clocked=1_100, chain=2_000, walks=(2, 4),
        walkers=5, episodes_each=4, last=4, peer=1_200,
    ),
)  # fmt: skip
SEEDS = 5
compute.seed(0)
torch.set_num_threads(1)  # products this small are not worth sharing between cores

cliff = gym.make("CliffWalking-v1").unwrapped
S, A, START, GOAL = 48, 4, 36, 47
entries = [[cliff.P[s][a][0] for a in range(A)] for s in range(S)]  # one (probability, next state, reward, end) each
goes_to = np.array([[entry[1] for entry in row] for row in entries])  # (S, A)
pays = np.array([[entry[2] for entry in row] for row in entries], dtype=float)
ends = np.array([[entry[3] for entry in row] for row in entries])
print("actions: 0 up, 1 right, 2 down, 3 left; right from the start:", entries[START][1])

# %% [markdown]
# The two rules differ in one word: what stands for the value of the next state. **SARSA** takes the action that it will
# really take next, **Q-learning** the best one.


# %%
def walk(rule, runs, episodes, alpha=0.5, epsilon=0.1, seed=0):
    """So many agents at once: returns of their episodes (runs, episodes), and Q (runs, S, A)."""
    rng = np.random.default_rng(seed)
    q, each = np.zeros((runs, S, A)), np.arange(runs)

    def choose(state):
        best = (q[each, state] + 1e-9 * rng.random((runs, A))).argmax(-1)  # ties are broken at random
        return np.where(rng.random(runs) < epsilon, rng.integers(A, size=runs), best)

    state = np.full(runs, START)
    action, total, finished, returns = choose(state), np.zeros(runs), np.zeros(runs, int), np.zeros((runs, episodes))
    while finished.min() < episodes:
        reward, after, end = pays[state, action], goes_to[state, action], ends[state, action]
        following = choose(after)
        value = q[each, after, following] if rule == "SARSA" else q[each, after].max(-1)
        q[each, state, action] += alpha * (reward + ~end * value - q[each, state, action])
        if rule == "Q-learning":
            following = choose(after)  # off-policy: the next action may look at the new values
        total += reward
        done = np.flatnonzero(end & (finished < episodes))
        returns[done, finished[done]] = total[done]
        finished += end
        total = np.where(end, 0.0, total)
        state = np.where(end, START, after)
        action = np.where(end, choose(state), following)
    return returns, q


learned = {rule: walk(rule, budget.runs, budget.episodes) for rule in run.progress(["SARSA", "Q-learning"], "walking")}

# %% [markdown]
# What is the truth? For a policy it is a system of 48 linear equations, so the plateaus of the curves can be computed before
# they are seen: the value of the best policy when one action in ten is random, and that of the $\varepsilon$-greedy
# policy that belongs to $Q^*$.


# %%
def greedy_with(q, epsilon):
    """Probabilities (S, A): epsilon spread over all actions, the rest over the best, ties alike."""
    ties = q >= q.max(-1, keepdims=True) - 1e-9
    return epsilon / A + (1 - epsilon) * ties / ties.sum(-1, keepdims=True)


def exact(policy):
    """Q of a policy, (S, A) to (S, A), by a linear solve; the goal is worth 0."""
    flow = np.zeros((S, S))
    for action in range(A):
        np.add.at(flow, (np.arange(S), goes_to[:, action]), policy[:, action] * ~ends[:, action])
    flow[GOAL] = 0.0
    value = np.linalg.solve(np.eye(S) - flow, np.where(np.arange(S) == GOAL, 0.0, (policy * pays).sum(-1)))
    return pays + ~ends * value[goes_to]


def best(epsilon, rounds=50):
    """Policy iteration among policies that explore so much: Q (S, A)."""
    first = np.where(np.arange(S) >= START, 0, np.where(np.arange(S) % 12 == 11, 2, 1))  # up, right, down: it arrives
    q = exact(greedy_with(np.eye(A)[first], epsilon))
    for _ in range(rounds):
        q = exact(greedy_with(q, epsilon))
    return q


q_star, q_soft = best(0.0), best(0.1)
walked = greedy_with(q_star, 0.1)  # what Q-learning does, once it knows Q*
plateau = {"Q-learning": (walked * exact(walked))[START].sum(), "SARSA": (greedy_with(q_soft, 0.1) * q_soft)[START].sum()}
print(f"shortest path, walked without exploring: {q_star[START].max():.0f}")
print(f"the same values with one action in ten at random: {plateau['Q-learning']:.1f}")
print(f"the best that such a walker can do: {plateau['SARSA']:.1f}")

# %%
fig = go.Figure()
late = {}
for rule, role in (("SARSA", "chosen"), ("Q-learning", "rejected")):
    returns = learned[rule][0]
    smooth = np.stack([np.convolve(row, np.ones(10) / 10, mode="valid") for row in returns])
    points = np.linspace(0, smooth.shape[1] - 1, min(120, smooth.shape[1])).astype(int)
    band(fig, points + 10, smooth[:, points], rule, role)
    late[rule] = returns[:, -returns.shape[1] // 5 :].mean(-1)
    fig.add_hline(y=plateau[rule], line={"color": palette.MIDDLE[role], "dash": "dot", "width": 1.5})
fig.update_layout(
    title="Sum of rewards of an episode while learning (mean of 10 episodes)", xaxis_title="episode", yaxis_title="sum of rewards"
)
fig.update_yaxes(range=[-150, 0])
run.figure(fig, "SARSA's episodes cost less than Q-learning's; dotted: exact values of the two policies.")
for rule, means in late.items():
    print(f"{rule}: {means.mean():.1f} in the last fifth of the episodes (standard error {means.std() / len(means) ** 0.5:.1f})")

# %% [markdown]
# The library's `control` is the same, on any finite decision process. Its random numbers are others, so the means must agree within
# their errors.

# %%
world = mdp.FiniteMDP.from_gym(gym.make("CliffWalking-v1"), gamma=1.0)
half, apart = budget.episodes // 10, {}
for rule, name in (("SARSA", "sarsa"), ("Q-learning", "q_learning")):
    theirs = tabular.control(world, name, budget.runs // 2, 2 * half, alpha=0.5, epsilon=0.1, seed=1)
    here, there = learned[rule][0][:, half : 2 * half].mean(-1), theirs.returns[:, half:].mean(-1).numpy()
    apart[rule] = abs(here.mean() - there.mean()) / np.hypot(here.std() / len(here) ** 0.5, there.std() / len(there) ** 0.5)
    print(f"{rule}, episodes {half} to {2 * half}: {here.mean():.1f} here, {there.mean():.1f} in the library ({apart[rule]:.1f} standard errors apart)")

# %% [markdown]
# Q-learning learns the better path and earns less while it learns: it estimates what a walker without
# exploration would get, and then explores along the edge. SARSA's values contain the falls. Read the learned values
# greedily, with no exploration, and the picture turns round.


# %%
def greedy_path(q):
    """Cells of the greedy path from the start, at most 60."""
    cells = [START]
    while cells[-1] != GOAL and len(cells) < 60:
        cells.append(int(goes_to[cells[-1], q[cells[-1]].argmax()]))
    return cells


fig = make_subplots(rows=2, cols=1, subplot_titles=list(learned), vertical_spacing=0.16)
steps_greedy = {}
for row, (rule, (_, q)) in enumerate(learned.items(), 1):
    visited = q.mean(0).max(-1).reshape(4, 12).round(1)
    visited[3, 1:11] = np.nan
    path = greedy_path(q.mean(0))
    steps_greedy[rule] = np.median([len(greedy_path(one)) - 1 for one in q])
    fig.add_heatmap(z=visited, colorscale="Teal", showscale=False, row=row, col=1, hovertemplate="%{z}<extra></extra>")
    fig.add_scatter(
        x=[c % 12 for c in path], y=[c // 12 for c in path], mode="lines+markers", row=row, col=1,
        line={"color": palette.MIDDLE["policy"], "width": 3}, showlegend=False,
    )  # fmt: skip
fig.update_yaxes(autorange="reversed", showticklabels=False)
fig.update_layout(title="Values (mean of all runs) and the greedy path", height=460)
run.figure(fig, "SARSA's greedy path keeps away from the cliff; Q-learning's walks along its edge.")
q_error = np.abs(learned["Q-learning"][1].mean(0).max(-1) - q_star.max(-1))[24:36].max()
print(f"Q-learning on the row along the edge: largest difference from Q* is {q_error:.0e}")
print("greedy steps to the goal, median:", steps_greedy)

# %% [markdown]
# ## What the max does to noise
#
# Before the network comes, meet its oldest fault. Let $m$ actions all be worth exactly 0, and let each estimate err by a
# standard normal number. The largest estimate is not 0. **Double** Q-learning lets one set of estimates choose and an
# independent second set judge. The last column is a language model's vocabulary.

# %%
generator = torch.Generator().manual_seed(0)
single, double = {}, {}
for m in (2, 10, 100, 1_000, 49_152):
    first, second = torch.randn(2, budget.draws, m, generator=generator)
    single[m] = first.max(-1).values.mean().item()
    double[m] = second.gather(-1, first.argmax(-1, keepdim=True)).mean().item()
run.table(
    [["one set chooses and judges", *(f"{x:.2f}" for x in single.values())], ["one chooses, another judges", *(f"{x:.2f}" for x in double.values())]],
    ["mean estimate of a value that is 0", *(f"{m:,} actions" for m in single)],
)  # fmt: skip

# %% [markdown]
# ## DQN, in the open
#
# CartPole: four numbers in (position, speed, angle, angular speed), two actions out, 1 point for each step that the
# pole stands, and the clock stops at 500. No table can hold these states, so a network with two hidden layers takes the table's
# place. Two things keep it from running away: a **replay memory**, so that it learns from a mixture of old and new, and a
# **target network**, a copy that stays as it is while the network runs after it.
#
# Everything has a first dimension of 5: five seeds side by side, each with a network, a memory and a pole of its own.
#
# One more thing, small and worth much. A new network says numbers near 0 and learns numbers near 1 soonest. Here an angle is at
# most 0.4, and a value is near 100, as $1/(1-\gamma)$ is what a reward of 1 at every step adds up to. So we scale both.

# %%
SCALE = dqn.bounded_to_one(gym.spec("CartPole-v1").make().observation_space)  # 1 / bound where there is one, else 1
print("the observation is multiplied by", [round(x, 2) for x in SCALE.tolist()])


class Values(torch.nn.Module):
    """Q of each copy: (copies, batch, 4) to (copies, batch, 2). An output of 1 stands for `unit` of reward."""

    def __init__(self, hidden, unit, seed):
        super().__init__()
        self.body, self.unit = Networks([4, *hidden, 2], SEEDS, seed), unit

    def forward(self, observation):
        return self.unit * self.body(observation * SCALE)


class Memory:
    """The last transitions of each copy. (copies, capacity, ...)"""

    def __init__(self, copies, capacity, size):
        self.observation, self.following = torch.zeros(2, copies, capacity, size)
        self.action = torch.zeros(copies, capacity, dtype=torch.long)
        self.reward, self.end = torch.zeros(2, copies, capacity)
        self.count, self.capacity = torch.zeros(copies, dtype=torch.long), capacity

    def add(self, copies, *facts):
        place = self.count[copies] % self.capacity  # the oldest is overwritten
        for kept, fact in zip((self.observation, self.action, self.reward, self.following, self.end), facts):
            kept[copies, place] = fact[copies].to(kept.dtype)
        self.count[copies] += 1

    def sample(self, batch, generator):
        filled = self.count.clamp_max(self.capacity)[:, None]
        place = (torch.rand(len(filled), batch, generator=generator) * filled).long()
        rows = torch.arange(len(filled))[:, None]
        return [kept[rows, place] for kept in (self.observation, self.action, self.reward, self.following, self.end)]


def dqn_loss(q, target, memory, batch, gamma, generator):
    """Huber loss of each copy, (copies,)."""
    observation, action, reward, following, end = memory.sample(batch, generator)
    with torch.no_grad():  # the target is a constant: no gradient flows through it
        best = target(following).max(-1).values  # (copies, batch)
        goal = reward + gamma * (1 - end) * best
    value = q(observation).gather(-1, action[..., None]).squeeze(-1)
    return F.huber_loss(value / q.unit, goal / q.unit, reduction="none").mean(-1)


# %% [markdown]
# And the loop: act, remember, learn. `end` decides what counts as an end without a future; the right answer is
# `terminated` alone, and the wrong one will have its turn below.


# %%
def learn(config, name="CartPole-v1", ending=lambda step: step.terminated, seed=0):
    """Yields (step, q, memory) after each environment step of the copies."""
    world = Copies(name, SEEDS, seed)
    q = Values(config.hidden, config.unit or 1 / (1 - config.gamma), seed)
    target = copy.deepcopy(q)
    memory = Memory(SEEDS, config.capacity, 4)
    optimizer = torch.optim.Adam(q.parameters(), config.learning_rate, fused=True)
    acting, replaying = (torch.Generator().manual_seed(seed) for _ in range(2))
    updates = 0
    for step in range(1, config.steps + 1):
        epsilon = np.interp(step, (0, config.explore), config.epsilon)
        observation = world.observation
        with torch.no_grad():
            action = q(observation[:, None]).argmax(-1).squeeze(-1)
        explores = torch.rand(SEEDS, generator=acting) < epsilon
        action = torch.where(explores, torch.randint(2, (SEEDS,), generator=acting), action)
        after = world.step(action)
        memory.add(after.real.nonzero().squeeze(-1), observation, action, after.reward, after.next_observation, ending(after))
        if step >= config.begin and step % config.every == 0:
            losses = dqn_loss(q, target, memory, config.batch, config.gamma, replaying)
            optimizer.zero_grad()
            losses.sum().backward()  # a sum over copies: each gets the gradient of its own loss
            clip_grad_norms(list(q.parameters()), config.clip)
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - 0.9 * step / config.steps)
            optimizer.step()
            updates += 1
            if updates % config.sync == 0:
                target.load_state_dict(q.state_dict())
        yield step, q, memory


def returns_of(q, episodes, seed=10_000, name="CartPole-v1"):
    """Returns of the greedy policies without exploration: (copies, episodes)."""

    def policy(seen):
        return q(seen.unflatten(0, (SEEDS, -1))).argmax(-1).flatten()

    return play(policy, name, SEEDS * episodes, seed).unflatten(0, (SEEDS, -1))


# %% [markdown]
# Is it right? The library's `train` draws its random numbers in the same order. So after some hundred steps both must
# hold the same weights.

# %%
short = dqn.Config(steps=600, begin=200, every=2, sync=20, explore=300, batch=64)
for _, mine, _ in learn(short):
    pass
library = dqn.train("CartPole-v1", SEEDS, 0, short)
untrained = Networks([4, *short.hidden, 2], SEEDS, 0)
weight_gap = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), library.parameters()))
start_gap = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), untrained.parameters()))
print(f"after {short.steps} steps: largest difference of a weight {weight_gap:.0e} (they have moved by up to {start_gap:.2f})")

# %% [markdown]
# Two yardsticks, before it learns. The return of 20 greedy episodes for each seed, under the usual clock of 500. And the truth about
# the values: let the greedy policy play on without that clock and add up, discounted, what really follows each state.

# %%
LONG = "alignlab-labs/CartPoleLong-v0"
gym.register(LONG, entry_point="gymnasium.envs.classic_control:CartPoleEnv", vector_entry_point=CartPoleVectorEnv, max_episode_steps=700)


@torch.no_grad()
def overestimation(q, gamma, poles=4, horizon=700, judged=100):
    """Of the greedy policy's states: mean max Q, mean discounted return that followed, largest max Q. (copies,) each."""
    world = Copies(LONG, SEEDS * poles, seed=40_000)
    values, rewards, alive = [], [], torch.ones(SEEDS * poles, dtype=torch.bool)
    for _ in range(horizon):
        value, action = q(world.observation.unflatten(0, (SEEDS, -1))).flatten(0, 1).max(-1)
        step = world.step(action)
        values.append(torch.where(alive, value, torch.nan))
        rewards.append(step.reward * alive)
        alive = alive & ~step.terminated
        if not alive.any():
            break
    following = torch.zeros(SEEDS * poles)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following
        rewards[t] = following
    said, true = torch.stack(values[:judged]), torch.stack(rewards[:judged])  # (time, SEEDS * poles)
    true = torch.where(said.isnan(), torch.nan, true)
    means = [x.T.reshape(SEEDS, -1).nanmean(-1).numpy() for x in (said, true)]
    return *means, said.nan_to_num(-torch.inf).T.reshape(SEEDS, -1).max(-1).values.numpy()


def look_at(q, gamma=0.99):
    """Of each copy: greedy return, what the network says of its states, what follows, the most it says. (4, copies)"""
    with torch.no_grad():
        return np.stack([returns_of(q, budget.episodes_each).mean(-1).numpy(), *overestimation(q, gamma)])


def record_of(looks):
    """The looks of a run, one after another, by name: (seeds, looks) each."""
    return dict(zip(("return", "said", "true", "most"), np.stack(looks, -1)))


# %%
config = dqn.Config(steps=budget.steps)
curve = run.curve("CartPole: greedy return while learning", "environment steps", "return", {"mean of 5 seeds": "policy", "worst seed": "rejected"})
looks, steps_seen = [], []
for _, (step, q, memory) in zip(run.progress(config.steps, "DQN", curve=curve), learn(config)):
    if step % budget.look == 0:
        looks.append(look_at(q))
        steps_seen.append(step)
        curve.add("mean of 5 seeds", step, looks[-1][0].mean())
        curve.add("worst seed", step, looks[-1][0].min())
curve.show()

# %%
variants = {"DQN": record_of(looks)}
final = returns_of(q, budget.last, seed=20_000).mean(-1)
variants["DQN"]["last"] = final
print("greedy return of each seed at the end:", [round(x) for x in final.tolist()])
print("best that each seed showed on the way:", [round(float(x)) for x in variants["DQN"]["return"].max(-1)])

# %% [markdown]
# The curve is no staircase. A network that balanced for 500 steps can be worse a thousand steps later, since every update
# changes the values of all states at once. So keep the best network you saw, and judge it on **fresh** episodes: the
# library's `expert` does.

# %%
started = time.perf_counter()
one = dqn.expert("CartPole-v1", seed=1, config=dqn.Config(steps=budget.steps, n=3), look=500)
expert_seconds = time.perf_counter() - started
expert_returns = dqn.evaluate(one, "CartPole-v1", budget.last, seed=30_000)[0]
print(f"an expert in {expert_seconds:.0f} s: {expert_returns.mean():.1f} over {len(expert_returns)} fresh episodes, worst {expert_returns.min():.0f}")

# %% [markdown]
# ## Remedies, one at a time
#
# Each variant is one argument of the library's `Config`. All run with the same seeds, the same number of steps and updates.

# %%
VARIANTS = {
    "DQN": {}, "double": {"double": True}, "dueling": {"dueling": True}, "prioritized": {"priority": 0.6}, "3-step": {"n": 3},
    "all four": {"double": True, "dueling": True, "priority": 0.6, "n": 3},
}  # fmt: skip


for name in run.progress([name for name in VARIANTS if name != "DQN"], "variants"):  # DQN itself ran above
    looks = []

    def watch(now, looks=looks):
        if now.step % budget.look == 0:
            looks.append(look_at(now.networks))

    trained = dqn.train("CartPole-v1", SEEDS, 0, dqn.Config(steps=budget.steps, **VARIANTS[name]), watch)
    variants[name] = record_of(looks)
    variants[name]["last"] = dqn.evaluate(trained, "CartPole-v1", budget.last, seed=20_000).mean(-1)

# %%
ROLES = dict(zip(VARIANTS, ("reference", "policy", "value", "prompt", "reward", "chosen")))
fig = go.Figure()
for name, record in variants.items():
    band(fig, steps_seen, record["return"], name, ROLES[name])
fig.update_layout(title="Greedy return on CartPole, 5 seeds each", xaxis_title="environment steps", yaxis_title="return")
run.figure(fig, "Return against environment steps for DQN and five variants, with the range of the seeds.")



def first_solved(record):
    """Median over seeds of the first look at 475 or more, in steps; "never" where most seeds never were."""
    steps = np.where(record["return"] >= 475, np.array(steps_seen), np.inf).min(-1)
    return f"{np.median(steps):,.0f}" if np.isfinite(np.median(steps)) else "never"


areas = {name: record["return"].mean(-1) for name, record in variants.items()}  # mean over the curve, (seeds,)
run.table(
    [
        [name, f"{areas[name].mean():.0f} ({areas[name].min():.0f} to {areas[name].max():.0f})", f"{r['last'].median():.0f}",
         int((r["return"].max(-1) >= 475).sum()), f"{first_solved(r)}"]
        for name, r in variants.items()
    ],
    ["variant", "mean return over the run (seeds)", "at the end, median", "seeds that reached 475", "first, in steps, median"],
)  # fmt: skip

# %% [markdown]
# ## Overestimation, against the truth
#
# What the networks said of their states, beside what really followed. Whatever the policy, no value can exceed
# $1/(1-\gamma)=100$, the dotted line.

# %%
fig = make_subplots(rows=1, cols=2, subplot_titles=["DQN", "double DQN"], shared_yaxes=True)
bias = {}
for column, name in enumerate(("DQN", "double"), 1):
    record = variants[name]
    band(fig, steps_seen, record["said"], "what the network says", "rejected", row=1, col=column)
    band(fig, steps_seen, record["true"], "what really follows", "chosen", row=1, col=column)
fig.add_hline(y=100, line={"color": palette.MIDDLE["reference"], "dash": "dot"})
fig.update_layout(title="Value of the states that the greedy policy visits", yaxis_title="discounted return")
fig.update_xaxes(title="environment steps")
run.figure(fig, "The values that the network states and the returns that really follow, for DQN and double DQN.")
quarter = -max(1, len(steps_seen) // 4)
bias = {name: (r["said"] - r["true"])[:, quarter:].mean(-1) for name, r in variants.items()}  # (seeds,), in the last quarter
for name, values in bias.items():
    print(f"{name}: said minus true {values.mean():+.1f} ({values.min():+.1f} to {values.max():+.1f})")

# %% [markdown]
# ## What the safeguards are for
#
# Take the replay memory away (learn from the last 128 transitions only), the target network (a fresh copy at every update), and the
# scale of the values.

# %%
FAILURES = {
    "all of them": {}, "no target network": {"sync": 1}, "no replay": {"capacity": 128}, "neither": {"sync": 1, "capacity": 128},
    "values not scaled": {"unit": 1.0},
}  # fmt: skip
failures, says = {}, {}
for name in run.progress(list(FAILURES), "without safeguards"):
    found = []
    for step, q, memory in learn(dqn.Config(steps=budget.failing, **FAILURES[name])):
        if step % budget.look == 0:
            found.append(returns_of(q, budget.episodes_each).mean(-1).numpy())
    failures[name] = np.stack(found, -1)
    with torch.no_grad():  # of the first states in the memory, the seeds' largest mean
        says[name] = q(memory.observation[:, :100]).max(-1).values.mean(-1).max().item()
fig = go.Figure()
for (name, found), role in zip(failures.items(), ("policy", "prompt", "rejected", "reference", "value")):
    band(fig, np.arange(1, found.shape[1] + 1) * budget.look, found, name, role)
fig.update_layout(title="DQN without its safeguards, 5 seeds each", xaxis_title="environment steps", yaxis_title="return")
run.figure(fig, "Greedy return with all safeguards, and without one or two of them.")
failed = {name: found[:, found.shape[1] // 2 :].mean(-1) for name, found in failures.items()}

# %% [markdown]
# ## Truncation is not termination
#
# Give the pole a clock of 50 steps in place of 500. A pole that still stands when the clock rings has not fallen: its future is
# worth as much as ever. If you take the bell for an end, the target there is 1 in place of $1+0.99\cdot100$. States do not show the
# clock. If every episode is cut, one transition in 50 looks like that, and the solution of $V=1+\gamma(1-\tfrac1{50})V$ is the
# dotted line below. (The memory also holds early episodes, which ended before the bell, so expect a little more.)

# %%
CLOCK = 50
CLOCKED = "alignlab-labs/CartPoleClock-v0"
gym.register(CLOCKED, entry_point="gymnasium.envs.classic_control:CartPoleEnv", vector_entry_point=CartPoleVectorEnv, max_episode_steps=CLOCK)
predicted = {"termination alone ends": 1 / (1 - 0.99), "the clock ends too": 1 / (1 - 0.99 * (1 - 1 / CLOCK))}
ENDINGS = {"termination alone ends": lambda step: step.terminated, "the clock ends too": lambda step: step.terminated | step.truncated}
clocked = {}
for name in run.progress(list(ENDINGS), "with a short clock"):
    found = []
    for step, q, _ in learn(dqn.Config(steps=budget.clocked), CLOCKED, ENDINGS[name]):
        if step % budget.look == 0:
            found.append(look_at(q))
    clocked[name] = record_of(found)
fig = make_subplots(rows=1, cols=2, subplot_titles=["value that the network says", "return with the clock at 500"])
for (name, found), role in zip(clocked.items(), ("chosen", "rejected")):
    x = np.arange(1, found["said"].shape[1] + 1) * budget.look
    band(fig, x, found["said"], name, role, row=1, col=1)
    band(fig, x, found["return"], name, role, row=1, col=2)
    fig.add_hline(y=predicted[name], line={"color": palette.MIDDLE[role], "dash": "dot"}, row=1, col=1)
fig.update_layout(title="Trained with a clock of 50 steps")
fig.update_xaxes(title="environment steps")
run.figure(fig, "The wrong version's values settle lower; dotted: an endless pole, and one whose every episode is cut.")

# %% [markdown]
# The wrong version can hide behind a good return here: to stay upright is right under any horizon. It shows where a *choice* hangs on
# the horizon. In a corridor of 16 rooms, staying in the first pays 1 a step, staying in the last pays 2, walking pays nothing. The way
# takes 15 steps, the clock rings after 20. With $\gamma=0.99$ the walk pays: $0.99^{15}\cdot200=172$ against 100. Behind the wrong flag stands a
# world that ends with probability $\frac1{20}$ at every step.

# %%
ROOMS, BELL, GAMMA = 16, 20, 0.99
PAY = np.zeros((ROOMS, 3))
PAY[0, 1], PAY[-1, 1] = 1.0, 2.0  # for staying in the first room, and in the last


def corridor(wrong, steps, runs=20, sweeps=3_000, seed=0):
    """Q-learning by sweeps over what runs of random behaviour saw, begun anywhere: Q (runs, ROOMS, 3); left, stay, right."""
    rng = np.random.default_rng(seed)
    room, clock = rng.integers(ROOMS, size=runs), rng.integers(BELL, size=runs)
    met, rung, each = np.zeros((runs, ROOMS, 3)), np.zeros((runs, ROOMS, 3)), np.arange(runs)
    for _ in range(steps):
        action = rng.integers(3, size=runs)
        clock += 1
        rings = clock == BELL
        met[each, room, action] += 1
        rung[each, room, action] += rings
        room = np.where(rings, rng.integers(ROOMS, size=runs), np.clip(room + action - 1, 0, ROOMS - 1))
        clock = np.where(rings, 0, clock)
    follows = 1 - (rung / met if wrong else 0)  # how often a transition still had a future: (runs, ROOMS, 3)
    after = np.clip(np.arange(ROOMS)[:, None] + np.arange(-1, 2), 0, ROOMS - 1)  # (ROOMS, 3)
    q = np.zeros((runs, ROOMS, 3))
    for _ in range(sweeps):  # every entry becomes the mean of its targets
        q = PAY + GAMMA * follows * q.max(-1)[:, after]
    return q


def true_worth(q, steps=2_000):
    """Discounted reward of the greedy policies from the first room, without a clock: (runs,)."""
    room, total = np.zeros(len(q), int), np.zeros(len(q))
    for t in range(steps):
        action = q[np.arange(len(q)), room].argmax(-1)
        total += GAMMA**t * PAY[room, action]
        room = np.clip(room + action - 1, 0, ROOMS - 1)
    return total


corridor_worth = {}
for wrong in run.progress([False, True], "corridor"):
    corridor_worth[wrong] = true_worth(corridor(wrong, budget.chain))
best_worth = GAMMA ** (ROOMS - 1) * 2 / (1 - GAMMA)
shown = GAMMA * (1 - 1 / BELL)
print(f"right flag: worth {np.mean(corridor_worth[False]):.0f} from the first room, the best is {best_worth:.0f}")
print(f"wrong flag: worth {np.mean(corridor_worth[True]):.0f}; in its world the walk is worth {shown ** 15 * 2 / (1 - shown):.1f}, staying {1 / (1 - shown):.1f}")

# %% [markdown]
# ## Where priorities pay
#
# On CartPole every step is rewarded. Priorities were made for the opposite: one useful transition among thousands. The example of their
# paper: a walk of $n$ steps with two actions each, of which one is right and the other ends the episode; only the last right step is
# rewarded. The memory holds all $2^{n+1}-2$ transitions of all action sequences once, so the rewarded one is in it exactly once.
# How many updates until the values are right?


# %%
def blind_walk(n, prioritized, runs, alpha=0.25, most=400_000, seed=0):
    """Updates until every Q is right to within 0.03, for each of `runs` walks side by side: (runs,)."""
    rng = np.random.default_rng(seed)
    gamma = 1 - 1 / n
    state = np.concatenate([np.repeat(i, 2 ** (n - i)) for i in range(n)])  # of all sequences, 2^(n-i) come to state i
    right = np.concatenate([np.arange(2 ** (n - i)) % 2 == 0 for i in range(n)])
    truth = gamma ** np.arange(n - 1, -1, -1.0)  # of the right action
    q, each = np.zeros((runs, n + 1, 2)), np.arange(runs)
    tree = dqn.SumTree(runs, len(state))
    everything = np.arange(len(state))[None]
    tree.set(each[:, None], np.repeat(everything, runs, 0), np.ones((runs, len(state))))
    taken = np.full(runs, most)
    for update in range(1, most + 1):
        if prioritized:
            place = tree.find(rng.random((runs, 1)) * tree.nodes[:, 1:2])[:, 0]
        else:
            place = rng.integers(len(state), size=runs)
        s, good = state[place], right[place]
        reward = (good & (s == n - 1)).astype(float)
        error = reward + gamma * good * (s < n - 1) * q[each, s + 1].max(-1) - q[each, s, good.astype(int)]
        q[each, s, good.astype(int)] += alpha * error
        if prioritized:
            tree.set(each[:, None], place[:, None], np.abs(error)[:, None] + 1e-3)
        correct = np.abs(q[:, :n, 1] - truth).max(-1) < 0.03
        taken[correct & (taken == most)] = update
        if (taken < most).all():
            break
    return taken


walks = {}
for n in run.progress(list(budget.walks), "blind walks"):
    for prioritized in (False, True):
        walks[n, prioritized] = blind_walk(n, prioritized, budget.walkers)
fig = go.Figure()
sizes = [2 ** (n + 1) - 2 for n in budget.walks]
for prioritized, name, role in ((False, "uniform", "reference"), (True, "by TD error", "reward")):
    band(fig, sizes, np.stack([walks[n, prioritized] for n in budget.walks], -1), name, role)
fig.update_layout(title="Updates until the values are right", xaxis_title="transitions in the memory", yaxis_title="updates")
fig.update_xaxes(type="log")
fig.update_yaxes(type="log")
run.figure(fig, "Uniform replay needs many times the updates of prioritized replay, the more the larger the memory.")
gain = {n: np.median(walks[n, False]) / np.median(walks[n, True]) for n in budget.walks}
print("times fewer updates:", {n: round(x, 1) for n, x in gain.items()})

# %% [markdown]
# ## As you would at work: stable-baselines3
#
# The same algorithm, the same sizes, one seed: first as it comes, then with two wrappers that scale observations and rewards, and
# 3-step targets. What you learned about units is worth as much there. It too tells a clock from an end: its memory counts
# `timeouts` apart, and takes them out of `dones` before it computes a target.

# %%
from gymnasium.wrappers import TransformObservation, TransformReward
from stable_baselines3 import DQN

SETTINGS = dict(
    learning_rate=1e-3, batch_size=128, buffer_size=50_000, learning_starts=1_000, train_freq=4, gradient_steps=1,
    target_update_interval=100, exploration_fraction=5_000 / 14_000, exploration_final_eps=0.05,
    policy_kwargs={"net_arch": [64, 64]}, seed=0, device="cpu",
)  # fmt: skip
unbounded = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
scaled = TransformObservation(gym.make("CartPole-v1"), lambda seen: seen * SCALE.numpy(), unbounded)
PEERS = {
    "as it comes": (DQN("MlpPolicy", "CartPole-v1", **SETTINGS), torch.ones(4)),
    "scaled, 3-step": (DQN("MlpPolicy", TransformReward(scaled, lambda pay: 0.01 * pay), n_steps=3, **SETTINGS), SCALE),
}
peer_returns, timeouts = {}, 0
for name in run.progress(list(PEERS), "stable-baselines3"):
    peer, scale = PEERS[name]
    peer.learn(budget.peer)
    with torch.no_grad():
        returns = play(lambda seen, q=peer.q_net, scale=scale: q(seen * scale).argmax(-1), "CartPole-v1", budget.last, seed=20_000)
    peer_returns[name] = returns.mean().item()
    timeouts = int(peer.replay_buffer.timeouts.sum())
    print(f"{name}: return {peer_returns[name]:.0f} after {budget.peer:,} steps; {timeouts} episodes were ended by the clock")

# %% [markdown]
# ## What this run measured

# %%
run.result("seeds", SEEDS)
run.result("runs", budget.runs)
for words, rule in (("sarsa", "SARSA"), ("q", "Q-learning")):
    run.result(f"cliff_{words}", late[rule].mean(), format=".1f")
    run.result(f"cliff_{words}_exact", plateau[rule], format=".1f")
    run.result(f"cliff_{words}_steps", steps_greedy[rule], format=".0f")
run.result("cliff_edge_error", q_error, format=".0e")
for m in single:
    run.result(f"max_noise_{m}", single[m], format=".2f")
    run.result(f"max_noise_double_{m}", double[m], format=".2f")
run.result("steps", budget.steps, format=",")
run.result("library_gap", weight_gap, format=".0e")
run.result("dqn_final_mean", final.mean(), format=".0f")
run.result("dqn_final_worst", final.min(), format=".0f")
run.result("dqn_best_median", np.median(variants["DQN"]["return"].max(-1)), format=".0f")
run.result("expert_return", expert_returns.mean(), format=".0f")
run.result("expert_worst", expert_returns.min(), format=".0f")
run.result("expert_seconds", expert_seconds, format=".0f")
run.result("episodes", budget.last)
WORDS = {"DQN": "dqn", "double": "double", "dueling": "dueling", "prioritized": "prioritized", "3-step": "nstep", "all four": "all"}
for name, record in variants.items():
    words = WORDS[name]
    run.result(f"area_{words}", areas[name].mean(), f"{areas[name].mean():.0f} ({areas[name].min():.0f} to {areas[name].max():.0f})")
    run.result(f"end_{words}", record["last"].median(), format=".0f")
    run.result(f"reached_{words}", int((record["return"].max(-1) >= 475).sum()))
    run.result(f"bias_{words}", bias[name].mean(), f"{bias[name].mean():+.1f} ({bias[name].min():+.1f} to {bias[name].max():+.1f})")
    run.result(f"first_{words}", None, first_solved(record))
run.result("largest_said", variants["DQN"]["most"].max(), format=".0f")
for words, name in (("both", "all of them"), ("no_target", "no target network"), ("no_replay", "no replay"), ("neither", "neither"), ("no_unit", "values not scaled")):
    run.result(f"without_{words}", failed[name].mean(), f"{failed[name].mean():.0f} ({failed[name].min():.0f} to {failed[name].max():.0f})")
run.result("without_no_unit_says", says["values not scaled"], format=",.0f")
run.result("failing_steps", budget.failing, format=",")
run.result("clock", CLOCK)
for words, name in (("right", "termination alone ends"), ("wrong", "the clock ends too")):
    for key in ("said", "true", "return"):  # at the end
        run.result(f"clock_{words}_{key}", clocked[name][key][:, -1].mean(), format=".0f")
    run.result(f"clock_{words}_predicted", predicted[name], format=".0f")
run.result("corridor_right", np.mean(corridor_worth[False]), format=".0f")
run.result("corridor_wrong", np.mean(corridor_worth[True]), format=".0f")
run.result("corridor_best", best_worth, format=".0f")
for words, n in (("2", 2), ("4", 4), ("last", budget.walks[-1])):
    run.result(f"walk_uniform_{words}", np.median(walks[n, False]), format=",.0f")
    run.result(f"walk_prioritized_{words}", np.median(walks[n, True]), format=",.0f")
    run.result(f"walk_size_{words}", 2 ** (n + 1) - 2, format=",")
run.result("walk_gain", gain[budget.walks[-1]], format=".0f")
run.result("peer_plain", peer_returns["as it comes"], format=".0f")
run.result("peer_scaled", peer_returns["scaled, 3-step"], format=".0f")

# %%
exact_gap = {rule: abs(late[rule].mean() - plateau[rule]) for rule in late}
gap_off = exact_gap["Q-learning"]
run.claim("while it learns, SARSA earns more than Q-learning", late["SARSA"].mean() > late["Q-learning"].mean() + 10)
run.claim("Q-learning earns what its values earn with one action in ten at random, within 5", gap_off < 5)
run.claim("no rule earns more than the best that such a walker can", max(x.mean() for x in late.values()) < plateau["SARSA"])
run.claim("walked greedily, Q-learning's path is the shortest", steps_greedy["Q-learning"] == 13)
run.claim("along it Q-learning has found Q*", q_error < 0.01)
run.claim("the library's SARSA and Q-learning earn the same within four standard errors", max(apart.values()) < 4)
run.claim("the max of noise grows with the number of actions", single[49_152] > single[100] > single[2] > 0.4)
run.claim("a second set of estimates judges without bias", abs(double[100]) < 0.3)
run.claim("the loop in the open and the library's hold the same weights", weight_gap < 1e-5)
expert_mean, expert_time = expert_returns.mean().item(), expert_seconds
run.claim("the expert solves CartPole: 475 or more over 100 fresh episodes", expert_mean >= 475)
run.claim("in at most 3 minutes", expert_time <= 180)
three_step = int((variants["3-step"]["return"].max(-1) >= 475).sum())
run.claim("with 3-step targets most seeds reach 475", three_step >= 3)
largest_said = variants["DQN"]["most"].max()
run.claim("DQN states values that no policy can reach", largest_said > 100)
said_last = {name: variants[name]["said"][:, quarter:].mean() for name in ("DQN", "double")}
run.claim("double DQN states lower values than DQN", said_last["double"] < said_last["DQN"])
run.claim("without the scale of the values learning is slower", failed["values not scaled"].mean() < failed["all of them"].mean())
clock_said = {name: found["said"][:, -1].mean() for name, found in clocked.items()}
run.claim("the clock taken for an end lowers the values", clock_said["the clock ends too"] < 0.8 * clock_said["termination alone ends"])
peer_plain, peer_scaled = peer_returns.values()
run.claim("stable-baselines3 too learns sooner in these units and with 3-step targets", peer_scaled > peer_plain + 50)
corridor_mean = {wrong: worth.mean() for wrong, worth in corridor_worth.items()}
run.claim("with the right flag every walker sets out for the better room", corridor_worth[False].min() > 0.99 * best_worth)
run.claim("with the wrong flag most stay", corridor_mean[True] < 0.75 * best_worth)
gains = [gain[n] for n in budget.walks]
run.claim("priorities save updates, and the more the larger the memory", gains[0] > 1 and gains[-1] > 2 * gains[0])
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. The target** (difficulty 1, 5 minutes). From rewards (B,), values of the next states (B, A), `terminated` and `truncated`
# (B,) booleans, and $\gamma$: the targets of DQN, (B,).


# %%
def my_targets(rewards, next_values, terminated, truncated, gamma): ...


check("q_learning_dqn.targets", my_targets)

# %% [markdown]
# **2. Double** (difficulty 2, 5 minutes). The value of the next states in double DQN, (B,), from what the network and what the target
# network say of them, (B, A) each.


# %%
def my_double(online_next, target_next): ...


check("q_learning_dqn.double", my_double)

# %% [markdown]
# **3. n rewards** (difficulty 2, 10 minutes). From the rewards of the next $n$ steps (n,), booleans `terminated` and `truncated` (n,)
# and the value `v` (n,) of the state *after* each of them: the n-step target of the first. It ends with the episode.


# %%
def my_n_step(rewards, terminated, truncated, v, gamma): ...


check("q_learning_dqn.n_step", my_n_step)

# %% [markdown]
# **4. Undo the bias** (difficulty 2, 8 minutes). From priorities (N,), the indices drawn (B,), $\alpha$ and $\beta$: the importance weights
# of the drawn transitions, (B,), divided by the largest of them.


# %%
def my_weights(priorities, drawn, alpha, beta): ...


check("q_learning_dqn.weights", my_weights)

# %% [markdown]
# **5. The price of a wrong flag** (difficulty 3, 10 minutes). A task pays 1 at every step and never ends. Episodes are cut after
# $T$ steps, and the agent takes the cut for an end. To which value do its estimates settle, if all states look alike, and how much of the
# true value is that? Return the two numbers, for any $\gamma$ and $T$.


# %%
def my_price(gamma, clock): ...


check("q_learning_dqn.price", my_price)
