"""Exercises of the lab ch01_from_mlp_to_transformer: back-propagation, through time, clipping, LSTM, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, W1, W2 = _numbers(5, 3, seed=1), _numbers(4, 3, seed=2), _numbers(2, 4, seed=3)
TARGETS = torch.tensor([0, 1, 1, 0, 1])
WEIGHT, INPUTS, START = 0.8, torch.tensor([0.5, -1.0, 0.3, 0.9], dtype=torch.float64), 0.2
GRADIENTS = [[_numbers(3, 2, seed=4), _numbers(4, seed=5)], [0.01 * _numbers(3, 2, seed=6), 0.01 * _numbers(4, seed=7)]]
GATES, CELL = _numbers(3, 16, seed=8), _numbers(3, 4, seed=9)
QUERY, KEYS = _numbers(2, 3, seed=10), _numbers(2, 4, 5, seed=11)
W_QUERY, W_KEYS, V = _numbers(6, 3, seed=12), _numbers(6, 5, seed=13), _numbers(6, seed=14)


# ---- solutions
def backward(x: Tensor, targets: Tensor, W1: Tensor, W2: Tensor) -> tuple[Tensor, Tensor]:
    """From the logits back: softmax minus truth, through W2, through the tanh, to W1."""
    a = torch.tanh(x @ W1.T)
    dz = ((a @ W2.T).softmax(-1) - torch.eye(len(W2), dtype=x.dtype)[targets]) / len(x)
    du = (dz @ W2) * (1 - a**2)
    return du.T @ x, dz.T @ a


def through_time(w: float, inputs: Tensor, start: float) -> Tensor:
    """Each step adds its own share, h before it times the error that has come back so far."""
    states = [torch.as_tensor(start, dtype=inputs.dtype)]
    for x in inputs:
        states.append(torch.tanh(w * states[-1] + x))
    total, error = torch.zeros_like(states[0]), torch.ones_like(states[0])
    for before, after in zip(reversed(states[:-1]), reversed(states[1:]), strict=True):
        u = error * (1 - after**2)
        total = total + u * before
        error = u * w
    return total


def clip(gradients: list[Tensor], most: float) -> list[Tensor]:
    """One factor for all, from the norm of all entries together; never above 1."""
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros((), dtype=gradients[0].dtype)))
    return [g * torch.clamp(most / norm, max=1.0) for g in gradients]


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Keep a part of the old cell, write a part of the candidate, show a part of the squashed new cell."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def attend(query: Tensor, keys: Tensor, W_query: Tensor, W_keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """A score for each key, a softmax over the keys, the weighted mean of the keys."""
    scores = torch.tanh((query @ W_query.T)[:, None] + keys @ W_keys.T) @ v
    weights = scores.softmax(-1)
    return (weights[..., None] * keys).sum(1), weights


# ---- wrong answers
def backward_no_tanh(x: Tensor, targets: Tensor, W1: Tensor, W2: Tensor) -> tuple[Tensor, Tensor]:
    a = torch.tanh(x @ W1.T)
    dz = ((a @ W2.T).softmax(-1) - torch.eye(len(W2), dtype=x.dtype)[targets]) / len(x)
    return (dz @ W2).T @ x, dz.T @ a


def backward_summed(x: Tensor, targets: Tensor, W1: Tensor, W2: Tensor) -> tuple[Tensor, Tensor]:
    first, second = backward(x, targets, W1, W2)
    return first * len(x), second * len(x)


def backward_flipped(x: Tensor, targets: Tensor, W1: Tensor, W2: Tensor) -> tuple[Tensor, Tensor]:
    first, second = backward(x, targets, W1, W2)
    return -first, -second


def backward_tanh_of_input(x: Tensor, targets: Tensor, W1: Tensor, W2: Tensor) -> tuple[Tensor, Tensor]:
    u = x @ W1.T
    a = torch.tanh(u)
    dz = ((a @ W2.T).softmax(-1) - torch.eye(len(W2), dtype=x.dtype)[targets]) / len(x)
    return ((dz @ W2) * (1 - u**2)).T @ x, dz.T @ a


def last_step_only(w: float, inputs: Tensor, start: float) -> Tensor:
    states = [torch.as_tensor(start, dtype=inputs.dtype)]
    for x in inputs:
        states.append(torch.tanh(w * states[-1] + x))
    return (1 - states[-1] ** 2) * states[-2]


def weight_forgotten(w: float, inputs: Tensor, start: float) -> Tensor:
    states = [torch.as_tensor(start, dtype=inputs.dtype)]
    for x in inputs:
        states.append(torch.tanh(w * states[-1] + x))
    total, error = torch.zeros_like(states[0]), torch.ones_like(states[0])
    for before, after in zip(reversed(states[:-1]), reversed(states[1:]), strict=True):
        error = error * (1 - after**2)
        total = total + error * before
    return total


def slope_forgotten(w: float, inputs: Tensor, start: float) -> Tensor:
    states = [torch.as_tensor(start, dtype=inputs.dtype)]
    for x in inputs:
        states.append(torch.tanh(w * states[-1] + x))
    total, error = torch.zeros_like(states[0]), torch.ones_like(states[0])
    for before in reversed(states[:-1]):
        total = total + error * before
        error = error * w
    return total


def only_the_far_end(w: float, inputs: Tensor, start: float) -> Tensor:
    states = [torch.as_tensor(start, dtype=inputs.dtype)]
    for x in inputs:
        states.append(torch.tanh(w * states[-1] + x))
    error = torch.ones_like(states[0])
    for after in reversed(states[2:]):
        error = error * (1 - after**2) * w
    return error * (1 - states[1] ** 2) * states[0]


def clip_each(gradients: list[Tensor], most: float) -> list[Tensor]:
    return [g * torch.clamp(most / g.norm(), max=1.0) for g in gradients]


def clip_entries(gradients: list[Tensor], most: float) -> list[Tensor]:
    return [g.clamp(-most, most) for g in gradients]


def clip_always(gradients: list[Tensor], most: float) -> list[Tensor]:
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    return [g * most / norm for g in gradients]


def clip_squared(gradients: list[Tensor], most: float) -> list[Tensor]:
    square = torch.stack([g.square().sum() for g in gradients]).sum()
    return [g * torch.clamp(most / square, max=1.0) for g in gradients]


def cell_swapped(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    return lstm_cell(torch.cat([f, i, g, o], -1), c)


def cell_never_forgets(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, _, g, o = gates.chunk(4, -1)
    c = c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def cell_shown_raw(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    _, c = lstm_cell(gates, c)
    return gates.chunk(4, -1)[3].sigmoid() * c, c


def cell_by_sigmoids(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.sigmoid().chunk(4, -1)
    c = f * c + i * g
    return o * c.tanh(), c


def attend_linear(query: Tensor, keys: Tensor, W_query: Tensor, W_keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = (((query @ W_query.T)[:, None] + keys @ W_keys.T) @ v).softmax(-1)
    return (weights[..., None] * keys).sum(1), weights


def attend_across_rows(
    query: Tensor, keys: Tensor, W_query: Tensor, W_keys: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    weights = (torch.tanh((query @ W_query.T)[:, None] + keys @ W_keys.T) @ v).softmax(0)
    return (weights[..., None] * keys).sum(1), weights


def attend_hard(query: Tensor, keys: Tensor, W_query: Tensor, W_keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.tanh((query @ W_query.T)[:, None] + keys @ W_keys.T) @ v
    weights = torch.eye(keys.shape[1], dtype=keys.dtype)[scores.argmax(-1)]
    return (weights[..., None] * keys).sum(1), weights


def attend_by_scores(query: Tensor, keys: Tensor, W_query: Tensor, W_keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.tanh((query @ W_query.T)[:, None] + keys @ W_keys.T) @ v
    return (scores[..., None] * keys).sum(1), scores


# ---- graders
def _joined(found: Any, count: int, what: str) -> Tensor:
    """Several tensors as one vector, to be compared together."""
    require(isinstance(found, tuple | list) and len(found) == count, f"return {what}")
    require(all(isinstance(one, Tensor) for one in found), f"return tensors: {what}")
    return torch.cat([one.flatten().to(torch.float64) for one in found])


def _grade_backward(answer: Callable[..., Any]) -> None:
    def of(function: Callable[..., Any]) -> Tensor:
        return _joined(
            function(X.clone(), TARGETS.clone(), W1.clone(), W2.clone()), 2, "two gradients: by W1 and by W2"
        )

    mistakes = {
        "The error must pass the tanh on its way to W1: multiply by its slope, 1 - a^2.": of(backward_no_tanh),
        "You summed over the examples; the loss is their mean.": of(backward_summed),
        "The sign is flipped: the gradient by the logits is softmax minus truth.": of(backward_flipped),
        "The tanh's slope is 1 - a^2 with a its value; you took what goes into it.": of(backward_tanh_of_input),
    }
    same(of(answer), of(backward), "your gradients", mistakes=mistakes)


def _grade_through_time(answer: Callable[..., Any]) -> None:
    def of(function: Callable[..., Any]) -> Tensor:
        return torch.as_tensor(function(WEIGHT, INPUTS.clone(), START), dtype=torch.float64)

    mistakes = {
        "You stopped after one step back: the states before it depend on w, too.": of(last_step_only),
        "The error is not multiplied by w on its way from a state to the one before.": of(weight_forgotten),
        "The slope of the tanh, 1 - h^2, is missing.": of(slope_forgotten),
        "Every step uses w, so every step adds its share; you kept that of the first alone.": of(only_the_far_end),
    }
    same(of(answer), of(through_time), "your derivative", mistakes=mistakes)


def _grade_clip(answer: Callable[..., Any]) -> None:
    for gradients in GRADIENTS:

        def of(function: Callable[..., Any], gradients: list[Tensor] = gradients) -> Tensor:
            return _joined(
                list(function([g.clone() for g in gradients], 1.0)), 2, "a list with one tensor for each given"
            )

        mistakes = {
            "You cut each tensor by its own norm, which turns the gradient's direction; one factor for all.": of(
                clip_each
            ),
            "You cut each entry, which turns the gradient's direction; scale all by one factor.": of(clip_entries),
            "A gradient that is short enough must stay as it is: the factor is never above 1.": of(clip_always),
            "You divided by the squared norm; take the root.": of(clip_squared),
        }
        same(of(answer), of(clip), "your clipped gradient", mistakes=mistakes)


def _grade_lstm_cell(answer: Callable[..., Any]) -> None:
    def of(function: Callable[..., Any]) -> Tensor:
        return _joined(function(GATES.clone(), CELL.clone()), 2, "two tensors: the hidden state and the cell")

    mistakes = {
        "Input and forget gate are swapped: the order is i, f, g, o.": of(cell_swapped),
        "The old cell goes through no gate in yours: multiply it by the forget gate.": of(cell_never_forgets),
        "The cell is squashed by tanh before it is shown: it is a sum and may be large.": of(cell_shown_raw),
        "The candidate g is squashed by tanh, between -1 and 1; only the gates are sigmoids.": of(cell_by_sigmoids),
    }
    same(of(answer), of(lstm_cell), "your step", mistakes=mistakes)


def _grade_attend(answer: Callable[..., Any]) -> None:
    def of(function: Callable[..., Any]) -> Tensor:
        given = (QUERY, KEYS, W_QUERY, W_KEYS, V)
        return _joined(function(*(one.clone() for one in given)), 2, "two tensors: the context and the weights")

    mistakes = {
        "The tanh is missing: without it the query shifts all scores alike, and the softmax forgets it.": of(
            attend_linear
        ),
        "Your softmax runs over the batch; it runs over the keys of each query.": of(attend_across_rows),
        "You took the best key alone: that has no gradient. The softmax mixes all of them.": of(attend_hard),
        "You weighed by the scores; the softmax of them is missing, so your weights do not sum to 1.": of(
            attend_by_scores
        ),
    }
    same(of(answer), of(attend), "your attention", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="from_mlp_to_transformer.backward",
        task="Give the mean cross-entropy's gradient by W1 (H, d) and W2 (C, H) of the network softmax(W2 tanh(W1 x)), "
        "for inputs (B, d) and classes (B,), without autograd.",
        difficulty=2,
        minutes=10,
        grade=_grade_backward,
        solution=backward,
        wrong=[
            Wrong(backward_no_tanh, "must pass the tanh"),
            Wrong(backward_summed, "You summed over the examples"),
            Wrong(backward_flipped, "softmax minus truth"),
            Wrong(backward_tanh_of_input, "you took what goes into it"),
        ],
        hint="Begin at the logits: (softmax - one-hot) / B. Then back through W2, the tanh, and to the input.",
    ),
    Exercise(
        name="from_mlp_to_transformer.through_time",
        task="A network has one unit: h_t = tanh(w h_(t-1) + x_t). Give d h_T / d w from w, the inputs (T,) and h_0, "
        "by going back through time.",
        difficulty=2,
        minutes=10,
        grade=_grade_through_time,
        solution=through_time,
        wrong=[
            Wrong(last_step_only, "stopped after one step back"),
            Wrong(weight_forgotten, "not multiplied by w"),
            Wrong(slope_forgotten, "slope of the tanh, 1 - h^2, is missing"),
            Wrong(only_the_far_end, "kept that of the first alone"),
        ],
        hint="Keep an error, 1 at the end. Each step back: times 1 - h^2; add error times the state before; times w.",
    ),
    Exercise(
        name="from_mlp_to_transformer.clip",
        task="Scale a list of gradients so that the norm of all of them together is at most `most`.",
        difficulty=1,
        minutes=5,
        grade=_grade_clip,
        solution=clip,
        wrong=[
            Wrong(clip_each, "by its own norm"),
            Wrong(clip_entries, "You cut each entry"),
            Wrong(clip_always, "short enough must stay"),
            Wrong(clip_squared, "squared norm"),
        ],
        hint="One norm: the root of the sum of all squares. One factor: most / norm, but never above 1.",
    ),
    Exercise(
        name="from_mlp_to_transformer.lstm_cell",
        task="One step of an LSTM, given what goes into its gates (B, 4 H) in the order i, f, g, o, and the cell "
        "(B, H): return the hidden state and the new cell.",
        difficulty=1,
        minutes=6,
        grade=_grade_lstm_cell,
        solution=lstm_cell,
        wrong=[
            Wrong(cell_swapped, "Input and forget gate are swapped"),
            Wrong(cell_never_forgets, "through no gate in yours"),
            Wrong(cell_shown_raw, "squashed by tanh before it is shown"),
            Wrong(cell_by_sigmoids, "only the gates are sigmoids"),
        ],
        hint="c = sigmoid(f) c + sigmoid(i) tanh(g), then h = sigmoid(o) tanh(c).",
    ),
    Exercise(
        name="from_mlp_to_transformer.attend",
        task="Additive attention of queries (B, q) over keys (B, S, k), with W_query (A, q), W_keys (A, k) and v (A,): "
        "return the context (B, k) and the weights (B, S).",
        difficulty=2,
        minutes=8,
        grade=_grade_attend,
        solution=attend,
        wrong=[
            Wrong(attend_linear, "The tanh is missing"),
            Wrong(attend_across_rows, "runs over the batch"),
            Wrong(attend_hard, "best key alone"),
            Wrong(attend_by_scores, "softmax of them is missing"),
        ],
        hint="Scores (B, S): tanh of two sums that broadcast, times v. Then a softmax over S, then a weighted sum.",
    ),
]
