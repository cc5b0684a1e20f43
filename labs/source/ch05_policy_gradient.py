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
# # Policy gradients, proved and measured
#
# A policy gradient claims something odd: you can differentiate an expected return without knowing how the world works, from nothing
# but episodes. Here you hold that claim against exact gradients, count how noisy it is, take noise away, and add mistakes. Then the
# same few lines balance a pole, and teach a language model.
#
# - **You will** differentiate the expected return of a corridor in four ways; enumerate 4,096 episodes and read bias and variance off
#   exactly; build REINFORCE and actor-critic in the open, hold them against the library, and train them on CartPole with five seeds
#   side by side; watch four bugs; turn next-token probabilities into a policy; and do it as at work, with Stable-Baselines3.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 5.5.1-5.5.3

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
# ## A corridor in which all places look alike
#
# Sutton and Barto's example 13.1. Three places in a row, then the exit. Each step costs 1. In the second place the two actions are
# swapped: "right" leads left. The agent cannot tell the places apart, so it has one number to choose: the probability of "right".

# %%
import copy
import math
import random
import time
from collections import deque

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, decoding, lab, logprobs, models, palette, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.losses.policy import policy_gradient_loss, value_loss
from alignlab.rl.curves import band
from alignlab.rl.environments import Copies, play
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, occupancy, q_from_v, values
from alignlab.rl.networks import Networks, clip_grad_norms
from alignlab.rl.policy_gradient import ActorCritic, Config, collect, losses, sample, softmax_gradient, train
from alignlab.rl.returns import discounted_returns, lambda_returns
from alignlab.tasks import scenes

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch05_policy_gradient")
budget = run.budget(
    full=dict(
        draws=(1, 4, 16, 64, 256, 1024, 4096), repeats=400, runs=100, episodes=1000, token_draws=(16, 64, 256, 1024, 4096), answers=20,
        answer_seeds=5, seeds=5, steps=120_000, broken_steps=60_000, peer_steps=60_000,
    ),
    quick=dict(
        draws=(1, 16, 256), repeats=40, runs=20, episodes=30, token_draws=(16, 256), answers=2, answer_seeds=1, seeds=2, steps=4_000,
        broken_steps=2_000, peer_steps=500,
    ),
)  # fmt: skip
compute.seed(0)
LEFT, RIGHT = 0, 1
NEXT = torch.tensor(
    [[0, 1], [2, 0], [1, 3], [3, 3]]
)  # where left and right lead; the second place swaps them; 3 is the exit


def corridor(gamma=1.0):
    transitions = F.one_hot(NEXT, 4).double()  # (S, A, S)
    start, terminal = torch.tensor([1.0, 0, 0, 0]), torch.tensor([False, False, False, True])
    return FiniteMDP(transitions, torch.full((4, 2), -1.0), gamma, start, terminal)


def same_everywhere(theta):
    """pi(left), pi(right) = 1 - sigmoid(theta), sigmoid(theta), in all places: (4, 2)."""
    right = torch.sigmoid(torch.as_tensor(theta, dtype=torch.float64))
    return torch.stack([1 - right, right]).expand(4, 2)


WORLD = corridor()


def objective(theta):
    """J: the expected return from the start, by a linear solve."""
    return WORLD.start @ values(WORLD, same_everywhere(theta))


shares = torch.linspace(0.04, 0.96, 93, dtype=torch.float64)
worth = torch.stack([objective(share.logit()) for share in shares])
best_share = 2 - math.sqrt(2)
best_return, closed_form = objective(math.log(best_share / (1 - best_share))).item(), -(6 + 4 * math.sqrt(2))
greedy_left, greedy_right = (objective(math.log(p / (1 - p))).item() for p in (0.05, 0.95))
fig = go.Figure()
fig.add_scatter(
    x=shares.float().numpy(), y=worth.float().numpy(), name="expected return", line={"color": palette.MIDDLE["policy"]}
)
fig.add_scatter(
    x=[0.05, best_share, 0.95], y=[greedy_left, best_return, greedy_right], mode="markers+text", name="three policies",
    text=["ε-greedy left", "best", "ε-greedy right"], textposition=["middle right", "top center", "middle left"],
    marker={"size": 9, "color": palette.MIDDLE["reward"]},
)  # fmt: skip
fig.update_layout(
    title="What the corridor is worth",
    xaxis_title="probability of right",
    yaxis_title="expected return J",
    showlegend=False,
)
run.figure(
    fig, "The expected return against the probability of right: highest at 0.59, and falling off steeply on both sides."
)
print(
    f"best probability of right {best_share:.4f}, worth {best_return:.3f}; 0.1-greedy: left {greedy_left:.1f}, right {greedy_right:.1f}"
)

# %% [markdown]
# The best policy is a **coin**, loaded 59 to 41. No greedy policy comes near it, whatever values it has learned, since the best action is
# another one in each place and the agent cannot see which. A policy with a parameter can be that coin. What we need is the slope of this curve.
#
# ## The gradient, four ways
#
# The **policy gradient theorem** says that the slope is $\sum_s d(s)\sum_a\nabla\pi(a\mid s)\,Q(s,a)$, with $d(s)$ the expected number of
# visits to $s$. Nothing in it differentiates $d$, though every step of the policy changes where you will be. Is that right?

# %%
STEP = 1e-5


def theorem(theta):
    """The theorem's sum, term by term."""
    policy = same_everywhere(theta)
    visits, q = occupancy(WORLD, policy), q_from_v(WORLD, values(WORLD, policy))
    slope = policy[0, RIGHT] * policy[0, LEFT]  # of sigmoid(theta)
    return (visits * slope * (q[:, RIGHT] - q[:, LEFT])).sum().item()


rows, four_ways_gap = [], 0.0
for share in (0.05, 0.25, 0.5, best_share, 0.9):
    theta = torch.tensor(math.log(share / (1 - share)), dtype=torch.float64, requires_grad=True)
    (through_the_solve,) = torch.autograd.grad(objective(theta), theta)
    difference = ((objective(theta + STEP) - objective(theta - STEP)) / (2 * STEP)).item()
    by_formula = (
        (2 * (share**2 - 4 * share + 2) / (share**2 * (1 - share) ** 2)) * share * (1 - share)
    )  # J = 2 (p - 2) / (p (1 - p))
    found = [difference, through_the_solve.item(), by_formula, theorem(theta.detach())]
    four_ways_gap = max(four_ways_gap, max(abs(x - found[2]) / max(1.0, abs(found[2])) for x in found))
    rows.append([f"{share:.3f}", f"{objective(theta).item():.3f}", *(f"{x:+.6f}" for x in found)])
run.table(
    rows, ["probability of right", "J", "finite difference", "autograd", "closed form", "theorem"],
    caption="dJ/dθ, computed in four ways that have nothing in common",
)  # fmt: skip
print(f"largest disagreement, relative: {four_ways_gap:.0e}")

# %% [markdown]
# The theorem needs no derivative of $d$, because $Q$ already contains everything that comes later; unrolling the recursion for $\nabla V$
# is how the page proves it. With a table of logits, one for each state and action, the inner sum simplifies to $d(s)\,\pi(a\mid s)\,A(s,a)$.
# On the chapter's gridworld (4×3, slippery) that is 44 numbers.

# %%
GAMMA = 0.9
grid = GridWorld("textbook").mdp(GAMMA)
generator = torch.Generator().manual_seed(0)
table = torch.randn(grid.states, grid.actions, generator=generator, dtype=torch.float64)


def worth_of(logits, mdp=grid):
    return mdp.start @ values(mdp, logits.softmax(-1))


def tabular_gradient(logits, mdp):
    policy = logits.softmax(-1)
    v = values(mdp, policy)
    advantages = q_from_v(mdp, v) - v[:, None]
    return occupancy(mdp, policy)[:, None] * policy * advantages  # d(s) pi(a|s) A(s,a)


by_theorem = tabular_gradient(table, grid)
by_difference = torch.zeros_like(table)
for s in range(grid.states):
    for a in range(grid.actions):
        nudge = torch.zeros_like(table)
        nudge[s, a] = STEP
        by_difference[s, a] = (worth_of(table + nudge) - worth_of(table - nudge)) / (2 * STEP)
grid_gap = (by_theorem - by_difference).abs().max().item()
library_gap = (by_theorem - softmax_gradient(grid, table)).abs().max().item()
print(
    f"largest difference: to finite differences {grid_gap:.0e}, to the library {library_gap:.0e}; norm {by_theorem.norm():.3f}"
)

# %% [markdown]
# One subtlety. $d(s)=\sum_t\gamma^t P(s_t=s)$ counts a late visit for less. Nearly all code drops that factor $\gamma^t$ and keeps $\gamma$ inside
# the returns. What it then follows is no longer this gradient. How far off is it?

# %%
start_policy = torch.zeros_like(table)
v = values(grid, start_policy.softmax(-1))
advantages = q_from_v(grid, v) - v[:, None]
undiscounted = (
    occupancy(grid.with_gamma(1.0), start_policy.softmax(-1))[:, None] * start_policy.softmax(-1) * advantages
)
kept = softmax_gradient(grid, start_policy)
dropped_cosine = F.cosine_similarity(kept.flatten(), undiscounted.flatten(), dim=0).item()
print(
    f"gridworld, gamma {GAMMA}, uniform policy: cosine of the gradient with γ^t and the direction without it {dropped_cosine:.3f}"
)

# %% [markdown]
# ## From the theorem to an estimate, with all 4,096 episodes in hand
#
# $\nabla\pi=\pi\,\nabla\log\pi$ turns the sum into an expectation, and an expectation can be sampled: **REINFORCE** plays an episode and adds up
# $\nabla\log\pi(a_t\mid s_t)\,G_t$. To know the bias and the variance of that *exactly*, let a clock end each episode after 12 steps. Then
# there are $2^{12}$ sequences of actions, and each expectation is a sum. (Actions after the exit are dealt, too, and never used.)

# %%
HORIZON, SHARE = 12, 0.35
SEQUENCES = (torch.arange(2**HORIZON)[:, None] >> torch.arange(HORIZON)) & 1  # (4096, 12) of left and right
places = [torch.zeros(len(SEQUENCES), dtype=torch.long)]
for t in range(HORIZON):
    places.append(NEXT[places[-1], SEQUENCES[:, t]])
PLACES = torch.stack(places, 1)  # (4096, 13)
RUNNING = (PLACES[:, :-1] != 3).double()
REWARDS = -RUNNING
TO_GO = discounted_returns(REWARDS, 1.0)  # G_t, (4096, 12)


def chances(theta):
    """The probability of each sequence, (4096,)."""
    logps = torch.stack([F.logsigmoid(-theta), F.logsigmoid(theta)])
    return logps[SEQUENCES].sum(1).exp()


THETA = torch.tensor(math.log(SHARE / (1 - SHARE)), dtype=torch.float64)
live = THETA.clone().requires_grad_()
clock_objective = (chances(live) * TO_GO[:, 0]).sum()
(EXACT,) = torch.autograd.grad(clock_objective, live)
clock_difference = ((chances(THETA + STEP) - chances(THETA - STEP)) @ TO_GO[:, 0] / (2 * STEP)).item()
PROBS = chances(THETA)
SCORES = (SEQUENCES.double() - SHARE) * RUNNING  # d log pi / d theta: 1 - p for right, -p for left
print(
    f"J = {clock_objective.item():.4f}; dJ/dθ by autograd {EXACT:+.6f}, by finite differences {clock_difference:+.6f}"
)

# %% [markdown]
# The values under that clock, backwards in time, for use as a baseline: $V_t(s)$ and $Q_t(s,a)$.

# %%
V = torch.zeros(HORIZON + 1, 4, dtype=torch.float64)
Q = torch.zeros(HORIZON, 4, 2, dtype=torch.float64)
for t in reversed(range(HORIZON)):
    Q[t] = -1 + V[t + 1][NEXT]
    Q[t, 3] = 0
    V[t] = Q[t] @ torch.tensor([1 - SHARE, SHARE], dtype=torch.float64)
TIME = torch.arange(HORIZON)
V_HERE = V[TIME, PLACES[:, :-1]]  # (4096, 12)
V_AFTER = V[TIME + 1, PLACES[:, 1:]]
Q_TAKEN = Q[TIME, PLACES[:, :-1], SEQUENCES]
PAST = torch.cat([torch.zeros(len(SEQUENCES), 1), REWARDS.cumsum(1)[:, :-1]], 1)  # rewards before t
ESTIMATES = {
    "whole return": (SCORES * TO_GO[:, :1]).sum(1),
    "reward-to-go": (SCORES * TO_GO).sum(1),
    "minus a constant": (SCORES * (TO_GO - clock_objective.item())).sum(1),
    "minus V(s)": (SCORES * (TO_GO - V_HERE)).sum(1),
    "minus V(s) of the next state": (SCORES * (TO_GO - V_AFTER)).sum(1),
    "past rewards alone": (SCORES * PAST).sum(1),
    "sign flipped": -(SCORES * TO_GO).sum(1),
}


def moments(estimate):
    """Exact mean and standard deviation of one episode's estimate."""
    mean = PROBS @ estimate
    return mean.item(), (PROBS @ (estimate - mean).square()).sqrt().item()


MOMENTS = {name: moments(estimate) for name, estimate in ESTIMATES.items()}
rows = []
for name, (mean, deviation) in MOMENTS.items():
    needed = (deviation / (0.1 * abs(EXACT.item()))) ** 2
    fair = abs(mean - EXACT.item()) < 1e-9
    rows.append(
        [
            name,
            f"{mean:+.4f}",
            "none" if fair else f"{mean - EXACT.item():+.3f}",
            f"{deviation:.2f}",
            f"{needed:,.0f}" if fair else "never",
        ]
    )
run.table(
    rows, ["weight of the score", "mean", "bias", "standard deviation", "episodes for ±10%"],
    caption=f"Exact moments of one episode's estimate of dJ/dθ = {EXACT.item():+.4f}, by summing 4,096 episodes", mark=("minus V(s)",),
)  # fmt: skip

# %% [markdown]
# Read it line by line. The first four have the same mean, the exact gradient. Leaving out the rewards before $t$ costs nothing and takes
# noise away, since their expected product with the score is zero, as the sixth line says. Subtracting a baseline does so again.
#
# The fifth line is a bug that looks like an improvement: the baseline is read one step late, from the state that the action led to. That
# baseline **depends on the action**. It subtracts just what the action achieved; here, where every step costs the same, *all* of it.
#
# Sample now, and watch the error fall. An unbiased estimate has the slope −½: four times the episodes, half the error.

# %%
SHOWN = {
    "whole return": "reference", "reward-to-go": "policy", "minus V(s)": "value", "minus V(s) of the next state": "rejected", "sign flipped": "kl",
}  # fmt: skip
errors = {}
for name in SHOWN:
    errors[name] = []
    for n in budget.draws:
        index = torch.multinomial(PROBS, n * budget.repeats, True, generator=generator).view(budget.repeats, n)
        off = ESTIMATES[name][index].mean(1) - EXACT
        errors[name].append((off.square().mean().sqrt() / EXACT.abs()).item())
fig = go.Figure()
for name, role in SHOWN.items():
    fig.add_scatter(
        x=np.float32(budget.draws), y=np.float32(errors[name]), name=name, line={"color": palette.MIDDLE[role]}
    )
fig.update_layout(
    title="Error of the estimated gradient", xaxis_title="episodes", yaxis_title="relative error (root mean square)"
)
fig.update_xaxes(type="log")
fig.update_yaxes(type="log")
run.figure(
    fig,
    "On two logarithmic axes three lines fall with slope one half, lower with each improvement; two biased ones level off.",
)


def slope(curve):
    return math.log(curve[-1] / curve[0]) / math.log(budget.draws[-1] / budget.draws[0])


print({name: f"slope {slope(curve):+.2f}, last error {curve[-1]:.3f}" for name, curve in errors.items()})

# %% [markdown]
# ## REINFORCE in the corridor: the textbook's figures
#
# Swap the two sums and an episode can be added up as it runs: $\sum_t G_t\nabla\log\pi(a_t)=\sum_k r_k z_k$, with $z_k$ the sum of the
# scores so far. So 100 runs proceed side by side, each in its own episode. As in the textbook's figures 13.1 and 13.2, the policy has two
# logits, begins as the 0.1-greedy policy that prefers "left", and takes the step size $2^{-13}$ without a baseline. The baseline is a single number
# $w$, learned with $2^{-6}$; with it the step may be larger. The textbook, which updates at every step of the episode, takes $2^{-9}$. We
# update once, at the end, where $2^{-9}$ can throw a run off for good; we take half of it.

# %%
MOVES = NEXT.numpy()


def corridor_runs(rate, baseline_rate=0.0, seed=0):
    """Returns of each episode, (runs, episodes)."""
    draw, everyone = np.random.default_rng(seed), np.arange(budget.runs)
    logits = np.tile([math.log(0.95), math.log(0.05)], (budget.runs, 1))  # left, right
    w, returns = np.zeros(budget.runs), np.full((budget.runs, budget.episodes), np.nan)
    place, length, episode = np.zeros((3, budget.runs), dtype=int)
    z, gradient = np.zeros((2, budget.runs, 2))  # sum of scores; sum of r_k z_k
    ones = np.eye(2)
    for step in range(40 * budget.episodes):
        p_right = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        right = draw.random(budget.runs) < p_right
        action = right.astype(int)
        z += ones[action] - np.stack([1 - p_right, p_right], 1)
        gradient -= z  # each reward is -1
        place, length = MOVES[place, action], length + 1
        ended = everyone[place == 3]
        if len(ended):
            n, before = length[ended], w[ended]
            if baseline_rate:  # w follows every G_t = -(n - t) of the episode in turn; summed up, that is
                q = 1 - baseline_rate
                followed = q**n * w[ended] - (1 - (n + 1) * q**n + n * q ** (n + 1)) / baseline_rate
                w[ended] = np.where(episode[ended] == 0, -(n + 1) / 2, followed)  # the first episode only sets it
                gradient[ended] = np.where(episode[ended, None] == 0, 0.0, gradient[ended] - before[:, None] * z[ended])
            logits[ended] += rate * gradient[ended]
            counted = ended[episode[ended] < budget.episodes]
            returns[counted, episode[counted]] = -length[counted]
            episode[ended] += 1
            place[ended], length[ended], z[ended], gradient[ended] = 0, 0, 0.0, 0.0
            if (episode >= budget.episodes).all():
                break
    return returns


corridor_returns = {"REINFORCE": corridor_runs(2**-13), "with a baseline": corridor_runs(2**-10, 2**-6)}


def smooth(rows, width=20):
    """Means of `width` neighbours, every `width` of them: (runs, T) to (runs, T / width)."""
    width = min(width, rows.shape[1])
    return np.nanmean(rows[:, : rows.shape[1] // width * width].reshape(len(rows), -1, width), -1)


fig = go.Figure()
for (name, rows), role in zip(corridor_returns.items(), ("policy", "value")):
    smoothed = smooth(rows)
    band(fig, (np.arange(smoothed.shape[1]) + 0.5) * rows.shape[1] / smoothed.shape[1], smoothed, name, role)
fig.add_hline(y=best_return, line={"dash": "dot", "color": palette.MIDDLE["reward"]}, annotation_text="best")
fig.update_layout(
    title=f"The corridor, {budget.runs} runs", xaxis_title="episode", yaxis_title="return, mean of 20 episodes"
)
run.figure(fig, "Return against episodes: the run with a baseline reaches the best value much sooner.")
TENTH = budget.episodes // 10
corridor_end = {name: float(rows[:, -TENTH:].mean()) for name, rows in corridor_returns.items()}
corridor_early = {name: float(rows[:, TENTH : 2 * TENTH].mean()) for name, rows in corridor_returns.items()}
print(
    {
        name: f"second tenth of the episodes: {corridor_early[name]:.1f}, last tenth: {corridor_end[name]:.1f}"
        for name in corridor_end
    },
    f"best {best_return:.1f}",
)

# %% [markdown]
# ## The same with a language model
#
# A prefix is a state, a token an action. `tiny` continues "The old bear" with a verb; let the reward be 1 if the verb is a lively one. The
# score of a token is $e_a-\pi$, a vector as long as the vocabulary. First the exact gradient by all logits, $\pi(a)\,(r(a)-J)$; then the gradient by every
# **weight** of the network, from the loss over all actions, against backpropagation through $J$ itself.

# %%
tiny, tokenizer = models.load("tiny", "cpu")
PROMPT = "The old bear"
prompt_ids = tokenizer.encode(PROMPT, add_special_tokens=False)
lively = {tokenizer.encode(f" {verb}", add_special_tokens=False)[0] for verb in scenes.LIVELY}


def next_logits(model):
    """Logits of the next token, (V,)."""
    return model(torch.tensor([prompt_ids])).logits[0, -1]


z_tokens = next_logits(tiny).detach().double().requires_grad_()
token_rewards = torch.zeros(len(z_tokens), dtype=torch.float64)
token_rewards[sorted(lively)] = 1.0
pi = z_tokens.softmax(-1)
token_worth = (pi * token_rewards).sum()
(token_exact,) = torch.autograd.grad(token_worth, z_tokens)
pi, token_worth = pi.detach(), token_worth.item()
token_gap = (token_exact - pi * (token_rewards - token_worth)).abs().max().item()

weights = [parameter for parameter in tiny.parameters() if parameter.requires_grad]
live_pi = next_logits(tiny).softmax(-1)
through_j = torch.autograd.grad((live_pi * token_rewards.float()).sum(), weights)
logprobs_now = next_logits(tiny).log_softmax(-1)
loss_of_all = (logprobs_now.detach().exp() * policy_gradient_loss(logprobs_now, token_rewards.float())).sum()
through_loss = torch.autograd.grad(loss_of_all, weights)
flat_j, flat_loss = (torch.cat([g.flatten() for g in gradients]) for gradients in (through_j, through_loss))
weights_gap = ((flat_j + flat_loss).norm() / flat_j.norm()).item()
tokens_named = tokenizer.convert_ids_to_tokens(pi.topk(6).indices.tolist())
run.table(
    [[word, f"{p:.1%}", f"{r:g}", f"{g:+.4f}"] for word, p, r, g in zip(tokens_named, pi.topk(6).values, token_rewards[pi.topk(6).indices], token_exact[pi.topk(6).indices])],
    ["token", "π(a)", "reward", "π(a) (r(a) − J)"], caption=f"“{PROMPT} …”: {len(pi):,} actions, J = {token_worth:.3f}",
)  # fmt: skip
print(
    f"formula against autograd {token_gap:.0e}; {len(flat_j):,} weights: minus the loss's gradient against that of J {weights_gap:.0e}, relative"
)

# %% [markdown]
# Now sample tokens in place of summing, with and without the baseline $J$.

# %%
token_errors = {"no baseline": [], "baseline J": []}
for n in budget.token_draws:
    index = torch.multinomial(pi.float(), n * 100, True, generator=generator).view(100, n)
    for (name, found), baseline in zip(token_errors.items(), (0.0, token_worth)):
        weight = (token_rewards[index] - baseline) / n
        estimate = (
            torch.zeros(100, len(pi), dtype=torch.float64).scatter_add_(1, index, weight)
            - weight.sum(1, keepdim=True) * pi
        )
        found.append(((estimate - token_exact).square().sum(1).mean().sqrt() / token_exact.norm()).item())
token_gain = (token_errors["no baseline"][-1] / token_errors["baseline J"][-1]) ** 2
print(
    {name: [f"{n}: {error:.3f}" for n, error in zip(budget.token_draws, found)] for name, found in token_errors.items()}
)
print(f"the baseline is worth {token_gain:.2f} times as many samples")

# %% [markdown]
# And whole answers. An episode is an ending of about seven tokens; the reward comes once, after the last one: 1 for a lively verb, 1 for a place
# outdoors, 0.5 for naming no time, −1 for text that is no ending. The return of every token is that one number. 64 answers a step, all
# weights trained; one run without a baseline, and one with each answer's baseline the mean reward of the *others* (Kool et al., 2019).

# %%
BATCH = 64
end_id = tokenizer.convert_tokens_to_ids(scenes.END)
TRAIN = list(scenes.prompts("train"))
PROMPT_IDS = {prompt: tokenizer.encode(prompt, add_special_tokens=False) for prompt in TRAIN}


def answers_of(policy, prompts, generator):
    """A sampled answer to each prompt: a padded batch, rewards (B,), and the texts."""
    completions = decoding.generate(
        policy, [PROMPT_IDS[p] for p in prompts], 16, Sampling(), stop_id=end_id, generator=generator
    )
    examples = [text.join(PROMPT_IDS[p], c.ids + [end_id] * c.ended) for p, c in zip(prompts, completions)]
    said = [tokenizer.decode(c.ids) for c in completions]
    rewards = torch.tensor([scenes.gold_reward(words, c.ended) for words, c in zip(said, completions)])
    return text.pad(examples, tokenizer.pad_token_id), rewards, said


def teach(baseline, seed):
    """REINFORCE on answers; returns the mean reward of each batch and the trained policy."""
    policy, draw = copy.deepcopy(tiny).eval(), random.Random(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
    generator, rewards_seen = torch.Generator().manual_seed(seed), []
    for _ in range(budget.answers):
        batch, rewards, _ = answers_of(policy, draw.choices(TRAIN, k=BATCH), generator)
        others = (rewards.sum() - rewards) / (BATCH - 1)
        weight = rewards - others if baseline else rewards
        logps = logprobs.sequence_logprobs(policy, *batch)  # the sum over an answer's tokens
        optimizer.zero_grad()
        policy_gradient_loss(logps, weight).mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        rewards_seen.append(rewards.mean().item())
    return rewards_seen, policy


answer_rewards, taught = {"no baseline": [], "mean of the others": []}, {"no baseline": [], "mean of the others": []}
for seed, name in run.progress([(seed, name) for seed in range(budget.answer_seeds) for name in taught], "answers"):
    rewards_seen, policy = teach(name != "no baseline", seed)
    answer_rewards[name].append(rewards_seen)
    taught[name].append(policy)
answer_rewards = {name: np.array(rows) for name, rows in answer_rewards.items()}
fig = go.Figure()
for (name, rows), role in zip(answer_rewards.items(), ("reference", "policy")):
    band(fig, np.arange(budget.answers), rows, name, role)
fig.update_layout(
    title=f"REINFORCE on the answers of a language model, {budget.answer_seeds} seeds",
    xaxis_title="step",
    yaxis_title=f"mean reward of {BATCH} answers",
)
run.figure(fig, "The mean reward rises over the steps with both versions.")

# %% [markdown]
# Batches of 64 are noisy. The 1,100 endings of a prompt that no run saw can be summed, so here is the expected reward itself, before and after.

# %%
HELD_OUT = list(scenes.prompts("held-out"))[7]


def exact_reward(policy):
    return scenes.expected_gold(scenes.exact_logprobs(policy, tokenizer, [HELD_OUT])).item()


answer_before = exact_reward(tiny)
answer_after = {name: [exact_reward(policy) for policy in policies] for name, policies in taught.items()}
generator = torch.Generator().manual_seed(5)
said_before, said_after = (
    [
        tokenizer.decode(c.ids)
        for c in decoding.generate(
            model,
            [tokenizer.encode(HELD_OUT, add_special_tokens=False)] * 4,
            16,
            Sampling(),
            stop_id=end_id,
            generator=generator,
        )
    ]
    for model in (tiny, taught["mean of the others"][0])
)
run.table(list(zip(said_before, said_after)), ["before", "after"], caption=f"“{HELD_OUT} …”, four samples each")
print(
    f"expected reward before {answer_before:.3f}; after",
    {name: [f"{x:.3f}" for x in found] for name, found in answer_after.items()},
)

# %% [markdown]
# ## CartPole, in the open
#
# Now a task whose transitions nobody gives you. A pole on a cart, four numbers to see, two actions, reward 1 for each step until the pole
# falls, 500 at most. Five seeds learn side by side: each has networks of its own, and all are computed in one batched product
# (`Networks`), in environments that step together (`Copies`).
#
# **REINFORCE**: play whole episodes, eight for each seed, weigh each score with its return-to-go. One version subtracts nothing, the other a
# learned $V(s)$, trained to predict the return.

# %%
EPISODES, HIDDEN = 8, (64, 64)


def play_episodes(policy, seed, generator):
    """Eight episodes for each seed, each to its end: observations (C, n, T, 4), actions, rewards and running, (C, n, T)."""
    environments = Copies("CartPole-v1", policy.copies * EPISODES, seed)
    running, rows = torch.ones(policy.copies * EPISODES, dtype=torch.bool), []
    with torch.no_grad():
        while running.any():
            observation = environments.observation
            actions = sample(policy(observation.view(policy.copies, EPISODES, -1)), generator).flatten()
            step = environments.step(actions)
            rows.append((observation, actions, step.reward * running, running))
            running = running & ~(step.terminated | step.truncated)
    observations, actions, rewards, was_running = (torch.stack(column, 1) for column in zip(*rows))
    shape = (policy.copies, EPISODES, len(rows))
    return observations.view(*shape, -1), actions.view(shape), rewards.view(shape), was_running.view(shape)


def reinforce_loss(policy, critic, observations, actions, rewards, running, gamma=0.99):
    """The loss of each seed, (C,); critic None: no baseline."""
    returns = discounted_returns(rewards, gamma)  # (C, n, T)
    logits = policy(observations.flatten(1, 2)).view(*actions.shape, -1)
    taken = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    loss, advantages = 0.0, returns
    if critic is not None:
        v = critic(observations.flatten(1, 2)).view(actions.shape)
        advantages, loss = returns - v, 0.5 * value_loss(v, returns)
    loss = loss + policy_gradient_loss(taken, advantages)
    return (loss * running).sum((1, 2)) / running.sum((1, 2))


def reinforce(with_critic, seeds=budget.seeds, steps=budget.steps, rate=3e-3, label="REINFORCE"):
    """Environment steps and mean return of the last 100 episodes, each seed's after each update: (updates, seeds) both."""
    policy = Networks((4, *HIDDEN, 2), seeds, 0, torch.tanh)
    critic = Networks((4, *HIDDEN, 1), seeds, 1000, torch.tanh) if with_critic else None
    parameters = [*policy.parameters(), *(critic.parameters() if with_critic else ())]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    generator, recent = torch.Generator().manual_seed(0), [deque(maxlen=100) for _ in range(seeds)]
    taken, means, spent = [], [], torch.zeros(seeds)
    bar = run.progress(steps // 100, label)  # updates, at most: an episode is longer than 12 steps on average
    for update in bar:
        episodes = play_episodes(policy, 10_000 + update, generator)
        optimizer.zero_grad()
        reinforce_loss(policy, critic, *episodes).sum().backward()
        clip_grad_norms(parameters, 0.5)
        optimizer.step()
        spent = spent + episodes[-1].sum((1, 2))
        for last, returns in zip(recent, episodes[2].sum(-1).tolist()):
            last.extend(returns)
        taken.append(spent.tolist())
        means.append([sum(last) / len(last) for last in recent])
        if spent.min() >= steps:
            bar.finish()
    return np.array(taken), np.array(means)


# %%
GRID = np.linspace(0, budget.steps, 61)[1:]


def on_grid(taken, means, grid=GRID):
    """Each seed's curve at the same numbers of environment steps: (seeds, T)."""
    taken = np.broadcast_to(np.asarray(taken, dtype=float).reshape(len(means), -1), np.shape(means))
    return np.stack([np.interp(grid, taken[:, i], np.asarray(means)[:, i]) for i in range(np.shape(means)[1])])


learned, seconds = {}, {}
for name, with_critic in {"REINFORCE": False, "REINFORCE with V": True}.items():
    began = time.perf_counter()
    learned[name] = on_grid(*reinforce(with_critic, label=name))
    seconds[name] = time.perf_counter() - began
print({name: f"last 100 episodes: {curves[:, -1].round()}, {seconds[name]:.0f} s" for name, curves in learned.items()})

# %% [markdown]
# ### Actor-critic
#
# REINFORCE learns nothing before an episode ends. **Actor-critic** updates every few steps and lets the critic stand in for the rest of the episode: the
# return is $r_t+\gamma r_{t+1}+\dots+\gamma^k V(s_{t+k})$, or the λ-mean of such returns ({sec}`5.3.3`). Two things must be right: a state in which the task
# *ended* has no future, and a state in which only the *clock* ran out has one. And a row that merely begins the next episode is no transition at all.
# `collect` gives a rollout; the loss is eleven lines:


# %%
def actor_critic_loss(agent, rollout, config, terminated=None, detach=True, sign=1):
    """The loss of each seed, (C,). terminated, detach, sign: for the bugs below."""
    seeds, n, steps = rollout.rewards.shape
    seen = rollout.observations.flatten(1, 2)  # (C, n (T + 1), 4)
    v = agent.critic(seen).view(seeds, n, steps + 1)
    logits = agent.policy(seen).view(seeds, n, steps + 1, -1)[:, :, :-1]
    over = rollout.terminated if terminated is None else terminated
    cut = (rollout.terminated | rollout.truncated) & ~over
    with torch.no_grad():
        returns = lambda_returns(rollout.rewards, v[..., 1:], over, config.gamma, config.lam, cut)
    advantages = returns - (v[..., :-1].detach() if detach else v[..., :-1])
    taken = logits.log_softmax(-1).gather(-1, rollout.actions[..., None])[..., 0]
    loss = -sign * advantages * taken + config.value_weight * 0.5 * (v[..., :-1] - returns) ** 2
    return (loss * rollout.real).sum((1, 2)) / rollout.real.sum((1, 2))


# %% [markdown]
# Hold it against the library: same rollout, same loss, same gradients. Then train. `train` uses Adam without momentum: it would add gradients of
# policies that are no more. It clips the actor's gradient and the critic's each by itself: together, an error of the critic's would hold the actor back.

# %%
CONFIG = Config(environments=8, steps=3, gamma=0.98, lam=0.95, learning_rate=5e-3)
agent = ActorCritic(Networks((4, *HIDDEN, 2), 2, 0, torch.tanh), Networks((4, *HIDDEN, 1), 2, 1000, torch.tanh))
rollout = collect(
    agent.policy, Copies("CartPole-v1", 16, 0), 64, (2, 8), torch.Generator().manual_seed(0), [deque(), deque()]
)
parameters = [*agent.policy.parameters(), *agent.critic.parameters()]
mine, theirs = actor_critic_loss(agent, rollout, CONFIG), losses(agent, rollout, CONFIG)
gradients = [torch.autograd.grad(loss.sum(), parameters) for loss in (mine, theirs)]
actor_critic_gap = max((a - b).abs().max().item() for a, b in zip(*gradients))
ended, fake = rollout.terminated.sum().item(), (~rollout.real).sum().item()
print(
    f"{rollout.rewards.numel()} rows, {ended} ends, {fake} rows that only begin an episode; largest difference of the gradients {actor_critic_gap:.0e}"
)


# %%
def watched(label, steps, config=CONFIG, **options):
    """Train the seeds side by side, with a bar."""
    records = max(1, math.ceil(steps // (config.steps * config.environments) / 10))
    bar = iter(run.progress(records, label))
    agent = train(
        "CartPole-v1", budget.seeds, 0, steps, config, watch=lambda agent: next(bar, None) and None, **options
    )
    list(bar)
    return agent


began = time.perf_counter()
trained = watched("actor-critic", budget.steps, loss_of=actor_critic_loss)
seconds["actor-critic"] = time.perf_counter() - began
learned["actor-critic"] = on_grid(trained.steps, trained.returns)
fig = go.Figure()
for (name, curves), role in zip(learned.items(), ("reference", "value", "policy")):
    band(fig, GRID, curves, name, role)
fig.update_layout(
    title=f"CartPole-v1, {budget.seeds} seeds",
    xaxis_title="environment steps of each seed",
    yaxis_title="return, mean of the last 100 episodes",
)
run.figure(
    fig,
    "Return against environment steps of REINFORCE, REINFORCE with a learned baseline, and actor-critic, with bands over seeds.",
)
final = {name: curves[:, -1] for name, curves in learned.items()}
for name, curves in final.items():
    ends = f"{curves.mean():5.0f}  ({curves.min():.0f} to {curves.max():.0f})"
    print(f"{name:17s} {ends}, over the whole run {learned[name].mean():.0f}; {seconds[name]:.0f} s for all seeds")

# %% [markdown]
# Contrary to the corridor, the learned baseline does not help here: at the start, when it is needed most, $V$ knows nothing, and eight whole episodes a step
# average much of the noise away without it. Not having to wait for the end of an episode is what counts. (Each method got one learning rate that works; a search might move any of the three.)
#
# The curves average over the last 100 episodes, in which the policy still rolls its dice. What would the trained policies do now, and if they took
# their likeliest action?


# %%
def trial(agent, seed, greedy, episodes=20):
    """Mean return of one seed's policy over fresh episodes."""

    def act(observations):
        logits = agent.policy(observations.expand(agent.policy.copies, *observations.shape))[seed]
        return logits.argmax(-1) if greedy else sample(logits)

    return play(act, "CartPole-v1", episodes, 77).mean().item()


sampled_trials = [trial(trained, seed, False) for seed in range(budget.seeds)]
greedy_trials = [trial(trained, seed, True) for seed in range(budget.seeds)]
print(f"20 fresh episodes, by seed: sampling {np.round(sampled_trials)}, likeliest action {np.round(greedy_trials)}")

# %% [markdown]
# ## Four bugs, and their faces
#
# None of them raises an error. Each is one line.
#
# 1. **The pole's fall is bootstrapped**: after a terminal state the critic's value is added, as if the game went on.
# 2. **The clock counts as a fall**: a truncated episode gets no value of its last state.
# 3. **The advantage is not detached**: the actor's loss reaches the critic.
# 4. **The sign is flipped.**


# %%
def never_over(agent, rollout, config):
    return actor_critic_loss(agent, rollout, config, terminated=torch.zeros_like(rollout.terminated))


def clock_is_a_fall(agent, rollout, config):
    return actor_critic_loss(agent, rollout, config, terminated=rollout.terminated | rollout.truncated)


def not_detached(agent, rollout, config):
    return actor_critic_loss(agent, rollout, config, detach=False)


def flipped(agent, rollout, config):
    return actor_critic_loss(agent, rollout, config, sign=-1)


BUGS = {
    "correct": actor_critic_loss,
    "fall bootstrapped": never_over,
    "clock is a fall": clock_is_a_fall,
    "not detached": not_detached,
    "sign flipped": flipped,
}
EARLY = np.array([steps for steps in GRID if steps <= budget.broken_steps])
bug_curves = {}
for name, loss in BUGS.items():
    agent = watched(name, budget.broken_steps, loss_of=loss)
    bug_curves[name] = on_grid(agent.steps, agent.returns, EARLY)
fig = go.Figure()
for (name, curves), role in zip(bug_curves.items(), ("policy", "rejected", "prompt", "value", "kl")):
    band(fig, EARLY, curves, name, role)
fig.update_layout(
    title="Four bugs", xaxis_title="environment steps of each seed", yaxis_title="return, mean of the last 100 episodes"
)
run.figure(fig, "Learning curves of the correct loss and of four wrong ones.")
bug_end = {name: curves[:, -1] for name, curves in bug_curves.items()}
print({name: f"{end.mean():.0f} ({end.min():.0f} to {end.max():.0f})" for name, end in bug_end.items()})

# %% [markdown]
# Two of the four learn nothing: for them the curve says at once that something is wrong. The other two learn. Counting the clock as a fall costs little as long
# as few episodes last until the clock; leaving the advantage attached makes learning slower, not impossible. Such bugs live long in real code. What finds
# them is not a curve but a check against a slow definition, as the library's tests do.
#
# ## As at work
#
# Stable-Baselines3's A2C is the same algorithm. Its settings here are those that its authors' collection of tuned settings lists for CartPole:
# eight environments, no entropy bonus, everything else as it comes.

# %%
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

environments = make_vec_env("CartPole-v1", n_envs=8, seed=0)
model = A2C("MlpPolicy", environments, ent_coef=0.0, seed=0, device="cpu")
began = time.perf_counter()
model.learn(budget.peer_steps)
peer_seconds = time.perf_counter() - began
peer_return = (
    play(lambda seen: torch.as_tensor(model.predict(seen.numpy(), deterministic=True)[0]), "CartPole-v1", 20, 77)
    .mean()
    .item()
)
print(f"{budget.peer_steps:,} steps in {peer_seconds:.0f} s; 20 fresh episodes, likeliest action: {peer_return:.0f}")

# %% [markdown]
# ## A field of gradients
#
# Two places, in each "stay" or "go". Staying pays 1 in the first and 2 in the second, going pays nothing; four of five episodes begin in the first.
# After Kakade (2001). The policy is two probabilities, so the gradient can be drawn as an arrow at every point. Begin where the agent
# mostly stays in the first place: the plain gradient makes it stay even more, since that is where it *is*, and the second place, which is
# worth twice as much, is visited less and less. The natural gradient divides by how often a place is visited and how undecided it is there.

# %%
TWO = {"gamma": 0.9, "start": [0.8, 0.2], "rewards": [[1.0, 0.0], [2.0, 0.0]]}  # rewards of (stay, go)


def two_places(gamma=TWO["gamma"]):
    stay, other = torch.eye(2), torch.eye(2).flip(0)
    transitions = torch.stack([stay, other], 1)  # (S, A, S)
    return FiniteMDP(
        transitions, torch.tensor(TWO["rewards"]), gamma, torch.tensor(TWO["start"]), torch.zeros(2, dtype=torch.bool)
    )


def field(theta):
    """J, its gradient by the two logits of "stay", and the natural gradient."""
    mdp, p = two_places(), torch.sigmoid(theta)
    policy = torch.stack([p, 1 - p], 1)
    v = values(mdp, policy)
    gain = q_from_v(mdp, v) @ torch.tensor([1.0, -1.0], dtype=torch.float64)  # Q(stay) - Q(go)
    plain = occupancy(mdp, policy) * p * (1 - p) * gain
    return (mdp.start @ v).item(), plain, gain


BEST_OF_TWO = max(
    (two_places().start @ values(two_places(), torch.tensor([[a, 1 - a], [b, 1 - b]], dtype=torch.float64))).item()
    for a in (0.0, 1.0)
    for b in (0.0, 1.0)
)  # some policy that tosses no coin is best


def steps_to_the_top(natural, rate=0.02, limit=5000):
    """Steps of exact ascent until J is 95% of the best."""
    theta = torch.tensor([0.8, 0.1], dtype=torch.float64).logit()
    for step in range(limit):
        worth_now, plain, natural_direction = field(theta)
        if worth_now >= 0.95 * BEST_OF_TWO:
            return step
        theta = theta + rate * (natural_direction if natural else plain)
    return limit


theta = torch.tensor([0.8, 0.1], dtype=torch.float64).logit()
logits = torch.stack([theta, torch.zeros(2, dtype=torch.float64)], 1)
field_gap = (field(theta)[1] - softmax_gradient(two_places(), logits)[:, 0]).abs().max().item()
stuck = {"plain": steps_to_the_top(False), "natural": steps_to_the_top(True)}
print(f"field against the library {field_gap:.0e}; steps until J is 95% of the best, {BEST_OF_TWO:.1f}: {stuck}")

# %%
places_of_check = [[0.8, 0.1], [0.5, 0.5], [0.95, 0.2], [0.2, 0.9]]
checks = []
for shares_now in places_of_check:
    worth_now, plain, natural_direction = field(torch.tensor(shares_now, dtype=torch.float64).logit())
    checks.append({"p": shares_now, "J": worth_now, "plain": plain, "natural": natural_direction})
run.explorer("policy_field", {**TWO, "places": ["A", "B"], "p": [0.8, 0.1], "checks": checks})

# %% [markdown]
# ## What the lab found

# %%
UNBIASED = ("whole return", "reward-to-go", "minus a constant", "minus V(s)")
bias = max(abs(MOMENTS[name][0] - EXACT.item()) for name in UNBIASED)
variance = {name: deviation**2 for name, (_, deviation) in MOMENTS.items()}
slopes = {name: slope(curve) for name, curve in errors.items()}
for name, value, form in (
    ("corridor_best_share", best_share, ".3f"), ("corridor_best", best_return, ".2f"), ("corridor_left", greedy_left, ".1f"),
    ("corridor_right", greedy_right, ".1f"), ("four_ways_gap", four_ways_gap, ".0e"), ("grid_gap", grid_gap, ".0e"),
    ("dropped_cosine", dropped_cosine, ".3f"), ("clock_gradient", EXACT.item(), "+.3f"), ("clock_share", SHARE, ".2f"),
    ("mean_to_go", MOMENTS["reward-to-go"][0], "+.3f"), ("mean_late_baseline", abs(MOMENTS["minus V(s) of the next state"][0]), ".3f"),
    ("deviation_whole", MOMENTS["whole return"][1], ".2f"), ("deviation_to_go", MOMENTS["reward-to-go"][1], ".2f"),
    ("deviation_late", MOMENTS["minus V(s) of the next state"][1], ".2f"), ("deviation_constant", MOMENTS["minus a constant"][1], ".2f"), ("deviation_value", MOMENTS["minus V(s)"][1], ".2f"),
    ("variance_factor", variance["whole return"] / variance["minus V(s)"], ".1f"),
    ("variance_factor_to_go", variance["reward-to-go"] / variance["minus V(s)"], ".1f"),
    ("slope_to_go", slopes["reward-to-go"], ".2f"), ("error_late_baseline", errors["minus V(s) of the next state"][-1], ".0%"),
    ("error_value", errors["minus V(s)"][-1], ".1%"), ("draws_last", budget.draws[-1], ",d"),
    ("corridor_runs", budget.runs, "d"), ("corridor_episodes", budget.episodes, ",d"),
    ("corridor_plain_early", corridor_early["REINFORCE"], ".1f"), ("corridor_baseline_early", corridor_early["with a baseline"], ".1f"),
    ("corridor_plain_end", corridor_end["REINFORCE"], ".1f"), ("corridor_baseline_end", corridor_end["with a baseline"], ".1f"),
    ("vocabulary", len(pi), ",d"), ("token_worth", token_worth, ".3f"), ("weights", len(flat_j), ",d"),
    ("weights_gap", weights_gap, ".0e"), ("token_gain", token_gain, ".2f"),
    ("answer_before", answer_before, ".2f"), ("answer_plain", np.mean(answer_after["no baseline"]), ".2f"),
    ("answer_baseline", np.mean(answer_after["mean of the others"]), ".2f"), ("answer_steps", budget.answers, "d"),
    ("answer_seeds", budget.answer_seeds, "d"), ("answer_batch", BATCH, "d"),
    ("seeds", budget.seeds, "d"), ("steps", budget.steps, ",d"), ("broken_steps", budget.broken_steps, ",d"),
    ("actor_critic_gap", actor_critic_gap, ".0e"), ("peer_steps", budget.peer_steps, ",d"), ("peer_return", peer_return, ".0f"),
    ("sampled_least", min(sampled_trials), ".0f"), ("greedy_least", min(greedy_trials), ".0f"),
    ("stuck_plain", stuck["plain"], ",d"), ("stuck_natural", stuck["natural"], ",d"),
):  # fmt: skip
    run.result(name, value, format=form)
for name, key in {"REINFORCE": "reinforce", "REINFORCE with V": "reinforce_v", "actor-critic": "actor_critic"}.items():
    run.result(f"{key}_mean", final[name].mean(), format=".0f")
    run.result(f"{key}_whole", learned[name].mean(), format=".0f")
    run.result(f"{key}_range", None, text=f"{final[name].min():.0f} to {final[name].max():.0f}")
    run.result(f"{key}_seconds", seconds[name], format=".0f")
for name, key in zip(bug_end, ("bug_none", "bug_bootstrapped", "bug_clock", "bug_attached", "bug_sign")):
    run.result(f"{key}_mean", bug_end[name].mean(), format=".0f")
    run.result(f"{key}_range", None, text=f"{bug_end[name].min():.0f} to {bug_end[name].max():.0f}")
run.result(
    "answer_plain_range", None, text=f"{min(answer_after['no baseline']):.2f} to {max(answer_after['no baseline']):.2f}"
)
run.result(
    "answer_baseline_range",
    None,
    text=f"{min(answer_after['mean of the others']):.2f} to {max(answer_after['mean of the others']):.2f}",
)

# %%
run.claim(
    "the best probability of right is 2 - sqrt(2), and nothing on the grid beats it",
    worth.max() <= best_return + 1e-9 and abs(best_return - closed_form) < 1e-9,
)
run.claim("four ways to the corridor's gradient agree", four_ways_gap < 1e-6)
run.claim(
    "the theorem's gradient on the gridworld equals finite differences and the library's",
    max(grid_gap, library_gap) < 1e-8,
)
run.claim("without the factor gamma^t the direction is another", dropped_cosine < 0.999)
run.claim(
    "summed over all episodes, the gradient is that of the objective", abs(clock_difference - EXACT.item()) < 1e-6
)
run.claim("four versions of REINFORCE have no bias", bias < 1e-9)
run.claim(
    "reward-to-go lowers the variance, a baseline lowers it again",
    variance["whole return"] > variance["reward-to-go"] > variance["minus V(s)"],
)
run.claim(
    "a baseline that depends on the action biases",
    abs(MOMENTS["minus V(s) of the next state"][0] - EXACT.item()) > 0.5 * abs(EXACT.item()),
)
run.claim("rewards before the action contribute nothing on average", abs(MOMENTS["past rewards alone"][0]) < 1e-9)
run.claim(
    "the error of an unbiased estimate falls as one over the root of the episodes",
    max(abs(slopes[name] + 0.5) for name in ("whole return", "reward-to-go", "minus V(s)")) < 0.08,
)
run.claim("in the corridor the baseline learns faster", corridor_early["with a baseline"] > corridor_early["REINFORCE"])
run.claim("in the corridor both end near the best policy", min(corridor_end.values()) > best_return - 6)
run.claim(
    "the loss over all tokens has minus the gradient of J, by every weight", weights_gap < 1e-4 and token_gap < 1e-12
)
run.claim(
    "REINFORCE raises the expected reward of answers in every run",
    min(min(found) for found in answer_after.values()) > answer_before,
)
run.claim(
    "with a baseline it raises it more",
    np.mean(answer_after["mean of the others"]) > np.mean(answer_after["no baseline"]),
)
run.claim("the open actor-critic loss has the library's gradients", actor_critic_gap < 1e-5)
run.claim(
    "actor-critic ends above both versions of REINFORCE",
    final["actor-critic"].mean() > max(final["REINFORCE"].mean(), final["REINFORCE with V"].mean()),
)
run.claim("actor-critic ends above 475 on average", final["actor-critic"].mean() > 475)
run.claim("bootstrapping the fall ruins it", bug_end["fall bootstrapped"].mean() < 0.5 * bug_end["correct"].mean())
run.claim("the flipped sign learns to fall", bug_end["sign flipped"].max() < 30)
run.claim("the natural gradient leaves the plateau sooner", stuck["natural"] < stuck["plain"] / 2)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. The score** (★, 4 minutes). The gradient of $\log\pi(a)$ by the logits, for a batch of actions.


# %%
def my_score(logits, actions):  # logits (N, A), actions (N,) -> (N, A)
    ...


check("policy_gradient.score", my_score)

# %% [markdown]
# **2. Reward-to-go** (★, 5 minutes). For each step the discounted sum of the rewards from there on, without a loop over pairs.


# %%
def my_reward_to_go(rewards, gamma):  # rewards (T,) -> (T,)
    ...


check("policy_gradient.reward_to_go", my_reward_to_go)

# %% [markdown]
# **3. The loss** (★★, 8 minutes). One number whose gradient by the logits is minus the estimated policy gradient, averaged over the steps. The values
# come from a critic and carry a gradient of their own.


# %%
def my_loss(logits, actions, returns, values):  # logits (N, A), actions (N,), returns (N,), values (N,) -> a scalar
    ...


check("policy_gradient.loss", my_loss)

# %% [markdown]
# **4. One-step advantages** (★★, 6 minutes). From rewards, values of the states and of the states that followed, and two kinds of ends.


# %%
def my_advantages(rewards, values, next_values, terminated, truncated, gamma):  # each (T,) -> (T,)
    ...


check("policy_gradient.advantages", my_advantages)

# %% [markdown]
# **5. The best constant** (★★★, 10 minutes). For one decision with known probabilities and rewards: the constant baseline that makes the variance of
# $(r-b)\,\nabla_z\log\pi$, summed over the logits, as small as it can be. It is not the mean reward.


# %%
def my_best_baseline(probs, rewards):  # probs (A,), rewards (A,) -> a number
    ...


check("policy_gradient.best_baseline", my_best_baseline)
