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
# # From the MLP to the Transformer
#
# Every part of a Transformer is there because something before it failed. Here you build what came before, watch it fail, measure why,
# and mend it with the next idea: five steps from one hidden layer to the architecture of today's language models.
#
# - **You will** derive back-propagation by hand and check it against autograd and against finite differences; let a recurrent network find
#   out by itself what a carry is; measure how its gradient vanishes and explodes; build LSTM, GRU, additive attention and hold them
#   against torch.nn; race six architectures on one task over growing distance; and see what pre-training is worth.
# - **Time:** about 4 minutes on a CPU with two cores.
#
# **Sections:** 1.1.1
#
# **Topics:** roadmap-mlp-to-llm, history-timeline

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
# ## Step 1. An MLP, and back-propagation by hand
#
# "What is 17 + 25?" At school you work it out column by column: 7 + 5 = 12, write 2, carry 1; then 1 + 2 + 1 = 4. A **multilayer
# perceptron** shall learn one column: two digits and a carry in (21 numbers, digits as one-hot vectors), a sum from 0 to 19 out.

# %%
import math
import random
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn

from alignlab import compute, lab, models, palette
from alignlab.architectures.recurrent import AdditiveAttention, Recurrent
from alignlab.exercises import check
from alignlab.explorers import milestones
from alignlab.logprobs import sequence_logprobs
from alignlab.rl.curves import band
from alignlab.rl.networks import clip_grad_norms
from alignlab.text import encode_response, pad
from alignlab.transformer import Config, Transformer

torch.set_num_threads(1)  # products this small are not worth sharing between cores
run = lab.Lab("ch01_from_mlp_to_transformer")
budget = run.budget(
    full=dict(
        column_steps=1500, adder_steps=2500, copies=3, race_steps=500, distances=(4, 8, 16, 32, 64), amounts=(8, 16),
        amount_steps=400, spike_steps=250, examples=(32, 256), tuning_steps=100, peer_steps=20,
    ),
    quick=dict(
        column_steps=200, adder_steps=20, copies=1, race_steps=4, distances=(4, 8, 16, 32, 64), amounts=(8, 16), amount_steps=4,
        spike_steps=10, examples=(16, 32), tuning_steps=2, peer_steps=3,
    ),
)  # fmt: skip
compute.seed(0)

digits_a, digits_b, carries = torch.meshgrid(torch.arange(10), torch.arange(10), torch.arange(2), indexing="ij")
digits_a, digits_b, carries = digits_a.flatten(), digits_b.flatten(), carries.flatten()
COLUMNS = torch.cat([F.one_hot(digits_a, 10), F.one_hot(digits_b, 10), carries[:, None]], -1).double()  # (200, 21)
SUMS = digits_a + digits_b + carries  # (200,), 0 to 19
HIDDEN = 32
generator = torch.Generator().manual_seed(0)
W1 = torch.randn(HIDDEN, 21, generator=generator, dtype=torch.float64) / math.sqrt(3)  # three inputs are 1 or so
b1 = torch.zeros(HIDDEN, dtype=torch.float64)
W2 = torch.randn(20, HIDDEN, generator=generator, dtype=torch.float64) / math.sqrt(HIDDEN)
b2 = torch.zeros(20, dtype=torch.float64)


def forward(x, W1, b1, W2, b2):
    """Hidden activities (B, 32) and logits (B, 20)."""
    a = torch.tanh(x @ W1.T + b1)
    return a, a @ W2.T + b2


def backward(x, targets, a, z, W2):
    """The mean cross-entropy's gradient by W1, b1, W2, b2: the chain rule, from the loss back to the input."""
    dz = (z.softmax(-1) - F.one_hot(targets, 20)) / len(x)  # (B, 20): softmax minus truth
    dW2, db2 = dz.T @ a, dz.sum(0)
    da = dz @ W2  # (B, 32): what the logits want of the hidden layer
    du = da * (1 - a**2)  # through the tanh
    return du.T @ x, du.sum(0), dW2, db2


def cross_entropy(z, targets):
    return -z.log_softmax(-1)[torch.arange(len(z)), targets].mean()


parameters = [W1, b1, W2, b2]
a, z = forward(COLUMNS, *parameters)
by_hand = backward(COLUMNS, SUMS, a, z, W2)

live = [p.clone().requires_grad_() for p in parameters]
by_autograd = torch.autograd.grad(cross_entropy(forward(COLUMNS, *live)[1], SUMS), live)

STEP = 1e-5


def nudged(which, place, amount):
    """The loss with one weight changed."""
    changed = [p.clone() for p in parameters]
    changed[which].view(-1)[place] += amount
    return cross_entropy(forward(COLUMNS, *changed)[1], SUMS).item()


picked = [
    (k, place)
    for k, p in enumerate(parameters)
    for place in torch.randperm(p.numel(), generator=generator)[:25].tolist()
]
by_difference = [(nudged(k, place, STEP) - nudged(k, place, -STEP)) / (2 * STEP) for k, place in picked]
autograd_gap = max((mine - theirs).abs().max().item() for mine, theirs in zip(by_hand, by_autograd))
difference_gap = max(abs(d - by_hand[k].view(-1)[place].item()) for d, (k, place) in zip(by_difference, picked))
print(
    f"largest difference: to autograd {autograd_gap:.0e}, to finite differences on {len(picked)} weights {difference_gap:.0e}"
)

# %% [markdown]
# Five lines of chain rule, and autograd says the same to the last digits. The order matters: from the loss **backwards**, so that each
# layer's error is computed once and used for everything below it. One backward pass costs about two forward passes, whatever the number
# of weights; finite differences would cost two forward passes for *each* weight.
#
# Now descend by these gradients alone. No autograd, no optimizer.

# %%
curve = run.curve("An MLP learns one column", "step", "cross-entropy (nats)")
for step in run.progress(budget.column_steps, "column", curve=curve):
    a, z = forward(COLUMNS, *parameters)
    if step % 25 == 0:
        curve.add("loss", step, cross_entropy(z, SUMS))
    for p, gradient in zip(parameters, backward(COLUMNS, SUMS, a, z, W2)):
        p -= 3.0 * gradient
column_accuracy = (forward(COLUMNS, *parameters)[1].argmax(-1) == SUMS).double().mean().item()


def add_by_columns(first, second):
    """Schoolbook addition; the network does the columns, this loop carries."""
    first, second = ([int(d) for d in reversed(str(n))] for n in (first, second))
    written, carry = [], 0
    for t in range(max(len(first), len(second))):
        column = F.one_hot(torch.tensor([(first + [0] * 99)[t], (second + [0] * 99)[t]]), 10).flatten()
        x = torch.cat([column, torch.tensor([carry])]).double()
        total = forward(x[None], *parameters)[1].argmax().item()
        written.append(total % 10)
        carry = total // 10
    return int("".join(map(str, reversed([*written, carry]))))


print(f"{column_accuracy:.1%} of the 200 columns; 17 + 25 = {add_by_columns(17, 25)}")
draw = random.Random(0)
long_sums = [(draw.randrange(10**19, 10**20), draw.randrange(10**19, 10**20)) for _ in range(100)]
long_accuracy = sum(add_by_columns(x, y) == x + y for x, y in long_sums) / len(long_sums)
print(f"twenty-digit sums, all digits right: {long_accuracy:.0%}, for example {add_by_columns(*long_sums[0])}")

# %% [markdown]
# It adds numbers of any length. But look where the length is dealt with: in **our** Python loop, and we told the network what a carry is. Give
# it all digits of two four-digit numbers at once, and it has weights for four columns and none for a fifth.
#
# ## Step 2. A recurrent network finds the carry by itself
#
# An **RNN** makes the loop part of the network. In each step it reads an input and its own state before, and writes a new state:
# $h_t=\tanh(W_{ih}x_t+W_{hh}h_{t-1}+b)$, with the same weights in every step. Here it reads two digits a step, from the right, and says the digit
# to write. Nobody mentions a carry.

# %%


class Adder(nn.Module):
    """Columns (copies, B, T, 20) to logits of the digits (copies, B, T, 10); several networks side by side."""

    def __init__(self, hidden, copies):
        super().__init__()
        self.core = Recurrent("rnn", 20, hidden, copies)
        self.out = nn.Parameter(torch.empty(copies, 10, hidden).uniform_(-1, 1) / math.sqrt(hidden))

    def forward(self, x):
        states, _ = self.core(x)
        return states @ self.out.mT.unsqueeze(1), states


def numbers(generator, batch, length, copies):
    """Two numbers as columns from the right (copies, B, T, 20), the digits of their sum and the carries (copies, B, T)."""
    digits = torch.randint(10, (2, copies, batch, length), generator=generator)
    carry, written, carried = torch.zeros(copies, batch, dtype=torch.long), [], []
    for t in range(length):
        total = digits[0, ..., t] + digits[1, ..., t] + carry
        carried.append(carry)
        written.append(total % 10)
        carry = total // 10
    x = torch.cat([F.one_hot(digits[0], 10), F.one_hot(digits[1], 10)], -1).float()
    return x, torch.stack(written, -1), torch.stack(carried, -1)


adder = Adder(32, budget.copies)
optimizer = torch.optim.Adam(adder.parameters(), lr=5e-3)
generator = torch.Generator().manual_seed(1)
curve = run.curve("An RNN learns to add five-digit numbers", "step", "cross-entropy (nats)")
for step in run.progress(budget.adder_steps, "adder", curve=curve):
    x, written, _ = numbers(generator, 64, 5, budget.copies)
    loss = F.cross_entropy(adder(x)[0].flatten(0, -2), written.flatten())
    optimizer.zero_grad()
    (loss * budget.copies).backward()
    clip_grad_norms(list(adder.parameters()), 1.0)
    optimizer.step()
    if step % 10 == 0:
        curve.add("loss", step, loss.item())

with torch.no_grad():
    x, written, carried = numbers(torch.Generator().manual_seed(2), 200, 40, budget.copies)
    logits, states = adder(x)
    right = logits.argmax(-1) == written
adder_digits, adder_whole = right.float().mean((1, 2)), right.all(-1).float().mean(1)


def probe(states, carried):
    """How often a linear probe of the state reads the carry that goes on to the next column."""
    before, after = states[:100, :-1].flatten(0, 1), carried[:100, 1:].flatten().float()  # fit on one half
    one = torch.ones(len(before), 1)
    weights = torch.linalg.lstsq(torch.cat([before, one], 1), after[:, None]).solution
    unseen, truth = states[100:, :-1].flatten(0, 1), carried[100:, 1:].flatten()
    return ((torch.cat([unseen, torch.ones(len(unseen), 1)], 1) @ weights)[:, 0].gt(0.5) == truth.bool()).float().mean()


carry_read = torch.stack([probe(s, c) for s, c in zip(states, carried)])
x17, _, _ = numbers(torch.Generator(), 1, 2, budget.copies)
x17.zero_()
for t, (first, second) in enumerate(((7, 5), (1, 2))):
    x17[:, :, t, first] = x17[:, :, t, 10 + second] = 1.0
said = adder(x17)[0][0, 0].argmax(-1).tolist()
print(f"17 + 25, from the right: {said}")
print(
    f"forty-digit numbers, trained on five digits: {adder_digits.mean():.2%} of the digits, {adder_whole.mean():.0%} of the sums whole"
)
print(f"the carry, read from the state by a linear probe: right in {carry_read.mean():.1%} of the columns")

# %% [markdown]
# Trained on five digits, it adds forty, since the same weights do every column. And the carry stands in its state, where a linear probe
# finds it. That is what a **hidden state** is: what must be known of the past.
#
# Is our layer torch.nn's? The weights have the same names, so they load. We also derive the backward pass **through time**: the same chain
# rule, with one new line. The state feeds the output *and* the next state, so its error is the sum of both.

# %%
mine, theirs = Recurrent("rnn", 20, 32), nn.RNN(20, 32, batch_first=True)
mine.load_state_dict(theirs.state_dict())
x_check = torch.randn(4, 12, 20, requires_grad=True)
target = torch.randn(4, 12, 32)
states, _ = mine(x_check)
((states - target) ** 2).sum().backward()


def through_time(x, states, d_states, W_hh):
    """Gradients by W_ih, W_hh and b, given the loss's direct gradient by each state (B, T, H)."""
    batch, length, hidden = states.shape
    d_ih, d_hh, d_b = torch.zeros(hidden, x.shape[-1]), torch.zeros(hidden, hidden), torch.zeros(hidden)
    later = torch.zeros(batch, hidden)  # what step t + 1 sends back
    for t in reversed(range(length)):
        dh = d_states[:, t] + later  # the new line
        du = dh * (1 - states[:, t] ** 2)
        before = states[:, t - 1] if t else torch.zeros(batch, hidden)
        d_ih, d_hh, d_b = d_ih + du.T @ x[:, t], d_hh + du.T @ before, d_b + du.sum(0)
        later = du @ W_hh
    return d_ih, d_hh, d_b


with torch.no_grad():
    found = through_time(x_check, states, 2 * (states - target), mine.weight_hh_l0)
want = mine.weight_ih_l0.grad, mine.weight_hh_l0.grad, mine.bias_ih_l0.grad
bptt_gap = max(((f - w).abs().max() / w.abs().max()).item() for f, w in zip(found, want))
rnn_gap = (states - theirs(x_check)[0]).abs().max().item()
print(
    f"back-propagation through time against autograd: {bptt_gap:.0e} (relative); our layer against torch.nn.RNN: {rnn_gap:.0e}"
)

# %% [markdown]
# ## Where it breaks: gradients over time
#
# Look at the last line of the loop, `later = du @ W_hh`. The error goes back one step by a multiplication with $W_{hh}$ (and a factor of at most
# 1 from the tanh), and $k$ steps by $k$ multiplications. Start with $W_{hh}=g\,Q$, $Q$ a rotation: then without the tanh the factor is
# $g^k$ exactly. Measured, with tanh and small random inputs:

# %%
H, BACK = 64, 60


def memory(kind, prepare, seed):
    """The spectral norm of d(last state)/d(state k steps before), k = 0 .. BACK - 1; for an LSTM that of the cell."""
    torch.manual_seed(seed)
    layer = Recurrent(kind, 8, H)
    with torch.no_grad():
        prepare(layer)
    x, state, kept = 0.3 * torch.randn(1, BACK, 8), layer.start(1), []
    for t in range(BACK):
        state = layer.step(x[:, t], state)
        kept.append(state[-1])
    rows = [torch.autograd.grad(kept[-1][0, i], kept, retain_graph=True) for i in range(H)]
    jacobians = torch.stack([torch.cat(row) for row in rows], 1)  # (BACK, H, H)
    return torch.linalg.matrix_norm(jacobians, 2).flip(0).numpy()


def rotation(gain):
    def prepare(layer):
        layer.weight_hh_l0.copy_(gain * torch.linalg.qr(torch.randn(H, H))[0])
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()

    return prepare


def forget_bias(value):
    def prepare(layer):
        layer.bias_hh_l0[H : 2 * H] = 0
        layer.bias_ih_l0[H : 2 * H] = value

    return prepare


GAINS = {0.8: "rejected", 1.0: "reference", 1.5: "prompt", 3.0: "kl"}
rnn_memory = {gain: np.stack([memory("rnn", rotation(gain), seed) for seed in range(budget.copies)]) for gain in GAINS}
fig = go.Figure()
for gain, role in GAINS.items():
    band(fig, np.arange(BACK), np.maximum(rnn_memory[gain], 1e-12), f"g = {gain}", role)
fig.add_scatter(
    x=np.arange(BACK),
    y=np.float32(0.8 ** np.arange(BACK)),
    name="0.8^k",
    line={"dash": "dot", "color": palette.MIDDLE["rejected"]},
)
fig.update_layout(
    title="How much of a gradient comes back, in an RNN",
    xaxis_title="steps back",
    yaxis_title="norm of dh(t)/dh(t − k)",
)
fig.update_yaxes(type="log")
run.figure(fig, "On a logarithmic axis the lines of an RNN fall for small gains and rise for large ones.")
back50 = {gain: float(rows[:, 50].mean()) for gain, rows in rnn_memory.items()}
print({f"g = {gain}": f"{value:.1e}" for gain, value in back50.items()}, "fifty steps back")

# %% [markdown]
# There is no good $g$. Below 1 the gradient **vanishes**: a loss at the end says nothing of what went wrong fifty steps before, so a
# dependency over fifty steps is not learned, though the network could represent it. Above 1 it **explodes** (the tanh holds it
# back: at gain 3 it stays far below $3^{50}\approx10^{24}$). At 1 it lasts longest, and even there the tanh eats it slowly.
#
# ## Step 3. Gates: LSTM and GRU
#
# The LSTM's idea: carry the memory $c$ forward by **addition**, $c_t=f_t\odot c_{t-1}+i_t\odot g_t$, with gates between 0 and 1 that say what to
# keep ($f$), what to write ($i$) and what to show ($o$). Along $c$ the gradient is multiplied by $f_t$, and not by a matrix and a tanh. A GRU
# does it with two gates and no separate cell.

# %%


def lstm_step(x, h, c, W_ih, W_hh, b_ih, b_hh):
    """x (B, d), h and c (B, H): the next h and c."""
    i, f, g, o = (x @ W_ih.T + b_ih + h @ W_hh.T + b_hh).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x, h, W_ih, W_hh, b_ih, b_hh):
    """x (B, d), h (B, H): the next h."""
    (r_x, u_x, n_x), (r_h, u_h, n_h) = (x @ W_ih.T + b_ih).chunk(3, -1), (h @ W_hh.T + b_hh).chunk(3, -1)
    keep, candidate = (u_x + u_h).sigmoid(), (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return keep * h + (1 - keep) * candidate


x_check, rows = torch.randn(4, 12, 8), []
layer_gap = 0.0
for kind, peer in (("lstm", nn.LSTM(8, H, batch_first=True)), ("gru", nn.GRU(8, H, batch_first=True))):
    ours = Recurrent(kind, 8, H)
    ours.load_state_dict(peer.state_dict())
    h, c, weights = torch.zeros(4, H), torch.zeros(4, H), tuple(ours.parameters())
    shown = []
    for t in range(12):
        if kind == "lstm":
            h, c = lstm_step(x_check[:, t], h, c, *weights)
        else:
            h = gru_step(x_check[:, t], h, *weights)
        shown.append(h)
    want = peer(x_check)[0]
    gaps = [(other - want).abs().max().item() for other in (torch.stack(shown, 1), ours(x_check)[0])]
    rows.append([kind.upper(), sum(w.numel() for w in weights), *(f"{gap:.0e}" for gap in gaps)])
    layer_gap = max(layer_gap, *gaps)
run.table(
    rows,
    ["layer", "weights", "the cell above, against torch.nn", "the library, against torch.nn"],
    caption="Gated layers, width 64",
)

BIASES = {0.0: "rejected", 1.0: "prompt", 3.0: "value", 5.0: "chosen"}
lstm_memory = {
    bias: np.stack([memory("lstm", forget_bias(bias), seed) for seed in range(budget.copies)]) for bias in BIASES
}
fig = go.Figure()
for bias, role in BIASES.items():
    band(fig, np.arange(BACK), np.maximum(lstm_memory[bias], 1e-12), f"forget bias {bias:g}", role)
fig.update_layout(
    title="How much of a gradient comes back, in an LSTM",
    xaxis_title="steps back",
    yaxis_title="norm of dc(t)/dc(t − k)",
)
fig.update_yaxes(type="log")
run.figure(fig, "For biases 0 and 1 the lines fall, for 3 and 5 they rise slowly.")
lstm50 = {bias: float(rows[:, 50].mean()) for bias, rows in lstm_memory.items()}
print(
    {
        f"bias {bias:g}": f"{value:.1e}, σ(b)^50 = {(1 / (1 + math.exp(-bias))) ** 50:.1e}"
        for bias, value in lstm50.items()
    }
)

# %% [markdown]
# A gate is no miracle. At its start, with bias 0, a forget gate stands at one half, and the gradient is gone after fifty steps. What gates
# give is a **knob**: with a bias of 3 or 5 nothing is lost any more. (More comes back than the gates alone would let through,
# $\sigma(b)^{50}$: errors also travel through $W_{hh}$, and by that way they may still grow.) The knob can be set before training (Tallec and
# Ollivier, 2018: $b_f=\log u$ with $u$ uniform up to the distance expected, so that some units remember for long and some for short), and it
# can be learned.
#
# ## Step 4. Attention: look it up
#
# A sentence that has been read into one vector must fit into that vector. Additive attention (Bahdanau, Cho and Bengio, 2014) keeps **all** states of
# the reader. The writer, in state $s$, scores each of them, $e_j=v^\top\tanh(Ws+Uh_j)$, turns scores into weights by a softmax, and takes
# the weighted mean: a soft look-up.

# %%
torch.manual_seed(0)
attention = AdditiveAttention(6, 5, 7)
s, keys = torch.randn(3, 6), torch.randn(3, 4, 5)
context, alpha = attention(s, attention.project(keys), keys)
slow_context = torch.zeros(3, 5)
with torch.no_grad():
    for row in range(3):
        scores = []
        for j in range(4):
            scores.append(sum(
                attention.v[m]
                * torch.tanh(attention.w_query[m] @ s[row] + attention.w_keys[m] @ keys[row, j])
                for m in range(7)
            ))  # fmt: skip
        weights = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
        for j in range(4):
            slow_context[row] += weights[j] * keys[row, j]
attention_gap = (context - slow_context).abs().max().item()
print(
    f"additive attention against its definition in loops: {attention_gap:.0e}; weights of a query sum to {alpha.sum(-1)[0]:.6f}"
)

# %% [markdown]
# ## The race: one task, one budget, growing distance
#
# **Recall.** The network reads four symbols (of eight), then blanks, then a "go", and must say the four symbols. Between a symbol and its copy lie
# $D$ steps. All get the same data, the same number of sequences, the same optimizer, and about 11,000 weights each:
#
# - an **MLP** with a window of eight tokens (Bengio et al., 2003, read language so)
# - an **RNN**, an **LSTM** (forget bias 1) and an LSTM whose forget biases fit the distance
# - a GRU that reads and a GRU that writes, with **attention** between them
# - a **Transformer** decoder, the book's own, two layers

# %%
SYMBOLS, BLANK, GO, VOCAB, EMBED = 8, 8, 9, 10, 16


def recall(generator, batch, amount, distance, copies):
    """Ids (copies, B, distance + amount) and what is to be said, (copies, B, amount)."""
    said = torch.randint(SYMBOLS, (copies, batch, amount), generator=generator)
    wait, go = said.new_full((copies, batch, distance - amount), BLANK), said.new_full((copies, batch, 1), GO)
    return torch.cat([said, wait, go, said[..., :-1]], -1), said


class Copies(nn.Module):
    """`copies` networks of one shape with an embedding each."""

    def __init__(self, copies):
        super().__init__()
        self.copies, self.embed = copies, nn.Parameter(torch.randn(copies, VOCAB, EMBED))

    def drawn(self, *shape):
        return nn.Parameter(torch.empty(self.copies, *shape).uniform_(-1, 1) / math.sqrt(shape[-1]))

    def vectors(self, ids):
        return F.embedding(ids + VOCAB * torch.arange(self.copies).view(-1, 1, 1), self.embed.flatten(0, 1))


class Window(Copies):
    """An MLP on the last `window` tokens."""

    def __init__(self, copies, window=8, hidden=78):
        super().__init__(copies)
        self.window = window
        self.inner, self.bias, self.out = (
            self.drawn(hidden, window * EMBED),
            self.drawn(hidden),
            self.drawn(SYMBOLS, hidden),
        )

    def forward(self, ids, amount):
        padded = F.pad(ids, (self.window, 0), value=BLANK)
        seen = self.vectors(padded).unfold(-2, self.window, 1)[:, :, -amount:].flatten(-2)
        return torch.tanh(seen @ self.inner.mT.unsqueeze(1) + self.bias[:, None, None]) @ self.out.mT.unsqueeze(1)


class Reader(Copies):
    """One recurrent layer. forget: None, a bias of the forget gate, or "distance" for biases that fit it."""

    def __init__(self, copies, kind, hidden, distance=0, forget=None):
        super().__init__(copies)
        self.core, self.out = Recurrent(kind, EMBED, hidden, copies), self.drawn(SYMBOLS, hidden)
        if forget is None:
            return
        bias = torch.full((copies, hidden), float(forget or 0)) if forget != "distance" else None
        with torch.no_grad():
            self.core.bias_ih_l0.zero_()
            self.core.bias_hh_l0.zero_()
            if bias is None:  # log of 1 .. distance + 3; the input gate the other way round
                bias = torch.empty(copies, hidden).uniform_(1, distance + 3).log()
                self.core.bias_ih_l0[:, :hidden] = -bias
            self.core.bias_ih_l0[:, hidden : 2 * hidden] = bias

    def forward(self, ids, amount):
        states, _ = self.core(self.vectors(ids))
        return states[:, :, -amount:] @ self.out.mT.unsqueeze(1)


class Translator(Copies):
    """A GRU reads, a GRU writes; at each step it looks at all states of the reader."""

    def __init__(self, copies, hidden):
        super().__init__(copies)
        self.reader, self.writer = (
            Recurrent("gru", EMBED, hidden, copies),
            Recurrent("gru", EMBED + hidden, hidden, copies),
        )
        self.attention = AdditiveAttention(hidden, hidden, hidden, copies)
        self.out = self.drawn(SYMBOLS, 2 * hidden)

    def forward(self, ids, amount):
        x = self.vectors(ids)
        read, state = self.reader(x[:, :, :-amount])
        keys, logits, self.looked = self.attention.project(read), [], []
        for t in range(amount):
            context, alpha = self.attention(state[0], keys, read)
            state = self.writer.step(torch.cat([x[:, :, t - amount], context], -1), state)
            logits.append(torch.cat([state[0], context], -1) @ self.out.mT)
            self.looked.append(alpha.detach())
        return torch.stack(logits, 2)


class Decoders(nn.Module):
    """The book's Transformer, once a seed."""

    def __init__(self, copies, width=24):
        super().__init__()
        config = Config(VOCAB, width, 2 * width, 2, 2, 2, width // 2, max_position_embeddings=512)
        self.each = nn.ModuleList(Transformer(config).initialize(0.1) for _ in range(copies))

    def forward(self, ids, amount):
        return torch.stack([one(row)[:, -amount:, :SYMBOLS] for one, row in zip(self.each, ids)])


RACERS: dict[str, tuple[str, Callable]] = {
    "MLP, window 8": ("reference", lambda copies, distance: Window(copies)),
    "RNN": ("rejected", lambda copies, distance: Reader(copies, "rnn", 92)),
    "LSTM": ("prompt", lambda copies, distance: Reader(copies, "lstm", 44, forget=1.0)),
    "LSTM, biases by distance": ("value", lambda copies, distance: Reader(copies, "lstm", 44, distance, "distance")),
    "GRU with attention": ("reward", lambda copies, distance: Translator(copies, 27)),
    "Transformer": ("policy", lambda copies, distance: Decoders(copies)),
}  # fmt: skip


LR = 1e-2  # of Adam, for all; ten times less leaves the gated networks unfinished


def race(model, amount, distance, steps, batch=32, enough=0.99):
    """Train until the mean accuracy of 25 steps is 99% for all seeds, or the budget is used up.

    Each step draws its sequences anew and is measured before it learns from them. (Of four symbols there are 4,096
    sequences, of eight 17 million.) Returns accuracies (copies, windows), and how many steps were taken.
    """
    draws = torch.Generator().manual_seed(1000 * amount + distance)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    found, recent, copies, window = [], [], budget.copies, min(25, steps)
    for step in range(steps):
        ids, said = recall(draws, batch, amount, distance, copies)
        logits = model(ids, amount)
        loss = F.cross_entropy(logits.flatten(0, -2), said.flatten())
        optimizer.zero_grad()
        (loss * copies).backward()
        if isinstance(model, Decoders):
            for one in model.each:
                nn.utils.clip_grad_norm_(one.parameters(), 1.0)
        else:
            clip_grad_norms(list(model.parameters()), 1.0)
        optimizer.step()
        recent.append((logits.argmax(-1) == said).float().mean((1, 2)))
        if len(recent) == window:
            found.append(torch.stack(recent).mean(0))
            recent = []
            if found[-1].min() >= enough:
                break
    return torch.stack(found, 1).numpy(), step + 1


accuracies, taken, sizes, trained = {}, {}, {}, {}
for name, distance in run.progress([(name, distance) for name in RACERS for distance in budget.distances], "race"):
    torch.manual_seed(0)
    model = RACERS[name][1](budget.copies, distance)
    sizes[name] = sum(p.numel() for p in model.parameters()) // budget.copies
    accuracies[name, distance], taken[name, distance] = race(model, 4, distance, budget.race_steps)
    trained[name, distance] = model
final = {name: np.stack([accuracies[name, d][:, -1] for d in budget.distances], 1) for name in RACERS}  # (seeds, D)
fig = go.Figure()
for name, (role, _) in RACERS.items():
    band(fig, np.arange(len(budget.distances)), final[name], name, role)
fig.add_hline(y=1 / SYMBOLS, line={"dash": "dot", "color": palette.MIDDLE["ink"]}, annotation_text="guessing")
fig.update_layout(title="Recall over a distance", xaxis_title="distance D in steps", yaxis_title="symbols right")
fig.update_xaxes(tickvals=np.arange(len(budget.distances)).tolist(), ticktext=[str(d) for d in budget.distances])
fig.update_yaxes(range=[0, 1.05])
run.figure(
    fig,
    "Six lines against the distance. MLP, RNN and LSTM fall to guessing, one after the other; the two with attention stay at one.",
)
rows = []
for name in RACERS:
    cells = []
    for k, distance in enumerate(budget.distances):
        solved = final[name][:, k].min() >= 0.99
        cells.append(f"{taken[name, distance]} steps" if solved else f"{final[name][:, k].mean():.0%}")
    rows.append([name, f"{sizes[name]:,}", *cells])
run.table(
    rows, ["network", "weights", *(f"D = {d}" for d in budget.distances)],
    caption=f"Steps until all seeds say 99% of the symbols, or the share right after {budget.race_steps} steps",
)  # fmt: skip

# %% [markdown]
# Read it from the left. Everybody solves the shortest distance. Then one after the other falls to guessing (one in eight): the window, when the
# symbols lie outside it; the RNN, when its gradient has vanished; the LSTM, later. Start the same LSTM with biases that fit the distance,
# and it holds out. With attention the distance does not matter at all: between a symbol and its copy lies **one step** of computation,
# whatever lies between them in time.
#
# Where does it look? Here are the weights of the GRU with attention, one row for each symbol it says, the mean over 100 sequences.

# %%
SHOWN = 16
looker = trained["GRU with attention", SHOWN]
with torch.no_grad():
    ids, said = recall(torch.Generator().manual_seed(5), 100, 4, SHOWN, budget.copies)
    looker(ids, 4)
looks = torch.stack(looker.looked, 2)  # (copies, B, 4, SHOWN)
fig = go.Figure(go.Heatmap(
    z=looks[0].mean(0).numpy().round(3), x=[f"{t}" for t in range(SHOWN)], y=[f"says symbol {i + 1}" for i in range(4)],
    colorscale=[[0, palette.wash(palette.MIDDLE["policy"], 0.06)], [1, palette.MIDDLE["policy"]]], showscale=False,
))  # fmt: skip
fig.update_layout(title="Where the writer looks", xaxis_title="position in what was read (symbols at 0 to 3)")
fig.update_yaxes(autorange="reversed")
run.figure(
    fig,
    "A heat map of four rows. Nearly all weight stands at the first positions, where the symbols are, one further each row.",
)
on_symbols = (
    looks[..., :5].sum(-1).mean().item()
)  # a state is written after its symbol: position 4 still knows the fourth
print(f"weight on the first five positions: {on_symbols:.1%} of all, at distance {SHOWN}")

# %% [markdown]
# ## A failure: the gradient explodes
#
# The RNN at the shortest distance again, from a recurrent matrix with gain 1.5, by plain gradient descent with momentum: once as it is, once
# with the gradient cut to a norm of at most 0.25.

# %%


def descend(most, label):
    """Losses and norms of the gradient, each (steps, copies)."""
    torch.manual_seed(0)
    model, draws, losses, norms = Reader(budget.copies, "rnn", 92), torch.Generator().manual_seed(1), [], []
    with torch.no_grad():
        for matrix in model.core.weight_hh_l0:
            matrix.copy_(1.5 * torch.linalg.qr(torch.randn(92, 92))[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in run.progress(budget.spike_steps, label):
        ids, said = recall(draws, 32, 4, 4, budget.copies)
        entries = F.cross_entropy(model(ids, 4).flatten(0, -2), said.flatten(), reduction="none")
        each = entries.view(budget.copies, -1).mean(1)
        optimizer.zero_grad()
        each.sum().backward()
        norms.append(clip_grad_norms(list(model.parameters()), most))
        optimizer.step()
        losses.append(each.detach())
    return torch.stack(losses).numpy(), torch.stack(norms).numpy()


unclipped, unclipped_norms = descend(math.inf, "as it is")
clipped, clipped_norms = descend(0.25, "clipped")
fig = go.Figure()
for rows, name, role in ((unclipped, "as it is", "rejected"), (clipped, "norm cut to 0.25", "chosen")):
    band(fig, np.arange(len(rows)), rows.T, name, role)
fig.update_layout(title="Gradient clipping", xaxis_title="step", yaxis_title="cross-entropy (nats)")
run.figure(fig, "As it is, the loss falls, then rises above guessing and stays there. Clipped, it falls to zero.")
lowest, after = float(unclipped.mean(1).min()), float(unclipped[-20:].mean())
print(
    f"as it is: lowest loss {lowest:.2f}, in the end {after:.2f} (guessing: {math.log(SYMBOLS):.2f}); clipped: {clipped[-20:].mean():.3f}"
)
print(
    f"norms of the gradient, mean of the last 20 steps: {unclipped_norms[-20:].mean():.2f} and {clipped_norms[-20:].mean():.2f}"
)

# %% [markdown]
# Know this face: the loss was nearly solved, then it jumped above what guessing costs, and it does not come back, since the steps are as large as before.
# Cutting the norm mends it; every trainer in this book does so. It does not mend the vanishing: what is not there cannot be scaled up.
#
# ## How much fits into a state?
#
# Distance is one thing, amount another. Now no blanks: read $n$ symbols, say them. A state of 44 numbers has to hold $3n$ bits (it could:
# what fails first, in the few steps given, is learning to store them side by side); attention
# keeps the states of all steps, so what it has to look at grows with the text.

# %%
amounts = {name: [final[name][:, 0]] for name in ("LSTM", "GRU with attention", "Transformer")}  # four are done
for name, amount in run.progress([(name, amount) for name in amounts for amount in budget.amounts], "amounts"):
    torch.manual_seed(0)
    found, _ = race(RACERS[name][1](budget.copies, amount), amount, amount, budget.amount_steps)
    amounts[name].append(found[:, -1])
fig = go.Figure()
for name, found in amounts.items():
    band(fig, np.float32([4, *budget.amounts]), np.stack(found, 1), name, RACERS[name][0])
fig.update_layout(title="Saying n symbols after reading them", xaxis_title="symbols n", yaxis_title="symbols right")
fig.update_yaxes(range=[0, 1.05])
run.figure(fig, "The LSTM's line falls with the number of symbols; the two with attention stay near one.")
amount_right = {name: float(found[-1].mean()) for name, found in amounts.items()}
print({name: f"{value:.0%}" for name, value in amount_right.items()}, f"at n = {budget.amounts[-1]}")

# %% [markdown]
# ## Step 5. Only attention
#
# The GRU with attention still reads word by word. The Transformer (Vaswani et al., 2017) leaves that out: each position looks at all before it, layer by layer, with
# nothing recurrent. Two things follow. The path between any two positions is one step long; and a training step needs no loop over
# time: all $T$ positions of a text are computed in one product. It pays with $T^2$ scores, and it has no idea of order until it is given
# positions. The lab *attention and positions* takes it from here.
#
# ## As one would at work
#
# torch.nn has all recurrent layers. The LSTM of the race in ten lines, from the same weights, on the same data: the losses are the same.

# %%


class AtWork(nn.Module):
    def __init__(self, hidden=44):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, EMBED)
        self.core = nn.LSTM(EMBED, hidden, batch_first=True)
        self.out = nn.Linear(hidden, SYMBOLS, bias=False)

    def forward(self, ids, amount):
        states, _ = self.core(self.embed(ids))
        return self.out(states[:, -amount:])


torch.manual_seed(0)
ours, work = Reader(1, "lstm", 44, forget=1.0), AtWork()
with torch.no_grad():
    work.embed.weight.copy_(ours.embed[0])
    work.out.weight.copy_(ours.out[0])
    for name, weight in ours.core.named_parameters():
        getattr(work.core, name).copy_(weight[0])
peer_losses = {"ours": [], "torch.nn": []}
for name, model in (("ours", ours), ("torch.nn", work)):
    draws, optimizer = torch.Generator().manual_seed(3), torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(budget.peer_steps):
        ids, said = recall(draws, 32, 4, 8, 1)
        logits = model(ids, 4)[0] if name == "ours" else model(ids[0], 4)
        loss = F.cross_entropy(logits.flatten(0, -2), said.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peer_losses[name].append(loss.item())
peer_gap = max(abs(a - b) for a, b in zip(*peer_losses.values()))
print(f"{budget.peer_steps} steps of training: largest difference of the losses {peer_gap:.0e}")

# %% [markdown]
# ## Then: pre-training
#
# An architecture knows nothing. Here is SmolLM2's own, once with fresh weights and once with those that 2 trillion tokens have made:
# how surprised is each, in nats a token, by an answer to the book's two questions?

# %%
small, tokenizer = models.load("small", "cpu")
fresh = Transformer(Config.of(small.config)).initialize(0.02)
surprise = {}
for question, answer in (("What is 17 + 25?", "17 + 25 = 42"), ("Who are you?", "I am a helpful AI assistant.")):
    batch = pad([encode_response(tokenizer, question, answer)], tokenizer.pad_token_id)
    for name, model in (("fresh", fresh), ("pre-trained", small)):
        with torch.no_grad():
            surprise[question, name] = -sequence_logprobs(model, *batch).item() / batch.response_mask.sum().item()
run.table(
    [[question, *(f"{surprise[question, name]:.2f}" for name in ("fresh", "pre-trained"))] for question in ("What is 17 + 25?", "Who are you?")],
    ["question", "fresh weights", "pre-trained"], caption=f"Nats a token of the answer; guessing among {len(tokenizer):,} tokens costs {math.log(len(tokenizer)):.2f}",
)  # fmt: skip
del fresh

# %% [markdown]
# And what is it worth for something new? `tiny`, the book's own small model, has learned to add, in the form `17 + 25 = 42`. Now another form, which
# it has never seen: `17 + 25 gives 42`. We fine-tune it on a few examples, and beside it a copy of the same architecture with fresh
# weights, in the same way, and ask both about pairs of numbers that were in none of them.

# %%
tiny, tiny_tokenizer = models.load("tiny", "cpu")
tiny = tiny.float()


def told(first, second):
    """Ids of an equation in the new form, and how many of its last tokens are the answer."""
    before = tiny_tokenizer.encode(f"{first} + {second} gives ", add_special_tokens=False)
    answer = tiny_tokenizer.encode(f"{first + second}.", add_special_tokens=False)
    return before + answer, len(answer)


pairs = [(first, second) for first in range(10, 50) for second in range(10, 50)]
random.Random(0).shuffle(pairs)
asked, given = [told(*pair) for pair in pairs[:200]], [told(*pair) for pair in pairs[200:]]


def padded(texts):
    """Ids (B, T) and a mask of the answers (B, T), texts at the left."""
    longest = max(len(ids) for ids, _ in texts)
    ids = torch.tensor([one + [tiny_tokenizer.pad_token_id] * (longest - len(one)) for one, _ in texts])
    mask = torch.tensor([[0] * (len(one) - last) + [1] * last + [0] * (longest - len(one)) for one, last in texts])
    return ids, mask


def share_right(model):
    """Answers right to the last digit, of the 200 asked."""
    ids, mask = padded(asked)
    with torch.no_grad():
        hits = (model(ids[:, :-1]).argmax(-1) == ids[:, 1:]) | ~mask[:, 1:].bool()
    return hits.all(-1).float().mean().item()


def tune(model, texts, label):
    """AdamW on batches of 16 of the texts; the loss counts the answers."""
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1e-3), random.Random(1)
    for _ in run.progress(budget.tuning_steps, label):
        ids, mask = padded(draw.choices(texts, k=16))
        losses = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * mask[:, 1:].flatten()).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return share_right(model)


tuned = {}
for count in budget.examples:
    for name in ("fresh", "pre-trained"):
        torch.manual_seed(0)
        model = Transformer(Config.of(tiny.config)).initialize(0.05)
        if name == "pre-trained":
            model.load_state_dict(Transformer.view(tiny).state_dict())
        before = share_right(model)
        tuned[name, count] = tune(model, given[:count], f"{name}, {count} examples")
        tuned[name, 0] = before
run.table(
    [[name, *(f"{tuned[name, count]:.0%}" for count in (0, *budget.examples))] for name in ("fresh", "pre-trained")],
    ["weights", *(f"{count} examples" for count in (0, *budget.examples))], caption="Sums right to the last digit, of 200 unseen ones",
)  # fmt: skip

# %% [markdown]
# That is the last step on this road. Architecture decides what *can* be learned; **pre-training** on raw text gives what a few examples cannot; and
# **scale** decides how much of it there is, which is the subject of the lab *pretrain and scale*.
#
# ## The road, in dates

# %%
run.explorer("timeline", milestones.data())

# %% [markdown]
# ## Results

# %%
far = {name: float(final[name][:, -1].mean()) for name in RACERS}
short = {name: float(final[name][:, 0].mean()) for name in RACERS}
run.result("autograd_gap", autograd_gap, format=".0e")
run.result("difference_gap", difference_gap, format=".0e")
run.result("column_accuracy", column_accuracy, format=".0%")
run.result("long_sums", long_accuracy, format=".0%")
run.result("adder_digits", adder_digits.mean(), format=".1%")
run.result("adder_whole", adder_whole.mean(), format=".0%")
run.result("carry_read", carry_read.mean(), format=".1%")
run.result("bptt_gap", bptt_gap, format=".0e")
run.result("layer_gap", max(layer_gap, rnn_gap), format=".0e")
run.result("attention_gap", attention_gap, format=".0e")


def brief(value):
    """A short number: 1e-05, 0.24, 124."""
    return f"{value:.0e}" if value < 0.01 or value > 1e5 else f"{value:.2g}" if value < 100 else f"{value:,.0f}"


for gain, name in ((0.8, "low"), (1.0, "one"), (1.5, "high"), (3.0, "very_high")):
    run.result(f"rnn_back_{name}", back50[gain], text=brief(back50[gain]))
for bias, value in lstm50.items():
    run.result(f"lstm_back_{bias:g}", value, text=brief(value))
run.result("spike_lowest", lowest, format=".2f")
run.result("spike_end", after, format=".2f")
run.result("spike_clipped", float(clipped[-20:].mean()), format=".3f")
SHORT_NAMES = {
    "MLP, window 8": "mlp", "RNN": "rnn", "LSTM": "lstm", "LSTM, biases by distance": "lstm_biases",
    "GRU with attention": "attention", "Transformer": "transformer",
}  # fmt: skip
run.result("race_steps", budget.race_steps)
run.result("race_sequences", 32 * budget.race_steps, format=",")
for name, short_name in SHORT_NAMES.items():
    run.result(f"size_{short_name}", sizes[name], format=",")
    for k, distance in enumerate(budget.distances):
        run.result(f"{short_name}_{distance}", float(final[name][:, k].mean()), format=".0%")
run.result("attention_steps", max(taken["GRU with attention", d] for d in budget.distances))
run.result("transformer_steps", max(taken["Transformer", d] for d in budget.distances))
run.result("on_symbols", on_symbols, format=".0%")
for name, value in amount_right.items():
    run.result(f"amount_{SHORT_NAMES[name]}", value, format=".0%")
run.result("amount_most", budget.amounts[-1])
run.result("peer_gap", peer_gap, format=".0e")
for question, name in (("What is 17 + 25?", "sum"), ("Who are you?", "who")):
    run.result(f"{name}_fresh", surprise[question, "fresh"], format=".2f")
    run.result(f"{name}_trained", surprise[question, "pre-trained"], format=".2f")
FEW, MANY = budget.examples[0], budget.examples[-1]
run.result("examples_few", FEW)
run.result("examples_many", MANY)
run.result("tuned_none", tuned["pre-trained", 0], format=".0%")
for count, name in ((FEW, "few"), (MANY, "many")):
    run.result(f"tuned_fresh_{name}", tuned["fresh", count], format=".0%")
    run.result(f"tuned_pretrained_{name}", tuned["pre-trained", count], format=".0%")

run.claim(
    "gradients by hand are autograd's and those of finite differences", autograd_gap < 1e-12 and difference_gap < 1e-7
)
run.claim("back-propagation through time is autograd's", bptt_gap < 1e-4)
run.claim("our layers are torch.nn's", max(layer_gap, rnn_gap) < 1e-5)
run.claim("additive attention is its definition", attention_gap < 1e-5)
run.claim("the MLP adds numbers of any length, carried by a loop", long_accuracy == 1.0)
run.claim("an RNN trained on five digits adds forty", float(adder_whole.min()) > 0.9)
run.claim("its state holds the carry", float(carry_read.min()) > 0.95)
run.claim("below gain 1 an RNN's gradient vanishes, at 3 it explodes", back50[0.8] < 1e-4 and back50[3.0] > 10)
run.claim(
    "a forget bias of 5 keeps a tenth of the gradient over fifty steps, 0 keeps nothing",
    lstm50[5.0] > 0.1 and lstm50[0.0] < 1e-4,
)
run.claim(
    "without clipping what was learned is lost, with it it is not",
    after > math.log(SYMBOLS) and float(clipped[-20:].mean()) < 0.1,
)
run.claim("at the shortest distance every network recalls", min(short.values()) > 0.95)
run.claim(
    "at the longest distance attention and the Transformer recall",
    min(far["GRU with attention"], far["Transformer"]) >= 0.99,
)
run.claim("at the longest distance the RNN guesses", far["RNN"] < 0.3)
run.claim("attention looks at the symbols", on_symbols > 0.9)
run.claim("what does not fit into a state can be looked up", amount_right["Transformer"] > amount_right["LSTM"] + 0.2)
run.claim("torch.nn's LSTM trains the same", peer_gap < 1e-4)
run.claim(
    "pre-training lowers the surprise by more than five nats a token",
    min(surprise[q, "fresh"] - surprise[q, "pre-trained"] for q in ("What is 17 + 25?", "Who are you?")) > 5,
)
run.claim(
    "a pre-trained model learns a new form from few examples", tuned["pre-trained", MANY] > tuned["fresh", MANY] + 0.5
)
run.finish()

# %% [markdown]
# ## Exercises
#
# Fill in the functions and run the cells. `check` says what is wrong, or that it is right. The solutions are one click away.

# %% [markdown]
# **1. Backwards by hand** (★★, 10 minutes). The network $\mathrm{softmax}(W_2\tanh(W_1x))$ without biases: give the gradient of the mean cross-entropy by both matrices.


# %%
def backward_by_hand(x, targets, W1, W2):  # x (B, d), targets (B,), W1 (H, d), W2 (C, H): the gradients by W1 and W2.
    ...


check("from_mlp_to_transformer.backward", backward_by_hand)

# %% [markdown]
# **2. Back through time** (★★, 10 minutes). One unit, $h_t=\tanh(w\,h_{t-1}+x_t)$. How does the last state depend on $w$?


# %%
def last_state_by_w(w, inputs, start):  # w a number, inputs (T,), start h_0: the derivative of h_T by w.
    ...


check("from_mlp_to_transformer.through_time", last_state_by_w)

# %% [markdown]
# **3. Clip** (★, 5 minutes). Make the gradient of a network no longer than `most`, without turning it.


# %%
def clip_gradients(gradients, most):  # A list of tensors: the list of the clipped ones.
    ...


check("from_mlp_to_transformer.clip", clip_gradients)

# %% [markdown]
# **4. An LSTM's step** (★, 6 minutes), given the sums that go into its gates.


# %%
def one_lstm_step(gates, c):  # gates (B, 4 H) in the order i, f, g, o; c (B, H): the hidden state and the cell.
    ...


check("from_mlp_to_transformer.lstm_cell", one_lstm_step)

# %% [markdown]
# **5. Look it up** (★★, 8 minutes). Additive attention, for a batch of queries with keys of their own. The keys are the values, too.


# %%
def look_up(
    query, keys, W_query, W_keys, v
):  # query (B, q), keys (B, S, k), W_query (A, q), W_keys (A, k), v (A,): context (B, k) and weights (B, S).
    ...


check("from_mlp_to_transformer.attend", look_up)
