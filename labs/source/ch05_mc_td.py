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
# # Monte Carlo and temporal differences
#
# What is a state worth, if nobody tells you the rules and you may only watch? Wait until the end and average (Monte Carlo), or
# trust your estimate of the next state (temporal difference). You will build both, and everything between them, and hold each
# against values that are known exactly.
#
# - **You will** average returns and find what one state visited twice does to the average; reweigh another policy's episodes;
#   learn from single steps; reproduce four figures of Sutton and Barto's book on the same axes; prove by computation that the
#   forward and the backward view of TD($\lambda$) are one; split the error of every target into bias and variance; compare the
#   cost of four ways to one answer; and do all this on the answers of a language model.
# - **Time:** about 3 minutes on a CPU with two cores; a GPU is not used.
#
# **Sections:** 5.2.7, 5.3.1-5.3.4

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
# ## A walk whose values are known
#
# Five cells A to E stand in a row. A walk begins in the middle and goes left or right with equal probability until it falls off
# an end. Falling off the right end pays 1, all else 0; nothing is discounted. So the value of a cell is the probability of
# leaving on the right: $1/6, 2/6, \dots, 5/6$. The 19-cell walk pays $-1$ on the left; its values run from $-0.9$ to $0.9$.

# %%
import math

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from alignlab import compute, lab, models, palette
from alignlab.exercises import check
from alignlab.rl import mdp as exact
from alignlab.rl import tabular
from alignlab.rl.curves import band
from alignlab.rl.gridworld import MAPS, GridWorld
from alignlab.rl.mdp import FiniteMDP
from alignlab.tasks import scenes

run = lab.Lab("ch05_mc_td")
budget = run.budget(
    full=dict(
        runs=100,
        mc_episodes=1000,
        walk_episodes=100,
        loops=100_000,
        steps=tuple(2**k for k in range(10)),
        lambdas=(0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0),
        targets=10_000,
        cost_episodes=300,
        depth=12,
        control_runs=50,
        control_episodes=400,
        answers=(8, 32, 128, 512, 2048),
    ),
    quick=dict(
        runs=10,
        mc_episodes=100,
        walk_episodes=20,
        loops=10_000,
        steps=(1, 4, 64),
        lambdas=(0.0, 0.8, 1.0),
        targets=1_000,
        cost_episodes=40,
        depth=8,
        control_runs=5,
        control_episodes=40,
        answers=(8, 32, 128),
    ),
)
compute.seed(0)
LINES = ("policy", "rejected", "chosen", "prompt", "reward", "value", "kl", "reference")


def random_walk(cells, left):
    """A row of cells between two ends; action 0 goes left, 1 right; the right end pays 1, the left end `left`."""
    p, r = torch.zeros(cells + 2, 2, cells + 2), torch.zeros(cells + 2, 2)
    for s in range(1, cells + 1):
        p[s, 0, s - 1] = p[s, 1, s + 1] = 1.0
    p[0, :, 0] = p[-1, :, -1] = 1.0
    r[1, 0], r[cells, 1] = left, 1.0
    start, terminal = torch.zeros(cells + 2), torch.zeros(cells + 2, dtype=torch.bool)
    start[(cells + 1) // 2], terminal[[0, -1]] = 1.0, True
    return FiniteMDP(p, r, 1.0, start, terminal)


def with_start(mdp, start):
    return FiniteMDP(mdp.transitions, mdp.rewards, mdp.gamma, start, mdp.terminal, mdp.outcomes)


def rms(values, truth):
    """Root of the mean squared error over the cells: (..., S) -> (...)."""
    return (values - truth)[..., 1:-1].square().mean(-1).sqrt()


five, nineteen = random_walk(5, left=0.0), random_walk(19, left=-1.0)
truth, truth19 = exact.values(five, five.uniform()), exact.values(nineteen, nineteen.uniform())
print("A to E:", [f"{v:.4f}" for v in truth[1:-1].tolist()])
print("19 cells:", [f"{v:.1f}" for v in truth19[1:-1].tolist()])

# %% [markdown]
# `exact.values` solves the Bellman equation. Everything below sees episodes only. Here is one, as states and rewards; a hundred of
# them are drawn side by side, one for each run.

# %%
generator = torch.Generator().manual_seed(0)
first = tabular.rollouts(five, five.uniform(), budget.runs, generator)
length = int(first.running[0].sum())
print("states: ", " ".join("<ABCDE>"[s] for s in first.states[0, : length + 1].tolist()))
print("rewards:", first.rewards[0, :length].tolist())
print(
    "lengths of the first ten:", first.running[:10].sum(-1).tolist(), "and the table's shape", tuple(first.states.shape)
)

# %% [markdown]
# ## Monte Carlo: average what came
#
# The return of a step is the sum of all rewards from there on. Monte Carlo collects, for each state, the returns that followed its
# visits, and takes the mean. In the open, for one list of episodes:


# %%
def monte_carlo(episodes, first_visit=True):
    """Mean return of each state over (states, rewards) pairs."""
    collected = {}
    for states, rewards in episodes:
        gain = 0.0
        for t in reversed(range(len(rewards))):
            gain = rewards[t] + gain  # G_t = r_t + gamma G_{t+1}, here with gamma = 1
            if not first_visit or states[t] not in states[:t]:
                collected.setdefault(states[t], []).append(gain)
    return {state: sum(gains) / len(gains) for state, gains in sorted(collected.items())}


lists = [
    (path[: n + 1].tolist(), rewards[:n].tolist())
    for path, rewards, n in zip(first.states, first.rewards, first.running.sum(-1))
]
visits = tabular.visit_returns(first, five.states, gamma=1.0)
ours, library = monte_carlo(lists), (visits.totals.sum(0) / visits.counts.sum(0)).tolist()
mc_gap = max(abs(library[state] - value) for state, value in ours.items())
run.table(
    [["<ABCDE>"[state], f"{truth[state]:.3f}", f"{value:.3f}", f"{monte_carlo(lists, False)[state]:.3f}"] for state, value in ours.items()],
    ["cell", "exact", "first visits", "every visit"],
    caption=f"Means over {budget.runs} episodes; largest difference to the library {mc_gap:.0e}",
)  # fmt: skip

# %% [markdown]
# The error of a mean of $N$ independent numbers falls as $1/\sqrt N$, whatever the number of states. Watch it: one hundred runs, each
# with episodes of its own.

# %%
totals, counts = (torch.zeros(budget.runs, five.states, dtype=torch.float64) for _ in range(2))
mc_errors = []
for _ in run.progress(budget.mc_episodes, "Monte Carlo"):
    seen = tabular.visit_returns(tabular.rollouts(five, five.uniform(), budget.runs, generator), five.states, 1.0)
    totals, counts = totals + seen.totals, counts + seen.counts
    mc_errors.append(rms(torch.where(counts > 0, totals / counts.clamp_min(1), 0.5), truth))
mc_errors = torch.stack(mc_errors, 1)  # (runs, episodes)
episodes = torch.arange(1, budget.mc_episodes + 1)
shown = sorted({round(10 ** (k / 20)) for k in range(int(20 * math.log10(budget.mc_episodes)) + 1)})
chosen = torch.tensor(shown) - 1
half = episodes > 9
fit = np.polyfit(episodes[half].log().numpy(), mc_errors.mean(0)[half].log().numpy(), 1)
figure = go.Figure()
band(figure, episodes[chosen], mc_errors[:, chosen], "Monte Carlo", "rejected")
figure.add_scatter(
    x=shown, y=[mc_errors[:, 9].mean().item() * math.sqrt(10 / n) for n in shown], name="1/√N", mode="lines",
    line={"color": palette.MIDDLE["ink"], "dash": "dot"},
)  # fmt: skip
figure.update_layout(
    title="Mean of first-visit returns, five cells", xaxis_title="episodes", yaxis_title="RMS error over the cells"
)
figure.update_xaxes(type="log")
figure.update_yaxes(type="log")
run.figure(figure, "The error falls along a straight line of slope minus one half on logarithmic axes.")
print(f"slope {fit[0]:.2f}")

# %% [markdown]
# ### One state, many visits
#
# A state may occur several times in an episode. Averaging over first visits only gives independent numbers; every visit gives more
# numbers, but they hang together. A model that writes filler tokens shows the difference: it stays in one state with
# probability 0.9, pays 1 for each token, and stops with probability 0.1. Its value is 10. Look at **one** episode of length $L$:
# the first visit says $L$, the mean over all visits says $(L+1)/2$.

# %%
loop = FiniteMDP(
    torch.tensor([[[0.9, 0.1]], [[0.0, 1.0]]]), torch.tensor([[1.0], [0.0]]), 1.0, torch.tensor([1.0, 0.0]),
    torch.tensor([False, True]),
)  # fmt: skip
loop_value = exact.values(loop, loop.uniform())[0].item()
filler = tabular.rollouts(loop, loop.uniform(), budget.loops, generator)
loop_rows, estimates = [], {}
for name, first_visit in (("first", True), ("every", False)):
    seen = tabular.visit_returns(filler, 2, 1.0, first_visit)
    estimates[name] = (seen.totals / seen.counts.clamp_min(1))[:, 0]
    several = (seen.totals[:, 0].view(-1, 100).sum(1) / seen.counts[:, 0].view(-1, 100).sum(1)).mean()
    bias, mse = estimates[name].mean() - loop_value, (estimates[name] - loop_value).square().mean()
    loop_rows.append((bias.item(), mse.item(), several.item() - loop_value))
run.table(
    [[name, f"{bias:+.2f}", f"{mse:.1f}", f"{many:+.2f}"] for name, (bias, mse, many) in zip(("first visit", "every visit"), loop_rows)],
    ["estimate", "bias, 1 episode", "mean squared error, 1 episode", "bias, 100 episodes"],
    caption=f"The true value is {loop_value:.0f}. By hand: the every-visit mean expects (10 + 1) / 2 = 5.5",
)  # fmt: skip

# %% [markdown]
# Every-visit Monte Carlo is wrong on average and yet nearer in the square; its bias fades as episodes come in. Bias is no sin in
# itself. Keep the table in mind for TD.
#
# ### Somebody else's episodes
#
# The episodes may come from another policy $b$ than the one you ask about, $\pi$. Then each return is weighed by how much likelier
# $\pi$ would have made its actions, the product of $\pi(a\mid s)/b(a\mid s)$ up to the end. Here $b$ goes right half of the time and
# $\pi$ seven times in ten. Dividing by the number of returns is *ordinary* importance sampling, by the sum of the weights *weighted*.

# %%
target = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(five.states, 2)
is_truth = exact.values(five, target)[3].item()
sums = {name: torch.zeros(budget.runs, dtype=torch.float64) for name in ("total", "weight", "count", "inverted", "own")}
middle = 3
is_curves = {"ordinary": [], "weighted": [], "ratio inverted": [], "on-policy": []}
for k in run.progress(budget.walk_episodes, "importance sampling"):
    sampled = tabular.rollouts(five, five.uniform(), budget.runs, generator)
    weights = tabular.weights_to_end(sampled, target, five.uniform())
    seen = tabular.visit_returns(sampled, five.states, 1.0, weights=weights)
    wrong = tabular.visit_returns(sampled, five.states, 1.0, weights=1 / weights)
    own = tabular.visit_returns(tabular.rollouts(five, target, budget.runs, generator), five.states, 1.0)
    for name, part in (
        ("total", seen.totals),
        ("weight", seen.weights),
        ("count", seen.counts),
        ("inverted", wrong.totals),
        ("own", own.totals),
    ):
        sums[name] = sums[name] + part[:, middle]
    is_curves["ordinary"].append(sums["total"] / sums["count"])
    is_curves["weighted"].append(sums["total"] / sums["weight"])
    is_curves["ratio inverted"].append(sums["inverted"] / sums["count"])
    is_curves["on-policy"].append(sums["own"] / sums["count"])
is_curves = {name: torch.stack(values, 1) for name, values in is_curves.items()}
is_error = {name: (values[:, -1] - is_truth).square().mean().sqrt().item() for name, values in is_curves.items()}
figure = go.Figure()
for name, role in (("ordinary", "rejected"), ("weighted", "policy"), ("on-policy", "chosen")):
    band(figure, range(1, budget.walk_episodes + 1), is_curves[name], name, role)
figure.add_hline(y=is_truth, line={"color": palette.MIDDLE["ink"], "dash": "dot"})
figure.update_layout(
    title="The middle cell under π, from episodes of b", xaxis_title="episodes", yaxis_title="estimate"
)
figure.update_yaxes(range=[0, 2])
run.figure(figure, "Ordinary importance sampling scatters far more than the weighted kind.")
inverted_end = is_curves["ratio inverted"][:, -1].mean().item()
print(
    f"exact {is_truth:.4f}; RMS errors after {budget.walk_episodes} episodes:",
    {k: round(v, 3) for k, v in is_error.items()},
)
print(f"with the ratio turned over the estimate comes to {inverted_end:.2f}")

# %% [markdown]
# The weighted estimate beats even episodes of $\pi$ itself here. That is no accident of the draw: $b$ sees the rare exits on the left more often than $\pi$
# does, which is what importance sampling was once invented for. The ordinary one pays for weights that multiply over every step.
#
# ## TD(0): learn from each step
#
# Monte Carlo waits for the end. But when the walk has gone from C to D, something is known already: D has an estimate. **TD(0)** moves
# $V(s_t)$ towards $r_t+\gamma V(s_{t+1})$, and what it moves by is the **TD error** $\delta_t=r_t+\gamma V(s_{t+1})-V(s_t)$ times a
# step size. Nothing follows a terminal state, so its value is 0, always.


# %%
def td0(values, path, rewards, alpha, gamma=1.0):
    """Values after one episode, and its TD errors."""
    values, errors = list(values), []
    for t, reward in enumerate(rewards):
        last = t == len(rewards) - 1
        errors.append(reward + (0.0 if last else gamma * values[path[t + 1]]) - values[path[t]])
        values[path[t]] += alpha * errors[-1]
    return values, errors


walked, start_values = ([3, 4, 5, 6], [0.0, 0.0, 1.0]), [0.5] * 7
once, errors_once = td0(start_values, *walked, alpha=0.1)
twice, errors_twice = td0(once, *walked, alpha=0.1)
run.table(
    [
        ["V before", "0.5", "0.5", "0.5"],
        ["δ, first time", *(f"{e:+.3f}" for e in errors_once)],
        ["V after", *(f"{once[s]:.4f}" for s in (3, 4, 5))],
        ["δ, second time", *(f"{e:+.3f}" for e in errors_twice)],
        ["V after", *(f"{twice[s]:.4f}" for s in (3, 4, 5))],
        ["Monte Carlo instead, after two", *(f"{0.5 + 0.05 + 0.045:.4f}" for _ in range(3))],
    ],
    ["the walk C, D, E, out on the right, twice", "C", "D", "E"],
    caption="TD(0) with α = 0.1: the reward travels back one cell per episode. Monte Carlo moves all three at once",
)

# %%
values = torch.full((budget.runs, five.states), 0.5, dtype=torch.float64)
library = tabular.n_step_td(values, first, alpha=0.1, gamma=1.0, n=1)
td_gap = max(
    abs(a - b)
    for k, (path, rewards) in enumerate(lists)
    for a, b in zip(td0([0.5] * 7, path, rewards, 0.1)[0], library[k].tolist())
)
print(f"largest difference between td0 and the library over {budget.runs} episodes: {td_gap:.0e}")

# %% [markdown]
# ### The figure of example 6.2
#
# One hundred runs, all values begin at 0.5. Left: one run's estimates after 0, 1, 10 and 100 episodes with $\alpha=0.1$. Right: the error
# averaged over cells and runs, for TD(0) and for Monte Carlo with a constant step size, on the axes of Sutton and Barto's book.

# %%
walks = [tabular.rollouts(five, five.uniform(), budget.runs, generator) for _ in range(budget.walk_episodes)]
TD_ALPHAS, MC_ALPHAS = (0.15, 0.1, 0.05), (0.01, 0.02, 0.03, 0.04)


def learning_curves(alphas, n):
    """RMS error before each episode and after the last, (alphas, runs, episodes + 1), and one run's values at alpha 0.1."""
    alphas = torch.tensor(alphas, dtype=torch.float64)[:, None]
    values = torch.full((len(alphas), budget.runs, five.states), 0.5, dtype=torch.float64)
    errors, snapshots = [rms(values, truth)], [values]
    for walk in walks:
        values = tabular.n_step_td(values, walk, alphas, 1.0, n)
        errors.append(rms(values, truth))
        snapshots.append(values)
    return torch.stack(errors, -1), torch.stack(snapshots)


td_curves, td_values = learning_curves(TD_ALPHAS, 1)
mc_curves, _ = learning_curves(MC_ALPHAS, None)
figure = make_subplots(
    1, 2, subplot_titles=("Estimates of one run", "Error of TD(0) and Monte Carlo"), column_widths=[0.4, 0.6]
)
for role, after in zip(("reference", "prompt", "chosen", "policy"), (0, 1, 10, budget.walk_episodes)):
    figure.add_scatter(
        x=list("ABCDE"), y=td_values[after, 1, 0, 1:-1].float().numpy(), name=f"after {after}", line={"color": palette.MIDDLE[role]}, row=1, col=1,
    )  # fmt: skip
figure.add_scatter(
    x=list("ABCDE"),
    y=truth[1:-1].float().numpy(),
    name="exact",
    line={"color": palette.MIDDLE["ink"], "dash": "dot"},
    row=1,
    col=1,
)
count = range(budget.walk_episodes + 1)
for alpha, curve, dash in zip(TD_ALPHAS, td_curves, ("solid", "dash", "dot")):
    band(figure, count, curve, f"TD, α {alpha}", "policy", dash, row=1, col=2) if alpha == 0.1 else figure.add_scatter(
        x=list(count), y=curve.mean(0).float().numpy(), name=f"TD, α {alpha}", line={"color": palette.MIDDLE["policy"], "dash": dash}, row=1, col=2
    )  # fmt: skip
for alpha, curve, dash in zip(MC_ALPHAS, mc_curves, ("dot", "solid", "dash", "dashdot")):
    band(figure, count, curve, f"MC, α {alpha}", "rejected", dash, row=1, col=2) if alpha == 0.02 else figure.add_scatter(
        x=list(count), y=curve.mean(0).float().numpy(), name=f"MC, α {alpha}", line={"color": palette.MIDDLE["rejected"], "dash": dash}, row=1, col=2
    )  # fmt: skip
figure.update_yaxes(range=[0, 0.25], row=1, col=2)
figure.update_xaxes(title_text="walks", row=1, col=2)
figure.update_layout(title="Random walk, five cells: example 6.2", height=440)
run.figure(figure, "TD(0) falls below every Monte Carlo curve within a hundred walks.")
td_best = {alpha: curve.mean(0)[-1].item() for alpha, curve in zip(TD_ALPHAS, td_curves)}
mc_best = {alpha: curve.mean(0)[-1].item() for alpha, curve in zip(MC_ALPHAS, mc_curves)}
least_td, least_mc = (curves.mean(1).min().item() for curves in (td_curves, mc_curves))
print(
    "error after the last walk, TD:",
    {k: round(v, 3) for k, v in td_best.items()},
    "MC:",
    {k: round(v, 3) for k, v in mc_best.items()},
)
print(f"least error at any time: TD {least_td:.3f}, MC {least_mc:.3f}")

# %% [markdown]
# ### Same data to the end: two different answers
#
# Perhaps TD only learns faster? Take a fixed set of walks and present it again and again until the values stand still. Monte Carlo ends at
# the mean of the returns, the values with the least squared error on the data. TD(0) ends elsewhere: at the exact values of the Markov
# process whose transition frequencies are those of the data, called the **certainty-equivalence** estimate. It can be solved for at once.


# %%
def certainty_equivalence(moves, gains, default=0.5):
    """Values of the process estimated from counts: moves (..., S, S), summed rewards (..., S). Ends have no moves."""
    visits = moves.sum(-1)
    p = moves / visits.clamp_min(1)[..., None]
    r = torch.where(visits > 0, gains / visits.clamp_min(1), default)
    r[..., [0, -1]] = 0.0  # the ends: nothing follows
    return torch.linalg.solve(torch.eye(moves.shape[-1], dtype=moves.dtype) - p, r)


def counts_of(walk, states):
    """Transition counts (runs, S, S) and summed rewards (runs, S) of one episode per run."""
    pairs = walk.states[:, :-1] * states + walk.states[:, 1:]
    moves = torch.zeros(len(pairs), states * states, dtype=torch.float64).scatter_add(1, pairs, walk.running.double())
    gains = torch.zeros(len(pairs), states, dtype=torch.float64).scatter_add(1, walk.states[:, :-1], walk.rewards)
    return moves.view(-1, states, states), gains


both = [counts_of(walk, five.states) for walk in walks]
moves, gains = (
    torch.stack(parts, 1).cumsum(1) for parts in zip(*both)
)  # (runs, episodes, S, S) and (runs, episodes, S)
batch_td = certainty_equivalence(moves, gains)
every = [tabular.visit_returns(walk, five.states, 1.0, first_visit=False) for walk in walks]
summed, visited = (torch.stack(parts, 1).cumsum(1) for parts in ([v.totals for v in every], [v.counts for v in every]))
batch_mc = torch.where(visited > 0, summed / visited.clamp_min(1), 0.5)

# Replaying the first run's first ten walks with small steps ends at the same values.
n_replay = min(10, budget.walk_episodes) - 1
replayed, step = torch.full((five.states,), 0.5, dtype=torch.float64), 0.5 / moves[0, n_replay].sum(-1).max()
replayed[[0, -1]] = 0.0
for _ in range(20_000):
    replayed = replayed + step * (
        gains[0, n_replay] + moves[0, n_replay] @ replayed - moves[0, n_replay].sum(-1) * replayed
    )
replay_gap = (replayed - batch_td[0, n_replay])[moves[0, n_replay].sum(-1) > 0].abs().max().item()
print(f"TD(0), replayed until it stands still, against the solved values: {replay_gap:.0e}")

# %%
figure = go.Figure()
band(figure, range(1, budget.walk_episodes + 1), rms(batch_td, truth), "TD", "policy")
band(figure, range(1, budget.walk_episodes + 1), rms(batch_mc, truth), "Monte Carlo", "rejected")
figure.update_layout(
    title="Batch training, five cells: figure 6.2",
    xaxis_title="walks",
    yaxis_title="RMS error over the cells",
    height=400,
)
figure.update_yaxes(range=[0, 0.25])
run.figure(figure, "With the same walks, batch TD is below batch Monte Carlo from a few walks on.")
batch_errors = {name: rms(values, truth).mean(0) for name, values in (("td", batch_td), ("mc", batch_mc))}
in_squares = []  # and yet Monte Carlo fits the data better
for values in (batch_td, batch_mc):
    final, error, number = values[:, -1], 0.0, 0.0
    for walk, v in zip(walks, every):
        gain = torch.where(walk.running, walk.rewards.sum(-1, keepdim=True), 0.0)  # gamma is 1 and only the end pays
        error = error + (walk.running * (gain - final.gather(1, walk.states[:, :-1])).square()).sum()
        number = number + walk.running.sum()
    in_squares.append((error / number).item())
print(f"after {budget.walk_episodes} walks: TD {batch_errors['td'][-1]:.4f}, Monte Carlo {batch_errors['mc'][-1]:.4f}")
print(f"mean squared error on the returns it was made from: TD {in_squares[0]:.5f}, Monte Carlo {in_squares[1]:.5f}")

# %% [markdown]
# Monte Carlo is the better fit of the past, TD the better guess of the future. TD uses that the process is Markov: what followed D counts
# for every walk that came to D, from wherever it came.
#
# ## n-step TD: wait a little
#
# The $n$-step return sums $n$ rewards and then trusts the estimate: $G_t^{(n)}=r_t+\dots+\gamma^{n-1}r_{t+n-1}+\gamma^nV(s_{t+n})$. $n=1$ is
# TD(0), $n$ beyond the end is Monte Carlo. In the open, against the library, on walks of nineteen cells:


# %%
def n_step(values, path, rewards, alpha, n, gamma=1.0):
    values, end = list(values), len(rewards)
    for t in range(end):
        stop = min(t + n, end)
        target = sum(gamma ** (k - t) * rewards[k] for k in range(t, stop))
        target += 0.0 if stop == end else gamma**n * values[path[stop]]
        values[path[t]] += alpha * (target - values[path[t]])
    return values


ten = [tabular.rollouts(nineteen, nineteen.uniform(), budget.runs, generator) for _ in range(10)]
zeros = torch.zeros(budget.runs, nineteen.states, dtype=torch.float64)
path, rewards = ten[0].states[0], ten[0].rewards[0, : int(ten[0].running[0].sum())].tolist()
n_gap = max(
    (torch.tensor(n_step([0.1] * 21, path.tolist(), rewards, 0.4, n), dtype=torch.float64) - tabular.n_step_td(zeros + 0.1, ten[0], 0.4, 1.0, n)[0]).abs().max().item()
    for n in (1, 3, 10, 10_000)
)  # fmt: skip
print(f"one walk of {len(rewards)} steps, n = 1, 3, 10, all: largest difference {n_gap:.0e}")

# %% [markdown]
# ### Figure 7.2
#
# Nineteen cells, all values begin at 0. The error is averaged over the cells, the first ten episodes and the runs, for ten values of $n$ and
# step sizes from 0 to 1.

# %%
ALPHAS = torch.linspace(0, 1, 11 if compute.profile() == "quick" else 21, dtype=torch.float64)


def average_error(update, alphas):
    """RMS error (alphas, runs), averaged over the ten episodes; update(values, episodes, alphas) learns from one."""
    values = torch.zeros(len(alphas), budget.runs, nineteen.states, dtype=torch.float64)
    error = torch.zeros(len(alphas), budget.runs, dtype=torch.float64)
    for walk in ten:
        values = update(values, walk, alphas[:, None])
        error += rms(values, truth19) / len(ten)
    return error


n_errors = {}
for n in run.progress(budget.steps, "n-step TD"):
    n_errors[n] = average_error(lambda v, walk, a, n=n: tabular.n_step_td(v, walk, a, 1.0, n), ALPHAS)


def error_figure(errors, label, title, grids=None):
    figure = go.Figure()
    for k, (key, error) in enumerate(errors.items()):
        x = ALPHAS if grids is None else grids[key]
        colour, dash = palette.MIDDLE[LINES[k % len(LINES)]], "solid" if k < len(LINES) else "dash"
        figure.add_scatter(
            x=x.float().numpy(),
            y=error.mean(1).float().numpy(),
            name=f"{label} {key:g}",
            mode="lines",
            line={"color": colour, "dash": dash},
        )
    figure.update_layout(title=title, xaxis_title="α", yaxis_title="RMS error, first 10 episodes", height=460)
    figure.update_yaxes(range=[0.25, 0.55])
    figure.update_xaxes(range=[0, 1])
    return figure


run.figure(
    error_figure(n_errors, "n =", "n-step TD, nineteen cells: figure 7.2"),
    "U-shaped curves; n = 4 reaches the least error, n = 1 and large n stay far above it.",
)
best_n = {n: (error.mean(1).min().item(), ALPHAS[error.mean(1).argmin()].item()) for n, error in n_errors.items()}
run.table(
    [[n, f"{least:.3f}", f"{alpha:.2f}"] for n, (least, alpha) in best_n.items()],
    ["n", "least error", "at α"],
    caption="The best step size shrinks as n grows: a longer return is noisier",
)
winner = min(best_n, key=lambda n: best_n[n][0])

# %% [markdown]
# ## TD(λ): all n at once
#
# Instead of choosing $n$, average all $n$-step returns with weights $(1-\lambda)\lambda^{n-1}$; what is left when the episode ends goes to the
# whole return. This **λ-return** looks forward. A backward recursion gives it in one pass: $G_t^\lambda=r_t+\gamma\big((1-\lambda)V(s_{t+1})+\lambda
# G_{t+1}^\lambda\big)$. Check the sum against the recursion on one walk.


# %%
def lambda_return_by_definition(values, path, rewards, lam, t, gamma=1.0):
    """The weighted mean of all n-step returns from time t: O(T) sums for each t, O(T^2) in all."""
    end, total = len(rewards), 0.0
    for n in range(1, end - t + 1):
        gain = sum(gamma**k * rewards[t + k] for k in range(n))
        gain += 0.0 if t + n == end else gamma**n * values[path[t + n]]
        weight = lam ** (n - 1) * (1.0 if t + n == end else 1 - lam)
        total += weight * gain
    return total


guess = torch.linspace(-0.5, 0.8, 21, dtype=torch.float64)
forward = tabular.lambda_targets(guess.expand(budget.runs, -1), ten[0], 1.0, 0.8)[0, : len(rewards)]
definition = torch.tensor(
    [lambda_return_by_definition(guess.tolist(), path.tolist(), rewards, 0.8, t) for t in range(len(rewards))],
    dtype=torch.float64,
)
definition_gap = (forward - definition).abs().max().item()
print(f"{len(rewards)} steps: largest difference {definition_gap:.0e}")

# %% [markdown]
# ### The backward view
#
# The forward view needs the future. The backward view needs none: keep for each state a **trace** of how recently it was visited, let all
# traces fade by $\gamma\lambda$ per step, and give every state its share of each TD error.


# %%
def backward_increments(values, path, rewards, alpha, lam, gamma=1.0):
    """What TD(lambda) adds to each value over an episode if the values stand still meanwhile."""
    trace, added = [0.0] * len(values), [0.0] * len(values)
    for t, reward in enumerate(rewards):
        last = t == len(rewards) - 1
        delta = reward + (0.0 if last else gamma * values[path[t + 1]]) - values[path[t]]
        trace = [gamma * lam * e for e in trace]
        trace[path[t]] += 1.0
        added = [a + alpha * delta * e for a, e in zip(added, trace)]
    return torch.tensor(added, dtype=torch.float64)


forward_added = torch.zeros(21, dtype=torch.float64)
for t, gain in enumerate(definition.tolist()):
    forward_added[path[t]] += 0.1 * (gain - guess[path[t]])
backward_added = backward_increments(guess.tolist(), path.tolist(), rewards, 0.1, 0.8)
views_by_hand = (forward_added - backward_added).abs().max().item()

views = []  # the same by the library, for every lambda, on all runs and ten walks
for lam in (0.0, 0.3, 0.8, 0.95, 1.0):
    for walk in ten:
        start = guess.expand(budget.runs, -1)
        a = tabular.lambda_return_update(start, walk, 0.1, 1.0, lam, summed=True)
        b = tabular.td_lambda(start, walk, 0.1, 1.0, lam, offline=True)
        views.append((a - b).abs().max().item())
offline_gap = max(views)
online = tabular.td_lambda(guess.expand(budget.runs, -1), ten[0], 0.1, 1.0, 0.8)
online_gap = (
    (online - tabular.lambda_return_update(guess.expand(budget.runs, -1), ten[0], 0.1, 1.0, 0.8, summed=True))
    .abs()
    .max()
    .item()
)
print(
    f"offline, by hand {views_by_hand:.0e}, by the library {offline_gap:.0e}; updated online they part by {online_gap:.2f}"
)

# %% [markdown]
# With values that stand still the two views are one. Updated **online**, after every step, they part, since the values move under the sum.
# **True online TD(λ)** changes the trace a little (the *dutch* trace) and equals a forward view again: at each time, the λ-returns cut off at
# that time, applied from the start. That algorithm costs $O(T^2)$; here it is, for one walk.


# %%
def online_lambda_return(values, path, rewards, alpha, lam, gamma=1.0):
    """At every horizon h start again from the first values and correct s_0 ... s_{h-1} towards lambda-returns cut at h."""
    first_values, end = list(values), len(rewards)
    history = [
        list(values)
    ]  # history[k]: the values after horizon k, which n-step returns that end at k bootstrap from
    for h in range(1, end + 1):
        current = list(first_values)
        for t in range(h):
            total = 0.0
            for n in range(1, h - t + 1):
                stop = t + n
                gain = sum(gamma**k * rewards[t + k] for k in range(n))
                gain += 0.0 if stop == end else gamma**n * history[stop - 1][path[stop]]
                total += (lam ** (n - 1) if stop == h else (1 - lam) * lam ** (n - 1)) * gain
            current[path[t]] += alpha * (total - current[path[t]])
        history.append(current)
    return torch.tensor(history[-1], dtype=torch.float64)


short = int(ten[0].running.sum(-1).argmin())
short_path, short_rewards = ten[0].states[short], ten[0].rewards[short, : int(ten[0].running[short].sum())].tolist()
by_definition = online_lambda_return(guess.tolist(), short_path.tolist(), short_rewards, 0.5, 0.8)
true_online = tabular.td_lambda(guess.expand(budget.runs, -1), ten[0], 0.5, 1.0, 0.8, trace="dutch")[short]
plain_online = tabular.td_lambda(guess.expand(budget.runs, -1), ten[0], 0.5, 1.0, 0.8)[short]
dutch_gap, plain_gap = ((x - by_definition).abs().max().item() for x in (true_online, plain_online))
print(
    f"a walk of {len(short_rewards)} steps, α 0.5, λ 0.8: true online {dutch_gap:.0e}, accumulating traces {plain_gap:.2f} away"
)

# %% [markdown]
# ### Figures 12.3, 12.6 and 12.8
#
# The same task, axes and averages as above, now over λ: the offline λ-return algorithm, TD(λ) with accumulating traces, and true online TD(λ).

# %%
CAPS = {0.0: 1.0, 0.4: 1.0, 0.8: 1.0, 0.9: 0.6, 0.95: 0.35, 0.975: 0.2, 0.99: 0.1, 1.0: 0.04}
lam_errors = {name: {} for name in ("offline λ-return", "TD(λ)", "true online TD(λ)")}
lam_grids = {name: {} for name in lam_errors}
for name in run.progress(list(lam_errors), "lambda"):
    for lam in budget.lambdas:
        cap = CAPS[lam] if name == "TD(λ)" else 1.0
        grid = torch.cat([ALPHAS[:5] * cap / 4, ALPHAS[5:] * cap]) if cap < 1 else ALPHAS
        grid = torch.unique(torch.cat([ALPHAS[::2] * cap, ALPHAS[::2] * cap / 8]) if lam > 0.9 else grid)
        lam_grids[name][lam] = grid
        if name == "offline λ-return":
            update = lambda v, walk, a, lam=lam: tabular.lambda_return_update(v, walk, a, 1.0, lam)  # noqa: E731
        else:
            trace = "accumulating" if name == "TD(λ)" else "dutch"
            update = lambda v, walk, a, lam=lam, trace=trace: tabular.td_lambda(v, walk, a, 1.0, lam, trace)  # noqa: E731
        lam_errors[name][lam] = average_error(update, grid)

# %%
figure = make_subplots(
    1, 3, subplot_titles=["offline λ-return (12.3)", "TD(λ) (12.6)", "true online (12.8)"], shared_yaxes=True
)
for column, name in enumerate(lam_errors, start=1):
    for k, (lam, error) in enumerate(lam_errors[name].items()):
        figure.add_scatter(
            x=lam_grids[name][lam].float().numpy(), y=error.mean(1).clamp_max(0.8).float().numpy(), name=f"λ = {lam:g}", legendgroup=f"{lam}",
            mode="lines", showlegend=column == 1, line={"color": palette.MIDDLE[LINES[k]]}, row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(range=[0, 1], title_text="α", row=1, col=column)
figure.update_yaxes(range=[0.25, 0.55])
figure.update_yaxes(title_text="RMS error, first 10 episodes", row=1, col=1)
figure.update_layout(title="TD(λ), nineteen cells: figures 12.3, 12.6, 12.8", height=460)
run.figure(figure, "All three reach nearly the same least error near λ = 0.8; TD(λ) breaks first where α is large.")
best_lambda = {
    name: {lam: (error.mean(1).min().item(), lam_grids[name][lam][error.mean(1).argmin()].item()) for lam, error in errors.items()}
    for name, errors in lam_errors.items()
}  # fmt: skip
run.table(
    [
        [f"{lam:g}", *(f"{best_lambda[name][lam][0]:.3f} at {best_lambda[name][lam][1]:.2f}" for name in lam_errors)]
        for lam in budget.lambdas
    ],
    ["λ", *lam_errors],
    caption="Least error over α, and where",
)
least_of = {name: min(rows.values()) for name, rows in best_lambda.items()}
lam_winner = min(best_lambda["TD(λ)"], key=lambda lam: best_lambda["TD(λ)"][lam][0])

# %% [markdown]
# ## Bias and variance, exactly
#
# Why is the middle best? Hold an imperfect $V$ still and look at the targets themselves. The target's mean differs from the true value by a
# **bias** that comes from $V$ alone, and scatters with a **variance** that comes from the rewards ahead. Both follow from recursions: the
# first two moments of the $n$-step return obey $m_n=\bar r+\gamma Pm_{n-1}$ and a like one for squares. So we can compute them, and check
# by sampling. $V$ is what TD(0) knows after ten walks.

# %%
estimate = zeros[0].clone()
for walk in ten:
    estimate = tabular.n_step_td(estimate[None].expand(budget.runs, -1), walk, 0.4, 1.0, 1)[0]
estimate[[0, -1]] = 0.0
P = torch.einsum("sa,sat->st", nineteen.uniform(), nineteen.transitions)
R1 = (nineteen.uniform() * nineteen.rewards).sum(-1)
R2 = (nineteen.uniform() * nineteen.rewards**2).sum(-1)  # E[r^2]


def cross(f):
    """E[r f(s')], (S,)."""
    return torch.einsum("sa,sa,sat,t->s", nineteen.uniform(), nineteen.rewards, nineteen.transitions, f)


inner = ~nineteen.terminal


def n_step_moments(v, n):
    """Mean and variance of the n-step return from every state, (S,) each, gamma = 1."""
    m, q = v.clone(), v**2
    for _ in range(n):
        m, q = torch.where(inner, R1 + P @ m, 0.0), torch.where(inner, R2 + 2 * cross(m) + P @ q, 0.0)
    return m, q - m**2


def lambda_moments(v, lam):
    """The same for the lambda-return, from two linear systems."""
    eye = torch.eye(len(v), dtype=torch.float64)
    m = torch.linalg.solve(eye - lam * P * inner[:, None], torch.where(inner, R1 + (1 - lam) * P @ v, 0.0))
    c2 = R2 + 2 * (1 - lam) * cross(v) + (1 - lam) ** 2 * P @ v**2
    cm = cross(m) + (1 - lam) * P @ (v * m)
    q = torch.linalg.solve(eye - lam**2 * P * inner[:, None], torch.where(inner, c2 + 2 * lam * cm, 0.0))
    return m, q - m**2


def split(moments):
    """Mean over cells of squared bias and of variance."""
    m, variance = moments
    return (m - truth19)[1:-1].square().mean().item(), variance[1:-1].mean().item()


everywhere = with_start(nineteen, torch.where(inner, 1 / 19, 0.0))
probe = tabular.rollouts(everywhere, nineteen.uniform(), budget.targets, generator)
begun = probe.states[:, 0]


def sampled_split(targets):
    """The same from sampled targets (N,) that began in states `begun`."""
    bias, variance = [], []
    for s in range(1, 20):
        mine = targets[begun == s]
        if len(mine) > 1:
            bias.append(((mine.mean() - truth19[s]) ** 2 - mine.var() / len(mine)).item())  # less what noise adds
            variance.append(mine.var().item())
    return sum(bias) / len(bias), sum(variance) / len(variance)


MANY = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LAMS = (*tuple(round(0.05 * k, 2) for k in range(20)), 0.97, 0.99, 1.0)
exact_n = {n: split(n_step_moments(estimate, n)) for n in MANY}
exact_lam = {lam: split(lambda_moments(estimate, lam)) for lam in LAMS}
wide = estimate.expand(budget.targets, -1)
sampled_n, sampled_lam = {}, {}
for n in run.progress(MANY, "sampling targets"):
    stop = min(n, probe.rewards.shape[1])
    alive = probe.running[:, stop] if stop < probe.running.shape[1] else torch.zeros(len(begun), dtype=torch.bool)
    sampled_n[n] = sampled_split(probe.rewards[:, :stop].sum(1) + alive * estimate[probe.states[:, stop]])
for lam in (0.0, 0.4, 0.8, 0.9, 0.95, 0.99, 1.0):
    sampled_lam[lam] = sampled_split(tabular.lambda_targets(wide, probe, 1.0, lam)[:, 0])

# %%
figure = make_subplots(1, 2, subplot_titles=("n-step return", "λ-return"), shared_yaxes=True)
for column, (solved, drawn) in enumerate(((exact_n, sampled_n), (exact_lam, sampled_lam)), start=1):
    for part, name, role in ((0, "bias²", "kl"), (1, "variance", "value"), (None, "sum: mean squared error", "policy")):
        pick = (lambda pair: sum(pair)) if part is None else (lambda pair, part=part: pair[part])
        figure.add_scatter(
            x=list(solved), y=[pick(v) for v in solved.values()], name=name, legendgroup=name, showlegend=column == 1, mode="lines",
            line={"color": palette.MIDDLE[role]}, row=1, col=column,
        )  # fmt: skip
        figure.add_scatter(
            x=list(drawn), y=[pick(v) for v in drawn.values()], showlegend=False, mode="markers", marker={"color": palette.MIDDLE[role]}, row=1, col=column,
        )  # fmt: skip
figure.update_xaxes(type="log", title_text="n", row=1, col=1)
figure.update_xaxes(title_text="λ", row=1, col=2)
figure.update_layout(title="Squared bias and variance of the targets (lines exact, dots sampled)", height=430)
run.figure(
    figure,
    "Bias falls and variance rises with n and with lambda; their sum grows with n, and has its least at a lambda near 0.9.",
)
sampling_gap = max(
    abs(a - b)
    for solved, drawn in ((exact_n, sampled_n), (exact_lam, sampled_lam))
    for key in drawn
    for a, b in zip(solved[key], drawn[key])
)
run.table(
    [[f"n = {n}", f"{b:.4f}", f"{v:.4f}", f"{b + v:.4f}"] for n, (b, v) in exact_n.items()],
    ["target", "bias²", "variance", "mean squared error"],
    caption=f"Means over the nineteen cells; largest gap to the sampled ones {sampling_gap:.3f}",
)

# %% [markdown]
# Every step of waiting trades bias for variance. For a **single** target of $n$ steps, waiting does not pay here at all: the sum only grows.
# The λ-return is another matter. It is a mean of many returns, and a mean scatters less than its parts: its error falls until λ is near
# 0.9. And learning averages many targets, which removes variance but not bias; that is why the best $n$ of figure 7.2 is larger than 1.
#
# ## Four ways to one answer
#
# Two questions sort them: *do you have the model?* and *do you trust estimates of successors (bootstrap)?* Exhaustive search: a model, no
# bootstrapping; it unfolds every path to a depth. Dynamic programming: a model, and bootstrapping; it sweeps over states. Monte Carlo:
# samples, no bootstrapping. TD: samples and bootstrapping. One unit of cost is one transition looked at, drawn or computed.


# %%
def unfold(state, depth):
    """Value by exhaustive search to a depth, and the transitions it looked at. Paths that are not over count 0."""
    if depth == 0 or nineteen.terminal[state]:
        return 0.0, 0
    total, looked = 0.0, 0
    for action in (0, 1):
        following = int(nineteen.transitions[state, action].argmax())
        value, cost = unfold(following, depth - 1)
        total += 0.5 * (nineteen.rewards[state, action].item() + value)
        looked += 1 + cost
    return total, looked


searched = [unfold(s, budget.depth) for s in range(21)]
swept, sweep_errors = torch.zeros(21, dtype=torch.float64), []
counted, alive = 0.0, inner.double()
search_curve = []
for sweep in range(1, 1001):
    swept = torch.where(inner, R1 + P @ swept, 0.0)
    sweep_errors.append((sweep * 38, rms(swept, truth19).item()))
    counted += 2 * alive.sum().item()  # nodes of the tree: every path that is not over branches in two
    alive = 2 * (P.T @ alive) * inner
    if sweep <= 40:
        search_curve.append((counted, sweep_errors[-1][1]))
    if sweep == budget.depth:
        depth_gap = (torch.tensor([value for value, _ in searched], dtype=torch.float64) - swept).abs().max().item()
        cost_gap = abs(sum(cost for _, cost in searched) - counted)
print(
    f"search to depth {budget.depth}: equals {budget.depth} sweeps to {depth_gap:.0e}, and looks at {sum(c for _, c in searched):,} transitions; the sweeps at {budget.depth * 38}"
)

# %%
mc_total, mc_count = torch.zeros(2, budget.runs, 21, dtype=torch.float64)
td_now = torch.zeros(budget.runs, 21, dtype=torch.float64)
lam_now = td_now.clone()
looked, sampled_curves = (
    torch.zeros(budget.runs, dtype=torch.float64),
    {"Monte Carlo": [], "TD(0)": [], "TD(λ = 0.8)": []},
)
costs = []
for k in run.progress(budget.cost_episodes, "samples"):
    walk = tabular.rollouts(nineteen, nineteen.uniform(), budget.runs, generator)
    seen = tabular.visit_returns(walk, 21, 1.0, first_visit=False)
    mc_total, mc_count = mc_total + seen.totals, mc_count + seen.counts
    td_now = tabular.n_step_td(td_now, walk, 0.8 * 20 / (20 + k), 1.0, 1)
    if k < 400:
        lam_now = tabular.td_lambda(lam_now, walk, 0.4 * 10 / (10 + k), 1.0, 0.8)
    looked = looked + walk.running.sum(-1)
    costs.append(looked.mean().item())
    sampled_curves["Monte Carlo"].append(rms(torch.where(mc_count > 0, mc_total / mc_count.clamp_min(1), 0.0), truth19))
    sampled_curves["TD(0)"].append(rms(td_now, truth19))
    sampled_curves["TD(λ = 0.8)"].append(rms(lam_now, truth19))
sampled_curves = {name: torch.stack(values, 1) for name, values in sampled_curves.items()}

# %%
points = sorted(
    {
        min(budget.cost_episodes, round(10 ** (k / 12))) - 1
        for k in range(int(12 * math.log10(budget.cost_episodes)) + 1)
    }
)
figure = go.Figure()
for name, role in (("Monte Carlo", "rejected"), ("TD(0)", "policy")):
    band(figure, [costs[k] for k in points], sampled_curves[name][:, points], name, role)
kept = [k for k in points if k < 400]
band(figure, [costs[k] for k in kept], sampled_curves["TD(λ = 0.8)"][:, kept], "TD(λ = 0.8)", "chosen")
thinned = sweep_errors[:10] + sweep_errors[10::20]
figure.add_scatter(
    x=[c for c, _ in thinned],
    y=[e for _, e in thinned],
    name="dynamic programming",
    mode="lines",
    line={"color": palette.MIDDLE["value"]},
)
figure.add_scatter(
    x=[c for c, _ in search_curve if c < 1e9],
    y=[e for c, e in search_curve if c < 1e9],
    name="exhaustive search",
    mode="lines",
    line={"color": palette.MIDDLE["ink"], "dash": "dash"},
)
figure.update_layout(
    title="Cost and error of four ways, nineteen cells",
    xaxis_title="transitions looked at",
    yaxis_title="RMS error over the cells",
    height=460,
)
figure.update_xaxes(type="log")
figure.update_yaxes(type="log", range=[-4, 0])
run.figure(
    figure, "Dynamic programming falls steeply, search hardly at all, Monte Carlo and TD slowly and without a model."
)


def cost_of(curve, level):
    """Transitions until the error is at or below a level; nan where it never is."""
    return next((cost for cost, error in curve if error <= level), float("nan"))


LEVEL = 0.1
by_method = {
    "exhaustive search": cost_of(search_curve, LEVEL), "dynamic programming": cost_of(sweep_errors, LEVEL),
    "Monte Carlo": cost_of(zip(costs, sampled_curves["Monte Carlo"].mean(0).tolist()), LEVEL),
    "TD(0)": cost_of(zip(costs, sampled_curves["TD(0)"].mean(0).tolist()), LEVEL),
    "TD(λ = 0.8)": cost_of(zip(costs, sampled_curves["TD(λ = 0.8)"].mean(0).tolist()), LEVEL),
}  # fmt: skip
decay = sweep_errors[-1][1] / sweep_errors[-2][1]
depth_needed = next(k for k, (_, error) in enumerate(sweep_errors, start=1) if error <= LEVEL)
tree_log10 = depth_needed * math.log10(2)
run.table(
    [
        [name, "more than 10⁹" if math.isnan(cost) and name == "exhaustive search" else f"{cost:,.0f}"]
        for name, cost in by_method.items()
    ],
    ["method", f"transitions until the error is {LEVEL}"],
    caption=f"Search would have to go {depth_needed} deep: about 10^{tree_log10:.0f} paths from each cell",
)

# %% [markdown]
# ## From values to actions
#
# Ask for $Q$ instead of $V$, act on what you know with a little exploration, and each of these becomes a way to *control*. On the textbook
# gridworld (an action slips to the side with probability 0.2), beside the exact optimum of value iteration. The explorer of this chapter lets
# you watch the same three in the page.

# %%
grid_world = GridWorld("textbook")
grid = grid_world.mdp(gamma=0.95)
solved = exact.value_iteration(grid)
start_value = (grid.start * solved.values).sum().item()


def worth(learned):
    """Exact value, from the start, of the greedy policy of each run."""
    return torch.tensor([(grid.start * exact.values(grid, exact.greedy(q))).sum().item() for q in learned.q])


def smooth(x, width=20):
    """Running mean over episodes: (runs, E) -> (runs, E - width + 1)."""
    return x.unfold(1, width, 1).mean(-1)


learned = {
    "Monte Carlo control": tabular.monte_carlo_control(grid, budget.control_runs, budget.control_episodes, seed=1)
}
for name, rule in (("SARSA", "sarsa"), ("expected SARSA", "expected_sarsa"), ("Q-learning", "q_learning")):
    learned[name] = tabular.control(grid, rule, budget.control_runs, budget.control_episodes, alpha=0.1, seed=1)
control_worth = {name: worth(found) for name, found in learned.items()}
figure = go.Figure()
for (name, found), role in zip(learned.items(), ("rejected", "value", "chosen", "policy")):
    line = smooth(found.returns)
    every_few = torch.arange(0, line.shape[1], 4)
    band(figure, every_few + 20, line[:, every_few], name, role)
figure.update_layout(
    title="Return while learning (mean of 20 episodes)", xaxis_title="episode", yaxis_title="return", height=420
)
run.figure(figure, "All four rise to nearly the same return within some hundred episodes.")
run.table(
    [[name, f"{w.mean():.4f}", f"{w.min():.4f}"] for name, w in control_worth.items()]
    + [["optimum", f"{start_value:.4f}", ""]],
    ["method", "value of its greedy policy, mean over runs", "worst run"],
    caption=f"{budget.control_episodes} episodes, {budget.control_runs} runs, ε = 0.1, γ = 0.95",
)

# %% [markdown]
# And live: draw walls and goals, move the discount, step through the three methods.

# %%
run.explorer(
    "gridworld",
    {
        "maps": [
            {"name": name, "title": title, "lines": list(MAPS[name])}
            for name, title in (("textbook", "Textbook, 4 by 3"), ("bridge", "Bridge"), ("maze", "Maze"), ("rooms", "Four rooms"), ("cliff", "Cliff"))
        ],
        "slip": grid_world.slip, "gamma": grid.gamma, "step": grid_world.step_reward, "goal": grid_world.goal, "pit": grid_world.pit,
        "cliff": grid_world.cliff,
    },
)  # fmt: skip

# %% [markdown]
# ## An answer as an episode
#
# Now the example to come. `tiny`, a language model of 0.9 million parameters, continues "The old bear" with one of 1,100 endings. A state is
# a **prefix**, an action the next **token**, the reward comes at the end (1 for a lively verb, 1 for a place outdoors, 0.5 for no time). The value of
# a prefix, the expected reward of what the model will make of it, is an exact sum.

# %%
tiny, tokenizer = models.load("tiny")
prompt = "The old bear"
logps = scenes.exact_logprobs(tiny, tokenizer, [prompt])[0].log_softmax(-1)
answers = []
for ending in scenes.ENDINGS:
    example = scenes.encode(tokenizer, prompt, ending.text)
    answers.append(tuple(token for token, mark in zip(example.ids, example.response_mask) if mark))
numbers = {}  # every prefix that can occur, the root first; whole answers are terminal
for answer in answers:
    for t in range(len(answer) + 1):
        numbers.setdefault(answer[:t], len(numbers))
longest, prefixes = max(map(len, answers)), len(numbers)
paths = torch.tensor(
    [[numbers[answer[: min(t, len(answer))]] for t in range(longest + 1)] for answer in answers]
)  # (1100, T + 1)
sizes = torch.tensor([len(answer) for answer in answers])
reach, weighted = torch.zeros(2, prefixes, dtype=torch.float64)
for i, answer in enumerate(answers):
    own = [numbers[answer[:t]] for t in range(len(answer) + 1)]
    reach[own] += logps[i].exp()
    weighted[own] += logps[i].exp() * scenes.GOLD[i]
prefix_value = weighted / reach
mean_length = (logps.exp() @ sizes.double()).item()
print(
    f"{prefixes:,} prefixes, {longest} tokens at most, {mean_length:.1f} on average; V(prompt) = {prefix_value[0]:.4f}"
)

# %% [markdown]
# With true values, the TD error of a token is what the token changed: $\delta_t=V(\text{longer prefix})-V(\text{prefix})$, and the errors add up
# to the reward minus what was expected at the start. Nothing else is token-level credit.


# %%
def errors_of(i):
    """TD errors of the tokens of answer i; the value after the last one is the reward itself."""
    along = prefix_value[paths[i, : sizes[i] + 1]]
    return along, along[1:] - along[:-1]


drawn = torch.multinomial(logps.exp(), 500, replacement=True, generator=torch.Generator().manual_seed(3)).tolist()
said = next(i for i in drawn if errors_of(i)[1].min() < -0.2 and errors_of(i)[1].max() > 0.2)  # the first with both
along, token_errors = errors_of(said)
pieces = [tokenizer.decode([token]) for token in answers[said]]
run.table(
    [
        [piece.replace("\n", "↵"), f"{before:.3f}", f"{after:.3f}", f"{delta:+.3f}"]
        for piece, before, after, delta in zip(pieces, along[:-1], along[1:], token_errors)
    ],
    ["token", "V before", "V after (at the end: the reward)", "δ"],
    caption=f"“{prompt}{scenes.ENDINGS[said].text}”: the errors sum to {token_errors.sum():+.3f} = {scenes.GOLD[said]:.1f} − {along[0]:.3f}",
)
telescoped = abs(token_errors.sum().item() - (scenes.GOLD[said].item() - along[0].item()))

# %% [markdown]
# Now forget the exact values and learn them from sampled answers, once by averaging rewards and once by batch TD (certainty equivalence).


# %%
def from_samples(number, seed):
    """Monte Carlo and certainty-equivalence values of all prefixes from `number` sampled answers; nan where unseen."""
    drawn = torch.multinomial(logps.exp(), number, replacement=True, generator=torch.Generator().manual_seed(seed))
    visits, total = torch.zeros(2, prefixes, dtype=torch.float64)
    steps = {}
    for i in drawn.tolist():
        for t in range(sizes[i]):
            a, b = paths[i, t].item(), paths[i, t + 1].item()
            steps.setdefault(a, {}).setdefault(b, 0)
            steps[a][b] += 1
            visits[a] += 1
            total[a] += scenes.GOLD[i]
    end_reward = dict(zip(paths[drawn, -1].tolist(), scenes.GOLD[drawn].tolist()))
    solved = dict(end_reward)  # V of the successor, or the reward where it is the end
    for a in sorted(steps, key=lambda s: -depth_of[s]):  # longest prefixes first: one backward pass solves the system
        solved[a] = sum(n * solved[b] for b, n in steps[a].items()) / sum(steps[a].values())
    td = torch.full((prefixes,), float("nan"), dtype=torch.float64)
    td[list(solved)] = torch.tensor(list(solved.values()), dtype=torch.float64)
    return torch.where(visits > 0, total / visits, float("nan")), td, visits


depth_of = torch.tensor([len(prefix) for prefix in numbers]).tolist()
tree_gap, root_errors, seen_share = 0.0, {}, {}
for number in run.progress(budget.answers, "answers"):
    errors = []
    for seed in range(10):
        mc, td, visits = from_samples(number, seed)
        tree_gap = max(tree_gap, (mc - td)[visits > 0].abs().max().item())
        known = visits > 0
        errors.append((mc[0] - prefix_value[0]).item() ** 2)
        seen_share.setdefault(number, []).append(
            (reach[known & ~torch.isnan(mc)].sum() / reach[:prefixes].sum()).item()
        )
    root_errors[number] = math.sqrt(sum(errors) / len(errors))
print(f"largest difference between Monte Carlo and batch TD on the tree of prefixes: {tree_gap:.0e}")
run.table(
    [[number, f"{error:.3f}"] for number, error in root_errors.items()], ["answers", "RMS error of V(prompt), 10 seeds"]
)

# %% [markdown]
# They are **the same numbers**. In a tree no two prefixes ever meet again, so there is nothing that TD could carry from one path to another; its
# advantage on the random walk came from cells that many walks share. For a language model that advantage must come from somewhere else: from a
# network that sees that two different prefixes are alike. That is why PPO trains a value network and GRPO can do without one.
#
# ## What goes wrong
#
# **A terminal state that is bootstrapped.** Forget that nothing follows the end, give the ends a table entry like any other, and each walk's last
# target adds an estimate of nothing. **A clock taken for an end.** Cut walks after 3 steps and call that termination: the values of all cells that the
# cut leaves before an end shrink towards 0. **Too large a step with long traces.**

# %%
wrong = torch.full((budget.runs, five.states), 0.5, dtype=torch.float64)
row = torch.arange(budget.runs)
for walk in walks:  # the ends keep the 0.5 that every table entry began with, and it stays in the last target
    for t in range(walk.actions.shape[1]):
        state, following = walk.states[:, t], walk.states[:, t + 1]
        error = walk.rewards[:, t] + wrong[row, following] - wrong[row, state]
        wrong[row, state] += 0.1 * walk.running[:, t] * error
anywhere = with_start(five, torch.where(five.terminal, 0.0, 1 / 5))
cut_wrong, cut_right = (torch.full((budget.runs, five.states), 0.5, dtype=torch.float64) for _ in range(2))
for k in range(400):
    cut = tabular.rollouts(anywhere, five.uniform(), budget.runs, generator, limit=3)
    cut_right = tabular.n_step_td(cut_right, cut, 0.05, 1.0, 1)
    cut_wrong = tabular.n_step_td(cut_wrong, cut._replace(terminated=torch.ones_like(cut.terminated)), 0.05, 1.0, 1)
burst = tabular.td_lambda(zeros, ten[0], 0.5, 1.0, 1.0)
for walk in ten[1:]:
    burst = tabular.td_lambda(burst, walk, 0.5, 1.0, 1.0)
failures = {
    "terminal": wrong[:, 1:-1].mean().item(), "cut_right": rms(cut_right, truth).mean().item(), "cut_wrong": rms(cut_wrong, truth).mean().item(),
    "burst": rms(burst, truth19).median().item(),
}  # fmt: skip
print("terminal state bootstrapped: mean value of A to E", round(failures["terminal"], 3), "instead of 0.5")
print(
    "walks cut at 3 steps: error",
    round(failures["cut_right"], 3),
    "and, if the cut is taken for an end,",
    round(failures["cut_wrong"], 3),
)
print(f"accumulating traces, λ = 1, α = 0.5: median error {failures['burst']:.3g} after ten walks")

# %% [markdown]
# ## As one would at work
#
# stable-baselines3 computes λ-returns for PPO and A2C in its rollout buffer, from advantages (the next chapter's GAE): the λ-return is the advantage
# plus the value. The same numbers, ten lines:

# %%
import itertools

import gymnasium as gym
from stable_baselines3.common.buffers import RolloutBuffer

lam, gamma, n = 0.9, 0.97, len(rewards)
buffer = RolloutBuffer(n, gym.spaces.Discrete(21), gym.spaces.Discrete(2), gae_lambda=lam, gamma=gamma, n_envs=1)
buffer.rewards[:, 0], buffer.values[:, 0] = rewards, guess[path[:n]].numpy()
buffer.episode_starts[0] = 1.0
buffer.compute_returns_and_advantage(last_values=torch.zeros(1), dones=np.array([True]))
ours = tabular.lambda_targets(guess.expand(budget.runs, -1), ten[0], gamma, lam)[0, :n]
peer_gap = (torch.from_numpy(buffer.returns[:, 0]).double() - ours).abs().max().item()
print(f"λ-returns of {n} steps: stable-baselines3 and ours differ by {peer_gap:.0e}")

# %% [markdown]
# ## Weights, live
#
# One real walk, the returns of every length from its start, and what λ makes of them.

# %%
pick = int((ten[0].running.sum(-1) - 24).abs().argmin())
steps_shown = int(ten[0].running[pick].sum())
run.explorer(
    "td_weights",
    {
        "walk": {
            "states": ten[0].states[pick, : steps_shown + 1].tolist(), "rewards": ten[0].rewards[pick, :steps_shown].tolist(),
            "values": estimate.tolist(), "truth": truth19.tolist(),
        },
        "lambdas": [{"lam": lam, "bias2": b, "variance": v} for lam, (b, v) in exact_lam.items()],
        "steps": [{"n": n, "bias2": b, "variance": v} for n, (b, v) in {n: split(n_step_moments(estimate, n)) for n in range(1, 65)}.items()],
        "try": "Set λ to 0, then raise it slowly: the weights spread from the first step to the whole return.",
    },
)  # fmt: skip

# %% [markdown]
# ## What this run measured

# %%
run.result("mc_runs", budget.runs)
for n in (10, 100, 1000):
    run.result(f"mc_error_{n}", mc_errors[:, min(n, budget.mc_episodes) - 1].mean(), format=".3f")
run.result("mc_slope", fit[0], format=".2f")
for (bias, mse, many), name in zip(loop_rows, ("first", "every")):
    run.result(f"{name}_bias", bias, format="+.2f")
    run.result(f"{name}_mse", mse, format=".1f")
    run.result(f"{name}_bias_100", many, format="+.2f")
run.result("is_true", is_truth, format=".3f")
for name in ("ordinary", "weighted", "on-policy"):
    run.result(f"is_{name.replace('-', '_')}_100", is_error[name], format=".3f")
run.result("is_inverted", inverted_end, format=".2f")
run.result("mc_control_start", control_worth["Monte Carlo control"].mean(), format=".3f")
run.result("mc_control_best", start_value, format=".3f")
run.result("control_episodes", budget.control_episodes)
run.result("control_runs", budget.control_runs)
for name, w in control_worth.items():
    run.result("worth_" + name.lower().replace(" ", "_").replace("-", "_"), w.mean(), format=".3f")
run.result("walk_episodes", budget.walk_episodes)
for alpha in TD_ALPHAS:
    run.result(f"td_error_{alpha:g}".replace(".", ""), td_best[alpha], format=".3f")
for alpha in MC_ALPHAS:
    run.result(f"cmc_error_{alpha:g}".replace(".", ""), mc_best[alpha], format=".3f")
run.result("td_least", least_td, format=".3f")
run.result("cmc_least", least_mc, format=".3f")
run.result("batch_td", batch_errors["td"][-1], format=".3f")
run.result("batch_mc", batch_errors["mc"][-1], format=".3f")
run.result("batch_td_10", batch_errors["td"][min(10, budget.walk_episodes) - 1], format=".3f")
run.result("batch_mc_10", batch_errors["mc"][min(10, budget.walk_episodes) - 1], format=".3f")
run.result("batch_td_fit", in_squares[0], format=".4f")
run.result("batch_mc_fit", in_squares[1], format=".4f")
run.result("replay_gap", replay_gap, format=".0e")
for n in (1, 4, 64, 512):
    if n in best_n or n == 512:
        least, alpha = best_n[min(n, max(best_n))]
        run.result(f"n_{n}_error", least, format=".3f")
        run.result(f"n_{n}_alpha", alpha, format=".2f")
run.result("n_best", winner)
run.result("n_best_error", best_n[winner][0], format=".3f")
for name, tag in (("offline λ-return", "offline"), ("TD(λ)", "tdl"), ("true online TD(λ)", "true")):
    run.result(f"{tag}_least", least_of[name][0], format=".3f")
for lam, tag in ((0.0, "0"), (0.8, "08"), (1.0, "1")):
    run.result(f"tdl_{tag}_error", best_lambda["TD(λ)"][lam][0], format=".3f")
    run.result(f"tdl_{tag}_alpha", best_lambda["TD(λ)"][lam][1], format=".2f")
run.result("tdl_best", lam_winner, format="g")
run.result("definition_gap", definition_gap, format=".0e")
run.result("offline_gap", offline_gap, format=".0e")
run.result("online_gap", online_gap, format=".2f")
run.result("dutch_gap", dutch_gap, format=".0e")
run.result("plain_gap", plain_gap, format=".2f")
for n in (1, 4, 16, 256):
    run.result(f"bias2_{n}", exact_n[n][0], format=".3f")
    run.result(f"variance_{n}", exact_n[n][1], format=".3f")
run.result("sampling_gap", sampling_gap, format=".3f")
for n in (1, 8):
    run.result(f"mse_n_{n}", sum(exact_n[n]), format=".3f")
for lam, tag in ((0.0, "0"), (0.9, "09"), (1.0, "1")):
    run.result(f"mse_lam_{tag}", sum(exact_lam[lam]), format=".3f")
run.result("targets", budget.targets, format=",")
run.result("depth", budget.depth)
run.result("search_cost", sum(cost for _, cost in searched), format=",")
run.result("sweep_cost", budget.depth * 38, format=",")
run.result("depth_gap", depth_gap, format=".0e")
run.result("level", LEVEL, format="g")
for name, tag in (("dynamic programming", "dp"), ("Monte Carlo", "mc"), ("TD(0)", "td"), ("TD(λ = 0.8)", "tdl")):
    run.result(f"cost_{tag}", by_method[name], format=",.0f")
run.result("cost_depth", depth_needed)
run.result("cost_paths", tree_log10, format=".0f")
run.result("mc_at_end", sampled_curves["Monte Carlo"][:, -1].mean(), format=".3f")
run.result("td_at_end", sampled_curves["TD(0)"][:, -1].mean(), format=".3f")
run.result("end_cost", costs[-1], format=",.0f")
run.result("prefixes", prefixes, format=",")
run.result("answer_tokens", mean_length, format=".1f")
run.result("answer_longest", longest)
run.result("prompt_value", prefix_value[0], format=".3f")
run.result("said_reward", scenes.GOLD[said], format=".1f")
run.result("said_most", token_errors.max(), format="+.2f")
run.result("said_most_token", None, pieces[int(token_errors.argmax())].strip())
run.result("said_least", token_errors.min(), format="+.2f")
run.result("said_least_token", None, pieces[int(token_errors.argmin())].strip())
run.result("tree_gap", tree_gap, format=".0e")
run.result("answers_few", budget.answers[0])
run.result("answers_few_error", root_errors[budget.answers[0]], format=".2f")
run.result("answers_many", budget.answers[-1], format=",")
run.result("answers_many_error", root_errors[budget.answers[-1]], format=".3f")
run.result("wrong_terminal", failures["terminal"], format=".2f")
run.result("cut_right", failures["cut_right"], format=".2f")
run.result("cut_wrong", failures["cut_wrong"], format=".2f")
run.result("burst", failures["burst"], format=".0e")
run.result("peer_gap", peer_gap, format=".0e")
run.result("said", None, prompt + scenes.ENDINGS[said].text)

# %%
run.claim("Monte Carlo, TD(0) and n-step TD in the open equal the library's", max(mc_gap, td_gap, n_gap) < 1e-9)
run.claim("Monte Carlo's error falls as one over the root of the episodes", abs(fit[0] + 0.5) < 0.05)
run.claim(
    "first visits are unbiased, every visit expects 5.5 of 10 from one episode",
    abs(loop_rows[0][0]) < 0.15 and abs(loop_rows[1][0] + 4.5) < 0.1,
)
run.claim(
    "every visit has the smaller squared error, and its bias fades",
    loop_rows[1][1] < loop_rows[0][1] and abs(loop_rows[1][2]) < 0.3,
)
run.claim(
    "weighted importance sampling has less than half of the error of the ordinary kind",
    is_error["weighted"] < is_error["ordinary"] / 2,
)
run.claim("inverted ratios miss the value by far", abs(inverted_end - is_truth) > 0.3)
run.claim("TD(0) at its best is below Monte Carlo at its best, example 6.2", least_td < least_mc)
run.claim("batch TD(0) is certainty equivalence", replay_gap < 1e-8)
run.claim(
    "batch TD has the smaller error, batch Monte Carlo the better fit of the data",
    batch_errors["td"][-1] < batch_errors["mc"][-1] and in_squares[1] < in_squares[0],
)
run.claim(
    "an n between the ends is best, and it is 4, figure 7.2",
    winner == 4 and best_n[4][0] < min(best_n[1][0], best_n[max(best_n)][0]) - 0.05,
)
run.claim("the recursion of the lambda-return equals its definition", definition_gap < 1e-9)
run.claim("forward and backward view are equal offline, for every lambda", offline_gap < 1e-9 and views_by_hand < 1e-6)
run.claim(
    "online they differ; true online TD(lambda) equals the online forward view",
    online_gap > 1e-3 and dutch_gap < 1e-9 and plain_gap > 1e-3,
)
run.claim(
    "a lambda between the ends is best for all three, figures 12.3, 12.6 and 12.8",
    all(min(rows, key=lambda lam: rows[lam][0]) in (0.4, 0.8, 0.9) for rows in best_lambda.values()),
)
run.claim(
    "TD(lambda) and the offline lambda-return reach nearly the same least error",
    abs(least_of["TD(λ)"][0] - least_of["offline λ-return"][0]) < 0.02,
)
run.claim(
    "squared bias falls and variance rises with n",
    all(
        exact_n[a][0] > exact_n[b][0] - 1e-12 and exact_n[a][1] < exact_n[b][1] + 1e-12
        for a, b in itertools.pairwise(MANY)
    ),
)
run.claim(
    "of single targets the one-step return is the best n-step return, and a lambda-return near 0.9 beats them all",
    min(exact_n, key=lambda n: sum(exact_n[n])) == 1
    and min(map(sum, exact_lam.values())) < min(map(sum, exact_n.values())) - 0.01
    and 0.8 <= min(exact_lam, key=lambda lam: sum(exact_lam[lam])) <= 0.95,
)
run.claim("sampled bias and variance agree with the exact ones", sampling_gap < 0.02)
run.claim("search to a depth equals as many sweeps, and counts the same nodes", depth_gap < 1e-6 and cost_gap < 0.5)
run.claim(
    "with the model, sweeps reach the level with the fewest transitions; TD needs fewer than Monte Carlo",
    by_method["dynamic programming"] < by_method["TD(λ = 0.8)"] < by_method["Monte Carlo"],
)
run.claim(
    "all four ways of control come within 10% of the optimum",
    all(w.mean() > 0.9 * start_value for w in control_worth.values()),
)
run.claim("token-level TD errors add up to the reward minus the expectation", telescoped < 1e-9)
run.claim("in the tree of prefixes batch TD and Monte Carlo are the same", tree_gap < 1e-9)
run.claim(
    "a bootstrapped end and a clock taken for an end give wrong values",
    failures["terminal"] > 0.9 and failures["cut_wrong"] > 2 * failures["cut_right"],
)
run.claim("long traces with a large step size diverge", failures["burst"] > 10)
run.claim("stable-baselines3's lambda-returns equal ours", peer_gap < 1e-5)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. TD errors** (difficulty 1, 5 minutes). From rewards `(T,)`, values `(T + 1,)` of the states passed, whether the episode terminated at its
# end, and $\gamma$, return the TD errors `(T,)`.


# %%
def my_td_errors(rewards, values, terminated, gamma): ...


check("mc_td.td_errors", my_td_errors)

# %% [markdown]
# **2. The weights** (difficulty 1, 6 minutes). $T$ steps are left. Return the weights `(T,)` that the λ-return gives to the returns of $1,\dots,T$ steps;
# the last one is the whole return.


# %%
def my_lambda_weights(lam, T): ...


check("mc_td.lambda_weights", my_lambda_weights)

# %% [markdown]
# **3. The backward view** (difficulty 2, 10 minutes). One episode: `states` (list of T ints), `rewards` (list of T numbers); it terminates after the last
# step. Return the values after **online** TD(λ) with accumulating traces; `values` (S,) is a tensor.


# %%
def my_td_lambda(values, states, rewards, alpha, gamma, lam): ...


check("mc_td.td_lambda", my_td_lambda)

# %% [markdown]
# **4. Predict** (difficulty 2, 8 minutes). Eight episodes of an unknown process with states A and B: once A, 0, B, 0; six times B, 1; once B, 0 (a number
# is the reward that follows). Nothing is discounted. Return four numbers: V(A) and V(B) by Monte Carlo, then V(A) and V(B) by batch TD(0).

# %%
my_predictions = ...

check("mc_td.predict", my_predictions)

# %% [markdown]
# **5. Another policy's episode** (difficulty 3, 10 minutes). Returns `(N,)` of N episodes of $b$, and for each of their steps the probability of the action
# under $\pi$ and under $b$, both `(N, T)`. Return the **weighted** importance-sampling estimate of $\pi$'s value, one number.


# %%
def my_off_policy_value(returns, target_probs, behaviour_probs): ...


check("mc_td.off_policy_value", my_off_policy_value)
