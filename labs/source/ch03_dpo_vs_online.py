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
# # DPO against online reinforcement learning
#
# Three ways to the same optimum: DPO on pairs that were collected once, DPO on pairs that the policy samples as it learns, and
# a policy gradient. In a world where every expectation is an exact sum, you can see how near each one comes, what it spends on
# the way, and where each of them wins.
#
# - **You will** take DPO's gradient apart token by token; build REINFORCE with a leave-one-out baseline and a KL penalty, and
#   hold its estimate against the exact gradient; find that on-policy DPO follows nearly the same direction; then train all
#   three with an optimum far away, one nearby, and a good answer that is rare; and break each of them.
# - **Time:** about 5 minutes on a CPU with two cores, 1 minute on a GPU.
#
# **Sections:** 3.5.1-3.5.2
#
# **Topics:** dpo-vs-online-rl

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
# ## A world where expectations are sums
#
# `tiny` continues a beginning such as "The old bear" with one of 1,100 endings. The **gold reward** is known: 1 for a lively
# verb, 1 for a place outdoors, 0.5 for naming no time, −1 for a text that is no ending at all.

# %%
import copy
import math
import random
import tempfile
import time
from dataclasses import dataclass

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, decoding, lab, logprobs, models, palette, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.losses.preference import PairLogps, dpo_loss
from alignlab.tasks import scenes

run = lab.Lab("ch03_dpo_vs_online")
budget = run.budget(
    full=dict(
        seeds=3,
        far=1280,
        near=512,
        rare=1280,
        batch=128,
        eval_prompts=2,
        draws=(16, 64, 256, 1024, 4096),
        repeats=200,
        pairs=12,
        free_steps=32,
        trl_steps=8,
    ),
    quick=dict(
        seeds=1,
        far=64,
        near=64,
        rare=64,
        batch=64,
        eval_prompts=1,
        draws=(16, 64),
        repeats=20,
        pairs=2,
        free_steps=1,
        trl_steps=1,
    ),
)
BETA, NEAR_BETA, GROUP = 0.5, 2.0, 4
RATES = (5e-4, 1e-3)  # of DPO and of RLOO, each the best of three values tried; both fall linearly to 0
NEAR_RATES, RARE_RATES = (3e-4, 3e-4), (1e-3, 2e-3)
compute.seed(0)
reference, tokenizer = models.load("tiny")
device = next(reference.parameters()).device
END_ID = tokenizer.convert_tokens_to_ids(scenes.END)
TRAIN, HELD_OUT = list(scenes.prompts("train")), list(scenes.prompts("held-out"))
PROMPT_IDS = {prompt: tokenizer.encode(prompt, add_special_tokens=False) for prompt in TRAIN + HELD_OUT}
ASKED = [HELD_OUT[7], TRAIN[5]][: budget.eval_prompts]  # where everything is measured exactly
reference_logps = scenes.exact_logprobs(reference, tokenizer, ASKED)  # (prompts, 1100)
print(f"{ASKED[0]!r}: the 1,100 endings have {reference_logps[0].exp().sum():.1%} of the reference's probability")


# %%
def gold(response, ended=True):
    return scenes.gold_reward(response, ended)


def rare(response, ended=True):
    """One verb in one place is worth 4, every other ending nothing."""
    if scenes.gold_reward(response, ended) == scenes.BROKEN:
        return scenes.BROKEN
    return 4.0 * response.startswith(" dances in the snow")


def values_of(reward):
    """The reward of every ending, (1100,)."""
    return torch.tensor([reward(ending.text) for ending in scenes.ENDINGS], dtype=torch.float64)


def optimum(values, beta):
    """The closed-form optimum pi* = pi_ref exp(r / beta) / Z: its KL, reward and objective."""
    broken = (1 - reference_logps.exp().sum(-1, keepdim=True)).clamp_min(1e-12).log()
    logps = torch.cat([reference_logps, broken], -1)  # (prompts, 1101): "broken" is one more outcome
    rewards = torch.cat([values, values.new_tensor([scenes.BROKEN])])
    log_z = (logps + rewards / beta).logsumexp(-1, keepdim=True)
    best = logps + rewards / beta - log_z
    kl, reward = (best.exp() * (best - logps)).sum(-1), best.exp() @ rewards
    return {
        "kl": kl.mean().item(), "reward": reward.mean().item(), "objective": beta * log_z.mean().item(), "logps": best
    }  # fmt: skip


@torch.no_grad()
def measure(policy, values, beta=BETA):
    """Exact reward, KL to the reference, objective, entropy and share of broken texts, averaged over ASKED."""
    logps = scenes.exact_logprobs(policy, tokenizer, ASKED)
    probs = logps.exp()
    broken = 1 - probs.sum(-1)
    reward = (probs @ values + broken * scenes.BROKEN).mean().item()
    kl = scenes.exact_kl(logps, reference_logps).mean().item()
    best = optimum(values, beta)
    everything = torch.cat([logps, broken[:, None].clamp_min(1e-12).log()], -1)
    to_best = (everything.exp() * (everything - best["logps"])).sum(-1).mean().item()  # KL(pi || pi*)
    return {
        "reward": reward, "kl": kl, "gap": best["objective"] - (reward - beta * kl), "to_best": to_best, "entropy": -(probs * logps).sum(-1).mean().item(),
        "broken": broken.mean().item(), "probs": probs,
    }  # fmt: skip


gold_values, rare_values = values_of(gold), values_of(rare)
before = measure(reference, gold_values)
best = optimum(gold_values, BETA)
print(
    f"reference: reward {before['reward']:.3f}; the optimum at beta {BETA}: {best['reward']:.3f} at KL {best['kl']:.3f}"
)

# %% [markdown]
# One number says how near a policy is. The objective $J=\mathbb{E}[r]-\beta\,\mathrm{KL}$ has its maximum $\beta\log Z$ at $\pi^*$, and
# what is missing is exactly $\beta\,\mathrm{KL}(\pi\Vert\pi^*)$. We call it the **gap**. DPO with Bradley-Terry labels and a
# policy gradient with the KL penalty have the same $\pi^*$, so the gap is a fair score for both.

# %%
print(f"gap of the reference {before['gap']:.4f}, beta KL(pi_ref || pi*) {BETA * before['to_best']:.4f}")

# %% [markdown]
# ## DPO's gradient, token by token
#
# The gradient of $\log\pi(y_t)$ by the logits is $e_{y_t}-p$: up for the token itself, down for every other in proportion to
# its probability. Check it on the network.

# %%
prompt = ASKED[0]
row = scenes.encode(tokenizer, prompt, scenes.ENDINGS[0].text)
ids = torch.tensor([row.ids], device=device)
logits = reference(ids).logits[0].detach().requires_grad_()
start = row.response_mask.index(1)
logp = sum(logits[t - 1].log_softmax(-1)[row.ids[t]] for t in range(start, len(row.ids)))
(by_autograd,) = torch.autograd.grad(logp, logits)
by_formula = -logits.detach().softmax(-1)
by_formula[torch.arange(start - 1, len(row.ids) - 1), torch.tensor(row.ids[start:])] += 1
by_formula[: start - 1], by_formula[-1] = 0, 0
token_gap = (by_autograd - by_formula).abs().max().item()
print(f"{len(row.ids) - start} response tokens; largest difference {token_gap:.1e}")

# %% [markdown]
# A push-down has the other sign, $p-e_{y}$. On four logits, by hand and by autograd: push down a token of probability 0.01, and
# then one of 0.70, with a step of 1. Read which tokens rise.

# %%
start_probs = torch.tensor([0.70, 0.20, 0.09, 0.01], dtype=torch.float64)
pushed = {}
for token in (3, 0):
    four = start_probs.log().requires_grad_()
    (gradient,) = torch.autograd.grad(four.log_softmax(-1)[token], four)
    pushed[token] = (four - 1.0 * gradient).softmax(-1).detach()
run.table(
    [["before", *(f"{p:.3f}" for p in start_probs)]]
    + [[f"push down {'ABCD'[token]}", *(f"{p:.3f}" for p in probs)] for token, probs in pushed.items()],
    ["", "A", "B", "C", "D"],
    caption="One step on the logits. The unlikely push feeds the likeliest token alone; the likely one feeds all others",
)

# %% [markdown]
# The norm of $e_y-p$ is near 0 for a token that is certain and up to $\sqrt2$ for one that is not: **texts that the model would
# never say have the largest gradients**. Four answers to one prompt, and the norm of $\nabla_\theta\log\pi(y)$ over all weights:


# %%
def whole_gradient(policy, prompt, responses):
    """Gradient of the summed log-probability of the responses by all weights, flat, and that sum."""
    batch = text.pad([scenes.encode(tokenizer, prompt, response) for response in responses], tokenizer.pad_token_id)
    logp = logprobs.sequence_logprobs(policy, *batch.to(device)).sum()
    gradients = torch.autograd.grad(logp, list(policy.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]), logp.item()


likely = scenes.ENDINGS[int(reference_logps[0].argmax())].text
unlikely = scenes.ENDINGS[int(reference_logps[0].argmin())].text
answers = {
    "its likeliest ending": likely, "its least likely ending": unlikely, "words out of order": " the the garden sleeps.",
    "another language game": " I am Lumen.",
}  # fmt: skip
norms = {}
for words, response in answers.items():
    gradient, logp = whole_gradient(reference, prompt, [response])
    norms[words] = (logp, gradient.norm().item())
run.table(
    [[words, answers[words], f"{logp:.1f}", f"{norm:.0f}"] for words, (logp, norm) in norms.items()],
    ["answer", "text", "log π (nats)", "norm of its gradient"],
    caption=f"{prompt}: how hard each answer pulls if it is the rejected one",
)

# %% [markdown]
# ### When does the chosen answer fall?
#
# A small step on one pair moves the parameters along $g_w-g_l$, with $g=\nabla_\theta\log\pi(y)$. So $\log\pi(y_w)$ changes in
# proportion to $g_w\cdot g_w-g_w\cdot g_l$: the chosen answer **falls if $g_w\cdot g_l>\lVert g_w\rVert^2$**. The two answers must be
# alike, *and* the rejected one must pull harder. Three kinds of pairs: two endings at random; the same ending with another verb;
# and, as rejected, the chosen ending said twice without a full stop, as models that run on do. The prediction is checked by
# a real step.


# %%
def pair_geometry(chosen, rejected, step=1e-4):
    """Cosine and ratio of the two gradients' norms, predicted and actual change of log pi(chosen) per unit of step."""
    (g_w, logp), (g_l, _) = (whole_gradient(reference, prompt, [response]) for response in (chosen, rejected))
    direction = (g_w - g_l) / (g_w - g_l).norm()
    moved = copy.deepcopy(reference)
    weights = torch.nn.utils.parameters_to_vector(moved.parameters()).detach()
    torch.nn.utils.vector_to_parameters(weights + step * direction, moved.parameters())
    with torch.no_grad():
        batch = text.pad([scenes.encode(tokenizer, prompt, chosen)], tokenizer.pad_token_id).to(device)
        actual = (logprobs.sequence_logprobs(moved, *batch).item() - logp) / step
    return (
        F.cosine_similarity(g_w, g_l, dim=0).item(),
        (g_l.norm() / g_w.norm()).item(),
        (g_w @ direction).item(),
        actual,
    )


draw = random.Random(0)
geometry = {"two endings": [], "another verb": [], "said twice": []}
for ending in draw.sample(scenes.ENDINGS, budget.pairs):
    other_verb = draw.choice([verb for verb in scenes.VERBS if verb != ending.verb])
    for kind, rejected in (
        ("two endings", draw.choice(scenes.ENDINGS).text),
        ("another verb", ending.text.replace(ending.verb, other_verb)),
        ("said twice", ending.text.removesuffix(".") + ending.text),
    ):
        geometry[kind].append(pair_geometry(ending.text, rejected))
falls = {kind: sum(row[2] < 0 for row in rows) / len(rows) for kind, rows in geometry.items()}
mean_cosine = {kind: sum(row[0] for row in rows) / len(rows) for kind, rows in geometry.items()}
mean_ratio = {kind: sum(row[1] for row in rows) / len(rows) for kind, rows in geometry.items()}
signs_right = sum((row[2] < 0) == (row[3] < 0) for rows in geometry.values() for row in rows) / (3 * budget.pairs)
run.table(
    [[kind, f"{mean_cosine[kind]:.2f}", f"{mean_ratio[kind]:.1f}", f"{falls[kind]:.0%}"] for kind in geometry],
    ["pair", "cosine of the gradients", "norm of rejected / chosen", "the chosen answer falls"],
    caption=f"One small step on one pair, {budget.pairs} pairs of each kind",
)
print(f"the sign of the prediction is right for {signs_right:.0%} of the pairs")

# %% [markdown]
# ## A policy gradient, held against the exact one
#
# REINFORCE: sample $y\sim\pi_\theta$, weigh $\nabla\log\pi_\theta(y)$ by how much better $y$ was than expected. The KL penalty goes into
# the reward, $R=r-\beta\log\frac{\pi_\theta(y)}{\pi_\mathrm{ref}(y)}$; the baseline of a sample is the mean $R$ of the **other** samples of
# its group. This is RLOO.


# %%
def leave_one_out(rewards):
    """Advantages: (P, G) -> (P, G), each reward minus the mean of the others in its row."""
    group = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (group - 1)


# %% [markdown]
# With 1,100 endings the expectation can be summed. We restrict the policy to the endings (divide by their sum), nudge the
# weights so that the KL term is not zero, and look at the gradient of one weight matrix: the last attention layer's output
# projection, 16,384 numbers. One backward pass gives the score $\nabla\log\pi(y)$ of every ending.


# %%
every_ending = text.pad(
    [scenes.encode(tokenizer, prompt, ending.text) for ending in scenes.ENDINGS], tokenizer.pad_token_id
).to(device)


def scores(policy):
    """log pi(ending), (1100,), and its gradient by the matrix W, (1100, 16384): deltas times inputs, summed over tokens."""
    layer, kept = policy.model.layers[-1].self_attn.o_proj, {}
    hook = layer.register_forward_hook(
        lambda module, inputs, output: kept.update(inputs=inputs[0].detach(), output=output)
    )
    logps = logprobs.sequence_logprobs(policy, *every_ending)
    hook.remove()
    (deltas,) = torch.autograd.grad(logps.sum(), kept["output"])
    gradients = torch.einsum("nto,nti->noi", deltas, kept["inputs"]).flatten(1)
    logp = logps.detach().double().log_softmax(0)  # among the endings
    return logp, gradients.double() - logp.exp() @ gradients.double()


def exact_gradient(logp, score, ref_logp, values, beta):
    """Gradient of E[r] - beta KL: the sum over all endings of pi(y) (R(y) - J) times its score."""
    penalized = values.to(logp) - beta * (logp - ref_logp)
    return (logp.exp() * (penalized - logp.exp() @ penalized)) @ score


with torch.no_grad():
    ref_logp = logprobs.sequence_logprobs(reference, *every_ending).double().log_softmax(0)
nudged = copy.deepcopy(reference)
generator = torch.Generator().manual_seed(1)
with torch.no_grad():
    for parameter in nudged.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator).to(device))
logp, score = scores(nudged)
exact = exact_gradient(logp, score, ref_logp, gold_values, BETA)

weight = nudged.model.layers[-1].self_attn.o_proj.weight
live = logprobs.sequence_logprobs(nudged, *every_ending).double().log_softmax(0)
objective = (live.exp() * (gold_values.to(device) - BETA * (live - ref_logp))).sum()
(differentiated,) = torch.autograd.grad(objective, weight)
exact_error = ((differentiated.flatten() - exact).norm() / exact.norm()).item()
del live, objective  # their graph is large
print(f"summed by hand against autograd through the sum: relative difference {exact_error:.1e}")

# %% [markdown]
# Now estimate it from samples. The Gram matrix of the scores gives the error of any estimate without ever forming it. Besides
# RLOO, three versions that people write: no baseline; the group's mean *with* the sample itself; the penalty with the wrong sign.

# %%
gram = score @ score.T  # (1100, 1100)
exact_weights = logp.exp() * (gold_values.to(logp) - BETA * (logp - ref_logp))


def estimate_error(draws, advantage, sign=-1.0):
    """Root mean square of |estimate - exact| / |exact| over the repeats."""
    index = torch.multinomial(logp.exp().float().cpu(), draws * budget.repeats, True, generator=generator).view(
        -1, GROUP
    )
    index = index.to(device)
    penalized = gold_values.to(logp)[index] + sign * BETA * (logp - ref_logp)[index]
    weights = torch.zeros(budget.repeats, len(scenes.ENDINGS), dtype=torch.float64, device=device)
    weights.scatter_add_(
        1, index.view(budget.repeats, draws), (advantage(penalized) / draws).view(budget.repeats, draws)
    )
    off = weights - exact_weights
    return ((off @ gram * off).sum(1).mean().sqrt() / exact.norm()).item()


VERSIONS = {
    "leave-one-out": ("policy", leave_one_out, -1.0),
    "no baseline": ("reference", lambda rewards: rewards, -1.0),
    "mean with itself": ("rejected", lambda rewards: rewards - rewards.mean(1, keepdim=True), -1.0),
    "KL sign flipped": ("kl", leave_one_out, +1.0),
}
errors = {
    name: [estimate_error(n, advantage, sign) for n in budget.draws] for name, (_, advantage, sign) in VERSIONS.items()
}
convergence = run.curve(
    "Error of the sampled gradient", x="samples (log10)", y="relative error", log=True,
    lines={name: role for name, (role, _, _) in VERSIONS.items()},
)  # fmt: skip
for name, values in errors.items():
    for n, value in zip(budget.draws, values):
        convergence.add(name, math.log10(n), value)
convergence.show()


def slope(values):
    """Exponent of the error in the number of samples, from first to last point."""
    return math.log(values[-1] / values[0]) / math.log(budget.draws[-1] / budget.draws[0])


print({name: f"exponent {slope(values):+.2f}, last error {values[-1]:.2f}" for name, values in errors.items()})

# %% [markdown]
# The first two lines fall like $1/\sqrt n$, exponent −0.5; the baseline only shifts the line down, it costs nothing and adds no
# bias. The other two stop falling: they converge to something else. The mean with itself converges to $(G-1)/G$ of the
# gradient, a shorter step in the right direction. The flipped sign converges to the gradient of another objective.
#
# A fourth mistake is harder to see. Put $\beta\,(\log\pi_\theta-\log\pi_\mathrm{ref})$ into the *loss* instead of the reward, and differentiate:
# its expected gradient is $\beta\sum_y\pi(y)\nabla\log\pi(y)=0$. The penalty is printed, plotted, and does nothing.

# %%
in_reward = exact_gradient(logp, score, ref_logp, torch.zeros_like(gold_values), BETA).norm().item()


def penalty_in_loss(draws):
    """Root mean square length of the penalty's gradient, put into the loss, over the repeats; a share of the right one's."""
    index = torch.multinomial(logp.exp().float().cpu(), draws * budget.repeats, True, generator=generator).to(device)
    counts = torch.zeros(budget.repeats, len(scenes.ENDINGS), dtype=torch.float64, device=device)
    share = torch.full((budget.repeats, draws), 1 / draws, dtype=torch.float64, device=device)
    counts.scatter_add_(1, index.view(budget.repeats, draws), share)
    return BETA * (counts @ gram * counts).sum(1).mean().sqrt().item() / in_reward


loss_penalties = [penalty_in_loss(n) for n in budget.draws]
print(
    "as a share of the penalty's gradient in the reward:",
    [f"{n} draws {v:.2f}" for n, v in zip(budget.draws, loss_penalties)],
)

# %% [markdown]
# ### On-policy DPO is nearly the same gradient
#
# Take a pair $a,b\sim\pi_\theta$ and a Bradley-Terry label. Over the label, the expected gradient of DPO's loss is
# $-\beta\,\big[\sigma(r_a-r_b)-\sigma(\beta m_{ab})\big]\,(\nabla\log\pi(a)-\nabla\log\pi(b))$. For small arguments the bracket is
# $\tfrac14(R_a-R_b)$, with the same penalized reward $R$ as above, and the whole is $-\tfrac{\beta}{2}\nabla J$: the policy gradient
# with groups of two. Off-policy, with pairs from the reference, the weights $\pi(a)\pi(b)$ are others. Sum both over all
# 1.2 million pairs, for a policy at the start and for one that has moved.


# %%
def dpo_gradient(logp, score, ref_logp, values, beta, source):
    """Minus the expected gradient of DPO's loss over pairs from `source` (1100,) and Bradley-Terry labels."""
    values = values.to(logp)
    gain = beta * (logp - ref_logp)
    pull = torch.sigmoid(values[:, None] - values) - torch.sigmoid(gain[:, None] - gain)  # (1100, 1100), antisymmetric
    return beta * 2 * (source * (pull @ source)) @ score


def cosine(a, b):
    return F.cosine_similarity(a, b, dim=0).item()


on_policy = dpo_gradient(logp, score, ref_logp, gold_values, BETA, logp.exp())
off_policy = dpo_gradient(logp, score, ref_logp, gold_values, BETA, ref_logp.exp())
start_alignment = {"on": cosine(on_policy, exact), "off": cosine(off_policy, exact)}
start_ratio = (on_policy.norm() / (BETA / 2 * exact.norm())).item()
print(
    f"near the reference: cosine with the policy gradient {start_alignment['on']:.4f} on-policy, "
    f"{start_alignment['off']:.4f} from the reference; length {start_ratio:.2f} of beta / 2 times it"
)


# %% [markdown]
# ## Three trainers and one ledger
#
# Everything that costs is counted: labels, how often somebody has to be asked (rounds), tokens generated, tokens that the
# reference reads, tokens trained on, seconds.


# %%
@dataclass
class Ledger:
    labels: int = 0
    rounds: int = 0
    sampled: int = 0
    scored: int = 0
    trained: int = 0
    seconds: float = 0.0


def sample(policy, prompts, generator, ledger):
    """One response to each prompt: examples, texts, and whether they ended."""
    completions = decoding.generate(
        policy, [PROMPT_IDS[p] for p in prompts], 16, Sampling(), stop_id=END_ID, generator=generator
    )
    examples = []
    for prompt, completion in zip(prompts, completions):
        ids = completion.ids + [END_ID] * completion.ended
        examples.append(text.Example(PROMPT_IDS[prompt] + ids, [0] * len(PROMPT_IDS[prompt]) + [1] * len(ids)))
        ledger.sampled += len(ids)
    return examples, [tokenizer.decode(c.ids) for c in completions], [c.ended for c in completions]


def response_logps(model, examples):
    return logprobs.sequence_logprobs(model, *text.pad(examples, tokenizer.pad_token_id).to(device))


def tokens_in(examples):
    return sum(len(example.ids) for example in examples)


def labelled_pairs(policy, count, reward, draw, generator, ledger):
    """Pairs of the policy's responses with Bradley-Terry labels.

    Returns the pairs (winner first), the true probability that the winner wins, (count,), and the reference's
    log-probabilities of both, (2, count).
    """
    prompts = draw.choices(TRAIN, k=count)
    sides = [sample(policy, prompts, generator, ledger) for _ in range(2)]
    a, b = (torch.tensor([reward(*pair) for pair in zip(texts, ended)]) for _, texts, ended in sides)
    chance = torch.sigmoid(a - b)
    wins = torch.tensor([draw.random() < p for p in chance.tolist()])
    pairs = [(x, y) if first else (y, x) for x, y, first in zip(sides[0][0], sides[1][0], wins)]
    return pairs, torch.where(wins, chance, 1 - chance).to(device), scored_by_reference(pairs, ledger)


def scored_by_reference(pairs, ledger):
    """The reference's log-probabilities of chosen and rejected, (2, pairs), entered as one round of labels."""
    examples = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    ledger.labels, ledger.rounds, ledger.scored = (
        ledger.labels + len(pairs), ledger.rounds + 1, ledger.scored + tokens_in(examples),
    )  # fmt: skip
    with torch.no_grad():
        return torch.cat([response_logps(reference, examples[i : i + 512]) for i in range(0, len(examples), 512)]).view(
            2, -1
        )


def new_policy():
    return copy.deepcopy(reference).eval()


def take_step(policy, optimizer, loss, rate):
    loss.backward()
    optimizer.param_groups[0]["lr"] = rate
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


# %% [markdown]
# DPO, offline and on-policy, is one function: `rounds=1` samples all pairs from the reference; more rounds sample the next part
# from the policy of that moment (below: a round for every step). The reference stays the same. With `graded=True` a label is no coin toss: the loss gets the
# probability itself, which is all that two exact scores could say about a pair.


# %%
def train_dpo(
    reward, labels, rounds=1, epochs=1, seed=0, beta=BETA, rate=RATES[0], graded=False, pairs_from=labelled_pairs
):
    policy, ledger, began = new_policy(), Ledger(), time.perf_counter()
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=0.0)
    draw, generator = random.Random(seed), torch.Generator(device).manual_seed(seed)
    half, step = budget.batch // 2, 0
    steps = rounds * epochs * math.ceil(labels // rounds / half)
    for _ in range(rounds):
        pairs, chance, ref = pairs_from(policy, labels // rounds, reward, draw, generator, ledger)
        for _ in range(epochs):
            order = draw.sample(range(len(pairs)), len(pairs))
            for chunk in (order[i : i + half] for i in range(0, len(order), half)):
                examples = [pairs[i][0] for i in chunk] + [pairs[i][1] for i in chunk]
                now = PairLogps(*response_logps(policy, examples).chunk(2))  # (B,), (B,)
                fixed = PairLogps(ref[0, chunk], ref[1, chunk])
                loss = dpo_loss(now, fixed, beta)
                if graded:  # the same loss with chosen and rejected exchanged, weighed by its probability
                    other = dpo_loss(PairLogps(now.rejected, now.chosen), PairLogps(fixed.rejected, fixed.chosen), beta)
                    loss = chance[chunk] * loss + (1 - chance[chunk]) * other
                take_step(policy, optimizer, loss.mean(), rate * (1 - step / steps))
                ledger.trained, step = ledger.trained + tokens_in(examples), step + 1
    ledger.seconds = time.perf_counter() - began
    return policy, ledger


# %% [markdown]
# RLOO: every step samples groups of four, scores them, and is used once. A score is a number, not a comparison: it says more
# than a label. Keep that in mind when you compare.


# %%
def train_rloo(reward, labels, seed=0, beta=BETA, rate=RATES[1], watch=None):
    policy, ledger, began = new_policy(), Ledger(), time.perf_counter()
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=0.0)
    draw, generator = random.Random(seed), torch.Generator(device).manual_seed(seed)
    steps = labels // budget.batch
    for step in range(steps):
        prompts = [prompt for prompt in draw.choices(TRAIN, k=budget.batch // GROUP) for _ in range(GROUP)]
        examples, texts, ended = sample(policy, prompts, generator, ledger)
        logps = response_logps(policy, examples)  # (B,) with gradient
        with torch.no_grad():
            ref_logps = response_logps(reference, examples)
        rewards = torch.tensor([reward(*pair) for pair in zip(texts, ended)], device=device)
        penalized = rewards - beta * (logps.detach() - ref_logps)
        advantages = leave_one_out(penalized.view(-1, GROUP)).flatten()
        take_step(policy, optimizer, -(advantages * logps).mean(), rate * (1 - step / steps))
        ledger.labels, ledger.rounds = ledger.labels + budget.batch, ledger.rounds + 1
        ledger.scored, ledger.trained = ledger.scored + tokens_in(examples), ledger.trained + tokens_in(examples)
        if watch:
            watch(step + 1, rewards.mean().item(), (logps.detach() - ref_logps).mean().item(), texts)
    ledger.seconds = time.perf_counter() - began
    return policy, ledger


# %% [markdown]
# Each setting is run with several seeds. A DPO label compares two sampled responses, an RLOO score is for one; so RLOO gets two
# scores where DPO gets one label, and all methods see **the same number of responses**.

# %%
NAMES = {
    "offline DPO": "rejected", "on-policy DPO": "chosen", "offline DPO, graded": "warn", "on-policy DPO, graded": "value",
    "RLOO": "policy",
}  # fmt: skip


def compare(title, reward, values, labels, methods, beta=BETA, rates=RATES):
    """Methods with the same number of judged responses: {method: [what measure says, and the ledger]}."""

    def train(name, seed):
        if name == "RLOO":
            return train_rloo(reward, 2 * labels, seed, beta, rates[1])
        rounds = 1 if name.startswith("offline") else labels // (budget.batch // 2)
        return train_dpo(reward, labels, rounds, 1, seed, beta, rates[0], graded=name.endswith("graded"))

    found = {name: [] for name in methods}
    for name, seed in run.progress([(name, seed) for name in methods for seed in range(budget.seeds)], title):
        policy, ledger = train(name, seed)
        found[name].append(measure(policy, values, beta) | {"ledger": ledger, "policy": policy if seed == 0 else None})
    return found


def mean(rows, key):
    return sum(row[key] if key in row else getattr(row["ledger"], key) for row in rows) / len(rows)


def spread(rows, key):
    numbers = [row[key] for row in rows]
    return f"{mean(rows, key):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def show(found, caption):
    run.table(
        [
            [
                name, f"{mean(rows, 'labels'):,.0f}", f"{mean(rows, 'rounds'):.0f}", f"{mean(rows, 'sampled'):,.0f}",
                f"{mean(rows, 'scored'):,.0f}", f"{mean(rows, 'trained'):,.0f}", f"{mean(rows, 'seconds'):.1f}",
                f"{mean(rows, 'reward'):.2f}", f"{mean(rows, 'kl'):.2f}", spread(rows, "gap"),
            ]
            for name, rows in found.items()
        ],
        ["method", "labels", "rounds", "generated", "scored", "trained", "seconds", "reward", "KL", "gap (seeds)"],
        caption=caption,
    )  # fmt: skip


# %% [markdown]
# ## Setting 1: an optimum that lies far away
#
# The gold reward at $\beta=0.5$. The optimum is more than half a nat from the reference. One pass over the data.

# %%
far = compare("far", gold, gold_values, budget.far, ("offline DPO", "on-policy DPO", "offline DPO, graded", "RLOO"))
show(
    far,
    f"Gold reward, {2 * budget.far:,} judged responses; the optimum has {best['reward']:.2f} at KL {best['kl']:.2f}",
)

# %%
curve = [optimum(gold_values, beta) for beta in (8, 4, 3, 2, 1.5, 1, 0.8, 0.65, 0.5, 0.4, 0.33)]
fig = go.Figure()
fig.add_scatter(
    x=[point["kl"] for point in curve], y=[point["reward"] for point in curve], name="exact frontier",
    mode="lines", line={"color": palette.MIDDLE["reference"], "width": 2},
)  # fmt: skip
for name, rows in far.items():
    fig.add_scatter(
        x=[row["kl"] for row in rows], y=[row["reward"] for row in rows], name=name, mode="markers",
        marker={"size": 10, "color": palette.MIDDLE[NAMES[name]]},
    )  # fmt: skip
fig.add_scatter(
    x=[best["kl"]], y=[best["reward"]], name=f"optimum at beta {BETA}", mode="markers",
    marker={"size": 14, "symbol": "star", "color": palette.MIDDLE["reward"]},
)  # fmt: skip
fig.update_layout(
    title="Reward against KL, both exact", xaxis_title="KL to the reference (nats)", yaxis_title="expected gold reward"
)
run.figure(fig, "Expected gold reward against KL: the frontier, and where each method ended with each seed")

# %% [markdown]
# No policy can lie above the curve. Where a point lies below it, KL was spent on something that does not pay. The graded row
# shows how much of the distance is the noise of the labels: pairs from the same source, but the label says *how much* better.
#
# ### The two DPO gradients, once the policy has moved
#
# The cosines from above again, now at a policy that RLOO has trained, for somebody who goes on from there at a lower price of KL.

# %%
LOWER = 0.1
moved_logp, moved_score = scores(far["RLOO"][0]["policy"])
moved_exact = exact_gradient(moved_logp, moved_score, ref_logp, gold_values, LOWER)
moved_alignment = {
    where: cosine(dpo_gradient(moved_logp, moved_score, ref_logp, gold_values, LOWER, source.exp()), moved_exact)
    for where, source in (("on", moved_logp), ("off", ref_logp))
}
print(
    f"at beta {LOWER}: cosine {moved_alignment['on']:.3f} on-policy, {moved_alignment['off']:.3f} with pairs from the reference"
)

# %% [markdown]
# ## Setting 2: an optimum nearby
#
# The same reward at $\beta=2$: KL is expensive, the optimum lies close to the reference, and pairs from the reference are almost
# pairs from the policy. Two fifths of the labels.

# %%
near_best = optimum(gold_values, NEAR_BETA)
near = compare("near", gold, gold_values, budget.near, ("offline DPO", "on-policy DPO", "RLOO"), NEAR_BETA, NEAR_RATES)
show(near, f"Gold reward at beta {NEAR_BETA:g}; the optimum has {near_best['reward']:.2f} at KL {near_best['kl']:.3f}")

# %% [markdown]
# ## Setting 3: a good answer that is rare
#
# Now one verb in one place is worth 4, all else nothing. The reference writes it less than once in 100 responses. All labels are
# graded here, so that no coin toss blurs the picture: two endings without it are exactly equal, and say so.

# %%
wanted = rare_values > 0
rare_share = (reference_logps.exp() * wanted).sum(-1).mean().item()
rare_best = optimum(rare_values, BETA)
seldom = compare(
    "rare", rare, rare_values, budget.rare, ("offline DPO, graded", "on-policy DPO, graded", "RLOO"), BETA, RARE_RATES
)
for rows in seldom.values():
    for row in rows:
        row["share"] = (row["probs"] * wanted).sum(-1).mean().item()
show(seldom, f"Rare reward, {2 * budget.rare:,} judged responses; the reference writes it {rare_share:.2%} of the time")
print({name: f"{mean(rows, 'share'):.0%} of responses" for name, rows in seldom.items()})

# %% [markdown]
# ## Three failures
#
# **No KL penalty.** The same RLOO with $\beta=0$. The reward goes on rising, and the variety goes.

# %%
free = run.curve(
    "RLOO without KL penalty", y="mean reward of the batch; KL (nats)", lines={"reward": "reward", "KL": "kl"}
)


def watch(step, reward, kl, texts):
    free.add("reward", step, reward)
    free.add("KL", step, kl)


free_policy, _ = train_rloo(gold, budget.free_steps * budget.batch, beta=0.0, rate=2 * RATES[1], watch=watch)
free.show()
free_measure = measure(free_policy, gold_values)
print(
    f"reward {free_measure['reward']:.2f}, KL {free_measure['kl']:.2f}, entropy {before['entropy']:.2f} -> {free_measure['entropy']:.2f}"
)

# %% [markdown]
# **A proxy with a hole.** Somebody writes the reward as a string check: a lively verb, no indoor place, no time, and a little
# less for every word. For an ending it ranks much as gold does. It forgets to ask whether the text *is* an ending.


# %%
def proxy(response, ended=True):
    lively = any(verb in response for verb in scenes.LIVELY)
    indoors = any(place in response for place in scenes.INDOORS)
    timed = any(time in response for time in scenes.TIMES)
    return 1.0 * lively + 1.0 * (not indoors) + 0.5 * (not timed) - 0.1 * len(response.split())


proxy_values = values_of(proxy)
proxy_correlation = torch.corrcoef(torch.stack([proxy_values, gold_values]))[0, 1].item()
hacked, seen = {}, {}
for name, beta in (("no KL", 0.0), ("with KL", BETA)):
    trace = []
    policy, _ = train_rloo(
        proxy,
        budget.free_steps * budget.batch,
        beta=beta,
        rate=2 * RATES[1],
        watch=lambda *step, trace=trace: trace.append(step),
    )
    hacked[name], seen[name] = measure(policy, gold_values), trace
run.table(
    [
        [
            name,
            f"{seen[name][0][1]:.2f} → {seen[name][-1][1]:.2f}",
            f"{row['reward']:.2f}",
            f"{row['broken']:.0%}",
            seen[name][-1][3][0],
        ]
        for name, row in hacked.items()
    ],
    ["run", "proxy (sampled)", "gold (exact)", "no ending at all", "a response"],
    caption=f"A proxy that correlates {proxy_correlation:.2f} with gold over the 1,100 endings",
)

# %% [markdown]
# **Offline, outside its data.** Pairs from another system that never writes a lively verb. Gold pays for lively verbs, but no
# pair ever shows one. The pairs are labelled rightly, the loss falls, and the policy cannot know.

# %%
lively_ending = torch.tensor([ending.verb in scenes.LIVELY for ending in scenes.ENDINGS])


def narrow_pairs(policy, count, reward, draw, generator, ledger):
    """As labelled_pairs, from a source that writes no lively verb: the reference's responses, filtered."""
    pairs = []
    while len(pairs) < count:
        prompts = draw.choices(TRAIN, k=count)
        tries = [sample(reference, prompts, generator, ledger) for _ in range(4)]
        for position in range(count):
            quiet = [
                (examples[position], reward(texts[position], ended[position]))
                for examples, texts, ended in tries
                if not any(verb in texts[position] for verb in scenes.LIVELY)
            ]
            if len(quiet) >= 2:
                (a, value_a), (b, value_b) = quiet[:2]
                first = draw.random() < 1 / (1 + math.exp(value_b - value_a))
                pairs.append((a, b) if first else (b, a))
    return pairs[:count], None, scored_by_reference(pairs[:count], ledger)


narrow_policy, _ = train_dpo(gold, budget.far, pairs_from=narrow_pairs)
narrow = measure(narrow_policy, gold_values)
lively_share = {
    name: (probs * lively_ending).sum(-1).mean().item()
    for name, probs in (
        ("reference", before["probs"]), ("offline, narrow data", narrow["probs"]),
        ("offline, its own samples", far["offline DPO"][0]["probs"]), ("on-policy", far["on-policy DPO"][0]["probs"]),
    )
}  # fmt: skip
run.table([[name, f"{share:.0%}"] for name, share in lively_share.items()], ["policy", "responses with a lively verb"])

# %% [markdown]
# ## As you would at work: trl
#
# trl's `RLOOTrainer` is the same algorithm: KL in the reward, leave-one-out baseline, one step a batch. First that its
# advantages are ours, then what it reaches.

# %%
import warnings

from datasets import Dataset
from transformers import PrinterCallback
from trl import RLOOConfig, RLOOTrainer

warnings.filterwarnings("ignore", category=FutureWarning)
work_tokenizer = copy.deepcopy(tokenizer)
work_tokenizer.eos_token, work_tokenizer.padding_side = scenes.END, "left"
work_policy = new_policy()
work_policy.config.eos_token_id = work_policy.generation_config.eos_token_id = END_ID


def gold_of_ids(completion_ids, **columns):
    return [gold(tokenizer.decode([t for t in ids if t != END_ID]), END_ID in ids) for ids in completion_ids]


config = RLOOConfig(
    output_dir=tempfile.mkdtemp(), beta=BETA, num_generations=GROUP, per_device_train_batch_size=budget.batch,
    max_completion_length=16, learning_rate=RATES[1], max_steps=budget.trl_steps, lr_scheduler_type="linear",
    weight_decay=0.0, report_to="none", logging_steps=1, use_cpu=device.type == "cpu", save_strategy="no",
    disable_tqdm=True, bf16=False, gradient_checkpointing=False, temperature=1.0,
)  # fmt: skip
trainer = RLOOTrainer(
    model=work_policy, reward_funcs=gold_of_ids, args=config, processing_class=work_tokenizer,
    train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in TRAIN]),
)  # fmt: skip
trainer.remove_callback(PrinterCallback)
batches, generate_and_score = [], trainer._generate_and_score_completions
trainer._generate_and_score_completions = lambda inputs: batches.append(generate_and_score(inputs)) or batches[-1]
trainer.train()

# %%
theirs = batches[-1]
rows = [
    text.Example(
        [t for t, m in zip(p, pm) if m] + [t for t, m in zip(c, cm) if m],
        [0] * sum(pm) + [1] * sum(cm),
    )
    for p, pm, c, cm in zip(
        *(theirs[k].tolist() for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"))
    )
]
with torch.no_grad():
    ref_logps = response_logps(reference, rows)
scores_given = torch.tensor(gold_of_ids([[t for t, m in zip(*row) if m] for row in rows]), device=device)
ours = leave_one_out((scores_given - BETA * (theirs["old_logps"] - ref_logps)).view(-1, GROUP)).flatten()
trl_gap = (ours - theirs["advantages"]).abs().max().item()
trl_measure = measure(work_policy, gold_values)
trl_scores = budget.trl_steps * budget.batch
print(
    f"largest difference of an advantage {trl_gap:.1e}; after {trl_scores} scores: gap {trl_measure['gap']:.2f}, KL {trl_measure['kl']:.2f}"
)

# %% [markdown]
# ## What this run measured

# %%
run.result("beta", BETA)
run.result("group", GROUP)
run.result("seeds", budget.seeds)
run.result("prompt", None, prompt)
run.result("ending_mass", reference_logps.exp().sum(-1).mean(), format=".1%")
run.result("reference_reward", before["reward"], format=".2f")
run.result("best_reward", best["reward"], format=".2f")
run.result("best_kl", best["kl"], format=".2f")
run.result("start_gap", before["gap"], format=".2f")
run.result("token_gap", token_gap, format=".0e")
for words, name in (
    ("likely", "its likeliest ending"),
    ("unlikely", "its least likely ending"),
    ("scrambled", "words out of order"),
    ("foreign", "another language game"),
):
    run.result(f"norm_{words}_logp", norms[name][0], format=".1f")
    run.result(f"norm_{words}", norms[name][1], format=".0f")
    run.result(f"norm_{words}_text", None, answers[name].strip())
for words, kind in (("random", "two endings"), ("verb", "another verb"), ("twice", "said twice")):
    run.result(f"falls_{words}", falls[kind], format=".0%")
    run.result(f"cosine_{words}", mean_cosine[kind], format=".2f")
    run.result(f"ratio_{words}", mean_ratio[kind], format=".1f")
run.result("geometry_pairs", budget.pairs)
run.result("signs_right", signs_right, format=".0%")
run.result("exact_error", exact_error, format=".0e")
run.result("draws_first", budget.draws[0])
run.result("draws_last", budget.draws[-1], format=",")
for words, name in (
    ("rloo", "leave-one-out"),
    ("bare", "no baseline"),
    ("itself", "mean with itself"),
    ("sign", "KL sign flipped"),
):
    run.result(f"error_{words}_first", errors[name][0], format=".2f")
    run.result(f"error_{words}_last", errors[name][-1], format=".2f")
    run.result(f"slope_{words}", slope(errors[name]), format="+.2f")
run.result("baseline_saves", (errors["no baseline"][-1] / errors["leave-one-out"][-1]) ** 2, format=".1f")
run.result("loss_penalty_first", loss_penalties[0], format=".2f")
run.result("loss_penalty_last", loss_penalties[-1], format=".2f")
run.result("loss_penalty_slope", slope(loss_penalties), format="+.2f")
run.result("start_on", start_alignment["on"], format=".4f")
run.result("start_off", start_alignment["off"], format=".4f")
run.result("start_ratio", start_ratio, format=".2f")
run.result("moved_on", moved_alignment["on"], format=".3f")
run.result("moved_off", moved_alignment["off"], format=".3f")
run.result("rare_share", rare_share, format=".1%")
run.result("rare_best_reward", rare_best["reward"], format=".2f")
run.result("rare_best_kl", rare_best["kl"], format=".2f")
run.result("near_beta", NEAR_BETA, format="g")
run.result("near_best_reward", near_best["reward"], format=".2f")
run.result("near_best_kl", near_best["kl"], format=".3f")
WORDS = {
    "offline DPO": "offline", "on-policy DPO": "onpolicy", "offline DPO, graded": "graded", "on-policy DPO, graded": "live",
    "RLOO": "rloo",
}  # fmt: skip
for setting, found in (("far", far), ("near", near), ("rare", seldom)):
    run.result(f"{setting}_responses", 2 * getattr(budget, setting), format=",")
    for name, rows in found.items():
        words = WORDS[name]
        for key, form in (
            ("reward", ".2f"),
            ("kl", ".2f"),
            ("labels", ",.0f"),
            ("rounds", ".0f"),
            ("sampled", ",.0f"),
            ("scored", ",.0f"),
            ("trained", ",.0f"),
            ("seconds", ".1f"),
        ):
            run.result(f"{setting}_{words}_{key}", mean(rows, key), format=form)
        run.result(f"{setting}_{words}_gap", mean(rows, "gap"), spread(rows, "gap"))
for name, rows in seldom.items():
    run.result(f"rare_{WORDS[name]}_share", mean(rows, "share"), format=".0%")
run.result("free_steps", budget.free_steps)
run.result("free_reward", free_measure["reward"], format=".2f")
run.result("free_kl", free_measure["kl"], format=".2f")
run.result("free_entropy", free_measure["entropy"], format=".2f")
run.result("entropy_before", before["entropy"], format=".2f")
run.result("proxy_correlation", proxy_correlation, format=".2f")
for words, name in (("free", "no KL"), ("held", "with KL")):
    run.result(f"proxy_{words}_first", seen[name][0][1], format=".2f")
    run.result(f"proxy_{words}_last", seen[name][-1][1], format=".2f")
    run.result(f"proxy_{words}_gold", hacked[name]["reward"], format=".2f")
    run.result(f"proxy_{words}_broken", hacked[name]["broken"], format=".0%")
    run.result(f"proxy_{words}_text", None, seen[name][-1][3][0].strip() or "(nothing)")
for words, name in (
    ("reference", "reference"),
    ("narrow", "offline, narrow data"),
    ("offline", "offline, its own samples"),
    ("onpolicy", "on-policy"),
):
    run.result(f"lively_{words}", lively_share[name], format=".0%")
run.result("narrow_reward", narrow["reward"], format=".2f")
run.result("trl_gap", trl_gap, format=".0e")
run.result("trl_scores", trl_scores)
run.result("trl_final_gap", trl_measure["gap"], format=".2f")

# %%
gaps = {
    setting: {name: mean(rows, "gap") for name, rows in found.items()}
    for setting, found in (("far", far), ("near", near), ("rare", seldom))
}
shares = {name: mean(rows, "share") for name, rows in seldom.items()}
gap_error = max(abs(row["gap"] - BETA * row["to_best"]) for rows in far.values() for row in rows)
run.claim("the gap of every trained policy is beta times its KL to the optimum", gap_error < 1e-6)
run.claim("the gradient of a log-probability by the logits is e - p", token_gap < 1e-5)
squeezed, spread_out = (pushed[3] > start_probs).tolist(), (pushed[0] > start_probs).tolist()
run.claim("a push against the unlikely token lifts the likeliest alone", squeezed == [True, False, False, False])
run.claim("a push against the likely token lifts all others", spread_out == [False, True, True, True])
foreign_norm, likely_norm = norms["another language game"][1], norms["its likeliest ending"][1]
run.claim(
    "a foreign answer's gradient is more than 5 times as long as that of the likeliest", foreign_norm > 5 * likely_norm
)
run.claim("the predicted sign of the chosen answer's change is right in 95% of the pairs", signs_right >= 0.95)
run.claim("with another verb the chosen answer hardly ever falls", falls["another verb"] <= 0.1)
run.claim("against itself said twice it nearly always falls", falls["said twice"] >= 0.9)
run.claim("the exact gradient equals autograd through the sum", exact_error < 1e-4)
slopes = {name: slope(values) for name, values in errors.items()}
run.claim("RLOO's error falls like one over the root of n", abs(slopes["leave-one-out"] + 0.5) < 0.1)
run.claim("so does the error without a baseline", abs(slopes["no baseline"] + 0.5) < 0.1)
last_errors = {name: values[-1] for name, values in errors.items()}
run.claim("without a baseline the error is larger", last_errors["no baseline"] > 1.2 * last_errors["leave-one-out"])
run.claim("a mean with itself does not converge", last_errors["mean with itself"] > 0.2)
run.claim("nor does the flipped sign", last_errors["KL sign flipped"] > 2 * last_errors["leave-one-out"])
run.claim("a penalty in the loss leaves noise alone, which averages out", abs(slope(loss_penalties) + 0.5) < 0.1)
run.claim("near the reference on-policy DPO follows the policy gradient", start_alignment["on"] > 0.99)
run.claim(
    "once the policy has moved, on-policy pairs point nearer to it", moved_alignment["on"] > moved_alignment["off"]
)
run.claim(
    "far: offline DPO and on-policy DPO end within 0.05 of each other",
    abs(gaps["far"]["on-policy DPO"] - gaps["far"]["offline DPO"]) < 0.05,
)
run.claim("far: RLOO ends nearest", gaps["far"]["RLOO"] == min(gaps["far"].values()))
run.claim(
    "far: graded labels take at least a quarter off the gap of offline DPO",
    gaps["far"]["offline DPO, graded"] < 0.75 * gaps["far"]["offline DPO"],
)
near_difference = gaps["near"]["offline DPO"] - gaps["near"]["on-policy DPO"]
run.claim("near: offline DPO and on-policy DPO end within 0.05 of each other", abs(near_difference) < 0.05)
run.claim("rare: RLOO finds the rare ending", shares["RLOO"] > 0.5)
run.claim(
    "rare: on-policy DPO says it more often than offline",
    shares["on-policy DPO, graded"] > shares["offline DPO, graded"],
)
run.claim("rare: RLOO ends nearest the optimum", gaps["rare"]["RLOO"] == min(gaps["rare"].values()))
run.claim("without a KL penalty the entropy falls by more than 3 nats", before["entropy"] - free_measure["entropy"] > 3)
run.claim("without it the proxy's hole is found", hacked["no KL"]["broken"] > 0.5)
run.claim("with it, it is not", hacked["with KL"]["broken"] < 0.1)
lively_gains = (
    lively_share["offline, narrow data"] - lively_share["reference"],
    lively_share["on-policy"] - lively_share["reference"],
)
run.claim("pairs without lively verbs do not teach them", abs(lively_gains[0]) < 0.1)
run.claim("the policy's own samples do", lively_gains[1] > 0.1)
run.claim("trl's advantages are ours", trl_gap < 1e-4)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Leave one out** (difficulty 1, 5 minutes). Rewards of $G$ responses to each of $P$ prompts, (P, G), to advantages (P, G).


# %%
def my_leave_one_out(rewards): ...


check("dpo_vs_online.leave_one_out", my_leave_one_out)

# %% [markdown]
# **2. The loss of RLOO** (difficulty 3, 10 minutes). From `logps`, `ref_logps` and `rewards`, each (P, G), and $\beta$: a loss, one
# number, whose gradient by `logps` is minus the policy gradient of $\mathbb{E}[r]-\beta\,\mathrm{KL}$.


# %%
def my_rloo_loss(logps, ref_logps, rewards, beta): ...


check("dpo_vs_online.rloo_loss", my_rloo_loss)

# %% [markdown]
# **3. Push a token down** (difficulty 2, 6 minutes). One gradient step of size `step` on the logits (V,) that lowers
# $\log p(\text{token})$. Return the new probabilities, (V,).


# %%
def my_push_down(logits, token, step): ...


check("dpo_vs_online.push_down", my_push_down)

# %% [markdown]
# **4. What does it cost?** (difficulty 1, 5 minutes). Offline DPO on `pairs` pairs for `epochs` epochs, with prompts and responses of
# fixed length: how many tokens are generated, scored by the reference (once, kept) and trained on? Return the three numbers.


# %%
def my_tokens(pairs, epochs, prompt, response): ...


check("dpo_vs_online.tokens", my_tokens)

# %% [markdown]
# **5. A point of the frontier** (difficulty 2, 6 minutes). The reference's probabilities (K,), rewards (K,) and $\beta$, to KL (nats)
# and expected reward of the optimum $\pi_\mathrm{ref}\,e^{r/\beta}/Z$.


# %%
def my_frontier(ref_probs, rewards, beta): ...


check("dpo_vs_online.frontier", my_frontier)
