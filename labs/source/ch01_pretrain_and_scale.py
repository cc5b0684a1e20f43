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
# # Pre-train a ladder of models, fit the law, predict the next one
#
# A scaling law is a bet: measure small models, draw a curve, and say what a model will reach that nobody has trained. Here you place
# that bet yourself. You pre-train decoders of six sizes on a language whose entropy is known exactly, so that the law's floor can be
# checked against the truth; you fit, with intervals; you predict a model four times as large, write the prediction down, and train it.
# Then you spend compute at the other end: on tries, votes and a verifier.
#
# - **You will** count what a training step costs and measure it; train a dozen small models; fit $L(N,D)$ in the open and hold the fit
#   against scipy's and the library's; find the best size for each compute in two ways; test a prediction on a held-out larger run; see
#   two extrapolations fail; put the published laws side by side; and measure what the $k$-th try is worth.
# - **Time:** about 5 minutes on a CPU with two cores.
#
# **Sections:** 1.3

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
# ## What a step costs
#
# A matrix of $n$ weights meets one token: $n$ multiplications and $n$ additions, so $2n$ FLOPs. Going back, the same matrix is used
# twice more, for the gradient of its input and of itself. Training costs $6N$ FLOPs a token, and the whole run $C=6ND$.
# That leaves out attention's scores, which no parameter makes. PyTorch can count; so can `alignlab.counting`.

# %%
import math
import tempfile
import time

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from scipy.optimize import least_squares
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from alignlab import compute, counting, decoding, lab, models, palette, scaling, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.reasoning.voting import majority, vote_at_n
from alignlab.tasks import arithmetic
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_pretrain_and_scale")
budget = run.budget(
    full=dict(
        ladder=((8, 4525), (12, 4525), (16, 4525), (24, 3200), (32, 2263), (48, 1600)), seeds=2, held=(96, 1600), marks=(566, 800, 1131, 1600, 2263, 3200, 4525),
        evaluated=1024, draws=120, unique=40, epochs=(1, 2, 4, 8, 12, 20, 30), peer_steps=200, sums=(100, 150, 200, 250, 300, 400, 600), asked=200, samples=64, tries=32,
    ),
    quick=dict(
        ladder=((8, 57), (12, 57), (16, 57), (24, 40)), seeds=1, held=(32, 40), marks=(20, 28, 40, 57),
        evaluated=32, draws=4, unique=10, epochs=(1, 2), peer_steps=5, sums=(5, 10, 20), asked=8, samples=8, tries=2,
    ),
)  # fmt: skip
compute.seed(0)
V, T, BATCH = 64, 32, 16  # tokens in the vocabulary, in a row, rows in a step
SEEN = BATCH * (T - 1)  # predictions in a step


def config(width):
    """Two layers; heads of 8 or 16; about 24 width^2 parameters."""
    heads = max(1, width // 16)
    return Config(V, width, 8 * round(width / 3), 2, heads, heads, width // heads, max_position_embeddings=T)


def size(width):
    """All parameters of a model of this width, embeddings included."""
    return sum(counting.parameters(config(width)).values())


rows = []
for width in (8, 48, 96):
    network = Transformer(config(width)).initialize()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, T, dtype=torch.long)).sum().backward()
    parts = {
        name: 3 * flops for name, flops in counting.forward_flops(config(width), T).items()
    }  # backward costs twice forward
    rows.append(
        (
            width,
            size(width),
            6 * size(width) * T,
            sum(parts.values()) - parts["scores"],
            counter.get_total_flops(),
            parts["scores"],
        )
    )
flops_ratio = [(made + scores) / six for _, _, six, made, _, scores in rows]
run.table(
    [
        (width, *(f"{value:,}" for value in (n, six, made, seen, scores)), f"{ratio:.2f}")
        for (width, n, six, made, seen, scores), ratio in zip(rows, flops_ratio, strict=True)
    ],
    (
        "Width",
        "Parameters N",
        "6 N T",
        "Counted: products with weights",
        "PyTorch counts",
        "Attention's scores",
        "All / 6NT",
    ),
    caption=f"FLOPs of one row of {T} tokens, forward and backward. PyTorch's counter does not see into the fused attention kernel",
)
counts_agree = all(made == seen for _, _, _, made, seen, _ in rows)

SMOL, SMOL_TOKENS = 134_515_008, 2e12  # Ben Allal et al. (2025): SmolLM2-135M saw 2 trillion tokens
print(
    f"SmolLM2-135M: 6ND = {scaling.training_flops(SMOL, SMOL_TOKENS):.2e} FLOPs, {SMOL_TOKENS / SMOL:,.0f} tokens a parameter"
)

# %% [markdown]
# ## A language whose entropy we know
#
# Real text has no known floor. This one has. Its 64 syllables follow a Zipf law; which one comes next depends on the one before (a
# random matrix) and on the two before together (a random three-way table, made of 128 patterns of falling strength). So the exact
# distribution of the next syllable is known at every position, and with it three numbers: the loss of a reader who knows only how
# frequent syllables are, of one who looks one syllable back, and of one who knows everything. Nobody gets below the last.

# %%
SYLLABLES = [a + b for a in "bdfghklmnprstvwz" for b in "aeio"]


class Language:
    """p(c | a, b) = softmax_c(u_c + m_bc + w_abc): a Markov chain of order 2 over 64 syllables."""

    def __init__(self, seed=0, pair=1.0, triple=1.2, slope=0.8, patterns=128):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        frequent = -torch.arange(1, V + 1, dtype=torch.float64).log()  # Zipf: the r-th syllable has weight 1 / r
        strength = torch.arange(1, patterns + 1, dtype=torch.float64) ** -slope
        strength /= strength.square().sum().sqrt()
        three = torch.einsum("k,ka,kb,kc->abc", strength, draw(patterns, V), draw(patterns, V), draw(patterns, V))
        self.probs = (frequent + pair * draw(V, V) + triple * three).softmax(-1)  # (V, V, V): p(c | a, b)
        pairs = torch.full((V, V), 1 / V**2, dtype=torch.float64)
        for _ in range(300):  # how frequent each pair is in the long run
            pairs = torch.einsum("ab,abc->bc", pairs, self.probs)
        self.pairs, self.cumulative = pairs, self.probs.cumsum(-1).float()

    def entropies(self):
        """Nats a syllable for a reader who knows the frequencies; looks one back; looks two back: the entropy rate."""

        def entropy(p):
            return -torch.xlogy(p, p).sum(-1)

        one = self.pairs.sum(0)
        two = torch.einsum("ab,abc->bc", self.pairs, self.probs) / one[:, None]
        return entropy(one).item(), (one * entropy(two)).sum().item(), (self.pairs * entropy(self.probs)).sum().item()

    def write(self, rows, seed, length=T + 1):
        """Texts (rows, length), each beginning in the long run's frequencies."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.empty(rows, length, dtype=torch.long)
        start = torch.multinomial(self.pairs.flatten(), rows, replacement=True, generator=generator)
        ids[:, 0], ids[:, 1] = start // V, start % V
        for t in range(2, length):
            chance = torch.rand(rows, 1, generator=generator)
            ids[:, t] = (
                torch.searchsorted(self.cumulative[ids[:, t - 2], ids[:, t - 1]], chance).squeeze(1).clamp_max(V - 1)
            )
        return ids


language = Language()
UNIGRAM, BIGRAM, FLOOR = language.entropies()
steps_at_most = max([steps for _, steps in budget.ladder] + [budget.held[1]])
corpus = [language.write(BATCH * steps_at_most, seed=10 + seed) for seed in range(budget.seeds)]
unseen = language.write(budget.evaluated, seed=99)


def spelled(ids):
    return " ".join(SYLLABLES[i] for i in ids)


print(f"{corpus[0].numel() / 1e6:.1f} million syllables, such as: {spelled(corpus[0][0, :12].tolist())} ...")
print(
    f"entropy of the next syllable: {UNIGRAM:.3f} nats by frequency, {BIGRAM:.3f} looking one back, {FLOOR:.3f} knowing everything"
)

# %% [markdown]
# **A loss without noise.** The usual test loss, $-\log p_\theta(\text{next})$, is noisy because the next token is a draw. We know the true
# distribution $p$ at each position, so we may take the mean over that draw: $E+\mathrm{KL}(p\Vert p_\theta)$. Same expectation, far less noise.


# %%
@torch.inference_mode()
def excess(network, texts):
    """Mean KL(true || model) over positions that see two syllables or more: the loss minus its floor, in nats."""
    total = 0.0
    for part in texts.split(512):
        logprobs = network(part[:, :-1])[:, 1:].log_softmax(-1)  # (B, T-1, V)
        true = language.probs[part[:, :-2], part[:, 1:-1]]
        total += (true * (true.log() - logprobs)).sum().item()
    return total / (len(texts) * (texts.shape[1] - 2))


@torch.inference_mode()
def sampled_loss(network, texts):
    """The usual test loss: minus the log-probability of the syllable that came, (B, T-1)."""
    logprobs = network(texts[:, :-1])[:, 1:].log_softmax(-1)
    return -logprobs.gather(-1, texts[:, 2:, None]).squeeze(-1)


blank = Transformer(config(8)).initialize(std=0.0)  # all logits 0: every syllable 1/64
here = language.probs[unseen[:, :-2], unseen[:, 1:-1]]  # the true distribution at each position of the unseen text
blank_loss = -torch.xlogy(here, here).sum(-1).mean().item() + excess(blank, unseen)
blank_gap = abs(blank_loss - math.log(V))
print(f"a model that knows nothing: entropy here + KL = {blank_loss:.4f} nats, log 64 = {math.log(V):.4f}")


# %% [markdown]
# ## One run
#
# AdamW with a constant learning rate of $0.2/d$ ($d$ is the width; found by a small search), each text read once. A law needs the loss
# *at* each number of tokens, and a cosine schedule gives it only at its own end. So we keep the rate constant and evaluate a running
# average of the weights, which does the work of the decay (Hägele et al., 2024): one run, a loss at every number of tokens.


# %%
def pretrain(width, texts, marks, seed=0, curve=None, network=None):
    """Train on `texts` in their order, again from the start where they end; the excess at each mark (steps).

    Returns the losses [(tokens, E + excess)], and the averaged network.
    """
    torch.manual_seed(seed)
    network = network or Transformer(config(width)).initialize(std=0.05)
    weights = list(network.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=0.2 / width, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    found = []
    for step in range(1, max(marks) + 1):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 / width * min(1.0, step / 20)
        at = (step - 1) * BATCH % len(texts)
        batch = texts[at : at + BATCH]
        logits = network(batch[:, :-1])[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, min(1.0, 8 / step))  # mostly the last eighth of all steps
            if step in marks:
                last = [weight.clone() for weight in weights]
                torch._foreach_copy_(weights, average)
                found.append((step * SEEN, FLOOR + excess(network, unseen)))
                if step < max(marks):
                    torch._foreach_copy_(weights, last)
        if curve is not None and (step % 20 == 0 or step == 1):
            curve.add("training loss", step * SEEN, loss.item())
            for name, value in REFERENCES.items():
                curve.add(name, step * SEEN, value)
    return found, network


REFERENCES = {"frequencies only": UNIGRAM, "one syllable back": BIGRAM, "the floor E": FLOOR}
curve = run.curve(
    "Pre-training one model of width 24",
    "tokens",
    "nats a token",
    {
        "training loss": "policy",
        "frequencies only": "reference",
        "one syllable back": "prompt",
        "the floor E": "chosen",
    },
)
started = time.perf_counter()
first_losses, reader = pretrain(24, corpus[0], [budget.marks[0] // 4, budget.marks[0]], curve=curve)
curve.show()
seconds = time.perf_counter() - started
speed = 6 * size(24) * budget.marks[0] * SEEN / seconds
agreed = sampled_loss(reader, unseen)
noise = (agreed.std() / agreed.numel() ** 0.5).item()
print(
    f"after {first_losses[-1][0]:,} tokens: {first_losses[-1][1]:.4f} nats exactly, {agreed.mean():.4f} +- {noise:.4f} by the syllables that came; {speed / 1e9:.0f} GFLOP/s"
)


# %%
@torch.inference_mode()
def continued(network, start, length, seed):
    """Texts (rows, length) that a model writes, from two given syllables."""
    generator = torch.Generator().manual_seed(seed)
    ids = start
    while ids.shape[1] < length:
        probs = network(ids[:, -T:])[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], 1)
    return ids


def surprise(ids):
    """Nats a syllable that a text costs a reader who knows the language."""
    return -language.probs[ids[:, :-2], ids[:, 1:-1]].gather(-1, ids[:, 2:, None]).log().mean().item()


start = unseen[:64, :2]
written = {
    "untrained": continued(Transformer(config(24)).initialize(std=0.05), start, 26, 0),
    "after training": continued(reader, start, 26, 0),
    "the language itself": unseen[:64, :26],
}
run.table(
    [(name, spelled(ids[0].tolist()[:14]), f"{surprise(ids):.2f}") for name, ids in written.items()],
    ("Writer", "It writes", "Surprise, nats"),
    caption="What 64 texts cost a reader who knows the language",
)
surprises = {name: surprise(ids) for name, ids in written.items()}

# %% [markdown]
# ## The ladder
#
# Six sizes, each text read once; then all of them again with other weights and another text, half as long. This is the expensive cell.

# %%
ladder = []  # (run, parameters, tokens, loss)
spent = 0.0
plan = []
for seed in range(budget.seeds):
    for width, steps in budget.ladder:
        last = budget.marks.index(steps) - 2 * seed  # the second text: half as many tokens
        plan.append((width, budget.marks[: last + 1], seed))
for number, (width, marks, seed) in enumerate(run.progress(plan, "training the ladder")):
    losses, _ = pretrain(width, corpus[seed], marks, seed=seed)
    ladder += [(number, size(width), tokens, loss) for tokens, loss in losses]
    spent += scaling.training_flops(float(size(width)), float(max(marks) * SEEN))
runs, ns, ds, ls = (np.array(column) for column in zip(*ladder, strict=True))
sizes = sorted(set(ns.tolist()))
print(f"{len(plan)} runs, {len(ladder)} points, {spent:.1e} FLOPs in all")

ROLES = ("reference", "prompt", "value", "chosen", "policy", "reward")


def curve_of(n):
    """Tokens and losses of one size, read along its long run: that of the first seed."""
    longest = (ns == n) & (runs < len(budget.ladder))
    return ds[longest], ls[longest]


fig = go.Figure()
for n, role in zip(sizes, ROLES, strict=False):
    tokens, losses = curve_of(n)
    fig.add_scatter(
        x=tokens, y=losses, mode="lines+markers", name=f"{n:,} parameters", line={"color": palette.MIDDLE[role]}
    )
for value, name in ((BIGRAM, "one syllable back"), (FLOOR, "the floor E")):
    fig.add_scatter(
        x=[ds.min(), ds.max()],
        y=[value, value],
        mode="lines",
        name=name,
        line={"color": palette.MIDDLE["ink"], "dash": "dot"},
    )
fig.update_layout(
    title="More tokens help until the model is full",
    xaxis={"type": "log", "title": "tokens D"},
    yaxis_title="loss, nats a token",
)
run.figure(
    fig, "Loss against tokens for each size; larger models go lower, and each curve bends towards a floor of its own."
)

# %% [markdown]
# ## The law in two variables
#
# $L(N,D)=E+A/N^\alpha+B/D^\beta$: a floor, the price of too few parameters, the price of too few tokens (Hoffmann et al., 2022). Five unknowns.
# The objective compares logarithms, and is a square only within $\delta=0.001$, so that a broken run pulls no harder than a decent one.
# In the open, with scipy, from nine starts; then the library's; then with the floor that we know.


# %%
def theta_law(theta):
    e, a, b, alpha, beta = theta
    return scaling.LossLaw(*np.exp([e, a, b]), alpha, beta)


def residuals(theta):
    return np.log(theta_law(theta)(ns.astype(float), ds.astype(float))) - np.log(ls)


def huber_sum(law, delta=1e-3):
    size_of = np.abs(np.log(law(ns.astype(float), ds.astype(float))) - np.log(ls))
    return np.where(size_of <= delta, size_of**2 / 2, delta * (size_of - delta / 2)).sum()


best = None
for alpha in (0.2, 0.5, 1.0):
    for beta in (0.2, 0.5, 1.0):
        guess = [math.log(0.9 * ls.min()), alpha * np.log(ns).mean() - 2, beta * np.log(ds).mean() - 2, alpha, beta]
        trial = least_squares(residuals, guess, loss="huber", f_scale=1e-3, max_nfev=3000)
        best = trial if best is None or trial.cost < best.cost else best
by_scipy = theta_law(best.x)
free = scaling.fit_loss_law(ns, ds, ls, groups=runs, draws=budget.draws)
known = scaling.fit_loss_law(ns, ds, ls, E=FLOOR, groups=runs, draws=budget.draws)
none = scaling.fit_loss_law(ns, ds, ls, E=0.0, groups=runs, draws=budget.draws)
objectives = [huber_sum(law) for law in (by_scipy, free.law, known.law, none.law)]


def with_interval(fit, of, digits=2):
    low, high = fit.interval(of)
    return f"{of(fit.law):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


PARTS = (("E", lambda law: law.E), ("alpha", lambda law: law.alpha), ("beta", lambda law: law.beta))
run.table(
    [("scipy, E free", *(f"{of(by_scipy):.3f}" for _, of in PARTS), f"{objectives[0]:.6f}")]
    + [
        (name, *(with_interval(fit, of, 3) for _, of in PARTS), f"{value:.6f}")
        for name, fit, value in (
            ("library, E free", free, objectives[1]),
            ("library, E known", known, objectives[2]),
            ("library, no floor", none, objectives[3]),
        )
    ],
    ("Fit", "E", "alpha", "beta", "Objective"),
    caption=f"90% intervals from {budget.draws} draws of whole runs; the true E is {FLOOR:.3f}",
)
off = float(np.abs(np.log(known.law(ns.astype(float), ds.astype(float)) / ls)).mean())
print(f"mean error of the fitted law over {len(ls)} points: {off:.2%} of the loss")

# %%
fig = go.Figure()
for n, role in zip(sizes, ROLES, strict=False):
    tokens, losses = curve_of(n)
    fig.add_scatter(x=tokens, y=losses - FLOOR, mode="markers", name=f"{n:,}", marker={"color": palette.MIDDLE[role]})
    fig.add_scatter(
        x=tokens,
        y=known.law(float(n), tokens.astype(float)) - FLOOR,
        mode="lines",
        showlegend=False,
        line={"color": palette.MIDDLE[role], "width": 1.5},
    )
fig.update_layout(
    title="The excess over the floor: points measured, lines fitted",
    xaxis={"type": "log", "title": "tokens D"},
    yaxis={"type": "log", "title": "loss minus E, nats"},
)
run.figure(fig, "Log-log: the fitted lines pass through the measured points of every size.")

# %% [markdown]
# Now check the floor against the truth, which is known here. The fitted one is close, but its 90% interval ends below the truth; and with *no* floor the objective is not even half as bad again.
# Within the ladder the three fits can hardly be told apart. Beyond it they part, as you will see.
#
# ## One variable at a time
#
# Kaplan's laws hold where the other quantity is not short (Kaplan et al., 2020). Along the ladder's edge that is only nearly so. Compare the
# exponent of the loss with that of the loss *minus its floor*: the first is small because the floor does not shrink. (By $D$ even
# the second stays far below the fitted $\beta$: at one size the price of too few parameters, $A/N^\alpha$, does not shrink either.)

# %%
at_tokens = max(set.intersection(*(set(curve_of(n)[0].tolist()) for n in sizes)))
edge_n = np.array([curve_of(n)[1][curve_of(n)[0] == at_tokens].item() for n in sizes])
edge_d, edge_losses = curve_of(sizes[-1])
slopes = {
    "loss, by N": -scaling.fit_power_law(sizes, edge_n)[1],
    "loss - E, by N": -scaling.fit_power_law(sizes, edge_n - FLOOR)[1],
    "loss, by D": -scaling.fit_power_law(edge_d, edge_losses)[1],
    "loss - E, by D": -scaling.fit_power_law(edge_d, edge_losses - FLOOR)[1],
}
run.table(
    [(name, f"{value:.3f}") for name, value in slopes.items()],
    ("Straight line through", "Exponent"),
    caption=f"By N at {at_tokens:,} tokens; by D at {sizes[-1]:,} parameters. Kaplan et al.: 0.076 and 0.095, no floor",
)

# %% [markdown]
# ## The best size for a compute
#
# Two ways, both from Hoffmann et al. **Valleys:** fix $C$, read each size's loss at $D=C/6N$ tokens off its curve, put a parabola through
# them in $\log N$, take its lowest point. **The law:** $N_{\text{opt}}=G\,(C/6)^{a}$ with $a=\beta/(\alpha+\beta)$, in closed form.


# %%
def loss_at(n, tokens):
    """The loss of a size at a number of tokens between its checkpoints, straight in logarithms; nan outside."""
    x, y = curve_of(n)
    return np.exp(np.interp(np.log(tokens), np.log(x), np.log(y))) if x[0] <= tokens <= x[-1] else math.nan


valleys = {}
low_c, high_c = 6 * sizes[1] * ds.min(), 6 * sizes[-2] * ds[ns == sizes[-2]].max()
for flops in np.logspace(math.log10(low_c), math.log10(high_c), 12)[1:]:
    points = [(n, loss_at(n, flops / (6 * n))) for n in sizes]
    points = [(n, loss) for n, loss in points if math.isfinite(loss)]
    try:
        valleys[flops] = (points, scaling.isoflop_minimum(*zip(*points, strict=True)))
    except ValueError:
        continue  # the best size was not among those that have a loss at this compute
if len(valleys) > 1:
    a_valleys = scaling.fit_power_law(list(valleys), [vertex[0] for _, vertex in valleys.values()])[1]
else:
    a_valleys = math.nan
a_law = known.law.exponents[0]
a_low, a_high = known.interval(lambda law: law.exponents[0])

fig = go.Figure()
for (flops, (points, vertex)), role in zip(list(valleys.items())[:: max(1, len(valleys) // 5)], ROLES, strict=False):
    fig.add_scatter(
        x=[n for n, _ in points],
        y=[loss for _, loss in points],
        mode="lines+markers",
        name=f"{flops:.1e} FLOPs",
        line={"color": palette.MIDDLE[role]},
    )
    fig.add_scatter(
        x=[vertex[0]],
        y=[vertex[1]],
        mode="markers",
        showlegend=False,
        marker={"color": palette.MIDDLE[role], "symbol": "diamond", "size": 13},
    )
spending = np.logspace(math.log10(low_c), math.log10(high_c), 30)
fig.add_scatter(
    x=known.law.optimal(spending)[0],
    y=known.law.frontier(spending),
    mode="lines",
    name="the law's best sizes",
    line={"color": palette.MIDDLE["ink"], "dash": "dash"},
)
fig.update_layout(
    title="Valleys of equal compute", xaxis={"type": "log", "title": "parameters N"}, yaxis_title="loss, nats a token"
)
run.figure(fig, "Each curve has one compute; the lowest points (diamonds) move to larger models as compute grows.")
print(
    f"N_opt grows as C^a: a = {a_valleys:.2f} by {len(valleys)} valleys, {a_law:.2f} ({a_low:.2f} to {a_high:.2f}) by the law"
)

# %% [markdown]
# The two disagree: by the valleys the exponent lies above the law's interval. Each valley is a parabola through few sizes, in a narrow range of compute, and the law
# takes one form for all. Both say that the best size grows with compute; do not trust the second digit of either.
#
# ## The bet
#
# A model that is several times larger than any of the ladder. First the prediction, with its interval, and two rivals: the same fit without a
# floor, and the published constants, taken as they are. Then the run.

# %%
held_width, held_steps = budget.held
held_n, held_d = float(size(held_width)), float(held_steps * SEEN)
bets = {
    "the law, E known": (known.law(held_n, held_d), known.interval(lambda law: law(held_n, held_d))),
    "the law, E fitted": (free.law(held_n, held_d), free.interval(lambda law: law(held_n, held_d))),
    "the law without a floor": (none.law(held_n, held_d), none.interval(lambda law: law(held_n, held_d))),
}
foreign = scaling.CHINCHILLA(held_n, held_d)
far_n, far_d = 100 * held_n, 100 * held_d
print(f"{held_n:,.0f} parameters ({held_n / sizes[-1]:.1f} times the largest of the ladder) on {held_d:,.0f} tokens")
for name, (value, (low, high)) in bets.items():
    print(
        f"  {name}: {value:.4f} ({low:.4f} to {high:.4f}); at 100 times N and D: {(known if 'known' in name else free if 'fitted' in name else none).law(far_n, far_d):.3f}"
    )
print(f"  Chinchilla's constants: {foreign:.1f}")

# %%
curve = run.curve(
    f"The held-out run: width {held_width}",
    "tokens",
    "nats a token",
    {
        "training loss": "policy",
        "frequencies only": "reference",
        "one syllable back": "prompt",
        "the floor E": "chosen",
    },
)
held_losses, _ = pretrain(
    held_width, corpus[0], [mark for mark in budget.marks if mark <= held_steps], seed=0, curve=curve
)
curve.show()
held_measured = held_losses[-1][1]
run.table(
    [
        (
            f"{tokens:,}",
            f"{known.law(held_n, float(tokens)):.4f}",
            f"{free.law(held_n, float(tokens)):.4f}",
            f"{none.law(held_n, float(tokens)):.4f}",
            f"{loss:.4f}",
        )
        for tokens, loss in held_losses
    ],
    ("Tokens", "Law, E known", "Law, E fitted", "No floor", "Measured"),
    caption=f"{held_n:,.0f} parameters: predicted from models of at most {sizes[-1]:,}",
)
held_error = (bets["the law, E known"][0] - held_measured) / (held_measured - FLOOR)
none_error = (bets["the law without a floor"][0] - held_measured) / (held_measured - FLOOR)
print(f"error: {bets['the law, E known'][0] - held_measured:+.4f} nats, {held_error:+.0%} of the excess")

# %% [markdown]
# The law with the known floor comes nearest, half a percent below the measured loss. Without a floor the prediction is even below the language's entropy. But look at the intervals: the
# measured loss lies above all three. They tell how the fit changes with other runs, and nothing of a law whose *form* is a little wrong beyond the ladder.
#
# ## A failure: the same text again
#
# A law in $D$ speaks of *fresh* tokens. Here one model sees fresh text, another of the same size sees a small part of it over and over.

# %%
again_width = 32
again_marks = [budget.unique * epoch for epoch in budget.epochs]
fresh_losses, _ = pretrain(again_width, corpus[0], again_marks, seed=5)
again_losses, again_network = pretrain(again_width, corpus[0][: budget.unique * BATCH], again_marks, seed=5)
memorized = sampled_loss(again_network, corpus[0][: budget.unique * BATCH]).mean().item()
run.table(
    [
        (epoch, f"{tokens:,}", f"{fresh:.4f}", f"{again:.4f}", f"{again - fresh:+.4f}")
        for epoch, (tokens, fresh), (_, again) in zip(budget.epochs, fresh_losses, again_losses, strict=True)
    ],
    ("Epoch", "Tokens seen", "Fresh text", "The same text again", "Difference"),
    caption=f"{size(again_width):,} parameters; {budget.unique * SEEN:,} different tokens; loss on unseen text",
)
print(
    f"its loss on the text that it read again and again: {memorized:.3f}; the entropy of the language is {FLOOR:.3f}. Below that, a text is known by heart"
)

# %% [markdown]
# Up to about four epochs, old text is nearly as good as new. After that the loss on unseen text falls more slowly, then rises, while the loss on the text itself goes below the entropy of the language.
#
# ## As at work: transformers' Llama and its Trainer
#
# The same sizes, the same text, the same optimizer, in a few lines. Nobody writes the loop by hand at work.

# %%
peer_config = LlamaConfig(vocab_size=V, hidden_size=24, intermediate_size=config(24).intermediate_size, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=T, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)  # fmt: skip
torch.manual_seed(0)
peer = LlamaForCausalLM(peer_config)
Transformer.view(peer).initialize(std=0.05)
examples = [
    {"input_ids": row[:-1], "labels": torch.cat([row.new_full((2,), -100), row[2:-1]])}
    for row in corpus[0][: budget.peer_steps * BATCH]
]
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(folder, per_device_train_batch_size=BATCH, max_steps=budget.peer_steps, learning_rate=0.2 / 24, lr_scheduler_type="constant_with_warmup", warmup_steps=20, adam_beta2=0.98, max_grad_norm=1e9, logging_steps=max(1, budget.peer_steps // 4), report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no")  # fmt: skip
    Trainer(peer, arguments, train_dataset=examples).train()
peer_loss = FLOOR + excess(Transformer.view(peer), unseen)
torch.manual_seed(0)
[(_, our_loss)], _ = pretrain(24, corpus[0], [budget.peer_steps], seed=0)
print(
    f"after {budget.peer_steps * SEEN:,} tokens: transformers {peer_loss:.3f}, our loop {our_loss:.3f} (with averaged weights), one syllable back {BIGRAM:.3f}"
)

# %% [markdown]
# ## The published laws, side by side
#
# Kaplan's three lines, and the two fits of Chinchilla's form: the paper's printed constants, and those that a replication fitted anew to the
# paper's own points (Besiroglu et al., 2024). Same data, same form, and for Gopher's compute a best model of twice the size.

# %%
GOPHER = 5.76e23


def kaplan_best(flops):
    """Kaplan et al. (2020), table 6: N_opt = 1.3e9 C^0.73 parameters, C in PF-days."""
    return 1.3e9 * (flops / scaling.PF_DAY) ** 0.73


rows = []
for flops, whose in ((1e21, "a small laboratory's"), (GOPHER, "Gopher's"), (3.8e25, "Llama 3.1 405B's")):
    cells = [f"{kaplan_best(flops) / 1e9:,.1f}"]
    for law in (scaling.CHINCHILLA, scaling.REPLICATION):
        n, d = law.optimal(flops)
        cells.append(f"{n / 1e9:,.1f} (on {d / 1e12:.2f}T: {d / n:.0f} a parameter)")
    rows.append((f"{flops:.2e}, {whose}", *cells))
run.table(
    rows,
    ("FLOPs", "Kaplan: N, billions", "Chinchilla as printed", "Replication"),
    caption="The best size by three published laws",
)

axis = np.logspace(6, 13, 60)
fig = go.Figure()
fig.add_scatter(
    x=axis, y=scaling.KAPLAN_PARAMETERS(axis), name="Kaplan 2020: L(N)", line={"color": palette.MIDDLE["prompt"]}
)
for law, name, role in (
    (scaling.CHINCHILLA, "Chinchilla 2022, endless data", "policy"),
    (scaling.REPLICATION, "replication 2024, endless data", "chosen"),
):
    fig.add_scatter(x=axis, y=law(axis, np.full_like(axis, 1e30)), name=name, line={"color": palette.MIDDLE[role]})
    fig.add_scatter(
        x=axis,
        y=law(axis, 20 * axis),
        name=name.replace("endless data", "20 tokens a parameter"),
        line={"color": palette.MIDDLE[role], "dash": "dash"},
    )
fig.update_layout(
    title="Loss by parameters, as three papers state it",
    xaxis={"type": "log", "title": "parameters N"},
    yaxis_title="loss, nats a token",
)
run.figure(
    fig,
    "Kaplan's straight line has no floor and crosses the others; theirs bend towards 1.69 and 1.82. Their texts and tokenizers differ.",
)

# %% [markdown]
# ## Compute at test time
#
# Compute can also be spent at the answer. A small model learns to add two numbers of two digits, a token a digit, and we stop it at several points.
# For each held-out sum we know its chance of writing the right three digits: the product of three probabilities. With a
# verifier, $k$ tries solve a problem with chance $1-(1-p)^k$.

# %%
MARKS = "0123456789+=\n"
code = {mark: i for i, mark in enumerate(MARKS)}
learned = [p for p in arithmetic.problems("train") if p.operator == "+"]
asked = [p for p in arithmetic.problems("held-out") if p.operator == "+"][:: max(1, 941 // budget.asked)][
    : budget.asked
]


def digits(problems):
    """17+25=042 and an end of line, a token each: (problems, 10)."""
    return torch.tensor([[code[mark] for mark in f"{p.left:02d}+{p.right:02d}={p.value:03d}\n"] for p in problems])


book, exam = digits(learned), digits(asked)
adder = Transformer(Config(len(MARKS), 32, 88, 2, 2, 2, 16, max_position_embeddings=16)).initialize(std=0.05)
adder_n = sum(parameter.numel() for parameter in adder.parameters())
optimizer = torch.optim.AdamW(adder.parameters(), lr=6e-3, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
generator = torch.Generator().manual_seed(0)
chances, votes, first_tries, sampled_pass, worst = {}, {}, {}, {}, {}
KS = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= budget.samples]
for step in run.progress(range(1, max(budget.sums) + 1), "learning to add"):
    for group in optimizer.param_groups:
        group["lr"] = 6e-3 * min(1.0, step / 50)
    page = book[torch.randint(len(book), (128,), generator=generator)]
    loss = F.cross_entropy(adder(page[:, :-1])[:, 5:].flatten(0, 1), page[:, 6:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in budget.sums:
        with torch.inference_mode():
            logprobs = adder(exam[:, :-1])[:, 5:8].log_softmax(-1).gather(-1, exam[:, 6:9, None]).squeeze(-1)
            chances[step] = logprobs.sum(-1).exp().double().numpy()
            prompts = exam[:, :6].repeat_interleave(budget.samples, 0)
            for _ in range(3):
                prompts = torch.cat(
                    [prompts, torch.multinomial(adder(prompts)[:, -1].softmax(-1), 1, generator=generator)], 1
                )
        answers = ["".join(MARKS[i] for i in row[6:]) for row in prompts.tolist()]
        by_problem = [answers[i : i + budget.samples] for i in range(0, len(answers), budget.samples)]
        right = [f"{p.value:03d}" for p in asked]
        counts = [{answer: given.count(answer) for answer in set(given)} for given in by_problem]
        votes[step] = {
            k: float(np.mean([vote_at_n(count, want, k) for count, want in zip(counts, right, strict=True)]))
            for k in KS
            if k <= 16
        }
        sampled_pass[step] = {
            k: float(
                np.mean(
                    [
                        scaling.pass_at_k(budget.samples, count.get(want, 0), k)
                        for count, want in zip(counts, right, strict=True)
                    ]
                )
            )
            for k in KS
        }
run.table(
    [
        (
            step,
            f"{step * 128 * 9:,}",
            f"{chances[step].mean():.1%}",
            *(f"{scaling.coverage(chances[step], [k])[0]:.1%}" for k in KS[1:4]),
            f"{votes[step][KS[min(3, len(votes[step]) - 1)]]:.1%}",
        )
        for step in budget.sums
    ],
    (
        "Steps",
        "Tokens",
        "One try",
        *(f"{k} tries, verified" for k in KS[1:4]),
        f"Vote of {KS[min(3, len(votes[budget.sums[0]]) - 1)]}",
    ),
    caption=f"{len(asked)} held-out sums, {adder_n:,} parameters",
)
pass_gap = max(
    abs(sampled_pass[step][k] - scaling.coverage(chances[step], [k])[0]) for step in budget.sums for k in KS if k <= 16
)
print(f"pass@k (to k = 16) from {budget.samples} samples and the exact coverage differ by {pass_gap:.3f} at most")

# %% [markdown]
# Two ways to pay for the same accuracy: more training, once; or more tries, at each question. And the law of the tries: a single problem's
# failures fall exponentially, those of all problems together much more slowly, because some problems have a tiny chance (Schaeffer et al., 2025).

# %%
tries_axis = np.unique(np.round(np.logspace(0, 3, 40)).astype(int))
fig = go.Figure()
for step, role in zip(
    budget.sums, ("reference", "prompt", "rejected", "kl", "value", "chosen", "policy"), strict=False
):
    fig.add_scatter(
        x=tries_axis,
        y=1 - scaling.coverage(chances[step], tries_axis),
        mode="lines",
        name=f"{step} steps, verified",
        line={"color": palette.MIDDLE[role]},
    )
    ks = [k for k in KS if k <= 16]
    fig.add_scatter(
        x=ks,
        y=[1 - votes[step][k] for k in ks],
        mode="lines",
        name=f"{step} steps, vote",
        line={"color": palette.MIDDLE[role], "dash": "dot"},
        showlegend=False,
    )
fig.update_layout(
    title="Failures against tries (solid: verified; dotted: vote)",
    xaxis={"type": "log", "title": "tries k"},
    yaxis={"type": "log", "title": "share of sums not solved", "range": [-3, 0.05]},
)
run.figure(
    fig,
    "With a verifier failures fall with every try; a vote helps only once the right answer is the likeliest, and then stops helping.",
)

early = budget.sums[min(2, len(budget.sums) - 1)]
late = budget.sums[-1]
late_accuracy = chances[late].mean()
tries_needed = next((int(k) for k in range(1, 5000) if scaling.coverage(chances[early], [k])[0] >= late_accuracy), 5000)
train_early, train_late = (scaling.training_flops(float(adder_n), float(step * 128 * 9)) for step in (early, late))
a_question = scaling.inference_flops(float(adder_n), 9.0)
even = (train_late - train_early) / ((tries_needed - 1) * a_question) if tries_needed > 1 else math.inf
print(
    f"{early} steps and {tries_needed} tries reach the {late_accuracy:.1%} of {late} steps and one try; training longer is cheaper from {even:,.0f} questions on"
)

# %% [markdown]
# ### The running examples, on a real model
#
# SmolLM2-135M-Instruct: what an answer costs beside its training, and what tries buy where one try hardly ever succeeds. Read the column
# *Right*: where no sample is right, neither a verifier nor a vote has anything to choose from. (Replies are cut after 20 tokens, so a long one counts as wrong, and the vote
# takes the last number that was said, often the question's own.)

# %%
small, tokenizer = models.load("small")
stop = tokenizer.eos_token_id
questions = ["Who are you?", "What is 17 + 25?"]
prompts = [text.encode_prompt(tokenizer, question) for question in questions]
greedy = decoding.generate(small, prompts, 24 if budget.tries > 2 else 4, stop_id=stop)
costs = []
rows = []
for question, prompt, said in zip(questions, prompts, greedy, strict=True):
    n_tokens = len(prompt) + len(said.ids)
    costs.append(scaling.inference_flops(float(SMOL), float(n_tokens)))
    rows.append(
        (
            question,
            tokenizer.decode(said.ids),
            n_tokens,
            f"{costs[-1]:.2e}",
            f"{scaling.training_flops(SMOL, SMOL_TOKENS) / costs[-1]:.1e}",
        )
    )
run.table(rows, ("Asked", "Answer", "Tokens", "FLOPs, 2N a token", "Answers for the price of training"))

SUMS = [
    arithmetic.Problem(17, "+", 25),
    arithmetic.Problem(38, "+", 46),
    arithmetic.Problem(67, "+", 85),
    arithmetic.Problem(94, "-", 37),
]
asked_small = [text.encode_prompt(tokenizer, problem.questions[0]) for problem in SUMS for _ in range(budget.tries)]
replies = decoding.generate(
    small,
    asked_small,
    20 if budget.tries > 2 else 3,
    Sampling(temperature=1.0),
    stop_id=stop,
    generator=torch.Generator().manual_seed(0),
)
small_rows, small_right = [], []
for place, problem in enumerate(SUMS):
    texts = [tokenizer.decode(reply.ids) for reply in replies[place * budget.tries : (place + 1) * budget.tries]]
    marks_right = [arithmetic.correct(problem, reply) for reply in texts]
    found = [
        next(
            iter(
                reversed([word.strip(".,!?*") for word in reply.split() if word.strip(".,!?*").lstrip("-").isdigit()])
            ),
            None,
        )
        for reply in texts
    ]
    small_right.append(sum(marks_right))
    small_rows.append(
        (
            problem.questions[0],
            f"{sum(marks_right)} of {budget.tries}",
            *(f"{scaling.pass_at_k(budget.tries, sum(marks_right), k):.0%}" for k in (1, 2, min(8, budget.tries))),
            str(majority(found)),
            texts[0],
        )
    )
run.table(
    small_rows,
    ("Asked", "Right", "pass@1", "pass@2", f"pass@{min(8, budget.tries)}", "Vote of all", "One reply"),
    caption="SmolLM2-135M-Instruct at temperature 1",
    mark=[str(p.value) for p in SUMS],
)

# %% [markdown]
# ## Results

# %%
run.result("floor", FLOOR, format=".3f")
run.result("bigram", BIGRAM, format=".3f")
run.result("unigram", UNIGRAM, format=".3f")
run.result("flops_ratio_small", flops_ratio[0], format=".2f")
run.result("flops_ratio_large", flops_ratio[-1], format=".2f")
run.result("smol_flops", scaling.training_flops(SMOL, SMOL_TOKENS), format=".2e")
run.result("smol_ratio", SMOL_TOKENS / SMOL, format=",.0f")
run.result("runs", len(plan))
run.result("points", len(ladder))
run.result("smallest", sizes[0], format=",")
run.result("largest", sizes[-1], format=",")
run.result("ladder_flops", spent, format=".1e")
run.result("first_tokens", first_losses[-1][0], format=",")
run.result("first_loss", first_losses[-1][1], format=".3f")
run.result("first_noise", noise, format=".3f")
for name, value in surprises.items():
    run.result(f"surprise_{name.split()[0]}_{name.split()[-1]}", value, format=".2f")
run.result("alpha", known.law.alpha, text=with_interval(known, lambda law: law.alpha))
run.result("beta", known.law.beta, text=with_interval(known, lambda law: law.beta))
run.result("A", known.law.A, format=".3g")
run.result("B", known.law.B, format=".3g")
run.result("free_floor", free.law.E, text=with_interval(free, lambda law: law.E))
run.result("free_alpha", free.law.alpha, text=with_interval(free, lambda law: law.alpha))
run.result("free_beta", free.law.beta, text=with_interval(free, lambda law: law.beta))
run.result("fit_error", off, format=".2%")
run.result("slope_n", slopes["loss, by N"], format=".3f")
run.result("slope_n_excess", slopes["loss - E, by N"], format=".2f")
run.result("slope_d", slopes["loss, by D"], format=".3f")
run.result("slope_d_excess", slopes["loss - E, by D"], format=".2f")
run.result("a_law", a_law, text=f"{a_law:.2f} ({a_low:.2f} to {a_high:.2f})")
run.result("a_valleys", a_valleys, format=".2f")
run.result("valleys", len(valleys))
run.result("held_parameters", held_n, format=",.0f")
run.result("held_times", held_n / sizes[-1], format=".1f")
run.result("held_tokens", held_d, format=",.0f")
for name, key in (("the law, E known", "known"), ("the law, E fitted", "free"), ("the law without a floor", "none")):
    value, (low, high) = bets[name]
    run.result(f"held_{key}", value, text=f"{value:.3f} ({low:.3f} to {high:.3f})")
run.result("held_measured", held_measured, format=".3f")
run.result("held_error", abs(held_error), format=".0%")
run.result("held_share", abs(bets["the law, E known"][0] / held_measured - 1), format=".1%")
run.result("held_foreign", foreign, format=".1f")
run.result("far_known", known.law(far_n, far_d), format=".2f")
run.result("far_none", none.law(far_n, far_d), format=".2f")
run.result("again_parameters", size(again_width), format=",")
run.result("again_tokens", budget.unique * SEEN, format=",")
run.result("again_epochs", budget.epochs[-1])
again_gaps = [again - fresh for (_, fresh), (_, again) in zip(fresh_losses, again_losses, strict=True)]
again_best = min(range(len(again_losses)), key=lambda k: again_losses[k][1])
run.result("again_fourth", again_gaps[min(2, len(again_gaps) - 1)], format="+.3f")
run.result("again_best", budget.epochs[again_best])
run.result("again_least", again_losses[again_best][1], format=".3f")
run.result("again_memorized", memorized, format=".2f")
run.result("again_fresh", fresh_losses[-1][1], format=".3f")
run.result("again_repeated", again_losses[-1][1], format=".3f")
run.result("peer_loss", peer_loss, format=".2f")
run.result("our_loss", our_loss, format=".2f")
run.result("adder_parameters", adder_n, format=",")
run.result("early_steps", early)
run.result("late_steps", late)
run.result("early_one", chances[early].mean(), format=".0%")
run.result("late_one", late_accuracy, format=".0%")
run.result("tries_needed", tries_needed)
run.result("even", even, format=",.0f")
many = KS[min(4, len(KS) - 1)]
run.result("many", many)
voted = max(k for k in KS if k <= 16)
run.result("voted", voted)
for name, step in (("first", budget.sums[min(1, len(budget.sums) - 1)]), ("early", early)):
    run.result(f"{name}_steps_shown", step)
    run.result(f"{name}_try", chances[step].mean(), format=".0%")
    run.result(f"{name}_verified", scaling.coverage(chances[step], [voted])[0], format=".0%")
    run.result(f"{name}_vote", votes[step][voted], format=".0%")
run.result("who_flops", costs[0], format=".1e")
run.result("sum_flops", costs[1], format=".1e")
run.result("sum_answers", scaling.training_flops(SMOL, SMOL_TOKENS) / costs[1], format=".1e")
run.result("who_said", None, text=tokenizer.decode(greedy[0].ids))
run.result("sum_said", None, text=tokenizer.decode(greedy[1].ids))
run.result("smol_tries", budget.tries)
for problem, right_ones in zip(SUMS, small_right, strict=True):
    run.result(
        f"smol_{problem.left}_{problem.right}", right_ones / budget.tries, text=f"{right_ones} of {budget.tries}"
    )

run.claim("the exact measure gives log 64 for a model that knows nothing", blank_gap < 1e-4)
run.claim(
    "the sampled loss agrees with the exact one within three standard errors",
    abs(agreed.mean().item() - first_losses[-1][1]) < 3 * noise,
)
run.claim("the products with weights are what PyTorch counts", counts_agree)
run.claim("6ND is the nearer, the larger the model", flops_ratio[0] > flops_ratio[-1] > 1.0)
run.claim(
    "every run goes on falling with more tokens",
    all((np.diff(ls[runs == number]) < 0).all() for number in set(runs.tolist())),
)
run.claim("at the same tokens a larger model is better, from the smallest to the largest", (np.diff(edge_n) < 0).all())
run.claim("the library's fit reaches scipy's objective", objectives[1] <= objectives[0] * 1.01)
run.claim("the fitted law is within 1.5% of the loss on average", off < 0.015)
run.claim(
    "the prediction of the held-out run is within 1% of its loss and 30% of its excess",
    abs(held_error) < 0.3 and abs(bets["the law, E known"][0] / held_measured - 1) < 0.01,
)
run.claim(
    "a hundred times as far, the law without a floor promises less than the entropy, and the other does not",
    none.law(far_n, far_d) < FLOOR < known.law(far_n, far_d),
)
run.claim(
    "the best size grows with compute, and the valleys agree with the law on it within a factor of 2",
    0 < a_law < 1
    and a_valleys > 0
    and all(1 / 2 < vertex[0] / known.law.optimal(flops)[0] < 2 for flops, (_, vertex) in valleys.items()),
)
run.claim(
    "the same text again ends above fresh text, and rises again after its best epoch",
    memorized < FLOOR and again_gaps[-1] > 0.05 and again_losses[-1][1] > again_losses[again_best][1] + 0.02,
)
run.claim("coverage from samples equals the exact one", pass_gap < 0.08)
run.claim(
    "a verifier gains with every try, a vote gains less",
    scaling.coverage(chances[early], [voted])[0] > votes[early][voted] + 0.02,
)

run.explorer(
    "scaling_planner",
    {
        "laws": [
            {"name": "Chinchilla, 2022", "note": "Hoffmann et al. (2022), eq. 10, as printed", **vars(scaling.CHINCHILLA)},
            {"name": "Replication, 2024", "note": "Besiroglu et al. (2024), fitted to the same runs", **vars(scaling.REPLICATION)},
            {"name": "This book's ladder", "note": f"fitted in the lab to {len(plan)} runs on a made-up language", **vars(known.law)},
        ],
        "own": 2,
        "chips": [
            {"name": "A100", "peak": 312e12, "note": "NVIDIA states 312 TFLOP/s in bfloat16"},
            {"name": "H100", "peak": 989e12, "note": "NVIDIA states 989 TFLOP/s in bfloat16 (SXM, dense)"},
        ],
        "models": [
            {"name": "Gopher (2021)", "parameters": 280e9, "tokens": 300e9, "note": "280B parameters, 300B tokens: Hoffmann et al. (2022), table 1"},
            {"name": "Chinchilla (2022)", "parameters": 70e9, "tokens": 1.4e12, "note": "70B parameters, 1.4T tokens: Hoffmann et al. (2022)"},
            {"name": "GPT-3 (2020)", "parameters": 175e9, "tokens": 300e9, "note": "175B parameters, 300B tokens: Brown et al. (2020)"},
            {"name": "LLaMA 65B (2023)", "parameters": 65.2e9, "tokens": 1.4e12, "hours": 1_022_362, "chip": 0, "note": "65.2B parameters, 1.4T tokens: Touvron et al. (2023), tables 2 and 15"},
            {"name": "Llama 2 70B (2023)", "parameters": 70e9, "tokens": 2e12, "hours": 1_720_320, "chip": 0, "note": "70B parameters, 2T tokens: Touvron et al. (2023), Llama 2, tables 1 and 2"},
            {"name": "Llama 3.1 405B (2024)", "parameters": 405e9, "tokens": 15.6e12, "hours": 30.84e6, "chip": 1, "note": "405B parameters, 15.6T tokens: Grattafiori et al. (2024); hours: its model card"},
            {"name": "DeepSeek-V3 (2024)", "parameters": 37e9, "tokens": 14.8e12, "hours": 2.664e6, "chip": 1, "note": "37B of 671B parameters active, 14.8T tokens, H800, mostly 8-bit: DeepSeek-AI (2024), table 1; laws of dense models do not fit it"},
            {"name": "SmolLM2-135M (2025)", "parameters": SMOL, "tokens": SMOL_TOKENS, "note": "134.5M parameters, 2T tokens: Ben Allal et al. (2025)"},
            {"name": "The lab's held-out run", "parameters": held_n, "tokens": held_d, "law": 2, "note": f"measured {held_measured:.3f} nats"},
            {"name": "The ladder's smallest", "parameters": sizes[0], "tokens": int(ds[ns == sizes[0]].max()), "law": 2, "note": f"measured {ls[(ns == sizes[0]) & (ds == ds[ns == sizes[0]].max())].mean():.3f} nats"},
        ],
        "runs": [[int(n), int(d), float(ls[(ns == n) & (ds == d)].mean())] for n in sizes for d in sorted(set(ds[ns == n].tolist()))],
        "start": {"model": 0, "law": 1, "chip": 0},
    },
)  # fmt: skip
run.finish()

# %% [markdown]
# ## Exercises
#
# **1. Days** (★, 4 minutes). A cluster has so many chips, each with a peak in FLOP/s, of which a share is used. How many days does a run of $N$ parameters
# on $D$ tokens take?


# %%
def my_days(parameters, tokens, chips, peak, utilization):  # five numbers -> days
    ...


check("pretrain_and_scale.days", my_days)

# %% [markdown]
# **2. An exponent** (★, 5 minutes). From losses of several sizes and a known floor $E$: the $\alpha$ of $L=E+A/N^\alpha$.


# %%
def my_exponent(parameters, losses, floor):  # (K,), (K,), a number -> alpha
    ...


check("pretrain_and_scale.exponent", my_exponent)

# %% [markdown]
# **3. The objective** (★★, 6 minutes). The sum over runs of the Huber loss of $\log\hat L-\log L$: half a square up to $\delta$, a line beyond.


# %%
def my_objective(predicted, measured, delta):  # (n,), (n,), a number -> a number
    ...


check("pretrain_and_scale.objective", my_objective)

# %% [markdown]
# **4. The best size** (★★, 8 minutes). Parameters and tokens of least loss for $C=6ND$ FLOPs, from the constants of a law.


# %%
def my_optimum(A, B, alpha, beta, flops):  # five numbers -> N, D
    ...


check("pretrain_and_scale.optimum", my_optimum)

# %% [markdown]
# **5. pass@k** (★★, 5 minutes). Of $n$ samples $c$ are right. An unbiased estimate of the chance that at least one of $k$ is.


# %%
def my_pass_at_k(samples, right, k):  # three integers -> a number between 0 and 1
    ...


check("pretrain_and_scale.pass_at_k", my_pass_at_k)
