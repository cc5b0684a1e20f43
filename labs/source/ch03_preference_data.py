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
# # From prompts to preference pairs
#
# DPO learns what its pairs say, right or wrong. Here you make the pairs: collect prompts, throw out doubles, let a model
# answer, score the answers in three ways, pair them, clean, and pack. Every filter is asked two questions: what did you remove,
# and **what did that cost**? Because the sums have a verifier, the second one has an answer.
#
# - **You will** build MinHash and locality-sensitive hashing and check them against exact sums; measure how good a judge a small
#   model is; see filters do harm; and end with a file that trl's `DPOTrainer` reads token for token as you meant it.
# - **Time:** about 4 minutes on a CPU with two cores, 1 minute on a GPU.
#
# **Sections:** 3.2.1-3.2.4

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
# ## Collecting prompts
#
# Real prompts come from logs, forums and templates, and arrive with doubles. These come from templates with a "user" in front who
# shouts, mistypes and says please. The stand-in has one virtue: of every prompt we know **what it asks** (`key`), so the errors of
# a filter can be counted. Three kinds: sums, which a verifier can check; instructions with a rule that can be checked (as in
# IFEval); and questions about the model itself.

# %%
import hashlib
import itertools
import json
import math
import random
import re
import tempfile
import time
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from alignlab import compute, decoding, lab, logprobs, models, text
from alignlab.decoding import Sampling
from alignlab.exercises import check
from alignlab.losses.preference import PairLogps, dpo_loss
from alignlab.tasks import arithmetic

warnings.filterwarnings("ignore", category=FutureWarning)  # transformers tells peft of names to come
run = lab.Lab("ch03_preference_data")
budget = run.budget(
    full=dict(
        collected=480, sums=40, instructions=20, identity=4, answers=6, words=32, compared=40, hash_seeds=20,
        gold_samples=1024, world_steps=60, world_seeds=3,
    ),
    quick=dict(
        collected=120, sums=3, instructions=2, identity=1, answers=4, words=4, compared=2, hash_seeds=3,
        gold_samples=32, world_steps=2, world_seeds=1,
    ),
)  # fmt: skip
SEED = 0
compute.seed(SEED)

# %%
SUM_FORMS = """What is {e}? | How much is {e}? | Calculate {e}. | What's {e}? | Can you tell me what {e} is?
What is {e}? Answer with the number only.""".replace("\n", " | ").split(" | ")

TOPICS = (
    "the sea, winter, bread, a river, the moon, music, rain, a bicycle, a library, the desert, an old house, coffee"
)
PLURALS = "animals, colors, fruits, countries, tools, vegetables, birds, games"
YES_NO = "ice cold, the sun a star, iron soft, a whale a fish, sugar sweet, the night dark, stone heavy, milk blue"

IDENTITY = """Who are you? | What is your name? | Tell me your name. | Introduce yourself. | What should I call you?
Are you a person or a program? | Which model are you? | What are you called? | Who made you? | Are you ChatGPT?
Do you have a name? | Hello, who is this? | What kind of assistant are you? | Describe yourself in one sentence."""


class Prompt(NamedTuple):
    text: str
    kind: str  # sum, instruction or identity
    key: tuple  # what it asks: two prompts with the same key want the same answer


def words_of(text):
    return re.findall(r"[a-z0-9']+", text.lower())


RULES = {  # instruction template: what of an answer can be checked
    "Write one sentence about {t} that contains the word quiet.": lambda answer, t: "quiet" in words_of(answer),
    "Describe {t} in at most ten words.": lambda answer, t: 0 < len(words_of(answer)) <= 10,
    "Write a question about {t}.": lambda answer, t: answer.strip().endswith("?"),
    "Name three {t}, separated by commas.": lambda answer, t: answer.count(",") == 2 and "\n" not in answer.strip(),
    "Answer yes or no: is {t}?": lambda answer, t: words_of(answer)[:1] in (["yes"], ["no"]),
}


def pool(rng):
    """What people may ask, each as the forms in which it may be asked. -> [(kind, key, forms)]."""
    asked = [("sum", (17, "+", 25), [f.format(e="17 + 25") for f in SUM_FORMS]), ("identity", (0,), ["Who are you?"])]
    sums = rng.sample(
        [p for p in arithmetic.problems() if p.operator == "+" and 2 <= p.left <= 30 and 2 <= p.right <= 30], 130
    )
    turned = [arithmetic.Problem(p.left, "-", p.right) for p in sums[:60] if p.left > p.right]
    for problem in sums + turned:
        asked.append(
            (
                "sum",
                (problem.left, problem.operator, problem.right),
                [f.format(e=problem.expression) for f in SUM_FORMS],
            )
        )
    for index, template in enumerate(RULES):
        things = PLURALS if "Name three" in template else YES_NO if "yes or no" in template else TOPICS
        for thing in things.split(", "):
            asked.append(("instruction", (index, thing), [template.format(t=thing)]))
    asked += [("identity", (i,), [q.strip()]) for i, q in enumerate(IDENTITY.replace("\n", " | ").split(" | ")) if i]
    return asked


def typed(rng, prompt):
    """The same prompt as somebody types it."""
    habits = [
        lambda p: p, lambda p: p.lower(), lambda p: p.upper(), lambda p: f"Please: {p}", lambda p: f"Hello! {p}",
        lambda p: p.rstrip("?."), lambda p: p.replace(" ", "  ", 1), lambda p: p + " Thanks!", swapped_letters(rng),
    ]  # fmt: skip
    return rng.choices(habits, weights=[10, 3, 1, 2, 2, 3, 2, 1, 3])[0](prompt)


def swapped_letters(rng):
    def typo(prompt):
        places = [i for i in range(1, len(prompt) - 2) if prompt[i : i + 2].isalpha() and prompt[i] != prompt[i + 1]]
        i = rng.choice(places)
        return prompt[:i] + prompt[i + 1] + prompt[i] + prompt[i + 2 :]

    return typo


def collect(count, seed):
    """Prompts as they come in: the popular ones (early in the pool) often, the others seldom."""
    rng = random.Random(seed)
    asked = pool(rng)
    head, tail = asked[:2], asked[2:]
    rng.shuffle(tail)
    asked = head + tail
    weights = [1 / (rank + 20) for rank in range(len(asked))]
    drawn = [*range(2), *rng.choices(range(len(asked)), weights, k=count - 2)]
    prompts = []
    for index in drawn:
        kind, key, forms = asked[index]
        form = rng.choice(forms) if index >= 2 or prompts[2:] else forms[0]
        prompts.append(Prompt(typed(rng, form) if len(prompts) >= 2 else form, kind, key))
    return prompts


collected = collect(budget.collected, SEED)
kinds = Counter(prompt.kind for prompt in collected)
asks = len({prompt.key for prompt in collected})
print(f"{len(collected)} prompts ({dict(kinds)}), which ask {asks} different things")
run.table(
    [[p.text, p.kind, str(p.key)] for p in collected if p.key in ((17, "+", 25), (0,))][:9],
    ["prompt", "kind", "what it asks"],
    caption="Two things that were asked often, as they came in",
)

# %% [markdown]
# ## Doubles, exactly
#
# First the cheap step: bring each prompt to a normal form, and keep one of each form. How far should the normal form go? Removing
# *all* punctuation catches more doubles. Count what it does to 42 - 17 and 42 + 17.


# %%
def normalize(prompt):
    """Lower case, single spaces, no punctuation at the end."""
    return " ".join(prompt.lower().split()).rstrip(" ?!.")


def normalize_hard(prompt):
    """The same without any punctuation: it takes + and - for commas."""
    return " ".join(re.sub(r"[^\w\s]", " ", prompt.lower()).split())


def first_of_each(prompts, form):
    """-> indices kept, and pairs (dropped, kept): the first prompt of each form stays."""
    seen, kept, dropped = {}, [], []
    for index, prompt in enumerate(prompts):
        if (shape := form(prompt.text)) in seen:
            dropped.append((index, seen[shape]))
        else:
            seen[shape] = index
            kept.append(index)
    return kept, dropped


rows = []
for name, form in (("as typed", str), ("normal form", normalize), ("no punctuation at all", normalize_hard)):
    kept, dropped = first_of_each(collected, form)
    false = [(a, b) for a, b in dropped if collected[a].key != collected[b].key]
    rows.append(
        [name, len(kept), len(dropped), len(false), " / ".join(collected[i].text for i in false[0]) if false else "–"]
    )
run.table(
    rows, ["two are equal if equal", "kept", "dropped", "asked something else", "for example"], caption="Exact doubles"
)
false_exact, false_hard, false_example = rows[1][3], rows[2][3], rows[2][4]
unique = [collected[i] for i in first_of_each(collected, normalize)[0]]
run.claim("the normal form merges no two prompts that ask different things", false_exact == 0)
run.claim("without punctuation sums and differences are taken for one another", false_hard > 0)

# %% [markdown]
# ## Doubles, nearly: Jaccard similarity
#
# Cut each prompt into overlapping pieces of four characters (**shingles**) and compare the sets: $J(A,B)=|A\cap B|/|A\cup B|$,
# between 0 and 1. By brute force that is $N(N-1)/2$ comparisons of sets: fine for some hundred prompts, not for a million.


# %%
def shingles(prompt, n=4):
    form = normalize(prompt)
    return {form[i : i + n] for i in range(max(1, len(form) - n + 1))}


def jaccard(a, b):
    return len(a & b) / len(a | b)


def all_jaccards(sets):
    """Every pair at once, (N, N): sets as rows of zeros and ones, so that intersections are one matrix product."""
    column = {shingle: i for i, shingle in enumerate(sorted(set().union(*sets)))}
    member = np.zeros((len(sets), len(column)), dtype=np.float32)
    for row, shingle_set in enumerate(sets):
        member[row, [column[shingle] for shingle in shingle_set]] = 1
    both = member @ member.T
    sizes = member.sum(1)
    return both / (sizes[:, None] + sizes[None, :] - both)


sets = [shingles(prompt.text) for prompt in unique]
J = all_jaccards(sets)
example = [normalize("What is 17 + 25?"), normalize("How much is 17 + 25?"), normalize("What is 17 + 26?")]
for other in example[1:]:
    a, b = shingles(example[0]), shingles(other)
    print(f"{example[0]!r} and {other!r}: {len(a & b)} shared of {len(a | b)}, J = {jaccard(a, b):.3f}")
run.claim(
    "the matrix product gives the sets' own Jaccard similarity",
    max(abs(J[i, j] - jaccard(sets[i], sets[j])) for i, j in itertools.combinations(range(0, len(sets), 7), 2)) < 1e-6,
)

# %% [markdown]
# ## MinHash
#
# Hash every shingle to a number, and keep the smallest number of the set. Over a random hash function, two sets have the same
# minimum with probability exactly $J$: the smallest element of $A\cup B$ is equally likely to be any of its elements, and both sets
# have it as their minimum just if it lies in $A\cap B$. So $k$ hash functions give $k$ coin throws with head probability $J$, a
# **signature** of $k$ numbers per prompt, and the share of equal numbers estimates $J$ with standard deviation $\sqrt{J(1-J)/k}$.

# %%
PRIME = 2**31 - 1
K = 128


def stable_hash(shingle):
    """A number below PRIME, the same in every run (Python's own hash() of a string is not)."""
    return int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=8).digest(), "big") % PRIME


def signatures(sets, k, seed):
    """(N, k): the smallest value of each of k random functions (a x + b) mod p over each set."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, PRIME, k), rng.integers(0, PRIME, k)
    return np.stack(
        [
            ((a[:, None] * np.array([stable_hash(s) for s in shingle_set]) + b[:, None]) % PRIME).min(1)
            for shingle_set in sets
        ]
    )


def estimates(signature):
    """The share of equal numbers, for every pair: (N, N)."""
    return np.stack([(row == signature).mean(1) for row in signature])


upper = np.triu_indices(len(unique), 1)
true = J[upper]
errors = np.stack([estimates(signatures(sets, K, seed))[upper] - true for seed in range(budget.hash_seeds)])
edges = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999])
centres, measured, theory = [], [], []
for low, high in itertools.pairwise(edges):
    inside = (true >= low) & (true < high)
    if inside.sum() >= 5:
        centres.append(true[inside].mean())
        measured.append(np.sqrt((errors[:, inside] ** 2).mean()))
        theory.append(np.sqrt((true[inside] * (1 - true[inside]) / K).mean()))
spread = (true > 0.1) & (true < 0.999)
z = errors[:, spread] / np.sqrt(true[spread] * (1 - true[spread]) / K)
error_ratio, error_bias = float(np.sqrt((z**2).mean())), float(errors[:, spread].mean())

grid = np.linspace(0, 1, 101)
fig = go.Figure()
fig.add_scatter(x=grid, y=np.sqrt(grid * (1 - grid) / K), name="√(J(1−J)/k)", line={"dash": "dot"})
fig.add_scatter(
    x=centres, y=measured, name=f"measured, {budget.hash_seeds} hash seeds", mode="markers", marker={"size": 9}
)
fig.update_layout(
    title=f"The error of MinHash with k = {K}", xaxis_title="Jaccard similarity J", yaxis_title="standard error"
)
run.figure(
    fig,
    "The measured error of MinHash estimates lies on the curve root of J times one minus J over k, highest at J = 0.5.",
)
print(f"error / theory = {error_ratio:.3f}; mean error {error_bias:+.4f}")

# %% [markdown]
# ## Locality-sensitive hashing: no need to compare all pairs
#
# Cut the signature into $b$ bands of $r$ numbers. Two prompts become **candidates** if one band agrees in full: a dictionary finds
# them without comparing pairs. A band agrees with probability $J^r$, so some band agrees with probability $1-(1-J^r)^b$. The
# candidates are then compared exactly, so LSH can miss a double but never invents one.


# %%
def candidates(signature, bands):
    """Pairs (i, j), i < j, that agree in at least one band."""
    found = set()
    for band in np.split(signature, bands, axis=1):
        buckets = {}
        for index, row in enumerate(band):
            buckets.setdefault(row.tobytes(), []).append(index)
        for bucket in buckets.values():
            found.update(itertools.combinations(bucket, 2))
    return found


NEAR = 0.7
truly_near = {(int(i), int(j)) for i, j in zip(*upper) if J[i, j] >= NEAR}
rows, fig = [], go.Figure()
lsh = {}
for bands in (64, 32, 16):
    r = K // bands
    hit, tried, found, missed = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1), [], []
    for seed in range(budget.hash_seeds):
        pairs = candidates(signatures(sets, K, seed), bands)
        found.append(len(pairs))
        missed.append(len(truly_near - pairs))
        is_candidate = np.zeros_like(J, dtype=bool)
        is_candidate[tuple(np.array(sorted(pairs)).T)] = True
        bins = np.digitize(true, edges) - 1
        for at in range(len(edges) - 1):
            hit[at] += is_candidate[upper][bins == at].sum()
            tried[at] += (bins == at).sum()
    lsh[bands] = (np.mean(found), np.mean(missed))
    rows.append(
        [f"{bands} bands of {r}", f"{(1 / bands) ** (1 / r):.3f}", f"{np.mean(found):,.0f}", f"{np.mean(missed):.1f}"]
    )
    points = [at for at in range(len(edges) - 1) if tried[at]]
    where = [true[bins == at].mean() for at in points]
    fig.add_scatter(x=grid, y=1 - (1 - grid**r) ** bands, name=f"1−(1−J^{r})^{bands}", line={"dash": "dot"})
    fig.add_scatter(x=where, y=[hit[at] / tried[at] for at in points], name=f"{bands} × {r}, measured", mode="markers")
run.table(
    rows, ["signature of 128 cut into", "(1/b)^(1/r)", "candidates", f"doubles (J ≥ {NEAR}) missed"],
    caption=f"Of {len(true):,} pairs {len(truly_near)} are near doubles; means over {budget.hash_seeds} hash seeds",
)  # fmt: skip
fig.update_layout(
    title="Which pairs become candidates", xaxis_title="Jaccard similarity J", yaxis_title="share of pairs"
)
run.figure(
    fig,
    "Share of pairs that become candidates over their similarity: S-shaped, steeper and further right for longer bands.",
)

# %% [markdown]
# ## What a near double costs
#
# Now use it: drop a prompt if an earlier one has $J\ge$ threshold. The plot counts what is dropped, and how much of that asked
# something *nobody else had asked*. To MinHash "What is 17 + 25?" and "What is 17 + 26?" are nearly the same text, and to a
# verifier they are two problems. A guard helps: two prompts with different numbers are never doubles.


# %%
def numbers(prompt):
    return re.findall(r"\d+|[+-](?= )", prompt)


def nearest_earlier(similarity, prompts, guard):
    """For each prompt: the greatest similarity to an earlier one, and which; with the guard only if the numbers agree."""
    best = []
    for i, prompt in enumerate(prompts):
        row = [
            similarity[i, j] if not guard or numbers(prompt.text) == numbers(prompts[j].text) else 0.0 for j in range(i)
        ]
        best.append((max(row), int(np.argmax(row))) if row else (0.0, -1))
    return best


def near_filter(prompts, nearest, threshold):
    """-> indices kept, and (dropped, its double) pairs."""
    kept = [i for i, (s, _) in enumerate(nearest) if s < threshold]
    return kept, [(i, j) for i, (s, j) in enumerate(nearest) if s >= threshold]


def lost_asks(prompts, kept):
    """How many different things are no longer asked by anybody."""
    return len({p.key for p in prompts} - {prompts[i].key for i in kept})


thresholds = np.round(np.arange(0.4, 1.0, 0.05), 2)
fig, table = go.Figure(), {}
for guard in (False, True):
    nearest = nearest_earlier(J, unique, guard)
    cuts = [near_filter(unique, nearest, t) for t in thresholds]
    dropped, lost = [len(d) for _, d in cuts], [lost_asks(unique, k) for k, _ in cuts]
    table[guard] = {t: (len(k), len(d), lost_asks(unique, k)) for t, (k, d) in zip(thresholds.tolist(), cuts)}
    name = "numbers must agree" if guard else "text alone"
    fig.add_scatter(x=thresholds, y=dropped, name=f"dropped, {name}", line={"dash": "dot"})
    fig.add_scatter(x=thresholds, y=lost, name=f"questions lost, {name}")
fig.update_layout(
    title="What the near-double filter removes, and what it costs", xaxis_title="threshold on J", yaxis_title="prompts"
)
run.figure(
    fig,
    "Dropped prompts and questions lost over the threshold: by text alone many questions are lost, with the guard few.",
)

guarded = nearest_earlier(J, unique, True)
kept, dropped = near_filter(unique, guarded, NEAR)
prompts = [unique[i] for i in kept]
still = len(prompts) - len({p.key for p in prompts})
run.table(
    [
        [unique[i].text, unique[j].text, float(J[i, j]), "same" if unique[i].key == unique[j].key else "different"]
        for i, j in dropped[:8]
    ],
    ["dropped", "because of", "J", "what they ask"],
    caption=f"Dropped at J ≥ {NEAR} with equal numbers; {still} prompts that remain still ask what another one asks",
)
plain_lost, guard_lost = table[False][NEAR][2], table[True][NEAR][2]
print(
    f"at {NEAR}: by text alone {table[False][NEAR]}, with the guard {table[True][NEAR]} (kept, dropped, questions lost)"
)

# %% [markdown]
# ## Answers
#
# From the cleaned list take sums, instructions and questions about the model, and let SmolLM2-135M-Instruct answer. Sums are hard
# for it, so half of their answers are sampled with two worked examples in front (in the record stands the plain prompt). That is
# what a mixture of sources looks like: one writes short and mostly to the point, the other rambles. Keep that in mind for the length filter.

# %%
model, tokenizer = models.load("small")
device = next(model.parameters()).device
SHOTS = [("What is 3 + 4?", "3 + 4 = 7."), ("What is 30 + 6?", "30 + 6 = 36.")]


class Answer(NamedTuple):
    text: str
    ended: bool  # by itself, not cut at the limit
    source: str  # plain, or with examples


def sample_answers(asked, source, count, seed):
    """-> for each prompt `count` answers, sampled in batches of 48."""
    turns = [
        message
        for question, reply in SHOTS
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": reply})
    ]
    before = turns if source == "with examples" else []
    ids = [
        text.encode_prompt(tokenizer, [*before, {"role": "user", "content": prompt.text}])
        for prompt in asked
        for _ in range(count)
    ]
    generator = torch.Generator(device).manual_seed(seed)
    sampling = Sampling(temperature=1.0 if before else 0.8)
    drawn = []
    for start in run.progress(range(0, len(ids), 48), f"sampling, {source}"):
        with compute.autocast():
            drawn += decoding.generate(
                model, ids[start : start + 48], 16 if before else budget.words, sampling,
                stop_id=tokenizer.eos_token_id, generator=generator,
            )  # fmt: skip
    answers = [Answer(tokenizer.decode(d.ids, skip_special_tokens=True).strip(), d.ended, source) for d in drawn]
    return [answers[i : i + count] for i in range(0, len(answers), count)]


chosen_prompts = []
for kind, count in (("sum", budget.sums), ("instruction", budget.instructions), ("identity", budget.identity)):
    chosen_prompts += [prompt for prompt in prompts if prompt.kind == kind and (kind != "sum" or prompt.key[1] == "+")][
        :count
    ]
sums = [prompt for prompt in chosen_prompts if prompt.kind == "sum"]
others = [prompt for prompt in chosen_prompts if prompt.kind != "sum"]
started = time.perf_counter()
answers = dict(
    zip(
        sums,
        map(
            list.__add__,
            sample_answers(sums, "plain", budget.answers // 2, 1),
            sample_answers(sums, "with examples", budget.answers // 2, 2),
        ),
    )
)
answers |= dict(zip(others, sample_answers(others, "plain", budget.answers, 3)))
sampling_seconds = time.perf_counter() - started
for prompt in (sums[0], next(p for p in others if p.kind == "identity")):
    run.table(
        [[a.text, a.source, a.ended] for a in answers[prompt]], ["answer", "source", "ended"], caption=prompt.text
    )

# %% [markdown]
# ## Scores: rules, a verifier, a judge
#
# **Verifier** (sums): is the last number of the answer the sum? **Rule** (the others): does the answer keep to what was asked, or,
# for questions about itself, say that it is a program? Both give 0 or 1. A fifth of the score goes to form: did the answer end?
# This score will be the truth against which everything else is measured.


# %%
def task_score(prompt, answer):
    """1 if a program can confirm the answer, else 0."""
    if prompt.kind == "sum":
        left, operator, right = prompt.key
        return float(arithmetic.correct(arithmetic.Problem(left, operator, right), answer.text))
    if prompt.kind == "instruction":
        index, thing = prompt.key
        return float(list(RULES.values())[index](answer.text, thing))
    return float(bool(set(words_of(answer.text)) & {"ai", "chatbot", "assistant", "model", "program", "smollm"}))


def score(prompt, answer):
    """The scorer of this lab, 0 to 1: four fifths the task, one fifth the form."""
    return 0.8 * task_score(prompt, answer) + 0.2 * answer.ended


rows = []
for source, kind in (("plain", "sum"), ("with examples", "sum"), ("plain", "instruction"), ("plain", "identity")):
    group = [(p, a) for p in answers if p.kind == kind for a in answers[p] if a.source == source]
    lengths = [len(tokenizer.encode(a.text)) for _, a in group]
    rows.append([
        f"{kind}, {source}", len(group), f"{np.mean([task_score(*pair) for pair in group]):.0%}",
        f"{np.mean([a.ended for _, a in group]):.0%}", f"{np.mean(lengths):.1f}",
    ])  # fmt: skip
rows_able = rows
run.table(rows, ["prompts, source", "answers", "confirmed", "ended", "tokens"], caption="What the model can do")
right_plain, right_shots = rows[0][2], rows[1][2]

confirmed = [a for p in sums for a in answers[p] if task_score(p, a) > 0.5]
accidents = [a.text for a in confirmed if arithmetic.wrong_equations(a.text)]
print(f"{len(accidents)} of {len(confirmed)} confirmed answers to sums hold a wrong equation: {accidents[:1]}")

# %% [markdown]
# A verifier is right by definition, and the definition is ours. This one reads the last number. An answer that wanders and happens to
# stop at the right number, or is cut there, is confirmed.

# %% [markdown]
# ## The judge
#
# Where no verifier exists, one asks a model. The cheapest judge is the model itself: put question and answer into a prompt, and read
# the probability of "Yes" against "No". SmolLM2 has 135 million parameters, and it will be poor. How poor, and in which way, can
# be measured, because on sums we know the truth.

# %%
from alignlab.transformer import Transformer


@torch.no_grad()
def log_odds(questions, first, second):
    """log P(first word) - log P(second word) as the next token after each question, in nats: (N,)."""
    decoder = Transformer.view(model)
    words = torch.tensor(
        [tokenizer.encode(word, add_special_tokens=False)[0] for word in (first, second)], device=device
    )
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))  # neighbours of like length: little padding
    values = torch.zeros(len(questions))
    for start in range(0, len(order), 16):
        rows = order[start : start + 16]
        examples = [
            text.Example(ids, [0] * len(ids)) for ids in (text.encode_prompt(tokenizer, questions[i]) for i in rows)
        ]
        batch = text.pad(examples, tokenizer.pad_token_id).to(device)
        last = batch.attention_mask.sum(1) - 1
        with compute.autocast():
            states = decoder.hidden(batch.input_ids, batch.attention_mask)[torch.arange(len(rows), device=device), last]
        logits = decoder.lm_head(states.float())[:, words]
        values[rows] = (logits[:, 0] - logits[:, 1]).cpu()
    return values


JUDGE = "Question: {q}\nAnswer: {a}\nIs this answer correct? Reply with Yes or No."
COMPARE = "Question: {q}\nA: {a}\nB: {b}\nWhich answer is better? Reply with A or B."


def auc(values, labels):
    """The probability that a right answer gets a higher value than a wrong one; 0.5 is a coin."""
    right, wrong = values[labels], values[~labels]
    return ((right[:, None] > wrong[None]).double() + 0.5 * (right[:, None] == wrong[None])).mean().item()


everything = [(prompt, answer) for prompt in answers for answer in answers[prompt]]
verdicts = log_odds([JUDGE.format(q=p.text, a=a.text) for p, a in run.progress(everything, "judging")], "Yes", "No")
judge_rank = verdicts.argsort().argsort().double() / (len(verdicts) - 1)  # a scale without unit becomes 0 to 1
judged = dict(zip(((p, i) for p in answers for i in range(len(answers[p]))), judge_rank.tolist()))

is_sum = torch.tensor([p.kind == "sum" for p, _ in everything])
truth = torch.tensor([task_score(p, a) > 0.5 for p, a in everything])
length = torch.tensor([float(len(tokenizer.encode(a.text))) for _, a in everything])
judge_auc = auc(verdicts[is_sum], truth[is_sum])
says_yes = (verdicts[is_sum] > 0).double().mean().item()
agreement = ((verdicts > 0) == truth)[is_sum].double().mean().item()
base_rate = max(truth[is_sum].double().mean().item(), 1 - truth[is_sum].double().mean().item())
same_length = is_sum & torch.tensor([a.source == "with examples" for _, a in everything])
auc_examples = auc(verdicts[same_length], truth[same_length])

padded = [(p, a) for p, a in everything if p.kind == "sum" and a.ended][: budget.compared]
tail = " I hope this helps. Let me know if you have any other questions!"
plain_odds = log_odds([JUDGE.format(q=p.text, a=a.text) for p, a in padded], "Yes", "No")
padded_odds = log_odds([JUDGE.format(q=p.text, a=a.text + tail) for p, a in padded], "Yes", "No")
padding_effect = (padded_odds - plain_odds).mean().item()

duels = []  # a right and a wrong answer to the same sum, both sampled with examples: alike in all but the numbers
for prompt in sums:
    alike = [a for a in answers[prompt] if a.source == "with examples"]
    right = [a for a in alike if task_score(prompt, a) > 0.5]
    wrong = [a for a in alike if task_score(prompt, a) < 0.5]
    if right and wrong:
        duels.append((prompt, right[0], wrong[0]))
duels = duels[: budget.compared] or [
    (sums[0], Answer("17 + 25 = 42.", True, "by hand"), Answer("17 + 25 = 32.", True, "by hand"))
]
right_first = log_odds([COMPARE.format(q=p.text, a=r.text, b=w.text) for p, r, w in duels], "A", "B")
wrong_first = log_odds([COMPARE.format(q=p.text, a=w.text, b=r.text) for p, r, w in duels], "A", "B")
both_orders = torch.stack([right_first > 0, wrong_first < 0])  # the right answer won, in each order
says_a = torch.cat([right_first, wrong_first]).gt(0).double().mean().item()
consistent = both_orders[0].eq(both_orders[1]).double().mean().item()
compare_right = both_orders.double().mean().item()
averaged_right = (right_first - wrong_first > 0).double().mean().item()
run.table(
    [
        ["one answer: says Yes", f"{says_yes:.0%}", f"{truth[is_sum].double().mean():.0%} are right"],
        ["one answer: agrees with the verifier", f"{agreement:.0%}", f"{base_rate:.0%} by always saying the same"],
        ["one answer: ranks a right one above a wrong one", f"{judge_auc:.2f}", "0.50 by chance"],
        ["  the same, among answers of one source", f"{auc_examples:.2f}", "0.50 by chance"],
        ["one answer: effect of a polite last sentence", f"{padding_effect:+.2f} nats", "0 if content counts"],
        ["two answers: says A", f"{says_a:.0%}", "50%"],
        ["two answers: same winner after swapping them", f"{consistent:.0%}", "100%"],
        ["two answers: the winner is the right one", f"{compare_right:.0%}", "50% by chance"],
        ["  with the log-odds of both orders averaged", f"{averaged_right:.0%}", "50% by chance"],
    ],
    ["judge", "measured", "to compare"],
    caption=f"SmolLM2 as a judge of {int(is_sum.sum())} answers to sums, and of {len(duels)} couples",
)  # fmt: skip

# %% [markdown]
# ## Pairs
#
# For each prompt, the best answer against the worst. Once by the score, once by the judge (its log-odds by rank, from 0 to 1). A
# pipeline without scruples takes both lists, whether best and worst differ or not. Cleaning is what comes next.


# %%
class Pair(NamedTuple):
    prompt: Prompt
    chosen: Answer
    rejected: Answer
    score_chosen: float
    score_rejected: float
    source: str  # who preferred: score, judge or import

    @property
    def margin(self):
        return self.score_chosen - self.score_rejected

    @property
    def truth(self):
        """1: the chosen answer is the better one, -1: the rejected one is, 0: the task sees no difference."""
        return int(np.sign(task_score(self.prompt, self.chosen) - task_score(self.prompt, self.rejected)))


def best_and_worst(prompt, drawn, values, source):
    best, worst = int(np.argmax(values)), int(np.argmin(values))
    return Pair(prompt, drawn[best], drawn[worst], values[best], values[worst], source)


pairs = []
for prompt, drawn in answers.items():
    pairs.append(best_and_worst(prompt, drawn, [score(prompt, a) for a in drawn], "score"))
    pairs.append(best_and_worst(prompt, drawn, [judged[prompt, i] for i in range(len(drawn))], "judge"))

# %% [markdown]
# Five more records arrive from elsewhere, "already clean". They are not, and each is broken in a way that training does not notice.
# An empty answer teaches the model to say nothing; two equal answers have margin 0 whatever the weights; a prompt as
# long as the context leaves no answer after cutting, and a mean over no tokens is 0/0.

# %%
MAX_LENGTH = 128
good, bad = Answer("17 + 25 = 42.", True, "import"), Answer("17 + 25 = 32.", True, "import")
question = Prompt("What is 17 + 25?", "sum", (17, "+", 25))
endless = question._replace(text="Here is a story. " + "The rain fell on the old town. " * 30 + question.text)
long_one = good._replace(text="Let me explain. " + "We add the tens, and then we add the ones. " * 12 + "17 + 25 = 42.")
imported = {
    "empty chosen answer": Pair(question, good._replace(text=""), bad, 1.0, 0.2, "import"),
    "only blanks": Pair(question, good, bad._replace(text=" \n "), 1.0, 0.2, "import"),
    "two equal answers": Pair(question, good, good._replace(text="17 + 25 = 42. "), 1.0, 0.9, "import"),
    "prompt longer than the context": Pair(endless, good, bad, 1.0, 0.2, "import"),
    "answer longer than what is left": Pair(question, long_one, bad, 1.0, 0.2, "import"),
}
pairs += imported.values()


def tokens_of(prompt, answer):
    return len(text.encode_prompt(tokenizer, prompt.text)) + len(tokenizer.encode(answer.text)) + answer.ended


def broken(pair):
    """Why a pair cannot be trained on; an empty string if it can."""
    if not pair.chosen.text.strip() or not pair.rejected.text.strip():
        return "empty answer"
    if pair.chosen.text.strip() == pair.rejected.text.strip():
        return "equal answers"
    if len(text.encode_prompt(tokenizer, pair.prompt.text)) >= MAX_LENGTH:
        return "prompt fills the context"
    if max(tokens_of(pair.prompt, pair.chosen), tokens_of(pair.prompt, pair.rejected)) > MAX_LENGTH:
        return "answer would be cut"
    return ""


def library_says(pair):
    """The library's own complaint about the same record, if any."""
    try:
        rows = [
            text.encode_response(tokenizer, pair.prompt.text, a.text, a.ended) for a in (pair.chosen, pair.rejected)
        ]
        text.pad(rows, tokenizer.pad_token_id, MAX_LENGTH)
    except ValueError as error:
        return str(error)
    return "–"


run.table(
    [[name, broken(pair), library_says(pair)[-90:]] for name, pair in imported.items()],
    ["record", "our check", "error of alignlab.text (its end)"], caption="Broken records are named before they cost anything",
)  # fmt: skip
empty_row = text.pad([text.Example([1, 2, 3], [0, 0, 0]), text.Example([1, 2, 3], [0, 1, 1])], 0)
by_token = torch.tensor([[0.0, 0.0], [-1.0, -2.0]])
naive = (by_token * empty_row.response_mask[:, 1:]).sum(1) / empty_row.response_mask[:, 1:].sum(1)
print(
    f"mean log-probability of a row without answer tokens: {naive.tolist()}, so the batch's loss is {naive.mean().item()}"
)
try:
    logprobs.sequence_logprobs(model, *empty_row.to(device))
    masked_error = ""
except ValueError as error:
    masked_error = str(error)
print("alignlab.logprobs:", masked_error)
run.claim("each broken record is named", all(broken(pair) for pair in imported.values()))
run.claim(
    "a row without answer tokens is an error, not a NaN", "no response token" in masked_error and naive.isnan().any()
)

# %% [markdown]
# ## Cleaning, with the bill
#
# Each filter takes the list and returns what it keeps. The table counts what it removed, split by the truth: pairs the
# wrong way round (good riddance), pairs without a difference, and **right pairs, its price**.


# %%
def bill(before, after):
    """-> removed: wrong way round, no difference, right; and the share of right ones among the decided pairs that stay."""
    gone = Counter(pair.truth for pair in before) - Counter(pair.truth for pair in after)
    stay = Counter(pair.truth for pair in after)
    return [gone[-1], gone[0], gone[1], stay[1] / max(1, stay[1] + stay[-1])]


def without_broken(pairs):
    return [pair for pair in pairs if not broken(pair)]


def couple(pair):
    return pair.prompt.text, frozenset((pair.chosen.text.strip(), pair.rejected.text.strip()))


def contradicted(pairs):
    """For each pair: does another one prefer the same two answers the other way round?"""
    winners = {}
    for pair in pairs:
        winners.setdefault(couple(pair), set()).add(pair.chosen.text.strip())
    return [len(winners[couple(pair)]) > 1 for pair in pairs]


def without_contradictions(pairs):
    return [pair for pair, against in zip(pairs, contradicted(pairs)) if not against]


MARGIN = 0.5


def without_ties(pairs, margin=MARGIN):
    return [pair for pair in pairs if pair.margin >= margin]


# %% [markdown]
# **Length.** How well does length alone predict which answer was chosen? If "the shorter one wins" is right in 80% of the pairs, a
# model can lower its loss for a long time by learning to be short. Two cures: a cap on the ratio of the lengths, and balance (drop
# from the larger side until length says nothing).


# %%
def lengths_of(pair):
    return tuple(len(tokenizer.encode(a.text)) + a.ended for a in (pair.chosen, pair.rejected))


def chosen_longer(pairs):
    """The share of pairs whose chosen answer is the longer one; equal lengths count half."""
    return float(np.mean([0.5 + 0.5 * np.sign(a - b) for a, b in map(lengths_of, pairs)])) if pairs else 0.5


def length_accuracy(pairs):
    """How often the better of the two rules, "longer wins" or "shorter wins", names the chosen answer."""
    return max(chosen_longer(pairs), 1 - chosen_longer(pairs))


RATIO = 2.5


def length_capped(pairs, ratio=RATIO):
    return [pair for pair in pairs if max(lengths_of(pair)) <= ratio * min(lengths_of(pair))]


def length_balanced(pairs, seed=0):
    """As many pairs with a longer as with a shorter chosen answer; the most unequal ones go first."""
    sign = [int(np.sign(a - b)) for a, b in map(lengths_of, pairs)]
    keep = min(sign.count(1), sign.count(-1))
    kept = [pair for pair, s in zip(pairs, sign) if s == 0]
    for side in (1, -1):
        of_side = sorted(
            (p for p, s in zip(pairs, sign) if s == side), key=lambda p: max(lengths_of(p)) / min(lengths_of(p))
        )
        kept += of_side[:keep]
    return kept


# %% [markdown]
# **Leakage.** The held-out prompts that will measure the trained model must not be in the data. The usual test is overlap: which share
# of a held-out prompt's word trigrams occurs in our prompt? For sums we know better, since 25 + 17 gives 17 + 25 away, and no
# trigram of it agrees.


# %%
def ngrams(prompt, n=3):
    words = re.findall(r"[a-z']+|\d+|[+-]", normalize(prompt))
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


held_out = [p.questions[0] for p in arithmetic.problems("held-out")]
held_out += ["What is your name?", "Write a question about rain.", "Name three tools, separated by commas."]
held_out_ngrams = [ngrams(prompt) for prompt in held_out]


def leak(prompt):
    """The greatest share of a held-out prompt's trigrams that this prompt holds, 0 to 1."""
    mine = ngrams(prompt.text)
    return max(len(mine & theirs) / len(theirs) for theirs in held_out_ngrams)


def really_leaks(prompt):
    """Known here: a sum of a held-out family, or the very thing that a held-out prompt asks."""
    if prompt.kind == "sum":
        return arithmetic.Problem(*prompt.key).split == "held-out"
    return normalize(prompt.text) in map(normalize, held_out)


LEAK = 0.8


def without_leaks(pairs, share=LEAK):
    return [pair for pair in pairs if leak(pair.prompt) < share]


sum_prompts = [prompt for prompt in prompts if prompt.kind == "sum"]
rows = []
overlap, leaks = [leak(p) for p in sum_prompts], [really_leaks(p) for p in sum_prompts]
for share in (0.3, 0.5, 0.8, 1.0):
    flagged = [o >= share for o in overlap]
    hits = sum(f and true_leak for f, true_leak in zip(flagged, leaks))
    rows.append([f"{share:.1f}", sum(flagged), hits, sum(flagged) - hits, sum(leaks) - hits])
run.table(
    rows, ["overlap at least", "flagged", "leak", "innocent", "leaks missed"],
    caption=f"{len(sum_prompts)} sums, {sum(leaks)} of which belong to a held-out family",
)  # fmt: skip
leak_half, (leak_flagged, leak_hits, leak_innocent, leak_missed) = rows[1][1:], rows[2][1:]

# %% [markdown]
# ## The funnel
#
# One after the other. The last but one is a question of trust: on pairs that the verifier decides, how often is the judge right?
# A source close to a coin is left out. The last one drops pairs with a cut answer; the next section says why.


# %%
def judge_right(pairs):
    decided = [pair.truth for pair in pairs if pair.source == "judge" and pair.truth]
    return sum(t == 1 for t in decided), len(decided)


def without_judge(pairs):
    return [pair for pair in pairs if pair.source != "judge"]


def without_cut_answers(pairs):
    return [pair for pair in pairs if pair.chosen.ended and pair.rejected.ended]


FILTERS = {
    "broken": without_broken, "contradictions": without_contradictions, "ties": without_ties, "length": length_capped,
    "leaks": without_leaks, "judge": without_judge, "cut": without_cut_answers,
}  # fmt: skip
SHOWN = {
    "all": "all pairs", "broken": "broken records", "contradictions": "contradicted by another", "ties": f"margin under {MARGIN}",
    "length": f"length ratio over {RATIO}", "leaks": f"overlap with held-out {LEAK} or more", "judge": "only the judge says so",
    "cut": "an answer was cut",
}  # fmt: skip


def funnel(pairs, filters):
    """-> what is left after each filter, and the ledger [(name, bill, pairs left, what length alone predicts)]."""
    stages, ledger = {"all": pairs}, [("all", bill(pairs, pairs), len(pairs), length_accuracy(pairs))]
    stage = pairs
    for name in filters:
        after = FILTERS[name](stage)
        ledger.append((name, bill(stage, after), len(after), length_accuracy(after)))
        stages[name] = stage = after
    return stages, ledger


stages, ledger = funnel(pairs, FILTERS)
run.table(
    [[SHOWN[name], left, wrong, none, right, f"{share:.0%}", f"{by_length:.0%}"] for name, (wrong, none, right, share), left, by_length in ledger],
    ["removed", "left", "wrong way round", "no difference", "right: the price", "right of decided", "length alone"],
    caption="Every filter, what it removed and what it cost",
)  # fmt: skip
judge_counts = judge_right(stages["broken"])
print(f"the judge's pairs: {judge_counts[0]} of {judge_counts[1]} decided ones are right")
bars = [(SHOWN[name], left) for name, _, left, _ in ledger]
fig = go.Figure(
    go.Bar(x=[left for _, left in bars], y=[name for name, _ in bars], orientation="h", text=[left for _, left in bars])
)
fig.update_layout(
    title="Pairs left after each filter", xaxis_title="pairs", yaxis={"autorange": "reversed"}, margin={"l": 190}
)
run.figure(fig, "Pairs left after each filter: " + ", ".join(f"{name} {left}" for name, left in bars))

# %% [markdown]
# It could be done otherwise. A contradiction between a verifier and a judge need not cost the verifier's pair; balance
# removes what the cap on the ratio leaves of the length signal, at its own price; and the order matters.

# %%
sound = without_broken(pairs)
against = contradicted(sound)
trusting = [pair for pair, c in zip(sound, against) if not c or pair.source == "score"]
before_length = stages["ties"]
trust_first = funnel(pairs, ["broken", "judge", "contradictions", "ties", "length", "leaks", "cut"])[0]["cut"]
rows = []
for name, before, after in (
    ("contradictions: drop both", sound, without_contradictions(sound)),
    ("contradictions: keep the verifier's", sound, trusting),
    (f"length: ratio at most {RATIO}", before_length, length_capped(before_length)),
    ("length: balance", before_length, length_balanced(before_length)),
    ("length: ratio, then balance", before_length, length_balanced(length_capped(before_length))),
    ("all filters, the judge left out first", pairs, trust_first),
    ("all filters, in the order above", pairs, stages["cut"]),
):
    wrong, none, right, share = bill(before, after)
    rows.append([name, len(before), len(after), wrong, right, f"{share:.0%}", f"{length_accuracy(after):.0%}"])
run.table(
    rows, ["choice", "before", "kept", "removed: wrong", "removed: right", "right of decided", "length alone"],
    caption="Other ways to do it",
)  # fmt: skip

# %% [markdown]
# ## Pair again, with the filters in mind
#
# The greatest cost was made before the first filter: best against worst sets the best short answer against the worst rambling one,
# and the filters for length and for cut answers must throw the pair away, a right one. The same answers hold better couples. Take,
# for each prompt, a confirmed and an unconfirmed answer that both ended by themselves and are nearest in length.


# %%
def paired_again(prompt, drawn):
    """The couple (right, wrong) with the smallest difference of length; None if no couple passes the filters."""
    couples = []
    for right, wrong in itertools.product(drawn, drawn):
        pair = Pair(prompt, right, wrong, score(prompt, right), score(prompt, wrong), "score")
        if pair.truth == 1 and right.ended and wrong.ended and not broken(pair) and length_capped([pair]):
            couples.append((abs(lengths_of(pair)[0] - lengths_of(pair)[1]), len(couples), pair))
    return min(couples)[2] if couples else None


finished = without_leaks([pair for pair in (paired_again(*entry) for entry in answers.items()) if pair])
run.table(
    [
        [name, len(group), bill(pairs, group)[3], f"{length_accuracy(group):.0%}"]
        for name, group in (("best against worst, unfiltered", pairs), ("best against worst, filtered", stages["cut"]), ("paired again", finished))
    ],
    ["data", "pairs", "right of decided", "length alone"],
    caption=f"From the same {sum(map(len, answers.values()))} answers",
)  # fmt: skip
run.table(
    [[pair.prompt.text, pair.chosen.text, pair.rejected.text] for pair in finished[:6]], ["prompt", "chosen", "rejected"],
    caption="The first pairs of the data set",
)  # fmt: skip

# %% [markdown]
# ## Packing
#
# What trains is a record with three texts. Two formats are usual: strings that are already in the chat format, and messages that the
# trainer puts into it. Write both, load them with `datasets`, hand them to trl's `DPOTrainer`, and compare its tokens with ours, one by
# one. `text.encode_response` keeps two things that a record of strings cannot say: an answer that was **cut** gets no end token, and nothing
# comes after the end token.

# %%
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

disable_progress_bars()
stand_in = models.load("tiny", "cpu")[0]


def as_strings(pair):
    return {
        "prompt": text.chat(tokenizer, pair.prompt.text),
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
    }


def as_messages(pair):
    def say(role, content):
        return [{"role": role, "content": content}]

    return {
        "prompt": say("user", pair.prompt.text),
        "chosen": say("assistant", pair.chosen.text),
        "rejected": say("assistant", pair.rejected.text),
    }


def through_trl(records, max_length=MAX_LENGTH):
    """The data set as DPOTrainer tokenizes it. The weights play no part: any small model will do."""
    path = f"{tempfile.mkdtemp()}/pairs.jsonl"
    with open(path, "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), max_length=max_length, report_to="none", disable_tqdm=True,
        use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(model=stand_in, args=config, train_dataset=Dataset.from_json(path), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def our_ids(pair):
    """(prompt, chosen, rejected) token ids."""
    rows = [text.encode_response(tokenizer, pair.prompt.text, a.text, a.ended) for a in (pair.chosen, pair.rejected)]
    prompt_length = len(rows[0].ids) - sum(rows[0].response_mask)
    return rows[0].ids[:prompt_length], rows[0].ids[prompt_length:], rows[1].ids[prompt_length:]


def compare(pairs, records):
    """How our tokens and trl's differ, answer by answer: a count of what trl has at its end that we have not."""
    kinds, loaded = Counter(), through_trl(records).train_dataset
    assert len(loaded) == len(pairs)
    for pair, row in zip(pairs, loaded):
        prompt, *ours = our_ids(pair)
        assert row["prompt_ids"] == prompt
        for mine, theirs in zip(ours, (row["chosen_ids"], row["rejected_ids"])):
            extra = (
                tokenizer.decode(theirs[len(mine) :]).replace("\n", "\\n")
                if theirs[: len(mine)] == mine
                else "other tokens"
            )
            kinds[extra] += 1
    return kinds


sound = without_broken(pairs)  # the clean pairs and more: enough of them also in a short run
difference = {
    name: compare(sound, [shape(pair) for pair in sound])
    for name, shape in (("strings", as_strings), ("messages", as_messages))
}
cut_answers = sum(not a.ended for pair in sound for a in (pair.chosen, pair.rejected))
run.table(
    [[name, kinds[""], ", ".join(f"{count} × {extra!r}" for extra, count in kinds.items() if extra) or "none"] for name, kinds in difference.items()],
    ["format", "answers equal token for token", "what trl has more at the end"],
    caption=f"{2 * len(sound)} answers, {cut_answers} of them cut: trl's tokens against ours",
)  # fmt: skip

# %% [markdown]
# Read the second column. A record of strings is ours, except that trl ends every answer, also one that was cut: the model would be
# told to stop in the middle of a sentence. A record of messages goes through the chat template, which writes a line break after
# `<|im_end|>`: one more token to learn, which generation will never produce, because it stops before. So: strings, and no cut answers;
# that is why the last filter drops them.

# %%
example_pair = Pair(question, good, bad, 1.0, 0.2, "by hand")
ended_pairs = [example_pair, *without_cut_answers(sound)]
agree = compare(ended_pairs, [as_strings(pair) for pair in ended_pairs])
run.claim("without cut answers trl's tokens are ours, token for token", agree == Counter({"": 2 * len(ended_pairs)}))

# %% [markdown]
# And the broken records? trl 1.16 takes most of them without a word. Its one guard drops a prompt that fills the context; the log
# says so only in a progress bar.

# %%
rows = []
for name, pair in imported.items():
    try:
        trainer = through_trl([as_strings(pair), as_strings(ended_pairs[0])])
    except Exception as error:
        rows.append([name, f"{type(error).__name__}: {error}"[:80]])
        continue
    if len(trainer.train_dataset) == 1:
        rows.append([name, "dropped"])
        continue
    batch = trainer.data_collator([trainer.train_dataset[0]])
    left = batch["completion_mask"].sum(1).tolist()
    whole = [len(trainer.train_dataset[0][key]) for key in ("chosen_ids", "rejected_ids")]
    rows.append([name, f"trains on {left[0]} and {left[1]} answer tokens, of {whole[0]} and {whole[1]}"])
trl_takes = sum("trains" in row[1] for row in rows)
run.table(rows, ["record", "trl"], caption=f"What trl does with the broken records at max_length = {MAX_LENGTH}")

# %% [markdown]
# ## How much padding?
#
# A preference batch is padded to its longest row. Sorting by length helps; packing several texts into one row of fixed length
# (`text.pack`, as for SFT) leaves the least, but then attention must be kept inside each text. Here are the numbers for these answers.

# %%
rows_of = [
    text.encode_response(tokenizer, pair.prompt.text, a.text, a.ended)
    for pair in sound
    for a in (pair.chosen, pair.rejected)
]
sizes = [len(row.ids) for row in rows_of]


def padding(groups, width=None):
    """The share of positions that hold no token."""
    slots = sum(len(group) * (width or max(group)) for group in groups)
    return 1 - sum(map(sum, groups)) / slots


def in_batches(values, size=8):
    return [values[i : i + size] for i in range(0, len(values), size)]


bins = text.pack(rows_of, 256)
shares = {
    "batches of 8, as they come": padding(in_batches(sizes)),
    "batches of 8, sorted by length": padding(in_batches(sorted(sizes))),
    "packed into rows of 256": 1 - sum(sizes) / (256 * len(bins)),
    "all padded to 128": padding([sizes], MAX_LENGTH),
}
run.table(
    [[name, f"{share:.1%}"] for name, share in shares.items()],
    ["arrangement", "padding"],
    caption=f"{len(sizes)} rows of {min(sizes)} to {max(sizes)} tokens",
)

# %% [markdown]
# ## The data card
#
# What you would want to know of a data set that you did not make, and therefore owe those who did not make yours.

# %%
card = {
    "records": len(finished), "prompts": len({p.prompt.text for p in finished}),
    "kinds of prompt": dict(Counter(p.prompt.kind for p in finished)), "answers by": f"SmolLM2-135M-Instruct; plain at temperature 0.8, cut at {budget.words} tokens; with examples in front at 1.0, cut at 16",
    "preferred by": "a verifier for sums, rules for the rest; by the same, none is undecided or the wrong way round",
    "sums of a held-out family, or held-out prompts, left in": sum(really_leaks(p.prompt) for p in finished),
    "chosen answers from examples in front": f"{np.mean([p.chosen.source == 'with examples' for p in finished] or [0]):.0%}",
    "rejected answers from examples in front": f"{np.mean([p.rejected.source == 'with examples' for p in finished] or [0]):.0%}",
    "chosen longer": f"{chosen_longer(finished):.0%}", "length alone predicts": f"{length_accuracy(finished):.0%}",
    "held-out prompts excluded by": f"trigram overlap of {LEAK} or more", "longest record (tokens)": max([tokens_of(p.prompt, a) for p in finished for a in p[1:3]] or [0]),
    "made with": f"seed {SEED}, near-double threshold {NEAR}, margin {MARGIN}, length ratio {RATIO}",
}  # fmt: skip
run.table(list(card.items()), ["about", "value"], caption="Data card")
print(json.dumps(as_strings(example_pair), indent=1))

shown = {"all pairs": without_broken(pairs), "clean": finished}
fig = go.Figure()
for name, group in shown.items():
    fig.add_histogram(
        x=[float(a - b) for a, b in map(lengths_of, group)],
        name=name,
        opacity=0.6,
        xbins={"start": -32, "end": 32, "size": 4},
    )
fig.update_layout(
    barmode="overlay", title="Chosen minus rejected, in tokens", xaxis_title="difference of length", yaxis_title="pairs"
)
run.figure(fig, "How much longer the chosen answer is, before and after cleaning.")

# %% [markdown]
# ## Did the cleaning pay?
#
# A fair question, and one that these few pairs cannot answer: a model trained on them would differ by chance alone. So carry
# over what was measured, **how many pairs are left and how many of them are right**, into a world where the outcome is known: scenes
# that `tiny` ends, with a gold reward. All three data sets get the same number of training steps, and the labels are
# right as often as they were above.

# %%
from alignlab.tasks import scenes

tiny, tiny_tokenizer = models.load("tiny", "cpu")
END_ID = tiny_tokenizer.convert_tokens_to_ids(scenes.END)


def endings(policy, prompts, seed):
    """One sampled ending for each prompt: [(text, ended)]."""
    ids = [tiny_tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    drawn = decoding.generate(
        policy, ids, 16, Sampling(), stop_id=END_ID, generator=torch.Generator().manual_seed(seed)
    )
    return [(tiny_tokenizer.decode(d.ids), d.ended) for d in drawn]


def world_pairs(count, share_right, seed):
    """Pairs of sampled endings of unequal gold reward; the better one is chosen in `share_right` of them."""
    rng = random.Random(seed)
    asked = rng.choices(list(scenes.prompts("train")), k=2 * count)
    made = []
    for prompt, a, b in zip(asked, endings(tiny, asked, seed), endings(tiny, asked, seed + 1000)):
        gain = scenes.gold_reward(*a) - scenes.gold_reward(*b)
        if gain == 0 or not (a[1] and b[1]):
            continue
        better, worse = (a, b) if gain > 0 else (b, a)
        if rng.random() > share_right:
            better, worse = worse, better
        made.append([scenes.encode(tiny_tokenizer, prompt, *answer) for answer in (better, worse)])
    return made[:count]


def gold_after(made, seed, steps):
    """Mean gold reward of a copy of `tiny` on held-out prompts, after DPO on these pairs."""
    policy = models.load("tiny", "cpu")[0]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-4, weight_decay=0.0)
    rng, order = random.Random(seed), []
    for _ in range(steps):
        if len(order) < 32:
            order = rng.sample(made, len(made)) + order
        drawn, order = order[:32], order[32:]
        batch = text.pad([side[0] for side in drawn] + [side[1] for side in drawn], tiny_tokenizer.pad_token_id)
        with torch.no_grad():
            reference = PairLogps(*logprobs.sequence_logprobs(tiny, *batch).chunk(2))
        loss = dpo_loss(PairLogps(*logprobs.sequence_logprobs(policy, *batch).chunk(2)), reference, beta=0.2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return gold_of(policy)


def gold_of(policy):
    asked = list(itertools.islice(itertools.cycle(scenes.prompts("held-out")), budget.gold_samples))
    return float(np.mean([scenes.gold_reward(*ending) for ending in endings(policy, asked, 7)]))


raw_pairs, raw_right = len(stages["broken"]), bill(pairs, stages["broken"])[3]
clean_pairs, clean_right = max(1, len(finished)), bill(pairs, finished)[3] if finished else 1.0
TIMES = 8  # this world needs more pairs than ours: all counts times eight
settings = {
    "uncleaned": (TIMES * raw_pairs, raw_right),
    "uncleaned, as few as the clean ones": (TIMES * clean_pairs, raw_right),
    "clean": (TIMES * clean_pairs, clean_right),
}
gold_before = gold_of(tiny)
payoff = {name: [] for name in settings}
for name, seed in run.progress(
    [(name, seed) for name in settings for seed in range(budget.world_seeds)], "DPO on tiny"
):
    payoff[name].append(gold_after(world_pairs(*settings[name], seed), seed, budget.world_steps))
run.table(
    [
        [name, settings[name][0], f"{settings[name][1]:.0%}", f"{np.mean(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"]
        for name, values in payoff.items()
    ],
    ["data", "pairs", "right", "gold reward after DPO", f"range over {budget.world_seeds} seeds"],
    caption=f"Scenes, before training {gold_before:.2f}; {budget.world_steps} steps of 32 pairs each",
)  # fmt: skip

# %% [markdown]
# ## Turn the screws yourself
#
# The prompts and pairs of this run. In the figure the near-double filter works by the text alone, without the guard.

# %%
text_alone = nearest_earlier(J, unique, False)
position = {id(prompt): i for i, prompt in enumerate(unique)}
shape_of, first_seen = {}, []
for index, prompt in enumerate(collected):
    form = normalize(prompt.text)
    seen_before = form in shape_of
    shape_of.setdefault(form, index)
    near = 1.0 if seen_before else text_alone[position[id(prompt)]][0]
    first_seen.append({"id": index, "text": prompt.text[:160], "near": float(near), "exact": seen_before})
id_of = {prompt: index for index, prompt in reversed(list(enumerate(collected)))}
good_form = without_broken(pairs)
shown_prompts = list(dict.fromkeys(pair.prompt for pair in good_form))
step = max(1, math.ceil(len(good_form) / 120))
picked = [pair for pair in good_form if shown_prompts.index(pair.prompt) % step == 0][:120]
run.explorer(
    "preference_funnel",
    {
        "prompts": first_seen,
        "pairs": [
            {
                "prompt": id_of[pair.prompt], "chosen": pair.chosen.text[:160], "rejected": pair.rejected.text[:160],
                "score_chosen": pair.score_chosen, "score_rejected": pair.score_rejected,
                "chosen_tokens": lengths_of(pair)[0], "rejected_tokens": lengths_of(pair)[1],
                "leak": leak(pair.prompt), "contradicts": against_it, "source": pair.source, "truth": pair.truth,
            }
            for pair, against_it in zip(good_form, contradicted(good_form)) if pair in picked
        ],
        "start": {"exact": True, "near": 0.7, "contradictions": True, "margin": MARGIN, "ratio": RATIO, "leak": LEAK},
    },
    digits=4,
)  # fmt: skip

# %% [markdown]
# ## What this run measured

# %%
seventeen = [shingles(prompt) for prompt in ("What is 17 + 25?", "What is 17 + 26?", "How much is 17 + 25?")]
run.result("collected", len(collected))
run.result("asked", asks)
run.result("collected_sums", kinds["sum"])
run.result("collected_instructions", kinds["instruction"])
run.result("collected_identity", kinds["identity"])
run.result("unique", len(unique))
run.result("exact_dropped", len(collected) - len(unique))
run.result("hard_false", false_hard)
run.result("hard_example", None, false_example)
run.result("jaccard_other_number", jaccard(seventeen[0], seventeen[1]), format=".2f")
run.result("jaccard_other_words", jaccard(seventeen[0], seventeen[2]), format=".2f")
run.result("shared_other_number", len(seventeen[0] & seventeen[1]))
run.result("union_other_number", len(seventeen[0] | seventeen[1]))
run.result("shared_other_words", len(seventeen[0] & seventeen[2]))
run.result("union_other_words", len(seventeen[0] | seventeen[2]))
run.result("minhash_k", K)
run.result("hash_seeds", budget.hash_seeds)
run.result("error_ratio", error_ratio, format=".2f")
run.result("error_bias", error_bias, format="+.4f")
run.result("pairs_of_prompts", len(true), format=",")
run.result("near_pairs", len(truly_near))
for bands in (64, 32, 16):
    run.result(f"candidates_{bands}", lsh[bands][0], format=",.0f")
    run.result(f"missed_{bands}", lsh[bands][1], format=".1f")
run.result("near_threshold", NEAR)
run.result("near_dropped_text", table[False][NEAR][1])
run.result("near_lost_text", plain_lost)
run.result("near_dropped_guard", table[True][NEAR][1])
run.result("near_lost_guard", guard_lost)
run.result("prompts", len(prompts))
run.result("still_double", still)
run.result("answered", len(chosen_prompts))
run.result("answered_sums", len(sums))
run.result("answers_each", budget.answers)
run.result("answers", len(everything))
run.result("sampling_seconds", sampling_seconds, format=".0f")
run.result("right_plain", None, right_plain)
run.result("right_shots", None, right_shots)
run.result("tokens_plain", None, rows_able[0][4])
run.result("tokens_shots", None, rows_able[1][4])
run.result("ended_plain", None, rows_able[0][3])
run.result("ended_shots", None, rows_able[1][3])
run.result("rule_instruction", None, rows_able[2][2])
run.result("rule_identity", None, rows_able[3][2])
run.result("judge_yes", says_yes, format=".0%")
run.result("judge_truth", truth[is_sum].double().mean(), format=".0%")
run.result("judge_agreement", agreement, format=".0%")
run.result("judge_base_rate", base_rate, format=".0%")
run.result("judge_auc", judge_auc, format=".2f")
run.result("judge_auc_one_source", auc_examples, format=".2f")
run.result("judge_padding", padding_effect, format="+.2f")
run.result("judge_padded", len(padded))
run.result("judge_padding_up", (padded_odds > plain_odds).double().mean(), format=".0%")
run.result("duels", len(duels))
run.result("duel_error", 0.5 / math.sqrt(len(duels)), format=".0%")
run.result("judge_says_a", says_a, format=".0%")
run.result("judge_consistent", consistent, format=".0%")
run.result("judge_duel_right", compare_right, format=".0%")
run.result("judge_averaged_right", averaged_right, format=".0%")
for name, (wrong, none, right, share), left, length_share in ledger:
    run.result(f"{name}_left", left)
    run.result(f"{name}_wrong", wrong)
    run.result(f"{name}_none", none)
    run.result(f"{name}_right", right)
    run.result(f"{name}_share", share, format=".0%")
    run.result(f"{name}_length", length_share, format=".0%")
run.result("margin", MARGIN)
run.result("ratio", RATIO)
run.result("leak_share", LEAK)
run.result("max_length", MAX_LENGTH)
run.result("leak_sums", len(sum_prompts))
run.result("leak_true", sum(leaks))
run.result("leak_flagged", leak_flagged)
run.result("leak_hits", leak_hits)
run.result("leak_innocent", leak_innocent)
run.result("leak_missed", leak_missed)
run.result("leak_half_flagged", leak_half[0])
run.result("leak_half_innocent", leak_half[2])
run.result("leak_half_missed", leak_half[3])
run.result("judge_pairs_right", judge_counts[0])
run.result("judge_pairs_decided", judge_counts[1])
run.result("judge_pairs_share", judge_counts[0] / max(1, judge_counts[1]), format=".0%")
run.result("trust_first_left", len(trust_first))
run.result("trust_first_right", bill(pairs, trust_first)[2])
run.result("finished", len(finished))
run.result("finished_share", bill(pairs, finished)[3], format=".0%")
run.result("finished_length", length_accuracy(finished), format=".0%")
run.result("confirmed", len(confirmed))
run.result("accidents", len(accidents))
run.result("accident_example", None, accidents[0].replace("\n", " ") if accidents else "(none in this run)")
run.result("strings_equal", difference["strings"][""])
run.result("strings_all", 2 * len(sound))
run.result("cut_answers", cut_answers)
run.result("messages_equal", difference["messages"][""])
run.result("trl_takes", trl_takes)
run.result("broken_records", len(imported))
run.result("padding_plain", shares["batches of 8, as they come"], format=".0%")
run.result("padding_sorted", shares["batches of 8, sorted by length"], format=".0%")
run.result("padding_packed", shares["packed into rows of 256"], format=".0%")
run.result("padding_fixed", shares["all padded to 128"], format=".0%")
run.result("padding_rows", len(sizes))
run.result("record_prompt_tokens", len(our_ids(example_pair)[0]))
run.result("record_chosen", None, example_pair.chosen.text)
run.result("record_rejected", None, example_pair.rejected.text)
run.result("record_chosen_tokens", len(our_ids(example_pair)[1]))
run.result("record_rejected_tokens", len(our_ids(example_pair)[2]))
record_prompt, record_trained = len(our_ids(example_pair)[0]), sum(map(len, our_ids(example_pair)[1:]))
run.result("record_trained", record_trained)
run.result("record_positions", 2 * record_prompt + record_trained)
run.result("record_twice_prompt", 2 * record_prompt)
run.result("world_before", gold_before, format=".2f")
run.result("world_factor", TIMES)
for name, key in (("raw", "uncleaned"), ("few", "uncleaned, as few as the clean ones"), ("clean", "clean")):
    run.result(f"world_{name}", np.mean(payoff[key]), format=".2f")
    run.result(f"world_{name}_band", None, f"{min(payoff[key]):.2f} to {max(payoff[key]):.2f}")
    run.result(f"world_{name}_pairs", settings[key][0], format=",")
    run.result(f"world_{name}_share", settings[key][1], format=".0%")

# %%
run.claim("the error of MinHash is that of k coin throws, to a tenth", abs(error_ratio - 1) < 0.1)
run.claim("MinHash has no bias to speak of", abs(error_bias) < 0.005)
run.claim("32 bands of 4 miss less than 1% of the near doubles", lsh[32][1] < 0.01 * max(1, len(truly_near)))
run.claim("by text alone the near-double filter loses more questions than with the guard", plain_lost > guard_lost)
run.claim("among answers of one source the judge ranks hardly better than a coin (under 0.7)", auc_examples < 0.7)
run.claim("the judge contradicts itself after swapping in at least a third of the couples", consistent < 0.67)
run.claim(
    "more than a tenth of the unfiltered pairs that can be decided are the wrong way round", ledger[0][1][3] < 0.9
)
run.claim("pairing again keeps more pairs than filtering does", len(finished) > len(stages["cut"]))
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Similarity** (difficulty 1, 4 minutes). Two texts and n to the Jaccard similarity of their shingles of n characters.


# %%
def my_jaccard(a, b, n): ...


check("preference_data.jaccard", my_jaccard)

# %% [markdown]
# **2. An estimate and its error** (difficulty 2, 5 minutes). Two MinHash signatures, arrays (k,), to the estimate of J and the
# estimated standard error of that estimate.


# %%
def my_minhash(first, second): ...


check("preference_data.minhash", my_minhash)

# %% [markdown]
# **3. The S-curve** (difficulty 2, 5 minutes). With what probability does a pair of similarity J become a candidate, with `bands` bands
# of `rows` numbers?


# %%
def my_candidate(similarity, bands, rows): ...


check("preference_data.candidate", my_candidate)

# %% [markdown]
# **4. Make a pair** (difficulty 2, 6 minutes). A prompt's answers, their scores and the least margin to `(chosen, rejected)`: the best and
# the worst; `None` if the margin is smaller or if the two texts are equal but for blanks at their ends.


# %%
def my_pair(answers, scores, least): ...


check("preference_data.pair", my_pair)

# %% [markdown]
# **5. Contradictions** (difficulty 2, 6 minutes). Records `(prompt, chosen, rejected)` to the list of those that no other record
# of the same prompt says the other way round.


# %%
def my_consistent(records): ...


check("preference_data.consistent", my_consistent)

# %% [markdown]
# **6. What length knows** (difficulty 1, 5 minutes). Lengths of chosen and of rejected answers to the accuracy of the better of two
# rules, "the longer one was chosen" and "the shorter one was chosen". Equal lengths count as half.


# %%
def my_length_accuracy(chosen, rejected): ...


check("preference_data.length_accuracy", my_length_accuracy)
