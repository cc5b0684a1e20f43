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
# # Four families, one set of parts
#
# BERT, T5, GLM and GPT are made of the same block. What sets them apart is who may look at whom, and what they are asked to say. Here you
# build all four from the book's decoder by changing a mask or adding one part, train each with three seeds on the same equations, and ask all of them the same
# questions. The data are small enough that you can compute, to the last digit, what the best possible model would do.
#
# - **You will** draw four masks; compute by enumeration the lowest loss that each family can reach, and watch it get there; fill in
#   "17 + ▢ = 42" with each; write equations from nothing; forget the causal mask and see what happens; turn SmolLM2's mask around; compare an encoder
#   and a decoder as readers of sentences; count real models to the last parameter.
# - **Time:** about 4 minutes on a CPU with two cores.
#
# **Topics:** architecture-families, llama

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
# ## The data, and what can be known about it
#
# All sums of two numbers from 10 to 39: 900 lines such as `17+25=42`, each of 8 tokens, all equally likely. Small as it is, it has what
# matters: free choices (the summands), and tokens that are determined by others, before *or after* them.

# %%
import copy
import math
import time
from functools import partial

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn

from alignlab import compute, counting, lab, models, retrieval
from alignlab.architectures.families import (
    IGNORED,
    CrossAttention,
    EncoderDecoder,
    corrupt_spans,
    full_mask,
    mask_tokens,
    prefix_mask,
    stream,
)
from alignlab.exercises import check
from alignlab.rl.curves import band
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_architecture_families")
budget = run.budget(
    full=dict(steps=300, every=30, seeds=3, rows=128, more_steps=250, leaky_steps=150, written=1000, scored=100, peer_steps=500),
    quick=dict(steps=6, every=6, seeds=2, rows=32, more_steps=4, leaky_steps=4, written=20, scored=10, peer_steps=3),
)  # fmt: skip
compute.seed(0)
PLUS, EQUALS, BLANK, START, END = range(10, 15)
TEXT = [*"0123456789", "+", "=", "▢", "‹", "›"]
VOCABULARY, LENGTH = 15, 8
LINES = torch.tensor(
    [
        [a // 10, a % 10, PLUS, b // 10, b % 10, EQUALS, (a + b) // 10, (a + b) % 10]
        for a in range(10, 40)
        for b in range(10, 40)
    ]
)
HOLES = {"first number": (0, 2), "second number": (3, 5), "sum": (6, 8)}


def show(ids):
    return "".join(TEXT[i] for i in ids)


QUESTION = next(line for line in LINES if show(line) == "17+25=42")
print(f"{len(LINES):,} lines of {LENGTH} tokens, from {show(LINES[0])} to {show(LINES[-1])}")

# %% [markdown]
# How well can a token be guessed? That depends on what you may see. For each position: the entropy of the token given all tokens **before** it,
# and given **all others**, by counting.

# %%


def entropy_given(seen, hidden):
    """Mean entropy in nats of the token at `hidden` given the tokens at the places `seen`, over all lines."""
    groups = {}
    for line in LINES.tolist():
        groups.setdefault(tuple(line[i] for i in seen), []).append(line[hidden])
    total = 0.0
    for tokens in groups.values():
        counts = np.unique(tokens, return_counts=True)[1]
        total -= (counts * np.log(counts / len(tokens))).sum()
    return total / len(LINES)


BEFORE = [entropy_given(range(t), t) for t in range(LENGTH)]
AROUND = [entropy_given([i for i in range(LENGTH) if i != t], t) for t in range(LENGTH)]
line_entropy = math.log(len(LINES))
run.table(
    [
        [name, *(f"{x:.3f}" for x in values), f"{sum(values):.3f}"]
        for name, values in (("before it", BEFORE), ("all others", AROUND))
    ],
    ["token, given", *show(QUESTION), "sum"],
    caption="Nats that no model can save, by position",
)
chain_rule_gap = abs(sum(BEFORE) - line_entropy)
print(f"the first row adds up to ln 900 = {line_entropy:.3f} (chain rule; off by {chain_rule_gap:.0e})")

# %% [markdown]
# Read left to right, the summands cost $2(\ln3+\ln10)$ nats and the sum is free. Read with both sides in view, *nothing* is uncertain. This is what
# BERT's authors meant: a model that reads to the left only gives away what stands on the right. And the second row has a price, too: its
# numbers do not add up to the entropy of a line. Conditionals given everything else are not the factors of a probability. We shall pay for that when writing.
#
# ## Four masks
#
# A mask says for each token (row) which tokens (columns) it may see.

# %%
CELLS = 9
masks = {
    "encoder": full_mask(torch.ones(1, CELLS))[0, 0],
    "prefix decoder": prefix_mask(torch.tensor([5]), CELLS)[0, 0],
    "causal decoder": prefix_mask(torch.tensor([0]), CELLS)[0, 0],
}
for row in range(CELLS):
    print("   ".join("".join("■ " if seen else "· " for seen in mask[row]) for mask in masks.values()))
print("   ".join(f"{name:<{2 * CELLS}}" for name in masks))
by_hand = torch.tensor([[column <= row or column < 5 for column in range(CELLS)] for row in range(CELLS)])
mask_agrees = bool((by_hand == masks["prefix decoder"]).all())

# %% [markdown]
# The fourth family, the encoder-decoder, has two stacks: an encoder without a mask and a causal decoder. Between them stands **cross-attention**: queries from
# the text being written, keys and values from the text that was read. In the open, for one head:

# %%
D, HEADS = 64, 4


def sizes(layers, inner):
    return Config(VOCABULARY, D, inner, layers, HEADS, HEADS, D // HEADS, max_position_embeddings=32)


def cross_attention(x, memory, w_q, w_k, w_v, w_o, heads):
    """x (T, d), memory (S, d) -> (T, d). No mask: the whole source may be seen."""
    q, k, v = x @ w_q.T, memory @ w_k.T, memory @ w_v.T
    mixed = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        scores = q_h @ k_h.T / math.sqrt(q_h.shape[-1])  # (T, S)
        mixed.append(scores.softmax(-1) @ v_h)
    return torch.cat(mixed, -1) @ w_o.T


with torch.no_grad():
    layer = CrossAttention(sizes(1, 128))
    x, memory = torch.randn(3, D), torch.randn(7, D)
    weights = [layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight, layer.o_proj.weight]
    ours = cross_attention(x, memory, *weights, HEADS)
    theirs = nn.MultiheadAttention(D, HEADS, bias=False, batch_first=True)
    theirs.in_proj_weight.copy_(torch.cat(weights[:3]))
    theirs.out_proj.weight.copy_(weights[3])
    library_gap = (layer(x[None], memory[None])[0] - ours).abs().max().item()
    torch_gap = (theirs(x[None], memory[None], memory[None])[0][0] - ours).abs().max().item()
print(
    f"cross-attention: {tuple(x.shape)} reads {tuple(memory.shape)}; off from the library {library_gap:.0e}, from torch.nn {torch_gap:.0e}"
)

# %% [markdown]
# ## Five ways to ask
#
# What a model is asked to predict matters as much as its mask. Each family gets the objective it is known for, all on the same lines:
#
# | | sees | is asked for |
# |---|---|---|
# | **encoder** (BERT) | `‹17+▢▢=42` | the hidden tokens, each where it was, all at once |
# | **encoder-decoder** (T5) | encoder `‹17+▢=42`, decoder `‹25` | `25›`, one after the other |
# | **prefix decoder** (GLM) | `17+▢=42‹` both ways, then `25` | `25›`, one after the other |
# | **causal decoder** (GPT) | `‹17+25=4` | each next token |
# | **causal, moved** | the prefix decoder's row, under a causal mask | `25›` |
#
# The last one asks whether GLM's mask matters, or only its order: the gap's contents are moved to the end, where even a causal model has seen both
# sides. Code models are trained so, under the name *fill in the middle* (Bavarian et al., 2022). A gap is one of the three numbers, or the whole line:
# then the source is `▢` alone, and a line must be written. The library makes such rows:

# %%
source, target = corrupt_spans(QUESTION.tolist(), [(3, 5)], [BLANK, END])
ids, labels = stream([*source, START], target[1:])
print(f"span corruption: source {show(source)}, target {show(target)}")
inputs, chosen = mask_tokens(LINES, BLANK, 12, generator=torch.Generator().manual_seed(0))
asked = chosen != IGNORED
print(
    f"BERT's rule: {asked.double().mean():.1%} of the tokens are asked for; of these {(inputs[asked] == BLANK).double().mean():.0%} are hidden, "
    f"{(inputs[asked] == LINES[asked]).double().mean():.0%} left as they are (a few by chance), the others replaced"
)
print(f"as one row: {show(ids)}; predicted: {['-' if i == IGNORED else TEXT[i] for i in labels]}")


def column(lines, token):
    return torch.full((len(lines), 1), token)


def cut(lines, hole):
    """Source with one blank in place of the hole, and what was there."""
    start, end = hole
    return torch.cat([lines[:, :start], column(lines, BLANK), lines[:, end:]], 1), lines[:, start:end]


def as_rows(lines, hole):
    """Tokens (n, 10), labels (n, 10) and the length of the prefix (n,)."""
    source, span = cut(lines, hole)
    ids = torch.cat([source, column(lines, START), span, column(lines, END)], 1)
    first = source.shape[1] + 1
    labels = torch.full_like(ids, IGNORED)
    labels[:, first - 1 : -1] = ids[:, first:]
    return ids[:, :-1], labels[:, :-1], torch.full((len(lines),), first)


def as_pairs(lines, hole):
    """Source (n, 8) and its mask, decoder's input (n, 9), labels (n, 9)."""
    source, span = cut(lines, hole)
    source = torch.cat([column(lines, START), source], 1)
    short, rest = 8 - source.shape[1], 8 - span.shape[1]
    seen = torch.ones_like(source)
    given, asked = torch.cat([column(lines, START), span], 1), torch.cat([span, column(lines, END)], 1)
    return (
        F.pad(source, (0, short)),
        F.pad(seen, (0, short)),
        F.pad(given, (0, rest)),
        F.pad(asked, (0, rest), value=IGNORED),
    )


EVERY_HOLE = [*HOLES.values(), (0, LENGTH)]
ROWS = [torch.cat(parts) for parts in zip(*(as_rows(LINES, hole) for hole in EVERY_HOLE))]
PAIRS = [torch.cat(parts) for parts in zip(*(as_pairs(LINES, hole) for hole in EVERY_HOLE))]
rows_agree = (
    ROWS[0][len(LINES) + 30 * 7 + 15].tolist() == ids[:-1] and ROWS[1][len(LINES) + 30 * 7 + 15].tolist() == labels[:-1]
)
print(f"{len(ROWS[0]):,} rows; the one of 17+25=42 without its second number is the library's: {rows_agree}")

# %% [markdown]
# The models. Four of the five are the very same `Transformer`; the mask is an argument. Only the encoder-decoder has two stacks and
# another part: one layer that reads and one that writes, where the others have two layers for both. With a narrower MLP, to pay for cross-attention, it has exactly as many parameters. There are 3,600
# questions: each line with each of its four gaps. A loss takes the numbers of those to be asked.

# %%
QUESTIONS = len(ROWS[0])
ANY = torch.ones(1, 1, LENGTH + 1, LENGTH + 1, dtype=torch.bool)
GAPS = torch.stack([(torch.arange(LENGTH) >= start) & (torch.arange(LENGTH) < end) for start, end in EVERY_HOLE])


def logits_of(model, ids, mask):
    """Logits (n, T, V) of a Transformer under any mask; None is causal."""
    return model.lm_head(model.states(model.embed_tokens(ids), torch.arange(ids.shape[1])[None], mask))


def read(model, lines):
    """An encoder's logits (n, 8, V) for a line with hidden tokens; a start token marks where it begins."""
    return logits_of(model, torch.cat([column(lines, START), lines], 1), ANY)[:, 1:]


def encoder_loss(model, index, any_rate=False):
    lines, hidden = LINES[index % len(LINES)], GAPS[index // len(LINES)]
    if any_rate:  # half of the lines hide each token with a rate of the line's own
        scattered = torch.rand(lines.shape) < torch.rand(len(lines), 1)
        hidden = torch.where(torch.rand(len(lines), 1) < 0.5, scattered, hidden)
    return F.cross_entropy(
        read(model, torch.where(hidden, BLANK, lines)).flatten(0, 1), torch.where(hidden, lines, IGNORED).flatten()
    )


def seq2seq_loss(model, index):
    source, seen, given, asked = (part[index] for part in PAIRS)
    return F.cross_entropy(model(source, given, seen).flatten(0, 1), asked.flatten())


def row_loss(model, index, with_prefix):
    ids, labels, prefix = (part[index] for part in ROWS)
    mask = prefix_mask(prefix, ids.shape[1]) if with_prefix else None
    return F.cross_entropy(logits_of(model, ids, mask).flatten(0, 1), labels.flatten())


def causal_loss(model, index, mask=None):
    lines = LINES[index % len(LINES)]
    return F.cross_entropy(
        logits_of(model, torch.cat([column(lines, START), lines[:, :-1]], 1), mask).flatten(0, 1), lines.flatten()
    )


def decoder_only():
    return Transformer(sizes(2, 176)).initialize(0.05)


FAMILIES = {
    "encoder": (decoder_only, encoder_loss),
    "encoder-decoder": (lambda: EncoderDecoder(sizes(1, 133)).initialize(0.05), seq2seq_loss),
    "prefix decoder": (decoder_only, partial(row_loss, with_prefix=True)),
    "causal decoder": (decoder_only, causal_loss),
    "causal, moved": (decoder_only, partial(row_loss, with_prefix=False)),
}
ROLES = {
    "encoder": "value",
    "encoder-decoder": "reward",
    "prefix decoder": "prompt",
    "causal decoder": "policy",
    "causal, moved": "kl",
}
counts = {name: sum(p.numel() for p in make().parameters()) for name, (make, _) in FAMILIES.items()}
print({name: f"{count:,}" for name, count in counts.items()})
with torch.no_grad():
    empty = torch.full((1, LENGTH), BLANK)
    without = logits_of(decoder_only(), empty, ANY[:, :, 1:, 1:])
    blind_gap = (without - without[:, :1]).abs().max().item()
print(f"an encoder before an empty line without a start token: all positions alike, within {blind_gap:.0e}")

# %% [markdown]
# The start token is no decoration. Rotary positions tell *distances*, and an encoder has no first token by nature: without a mark, eight hidden tokens in a row look the same from everywhere. (A causal
# mask marks the beginning by itself: the first token sees only itself.) BERT begins every text with `[CLS]`, and adds a learned vector per position.
#
# How low can each loss go? For the causal decoder it is $\ln900/8$ nats a token. Gaps cost nothing, whole lines do: writing one token after the other costs $\ln900$, spread over the labels of a batch: three gaps of 3 and one line of 9. Saying all 8
# at once costs the sum of the positions' *own* entropies, which is more.

# %%
alone = sum(entropy_given((), t) for t in range(LENGTH))
written_floor = line_entropy / (3 * 3 + 9)  # nats over labels of a batch: three gaps of 3 labels, one line of 9
FLOORS = {
    "encoder": alone / (3 * 2 + 8), "encoder-decoder": written_floor, "prefix decoder": written_floor,
    "causal decoder": line_entropy / LENGTH, "causal, moved": written_floor,
}  # fmt: skip
print({name: f"{floor:.3f}" for name, floor in FLOORS.items()}, f"positions on their own: {alone:.3f} nats")

# %% [markdown]
# ## What they answer
#
# A filled gap counts as right when both digits are. The encoder says both at once; the others write one after the other. The causal decoder is asked as it
# was trained: it continues what stands to the left of the gap. Each family is trained three times, from other weights and on other batches. When it is done, its loss is
# computed over *all* 3,600 questions: that is the expected loss itself, without a batch's luck, and it can be held against the floor to the last digit.
#
# Fifteen trainings must be short. So the matrices inside the layers are trained with Muon (Jordan et al., 2024), which needs fewer steps here than AdamW: it makes the singular values of each step alike, so that
# rare directions are learned as fast as common ones. Embeddings and norms stay with AdamW.

# %%


@torch.no_grad()
def fill(name, model, lines, hole):
    """The two tokens that a model puts in the hole of each line, (n, 2), greedily."""
    start, end = hole
    if name in ("encoder", "encoder, any rate"):
        asked = lines.clone()
        asked[:, start:end] = BLANK
        return read(model, asked)[:, start:end].argmax(-1)
    source, _ = cut(lines, hole)
    memory = model.encode(torch.cat([column(lines, START), source], 1)) if name == "encoder-decoder" else None
    given = {
        "encoder-decoder": column(lines, START),
        "causal decoder": torch.cat([column(lines, START), lines[:, :start]], 1),
    }
    ids = given.get(name, torch.cat([source, column(lines, START)], 1))
    prefix = torch.full((len(lines),), ids.shape[1])
    for _ in range(end - start):
        if memory is not None:
            logits = model.decode(ids, memory)
        else:
            logits = logits_of(model, ids, prefix_mask(prefix, ids.shape[1]) if name == "prefix decoder" else None)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, -(end - start) :]


def right(name, model, hole, lines=LINES):
    return (fill(name, model, lines, hole) == lines[:, hole[0] : hole[1]]).all(1).float().mean().item()


PROBE = LINES[torch.randperm(len(LINES), generator=torch.Generator().manual_seed(1))[:400]]


class Muon:
    """For matrices: their momentum, with all singular values moved to about 1, is the step. One product for each shape."""

    def __init__(self, matrices):
        self.of_shape = {}
        for matrix in matrices:
            self.of_shape.setdefault(matrix.shape, []).append(matrix)
        self.momenta = {shape: torch.zeros(len(group), *shape) for shape, group in self.of_shape.items()}

    @torch.no_grad()
    def step(self, rate):
        for (rows, columns), group in self.of_shape.items():
            gradient, momentum = torch.stack([matrix.grad for matrix in group]), self.momenta[rows, columns]
            x = gradient.lerp(momentum.lerp_(gradient, 0.05), 0.95)  # (n, rows, columns)
            x = x.mT if rows > columns else x
            x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
            for _ in range(5):  # Newton and Schulz: x becomes a x + (b x x' + c x x' x x') x
                square = x @ x.mT
                x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
            x = (x.mT if rows > columns else x) * max(1.0, rows / columns) ** 0.5
            for matrix, step in zip(group, x):
                matrix.sub_(rate * step)


def fit(name, seed, make, loss_of, steps, curve=None, probe=True):
    """Train one model; returns it, its loss over all questions, and its accuracy in each gap (looks, 3) on the way."""
    torch.manual_seed(seed)
    model = make()
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    muon = Muon(inner)
    adam = torch.optim.AdamW([p for p in model.parameters() if not any(p is q for q in inner)], betas=(0.9, 0.98))
    seen = []
    for step in run.progress(steps, f"{name}, seed {seed}", curve=[curve] if curve else []):
        loss = loss_of(model, torch.randint(QUESTIONS, (budget.rows,)))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min((step + 1) / 50, 0.51 + 0.49 * math.cos(math.pi * step / steps))  # up, then down
        adam.param_groups[0]["lr"] = 4e-3 * rate
        adam.step()
        muon.step(0.02 * rate)
        if curve and step % 10 == 0:
            curve.add(name, step, loss.item())
        if probe and (step + 1) % budget.every == 0:
            seen.append([right(name, model, hole, PROBE) for hole in HOLES.values()])
    with torch.no_grad():
        return model.eval(), loss_of(model, torch.arange(QUESTIONS)).item(), np.array(seen)


def over_seeds(values, form=".1%"):
    """The mean, and from the least to the most where there is a difference to see."""
    mean, least, most = (format(f(values), form) for f in (np.mean, min, max))
    return mean if least == most else f"{mean} ({least} to {most})"


curve = run.curve("Loss of the first seed", lines={name: ROLES[name] for name in FAMILIES})
trained, losses, learning, seconds = {}, {}, {}, {}
for name, (make, loss_of) in FAMILIES.items():
    began = time.perf_counter()
    for seed in range(budget.seeds):
        model, whole, seen = fit(name, seed, make, loss_of, budget.steps, curve if seed == 0 else None)
        trained.setdefault(name, []).append(model)
        losses.setdefault(name, []).append(whole)
        learning.setdefault(name, []).append(seen)
    seconds[name] = (time.perf_counter() - began) / budget.seeds
curve.show()

# %%
answers = {
    name: {hole: [right(name, model, where) for model in trained[name]] for hole, where in HOLES.items()}
    for name in FAMILIES
}
run.table(
    [
        [
            name, f"{counts[name]:,}", over_seeds(losses[name], ".3f"), f"{FLOORS[name]:.3f}",
            *(over_seeds(answers[name][hole]) for hole in HOLES), f"{seconds[name]:.0f} s",
        ]
        for name in FAMILIES
    ],
    ["family", "parameters", "loss", "lowest possible", *(f"right: {hole}" for hole in HOLES), "time of a run"],
    caption=f"Mean of {budget.seeds} seeds (least to most). Loss: nats per predicted token over all {QUESTIONS:,} questions, the kind that the family trained on. Right: share of the {len(LINES):,} lines whose gap is filled, greedily",
)  # fmt: skip
said = {
    name: [show(fill(name, model, QUESTION[None], HOLES["second number"])[0].tolist()) for model in trained[name]]
    for name in FAMILIES
}
print(f"17+▢=42, by seed: {said}")

# %% [markdown]
# Four of five fill the gap, with every seed. The causal decoder reads "17+" and cannot know what follows: whatever number it names is right for one line in thirty, and no training changes that.
# Its loss says so, too: it stands at its own floor. With the gap *moved to the end*, the same network under the same mask fills it. (The lines are those of the training: there are no others. The question here is who *can*
# know, not who generalizes.)
#
# How fast do they learn? Accuracy in the gap of the second number, on 400 of the lines, at equal steps and rows:

# %%
fig = go.Figure()
grid = np.arange(1, len(learning["encoder"][0]) + 1) * budget.every
for name in FAMILIES:
    band(fig, grid, np.stack([seen[:, 1] for seen in learning[name]]), name, ROLES[name])
fig.update_layout(title="17+▢=42, while training", xaxis_title="step", yaxis_title="gaps filled rightly")
run.figure(
    fig,
    "Accuracy in the gap against training steps, mean and range over seeds: encoder, encoder-decoder, prefix decoder and the causal decoder with the gap moved rise to one, the plain causal decoder stays at three percent.",
)
on_the_way = {name: [seen[:, 1].mean() for seen in learning[name]] for name in FAMILIES}
print("mean over all looks:", {name: over_seeds(values) for name, values in on_the_way.items()})
above = {name: [loss - FLOORS[name] for loss in losses[name]] for name in FAMILIES}
print("loss above the lowest possible:", {name: over_seeds(values, ".3f") for name, values in above.items()})

# %% [markdown]
# The four that can fill the gap learn it about equally fast: seeds differ nearly as much as families do. But the encoder-decoder stays farthest above its floor, with every seed: of its two layers one only reads. That will show
# when lines are to be written from nothing: then its encoder has a blank to read, and *one* layer is left for what the others do with two.
#
# ### A causal decoder can fill it after all, at a price
#
# It has a probability for every *whole line*. So put all 100 pairs of digits into the gap, score each line, and take the best: Bayes' rule by brute force. One
# question then costs 100 passes, where the encoder needs one.

# %%


@torch.no_grad()
def line_logprobs(model, lines):
    """log p(line) by the chain rule, (n,)."""
    logits = logits_of(model, torch.cat([column(lines, START), lines[:, :-1]], 1), None)
    return logits.log_softmax(-1).gather(-1, lines[..., None])[..., 0].sum(1)


def by_scoring(model, lines, hole):
    """Accuracy of the best of all 100 fillings."""
    tried = lines.repeat_interleave(100, 0)
    tried[:, hole[0]] = (torch.arange(100) // 10).repeat(len(lines))
    tried[:, hole[0] + 1] = (torch.arange(100) % 10).repeat(len(lines))
    best = line_logprobs(model, tried).view(len(lines), 100).argmax(1)
    return (best == lines[:, hole[0]] * 10 + lines[:, hole[0] + 1]).float().mean().item()


scored = [by_scoring(model, PROBE[: budget.scored], HOLES["second number"]) for model in trained["causal decoder"]]
print(
    f"causal decoder, second number: continuing {over_seeds(answers['causal decoder']['second number'])}, scoring 100 lines {over_seeds(scored)}"
)

# %% [markdown]
# ## Writing
#
# Now from nothing: "write an equation". The causal decoder, the prefix decoder and the encoder-decoder do it token by token. What of the encoder? Hide everything and
# fill all gaps **at once**: each position then draws on its own, knowing nothing of the others' draws. The share of true equations among such lines can be computed: it
# is the product of the positions' frequencies, summed over all 900 lines. Or go **one at a time**: draw one hidden position, write it down, look again. For that an encoder must have
# practised on half-written lines. So the encoders go on for some steps, now with *any* share of the tokens hidden.

# %%
trained["encoder, any rate"] = []
for seed, reader in enumerate(trained["encoder"]):
    writer, _, _ = fit("encoder, any rate", seed, partial(copy.deepcopy, reader), partial(encoder_loss, any_rate=True), budget.more_steps, probe=False)  # fmt: skip
    trained["encoder, any rate"].append(writer)


@torch.no_grad()
def write(name, model, n):
    """n lines drawn at temperature 1, (n, 8)."""

    def draw(logits):
        return torch.multinomial(logits[:, :12].softmax(-1), 1)

    if name.startswith("encoder:"):
        lines = torch.full((n, LENGTH), BLANK)
        if name.endswith("at once"):
            return torch.cat([draw(read(model, lines)[:, t]) for t in range(LENGTH)], 1)
        for places in torch.rand(n, LENGTH).argsort(1).T:  # each line in an order of its own
            lines.scatter_(1, places[:, None], draw(read(model, lines)[torch.arange(n), places]))
        return lines
    nothing = torch.full((n, 1), BLANK)
    memory = model.encode(torch.cat([column(nothing, START), nothing], 1)) if name == "encoder-decoder" else None
    ids = (
        torch.full((n, 1), START)
        if name in ("causal decoder", "encoder-decoder")
        else torch.cat([nothing, torch.full((n, 1), START)], 1)
    )
    prefix = torch.full((n,), ids.shape[1])
    for _ in range(LENGTH):
        if memory is not None:
            logits = model.decode(ids, memory)
        else:
            logits = logits_of(model, ids, prefix_mask(prefix, ids.shape[1]) if name == "prefix decoder" else None)
        ids = torch.cat([ids, draw(logits[:, -1])], 1)
    return ids[:, -LENGTH:]


KNOWN = {tuple(line) for line in LINES.tolist()}
frequencies = torch.stack([F.one_hot(LINES[:, t], 12).double().mean(0) for t in range(LENGTH)])
at_once_floor = sum(math.prod(frequencies[t, token].item() for t, token in enumerate(line)) for line in LINES.tolist())
torch.manual_seed(0)
written, examples = {}, {}
WRITERS = {
    "causal decoder": "causal decoder", "prefix decoder": "prefix decoder", "encoder-decoder": "encoder-decoder", "encoder: at once": "encoder",
    "encoder: one at a time": "encoder", "encoder: any rate, one at a time": "encoder, any rate",
}  # fmt: skip
for name, who in WRITERS.items():
    for model in trained[who]:
        lines = [tuple(line) for line in write(name, model, budget.written).tolist()]
        written.setdefault(name, []).append(np.mean([line in KNOWN for line in lines]))
        examples.setdefault(name, [show(line) for line in lines[:4]])
run.table(
    [[name, over_seeds(written[name]), "  ".join(examples[name])] for name in written],
    ["writer", "true equations", "the first four lines of seed 0"],
    caption=f"{budget.written:,} lines written from nothing by each of {budget.seeds} seeds, at temperature 1: mean (least to most)",
)
print(f"at once, by the frequencies of the positions: {at_once_floor:.2%}")

# %% [markdown]
# Look at the ranges first. The encoder-decoder fills gaps as well as any, and is far behind in writing; how far depends on the seed more than on anything else. Whoever trains one model of each kind reports a number from such a range.
#
# At once, the encoder gets the form right and the sum wrong. One at a time, an encoder is hardly better: half-written lines are new to it. After some practice on them it does many times better, and has not finished learning: it must
# master every order, not one. It is then an autoregressive model over random orders, at one full pass per token and without a cache: a masked diffusion language model (LLaDA, Nie et al., 2025). BERT's fixed 15% prepares nobody for an empty page.
#
# At temperature 1 a line is a chain of eight draws, so small errors of a token add up: what fills nearly all gaps still writes wrong lines.
#
# ### What a score means
#
# The causal decoder's numbers are probabilities: over all lines they cannot add up to more than 1. The encoder's product of "each token given all others" (its *pseudo-likelihood*) is not one.

# %%


@torch.no_grad()
def pseudo_logprobs(model, lines):
    """The sum of log p(token, given all others) of each line, (n,)."""
    total = torch.zeros(len(lines))
    for t in range(LENGTH):
        asked = lines.clone()
        asked[:, t] = BLANK
        total += read(model, asked)[:, t].log_softmax(-1).gather(-1, lines[:, t, None])[:, 0]
    return total


by_causal = [line_logprobs(model, LINES) for model in trained["causal decoder"]]
by_encoder = [pseudo_logprobs(model, LINES) for model in trained["encoder, any rate"]]
causal_totals, pseudo_totals = ([one.exp().sum().item() for one in ones] for ones in (by_causal, by_encoder))
print(
    f"sum over the 900 lines: causal probabilities {over_seeds(causal_totals, '.4f')}, exponentials of pseudo-log-likelihoods {over_seeds(pseudo_totals, ',.0f')}"
)
print(
    f"17+25=42, seed 0: log p = {by_causal[0][30 * 7 + 15]:.3f} (best possible {-line_entropy:.3f}); pseudo-log-likelihood {by_encoder[0][30 * 7 + 15]:.3f}"
)

# %% [markdown]
# ### What can be kept
#
# Append a token, and see which states change. Where none do, they need not be computed again: that is the KV cache, and the reason why chat runs on decoders.

# %%
with torch.no_grad():
    decoder, ids = trained["causal decoder"][0], torch.cat([torch.tensor([START]), QUESTION])[None]
    states = {}
    for kind, mask in {"causal decoder": None, "prefix decoder": 5, "encoder": ids.shape[1]}.items():
        both = []
        for shown in (ids, torch.cat([ids, torch.tensor([[END]])], 1)):
            length = shown.shape[1]
            seen = None if mask is None else prefix_mask(torch.tensor([length if kind == "encoder" else mask]), length)
            both.append(
                decoder.states(decoder.embed_tokens(shown), torch.arange(length)[None], seen)[:, : ids.shape[1]]
            )
        states[kind] = (both[0] - both[1]).abs().max().item()
print({kind: f"{change:.1e}" for kind, change in states.items()})

# %% [markdown]
# ## The failure: a forgotten mask
#
# Train the causal decoder's objective **without** the causal mask. The token to be predicted then stands in plain sight, one place to the right. Nothing complains. The loss is a dream.

# %%
leaky_curve = run.curve("Next-token loss, seed 0", lines={"mask forgotten": "rejected"})
forgetful = partial(causal_loss, mask=ANY[:, :, 1:, 1:])
leaky_losses, leaky_true = [], []
for seed in range(budget.seeds):
    leaky, whole, _ = fit("mask forgotten", seed, decoder_only, forgetful, budget.leaky_steps, leaky_curve if seed == 0 else None, probe=False)  # fmt: skip
    ids = torch.full((500, 1), START)
    with torch.no_grad():
        for _ in range(LENGTH):
            open_mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
            ids = torch.cat([ids, torch.multinomial(logits_of(leaky, ids, open_mask)[:, -1, :12].softmax(-1), 1)], 1)
    leaky_losses.append(whole)
    leaky_true.append(np.mean([tuple(line) in KNOWN for line in ids[:, 1:].tolist()]))
print(
    f"loss {over_seeds(leaky_losses, '.4f')}, below the {FLOORS['causal decoder']:.3f} that are possible; true equations among its own: {over_seeds(leaky_true)}, such as {show(ids[0, 1:].tolist())}"
)

# %% [markdown]
# **A loss below what is possible is a leak, not a success.** Here the floor is known. With real text it is not, and a loss that falls faster than any paper reports is the sign to look for.
#
# ## The same on a real model
#
# SmolLM2 was trained under a causal mask. Its weights hold no trace of a mask, so nothing stops us from running it under another. Below: log-probability per token of a right
# answer to each of the book's two questions, under three masks.

# %%
small, tokenizer = models.load("small")
network = Transformer.view(small)
DIALOGUES = [("Who are you?", "I am SmolLM, an AI assistant."), ("What is 17 + 25?", "17 + 25 = 42.")]
rows, real_mask = [], {}
for question, answer in DIALOGUES:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer(prompt, return_tensors="pt").input_ids
    ids = torch.cat([head, tokenizer(answer, return_tensors="pt", add_special_tokens=False).input_ids], 1)
    found = []
    for mask in (
        None,
        prefix_mask(torch.tensor([head.shape[1]]), ids.shape[1]),
        prefix_mask(torch.tensor([ids.shape[1]]), ids.shape[1]),
    ):
        with torch.no_grad():
            logps = network.lm_head(
                network.states(network.embed_tokens(ids), torch.arange(ids.shape[1])[None], mask)
            ).log_softmax(-1)
        found.append(logps[0, head.shape[1] - 1 : -1].gather(-1, ids[0, head.shape[1] :, None]).mean().item())
    real_mask[question] = found
    rows.append([question, answer, *(f"{x:.2f}" for x in found)])
run.table(
    rows,
    ["question", "answer", "causal", "prefix decoder", "encoder"],
    caption="SmolLM2-135M: nats per token of the answer, under three masks",
)

# %% [markdown]
# With only the prompt opened in both directions, both answers become unlikely: a mask is part of what the weights have learned. Turning a decoder into an encoder takes training; LLM2Vec (BehnamGhader et al., 2024) does it with a short
# masked-language-model phase. Do not read the last column as a prediction: there each token of the answer may look at the next one, the very one that it is scored on. For the sum, whose numbers stand in the prompt too, that looks like an *improvement*. It is the
# forgotten mask again, this time in an evaluation.
#
# ## What encoders are for
#
# Sentences as vectors. all-MiniLM-L6 is a BERT-like encoder of 22.7 million parameters, fine-tuned on sentence pairs. SmolLM2 has six times as many. Take twelve questions and a paraphrase of each; for each question, find its
# paraphrase by the cosine of the mean of the last states.

# %%
PARAPHRASES = [
    ("Who are you?", "Please introduce yourself."), ("What is 17 + 25?", "Add seventeen and twenty-five."),
    ("How do I boil an egg?", "Steps for cooking an egg in hot water."), ("Where is Paris?", "In which country does the French capital lie?"),
    ("Why is the sky blue?", "Explain the colour of the daytime sky."), ("My laptop will not turn on.", "The computer does not start any more."),
    ("How tall is Mount Everest?", "Give the height of the highest mountain."), ("Can dogs eat chocolate?", "Is cocoa dangerous for a dog?"),
    ("When does the train leave?", "Departure time of the railway service."), ("I would like to cancel my order.", "Please stop the purchase I made."),
    ("Translate 'good morning' into Spanish.", "How do people in Madrid greet each other early in the day?"), ("Which planet is largest?", "Name the biggest world of the solar system."),
]  # fmt: skip
encoder, encoder_tokenizer = models.sentence_encoder()


def decoder_vectors(texts):
    """The mean of SmolLM2's last states of each text, and the last of them: two (n, 576)."""
    with torch.no_grad():
        states = [network.hidden(tokenizer(text, return_tensors="pt").input_ids)[0] for text in texts]
    return torch.stack([one.mean(0) for one in states]), torch.stack([one[-1] for one in states])


sides = [[pair[k] for pair in PARAPHRASES] for k in (0, 1)]
means, lasts = zip(*(decoder_vectors(side) for side in sides))
found = {}
for name, vectors in {
    "all-MiniLM-L6, mean": [retrieval.embed(encoder, encoder_tokenizer, side) for side in sides],
    "SmolLM2, mean": means,
    "SmolLM2, last token": lasts,
}.items():
    left, right_side = (F.normalize(side.float(), dim=-1) for side in vectors)
    scores = left @ right_side.T
    own, other = (
        scores.diagonal().mean().item(),
        (scores.sum() - scores.trace()).item() / (len(scores) * (len(scores) - 1)),
    )
    found[name] = (int((scores.argmax(1) == torch.arange(len(scores))).sum()), own, other)
encoder_size, decoder_size = sum(p.numel() for p in encoder.parameters()), sum(p.numel() for p in small.parameters())
run.table(
    [
        [name, f"{hits} of {len(PARAPHRASES)}", f"{own:.2f}", f"{other:.2f}"]
        for name, (hits, own, other) in found.items()
    ],
    ["vectors", "paraphrases found", "cosine to its own", "cosine to others"],
)

# %% [markdown]
# This is no contest of architectures: MiniLM was *trained* for it, SmolLM2 was not. (Decoders trained for it lead today's rankings.) It shows what you get off the shelf, and that the states of a language model as they come are no sentence
# vectors: all of them point the same way.
#
# ## As at work
#
# An encoder-decoder from transformers: T5's own class, our rows, ten lines, one seed.

# %%
from transformers import T5Config, T5ForConditionalGeneration

torch.manual_seed(0)
config = T5Config(
    vocab_size=VOCABULARY + 1, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_decoder_layers=2, num_heads=HEADS, feed_forward_proj="gated-silu",
    dropout_rate=0.0, pad_token_id=VOCABULARY, decoder_start_token_id=START, eos_token_id=END,
)  # fmt: skip
t5 = T5ForConditionalGeneration(config).train()
optimizer = torch.optim.AdamW(t5.parameters(), lr=4e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, 4e-3, total_steps=budget.peer_steps, pct_start=0.1, cycle_momentum=False
)
for step in run.progress(budget.peer_steps, "T5 of transformers"):
    index = torch.randint(len(PAIRS[0]), (budget.rows,))
    loss = t5(input_ids=PAIRS[0][index], attention_mask=PAIRS[1][index], labels=PAIRS[3][index]).loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(t5.parameters(), 1.0)
    optimizer.step()
    schedule.step()
with torch.no_grad():
    source, span = cut(PROBE, HOLES["second number"])
    peer_said = t5.eval().generate(torch.cat([column(source, START), source], 1), max_new_tokens=2, do_sample=False)[
        :, 1:3
    ]
peer_right = (peer_said == span).all(1).float().mean().item() if peer_said.shape == span.shape else 0.0
print(
    f"{sum(p.numel() for p in t5.parameters()):,} parameters, last loss {loss.item():.3f}, second number right {peer_right:.1%}"
)

# %% [markdown]
# ## Real models, counted
#
# LLaMA's recipe has become everybody's: RMSNorm before each part, rotary positions, SwiGLU, later grouped queries. So a handful of numbers determines the size. In the open, for a dense model:

# %%


def count(vocabulary, width, inner, layers, heads, kv_heads, head_width, tied):
    attention = (
        2 * width * heads * head_width + 2 * width * kv_heads * head_width
    )  # queries and output; keys and values
    mlp = 3 * width * inner  # gate, up, down
    norms = 2 * width
    return vocabulary * width * (1 if tied else 2) + layers * (attention + mlp + norms) + width


llama = counting.published("LLaMA-7B").architecture
by_formula = count(32_000, 4096, 11_008, 32, 32, 32, 128, False)
with torch.device("meta"):  # shapes without memory
    skeleton = sum(p.numel() for p in Transformer(llama).parameters())
count_agrees = by_formula == sum(counting.parameters(llama).values()) == skeleton
smol_agrees = count(49_152, 576, 1536, 30, 9, 3, 64, True) == sum(p.numel() for p in small.parameters())
print(
    f"LLaMA-7B: {by_formula:,} by formula, {skeleton:,} in the skeleton; the library agrees: {count_agrees}; SmolLM2's loaded weights agree: {smol_agrees}"
)

# %%
rows = []
for model in counting.PUBLISHED:
    parts, active = (
        counting.parameters(model.architecture),
        sum(counting.active_parameters(model.architecture).values()),
    )
    total = sum(parts.values())
    rows.append(
        [
            model.name, model.year, model.stated, f"{total:,}", f"{active / 1e9:.2f}B" if active != total else "all",
            f"{parts['embedding'] / total:.0%}", f"{counting.kv_cache_bytes(model.architecture, 1) / 1024:.0f} KiB",
            f"{1e12 * model.tokens / total:,.0f}" if model.tokens else "not said",
        ]
    )  # fmt: skip
run.table(
    rows, ["model", "year", "stated", "counted", "active", "embedding", "cache per token", "training tokens per parameter"],
    caption="Published models, counted from their sizes (cache in 16 bits)",
)  # fmt: skip

# %% [markdown]
# Read the last column downwards. LLaMA-7B saw 148 tokens per parameter where Chinchilla's rule of thumb says about 20, and the small models since have gone much further (Llama-3.1-8B 1,868; the largest stay near the rule, Llama-3.1-405B at 38): a model that is *used* a lot should be small and
# trained long. Section 1.3 has the laws behind this. The explorer counts any of these models, and any change you make to one.

# %%
run.explorer(
    "parameter_counter",
    {"models": [counting.plain(model) for model in counting.PUBLISHED], "start": "DeepSeek-V3"},
    digits=15,
)

# %% [markdown]
# ## What the lab found

# %%
llama_tokens = 1e12 * counting.published("LLaMA-7B").tokens / by_formula
KEYS = {
    "encoder": "encoder",
    "encoder-decoder": "seq2seq",
    "prefix decoder": "prefix",
    "causal decoder": "causal",
    "causal, moved": "moved",
}
for name, key in KEYS.items():
    run.result(f"{key}_parameters", counts[name], format=",d")
    run.result(f"{key}_loss", np.mean(losses[name]), text=over_seeds(losses[name], ".3f"))
    run.result(f"{key}_floor", FLOORS[name], format=".3f")
    for part, hole in (("sum", "sum"), ("gap", "second number"), ("first", "first number")):
        run.result(f"{key}_{part}", np.mean(answers[name][hole]), text=over_seeds(answers[name][hole]))
    run.result(f"{key}_said", None, text=", ".join(said[name]))
for key, name in (
    ("causal", "causal decoder"),
    ("prefix", "prefix decoder"),
    ("seq2seq", "encoder-decoder"),
    ("at_once", "encoder: at once"),
    ("one_at_a_time", "encoder: one at a time"),
    ("any_rate", "encoder: any rate, one at a time"),
):
    run.result(f"{key}_written", np.mean(written[name]), text=over_seeds(written[name]))
for name, values, form in (
    ("scored", scored, ".1%"), ("causal_total", causal_totals, ".3f"), ("pseudo_total", pseudo_totals, ",.0f"),
    ("leaky_loss", leaky_losses, ".3f"), ("leaky_true", leaky_true, ".1%"),
):  # fmt: skip
    run.result(name, np.mean(values), text=over_seeds(values, form))
for name, value, form in (
    ("lines", len(LINES), ",d"), ("line_entropy", line_entropy, ".3f"), ("steps", budget.steps, "d"), ("seeds", budget.seeds, "d"), ("more_steps", budget.more_steps, ",d"),
    ("questions", QUESTIONS, ",d"), ("at_once_floor", at_once_floor, ".2%"),
    ("who_causal", real_mask["Who are you?"][0], ".2f"), ("who_prefix", real_mask["Who are you?"][1], ".2f"), ("who_encoder", real_mask["Who are you?"][2], ".2f"),
    ("sum_causal", real_mask["What is 17 + 25?"][0], ".2f"), ("sum_prefix", real_mask["What is 17 + 25?"][1], ".2f"), ("sum_encoder", real_mask["What is 17 + 25?"][2], ".2f"),
    ("paraphrases", len(PARAPHRASES), "d"), ("minilm_found", found["all-MiniLM-L6, mean"][0], "d"), ("smol_found", found["SmolLM2, mean"][0], "d"),
    ("smol_last_found", found["SmolLM2, last token"][0], "d"), ("minilm_other", found["all-MiniLM-L6, mean"][2], ".2f"), ("smol_other", found["SmolLM2, mean"][2], ".2f"),
    ("minilm_own", found["all-MiniLM-L6, mean"][1], ".2f"), ("smol_own", found["SmolLM2, mean"][1], ".2f"),
    ("minilm_size", encoder_size / 1e6, ".1f"), ("peer_right", peer_right, ".1%"), ("llama_7b", by_formula, ",d"), ("llama_tokens", llama_tokens, ".0f"),
):  # fmt: skip
    run.result(name, value, format=form)

# %%
blank_fillers = [name for name in FAMILIES if name != "causal decoder"]
run.claim("left to right, the entropies of the positions add up to that of a line", chain_rule_gap < 1e-9)
run.claim("with both sides in view no token is uncertain", max(AROUND) < 1e-12)
run.claim("without a start token an encoder cannot tell the places of an empty line apart", blind_gap < 1e-5)
run.claim("the prefix mask is the one written out by hand, and the rows are the library's", mask_agrees and rows_agree)
run.claim("cross-attention equals the library's and torch's", max(library_gap, torch_gap) < 1e-5)
run.claim("the families have the same number of parameters", max(counts.values()) == min(counts.values()))
run.claim("with every seed, no loss over all questions is below what is possible", all(min(losses[name]) > FLOORS[name] - 1e-4 for name in FAMILIES))  # fmt: skip
run.claim("the causal decoder's loss stands at its floor", max(losses["causal decoder"]) < FLOORS["causal decoder"] + 0.02)  # fmt: skip
run.claim("all families complete the sum, with every seed", min(min(answers[name]["sum"]) for name in FAMILIES) > 0.9)
run.claim(
    "all but the causal decoder fill both gaps, with every seed",
    min(min(answers[name][hole]) for name in blank_fillers for hole in ("first number", "second number")) > 0.9,
)
run.claim("the causal decoder fills one gap in thirty", max(answers["causal decoder"]["second number"]) < 0.06)
run.claim("by scoring all fillings it finds them", min(scored) > 0.9)
every_way = [share for name in blank_fillers for share in on_the_way[name]]
run.claim("the four that fill the gap learn it about equally fast", max(every_way) - min(every_way) < 0.15)
run.claim(
    "with every seed the encoder-decoder stays farthest above its floor",
    min(above["encoder-decoder"]) > max(max(above[name]) for name in FAMILIES if name != "encoder-decoder"),
)
run.claim("decoders in one stack write true equations", min(written["causal decoder"] + written["prefix decoder"]) > 0.85)  # fmt: skip
run.claim(
    "the encoder-decoder writes fewer of them, with every seed, and more than chance gives",
    2 * at_once_floor < min(written["encoder-decoder"]) < max(written["encoder-decoder"]) < min(written["causal decoder"] + written["prefix decoder"]),
)  # fmt: skip
run.claim("filled at once, lines are true as often as chance says", max(abs(share - at_once_floor) for share in written["encoder: at once"]) < 0.02)  # fmt: skip
run.claim(
    "one at a time an encoder that has practised writes several times better than at once",
    min(written["encoder: any rate, one at a time"]) > 4 * max(written["encoder: at once"]),
)
run.claim(
    "causal probabilities add up to at most one, pseudo-likelihoods do not",
    max(causal_totals) <= 1 + 1e-4 and min(pseudo_totals) > 2,
)
run.claim(
    "a causal decoder's states stay when a token is added, an encoder's do not",
    states["causal decoder"] < 1e-5 and states["encoder"] > 1e-2,
)
run.claim(
    "a forgotten mask drives the loss below what is possible, and writes nonsense",
    max(leaky_losses) < 0.5 * FLOORS["causal decoder"] and max(leaky_true) < 0.1,
)
run.claim(
    "with its prompt opened both ways SmolLM2 gives its answers less",
    all(values[1] < values[0] - 0.3 for values in real_mask.values()),
)
run.claim(
    "seeing the answer while scoring it can look like an improvement",
    real_mask["What is 17 + 25?"][2] > real_mask["What is 17 + 25?"][0],
)
run.claim(
    "the sentence encoder finds more paraphrases than the language model's states",
    found["all-MiniLM-L6, mean"][0] > max(found["SmolLM2, mean"][0], found["SmolLM2, last token"][0]),
)
run.claim("transformers' T5 fills the gap as well", peer_right > 0.7)
run.claim("formula, library and skeleton count the same", count_agrees and smol_agrees)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. The prefix mask** (★, 5 minutes). For one row of `length` tokens of which the first `prefix` are the prefix: a boolean matrix, True where the row may see the column.


# %%
def my_prefix_mask(prefix, length):  # two integers -> (length, length)
    ...


check("architecture_families.prefix_mask", my_prefix_mask)

# %% [markdown]
# **2. BERT's rule** (★★, 7 minutes). Given which tokens are chosen, a uniform number `fate` for each and a random token `others` for each: inputs and labels of masked language modelling. 80% of the chosen
# become the mask, 10% the random token, 10% stay.


# %%
def my_masking(ids, chosen, fate, others, mask_id):  # each (T,), mask_id an integer -> inputs (T,), labels (T,)
    ...


check("architecture_families.masking", my_masking)

# %% [markdown]
# **3. Span corruption** (★★, 8 minutes). Source and target of T5 for a list of tokens, spans (start, end) in order, and sentinels.


# %%
def my_spans(ids, spans, sentinels):  # lists -> (source, target), two lists
    ...


check("architecture_families.spans", my_spans)

# %% [markdown]
# **4. One head of cross-attention** (★★, 7 minutes).


# %%
def my_cross_attention(x, memory, w_q, w_k, w_v):  # (T, d), (S, d), three (d_h, d) -> (T, d_h)
    ...


check("architecture_families.cross_attention", my_cross_attention)

# %% [markdown]
# **5. The size of a model** (★★★, 8 minutes). Parameters of a dense model of the Llama family.


# %%
def my_count(vocabulary, width, inner, layers, heads, kv_heads, head_width, tied):  # integers and a bool -> an integer
    ...


check("architecture_families.count", my_count)
