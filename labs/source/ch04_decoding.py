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
# # Decoding: search, sample, and measure what comes out
#
# A model gives a distribution over the next token. A decoding strategy makes a text of it, and there are two kinds: those that
# *search* for a text of high score, and those that *draw* one. Here you build both kinds, check every one of them token by token or
# in distribution, and then ask which text is better, in a world where that question has an exact answer.
#
# - **You will** build greedy search, beam search and contrastive search; compare beam search with the best of all texts; see what
#   width and length penalty do; compute the exact distribution of a dozen samplers over 1,100 texts; measure repetition and
#   perplexity of fifteen strategies on a real model; and rebuild the generation parameters of transformers.
# - **Time:** about 4 minutes on a CPU with two cores, 1 minute on a GPU.
#
# **Sections:** 4.3.1-4.3.6

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
# ## Two models, and a world where everything can be summed
#
# `tiny` has 0.86 million parameters and was trained on sentences such as *The old bear sleeps in the garden at night.* After
# "The old bear" its world knows 10 verbs, 10 places, and no time or one of 10: **1,100 endings**. The program that wrote the training text draws each
# verb and place with probability 1/10, and a time in half of the sentences. So we know three things that nobody knows of a large model: the true
# distribution, the model's, and the best text there is. SmolLM2-135M-Instruct is here for what only real text shows.

# %%
import itertools
import math
from collections import Counter
from heapq import nlargest

import plotly.graph_objects as go
import torch
from torch import Tensor
from transformers.generation.utils import GENERATION_MODES_MAPPING

from alignlab import decoding, lab, logprobs, models, text
from alignlab.decoding import GREEDY, Beams, Hypothesis, Sampling, beam_search
from alignlab.decoding.beam import Candidate
from alignlab.exercises import check
from alignlab.tasks import scenes
from alignlab.transformer import Transformer


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


run = lab.Lab("ch04_decoding")
budget = run.budget(
    full={"scenes": 24, "compared": 3, "exponents": (0.0, 1.0, 2.0), "sampled_scenes": 6, "draws": 1200, "questions": 8, "said": 32, "open": 12, "tokens": 40, "widths": (1, 2, 4, 8), "short": 20, "tree": 12},
    quick={"scenes": 2, "compared": 1, "exponents": (1.0,), "sampled_scenes": 1, "draws": 100, "questions": 2, "said": 4, "open": 2, "tokens": 5, "widths": (1, 2), "short": 4, "tree": 2},
)  # fmt: skip
tiny, tiny_tokenizer = models.load("tiny", "cpu")
model, tokenizer = models.load("small")
device = next(model.parameters()).device
END = tiny_tokenizer.convert_tokens_to_ids(scenes.END)

SCENES = list(scenes.prompts("held-out"))[:: max(1, len(list(scenes.prompts("held-out"))) // budget.scenes)][: budget.scenes]
BEAR = "The old bear"
scene_ids = [tiny_tokenizer.encode(prompt, add_special_tokens=False) for prompt in SCENES]
bear_ids = tiny_tokenizer.encode(BEAR, add_special_tokens=False)

ending_ids = []  # token ids of each of the 1,100 endings, END included
for ending in scenes.ENDINGS:
    example = scenes.encode(tiny_tokenizer, BEAR, ending.text)
    ending_ids.append(tuple(id for id, marked in zip(example.ids, example.response_mask, strict=True) if marked))
truth = torch.tensor([0.5 / 100 if ending.time is None else 0.5 / 1000 for ending in scenes.ENDINGS] + [0.0], dtype=torch.float64)
print(f"{len(ending_ids):,} endings of {min(map(len, ending_ids))} to {max(map(len, ending_ids))} tokens; their true probabilities sum to {truth.sum():.3f}")

# %% [markdown]
# ### The exact distribution of any strategy that draws
#
# A sampler changes each next-token distribution, so the probability of a text is a product of changed ones,
# $q(y)=\prod_t q(y_t\mid y_{<t})$. The 1,100 endings share their beginnings, so a few thousand positions give all products. What is
# missing to 1 goes to texts that end no scene; we call them broken, and give them the last place.

# %%
places: dict[tuple[int, ...], int] = {}  # every beginning of an ending -> its row
for ids in ending_ids:
    for end in range(len(ids)):
        places.setdefault(ids[:end], len(places))
longest = max(map(len, ending_ids))
at = torch.zeros(len(ending_ids), longest, dtype=torch.long)  # (1100, T) the row of each position's beginning
chosen = torch.zeros_like(at)  # (1100, T) the token there
real = torch.zeros_like(at, dtype=torch.bool)
for row, ids in enumerate(ending_ids):
    at[row, : len(ids)] = torch.tensor([places[ids[:end]] for end in range(len(ids))])
    chosen[row, : len(ids)], real[row, : len(ids)] = torch.tensor(ids), True


@torch.inference_mode()
def all_logits(prompt_ids: list[int]) -> Tensor:
    """Next-token logits (beginnings, V) after a prompt and every beginning of an ending, in float64."""
    inputs = torch.cat([torch.tensor([prompt_ids]).expand(len(ending_ids), -1), chosen], dim=1)
    logits = Transformer.view(tiny)(inputs)[:, len(prompt_ids) - 1 : -1]  # (1100, T, V)
    found = torch.empty(len(places), logits.shape[-1], dtype=torch.float64)
    found[at[real]] = logits[real].double()
    return found


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (1101,) of all endings, and of a broken text, when each token is drawn by `sampling`."""
    cut = sampling.apply(logits, torch.zeros(len(logits), 0, dtype=torch.long)).log_softmax(-1)
    probs = (cut[at, chosen] * real).sum(-1).exp() if not cut.isinf().any() else cut[at, chosen].masked_fill(~real, 0).sum(-1).exp()
    return torch.cat([probs, (1 - probs.sum()).clamp_min(0)[None]])


bear_logits = all_logits(bear_ids)
model_probs = distribution(bear_logits, Sampling())
exact = scenes.exact_logprobs(tiny, tiny_tokenizer, [BEAR])[0].exp()
gap_exact = (model_probs[:-1] - exact).abs().max().item()
best = model_probs[:-1].topk(5)
run.table(
    [(scenes.ENDINGS[i].text, f"{p:.2%}", f"{truth[i]:.2%}") for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)],
    ("Ending", "Under tiny", "In the world"),
    caption=f"The likeliest of 1,100 endings of {BEAR!r}",
)
print(f"{len(places):,} beginnings; whole-text probabilities agree with alignlab.tasks.scenes to {gap_exact:.0e}; broken: {model_probs[-1]:.2%}")

# %% [markdown]
# ## Greedy search
#
# Take the likeliest token, append it, go on. Six lines, one pass over the whole text for each token; a KV cache saves the passes and
# changes nothing else.


# %%
@torch.inference_mode()
def greedy(model: torch.nn.Module, prompt_ids: list[int], new: int, stop: int | None = None) -> list[int]:
    """The new token ids, the stop token left out."""
    ids: list[int] = []
    for _ in range(new):
        next_id = int(model(torch.tensor([prompt_ids + ids], device=device)).logits[0, -1].argmax())
        if next_id == stop:
            break
        ids.append(next_id)
    return ids


def generated(model: torch.nn.Module, prompt_ids: list[int], new: int, **options: object) -> list[int]:
    """What transformers' generate adds to a prompt, its end token left out."""
    ids = torch.tensor([prompt_ids], device=next(model.parameters()).device)
    stop = options.setdefault("eos_token_id", None)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0, **options)
    added = out[0, len(prompt_ids) :].tolist()
    return added[: added.index(stop)] if stop in added else added


STOP = tokenizer.eos_token_id
WHO, SUM = (text.encode_prompt(tokenizer, question) for question in ("Who are you?", "What is 17 + 25?"))
greedy_same, greedy_said = [], []
rows = []
for question, ids in (("Who are you?", WHO), ("What is 17 + 25?", SUM)):
    ours = greedy(model, ids, budget.short, STOP)
    library = decoding.generate(model, [ids], budget.short, stop_id=STOP)[0].ids
    theirs = generated(model, ids, budget.short, eos_token_id=STOP)
    greedy_same.append(ours == library == theirs)
    greedy_said.append(tokenizer.decode(ours))
    rows.append((question, greedy_said[-1], "same tokens" if greedy_same[-1] else "different"))
run.table(rows, ("Asked", "Greedy answer", "alignlab and transformers"))

# %% [markdown]
# ### The likeliest tokens do not make the likeliest text
#
# In `tiny`'s world we can look. The mode is the most probable of the 1,100 endings.

# %%
scene_probs = [distribution(all_logits(ids), Sampling())[:-1] for ids in run.progress(scene_ids, "listing all endings")]
modes = [ending_ids[int(probs.argmax())] for probs in scene_probs]
mode_logprobs = [probs.max().log().item() for probs in scene_probs]

greedy_texts = decoding.generate(tiny, scene_ids, longest, stop_id=END)
greedy_is_mode = sum((*completion.ids, END) == mode for completion, mode in zip(greedy_texts, modes, strict=True)) / len(modes)
mean_mode = sum(map(math.exp, mode_logprobs)) / len(modes)
print(f"greedy search finds the mode after {greedy_is_mode:.0%} of {len(modes)} prompts; the mode itself has probability {mean_mode:.2%}")

# %% [markdown]
# ## Beam search
#
# Keep the $W$ best beginnings instead of one. In each step every beam proposes all its continuations; the best $2W$ of all are
# looked at. Those among the first $W$ that end are finished; of the rest the best $W$ go on. A finished text is compared by its
# log-probability divided by $|y|^\alpha$, where $|y|$ counts the new tokens, the end token included.


# %%
def beams_in_the_open(next_logprobs, new: int, width: int, alpha: float = 1.0, stop: int | None = None) -> list[tuple[float, tuple[int, ...]]]:
    """Finished texts as (score, ids), best first. next_logprobs: texts so far -> (texts, V) log-probabilities."""
    running: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, new + 1):
        logprobs = next_logprobs([ids for ids, _ in running])  # (W, V)
        totals = logprobs + torch.tensor([total for _, total in running])[:, None]
        top = totals.flatten().topk(2 * width)
        going = []
        for rank, (total, place) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
            parent, token = divmod(place, logprobs.shape[1])
            ids = (*running[parent][0], token)
            if token == stop or length == new:
                finished += [(total / length**alpha, ids)] if rank < width else []
            elif len(going) < width:
                going.append((ids, total))
        running, finished = going, sorted(finished, reverse=True)[:width]
        if len(finished) == width and running and running[0][1] / length**alpha <= finished[-1][0]:
            break  # early_stopping=False of transformers
    return finished


def reader(model: torch.nn.Module, prompt_ids: list[int], room: int):
    """next_logprobs for one prompt: it is read once, and its keys and values are shared by all that follows."""
    decoder = Transformer.view(model)
    where = next(model.parameters()).device
    kept = decoder.cache(1, len(prompt_ids) + room)
    with torch.inference_mode():
        decoder.hidden(torch.tensor([prompt_ids], device=where), None, kept)

    @torch.inference_mode()
    def next_logprobs(texts: list[tuple[int, ...]]) -> Tensor:
        cache = decoder.cache(len(texts), kept.capacity)
        cache.keys[:], cache.values[:], cache.length = kept.keys, kept.values, kept.length - 1
        ids = torch.tensor([[prompt_ids[-1], *ids] for ids in texts], device=where)
        return decoder.lm_head(decoder.hidden(ids, None, cache)[:, -1]).float().log_softmax(-1).cpu()

    return next_logprobs


# %% [markdown]
# ### Do they agree?
#
# Three implementations: the loop above; `decoding.beam_search`, which reads the prompt once, runs all prompts as one batch, and reorders only the
# new part of its KV cache; and transformers. On `tiny` over widths, exponents and ways of stopping, on SmolLM2 for the running examples.


# %%
def theirs(model, prompt_ids: list[int], new: int, stop: int, width: int, alpha: float, early) -> list[list[int]]:
    """All hypotheses of transformers' beam search."""
    ids = torch.tensor([prompt_ids], device=next(model.parameters()).device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, num_beams=width, num_return_sequences=width, do_sample=False,
        length_penalty=alpha, early_stopping=early, eos_token_id=stop, pad_token_id=stop,
    )  # fmt: skip
    added = out[:, len(prompt_ids) :].tolist()
    return [row[: row.index(stop)] if stop in row else row for row in added]


beam_same, open_same, compared = [], [], 0
for width, alpha, early in itertools.product((2, 4), budget.exponents, (False, True, "never")):
    ours = beam_search(tiny, scene_ids[: budget.compared], 14, width, length_penalty=alpha, early_stopping=early, stop_id=END)
    for ids, hypotheses in zip(scene_ids[: budget.compared], ours, strict=True):
        beam_same.append([hypothesis.ids for hypothesis in hypotheses] == theirs(tiny, ids, 14, END, width, alpha, early))
        compared += len(hypotheses)
        if early is False:
            in_open = [list(found)[:-1] if found[-1] == END else list(found) for _, found in beams_in_the_open(reader(tiny, ids, 16), 14, width, alpha, END)]
            open_same.append(in_open == [hypothesis.ids for hypothesis in hypotheses])
for ids in (WHO, SUM):
    [hypotheses] = beam_search(model, [ids], budget.short, 4, stop_id=STOP)
    beam_same.append([hypothesis.ids for hypothesis in hypotheses] == theirs(model, ids, budget.short, STOP, 4, 1.0, False))
    compared += len(hypotheses)
print(f"{sum(beam_same)} of {len(beam_same)} searches give the hypotheses of transformers, in the same order ({compared} texts); the open loop agrees in {sum(open_same)} of {len(open_same)}")

# %% [markdown]
# ### Against exhaustive search
#
# Beam search is no exact search: what falls out of the beam never comes back. Here is how often it finds the best of all texts.

# %%
found_mode, rows = {}, []
for width in run.progress([1, 2, 4, 8, 16, 32, 64], "widening the beam"):
    found = [hypotheses[0] for hypotheses in beam_search(tiny, scene_ids, longest, width, length_penalty=0.0, early_stopping="never", stop_id=END)]
    found_mode[width] = sum((*hypothesis.ids, END) == mode for hypothesis, mode in zip(found, modes, strict=True)) / len(modes)
    short = sum(mode - hypothesis.logprob for mode, hypothesis in zip(mode_logprobs, found, strict=True)) / len(modes)
    rows.append((width, f"{found_mode[width]:.0%}", f"{short:.3f}"))
run.table(rows, ("Width", "Finds the mode", "Nats below it, mean"), caption=f"{len(modes)} prompts, 1,100 endings each")

# %% [markdown]
# ## What length does to a score
#
# Each token costs log-probability, so a sum of logs prefers short texts. Dividing by $|y|^\alpha$ pays back: nothing at $\alpha=0$, the mean per
# token at $\alpha=1$, more than that above. Because log-probabilities are negative, *dividing by more* is what helps a long text.

# %%
SAID = [
    "Good morning!", "Hello!", "Good night.", "How are you?", "What is the capital of France?", "What is 17 + 25?", "See you tomorrow.",
    "Congratulations!",
][: budget.questions]  # fmt: skip
question_ids = [text.encode_prompt(tokenizer, question) for question in SAID]
by_alpha: dict[float, list[Hypothesis]] = {}
for alpha in run.progress([0.0, 1.0, 2.0], "length penalties"):
    found = beam_search(model, question_ids, budget.said, 4, length_penalty=alpha, early_stopping="never", stop_id=STOP)
    by_alpha[alpha] = [hypotheses[0] for hypotheses in found]


lengths = {alpha: mean(len(hypothesis.ids) for hypothesis in found) for alpha, found in by_alpha.items()}
run.table(
    [(alpha, f"{lengths[alpha]:.1f}", f"{mean(h.logprob for h in found):.1f}", f"{mean(h.ended for h in found):.0%}", tokenizer.decode(found[0].ids)) for alpha, found in by_alpha.items()],
    ("Exponent", "Tokens, mean", "Log-probability, mean", "Ended by itself", SAID[0]),
    caption=f"Width 4, {len(SAID)} prompts, at most {budget.said} tokens",
)

# %% [markdown]
# ### The curse of the wide beam
#
# A wider beam finds likelier texts. Are they better? First the same prompts again, at $\alpha=0$, where the score is the log-probability itself.

# %%
curse: dict[int, list[Hypothesis]] = {}
for width in run.progress(budget.widths, "widening the beam"):
    found = beam_search(model, question_ids, budget.said, width, length_penalty=0.0, early_stopping="never", stop_id=STOP)
    curse[width] = [hypotheses[0] for hypotheses in found]
run.table(
    [(width, f"{mean(h.logprob for h in found):.2f}", f"{mean(len(h.ids) for h in found):.1f}", tokenizer.decode(found[1].ids)) for width, found in curse.items()],
    ("Width", "Log-probability, mean", "Tokens, mean", SAID[1]),
)

# %% [markdown]
# ## Beams that differ, and beams that must
#
# The $W$ results of a beam often differ in a comma. **Diverse beam search** splits the beam into groups; within a step, a group pays $\lambda$ nats for each
# token that an earlier group took. **Constrained beam search** must contain given phrases: it deals the beam's places to banks, one for each number of
# phrase tokens in place, so that a beam that has begun a phrase is not pushed out by likelier ones that have not. transformers 5 has neither any more:

# %%
moved = {mode.value: repo for mode, repo in GENERATION_MODES_MAPPING.items() if "/" in repo}
run.table(list(moved.items()), ("Strategy", "Where transformers 5 keeps it"), caption="Each is a repository of its own, run as custom code")

# %% [markdown]
# So there is no peer in this environment, and the comparison is with truth instead: for phrases, the best of all endings that hold them; for groups (in the tests), the
# definition computed anew for each candidate.

# %%
PHRASES = [" at night", " on Friday", " by the river", " dances"]
phrase_ids = [tiny_tokenizer.encode(phrase, add_special_tokens=False) for phrase in PHRASES]
constrained = {width: [0, 0, 0] for width in (1, 2, 4, 8, 16, 32)}  # searches, holds the phrase, is the best that does
some, some_probs = scene_ids[: budget.sampled_scenes], scene_probs[: budget.sampled_scenes]
for (phrase, wanted), width in run.progress(list(itertools.product(zip(PHRASES, phrase_ids, strict=True), constrained)), "phrases"):
    holds = torch.tensor([phrase in ending.text for ending in scenes.ENDINGS])
    found = beam_search(tiny, some, longest, width, phrases=[wanted], length_penalty=0.0, early_stopping="never", stop_id=END)
    for hypotheses, probs in zip(found, some_probs, strict=True):
        best_with = ending_ids[int(probs.masked_fill(~holds, 0).argmax())]
        tally = constrained[width]
        tally[0] += 1
        tally[1] += phrase in tiny_tokenizer.decode(hypotheses[0].ids)
        tally[2] += (*hypotheses[0].ids, END) == best_with
run.table([(width, f"{b / a:.0%}", f"{c / a:.0%}") for width, (a, b, c) in constrained.items()], ("Width", "Holds the phrase", "Best of all that do"))


# %%
def different(texts: list[list[int]]) -> float:
    """Share of different pairs of neighbouring tokens among all pairs of a set of texts (distinct-2)."""
    pairs = [pair for ids in texts for pair in itertools.pairwise(ids)]
    return len(set(pairs)) / max(1, len(pairs))


OPEN = [
    "She opened the box and inside was", "The best way to learn a language is", "Once upon a time there was a king who", "In the year 2050, people",
    "The old man looked at the sea and", "My favorite thing about the city is", "When the lights went out,", "The train was late again, so",
    "Nobody in the village knew why", "The recipe begins with", "After the storm the children", "It was a cold morning in",
][: budget.open]  # fmt: skip
open_ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in OPEN]
variety = {}
for strength in run.progress([None, 0.0, 0.5, 1.0, 2.0], "groups"):
    options = {} if strength is None else {"groups": 4, "diversity": strength}
    found = beam_search(model, open_ids[:4], budget.short, 4, **options)
    sets = [[hypothesis.ids for hypothesis in hypotheses] for hypotheses in found]
    variety[strength] = (mean(map(different, sets)), mean(h.logprob / len(h.ids) for hypotheses in found for h in hypotheses), sets[0])
run.table(
    [("one group of 4" if strength is None else f"4 groups, penalty {strength}", f"{v:.2f}", f"{s:.2f}", " / ".join(tokenizer.decode(ids[:7]) for ids in sets)) for strength, (v, s, sets) in variety.items()],
    ("Beams", "Distinct-2 of the four", "Log-probability a token", OPEN[0] + " ..."),
)

# %% [markdown]
# ## Drawing instead of searching
#
# Lab ch04_next_token builds temperature, top-k, top-p and min-p on one position. Two more belong to the family. **Typical** sampling keeps tokens whose surprise is nearest the
# entropy; **eta** sampling keeps tokens above $\min(\epsilon,\sqrt\epsilon\,e^{-H})$, a threshold that falls where the model is undecided. Eta in the open, and then all of them against transformers:


# %%
def eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keep tokens with p >= min(epsilon, sqrt(epsilon) exp(-H)). (B, V) -> (B, V)."""
    p = logits.softmax(-1)
    entropy = -torch.xlogy(p, p).sum(-1, keepdim=True)
    threshold = (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon)
    return logits.masked_fill(p < threshold, -torch.inf)


SAMPLERS: dict[str, tuple[Sampling, dict[str, float]]] = {  # ours, and the same for transformers
    "T 1": (Sampling(), {}),
    "T 0.7": (Sampling(temperature=0.7), {"temperature": 0.7}),
    "T 1.5": (Sampling(temperature=1.5), {"temperature": 1.5}),
    "top-k 5": (Sampling(top_k=5), {"top_k": 5}),
    "top-p 0.9": (Sampling(top_p=0.9), {"top_p": 0.9}),
    "top-p 0.99": (Sampling(top_p=0.99), {"top_p": 0.99}),
    "min-p 0.1": (Sampling(min_p=0.1), {"min_p": 0.1}),
    "min-p 0.02": (Sampling(min_p=0.02), {"min_p": 0.02}),
    "typical 0.9": (Sampling(typical=0.9), {"typical_p": 0.9}),
    "eta 0.01": (Sampling(eta=0.01), {"eta_cutoff": 0.01}),
    "T 1.5, min-p 0.1": (Sampling(temperature=1.5, min_p=0.1), {"temperature": 1.5, "min_p": 0.1}),
}
real_logits = torch.stack([reader(model, ids, 2)([()])[0].double() for ids in (WHO, SUM, *open_ids)])  # (prompts, 49152)
no_context = torch.zeros(len(real_logits), 0, dtype=torch.long)
gap_processors, kept_same = 0.0, []
for ours, options in SAMPLERS.values():
    settings = model._get_logits_processor(  # what generate itself makes of these options
        generation_config=model._prepare_generation_config(None, do_sample=True, top_k=options.get("top_k", 0), **{k: v for k, v in options.items() if k != "top_k"})[0],
        input_ids_seq_length=1, device=real_logits.device,
    )  # fmt: skip
    want, got = settings(no_context, real_logits.clone()), ours.apply(real_logits, no_context)
    kept_same.append(bool((want.isinf() == got.isinf()).all()))
    gap_processors = max(gap_processors, (want.softmax(-1) - got.softmax(-1)).abs().max().item())
gap_eta = (eta(real_logits, 0.01).softmax(-1) - decoding.eta(real_logits, 0.01).softmax(-1)).abs().max().item()
print(f"{len(SAMPLERS)} samplers on {len(real_logits)} real distributions: the same tokens kept in {sum(kept_same)}, probabilities within {gap_processors:.0e}; eta in the open within {gap_eta:.0e}")

# %% [markdown]
# ### Drawn texts against the exact distribution
#
# Whole texts, drawn by `decoding.generate` and by transformers' `generate`, counted in 21 classes (verb, with a time or without, and broken), against the exact sums: a chi-squared
# test. The last row is a **wrong sampler**: it truncates first and applies the temperature afterwards. It must be found out.

# %%
CLASSES = sorted({(ending.verb, ending.time is None) for ending in scenes.ENDINGS})
class_of = torch.tensor([CLASSES.index((ending.verb, ending.time is None)) for ending in scenes.ENDINGS] + [len(CLASSES)])
number = {ids: row for row, ids in enumerate(ending_ids)}


def classes(texts: list[tuple[int, ...]]) -> Tensor:
    """Counts (21,) of texts, END included."""
    return torch.bincount(class_of[[number.get(ids, len(number)) for ids in texts]], minlength=len(CLASSES) + 1).double()


def p_value(counts: Tensor, probs: Tensor) -> float:
    """Chance of a deviation as large as that of counts (21,) from probs (1101,), classes below 5 expected pooled."""
    expected = torch.zeros_like(counts).scatter_add(0, class_of, probs) * counts.sum()
    large = expected >= 5
    pooled = [torch.cat([side[large], side[~large].sum()[None]]) for side in (counts, expected)]
    seen, due = (side[pooled[1] > 1e-9] for side in pooled)
    if (pooled[0][pooled[1] <= 1e-9] > 0).any():
        return 0.0
    statistic = ((seen - due).square() / due).sum()
    return torch.special.gammaincc(torch.tensor((len(due) - 1) / 2, dtype=torch.float64), statistic / 2).item()


def drawn(sampling: Sampling, count: int, processor=None) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    found = decoding.generate(tiny, [bear_ids] * count, longest, sampling, stop_id=END, generator=generator, processor=processor)
    return [(*completion.ids, END) if completion.ended else tuple(completion.ids) for completion in found]


def drawn_by_transformers(options: dict[str, float], count: int) -> list[tuple[int, ...]]:
    torch.manual_seed(1)
    out = tiny.generate(
        torch.tensor([bear_ids]), attention_mask=torch.ones(1, len(bear_ids), dtype=torch.long), do_sample=True, max_new_tokens=longest,
        num_return_sequences=count, eos_token_id=END, pad_token_id=END, **{"top_k": 0, **options},
    )  # fmt: skip
    rows = out[:, len(bear_ids) :].tolist()
    return [tuple(row[: row.index(END) + 1]) if END in row else tuple(row) for row in rows]


ours_p, theirs_p, rows = {}, {}, []
for name, (sampling, options) in run.progress(SAMPLERS.items(), "drawing"):
    probs = distribution(bear_logits, sampling)
    ours_p[name] = p_value(classes(drawn(sampling, budget.draws)), probs)
    theirs_p[name] = p_value(classes(drawn_by_transformers(options, budget.draws)), probs)
    rows.append((name, f"{ours_p[name]:.3f}", f"{theirs_p[name]:.3f}"))


def truncates_first(logits: Tensor, new_ids: list[list[int]]) -> Tensor:
    """Top-p 0.8 before the temperature that `generate` applies afterwards."""
    return decoding.top_p(logits, 0.8)


right_order = distribution(bear_logits, Sampling(temperature=1.5, top_p=0.8))
wrong_p = p_value(classes(drawn(Sampling(temperature=1.5), budget.draws, truncates_first)), right_order)
right_p = p_value(classes(drawn(Sampling(temperature=1.5, top_p=0.8), budget.draws)), right_order)
rows += [("T 1.5, top-p 0.8", f"{right_p:.3f}", ""), ("the same, truncated before the temperature", f"{wrong_p:.1e}", "")]
run.table(rows, ("Sampler", "alignlab", "transformers"), caption=f"p-values, {budget.draws:,} texts each")

# %% [markdown]
# ### Which sampler is best? An exact answer, once
#
# On real text quality is estimated: MAUVE (Pillutla et al., 2021) compares samples with human text by a curve of KL divergences to mixtures of both. Here both distributions are known, so the same
# number needs no estimate. *Broken* is what fluency loses, *in use* what variety loses, total variation $\frac12\sum|p-q|$ is the share of probability in the wrong place.


# %%
def mauve(p: Tensor, q: Tensor, scale: float = 5.0) -> float:
    """Area under (exp(-c KL(q | r)), exp(-c KL(p | r))) over mixtures r of p and q: 1 where they are equal."""

    def kl(a: Tensor, b: Tensor) -> float:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum().item()

    curve = [(0.0, 1.0)]
    for weight in torch.linspace(1e-6, 1 - 1e-6, 25, dtype=torch.float64).tolist():
        mixture = weight * p + (1 - weight) * q
        curve.append((math.exp(-scale * kl(q, mixture)), math.exp(-scale * kl(p, mixture))))
    curve.append((1.0, 0.0))
    ordered = sorted(curve, key=lambda point: (point[0], -point[1]))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(ordered))


quality: dict[str, list[tuple[float, float, float, float]]] = {}
for ids in run.progress(scene_ids[: budget.sampled_scenes], "exact distributions"):
    logits = all_logits(ids)
    greedy_probs = torch.zeros(len(truth), dtype=torch.float64)
    greedy_probs[number.get((*decoding.generate(tiny, [ids], longest, stop_id=END)[0].ids, END), -1)] = 1.0
    for name, probs in {"greedy": greedy_probs, **{name: distribution(logits, sampling) for name, (sampling, _) in SAMPLERS.items()}}.items():
        whole = probs[:-1] / probs[:-1].sum().clamp_min(1e-300)
        entropy = -torch.xlogy(whole, whole).sum().item()  # of the endings that are not broken
        quality.setdefault(name, []).append((probs[-1].item(), math.exp(entropy), (probs - truth).abs().sum().item() / 2, mauve(truth, probs)))
exactly = {name: [mean(column) for column in zip(*values, strict=True)] for name, values in quality.items()}
run.table(
    [(name, f"{broken:.2%}", f"{use:,.0f}", f"{tv:.3f}", f"{score:.3f}") for name, (broken, use, tv, score) in exactly.items()],
    ("Strategy", "Broken", "Endings in use, exp(entropy)", "Total variation to the world", "MAUVE, exactly"),
    caption=f"Mean over {budget.sampled_scenes} prompts. The world itself: 0%, {math.exp(-torch.xlogy(truth, truth).sum().item()):,.0f}, 0, 1",
)
fig = go.Figure()
for name, (broken, use, tv, _) in exactly.items():
    fig.add_scatter(x=[use], y=[broken], mode="markers+text", text=[name], textposition="top center", name=name, showlegend=False, marker={"size": 8 + 20 * (1 - tv)})
fig.update_layout(title="Fluency against variety (larger: nearer the world)", xaxis_title="endings in use", yaxis_title="broken", yaxis_tickformat=".1%")
run.figure(fig, "Each strategy as a point: endings in use on one axis, share of broken texts on the other.")

# %% [markdown]
# ## Repetition, and what is done against it
#
# Now real text. Greedy and beam search on open prompts have a well-known face:

# %%
loop = decoding.generate(model, open_ids[:1], 2 * budget.tokens)[0].ids
print(OPEN[0] + tokenizer.decode(loop))

# %% [markdown]
# Five remedies, in the open. $z$ are logits, $c_v$ counts token $v$ in the new text so far.


# %%
def occurrence_penalty(z: Tensor, new_ids: list[int], frequency: float, presence: float) -> Tensor:
    """z_v - frequency * c_v - presence * [c_v > 0]; the interface of OpenAI and vLLM."""
    counts = torch.zeros_like(z)
    for token, times in Counter(new_ids).items():
        counts[token] = times
    return z - frequency * counts - presence * (counts > 0)


def no_repeat(z: Tensor, ids: list[int], n: int) -> Tensor:
    """Forbid each token that followed an earlier occurrence of the last n - 1 tokens."""
    last = ids[len(ids) - n + 1 :]
    banned = [ids[place + n - 1] for place in range(len(ids) - n + 1) if ids[place : place + n - 1] == last]
    return z.index_fill(-1, torch.tensor(banned, dtype=torch.long), -torch.inf)


@torch.inference_mode()
def contrastive(model: torch.nn.Module, prompt_ids: list[int], new: int, k: int, alpha: float) -> list[int]:
    """Of the k likeliest tokens the one with the highest (1 - alpha) p - alpha max cosine to a state so far."""
    ids = list(prompt_ids)
    for _ in range(new):
        probs, candidates = model(torch.tensor([ids], device=device)).logits[0, -1].softmax(-1).topk(k)
        texts = torch.tensor([[*ids, token] for token in candidates.tolist()], device=device)
        states = torch.nn.functional.normalize(model(texts, output_hidden_states=True).hidden_states[-1], dim=-1)  # (k, T, H)
        penalty = (states[:, -1:] * states[:, :-1]).sum(-1).amax(-1)  # (k,)
        ids.append(int(candidates[((1 - alpha) * probs - alpha * penalty).argmax()]))
    return ids[len(prompt_ids) :]


z, told = 3 * torch.randn(512, generator=torch.Generator().manual_seed(0)), [7, 8, 9, 7, 8]
remedies_same = [
    torch.allclose(occurrence_penalty(z, told, 0.5, 1.0), decoding.occurrence_penalty(z[None], torch.tensor([told]), 0.5, 1.0)[0]),
    torch.equal(no_repeat(z, told, 3), decoding.no_repeat_ngram(z[None], torch.tensor([told]), 3)[0]),
    contrastive(model, open_ids[0], budget.short // 2, 4, 0.6) == decoding.contrastive_search(model, open_ids[:1], budget.short // 2)[0].ids,
    decoding.generate(model, open_ids[:1], budget.short, Sampling(temperature=0, no_repeat_ngram=3))[0].ids == generated(model, open_ids[0], budget.short, no_repeat_ngram_size=3),
    decoding.generate(model, open_ids[:1], budget.short, Sampling(temperature=0, repetition_penalty=1.2))[0].ids == generated(model, open_ids[0], budget.short, repetition_penalty=1.2),
]
print(f"{sum(remedies_same)} of {len(remedies_same)} remedies agree with the library or with transformers")

# %% [markdown]
# ### Fifteen strategies, measured
#
# **Repetition** is the share of a text's four-token sequences that occurred in it before; **distinct-2** the share of different pairs over all texts; **perplexity** $e^{-\frac1T\sum\log p}$ is the model's own. A
# low perplexity is no merit by itself: text drawn from the model at temperature 1 shows what the model takes ordinary text to be.

# %%
STRATEGIES = {
    "greedy": GREEDY,
    "beam 4": {"width": 4},
    "beam 4, no 3-gram twice": {"width": 4, "penalties": Sampling(temperature=0, no_repeat_ngram=3)},
    "contrastive k 4, 0.6": None,
    "greedy, repetition 1.2": Sampling(temperature=0, repetition_penalty=1.2),
    "greedy, frequency 1": Sampling(temperature=0, frequency_penalty=1.0),
    "greedy, presence 1.5": Sampling(temperature=0, presence_penalty=1.5),
    "greedy, no 3-gram twice": Sampling(temperature=0, no_repeat_ngram=3),
    "T 0.7": Sampling(temperature=0.7),
    "T 1": Sampling(),
    "top-k 50": Sampling(top_k=50),
    "top-p 0.9": Sampling(top_p=0.9),
    "min-p 0.1": Sampling(min_p=0.1),
    "typical 0.9": Sampling(typical=0.9),
    "eta 0.002": Sampling(eta=0.002),
}


def continuations(strategy) -> list[list[int]]:
    """The continuations of all open prompts, budget.tokens each."""
    if strategy is None:
        return [completion.ids for completion in decoding.contrastive_search(model, open_ids, budget.tokens)]
    if isinstance(strategy, dict):
        return [hypotheses[0].ids for hypotheses in beam_search(model, open_ids, budget.tokens, **strategy)]
    generator = torch.Generator(device).manual_seed(0)
    return [completion.ids for completion in decoding.generate(model, open_ids, budget.tokens, strategy, generator=generator)]


def repetition(ids: list[int], n: int = 4) -> float:
    """Share of n-grams of a text that occurred in it before."""
    grams = [tuple(ids[place : place + n]) for place in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams)


def surprise(texts: list[list[int]]) -> list[float]:
    """Mean -log p (nats) of each text's tokens under the model."""
    batch = text.pad([text.join(prompt, ids) for prompt, ids in zip(open_ids, texts, strict=True)], tokenizer.pad_token_id or 0)
    with torch.no_grad():
        sums = logprobs.sequence_logprobs(model, *batch.to(device))
    return [-total / len(ids) for total, ids in zip(sums.tolist(), texts, strict=True)]


said, measured = {}, {}
for name, strategy in run.progress(STRATEGIES.items(), "fifteen strategies"):
    said[name] = continuations(strategy)
    nats = surprise(said[name])
    measured[name] = (mean(map(repetition, said[name])), different(said[name]), math.exp(mean(nats)))
run.table(
    [(name, f"{rep:.0%}", f"{distinct:.2f}", f"{ppl:.1f}", "..." + tokenizer.decode(said[name][min(4, len(OPEN) - 1)][:24])) for name, (rep, distinct, ppl) in measured.items()],
    ("Strategy", "Repetition", "Distinct-2", "Perplexity", OPEN[min(4, len(OPEN) - 1)]),
    caption=f"{len(OPEN)} prompts, {budget.tokens} new tokens each, no stop token",
)

# %%
fig = go.Figure()
for name, (rep, _, ppl) in measured.items():
    fig.add_scatter(x=[ppl], y=[rep], mode="markers+text", text=[name], textposition="top center", showlegend=False, name=name)
fig.add_vline(x=measured["T 1"][2], line_dash="dot")
fig.update_layout(title="Repetition and perplexity of fifteen strategies", xaxis_title="perplexity under the model (dotted: its own samples)", yaxis_title="repeated four-grams", yaxis_tickformat=".0%", xaxis_type="log")
run.figure(fig, "Search stands at low perplexity and high repetition; sampling at higher perplexity with next to none.")

# %% [markdown]
# ## As one would at work: the parameters of `generate`
#
# transformers' `generate` takes all of the above as arguments, and some more that each are a rule on logits. With the `processor` hook of `decoding.generate` a rule is a function of a few lines.
# Six of them, on `tiny`, against the argument of transformers that does the same:

# %%
DOT, NIGHT = (tiny_tokenizer.encode(piece, add_special_tokens=False) for piece in (".", " at night"))
SINGS = tiny_tokenizer.encode(" sings", add_special_tokens=False)


def min_new_tokens(least: int):
    """No end token among the first `least`."""
    return lambda z, new: z.index_fill(1, torch.tensor([END]), -torch.inf) if len(new[0]) < least else z


def suppress(ids: list[int]):
    """These tokens never."""
    return lambda z, new: z.index_fill(1, torch.tensor(ids), -torch.inf)


def bad_words(words: list[list[int]]):
    """The last token of a word is forbidden where the rest of it has just been written."""

    def rule(z: Tensor, new: list[list[int]]) -> Tensor:
        for row, ids in enumerate(new):
            for *begun, last in words:
                if ids[len(ids) - len(begun) :] == begun:
                    z[row, last] = -torch.inf
        return z

    return rule


def sequence_bias(token: int, bias: float):
    """A token made likelier, or less likely, everywhere."""
    return lambda z, new: z.index_add(1, torch.tensor([token]), torch.full((len(z), 1), bias))


def forced_end(limit: int):
    """The end token, and no other, as the last one."""
    return lambda z, new: z if len(new[0]) < limit - 1 else torch.full_like(z, -torch.inf).index_fill(1, torch.tensor([END]), 0.0)


def decay(start: int, factor: float):
    """After `start` tokens the end token gains |z| (factor^(tokens since) - 1)."""

    def rule(z: Tensor, new: list[list[int]]) -> Tensor:
        since = len(new[0]) - start
        z[:, END] += z[:, END].abs() * (factor**since - 1) if since > 0 else 0.0
        return z

    return rule


first = decoding.generate(tiny, [bear_ids], longest, stop_id=END)[0].ids
RULES = {
    "min_new_tokens": (min_new_tokens(14), {"min_new_tokens": 14}),
    "suppress_tokens": (suppress(first[1:2]), {"suppress_tokens": first[1:2]}),
    "bad_words_ids": (bad_words([first[1:3]]), {"bad_words_ids": [first[1:3]]}),
    "sequence_bias": (sequence_bias(NIGHT[0], 5.0), {"sequence_bias": {(NIGHT[0],): 5.0}}),
    "forced_eos_token_id": (forced_end(5), {"forced_eos_token_id": END}),
    "exponential_decay_length_penalty": (decay(1, 3.0), {"exponential_decay_length_penalty": (1, 3.0)}),
}
rows, rules_same, rules_act = [("(none)", tiny_tokenizer.decode(first), "")], [], []
for name, (rule, options) in RULES.items():
    limit = 5 if name == "forced_eos_token_id" else 18
    ours = decoding.generate(tiny, [bear_ids], limit, stop_id=END, processor=rule)[0].ids
    rules_same.append(ours == generated(tiny, bear_ids, limit, eos_token_id=END, **options))
    rules_act.append(ours != first)
    rows.append((name, tiny_tokenizer.decode(ours), "same tokens" if rules_same[-1] else "different"))
run.table(rows, ("Parameter", BEAR + " ...", "transformers"))

# %% [markdown]
# ## Grow a beam yourself
#
# The tree below holds the candidates of every width up to five, with SmolLM2's log-probabilities. The figure runs the search on them; its results are those of `decoding.beam_search`.

# %%
TREES = [
    ("Who are you?", WHO),
    ("What is 17 + 25?", SUM),
    ("Good morning!", text.encode_prompt(tokenizer, "Good morning!")),
    ("She opened the box and inside was", tokenizer.encode("She opened the box and inside was", add_special_tokens=False)),
]


class Patient(Beams):
    """Never stops before its last token: then the candidates serve every way of stopping."""

    def _settled(self, length: int) -> bool:
        return False


def tree(prompt_ids: list[int], widest: int, depth: int) -> list[dict[str, object]]:
    """Every candidate that a beam of width 1 to `widest` looks at: parent, text, log-probability, whether it ends."""
    next_logprobs = reader(model, prompt_ids, depth + 1)
    seen: dict[tuple[int, ...], list[tuple[float, int]]] = {}  # a beginning -> its best continuations
    nodes: dict[tuple[int, ...], float] = {}
    searches = [Patient(width, depth, length_penalty=0.0, early_stopping="never", stop_id=STOP) for width in range(1, widest + 1)]
    for _ in range(depth):
        new = list(dict.fromkeys(beam.ids for search in searches for beam in search.running if beam.ids not in seen))
        if new:
            best = next_logprobs(new).topk(2 * widest)
            for ids, values, tokens in zip(new, best.values.tolist(), best.indices.tolist(), strict=True):
                seen[ids] = list(zip(values, tokens, strict=True))
        for search in searches:
            candidates = [
                Candidate(place, token, beam.logprob + value, beam.score + value)
                for place, beam in enumerate(search.running)
                for value, token in seen[beam.ids]
            ]
            candidates = nlargest(2 * search.width, candidates, key=lambda candidate: candidate.score)
            for candidate in candidates:
                parent = search.running[candidate.parent]
                nodes[(*parent.ids, candidate.token)] = candidate.logprob - parent.logprob
            search.advance(candidates)
    order = {(): 0} | {ids: row for row, ids in enumerate(sorted(nodes, key=lambda ids: (len(ids), nodes[ids] * -1)), start=1)}
    return [
        {"parent": order[ids[:-1]], "text": "" if ids[-1] == STOP else tokenizer.decode([ids[-1]]), "logprob": nodes[ids], "end": ids[-1] == STOP}
        for ids in list(order)[1:]
    ]


trees = [{"title": title, "ids": ids, "nodes": tree(ids, 5, budget.tree)} for title, ids in run.progress(TREES, "growing trees")]
run.explorer(
    "beam_tree",
    {
        "model": "SmolLM2-135M-Instruct",
        "widest": 5,
        "depth": budget.tree,
        "start": {"tree": 2, "width": 3, "alpha": 1.0, "step": 4},
        "try": "Step through the search at width 3. Then set the length penalty to 0: which text wins now?",
        "trees": trees,
    },
    digits=6,
)

# %% [markdown]
# ## Results
#
# Named, as the book prints them, and claimed, so that a change that breaks them stops this lab.

# %%
narrowest, widest = budget.widths[0], budget.widths[-1]
run.result("tokens", budget.tokens)
run.result("said_tokens", budget.said)
run.result("hello_narrow", None, text=tokenizer.decode(curse[narrowest][1].ids))
run.result("hello_wide", None, text=tokenizer.decode(curse[widest][1].ids))
run.result("morning_0", None, text=tokenizer.decode(by_alpha[0.0][0].ids))
run.result("morning_2", None, text=tokenizer.decode(by_alpha[2.0][0].ids))
run.result("open_prompts", len(OPEN))
run.result("samplers", len(SAMPLERS))
run.result("greedy_who", None, text=" ".join(greedy_said[0].split()[:6]))
run.result("greedy_sum", None, text=" ".join(greedy_said[1].split()))
run.result("mode_probability", mean_mode, format=".2%")
run.result("greedy_is_mode", greedy_is_mode, format=".0%")
run.result("broken", model_probs[-1], format=".1%")
run.result("searches", len(beam_same))
run.result("hypotheses", compared)
for width in (2, 4, 8, 16, 32, 64):
    run.result(f"mode_found_{width}", found_mode[width], format=".0%")
for alpha, name in ((0.0, "0"), (1.0, "1"), (2.0, "2")):
    run.result(f"length_alpha_{name}", lengths[alpha], format=".1f")
for width, name in ((narrowest, "narrow"), (widest, "wide")):
    run.result(f"curse_logprob_{name}", mean(h.logprob for h in curse[width]), format=".1f")
    run.result(f"curse_length_{name}", mean(len(h.ids) for h in curse[width]), format=".1f")
run.result("phrase_best_1", constrained[1][2] / constrained[1][0], format=".0%")
run.result("phrase_best_4", constrained[4][2] / constrained[4][0], format=".0%")
run.result("phrase_best_32", constrained[32][2] / constrained[32][0], format=".0%")
run.result("diverse_off", variety[None][0], format=".2f")
run.result("diverse_on", variety[1.0][0], format=".2f")
run.result("diverse_cost", variety[None][1] - variety[1.0][1], format=".2f")
for name, key in (("greedy", "greedy"), ("t1", "T 1"), ("t07", "T 0.7"), ("t15", "T 1.5"), ("k5", "top-k 5"), ("p90", "top-p 0.9"), ("p99", "top-p 0.99"), ("m10", "min-p 0.1"), ("m02", "min-p 0.02"), ("typical", "typical 0.9"), ("eta", "eta 0.01"), ("hot_m10", "T 1.5, min-p 0.1")):  # fmt: skip
    for what, value, shape in zip(("broken", "use", "tv", "mauve"), exactly[key], (".2%", ",.0f", ".3f", ".3f"), strict=True):
        run.result(f"{what}_{name}", value, format=shape)
run.result("p_least", min(*ours_p.values(), *theirs_p.values(), right_p), format=".2f")
run.result("p_wrong", wrong_p, format=".0e")
for name, key in (("greedy", "greedy"), ("beam", "beam 4"), ("contrastive", "contrastive k 4, 0.6"), ("repetition", "greedy, repetition 1.2"), ("frequency", "greedy, frequency 1"), ("presence", "greedy, presence 1.5"), ("ngram", "greedy, no 3-gram twice"), ("t1", "T 1"), ("t07", "T 0.7"), ("p90", "top-p 0.9"), ("m10", "min-p 0.1"), ("eta", "eta 0.002")):  # fmt: skip
    for what, value, shape in zip(("repeats", "distinct", "perplexity"), measured[key], (".0%", ".2f", ".1f"), strict=True):
        run.result(f"{what}_{name}_real" if what != "repeats" else f"repeats_{name}", value, format=shape)
run.result("tree_nodes", sum(len(one["nodes"]) for one in trees))

run.claim("exact probabilities agree with alignlab.tasks.scenes to 1e-6", gap_exact < 1e-6)
run.claim("greedy search: ours, alignlab's and transformers' tokens are the same", all(greedy_same))
run.claim("beam search: every hypothesis is transformers', in its order", all(beam_same))
run.claim("beam search in the open finds the same hypotheses", all(open_same))
run.claim("a wider beam finds the mode no less often, and width 64 more often than greedy search", found_mode[64] >= found_mode[8] >= found_mode[1] and found_mode[64] > greedy_is_mode)
run.claim("a larger exponent gives longer texts", lengths[0.0] < lengths[1.0] < lengths[2.0])
run.claim("a wider beam finds likelier texts, and at exponent 0 shorter ones", mean(h.logprob for h in curse[widest]) > mean(h.logprob for h in curse[narrowest]) and mean(len(h.ids) for h in curse[widest]) < mean(len(h.ids) for h in curse[narrowest]))
run.claim("a constrained beam always holds its phrase", all(tally[1] == tally[0] for tally in constrained.values()))
run.claim("groups that pay for likeness differ more than the beams of one group", variety[1.0][0] > variety[None][0])
run.claim("all samplers keep the tokens that transformers keeps, probabilities within 1e-5", all(kept_same) and gap_processors < 1e-5 and gap_eta < 1e-5)
run.claim("no sampler's texts deviate from the exact distribution", min(*ours_p.values(), *theirs_p.values(), right_p) > 0.001)
run.claim("truncation before the temperature is found out", wrong_p < 1e-6)
run.claim("the exact MAUVE of the model itself is above that of greedy search", exactly["T 1"][3] > exactly["greedy"][3])
run.claim("a light cut brings the model nearer to its world than it is, a heavy one takes it farther", exactly["min-p 0.02"][2] < exactly["T 1"][2] < exactly["top-p 0.9"][2] and exactly["min-p 0.02"][3] > exactly["T 1"][3])
run.claim("all remedies agree with the library or with transformers", all(remedies_same))
run.claim("all six rules give transformers' tokens, and each changes the text", all(rules_same) and all(rules_act))
run.claim("greedy and beam search repeat themselves, sampling at temperature 1 hardly", min(measured["greedy"][0], measured["beam 4"][0]) > 5 * measured["T 1"][0])
run.claim("without a third token in a row twice nothing is repeated", measured["greedy, no 3-gram twice"][0] == 0)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Length penalty** (difficulty 1, 3 minutes). Scores (N,) of finished texts from their log-probabilities (N,), their lengths (N,) and the exponent.


# %%
def my_length_penalty(logprobs: Tensor, lengths: Tensor, alpha: float) -> Tensor: ...


check("decoding.length_penalty", my_length_penalty)

# %% [markdown]
# **2. One step of a beam** (difficulty 2, 8 minutes). From the beams' totals (W,) and the next tokens' log-probabilities (W, V): parents, tokens and totals, each
# (count,), of the best continuations of all beams together.


# %%
def my_beam_step(totals: Tensor, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]: ...


check("decoding.beam_step", my_beam_step)

# %% [markdown]
# **3. No n-gram twice** (difficulty 2, 6 minutes). The set of tokens that must not come next, so that no n tokens in a row occur twice in `ids`.


# %%
def my_no_repeat(ids: list[int], n: int) -> set[int]: ...


check("decoding.no_repeat", my_no_repeat)

# %% [markdown]
# **4. Contrastive score** (difficulty 2, 6 minutes). Scores (k,) of candidates with probabilities (k,) and hidden states (k, H), given the states so far (T, H).


# %%
def my_contrastive(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor: ...


check("decoding.contrastive", my_contrastive)

# %% [markdown]
# **5. The chance of a text** (difficulty 2, 6 minutes). The probability that top-k sampling draws the tokens `ids`, from the logits (T, V) at their positions.


# %%
def my_text_probability(logits: Tensor, ids: list[int], k: int) -> Tensor: ...


check("decoding.text_probability", my_text_probability)
