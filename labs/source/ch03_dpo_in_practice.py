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
# # DPO in practice: turn every knob, and measure exactly
#
# Which $\beta$? Which learning rate? How many epochs? On a real model you would train for a day and ask a judge. Here the model is
# small enough, and the world closed enough, that quality, distance and damage are **exact sums**: no judge, no sampling error.
#
# - **You will** build a DPO loop with six knobs, turn one at a time, and judge each by the gold reward and the KL divergence;
#   see the chosen answer sink while the loss falls, and find where its probability went; watch a model get better, and
#   then worse, under a judge with a soft spot; and measure what all this does to abilities that nobody trained.
# - **Time:** about 5 minutes on a CPU with two cores, 2 minutes on a GPU.
#
# **Sections:** 3.4.1-3.4.2

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
# ## A world in which nothing has to be estimated
#
# `tiny` continues "The old bear" with one of 1,100 **endings**: a verb, a place and, in half of all cases, a time. They hold 98.5% of
# its probability; the rest is *broken*, text that is no ending. The **gold reward** of an ending is known: 1 for a lively verb, 1 for a place outdoors,
# 0.5 for naming no time; broken text gets −1. So the expected reward of a policy is a sum over 1,101 outcomes, and so is its KL divergence.

# %%
import copy
import itertools
import math
import random
import tempfile
import warnings
from types import SimpleNamespace

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, decoding, lab, logprobs, models, palette, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.losses.preference import PairLogps, dpo_loss, per_token
from alignlab.tasks import arithmetic, scenes, sentences

warnings.filterwarnings("ignore", category=FutureWarning)
run = lab.Lab("ch03_dpo_in_practice")
budget = run.budget(
    full=dict(
        prompts=2,
        pairs=1440,
        steps=60,
        batch=24,
        seeds=2,
        few=180,
        noisy=360,
        fixed=36,
        many=2000,
        long=80,
        look=16,
        sums=100,
        trl=8,
    ),
    quick=dict(
        prompts=1, pairs=24, steps=2, batch=4, seeds=1, few=8, noisy=8, fixed=2, many=24, long=2, look=2, sums=6, trl=2
    ),
)
compute.seed(0)
reference, tokenizer = models.load("tiny")
device = next(reference.parameters()).device
END_ID = tokenizer.convert_tokens_to_ids(scenes.END)
GOLD = scenes.GOLD
INDEX = {ending.text: i for i, ending in enumerate(scenes.ENDINGS)}
TRAIN = list(scenes.prompts("train"))
PROMPTS = list(scenes.prompts("held-out"))[:: len(list(scenes.prompts("held-out"))) // budget.prompts][: budget.prompts]
ENDINGS = [scenes.encode(tokenizer, "", ending.text).ids for ending in scenes.ENDINGS]
LENGTH = torch.tensor([len(ids) for ids in ENDINGS])  # tokens of each ending, its end token included
SAME = [(length == LENGTH).nonzero().flatten() for length in LENGTH.unique()]  # endings of one length: no padding


@torch.no_grad()
def ending_logps(policy):
    """log p(ending | prompt), (prompts, 1100): scenes.exact_logprobs without its padding."""
    logps = torch.zeros(len(PROMPTS), len(ENDINGS), dtype=torch.float64)
    for row, prompt in enumerate(PROMPTS):
        for group in SAME:
            examples = [scenes.encode(tokenizer, prompt, scenes.ENDINGS[i].text) for i in group]
            batch = text.pad(examples, tokenizer.pad_token_id).to(device)
            logps[row, group] = logprobs.sequence_logprobs(policy, *batch).double().cpu()
    return logps


ref_logps = ending_logps(reference)
same_gap = (ref_logps[0] - scenes.exact_logprobs(reference, tokenizer, PROMPTS[:1])[0]).abs().max().item()
run.claim("the lab's exact log-probabilities are the library's", same_gap < 1e-4)

# %% [markdown]
# What a policy is worth, in six exact numbers: expected gold reward; KL to the reference, in nats; probability of broken text; how often it beats the
# reference under the gold reward (the **win rate**, ties count half); mean length in tokens; and how many endings it effectively uses
# (the exponential of its entropy).

# %%
LEVELS = torch.tensor([scenes.BROKEN, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5], dtype=torch.float64)
IS_LEVEL = (GOLD[:, None] == LEVELS).double()  # (1100, 7)


def level_probs(logps):
    """Probability of each level of gold reward, (prompts, 7); what is no ending is broken."""
    probs = logps.exp() @ IS_LEVEL
    probs[:, 0] += 1 - logps.exp().sum(-1)
    return probs


def worth(logps):
    """Exact measures of a policy from its log-probabilities of the endings, averaged over prompts."""
    probs, (mine, theirs) = logps.exp(), (level_probs(logps), level_probs(ref_logps))
    beats = (LEVELS[:, None] > LEVELS).double() + 0.5 * (LEVELS[:, None] == LEVELS).double()
    shares = probs / probs.sum(-1, keepdim=True)
    return {
        "gold": scenes.expected_gold(logps).mean().item(),
        "kl": scenes.exact_kl(logps, ref_logps).mean().item(),
        "broken": 1 - probs.sum(-1).mean().item(),
        "win": torch.einsum("pi,ij,pj->p", mine, beats, theirs).mean().item(),
        "length": (shares @ LENGTH.double()).mean().item(),
        "endings": (-(shares * shares.clamp_min(1e-30).log()).sum(-1)).exp().mean().item(),
    }


before = worth(ref_logps)


def said_by(policy, count, seed=0):
    """What a policy says after the first prompt: texts, and whether each ended."""
    ids = tokenizer.encode(PROMPTS[0], add_special_tokens=False)
    generator = torch.Generator(device).manual_seed(seed)
    completions = decoding.generate(policy, [ids] * count, 16, Sampling(), stop_id=END_ID, generator=generator)
    return [(tokenizer.decode(completion.ids), completion.ended) for completion in completions]


for response, ended in said_by(reference, 4):
    print(f"{PROMPTS[0]}{response}  gold {scenes.gold_reward(response, ended)}")
print({name: round(value, 3) for name, value in before.items()})

# %% [markdown]
# ### The best that can be had
#
# For a price $\beta$ of one nat of KL, the best policy is $\pi_\mathrm{ref}\,e^{r/\beta}/Z$ (section 3.3.1 derives it). With 1,101 outcomes you can simply write it down.
# All values of $\beta$ together make the **frontier**: no policy has more gold reward at the same KL.


# %%
def optimum(reward, beta, broken=scenes.BROKEN):
    """log of pi_ref exp(reward / beta) / Z over the endings; `broken` is the reward of everything else."""
    outcomes = torch.cat([ref_logps, (1 - ref_logps.exp().sum(-1, keepdim=True)).log()], -1)
    scores = outcomes + torch.cat([reward, torch.tensor([broken]).double()]) / beta
    return (scores - scores.logsumexp(-1, keepdim=True))[:, :-1]


frontier = [{"beta": beta, **worth(optimum(GOLD, beta))} for beta in torch.logspace(1.2, -1.5, 28).double().tolist()]


def best_gold(kl):
    """The frontier's gold reward at a KL, interpolated; its last value beyond its end."""
    for left, right in itertools.pairwise(frontier):
        if left["kl"] <= kl <= right["kl"]:
            share = (kl - left["kl"]) / (right["kl"] - left["kl"])
            return left["gold"] + share * (right["gold"] - left["gold"])
    return (
        frontier[-1]["gold"]
        if kl > frontier[-1]["kl"]
        else before["gold"] + kl * (frontier[0]["gold"] - before["gold"]) / frontier[0]["kl"]
    )


# %% [markdown]
# ## Pairs
#
# Two endings for a prompt, sampled from the reference. A judge with reward $r$ prefers the first with probability $\sigma(r_1-r_2)$: Bradley-Terry, so
# even a good judge errs. Ours has $r = 4$ times the gold reward: endings that differ by 0.5 in gold are told apart in 88% of cases. `flip` turns further
# labels round. Equal endings are dropped.


# %%
def sampled(prompts, seed):
    """An ending for each prompt from the reference: [(text, ended)]."""
    generator = torch.Generator(device).manual_seed(seed)
    ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    completions = decoding.generate(reference, ids, 16, Sampling(), stop_id=END_ID, generator=generator)
    return [(tokenizer.decode(completion.ids), completion.ended) for completion in completions]


SHARP = 4.0


def make_pairs(count, score_of, seed, flip=0.0):
    """[(prompt, chosen, rejected)], each answer (text, ended), as a judge with reward SHARP * score_of prefers them."""
    draw = random.Random(seed)
    prompts = [draw.choice(TRAIN) for _ in range(count)]

    def score(response):
        return score_of[INDEX[response[0]]].item() if response[1] and response[0] in INDEX else scenes.BROKEN

    pairs = []
    for prompt, first, second in zip(prompts, sampled(prompts, seed), sampled(prompts, seed + 1000)):
        wins = 1 / (1 + math.exp(SHARP * (score(second) - score(first))))
        if (draw.random() >= wins) != (draw.random() < flip):
            first, second = second, first
        if first != second:
            pairs.append((prompt, first, second))
    return pairs


gold_pairs = [make_pairs(budget.pairs, GOLD, seed) for seed in range(budget.seeds)]
run.table(
    [[prompt, chosen[0], rejected[0], scenes.gold_reward(*chosen), scenes.gold_reward(*rejected)] for prompt, chosen, rejected in gold_pairs[0][:6]],
    ["prompt", "chosen", "rejected", "gold of chosen", "gold of rejected"],
    caption="Six pairs: the judge is right more often than not",
)  # fmt: skip

# %% [markdown]
# ## The loss, with its knobs
#
# Four knobs are in the loss: $\beta$; **label smoothing** $\varepsilon$, which takes each label to be wrong with that probability; **length normalization**, which
# divides each log-ratio by the number of its tokens; and an **NLL term** that adds the loss of supervised fine-tuning on the chosen answer.


# %%
def preference_loss(policy, ref, beta, smoothing=0.0):
    """policy, ref: (chosen, rejected) log-probabilities, each (B,). Returns (B,)."""
    margin = (policy[0] - ref[0]) - (policy[1] - ref[1])
    return -(1 - smoothing) * F.logsigmoid(beta * margin) - smoothing * F.logsigmoid(-beta * margin)


four = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) * 4 - 20
loss_gap = max(
    (preference_loss(four[:2], four[2:], beta, eps) - dpo_loss(PairLogps(*four[:2]), PairLogps(*four[2:]), beta, eps))
    .abs()
    .max()
    .item()
    for beta, eps in ((0.1, 0.0), (0.5, 0.2))
)
run.claim("the loss in the open is the library's", loss_gap < 1e-5)


# %%
def collate(pairs):
    """2B rows: chosen, then rejected."""
    rows = [scenes.encode(tokenizer, prompt, *chosen) for prompt, chosen, _ in pairs]
    rows += [scenes.encode(tokenizer, prompt, *rejected) for prompt, _, rejected in pairs]
    return text.pad(rows, tokenizer.pad_token_id).to(device)


@torch.no_grad()
def pair_logps(policy, pairs):
    """Log-probabilities of chosen and rejected, (pairs, 2)."""
    parts = [
        logprobs.sequence_logprobs(policy, *collate(pairs[i : i + 256])).view(2, -1).T
        for i in range(0, len(pairs), 256)
    ]
    return torch.cat(parts)


BETA, RATE = 0.5, 1e-4
KNOWN = {}  # the reference's log-probabilities of a set of pairs, computed once


def train(
    pairs,
    beta=BETA,
    rate=RATE,
    steps=None,
    seed=0,
    smoothing=0.0,
    by_token=False,
    nll=0.0,
    mixed=None,
    start=reference,
    look=0,
    score=None,
    preference=1.0,
):
    """DPO from `start`, which is also the reference. Returns the policy and what was measured on the way.

    by_token: mean instead of summed log-ratios, beta scaled by the mean length. nll: weight of the NLL of chosen, per token.
    mixed: further examples whose NLL is added. look: measure every so many steps. score: a reward to average as "proxy".
    preference: weight of the preference loss; 0 is plain SFT.
    """
    compute.seed(seed)
    steps, draw = steps or budget.steps, random.Random(seed)
    policy = copy.deepcopy(start).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    if (id(start), id(pairs)) not in KNOWN:
        KNOWN[id(start), id(pairs)] = pair_logps(start, pairs)
    ref, order, losses, points = KNOWN[id(start), id(pairs)], [], [], []
    mean_length = collate(pairs[:256]).response_mask.sum(-1).float().mean().item()

    def measure(step):
        logps = ref_logps if step == 0 and start is reference else ending_logps(policy)
        now = pair_logps(policy, pairs[:64]).mean(0)
        gained = (now - ref[:64].mean(0)).tolist()
        recent = losses[-16:] or [math.log(2)]
        proxy = (
            (logps.exp() @ score + (1 - logps.exp().sum(-1)) * scenes.BROKEN).mean().item()
            if score is not None
            else 0.0
        )
        points.append({
            "step": step, **worth(logps), "loss": sum(recent) / len(recent), "proxy": proxy, "logps": logps,
            "chosen": gained[0], "rejected": gained[1], "chosen_logp": now[0].item(), "rejected_logp": now[1].item(),
        })  # fmt: skip

    for step in range(steps):
        if look and step % look == 0:
            measure(step)
        while len(order) < budget.batch:  # an epoch is one pass through a new random order
            order += draw.sample(range(len(pairs)), len(pairs))
        rows, order = order[: budget.batch], order[budget.batch :]
        batch = collate([pairs[row] for row in rows])
        logps, tokens = logprobs.sequence_logprobs(policy, *batch), batch.response_mask.sum(-1)
        scale = mean_length / tokens if by_token else torch.ones_like(logps)
        mine, theirs = (logps * scale).chunk(2), (ref[rows].T.flatten() * scale).chunk(2)
        loss = preference_loss(mine, theirs, beta, smoothing).mean()
        losses.append(loss.item())
        total = preference * loss
        if nll:
            total = total - nll * (logps / tokens).chunk(2)[0].mean()
        if mixed:
            extra = text.pad(draw.sample(mixed, 16), tokenizer.pad_token_id).to(device)
            total = total - logprobs.sequence_logprobs(policy, *extra).sum() / extra.response_mask.sum()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 8)
        total.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    measure(steps)
    return SimpleNamespace(policy=policy.eval(), points=points, ref=ref, pairs=pairs, **points[-1])


# %% [markdown]
# ### A battery for everything else
#
# `tiny` can do other things: sums and facts asked in its chat format; facts stated, and equations, in plain text. None of them is in any pair. For each question, two numbers: whether the greedy
# answer is right to the character, and the log-probability of the right answer per token. (One pass finds both: the greedy answer is right exactly if each of its
# tokens is the most likely one given the right tokens before it.)


# %%
def plain(question, answer):
    """Question and answer in plain text, as the scenes are."""
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (question, answer))
    return text.Example(before + after + [END_ID], [0] * len(before) + [1] * (len(after) + 1))


def stated(fact):
    """A fact in plain text, cut before what it tells: "The bear lives", " in a cave."; None where it begins otherwise."""
    for verb in (" is", " lives", " makes", " says"):
        start, found, rest = fact.statements[0].partition(f"{verb} ")
        if found and start.startswith("The "):
            return plain(start + verb, f" {rest}")
    return None


problems = random.Random(0).sample(list(arithmetic.problems("held-out")), budget.sums)
facts = list(sentences.questions("held-out"))[: budget.sums]
statements = [example for fact in sentences.FACTS if (example := stated(fact))]
BATTERY = {
    "sums": [text.encode_response(tokenizer, problem.questions[0], problem.answer) for problem in problems],
    "facts": [text.encode_response(tokenizer, *fact) for fact in facts],
    "statements": statements[::2][: budget.sums],
    "equations": [plain(f"{problem.expression} = ", f"{problem.value}.") for problem in problems],
}


@torch.no_grad()
def exam(policy):
    """{part: (share right, nats per token of the right answers)}."""
    result = {}
    for part, examples in BATTERY.items():
        batch = text.pad(examples, tokenizer.pad_token_id).to(device)
        logits = policy(batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        targets, mask = batch.input_ids[:, 1:], batch.response_mask[:, 1:].bool()
        right = ((logits.argmax(-1) == targets) | ~mask).all(-1).double().mean().item()
        result[part] = right, logprobs.selected_logprobs(logits, targets)[mask].mean().item()
    return result


exam_before = exam(reference)
run.table([[part, f"{right:.0%}", f"{logp:.4f}"] for part, (right, logp) in exam_before.items()], ["battery", "right", "log-prob. per token (nats)"], caption="Before any training")  # fmt: skip

# %% [markdown]
# ## Knob 1: beta
#
# Four values, each with other pairs and another order for each seed. Everything else stays.

# %%
BETAS = (0.1, 0.5, 2.0, 8.0)
NAMES = {0.1: "01", 0.5: "05", 1.0: "1", 2.0: "2", 8.0: "8"}
runs = {}
for beta, seed in run.progress([(beta, seed) for beta in BETAS for seed in range(budget.seeds)], "beta"):
    look = max(2, budget.steps // 4) if seed == 0 else 0
    runs[beta, seed] = train(gold_pairs[seed], beta=beta, seed=seed, look=look)


def mean_over(selected, name):
    return sum(getattr(one, name) for one in selected) / len(selected)


def row_of(label, selected):
    """A table's row: label, and means over the runs of a setting."""
    kl, gold = mean_over(selected, "kl"), mean_over(selected, "gold")
    return [label, f"{gold:.2f}", f"{kl:.2f}", f"{best_gold(kl) - gold:.2f}", f"{mean_over(selected, 'win'):.0%}", f"{mean_over(selected, 'broken'):.1%}", f"{mean_over(selected, 'loss'):.3f}"]  # fmt: skip


COLUMNS = ["gold reward", "KL (nats)", "below the frontier", "win rate", "broken", "loss at the end"]
by_beta = {beta: [runs[beta, seed] for seed in range(budget.seeds)] for beta in BETAS}
run.table(
    [row_of("reference", [SimpleNamespace(**before, loss=math.log(2))]), *(row_of(f"{beta:g}", by_beta[beta]) for beta in BETAS)],
    ["beta", *COLUMNS],
    caption=f"Beta, {budget.seeds} seeds each",
)  # fmt: skip

# %% [markdown]
# Now compare with where each $\beta$ *would* end: the optimum of the objective for that $\beta$, in closed form.

# %%
ideal = {beta: worth(optimum(SHARP * GOLD, beta, SHARP * scenes.BROKEN)) for beta in BETAS}
run.table(
    [
        [f"{beta:g}", f"{ideal[beta]['gold']:.2f}", f"{mean_over(by_beta[beta], 'gold'):.2f}", f"{ideal[beta]['kl']:.2f}", f"{mean_over(by_beta[beta], 'kl'):.2f}"]
        for beta in BETAS
    ],
    ["beta", "gold at the optimum", "gold reached", "KL at the optimum", "KL reached"],
    caption="Where beta points, and how far this run came",
)  # fmt: skip


# %%
def on_the_map(groups, title, said):
    """Gold reward against KL: the frontier, and paths of runs {name: (points, colour)}."""
    fig = go.Figure()
    fig.add_scatter(x=[p["kl"] for p in frontier], y=[p["gold"] for p in frontier], name="exact frontier", line=dict(color=palette.MIDDLE["reference"], dash="dash"))  # fmt: skip
    for name, (points, colour) in groups.items():
        fig.add_scatter(x=[p["kl"] for p in points], y=[p["gold"] for p in points], name=name, mode="lines+markers", line_color=palette.MIDDLE[colour])  # fmt: skip
    fig.update_layout(title=title, xaxis_title="KL to the reference (nats)", yaxis_title="expected gold reward")
    run.figure(fig, said)


on_the_map(
    {f"beta = {beta:g}": (runs[beta, 0].points, colour) for beta, colour in zip(BETAS, ("rejected", "policy", "value", "chosen"))},
    "Four values of beta on the map of gold and KL",
    "Each path starts at KL 0; a smaller beta goes farther; all stay below the frontier.",
)  # fmt: skip

# %% [markdown]
# Read the paths. The two smallest values begin alike: at margin 0 every pair has weight ½, and AdamW divides the gradient's size, $\beta$ included, out again. Only
# when $\beta m$ has grown to about 1 does $\beta$ say "enough"; for the largest value that is soon, and it stops near its optimum. For the smallest it never comes:
# the run goes on, past its best, into broken text. Its judge was the gold reward itself.
#
# ## Knob 2: learning rate

# %%
RATES = {"low": 1e-5, "usual": RATE, "high": 1e-3}
rate_runs = {"usual": by_beta[BETA]}
for name in run.progress(["low", "high"], "learning rate"):
    rate_runs[name] = [train(gold_pairs[0], rate=RATES[name])]
run.table([row_of(f"{RATES[name]:g}", rate_runs[name]) for name in RATES], ["learning rate", *COLUMNS], caption=f"Learning rate, beta {BETA}")  # fmt: skip

# %%
said_high = [response for response, _ in said_by(rate_runs["high"][0].policy, 4, seed=1)]
print(f"learning rate {RATES['high']}, loss {rate_runs['high'][0].loss:.3f}:", *said_high, sep="\n  ")

# %% [markdown]
# Nothing in the loss says that the model at the high rate is broken: the loss compares two texts, and looks at nothing else.
#
# ## Knob 3: epochs
#
# Few pairs, gone through again and again, against as many fresh ones. On **held-out pairs** from the same judge: how often does the implicit reward put the pair the right
# way round, and how sure is it? A policy that is calibrated is right as often as it is sure.


# %%
@torch.no_grad()
def judged(policy, ref_model, pairs, beta):
    """(share of pairs the right way round, mean probability given to the side that it prefers)."""
    margins = (pair_logps(policy, pairs) - pair_logps(ref_model, pairs)) @ torch.tensor([1.0, -1.0], device=device)
    sure = torch.sigmoid(beta * margins.abs())
    return (margins > 0).double().mean().item(), sure.mean().item()


unseen = make_pairs(max(8, budget.pairs // 4), GOLD, 77)
few = [pairs[: budget.few] for pairs in gold_pairs]
epochs = budget.steps * budget.batch / budget.few
few_runs = [train(few[seed], seed=seed) for seed in run.progress(range(budget.seeds), "few pairs")]
rows = []
for name, selected, data in (
    ("fresh pairs, 1 epoch", by_beta[BETA], gold_pairs),
    (f"{budget.few} pairs, {epochs:.0f} epochs", few_runs, few),
):
    seen = [judged(one.policy, reference, data[seed][:256], BETA) for seed, one in enumerate(selected)]
    new = [judged(one.policy, reference, unseen, BETA) for one in selected]
    (seen_right, _), (new_right, new_sure) = (
        [sum(values) / len(values) for values in zip(*both)] for both in (seen, new)
    )
    rows.append(
        [
            name,
            seen_right,
            new_right,
            new_sure,
            mean_over(selected, "gold"),
            mean_over(selected, "kl"),
            mean_over(selected, "loss"),
        ]
    )
run.table(
    [[row[0], *(f"{value:.0%}" for value in row[1:4]), *(f"{value:.2f}" for value in row[4:])] for row in rows],
    ["pairs", "right on its own pairs", "right on new pairs", "how sure on new pairs", "gold reward", "KL (nats)", "loss at the end"],
    caption="The same number of steps on fresh pairs and on few",
)  # fmt: skip
fresh_row, few_row = rows

# %% [markdown]
# ## Knob 4: label smoothing
#
# Turn round 30% of the labels, on top of the judge's own errors, and go through the pairs four times. Smoothing with the same 30% tells the loss not to believe any label
# beyond 70%: each pair's best margin is then finite, $\log\frac{0.7}{0.3}/\beta$.

# %%
FLIP = 0.3
noisy = [make_pairs(budget.noisy, GOLD, 200 + seed, flip=FLIP) for seed in range(budget.seeds)]
smooth_runs = {
    eps: [train(noisy[seed], seed=seed, smoothing=eps) for seed in range(budget.seeds)]
    for eps in run.progress((0.0, FLIP), "label smoothing")
}
run.table(
    [row_of(f"{eps:g}", smooth_runs[eps]) for eps in smooth_runs],
    ["smoothing", *COLUMNS],
    caption=f"{budget.noisy} pairs, {FLIP:.0%} of their labels flipped",
)  # fmt: skip

# %% [markdown]
# ## Knob 5: length normalization
#
# A summed log-ratio lets a long answer collect more nats than a short one. Divided by its tokens, each counts alike. ($\beta$ is scaled by
# the mean length, so that the two runs have the same strength on average.)

# %%
normalized = [
    train(gold_pairs[seed], seed=seed, by_token=True)
    for seed in run.progress(range(budget.seeds), "length normalization")
]
run.table(
    [
        [*row_of(name, selected), f"{mean_over(selected, 'length'):.2f}"]
        for name, selected in (("sum", by_beta[BETA]), ("mean per token", normalized))
    ],
    ["log-ratio", *COLUMNS, "mean length (tokens)"],
    caption=f"Length: the reference's mean is {before['length']:.2f} tokens",
)  # fmt: skip

# %% [markdown]
# ## Knob 6: SFT on the chosen answers first
#
# SFT first makes likely what is chosen. Where the pairs come from the model itself, nothing has to be made likely; but SFT on the chosen answer is already a
# step towards the better of two. KL is measured to the original model.

# %%
sft_only = train(gold_pairs[0], preference=0.0, nll=1.0)
after_sft = train(gold_pairs[0], start=sft_only.policy)
run.table(
    [row_of("SFT on chosen", [sft_only]), row_of("DPO", by_beta[BETA][:1]), row_of("SFT, then DPO", [after_sft])],
    ["training", *COLUMNS],
    caption="SFT first or not, on the model's own samples",
)  # fmt: skip

# %% [markdown]
# ## When the chosen answer sinks
#
# Now pairs as one would write them by hand: for every prompt the same two endings, alike but for one word, and neither likely. With so few endings, every bit of probability can be followed.

# %%
WRITTEN = (" walks by the river on Monday.", " walks by the river on Tuesday.")
written = [(prompt, (WRITTEN[0], True), (WRITTEN[1], True)) for prompt in TRAIN]
displaced = train(written, beta=0.1, rate=2 * RATE, steps=budget.fixed, look=max(2, budget.fixed // 4))
held_up = train(written, beta=0.1, rate=2 * RATE, steps=budget.fixed, nll=1.0, look=max(2, budget.fixed // 4))


def mass(point):
    """Probability of chosen, rejected, other endings, and broken text."""
    probs = point["logps"].exp().mean(0)
    pair = [probs[INDEX[ending]].item() for ending in WRITTEN]
    return [*pair, probs.sum().item() - sum(pair), 1 - probs.sum().item()]


start_mass, sunk_mass, held_mass = mass({"logps": ref_logps}), mass(displaced.points[-1]), mass(held_up.points[-1])
run.table(
    [
        [name, *(f"{value:.3%}" for value in values)]
        for name, values in (("before", start_mass), ("DPO", sunk_mass), ("DPO + NLL of chosen", held_mass))
    ],
    {"": "", "chosen": "chosen", "rejected": "rejected", "other endings": "", "broken": ""},
    caption="Where the probability is",
)  # fmt: skip
run.table(
    [
        [point["step"], f"{point['loss']:.3f}", f"{point['chosen']:+.1f}", f"{point['rejected']:+.1f}", f"{point['chosen'] - point['rejected']:.1f}", f"{point['broken']:.1%}"]
        for point in displaced.points
    ],
    {"step": "", "loss": "", "chosen (nats gained)": "chosen", "rejected": "rejected", "margin": "", "broken": ""},
    caption="Likelihood displacement, step by step",
)  # fmt: skip


# %% [markdown]
# Take the two endings apart, token by token.


# %%
@torch.no_grad()
def token_changes(policy):
    """Mean change of log-probability of each token of chosen and rejected: [(token, nats)] twice."""
    batch = collate(written[:64])
    change = logprobs.token_logprobs(policy, *batch) - logprobs.token_logprobs(reference, *batch)
    sides = []
    for side, rows in zip(WRITTEN, (slice(0, 64), slice(64, 128))):
        ids = [*tokenizer.encode(side, add_special_tokens=False), END_ID]
        values = [change[row][batch.response_mask[row, 1:].bool()] for row in range(*rows.indices(128))]
        sides.append(list(zip([tokenizer.decode([token]) for token in ids], torch.stack(values).mean(0).tolist())))
    return sides


chosen_tokens, rejected_tokens = token_changes(displaced.policy)
run.table(
    [[part, *(f"{value:+.2f}" for _, value in tokens)] for part, tokens in (("chosen", chosen_tokens), ("rejected", rejected_tokens))],
    ["", *(token if token == other else f"{token} /{other}" for (token, _), (other, _) in zip(chosen_tokens, rejected_tokens))],
    caption="Nats gained, token by token",
)  # fmt: skip
wreck = [response for response, _ in said_by(displaced.policy, 12)]
odd = [ending for ending in wreck if ending not in INDEX] or wreck
print("what it says now:", *odd[:4], sep="\n  ")

# %% [markdown]
# Both sentences share all tokens up to the day, so the loss gives the opening no direct gradient at all: it cancels. Yet it lost probability, in both alike. One small word had to fall by many nats; the
# weights that make it fall are shared with everything else, and nothing held the rest up. The NLL term does.
#
# ## A judge with a soft spot: over-optimization
#
# Real judges have tastes that are not yours. This one likes what the gold reward likes, and has a soft spot for the market: 2.5 more for every scene *at the
# market*, which gold counts as indoors, worth nothing. Its score is the **proxy**. First with no training at all: the exact optimum for the proxy, and what it is worth in gold.

# %%
AT_MARKET = torch.tensor([ending.place == "at the market" for ending in scenes.ENDINGS]).double()
PROXY = GOLD + 2.5 * AT_MARKET
pulls = torch.logspace(1.2, -1.5, 28).double().tolist()
tilted = [
    {"beta": beta, **worth(optimum(PROXY, beta)), "proxy": (optimum(PROXY, beta).exp() @ PROXY).mean().item()}
    for beta in pulls
]
peak = max(tilted, key=lambda point: point["gold"])
print(
    f"the exact optimum for the proxy: gold {before['gold']:.2f} -> {peak['gold']:.2f} at KL {peak['kl']:.2f} -> {tilted[-1]['gold']:.2f} at KL {tilted[-1]['kl']:.2f}"
)

# %% [markdown]
# Proxy and gold agree at first, and part later: a curve that rises, peaks and falls, with no noise and no network in it. Now DPO on pairs that this judge labelled,
# every pair used once.

# %%
curve = run.curve("A judge with a soft spot", y="expected reward", lines={"proxy": "reward", "gold": "chosen"})
OVER = ((0.5, 0), (1.0, 0), (1.0, 1), (2.0, 0))
market_pairs = [make_pairs(budget.many, PROXY, 300 + seed) for seed in range(2)]
over_runs = {}
for beta, seed in run.progress(list(OVER), "the proxy's pairs"):
    over_runs[beta, seed] = train(
        market_pairs[seed], beta=beta, rate=1.5 * RATE, seed=seed, steps=budget.long, look=budget.look, score=PROXY
    )
for point in over_runs[1.0, 0].points:
    curve.add("proxy", point["step"], point["proxy"])
    curve.add("gold", point["step"], point["gold"])
curve.show()

# %%
on_the_map(
    {
        "exact optimum for the proxy": (tilted, "reward"),
        **{f"beta = {beta:g}, seed {seed}": (over_runs[beta, seed].points, colour) for (beta, seed), colour in zip(OVER, ("rejected", "policy", "prompt", "value"))},
    },
    "Over-optimization: gold against KL",
    "Gold rises, peaks and falls with KL, for the exact optimum of the proxy and for DPO.",
)  # fmt: skip


def turning(points, name="gold"):
    """The point of a path where a reward is highest."""
    return max(points, key=lambda point: point[name])


def stations(one):
    """A path's points of most gold and of most proxy, and its end."""
    return turning(one.points), turning(one.points, "proxy"), one.points[-1]


run.table(
    [
        [
            f"{beta:g}, {seed}",
            *(
                ", ".join(f"{point[name]:.2f}" for name in ("kl", "gold", "proxy", "broken", "loss"))
                for point in stations(one)
            ),
        ]
        for (beta, seed), one in over_runs.items()
    ],
    ["beta, seed", "most gold", "most proxy", "end"],
    caption="KL, gold, proxy, broken and loss along each path",
)

# %% [markdown]
# Two stages. First the judge's taste: gold falls while the proxy rises. Then, where nothing stops the run, text itself breaks and takes both along. The training loss falls
# through all of it.

# %%
run.explorer(
    "overoptimization",
    {
        "runs": [
            {
                "beta": beta, "seed": seed, "label": f"beta {beta:g}, seed {seed}",
                "points": [
                    {name: point[name] for name in ("step", "kl", "gold", "proxy", "loss", "broken", "chosen_logp", "rejected_logp")}
                    for point in one.points
                ],
            }
            for (beta, seed), one in over_runs.items()
        ],
        "frontier": [{name: point[name] for name in ("beta", "kl", "gold")} for point in frontier],
    },
)  # fmt: skip

# %% [markdown]
# ## The alignment tax
#
# What became of sums, facts and equations? No pair mentions them. Every policy so far sits the exam; here is the damage against the distance walked. Facts and statements are
# sentences much like the scenes. Sums and equations are not.

# %%
everyone = {
    **{f"beta {beta:g}, seed {seed}": one for (beta, seed), one in runs.items()},
    "low rate": rate_runs["low"][0],
    "high rate": rate_runs["high"][0],
    **{f"few pairs, seed {seed}": one for seed, one in enumerate(few_runs)},
    **{f"market, beta {beta:g}, seed {seed}": one for (beta, seed), one in over_runs.items()},
    "written pairs": displaced,
}
exams = {name: exam(one.policy) for name, one in everyone.items()}


def tax(result):
    """What statements lost: nats per token below the reference. They are nearest in form to the scenes."""
    return exam_before["statements"][1] - result["statements"][1]


run.table(
    [
        [name, f"{everyone[name].kl:.2f}", f"{everyone[name].gold:.2f}", *(f"{exams[name][part][0]:.0%}" for part in BATTERY), f"{tax(exams[name]):.3f}"]
        for name in sorted(exams, key=lambda name: everyone[name].kl)
    ],
    ["policy", "KL (nats)", "gold reward", *(f"{part} right" for part in BATTERY), "statements: nats per token lost"],
    caption="The exam, by distance from the reference",
)  # fmt: skip
fig = go.Figure()
fig.add_scatter(
    x=[everyone[name].kl for name in exams], y=[max(1e-5, tax(exams[name])) for name in exams], mode="markers", text=list(exams), marker_color=palette.MIDDLE["kl"],
)  # fmt: skip
fig.update_layout(
    title="What statements of facts lost, against the distance walked",
    xaxis_title="KL on the scenes (nats)",
    yaxis_title="nats per token",
    yaxis_type="log",
)
run.figure(fig, "Policies farther from the reference have lost more on statements, which no pair mentions.")

# %% [markdown]
# Two remedies for a run at four times the usual rate: a larger $\beta$, and **mixing** ordinary examples (sums, facts, statements; others than the exam's) into each step, with
# the loss of supervised fine-tuning.

# %%
ordinary = [text.encode_response(tokenizer, *fact) for fact in list(sentences.questions("train"))[::3]]
ordinary += statements[1::2] + [
    text.encode_response(tokenizer, p.questions[0], p.answer)
    for p in random.Random(1).sample(list(arithmetic.problems("train")), 60)
]
STRONG = 4 * RATE
taxed = train(gold_pairs[0], rate=STRONG)
remedies = {
    "four times the rate": taxed,
    "the same, beta 8": train(gold_pairs[0], rate=STRONG, beta=8.0),
    "the same, with mixing": train(gold_pairs[0], rate=STRONG, mixed=ordinary),
}
remedy_exams = {name: exam(one.policy) for name, one in remedies.items()}
run.table(
    [
        [name, f"{one.gold:.2f}", f"{one.kl:.2f}", *(f"{remedy_exams[name][part][0]:.0%}" for part in BATTERY), f"{tax(remedy_exams[name]):.4f}"]
        for name, one in remedies.items()
    ],
    ["training", "gold reward", "KL (nats)", *(f"{part} right" for part in BATTERY), "statements: nats per token lost"],
    caption="What helps against the tax",
)  # fmt: skip

# %% [markdown]
# Diversity is an ability too: how many endings does each policy still use?

# %%
run.table(
    [["reference", f"{before['endings']:.0f}", f"{before['length']:.2f}"], *([f"beta {beta:g}", f"{mean_over(by_beta[beta], 'endings'):.0f}", f"{mean_over(by_beta[beta], 'length'):.2f}"] for beta in BETAS)],
    ["policy", "endings in use (of 1,100)", "mean length (tokens)"],
    caption="Diversity and length",
)  # fmt: skip

# %% [markdown]
# ## As you would at work: the same knobs in trl
#
# Each knob has its place in `DPOConfig`, and not always where you would look. First one trainer for each, and its loss on one batch against ours, with a policy that is not the reference.

# %%
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

reader = copy.deepcopy(tokenizer)
reader.eos_token = scenes.END  # trl ends every answer with it; these texts are no chat
clean = [pair for pair in gold_pairs[0] if pair[1][1] and pair[2][1]]
work_pairs = clean[: budget.trl]
rows = Dataset.from_list(
    [{"prompt": prompt, "chosen": chosen[0], "rejected": rejected[0]} for prompt, chosen, rejected in work_pairs]
)


def trl_loss(**knobs):
    """trl's loss on all of work_pairs for a policy that has been trained, under these knobs of DPOConfig."""
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(work_pairs), report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=device.type == "cpu", bf16=False, gradient_checkpointing=False, **knobs,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=copy.deepcopy(by_beta[BETA][0].policy),
        ref_model=copy.deepcopy(reference),
        args=config,
        train_dataset=rows,
        processing_class=reader,
    )
    trainer.remove_callback(PrinterCallback)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(work_pairs))])
    with torch.no_grad():
        return trainer.compute_loss(
            trainer.model, {key: value.to(device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        ).item()


mine, theirs = (pair_logps(model, work_pairs).T for model in (by_beta[BETA][0].policy, reference))
tokens = collate(work_pairs).response_mask.sum(-1).view(2, -1)
EPS = 0.2
plain_loss, smoothed = (preference_loss(mine, theirs, BETA, eps).mean().item() for eps in (0.0, EPS))
turned = preference_loss(mine.flip(0), theirs.flip(0), BETA).mean().item()
nll_term = -(mine[0].sum() / tokens[0].sum()).item()
ours = {
    "DPO": plain_loss,
    "label smoothing with sigmoid": plain_loss,
    "label smoothing with robust": ((1 - EPS) * plain_loss - EPS * turned) / (1 - 2 * EPS),
    "mean per token": dpo_loss(
        *(per_token(PairLogps(*logps), PairLogps(*tokens)) for logps in (mine, theirs)), 10 * BETA
    )
    .mean()
    .item(),
    "with NLL of chosen": plain_loss + 0.2 * nll_term,
}
in_trl = {
    "DPO": dict(beta=BETA),
    "label smoothing with sigmoid": dict(beta=BETA, label_smoothing=EPS),
    "label smoothing with robust": dict(beta=BETA, label_smoothing=EPS, loss_type=["robust"]),
    "mean per token": dict(beta=10 * BETA, loss_type=["sigmoid_norm"]),
    "with NLL of chosen": dict(beta=BETA, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2]),
}
measured = {name: trl_loss(**knobs) for name, knobs in in_trl.items()}
run.table(
    [[name, ", ".join(f"{key}={value}" for key, value in in_trl[name].items()), f"{ours[name]:.5f}", f"{measured[name]:.5f}"] for name in ours],
    ["knob", "in DPOConfig", "ours", "trl"],
    caption=f"The same knobs in trl; conservative DPO (smoothing {EPS}) would be {smoothed:.5f}",
)  # fmt: skip
trl_gap = max(abs(ours[name] - measured[name]) for name in ours)

# %% [markdown]
# Read the second row twice. With trl's default loss, `label_smoothing` is read, stored, and **not used**: the loss is the plain one. And `robust` is not what is usually called
# label smoothing: it *subtracts* the turned-round loss, and so is unbounded below.
#
# ## What this run measured

# %%
run.result("reference_gold", before["gold"], format=".2f")
run.result("reference_length", before["length"], format=".2f")
run.result("reference_endings", before["endings"], format=".0f")
run.result("steps", budget.steps)
run.result("batch", budget.batch)
run.result("pairs", budget.pairs, format=",")
run.result("seeds", budget.seeds)
run.result("learning_rate", RATE, f"{RATE:g}")
run.result("prompts", len(PROMPTS))
for beta in BETAS:
    key, selected = NAMES[beta], by_beta[beta]
    run.result(f"gold_beta_{key}", mean_over(selected, "gold"), format=".2f")
    run.result(f"kl_beta_{key}", mean_over(selected, "kl"), format=".2f")
    run.result(f"broken_beta_{key}", mean_over(selected, "broken"), format=".1%")
    run.result(f"win_beta_{key}", mean_over(selected, "win"), format=".0%")
    run.result(f"endings_beta_{key}", mean_over(selected, "endings"), format=".0f")
    run.result(f"length_beta_{key}", mean_over(selected, "length"), format=".2f")
    run.result(f"loss_beta_{key}", mean_over(selected, "loss"), format=".3f")
    run.result(f"ideal_gold_beta_{key}", ideal[beta]["gold"], format=".2f")
    run.result(f"ideal_kl_beta_{key}", ideal[beta]["kl"], format=".2f")
    run.result(f"early_kl_beta_{key}", runs[beta, 0].points[1]["kl"], format=".2f")
run.result("early_step", runs[BETA, 0].points[1]["step"])
for name in ("low", "high"):
    one = rate_runs[name][0]
    run.result(f"rate_{name}", RATES[name], f"{RATES[name]:.5f}".rstrip("0"))
    run.result(f"gold_rate_{name}", one.gold, format=".2f")
    run.result(f"kl_rate_{name}", one.kl, format=".2f")
    run.result(f"loss_rate_{name}", one.loss, format=".3f")
    run.result(f"broken_rate_{name}", one.broken, format=".0%")
run.result("said_rate_high", None, said_high[0].replace("`", "'").strip() or "(nothing)")
run.result("few_pairs", budget.few)
run.result("few_epochs", epochs, format=".0f")
for name, (_, seen_right, new_right, new_sure, gold, kl, loss) in (("fresh", fresh_row), ("few", few_row)):
    run.result(f"{name}_seen_right", seen_right, format=".0%")
    run.result(f"{name}_new_right", new_right, format=".0%")
    run.result(f"{name}_sure", new_sure, format=".0%")
    run.result(f"{name}_gold", gold, format=".2f")
    run.result(f"{name}_kl", kl, format=".2f")
    run.result(f"{name}_loss", loss, format=".3f")
run.result("fresh_broken", mean_over(by_beta[BETA], "broken"), format=".0%")
run.result("few_broken", mean_over(few_runs, "broken"), format=".0%")
run.result("flipped", FLIP, format=".0%")
run.result("noisy_pairs", budget.noisy)
for name, eps in (("hard", 0.0), ("smooth", FLIP)):
    run.result(f"noisy_{name}_gold", mean_over(smooth_runs[eps], "gold"), format=".2f")
    run.result(f"noisy_{name}_kl", mean_over(smooth_runs[eps], "kl"), format=".2f")
    run.result(
        f"noisy_{name}_below",
        sum(best_gold(one.kl) - one.gold for one in smooth_runs[eps]) / budget.seeds,
        format=".2f",
    )
    run.result(f"noisy_{name}_broken", mean_over(smooth_runs[eps], "broken"), format=".1%")
for name, selected in (("sum", by_beta[BETA]), ("mean", normalized)):
    run.result(f"length_{name}", mean_over(selected, "length"), format=".2f")
    run.result(f"length_{name}_gold", mean_over(selected, "gold"), format=".2f")
    run.result(f"length_{name}_kl", mean_over(selected, "kl"), format=".2f")
for name, one in (("sft", sft_only), ("dpo", runs[BETA, 0]), ("sft_dpo", after_sft)):
    run.result(f"first_{name}_gold", one.gold, format=".2f")
    run.result(f"first_{name}_kl", one.kl, format=".2f")
    run.result(f"first_{name}_below", best_gold(one.kl) - one.gold, format=".2f")
run.result("written_chosen", None, WRITTEN[0].strip())
run.result("written_rejected", None, WRITTEN[1].strip())
run.result("displaced_steps", budget.fixed)
run.result("displaced_loss", displaced.loss, format=".3f")
run.result("displaced_chosen", displaced.chosen, format="+.1f")
run.result("displaced_rejected", displaced.rejected, format="+.1f")
run.result("displaced_margin", displaced.chosen - displaced.rejected, format=".1f")
run.result("displaced_top", max(point["chosen"] for point in displaced.points), format="+.1f")
run.result("displaced_opening", sum(value for _, value in chosen_tokens[:-3]), format="+.1f")
run.result("displaced_day_chosen", chosen_tokens[-3][1], format="+.1f")
run.result("displaced_day_rejected", rejected_tokens[-3][1], format="+.1f")
run.result("displaced_end", sum(value for _, value in chosen_tokens[-2:]), format="+.1f")
for name, values in (("before", start_mass), ("sunk", sunk_mass), ("held", held_mass)):
    for part, value in zip(("chosen", "rejected", "others", "broken"), values):
        run.result(f"mass_{name}_{part}", value, format=".2%")
run.result("displaced_says", None, odd[0].replace("`", "'").strip() or "(nothing)")
run.result("held_chosen", held_up.chosen, format="+.1f")
run.result("proxy_peak_gold", peak["gold"], format=".2f")
run.result("proxy_peak_kl", peak["kl"], format=".2f")
run.result("proxy_end_gold", tilted[-1]["gold"], format=".2f")
run.result("over_steps", budget.long)
for (beta, seed), one in over_runs.items():
    key, top = f"{NAMES[beta]}_{seed}", turning(one.points)
    for at, point in zip(("peak", "proxy", "end"), stations(one)):
        run.result(f"over_{key}_{at}_gold", point["gold"], format=".2f")
        run.result(f"over_{key}_{at}_kl", point["kl"], format=".2f")
        run.result(f"over_{key}_{at}_proxy", point["proxy"], format=".2f")
        run.result(f"over_{key}_{at}_loss", point["loss"], format=".3f")
        run.result(f"over_{key}_{at}_broken", point["broken"], format=".0%")
    run.result(f"over_{key}_peak_step", top["step"])
for name, one in (("taxed", "four times the rate"), ("beta", "the same, beta 8"), ("mixed", "the same, with mixing")):
    result = remedy_exams[one]
    run.result(f"tax_{name}_gold", remedies[one].gold, format=".2f")
    run.result(f"tax_{name}_kl", remedies[one].kl, format=".2f")
    run.result(f"tax_{name}_broken", remedies[one].broken, format=".0%")
    run.result(f"tax_{name}_loss", remedies[one].loss, format=".3f")
    for part in BATTERY:
        run.result(f"tax_{name}_{part}", result[part][0], format=".0%")
    run.result(f"tax_{name}_nats", tax(result), format=".3f")
for part in BATTERY:
    run.result(f"exam_before_{part}", exam_before[part][0], format=".0%")
    run.result(f"exam_high_{part}", exams["high rate"][part][0], format=".0%")
run.result("rate_strong", STRONG, f"{STRONG:g}")


def ranks(values):
    return torch.tensor(values).argsort().argsort().double()


paired = torch.stack([ranks([everyone[name].kl for name in exams]), ranks([tax(exams[name]) for name in exams])])
tax_correlation = torch.corrcoef(paired)[0, 1].item()
run.result("tax_correlation", tax_correlation, format=".2f")
run.result("tax_policies", len(exams))
run.result("trl_gap", trl_gap, format=".0e")

# %%
every = [point for one in [*everyone.values(), *remedies.values(), *normalized] for point in one.points]
above = max(point["gold"] - best_gold(point["kl"]) for point in every)
run.claim("no policy lies above the exact frontier", above < 0.01)
run.claim(
    "in every seed a larger beta ends nearer the reference",
    all(
        runs[big, seed].kl < runs[small, seed].kl
        for small, big in itertools.pairwise(BETAS)
        for seed in range(budget.seeds)
    ),
)
least = [runs[min(BETAS), seed] for seed in range(budget.seeds)]
run.claim(
    "in every seed the smallest beta ends with more than five times the reference's broken text",
    all(one.broken > 5 * before["broken"] for one in least),
)
best_on_the_way = max(point["gold"] for point in least[0].points)
run.claim(
    "in the first seed the smallest beta, looked at on its way, goes past its best",
    best_on_the_way > least[0].gold + 0.05,
)
run.claim(
    "the high rate breaks the model while its loss is below log 2",
    rate_runs["high"][0].broken > 0.2 and rate_runs["high"][0].loss < math.log(2),
)
run.claim(
    "few pairs, many epochs: a lower loss and a lower gold reward than fresh pairs",
    few_row[-1] < fresh_row[-1] and few_row[4] < fresh_row[4],
)
run.claim(
    "few pairs: surer than right on new pairs",
    few_row[3] > few_row[2] and few_row[3] - few_row[2] > fresh_row[3] - fresh_row[2],
)
gaps = {eps: mean_over(smooth_runs[eps], "kl") for eps in smooth_runs}
run.claim("smoothing keeps nearer the reference", gaps[FLIP] < gaps[0.0])
run.claim("the chosen answer sank while the margin grew", displaced.chosen < 0 < displaced.chosen - displaced.rejected)
run.claim("broken text is more than five times as likely as before", sunk_mass[3] > 5 * start_mass[3])
run.claim("with the NLL term the chosen answer rises", held_up.chosen > 0 and held_mass[3] < sunk_mass[3])
paths = [stations(one) for (beta, _), one in over_runs.items() if beta <= 1.0]
over_start = before["gold"]
over_rise = min(gold["gold"] for gold, *_ in paths) - over_start
over_fall = min(gold["gold"] - end["gold"] for gold, _, end in paths)
over_proxy = min(proxy["proxy"] - gold["proxy"] for gold, proxy, _ in paths)
over_taste = min(gold["gold"] - proxy["gold"] for gold, proxy, _ in paths)
over_loss = min(gold["loss"] - end["loss"] for gold, _, end in paths)
run.claim("beta up to 1: gold rises, peaks and falls", over_rise > 0.05 and over_fall > 0.05)
run.claim(
    "beta up to 1: past the peak of gold the proxy rises on, and gold falls", over_proxy > 0.1 and over_taste > 0.02
)
run.claim("beta up to 1: the training loss falls from the peak of gold to the end", over_loss > 0)
run.claim("farther from the reference, more is lost on statements", tax_correlation > 0.5)
mixed_exam, taxed_exam = remedy_exams["the same, with mixing"], remedy_exams["four times the rate"]
run.claim(
    "mixing lowers the tax and keeps more of the gold reward",
    tax(mixed_exam) < 0.5 * tax(taxed_exam) and remedies["the same, with mixing"].gold > taxed.gold,
)
run.claim("trl's loss equals ours for each knob", trl_gap < 1e-4)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace `...` and run the cell. `check` says what is wrong and gives a hint; the solution is a click away.
#
# **1. The tilt** (difficulty 1, 5 minutes). From `ref_logps` (prompts, responses), `rewards` (responses,) and $\beta$ give the log-probabilities of the optimum, (prompts, responses).


# %%
def my_tilt(ref_logps, rewards, beta): ...


check("dpo_in_practice.tilt", my_tilt)


# %% [markdown]
# **2. Label smoothing** (difficulty 1, 5 minutes). From the margins (B,), $\beta$ and the smoothing give the loss of each pair, (B,).


# %%
def my_smoothed_loss(margin, beta, smoothing): ...


check("dpo_in_practice.smoothed_loss", my_smoothed_loss)


# %% [markdown]
# **3. Where it rests** (difficulty 2, 8 minutes). With label smoothing the loss has its minimum at a finite margin. Give that margin in nats.


# %%
def my_settled_margin(beta, smoothing): ...


check("dpo_in_practice.settled_margin", my_settled_margin)


# %% [markdown]
# **4. Length** (difficulty 2, 8 minutes). From token log-probabilities of policy and reference, (2B, T), chosen rows first, and the response mask give the margin of length-normalized DPO, (B,).


# %%
def my_mean_margin(policy, reference, response_mask): ...


check("dpo_in_practice.mean_margin", my_mean_margin)


# %% [markdown]
# **5. Where did it go?** (difficulty 2, 8 minutes). Rows of `before` and `after` hold the probability of every ending. Give the change of probability, averaged over
# rows, of: chosen, rejected, all other endings, broken.


# %%
def my_mass_moved(before, after, chosen, rejected): ...


check("dpo_in_practice.mass_moved", my_mass_moved)
