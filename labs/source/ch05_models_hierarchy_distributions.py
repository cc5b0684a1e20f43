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
# # Models, hierarchies and distributions
#
# Three ways beyond plain Q-learning. Learn how the world answers, and practise in your head. Learn courses of action, and
# choose among those. Learn the whole distribution of the return, and not only its mean.
#
# - **You will** build Dyna-Q and repeat two experiments of Sutton and Barto; learn a model of CartPole and plan with it;
#   give an agent options in four rooms, and then let a manager command workers that learn; learn return distributions
#   with C51 and QR-DQN, and hold them against the exact one; and break each of them once.
# - **Time:** about 4 minutes on a CPU with two cores. A GPU is not used.
#
# **Sections:** 5.8.1-5.8.3

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
# ## Dyna-Q: learning from what was remembered
#
# The maze of Sutton and Barto's example 8.1: 54 cells, reward 1 at G and 0 elsewhere, $\gamma=0.95$. We write it as tables
# over all 54 cells (walls are states that nobody reaches), so that walls can be moved later.

# %%
import copy
import math
import time

import numpy as np
import plotly.graph_objects as go
import torch
from IPython.display import HTML, display
from plotly.subplots import make_subplots

from alignlab import compute, lab, palette
from alignlab.exercises import check
from alignlab.rl import distributional, dqn, options, planning
from alignlab.rl.curves import band
from alignlab.rl.environments import Copies
from alignlab.rl.gridworld import ACTIONS, MAPS, MOVES, GridWorld
from alignlab.rl.mdp import FiniteMDP, greedy, policy_iteration, sample, value_iteration, values
from alignlab.rl.networks import Networks, clip_grad_norms

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch05_models_hierarchy_distributions")
budget = run.budget(
    full=dict(
        dyna_runs=30,
        dyna_episodes=50,
        blocking_runs=20,
        fit_steps=800,
        longest=500,
        rounds=3,
        dqn_steps=6000,
        rooms_runs=30,
        rooms_episodes=100,
        feudal_episodes=100,
        z_steps=5000,
        most=1000,
    ),
    quick=dict(
        dyna_runs=5,
        dyna_episodes=5,
        blocking_runs=3,
        fit_steps=20,
        longest=20,
        rounds=2,
        dqn_steps=1200,
        rooms_runs=5,
        rooms_episodes=5,
        feudal_episodes=5,
        z_steps=120,
        most=200,
    ),
)
SEEDS = 5
compute.seed(0)

DYNA_MAZE = (
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
)


def maze(lines, gamma=0.95):
    """A deterministic maze as a FiniteMDP over all its cells; reward 1 for entering G."""
    height, width = len(lines), len(lines[0])
    size = height * width
    p, r = torch.zeros(size, 4, size), torch.zeros(size, 4)
    kinds = "".join(lines)
    for s in range(size):
        for a, (down, right) in enumerate(MOVES):
            i, j = s // width + down, s % width + right
            free = 0 <= i < height and 0 <= j < width and lines[i][j] != "#"
            following = i * width + j if free else s
            p[s, a, following] = 1.0
            r[s, a] = float(kinds[following] == "G")
    start = torch.tensor([kind == "S" for kind in kinds]).double()
    return FiniteMDP(p, r, gamma, start / start.sum(), torch.tensor([kind == "G" for kind in kinds]))


dyna_maze = maze(DYNA_MAZE)

# %% [markdown]
# Dyna-Q in the open, one run. Three lines do the work: **learn** from the real step, **remember** it, **plan** with `n`
# remembered ones. The model is a dictionary.


# %%
def dyna_q(mdp, n, episodes, alpha=0.1, epsilon=0.1, seed=0):
    rng = np.random.default_rng(seed)
    following, rewards = mdp.transitions.argmax(-1).numpy(), mdp.rewards.numpy()
    q, model, lengths = np.zeros((mdp.states, 4)), {}, []
    for _ in range(episodes):
        s, steps = int(mdp.start.argmax()), 0
        while not mdp.terminal[s]:
            explores = rng.random() < epsilon
            a = int(rng.integers(4)) if explores else int(rng.permutation(np.flatnonzero(q[s] == q[s].max()))[0])
            s2, r = following[s, a], rewards[s, a]
            q[s, a] += alpha * (r + mdp.gamma * q[s2].max() - q[s, a])  # learn
            model[s, a] = (s2, r)  # remember
            pairs = list(model)
            for pick in rng.integers(len(pairs), size=n) if q.any() else ():  # plan
                (ps, pa), (ps2, pr) = pairs[pick], model[pairs[pick]]
                q[ps, pa] += alpha * (pr + mdp.gamma * q[ps2].max() - q[ps, pa])
            s, steps = s2, steps + 1
        lengths.append(steps)
    return np.array(lengths), q


for n in (0, 5):
    steps, _ = dyna_q(dyna_maze, n, min(10, budget.dyna_episodes))
    print(f"{n} planning steps, one run: steps of each episode {steps.tolist()}")

# %% [markdown]
# Before the first reward is found every update changes 0 into 0, and the agent is a random walk, planning or not. So the
# expected length of the first episode can be computed exactly, by a linear solve. That is the ground truth for the first
# point of the curve. For its end: the expected length under the best policy that still takes a random action with
# probability 0.1.

# %%
by_steps = FiniteMDP(
    dyna_maze.transitions, -torch.ones_like(dyna_maze.rewards), 0.999999, dyna_maze.start, dyna_maze.terminal
)
start = int(dyna_maze.start.argmax())
best = greedy(value_iteration(dyna_maze).q)
noisy_best = 0.9 * best + 0.1 * dyna_maze.uniform()
shortest = -values(by_steps, best)[start].item()
random_walk = -values(by_steps, dyna_maze.uniform())[start].item()
floor = -values(by_steps, noisy_best)[start].item()
print(f"shortest way {shortest:.0f} steps; random walk {random_walk:.0f}; best with epsilon 0.1: {floor:.1f}")

runs = {}
for n in (0, 5, 50):
    began = time.perf_counter()
    runs[n] = planning.dyna_q(dyna_maze, n, budget.dyna_runs, episodes=budget.dyna_episodes, seed=n)
    print(f"n = {n}: {budget.dyna_runs} runs in {time.perf_counter() - began:.1f} s")
first = np.concatenate([done.steps[:, 0] for done in runs.values()])
first_error = first.std() / math.sqrt(len(first))
print(f"first episode: {first.mean():.0f} ± {first_error:.0f} steps, exactly {random_walk:.0f}")


# %%
def episodes_until(steps, enough):
    """The first episode (from 1) whose mean length over runs, and that of the two after it, is at most `enough`."""
    mean = steps.mean(0)
    smooth = np.array([mean[i : i + 3].mean() for i in range(len(mean))])
    found = np.flatnonzero(smooth <= enough)
    return int(found[0]) + 1 if len(found) else len(mean)


near = {n: episodes_until(done.steps, 1.2 * floor) for n, done in runs.items()}
figure = go.Figure()
for (n, done), role in zip(runs.items(), ("reference", "policy", "chosen"), strict=True):
    band(figure, np.arange(2, budget.dyna_episodes + 1), done.steps[:, 1:], f"{n} planning steps", role)
figure.add_hline(y=floor, line={"dash": "dot", "color": palette.MIDDLE["ink"]})
figure.update_layout(xaxis_title="episode", yaxis_title="steps to the goal", yaxis_range=[0, 800])
run.figure(
    figure,
    f"Steps per episode falls to within 20% of its floor at episode {near[50]} with 50 planning steps, at {near[0]} without.",
)
run.table(
    [[n, f"{done.steps[:, 1].mean():.0f}", f"{done.steps[:, -5:].mean():.1f}", near[n]] for n, done in runs.items()],
    ["planning steps", "steps in episode 2", "in the last 5", "episodes until within 20% of the floor"],
    caption=f"Dyna-Q in the maze, mean of {budget.dyna_runs} runs; the floor is {floor:.1f} steps",
)

# %% [markdown]
# ### When the model is wrong
#
# The blocking maze (example 8.2): after 1,000 steps the gap at the right closes and one at the left opens. The model now
# says what is no longer true. Dyna-Q+ adds $\kappa\sqrt m$ to the planned reward of a pair not tried for $m$ steps.

# %%
WALLS = {"gap at the right": "########.", "gap at the left": ".########", "both": ".#######."}
changing = {
    name: maze(("........G", ".........", ".........", wall, ".........", "...S....."), 0.95)
    for name, wall in WALLS.items()
}
CHANGE, END, PLANNING, KAPPA = 1000, 3000, 10, 1e-4
schedule = [(0, changing["gap at the right"]), (CHANGE, changing["gap at the left"])]
blocked = {
    name: planning.dyna_q(schedule, PLANNING, budget.blocking_runs, steps=END, alpha=1.0, kappa=kappa, seed=1)
    for name, kappa in (("Dyna-Q", 0.0), ("Dyna-Q+", KAPPA))
}
figure = go.Figure()
every = np.arange(0, END, 25)
for (name, done), role in zip(blocked.items(), ("reference", "policy"), strict=True):
    band(figure, every, done.reward.cumsum(1)[:, every], name, role)
figure.add_vline(x=CHANGE, line={"dash": "dot", "color": palette.MIDDLE["ink"]})
figure.update_layout(xaxis_title="real steps", yaxis_title="reward so far")
run.figure(figure, "After the change both curves are level; Dyna-Q+ rises again long before Dyna-Q.")


def idle(reward):
    """Steps after the change until the next reward, for each run."""
    after = reward[:, CHANGE:] > 0
    return np.where(after.any(1), after.argmax(1), END - CHANGE)


waits = {name: idle(done.reward).mean() for name, done in blocked.items()}
print({name: f"{wait:.0f} steps without reward after the change" for name, wait in waits.items()})

# %% [markdown]
# ## A learned model, and planning with it
#
# CartPole has no table. Its state is four numbers: position, velocity, angle, angular velocity. We learn to predict the
# *change* of the state from state and action, with three networks per seed (an **ensemble**), each trained on its own resample
# of the data. Rewards and the end of an episode we take as known: an episode ends when $|x|>2.4$ or the angle passes 12°.
#
# For judging the model we need the truth. CartPole's equations fit in six lines; they must agree with Gymnasium's.

# %%
LIMITS = torch.tensor([2.4, 12 * 2 * math.pi / 360])  # position in m, angle in radians


def fallen(s):
    return (s[..., [0, 2]].abs() > LIMITS).any(-1)


def true_step(s, a):
    """CartPole's equations (Euler's method, 0.02 s): (..., 4) and (...) to the next state."""
    _, v, angle, spin = s.unbind(-1)
    push = (20.0 * a - 10.0 + 0.05 * spin**2 * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - push * angle.cos()) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    return s + 0.02 * torch.stack([v, push - 0.05 * turn * angle.cos() / 1.1, spin, turn], -1)


environment, generator, equations_gap = Copies("CartPole-v1", SEEDS, seed=0), torch.Generator().manual_seed(0), 0.0
for _ in range(40):
    action = torch.randint(2, (SEEDS,), generator=generator)
    predicted, step = true_step(environment.observation, action), environment.step(action)
    error = (predicted - step.next_observation).abs().max(-1).values
    equations_gap = max(equations_gap, error[step.real].max().item())
print(f"largest difference between our equations and Gymnasium's: {equations_gap:.1e}")

# %% [markdown]
# The memory holds transitions of five seeds side by side. `fit` trains all $5\times3$ networks in one batched product.

# %%
MEMBERS, HIDDEN = 3, 48


class Memory:
    """Transitions of each seed: observations (seeds, room, 4), actions (seeds, room), and where they led."""

    def __init__(self, room):
        self.before, self.after = torch.zeros(SEEDS, room, 4), torch.zeros(SEEDS, room, 4)
        self.action, self.count = torch.zeros(SEEDS, room), torch.zeros(SEEDS, dtype=torch.long)

    def add(self, before, action, step):
        for seed in step.real.nonzero().flatten().tolist():
            at = self.count[seed]
            self.before[seed, at], self.action[seed, at] = before[seed], action[seed]
            self.after[seed, at] = step.next_observation[seed]
            self.count[seed] += 1


class Ensemble:
    """MEMBERS networks for each seed that predict the change of the state."""

    def __init__(self, memory, seed=0):
        rows = [memory.before[i, :n] for i, n in enumerate(memory.count)]
        self.mean = torch.stack([r.mean(0) for r in rows])[:, None]  # (seeds, 1, 4)
        self.std = torch.stack([r.std(0) for r in rows])[:, None] + 1e-3
        moves = [memory.after[i, :n] - memory.before[i, :n] for i, n in enumerate(memory.count)]
        self.scale = torch.stack([m.std(0) for m in moves])[:, None] + 1e-4
        self.networks = Networks([5, HIDDEN, HIDDEN, 4], SEEDS * MEMBERS, seed, torch.tanh)

    def all_members(self, s, a):
        """(seeds, n, 4), (seeds, n) to the next states by each member, (seeds, MEMBERS, n, 4)."""
        x = torch.cat([(s - self.mean) / self.std, 2.0 * a[..., None] - 1], -1)
        change = self.networks(x.repeat_interleave(MEMBERS, 0)).unflatten(0, (SEEDS, MEMBERS))
        return s[:, None] + change * self.scale[:, None]

    def __call__(self, s, a):
        return self.all_members(s, a).mean(1)


def fit(memory, steps, seed=0, batch=64):
    ensemble = Ensemble(memory, seed)
    parameters = list(ensemble.networks.parameters())
    optimizer = torch.optim.Adam(parameters, 3e-3, fused=True)
    g = torch.Generator().manual_seed(seed)
    room = int(memory.count.max())
    own = (torch.rand(SEEDS, MEMBERS, room, generator=g) * memory.count[:, None, None]).long()  # each member's resample
    rows = torch.arange(SEEDS)[:, None, None]
    filled = memory.count[:, None, None].expand(-1, MEMBERS, -1)
    for step in range(steps):
        pick = (torch.rand(SEEDS, MEMBERS, batch, generator=g) * filled).long()
        index = own.gather(2, pick)  # (seeds, MEMBERS, batch)
        s, a, s2 = memory.before[rows, index], memory.action[rows, index], memory.after[rows, index]
        x = torch.cat([(s - ensemble.mean[:, None]) / ensemble.std[:, None], 2 * a[..., None] - 1], -1)
        target = ((s2 - s) / ensemble.scale[:, None]).flatten(0, 1)
        loss = (ensemble.networks(x.flatten(0, 1)) - target).square().mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - 0.95 * step / steps)
        optimizer.step()
    return ensemble


# %% [markdown]
# **Planning.** Draw 64 plans of 25 random actions, imagine each with the model, take the first action of the best, and plan
# anew after every real step: **model-predictive control**. The plan's reward at a step is $1-(\text{angle}/12°)^2-(x/2.4)^2$, so that
# upright in the middle is better than about to fall. The library's `random_shooting` does it; here is its core, and a check.

# %%
HORIZON, PLANS = 25, 64


def planner(step, ends=True):
    """A model's predictions with CartPole's rewards and ends. ends=False forgets that a fall is final."""

    def predict(s, a):
        following = step(s, a)
        cost = (following[..., [0, 2]] / LIMITS).square().sum(-1)
        return following, 1 - cost, fallen(following) & ends

    return predict


def score(predict, s, plans):
    """In the open: the return of each plan, (seeds, n, horizon) to (seeds, n)."""
    totals = torch.zeros(plans.shape[:2])
    for i in range(plans.shape[0]):
        for k in range(plans.shape[1]):
            here = s[i : i + 1, None]
            for a in plans[i, k]:
                here, reward, terminated = predict(here, a.view(1, 1))
                totals[i, k] += reward.item()
                if terminated.item():
                    break
    return totals


tilted = torch.tensor([[0.0, 0.1, 0.12, 0.9], [2.2, 0.8, -0.05, 0.0]])
plans = torch.randint(2, (2, 6, 12), generator=generator)
shooting_gap = (
    (score(planner(true_step), tilted, plans) - planning.imagine(planner(true_step), tilted, plans)).abs().max()
)
print(f"largest difference between this score and the library's: {shooting_gap:.1e}")


# %%
def play_planned(predict, memory=None, seed=0):
    """One episode per seed with model-predictive control: returns (seeds,). Fills the memory, if one is given."""
    environment = Copies("CartPole-v1", SEEDS, seed)
    g = torch.Generator().manual_seed(seed)
    steps = run.progress(budget.longest, "episode")
    for _ in steps:
        before = environment.observation
        action = planning.random_shooting(predict, before, 2, HORIZON, PLANS, generator=g)
        open_ = torch.tensor([not done for done in environment.returns])
        step = environment.step(action)
        if memory is not None:
            memory.add(before, action, step._replace(real=step.real & open_))
        if all(environment.returns):
            steps.finish()
    return torch.tensor([done[0] if done else float(environment.steps) for done in environment.returns])


memory = Memory(100 + budget.rounds * budget.longest)
environment, generator = Copies("CartPole-v1", SEEDS, seed=0), torch.Generator().manual_seed(1)
while memory.count.min() < 100:
    before, action = environment.observation, torch.randint(2, (SEEDS,), generator=generator)
    step = environment.step(action)
    memory.add(before, action, step._replace(real=step.real & (memory.count < 100)))
random_return = torch.tensor([x for done in environment.returns for x in done]).mean().item()
print(f"100 random steps for each seed; a random policy's episodes last {random_return:.0f} steps")

# %%
seen, planned, ensembles = [], [], []
for round_ in range(budget.rounds):
    seen.append(memory.count.float().clone())
    ensembles.append(fit(memory, budget.fit_steps, seed=round_))
    planned.append(play_planned(planner(ensembles[-1]), memory, seed=round_))
    print(f"round {round_ + 1}: {seen[-1].mean():.0f} transitions, return {planned[-1].tolist()}")
truth = play_planned(planner(true_step), seed=0)
print(f"with the true equations: {truth.tolist()}")

# %% [markdown]
# ### How far can the model see?
#
# Let the first and the last model predict 25 steps ahead, on their own predictions, from 50 new states of a random policy, and
# compare with the equations. Errors feed on themselves.

# %%
generator = torch.Generator().manual_seed(7)
environment, visited = Copies("CartPole-v1", SEEDS, seed=900), []
for _ in range(50):
    visited.append(environment.observation)
    environment.step(torch.randint(2, (SEEDS,), generator=generator))
from_states = torch.stack(visited, 1)  # (seeds, 50, 4), which no model has seen
futures = torch.randint(2, (SEEDS, 50, HORIZON), generator=generator)


@torch.no_grad()
def errors(ensemble):
    """Mean error of the angle in degrees after 1 ... HORIZON steps, where the pole really still stands (seeds, HORIZON)."""
    s, t, found = from_states, from_states, []
    stands = torch.ones(SEEDS, 50)
    for h in range(HORIZON):
        s, t = ensemble(s, futures[..., h]), true_step(t, futures[..., h])
        stands = stands * ~fallen(t)
        degrees = (s - t)[..., 2].abs() * 180 / math.pi
        found.append((degrees * stands).sum(1) / stands.sum(1).clamp_min(1))
    return torch.stack(found, 1)


early_error, late_error = errors(ensembles[0]), errors(ensembles[-1])
figure = go.Figure()
ahead = np.arange(1, HORIZON + 1)
band(figure, ahead, early_error, f"after {seen[0].mean():.0f} transitions", "rejected")
band(figure, ahead, late_error, f"after {seen[-1].mean():.0f} transitions", "policy")
figure.update_layout(xaxis_title="steps ahead", yaxis_title="error of the angle (degrees)", yaxis_type="log")
run.figure(figure, "The error of the angle grows with every step ahead; more data lower the whole curve.")

# %% [markdown]
# ### Model-free, at the same number of real steps
#
# DQN (section 5.4.2) on the same task, five seeds, and how good its greedy policy is along the way.

# %%
looked = sorted({int(x) for x in np.linspace(0, budget.dqn_steps, 9)[1:]})
learned = []


def watch(seen_):
    if seen_.step in looked:
        learned.append(dqn.evaluate(seen_.networks, "CartPole-v1", 5).mean(1))


dqn.train("CartPole-v1", SEEDS, 0, dqn.Config(steps=budget.dqn_steps, explore=min(4000, budget.dqn_steps)), watch)
free = torch.stack(learned, 1)  # (seeds, looks)
figure = go.Figure()
band(figure, looked, free, "DQN", "reference")
band(figure, torch.stack(seen).mean(1), torch.stack(planned, 1), "learned model and planning", "policy")
figure.update_layout(xaxis_title="real steps so far", yaxis_title="return (500 is the most)", xaxis_type="log")
run.figure(
    figure, "Planning with a learned model is near the best return after a few hundred steps; DQN needs thousands."
)

# %% [markdown]
# ### Failure: a model that forgets that the end is the end
#
# With CartPole's own reward, 1 per step, all that a plan can gain is to live longer. A planner that ignores `terminated`
# gives every plan the same 25, and picks any.


# %%
def plain(step, ends):
    def predict(s, a):
        following = step(s, a)
        return following, torch.ones(following.shape[:-1]), fallen(following) & ends

    return predict


knows_ends = play_planned(plain(true_step, True), seed=3)
forgets_ends = play_planned(plain(true_step, False), seed=3)
print(f"reward 1 per step, true equations: {knows_ends.mean():.0f}; with the ends ignored {forgets_ends.mean():.0f}")

# %% [markdown]
# ## Options in four rooms
#
# The four rooms of Sutton, Precup and Singh (1999): 104 cells, reward 1 at the goal, $\gamma=0.9$; an action succeeds with
# probability 2/3 and else slips to one of its two sides. Each room has two **hallway options**: from anywhere in the room, walk
# to that hallway by the best policy, and end there.

# %%
HALLWAYS = ((2, 5), (5, 1), (6, 8), (9, 5))
ROOM_NAMES = ("north-west", "north-east", "south-west", "south-east")


def rooms_with_goal(cell):
    """The four rooms with G somewhere else."""
    lines = [list(line.replace("G", ".")) for line in MAPS["rooms"]]
    lines[cell[0]][cell[1]] = "G"
    return GridWorld(["".join(line) for line in lines], slip=1 / 3, step_reward=0.0)


def room_of(cell):
    """0 to 3, or -1 in a hallway."""
    i, j = cell
    return -1 if cell in HALLWAYS else 2 * (i > 5 if j < 5 else i > 6) + (j > 5)


def hallway_options(world, mdp):
    """One option for each room and each of its two hallways, with its name."""
    named = {}
    for room in range(4):
        inside = [s for s, cell in enumerate(world.cells) if room_of(cell) == room]
        beside = {(i + di, j + dj) for i, j in (world.cells[s] for s in inside) for di, dj in MOVES} & set(HALLWAYS)
        for target in sorted(beside):
            begins = torch.zeros(mdp.states, dtype=torch.bool)
            begins[inside + [world.number[other] for other in beside if other != target]] = True
            towards = mdp.transitions[:, :, world.number[target]].clone()  # reward 1 for arriving
            walk = FiniteMDP(mdp.transitions, towards, mdp.gamma, mdp.start, ~begins)
            policy = value_iteration(walk).policy
            named[f"{ROOM_NAMES[room]} to {target}"] = options.Option(begins, policy, (~begins).double())
    return named


CORNER, HALLWAY_GOAL = (10, 10), (6, 8)
four_rooms = rooms_with_goal(CORNER)
rooms = four_rooms.mdp(0.9)
hallways = hallway_options(four_rooms, rooms)
primitives = [options.primitive(rooms, a) for a in range(4)]
print(list(hallways))

# %% [markdown]
# An option has a **model**, as an action has: the expected discounted reward while it runs, and where it ends, discounted by
# $\gamma^k$ for the $k$ steps that it took. Both follow from a linear solve. Check it against 4,000 simulated walks.

# %%
name, option = next(iter(hallways.items()))
reward_model, end_model = options.option_model(rooms, option)
corner = four_rooms.number[0, 0]


def simulate(option, s, walks, seed=0):
    """gamma^k and the last state of `walks` runs of an option from s, by simulation."""
    g = torch.Generator().manual_seed(seed)
    state, worth, going = torch.full((walks,), s), torch.ones(walks, dtype=torch.float64), torch.ones(walks).bool()
    while going.any():
        action = option.policy[state].argmax(-1)
        following, _, _ = rooms.step(state, action, g)
        state, worth = torch.where(going, following, state), torch.where(going, worth * rooms.gamma, worth)
        going = going & (option.ends[state] < 1)
    return worth, state


worth, last = simulate(option, corner, 4000)
by_model, by_walks = end_model[corner].sum().item(), worth.mean().item()
model_error = worth.std().item() / math.sqrt(len(worth))
print(
    f"{name}, from the corner: E[gamma^k] = {by_model:.4f} by the solve, {by_walks:.4f} ± {model_error:.4f} by walking"
)

# %% [markdown]
# **Planning.** Value iteration over options needs fewer sweeps, because one backup spans a room. Count the sweeps until
# the value of the start is within 1% of its limit.


# %%
def sweeps_until(mdp, some, state, share=0.99):
    q, sweeps = options.option_values(mdp, some)
    return next(i + 1 for i, v in enumerate(sweeps) if v[state] >= share * sweeps[-1][state]), q


with_hallways = primitives + list(hallways.values())
sweeps_actions, q_actions = sweeps_until(rooms, primitives, corner)
sweeps_options, q_options = sweeps_until(rooms, with_hallways, corner)
same_optimum = (q_actions.max(-1).values - q_options.max(-1).values).abs().max().item()
print(f"sweeps: {sweeps_actions} with actions, {sweeps_options} with options too; V differs by {same_optimum:.1e}")

# %% [markdown]
# **Learning**, in the open, one run: choose an option, follow it until it ends, and update once, with $\gamma^k$.


# %%
def smdp_q_learning(mdp, some, episodes, alpha=0.25, epsilon=0.1, seed=0, most=2000):
    g, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    allowed = torch.stack([option.begins for option in some], 1).numpy()
    q, lengths = np.where(allowed, 0.0, -np.inf), []
    for _ in range(episodes):
        s, length = int(mdp.start.argmax()), 0
        while not mdp.terminal[s] and length < most:
            explores = rng.random() < epsilon
            choice = np.flatnonzero(allowed[s] if explores else q[s] == q[s].max())
            o = int(rng.choice(choice))
            begin, gained, worth = s, 0.0, 1.0
            while True:  # the option runs
                a = some[o].policy[s].argmax()
                following, reward, terminal = mdp.step(torch.tensor([s]), a.view(1), g)
                gained, worth = gained + worth * reward.item(), worth * mdp.gamma
                s, length = int(following), length + 1
                if terminal or some[o].ends[s] >= 1:
                    break
            onward = 0.0 if mdp.terminal[s] else q[s].max()
            q[begin, o] += alpha * (gained + worth * onward - q[begin, o])  # worth is gamma^k
        lengths.append(length)
    return lengths


near_world = rooms_with_goal(HALLWAY_GOAL)
near_rooms = near_world.mdp(0.9)
near_options = [options.primitive(near_rooms, a) for a in range(4)]
near_options += list(hallway_options(near_world, near_rooms).values())
print("goal in a hallway, one run:", smdp_q_learning(near_rooms, near_options, min(6, budget.rooms_episodes)))

# %% [markdown]
# Now many runs side by side (an episode is cut off after 1,000 steps), for two goals: in a hallway, where an option leads, and in the far corner, where none does.

# %%
learners = {}
for goal, mdp, both in (("hallway", near_rooms, near_options), ("corner", rooms, with_hallways)):
    for kind, some, intra in (("actions", both[:4], False), ("options", both, False), ("intra", both, True)):
        began = time.perf_counter()
        learners[goal, kind] = options.learn(
            mdp, some, budget.rooms_runs, budget.rooms_episodes, 0.25, 0.1, intra, budget.most, seed=2
        )
        print(f"{goal}, {kind}: {time.perf_counter() - began:.1f} s")

figure = make_subplots(1, 2, subplot_titles=("goal in a hallway", "goal in the far corner"), shared_yaxes=True)
labels = {
    "actions": ("actions only", "reference"),
    "options": ("options too", "policy"),
    "intra": ("intra-option", "chosen"),
}
for (goal, kind), done in learners.items():
    label, role = labels[kind]
    place = dict(row=1, col=1 if goal == "hallway" else 2)
    band(figure, np.arange(1, budget.rooms_episodes + 1), done.steps, label, role, **place)
names = set()
for trace in figure.data:  # one entry of the legend for each kind
    trace.showlegend = trace.showlegend is not False and trace.name not in names
    names.add(trace.name)
figure.update_xaxes(title_text="episode", type="log")
figure.update_yaxes(title_text="steps to the goal", type="log", col=1)
run.figure(
    figure, "With options the first episodes are shorter if the goal is in a hallway, and longer if it is in a corner."
)

# %% [markdown]
# ### Failure: $\gamma$ where $\gamma^k$ belongs
#
# Discount an option like an action, once, however long it ran. Then eight steps inside an option cost as much as one outside,
# and detours through options look cheap. We solve for the values that this mistake leads to, act greedily on them, and count the
# expected steps exactly.


# %%
def expected_steps(mdp, some, q):
    """Expected steps to the goal if the option of the highest q is followed to its end, (S,)."""
    counting = FiniteMDP(mdp.transitions, -torch.ones_like(mdp.rewards), 1.0, mdp.start, mdp.terminal)
    parts = [options.option_model(counting, option) for option in some]
    chosen = q.argmax(-1)
    each = torch.arange(mdp.states)
    steps, leads = torch.stack([p[0] for p in parts])[chosen, each], torch.stack([p[1] for p in parts])[chosen, each]
    open_ = ~mdp.terminal
    found = torch.zeros(mdp.states, dtype=torch.float64)
    inner = torch.eye(int(open_.sum()), dtype=torch.float64) - leads[open_][:, open_]
    found[open_] = torch.linalg.solve(inner, -steps[open_])
    return found


def discounted_once(mdp, some):
    """Option values by value iteration with gamma in place of gamma^k."""
    ends = torch.stack([options.option_model(mdp.with_gamma(1.0), option)[1] for option in some], 1)
    gains = torch.stack([options.option_model(mdp, option)[0] for option in some], 1)
    allowed = torch.stack([option.begins for option in some], 1)
    v = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(1000):
        q = (gains + mdp.gamma * ends @ v).masked_fill(~allowed, -torch.inf)
        v = q.max(-1).values.masked_fill(mdp.terminal, 0.0)
    return q


right_steps = expected_steps(rooms, with_hallways, q_options)
q_once = discounted_once(rooms, with_hallways)
wrong_steps = expected_steps(rooms, with_hallways, q_once)
shares = (wrong_steps > right_steps + 0.5)[~rooms.terminal].double().mean().item()
average = [x[~rooms.terminal].mean().item() for x in (right_steps, wrong_steps)]
print(f"expected steps, mean over cells: {average[0]:.1f} with gamma^k, {average[1]:.1f} with gamma")
print(f"{shares:.0%} of the cells have a way that is longer by half a step or more")
v_right, v_once = q_options[corner].max().item(), q_once[corner].max().item()
print(
    f"value of the far corner: {v_right:.4f} with gamma^k, {v_once:.4f} with gamma, {v_once / v_right:.0f} times as much"
)

# %% [markdown]
# ### Feudal control: the workers learn too
#
# Options were given. In feudal reinforcement learning a **manager** sees only in which room it is, and commands: go to a
# neighbouring room, or search here. A **worker** sees its cell and the command, and is paid 1 by the manager when it has obeyed,
# whatever the world pays. It reports back when the room changes, the goal is found, or its time is up.

# %%
NEIGHBOURS = {0: (1, 2), 1: (0, 3), 2: (0, 3), 3: (1, 2)}
ENTERED = {(2, 5): 1, (5, 1): 2, (6, 8): 3, (9, 5): 3}  # a hallway counts as one of its two rooms
SEARCH = 4


def room_table(world):
    return np.array([ENTERED[cell] if cell in HALLWAYS else room_of(cell) for cell in world.cells])


def feudal(world, mdp, runs, episodes, workers=None, alpha=0.25, epsilon=0.1, patience=60, most=2000, seed=0):
    """Steps of each episode (runs, episodes), and what the workers learned: Q (runs, S, 5 commands, 4 actions)."""
    rng = np.random.default_rng(seed)
    rooms_, terminal = room_table(world), mdp.terminal.numpy()
    cumulative, rewards = mdp.transitions.cumsum(-1).numpy(), mdp.outcomes.numpy()
    allowed = np.zeros((4, 5), dtype=bool)
    for room, others in NEIGHBOURS.items():
        allowed[room, [*others, SEARCH]] = True
    manager = np.where(allowed, 0.0, -np.inf)[None].repeat(runs, 0)  # (runs, rooms, commands)
    worker = np.zeros((runs, mdp.states, 5, 4)) if workers is None else workers.copy()
    first = int(mdp.start.argmax())
    state, command, origin = np.full(runs, first), np.full(runs, -1), np.zeros(runs, dtype=int)
    gained, worth, spent = np.zeros(runs), np.ones(runs), np.zeros(runs, dtype=int)
    length, done, steps = np.zeros(runs, dtype=int), np.zeros(runs, dtype=int), np.zeros((runs, episodes), dtype=int)
    while len(live := np.flatnonzero(done < episodes)):
        s = state[live]
        rows = live[command[live] < 0]  # these managers speak
        room = rooms_[state[rows]]
        value = manager[rows, room] + 1e-9 * rng.random((len(rows), 5))
        anything = np.where(allowed[room], rng.random((len(rows), 5)), -1).argmax(-1)
        command[rows] = np.where(rng.random(len(rows)) < epsilon, anything, value.argmax(-1))
        origin[rows], gained[rows], worth[rows], spent[rows] = room, 0.0, 1.0, 0
        c = command[live]
        value = worker[live, s, c] + 1e-9 * rng.random((len(live), 4))
        a = np.where(rng.random(len(live)) < epsilon, rng.integers(4, size=len(live)), value.argmax(-1))
        s2 = (rng.random((len(live), 1)) < cumulative[s, a]).argmax(-1)
        r, over, now = rewards[s, a, s2], terminal[s2], rooms_[s2]
        gained[live] += worth[live] * r
        worth[live] *= mdp.gamma
        spent[live] += 1
        obeyed = np.where(c == SEARCH, over, now == c)  # the worker's pay
        left = obeyed | over | (now != origin[live])
        ahead = np.where(left, 0.0, worker[live, s2, c].max(-1))
        worker[live, s, c, a] += alpha * (obeyed + mdp.gamma * ahead - worker[live, s, c, a])
        reports = left | (spent[live] >= patience)
        w, at = live[reports], s2[reports]
        onward = np.where(terminal[at], 0.0, manager[w, rooms_[at]].max(-1))
        manager[w, origin[w], command[w]] += alpha * (gained[w] + worth[w] * onward - manager[w, origin[w], command[w]])
        command[w] = -1
        length[live] += 1
        state[live] = s2
        rows = live[over | (length[live] >= most)]
        steps[rows, done[rows]] = length[rows]
        done[rows] += 1
        length[rows], command[rows], state[rows] = 0, -1, first
    return steps, worker


# %% [markdown]
# First with the goal in the far corner; then the goal moves to another corner. Workers that know how to go from room to room
# keep that; only the search and the manager's plans begin anew. Flat Q-learning begins anew whole.

# %%
moved_world = rooms_with_goal((0, 10))
moved_rooms = moved_world.mdp(0.9)
first_steps, workers = feudal(four_rooms, rooms, budget.rooms_runs, budget.feudal_episodes, most=budget.most, seed=3)
kept = workers.copy()
kept[:, :, SEARCH] = 0.0
same_cells = four_rooms.cells == moved_world.cells
second_steps, _ = feudal(
    moved_world, moved_rooms, budget.rooms_runs, budget.feudal_episodes, kept, most=budget.most, seed=4
)
flat_steps = options.learn(
    moved_rooms, primitives, budget.rooms_runs, budget.feudal_episodes, 0.25, most=budget.most, seed=4
).steps
figure = make_subplots(1, 2, subplot_titles=("first goal", "the goal has moved"), shared_yaxes=True)
episode = np.arange(1, budget.feudal_episodes + 1)
shown = min(budget.feudal_episodes, budget.rooms_episodes)
band(figure, episode[:shown], learners["corner", "actions"].steps[:, :shown], "flat", "reference", row=1, col=1)
band(figure, episode, first_steps, "feudal", "policy", row=1, col=1)
band(figure, episode, flat_steps, "flat, from scratch", "reference", "dot", row=1, col=2)
band(figure, episode, second_steps, "feudal, workers kept", "policy", "dot", row=1, col=2)
figure.update_xaxes(title_text="episode", type="log")
figure.update_yaxes(title_text="steps to the goal", type="log", col=1)
run.figure(figure, "After the goal moved, feudal control with trained workers finds it sooner than flat Q-learning.")
early = slice(0, 10)
print(
    f"first 10 episodes, mean steps: first goal {first_steps[:, early].mean():.0f} feudal, "
    f"{learners['corner', 'actions'].steps[:, early].mean():.0f} flat; "
    f"moved goal {second_steps[:, early].mean():.0f} feudal, {flat_steps[:, early].mean():.0f} flat"
)

# %% [markdown]
# ## The distribution of the return
#
# A small world with a choice. From S a **bridge** of three cells leads to G, with a pit below each; or a **detour** of ten
# moves, without a pit. A move slips with probability 0.1. A step costs 0.04, the pit 1; the goal pays 1; $\gamma=0.99$.

# %%
BRIDGE = (
    ".....",
    ".###.",
    ".###.",
    "S...G",
    "#XXX#",
)
bridge_world = GridWorld(BRIDGE, slip=0.1, step_reward=-0.04)
bridge = bridge_world.mdp(0.99)
home, UP, RIGHT = bridge_world.number[3, 0], 0, 1
solved = policy_iteration(bridge)
exact = distributional.return_distributions(bridge, solved.policy)

display(HTML(bridge_world.svg(solved.values, solved.policy, "Optimal values and actions in the world of the bridge")))
mean_gap = max(abs(exact[s][a].mean() - solved.q[s, a].item()) for s in range(bridge.states) for a in range(4))
print(f"means of the exact distributions against Q* by policy iteration: largest difference {mean_gap:.1e}")

# %% [markdown]
# **The truth.** `return_distributions` applies $Z(s,a)=r+\gamma Z(s',a')$ to whole distributions until no episode runs on. A
# second opinion: 20,000 sampled episodes.

# %%
episodes = sample(bridge, solved.policy, 20_000, 120, seed=1)
discounts = bridge.gamma ** torch.arange(120, dtype=torch.float64)
returns = (episodes.rewards * episodes.running * discounts).sum(1)
sampled = distributional.distribution(returns)
truth_home = exact[home][int(solved.policy[home].argmax())]
sampled_gap = distributional.wasserstein(sampled, truth_home)
for a in (RIGHT, UP):
    z = exact[home][a]
    print(
        f"{ACTIONS[a]:>5}: mean {z.mean():.3f}, standard deviation {z.std():.3f}, P(G < 0) {z.below(0):.3f}, "
        f"mean of the worst tenth {distributional.cvar(z, 0.1):.3f}"
    )
print(f"W1 between 20,000 samples and the exact distribution: {sampled_gap:.4f}")

# %% [markdown]
# The means differ by little and say: bridge. The distributions say what you buy: one time in seven, the pit.
#
# ### The projection of C51
#
# C51 keeps $N$ fixed values $z_i$ (**atoms**). After $r+\gamma z_j$ the probability lies between atoms; it is divided between the two
# neighbours. The definition is a sum over all pairs, $O(N^2)$; the library scatters, $O(N)$.

# %%
ATOMS = distributional.support(-1.6, 1.0, 51)


def project_by_definition(probs, reward, discount, z):
    """(N,) to (N,): every pair of atoms, weighted by 1 - distance / gap where that is positive."""
    out, gap = torch.zeros_like(probs), z[1] - z[0]
    for i in range(len(z)):
        for j in range(len(z)):
            moved = (reward + discount * z[j]).clamp(z[0], z[-1])
            out[i] += (1 - (moved - z[i]).abs() / gap).clamp(0, 1) * probs[j]
    return out


generator = torch.Generator().manual_seed(0)
some = torch.rand(6, 51, generator=generator, dtype=torch.float64).softmax(-1)
z64 = torch.linspace(-1.6, 1.0, 51, dtype=torch.float64)
rewards_ = torch.tensor([0.0, -0.04, 1.0, -1.0, 0.52, -3.0], dtype=torch.float64)
discounts_ = torch.tensor([0.99, 0.99, 0.0, 0.0, 1.0, 0.5], dtype=torch.float64)
fast = distributional.project(some, rewards_, discounts_, z64)
slow = torch.stack([project_by_definition(*row, z64) for row in zip(some, rewards_, discounts_, strict=True)])
projection_gap = (fast - slow).abs().max().item()
mass_gap = (fast.sum(-1) - 1).abs().max().item()
print(f"library against the definition {projection_gap:.1e}; probability lost {mass_gap:.1e}")

# %% [markdown]
# ### The loss of QR-DQN
#
# Quantile regression weighs an error by $\tau$ where the sample lies above the estimate and by $1-\tau$ where below. Its
# minimiser is the $\tau$-quantile: train five numbers on the sampled returns, and compare them with NumPy's quantiles.

# %%
estimates = torch.full((5,), 0.0, requires_grad=True)
optimizer = torch.optim.Adam([estimates], 0.02)
for step in range(1500):
    batch = returns[torch.randint(len(returns), (256,), generator=generator)].float()
    loss = distributional.quantile_loss(estimates, batch, kappa=0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.param_groups[0]["lr"] = 0.02 * (1 - 0.97 * step / 1500)
    optimizer.step()
by_numpy = np.quantile(returns.numpy(), distributional.midpoints(5).numpy())
quantile_gap = float(np.abs(estimates.detach().numpy() - by_numpy).max())
print("levels", distributional.midpoints(5).tolist())
print("learned", [f"{x:.3f}" for x in estimates.tolist()], "NumPy", [f"{x:.3f}" for x in by_numpy])

# %% [markdown]
# ### Three agents learn
#
# One loop, three heads: DQN learns a number per action, C51 51 probabilities, QR-DQN 25 quantiles. Five seeds side by side,
# sixteen episodes at a time for each, states as one-hot vectors. Episodes begin anywhere, so that the detour is seen too.

# %%
COUNTS = {"DQN": 1, "C51": 51, "QR-DQN": 25}  # numbers for each action
KINDS, ACTORS, ROOM, BATCH = tuple(COUNTS), 16, 20_000, 32


def means(kind, out):
    """Network's output (copies, batch, 4, n) to action values (copies, batch, 4)."""
    return (out.softmax(-1) * ATOMS).sum(-1) if kind == "C51" else out.mean(-1)


def loss_of(kind, out, following, reward, running):
    """out: (..., n) of the actions taken; following: (..., n) of the next greedy actions; reward, running: (...)."""
    discount = bridge.gamma * running
    if kind == "C51":
        target = distributional.project(following.softmax(-1), reward, discount, ATOMS)
        return distributional.categorical_loss(out, target)
    target = reward[..., None] + discount[..., None] * following
    if kind == "QR-DQN":
        return distributional.quantile_loss(out, target, kappa=0.05) / COUNTS[kind]
    return (target - out).square().squeeze(-1)


anywhere = (~bridge.terminal).double() / (~bridge.terminal).sum()
training = FiniteMDP(bridge.transitions, bridge.rewards, bridge.gamma, anywhere, bridge.terminal, bridge.outcomes)


def learn_returns(kind, steps, keep, seed=0):
    """Networks' outputs for every state at the steps in `keep`: {step: (SEEDS, S, 4, n)}."""
    n, states = COUNTS[kind], bridge.states
    networks = Networks([states, 48, 4 * n], SEEDS, seed)
    target_networks, parameters = copy.deepcopy(networks), list(networks.parameters())
    optimizer = torch.optim.Adam(parameters, 2e-3, fused=True)
    g = torch.Generator().manual_seed(seed)
    one_hot = torch.eye(states)
    everything = one_hot.expand(SEEDS, -1, -1)
    copies, lanes = torch.arange(SEEDS)[:, None], SEEDS * ACTORS
    memory = [torch.zeros(SEEDS, ROOM, dtype=kind_) for kind_ in (torch.long, torch.long, torch.float, torch.long)]
    state, kept, heads = training.begin(lanes, g), {}, lambda net, x: net(x).unflatten(-1, (4, n))
    for step in run.progress(range(steps + 1), kind):
        if step in keep:
            with torch.no_grad():
                kept[step] = heads(networks, everything)
        epsilon = max(0.2, 1 - 1.5 * step / steps)
        with torch.no_grad():
            best = means(kind, heads(networks, one_hot[state].view(SEEDS, ACTORS, -1))).argmax(-1).flatten()
        at_random = torch.rand(lanes, generator=g) < epsilon
        action = torch.where(at_random, torch.randint(4, (lanes,), generator=g), best)
        following, reward, ended = training.step(state, action, g)
        at = (step * ACTORS + torch.arange(ACTORS)) % ROOM
        for table, row in zip(memory, (state, action, reward.float(), following), strict=True):
            table[:, at] = row.view(SEEDS, ACTORS)
        state = torch.where(ended, training.begin(lanes, g), following)
        pick = (torch.rand(SEEDS, BATCH, generator=g) * min((step + 1) * ACTORS, ROOM)).long()
        s, a, r, s2 = (table[copies, pick] for table in memory)
        with torch.no_grad():
            after = heads(target_networks, one_hot[s2])
            best = means(kind, after).argmax(-1)
            after = after.gather(2, best[..., None, None].expand(-1, -1, 1, n)).squeeze(2)
        out = heads(networks, one_hot[s]).gather(2, a[..., None, None].expand(-1, -1, 1, n)).squeeze(2)
        loss = loss_of(kind, out, after, r, (~bridge.terminal[s2]).float()).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norms(parameters, 10.0)
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - 0.95 * step / (steps + 1))
        optimizer.step()
        if step % 50 == 0:
            target_networks.load_state_dict(networks.state_dict())
    return kept


KEEP = sorted({round(budget.z_steps * share) for share in (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1)})
outputs = {}
for kind in KINDS:
    began = time.perf_counter()
    outputs[kind] = learn_returns(kind, budget.z_steps, KEEP)
    print(f"{kind}: {time.perf_counter() - began:.1f} s")


# %%
def learned_distribution(kind, out):
    """One action's output (n,) as a distribution."""
    if kind == "C51":
        return distributional.distribution(ATOMS, out.double().softmax(-1))
    return distributional.distribution(out)


def distance(kind, out):
    """W1 to the exact distribution for bridge and detour at the start, (seeds,)."""
    both = [
        [distributional.wasserstein(learned_distribution(kind, out[i, home, a]), exact[home][a]) for a in (RIGHT, UP)]
        for i in range(SEEDS)
    ]
    return torch.tensor(both).mean(1)


# The best single number by squared error is the mean. By Huber's loss, which DQN mostly uses, it is not.
z = exact[home][RIGHT]
grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
best_by_huber = grid[(dqn.huber(z.values - grid[:, None]) @ z.probs).argmin()].item()
print(f"bridge: mean {z.mean():.3f}, the number with the least Huber loss {best_by_huber:.3f}")

distances = {kind: torch.stack([distance(kind, outputs[kind][step]) for step in KEEP], 1) for kind in KINDS}
figure = go.Figure()
for kind, role in zip(KINDS, ("reference", "policy", "chosen"), strict=True):
    band(figure, KEEP, distances[kind], kind, role)
figure.update_layout(xaxis_title="updates", yaxis_title="W1 to the exact distribution (return)", yaxis_range=[0, 1.2])
run.figure(figure, "C51 and QR-DQN come near the exact distribution; DQN, one number, cannot, however good its mean.")

# %% [markdown]
# The start after training, first seed: what C51 and QR-DQN believe of the bridge, and the truth.

# %%
figure = make_subplots(1, 2, subplot_titles=("bridge (right)", "detour (up)"), shared_yaxes=True)
for col, a in ((1, RIGHT), (2, UP)):
    entries = {"exact": (exact[home][a], "ink")}
    entries |= {
        kind: (learned_distribution(kind, outputs[kind][KEEP[-1]][0, home, a]), role)
        for kind, role in (("C51", "policy"), ("QR-DQN", "chosen"))
    }
    for label, (z, role) in entries.items():
        figure.add_scatter(
            x=np.repeat(z.values.numpy(), 2).astype(np.float32)[:400],
            y=np.repeat(np.concatenate([[0], z.probs.cumsum(0).numpy()]), 2)[1:-1].astype(np.float32)[:400],
            name=label, legendgroup=label, showlegend=col == 1, line={"color": palette.MIDDLE[role], "width": 2}, row=1, col=col,
        )  # fmt: skip
figure.update_xaxes(title_text="return", range=[-1.6, 1.05])
figure.update_yaxes(title_text="P(G ≤ x)", col=1)
run.figure(
    figure, "Cumulative distributions: the bridge's has a step at -1, the detour's does not; both agents follow it."
)

# %% [markdown]
# ### What the distribution is good for
#
# An agent that has the distribution may prefer something else than the highest mean. By the mean of the worst tenth
# (**CVaR**), the detour is better. Ask the five trained agents of each kind.

# %%
SHARE = 0.1
choices = {}
for kind in ("C51", "QR-DQN"):
    z = [[learned_distribution(kind, outputs[kind][KEEP[-1]][i, home, a]) for a in (RIGHT, UP)] for i in range(SEEDS)]
    by_mean = sum(right.mean() > up.mean() for right, up in z)
    by_risk = sum(distributional.cvar(up, SHARE) > distributional.cvar(right, SHARE) for right, up in z)
    choices[kind] = (by_mean, by_risk)
    print(f"{kind}: {by_mean} of {SEEDS} take the bridge by the mean, {by_risk} the detour by the worst tenth")

# %% [markdown]
# ### Failure: a range that is too narrow
#
# C51 must be told the least and the greatest return. We need no training to see what a wrong range does: apply the projected
# Bellman operator to tables until nothing changes. That is the best that C51 with these atoms could learn.


# %%
def categorical_fixed_point(mdp, policy, atoms, sweeps=400):
    """Probabilities (S, A, N) that the projected Bellman operator leaves unchanged."""
    probs = torch.zeros(mdp.states, mdp.actions, len(atoms), dtype=torch.float64)
    probs[..., int(atoms.abs().argmin())] = 1.0
    discount = mdp.gamma * (~mdp.terminal).double().expand(mdp.states, mdp.actions, -1)
    for _ in range(sweeps):
        following = (policy[..., None] * probs).sum(1)  # (S, N), the state's return
        moved = distributional.project(following.expand(mdp.states, mdp.actions, -1, -1), mdp.outcomes, discount, atoms)
        probs = (mdp.transitions[..., None] * moved).sum(2)
    return probs


ranges = {"-1.6 to 1": z64, "-0.6 to 1": torch.linspace(-0.6, 1.0, 51, dtype=torch.float64)}
fixed = {name: categorical_fixed_point(bridge, solved.policy, atoms) for name, atoms in ranges.items()}
rows, fixed_gap, fixed_mean = [], {}, {}
for name, atoms in ranges.items():
    here = [distributional.distribution(atoms, fixed[name][home, a]) for a in (RIGHT, UP)]
    fixed_gap[name] = [distributional.wasserstein(z, exact[home][a]) for z, a in zip(here, (RIGHT, UP), strict=True)]
    fixed_mean[name] = [z.mean() for z in here]
    rows.append([name, *(f"{z.mean():.3f}" for z in here), f"{fixed_gap[name][0]:.3f}", f"{here[0].probs[0]:.1%}"])
rows.append(["exact", *(f"{exact[home][a].mean():.3f}" for a in (RIGHT, UP)), "0", "0.0%"])
run.table(
    rows,
    ["atoms", "mean of the bridge", "mean of the detour", "W1, bridge", "on the lowest atom"],
    caption="51 atoms at their fixed point: inside the range the mean is exact, outside it is cut off",
)

# %% [markdown]
# The projection keeps the mean of whatever lies inside its range: the first row's means are exact, though the distribution is
# rounded to the atoms. The second row believes that a fall costs 0.6.
#
# ## As one would at work
#
# For a model-free baseline one takes stable-baselines3; here its DQN gets as many real steps as the planner had seen at its last
# round. (Its companion package sb3-contrib has QR-DQN.) The distances between distributions are SciPy's.

# %%
from scipy.stats import wasserstein_distance
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy

few = int(seen[-1].mean())
agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=100, train_freq=4, seed=0, verbose=0)
agent.learn(few)
sb3_return, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=10)
print(
    f"stable-baselines3's DQN after {few} steps: {sb3_return:.0f}; planning with the learned model {planned[-1].mean():.0f}"
)

z = learned_distribution("C51", outputs["C51"][KEEP[-1]][0, home, RIGHT])
truth_z = exact[home][RIGHT]
ours = distributional.wasserstein(z, truth_z)
scipys = wasserstein_distance(z.values, truth_z.values, z.probs, truth_z.probs)
print(f"W1 of one agent: {ours:.6f} ours, {scipys:.6f} SciPy's")

# %% [markdown]
# ## Explore

# %%
PLACES = {
    "S, the start": ((3, 0), (RIGHT, UP)),
    "on the bridge": ((3, 2), (RIGHT, 3)),
    "on the detour": ((0, 0), (RIGHT, 2)),
}
NAMES = {
    ((3, 0), RIGHT): "right: bridge", ((3, 0), UP): "up: detour", ((3, 2), RIGHT): "right: on", ((3, 2), 3): "left: back",
    ((0, 0), RIGHT): "right: on", ((0, 0), 2): "down: back",
}  # fmt: skip
places = []
for place, (cell, acts) in PLACES.items():
    s = bridge_world.number[cell]
    entries = []
    for a in acts:
        z = exact[s][a]
        likely = z.probs > 1e-6
        out = {kind: [outputs[kind][step][0, s, a] for step in KEEP] for kind in KINDS}
        entries.append(
            {
                "name": NAMES[cell, a],
                "exact": {"values": z.values[likely].numpy().round(4), "probs": z.probs[likely].numpy().round(6)},
                "C51": [o.double().softmax(-1).numpy().round(4) for o in out["C51"]],
                "QR-DQN": [o.sort().values.double().numpy().round(3) for o in out["QR-DQN"]],
                "DQN": [o.item() for o in out["DQN"]],
            }
        )
    places.append({"name": place, "cell": list(cell), "actions": entries})
run.explorer(
    "return_distribution",
    {
        "map": list(BRIDGE), "low": -1.6, "high": 1.0, "atoms": COUNTS["C51"], "steps": KEEP, "gamma": bridge.gamma,
        "places": places, "start": {"place": 0, "action": 0, "agent": "C51", "step": KEEP[-1], "share": SHARE},
    },
)  # fmt: skip

# %% [markdown]
# ## Results

# %%
run.result("maze_floor", floor, format=".1f")
run.result("maze_shortest", shortest, format=".0f")
run.result("maze_random", random_walk, format=".0f")
run.result("maze_first", first.mean().item(), format=".0f")
run.result("maze_first_error", first_error, format=".0f")
run.result("dyna_runs", budget.dyna_runs)
for n, done in runs.items():
    run.result(f"dyna_near_{n}", near[n])
    run.result(f"dyna_second_{n}", done.steps[:, min(1, budget.dyna_episodes - 1)].mean().item(), format=".0f")
    run.result(f"dyna_last_{n}", done.steps[:, -5:].mean().item(), format=".1f")
run.result("blocking_runs", budget.blocking_runs)
run.result("blocking_wait", waits["Dyna-Q"].item(), format=".0f")
run.result("blocking_wait_plus", waits["Dyna-Q+"].item(), format=".0f")
totals = {name: done.reward.sum(1).mean() for name, done in blocked.items()}
run.result("blocking_total", totals["Dyna-Q"].item(), format=".0f")
run.result("blocking_total_plus", totals["Dyna-Q+"].item(), format=".0f")
run.claim("more planning steps reach the floor in fewer episodes", near[50] < near[5] < near[0])
run.claim("50 planning steps are near the floor after five episodes", near[50] <= 5)
run.claim(
    "the first episode is a random walk, within four standard errors", abs(first.mean() - random_walk) < 4 * first_error
)
run.claim("after the wall moved, Dyna-Q+ finds the new way sooner", waits["Dyna-Q+"] < waits["Dyna-Q"])
run.claim("and earns more in all", totals["Dyna-Q+"] > totals["Dyna-Q"])

# %%
run.result("mpc_plans", PLANS)
run.result("mpc_horizon", HORIZON)
run.result("mpc_members", MEMBERS)
run.result("mpc_random", random_return, format=".0f")
run.result("mpc_first_steps", seen[0].mean(), format=".0f")
run.result("mpc_first", planned[0].mean(), format=".0f")
run.result("mpc_second_steps", seen[1].mean(), format=".0f")
run.result("mpc_second", planned[1].mean(), format=".0f")
run.result("mpc_last_steps", seen[-1].mean(), format=",.0f")
run.result("mpc_last", planned[-1].mean(), format=".0f")
run.result("mpc_last_least", planned[-1].min(), format=".0f")
run.result("mpc_truth", truth.mean(), format=".0f")
run.result("mpc_knows_ends", knows_ends.mean(), format=".0f")
run.result("mpc_forgets_ends", forgets_ends.mean(), format=".0f")
for name, table in (("early", early_error), ("late", late_error)):
    run.result(f"mpc_{name}_error_1", table[:, 0].mean(), format=".2g")
    run.result(f"mpc_{name}_error_25", table[:, -1].mean(), format=".2g")
run.result("dqn_last_steps", looked[-1], format=",")
run.result("dqn_last", free[:, -1].mean(), format=".0f")
run.result("dqn_first_steps", looked[0], format=",")
run.result("dqn_first", free[:, 0].mean(), format=".0f")
run.result("sb3_steps", few, format=",")
run.result("sb3_return", float(sb3_return), format=".0f")
run.claim("our equations are Gymnasium's", equations_gap < 1e-5)
run.claim("the score of a plan is the library's", shooting_gap < 1e-4)
run.claim(
    "after 25 steps the error is ten times that of one step", late_error[:, -1].mean() > 10 * late_error[:, 0].mean()
)
run.claim("more data lower the error after 25 steps", late_error[:, -1].mean() < early_error[:, -1].mean())
run.claim("planning with the learned model beats DQN's first look", planned[-1].mean() > free[:, 0].mean())
run.claim("planning with the learned model holds the pole 400 steps and more", planned[-1].mean() > 400)
run.claim("a planner that ignores the end is no better than chance", forgets_ends.mean() < 2 * random_return + 5)
run.claim("a planner that knows the end is far better", knows_ends.mean() > 3 * forgets_ends.mean())

# %%
run.result("rooms_runs", budget.rooms_runs)
run.result("rooms_most", budget.most, format=",")
run.result("option_gamma_k", by_model, format=".3f")
run.result("option_walks", by_walks, format=".3f")
run.result("sweeps_actions", sweeps_actions)
run.result("sweeps_options", sweeps_options)
for (goal, kind), done in learners.items():
    run.result(f"{goal}_{kind}_first", done.steps[:, :5].mean().item(), format=".0f")
    run.result(f"{goal}_{kind}_last", done.steps[:, -20:].mean().item(), format=".0f")
    run.result(f"{goal}_{kind}_choices", done.choices[:, -20:].mean().item(), format=".1f")
run.result("once_steps", average[1], format=".1f")
run.result("right_steps", average[0], format=".1f")
run.result("once_longer", shares, format=".0%")
run.result("once_value", v_once / v_right, format=".0f")
run.result("feudal_first", first_steps[:, :10].mean().item(), format=".0f")
run.result("feudal_moved", second_steps[:, :10].mean().item(), format=".0f")
run.result("flat_first", learners["corner", "actions"].steps[:, :10].mean().item(), format=".0f")
run.result("flat_moved", flat_steps[:, :10].mean().item(), format=".0f")
run.result("feudal_last", first_steps[:, -20:].mean().item(), format=".0f")
run.result("flat_last", flat_steps[:, -20:].mean().item(), format=".0f")
hall, far = ({kind: learners[goal, kind].steps[:, :5].mean() for kind in labels} for goal in ("hallway", "corner"))
one_step = np.array_equal(
    options.learn(rooms, primitives, 3, 3, seed=5).steps,
    options.learn(rooms, primitives, 3, 3, intra=True, seed=5).steps,
)
run.claim("the model of an option is what its walks say", abs(by_model - by_walks) < 4 * model_error)
run.claim("options leave the optimum as it is", same_optimum < 1e-6)
run.claim("planning with options needs fewer sweeps", sweeps_options < sweeps_actions)
run.claim("for actions alone, intra-option learning is Q-learning", one_step)
run.claim("with the goal in a hallway, options shorten the first episodes", hall["options"] < hall["actions"])
run.claim("with the goal in a corner, options lengthen them", far["options"] > far["actions"])
run.claim("discounting an option once makes some ways longer", average[1] > average[0])
run.claim(
    "workers that were trained help with a goal that moved", second_steps[:, :10].mean() < flat_steps[:, :10].mean()
)

# %%
for name, a in (("bridge", RIGHT), ("detour", UP)):
    z = exact[home][a]
    run.result(f"{name}_mean", z.mean(), format=".3f")
    run.result(f"{name}_std", z.std(), format=".2f")
    run.result(f"{name}_negative", z.below(0), format=".1%")
    run.result(f"{name}_cvar", distributional.cvar(z, SHARE), format=".2f")
run.result("bridge_huber", best_by_huber, format=".2f")
run.result("z_updates", budget.z_steps, format=",")
for kind, name in (("DQN", "dqn"), ("C51", "c51"), ("QR-DQN", "qr")):
    run.result(f"{name}_w1", distances[kind][:, -1].mean(), format=".3f")
for kind, name in (("C51", "c51"), ("QR-DQN", "qr")):
    run.result(f"{name}_by_mean", choices[kind][0])
    run.result(f"{name}_by_risk", choices[kind][1])
wide, narrow = ranges
run.result("c51_floor", sum(fixed_gap[wide]) / 2, format=".3f")
run.result("narrow_mean", fixed_mean[narrow][0], format=".3f")
run.result("narrow_w1", fixed_gap[narrow][0], format=".3f")
fixed_mean_gap = max(abs(m - exact[home][a].mean()) for m, a in zip(fixed_mean[wide], (RIGHT, UP), strict=True))
w1_gap = abs(ours - scipys)
run.claim("the number with the least Huber loss is not the mean", best_by_huber > exact[home][RIGHT].mean() + 0.03)
run.claim("the exact distributions have the means of policy iteration", mean_gap < 1e-6)
run.claim("20,000 sampled episodes agree with the exact distribution", sampled_gap < 0.02)
run.claim("the projection is its definition and loses nothing", projection_gap + mass_gap < 1e-9)
run.claim("quantile regression finds the quantiles", quantile_gap < 0.06)
run.claim(
    "C51 and QR-DQN come nearer to the distribution than a number can",
    max(distances["C51"][:, -1].mean(), distances["QR-DQN"][:, -1].mean()) < 0.5 * distances["DQN"][:, -1].mean(),
)
run.claim("by the worst tenth most agents prefer the detour", choices["C51"][1] + choices["QR-DQN"][1] >= 8)
run.claim("inside its range the projection keeps the mean", fixed_mean_gap < 1e-3)
run.claim(
    "a range that is too narrow makes the bridge look better", fixed_mean[narrow][0] > exact[home][RIGHT].mean() + 0.02
)
run.claim("W1 is SciPy's", w1_gap < 1e-6)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Plan** (difficulty 1, 5 minutes). One planning update of Dyna-Q: `q` (S, A) and a remembered `(s, a, reward, following,
# terminal)`, to the new value of `q[s, a]`, a number.


# %%
def my_planned_value(q, s, a, reward, following, terminal, alpha, gamma): ...


check("models_hierarchy_distributions.planned_value", my_planned_value)

# %% [markdown]
# **2. Judge plans** (difficulty 2, 8 minutes). Predicted `rewards` and `terminated`, both (plans, horizon), to the discounted return of
# each plan, (plans,). The step that terminates still pays; nothing after it does.


# %%
def my_plan_returns(rewards, terminated, gamma): ...


check("models_hierarchy_distributions.plan_returns", my_plan_returns)

# %% [markdown]
# **3. Update an option** (difficulty 2, 6 minutes). An option ran for k steps with `rewards` (k,), and ended in a state whose best
# option value is `best_next`. Give the target of SMDP Q-learning, a number.


# %%
def my_option_target(rewards, best_next, gamma): ...


check("models_hierarchy_distributions.option_target", my_option_target)

# %% [markdown]
# **4. Project** (difficulty 3, 12 minutes). `probs` (N,) on `atoms` (N,), evenly spaced; give the probabilities (N,) of
# `reward + discount * Z`, projected on the same atoms.


# %%
def my_projection(probs, reward, discount, atoms): ...


check("models_hierarchy_distributions.projection", my_projection)

# %% [markdown]
# **5. Weigh errors** (difficulty 2, 6 minutes). The quantile regression loss (no Huber part) of `quantiles` (N,) for `samples` (M,): the
# mean over samples, summed over quantiles at $\tau_i=(2i-1)/2N$; one number.


# %%
def my_quantile_loss(quantiles, samples): ...


check("models_hierarchy_distributions.quantile_loss", my_quantile_loss)
