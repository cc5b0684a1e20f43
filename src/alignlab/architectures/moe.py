"""Mixture of experts: a router sends each token to a few of many feed-forward networks, and keeps them evenly loaded.

Knows tokens as vectors; nothing about attention or text. `MoE` stands in for a block's MLP: `block.mlp = MoE(...)`.
Letters of the shapes: n tokens (all positions of all rows), E experts, k chosen of them, d width, f width of an expert.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.transformer import MLP

Scores = Literal["softmax", "sigmoid"]


class Routing(NamedTuple):
    """Where each token goes, and how much each of its experts counts."""

    experts: Tensor
    """(n, k) numbers of the chosen experts, the highest score first."""
    weights: Tensor
    """(n, k) what each chosen expert's output is multiplied by; the router's gradient comes through here."""
    scores: Tensor
    """(n, E) of all experts: softmax over experts, or a sigmoid of each."""


def route(
    logits: Tensor,
    top_k: int,
    scores: Scores = "softmax",
    normalize: bool = True,
    bias: Tensor | None = None,
    scale: float = 1.0,
) -> Routing:
    """Choose each token's k experts of the highest score, Shazeer et al. (2017), eq. 3-5; Fedus et al. (2021), eq. 1-2.

    logits: (n, E) of the router. scores: "softmax" (Switch, Mixtral) or "sigmoid" (DeepSeek-V3, eq. 13-15).
    normalize: whether a token's k weights are divided by their sum, as in Mixtral and DeepSeek-V3. Switch does not:
    with one expert the normalized weight is always 1, and the router learns nothing.
    bias: (E,) added to the scores for the choice alone, DeepSeek-V3, eq. 16; the weights do not see it.
    scale: a last factor of the weights (2.5 in DeepSeek-V3). ValueError where k is not between 1 and E.
    """
    if not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k is {top_k} of {logits.shape[-1]} experts; choose at least 1 and at most all")
    all_scores = logits.float().softmax(-1) if scores == "softmax" else logits.float().sigmoid()
    choice = all_scores if bias is None else all_scores + bias
    experts = choice.topk(top_k, dim=-1).indices
    weights = all_scores.gather(-1, experts)
    if normalize:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
    return Routing(experts, weights * scale, all_scores)


def capacity(tokens: int, num_experts: int, top_k: int, factor: float) -> int:
    """How many tokens an expert takes, Fedus et al. (2021), eq. 3, for k choices a token; factor 1 is an even share.

    Rounded up. ValueError for a factor that is not positive.
    """
    if factor <= 0:
        raise ValueError(f"the capacity factor is {factor}; give a positive number, such as 1.25")
    return math.ceil(factor * tokens * top_k / num_experts - 1e-9)


def within_capacity(experts: Tensor, num_experts: int, limit: int) -> Tensor:
    """(n, k) booleans: whether each choice still finds room in its expert; False is a dropped token.

    experts: (n, k). First come, first served, in the order of the tokens; all first choices come before second ones,
    Lepikhin et al. (2020). What is dropped skips the expert: the residual stream alone carries it on.
    """
    order = experts.T.reshape(-1)  # all first choices, then all second ones
    place = F.one_hot(order, num_experts).cumsum(0).gather(1, order[:, None])[:, 0]  # 1 for the first to come
    return (place <= limit).view(experts.shape[1], experts.shape[0]).T


def expert_load(experts: Tensor, num_experts: int) -> Tensor:
    """(E,) the share of all choices (n, k) that each expert gets, Fedus et al. (2021), eq. 5; it sums to 1."""
    return torch.bincount(experts.reshape(-1), minlength=num_experts).float() / experts.numel()


def load_balance_loss(scores: Tensor, experts: Tensor) -> Tensor:
    """The auxiliary loss E * sum_i f_i P_i, Fedus et al. (2021), eq. 4-6, without its coefficient: a scalar.

    scores: (n, E) softmax scores, with their gradient. experts: (n, k) choices. f_i is the share of choices that expert
    i gets (a constant), P_i its mean score. 1 where both are even; towards E where one expert gets everything.
    (transformers' version for k choices counts f_i per token, so it is k times as large.)
    """
    num_experts = scores.shape[-1]
    return num_experts * (expert_load(experts, num_experts).to(scores) * scores.mean(0)).sum()


def balanced_bias(bias: Tensor, load: Tensor, speed: float) -> Tensor:
    """The bias (E,) after a step: `speed` up where an expert got less than its share, down where it got more.

    Wang et al. (2024), algorithm 1; DeepSeek-V3 with speed 0.001. load: (E,) shares of the step's choices. No gradient.
    """
    return bias + speed * torch.sign(load.mean() - load)


class MoE(nn.Module):
    """A feed-forward layer of E SwiGLU experts, of which each token uses k, and shared ones that all tokens use.

    hidden_size d; intermediate_size f, the width of one expert; shared: how many experts every token passes (one MLP of
    `shared` times f), DeepSeekMoE, Dai et al. (2024), eq. 9. scores, normalize, scale: see `route`. capacity_factor:
    None for no limit. Parameters have the names and shapes of transformers' Mixtral: `gate.weight` (E, d),
    `experts.gate_up_proj` (E, 2f, d), `experts.down_proj` (E, d, f).

    After a forward pass `routing` holds where the tokens went and `kept` what found room: (n, k).
    """

    bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        top_k: int,
        shared: int = 0,
        scores: Scores = "softmax",
        normalize: bool = True,
        scale: float = 1.0,
        capacity_factor: float | None = None,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k is {top_k} of {num_experts} experts; choose at least 1 and at most all")
        self.top_k, self.scores, self.normalize, self.scale = top_k, scores, normalize, scale
        self.capacity_factor = capacity_factor
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = Experts(num_experts, hidden_size, intermediate_size, std)
        self.shared_experts = MLP(hidden_size, shared * intermediate_size) if shared else None
        self.register_buffer("bias", torch.zeros(num_experts))
        self.routing: Routing | None = None
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d). Each token's output depends on that token alone, unless a capacity drops it."""
        tokens = x.reshape(-1, x.shape[-1])
        routing = route(self.gate(tokens), self.top_k, self.scores, self.normalize, self.bias, self.scale)
        kept = None
        if self.capacity_factor is not None:
            limit = capacity(len(tokens), len(self.bias), self.top_k, self.capacity_factor)
            kept = within_capacity(routing.experts, len(self.bias), limit)
        mixed = self.experts(tokens, routing.experts, routing.weights, kept)
        if self.shared_experts is not None:
            mixed = mixed + self.shared_experts(tokens)
        self.routing = routing
        self.kept = torch.ones_like(routing.experts, dtype=torch.bool) if kept is None else kept
        return mixed.view(x.shape)

    def balance_loss(self) -> Tensor:
        """`load_balance_loss` of the last forward pass; sigmoid scores first made to sum to 1, DeepSeek-V3, eq. 19."""
        if self.routing is None:
            raise ValueError("there has been no forward pass yet; call the layer first")
        scores = self.routing.scores
        if self.scores == "sigmoid":
            scores = scores / scores.sum(-1, keepdim=True)
        return load_balance_loss(scores, self.routing.experts)

    def load(self) -> Tensor:
        """(E,) `expert_load` of the last forward pass."""
        if self.routing is None:
            raise ValueError("there has been no forward pass yet; call the layer first")
        return expert_load(self.routing.experts, len(self.bias))

    @torch.no_grad()
    def rebalance(self, speed: float = 0.001) -> None:
        """Move `bias` by the load of the last forward pass, see `balanced_bias`."""
        self.bias.copy_(balanced_bias(self.bias, self.load(), speed))


class Experts(nn.Module):
    """E SwiGLU networks side by side, their weights stacked: expert i is one slice."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int, std: float = 0.02) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(num_experts, 2 * intermediate_size, hidden_size) * std)
        self.down_proj = nn.Parameter(torch.randn(num_experts, hidden_size, intermediate_size) * std)

    def forward(self, tokens: Tensor, experts: Tensor, weights: Tensor, kept: Tensor | None = None) -> Tensor:
        """Tokens (n, d), their choices (n, k) and weights (n, k) -> the weighted sum of their experts' outputs, (n, d).

        Tokens are sorted by expert, each expert sees its own in one product, and results are added back in place.
        """
        choices = experts.reshape(-1)
        order = choices.argsort(stable=True)
        if kept is not None:
            order = order[kept.reshape(-1)[order]]
        counts = torch.bincount(choices[order], minlength=len(self.gate_up_proj)).tolist()
        rows = order // experts.shape[1]
        outputs = []
        for expert, part in enumerate(tokens[rows].split(counts)):
            if len(part):
                gate, up = F.linear(part, self.gate_up_proj[expert]).chunk(2, dim=-1)
                outputs.append(F.linear(F.silu(gate) * up, self.down_proj[expert]))
        if not outputs:
            return torch.zeros_like(tokens)
        weighted = torch.cat(outputs) * weights.reshape(-1)[order, None].to(tokens.dtype)
        return torch.zeros_like(tokens).index_add(0, rows, weighted)
