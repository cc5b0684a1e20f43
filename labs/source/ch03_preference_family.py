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
# # DPO's relatives: six losses on the same pairs
#
# IPO, KTO, ORPO, CPO and SimPO each change one thing about DPO: the shape of the loss, the pairs, the reference model, the
# length. Which change matters? Here the true reward is known, and every score of a trained model is an exact sum, so you can see.
#
# - **You will** write six losses in a few lines each; draw all their gradients in one plot; prove each equal to the library's
#   and to trl's; train all six on the same pairs with the same budget and three seeds; set them against the best that any
#   method can do; then take the safety away and watch a model break.
# - **Time:** about 5 minutes on a CPU with two cores, 2 minutes on a GPU.
#
# **Topics:** ipo, kto, orpo, cpo, simpo, choosing-preference-algorithm

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
# ## A world whose reward is known
#
# The model is `tiny`, 0.86 million parameters. It continues "The old bear" with one of 1,100 endings, such as " sleeps in the
# garden at night."; they hold more than 98% of its probability. A **gold reward** from 0 to 2.5 says how good each is: 1 for a
# lively verb, 1 for a place outdoors, 0.5 for naming no time. Anything that is no ending is *broken*, with reward -1.

# %%
import copy
import math
import random
import tempfile
import warnings
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab import compute, decoding, lab, logprobs, models, palette, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.losses.preference import (
    PairLogps,
    cpo_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    orpo_loss,
    per_token,
    simpo_loss,
)  # fmt: skip
from alignlab.tasks import scenes

warnings.filterwarnings("ignore", category=FutureWarning)
run = lab.Lab("ch03_preference_family")
budget = run.budget(
    full=dict(pairs=1_200, probe=128, batch=32, steps=50, search_prompts=2, prompts=5, seeds=3, settings=3, trl_steps=10),
    quick=dict(pairs=96, probe=16, batch=16, steps=2, search_prompts=1, prompts=1, seeds=1, settings=1, trl_steps=2),
)  # fmt: skip
compute.seed(0)
reference, tokenizer = models.load("tiny")
device = next(reference.parameters()).device
END = tokenizer.convert_tokens_to_ids(scenes.END)
training_prompts, heldout_prompts = list(scenes.prompts("train")), list(scenes.prompts("held-out"))


# %% [markdown]
# ## The pairs
#
# The reference writes two endings to a prompt. A judge who follows Bradley-Terry on the gold reward picks the better one with
# probability $\sigma(r_1-r_2)$: it is often right and sometimes wrong, as people are. Each seed has pairs of its own; all six
# methods get the same ones.


# %%
class Pair(NamedTuple):
    """A preference pair: texts, token ids with response masks, gold rewards."""

    prompt: str
    chosen: text.Example
    rejected: text.Example
    gold: tuple[float, float]


def response_of(example):
    return tokenizer.decode([token for token, mask in zip(*example) if mask], skip_special_tokens=True)


def draw_pairs(count, seed):
    """Pairs of different responses sampled from the reference; equal ones say nothing and are dropped, and counted."""
    draw, generator = random.Random(seed), torch.Generator(device).manual_seed(seed)
    pairs, equal = [], 0
    while len(pairs) < count:
        prompts = [draw.choice(training_prompts) for _ in range(256)]
        ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts for _ in range(2)]
        samples = decoding.generate(reference, ids, 16, Sampling(), stop_id=END, generator=generator)
        for i, prompt in enumerate(prompts):
            two = [(tokenizer.decode(s.ids), s.ended) for s in samples[2 * i : 2 * i + 2]]
            if two[0] == two[1]:
                equal += 1
                continue
            gold = [scenes.gold_reward(*response) for response in two]
            first = draw.random() < 1 / (1 + math.exp(gold[1] - gold[0]))
            order = (0, 1) if first else (1, 0)
            examples = [scenes.encode(tokenizer, prompt, *two[i]) for i in order]
            pairs.append(Pair(prompt, *examples, tuple(gold[i] for i in order)))
    return pairs[:count], equal


pairs, equal = draw_pairs(budget.pairs, seed=0)
run.table(
    [[p.prompt, response_of(p.chosen), p.gold[0], response_of(p.rejected), p.gold[1]] for p in pairs[:6]],
    {"prompt": "prompt", "chosen": "chosen", "its gold": "", "rejected": "rejected", "gold of it": ""},
    caption="Six of the pairs",
)  # fmt: skip
tokens = torch.tensor([[sum(p.chosen.response_mask), sum(p.rejected.response_mask)] for p in pairs]).double()
against = sum(p.gold[0] < p.gold[1] for p in pairs) / len(pairs)
ties = sum(p.gold[0] == p.gold[1] for p in pairs) / len(pairs)
print(
    f"{len(pairs)} pairs, {equal} equal ones dropped; the judge went against the gold reward in {against:.0%}, {ties:.0%} are ties"
)
print(f"mean length {tokens[:, 0].mean():.2f} tokens chosen, {tokens[:, 1].mean():.2f} rejected")

# %% [markdown]
# One forward pass of the reference serves all methods and all steps, since these pairs do not change: two numbers a pair.


# %%
def padded(examples):
    return text.pad(examples, tokenizer.pad_token_id).to(device)


@torch.no_grad()
def summed_logps(model, pairs):
    """log pi(y|x) of chosen and of rejected, (2, N), in nats."""
    parts = []
    for start in range(0, len(pairs), 256):
        part = pairs[start : start + 256]
        rows = padded([p.chosen for p in part] + [p.rejected for p in part])
        parts.append(logprobs.sequence_logprobs(model, *rows).reshape(2, -1))
    return torch.cat(parts, 1)


# %% [markdown]
# ## Six losses in the open
#
# What a loss may look at: the summed log-probabilities of chosen and rejected under the policy and under the reference, their
# lengths in tokens, and for KTO an estimate of the KL divergence.


# %%
class Scores(NamedTuple):
    """What is known of a batch of pairs, each (B,): summed log-probabilities (nats), lengths (tokens); kl is one number."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    kl: Tensor


def margin(s):  # of DPO and IPO: what chosen gained on the reference, minus what rejected gained
    return (s.chosen - s.ref_chosen) - (s.rejected - s.ref_rejected)


def means(s):  # of ORPO and SimPO: log-probabilities per token
    return s.chosen / s.chosen_tokens, s.rejected / s.rejected_tokens


def dpo(s, beta):  # a logistic loss on the margin
    return -F.logsigmoid(beta * margin(s))


def ipo(s, tau):  # a square: the margin is to be 1 / (2 tau), and no more
    return (margin(s) - 1 / (2 * tau)) ** 2


def kto(s, beta):  # no pairs: each response alone, against the reference point z
    z = s.kl.detach().clamp(min=0)
    desirable = 1 - torch.sigmoid(beta * (s.chosen - s.ref_chosen - z))
    undesirable = 1 - torch.sigmoid(beta * (z - (s.rejected - s.ref_rejected)))
    return (desirable + undesirable) / 2


def log_odds(logp):
    return logp - torch.log(-torch.expm1(logp))


def orpo(s, beta):  # no reference: SFT on chosen, plus the ratio of two odds
    chosen, rejected = means(s)
    return -chosen - beta * F.logsigmoid(log_odds(chosen) - log_odds(rejected))


def cpo(s, beta):  # no reference: DPO's loss without it, plus SFT on chosen (per token, as trl has it)
    return -F.logsigmoid(beta * (s.chosen - s.rejected)) - means(s)[0]


def simpo(s, beta, gamma=0.5):  # no reference: log-probabilities per token, and a target to exceed
    chosen, rejected = means(s)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


METHODS = {"DPO": dpo, "IPO": ipo, "KTO": kto, "ORPO": orpo, "CPO": cpo, "SimPO": simpo}
COLOURS = dict(zip(METHODS, ("policy", "value", "prompt", "kl", "reward", "warn")))

# %% [markdown]
# One pair, six numbers. Take one whose two lengths differ, after a policy has raised its chosen response by 1 nat and lowered
# the rejected one by 1, with a KL estimate of 0.2, and calculate along.

# %%
example = next(
    p for p in pairs if p.gold[0] > p.gold[1] >= 0 and sum(p.chosen.response_mask) != sum(p.rejected.response_mask)
)
print(f"{example.prompt} ...{response_of(example.chosen)} rather than{response_of(example.rejected)}")
ref_chosen, ref_rejected = summed_logps(reference, [example]).double().cpu().flatten().tolist()
chosen_tokens, rejected_tokens = sum(example.chosen.response_mask), sum(example.rejected.response_mask)
now_chosen, now_rejected = ref_chosen + 1, ref_rejected - 1


def sigma(u):
    return 1 / (1 + math.exp(-u))


mean_chosen, mean_rejected = now_chosen / chosen_tokens, now_rejected / rejected_tokens
odds_chosen, odds_rejected = (math.exp(m) / (1 - math.exp(m)) for m in (mean_chosen, mean_rejected))
by_hand = {
    "DPO": -math.log(sigma(0.5 * 2)),
    "IPO": (2 - 1 / (2 * 0.5)) ** 2,
    "KTO": (1 - sigma(0.5 * (1 - 0.2)) + 1 - sigma(0.5 * (0.2 + 1))) / 2,
    "ORPO": -mean_chosen - 0.5 * math.log(sigma(math.log(odds_chosen / odds_rejected))),
    "CPO": -math.log(sigma(0.5 * (now_chosen - now_rejected))) - mean_chosen,
    "SimPO": -math.log(sigma(2.0 * (mean_chosen - mean_rejected) - 0.5)),
}
STRENGTH = {"DPO": 0.5, "IPO": 0.5, "KTO": 0.5, "ORPO": 0.5, "CPO": 0.5, "SimPO": 2.0}
at_hand = Scores(
    *(torch.tensor([v]).double() for v in (now_chosen, now_rejected, ref_chosen, ref_rejected, chosen_tokens, rejected_tokens)),
    torch.tensor(0.2).double(),
)  # fmt: skip
in_the_open = {name: loss(at_hand, STRENGTH[name]).item() for name, loss in METHODS.items()}
policy_logps, reference_logps = PairLogps(*at_hand[:2]), PairLogps(*at_hand[2:4])
mean_logps = per_token(policy_logps, PairLogps(*at_hand[4:6]))
singles = torch.cat(policy_logps), torch.cat(reference_logps), torch.tensor([True, False])
from_library = {
    "DPO": dpo_loss(policy_logps, reference_logps, 0.5),
    "IPO": ipo_loss(policy_logps, reference_logps, 0.5),
    "KTO": kto_loss(*singles, at_hand.kl, 0.5).mean(),
    "ORPO": orpo_loss(mean_logps, 0.5),
    "CPO": cpo_loss(policy_logps, 0.5, nll=-mean_logps.chosen),
    "SimPO": simpo_loss(mean_logps, 2.0, 0.5),
}
run.table(
    [
        [name, f"{by_hand[name]:.6f}", f"{in_the_open[name]:.6f}", f"{from_library[name].item():.6f}"]
        for name in METHODS
    ],
    ["loss", "by hand", "in the open", "library"],
    caption="One pair, in Python floats, by the functions above, and by alignlab.losses.preference",
)
hand_gap = max(max(abs(by_hand[n] - in_the_open[n]), abs(by_hand[n] - from_library[n].item())) for n in METHODS)
run.claim("by hand, in the open and library agree to 1e-9", hand_gap < 1e-9)

# %% [markdown]
# ## All gradients in one plot
#
# A loss acts through two numbers per pair: how hard it pulls chosen up, $-\partial\ell/\partial\log\pi_\theta(y_w)$, and how hard
# it pushes rejected down, $\partial\ell/\partial\log\pi_\theta(y_l)$. Move that one pair from its start: let the margin
# grow, half of it by raising chosen, half by lowering rejected, and let autograd say what each loss would do there.

# %%
u = torch.linspace(-5, 5, 201, dtype=torch.float64)  # the margin of log-ratios, nats
SCALE = {"IPO": 0.1}  # IPO's line is drawn at a tenth


def pulls(loss, strength):
    """(pull on chosen, push on rejected) along u, each (201,)."""
    chosen, rejected = (ref_chosen + u / 2).requires_grad_(), (ref_rejected - u / 2).requires_grad_()
    constants = (torch.full_like(u, v) for v in (ref_chosen, ref_rejected, chosen_tokens, rejected_tokens))
    loss(Scores(chosen, rejected, *constants, at_hand.kl), strength).sum().backward()
    return -chosen.grad, rejected.grad


gradients = {name: pulls(loss, STRENGTH[name]) for name, loss in METHODS.items()}
for side, what in enumerate(("Pull on the chosen response", "Push on the rejected response")):
    fig = go.Figure()
    for name, both in gradients.items():
        fig.add_scatter(
            x=u.float().numpy(), y=(both[side] * SCALE.get(name, 1)).float().numpy(), mode="lines",
            name=f"{name} / 10" if name in SCALE else name,
            line={"color": palette.MIDDLE[COLOURS[name]], "dash": "solid" if name in ("DPO", "IPO", "KTO") else "dash"},
        )  # fmt: skip
    fig.update_layout(title=what, xaxis_title="margin since the start (nats)", yaxis_title="gradient, per nat")
    run.figure(fig, f"{what} of six losses over the margin; dashed lines are the losses without a reference model.")

# %% [markdown]
# Read it from left to right. **DPO** pulls with at most $\beta$, hardest where the pair is the wrong way round, and lets go
# slowly. **IPO** (drawn at a tenth) is a straight line: its pull has no bound, is zero where the margin is $1/(2\tau)=1$, and
# beyond that *reverses*. **KTO** lets go at both ends: it leaves what is hopeless alone, just as what is settled. **ORPO** and
# **CPO** never let go of chosen, because their SFT term does not. **SimPO** bends like DPO, but where it bends depends on the
# pair's own log-probabilities: without a reference it does not know where the pair began.

# %%
middle = int(u.abs().argmin())
at_start = {name: both[0][middle].item() for name, both in gradients.items()}
left = {name: both[0][0].item() for name, both in gradients.items()}
right = {name: both[0][-1].item() for name, both in gradients.items()}
run.claim("DPO's pull at the start is beta / 2", abs(at_start["DPO"] - 0.25) < 1e-9)
run.claim(
    "IPO reverses beyond its target, and no other loss does",
    right["IPO"] < 0 < min(v for name, v in right.items() if name != "IPO"),
)
run.claim(
    "KTO lets go of what is hopeless, and DPO does not",
    left["KTO"] < at_start["KTO"] and left["DPO"] > 1.5 * at_start["DPO"],
)
run.claim(
    "where DPO has let go, ORPO and CPO still pull at chosen", min(right["ORPO"], right["CPO"]) > 2 * right["DPO"]
)

# %% [markdown]
# ## Equal to trl
#
# trl has them all: IPO as a `loss_type` of `DPOTrainer`, `KTOTrainer`, and under `trl.experimental` ORPO and CPO (SimPO is CPO's
# `loss_type="simpo"`). Same model, same batch: a policy that differs from the reference by a little noise, four pairs.

# %%
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

disable_progress_bar()
trl_tokenizer = copy.deepcopy(tokenizer)
trl_tokenizer.eos_token = scenes.END  # what trl appends to a response
four = [p for p in pairs if p.gold[0] >= 0 and p.gold[1] >= 0][:4]
noisy = copy.deepcopy(reference).cpu()
noise = torch.Generator().manual_seed(0)
with torch.no_grad():
    for weight in noisy.parameters():
        weight.add_(0.02 * torch.randn(weight.shape, generator=noise))


def trl_trainer(trainer, config, rows, policy, **settings):
    """One of trl's trainers on `policy`, on the CPU, with nothing but the loss's own settings."""
    against = {"ref_model": copy.deepcopy(reference).cpu()} if trainer in (DPOTrainer, KTOTrainer) else {}
    common = dict(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, bf16=False,
        gradient_checkpointing=False, remove_unused_columns=False, lr_scheduler_type="constant", weight_decay=0.0,
    )  # fmt: skip
    settings = {"per_device_train_batch_size": len(rows), **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trainer(
            model=policy,
            args=config(**common, **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=trl_tokenizer,
            **against,
        )


paired = [{"prompt": p.prompt, "chosen": response_of(p.chosen), "rejected": response_of(p.rejected)} for p in four]
single = [
    {"prompt": p.prompt, "completion": response_of(side), "label": good}
    for p in four
    for side, good in ((p.chosen, True), (p.rejected, False))
]
PEERS = {
    "DPO": (DPOTrainer, DPOConfig, paired, dict(beta=0.5)),
    "IPO": (DPOTrainer, DPOConfig, paired, dict(beta=0.5, loss_type="ipo")),
    "KTO": (KTOTrainer, KTOConfig, single, dict(beta=0.5)),
    "ORPO": (ORPOTrainer, ORPOConfig, paired, dict(beta=0.5, max_length=64)),
    "CPO": (CPOTrainer, CPOConfig, paired, dict(beta=0.5, max_length=64)),
    "SimPO": (CPOTrainer, CPOConfig, paired, dict(beta=2.0, max_length=64, loss_type="simpo", simpo_gamma=0.5, cpo_alpha=0.0)),
}  # fmt: skip


@torch.no_grad()
def loss_of_trl(name):
    trainer, config, rows, settings = PEERS[name]
    built = trl_trainer(trainer, config, rows, copy.deepcopy(noisy), **settings)
    built.model.eval()
    batch = built.data_collator([built.train_dataset[i] for i in range(len(rows))])
    if trainer in (DPOTrainer, KTOTrainer):
        return built._compute_loss(built.model, batch, False).item()
    return built.get_batch_loss_metrics(built.model, batch)[0].item()


@torch.no_grad()
def loss_of_ours(name):
    """Our functions on the same four pairs. Three of trl's choices are told apart in the next cell."""
    ours, theirs = (copy.deepcopy(m).cpu() for m in (noisy, reference))
    sides = [text.pad([getattr(p, side) for p in four], tokenizer.pad_token_id) for side in ("chosen", "rejected")]
    logps = [logprobs.sequence_logprobs(model, *side) for model in (ours, theirs) for side in sides]
    lengths = [side.response_mask.sum(-1) for side in sides]
    kl = torch.tensor(0.0)
    if name == "IPO":  # trl: log-ratios per token
        logps = [values / lengths[i % 2] for i, values in enumerate(logps)]
    if name == "KTO":  # trl: each prompt with the response of the row before it
        rows = [example for p in four for example in (p.chosen, p.rejected)]
        moved = text.pad([mismatched(rows[i], rows[i - 1]) for i in range(len(rows))], tokenizer.pad_token_id)
        kl = (logprobs.sequence_logprobs(ours, *moved) - logprobs.sequence_logprobs(theirs, *moved)).mean()
    value = METHODS[name](Scores(*logps, *lengths, kl), STRENGTH[name]).mean()
    if name in ("ORPO", "CPO"):  # trl: SFT over the batch's tokens; ORPO's counts the prompt's too
        rows = sides[0]._replace(response_mask=sides[0].attention_mask) if name == "ORPO" else sides[0]
        nll = -logprobs.token_logprobs(ours, *rows).sum() / rows.response_mask[:, 1:].sum()
        value = value + (logps[0] / lengths[0]).mean() + nll
    return value.item()


def mismatched(mine, other):
    """The prompt of one example with the response of another."""
    prompt = [token for token, mask in zip(*mine) if not mask]
    response = [token for token, mask in zip(*other) if mask]
    return text.Example(prompt + response, [0] * len(prompt) + [1] * len(response))


peer_losses = {name: (loss_of_ours(name), loss_of_trl(name)) for name in METHODS}
run.table(
    [[name, f"{ours:.6f}", f"{theirs:.6f}", f"{abs(ours - theirs):.0e}"] for name, (ours, theirs) in peer_losses.items()],
    ["loss", "ours", "trl", "difference"], caption="The same four pairs, the same model",
)  # fmt: skip
peer_gap = max(abs(ours - theirs) for ours, theirs in peer_losses.values())
run.claim("all six equal trl's to 1e-5", peer_gap < 1e-5)

# %% [markdown]
# Getting there took three discoveries, each a place where a library departs from its paper: trl divides IPO's log-ratios by the
# number of tokens (its source says that the paper's authors did so too), averages the SFT term of CPO and ORPO over tokens where
# CPO's paper sums it over the response, and lets ORPO's SFT term count the *prompt*. None is a bug. All change what a learning rate or a $\beta$ means.
# So never carry a hyperparameter from one code base to another.
#
# ## Exact scores
#
# No sampling is needed to say how good a trained model is. With the probabilities of all 1,100 endings, expected gold, win rate
# (a double sum over what the policy says and what the reference says, ties half), KL divergence, mean length and broken share are
# sums. So is the best that *any* method could do: $\pi^*\propto\pi_\mathrm{ref}\,e^{r/\beta}$, for every price $\beta$ of KL.

# %%
LENGTHS = torch.tensor([len(tokenizer.encode(e.text, add_special_tokens=False)) + 1 for e in scenes.ENDINGS]).double()
LEVELS = torch.cat([scenes.GOLD, torch.tensor([scenes.BROKEN], dtype=torch.float64)])  # "broken" is outcome 1,101
BETTER = (LEVELS[:, None] > LEVELS).double() + 0.5 * (LEVELS[:, None] == LEVELS)


def with_broken(logps):
    """(P, 1100) log-probabilities -> (P, 1101) probabilities, the last one of being broken."""
    probs = logps.exp()
    return torch.cat([probs, (1 - probs.sum(-1, keepdim=True)).clamp_min(0)], -1)


def scores(logps, ref_logps):
    """Exact scores of a policy, means over prompts, from (P, 1100) log-probabilities."""
    p, q = with_broken(logps), with_broken(ref_logps)
    return {
        "gold": scenes.expected_gold(logps).mean().item(),
        "win": (p @ BETTER * q).sum(-1).mean().item(),
        "kl": scenes.exact_kl(logps, ref_logps).mean().item(),
        "length": ((p[:, :-1] @ LENGTHS) / p[:, :-1].sum(-1)).mean().item(),
        "broken": p[:, -1].mean().item(),
    }


unseen = heldout_prompts[:: len(heldout_prompts) // (budget.search_prompts + budget.prompts)]
search_prompts, test_prompts = unseen[: budget.search_prompts], unseen[budget.search_prompts :][: budget.prompts]
search_reference = scenes.exact_logprobs(reference, tokenizer, search_prompts)
test_reference = scenes.exact_logprobs(reference, tokenizer, test_prompts)
before = scores(test_reference, test_reference)
print({name: round(value, 3) for name, value in before.items()})


def optimum(ref_logps, price):
    """The closed-form optimum of gold - price * KL: its mean expected gold and KL over prompts."""
    q = with_broken(ref_logps)
    p = (q.log() + LEVELS / price).softmax(-1)
    return (p @ LEVELS).mean().item(), (p * (p / q).log()).nansum(-1).mean().item()


PRICES = np.geomspace(8, 0.06, 40)
frontier = [optimum(test_reference, price) for price in PRICES]

# %% [markdown]
# ## Training
#
# All weights are trained (there are few), with AdamW and a learning rate that falls to zero. KTO gets the same pairs as twice as many single responses, and
# needs one more forward pass of both models for its reference point.


# %%
def forward(policy, batch, ref, with_kl):
    """Scores of a batch of pairs under the policy."""
    rows = padded([p.chosen for p in batch] + [p.rejected for p in batch])
    now, lengths = logprobs.sequence_logprobs(policy, *rows).chunk(2), rows.response_mask.sum(-1).chunk(2)
    kl = torch.zeros((), device=device)
    if with_kl:
        with torch.no_grad():
            moved = padded([mismatched(batch[i].chosen, batch[i - 1].rejected) for i in range(len(batch))])
            kl = (logprobs.sequence_logprobs(policy, *moved) - logprobs.sequence_logprobs(reference, *moved)).mean()
    return Scores(*now, *ref, *lengths, kl)


def train(name, setting, pairs, ref, steps, seed, watch=None):
    """A fresh copy of the reference, trained by one method. setting: (learning rate, the loss's own settings ...)."""
    rate, *settings = setting
    policy = copy.deepcopy(reference)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    draw, order = random.Random(seed), []
    for step in range(steps):
        if len(order) < budget.batch:
            order += draw.sample(range(len(pairs)), len(pairs))
        index, order = order[: budget.batch], order[budget.batch :]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5) * (1 - step / steps)
        batch = forward(policy, [pairs[i] for i in index], ref[:, index], name == "KTO")
        loss = METHODS[name](batch, *settings).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if watch:
            watch.add(name, step + 1, margin(batch).mean().item())
    return policy.eval()


# %% [markdown]
# ## A small search, told and not hidden
#
# A comparison is worth what its tuning is worth. Every method gets the same: three settings, one seed, the same few prompts, which
# belong neither to the training pairs nor to the test, and one criterion, the objective that DPO was derived from:
# $\mathbb{E}[r]-\tfrac12\,\mathrm{KL}$.

# %%
PRICE = 0.5
GRID = {  # (learning rate, beta or tau): two rates, and a second strength at the faster one
    "DPO": [(1e-4, 0.5), (3e-4, 0.5), (3e-4, 1.0)],
    "IPO": [(1e-4, 0.2), (3e-4, 0.2), (3e-4, 0.5)],
    "KTO": [(1e-4, 1.0), (3e-4, 1.0), (3e-4, 2.0)],
    "ORPO": [(1e-4, 4.0), (3e-4, 4.0), (3e-4, 1.0)],
    "CPO": [(1e-4, 0.5), (3e-4, 0.5), (3e-4, 0.2)],
    "SimPO": [(1e-4, 5.0), (3e-4, 5.0), (3e-4, 2.0)],
}
at_reference = summed_logps(reference, pairs)
trials = [(name, setting) for name in METHODS for setting in GRID[name][: budget.settings]]
searched = {}
for i in run.progress(len(trials), "search"):
    name, setting = trials[i]
    policy = train(name, setting, pairs, at_reference, budget.steps, seed=0)
    searched[name, setting] = scores(scenes.exact_logprobs(policy, tokenizer, search_prompts), search_reference)


def objective(s):
    return s["gold"] - PRICE * s["kl"]


CHOSEN = {
    name: max((s for n, s in searched if n == name), key=lambda s: objective(searched[name, s])) for name in METHODS
}
run.table(
    [
        [name, f"{setting[0]:.0e}", setting[1], *(f"{s[k]:.2f}" for k in ("gold", "kl")), f"{objective(s):.2f}", "taken" if CHOSEN[name] == setting else ""]
        for (name, setting), s in searched.items()
    ],
    ["method", "learning rate", "beta or tau", "gold", "KL", "gold - KL/2", ""],
    caption="The search: all that was tried",
)  # fmt: skip

# %% [markdown]
# ## The comparison
#
# The settings taken, three seeds, each with pairs of its own, and prompts that no run has seen.

# %%
probe, _ = draw_pairs(budget.probe, seed=99)
probe_start = summed_logps(reference, probe)
results, policies = {name: [] for name in METHODS}, {}
data = {0: (pairs, at_reference)}
todo = [(name, seed) for seed in range(budget.seeds) for name in METHODS]
margins = run.curve("Margin of each batch before its step, first seed", y="nats", lines=COLOURS)
for i in run.progress(len(todo), "six methods, every seed", curve=margins):
    name, seed = todo[i]
    if seed not in data:
        fresh, _ = draw_pairs(budget.pairs, seed=seed)
        data[seed] = fresh, summed_logps(reference, fresh)
    policy = train(name, CHOSEN[name], *data[seed], budget.steps, seed, margins if seed == 0 else None)
    moved = summed_logps(policy, probe) - probe_start
    got = scores(scenes.exact_logprobs(policy, tokenizer, test_prompts), test_reference)
    results[name].append(got | {"chosen": moved[0].mean().item(), "rejected": moved[1].mean().item()})
    if seed == 0:
        policies[name] = policy


def band(name, key):
    """(mean, lowest, highest) over the seeds."""
    values = [r[key] for r in results[name]]
    return sum(values) / len(values), min(values), max(values)


def shown(name, key, format):
    mean, low, high = (f"{v:{format}}" for v in band(name, key))
    return f"{mean} ({low} to {high})"


margins.show()

# %% [markdown]
# Six losses in six units cannot share a plot; the margin that they produce can. Now the scores.

# %%
FORMATS = {
    "gold": ".2f",
    "win": ".0%",
    "kl": ".2f",
    "length": ".2f",
    "broken": ".1%",
    "chosen": "+.1f",
    "rejected": "+.1f",
}
run.table(
    [
        ["reference", *(f"{before[key]:{FORMATS[key]}}" for key in ("gold", "win", "kl", "length", "broken")), "0", "0"],
        *([name, *(shown(name, key, format) for key, format in FORMATS.items())] for name in METHODS),
    ],
    ["method", "expected gold", "win rate", "KL (nats)", "length (tokens)", "broken", "chosen (nats)", "rejected (nats)"],
    caption="Exact scores on held-out prompts: mean, lowest and highest of the seeds. Chosen, rejected: change of log-probability",
)  # fmt: skip

# %%
fig = go.Figure()
fig.add_scatter(
    x=np.float32([kl for _, kl in frontier]), y=np.float32([gold for gold, _ in frontier]), mode="lines",
    name="best possible", line={"color": palette.MIDDLE["reference"]},
)  # fmt: skip
for name in METHODS:
    fig.add_scatter(
        x=np.float32([r["kl"] for r in results[name]]), y=np.float32([r["gold"] for r in results[name]]), mode="markers",
        name=name, marker={"color": palette.MIDDLE[COLOURS[name]], "size": 10, "symbol": "circle" if name in ("DPO", "IPO", "KTO") else "diamond"},
    )  # fmt: skip
fig.update_layout(
    title="What was gained, and for how much KL",
    xaxis_title="KL to the reference (nats)",
    yaxis_title="expected gold reward",
    hovermode="closest",
)
run.figure(
    fig,
    "Expected gold against KL for every run, and the closed-form frontier above them. Diamonds: no reference model.",
)


# %% [markdown]
# The line is the closed form: nothing can lie above it. The height of a point above the start is what the method learned, its
# distance from the line is what it wasted.


# %%
def efficiency(r):
    """Gold gained, as a share of the most that could be had for the same KL."""
    gold, kl = (np.array([f[i] for f in frontier]) for i in (0, 1))
    return (r["gold"] - before["gold"]) / (np.interp(r["kl"], kl, gold) - before["gold"])


EFFICIENCY = {name: [efficiency(r) for r in results[name]] for name in METHODS}
run.table(
    [[name, f"{min(v):.0%} to {max(v):.0%}"] for name, v in EFFICIENCY.items()],
    ["method", "gold gained, of what the same KL could buy"], caption="How near the frontier",
)  # fmt: skip
all_runs = [r for name in METHODS for r in results[name]]
least_gain = min(r["gold"] for name in ("IPO", "ORPO", "CPO") for r in results[name]) - before["gold"]
highest = max(efficiency(r) for r in all_runs)
run.claim("IPO, ORPO and CPO raise the gold reward with every seed", least_gain > 0.05)
run.claim("no run lies above the frontier", highest < 1.0)

# %% [markdown]
# Where does the waste go? Look at the column *broken*, and at how far its seeds lie apart. A broken sentence is hardly ever a rejected
# response, so little pushes it down; when rejected endings are pushed, some of their probability lands there, and each point of it
# costs a point of reward and more. The SFT term of ORPO and CPO raises whole, correct sentences at every step, and that keeps the
# model in one piece.

# %%
broken = {name: band(name, "broken")[0] for name in METHODS}
most_with_sft = max(r["broken"] for name in ("ORPO", "CPO") for r in results[name])
run.claim("with an SFT term less than 5% is broken, with every seed", most_with_sft < 0.05)
near = sorted(METHODS, key=lambda name: sum(EFFICIENCY[name]))
weak = sorted(METHODS, key=broken.get)
for place, name in (("nearest", near[-1]), ("farthest", near[0]), ("least_broken", weak[0]), ("most_broken", weak[-1])):
    run.result(place, None, name)
run.result("nearest_share", sum(EFFICIENCY[near[-1]]) / budget.seeds, format=".0%")
run.result("farthest_share", sum(EFFICIENCY[near[0]]) / budget.seeds, format=".0%")

# %% [markdown]
# ## A failure that the loss does not see
#
# Be in a hurry: ten times the learning rate. Take DPO, which has a reference model, SimPO, which has none, and ORPO, which has
# none but an SFT term.

# %%
HURRY = {"DPO": (3e-3, 0.5), "SimPO": (3e-3, 5.0), "ORPO": (3e-3, 4.0)}
hurried, hurry_loss, hurried_policies = {}, {}, {}
start_loss, names = {}, list(HURRY)
for i in run.progress(len(names), "in a hurry"):
    name = names[i]
    policy = train(name, HURRY[name], *data[0], budget.steps, seed=0)
    hurried[name] = scores(scenes.exact_logprobs(policy, tokenizer, test_prompts), test_reference)
    with torch.no_grad():
        start_loss[name], hurry_loss[name] = (
            METHODS[name](forward(model, probe, probe_start, False), HURRY[name][1]).mean().item()
            for model in (reference, policy)
        )
    hurried_policies[name] = policy
run.table(
    [
        [name, f"{start_loss[name]:.3f}", f"{hurry_loss[name]:.3f}", *(f"{s[key]:{FORMATS[key]}}" for key in ("gold", "win", "kl", "broken"))]
        for name, s in hurried.items()
    ],
    ["method", "loss before", "loss after", "expected gold", "win rate", "KL (nats)", "broken"],
    caption="In a hurry. The losses are of pairs that were not trained on",
)  # fmt: skip


def said(policy, prompts, seed=1):
    """One sampled ending per prompt."""
    ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    samples = decoding.generate(
        policy, ids, 16, Sampling(), stop_id=END, generator=torch.Generator(device).manual_seed(seed)
    )
    return [tokenizer.decode(s.ids) + ("" if s.ended else " ...") for s in samples]


run.table(
    list(zip(test_prompts, *(said(policy, test_prompts) for policy in (reference, policies["DPO"], *hurried_policies.values())))),
    ["prompt", "reference", "DPO", *(f"{name} in a hurry" for name in HURRY)], caption="What they say",
)  # fmt: skip
run.claim(
    "in a hurry DPO and SimPO break, and ORPO much less",
    min(hurried["DPO"]["broken"], hurried["SimPO"]["broken"]) > max(0.5, 2 * hurried["ORPO"]["broken"]),
)
run.claim("and DPO's loss on unseen pairs has fallen all the same", hurry_loss["DPO"] < start_loss["DPO"])

# %% [markdown]
# The model of the first row has stopped writing sentences, and its loss, on pairs that it never saw, is *better* than before. The
# loss compares two given texts; it does not ask what the model would write. The reference stands in it only through those two texts, so it
# does not hold the model anywhere else. What holds ORPO is plain imitation. So look at what a model says, always.
#
# ## As you would at work: trl
#
# Ten lines train any of the six; the table of `PEERS` above holds what differs. Here SimPO, and beside it our own loop on the same pairs in the same order.

# %%
from transformers import PrinterCallback

whole = [p for p in pairs if min(p.gold) >= 0][: 8 * budget.trl_steps]  # trl would end the responses that were cut
rows = [{"prompt": p.prompt, "chosen": response_of(p.chosen), "rejected": response_of(p.rejected)} for p in whole]
trainer = trl_trainer(
    CPOTrainer, CPOConfig, rows, copy.deepcopy(reference).cpu(), loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0,
    learning_rate=3e-4, per_device_train_batch_size=8, max_steps=budget.trl_steps, max_length=64, logging_steps=1,
    train_sampling_strategy="sequential",
)  # fmt: skip
trainer.remove_callback(PrinterCallback)
trainer.train()
theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

policy, ours = copy.deepcopy(reference).cpu(), []
optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-4, weight_decay=0.0)
for step in range(budget.trl_steps):
    batch = whole[8 * step : 8 * step + 8]
    sides = [text.pad([getattr(p, side) for p in batch], tokenizer.pad_token_id) for side in ("chosen", "rejected")]
    logps = PairLogps(*(logprobs.sequence_logprobs(policy, *side) for side in sides))
    loss = simpo_loss(
        per_token(logps, PairLogps(*(side.response_mask.sum(-1) for side in sides))), beta=2.0, gamma=0.5
    ).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    ours.append(loss.item())
trl_gap = max(abs(a - b) for a, b in zip(ours, theirs))
print("trl ", [round(value, 4) for value in theirs])
print("ours", [round(value, 4) for value in ours])
run.claim(
    "trl's training of SimPO and ours follow the same losses to 1e-3", len(theirs) == len(ours) and trl_gap < 1e-3
)

# %% [markdown]
# ## Play with all six
#
# Real pairs, where DPO's training left them. Every curve is calculated from the formulas above.

# %%
kept = probe[:40]
with torch.no_grad():
    after = forward(policies["DPO"], kept, probe_start[:, :40], False)
columns = [values.double().cpu().tolist() for values in after[:6]]
points = [
    {
        "name": f"{pair.prompt} ...{response_of(pair.chosen)} | ...{response_of(pair.rejected)}",
        "prompt": pair.prompt, "chosen_text": response_of(pair.chosen).strip(), "rejected_text": response_of(pair.rejected).strip(),
        "chosen": chosen - ref_w, "rejected": rejected - ref_l, "chosen_logp": chosen, "rejected_logp": rejected,
        "chosen_tokens": n_w, "rejected_tokens": n_l,
    }
    for pair, chosen, rejected, ref_w, ref_l, n_w, n_l in zip(kept, *columns)
]  # fmt: skip
run.explorer(
    "preference_losses", {"points": points, "beta": 0.5, "tau": 0.5, "gamma": 0.5, "simpo_beta": 2.0, "orpo_beta": 0.5}
)

# %% [markdown]
# ## Results

# %%
run.result("example_prompt", None, example.prompt)
run.result("example_chosen", None, response_of(example.chosen).strip())
run.result("example_rejected", None, response_of(example.rejected).strip())
run.result("example_ref_chosen", ref_chosen, format=".3f")
run.result("example_ref_rejected", ref_rejected, format=".3f")
run.result("example_now_chosen", now_chosen, format=".3f")
run.result("example_now_rejected", now_rejected, format=".3f")
run.result("example_chosen_tokens", chosen_tokens)
run.result("example_rejected_tokens", rejected_tokens)
run.result("example_mean_chosen", mean_chosen, format=".4f")
run.result("example_mean_rejected", mean_rejected, format=".4f")
run.result("example_odds_chosen", odds_chosen, format=".4f")
run.result("example_odds_rejected", odds_rejected, format=".4f")
for name in METHODS:
    run.result(f"example_loss_{name.lower()}", by_hand[name], format=".4f")
run.result("peer_gap", peer_gap, format=".0e")
run.result("pairs", budget.pairs)
run.result("steps", budget.steps)
run.result("seeds", budget.seeds)
run.result("judge_against", against, format=".0%")
run.result("ties", ties, format=".0%")
run.result("mean_tokens_chosen", tokens[:, 0].mean(), format=".2f")
run.result("mean_tokens_rejected", tokens[:, 1].mean(), format=".2f")
for key in ("gold", "win", "kl", "length", "broken"):
    run.result(f"reference_{key}", before[key], format=FORMATS[key])
for name in METHODS:
    for key, form in FORMATS.items():
        run.result(f"{name.lower()}_{key}", band(name, key)[0], text=shown(name, key, form))
    run.result(
        f"{name.lower()}_efficiency",
        min(EFFICIENCY[name]),
        text=f"{min(EFFICIENCY[name]):.0%} to {max(EFFICIENCY[name]):.0%}",
    )
    run.result(f"{name.lower()}_rate", CHOSEN[name][0], format=".0e")
    run.result(f"{name.lower()}_strength", CHOSEN[name][1])
run.result("hurry_rate", HURRY["DPO"][0], format=".0e")
for name in hurried:
    run.result(f"hurry_{name.lower()}_loss", hurry_loss[name], format=".3f")
    for key in ("gold", "kl", "broken", "length"):
        run.result(f"hurry_{name.lower()}_{key}", hurried[name][key], format=FORMATS[key])
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. IPO's square** (difficulty 1, 4 minutes). Margins $m_\theta$, (B,), and $\tau$ to IPO's loss of every pair, (B,).


# %%
def my_ipo(margin, tau): ...


check("preference_family.ipo", my_ipo)

# %% [markdown]
# **2. KTO's reference point** (difficulty 2, 6 minutes). Log-probabilities (B,) of *other prompts'* responses, under policy and
# reference, to $z_0$: one number that the loss treats as a constant.


# %%
def my_reference_point(policy, reference): ...


check("preference_family.reference_point", my_reference_point)

# %% [markdown]
# **3. Log-odds that survive float32** (difficulty 2, 8 minutes). $\log p$, any shape, to $\log\frac{p}{1-p}$. It must be right for
# $p=e^{-69}$ and for $p=1-10^{-7}$.


# %%
def my_log_odds(logp): ...


check("preference_family.log_odds", my_log_odds)

# %% [markdown]
# **4. SimPO from sums** (difficulty 2, 6 minutes). Summed log-probabilities and lengths, each (B,), to SimPO's loss (B,).


# %%
def my_simpo(chosen, rejected, chosen_tokens, rejected_tokens, beta, gamma): ...


check("preference_family.simpo", my_simpo)

# %% [markdown]
# **5. An exact win rate** (difficulty 3, 10 minutes). Two models give N responses the probabilities `policy` and `reference`, (N,) each; `reward`
# (N,) says how good each response is. With what probability does a response of the policy beat one of the reference? A tie is half a win.


# %%
def my_win_rate(policy, reference, reward): ...


check("preference_family.win_rate", my_win_rate)
