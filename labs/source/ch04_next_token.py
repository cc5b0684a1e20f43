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
# # The next token: from logits to a distribution
#
# A language model does not write. It gives one number to every token of its vocabulary, and something else chooses.
# Here you take the 49,152 numbers of a real model, build the five operations that nearly every serving system
# applies to them, check them against two libraries, and measure what each one buys and costs.
#
# - **You will** build repetition penalty, temperature, top-k, top-p and min-p in a few lines each; see how many
#   tokens each leaves; sample real continuations; find out where decoding cannot help.
# - **Time:** about 3 minutes on a CPU with two cores, less on a GPU.
#
# **Sections:** 4.3.1, 4.3.4

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
# ## A model and twelve prompts
#
# SmolLM2-135M-Instruct has 135 million parameters. Two of the prompts run through the whole book, *"Who are you?"*
# and *"What is 17 + 25?"*; the model reads them in its chat format. The others are plain text, chosen for the shape
# of what comes next: nearly certain, torn between two tokens, open, or stuck in a repetition.

# %%
import math
from itertools import pairwise

import plotly.graph_objects as go
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignlab import decoding, explorers, lab, models, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.explorers import tiny_weights
from alignlab.explorers.columns import next_token_columns
from alignlab.tasks import arithmetic

run = lab.Lab("ch04_next_token")
budget = run.budget(
    full={"seeds": 3, "samples": 3, "new_tokens": 20, "operands": 9, "trials": 400, "sums": 300},
    quick={"seeds": 2, "samples": 1, "new_tokens": 4, "operands": 3, "trials": 20, "sums": 30},
)
model, tokenizer = models.load("small")
device = next(model.parameters()).device
print(
    f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters, {len(tokenizer):,} tokens, on {device}"
)


# %%
def asked(question: str, begun: str = "") -> str:
    """A question in chat format, and the beginning of the model's answer, if it has begun."""
    return text.chat(tokenizer, question) + begun


PROMPTS = [  # name, shape, title, what the model reads
    ("who", "Running examples", "Who are you?", asked("Who are you?")),
    ("sum", "Running examples", "What is 17 + 25?", asked("What is 17 + 25?")),
    ("digit", "Running examples", "What is 17 + 25? Answer begun: 17 + 25 =", asked("What is 17 + 25?", "17 + 25 = ")),
    ("capital", "Nearly sure", "The capital of France is", "The capital of France is"),
    ("poem", "Torn between two", "Write a poem about the sea.", asked("Write a poem about the sea.")),
    ("code", "Torn between two", "def fibonacci(n): ... return", "def fibonacci(n):\n    if n <= 1:\n        return"),
    ("box", "Open", "She opened the box and inside was a", "She opened the box and inside was a"),
    ("colour", "Open", "My favorite color is", "My favorite color is"),
    ("baby", "Open", "The baby is a", "The baby is a"),
    (
        "times",
        "Open",
        "It was the best of times ...",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of",
    ),
    (
        "cat",
        "Repeating",
        "The cat sat on the mat. The cat ...",
        "The cat sat on the mat. The cat sat on the mat. The cat sat on the",
    ),
    ("count", "Repeating", "one, two, three, one, two, ...", "one, two, three, one, two, three, one, two,"),
]


@torch.inference_mode()
def next_token_logits(prompt: str) -> tuple[list[int], Tensor]:
    """Token ids (T,) of a prompt, and the logits (V,) of the token that comes next, in float64."""
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    return ids, model(torch.tensor([ids], device=device)).logits[0, -1].double().cpu()


contexts: dict[str, list[int]] = {}
logits: dict[str, Tensor] = {}
for name, _, _, prompt in run.progress(PROMPTS, "reading twelve prompts"):
    contexts[name], logits[name] = next_token_logits(prompt)

# %% [markdown]
# ## What the model gives
#
# Softmax turns logits $z$ into probabilities $p_i = e^{z_i} / \sum_j e^{z_j}$. Entropy $H = -\sum_i p_i \ln p_i$
# (nats) says how undecided the model is, and $e^H$ says it as a number of tokens: a distribution with $e^H = 30$ is
# as undecided as a fair choice among 30.


# %%
def entropy(logits: Tensor) -> float:
    """Entropy in nats of softmax(logits), where cut tokens (-inf) count nothing."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).nansum(-1).item()


def shown(token_id: int) -> str:
    """A token with its spaces and line breaks made visible."""
    return tokenizer.decode([token_id]).replace(" ", "·").replace("\n", "↵")


rows = []
for name, shape, title, _ in PROMPTS:
    best = logits[name].softmax(-1).topk(3)
    likeliest = ", ".join(
        f"{shown(i)} {p:.1%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    rows.append((shape, title, likeliest, f"{entropy(logits[name]):.2f}", f"{math.exp(entropy(logits[name])):,.1f}"))
run.table(rows, ("Shape", "Prompt", "Likeliest next tokens", "Entropy (nats)", "Effective tokens"))

# %% [markdown]
# Look at the third row. After `17 + 25 = ` the model is all but certain, and wrong: the answer is 42. Keep that row
# in mind when you come to the end.
#
# ## Five operations, in the open
#
# Each takes logits of shape (B, V) and gives logits of the same shape. A truncation sets what it cuts to $-\infty$;
# the softmax that follows spreads the lost mass over what is left.


# %%
def repetition_penalty(logits: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Press down each token that has occurred: a positive logit is divided, a negative one multiplied."""
    seen = logits.gather(-1, seen_ids)
    return logits.scatter(-1, seen_ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def temperature(logits: Tensor, t: float) -> Tensor:
    """p_i proportional to exp(z_i / t)."""
    return logits / t


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens."""
    kth = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens that holds at least p: the token that crosses p stays."""
    probs, order = logits.softmax(-1).sort(descending=True)
    mass_above = probs.cumsum(-1) - probs
    return logits.masked_fill((mass_above >= p).scatter(-1, order, mass_above >= p), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest."""
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)


def distribution(logits: Tensor, seen_ids: Tensor, s: Sampling) -> Tensor:
    """All five, in the order in which transformers' generate applies them. (B, V) -> probabilities (B, V)."""
    logits = repetition_penalty(logits, seen_ids, s.repetition_penalty)
    logits = temperature(logits, s.temperature)
    logits = top_k(logits, s.top_k) if s.top_k else logits
    logits = top_p(logits, s.top_p) if s.top_p < 1 else logits
    logits = min_p(logits, s.min_p) if s.min_p > 0 else logits
    return logits.softmax(-1)


# %% [markdown]
# ### Do they agree with the libraries?
#
# The same logits through three implementations: ours, `alignlab.decoding`, and the processors of transformers.

# %%
SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=1.7, top_k=40),
    Sampling(top_p=0.9),
    Sampling(temperature=1.5, min_p=0.1),
    Sampling(repetition_penalty=1.3, top_k=50),
    Sampling(temperature=0.7, top_k=100, top_p=0.8, min_p=0.05, repetition_penalty=1.1),
]


def transformers_distribution(logits: Tensor, seen_ids: Tensor, s: Sampling) -> Tensor:
    """The same by the processors that transformers' generate is made of."""
    steps = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(s.repetition_penalty), TemperatureLogitsWarper(s.temperature)]
    )
    steps += [TopKLogitsWarper(s.top_k)] if s.top_k else []
    steps += [TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    steps += [MinPLogitsWarper(s.min_p)] if s.min_p > 0 else []
    return steps(seen_ids, logits).softmax(-1)


gap_library = gap_transformers = 0.0
for name, z in logits.items():
    seen_ids = torch.tensor([contexts[name]])
    for setting in SETTINGS:
        ours = distribution(z[None], seen_ids, setting)
        library = setting.apply(z[None], seen_ids).softmax(-1)
        peer = transformers_distribution(z[None], seen_ids, setting)
        gap_library = max(gap_library, (ours - library).abs().max().item())
        gap_transformers = max(gap_transformers, (ours - peer).abs().max().item())
print(f"largest difference of a probability: {gap_library:.1e} to alignlab, {gap_transformers:.1e} to transformers")

# %% [markdown]
# ## How many tokens does each rule leave?
#
# Top-k keeps the same number whatever the model thinks. Top-p and min-p follow it: few tokens where it is sure,
# many where it is not.

# %%
RULES = {
    "top-k 50": Sampling(top_k=50),
    "top-p 0.9": Sampling(top_p=0.9),
    "min-p 0.1": Sampling(min_p=0.1),
    "T 2, top-p 0.9": Sampling(temperature=2.0, top_p=0.9),
    "T 2, min-p 0.1": Sampling(temperature=2.0, min_p=0.1),
}


def kept(name: str, setting: Sampling) -> int:
    """How many tokens can still be drawn after the prompt of that name."""
    return int((distribution(logits[name][None], torch.tensor([contexts[name]]), setting) > 0).sum())


run.table(
    [(title, *(f"{kept(name, setting):,}" for setting in RULES.values())) for name, _, title, _ in PROMPTS],
    ("Prompt", *RULES),
    caption="Tokens left, of 49,152",
)
nucleus = {name: kept(name, RULES["top-p 0.9"]) for name in logits}
hot_nucleus, hot_min_p = kept("box", RULES["T 2, top-p 0.9"]), kept("box", RULES["T 2, min-p 0.1"])

# %% [markdown]
# The last two columns show why min-p was proposed. At temperature 2 the tail holds so much mass that a nucleus of
# 90% takes in thousands of tokens. Min-p compares each token with the likeliest one, and a temperature of 2 turns a
# ratio of 0.01 into 0.1, no more.
#
# ### The order matters
#
# Temperature before top-p: the nucleus is taken from the flattened distribution. Temperature after top-p: from the
# model's own. The same two numbers, two different samplers.

# %%
z = logits["box"][None]
before = int((top_p(temperature(z, 2.0), 0.9) > -torch.inf).sum())
after = int((temperature(top_p(z, 0.9), 2.0) > -torch.inf).sum())
print(
    f"temperature 2, then top-p 0.9 (transformers): {before:,} tokens; top-p 0.9, then temperature 2: {after:,} tokens"
)

# %% [markdown]
# ## Move the controls yourself
#
# The figure below holds the numbers computed above. Its order of operations is the one that you built.

# %%
prompts = [
    {
        "name": name,
        "group": shape,
        "title": title,
        "context": [tokenizer.decode([i]) for i in contexts[name]],
        **(columns := next_token_columns(logits[name], contexts[name])),
        "text": [tokenizer.decode([i]) for i in columns["id"]],
    }
    for name, shape, title, _ in PROMPTS
]
run.explorer(
    "decoding",
    {
        "model": "SmolLM2-135M-Instruct",
        "vocabulary": len(logits["who"]),
        "start": {"prompt": "times", "temperature": 0.8, "minP": 0.2, "seed": 1},
        "try": "Take min-p off and pull the temperature up: the other tokens swallow the choice. Bring min-p back.",
        "prompts": prompts,
    },
    digits=7,
)

# %% [markdown]
# ## What comes out
#
# One token at a time is hard to judge, so here are whole continuations, all with the same seed.

# %%
STYLES = {
    "greedy": decoding.GREEDY,
    "T 0.7, top-p 0.9": Sampling(temperature=0.7, top_p=0.9),
    "T 1": Sampling(),
    "T 1.5, min-p 0.1": Sampling(temperature=1.5, min_p=0.1),
    "T 2, nothing cut": Sampling(temperature=2.0),
}


def continuations(names: list[str], setting: Sampling, seed: int, samples: int = 1) -> list[list[int]]:
    """Sampled continuations of the prompts of these names, as token ids; the same seed gives the same ones."""
    generator = torch.Generator(device).manual_seed(seed)
    batch = [contexts[name] for name in names for _ in range(samples)]
    answers = decoding.generate(
        model, batch, budget.new_tokens, setting, stop_id=tokenizer.eos_token_id, generator=generator
    )
    return [answer.ids for answer in answers]


rows = []
for style, setting in STYLES.items():
    box, who = continuations(["box", "who"], setting, seed=1)
    rows.append((style, "..." + tokenizer.decode(box), tokenizer.decode(who)))
run.table(rows, ("Setting", "She opened the box and inside was a", "Who are you?"))

# %% [markdown]
# The last row is a failure worth knowing by sight: **temperature 2 with nothing cut** is gibberish. No single token
# is to blame. At every step a token from the far tail can be drawn, and after a few of them the model reads
# nonsense and goes on with it.
#
# ## Measured: variety against sense
#
# Two numbers for each setting, over three seeds. **Distinct-2** is the share of pairs of neighbouring tokens that
# are different from one another, over all samples: variety. **Surprise** is $-\ln p$ per token under the model's own
# distribution at temperature 1: how far the text has strayed from what the model finds likely, in nats.


# %%
def distinct_2(texts: list[list[int]]) -> float:
    """Share of different pairs of neighbouring tokens among all pairs."""
    pairs = [pair for ids in texts for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs)


@torch.inference_mode()
def surprise(names: list[str], texts: list[list[int]]) -> float:
    """Mean -log p (nats) of the sampled tokens under the model at temperature 1."""
    examples = [
        text.Example(contexts[n] + ids, [0] * len(contexts[n]) + [1] * len(ids))
        for n, ids in zip(names, texts, strict=True)
    ]
    batch = text.pad(examples, tokenizer.pad_token_id or 0).to(device)
    logprobs = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1].float().log_softmax(-1)
    chosen = logprobs.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    mask = batch.response_mask[:, 1:]
    return -(chosen * mask).sum().item() / mask.sum().item()


OPEN = ["box", "colour", "baby", "times"]
TEMPERATURES = [0.5, 1.0, 1.5, 2.0]
TRUNCATIONS = {"nothing cut": {}, "min-p 0.1": {"min_p": 0.1}}
measured: dict[tuple[str, float], list[tuple[float, float]]] = {}
grid = [(cut, t, seed) for cut in TRUNCATIONS for t in TEMPERATURES for seed in range(budget.seeds)]
for cut, t, seed in run.progress(grid, "sampling"):
    texts = continuations(OPEN, Sampling(temperature=t, **TRUNCATIONS[cut]), seed, budget.samples)
    repeated = [name for name in OPEN for _ in range(budget.samples)]
    measured.setdefault((cut, t), []).append((distinct_2(texts), surprise(repeated, texts)))


def band(values: list[float]) -> tuple[float, float, float]:
    """Mean, least and greatest over the seeds."""
    return sum(values) / len(values), min(values), max(values)


rows = []
for (cut, t), seeds in measured.items():
    variety, strayed = band([d for d, _ in seeds]), band([s for _, s in seeds])
    rows.append(
        (cut, f"{t:.1f}", "{:.2f} ({:.2f} to {:.2f})".format(*variety), "{:.2f} ({:.2f} to {:.2f})".format(*strayed))
    )
run.table(rows, ("Cut", "Temperature", "Distinct-2", "Surprise (nats a token)"), caption="Mean, and range over seeds")
hot, hot_cut, cool = (
    [s for _, s in measured[key]] for key in (("nothing cut", 2.0), ("min-p 0.1", 2.0), ("nothing cut", 1.0))
)

# %%
fig = go.Figure()
for cut, dash in (("nothing cut", "solid"), ("min-p 0.1", "dot")):
    means = [band([s for _, s in measured[(cut, t)]]) for t in TEMPERATURES]
    fig.add_scatter(
        x=TEMPERATURES,
        y=[m for m, _, _ in means],
        error_y={"array": [high - m for m, _, high in means], "arrayminus": [m - low for m, low, _ in means]},
        name=cut,
        line={"dash": dash},
    )
fig.update_layout(title="How far sampled text strays", xaxis_title="temperature", yaxis_title="surprise (nats a token)")
run.figure(fig, "Surprise per token over temperature: it climbs steeply when nothing is cut and slowly with min-p 0.1.")

# %% [markdown]
# ## Sampling and being right
#
# Variety is no virtue in arithmetic. For sums of one digit each, up to 9, the answer is one token, so we need not
# sample at all: the chance that a sampler at temperature $T$ is right is the probability of the right digit, exactly.


# %%
@torch.inference_mode()
def digit_logits() -> tuple[Tensor, Tensor]:
    """Logits (N, V) after `a + b = ` for all sums up to 9, and the token ids (N,) of the right digits."""
    sums = [(a, b) for a in range(1, budget.operands) for b in range(1, budget.operands) if a + b <= 9]
    ids = [tokenizer.encode(asked(f"What is {a} + {b}?", f"{a} + {b} = "), add_special_tokens=False) for a, b in sums]
    right = torch.tensor([tokenizer.encode(str(a + b))[0] for a, b in sums])
    return model(torch.tensor(ids, device=device)).logits[:, -1].double().cpu(), right


digits, right = digit_logits()
no_context = torch.zeros(len(digits), 0, dtype=torch.long)


def chance_right(setting: Sampling) -> float:
    """Probability that one draw is the right digit, over all sums."""
    return setting.apply(digits, no_context).softmax(-1).gather(1, right[:, None]).mean().item()


greedy_right = (digits.argmax(-1) == right).double().mean().item()
curve = [
    (t, chance_right(Sampling(temperature=t)), chance_right(Sampling(temperature=t, min_p=0.1)))
    for t in (0.2, 0.5, 1.0, 1.5, 2.0)
]
run.table(
    [
        ("0 (greedy)", f"{greedy_right:.1%}", f"{greedy_right:.1%}"),
        *((f"{t:.1f}", f"{a:.1%}", f"{b:.1%}") for t, a, b in curve),
    ],
    ("Temperature", "Right, nothing cut", "Right, min-p 0.1"),
    caption=f"{len(digits)} sums, exact chance of the right digit",
)

# The exact chance, checked by drawing: the share over many draws must lie within its own standard error.
drawn = torch.multinomial(
    digits.softmax(-1), budget.trials, replacement=True, generator=torch.Generator().manual_seed(0)
)
share, exact = (drawn == right[:, None]).double().mean().item(), chance_right(Sampling())
print(f"at temperature 1: {exact:.4f} exactly, {share:.4f} in {drawn.numel():,} draws")

# %% [markdown]
# ### Where no setting helps
#
# Back to 17 + 25. Temperature and truncation never change which of two tokens is the likelier one. Where the model
# prefers the wrong digit, decoding can make the right one a little less rare, never the favourite. To change what the
# model prefers you must change the model (chapters 2, 3, 5 to 8) or what it reads (the rest of this chapter).

# %%
three, four = (tokenizer.encode(digit)[0] for digit in "34")
rows = []
for t in (0.5, 1.0, 1.5, 2.0):
    p = temperature(logits["digit"], t).softmax(-1)
    rows.append((f"{t:.1f}", f"{p[three]:.1%}", f"{p[four]:.1%}"))
run.table(rows, ("Temperature", "3 (wrong)", "4 (right)"), caption="The first digit after 17 + 25 =")
confident = logits["digit"].softmax(-1)

# %% [markdown]
# ## A model small enough for a page
#
# `tiny` has 857,216 parameters and a small world: sums up to 99, a few facts, little scenes. Rounded to int8 it is small enough to run where you read,
# with no kernel. What does the rounding change? The cell takes the very weights that the page computes with, in PyTorch, and asks both models sums
# that neither saw in training.

# %%
plain, letters = models.load("tiny", "cpu")
rounded, _ = models.load("tiny", "cpu")
int8 = tiny_weights.dequantized(tiny_weights.weights())
rounded.load_state_dict({name: torch.from_numpy(value) for name, value in int8.items()}, strict=False)
two_digits = [p for p in arithmetic.problems("held-out") if p.operator == "+" and min(p.left, p.right) > 9]
problems = two_digits[:: max(1, len(two_digits) // budget.sums)][: budget.sums]
questions = [problem.questions[0] for problem in problems]


def share_right(model, setting=decoding.GREEDY):
    """Share of the sums that a model answers rightly."""
    answers = decoding.answer(model, letters, questions, 20, setting, torch.Generator().manual_seed(0))
    return sum(map(arithmetic.correct, problems, answers)) / len(problems)


ids = torch.tensor([text.encode_prompt(letters, question) for question in questions])  # all of one length
with torch.no_grad():
    int8_gap = (plain(ids).logits - rounded(ids).logits).abs().max().item()
int8_before, int8_after = share_right(plain), share_right(rounded)
hot_sums = {
    name: share_right(rounded, Sampling(temperature=2.0, **cut))
    for name, cut in (("plain", {}), ("top_p", {"top_p": 0.9}), ("min_p", {"min_p": 0.1}))
}
print(f"logits move by at most {int8_gap:.2f}; right {int8_before:.1%} before rounding, {int8_after:.1%} after")
print("at temperature 2:", {name: f"{share:.0%}" for name, share in hot_sums.items()})

# %% [markdown]
# Here truncation earns its keep: the model is nearly sure of each digit, and yet at temperature 2 hundreds of unlikely tokens together spoil most
# answers. Cut them, and the sums come back. Try it below, on prompts of your own from its world.

# %%
run.explorer(
    "tiny_live",
    {
        "model": "tiny, 857,216 parameters",
        "prompts": [
            {"title": "Question: 17 + 25", "kind": "chat", "text": "What is 17 + 25?"},
            {"title": "Question: who are you", "kind": "chat", "text": "Who are you?"},
            {"title": "Question: a colour", "kind": "chat", "text": "What colour is the raven?"},
            {"title": "Question it does not know", "kind": "chat", "text": "Where does the zebra live?"},
            {"title": "Text: a scene", "kind": "text", "text": "The old"},
            {"title": "Text: an equation", "kind": "text", "text": "17 + 25 = "},
            {"title": "Text: from nothing", "kind": "text", "text": "The"},
        ],
        "start": {"prompt": 4, "temperature": 1.0, "seed": 1},
    },
)

# %% [markdown]
# ## As one would at work
#
# `model.generate` does all of this in one call. One trap: if you leave `top_k` out and the model's own
# configuration does not set it, transformers cuts to **50 tokens**; pass `top_k=0` to have none. `scores` holds the
# logits after all steps, so we can see it.

# %%
ids = torch.tensor([contexts["box"]], device=device)


def first_scores(**options: float) -> Tensor:
    """Logits (1, V) that generate samples its first token from."""
    torch.manual_seed(1)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=1,
        do_sample=True,
        pad_token_id=tokenizer.eos_token_id,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    return out.scores[0].double().cpu()


silently_kept = int((first_scores() > -torch.inf).sum())
work = first_scores(temperature=0.7, top_k=0, top_p=0.9, repetition_penalty=1.1)
ours = distribution(logits["box"][None], ids.cpu(), Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.1))
gap_work = (work.softmax(-1) - ours).abs().max().item()
print(f"generate() with nothing said keeps {silently_kept} tokens; with our settings it is {gap_work:.1e} from ours")

# %% [markdown]
# ## Results

# %%
run.result("entropy_who", entropy(logits["who"]), format=".2f")
run.result("effective_who", math.exp(entropy(logits["who"])), format=".1f")
run.result("wrong_digit", confident[three], format=".1%")
run.result("right_digit", confident[four], format=".1%")
run.result("nucleus_least", min(nucleus.values()), format=",")
run.result("nucleus_most", max(nucleus.values()), format=",")
run.result("hot_nucleus", hot_nucleus, format=",")
run.result("hot_min_p", hot_min_p, format=",")
run.result("order_before", before, format=",")
run.result("order_after", after, format=",")
run.result("surprise_hot", band(hot)[0], format=".1f")
run.result("surprise_hot_min_p", band(hot_cut)[0], format=".1f")
run.result("surprise_model", band(cool)[0], format=".1f")
run.result("greedy_right", greedy_right, format=".0%")
run.result("sampled_right", exact, format=".0%")
run.result("silently_kept", silently_kept)
run.result("int8_gap", int8_gap, format=".2f")
run.result("int8_right_before", int8_before, format=".1%")
run.result("int8_right_after", int8_after, format=".1%")
run.result("int8_sums", len(problems))
run.result("int8_megabytes", len(explorers.statics("tiny_live")["tiny_weights.js"]) / 1e6, format=".1f")
for name, part in hot_sums.items():
    run.result(f"hot_sum_{name}", part, format=".0%")
run.claim(
    "ours, alignlab's and transformers' probabilities agree to 1e-6", gap_library < 1e-6 and gap_transformers < 1e-6
)
run.claim("generate samples from the distribution that we built, to 1e-4", gap_work < 1e-4)
run.claim(
    "a nucleus of 90% holds from one token to more than a thousand",
    min(nucleus.values()) == 1 and max(nucleus.values()) > 1000,
)
run.claim("at temperature 2, min-p 0.1 leaves under a tenth of what top-p 0.9 leaves", hot_min_p * 10 < hot_nucleus)
run.claim(
    "rounding tiny to int8 moves its share of right sums by at most a point", abs(int8_before - int8_after) <= 0.01
)
run.claim(
    "at temperature 2 a cut brings most sums back",
    hot_sums["plain"] < 0.6 and min(hot_sums["top_p"], hot_sums["min_p"]) > hot_sums["plain"] + 0.2,
)
run.claim("top-p before temperature keeps fewer tokens than after a temperature of 2", after < before)
run.claim(
    "every seed: text at temperature 2 strays further than at 1, and min-p takes back more than half of it",
    min(hot) > max(cool) and max(hot_cut) < min(hot) / 2,
)
run.claim("greedy is right more often than sampling at temperature 1", greedy_right > exact)
run.claim("the drawn share is within 0.01 of the exact chance", abs(share - exact) < 0.01)
run.claim(
    "after 17 + 25 = the model prefers the wrong digit by 10 to 1 or more", confident[three] > 10 * confident[four]
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Temperature** (difficulty 1, 3 minutes). Logits (V,) and a temperature $T > 0$ to probabilities (V,).


# %%
def my_temperature(logits: Tensor, t: float) -> Tensor: ...


check("next_token.temperature", my_temperature)

# %% [markdown]
# **2. Entropy of what is left** (difficulty 2, 5 minutes). Entropy in nats of softmax(logits), where some logits are
# $-\infty$. The answer must be a finite number.


# %%
def my_entropy(logits: Tensor) -> Tensor: ...


check("next_token.entropy", my_entropy)

# %% [markdown]
# **3. Top-p** (difficulty 2, 8 minutes). Cut logits (V,) to the smallest set of likeliest tokens whose probability
# reaches $p$: cut tokens become $-\infty$, the others stay as they are.


# %%
def my_top_p(logits: Tensor, p: float) -> Tensor: ...


check("next_token.top_p", my_top_p)

# %% [markdown]
# **4. Min-p** (difficulty 2, 5 minutes). Keep the tokens of logits (V,) that are at least $p$ times as likely as the
# likeliest one. Can you do it without a softmax?


# %%
def my_min_p(logits: Tensor, p: float) -> Tensor: ...


check("next_token.min_p", my_min_p)
