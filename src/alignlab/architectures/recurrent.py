"""Recurrent networks and additive attention: how sequences were read before the Transformer.

Knows one layer that reads forwards. Weights carry the names and the layout of torch.nn's RNN, LSTM and GRU, so that
they load by name; with `copies` each has a leading axis, and several seeds are trained in one product.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["rnn", "lstm", "gru"]
State = tuple[Tensor, ...]
"""What is carried from step to step, each (..., B, hidden): the hidden state, and for an LSTM the cell."""

GATES: dict[Kind, int] = {"rnn": 1, "gru": 3, "lstm": 4}
"""How many blocks of `hidden` rows the weights have."""


def rnn_step(inputs: Tensor, recurrent: Tensor) -> Tensor:
    """One step of a simple recurrent network, Elman (1990): h = tanh(inputs + recurrent), (..., hidden).

    inputs: W_ih x + b_ih, recurrent: W_hh h + b_hh, of the hidden state before; each (..., hidden).
    """
    return torch.tanh(inputs + recurrent)


def lstm_step(inputs: Tensor, recurrent: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000).

    inputs, recurrent: W_ih x + b_ih and W_hh h + b_hh, each (..., 4 hidden): input gate, forget gate, candidate, output
    gate. cell: (..., hidden). Returns hidden state and cell, each (..., hidden).
    """
    i, f, g, o = (inputs + recurrent).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_step(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """One step of a gated recurrent unit, Cho et al. (2014), eq. 5-8: (..., hidden).

    inputs, recurrent: W_ih x + b_ih and W_hh h + b_hh, each (..., 3 hidden): reset gate, update gate, candidate. As in
    torch.nn, the reset gate weighs the candidate's W_hn h + b_hn; the paper weighs h before the product.
    """
    reset_in, update_in, candidate_in = inputs.chunk(3, dim=-1)
    reset_h, update_h, candidate_h = recurrent.chunk(3, dim=-1)
    update = torch.sigmoid(update_in + update_h)
    candidate = torch.tanh(candidate_in + torch.sigmoid(reset_in + reset_h) * candidate_h)
    return candidate + update * (hidden - candidate)


class Recurrent(nn.Module):
    """One recurrent layer. Its weights have torch.nn's names and shapes: weight_ih_l0 (gates hidden, inputs) and so on.

    copies: None for one network, else so many separate ones with a leading axis everywhere.
    Weights begin as torch.nn's do, uniform within 1 / sqrt(hidden).
    """

    def __init__(self, kind: Kind, inputs: int, hidden: int, copies: int | None = None) -> None:
        super().__init__()
        if kind not in GATES:
            raise ValueError(f"there is no recurrent network {kind!r}; there are {', '.join(GATES)}")
        if inputs < 1 or hidden < 1 or (copies is not None and copies < 1):
            raise ValueError(f"inputs {inputs}, hidden {hidden}, copies {copies}: give positive sizes")
        self.kind, self.inputs, self.hidden, self.copies = kind, inputs, hidden, copies
        rows, lead, bound = GATES[kind] * hidden, () if copies is None else (copies,), 1 / math.sqrt(hidden)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*lead, *shape).uniform_(-bound, bound))

        self.weight_ih_l0, self.weight_hh_l0 = drawn(rows, inputs), drawn(rows, hidden)
        self.bias_ih_l0, self.bias_hh_l0 = drawn(rows), drawn(rows)

    def start(self, batch: int) -> State:
        """The state before the first step, all zeros."""
        lead = () if self.copies is None else (self.copies,)
        zeros = self.weight_hh_l0.new_zeros(*lead, batch, self.hidden)
        return (zeros, zeros) if self.kind == "lstm" else (zeros,)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read x (..., B, T, inputs) from left to right: hidden states (..., B, T, hidden), and the last state."""
        self._check(x, 4 if self.copies else 3)
        batch, length = x.shape[-3:-1]
        state = self.start(batch) if state is None else state
        # The inputs' product does not wait for the states: one for all T. unbind, unlike x[..., t, :], costs O(T) back.
        inputs = self._inputs(x.flatten(-3, -2)).unflatten(-2, (batch, length))
        hidden = []
        for one in inputs.unbind(-2):
            state = self._advance(one, state)
            hidden.append(state[0])
        return torch.stack(hidden, dim=-2), state

    def step(self, x: Tensor, state: State) -> State:
        """One step: x (..., B, inputs) and the state before it to the state after it."""
        self._check(x, 3 if self.copies else 2)
        return self._advance(self._inputs(x), state)

    def _inputs(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih_l0.mT + self.bias_ih_l0.unsqueeze(-2)

    def _advance(self, inputs: Tensor, state: State) -> State:
        recurrent = state[0] @ self.weight_hh_l0.mT + self.bias_hh_l0.unsqueeze(-2)
        if self.kind == "lstm":
            return lstm_step(inputs, recurrent, state[1])
        return (gru_step(inputs, recurrent, state[0]) if self.kind == "gru" else rnn_step(inputs, recurrent),)

    def _check(self, x: Tensor, axes: int) -> None:
        if x.dim() != axes or x.shape[-1] != self.inputs or (self.copies and x.shape[0] != self.copies):
            lead = f"{self.copies}, " if self.copies else ""
            middle = "B, T" if axes - bool(self.copies) == 3 else "B"
            raise ValueError(f"x is {tuple(x.shape)}; this {self.kind} reads ({lead}{middle}, {self.inputs})")


class AdditiveAttention(nn.Module):
    """Additive attention, Bahdanau et al. (2014), eq. 5-6 and A.1.2: score v . tanh(W s + U h), softmax, weighted sum.

    query, keys: widths of s and h; width: of the space in which they meet. copies: as in Recurrent.
    """

    def __init__(self, query: int, keys: int, width: int, copies: int | None = None) -> None:
        super().__init__()
        lead = () if copies is None else (copies,)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*lead, *shape).uniform_(-1, 1) / math.sqrt(shape[-1]))

        self.w_query, self.w_keys, self.v = drawn(width, query), drawn(width, keys), drawn(width)

    def project(self, keys: Tensor) -> Tensor:
        """U h for all keys (..., B, S, keys): (..., B, S, width). Once a sequence; the queries come one by one."""
        return (keys.flatten(-3, -2) @ self.w_keys.mT).unflatten(-2, keys.shape[-3:-1])

    def forward(
        self, query: Tensor, projected: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """query (..., B, query), projected keys (..., B, S, width), values (..., B, S, d): context and weights.

        mask: (..., B, S), True where the query may look. Returns (..., B, d) and (..., B, S), whose rows sum to 1.
        """
        meet = torch.tanh((query @ self.w_query.mT).unsqueeze(-2) + projected)
        scores = (meet @ self.v.unsqueeze(-2).unsqueeze(-1)).squeeze(-1)
        if mask is not None:
            if not bool(mask.any(-1).all()):
                raise ValueError("the mask leaves a query with no key to look at; let it see one at least")
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        return (weights.unsqueeze(-2) @ values).squeeze(-2), weights
