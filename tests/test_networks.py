"""Several networks in one product: each copy is the network that stands alone, in values, gradients and clipping."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

from alignlab.rl.curves import band
from alignlab.rl.networks import Networks, clip_grad_norms


def alone(networks: Networks, copy: int) -> nn.Sequential:
    """Copy i as torch's own layers."""
    layers: list[nn.Module] = []
    for weight, bias in zip(networks.weights, networks.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        layer.weight.data, layer.bias.data = weight[copy].detach().T.clone(), bias[copy, 0].detach().clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_each_copy_computes_what_its_layers_compute_alone() -> None:
    networks = Networks((4, 8, 8, 3), copies=3, seed=5)
    x = torch.randn(3, 7, 4)
    for copy in range(3):
        torch.testing.assert_close(networks(x)[copy], alone(networks, copy)(x[copy]))


def test_a_copy_is_the_same_network_among_others_and_alone() -> None:
    together, second = Networks((4, 8, 2), copies=3, seed=5), Networks((4, 8, 2), copies=1, seed=6)
    for a, b in zip(together.parameters(), second.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
    assert not torch.equal(together.weights[0][0], together.weights[0][1])


def test_training_copies_by_a_summed_loss_is_training_each_alone() -> None:
    networks = Networks((3, 6, 1), copies=2, seed=1)
    single = [alone(networks, copy) for copy in range(2)]
    x, y = torch.randn(2, 16, 3), torch.randn(2, 16, 1)
    together = torch.optim.Adam(networks.parameters(), lr=0.01)
    apart = [torch.optim.Adam(one.parameters(), lr=0.01) for one in single]
    for _ in range(5):
        loss = (networks(x) - y).square().mean((1, 2)).sum()
        together.zero_grad()
        loss.backward()
        together.step()
        for copy, optimizer in enumerate(apart):
            optimizer.zero_grad()
            (single[copy](x[copy]) - y[copy]).square().mean().backward()
            optimizer.step()
    for copy in range(2):
        torch.testing.assert_close(networks(x)[copy], single[copy](x[copy]), atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped_copy_by_copy() -> None:
    networks = Networks((3, 5, 1), copies=2, seed=2)
    x = torch.randn(2, 9, 3)
    (networks(x).square().mean((1, 2)) * torch.tensor([1000.0, 1e-3])).sum().backward()
    before = [p.grad.clone() for p in networks.parameters() if p.grad is not None]
    want = []
    for copy in range(2):
        parts = [nn.Parameter(g[copy]) for g in before]
        for part, g in zip(parts, before, strict=True):
            part.grad = g[copy].clone()
        want.append((nn.utils.clip_grad_norm_(parts, 0.5), [part.grad for part in parts]))
    norms = clip_grad_norms(list(networks.parameters()), 0.5)
    for copy, (norm, clipped) in enumerate(want):
        torch.testing.assert_close(norms[copy], norm)
        for parameter, expected in zip(networks.parameters(), clipped, strict=True):
            torch.testing.assert_close(parameter.grad[copy], expected, rtol=1e-4, atol=1e-7)
    assert norms[0] > 0.5 > norms[1]


def test_shapes_that_make_no_network_are_refused() -> None:
    for sizes, copies in (((4,), 1), ((4, 0, 2), 1), ((4, 2), 0)):
        with pytest.raises(ValueError, match="positive widths"):
            Networks(sizes, copies)


def test_a_band_holds_the_seeds_and_its_line_their_mean() -> None:
    runs = np.array([[0.0, 1.0], [1.0, 3.0], [5.0, 2.0]])
    figure = go.Figure()
    band(figure, [10, 20], runs, "all")
    area, line = figure.data
    assert list(line.y) == [2.0, 2.0] and list(area.y) == [5.0, 3.0, 1.0, 0.0]
    many = np.arange(11.0)[:, None]
    band(figure, [0], many, "many")
    assert list(figure.data[2].y) == [9.0, 1.0]
    with pytest.raises(ValueError, match="seeds, T"):
        band(figure, [1, 2, 3], runs, "wrong")
