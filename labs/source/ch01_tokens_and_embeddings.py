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
# # Tokens and embeddings, in and out
#
# A language model reads whole numbers and writes a number for each whole number. Here you build what stands on both sides of it: the
# tokenizer, byte by byte and merge by merge, until it equals the one of a real model on any text; the embedding matrix that turns ids into
# vectors; and the same matrix again, which turns the last vector into logits. And you see what goes wrong at both doors.
#
# - **You will** train byte-level BPE in the open and hold it against the `tokenizers` library, merge by merge; encode Chinese, code, emoji and
#   broken text as SmolLM2 does; train models on five vocabularies at equal compute; find tokens that SmolLM2 never learned; look
#   at neighbours in its embedding matrix; take its output layer apart.
# - **Time:** about 3 minutes on a CPU with two cores.
#
# **Sections:** 1.1.2, 1.1.3

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
# ## A text is bytes
#
# A computer keeps a character as a number, its code point, and writes the code point as one to four bytes (UTF-8). There are 256 bytes, so a
# vocabulary of 256 tokens can write every text there is. That is where byte-level BPE begins.

# %%
import json
import math
import random
import unicodedata
from collections import Counter
from itertools import pairwise
from pydoc_data.topics import topics

import plotly.graph_objects as go
import regex
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Peer
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers import models as peer_models
from transformers import PreTrainedTokenizerFast

from alignlab import bpe, compute, lab, models, palette, text
from alignlab.exercises import check
from alignlab.explorers import smollm2_merges
from alignlab.rl.curves import band
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # the networks trained here are too small to be worth sharing between cores
run = lab.Lab("ch01_tokens_and_embeddings")
budget = run.budget(
    full=dict(random_texts=3000, merges=150, seeds=3, flops=2e11, look=1, glitches=24, words=2000, positions=640),
    quick=dict(random_texts=200, merges=20, seeds=1, flops=1e9, look=16, glitches=3, words=100, positions=64),
)  # fmt: skip
compute.seed(0)

run.table(
    [
        (character, f"U+{ord(character):04X}", " ".join(f"{byte:02X}" for byte in character.encode()))
        for character in "Aé你😀"
    ],
    ("Character", "Code point", "Bytes in UTF-8"),
)

# %% [markdown]
# ## Learning the merges
#
# 256 tokens would do, but a token a byte is slow: a model pays for each. **Byte-pair encoding** grows the vocabulary by the commonest pair of
# neighbours, again and again. First the text is cut into **pieces**, which no token may cross: a word with the space before it, a number, a
# run of signs. GPT-2's pattern does that. SmolLM2's tokenizer uses it too, after a rule of its own: each digit is cut off first.

# %%
SMALL_TEXT = "are you there? where are you? were you here?"
learner = bpe.Tokenizer({bytes([byte]): i for i, byte in enumerate(bpe.ALPHABET)}, [])  # 256 bytes, no merge yet
print(learner.pieces(SMALL_TEXT))


def learn(texts, how_many):
    """Sennrich's algorithm 1 in the open: count all pairs, join the commonest, count again. Slow, and plain."""
    words = Counter(piece for text in texts for piece in learner.pieces(text))
    words = {tuple(piece.encode()[i : i + 1] for i in range(len(piece.encode()))): n for piece, n in words.items()}
    id_of = {bytes([byte]): i for i, byte in enumerate(bpe.ALPHABET)}
    merges = []
    for _ in range(how_many):
        pairs = Counter()
        for symbols, times in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], id_of[pair[0]], id_of[pair[1]]))  # ties: the smaller ids
        merges.append((best, pairs[best]))
        id_of.setdefault(best[0] + best[1], len(id_of))
        words = {join(symbols, best): times for symbols, times in words.items()}
    return merges


def join(symbols, pair):
    """Replace each occurrence of the pair, from left to right."""
    joined = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)


first_merges = learn([SMALL_TEXT], 7)
run.table(
    [(k + 1, bpe.written(a), bpe.written(b), bpe.written(a + b), times) for k, ((a, b), times) in enumerate(first_merges)],
    ("Merge", "Left", "Right", "New token", "Occurrences"),
    caption="Ġ stands for a space: how tokenizer files write it",
)  # fmt: skip

# %% [markdown]
# Seven merges, and `there`, `where` and `here` share a token. Nobody told the algorithm about words or letters; counting did it.
#
# Now a real text: the manual of the Python language, which lies on every machine that has Python. One document in ten is held out. The library's
# `bpe.train` keeps its counts up to date instead of counting anew. Is it the same algorithm? And is it what the `tokenizers` library
# does, which is written in Rust and trains most tokenizers that you will meet?

# %%
names = sorted(topics)
held_out = [topics[name] for name in names[::10]]
documents = [topics[name] for name in names if topics[name] not in held_out]
size = sum(len(document.encode()) for document in documents)
print(f"{len(documents)} documents of {size:,} bytes, {len(held_out)} held out")


def peer_train(texts, vocabulary):
    """The same by the tokenizers library."""
    peer = Peer(peer_models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    peer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    return peer


LARGEST = 4096
in_the_open = [pair for pair, _ in learn(documents[:20], budget.merges)]
quick_way = bpe.train(documents[:20], 256 + budget.merges)
ours = bpe.train(documents, LARGEST)
peer = peer_train(documents, LARGEST)
theirs = bpe.Tokenizer.from_json(json.loads(peer.to_str()))
same_in_the_open = in_the_open == quick_way.merges[: len(in_the_open)]
same_merges = ours.merges == theirs.merges and ours.vocabulary == theirs.vocabulary
same_ids = all(ours.encode(text) == peer.encode(text).ids for text in held_out)
print(f"in the open = bpe.train: {same_in_the_open}; all {len(ours.merges):,} merges = tokenizers: {same_merges}; ids of held-out text: {same_ids}")  # fmt: skip
run.table(
    [(rank + 1, " ".join(map(bpe.written, ours.merges[rank])), ours.tokens[256 + rank].decode(errors="replace").replace(" ", "·").replace("\n", "↵")) for rank in (0, 1, 2, 9, 99, len(ours.merges) // 2, len(ours.merges) - 1)],
    ("Merge", "Pair", "Token"),
    caption="What was learned first, and what last",
)  # fmt: skip

# %% [markdown]
# ## Encoding: the lowest rank first
#
# To encode, forget the counts. The merges are a list, and a merge's place in it is its **rank**. Take the pair of the lowest rank, join it, look
# again. Below, that in six lines, with the 48,900 merges of SmolLM2. Its text is cut twice before that: by its rule for digits, and what that leaves by GPT-2's pattern.

# %%
model, tokenizer = models.load("small")
device = next(model.parameters()).device
described = json.loads(tokenizer.backend_tokenizer.to_str())
smollm2 = bpe.Tokenizer.from_json(described)
print("cut by:", " and then by ".join(smollm2.patterns))


def encode_piece(piece, rank):
    """[(symbols, rank of the merge that made them)], from single bytes to tokens."""
    symbols, states = [piece[i : i + 1] for i in range(len(piece))], []
    states.append((list(symbols), None))
    while known := [(rank[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in rank]:
        best, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        states.append((list(symbols), best))
    return states


WORD = " strawberries"
word_states = encode_piece(WORD.encode(), smollm2.rank)
run.table(
    [(" ".join(map(bpe.written, symbols)), "" if rank is None else f"{rank + 1:,}") for symbols, rank in word_states],
    (f"The piece {WORD!r}", "by merge"),
)
for question in ("Who are you?", "What is 17 + 25?"):
    ids = smollm2.encode(question)
    print(question, "->", [smollm2.decode([i]) for i in ids], "->", ids)

# %% [markdown]
# ### Is it SmolLM2's tokenizer, on any text?
#
# Random strings find what polite examples do not: letters of all scripts, control characters, spaces of many widths, special tokens in the middle,
# emoji made of several code points. For each, ids and decoded text must equal those of the `tokenizers` library.

# %%
UNUSUAL = {
    "English": "The quick brown fox jumps over the lazy dog.",
    "Chinese": "你是谁?十七加二十五等于多少?",
    "Hindi": "तुम कौन हो?",
    "Emoji": "👩‍👩‍👧‍👦 🇨🇳 😀",
    "Python": "def f(x):\n        return x ** 2  # squared",
    "Numbers": "3.14159 1234567890 17+25=42",
    "Web address": "https://docs.python.org/3/library/re.html",
    "Base64": "SGVsbG8sIHdvcmxkIQ==",
    "Accents, two ways": "café = cafe\u0301",
}
generator = random.Random(0)
SAMPLERS = [
    lambda: generator.choice("abc etaoin  \n\t.,'s'll 0123456789()-_ĠĊ"),
    lambda: chr(generator.randint(0x80, 0x7FF)),
    lambda: chr(generator.choice([generator.randint(0x800, 0xD7FF), generator.randint(0xE000, 0xFFFD)])),
    lambda: chr(generator.randint(0x10000, 0x1FAFF)),
    lambda: generator.choice(["<|im_start|>", "<|im_end|>", "the", " and", "\r\n", "  ", "\u3000", "\u200d", "\ufeff", "\x85", "\x1c"]),
]  # fmt: skip
trials = list(UNUSUAL.values()) + [  # of characters that Python's edition of Unicode knows: editions differ
    "".join(c for _ in range(generator.randint(0, 30)) if unicodedata.category((c := generator.choice(SAMPLERS)())[0]) != "Cn")
    for _ in range(budget.random_texts)
]  # fmt: skip
library = tokenizer.backend_tokenizer
ids_equal = sum(
    smollm2.encode(trial, missing="drop") == library.encode(trial, add_special_tokens=False).ids for trial in trials
)
texts_equal = 0
for trial in trials:
    ids = library.encode(trial, add_special_tokens=False).ids
    cut = ids[: len(ids) // 2]  # half of the ids: the last character may be cut in two
    texts_equal += smollm2.decode(cut) == library.decode(cut, skip_special_tokens=False)
print(f"of {len(trials):,} texts, {ids_equal:,} have equal ids and {texts_equal:,} decode equally")


def counted(sample):
    data, ids = sample.encode(), smollm2.encode(sample)
    shown = [bpe.written(smollm2.tokens[i]) for i in ids]
    return len(sample), len(data), len(ids), f"{len(data) / len(ids):.2f}", " ".join(shown[:14]) + (" …" if len(ids) > 14 else "")  # fmt: skip


run.table(
    [(name, *counted(sample)) for name, sample in UNUSUAL.items()],
    ("Text", "Characters", "Bytes", "Tokens", "Bytes a token", "Its tokens, as the file writes them"),
)

# %% [markdown]
# Look at the last row. The two spellings of *café* look the same and share no token (the second also carries its space): in one, é is one code point, in the other an e and an
# accent. Byte-level BPE sees bytes. A search, a filter or a cache that compares token ids takes them for different words.
#
# ## The same sentence costs more in other languages
#
# The first article of the Universal Declaration of Human Rights, its first sentence, in ten languages. SmolLM2's merges were learned mostly from English.

# %%
ARTICLE = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
lengths = {language: len(smollm2.encode(sentence)) for language, sentence in ARTICLE.items()}
premium = {language: n / lengths["English"] for language, n in lengths.items()}
run.table(
    [(language, len(ARTICLE[language]), len(ARTICLE[language].encode()), n, f"{premium[language]:.1f}") for language, n in lengths.items()],
    ("Language", "Characters", "Bytes", "Tokens", "Times the English"),
    caption="The price in tokens: of context, of time, and of money where tokens are billed",
)  # fmt: skip

# %% [markdown]
# ## How large should a vocabulary be?
#
# A larger vocabulary makes texts shorter, so a step of training sees more text. But each token costs a row of the embedding matrix and a column
# of the output layer, and each is seen less often. What is best depends on how much compute there is. So let us spend the same: five vocabularies, from
# bytes to 4,096 tokens, the same two layers of width 64, and **the same number of floating-point operations**, $6ND$ for $N$ parameters and $D$ tokens.
#
# Losses per token cannot be compared, since tokens differ in length. **Bits per byte** can: all nats that the held-out text costs, in bits, over its bytes.

# %%
VOCABULARIES = (256, 512, 1024, 2048, 4096)
WIDTH, LAYERS, HEADS, CONTEXT, ROWS = 64, 2, 4, 128, 8


def smaller(V):
    """The tokenizer that training stops at with V tokens: its merges are the first ones of the larger vocabulary."""
    return bpe.Tokenizer({token: i for token, i in ours.vocabulary.items() if i < V}, ours.merges[: V - 256])


tokenizers = {V: smaller(V) for V in VOCABULARIES}
streams = {
    V: [torch.tensor([i for document in part for i in one.encode(document)]) for part in (documents, held_out)]
    for V, one in tokenizers.items()
}
bytes_a_token = {V: size / len(streams[V][0]) for V in tokenizers}


def windows(ids, starts):
    return ids[starts[:, None] + torch.arange(CONTEXT + 1)]  # (B, T + 1)


@torch.no_grad()
def bits_per_byte(network, V, every=1):
    """Of the held-out text: windows that overlap by half, in which the second half is scored; each, or every so many."""
    ids, half = streams[V][1], CONTEXT // 2
    batch = windows(ids, torch.arange((len(ids) - CONTEXT - 1) // half) * half)[:: every * budget.look]
    nats = 0.0
    for rows in batch.split(64):
        logits = network(rows[:, :-1])[:, half:]
        nats += F.cross_entropy(logits.flatten(0, 1), rows[:, half + 1 :].flatten(), reduction="sum").item()
    scored = batch[:, half + 1 :].flatten().tolist()
    return nats / math.log(2) / len(tokenizers[V].decode_bytes(scored))


def pretrain(V, seed):
    """At eight places on the way: the share of the operations spent, bits per byte, parameters, steps in all."""
    torch.manual_seed(seed)
    network = Transformer(Config(V, WIDTH, 176, LAYERS, HEADS, HEADS, WIDTH // HEADS, max_position_embeddings=CONTEXT)).initialize(0.05)  # fmt: skip
    parameters = sum(p.numel() for p in network.parameters())
    steps = max(8, round(budget.flops / (6 * parameters * ROWS * CONTEXT)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.01)
    looks, ids = [], streams[V][0]
    for step in range(steps):
        rate = 4e-3 * min(1.0, (step + 1) / 20) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = rate
        batch = windows(ids, torch.randint(0, len(ids) - CONTEXT - 1, (ROWS,)))
        loss = F.cross_entropy(network(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) * 8 // steps > len(looks):
            looks.append(bits_per_byte(network, V, every=1 if step + 1 == steps else 8))
            yield (step + 1) / steps, looks[-1], parameters, steps


roles = dict(zip(VOCABULARIES, ("reference", "prompt", "value", "policy", "reward"), strict=False))
curve = run.curve("Held-out bits per byte, seed 0", "share of the operations", "bits per byte", {f"V = {V:,}": roles[V] for V in VOCABULARIES})  # fmt: skip
history, counted_parameters, counted_steps = {}, {}, {}
jobs = [(V, seed) for seed in range(budget.seeds) for V in VOCABULARIES]
for V, seed in run.progress(jobs, "training on five vocabularies", curve=curve):
    for share, bits, parameters, steps in pretrain(V, seed):
        history.setdefault((V, seed), []).append(bits)
        counted_parameters[V], counted_steps[V] = parameters, steps
        if seed == 0:
            curve.add(f"V = {V:,}", share, bits)
final = {V: [history[V, seed][-1] for seed in range(budget.seeds)] for V in VOCABULARIES}
mean_bits = {V: sum(bits) / len(bits) for V, bits in final.items()}
run.table(
    [(f"{V:,}", f"{bytes_a_token[V]:.2f}", f"{counted_parameters[V]:,}", f"{V * WIDTH / counted_parameters[V]:.0%}", f"{counted_steps[V] * ROWS * CONTEXT * bytes_a_token[V] / 1e6:.2f} MB", f"{mean_bits[V]:.3f}", " to ".join(f"{f(final[V]):.3f}" for f in (min, max))) for V in VOCABULARIES],
    ("Vocabulary", "Bytes a token", "Parameters", "in the embedding", "Text seen", "Bits per byte", "range over seeds"),
    caption="Same layers, same number of operations",
)  # fmt: skip
best_V = min(mean_bits, key=mean_bits.get)
spread = max(max(bits) - min(bits) for bits in final.values())  # the most that seeds differ
fig = go.Figure()
band(fig, list(mean_bits), [[final[V][seed] for V in mean_bits] for seed in range(budget.seeds)], "held-out text")
fig.update_layout(
    title="Equal operations, five vocabularies", xaxis_title="vocabulary", yaxis_title="bits per byte", showlegend=False
)
fig.update_xaxes(type="log", tickvals=list(mean_bits), ticktext=[f"{V:,}" for V in mean_bits])
run.figure(fig, "Bits per byte against the size of the vocabulary, with the range over seeds.")

# %% [markdown]
# Bytes are far behind. The first merges gain most; from 1,024 tokens to 4,096 the gain is no larger than what a seed changes. Two forces pull. Upwards:
# each step sees more text, and each prediction looks further back. Downwards: at 4,096 nearly three quarters of the parameters, and of the operations, sit in
# the embedding, and rare tokens are seen a few times only. With more compute the best point moves up, which is why SmolLM2 can afford 49,152, and larger
# models more.
#
# ## Four ways to lose at the input door
#
# ### 1. A space at the end
#
# In the text ` Paris`, the space belongs to the token. A prompt that ends in a space has taken it away.


# %%
@torch.inference_mode()
def next_logprobs(ids):
    """log p of the next token, (V,), in float32."""
    return model(torch.tensor([ids], device=device)).logits[0, -1].float().log_softmax(-1).cpu()


PROMPT, ANSWER = "The capital of France is", "Paris"
plain, spaced = next_logprobs(smollm2.encode(PROMPT)), next_logprobs(smollm2.encode(PROMPT + " "))
paris_plain = plain[smollm2.encode(" " + ANSWER)[0]].exp().item()
paris_spaced = spaced[smollm2.encode(ANSWER)[0]].exp().item()
digits = [smollm2.vocabulary[str(digit).encode()] for digit in range(10)]
digit_share = spaced[digits].exp().sum().item()
print(f"P(' Paris') without the space {paris_plain:.1%}; P('Paris') after it {paris_spaced:.3%}; P(a digit) after it {digit_share:.1%}")  # fmt: skip

# %% [markdown]
# After the lone space the model is all but sure that a **digit** comes. Why? In SmolLM2's vocabulary every word carries its space with it. A digit never
# does, since it is cut off first. So in its training text a space of its own stood before digits, and before hardly anything else.
#
# ### 2. A byte without a token
#
# Byte-level BPE can write any text, *if* all 256 bytes are in the vocabulary. SmolLM2's holds those that occurred when it was made.

# %%
missing_bytes = [byte for byte in range(256) if bytes([byte]) not in smollm2.vocabulary]
possible = [
    byte for byte in missing_bytes if byte not in (0xC0, 0xC1, *range(0xF5, 0x100))
]  # the others never occur in UTF-8
strange = "one\x04two"
silently = library.decode(library.encode(strange).ids, skip_special_tokens=False)
try:
    smollm2.encode(strange)
except ValueError as error:
    told = str(error)
try:
    smollm2.encode("Straße".encode("latin-1"))
except ValueError as error:
    not_utf8 = str(error)
print(f"{len(missing_bytes)} bytes have no token, {len(possible)} of them occur in UTF-8")
print(f"tokenizers, there and back: {strange!r} -> {silently!r}\nours: {told}\nbytes in another encoding: {not_utf8}")

# %% [markdown]
# ### 3. A tokenizer that is nearly the right one
#
# The file that SmolLM2 comes in (GGUF) holds the merges. How text is cut before merging, it says with a single word: `tokenizer.ggml.pre = smollm`. Whoever reads the
# file must know what the word means: each digit is cut off first, and GPT-2's pattern cuts the rest. When transformers turns the file into a tokenizer.json, it takes the
# merges and drops the word, and what it makes has GPT-2's pattern alone. `models.load` puts the rule back. Here is the plain conversion, built by hand, beside what is loaded:
# the same vocabulary, the same merges, one rule less. And the rule itself, in the open.

# %%
converted = bpe.Tokenizer(smollm2.vocabulary, smollm2.merges, smollm2.special, (bpe.GPT2,))  # the rule is dropped
print("the loaded tokenizer's file says:", [part["type"] for part in described["pre_tokenizer"]["pretokenizers"]])


def digits_first(sample):
    """The rule in the open: each digit by itself, each stretch between digits by itself, and all ids in a row."""
    parts = regex.split(r"(\p{N})", sample)
    return [i for part in parts for i in converted.encode(part, missing="drop")]


loaded_ids = [smollm2.encode(trial, missing="drop") for trial in trials]
rule_agrees = all(digits_first(trial) == ids for trial, ids in zip(trials, loaded_ids, strict=True))
other = [trial for trial, ids in zip(trials, loaded_ids, strict=True) if converted.encode(trial, missing="drop") != ids]
common = [trial for trial in other if not regex.search(r"[^\P{N}0-9]", trial)]  # with no other digits than 0 to 9
after_spaces = all(regex.search(r"\s\s[0-9]", trial) for trial in common)
other_documents = sum(converted.encode(one, missing="drop") != smollm2.encode(one, missing="drop") for one in held_out)
AWKWARD = ("What is 17 + 25?", "1. One\n2. Two", "Tips:\n\n1. Sleep.", "  42", "a  7", "add ½ cup")
run.table(
    [(sample.replace(" ", "·").replace("\n", "↵"), *(" ".join(bpe.written(one.tokens[i]) for i in one.encode(sample)) for one in (converted, smollm2))) for sample in AWKWARD],
    ("Text", "Tokens after the plain conversion", "Tokens of the published tokenizer"),
    caption="Ġ is a space, Ċ a line break, Â½ the two bytes of ½",
)  # fmt: skip
print(f"the rule in the open = the loaded tokenizer: {rule_agrees}")
print(f"other ids: {len(other)} of {len(trials):,} random texts, {other_documents} of {len(held_out)} documents of the manual; where digits are 0 to 9, always after two white-space characters: {after_spaces}")  # fmt: skip

# %% [markdown]
# Most texts have the same ids under both, so a short test finds nothing. They part where two or more spaces or line breaks stand before a digit: GPT-2's pattern leaves the last
# of them to what follows, and the rule does not, since the digit is already gone. (And at signs like ½, which are numbers, too.) A numbered list after a blank line has such a place. What does the model make of it?

# %%
LIST = (
    "Here are three tips for better sleep:\n\n1. Go to bed at the same time every day.\n\n2. Keep the room dark and "
    "cool.\n\n3. Do not drink coffee in the evening."
)


@torch.inference_mode()
def nats(ids):
    """What the tokens after the first cost."""
    logits = model(torch.tensor([ids], device=device)).logits[0, :-1].float()
    return F.cross_entropy(logits, torch.tensor(ids[1:], device=device), reduction="sum").item()


list_ids = {"plain conversion": converted.encode(LIST), "published": smollm2.encode(LIST)}
list_nats = {name: nats(ids) for name, ids in list_ids.items()}
until_one = {name: ids[: ids.index(smollm2.vocabulary[b"1"])] for name, ids in list_ids.items()}
one = smollm2.vocabulary[b"1"]
p_one = {name: next_logprobs(ids)[one].exp().item() for name, ids in until_one.items()}
run.table(
    [(name, " ".join(bpe.written(smollm2.tokens[i]) for i in until_one[name][-3:]), len(list_ids[name]), f"{list_nats[name]:.1f}", f"{p_one[name]:.1%}") for name in list_ids],
    ("Tokenizer", "The tokens before 1.", "Tokens of the list", "Its cost (nats)", "P(1) there"),
)  # fmt: skip

# %% [markdown]
# The same characters and the same model. With the cut that it was trained on it is all but sure of its `1`; with the other it finds it absurd. Nothing warns you: every id is a valid one, and the
# text decodes as it should. **Compare ids with the published tokenizer on awkward text** (several spaces, blank lines, digits, code) whenever a model has been converted.
#
# ### 4. Tokens that were never learned
#
# The tokenizer was made from one sample of text, the model trained on another. A token that was common in the first (a piece of generated code, say) and
# absent from the second has a row in the embedding matrix that training never moved on purpose. Which rows are these? Some special tokens are known to be unused;
# rows that lie where *they* lie are suspects. Here is the cosine of each row with the mean of ten unused special tokens.

# %%
E = model.get_input_embeddings().weight.detach().float().cpu()  # (V, d)
UNUSED = [smollm2.special[f"<{name}>"] for name in ("gh_stars", "issue_start", "issue_comment", "issue_closed", "jupyter_start", "jupyter_text", "jupyter_code", "jupyter_output", "jupyter_script", "empty_output")]  # fmt: skip
unit = F.normalize(E, dim=-1)
likeness = unit @ F.normalize(unit[UNUSED].mean(0), dim=0)  # (V,)
ordinary = [i for i in likeness.argsort(descending=True).tolist() if i not in smollm2.special.values()]
suspects = [i for i in ordinary if likeness[i] > 0.9]
print(f"{len(suspects)} ordinary tokens above 0.9, median of all {likeness.median():.2f}; the first: {[smollm2.decode([i]) for i in ordinary[:12]]}")  # fmt: skip

# %% [markdown]
# The test of Land and Bartolo (2024): ask the model to copy the token. Five examples of copying, then the suspect, beside tokens drawn at random.

# %%
EXAMPLES = [smollm2.encode(word)[0] for word in (" table", "ing", " Harold", " blue", "def")]


def copying(token):
    """Five tokens, each copied, then the one to copy."""
    ask, say = smollm2.encode("\nInput:"), smollm2.encode("\nOutput:")
    return [i for example in EXAMPLES for i in (*ask, example, *say, example)] + [*ask, token, *say]


@torch.inference_mode()
def copied(ids):
    """Probability of copying each token, and what the model says instead."""
    states = model.model(torch.tensor([copying(i) for i in ids], device=device)).last_hidden_state[:, -1]
    p = model.lm_head(states).float().softmax(-1).cpu()
    return p.gather(1, torch.tensor(ids)[:, None])[:, 0], p.argmax(-1)


drawn = torch.randint(300, len(E), (budget.glitches,), generator=torch.Generator().manual_seed(0)).tolist()
groups = {}
for name, ids in run.progress([("suspects", ordinary[: budget.glitches]), ("drawn at random", drawn)], "copying"):
    groups[name] = (ids, *copied(ids))
run.table(
    [(name, smollm2.decode([i]), f"{likeness[i]:.2f}", f"{p:.2%}", smollm2.decode([said])) for name, (ids, ps, says) in groups.items() for i, p, said in list(zip(ids, ps.tolist(), says.tolist(), strict=True))[:8]],
    ("Group", "Token", "Likeness", "P(copied)", "Likeliest instead"),
    caption="The first eight of each",
)  # fmt: skip
glitch_p, random_p = (groups[name][1].median().item() for name in ("suspects", "drawn at random"))
glitch_best = groups["suspects"][1].max().item()
print(
    f"median probability of a copy: suspects {glitch_p:.4%} (the highest {glitch_best:.1%}), random tokens {random_p:.1%}"
)

# %% [markdown]
# ## The embedding matrix
#
# A token's id is a row number, nothing more. The input layer takes that row of $E$, of shape $(V,d)$: a table lookup, which is the same as a one-hot vector times
# the matrix, only that nobody multiplies by zeros. In SmolLM2 the same matrix comes back as the output layer.

# %%
ids = torch.tensor([text.encode_prompt(tokenizer, "Who are you?")], device=device)
looked_up = model.get_input_embeddings()(ids)[0].detach().cpu()  # (T, d)
product = F.one_hot(ids[0].cpu(), len(E)).float() @ E  # (T, V) @ (V, d)
lookup_gap = (looked_up - product).abs().max().item()
tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
parameters = sum(p.numel() for p in model.parameters())
print(f"{ids.shape[1]} tokens -> {tuple(looked_up.shape)}, one-hot product differs by {lookup_gap:.0e}; one matrix for both ends: {tied}")  # fmt: skip
print(f"{E.numel():,} of {parameters:,} parameters: {E.numel() / parameters:.1%}; untied it would be {2 * E.numel() / (parameters + E.numel()):.1%}")  # fmt: skip

# %% [markdown]
# ### Neighbours
#
# Nothing told the model that `7` and `8` are alike. It moved their rows so that the next token could be predicted, and tokens that occur in like places ended near one
# another. All rows share a common direction, which says little; take the mean row away and compare directions by their cosine.

# %%
centred = F.normalize(E - E.mean(0), dim=-1)
raw_cosine = unit[torch.randperm(len(E))[:2000]].mul(unit[torch.randperm(len(E))[:2000]]).sum(-1).mean().item()


def neighbours(word, k=6):
    """The k nearest tokens of a one-token word, with their cosines."""
    (token,) = smollm2.encode(word)
    near = (centred @ centred[token]).topk(k + 1)
    return [(smollm2.decode([i]), c) for c, i in zip(near.values.tolist(), near.indices.tolist(), strict=True) if i != token]  # fmt: skip


run.table(
    [(word.replace(" ", "·"), ", ".join(f"{name.replace(' ', '·')} {c:.2f}" for name, c in neighbours(word))) for word in ("7", " seven", " you", " Paris", " dog", " Monday", " red", " import", "中")],
    ("Token", "Nearest, with cosine"),
)  # fmt: skip
nearest_digit = [max((i for i in range(10) if i != k), key=lambda i: centred[digits[k]] @ centred[digits[i]]) for k in range(10)]  # fmt: skip
adjacent = sum(abs(k - other) == 1 for k, other in enumerate(nearest_digit))
words = [token for token in smollm2.vocabulary if len(token) > 4 and token[:1] == b" " and token[1:].isalpha()]
sample = random.Random(0).sample(words, budget.words)
rows = torch.tensor([smollm2.vocabulary[word] for word in sample])
close = centred[rows] @ centred.T
close[torch.arange(len(rows)), rows] = -2
nearest = [smollm2.tokens[i] for i in close.argmax(-1).tolist()]
variants = sum(a.strip().lower() == b.strip().lower() for a, b in zip(sample, nearest, strict=True)) / len(sample)
print(f"mean cosine of two random rows before centring: {raw_cosine:.2f}; digits whose nearest digit is the next or the last: {adjacent} of 10")  # fmt: skip
print(
    f"of {len(sample):,} words, {variants:.0%} have as nearest neighbour the same word in another case or without its space"
)

# %%
FAMILIES = {
    "prompt": [str(digit) for digit in range(10)],
    "policy": [f" {word}" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")],
    "chosen": [f" {word}" for word in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")],
    "reward": [f" {word}" for word in ("red", "blue", "green", "yellow", "black", "white")],
    "value": [f" {word}" for word in ("France", "Germany", "Italy", "Spain", "Paris", "Berlin", "Rome", "Madrid")],
}
chosen_rows = torch.tensor([smollm2.encode(word)[0] for family in FAMILIES.values() for word in family])
points = E[chosen_rows] - E[chosen_rows].mean(0)
_, singular, axes = torch.linalg.svd(points, full_matrices=False)
flat = points @ axes[:2].T  # (words, 2)
shown_variance = (singular[:2].square().sum() / singular.square().sum()).item()
fig = go.Figure()
at = 0
for (role, family), name in zip(FAMILIES.items(), ("digits", "numbers", "days", "colours", "places"), strict=True):
    part = flat[at : at + len(family)].numpy()
    at += len(family)
    fig.add_scatter(x=part[:, 0], y=part[:, 1], mode="markers+text", text=[w.strip() for w in family], textposition="top center", name=name, marker={"color": palette.MIDDLE[role], "size": 8})  # fmt: skip
fig.update_layout(
    title="40 rows of the embedding matrix",
    xaxis_title="first principal axis",
    yaxis_title="second principal axis",
)
run.figure(fig, "Forty tokens on the two axes along which their embeddings differ most: digits, number words, days, colours and places each stand together.")  # fmt: skip
print(f"two axes of {E.shape[1]} show {shown_variance:.0%} of these tokens' variance")

# %% [markdown]
# ### How a row learns
#
# In the backward pass a lookup becomes an addition: each position adds its gradient to its own token's row. As input, a token that does not occur in the batch gets
# no gradient. As output, *every* row gets one in every step: $(p-\text{one-hot})\,h^\top$, summed over positions. With one matrix at both ends the two add up.

# %%
sentence = torch.tensor([smollm2.encode("Who are you? I am you, you say.")], device=device)
model.zero_grad()
embedded = model.get_input_embeddings()(sentence).detach().requires_grad_()
hidden = model.model(inputs_embeds=embedded).last_hidden_state[0, :-1]  # (T - 1, d)
output_logits = hidden.detach() @ model.lm_head.weight.detach().T  # (T - 1, V)
(into_input,) = torch.autograd.grad(
    F.cross_entropy(hidden @ model.lm_head.weight.detach().T, sentence[0, 1:]), embedded
)
by_input = torch.zeros_like(model.lm_head.weight).index_add_(0, sentence[0], into_input[0])  # (V, d)
error = output_logits.softmax(-1) - F.one_hot(sentence[0, 1:], len(E))  # p - one-hot, (T - 1, V)
by_output = error.T @ hidden.detach() / len(error)  # (V, d)
F.cross_entropy(model(sentence).logits[0, :-1], sentence[0, 1:]).backward()
row_gap = ((by_input + by_output) - model.lm_head.weight.grad).abs().max().item()
model.zero_grad(set_to_none=True)
touched_in, touched_out = int((by_input.abs().sum(-1) > 0).sum()), int((by_output.abs().sum(-1) > 0).sum())
print(
    f"rows moved as input {touched_in}, as output {touched_out:,}; the sum equals autograd's gradient to {row_gap:.0e}"
)

# %% [markdown]
# That is also how an unused token drifts: no text pulls its row, and every step pushes it away from whatever the model says. All unused rows are pushed alike, so they end
# in one place. This is why their cosines were 1.00.
#
# ## The output layer
#
# At the last position the model holds a vector $h$ of $d=576$ numbers. The logit of token $v$ is the dot product $h\cdot E_v$: one product with the whole
# matrix gives 49,152 of them. Softmax makes probabilities. That is all there is to the output layer.

# %%
rows = []
asked = {}
for question in ("Who are you?", "What is 17 + 25?"):
    ids = torch.tensor([text.encode_prompt(tokenizer, question)], device=device)
    with torch.inference_mode():
        h = model.model(ids).last_hidden_state[0, -1].cpu()  # (d,)
        reported = model(ids).logits[0, -1].cpu()
    z = E @ h  # (V,)
    asked[question] = (h, z)
    logit_gap = (z - reported).abs().max().item()
    p = z.softmax(-1)
    best = p.topk(3)
    rows += [(question, smollm2.decode([i]), f"{z[i]:.2f}", f"{h.norm():.1f} × {E[i].norm():.2f} × {F.cosine_similarity(h, E[i], 0):.2f}", f"{v:.1%}") for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]  # fmt: skip
run.table(rows, ("Question", "Next token", "Logit", "|h| × |E_v| × cosine", "Probability"))
print(f"E @ h equals the model's logits to {logit_gap:.0e}")

# %% [markdown]
# ### Softmax, and how not to compute it
#
# $p_i=e^{z_i}/\sum_je^{z_j}$ stays the same when a constant is taken from all logits. So take the largest: every exponent is then at most 0. Computed as
# written, in half precision, it breaks at a logit of 11.1, because $e^{11.1}$ exceeds 65,504, the largest number there is.

# %%
_, z = asked["What is 17 + 25?"]
half = z.half()
naive = half.exp() / half.exp().sum()
safe = (half - half.max()).exp()
safe = safe / safe.sum(dtype=torch.float32)
broken = int((~naive.isfinite()).sum())
safe_gap = (safe.float() - z.softmax(-1)).abs().max().item()
largest_logit = z.max().item()
shift_gap = ((z.double() + 123.0).softmax(-1) - z.double().softmax(-1)).abs().max().item()
print(f"largest logit {largest_logit:.1f}; as written in float16: {broken} of {len(z):,} probabilities are not numbers; with the maximum taken away: off by {safe_gap:.0e}")  # fmt: skip
print(f"adding 123 to every logit changes a probability by {shift_gap:.0e}")

# %% [markdown]
# ### 49,152 numbers of which 576 are free
#
# All logits of all contexts are products with one $(V,d)$ matrix. Stack them as rows of a matrix of contexts × tokens: its rank cannot exceed $d$. Most conceivable distributions
# over 49,152 tokens are out of reach, whatever the layers before do. This is the **softmax bottleneck** (Yang et al., 2017).

# %%
stream = torch.tensor(smollm2.encode("\n".join(held_out), missing="drop")[: budget.positions], device=device)
with torch.inference_mode():
    states = torch.cat([model.model(part[None]).last_hidden_state[0] for part in stream.split(320)]).cpu()  # (n, d)
Z = states.double() @ E.T.double()  # (n, V)
spectrum = torch.linalg.eigvalsh(Z @ Z.T).flip(0).clamp(min=0).sqrt()  # singular values
rank = int((spectrum > 1e-7 * spectrum[0]).sum())
print(f"logits of {len(Z)} positions: shape {tuple(Z.shape)}, rank {rank}, width d = {E.shape[1]}")

# %% [markdown]
# ### What the output layer costs
#
# The logits of one training batch are often the largest tensor of all: $B\cdot T\cdot V$ numbers. The loss needs one number a position. So go through the positions in chunks: make a
# chunk's logits, add up its loss and its share of the gradients by the states $h$ and by $E$, and throw the logits away. The gradients must be taken on the spot, since a backward pass would find no logits any more.
# Loss and gradients are the same to rounding. Of the logits, a chunk exists at a time; the gradient by $E$ is as large as $E$ either way.


# %%
def chunked_loss(states, matrix, targets, chunk):
    """Mean cross-entropy, its gradient by the states (n, d) and by the matrix (V, d), from (chunk, V) logits at a time."""
    total, by_states, by_matrix = 0.0, torch.empty_like(states), torch.zeros_like(matrix)
    for start in range(0, len(states), chunk):
        part = slice(start, start + chunk)
        z = states[part] @ matrix.T  # (chunk, V) logits ...
        total += F.cross_entropy(z, targets[part], reduction="sum").item()
        error = z.softmax(-1)  # ... their probabilities ...
        error[torch.arange(len(error)), targets[part]] -= 1  # ... less the one-hot targets
        by_states[part] = error @ matrix / len(states)
        by_matrix.addmm_(error.T, states[part], alpha=1 / len(states))
    return total / len(states), by_states, by_matrix


CHUNK = 64
inner, weight, targets = states[:-1].clone().requires_grad_(), E.clone().requires_grad_(), stream[1:].cpu()
whole = F.cross_entropy(inner @ weight.T, targets)
whole.backward()
chunked, *chunked_gradients = chunked_loss(inner.detach(), E, targets, CHUNK)
loss_gap = abs(chunked - whole.item())
gradient_gap = max(((ours - theirs.grad).abs().max() / theirs.grad.abs().max()).item() for ours, theirs in zip(chunked_gradients, (inner, weight), strict=True))  # fmt: skip
flops_share = 2 * E.numel() / (2 * parameters)
batch_logits = 8 * 2048 * len(E) * 4 / 1e9
smollm2_bits = whole.item() * len(targets) / math.log(2) / len(smollm2.decode_bytes(targets.tolist()))
print(f"loss {whole.item():.4f} nats a token, off by {loss_gap:.0e}; gradients by h and by E off by {gradient_gap:.0e} of their largest entry")  # fmt: skip
print(f"logits at a time: {len(inner) * len(E) * 4 / 1e6:.0f} MB, in chunks {CHUNK * len(E) * 4 / 1e6:.0f} MB; gradient by E: {4 * E.numel() / 1e6:.0f} MB")  # fmt: skip
print(f"8 x 2,048 tokens make {batch_logits:.1f} GB of logits in float32; the output layer does {flops_share:.0%} of a forward pass's products")  # fmt: skip
print(f"SmolLM2 on the first {len(stream)} tokens of the held-out manual: {smollm2_bits:.2f} bits per byte; the best of the small ones on all of it {mean_bits[best_V]:.2f}")  # fmt: skip

# %% [markdown]
# ## Type your own text
#
# The figure holds SmolLM2's real merges. Its ids are those of the library, on any text.

# %%
TEXTS = {
    "Who are you?": "Who are you?",
    "What is 17 + 25?": "What is 17 + 25?",
    "The whole chat prompt": text.chat(tokenizer, "Who are you?"),
    "Long words": "Antidisestablishmentarianism, counterrevolutionaries and strawberries",
    "Chinese": UNUSUAL["Chinese"],
    "Emoji": UNUSUAL["Emoji"],
    "Code": UNUSUAL["Python"],
    "A list": "Tips:\n\n1. Sleep.\n\n2. Eat  3 apples.",
}
run.explorer("tokenizer", {**smollm2_merges.data(smollm2, TEXTS), "start": {"text": 3, "piece": 0}})

# %% [markdown]
# ## As one would at work
#
# Train with `tokenizers`, wrap it for transformers, save it, add your own special tokens, and give the model rows for them. New rows begin at the mean of the old ones (transformers
# draws them around it), so that a token which nobody has trained yet is neither impossible nor favoured.

# %%
work = PreTrainedTokenizerFast(tokenizer_object=peer_train(documents, LARGEST), eos_token="<|end|>")
added = work.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
toy = models.load("tiny", "cpu")[0]
before = toy.get_input_embeddings().weight.shape[0]
toy.resize_token_embeddings(before + 2)  # two more rows
grown = toy.get_input_embeddings().weight.shape[0]
sample = "<|tool|>" + held_out[0]
work_ids = work.encode(sample, add_special_tokens=False)
same_at_work = work_ids[1:] == ours.encode(held_out[0]) and work.decode(work_ids) == sample
print(f"{added} token added, id {work_ids[0]}; the other ids as ours: {same_at_work}; embedding of tiny from {before:,} to {grown:,} rows")  # fmt: skip

# %% [markdown]
# ## Results

# %%
run.result("manual_bytes", size, format=",")
run.result("merges_equal", len(ours.merges), format=",")
run.result("trials", len(trials), format=",")
run.result("smollm2_merges", len(smollm2.merges), format=",")
run.result("word_merges", len(word_states) - 1)
run.result("word_tokens", None, text=" + ".join(symbol.decode().replace(" ", "·") for symbol in word_states[-1][0]))
run.result("bytes_a_token_python", len(UNUSUAL["Python"].encode()) / len(smollm2.encode(UNUSUAL["Python"])), format=".1f")  # fmt: skip
for language in ("German", "Chinese", "Russian", "Greek", "Hindi"):
    run.result(f"premium_{language.lower()}", premium[language], format=".1f")
run.result("tokens_english", lengths["English"])
run.result("tokens_hindi", lengths["Hindi"])
for V in VOCABULARIES:
    run.result(f"bits_{V}", mean_bits[V], format=".2f")
    run.result(f"bytes_a_token_{V}", bytes_a_token[V], format=".2f")
    run.result(f"embedding_share_{V}", V * WIDTH / counted_parameters[V], format=".0%")
run.result("bits_spread", spread, format=".2f")
run.result("best_bits", mean_bits[best_V], format=".2f")
run.result("glitch_best", glitch_best, format=".0%")
run.result("vocabulary_seeds", budget.seeds)
run.result("paris_plain", paris_plain, format=".0%")
run.result("paris_spaced", paris_spaced, format=".2%")
run.result("digit_share", digit_share, format=".0%")
run.result("missing_bytes", len(missing_bytes))
run.result("missing_possible", len(possible))
run.result("other_ids", len(other), format=",")
run.result("other_documents", other_documents)
run.result("documents", len(held_out))
for key, name in (("converted", "plain conversion"), ("published", "published")):
    run.result(f"list_tokens_{key}", len(list_ids[name]))
    run.result(f"list_{key}", list_nats[name], format=".1f")
    run.result(f"one_{key}", p_one[name], format=".1%")
run.result("suspects", len(suspects))
run.result("glitch_example", None, text=smollm2.decode([ordinary[0]]).strip())
run.result("glitch_p", glitch_p, format=".3%")
run.result("random_p", random_p, format=".0%")
run.result("glitches", budget.glitches)
run.result("embedding_parameters", E.numel(), format=",")
run.result("embedding_share", E.numel() / parameters, format=".0%")
run.result("raw_cosine", raw_cosine, format=".2f")
run.result("seven", None, text=", ".join(f"{name} ({c:.2f})" for name, c in neighbours("7", 3)))
run.result("paris", None, text=", ".join(f"{name.strip()} ({c:.2f})" for name, c in neighbours(" Paris", 4)))
run.result("adjacent_digits", adjacent)
run.result("variants", variants, format=".0%")
run.result("words", budget.words, format=",")
run.result("touched_in", touched_in)
run.result("touched_out", touched_out, format=",")
run.result("row_gap", row_gap, format=".0e")
for name, question in (("who", "Who are you?"), ("sum", "What is 17 + 25?")):
    h, z = asked[question]
    top = int(z.argmax())
    run.result(f"{name}_token", None, text=smollm2.decode([top]))
    run.result(f"{name}_logit", z[top].item(), format=".2f")
    run.result(f"{name}_p", z.softmax(-1)[top].item(), format=".1%")
    run.result(f"{name}_norm", h.norm().item(), format=".2f")
    run.result(f"{name}_row", E[top].norm().item(), format=".3f")
    run.result(f"{name}_cosine", F.cosine_similarity(h, E[top], 0).item(), format=".4f")
run.result("largest_logit", largest_logit, format=".1f")
run.result("broken", broken, format=",")
run.result("rank", rank)
run.result("positions", len(Z))
run.result("batch_logits", batch_logits, format=".1f")
run.result("flops_share", flops_share, format=".0%")
run.result("loss_gap", loss_gap, format=".0e")
run.result("gradient_gap", gradient_gap, format=".0e")
run.result("smollm2_bits", smollm2_bits, format=".2f")
run.claim("learning in the open, by bpe.train and by tokenizers gives the same merges", same_in_the_open and same_merges)  # fmt: skip
run.claim("ids of held-out text equal those of tokenizers", same_ids)
run.claim("SmolLM2's ids and decoded texts equal those of tokenizers on every text", ids_equal == texts_equal == len(trials))  # fmt: skip
run.claim("the Hindi sentence costs more than five times the tokens of the English one", premium["Hindi"] > 5)
run.claim("from bytes to 1,024 tokens each step gains more than the seeds differ", mean_bits[256] > mean_bits[512] + spread and mean_bits[512] > mean_bits[1024] + spread)  # fmt: skip
run.claim("from 1,024 to 4,096 the gain is small", abs(mean_bits[1024] - mean_bits[4096]) < 0.1)
run.claim("the space at the end costs Paris nearly all of its probability", paris_spaced < paris_plain / 100)
run.claim("after it a digit is expected", digit_share > 0.8)
run.claim("tokenizers loses a byte that has no token without a word", silently == "onetwo")
run.claim("the loaded tokenizer has both cuts, and the one for digits is digits by themselves", smollm2.patterns == [bpe.DIGITS, bpe.GPT2] and rule_agrees)  # fmt: skip
run.claim("without it some ids differ; in a text without other digits than 0 to 9, only after two white-space characters", 0 < len(other) < len(trials) / 4 and len(common) > 0 and after_spaces)  # fmt: skip
run.claim("the plain conversion makes the list dearer", list_nats["plain conversion"] > list_nats["published"] + 5)
run.claim("and its 1 absurd", p_one["published"] > 0.9 and p_one["plain conversion"] < 0.1)
run.claim("unlearned tokens are copied twenty times less often than random ones", glitch_p < random_p / 20)
run.claim("a lookup is a product with one-hot rows", lookup_gap < 1e-6)
run.claim("input and output gradients of the tied matrix add up to autograd's", row_gap < 1e-4)
run.claim("logits are E h", logit_gap < 1e-3)
run.claim("softmax as written is not finite in half precision, with the maximum taken away it is right", broken > 0 and safe_gap < 1e-2)  # fmt: skip
run.claim("the logits of all positions have rank d", rank == E.shape[1])
run.claim("the loss in chunks and its gradients by h and by E are autograd's", loss_gap < 1e-4 and gradient_gap < 1e-4)
run.claim("at work the ids are ours", same_at_work and grown == before + 2)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. The commonest pair** (★, 5 minutes). Words are given as `{symbols: times}`.


# %%
def my_commonest_pair(words):  # {("t", "e", "n"): 4, ...} -> ("t", "e")
    ...


check("tokens_and_embeddings.commonest_pair", my_commonest_pair)

# %% [markdown]
# **2. Merge** (★★, 10 minutes). Encode a word of characters: the pair of the lowest rank first, the leftmost of equals, until none has a rank.


# %%
def my_merge(word, ranks):  # "there", {("h", "e"): 0, ...} -> ["there"]
    ...


check("tokens_and_embeddings.merge", my_merge)

# %% [markdown]
# **3. Stream** (★★, 10 minutes). Tokens arrive one by one, as bytes. After each, what may be shown? Part of a character must wait for its rest.


# %%
def my_stream(tokens):  # [b"Caf", b"\xc3", b"\xa9 "] -> ["Caf", "", "é "]
    ...


check("tokens_and_embeddings.stream", my_stream)

# %% [markdown]
# **4. Bits per byte** (★, 4 minutes). From nats per token, so that models with different tokenizers can be compared.


# %%
def my_bits_per_byte(nats_per_token, tokens, bytes_):  # numbers -> a number
    ...


check("tokens_and_embeddings.bits_per_byte", my_bits_per_byte)

# %% [markdown]
# **5. The gradient of a lookup** (★★, 6 minutes). From the gradient at each position to the gradient of the matrix.


# %%
def my_embedding_gradient(ids, upstream, vocabulary):  # ids (T,), upstream (T, d) -> (V, d)
    ...


check("tokens_and_embeddings.embedding_gradient", my_embedding_gradient)
