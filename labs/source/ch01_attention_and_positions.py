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
# # Attention and positions
#
# Every large model has the same attention formula. Models differ in what they keep of the past, and in how they know what stood where.
# Here you take both apart: first on the weights of a real model, then in small models that you train yourself.
#
# - **You will** count what one cached token costs under MHA, GQA, MQA and MLA; build latent attention in a dozen lines and hold it against
#   DeepSeek's code; squeeze SmolLM2's own keys and values; train all four at equal parameters and see who forgets; compute attention in
#   blocks, without its matrix; turn queries and keys by hand; ask SmolLM2 what it says with shifted, stretched and missing positions; test
#   four ways to tell positions on texts longer than any seen; and watch gradients in pre-norm and post-norm stacks.
# - **Time:** about 4 minutes on a CPU with two cores.
#
# **Sections:** 1.1.1
#
# **Topics:** attention-variants

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
# ## Attention, once more, on real numbers
#
# A query $q$ asks, keys $k$ answer, values $v$ are handed over: $\mathrm{softmax}(qk^\top/\sqrt{d_h})\,v$. Take the first layer of
# SmolLM2 and the question *What is 17 + 25?*. It has $h=9$ query heads of width $d_h=64$, and only $h_{\mathrm{kv}}=3$ key and value heads:
# each serves three query heads.

# %%
import base64
import itertools
import math
import time
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from alignlab import compute, counting, lab, models, palette, retrieval_corpus
from alignlab.architectures.attention import (
    LatentAttention,
    LatentCache,
    alibi,
    alibi_slopes,
    attention,
    blockwise_attention,
    rotary_score,
    sinusoidal_positions,
)
from alignlab.counting import Latent
from alignlab.exercises import check
from alignlab.rl.curves import band
from alignlab.tiny.pretrain import Recipe, Writer
from alignlab.transformer import Block, Config, Transformer, rotary_angles, rotate

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_attention_and_positions")
budget = run.budget(
    full=dict(
        learn_words=200, test_words=100, ranks=(384, 256, 192, 128, 96, 64), answer=10, seeds=3, steps=330, rows=12, variant_seeds=3,
        held_out=8192, length=1024, tiny_rows=24, depths=(2, 4, 8, 16, 32), draws=2, norm_steps=65, fine_steps=40,
    ),
    quick=dict(
        learn_words=12, test_words=12, ranks=(384, 128), answer=1, seeds=1, steps=4, rows=4, variant_seeds=1,
        held_out=512, length=128, tiny_rows=2, depths=(2, 4), draws=1, norm_steps=2, fine_steps=1,
    ),
)  # fmt: skip
compute.seed(0)
model, tokenizer = models.load("small")
network = Transformer.view(model)
sizes = network.config
QUESTIONS = ("Who are you?", "What is 17 + 25?")
PROMPTS = [
    tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n") for question in QUESTIONS
]


def heads_of(block, x):
    """A layer's queries (1, h, T, d_h), keys and values (1, h_kv, T, d_h), before anything is turned."""
    normed = block.input_layernorm(x)
    return [
        getattr(block.self_attn, name)(normed).view(1, x.shape[1], -1, sizes.head_dim).transpose(1, 2)
        for name in ("q_proj", "k_proj", "v_proj")
    ]


with torch.no_grad():
    ids = torch.tensor([PROMPTS[1]])
    x = network.embed_tokens(ids)  # (1, T, d)
    q, k, v = heads_of(network.layers[0], x)
    rotary = rotary_angles(sizes, torch.arange(ids.shape[1])[None])
    q, k = rotate(q, *rotary), rotate(k, *rotary)
print("q", tuple(q.shape), " k", tuple(k.shape), " v", tuple(v.shape))

# %% [markdown]
# In the open, head by head. A key head is shared by three query heads **that stand next to each other**: head 0, 1, 2 use key head 0.

# %%
T = ids.shape[1]
seen = torch.ones(T, T, dtype=torch.bool).tril()  # row t sees columns 0..t
mixed = torch.empty_like(q)
for head in range(sizes.num_attention_heads):
    shared = head // (sizes.num_attention_heads // sizes.num_key_value_heads)
    scores = q[0, head] @ k[0, shared].T / math.sqrt(sizes.head_dim)  # (T, T)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    mixed[0, head] = weights @ v[0, shared]

ours = attention(q, k, v, seen)[0]
torchs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
open_gap = max((mixed - ours).abs().max().item(), (mixed - torchs).abs().max().item())
print(f"largest difference to the library and to torch: {open_gap:.0e}")

# %% [markdown]
# ## What one token costs to remember
#
# While it generates, a model keeps the keys and values of all tokens so far, in every layer: the **KV cache**. Each new token reads all of it.
# Its size per token and layer is $2\,h_{\mathrm{kv}}d_h$ numbers. The variants differ in nothing but this:
#
# | | kept per token and layer |
# |---|---|
# | MHA, multi-head | $2hd_h$ |
# | GQA, grouped-query | $2h_{\mathrm{kv}}d_h$ |
# | MQA, multi-query | $2d_h$ |
# | MLA, latent | $d_c+d_r$: one vector that keys and values are made from, one key that carries the position |
#
# Count it for SmolLM2's sizes and allocate it, to be sure. For MLA take DeepSeek-V2's proportions, $d_c=4d_h$ and $d_r=d_h/2$.

# %%
latent = Latent(
    kv_rank=4 * sizes.head_dim, query_rank=0, plain_dim=sizes.head_dim, rotary_dim=sizes.head_dim // 2, value_dim=64
)
kept = {}
for name, groups in (("MHA", 9), ("GQA", 3), ("MQA", 1)):
    cache = Transformer(replace(sizes, num_key_value_heads=groups, vocab_size=8, num_hidden_layers=1)).cache(1, 100)
    kept[name] = (cache.keys.numel() + cache.values.numel()) // 100
cache = LatentCache(latent, 1, 1, 100)
kept["MLA"] = (cache.keys.numel() + cache.values.numel()) // 100
CONTEXT = 8192
rows = [
    [
        name,
        numbers,
        f"{numbers / kept['MHA']:.0%}",
        f"{numbers * sizes.num_hidden_layers * 2 * CONTEXT / 2**20:.0f} MiB",
    ]
    for name, numbers in kept.items()
]
run.table(
    rows, ["variant", "numbers per token and layer", "of MHA", f"30 layers, {CONTEXT:,} tokens, bf16"],
    caption="SmolLM2's sizes with each variant; it is built with GQA",
)  # fmt: skip
measured_bytes = counting.kv_cache_bytes(sizes, CONTEXT)
print(f"counting.kv_cache_bytes(SmolLM2, {CONTEXT}): {measured_bytes / 2**20:.0f} MiB")

# %% [markdown]
# ## Latent attention, in the open
#
# MLA does not keep keys and values. It keeps a short vector $c_t=W^{DKV}x_t$ of each token, and *makes* every head's key and value from it:
# $k_t=W^{UK}c_t$, $v_t=W^{UV}c_t$. Rotary positions spoil this a little (you will see why), so one further key of $d_r$ numbers, shared by all
# heads, carries the position. Twelve lines:

# %%
small = Latent(kv_rank=16, query_rank=0, plain_dim=8, rotary_dim=4, value_dim=8)
WIDTH, HEADS = 64, 8
module = LatentAttention(WIDTH, HEADS, small)
for parameter in module.parameters():
    if parameter.dim() > 1:
        nn.init.normal_(parameter, std=0.2)
x = torch.randn(2, 10, WIDTH)
angles = rotary_angles(Config(1, 1, 1, 1, 1, 1, head_dim=small.rotary_dim), torch.arange(10)[None])


def latent_attention(x):
    B, T, _ = x.shape
    queries = module.q_proj(x).view(B, T, HEADS, -1).transpose(1, 2)  # (B, h, T, 8 + 4)
    q, q_turned = queries.split([small.plain_dim, small.rotary_dim], dim=-1)
    c, k_turned = module.kv_a_proj_with_mqa(x).split([small.kv_rank, small.rotary_dim], dim=-1)
    c = module.kv_a_layernorm(c)  # (B, T, 16): kept
    k_turned = rotate(k_turned[:, None], *angles)  # (B, 1, T, 4): kept, one for all heads
    made = module.kv_b_proj(c).view(B, T, HEADS, -1).transpose(1, 2)  # (B, h, T, 8 + 8)
    k, v = made.split([small.plain_dim, small.value_dim], dim=-1)
    q = torch.cat([q, rotate(q_turned, *angles)], dim=-1)
    k = torch.cat([k, k_turned.expand(-1, HEADS, -1, -1)], dim=-1)
    mixed, _ = attention(q, k, v, torch.ones(T, T, dtype=torch.bool).tril())
    return module.o_proj(mixed.transpose(1, 2).reshape(B, T, -1))


with torch.no_grad():
    in_the_open, library = latent_attention(x), module(x, angles, None, None, 0)
    config = DeepseekV3Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=HEADS, kv_lora_rank=small.kv_rank, q_lora_rank=None,
        qk_rope_head_dim=small.rotary_dim, qk_nope_head_dim=small.plain_dim, v_head_dim=small.value_dim, rope_interleave=False,
        num_hidden_layers=1, attn_implementation="eager",
    )  # fmt: skip
    peer = DeepseekV3Attention(config, 0)
    peer.load_state_dict(module.state_dict())
    future = torch.zeros(10, 10).masked_fill(~torch.ones(10, 10, dtype=torch.bool).tril(), -torch.inf)
    deepseeks = peer(x, DeepseekV3RotaryEmbedding(config)(x, torch.arange(10)[None]), future[None, None])[0]
latent_gap = max((in_the_open - library).abs().max().item(), (in_the_open - deepseeks).abs().max().item())
print(f"largest difference to the library and to transformers' DeepSeek: {latent_gap:.0e}")

# %% [markdown]
# Making 8 heads' keys and values of *all* kept tokens anew for each new token would be slow. It is not needed:
# $q^\top(W^{UK}c)=(W^{UK\top}q)^\top c$. Multiply the one query instead of the many keys, and attention runs **on the latents themselves**,
# like multi-query attention with one wide head. The same trick takes $W^{UV}$ to the other side. Nothing is approximated. (And this is what rotation
# spoils: a matrix that depends on the distance would stand between $q$ and $W^{UK}$, so nothing could be multiplied out beforehand.)

# %%
with torch.no_grad():
    cache, parts = LatentCache(small, 1, 2, 10), []
    for t in range(10):
        turn = rotary_angles(Config(1, 1, 1, 1, 1, 1, head_dim=small.rotary_dim), torch.tensor([[t]]))
        parts.append(module(x[:, t : t + 1], turn, None, cache, 0))  # token by token, matrices absorbed
        cache.length += 1
absorbed_gap = (torch.cat(parts, dim=1) - library).abs().max().item()
print(
    f"token by token from {small.kv_rank + small.rotary_dim} kept numbers a token: largest difference {absorbed_gap:.0e}"
)

# %% [markdown]
# ## Ask a real model: is there room to squeeze?
#
# SmolLM2 keeps $2\cdot3\cdot64=384$ numbers per token and layer. Do they need that many? Collect keys and values (before rotation) on some text, find
# their principal directions, keep the first $r$, and measure the next-token loss on *other* text. No weight is trained. Beside it, the crude way: average
# the three key heads into one, and the three value heads (this is how the GQA paper begins to turn an MHA model into an MQA one).

# %%
sections = [section.text for section in retrieval_corpus.read() if len(section.text.split()) > 150]
learn, test = (
    torch.tensor([tokenizer.encode(" ".join(" ".join(part).split()[:words]))])
    for part, words in ((sections[0:20:2], budget.learn_words), (sections[1:20:2], budget.test_words))
)
KV = 2 * sizes.num_key_value_heads * sizes.head_dim
gathered = []


def gather(module, inputs):
    gathered.append(inputs[0][0])  # (T, d): what k_proj and v_proj read


hooks = [block.self_attn.k_proj.register_forward_pre_hook(gather) for block in network.layers]
with torch.no_grad():
    network(learn)
for hook in hooks:
    hook.remove()


def text_loss(net):
    with torch.no_grad():
        logits = net(test)[0, :-1]
    return F.cross_entropy(logits, test[0, 1:]).item()


@torch.no_grad()
def directions_of(block, read):
    """Weight, mean, scale and principal directions of a layer's keys and values together, from what it read (T, d)."""
    weight = torch.cat([block.self_attn.k_proj.weight, block.self_attn.v_proj.weight])  # (384, d)
    both = read @ weight.T
    mean = both.mean(0)
    # Values are smaller than keys: scale both halves alike, so that directions are chosen fairly.
    scale = torch.cat([part.std().expand(KV // 2) for part in (both - mean).chunk(2, dim=1)])
    return weight, mean, scale, torch.linalg.svd((both - mean) / scale, full_matrices=False).Vh.T


class Squeezed(nn.Module):
    """A layer's keys (part 0) or values (part 1), read off the first principal directions of both together."""

    def __init__(self, found, rank, part):
        super().__init__()
        self.found, self.rank, self.part = found, rank, part

    def forward(self, x):
        weight, mean, scale, directions = self.found
        basis = directions[:, : self.rank]
        kept = ((x @ weight.T - mean) / scale) @ basis  # (B, T, r): all that would be cached
        return ((kept @ basis.T) * scale + mean).chunk(2, dim=-1)[self.part]


FOUND = [directions_of(block, read) for block, read in zip(network.layers, gathered, strict=True)]


def squeezed(rank):
    net = Transformer.view(model)
    for block, found in zip(net.layers, FOUND, strict=True):
        block.self_attn.k_proj, block.self_attn.v_proj = Squeezed(found, rank, 0), Squeezed(found, rank, 1)
    return net


def averaged():
    """All heads read the mean of the three key heads and of the three value heads: MQA, without training."""
    net = Transformer.view(model)
    for block in net.layers:
        for name in ("k_proj", "v_proj"):
            weight = getattr(block.self_attn, name).weight.unflatten(0, (sizes.num_key_value_heads, -1)).mean(0)
            one = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            one.weight = nn.Parameter(weight, requires_grad=False)
            setattr(block.self_attn, name, one)
    return net


with torch.no_grad():
    plain_loss, averaged_loss = text_loss(network), text_loss(averaged())
    squeezed_losses = {rank: text_loss(squeezed(rank)) for rank in run.progress(budget.ranks, "squeezing")}
uniform = math.log(sizes.vocab_size)
rows = [["as trained", KV, f"{plain_loss:.2f}", "0"]]
rows += [
    [f"{rank} directions", rank, f"{loss:.2f}", f"{loss - plain_loss:+.2f}"] for rank, loss in squeezed_losses.items()
]
rows += [["heads averaged (MQA)", KV // 3, f"{averaged_loss:.2f}", f"{averaged_loss - plain_loss:+.2f}"]]
run.table(
    rows,
    ["keys and values", "numbers kept", "loss, nats a token", "change"],
    caption=f"{test.shape[1]} tokens of other text",
)

# %% [markdown]
# At the same 128 numbers, a good basis loses far less than averaged heads. That is the idea behind MLA in one table: keys and values of
# different heads hold much of the same, so keep it once and let each head read it its own way. Neither is meant to be used without training;
# MLA learns its basis from the first step on.
#
# ## Who forgets? A memory task, at equal parameters
#
# A program assigns and reads variables: `c=5 a=2 c=9 b=2 ... c=?`. The answer is the **latest** value of `c`. So a model must find what was written under
# this name, and tell the last time from earlier ones: content and order in one task. 16 names, 16 values; each line of the program is one position.


# %%
NAMES, VALUES, TRAINED = 16, 16, 64


def programs(batch, length, generator):
    """Names and contents (B, T): content 0 reads, else value + 1 is written; targets (B, T), -100 where nothing is read.

    Last: how many lines ago the value was written, (B, T).
    """
    names = torch.randint(NAMES, (batch, length), generator=generator)
    values = torch.randint(VALUES, (batch, length), generator=generator)
    earlier = (names[:, :, None] == names[:, None]) & torch.ones(length, length, dtype=torch.bool).tril(-1)
    reads = (torch.rand(batch, length, generator=generator) < 0.5) & earlier.any(-1)  # a name's first line writes
    written = (earlier & ~reads[:, None]) * torch.arange(1, length + 1)  # of each line before: its number, if it wrote
    last = (written.amax(-1) - 1).clamp(min=0)
    targets = torch.where(reads, values.gather(1, last), -100)
    return names, torch.where(reads, 0, values + 1), targets, torch.arange(length) - last


names, contents, targets, ages = programs(1, 14, torch.Generator().manual_seed(3))
letters = "abcdefghijklmnop"
print(" ".join(f"{letters[n]}={c - 1 if c else '?'}" for n, c in zip(names[0], contents[0], strict=True)))
print("answers:", [int(t) for t in targets[0] if t >= 0])

# %% [markdown]
# The model is the library's decoder with two layers of width 64. The four variants exchange its attention; the inner width of the feed-forward layer is then chosen
# so that **all have the same number of parameters**. MLA comes twice, once with the cache of GQA with 2 key heads and once with that of MQA.


# %%
class Reader(nn.Module):
    """A decoder that reads programs; `told` says how it learns the order of lines."""

    def __init__(self, kv_heads=HEADS, latent=None, inner=64, told="rotary", layers=2, heads=HEADS):
        super().__init__()
        self.told, self.heads = told, heads
        head_dim = latent.rotary_dim if latent else WIDTH // heads
        shape = Config(
            VALUES, WIDTH, inner, layers, heads, 1 if latent else kv_heads, head_dim, tie_word_embeddings=False
        )
        self.names, self.contents = nn.Embedding(NAMES, WIDTH), nn.Embedding(VALUES + 1, WIDTH)
        self.decoder = Transformer(shape)
        if latent:
            for block in self.decoder.layers:
                block.self_attn = LatentAttention(WIDTH, heads, latent)
        self.decoder.initialize(WIDTH**-0.5)
        del self.decoder.embed_tokens  # names and contents stand in its place

    def forward(self, names, contents):
        """(B, T) twice -> (B, T, values): logits of the value at each line."""
        x = self.names(names) + self.contents(contents)
        order = torch.arange(names.shape[1])[None]
        none, mask = torch.zeros_like(order), None
        if self.told == "sinusoidal":
            x = x + sinusoidal_positions(order, WIDTH)
        if self.told == "ALiBi":
            mask = alibi(self.heads, names.shape[1])
        return self.decoder.lm_head(self.decoder.states(x, order if self.told == "rotary" else none, mask))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


VARIANTS = {
    "MHA": dict(kv_heads=8),
    "GQA": dict(kv_heads=2),
    "MQA": dict(kv_heads=1),
    "MLA, 28 + 4": dict(latent=Latent(28, 0, 8, 4, 8)),
    "MLA, 12 + 4": dict(latent=Latent(12, 0, 8, 4, 8)),
}
target_size = parameters(Reader(kv_heads=8, inner=64))
for name, choice in VARIANTS.items():
    one, two = (parameters(Reader(**choice, inner=inner)) for inner in (1, 2))
    choice["inner"] = 1 + round((target_size - one) / (two - one))
CACHED = {name: (c["latent"].kv_rank + 4 if "latent" in c else 2 * c["kv_heads"] * 8) for name, c in VARIANTS.items()}
PARAMETERS = {name: parameters(Reader(**choice)) for name, choice in VARIANTS.items()}
rows = [[name, CACHED[name], VARIANTS[name]["inner"], f"{PARAMETERS[name]:,}"] for name in VARIANTS]
run.table(
    rows,
    ["variant", "numbers cached per token and layer", "inner width", "parameters"],
    caption="Five models of one size",
)


# %%
def train(
    net,
    steps,
    seed,
    label,
    rate=4e-3,
    warm_up=0.1,
    fall=1.0,
    task=programs,
    rows=None,
    length=TRAINED,
    curve=None,
    line="loss",
):
    """Adam with warm-up and a linear fall of the rate, on fresh programs; returns the losses."""
    generator = torch.Generator().manual_seed(100 + seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    losses = []
    for step in run.progress(steps, label, curve=curve or ()):
        share = min(1.0, (step + 1) / max(1, warm_up * steps)) * (1 - fall * step / steps)
        optimizer.param_groups[0]["lr"] = rate * share
        names, contents, targets, _ = task(rows or budget.rows, length, generator)
        loss = F.cross_entropy(net(names, contents).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if curve is not None and step % 10 == 0:
            curve.add(line, step, loss.item())
    return losses


HELD_OUT = {
    length: programs(max(2, budget.held_out // length), length, torch.Generator().manual_seed(9))
    for length in (64, 128, 256, 512)
}


@torch.no_grad()
def accuracy(net, length=TRAINED):
    names, contents, targets, _ = HELD_OUT[length]
    right = net(names, contents).argmax(-1) == targets
    return (right.sum() / (targets >= 0).sum()).item()


errors, losses, speeds = {}, {}, {}
shown = run.curve("Reading variables, seed 0", "step", "loss, nats", list(VARIANTS))
readers = {}
for name, choice in VARIANTS.items():
    began = time.perf_counter()
    for seed in range(budget.variant_seeds):
        compute.seed(seed)
        net = Reader(**choice)
        found = train(net, budget.steps, seed, f"{name}, seed {seed}", curve=None if seed else shown, line=name)
        losses.setdefault(name, []).append(found)
        errors.setdefault(name, []).append(1 - accuracy(net))
        readers[name, seed] = net
    speeds[name] = (time.perf_counter() - began) / budget.variant_seeds
shown.show()
fig = go.Figure()
for family, role in (("MHA", "reference"), ("GQA", "policy"), ("MQA", "rejected"), ("MLA", "chosen")):
    points = [(CACHED[name], 100 * error) for name in VARIANTS if name.startswith(family) for error in errors[name]]
    fig.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name=family,
        marker={"color": palette.MIDDLE[role], "size": 10, "opacity": 0.75},
    )  # fmt: skip
fig.update_layout(
    title="What is forgotten, by what is kept",
    xaxis_title="numbers cached per token and layer",
    yaxis_title="wrong answers, %",
)
fig.update_xaxes(type="log", tickvals=[16, 32, 128])
run.figure(fig, "Wrong answers of five models of one size against the numbers they cache per token; one point a seed.")
rows = [
    [
        name,
        CACHED[name],
        f"{np.mean(errors[name]):.1%}",
        f"{min(errors[name]):.1%} to {max(errors[name]):.1%}",
        f"{speeds[name]:.0f} s",
    ]
    for name in VARIANTS
]
run.table(
    rows,
    ["variant", "numbers cached", "wrong, mean", "seeds", "a run took"],
    caption=f"After {budget.steps} steps; chance is 94% wrong",
)

# %% [markdown]
# From MHA to GQA to MQA, fewer cached numbers mean more errors (the seeds of the first two overlap). Across families the number alone does not decide: MLA with 32 errs less than MHA with 128, and with 16 less than MQA with 16.
# (Its queries and keys are wider, 12 numbers a head for 8: the comparison is fair in parameters, not in everything. And after so few steps it also says who *learns* fastest.)
#
# ## Attention without its matrix
#
# For $T$ tokens the weights are a $T\times T$ matrix in each head. Nobody needs it: what is wanted are the mixed values. Can a softmax be computed in pieces, when
# its denominator needs all scores? Yes: keep three things of each row, the largest score $m$ so far, the sum $\ell$ of $e^{s-m}$, and the weighted sum $o$ of values. When a new
# block brings a larger $m$, shrink the old sums by $e^{m_{\text{old}}-m_{\text{new}}}$ and go on. This is FlashAttention's algorithm, here in ten lines.


# %%
def in_blocks(q, k, v, block):
    """One head, all keys visible: q (T, d_h), k and v (S, d_h) -> (T, d_h)."""
    m = torch.full((len(q), 1), -torch.inf)
    total, o = torch.zeros(len(q), 1), torch.zeros(len(q), v.shape[1])
    for start in range(0, len(k), block):
        s = q @ k[start : start + block].T / math.sqrt(q.shape[1])  # (T, block): all that exists at a time
        new = torch.maximum(m, s.amax(1, keepdim=True))
        p, shrink = (s - new).exp(), (m - new).exp()
        total, o, m = total * shrink + p.sum(1, keepdim=True), o * shrink + p @ v[start : start + block], new
    return o / total


generator = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, 4, budget.length, 32, generator=generator) for _ in range(3))
want = F.scaled_dot_product_attention(q, k, v)
flash_gaps = [
    (in_blocks(q[0, 0], k[0, 0], v[0, 0], block) - want[0, 0]).abs().max().item() for block in (1, 7, 64, 4096)
]
causal = blockwise_attention(q, k, v, block=64)
library_flash_gap = (causal - F.scaled_dot_product_attention(q, k, v, is_causal=True)).abs().max().item()
matrix_bytes, block_bytes = budget.length**2 * 4, 64 * 64 * 4
print(
    f"blocks of 1, 7, 64 and all keys: largest differences {[f'{gap:.0e}' for gap in flash_gaps]}; library, causal: {library_flash_gap:.0e}"
)
print(
    f"scores that exist at once, a head: {matrix_bytes / 2**20:.1f} MiB as a matrix, {block_bytes / 2**10:.0f} KiB in blocks"
)


# %%
def no_largest(q, k, v, block):
    """The same without m: exp of the scores as they are."""
    total, o = torch.zeros(len(q), 1), torch.zeros(len(q), v.shape[1])
    for start in range(0, len(k), block):
        p = (q @ k[start : start + block].T / math.sqrt(q.shape[1])).exp()
        total, o = total + p.sum(1, keepdim=True), o + p @ v[start : start + block]
    return o / total


def seconds(call, times=3):
    call()
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


loud = q[0, 0] * 40
safe, unsafe = in_blocks(loud, k[0, 0], v[0, 0], 64), no_largest(loud, k[0, 0], v[0, 0], 64)
broken_rows = (~unsafe.isfinite()).any(1).float().mean().item()
top_score = (loud @ k[0, 0].T / math.sqrt(32)).max().item()
seen = torch.ones(budget.length, budget.length, dtype=torch.bool).tril()
timed = {
    "with the matrix": seconds(lambda: attention(q, k, v, seen)),
    "in blocks, in Python": seconds(lambda: blockwise_attention(q, k, v, block=128)),
    "torch's kernel": seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
}
print(
    f"scores up to {top_score:.0f}: without m {broken_rows:.0%} of the rows are not numbers; with it, finite: {bool(safe.isfinite().all())}"
)
print({name: f"{1000 * value:.1f} ms" for name, value in timed.items()})

# %% [markdown]
# $e^{89}$ is the end of float32. Without the largest score, a row with one loud score becomes infinity divided by infinity. With it, every exponent is at most 0. On a GPU the blocks live in fast memory on the
# chip; that, not fewer operations, is where the speed comes from. torch's own kernel does the same in C++, on this CPU, too.
#
# ## Positions: turn queries and keys
#
# **RoPE** turns each pair $(x_i, x_{i+d_h/2})$ of a query or key by the angle position × frequency. Pair $i$ has the frequency $\theta^{-2i/d_h}$: the first turns by one radian a
# token, the last by one radian in about 70,000 (SmolLM2's base $\theta$ is 100,000). What counts in the end is $q^\top k$ of two turned vectors:


# %%
def turn(x, position, theta):
    """Turn every pair of x (d_h,) by hand."""
    half = len(x) // 2
    out = torch.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        a, b = x[i], x[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


THETA = sizes.rope_theta
with torch.no_grad():
    x = network.embed_tokens(torch.tensor([PROMPTS[1]]))
    for block in network.layers[:5]:
        x = block(x, rotary_angles(sizes, torch.arange(T)[None]), None, None, 0)
    q, k, _ = heads_of(network.layers[5], x)
    query, key = q[0, 4, -1].double(), k[0, 1, 10].double()
rows = []
for at, of in ((12, 10), (112, 110), (5012, 5010), (12, 0), (512, 500)):
    score = (turn(query, at, THETA) @ turn(key, of, THETA)).item()
    short = rotary_score(query, key, torch.tensor([at - of]), THETA).item()
    rows.append([f"{at}, {of}", at - of, f"{score:.6f}", f"{short:.6f}"])
turned_gap = max(abs(float(row[2]) - float(row[3])) for row in rows)
same_distance = [float(row[2]) for row in rows[:3]]
shift_gap = max(same_distance) - min(same_distance)
run.table(
    rows,
    ["positions of query and key", "distance", "both turned, then multiplied", "from the distance alone"],
    caption="One query and one key of SmolLM2, layer 6",
)

# %% [markdown]
# Absolute turns, relative scores. So a shift of *all* positions must leave the whole model as it is. Does it? And what if positions are stretched, or absent?


# %%
@torch.no_grad()
def answer(ids, place=lambda p: p, theta=THETA):
    """Greedy answer and first logits of SmolLM2 with positions place(0), place(1), ..."""
    net = Transformer.view(model)
    net.config = replace(sizes, rope_theta=theta)
    cache, new, logits = net.cache(1, len(ids) + budget.answer), torch.tensor([ids]), []
    told = []
    for _ in range(budget.answer):
        at = place(torch.arange(cache.length, cache.length + new.shape[1]).float())[None]
        logits.append(net.lm_head(net.states(net.embed_tokens(new), at, None, cache))[0, -1])
        new = logits[-1].argmax().view(1, 1)
        if new.item() == tokenizer.eos_token_id:
            break
        told.append(new.item())
    return tokenizer.decode(told).strip(), logits[0]


PLACES = {
    "as trained": dict(),
    "all shifted by 5,000": dict(place=lambda p: p + 5000),
    "shifted by 100,000, beyond its context": dict(place=lambda p: p + 100_000),
    "pressed together, half": dict(place=lambda p: p / 2),
    "stretched, twice": dict(place=lambda p: 2 * p),
    "reversed": dict(place=lambda p: -p),
    "no positions": dict(place=lambda p: 0 * p),
    "base 10,000 for 100,000": dict(theta=10_000.0),
}
rows, kl, spoken = [], {}, {}
for name, change in PLACES.items():
    said = [answer(prompt, **change) for prompt in PROMPTS]
    spoken[name] = [text for text, _ in said]
    if name == "as trained":
        usual = [logits.log_softmax(-1) for _, logits in said]
    kl[name] = [
        abs(F.kl_div(logits.log_softmax(-1), was, log_target=True, reduction="sum").item())
        for was, (_, logits) in zip(usual, said, strict=True)
    ]
    rows.append(
        [name, *(text for text, _ in said), f"{max(kl[name]):.1e}" if max(kl[name]) < 0.01 else f"{max(kl[name]):.2f}"]
    )
run.table(
    rows,
    ["positions", *QUESTIONS, "KL of the first token, nats"],
    caption=f"SmolLM2, greedy, the first {budget.answer} tokens",
)

# %% [markdown]
# A shift changes nothing but rounding, even to positions that the model has never seen: **not a large position is the trouble with long texts, but a large distance**.
# Stretched and missing positions do change the answers.
#
# ## Longer than anything seen
#
# Now the memory task again, with four ways to tell the order of lines: **sinusoidal** (added to the input), **rotary**, **ALiBi** (each head subtracts slope × distance from its scores), and
# **none** at all. Trained on 64 lines, tested on up to 512. First ALiBi, by hand:

# %%
bias = torch.zeros(8, 5, 5)
for head in range(8):
    for t in range(5):
        for s in range(5):
            bias[head, t, s] = -(2.0 ** -(head + 1)) * (t - s) if s <= t else -math.inf
alibi_gap = (bias - alibi(8, 5)[0]).nan_to_num().abs().max().item()
print("slopes of 8 heads:", alibi_slopes(8).tolist(), f"; difference to the library {alibi_gap:.0e}")
print(bias[0].tolist())

# %%
TOLD = {"sinusoidal": "prompt", "rotary": "policy", "ALiBi": "chosen", "none": "reference"}
LENGTHS = (64, 128, 256, 512)
by_length = {name: [] for name in TOLD}
by_age = {name: [] for name in TOLD}
EDGES = (1, 8, 32, 64, 128, 512)


@torch.no_grad()
def accuracy_by_age(net):
    names, contents, targets, ages = HELD_OUT[512]
    right = net(names, contents).argmax(-1) == targets
    found = []
    for low, high in itertools.pairwise(EDGES):
        these = (targets >= 0) & (ages >= low) & (ages < high)
        found.append((right & these).sum().item() / max(1, these.sum().item()))
    return found


shown = run.curve(
    "Reading variables, seed 0", "step", "loss, nats", {"sinusoidal": "prompt", "ALiBi": "chosen", "none": "reference"}
)
for told in TOLD:
    for seed in range(budget.seeds):
        if told == "rotary":  # it is the MHA of above
            net = readers["MHA", seed % budget.variant_seeds]
        else:
            compute.seed(seed)
            net = Reader(told=told)
            train(net, budget.steps, seed, f"{told}, seed {seed}", curve=None if seed else shown, line=told)
        by_length[told].append([accuracy(net, length) for length in LENGTHS])
        by_age[told].append(accuracy_by_age(net))
shown.show()
fig = go.Figure()
for told, role in TOLD.items():
    band(fig, LENGTHS, 100 * np.array(by_length[told]), told, role)
fig.add_vline(x=TRAINED, line={"color": palette.MIDDLE["rejected"], "dash": "dot"})
fig.update_layout(title="Trained on 64 lines", xaxis_title="lines of the program", yaxis_title="right answers, %")
fig.update_xaxes(type="log", tickvals=list(LENGTHS))
run.figure(
    fig, "Right answers by the length of the program, for four ways to tell positions; all were trained on 64 lines."
)
rows = [[told, *(f"{100 * value:.0f}%" for value in np.mean(by_length[told], axis=0))] for told in TOLD]
run.table(rows, ["positions", *(f"{length} lines" for length in LENGTHS)], caption="Right answers, mean of the seeds")
rows = [[told, *(f"{100 * value:.0f}%" for value in np.mean(by_age[told], axis=0))] for told in TOLD]
run.table(
    rows,
    ["positions", *(f"{low} to {high - 1} ago" for low, high in itertools.pairwise(EDGES))],
    caption="In programs of 512 lines, by how long ago the value was written",
)

# %% [markdown]
# ALiBi holds best, but see why: most reads ask for a recent value, and its penalty on distance keeps the recent in view. Of values more than 127 lines old it finds fewer than the model without any positions.
#
# ## As at work: stretch a trained model
#
# The `tiny` model that ships with this library was trained on 64 tokens at a time, with RoPE. Give it 256 of its own kind of text and look at the loss by position; then try the usual
# remedies, none of which trains a weight: **position interpolation** (divide positions by 4), and **a larger base** (so that the slow pairs turn more slowly and the fast ones as ever;
# "NTK-aware": $\theta\cdot4^{d_h/(d_h-2)}$). Both are one line in transformers, as `rope_parameters`; so is YaRN.

# %%
tiny, tiny_tokenizer = models.load("tiny")
LONG, FACTOR = 256, 4
writer = Writer(tiny_tokenizer, Recipe(seed=5, rows=budget.tiny_rows, length=LONG))
text_ids, told_weights = writer.batch()
worth = told_weights[:, 1:] == 1  # tokens that something before them tells


@torch.no_grad()
def loss_by_position(net, place=lambda p: p):
    """Loss in nats of the foreseeable tokens, by the four quarters of the row, (4,)."""
    at = place(torch.arange(LONG).float())[None]
    logits = net.lm_head(net.states(net.embed_tokens(text_ids[:, :-1]), at))
    nats = F.cross_entropy(logits.flatten(0, 1), text_ids[:, 1:].flatten(), reduction="none").view(worth.shape)
    return [(nats[:, part][worth[:, part]]).mean().item() for part in np.split(np.arange(LONG), 4)]


def peer_loss(**parameters):
    """The same in transformers, with other rope_parameters."""
    config = type(tiny.config)(**{**tiny.config.to_dict(), "rope_parameters": parameters | {"rope_theta": base}})
    kept_embedding, tiny.model.rotary_emb = tiny.model.rotary_emb, LlamaRotaryEmbedding(config)
    with torch.no_grad():
        logits = tiny(text_ids[:, :-1]).logits
    tiny.model.rotary_emb = kept_embedding
    nats = F.cross_entropy(logits.flatten(0, 1), text_ids[:, 1:].flatten(), reduction="none").view(worth.shape)
    return [(nats[:, part][worth[:, part]]).mean().item() for part in np.split(np.arange(LONG), 4)]


own = Transformer.view(tiny)
base, head_dim = own.config.rope_theta, own.config.head_dim
wider = Transformer.view(tiny)
wider.config = replace(own.config, rope_theta=base * FACTOR ** (head_dim / (head_dim - 2)))
stretch = {
    "as trained": loss_by_position(own),
    "positions / 4": loss_by_position(own, lambda p: p / FACTOR),
    "larger base": loss_by_position(wider),
    "YaRN (transformers)": peer_loss(rope_type="yarn", factor=float(FACTOR), original_max_position_embeddings=TRAINED),
}
linear = peer_loss(rope_type="linear", factor=float(FACTOR))
linear_gap = max(abs(a - b) for a, b in zip(linear, stretch["positions / 4"], strict=True))
print(f"positions / 4 and transformers' rope_type 'linear': largest difference of the losses {linear_gap:.0e}")

# %% [markdown]
# Interpolation asks the model to read distances of a quarter of a token. Its paper trains on for a little with the new positions. See how far a
# few steps get, in the last row of the table: far below the untrained interpolation and alike at all positions, but still above YaRN, which trains nothing, and
# above what the model had on its first 64 tokens.

# %%
tuned_model, _ = models.load("tiny")
tuned = Transformer.view(tuned_model).train()
optimizer = torch.optim.AdamW(tuned.parameters(), lr=5e-4)
long_writer = Writer(tiny_tokenizer, Recipe(seed=6, rows=6, length=LONG))
shown = run.curve("Training on with positions / 4", "step", "loss, nats")
for step in run.progress(budget.fine_steps, "interpolating", curve=shown):
    batch, weights = long_writer.batch()
    at = torch.arange(LONG).float()[None] / FACTOR
    logits = tuned.lm_head(tuned.states(tuned.embed_tokens(batch[:, :-1]), at))
    nats = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
    loss = (nats * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
    optimizer.step()
    shown.add("loss", step, loss.item())
shown.show()
stretch["positions / 4, trained on"] = loss_by_position(tuned.eval(), lambda p: p / FACTOR)
rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in stretch.items()]
run.table(
    rows,
    ["positions", "1-64, as trained", "65-128", "129-192", "193-256"],
    caption="tiny on its own kind of text: loss of foreseeable tokens, nats",
)

# %% [markdown]
# ## Where the norm stands
#
# A block adds to the residual stream. **Pre-norm** normalizes what a layer *reads*, $x+f(\mathrm{norm}(x))$; the original Transformer was **post-norm**, $\mathrm{norm}(x+f(x))$. One line of
# code; what does it do to gradients? Take stacks of 2 to 32 layers at their first step, and look at the gradient of each layer's weights.


# %%
class PostBlock(Block):
    """The original order: first add, then normalize."""

    def forward(self, x, rotary, mask, cache, layer):
        x = self.input_layernorm(x + self.self_attn(x, rotary, mask, cache, layer))
        return self.post_attention_layernorm(x + self.mlp(x))


def stack(layers, post, gain=1.0):
    net = Reader(layers=layers, inner=128)
    for parameter in net.decoder.layers.parameters():
        if parameter.dim() > 1:
            parameter.data *= gain
    if post:
        for at, block in enumerate(net.decoder.layers):
            other = PostBlock(net.decoder.config)
            other.load_state_dict(block.state_dict())
            net.decoder.layers[at] = other
        net.decoder.norm = nn.Identity()  # what leaves the last block is normalized already
    return net


def first_gradients(layers, post, seed, gain=1.0):
    """Norm of the gradient of each layer's down_proj at the first step, (layers,)."""
    compute.seed(seed)
    net = stack(layers, post, gain)
    names, contents, targets, _ = programs(16, TRAINED, torch.Generator().manual_seed(seed))
    F.cross_entropy(net(names, contents).flatten(0, 1), targets.flatten()).backward()
    return np.array([block.mlp.down_proj.weight.grad.norm().item() for block in net.decoder.layers])


gradients = {
    (depth, post): np.mean([first_gradients(depth, post, seed) for seed in range(budget.draws)], axis=0)
    for depth in run.progress(budget.depths, "first gradients")
    for post in (False, True)
}
DEEP = budget.depths[-1]
halved = {post: first_gradients(DEEP, post, 0, gain=0.5) for post in (False, True)}
ratios = {post: gradients[DEEP, post][0] / gradients[DEEP, post][-1] for post in (False, True)}
halved_ratios = {post: halved[post][0] / halved[post][-1] for post in (False, True)}
fig = go.Figure()
for post, name, role in ((False, "pre-norm", "policy"), (True, "post-norm", "rejected")):
    fig.add_scatter(
        x=np.arange(1, DEEP + 1, dtype=np.float32),
        y=gradients[DEEP, post],
        name=name,
        line={"color": palette.MIDDLE[role], "width": 2.5},
    )
fig.update_layout(
    title=f"Gradients at the first step, {DEEP} layers", xaxis_title="layer", yaxis_title="norm of the gradient"
)
fig.update_yaxes(type="log")
run.figure(fig, "Norm of each layer's gradient at the first step: pre-norm against post-norm.")
last = {post: [gradients[depth, post][-1] for depth in budget.depths] for post in (False, True)}
rows = [
    [f"{depth} layers", *(f"{gradients[depth, post][at]:.4f}" for post in (False, True) for at in (0, -1))]
    for depth in budget.depths
]
run.table(
    rows,
    ["depth", "pre: first layer", "pre: last layer", "post: first layer", "post: last layer"],
    caption="Norm of the gradient at the first step",
)


def slope(values):
    """Exponent of a power of the depth, by least squares."""
    return np.polyfit(np.log(budget.depths), np.log(values), 1)[0]


print(
    f"gradient of the last layer goes as depth to the {slope(last[False]):+.2f} (pre-norm) and {slope(last[True]):+.2f} (post-norm)"
)

# %% [markdown]
# Pre-norm: the deeper the stack, the smaller the *last* layer's gradient, since the stream grows and the last norm divides by its size. (The first layer's stays about the same.) Theory says depth$^{-1/2}$ for the last layer, and no dependence on depth
# for post-norm. Further down it is another story: each norm multiplies the gradient by what the layer below does to it. Here that is more than 1, so the first of 32 post-norm layers gets a gradient
# hundreds of times that of the last. Halve the layers' weights, and first and last are nearly even. In pre-norm
# the ratio falls as well, but from a far smaller one (`post_ratio` and the other three, in the results).
#
# Does it matter for training? Take an easy task, so that a deep stack can show quickly that it learns at all: *say what was written on the line before*.


# %%
def echo(batch, length, generator):
    """Programs as before; the target is what the line before wrote, (B, T)."""
    names, contents, _, ages = programs(batch, length, generator)
    targets = torch.full_like(contents, -100)
    targets[:, 1:] = torch.where(contents[:, :-1] > 0, contents[:, :-1] - 1, -100)
    return names, contents, targets, ages


CASES = {
    "pre-norm, 12 layers": ("policy", 12, False, 0.0),
    "post-norm, 12 layers": ("rejected", 12, True, 0.0),
    "post-norm, 12 layers, warm-up": ("prompt", 12, True, 0.5),
    "post-norm, 12 layers, weights halved": ("reference", 12, True, 0.0),
}
norm_losses = {}
shown = run.curve("Saying the line before", "step", "loss, nats", {name: case[0] for name, case in CASES.items()})
for name, (_, depth, post, warm_up) in CASES.items():
    compute.seed(0)
    net = stack(depth, post, 0.5 if "halved" in name else 1.0)
    norm_losses[name] = train(
        net, budget.norm_steps, 0, name, rate=3e-3, warm_up=warm_up, fall=0.0, task=echo, rows=16, length=32, curve=shown, line=name
    )  # fmt: skip
shown.show()
norm_end = {name: float(np.mean(found[-5:])) for name, found in norm_losses.items()}
print({name: f"{value:.2f}" for name, value in norm_end.items()}, f"; guessing costs {math.log(VALUES):.2f}")

# %% [markdown]
# Post-norm at full weights stays at the price of guessing, and here warm-up, its usual cure, does not help within so few steps. Halved weights do: then it learns as pre-norm does.
#
# ## Play with the rotation
#
# Four heads of SmolLM2 on the two questions: its real queries and keys, before rotation. Change the base, the positions, or take them away, and see where the last token looks.


# %%
@torch.no_grad()
def looks(prompt):
    """All layers' queries of the last token (L, h, d_h), keys (L, h_kv, T, d_h), and weights (L, h, T, T)."""
    ids = torch.tensor([prompt])
    x, rotary = network.embed_tokens(ids), rotary_angles(sizes, torch.arange(len(prompt))[None])
    queries, keys, weights = [], [], []
    for block in network.layers:
        q, k, v = heads_of(block, x)
        visible = torch.ones(len(prompt), len(prompt), dtype=torch.bool).tril()
        weights.append(attention(rotate(q, *rotary), rotate(k, *rotary), v, visible)[1][0])
        queries.append(q[0, :, -1])
        keys.append(k[0])
        x = block(x, rotary, None, None, 0)
    return torch.stack(queries), torch.stack(keys), torch.stack(weights)


def last_row(query, keys, theta, place=lambda p: p):
    """Where the last token looks, (T,), from a query (d_h,) and keys (T, d_h) before rotation."""
    at = place(torch.arange(len(keys)).float())
    scores = torch.stack(
        [rotary_score(query, key, (at[-1] - p)[None], theta)[0] for key, p in zip(keys, at, strict=True)]
    )
    return (scores / math.sqrt(len(query))).softmax(-1)


seen_of = [looks(prompt) for prompt in PROMPTS]
queries, keys, weights = seen_of[1]
pieces = [[tokenizer.decode([i]) for i in prompt] for prompt in PROMPTS]
GROUP = sizes.num_attention_heads // sizes.num_key_value_heads
every = [(layer, head) for layer in range(sizes.num_hidden_layers) for head in range(sizes.num_attention_heads)]
changes, rows_of = {}, {}
for layer, head in every:
    now = last_row(queries[layer, head], keys[layer, head // GROUP], THETA)
    rows_of[layer, head] = now
    changes[layer, head] = (
        0.5
        * (now - last_row(queries[layer, head], keys[layer, head // GROUP], THETA, lambda p: 0 * p)).abs().sum().item()
    )
row_gap = max((rows_of[layer, head] - weights[layer, head, -1]).abs().max().item() for layer, head in every)
digits = [i for i, piece in enumerate(pieces[1]) if piece.strip().isdigit()]
away = {place: row[0].item() < 0.5 for place, row in rows_of.items()}  # it looks at more than the first token
previous = max(every, key=lambda place: weights[place].diagonal(-1).mean().item())
reads_digits = max((p for p in every if p != previous), key=lambda place: rows_of[place][digits].sum().item())
most = max((p for p in every if away[p] and p not in (previous, reads_digits)), key=changes.get)
least = min((p for p in every if away[p] and p not in (previous, reads_digits)), key=changes.get)
CHOSEN = {
    "looks one token back": previous,
    "reads the numbers": reads_digits,
    "needs positions most": most,
    "needs positions least": least,
}
for name, place in CHOSEN.items():
    print(
        f"{name}: layer {place[0] + 1}, head {place[1] + 1}; without positions {changes[place]:.0%} of its weight moves"
    )
moved = np.array(list(changes.values()))
print(
    f"all heads, last token of the sum: without positions {moved.mean():.0%} of the weight moves on average; largest difference to attention() {row_gap:.0e}"
)


# %%
def packed(vectors):
    """float -> 16-bit integers of one scale, little-endian, as base64."""
    scale = vectors.abs().max().item() / 32767
    whole = (vectors / scale).round().to(torch.int16)
    return {"scale": float(f"{scale:.8g}"), "bits": base64.b64encode(whole.numpy().astype("<i2").tobytes()).decode()}


examples = []
for question, piece, (queries, keys, weights) in zip(QUESTIONS, pieces, seen_of, strict=True):
    shown_heads = []
    for layer, head in CHOSEN.values():
        both = torch.cat([queries[layer, head][None], keys[layer, head // GROUP]])  # (1 + T, d_h)
        shown_heads.append({**packed(both), "row": [round(p, 5) for p in weights[layer, head, -1].tolist()]})
    examples.append({"question": question, "tokens": piece, "heads": shown_heads})
run.explorer(
    "rope",
    {
        "theta": THETA, "size": sizes.head_dim, "context": sizes.max_position_embeddings,
        "heads": [{"name": name, "layer": layer + 1, "head": head + 1} for name, (layer, head) in CHOSEN.items()],
        "examples": examples, "start": {"example": 1, "head": 1},
    },
    digits=8,
)  # fmt: skip

# %% [markdown]
# ## What the lab found

# %%
mean_error = {name: float(np.mean(found)) for name, found in errors.items()}
at_length = {told: np.mean(found, axis=0) for told, found in by_length.items()}
for name, value, form in (
    ("open_gap", open_gap, ".0e"), ("mha_numbers", kept["MHA"], ",d"), ("gqa_numbers", kept["GQA"], ",d"), ("mqa_numbers", kept["MQA"], ",d"),
    ("mla_numbers", kept["MLA"], ",d"), ("gqa_mib", kept["GQA"] * 30 * 2 * CONTEXT / 2**20, ".0f"), ("mha_mib", kept["MHA"] * 30 * 2 * CONTEXT / 2**20, ".0f"),
    ("latent_gap", latent_gap, ".0e"), ("absorbed_gap", absorbed_gap, ".0e"),
    ("text_tokens", test.shape[1], "d"), ("text_loss", plain_loss, ".2f"), ("averaged_change", averaged_loss - plain_loss, "+.2f"),
    ("squeezed_128_change", squeezed_losses[128] - plain_loss, "+.2f"), ("squeezed_all_change", abs(squeezed_losses[384] - plain_loss), ".0e"),
    ("size", target_size, ",d"), ("size_spread", max(abs(n - target_size) for n in PARAMETERS.values()) / target_size, ".1%"),
    ("steps", budget.steps, "d"), ("seeds", budget.seeds, "d"), ("flash_gap", max(flash_gaps), ".0e"), ("library_flash_gap", library_flash_gap, ".0e"),
    ("flash_length", budget.length, ",d"), ("matrix_mib", matrix_bytes / 2**20, ".0f"), ("block_kib", block_bytes / 2**10, ".0f"), ("broken_rows", broken_rows, ".0%"),
    ("matrix_ms", 1000 * timed["with the matrix"], ".1f"), ("blocks_ms", 1000 * timed["in blocks, in Python"], ".1f"), ("kernel_ms", 1000 * timed["torch's kernel"], ".1f"),
    ("turned_gap", turned_gap, ".0e"), ("shift_gap", shift_gap, ".0e"),
    ("shift_kl", max(kl["all shifted by 5,000"]), ".0e"), ("far_kl", max(kl["shifted by 100,000, beyond its context"]), ".0e"),
    ("stretched_kl", max(kl["stretched, twice"]), ".2f"), ("pressed_kl", max(kl["pressed together, half"]), ".2f"), ("none_kl", max(kl["no positions"]), ".2f"), ("base_kl", max(kl["base 10,000 for 100,000"]), ".2f"),
    ("linear_gap", linear_gap, ".0e"), ("fine_steps", budget.fine_steps, "d"),
    ("pre_slope", slope(last[False]), "+.2f"), ("post_slope", slope(last[True]), "+.2f"),
    ("pre_ratio", ratios[False], ".1f"), ("post_ratio", ratios[True], ".0f"),
    ("norm_steps", budget.norm_steps, "d"), ("pre_loss", norm_end["pre-norm, 12 layers"], ".2f"), ("post_loss", norm_end["post-norm, 12 layers"], ".2f"),
    ("post_warm_loss", norm_end["post-norm, 12 layers, warm-up"], ".2f"), ("post_halved_loss", norm_end["post-norm, 12 layers, weights halved"], ".2f"), ("pre_halved_ratio", halved_ratios[False], ".1f"), ("post_halved_ratio", halved_ratios[True], ".1f"), ("guess_loss", math.log(VALUES), ".2f"), ("moved_mean", moved.mean(), ".0%"),
):  # fmt: skip
    run.result(name, value, format=form)
KEYS = dict(zip(VARIANTS, ("mha", "gqa", "mqa", "mla32", "mla16"), strict=True))
for name, key in KEYS.items():
    run.result(f"{key}_wrong", mean_error[name], format=".1%")
    run.result(f"{key}_range", None, text=f"{min(errors[name]):.1%} to {max(errors[name]):.1%}")
    run.result(f"{key}_inner", VARIANTS[name]["inner"], format="d")
for told, key in zip(TOLD, ("sinusoidal", "rotary", "alibi", "none"), strict=True):
    for length, value in zip(LENGTHS, at_length[told], strict=True):
        run.result(f"{key}_{length}", value, format=".0%")
    run.result(f"{key}_old", np.mean(by_age[told], axis=0)[-1], format=".0%")
for name, key in zip(stretch, ("own", "pressed", "base", "yarn", "tuned"), strict=True):
    run.result(f"{key}_first", stretch[name][0], format=".3f")
    run.result(f"{key}_last", stretch[name][-1], format=".3f")
for name, key in zip(CHOSEN, ("previous", "digits", "most", "least"), strict=True):
    run.result(f"head_{key}", None, text=f"layer {CHOSEN[name][0] + 1}, head {CHOSEN[name][1] + 1}")
    run.result(f"moved_{key}", changes[CHOSEN[name]], format=".0%")
for name, key in (("as trained", "usual"), ("stretched, twice", "stretched"), ("no positions", "none")):
    for words, short in zip(spoken[name], ("who", "sum"), strict=True):
        run.result(f"said_{short}_{key}", None, text=words.replace("\n", " ") or "nothing")

# %%
run.claim("attention head by head equals the library's and torch's", open_gap < 1e-5)
run.claim("what is allocated is what is counted", measured_bytes == kept["GQA"] * sizes.num_hidden_layers * 2 * CONTEXT)
run.claim("latent attention in the open equals the library's and DeepSeek's", latent_gap < 1e-5)
run.claim("absorbed matrices change nothing", absorbed_gap < 1e-5)
run.claim("all directions kept, nothing changes", abs(squeezed_losses[384] - plain_loss) < 1e-3)
run.claim("128 principal directions lose less than averaged heads", squeezed_losses[128] < averaged_loss)
run.claim(
    "the five models differ by less than 1% in size",
    max(abs(n - target_size) for n in PARAMETERS.values()) < 0.01 * target_size,
)
run.claim("attention in blocks equals attention", max(*flash_gaps, library_flash_gap) < 1e-5)
run.claim("without the largest score loud rows break", broken_rows > 0 and bool(safe.isfinite().all()))
run.claim("a rotated score depends on the distance alone", max(turned_gap, shift_gap) < 1e-4)
run.claim("a shift of all positions leaves SmolLM2 as it is", max(kl["all shifted by 5,000"]) < 1e-3)
run.claim("missing positions do not", max(kl["no positions"]) > 0.1)
run.claim("among few cached numbers, more are better: MHA errs less than MQA", mean_error["MHA"] < mean_error["MQA"])
run.claim("with the same 16 numbers cached, MLA errs less than MQA", mean_error["MLA, 12 + 4"] < mean_error["MQA"])
run.claim("within the trained length all four encodings do well", min(found[0] for found in at_length.values()) > 0.8)
run.claim(
    "at eight times the trained length ALiBi holds best",
    at_length["ALiBi"][-1] > 0.15 + max(at_length[told][-1] for told in TOLD if told != "ALiBi"),
)
run.claim("sinusoidal positions fail beyond it", at_length["sinusoidal"][-1] < 0.6 * at_length["sinusoidal"][0])
run.claim(
    "pre-norm: the last layer's gradient falls as about one over the root of the depth",
    -0.75 < slope(last[False]) < -0.35,
)
run.claim("post-norm: it depends on the depth much less", abs(slope(last[True])) < 0.3)
run.claim(
    "twelve layers learn with pre-norm, and do not with post-norm",
    norm_end["pre-norm, 12 layers"] < 0.5 and norm_end["post-norm, 12 layers"] > 2,
)
run.claim("our interpolation is transformers' linear scaling", linear_gap < 1e-4)
run.claim("the explorer's rows are the model's", row_gap < 1e-3)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. Cached bytes** (★, 4 minutes). What a batch of texts occupies in the KV cache, in bytes; with one latent vector instead where `latent` is given.


# %%
def my_cache_bytes(
    layers, kv_heads, head_dim, tokens, batch, bytes_per_number, latent=None
):  # latent: None or (d_c, d_r)
    ...


check("attention_and_positions.cache_bytes", my_cache_bytes)

# %% [markdown]
# **2. Grouped attention** (★★, 8 minutes). Causal attention of `h` query heads over `h_kv` key and value heads, without `scaled_dot_product_attention`.


# %%
def my_grouped(q, k, v):  # q (B, h, T, d_h), k and v (B, h_kv, T, d_h) -> (B, h, T, d_h)
    ...


check("attention_and_positions.grouped", my_grouped)

# %% [markdown]
# **3. Turn** (★★, 8 minutes). Rotate queries or keys by their positions, pairs $(i, i+d_h/2)$.


# %%
def my_turn(x, positions, theta):  # x (T, d_h), positions (T,) -> (T, d_h)
    ...


check("attention_and_positions.turn", my_turn)

# %% [markdown]
# **4. Join two blocks** (★★★, 10 minutes). Two parts of one softmax, each with its largest score, its sum of $e^{s-m}$ and its weighted sum of values. Join them into one.


# %%
def my_join(m1, l1, o1, m2, l2, o2):  # m, l (T, 1), o (T, d) twice -> (m, l, o)
    ...


check("attention_and_positions.join", my_join)

# %% [markdown]
# **5. Absorb** (★★★, 10 minutes). Scores of queries with latents, without making any key: `make` is $W^{UK}$ of all heads.


# %%
def my_absorbed(q, make, c):  # q (h, T, d_h), make (h, d_h, d_c), c (S, d_c) -> scores (h, T, S), not divided by a root
    ...


check("attention_and_positions.absorbed", my_absorbed)
