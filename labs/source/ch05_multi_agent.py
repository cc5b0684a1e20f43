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
# # Several agents at once
#
# One agent's reward now depends on what others do, and the others learn too. You begin with games small enough to solve
# exactly, see what becomes of learning when the partner learns as well, and then train teams: with one value mixed from many
# (VDN, QMIX), and with a critic that sees everybody (MADDPG, MAPPO).
#
# - **You will** find Nash equilibria by enumeration and hold them against a linear programme; watch fictitious play converge
#   and, in Shapley's game, never converge; measure non-stationarity; solve a task that a sum of values cannot represent, and
#   find the one that QMIX cannot; teach two particles a language of three words, and three particles to share out three places,
#   in PettingZoo's worlds; and see self-play run in circles.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 5.6.2-5.6.3

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

# %%
import copy
import time
from itertools import combinations, pairwise, permutations, product

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from mpe2 import simple_spread_v3
from plotly.subplots import make_subplots
from scipy.optimize import linprog, nnls

from alignlab import compute, lab
from alignlab.exercises import check
from alignlab.rl import multi_agent as marl
from alignlab.rl.curves import band
from alignlab.rl.multi_agent import EPISODE, QMixer, SpeakerListener, Spread, joint_values, td_target, vdn
from alignlab.rl.networks import Networks, clip_grad_norms

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch05_multi_agent")
budget = run.budget(
    full=dict(
        random_games=60,
        played=10_000,
        watched=4000,
        factored=1000,
        seeds=5,
        talk=4000,
        talk_worlds=16,
        talk_batch=128,
        spread=150,
        spread_worlds=64,
        self_play=800,
        tested=500,
    ),
    quick=dict(
        random_games=20,
        played=1000,
        watched=400,
        factored=100,
        seeds=2,
        talk=120,
        talk_worlds=4,
        talk_batch=32,
        spread=4,
        spread_worlds=4,
        self_play=40,
        tested=20,
    ),
)
compute.seed(0)

# %% [markdown]
# ## Games in a table
#
# Two players choose at once; a table says what each one gets. A pair of strategies from which neither gains by changing alone is
# a **Nash equilibrium**. To find all of them, guess which actions are played at all (the supports). The others' indifference
# then is a linear system: against $y$, every row in use must earn the same.


# %%
def indifferent(table):
    """Probabilities of the columns (k,) against which all k rows earn the same; None if there is no such mix."""
    k = len(table)
    system = np.block([[table, -np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    if np.linalg.matrix_rank(system) <= k:
        return None
    return np.linalg.solve(system, np.append(np.zeros(k), 1.0))[:k]


def equilibria(row, column):
    """row, column: (m, n), the payoffs of the two players. Nash equilibria (x, y) by support enumeration."""
    (m, n), found = row.shape, []
    for k in range(1, min(m, n) + 1):
        for rows, columns in product(combinations(range(m), k), combinations(range(n), k)):
            part = np.ix_(rows, columns)
            y, x = indifferent(row[part]), indifferent(column[part].T)
            if x is None or y is None or min(x.min(), y.min()) < -1e-9:
                continue
            whole_x, whole_y = np.zeros(m), np.zeros(n)
            whole_x[list(rows)], whole_y[list(columns)] = x, y
            no_row_is_better = (row @ whole_y).max() <= whole_x @ row @ whole_y + 1e-7
            no_column_is_better = (whole_x @ column).max() <= whole_x @ column @ whole_y + 1e-7
            if no_row_is_better and no_column_is_better:
                found.append((whole_x, whole_y))
    return found


ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
SHAPLEY = np.eye(3), np.roll(np.eye(3), 1, axis=1)  # the row player wants to match, the column player to be one ahead
games = {
    "prisoner's dilemma": (np.array([[-1.0, -3], [0, -2]]), np.array([[-1.0, 0], [-3, -2]])),
    "stag hunt": (np.array([[4.0, 0], [3, 3]]), np.array([[4.0, 3], [0, 3]])),
    "matching pennies": (np.array([[1.0, -1], [-1, 1]]), np.array([[-1.0, 1], [1, -1]])),
    "rock, paper, scissors": (ROCK_PAPER_SCISSORS, -ROCK_PAPER_SCISSORS),
    "Shapley's game": SHAPLEY,
}
rows = []
for name, (row, column) in games.items():
    for x, y in equilibria(row, column):
        mixed = [" ".join(f"{p:.2f}" for p in strategy) for strategy in (x, y)]
        rows.append([name, *mixed, f"{x @ row @ y:.2f}", f"{x @ column @ y:.2f}"])
run.table(
    rows,
    ["game", "row player", "column player", "row's payoff", "column's payoff"],
    caption="All equilibria of five games. The dilemma's only one is the worse cell for both; the stag hunt has three",
)

# %% [markdown]
# In a **zero-sum** game the equilibrium is a linear programme: the largest $v$ that some mix guarantees against every column. scipy
# solves that one without knowing of supports. The library's enumeration and scipy's programme must agree on random games.


# %%
def by_linear_programme(payoffs):
    """max v subject to x @ payoffs >= v for every column, x a distribution."""
    m, n = payoffs.shape
    solved = linprog(
        c=np.append(np.zeros(m), -1.0),
        A_ub=np.hstack([-payoffs.T, np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(m), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * m + [(None, None)],
    )
    return solved.x[-1]


random_numbers = np.random.default_rng(0)
value_gap = enumeration_gap = 0.0
for _ in range(budget.random_games):
    payoffs = random_numbers.normal(size=random_numbers.integers(2, 5, size=2))
    value, x, y = marl.solve_zero_sum(torch.tensor(payoffs))
    value_gap = max(value_gap, abs(value - by_linear_programme(payoffs)))
    mine, theirs = equilibria(payoffs, -payoffs), marl.nash_equilibria(torch.tensor(payoffs), -torch.tensor(payoffs))
    assert len(mine) == len(theirs)
    enumeration_gap = max(enumeration_gap, *(abs(a - b.numpy()).max() for (a, _), (b, _) in zip(mine, theirs)))
print(
    f"{budget.random_games} random games: value against scipy {value_gap:.1e}, against the library {enumeration_gap:.1e}"
)

# %% [markdown]
# ## Fictitious play
#
# The oldest learning rule: play a best response to how the other has played *on average so far*. In the open, and against the
# library.


# %%
def fictitious(row, column, steps):
    """Frequencies of the actions after each step, (steps, m) and (steps, n)."""
    counts = [np.eye(len(row))[0], np.eye(len(row[0]))[0]]
    history = [[counts[0].copy()], [counts[1].copy()]]
    for _ in range(1, steps):
        a, b = (row @ counts[1]).argmax(), (counts[0] @ column).argmax()
        counts[0][a] += 1
        counts[1][b] += 1
        for kept, count in zip(history, counts):
            kept.append(count / count.sum())
    return np.array(history[0]), np.array(history[1])


x, y = fictitious(*SHAPLEY, 300)
played = {}
for name in ("rock, paper, scissors", "Shapley's game"):
    row, column = (torch.tensor(payoffs) for payoffs in games[name])
    starts = torch.tensor(list(product(range(3), repeat=2)))  # all nine pairs of first actions
    played[name] = marl.fictitious_play(row, column, budget.played, starts)
play_gap = max(
    abs(played["Shapley's game"].x[0, :300].numpy() - x).max(),
    abs(played["Shapley's game"].y[0, :300].numpy() - y).max(),
)
print(f"the library's fictitious play against ours: {play_gap:.1e}")

# %% [markdown]
# **Exploitability** says how far a pair is from an equilibrium: what both would gain together if each changed to a best response.
# Where it goes to 0, the averages have found the equilibrium.

# %%
at = np.unique(np.geomspace(2, budget.played, 90).astype(int)) - 1
exploitable = {
    name: marl.exploitability(*(torch.tensor(p) for p in games[name]), result.x, result.y).numpy()
    for name, result in played.items()
}
fig = go.Figure()
band(fig, at + 1, exploitable["rock, paper, scissors"][:, at], "rock, paper, scissors (zero-sum)", "policy")
band(fig, at + 1, exploitable["Shapley's game"][:, at], "Shapley's game", "rejected", "dash")
fig.update_layout(title="Fictitious play, nine starts", xaxis_title="step", yaxis_title="exploitability (reward)")
fig.update_xaxes(type="log").update_yaxes(type="log")
run.figure(
    fig, "In the zero-sum game exploitability falls along a straight line in both logarithms; in Shapley's it stays."
)


def runs_of(actions):
    """Lengths of the stretches in which one action is repeated."""
    changes = np.flatnonzero(np.diff(actions)) + 1
    return np.diff(np.concatenate([[0], changes]))


stretches = runs_of(played["Shapley's game"].rows[0].numpy())
growth = np.mean(stretches[-5:] / stretches[-6:-1])
rps_end, shapley_end = (exploitable[name][:, -1] for name in ("rock, paper, scissors", "Shapley's game"))
print("Shapley's game, how long the row player stays with one action:", stretches.tolist())
print(f"each stretch is about {growth:.2f} times the one before")

# %% [markdown]
# In Shapley's game the players chase each other round six cells. Each stretch must outweigh the whole past, so the stretches grow
# like a geometric series: the averages never settle, however long you wait.
#
# ## A game with states
#
# A **Markov game** adds states. With two players and zero sum, value iteration carries over (Shapley, 1953): where an MDP takes a
# maximum, take the *value of the matrix game*. Two states; in the second the stakes are higher; mismatching leads there.

# %%
rewards = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
transitions = torch.zeros(2, 2, 2, 2, dtype=torch.float64)  # (state, row's action, column's action, next state)
for a, b in product(range(2), repeat=2):
    transitions[0, a, b, int(a != b)] = 1.0  # mismatched: on to state 1
    transitions[1, a, b, int(a != b)] = 1.0  # matched: back to state 0
GAME_GAMMA = 0.9
game_values, row_policy, column_policy = marl.solve_markov_game(rewards, transitions, GAME_GAMMA)


def against(policy, mine_is_row, iterations=500):
    """Value of a best response to a fixed policy: an ordinary MDP, solved by value iteration."""
    values = torch.zeros(2, dtype=torch.float64)
    for _ in range(iterations):
        of_cells = rewards + GAME_GAMMA * transitions @ values  # (S, m, n)
        if mine_is_row:
            values = (of_cells * policy[:, None, :]).sum(-1).amax(-1)
        else:
            values = (of_cells * policy[:, :, None]).sum(-2).amin(-1)
    return values


saddle_gap = max(
    (against(column_policy, True) - game_values).abs().max(), (against(row_policy, False) - game_values).abs().max()
).item()
run.table(
    [
        [f"state {s}", f"{game_values[s]:.3f}", f"{row_policy[s, 0]:.3f}", f"{column_policy[s, 0]:.3f}"]
        for s in range(2)
    ],
    ["", "value for the row player", "row plays its first action", "column plays its first"],
    caption="The solved Markov game. No deterministic policy is safe in either state",
)
print(f"a best response to either policy gains {saddle_gap:.1e}")

# %% [markdown]
# ## What private eyes cost
#
# A team with one reward and private observations is a **Dec-POMDP**. The smallest one: a prize is behind the left or the right
# door, with equal chance. Each of two agents sees a hint that is right with probability 0.8, independently. Both must open the
# same right door to win 1. A local policy maps a hint to a door: four of them, sixteen pairs. Go through all.

# %%
HINT = 0.8
doors = list(product(range(2), repeat=2))  # a policy: which door after hint 0, which after hint 1
worlds = [
    (prize, (first, second), 0.5 * (HINT if first == prize else 1 - HINT) * (HINT if second == prize else 1 - HINT))
    for prize, first, second in product(range(2), repeat=3)
]
decentralized = {
    (f, g): sum(p for prize, (u, v), p in worlds if f[u] == prize and g[v] == prize) for f in doors for g in doors
}
centralized = max(  # one mind sees both hints and moves both hands: a door for each of four pairs of hints
    sum(p for prize, (u, v), p in worlds if plan[2 * u + v] == prize) for plan in product(range(2), repeat=4)
)
told = max(
    sum(p for prize, (u, _), p in worlds if f[u] == prize) for f in doors
)  # agent 1 says its hint, both follow it
best_apart = max(decentralized.values())
print(f"each follows its own eyes: {best_apart:.2f}; one mind: {centralized:.2f}; one bit of talk: {told:.2f}")

# %% [markdown]
# ## Non-stationarity, measured
#
# Two players of rock, paper, scissors learn by policy gradient, each from its own rewards alone. Watch player 1's *true* expected
# payoffs: in a world that stands still they would be constants.
#
# Beside the players sit observers. Each estimates the payoff of player 1's actions as an average over the last $M$ samples or so
# (a step size of $1/M$), as a Q-table or a replay buffer of that size would. When the partner is frozen, a longer memory is
# better. And when it learns?

# %%
MEMORIES = 2.0 ** np.arange(1, 11)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def watch(partner_learns, games_at_once=100, rate=0.03, explore=0.3, seed=0):
    """Root mean squared error of the observers' estimates (len(MEMORIES),) and the true payoffs of game 0, (steps, 3)."""
    draw = np.random.default_rng(seed)
    mine, partner = draw.normal(size=(2, games_at_once, 3))  # logits
    estimates, seen = np.zeros((games_at_once, len(MEMORIES), 3)), np.zeros((games_at_once, 3))
    every, errors, truths = np.arange(games_at_once), [], []

    def sample(probabilities):
        return (draw.random((games_at_once, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 2)

    for step in range(budget.watched):
        p, q = softmax(mine), softmax(partner)
        a, b = sample((1 - explore) * p + explore / 3), sample(q)
        reward = ROCK_PAPER_SCISSORS[a, b]
        truth = (
            q @ ROCK_PAPER_SCISSORS.T
        )  # what each of my three actions is worth against the partner of this very step
        truths.append(truth[0])
        if step >= budget.watched // 2:
            errors.append(((estimates - truth[:, None]) ** 2).mean((0, 2)))
        seen[every, a] += 1
        steps = np.maximum(1 / MEMORIES, 1 / seen[every, a][:, None])  # a plain mean until the memory is full
        estimates[every, :, a] += steps * (reward[:, None] - estimates[every, :, a])
        mine[every, a] += rate * reward  # REINFORCE, for both
        mine -= rate * reward[:, None] * p
        if partner_learns:
            partner[every, b] -= rate * reward
            partner += rate * reward[:, None] * q
    return np.sqrt(np.mean(errors, 0)), np.array(truths)


watched = {learns: watch(learns) for learns in (False, True)}
best_memory = MEMORIES[watched[True][0].argmin()]

# %%
fig = make_subplots(rows=1, cols=2, subplot_titles=("true payoff of my three actions", "error of an observer"))
shown = np.arange(0, budget.watched, max(1, budget.watched // 150))
for action, role in enumerate(("policy", "chosen", "reward")):
    name = ("rock", "paper", "scissors")[action]
    fig.add_scatter(x=shown, y=watched[True][1][shown, action], name=name, line={"width": 2}, row=1, col=1)
for learns, role, name in ((False, "reference", "partner frozen"), (True, "rejected", "partner learns")):
    fig.add_scatter(x=MEMORIES, y=watched[learns][0], name=name, mode="lines+markers", row=1, col=2)
fig.update_xaxes(title="step", row=1, col=1).update_xaxes(title="memory (samples)", type="log", row=1, col=2)
run.figure(
    fig,
    "Left, payoffs that swing while the partner learns. Right, errors: a frozen partner's fall with memory, a learning partner's rise.",
)
run.table(
    [[f"{m:.0f}", f"{watched[False][0][i]:.2f}", f"{watched[True][0][i]:.2f}"] for i, m in enumerate(MEMORIES)],
    ["memory", "partner frozen", "partner learns"],
    caption="Root mean squared error of the estimated payoffs, in units of reward, over 100 games",
)

# %% [markdown]
# With a frozen partner every doubling of the memory helps. With a learning one the best memory is short, and the longest is
# worst: it averages over partners that no longer exist. That is why experience replay, so good for DQN, is in trouble here.
#
# ## One value from many: VDN and QMIX
#
# A team with one reward. Each agent $i$ has a utility $Q_i(o_i,a_i)$ of its own, and a **mixer** makes one joint value of them, which
# is trained on the team's reward. VDN's mixer is a sum. QMIX's is a small network with weights made from the state, and made
# **non-negative**, so that the joint value never falls when a utility rises. In the open, for one state:


# %%
def elu(x):
    return torch.where(x > 0, x, x.exp() - 1)


def qmix_by_hand(q, state, mixer):
    """q: (agents,), state: (d,), the first copy of the mixer's networks."""
    w1 = (state @ mixer.first_weights.weights[0][0] + mixer.first_weights.biases[0][0, 0]).abs().view(mixer.agents, -1)
    b1 = state @ mixer.first_bias.weights[0][0] + mixer.first_bias.biases[0][0, 0]
    w2 = (state @ mixer.second_weights.weights[0][0] + mixer.second_weights.biases[0][0, 0]).abs()
    hidden = (state @ mixer.second_bias.weights[0][0] + mixer.second_bias.biases[0][0, 0]).relu()
    b2 = hidden @ mixer.second_bias.weights[1][0, :, 0] + mixer.second_bias.biases[1][0, 0, 0]
    return elu(q @ w1 + b1) @ w2 + b2


mixer = QMixer(agents=2, state_size=3)
q, state = torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0, 0.0])
with torch.no_grad():
    mixer_gap = abs(qmix_by_hand(q, state, mixer) - mixer(q[None, None], state[None, None])[0, 0]).item()
print(f"QMIX's mixer by hand and in the library differ by {mixer_gap:.1e}")

# %% [markdown]
# **The two-step game** of the QMIX paper. In the first state agent 1's action alone chooses: A leads to a second state that pays
# 7 whatever the two do, B to one that pays 0, 1, 1 or 8. Best is B, then both B: 8. We go through all twelve transitions in
# each step, as a replay buffer of uniform exploration would; ten seeds are trained side by side.

# %%
SECOND = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
FACTORED_SEEDS, TWO_STEP_GAMMA = 10, 0.99
s, u, v = (
    index.flatten() for index in torch.meshgrid(torch.arange(3), torch.arange(2), torch.arange(2), indexing="ij")
)
following = torch.where(s == 0, 1 + u, 0)
ended = (s > 0).expand(FACTORED_SEEDS, -1)
one_hot = torch.eye(3)


def team(kind, seed=0):
    """Utilities (seeds, state, agent, action) and a mixer, of random beginnings."""
    generator = torch.Generator().manual_seed(seed)
    utilities = torch.nn.Parameter(0.1 * torch.randn(FACTORED_SEEDS, 3, 2, 2, generator=generator))
    mixers = {"vdn": lambda: vdn, "qmix": lambda: QMixer(2, 3, copies=FACTORED_SEEDS, seed=seed)}
    mixers["signs free"] = lambda: QMixer(2, 3, copies=FACTORED_SEEDS, seed=seed, monotone=False)
    return utilities, mixers.get(kind, lambda: None)()


def train_team(kind):
    """IQL, VDN, QMIX, or QMIX without its absolute values, on the two-step game."""
    utilities, mixer = team(kind)
    parameters = [utilities, *(mixer.parameters() if isinstance(mixer, torch.nn.Module) else [])]
    optimizer = torch.optim.Adam(parameters, 0.05)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, budget.factored)
    rewards = SECOND[s, u, v].expand(FACTORED_SEEDS, -1)
    states, next_states = (one_hot[i].expand(FACTORED_SEEDS, -1, -1) for i in (s, following))
    for step in run.progress(budget.factored, kind):
        if step % 100 == 0:
            old, old_mixer = utilities.detach().clone(), copy.deepcopy(mixer)
        chosen = torch.stack([utilities[:, s, 0, u], utilities[:, s, 1, v]], -1)  # (seeds, 12, agents)
        if kind == "iql":  # each agent for itself: the other is part of its world
            best = torch.where(ended[..., None], 0.0, old[:, following].amax(-1))
            error = (chosen - (rewards[..., None] + TWO_STEP_GAMMA * best)).square().sum(-1)
        else:
            target = td_target(old_mixer, rewards, old[:, following], next_states, ended, TWO_STEP_GAMMA)
            error = (mixer(chosen, states) - target).square()
        optimizer.zero_grad()
        error.mean(1).sum().backward()
        optimizer.step()
        slower.step()
    with torch.no_grad():
        greedy, every = utilities.argmax(-1), torch.arange(FACTORED_SEEDS)
        second = 1 + greedy[:, 0, 0]
        earned = SECOND[second, greedy[every, second, 0], greedy[every, second, 1]]
        states = one_hot.expand(FACTORED_SEEDS, -1, -1)
        table = None if mixer is None else joint_values(mixer, utilities, states)
        broken = None if mixer is None else marl.igm_violations(mixer, utilities, states).any(1)
    return {"earned": earned, "table": table, "broken": broken, "utilities": utilities.detach()}


teams = {kind: train_team(kind) for kind in ("iql", "vdn", "qmix", "signs free")}

# %%
shown = []
for kind, outcome in teams.items():
    cells = ["(no joint value)"] * 2
    if outcome["table"] is not None:
        cells = [" ".join(f"{value:.2f}" for value in outcome["table"][:, i].mean(0).flatten()) for i in (0, 2)]
    earned = outcome["earned"]
    shown.append([kind, *cells, f"{earned.mean():.1f} ({earned.min():.0f} to {earned.max():.0f})"])
run.table(
    shown,
    ["method", "Q of AA AB BA BB, first state", "the same, state after B", "reward of the greedy team"],
    caption="The two-step game: means over ten seeds. True values after B: 0 1 1 8",
)
additive = marl.additive_fit(SECOND[2].double())
vdn_gap = (teams["vdn"]["table"][:, 2] - additive).abs().max().item()
qmix_gap = (teams["qmix"]["table"][:, 2] - SECOND[2]).abs().max().item()
print(f"the best sum, from row and column means: {additive.flatten().tolist()}; VDN's distance from it {vdn_gap:.1e}")

# %% [markdown]
# VDN learns exactly the best sum there is (row mean plus column mean minus mean), in which both-B is worth 6.5: less than the sure
# 7. So it takes A. QMIX represents the table as it is. **The failure to know:** with `signs free` the network fits the joint table
# just as well, but the agents, each maximizing its own utility, do not find the maximum of it. Individual-global-max is
# broken, and a team of such agents cannot act apart.

# %%
free = teams["signs free"]
free_gap = (free["table"][:, 2] - SECOND[2]).abs().max().item()
share_broken = free["broken"].float().mean().item()
print(f"signs free: largest error in the last state {free_gap:.3f}; IGM is broken in {share_broken:.0%} of the seeds")

# %% [markdown]
# ### What QMIX cannot represent
#
# Both must dare together: (A, A) pays $p$, daring alone costs 12, and all else pays 0. Whether A is good for me depends on what you
# do, and no monotone mixer can say that. What is the *best* monotone table? For given orders of the actions it is a
# non-negative combination of staircases; `nnls` finds it exactly, and there are only 36 pairs of orders.


# %%
def dare(p):
    return np.array([[p, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])


def best_monotone(table):
    """The least-squares fit among all tables that are monotone in both agents' utilities, and its squared error."""
    m, n = table.shape
    cuts = [cut for cut in product(range(n + 1), repeat=m) if all(a >= b for a, b in pairwise(cut))]
    stairs = [np.array([[j >= cut[i] for j in range(n)] for i in range(m)], float).ravel() for cut in cuts]
    basis, best = np.stack([*stairs, -np.ones(m * n)], 1), (np.inf, None)
    for rows, columns in product(permutations(range(m)), permutations(range(n))):
        weights, residual = nnls(basis, table[np.ix_(rows, columns)].ravel())
        if residual**2 < best[0] - 1e-9:
            fit = np.empty((m, n))
            fit[np.ix_(rows, columns)] = (basis @ weights).reshape(m, n)
            best = residual**2, fit
    return best


def train_dare(p, optimism=1.0):
    """QMIX on the one-state game. optimism < 1 weighs the cells that the joint value overestimates less (OW-QMIX)."""
    generator = torch.Generator().manual_seed(0)
    utilities = torch.nn.Parameter(0.1 * torch.randn(FACTORED_SEEDS, 1, 2, 3, generator=generator))
    mixer, state = QMixer(2, 1, copies=FACTORED_SEEDS), torch.ones(FACTORED_SEEDS, 1, 1)
    optimizer = torch.optim.Adam([utilities, *mixer.parameters()], 0.03)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, budget.factored)
    truth = torch.tensor(dare(p)).float()
    for _ in run.progress(budget.factored, f"p = {p:g}, weight {optimism:g}"):
        table = joint_values(mixer, utilities, state)[:, 0]
        weight = torch.where(table.detach() < truth, 1.0, optimism)
        optimizer.zero_grad()
        (weight * (table - truth).square()).mean((1, 2)).sum().backward()
        optimizer.step()
        slower.step()
    greedy = utilities[:, 0].argmax(-1)
    return table.detach(), truth[greedy[:, 0], greedy[:, 1]]


exact = {p: best_monotone(dare(p)) for p in (8.0, 6.0)}
dared = {"QMIX": train_dare(8.0), "weighted, 0.1": train_dare(8.0, 0.1)}
rows = [["true table", "", " ".join(f"{v:.0f}" for v in dare(8).ravel())]]
rows += [
    [f"best monotone, p = {p:g}", f"{exact[p][0]:.0f}", " ".join(f"{v:.1f}" for v in exact[p][1].ravel())]
    for p in exact
]
for name, (table, earned) in dared.items():
    error = (table[0] - torch.tensor(dare(8))).square().sum()
    rows.append([f"{name}, learned", f"{error:.0f}", " ".join(f"{v:.1f}" for v in table[0].flatten())])
run.table(
    rows,
    ["table", "squared error", "nine cells, row by row"],
    caption="The dare game. Greedy QMIX earns 0, weighted QMIX 8",
)
stuck, freed = dared["QMIX"][1], dared["weighted, 0.1"][1]
learned_error = (dared["QMIX"][0] - torch.tensor(dare(8))).square().sum((1, 2))

# %% [markdown]
# At $p=6$ even the best monotone table gives up the prize. At $p=8$ the best one would keep it; but gradient descent, with all cells
# weighing the same, ends in another, worse minimum in all ten seeds. Trusting bad surprises less (weighted QMIX) finds it.
#
# ## PettingZoo's particles
#
# Now worlds with states. `mpe2` holds the particle worlds on which MADDPG and MAPPO were compared. Its worlds step one at a time;
# the library has the same physics for all copies at once. First the proof that it is the same: put both into the same state,
# give both the same actions, compare everything.

# %%
theirs = simple_spread_v3.parallel_env(N=3)
theirs.reset(seed=3)
physics = theirs.aec_env.unwrapped.world
ours = Spread((1,), dtype=torch.float64)
ours.position[0] = (
    torch.tensor(np.stack([agent.state.p_pos for agent in physics.agents])) * 0.3
)  # crowded: they collide
ours.landmarks[0] = torch.tensor(np.stack([landmark.state.p_pos for landmark in physics.landmarks]))
for agent, place in zip(physics.agents, ours.position[0]):
    agent.state.p_pos = place.numpy().copy()
physics_gap, generator = 0.0, torch.Generator().manual_seed(0)
for _ in range(EPISODE):
    actions = torch.randint(5, (1, 3), generator=generator)
    observed, rewarded, _, truncated, _ = theirs.step({f"agent_{i}": int(a) for i, a in enumerate(actions[0])})
    rewards = ours.step(actions)[0].numpy()
    gaps = [abs(np.stack(list(observed.values())) - ours.observe()[0].numpy()).max()]
    physics_gap = max(physics_gap, *gaps, abs(np.array(list(rewarded.values())) - rewards).max())


def seconds(work, times=3):
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return min(spent)


def one_episode():
    theirs.reset(seed=0)
    for _ in range(EPISODE):
        theirs.step(dict.fromkeys(theirs.agents, 1))


many = Spread((10, 32))


def many_episodes():
    for _ in range(EPISODE):
        many.observe()
        many.step(torch.ones(10, 32, 3, dtype=torch.long))


world_speedup = 320 * seconds(one_episode) / seconds(many_episodes)
print(
    f"largest difference in 25 steps: {physics_gap:.1e}; 320 worlds at once: {world_speedup:.0f} times as many steps a second"
)

# %% [markdown]
# ## MADDPG: two particles invent three words
#
# In `simple_speaker_listener` the speaker sees which of three landmarks is the goal and cannot move. The listener moves, and does
# not know the goal; it hears three numbers. One reward for both: minus the squared distance from the goal.
#
# **MADDPG**: each agent has an actor that sees its own observation, and, in training only, a critic that sees all observations
# and all actions. The rival is the same without the joint view: each critic sees what its own agent sees and does. Everything
# else is equal, so both are trained side by side: copies of one network, half of them with the others' inputs masked.

# %%
OBSERVED, ACTED, JOINT, AGENTS = 11, 5, 22, 2  # widest observation and action; all observations and actions together
RUNS = 2 * budget.seeds  # the first half with a critic that sees all, the second half without
TALK_GAMMA, NOISE, RATE, FOLLOW = 0.95, 0.3, 3e-3, 0.01
own_columns = torch.zeros(
    AGENTS, JOINT
)  # columns: speaker sees 0-2, listener sees 3-13, speaker says 14-16, listener moves 17-21
own_columns[0, [0, 1, 2, 14, 15, 16]] = 1
own_columns[1, [*range(3, 14), *range(17, 22)]] = 1
visible = torch.ones(RUNS, AGENTS, JOINT)
visible[budget.seeds :] = own_columns
visible = visible.flatten(0, 1).unsqueeze(1)  # (RUNS * AGENTS, 1, JOINT)


def pairwise_equal(network, agents):
    """The second half of the runs begins with the weights of the first."""
    with torch.no_grad():
        for parameter in network.parameters():
            half = budget.seeds * agents
            parameter[half:] = parameter[:half]
    return network


talkers = pairwise_equal(Networks((OBSERVED, 64, 64, ACTED), RUNS * AGENTS, seed=0), AGENTS)
critics = pairwise_equal(Networks((JOINT, 64, 64, 1), RUNS * AGENTS, seed=100), AGENTS)


def act(actors, observations):
    """Observations of speaker (RUNS, B, 3) and listener (RUNS, B, 11), to message (RUNS, B, 3), moves (RUNS, B, 5), logits."""
    speaker, listener = observations
    seen = torch.stack([F.pad(speaker, (0, OBSERVED - 3)), listener], 1).flatten(0, 1)
    logits = actors(seen)
    actions = logits.sigmoid().unflatten(0, (RUNS, AGENTS))
    return (actions[:, 0, :, :3], actions[:, 1]), logits


def critic_input(observations, actions):
    """All observations and actions, once for each agent's critic, what it must not see set to 0."""
    return torch.cat([*observations, *actions], -1).repeat_interleave(AGENTS, 0) * visible


# %% [markdown]
# One update. The critic's target uses everybody's *target* actors. An actor's gradient goes through its own action alone: the
# partner's action is the one that memory holds.


# %%
def update_critics(batch, actors_old, critics_old, optimizer):
    o, a, reward, o_next = batch
    with torch.no_grad():
        a_next, _ = act(actors_old, o_next)
        following = critics_old(critic_input(o_next, a_next))[..., 0]
        target = (
            reward.repeat_interleave(AGENTS, 0) + TALK_GAMMA * following
        )  # episodes are truncated, never terminated
    error = (critics(critic_input(o, a))[..., 0] - target).square()
    optimizer.zero_grad()
    error.mean(1).sum().backward()
    clip_grad_norms(list(critics.parameters()), 0.5)
    optimizer.step()


def actor_losses(batch):
    """(RUNS * AGENTS, B): -Q_i with agent i's action from its actor and the partner's from memory."""
    o, a, _, _ = batch
    (message, moves), logits = act(talkers, o)
    speaks, walks = torch.cat([*o, message, a[1]], -1), torch.cat([*o, a[0], moves], -1)
    joint = torch.stack([speaks, walks], 1).flatten(0, 1) * visible
    return -critics(joint)[..., 0] + 1e-3 * logits.square().mean(-1)  # a small price keeps the sigmoids from saturating


def update_actors(batch, optimizer):
    critics.requires_grad_(False)
    optimizer.zero_grad()
    actor_losses(batch).mean(1).sum().backward()
    critics.requires_grad_(True)
    clip_grad_norms(list(talkers.parameters()), 0.5)
    optimizer.step()


# %% [markdown]
# Is the actor's gradient right? The library's loss, written for one agent, must give the same gradient.

# %%
world = SpeakerListener((RUNS, 8), seed=1)
o, (a, _) = world.observe(), act(talkers, world.observe())
batch = (o, tuple(x.detach() for x in a), None, None)
talkers.zero_grad()
actor_losses(batch).mean(1).sum().backward()
of_lab = talkers.weights[-1].grad[0].clone()  # run 0, the speaker
talkers.zero_grad()
(message, _), logits = act(talkers, o)
alone = marl.maddpg_actor_loss(
    lambda x: critics(x.expand(RUNS * AGENTS, -1, -1))[:1],
    [x[:1] for x in o],
    [x[:1] for x in batch[1]],
    message[:1],
    agent=0,
)
(alone.mean() + 1e-3 * logits[0].square().mean()).backward()
actor_gap = (talkers.weights[-1].grad[0] - of_lab).abs().max().item()
print(f"gradient of the speaker's last layer: the lab's and the library's differ by {actor_gap:.1e}")

# %%
old_talkers, old_critics = copy.deepcopy(talkers), copy.deepcopy(critics)
actor_optimizer = torch.optim.Adam(talkers.parameters(), RATE, foreach=True)
critic_optimizer = torch.optim.Adam(critics.parameters(), RATE, foreach=True)
generator = torch.Generator().manual_seed(0)
world = SpeakerListener((RUNS, budget.talk_worlds), seed=0)
memory = [torch.zeros(RUNS, budget.talk * budget.talk_worlds, width) for width in (3, 11, 3, 5, 1, 3, 11)]
talk_returns, filled = [], 0
curve = run.curve(
    "Speaker and listener", x="step", y="return of an episode", lines={"MADDPG": "policy", "own critics": "reference"}
)
for step in run.progress(budget.talk, "speaker and listener", curve=curve):
    if step % EPISODE == 0:
        world.reset()
        episode = torch.zeros(RUNS)
    with torch.no_grad():
        o = world.observe()
        actions, _ = act(talkers, o)
        actions = [(x + NOISE * torch.randn(x.shape, generator=generator)).clamp(0, 1) for x in actions]
        reward = world.step(actions)
    for kept, new in zip(memory, (*o, *actions, reward.unsqueeze(-1), *world.observe())):
        kept[:, filled : filled + budget.talk_worlds] = new
    filled += budget.talk_worlds
    episode += reward.mean(1)
    if step % EPISODE == EPISODE - 1:
        talk_returns.append(episode)
        if len(talk_returns) % 4 == 0:
            recent = torch.stack(talk_returns[-4:]).mean(0)
            curve.add("MADDPG", step + 1, recent[: budget.seeds].mean())
            curve.add("own critics", step + 1, recent[budget.seeds :].mean())
    if step < 2 * EPISODE:
        continue
    index = torch.randint(filled, (budget.talk_batch,), generator=generator)
    o1, o2, a1, a2, reward, n1, n2 = (kept[:, index] for kept in memory)
    batch = ((o1, o2), (a1, a2), reward[..., 0], (n1, n2))
    update_critics(batch, old_talkers, old_critics, critic_optimizer)
    update_actors(batch, actor_optimizer)
    with torch.no_grad():
        for old, new in ((old_talkers, talkers), (old_critics, critics)):
            torch._foreach_lerp_(list(old.parameters()), list(new.parameters()), FOLLOW)

# %% [markdown]
# What to compare with: a listener who knows the goal and walks there at once, and one who knows nothing and waits in the middle of
# the three landmarks, the best that silence allows.


# %%
def walk_to(target, worlds):
    """Mean return of a listener that walks to target(world), (..., 2)."""
    world, total = SpeakerListener((1, worlds), seed=9), 0.0
    for _ in range(EPISODE):
        push = (4 * (target(world) - world.position[..., 0, :] - 0.3 * world.velocity[..., 0, :])).clamp(-1, 1)
        x, y = push.unbind(-1)
        moves = torch.stack([0 * x, (-x).clamp_min(0), x.clamp_min(0), (-y).clamp_min(0), y.clamp_min(0)], -1)
        total += world.step((torch.zeros(1, worlds, 3), moves)).mean().item()
    return total


def the_goal(world):
    return world.landmarks.gather(-2, world.goal[..., None, None].expand(*world.shape, 1, 2))[..., 0, :]


knows, guesses = walk_to(the_goal, 2000), walk_to(lambda world: world.landmarks.mean(-2), 2000)
test_world, tested = SpeakerListener((RUNS, budget.tested), seed=5), torch.zeros(RUNS)
with torch.no_grad():
    for _ in range(EPISODE):
        actions, _ = act(talkers, test_world.observe())
        tested += test_world.step(actions).mean(1)
    near = torch.linalg.vector_norm(test_world.landmarks - test_world.position, dim=-1).argmin(-1) == test_world.goal
talked = {"all": tested[: budget.seeds], "own": tested[budget.seeds :]}
reached = {"all": near[: budget.seeds].float().mean(1), "own": near[budget.seeds :].float().mean(1)}
kept = torch.stack(talk_returns).T.unfold(1, 4, 4).mean(-1).numpy()
x = (np.arange(kept.shape[1]) + 1) * 4 * EPISODE
fig = go.Figure()
band(fig, x, kept[: budget.seeds], "MADDPG: critics see all", "policy")
band(fig, x, kept[budget.seeds :], "each critic sees its own", "reference", "dash")
for level, name in ((knows, "knows the goal"), (guesses, "waits in the middle")):
    fig.add_hline(y=level, line_dash="dot", annotation_text=name, annotation_position="top left")
fig.update_layout(
    title="Speaker and listener", xaxis_title="step (of every world)", yaxis_title="return of an episode, with noise"
)
run.figure(fig, "Returns over training: with critics that see all, and with critics that see their own agent only.")

# %%
language = torch.zeros(RUNS, 3, 3)
with torch.no_grad():
    for goal in range(3):
        seen = torch.full((RUNS, 1, 3), 0.15)
        seen[..., goal] += 0.5
        (message, _), _ = act(talkers, (seen, torch.zeros(RUNS, 1, 11)))
        language[:, goal] = message[:, 0]
apart = torch.stack([(language[:, i] - language[:, j]).norm(dim=-1) for i, j in ((0, 1), (0, 2), (1, 2))]).amin(0)
run.table(
    [
        [
            f"{kind}, seed {seed}",
            *(" ".join(f"{x:.2f}" for x in language[index, goal]) for goal in range(3)),
            f"{near[index].float().mean():.0%}",
        ]
        for kind, first in (("MADDPG", 0), ("own critics", budget.seeds))
        for seed, index in enumerate(range(first, first + min(3, budget.seeds)))
    ],
    ["", "said for goal 1", "for goal 2", "for goal 3", "listener ends nearest the goal"],
    caption="The words that were invented",
)
print(
    f"known goal {knows:.1f}, middle {guesses:.1f}; MADDPG {talked['all'].mean():.1f}, own critics {talked['own'].mean():.1f}"
)

# %% [markdown]
# ## MAPPO: three particles share out three places
#
# In `simple_spread` three agents must cover three landmarks without touching. **MAPPO** is PPO with one actor for all agents, which
# sees one agent's observation, and a critic that, in training, sees all of them. **IPPO** is the same with a critic that sees
# its own agent's observation. Again both are trained side by side. The clipped loss keeps the new policy near the one that
# played; section 6.3 has its theory.

# %%
MATES, SEES = 3, 18
spread_actor = pairwise_equal(Networks((SEES, 32, 32, 5), RUNS, seed=0), 1)
spread_critic = pairwise_equal(Networks((SEES * MATES, 32, 32, 1), RUNS, seed=100), 1)
with torch.no_grad():
    spread_actor.weights[-1].mul_(0.1)  # begin near the uniform policy
order = torch.tensor([[i, *(j for j in range(MATES) if j != i)] for i in range(MATES)])  # own observation first
in_view = torch.ones(RUNS, 1, SEES * MATES)
in_view[budget.seeds :, :, SEES:] = 0
SPREAD_GAMMA, SPREAD_LAMBDA, CLIP, EPOCHS, PARTS, SCALE = 0.9, 0.95, 0.2, 4, 4, 0.1


def central(observations):
    """(RUNS, ..., MATES, SEES) to what each agent's critic reads, (RUNS, rows, SEES * MATES)."""
    return observations[..., order, :].flatten(-2).flatten(1, -2) * in_view


def clipped_loss(logp, old_logp, advantage, clip=CLIP):
    """-min(rho A, clip(rho) A): no reward for moving a probability further than `clip` from the policy that played."""
    ratio = (logp - old_logp).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def play_spread(world):
    """One episode in every world. Observations (RUNS, T + 1, worlds, MATES, SEES), actions and team rewards."""
    world.reset()
    seen, acted, rewarded = [world.observe()], [], []
    for _ in range(EPISODE):
        logits = spread_actor(seen[-1].flatten(1, 2)).unflatten(1, (-1, MATES))
        acted.append(torch.distributions.Categorical(logits=logits).sample())
        rewarded.append(world.step(acted[-1]).mean(-1))  # one reward for the team
        seen.append(world.observe())
    return (torch.stack(parts, 1) for parts in (seen, acted, rewarded))


def estimate(values, rewards):
    """Generalized advantages, (RUNS, T, worlds, MATES), from values (RUNS, T + 1, ...): the cut-off end is bootstrapped."""
    deltas = rewards.unsqueeze(-1) + SPREAD_GAMMA * values[:, 1:] - values[:, :-1]
    advantages, running = torch.empty_like(deltas), 0.0
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + SPREAD_GAMMA * SPREAD_LAMBDA * running
        advantages[:, t] = running
    return advantages


# %%
spread_world = Spread((RUNS, budget.spread_worlds), seed=0)
spread_optimizer = torch.optim.Adam([*spread_actor.parameters(), *spread_critic.parameters()], 1e-2, foreach=True)
slower = torch.optim.lr_scheduler.LinearLR(spread_optimizer, 1.0, 0.1, budget.spread)
spread_returns, unexplained = [], []
curve = run.curve(
    "Three particles, three places", x="episode", y="return", lines={"MAPPO": "policy", "IPPO": "reference"}
)
compute.seed(1)
for iteration in run.progress(budget.spread, "spread", curve=curve):
    with torch.no_grad():
        seen, acted, rewarded = play_spread(spread_world)
        read = central(seen)
        values = spread_critic(read).view(RUNS, EPISODE + 1, -1, MATES)
        advantages = estimate(values, SCALE * rewarded)
        goals = (advantages + values[:, :-1]).flatten(1)
        unexplained.append((goals - values[:, :-1].flatten(1)).var(1) / goals.var(1))
        weights = advantages.flatten(1)
        weights = (weights - weights.mean(1, keepdim=True)) / (weights.std(1, keepdim=True) + 1e-8)
        own, acted = seen[:, :-1].flatten(1, 3), acted.flatten(1).unsqueeze(-1)
        read = read.view(RUNS, EPISODE + 1, -1, SEES * MATES)[:, :-1].flatten(1, 2)
        old_logp = spread_actor(own).log_softmax(-1).gather(-1, acted)[..., 0]
    for rows in (rows for _ in range(EPOCHS) for rows in torch.randperm(own.shape[1]).chunk(PARTS)):
        logp = spread_actor(own[:, rows]).log_softmax(-1).gather(-1, acted[:, rows])[..., 0]
        loss = clipped_loss(logp, old_logp[:, rows], weights[:, rows])
        error = (spread_critic(read[:, rows])[..., 0] - goals[:, rows]).square()
        spread_optimizer.zero_grad()
        (loss + error).mean(1).sum().backward()
        clip_grad_norms(list(spread_actor.parameters()), 0.5)
        clip_grad_norms(list(spread_critic.parameters()), 0.5)
        spread_optimizer.step()
    slower.step()
    spread_returns.append(rewarded.sum(1).mean(1))
    if iteration % 3 == 2:
        recent = torch.stack(spread_returns[-3:]).mean(0)
        curve.add("MAPPO", (iteration + 1) * budget.spread_worlds, recent[: budget.seeds].mean())
        curve.add("IPPO", (iteration + 1) * budget.spread_worlds, recent[budget.seeds :].mean())

# %% [markdown]
# For scale, two teams that drive straight: one by a plan, which gives each the place that makes the sum of the ways shortest;
# one by a rule of thumb, "always to the place nearest to me", in which nobody thinks of the others.


# %%
def drive(worlds, by_plan):
    """Mean return of a team of which each member drives to its place."""
    world, total = Spread((1, worlds), seed=3), 0.0
    ways = (world.landmarks.unsqueeze(-3) - world.position.unsqueeze(-2)).norm(dim=-1)  # (1, worlds, agents, places)
    plans = torch.tensor(list(permutations(range(MATES))))
    cost = torch.stack([ways[..., torch.arange(MATES), plan].sum(-1) for plan in plans], -1)
    places = plans[cost.argmin(-1)]
    for _ in range(EPISODE):
        if not by_plan:
            places = (world.landmarks.unsqueeze(-3) - world.position.unsqueeze(-2)).norm(dim=-1).argmin(-1)
        target = world.landmarks.gather(-2, places.unsqueeze(-1).expand(1, worlds, MATES, 2))
        push = target - world.position - 0.35 * world.velocity
        axis = push.abs().argmax(-1)
        along = push.gather(-1, axis.unsqueeze(-1)).squeeze(-1)
        total += world.step(torch.where(along.abs() < 0.03, 0, 1 + 2 * axis + (along > 0))).mean().item()
    return total


planned, nearest = drive(budget.tested, by_plan=True), drive(budget.tested, by_plan=False)

# %%
spread_kept = torch.stack(spread_returns, 1).numpy()
x = (np.arange(budget.spread) + 1) * budget.spread_worlds
fig = go.Figure()
band(fig, x, spread_kept[: budget.seeds], "MAPPO: critic sees all", "policy")
band(fig, x, spread_kept[budget.seeds :], "IPPO: critic sees its own", "reference", "dash")
for level, name in ((planned, "drives by a plan"), (nearest, "drives to the nearest place")):
    fig.add_hline(y=level, line_dash="dot", annotation_text=name, annotation_position="bottom left")
fig.update_layout(
    title="Three particles, three places", xaxis_title="episodes", yaxis_title="team's return of an episode"
)
run.figure(fig, "Returns over training, five seeds each.")
tail = max(1, budget.spread // 10)
spread_first = spread_kept[:, :2].mean()
mappo_end, ippo_end = (half[:, -tail:].mean(1) for half in (spread_kept[: budget.seeds], spread_kept[budget.seeds :]))
left_over = torch.stack(unexplained, 1)[:, -tail:].mean(1)
mappo_left, ippo_left = left_over[: budget.seeds].mean().item(), left_over[budget.seeds :].mean().item()
print(
    f"before {spread_first:.1f}; MAPPO {mappo_end.mean():.2f}, IPPO {ippo_end.mean():.2f}; by plan {planned:.1f}, to the nearest {nearest:.1f}"
)
print(
    f"share of the returns' variance that the critic leaves unexplained: MAPPO {mappo_left:.0%}, IPPO {ippo_left:.0%}"
)

# %% [markdown]
# ## Playing against each other
#
# Give two PPO learners opposed rewards and let them play. Rock, paper, scissors with a twist: winning with rock pays double. The
# equilibrium plays paper half the time. Two questions: where does the *last* policy go, and where does the *average* of all policies?

# %%
TWISTED = torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]])
_, twisted_row, _ = marl.solve_zero_sum(TWISTED)
SELF_PLAYERS, GAMES = 10, 256
player_logits = torch.nn.Parameter(0.5 * torch.randn(SELF_PLAYERS, 2, 3, generator=torch.Generator().manual_seed(0)))
player_optimizer = torch.optim.SGD([player_logits], 0.5)
generator, policies = torch.Generator().manual_seed(1), []
for _ in run.progress(budget.self_play, "self-play"):
    logps = player_logits.detach().log_softmax(-1)
    policies.append(logps.exp())
    hands = torch.multinomial(logps.exp().flatten(0, 1), GAMES, True, generator=generator).view(SELF_PLAYERS, 2, GAMES)
    won = TWISTED[hands[:, 0], hands[:, 1]]
    payoff = torch.stack([won, -won], 1)
    advantage = payoff - payoff.mean(-1, keepdim=True)
    for _ in range(2):
        new = player_logits.log_softmax(-1).gather(-1, hands)
        loss = clipped_loss(new, logps.gather(-1, hands), advantage)
        player_optimizer.zero_grad()
        loss.mean(-1).sum().backward()
        player_optimizer.step()
policies = torch.stack(policies, 1).double()  # (runs, steps, player, 3)
average = policies.cumsum(1) / torch.arange(1, budget.self_play + 1)[:, None, None]
last_exploitable, average_exploitable = (
    marl.exploitability(TWISTED, -TWISTED, p[:, :, 0], p[:, :, 1]).numpy() for p in (policies, average)
)
at = np.unique(np.linspace(0, budget.self_play - 1, 150).astype(int))
fig = go.Figure()
band(fig, at + 1, last_exploitable[:, at], "the last policy", "rejected")
band(fig, at + 1, average_exploitable[:, at], "the average of all so far", "chosen", "dash")
fig.update_layout(
    title="Self-play at rock, paper, scissors", xaxis_title="update", yaxis_title="exploitability (reward)"
)
run.figure(fig, "The last policy stays exploitable; the average of all policies comes near the equilibrium.")
last_end, average_end = last_exploitable[:, -100:].mean(), average_exploitable[:, -1].mean()
print(
    f"exploitability: last {last_end:.2f}, average {average_end:.2f}; equilibrium {[round(p, 3) for p in twisted_row.tolist()]}"
)

# %% [markdown]
# The last policy circles; the average is what fictitious play would answer to. League training, which keeps old opponents, is the
# same idea at scale.
#
# ## As at work: the trained team in PettingZoo itself
#
# The actor was trained in our worlds. PettingZoo's own must see the same return: its parallel interface speaks in dictionaries, one
# entry per agent. That is all the code that is needed.


# %%
def in_pettingzoo(copy_index, episodes, greedy=True):
    """Mean return per agent of one trained copy, acting apart, in mpe2's own simple_spread_v3."""
    environment, returns = simple_spread_v3.parallel_env(N=MATES, max_cycles=EPISODE), []
    for episode in range(episodes):
        observations, _ = environment.reset(seed=episode)
        total = 0.0
        while environment.agents:
            seen = torch.tensor(np.stack([observations[agent] for agent in environment.agents]))
            logits = spread_actor(seen.expand(RUNS, -1, -1))[copy_index]
            choice = logits.argmax(-1) if greedy else torch.distributions.Categorical(logits=logits).sample()
            observations, rewards, _, _, _ = environment.step(dict(zip(environment.agents, choice.tolist())))
            total += sum(rewards.values()) / MATES
        returns.append(total)
    return np.array(returns)


with torch.no_grad():
    at_work = in_pettingzoo(0, max(2, budget.tested // 10), greedy=False)
    twin, ours = Spread((RUNS, budget.tested), seed=77), 0.0
    for _ in range(EPISODE):
        logits = spread_actor(twin.observe().flatten(1, 2)).unflatten(1, (-1, MATES))
        ours = ours + twin.step(torch.distributions.Categorical(logits=logits).sample()).mean(-1)[0]
work_error = at_work.std() / np.sqrt(len(at_work))
print(f"seed 0 of MAPPO: {at_work.mean():.1f} ± {work_error:.1f} in PettingZoo, {ours.mean():.1f} in our worlds")

# %% [markdown]
# ## Results

# %%
run.result("seeds", budget.seeds)
run.result("value_gap", value_gap, format=".0e")
run.result("random_games", budget.random_games)
run.result("rps_exploitability", rps_end.mean(), format=".3f")
run.result("shapley_exploitability", shapley_end.mean(), format=".2f")
run.result("played", budget.played, format=",")
run.result("stretch_growth", growth, format=".1f")
run.result("game_value_0", game_values[0], format=".2f")
run.result("game_value_1", game_values[1], format=".2f")
run.result("doors_apart", best_apart, format=".2f")
run.result("doors_together", centralized, format=".2f")
run.result("doors_told", told, format=".2f")
run.result("best_memory", best_memory, format=".0f")
run.result("memory_longest", MEMORIES[-1], format=",.0f")
run.result("error_frozen_short", watched[False][0][0], format=".2f")
run.result("error_frozen_long", watched[False][0][-1], format=".2f")
run.result("error_learning_best", watched[True][0].min(), format=".2f")
run.result("error_learning_long", watched[True][0][-1], format=".2f")
for kind, name in (("iql", "iql"), ("vdn", "vdn"), ("qmix", "qmix"), ("signs free", "free")):
    run.result(f"two_step_{name}", teams[kind]["earned"].mean(), format=".1f")
for kind in ("vdn", "qmix"):
    for state, first in ((0, "first"), (2, "second")):
        cells = teams[kind]["table"][:, state].mean(0).flatten().tolist()
        for cell, value in zip(("aa", "ab", "ba", "bb"), cells):
            run.result(f"{kind}_{first}_{cell}", value + 0.0, format=".2f")
run.result("vdn_gap", vdn_gap, format=".0e")
run.result("free_gap", free_gap, format=".0e")
run.result("free_broken", share_broken, format=".0%")
run.result("dare_best_error", exact[8.0][0], format=".0f")
run.result("dare_learned_error", learned_error.mean(), format=".0f")
run.result("dare_qmix", stuck.mean(), format=".0f")
run.result("dare_weighted", freed.mean(), format=".0f")
run.result("physics_gap", physics_gap, format=".0e")
run.result("world_speedup", world_speedup, format=".0f")
run.result("talk_knows", knows, format=".1f")
run.result("talk_guesses", guesses, format=".1f")
run.result("talk_maddpg", talked["all"].mean(), format=".1f")
run.result("talk_maddpg_least", talked["all"].min(), format=".1f")
run.result("talk_maddpg_most", talked["all"].max(), format=".1f")
run.result("talk_own", talked["own"].mean(), format=".1f")
run.result("talk_own_least", talked["own"].min(), format=".1f")
run.result("talk_own_most", talked["own"].max(), format=".1f")
run.result("talk_reached_maddpg", reached["all"].mean(), format=".0%")
run.result("talk_reached_own", reached["own"].mean(), format=".0%")
run.result("talk_steps", budget.talk, format=",")
run.result("talk_episodes", budget.talk * budget.talk_worlds // EPISODE, format=",")
run.result("words_apart_maddpg", apart[: budget.seeds].mean(), format=".2f")
run.result("words_apart_own", apart[budget.seeds :].mean(), format=".2f")
run.result("spread_before", spread_first, format=".1f")
run.result("spread_mappo", mappo_end.mean(), format=".1f")
run.result("spread_ippo", ippo_end.mean(), format=".1f")
run.result("spread_planned", planned, format=".1f")
run.result("spread_nearest", nearest, format=".1f")
run.result("spread_episodes", budget.spread * budget.spread_worlds, format=",")
run.result("spread_left_mappo", mappo_left, format=".0%")
run.result("spread_left_ippo", ippo_left, format=".0%")
run.result("spread_at_work", at_work.mean(), format=".1f")
run.result("spread_ours", ours.mean(), format=".1f")
run.result("self_play_last", last_end, format=".2f")
run.result("self_play_average", average_end, format=".2f")

# %%
run.claim("support enumeration and the linear programme find the same values", value_gap < 1e-7)
run.claim("the library's fictitious play is ours", play_gap == 0.0)
run.claim("fictitious play comes near the equilibrium of a zero-sum game", rps_end.max() < 0.05)
run.claim("in Shapley's game it stays away from every equilibrium", shapley_end.min() > 0.25)
run.claim("nobody gains against the solution of the Markov game", saddle_gap < 1e-8)
run.claim(
    "private eyes cost, one bit of talk repairs", best_apart < centralized - 0.1 and abs(told - centralized) < 1e-12
)
run.claim("with a frozen partner the longest memory is best", int(watched[False][0].argmin()) == len(MEMORIES) - 1)
run.claim("with a learning partner a short memory is best", best_memory <= 64)
run.claim("and the longest is more than twice as wrong", watched[True][0][-1] > 2 * watched[True][0].min())
run.claim("VDN learns the best sum", vdn_gap < 0.01)
run.claim("VDN takes the sure 7 in every seed", (teams["vdn"]["earned"] == 7).all())
run.claim(
    "QMIX learns the table and takes 8 in every seed", qmix_gap < 0.05 and bool((teams["qmix"]["earned"] == 8).all())
)
run.claim(
    "without absolute values the table fits and the team fails",
    share_broken >= 0.3 and teams["signs free"]["earned"].mean() < 8,
)
run.claim(
    "on the dare game QMIX earns 0, weighted QMIX 8, in every seed",
    bool((stuck == 0).all()) and bool((freed == 8).all()),
)
run.claim("our particles are PettingZoo's", physics_gap < 1e-6)
run.claim("the lab's actor gradient is the library's", actor_gap < 1e-5)
run.claim("MADDPG beats the best that silence allows, on average over seeds", talked["all"].mean() > guesses)
run.claim("critics that see all beat critics that see their own", talked["all"].mean() > talked["own"].mean() + 1)
run.claim("MAPPO and IPPO both improve on the beginning", min(mappo_end.min(), ippo_end.min()) > spread_first + 4)
ends = (mappo_end.mean(), ippo_end.mean())
run.claim("both end near the rule of thumb", max(abs(end - nearest) for end in ends) < 3)
run.claim("both end far from the plan", planned - max(ends) > 6)
run.claim(
    "PettingZoo sees the same return as our worlds", abs(at_work.mean() - ours.mean().item()) < 4 * work_error + 0.5
)
run.claim("the average policy is nearer the equilibrium than the last", average_end < 0.3 * last_end)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Exploitability** (difficulty 1, 5 minutes). From the payoff tables `row`, `column` (m, n) and mixed strategies `x` (m,), `y` (n,):
# what both players together would gain by changing, each alone, to a best response.


# %%
def my_exploitability(row, column, x, y): ...


check("multi_agent.exploitability", my_exploitability)

# %% [markdown]
# **2. One step of fictitious play** (difficulty 1, 5 minutes). `row_counts` (m,) and `column_counts` (n,) say how often each action was
# played so far. Return the pair of actions played next; of equally good actions the first.


# %%
def my_next_actions(row, column, row_counts, column_counts): ...


check("multi_agent.next_actions", my_next_actions)

# %% [markdown]
# **3. QMIX's mixer** (difficulty 2, 8 minutes). From utilities `q` (agents,), raw hypernetwork outputs `w1` (agents, width), `b1` (width,),
# `w2` (width,) and `b2` (a number): the joint value. The hidden layer's activation is `elu`.


# %%
def my_mix(q, w1, b1, w2, b2): ...


check("multi_agent.mix", my_mix)

# %% [markdown]
# **4. The team's target** (difficulty 2, 8 minutes). VDN: `rewards` (B,) of the team, `next_utilities` (B, agents, actions) of the target
# network, `terminated` (B,) bool, `gamma`. Return the targets, (B,).


# %%
def my_target(rewards, next_utilities, terminated, gamma): ...


check("multi_agent.target", my_target)

# %% [markdown]
# **5. Whose action carries the gradient?** (difficulty 2, 8 minutes). MADDPG's actor loss for agent `agent`: `critic` maps the concatenated
# observations and actions (B, ...) to (B, 1); `actions` come from memory; `policies[i]` maps observation i to action i. Return one
# number, the mean over the batch.


# %%
def my_actor_loss(critic, observations, actions, policies, agent): ...


check("multi_agent.actor_loss", my_actor_loss)
