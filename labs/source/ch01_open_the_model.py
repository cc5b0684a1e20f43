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
# # Open the model: every number between a question and the next token
#
# A language model is a file of numbers and about forty lines of arithmetic. Here you write the forty lines, put the numbers of a real model into
# them, and follow *"Who are you?"* and *"What is 17 + 25?"* from token ids to the next token. Nothing stays closed: each intermediate tensor is
# held against the same tensor inside transformers.
#
# - **You will** build norm, rotary positions, grouped-query attention, SwiGLU, residual stream and output head on SmolLM2's own weights; watch
#   where heads look and what each layer would say; take parts out, and put wrong ones in; count parameters, FLOPs and bytes and measure them;
#   train small decoders, four seeds in one call, to see what a second layer can do that one cannot.
# - **Time:** about 2 minutes on a CPU with two cores.
#
# **Sections:** 1.1.1
#
# **Topics:** module-vs-functional

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
# ## The file
#
# SmolLM2-135M-Instruct is a decoder of the Llama family. All that it knows stands in 272 tensors with names.

# %%
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from alignlab import compute, counting, lab, models, palette
from alignlab.exercises import check
from alignlab.explorers.heads import attention_example
from alignlab.explorers.tour import tour_example
from alignlab.rl.curves import band
from alignlab.transformer import Attention, Config, Transformer, rotary_angles, rotate

run = lab.Lab("ch01_open_the_model")
budget = run.budget(
    full=dict(passages=2, passage_tokens=96, skipped=1, repeats=8, half=24, new_tokens=24, contexts=(32, 128, 512, 1024), turns=3, seeds=4, steps=240, batch=64),
    quick=dict(passages=1, passage_tokens=8, skipped=10, repeats=1, half=6, new_tokens=2, contexts=(16, 32), turns=1, seeds=2, steps=3, batch=4),
)  # fmt: skip
compute.seed(0)
model, tokenizer = models.load("small")
device = next(model.parameters()).device
c = Config.of(model.config)
L, H, KV, DH, D, DFF, V = (
    c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.hidden_size, c.intermediate_size, c.vocab_size,
)  # fmt: skip
W = {name.removeprefix("model."): tensor.detach() for name, tensor in model.state_dict().items()}
E = W["embed_tokens.weight"]
kinds = {
    "embed_tokens": "one row a token",
    "self_attn.q_proj": "queries: 9 heads of 64", "self_attn.k_proj": "keys: 3 heads of 64", "self_attn.v_proj": "values: 3 heads of 64",
    "self_attn.o_proj": "from the heads back to the stream", "mlp.gate_proj": "what to let through", "mlp.up_proj": "what there is", "mlp.down_proj": "back to the stream",
    "input_layernorm": "scale before attention", "post_attention_layernorm": "scale before the MLP", "norm": "scale before the output",
}  # fmt: skip
rows = []
for kind, what in kinds.items():
    found = [
        tensor
        for name, tensor in W.items()
        if name.endswith(f"{kind}.weight") and (kind != "norm" or name == "norm.weight")
    ]
    count = sum(tensor.numel() for tensor in found)
    rows.append(
        (
            kind,
            str(tuple(found[0].shape)),
            len(found),
            f"{count:,}",
            f"{count / sum(p.numel() for p in model.parameters()):.1%}",
            what,
        )
    )
run.table(
    rows,
    ("Tensor", "Shape", "How often", "Numbers", "Share", "What it is"),
    caption=f"{sum(p.numel() for p in model.parameters()):,} parameters, on {device}",
)
print("output head and embedding are one tensor:", W["lm_head.weight"].data_ptr() == E.data_ptr())


# %% [markdown]
# ## Token ids
#
# The model reads integers. Its chat format puts two special tokens around each message; here its default system message is left out, so that
# all numbers fit on a page. The arithmetic question also gets the beginning of an answer, so that the next token is a digit that matters.


# %%
def prompt(question: str, begun: str = "") -> str:
    """A question in SmolLM2's chat format, without the default system message, and the answer as far as it has begun."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{begun}"


def encode(text: str) -> Tensor:
    """Token ids, (T,)."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False), device=device)


def shown(token_id: int) -> str:
    """A token with its spaces and line breaks made visible."""
    return tokenizer.decode([int(token_id)]).replace(" ", "·").replace("\n", "↵")


TEXTS = {
    "who": prompt("Who are you?"),
    "sum": prompt("What is 17 + 25?", "17 + 25 = "),
    "asked": prompt("What is 17 + 25?"),
}
IDS = {name: encode(text) for name, text in TEXTS.items()}
columns = [(shown(i), str(i)) for i in IDS["who"].tolist()] + [("", "")] * len(IDS["sum"])
rows = [(t, *columns[t], shown(i), str(i)) for t, i in enumerate(IDS["sum"].tolist())]
run.table(
    rows,
    ("Position", "Who are you?", "its id", "What is 17 + 25?", "id"),
    caption=f"T = {len(IDS['who'])} and T = {len(IDS['sum'])} tokens",
)

# %% [markdown]
# ## Six parts, in the open
#
# Shapes first. A text of $T$ tokens is a matrix $x$ of shape $(T, d)$, here $d = 576$: the **residual stream**. Thirty layers read it and add to
# it. A norm before each reading, a rotation of queries and keys by position, three key heads for nine query heads, a gate in the MLP.

# %%
EPS, THETA = c.rms_norm_eps, c.rope_theta


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x / rms(x) * weight, over the last axis."""
    return weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


def turn(x: Tensor, positions: Tensor) -> Tensor:
    """(heads, T, d_h): the pair (x_i, x_{i + d_h/2}) is a complex number; position t turns it by t * theta^(-2i/d_h)."""
    half = x.shape[-1] // 2
    frequencies = THETA ** (-torch.arange(half, device=x.device) / half)
    angles = positions[:, None] * frequencies
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def may_see(positions: Tensor, seen: int) -> Tensor:
    """(T, S): a token sees itself and what came before."""
    return torch.arange(seen, device=positions.device) <= positions[:, None]


def share(x: Tensor) -> Tensor:
    """(h_kv, S, d_h) -> (h, S, d_h): query heads 0, 1, 2 use key head 0, heads 3, 4, 5 use key head 1, ..."""
    return x.repeat_interleave(H // KV, dim=0)


def inner(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGLU's middle: silu(gate) * up, with silu(u) = u * sigmoid(u)."""
    return gate * gate.sigmoid() * up


@dataclass(frozen=True)
class Parts:
    """What the decoder is made of. Later a part is exchanged for a wrong one."""

    norm: Callable = rms_norm
    turn: Callable = turn
    may_see: Callable = may_see
    share: Callable = share
    inner: Callable = inner
    scale: float = DH**-0.5
    attention: bool = True
    mlp: bool = True
    residual: bool = True


LAYER = [name.removeprefix("layers.0.").removesuffix(".weight") for name in W if name.startswith("layers.0.")]


def silent(name: str, tensor: Tensor) -> None:
    """Notes nothing."""


def attention(
    x: Tensor, n: int, positions: Tensor, parts: Parts, note: Callable = silent, cache: dict | None = None
) -> Tensor:
    """What layer n's attention writes: (T, d) -> (T, d). cache: layer -> (keys, values) of the past, made longer."""

    def project(name: str) -> Tensor:
        flat = x @ W[f"layers.{n}.self_attn.{name}.weight"].T
        note(f"self_attn.{name}", flat)
        return flat.view(len(x), -1, DH).transpose(0, 1)  # (heads, T, d_h)

    q, k, v = project("q_proj"), project("k_proj"), project("v_proj")
    q, k = parts.turn(q, positions), parts.turn(k, positions)
    note("turned queries", q)
    if cache is not None:  # the past is not computed again
        past = cache.get(n, (k[:, :0], v[:, :0]))
        k, v = cache[n] = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
    note("turned keys", k)
    note("values", v)
    scores = q @ parts.share(k).transpose(1, 2) * parts.scale  # (h, T, S)
    weights = scores.masked_fill(~parts.may_see(positions, k.shape[1]), -torch.inf).softmax(-1)
    note("weights", weights)
    mixed = (weights @ parts.share(v)).transpose(0, 1).flatten(1)  # (T, h * d_h)
    note("mixed", mixed)
    return mixed @ W[f"layers.{n}.self_attn.o_proj.weight"].T


def mlp(x: Tensor, n: int, parts: Parts, note: Callable = silent) -> Tensor:
    """What layer n's MLP writes: (T, d) -> (T, d_ff) -> (T, d)."""
    gate, up = x @ W[f"layers.{n}.mlp.gate_proj.weight"].T, x @ W[f"layers.{n}.mlp.up_proj.weight"].T
    middle = parts.inner(gate, up)
    for name, tensor in (("mlp.gate_proj", gate), ("mlp.up_proj", up), ("inner", middle)):
        note(name, tensor)
    return middle @ W[f"layers.{n}.mlp.down_proj.weight"].T


def forward(ids: Tensor, parts: Parts = Parts(), note: Callable = silent, cache: dict | None = None) -> Tensor:
    """Token ids (T,) -> logits (T, V). note(name, tensor) hears of every intermediate."""
    past = cache[0][0].shape[1] if cache else 0
    positions = torch.arange(past, past + len(ids), device=ids.device)
    x = E[ids]  # (T, d)
    note("embed_tokens", x)
    for n in range(L):

        def keep(name: str, tensor: Tensor, n: int = n) -> Tensor:
            note(f"layers.{n}.{name}", tensor)
            return tensor

        normed = keep("input_layernorm", parts.norm(x, W[f"layers.{n}.input_layernorm.weight"]))
        written = keep("self_attn.o_proj", attention(normed, n, positions, parts, keep, cache))
        x = keep("middle", x * parts.residual + written * parts.attention)
        normed = keep("post_attention_layernorm", parts.norm(x, W[f"layers.{n}.post_attention_layernorm.weight"]))
        x = keep("out", x * parts.residual + keep("mlp.down_proj", mlp(normed, n, parts, keep)) * parts.mlp)
    x = parts.norm(x, W["norm.weight"])
    note("norm", x)
    logits = x @ E.T  # the output head is the embedding matrix
    note("logits", logits)
    return logits


# %% [markdown]
# That is the whole model. What does it say?

# %%
OURS: dict[str, dict[str, Tensor]] = {}
with torch.inference_mode():
    for name, ids in IDS.items():
        OURS[name] = {}
        logits = forward(ids, note=OURS[name].__setitem__)
        best = logits[-1].softmax(-1).topk(5)
        run.table(
            [(shown(i), f"{p:.2%}") for p, i in zip(best.values.tolist(), best.indices.tolist())],
            ("Next token", "Probability"),
            caption=TEXTS[name].replace("\n", "↵"),
        )

# %% [markdown]
# ## Is it the same model?
#
# A model that is nearly right still writes nearly right text, so looking at answers proves little. Compare tensors. PyTorch calls a **hook** each
# time a module has run: here they copy what flows in and out of every module of transformers' own implementation.


# %%
def hooked(ids: Tensor) -> dict[str, Tensor]:
    """The same intermediates, from inside transformers, under the same names."""
    seen: dict[str, Tensor] = {}
    handles = []

    def after(module, name):
        def note(m, args, out):
            seen[name] = (out[0] if isinstance(out, tuple) else out)[0]

        handles.append(module.register_forward_hook(note))

    def before(module, name):
        handles.append(module.register_forward_pre_hook(lambda m, args: seen.__setitem__(name, args[0][0])))

    body = model.model
    after(body.embed_tokens, "embed_tokens")
    after(body.norm, "norm")
    after(model.lm_head, "logits")
    for n, layer in enumerate(body.layers):
        for name in LAYER:
            after(layer.get_submodule(name), f"layers.{n}.{name}")
        before(layer.self_attn.o_proj, f"layers.{n}.mixed")
        before(layer.post_attention_layernorm, f"layers.{n}.middle")
        before(layer.mlp.down_proj, f"layers.{n}.inner")
        after(layer, f"layers.{n}.out")
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fused kernel has no weights to show
    result = model(ids[None], output_attentions=True, use_cache=True)
    model.set_attn_implementation(kept)
    for handle in handles:
        handle.remove()
    for n, layer in enumerate(result.past_key_values.layers):
        seen |= {
            f"layers.{n}.turned keys": layer.keys[0],
            f"layers.{n}.values": layer.values[0],
            f"layers.{n}.weights": result.attentions[n][0],
        }
    return seen


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the tensor's largest entry."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


with torch.inference_mode():
    THEIRS = {name: hooked(IDS[name]) for name in ("who", "sum")}
gaps = {(text, name): gap(OURS[text][name], tensor) for text, seen in THEIRS.items() for name, tensor in seen.items()}
worst: dict[str, float] = {}
for (_, name), value in gaps.items():
    kind = ".".join(part for part in name.split(".") if not part.isdigit())
    worst[kind] = max(worst.get(kind, 0.0), value)
run.table(
    [(kind, f"{value:.0e}") for kind, value in worst.items()],
    ("Tensor", "Largest gap"),
    caption="Relative to the tensor's largest entry, over 30 layers and both texts",
)
gap_intermediates = max(gaps.values())
gap_logits = max((OURS[text]["logits"] - THEIRS[text]["logits"]).abs().max().item() for text in THEIRS)
print(
    f"{len(gaps) // 2} tensors a text; largest relative gap {gap_intermediates:.1e}; logits differ by at most {gap_logits:.1e}"
)

# %% [markdown]
# The library's decoder, which later chapters train and sample from, must agree too. It is the same arithmetic in modules, with a fused attention kernel.

# %%
decoder = Transformer.view(model)  # the same weights, not a copy
with torch.inference_mode():
    gap_library = max((decoder(IDS[text][None])[0] - OURS[text]["logits"]).abs().max().item() for text in IDS)
print(f"logits of alignlab.transformer: within {gap_library:.1e}")

# %% [markdown]
# ## The residual stream
#
# Each position carries 576 numbers through 30 layers. A layer never replaces them: it adds. So the stream after layer $l$ is the embedding plus
# everything that was written so far, and its size can be followed.


# %%
def streams(text: str) -> Tensor:
    """(L + 1, T, d): before the first layer, and after each."""
    return torch.stack([OURS[text]["embed_tokens"], *(OURS[text][f"layers.{n}.out"] for n in range(L))])


sizes = streams("sum").square().mean(-1).sqrt()  # (L + 1, T)
fig = go.Figure(go.Heatmap(
    z=sizes.log10().cpu().float().numpy(), x=[f"{t} {shown(i)}" for t, i in enumerate(IDS["sum"].tolist())], colorscale="Viridis",
    colorbar={"title": "log10 rms"}, hovertemplate="after layer %{y}, %{x}: 10^%{z:.2f}<extra></extra>",
))  # fmt: skip
fig.update_layout(
    title="Size of the residual stream",
    xaxis_title="token",
    yaxis_title="after layer",
    yaxis_autorange="reversed",
    height=480,
)
run.figure(
    fig,
    "Root mean square of the stream by layer and token: all grow in the first three layers; the first token's jumps to about a thousand in the middle ones, the others stay near ten.",
)
middle_layers = slice(10, 26)
stream_first = sizes[:, 0].max().item()
stream_others = sizes[middle_layers, 1:].median().item()
widest = streams("sum")[15, 0].abs().topk(3)
print(f"first token: rms up to {stream_first:.0f}; the others' median in the middle layers {stream_others:.1f}")
print(
    "its three largest entries after layer 15:",
    ", ".join(f"channel {i}: {streams('sum')[15, 0, i]:.0f}" for i in widest.indices.tolist()),
)

# %% [markdown]
# The first token is special: it can see nothing but itself, so it holds no information beyond "a text begins". The model uses it as a place to look
# at when there is nothing to fetch. Its stream becomes huge in a few channels (Sun et al., 2024), the norm in front of each layer brings it back
# to size, and its key becomes one that every query likes. You will see that next.
#
# ## Where heads look
#
# 30 layers with 9 heads: 270 matrices of attention weights, $(T, T)$ each, for one text.


# %%
def all_weights(text: str) -> Tensor:
    """(L, h, T, T)."""
    return torch.stack([OURS[text][f"layers.{n}.weights"] for n in range(L)])


alphas = {text: all_weights(text) for text in IDS}
# (L, h): the weight on the first token, and on the token before
sink = torch.stack([alphas[text][:, :, 1:, 0].mean(-1) for text in ("who", "sum")]).mean(0)
previous = torch.stack([alphas[text].diagonal(-1, 2, 3)[..., 1:].mean(-1) for text in ("who", "sum")]).mean(0)
sink_share = sink.mean().item()
sink_heads = (sink > 0.5).float().mean().item()
previous_at = divmod(previous.argmax().item(), H)
fig = go.Figure(go.Heatmap(
    z=sink.cpu().float().numpy(), x=[str(h + 1) for h in range(H)], y=[str(n + 1) for n in range(L)], colorscale="Blues", zmin=0, zmax=1,
    hovertemplate="layer %{y}, head %{x}: %{z:.2f}<extra></extra>", colorbar={"title": "weight"},
))  # fmt: skip
fig.update_layout(
    title="Mean attention on the first token",
    xaxis_title="head",
    yaxis_title="layer",
    yaxis_autorange="reversed",
    height=520,
)
run.figure(fig, "Thirty layers by nine heads: the share of attention that later tokens give to the first one.")
print(
    f"on average {sink_share:.0%} of all attention goes to the first token; {sink_heads:.0%} of the heads give it more than half"
)
print(
    f"strongest look at the token before: layer {previous_at[0] + 1}, head {previous_at[1] + 1}, {previous.max():.0%}"
)

# %% [markdown]
# ### Heads that copy
#
# Some heads do something that one can state. An **induction head** looks, from a token, to what followed its last occurrence
# (Olsson et al., 2022): after `A B ... A` it fetches `B`. On meaningless random tokens, said twice, nothing else helps. So test it on those.

# %%
generator = torch.Generator().manual_seed(0)
half = budget.half
nonsense = torch.randint(1000, 40_000, (budget.repeats, half), generator=generator).to(device)
twice = torch.cat([nonsense, nonsense], dim=1)
with torch.inference_mode():
    copying, losses = [], []
    for ids in run.progress(list(twice), "reading nonsense twice"):
        seen: dict[str, Tensor] = {}
        logits = forward(ids, note=seen.__setitem__)
        # from the second occurrence of token t (place half + t) to what followed its first (place t + 1)
        copying.append(torch.stack([seen[f"layers.{n}.weights"].diagonal(1 - half, 1, 2).mean(-1) for n in range(L)]))
        losses.append(F.cross_entropy(logits[:-1], ids[1:], reduction="none"))
induction = torch.stack(copying).mean(0)  # (L, h)
costs = torch.stack(losses).mean(0)
first_time, second_time = costs[: half - 1].mean().item(), costs[half:].mean().item()
induction_at = divmod(induction.argmax().item(), H)
induction_heads = int((induction > 0.3).sum())
fig = go.Figure(
    go.Scatter(
        x=list(range(1, 2 * half)),
        y=costs.cpu().float().numpy(),
        mode="lines+markers",
        line={"color": palette.MIDDLE["policy"]},
    )
)
fig.update_layout(title="Nonsense, said twice", xaxis_title="position", yaxis_title="loss (nats a token)")
run.figure(fig, "Loss of each token: above ten nats the first time, a quarter of that the second time.")
top = induction.flatten().topk(5)
run.table(
    [(f"layer {i // H + 1}, head {i % H + 1}", f"{v:.0%}") for v, i in zip(top.values.tolist(), top.indices.tolist())],
    ("Head", "Weight on what followed"),
    caption="Heads that copy",
)

# %% [markdown]
# ## What each layer would say
#
# The stream has the same 576 axes everywhere, so the output head can read it after any layer: final norm, embedding matrix, softmax. This is the
# **logit lens** (nostalgebraist, 2020). It shows how an answer builds up. It also misleads in early layers, whose language is another.


# %%
def lens(stream: Tensor) -> Tensor:
    """(..., d) -> probabilities (..., V)."""
    return (rms_norm(stream, W["norm.weight"]) @ E.T).softmax(-1)


guesses = {text: lens(streams(text)[:, -1]) for text in IDS}  # (L + 1, V)
three, four = (encode(digit)[0].item() for digit in "34")
final = {text: guesses[text][-1].argmax().item() for text in IDS}
leads, words = {}, {}
for text in IDS:
    wins = guesses[text].argmax(-1) == final[text]
    # the first layer from which on the final token leads ...
    leads[text] = int(L + 1 - wins.flip(0).long().cumprod(0).sum())
    same = torch.tensor([shown(i).strip("·") == shown(final[text]).strip("·") for i in guesses[text].argmax(-1)])
    # ... or the same word with a space in front
    words[text] = int(L + 1 - same.flip(0).long().cumprod(0).sum())
run.table(
    [
        (
            n or "embedding",
            *(f"{shown(guesses[text][n].argmax())}  {guesses[text][n].max():.0%}" for text in ("who", "sum")),
        )
        for n in range(0, L + 1, 2)
    ],
    ("After layer", "Who are you?", "17 + 25 ="),
    caption="The likeliest next token, if the model stopped here",
)
fig = go.Figure()
for text, token, name, role in (
    ("who", final["who"], f"Who are you?: {shown(final['who'])}", "prompt"),
    ("sum", three, "17 + 25 = : 3 (wrong)", "rejected"),
    ("sum", four, "17 + 25 = : 4 (right)", "chosen"),
):
    fig.add_scatter(
        x=list(range(L + 1)),
        y=guesses[text][:, token].cpu().float().numpy(),
        name=name,
        line={"color": palette.MIDDLE[role]},
    )
fig.update_layout(
    title="The answer through the layers", xaxis_title="after layer", yaxis_title="probability in the logit lens"
)
run.figure(fig, "Probability of the final token of each example, and of the right digit, after each layer.")
print(
    f"who: the word leads from layer {words['who']} on, the very token from layer {leads['who']} on; sum: from layer {leads['sum']} on"
)

# %% [markdown]
# ### Who voted for the wrong digit?
#
# The final logit of a token is its embedding times the normed stream, and the stream is a sum. So the difference of two logits is, exactly, a sum of 61
# terms: the embedding, and what each attention and each MLP wrote (at the last token, with the final norm's divisor as it is).

# %%
last = {
    name: tensor[-1]
    for name, tensor in OURS["sum"].items()
    if name.endswith(("o_proj", "down_proj")) or name == "embed_tokens"
}
divisor = (streams("sum")[-1, -1].square().mean() + EPS).sqrt()
direction = (E[three] - E[four]) * W["norm.weight"] / divisor  # (d,)
votes = {name: (tensor @ direction).item() for name, tensor in last.items()}
difference = (OURS["sum"]["logits"][-1, three] - OURS["sum"]["logits"][-1, four]).item()
attribution_gap = abs(sum(votes.values()) - difference)
by_kind = {kind: [votes[f"layers.{n}.{kind}"] for n in range(L)] for kind in ("self_attn.o_proj", "mlp.down_proj")}
fig = go.Figure()
for kind, name, role in (("self_attn.o_proj", "attention", "value"), ("mlp.down_proj", "MLP", "reward")):
    fig.add_bar(x=list(range(1, L + 1)), y=by_kind[kind], name=name, marker_color=palette.MIDDLE[role])
fig.update_layout(
    title="Votes for 3 against 4 after 17 + 25 =", xaxis_title="layer", yaxis_title="contribution to logit 3 − logit 4"
)
run.figure(
    fig,
    "What each attention and MLP layer adds to the logit of 3 minus the logit of 4: votes for both sides, the largest in the last third.",
)
loudest = sorted(votes, key=lambda name: -abs(votes[name]))[:6]
run.table(
    [(name, f"{votes[name]:+.2f}") for name in loudest],
    ("Written by", "For 3 against 4"),
    caption="The six loudest votes, by their names in the file, which counts layers from 0",
)
early, late = (
    sum(votes[f"layers.{n}.{kind}"] for n in layers for kind in by_kind) for layers in (range(20), range(20, L))
)
print(
    f"logit(3) - logit(4) = {difference:.3f}; the 61 terms sum to {sum(votes.values()):.3f}; layers 1-20 give {early:.2f}, layers 21-30 {late:.2f}"
)

# %% [markdown]
# ## Two explorers from these numbers
#
# The first holds every tensor of every layer at the last token. The second holds all 270 attention matrices.


# %%
def tour(title: str, text: str) -> dict:
    """One text for the explorer `model_tour`."""
    seen = OURS[text]
    names = dict(
        norm1="input_layernorm", q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", mixed="mixed", attention="self_attn.o_proj", middle="middle",
        norm2="post_attention_layernorm", gate="mlp.gate_proj", up="mlp.up_proj", inner="inner", mlp="mlp.down_proj", out="out",
    )  # fmt: skip
    layers = []
    for n in range(L):
        stages = {stage: seen[f"layers.{n}.{name}"][-1] for stage, name in names.items()}
        layers.append(
            stages
            | {
                f"turned_{one}": seen[f"layers.{n}.turned {name}"][:, -1].flatten()
                for one, name in (("q", "queries"), ("k", "keys"))
            }
        )
    best = [row.topk(5) for row in guesses[text]]
    return tour_example(
        title, [tokenizer.decode([i]) for i in IDS[text].tolist()], seen["embed_tokens"][-1], layers, alphas[text][:, :, -1], streams(text), seen["norm"][-1],
        [[(tokenizer.decode([i]), p) for p, i in zip(row.values.tolist(), row.indices.tolist())] for row in best],
    )  # fmt: skip


run.explorer("model_tour", {
    "model": "SmolLM2-135M-Instruct", "sizes": {"d": D, "h": H, "h_kv": KV, "d_h": DH, "d_ff": DFF, "L": L, "V": V},
    "examples": [tour("Who are you?", "who"), tour("What is 17 + 25? Answer begun: 17 + 25 =", "sum")],
    "ids": [IDS["who"].tolist(), IDS["sum"].tolist()],
    "start": {"example": 1, "layer": 1, "stage": 0},
})  # fmt: skip

# %%
asked_alone = {text: len(IDS[text]) - 4 for text in ("who", "asked")}  # up to the question's end token, so that the page stays small
five = {text: OURS[text]["logits"][n - 1].softmax(-1).topk(5) for text, n in asked_alone.items()}
run.explorer("attention_heads", {
    "model": "SmolLM2-135M-Instruct",
    "examples": [
        attention_example(title, [tokenizer.decode([i]) for i in IDS[text][:n].tolist()], alphas[text][..., :n, :n])
        for title, (text, n) in zip(("Who are you?", "What is 17 + 25?"), asked_alone.items())
    ],
    "next": [[[tokenizer.decode([i]), p] for p, i in zip(five[text].values.tolist(), five[text].indices.tolist())] for text in asked_alone],
    "start": {"example": 1, "layer": previous_at[0], "head": previous_at[1], "position": asked_alone["asked"] - 1},
})  # fmt: skip

# %% [markdown]
# ## Why is each part there? Take it out
#
# Two passages of plain prose, and one number: the mean loss $-\ln p$ of the next token. First without single layers: each of the thirty loses its
# attention, its MLP, or both, while all else stays.

# %%
PASSAGES = [
    "The lighthouse stood at the end of a long stone pier. Every evening the keeper climbed the ninety-one steps to the lamp, trimmed the wick, and wound the clockwork that turned the lens. "
    "In winter the spray froze on the railings, and he tied a rope around his waist before he went out. Ships that passed at night saw two short flashes and a long one, and their captains knew exactly where they were. "
    "When the electric light came, the rope stayed on its hook by the door.",
    "Bread rises because yeast turns sugar into carbon dioxide and alcohol. The gas is caught in a net of gluten, a protein that forms when flour and water are kneaded together. "
    "If the dough is too warm, the yeast works fast, but the bread tastes of little; a slow rise in the cold gives time for acids to form. In the oven the gas expands, the alcohol evaporates, and the net sets. "
    "That is why a loaf sounds hollow when it is done.",
]
passages = torch.stack([encode(text)[: budget.passage_tokens] for text in PASSAGES[: budget.passages]])
rotary = rotary_angles(c, torch.arange(passages.shape[1], device=device)[None])


def step(x: Tensor, n: int, attention: bool = True, mlp: bool = True) -> Tensor:
    """One layer, or a part of it."""
    block = decoder.layers[n]
    if attention:
        x = x + block.self_attn(block.input_layernorm(x), rotary, None, None, n)
    return x + block.mlp(block.post_attention_layernorm(x)) if mlp else x


def loss_of(logits: Tensor) -> float:
    """Mean loss of the next token, nats."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), passages[:, 1:].flatten()).item()


without = {"attention": (False, True), "MLP": (True, False), "both": (False, False)}
curve = run.curve(
    "The loss without one layer's ...",
    x="layer",
    y="loss (nats a token)",
    lines={"attention": "value", "MLP": "reward", "both": "ink"},
    log=True,
)
with torch.inference_mode():
    before = [decoder.embed_tokens(passages)]
    for n in range(L):
        before.append(step(before[-1], n))
    loss_text = loss_of(decoder.lm_head(decoder.norm(before[-1])))
    skipped: dict[tuple[int, str], float] = {}
    for n in run.progress(range(0, L, budget.skipped), "leaving out a layer", curve=curve):
        for name, parts in without.items():
            x = step(before[n], n, *parts)
            for later in range(n + 1, L):
                x = step(x, later)
            skipped[n, name] = loss_of(decoder.lm_head(decoder.norm(x)))
            curve.add(name, n + 1, skipped[n, name])
curve.show()
both = {n: skipped[n, "both"] for n, name in skipped if name == "both"}
skip_worst, skip_best = max(both, key=both.get), min(both, key=both.get)
inside = sorted(value for n, value in both.items() if 2 <= n < L - 1) or [loss_text]
skip_middle = inside[len(inside) // 2]
print(
    f"whole model {loss_text:.2f}; worst without layer {skip_worst + 1}: {both[skip_worst]:.2f}; least without layer {skip_best + 1}: {both[skip_best]:.2f}"
)

# %% [markdown]
# Most single layers are a small loss: each adds a little, and the others still read a stream that is nearly as before. That is what a sum buys. The first
# layers are the great exception, since all others build on them. The figure shows others: layer 12, and the last two.
#
# ### Take it out everywhere, or put it in wrong
#
# Now whole kinds of parts. And six bugs that people write, on the same weights: each changes one line of the decoder above.

# %%
EVERY = Parts()


def interleaved(x: Tensor, positions: Tensor) -> Tensor:
    """The pairs are neighbours (x_0, x_1), (x_2, x_3), ...: the convention of other code, and of other weights."""
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous())
    frequencies = THETA ** (-torch.arange(half, device=x.device) / half)
    angles = positions[:, None] * frequencies
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def hide_first(positions: Tensor, seen: int) -> Tensor:
    """Nobody but the first token itself may see the first token."""
    mask = may_see(positions, seen)
    mask[1:, 0] = False
    return mask


CHANGES = {  # name: (what the reader reads, the decoder)
    "no_positions": ("no positions: nothing is turned", replace(EVERY, turn=lambda x, positions: x)),
    "no_first": ("the first token hidden from all others", replace(EVERY, may_see=hide_first)),
    "no_attention": ("no attention at all", replace(EVERY, attention=False)),
    "no_mlp": ("no MLP at all", replace(EVERY, mlp=False)),
    "no_residual": ("layers replace the stream instead of adding", replace(EVERY, residual=False)),
    "wrong_interleaved": ("rotary pairs interleaved", replace(EVERY, turn=interleaved)),
    "wrong_scale": ("scores not divided by 8", replace(EVERY, scale=1.0)),
    "wrong_mask": ("mask off by one: the next token is seen", replace(EVERY, may_see=lambda p, seen: may_see(p + 1, seen))),
    "wrong_gqa": ("key heads repeated in the wrong order", replace(EVERY, share=lambda x: x.repeat(H // KV, 1, 1))),
    "wrong_gate": ("gate and up swapped", replace(EVERY, inner=lambda gate, up: inner(up, gate))),
    "wrong_epsilon": ("epsilon outside the root", replace(EVERY, norm=lambda x, w: w * x / (x.square().mean(-1, keepdim=True).sqrt() + EPS))),
}  # fmt: skip


@torch.inference_mode()
def greedy(ids: Tensor, parts: Parts, tokens: int) -> list[int]:
    """The likeliest token, again and again, with a cache; ends with the end token."""
    cache: dict = {}
    written: list[int] = []
    while len(written) < tokens and (not written or written[-1] != tokenizer.eos_token_id):
        new = torch.tensor(written[-1:], device=device) if written else ids
        written.append(forward(new, parts, cache=cache)[-1].argmax().item())
    return written


def said(ids: list[int]) -> str:
    """Token ids as text without special tokens, on one line."""
    return " ".join(tokenizer.decode(ids, skip_special_tokens=True).split()) or "(nothing)"


changed, answers = {}, {"whole": said(greedy(IDS["who"], EVERY, budget.new_tokens))}
for name, (_, parts) in run.progress(list(CHANGES.items()), "changing a part"):
    with torch.inference_mode():
        changed[name] = loss_of(torch.stack([forward(ids, parts) for ids in passages]))
    answers[name] = said(greedy(IDS["who"], parts, budget.new_tokens // 2))
run.table(
    [
        ("the whole model", f"{loss_text:.2f}", answers["whole"]),
        *((CHANGES[name][0], f"{changed[name]:.2f}", answers[name]) for name in CHANGES),
    ],
    ("Decoder", "Loss", "Who are you?"),
    caption=f"Loss in nats a token; a fair guess among {V:,} tokens costs {math.log(V):.2f}",
)
epsilon_gap = max(
    (forward(IDS[text], CHANGES["wrong_epsilon"][1]) - OURS[text]["logits"]).abs().max().item()
    for text in ("who", "sum")
)
print(
    f"the misplaced epsilon changes the loss by {changed['wrong_epsilon'] - loss_text:+.1e} and a logit by up to {epsilon_gap:.1e}"
)

# %% [markdown]
# Two rows deserve a second look. With the **mask off by one** the loss is *better*: the model reads the answer off the next position. A loss that is too
# good is what a leak looks like. And the **misplaced epsilon** is a real bug that no answer and no loss will ever show. Equal tensors do. That is why the
# comparison above went tensor by tensor, and why this project's tests do the same with wrong versions that must be caught.
#
# ## The KV cache
#
# To write token $T + 1$ the model needs the keys and values of all earlier positions. They never change, since no position sees a later one. Keep them,
# and each new token costs one column instead of all. You built that above: `cache[l]` holds $(h_{kv}, T, d_h)$ keys and as many values.


# %%
@torch.inference_mode()
def greedy_without_cache(ids: Tensor, tokens: int) -> list[int]:
    """The same, reading the whole text anew for each token."""
    written: list[int] = []
    while len(written) < tokens and (not written or written[-1] != tokenizer.eos_token_id):
        logits = forward(torch.cat([ids, torch.tensor(written, device=device, dtype=ids.dtype)]))[-1]
        written.append(logits.argmax().item())
    return written


@torch.inference_mode()
def greedy_positions_restart(ids: Tensor, tokens: int) -> list[int]:
    """A bug: with a cache, every new token is taken for the first one of a text."""
    cache: dict = {}
    logits, written = forward(ids, cache=cache)[-1], []
    for _ in range(tokens):
        written.append(logits.argmax().item())
        parts = replace(EVERY, turn=lambda x, positions: turn(x, torch.zeros_like(positions)))
        logits = forward(torch.tensor(written[-1:], device=device), parts, cache=cache)[-1]
    return written


texts = {
    text: (greedy(IDS[text], EVERY, budget.new_tokens), greedy_without_cache(IDS[text], budget.new_tokens))
    for text in run.progress(["who", "asked"], "writing")
}
cache_same = all(a == b for a, b in texts.values())
restarted = {text: said(greedy_positions_restart(IDS[text], budget.new_tokens)) for text in texts}
run.table(
    [
        (
            TEXTS[text].split("\n")[1].removesuffix("<|im_end|>"),
            said(texts[text][0]),
            said(texts[text][1]),
            restarted[text],
        )
        for text in texts
    ],
    ("Question", "With a cache", "Without", "With a cache, positions restarted"),
    caption="Greedy answers",
)

# %% [markdown]
# What does it buy? The next token at growing context, by the library's decoder: with the cache, and by reading everything again.


# %%
def one_more(ids: Tensor, cache) -> Tensor:
    """The next token's logits from the last token and the cache of all before it."""
    cache.truncate(ids.shape[1] - 1)
    return decoder.lm_head(decoder.hidden(ids[:, -1:], cache=cache))


def all_again(ids: Tensor) -> Tensor:
    """The same from all tokens."""
    return decoder.lm_head(decoder.hidden(ids)[:, -1:])


def seconds(call: Callable, *arguments) -> float:
    """The median time of a call over some turns."""
    taken = []
    for _ in range(budget.turns):
        start = time.perf_counter()
        call(*arguments)[0, -1, 0].item()  # waits for a GPU
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


long_text = torch.randint(1000, 40_000, (1, max(budget.contexts)), generator=generator).to(device)
pace = []
with torch.inference_mode():
    for length in run.progress(list(budget.contexts), "timing"):
        ids = long_text[:, :length]
        cache = decoder.cache(1, length)
        decoder.hidden(ids[:, :-1], cache=cache)

        pace.append((length, seconds(one_more, ids, cache), seconds(all_again, ids)))
cache_bytes = (cache.keys.nbytes + cache.values.nbytes) // cache.capacity
run.table(
    [(length, f"{1000 * a:.0f} ms", f"{1000 * b:.0f} ms", f"{b / a:.1f}") for length, a, b in pace],
    ("Context", "With cache", "Without", "Times"),
    caption="The next token",
)
fig = go.Figure()
for k, (name, role) in enumerate((("with a cache", "policy"), ("without", "reference")), 1):
    fig.add_scatter(
        x=[row[0] for row in pace], y=[1000 * row[k] for row in pace], name=name, line={"color": palette.MIDDLE[role]}
    )
fig.update_layout(
    title="Time for the next token", xaxis_title="tokens before it", yaxis_title="milliseconds", yaxis_type="log"
)
run.figure(fig, "Milliseconds for the next token over context length: nearly flat with a cache, growing without.")
cache_speedup = pace[-1][2] / pace[-1][1]

# %% [markdown]
# ## Counting, and measuring what was counted
#
# Four numbers decide what a model costs. Each follows from the shapes; each can be measured.
#
# - **Parameters** $N = Vd + L\,(2d\,h d_h + 2d\,h_{kv} d_h + 3d\,d_{ff} + 2d) + d$, with tied embeddings.
# - **FLOPs** of a forward pass: each weight of a matrix multiplies and adds once a token, so $2$ a weight and token, plus $4\,h\,d_h\,T^2$ a layer for scores and mix.
# - **Bytes of the weights**: 4 a parameter in float32.
# - **Bytes of the cache**: keys and values, $2\,L\,h_{kv}\,d_h$ numbers a token.

# %%
attention_weights = 2 * D * H * DH + 2 * D * KV * DH
mlp_weights = 3 * D * DFF
N = V * D + L * (attention_weights + mlp_weights + 2 * D) + D
T = len(IDS["sum"])
# the embedding matrix is looked up once (no product) and multiplied once, as the output head
matrices = L * (attention_weights + mlp_weights) + V * D
flops = 2 * T * matrices + L * 4 * H * DH * T**2
with torch.inference_mode(), FlopCounterMode(display=False) as counter:
    forward(IDS["sum"])
flops_measured = counter.get_total_flops()
parameters = sum(p.numel() for p in model.parameters())
weight_bytes = sum(p.nbytes for p in model.parameters())
cached = 2 * L * KV * DH * 4
library = (
    sum(counting.parameters(c).values()), sum(counting.forward_flops(c, T).values()), 4 * sum(counting.parameters(c).values()), counting.kv_cache_bytes(c, 1, 1, 4),
)  # fmt: skip
counted, measured = (N, flops, 4 * N, cached), (parameters, flops_measured, weight_bytes, cache_bytes)
names = ("parameters", f"FLOPs of a pass over {T} tokens", "bytes of the weights", "bytes of the cache, a token")
run.table(
    [(name, f"{a:,}", f"{b:,.0f}", f"{m:,}") for name, a, b, m in zip(names, counted, library, measured)],
    ("What", "By hand", "alignlab.counting", "Measured"),
)
flops_token = 2 * matrices
prefill, decode = pace[-1][2], pace[-1][1]
rate_prefill = (budget.contexts[-1] * 2 * (matrices - V * D)) / prefill / 1e9
rate_decode = flops_token / decode / 1e9
print(
    f"reading {budget.contexts[-1]} tokens at once: {rate_prefill:.0f} GFLOP/s; writing one: {rate_decode:.1f} GFLOP/s, and {weight_bytes / decode / 1e9:.1f} GB/s of weights read"
)

# %% [markdown]
# The last line explains most of what serving engineers do. Reading a prompt uses each weight for many tokens: arithmetic is the limit. Writing uses each
# weight for one token: fetching 538 MB of weights is the limit, and most of the arithmetic units wait. Hence servers put many
# requests into one batch: chapter 9.
#
# ## nn.Module and nn.functional
#
# The decoder above was functions and a dictionary of tensors. The library's is made of modules. The arithmetic is the same; what differs is who owns the
# weights. `nn.functional` holds functions that take all they need as arguments. An `nn.Module` is an object that owns parameters, finds those of its
# children by attribute, and can be moved, saved and put into evaluation mode as one.

# %%
x = torch.randn(4, D, generator=generator).to(device)
linear = nn.Linear(D, 8, bias=False).to(device)
# a module calls the function with its own weight
functional_gap = (linear(x) - F.linear(x, linear.weight)).abs().max().item()


class Listed(nn.Module):
    """A common mistake: layers in a plain list."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(D, D) for _ in range(3)]


class Registered(nn.Module):
    """The same in an nn.ModuleList."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(D, D) for _ in range(3))


class Noisy(nn.Module):
    """Another one: F.dropout knows nothing of evaluation mode unless it is told."""

    def forward(self, x):
        return F.dropout(x, 0.5)


hidden_parameters = sum(p.numel() for p in Registered().parameters()) - sum(p.numel() for p in Listed().parameters())
asleep = nn.Dropout(0.5).eval()
# how far two readings of one input are apart
dropout_module, dropout_functional = ((part(x) - part(x)).abs().max().item() for part in (asleep, Noisy().eval()))
rows = [
    ("layers in a list", "0 parameters: no optimizer ever sees them", f"nn.ModuleList: {hidden_parameters:,}"),
    (
        "dropout in eval()",
        f"F.dropout(x, 0.5): two readings differ by {dropout_functional:.1f}",
        f"nn.Dropout: by {dropout_module:.0f}",
    ),
]
run.table(rows, ("Case", "Goes wrong", "Right"))

# %% [markdown]
# Names are the other half of a module: `state_dict()` lists them, and a checkpoint is such a list in a file. When names or shapes do not fit, you want
# to hear which. Three damaged checkpoints, and a text that is too long:

# %%
with torch.device("meta"):  # shapes without memory
    empty = Transformer(c)
whole = {name: tensor for name, tensor in W.items() if name != "lm_head.weight"}
damaged = {
    "a tensor is missing": {name: tensor for name, tensor in whole.items() if name != "layers.7.mlp.up_proj.weight"},
    "a layer too many": whole | {"layers.30.self_attn.q_proj.weight": whole["layers.0.self_attn.q_proj.weight"]},
    "keys for 9 heads instead of 3": whole
    | {"layers.0.self_attn.k_proj.weight": whole["layers.0.self_attn.q_proj.weight"]},
}
rows = []
for what, weights in damaged.items():
    try:
        empty.load_weights(weights)
    except ValueError as error:
        rows.append((what, str(error)))
try:
    decoder(torch.zeros(1, c.max_position_embeddings + 1, dtype=torch.long, device=device))
except ValueError as error:
    rows.append(("one token too many", str(error)))
run.table(rows, ("Input", "What the library says"))
refused = len(rows)

# %% [markdown]
# ### A module as a function of its weights
#
# `torch.func.functional_call(module, weights, inputs)` goes back the other way: it runs a module as a pure function of its weights. With `vmap` over a stack of
# weights, several models become one batched computation. The next cell trains decoders from nothing that way, one per seed.
#
# The task is a sharper form of the one above: nonsense, said again and again. Between 6 and 16 symbols of 32, none of them twice, are drawn for each row and
# repeated to its end. What follows can be predicted from the second symbol of the second round on, by whoever looks up what came after the present symbol the
# last time. The period changes from row to row, so no fixed distance will do. An induction head needs to know, at each position, which symbol stood *before*
# it, and an earlier layer must have written that into the stream. So one layer should fail where two succeed. Measure it.

# %%
SYMBOLS, LENGTH = 32, 32
torch.set_num_threads(1)  # products this small are not worth sharing between cores


class PlainAttention(Attention):
    """The library's attention in plain products, which vmap can stack."""

    def forward(self, x, rotary, mask, cache, layer):
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        scores = rotate(q, *rotary) @ rotate(k, *rotary).transpose(-1, -2) * self.head_dim**-0.5
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        return self.o_proj((scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1))


def small(layers: int, seed: int) -> Transformer:
    """A decoder of 32 symbols with plain attention."""
    torch.manual_seed(seed)
    config = Config(SYMBOLS, 64, 128, layers, 4, 4, 16, max_position_embeddings=LENGTH, tie_word_embeddings=False)
    net = Transformer(config).initialize(0.05)
    for block in net.layers:
        block.self_attn.__class__ = PlainAttention
    return net


def said_again(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids (n, LENGTH) that repeat with a period of 6 to 16, and which of them can be predicted."""
    symbols = torch.rand(n, SYMBOLS, generator=generator).argsort(1)
    period = torch.randint(6, 17, (n, 1), generator=generator)
    places = torch.arange(LENGTH)[None]
    return symbols.gather(1, places % period), places > period


def loss_again(logits: Tensor, ids: Tensor, known: Tensor) -> Tensor:
    """Mean loss over what can be predicted, nats."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)
    return (losses * known[:, 1:]).sum() / known[:, 1:].sum()


def train(layers: int, curve) -> Tensor:
    """Losses (seeds, steps) of several decoders trained at once, all on the same batches."""
    nets = [small(layers, seed) for seed in range(budget.seeds)]
    weights, _ = torch.func.stack_module_state(nets)  # each (seeds, ...)
    weights = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
    skeleton = small(layers, 0).to("meta")

    def loss_by(weights: dict[str, Tensor], ids: Tensor, known: Tensor) -> Tensor:
        return loss_again(torch.func.functional_call(skeleton, weights, (ids,)), ids, known)

    every = torch.vmap(loss_by, in_dims=(0, None, None))
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, weight_decay=0.0)
    draw, losses = torch.Generator().manual_seed(0), []
    for k in run.progress(
        budget.steps, f"training {budget.seeds} decoders of {layers} layer{'s' * (layers > 1)}", curve=curve
    ):
        loss = every(weights, *said_again(budget.batch, draw))  # (seeds,)
        optimizer.zero_grad()
        loss.sum().backward()  # a seed's weights touch no other seed's loss
        optimizer.step()
        losses.append(loss.detach())
        curve.add(f"{layers} layer{'s' * (layers > 1)}", k + 1, loss.detach().mean())
    return torch.stack(losses, dim=1)


curve = run.curve(
    "Nonsense said again: loss of what can be predicted",
    y="loss (nats a token), mean of the seeds",
    lines={"1 layer": "rejected", "2 layers": "chosen"},
)
learned = {layers: train(layers, curve) for layers in (1, 2)}
curve.show()

# %%
fig = go.Figure()
for layers, role in ((1, "rejected"), (2, "chosen")):
    every = max(1, budget.steps // 100)
    band(
        fig,
        range(1, budget.steps + 1, every),
        learned[layers][:, ::every].numpy(),
        f"{layers} layer{'s' * (layers > 1)}",
        role,
    )
fig.update_layout(
    title="One layer and two, range over the seeds",
    xaxis_title="step",
    yaxis_title="loss of what can be predicted (nats)",
)
run.figure(fig, "Loss over training steps for decoders of one and of two layers, several seeds each.")
tail = max(1, budget.steps // 15)
one_layer, two_layers = (learned[layers][:, -tail:].mean(1) for layers in (1, 2))
print(
    f"one layer: {one_layer.mean():.2f} ({one_layer.min():.2f} to {one_layer.max():.2f}); two: {two_layers.mean():.2f} ({two_layers.min():.2f} to {two_layers.max():.2f}); a guess: {math.log(SYMBOLS):.2f}"
)

# %% [markdown]
# Two layers copy without error. One layer stops where the loss is the price of knowing which symbols the row has, and not which comes next.
#
# The stacked training must be the ordinary one. Seed 1, alone, as a module with its own optimizer:

# %%
net, draw, alone = small(2, 1), torch.Generator().manual_seed(0), []
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
for _ in range(min(20, budget.steps)):
    ids, known = said_again(budget.batch, draw)
    loss = loss_again(net(ids), ids, known)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    alone.append(loss.detach())
vmap_gap = (torch.stack(alone) - learned[2][1, : len(alone)]).abs().max().item()
print(f"largest difference of the loss over {len(alone)} steps: {vmap_gap:.1e}")

# %% [markdown]
# ## As one would at work
#
# Ten lines of transformers give most of what you built: states after each layer, attention weights, cache, answer.

# %%
model.set_attn_implementation("eager")
with torch.inference_mode():
    out = model(IDS["sum"][None], output_hidden_states=True, output_attentions=True, use_cache=True)
    answer = model.generate(
        IDS["asked"][None],
        attention_mask=torch.ones_like(IDS["asked"][None]),
        max_new_tokens=budget.new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
model.set_attn_implementation("sdpa")
# the last state comes normed
states_gap = max(gap(OURS["sum"][f"layers.{n - 1}.out"], out.hidden_states[n][0]) for n in range(1, L))
print(
    f"{len(out.hidden_states)} states {tuple(out.hidden_states[0].shape)}, {len(out.attentions)} weights {tuple(out.attentions[0].shape)}, cache of {out.past_key_values.get_seq_length()} tokens"
)
print(
    f"largest relative gap of a state: {states_gap:.1e}; the same answer: {answer[0, len(IDS['asked']) :].tolist() == texts['asked'][0]}"
)

# %% [markdown]
# ## Results

# %%
three_p, four_p = (guesses["sum"][-1][token].item() for token in (three, four))
first_guess = {text: shown(guesses[text][1].argmax()) for text in ("who", "sum")}
run.result("tokens_who", len(IDS["who"]))
run.result("tokens_asked", len(IDS["asked"]))
run.result("tokens_sum", len(IDS["sum"]))
run.result("parameters", parameters, format=",")
run.result("embedding_share", V * D / parameters, format=".0%")
run.result("attention_share", L * attention_weights / parameters, format=".0%")
run.result("mlp_share", L * mlp_weights / parameters, format=".0%")
run.result("intermediates", len(gaps) // 2)
run.result("gap_intermediates", gap_intermediates, format=".0e")
run.result("gap_logits", gap_logits, format=".0e")
run.result("next_who", guesses["who"][-1].max(), text=f"{shown(final['who'])} ({guesses['who'][-1].max():.0%})")
run.result("answer_who", None, text=said(texts["who"][0]))
run.result("answer_sum", None, text=said(texts["asked"][0]))
run.result("stream_first", stream_first, format=".0f")
run.result("stream_others", stream_others, format=".1f")
run.result("sink_share", sink_share, format=".0%")
run.result("sink_heads", sink_heads, format=".0%")
run.result("previous_head", None, text=f"layer {previous_at[0] + 1}, head {previous_at[1] + 1}")
run.result("previous_share", previous.max(), format=".0%")
run.result("induction_head", None, text=f"layer {induction_at[0] + 1}, head {induction_at[1] + 1}")
run.result("induction_score", induction.max(), format=".0%")
run.result("induction_heads", induction_heads)
run.result("nonsense_first", first_time, format=".1f")
run.result("nonsense_second", second_time, format=".2f")
run.result("lens_who_layer", leads["who"])
run.result("lens_sum_layer", leads["sum"])
run.result("lens_who_word", words["who"])
run.result("lens_who_first", None, text=first_guess["who"])
run.result("lens_sum_first", None, text=first_guess["sum"])
run.result("lens_digit_three", three_p, format=".0%")
run.result("lens_digit_four", four_p, format=".0%")
run.result("attribution_difference", difference, format=".2f")
run.result("attribution_embedding", votes["embed_tokens"], format="+.2f")
run.result("attribution_attention", sum(by_kind["self_attn.o_proj"]), format="+.2f")
run.result("attribution_mlp", sum(by_kind["mlp.down_proj"]), format="+.2f")
run.result("attribution_gap", attribution_gap, format=".0e")
layer, _, part = loudest[0].removeprefix("layers.").partition(".")
run.result(
    "attribution_top",
    None,
    text=f"the {'MLP' if 'mlp' in part else 'attention'} of layer {int(layer) + 1}" if part else "the embedding",
)
run.result("attribution_top_value", votes[loudest[0]], format="+.2f")
run.result("attribution_early", early, format=".2f")
run.result("attribution_late", late, format=".2f")
run.result("loss_text", loss_text, format=".2f")
run.result("loss_guess", math.log(V), format=".1f")
run.result("loss_skip_worst", both[skip_worst], format=".1f")
run.result("skip_worst_layer", skip_worst + 1)
run.result("loss_skip_best", both[skip_best], format=".2f")
run.result("skip_best_layer", skip_best + 1)
run.result("loss_skip_middle", skip_middle, format=".2f")
for name, value in changed.items():
    run.result(name if name.startswith("wrong") else f"loss_{name}", value, format=".2f")
run.result("epsilon_gap", epsilon_gap, format=".0e")
run.result("cache_bytes_token", cache_bytes, format=",")
run.result("cache_kib_token", cache_bytes / 1024, format=".0f")
run.result("cache_context", budget.contexts[-1], format=",")
run.result("cache_speedup", cache_speedup, text=f"{cache_speedup:.0f} times")
run.result(
    "cache_same",
    sum(len(a) for a, _ in texts.values()),
    text=f"{sum(x == y for a, b in texts.values() for x, y in zip(a, b))} of {sum(len(a) for a, _ in texts.values())}",
)
run.result("restarted", None, text=restarted["who"])
run.result("flops_token", flops_token / 1e9, text=f"{flops_token / 1e9:.2f} GFLOP")
run.result("flops_gap", flops_measured - flops)
run.result("weights_mb", weight_bytes / 1e6, format=".0f")
run.result("rate_prefill", rate_prefill, format=".0f")
run.result("rate_decode", rate_decode, format=".0f")
run.result("one_layer_loss", one_layer.mean(), format=".2f")
run.result("two_layer_loss", two_layers.mean(), format=".3f")
run.result("two_layer_worst", two_layers.max(), format=".3f")
run.result("vmap_gap", vmap_gap, format=".0e")
run.result("hidden_parameters", hidden_parameters, format=",")
run.result("dropout_gap", dropout_functional, format=".1f")

run.claim(
    "every intermediate of the open decoder equals transformers' to a ten-thousandth of its largest entry",
    gap_intermediates < 1e-4,
)
run.claim(
    "its logits equal those of transformers and of the library to a thousandth", max(gap_logits, gap_library) < 1e-3
)
run.claim("the first token's stream is over 20 times as large as the others'", stream_first > 20 * stream_others)
run.claim("a third or more of all attention goes to the first token", sink_share > 0.33)
run.claim("some head copies: over half of its weight on what followed", induction.max() > 0.5)
run.claim("nonsense costs less than half the second time", second_time < first_time / 2)
run.claim("61 terms sum to the difference of two logits", attribution_gap < 1e-2)
run.claim("the model prefers 3, and is wrong", three_p > four_p)
run.claim(
    "leaving out the first layer costs more than any layer from the third on",
    both[0] > max(value for n, value in both.items() if n > 1),
)
run.claim("half of the layers from the third on cost less than half a nat when left out", skip_middle < loss_text + 0.5)
run.claim(
    "without attention, MLP or residual sums the model is lost",
    min(changed[f"no_{part}"] for part in ("attention", "mlp", "residual")) > loss_text + 3,
)
run.claim(
    "four of the six bugs cost half a nat or more",
    min(changed[f"wrong_{part}"] for part in ("interleaved", "scale", "gqa", "gate")) > loss_text + 0.5,
)
run.claim("a mask off by one lowers the loss by half a nat or more", changed["wrong_mask"] < loss_text - 0.5)
run.claim("the misplaced epsilon does not show in the loss", abs(changed["wrong_epsilon"] - loss_text) < 0.01)
run.claim("the cache changes no token", cache_same)
run.claim("four bad inputs are refused by name", refused == 4)
run.claim("at the longest context a cached token is at least five times as fast", cache_speedup > 5)
run.claim("parameters, FLOPs and bytes are as counted", counted == library == measured)
run.claim("two layers learn to copy with every seed, one layer with none", two_layers.max() < 0.5 * one_layer.min())
run.claim("training stacked seeds is training them one by one", vmap_gap < 1e-3)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. The norm** (★, 3 minutes). Divide each position by its root mean square. Where does epsilon go?


# %%
def my_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    # x (..., d) over the root of the mean square (plus eps) of its last axis, times weight (d,).
    ...


check("open_the_model.rms_norm", my_rms_norm)

# %% [markdown]
# **2. Turn by position** (★★, 8 minutes). Rotary positions without complex numbers: cosines and sines on two halves.


# %%
def my_rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    # x (T, d_h), positions (T,): turn each pair (x_i, x_{i + d_h/2}) by position * theta^(-2i/d_h).
    ...


check("open_the_model.rotate", my_rotate)

# %% [markdown]
# **3. Grouped-query attention** (★★, 8 minutes). Which query heads share which key head, what is divided, what may be seen?


# %%
def my_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Causal attention: q (h, T, d_h), k and v (h_kv, T, d_h) -> (h, T, d_h).
    ...


check("open_the_model.attention", my_attention)

# %% [markdown]
# **4. Count another model** (★★, 6 minutes). Your function must give SmolLM2's 134,515,008, and the size of two models with other habits.


# %%
def my_parameters(vocab: int, d: int, d_ff: int, layers: int, heads: int, kv_heads: int, d_h: int, tied: bool) -> int:
    # Parameters of a Llama-family decoder, norms included.
    ...


check("open_the_model.parameters", my_parameters)

# %% [markdown]
# **5. One token with a cache** (★★, 6 minutes). What joins the cache, when, and what does the new token attend to?


# %%
def my_cached_step(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # One head, one new token: q, k, v (d_h,); keys, values (T, d_h) of the past. Returns output (d_h,) and the longer cache.
    ...


check("open_the_model.cached_step", my_cached_step)
