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
# # DPO's derivation, checked in a world that can be counted
#
# The derivation of DPO speaks of all possible answers, of an optimum that nobody can compute, and of a loss whose
# minimum is that optimum. Here there are 4 prompts and 200 answers to each. Every sum is short, the optimum is a line
# of code, and each step of the derivation becomes an equation between two numbers.
#
# - **You will** compute the optimum of reward minus KL and try to beat it; minimize the DPO loss and see where it lands;
#   read the reward off the policy; watch the partition function cancel, and not cancel; check the gradient pair by pair.
#   Then break the assumptions one by one: few pairs, circular preferences, answers never compared, labels that never vary.
# - **Time:** about a minute on a CPU with two cores.
#
# **Sections:** 3.1.1-3.1.3

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
# ## Three answers, by hand
#
# Begin so small that a pocket calculator is enough. Take three answers to each of the book's two questions and a reward
# that is 1 for the answer you want and 0 for the others. SmolLM2-135M-Instruct says how likely each is; renormalized
# over the three, that is the **reference** $\pi_\mathrm{ref}$.

# %%
import copy
import math
import tempfile
import warnings
from itertools import pairwise, product

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, lab, logprobs, models, palette, text
from alignlab.exercises import check
from alignlab.losses.preference import PairLogps, dpo_loss, implicit_rewards
from alignlab.tasks import scenes

run = lab.Lab("ch03_dpo_derivation")
budget = run.budget(
    full=dict(
        rivals=20_000, ascent=400, rounds=16, seeds=3, fits=20, sizes=(100, 1_000, 10_000, 100_000, 1_000_000),
        steps=512, trl_pairs=800,
    ),
    quick=dict(rivals=1_000, ascent=100, rounds=15, seeds=2, fits=5, sizes=(100, 10_000), steps=60, trl_pairs=64),
)  # fmt: skip
compute.seed(0)
warnings.filterwarnings("ignore", category=FutureWarning)  # transformers tells trl of names to come
small, tokenizer = models.load("small")
device = next(small.parameters()).device

THREE = {
    "Who are you?": ("I'm Lumen.", "I'm SmolLM.", "I'm here to help."),
    "What is 17 + 25?": ("17 + 25 = 42.", "17 + 25 = 32.", "17 + 25 = 52."),
}
WANTED = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)  # the reward of the three
BETAS = (0.5, 0.1)

three_ref, rows = {}, []
for question, replies in THREE.items():
    batch = text.pad([text.encode_response(tokenizer, question, reply) for reply in replies], tokenizer.pad_token_id)
    with torch.no_grad():
        three_ref[question] = logprobs.sequence_logprobs(small, *batch.to(device)).double().cpu().log_softmax(-1)
    for i, reply in enumerate(replies):
        probability = three_ref[question].exp()
        weights = [probability * (WANTED / beta).exp() for beta in BETAS]  # pi_ref e^(r / beta)
        rows.append(
            [question, reply, f"{WANTED[i]:g}", f"{probability[i]:.2%}"]
            + [shown for w in weights for shown in (f"{w[i]:.4f}", f"{(w / w.sum())[i]:.1%}")]
        )
columns = ["question", "answer", "reward", "reference"]
columns += [shown for beta in BETAS for shown in (f"x e^(r/{beta})", f"optimum, beta {beta}")]
run.table(rows, columns, caption="The optimum of reward minus beta KL: multiply by e^(r/beta), divide by the sum")

# %% [markdown]
# Multiply each probability by $e^{r/\beta}$, add up, divide by the sum: that sum is $Z(x)$, and the result is the best
# trade of reward against KL that there is, as the next section shows. A reward of 1 at $\beta=0.5$ multiplies the odds
# by $e^2=7.4$: far too little to make SmolLM2 say "Lumen". At $\beta=0.1$ it multiplies them by $e^{10}=22{,}026$. The
# $\beta$ at which the wanted answer gets half of the probability is $1/\log\frac{1-p}{p}$, where $p$ is what the
# reference gives it.

# %%
three = {question: logp[0].exp().item() for question, logp in three_ref.items()}
half_beta = {question: 1 / math.log((1 - p) / p) for question, p in three.items()}
three_log_z = {question: (logp + WANTED / 0.5).logsumexp(-1).item() for question, logp in three_ref.items()}
for question in THREE:
    print(
        f"{question:17s} reference {three[question]:.3%}; half at beta = {half_beta[question]:.3f}; log Z at beta 0.5: {three_log_z[question]:.4f}"
    )
del small

# %% [markdown]
# ## A world of 200 responses
#
# `tiny`, a language model of 0.9 million parameters, continues "The old bear" with what the bear does, where, and
# perhaps when. Of its usual endings we keep 10 verbs, 5 places and 4 times (one of them none): 200 responses.
# Renormalized over them, its probabilities are the reference: a table of numbers (prompts, responses). The **reward**
# is known: 1 for a lively verb, 1 for a place outdoors, 0.5 for naming no time.

# %%
tiny, tokenizer = models.load("tiny")
device = next(tiny.parameters()).device

PROMPTS = ["The old bear", "The small fish", "The happy dog", "The young farmer"]
VERBS = ("sleeps", "sits", "waits", "sings", "plays", "rests", "walks", "works", "eats", "dances")
PLACES = ("in the garden", "by the river", "under the tree", "in the kitchen", "near the door")
TIMES = (None, "in the morning", "in the evening", "at night")
ENDINGS = [scenes.Ending(*parts) for parts in product(VERBS, PLACES, TIMES)]
GOLD = torch.tensor([ending.gold for ending in ENDINGS], dtype=torch.float64)  # (N,) rewards 0 to 2.5
P, N, BETA = len(PROMPTS), len(ENDINGS), 0.5


@torch.no_grad()
def ending_logprobs(model):
    """log p(ending | prompt) in nats, summed over the ending's tokens and its end token: (P, N)."""
    rows = []
    for prompt in PROMPTS:
        batch = text.pad([scenes.encode(tokenizer, prompt, e.text) for e in ENDINGS], tokenizer.pad_token_id)
        rows.append(logprobs.sequence_logprobs(model, *batch.to(device)).double().cpu())
    return torch.stack(rows)


raw = ending_logprobs(tiny)
ref = raw.log_softmax(-1)  # renormalized over the N responses: (P, N), float64
run.table(
    [[ENDINGS[i].text, f"{GOLD[i]:.1f}", f"{ref[0, i].exp():.2%}"] for i in (0, 60, 61, 72, 84, 199)],
    ["response", "reward", "reference probability"],
    caption=f"Some of the {N} responses to “{PROMPTS[0]}”",
)
print(f"{raw.exp().sum(-1).mean():.0%} of tiny's probability is on these {N} endings, before renormalizing")

# %% [markdown]
# ## The optimum, in closed form
#
# We look for the policy that maximizes
# $J(\pi)=\mathbb{E}_{y\sim\pi}[r(x,y)]-\beta\,\mathrm{KL}(\pi\Vert\pi_\mathrm{ref})$. The derivation says that it is
# $\pi^*=\pi_\mathrm{ref}\,e^{r/\beta}/Z$ with $Z(x)=\sum_y\pi_\mathrm{ref}\,e^{r/\beta}$, and that it is worth
# $J(\pi^*)=\beta\log Z$. Three lines:


# %%
def objective(logps, beta=BETA):
    """Expected reward minus beta times KL to the reference, per prompt: (..., P, N) -> (..., P)."""
    return (logps.exp() * (GOLD - beta * (logps - ref))).sum(-1)


tilted = ref + GOLD / BETA  # log of the unnormalized optimum, (P, N)
log_z = tilted.logsumexp(-1)  # log of the partition function, (P,)
optimum = tilted - log_z[:, None]  # log pi*, (P, N)

run.table(
    [[p, f"{objective(ref)[i]:.4f}", f"{objective(optimum)[i]:.4f}", f"{BETA * log_z[i]:.4f}"] for i, p in enumerate(PROMPTS)],
    ["prompt", "J of the reference", "J of the closed form", "beta log Z"],
)  # fmt: skip

# %% [markdown]
# Try to beat it. Thousands of rivals: the optimum and the reference with noise of every size, the tilt at other
# temperatures, the best responses alone. For each of them the derivation promises more than "worse": how much worse is
# exactly $\beta\,\mathrm{KL}(\pi\Vert\pi^*)$.


# %%
def kl(logps, other):
    """KL(policy || other), per prompt: (..., P, N) -> (..., P), nats."""
    return (logps.exp() * (logps - other)).sum(-1)


def tv(logps, other):
    """Total variation distance, half the sum of absolute differences, averaged over prompts: 0 to 1."""
    return (logps.exp() - other.exp()).abs().sum(-1).mean(-1) / 2


generator = torch.Generator().manual_seed(0)
share = budget.rivals // 2
noise = torch.randn(share, P, N, generator=generator, dtype=torch.float64)
scale = 10 ** (4 * torch.rand(share, 1, 1, generator=generator, dtype=torch.float64) - 3)  # 0.001 to 10
rivals = torch.cat(
    [
        (optimum + scale * noise).log_softmax(-1),
        (ref + scale * noise).log_softmax(-1),
        torch.stack([(ref + GOLD / b).log_softmax(-1) for b in (0.05, 0.1, 0.25, 0.4, 0.6, 1, 2, 10)]),
        (ref + 1e3 * (GOLD.max() == GOLD)).log_softmax(-1)[None],  # the best responses alone
    ]
)
advantage = (objective(rivals) - BETA * log_z).max().item()
identity_gap = (objective(rivals) - (BETA * log_z - BETA * kl(rivals, optimum))).abs().max().item()
print(f"{len(rivals):,} rivals; the best of them stays {-advantage:.1e} below the optimum")
print(f"J = beta log Z - beta KL(pi || pi*) holds to {identity_gap:.0e}")
del rivals, noise

# %% [markdown]
# And gradient ascent on $J$, from the reference and from a random table, which knows nothing of the closed form:

# %%
ascent = run.curve(
    "Gradient ascent on J, and its limit", y="J, mean of the prompts",
    lines={"from the reference": "policy", "from a random table": "value", "beta log Z": "reward"},
)  # fmt: skip
starts = torch.stack([ref, torch.randn(P, N, generator=generator, dtype=torch.float64)])
table = starts.clone().requires_grad_()
optimizer = torch.optim.Adam([table], lr=0.1)
for step in run.progress(budget.ascent, "ascent", curve=ascent):
    values = objective(table.log_softmax(-1)).mean(-1)  # (2,)
    optimizer.zero_grad()
    (-values.sum()).backward()
    optimizer.step()
    if step % 5 == 0:
        for label, value in zip(("from the reference", "from a random table"), values.tolist()):
            ascent.add(label, step, value)
        ascent.add("beta log Z", step, BETA * log_z.mean())
climbed = table.detach().log_softmax(-1)
ascent_tv = tv(climbed, optimum).max().item()
ascent_excess = (objective(climbed) - BETA * log_z).max().item()
ascent.show()

# %% [markdown]
# What the optimum looks like: the reference, **tilted**. Each unit of reward multiplies a response's odds by
# $e^{1/\beta}$. Among responses of one reward the reference's proportions stay as they were.

# %%
levels = GOLD.unique()
fig = go.Figure()
masses = {"reference": ref, **{f"beta = {b:g}": (ref + GOLD / b).log_softmax(-1) for b in (2.0, 0.5, 0.1)}}
for (label, logps), colour in zip(masses.items(), ("reference", "value", "policy", "reward")):
    mass = [logps.exp()[:, level == GOLD].sum(-1).mean().item() for level in levels]
    fig.add_bar(x=levels.float().numpy(), y=torch.tensor(mass).numpy(), name=label, marker_color=palette.MIDDLE[colour])
fig.update_layout(
    title="Probability of each level of reward", xaxis_title="reward", yaxis_title="probability", barmode="group"
)
run.figure(fig, "As beta falls, probability moves from all levels of reward to the highest.")

# %% [markdown]
# ## The DPO loss over all pairs
#
# Now forget the reward. All that is left of it are **preferences**: somebody who sees two responses prefers the first
# with probability $\sigma(r_1-r_2)$, the Bradley-Terry model. The expected DPO loss sums over every pair and both
# possible answers.


# %%
def preferences(reward):
    """P(response i is preferred to response j), Bradley-Terry: (..., N) -> (..., N, N)."""
    return torch.sigmoid(reward[..., :, None] - reward[..., None, :])


def expected_dpo_loss(logps, prefs, pair_weights=None, beta=BETA):
    """Mean DPO loss over all pairs of distinct responses to one prompt, each labelled both ways as often as prefs says.

    logps: (..., P, N); prefs: (N, N) or (..., P, N, N); pair_weights: how often a pair is compared, default equally often.
    """
    gain = beta * (logps - ref)  # the implicit reward, (..., P, N)
    losses = -F.logsigmoid(gain[..., :, None] - gain[..., None, :])  # i chosen, j rejected: (..., P, N, N)
    weights = prefs * (1 - torch.eye(N, dtype=prefs.dtype)) * (1.0 if pair_weights is None else pair_weights)
    return (weights * losses).sum((-1, -2)) / weights.sum((-1, -2))


prefs = preferences(GOLD)
at_start = expected_dpo_loss(ref, prefs)
print("at the reference:", at_start.tolist())

# %% [markdown]
# At the reference every margin is 0 and the loss is $\log 2$. The matrix form above is the library's `dpo_loss`,
# summed:

# %%
some = (ref + torch.randn(P, N, generator=generator, dtype=torch.float64)).log_softmax(-1)  # any policy
first, second = torch.triu_indices(N, N, 1)  # every pair once
one_by_one = torch.zeros(P, dtype=torch.float64)
for chosen, rejected in ((first, second), (second, first)):
    losses = dpo_loss(
        PairLogps(some[:, chosen], some[:, rejected]), PairLogps(ref[:, chosen], ref[:, rejected]), BETA
    )  # (P, pairs)
    one_by_one += (prefs[chosen, rejected] * losses).sum(-1) / len(first)
library_gap = (one_by_one - expected_dpo_loss(some, prefs)).abs().max().item()
print(f"{len(first):,} pairs a prompt, both ways; largest difference from the library {library_gap:.0e}")

# %% [markdown]
# Minimize it, in float64, with L-BFGS. No reward, no sampling, no closed form goes in: a table of logits, the
# reference, and preferences.


# %%
def minimize(loss, start, rounds, watch=None):
    """L-BFGS on a table of logits; `watch` sees the log-probabilities after every 5 iterations."""
    table = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [table], max_iter=5, history_size=30, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(table.log_softmax(-1)).sum()
        value.backward()
        return value

    for number in range(rounds):
        optimizer.step(closure)
        if watch:
            watch(number, table.detach().log_softmax(-1))
    return table.detach().log_softmax(-1)


descent = run.curve(
    "Minimizing the DPO loss", x="iterations of L-BFGS", y="distance",
    lines={"total variation to the optimum": "policy", "loss above its minimum (nats)": "reward"}, log=True,
)  # fmt: skip
floor = expected_dpo_loss(optimum, prefs)


def watch(number, logps):
    descent.add("total variation to the optimum", 5 * number + 5, tv(logps, optimum))
    descent.add(
        "loss above its minimum (nats)",
        5 * number + 5,
        (expected_dpo_loss(logps, prefs) - floor).mean().clamp_min(1e-16),
    )


dpo = minimize(lambda logps: expected_dpo_loss(logps, prefs), ref, budget.rounds, watch)
descent.show()
dpo_tv = tv(dpo, optimum).item()
print(f"total variation: reference to optimum {tv(ref, optimum):.3f}, DPO's minimizer to optimum {dpo_tv:.1e}")

# %% [markdown]
# The minimizer of a loss over pairs **is** the optimum of reward minus KL. It does not matter which pairs are compared
# how often, as long as every response is: here pairs of two responses drawn from the reference, so that likely ones
# meet often.

# %%
drawn = ref.exp()[:, :, None] * ref.exp()[:, None, :]  # how often a pair comes up, (P, N, N)
dpo_drawn = minimize(lambda logps: expected_dpo_loss(logps, prefs, drawn), ref, budget.rounds)
drawn_tv = tv(dpo_drawn, optimum).item()
print(f"pairs drawn from the reference: total variation to the optimum {drawn_tv:.1e}")

# %% [markdown]
# ## The reward, read off the policy
#
# $\hat r=\beta\log\frac{\pi}{\pi_\mathrm{ref}}$ of the policy just found, against the reward that it never saw: a
# straight line of slope 1 for each prompt, shifted by a constant. The constant is $-\beta\log Z(x)$.

# %%
implied = implicit_rewards(PairLogps(dpo, dpo), PairLogps(ref, ref), BETA).chosen  # (P, N)
shift = (GOLD - implied).mean(-1)  # (P,)
reward_gap = (implied + shift[:, None] - GOLD).abs().max().item()
shift_gap = (shift - BETA * log_z).abs().max().item()
run.table(
    [[p, f"{shift[i]:.6f}", f"{BETA * log_z[i]:.6f}"] for i, p in enumerate(PROMPTS)],
    ["prompt", "reward minus implicit reward", "beta log Z"],
)
fig = go.Figure()
for i, colour in enumerate(("policy", "chosen", "prompt", "kl")):
    fig.add_scatter(x=GOLD.float().numpy(), y=implied[i].float().numpy(), mode="markers", name=PROMPTS[i], marker_color=palette.MIDDLE[colour])  # fmt: skip
fig.update_layout(
    title="Implicit reward of DPO's minimizer", xaxis_title="reward", yaxis_title="beta log(policy / reference)"
)
run.figure(fig, "For each prompt the points lie on a line of slope one.")
print(f"after that shift the implicit reward is the reward to {reward_gap:.0e}")

# %% [markdown]
# ### Part by part
#
# A response is written in steps: verb, place, time. The policy's log-ratio is the sum of the steps' log-ratios, so
# every step has an implicit reward of its own. What is it? With $V^*(s)=\beta\log\sum_{y}\pi_\mathrm{ref}(y\mid
# s)\,e^{r(y)/\beta}$, the worth of a half-written response $s$, each step's share is $V^*$ after it minus $V^*$ before
# it: by how much this step changed what can be expected. Compare the policy that DPO found with this definition.

# %%
tree = ref.view(P, len(VERBS), len(PLACES), len(TIMES))  # the same table, by parts
policy_tree = dpo.view_as(tree)
gold_tree = GOLD.view(len(VERBS), len(PLACES), len(TIMES))


def step_credits(logps):
    """beta log(policy / reference) of the verb, of the place after it, of the time after both."""
    verb = logps.logsumexp((-1, -2))[..., None, None]  # (P, V, 1, 1)
    place = logps.logsumexp(-1)[..., None]  # (P, V, L, 1)
    return verb, place - verb, logps - place


credits = [BETA * (a - b) for a, b in zip(step_credits(policy_tree), step_credits(tree))]
worth_end = gold_tree.expand_as(tree)
worth_place = BETA * ((tree + gold_tree / BETA).logsumexp(-1) - tree.logsumexp(-1))[..., None]
worth_verb = BETA * ((tree + gold_tree / BETA).logsumexp((-1, -2)) - tree.logsumexp((-1, -2)))[..., None, None]
worth_start = (BETA * log_z)[:, None, None, None]
by_definition = [worth_verb - worth_start, worth_place - worth_verb, worth_end - worth_place]
credit_gap = max((a - b).abs().max().item() for a, b in zip(credits, by_definition))
credit_rows = []
for parts in (
    ("dances", "by the river", None),
    ("dances", "in the kitchen", None),
    ("sleeps", "in the kitchen", "at night"),
):
    v, w, t = VERBS.index(parts[0]), PLACES.index(parts[1]), TIMES.index(parts[2])
    shares = [credits[0][0, v, 0, 0], credits[1][0, v, w, 0], credits[2][0, v, w, t]]
    ending = scenes.Ending(*parts)
    credit_rows.append(
        [ending.text, *(f"{s:+.2f}" for s in shares), f"{sum(shares):+.2f}", f"{ending.gold - BETA * log_z[0]:+.2f}"]
    )
run.table(
    credit_rows,
    ["response", "verb", "place", "time", "sum", "reward - beta log Z"],
    caption=f"Implicit reward by step, “{PROMPTS[0]}”",
)
print(f"largest difference from V* after minus V* before: {credit_gap:.0e}")

# %% [markdown]
# ## The partition function cancels
#
# It does so in two ways, and fails to in a third.
#
# 1. **Shift the reward** by any number per prompt: the preferences do not notice, so the loss stays the same function.
#    Nor does the optimum move, for $Z$ takes the shift up.
# 2. **Leave the policy unnormalized**: put raw logits in the place of log-probabilities. The loss does not notice either.
# 3. **Compare across prompts**: two responses to *different* prompts carry two different $Z$, and what is left is
#    $\beta\,(\log Z(x_1)-\log Z(x_2))$.

# %%
constants = torch.tensor([100.0, -3.0, 0.5, 7.0], dtype=torch.float64)[:, None]
shifted_reward = GOLD + constants  # (P, N)
shift_change = (
    (expected_dpo_loss(some, preferences(shifted_reward)) - expected_dpo_loss(some, prefs)).abs().max().item()
)
optimum_change = tv((ref + shifted_reward / BETA).log_softmax(-1), optimum).item()
logit_change = (expected_dpo_loss(some + constants, prefs) - expected_dpo_loss(some, prefs)).abs().max().item()
print(
    f"reward shifted: loss changes by {shift_change:.0e}, optimum by {optimum_change:.0e}; logits shifted: {logit_change:.0e}"
)

# Two prompts, the right answer to each: equal rewards, so a fair judge is undecided. What do the implicit rewards say?
best = {q: (logp + WANTED / BETA).log_softmax(-1) for q, logp in three_ref.items()}
who, sums = (BETA * (best[q] - three_ref[q])[0].item() for q in THREE)
across, left_over = who - sums, BETA * (three_log_z["What is 17 + 25?"] - three_log_z["Who are you?"])
print(f"“I'm Lumen.” {who:.4f}, “17 + 25 = 42.” {sums:.4f}: difference {across:+.4f}, of beta log Z {left_over:+.4f}")

# %% [markdown]
# ## The gradient, pair by pair
#
# For one pair, $\partial\ell/\partial\log\pi_\theta(y_w)=-\beta\,\sigma(-\beta m)$, with the opposite sign for $y_l$.
# In a table of logits the softmax's normalizer cancels too: the pair pushes its two logits apart and touches no other.
# Check the weight against central finite differences, $[\ell(z+h)-\ell(z-h)]/2h$, at a policy halfway to the optimum.

# %%
halfway = (ref + 0.5 * (optimum - ref)).log_softmax(-1)[0]  # (N,), first prompt
H = 1e-5


def pair_loss(logits, chosen, rejected):
    logps = logits.log_softmax(-1)
    return dpo_loss(PairLogps(logps[chosen], logps[rejected]), PairLogps(ref[0, chosen], ref[0, rejected]), BETA)


def by_differences(function, point, index):
    """Central difference of function(point) along one coordinate."""
    step = torch.zeros_like(point)
    step[index] = H
    return ((function(point + step) - function(point - step)) / (2 * H)).item()


order = GOLD.argsort(descending=True)
pairs = [(order[a].item(), order[b].item()) for a, b in ((0, -1), (0, 100), (100, -1), (0, 1), (-1, 100), (-1, 0))]
rows, pair_gap = [], 0.0
for chosen, rejected in pairs:
    margin = (halfway - ref[0])[chosen] - (halfway - ref[0])[rejected]
    weight = torch.sigmoid(-BETA * margin).item()
    numeric = [by_differences(lambda z: pair_loss(z, chosen, rejected), halfway, k) for k in (chosen, rejected, 5)]  # noqa: B023
    pair_gap = max(pair_gap, abs(numeric[0] + BETA * weight), abs(numeric[1] - BETA * weight), abs(numeric[2]))
    rows.append([f"{ENDINGS[chosen].text} ({GOLD[chosen]})", f"{ENDINGS[rejected].text} ({GOLD[rejected]})", f"{margin:.2f}", f"{weight:.4f}", f"{BETA * weight:.6f}", f"{-numeric[0]:.6f}"])  # fmt: skip
run.table(
    rows,
    ["chosen (reward)", "rejected (reward)", "margin", "weight", "beta x weight", "by finite differences"],
    caption="Six pairs, halfway to the optimum",
)

# %% [markdown]
# And the whole expected loss, all logits of all prompts: autograd, the formula summed over pairs, and finite
# differences.

# %%
whole = torch.stack([halfway] * P).requires_grad_()
expected_dpo_loss(whole.log_softmax(-1), prefs).sum().backward()
gain = BETA * (whole.detach().log_softmax(-1) - ref)
weight = torch.sigmoid(-(gain[:, :, None] - gain[:, None, :])) * prefs * (1 - torch.eye(N))  # i chosen, j rejected
formula = -BETA * (weight.sum(-1) - weight.sum(-2)) / (N * (N - 1) / 2)  # (P, N)
coordinates = [(p, n) for p in range(P) for n in range(0, N, 20)]
numeric = [
    by_differences(lambda z: expected_dpo_loss(z.log_softmax(-1), prefs).sum(), whole.detach(), c) for c in coordinates
]
formula_gap = ((whole.grad - formula).abs().max() / formula.abs().max()).item()
difference_gap = (
    max(abs(value - formula[c].item()) for c, value in zip(coordinates, numeric)) / formula.abs().max().item()
)
print(
    f"relative to the largest entry: formula and autograd {formula_gap:.0e}, formula and finite differences {difference_gap:.0e}"
)

# %% [markdown]
# ## Finitely many pairs
#
# Real data are a sample. Draw $n$ pairs from the reference, label each by one throw of the Bradley-Terry coin, and fit.
# First the table: 800 numbers that know nothing of each other. Then a policy that **shares**: its logits are the
# reference's plus one number per verb, place and time, 19 numbers for all prompts and responses. A network is of the
# second kind, more or less.


# %%
def sampled_counts(pairs, seed):
    """How often response i was chosen over j in n sampled comparisons: (P, N, N)."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(P, (pairs,), generator=generator)
    one, two = torch.multinomial(ref.exp().float()[prompt], 2, generator=generator).T
    wins = torch.rand(pairs, generator=generator) < prefs[one, two]
    chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
    return torch.bincount((prompt * N + chosen) * N + rejected, minlength=P * N * N).view(P, N, N).double()


features = torch.cat(
    [
        F.one_hot(torch.tensor(column), size)
        for column, size in zip(zip(*product(range(10), range(5), range(4))), (10, 5, 4))
    ],
    -1,
).double()  # (N, 19): which verb, place and time a response has


def fit(counts, shared):
    """Log-probabilities (P, N) of the policy that minimizes the DPO loss on counted pairs, as far as L-BFGS gets."""
    chosen, rejected = counts.sum(0).nonzero().T if shared else counts.flatten(0, 1).nonzero().T
    weights = counts.sum(0)[chosen, rejected] if shared else counts.flatten(0, 1)[chosen, rejected]
    if not shared:
        rejected, chosen = chosen // N * N + rejected, chosen
    parameters = torch.zeros(features.shape[1] if shared else P * N, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=5 * budget.fits, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        gain = BETA * (
            features @ parameters if shared else parameters
        )  # beta log(policy / reference), up to a constant
        value = -(weights * F.logsigmoid(gain[chosen] - gain[rejected])).sum() / weights.sum()
        value.backward()
        return value

    optimizer.step(closure)
    change = (features @ parameters if shared else parameters.view(P, N)).detach()
    return (ref + change).log_softmax(-1)


needed = {"table": [], "shared": []}
for size in run.progress(budget.sizes, "fitting"):
    counted = [sampled_counts(size, seed) for seed in range(budget.seeds)]
    for kind in needed:
        needed[kind].append([tv(fit(counts, kind == "shared"), optimum).item() for counts in counted])

# %%
fig = go.Figure()
for kind, colour, name in (("table", "rejected", "a table, 800 numbers"), ("shared", "policy", "shared, 19 numbers")):
    means = torch.tensor(needed[kind])  # (sizes, seeds)
    fig.add_scatter(
        x=torch.tensor(budget.sizes).float().numpy(), y=means.mean(-1).numpy(), name=name, line_color=palette.MIDDLE[colour],
        error_y=dict(type="data", symmetric=False, array=(means.max(-1).values - means.mean(-1)).numpy(), arrayminus=(means.mean(-1) - means.min(-1).values).numpy()),
    )  # fmt: skip
fig.add_hline(y=tv(ref, optimum).item(), line_dash="dash", line_color=palette.MIDDLE["reference"])
fig.update_layout(
    title="How many pairs does it take?",
    xaxis_title="pairs",
    xaxis_type="log",
    yaxis_title="total variation to the optimum",
)
run.figure(
    fig,
    "The shared policy beats the reference with a hundred pairs; the table needs a hundred thousand. The dashed line is the reference.",
)

# %% [markdown]
# The dashed line is the untrained reference. Up to ten thousand pairs the table ends up *farther* from the optimum than
# where it began. It is no bug of the optimizer: a response that won its only comparison has infinite reward as far as
# the data know, and the fit gives it all the probability it can. A policy whose responses share their parts has seen
# every verb many times before it has seen every response once.
#
# ## When Bradley-Terry is wrong
#
# Three responses, of which A beats B, B beats C, and C beats A, each 90 times in 100: rock, paper, scissors. No reward
# has $r_A>r_B>r_C>r_A$. What does DPO do?

# %%
RPS = [
    ENDINGS.index(scenes.Ending(*parts))
    for parts in (("sings", "in the garden"), ("plays", "by the river"), ("dances", "under the tree"))
]
rps_ref = ref[0, RPS].log_softmax(-1)  # (3,)
circle = torch.tensor([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)  # A over B, B over C, C over A


def circular_loss(logps, prefs, compared):
    """DPO loss of three responses; compared: how often each pair comes up, (3, 3), symmetric."""
    gain = BETA * (logps - rps_ref)
    weights = prefs * compared * (1 - torch.eye(3))
    return (weights * -F.logsigmoid(gain[:, None] - gain[None, :])).sum() / weights.sum()


def entropy_floor(prefs, compared):
    """The loss of somebody who knows every preference: the labels' own entropy, in nats per comparison."""
    weights = prefs * compared * (1 - torch.eye(3))
    return ((weights * -prefs.log()).sum() / weights.sum()).item()


evenly = torch.ones(3, 3, dtype=torch.float64)
rps_prefs = torch.sigmoid(circle * math.log(9))
rps_policy = minimize(
    lambda logps: circular_loss(logps, rps_prefs, evenly), rps_ref + torch.tensor([2.0, 0.0, -1.0]), 20
)
rps_loss = circular_loss(rps_policy, rps_prefs, evenly).item()
rps_floor = entropy_floor(rps_prefs, evenly)
rps_gain = BETA * (rps_policy - rps_ref)
rps_says = torch.sigmoid(rps_gain[:, None] - rps_gain[None, :])
rps_residual = (rps_says - rps_prefs).abs().max().item()
names = ["A " + ENDINGS[RPS[0]].text, "B " + ENDINGS[RPS[1]].text, "C " + ENDINGS[RPS[2]].text]
run.table(
    [[f"{names[i][0]} over {names[j][0]}", f"{rps_prefs[i, j]:.0%}", f"{rps_says[i, j]:.0%}"] for i, j in ((0, 1), (1, 2), (2, 0))],
    ["pair", "preferred", "as DPO's policy has it"],
    caption=", ".join(names),
)  # fmt: skip
print(
    f"loss {rps_loss:.4f} = log 2; who knew the preferences would have {rps_floor:.4f}. Policy = reference to {tv(rps_policy[None], rps_ref[None]):.0e}"
)

# %% [markdown]
# The minimum is the reference, and the loss never leaves $\log 2$: every preference is strong, and the sum of what a
# reward can represent is nothing. Mix a circle into preferences that do come from a reward, and the loss stays above
# the entropy of the labels by what the reward cannot say. This gap is what to look for: **a training loss that stalls
# above the noise of the labels.**

# %%
strengths = torch.linspace(0, 3, 13, dtype=torch.float64)
excess = []
for strength in strengths:
    mixed = torch.sigmoid((GOLD[[0, 60, 199]][:, None] - GOLD[[0, 60, 199]][None, :]) + strength * circle)
    best_fit = minimize(lambda logps: circular_loss(logps, mixed, evenly), rps_ref, 10)  # noqa: B023
    excess.append(circular_loss(best_fit, mixed, evenly).item() - entropy_floor(mixed, evenly))
fig = go.Figure(
    go.Scatter(x=strengths.float().numpy(), y=torch.tensor(excess).numpy(), line_color=palette.MIDDLE["rejected"])
)
fig.update_layout(
    title="What no reward can represent",
    xaxis_title="strength of the circle (log-odds)",
    yaxis_title="loss above the labels' entropy (nats)",
)
run.figure(fig, "Zero where preferences come from a reward, rising with the strength of the circle.")

# %% [markdown]
# Something else breaks too. With Bradley-Terry preferences it did not matter how often a pair was compared. Now it
# decides who wins: the same preferences, but one pair compared ten times as often as the other two.

# %%
rows, winners = [], []
for i, j in ((0, 1), (1, 2), (2, 0)):
    often = evenly.clone()
    often[i, j] = often[j, i] = 10
    uneven = minimize(lambda logps: circular_loss(logps, rps_prefs, often), rps_ref, 20)  # noqa: B023
    gain = BETA * (uneven - rps_ref)
    winners.append(gain.argmax().item())
    rows.append(
        [f"{'ABC'[i]} against {'ABC'[j]}", *(f"{value:+.2f}" for value in gain - gain.mean()), "ABC"[winners[-1]]]
    )
run.table(
    rows,
    ["compared ten times as often", "reward of A", "of B", "of C", "the best"],
    caption="The same preferences, three data sets",
)

# %% [markdown]
# ## When a response is never compared
#
# Take one response out of all pairs. The loss then says nothing about it: its probability against the others is what
# the start made it. Here the same loss is minimized from two starts, which differ in that response alone.

# %%
LEFT_OUT = int((ref[0].exp() * (GOLD <= 0.5)).argmax())  # the likeliest of the bad responses
covered = torch.ones(N, N, dtype=torch.float64)
covered[LEFT_OUT] = covered[:, LEFT_OUT] = 0
lifted = ref.clone()
lifted[:, LEFT_OUT] += 3.0
unseen = [
    minimize(lambda logps: expected_dpo_loss(logps, prefs, covered), start, budget.rounds) for start in (ref, lifted)
]
unseen_loss = (
    (expected_dpo_loss(unseen[0], prefs, covered) - expected_dpo_loss(unseen[1], prefs, covered)).abs().max().item()
)
shares = [optimum.exp()[:, LEFT_OUT].mean().item(), *(logps.exp()[:, LEFT_OUT].mean().item() for logps in unseen)]
unseen_tv = [tv(logps, optimum).item() for logps in unseen]
run.table(
    [["the optimum", f"{shares[0]:.2%}", ""], ["minimizer, from the reference", f"{shares[1]:.2%}", f"{unseen_tv[0]:.3f}"], ["minimizer, from another start", f"{shares[2]:.2%}", f"{unseen_tv[1]:.3f}"]],
    ["policy", f"probability of “{ENDINGS[LEFT_OUT].text.strip()}”", "total variation to the optimum"],
    caption=f"A response that no pair mentions, of reward {GOLD[LEFT_OUT]:g}",
)  # fmt: skip
print(f"their losses differ by {unseen_loss:.0e}")

# %% [markdown]
# ## When the better response always wins
#
# Bradley-Terry's coin is noisy: even the best response loses to the worst one time in 13. Replace it by a judge who
# *always* prefers the response with the higher reward. It sounds like better data. But a probability of 1 needs an
# infinite difference of rewards, so the loss has no minimum; it falls for ever.

# %%
always = (GOLD[:, None] > GOLD[None, :]).double() + 0.5 * (GOLD[:, None] == GOLD[None, :])
track = {}
for beta in (0.5, 2.0):
    target = (ref + GOLD / beta).log_softmax(-1)
    table = ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.05)
    track[beta] = []
    for step in run.progress(budget.steps, f"deterministic labels, beta = {beta}"):
        logps = table.log_softmax(-1)
        loss = expected_dpo_loss(logps, always, beta=beta).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) & step == 0 or step + 1 in (3, 6, 12, 24, 48, 96, 192, 384, budget.steps):
            now = table.detach().log_softmax(-1)
            gain = beta * (now - ref)
            spread = (gain.max(-1).values - gain.min(-1).values).mean().item()
            worst = now[:, GOLD == 0].logsumexp(-1).mean().item()
            track[beta].append(
                (step + 1, tv(now, target).item(), spread, kl(now, ref).mean().item(), worst, loss.item() / P)
            )

# %%
fig = go.Figure()
for beta, colour in ((0.5, "policy"), (2.0, "value")):
    steps, distance, spread = (torch.tensor([entry[k] for entry in track[beta]]).float().numpy() for k in (0, 1, 2))
    fig.add_scatter(x=steps, y=distance, name=f"beta = {beta}", line_color=palette.MIDDLE[colour])
fig.update_layout(
    title="A judge without noise: distance to the optimum",
    xaxis_title="step",
    xaxis_type="log",
    yaxis_title="total variation to the optimum",
)
run.figure(fig, "The distance falls, then rises again, for both values of beta.")
run.table(
    [[f"{beta}", f"{step:,}", f"{loss:.3f}", f"{distance:.3f}", f"{spread:.1f}", f"{divergence:.2f}", f"{worst:.0f}"] for beta in track for step, distance, spread, divergence, worst, loss in track[beta][:: max(1, len(track[beta]) // 5)] + track[beta][-1:]],
    ["beta", "step", "loss", "TV to optimum", "implicit reward, best - worst", "KL (nats)", "log-prob. of reward 0"],
)  # fmt: skip
turn = {beta: min(entries, key=lambda entry: entry[1]) for beta, entries in track.items()}
end = {beta: entries[-1] for beta, entries in track.items()}

# %% [markdown]
# The policy passes near the optimum and goes on. The responses of the lowest reward head for probability 0, the
# implicit reward grows without bound, and $\beta$, which was to hold the policy back, only sets how fast. What stops
# real runs is that they stop: few epochs, a small learning rate. IPO changes the loss so that a minimum exists.
#
# ## As one would at work
#
# trl's `DPOTrainer` on `tiny` itself: real pairs, sampled and labelled, the whole network trained. No table, no
# enumeration; only at the end we look up where its 200 probabilities went. First its loss on one batch against ours.

# %%
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

tokenizer.eos_token = scenes.END  # trl ends every answer with this token; a scene ends so, not with tiny's <|im_end|>
counts = sampled_counts(budget.trl_pairs, seed=0).nonzero()
rows = [{"prompt": PROMPTS[p], "chosen": ENDINGS[i].text, "rejected": ENDINGS[j].text} for p, i, j in counts.tolist()]
config = DPOConfig(
    output_dir=tempfile.mkdtemp(), beta=BETA, learning_rate=3e-4, per_device_train_batch_size=32, num_train_epochs=2,
    report_to="none", logging_steps=2, save_strategy="no", gradient_checkpointing=False, bf16=False, disable_tqdm=True,
    use_cpu=device.type == "cpu", seed=0,
)  # fmt: skip
trained = copy.deepcopy(tiny)
trainer = DPOTrainer(
    trained,
    ref_model=copy.deepcopy(tiny),
    args=config,
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
)
trainer.remove_callback(PrinterCallback)

# %%
inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(16)])
inputs = {key: value.to(device) if torch.is_tensor(value) else value for key, value in inputs.items()}
with torch.no_grad():
    for parameter in trainer.model.parameters():  # move away from the reference, or every margin is 0
        parameter.mul_(1.02)
    theirs = trainer.compute_loss(trainer.model, inputs).item()
    batch = text.pad(
        [scenes.encode(tokenizer, row["prompt"], row[side]) for side in ("chosen", "rejected") for row in rows[:16]],
        tokenizer.pad_token_id,
    ).to(device)
    mine = PairLogps(*logprobs.sequence_logprobs(trainer.model, *batch).chunk(2))
    frozen = PairLogps(*logprobs.sequence_logprobs(tiny, *batch).chunk(2))
    ours = dpo_loss(mine, frozen, BETA).mean().item()
    for parameter, kept in zip(trainer.model.parameters(), tiny.parameters()):
        parameter.copy_(kept)
trl_gap = abs(theirs - ours)
print(f"loss on one batch: trl {theirs:.6f}, ours {ours:.6f}")

# %%
trainer.train()
trl_curve = run.curve("trl trains tiny", y="DPO loss (nats)", lines={"loss": "policy", "the optimum": "reward"})
for entry in trainer.state.log_history:
    if "loss" in entry:
        trl_curve.add("loss", entry["step"], entry["loss"])
lowest = (expected_dpo_loss(optimum, prefs, drawn)).mean().item()  # the optimum's loss on pairs drawn as these are
for step in (1, trainer.state.global_step):
    trl_curve.add("the optimum", step, lowest)
trl_curve.show()
trl_raw = ending_logprobs(trained.eval())
trl_logps = trl_raw.log_softmax(-1)
trl_tv = tv(trl_logps, optimum).item()
names_of = {"reference": ref, "trl on tiny": trl_logps, "optimum": optimum}
run.table(
    [[name, f"{tv(logps, optimum):.3f}", f"{(logps.exp() * GOLD).sum(-1).mean():.2f}", f"{kl(logps, ref).mean():.2f}", f"{objective(logps).mean():.3f}"] for name, logps in names_of.items()],
    ["policy", "TV to the optimum", "expected reward", "KL (nats)", "J"],
    caption=f"{len(rows):,} sampled pairs, two epochs; policies over the {N} responses",
)  # fmt: skip
print(
    f"tiny's probability on the {N} endings: {raw.exp().sum(-1).mean():.1%} before, {trl_raw.exp().sum(-1).mean():.1%} after"
)

# %% [markdown]
# A network with 0.9 million parameters, trained on pairs alone, comes most of the way to a distribution that nobody
# showed it. It does not come all the way: the pairs are few and noisy, and nothing says where to stop. Note the last
# line. The loss compares the 200 responses among themselves, so the probability of all of them together is not its
# business.
#
# ## What this run measured

# %%
for key, question, short in (
    ("who", "Who are you?", ("lumen", "smollm", "help")),
    ("sum", "What is 17 + 25?", ("42", "32", "52")),
):
    probability = three_ref[question].exp()
    for i, answer in enumerate(short):
        run.result(f"{key}_{answer}_ref", probability[i], format=".5f")
        for beta in BETAS:
            tag, weight = f"{beta:g}".replace(".", ""), probability * (WANTED / beta).exp()
            run.result(f"{key}_{answer}_weight_{tag}", weight[i], format=".4f")
            run.result(f"{key}_{answer}_optimum_{tag}", (weight / weight.sum())[i], format=".2%")
    for beta in BETAS:
        run.result(f"{key}_z_{beta:g}".replace(".", ""), (probability * (WANTED / beta).exp()).sum(), format=".4f")
    run.result(f"{key}_half_beta", half_beta[question], format=".3f")
    run.result(f"{key}_odds", (1 - probability[0]) / probability[0], format=",.0f")
run.result("prompts", P)
run.result("responses", N)
run.result("pairs_each", len(first), format=",")
run.result("beta", BETA)
run.result("prompt", None, PROMPTS[0])
run.result("kept_share", raw.exp().sum(-1).mean(), format=".0%")
for level in levels:
    tag = f"{level:.1f}".replace(".", "")
    run.result(f"level_{tag}_ref", ref[0].exp()[level == GOLD].sum(), format=".4f")
    run.result(f"level_{tag}_tilted", tilted[0].exp()[level == GOLD].sum(), format=".3f")
    run.result(f"level_{tag}_optimum", optimum[0].exp()[level == GOLD].sum(), format=".3f")
run.result("z", log_z[0].exp(), format=".2f")
run.result("log_z", log_z[0], format=".4f")
run.result("beta_log_z", BETA * log_z[0], format=".4f")
run.result("reward_ref", (ref.exp() * GOLD).sum(-1)[0], format=".4f")
run.result("reward_optimum", (optimum.exp() * GOLD).sum(-1)[0], format=".4f")
run.result("kl_optimum", kl(optimum, ref)[0], format=".4f")
run.result("j_ref", objective(ref)[0], format=".4f")
run.result("j_optimum", objective(optimum)[0], format=".4f")
run.result("rivals", 2 * share + 9, format=",")
run.result("identity_gap", identity_gap, format=".0e")
run.result("ascent_tv", ascent_tv, format=".0e")
run.result("start_tv", tv(ref, optimum), format=".2f")
run.result("dpo_tv", dpo_tv, format=".0e")
run.result("drawn_tv", drawn_tv, format=".0e")
run.result("loss_start", at_start.mean(), format=".4f")
run.result("loss_least", floor.mean(), format=".4f")
run.result("library_gap", library_gap, format=".0e")
run.result("reward_gap", reward_gap, format=".0e")
run.result("shift", shift[0], format=".4f")
for row, tag in zip(credit_rows, ("best", "indoors", "worst")):
    run.result(f"credit_{tag}_response", None, row[0].strip())
    for part, value in zip(("verb", "place", "time", "sum"), row[1:]):
        run.result(f"credit_{tag}_{part}", float(value), format="+.2f")
run.result("credit_gap", credit_gap, format=".0e")
run.result("across_who", who, format=".4f")
run.result("across_sum", sums, format=".4f")
run.result("across", across, format="+.4f")
run.result("pair_gap", pair_gap, format=".0e")
run.result("gradient_gap", difference_gap, format=".0e")
for kind, values in needed.items():
    for tag, k in (("few", 0), ("many", -1)):
        run.result(f"{kind}_{tag}_tv", sum(values[k]) / len(values[k]), format=".2f")
    thousand = min(range(len(budget.sizes)), key=lambda k: abs(math.log(budget.sizes[k] / 1000)))
    run.result(f"{kind}_thousand_tv", sum(values[thousand]) / len(values[thousand]), format=".2f")
run.result("pairs_few", budget.sizes[0], format=",")
run.result("pairs_many", budget.sizes[-1], format=",")
run.result("circle_loss", rps_loss, format=".4f")
run.result("circle_floor", rps_floor, format=".4f")
run.result("circle_residual", rps_residual, format=".0%")
run.result("circle_strongest_excess", excess[-1], format=".2f")
run.result("unseen_response", None, ENDINGS[LEFT_OUT].text.strip())
for tag, value in zip(("optimum", "from_reference", "from_elsewhere"), shares):
    run.result(f"unseen_{tag}", value, format=".2%")
for beta, tag in ((0.5, "05"), (2.0, "20")):
    run.result(f"always_{tag}_nearest_tv", turn[beta][1], format=".2f")
    run.result(f"always_{tag}_nearest_step", turn[beta][0])
    run.result(f"always_{tag}_end_tv", end[beta][1], format=".2f")
    run.result(f"always_{tag}_spread", end[beta][2], format=".1f")
    run.result(f"always_{tag}_worst", end[beta][4], format=".0f")
run.result("always_steps", budget.steps, format=",")
run.result("trl_gap", trl_gap, format=".0e")
run.result("trl_pairs", len(rows), format=",")
run.result("trl_tv", trl_tv, format=".2f")
run.result("trl_mass_before", raw.exp().sum(-1).mean(), format=".1%")
run.result("trl_mass_after", trl_raw.exp().sum(-1).mean(), format=".1%")

# %%
table_few, table_many = (sum(needed["table"][k]) / budget.seeds for k in (0, -1))
shared_few, shared_many = (sum(needed["shared"][k]) / budget.seeds for k in (0, -1))
reference_tv = tv(ref, optimum).item()
run.claim("none of the rivals beats the closed form", advantage < 0)
run.claim("J = beta log Z - beta KL(pi || pi*) to 1e-9 for all of them", identity_gap < 1e-9)
run.claim("gradient ascent ends at the optimum, and never above it", ascent_tv < 1e-2 and ascent_excess < 1e-9)
run.claim("the expected loss is the library's dpo_loss, summed, to 1e-12", library_gap < 1e-12)
run.claim("DPO's minimizer is the optimum: total variation below 1e-3", dpo_tv < 1e-3)
run.claim("so it is where pairs are drawn from the reference", drawn_tv < 1e-3)
run.claim("the implicit reward is the reward up to a constant per prompt, to 1e-5", reward_gap < 1e-5)
run.claim("the constant is beta log Z, to 1e-5", shift_gap < 1e-5)
run.claim("each step's implicit reward is the change of V*, to 1e-5", credit_gap < 1e-5)
run.claim(
    "a shift of the reward per prompt changes neither loss nor optimum", shift_change < 1e-12 and optimum_change < 1e-12
)
run.claim("a shift of the logits per prompt does not change the loss", logit_change < 1e-12)
run.claim(
    "across prompts the difference of beta log Z is left over", abs(across - left_over) < 1e-9 and abs(across) > 1e-2
)
run.claim("a pair's gradient is its weight, by finite differences to 1e-8, and 0 elsewhere", pair_gap < 1e-8)
run.claim(
    "the whole gradient agrees with finite differences to one part in 100,000",
    difference_gap < 1e-5 and formula_gap < 1e-10,
)
table_means = [sum(values) / len(values) for values in needed["table"]]
run.claim(
    "up to ten thousand pairs the table ends farther from the optimum than the reference",
    all(value > reference_tv for size, value in zip(budget.sizes, table_means) if size <= 10_000),
)
run.claim("with many pairs both come closer", table_many < table_few and shared_many < shared_few)
run.claim(
    "the shared policy comes closer than the table, with few and with many pairs",
    shared_few < table_few and shared_many < table_many,
)
run.claim(
    "on circular preferences DPO stays at log 2 and at the reference",
    abs(rps_loss - math.log(2)) < 1e-6 and rps_residual > 0.39,
)
run.claim(
    "the excess loss is 0 without a circle and grows with it",
    abs(excess[0]) < 1e-6 and all(a < b for a, b in pairwise(excess)),
)
run.claim("with circular preferences the most compared pair decides who is best", winners == [0, 1, 2])
run.claim(
    "two minimizers of one loss differ in what was not compared",
    unseen_loss < 1e-6 and abs(shares[1] - shares[2]) > 0.05,
)
run.claim(
    "deterministic labels: both betas pass the optimum and leave it", all(end[b][1] > turn[b][1] + 0.1 for b in turn)
)
run.claim(
    "deterministic labels: the implicit reward outgrows the largest gap of the true one",
    all(end[b][2] > 2 * 2.5 for b in end),
)
run.claim("trl's loss equals ours to 1e-5", trl_gap < 1e-5)
run.claim("trl on tiny goes at least half of the way to the optimum", trl_tv < reference_tv / 2)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. The optimum** (difficulty 1, 5 minutes). Reference probabilities (N,), rewards (N,) and $\beta$ to the
# probabilities (N,) of the policy that maximizes reward minus $\beta$ KL.


# %%
def my_optimal_policy(reference, reward, beta): ...


check("dpo_derivation.optimal_policy", my_optimal_policy)

# %% [markdown]
# **2. How small must beta be?** (difficulty 2, 6 minutes). The reference gives the right answer to "What is 17 + 25?"
# probability `p`, and a verifier pays 1 for it and 0 for all others. Return the $\beta$ at which the optimum gives the
# right answer probability `target`.


# %%
def my_beta_for(p, target): ...


check("dpo_derivation.beta_for", my_beta_for)

# %% [markdown]
# **3. The reward from the policy** (difficulty 2, 8 minutes). Log-probabilities (N,) of a policy that DPO has trained
# to the end, and of its reference, and $\beta$. The reward of response 0 is known to be `anchor`. Return the rewards of
# all responses, (N,).


# %%
def my_recover_reward(policy, reference, beta, anchor): ...


check("dpo_derivation.recover_reward", my_recover_reward)

# %% [markdown]
# **4. The expected loss** (difficulty 3, 12 minutes). Log-probabilities (N,) of policy and reference, and `prefs` (N,
# N), where `prefs[i, j]` is the probability that response i is preferred to j. Return the mean DPO loss over all pairs
# of distinct responses, one number. Each pair counts with both of its possible labels.


# %%
def my_expected_loss(policy, reference, prefs, beta): ...


check("dpo_derivation.expected_loss", my_expected_loss)

# %% [markdown]
# **5. Rankings** (difficulty 3, 10 minutes). A person ranks $K$ responses. Under the Plackett-Luce model the first
# place goes to response $k$ with probability $e^{r_k}/\sum_j e^{r_j}$, the second by the same rule among those left,
# and so on. Return the DPO loss of a ranking: `gains` (K,) are $\log\frac{\pi_\theta}{\pi_\mathrm{ref}}$ of the
# responses, best first. For $K=2$ it is the loss you know.


# %%
def my_ranking_loss(gains, beta): ...


check("dpo_derivation.ranking_loss", my_ranking_loss)
