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
# # Mixture of experts, routed and balanced
#
# A feed-forward layer can hold eight times the parameters and compute as little as before, if each token uses an eighth of them. You build
# that layer from a router and a loop, make SmolLM2 into one without changing a word it says, and train small ones on a world whose
# probabilities are all known. Then you break them: a router that learns nothing, experts that overflow, a balance enforced a hundred times as hard.
#
# - **You will** route real hidden states by hand; hold a loop, the library and transformers' Mixtral against one another; write a language
#   whose entropy you know and sum a model's probabilities over all its sentences; train dense networks and mixtures with equal active
#   parameters and three seeds each; draw who uses which expert; overfill experts; and do it as at work, with a Mixtral of transformers.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 1.2
#
# **Topics:** moe, autoregressive-modelling

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
# ## One layer, in the open
#
# The vectors are real: what enters the MLP of SmolLM2's layer 16 when it reads *What is 17 + 25?* The MLP turns each of them, alone, into
# another. A **mixture of experts** has several such MLPs and a **router**, a matrix with a row for each expert.

# %%
import math
import time

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, counting, lab, models, palette, text
from alignlab.architectures.moe import MoE, capacity, load_balance_loss
from alignlab.exercises import check
from alignlab.rl.curves import band
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_mixture_of_experts")
budget = run.budget(
    full=dict(languages=32, words=64, steps=400, seeds=3, batch=512, upcycled=(10, 20), peer_steps=400),
    quick=dict(languages=8, words=16, steps=30, seeds=2, batch=64, upcycled=(10,), peer_steps=20),
)
compute.seed(0)
smol, tokenizer = models.load("small", "cpu")
decoder = Transformer.view(smol).eval()
PROMPTS = {
    question: torch.tensor([text.encode_prompt(tokenizer, question)])
    for question in ("Who are you?", "What is 17 + 25?")
}
LAYER = 15  # counted from 0

entered = []
handle = decoder.layers[LAYER].mlp.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
with torch.no_grad():
    decoder(PROMPTS["What is 17 + 25?"])
handle.remove()
ids = PROMPTS["What is 17 + 25?"][0]
question = [
    k for k in range(len(ids)) if k >= len(ids) - 16
]  # the last tokens: the question, then the answer's opening
x = entered[0][0, question]  # (n, d): n tokens of width d = 576
print(
    f"x {tuple(x.shape)}: {''.join(tokenizer.convert_tokens_to_string([t]) for t in tokenizer.convert_ids_to_tokens(ids[question]))!r}"
)

# %% [markdown]
# Four experts, each token uses two. The router's logits pass a softmax; the two largest probabilities are kept and divided by their sum.
# Those are the weights with which the two experts' outputs are added.

# %%
E, K, D, WIDTH = 4, 2, x.shape[1], 64
generator = torch.Generator().manual_seed(0)
router = torch.randn(E, D, generator=generator) * 0.03  # (E, d)
gate_up = (
    torch.randn(E, 2 * WIDTH, D, generator=generator) * 0.05
)  # (E, 2f, d): gate and up of each expert, one above the other
down = torch.randn(E, D, WIDTH, generator=generator) * 0.05  # (E, d, f)

logits = x @ router.T  # (n, E)
probabilities = logits.softmax(-1)
kept, experts = probabilities.topk(K, dim=-1)  # (n, k) each
weights = kept / kept.sum(-1, keepdim=True)
rows = [
    [
        repr(tokenizer.decode([ids[k]])),
        *(f"{p:.2f}" for p in probabilities[i]),
        f"{experts[i, 0] + 1} and {experts[i, 1] + 1}",
        f"{weights[i, 0]:.2f} + {weights[i, 1]:.2f}",
    ]
    for i, k in enumerate(question)
]
run.table(
    rows,
    ["token", "p(1)", "p(2)", "p(3)", "p(4)", "experts", "weights"],
    caption="An untrained router on real states: each token has its own two experts",
)


# %%
def by_loop(x):
    """The definition: for each token, for each of its experts, one small SwiGLU network."""
    output = torch.zeros_like(x)
    for t in range(len(x)):
        for expert, weight in zip(experts[t], weights[t]):
            gate, up = (gate_up[expert] @ x[t]).chunk(2)
            output[t] += weight * (down[expert] @ (F.silu(gate) * up))
    return output


layer = MoE(D, WIDTH, E, K)
with torch.no_grad():
    layer.gate.weight.copy_(router)
    layer.experts.gate_up_proj.copy_(gate_up)
    layer.experts.down_proj.copy_(down)
    library_gap = (layer(x) - by_loop(x)).abs().max().item()

from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

config = MixtralConfig(hidden_size=D, intermediate_size=WIDTH, num_local_experts=E, num_experts_per_tok=K)
config._experts_implementation = "eager"  # a plain loop over experts
theirs = MixtralSparseMoeBlock(config).eval()
theirs.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "bias"})
with torch.no_grad():
    peer_gap = (theirs(x[None])[0] - layer(x)).abs().max().item()
    loss_gap = abs(
        load_balancing_loss_func((logits,), E, K).item() - K * load_balance_loss(probabilities, experts).item()
    )
print(
    f"largest difference: loop to library {library_gap:.0e}, library to transformers {peer_gap:.0e}; balance loss {loss_gap:.0e}"
)

# %% [markdown]
# The library does not loop over tokens. It sorts them by expert, gives each expert its own in one product, and adds the results back in place.
# With $E$ experts of $k$ used, the router's $n\times E$ numbers are all that is computed for all of them.
#
# ## SmolLM2 as a mixture, without changing a word
#
# **Sparse upcycling**: make every expert a copy of the MLP that is there. If the weights of the chosen experts sum to 1, the layer's output is the
# MLP's, whatever the router says. So one can start from a trained dense model, and let the copies grow apart. If the weights do not sum to 1
# (Switch's do not), the output shrinks.


# %%
def upcycled(mlp, normalize, seed=0):
    """Four copies of a trained MLP and an untrained router, two experts a token."""
    compute.seed(seed)
    moe = MoE(decoder.config.hidden_size, decoder.config.intermediate_size, 4, 2, normalize=normalize)
    with torch.no_grad():
        moe.experts.gate_up_proj.copy_(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])[None].expand(4, -1, -1))
        moe.experts.down_proj.copy_(mlp.down_proj.weight[None].expand(4, -1, -1))
    return moe


rows, upcycle_gap, upcycle_kl = [], 0.0, {}
originals = {k: decoder.layers[k].mlp for k in budget.upcycled}
for question_text, prompt in PROMPTS.items():
    with torch.no_grad():
        before = decoder(prompt)[0, -1].log_softmax(-1)
        best = int(before.argmax())
        for normalize in (True, False):
            for k, mlp in originals.items():
                decoder.layers[k].mlp = upcycled(mlp, normalize)
            after = decoder(prompt)[0, -1].log_softmax(-1)
            for k, mlp in originals.items():
                decoder.layers[k].mlp = mlp
            if normalize:
                upcycle_gap = max(upcycle_gap, (after - before).abs().max().item())
            else:
                upcycle_kl[question_text] = (before.exp() * (before - after)).sum().item()
            rows.append(
                [
                    question_text,
                    "sum to 1" if normalize else "as they are",
                    repr(tokenizer.decode([best])),
                    f"{before[best].exp():.4f}",
                    f"{after[best].exp():.4f}",
                ]
            )
run.table(
    rows,
    ["prompt", "weights", "likeliest next token", "dense", "4 copies, 2 used"],
    caption=f"SmolLM2 with {len(budget.upcycled)} of its 30 MLPs made into mixtures",
)
mlp_size = sum(p.numel() for p in originals[budget.upcycled[0]].parameters())
print(
    f"one MLP {mlp_size:,} parameters; as a mixture {4 * mlp_size + 4 * 576:,}, of which a token uses {2 * mlp_size + 4 * 576:,}"
)
print(f"largest change of a log-probability, weights that sum to 1: {upcycle_gap:.0e}")

# %% [markdown]
# ## Stored and computed
#
# Published mixtures, counted from their configurations alone. "Active" is what one token passes: attention, embeddings, router, shared experts and
# the chosen ones.

# %%
rows, stored_share = [], {}
for name in ("Llama-3.1-405B", "Mixtral-8x7B", "DeepSeek-V2", "DeepSeek-V3", "Qwen3-30B-A3B", "Qwen3-235B-A22B"):
    model = counting.published(name)
    sizes = model.architecture.experts
    stored, active = (
        sum(count(model.architecture).values()) for count in (counting.parameters, counting.active_parameters)
    )
    stored_share[name] = active / stored
    shape = (
        f"{sizes.active} of {sizes.routed}" + (f" + {sizes.shared} shared" if sizes.shared else "")
        if sizes
        else "dense"
    )
    rows.append(
        [
            name,
            shape,
            f"{stored / 1e9:.1f}B",
            f"{active / 1e9:.1f}B",
            f"{active / stored:.0%}",
            f"{stored * 2 / 1e9:.0f} GB",
        ]
    )
run.table(
    rows,
    ["model", "experts a layer", "stored", "active", "share", "bytes in bf16"],
    caption="A token pays for the active parameters; the memory holds them all",
)
mixtral = counting.published("Mixtral-8x7B").architecture
mixtral_stored, mixtral_active = (
    sum(counting.parameters(mixtral).values()) / 1e9,
    sum(counting.active_parameters(mixtral).values()) / 1e9,
)

# %% [markdown]
# ## A world with known probabilities
#
# To see what experts are good for we need data that asks for *memory*, and to know how far a model is from perfect we need data whose
# probabilities we know. So we make a dictionary: 32 languages, 64 words, and for each language its own translation of each word (a permutation
# drawn by lot). A sentence has three tokens: language, word, translation. Given the language, the word is drawn evenly, and the translation is certain.
#
# The **chain rule** takes the probability of a sentence apart: $p(\text{word},\text{translation}\mid\text{language})
# =p(\text{word}\mid\text{language})\cdot p(\text{translation}\mid\text{language},\text{word})$. Here that is $\frac1{64}\cdot1$. The entropy is $\log 64$, and no model
# can have a lower loss than that. What a model's loss has beyond it is its KL divergence from the world.

# %%
LANGUAGES, WORDS = budget.languages, budget.words
V = LANGUAGES + 2 * WORDS  # languages, words, translations
generator = torch.Generator().manual_seed(1)
translations = torch.stack([torch.randperm(WORDS, generator=generator) for _ in range(LANGUAGES)])  # (languages, words)
language, word = torch.cartesian_prod(torch.arange(LANGUAGES), torch.arange(WORDS)).T
SENTENCES = torch.stack(
    [language, LANGUAGES + word, LANGUAGES + WORDS + translations[language, word]], 1
)  # all there are
ENTROPY = math.log(WORDS)


def loss_of(model, sentences):
    """Negative log-likelihood of word and translation given the language, nats a sentence: the mean over sentences."""
    logprobs = model(sentences[:, :-1]).log_softmax(-1)  # (n, 2, V): position t predicts token t + 1
    return -logprobs.gather(-1, sentences[:, 1:, None]).sum((1, 2)).mean()


def shown(sentence):
    return f"language {sentence[0] + 1}: word {sentence[1] - LANGUAGES + 1} is {sentence[2] - LANGUAGES - WORDS + 1}"


print(
    f"{len(SENTENCES):,} sentences, such as {shown(SENTENCES[WORDS + 6])!r}; vocabulary {V}; entropy {ENTROPY:.3f} nats a sentence"
)

# %% [markdown]
# **Maximum likelihood by counting.** For a table of conditional probabilities the likelihood is largest where each one is the relative
# frequency. A table that sees one token back (a bigram) cannot know the language when it must give the translation. A table that sees both is
# perfect, and has a cell for every sentence.

# %%
counts = torch.zeros(WORDS, WORDS, dtype=torch.float64)
counts.index_put_((word, translations[language, word]), torch.ones(len(word), dtype=torch.float64), accumulate=True)
frequencies = counts / counts.sum(1, keepdim=True)  # p(translation | word), by counting
bigram_kl = -frequencies[word, translations[language, word]].log().mean().item()
tilted = frequencies.clone()
tilted[0] = 0.9 * tilted[0] + 0.1 / WORDS  # any other table is less likely
tilted_kl = -tilted[word, translations[language, word]].log().mean().item()
print(
    f"bigram table: KL {bigram_kl:.3f} nats; with one row moved away from the frequencies: {tilted_kl:.3f}; table of both tokens: 0"
)

# %% [markdown]
# ## Dense or mixed, equally expensive
#
# The decoder of the library: two blocks, width 32. Only the MLP is exchanged. The **dense** one is 32 wide. The **mixture** has 16 experts of
# width 16, of which a token uses 2: the same number of active parameters, plus the router. Its twin with *all* parameters active is the **big** dense
# one, 256 wide.
#
# Three ways to keep experts busy: none; the auxiliary loss of Switch; the bias of DeepSeek-V3, on the same softmax scores, so that balancing alone
# differs (DeepSeek-V3 itself scores by a sigmoid: one run more). And two more shapes: half as wide and twice as many (**fine**), and one expert of two
# for everybody (**shared**).

# %%
WIDE, EXPERTS, CHOSEN = 32, 16, 2
KINDS = {
    "dense": None,
    "big": None,
    "unbalanced": {},
    "auxiliary loss": {},
    "bias": {},
    "sigmoid + bias": {"scores": "sigmoid"},
    "fine": {"num_experts": 2 * EXPERTS, "top_k": 2 * CHOSEN, "intermediate_size": WIDE // CHOSEN // 2},
    "shared": {"num_experts": EXPERTS - 1, "top_k": 1, "shared": 1, "normalize": False},
    "strong loss": {},
    "lost router": {"num_experts": EXPERTS // CHOSEN, "top_k": 1, "intermediate_size": WIDE},
    "one expert": {"num_experts": EXPERTS // CHOSEN, "top_k": 1, "intermediate_size": WIDE, "normalize": False},
}
ALPHA = {
    "auxiliary loss": 0.01,
    "fine": 0.01,
    "shared": 0.01,
    "strong loss": 1.0,
    "lost router": 0.01,
    "one expert": 0.01,
}
SPEED = 0.003  # of the bias, a step


def build(kind, seed):
    torch.manual_seed(seed)
    inner = {"dense": WIDE, "big": WIDE * EXPERTS // CHOSEN}.get(kind, 1)
    config = Config(
        vocab_size=V, hidden_size=32, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    model = Transformer(config)
    if KINDS[kind] is not None:
        shape = {"intermediate_size": WIDE // CHOSEN, "num_experts": EXPERTS, "top_k": CHOSEN} | KINDS[kind]
        for block in model.layers:
            block.mlp = MoE(32, std=0.15, **shape)
    return model.initialize(0.15)


def active(model):
    """Parameters that one token passes."""
    total = sum(p.numel() for p in model.parameters())
    for block in model.layers:
        if isinstance(block.mlp, MoE):
            inside = sum(p.numel() for p in block.mlp.experts.parameters())
            total -= inside - inside * block.mlp.top_k // len(block.mlp.bias)
    return total


def train(kind, seed, steps, rate=1e-2):
    """AdamW for so many steps; the KL from the world and the largest load of an expert along the way."""
    model = build(kind, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    draw = torch.Generator().manual_seed(seed)
    kls, loads, seconds = [], [], []
    for step in range(steps):
        began = time.perf_counter()
        warm = min(1.0, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = rate * warm
        loss = loss_of(model, SENTENCES[torch.randint(len(SENTENCES), (budget.batch,), generator=draw)])
        mixed = [block.mlp for block in model.layers if isinstance(block.mlp, MoE)]
        extra = ALPHA.get(kind, 0.0) * sum(moe.balance_loss() for moe in mixed) if kind in ALPHA else 0.0
        optimizer.zero_grad()
        (loss + extra).backward()
        optimizer.step()
        if "bias" in kind:
            for moe in mixed:
                moe.rebalance(SPEED)
        kls.append(loss.item() - ENTROPY)
        loads.append(torch.stack([moe.load() * len(moe.bias) for moe in mixed]) if mixed else None)
        seconds.append(time.perf_counter() - began)
    return model, kls, loads, float(np.median(seconds))


SEVERAL = ("dense", "unbalanced", "auxiliary loss", "bias")
plan = [(kind, seed) for kind in SEVERAL for seed in range(budget.seeds)] + [
    (kind, 0) for kind in KINDS if kind not in SEVERAL
]
trained = {}
curve = run.curve(
    "KL from the world", "step", "nats a sentence", {"dense": "reference", "auxiliary loss": "policy"}, log=True
)
for kind, seed in run.progress(plan, "training", curve=curve):
    trained[kind, seed] = train(kind, seed, budget.steps)
    if seed == 0 and kind in ("dense", "auxiliary loss"):
        for step in range(0, budget.steps, max(1, budget.steps // 60)):
            curve.add(kind, step, max(1e-3, float(np.mean(trained[kind, seed][1][step : step + 5]))))


# %%
@torch.no_grad()
def judged(model):
    """KL over all sentences, in nats, and the share of right translations."""
    logits = model(SENTENCES[:, :-1])
    return loss_of(model, SENTENCES).item() - ENTROPY, (
        logits[:, -1].argmax(-1) == SENTENCES[:, -1]
    ).float().mean().item()


@torch.no_grad()
def busiest(model):
    """The largest load of an expert over all sentences, in even shares, and how many experts get under a tenth of one."""
    model(SENTENCES[:, :-1])
    loads = torch.stack([block.mlp.load() * len(block.mlp.bias) for block in model.layers])
    return loads.max().item(), int((loads < 0.1).sum())


final = {key: judged(model) for key, (model, *_) in trained.items()}
use = {key: busiest(model) for key, (model, *_) in trained.items() if KINDS[key[0]] is not None}


def mean(kind, what):
    return float(np.mean([final[key][what] for key in final if key[0] == kind]))


rows = []
for kind in KINDS:
    seeds = [key for key in final if key[0] == kind]
    kls = [final[key][0] for key in seeds]
    span = f"{np.mean(kls):.3f}" + (f" ({min(kls):.3f} to {max(kls):.3f})" if len(kls) > 1 else "")
    model = trained[kind, 0][0]
    most = f"{np.mean([use[key][0] for key in seeds]):.1f}" if KINDS[kind] is not None else "–"
    rows.append(
        [
            kind,
            f"{sum(p.numel() for p in model.parameters()):,}",
            f"{active(model):,}",
            span,
            f"{mean(kind, 1):.1%}",
            most,
            f"{1000 * np.median([trained[key][3] for key in seeds]):.0f} ms",
        ]
    )
run.table(
    rows, ["network", "stored", "active", "KL from the world, nats", "translations right", "busiest expert, even shares", "a step"],
    caption=f"After {budget.steps} steps; where there are several seeds: mean and range", mark=("auxiliary loss",),
)  # fmt: skip


# %%
def smooth(values, width=10):
    return np.convolve(values, np.ones(width) / width, mode="valid")


fig = go.Figure()
for kind, role, dash in (
    ("dense", "reference", "solid"),
    ("unbalanced", "rejected", "dot"),
    ("auxiliary loss", "policy", "solid"),
    ("bias", "prompt", "dash"),
):
    runs = np.stack([smooth(trained[kind, seed][1]) for seed in range(budget.seeds)])[:, :: max(1, budget.steps // 100)]
    band(fig, np.arange(runs.shape[1]) * max(1, budget.steps // 100), np.maximum(runs, 1e-3), kind, role, dash)
big = smooth(trained["big", 0][1])[:: max(1, budget.steps // 100)]
fig.add_scatter(
    x=np.arange(len(big)) * max(1, budget.steps // 100),
    y=np.maximum(big, 1e-3).astype(np.float32),
    name="big",
    line={"color": palette.MIDDLE["value"], "dash": "dashdot"},
)
fig.update_layout(
    title="Equal active parameters: dense against mixtures",
    xaxis_title="step",
    yaxis_title="KL from the world, nats",
    yaxis_type="log",
)
run.figure(
    fig,
    "KL divergence against training steps, logarithmic: the dense network stays far above the mixtures, the big dense one is lowest.",
)

# %% [markdown]
# The mixture holds what the dense network of the same cost cannot. The big dense network is better still: it has all the parameters at work for every
# token, and pays for them. Note the last column: at this size a step of a mixture takes *longer* than one of the small dense network, since sorting and
# many small products stand in for one large one. What experts save shows where experts are large.
#
# ## The chain rule, checked over every string there is
#
# A model that multiplies conditional probabilities is a probability over *all* strings, sensible or not, with no normalizing constant to compute. Sum it:
# for a language, over all $V^2$ continuations.

# %%
model = trained["auxiliary loss", 0][0]
with torch.no_grad():
    first = model(torch.arange(LANGUAGES)[:, None])[:, 0].softmax(-1)  # (languages, V): p(second token)
    total, on_the_dictionary = 0.0, 0.0
    for k in range(min(LANGUAGES, 4)):
        pairs = torch.stack([torch.full((V,), k), torch.arange(V)], 1)
        second = model(pairs)[:, -1].softmax(-1)  # (V, V): p(third token | second)
        joint = first[k, :, None] * second  # (V, V), all continuations of language k
        total = joint.sum().item()
        rows_of = SENTENCES[SENTENCES[:, 0] == k]
        on_the_dictionary += joint[rows_of[:, 1], rows_of[:, 2]].sum().item() / min(LANGUAGES, 4)
print(f"sum over all {V * V:,} continuations: {total:.6f}; on the {WORDS} that the world has: {on_the_dictionary:.4f}")

# %% [markdown]
# ## Who uses which expert
#
# The router was never told what a language is. Will experts divide the world by language, the largest cut that there is? Count, at the second
# position (the state that must give the translation), which languages and which words go to each expert. The **mutual information** says how
# many nats the expert tells about the language, and how many about the word.


# %%
def use_of_experts(model, layer):
    """(E, languages) and (E, words): the share of a column's choices that each expert gets, at the second position."""
    with torch.no_grad():
        model(SENTENCES[:, :-1])
    moe = model.layers[layer].mlp
    chosen = moe.routing.experts.view(len(SENTENCES), 2, -1)[:, 1]  # (n, k)
    tables = []
    for column, size in ((SENTENCES[:, 0], LANGUAGES), (SENTENCES[:, 1] - LANGUAGES, WORDS)):
        table = torch.zeros(len(moe.bias), size)
        table.index_put_(
            (chosen.reshape(-1), column.repeat_interleave(chosen.shape[1])), torch.ones(chosen.numel()), accumulate=True
        )
        tables.append(table / table.sum(0))
    return tables


def told(table):
    """Mutual information between column and expert, in nats, all columns equally likely."""
    marginal = table.mean(1, keepdim=True)
    return torch.xlogy(table, table / marginal.clamp_min(1e-12)).sum(0).mean().item()


informed = {}  # layer -> nats about the language and about the word, (seeds, 2)
for layer in (0, 1):
    informed[layer] = np.array(
        [
            [told(table) for table in use_of_experts(trained["auxiliary loss", seed][0], layer)]
            for seed in range(budget.seeds)
        ]
    )
    about = informed[layer].mean(0)
    print(
        f"layer {layer + 1}: the expert tells {about[0]:.2f} nats about the language, {about[1]:.2f} about the word (at most {math.log(EXPERTS):.2f})"
    )

_, by_word = use_of_experts(trained["auxiliary loss", 0][0], 0)
order = by_word.argmax(0).argsort(stable=True)
fig = go.Figure(go.Heatmap(
    z=by_word[:, order].numpy().astype(np.float32), x=[f"{k + 1}" for k in order.tolist()], y=[f"{e + 1}" for e in range(EXPERTS)],
    colorscale=[[0, "rgba(128,138,154,0.08)"], [1, palette.MIDDLE["policy"]]], zmin=0, zmax=0.5, showscale=False,
    hovertemplate="word %{x}, expert %{y}: %{z:.0%}<extra></extra>",
))  # fmt: skip
fig.update_layout(
    title="Experts of layer 1, by word", xaxis_title="word, sorted by its most used expert", yaxis_title="expert",
    xaxis={"type": "category", "tickfont": {"size": 9}}, yaxis={"type": "category"}, hovermode="closest",
)  # fmt: skip
run.figure(
    fig, "A table of experts and words. Each word uses a few experts, whatever the language: dark cells form steps."
)

# %% [markdown]
# They do not divide it by language. They go by the **word**, the token that stands there: the state of a token still holds mostly that token, and a
# router is a linear look at the state. Mixtral's authors found the same on real text: experts follow surface and syntax more than subject.
#
# ## Balance
#
# The load of the busiest expert over training, in even shares (1 is perfect). Without any balancing some experts get several times their share. On one
# processor that costs nothing. On many, where each expert sits on its own device, everybody waits for the busiest.

# %%
fig = go.Figure()
for kind, role, dash in (
    ("unbalanced", "rejected", "dot"),
    ("auxiliary loss", "policy", "solid"),
    ("bias", "prompt", "dash"),
):
    runs = np.stack([smooth([float(load.max()) for load in trained[kind, seed][2]]) for seed in range(budget.seeds)])[
        :, :: max(1, budget.steps // 100)
    ]
    band(fig, np.arange(runs.shape[1]) * max(1, budget.steps // 100), runs, kind, role, dash)
fig.update_layout(
    title="Load of the busiest expert", xaxis_title="step", yaxis_title="even shares", yaxis_rangemode="tozero"
)
run.figure(
    fig,
    "The busiest expert's load against steps: highest without balancing, lower with the auxiliary loss and with the bias.",
)

# %% [markdown]
# **Capacity.** Give each expert a fixed number of places: its even share times a capacity factor. A choice that finds no room is dropped; a token
# that loses both of its choices skips the layer. The same
# trained networks, the same sentences, 256 at a time:


# %%
@torch.no_grad()
def limited(model, factor):
    """Share of choices dropped, and of translations right, where experts have room for `factor` even shares."""
    dropped, right = [], []
    for block in model.layers:
        block.mlp.capacity_factor = factor
    shuffled = SENTENCES[torch.randperm(len(SENTENCES), generator=torch.Generator().manual_seed(2))]
    for part in shuffled.split(256):
        right.append((model(part[:, :-1])[:, -1].argmax(-1) == part[:, -1]).float().mean())
        dropped += [(~block.mlp.kept).float().mean() for block in model.layers]
    for block in model.layers:
        block.mlp.capacity_factor = None
    return torch.stack(dropped).mean().item(), torch.stack(right).mean().item()


FACTORS = (1.0, 1.25, 2.0)
room = {
    (kind, factor): np.mean([limited(trained[kind, seed][0], factor) for seed in range(budget.seeds)], axis=0)
    for kind in ("unbalanced", "auxiliary loss", "bias")
    for factor in FACTORS
}
rows = [
    [
        kind,
        *(f"{room[kind, factor][0]:.1%} dropped, {room[kind, factor][1]:.1%} right" for factor in FACTORS),
        f"{mean(kind, 1):.1%} right",
    ]
    for kind in ("unbalanced", "auxiliary loss", "bias")
]
run.table(
    rows,
    ["network", *(f"capacity {factor:g}" for factor in FACTORS), "no limit"],
    caption="What a limit drops, and what it costs",
)
places = capacity(512, EXPERTS, CHOSEN, 1.25)
print(
    f"256 sentences are 512 tokens and 1,024 choices for 16 experts: 64 each; with capacity factor 1.25, {places} places"
)

# %% [markdown]
# ## A router that learns nothing
#
# Use one expert a token, and divide its weight by the sum of the kept weights, as one does with two. The sum has one term. The weight is 1, always; no
# gradient of the loss reaches the router. (Only the balance loss moves it.) No error, no warning. Switch multiplies by the probability itself.

# %%
silent = {}
for kind in ("lost router", "one expert"):
    model = build(kind, 0)
    loss_of(model, SENTENCES).backward()
    silent[kind] = max(block.mlp.gate.weight.grad.abs().max().item() for block in model.layers)
    print(
        f"{kind:12s} largest gradient of a router weight {silent[kind]:.1e}; KL after training {final[kind, 0][0]:.3f} nats, translations right {final[kind, 0][1]:.1%}"
    )

# %% [markdown]
# And a balance loss with coefficient 1 instead of 0.01, evenness above all? It is said to harm the task, and in large models it does. Compare the KL of the
# strong loss in the table above with the range over seeds: in a world this small no harm shows.
#
# ## As at work
#
# transformers has Mixtral. The same sizes, data and steps; `output_router_logits=True` adds the balance loss to the model's own.

# %%
from transformers import MixtralForCausalLM

compute.seed(0)
peer = MixtralForCausalLM(MixtralConfig(
    vocab_size=V, hidden_size=32, intermediate_size=WIDE // CHOSEN, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN, output_router_logits=True, router_aux_loss_coef=0.01, initializer_range=0.15,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
))  # fmt: skip
optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=budget.peer_steps, pct_start=0.1)
began = time.perf_counter()
for step in run.progress(budget.peer_steps, "Mixtral of transformers"):
    batch = SENTENCES[torch.randint(len(SENTENCES), (budget.batch,))]
    loss = peer(input_ids=batch, labels=batch).loss  # shifts by itself; the balance loss is in it
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
peer_ms = 1000 * (time.perf_counter() - began) / budget.peer_steps
with torch.no_grad():
    peer_logits = peer(input_ids=SENTENCES, output_router_logits=False).logits
    peer_kl = (
        -peer_logits[:, :-1].log_softmax(-1).gather(-1, SENTENCES[:, 1:, None]).sum((1, 2)).mean().item() - ENTROPY
    )
    peer_right = (peer_logits[:, 1].argmax(-1) == SENTENCES[:, 2]).float().mean().item()
print(f"Mixtral: KL {peer_kl:.3f} nats, translations right {peer_right:.1%}, {peer_ms:.0f} ms a step")

# %% [markdown]
# ## What the lab found

# %%
gain = mean("dense", 0) / mean("auxiliary loss", 0)
for name, value, form in (
    ("library_gap", library_gap, ".0e"), ("peer_gap", peer_gap, ".0e"), ("upcycle_gap", upcycle_gap, ".0e"),
    ("upcycle_kl_who", upcycle_kl["Who are you?"], ".3f"), ("upcycle_kl_sum", upcycle_kl["What is 17 + 25?"], ".3f"),
    ("mixtral_stored", mixtral_stored, ".1f"), ("mixtral_active", mixtral_active, ".1f"), ("v3_share", stored_share["DeepSeek-V3"], ".1%"),
    ("languages", LANGUAGES, "d"), ("words", WORDS, "d"), ("sentences", len(SENTENCES), ",d"), ("entropy", ENTROPY, ".3f"), ("bigram_kl", bigram_kl, ".2f"),
    ("strings", V * V, ",d"), ("strings_total", total, ".6f"), ("on_the_dictionary", on_the_dictionary, ".1%"),
    ("stored_dense", sum(p.numel() for p in trained["dense", 0][0].parameters()), ",d"), ("stored_moe", sum(p.numel() for p in trained["bias", 0][0].parameters()), ",d"),
    ("active_moe", active(trained["bias", 0][0]), ",d"), ("steps", budget.steps, "d"), ("seeds", budget.seeds, "d"),
    ("language_told_1", informed[0].mean(0)[0], ".2f"), ("word_told_1", informed[0].mean(0)[1], ".2f"), ("most_told", math.log(EXPERTS), ".2f"),
    ("language_told_2", informed[1].mean(0)[0], ".2f"), ("word_told_2", informed[1].mean(0)[1], ".2f"),
    ("silent", silent["lost router"], ".0e"), ("heard", silent["one expert"], ".0e"),
    ("peer_kl", peer_kl, ".3f"), ("peer_right", peer_right, ".1%"), ("gain", gain, ".0f"),
):  # fmt: skip
    run.result(name, value, format=form)
for kind, key in {
    "dense": "dense",
    "big": "big",
    "unbalanced": "unbalanced",
    "auxiliary loss": "loss",
    "bias": "bias",
    "sigmoid + bias": "sigmoid",
    "fine": "fine",
    "shared": "shared",
    "strong loss": "strong",
    "lost router": "lost",
    "one expert": "one",
}.items():
    run.result(f"kl_{key}", mean(kind, 0), format=".3f")
    run.result(f"right_{key}", mean(kind, 1), format=".1%")
    run.result(f"ms_{key}", 1000 * np.median([trained[k][3] for k in trained if k[0] == kind]), format=".0f")
    if KINDS[kind] is not None:
        run.result(f"busiest_{key}", float(np.mean([use[k][0] for k in use if k[0] == kind])), format=".1f")
for kind, key in {"unbalanced": "unbalanced", "auxiliary loss": "loss", "bias": "bias"}.items():
    run.result(
        f"kl_range_{key}",
        None,
        text=f"{min(final[k][0] for k in final if k[0] == kind):.3f} to {max(final[k][0] for k in final if k[0] == kind):.3f}",
    )
    run.result(f"dropped_{key}", room[kind, 1.25][0], format=".1%")
    run.result(f"right_limited_{key}", room[kind, 1.25][1], format=".1%")

# %%
run.claim("loop, library and transformers' Mixtral agree", max(library_gap, peer_gap, loss_gap) < 1e-5)
run.claim("a mixture of copies is the MLP where weights sum to 1", upcycle_gap < 1e-3)
run.claim("and not where they do not", min(upcycle_kl.values()) > 1e-3)
run.claim("any table but the frequencies is less likely", tilted_kl > bigram_kl)
run.claim("the model's probabilities of all continuations sum to 1", abs(total - 1) < 1e-4)
run.claim(
    "with equal active parameters the mixtures are nearer to the world in every seed",
    max(final[k][0] for k in final if k[0] in ("unbalanced", "auxiliary loss", "bias"))
    < min(final[k][0] for k in final if k[0] == "dense"),
)
run.claim("with all parameters active the dense network is at least as good", final["big", 0][0] < mean("dense", 0))
run.claim(
    "loss and bias lower the load of the busiest expert",
    max(np.mean([use[k][0] for k in use if k[0] == kind]) for kind in ("auxiliary loss", "bias"))
    < np.mean([use[k][0] for k in use if k[0] == "unbalanced"]),
)
run.claim(
    "with a limit the balanced networks drop fewer tokens",
    max(room["auxiliary loss", 1.25][0], room["bias", 1.25][0]) < room["unbalanced", 1.25][0],
)
run.claim(
    "experts follow the word more than the language, in both layers and every seed",
    all((table[:, 1] > table[:, 0]).all() for table in informed.values()),
)
run.claim(
    "one expert with a normalized weight sends its router no gradient",
    silent["lost router"] < 1e-6 < silent["one expert"],
)
run.claim(
    "the router that learns nothing ends farther from the world", final["lost router", 0][0] > final["one expert", 0][0]
)
run.claim("transformers' Mixtral ends near our mixture", peer_kl < min(final[k][0] for k in final if k[0] == "dense"))
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. Weights of the chosen** (★, 4 minutes). From router logits the $k$ chosen experts, best first, and their weights, which sum to 1.


# %%
def my_top_weights(logits, k):  # logits (n, E) -> experts (n, k), weights (n, k)
    ...


check("mixture_of_experts.top_weights", my_top_weights)

# %% [markdown]
# **2. The mixture** (★, 5 minutes). Each expert is a matrix. The weighted sum of what a token's experts make of it, in a plain loop.


# %%
def my_mixture(tokens, matrices, experts, weights):  # (n, d), (E, d, d), (n, k), (n, k) -> (n, d)
    ...


check("mixture_of_experts.mixture", my_mixture)

# %% [markdown]
# **3. The balance loss** (★★, 6 minutes). $E\sum_if_iP_i$ from router logits and the chosen experts, one a token.


# %%
def my_balance_loss(logits, experts):  # logits (n, E), experts (n,) -> a number
    ...


check("mixture_of_experts.balance_loss", my_balance_loss)

# %% [markdown]
# **4. Who finds room** (★★, 6 minutes). Tokens choose one expert each and come in order; an expert takes `limit` of them.


# %%
def my_kept(experts, limit):  # experts (n,) -> booleans (n,)
    ...


check("mixture_of_experts.kept", my_kept)

# %% [markdown]
# **5. Stored and active** (★★, 5 minutes). The parameters of one layer: SwiGLU experts, shared ones, and a router without bias.


# %%
def my_sizes(d, width, routed, active, shared):  # five whole numbers -> (stored, active)
    ...


check("mixture_of_experts.sizes", my_sizes)
