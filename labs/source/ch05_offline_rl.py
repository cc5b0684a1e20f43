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
# # Offline reinforcement learning
#
# Somebody else drove, and you have the log. No new trip may be made: learn the best policy that the log supports. Plain
# Q-learning, which learns from any data in theory, here promises itself more than the world can pay. You will see why, in
# figures that are exact, and repair it in two ways.
#
# - **You will** make data sets of three qualities and keep them in the field's format; measure, in a world solved exactly, what
#   little data does to a maximum; clone a behaviour; watch Q-learning's values pass the highest return that exists; and build
#   conservative Q-learning (CQL) and implicit Q-learning (IQL), each a line away from what failed.
# - **Time:** about 4 minutes on a CPU with two cores, 1 minute on a GPU.
#
# **Sections:** 5.1.5-5.1.6

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
# ## Who made the data
#
# CartPole pays 1 for each step that the pole stands, 500 at most. Three drivers: one that pushes **at random**, an agent taken out of its
# training (by DQN with targets of three steps, section 5.4) when it first held the pole for 100 steps on average, and the same agent at the end, an **expert**.

# %%
import copy
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab import lab, palette
from alignlab.exercises import check
from alignlab.rl import dqn, mdp
from alignlab.rl.curves import band
from alignlab.rl.environments import Copies
from alignlab.rl.gridworld import MAPS, GridWorld
from alignlab.rl.networks import Networks
from alignlab.rl.offline import Transitions, advantage_weights, collect, cql_penalty, expectile_loss

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch05_offline_rl")
budget = run.budget(
    full=dict(
        practice=30_000, seeds=5, transitions=5_000, steps=8_000, look=250, batch=128, episodes=20, sets=400, sizes=(100, 300, 1_000, 3_000, 10_000), peer=3_000
    ),
    quick=dict(practice=300, seeds=2, transitions=200, steps=40, look=20, batch=32, episodes=2, sets=10, sizes=(100, 1_000), peer=20),
)  # fmt: skip
NAME, GAMMA = "CartPole-v1", 0.99
CEILING = 1 / (1 - GAMMA)  # a reward of 1 a step for ever: no policy has a larger discounted return

# %%
drivers: dict[str, dqn.QNetworks] = {}
lasted = [0.0]
bar = iter(run.progress(budget.practice, "training the driver"))


def keep(seen: dqn.Watched) -> bool:
    """Keep the agent when it first lasts 100 steps, and the best one; stop when it lasts 495."""
    next(bar, None)
    if seen.step % budget.look:
        return False
    lasts = dqn.evaluate(seen.networks, NAME, 50).mean().item()
    if lasts >= 100:
        drivers.setdefault("medium", copy.deepcopy(seen.networks))
    if lasts > lasted[-1]:
        drivers["expert"] = copy.deepcopy(seen.networks)
        lasted.append(lasts)
    return lasts >= 495


dqn.train(NAME, seed=1, config=dqn.Config(steps=budget.practice, n=3), watch=keep)
bar.close()
drivers.setdefault("medium", drivers["expert"])

# %% [markdown]
# The expert's log is narrow: it holds the states of a standing pole, and one action in each. The random log is wide and short-sighted. A
# log remembers what the driver did, what it got, and where that led; `terminated` says that the pole fell, and is not set where the
# clock stopped an episode (section 5.4.3). Each driver drives `seeds` times, with other starts.


# %%
def behaviour(kind: str) -> Callable[[Tensor], Tensor]:
    """What a driver does in observations (copies, 4): actions (copies,)."""
    if kind == "random":
        coins = torch.Generator().manual_seed(1)
        return lambda seen: torch.randint(2, (len(seen),), generator=coins)
    return dqn.greedy(drivers[kind])


KINDS = ("random", "medium", "expert")
logs = {
    kind: collect(behaviour(kind), NAME, budget.transitions, budget.seeds, seed=100 * at)
    for at, kind in enumerate(KINDS)
}


def whole(log: Transitions) -> list[float]:
    """Returns of the finished episodes of a log: every reward is 1, so they are the gaps between the ends."""
    found: list[float] = []
    for ended in log.ended:
        ends = torch.cat([torch.tensor([-1]), ended.nonzero()[:, 0]])
        found += ends.diff().tolist()
    return found


paid = {kind: sum(whole(log)) / max(1, len(whole(log))) for kind, log in logs.items()}
run.table(
    [
        (kind, f"{log.action.shape[1]:,}", f"{len(whole(log)) / budget.seeds:.0f}", f"{paid[kind]:.0f}", f"{log.terminated.float().mean():.2%}",
         f"{log.observation[..., 2].std():.3f}", f"{log.observation[..., 3].std():.2f}")
        for kind, log in logs.items()
    ],
    ("Driver", "Transitions", "Episodes", "Mean return", "Falls", "Angle, std (rad)", "Angular speed, std (rad/s)"),
    caption=f"Three logs; each exists {budget.seeds} times",
)  # fmt: skip

# %% [markdown]
# ## The field's format
#
# Minari (Younis et al., 2024) keeps offline data sets as episodes, with the environment's specification beside them, so that a log can be opened
# years later. An episode of $T$ steps has $T+1$ observations. We write the expert's log, read it back, and find every number again.

# %%
folder = tempfile.TemporaryDirectory()
os.environ["MINARI_DATASETS_PATH"] = folder.name
import minari
from minari.data_collector import EpisodeBuffer


def episodes(log: Transitions, seed: int) -> list[EpisodeBuffer]:
    """One copy's log, cut at the ends of its episodes; what was not finished by the last row is truncated there."""
    buffers, first = [], 0
    ends = log.ended[seed].nonzero()[:, 0].tolist()
    for last in [*ends, *([] if ends and ends[-1] == log.action.shape[1] - 1 else [log.action.shape[1] - 1])]:
        rows = slice(first, last + 1)
        seen = torch.cat([log.observation[seed, rows], log.next_observation[seed, last : last + 1]])
        falls = log.terminated[seed, rows].numpy()
        cut = falls * False
        cut[-1] = not falls[-1]
        buffers.append(
            EpisodeBuffer(id=len(buffers), observations=seen.numpy(), actions=log.action[seed, rows].numpy(),
                          rewards=log.reward[seed, rows].numpy(), terminations=falls, truncations=cut)
        )  # fmt: skip
        first = last + 1
    return buffers


stored = minari.create_dataset_from_buffers(
    "cartpole/expert-v0",
    episodes(logs["expert"], 0),
    env=NAME,
    algorithm_name="DQN",
    description="An agent trained in this lab",
    data_format="arrow",
)
read = minari.load_dataset("cartpole/expert-v0")
acted = torch.cat([torch.tensor(episode.actions) for episode in read.iterate_episodes()])
seen = torch.cat([torch.tensor(episode.observations[:-1]) for episode in read.iterate_episodes()])
same = torch.equal(acted, logs["expert"].action[0]) and torch.equal(seen, logs["expert"].observation[0])
print(
    f"{read.total_episodes} episodes, {read.total_steps:,} steps, from {read.spec.env_spec.id}; identical to what was written: {same}"
)

# %% [markdown]
# ## What little data does to a maximum, exactly
#
# Before any network: a world small enough to solve. On the textbook's 4x3 map, moves slip with probability 0.2, and a random walker leaves
# $n$ transitions behind. Count them, take the counted frequencies for the world, solve that, and act on the solution. Two numbers follow:
# what the solution **promises** at the start, and what its policy is **worth** in the true world, by a linear solve (section 5.2.5).
#
# A cautious solution subtracts $c/\sqrt{n(s,a)}$ from each reward, and takes a pair that was never seen to be as bad as the pit for ever.

# %%
world = GridWorld(MAPS["textbook"], slip=0.2, step_reward=-0.04).mdp(gamma=0.95)
best = mdp.value_iteration(world)
walked = mdp.occupancy(world, world.uniform())  # how often the walker is in s, (S,)
draws = torch.Generator().manual_seed(7)


def counted(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """From n transitions, for each of the data sets: counts (sets, S, A), frequencies (sets, S, A, S) and rewards (sets, S, A)."""
    joint = (walked[:, None, None] * world.transitions).flatten()
    joint[world.terminal[:, None, None].expand_as(world.transitions).flatten()] = 0
    rows = torch.multinomial(joint, budget.sets * n, replacement=True, generator=draws).view(budget.sets, n)
    tally = torch.zeros(budget.sets, len(joint), dtype=torch.float64).scatter_add_(
        1, rows, torch.ones_like(rows, dtype=torch.float64)
    )
    tally = tally.view(budget.sets, *world.transitions.shape)
    counts = tally.sum(-1)
    return counts, tally / counts.clamp_min(1)[..., None], (tally * world.outcomes).sum(-1) / counts.clamp_min(1)


def solved(counts: Tensor, p: Tensor, r: Tensor, caution: float) -> Tensor:
    """Action values of the counted world after caution / sqrt(n) is taken from the rewards, (sets, S, A)."""
    worst = -1 / (1 - world.gamma) if caution else 0.0
    q = torch.zeros_like(r)
    for _ in range(200):
        v = q.amax(-1).masked_fill(world.terminal, 0.0)
        q = r - caution / counts.clamp_min(1).sqrt() + world.gamma * torch.einsum("nsat,nt->nsa", p, v)
        q = torch.where(counts > 0, q, worst)
    return q


def worth(q: Tensor) -> Tensor:
    """True value at the start of each greedy policy, (sets,): P and r of the policy, then one linear solve for all."""
    policy = F.one_hot(q.argmax(-1), world.actions).double()
    p = torch.einsum("nsa,sat->nst", policy, world.transitions)
    p[:, world.terminal] = 0.0
    r = (policy * world.rewards).sum(-1)
    v = torch.linalg.solve(torch.eye(world.states, dtype=torch.float64) - world.gamma * p, r)
    return v @ world.start


CAUTIONS = {"as counted": 0.0, "cautious": 0.3}
promises: dict[str, list[Tensor]] = {name: [] for name in CAUTIONS}
truths: dict[str, list[Tensor]] = {name: [] for name in CAUTIONS}
for n in run.progress(budget.sizes, "solving counted worlds"):
    tables = counted(n)
    for name, caution in CAUTIONS.items():
        q = solved(*tables, caution)
        promises[name].append(q.amax(-1).masked_fill(world.terminal, 0.0) @ world.start)
        truths[name].append(worth(q))
optimal = (best.values @ world.start).item()

# %%
figure = go.Figure()
for name, role in (("as counted", "rejected"), ("cautious", "chosen")):
    band(figure, budget.sizes, torch.stack(promises[name], 1), f"{name}: promised", role, "dot")
    band(figure, budget.sizes, torch.stack(truths[name], 1), f"{name}: true worth", role)
figure.add_hline(optimal, line={"dash": "dash", "color": palette.MIDDLE["reference"]}, annotation_text="optimum")
figure.update_layout(xaxis={"title": "transitions in the log", "type": "log"}, yaxis={"title": "value at the start"})
run.figure(figure, f"Promised and true value over the size of the log, {budget.sets} logs each, with the middle 80%.")

# %% [markdown]
# The maximum over noisy estimates picks the noise: what was lucky in the log looks good, and is promised again. Caution makes the promise a lower one, and
# where data are few it also makes the policy better, since it keeps to what was tried often.
#
# ## One trainer, four losses
#
# Now with networks. One loop serves all methods; it holds `seeds` copies of each of the three logs, each with a network of its own, computed side by side. What differs is the loss.


# %%
class Nets(NamedTuple):
    """What a method may use: values of actions and their slow target, value of a state, logits of a policy."""

    q: Networks
    target: Networks
    v: Networks
    policy: Networks


def made(copies: int, seed: int = 0) -> Nets:
    """Fresh networks from 4 numbers to 2 actions (or one value), one of each for every copy."""
    q = Networks((4, 64, 64, 2), copies, seed)
    return Nets(q, copy.deepcopy(q), Networks((4, 64, 64, 1), copies, seed), Networks((4, 64, 64, 2), copies, seed))


def fit(loss, log: Transitions, label: str, watch=None) -> Nets:
    """Minimize loss(batch, nets), (copies,), on batches of the log. No environment in sight."""
    nets = made(len(log.action))
    optimizer = torch.optim.Adam(
        [p for net in (nets.q, nets.v, nets.policy) for p in net.parameters()], 1e-3, fused=True
    )
    generator = torch.Generator().manual_seed(0)
    for step in run.progress(budget.steps, label):
        optimizer.zero_grad()
        loss(log.draw(budget.batch, generator), nets).sum().backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(nets.target.parameters(), nets.q.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        if watch and step % budget.look == 0:
            watch(step, nets)
    return nets


everything = Transitions(*(torch.cat(parts) for parts in zip(*(logs[kind] for kind in KINDS), strict=True)))
print({name: tuple(part.shape) for name, part in everything._asdict().items()})

# %% [markdown]
# **Behaviour cloning** asks for no reward: predict the log's action. **Q-learning** is that of section 5.4.2, on the log.


# %%
def cloning(batch: Transitions, nets: Nets) -> Tensor:
    logits = nets.policy(batch.observation)  # (copies, batch, 2)
    return (
        F.cross_entropy(logits.flatten(0, 1), batch.action.flatten(), reduction="none").view_as(batch.reward).mean(-1)
    )


def taken(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action[..., None]).squeeze(-1)


def q_learning(batch: Transitions, nets: Nets) -> Tensor:
    with torch.no_grad():
        following = nets.target(batch.next_observation).amax(-1)  # the maximum asks about actions that nobody took
        target = batch.reward + GAMMA * (~batch.terminated) * following
    return (target - taken(nets.q(batch.observation), batch.action)).square().mean(-1)


# %% [markdown]
# **CQL** (Kumar et al., 2020) adds one term to Q-learning, $\alpha\,(\log\sum_a e^{Q(s,a)}-Q(s,a_{\mathcal D}))$. Its gradient with respect to $Q(s,\cdot)$ is
# $\alpha\,(\operatorname{softmax}Q-e_{a_{\mathcal D}})$: whatever looks best is pushed down, and what was done is pushed up. You have met this gradient: it is cross-entropy's, so CQL is Q-learning
# with a behaviour cloning of its own values.


# %%
def cql(alpha: float | Tensor):
    def loss(batch: Transitions, nets: Nets) -> Tensor:
        q = nets.q(batch.observation)
        penalty = q.logsumexp(-1) - taken(q, batch.action)
        return q_learning(batch, nets) + alpha * penalty.mean(-1)

    return loss


sample = everything.draw(8)
some = made(len(everything.action)).q(sample.observation).detach().requires_grad_()
penalty = some.logsumexp(-1) - taken(some, sample.action)
gradient = torch.autograd.grad(penalty.sum(), some)[0]
torch.testing.assert_close(penalty, cql_penalty(some, sample.action))
torch.testing.assert_close(gradient, some.softmax(-1) - F.one_hot(sample.action, 2))
print("the penalty is the library's, and its gradient is softmax minus the action that was taken")

# %% [markdown]
# **IQL** (Kostrikov et al., 2021) never asks about an action that is not in the log. $V(s)$ is fitted to the values of the log's own actions by an
# asymmetric square, $|\tau-\mathbb 1(u<0)|\,u^2$ with $u=Q(s,a)-V(s)$: with $\tau=0.5$ the mean, with $\tau$ near 1 nearly the best that *was done*. $Q$ is fitted to $r+\gamma V(s')$, and the policy clones
# the log with weights $e^{\beta(Q-V)}$.


# %%
def iql(tau: float = 0.8, beta: float = 3.0):
    def loss(batch: Transitions, nets: Nets) -> Tensor:
        v = nets.v(batch.observation).squeeze(-1)
        with torch.no_grad():
            tried = taken(nets.target(batch.observation), batch.action)
            target = batch.reward + GAMMA * (~batch.terminated) * nets.v(batch.next_observation).squeeze(-1)
            weight = (beta * (tried - v)).exp().clamp_max(100.0)
        u = tried - v
        value = (torch.where(u < 0, 1 - tau, tau) * u.square()).mean(-1)
        critic = (target - taken(nets.q(batch.observation), batch.action)).square().mean(-1)
        actor = (weight * -taken(nets.policy(batch.observation).log_softmax(-1), batch.action)).mean(-1)
        return value + critic + actor

    return loss


u = torch.linspace(-2, 2, 9)
torch.testing.assert_close(torch.where(u < 0, 0.2, 0.8) * u.square(), expectile_loss(u, 0.8))
torch.testing.assert_close((3 * u).exp().clamp_max(100.0), advantage_weights(u, 3.0))
targets = torch.tensor([0.0, 1.0, 5.0, 6.0], dtype=torch.float64)
for tau in (0.5, 0.8, 0.99):
    at = torch.linspace(0, 6, 6001, dtype=torch.float64)
    lowest = at[expectile_loss(targets - at[:, None], tau).sum(-1).argmin()]
    print(
        f"tau {tau}: the expectile of {targets.tolist()} is {lowest:.2f}; their mean is {targets.mean():.2f}, the largest {targets.max():.0f}"
    )

# %% [markdown]
# ## Train, then look at the world for the first time
#
# After training, and only then, each policy plays. Beside its return we hold what it **promised** at the first state against the discounted return that it then **got**. No policy can get more than
# $1/(1-\gamma)=100$.


# %%
@torch.no_grad()
def outcome(act, promise, copies: int) -> dict[str, Tensor]:
    """Return, discounted return and promise of `copies` policies, each the mean over its own episodes, (copies,)."""
    world = Copies(NAME, copies * budget.episodes, seed=5_000)
    promised = promise(world.observation.view(copies, budget.episodes, 4)).mean(-1)
    total, discounted = torch.zeros(2, copies * budget.episodes)
    alive = torch.ones(copies * budget.episodes, dtype=torch.bool)
    factor = 1.0
    while alive.any():
        step = world.step(act(world.observation.view(copies, budget.episodes, 4)).flatten())
        total += alive * step.reward
        discounted += alive * factor * step.reward
        alive &= ~(step.terminated | step.truncated)
        factor *= GAMMA
    return {
        "return": total.view(copies, -1).mean(-1),
        "got": discounted.view(copies, -1).mean(-1),
        "promised": promised,
    }


def by_value(nets: Nets):
    return (lambda seen: nets.q(seen).argmax(-1)), (lambda seen: nets.q(seen).amax(-1))


def by_policy(nets: Nets):
    return (lambda seen: nets.policy(seen).argmax(-1)), (lambda seen: nets.v(seen).squeeze(-1))


METHODS = {
    "cloning": (cloning, by_policy),
    "Q-learning": (q_learning, by_value),
    "CQL": (cql(1.0), by_value),
    "IQL": (iql(), by_policy),
}
rising: dict[str, list[Tensor]] = {}
results: dict[str, dict[str, Tensor]] = {}
for name, (loss, acting) in METHODS.items():
    rising[name] = []

    def watch(step: int, nets: Nets, name: str = name) -> None:
        with torch.no_grad():
            rising[name].append(nets.q(everything.observation[:, :500]).amax(-1).mean(-1))

    nets = fit(loss, everything, f"{name}, {len(KINDS)} logs x {budget.seeds} seeds", watch)
    results[name] = {
        key: value.view(len(KINDS), budget.seeds)
        for key, value in outcome(*acting(nets), len(everything.action)).items()
    }

# %%
rows = [("the driver itself", *(f"{paid[kind]:.0f}" for kind in KINDS))]
for name, got in results.items():
    rows.append((name, *(f"{row.mean():.0f} [{row.min():.0f}, {row.max():.0f}]" for row in got["return"])))
run.table(rows, ("Method", *(f"{kind} log" for kind in KINDS)), caption=f"Return in CartPole (500 at most) after learning offline; mean over {budget.seeds} seeds [least, most]")  # fmt: skip

# %% [markdown]
# On the random log Q-learning is far better than its driver: wide data hold both actions, and it stitches the best pieces together. On the expert's log,
# the best data of all, it is the worst: the log never shows what the other action does, the network makes a value up, the maximum picks it, and the next target
# is built on that. Cloning is the mirror image: about as good as its driver, whoever that was. CQL and IQL are near the better of both, on each log.
#
# ## The promise that grows
#
# The mean of $\max_a Q(s,a)$ over the log's states, while training. Values within reach lie below the line.

# %%
figure = go.Figure()
steps = list(range(0, budget.steps, budget.look))
for name, role in (("Q-learning", "rejected"), ("CQL", "chosen"), ("IQL", "policy")):
    by_log = torch.stack(rising[name], -1).view(len(KINDS), budget.seeds, -1)
    for kind, dash in (("random", "dot"), ("expert", "solid")):
        band(figure, steps, by_log[KINDS.index(kind)], f"{name}, {kind} log", role, dash)
figure.add_hline(
    CEILING,
    line={"dash": "dash", "color": palette.MIDDLE["reference"]},
    annotation_text="the most that any policy can get",
)
figure.update_layout(xaxis={"title": "updates"}, yaxis={"title": "mean of max Q on the log's states", "type": "log"})
run.figure(
    figure, "Mean largest action value over updates for Q-learning, CQL and IQL on the random and on the expert log."
)

rows = []
for name in ("Q-learning", "CQL", "IQL"):
    for at, kind in enumerate(KINDS):
        promised, got = results[name]["promised"][at], results[name]["got"][at]
        rows.append(
            (
                name,
                kind,
                f"{promised.mean():,.0f} [{promised.min():,.0f}, {promised.max():,.0f}]",
                f"{got.mean():.0f} [{got.min():.0f}, {got.max():.0f}]",
            )
        )
run.table(
    rows,
    ("Method", "Log", "Promised at the start", "Discounted return it got"),
    caption=f"gamma {GAMMA}; no policy gets more than {CEILING:.0f}",
)

# %% [markdown]
# ## How cautious?
#
# CQL's $\alpha$ on the expert's log, from none to much. Each copy has an $\alpha$ of its own; they train side by side.

# %%
ALPHAS = (0.0, 0.01, 0.1, 1.0, 10.0)
expert_log = Transitions(*(part.repeat(len(ALPHAS), *[1] * (part.dim() - 1)) for part in logs["expert"]))
alphas = torch.tensor(ALPHAS).repeat_interleave(budget.seeds)
cautious = fit(cql(alphas), expert_log, f"CQL, {len(ALPHAS)} alphas x {budget.seeds} seeds")
swept = {key: value.view(len(ALPHAS), budget.seeds) for key, value in outcome(*by_value(cautious), len(alphas)).items()}
run.table(
    [
        (f"{alpha:g}", *(f"{swept[key][at].mean():,.0f} [{swept[key][at].min():,.0f}, {swept[key][at].max():,.0f}]" for key in ("return", "promised", "got")))
        for at, alpha in enumerate(ALPHAS)
    ],
    ("alpha", "Return", "Promised at the start", "Discounted return it got"),
    caption=f"CQL on the expert's log; mean over {budget.seeds} seeds [least, most]",
)  # fmt: skip

# %% [markdown]
# ## As one would at work
#
# stable-baselines3 has no offline algorithm, but its DQN has a replay buffer: fill it with the log, and train without a single step in the world. The library is sound, the
# use is not, and the failure is the same.

# %%
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

agent = DQN(
    "MlpPolicy",
    NAME,
    learning_rate=1e-3,
    batch_size=budget.batch,
    buffer_size=budget.transitions,
    gamma=GAMMA,
    target_update_interval=1,
    tau=0.01,
    seed=0,
)
agent.set_logger(configure(format_strings=[]))
for row in zip(*(part[0].numpy() for part in logs["expert"]), strict=True):
    observation, action, reward, following, terminated, _ = row
    agent.replay_buffer.add(observation[None], following[None], action[None], reward[None], terminated[None], [{}])
agent.train(gradient_steps=budget.peer, batch_size=budget.batch)
peer_return, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=budget.episodes)
print(f"stable-baselines3's DQN on the expert's log, {budget.peer:,} updates: return {peer_return:.0f}")

# %% [markdown]
# ## Results

# %%
mean = {(name, kind): results[name]["return"][at].mean().item() for name in METHODS for at, kind in enumerate(KINDS)}
run.result("transitions", budget.transitions, format=",")
run.result("seeds", budget.seeds)
for kind in KINDS:
    run.result(f"driver_{kind}", paid[kind], format=".0f")
    for name, key in (("cloning", "bc"), ("Q-learning", "q"), ("CQL", "cql"), ("IQL", "iql")):
        run.result(f"{key}_{kind}", mean[name, kind], format=".0f")
wild = results["Q-learning"]["promised"][KINDS.index("expert")]
run.result("q_promised_expert", wild.mean(), format=",.0f")
run.result("q_got_expert", results["Q-learning"]["got"][KINDS.index("expert")].mean(), format=".0f")
run.result("cql_promised_expert", results["CQL"]["promised"][KINDS.index("expert")].mean(), format=".0f")
run.result("cql_got_expert", results["CQL"]["got"][KINDS.index("expert")].mean(), format=".0f")
run.result("peer_expert", peer_return, format=".0f")
run.result("lake_size", budget.sizes[0], format=",")
run.result("counted_promise", promises["as counted"][0].mean(), format=".2f")
run.result("counted_worth", truths["as counted"][0].mean(), format=".2f")
run.result("cautious_promise", promises["cautious"][0].mean(), format=".2f")
run.result("cautious_worth", truths["cautious"][0].mean(), format=".2f")
run.result("world_optimum", optimal, format=".2f")

run.claim(
    "Q-learning learns from random data: at least three times its driver's return",
    mean["Q-learning", "random"] > 3 * paid["random"],
)
run.claim(
    "on the expert's log Q-learning has less than a quarter of what cloning has, in every seed",
    bool((results["Q-learning"]["return"][2] < results["cloning"]["return"][2] / 4).all()),
)
run.claim("on the expert's log Q-learning promises more than any policy can get", wild.mean() > CEILING)
run.claim(
    "on the expert's log Q-learning promises more than it gets, in every seed",
    bool((wild > results["Q-learning"]["got"][2]).all()),
)
for name in ("CQL", "IQL"):
    run.claim(f"{name} has at least three times the random driver's return", mean[name, "random"] > 3 * paid["random"])
    run.claim(f"{name} has at least 90% of the expert driver's return", mean[name, "expert"] > 0.9 * paid["expert"])
    run.claim(f"{name} never promises more than any policy can get", bool((results[name]["promised"] < CEILING).all()))
run.claim(
    "cloning the random driver gets less than a third of what Q-learning gets from him",
    mean["cloning", "random"] < mean["Q-learning", "random"] / 3,
)
run.claim(
    "without the penalty the promise is larger than with it", swept["promised"][0].mean() > swept["promised"][3].mean()
)
run.claim("the peer's Q-learning fails on the expert's log too", peer_return < 0.5 * paid["expert"])
run.claim(
    "the smallest log promises more than the policy is worth",
    promises["as counted"][0].mean() > truths["as counted"][0].mean(),
)
run.claim(
    "caution promises less than the policy is worth, at every size",
    all(p.mean() < t.mean() for p, t in zip(promises["cautious"], truths["cautious"], strict=True)),
)
run.claim("the largest log needs no caution", truths["as counted"][-1].mean() > optimal - 0.01)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. A maximum within the log** (difficulty 2, 6 minutes). Rewards (N,), values of all actions at the next states (N, A), which of them the
# log holds there (N, A), terminated (N,) and $\gamma$, to Q-learning targets (N,) that ask about no other action.


# %%
def my_within_log(rewards, next_q, seen, terminated, gamma): ...


check("offline_rl.within_log", my_within_log)

# %% [markdown]
# **2. What CQL pushes** (difficulty 1, 5 minutes). The gradient of $\alpha\,(\log\sum_a e^{Q(s,a)}-Q(s,a_{\mathcal D}))$ with respect to `q` (N, A),
# without autograd.


# %%
def my_cql_push(q, actions, alpha): ...


check("offline_rl.cql_push", my_cql_push)

# %% [markdown]
# **3. An expectile** (difficulty 2, 8 minutes). The $m$ that minimizes $\sum_i|\tau-\mathbb 1(x_i<m)|\,(x_i-m)^2$, to three decimals.


# %%
def my_expectile(values, tau): ...


check("offline_rl.expectile", my_expectile)

# %% [markdown]
# **4. What weighted cloning converges to** (difficulty 2, 6 minutes). The log's behaviour $\mu$ (A,) and the advantages (A,) in one state, and $\beta$,
# to the policy (A,).


# %%
def my_weighted_clone(behaviour, advantages, beta): ...


check("offline_rl.weighted_clone", my_weighted_clone)

# %% [markdown]
# **5. How errors add up** (difficulty 2, 6 minutes). Every maximum at a next state is too high by `error`. By how much do the values end too high, in
# a task that never ends?


# %%
def my_inflation(error, gamma): ...


check("offline_rl.inflation", my_inflation)
