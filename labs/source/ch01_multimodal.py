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
# # Pictures and text in one model
#
# A decoder reads rows of vectors. It does not ask where they come from. Here pictures become such rows, in the two ways in use: as vectors
# from an image encoder, and as tokens of a codebook. You train three kinds of model, each from three seeds, in a world of coloured shapes
# where "does the picture show what the text says?" has an exact answer.
#
# - **You will** cut pictures into patches; feed vectors to SmolLM2; train CLIP and classify what it never saw named; join CLIP's encoder to
#   a language model, in LLaVA's two stages, measure whether it sees, and hear it describe what is not there; turn pictures into tokens, with a codebook that
#   collapses and one that does not; draw from captions with the same network that describes; and put its parts into LLaVA of transformers.
# - **Time:** about 4 minutes on a CPU with two cores.
#
# **Sections:** 1.1.4
#
# **Topics:** clip-and-image-tokens

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
# ## A world of pictures
#
# 24 by 24 pixels, nine cells, things of six colours and four shapes. A caption says of one thing where it is, of two to four alike how
# many they are, of two in one row or column how they stand. Four of the 24 names, such as "red triangle", occur in no training caption,
# though each of their words does. Of all other captions 15% are held out.

# %%
import base64
import copy
import functools
import html
import math
import random
import struct
import time
import zlib

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn

from alignlab import compute, decoding, display, lab, models, palette, text
from alignlab.architectures.vision import (
    CLIP,
    IMAGE,
    PatchEncoder,
    VisionLanguageModel,
    kmeans,
    nearest,
    patchify,
    quantize,
    unpatchify,
)  # fmt: skip
from alignlab.exercises import check
from alignlab.losses.contrastive import clip_loss
from alignlab.rl.curves import band
from alignlab.tasks import pictures
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_multimodal")
budget = run.budget(
    full=dict(
        seeds=3, clip_steps=300, clip_batch=128, read_steps=80, align_steps=60, tune_steps=420, tune_batch=32, alone_steps=60, codebook_pictures=1200,
        codebooks=(8, 24, 64), vq_steps=300, fusion_steps=350, fusion_batch=32, tests=100, choices=20, drawn=60, candidates=8, peer_steps=60,
    ),
    quick=dict(
        seeds=2, clip_steps=4, clip_batch=24, read_steps=3, align_steps=2, tune_steps=3, tune_batch=6, alone_steps=2, codebook_pictures=60,
        codebooks=(8, 16), vq_steps=8, fusion_steps=3, fusion_batch=4, tests=6, choices=2, drawn=3, candidates=2, peer_steps=2,
    ),
)  # fmt: skip
compute.seed(0)
KINDS = ("place", "count", "pair")
POOL = {
    split: {kind: list(pictures.captions(split, kind)) for kind in KINDS} for split in ("train", "held-out", "unseen")
}
WORDS = len(pictures.WORDS)


def draw(captions, rng):
    """One picture for each caption, (B, 3, 24, 24)."""
    return pictures.draw([pictures.scene(caption, rng) for caption in captions], rng.randrange(2**31))


def phrases(rng, count, split="train", kinds=KINDS, shares=(0.4, 0.2, 0.4)):
    """Captions of a split, drawn at random."""
    shares = [share for kind, share in zip(KINDS, shares) if kind in kinds]
    return [rng.choice(POOL[split][kind]) for kind in rng.choices(kinds, shares, k=count)]


def sample(rng, count, split="train", kinds=KINDS):
    """Captions of a split, and their pictures."""
    captions = phrases(rng, count, split, kinds)
    return captions, draw(captions, rng)


def png(picture):
    """A picture (3, H, W) as a PNG file."""
    rows = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")


def gallery(images, captions, title):
    """Show pictures with their captions."""
    cells = "".join(
        f'<figure style="margin:0;width:7.5em"><img alt="{html.escape(caption)}" style="width:7em;height:7em;image-rendering:pixelated" '
        f'src="data:image/png;base64,{base64.b64encode(png(image)).decode()}"><figcaption style="font-size:.8rem;line-height:1.3">{html.escape(caption)}</figcaption></figure>'
        for image, caption in zip(images, captions)
    )
    page = f'<p style="margin:.5em 0">{html.escape(title)}</p><div style="display:flex;flex-wrap:wrap;gap:.8em">{cells}</div>'
    display.show({"text/html": page, "text/plain": f"{title}: {'; '.join(captions)}"})


def rate(learning_rate, step, steps, warm_up=30):
    """The learning rate of a step: a warm-up, then a half cosine down to a twentieth."""
    return learning_rate * min(1, (step + 1) / warm_up) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def update(optimizer, loss, learning_rate):
    """One step of an optimizer, the gradient's norm at most 1."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


SEEDS = range(budget.seeds)


def train(label, networks, terms_of, steps, learning_rate, *, stream, decay=0.01, until=None, watch=None, at=()):
    """Train one network for each seed, on batches of its own; returns losses (steps, seeds), and what was watched.

    terms_of(network, rng): the terms of a batch's loss, the curve shows the first. until: stop before the learning
    rate's schedule ends. watch(network): a number, noted before the steps `at` and at the end.
    """
    optimizers = [
        torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad], betas=(0.9, 0.98), weight_decay=decay, fused=True
        )
        for network in networks
    ]
    seeds = range(len(networks))
    draws = [random.Random(1000 * stream + seed) for seed in seeds]
    names = [f"seed {seed}" for seed in seeds]
    curve, losses, watched = run.curve(label, y="loss (nats)", lines=names), [], {}
    until = until or steps

    def one(step, seed):
        terms = terms_of(networks[seed], draws[seed])
        update(optimizers[seed], sum(terms), rate(learning_rate, step, steps))
        return terms[0].item()

    for step in run.progress(until, label, curve=curve):
        if watch and step in at:
            watched[step] = [watch(network) for network in networks]
        losses.append([one(step, seed) for seed in seeds])
        if step % 5 == 0:
            for name, loss in zip(names, losses[-1]):
                curve.add(name, step, loss)
    if watch:
        watched[until] = [watch(network) for network in networks]
    return np.array(losses), watched


def spread(values, form=".0%"):
    """The mean of the seeds, and from where to where they reach, if that can be seen."""
    low, mean, high = (format(float(value), form) for value in (min(values), np.mean(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


rng = random.Random(0)
shown = [POOL["train"][kind][index] for kind in ("place", "pair", "count") for index in (3, 40)]
gallery(draw(shown, rng), shown, "Six captions and their pictures")
counts = {split: sum(map(len, POOL[split].values())) for split in POOL}
captions, images = sample(rng, 200)
read_back = np.mean([pictures.shows(pictures.read(image), caption) for image, caption in zip(images, captions)])
print(f"captions: {counts}; of 200 pictures the rule reads {read_back:.0%} as their caption says")

# %% [markdown]
# ## A picture becomes rows
#
# Cut it into squares of 6 by 6 pixels: 16 **patches** of $3\cdot6\cdot6=108$ numbers. A linear layer brings each one to the width of the
# model. In libraries this stands as a convolution whose stride equals its size; it is the same product.

# %%
PATCH = 6
image = images[:1]
by_hand = torch.stack(
    [image[0, :, y : y + PATCH, x : x + PATCH].flatten() for y in range(0, 24, PATCH) for x in range(0, 24, PATCH)]
)  # (16, 108)
convolution = nn.Conv2d(3, 64, PATCH, stride=PATCH)
as_linear = by_hand @ convolution.weight.flatten(1).T + convolution.bias  # (16, 64)
as_convolution = convolution(image)[0].flatten(1).T
patch_gap = (as_linear - as_convolution).abs().max().item()
cut_alike = torch.equal(by_hand, patchify(image, PATCH)[0])
print(
    f"patches {tuple(by_hand.shape)}, as the library cuts them: {cut_alike}; linear layer against convolution {patch_gap:.0e}"
)

# %% [markdown]
# Can a language model read rows that are no tokens? Ask SmolLM2 the book's two questions, once by their ids, once by handing it the same rows
# of its table as plain vectors. The logits must be equal: after the first line of a decoder nobody knows what was a word.

# %%
small, tokenizer = models.load("small", "cpu")
decoder = Transformer.view(small)
rows, vector_gap = [], 0.0
for question in ("Who are you?", "What is 17 + 25?"):
    ids = torch.tensor([text.encode_prompt(tokenizer, question)])
    with torch.no_grad():
        by_ids = decoder(ids)
        by_vectors = decoder.lm_head(decoder.states(decoder.embed_tokens(ids), torch.arange(ids.shape[1])[None]))
    vector_gap = max(vector_gap, (by_ids - by_vectors).abs().max().item())
    own = len(tokenizer.encode(question, add_special_tokens=False))
    rows.append([question, own, ids.shape[1], tokenizer.decode(by_vectors[0, -1].argmax())])
config = small.config
cache_per_row = (
    2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2
)  # keys and values, 2 bytes each
run.table(
    rows,
    ["question", "its tokens", "with the chat format", "first word of the answer, from vectors"],
    caption="SmolLM2, fed with vectors",
)
LLAVA_PATCHES = (336 // 14) ** 2
who_tokens, sum_tokens = rows[0][1], rows[1][1]
row_norm = decoder.embed_tokens.weight.norm(dim=-1).mean().item()
print(
    f"largest difference of logits {vector_gap:.0e}; a picture of {LLAVA_PATCHES} patches would fill "
    f"{LLAVA_PATCHES * cache_per_row / 2**20:.1f} MB of its KV cache"
)
del small, decoder

# %% [markdown]
# So all it takes is an encoder that gives rows worth reading. How does one get such an encoder, without a label for every picture?
#
# ## CLIP: let captions be the labels
#
# Take $B$ pictures with their captions. One network turns pictures into unit vectors $u_i$, another one texts into $v_j$. In the table of all
# cosines $u_i\cdot v_j$ the diagonal is to win, in each row and in each column: two cross-entropies, with the cosines scaled by a
# learned $s$.

# %%
u, v = F.normalize(torch.randn(4, 8), dim=-1), F.normalize(torch.randn(4, 8), dim=-1)
s = 1 / 0.07
table = s * u @ v.T  # (4, 4): pictures in rows, texts in columns
rows_loss = -torch.stack([table[i, i] - table[i].logsumexp(0) for i in range(4)])
columns_loss = -torch.stack([table[i, i] - table[:, i].logsumexp(0) for i in range(4)])
in_the_open = (rows_loss + columns_loss) / 2
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

clip_gap = max(
    (in_the_open - clip_loss(u, v, s)).abs().max().item(),
    abs(in_the_open.mean().item() - image_text_contrastive_loss(table.T).item()),
)
print(f"by hand, the library's and transformers' CLIP loss differ by at most {clip_gap:.0e}")

# %% [markdown]
# Both networks are our Transformer. The image encoder drops the causal mask and the rotation, and has one token of its own before the
# patches; that token's state stands for the picture. The text encoder stays causal; its state at the last token stands for the text.
# No caption occurs twice in a batch: its picture would be told that a text which fits it perfectly is wrong.
#
# How well such small models do depends on chance: on their first weights and on the pictures they meet. So everything is trained from
# three seeds, side by side, and tables give the mean and, in brackets, the range.

# %%
END = WORDS


def sizes(vocabulary, width, layers, inner, context=64):
    return Config(vocabulary, width, inner, layers, 4, 4, width // 4, max_position_embeddings=context)


def as_ids(captions):
    """Word ids and an end token, padded; and the lengths."""
    ids = [torch.tensor([*pictures.word_ids(caption), END]) for caption in captions]
    return nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=END), torch.tensor([len(row) for row in ids])


def distinct(rng, count):
    """Captions of which no two are alike, and their pictures."""
    chosen = {}
    while len(chosen) < count:
        kind = rng.choices(KINDS, (0.4, 0.2, 0.4))[0]
        chosen[rng.choice(POOL["train"][kind])] = None
    return list(chosen), draw(chosen, rng)


def fresh_clip(seed):
    compute.seed(seed)
    encoder = PatchEncoder(sizes(1, 64, 3, 176), side=24, size=PATCH)
    encoder.body.initialize(0.06)
    return CLIP(encoder, Transformer(sizes(WORDS + 1, 64, 2, 176)).initialize(0.06), size=64)


def clip_terms(clip, rng):
    captions, images = distinct(rng, budget.clip_batch)
    return [clip_loss(clip.images(images), clip.texts(*as_ids(captions)), clip.scale).mean()]


clips = [fresh_clip(seed) for seed in SEEDS]
started = time.perf_counter()
label = f"CLIP, {len(SEEDS)} seeds: batches of {budget.clip_batch} pairs"
clip_losses, _ = train(label, clips, clip_terms, budget.clip_steps, 2e-3, stream=1, decay=0.05)
clip_seconds = time.perf_counter() - started
measured = {"clip_first": clip_losses[0], "clip_last": clip_losses[-20:].mean(0)}  # by name: a number for each seed
measured["clip_scale"] = [clip.scale.item() for clip in clips]
clip_parameters = sum(p.numel() for p in clips[0].parameters())
print(
    f"{clip_parameters:,} parameters each, {clip_seconds:.0f} s; loss from {spread(measured['clip_first'], '.2f')} (knowing nothing: log "
    f"{budget.clip_batch} = {math.log(budget.clip_batch):.2f}) to {spread(measured['clip_last'], '.2f')}; "
    f"scale from 14.3 to {spread(measured['clip_scale'], '.1f')}"
)

# %% [markdown]
# ### Zero-shot classification
#
# Nobody trained a classifier. To classify, name the classes: encode 24 texts, and take the one with the largest cosine. Four of the names
# were never in a caption. A bare name, "a red circle", is a kind of text that CLIP never read; real captions say a place, too. So average
# the vectors of nine such texts for each class. CLIP's authors did the same with 80 sentences for each class of ImageNet.

# %%
PLACES = [f"{row} {column}" for row in pictures.ROWS for column in pictures.COLUMNS]
SEEN = [name for name in pictures.NAMES if name not in pictures.UNSEEN]


@torch.no_grad()
def zero_shot(clip, names, count, rng):
    """Shares classified rightly among all 24 names: by a bare name, by nine texts; and the misses of the latter."""
    of_names = [rng.choice(names) for _ in range(count)]
    seen = clip.images(draw([f"a {name} at the {rng.choice(PLACES)}" for name in of_names], rng))
    bare = clip.texts(*as_ids([f"a {name}" for name in pictures.NAMES]))
    many = clip.texts(*as_ids([f"a {name} at the {place}" for name in pictures.NAMES for place in PLACES]))
    many = F.normalize(many.view(len(pictures.NAMES), len(PLACES), -1).mean(1), dim=-1)
    wanted = torch.tensor([pictures.NAMES.index(name) for name in of_names])
    found = [(seen @ classes.T).argmax(-1) for classes in (bare, many)]
    misses = [(name, pictures.NAMES[guess]) for name, guess in zip(of_names, found[1]) if name != pictures.NAMES[guess]]
    return *((guess == wanted).float().mean().item() for guess in found), misses


for clip in clips:
    clip.eval()
missed = []
for part, names in (("seen", SEEN), ("unseen", pictures.UNSEEN)):
    found = [zero_shot(clip, names, 4 * budget.tests, random.Random(2)) for clip in clips]  # the same pictures for all
    measured[f"bare_{part}"], measured[f"many_{part}"], missed = zip(*found)
run.table(
    [["20 names that training captions hold", spread(measured["bare_seen"]), spread(measured["many_seen"])],
     ["4 names that no training caption holds", spread(measured["bare_unseen"]), spread(measured["many_unseen"])]],
    ["pictures of", "the bare name", "mean of nine texts"],
    caption=f"Zero-shot classification among 24 names, {len(SEEDS)} seeds; guessing has 4%",
)  # fmt: skip
measured["right_colour"] = [
    np.mean([a.split()[0] == b.split()[0] for a, b in pairs]) if pairs else 1.0 for pairs in missed
]
print(
    f"of {' and '.join(str(len(pairs)) for pairs in missed)} misses on unseen names, {spread(measured['right_colour'])} have the right "
    f"colour, such as {sorted(set(missed[0]))[:3]}"
)

# %% [markdown]
# ### What it does not see
#
# Which of two texts fits better: the true one, or one with the same words in another order? To tell two pictures of a *random* batch apart, the
# words alone nearly always suffice. So nothing forces CLIP to bind colour to shape, or to mind who stands left of whom.


# %%
def altered(caption, how):
    """The same words, another meaning: the two things swapped, their colours swapped, or the relation replaced."""
    words = caption.split()
    middle = words.index("a", 1)
    between, first, second = words[3:middle], words[1:3], words[middle + 1 :]
    if how == "things swapped":
        first, second = second, first
    if how == "colours swapped":
        first, second = [second[0], first[1]], [first[0], second[1]]
    if how == "another relation":
        between = ["above"] if between == ["left", "of"] else ["left", "of"]
    return " ".join(["a", *first, *between, "a", *second])


@torch.no_grad()
def prefers_truth(clip, how, count, rng):
    captions = [c for c in (rng.choice(POOL["train"]["pair"]) for _ in range(4 * count)) if altered(c, how) != c][
        :count
    ]
    seen = clip.images(draw(captions, rng))
    true, false = (clip.texts(*as_ids(texts)) for texts in (captions, [altered(c, how) for c in captions]))
    return ((seen * true).sum(-1) > (seen * false).sum(-1)).float().mean().item()


@torch.no_grad()
def beats_others(clip, rng):
    """How often the true caption beats the caption of another picture; the distance of the two mean vectors."""
    captions, images = sample(rng, 4 * budget.tests, kinds=("pair",))
    u, v = clip.images(images), clip.texts(*as_ids(captions))
    own, cosines = (u * v).sum(-1), u @ v.T
    return (own[:, None] > cosines).float().sum().item() / (len(u) * (len(u) - 1)), (
        u.mean(0) - v.mean(0)
    ).norm().item()


CHANGES = {"another relation": "relation", "things swapped": "things_swapped", "colours swapped": "colours_swapped"}
for how, name in CHANGES.items():
    measured[name] = [prefers_truth(clip, how, 4 * budget.tests, random.Random(3)) for clip in clips]
measured["one_of_two"], measured["modality_gap"] = zip(*(beats_others(clip, random.Random(4)) for clip in clips))
run.table(
    [["a caption of another picture", spread(measured["one_of_two"])],
     *([how, spread(measured[name])] for how, name in CHANGES.items())],
    ["the false text", "the true one scores higher"], caption="Two texts, one picture: tossing a coin has 50%",
)  # fmt: skip
print(
    f"distance between the mean picture vector and the mean text vector: {spread(measured['modality_gap'], '.2f')} (of at most 2)"
)

# %% [markdown]
# On relations and order it is not far from the coin. Colours swapped it rejects more often: binding is not forced, but some is learned.
#
# The tables behind these figures, for six pictures each, by the first seed's CLIP: at random, one set of words in many orders, and names that no caption held.

# %%
SETS = {
    "random": ("Six at random", "To tell random pictures apart, a few words are enough.", [POOL["held-out"][kind][k] for kind in KINDS for k in (1, 5)]),
    "order": ("Same words, other order", "Each text holds the same two things or colours; what differs is who is where.", [
        "a red circle left of a blue square", "a blue square left of a red circle", "a blue circle left of a red square",
        "a red circle above a blue square", "a blue square above a red circle", "a red square above a blue circle",
    ]),
    "unseen": ("Names never trained on", "Four of these names occur in no training caption; the last two do.", [
        *(f"a {name} at the upper left" for name in pictures.UNSEEN), "a red circle at the upper left", "a blue square at the upper left",
    ]),
}  # fmt: skip
clip, tables, find_own = clips[0], [], {}
with torch.no_grad():
    for name, (title, note, captions) in SETS.items():
        images = draw(captions, random.Random(21))
        cosines = clip.images(images) @ clip.texts(*as_ids(captions)).T
        find_own[name] = int((cosines.argmax(1) == torch.arange(6)).sum())
        pngs = [base64.b64encode(png(image)).decode() for image in images]
        tables.append(
            {"name": name, "title": title, "note": note, "captions": captions, "pictures": pngs, "cosines": cosines}
        )
run.explorer("clip_table", {"scale": clip.scale.item(), "sets": tables}, digits=4)

# %% [markdown]
# ### The scale
#
# Cosines lie between -1 and 1. Unscaled, even a perfect table has a loss far from 0, because the softmax cannot become sure. The trained
# vectors of the first seed, evaluated at other scales on a new batch:

# %%
with torch.no_grad():
    captions, images = distinct(random.Random(5), budget.clip_batch)
    pair = clip.images(images), clip.texts(*as_ids(captions))
    scales = np.geomspace(1, 200, 40)
    by_scale = [clip_loss(*pair, float(value)).mean().item() for value in scales]
    learned, at_learned = clip.scale.item(), clip_loss(*pair, clip.scale).mean().item()
perfect = math.log(1 + (budget.clip_batch - 1) * math.exp(-1))  # own cosine 1, all others 0, scale 1
best_scale = float(scales[int(np.argmin(by_scale))])
fig = go.Figure()
fig.add_scatter(x=np.float32(scales), y=np.float32(by_scale), name="loss", line={"color": palette.MIDDLE["policy"]})
fig.add_scatter(
    x=[learned], y=[at_learned], mode="markers", name="learned scale", marker={"size": 10, "color": palette.MIDDLE["reward"]}
)  # fmt: skip
fig.update_layout(title="CLIP's loss at other scales", xaxis_title="scale s", yaxis_title="loss (nats)")
fig.update_xaxes(type="log")
run.figure(
    fig,
    f"A line over scales from 1 to 200: the loss is {by_scale[0]:.2f} nats at scale 1, falls to its lowest point, {min(by_scale):.2f} at scale "
    f"{best_scale:.0f}, and is {by_scale[-1]:.2f} at scale 200. A dot marks the learned scale, {learned:.1f}, with a loss of {at_learned:.2f}.",
)
print(
    f"at scale 1: {by_scale[0]:.2f} nats, and no better than {perfect:.2f} if own cosines were 1 and all others 0; lowest at scale "
    f"{best_scale:.0f}: {min(by_scale):.2f}; at the learned scale {learned:.1f}: {at_learned:.2f}"
)

# %% [markdown]
# ## A model that sees: LLaVA's recipe
#
# Take an image encoder that was trained against text (ours), and a language model that has read and never seen. Ours is a decoder over the 28
# words, trained for some seconds on captions without pictures: it writes captions, of nothing in particular.

# %%
START, STOP = WORDS + 1, END  # "describe", and the end of a text


def token_rows(captions, prompt):
    """Prompt, words and end, padded, (B, T); and which tokens are answer, (B, T)."""
    rows = [torch.tensor([*prompt, *pictures.word_ids(caption), STOP]) for caption in captions]
    lengths = torch.tensor([len(row) for row in rows])
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=STOP)
    columns = torch.arange(ids.shape[1])
    return ids, (columns >= len(prompt)) & (columns < lengths[:, None])


def answer_loss(model, captions, prompt, images=None):
    """Mean cross-entropy (nats) of the captions' tokens."""
    ids, counted = token_rows(captions, prompt)
    states = model.hidden(ids[:, :-1], images)[counted[:, 1:]]
    return F.cross_entropy(model.decoder.lm_head(states), ids[:, 1:][counted[:, 1:]])


def frozen_but(model, *parts):
    """The model, of which nothing but these parts can learn."""
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    return model


def reading(model, rng):
    return [answer_loss(model, phrases(rng, budget.tune_batch), [START])]


def fresh_model(seed):
    torch.manual_seed(100 + seed)
    looking = copy.deepcopy(clips[seed].image_encoder)
    looking.body.layers = looking.body.layers[:-1]  # the last block was trained for the class token's state alone
    model = VisionLanguageModel(looking, Transformer(sizes(WORDS + 2, 96, 3, 256)).initialize(0.05))
    return frozen_but(model, model.decoder)


seeing = [fresh_model(seed) for seed in SEEDS]
train("Reading: captions without pictures", seeing, reading, budget.read_steps, 2e-3, stream=2)
EVERY = {caption for of_kind in POOL.values() for captions in of_kind.values() for caption in captions}


def dreams(model, count, seed):
    """What the decoder writes after "describe" alone, sampled from its own distribution."""
    generator = torch.Generator().manual_seed(seed)
    written = decoding.generate(
        model.decoder, [[START]] * count, 10, decoding.Sampling(), stop_id=STOP, generator=generator
    )
    return [" ".join(pictures.WORDS[i] for i in row.ids if i < WORDS) for row in written]


measured["dreams"] = [
    np.mean([dream in EVERY for dream in dreams(model, 4 * budget.tests, 4)]) for model in seeing
]  # the same seed of the sampler, another model
print("it writes, of nothing:", "; ".join(dreams(seeing[0], 6, 4)))
print(f"of {4 * budget.tests} such texts {spread(measured['dreams'])} are captions of this world")

# %% [markdown]
# Between the two stands a **projector** of two layers. In the row of ids, 16 places are kept for patches. Take the patches' states before CLIP's
# last block, as LLaVA does: CLIP's loss looks at the class token alone, so nothing ever asked the last block for good patches.

# %%
PROMPT = [IMAGE] * 16 + [START]
ids, image = torch.tensor([PROMPT]), draw(["a red circle at the upper left"], random.Random(0))
first = seeing[0]  # the first seed's
table = first.decoder.embed_tokens.weight  # (30, 96)
patches = first.projector(first.encoder(image)[:, 1:])  # (1, 16, 96): the class token stays at home
in_the_open, k = [], 0
for token in PROMPT:
    in_the_open.append(patches[0, k] if token == IMAGE else table[token])
    k += token == IMAGE
splice_gap = (torch.stack(in_the_open) - first.inputs(ids, image)[0]).abs().max().item()
print(
    f"a prompt of {len(PROMPT)} rows, 16 of them patches; the loop and the library's inputs differ by {splice_gap:.0e}"
)

# %% [markdown]
# From here on it is supervised fine-tuning: next-token cross-entropy on the answer. Two stages, as in LLaVA: first the **projector alone**, so that
# its noise does not reach what is already good; then the language model with it. LLaVA keeps its encoder frozen; ours is small and saw
# little, so it learns along. In stage 2 each batch also holds some captions without a picture, so that the decoder does not forget text. What that is
# worth is measured along the way: a copy of each model goes through the first steps of the same stage 2, at the same learning rates, without them.
#
# A falling loss is no proof of sight: much of a caption can be guessed from text. Two measures on pictures whose captions training never
# held, against chance. **Exact**: is the description right in every word? **Choice**: of the true caption and all that differ from it in one place (another
# colour, shape, number, row, column or relation), is the true one the likeliest?


# %%
def describe(model, images):
    return [" ".join(pictures.WORDS[i] for i in row if i < WORDS) for row in model.describe(PROMPT, images, STOP, 10)]


PARTS = {caption: caption.replace("left of", "left-of").split() for caption in EVERY}


@functools.cache
def near(caption):
    """A caption, and all others that differ from it in one place; 1 / their number is the chance of a blind choice."""
    own = PARTS[caption]
    others = (
        c for c, parts in PARTS.items() if len(parts) == len(own) and sum(a != b for a, b in zip(own, parts)) == 1
    )
    return [caption, *sorted(others)]


@torch.no_grad()
def chooses(score, captions, images):
    """Share of pictures for which their own caption scores highest among those near it; score: texts, one picture."""
    return float(np.mean([int(score(near(c), image).argmax()) == 0 for c, image in zip(captions, images[:, None])]))


def likelihood(logits_of, prompt, texts, image):
    """log p of each of these texts, (M,), for one picture (1, 3, 24, 24)."""
    ids, counted = token_rows(texts, prompt)
    logits = logits_of(ids[:, :-1], image.expand(len(texts), -1, -1, -1))
    each_token = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:].clamp(min=0), reduction="none")
    return -(each_token * counted[:, 1:]).sum(1)


@torch.no_grad()
def text_loss(model):
    """The loss on the same captions every time, without a picture: what the decoder still knows of text."""
    return answer_loss(model, told, [START]).item()


def judged(model):
    """Shares of exact descriptions by split and kind, of right choices by split, and the loss on text."""
    found = {"text": text_loss(model)}
    for split in ("held-out", "unseen"):
        rng, chosen = random.Random(7), []
        for kind in KINDS:
            captions, images = sample(rng, budget.tests, split, (kind,))
            found[f"{split} {kind}"] = float(np.mean([a == b for a, b in zip(describe(model, images), captions)]))
            some = slice(budget.choices)
            chosen.append(chooses(lambda *pair: likelihood(model, PROMPT, *pair), captions[some], images[some]))
        found[split] = float(np.mean([found[f"{split} {kind}"] for kind in KINDS]))
        found[f"{split} choice"] = float(np.mean(chosen))
    return found


def by_seed(models):
    """What `judged` finds: by name, a number for each seed."""
    found = [judged(model) for model in models]
    return {name: [of_seed[name] for of_seed in found] for name in found[0]}


def describing(model, rng):
    captions, images = sample(rng, budget.tune_batch)
    return [answer_loss(model, captions, PROMPT, images)]


def describing_and_reading(model, rng):
    return [*describing(model, rng), 0.2 * answer_loss(model, phrases(rng, budget.tune_batch // 4), [START])]


started = time.perf_counter()
told, stages = phrases(random.Random(6), 2 * budget.tests), {}
seeing = [frozen_but(model, model.projector) for model in seeing]
train("Stage 1: the projector alone", seeing, describing, budget.align_steps, 4e-3, stream=3)
stages["stage 1: projector"] = by_seed(seeing)

seeing = [frozen_but(model, model.projector, model.decoder, model.encoder) for model in seeing]
stage_2 = dict(steps=budget.tune_steps, learning_rate=2e-3, stream=4, watch=text_loss)
at = sorted({*range(0, budget.tune_steps, 30), budget.alone_steps})
alone = [copy.deepcopy(model) for model in seeing]
label = f"The first {budget.alone_steps} steps of stage 2 without text"
_, text_alone = train(label, alone, describing, **stage_2, until=budget.alone_steps, at=at)
tune_losses, text_beside = train("Stage 2: all parts, with text", seeing, describing_and_reading, **stage_2, at=at)
stages["stage 2: all parts"] = by_seed(seeing)
vlm_seconds = time.perf_counter() - started
final = stages["stage 2: all parts"]


@torch.no_grad()
def clip_choice(clip, split):
    """CLIP's share of right choices: the largest cosine, on the pictures that `judged` takes."""
    rng, chosen = random.Random(7), []
    for kind in KINDS:
        captions, images = sample(rng, budget.tests, split, (kind,))
        chosen.append(
            chooses(
                lambda texts, image: (clip.texts(*as_ids(texts)) @ clip.images(image).T)[:, 0],
                captions[: budget.choices],
                images[: budget.choices],
            )
        )
    return float(np.mean(chosen))


chance = {}
for split in ("held-out", "unseen"):
    rng = random.Random(7)
    chance[split] = float(np.mean([1 / len(near(c)) for kind in KINDS for c in rng.choices(POOL[split][kind], k=60)]))
    measured["clip_choice" + ("_unseen" if split == "unseen" else "")] = [clip_choice(clip, split) for clip in clips]
columns = [f"{split}{what}" for what in ("", " choice") for split in ("held-out", "unseen")]
run.table(
    [["a blind choice", "", "", *(f"{chance[split]:.0%}" for split in chance)],
     ["CLIP, by its cosine", "", "", spread(measured["clip_choice"]), spread(measured["clip_choice_unseen"])],
     *([name, *(spread(found[column]) for column in columns)] for name, found in stages.items())],
    ["model", "held-out captions: exact", "unseen names: exact", "held-out captions: choice", "unseen names: choice"],
    caption=f"What the stages bring, {len(SEEDS)} seeds ({3 * budget.tests} pictures for exact, {3 * budget.choices} for choice)",
)  # fmt: skip

# %%
run.table(
    [[split, *(spread(final[f"{split} {kind}"]) for kind in KINDS)] for split in ("held-out", "unseen")],
    ["pictures of", "one thing and its place", "a number of things", "two things and how they stand"],
    caption="Exact descriptions after stage 2",
)  # fmt: skip
captions, images = sample(random.Random(8), 6, "held-out")
said = [
    f"says: {said}" + ("" if said == true else f" (is: {true})")
    for said, true in zip(describe(seeing[0], images), captions)
]
gallery(images, said, "Held-out pictures, described by the first seed's model")

# %% [markdown]
# After stage 1 the choice is worse than a blind one: a model that does not see takes the text that is likeliest anyway, and that is seldom one that
# training never held. After stage 2 it sees; but of names that no text held CLIP, which never learned to write, still chooses better.
#
# And what did stage 2 cost in text? The same steps, the same learning rates, with and without captions in the batch that have no picture:

# %%
measured["text_before"] = stages["stage 1: projector"]["text"]
measured["text_alone"], measured["text_beside"] = text_alone[budget.alone_steps], text_beside[budget.alone_steps]
measured["text_after"] = final["text"]
fig = go.Figure()
for found, name, role in ((text_alone, "pictures alone", "rejected"), (text_beside, "with text", "chosen")):
    band(fig, list(found), np.array(list(found.values())).T, name, role)
fig.update_layout(title="Loss on text during stage 2", xaxis_title="step", yaxis_title="loss (nats a token)")
low, high = spread(measured["text_beside"], ".2f"), spread(measured["text_alone"], ".2f")
run.figure(
    fig,
    f"Two lines with bands over {len(SEEDS)} seeds, both from {spread(measured['text_before'], '.2f')} at step 0. After {budget.alone_steps} steps "
    f"the run on pictures alone stands at {high} and ends; the run with text stands at {low} there, and at {spread(measured['text_after'], '.2f')} at its end.",
)
run.table(
    [["before stage 2", spread(measured["text_before"], ".2f")],
     [f"{budget.alone_steps} steps on pictures alone", high], [f"{budget.alone_steps} steps with text", low],
     [f"all {budget.tune_steps} steps with text", spread(measured["text_after"], ".2f")]],
    ["after", "loss on text (nats a token)"], caption="What pictures cost in text",
)  # fmt: skip

# %% [markdown]
# ### It describes what is not there
#
# Two questions to ask of any model that claims to see. Does the answer depend on the picture? And what does it say of a picture with nothing
# in it, which training never showed?

# %%
captions, images = sample(random.Random(9), 3 * budget.tests, "held-out")
faint = 0.02 * torch.randn(budget.tests, 3, pictures.SIDE, pictures.SIDE, generator=torch.Generator().manual_seed(10))
empty = (pictures.draw([()] * budget.tests, 10) + faint).clamp(0, 1)


@torch.no_grad()
def doubts(model):
    """Shares exact with its own and with another picture; of empty pictures: texts, the usual one, its share, certainty."""
    own, other = (
        float(np.mean([a == b for a, b in zip(describe(model, x), captions)])) for x in (images, images.roll(1, 0))
    )
    said = describe(model, empty)
    usual = max(sorted(set(said)), key=said.count)
    first = model(torch.tensor([PROMPT]).expand(len(empty), -1), empty)[:, -1].softmax(-1).amax(-1).mean().item()
    return (
        own,
        other,
        float(np.mean([bool(text) for text in said])),
        float(np.mean([text in EVERY for text in said])),
        first,
        usual,
    )


names = ("own_picture", "other_picture", "invented", "invented_whole", "certainty")
*numbers, usual = zip(*(doubts(model) for model in seeing))
measured |= dict(zip(names, numbers))
gallery(
    empty[:1].expand(len(SEEDS), -1, -1, -1),
    [f"says: {text}" for text in usual],
    "An empty picture with a little noise: each seed's usual answer",
)
print(
    f"exact with its own picture {spread(measured['own_picture'])}, with another one {spread(measured['other_picture'])}; "
    f"{spread(measured['invented'])} of empty pictures described, {spread(measured['invented_whole'])} with a caption of this world; "
    f"the first word has a probability of {spread(measured['certainty'], '.2f')}"
)

# %% [markdown]
# The model was trained on pictures with things in them, and no caption said "nothing". So it describes a thing,
# and is nearly certain of its first word. At scale this is called object hallucination, and
# it is measured by asking for things that are not there.
#
# ## Pictures as tokens
#
# The second way. Replace each patch by the nearest of $K$ vectors of a **codebook**: its index is a token like any other. Patches of 8 by 8 pixels now,
# as in DALL-E: 9 tokens a picture. How large must the codebook be? Let the rule judge what is left of the pictures.

# %%
CELL, CODES = 8, 9  # a patch's side; patches, and so tokens, of a picture
rng = random.Random(11)
points = patchify(sample(rng, budget.codebook_pictures)[1], CELL).flatten(0, 1)  # (9 pictures, 192)
captions, images = sample(rng, budget.tests)
rows, books = [], {}
for size in budget.codebooks:
    books[size] = kmeans(points, size, 10)
    codes = nearest(patchify(images, CELL), books[size])  # (B, 9)
    back = unpatchify(books[size][codes], CELL)
    noise = -10 * math.log10((back - images).square().mean().item())
    legible = float(np.mean([pictures.shows(pictures.read(image), caption) for image, caption in zip(back, captions)]))
    rows.append((size, CODES * math.log2(size) / 8, noise, legible))
    if size in (budget.codebooks[0], budget.codebooks[-1]):
        gallery(back[:4], captions[:4], f"Through a codebook of {size} codes")
run.table(
    [[size, f"{kept:.0f}", f"{noise:.1f} dB", f"{legible:.0%}"] for size, kept, noise, legible in rows],
    ["codes", "bytes a picture", "signal to noise (peak)", "still read as the caption says"],
    caption=f"k-means codebooks; raw, a picture has {3 * 24 * 24:,} bytes",
)  # fmt: skip
K, book = budget.codebooks[-1], books[budget.codebooks[-1]]
legible = {size: share for size, _, _, share in rows}

# %% [markdown]
# ### A codebook that learns, and one that dies
#
# Real tokenizers quantize not pixels but an encoder's vectors, and train encoder, codebook and decoder together (VQ-VAE, VQGAN). The nearest code
# has no useful gradient, so the **straight-through** trick passes it by: forwards the code, backwards as if nothing had happened. Two more terms move codes to
# vectors and vectors to codes. A code that is nearest to nothing gets no gradient, and may stay so for good. Here the codes begin far apart,
# and the encoder's vectors all near 0.

# %%
x = torch.tensor([[0.8, 0.3]], requires_grad=True)
codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
found = quantize(x, codes)
(found.vectors * torch.tensor([[2.0, -1.0]])).sum().backward()
print(
    f"(0.8, 0.3) becomes code {found.codes.item()}, {found.vectors.tolist()}; squared distance {found.codebook.item():.2f}; gradient straight through {x.grad.tolist()}"
)


def vq_vae(revive, steps, seed, codes=64, width=8):
    """Patch by patch: 192 numbers -> 8 -> nearest of 64 codes -> 192. Returns codes in use and the error, step by step."""
    torch.manual_seed(seed)
    down = nn.Sequential(nn.Linear(192, 96), nn.GELU(), nn.Linear(96, width))
    up = nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, 192))
    table = nn.Parameter(3 * torch.randn(codes, width))  # far from where the encoder's first vectors lie, near 0
    optimizer = torch.optim.Adam([*down.parameters(), *up.parameters(), table], lr=4e-3)
    generator, in_use, errors = torch.Generator().manual_seed(seed), [], []
    for step in range(steps):
        patch = busy[torch.randint(len(busy), (512,), generator=generator)]
        vectors = down(patch)
        quantized = quantize(vectors, table)
        error = (up(quantized.vectors) - patch).square().sum(-1)
        optimizer.zero_grad()
        (error + quantized.codebook + 0.25 * quantized.commitment).mean().backward()
        optimizer.step()
        counts = torch.bincount(quantized.codes, minlength=codes)
        if revive and step % 10 == 9 and step < 0.8 * steps:
            dead = counts == 0
            chosen = torch.randint(len(vectors), (int(dead.sum()),), generator=generator)
            table.data[dead] = vectors.detach()[chosen]  # a code that nobody needs moves to a vector that somebody has
        in_use.append(int((counts > 0).sum()))
        errors.append(error.mean().item())
    return in_use, errors


busy = points[points.amax(1) > 0.3]  # the patches that hold something
started, fig, told_of = time.perf_counter(), go.Figure(), []
for name, key, role in (("as written", "dead", "rejected"), ("dead codes revived", "alive", "chosen")):
    found = np.array([vq_vae(key == "alive", budget.vq_steps, 12 + seed) for seed in SEEDS])  # (seeds, 2, steps)
    measured[f"codes_{key}"], measured[f"error_{key}"] = found[:, :, -20:].mean(-1).T.tolist()
    band(fig, np.arange(found.shape[2])[::5], found[:, 0, ::5], name, role)
    told_of.append(f"{name}: {spread(measured[f'codes_{key}'], '.0f')} codes at the end")
    print(f"{told_of[-1]}, squared error of a patch {spread(measured[f'error_{key}'], '.2f')}")
k64 = kmeans(busy, min(64, len(busy)), 10)
k_error = (busy - k64[nearest(busy, k64)]).square().sum(-1).mean().item()
fig.update_layout(title="Codes in use, of 64", xaxis_title="step", yaxis_title="codes chosen in a batch of 512 patches")
run.figure(
    fig,
    f"Codes in use over {budget.vq_steps} steps, two lines with bands over {len(SEEDS)} seeds. {'; '.join(told_of)}.",
)
print(f"k-means with 64 codes on pixels: {k_error:.3f}; {time.perf_counter() - started:.0f} s")

# %% [markdown]
# ### One model that draws and describes
#
# Give the codes ids after the words, add "begin" and "end", and a caption with its picture is one row of tokens. More than half of the rows have the words
# first, so the model learns to draw; the others have the picture first, so it learns to describe. **Nothing else changes.** The network is
# the plain decoder, the loss the next token's cross-entropy, and what draws is the sampling code of chapter 4. As in DALL-E, what comes first in a
# row weighs less: which caption comes next is a matter of chance, and nothing can be learned from it.

# %%
FIRST, BEGIN, FINISH = WORDS, WORDS + K, WORDS + K + 1
print(f"vocabulary: {WORDS} words, {K} codes, begin and end: {FINISH + 1} tokens")


def as_rows(captions, images, words_first):
    """Token rows: words, begin, 9 codes, end; or begin, 9 codes, end, words, end. And what each token weighs in the loss."""
    codes = (nearest(patchify(images, CELL), book) + FIRST).tolist()
    rows, weights = [], []
    for caption, row, first in zip(captions, codes, words_first):
        words = pictures.word_ids(caption)
        given, wanted = ([*words, BEGIN], [*row, FINISH]) if first else ([BEGIN, *row, FINISH], [*words, FINISH])
        rows.append(torch.tensor(given + wanted))
        weights.append(torch.tensor([1 / 8] * len(given) + [1.0] * len(wanted)))
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=FINISH), pad(weights, batch_first=True)


def fresh_fused(seed):
    compute.seed(13 + seed)
    model = Transformer(sizes(FINISH + 1, 96, 4, 256)).initialize(0.08)
    looks = (book - book.mean(0)) @ torch.randn(book.shape[1], 96)  # (K, 96): codes that look alike begin alike
    model.embed_tokens.weight.data[FIRST:BEGIN] = 0.1 * looks / looks.std()
    return model


def fused_terms(model, rng):
    captions, images = sample(rng, budget.fusion_batch)
    rows, weights = as_rows(captions, images, [rng.random() < 0.6 for _ in captions])
    each_token = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return [each_token @ weights[:, 1:].flatten() / weights[:, 1:].sum()]


fused = [fresh_fused(seed) for seed in SEEDS]
started = time.perf_counter()
label = "Early fusion: words and codes in one row"
fusion_losses, _ = train(label, fused, fused_terms, budget.fusion_steps, 2e-3, stream=5, decay=0.05)
fusion_seconds = time.perf_counter() - started
fusion_parameters = sum(p.numel() for p in fused[0].parameters())
print(
    f"{fusion_parameters:,} parameters each, {fusion_seconds:.0f} s, loss {spread(fusion_losses[0], '.2f')} to "
    f"{spread(fusion_losses[-20:].mean(0), '.2f')}"
)

# %% [markdown]
# Draw. For each caption several pictures; the rule reads each one. And as DALL-E did, let CLIP choose among the candidates: our own CLIP of the same seed, which
# has never seen a drawn picture.

# %%
NOT_A_CODE = torch.ones(FINISH + 1, dtype=torch.bool)
NOT_A_CODE[FIRST : FIRST + K] = False


def paint(model, captions, seed, temperature=1.0):
    """One picture for each caption, token by token."""
    prompts = [[*pictures.word_ids(caption), BEGIN] for caption in captions]
    drawn = decoding.generate(
        model, prompts, CODES, decoding.Sampling(temperature=temperature), generator=torch.Generator().manual_seed(seed),
        processor=lambda logits, new: logits.masked_fill(NOT_A_CODE, -torch.inf),
    )  # fmt: skip
    codes = torch.tensor([completion.ids for completion in drawn]) - FIRST
    return unpatchify(book[codes], CELL)


def painted_by(seed, captions):
    """Candidates of each caption, (C, M, 3, 24, 24); which show it, by the rule; which one CLIP chooses."""
    candidates = paint(fused[seed], [caption for caption in captions for _ in range(budget.candidates)], seed=16)
    candidates = candidates.view(len(captions), budget.candidates, 3, 24, 24)
    shows = torch.tensor(
        [[pictures.shows(pictures.read(image), c) for image in row] for c, row in zip(captions, candidates)]
    )
    with torch.no_grad():
        seen = clips[seed].images(candidates.flatten(0, 1)).view(len(captions), budget.candidates, -1)
        best = (seen * clips[seed].texts(*as_ids(captions))[:, None]).sum(-1).argmax(1)
    return candidates, shows, best


started, rows = time.perf_counter(), []
for split, end in (("held-out", ""), ("unseen", "_unseen")):
    rng = random.Random(15)
    captions = [rng.choice(POOL[split][kind]) for kind in KINDS for _ in range(budget.drawn // 3)]
    found, order = [painted_by(seed, captions) for seed in SEEDS], torch.arange(len(captions))
    measured[f"drawn_one{end}"] = [shows.float().mean().item() for _, shows, _ in found]
    measured[f"drawn_chosen{end}"] = [shows[order, best].float().mean().item() for _, shows, best in found]
    measured[f"drawn_any{end}"] = [shows.any(1).float().mean().item() for _, shows, _ in found]
    rows.append([split, *(spread(measured[f"drawn_{which}{end}"]) for which in ("one", "chosen", "any"))])
    if split == "held-out":
        by_kind = [shows.float().mean(1).view(3, -1).mean(1).tolist() for _, shows, _ in found]
        measured |= dict(zip(("drawn_place", "drawn_count", "drawn_pair"), zip(*by_kind)))
        candidates, shows, best = found[0]
        picks = [i * (budget.drawn // 3) + j for i in range(3) for j in range(min(2, budget.drawn // 3))]
        said = [captions[i] + ("" if shows[i, best[i]] else " (by the rule it does not show this)") for i in picks]
        gallery(
            candidates[order, best][picks],
            said,
            "Drawn from captions that training never held, chosen by CLIP among the candidates; the first seed",
        )
run.table(
    rows, ["captions", "one drawing", f"CLIP's choice of {budget.candidates}", f"any of {budget.candidates}"],
    caption=f"Share of drawings that show what the caption says, by the rule ({budget.drawn} captions a row, {len(SEEDS)} seeds)",
)  # fmt: skip

# %% [markdown]
# New captions of known names it draws, not every time, and CLIP's choice helps. Names that no caption held it hardly ever draws, in none of the candidates, and no choice can help there.
#
# And the same network, given the picture first, describes it.

# %%
captions, images = sample(random.Random(17), 2 * budget.tests, "held-out")
prompts = [
    row[: CODES + 2].tolist() for row in as_rows(captions, images, [False] * len(captions))[0]
]  # begin, codes, end
measured["fusion_describes"] = []
for model in fused:
    written = decoding.generate(model, prompts, 10, decoding.GREEDY, stop_id=FINISH)
    said = [" ".join(pictures.WORDS[token] for token in row.ids if token < WORDS) for row in written]
    measured["fusion_describes"].append(np.mean([a == b for a, b in zip(said, captions)]))
print(
    f"the drawing model describes {spread(measured['fusion_describes'])} of held-out pictures exactly; painting took {time.perf_counter() - started:.0f} s"
)

# %% [markdown]
# ## As at work
#
# transformers has all of this: `LlavaForConditionalGeneration` joins any image encoder to any language model. First it gets *our* parts, the first seed's
# encoder, projector and decoder: the logits must be the same, and its `generate` must write the same descriptions. Then three of its own, of our size and with no CLIP
# before, take their first steps from nothing. Their loss falls fast. Do they see?

# %%
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

PLACE = WORDS + 2  # the id that marks a patch's place: here it needs a row in the table
PLACES_FIRST = [PLACE] * 16 + [START]


def fresh_llava(seed):
    compute.seed(19 + seed)
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, image_size=24, patch_size=PATCH, projection_dim=64),
        text_config=LlamaConfig(
            vocab_size=WORDS + 3, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            head_dim=24, rms_norm_eps=1e-5, tie_word_embeddings=True, pad_token_id=STOP, bos_token_id=None, eos_token_id=STOP,
        ),
        image_token_index=PLACE, image_seq_length=16,
    ))  # fmt: skip


class OurTower(nn.Module):
    """Our encoder where LLaVA expects a CLIP: it asks for the hidden states, and takes the last but one."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values, **ignored):
        states = self.encoder(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states=(states, states))


peer, ours = fresh_llava(0), seeing[0]
peer.model.vision_tower = OurTower(ours.encoder)
peer.model.multi_modal_projector.linear_1, peer.model.multi_modal_projector.linear_2 = (
    ours.projector[0],
    ours.projector[2],
)
weights = {name: value for name, value in ours.decoder.state_dict().items() if name != "lm_head.weight"}
weights["embed_tokens.weight"] = F.pad(weights["embed_tokens.weight"], (0, 0, 0, 1))  # and a row of zeros for the mark
peer.model.language_model.load_state_dict(weights)

captions, images = sample(random.Random(18), budget.tests, "held-out")
with torch.no_grad():
    ids = token_rows(captions, PROMPT)[0]
    logits = peer(input_ids=ids.masked_fill(ids == IMAGE, PLACE), pixel_values=images).logits[..., :PLACE]
    peer_gap = (logits - ours(ids, images)).abs().max().item()
    prompt = torch.tensor([PLACES_FIRST]).expand(len(images), -1)
    written = peer.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=images, max_new_tokens=10, do_sample=False,
        suppress_tokens=[PLACE],
    )[:, prompt.shape[1] :].tolist()  # fmt: skip
peer_says = [
    " ".join(pictures.WORDS[i] for i in row[: row.index(STOP) if STOP in row else None] if i < WORDS) for row in written
]
peer_alike = float(np.mean([a == b for a, b in zip(peer_says, describe(ours, images))]))
peer_exact = float(np.mean([a == b for a, b in zip(peer_says, captions)]))
print(
    f"transformers' LLaVA with our parts: logits differ by at most {peer_gap:.0e}; {peer_alike:.0%} of {len(images)} descriptions are ours, "
    f"{peer_exact:.0%} exact, such as {peer_says[0]!r}"
)


# %%
def llava_terms(model, rng):
    captions, images = sample(rng, budget.tune_batch)
    ids, counted = token_rows(captions, PLACES_FIRST)
    return [model(input_ids=ids, pixel_values=images, labels=ids.masked_fill(~counted, -100)).loss]


def llava_chooses(model):
    """As `judged` measures it, on the same pictures."""
    rng, chosen, some = random.Random(7), [], slice(budget.choices)

    def score(texts, image):
        return likelihood(
            lambda ids, images: model(input_ids=ids, pixel_values=images).logits, PLACES_FIRST, texts, image
        )

    for kind in KINDS:
        captions, images = sample(rng, budget.tests, "held-out", (kind,))
        chosen.append(chooses(score, captions[some], images[some]))
    return float(np.mean(chosen))


llavas = [fresh_llava(seed) for seed in SEEDS]
peer_losses, _ = train("transformers' LLaVA, from nothing", llavas, llava_terms, budget.peer_steps, 2e-3, stream=6)
measured["peer_choice"] = [llava_chooses(model) for model in llavas]
measured["peer_first"], measured["peer_last"] = peer_losses[0], peer_losses[-5:].mean(0)
print(
    f"{sum(p.numel() for p in llavas[0].parameters()):,} parameters each; loss {spread(measured['peer_first'], '.2f')} to "
    f"{spread(measured['peer_last'], '.2f')} in {budget.peer_steps} steps; right choices among captions near the true one: "
    f"{spread(measured['peer_choice'])}, blind {chance['held-out']:.0%}, after stage 2 above {spread(final['held-out choice'])}"
)

# %% [markdown]
# Most of the loss is gone, and they do not see: what fell is the loss of the words that text alone foretells. And as after stage 1, a likelihood that
# knows text and no picture chooses worse than the blind. Ours saw after CLIP, two stages and many more steps.
#
# ## What the lab found

# %%
measured |= {
    "stage_1": stages["stage 1: projector"]["held-out"], "stage_1_unseen": stages["stage 1: projector"]["unseen"],
    "stage_1_choice": stages["stage 1: projector"]["held-out choice"], "stage_1_choice_unseen": stages["stage 1: projector"]["unseen choice"],
    "stage_2": final["held-out"], "stage_2_unseen": final["unseen"], "choice": final["held-out choice"], "choice_unseen": final["unseen choice"],
    **{kind: final[f"held-out {kind}"] for kind in KINDS}, **{f"{kind}_unseen": final[f"unseen {kind}"] for kind in KINDS},
}  # fmt: skip
least, middle = budget.codebooks[0], budget.codebooks[len(budget.codebooks) // 2]
for name, value, form in (
    ("seeds", len(SEEDS), "d"), ("train_captions", counts["train"], ",d"), ("held_out_captions", counts["held-out"], "d"), ("unseen_captions", counts["unseen"], "d"),
    ("patch_gap", patch_gap, ".1g"), ("vector_gap", vector_gap, ".1g"), ("who_tokens", who_tokens, "d"), ("sum_tokens", sum_tokens, "d"),
    ("llava_patches", LLAVA_PATCHES, "d"), ("picture_megabytes", LLAVA_PATCHES * cache_per_row / 2**20, ".1f"),
    ("row_kilobytes", cache_per_row / 2**10, ".1f"), ("clip_gap", clip_gap, ".1g"),
    ("clip_batch", budget.clip_batch, "d"), ("clip_steps", budget.clip_steps, "d"), ("clip_pairs", budget.clip_steps * budget.clip_batch, ",d"),
    ("clip_parameters", clip_parameters, ",d"), ("clip_seconds", clip_seconds, ".0f"), ("clip_guess", math.log(budget.clip_batch), ".2f"),
    ("scale_one", by_scale[0], ".2f"), ("scale_perfect", perfect, ".2f"), ("scale_learned", learned, ".1f"), ("best_scale", best_scale, ".0f"),
    ("splice_gap", splice_gap, ".1g"), ("vlm_seconds", vlm_seconds, ".0f"), ("tune_pictures", budget.tune_steps * budget.tune_batch, ",d"),
    ("choice_chance", chance["held-out"], ".0%"), ("choice_chance_unseen", chance["unseen"], ".0%"), ("alone_steps", budget.alone_steps, "d"),
    ("codes", K, "d"), ("legible_least", legible[least], ".0%"), ("legible_middle", legible[middle], ".0%"), ("legible_most", legible[K], ".0%"),
    ("codes_least", least, "d"), ("codes_middle", middle, "d"), ("picture_bytes", CODES * math.log2(K) / 8, ".0f"),
    ("error_kmeans", k_error, ".2f"), ("vocabulary", FINISH + 1, "d"), ("fusion_parameters", fusion_parameters, ",d"),
    ("fusion_seconds", fusion_seconds, ".0f"), ("fusion_rows", budget.fusion_steps * budget.fusion_batch, ",d"),
    ("candidates", budget.candidates, "d"), ("peer_gap", peer_gap, ".1g"), ("peer_alike", peer_alike, ".0%"), ("peer_exact", peer_exact, ".0%"),
    ("peer_steps", budget.peer_steps, "d"),
):  # fmt: skip
    run.result(name, value, format=form)
NATS, SHARES = (
    ("clip_first", "clip_last", "modality_gap", "text_before", "text_alone", "text_beside", "text_after", "certainty", "error_dead", "error_alive", "peer_first", "peer_last"),
    ("bare_seen", "many_seen", "bare_unseen", "many_unseen", "right_colour", "one_of_two", "relation", "things_swapped", "colours_swapped", "dreams",
     "stage_1", "stage_1_unseen", "stage_1_choice", "stage_1_choice_unseen", "stage_2", "stage_2_unseen", "choice", "choice_unseen", "clip_choice", "clip_choice_unseen",
     "place", "count", "pair", "place_unseen", "count_unseen", "pair_unseen", "own_picture", "other_picture", "invented", "invented_whole",
     "drawn_one", "drawn_chosen", "drawn_any", "drawn_one_unseen", "drawn_chosen_unseen", "drawn_any_unseen", "drawn_place", "drawn_count", "drawn_pair",
     "fusion_describes", "peer_choice"),
)  # fmt: skip
forms = dict.fromkeys(NATS, ".2f") | dict.fromkeys(SHARES, ".0%")
forms |= {"clip_scale": ".1f", "codes_dead": ".0f", "codes_alive": ".0f"}
for name, form in forms.items():  # the mean of the seeds, and their range
    run.result(name, float(np.mean(measured[name])), text=spread(measured[name], form))
run.result("empty_said", None, text=", ".join(f"“{said}”" for said in dict.fromkeys(usual)))


# %%
def least_gap(more, less):
    """By how much one measure exceeds another in the worst seed."""
    return min(a - b for a, b in zip(measured[more], measured[less]))


def worst(name):
    return min(measured[name])


run.claim("the rule reads every picture as its caption says", read_back == 1)
run.claim("patches by hand, the library's and a convolution agree", cut_alike and patch_gap < 1e-5)
run.claim("SmolLM2 gives the same logits for ids and for the same rows as vectors", vector_gap < 1e-4)
run.claim("CLIP's loss by hand equals the library's and transformers'", clip_gap < 1e-5)
run.claim(
    "CLIP's loss falls below a quarter of log B in every seed",
    max(measured["clip_last"]) < math.log(budget.clip_batch) / 4,
)
run.claim(
    "nine texts for a class do better than its bare name in every seed",
    min(least_gap("many_seen", "bare_seen"), least_gap("many_unseen", "bare_unseen")) > 0,
)
run.claim("names that no caption held are recognized far above chance in every seed", worst("many_unseen") > 0.25)
run.claim(
    "a random caption is rejected more often than a caption with another relation or with its things swapped, in every seed",
    min(least_gap("one_of_two", "relation"), least_gap("one_of_two", "things_swapped")) > 0.1,
)
run.claim("at scale 1 even these vectors have a loss near that of guessing", by_scale[0] > perfect)
run.claim("the decoder writes captions of this world before it sees", worst("dreams") > 0.5)
run.claim("the library places patches as the loop does", splice_gap < 1e-6)
run.claim(
    "after as many steps, text is forgotten more without text in the batches, in every seed",
    least_gap("text_alone", "text_beside") > 0,
)
run.claim(
    "after all of stage 2 with text, the loss on text is below that before it, in every seed",
    least_gap("text_before", "text_after") > 0,
)
run.claim("the projector alone does less than both stages in every seed", least_gap("stage_2", "stage_1") > 0)
run.claim(
    "a quarter of held-out pictures, at least, is described without a mistake in every seed", worst("stage_2") > 0.25
)
run.claim(
    "the true caption of a held-out picture is the likeliest among those near it four times as often as by a blind choice, in every seed",
    worst("choice") > 4 * chance["held-out"],
)
run.claim(
    "of names that no text held, CLIP chooses the caption better than the model that writes, in every seed",
    least_gap("clip_choice_unseen", "choice_unseen") > 0,
)
run.claim(
    "on captions that training never held, the model that writes chooses better than CLIP in the mean of the seeds",
    np.mean(measured["choice"]) > np.mean(measured["clip_choice"]),
)
run.claim(
    "the description depends on the picture in every seed",
    worst("own_picture") > 5 * max(measured["other_picture"]),
)
run.claim("nearly every empty picture is described as if something were there, in every seed", worst("invented") > 0.9)
run.claim("a larger codebook keeps more pictures legible", legible[least] < legible[K] and legible[K] > 0.95)
run.claim(
    "without care codes die, revived ones live, in every seed",
    max(a / b for a, b in zip(measured["codes_dead"], measured["codes_alive"])) < 0.7,
)
run.claim("dead codes cost accuracy in every seed", least_gap("error_dead", "error_alive") > 0)
run.claim(
    "a third of drawings, at least, show what a caption that training never held says, and most of CLIP's choices, in every seed",
    worst("drawn_one") > 1 / 3 and worst("drawn_chosen") > 0.5,
)
run.claim("CLIP's choice is better than one drawing in every seed", least_gap("drawn_chosen", "drawn_one") > 0)
run.claim("names that no text held are hardly ever drawn in any seed", max(measured["drawn_one_unseen"]) < 0.2)
run.claim("nor written, though CLIP recognizes them, in any seed", least_gap("many_unseen", "stage_2_unseen") > 0)
run.claim("transformers' LLaVA computes and writes what our model does", peer_gap < 1e-4 and peer_alike == 1)
run.claim(
    "a loss that more than halves is no sight: transformers' LLaVA from nothing chooses no better than the blind, in every seed",
    max(a / b for a, b in zip(measured["peer_last"], measured["peer_first"])) < 0.5
    and max(measured["peer_choice"]) <= chance["held-out"],
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Each takes a few minutes. `check` says what is wrong; an untouched stub counts as not attempted.
#
# **1. Tokens of a picture** (★, 3 minutes). From height, width, the side of a patch, and the side of the squares of patches that are merged into one.


# %%
def my_patch_tokens(height, width, size, merge):  # four integers -> an integer
    ...


check("multimodal.patch_tokens", my_patch_tokens)

# %% [markdown]
# **2. CLIP's loss** (★★, 6 minutes). From the table of cosines, pictures in the rows, and the scale: the mean over the batch.


# %%
def my_clip_loss(cosines, scale):  # cosines (B, B) -> a number
    ...


check("multimodal.clip_loss", my_clip_loss)

# %% [markdown]
# **3. Patches into places** (★★, 6 minutes). Where `input_ids` is -1, a patch goes; each row has places of its own.


# %%
def my_splice(embedded, input_ids, patches):  # (B, T, d), (B, T), (B, n, d) -> (B, T, d)
    ...


check("multimodal.splice", my_splice)

# %% [markdown]
# **4. Zero-shot** (★★, 6 minutes). Several texts name each class. Give the class of each picture. The vectors have any length.


# %%
def my_zero_shot(images, prompts):  # (B, e), (C, M, e) -> (B,)
    ...


check("multimodal.zero_shot", my_zero_shot)

# %% [markdown]
# **5. Straight through** (★★★, 8 minutes). Forwards the nearest code, backwards the identity, and nothing to the codebook.


# %%
def my_straight_through(vectors, codebook):  # (N, e), (K, e) -> (N, e)
    ...


check("multimodal.straight_through", my_straight_through)
