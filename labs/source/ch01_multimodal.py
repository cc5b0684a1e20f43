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
# from an image encoder, and as tokens of a codebook. You train three models, each in about a minute, in a world of coloured shapes
# where "does the picture show what the text says?" has an exact answer.
#
# - **You will** cut pictures into patches; feed vectors to SmolLM2; train CLIP and classify what it never saw named; join CLIP's encoder to
#   a language model, in LLaVA's two stages, and hear it describe what is not there; turn pictures into tokens, with a codebook that
#   collapses and one that does not; draw from captions with the same network that describes; and build LLaVA with transformers.
# - **Time:** about 3 minutes on a CPU with two cores.
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
from alignlab.tasks import pictures
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_multimodal")
budget = run.budget(
    full=dict(
        clip_steps=400, clip_batch=128, read_steps=80, align_steps=80, alone_steps=50, tune_steps=450, tune_batch=64, codebook_pictures=1200, codebooks=(8, 24, 64),
        vq_steps=400, fusion_steps=450, fusion_batch=64, tests=100, drawn=60, candidates=8, peer_steps=60,
    ),
    quick=dict(
        clip_steps=6, clip_batch=24, read_steps=3, align_steps=2, alone_steps=2, tune_steps=3, tune_batch=6, codebook_pictures=60, codebooks=(8, 16),
        vq_steps=8, fusion_steps=4, fusion_batch=4, tests=6, drawn=3, candidates=2, peer_steps=1,
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


def sample(rng, count, split="train", kinds=KINDS, shares=(0.4, 0.2, 0.4)):
    """Captions of a split, and their pictures."""
    shares = [share for kind, share in zip(KINDS, shares) if kind in kinds]
    captions = [rng.choice(POOL[split][kind]) for kind in rng.choices(kinds, shares, k=count)]
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


encoder = PatchEncoder(sizes(1, 64, 3, 176), side=24, size=PATCH)
encoder.body.initialize(0.06)
clip = CLIP(encoder, Transformer(sizes(WORDS + 1, 64, 2, 176)).initialize(0.06), size=64)
optimizer = torch.optim.AdamW(clip.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
rng = random.Random(1)
curve = run.curve(f"CLIP's loss on batches of {budget.clip_batch} pairs", y="loss (nats)")
clip_losses, started = [], time.perf_counter()
for step in run.progress(budget.clip_steps, "CLIP", curve=curve):
    captions, images = distinct(rng, budget.clip_batch)
    loss = clip_loss(clip.images(images), clip.texts(*as_ids(captions)), clip.scale).mean()
    update(optimizer, loss, rate(2e-3, step, budget.clip_steps))
    clip_losses.append(loss.item())
    if step % 5 == 0:
        curve.add("loss", step, loss)
clip_seconds = time.perf_counter() - started
clip_parameters = sum(p.numel() for p in clip.parameters())
clip_end = float(np.mean(clip_losses[-20:]))
print(
    f"{clip_parameters:,} parameters, {clip_seconds:.0f} s; loss from {clip_losses[0]:.2f} (knowing nothing: log "
    f"{budget.clip_batch} = {math.log(budget.clip_batch):.2f}) to {clip_end:.2f}; scale from 14.3 to {clip.scale.item():.1f}"
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
def zero_shot(names, count, rng):
    """Shares classified rightly among all 24 names: by a bare name, by nine texts; and the confusions of the latter."""
    of_names = [rng.choice(names) for _ in range(count)]
    seen = clip.images(draw([f"a {name} at the {rng.choice(PLACES)}" for name in of_names], rng))
    bare = clip.texts(*as_ids([f"a {name}" for name in pictures.NAMES]))
    many = clip.texts(*as_ids([f"a {name} at the {place}" for name in pictures.NAMES for place in PLACES]))
    many = F.normalize(many.view(len(pictures.NAMES), len(PLACES), -1).mean(1), dim=-1)
    wanted = torch.tensor([pictures.NAMES.index(name) for name in of_names])
    found = [(seen @ classes.T).argmax(-1) for classes in (bare, many)]
    return [(guess == wanted).float().mean().item() for guess in found], list(zip(of_names, found[1].tolist()))


clip.eval()
rng = random.Random(2)
(bare_seen, many_seen), _ = zero_shot(SEEN, 4 * budget.tests, rng)
(bare_unseen, many_unseen), confusions = zero_shot(pictures.UNSEEN, 4 * budget.tests, rng)
run.table(
    [["20 names that training captions hold", f"{bare_seen:.0%}", f"{many_seen:.0%}"],
     ["4 names that no training caption holds", f"{bare_unseen:.0%}", f"{many_unseen:.0%}"]],
    ["pictures of", "the bare name", "mean of nine texts"], caption="Zero-shot classification among 24 names; guessing has 4%",
)  # fmt: skip
missed = [(name, pictures.NAMES[guess]) for name, guess in confusions if pictures.NAMES[guess] != name]
right_colour = float(np.mean([a.split()[0] == b.split()[0] for a, b in missed])) if missed else 0.0
print(f"of {len(missed)} misses on unseen names, {right_colour:.0%} have the right colour: {sorted(set(missed))[:4]}")

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
def prefers_truth(how, count, rng):
    captions = [c for c in (rng.choice(POOL["train"]["pair"]) for _ in range(4 * count)) if altered(c, how) != c][
        :count
    ]
    seen = clip.images(draw(captions, rng))
    true, false = (clip.texts(*as_ids(texts)) for texts in (captions, [altered(c, how) for c in captions]))
    return ((seen * true).sum(-1) > (seen * false).sum(-1)).float().mean().item()


CHANGES = ("another relation", "things swapped", "colours swapped")
binding = {how: prefers_truth(how, 4 * budget.tests, random.Random(3)) for how in CHANGES}
other = []
with torch.no_grad():
    rng = random.Random(4)
    captions, images = sample(rng, 4 * budget.tests, kinds=("pair",), shares=(0, 0, 1))
    cosines = clip.images(images) @ clip.texts(*as_ids(captions)).T
    one_of_two = (cosines.diagonal()[:, None] > cosines).float().sum(-1).mean().item() / (len(captions) - 1)
    gap_images, gap_texts = clip.images(images).mean(0), clip.texts(*as_ids(captions)).mean(0)
    modality_gap = (gap_images - gap_texts).norm().item()
run.table(
    [["a caption of another picture", f"{one_of_two:.0%}"], *([how, f"{share:.0%}"] for how, share in binding.items())],
    ["the false text", "the true one scores higher"], caption="Two texts, one picture: tossing a coin has 50%",
)  # fmt: skip
print(f"distance between the mean picture vector and the mean text vector: {modality_gap:.2f} (of at most 2)")

# %% [markdown]
# Relations and order it hardly sees. Colours swapped it rejects mostly: binding is not forced, but some is learned.
#
# The tables behind these figures, for six pictures each: at random, one set of words in many orders, and names that no caption held.

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
tables, find_own = [], {}
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
# vectors, evaluated at other scales:

# %%
with torch.no_grad():
    captions, images = distinct(random.Random(5), budget.clip_batch)
    pair = clip.images(images), clip.texts(*as_ids(captions))
    scales = np.geomspace(1, 200, 40)
    by_scale = [clip_loss(*pair, float(value)).mean().item() for value in scales]
perfect = math.log(1 + (budget.clip_batch - 1) * math.exp(-1))  # own cosine 1, all others 0, scale 1
best_scale = float(scales[int(np.argmin(by_scale))])
fig = go.Figure()
fig.add_scatter(x=np.float32(scales), y=np.float32(by_scale), name="loss", line={"color": palette.MIDDLE["policy"]})
fig.add_scatter(
    x=[clip.scale.item()], y=[clip_loss(*pair, clip.scale).mean().item()], mode="markers", name="learned scale",
    marker={"size": 10, "color": palette.MIDDLE["reward"]},
)  # fmt: skip
fig.update_layout(title="CLIP's loss at other scales", xaxis_title="scale s", yaxis_title="loss (nats)")
fig.update_xaxes(type="log")
run.figure(
    fig, "The loss falls from near log B at scale 1 to a lowest point and rises again; the learned scale is near it."
)
print(f"at scale 1: {by_scale[0]:.2f} nats, and no better than {perfect:.2f} if own cosines were 1 and all others 0")

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


def train(model, parts, steps, label, learning_rate, prompt, texts=0, seed=6):
    """Train these parts to write captions; texts: how many captions without a picture join each batch."""
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for part in parts for p in part.parameters()], betas=(0.9, 0.98), weight_decay=0.01
    )
    rng, curve, losses = random.Random(seed), run.curve(label, y="loss of a caption's token (nats)"), []
    for step in run.progress(steps, label, curve=curve):
        captions, images = sample(rng, budget.tune_batch)
        described = loss = answer_loss(model, captions, prompt, images if IMAGE in prompt else None)
        if texts:
            loss = loss + 0.2 * answer_loss(model, sample(rng, texts)[0], [START])
        update(optimizer, loss, rate(learning_rate, step, steps))
        losses.append(described.item())
        if step % 5 == 0:
            curve.add("loss", step, described)
    return losses


torch.manual_seed(3)
looking = copy.deepcopy(encoder)
looking.body.layers = looking.body.layers[:-1]  # the last block was trained for the class token's state alone
seeing = VisionLanguageModel(looking, Transformer(sizes(WORDS + 2, 96, 3, 256)).initialize(0.05))
train(seeing, [seeing.decoder], budget.read_steps, "Reading: captions without pictures", 2e-3, [START])
dreams = decoding.generate(seeing.decoder, [[START]] * 4, 10, stop_id=STOP, generator=torch.Generator().manual_seed(4))
print(
    "it writes, of nothing:", "; ".join(" ".join(pictures.WORDS[i] for i in dream.ids if i < WORDS) for dream in dreams)
)

# %% [markdown]
# Between the two stands a **projector** of two layers. In the row of ids, 16 places are kept for patches. Take the patches' states before CLIP's
# last block, as LLaVA does: CLIP's loss looks at the class token alone, so nothing ever asked the last block for good patches.

# %%
PROMPT = [IMAGE] * 16 + [START]
ids, image = torch.tensor([PROMPT]), draw(["a red circle at the upper left"], random.Random(0))
table = seeing.decoder.embed_tokens.weight  # (30, 96)
patches = seeing.projector(seeing.encoder(image)[:, 1:])  # (1, 16, 96): the class token stays at home
in_the_open, k = [], 0
for token in PROMPT:
    in_the_open.append(patches[0, k] if token == IMAGE else table[token])
    k += token == IMAGE
splice_gap = (torch.stack(in_the_open) - seeing.inputs(ids, image)[0]).abs().max().item()
print(
    f"a prompt of {len(PROMPT)} rows, 16 of them patches; the loop and the library's inputs differ by {splice_gap:.0e}"
)

# %% [markdown]
# From here on it is supervised fine-tuning: next-token cross-entropy on the answer. Two stages, as in LLaVA: first the **projector alone**, so that
# its noise does not reach what is already good; then the language model with it. LLaVA keeps its encoder frozen; ours is small and saw
# little, so it learns along.


# %%
def describe(model, images):
    return [" ".join(pictures.WORDS[i] for i in row if i < WORDS) for row in model.describe(PROMPT, images, STOP, 10)]


@torch.no_grad()
def judged(model):
    """Shares of exact descriptions by split and kind, and the loss on captions without a picture."""
    rng, found = random.Random(7), {}
    for split in ("held-out", "unseen"):
        for kind in KINDS:
            captions, images = sample(rng, budget.tests, split, (kind,))
            found[f"{split} {kind}"] = float(np.mean([a == b for a, b in zip(describe(model, images), captions)]))
        found[split] = float(np.mean([found[f"{split} {kind}"] for kind in KINDS]))
    return found | {"text": answer_loss(model, sample(rng, 4 * budget.tests)[0], [START]).item()}


started = time.perf_counter()
stages = {}
train(seeing, [seeing.projector], budget.align_steps, "Stage 1: the projector alone", 4e-3, PROMPT)
stages["stage 1: projector"] = judged(seeing)
alone = copy.deepcopy(seeing)
train(
    alone,
    [alone.projector, alone.decoder, alone.encoder],
    budget.alone_steps,
    "Stage 2 without text, cut short",
    2e-3,
    PROMPT,
)
stages["stage 2 without text, cut short"] = judged(alone)
tune_losses = train(
    seeing,
    [seeing.projector, seeing.decoder, seeing.encoder],
    budget.tune_steps,
    "Stage 2: all parts, with text",
    2e-3,
    PROMPT,
    texts=16,
)
stages["stage 2"] = judged(seeing)
vlm_seconds = time.perf_counter() - started
final = stages["stage 2"]
run.table(
    [[name, f"{found['held-out']:.0%}", f"{found['unseen']:.0%}", f"{found['text']:.2f}"] for name, found in stages.items()],
    ["model", "held-out captions exact", "unseen names exact", "loss on text alone (nats a token)"],
    caption=f"What the stages bring and cost ({3 * budget.tests} pictures a column; exact means every word)",
)  # fmt: skip

# %%
run.table(
    [[split, *(f"{final[f'{split} {kind}']:.0%}" for kind in KINDS)] for split in ("held-out", "unseen")],
    ["pictures of", "one thing and its place", "a number of things", "two things and how they stand"],
    caption="Exact descriptions after stage 2",
)  # fmt: skip
rng = random.Random(8)
captions, images = sample(rng, 6, "held-out")
said = [
    f"says: {said}" + ("" if said == true else f" (is: {true})")
    for said, true in zip(describe(seeing, images), captions)
]
gallery(images, said, "Held-out pictures, described")

# %% [markdown]
# ### It describes what is not there
#
# Two questions to ask of any model that claims to see. Does the answer depend on the picture? And what does it say of a picture with nothing
# in it, which training never showed?

# %%
rng = random.Random(9)
captions, images = sample(rng, 3 * budget.tests, "held-out")
right = float(np.mean([a == b for a, b in zip(describe(seeing, images), captions)]))
exchanged = float(np.mean([a == b for a, b in zip(describe(seeing, images.roll(1, 0)), captions)]))
faint = 0.02 * torch.randn(budget.tests, 3, pictures.SIDE, pictures.SIDE, generator=torch.Generator().manual_seed(10))
empty = describe(seeing, (pictures.draw([()] * budget.tests, 10) + faint).clamp(0, 1))
invented = float(np.mean([bool(said) for said in empty]))
usual = max(set(empty), key=empty.count)
with torch.no_grad():
    first_words = seeing(torch.tensor([PROMPT]), pictures.draw([()], 10))[0, -1].softmax(-1)
    certainty = first_words.max().item()
gallery(
    pictures.draw([()], 10),
    [f"says: {usual}"],
    "An empty picture (with a little noise, each another one): the usual answer",
)
print(
    f"exact with its own picture {right:.0%}, with another one {exchanged:.0%}; {invented:.0%} of empty pictures described, "
    f"the first word with probability {certainty:.2f}"
)

# %% [markdown]
# The model was trained on pictures with things in them, and has no words for "nothing". Its usual answer gives a place and leaves out the thing: even its grammar
# breaks, and its first word is as certain as can be. At scale this is called object hallucination, and
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


def vq_vae(revive, steps, seed=12, codes=64, width=8):
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
started = time.perf_counter()
collapse = {"as written": vq_vae(False, budget.vq_steps), "dead codes revived": vq_vae(True, budget.vq_steps)}
k64 = kmeans(busy, min(64, len(busy)), 10)
k_error = (busy - k64[nearest(busy, k64)]).square().sum(-1).mean().item()
fig = go.Figure()
for (name, (in_use, _)), role in zip(collapse.items(), ("rejected", "chosen")):
    fig.add_scatter(
        x=np.arange(len(in_use), dtype=np.float32)[::3],
        y=np.float32(in_use)[::3],
        name=name,
        line={"color": palette.MIDDLE[role]},
    )
fig.update_layout(title="Codes in use, of 64", xaxis_title="step", yaxis_title="codes chosen in a batch of 512 patches")
run.figure(
    fig, "Without care only a few of 64 codes stay in use; with dead codes moved to where vectors are, most are used."
)
used = {name: float(np.mean(in_use[-20:])) for name, (in_use, _) in collapse.items()}
vq_error = {name: float(np.mean(errors[-20:])) for name, (_, errors) in collapse.items()}
print(
    {name: f"{used[name]:.0f} codes, squared error of a patch {vq_error[name]:.3f}" for name in used},
    f"k-means with 64 codes on pixels: {k_error:.3f}; {time.perf_counter() - started:.0f} s",
)

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


compute.seed(13)
fused = Transformer(sizes(FINISH + 1, 96, 4, 256)).initialize(0.08)
looks = (book - book.mean(0)) @ torch.randn(book.shape[1], 96)  # (K, 96): codes that look alike begin alike
fused.embed_tokens.weight.data[FIRST:BEGIN] = 0.1 * looks / looks.std()
optimizer = torch.optim.AdamW(fused.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
rng = random.Random(14)
curve = run.curve("Early fusion: words and codes in one row", y="loss of a token (nats)")
fusion_losses, started = [], time.perf_counter()
for step in run.progress(budget.fusion_steps, "early fusion", curve=curve):
    captions, images = sample(rng, budget.fusion_batch)
    rows, weights = as_rows(captions, images, [rng.random() < 0.6 for _ in captions])
    each = F.cross_entropy(fused(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    loss = each @ weights[:, 1:].flatten() / weights[:, 1:].sum()
    update(optimizer, loss, rate(2e-3, step, budget.fusion_steps))
    fusion_losses.append(loss.item())
    if step % 5 == 0:
        curve.add("loss", step, loss)
fusion_seconds = time.perf_counter() - started
fused.eval()
fusion_parameters = sum(p.numel() for p in fused.parameters())
print(
    f"{fusion_parameters:,} parameters, {fusion_seconds:.0f} s, loss {fusion_losses[0]:.2f} to {np.mean(fusion_losses[-20:]):.2f}"
)

# %% [markdown]
# Draw. For each caption several pictures; the rule reads each one. And as DALL-E did, let CLIP choose among the candidates: our own CLIP, which
# has never seen a drawn picture.

# %%
NOT_A_CODE = torch.ones(FINISH + 1, dtype=torch.bool)
NOT_A_CODE[FIRST : FIRST + K] = False


def paint(captions, seed, temperature=1.0):
    """One picture for each caption, token by token."""
    prompts = [[*pictures.word_ids(caption), BEGIN] for caption in captions]
    drawn = decoding.generate(
        fused, prompts, CODES, decoding.Sampling(temperature=temperature), generator=torch.Generator().manual_seed(seed),
        processor=lambda logits, new: logits.masked_fill(NOT_A_CODE, -torch.inf),
    )  # fmt: skip
    codes = torch.tensor([completion.ids for completion in drawn]) - FIRST
    return unpatchify(book[codes], CELL)


rng, painted, started = random.Random(15), {}, time.perf_counter()
for split in ("held-out", "unseen"):
    captions = [rng.choice(POOL[split][kind]) for kind in KINDS for _ in range(budget.drawn // 3)]
    candidates = paint([caption for caption in captions for _ in range(budget.candidates)], seed=16)
    shows = torch.tensor(
        [pictures.shows(pictures.read(image), captions[i // budget.candidates]) for i, image in enumerate(candidates)]
    )
    with torch.no_grad():
        fits = (
            clip.images(candidates).view(len(captions), budget.candidates, -1) * clip.texts(*as_ids(captions))[:, None]
        ).sum(-1)
    shows = shows.view(len(captions), -1)
    best = fits.argmax(1)
    painted[split] = {
        "one": shows.float().mean().item(), "chosen": shows[torch.arange(len(captions)), best].float().mean().item(),
        "any": shows.any(1).float().mean().item(), "kinds": shows.float().mean(1).view(3, -1).mean(1).tolist(),
    }  # fmt: skip
    if split == "held-out":
        chosen = candidates.view(len(captions), budget.candidates, 3, 24, 24)[torch.arange(len(captions)), best]
        picks = [i * (budget.drawn // 3) + j for i in range(3) for j in range(min(2, budget.drawn // 3))]
        gallery(
            chosen[picks],
            [captions[i] for i in picks],
            "Drawn from captions that training never held, chosen by CLIP among the candidates",
        )
run.table(
    [[split, f"{found['one']:.0%}", f"{found['chosen']:.0%}", f"{found['any']:.0%}"] for split, found in painted.items()],
    ["captions", "one drawing", f"CLIP's choice of {budget.candidates}", f"any of {budget.candidates}"],
    caption=f"Share of drawings that show what the caption says, by the rule ({budget.drawn} captions a row)",
)  # fmt: skip

# %% [markdown]
# New captions of known names it draws, and CLIP's choice helps. Names that no caption held it does not draw, in none of the candidates, and no choice can help there.
#
# And the same network, given the picture first, describes it.

# %%
rng = random.Random(17)
captions, images = sample(rng, 2 * budget.tests, "held-out")
prompts = [
    row[: CODES + 2].tolist() for row in as_rows(captions, images, [False] * len(captions))[0]
]  # begin, codes, end
said = [
    " ".join(pictures.WORDS[token] for token in completion.ids if token < WORDS)
    for completion in decoding.generate(fused, prompts, 10, decoding.GREEDY, stop_id=FINISH)
]
fusion_describes = float(np.mean([a == b for a, b in zip(said, captions)]))
print(
    f"the drawing model describes {fusion_describes:.0%} of held-out pictures exactly; painting took {time.perf_counter() - started:.0f} s"
)

# %% [markdown]
# ## As at work
#
# transformers has all of this: `LlavaForConditionalGeneration` joins any image encoder to any language model. First its Llama reads
# *our* projected patches: the same logits. Then a LLaVA of transformers' own parts, of about our size, takes its first 60 steps on the same pictures. Hold
# its last loss against the last column of the table of stages: where the two are alike, it writes captions as a model does that sees nothing.
# To see takes more steps, as ours took after its CLIP.

# %%
from transformers import LlamaConfig, LlamaForCausalLM

peer = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=WORDS + 2, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        head_dim=24, rms_norm_eps=1e-5, tie_word_embeddings=True, pad_token_id=STOP, bos_token_id=None, eos_token_id=STOP,
    )
)  # fmt: skip
peer.load_state_dict(
    {
        ("" if name == "lm_head.weight" else "model.") + name: value
        for name, value in seeing.decoder.state_dict().items()
    }
)
caption = "a red circle at the upper left"
with torch.no_grad():
    ids, image = token_rows([caption], PROMPT)[0], draw([caption], random.Random(18))
    peer_gap = (peer(inputs_embeds=seeing.inputs(ids, image)).logits - seeing(ids, image)).abs().max().item()
    rows = seeing.inputs(torch.tensor([PROMPT]), image)
    written = peer.generate(
        inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2]), max_new_tokens=10, do_sample=False
    )[0].tolist()
peer_says = " ".join(pictures.WORDS[i] for i in written if i < WORDS)
print(f"transformers' Llama on our patches: logits differ by at most {peer_gap:.0e}; generate says: {peer_says}")

# %%
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

compute.seed(19)
PLACE = WORDS + 1  # the id that marks a patch's place
llava = LlavaForConditionalGeneration(LlavaConfig(
    vision_config=CLIPVisionConfig(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, image_size=24, patch_size=PATCH, projection_dim=64),
    text_config=LlamaConfig(vocab_size=WORDS + 2, hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, pad_token_id=END),
    image_token_index=PLACE, image_seq_length=16,
))  # fmt: skip
optimizer, rng, peer_losses = torch.optim.AdamW(llava.parameters()), random.Random(20), []
for step in run.progress(budget.peer_steps, "transformers' LLaVA"):
    captions, images = sample(rng, budget.tune_batch)
    ids, lengths = as_ids(captions)
    ids = torch.cat([torch.full((len(ids), 16), PLACE), ids], 1)
    counted = torch.arange(ids.shape[1]) < 16 + lengths[:, None]
    labels = ids.masked_fill(~counted | (ids == PLACE), -100)
    loss = llava(input_ids=ids, pixel_values=images, labels=labels).loss
    update(optimizer, loss, rate(2e-3, step, budget.peer_steps))
    peer_losses.append(loss.item())
peer_parameters = sum(p.numel() for p in llava.parameters())
print(
    f"{peer_parameters:,} parameters; loss {peer_losses[0]:.2f} to {np.mean(peer_losses[-5:]):.2f} in {budget.peer_steps} steps"
)

# %% [markdown]
# ## What the lab found

# %%
drawn_kinds = painted["held-out"]["kinds"]
for name, value, form in (
    ("train_captions", counts["train"], ",d"), ("held_out_captions", counts["held-out"], "d"), ("unseen_captions", counts["unseen"], "d"),
    ("patch_gap", patch_gap, ".1g"), ("vector_gap", vector_gap, ".1g"), ("who_tokens", who_tokens, "d"), ("sum_tokens", sum_tokens, "d"),
    ("llava_patches", LLAVA_PATCHES, "d"), ("picture_megabytes", LLAVA_PATCHES * cache_per_row / 2**20, ".1f"),
    ("row_kilobytes", cache_per_row / 2**10, ".1f"), ("clip_gap", clip_gap, ".1g"),
    ("clip_batch", budget.clip_batch, "d"), ("clip_steps", budget.clip_steps, "d"), ("clip_pairs", budget.clip_steps * budget.clip_batch, ",d"),
    ("clip_parameters", clip_parameters, ",d"), ("clip_seconds", clip_seconds, ".0f"), ("clip_first", clip_losses[0], ".2f"),
    ("clip_last", clip_end, ".2f"), ("clip_guess", math.log(budget.clip_batch), ".2f"), ("clip_scale", clip.scale.item(), ".1f"),
    ("bare_seen", bare_seen, ".0%"), ("many_seen", many_seen, ".0%"), ("bare_unseen", bare_unseen, ".0%"), ("many_unseen", many_unseen, ".0%"),
    ("one_of_two", one_of_two, ".0%"), ("relation", binding["another relation"], ".0%"), ("things_swapped", binding["things swapped"], ".0%"),
    ("colours_swapped", binding["colours swapped"], ".0%"), ("modality_gap", modality_gap, ".2f"), ("scale_one", by_scale[0], ".2f"),
    ("scale_perfect", perfect, ".2f"), ("best_scale", best_scale, ".0f"), ("right_colour", right_colour, ".0%"),
    ("splice_gap", splice_gap, ".1g"), ("vlm_seconds", vlm_seconds, ".0f"), ("tune_pictures", budget.tune_steps * budget.tune_batch, ",d"),
    ("stage_1", stages["stage 1: projector"]["held-out"], ".0%"),
    ("stage_1_unseen", stages["stage 1: projector"]["unseen"], ".0%"), ("stage_2", final["held-out"], ".0%"), ("stage_2_unseen", final["unseen"], ".0%"),
    ("place", final["held-out place"], ".0%"), ("count", final["held-out count"], ".0%"), ("pair", final["held-out pair"], ".0%"),
    ("place_unseen", final["unseen place"], ".0%"), ("count_unseen", final["unseen count"], ".0%"), ("pair_unseen", final["unseen pair"], ".0%"),
    ("text_before", stages["stage 1: projector"]["text"], ".2f"), ("text_alone", stages["stage 2 without text, cut short"]["text"], ".2f"),
    ("text_after", final["text"], ".2f"), ("own_picture", right, ".0%"), ("other_picture", exchanged, ".0%"), ("invented", invented, ".0%"),
    ("certainty", certainty, ".2f"), ("codes", K, "d"), ("legible_least", legible[budget.codebooks[0]], ".0%"), ("legible_most", legible[K], ".0%"),
    ("legible_middle", legible[budget.codebooks[len(budget.codebooks) // 2]], ".0%"),
    ("codes_least", budget.codebooks[0], "d"), ("codes_middle", budget.codebooks[len(budget.codebooks) // 2], "d"), ("picture_bytes", CODES * math.log2(K) / 8, ".0f"),
    ("codes_dead", used["as written"], ".0f"), ("codes_alive", used["dead codes revived"], ".0f"), ("error_dead", vq_error["as written"], ".2f"),
    ("error_alive", vq_error["dead codes revived"], ".2f"), ("error_kmeans", k_error, ".2f"), ("vocabulary", FINISH + 1, "d"),
    ("fusion_parameters", fusion_parameters, ",d"), ("fusion_seconds", fusion_seconds, ".0f"), ("fusion_rows", budget.fusion_steps * budget.fusion_batch, ",d"),
    ("fusion_describes", fusion_describes, ".0%"), ("drawn_one", painted["held-out"]["one"], ".0%"), ("drawn_chosen", painted["held-out"]["chosen"], ".0%"),
    ("drawn_any", painted["held-out"]["any"], ".0%"), ("drawn_one_unseen", painted["unseen"]["one"], ".0%"),
    ("drawn_chosen_unseen", painted["unseen"]["chosen"], ".0%"), ("drawn_any_unseen", painted["unseen"]["any"], ".0%"),
    ("drawn_place", drawn_kinds[0], ".0%"), ("drawn_count", drawn_kinds[1], ".0%"), ("drawn_pair", drawn_kinds[2], ".0%"),
    ("candidates", budget.candidates, "d"), ("peer_gap", peer_gap, ".1g"), ("peer_first", peer_losses[0], ".2f"),
    ("peer_last", np.mean(peer_losses[-5:]), ".2f"), ("peer_steps", budget.peer_steps, "d"),
):  # fmt: skip
    run.result(name, value, format=form)
run.result("empty_said", None, text=usual)

# %%
run.claim("the rule reads every picture as its caption says", read_back == 1)
run.claim("patches by hand, the library's and a convolution agree", cut_alike and patch_gap < 1e-5)
run.claim("SmolLM2 gives the same logits for ids and for the same rows as vectors", vector_gap < 1e-4)
run.claim("CLIP's loss by hand equals the library's and transformers'", clip_gap < 1e-5)
run.claim("CLIP's loss falls below a quarter of log B", clip_end < math.log(budget.clip_batch) / 4)
run.claim("nine texts for a class do better than its bare name", many_seen > bare_seen and many_unseen > bare_unseen)
run.claim("names that no caption held are recognized far above chance", many_unseen > 0.25)
run.claim(
    "a random caption is rejected more often than some other order of the same words",
    one_of_two > min(binding.values()),
)
run.claim("at scale 1 even these vectors have a loss near that of guessing", by_scale[0] > perfect)
run.claim("the library places patches as the loop does", splice_gap < 1e-6)
run.claim(
    "without text in its batches the decoder forgets text",
    stages["stage 2 without text, cut short"]["text"] > final["text"],
)
run.claim(
    "the projector alone does less than both stages", stages["stage 1: projector"]["held-out"] < final["held-out"]
)
run.claim("most held-out pictures are described without a mistake", final["held-out"] > 0.5)
run.claim("the description depends on the picture", right > 0.5 and exchanged < 0.1)
run.claim("nearly every empty picture is described as if something were there", invented > 0.9)
run.claim(
    "a larger codebook keeps more pictures legible", legible[budget.codebooks[0]] < legible[K] and legible[K] > 0.95
)
run.claim("without care many codes die, revived ones live", used["as written"] < 0.7 * used["dead codes revived"])
run.claim("dead codes cost accuracy", vq_error["as written"] > vq_error["dead codes revived"])
run.claim(
    "drawings of captions that training never held show what they say more often than not",
    painted["held-out"]["one"] > 0.5,
)
run.claim(
    "CLIP's choice is at least as good as one drawing", painted["held-out"]["chosen"] >= painted["held-out"]["one"]
)
run.claim("names that no text held are hardly ever drawn", painted["unseen"]["one"] < 0.2)
run.claim("nor written, though CLIP recognizes them", final["unseen"] < many_unseen)
run.claim("transformers' Llama reads our patches alike", peer_gap < 1e-4)
run.claim("transformers' LLaVA learns the same pictures", np.mean(peer_losses[-5:]) < 0.5 * peer_losses[0])
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
