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
# # Chain of thought: what more tokens buy
#
# A model may answer at once, think aloud, think aloud twenty times and vote, or search among its own thoughts. Each costs
# tokens. In this lab you buy accuracy with tokens in five ways, on the same problems, and see which is worth its price.
#
# - **You will** teach `tiny` to add several numbers in four ways that differ only in *where its tokens stand*; find out why
#   only one of them works; build self-consistency, tree of thoughts and graph of thoughts; plot accuracy against tokens, with
#   intervals; and see three failures: a vote that is sure and wrong, a chain that does not carry its answer, and a chain that
#   costs you an answer you already had.
# - **Time:** about 4 minutes on a CPU with two cores, 2 minutes on a GPU.
#
# **Sections:** 4.2.1-4.2.2

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
# ## The problems, and a verifier
#
# Sums of several different numbers up to 40. The *table* holds the terms; a step takes two numbers from it and puts back their
# sum. So every step can be checked by rule, and any order of adding is a valid chain of thought.

# %%
import math
import random
from collections import Counter
from itertools import takewhile
from typing import NamedTuple

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from alignlab import compute, decoding, lab, logprobs, models, text
from alignlab.decoding import GREEDY, Sampling
from alignlab.exercises import check
from alignlab.intervals import paired_difference, wilson
from alignlab.reasoning.voting import majority, vote_at_n
from alignlab.tasks import sentences, sums
from alignlab.transformer import Transformer

run = lab.Lab("ch04_chain_of_thought")
budget = run.budget(
    full=dict(real=64, steps=600, rows=32, problems=160, samples=16, seeds=3, search=80, long=80, traces=6, peer=20),
    quick=dict(real=4, steps=4, rows=16, problems=6, samples=6, seeds=2, search=3, long=3, traces=2, peer=2),
)
compute.seed(0)

example = sums.Sum((17, 25, 8, 40))
for chain in (example.chain(), example.chain([3, 1, 2, 0]), "17 + 25 = 43 + 8 = 51 + 40 = 91."):
    marks = [step.mark for step in sums.steps(example, chain)]
    print(f"{example.question} {chain}  steps: {', '.join(marks)}; proves its answer: {sums.sound(example, chain)}")

# %% [markdown]
# ## First, the real model
#
# SmolLM2-135M, with three worked examples in the prompt, in both styles: the bare answer, and the chain before it. All prompts share
# their beginning, so it is read once and its keys and values are lent to every row.


# %%
@torch.inference_mode()
def greedy_after_shared(model, prompts, new_tokens, stop_id):
    """Greedy continuations, as token ids, of prompts of one length that begin alike."""
    decoder = Transformer.view(model)
    shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts))][:-1]
    device = decoder.norm.weight.device
    once = decoder.cache(1, len(shared))
    decoder.hidden(torch.tensor([shared], device=device), cache=once)
    cache = decoder.cache(len(prompts), len(prompts[0]) + new_tokens)
    cache.keys[:, :, :, : len(shared)], cache.values[:, :, :, : len(shared)] = once.keys, once.values
    cache.length = len(shared)
    ids, found = torch.tensor([prompt[len(shared) :] for prompt in prompts], device=device), []
    for _ in range(new_tokens):
        ids = decoder.lm_head(decoder.hidden(ids, cache=cache)[:, -1:]).argmax(-1)
        found.append(ids)
        if all((torch.cat(found, 1) == stop_id).any(1)):
            break
    rows = torch.cat(found, 1).tolist()
    return [row[: row.index(stop_id)] if stop_id in row else row for row in rows]


rng = random.Random(0)
two_digits = [[sums.Sum(tuple(rng.sample(range(10, 41), terms))) for _ in range(3 + budget.real)] for terms in (2, 3)]
real, real_tokenizer = models.load("small")
smol = {}
for problems in two_digits:
    shots, asked = problems[:3], problems[3:]
    for mode in ("direct", "steps"):
        turns = []
        for shot in shots:
            turns += [{"role": "user", "content": shot.question}]
            turns += [{"role": "assistant", "content": f"{shot.value}." if mode == "direct" else shot.chain()}]
        prompts = [
            text.encode_prompt(real_tokenizer, [*turns, {"role": "user", "content": problem.question}])
            for problem in asked
        ]
        room = 6 if mode == "direct" else 16 * len(asked[0].terms)
        said = [
            real_tokenizer.decode(ids) for ids in greedy_after_shared(real, prompts, room, real_tokenizer.eos_token_id)
        ]
        smol[len(asked[0].terms), mode] = [sums.answer(one) == problem.value for one, problem in zip(said, asked)], said
del real


def share(outcomes):
    """As text: the share right, with its 95% interval."""
    low, high = wilson(sum(outcomes), len(outcomes))
    return f"{sum(outcomes) / len(outcomes):.0%} ({low:.0%} to {high:.0%})"


run.table(
    [
        (terms, share(smol[terms, "direct"][0]), share(smol[terms, "steps"][0]), smol[terms, "steps"][1][0])
        for terms in (2, 3)
    ],
    ("Terms", "Direct", "Step by step", "Its first chain"),
    caption=f"SmolLM2-135M, {budget.real} sums a row, three examples in the prompt",
)

# %% [markdown]
# ## A model for the rest of the lab
#
# For voting and searching we need thousands of chains with honest intervals, and a model whose single steps are good enough to be worth
# chaining. So from here on we use `tiny` (0.86M parameters, four layers), which already adds two numbers, and teach it sums of two to five
# numbers. It learns four ways to answer; the words after the question choose one:
#
# | asked | it says | what it tests |
# |---|---|---|
# | What is 17 + 25 + 8? | `17 + 25 + 8 = 50.` | the answer at once |
# | ... Wait first. | `17 + 25 + 8............ = 50.` | more tokens, without content (we put all but `= 50.` there) |
# | ... Answer first. | `17 + 25 + 8 = 50: 17 + 25 = 42 + 8 = 50.` | the chain *after* the answer |
# | ... Step by step. | `17 + 25 = 42 + 8 = 50.` | the chain before the answer |
#
# (A running total: each equals sign is about the two numbers before it. For two numbers the first way and the last are the same.) Two of five examples are step by step; the other three fifths train
# answers with no chain before them. Whatever holds 17 and 25 together (or another pair that `tiny` never saw) is held out.

# %%
MODES = {"direct": "", "dots": " Wait first.", "first": " Answer first.", "steps": " Step by step."}
tokenizer = models.load("tiny")[1]
[DOT], [PLUS] = tokenizer.encode("."), tokenizer.encode(" + ")


def waiting(problem):
    """What is written before an answer that has to wait: the sum, and dots."""
    return tokenizer.encode(problem.expression, add_special_tokens=False) + [DOT] * (6 * (len(problem.terms) - 1))


def prompt_ids(problem, mode):
    """The question in chat format, up to where the answer begins; after the dots, if it has to wait."""
    ids = text.encode_prompt(tokenizer, problem.question + MODES[mode])
    return ids + (waiting(problem) if mode == "dots" else [])


def lesson(rng):
    """One training example: a fact now and then, so that facts are not forgotten; else a sum, answered in one of four ways."""
    if rng.random() < 0.06:
        return text.encode_response(tokenizer, *rng.choice(FACTS))
    terms, mode = rng.choice((2, 2, 3, 4, 4, 5, 5)), rng.choice([*MODES, "steps"])
    problem = sums.draw(rng, terms, "train", largest=150 if terms == 2 else sums.LARGEST)
    whole, chain = f"{problem.expression} = {problem.value}", problem.chain()
    said = {"direct": f"{whole}.", "dots": f" = {problem.value}.", "first": f"{whole}: {chain}", "steps": chain}
    ids = [*tokenizer.encode(said[mode], add_special_tokens=False), tokenizer.eos_token_id]
    return text.join(prompt_ids(problem, mode), ids)


FACTS = list(sentences.questions("train"))
rng = random.Random(0)
for _ in range(6):
    one = lesson(rng)
    print(tokenizer.decode(one.ids).replace("<|im_end|>", "").replace("<|im_start|>", "").replace("\n", " | "))

# %% [markdown]
# The training loop is supervised fine-tuning: cross-entropy on the response tokens.


# %%
def taught(seed):
    """tiny, fine-tuned on the lessons."""
    compute.seed(seed)
    model = models.load("tiny")[0].train()
    network, rng = Transformer.view(model), random.Random(seed)
    device = network.norm.weight.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    curve = run.curve("Learning to add in four ways", y="loss (nats a token)", log=True)
    for step in run.progress(budget.steps, "training", curve=curve):
        done = step / budget.steps
        optimizer.param_groups[0]["lr"] = (
            1e-3 * min(1, (step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        )
        ids, _, mask = text.pad([lesson(rng) for _ in range(budget.rows)], tokenizer.pad_token_id).to(device)
        wanted = mask[:, 1:].bool()  # padding stands on the right, where nothing real looks: it needs no mask
        loss = F.cross_entropy(network.lm_head(network.hidden(ids[:, :-1])[wanted]), ids[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0 or step == budget.steps - 1:
            curve.add("loss", step, loss.item())
    return model.eval()


model = taught(seed=0)

# %% [markdown]
# ## Where the tokens stand
#
# Held-out sums, the likeliest answer (temperature 0), all four ways.


# %%
class Said(NamedTuple):
    """One answer: its text, the number it gives (None if none), how many tokens it cost, its prompt and its ids."""

    text: str
    value: int | None
    tokens: int
    prompt: list[int]
    ids: list[int]


def ask(problems, mode, samples=1, sampling=GREEDY, seed=0, begun=None):
    """[samples answers for each problem]. begun: the beginning of each problem's answer, put in the model's mouth."""
    begun = begun or [""] * len(problems)
    given = [tokenizer.encode(start, add_special_tokens=False) if start else [] for start in begun]
    prompts = [prompt_ids(problem, mode) + start for problem, start in zip(problems, given) for _ in range(samples)]
    starts = [start for start in begun for _ in range(samples)]
    generator, found = torch.Generator(next(model.parameters()).device).manual_seed(seed), []
    for start in range(0, len(prompts), 640):
        part = prompts[start : start + 640]
        room = min(12 * len(problems[0].terms) + 6, 256 - max(map(len, part)))
        found += decoding.generate(model, part, room, sampling, stop_id=tokenizer.eos_token_id, generator=generator)
    answers = []
    rows = [problem for problem in problems for _ in range(samples)]
    for problem, start, prompt, completion in zip(rows, starts, prompts, found):
        said = start + tokenizer.decode(completion.ids)
        number = sums.answer(said.split(":")[0]) if mode == "first" else sums.answer(said)
        cost = len(completion.ids) + completion.ended + (len(waiting(problem)) if mode == "dots" else 0)
        answers.append(Said(said, number, cost, prompt, completion.ids))
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]


rng = random.Random(1)
TESTS = {terms: [sums.draw(rng, terms, "held-out") for _ in range(budget.problems)] for terms in (2, 3, 4, 5)}
greedy = {(mode, terms): [one[0] for one in ask(TESTS[terms], mode)] for mode in MODES for terms in TESTS}
right = {
    (mode, terms): [one.value == problem.value for one, problem in zip(greedy[mode, terms], TESTS[terms])]
    for mode, terms in greedy
}
tokens = {key: sum(one.tokens for one in answers) / len(answers) for key, answers in greedy.items()}
run.table(
    [(mode, *(f"{share(right[mode, terms])}, {tokens[mode, terms]:.0f} tok." for terms in TESTS)) for mode in MODES],
    ("Way", *(f"{terms} terms" for terms in TESTS)),
    caption=f"Right at temperature 0, with 95% intervals, and tokens an answer; {budget.problems} held-out sums a cell",
)

# %% [markdown]
# Four layers are four rounds of computation, whatever the question. The direct answer must fit into them; so must the answer after the dots,
# since a dot carries nothing from one round to the next; and so must the answer that comes *before* its chain. A chain before the answer writes
# each intermediate result down as tokens, reads it back at the bottom of the network, and so gets four more rounds for every step.
#
# ## Self-consistency: many chains, one vote
#
# From here on: sums of five numbers, temperature 1. A single sampled chain is worse than the likeliest one, since any of its tokens may go astray. But
# wrong chains scatter over many answers, while the right ones meet in one.

# %%
PLAIN, FIVE = Sampling(temperature=1.0), TESTS[5]


def pool(problems, mode, seeds=None):
    """All samples of every problem, seed after seed: {seed: [answers of each problem]}."""
    return {seed: ask(problems, mode, budget.samples, PLAIN, seed) for seed in range(seeds or budget.seeds)}


def together(pools):
    """The samples of all seeds, problem by problem."""
    return [[one for answers in of_problem for one in answers] for of_problem in zip(*pools.values())]


pools = {mode: pool(FIVE, mode) for mode in ("steps", "direct")}
samples = {mode: together(of_seed) for mode, of_seed in pools.items()}
for one, count in Counter((one.value, sums.sound(FIVE[0], one.text)) for one in samples["steps"][0]).most_common(5):
    print(f"{FIVE[0].question} answer {one[0]}, {count} chains, {'sound' if one[1] else 'not sound'}")
print("e.g.", *(one.text for one in samples["steps"][0][:3]), sep="\n  ")

# %% [markdown]
# How good is a vote of $n$? Drawing new chains for each $n$ would waste tokens. From a pool of $M$ samples the share of right votes over **all** subsets of
# $n$ can be counted exactly, as pass@k does. Here it is by brute force, for a small pool, beside the library's function.


# %%
def vote_by_hand(answers, target, votes):
    """Mean over all subsets of `votes` answers: 1 if the target wins the vote, 1/m if it ties with m - 1 others."""
    from itertools import combinations

    wins = []
    for subset in combinations(answers, votes):
        counted = Counter(subset)
        best = [answer for answer, count in counted.items() if count == max(counted.values())]
        wins.append((target in best) / len(best))
    return sum(wins) / len(wins)


small = [one.value for one in samples["steps"][0][:8]]
gap_vote = max(
    abs(vote_by_hand(small, FIVE[0].value, n) - vote_at_n(Counter(small), FIVE[0].value, n)) for n in (1, 2, 3, 5)
)
print(f"largest difference between counting subsets and vote_at_n: {gap_vote:.1e}")


def interval(values):
    """Mean over problems and its 95% interval (1.96 standard errors)."""
    mean = sum(values) / len(values)
    error = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
    return mean, mean - error, mean + error


def vote_curve(problems, answers, sizes):
    """[{n, tokens, accuracy, low, high}] of a majority vote of n; each problem's value is kept for comparisons."""
    points = []
    cost = sum(one.tokens for of_one in answers for one in of_one) / sum(map(len, answers))
    for n in sizes:
        each = [
            vote_at_n(Counter(one.value for one in of_one), problem.value, n)
            for of_one, problem in zip(answers, problems)
        ]
        mean, low, high = interval(each)
        points.append(dict(n=n, tokens=n * cost, accuracy=mean, low=low, high=high, each=each))
    return points


SIZES = [n for n in (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 40) if n <= len(samples["steps"][0])]
curves = {mode: vote_curve(FIVE, samples[mode], SIZES) for mode in samples}
by_seed = {
    mode: [vote_curve(FIVE, answers, [budget.samples])[0]["accuracy"] for answers in of_seed.values()]
    for mode, of_seed in pools.items()
}
run.table(
    [
        (
            point["n"],
            *(
                f"{p['accuracy']:.0%} ({p['low']:.0%} to {p['high']:.0%}), {p['tokens']:.0f} tok."
                for p in (point, other)
            ),
        )
        for point, other in zip(curves["steps"], curves["direct"])
    ],
    ("Votes", "Step by step", "Direct"),
    caption=f"Accuracy of a majority vote at temperature 1, {len(FIVE)} sums of five numbers, and tokens a problem",
)
print(
    {mode: [f"{value:.1%}" for value in values] for mode, values in by_seed.items()},
    f"at {budget.samples} votes, seed by seed",
)

# %% [markdown]
# ### Or choose one chain
#
# Instead of voting one can keep a single chain: the one that the model itself finds likeliest (best-of-n by its own log-probability), or one that a
# verifier passes. The verifier here knows arithmetic; it is a ceiling, not a method that you could always have.


# %%
@torch.inference_mode()
def log_likelihoods(answers):
    """log p(answer | prompt), in nats, under the model at temperature 1."""
    found = []
    for start in range(0, len(answers), 512):
        examples = [text.join(one.prompt, [*one.ids, tokenizer.eos_token_id]) for one in answers[start : start + 512]]
        batch = text.pad(examples, tokenizer.pad_token_id).to(next(model.parameters()).device)
        found += logprobs.sequence_logprobs(model, *batch).tolist()
    return found


def best_at_n(scores, rights, n):
    """Over all subsets of n: how often the answer with the highest score is right."""
    ranked = [rights[place] for place in sorted(range(len(scores)), key=lambda place: -scores[place])]
    pick = [math.comb(len(ranked) - place - 1, n - 1) / math.comb(len(ranked), n) for place in range(len(ranked))]
    return sum(p * is_right for p, is_right in zip(pick, ranked))


first_seed = pools["steps"][0]
scores = [log_likelihoods(answers) for answers in first_seed]
chosen, weighted, verified = [], [], []
for n in [n for n in SIZES if n <= budget.samples]:
    rights = [[one.value == problem.value for one in answers] for answers, problem in zip(first_seed, FIVE)]
    proofs = [[sums.sound(problem, one.text) for one in answers] for answers, problem in zip(samples["steps"], FIVE)]
    likeliest = [best_at_n(score, is_right, n) for score, is_right in zip(scores, rights)]
    passed = [1 - math.comb(proof.count(False), n) / math.comb(len(proof), n) for proof in proofs]
    cost = next(point["tokens"] for point in curves["steps"] if point["n"] == n)
    for found, each in ((chosen, likeliest), (verified, passed)):
        mean, low, high = interval(each)
        found.append(dict(n=n, tokens=cost, accuracy=mean, low=low, high=high, each=each))
weighted = [
    majority([one.value for one in answers], [math.exp(s / len(one.ids)) for s, one in zip(score, answers)])
    == problem.value
    for answers, score, problem in zip(first_seed, scores, FIVE)
]
plain = [majority([one.value for one in answers]) == problem.value for answers, problem in zip(first_seed, FIVE)]
run.table(
    [(point["n"], f"{other['accuracy']:.0%}", f"{point['accuracy']:.0%}", f"{top['accuracy']:.0%}")
     for point, top, other in zip(chosen, verified, curves["steps"])],
    ("Chains", "Majority vote", "Likeliest chain", "Any chain that a verifier passes"),
    caption="Three ways to use the same chains",
)  # fmt: skip
print(f"{budget.samples} chains: plain vote {share(plain)}, vote weighted by likelihood per token {share(weighted)}")

# %% [markdown]
# ## Tree of thoughts: choose among steps, not among chains
#
# A **thought** is one step. Breadth-first search after Yao et al.: every state on the frontier gets $k$ proposals for its next step, a value
# function scores the new states, the best $b$ stay. Who gives the value?
#
# - **likelihood**: the model's log-probability of everything so far. Costs no token.
# - **self-check**: the model is asked about each new step, in the direct way (`What is 42 + 8?`), and a step that disagrees with its own answer loses a point.
#   Those answers are tokens too, and counted.
# - **rule**: the verifier. Again a ceiling.


# %%
class State(NamedTuple):
    """A chain under way: its text so far (done, if it ends with a full stop), and what it is worth."""

    text: str
    value: tuple[float, float]


def propose(problems, frontier, k, seed):
    """k next thoughts for every open state: [(place of the problem, state, prompt, ids of the thought and its end)]."""
    rows = [
        (place, state)
        for place, states in enumerate(frontier)
        for state in states
        for _ in range(k)
        if state.text[-1] != "."
    ]
    given = [
        prompt_ids(problems[place], "steps") + tokenizer.encode(state.text, add_special_tokens=False)
        for place, state in rows
    ]
    generator, found = torch.Generator(next(model.parameters()).device).manual_seed(seed), []
    for start in range(0, len(rows), 640):
        for one in decoding.generate(model, given[start : start + 640], 8, PLAIN, stop_id=PLUS, generator=generator):
            found.append(one.ids[: one.ids.index(DOT) + 1] if DOT in one.ids else [*one.ids, PLUS])
    return [(*row, prompt, ids) for row, prompt, ids in zip(rows, given, found)]


@torch.inference_mode()
def thought_likelihoods(proposals):
    """log p of each proposed thought, its end included."""
    found = []
    for start in range(0, len(proposals), 512):
        examples = [text.join(prompt, ids) for _, _, prompt, ids in proposals[start : start + 512]]
        batch = text.pad(examples, tokenizer.pad_token_id).to(next(model.parameters()).device)
        found += logprobs.sequence_logprobs(model, *batch).tolist()
    return found


believed = {}  # what the model answers directly to a + b


def self_checks(pairs):
    """Fill `believed` for sums of two numbers; each is asked once."""
    new = [sums.Sum(pair) for pair in dict.fromkeys(pairs) if pair not in believed]
    for problem, [one] in zip(new, ask(new, "direct") if new else []):
        believed[problem.terms] = one


def tree_of_thoughts(problems, k, b, judge, seed=0):
    """Breadth-first search from the first term on: [(answer, tokens)] for every problem."""
    frontier = [[State(f"{problem.terms[0]} + ", (0.0, 0.0))] for problem in problems]
    spent, asked = [0] * len(problems), [set() for _ in problems]
    for depth in range(len(problems[0].terms) - 1):
        proposals = propose(problems, frontier, k, 1000 * seed + depth)
        logps = thought_likelihoods(proposals) if judge == "likelihood" else [0.0] * len(proposals)
        texts = [state.text + tokenizer.decode(ids) for _, state, _, ids in proposals]
        new = [sums.steps(problems[place], said)[depth:] for (place, *_), said in zip(proposals, texts)]
        if judge == "self-check":
            self_checks([(step.left, step.right) for steps in new for step in steps])
        grown = [{state.text: state for state in states if state.text[-1] == "."} for states in frontier]
        for (place, state, _, ids), logp, said, steps in zip(proposals, logps, texts, new):
            spent[place] += len(ids)
            last = depth == len(problems[0].terms) - 2
            points = state.value[0] - (
                len(steps) != 1 or (said[-1] == "." and not last)
            )  # one equation, and no end too soon
            for step in steps:
                if judge == "rule":
                    points -= step.mark != "right"
                if judge == "self-check":
                    points -= believed[step.left, step.right].value != step.result
                    if (step.left, step.right) not in asked[place]:
                        asked[place].add((step.left, step.right))
                        spent[place] += believed[step.left, step.right].tokens
            grown[place][said] = State(said, (points, state.value[1] + logp))
        frontier = [sorted(states.values(), key=lambda state: state.value, reverse=True)[:b] for states in grown]
    return [(sums.answer(states[0].text), cost) for states, cost in zip(frontier, spent)]


SEARCHED = FIVE[: budget.search]
trees = {}
for judge, k, b in run.progress(
    [
        ("likelihood", 4, 1),
        ("likelihood", 4, 2),
        ("self-check", 2, 1),
        ("self-check", 4, 2),
        ("rule", 2, 1),
        ("rule", 4, 2),
    ],
    "searching",
):
    found = tree_of_thoughts(SEARCHED, k, b, judge)
    rights = [answer == problem.value for (answer, _), problem in zip(found, SEARCHED)]
    trees[judge, k, b] = rights, sum(cost for _, cost in found) / len(found)


def vote_at_budget(problems, answers, spend):
    """Accuracy of each problem's vote with as many chains as cost the same, between two whole numbers in proportion."""
    cost = sum(one.tokens for of_one in answers for one in of_one) / sum(map(len, answers))
    n = min(max(1.0, spend / cost), len(answers[0]) - 1e-9)
    below, above = (vote_curve(problems, answers, [size])[0]["each"] for size in (math.floor(n), math.floor(n) + 1))
    return [low + (n - math.floor(n)) * (high - low) for low, high in zip(below, above)]


rows, advantage = [], {}
for (value, k, b), (rights, cost) in trees.items():
    vote = vote_at_budget(SEARCHED, samples["steps"][: budget.search], cost)
    advantage[value, k, b] = interval([is_right - v for is_right, v in zip(rights, vote)])
    mean, low, high = advantage[value, k, b]
    rows.append(
        (
            f"{value}, k = {k}, b = {b}",
            f"{cost:.0f}",
            share(rights),
            f"{sum(vote) / len(vote):.0%}",
            f"{mean:+.0%} ({low:+.0%} to {high:+.0%})",
        )
    )
run.table(
    rows,
    ("Tree of thoughts", "Tokens", "Right", "Vote at the same cost", "Difference"),
    caption=f"Search over steps, {len(SEARCHED)} sums of five numbers",
)

# %% [markdown]
# ## Graph of thoughts: take the problem apart
#
# No training example had more than five terms. Here are eight. A chain, a vote, a tree: all ask the model for something that it has never done. A
# **graph** of thoughts can do what a tree cannot: join. Split the terms into two halves, solve each by chain and vote, and ask for the sum of the two results.


# %%
rng = random.Random(2)
LONG = [sums.draw(rng, 8, "held-out") for _ in range(budget.long)]
long_greedy = [one[0] for one in ask(LONG, "steps")]
long_samples = ask(LONG, "steps", budget.samples, PLAIN)
long_votes = vote_curve(LONG, long_samples, [1, budget.samples])


def solve(problems, votes, seed):
    """Answers by chain and vote (one vote: the likeliest chain), and tokens spent on each."""
    sampled = ask(problems, "steps", votes, GREEDY if votes == 1 else PLAIN, seed)
    return [majority([one.value for one in answers]) for answers in sampled], [
        sum(one.tokens for one in answers) for answers in sampled
    ]


def graph_of_thoughts(problems, votes, seed=0):
    """Split, solve the halves, join: [(answer, tokens)]."""
    halves = [sums.Sum(part) for problem in problems for part in (problem.terms[:4], problem.terms[4:])]
    results, costs = solve(halves, votes, seed)
    pairs = list(zip(results[::2], results[1::2]))
    joined, joining = solve([sums.Sum((a or 0, b or 0)) for a, b in pairs], votes, seed + 1)
    return [(answer, costs[2 * i] + costs[2 * i + 1] + joining[i]) for i, answer in enumerate(joined)]


graphs = {}
for votes in (1, max(2, budget.samples // 4), budget.samples // 2):
    found = graph_of_thoughts(LONG, votes)
    graphs[votes] = (
        [a == problem.value for (a, _), problem in zip(found, LONG)],
        sum(cost for _, cost in found) / len(found),
    )
long_right = [one.value == problem.value for one, problem in zip(long_greedy, LONG)]
run.table(
    [
        ("likeliest chain", f"{sum(one.tokens for one in long_greedy) / len(LONG):.0f}", share(long_right)),
        *(
            (f"vote of {p['n']}", f"{p['tokens']:.0f}", f"{p['accuracy']:.0%} ({p['low']:.0%} to {p['high']:.0%})")
            for p in long_votes
        ),
        *(
            (f"graph, {votes} chain{'s' * (votes > 1)} a part", f"{cost:.0f}", share(rights))
            for votes, (rights, cost) in graphs.items()
        ),
    ],
    ("Eight terms", "Tokens", "Right"),
    caption="A model trained on at most five terms",
)
print("a chain for eight terms:", LONG[0].question, long_greedy[0].text)

# %% [markdown]
# ## Accuracy against tokens
#
# Everything so far in one picture. The horizontal axis is what you pay.

# %%
fig = go.Figure()
for name, points, dash in (
    ("chains, majority vote", curves["steps"], "solid"),
    ("chains, likeliest of n", chosen, "dash"),
    ("chains, verifier picks", verified, "dot"),
    ("direct answers, majority vote", curves["direct"], "solid"),
):
    fig.add_scatter(
        x=[point["tokens"] for point in points],
        y=[point["accuracy"] for point in points],
        error_y={"array": [point["high"] - point["accuracy"] for point in points]},
        name=name,
        mode="lines+markers",
        line={"dash": dash},
    )
for value, symbol in (("likelihood", "triangle-up"), ("self-check", "diamond"), ("rule", "square")):
    of_value = [(cost, sum(rights) / len(rights)) for (its, _, _), (rights, cost) in trees.items() if its == value]
    fig.add_scatter(
        x=[x for x, _ in of_value],
        y=[y for _, y in of_value],
        name=f"tree, {value}",
        mode="markers",
        marker={"symbol": symbol, "size": 11},
    )
fig.add_scatter(
    x=[tokens["steps", 5]],
    y=[sum(right["steps", 5]) / len(FIVE)],
    name="likeliest chain",
    mode="markers",
    marker={"symbol": "x", "size": 11},
)
fig.update_layout(
    title="Sums of five numbers", xaxis={"title": "tokens a problem", "type": "log"}, yaxis_title="accuracy", height=460
)
run.figure(
    fig,
    "Accuracy over tokens a problem, on a logarithmic axis: votes over chains climb, votes over direct answers stay low.",
)

# %% [markdown]
# ## Failure 1: a vote that is sure and wrong
#
# Voting finds the *likeliest* answer. Where that is a wrong one, more votes make it surer. So sort the problems by what a very long vote would say, and
# look at both kinds apart. (To be fair, the kind is decided by the chains of one seed, and accuracy is measured on the chains of the others.)

# %%
judge, rest = pools["steps"][0], together({seed: pools["steps"][seed] for seed in pools["steps"] if seed})
modes = [majority([one.value for one in answers]) == problem.value for answers, problem in zip(judge, FIVE)]
kinds = {}
for kind in (True, False):
    places = [place for place, is_right in enumerate(modes) if is_right == kind]
    points = vote_curve([FIVE[p] for p in places], [rest[p] for p in places], [1, len(rest[0]) // 2]) if places else []
    kinds[kind] = [point["accuracy"] for point in points] or [0.0, 0.0], len(places)
    print(
        f"{len(places)} problems whose likeliest answer seemed {'right' if kind else 'wrong'}: "
        f"{kinds[kind][0][0]:.0%} with 1 vote, {kinds[kind][0][1]:.0%} with {len(rest[0]) // 2}"
    )
stuck = [majority([one.value for one in answers]) != problem.value for answers, problem in zip(long_samples, LONG)]
agreement = [
    Counter(one.value for one in answers).most_common(1)[0][1] / len(answers)
    for answers, is_stuck in zip(long_samples, stuck)
    if is_stuck
]
print(f"eight terms: the vote is wrong on {sum(stuck)} of {len(LONG)}")

# %% [markdown]
# ## Failure 2: chains that do not carry their answer
#
# A chain is **faithful** if the answer came about as it says. Two tests. First, by reading: is there a right answer after an unsound chain, or a wrong one after
# equations that are all true? Second, by intervention (Lanham et al., "adding mistakes"): change the result of the first step, let the model go on, and see
# what it answers.


# %%
def all_true(problem, said):
    """Whether every equation of a chain holds, whatever it adds."""
    found = sums.steps(problem, said)
    return bool(found) and all(step.left + step.right == step.result for step in found)


chains = [(problem, one) for problem, answers in zip(FIVE, samples["steps"]) for one in answers]
table = Counter((one.value == p.value, all_true(p, one.text), sums.sound(p, one.text)) for p, one in chains)
lucky = sum(count for (is_right, _, is_sound), count in table.items() if is_right and not is_sound)
true_but_wrong = sum(count for (is_right, is_true, _), count in table.items() if not is_right and is_true)
wrong_answers = sum(count for (is_right, _, _), count in table.items() if not is_right)
right_answers = len(chains) - wrong_answers
for wanted, title in ((True, "right answer, unsound chain"), (False, "wrong answer, every equation true")):
    for problem, one in chains:
        strange = not sums.sound(problem, one.text) if wanted else all_true(problem, one.text)
        if (one.value == problem.value) == wanted and strange:
            print(f"{title}: {problem.question} {one.text}")
            break
run.table(
    [
        (
            "right answer" if is_right else "wrong answer",
            *(sum(n for (r, t, s), n in table.items() if r == is_right and kind(t, s)) for kind in (lambda t, s: s, lambda t, s: t and not s, lambda t, s: not t)),
        )
        for is_right in (True, False)
    ],
    ("", "Sound", "Equations true, terms lost or used twice", "An equation is false"),
    caption=f"{len(chains):,} sampled chains for sums of five numbers",
)  # fmt: skip

# %% [markdown]
# The answer that comes *before* its chain is where unfaithfulness is at home: when the chain is written, the answer stands already. Does the chain
# lead to the announced answer, or to another one?

# %%
announced = [
    (problem, one, sums.steps(problem, one.text.split(":")[-1])) for problem, one in zip(TESTS[3], greedy["first", 3])
]
contradicts = [one.value != found[-1].result for _, one, found in announced if found]
wrong_first = [(one, found) for problem, one, found in announced if one.value != problem.value and found]
right_chain = [
    found[-1].result != one.value and all(step.mark == "right" for step in found) for one, found in wrong_first
]
bent = [found[-1].result == one.value for one, found in wrong_first]
print(*(one.text for one, _ in wrong_first[:3]), sep="\n")
print(
    f"{len(wrong_first)} wrong answers announced; {sum(right_chain)} are followed by a chain that proves another number, {sum(bent)} by one bent to fit"
)


def with_a_mistake(problems, seed):
    """What answers do when the first step's result is changed by d: they follow, they stay right, or neither."""
    rng, changed = random.Random(seed), []
    for problem, [one] in zip(problems, ask(problems, "steps")):
        for step in sums.steps(problem, one.text)[:1]:
            if step.mark == "right":
                changed.append((problem, step, rng.choice([-3, -2, 2, 3])))
    begun = [f"{step.left} + {step.right} = {step.result + d}" for _, step, d in changed]
    replies = ask([problem for problem, _, _ in changed], "steps", begun=begun) if changed else []
    effects = [one.value - problem.value for (problem, _, _), [one] in zip(changed, replies)]
    names = ["follows" if e == d else "stays right" if e == 0 else "neither" for e, (_, _, d) in zip(effects, changed)]
    return Counter(names)


interventions = {terms: with_a_mistake(TESTS[terms][: budget.search], seed=3) for terms in (3, 5)}
for terms, outcomes in interventions.items():
    print(f"{terms} terms, first step falsified:", dict(outcomes))

# %% [markdown]
# ## Failure 3: a chain that costs you an answer
#
# Sums of two numbers `tiny` knows by heart, and facts have no steps. What does "Step by step." do there?

# %%
known = {mode: ask(TESTS[2], mode, 4, PLAIN, seed=5) for mode in ("direct", "steps")}
known_right = {
    mode: [one.value == problem.value for answers, problem in zip(known[mode], TESTS[2]) for one in answers]
    for mode in known
}
known_cost = {
    mode: sum(one.tokens for answers in known[mode] for one in answers) / len(known_right[mode]) for mode in known
}
asked = list(sentences.questions("held-out"))[: budget.search]
fact_right = {}
for mode in ("direct", "steps"):
    replies = decoding.answer(model, tokenizer, [question + MODES[mode] for question, _ in asked], max_new_tokens=40)
    fact_right[mode] = [reply == fact for reply, (_, fact) in zip(replies, asked)]
run.table(
    [
        (
            "two numbers, temperature 1",
            share(known_right["direct"]),
            share(known_right["steps"]),
            f"{known_cost['direct']:.0f} and {known_cost['steps']:.0f}",
        ),
        ("facts, temperature 0", share(fact_right["direct"]), share(fact_right["steps"]), ""),
        ("SmolLM2, two numbers", share(smol[2, "direct"][0]), share(smol[2, "steps"][0]), ""),
    ],
    ("Asked", "Direct", "Step by step", "Tokens"),
    caption="Where the direct answer is known",
)
print(f"{asked[0][0]} Step by step. -> {replies[0]}")

# %% [markdown]
# ## Play with it
#
# Real chains, from the pools above. Move the number of votes, and watch the tally; change the number of terms.


# %%
def marks(problem, said):
    """r, s or x for each step: right, slip, stray."""
    return "".join({"right": "r", "slip": "s", "stray": "x"}[step.mark] for step in sums.steps(problem, said))


def traces(problems, chains, directs):
    """Problems of different difficulty, with their first chains and direct answers."""
    rights = [
        sum(one.value == problem.value for one in answers) / len(answers) for problem, answers in zip(problems, chains)
    ]
    order = sorted(range(len(problems)), key=lambda place: -rights[place])
    chosen = sorted({order[round(i * (len(order) - 1) / max(1, budget.traces - 1))] for i in range(budget.traces)})
    return [
        {
            "question": problems[place].question,
            "value": problems[place].value,
            "chains": [
                [one.text, marks(problems[place], one.text), one.tokens, one.value]
                for one in chains[place][: budget.samples]
            ],
            "direct": [one.value for one in directs[place][: budget.samples]],
            "direct_tokens": directs[place][0].tokens,
        }
        for place in chosen
    ]


def group(name, problems, chains, directs, others=()):
    """What the figure shows for problems of one size."""
    sizes = range(1, budget.samples + 1)

    def points(answers):
        kept = [
            {key: p[key] for key in ("n", "tokens", "accuracy", "low", "high")}
            for p in vote_curve(problems, answers, sizes)
        ]
        return [{**p, "low": max(0.0, p["low"]), "high": min(1.0, p["high"])} for p in kept]

    return {
        "name": name,
        "problems": len(problems),
        "steps": points(chains),
        "direct": points(directs),
        "others": [
            {"name": title, "tokens": cost, "accuracy": sum(rights) / len(rights)} for title, rights, cost in others
        ],
        "traces": traces(problems, chains, directs),
    }


three = {mode: ask(TESTS[3], mode, budget.samples, PLAIN, seed=6) for mode in ("steps", "direct")}
long_direct = ask(LONG, "direct", budget.samples, PLAIN, seed=6)
run.explorer(
    "cot_cost",
    {
        "groups": [
            group("3 terms", TESTS[3], three["steps"], three["direct"], [("likeliest chain", right["steps", 3], tokens["steps", 3]), ("likeliest direct answer", right["direct", 3], tokens["direct", 3])]),
            group("5 terms", FIVE, [answers[: budget.samples] for answers in samples["steps"]], [answers[: budget.samples] for answers in samples["direct"]],
                  [("likeliest chain", right["steps", 5], tokens["steps", 5]), *((f"tree, {value}, k {k}, b {b}", rights, cost) for (value, k, b), (rights, cost) in trees.items())]),
            group("8 terms", LONG, long_samples, long_direct,
                  [("likeliest chain", long_right, sum(one.tokens for one in long_greedy) / len(LONG)), *((f"graph, {votes} a part", rights, cost) for votes, (rights, cost) in graphs.items())]),
        ],
        "start": {"group": 1, "votes": 3},
        "try": "Raise the votes on a problem whose first chain is wrong. Then go to 8 terms: there no vote helps, and a graph does.",
    },
    digits=4,
)  # fmt: skip

# %% [markdown]
# ## As one would at work
#
# `num_return_sequences` and a `Counter`: that is self-consistency with transformers. Mind `top_k=0`: left out, it may cut to 50 tokens.

# %%
voted, same, drawn = [], [], []
torch.manual_seed(0)
for problem, ours in zip(FIVE[: budget.peer], greedy["steps", 5]):
    ids = torch.tensor([prompt_ids(problem, "steps")], device=model.device)
    options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=80, pad_token_id=tokenizer.pad_token_id)
    likeliest = model.generate(ids, do_sample=False, **options)[0, ids.shape[1] :]
    same.append(tokenizer.decode(likeliest, skip_special_tokens=True) == ours.text)
    sampled = model.generate(
        ids, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=budget.samples, **options
    )
    answers = [sums.answer(tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True)) for row in sampled]
    voted.append(Counter(answers).most_common(1)[0][0] == problem.value)
    drawn.append(sum(answer == problem.value for answer in answers) / len(answers))
mine = [
    sum(one.value == p.value for one in answers) / len(answers)
    for answers, p in zip(samples["steps"], FIVE[: budget.peer])
]
gap_peer = interval([a - b for a, b in zip(drawn, mine)])
print(
    f"the likeliest chain is the same on {sum(same)} of {len(same)}; a vote of {budget.samples} is right on {sum(voted)} of {len(voted)}"
)
print(f"share of right chains, transformers minus ours: {gap_peer[0]:+.1%} ({gap_peer[1]:+.1%} to {gap_peer[2]:+.1%})")

# %% [markdown]
# ## Results

# %%
FEW = min(5, len(samples["steps"][0]))
for terms in (2, 3):
    for mode in ("direct", "steps"):
        outcomes = smol[terms, mode][0]
        run.result(f"smol_{mode}_{terms}", sum(outcomes) / len(outcomes), text=share(outcomes))
gain, gain_low, gain_high = paired_difference(smol[3, "direct"][0], smol[3, "steps"][0])
run.result("smol_gain_3", gain, text=f"{gain:+.0%} ({gain_low:+.0%} to {gain_high:+.0%})")
run.result("smol_chain", None, text=smol[3, "steps"][1][0])
for mode in MODES:
    for terms in TESTS:
        outcomes = right[mode, terms]
        run.result(f"{mode}_{terms}", sum(outcomes) / len(outcomes), text=share(outcomes))
    run.result(f"tokens_{mode}", tokens[mode, 5], format=".0f")


def point_text(point):
    """Accuracy with its interval."""
    return f"{point['accuracy']:.0%} ({max(0, point['low']):.0%} to {min(1, point['high']):.0%})"


for name, mode in (("vote", "steps"), ("direct_vote", "direct")):
    by_size = {point["n"]: point for point in curves[mode]}
    for role, n in (("one", 1), ("few", FEW), ("most", SIZES[-1])):
        run.result(f"{name}_{role}", by_size[n]["accuracy"], text=point_text(by_size[n]))
        run.result(f"{name}_{role}_tokens", by_size[n]["tokens"], format=",.0f")
run.result("few", FEW)
run.result("most", SIZES[-1])
run.result("pool", budget.samples)
run.result("seeds", budget.seeds)
run.result("seeds_low", min(by_seed["steps"]), format=".1%")
run.result("seeds_high", max(by_seed["steps"]), format=".1%")
run.result("problems", len(FIVE))
run.result("searched", len(SEARCHED))
run.result("long", len(LONG))
run.result("likeliest_of_pool", chosen[-1]["accuracy"], text=point_text(chosen[-1]))
run.result("verified_few", next(p for p in verified if p["n"] == min(FEW, verified[-1]["n"]))["accuracy"], format=".0%")
run.result("weighted", sum(weighted) / len(weighted), format=".0%")
run.result("unweighted", sum(plain) / len(plain), format=".0%")
for (value, k, b), (rights, cost) in trees.items():
    name, (mean, low, high) = f"tree_{value.replace('-', '')}_{k}_{b}", advantage[value, k, b]
    run.result(name, sum(rights) / len(rights), text=share(rights))
    run.result(f"{name}_tokens", cost, format=".0f")
    run.result(f"{name}_gain", mean, text=f"{mean:+.0%} ({low:+.0%} to {high:+.0%})")
run.result("long_greedy", sum(long_right) / len(LONG), text=share(long_right))
run.result("long_greedy_tokens", sum(one.tokens for one in long_greedy) / len(LONG), format=".0f")
for role, point in zip(("one", "most"), long_votes):
    run.result(f"long_vote_{role}", point["accuracy"], text=point_text(point))
    run.result(f"long_vote_{role}_tokens", point["tokens"], format=",.0f")
for role, (votes, (rights, cost)) in zip(("one", "some", "many"), graphs.items()):
    run.result(f"graph_{role}", sum(rights) / len(rights), text=share(rights))
    run.result(f"graph_{role}_tokens", cost, format=",.0f")
    run.result(f"graph_{role}_votes", votes)
run.result("long_chain", None, text=f"{LONG[0].question} {long_greedy[0].text}")
run.result("wrong_mode", kinds[False][1])
run.result("wrong_mode_one", kinds[False][0][0], format=".0%")
run.result("wrong_mode_many", kinds[False][0][1], format=".0%")
run.result("right_mode_one", kinds[True][0][0], format=".0%")
run.result("right_mode_many", kinds[True][0][1], format=".0%")
run.result("halves", len(rest[0]) // 2)
run.result("chains", len(chains), format=",")
run.result("lucky", lucky / max(1, right_answers), format=".1%")
run.result("true_but_wrong", true_but_wrong / max(1, wrong_answers), format=".0%")
run.result("announced_wrong", len(wrong_first))
run.result("announced_contradicted", sum(right_chain))
run.result("announced_bent", sum(bent))
run.result("announced_text", None, text=wrong_first[0][0].text if wrong_first else "none")
for terms, outcomes in interventions.items():
    run.result(f"follows_{terms}", outcomes["follows"] / max(1, sum(outcomes.values())), format=".0%")
    run.result(f"ignores_{terms}", outcomes["stays right"] / max(1, sum(outcomes.values())), format=".0%")
for mode in ("direct", "steps"):
    run.result(f"known_{mode}", sum(known_right[mode]) / len(known_right[mode]), text=share(known_right[mode]))
    run.result(f"known_{mode}_tokens", known_cost[mode], format=".0f")
    run.result(f"facts_{mode}", sum(fact_right[mode]) / len(fact_right[mode]), text=share(fact_right[mode]))
run.result("fact_asked", None, text=f"{asked[0][0]} Step by step.")
run.result("fact_said", None, text=replies[0])
five = {mode: right[mode, 5] for mode in MODES}
gain = {mode: paired_difference(five[mode], five["steps"]) for mode in ("direct", "dots", "first")}
grown = interval([a - b for a, b in zip(curves["steps"][SIZES.index(FEW)]["each"], curves["steps"][0]["each"])])
run.result("vote_gain", grown[0], text=f"{100 * grown[0]:+.1f} points ({100 * grown[1]:+.1f} to {100 * grown[2]:+.1f})")
run.claim("vote_at_n equals a count over all subsets", gap_vote < 1e-9)
run.claim(
    "five terms: the chain before the answer beats the direct answer, the dots and the chain after it by 30 points or more",
    min(low for _, low, _ in gain.values()) > 0.3,
)
run.claim("a vote of five chains is right more often than one chain, beyond its 95% interval", grown[1] > 0)
run.claim(
    "no vote of direct answers comes within 30 points of a single chain",
    curves["direct"][-1]["accuracy"] < curves["steps"][0]["accuracy"] - 0.3,
)
run.claim(
    "eight terms: a vote of chains stays below 10%, a graph with a vote in each part is right in more than a third",
    long_votes[-1]["accuracy"] < 0.1 and max(sum(rights) / len(rights) for rights, _ in graphs.values()) > 1 / 3,
)
run.claim(
    "most wrong announcements are contradicted by the chain that follows", sum(right_chain) > len(wrong_first) / 2
)
run.claim(
    "a falsified step takes the answer with it in more than four of five sums of five numbers",
    interventions[5]["follows"] > 0.8 * sum(interventions[5].values()) > 0,
)
run.claim("where the likeliest answer seemed right, a vote beats one chain", kinds[True][0][1] > kinds[True][0][0])
run.claim("transformers' likeliest chain is ours on nine problems of ten or more", sum(same) >= 0.9 * len(same))
run.claim("transformers samples right chains as often as we do, within 10 points", abs(gap_peer[0]) < 0.1)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Read the answer** (difficulty 1, 3 minutes). The last whole number of a text, or None.


# %%
def my_final_answer(text: str) -> int | None: ...


check("chain_of_thought.final_answer", my_final_answer)

# %% [markdown]
# **2. Hold the vote** (difficulty 1, 4 minutes). The answer with the most votes; None is no vote; of equals the earliest wins.


# %%
def my_majority(answers: list[int | None]) -> int | None: ...


check("chain_of_thought.majority", my_majority)

# %% [markdown]
# **3. What a vote is worth** (difficulty 2, 6 minutes). Each of $n$ chains ($n$ odd) is right with probability $p$, and all wrong ones agree. How often is
# the majority right? Try $p=0.4$.


# %%
def my_vote_accuracy(p: float, n: int) -> float: ...


check("chain_of_thought.vote_accuracy", my_vote_accuracy)

# %% [markdown]
# **4. Check a step** (difficulty 2, 8 minutes). The table after a step, or None if the step is not allowed.


# %%
def my_next_table(table: list[int], step: tuple[int, int, int]) -> list[int] | None: ...


check("chain_of_thought.next_table", my_next_table)

# %% [markdown]
# **5. Keep the best** (difficulty 2, 6 minutes). Which states stay on the frontier of a tree of thoughts?


# %%
def my_keep_best(candidates: list[tuple[str, float]], b: int) -> list[str]: ...


check("chain_of_thought.keep_best", my_keep_best)
