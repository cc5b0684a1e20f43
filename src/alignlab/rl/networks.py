"""Small networks, several at once: one multilayer perceptron per seed, all computed in one batched product.

Knows shapes and seeds; nothing about rewards. A small network leaves a processor idle between its operations, so five
seeds side by side take little longer than one, and a band over seeds costs no more than a single curve.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Networks(nn.Module):
    """`copies` separate multilayer perceptrons of one shape, each with weights of its own.

    sizes: widths from input to output. weights[l]: (copies, sizes[l], sizes[l + 1]), biases[l]: (copies, 1,
    sizes[l + 1]). Weights begin as nn.Linear's do, uniform within 1 / sqrt(inputs); copy i draws from the seed
    `seed + i`, so that it is the same network whether it stands alone or among others.
    """

    def __init__(
        self, sizes: Sequence[int], copies: int = 1, seed: int = 0, activation: Callable[[Tensor], Tensor] = torch.relu
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1 or copies < 1:
            raise ValueError(f"sizes {list(sizes)}, copies {copies}; give at least two positive widths and one copy")
        self.sizes, self.copies, self.activation = tuple(sizes), copies, activation
        generators = [torch.Generator().manual_seed(seed + copy) for copy in range(copies)]

        def drawn(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(torch.stack([(torch.rand(shape, generator=g) * 2 - 1) * bound for g in generators]))

        pairs = list(pairwise(sizes))
        bounds = [1 / math.sqrt(inputs) for inputs, _ in pairs]
        self.weights = nn.ParameterList(drawn(i, o, bound=b) for (i, o), b in zip(pairs, bounds, strict=True))
        self.biases = nn.ParameterList(drawn(1, o, bound=b) for (_, o), b in zip(pairs, bounds, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(copies, batch, sizes[0]) to (copies, batch, sizes[-1]); copy i reads x[i]. No activation at the end."""
        last = len(self.sizes) - 2
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = x if layer == last else self.activation(x)
        return x


@torch.no_grad()
def clip_grad_norms(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scale each copy's gradient down to a norm of at most `most`; returns the norms before, (copies,).

    parameters: tensors whose first dimension is the copy. torch's own function would clip all copies by one norm, and
    a copy whose gradient explodes would then slow the others.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=-1) for gradient in gradients]).norm(dim=0)
    scale = (most / norms.clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
    return norms
