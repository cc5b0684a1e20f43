"""Recurrent layers and additive attention: their definitions in plain loops, torch.nn's layers, finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignlab.architectures import recurrent
from alignlab.architectures.recurrent import AdditiveAttention, Kind, Recurrent, gru_step, lstm_step, rnn_step

KINDS: tuple[Kind, ...] = ("rnn", "lstm", "gru")
PEERS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
Step = Callable[..., Any]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- one step, number by number


def check_lstm(step: Step) -> None:
    """Hochreiter and Schmidhuber's cell with a forget gate, unit by unit."""
    hidden = 3
    inputs, recurrent_, cell = (
        numbers(2, 4 * hidden, seed=1),
        numbers(2, 4 * hidden, seed=2),
        numbers(2, hidden, seed=3),
    )
    h, c = step(inputs, recurrent_, cell)
    for row in range(2):
        for unit in range(hidden):
            i, f, g, o = ((inputs + recurrent_)[row, k * hidden + unit].item() for k in range(4))
            kept = sigmoid(f) * cell[row, unit].item() + sigmoid(i) * math.tanh(g)
            assert c[row, unit].item() == pytest.approx(kept, abs=1e-12)
            assert h[row, unit].item() == pytest.approx(sigmoid(o) * math.tanh(kept), abs=1e-12)


def check_gru(step: Step) -> None:
    """Cho et al.'s unit in torch's form, unit by unit."""
    hidden = 3
    inputs, recurrent_, before = (
        numbers(2, 3 * hidden, seed=1),
        numbers(2, 3 * hidden, seed=2),
        numbers(2, hidden, seed=3),
    )
    h = step(inputs, recurrent_, before)
    for row in range(2):
        for unit in range(hidden):
            (r_x, z_x, n_x), (r_h, z_h, n_h) = (
                [part[row, k * hidden + unit].item() for k in range(3)] for part in (inputs, recurrent_)
            )
            keep = sigmoid(z_x + z_h)
            candidate = math.tanh(n_x + sigmoid(r_x + r_h) * n_h)
            want = keep * before[row, unit].item() + (1 - keep) * candidate
            assert h[row, unit].item() == pytest.approx(want, abs=1e-12)


def check_rnn(step: Step) -> None:
    inputs, recurrent_ = numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    h = step(inputs, recurrent_)
    for row in range(2):
        for unit in range(3):
            want = math.tanh(inputs[row, unit].item() + recurrent_[row, unit].item())
            assert h[row, unit].item() == pytest.approx(want, abs=1e-12)


CHECKS: dict[str, Callable[[Step], None]] = {"rnn": check_rnn, "lstm": check_lstm, "gru": check_gru}
STEPS: dict[str, Step] = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_its_definition_unit_by_unit(kind: Kind) -> None:
    CHECKS[kind](STEPS[kind])


def _gates_swapped(inputs: Tensor, other: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (inputs + other).chunk(4, -1)
    return lstm_step(torch.cat([f, i, g, o], -1), torch.zeros_like(other), cell)


def _no_forgetting(inputs: Tensor, other: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, _, g, o = (inputs + other).chunk(4, -1)
    cell = cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _candidate_not_squashed(inputs: Tensor, other: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (inputs + other).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g
    return o.sigmoid() * cell.tanh(), cell


def _cell_shown_raw(inputs: Tensor, other: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    _, _, _, o = (inputs + other).chunk(4, -1)
    _, cell = lstm_step(inputs, other, cell)
    return o.sigmoid() * cell, cell


def _old_cell_shown(inputs: Tensor, other: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    _, _, _, o = (inputs + other).chunk(4, -1)
    return o.sigmoid() * cell.tanh(), lstm_step(inputs, other, cell)[1]


def _update_turned_round(inputs: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
    r, z, n = inputs.chunk(3, -1)
    z_h = other.chunk(3, -1)[1]
    return gru_step(torch.cat([r, -z - 2 * z_h, n], -1), other, hidden)


def _reset_on_everything(inputs: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
    r, z, n = (inputs + other).chunk(3, -1)
    keep = z.sigmoid()
    return keep * hidden + (1 - keep) * torch.tanh(r.sigmoid() * n)


def _no_reset(inputs: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
    _, z, n = (inputs + other).chunk(3, -1)
    return z.sigmoid() * hidden + (1 - z.sigmoid()) * n.tanh()


def _gates_of_a_gru_swapped(inputs: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
    def swap(x: Tensor) -> Tensor:
        r, z, n = x.chunk(3, -1)
        return torch.cat([z, r, n], -1)

    return gru_step(swap(inputs), swap(other), hidden)


WRONG: dict[str, tuple[Kind, Step]] = {
    "input and forget gate swapped": ("lstm", _gates_swapped),
    "no forget gate": ("lstm", _no_forgetting),
    "candidate without tanh": ("lstm", _candidate_not_squashed),
    "hidden state without tanh": ("lstm", _cell_shown_raw),
    "output of the cell before": ("lstm", _old_cell_shown),
    "update gate turned round": ("gru", _update_turned_round),
    "reset gate on the input, too": ("gru", _reset_on_everything),
    "no reset gate": ("gru", _no_reset),
    "reset and update swapped": ("gru", _gates_of_a_gru_swapped),
    "no tanh": ("rnn", lambda inputs, other: inputs + other),
    "the state left out": ("rnn", lambda inputs, other: inputs.tanh()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_rejected(name: str) -> None:
    kind, step = WRONG[name]
    with pytest.raises(AssertionError):
        CHECKS[kind](step)


# ---- a layer, against torch.nn


def check_layer(kind: Kind, forward: Callable[[Recurrent, Tensor], Tensor]) -> None:
    """States, last state and every gradient are those of torch.nn's layer with the same weights."""
    torch.manual_seed(0)
    peer = PEERS[kind](5, 7, batch_first=True).double()
    ours = Recurrent(kind, 5, 7).double()
    ours.load_state_dict(peer.state_dict())
    x, other = numbers(3, 9, 5).requires_grad_(), numbers(3, 9, 5).requires_grad_()
    mine, theirs = forward(ours, x), peer(other)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    toward = numbers(3, 9, 7, seed=4)
    (mine * toward).sum().backward()
    (theirs * toward).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-9, atol=1e-11)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, getattr(peer, name).grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_torchs_in_states_and_all_gradients(kind: Kind) -> None:
    check_layer(kind, lambda layer, x: layer(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_same_as_at_once(kind: Kind) -> None:
    def forward(layer: Recurrent, x: Tensor) -> Tensor:
        state, shown = layer.start(len(x)), []
        for t in range(x.shape[1]):
            state = layer.step(x[:, t], state)
            shown.append(state[0])
        return torch.stack(shown, 1)

    check_layer(kind, forward)


def _backwards(layer: Recurrent, x: Tensor) -> Tensor:
    return layer(x.flip(1))[0].flip(1)


def _one_late(layer: Recurrent, x: Tensor) -> Tensor:
    states, _ = layer(x)
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)


def _cut_off(layer: Recurrent, x: Tensor) -> Tensor:
    """Right forwards; backwards no error passes from a step to the one before."""
    state, shown = layer.start(len(x)), []
    for t in range(x.shape[1]):
        state = layer.step(x[:, t], tuple(part.detach() for part in state))
        shown.append(state[0])
    return torch.stack(shown, 1)


def _state_forgotten(layer: Recurrent, x: Tensor) -> Tensor:
    return torch.stack([layer.step(x[:, t], layer.start(len(x)))[0] for t in range(x.shape[1])], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forward", [_backwards, _one_late, _cut_off, _state_forgotten])
def test_a_wrong_loop_is_rejected(kind: Kind, forward: Callable[[Recurrent, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_layer(kind, forward)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_may_go_on_where_it_stopped(kind: Kind) -> None:
    torch.manual_seed(1)
    layer, x = Recurrent(kind, 4, 6), torch.randn(2, 8, 4)
    whole, last = layer(x)
    first, state = layer(x[:, :5])
    second, end = layer(x[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for a, b in zip(end, last, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_each_copy_is_the_layer_that_stands_alone(kind: Kind) -> None:
    torch.manual_seed(2)
    together, x = Recurrent(kind, 4, 6, copies=3), torch.randn(3, 2, 5, 4)
    states, last = together(x)
    for copy in range(3):
        alone = Recurrent(kind, 4, 6)
        alone.load_state_dict({name: weight[copy] for name, weight in together.state_dict().items()})
        want, end = alone(x[copy])
        torch.testing.assert_close(states[copy], want)
        torch.testing.assert_close(last[-1][copy], end[-1])


def test_weights_begin_within_one_over_the_root_of_the_width() -> None:
    layer = Recurrent("lstm", 10, 25, copies=4)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= 0.2
        assert parameter.abs().max() > 0.19
    assert not torch.equal(layer.weight_hh_l0[0], layer.weight_hh_l0[1])


def test_the_gradient_along_an_lstms_cell_is_the_product_of_its_forget_gates() -> None:
    """With the recurrent weights at zero nothing else leads from one cell to the next."""
    torch.manual_seed(3)
    layer = Recurrent("lstm", 4, 6).double()
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    x, state = numbers(1, 7, 4), layer.start(1)
    cells, gates = [], []
    for t in range(7):
        forget = (x[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0)[0, 6:12].sigmoid()
        state = layer.step(x[:, t], state)
        cells.append(state[1])
        gates.append(forget)
    for unit in range(6):
        (found,) = torch.autograd.grad(cells[-1][0, unit], cells[1], retain_graph=True)
        want = torch.stack(gates[2:])[:, unit].prod()
        assert found[0, unit].item() == pytest.approx(want.item(), rel=1e-9)


def test_a_simple_networks_gradient_never_exceeds_the_power_of_its_largest_singular_value() -> None:
    for gain in (0.7, 1.3):
        torch.manual_seed(4)
        layer = Recurrent("rnn", 3, 8).double()
        with torch.no_grad():
            layer.weight_hh_l0.copy_(gain * torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0])
        x, state, kept = numbers(1, 12, 3), layer.start(1), []
        for t in range(12):
            state = layer.step(x[:, t], state)
            kept.append(state[0])
        rows = [torch.autograd.grad(kept[-1][0, i], kept, retain_graph=True) for i in range(8)]
        for k in range(12):
            jacobian = torch.stack([row[11 - k][0] for row in rows])
            assert torch.linalg.matrix_norm(jacobian, 2) <= gain**k * (1 + 1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent("elman", 3, 4), "no recurrent network 'elman'; there are rnn, gru, lstm"),  # type: ignore[arg-type]
        (lambda: Recurrent("rnn", 3, 0), "hidden 0"),
        (lambda: Recurrent("gru", 3, 4)(torch.zeros(2, 5)), r"x is \(2, 5\); this gru reads \(B, T, 3\)"),
        (lambda: Recurrent("lstm", 3, 4)(torch.zeros(2, 5, 4)), r"reads \(B, T, 3\)"),
        (lambda: Recurrent("lstm", 3, 4, 2)(torch.zeros(3, 2, 5, 3)), r"reads \(2, B, T, 3\)"),
        (lambda: Recurrent("lstm", 3, 4).step(torch.zeros(2, 5, 3), ()), r"reads \(B, 3\)"),
    ],
)
def test_what_cannot_be_read_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- additive attention


def check_attention(
    attend: Callable[[AdditiveAttention, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    """Context and weights are those of Bahdanau et al., eq. 5-6, in plain loops; masked keys have none."""
    torch.manual_seed(0)
    layer = AdditiveAttention(4, 3, 5).double()
    query, keys, values = numbers(2, 4, seed=1), numbers(2, 6, 3, seed=2), numbers(2, 6, 2, seed=3)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    context, weights = attend(layer, query, keys, values, mask)
    for row in range(2):
        scores = []
        for j in range(6):
            inner = [
                math.tanh(
                    sum(layer.w_query[m, k].item() * query[row, k].item() for k in range(4))
                    + sum(layer.w_keys[m, k].item() * keys[row, j, k].item() for k in range(3))
                )
                for m in range(5)
            ]
            scores.append(sum(layer.v[m].item() * inner[m] for m in range(5)))
        seen = [math.exp(score) if mask[row, j] else 0.0 for j, score in enumerate(scores)]
        alpha = [one / sum(seen) for one in seen]
        assert weights[row].tolist() == pytest.approx(alpha, abs=1e-12)
        want = [sum(alpha[j] * values[row, j, k].item() for j in range(6)) for k in range(2)]
        assert context[row].tolist() == pytest.approx(want, abs=1e-12)


def test_additive_attention_is_its_definition_in_loops() -> None:
    check_attention(lambda layer, q, k, v, mask: layer(q, layer.project(k), v, mask))


def _by_hand(
    scores: Callable[[Tensor], Tensor], soft: Callable[[Tensor], Tensor]
) -> Callable[..., tuple[Tensor, Tensor]]:
    def attend(layer: AdditiveAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        inner = scores((q @ layer.w_query.T)[:, None] + k @ layer.w_keys.T) @ layer.v
        weights = soft(inner.masked_fill(~mask, -torch.inf))
        return (weights[..., None] * v).sum(1), weights

    return attend


WRONG_ATTENTION: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "no tanh": _by_hand(lambda x: x, lambda s: s.softmax(-1)),
    "softmax over the batch": _by_hand(torch.tanh, lambda s: s.softmax(0).nan_to_num()),
    "not normalized": _by_hand(torch.tanh, lambda s: s.exp()),
    "scaled as in a dot product": _by_hand(torch.tanh, lambda s: (s / math.sqrt(5)).softmax(-1)),
    "mask left out": lambda layer, q, k, v, mask: layer(q, layer.project(k), v),
    "mask turned round": lambda layer, q, k, v, mask: layer(q, layer.project(k), v, ~mask | torch.eye(2, 6).bool()),
    "mask after the softmax": lambda layer, q, k, v, mask: (lambda w: ((w[..., None] * v).sum(1), w))(
        layer(q, layer.project(k), v)[1] * mask
    ),
}


def test_the_loops_by_hand_are_right_where_nothing_is_changed() -> None:
    check_attention(_by_hand(torch.tanh, lambda s: s.softmax(-1)))


@pytest.mark.parametrize("name", WRONG_ATTENTION)
def test_a_wrong_attention_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_attention(WRONG_ATTENTION[name])


def test_copies_of_attention_are_separate() -> None:
    torch.manual_seed(5)
    together = AdditiveAttention(4, 3, 5, copies=2)
    query, keys = torch.randn(2, 7, 4), torch.randn(2, 7, 6, 3)
    context, weights = together(query, together.project(keys), keys)
    for copy in range(2):
        alone = AdditiveAttention(4, 3, 5)
        alone.load_state_dict({name: weight[copy] for name, weight in together.state_dict().items()})
        want, want_weights = alone(query[copy], alone.project(keys[copy]), keys[copy])
        torch.testing.assert_close(context[copy], want)
        torch.testing.assert_close(weights[copy], want_weights)


def test_the_gradient_of_attention_is_that_of_finite_differences() -> None:
    torch.manual_seed(6)
    layer = AdditiveAttention(3, 2, 4).double()
    query, keys = numbers(1, 3).requires_grad_(), numbers(1, 5, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: layer(q, layer.project(k), k)[0], (query, keys))


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    layer = AdditiveAttention(3, 2, 4)
    keys = torch.zeros(1, 5, 2)
    with pytest.raises(ValueError, match="no key to look at"):
        layer(torch.zeros(1, 3), layer.project(keys), keys, torch.zeros(1, 5, dtype=torch.bool))


def test_the_blocks_of_weights_are_as_many_as_gates() -> None:
    assert recurrent.GATES == {"rnn": 1, "gru": 3, "lstm": 4}
    for kind in KINDS:
        assert Recurrent(kind, 3, 5).weight_ih_l0.shape == (5 * recurrent.GATES[kind], 3)
