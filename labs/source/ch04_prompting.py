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
# # Prompting, measured
#
# Advice on prompts is cheap, and most of it was never measured. Here every piece of it becomes an A/B test: the same
# held-out items, two prompts that differ in one thing, an interval. The model is a small one, SmolLM2-135M-Instruct,
# so some famous effects show, some do not, and the lab says which.
#
# - **You will** score label words behind a prefix that is read once; measure zero, one and many examples; find out what
#   the examples teach (labels, order, format); see a prompt's own leaning and calibrate it; test principles of prompt
#   design one by one; and compute when a small fine-tune is cheaper than a long prompt.
# - **Time:** about 4 minutes on a CPU with two cores, less on a GPU.
#
# **Sections:** 4.1.1-4.1.2
# **Topics:** is-prompting-worth-it

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
# ## Three tasks whose answers are known
#
# *Reviews* are positive or negative. *Topics* asks which of four things a sentence mentions. *Orders* wants three
# facts in a fixed form. All items are made by code, so the right answer is known by construction, and the words that
# decide it (judgements, nouns, names) never occur in both the examples and the held-out items.

# %%
import copy
import itertools
import math
import random
import time
from dataclasses import dataclass

import plotly.graph_objects as go
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from alignlab import compute, intervals, lab, logprobs, models, palette, prompting, text
from alignlab.exercises import check
from alignlab.tasks import arithmetic, labelling
from alignlab.transformer import Transformer

run = lab.Lab("ch04_prompting")
budget = run.budget(
    full=dict(items=100, draws=2, relabelled=1, orders=4, sums=100, extracted=100, naive=6, peer=24, timed=8, train=240, batch=12, steps=20, few_steps=8),
    quick=dict(items=4, draws=1, relabelled=1, orders=2, sums=3, extracted=3, naive=2, peer=2, timed=2, train=12, batch=4, steps=1, few_steps=1),
)  # fmt: skip
compute.seed(0)
model, tokenizer = models.load("small")
device = next(model.parameters()).device
NEWLINE = tokenizer.encode("\n", add_special_tokens=False)[0]


@dataclass(frozen=True)
class Task:
    """How a labelling task is put into words."""

    name: str
    head: str
    tail: str
    labels: tuple[str, ...]
    items: list[labelling.Item]
    pool: list[labelling.Item]


REVIEWS = Task("reviews", "Review", "Sentiment", labelling.SENTIMENTS,
               labelling.reviews("held-out", budget.items), labelling.reviews("train", 48))  # fmt: skip
TOPICS = Task("topics", "Sentence", "Topic", labelling.TOPICS,
              labelling.topics("held-out", budget.items), labelling.topics("train", 64))  # fmt: skip
run.table(
    [(task.name, item.kind, item.text, item.answer) for task in (REVIEWS, TOPICS) for item in task.items[:5]],
    ("task", "kind", "text", "right answer"),
    caption="Held-out items",
)


def plain(task, shots, query, instruction=""):
    """Instruction, examples [(text, label)] and the query as plain text that ends where the label begins."""
    parts = [f"{task.head}: {shown}\n{task.tail}: {label}\n\n" for shown, label in shots]
    return (f"{instruction}\n\n" if instruction else "") + "".join(parts) + f"{task.head}: {query}\n{task.tail}:"


print(plain(REVIEWS, [("The soup was superb.", "positive")], "The room was awful."))

# %% [markdown]
# ## A label's score is a log-probability
#
# Nothing has to be generated. Each label word is one token here, so one forward pass gives $\log p(\text{label}\mid
# \text{prompt})$ for all of them, and the largest is the answer. First in the most direct way, one prompt at a time.


# %%
def encode(prompt):
    return tokenizer.encode(prompt, add_special_tokens=False)


def label_ids(words):
    """The one token of each word; they follow a colon, so they begin with a space."""
    ids = [encode(f" {word}") for word in words]
    assert all(len(each) == 1 for each in ids), f"a label word is more than one token: {words}"
    return [each[0] for each in ids]


@torch.inference_mode()
def naive_scores(prompts, ids):
    """log p(label | prompt), (N, K): every prompt is read whole."""
    rows = [model(torch.tensor([prompt], device=device)).logits[0, -1].float().log_softmax(-1) for prompt in prompts]
    return torch.stack(rows)[:, ids].cpu()


EIGHT = [(item.text, item.answer) for item in REVIEWS.pool[:8]]
few = [encode(plain(REVIEWS, EIGHT, item.text)) for item in REVIEWS.items[: budget.naive]]
ids = label_ids(REVIEWS.labels)
started = time.perf_counter()
slow = naive_scores(few, ids)
naive_seconds = (time.perf_counter() - started) / len(few)
print({word: f"{logp:.2f} nats" for word, logp in zip(REVIEWS.labels, slow[0].tolist())}, "for:", REVIEWS.items[0].text)

# %% [markdown]
# ### Read the common part once
#
# All prompts of a variant begin alike: instruction and examples. Their keys and values are computed once and copied to
# each row; every row then reads its own query alone.


# %%
@torch.inference_mode()
def scores(prompts, ids):
    """The same (N, K), with the prompts' common beginning read once."""
    decoder = Transformer.view(model)
    shared = next(t for t, column in enumerate(zip(*prompts)) if len(set(column)) > 1)
    prefix = decoder.cache(1, shared)
    decoder.hidden(torch.tensor([prompts[0][:shared]], device=device), cache=prefix)  # once
    ends = text.pad([text.Example(prompt[shared:], [1] * (len(prompt) - shared)) for prompt in prompts], 0).to(device)
    cache = decoder.cache(len(prompts), shared + ends.input_ids.shape[1])
    cache.keys[:, :, :, :shared], cache.values[:, :, :, :shared] = prefix.keys, prefix.values  # (L, 1, h, P, d) to N
    cache.length = shared
    mask = torch.cat([ends.attention_mask.new_ones(len(prompts), shared), ends.attention_mask], 1)  # (N, P + T)
    states = decoder.hidden(ends.input_ids, mask, cache)  # (N, T, 576)
    last = states[torch.arange(len(prompts)), ends.attention_mask.sum(-1) - 1]  # (N, 576)
    return decoder.lm_head(last).float().log_softmax(-1)[:, ids].cpu()


quick_scores = scores(few, ids)
library_scores = prompting.label_scores(model, few, ids).logprobs
gap_open, gap_library = ((each - slow).abs().max().item() for each in (quick_scores, library_scores))
shared_tokens = prompting.shared_length(few)
own_tokens = sum(map(len, few)) / len(few) - shared_tokens
print(f"largest difference: {gap_open:.1e} in the open, {gap_library:.1e} by alignlab.prompting.label_scores")
print(f"{shared_tokens} tokens are shared, {own_tokens:.0f} are each query's own")

# %% [markdown]
# ## How sure is a share?
#
# 90 right of 120 is 75%, but another 120 items would have given another share. Wilson's interval holds every true
# share $p$ from which the measured one is at most 1.96 of $p$'s own standard errors away.


# %%
def wilson(right, total, z=1.96):
    share, shrink = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2)) / shrink
    return middle - half, middle + half


assert wilson(90, 120) == intervals.wilson(90, 120)
print(
    "90 of 120: {:.1%} to {:.1%}".format(*wilson(90, 120)), "| 120 of 120: {:.1%} to {:.1%}".format(*wilson(120, 120))
)


BLANKS = ("N/A", "[MASK]", "")  # inputs without content
scorer = copy.deepcopy(model).requires_grad_(False)  # the same model, for use under autocast only:
compute.freeze_in_bfloat16(scorer)  # autocast rounds the weights anyway, and need not do it anew at every pass


class Outcome:
    """What one prompt did on all held-out items of a task."""

    def __init__(self, task, make, words=None, ids=None, using=scorer):
        """make: a query's prompt. words: label words, the task's own if left out; or their tokens, ids."""
        ids = ids or label_ids(words or task.labels)
        prompts = [encode(make(query)) for query in [*(item.text for item in task.items), *BLANKS]]
        with compute.autocast():  # bfloat16 where that is faster
            logprobs, likeliest = prompting.label_scores(using, prompts, ids, batch_size=len(prompts))
        self.logprobs, self.blank = logprobs[: -len(BLANKS)], logprobs[-len(BLANKS) :]  # (N, K), (3, K)
        self.gold = torch.tensor([task.labels.index(item.answer) for item in task.items])
        self.predicted = self.logprobs.argmax(-1)
        self.right = self.predicted == self.gold
        self.accuracy = share(self.right)
        self.said = share(likeliest[: -len(BLANKS)] == torch.tensor(ids)[self.gold])  # no other token is likelier
        self.mass = self.logprobs.exp().sum(-1).mean().item()  # probability of all label words together

    def shown(self):
        return with_interval(self.right)


def share(which):
    """Share of true values."""
    return torch.as_tensor(which).double().mean().item()


def with_interval(right):
    """A share with its 95% interval, in words."""
    right = torch.as_tensor(right)
    return "{:.0%} ({:.0%} to {:.0%})".format(share(right), *intervals.wilson(int(right.sum()), len(right)))


def calibrated(outcome):
    """Which items are right after contextual calibration, which is explained below."""
    return prompting.calibrate(outcome.logprobs, outcome.blank).argmax(-1) == outcome.gold


def few_shot(task, shots, words=None, instruction=""):
    """The outcome of a plain prompt with these examples."""
    return Outcome(task, lambda query: plain(task, shots, query, instruction), words)


def mean(values):
    return sum(values) / len(values)


def band(values):
    """Mean and range, in words."""
    return f"{mean(values):.0%} ({min(values):.0%} to {max(values):.0%})"


# %% [markdown]
# ## How many examples?
#
# Zero, one, four, eight, sixteen, for both tasks. Which examples you happen to have matters, so each number is tried with
# several draws; labels are as even as they can be.


# %%
def draw_shots(task, count, seed):
    """`count` labelled examples, labels as even as they can be, in random order."""
    draw = random.Random(f"{task.name} {seed}")
    pool, names = draw.sample(task.pool, len(task.pool)), draw.sample(task.labels, len(task.labels))
    by_label = {name: [item for item in pool if item.answer == name] for name in names}
    chosen = [by_label[names[i % len(names)]][i // len(names)] for i in range(count)]
    draw.shuffle(chosen)
    return [(item.text, item.answer) for item in chosen]


COUNTS = (0, 1, 4, 8, 16)
curves = {}
grid = [(task, count, seed) for task in (REVIEWS, TOPICS) for count in COUNTS for seed in range(budget.draws if count else 1)]  # fmt: skip
for task, count, seed in run.progress(grid, "number of examples"):
    curves.setdefault((task.name, count), []).append(few_shot(task, draw_shots(task, count, seed)))
run.table(
    [
        (task, count, band([o.accuracy for o in outcomes]), outcomes[0].shown(), band([o.said for o in outcomes]), f"{mean([o.mass for o in outcomes]):.1%}", band([share(calibrated(o)) for o in outcomes]))
        for (task, count), outcomes in curves.items()
    ],
    ("task", "examples", "right among the labels: mean (range over draws)", "first draw (95% interval)", "right label said: mean (range)", "probability of all labels", "right after calibration, see below"),
    caption="Number of examples",
)  # fmt: skip

# %%
fig = go.Figure()
for task, role in (("reviews", "policy"), ("topics", "value")):
    for what, name, dash in (("accuracy", "right among the labels", "solid"), ("said", "right label said", "dot")):
        values = [[getattr(outcome, what) for outcome in curves[task, count]] for count in COUNTS]
        spread = dict(array=[max(v) - mean(v) for v in values], arrayminus=[mean(v) - min(v) for v in values])
        fig.add_scatter(x=[str(count) for count in COUNTS], y=[mean(v) for v in values], error_y=spread, name=f"{task}: {name}", line=dict(color=palette.MIDDLE[role], dash=dash))  # fmt: skip
fig.update_layout(title="Accuracy over the number of examples", xaxis_title="examples in the prompt", yaxis_title="share of items", yaxis_range=[0, 1])  # fmt: skip
run.figure(fig, "Over the number of examples: the share right among the label words, which goes up and down, and the share where the right label is the likeliest of all tokens, which begins near zero.")  # fmt: skip

# %% [markdown]
# Two curves a task, and they tell different stories. *Right among the labels* compares the label words alone: the model
# knows most reviews before it has seen a single example. *Said* asks for more, that no other token of the 49,152 is
# likelier: without an example the model would rather write something else. The first examples buy the format. More of
# them do not make a better judge; what they do is the subject of the next cells.

# %% [markdown]
# ## The same examples in another order
#
# Four examples can stand in 24 orders. The information is the same in all of them.

# %%
FOUR = {task.name: draw_shots(task, 4, 7) for task in (REVIEWS, TOPICS)}
ordered = {}
for task in (REVIEWS, TOPICS):
    permutations = random.Random(0).sample(list(itertools.permutations(FOUR[task.name])), budget.orders)
    ordered[task.name] = [few_shot(task, order) for order in run.progress(permutations, f"orders of {task.name}")]
run.table(
    [
        (task, band([o.accuracy for o in outcomes]), band([share(calibrated(o)) for o in outcomes]))
        for task, outcomes in ordered.items()
    ],
    ("task", "right, mean (range over orders)", "right after calibration"),
    caption=f"{budget.orders} orders of the same four examples",
)

# %% [markdown]
# ### The prompt leans before it has read anything
#
# Zhao et al. (2021) name three leanings: to the label that most examples have, to the one that came last, and to words
# that are common anyway. Ask the prompt about nothing ("N/A", "[MASK]", an empty text) and it shows its leaning. Divide
# that out, $q\propto p/p_\mathrm{cf}$: this is contextual calibration, the second column above.


# %%
def calibrate(logprobs, blank):
    """log q (N, K) from the label log-probabilities of the inputs (N, K) and of inputs without content (M, K)."""
    leaning = blank.softmax(-1).mean(0)
    ratio = logprobs.softmax(-1) / leaning
    return (ratio / ratio.sum(-1, keepdim=True)).log()


sample = ordered["reviews"][0]
gap_calibrate = (calibrate(sample.logprobs, sample.blank) - prompting.calibrate(sample.logprobs, sample.blank)).abs().max().item()  # fmt: skip
GOOD, BAD = ([(item.text, item.answer) for item in REVIEWS.pool if item.answer == label] for label in REVIEWS.labels)
MIXES = {
    "4 positive": GOOD[:4],
    "4 negative": BAD[:4],
    "2 negative, then 2 positive": BAD[:2] + GOOD[:2],
    "2 positive, then 2 negative": GOOD[:2] + BAD[:2],
}
mixes = {name: few_shot(REVIEWS, shots) for name, shots in run.progress(MIXES.items(), "mixes")}


def called_positive(outcome):
    return share(outcome.predicted == 0)


def leaning(outcome):
    """Probability of the first label for inputs without content."""
    return outcome.blank.softmax(-1).mean(0)[0].item()


run.table(
    [
        (name, f"{leaning(o):.0%}", f"{called_positive(o):.0%}", o.shown(), with_interval(calibrated(o)))
        for name, o in mixes.items()
    ],
    ("examples", "positive, without content", "reviews called positive (half are)", "right (95% interval)", "right after calibration"),
    caption="What a prompt says before it reads a review",
)  # fmt: skip


# %% [markdown]
# ## What do the examples teach?
#
# Eight examples, changed in one respect at a time. *Random labels*: each example gets a label by lot. *Shifted labels*:
# each label word stands for the next class, throughout (negative for positive, vehicle for animal); counted once by the
# true answer, and once by the answer that the examples show. *Other words* stand for the labels: letters that carry no
# meaning. *Labels alone*: a question that names the labels, and no example. Each is shown with and without calibration.

# %%
LETTERS = {"reviews": ("A", "B"), "topics": ("A", "B", "C", "D")}
NAMED = {
    "reviews": "Is the review positive or negative?",
    "topics": "Does the sentence mention an animal, a vehicle, a food or a piece of clothing?",
}
taught = {}
for task, seed in run.progress(
    [(task, seed) for task in (REVIEWS, TOPICS) for seed in range(budget.relabelled)], "labels"
):
    shots, draw = draw_shots(task, 8, seed), random.Random(seed)
    shifted = dict(zip(task.labels, task.labels[1:] + task.labels[:1]))
    letter = dict(zip(task.labels, LETTERS[task.name]))
    against = few_shot(task, [(shown, shifted[label]) for shown, label in shots])
    shift = torch.tensor([(label + 1) % len(task.labels) for label in against.gold])  # the answers as shown
    as_shown = [
        each.argmax(-1) == shift for each in (against.logprobs, prompting.calibrate(against.logprobs, against.blank))
    ]
    found = {
        "right labels": curves[task.name, 8][seed],
        "random labels": few_shot(task, [(shown, draw.choice(task.labels)) for shown, _ in shots]),
        "shifted labels, true answer": against,
        "letters": few_shot(task, [(shown, letter[label]) for shown, label in shots], LETTERS[task.name]),
    }  # fmt: skip
    for name, outcome in found.items():
        taught.setdefault((name, task.name), []).append((outcome.accuracy, share(calibrated(outcome))))
    taught.setdefault(("shifted labels, answer as shown", task.name), []).append(tuple(map(share, as_shown)))
for task in (REVIEWS, TOPICS):
    for name, outcome in {"labels alone": few_shot(task, [], instruction=NAMED[task.name]), "nothing": curves[task.name, 0][0]}.items():  # fmt: skip
        taught[name, task.name] = [(outcome.accuracy, share(calibrated(outcome)))]
KINDS = ("nothing", "labels alone", "right labels", "random labels", "shifted labels, true answer", "shifted labels, answer as shown", "letters")  # fmt: skip
run.table(
    [(name, *(band([pair[which] for pair in taught[name, task]]) for task in ("reviews", "topics") for which in (0, 1))) for name in KINDS],
    ("eight examples with", "reviews", "reviews, calibrated", "topics", "topics, calibrated"),
    caption="What examples teach: share right, mean and range over draws (chance: 50% and 25%)",
)  # fmt: skip

# %% [markdown]
# ## A running example: What is 17 + 25?
#
# Asked with zero, one, four and sixteen worked sums before it, on held-out sums. Here the
# answer is generated: two digits and a line break, greedily.


# %%
SUMS = [problem for problem in arithmetic.problems("held-out") if problem.operator == "+" and min(problem.left, problem.right) >= 10 and problem.value < 100]  # fmt: skip
WORKED = [problem for problem in arithmetic.problems("train") if problem.operator == "+" and min(problem.left, problem.right) >= 10 and problem.value < 100]  # fmt: skip
OURS = arithmetic.Problem(17, "+", 25)
SUMS = [OURS, *random.Random(0).sample([p for p in SUMS if p != OURS], budget.sums - 1)]
WORKED = random.Random(1).sample([p for p in WORKED if p.family != OURS.family], 16)


def completions(prompts, new_tokens, stop=(NEWLINE,)):
    """What the model writes after each prompt, greedily, up to a stop token."""
    with compute.autocast():
        answers = prompting.complete(scorer, [encode(prompt) for prompt in prompts], new_tokens, [*stop, tokenizer.eos_token_id])  # fmt: skip
    return [tokenizer.decode(answer) for answer in answers]


def sums_right(count):
    """Answers after `count` worked sums, and whether each is right."""
    shown = "".join(f"Question: {p.questions[0]}\nAnswer: {p.value}\n\n" for p in WORKED[:count])
    answers = completions([f"{shown}Question: {p.questions[0]}\nAnswer:" for p in SUMS], 4)
    return answers, [answer.strip() == str(problem.value) for answer, problem in zip(answers, SUMS)]


summed = {count: sums_right(count) for count in run.progress((0, 1, 4, 16), "sums")}
run.table(
    [
        (count, repr(answers[0]), with_interval(right), sum(answer.strip().isdigit() for answer in answers))
        for count, (answers, right) in summed.items()
    ],
    ("worked sums", "answer to 17 + 25", "right (95% interval)", "answers that are a number and nothing else"),
    caption=f"{len(SUMS)} sums of two numbers of two digits",
)  # fmt: skip

# %% [markdown]
# ## The same examples in another dress
#
# Eight examples, the same ones, in eight formats. The last two are mistakes that everybody makes once: a space at the
# end of the prompt, which takes away the space that the label's token begins with; and label and text with nothing to
# tell them apart.


# %%
def bare_ids(words):
    """Tokens of label words that do not follow a space."""
    return [encode(word)[0] for word in words]


def turns(shots, query):
    """Examples as earlier turns of a chat."""
    said = [part for shown, label in shots for part in (f"{NAMED['reviews']}\n{shown}", label)]
    said.append(f"{NAMED['reviews']}\n{query}")
    return text.chat(
        tokenizer, [{"role": ("user", "assistant")[i % 2], "content": part} for i, part in enumerate(said)]
    )


SHOTS = draw_shots(REVIEWS, 8, 0)
SPACED, BARE = label_ids(REVIEWS.labels), bare_ids(REVIEWS.labels)
FORMATS = {  # name: (prompt of a query, label tokens)
    "Review: … / Sentiment: …": (lambda query: plain(REVIEWS, SHOTS, query), SPACED),
    "Q: … / A: …": (lambda query: "".join(f"Q: {NAMED['reviews']} {shown}\nA: {label}\n\n" for shown, label in SHOTS) + f"Q: {NAMED['reviews']} {query}\nA:", SPACED),
    "… => …": (lambda query: "".join(f"{shown} => {label}\n" for shown, label in SHOTS) + f"{query} =>", SPACED),
    "<review>…</review> <label>…": (lambda query: "".join(f"<review>{shown}</review> <label> {label}</label>\n" for shown, label in SHOTS) + f"<review>{query}</review> <label>", SPACED),
    "chat turns": (lambda query: turns(SHOTS, query), BARE),
    "chat turns, no example": (lambda query: turns([], query), BARE),
    "trailing space": (lambda query: plain(REVIEWS, SHOTS, query) + " ", BARE),
    "no separator": (lambda query: "".join(f"{shown} {label}\n" for shown, label in SHOTS) + query, SPACED),
}  # fmt: skip
formats = {name: Outcome(REVIEWS, make, ids=ids) for name, (make, ids) in run.progress(FORMATS.items(), "formats")}
run.table(
    [(name, outcome.shown(), f"{outcome.said:.0%}", f"{outcome.mass:.0%}") for name, outcome in formats.items()],
    ("format", "right among the labels (95% interval)", "right answer said", "probability of both labels"),
    caption="One set of eight examples in several formats",
)

# %% [markdown]
# ## Answers in a form: extraction
#
# An order holds a name, a city and a number; wanted is `name | city | number`, and nothing else. Here the answer is
# generated, and the verifier is exact: one character too many is wrong.

# %%
ORDERS = labelling.orders("held-out", budget.extracted)
EXAMPLES = labelling.orders("train", 4)
WANTED = "Extract customer, city and number of items. Write them as: name | city | number"


def order_prompt(count, query):
    return f"{WANTED}\n\n" + "".join(f"Order: {item.text}\nAnswer: {item.answer}\n\n" for item in EXAMPLES[:count]) + f"Order: {query}\nAnswer:"  # fmt: skip


ASKED = {
    "instruction, chat": lambda query: text.chat(tokenizer, f"{WANTED}\n\n{query}"),
    "instruction": lambda query: order_prompt(0, query),
    "instruction, 1 example": lambda query: order_prompt(1, query),
    "instruction, 4 examples": lambda query: order_prompt(4, query),
}
exact, wrote = {}, {}
for name, make in run.progress(ASKED.items(), "extraction"):
    wrote[name] = completions([make(item.text) for item in ORDERS], 13)
    exact[name] = [labelling.extracted(answer, item) for answer, item in zip(wrote[name], ORDERS)]
run.table(
    [
        (name, with_interval(right), wrote[name][0])
        for name, right in exact.items()
    ],
    ("prompt", "exactly right (95% interval)", f"answer to: {ORDERS[0].text}"),
    caption="Extraction",
)  # fmt: skip
missed = [(item.text, answer) for item, answer, right in zip(ORDERS, wrote["instruction, 1 example"], exact["instruction, 1 example"]) if not right]  # fmt: skip
print("wrong after one example:", *missed[:4], sep="\n  ")

# %% [markdown]
# ### The other running example: Who are you?
#
# In a chat the system message is the place for what holds throughout. Without one, this model's template writes its own.

# %%
PERSONAS = {
    "the template's own": [],
    "a name": [{"role": "system", "content": "You are Lumen, the keeper of a lighthouse."}],
    "a name, and a form": [{"role": "system", "content": "You are Lumen, the keeper of a lighthouse. Answer in five words."}],
}  # fmt: skip
WHO = {"role": "user", "content": "Who are you?"}
answers = completions([text.chat(tokenizer, [*system, WHO]) for system in PERSONAS.values()], 24, ())
said_who = dict(zip(PERSONAS, answers))
run.table(list(said_who.items()), ("system message", "Who are you?"))

# %% [markdown]
# ## Principles, one at a time
#
# Guides to prompting agree on a dozen principles. Each becomes an A/B test here: the base prompt asks a question and
# gives the text, with no example; the other differs in one thing. Both see the same items, so only items on which they
# *differ* carry information: McNemar's test counts those. Twenty tests at once would give one false alarm at 5%; Holm's
# correction guards against that.

# %%
QUESTION = {"reviews": "What is the sentiment of this review?", "topics": "What is this sentence about?"}
ALLOWED = {"reviews": "Answer with one word: positive or negative.", "topics": "Answer with one word: animal, vehicle, food or clothing."}  # fmt: skip
MEANING = {"reviews": "What counts is the writer's final verdict.", "topics": "What counts is the noun."}
ROLE = {"reviews": "You are an expert critic of reviews.", "topics": "You are an expert in sorting sentences."}


def worded(task, query, ask=None, before="", after="", last=False, quoted=False, shot=None):
    """A prompt without the chat format, from its parts."""
    instruction = " ".join(part for part in (before, ask or QUESTION[task.name], after) if part)

    def block(shown, label):
        shown = f'{task.head}: "{shown}"' if quoted else f"{task.head}: {shown}"
        parts = [shown, instruction] if last else [instruction, shown]
        return "\n\n".join(parts) + f"\n{task.tail}:" + label

    return (block(shot[0], f" {shot[1]}\n\n\n") if shot else "") + block(query, "")


PRINCIPLES = {
    "ask with the labels in the question": lambda task: dict(ask=NAMED[task.name]),
    "list the allowed answers": lambda task: dict(after=ALLOWED[task.name]),
    "say what counts": lambda task: dict(after=MEANING[task.name]),
    "quote the text": lambda task: dict(quoted=True),
    "instruction after the text": lambda task: dict(last=True),
    "give a role": lambda task: dict(before=ROLE[task.name]),
    "be polite": lambda task: dict(before="Please answer this question, thank you."),
    "say that it matters": lambda task: dict(after="This is very important to my career."),
    "forbid": lambda task: dict(after="Do not explain your answer."),
    "show one example": lambda task: dict(shot=draw_shots(task, 1, 0)[0]),
}
base = {task.name: Outcome(task, lambda query, task=task: worded(task, query)) for task in (REVIEWS, TOPICS)}
tested, rights = [], {}
for name, task in run.progress([(name, task) for name in PRINCIPLES for task in (REVIEWS, TOPICS)], "principles"):
    options = PRINCIPLES[name](task)
    other = Outcome(task, lambda query, task=task, options=options: worded(task, query, **options))
    first, second = base[task.name].right, other.right
    rights[name, task.name] = second
    tested.append(dict(
        name=name, task=task.name, accuracy=other.accuracy, said=other.said,
        difference=intervals.paired_difference(first, second), p=intervals.mcnemar(first, second),
        gained=int((~first & second).sum()), lost=int((first & ~second).sum()),
    ))  # fmt: skip
for test, adjusted in zip(tested, intervals.holm([test["p"] for test in tested])):
    test["holm"] = adjusted
print({name: outcome.shown() for name, outcome in base.items()}, "with the base prompt")
run.table(
    [
        (test["name"], test["task"], f"{test['accuracy']:.0%}", f"+{test['gained']} −{test['lost']}", "{:+.0%} ({:+.0%} to {:+.0%})".format(*test["difference"]), f"{test['p']:.3f}", f"{test['holm']:.3f}", f"{test['said']:.0%}")
        for test in tested
    ],
    ("change", "task", "right", "items won and lost", "difference (95%)", "p", "p, Holm", "right answer said"),
    caption="Ten principles as A/B tests on the same items",
)  # fmt: skip

# %% [markdown]
# Three columns to compare. The *interval* of the difference says how large the effect may be. *p* says how often chance
# alone would be as uneven. *p, Holm* says the same for the whole table at once: believe a row if that is small. Most
# rows are nothing; and of those that stand, look at the sign before you follow the advice.
#
# ### Choosing a prompt is training, too
#
# Pick the best of these prompts by its accuracy, and that accuracy is too good: it won partly by luck with these items.
# So pick on one half of the items, report on the other; repeated over many random halves.


# %%
def optimism(task, halves=400):
    """Mean accuracy of the best prompt on the half that chose it, and on the other half."""
    outcomes = torch.stack(
        [base[task.name].right, *(rights[name, task.name] for name in PRINCIPLES)]
    ).double()  # (P, N)
    generator, gains = torch.Generator().manual_seed(0), []
    for _ in range(halves):
        order = torch.randperm(outcomes.shape[1], generator=generator)
        chosen, fresh = order[: len(order) // 2], order[len(order) // 2 :]
        best = outcomes[:, chosen].mean(-1).argmax()
        gains.append((outcomes[best, chosen].mean().item(), outcomes[best, fresh].mean().item()))
    return [sum(side) / halves for side in zip(*gains)]


chosen = {task.name: optimism(task) for task in (REVIEWS, TOPICS)}
run.table(
    [(task, f"{seen:.1%}", f"{fresh:.1%}", f"{seen - fresh:+.1%}") for task, (seen, fresh) in chosen.items()],
    ("task", "best prompt, on the items that chose it", "on other items", "too good by"),
    caption="Choosing among eleven prompts on half of the items, mean over 400 halves",
)


# %% [markdown]
# ## Or train: a small LoRA fine-tune on the same task
#
# The other way to use labelled reviews: train rank-8 adapters (section 2.1.2) to write the label after a prompt *without* examples.
# Once on as many reviews as the longest prompt above holds, once on some hundreds.


# %%
def tune(examples, steps, title):
    """LoRA on the label's token after the plain prompt: (model, tokens trained on, seconds)."""
    compute.seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(copy.deepcopy(model), config)
    compute.freeze_in_bfloat16(adapted)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    rows = [text.join(encode(plain(REVIEWS, [], shown)), encode(f" {label}")) for shown, label in examples]
    draw, order, tokens, started = random.Random(0), [], 0, time.perf_counter()
    curve = run.curve(title)
    for step in run.progress(steps, title, curve=curve):
        while len(order) < budget.batch:
            order += draw.sample(range(len(rows)), len(rows))
        batch = text.pad([rows[i] for i in order[: budget.batch]], tokenizer.pad_token_id or 0).to(device)
        order, tokens = order[budget.batch :], tokens + int(batch.attention_mask.sum())
        with compute.autocast():
            loss = -logprobs.sequence_logprobs(adapted, *batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.add("loss", step, loss.item())
    return adapted.eval(), tokens, time.perf_counter() - started


MANY = [(item.text, item.answer) for item in labelling.reviews("train", budget.train, seed=1)]
SIXTEEN = draw_shots(REVIEWS, 16, 0)
tuned, trained_tokens, training_seconds = tune(MANY, budget.steps, f"LoRA on {budget.train} reviews")
tuned_few, few_tokens, few_seconds = tune(SIXTEEN, budget.few_steps, "LoRA on 16 reviews")


def without_example(task, using):
    return Outcome(task, lambda query: plain(task, [], query), using=using)


ways = {
    "no example": curves["reviews", 0][0],
    "16 examples in the prompt": curves["reviews", 16][0],
    "LoRA on the same 16": without_example(REVIEWS, tuned_few),
    f"LoRA on {budget.train}": without_example(REVIEWS, tuned),
}
run.table(
    [(name, o.shown(), f"{o.said:.0%}", with_interval(calibrated(o))) for name, o in ways.items()],
    ("way", "right among the labels (95% interval)", "right label said", "right after calibration"),
    caption="Reviews: prompt or fine-tune",
)
*_, in_prompt, by_few, by_many = ways.values()
tuned_against_prompt = intervals.mcnemar(in_prompt.right, by_many.right)
topics_before, topics_after = curves["topics", 0][0], without_example(TOPICS, tuned)
print(f"p of LoRA on {budget.train} against 16 examples: {tuned_against_prompt:.4f}")
print(
    f"topics with the adapter that was trained on reviews: {topics_before.shown()} before, {topics_after.shown()} after"
)

# %% [markdown]
# ### What each way costs
#
# A token read costs about $2N$ operations, one trained on with frozen weights about $4N$ (forward, and backward to the
# adapters; the gradient of frozen weights is left out). Beside the count stand measured seconds, one request at a time.

# %%
N = sum(p.numel() for p in model.parameters())
whole = [encode(plain(REVIEWS, SIXTEEN, item.text)) for item in REVIEWS.items[: budget.timed]]
short = [encode(plain(REVIEWS, [], item.text)) for item in REVIEWS.items[: budget.timed]]
P = prompting.shared_length(whole)


@torch.inference_mode()
def seconds_each(prompts, kept=0):
    """Mean seconds a request, one at a time, where the first `kept` tokens are in the cache already."""
    decoder = Transformer.view(model)
    cache = decoder.cache(1, max(map(len, prompts)))
    if kept:
        decoder.hidden(torch.tensor([prompts[0][:kept]], device=device), cache=cache)
    started = time.perf_counter()
    for prompt in prompts:
        cache.length = kept  # what follows is overwritten
        states = decoder.hidden(torch.tensor([prompt[kept:]], device=device), cache=cache)
        decoder.lm_head(states[:, -1]).argmax(-1).item()
    return (time.perf_counter() - started) / len(prompts)


read_whole, read_cached, read_short = seconds_each(whole), seconds_each(whole, P), seconds_each(short)
whole_tokens, short_tokens = mean([len(p) for p in whole]), mean([len(p) for p in short])
config = model.config
kv_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * 4 * P  # fmt: skip
break_even = 4 * trained_tokens / (2 * (whole_tokens - short_tokens))
break_even_seconds = training_seconds / (read_whole - read_short)
run.table(
    [
        ("16 examples, read each time", 0, f"{2 * N * whole_tokens / 1e9:.1f}", f"{1000 * read_whole:.0f}"),
        ("16 examples, prefix cached", f"{2 * N * P / 1e9:.1f}", f"{2 * N * (whole_tokens - P) / 1e9:.1f}", f"{1000 * read_cached:.0f}"),
        (f"LoRA on {budget.train}, no example", f"{4 * N * trained_tokens / 1e9:,.0f}", f"{2 * N * short_tokens / 1e9:.1f}", f"{1000 * read_short:.0f}"),
    ],
    ("way", "once (billion operations)", "each request (billion operations)", "each request (ms)"),
    caption=f"{P} tokens of examples; their keys and values take {kv_bytes / 1e6:.1f} MB",
)  # fmt: skip
print(f"the fine-tune has paid after {break_even:,.0f} requests by operations, {break_even_seconds:,.0f} by the clock; against a cached prefix, not at all")  # fmt: skip

# %% [markdown]
# ## As one would at work
#
# Nothing above needs a library of ours. In transformers the shared prefix is a `DynamicCache`, copied and repeated;
# serving systems (vLLM, SGLang and the paid APIs) do the same for you and call it prefix or prompt caching.

# %%
shots = draw_shots(REVIEWS, 8, 0)
prompts = [encode(plain(REVIEWS, shots, item.text)) for item in REVIEWS.items[: budget.peer]]
shared = prompting.shared_length(prompts)
with torch.inference_mode():
    read_once = model(torch.tensor([prompts[0][:shared]], device=device), use_cache=True).past_key_values
    cache = copy.deepcopy(read_once)
    cache.batch_repeat_interleave(len(prompts))
    batch = tokenizer.pad({"input_ids": [prompt[shared:] for prompt in prompts]}, return_tensors="pt").to(device)
    mask = torch.cat([torch.ones(len(prompts), shared, dtype=torch.long, device=device), batch["attention_mask"]], 1)
    logits = model(batch["input_ids"], attention_mask=mask, past_key_values=cache).logits
    last = logits[torch.arange(len(prompts)), batch["attention_mask"].sum(-1) - 1].log_softmax(-1)
peer = last[:, label_ids(REVIEWS.labels)].cpu()
gap_peer = (peer - prompting.label_scores(model, prompts, label_ids(REVIEWS.labels)).logprobs).abs().max().item()
print(f"largest difference to transformers' own cache: {gap_peer:.1e} nats")

# %% [markdown]
# ## Results

# %%
for task in ("reviews", "topics"):
    for count in COUNTS:
        outcomes = curves[task, count]
        run.result(f"{task}_{count}", mean([o.accuracy for o in outcomes]), text=band([o.accuracy for o in outcomes]) if count else outcomes[0].shown())  # fmt: skip
        run.result(f"{task}_{count}_said", mean([o.said for o in outcomes]), format=".0%")
        run.result(f"{task}_{count}_mass", mean([o.mass for o in outcomes]), format=".1%")
        run.result(f"{task}_{count}_calibrated", mean([share(calibrated(o)) for o in outcomes]), format=".0%")
    for which, name in enumerate(("orders", "orders_calibrated")):
        values = [(o.accuracy, share(calibrated(o)))[which] for o in ordered[task]]
        run.result(f"{task}_{name}", mean(values), format=".0%")
        run.result(f"{task}_{name}_least", min(values), format=".0%")
        run.result(f"{task}_{name}_most", max(values), format=".0%")
    for kind, name in zip(KINDS, ("nothing", "named", "right", "random", "shifted", "shifted_shown", "letters")):
        for which, suffix in enumerate(("", "_calibrated")):
            values = [pair[which] for pair in taught[kind, task]]
            run.result(f"{task}_labels_{name}{suffix}", mean(values), format=".0%")
    run.result(f"{task}_base", base[task].accuracy, text=base[task].shown())
    run.result(f"{task}_base_said", base[task].said, format=".0%")
    run.result(f"{task}_best_seen", chosen[task][0], format=".1%")
    run.result(f"{task}_best_fresh", chosen[task][1], format=".1%")
for (name, outcome), short_name in zip(
    mixes.items(), ("all_positive", "all_negative", "ends_positive", "ends_negative")
):
    run.result(f"mix_{short_name}", outcome.accuracy, format=".0%")
    run.result(f"mix_{short_name}_called", called_positive(outcome), format=".0%")
    run.result(f"mix_{short_name}_blank", leaning(outcome), format=".0%")
    run.result(f"mix_{short_name}_calibrated", share(calibrated(outcome)), format=".0%")
for (name, outcome), short_name in zip(
    formats.items(), ("lines", "qa", "arrow", "tags", "chat", "chat_zero", "space", "bare")
):
    run.result(f"format_{short_name}", outcome.accuracy, text=outcome.shown())
    run.result(f"format_{short_name}_said", outcome.said, format=".0%")
    run.result(f"format_{short_name}_mass", outcome.mass, format=".1%")
for count, (answers, right) in summed.items():
    run.result(f"sums_{count}", share(right), text=with_interval(right))
    run.result(f"sums_{count}_answer", None, text=answers[0].strip() or "nothing")
for (name, right), short_name in zip(exact.items(), ("chat", "zero", "one", "four")):
    run.result(f"orders_{short_name}", share(right), text=with_interval(right))
    run.result(f"orders_{short_name}_answer", None, text=wrote[name][0].strip() or "nothing")
run.result("orders_right", None, text=ORDERS[0].answer)
run.result("orders_text", None, text=ORDERS[0].text)
for short_name, answer in zip(("own", "lumen", "lumen_form"), said_who.values()):
    run.result(f"who_{short_name}", None, text=" ".join(answer.split()) or "nothing")
for test in tested:
    short_name = test["name"].replace(" ", "_")
    run.result(f"ab_{test['task']}_{short_name}", test["difference"][0], text="{:+.0f} ({:+.0f} to {:+.0f})".format(*(100 * v for v in test["difference"])))  # fmt: skip
    run.result(f"ab_{test['task']}_{short_name}_p", test["holm"], text="below 0.001" if test["holm"] < 0.001 else f"{test['holm']:.3f}")  # fmt: skip
    run.result(f"ab_{test['task']}_{short_name}_said", test["said"], format=".0%")
run.result("ab_tests", len(tested))
run.result("ab_significant", sum(test["holm"] < 0.05 for test in tested))
for outcome, short_name in zip(ways.values(), ("zero", "prompt", "lora_few", "lora")):
    run.result(f"way_{short_name}", outcome.accuracy, text=outcome.shown())
    run.result(f"way_{short_name}_said", outcome.said, format=".0%")
run.result("lora_p", tuned_against_prompt, text="below 0.001" if tuned_against_prompt < 0.001 else f"{tuned_against_prompt:.3f}")  # fmt: skip
run.result("lora_topics_before", topics_before.accuracy, format=".0%")
run.result("lora_topics_after", topics_after.accuracy, format=".0%")
run.result("lora_topics_said_after", topics_after.said, format=".0%")
run.result("lora_reviews", budget.train)
run.result("lora_tokens", trained_tokens, format=",")
run.result("lora_seconds", training_seconds, format=".0f")
run.result("shot_tokens", P)
run.result("whole_tokens", whole_tokens, format=".0f")
run.result("short_tokens", short_tokens, format=".0f")
run.result("cached_tokens", whole_tokens - P, format=".0f")
run.result("whole_ms", 1000 * read_whole, format=".0f")
run.result("cached_ms", 1000 * read_cached, format=".0f")
run.result("short_ms", 1000 * read_short, format=".0f")
run.result("kv_megabytes", kv_bytes / 1e6, format=".1f")
run.result("break_even", break_even, format=",.0f")
run.result("break_even_seconds", break_even_seconds, format=",.0f")
run.result("items", budget.items)
run.result("draws", budget.draws)
run.result("orders_tried", budget.orders)
run.result("naive_ms", 1000 * naive_seconds, format=".0f")

run.claim("scores behind a shared prefix are those of whole prompts, to 1e-3 nats", max(gap_open, gap_library) < 1e-3)
run.claim("transformers' cache gives the same scores, to 1e-3 nats", gap_peer < 1e-3)
run.claim("calibration in the open is the library's", gap_calibrate < 1e-5)
said_before, said_after = curves["reviews", 0][0].said, mean([o.said for o in curves["reviews", 1]])
run.claim(
    "reviews: without an example the right label is said of less than a fifth, after one of more than three fifths",
    said_before < 0.2 and said_after > 0.6,
)
known_before = curves["reviews", 0][0].accuracy
run.claim("reviews: more than three quarters are right among the labels without any example", known_before > 0.75)
one, four, sixteen = (mean([o.accuracy for o in curves["topics", count]]) for count in (1, 4, 16))
run.claim("topics: one example of each label is better than one example, and not worse than sixteen", four > one + 0.1 and four >= sixteen)  # fmt: skip
spread = max(o.accuracy for o in ordered["reviews"]) - min(o.accuracy for o in ordered["reviews"])
run.claim("reviews: the order of the same four examples moves accuracy by more than 15 points", spread > 0.15)
gains = [mean([share(calibrated(o)) - o.accuracy for o in ordered[task]]) for task in ("reviews", "topics")]
run.claim("calibration raises the mean over orders: reviews by more than 3 points, topics not lowered", gains[0] > 0.03 and gains[1] > -0.01)  # fmt: skip
recency = called_positive(mixes["2 negative, then 2 positive"]) - called_positive(mixes["2 positive, then 2 negative"])
run.claim("the label that came last is given more often, by more than 40 points", recency > 0.4)


def taught_mean(kind, task, which):
    return mean([pair[which] for pair in taught[kind, task]])


lost = taught_mean("right labels", "topics", 0) - taught_mean("random labels", "topics", 0)
back = taught_mean("random labels", "topics", 1) - taught_mean("random labels", "topics", 0)
run.claim("topics: random labels cost more than 15 points, and calibration gives more than 10 back", lost > 0.15 and back > 0.1)  # fmt: skip
meaning = [taught_mean("shifted labels, true answer", t, 1) - taught_mean("shifted labels, answer as shown", t, 1) for t in ("reviews", "topics")]  # fmt: skip
run.claim("with shifted labels, calibrated answers go by the words' meaning rather than by the examples", min(meaning) > 0)  # fmt: skip
no_sum, most_sums = share(summed[0][1]), max(share(right) for _, right in summed.values())
run.claim("sums: under 15% without an example, more with examples, never above 80%", no_sum < 0.15 and no_sum < most_sums < 0.8)  # fmt: skip
lines, space, chat_zero = (formats[name].said for name in ("Review: … / Sentiment: …", "trailing space", "chat turns, no example"))  # fmt: skip
run.claim("a trailing space, and a chat without an example, keep the model from saying a label", max(space, chat_zero) < 0.1 < lines)  # fmt: skip
told, shown_once, shown_four = (share(exact[name]) for name in ("instruction", "instruction, 1 example", "instruction, 4 examples"))  # fmt: skip
run.claim("extraction: telling the form is right in under 10%, four examples in over 90%", told < 0.1 and shown_four > 0.9)  # fmt: skip
significant = sum(test["holm"] < 0.05 for test in tested)
run.claim("after Holm's correction most of the twenty tests do not stand", significant < 10)
flattery = chosen["reviews"][0] - chosen["reviews"][1]
run.claim("the best prompt looks better on the items that chose it", flattery > 0)
run.claim("LoRA on hundreds of reviews is right more often than sixteen examples in the prompt, p below 0.01", by_many.accuracy > in_prompt.accuracy and tuned_against_prompt < 0.01)  # fmt: skip
run.claim("a cached prefix and no prefix both take less than half the time of reading it", max(read_cached, read_short) < read_whole / 2)  # fmt: skip
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. A label of several tokens** (difficulty 2, 6 minutes). Give $\log p(\text{label}\mid\text{prompt})$ from the logits
# (T, V) of a text whose tokens are `ids` (T,) and whose label begins at position `start`.


# %%
def my_label_score(logits: Tensor, ids: list[int], start: int) -> Tensor: ...


check("prompting.label_score", my_label_score)

# %% [markdown]
# **2. Calibration** (difficulty 1, 5 minutes). Calibrate probabilities (N, K) by those (K,) of an input without
# content.


# %%
def my_calibrate(probs: Tensor, content_free: Tensor) -> Tensor: ...


check("prompting.calibrate", my_calibrate)

# %% [markdown]
# **3. An interval** (difficulty 2, 8 minutes). Give the 95% Wilson interval (low, high) of `right` out of `total`,
# without looking up.


# %%
def my_wilson(right: int, total: int) -> tuple[float, float]: ...


check("prompting.wilson", my_wilson)

# %% [markdown]
# **4. A paired test** (difficulty 3, 10 minutes). Give McNemar's exact two-sided p-value from the outcomes of two prompts
# on the same items.


# %%
def my_mcnemar(first: list[bool], second: list[bool]) -> float: ...


check("prompting.mcnemar", my_mcnemar)

# %% [markdown]
# **5. When does a fine-tune pay?** (difficulty 2, 6 minutes). After how many requests has a LoRA fine-tune on
# `trained_tokens` cost fewer operations than reading `shot_tokens` tokens of examples with each request, where a share
# `cached` of the requests finds them cached?


# %%
def my_break_even(shot_tokens: int, trained_tokens: int, cached: float) -> float: ...


check("prompting.break_even", my_break_even)
