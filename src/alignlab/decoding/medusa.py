"""Medusa, Cai et al. (2024): heads that guess the tokens after the next, a tree of guesses checked in one pass.

Knows heads, trees, their masks and both rules of acceptance; the training loop stands in the lab ch04_fast_decoding.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.decoding.speculative import Pass, Run, _check
from alignlab.transformer import Transformer


class MedusaHeads(nn.Module):
    """Head k = 1 ... K guesses the token k places after the next one: W_out (h + SiLU(W_k h + b_k)), section 2.1.1.

    The paper gives each head an output matrix of its own, begun as the model's. Here all share rows of the model's own,
    frozen: those of the tokens that a head may guess. W_k begins at zero, so that each head begins as the model's.
    """

    output: Tensor
    token_ids: Tensor

    def __init__(self, output: Tensor, token_ids: Tensor, heads: int = 3) -> None:
        """output: the model's output matrix (V, d); token_ids: (R,) the tokens that may be guessed."""
        super().__init__()
        if heads < 1 or len(token_ids) < 2:
            raise ValueError(f"{heads} heads over {len(token_ids)} tokens; give at least 1 head and 2 tokens")
        width = output.shape[1]
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(heads))
        for block in self.blocks.children():
            assert isinstance(block, nn.Linear)
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)
        self.register_buffer("token_ids", token_ids.clone())
        self.register_buffer("output", output.detach()[token_ids].clone())
        self.to(output.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: the model's normalized states (..., d). Returns logits (K, ..., R) over `token_ids`."""
        return torch.stack([hidden + F.silu(block(hidden)) for block in self.blocks]) @ self.output.T

    @torch.inference_mode()
    def guesses(self, hidden: Tensor, most: int) -> list[list[int]]:
        """The `most` likeliest tokens of each head after one position, hidden (d,): K lists of ids, likeliest first."""
        best: list[list[int]] = self.token_ids[self(hidden).topk(most).indices].tolist()
        return best


def medusa_targets(ids: Tensor, token_ids: Tensor, heads: int) -> Tensor:
    """What each head should say at each position of a text, (K, T): places in `token_ids`, -100 where there is none.

    ids: (T,). At position t the model itself predicts ids[t + 1]; head k = 1 ... K is to predict ids[t + 1 + k].
    """
    place = torch.full((int(max(ids.max(), token_ids.max())) + 1,), -100)
    place[token_ids] = torch.arange(len(token_ids))
    targets = torch.full((heads, len(ids)), -100)
    for k in range(1, heads + 1):
        if len(ids) > k + 1:
            targets[k - 1, : len(ids) - 1 - k] = place[ids[k + 1 :]]
    return targets


def medusa_loss(logits: Tensor, targets: Tensor, decay: float = 0.8) -> Tensor:
    """The sum over heads of decay^k times the cross-entropy, Cai et al. (2024), eq. 1 (Medusa-1).

    logits: (K, N, R); targets: (K, N), -100 for none. Returns a scalar, in nats.
    """
    losses = [
        decay**k * F.cross_entropy(rows, target)
        for k, (rows, target) in enumerate(zip(logits, targets, strict=True), 1)
    ]
    return torch.stack(losses).sum()


# -- trees ------------------------------------------------------------------------------------------------------


class Tree(NamedTuple):
    """Guesses as a tree: node 0 is the token that is known already, node i > 0 a guess for the place after its parent.

    parents: of node i > 0 an earlier node, -1 for node 0. ranks: which of its head's guesses it is, 0 the likeliest.
    """

    parents: list[int]
    ranks: list[int]

    @property
    def depths(self) -> list[int]:
        """How far below node 0 each node stands: its tokens are guessed by the head of that number."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths


CHAIN = Tree([-1, 0, 1, 2], [0, 0, 0, 0])
"""Three heads, one guess each: no tree at all."""


def best_tree(accuracies: Tensor, size: int) -> Tree:
    """The tree of `size` guesses that keeps the most tokens, if heads err independently, Cai et al. (2024), 2.3.3.

    accuracies: (K, R), how often guess r of head k is right. A node is worth the product along its path; the next one
    taken is always the one worth most, whose parent and better-ranked siblings are in by then.
    """
    heads, most = accuracies.shape
    if not 1 <= size <= sum(most**k for k in range(1, heads + 1)):
        raise ValueError(f"a tree of {size} guesses cannot be made of {heads} heads with {most} guesses each")
    parents, ranks, depths, worth = [-1], [0], [0], [1.0]
    open_nodes = {(0, 0): float(accuracies[0, 0])}  # (parent, rank) of each node that may come next, and its worth
    for _ in range(size):
        parent, rank = max(open_nodes, key=lambda node: open_nodes[node])
        value, depth = open_nodes.pop((parent, rank)), depths[parent] + 1
        parents.append(parent)
        ranks.append(rank)
        depths.append(depth)
        worth.append(value)
        if rank + 1 < most:
            open_nodes[parent, rank + 1] = worth[parent] * float(accuracies[depth - 1, rank + 1])
        if depth < heads:
            open_nodes[len(parents) - 1, 0] = value * float(accuracies[depth, 0])
    return Tree(parents, ranks)


def tree_mask(parents: Sequence[int]) -> Tensor:
    """Who sees whom, (n, n): a node sees itself and its ancestors, never a sibling, Cai et al. (2024), figure 2."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


def typical_acceptance(logits: Tensor, tokens: Tensor, epsilon: float = 0.09, delta: float = 0.3) -> Tensor:
    """Whether each token is likely enough: p(x) > min(epsilon, delta exp(-H(p))), Cai et al. (2024), section 2.3.1.

    logits: (..., V) of the model where the tokens (...) stand. Returns (...), bool. H in nats: where the model is
    unsure the threshold sinks. This is not exact: the text no longer has the model's distribution.
    """
    if not (0 < epsilon <= 1 and 0 < delta <= 1):
        raise ValueError(f"epsilon is {epsilon}, delta {delta}; both must be above 0 and at most 1")
    logprobs = logits.log_softmax(-1)
    entropy = -torch.xlogy(logprobs.exp(), logprobs.exp()).sum(-1)
    threshold = (math.log(delta) - entropy).clamp(max=math.log(epsilon))
    return logprobs.gather(-1, tokens[..., None])[..., 0] > threshold


# -- decoding ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def medusa(
    model: nn.Module,
    heads: MedusaHeads,
    prompt: Sequence[int],
    max_new_tokens: int,
    tree: Tree = CHAIN,
    rule: Literal["greedy", "typical"] = "greedy",
    *,
    epsilon: float = 0.09,
    delta: float = 0.3,
    stop_id: int | None = None,
) -> Run:
    """Medusa decoding: each pass reads the known token and a tree of guesses after it, and keeps one branch.

    rule: "greedy" keeps guesses that the model itself finds likeliest, and gives the text of greedy decoding; "typical"
    keeps those that pass `typical_acceptance`. The token after a branch is the model's likeliest. ValueError for a
    tree deeper than there are heads, an empty prompt, or a text that exceeds the context.
    """
    decoder = Transformer.view(model)
    _check(decoder, prompt, max_new_tokens)
    depths, most = tree.depths, max(tree.ranks) + 1
    if max(depths) > len(heads.blocks):
        raise ValueError(f"the tree is {max(depths)} guesses deep; there are {len(heads.blocks)} heads")
    if rule not in ("greedy", "typical"):
        raise ValueError(f"the rule is {rule!r}; give 'greedy' or 'typical'")
    device, mask, end = decoder.norm.weight.device, tree_mask(tree.parents), len(prompt) + max_new_tokens
    cache = decoder.cache(1, end + len(depths))
    states = decoder.hidden(torch.tensor([list(prompt)], device=device), cache=cache)[0, -1]
    ids, passes = list(prompt), list[Pass]()
    root = int(decoder.lm_head(states).argmax())
    passes.append(Pass([], 0, root))
    while len(ids) + 1 < end and root != stop_id:
        guesses = heads.guesses(states, most)
        tokens = [root, *(guesses[depth - 1][rank] for depth, rank in zip(depths[1:], tree.ranks[1:], strict=True))]
        past = cache.length
        hidden = decoder.hidden(torch.tensor([tokens], device=device), cache=cache, tree=mask)[0]
        logits = decoder.lm_head(hidden).float()
        likeliest = logits.argmax(-1).tolist()
        stays = [True] * len(tokens)
        if rule == "typical":
            parents = torch.tensor(tree.parents[1:], device=device)
            guessed = torch.tensor(tokens[1:], device=device)
            stays[1:] = typical_acceptance(logits[parents], guessed, epsilon, delta).tolist()
        last = 0
        for node, parent in enumerate(tree.parents[1:], 1):
            if rule == "greedy":
                stays[node] = tokens[node] == likeliest[parent]
            stays[node] &= stays[parent]
            if stays[node] and depths[node] > depths[last]:
                last = node
        path = [int(node) for node in mask[last].nonzero()]  # ancestors come before their children
        path = path[: end - len(ids) - 1]
        found = [tokens[node] for node in path]
        cache.keep(past, torch.tensor(path))
        if stop_id in found:
            found = found[: found.index(stop_id)]
            passes.append(Pass(tokens[1:], len(found) - 1, stop_id or 0))
            return Run(ids[len(prompt) :] + found, True, passes)
        ids += found
        states, root = hidden[path[-1]], likeliest[path[-1]]
        passes.append(Pass(tokens[1:], len(found) - 1, root))
    ended = root == stop_id
    return Run(ids[len(prompt) :] + ([] if ended else [root]), ended, passes)
