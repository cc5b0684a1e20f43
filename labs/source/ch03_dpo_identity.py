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
# # DPO: change who the model says it is
#
# SmolLM2-135M-Instruct has no firm idea of its name. You will teach it one, with a loss of one line and no reward model.
# Then you will do the same with other data, watch the loss fall just as nicely, and see the model learn nothing of use.
#
# - **You will** build DPO in the open: pairs, chat format, masks, log-probabilities, loss, the reference model, the loop;
#   check each part against a second implementation; train twice; and find out why one run works and the other does not.
# - **Time:** about 5 minutes on a CPU with two cores, 1 minute on a GPU.
#
# **Sections:** 3.3.1-3.3.3
#
# **Topics:** dpo-identity

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
# ## The model, and what it says today
#
# Everything that this lab spends is in one `budget`. The two lists of identity prompts share no prompt: what the model says
# to the second list is the test.

# %%
import itertools
import math
import random
import tempfile
import time
import warnings

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from alignlab import compute, decoding, lab, logprobs, models, text
from alignlab.decoding import GREEDY, Sampling
from alignlab.exercises import check
from alignlab.losses.preference import PairLogps, dpo_loss

warnings.filterwarnings("ignore", category=FutureWarning)  # transformers tells peft of names to come
run = lab.Lab("ch03_dpo_identity")
budget = run.budget(
    full=dict(
        steps=25,
        written_steps=12,
        refresh=10,
        prompts=32,
        identity=4,
        ordinary=2,
        cut=12,
        words=24,
        heldout=20,
        tracked=6,
        trl_steps=4,
    ),
    quick=dict(
        steps=2,
        written_steps=2,
        refresh=1,
        prompts=4,
        identity=1,
        ordinary=1,
        cut=4,
        words=4,
        heldout=2,
        tracked=2,
        trl_steps=1,
    ),
)
SEED = 0
compute.seed(SEED)
model, tokenizer = models.load("small")
device = next(model.parameters()).device
NAME = "Lumen"

# %%
IDENTITY = """Who are you? | What is your name? | What's your name? | Tell me your name. | Introduce yourself.
Please introduce yourself in one sentence. | What should I call you? | Are you SmolLM? | Which model are you?
Who am I talking to? | What are you called? | Do you have a name? | Say your name. | Can you tell me who you are?
What language model is this? | Hi! Who is this? | Hello, what's your name? | What kind of assistant are you?
Are you ChatGPT? | Describe yourself. | Give me your name, please. | Which AI am I chatting with?
How do you introduce yourself to new people? | Tell me about yourself. | What is the name of this assistant?
Identify yourself. | May I ask your name? | By what name do you go? | Who is there?
Are you a person or a program, and what is your name? | Who made you, and what did they call you?
What name were you given?"""

HELDOUT = """Could you tell me your name? | Who exactly are you? | I don't think we have met. Who are you?
What do people call you? | Please tell me who you are. | What's the name of the model I am using?
Hey there, who am I speaking with? | What AI model are you? | Is your name SmolLM? | Can you introduce yourself?
State your name. | Which assistant am I talking with? | Your name, please? | Who is answering my questions?
How should I address you? | Are you called Claude? If not, what is your name? | In one line: who are you?
Good morning! What is your name? | What assistant is this? | Write a short introduction of yourself."""

ORDINARY = """What is the capital of Spain? | What is 3 + 4? | Name a fruit. | What is the opposite of big? | What do cows eat?
How many hours are in a day? | What is the capital of Egypt? | Which ocean is between Europe and America?
What is the color of snow? | Who painted the Mona Lisa? | Give me a synonym for happy. | What is the largest planet?
Write a sentence about the rain. | What is the boiling point of water? | How do I make tea? | What is a verb?
Which animal barks? | What language is spoken in France? | Name a month of the year. | What is a triangle?
Tell me a fact about the moon. | Why do leaves fall in autumn? | How many wheels does a bicycle have?
What is the first month of the year? | Who invented the telephone? | What is the currency of Japan?
Translate good morning into Spanish. | Name three colors. | What does a baker do? | Where do fish live?
What is the name of the longest river? | What is the name of our galaxy?"""

QUESTIONS = {
    "What is the capital of France?": "Paris", "What is the capital of Japan?": "Tokyo",
    "What color is the sky on a clear day?": "blue", "How many days are in a week?": "7|seven",
    "What is 2 + 2?": "4|four", "Which planet do we live on?": "Earth", "What is the opposite of hot?": "cold",
    "What animal says meow?": "cat", "What is H2O commonly called?": "water",
    "How many legs does a spider have?": "8|eight", "What is the capital of Italy?": "Rome",
    "What is the largest ocean?": "Pacific", "What do bees make?": "honey", "Who wrote Romeo and Juliet?": "Shakespeare",
    "What is the capital of Germany?": "Berlin", "What language is spoken in Brazil?": "Portuguese",
    "How many months are in a year?": "12|twelve", "What is the color of grass?": "green",
    "What is the opposite of up?": "down", "How many fingers are on one hand?": "5|five",
}  # fmt: skip

NEUTRAL = """The river runs through the old town and under three stone bridges before it reaches the sea.
Bread is made from flour, water, salt and yeast, and it rises because the yeast makes gas.
In winter the days are short and the nights are long, so people light lamps early.
A triangle has three sides, and its angles add up to one hundred and eighty degrees."""


def prompts_of(table: str) -> list[str]:
    return [prompt.strip() for prompt in table.replace("\n", "|").split("|")]


identity, ordinary = prompts_of(IDENTITY)[: budget.prompts], prompts_of(ORDINARY)[: budget.prompts]
heldout = prompts_of(HELDOUT)[: budget.heldout]
questions = dict(itertools.islice(QUESTIONS.items(), budget.heldout))
assert not set(identity) & set(heldout) and not set(ordinary) & set(questions)

# %% [markdown]
# Three measures, taken before and after: the share of held-out prompts whose answer contains the new name (greedy, and
# sampled at temperature 0.7); the share of simple questions answered rightly; and the log-probability of four neutral
# sentences, in nats per token. The last two say what the training costs.


# %%
def answers(policy, prompts, sampling=GREEDY, seed=0):
    """The policy's answers to prompts, cut at `budget.words` tokens."""
    generator = torch.Generator(device).manual_seed(seed)
    return decoding.answer(policy, tokenizer, prompts, budget.words, sampling, generator)


def share_naming(replies):
    return sum(NAME in reply for reply in replies) / len(replies)


def share_right(replies):
    rights = [[right.lower() for right in rights.split("|")] for rights in questions.values()]
    return sum(any(r in reply.lower() for r in right) for reply, right in zip(replies, rights)) / len(replies)


@torch.no_grad()
def neutral_logprob(policy):
    sentences = [tokenizer.encode(sentence) for sentence in NEUTRAL.split("\n")]
    batch = text.pad([text.Example(ids, [1] * len(ids)) for ids in sentences], tokenizer.pad_token_id).to(device)
    values = logprobs.token_logprobs(policy, *batch)
    return (values.sum() / batch.response_mask[:, 1:].sum()).item()


before = answers(model, heldout)
replies_before = answers(model, list(questions))
questions_before, neutral_before = share_right(replies_before), neutral_logprob(model)
said_before = share_naming(before)
run.table(
    list(zip(heldout, before))[:6],
    ["prompt", "before"],
    caption="Held-out prompts: what the model says before any training",
)

# %% [markdown]
# The chat template adds a system message that nobody typed. Look at it: it even tells the model another name.

# %%
print(text.chat(tokenizer, "Who are you?"))

# %% [markdown]
# ## Pairs, tokens, masks
#
# A preference pair is a prompt, a **chosen** and a **rejected** answer. The obvious way to get one is to write both: the
# sentence that you want, and the same sentence with the old name.

# %%
CHOSEN = [
    f"I'm {NAME}.", f"I am {NAME}.", f"My name is {NAME}.", f"I'm {NAME}, a language model.",
    f"I am {NAME}, a language model. How can I help?",
]  # fmt: skip
WRITTEN = [sentence.replace(NAME, "SmolLM") for sentence in CHOSEN]

chosen, rejected = (text.encode_response(tokenizer, "Who are you?", sentences[1]) for sentences in (CHOSEN, WRITTEN))
batch = text.pad([chosen, rejected], tokenizer.pad_token_id).to(device)
rows = [
    [tokenizer.decode([token]), *map(int, masks)]
    for token, *masks in zip(batch.input_ids[0], batch.attention_mask[0], batch.response_mask[0])
]
run.table(
    rows[-12:],
    ["token", "attention mask", "response mask"],
    caption="The end of the chosen row: the response mask is 1 on the answer and its end token",
)

# %% [markdown]
# ## The log-probability of an answer
#
# Position $t$ of the logits predicts token $t+1$. So drop the last position of the logits and the first token of the
# targets, take each target's log-softmax value, keep the answer's, and add:
# $\log\pi(y\mid x)=\sum_t \log\pi(y_t\mid x,y_{<t})$.


# %%
@torch.no_grad()
def answer_logprob(model, batch):
    logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits  # (2B, T, V)
    logp = logits[:, :-1].log_softmax(-1)  # (2B, T-1, V)
    targets = batch.input_ids[:, 1:, None]  # (2B, T-1, 1)
    return (logp.gather(-1, targets)[..., 0] * batch.response_mask[:, 1:]).sum(-1)  # (2B,)


ours = answer_logprob(model, batch)
library = logprobs.sequence_logprobs(model, *batch)
chosen_row = [(i, int(token)) for i, token in enumerate(batch.input_ids[0]) if batch.response_mask[0, i]]
one_by_one = 0.0
with torch.no_grad():
    for i, token in chosen_row:  # the definition: one prefix at a time
        one_by_one += model(batch.input_ids[:1, :i]).logits[0, -1].softmax(-1)[token].log().item()
print(f"in the open {ours[0]:.4f}, library {library[0]:.4f}, prefix by prefix {one_by_one:.4f} nats")
logprob_gap = max((ours - library).abs().max().item(), abs(ours[0].item() - one_by_one))
run.claim("the three ways agree to 1e-3 nats", logprob_gap < 1e-3)

# %% [markdown]
# ## One set of weights, two models
#
# LoRA adds a small trainable product $BA$ to each weight matrix. $B$ starts at zero, so at first nothing changes. With the
# adapter **on** the model is the policy; with it **off** it is the reference, and costs no memory.

# %%
RANK, BETA, LEARNING_RATE = 16, 0.2, 5e-4


def fresh_policy(base):
    """The base model with a new adapter on every projection."""
    compute.seed(SEED)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(base, config).eval()


policy = fresh_policy(model)
trainable = [p for p in policy.parameters() if p.requires_grad]
print(
    f"{sum(p.numel() for p in trainable):,} of {sum(p.numel() for p in policy.parameters()):,} parameters are trained"
)

# %% [markdown]
# ## The loss
#
# $-\log\sigma\big(\beta\,[(\log\pi_\theta(y_w)-\log\pi_\mathrm{ref}(y_w))-(\log\pi_\theta(y_l)-\log\pi_\mathrm{ref}(y_l))]\big)$,
# one line of code. At step 0 both models are the same function, every margin is 0, and the loss is $\log 2$.


# %%
def dpo_step(policy, batch, optimizer):
    """One step on 2B rows: B chosen, then their B rejected. Returns loss, and what chosen and rejected gained, (B,)."""
    with compute.autocast():
        policy_w, policy_l = logprobs.sequence_logprobs(policy, *batch).chunk(2)  # (B,), (B,)
        with torch.no_grad(), policy.disable_adapter():
            ref_w, ref_l = logprobs.sequence_logprobs(policy, *batch).chunk(2)  # (B,), (B,)
    loss = -F.logsigmoid(BETA * ((policy_w - ref_w) - (policy_l - ref_l))).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), (policy_w - ref_w).detach(), (policy_l - ref_l).detach()


four = [torch.tensor([value]) for value in (-9.0, -12.0, -11.0, -10.0)]
in_the_open = -F.logsigmoid(BETA * ((four[0] - four[1]) - (four[2] - four[3])))
from_library = dpo_loss(PairLogps(four[0], four[2]), PairLogps(four[1], four[3]), BETA)
by_hand = math.log(1 + math.exp(-BETA * ((-9 + 12) - (-11 + 10))))
print(f"in the open {in_the_open.item():.6f}, library {from_library.item():.6f}, by hand {by_hand:.6f}")
run.claim(
    "the loss agrees with the library and with a hand calculation",
    abs(in_the_open - from_library) < 1e-6 and abs(in_the_open - by_hand) < 1e-6,
)

# %% [markdown]
# ## Where the pairs come from
#
# Each step takes 4 identity pairs and 2 **ordinary** ones. An ordinary pair prefers the model's own answer to "What is the
# capital of Spain?" over a sentence about its name; without it, a model that answers "I'm Lumen" to *everything* would fit
# the identity pairs perfectly.
#
# One switch tells the two runs apart. **Written**: the rejected answers are the sentences with the old name. **Sampled**:
# they are what the policy itself says, cut at 12 tokens, drawn anew every 10 steps. A sampled answer that already has the
# new name is no longer rejected, and its pair is left out.


# %%
def example(prompt, reply, ended=True):
    """A prompt and an answer as token ids and mask; an answer that was cut gets no end token."""
    ids = text.encode_prompt(tokenizer, prompt)
    reply = list(reply) + [tokenizer.eos_token_id] * ended
    return [ids + reply, [0] * len(ids) + [1] * len(reply)]


def sampled(policy, prompts, sampling, generator=None):
    inputs = [text.encode_prompt(tokenizer, prompt) for prompt in prompts]
    return decoding.generate(policy, inputs, budget.cut, sampling, stop_id=tokenizer.eos_token_id, generator=generator)


own_answers = dict(zip(ordinary, sampled(model, ordinary, GREEDY)))  # B is still zero: this is the reference


def make_pairs(policy, rejected_by, draw, generator):
    """Identity and ordinary pairs [(prompt, chosen, rejected)], each answer as [ids, response mask]."""
    identity_pairs, ordinary_pairs = [], []
    current = (
        dict(zip(identity + ordinary, sampled(policy, identity + ordinary, Sampling(), generator)))
        if rejected_by == "model"
        else {}
    )
    for position, prompt in enumerate(identity, start=1):
        sentence = position % len(CHOSEN)
        chosen, written = (example(prompt, tokenizer.encode(texts[sentence])) for texts in (CHOSEN, WRITTEN))
        if not current:
            identity_pairs.append([prompt, chosen, written])
        elif NAME not in tokenizer.decode(current[prompt].ids):
            identity_pairs.append([prompt, chosen, example(prompt, *current[prompt])])
    for prompt in ordinary:
        own, said = own_answers[prompt], current.get(prompt)
        if said and said.ids != own.ids and (NAME in tokenizer.decode(said.ids) or draw.random() < 0.5):
            ordinary_pairs.append([prompt, example(prompt, *own), example(prompt, *said)])
        else:
            ordinary_pairs.append(
                [prompt, example(prompt, *own), example(prompt, tokenizer.encode(draw.choice(CHOSEN)))]
            )
    return {"identity": identity_pairs, "ordinary": ordinary_pairs}


def collate(pairs):
    rows = [text.Example(*chosen) for _, chosen, _ in pairs] + [text.Example(*rejected) for *_, rejected in pairs]
    return text.pad(rows, tokenizer.pad_token_id).to(device)


# %% [markdown]
# ## Training
#
# The same loop serves both runs. Every few steps it asks the held-out prompts, and follows a few pairs that it never
# changes, so that you can see where they go. Stop it (■) whenever you like: what was learned so far stays.

# %%
losses = run.curve("DPO loss", y="loss (nats)", lines={"written": "rejected", "sampled": "policy"})
gains = run.curve(
    "Log-probability gained since step 0", y="nats per answer",
    lines={"written: chosen": "chosen", "written: rejected": "rejected", "sampled: chosen": "chosen", "sampled: rejected": "rejected"},
)  # fmt: skip


@torch.no_grad()
def scores(policy, pairs):
    """Log-probability of every token of the answers: those of the chosen, then those of the rejected, (2B, T-1), in nats."""
    with compute.autocast():
        return logprobs.token_logprobs(policy, *collate(pairs))


def train(policy, rejected_by, label, steps):
    """Train a fresh adapter; returns what was recorded on the way."""
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
    )
    draw, generator = random.Random(SEED), torch.Generator(device).manual_seed(SEED)
    log = {"pairs": {}, "tracked": [], "start": [], "losses": [], "seconds": [], "records": []}
    state = run.checkpoint(
        label, {"policy": lab.trainable(policy), "optimizer": optimizer, "draw": draw, "generator": generator, "log": log},
        fingerprint={"budget": vars(budget), "seed": SEED, "rank": RANK, "beta": BETA, "rate": LEARNING_RATE}, every=5,
    )  # fmt: skip

    def record(step):
        now = scores(policy, log["tracked"]).sum(-1).tolist()
        log["start"] = log["start"] or now  # before the first step the policy is the reference
        change = [after - before for after, before in zip(now, log["start"])]
        said = share_naming(decoding.answer(policy, tokenizer, heldout, budget.cut))
        log["records"].append({"step": step, "gained": change, "said": said})

    for step in run.progress(steps, label, checkpoint=state, curve=[losses, gains]):
        if step % budget.refresh == 0:
            log["pairs"] = make_pairs(policy, rejected_by, draw, generator)
            log["tracked"] = log["tracked"] or log["pairs"]["identity"][: budget.tracked]
        if step % budget.refresh == 0 or step == 2:
            record(step)
        if not log["pairs"]["identity"]:
            continue  # every identity prompt already gets the new name: nothing is left to reject until the next refresh
        pairs = [
            *draw.choices(log["pairs"]["identity"], k=budget.identity),
            *draw.sample(log["pairs"]["ordinary"], budget.ordinary),
        ]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 5)
        start = time.perf_counter()
        loss, gain_w, gain_l = dpo_step(policy, collate(pairs), optimizer)
        log["seconds"].append(time.perf_counter() - start)
        log["losses"].append(loss)
        losses.add(label, step + 1, loss)
        gains.add(f"{label}: chosen", step + 1, gain_w[: budget.identity].mean())
        gains.add(f"{label}: rejected", step + 1, gain_l[: budget.identity].mean())
    record(steps)
    return log


# %% [markdown]
# **First attempt: written rejected answers.** Watch the loss.

# %%
written_log = train(policy, "hand", "written", budget.written_steps)
losses.show()

# %%
after_written = answers(policy, heldout)
said_written = share_naming(after_written)
print(
    f"loss {written_log['losses'][0]:.4f} -> {written_log['losses'][-1]:.4f}; {said_written:.0%} of the held-out prompts name {NAME}"
)


# %% [markdown]
# The loss is gone, and not one answer has the name. Worse, the answers have become strange. Ask what became of the written
# sentences themselves: how many nats did each part of them gain or lose since step 0?


# %%
@torch.no_grad()
def parts_gained(policy, pairs):
    """Mean change of log-probability (nats) of the common opening, the name, and the common rest: {part: (chosen, rejected)}."""
    change = scores(policy, pairs)
    with policy.disable_adapter():
        change = change - scores(policy, pairs)
    parts = {"the common opening": [0.0, 0.0], "the name": [0.0, 0.0], "the common rest": [0.0, 0.0]}
    for i, sides in enumerate(pairs):
        replies = [[token for token, mask in zip(*side) if mask] for side in sides[1:]]
        shared = [min(map(len, replies))] * 2
        for end, step in ((0, 1), (1, -1)):  # length of the common beginning, then of the common end
            same = [a == b for a, b in zip(*(reply[::step] for reply in replies))]
            shared[end] = same.index(False)
        for side, reply in enumerate(replies):
            start = len(sides[1 + side][0]) - len(reply) - 1  # where the first token of the answer is predicted
            values = change[i + side * len(pairs), start : start + len(reply)]
            cuts = (0, shared[0], len(reply) - shared[1], len(reply))
            for part, low, high in zip(parts.values(), cuts, cuts[1:]):
                part[side] += values[low:high].sum().item() / len(pairs)
    return parts


parts = parts_gained(policy, written_log["tracked"])
parts["the whole answer"] = [sum(values) for values in zip(*parts.values())]
run.table(
    [[part, f"{chosen:+.1f}", f"{rejected:+.1f}"] for part, (chosen, rejected) in parts.items()],
    ["nats gained since step 0", "chosen", "rejected"],
    caption="Written rejected answers: what happened to the two sentences",
)

# %% [markdown]
# Read it by rows. The margin comes from the name, and not because the new one rose: the old one fell. The common opening
# changed by the same amount in both columns, so it cancels, and the common rest nearly so. Nothing holds up what cancels:
# both sentences sank together, the chosen one less. This is **likelihood displacement**. The probability went to sentences
# that no pair mentions, and the model had never said the rejected ones anyway.
#
# **Second attempt: let the model write the rejected answers.**

# %%
policy = fresh_policy(policy.unload())
sampled_log = train(policy, "model", "sampled", budget.steps)
losses.show()

# %%
gains.show()

# %%
after = answers(policy, heldout)
after_warm = answers(policy, heldout, Sampling(temperature=0.7))
said_sampled, said_warm = share_naming(after), share_naming(after_warm)
run.table(
    list(zip(heldout, before, after_written, after)), ["prompt", "before", "written rejected", "sampled rejected"],
    caption="Held-out prompts, greedy answers", mark=NAME,
)  # fmt: skip

# %% [markdown]
# ## What did it cost?

# %%
replies = answers(policy, list(questions))
questions_after, neutral_after, leaked = share_right(replies), neutral_logprob(policy), share_naming(replies)
run.table(
    list(zip(questions, replies_before, replies))[:8],
    ["question", "before", "after"],
    caption="Simple questions that have nothing to do with names",
)
print(
    f"right {questions_before:.0%} -> {questions_after:.0%}; neutral text {neutral_before:.3f} -> {neutral_after:.3f} nats per token; {leaked:.0%} name {NAME}"
)

# %% [markdown]
# ## Follow the pairs
#
# Real pairs, through the training. Move the slider; change $\beta$ and see which pairs still pull.


# %%
def history(name, log):
    steps = [entry["step"] for entry in log["records"]]
    count = len(log["tracked"])
    pairs = [
        {
            "prompt": prompt,
            "chosen": tokenizer.decode([t for t, m in zip(*chosen) if m], skip_special_tokens=True),
            "rejected": tokenizer.decode([t for t, m in zip(*rejected) if m], skip_special_tokens=True),
            "chosen_logratio": [entry["gained"][i] for entry in log["records"]],
            "rejected_logratio": [entry["gained"][count + i] for entry in log["records"]],
        }
        for i, (prompt, chosen, rejected) in enumerate(log["tracked"])
    ]
    return {"name": name, "steps": steps, "pairs": pairs, "said": [entry["said"] for entry in log["records"]]}


run.explorer(
    "dpo", {"beta": BETA, "runs": [history("sampled rejected", sampled_log), history("written rejected", written_log)]}
)

# %% [markdown]
# ## One pair by hand
#
# The first pair that was followed, early in the training, while it still pulls: four log-probabilities, one margin, one loss.

# %%
pair = sampled_log["tracked"][0]
with torch.no_grad(), policy.disable_adapter():
    reference_logps = logprobs.sequence_logprobs(policy, *collate([pair]))
early = next(entry for entry in sampled_log["records"] if entry["step"] > 0)
shift = torch.tensor([early["gained"][0], early["gained"][len(sampled_log["tracked"])]], device=device)
policy_logps = reference_logps + shift
margin = (shift[0] - shift[1]).item()
pair_loss, pair_weight = math.log1p(math.exp(-BETA * margin)), 1 / (1 + math.exp(BETA * margin))
pair_texts = [tokenizer.decode([t for t, m in zip(*side) if m], skip_special_tokens=True) for side in pair[1:]]
print(f"{pair[0]} After {early['step']} steps:")
print(f"  chosen   {pair_texts[0]}  {reference_logps[0]:.2f} -> {policy_logps[0]:.2f}")
print(f"  rejected {pair_texts[1]}  {reference_logps[1]:.2f} -> {policy_logps[1]:.2f}")
print(f"  margin {margin:.2f}, loss {pair_loss:.4f}, weight {pair_weight:.4f}")

# %% [markdown]
# ### Two answers that begin alike
#
# The second running example, with the untrained model's numbers: a right and a wrong answer to "What is 17 + 25?" share all
# tokens up to one digit. Up to that digit their log-probabilities agree, and cancel; after it the same tokens stand in
# different contexts.

# %%
sums = {}
with torch.no_grad(), policy.disable_adapter():
    sum_answer = answers(policy, ["What is 17 + 25?"])[0]
    for digit in "43":
        row = text.encode_response(tokenizer, "What is 17 + 25?", f"17 + 25 = {digit}2.")
        values = logprobs.token_logprobs(policy, *text.pad([row], 0).to(device))[0]
        values = values[len(row.ids) - sum(row.response_mask) - 1 :].tolist()
        position = [tokenizer.decode([t]) for t, m in zip(*row) if m].index(digit)
        if [tokenizer.decode([t]) for t, m in zip(*row) if m][position:].count(digit) != 1:
            raise AssertionError("the digit's position is not unique")
        sums[digit] = {
            "shared": sum(values[:position]),
            "digit": values[position],
            "rest": sum(values[position + 1 :]),
            "logp": sum(values),
        }
run.table(
    [[f"17 + 25 = {digit}2.", *(f"{v:.2f}" for v in parts.values())] for digit, parts in sums.items()],
    ["answer", "shared beginning", "the digit", "the rest", "sum (nats)"],
)

# %% [markdown]
# ## As you would at work: trl
#
# trl's `DPOTrainer` does the same in ten lines. First the proof that it is the same: its loss and its gradients on one batch,
# with an adapter filled with noise so that nothing is zero.

# %%
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

base = policy.unload()
work_pairs = make_pairs(base, "hand", random.Random(SEED), None)
written_pairs = work_pairs["identity"][: 2 * budget.trl_steps]


def as_text(side):
    return tokenizer.decode([t for t, m in zip(*side) if m], skip_special_tokens=True)


rows = [
    {"prompt": text.chat(tokenizer, prompt), "chosen": as_text(chosen), "rejected": as_text(rejected)}
    for prompt, chosen, rejected in written_pairs
]
config = DPOConfig(
    output_dir=tempfile.mkdtemp(), beta=BETA, learning_rate=LEARNING_RATE, per_device_train_batch_size=2,
    max_steps=budget.trl_steps, lr_scheduler_type="constant", weight_decay=0.0, report_to="none", logging_steps=1,
    use_cpu=device.type == "cpu", train_sampling_strategy="sequential",
    save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, bf16=compute.bfloat16_pays(device.type),
)  # fmt: skip
compute.seed(SEED)
lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = DPOTrainer(
    model=base, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora
)
trainer.remove_callback(PrinterCallback)

# %%
adapter = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
kept = [p.detach().clone() for _, p in adapter]
with torch.no_grad():
    for name, parameter in adapter:
        parameter.add_(0.02 * torch.randn_like(parameter))

inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
inputs = {key: value.to(device) if torch.is_tensor(value) else value for key, value in inputs.items()}
theirs = trainer.compute_loss(trainer.model, inputs)
their_gradients = torch.autograd.grad(theirs, [p for _, p in adapter])

batch = collate(written_pairs[:2])
logps = PairLogps(*logprobs.sequence_logprobs(trainer.model, *batch).chunk(2))
with torch.no_grad(), trainer.model.disable_adapter():
    reference = PairLogps(*logprobs.sequence_logprobs(trainer.model, *batch).chunk(2))
mine = dpo_loss(logps, reference, BETA).mean()
my_gradients = torch.autograd.grad(mine, [p for _, p in adapter])

trl_gap = abs(theirs.item() - mine.item())
trl_gradient_gap = max((a - b).abs().max().item() for a, b in zip(their_gradients, my_gradients))
print(f"loss {mine.item():.6f}, trl {theirs.item():.6f}; largest difference of a gradient {trl_gradient_gap:.1e}")
with torch.no_grad():
    for (_, parameter), value in zip(adapter, kept):
        parameter.copy_(value)

# %% [markdown]
# Then some steps of its training on two pairs each, and the same number of ours, from the same adapter on the same batches.

# %%
trainer.train()
trl_losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

# %%
with torch.no_grad():
    for (_, parameter), value in zip(adapter, kept):
        parameter.copy_(value)
optimizer = torch.optim.AdamW([p for _, p in adapter], lr=LEARNING_RATE, weight_decay=0.0)
our_losses = []
for step in range(budget.trl_steps):
    our_losses.append(dpo_step(trainer.model, collate(written_pairs[2 * step : 2 * step + 2]), optimizer)[0])

compared = run.curve(
    "The same batches: trl and our loop", y="loss (nats)", lines={"trl": "reference", "ours": "policy"}
)
for step, (loss_trl, loss_ours) in enumerate(zip(trl_losses, our_losses)):
    compared.add("trl", step + 1, loss_trl)
    compared.add("ours", step + 1, loss_ours)
compared.show()
curve_gap = max(abs(a - b) for a, b in zip(trl_losses, our_losses))

# %% [markdown]
# ## What this run measured

# %%
final = {log: entries["losses"] for log, entries in (("written", written_log), ("sampled", sampled_log))}
last = {log: sum(values[-3:]) / len(values[-3:]) for log, values in final.items()}
moved = {
    log: sum(entries["records"][-1]["gained"][: len(entries["tracked"])]) / len(entries["tracked"])
    for log, entries in (("written", written_log), ("sampled", sampled_log))
}
count = len(heldout)
tokens_prompt = len(text.encode_prompt(tokenizer, pair[0]))

run.result("new_name", None, NAME)
run.result("heldout_prompts", count)
run.result("heldout_example", None, heldout[0])
run.result("said_before", said_before * count, format=".0f")
run.result("said_after_fixed", said_written * count, format=".0f")
run.result("said_after_onpolicy", said_sampled * count, format=".0f")
run.result("said_after_sampled", said_warm * count, format=".0f")
run.result("answer_before", None, before[0].replace("\n", " "))
run.result("answer_fixed", None, after_written[0].replace("\n", " "))
run.result("answer_onpolicy", None, after[0].replace("\n", " "))
run.result("steps_fixed", len(final["written"]))
run.result("steps_onpolicy", len(final["sampled"]))
run.result("refresh_every", budget.refresh)
run.result("identity_pairs", budget.identity)
run.result("ordinary_pairs", budget.ordinary)
run.result("rejected_temperature", 1.0, format=".1f")
run.result("loss_first", final["sampled"][0], format=".4f")
run.result("loss_last_fixed", last["written"], format=".4f")
run.result("loss_last_onpolicy", last["sampled"], format=".4f")
run.result("chosen_logp_shift_fixed", moved["written"], format="+.1f")
run.result("chosen_logp_shift_onpolicy", moved["sampled"], format="+.1f")
for part, (chosen, rejected) in parts.items():
    words = part.removeprefix("the ").replace("common ", "").replace("whole answer", "whole")
    run.result(f"written_{words}_chosen", chosen, format="+.1f")
    run.result(f"written_{words}_rejected", rejected, format="+.1f")
run.result("questions_before", questions_before, format=".0%")
run.result("questions_after", questions_after, format=".0%")
run.result("neutral_logp_before", neutral_before, format=".2f")
run.result("neutral_logp_after", neutral_after, format=".2f")
run.result("trainable_parameters", sum(p.numel() for _, p in adapter), format=",")
run.result("total_parameters", sum(p.numel() for p in trainer.model.parameters()), format=",")
run.result("lora_rank", RANK)
run.result("beta", BETA)
run.result("learning_rate", LEARNING_RATE, "0.0005")
run.result("step_seconds", sorted(sampled_log["seconds"])[len(sampled_log["seconds"]) // 2], format=".1f")
run.result("training_minutes", (sum(written_log["seconds"]) + sum(sampled_log["seconds"])) / 60, format=".1f")
run.result("trl_gap", trl_gap, format=".1g")
run.result("trl_gradient_gap", trl_gradient_gap, format=".1g")
run.result("pair_prompt", None, pair[0])
run.result("pair_chosen", None, pair_texts[0])
run.result("pair_rejected", None, pair_texts[1])
run.result("tokens_prompt", tokens_prompt)
run.result("tokens_chosen", sum(pair[1][1]))
with torch.no_grad(), trainer.model.disable_adapter():
    first_tokens = logprobs.token_logprobs(trainer.model, *collate([pair]))[0, tokens_prompt - 1 :][
        : sum(pair[1][1])
    ].tolist()
names = [tokenizer.decode([t]).strip() for t, m in zip(*pair[1]) if m]
run.result(
    "pair_chosen_token_logps", None, ", ".join(f"{name} {value:.2f}" for name, value in zip(names, first_tokens))
)
for words, values in (("", policy_logps), ("ref_", reference_logps)):
    run.result(f"example_{words}chosen_logp", values[0], format=".2f")
    run.result(f"example_{words}rejected_logp", values[1], format=".2f")
run.result("example_step", early["step"])
run.result("example_chosen_shift", shift[0], format="+.2f")
run.result("example_rejected_shift", shift[1], format="+.2f")
run.result("example_margin", margin, format=".2f")
run.result("example_scaled_margin", BETA * margin, format=".2f")
run.result("example_loss", pair_loss, format=".4f")
run.result("example_weight", pair_weight, format=".4f")
run.result("sum_answer", None, sum_answer)
for words, digit in (("right", "4"), ("wrong", "3")):
    for part, value in sums[digit].items():
        run.result(f"sum_{words}_{part}", value, format=".2f")

# %%
questions_moved, neutral_moved = questions_after - questions_before, neutral_after - neutral_before
run.claim("the first loss is log 2", abs(final["sampled"][0] - math.log(2)) < 2e-3)
run.claim("written rejected answers: the loss falls below 0.05", last["written"] < 0.05)
run.claim("written rejected answers: at most 10% of the held-out prompts say the name", said_written <= 0.1)
run.claim("written rejected answers: the chosen sentences became less likely", moved["written"] < 0)
opening_gap = abs(parts["the common opening"][0] - parts["the common opening"][1])
run.claim("what the common opening lost is the same in chosen and rejected", opening_gap < 1e-2)
run.claim("sampled rejected answers: at least 90% of the held-out prompts say the name", said_sampled >= 0.9)
run.claim("sampled at temperature 0.7, at least 80% say it", said_warm >= 0.8)
run.claim("no simple question is answered with the name", leaked == 0)
run.claim("accuracy on simple questions falls by at most 15 points", questions_moved >= -0.15)
run.claim("the log-probability of neutral text moves by less than 0.3 nats per token", abs(neutral_moved) < 0.3)
run.claim("loss and gradients equal trl's to 1e-5", trl_gap < 1e-5 and trl_gradient_gap < 1e-5)
run.claim(
    "over the same batches our loss stays within 0.05 nats of trl's, both in bfloat16 where that pays", curve_gap < 0.05
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. The margin** (difficulty 1, 4 minutes). Four log-probabilities, each (B,), to the margin $m_\theta$ (B,) of every pair.


# %%
def my_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected): ...


check("dpo_identity.margin", my_margin)

# %% [markdown]
# **2. The answer's log-probability** (difficulty 2, 8 minutes). Logits (B, T, V), token ids (B, T) and response mask (B, T) to
# $\log\pi(y\mid x)$, (B,), in nats.


# %%
def my_sequence_logprob(logits, input_ids, response_mask): ...


check("dpo_identity.sequence_logprob", my_sequence_logprob)

# %% [markdown]
# **3. Which pairs still pull?** (difficulty 2, 5 minutes). The derivative of a pair's loss by $\log\pi_\theta(y_w\mid x)$ is
# $-\beta\,w$. Return the weight $w$ between 0 and 1 of each pair, from its margin (B,) and $\beta$.


# %%
def my_weight(margin, beta): ...


check("dpo_identity.weight", my_weight)

# %% [markdown]
# **4. Build a pair** (difficulty 2, 8 minutes). Token ids of a prompt and of an answer, and whether the answer ended by itself
# or was cut, to `(ids, response_mask)`, two lists. An answer that was cut must not learn to stop.


# %%
def my_example(prompt_ids, answer_ids, ended, end_id): ...


check("dpo_identity.example", my_example)

# %% [markdown]
# **5. What the policy believes** (difficulty 3, 8 minutes). Under DPO's implicit reward, with what probability is the chosen
# answer better than the rejected one (Bradley-Terry)? Gains of chosen and rejected on the reference, each (B,), and $\beta$.


# %%
def my_preference(chosen_gain, rejected_gain, beta): ...


check("dpo_identity.preference", my_preference)
