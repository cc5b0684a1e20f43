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
# # Loop, chain, bandit: the parts of reinforcement learning, each on its own
#
# An agent acts, the world answers with a reward and a new state, and that is all the agent is ever told. In this lab you take that loop apart: first
# with a language model as the agent, then with the world reduced to a table, then with the world reduced to a single state, where only the
# question is left what to try. Last you learn about one policy from the deeds of another.
#
# - **You will** make answering a question an environment that Gymnasium accepts; measure how much of a text a state must hold; compute a stationary
#   distribution in three ways; race epsilon-greedy, UCB and Thompson sampling on a bandit whose arms are five prompts for SmolLM2, beside exact regret and
#   the bound of Lai and Robbins; and tell on-policy from off-policy by one experiment.
# - **Time:** about 2 minutes on a CPU with two cores.
#
# **Sections:** 5.1.2-5.1.5

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
# ## The loop, with a language model as the agent
#
# The **state** is what has been written so far. The **action** is the next token. The **environment** appends it, and when the answer is over, a verifier
# pays 1 for a right answer and 0 for a wrong one. An answer that runs into the limit of tokens is *truncated*: not the task ended it but the clock.

# %%
import math
import random
import warnings
from itertools import pairwise, takewhile

import gymnasium as gym
import numpy as np
import plotly.graph_objects as go
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from scipy import stats

from alignlab import compute, decoding, lab, models, palette, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.explorers import algorithms
from alignlab.intervals import wilson
from alignlab.rl import bandits, mdp, off_policy
from alignlab.rl.curves import band
from alignlab.tasks import arithmetic, scenes
from alignlab.transformer import Transformer

run = lab.Lab("ch05_mdp_and_bandits")
budget = run.budget(
    full=dict(answers=48, room=20, sums=96, short=17, texts=512, walks=4000, runs=1000, pulls=10_000, exact=40, sweep=300, stream=12_000, copies=100,
              episodes=3000, repeats=200, test=2000, arena=1000),
    quick=dict(answers=8, room=8, sums=8, short=13, texts=48, walks=300, runs=40, pulls=300, exact=12, sweep=20, stream=800, copies=20,
               episodes=200, repeats=20, test=200, arena=200),
)  # fmt: skip
compute.seed(0)
warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")

small, tokenizer = models.load("small")
VOCABULARY = small.config.vocab_size
PROBLEM = arithmetic.Problem(17, "+", 25)


class Answer(gym.Env):
    """Answering "What is 17 + 25?": observations are the token ids so far, padded at the end; actions are tokens."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, limit=budget.room):
        self.prompt = text.encode_prompt(tokenizer, PROBLEM.questions[0])
        self.limit = limit
        self.action_space = spaces.Discrete(VOCABULARY)
        self.observation_space = spaces.Box(0, VOCABULARY - 1, (len(self.prompt) + limit,), np.int64)

    def _observation(self):
        row = np.full(self.observation_space.shape, tokenizer.pad_token_id)
        row[: len(self.ids)] = self.ids
        return row

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ids = list(self.prompt)
        return self._observation(), {}

    def step(self, action):
        self.ids.append(int(action))
        written = self.ids[len(self.prompt) :]
        terminated = int(action) == tokenizer.eos_token_id
        truncated = not terminated and len(written) == self.limit
        right = arithmetic.correct(PROBLEM, tokenizer.decode(written, skip_special_tokens=True))
        return self._observation(), float(terminated and right), terminated, truncated, {}


world = Answer()
check_env(world)  # raises where the interface is not Gymnasium's
print(f"{VOCABULARY:,} actions; the prompt is {len(world.prompt)} tokens; an episode has at most {world.limit} steps")

# %% [markdown]
# The loop itself is five lines, the same for a language model, for a robot, and for a game. The agent here is SmolLM2-135M, taking its likeliest token.

# %%
decoder = Transformer.view(small)


@torch.inference_mode()
def policy(ids):
    """pi(. | state) of SmolLM2: the probability of every token after ids, (V,)."""
    return (
        decoder.lm_head(decoder.hidden(torch.tensor([ids], device=decoder.norm.weight.device))[:, -1])[0]
        .softmax(-1)
        .cpu()
    )


def episode(act, seed=0):
    """One trajectory: [(action, its probability, reward)], and whether it was truncated."""
    world.reset(seed=seed)
    trajectory, over = [], False
    while not over:
        action, probability = act(world.ids)
        _, reward, terminated, truncated, _ = world.step(action)
        trajectory.append((action, probability, reward))
        over = terminated or truncated
    return trajectory, truncated


def likeliest(ids):
    probabilities = policy(ids)
    return probabilities.argmax().item(), probabilities.max().item()


greedy_answer, _ = episode(likeliest)
run.table(
    [[t, repr(tokenizer.decode([a])), f"{p:.1%}", f"{r:g}"] for t, (a, p, r) in enumerate(greedy_answer)],
    ["t", "action", "its probability", "reward"],
    caption=f"One episode: SmolLM2 answers “{PROBLEM.questions[0]}”",
)

# %% [markdown]
# All rewards but the last are 0: nothing on the way says which token was the good one. And there are many ways: with $V$ tokens and $T$ steps, $V^T$
# trajectories. An agent that draws its tokens blindly will not see a reward in a lifetime; SmolLM2 has been *pretrained*, and that is what makes
# reinforcement learning on language possible at all. How often does it earn the reward when it samples?
#
# Many answers to one prompt: the prompt is read once, and its keys and values are lent to every row. Along the way we note each token's
# log-probability, once as it was drawn (temperature 1), and once as a cooler policy (temperature 0.7) would have it. We need both at the end of this lab.

# %%
COOL = 0.7


@torch.inference_mode()
def sample_answers(prompts, seed=0, temperature=1.0, room=budget.room):
    """One answer to each prompt (all of one length): tokens (N, T), which of them count, log-probabilities (2, N, T) at temperatures 1 and COOL."""
    device = decoder.norm.weight.device
    shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts))][:-1]
    once, cache = decoder.cache(1, len(shared)), decoder.cache(len(prompts), len(prompts[0]) + room)
    decoder.hidden(torch.tensor([shared], device=device), cache=once)
    cache.keys[:, :, :, : len(shared)], cache.values[:, :, :, : len(shared)] = once.keys, once.values
    cache.length = len(shared)
    generator = torch.Generator(device).manual_seed(seed)
    new, tokens, logps = torch.tensor([prompt[len(shared) :] for prompt in prompts], device=device), [], []
    for _ in range(room):
        logits = decoder.lm_head(decoder.hidden(new, cache=cache)[:, -1]).float()
        new = (
            torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            if temperature
            else logits.argmax(-1, keepdim=True)
        )
        logps.append(torch.stack([(logits / tau).log_softmax(-1).gather(-1, new)[:, 0] for tau in (1.0, COOL)]))
        tokens.append(new)
        if (torch.cat(tokens, 1) == tokenizer.eos_token_id).any(1).all():
            break
    ids = torch.cat(tokens, 1).cpu()
    ends = (ids == tokenizer.eos_token_id).long()
    return (
        ids,
        ends.cumsum(1) - ends == 0,
        torch.stack(logps, -1).double().cpu(),
    )  # what follows the first end token does not count


def rewards_of(ids, real, problems):
    """1 for each answer that came to its end and is right: (N,); and what was said."""
    said = [tokenizer.decode(row[keep].tolist(), skip_special_tokens=True) for row, keep in zip(ids, real)]
    ended = ((ids == tokenizer.eos_token_id) & real).any(1)
    return torch.tensor(
        [float(e and arithmetic.correct(p, s)) for p, s, e in zip(problems, said, ended.tolist())]
    ).double(), said


ids, real, logps = sample_answers([world.prompt] * budget.answers)
paid, said = rewards_of(ids, real, [PROBLEM] * budget.answers)
lengths = real.sum(1)
lm_low, lm_high = wilson(int(paid.sum()), len(paid))
print(
    f"mean return over {len(paid)} episodes at temperature 1: {paid.mean():.2f} (95%: {lm_low:.2f} to {lm_high:.2f}); {lengths.double().mean():.1f} tokens each"
)
for answer in said[:4]:
    print("  ", repr(answer))
log10_trajectories = float(lengths.double().mean()) * math.log10(VOCABULARY)

# %% [markdown]
# ## How much of the past must a state hold?
#
# A process is **Markov** if the next state depends on the present one alone. Whether that holds is a question of what you call the state. Take `tiny`, which writes sentences
# such as "The old bear sleeps in the garden.", and predict its next token from only the last $k$ tokens. The uncertainty that is left, $\mathcal{H}(\text{next}\mid\text{last }k)$, falls as
# the state holds more, down to what the model itself is unsure of. What lies above that floor is information that the state left out.

# %%
tiny, tiny_tokenizer = models.load("tiny")
prompts = [tiny_tokenizer.encode(p, add_special_tokens=False) for p in list(scenes.prompts("train"))]
chosen = [prompts[i % len(prompts)] for i in range(budget.texts)]
stop = tiny_tokenizer.convert_tokens_to_ids(scenes.END)
generator = torch.Generator(next(tiny.parameters()).device).manual_seed(0)
texts = decoding.generate(tiny, chosen, 16, Sampling(), stop_id=stop, generator=generator)
sentences_written = [p + c.ids for p, c in zip(chosen, texts)]
print(*(repr(tiny_tokenizer.decode(s)) for s in sentences_written[:3]), sep="\n")


@torch.inference_mode()
def next_token_distributions(rows, start):
    """For every prefix that a row's continuation went through: the prefix, and p(next | prefix), (N, V) float64."""
    network, longest = Transformer.view(tiny), max(map(len, rows))
    device = network.norm.weight.device
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    probabilities = network.lm_head(network.hidden(padded)).float().softmax(-1).cpu()
    places = [(i, t) for i, row in enumerate(rows) for t in range(start[i] - 1, len(row) - 1)]
    return [rows[i][: t + 1] for i, t in places], torch.stack([probabilities[i, t] for i, t in places]).double()


prefixes, following = next_token_distributions(sentences_written, [len(p) for p in chosen])


def entropy_rows(p):
    return -torch.xlogy(p, p).sum(-1)


def left_uncertain(k):
    """H(next | last k tokens) in nats: the entropy of the mixed distribution of prefixes that end alike, weighted by how many they are."""
    groups = {}
    for place, prefix in enumerate(prefixes):
        groups.setdefault(tuple(prefix[len(prefix) - min(k, len(prefix)) :]), []).append(place)
    return sum(len(g) * entropy_rows(following[g].mean(0)).item() for g in groups.values()) / len(prefixes)


ORDERS = (0, 1, 2, 3, 4, 6)
uncertain = {k: left_uncertain(k) for k in ORDERS}
floor = entropy_rows(following).mean().item()
fig = go.Figure()
fig.add_scatter(
    x=list(ORDERS),
    y=list(uncertain.values()),
    mode="lines+markers",
    name="state: the last k tokens",
    line={"color": palette.MIDDLE["policy"]},
)
fig.add_scatter(
    x=[ORDERS[0], ORDERS[-1]],
    y=[floor, floor],
    mode="lines",
    name="state: the whole prefix",
    line={"color": palette.MIDDLE["value"], "dash": "dash"},
)
fig.update_layout(
    title="What a short memory costs",
    xaxis_title="k, tokens in the state",
    yaxis_title="uncertainty of the next token (nats)",
)
run.figure(
    fig,
    "The uncertainty of the next token falls as the state holds more of the last tokens, towards that of the whole prefix.",
)

# %% [markdown]
# The whole prefix is always a Markov state: the model reads nothing else. That is why a language model's state is the prefix, and why it gets longer with every step.
#
# ## A decision process in a table
#
# Now a world so small that everything can be computed. A question has come. In state *unsure* the agent would be right 4 times in 10, in state *sure* 9 times
# in 10. To **think** costs 0.05 and makes it sure with probability ½; to **answer** ends the episode and pays 1 if right. It is the whole quarrel of
# reasoning models, thinking tokens against a quick answer, in three states.

# %%
UNSURE, SURE, DONE = 0, 1, 2
THINK, ANSWER = 0, 1
P = torch.zeros(3, 2, 3, dtype=torch.float64)  # p(s' | s, a): (S, A, S)
P[UNSURE, THINK] = torch.tensor([0.5, 0.5, 0.0])
P[SURE, THINK, SURE] = 1.0
P[:, ANSWER, DONE] = 1.0
P[DONE, :, DONE] = 1.0
R = torch.tensor([[-0.05, 0.4], [-0.05, 0.9], [0.0, 0.0]], dtype=torch.float64)  # expected reward: (S, A)
desk = mdp.FiniteMDP(P, R, 1.0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([False, False, True]))
random_policy = desk.uniform()
careful = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)  # think until sure, then answer


def walk(policy, episodes, seed):
    """Returns of sampled episodes, the loop in the open, all episodes side by side: (episodes,)."""
    generator = torch.Generator().manual_seed(seed)
    state, total = torch.zeros(episodes, dtype=torch.long), torch.zeros(episodes, dtype=torch.float64)
    while (state != DONE).any():
        action = torch.multinomial(policy[state], 1, generator=generator)[:, 0]
        total += R[state, action]  # R is an expectation: the coin of right or wrong is already averaged out
        state = torch.multinomial(P[state, action], 1, generator=generator)[:, 0]
    return total


rows = []
for name, its in (
    ("random", random_policy),
    ("answer at once", torch.tensor([[0.0, 1.0]] * 3).double()),
    ("think, then answer", careful),
):
    returns = walk(its, budget.walks, 0)
    error = returns.std().item() / math.sqrt(budget.walks)
    rows.append((name, mdp.values(desk, its)[UNSURE].item(), returns.mean().item(), error))
run.table(
    [[n, f"{exact:.4f}", f"{mean:.4f} ± {1.96 * error:.4f}"] for n, exact, mean, error in rows],
    ["policy", "expected return, by a linear solve", f"mean of {budget.walks:,} episodes"],
)

# %% [markdown]
# ## Fix the policy, and a Markov chain is left
#
# $P_\pi(s'\mid s)=\sum_a\pi(a\mid s)\,p(s'\mid s,a)$. Let a new question come as soon as one is answered: then the chain never ends, and in the long run it spends a fixed share of its time
# in each state, the **stationary distribution** $\mu=\mu P_\pi$. Three ways to it, which must agree: solve the equations; multiply until nothing changes; count.

# %%
chain, _ = mdp.policy_transitions(desk, random_policy)  # (S, S)
endless = chain[:2, :2] + chain[:2, 2:] * torch.tensor([1.0, 0.0])  # DONE is followed by a new question: unsure
equations = torch.cat([endless.T - torch.eye(2), torch.ones(1, 2)])  # mu P - mu = 0, and mu sums to 1
stationary = torch.linalg.lstsq(equations, torch.tensor([[0.0], [0.0], [1.0]]).double()).solution[:, 0]

far, distances = torch.tensor([0.0, 1.0], dtype=torch.float64), []
for _ in range(8):
    distances.append((far - stationary).abs().sum().item() / 2)
    far = far @ endless
eigenvalues = torch.linalg.eigvals(endless).real.sort(descending=True).values

generator, state, visits = torch.Generator().manual_seed(0), torch.zeros(64, dtype=torch.long), torch.zeros(2)
for _ in range(budget.walks // 4):
    state = torch.multinomial(endless[state], 1, generator=generator)[:, 0]
    visits += torch.bincount(state, minlength=2)
counted = visits / visits.sum()
print(
    f"stationary by linear solve {stationary.tolist()}, counted over {int(visits.sum()):,} steps {[round(x, 4) for x in counted.tolist()]}"
)
print(
    "distance from it, step by step:",
    [f"{d:.5f}" for d in distances],
    f"; each is {eigenvalues[1]:.3f} times the one before: the second eigenvalue",
)

# %% [markdown]
# And as one would at work, with a world of Gymnasium's. Its tables are the truth; played, it must show the same frequencies. On this frozen lake you slip
# to either side as often as you go where you wanted.

# %%
lake = gym.make("FrozenLake-v1", is_slippery=True)
ice = mdp.FiniteMDP.from_gym(lake, gamma=0.99)
lake.reset(seed=0)
tally, tries = torch.zeros(ice.states), budget.walks // 2
for _ in range(tries):
    lake.reset()
    lake.unwrapped.s = 10  # the middle of the ice
    tally[int(lake.step(2)[0])] += 1  # towards the right
expected = ice.transitions[10, 2]
deviation = ((tally / tries - expected).abs() / (expected * (1 - expected) / tries).sqrt().clamp_min(1e-12)).where(
    expected > 0, torch.zeros(()).double()
)
outside = tally[expected == 0].sum().item()
print(
    f"{ice.states} states, {ice.actions} actions; from state 10, 'right' leads to",
    {int(s): round((tally[s] / tries).item(), 3) for s in expected.nonzero()[:, 0]},
)

# %% [markdown]
# ## Bandits: one state, and what to try
#
# Five ways to put a sum to SmolLM2. Which one works best? Each try costs an answer, and each bad try costs a user. With one state and no next
# state, all that is left of reinforcement learning is **exploration**. First we let the model answer the same sums in all five ways, at temperature 0. These recorded answers
# *are* the bandit: a user comes with one of the sums, the arm pulled says how it is put to the model, and the reward is 1 if the answer was right. So the arm's chance is a known number.

# %%
draw_sums = random.Random(0)
SUMS = [arithmetic.Problem(draw_sums.randint(10, 49), "+", draw_sums.randint(10, 49)) for _ in range(budget.sums)]


def examples(*pairs):
    """Worked examples, as turns of a conversation before the question."""
    return [
        m
        for asked, said in pairs
        for m in ({"role": "user", "content": f"What is {asked}?"}, {"role": "assistant", "content": said})
    ]


PROMPTS = {
    "plain": [],
    "in words": examples(("31 + 12", "The sum of 31 and 12 is 43.")),
    "1 easy sum": examples(("1 + 1", "1 + 1 = 2.")),
    "3 wrong sums": examples(("31 + 12", "31 + 12 = 53."), ("24 + 18", "24 + 18 = 52."), ("46 + 35", "46 + 35 = 91.")),
    "3 right sums": examples(("31 + 12", "31 + 12 = 43."), ("24 + 18", "24 + 18 = 42."), ("46 + 35", "46 + 35 = 81.")),
}
pools = {}
for name in run.progress(list(PROMPTS), "SmolLM2 answers"):
    asked = [text.encode_prompt(tokenizer, [*PROMPTS[name], {"role": "user", "content": p.questions[0]}]) for p in SUMS]
    found, kept, _ = sample_answers(asked, temperature=0, room=budget.short)
    pools[name], its_answers = rewards_of(found, kept, SUMS)
    print(f"{name:15s} {pools[name].mean():6.1%}   e.g. {SUMS[0].questions[0]} {its_answers[0]!r}")
MEANS = np.array([pool.mean().item() for pool in pools.values()])
ARMS, BEST = list(PROMPTS), int(MEANS.argmax())
slope = bandits.lai_robbins(MEANS)
print(
    f"gaps {np.round(bandits.gaps(MEANS), 3)}; Lai and Robbins: no good rule can lose less than {slope:.2f} log T in the long run"
)

# %% [markdown]
# **Regret** is what the best arm would have earned on average beyond the arms you pulled, $\sum_t\Delta_{a_t}$ with the gaps $\Delta_a=\max_b p_b-p_a$. Here are the three rules in the open.
# All know only how often each arm was pulled, `n`, and how often it was right, `wins`.

# %%
dice = np.random.default_rng(0)


def epsilon_greedy(n, wins, t, epsilon=0.1):
    """Now and then anything; else the best average."""
    average = np.where(n > 0, wins / np.maximum(n, 1), 0.0)
    ties = np.flatnonzero(average == average.max())
    return dice.integers(len(n)) if dice.random() < epsilon else dice.choice(ties)


def ucb1(n, wins, t):
    """The highest average that is still believable: optimism where little is known."""
    return int(np.argmin(n)) if (n == 0).any() else int(np.argmax(wins / n + np.sqrt(2 * np.log(t) / n)))


def thompson(n, wins, t):
    """Draw each arm's chance from its posterior, and believe the draw."""
    return int(np.argmax(dice.beta(1 + wins, 1 + n - wins)))


def one_game(choose, pulls):
    n, wins, lost = np.zeros(len(MEANS)), np.zeros(len(MEANS)), 0.0
    for t in range(pulls):
        arm = choose(n, wins, t)
        n[arm] += 1
        wins[arm] += dice.choice(list(pools.values())[arm].numpy())  # one of the recorded answers
        lost += MEANS[BEST] - MEANS[arm]
    return n, lost


for choose in (epsilon_greedy, ucb1, thompson):
    pulled, lost = one_game(choose, 500)
    print(
        f"{choose.__name__:15s} after 500 pulls: regret {lost:5.1f}; pulls {dict(zip(ARMS, pulled.astype(int).tolist()))}"
    )

# %% [markdown]
# One game says little: luck decides. Before we average many, the average itself is checked. For two arms and a few pulls **every** course of a game can be
# gone through, with its probability: exact expected regret, no sampling. The library plays the same rules, many games side by side.

# %%
TWO = (MEANS.min().item(), MEANS.max().item())
EXACT = {
    "greedy": (bandits.epsilon_greedy(0.0), None),
    "epsilon 0.1": (bandits.epsilon_greedy(0.1), None),
    "UCB1": (bandits.ucb(), None),
    "Thompson": (bandits.thompson_of_two, bandits.thompson(1)),
}
truth, off = {}, {}
for name, (rule, drawn) in EXACT.items():
    truth[name] = bandits.exact_regret(TWO, rule, budget.exact)
    games = bandits.regret(TWO, bandits.play(TWO, drawn or rule, budget.exact, 8 * budget.runs, seed=2).actions)
    error = games.std(0) / math.sqrt(len(games))
    off[name] = float((np.abs(games.mean(0) - truth[name])[1:] / (error[1:] + 1e-9)).max())
run.table(
    [[n, f"{truth[n][-1]:.4f}", f"{off[n]:.1f}"] for n in EXACT],
    [
        "rule",
        f"exact regret after {budget.exact} pulls of two arms",
        f"largest deviation of {8 * budget.runs:,} games, in standard errors",
    ],
)

# %% [markdown]
# ## The race
#
# Five arms, many games, and bands that hold the middle 80% of them. The dotted line rises as Lai and Robbins's bound does, $\sum_a\frac{\Delta_a}{\mathrm{KL}(p_a\Vert p^*)}\log T$. It is a slope for large $T$, not a floor at every $T$.

# %%
RACE = {
    "greedy": (bandits.epsilon_greedy(0.0), "reference"),
    "epsilon 0.1": (bandits.epsilon_greedy(0.1), "prompt"),
    "epsilon 50/t": (bandits.epsilon_greedy(lambda t: min(1.0, 50 / (t + 1))), "kl"),
    "UCB1": (bandits.ucb(), "value"),
    "Thompson": (bandits.thompson(3), "chosen"),
}
marks = np.unique(np.round(np.geomspace(1, budget.pulls, 90)).astype(int)) - 1
curves, stuck = {}, {}
for name in run.progress(list(RACE), "racing"):
    actions = bandits.play(MEANS, RACE[name][0], budget.pulls, budget.runs // 2, seed=4).actions
    curves[name] = bandits.regret(MEANS, actions)[:, marks]
    stuck[name] = (actions[:, -100:] != BEST).all(1).mean()
    del actions

fig = go.Figure()
for name, (_, role) in RACE.items():
    band(fig, marks + 1, curves[name], name, role)
fig.add_scatter(
    x=marks + 1,
    y=slope * np.log(marks + 1),
    name="Lai-Robbins slope",
    mode="lines",
    line={"dash": "dot", "color": palette.MIDDLE["ink"]},
)
fig.update_layout(
    title="Regret on five prompts",
    xaxis_title="pulls (logarithmic)",
    yaxis_title="regret (right answers lost)",
    hovermode="closest",
)
fig.update_xaxes(type="log")
fig.update_yaxes(range=[0, float(np.percentile(curves["epsilon 0.1"][:, -1], 90)) * 1.1])
run.figure(fig, "Regret of five rules against the logarithm of the number of pulls, with bands over games.")

# %%
late = int(np.searchsorted(marks, budget.pulls // 10))
steep = {
    n: float((c[:, -1] - c[:, late]).mean() / math.log((marks[-1] + 1) / (marks[late] + 1))) for n, c in curves.items()
}
bound = float(bandits.ucb1_bound(MEANS, budget.pulls))
run.table(
    [
        [
            n,
            f"{c[:, -1].mean():.1f}",
            f"{np.percentile(c[:, -1], 10):.1f} to {np.percentile(c[:, -1], 90):.1f}",
            f"{steep[n]:.1f}",
            f"{stuck[n]:.1%}",
        ]
        for n, c in curves.items()
    ],
    [
        "rule",
        f"regret after {budget.pulls:,} pulls",
        "10th to 90th percentile",
        "slope against log T, last decade",
        "ends on a worse arm",
    ],
    caption=f"Lai and Robbins's slope is {slope:.2f}; UCB1's bound (Auer et al.) at the end is {bound:.0f}",
)

# %% [markdown]
# **The failure to know by sight: greedy.** It pulls each arm until one looks better, and a good arm that began with a wrong answer is never heard again. Its *mean* regret is a mixture of games that
# found the best arm and lost next to nothing, and games that never will. That is why its band is so wide, and why a single run tells you so little.
#
# How much exploring is right? The knob of each rule, turned.

# %%
EPSILONS, WIDTHS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.002, 0.01, 0.05, 0.2, 0.5, 2.0)
horizon = budget.pulls // 5
sweep = {"epsilon-greedy": (EPSILONS, bandits.epsilon_greedy, "prompt"), "UCB": (WIDTHS, bandits.ucb, "value")}
swept = {}
fig = go.Figure()
for name, (values, make, role) in sweep.items():
    ends = np.stack(
        [
            bandits.regret(MEANS, bandits.play(MEANS, make(v), horizon, budget.sweep, seed=5).actions)[:, -1]
            for v in run.progress(list(values), name)
        ],
        1,
    )
    swept[name] = dict(zip(values, ends.mean(0).tolist()))
    band(fig, np.maximum(values, 0.001), ends, name, role)
fig.update_layout(
    title=f"Too little, too much: regret after {horizon:,} pulls",
    xaxis_title="epsilon, or c in UCB's width (logarithmic; 0 drawn at 0.001)",
    yaxis_title="regret",
)
fig.update_xaxes(type="log")
run.figure(fig, "Regret against the amount of exploration is lowest in between, for epsilon-greedy and for UCB.")

# %% [markdown]
# **When the world changes.** Halfway, a new model is deployed, and the best and the worst prompt swap places. An average over all time remembers too well. An average that
# forgets, old + 0.05 (new - old), loses a little while nothing changes, and adapts when it does.

# %%
half = budget.pulls // 10
swapped = MEANS.copy()
swapped[[BEST, int(MEANS.argmin())]] = swapped[[int(MEANS.argmin()), BEST]]
moving = {}
fig = go.Figure()
for name, size, role in (("plain average", None, "reference"), ("average that forgets", 0.05, "policy")):
    actions = bandits.play(
        lambda t: MEANS if t < half else swapped,
        bandits.epsilon_greedy(0.1),
        2 * half,
        budget.sweep,
        seed=6,
        step_size=size,
    ).actions
    best_now = np.concatenate([actions[:, :half] == BEST, actions[:, half:] == int(swapped.argmax())], 1).astype(float)
    window = max(1, half // 50)
    shown = best_now.reshape(len(best_now), -1, window).mean(-1)
    moving[name] = (best_now[:, half // 2 : half].mean(), best_now[:, half + half // 2 :].mean())
    x = np.arange(shown.shape[1]) * window
    fig.add_scatter(x=x, y=shown.mean(0), name=name, line={"color": palette.MIDDLE[role]})
fig.add_vline(x=half, line_dash="dot")
fig.update_layout(
    title="The best arm changes in the middle", xaxis_title="pulls", yaxis_title="share of games on the best arm"
)
run.figure(
    fig,
    "After the change the forgetting average finds the new best arm; the plain average keeps to the old one for long.",
)

# %% [markdown]
# **As at work.** An A/B test splits traffic evenly and decides at the end; a bandit shifts traffic while it learns. With scipy's posteriors, ten lines:

# %%
wins, tries = np.ones(len(MEANS)), np.full(len(MEANS), 2.0)  # the prior: one right, one wrong
draw = np.random.default_rng(8)
for _ in range(budget.test):
    arm = int(np.argmax(stats.beta.rvs(wins, tries - wins, random_state=draw)))
    tries[arm] += 1
    wins[arm] += draw.random() < MEANS[arm]
intervals = [stats.beta.interval(0.95, w, n - w) for w, n in zip(wins, tries)]
run.table(
    [
        [name, f"{int(n) - 2:,}", f"{low:.2f} to {high:.2f}", f"{p:.2f}"]
        for name, n, (low, high), p in zip(ARMS, tries, intervals, MEANS)
    ],
    ["prompt", "users who got it", "believed chance (95%)", "true chance"],
)
bandit_lost = float(((tries - 2) * bandits.gaps(MEANS)).sum())
ab_lost = float(budget.test * bandits.gaps(MEANS).mean())
print(
    f"right answers lost among {budget.test:,} users: {bandit_lost:.0f} by Thompson sampling, {ab_lost:.0f} by an even split"
)

# %% [markdown]
# The race, to run it yourself, and the map of section 5.1.7:

# %%
grid = {"epsilon": [0.0, 0.01, 0.03, 0.1, 0.3, 1.0], "c": [0.05, 0.2, 0.5, 2.0, 8.0]}
ticks = np.unique(np.round(np.geomspace(1, budget.arena, 26)).astype(int)) - 1
worlds = {
    "Five prompts": MEANS,
    "Two close arms": np.array([0.5, 0.55]),
    "Ten arms": np.array([0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7]),
}


def mean_curve(means, rule):
    """Mean regret of many games at the ticks."""
    return bandits.regret(
        means, bandits.play(means, rule, budget.arena, max(20, budget.sweep // 3), seed=7).actions
    ).mean(0)[ticks]


arena = []
for title, means in worlds.items():
    arena.append({
        "title": title, "means": means.tolist(), "names": ARMS if title == "Five prompts" else [f"arm {k + 1}" for k in range(len(means))],
        "slope": bandits.lai_robbins(means), "ticks": (ticks + 1).tolist(),
        "epsilon": [{"at": e, "regret": mean_curve(means, bandits.epsilon_greedy(e))} for e in grid["epsilon"]],
        "c": [{"at": c, "regret": mean_curve(means, bandits.ucb(c))} for c in grid["c"]],
        "thompson": mean_curve(means, bandits.thompson(9)),
    })  # fmt: skip
run.explorer("bandit_race", {"worlds": arena, "games": max(20, budget.sweep // 3), "start": {"world": 0, "epsilon": 0.1, "c": 2.0, "pulls": 200, "seed": 1}, "try": "Set epsilon to 0 and change the seed a few times: in some games it never finds the best arm."}, digits=4)  # fmt: skip
run.explorer("algorithm_map", algorithms.data())

# %% [markdown]
# ## On-policy and off-policy, told apart by one experiment
#
# Two learners watch **the same** stream of experience: same states, same actions, same rewards, produced by a policy that acts at random at the desk. Neither chooses anything. They differ in one
# term only: after landing in $s'$, SARSA looks at the action that the behaviour *does take* there, Q-learning at the *best* one.


# %%
def watch(behaviour, steps, copies, seed):
    """SARSA's and Q-learning's tables after learning from one stream, in every copy: (2, copies, S, A), and their courses."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.zeros(2, copies, 3, 2, dtype=torch.float64)  # 0: SARSA, 1: Q-learning
    visits, rows = torch.zeros(copies, 3, 2), torch.arange(copies)
    state, course = torch.zeros(copies, dtype=torch.long), []
    action = torch.multinomial(behaviour[state], 1, generator=generator)[:, 0]
    for t in range(steps):
        following, reward, over = desk.step(state, action, generator)
        then = torch.multinomial(behaviour[following], 1, generator=generator)[:, 0]
        ahead = torch.stack([q[0, rows, following, then], q[1, rows, following].max(-1).values])  # the one difference
        visits[rows, state, action] += 1
        size = (1 + visits[rows, state, action]) ** -0.7
        q[:, rows, state, action] += size * (reward + torch.where(over, 0.0, ahead) - q[:, rows, state, action])
        state = torch.where(over, UNSURE, following)
        fresh = torch.multinomial(behaviour[state], 1, generator=generator)[:, 0]
        action = torch.where(over, fresh, then)
        if t % max(1, steps // 100) == 0:
            course.append(q[:, :, UNSURE, THINK].clone())
    return q, torch.stack(course, -1)


star = mdp.value_iteration(desk).q
EPSILON = 0.1
cautious = (1 - EPSILON) * careful + EPSILON / 2
tables, exact = {}, {}
for name, behaviour in (("random", random_policy), ("nearly careful", cautious)):
    tables[name], course = watch(behaviour, budget.stream, budget.copies, 0)
    exact[name] = mdp.q_from_v(desk, mdp.values(desk, behaviour))
    if name == "random":
        x = np.arange(course.shape[-1]) * max(1, budget.stream // 100)
        fig = go.Figure()
        for learner, (label, role) in enumerate((("SARSA", "policy"), ("Q-learning", "reward"))):
            band(fig, x, course[learner], label, role)
        for value, label, role in (
            (exact[name][UNSURE, THINK], "exact, of the random policy", "policy"),
            (star[UNSURE, THINK], "exact, of the best policy", "reward"),
        ):
            fig.add_scatter(
                x=x[[0, -1]],
                y=[value.item()] * 2,
                mode="lines",
                name=label,
                line={"dash": "dash", "color": palette.MIDDLE[role]},
            )
        fig.update_layout(
            title="One stream, two learners: the value of thinking when unsure",
            xaxis_title="steps of the stream",
            yaxis_title="estimated Q(unsure, think)",
        )
        run.figure(
            fig,
            "From the same experience SARSA learns the value of the policy that acted, Q-learning that of the best one.",
        )
miss = {}
for name in tables:
    miss[name] = {
        "sarsa_own": (tables[name][0, :, :2].mean(0) - exact[name][:2]).abs().max().item(),
        "sarsa_best": (tables[name][0, :, :2].mean(0) - star[:2]).abs().max().item(),
        "q_best": (tables[name][1, :, :2].mean(0) - star[:2]).abs().max().item(),
    }
run.table(
    [[n, f"{m['sarsa_own']:.3f}", f"{m['sarsa_best']:.3f}", f"{m['q_best']:.3f}"] for n, m in miss.items()],
    ["who acts", "SARSA, from the actor's own Q", "SARSA, from Q*", "Q-learning, from Q*"],
    caption=f"Largest error of the mean of {budget.copies} tables after {budget.stream:,} steps",
)

# %% [markdown]
# SARSA's answer depends on who acts: it is **on-policy**. Q-learning's does not: it is **off-policy**, and may learn from anybody's experience that covers all actions.
#
# ## Judging a policy by another's episodes
#
# The random policy's episodes are recorded. What would the nearly careful policy earn? Each episode is weighted by how much more likely the new policy would have produced it,
# $w=\prod_t\frac{\pi(a_t\mid s_t)}{b(a_t\mid s_t)}$.

# %%
recorded = mdp.sample(desk, random_policy, budget.episodes, 40, seed=1)
taken = [policy[recorded.states[:, :-1], recorded.actions] for policy in (cautious, random_policy)]
ratios = torch.where(recorded.running, taken[0] / taken[1], torch.ones(()).double())
weights = ratios.prod(-1)
returns = recorded.rewards.sum(-1)  # gamma is 1
by_hand = (weights * returns).mean()
judged = off_policy.estimates(recorded, cautious, random_policy, 1.0)
inverted = (returns / weights).mean()
worth = mdp.values(desk, cautious)[UNSURE].item()
gap = abs(by_hand - judged.ordinary).item()
run.table(
    [["naive: the mean return", f"{judged.naive:.3f}"], ["ordinary importance sampling", f"{judged.ordinary:.3f}"], ["weighted", f"{judged.weighted:.3f}"],
     ["per decision", f"{judged.per_decision:.3f}"], ["weights upside down (wrong)", f"{inverted:.2g}"], ["exact, by a linear solve", f"{worth:.3f}"]],
    ["estimate of what the nearly careful policy earns", f"from {budget.episodes:,} random episodes"],
)  # fmt: skip

# %% [markdown]
# How many episodes does that take? The root mean square error over many repetitions. Ordinary weights are right on average and noisy; weighted ones pay with a little bias for far less noise. And naive does not improve at
# all: it answers another question.

# %%
SIZES = [n for n in (10, 30, 100, 300, 1000) if n <= budget.episodes]
errors = {"naive": [], "ordinary": [], "weighted": [], "per decision": []}
for n in run.progress(SIZES, "repeating"):
    many = mdp.sample(desk, random_policy, budget.repeats * n, 40, seed=100 + n)
    many = mdp.Episodes(*(x.reshape(budget.repeats, n, *x.shape[1:]) for x in many))
    found = off_policy.estimates(many, cautious, random_policy, 1.0)
    for name, estimate in zip(errors, (found.naive, found.ordinary, found.weighted, found.per_decision)):
        errors[name].append((estimate - worth).square().mean().sqrt().item())
fig = go.Figure()
for (name, values), role in zip(errors.items(), ("reference", "rejected", "policy", "value")):
    fig.add_scatter(x=SIZES, y=values, name=name, mode="lines+markers", line={"color": palette.MIDDLE[role]})
fig.update_layout(
    title="Error of off-policy estimates",
    xaxis_title="episodes (logarithmic)",
    yaxis_title="RMS error (logarithmic)",
    hovermode="closest",
)
fig.update_xaxes(type="log")
fig.update_yaxes(type="log")
run.figure(fig, "The errors of weighted estimates fall with the number of episodes, that of the naive mean stays.")

# %% [markdown]
# ## The same with a language model: weights of whole answers
#
# SmolLM2 answers at temperature 1. What would it earn at temperature 0.7? The weight of an answer is a product over its tokens, and that product is the trouble: the longer the answer, the fewer answers carry all the
# weight. The **effective sample size** $(\sum w)^2/\sum w^2$ says how many are left. We look at the short answers that follow three worked examples, one to each sum, and at the long ones that follow the plain prompt.

# %%
asked = [
    text.encode_prompt(tokenizer, [*PROMPTS["3 right sums"], {"role": "user", "content": p.questions[0]}]) for p in SUMS
]
short_ids, short_real, short_logps = sample_answers(asked, seed=30, room=13)
short_paid, _ = rewards_of(short_ids, short_real, SUMS)
cool_ids, cool_real, _ = sample_answers(asked, seed=31, temperature=COOL, room=13)
cool_paid, _ = rewards_of(cool_ids, cool_real, SUMS)
cool_low, cool_high = wilson(int(cool_paid.sum()), len(cool_paid))


def weights_along(log_probabilities, which):
    """The weight of every answer after each of its tokens, (N, T): COOL over temperature 1."""
    return torch.where(which, log_probabilities[1] - log_probabilities[0], 0.0).cumsum(-1).exp()


kept = {}
fig = go.Figure()
for name, weights_t, role in (
    ("short answers", weights_along(short_logps, short_real), "policy"),
    ("long answers", weights_along(logps, real), "kl"),
):
    kept[name] = (weights_t.sum(0) ** 2 / (weights_t**2).sum(0) / len(weights_t)).numpy()
    fig.add_scatter(
        x=np.arange(1, len(kept[name]) + 1),
        y=kept[name],
        mode="lines+markers",
        name=name,
        line={"color": palette.MIDDLE[role]},
    )
fig.update_layout(
    title="What is left of the sample, token by token",
    xaxis_title="tokens of the answer",
    yaxis_title="effective share of the answers",
    yaxis_range=[0, 1.03],
)
run.figure(
    fig, "The effective share of the answers falls with the tokens, for long answers much farther than for short ones."
)
w = weights_along(short_logps, short_real)[:, -1]
llm_naive, llm_weighted, llm_truth = (
    short_paid.mean().item(),
    ((w * short_paid).sum() / w.sum()).item(),
    cool_paid.mean().item(),
)
print(
    f"short answers earn {llm_naive:.2f} at temperature 1; at {COOL}, estimated from those: {llm_weighted:.2f}; measured afresh: {llm_truth:.2f} ({cool_low:.2f} to {cool_high:.2f})"
)
moments = off_policy.second_moments(desk, cautious, random_policy, 40)

# %% [markdown]
# ## Results

# %%
run.result("vocabulary", VOCABULARY, format=",")
run.result("prompt_tokens", len(world.prompt))
run.result("greedy_tokens", len(greedy_answer))
run.result("greedy_reward", greedy_answer[-1][2], format=".0f")
run.result("answers", budget.answers)
run.result("lm_return", paid.mean(), format=".2f")
run.result("lm_low", lm_low, format=".2f")
run.result("lm_high", lm_high, format=".2f")
run.result("lm_tokens", lengths.double().mean(), format=".1f")
run.result("lm_truncated", 1 - ((ids == tokenizer.eos_token_id) & real).any(1).double().mean(), format=".0%")
run.result("log10_trajectories", log10_trajectories, format=".0f")
for k in ORDERS:
    run.result(f"uncertain_{k}", uncertain[k], format=".2f")
run.result("uncertain_whole", floor, format=".2f")
run.result("texts", budget.texts)
for name, (_, value, mean, _) in zip(("random", "at_once", "careful"), rows):
    run.result(f"desk_{name}", value, format=".3f")
    run.result(f"desk_{name}_sampled", mean, format=".3f")
run.result("walks", budget.walks, format=",")
run.result("stationary_unsure", stationary[0], format=".3f")
run.result("counted_unsure", counted[0], format=".3f")
run.result("second_eigenvalue", eigenvalues[1], format=".2f")

# %%
for name, p in zip(("plain", "words", "easy", "wrong", "right"), MEANS):
    run.result(f"arm_{name}", p, format=".0%")
run.result("best_arm", float(BEST), text=ARMS[BEST])
run.result("smallest_gap", float(np.sort(bandits.gaps(MEANS))[1]), format=".3f")
run.result("sums", budget.sums)
run.result("lai_robbins", slope, format=".1f")
run.result("pulls", budget.pulls, format=",")
run.result("games", budget.runs // 2, format=",")
run.result("ucb1_bound", bound, format=",.0f")
for name, key in (
    ("greedy", "greedy"),
    ("epsilon 0.1", "epsilon"),
    ("epsilon 50/t", "decaying"),
    ("UCB1", "ucb"),
    ("Thompson", "thompson"),
):
    end = curves[name][:, -1]
    run.result(f"{key}_regret", end.mean(), format=".0f")
    run.result(f"{key}_low", np.percentile(end, 10), format=".0f")
    run.result(f"{key}_high", np.percentile(end, 90), format=".0f")
    run.result(f"{key}_slope", steep[name], format=".1f")
    run.result(f"{key}_stuck", stuck[name], format=".0%")
run.result("exact_pulls", budget.exact)
run.result("exact_off", max(off.values()), format=".1f")
run.result("sweep_pulls", horizon, format=",")
best_epsilon, best_width = (min(values, key=values.get) for values in swept.values())
run.result("best_epsilon", best_epsilon, format="g")
run.result("best_epsilon_regret", swept["epsilon-greedy"][best_epsilon], format=".0f")
run.result("best_width", best_width, format="g")
run.result("best_width_regret", swept["UCB"][best_width], format=".0f")
run.result("ucb1_sweep_regret", swept["UCB"][2.0], format=".0f")
for name, key in (("plain average", "plain_average"), ("average that forgets", "forgetting")):
    run.result(f"{key}_before", moving[name][0], format=".0%")
    run.result(f"{key}_after", moving[name][1], format=".0%")
run.result("test_users", budget.test, format=",")
run.result("test_bandit_lost", bandit_lost, format=".0f")
run.result("test_even_lost", ab_lost, format=".0f")

# %%
run.result("stream", budget.stream, format=",")
run.result("copies", budget.copies)
run.result("q_random", exact["random"][UNSURE, THINK], format=".3f")
run.result("q_cautious", exact["nearly careful"][UNSURE, THINK], format=".3f")
run.result("q_star", star[UNSURE, THINK], format=".3f")
for name, key in (("random", "random"), ("nearly careful", "cautious")):
    run.result(f"sarsa_{key}", tables[name][0, :, UNSURE, THINK].mean(), format=".3f")
    run.result(f"qlearning_{key}", tables[name][1, :, UNSURE, THINK].mean(), format=".3f")
run.result("worth", worth, format=".3f")
run.result("is_naive", judged.naive, format=".3f")
run.result("is_ordinary", judged.ordinary, format=".3f")
run.result("is_weighted", judged.weighted, format=".3f")
run.result("is_per_decision", judged.per_decision, format=".3f")
run.result("is_inverted", inverted, format=".1e")
run.result("is_episodes", budget.episodes, format=",")
run.result("is_effective", judged.effective, format=",.0f")
run.result("is_moment", moments[-1], format=".1f")
run.result("cool", COOL, format=".1f")
run.result("llm_left_short", kept["short answers"][-1], format=".0%")
run.result("llm_left_long", kept["long answers"][-1], format=".0%")
run.result("llm_left_first", kept["long answers"][0], format=".0%")
run.result("llm_naive", llm_naive, format=".2f")
run.result("llm_weighted", llm_weighted, format=".2f")
run.result("llm_truth", llm_truth, format=".2f")
run.result("llm_truth_low", cool_low, format=".2f")
run.result("llm_truth_high", cool_high, format=".2f")

# %%
memories = [uncertain[k] for k in ORDERS]
run.claim(
    "a state that holds more leaves less uncertain, and never less than the whole prefix does",
    all(a >= b - 1e-9 for a, b in pairwise(memories)) and memories[-1] >= floor - 1e-9,
)
run.claim("the last token alone leaves at least a quarter of a nat out", uncertain[1] - floor > 0.25)
run.claim(
    "sampled returns are the exact values, within four standard errors",
    all(abs(v - m) <= 4 * e + 1e-9 for _, v, m, e in rows),
)
run.claim(
    "thinking until sure earns 0.8, answering at once 0.4",
    abs(rows[2][1] - 0.8) < 1e-12 and abs(rows[1][1] - 0.4) < 1e-12,
)
run.claim("the stationary distribution is the one that is counted, to 0.01", (stationary - counted).abs().max() < 0.01)
run.claim(
    "the frozen lake's frequencies are its table's, within four standard errors", deviation.max() < 4 and outside == 0
)
run.claim(
    "games side by side have the exact regret, within four and a half standard errors at every pull",
    max(off.values()) < 4.5,
)
mean_end = {n: c[:, -1].mean() for n, c in curves.items()}
run.claim("Thompson sampling loses least of the five rules", all(mean_end["Thompson"] <= v for v in mean_end.values()))
run.claim("UCB1 stays under its bound", mean_end["UCB1"] < bound)
lost_late = float((curves["epsilon 0.1"][:, -1] - curves["epsilon 0.1"][:, late]).mean())
owed = float(0.1 * bandits.gaps(MEANS).mean() * (marks[-1] - marks[late]))
run.claim(
    "constant epsilon loses its share to the end: at least epsilon times the mean gap per pull", lost_late > 0.95 * owed
)
run.claim(
    "Thompson sampling's slope is within a factor of two of Lai and Robbins's",
    slope / 2 < steep["Thompson"] < 2 * slope,
)
run.claim(
    "greedy ends on a worse arm in a third of the games and more, Thompson and UCB1 in less than one in fifty",
    stuck["greedy"] > 1 / 3 and max(stuck["Thompson"], stuck["UCB1"]) < 0.02,
)
run.claim("an epsilon in between is better than none and than all", 0 < best_epsilon < 1)
run.claim(
    "after the change the average that forgets is on the best arm more often",
    moving["average that forgets"][1] > moving["plain average"][1] + 0.1,
)
run.claim(
    "SARSA learns the actor's own values, Q-learning the best ones, from one stream, to 0.03",
    all(m["sarsa_own"] < 0.03 and m["q_best"] < 0.03 for m in miss.values()),
)
run.claim("with a random actor SARSA's values are far from the best ones", miss["random"]["sarsa_best"] > 0.1)
run.claim("weights by hand are the library's, to 1e-12", gap < 1e-12)
run.claim(
    "weighted estimates are within 0.05 of the exact value; naive and inverted ones are not",
    abs(judged.weighted - worth) < 0.05 and abs(judged.naive - worth) > 0.1 and abs(inverted - worth) > 0.1,
)
run.claim(
    "the naive estimate does not improve with more episodes, the weighted one does",
    errors["naive"][-1] > 0.8 * errors["naive"][1] and errors["weighted"][-1] < 0.4 * errors["weighted"][0],
)
run.claim(
    "of the long answers less than half are left in effect, and a smaller share than of the short ones",
    kept["long answers"][-1] < min(0.5, kept["short answers"][-1]),
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. UCB by hand** (difficulty 1, 5 minutes). From pulls (K,), each at least 1, and wins (K,), return UCB1's index of every arm, (K,). The number of pulls so far is their sum.


# %%
def my_ucb_index(pulls, wins): ...


check("mdp_and_bandits.ucb_index", my_ucb_index)

# %% [markdown]
# **2. The chain of a policy** (difficulty 1, 5 minutes). Transitions (S, A, S) and a policy (S, A): return the matrix $P_\pi$, (S, S), of the Markov chain that is left.


# %%
def my_chain(transitions, policy): ...


check("mdp_and_bandits.chain", my_chain)

# %% [markdown]
# **3. The stationary distribution** (difficulty 2, 8 minutes). A chain's matrix (S, S), rows summing to 1, in which every state can be reached from every other. Return $\mu$, (S,).


# %%
def my_stationary(chain): ...


check("mdp_and_bandits.stationary", my_stationary)

# %% [markdown]
# **4. The price of a constant epsilon** (difficulty 2, 6 minutes). $\epsilon$-greedy knows by now which arm is best. What does it lose **per pull** on average, given the arms' chances (K,) and $\epsilon$? One number.


# %%
def my_lasting_loss(means, epsilon): ...


check("mdp_and_bandits.lasting_loss", my_lasting_loss)

# %% [markdown]
# **5. Judge a policy by another's answers** (difficulty 3, 10 minutes). Log-probabilities (N, T) of sampled tokens under the policy that wrote them, `behaviour`, and under the one to be judged, `target`; `mask` (N, T) is 1 for real tokens; `rewards` (N,).
# Return the **weighted** importance sampling estimate of the target's expected reward: one number.


# %%
def my_weighted_estimate(behaviour, target, mask, rewards): ...


check("mdp_and_bandits.weighted_estimate", my_weighted_estimate)
