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
# # Values and the Bellman equations, solved exactly
#
# What is a state worth? In a world with few states this has an exact answer: a system of linear equations. Everything that
# learns from samples, from Q-learning to PPO, only estimates what this lab computes. So compute it once, and know what
# the estimates should have been.
#
# - **You will** compute returns from the last step to the first; solve for the four value functions of a gridworld; watch
#   value iteration close in on them by a factor $\gamma$ a sweep, and policy iteration arrive in a few rounds; go from $Q$ to
#   $V$ and back; solve Gymnasium's FrozenLake and Taxi; and compute the value of every prefix of an answer to "What is
#   17 + 25?". Then make the usual mistakes: bootstrap a terminal state, take a cut episode for a finished one, walk to the
#   neighbour that looks best.
# - **Time:** about a minute on a CPU with two cores, as long on a GPU: the tables are small.
#
# **Sections:** 5.2.1-5.2.7

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
# ## Returns, backwards
#
# A trajectory gives rewards $r_0,\dots,r_{T-1}$. The **return** from time $t$ is $G_t=r_t+\gamma r_{t+1}+\gamma^2r_{t+2}+\cdots$.
# Written as it stands, every $G_t$ is a sum of its own, $T^2/2$ terms in all. But $G_t=r_t+\gamma G_{t+1}$: begin at the
# end, and each step costs one multiplication.

# %%
import math
import time

import gymnasium as gym
import numpy as np
import plotly.graph_objects as go
import torch
from scipy.optimize import linprog
from scipy.signal import lfilter

from alignlab import compute, decoding, display, lab, logprobs, models, palette, text
from alignlab.exercises import check
from alignlab.rl import mdp as dynamic
from alignlab.rl.curves import band
from alignlab.rl.gridworld import ACTIONS, GridWorld
from alignlab.rl.mdp import FiniteMDP
from alignlab.rl.returns import discounted_returns
from alignlab.tasks import arithmetic

run = lab.Lab("ch05_values_and_bellman")
budget = run.budget(
    full=dict(lengths=(10, 30, 100, 300, 1000, 3000), seeds=20, episodes=(10, 30, 100, 300, 1000, 3000, 10_000), plays=400, answers=4000),
    quick=dict(lengths=(10, 100), seeds=5, episodes=(10, 100, 1000), plays=20, answers=100),
)  # fmt: skip
compute.seed(0)


def by_definition(rewards, gamma):
    """Each return as its own sum: T^2 / 2 terms."""
    T = len(rewards)
    return [sum(gamma**k * rewards[t + k] for k in range(T - t)) for t in range(T)]


def backwards(rewards, gamma):
    """G_t = r_t + gamma G_{t+1}, from the last step: T terms."""
    returns, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


rewards = [-1.0, 0.0, 2.0, 0.0, 10.0]
run.table(
    [[f"t = {t}", r, a, b] for t, (r, a, b) in enumerate(zip(rewards, by_definition(rewards, 0.9), backwards(rewards, 0.9)))],
    ["time", "reward", "G by definition", "G backwards"],
    caption="Five rewards, gamma = 0.9",
)  # fmt: skip

# %% [markdown]
# The same numbers three more times: the library's function, the filter that Spinning Up and others use (a first-order
# recursion is what electrical engineers call an IIR filter), and a linear system. $G=r+\gamma NG$ with $N$ the matrix
# that shifts by one step, so $G=(I-\gamma N)^{-1}r$. Remember that form; in a moment it returns with states for steps.

# %%
long = torch.randn(1000, dtype=torch.float64)
shift = torch.diag(torch.ones(999, dtype=torch.float64), 1)  # N: (T, T)
others = {
    "library": discounted_returns(long, 0.97),
    "scipy's filter": torch.from_numpy(lfilter([1.0], [1.0, -0.97], long.numpy()[::-1])[::-1].copy()),
    "linear system": torch.linalg.solve(torch.eye(1000, dtype=torch.float64) - 0.97 * shift, long),
}
reference = torch.tensor(backwards(long.tolist(), 0.97), dtype=torch.float64)
return_gap = max((other - reference).abs().max().item() for other in others.values())
print(f"1,000 rewards, four ways: the largest difference is {return_gap:.0e}")


# %%
def seconds(function, *arguments):
    """The shortest of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


timed = [(T, seconds(by_definition, [1.0] * T, 0.99), seconds(backwards, [1.0] * T, 0.99)) for T in budget.lengths]
fig = go.Figure()
for column, (name, role) in enumerate((("by definition", "rejected"), ("backwards", "chosen")), 1):
    fig.add_scatter(
        x=np.float32([row[0] for row in timed]), y=np.float32([row[column] for row in timed]), name=name,
        mode="lines+markers", line={"color": palette.MIDDLE[role]},
    )  # fmt: skip
fig.update_xaxes(type="log").update_yaxes(type="log")
fig.update_layout(title="Seconds for all returns of one episode", xaxis_title="steps", yaxis_title="seconds")
run.figure(fig)
speedup = timed[-1][1] / timed[-1][2]
print(f"at {timed[-1][0]:,} steps: {speedup:,.0f} times faster")

# %% [markdown]
# ### What gamma does
#
# A reward $k$ steps ahead counts $\gamma^k$. It has lost half of its weight after $\log\frac12/\log\gamma$ steps, and all
# weights together are $1/(1-\gamma)$, the **horizon**. Take an answer of ten tokens, `17 + 25 = 42.` and its end, with a
# reward of 1 at the end. What return does each token get?

# %%
token_rewards = torch.tensor([0.0] * 9 + [1.0], dtype=torch.float64)
GAMMAS = (0.5, 0.9, 0.99, 1.0)
run.table(
    [[f"{gamma:g}", *(f"{g:.3f}" for g in discounted_returns(token_rewards, gamma)),
      "∞" if gamma == 1 else f"{1 / (1 - gamma):.0f}"] for gamma in GAMMAS],
    ["gamma", *(f"t={t}" for t in range(10)), "horizon"],
    caption="Return of each of ten tokens; the only reward, 1, comes at the end",
)  # fmt: skip
first_token = {gamma: discounted_returns(token_rewards, gamma)[0].item() for gamma in GAMMAS}

# %% [markdown]
# For answers this book takes $\gamma=1$: an answer is short, its end is sure, and a discount would only tell the model that
# early tokens matter less, and short answers more.
#
# ### Ended, or only cut off?
#
# A pole that never falls earns 1 a step, for ever: at $\gamma=0.99$ every state is worth $1/(1-0.99)=100$. A clock stops the
# episode after 200 steps. Take that for an end, and the last state seems to be worth 1.

# %%
steps = torch.ones(200, dtype=torch.float64)
taken_for_end = discounted_returns(steps, 0.99)
bootstrapped = discounted_returns(steps, 0.99, last_value=100.0)  # the value of the state where the clock stopped
fig = go.Figure()
for name, values, role in (
    ("cut taken for an end", taken_for_end, "rejected"),
    ("cut, then the value of the last state", bootstrapped, "chosen"),
):
    fig.add_scatter(
        x=np.arange(200)[::2], y=values.float().numpy()[::2], name=name, line={"color": palette.MIDDLE[role]}
    )
fig.update_layout(
    title="The same 200 rewards, two returns", xaxis_title="step", yaxis_title="return", yaxis_range=[0, 110]
)
run.figure(fig, "Taken for an end, returns fall from 87 to 1; with the last state's value they stay at 100.")

# %% [markdown]
# A network trained on the red line learns that a standing pole is worth less the later it is, which it can't see from the
# pole. Gymnasium tells the two apart: `terminated` (nothing follows) and `truncated` (the clock ran out).
#
# ## A world
#
# Three rows, four columns, one wall: the world of Russell and Norvig's textbook. A move goes where you want with
# probability 0.8 and to either side with 0.1 each; a wall leaves you where you are. Each step costs 0.04. Entering G pays 1,
# entering X costs 1, and both end the episode.


# %%
def show(*pictures, text=""):
    """Several SVGs side by side, each with its caption."""
    cells = "".join(
        f'<figure style="margin:0;flex:1 1 240px;max-width:{width}px"><figcaption style="font-size:.9rem;margin-bottom:.3em">'
        f"{caption}</figcaption>{svg}</figure>"
        for caption, svg, width in pictures
    )
    html = f'<div style="display:flex;flex-wrap:wrap;gap:1.2em">{cells}</div>'
    display.show({"text/html": html, "text/plain": text or "; ".join(caption for caption, *_ in pictures)})


grid = GridWorld("textbook", slip=0.2, step_reward=-0.04)
GAMMA = 0.95
world = grid.mdp(GAMMA)
start_state = int(world.start.argmax())
print(f"{world.states} states, {world.actions} actions ({', '.join(ACTIONS)})")
print("transitions", tuple(world.transitions.shape), " rewards", tuple(world.rewards.shape))
for s2 in world.transitions[start_state, 0].nonzero().flatten().tolist():
    print(f"start, up -> {grid.cells[s2]} with probability {world.transitions[start_state, 0, s2]:.1f}")

# %% [markdown]
# Eleven cells, 44 distributions over what follows, 44 expected rewards: that is the whole world. `transitions[s, a, s']` is
# $p(s'\mid s,a)$. A terminal state leads to itself, at reward 0.
#
# ## Four value functions
#
# A policy $\pi(a\mid s)$ takes each state to the next with probability $P_{ss'}=\sum_a\pi(a\mid s)\,p(s'\mid s,a)$ and pays
# $r_s=\sum_a\pi(a\mid s)\,r(s,a)$. What the state is worth is what it pays plus what the next one is worth:
# $V=r+\gamma PV$. Eleven equations with eleven unknowns. `torch.linalg.solve` is all it takes.

# %%
uniform = world.uniform()  # each action equally often: (S, A)
P = torch.einsum("sa,sat->st", uniform, world.transitions)
r = (uniform * world.rewards).sum(-1)
V_pi = torch.linalg.solve(torch.eye(world.states, dtype=torch.float64) - GAMMA * P, r)
Q_pi = world.rewards + GAMMA * world.transitions @ V_pi  # (S, A)

# %% [markdown]
# The other two belong to no particular policy. $V^*(s)$ is the best that any policy can get from $s$. Then
# $V^*(s)=\max_a\,[r(s,a)+\gamma\sum_{s'}p(s'\mid s,a)V^*(s')]$: the maximum makes it nonlinear, and no `solve` helps. Apply
# the right side again and again, from anything, until nothing changes. That is **value iteration**.

# %%
V_star = torch.zeros(world.states, dtype=torch.float64)
changes = []
while not changes or changes[-1] > 1e-12:
    Q_star = world.rewards + GAMMA * world.transitions @ V_star
    new = Q_star.max(-1).values
    changes.append((new - V_star).abs().max().item())
    V_star = new
best = torch.nn.functional.one_hot(Q_star.argmax(-1), 4).double()
print(f"{len(changes)} sweeps")
show(
    ("V of the random policy", grid.svg(V_pi, uniform, "Values of the random policy", scale=1.0), 270),
    ("V* and an optimal policy", grid.svg(V_star, best, "Optimal values and an optimal policy", scale=1.0), 270),
)
run.table(
    [[action, f"{Q_pi[start_state, a]:.3f}", f"{Q_star[start_state, a]:.3f}"] for a, action in enumerate(ACTIONS)]
    + [["V", f"{V_pi[start_state]:.3f}", f"{V_star[start_state]:.3f}"]],
    ["at the start", "random policy", "optimal"],
    caption="Q of the four actions at the start, and V: the mean of the column on the left, its maximum on the right",
)

# %% [markdown]
# Are they right? Four checks that share nothing with the code above: the library; **episodes**, ten thousand of them,
# whose returns must average to $V$; a **linear programme** for $V^*$ (the smallest $V$ that is nowhere below
# $r(s,a)+\gamma\sum p\,V$, solved by scipy); and the figures printed in Russell and
# Norvig's book (third edition, figure 17.3; $\gamma=1$, and the 0.04 of the state itself is included there).


# %%
def by_linear_programme(process):
    """V* as the smallest V with V(s) >= r(s, a) + gamma sum p V for all s and a; V = 0 in terminal states."""
    S, A = process.states, process.actions
    eye = np.eye(S)[:, None, :].repeat(A, 1)
    bounds = [(0, 0) if over else (None, None) for over in process.terminal.tolist()]
    rows, limits = (process.gamma * process.transitions.numpy() - eye).reshape(-1, S), -process.rewards.numpy().ravel()
    return torch.from_numpy(linprog(np.ones(S), A_ub=rows, b_ub=limits, bounds=bounds).x)


library_gap = max(
    (dynamic.values(world, uniform) - V_pi).abs().max().item(),
    (dynamic.value_iteration(world).values - V_star).abs().max().item(),
    (dynamic.policy_iteration(world).values - V_star).abs().max().item(),
)
programme_gap = (by_linear_programme(world) - V_star).abs().max().item()
PRINTED = {(0, 0): 0.812, (0, 1): 0.868, (0, 2): 0.918, (1, 0): 0.762, (1, 2): 0.660, (2, 0): 0.705, (2, 1): 0.655,
           (2, 2): 0.611, (2, 3): 0.388}  # fmt: skip
undiscounted = dynamic.value_iteration(grid.mdp(1.0)).values
printed_gap = max(abs(undiscounted[grid.number[cell]].item() - 0.04 - value) for cell, value in PRINTED.items())
print(f"library {library_gap:.0e}, linear programme {programme_gap:.0e}, textbook (three digits) {printed_gap:.0e}")

# %% [markdown]
# And the episodes. That is a **Monte Carlo** estimate: it never asks for the tables, and it is never exact. Its error falls
# with the square root of the number of episodes, so that one more digit costs a hundred times as many.

# %%
most = budget.episodes[-1]
errors = []
for seed in run.progress(budget.seeds, "episodes"):
    episodes = dynamic.sample(world, uniform, most, 400, seed)
    returns = discounted_returns(episodes.rewards, GAMMA)[:, 0]  # from the start state, one an episode
    errors.append([abs(returns[:n].mean() - V_pi[start_state]).item() for n in budget.episodes])
errors = np.array(errors)  # (seeds, numbers of episodes)
spread = returns.std().item()
fig = go.Figure()
band(fig, budget.episodes, errors, "Monte Carlo", "value")
expected = np.float32([spread * math.sqrt(2 / math.pi / n) for n in budget.episodes])
fig.add_scatter(
    x=np.float32(budget.episodes),
    y=expected,
    name="expected: 0.80 σ / √n",
    line={"color": palette.MIDDLE["reference"], "dash": "dash"},
)
fig.update_xaxes(type="log").update_yaxes(type="log")
fig.update_layout(
    title="Error of V(start), estimated from n episodes", xaxis_title="episodes", yaxis_title="|estimate - exact|"
)
run.figure(fig)
mc_slope = np.polyfit(np.log(budget.episodes), np.log(errors.mean(0)), 1)[0]
print(f"the error falls as n^{mc_slope:.2f}; V(start) = {V_pi[start_state]:.4f}, last estimate {returns.mean():.4f}")

# %% [markdown]
# ## The Bellman equations, as a machine
#
# Call one application of the right side $T$: $TV=\max_a[r+\gamma PV]$. The exact values are what $T$ leaves alone. From
# anywhere else, $T$ brings you nearer: two value functions that differ by at most $d$ differ by at most $\gamma d$ after it.
# So after $k$ sweeps the error is at most $\gamma^k$ times the first, from any start. Begin from 100 random ones, from all
# values 10 too high, and from all 10 too low:


# %%
def errors_of_sweeps(process, V, count):
    """Largest error before the first sweep and after each, from starts V (n, S): (n, count + 1)."""
    exact = dynamic.policy_iteration(process).values
    V = (exact + V).masked_fill(process.terminal, 0.0)
    found = [(V - exact).abs().max(-1).values]
    for _ in range(count):
        Q = process.rewards + process.gamma * torch.einsum("sat,nt->nsa", process.transitions, V)
        V = Q.max(-1).values
        found.append((V - exact).abs().max(-1).values)
    return torch.stack(found, 1).clamp_min(1e-14)


SWEEPS = 1200
noise = 10 * (2 * torch.rand(100, world.states, dtype=torch.float64) - 1)
level = torch.full((1, world.states), 10.0, dtype=torch.float64)
fig, rows, worst_factor, sweeps_to = go.Figure(), [], {}, {}
for gamma in (0.5, 0.9, 0.99):
    process = grid.mdp(gamma)
    found = errors_of_sweeps(process, torch.cat([noise, level, -level]), SWEEPS)
    real = found[:, 1:] > 1e-9
    worst_factor[gamma] = torch.where(real, found[:, 1:] / found[:, :-1], 0.0).max().item()
    for start, lines in (("random", found[:100]), ("high", found[100:101]), ("low", found[101:])):
        sweeps_to[start, gamma] = int((lines.max(0).values > 0.01).sum())
    rows.append([f"{gamma:g}", f"{worst_factor[gamma]:.4f}", *(sweeps_to[start, gamma] for start in ("random", "high", "low")),
                 math.ceil(math.log(0.01 / 10) / math.log(gamma))])  # fmt: skip
    if gamma == 0.9:
        x = np.arange(61)
        band(fig, x, found[:100, :61].numpy(), "100 random starts", "policy")
        for name, line, role in (("all 10 too high", found[100], "rejected"), ("all 10 too low", found[101], "chosen")):
            fig.add_scatter(x=x, y=line[:61].float().numpy(), name=name, line={"color": palette.MIDDLE[role]})
        fig.add_scatter(
            x=x,
            y=np.float32(10 * gamma**x),
            name="the guarantee",
            line={"color": palette.MIDDLE["reference"], "dash": "dot"},
        )
fig.update_yaxes(type="log", range=[-7, 1.5])
fig.update_layout(
    title="Value iteration at gamma = 0.9, from three kinds of starts",
    xaxis_title="sweeps",
    yaxis_title="largest error",
)
run.figure(fig)
run.table(
    rows, ["gamma", "worst factor of a sweep", "random starts", "too high", "too low", "guaranteed"],
    caption="Sweeps until no value is off by more than 0.01, from an error of 10",
)  # fmt: skip

# %% [markdown]
# No sweep does worse than the factor $\gamma$, and from values that are too high many do no better. An optimist believes that
# staying where he is leads to great things, and each sweep takes only $1-\gamma$ of that belief away. From too low, the truth
# comes in from the goal at the speed of walking, and the errors are gone after a dozen sweeps or so, whatever $\gamma$. Every
# algorithm that learns by bootstrapping shares this: overestimates live long.
#
# ### Sweeps, rounds, and a faster order
#
# Three ways to the same $V^*$. **Value iteration** as above: all states read the old values (a Jacobi sweep). The same **in
# place**: state by state, each reading what has just been written (Gauss-Seidel). **Policy iteration**: solve for $V^\pi$
# exactly, act greedily on it, solve again. Five worlds, two of them Gymnasium's.

# %%
LAKE = gym.make("FrozenLake8x8-v1")
worlds = {
    "textbook, 4x3": grid.mdp(0.99),
    "maze, 8x6": GridWorld("maze", slip=0.2).mdp(0.99),
    "four rooms": GridWorld("rooms", slip=1 / 3, step_reward=0.0).mdp(0.99),
    "FrozenLake 8x8": FiniteMDP.from_gym(LAKE, 0.99),
    "Taxi": FiniteMDP.from_gym(gym.make("Taxi-v4"), 0.99),
}
rows, agreement = [], 0.0
for name, process in run.progress(list(worlds.items()), "worlds"):
    found = {}
    for way, solve in (
        ("sweeps", dynamic.value_iteration),
        ("in place", lambda p: dynamic.value_iteration(p, in_place=True)),
        ("rounds", dynamic.policy_iteration),
    ):
        begin = time.perf_counter()
        found[way] = (solve(process), time.perf_counter() - begin)
    exact = found["rounds"][0].values
    programme = by_linear_programme(process)
    agreement = max(agreement, *((solution.values - exact).abs().max().item() for solution, _ in found.values()))
    agreement = max(agreement, (programme - exact).abs().max().item())
    rows.append(
        [
            name,
            process.states,
            *(len(found[way][0].changes) for way in found),
            *(f"{1e3 * found[way][1]:.0f} ms" for way in found),
        ]
    )
run.table(
    rows, ["world", "states", "sweeps", "sweeps in place", "rounds", "time, sweeps", "in place", "rounds, each a solve"],
    caption="To the exact optimum (values change by less than 1e-10)",
)  # fmt: skip
counts = {row[0]: row[2:5] for row in rows}
print(f"all four ways (the linear programme included) agree to {agreement:.0e}")

# %% [markdown]
# Policy iteration arrives in a handful of rounds, since each solves to the end what a sweep only nudges; there are
# finitely many policies, and each round is a better one. In place takes fewer sweeps, here run as a Python loop and so slower.
# None of them works for language: a table of $V$ has one entry a state, and the answers of twelve tokens alone
# are $49152^{12}$ states.
#
# ### What the reward says, the optimum does
#
# The same world, four prices for a step. Not one line of the algorithm changes.

# %%
pictures, regimes = [], {}
for price in (-2.0, -0.4, -0.04, 0.0):
    priced = GridWorld("textbook", slip=0.2, step_reward=price)
    process = priced.mdp(0.999)
    solution = dynamic.policy_iteration(process)
    enters = torch.einsum(
        "s,sa,sat->t", dynamic.occupancy(process.with_gamma(1.0), solution.policy), solution.policy, process.transitions
    )
    pit = enters[priced.number[1, 3]].item()
    length = dynamic.occupancy(process.with_gamma(1.0), solution.policy).sum().item()
    regimes[price] = (pit, length)
    pictures.append(
        (
            f"a step {price:g}: pit {pit:.1%}, {length:.1f} steps",
            priced.svg(solution.values, solution.policy, f"Optimal policy where a step costs {-price:g}"),
            270,
        )
    )
show(*pictures)

# %% [markdown]
# At $-2$ the pit is a relief, and from the cells beside it the agent jumps in. At $-0.4$ these cells take the short way
# past it. At $-0.04$ they go round. Where steps are free the agent pushes against walls, for as long as it takes, rather than
# risk anything. You wrote one number; the optimum read it to the letter. The same happens when a reward model has one wrong
# number.
#
# ## From Q to V and back
#
# | from | to | | needs |
# |---|---|---|---|
# | $Q^\pi$ | $V^\pi$ | $\sum_a\pi(a\mid s)\,Q^\pi(s,a)$ | the policy |
# | $V^\pi$ | $Q^\pi$ | $r(s,a)+\gamma\sum_{s'}p(s'\mid s,a)V^\pi(s')$ | the model of the world |
# | $Q^*$ | $V^*$ | $\max_aQ^*(s,a)$ | nothing |
# | $V^*$ | $Q^*$ | $r(s,a)+\gamma\sum_{s'}p(s'\mid s,a)V^*(s')$ | the model of the world |
#
# One line each; there and back must give what we began with.

# %%
there_and_back = max(
    ((uniform * Q_pi).sum(-1) - V_pi).abs().max().item(),
    (dynamic.q_from_v(world, dynamic.v_from_q(Q_pi, uniform)) - Q_pi).abs().max().item(),
    (Q_star.max(-1).values - V_star).abs().max().item(),
    (dynamic.q_from_v(world, dynamic.v_from_q(Q_star)) - Q_star).abs().max().item(),
)
advantage = Q_pi - V_pi[:, None]  # A(s, a): how much better than usual
print(
    f"largest difference {there_and_back:.0e}; mean advantage under the policy {(uniform * advantage).sum(-1).abs().max():.0e}"
)

# %% [markdown]
# The right column is why Q-learning learns $Q$. With $Q^*$ you act at once: take the largest. With $V^*$ you must know where
# actions lead. "Step to the neighbour with the highest $V^*$" forgets that you may slip. See what it costs beside a cliff
# (a step costs 1, a fall 100 and sends you back to the start):

# %%
cliff = GridWorld(["......."] * 2 + ["SCCCCCG"], slip=0.2, step_reward=-1.0, goal=0.0, cliff=-100.0)
process = cliff.mdp(0.99)
solution = dynamic.policy_iteration(process)


def to_the_best_neighbour(world, numbers):
    """The mistake: in each state the action whose intended cell has the highest V."""
    policy = torch.zeros(len(world.cells), 4, dtype=torch.float64)
    for s in range(len(world.cells)):
        looks = []
        for a in range(4):
            (_, s2, reward), *more = world.outcomes(s, a)
            looks.append(-math.inf if more or reward == world.cliff else numbers[s2].item())
        policy[s, int(np.argmax(looks))] = 1.0
    return policy


neighbour = to_the_best_neighbour(cliff, solution.values)
neighbour_values = dynamic.values(process, neighbour)
first = int(process.start.argmax())
show(
    (f"greedy on Q*: {solution.values[first]:.1f} from the start", cliff.svg(solution.values, solution.policy, "The optimal policy keeps away from the cliff", scale=100, digits=0), 450),
    (f"to the best neighbour: {neighbour_values[first]:.1f}", cliff.svg(neighbour_values, neighbour, "The best-neighbour policy walks along the cliff", scale=100, digits=0), 450),
)  # fmt: skip

# %% [markdown]
# ## The faces of four mistakes
#
# **A terminal state that is bootstrapped.** Give the goal a value of its own, as if the episode went on and the reward came
# again and again. **Mean for max**: the values of the random policy, under the name of $V^*$. **The discount one step early**
# or **not at all**. Each looks like a table of plausible numbers. What tells them apart is the exact answer.


# %%
def sweeps(update, count=2000):
    V = torch.zeros(world.states, dtype=torch.float64)
    for _ in range(count):
        V = update(V)
    return V


goal = grid.number[0, 3]
enters_goal = torch.zeros(world.states, dtype=torch.float64)
enters_goal[goal] = 1.0
mistakes = {
    "right": sweeps(lambda V: (world.rewards + GAMMA * world.transitions @ V).max(-1).values),
    "terminal state bootstrapped": sweeps(
        lambda V: (world.rewards + GAMMA * world.transitions @ V).max(-1).values + enters_goal
    ),
    "mean for max": sweeps(lambda V: (world.rewards + GAMMA * world.transitions @ V).mean(-1)),
    "discount one step early": sweeps(lambda V: (GAMMA * (world.rewards + world.transitions @ V)).max(-1).values),
    "discount left out, in 2,000 sweeps": sweeps(lambda V: (world.rewards + world.transitions @ V).max(-1).values),
}
rows, losses = [], {}
for name, V in mistakes.items():
    acts = dynamic.greedy(world.rewards + GAMMA * world.transitions @ V, best)  # of equal actions the optimal one
    losses[name] = (V_star - dynamic.values(world, acts)).max().item()
    rows.append([name, f"{V[start_state]:.3f}", f"{V[grid.number[0, 2]]:.3f}", f"{V[goal]:.3f}", f"{losses[name]:.3f}"])
run.table(
    rows, ["values", "start", "beside the goal", "the goal itself", "what the greedy policy loses"],
    caption="Four wrong value iterations; last column: V* minus the true value of the policy that is greedy on them, in the worst state",
)  # fmt: skip
try:
    dynamic.values(grid.mdp(1.0), torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).expand(world.states, 4))
except ValueError as error:
    print("gamma = 1 and a policy that may never end:", error)

# %% [markdown]
# Read the last column. Some of the wrong tables lead to the very policy that the right one leads to. The agent walks well, and
# nobody notices until a value is used as a number: as a baseline, in a comparison, against a reward. The values of the
# random policy are among them: to act greedily on them is the first round of policy iteration, and in this small world one
# round is enough. The bootstrapped goal changes what the agent does: beside a goal of 20 the pit's 1 is small change. And
# the library refuses the case that has no answer.
#
# ## As one would at work: FrozenLake in ten lines
#
# Gymnasium's toy environments carry their tables. Read them, solve, play in the real environment. Its clock stops an episode
# after 200 steps, which the tables don't know: so we compute both chances of arriving, with the clock (200 sweeps
# backwards from nothing) and without.

# %%
lake = FiniteMDP.from_gym(LAKE, gamma=1.0)
plan = dynamic.policy_iteration(lake.with_gamma(0.9999))
actions = plan.policy.argmax(-1).tolist()
P_lake, r_lake = dynamic.policy_transitions(lake, plan.policy)
chance = torch.zeros(lake.states, dtype=torch.float64)
for _ in range(LAKE.spec.max_episode_steps):
    chance = r_lake + P_lake @ chance
without_clock = (lake.start @ dynamic.values(lake, plan.policy)).item()
with_clock = (lake.start @ chance).item()
print(
    f"reaches the goal: {without_clock:.1%} without a clock, {with_clock:.1%} within {LAKE.spec.max_episode_steps} steps"
)

# %%
arrived = []
for seed in run.progress(5, "FrozenLake"):
    LAKE.reset(seed=seed)
    count = 0.0
    for _ in range(budget.plays):
        state, over = LAKE.reset()[0], False
        while not over:
            state, reward, terminated, truncated, _ = LAKE.step(actions[state])
            over = terminated or truncated
        count += reward
    arrived.append(count / budget.plays)
print(f"played, five seeds: {min(arrived):.1%} to {max(arrived):.1%}, mean {np.mean(arrived):.1%}")

# %% [markdown]
# ## The value of a prefix
#
# A state is the text so far, an action a token, and an episode an answer. Ask `tiny`, our model of 0.9 million parameters and
# 512 tokens, "What is 17 + 25?". Its reward is 1 if the last number of its answer is 42. At temperature 1 it is nearly always
# right, and every prefix of its answer is worth nearly 1. So heat it: our policy is `tiny` at temperature 4, without tokens of
# less than a tenth of the likeliest one's probability (min-p 0.1). Few enough are left that the whole tree can be written down.

# %%
tiny, tokenizer = models.load("tiny", "cpu")
PROBLEM = arithmetic.Problem(17, "+", 25)
QUESTION = PROBLEM.questions[0]
HOT = decoding.Sampling(temperature=4.0, min_p=0.1)
prompt = text.encode_prompt(tokenizer, QUESTION)
END = tokenizer.eos_token_id
batch = text.pad([text.encode_response(tokenizer, QUESTION, PROBLEM.answer)], tokenizer.pad_token_id)
with torch.no_grad():
    plain_right = logprobs.sequence_logprobs(tiny, *batch).exp().item()
print(f"at temperature 1 it says {PROBLEM.answer!r} with probability {plain_right:.1%}")


@torch.no_grad()
def next_token(prefixes):
    """pi(a | s) for prefixes of one length: (n, V)."""
    ids = torch.tensor([prompt + list(prefix) for prefix in prefixes])
    return HOT.apply(tiny(ids).logits[:, -1], ids).double().softmax(-1)


layers, open_prefixes = [], [()]
while open_prefixes:  # one layer of the tree at a time
    policy_rows = next_token(open_prefixes)
    layers.append((open_prefixes, policy_rows))
    open_prefixes = [
        (*prefix, token)
        for prefix, row in zip(open_prefixes, policy_rows)
        for token in row.nonzero().flatten().tolist()
        if token != END
    ]
prefixes = [prefix for layer, _ in layers for prefix in layer]
print(
    f"{len(prefixes)} prefixes, {sum(int((row > 0).sum()) for _, rows in layers for row in rows)} ways to go on, {sum(int(row[END] > 0) for _, rows in layers for row in rows)} finished answers"
)

# %% [markdown]
# It is a Markov decision process like any other: one state a prefix and one more for "finished"; 512 actions, of which each
# prefix allows a few; $\gamma=1$. Put it into the same tables and call the same functions.

# %%
number = {prefix: s for s, prefix in enumerate(prefixes)}
FINISHED = len(prefixes)
tokens = sorted({token for _, rows in layers for token in rows.nonzero()[:, 1].tolist()})  # actions that occur
column = {token: a for a, token in enumerate(tokens)}
p = torch.zeros(FINISHED + 1, len(tokens), FINISHED + 1, dtype=torch.float64)
reward = torch.zeros(FINISHED + 1, len(tokens), dtype=torch.float64)
pi = torch.zeros(FINISHED + 1, len(tokens), dtype=torch.float64)
p[:, :, FINISHED] = 1.0  # what the policy never says ends the answer, at reward 0
pi[FINISHED, 0] = 1.0
for layer, rows in layers:
    for prefix, row in zip(layer, rows):
        s = number[prefix]
        pi[s] = row[tokens]
        for token in row.nonzero().flatten().tolist():
            if token == END:
                reward[s, column[token]] = float(arithmetic.correct(PROBLEM, tokenizer.decode(list(prefix))))
            else:
                p[s, column[token]] = torch.nn.functional.one_hot(
                    torch.tensor(number[*prefix, token]), FINISHED + 1
                ).double()
start = torch.zeros(FINISHED + 1, dtype=torch.float64)
start[0] = 1.0
language = FiniteMDP(p, reward, 1.0, start, torch.arange(FINISHED + 1) == FINISHED)
V_text = dynamic.values(language, pi)
Q_text = dynamic.q_from_v(language, V_text)
best_text = dynamic.policy_iteration(language, pi)
print(
    f"{language.states} states, {language.actions} actions; V of the empty answer: {V_text[0]:.4f}; V*: {best_text.values[0]:.4f}"
)

# %% [markdown]
# The value of the empty answer is the chance of a right one. Sample answers to check it. Then read the value along two
# answers, one right, one wrong. Until the decisive token nothing happens.

# %%
said = []
for seed in run.progress(5, "answers"):
    answers = decoding.answer(
        tiny, tokenizer, [QUESTION] * (budget.answers // 5), 16, HOT, torch.Generator().manual_seed(seed)
    )
    said.append([arithmetic.correct(PROBLEM, answer) for answer in answers])
rates = [sum(flags) / len(flags) for flags in said]
print(f"sampled, five seeds: {min(rates):.3f} to {max(rates):.3f}, mean {np.mean(rates):.3f}; exact {V_text[0]:.3f}")


# %%
def along(answer):
    """The tokens of an answer, and the value before the first and after each one."""
    ids = tokenizer.encode(answer, add_special_tokens=False)
    values = [V_text[number[tuple(ids[:n])]].item() for n in range(len(ids) + 1)]
    return [tokenizer.decode([i]) for i in ids], [*values, float(arithmetic.correct(PROBLEM, answer))], ids


reach = dynamic.occupancy(language, pi)  # the chance that an answer passes through each prefix
finished = {}
for prefix in prefixes:
    ends = reach[number[prefix]].item() * pi[number[prefix], column[END]].item() if END in column else 0.0
    if ends > 0:
        finished[tokenizer.decode(list(prefix))] = ends
ranked = sorted(finished.items(), key=lambda item: -item[1])
wrong = [answer for answer, _ in ranked if not arithmetic.correct(PROBLEM, answer)]
wrong_sum = next(answer for answer in wrong if answer.startswith("17 + 25 = "))  # copied well, added badly
wrong_copy = next(answer for answer in wrong if not answer.startswith("17 + 25"))  # copied badly
run.table(
    [[answer, "right" if arithmetic.correct(PROBLEM, answer) else "wrong", f"{chance:.1%}"] for answer, chance in ranked[:8]],
    ["answer", "verdict", "probability"],
    caption=f"The likeliest of {len(finished)} answers to “{QUESTION}” under the hot policy",
)  # fmt: skip

# %%
right_tokens, right_values, right_ids = along(PROBLEM.answer)
fig = go.Figure()
for answer, role, dash in (
    (PROBLEM.answer, "chosen", "solid"),
    (wrong_sum, "rejected", "dash"),
    (wrong_copy, "prompt", "dot"),
):
    values = along(answer)[1]
    fig.add_scatter(
        x=np.arange(len(values)), y=np.float32(values), name=answer, mode="lines+markers",
        line={"color": palette.MIDDLE[role], "dash": dash, "shape": "hv"},
    )  # fmt: skip
ticks = ["(nothing)", *(token.replace(" ", "␣") for token in right_tokens), "end"]
fig.update_xaxes(tickvals=list(range(len(ticks))), ticktext=ticks)
fig.update_layout(
    title="Value of the prefix after each token, exactly", xaxis_title="token of the right answer",
    yaxis_title="chance of a right answer", yaxis_range=[-0.05, 1.08],
)  # fmt: skip
run.figure(fig)


# %%
def fork(answer):
    """Where an answer leaves the right one: the prefix's state, its table of tokens, and the token that leaves."""
    ids = along(answer)[2]
    n = next(n for n, (a, b) in enumerate(zip(right_ids, ids)) if a != b)
    s = number[tuple(right_ids[:n])]
    actions = sorted(pi[s].nonzero().flatten().tolist(), key=lambda a: -Q_text[s, a])
    run.table(
        [
            [
                tokenizer.decode([tokens[a]]),
                f"{pi[s, a]:.3f}",
                f"{Q_text[s, a]:.3f}",
                f"{Q_text[s, a] - V_text[s]:+.3f}",
            ]
            for a in actions
        ],
        ["next token", "probability", "Q", "advantage"],
        caption=f"After “{tokenizer.decode(right_ids[:n])}”, worth {V_text[s]:.3f}",
    )
    found = {"prefix": tokenizer.decode(right_ids[:n]), "value": V_text[s].item()}
    for side, token in (("right", right_ids[n]), ("wrong", ids[n])):
        a = column[token]
        found[f"{side}_token"] = tokenizer.decode([token])
        found[f"{side}_probability"] = pi[s, a].item()
        found[f"{side}_q"] = Q_text[s, a].item()
        found[f"{side}_advantage"] = (Q_text[s, a] - V_text[s]).item()
    return found


copy_fork, sum_fork = fork(wrong_copy), fork(wrong_sum)

# %% [markdown]
# The verifier speaks once, after the end. Still single tokens decided, and their **advantages** say which. A digit copied wrong
# costs almost everything, long before any sum. Almost: the verifier reads the last number alone, so "16 + 25 = 42." would pass. Where all ways lead on equally well, the line is flat and advantages are
# 0. That is the number that PPO's critic is trained to know, and that GRPO replaces by "better than the other answers". The
# mean of the advantages, weighted by the policy, is 0 in every state.
#
# And the same with SmolLM2-135M-Instruct, at temperature 1, whose actions are 49,152. Let it begin "17 + 25 = " and write a number.
# What is each first digit worth? Only a 4 can still become 42, and only if a 2 comes next and then no third digit. To see
# which numbers it prefers, follow every pair of digits that has a chance of a thousandth.

# %%
small, small_tokenizer = models.load("small", "cpu")
row = text.encode_response(small_tokenizer, QUESTION, "17 + 25 = 42.")
begun = row.ids[: next(t for t in range(len(row.ids)) if small_tokenizer.decode(row.ids[t:]).startswith("42"))]
digits = [small_tokenizer.encode(str(d), add_special_tokens=False)[0] for d in range(10)]


@torch.no_grad()
def distributions(endings):
    """Next-token probabilities of SmolLM2 after `begun` and each ending (all of one length): (n, V)."""
    ids = torch.tensor([begun + list(ending) for ending in endings])
    return small(ids, logits_to_keep=1).logits[:, -1].double().softmax(-1)


first_digit = distributions([()])[0, digits]  # (10,)
second_digit = distributions([(d,) for d in digits])[:, digits]  # (10, 10)
joint = first_digit[:, None] * second_digit
pairs = [(a, b) for a, b in (joint > 1e-3).nonzero().tolist() if (a, b) != (4, 2)] + [(4, 2)]
stops = 1 - distributions([(digits[a], digits[b]) for a, b in pairs])[:, digits].sum(-1)  # no third digit follows
Q_digit = torch.zeros(10, dtype=torch.float64)
Q_digit[4] = second_digit[4, 2] * stops[-1]
V_small = (first_digit @ Q_digit).item()
numbers = {f"{a}{b}": (joint[a, b] * stop).item() for (a, b), stop in zip(pairs, stops)}
run.table(
    [[d, f"{first_digit[d]:.4f}", f"{Q_digit[d]:.3f}", f"{Q_digit[d] - V_small:+.3f}"] for d in first_digit.argsort(descending=True)[:3].tolist()],
    ["first digit", "probability", "Q", "advantage"],
    caption=f"SmolLM2-135M-Instruct after “17 + 25 = ”, worth {V_small:.3f}",
)  # fmt: skip
likeliest = max(numbers, key=numbers.get)
print(f"its likeliest number is {likeliest}, with {numbers[likeliest]:.1%}; 42 has {numbers['42']:.1%}")

# %% [markdown]
# A token that it says once in fifty times carries nearly the whole reward. That is why an algorithm that learns from samples needs
# many of them here, and why exploration is a question for language models too.
#
# ## What this run measured

# %%
run.result("return_gap", return_gap, "the last bit" if return_gap == 0 else f"{return_gap:.0e}")
run.result("speedup_steps", timed[-1][0], format=",")
run.result("speedup", speedup, format=",.0f")
run.result("first_token_09", first_token[0.9], format=".3f")
run.result("first_token_099", first_token[0.99], format=".3f")
run.result("cut_first", taken_for_end[0], format=".1f")
run.result("cut_last", taken_for_end[-1], format=".0f")
run.result("states", world.states)
run.result("v_random_start", V_pi[start_state], format=".3f")
run.result("v_best_start", V_star[start_state], format=".3f")
run.result("v_best_start_undiscounted", undiscounted[start_state], format=".3f")
for a, action in enumerate(ACTIONS):
    run.result(f"q_random_{action}", Q_pi[start_state, a], format=".3f")
    run.result(f"q_best_{action}", Q_star[start_state, a], format=".3f")
run.result("library_gap", library_gap, format=".0e")
run.result("programme_gap", programme_gap, format=".0e")
run.result("printed_gap", printed_gap, format=".0e")
run.result("mc_slope", mc_slope, format=".2f")
run.result("mc_seeds", budget.seeds)
run.result("mc_episodes", most, format=",")
run.result("mc_first_error", errors.mean(0)[0], format=".3f")
run.result("mc_last_error", errors.mean(0)[-1], format=".4f")
run.result("mc_first", budget.episodes[0])
run.result("mc_spread", spread, format=".2f")
for gamma in worst_factor:
    run.result(f"factor_{round(100 * gamma):03d}", worst_factor[gamma], format=".3f")
    for start in ("random", "high", "low"):
        run.result(f"sweeps_{start}_{round(100 * gamma):03d}", sweeps_to[start, gamma])
for words, name in (
    ("textbook", "textbook, 4x3"),
    ("maze", "maze, 8x6"),
    ("rooms", "four rooms"),
    ("lake", "FrozenLake 8x8"),
    ("taxi", "Taxi"),
):
    run.result(f"{words}_states", worlds[name].states)
    for way, value in zip(("sweeps", "in_place", "rounds"), counts[name]):
        run.result(f"{words}_{way}", value, format=",")
run.result("agreement", agreement, format=".0e")
for words, price in (("2", -2.0), ("04", -0.4), ("004", -0.04), ("free", 0.0)):
    run.result(f"pit_{words}", regimes[price][0], format=".1%")
    run.result(f"steps_{words}", regimes[price][1], format=".1f")
run.result("there_and_back", there_and_back, format=".0e")
run.result("cliff_best", solution.values[first], format=".1f")
run.result("cliff_neighbour", neighbour_values[first], format=".1f")
for words, name in (
    ("right", "right"),
    ("terminal", "terminal state bootstrapped"),
    ("mean", "mean for max"),
    ("early", "discount one step early"),
    ("missing", "discount left out, in 2,000 sweeps"),
):
    run.result(f"mistake_{words}", mistakes[name][start_state], format=".3f")
for words, name in (
    ("terminal", "terminal state bootstrapped"),
    ("mean", "mean for max"),
    ("early", "discount one step early"),
):
    run.result(f"loss_{words}", losses[name], format=".3f")
run.result("mistake_goal", mistakes["terminal state bootstrapped"][goal], format=".0f")
run.result("lake_without_clock", without_clock, format=".1%")
run.result("lake_with_clock", with_clock, format=".1%")
run.result("lake_played", float(np.mean(arrived)), f"{np.mean(arrived):.1%} ({min(arrived):.1%} to {max(arrived):.1%})")
run.result("plain_right", plain_right, format=".1%")
run.result("prefixes", len(prefixes))
run.result("answers", len(finished))
run.result("v_empty", V_text[0], format=".3f")
run.result("v_empty_best", best_text.values[0], format=".0f")
run.result("v_empty_sampled", float(np.mean(rates)), f"{np.mean(rates):.3f} ({min(rates):.3f} to {max(rates):.3f})")
run.result("wrong_sum", None, wrong_sum)
run.result("wrong_copy", None, wrong_copy)
for where, found in (("copy", copy_fork), ("sum", sum_fork)):
    for what, value in found.items():
        if isinstance(value, str):
            run.result(f"{where}_{what}", None, value.strip())
        else:
            run.result(f"{where}_{what}", value, format="+.3f" if what.endswith("advantage") else ".3f")
for t, value in enumerate(right_values):
    run.result(f"right_value_{t}", value, format=".3f")
run.result("small_value", V_small, format=".3f")
run.result("small_p3", first_digit[3], format=".3f")
run.result("small_p4", first_digit[4], format=".3f")
run.result("small_q4", Q_digit[4], format=".3f")
run.result("small_a4", Q_digit[4] - V_small, format="+.3f")
run.result("small_a3", Q_digit[3] - V_small, format="+.3f")
run.result("small_number", None, likeliest)
run.result("small_number_probability", numbers[likeliest], format=".0%")
print("reported")

# %%
run.claim("Four ways to compute returns agree to rounding", return_gap < 1e-9)
run.claim("Returns backwards are more than a hundred times as fast at thousands of steps", speedup > 100)
run.claim(
    "The linear solve, the library, policy iteration and the linear programme agree",
    max(library_gap, programme_gap, agreement) < 1e-6,
)
run.claim("The optimal values equal those printed in the textbook, to their three digits", printed_gap < 6e-4)
run.claim("The Monte Carlo error falls as the inverse square root of the number of episodes", -0.62 < mc_slope < -0.38)
run.claim(
    "No sweep of value iteration shrinks the error by less than the factor gamma, and some by no more",
    all(0.98 * gamma < worst_factor[gamma] <= gamma + 1e-9 for gamma in worst_factor),
)
run.claim(
    "Value iteration forgets values that are too high more slowly than values that are too low",
    all(sweeps_to["high", gamma] > 1.5 * sweeps_to["low", gamma] for gamma in (0.9, 0.99)),
)
run.claim(
    "Values with the mean for the max, or discounted a step early, lead to the optimal policy here; a bootstrapped goal does not",
    max(losses["mean for max"], losses["discount one step early"]) < 1e-9 < losses["terminal state bootstrapped"],
)
run.claim(
    "Gauss-Seidel sweeps are never more than Jacobi sweeps in these worlds",
    all(row[1] <= row[0] for row in counts.values()),
)
run.claim("Policy iteration needs at most 20 rounds", all(row[2] <= 20 for row in counts.values()))
run.claim("Q to V and back returns what it was given", there_and_back < 1e-9)
run.claim(
    "The dearer a step, the likelier the pit",
    regimes[-2.0][0] > regimes[-0.4][0] > regimes[-0.04][0] > regimes[0.0][0] - 1e-12,
)
run.claim(
    "Walking to the best neighbour loses much beside a cliff", neighbour_values[first] < solution.values[first] - 10
)
run.claim(
    "A bootstrapped goal is worth 1 / (1 - gamma)",
    abs(mistakes["terminal state bootstrapped"][goal].item() - 1 / (1 - GAMMA)) < 1e-6,
)
run.claim(
    "FrozenLake, played, arrives as often as computed with its clock",
    abs(np.mean(arrived) - with_clock) < 4 * math.sqrt(with_clock * (1 - with_clock) / (5 * budget.plays)),
)
run.claim(
    "Sampled answers are right as often as the prefix tree says",
    abs(np.mean(rates) - V_text[0].item()) < 4 * math.sqrt(0.25 / budget.answers),
)
run.claim(
    "One token decides: both wrong answers lose more than 0.4 at the token where they leave the right one",
    max(copy_fork["wrong_advantage"], sum_fork["wrong_advantage"]) < -0.4,
)
run.claim(
    "SmolLM2 rarely says the first digit that carries nearly the whole reward",
    first_digit[4] < 0.1 and Q_digit[4] > 0.8,
)
run.finish()

# %% [markdown]
# ## Exercises
#
# ### 1 Returns backwards · 1 of 3 · 5 minutes
#
# From rewards (T,), gamma and `last_value` (what follows the last step: 0 after an end, a value after a cut) give all
# returns (T,), going backwards.


# %%
def my_returns(rewards, gamma, last_value): ...


check("values_and_bellman.returns", my_returns)

# %% [markdown]
# ### 2 Values of a policy · 2 of 3 · 6 minutes
#
# From `transitions` (S, A, S), `rewards` (S, A), `policy` (S, A), gamma below 1 and `terminal` (S,) bool solve for $V^\pi$, (S,).
# What the tables hold for terminal states is not to be trusted: their value is 0.


# %%
def my_values(transitions, rewards, policy, gamma, terminal): ...


check("values_and_bellman.policy_values", my_values)

# %% [markdown]
# ### 3 One sweep of value iteration · 2 of 3 · 5 minutes
#
# From the same tables and values V (S,) give the values after one sweep, in which all states read the old ones (Jacobi).


# %%
def my_sweep(transitions, rewards, V, gamma, terminal): ...


check("values_and_bellman.sweep", my_sweep)

# %% [markdown]
# ### 4 Greedy on V · 2 of 3 · 5 minutes
#
# From transitions, rewards, V and gamma give the greedy action of each state, (S,). V of terminal states is 0 already.


# %%
def my_greedy(transitions, rewards, V, gamma): ...


check("values_and_bellman.greedy", my_greedy)

# %% [markdown]
# ### 5 Advantages of tokens · 1 of 3 · 5 minutes
#
# At a prefix a language model gives its next tokens the probabilities `probs` (A,); with each, the finished answer is right
# with chance `q` (A,). Return the prefix's value (a number) and the advantages of the tokens (A,).


# %%
def my_advantages(probs, q): ...


check("values_and_bellman.advantages", my_advantages)
