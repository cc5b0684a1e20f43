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
# # Fast decoding: several tokens for one pass
#
# A model of 135 million parameters reads all of them to write one token, and then again for the next. Here you
# measure what that costs, find how much less a token costs when several are read in one pass, and use it: guess, check all
# guesses at once, keep what stands. Done right, the text is *exactly* what the model would have written.
#
# - **You will** do the arithmetic of the KV cache and check it by the clock; build the rule of speculative decoding
#   and prove it exact, by enumeration and by chi-squared; draft with a distilled early exit, with skipped layers, with
#   the prompt itself, with Jacobi iteration and lookahead; train Medusa heads on SmolLM2 and check a tree of guesses
#   in one pass; contrast layers with DoLa; and time everything against plain decoding, in pairs.
# - **Time:** about 4 minutes on a CPU with two cores, less on a GPU.
#
# **Sections:** 4.3.5
#
# **Topics:** medusa

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
# ## What one token costs

# %%
import copy
import itertools
import math
import statistics
import time
from collections import Counter

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab import compute, decoding, intervals, lab, models, text
from alignlab.decoding import Sampling, medusa, speculative
from alignlab.decoding.dola import dola, layer_logits
from alignlab.decoding.speculative import Draft, JacobiDraft, LookupDraft, ModelDraft
from alignlab.exercises import check
from alignlab.transformer import Transformer

run = lab.Lab("ch04_fast_decoding")
budget = run.budget(
    full=dict(
        repeats=7, widths=(1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64), texts=1_000, passes=300,
        corpus=192, corpus_tokens=64, steps=180, batch=512, prompts=4, copies=3, new_tokens=32, facts=100, shown=40,
    ),
    quick=dict(
        repeats=1, widths=(1, 4, 16), texts=400, passes=40,
        corpus=12, corpus_tokens=16, steps=6, batch=64, prompts=1, copies=1, new_tokens=8, facts=6, shown=8,
    ),
)  # fmt: skip
compute.seed(0)
model, tokenizer = models.load("small")
decoder = Transformer.view(model)  # the same weights, our forward pass
device, config = decoder.norm.weight.device, decoder.config


def asked(question: str) -> list[int]:
    """Token ids of a question in the chat format."""
    return text.encode_prompt(tokenizer, question)


def shown(token_id: int) -> str:
    """A token as text."""
    return str(tokenizer.decode([token_id]))


# %% [markdown]
# ### The KV cache, in bytes
#
# For every token read, each layer keeps one key and one value for each key-value head. That is all a later token needs
# of an earlier one. Sizes of SmolLM2: 30 layers, 3 key-value heads (for 9 query heads), 64 numbers a head, 4 bytes a number.

# %%
weights_bytes = sum(p.numel() * p.element_size() for p in decoder.parameters())
kv_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # K and V, float32
kv_full = kv_bytes * config.num_attention_heads // config.num_key_value_heads  # without grouped queries
cache = decoder.cache(1, 100)
assert (cache.keys.nbytes + cache.values.nbytes) / 100 == kv_bytes
print(
    f"weights {weights_bytes / 1e6:,.0f} MB; cache {kv_bytes:,} bytes a token, {kv_bytes * 2048 / 1e6:.0f} MB for 2,048"
)


@torch.inference_mode()
def seconds_of(calls: dict, repeats: int) -> dict:
    """The least time of each call. They take turns, so that a slow moment of the machine hits all of them alike."""
    times: dict = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name] += [time.perf_counter() - start] if turn else []  # the first turn warms up
    return {name: min(taken) for name, taken in times.items()}


context = asked("Explain how a bicycle works.") * 8  # 200 tokens and more to look back on
cache = decoder.cache(1, len(context) + 64)
with torch.inference_mode():
    decoder.hidden(torch.tensor([context], device=device), cache=cache)


def pass_over(width: int, net: Transformer = decoder, store=cache) -> None:
    """One pass over `width` new tokens after the context, logits for each; the cache is left as it was."""
    store.length = len(context)
    net(torch.tensor([context[:width]], device=device), cache=store)


big = torch.ones(2 * weights_bytes // 4)  # twice as long as the weights: too long for any cache of the processor
calls = {width: (lambda width=width: pass_over(width)) for width in budget.widths} | {"stream": big.sum}
cost = seconds_of(calls, budget.repeats)  # seconds of a pass over so many tokens
stream = big.nbytes / cost.pop("stream")
one = cost[1]
big = calls = None
bandwidth = (weights_bytes + kv_bytes * len(context)) / one
flops = 2 * weights_bytes / 4  # a multiplication and an addition for each weight, for each token
widest = max(budget.widths)
run.table(
    [
        (width, f"{1e3 * s:.0f}", f"{s / one:.2f}", f"{1e3 * s / width:.1f}", f"{width * flops / s / 1e9:.0f}")
        for width, s in cost.items()
    ],
    ("Tokens in a pass", "Milliseconds", "Times one token", "ms a token", "GFLOP/s"),
    caption="One pass over several tokens",
)
print(f"one token: {bandwidth / 1e9:.1f} GB/s of weights and cache; a plain sum streams {stream / 1e9:.1f} GB/s")

# %% [markdown]
# Look at the second column. **That curve is the key fact of this lab.** With one token the processor goes through 538 MB of weights and
# does two operations with each number: the last column says how little arithmetic that is. Further tokens use the same weights while
# they are there. There is a step after the first: one token is a matrix times a vector, several are a product of two matrices, for which
# the library first rearranges the weights. Then come tokens that cost next to nothing, until the arithmetic itself takes time.

# %%
fig = go.Figure()
fig.add_scatter(x=list(cost), y=[s / one for s in cost.values()], name="measured", mode="lines+markers")
fig.add_scatter(x=list(cost), y=list(cost), name="if each token cost the same", line={"dash": "dot"})
fig.update_layout(
    title="What a pass over several tokens costs", xaxis_title="tokens in the pass", yaxis_title="time, in passes over one",
)  # fmt: skip
fig.update_yaxes(range=[0, 1.1 * cost[widest] / one + 1])
run.figure(
    fig, "Time of a pass over the number of tokens in it: far below the line on which each token costs the same."
)


def pass_cost(width: int) -> float:
    """Time of a pass over `width` tokens in passes over one, from the measured curve, straight lines between."""
    known = sorted(cost)
    high = next((w for w in known if w >= width), known[-1])
    low = max((w for w in known if w <= width), default=known[0])
    share = 0.0 if high == low else (width - low) / (high - low)
    return (cost[low] + share * (cost[high] - cost[low])) / one


# %% [markdown]
# ### Without the cache
#
# Every token would read the whole text again. And if bytes are what counts, half the bytes should take half the time, on a processor that
# multiplies such numbers well: the same model in bfloat16.

# %%
half = copy.deepcopy(decoder).to(torch.bfloat16)
half_cache = half.cache(1, len(context) + 64)
with torch.inference_mode():
    half.hidden(torch.tensor([context], device=device), cache=half_cache)
calls = {
    "one": lambda: pass_over(1),
    "half one": lambda: pass_over(1, half, half_cache),
    "half wide": lambda: pass_over(widest, half, half_cache),
    "uncached": lambda: decoder.hidden(torch.tensor([context], device=device)),
}
took = seconds_of(calls, max(1, budget.repeats - 2))
uncached, half_one, half_wide = (
    took["uncached"] / took["one"],
    took["one"] / took["half one"],
    cost[widest] / took["half wide"],
)
print(f"after {len(context)} tokens, one more without the cache takes {uncached:.1f} times as long")
print(f"in bfloat16 one token comes {half_one:.2f} times as fast, {widest} at once {half_wide:.2f} times")

# %% [markdown]
# ## The rule, in the open
#
# A **draft** proposes tokens $x_1, \dots, x_g$, each drawn from its own distribution $q$. The model reads all of them in one
# pass and so knows its own $p$ at every place. Token $x$ stays with probability $\min(1, p(x)/q(x))$. The first one
# that goes is replaced by a draw from the **residual** $\max(p-q, 0)$, normalized, and what came after it is thrown away. If none goes,
# $p$ after the last one gives a further token for nothing, the **bonus**.


# %%
def residual(p: Tensor, q: Tensor) -> Tensor:
    """What the draft gives too rarely, normalized. (..., V)."""
    more = (p - q).clamp(min=0)
    return more / more.sum(-1, keepdim=True)


def accept(p: Tensor, q: Tensor, drafted: list[int], generator: torch.Generator) -> tuple[int, int]:
    """p (g + 1, V), q (g, V): how many drafted tokens stay, and the token after them."""
    for k, x in enumerate(drafted):
        if torch.rand((), generator=generator) >= p[k, x] / q[k, x]:
            return k, int(torch.multinomial(residual(p[k], q[k]), 1, generator=generator))
    return len(drafted), int(torch.multinomial(p[-1], 1, generator=generator))


# %% [markdown]
# ### Proved by enumeration
#
# Three tokens, and a target and a draft that look at the last token. We add up the probability of *every* way in which a
# round with two drafted tokens can go, and compare the distribution of the first three tokens with the target's. No sampling, no
# error bar. Three wrong versions that people write run beside it.

# %%
generator = torch.Generator().manual_seed(1)
V = 3
P, Q = (torch.randn(V + 1, V, generator=generator).double().mul(1.2).softmax(-1) for _ in range(2))  # row 0: the start


def after(table: Tensor, word: tuple[int, ...]) -> Tensor:
    """The next token's distribution after a text."""
    return table[0] if not word else table[1 + word[-1]]


def exactly(stays, instead) -> dict[tuple[int, ...], float]:
    """The distribution of three tokens when two are drafted, kept with stays(p, q), replaced from instead(p, q)."""
    found: Counter = Counter()

    def finish(word: tuple[int, ...], chance: float) -> None:
        for rest in itertools.product(range(V), repeat=3 - len(word)):
            p = chance
            for k, x in enumerate(rest):
                p *= float(after(P, word + rest[:k])[x])
            found[word + rest] += p

    def go(word: tuple[int, ...], chance: float) -> None:
        if len(word) == 2:
            finish(word, chance)  # both stand; the bonus token comes from the target
            return
        p, q = after(P, word), after(Q, word)
        for x in range(V):
            keep = min(1.0, float(stays(p, q)[x]))
            go((*word, x), chance * float(q[x]) * keep)
            for y in range(V):
                finish((*word, y), chance * float(q[x]) * (1 - keep) * float(instead(p, q)[y]))

    go((), 1.0)
    return found


truth = {word: float(P[0, word[0]] * P[1 + word[0], word[1]] * P[1 + word[1], word[2]]) for word in itertools.product(range(V), repeat=3)}  # fmt: skip
RULES = {
    "right": (lambda p, q: p / q, residual),
    "replaced from p, no residual": (lambda p, q: p / q, lambda p, q: p),
    "ratio inverted: q / p": (lambda p, q: q / p, residual),
    "kept with probability p": (lambda p, q: p, residual),
}
off = {name: sum(abs(exactly(*parts)[word] - p) for word, p in truth.items()) / 2 for name, parts in RULES.items()}
run.table(
    [(name, f"{gap:.1e}") for name, gap in off.items()],
    ("Rule", "Total variation distance"),
    caption="Distance from the target",
)

# %% [markdown]
# ### And on real models, by chi-squared
#
# `tiny` writes; its draft is a **bigram table**, counted in a moment from text that `tiny` wrote itself. We draw many
# three-token texts, plainly and speculatively, and compare both with the exact probabilities.

# %%
tiny, tiny_tokenizer = models.load("tiny", "cpu")
tiny_prompt = tiny_tokenizer.encode("The old bear")
written = decoding.generate(tiny, [tiny_prompt] * 256, 16, Sampling(), generator=torch.Generator().manual_seed(2))
counts = torch.full((512, 512), 0.01)
for completion in written:
    for a, b in itertools.pairwise([tiny_prompt[-1], *completion.ids]):
        counts[a, b] += 1
BIGRAMS = counts / counts.sum(-1, keepdim=True)


class BigramDraft(Draft):
    """Draws each token by the one before it alone."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def propose(self, ids, length, sampling, vocabulary):
        tokens = [ids[-1]]
        for _ in range(length):
            tokens.append(int(torch.multinomial(BIGRAMS[tokens[-1]], 1, generator=self.generator)))
        return tokens[1:], BIGRAMS[tokens[:-1]]


def chi_squared(seen: Counter, exact: dict, trials: int) -> float:
    """p-value: the chance of counts at least as far from what the exact probabilities expect."""
    often = {word: trials * p for word, p in exact.items() if trials * p >= 5}
    rest_due = trials - sum(often.values())
    rest_seen = trials - sum(seen[word] for word in often)
    statistic = (
        sum((seen[word] - due) ** 2 / due for word, due in often.items()) + (rest_seen - rest_due) ** 2 / rest_due
    )
    return float(torch.special.gammaincc(torch.tensor(len(often) / 2), torch.tensor(statistic / 2)))


@torch.inference_mode()
def exact_texts(net: Transformer, prompt: list[int], length: int, least: float) -> dict[tuple[int, ...], float]:
    """Probabilities of the texts of that length that have at least this one."""
    level = {(): 1.0}
    for _ in range(length):
        words = list(level)
        probs = net(torch.tensor([[*prompt, *word] for word in words]))[:, -1].double().softmax(-1)
        level = {
            (*word, x): level[word] * p
            for word, row in zip(words, probs.tolist(), strict=True)
            for x, p in enumerate(row)
            if level[word] * p >= least
        }
    return level


tiny_decoder = Transformer.view(tiny)
exact = exact_texts(tiny_decoder, tiny_prompt, 3, 1e-3)
generator = torch.Generator().manual_seed(0)
draft = BigramDraft(generator)
drawn: Counter = Counter()
for _ in run.progress(budget.texts, "texts"):
    result = speculative.speculative(tiny, tiny_prompt, 3, draft, Sampling(), length=2, generator=generator)
    drawn[tuple(result.ids)] += 1
p_loop = chi_squared(drawn, exact, budget.texts)
print(f"{len(exact)} texts of three tokens; speculative against exact: p = {p_loop:.3f}")
run.table(
    [("The old bear" + tiny_tokenizer.decode(word), f"{p:.1%}", f"{drawn[word] / budget.texts:.1%}") for word, p in sorted(exact.items(), key=lambda item: -item[1])[:5]],
    ("Text", "Exact", "Drawn speculatively"),
)  # fmt: skip

# %% [markdown]
# ### How many tokens does a pass give?
#
# If each drafted token stays with probability $a$, independently, a pass gives $1 + a + a^2 + \dots + a^g = \frac{1-a^{g+1}}{1-a}$
# tokens. Real tokens are not independent: easy places come together. How good is the formula?

# %%
LENGTHS = (1, 2, 4, 8)
formula_rows, formula_gap = [], 0.0
for length in run.progress(LENGTHS, "draft lengths"):
    kept = tried = passes = 0
    while passes < budget.passes:
        result = speculative.speculative(tiny, tiny_prompt, 48, draft, Sampling(), length=length, generator=generator)
        for one_pass in result.passes[:-1]:  # the last draft is cut to fit
            passes += 1
            kept += one_pass.accepted
            tried += min(one_pass.accepted + 1, len(one_pass.drafted))
    rate = kept / tried
    predicted, measured = speculative.expected_tokens(rate, length), kept / passes + 1
    formula_gap = max(formula_gap, abs(predicted / measured - 1))
    formula_rows.append((length, f"{rate:.2f}", f"{predicted:.2f}", f"{measured:.2f}"))
run.table(formula_rows, ("Draft length g", "Share that stays, a", "Formula", "Measured tokens per pass"))

# %% [markdown]
# ## The loop, and its cache
#
# Greedy decoding is the case where $p$ is 1 for one token and 0 for all others: a drafted token stays if it is the one
# that the model would have said. After a rejection the cache holds keys and values of tokens that are no longer in the
# text. They must go: here that is one assignment.


# %%
@torch.inference_mode()
def speculate(ids: list[int], new_tokens: int, draft, g: int, truncate: bool = True) -> tuple[list[int], list[int]]:
    """Greedy speculative decoding. draft(text, g) -> tokens. Returns the new tokens and how many each pass gave."""
    cache, words, known, passes = decoder.cache(1, len(ids) + 3 * new_tokens + 20 * g), list(ids), 0, []
    while len(words) < len(ids) + new_tokens:
        guess = draft(words, g)
        states = decoder.hidden(torch.tensor([words[known:] + guess], device=device), cache=cache)
        says = decoder.lm_head(states[0, -len(guess) - 1 :]).argmax(-1).tolist()  # the model's word at each place
        kept = 0
        while kept < len(guess) and guess[kept] == says[kept]:
            kept += 1
        words += [*guess[:kept], says[kept]]
        known = len(words) - 1  # all but the last token stand in the cache
        if truncate:
            cache.length = known
        passes.append(kept + 1)
    return words[len(ids) : len(ids) + new_tokens], passes


def lookup(words: list[int], g: int) -> list[int]:
    """Prompt lookup: what followed the last two tokens when they last occurred."""
    for start in range(len(words) - 3, -1, -1):
        if words[start : start + 2] == words[-2:]:
            return words[start + 2 : start + 2 + g]
    return []


PASSAGE = (
    "Dear Ms Gray, thank you for your letter of 3 May. The kettle that you bought from us in March stops boiling after ten seconds. "
    "Please send the kettle to our shop in Elm Street, and we will repair the kettle within a week."
)
copy_prompt = asked(f"Repeat this letter, word for word:\n\n{PASSAGE}")
(plain,) = decoding.generate(model, [copy_prompt], budget.new_tokens)
fast, passes = speculate(copy_prompt, budget.new_tokens, lookup, 4)
library = speculative.speculative(model, copy_prompt, budget.new_tokens, LookupDraft(2), length=4)
same_open, same_library = fast == plain.ids, library.ids == plain.ids
print(tokenizer.decode(plain.ids))
print(f"same tokens: in the open {same_open}, library {same_library}; {len(plain.ids)} tokens in {len(passes)} passes")

# %% [markdown]
# ### The failure to know by sight: a cache that is not cut
#
# One line less. The text begins well and goes wrong after the first rejection, because the model goes on seeing words that
# it has rejected, and counts its positions from them.

# %%
broken, _ = speculate(copy_prompt, budget.new_tokens, lookup, 4, truncate=False)
agree = next((k for k, (a, b) in enumerate(zip(broken, plain.ids, strict=True)) if a != b), len(broken))
print(f"right for {agree} tokens, then:", repr(tokenizer.decode(broken)))

# %% [markdown]
# ## Text to learn from
#
# A draft that has to be trained, and Medusa's heads, learn to guess what SmolLM2 says. So SmolLM2 writes: answers to questions of
# four kinds, greedily, all in one batch. While it writes we keep two hidden states of every position: the last layer's, for Medusa, and the one after
# layer 4, for an early exit. The questions that we measure on later are about other things.

# %%
EXIT = 4
SUBJECTS = (
    "a clock", "the moon", "a bridge", "a garden", "bread", "the ocean", "a violin", "a lighthouse", "rain", "a library", "a train", "honey",
    "a volcano", "a mirror", "coffee", "an old tree", "a small town", "a teacher", "snow", "a river", "paper", "a market", "the heart", "a cat",
    "a rocket", "salt", "a castle", "a camera", "the wind", "a doctor", "a map", "chess", "a lake", "a farmer", "silk", "a compass",
    "tea", "a drum", "the sun", "a school", "iron", "a shadow", "an island", "a painter", "a horse", "glass", "a village", "a king",
)  # fmt: skip
KINDS = (
    "What is {}?",
    "Write a short story about {}.",
    "Explain why {} matters to people.",
    "Give me three facts about {}.",
)
HELD_OUT = (
    "Who are you?", "Explain how a bicycle works.", "Write a short story about a dog.", "What is a telescope?",
    "Give me three facts about the desert.", "Explain why sleep matters to people.",
)  # fmt: skip
questions = [kind.format(subject) for subject in SUBJECTS for kind in KINDS][: budget.corpus]
kept_states: dict[str, list[Tensor]] = {"exit": [], "last": []}
writer = half if compute.bfloat16_pays(device.type) else decoder
hooks = [
    writer.layers[EXIT - 1].register_forward_hook(lambda _, __, out: kept_states["exit"].append(out[:, -1].float())),
    writer.norm.register_forward_hook(lambda _, __, out: kept_states["last"].append(out[:, -1].float())),
]
start = time.perf_counter()
corpus = decoding.generate(writer, [asked(q) for q in questions], budget.corpus_tokens)
wrote = time.perf_counter() - start
for hook in hooks:
    hook.remove()
writer = half = half_cache = None  # room for what follows
ids = torch.tensor([c.ids for c in corpus])  # (texts, tokens): token t was chosen from the state at t
states = {name: torch.stack(rows, 1) for name, rows in kept_states.items()}  # (texts, tokens, 576)
ends = ids == tokenizer.eos_token_id
written_mask = ends.cumsum(-1) - ends.long() == 0  # up to the end token, which counts
train_rows = torch.arange(len(ids)) < max(1, int(0.875 * len(ids)))
TOKENS = ids[
    written_mask & train_rows[:, None]
].unique()  # what the heads may guess: the tokens of the texts they train on
print(
    f"{int(written_mask.sum()):,} tokens in {wrote:.0f} s, {len(TOKENS):,} different ones; e.g. {tokenizer.decode(corpus[1].ids)[:160]!r}"
)

# %% [markdown]
# ## Medusa heads and an early exit, trained
#
# The model says token $t+1$ from its state at $t$. **Medusa head $k$ says token $t+1+k$ from the same state**: a residual block,
# $h + \mathrm{SiLU}(W_k h + b_k)$, and an output matrix. The paper trains an output matrix for each head, 28 million numbers on this model;
# here all heads use rows of the model's own, frozen, and only those of the tokens that the texts contain. What is trained is $W_k$
# and $b_k$. They begin at zero, so each head begins by saying the *next* token.
#
# The early exit is the same thing with $k=0$, on the state after layer 4: a draft model of four layers whose head has been distilled.


# %%
HEADS = 3
heads = medusa.MedusaHeads(decoder.lm_head.weight, TOKENS.to(device), HEADS)
exit_head = medusa.MedusaHeads(decoder.lm_head.weight, TOKENS.to(device), 1)
with torch.no_grad():
    last_states = states["last"].to(device)
    exit_states = decoder.norm(states["exit"].to(device))
place = torch.full((config.vocab_size,), -1)  # -1: a token that no head can say, and so a miss
place[TOKENS] = torch.arange(len(TOKENS))


def later(k: int) -> Tensor:
    """For each position the place in TOKENS of the token k after the one that its state chose; -100 beyond the end."""
    target = torch.full_like(ids, -100)
    target[:, : ids.shape[1] - k] = torch.where(written_mask, place[ids], -100)[:, k:]
    return target


targets = torch.stack([later(k) for k in range(HEADS + 1)]).to(device)  # 0: the next token, for the exit
words = ids[0, : int(written_mask[0].sum())]  # the library's targets count from the text's own tokens: the same
assert medusa.medusa_targets(torch.cat([words[:1], words]), TOKENS, HEADS)[:, : len(words)].equal(
    targets[1:, 0, : len(words)].cpu()
)


def flat(x: Tensor, rows: Tensor) -> Tensor:
    """(texts, tokens, ...) -> (positions, ...) of the texts in rows, written positions only."""
    return x[rows.to(x.device)][written_mask[rows].to(x.device)]


data = {
    part: (flat(last_states, rows), flat(exit_states, rows), torch.stack([flat(t, rows) for t in targets]))
    for part, rows in (("train", train_rows), ("test", ~train_rows))
}
trained = [*heads.parameters(), *exit_head.parameters()]
optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=budget.steps)
picker = torch.Generator().manual_seed(0)
curve = run.curve("Training heads on SmolLM2's own text", y="cross-entropy (nats)", lines=("early exit", "head 1", "head 2", "head 3"))  # fmt: skip
state = run.checkpoint(
    "heads", {"heads": heads, "exit": exit_head, "optimizer": optimizer, "schedule": schedule, "picker": picker, "curve": curve},
    fingerprint={"budget": vars(budget), "tokens": len(TOKENS)}, every=40,
)  # fmt: skip
start = time.perf_counter()
last, early, target = data["train"]
for step in run.progress(budget.steps, "training", checkpoint=state, curve=curve):
    pick = torch.randint(len(last), (budget.batch,), generator=picker).to(device)
    logits = heads(last[pick])
    losses = [F.cross_entropy(logits[k], target[k + 1, pick]) for k in range(HEADS)]
    exit_loss = F.cross_entropy(exit_head(early[pick])[0], target[0, pick])
    loss = exit_loss + sum(0.8 ** (k + 1) * one_loss for k, one_loss in enumerate(losses))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 5 == 0 or step == budget.steps - 1:
        for name, value in zip(("early exit", "head 1", "head 2", "head 3"), (exit_loss, *losses), strict=True):
            curve.add(name, step, value.item())
trained_in = time.perf_counter() - start
medusa_loss_gap = abs((loss - exit_loss).item() - medusa.medusa_loss(logits.detach(), target[1:, pick]).item())

# %% [markdown]
# ### How often is a guess right?
#
# On answers that were not trained on. Row $k$, column $r$: how often the $r$-th likeliest guess of head $k$ is the token that
# SmolLM2 went on to say.


# %%
@torch.inference_mode()
def hits(logits: Tensor, target: Tensor, most: int) -> Tensor:
    """How often each of the `most` likeliest guesses is right, (most,), over positions that have a target."""
    ok = target != -100
    return (logits[ok].topk(most).indices == target[ok, None]).double().mean(0).cpu()


MOST = 6
last, early, target = data["test"]
accuracies = torch.stack([hits(heads(last)[k], target[k + 1], MOST) for k in range(HEADS)])
exit_right = hits(exit_head(early)[0], target[0], 1)[0].item()
untrained = medusa.MedusaHeads(decoder.lm_head.weight, TOKENS.to(device), HEADS)
before = torch.stack([hits(untrained(last)[k], target[k + 1], 1) for k in range(HEADS)])[:, 0]
raw_exit = hits(medusa.MedusaHeads(decoder.lm_head.weight, TOKENS.to(device), 1)(early)[0], target[0], 1)[0].item()
rows = [(f"head {k + 1}", f"{before[k]:.0%}", *(f"{a:.0%}" for a in accuracies[k])) for k in range(HEADS)]
run.table(
    rows, ("", "Best, untrained", *(f"Guess {r + 1}" for r in range(MOST))), caption="Right guesses on held-out answers"
)
print(f"early exit after layer {EXIT}: {raw_exit:.0%} right as it is, {exit_right:.0%} distilled")

# %% [markdown]
# ### A tree of guesses in one pass
#
# Second and third guesses are often right too. Instead of one chain, check a **tree**: each node is a guess, its children are guesses
# for the place after it. All nodes go through the model in one pass; a mask lets each see the text, its ancestors and itself,
# and its position is the text's length plus its depth. Here is the mask of a small tree, and the proof that it does what it should.

# %%
parents = [-1, 0, 0, 1, 1, 2]  # node 0: the known token; 1 and 2 its children; 3, 4 of 1; 5 of 2
mask = torch.eye(len(parents), dtype=torch.bool)
for node, parent in enumerate(parents):
    if parent >= 0:
        mask[node] |= mask[parent]  # what my parent sees, and myself
print(mask.int().tolist(), "as the library's:", mask.equal(medusa.tree_mask(parents)))
prefix, nodes = asked("What is 17 + 25?"), tokenizer.encode(" The answer is a sum of")[: len(parents)]
with torch.inference_mode():
    cache = decoder.cache(1, 64)
    decoder.hidden(torch.tensor([prefix], device=device), cache=cache)
    in_tree = decoder.lm_head(decoder.hidden(torch.tensor([nodes], device=device), cache=cache, tree=mask))[0]
    tree_gap = 0.0
    for node in range(len(parents)):
        path = [nodes[k] for k in range(len(parents)) if mask[node, k]]
        alone = decoder(torch.tensor([prefix + path], device=device))[0, -1]
        tree_gap = max(tree_gap, (in_tree[node] - alone).abs().max().item())
print(f"largest difference of a logit, in the tree and alone: {tree_gap:.1e}")

# %% [markdown]
# **Which tree?** Grow it greedily: the next node is the one that most often has its whole path right, by the table above. Then
# weigh tokens against time: expected tokens per pass, divided by what a pass over that many nodes costs on *this*
# machine.

# %%
sizes = [n for n in (1, 2, 3, 4, 5, 7, 11, 15, 23, 31) if n + 1 <= widest]
plans = []
for size in sizes:
    tree = medusa.best_tree(accuracies, size)
    worth = [1.0]
    for node in range(1, size + 1):
        worth.append(worth[tree.parents[node]] * float(accuracies[tree.depths[node] - 1, tree.ranks[node]]))
    plans.append((sum(worth) / pass_cost(size + 1), size, sum(worth), tree))
_, tree_size, tree_expected, TREE = max((plan for plan in plans if plan[1] > 1), key=lambda plan: plan[0])
run.table(
    [(size, f"{expected:.2f}", f"{pass_cost(size + 1):.2f}", f"{gain:.2f}") for gain, size, expected, _ in plans],
    ("Guesses in the tree", "Expected tokens per pass", "Cost of the pass", "Expected speed-up"),
    caption="Trees, by what they give and cost",
)
print(f"best here: {tree_size} guesses, depth {max(TREE.depths)}")

# %% [markdown]
# ## The drafts, timed
#
# A draft costs time too. What is one step of each, in passes of the model?


# %%
class ExitHead(torch.nn.Module):
    """The distilled head as an output layer over the whole vocabulary: -inf for tokens that it cannot say."""

    def forward(self, hidden: Tensor) -> Tensor:
        logits = exit_head(hidden)[0]
        whole = logits.new_full((*logits.shape[:-1], config.vocab_size), -torch.inf)
        return whole.index_copy(-1, exit_head.token_ids, logits)


early_exit = speculative.skip_layers(decoder, range(EXIT))
early_exit.lm_head = ExitHead()
SKIPPED = [k for k in range(30) if k not in range(10, 25, 3)]  # five of the thirty left out
skipping = speculative.skip_layers(decoder, SKIPPED)


def caching(net: Transformer):
    """A call that takes one draft step of a net."""
    store = net.cache(1, len(context) + 4)
    with torch.inference_mode():
        net.hidden(torch.tensor([context], device=device), cache=store)
    return lambda: pass_over(1, net, store)


took = seconds_of(
    {"model": lambda: pass_over(1), "exit": caching(early_exit), "skip": caching(skipping), "heads": lambda: heads.guesses(last_states[0, 0], MOST)},
    budget.repeats,
)  # fmt: skip
exit_cost, skip_cost, heads_cost = (took[name] / took["model"] for name in ("exit", "skip", "heads"))
best_g = max(range(1, 9), key=lambda g: speculative.expected_tokens(exit_right, g) / (g * exit_cost + pass_cost(g + 1)))
print(
    f"a step of the exit costs {exit_cost:.2f} passes, of {len(SKIPPED)} layers {skip_cost:.2f}, all Medusa heads {heads_cost:.2f}"
)
print(f"with {exit_right:.0%} right, the best draft length for the exit is {best_g}")

# %% [markdown]
# ## Everything against plain decoding
#
# For each prompt: plain decoding, then each method, one after the other, the same number of tokens. The speed-up is the ratio of the two
# times **of the same prompt**, so that a slow minute of the machine hits both. All but the last must give the very same text.

# %%
METHODS = {
    "draft: early exit": lambda p, n: speculative.speculative(decoder, p, n, ModelDraft(early_exit), length=best_g),
    "draft: 25 of 30 layers": lambda p, n: speculative.speculative(decoder, p, n, ModelDraft(skipping), length=2),
    "prompt lookup": lambda p, n: speculative.speculative(decoder, p, n, LookupDraft(), length=8),
    "Jacobi": lambda p, n: speculative.speculative(decoder, p, n, JacobiDraft(), length=4),
    "lookahead": lambda p, n: speculative.lookahead(decoder, p, n, window=3, ngram=3, guesses=2),
    "Medusa, chain": lambda p, n: medusa.medusa(decoder, heads, p, n, medusa.CHAIN),
    "Medusa, tree": lambda p, n: medusa.medusa(decoder, heads, p, n, TREE),
    "Medusa, tree, typical": lambda p, n: medusa.medusa(decoder, heads, p, n, TREE, "typical"),
}
EXACT = [name for name in METHODS if name != "Medusa, tree, typical"]
open_prompts = [asked(q) for q in HELD_OUT[: budget.prompts]]
COPIES = (
    "Add type hints to this function, change nothing else:\n\ndef total(prices, rate):\n    result = 0\n    for price in prices:\n        result = result + price * rate\n    return result",
    "Correct the spelling and keep all other words:\n\nThe ship left the harbor at dawn and sailed along the cost. In the evning the ship came back to the harbor, and the crew left the ship.",
)
copy_prompts = [copy_prompt, *map(asked, COPIES)][: budget.copies]


def timed(call, *arguments) -> tuple:
    """A call's result, and how many seconds it took."""
    start = time.perf_counter()
    result = call(*arguments)
    return result, time.perf_counter() - start


def race(prompts: list[list[int]], names: list[str]) -> dict[str, dict[str, list]]:
    """For each method: speed-up, tokens per pass and same text, prompt by prompt; plain decoding under its own name."""
    table = {name: {"ratio": [], "tokens": [], "same": [], "text": []} for name in ("plain", *names)}
    for prompt in run.progress(prompts, "racing"):
        (plain,), seconds = timed(decoding.generate, decoder, [prompt], budget.new_tokens)
        table["plain"]["ratio"].append(len(plain.ids) / seconds)  # tokens a second
        table["plain"]["text"].append(plain.ids)
        for name in names:
            result, took = timed(METHODS[name], prompt, budget.new_tokens)
            table[name]["ratio"].append(seconds / took)
            table[name]["tokens"].append(result.tokens_per_pass)
            table[name]["same"].append(result.ids == plain.ids)
            table[name]["text"].append(result.ids)
    return table


def mean(values: list[float]) -> float:
    """The geometric mean, as becomes ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))


def report(table: dict, caption: str) -> None:
    run.table(
        [
            (name, f"{statistics.mean(m['tokens']):.2f}", f"{mean(m['ratio']):.2f}", f"{min(m['ratio']):.2f} to {max(m['ratio']):.2f}", f"{sum(m['same'])} of {len(m['same'])}")
            for name, m in table.items() if name != "plain"
        ],
        ("Method", "Tokens per pass", "Speed-up", "From prompt to prompt", "Same text"), caption=caption,
    )  # fmt: skip


on_open = race(open_prompts, list(METHODS))
report(
    on_open,
    f"{len(open_prompts)} open questions; plain decoding {statistics.mean(on_open['plain']['ratio']):.1f} tokens a second",
)
on_copy = race(copy_prompts, ["prompt lookup", "Medusa, tree"])
report(on_copy, f"{len(copy_prompts)} prompts whose answer repeats them")

# %% [markdown]
# Three things decide each row: how many guesses stay, what the guesses cost, and what the wider pass costs. A draft of 25 layers is nearly
# as slow as what it should spare, and loses however often it is right. Prompt lookup costs nothing, and is worth what
# the prompt is worth. Medusa's heads cost next to nothing, too, but each guesses without knowing what the head before it guessed.
#
# ### Typical acceptance
#
# The last row keeps a guess that the model finds *likely enough*, $p(x) > \min(\epsilon, \delta e^{-\mathcal{H}(p)})$, not only the likeliest. More
# guesses stay; the text is no longer that of greedy decoding.

# %%
typical_same = statistics.mean(on_open["Medusa, tree, typical"]["same"])
print("greedy: ", tokenizer.decode(on_open["plain"]["text"][0]))
print("typical:", tokenizer.decode(on_open["Medusa, tree, typical"]["text"][0]))

# %% [markdown]
# ## Watch it
#
# Greedy text does not depend on the draft, so what a draft would guess at *every* place of the text can be computed once; any draft length can then be
# replayed. Times come from the measured curve.

# %%
explored = []
pieces: dict[str, int] = {}


def piece(token_id: int) -> int:
    """A number for a token's text, so that the data say each text once."""
    return pieces.setdefault(shown(token_id), len(pieces))


FURTHEST = 8
chosen = [("Who are you?", open_prompts[0]), *[(HELD_OUT[k], open_prompts[k]) for k in (1, 2) if k < len(open_prompts)], ("Repeat this letter", copy_prompt)]  # fmt: skip
for title, prompt in run.progress(chosen, "guesses at every place"):
    (full,) = decoding.generate(decoder, [prompt], budget.shown + FURTHEST + 1)
    said = full.ids[: budget.shown]
    texts = [prompt + said[:k] for k in range(len(said))]
    by_exit = [c.ids for c in decoding.generate(early_exit, texts, FURTHEST)]
    by_lookup = [LookupDraft().guess(words, FURTHEST) for words in texts]
    with torch.inference_mode():
        hidden = decoder.hidden(torch.tensor([prompt + said], device=device))[0, len(prompt) - 1 : -1]
    # The heads guess what follows a token from the state that chose it; before the first token there is nothing to guess.
    by_heads = [[], *([best[0] for best in heads.guesses(state, 1)] for state in hidden[:-1])]
    explored.append(
        {
            "title": title,
            "said": [piece(t) for t in said],
            "drafts": {
                "exit": [[piece(t) for t in row] for row in by_exit],
                "lookup": [[piece(t) for t in row] for row in by_lookup],
                "medusa": [[piece(t) for t in row] for row in by_heads],
            },
        }
    )
run.explorer(
    "speculative",
    {
        "model": "SmolLM2-135M-Instruct",
        "pieces": list(pieces),
        "prompts": explored,
        "pass": [pass_cost(width) for width in range(1, FURTHEST + 2)],
        "ms": 1e3 * one,
        "drafts": [
            {"name": "exit", "title": "Early exit, 4 layers", "cost": exit_cost, "longest": FURTHEST},
            {"name": "lookup", "title": "Prompt lookup", "cost": 0.0, "longest": FURTHEST},
            {"name": "medusa", "title": "Medusa heads", "once": heads_cost, "cost": 0.0, "longest": HEADS},
        ],
        "start": {"prompt": len(explored) - 1, "draft": "lookup", "length": 4},
        "try": "Lengthen the draft until the speed-up falls, then change the draft: the best length is another.",
    },
    digits=4,
)

# %% [markdown]
# ## DoLa: what the last layers add
#
# A different idea with the same ingredients. **DoLa** scores a token by how much its log-probability rises between an early layer and the last: facts, the
# paper argues, come in late, and what early layers say already is habit. The paper measures LLaMA models from 7B up. Does it help 135 million parameters? A
# hundred facts, four answers each; plain decoding picks the answer with the highest log-probability, DoLa the one with the highest contrast.

# %%
CAPITALS = "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Austria Vienna, Poland Warsaw, Greece Athens, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Hungary Budapest, Russia Moscow, Japan Tokyo, China Beijing, India Delhi, Iran Tehran, Iraq Baghdad, Egypt Cairo, Kenya Nairobi, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa, Turkey Ankara, Thailand Bangkok, Vietnam Hanoi, Ukraine Kyiv, Romania Bucharest, Bulgaria Sofia, Serbia Belgrade, Syria Damascus, Afghanistan Kabul, Nepal Kathmandu, Ecuador Quito, Colombia Bogotá, Venezuela Caracas, Belgium Brussels"  # fmt: skip
SYMBOLS = "hydrogen H, helium He, lithium Li, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne, sodium Na, magnesium Mg, silicon Si, phosphorus P, sulfur S, chlorine Cl, argon Ar, potassium K, calcium Ca, iron Fe, copper Cu, zinc Zn, silver Ag, tin Sn, iodine I, gold Au, mercury Hg, lead Pb, uranium U, nickel Ni, cobalt Co, titanium Ti"  # fmt: skip
AUTHORS = "Hamlet Shakespeare, Faust Goethe, Ulysses Joyce, Emma Austen, Dracula Stoker, Frankenstein Shelley, Inferno Dante, Macbeth Shakespeare, Persuasion Austen, Nostromo Conrad, Walden Thoreau, Candide Voltaire, Middlemarch Eliot, Lolita Nabokov, Beloved Morrison, Othello Shakespeare, Ivanhoe Scott, Kim Kipling, Metamorphoses Ovid, Germinal Zola, Odyssey Homer, Aeneid Virgil, Leviathan Hobbes, Utopia More, Dubliners Joyce, Siddhartha Hesse, Dune Herbert, Neuromancer Gibson, Foundation Asimov, Coraline Gaiman"  # fmt: skip
FACTS = []
for template, listed in (
    ("The capital of {} is", CAPITALS),
    ("The chemical symbol for {} is", SYMBOLS),
    ("The author of {} is", AUTHORS),
):
    known = [pair.rsplit(" ", 1) for pair in listed.split(", ")]
    answers = sorted({answer for _, answer in known})
    for at, (thing, answer) in enumerate(known):
        others = [answers[(answers.index(answer) + shift) % len(answers)] for shift in (3, 7, 11)]
        FACTS.append((template.format(thing), [answer, *others]))
FACTS = FACTS[:: max(1, len(FACTS) // budget.facts)][: budget.facts]
LAYERS = {"low": [0, 4, 8, 12], "high": [16, 20, 24, 28]}  # candidates; the paper takes every second layer of a part


@torch.inference_mode()
def score_answers(items: list[tuple[int, int, list[int], list[int]]]) -> dict[tuple[int, int], dict[str, float]]:
    """Each answer's score by each rule. items: (fact, option, prompt ids, answer ids)."""
    groups: dict[tuple[int, int], list] = {}
    for item in items:  # equal lengths, so that nothing is padded
        groups.setdefault((len(item[2]) + len(item[3]), len(item[3])), []).append(item)
    batches = [group[k : k + 16] for group in groups.values() for k in range(0, len(group), 16)]
    scores: dict[tuple[int, int], dict[str, float]] = {}
    for group in run.progress(batches, "facts"):
        length = len(group[0][3])
        batch = torch.tensor([prompt + answer for _, _, prompt, answer in group], device=device)
        layers = [*LAYERS["low"], *LAYERS["high"], 30]
        seen = layer_logits(decoder, batch[:, :-1], layers, length)  # what each answer token is chosen from
        answer_ids = batch[:, -length:, None]
        rules = {"plain": seen[-1].log_softmax(-1)}
        for name, some in LAYERS.items():
            contrast, _ = dola(seen[-1], seen[[layers.index(k) for k in some]])
            rules[name] = contrast.log_softmax(-1).clamp(
                min=-1000
            )  # what is cut counts as -1000, as in the paper's code
        for name, rule in rules.items():
            for (fact, option, _, _), value in zip(
                group, rule.gather(-1, answer_ids)[..., 0].sum(-1).tolist(), strict=True
            ):
                scores.setdefault((fact, option), {})[name] = value
    return scores


items = [
    (fact, option, tokenizer.encode(prompt), tokenizer.encode(" " + answer))
    for fact, (prompt, options) in enumerate(FACTS)
    for option, answer in enumerate(options)
]
scores = score_answers(items)
right = {
    rule: [max(range(4), key=lambda option: scores[fact, option][rule]) == 0 for fact in range(len(FACTS))]
    for rule in ("plain", "low", "high")
}
share = {rule: statistics.mean(values) for rule, values in right.items()}
differences = {rule: intervals.paired_difference(right["plain"], right[rule]) for rule in ("low", "high")}
run.table(
    [
        ("last layer alone", f"{share['plain']:.0%}", "", ""),
        *((f"DoLa, {rule} layers", f"{share[rule]:.0%}", "{:+.0%} ({:+.0%} to {:+.0%})".format(*differences[rule]), f"{intervals.mcnemar(right['plain'], right[rule]):.2f}") for rule in ("low", "high")),
    ],
    ("Rule", "Right", "Difference, 95% interval", "p (McNemar)"), caption=f"{len(FACTS)} facts, four answers each, chance 25%",
)  # fmt: skip

# %% [markdown]
# ## As one would at work
#
# transformers does prompt lookup and draft models in `generate`, with one argument each. Same prompt, same tokens.

# %%
inputs = torch.tensor([copy_prompt], device=device)
options = dict(
    attention_mask=torch.ones_like(inputs),
    max_new_tokens=budget.new_tokens,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=None,
)


@torch.inference_mode()
def at_work(**how) -> list[int]:
    return model.generate(inputs, **options, **how)[0, len(copy_prompt) :].tolist()


usual, usual_seconds = timed(at_work)
looked_up, lookup_seconds = timed(lambda: at_work(prompt_lookup_num_tokens=4))
work_same = usual == looked_up == on_copy["plain"]["text"][0]
print(
    f"transformers: plain {usual_seconds:.1f} s, prompt lookup {lookup_seconds:.1f} s, same text as ours: {work_same}"
)

# %% [markdown]
# ## Results

# %%
gain = {name: mean(m["ratio"]) for name, m in on_open.items() if name != "plain"}
per_pass = {name: statistics.mean(m["tokens"]) for name, m in on_open.items() if name != "plain"}
KEYS = {"draft: early exit": "exit", "draft: 25 of 30 layers": "skip", "prompt lookup": "lookup", "Jacobi": "jacobi", "lookahead": "lookahead", "Medusa, chain": "chain", "Medusa, tree": "tree", "Medusa, tree, typical": "typical"}  # fmt: skip
for name, key in KEYS.items():
    run.result(f"tokens_{key}", per_pass[name], format=".2f")
    run.result(f"speed_{key}", gain[name], format=".2f")
    run.result(
        f"range_{key}", gain[name], text=f"{min(on_open[name]['ratio']):.2f} to {max(on_open[name]['ratio']):.2f}"
    )
copy_gain, copy_tree = mean(on_copy["prompt lookup"]["ratio"]), mean(on_copy["Medusa, tree"]["ratio"])
run.result("copy_speed", copy_gain, format=".2f")
run.result("copy_tokens", statistics.mean(on_copy["prompt lookup"]["tokens"]), format=".2f")
run.result("copy_speed_tree", copy_tree, format=".2f")
run.result("prompts", len(open_prompts))
run.result("copies", len(copy_prompts))
run.result("plain_rate", statistics.mean(on_open["plain"]["ratio"]), format=".1f")
run.result("weights_mb", weights_bytes / 1e6, format=",.0f")
run.result("kv_bytes", kv_bytes, format=",")
run.result("kv_full", kv_full, format=",")
run.result("kv_2048", kv_bytes * 2048 / 1e6, format=".0f")
run.result("one_ms", 1e3 * one, format=".0f")
run.result("bandwidth", bandwidth / 1e9, format=".1f")
run.result("stream", stream / 1e9, format=".1f")
run.result("gflops_one", flops / one / 1e9, format=".0f")
run.result("gflops_wide", widest * flops / cost[widest] / 1e9, format=".0f")
run.result("widest", widest)
run.result("pass_4", pass_cost(4), format=".2f")
run.result("pass_8", pass_cost(8), format=".2f")
run.result("pass_16", pass_cost(16), format=".2f")
run.result("pass_widest", cost[widest] / one, format=".1f")
run.result("uncached", uncached, format=".1f")
run.result("context", len(context))
run.result("half_speed", half_one, format=".2f")
run.result("off_right", off["right"], format=".0e")
run.result("off_residual", off["replaced from p, no residual"], format=".2f")
run.result("off_inverted", off["ratio inverted: q / p"], format=".2f")
run.result("p_loop", p_loop, format=".2f")
run.result("texts", budget.texts, format=",")
run.result("formula_gap", formula_gap, format=".0%")
run.result("exit_layers", EXIT)
run.result("exit_raw", raw_exit, format=".0%")
run.result("exit_right", exit_right, format=".0%")
run.result("exit_cost", exit_cost, format=".2f")
run.result("exit_length", best_g)
run.result("skip_cost", skip_cost, format=".2f")
run.result("heads_cost", heads_cost, format=".2f")
run.result("corpus_tokens", int(written_mask.sum()), format=",")
run.result("vocabulary", len(TOKENS), format=",")
run.result("trained_in", trained_in, format=".0f")
run.result("trained_parameters", sum(p.numel() for p in heads.parameters()), format=",")
for k in range(HEADS):
    run.result(f"head_{k + 1}_before", before[k], format=".0%")
    run.result(f"head_{k + 1}", accuracies[k, 0], format=".0%")
    run.result(f"head_{k + 1}_top", accuracies[k].sum(), format=".0%")
run.result("tree_size", tree_size)
run.result("pass_tree", pass_cost(tree_size + 1), format=".2f")
run.result("tree_expected", tree_expected, format=".2f")
run.result("broken_after", agree)
run.result("typical_same", typical_same, format=".0%")
run.result("facts", len(FACTS))
run.result("dola_plain", share["plain"], format=".0%")
for rule in ("low", "high"):
    run.result(f"dola_{rule}", share[rule], format=".0%")
    run.result(
        f"dola_{rule}_gain", differences[rule][0], text="{:+.0%} ({:+.0%} to {:+.0%})".format(*differences[rule])
    )
run.claim("the rule of acceptance leaves the target's distribution as it is, to 1e-12", off["right"] < 1e-12)
run.claim(
    "each wrong rule changes it by more than 0.01", min(gap for name, gap in off.items() if name != "right") > 0.01
)
run.claim("chi-squared finds no difference between speculative and exact texts of tiny (p above 0.001)", p_loop > 1e-3)
run.claim("the formula of expected tokens is within 15% of what was measured", formula_gap < 0.15)
run.claim("in the widest pass a token costs less than half of what it costs alone", 2 * cost[widest] / widest < one)
run.claim("our loop, the library and transformers give the same greedy text", same_open and same_library and work_same)
run.claim("every exact method gives the text of plain decoding", all(all(on_open[name]["same"]) for name in EXACT))
run.claim("a cache that is not cut changes the text", agree < len(broken))
run.claim("in a tree each token is read as in the plain text of its path, to 1e-3", tree_gap < 1e-3)
run.claim("the library's Medusa loss is the sum that was trained", medusa_loss_gap < 1e-3)
run.claim("every head is right more often than before training", bool((accuracies[:, 0] > before).all()))
run.claim("prompt lookup is faster than plain decoding where the answer repeats the prompt", copy_gain > 1)
run.claim("the chain of three Medusa guesses gives more than 1.1 tokens per pass", per_pass["Medusa, chain"] > 1.1)
run.claim("a draft of 25 of 30 layers is slower than plain decoding", gain["draft: 25 of 30 layers"] < 1)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Bytes of a cache** (difficulty 1, 3 minutes). Bytes of the KV cache of one sequence of `tokens` tokens.


# %%
def my_cache_bytes(
    tokens: int, layers: int, heads: int, kv_heads: int, head_dim: int, bytes_per_number: int
) -> int: ...


check("fast_decoding.cache_bytes", my_cache_bytes)

# %% [markdown]
# **2. The residual** (difficulty 2, 5 minutes). What a rejected token is replaced from: probabilities (V,) of the target p and the draft q to
# probabilities (V,).


# %%
def my_residual(p: Tensor, q: Tensor) -> Tensor: ...


check("fast_decoding.residual", my_residual)

# %% [markdown]
# **3. The chance to stay** (difficulty 2, 5 minutes). With what probability is a token that was drawn from q accepted, before you know which token it is?


# %%
def my_chance_to_stay(p: Tensor, q: Tensor) -> float: ...


check("fast_decoding.chance_to_stay", my_chance_to_stay)

# %% [markdown]
# **4. The best draft length** (difficulty 3, 8 minutes). A drafted token stays with probability `rate`, a draft step costs `cost` passes of the model, and a
# pass over a few tokens costs as much as one. Which length from 1 to `longest` gives the most tokens for the time?


# %%
def my_best_length(rate: float, cost: float, longest: int) -> int: ...


check("fast_decoding.best_length", my_best_length)

# %% [markdown]
# **5. A tree's mask** (difficulty 2, 8 minutes). From each node's parent (−1 for the root, parents before children) to a bool mask (n, n), True where the
# row's node sees the column's.


# %%
def my_tree_mask(parents: list[int]) -> Tensor: ...


check("fast_decoding.tree_mask", my_tree_mask)
