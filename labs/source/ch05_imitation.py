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
# # Imitation: cloning, DAgger, inverse reinforcement learning, GAIL
#
# An expert shows what to do, and no reward is told. Copy the actions and small mistakes grow; ask the expert about your
# own mistakes and they do not. Or find out what the expert wants. Or learn until nobody can tell you from the expert.
# Every method first meets a world so small that the truth is a line of algebra.
#
# - **You will** measure how the cost of cloning grows with the horizon, exactly, and stop its growth with DAgger; do
#   the same on CartPole with an expert trained by DQN; recover a reward from behaviour and see which part of it nobody
#   can recover; play the adversarial game against known occupancy measures; clone a language model and meet exposure bias.
#   And see each method fail in its own way.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 5.7.1-5.7.4

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
# ## A road and a ditch
#
# On the road, each step shows one of many signs, some often, most seldom. The expert steers left or right as the sign
# says. Steer wrong and you are in the ditch, at a cost of 1 a step. In the ditch the right action is a third one,
# "back", which the expert never needs: the expert never is in the ditch.

# %%
import math
import warnings
from itertools import pairwise

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, lab, models, palette
from alignlab.exercises import check
from alignlab.rl import dqn, imitation, offline, policy_gradient
from alignlab.rl.curves import band
from alignlab.rl.environments import play
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, sample, value_iteration, values
from alignlab.rl.networks import Networks
from alignlab.tasks import scenes
from alignlab.transformer import Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch05_imitation")
budget = run.budget(
    full=dict(
        runs=50, horizon=1_000, expert_steps=25_000, sizes=(5, 10, 20, 40, 80, 400), fit=500, episodes=20,
        asks=10, rounds=8, ascent=300, demonstrations=(1, 3, 10, 30), climbs=150, game=250, shown=(1, 3, 10, 30),
        adversary=120_000, texts=200, clone_steps=250,
    ),
    quick=dict(
        runs=10, horizon=1_000, expert_steps=1_100, sizes=(5, 10, 20, 40, 80, 400), fit=30, episodes=3,
        asks=10, rounds=2, ascent=60, demonstrations=(1, 3, 10, 30), climbs=3, game=5, shown=(1, 3, 10, 30),
        adversary=1_280, texts=16, clone_steps=20,
    ),
)  # fmt: skip
compute.seed(0)
SEEDS = 5

SIGNS, DITCH, LEFT, RIGHT, BACK = 200, 5, 0, 1, 2
often = 1 / torch.arange(1, SIGNS + 1, dtype=torch.float64) ** 2
often /= often.sum()  # how often each sign comes, (SIGNS,)
says = torch.arange(SIGNS) % 2  # the right action at each sign
S, A = SIGNS + DITCH, 3
on_road, in_ditch = torch.zeros(2, S, dtype=torch.float64)
on_road[:SIGNS], in_ditch[SIGNS:] = often, 1 / DITCH
moves = in_ditch.expand(S, A, S).clone()
moves[torch.arange(SIGNS), says] = on_road
moves[SIGNS:, BACK] = on_road
cost = torch.zeros(S, A, dtype=torch.float64)
cost[SIGNS:] = 1.0
road = FiniteMDP(moves, -cost, 1.0, on_road, torch.zeros(S, dtype=torch.bool))
asked = torch.cat([says, torch.full((DITCH,), BACK)])  # the expert's action in every state, also where it never is
expert_road = F.one_hot(asked, A).double()
print(f"{S} states, {A} actions; the most frequent sign comes {often[0]:.0%}, the rarest {often[-1]:.3%} of the time")

# %% [markdown]
# **Behaviour cloning** counts. In each state of the demonstrations the learner does what the expert did; in a state that
# it never saw it falls back on what the expert does in general. That is maximum likelihood in a table. Its cost over
# $T$ steps needs no sampling: push the distribution of states through the policy, step by step.


# %%
def in_general(actions):
    """How often the expert takes each action, whatever the state: (runs, N) -> (runs, A)."""
    return F.one_hot(actions, A).double().mean(1)


def cost_by_horizon(policy):
    """Expected cost of the first 1 ... T steps, exactly: (runs, S, A) -> (runs, T)."""
    return imitation.state_distributions(road, policy, budget.horizon)[..., SIGNS:].sum(-1).cumsum(-1)


LABELS = 1_000
seen = sample(road, expert_road, budget.runs, LABELS, seed=0).states[:, :LABELS]  # (runs, N)
cloned = imitation.clone_table(seen, asked[seen], (S, A), in_general(asked[seen]))
counts = torch.zeros(budget.runs, S, A, dtype=torch.float64)  # the same, counted in the open
counts.index_put_(
    (torch.arange(budget.runs)[:, None], seen, asked[seen]), torch.ones(1, dtype=torch.float64), accumulate=True
)
by_hand = torch.where(
    counts.sum(-1, keepdim=True) > 0,
    counts / counts.sum(-1, keepdim=True).clamp_min(1),
    in_general(asked[seen])[:, None],
)
table_gap = (by_hand - cloned).abs().max().item()

wrong = 1 - cloned[:, torch.arange(SIGNS), says]  # the chance of an error at each sign, (runs, SIGNS)
epsilon = wrong @ often  # the error rate where the expert is, (runs,)
cost_bc = cost_by_horizon(cloned)
horizons = torch.arange(1, budget.horizon + 1, dtype=torch.float64)
closed = horizons - (1 - (1 - epsilon[:, None]) ** horizons) / epsilon[:, None]
closed_gap = (closed - cost_bc).abs().max().item()
print(
    f"error rate on the expert's states: mean {epsilon.mean():.2%}, {epsilon.min():.2%} to {epsilon.max():.2%} over {budget.runs} runs"
)
print(f"pushed through the policy and in closed form: the costs differ by at most {closed_gap:.0e}")

# %% [markdown]
# The closed form takes one line. The signs are drawn afresh at each step, so the learner is still on the road after $t$
# steps with probability $(1-\varepsilon)^t$, and who left it stays away. Summed, the cost is
# $T-\frac{1-(1-\varepsilon)^T}{\varepsilon}\approx\frac{\varepsilon T^2}{2}$ while $\varepsilon T$ is small: **quadratic
# in the horizon**, half of the bound $\varepsilon T^2$ of Ross and Bagnell.
#
# **DAgger** lets the learner drive and the expert label. The expert is asked no oftener than before: the same number of
# labels, in ten rounds.

# %%
ROUNDS = 10
generator = torch.Generator().manual_seed(1)


def roll(policy, round_index, steps=LABELS // ROUNDS):
    """States that `policy` visits, one walk a run; the expert drives where there is no policy yet: (runs, steps)."""
    state, visited = road.begin(budget.runs, generator), []
    for _ in range(steps):
        visited.append(state)
        chance = expert_road[state] if policy is None else policy[torch.arange(budget.runs), state]
        state, _, _ = road.step(state, torch.multinomial(chance, 1, generator=generator)[:, 0], generator)
    return torch.stack(visited, 1)


def fit(states, actions):
    return imitation.clone_table(states, actions, (S, A), in_general(actions))


states, policy = None, None
for i in range(ROUNDS):  # dataset aggregation, in the open
    new = roll(policy, i)
    states = new if states is None else torch.cat([states, new], 1)
    policy = fit(states, asked[states])  # the expert labels, whoever drove
aggregated = policy
generator.manual_seed(1)
library, _, _ = imitation.dagger(roll, lambda visited: asked[visited], fit, ROUNDS, dimension=1)
dagger_gap = (library[-1] - aggregated).abs().max().item()
cost_dagger = cost_by_horizon(aggregated)

fig = go.Figure()
shown = torch.unique((10 ** torch.linspace(0, math.log10(budget.horizon), 60)).round().long()) - 1
band(fig, horizons[shown], cost_bc[:, shown], "behaviour cloning", "rejected")
band(fig, horizons[shown], cost_dagger[:, shown], "DAgger, as many labels", "chosen")
fig.add_scatter(
    x=horizons[shown].float().numpy(),
    y=(epsilon.mean() * horizons[shown] ** 2 / 2).float().numpy(),
    name="εT²/2",
    line=dict(dash="dot", color=palette.MIDDLE["reference"]),
)
fig.update_layout(
    title="Expected steps in the ditch",
    xaxis_title="horizon T",
    yaxis_title="cost",
    xaxis_type="log",
    yaxis_type="log",
    yaxis_range=[-2, 3],
)
run.figure(fig, "Log-log: cloning rises with slope 2 until it is always in the ditch, DAgger with slope 1.")


# %%
def slope(costs, first, last):
    """Slope of log cost against log T between two horizons, one a run."""
    return (costs[:, last - 1] / costs[:, first - 1]).log() / math.log(last / first)


rate_back = aggregated[:, SIGNS:, BACK].mean(-1)
run.table(
    [[f"{t:,}", f"{cost_bc[:, t - 1].mean():.2f}", f"{(epsilon * t * t).mean():.1f}", f"{cost_dagger[:, t - 1].mean():.3f}"] for t in (10, 30, 100, 300, 1_000)],
    ["horizon T", "cost of cloning", "bound, epsilon T^2", "cost of DAgger"],
    caption=f"Expected steps in the ditch, {LABELS} labels each, mean of {budget.runs} runs",
)  # fmt: skip
print(f"slope from 5 to 50: cloning {slope(cost_bc, 5, 50).mean():.2f}, DAgger {slope(cost_dagger, 5, 50).mean():.2f}")
print(f"slope from 500 to 1,000: cloning {slope(cost_bc, 500, 1000).mean():.2f}: nothing is left to lose")

# %% [markdown]
# The learner that was taught on its own states knows "back" and leaves the ditch at once. The other one has never seen
# anybody in a ditch. Read it as text: a state is a prefix, the ditch is a text that has gone wrong, and "back" is a
# token such as "No:". A corpus of flawless answers does not hold it.
#
# The bound is a worst case, and the road is built to reach it. Where one comes back by chance, the cost of cloning is
# linear too:

# %%
forgiving = imitation.clone_table(seen, asked[seen], (S, A))  # guesses where nothing was seen, "back" included
cost_forgiving = cost_by_horizon(forgiving)
print(
    f"guessing at random in unseen states: slope {slope(cost_forgiving, 100, 1000).mean():.2f} from 100 to 1,000, cost {cost_forgiving[:, 99].mean():.2f} at T = 100"
)

# %% [markdown]
# ## The same on CartPole
#
# Now the expert is a deep Q-network, trained as in section 5.4, the learner a small network, and the states are four real
# numbers. Five learners, each with demonstrations of its own, are computed side by side.

# %%
CART = "CartPole-v1"
settings = dqn.Config(steps=budget.expert_steps, every=4, batch=128, explore=6_000, sync=25, n=3)
expert_network = dqn.expert(CART, seed=0, config=settings, look=1_000)
expert = dqn.greedy(expert_network)
expert_return = dqn.evaluate(expert_network, CART, episodes=50, seed=20_000).mean().item()
print(f"the expert's mean return: {expert_return:.0f} of 500")

# %% [markdown]
# The expert plays whole episodes; of their steps the learner gets a few, drawn at random. To clone is to classify: the
# loss is the cross-entropy of the expert's action, as in SFT, and the library's `clone` runs this loop for five copies.

# %%
POOL = 2_500  # five whole episodes for each learner
shown_by_expert = offline.collect(lambda seen: expert(seen), CART, POOL, copies=SEEDS, seed=100).observation
mixed = torch.stack([torch.randperm(POOL, generator=torch.Generator().manual_seed(seed)) for seed in range(SEEDS)])
pool = shown_by_expert[torch.arange(SEEDS)[:, None], mixed]  # (SEEDS, POOL, 4)


def label(observations):
    """The expert's action in each of (SEEDS, N, 4)."""
    return expert(observations.flatten(0, 1)).unflatten(0, (SEEDS, -1))


def learn(observations, actions):
    """Fresh networks, cloned from all the data there is."""
    policy = Networks([4, 32, 32, 2], SEEDS, seed=0, activation=torch.tanh)
    imitation.clone(policy, observations, actions, budget.fit, lr=5e-3)
    return policy


@torch.no_grad()
def act(policy):
    """The likeliest action of each copy: (SEEDS * m, 4) to (SEEDS * m,)."""
    return lambda observations: policy(observations.unflatten(0, (SEEDS, -1))).argmax(-1).flatten()


def returns_of(policy):
    """Mean return of each copy over whole episodes, (SEEDS,)."""
    return play(act(policy), CART, SEEDS * budget.episodes, seed=30_000).unflatten(0, (SEEDS, -1)).mean(-1)


def own_states(policy, steps, seed):
    """States that each copy visits when it drives, (SEEDS, steps, 4)."""
    return offline.collect(act(policy), CART, steps, copies=SEEDS, seed=seed).observation


def disagreement(policy, observations):
    """How often each copy acts otherwise than the expert would, (SEEDS,)."""
    with torch.no_grad():
        return (policy(observations).argmax(-1) != label(observations)).double().mean(-1)


clone_returns, on_expert, on_own = [], [], []
held_out = pool[:, -1_000:]
for size in run.progress(budget.sizes, "cloning"):
    policy = learn(pool[:, :size], label(pool[:, :size]))
    clone_returns.append(returns_of(policy))
    on_expert.append(disagreement(policy, held_out))
    on_own.append(disagreement(policy, own_states(policy, 1_000, seed=400)))
clone_returns, on_expert, on_own = (
    torch.stack(rows, 1) for rows in (clone_returns, on_expert, on_own)
)  # (SEEDS, sizes)

# %% [markdown]
# Now DAgger. Each round the learner drives, and the expert is asked about ten of the states that it came through.


# %%
def roll_cart(policy, i):
    """Ten states a round: of the expert's at first, then of the learner's own."""
    if policy is None:
        return pool[:, : budget.asks]
    visited = own_states(policy, 10 * budget.asks, seed=1_000 + i)
    return visited[:, torch.randperm(10 * budget.asks, generator=torch.Generator().manual_seed(i))[: budget.asks]]


asking = run.curve("DAgger on CartPole", x="labels", y="return, mean of 5 seeds", lines={"DAgger": "chosen"})
policy, observations, dagger_returns = None, None, []
for i in run.progress(budget.rounds, "DAgger", curve=asking):
    new = roll_cart(policy, i)
    observations = new if observations is None else torch.cat([observations, new], 1)
    policy = learn(observations, label(observations))
    dagger_returns.append(returns_of(policy))
    asking.add("DAgger", (i + 1) * budget.asks, dagger_returns[-1].mean().item())
dagger_returns = torch.stack(dagger_returns, 1)  # (SEEDS, rounds)
dagger_expert = disagreement(policy, held_out)
dagger_own = disagreement(policy, own_states(policy, 1_000, seed=401))

# %%
fig = go.Figure()
band(fig, budget.sizes, clone_returns, "behaviour cloning", "rejected")
band(fig, [(i + 1) * budget.asks for i in range(budget.rounds)], dagger_returns, "DAgger", "chosen")
fig.update_layout(
    title="Return of five learners",
    xaxis_title="expert's labels",
    xaxis_type="log",
    yaxis_title="return",
    yaxis_range=[0, 510],
)
run.figure(fig, "Mean and range of five seeds, by the number of labels that the expert gave.")
run.table(
    [[f"cloning, {size} labels", f"{clone_returns[:, k].mean():.0f}", f"{on_expert[:, k].mean():.1%}", f"{on_own[:, k].mean():.1%}"] for k, size in enumerate(budget.sizes)]
    + [[f"DAgger, {observations.shape[1]} labels", f"{dagger_returns[:, -1].mean():.0f}", f"{dagger_expert.mean():.1%}", f"{dagger_own.mean():.1%}"]],
    ["learner", "return", "errors on the expert's states", "errors on its own"],
    caption="How often the learner acts otherwise than the expert would",
)  # fmt: skip

# %% [markdown]
# With ten labels the pole falls, and the clone errs more often where it comes to stand than where the expert stands. With
# 80 it holds, and so does DAgger's learner. The difference left is *where* they are good: the clone on the expert's
# states, DAgger's learner on its own. CartPole forgives: an error is mended by the next step.
#
# ## What does the expert want?
#
# Inverse reinforcement learning asks for the reward. The world is the 4 by 3 one of Russell and Norvig. The reward
# depends on the cell that is entered: -1 for a free cell, 10 for the goal, -10 for the pit. The expert is nearly
# rational: it follows the **soft optimum**, which maximizes return plus entropy.

# %%
world = GridWorld("textbook", step_reward=-1.0, goal=10.0, pit=-10.0)
grid = world.mdp(gamma=0.9)
kinds = [world.map[i][j] for i, j in world.cells]
truth = torch.tensor([{"G": 10.0, "X": -10.0}.get(kind, -1.0) for kind in kinds], dtype=torch.float64)  # (S,)
entered = grid.transitions * ~grid.terminal[:, None, None]  # feature k of (s, a): the chance to enter cell k, (S, A, S)


def soft_values(rewards, mdp, sweeps=400):
    """V(s) = log sum_a exp Q(s, a), swept until it rests: soft value iteration, (S, A) -> (S,), (S, A)."""
    v = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(sweeps):
        q = rewards + mdp.gamma * mdp.transitions @ v
        v = q.logsumexp(-1).masked_fill(mdp.terminal, 0.0)
    return v, q


v_soft, q_soft = soft_values(grid.rewards, grid)
expert_grid = (q_soft - q_soft.logsumexp(-1, keepdim=True)).exp()
solved = imitation.soft_solve(grid)
soft_gap = (solved.values - v_soft).abs().max().item()
cold = imitation.soft_solve(grid, temperature=1e-3)
hard_gap = (cold.values - value_iteration(grid).values).abs().max().item()
print(
    f"sweeps and the library's solution differ by {soft_gap:.0e}; at temperature 0.001 both are value iteration, to {hard_gap:.3f}"
)
from IPython.display import HTML, display

display(HTML(world.svg(solved.values, expert_grid, "Soft values and the expert's policy")))

# %% [markdown]
# **Feature expectations** say how often each cell is entered, discounted. Under maximum entropy the gradient of the
# demonstrations' likelihood is the expert's feature expectations minus the learner's. Check that by finite differences
# before you climb it.


# %%
def expectations(policy, mdp, features):
    """E sum_t gamma^t f(s_t, a_t), by solving for the discounted visits: (S, A), (S, A, K) -> (K,)."""
    p = (policy[..., None] * mdp.transitions).sum(1) * ~mdp.terminal[:, None]
    visits = torch.linalg.solve(torch.eye(mdp.states, dtype=torch.float64) - mdp.gamma * p.T, mdp.start)
    return ((visits * ~mdp.terminal)[:, None, None] * policy[..., None] * features).sum((0, 1))


mu_expert = expectations(expert_grid, grid, entered)
mu_gap = (mu_expert - imitation.feature_expectations(grid, expert_grid, entered)).abs().max().item()

theta = torch.randn(grid.states, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
_, q = soft_values(entered @ theta, grid)
analytic = mu_expert - expectations(q.softmax(-1), grid, entered)
h = 1e-4
differences = torch.stack([
    (imitation.irl_objective(grid, theta + h * unit, entered, mu_expert) - imitation.irl_objective(grid, theta - h * unit, entered, mu_expert)) / (2 * h)
    for unit in torch.eye(grid.states, dtype=torch.float64)
])  # fmt: skip
gradient_gap = (analytic - differences).abs().max().item()
print(f"gradient: formula and finite differences agree to {gradient_gap:.0e}")

# %%
climb = run.curve(
    "Matching the expert", y="largest difference of expectations", lines={"unmatched": "policy"}, log=True
)
theta = torch.zeros(grid.states, dtype=torch.float64)
for step in run.progress(budget.ascent, "gradient ascent", curve=climb):
    _, q = soft_values(entered @ theta, grid)
    gradient = mu_expert - expectations(q.softmax(-1), grid, entered)
    theta = theta + 0.2 * gradient
    if step % 5 == 0:
        climb.add("unmatched", step, gradient.abs().max().item())
climb.show()
recovered = imitation.maximum_entropy_irl(grid, entered, mu_expert)  # L-BFGS on the same objective
policy_gap = (recovered.policy - expert_grid)[~grid.terminal].abs().max().item()
ascent_gap = (q.softmax(-1) - expert_grid)[~grid.terminal].abs().max().item()
print(
    f"largest unmatched expectation: {gradient.abs().max():.1e} after {budget.ascent} plain steps, {recovered.gap:.0e} by L-BFGS"
)

# %% [markdown]
# The policy is the expert's. Is the reward? Compare, cell by cell:

# %%
difference = recovered.weights - truth
free = (~grid.terminal).double()
nobody_sees = torch.where(grid.terminal, 1 / (1 - grid.gamma), 1.0).double()  # a step: c; an end: c / (1 - gamma)
c = (difference @ nobody_sees / nobody_sees.square().sum()).item()
beyond = (difference - c * nobody_sees).abs().max().item()
run.table(
    [[str(world.cells[s]), {"G": "goal", "X": "pit", "S": "start"}.get(kinds[s], "free"), f"{truth[s]:.0f}", f"{recovered.weights[s]:.3f}", f"{recovered.weights[s] - c * nobody_sees[s]:.4f}"] for s in (0, 3, 4, 6, 7, 8)],
    ["cell", "kind", "true reward", "recovered", "less the part that nobody sees"],
)  # fmt: skip
print(f"the difference is c = {c:.4f} for a step and c / (1 - gamma) = {10 * c:.4f} for an end, to {beyond:.0e}")

# %% [markdown]
# All rewards are off, by one number. Pay $c$ more for each step and $\frac{c}{1-\gamma}$ more for the end, and every
# path is worth $\frac{c}{1-\gamma}$ more, whatever its length: nothing changes that anybody could observe. It is shaping
# with a constant potential. Is it the only such direction? The Jacobian of the expert's log-probabilities knows:

# %%
jacobian = torch.autograd.functional.jacobian(
    lambda w: soft_values(entered @ w, grid)[1].log_softmax(-1)[~grid.terminal], truth
)
singular = torch.linalg.svdvals(jacobian.flatten(0, 1))  # how behaviour answers to each direction of the reward
free_directions = (singular < 1e-9 * singular[0]).sum().item()
print(
    f"{grid.states} weights; singular values {singular[0]:.1f} to {singular[-2]:.2f}, and {singular[-1]:.0e}: {free_directions} direction is invisible"
)
any_reward = imitation.shaped(
    grid, grid.rewards, torch.randn(grid.states, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
)
shaping_gap = (imitation.soft_solve(grid, any_reward).policy - expert_grid)[~grid.terminal].abs().max().item()
as_reward = expert_grid.log() * ~grid.terminal[:, None]  # log pi itself, taken for a reward
log_pi_gap = (imitation.soft_solve(grid, as_reward).policy - expert_grid)[~grid.terminal].abs().max().item()
print(
    f"with a reward for each (s, a): any potential leaves the policy as it is ({shaping_gap:.0e}), and log pi is such a reward ({log_pi_gap:.0e})"
)

# %% [markdown]
# That last line is worth a pause: **every policy is the soft optimum of its own log-probabilities**. For language models
# it is the identity behind DPO. And it warns: a reward with a number for each state and action explains the behaviour
# perfectly and may still mean nothing. Next comes the test.
#
# ## A reward that outlives its world
#
# Four rooms. The north-east one is muddy. The reward is made of six features: which floor is entered, and the goal. The
# learner sees few demonstrations; then a door is walled up.

# %%
house = GridWorld("rooms", slip=0.2, step_reward=0.0)
rooms = house.mdp(gamma=0.97)
FLOORS = ("north-west", "north-east (mud)", "south-west", "south-east", "doorway", "goal")
WORTH = torch.tensor([-2.0, -3.0, -2.0, -2.0, -2.0, 30.0], dtype=torch.float64)
DOORS = ((2, 5), (9, 5), (5, 1), (6, 8))


def floor(row, column):
    if house.map[row][column] == "G":
        return 5
    return 4 if (row, column) in DOORS else 2 * (row > 5 or (row == 5 and column < 5)) + (column > 5)


kind_of = F.one_hot(torch.tensor([floor(*cell) for cell in house.cells]), 6).double()  # (S, 6)


def rewards_of(mdp, weights):
    """Reward of the floor that is entered: (..., 6) -> (..., S, A)."""
    return torch.einsum("sat,tk,...k->...sa", mdp.transitions * ~mdp.terminal[:, None, None], kind_of, weights)


def walled(mdp, cell):
    """The same world with one cell closed: who would enter it stays."""
    state, p = house.number[cell], mdp.transitions.clone()
    stays = p[:, :, state].clone()
    p[:, :, state] = 0.0
    p[torch.arange(mdp.states), :, torch.arange(mdp.states)] += stays
    p[state] = mdp.transitions[state]
    return FiniteMDP(p, torch.zeros_like(mdp.rewards), mdp.gamma, mdp.start, mdp.terminal)


rooms = rooms.with_rewards(rewards_of(rooms, WORTH))
expert_rooms = imitation.soft_solve(rooms).policy
closed_door = house.number[9, 5]  # the expert's usual way leads through the south-western door
after = walled(rooms, (9, 5))
after = after.with_rewards(rewards_of(after, WORTH))


def worth(policy, mdp):
    """Expected return from the start, exactly."""
    return values(mdp, policy.nan_to_num(0.25)) @ mdp.start


floors = torch.einsum("sat,tk->sak", rooms.transitions * ~rooms.terminal[:, None, None], kind_of)  # (S, A, 6)
print(
    f"the expert's return {worth(expert_rooms, rooms):.2f}; through the south-western door go {imitation.state_action_occupancy(rooms, expert_rooms)[closed_door].sum():.2f} discounted visits"
)


# %% [markdown]
# Four ways to use the demonstrations: clone the table of actions; recover the six weights and follow their soft optimum,
# as the expert follows its own; recover them and be **greedy**; and for the second world, plan anew with the recovered
# weights.


# %%
def shown_in_rooms(episodes, steps=150):
    """States and actions of `episodes` demonstrations for each seed, (SEEDS, episodes, steps)."""
    taken = sample(rooms, expert_rooms, SEEDS * episodes, steps, seed=1)
    return taken.states[:, :-1].unflatten(0, (SEEDS, -1)), taken.actions.unflatten(0, (SEEDS, -1))


def greedily(mdp, weights):
    """The optimal policy for a reward, (6,) -> (S, A)."""
    return value_iteration(mdp.with_rewards(rewards_of(mdp, weights))).policy


NAMES = ("cloning", "IRL, soft", "IRL, greedy")
before_wall, behind_wall = {name: [] for name in NAMES}, {name: [] for name in NAMES}
for episodes in run.progress(budget.demonstrations, "inverse RL"):
    states, actions = shown_in_rooms(episodes)
    found = imitation.maximum_entropy_irl(
        rooms,
        floors,
        imitation.demonstrated_features(rooms, states, actions, floors),
        penalty=0.01,
        steps=budget.climbs,
    )
    table = imitation.clone_table(states.flatten(1), actions.flatten(1), (rooms.states, rooms.actions))
    again = imitation.soft_solve(after, rewards_of(after, found.weights)).policy
    policies = {
        "cloning": (table, table),
        "IRL, soft": (found.policy, again),
        "IRL, greedy": ([greedily(rooms, w) for w in found.weights], [greedily(after, w) for w in found.weights]),
    }
    for name, (here, there) in policies.items():
        before_wall[name].append(torch.stack([worth(policy, rooms) for policy in here]))
        behind_wall[name].append(torch.stack([worth(policy, after) for policy in there]))
before_wall, behind_wall = (
    {name: torch.stack(rows, 1) for name, rows in kept.items()} for kept in (before_wall, behind_wall)
)

# %%
expert_here, best_here = worth(expert_rooms, rooms).item(), (value_iteration(rooms).values @ rooms.start).item()
expert_there = worth(imitation.soft_solve(after).policy, after).item()
best_there = (value_iteration(after).values @ after.start).item()
log_pi = expert_rooms.log() * ~rooms.terminal[:, None]  # the (s, a) reward that explains the expert perfectly
log_pi_there = worth(imitation.soft_solve(after, log_pi).policy, after).item()
old_there = worth(expert_rooms, after).item()
same_policy = (imitation.soft_solve(after, log_pi).policy - expert_rooms)[~rooms.terminal].abs().max().item()
fig = go.Figure()
for name, role in zip(NAMES, ("rejected", "policy", "chosen")):
    band(fig, budget.demonstrations, before_wall[name], name, role)
    band(fig, budget.demonstrations, behind_wall[name], f"{name}, door walled up", role, dash="dash")
fig.update_layout(
    title="Return in four rooms", xaxis_title="demonstrations", yaxis_title="expected return", xaxis_type="log"
)
run.figure(fig, "Cloning falls apart behind the wall; the recovered reward plans around it.")
run.table(
    [[name, *(f"{before_wall[name][:, k].mean():.1f} / {behind_wall[name][:, k].mean():.1f}" for k in range(len(budget.demonstrations)))] for name in NAMES]
    + [["the expert, who knows", *[f"{expert_here:.1f} / {expert_there:.1f}"] * len(budget.demonstrations)], ["optimum", *[f"{best_here:.1f} / {best_there:.1f}"] * len(budget.demonstrations)]],
    ["learner", *(f"{n} shown" for n in budget.demonstrations)],
    caption="Expected return, as shown / behind the wall; mean of 5 seeds",
)  # fmt: skip
print(
    f"behind the wall: the expert's old policy {old_there:.1f}, the soft optimum of log pi {log_pi_there:.1f}: the same policy, to {same_policy:.0e}"
)

# %% [markdown]
# Three lessons. A reward of six numbers, shared by all cells, needs few demonstrations; a table of actions needs each
# cell. With the reward one can do **better than the expert**, who errs. And the reward $\log\pi$, which explained the
# expert perfectly, carries nothing over: its soft values are 0 in *every* world, so its soft optimum is the old policy
# everywhere. That is why AIRL learns a reward of the state alone.
#
# **A failure.** An expert who never errs has no finite reward. Each step of ascent makes it surer:

# %%
perfect = value_iteration(grid).policy
mu_perfect = expectations(perfect, grid, entered)
theta, norms, gaps = torch.zeros(grid.states, dtype=torch.float64), [], []
marks = [max(1, budget.ascent // 30) * 2**k for k in range(5)]
for step in range(1, marks[-1] + 1):
    q = imitation.soft_solve(grid, entered @ theta).q
    gradient = mu_perfect - expectations(q.softmax(-1), grid, entered)
    theta = theta + 0.5 * gradient
    if step in marks:
        norms.append(theta.norm().item())
        gaps.append(gradient.abs().max().item())
run.table(
    [[f"{step:,}", f"{norm:.1f}", f"{gap:.3f}"] for step, norm, gap in zip(marks, norms, gaps)],
    ["steps", "length of the weights", "largest unmatched expectation"],
    caption="A deterministic expert: the weights grow and grow",
)

# %% [markdown]
# ## Until nobody can tell
#
# GAIL skips the reward. A **discriminator** learns to tell the expert's states and actions from the learner's; the
# learner is rewarded for looking like the expert. With the best discriminator the loss is $\log 4-2\,\mathrm{JS}$ of the
# two occupancy measures. In a finite world that can be checked:

# %%
MAZE = GridWorld("rooms", slip=0.2, step_reward=-1.0, goal=10.0)
maze = MAZE.mdp(gamma=0.97)
N_S, N_A = maze.states, maze.actions
careful = imitation.soft_solve(maze, temperature=0.2).policy  # an expert that seldom errs
rho_expert = imitation.state_action_occupancy(maze, careful)
rho_uniform = imitation.state_action_occupancy(maze, maze.uniform())
p, q = (rho / rho.sum() for rho in (rho_expert, rho_uniform))
logits = imitation.best_logits(p, q).flatten()
at_best = imitation.discriminator_loss(logits, logits, p.flatten(), q.flatten())
js_gap = (at_best - (math.log(4) - 2 * imitation.jensen_shannon(p, q))).abs().item()
print(
    f"loss of the best discriminator {at_best:.4f}, log 4 - 2 JS to {js_gap:.0e}; total variation {imitation.total_variation(p, q):.2f}"
)

# %% [markdown]
# The learner is a table of logits, trained by policy gradient on sampled walks; the discriminator a small network over
# all pairs of state and action. The end of a walk counts as a state in which one stays for ever: without that, the sign
# of the reward alone makes a learner linger or hurry. We leave it out below, to see that.

# %%
STEPS, WALKS = 80, 32  # steps of a walk; the learner's walks an iteration
fade = maze.gamma ** torch.arange(STEPS, dtype=torch.float64)
copy_index = torch.arange(SEEDS)[:, None, None]
is_action = (~maze.terminal).float().repeat_interleave(N_A)[:, None]  # at the end there is no action to choose
every_pair = torch.cat(
    [torch.eye(N_S).repeat_interleave(N_A, 0), torch.eye(N_A).repeat(N_S, 1) * is_action], -1
).expand(SEEDS, -1, -1)


def walk(policies, walks, generator):
    """States and actions of walks under each of (SEEDS, S, A), (SEEDS, walks, STEPS) each; an ended walk stays."""
    cumulative, copy = policies.cumsum(-1), torch.arange(SEEDS).repeat_interleave(walks)
    state, states, actions = maze.begin(SEEDS * walks, generator), [], []
    for _ in range(STEPS):
        u = torch.rand(SEEDS * walks, 1, generator=generator, dtype=torch.float64)
        action = (u > cumulative[copy, state]).sum(-1).clamp_max(N_A - 1)
        action = torch.where(maze.terminal[state], 0, action)
        states.append(state)
        actions.append(action)
        state, _, _ = maze.step(state, action, generator)
    return torch.stack(states, 1).unflatten(0, (SEEDS, -1)), torch.stack(actions, 1).unflatten(0, (SEEDS, -1))


def visited(states, actions, endless):
    """Measured occupancy, scaled to sum to 1, (SEEDS, S * A). endless: the end counts for all the time that follows."""
    weights = fade.expand(states.shape).clone()
    if endless:
        weights[..., -1] /= 1 - maze.gamma
    else:
        weights = weights * ~maze.terminal[states]
    measure = torch.zeros(SEEDS, N_S * N_A, dtype=torch.float64)
    measure.scatter_add_(1, (states * N_A + actions).flatten(1), weights.flatten(1))
    return (measure / measure.sum(-1, keepdim=True)).float()


def advantages(rewards, states, endless):
    """Discounted returns less their mean in the same state, scaled; 0 after the end. (SEEDS, walks, STEPS)."""
    over = maze.terminal[states]
    rewards = rewards if endless else rewards * ~over
    following = rewards[..., -1] / (1 - maze.gamma) * endless
    returns = torch.zeros_like(rewards)
    for t in reversed(range(STEPS)):
        following = rewards[..., t] + maze.gamma * following
        returns[..., t] = following
    place = (copy_index * N_S + states).flatten()
    total, count = torch.zeros(2, SEEDS * N_S, dtype=torch.float64)
    total.index_add_(0, place, returns.flatten())
    count.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
    centred = (returns - (total / count.clamp_min(1))[place].view_as(returns)) * ~over
    return centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-8)


# %%
def gail(shown, kind="airl", endless=True, name=None):
    """Policies (SEEDS, S, A) trained to look like `shown` (states, actions), and how it went, an iteration a row."""
    generator = torch.Generator().manual_seed(6)
    judge = Networks([N_S + N_A, 32, 1], SEEDS, seed=0, activation=torch.tanh)
    logits = torch.zeros(SEEDS, N_S, N_A, dtype=torch.float64, requires_grad=True)
    judges, learners = (
        torch.optim.Adam(judge.parameters(), lr=1e-2),
        torch.optim.Adam([logits], lr=0.1, betas=(0.5, 0.999)),
    )
    real, went = visited(*shown, endless), []
    for _ in run.progress(budget.game, name or kind):
        states, actions = walk(logits.detach().softmax(-1), WALKS, generator)
        fake = visited(states, actions, endless)
        for _ in range(5):  # the judge learns
            opinion = judge(every_pair)[..., 0]
            loss = imitation.discriminator_loss(opinion, opinion, real, fake)
            judges.zero_grad()
            loss.sum().backward()
            judges.step()
        with torch.no_grad():
            reward = imitation.imitation_reward(judge(every_pair)[..., 0], kind).double().unflatten(-1, (N_S, N_A))
            gain = advantages(reward[copy_index, states, actions], states, endless) * fade
        taken = logits.log_softmax(-1)[copy_index, states, actions]
        learners.zero_grad()
        (-(gain * taken).sum(-1).mean(-1).sum()).backward()
        learners.step()
        rho = imitation.state_action_occupancy(maze, logits.detach().softmax(-1))
        went.append(
            torch.stack(
                [imitation.total_variation(rho, rho_expert), (rho * maze.rewards).sum((-1, -2)), loss.detach().double()]
            )
        )
    return logits.detach().softmax(-1), torch.stack(went, 1)  # (3, iterations, SEEDS): distance, return, judge's loss


def occupied(states, actions):
    """Measured occupancy of walks as a table, (SEEDS, S, A)."""
    return visited(states, actions, endless=False).double().unflatten(-1, (N_S, N_A))


played, cloned_maze, shown_to = [], [], []
for shown in budget.shown:
    shown_to.append(walk(careful.expand(SEEDS, -1, -1), shown, torch.Generator().manual_seed(5)))
    states, actions = shown_to[-1]
    cloned_maze.append(imitation.clone_table(states.flatten(1), actions.flatten(1), (N_S, N_A)))
    played.append(gail(shown_to[-1], name=f"GAIL, {shown} shown"))


# %%
def judged(policies, measured):
    """Return, distance to the expert's exact occupancy and to what was shown, each (SEEDS,)."""
    rho = imitation.state_action_occupancy(maze, policies)
    return (
        (rho * maze.rewards).sum((-1, -2)),
        imitation.total_variation(rho, rho_expert),
        imitation.total_variation(rho, measured),
    )


expert_maze = (rho_expert * maze.rewards).sum().item()
of_clones = [judged(table, occupied(*data)) for table, data in zip(cloned_maze, shown_to)]
of_players = [judged(policies, occupied(*data)) for (policies, _), data in zip(played, shown_to)]
of_data = [imitation.total_variation(occupied(*data), rho_expert) for data in shown_to]
clone_maze_returns, player_returns = (torch.stack([row[0] for row in rows], 1) for rows in (of_clones, of_players))
fig = go.Figure()
band(fig, budget.shown, clone_maze_returns, "behaviour cloning", "rejected")
band(fig, budget.shown, player_returns, "GAIL", "policy")
fig.add_hline(y=expert_maze, line_dash="dot", line_color=palette.MIDDLE["reference"], annotation_text="expert")
fig.update_layout(
    title="Return in four rooms, five seeds",
    xaxis_title="demonstrations",
    yaxis_title="expected return",
    xaxis_type="log",
)
run.figure(fig, "With few demonstrations GAIL is near the expert's return and cloning below it.")
run.table(
    [[f"{n}", *(f"{row[0].mean():.2f} / {row[1].mean():.2f} / {row[2].mean():.2f}" for row in (clone, player)), f"{data.mean():.2f}"] for n, clone, player, data in zip(budget.shown, of_clones, of_players, of_data)],
    ["demonstrations", "cloning: return / to the expert / to the data", "GAIL: the same", "data to the expert"],
    caption=f"Return, and total variation of occupancies; the expert's return is {expert_maze:.2f}",
)  # fmt: skip
AT = budget.shown.index(3)
seen_cells = (occupied(*shown_to[AT]).sum(-1) > 0).double().mean().item()  # shown by three demonstrations
game_loss = played[AT][1][2]  # (iterations, SEEDS)
print(
    f"the judge's loss: {game_loss[0].mean():.3f} at first, {game_loss[-10:].mean():.3f} at the end; log 4 = {math.log(4):.3f} if it could tell nothing"
)

# %% [markdown]
# Three demonstrations show a third of the cells. The clone does as shown there and walks at random elsewhere; GAIL's
# learner may try things out, and is paid for getting back to where the expert was. Look at the distances too: GAIL
# matches *what it was shown*, chance included, and is about as far from the expert as the demonstrations are.
#
# **A failure.** Now forget that the end is a state, as the usual code does: after the end there is no reward. Then
# $-\log(1-D)$, always positive, pays for every step, and $\log D$, always negative, charges for it.

# %%
expert_length = rho_expert.sum().item()
biased = {"airl reward, end counted": played[AT][0]}
for label_, kind in (("GAIL reward, -log(1 - D)", "gail"), ("reward log D", "log D"), ("airl reward", "airl")):
    biased[f"{label_}, end forgotten"], _ = gail(shown_to[AT], kind, endless=False, name=f"{kind}, end forgotten")
lengths = {name: imitation.state_action_occupancy(maze, policies).sum((-1, -2)) for name, policies in biased.items()}
biased_returns = {name: judged(policies, rho_expert.expand(SEEDS, -1, -1))[0] for name, policies in biased.items()}
run.table(
    [[name, f"{lengths[name].mean():.1f} ({lengths[name].min():.1f} to {lengths[name].max():.1f})", f"{biased_returns[name].mean():.1f}"] for name in biased]
    + [["the expert", f"{expert_length:.1f}", f"{expert_maze:.1f}"]],
    ["reward", "discounted length of an episode", "return"],
    caption="The sign of the reward, where an episode can end: mean and range of five seeds",
)  # fmt: skip

# %% [markdown]
# On CartPole the episode lasts as long as the pole stands, and every step is worth 1. There the bias is a gift. Play
# GAIL with an actor-critic as the learner; then play it with a judge that never learns and says ½ to everything:

# %%
SCALE = torch.tensor([2.4, 2.0, 0.21, 2.0])
TOLD = 100  # demonstrated steps, drawn from whole episodes
told = torch.cat([pool[:, :TOLD] / SCALE, F.one_hot(label(pool[:, :TOLD]), 2)], -1)


def gail_cart(kind, learns):
    """Five actor-critics, paid by five judges: how they fare on the true task, (records, SEEDS)."""
    judge = Networks([6, 32, 1], SEEDS, seed=7, activation=torch.tanh)
    judges = torch.optim.Adam(judge.parameters(), lr=1e-3)
    if not learns:
        for parameter in judge.parameters():
            parameter.data.zero_()  # D = 1/2, whatever it sees

    def loss_of(agent, rollout, config):
        seen = rollout.observations[:, :, :-1] / SCALE
        rows = torch.cat([seen, F.one_hot(rollout.actions, 2)], -1).flatten(1, 2)
        if learns:
            counted = rollout.real.flatten(1, 2).float()
            loss = imitation.discriminator_loss(judge(told)[..., 0], judge(rows)[..., 0], None, counted)
            judges.zero_grad()
            loss.sum().backward()
            judges.step()
        with torch.no_grad():
            reward = imitation.imitation_reward(judge(rows)[..., 0], kind).view_as(rollout.rewards)
        return policy_gradient.losses(agent, rollout._replace(rewards=reward), config)

    config = policy_gradient.Config()
    records = max(1, budget.adversary // (10 * config.environments * config.steps))
    bar = iter(run.progress(records, f"CartPole, {kind}, {'judge learns' if learns else 'judge says 1/2'}"))
    agent = policy_gradient.train(
        CART, SEEDS, 0, budget.adversary, config, watch=lambda _: next(bar, None) and False, loss_of=loss_of
    )
    bar.close()
    return torch.tensor(agent.steps), torch.tensor(agent.returns)


CASES = (
    ("-log(1 - D)", "gail", True),
    ("-log(1 - D), judge says 1/2", "gail", False),
    ("log D", "log D", True),
    ("log D - log(1 - D)", "airl", True),
)
carts = {name: gail_cart(kind, learns) for name, kind, learns in CASES}
fig = go.Figure()
for (name, (at, returns)), (role, dash) in zip(
    carts.items(), (("policy", "solid"), ("reference", "dash"), ("rejected", "solid"), ("chosen", "solid"))
):
    band(fig, at, returns.T, name, role, dash=dash)
fig.update_layout(
    title="GAIL on CartPole: the return that nobody told",
    xaxis_title="environment steps of each seed",
    yaxis_title="return",
)
run.figure(
    fig,
    "With the positive reward the pole stands, with and without a judge that knows anything; with the others it falls.",
)

# %% [markdown]
# The judge of no opinion pays the same for every step, and the pole stands: **staying alive pays**. A high return on
# CartPole says little about imitation. The same game with $\log D$, whose reward is negative, teaches to fall; and the
# logit, negative as long as the judge sees through the learner, does nearly the same. (Here the end is forgotten, as in
# usual code.)
#
# ## A language model cloned, and exposure bias
#
# Supervised fine-tuning is behaviour cloning: a state is a prefix, an action a token, the expert's states are the texts
# of the data. Here `tiny` is the expert; it can be asked for its next token after *any* prefix. The learner is a small
# network that sees the last five tokens, once for each of five seeds. Both are given whole distributions for labels,
# so that nothing differs but the states.

# %%
model, tokenizer = models.load("tiny", device="cpu")
tiny = Transformer.view(model)
END = tokenizer.convert_tokens_to_ids(scenes.END)
beginnings = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in scenes.prompts()]
endings = [[*tokenizer.encode(ending.text, add_special_tokens=False), END] for ending in scenes.ENDINGS]
vocabulary = torch.tensor(sorted({token for row in [*beginnings, *endings] for token in row}))
number = torch.full((tiny.config.vocab_size,), -1)
number[vocabulary] = torch.arange(len(vocabulary))  # the scenes need few of tiny's tokens
FIVE = torch.tensor([row for row in beginnings if len(row) == 5])  # prompts of five tokens, one shape
LENGTH, WINDOW, WIDTH = 13, 5, 24
vectors = tiny.embed_tokens.weight.detach() @ torch.randn(
    tiny.config.hidden_size, WIDTH, generator=torch.Generator().manual_seed(0)
)
vectors = vectors / vectors.std()


@torch.inference_mode()
def advice(ids):
    """The expert's log-probabilities of the next token after each prefix: (..., T) -> (..., LENGTH, vocabulary)."""
    hidden = tiny.hidden(ids.flatten(0, -2))[:, FIVE.shape[1] - 1 : -1]
    return tiny.lm_head(hidden)[..., vocabulary].log_softmax(-1).unflatten(0, ids.shape[:-1]).clone()


def window(ids):
    """What the learner sees: the last WINDOW tokens, as vectors: (..., T) -> (..., T, WINDOW * WIDTH)."""
    padded = F.pad(vectors[ids], (0, 0, WINDOW - 1, 0))
    return torch.cat([padded[..., i : i + ids.shape[-1], :] for i in range(WINDOW)], -1)


@torch.inference_mode()
def write(policy, texts, seed):
    """Texts of the expert (None) or of each copy, (SEEDS, texts, 5 + LENGTH); after the end token it repeats."""
    generator = torch.Generator().manual_seed(seed)
    ids = FIVE[torch.randint(len(FIVE), (SEEDS * texts,), generator=generator)]
    over, cache, new = torch.zeros(len(ids), dtype=torch.bool), tiny.cache(len(ids), ids.shape[1] + LENGTH), ids
    for _ in range(LENGTH):
        if policy is None:
            logits = tiny.lm_head(tiny.hidden(new, None, cache)[:, -1])[:, vocabulary]
        else:
            logits = policy(window(ids[:, -WINDOW:])[:, -1].unflatten(0, (SEEDS, -1))).flatten(0, 1)
        new = vocabulary[torch.multinomial(logits.softmax(-1), 1, generator=generator)]
        new = torch.where(over[:, None], END, new)
        over |= new[:, 0] == END
        ids = torch.cat([ids, new], 1)
    return ids.unflatten(0, (SEEDS, -1)).clone()


def counted(ids):
    """1 for each written token up to the end token, 0 after it: (..., LENGTH)."""
    ended = (ids[..., -LENGTH:] == END).long()
    return (ended.cumsum(-1) - ended == 0).float()


# %%
def learn_to_write(ids, seed=1):
    """Fresh copies trained on the expert's advice at these prefixes; the cross-entropy with whole distributions."""
    policy = Networks([WINDOW * WIDTH, 64, len(vocabulary)], SEEDS, seed=0, activation=torch.tanh)
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    x, y, weight = (
        window(ids)[:, :, -LENGTH - 1 : -1].flatten(1, 2),
        advice(ids).exp().flatten(1, 2),
        counted(ids).flatten(1, 2),
    )
    generator, copy = torch.Generator().manual_seed(seed), torch.arange(SEEDS)[:, None]
    for step in range(budget.clone_steps):
        rows = torch.randint(x.shape[1], (SEEDS, 256), generator=generator)
        loss = -(y[copy, rows] * policy(x[copy, rows]).log_softmax(-1)).sum(-1) * weight[copy, rows]
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / budget.clone_steps)
        optimizer.zero_grad()
        (loss.sum(-1) / weight[copy, rows].sum(-1)).sum().backward()
        optimizer.step()
    return policy


@torch.inference_mode()
def divergence(policy, ids):
    """KL(expert || learner) in nats at each position, (SEEDS, LENGTH), and for each token, (SEEDS,)."""
    theirs, weight = advice(ids), counted(ids)
    ours = policy(window(ids)[:, :, -LENGTH - 1 : -1].flatten(1, 2)).log_softmax(-1).view_as(theirs)
    kl = (theirs.exp() * (theirs - ours)).sum(-1) * weight
    return kl.sum(1) / weight.sum(1).clamp_min(1), kl.sum((1, 2)) / weight.sum((1, 2))


def sound(ids):
    """Share of texts that end a scene as the language allows, (SEEDS,)."""
    shares = []
    for texts in ids[:, :, -LENGTH:].tolist():
        cut = [(row[: row.index(END)], True) if END in row else (row, False) for row in texts]
        shares.append(
            sum(scenes.gold_reward(tokenizer.decode(row), ended) != scenes.BROKEN for row, ended in cut) / len(cut)
        )
    return torch.tensor(shares)


TEXTS, PARTS = budget.texts, 4
test_texts = write(None, 100, seed=99)
cloned_writer = learn_to_write(write(None, TEXTS, seed=0))
prefixes, writer = None, None
for part in run.progress(PARTS, "DAgger with a language model"):
    new = write(writer, TEXTS // PARTS, seed=part)
    prefixes = new if prefixes is None else torch.cat([prefixes, new], 1)
    writer = learn_to_write(prefixes)

# %%
told_apart = {}
for name, learner in (("cloned", cloned_writer), ("DAgger", writer)):
    own = write(learner, 100, seed=7)
    told_apart[name] = {
        "expert": divergence(learner, test_texts),
        "own": divergence(learner, own),
        "sound": sound(own),
        "text": own,
    }
positions = torch.arange(1, LENGTH + 1)
fig = go.Figure()
for name, role in (("cloned", "rejected"), ("DAgger", "chosen")):
    band(fig, positions, told_apart[name]["own"][0], f"{name}, own prefixes", role)
    band(fig, positions, told_apart[name]["expert"][0], f"{name}, expert's prefixes", role, dash="dash")
fig.update_layout(
    title="How far the learner is from the expert",
    xaxis_title="token of the answer",
    yaxis_title="KL(expert || learner), nats",
)
run.figure(fig, "The clone is close on the expert's prefixes, and farther on its own, above all late in the text.")
LATE = slice(6, LENGTH)
run.table(
    [[name, f"{it['expert'][1].mean():.4f}", f"{it['own'][1].mean():.4f}", f"{(it['own'][1] / it['expert'][1]).mean():.2f}", f"{it['sound'].mean():.0%}", f"{it['sound'].min():.0%} to {it['sound'].max():.0%}"] for name, it in told_apart.items()],
    ["learner", "KL on the expert's prefixes", "KL on its own", "ratio", "sound texts", "range"],
    caption=f"{TEXTS} texts of labels each; nats for each token, mean of 5 seeds. The expert itself: {sound(test_texts).mean():.0%} sound",
)  # fmt: skip
whole = {ending.text for ending in scenes.ENDINGS}
for name, it in told_apart.items():
    written = [(tokenizer.decode(row[:5]), tokenizer.decode(row[5:]).split(scenes.END)[0]) for row in it["text"][0]]
    print(f"{name}, not sound:", "; ".join([prompt + said for prompt, said in written if said not in whole][:3]))

# %% [markdown]
# There is exposure bias, and it can be measured: on its own prefixes the clone is farther from the expert than on the
# expert's. DAgger narrows the gap, **and the texts are no better for it**. A likely reason: the labels that it spends on
# broken texts are missing elsewhere, and what they teach is of little use, for in this language no word takes a wrong
# word back. On the road, "back" led back. Ask of your own task which of the two it is.
#
# ## As one would at work
#
# A policy of stable-baselines3, cloned from 200 labels; `evaluate_actions` gives the log-probabilities.

# %%
import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy

warnings.filterwarnings("ignore", message="Evaluation environment is not wrapped")
torch.manual_seed(0)
env = gym.make(CART)
peer = ActorCriticPolicy(env.observation_space, env.action_space, lambda _: 5e-3, net_arch=[32, 32])
observations, actions = pool[0, :200], label(pool[:, :200])[0]
for step in range(budget.fit):
    rows = torch.randint(200, (64,))
    _, logprobs, _ = peer.evaluate_actions(observations[rows], actions[rows])
    peer.optimizer.zero_grad()
    (-logprobs.mean()).backward()
    peer.optimizer.step()
env.reset(seed=0)
peer_return = evaluate_policy(peer, env, n_eval_episodes=budget.episodes)[0]
with torch.no_grad():
    peer_logprobs = peer.evaluate_actions(observations, actions)[1]
    peer_logits = peer.get_distribution(observations).distribution.logits
peer_gap = (F.cross_entropy(peer_logits, actions, reduction="none") + peer_logprobs).abs().max().item()
print(f"return {peer_return:.0f}; its loss is the cross-entropy, to {peer_gap:.0e}")

# %% [markdown]
# ## What this run measured

# %%
run.result("seeds", SEEDS)
run.result("signs", SIGNS)
run.result("road_labels", LABELS, format=",")
run.result("road_runs", budget.runs)
run.result("epsilon", epsilon.mean(), format=".2%")
for t in (10, 100, 1_000):
    run.result(f"clone_cost_{t}", cost_bc[:, t - 1].mean(), format=".2f" if t < 1_000 else ".0f")
    run.result(f"bound_{t}", (epsilon * t * t).mean(), format=".1f" if t < 1_000 else ",.0f")
    run.result(f"dagger_cost_{t}", cost_dagger[:, t - 1].mean(), format=".2f" if t < 1_000 else ".1f")
run.result("clone_slope", slope(cost_bc, 5, 50).mean(), format=".2f")
run.result("dagger_slope", slope(cost_dagger, 5, 50).mean(), format=".2f")
run.result("clone_slope_late", slope(cost_bc, 500, 1000).mean(), format=".2f")
run.result("forgiving_slope", slope(cost_forgiving, 100, 1000).mean(), format=".2f")
run.result("forgiving_cost_100", cost_forgiving[:, 99].mean(), format=".1f")
run.result("closed_gap", closed_gap, format=".0e")
run.result("expert_return", expert_return, format=".0f")
for k, size in enumerate(budget.sizes):
    run.result(f"cart_clone_{size}", clone_returns[:, k].mean(), format=".0f")
    run.result(f"cart_clone_{size}_low", clone_returns[:, k].min(), format=".0f")
    run.result(f"cart_expert_errors_{size}", on_expert[:, k].mean(), format=".1%")
    run.result(f"cart_own_errors_{size}", on_own[:, k].mean(), format=".1%")
run.result("cart_dagger", dagger_returns[:, -1].mean(), format=".0f")
run.result("cart_dagger_20", dagger_returns[:, 1].mean(), format=".0f")
run.result("cart_dagger_low", dagger_returns[:, -1].min(), format=".0f")
run.result("cart_dagger_labels", budget.asks * budget.rounds)
run.result("cart_asks", budget.asks)
run.result("cart_dagger_expert_errors", dagger_expert.mean(), format=".1%")
run.result("cart_dagger_own_errors", dagger_own.mean(), format=".1%")
run.result("peer_return", peer_return, format=".0f")

# %%
run.result("gradient_gap", gradient_gap, format=".0e")
run.result("irl_gap", recovered.gap, format=".0e")
run.result("irl_policy_gap", policy_gap, format=".0e")
run.result("irl_c", c, format=".4f")
run.result("irl_c_end", 10 * c, format=".3f")
run.result("irl_step", recovered.weights[0], format=".3f")
run.result("irl_goal", recovered.weights[3], format=".3f")
run.result("irl_pit", recovered.weights[6], format=".3f")
run.result("irl_beyond", beyond, format=".0e")
run.result("irl_free_directions", free_directions)
run.result("irl_states", grid.states)
run.result("irl_value_start", solved.values @ grid.start, format=".2f")
for place, kept in (("here", before_wall), ("there", behind_wall)):
    for name, tag in zip(NAMES, ("clone", "soft", "greedy")):
        for k, n in enumerate(budget.demonstrations):
            run.result(f"rooms_{tag}_{place}_{n}", kept[name][:, k].mean(), format=".1f")
run.result("rooms_expert_here", expert_here, format=".1f")
run.result("rooms_expert_there", expert_there, format=".1f")
run.result("rooms_best_here", best_here, format=".1f")
run.result("rooms_best_there", best_there, format=".1f")
run.result("rooms_log_pi_there", log_pi_there, format=".1f")
run.result("rooms_cells", rooms.states)
run.result("sure_norm_first", norms[0], format=".0f")
run.result("sure_norm_last", norms[-1], format=".0f")
run.result("sure_steps_last", marks[-1], format=",")
run.result("js_gap", js_gap, format=".0e")
run.result("maze_expert", expert_maze, format=".2f")
run.result("maze_length", expert_length, format=".1f")
run.result("maze_seen", seen_cells, format=".0%")
for k, n in enumerate(budget.shown):
    run.result(f"maze_clone_{n}", clone_maze_returns[:, k].mean(), format=".1f")
    run.result(f"maze_gail_{n}", player_returns[:, k].mean(), format=".1f")
run.result("maze_clone_tv", of_clones[AT][1].mean(), format=".2f")
run.result("maze_gail_tv", of_players[AT][1].mean(), format=".2f")
run.result("maze_clone_tv_data", of_clones[AT][2].mean(), format=".2f")
run.result("maze_gail_tv_data", of_players[AT][2].mean(), format=".2f")
run.result("maze_data_tv", of_data[AT].mean(), format=".2f")
run.result("judge_loss_last", game_loss[-10:].mean(), format=".2f")
for tag, name in (
    ("kept", "airl reward, end counted"),
    ("gail", "GAIL reward, -log(1 - D), end forgotten"),
    ("log_d", "reward log D, end forgotten"),
    ("airl", "airl reward, end forgotten"),
):
    run.result(f"maze_length_{tag}", lengths[name].mean(), format=".1f")
    run.result(f"maze_return_{tag}", biased_returns[name].mean(), format=".1f")
last_cart = {name: returns[-1] for name, (_, returns) in carts.items()}
for tag, (name, _, _) in zip(("gail", "fixed", "log_d", "airl"), CASES):
    run.result(f"cart_{tag}", last_cart[name].mean(), format=".0f")
    run.result(f"cart_{tag}_low", last_cart[name].min(), format=".0f")
run.result("cart_told", TOLD)
run.result("lm_texts", TEXTS)
for tag, name in (("clone", "cloned"), ("dagger", "DAgger")):
    it = told_apart[name]
    run.result(f"lm_{tag}_expert", it["expert"][1].mean(), format=".3f")
    run.result(f"lm_{tag}_own", it["own"][1].mean(), format=".3f")
    run.result(f"lm_{tag}_ratio", (it["own"][1] / it["expert"][1]).mean(), format=".1f")
    run.result(f"lm_{tag}_sound", it["sound"].mean(), format=".0%")
run.result("lm_expert_sound", sound(test_texts).mean(), format=".0%")
run.result("lm_vocabulary", len(vocabulary))

# %%
run.claim("counting in the open and clone_table agree", table_gap < 1e-12)
run.claim("DAgger in the open and the library's agree", dagger_gap < 1e-12)
run.claim("the cost of cloning is its closed form to 1e-8", closed_gap < 1e-8)
run.claim(
    "no run's cost exceeds the bound epsilon T^2 at any horizon",
    (cost_bc <= epsilon[:, None] * horizons**2 + 1e-9).all(),
)
run.claim(
    "while epsilon T is small, the cost of cloning grows with a slope of 2 within 0.1",
    abs(slope(cost_bc, 5, 50).mean().item() - 2) < 0.1,
)
run.claim("DAgger's grows with a slope of 1 within 0.15", abs(slope(cost_dagger, 5, 50).mean().item() - 1) < 0.15)
run.claim("at T = 100 DAgger pays less than a tenth in every run", (cost_dagger[:, 99] < cost_bc[:, 99] / 10).all())
run.claim(
    "where one comes back by chance, cloning's cost is linear",
    abs(slope(cost_forgiving, 100, 1000).mean().item() - 1) < 0.05,
)
few, many = budget.sizes.index(10), budget.sizes.index(80)
run.claim(
    "with 10 labels and with 80 the clones err more often on their own states than on the expert's",
    on_own[:, few].mean() > on_expert[:, few].mean() and on_own[:, many].mean() > on_expert[:, many].mean(),
)
run.claim("DAgger errs less on its own states than on the expert's", dagger_own.mean() < dagger_expert.mean())
run.claim(
    "with 10 labels cloning fails on CartPole, with 80 it and DAgger hold the pole",
    clone_returns[:, few].mean() < 200 and clone_returns[:, many].mean() > 450 and dagger_returns[:, -1].mean() > 450,
)
run.claim("stable-baselines3's loss is the cross-entropy, to 1e-5", peer_gap < 1e-5)
run.claim(
    "soft values: sweeps and the library agree, and the cold limit is value iteration",
    soft_gap < 1e-8 and hard_gap < 1e-2,
)
run.claim("the IRL gradient agrees with finite differences to 1e-6", gradient_gap < 1e-6 and mu_gap < 1e-10)
run.claim(
    "feature expectations are matched to 1e-6, and the policy is the expert's to 1e-6",
    recovered.gap < 1e-6 and policy_gap < 1e-6,
)
run.claim("the reward is recovered up to c for a step and c / (1 - gamma) for an end", beyond < 1e-4)
run.claim("exactly one direction of the reward is invisible", free_directions == 1)
run.claim("shaping and log pi leave the policy as it is", shaping_gap < 1e-8 and log_pi_gap < 1e-8)
k3 = budget.demonstrations.index(3)
run.claim(
    "three demonstrations: greedy on the recovered reward beats the expert, here and behind the wall",
    before_wall["IRL, greedy"][:, k3].mean() > expert_here and behind_wall["IRL, greedy"][:, k3].mean() > expert_there,
)
run.claim(
    "the clone fails behind the wall, however many demonstrations it saw",
    all(behind_wall["cloning"][:, k].mean() < expert_there - 10 for k in range(len(budget.demonstrations))),
)
run.claim("log pi as a reward carries nothing over: its soft optimum is the old policy", same_policy < 1e-9)
run.claim("for an expert who never errs the weights grow without rest", all(b > a for a, b in pairwise(norms)))
run.claim("the best discriminator's loss is log 4 - 2 JS, to 1e-9", js_gap < 1e-9)
run.claim(
    "one demonstration: GAIL's return is above cloning's in every seed",
    (player_returns[:, 0] > clone_maze_returns[:, 0]).all(),
)
run.claim(
    "GAIL comes within 1 of the expert's return at every number of demonstrations",
    (player_returns.mean(0) > expert_maze - 1).all(),
)
run.claim("GAIL is nearer to what was shown than to the expert", of_players[AT][2].mean() < of_players[AT][1].mean())
run.claim(
    "a positive reward without the end: the learner never comes to the goal",
    lengths["GAIL reward, -log(1 - D), end forgotten"].mean() > 1.5 * expert_length,
)
run.claim(
    "with the end counted its episodes are as long as the expert's, within 5%",
    abs(lengths["airl reward, end counted"].mean() / expert_length - 1) < 0.05,
)
run.claim(
    "on CartPole a judge that never learned teaches to stand as well, and log D to fall",
    last_cart["-log(1 - D), judge says 1/2"].mean() > 300 and last_cart["log D"].mean() < 100,
)
run.claim(
    "exposure bias: every clone is farther from the expert on its own prefixes",
    (told_apart["cloned"]["own"][1] > told_apart["cloned"]["expert"][1]).all(),
)
run.claim(
    "DAgger narrows the ratio",
    (told_apart["DAgger"]["own"][1] / told_apart["DAgger"]["expert"][1]).mean()
    < (told_apart["cloned"]["own"][1] / told_apart["cloned"]["expert"][1]).mean(),
)
run.claim(
    "DAgger's texts are not sounder by more than 5 points",
    told_apart["DAgger"]["sound"].mean() < told_apart["cloned"]["sound"].mean() + 0.05,
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. The price of a clone** (difficulty 1, 6 minutes). The clone starts on the road, errs with probability `epsilon` at
# each step there, and never comes back. Return its expected number of steps in the ditch, out of `horizon` steps.


# %%
def my_cost(epsilon, horizon): ...


check("imitation.cost", my_cost)

# %% [markdown]
# **2. A round of DAgger** (difficulty 1, 5 minutes). `counts` (S, A) says how often the expert was seen to take each
# action, `visited` (N,) where the learner just was, `expert` (S,) what the expert would do. Return the new counts.


# %%
def my_aggregate(counts, visited, expert): ...


check("imitation.aggregate", my_aggregate)

# %% [markdown]
# **3. Soft values** (difficulty 2, 6 minutes). From `q` (S, A) and a temperature, return the soft values (S,) and the soft
# policy (S, A).


# %%
def my_soft(q, temperature): ...


check("imitation.soft", my_soft)

# %% [markdown]
# **4. The part that nobody sees** (difficulty 3, 8 minutes). `weights` (S,) are rewards for entering each cell, `terminal`
# (S,) says which cells end the episode. Return another reward, with `c` more for every other cell, under which no expert
# behaves otherwise.


# %%
def my_invisible(weights, terminal, gamma, c): ...


check("imitation.invisible", my_invisible)

# %% [markdown]
# **5. The judge** (difficulty 2, 5 minutes). From the logits of $D$ on the expert's rows (N,) and on the learner's (M,),
# return the judge's loss, one number. $D$ is the probability that a row is the expert's.


# %%
def my_judge_loss(expert, learner): ...


check("imitation.judge_loss", my_judge_loss)
