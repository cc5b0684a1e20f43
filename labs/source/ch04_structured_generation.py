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
# # Structured generation: an answer that always parses
#
# A program that calls a model wants a record, not a paragraph. You can ask for one, and parse what comes back; or you can make every token that
# would break the format impossible. Here you build the second way from nothing, over the real vocabulary of 49,152 tokens, and measure both.
#
# - **You will** turn a regular expression into an automaton, the automaton into an index from its states to allowed tokens, and the index into a mask;
#   write JSON schemas as regular expressions; extract bookings from messages in five ways and count what is valid and what is right;
#   and see what a mask cannot do: it bends probabilities, it can force strange tokens, and it makes nothing true.
# - **Time:** about 3 minutes on a CPU with two cores, less on a GPU.
#
# **Sections:** 4.3.5
# **Topics:** structured-generation

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

# %%
import json
import math
import random
import re
import time
from itertools import pairwise

import jsonschema
import plotly.graph_objects as go
import torch
import yaml
from outlines_core import Index
from outlines_core import Vocabulary as OutlinesVocabulary

from alignlab import decoding, lab, models, palette, text
from alignlab.decoding.regular import compile_regex
from alignlab.decoding.structured import DONE, Constraint, TokenAutomaton, Vocabulary, constrain, schema_regex
from alignlab.exercises import check
from alignlab.intervals import paired_difference, wilson
from alignlab.transformer import Transformer

run = lab.Lab("ch04_structured_generation")
budget = run.budget(
    full={"messages": 104, "batch": 60, "room": 60, "peer": 6, "countries": 24, "spellings": 24, "repeats": 300, "cut": 40, "yaml": 64, "schemas": 4},
    quick={"messages": 3, "batch": 2, "room": 8, "peer": 1, "countries": 2, "spellings": 2, "repeats": 5, "cut": 2, "yaml": 2, "schemas": 2},
)
model, tokenizer = models.load("small")
decoder = Transformer.view(model)
device = next(model.parameters()).device
END = tokenizer.eos_token_id


def shown(token):
    """A token's bytes as text, its spaces and line breaks made visible."""
    return token.decode(errors="backslashreplace").replace(" ", "·").replace("\n", "↵")


# %% [markdown]
# ## A pattern becomes an automaton
#
# Take prices: `[0-9]+(\.[0-9]{2})?`, a whole number or one with two decimals. Reading a text from left to right, how much must you remember to know what may follow?
# Not the text: only where you stand in the pattern. That place is a **state**, and there are finitely many.
#
# Thompson's construction (1968) builds states straight from the syntax, with edges for characters and *free* edges that need none. Each function below takes the state
# in which its part begins and gives the state in which it ends.

# %%
edges = {}  # state -> [(characters, next state)]
free = {}  # state -> [next states that cost nothing]


def new_state():
    edges[len(edges)], free[len(free)] = [], []
    return len(edges) - 1


def one_of(characters):
    def build(start):
        end = new_state()
        edges[start].append((characters, end))
        return end

    return build


def then(*parts):
    def build(start):
        for part in parts:
            start = part(start)
        return start

    return build


def either(*parts):
    def build(start):
        end = new_state()
        for part in parts:
            free[part(start)].append(end)
        return end

    return build


def optional(part):
    return either(part, lambda start: start)


def many(part):
    """Once or more often: from the end of the part a free edge leads back to where it began."""

    def build(start):
        begin, end = new_state(), new_state()
        free[start].append(begin)
        last = part(begin)
        free[last] += [begin, end]
        return end

    return build


DIGIT = one_of("0123456789")
price = then(many(DIGIT), optional(then(one_of("."), DIGIT, DIGIT)))
nfa_start = new_state()
nfa_end = price(nfa_start)
print(f"{len(edges)} states, {sum(map(len, edges.values()))} edges with characters, {sum(map(len, free.values()))} free edges")

# %% [markdown]
# This automaton can be in several states at once (after `4`, another digit may follow, or a point, or nothing). **Subset construction** makes each such set one state of a new automaton,
# which is always in exactly one.


# %%
def reached(states):
    """The states that free edges lead to, these included."""
    found, todo = set(states), list(states)
    while todo:
        for to in free[todo.pop()]:
            if to not in found:
                found.add(to)
                todo.append(to)
    return frozenset(found)


def determinize(start, end, alphabet):
    """[{character: next state}], {accepting states}; state 0 is the start."""
    names = {reached([start]): 0}
    table, todo = [], list(names)
    for states in todo:  # grows while it is walked through
        table.append({})
        for character in alphabet:
            target = reached({to for state in states for characters, to in edges[state] if character in characters})
            if target:
                if target not in names:
                    names[target] = len(names)
                    todo.append(target)
                table[-1][character] = names[target]
    return table, {names[states] for states in todo if end in states}


table, accepting = determinize(nfa_start, nfa_end, "0123456789.")


def accepts(string):
    state = 0
    for character in string:
        state = table[state].get(character)
        if state is None:
            return False
    return state in accepting


pattern = r"[0-9]+(\.[0-9]{2})?"
library = compile_regex(pattern)
strings = ["".join(random.Random(i).choices("019.", k=i % 7)) for i in range(3000)]
agree = all(accepts(s) == library.accepts(s) == bool(re.fullmatch(pattern, s)) for s in strings)
run.claim("the automaton in the open, the library's and Python's re accept the same texts", agree)
run.table(
    [
        (state, "yes" if state in accepting else "no", ", ".join(f"{''.join(c for c in row if row[c] == to)} → {to}" for to in sorted(set(row.values()))))
        for state, row in enumerate(table)
    ],
    ("State", "May end here", "Characters that may follow"),
    caption=f"{len(table)} states; the library finds that {library.states} are enough",
)

# %% [markdown]
# ## From characters to tokens
#
# The model does not write characters. A token may be `.5`, half of the decimals; or `e"`, the end of a word and its quote; or one byte of three that make a ☕.
# So read tokens as **bytes**, and let the automaton read bytes too (a character outside ASCII is two to four edges in a row).

# %%
vocabulary = Vocabulary.of(tokenizer)
tokens = vocabulary.tokens
written = [token for token in tokens if token]


def is_text(token):
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


pieces = [token for token in written if not is_text(token)]
coffee = [tokens[i] for i in tokenizer.encode("☕", add_special_tokens=False)]
print(f"{len(tokens):,} ids; {tokens.count(None)} write nothing (special tokens, such as the end token)")
print(f"{len(pieces)} tokens are pieces of characters: ☕ is {len(coffee)} tokens, {coffee}")
print(f"bytes that are a token by themselves: {len(vocabulary.single)} of 256; longest token: {len(vocabulary.columns)} bytes")

# %% [markdown]
# The **index** (Willard and Louf, 2023): for every state, walk through the bytes of every token. A token is allowed if the automaton survives all of its bytes; where it ends up is the next state.
# This is done once for a pattern, before anything is generated.


# %%
def index_of(dfa):
    """{state: {token id: next state}}, by trying every token in every state."""
    index = {}
    for state in range(dfa.states):
        index[state] = {}
        for i, token in enumerate(tokens):
            to = state
            for byte in token or b"":
                to = dfa.table[to, byte]
                if to < 0:
                    break
            if token and to >= 0:
                index[state][i] = int(to)
    return index


started = time.perf_counter()
index = index_of(library)
seconds_open = time.perf_counter() - started
started = time.perf_counter()
automaton = TokenAutomaton(library, vocabulary)
rows = {state: automaton.row(state) for state in range(library.states)}
seconds_library = time.perf_counter() - started
same_index = all(
    {int(i): int(to) for i, to in zip(*rows[state], strict=True) if to != DONE} == index[state] for state in index
)
run.claim("the index in the open is the library's", same_index)
print(f"{seconds_open:.2f} s in the open, {seconds_library:.4f} s in the library, which takes all tokens at once, byte column by byte column")
run.table(
    [
        (state, len(index[state]), ", ".join(shown(tokens[i]) for i in sorted(index[state], key=lambda i: -len(tokens[i]))[:9]), "yes" if library.accepting[state] else "no")
        for state in index
    ],
    ("State", "Tokens", "The longest of them", "End token"),
    caption=f"The index of {pattern}",
)  # fmt: skip

# %% [markdown]
# The **end token** is allowed where a match may end, and nowhere else. SmolLM2's vocabulary splits all digits, so few tokens matter here; inside a JSON string there are over 40,000.
#
# ## The mask
#
# One line in the loop: the logits of all tokens that are not allowed become $-\infty$. Below, "What is 17 + 25?", with nothing but digits allowed.


# %%
@torch.inference_mode()
def primed(ids, rows, room):
    """A KV cache for `rows` sequences that all begin with these ids, read once; `room` more tokens fit."""
    one, cache = decoder.cache(1, len(ids)), decoder.cache(rows, len(ids) + room)
    decoder.hidden(torch.tensor([ids], device=device), None, one)
    cache.keys[:, :, :, : len(ids)], cache.values[:, :, :, : len(ids)] = one.keys, one.values
    cache.length = len(ids)
    return cache


def reader(prompt, room=64):
    """A function that reads one token more, and gives the logits (V,) of the next; call it with the prompt's last first."""
    cache = primed(prompt[:-1], 1, room + 1)

    @torch.inference_mode()
    def read(i):
        return decoder(torch.tensor([[i]], device=device), None, cache)[0, -1].double().cpu()

    return read


question = text.encode_prompt(tokenizer, "What is 17 + 25?")
automaton = TokenAutomaton(compile_regex("[0-9]+"), vocabulary)
state, ids, rows, read = 0, [], [], reader(question)
while state != DONE and len(ids) < 8:
    logits = read(ids[-1] if ids else question[-1])
    allowed = automaton.mask(state)
    masked = logits.masked_fill(~allowed, -torch.inf)
    wanted, best = int(logits.argmax()), int(masked.argmax())
    probs = logits.softmax(-1)
    rows.append((state, f"{shown(tokens[wanted] or b'(end)')} {probs[wanted]:.1%}", int(allowed.sum()), f"{probs[allowed].sum():.2%}",
                 shown(tokens[best] or b"(end)"), f"{masked.softmax(-1)[best]:.1%}"))  # fmt: skip
    state = automaton.step(state, best)
    ids.append(best)
run.table(rows, ("State", "The model wants", "Allowed", "Their share", "Takes", "Of what is left"), caption="What is 17 + 25?")
digits_answer, digits_mass = tokenizer.decode(ids, skip_special_tokens=True), float(rows[0][3].rstrip("%")) / 100

(free_answer,) = decoding.generate(model, [question], 24, stop_id=END)
(same_answer,) = decoding.generate(model, [question], 8, stop_id=END, processor=constrain(vocabulary, "[0-9]+"))
print(f"free: {tokenizer.decode(free_answer.ids)!r}; constrained: {digits_answer!r}")
run.claim("the loop in the open writes what the library's generate with a processor writes", same_answer.ids == [i for i in ids if i != END])

# %% [markdown]
# The answer is a number, whatever else it is. The model wanted to write `17 + 25 = ...`; the mask let the 17 through, forbade the plus, and what follows is the best of what was left.
#
# ## A JSON schema is a pattern
#
# An object with its properties in order is a sequence; an enum is an alternative; a list is a repetition. So every schema without recursion is a regular expression, if a long one.

# %%
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
BOOKING = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 16},
        "day": {"enum": DAYS},
        "people": {"type": "integer", "minimum": 1, "maximum": 12},
    },
    "required": ["name", "day", "people"],
}
print(schema_regex(BOOKING))

SCHEMAS = {
    "one of seven days": {"enum": DAYS},
    "a booking": BOOKING,
    "a booking, name of any length": {**BOOKING, "properties": {**BOOKING["properties"], "name": {"type": "string"}}},
    "up to three bookings": {"type": "array", "items": BOOKING, "minItems": 1, "maxItems": 3},
}
names = {}
for i, token in enumerate(tokens):
    if token:
        names.setdefault(token, []).append(i)
outlines_vocabulary = OutlinesVocabulary(END, names)


def beside_outlines(automaton, outlines_index):
    """Walk both automata side by side; how many pairs of states there are, and tokens that only one of them allows."""
    pairs, todo, differ = {(0, outlines_index.get_initial_state())}, [(0, outlines_index.get_initial_state())], 0
    for mine, other in todo:
        ids, targets = automaton.row(mine)
        theirs = set(outlines_index.get_allowed_tokens(other) or ()) - {END}
        differ += len(theirs ^ (set(ids.tolist()) - {END}))
        differ += outlines_index.is_final_state(other) != bool(automaton.dfa.accepting[mine])
        for target in set(targets.tolist()) - {DONE}:
            i = int(ids[targets == target][0])
            pair = (target, outlines_index.get_next_state(other, i)) if i in theirs else None
            if pair and pair not in pairs:
                pairs.add(pair)
                todo.append(pair)
    return len(pairs), differ


rows, differences, pairs_compared = [], 0, 0
for name, schema in run.progress(list(SCHEMAS.items())[: budget.schemas], "building automata"):
    regex = schema_regex(schema)
    started = time.perf_counter()
    automaton = TokenAutomaton(compile_regex(regex), vocabulary)
    shortest = int(automaton.distance[0])  # needs every row of the index
    ours = time.perf_counter() - started
    started = time.perf_counter()
    outlines_index = Index(regex, outlines_vocabulary)
    theirs = time.perf_counter() - started
    pairs, differ = beside_outlines(automaton, outlines_index)
    differences, pairs_compared = differences + differ, pairs_compared + pairs
    rows.append((name, len(regex), automaton.dfa.states, f"{ours:.2f}", f"{theirs:.2f}", pairs, differ, shortest))
    if schema is BOOKING:
        booking, build_seconds, outlines_seconds = automaton, ours, theirs
run.table(rows, ("Schema", "Characters of regex", "States", "Seconds, ours", "Seconds, Outlines", "States compared", "Tokens that differ", "Fewest tokens"))

# %% [markdown]
# Outlines is the library of the paper's authors, its index written in Rust. Given the same bytes, both allow the same tokens in every state. Two differences are worth knowing.
#
# 1. It leaves something out where a text may end *and* go on. Python's `re` is the judge:

# %%
outlines_price = Index(pattern, outlines_vocabulary)
after_four = outlines_price.get_next_state(outlines_price.get_initial_state(), names[b"4"][0])
ours_after = [shown(tokens[i] or b"(end)") for i in TokenAutomaton(library, vocabulary).row(library.run("4"))[0]]
theirs_after = [shown(tokens[i] or b"(end)") for i in outlines_price.get_allowed_tokens(after_four)]
print("re.fullmatch on '4.50':", bool(re.fullmatch(pattern, "4.50")))
print("after '4', ours allows:    ", *sorted(ours_after))
print("after '4', Outlines allows:", *sorted(theirs_after))
print("the point is left out" if "." not in theirs_after else "the point is there: this version of Outlines has it right")

# %% [markdown]
# 2. When Outlines reads a transformers tokenizer by itself, it takes each token as *text*. A piece of a character becomes the sign �, and special tokens count as what they are called.
#
# ## Extracting bookings: ask, or constrain?
#
# Messages to a restaurant, made from templates, so that every right answer is known. Most hold a second number (the hour), and some say the number of people in words.

# %%
FIRST = [
    "Ann", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena",
    "Marta", "Nils", "Olga", "Pavel", "Rosa", "Sven", "Tara", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
]  # fmt: skip
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TEMPLATES = [
    "Hi, this is {name}. Could we have a table for {people} on {day} at {hour}?",
    "{name} here. We would like to come on {day} at {hour}, there will be {people} of us.",
    "Please book {day}, {hour} o'clock, under the name {name}. We are {people}.",
    "A table for {people} please, {day} evening at {hour}. My name is {name}, thanks!",
    "Hello! Can you fit in a party of {people} this {day}? Around {hour} would be best. {name}",
    "I'd like to reserve for {day}. {people} people, {hour} pm, name of {name}.",
    "We want to celebrate on {day} at {hour} with {people} guests. Regards, {name}",
    "It's {name} again: same table as always, {day} at {hour}, but {people} of us this time.",
]
SHOTS = [
    ("Good evening, is there room for 5 on Wednesday at 8? Greetings, Mia", {"name": "Mia", "day": "Wednesday", "people": 5}),
    ("This is Paul, I need a table on Sunday at 6 for two people.", {"name": "Paul", "day": "Sunday", "people": 2}),
    ("Can I book for Saturday, 7 pm? We are 11. The name is Nora.", {"name": "Nora", "day": "Saturday", "people": 11}),
]  # fmt: skip


def messages(count, seed=0):
    """[(message, booking)]: templates, names and days in turn, numbers at random."""
    draw, made = random.Random(seed), []
    for k in range(count):
        people, hour = draw.randint(1, 12), draw.randint(5, 9)
        record = {"name": draw.choice(FIRST), "day": draw.choice(DAYS), "people": people}
        said = WORDS[people - 1] if draw.random() < 0.4 else str(people)
        made.append((TEMPLATES[k % len(TEMPLATES)].format(**{**record, "people": said}, hour=hour), record))
    return made


test = messages(budget.messages)
for message, record in test[:3]:
    print(message, record)

# %% [markdown]
# **The prompt alone.** Plain: "give me JSON with these keys". In the manner of the library Kor: the form described in TypeScript, then examples as turns of a conversation; what comes back is parsed, and may fail.

# %%
ASK = "Extract the booking from the message as JSON with the keys name, day and people. Answer with the JSON alone."
FORM = """Extract structured information from the user's message that matches the form below. Match the types exactly. Output JSON and nothing else.

```TypeScript
booking: { // A table booking
 name: string // The guest's first name
 day: "Monday" | "Tuesday" | "Wednesday" | "Thursday" | "Friday" | "Saturday" | "Sunday"
 people: number // How many people will come
}
```"""


def plain(message):
    return [{"role": "system", "content": ASK}, {"role": "user", "content": message}]


def like_kor(message):
    turns = [{"role": "system", "content": FORM}]
    for said, record in SHOTS:
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": json.dumps(record)}]
    return [*turns, {"role": "user", "content": message}]


# %% [markdown]
# All prompts of a kind begin alike. Read that beginning **once**, and copy its keys and values into the cache of each batch (a server would call it prefix caching):


# %%
@torch.inference_mode()
def extract(prompt, constraint=None, max_new=32, count=None, temperature=0.0):
    """The answer to each message: [(text, whether it ended, tokens)]. Greedy, or sampled at a temperature."""
    whole = [text.encode_prompt(tokenizer, prompt(message)) for message, _ in test[: count or len(test)]]
    common = next(k for k in range(len(whole[0])) if len({tuple(ids[: k + 1]) for ids in whole}) > 1 or k == len(whole[0]) - 1)
    draw, answers = torch.Generator(device).manual_seed(0), []
    for first in run.progress(range(0, len(whole), budget.batch), f"{prompt.__name__}, {'masked' if constraint else 'free'}"):
        rests = [ids[common:] for ids in whole[first : first + budget.batch]]
        longest, said, ended = max(map(len, rests)), [[] for _ in rests], [False] * len(rests)
        cache = primed(whole[0][:common], len(rests), longest + max_new)
        new_ids = torch.tensor([[END] * (longest - len(rest)) + rest for rest in rests], device=device)
        seen = torch.tensor([[1] * common + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests], device=device)
        for _ in range(max_new):
            logits = decoder.lm_head(decoder.hidden(new_ids, seen, cache)[:, -1]).float()
            if constraint:
                logits = constraint(logits, [ids + [END] * done for ids, done in zip(said, ended, strict=True)])
            new_ids = decoding.choose(logits / (temperature or 1), decoding.Sampling(temperature=temperature), draw)[:, None]
            for row, i in enumerate(new_ids[:, 0].tolist()):
                ended[row] = ended[row] or i == END
                said[row] += [] if ended[row] else [i]
            if all(ended):
                break
            seen = torch.cat([seen, torch.ones_like(new_ids)], 1)
        answers += [(tokenizer.decode(ids), done, len(ids)) for ids, done in zip(said, ended, strict=True)]
    return answers


def valid_record(record):
    """What jsonschema says, which knows nothing of our patterns."""
    return jsonschema.Draft202012Validator(BOOKING).is_valid(record)


def parsed(answer):
    """The answer as a record, if the whole of it is one that the schema allows; else None."""
    try:
        record = json.loads(answer)
    except json.JSONDecodeError:
        return None
    return record if valid_record(record) else None


def searched(answer):
    """The same for the first {...} in the answer, whatever stands around it."""
    found = re.search(r"\{.*?\}", answer, re.DOTALL)
    return parsed(found.group()) if found else None


mask = Constraint(booking)
WAYS = {  # prompt, mask, temperature, at most so many tokens, how the answer is read
    "plain": (plain, None, 0, budget.room, parsed),
    "plain, first {...}": (plain, None, 0, budget.room, searched),
    "like Kor": (like_kor, None, 0, 32, parsed),
    "plain + mask": (plain, mask, 0, 32, parsed),
    "like Kor + mask": (like_kor, mask, 0, 32, parsed),
    "like Kor, T 1": (like_kor, None, 1, 32, parsed),
    "like Kor + mask, T 1": (like_kor, mask, 1, 32, parsed),
}
said, outcome = {}, {}
for way, (prompt, constraint, temperature, most, read) in WAYS.items():
    key = (prompt, constraint, temperature)
    answers = said[key] = said.get(key) or extract(prompt, constraint, most, temperature=temperature)
    records = [read(answer) for answer, _, _ in answers]
    outcome[way] = {
        "answers": [answer for answer, _, _ in answers],
        "tokens": sum(n for _, _, n in answers) / len(answers),
        "valid": [record is not None for record in records],
        "right": [record == want for record, (_, want) in zip(records, test, strict=True)],
        **{key: [bool(r) and r[key] == want[key] for r, (_, want) in zip(records, test, strict=True)] for key in BOOKING["properties"]},
    }


def share(outcomes):
    """A share with its 95% interval, as text."""
    low, high = wilson(sum(outcomes), len(outcomes))
    return f"{sum(outcomes) / len(outcomes):.0%} [{low:.0%}, {high:.0%}]"


run.table(
    [(way, share(o["valid"]), share(o["right"]), share(o["name"]), share(o["day"]), share(o["people"]), f"{o['tokens']:.0f}") for way, o in outcome.items()],
    ("Way", "Valid", "Right", "name", "day", "people", "Tokens"),
    caption=f"{len(test)} messages, greedy where no temperature is named; share and 95% interval (Wilson)",
)  # fmt: skip

# %%
figure = go.Figure()
for measure, role in (("valid", "reference"), ("right", "chosen")):
    values = [sum(o[measure]) / len(test) for o in outcome.values()]
    bounds = [wilson(sum(o[measure]), len(test)) for o in outcome.values()]
    figure.add_bar(
        x=list(outcome), y=values, name=measure, marker_color=palette.colour(role),
        error_y={"type": "data", "symmetric": False, "array": [high - v for v, (_, high) in zip(values, bounds, strict=True)],
                 "arrayminus": [v - low for v, (low, _) in zip(values, bounds, strict=True)]},
    )  # fmt: skip
figure.update_layout(barmode="group", yaxis={"title": "share of messages", "tickformat": ".0%", "range": [0, 1.02]})
run.figure(figure, "Bars: share of valid and of right answers for each of seven ways, with 95% intervals.")

rows = []
for k in (0, 1, 2):
    rows += [(test[k][0] if way == "plain" else "", way, outcome[way]["answers"][k][:160]) for way in outcome if "{" not in way and "T 1" not in way]
run.table(rows, ("Message", "Way", "Answer"), caption="The first three messages")

# %% [markdown]
# Two different things happen. The prompt says what is wanted: with three examples even this small model keeps the form, as long as it is greedy, and the mask has nothing to do. The mask says what is possible: it gives the bare question a
# form that it never had, and holds it where sampling lets it slip. A valid record with the wrong number of people is worse than an error message, because nobody sees it: whoever adds a mask must still check values.
#
# ## Cut off in the middle
#
# `max_new_tokens` knows nothing of braces. With a small limit, a masked answer is the beginning of a valid record, which parses no better than prose. The automaton can do more: it knows, for each state, the **fewest tokens to the end**
# (a breadth-first search backwards through the index). Allow a token only if the rest of the limit is enough from where it leads, and every answer ends in time.

# %%
fewest = int(booking.distance[0])
ends, rows = {}, []
for most in (fewest, fewest + 1):
    for name, constraint in {"mask alone": Constraint(booking), "mask that counts": Constraint(booking, limit=most)}.items():
        answers = extract(like_kor, constraint, max_new=most, count=budget.cut)
        records = [parsed(answer) for answer, _, _ in answers]
        valid, right = [record is not None for record in records], [r == want for r, (_, want) in zip(records, test, strict=False)]
        ends[name, most] = valid, right
        rows.append((most, name, share(valid), share(right), answers[0][0]))
run.table(rows, ("Tokens at most", "Way", "Valid", "Right", "First answer"))

# %% [markdown]
# Every answer is valid. At the very limit it is worth little: the shortest record has room for a name of one token that also holds its closing quote, and the model takes what fits. One token more, and most names have room. A limit is a
# last resort, not a way to save tokens.
#
# ## What a mask does to probabilities
#
# Two answers are allowed to "What is 17 + 25?": `17` and `42`. There is one right way to choose among valid answers: take the model's distribution *given that the answer is valid*,
# $p(y\mid\text{valid})=p(y)/\sum_{y'\,\text{valid}}p(y')$. The mask does something else. It divides at **every step** by what is allowed there:
#
# $$q(y)=\prod_t\frac{p(y_t\mid y_{<t})}{A_t},\qquad A_t=\sum_{v\ \text{allowed}}p(v\mid y_{<t}),\qquad\text{so}\quad p(y\mid\text{valid})\propto q(y)\prod_t A_t .$$
#
# With few valid answers both are exact sums: walk every way through the automaton.


# %%
@torch.inference_mode()
def every_path(pattern, prompt):
    """[(text, log p, log q)] of every sequence of tokens that matches, its end token included; one batch a length."""
    automaton = TokenAutomaton(compile_regex(pattern), vocabulary)
    found, level = [], [((), 0, 0.0, 0.0)]
    while level:
        cache = primed(prompt[:-1], len(level), len(level[0][0]) + 1)
        ids = torch.tensor([[prompt[-1], *ids] for ids, *_ in level], device=device)
        all_logps = decoder.lm_head(decoder.hidden(ids, None, cache)[:, -1]).double().log_softmax(-1).cpu()
        following = []
        for (ids, state, log_p, log_q), logps in zip(level, all_logps, strict=True):
            allowed, targets = automaton.row(state)
            total = logps[torch.tensor(allowed)].logsumexp(0).item()
            for i, to in zip(allowed.tolist(), targets.tolist(), strict=True):
                path = ((*ids, i), to, log_p + logps[i].item(), log_q + logps[i].item() - total)
                if to == DONE:
                    found.append((tokenizer.decode(ids), path[2], path[3]))
                else:
                    following.append(path)
        level = following
    return found


def two_ways(pattern, prompt):
    """{text: (probability given that the answer is valid, probability under the mask)}, summed over spellings."""
    paths = every_path(pattern, prompt)
    log_valid = torch.tensor([log_p for _, log_p, _ in paths], dtype=torch.float64).logsumexp(0).item()
    result = {}
    for said_text, log_p, log_q in paths:
        exact, mask = result.get(said_text, (0.0, 0.0))
        result[said_text] = (exact + math.exp(log_p - log_valid), mask + math.exp(log_q))
    return result, math.exp(log_valid)


pair, pair_valid = two_ways("17|42", question)
steps = {}
for y in ("17", "42"):
    read = reader(question)
    for t, i in enumerate([question[-1], names[y[:1].encode()][0], names[y[1:].encode()][0]]):
        steps[y[:t]] = read(i).softmax(-1)
run.table(
    [
        (y, *(f"{steps[y[:t]][names[y[t].encode()][0] if t < 2 else END]:.2g}" for t in range(3)), f"{pair[y][1]:.1%}", f"{pair[y][0]:.1%}")
        for y in ("17", "42")
    ],
    ("Answer", "p(first digit)", "p(second digit)", "p(end)", "Under the mask", "Given that it is valid"),
    caption="Masking is greedy: it commits to a first digit before it knows what must follow",
)
wide, wide_valid = two_ways("[0-9]{1,2}", question)
distance = sum(abs(exact - mask) for exact, mask in wide.values()) / 2
print(f"all numbers of one or two digits: {len(wide)} answers, total variation distance {distance:.2f}; share of valid answers among all {wide_valid:.1e}")

# %% [markdown]
# The weights $\prod_t A_t$ are known after each answer, so the bias can be taken out: draw several answers under the mask, keep one with a chance in proportion to its weight (importance resampling). With more draws the
# distribution goes to the exact one. Grammar-aligned decoding (Park et al., 2024) learns the future mass of prefixes from earlier draws instead.

# %%
exact = torch.tensor([value[0] for value in wide.values()], dtype=torch.float64)
under_mask = torch.tensor([value[1] for value in wide.values()], dtype=torch.float64)
weights = exact / under_mask
generator = torch.Generator().manual_seed(0)
resampled = {}
for draws in (1, 4, 16, 64, 256):
    several = torch.multinomial(under_mask, 20_000 * draws, replacement=True, generator=generator).view(20_000, draws)
    kept = several.gather(1, torch.multinomial(weights[several], 1, generator=generator)).flatten()
    resampled[draws] = (torch.bincount(kept, minlength=len(exact)) / 20_000 - exact).abs().sum().item() / 2
print("total variation distance to the exact distribution:", {draws: round(value, 3) for draws, value in resampled.items()})

# %% [markdown]
# ## What a mask does to tokens
#
# **A lost space.** Tokens carry their leading space: after `The capital of France is` the model means `·Paris`, not `Paris`. A pattern without that space forbids all that it wanted to say.

# %%
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow",
    "Egypt": "Cairo", "Greece": "Athens", "Poland": "Warsaw", "Austria": "Vienna", "Portugal": "Lisbon", "Norway": "Oslo", "Sweden": "Stockholm",
    "Ireland": "Dublin", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi", "Iran": "Tehran", "Iraq": "Baghdad", "Turkey": "Ankara",
    "Canada": "Ottawa", "Hungary": "Budapest", "Finland": "Helsinki",
}  # fmt: skip
asked = dict(list(CAPITALS.items())[: budget.countries])
choice = "|".join(CAPITALS.values())
rows, capitals = [], {}
prompts = [tokenizer.encode(f"The capital of {country} is", add_special_tokens=False) for country in asked]
for name, allowed in {"(Paris|Rome|...)": f"({choice})", " (Paris|Rome|...)": f" ({choice})"}.items():
    constraint = constrain(vocabulary, allowed)
    answers = decoding.generate(model, prompts, 8, stop_id=END, processor=constraint)
    right = [tokenizer.decode(a.ids).strip() == capital for a, capital in zip(answers, asked.values(), strict=True)]
    fitting = constraint.automaton.mask(0)
    mass = [reader(ids)(ids[-1]).softmax(-1)[fitting].sum().item() for ids in prompts]
    capitals[name] = (sum(right) / len(right), sum(mass) / len(mass), right)
    rows.append((name, f"{capitals[name][1]:.2%}", share(right)))
run.table(rows, ("Allowed", "Mass of allowed first tokens", "Right"), caption=f"{len(asked)} countries")

# %% [markdown]
# **Strange spellings.** An automaton over bytes allows every way to cut a text into tokens, and leaves the choice to the model. A template that gives its fixed parts (`{"name": `) and its values (`"Ann"`) to the tokenizer one by one, or a
# constraint that works character by character, forces one. What do the forced ones cost? The log-probability of the *same right record*, cut in three ways, after the same prompt:


# %%
@torch.inference_mode()
def logprob(cache, last_id, ids):
    """log p(ids | what is in the cache, then last_id) in nats; the cache is left as it was."""
    length = cache.length
    logps = decoder(torch.tensor([[last_id, *ids[:-1]]], device=device), None, cache)[0].log_softmax(-1)
    cache.length = length
    return logps.gather(1, torch.tensor(ids, device=device)[:, None]).sum().item()


def encode(part):
    return tokenizer.encode(part, add_special_tokens=False)


SPELLINGS = {
    "as the tokenizer cuts it": encode,
    "template and values apart": lambda record: [i for part in re.split(r'("[^"]*"(?=[,}])|\d+)', record) if part for i in encode(part)],
    "one character at a time": lambda record: [names[bytes([byte])][0] for byte in record.encode()],
}  # fmt: skip
spelled = {way: [] for way in SPELLINGS}
pieces_used = {way: [] for way in SPELLINGS}
for message, record in run.progress(test[: budget.spellings], "scoring three spellings"):
    prompt_ids = text.encode_prompt(tokenizer, plain(message))
    cache = primed(prompt_ids[:-1], 1, 90)
    for way, cut_up in SPELLINGS.items():
        ids = cut_up(json.dumps(record))
        assert tokenizer.decode(ids) == json.dumps(record)
        spelled[way].append(logprob(cache, prompt_ids[-1], ids))
        pieces_used[way].append(len(ids))
means = {way: sum(values) / len(values) for way, values in spelled.items()}
run.table(
    [(way, f"{sum(pieces_used[way]) / len(pieces_used[way]):.1f}", f"{means[way]:.1f}") for way in SPELLINGS],
    ("The same record, cut", "Tokens", "Mean log-probability (nats)"),
)


def mean_gap(way):
    """Mean log-probability lost to the tokenizer's own cut, with its 95% interval (normal), in nats a record."""
    gaps = torch.tensor(spelled["as the tokenizer cuts it"]) - torch.tensor(spelled[way])
    half = 1.96 * gaps.std().item() / math.sqrt(len(gaps))
    return gaps.mean().item(), gaps.mean().item() - half, gaps.mean().item() + half


apart_gap, letters_gap = mean_gap("template and values apart"), mean_gap("one character at a time")
for way, (gap, low, high) in {"template and values apart": apart_gap, "one character at a time": letters_gap}.items():
    print(f"{way}: {gap:.1f} nats a record less likely, 95% interval [{low:.1f}, {high:.1f}]")

# %% [markdown]
# ## When nothing fits
#
# A schema that contradicts itself, a pattern with no match, a vocabulary without the needed bytes, a limit below the shortest answer: each must be told **before** anything is generated, not by a loop that finds every token forbidden.

# %%
FAULTS = {
    "lengths that exclude each other": lambda: schema_regex({"type": "object", "properties": {"name": {"type": "string", "minLength": 5, "maxLength": 3}}}),
    "a required property that is not there": lambda: schema_regex({"type": "object", "properties": {}, "required": ["day"]}),
    "no value to choose from": lambda: schema_regex({"enum": []}),
    "a schema that holds itself": lambda: schema_regex({"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}),
    "a keyword that is not covered": lambda: schema_regex({"type": "string", "format": "email"}),
    "a pattern without a match": lambda: compile_regex("a[^\\x00-\U0010ffff]"),
    "a vocabulary that cannot spell it": lambda: constrain(Vocabulary([b"a", b"b", None], 2), "a+x"),
    "a limit below the shortest answer": lambda: Constraint(booking, limit=5),
}  # fmt: skip
rows = []
for fault, attempt in FAULTS.items():
    try:
        attempt()
        rows.append((fault, "no error"))
    except ValueError as error:
        rows.append((fault, str(error)))
run.table(rows, ("What is wrong", "What is said"))
told = sum(said_so != "no error" for _, said_so in rows)

# %% [markdown]
# ## YAML
#
# Nothing above knows JSON but `schema_regex`. In the style "yaml" it writes one line for each property. Strings stay in quotes: a bare `no` is the boolean *false* to many readers.
#
# The prompt must follow. Below, the same mask for YAML behind two prompts: one still shows JSON examples, the other shows YAML.


# %%
def like_kor_yaml(message):
    turns = [{**turn, "content": turn["content"].replace("JSON", "YAML")} for turn in like_kor(message)]
    for turn, (_, record) in zip(turns[2::2], SHOTS, strict=True):
        turn["content"] = f'name: "{record["name"]}"\nday: "{record["day"]}"\npeople: {record["people"]}'
    return turns


in_yaml = constrain(vocabulary, BOOKING, style="yaml", limit=40)
yaml_right, yaml_name, yaml_valid, rows = {}, {}, True, []
for name, prompt in {"JSON examples": like_kor, "YAML examples": like_kor_yaml}.items():
    answers = [answer for answer, _, _ in extract(prompt, in_yaml, max_new=40, count=budget.yaml)]
    records = [yaml.safe_load(answer) for answer in answers]
    yaml_valid = yaml_valid and all(map(valid_record, records))
    yaml_right[name] = [record == want for record, (_, want) in zip(records, test, strict=False)]
    yaml_name[name] = [record["name"] == want["name"] for record, (_, want) in zip(records, test, strict=False)]
    rows.append((name, share(yaml_right[name]), share(yaml_name[name]), answers[0].replace("\n", " ↵ ")))
run.table(rows, ("Prompt", "Right", "Name right", "First answer"), caption="A mask for YAML; all answers are valid")
yaml_text = answers[0]

# %% [markdown]
# In JSON a string ends with the one token `",`. The YAML mask forbids it, and a model that has just seen JSON finds nothing better than to go on with the string: the comma, and more, land *inside* the name. Show examples in exactly the
# format that the mask allows.
#
# ## What the mask costs
#
# The index is built once. After that, a step looks up a state, and masks one row of logits. Beside it, the forward pass for one token.


# %%
def microseconds(step, repeats):
    """The median time of a step in microseconds, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1e6


answer_ids = encode(json.dumps(test[0][1]))
logits_one = torch.randn(1, len(tokens))
logits_many = torch.randn(32, len(tokens))
warm = Constraint(booking)
for t in range(len(answer_ids)):
    warm(logits_one, [answer_ids[:t]])
at = answer_ids[:5]
mask_one = microseconds(lambda: warm(logits_one, [at]), budget.repeats)
mask_many = microseconds(lambda: warm(logits_many, [at] * 32), max(3, budget.repeats // 10))


def forward_one():
    cache = decoder.cache(1, 64)
    decoder.hidden(torch.tensor([question[:40]], device=device), None, cache)

    def step():
        cache.length = min(len(question), 40)
        decoder(torch.tensor([[END]], device=device), None, cache)

    return step


with torch.inference_mode():
    forward_us = microseconds(forward_one(), max(3, budget.repeats // 20))
inside = booking.dfa.run('{"name": "')  # where most tokens fit, and must be read to their ends
brute_us = microseconds(lambda: [booking.dfa.run(token, inside) for token in written[::50]], 3) * 50
run.table(
    [
        ("mask, batch 1", f"{mask_one:,.0f}"),
        ("mask, batch 32", f"{mask_many:,.0f}"),
        ("forward pass of SmolLM2 for one token", f"{forward_us:,.0f}"),
        ("trying all tokens anew at each step, in plain Python", f"{brute_us:,.0f}"),
    ],
    ("Step", "Microseconds"),
    caption=f"The index of the booking: {booking.dfa.states} states, {build_seconds:.2f} s once",
)

# %% [markdown]
# ## As one would at work
#
# With Outlines: a Pydantic model for the schema, a wrapped transformers model, one call. It runs eagerly here; by default its mask is compiled at first use, which pays off on a GPU.

# %%
from typing import Literal

import outlines
from pydantic import BaseModel, Field


class Booking(BaseModel):
    name: str = Field(min_length=1, max_length=16)
    day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    people: int


torch.compiler.set_stance("force_eager")
generator_model = outlines.from_transformers(model, tokenizer)
extractor = outlines.Generator(generator_model, Booking)
at_work = []
for message, _ in run.progress(test[: budget.peer], "Outlines"):
    answer = extractor(text.chat(tokenizer, like_kor(message)), max_new_tokens=40, do_sample=False)
    at_work.append(json.loads(answer))
torch.compiler.set_stance("default")
same_records = sum(record == parsed(answer) for record, answer in zip(at_work, outcome["like Kor + mask"]["answers"], strict=False))
print(f"the same record as ours for {same_records} of {len(at_work)} messages; the first: {at_work[0]}")

# %% [markdown]
# ## Step by step
#
# The figure replays three answers on real numbers. Each bar is a token of the next-token list: what the model gave it, and what the mask leaves. Pull the penalty down from "forbidden": a finite penalty, such as a `logit_bias`, leaks.


# %%
def spelled_out(dfa, state):
    """What the automaton may read next, in a few characters."""
    follow = [byte for byte in range(256) if dfa.table[state, byte] >= 0]
    if len(follow) > 60:
        return "almost any character"
    parts, begin = [], None
    for byte, nxt in pairwise([*follow, 999]):
        begin = byte if begin is None else begin
        if nxt != byte + 1:
            parts.append(shown(bytes([begin])) if begin == byte else f"{shown(bytes([begin]))}-{shown(bytes([byte]))}")
            begin = None
    return "  ".join(parts) if parts else "nothing more"


def scene(name, title, message, prompt_ids, automaton):
    """One greedy answer under the mask, with the next-token list of each step."""
    steps, ids, state, read = [], [], 0, reader(prompt_ids)
    while state != DONE:
        probs = read(ids[-1] if ids else prompt_ids[-1]).softmax(-1)
        mask = automaton.mask(state)
        inside = probs.masked_fill(~mask, 0)
        best = int(inside.argmax())
        likely = inside.topk(min(6, int(mask.sum()))).indices.tolist()  # the likeliest that are allowed, then of all
        order = list(dict.fromkeys([*likely, *probs.topk(12).indices.tolist()]))[:12]
        order = sorted(order, key=lambda i: -probs[i].item())
        steps.append({
            "state": state,
            "may": spelled_out(automaton.dfa, state),
            "end": bool(automaton.dfa.accepting[state]),
            "allowed": int(mask.sum()),
            "mass": inside.sum().item(),
            "taken": order.index(best),
            "tokens": [{"text": "" if tokens[i] is None else tokens[i].decode(errors="replace"), "end": int(i == END), "p": probs[i].item(), "ok": int(mask[i])} for i in order],
        })  # fmt: skip
        ids.append(best)
        state = automaton.step(state, best)
    return {"name": name, "title": title, "message": message, "states": automaton.dfa.states, "steps": steps}


first = test[0][0]
scenes = [
    scene("plain", "A booking, the bare question", first, text.encode_prompt(tokenizer, plain(first)), booking),
    scene("booking", "A booking, examples in the prompt", first, text.encode_prompt(tokenizer, like_kor(first)), booking),
    scene("sum", "17 or 42?", "What is 17 + 25?", question, TokenAutomaton(compile_regex("17|42"), vocabulary)),
]
run.explorer(
    "grammar_mask",
    {
        "model": "SmolLM2-135M-Instruct",
        "vocabulary": len(tokens),
        "try": "Step through the bare question: at the first step the model wants a sentence. Then lower the penalty until its wish leaks through.",
        "scenes": scenes,
    },
    digits=6,
)

# %% [markdown]
# ## Results

# %%
N = len(test)
run.result("vocabulary", len(tokens), format=",")
run.result("pieces", len(pieces), format=",")
run.result("single_bytes", len(vocabulary.single))
run.result("coffee_tokens", len(coffee))
run.result("price_tokens", max(len(row) for row in index.values()))
run.result("digits_free", None, text=tokenizer.decode(free_answer.ids))
run.result("digits_masked", None, text=digits_answer)
run.result("digits_mass", digits_mass, format=".2%")
run.result("regex_characters", len(schema_regex(BOOKING)))
run.result("booking_states", booking.dfa.states)
run.result("build_seconds", build_seconds, format=".2f")
run.result("outlines_seconds", outlines_seconds, format=".2f")
run.result("pairs_compared", pairs_compared, format=",")
run.result("fewest", fewest)
run.result("messages", N)
for way, key in {"plain": "plain", "plain, first {...}": "searched", "like Kor": "kor", "plain + mask": "plain_mask", "like Kor + mask": "kor_mask", "like Kor, T 1": "kor_hot", "like Kor + mask, T 1": "kor_mask_hot"}.items():
    run.result(f"{key}_valid", None, text=share(outcome[way]["valid"]))
    run.result(f"{key}_right", None, text=share(outcome[way]["right"]))
    run.result(f"{key}_name", sum(outcome[way]["name"]) / N, format=".0%")
    run.result(f"{key}_day", sum(outcome[way]["day"]) / N, format=".0%")
    run.result(f"{key}_people", sum(outcome[way]["people"]) / N, format=".0%")
    run.result(f"{key}_tokens", outcome[way]["tokens"], format=".0f")
plain_gain = paired_difference(outcome["plain, first {...}"]["right"], outcome["plain + mask"]["right"])
kor_gain = paired_difference(outcome["like Kor, T 1"]["right"], outcome["like Kor + mask, T 1"]["right"])
shots_gain = paired_difference(outcome["plain + mask"]["right"], outcome["like Kor + mask"]["right"])
for key, (gain, low, high) in {"plain_gain": plain_gain, "kor_gain": kor_gain, "shots_gain": shots_gain}.items():
    run.result(key, None, text=f"{100 * gain:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]".replace("-", "−"))
run.result("example_message", None, text=test[0][0])
for key, way in {"example_plain": "plain", "example_kor_mask": "like Kor + mask"}.items():
    said_first = " ".join(outcome[way]["answers"][0].split())
    run.result(key, None, text=said_first if len(said_first) < 72 else said_first[:70] + " …")
for key, most in {"tight": fewest, "loose": fewest + 1}.items():
    run.result(f"{key}_cut_valid", None, text=share(ends["mask alone", most][0]))
    run.result(f"{key}_fitted_valid", None, text=share(ends["mask that counts", most][0]))
    run.result(f"{key}_fitted_right", None, text=share(ends["mask that counts", most][1]))
for y in ("17", "42"):
    run.result(f"p_{y}_first", steps[""][names[y[:1].encode()][0]], format=".2g")
    run.result(f"p_{y}_second", steps[y[:1]][names[y[1:].encode()][0]], format=".2g")
    run.result(f"p_{y}_end", steps[y][END], format=".2g")
    run.result(f"mask_{y}", pair[y][1], format=".1%")
    run.result(f"valid_{y}", pair[y][0], format=".1%")
run.result("two_digits", len(wide))
run.result("distortion", distance, format=".2f")
for draws, value in resampled.items():
    run.result(f"resampled_{draws}", value, format=".2f")
for key, name in {"bare": "(Paris|Rome|...)", "spaced": " (Paris|Rome|...)"}.items():
    run.result(f"capitals_{key}_mass", capitals[name][1], format=".2%")
    run.result(f"capitals_{key}_right", None, text=share(capitals[name][2]))
run.result("countries", len(asked))
run.result("spelled_tokens", sum(pieces_used["as the tokenizer cuts it"]) / len(pieces_used["as the tokenizer cuts it"]), format=".0f")
run.result("letters_tokens", sum(pieces_used["one character at a time"]) / len(pieces_used["one character at a time"]), format=".0f")
for key, (gap, low, high) in {"apart_gap": apart_gap, "letters_gap": letters_gap}.items():
    run.result(key, None, text=f"{gap:.1f} nats [{low:.1f}, {high:.1f}]".replace("-", "−"))
run.result("yaml", None, text=yaml_text.replace("\n", " ↵ "))
run.result("yaml_with_json", None, text=share(yaml_name["JSON examples"]))
run.result("yaml_with_yaml", None, text=share(yaml_name["YAML examples"]))
run.result("mask_us", mask_one, format=".0f")
run.result("mask_many_us", mask_many / 32, format=".0f")
run.result("forward_ms", forward_us / 1000, format=".1f")
run.result("mask_share", mask_one / forward_us, format=".2%")
run.result("brute_ms", brute_us / 1000, format=".0f")
run.result("peer_same", None, text=f"{same_records} of {len(at_work)}")

# %%
finished = [json.loads(answer) for (_, used, _), answers in said.items() if used for answer, done, _ in answers if done]
run.claim("every answer under the mask that ended is valid", all(valid_record(record) for record in finished))
run.claim("with examples in the prompt and the mask, at least 95 of 100 answers are valid", sum(outcome["like Kor + mask"]["valid"]) >= 0.95 * N)
run.claim("the mask makes the bare question's answers valid more often", sum(outcome["plain + mask"]["valid"]) > sum(outcome["plain, first {...}"]["valid"]))
run.claim("sampled at temperature 1, the form slips without the mask", sum(outcome["like Kor, T 1"]["valid"]) < 0.85 * sum(outcome["like Kor + mask, T 1"]["valid"]))
run.claim("valid is not right: under the mask the bare question is right far less often than it is valid",
          sum(outcome["plain + mask"]["right"]) < 0.9 * sum(outcome["plain + mask"]["valid"]))  # fmt: skip
run.claim("the mask that counts ends in time, always", all(all(valid) for (name, _), (valid, _) in ends.items() if name == "mask that counts"))
run.claim("ours and Outlines allow the same tokens in every state of every schema", differences == 0)
run.claim("two ways to choose: the mask prefers 17 far more than conditioning does", pair["17"][1] > 1.5 * pair["17"][0])
run.claim("under the mask and given validity differ", distance > 0.1)
run.claim("resampling goes to the exact distribution", resampled[256] < resampled[1] / 4)
run.claim("without the leading space less than a tenth of the probability is left", capitals["(Paris|Rome|...)"][1] < 0.1 * capitals[" (Paris|Rome|...)"][1])
run.claim("one character at a time costs many nats", letters_gap[1] > 10)
run.claim("all eight faults are told before anything is generated", told == len(FAULTS))
run.claim("every YAML answer is read and valid", yaml_valid)
run.claim("with examples in the mask's own format no fewer names are right", sum(yaml_name["YAML examples"]) >= sum(yaml_name["JSON examples"]))
run.claim("a mask costs less than a twentieth of a forward pass", mask_one < forward_us / 20)
run.claim("Outlines extracts the same record in at least five of six messages", same_records >= 5 / 6 * len(at_work))
run.finish()

# %% [markdown]
# ## Exercises
#
# Replace each `...`. `check` says what is wrong, and keeps the solution one click away.
#
# **1. Allowed tokens** (difficulty 1, 6 minutes). `table[state]` is a dictionary from characters to next states, `tokens` a list of strings. Which token ids are allowed in `state`?


# %%
def my_allowed(table, tokens, state): ...


check("structured_generation.allowed", my_allowed)

# %% [markdown]
# **2. An optional property** (difficulty 2, 8 minutes). A pattern for an object with a string `item` of lower-case letters (at least one), then a whole number `count` from 0 up, which may be missing. Spaces as
# `json.dumps` writes them.

# %%
my_pattern = ...

check("structured_generation.pattern", my_pattern)

# %% [markdown]
# **3. The way to the end** (difficulty 2, 10 minutes). `index[state]` is a dictionary from token ids to next states. For each state: the fewest tokens to the end, the end token counted; `float("inf")` where there is no way.


# %%
def my_fewest(index, accepting): ...


check("structured_generation.fewest", my_fewest)

# %% [markdown]
# **4. Spellings** (difficulty 2, 10 minutes). How many sequences of tokens spell a text? (With all pieces of `banana` as tokens there are many.)


# %%
def my_spellings(string, tokens): ...


check("structured_generation.spellings", my_spellings)

# %% [markdown]
# **5. Given that it is valid** (difficulty 2, 6 minutes). Each answer is a list of pairs, one for each step: the probability of its token, and that of all tokens allowed there. Give each answer's probability
# *given that the answer is one of these*.


# %%
def my_given_valid(answers): ...


check("structured_generation.given_valid", my_given_valid)
