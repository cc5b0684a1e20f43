"""Our decoder beside transformers' Llama of the same size and the same weights: a forward pass, and a training step.

Both use torch's fused attention and the same fused AdamW; what differs is the code in between. transformers runs with
`use_cache=False`, which is quicker for it here.
"""

import copy

import torch
import torch.nn.functional as F
from measure import Comparison, alternate, timed
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from alignlab.transformer import Config, Transformer

LEARNING_RATE = 1e-4


def sized(
    vocabulary: int, width: int, inner: int, layers: int, heads: int, shared: int, length: int
) -> LlamaForCausalLM:
    """A random Llama of these sizes."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=shared, max_position_embeddings=length,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def twins(model: PreTrainedModel) -> tuple[Transformer, PreTrainedModel]:
    """Our decoder and transformers' with equal weights, neither sharing a tensor with the other."""
    ours = Transformer(Config.of(model.config)).load_weights(model.state_dict())
    return ours, copy.deepcopy(model)


def forward(name: str, model: PreTrainedModel, batch: int, length: int, turns: int, target: float) -> Comparison:
    """Logits of a batch of random tokens, (batch, length), without gradients."""
    ours, theirs = twins(model)
    ours.eval(), theirs.eval()
    ids = torch.randint(model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        gap = (ours(ids) - theirs(ids, use_cache=False).logits).abs().max().item()

    @torch.inference_mode()
    def predict(side: nn.Module, **options: bool) -> None:
        side(ids, **options)

    times = alternate(lambda: predict(ours), lambda: predict(theirs, use_cache=False), turns)
    same = f"logits within {gap:.0e}"
    return Comparison(f"{name}, forward ({batch} x {length} tokens)", *times, target, same, gap < 1e-3)


def training(name: str, model: PreTrainedModel, batch: int, length: int, turns: int, target: float) -> Comparison:
    """Steps of next-token training on the same batches, side by side; the first one is not timed."""
    ours, theirs = twins(model)
    sides: list[tuple[nn.Module, torch.optim.Optimizer]] = [
        (side.train(), torch.optim.AdamW(side.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True))
        for side in (ours, theirs)
    ]
    generator = torch.Generator().manual_seed(0)
    times: tuple[list[float], list[float]] = ([], [])
    losses: tuple[list[float], list[float]] = ([], [])

    def logits_of(side: nn.Module, ids: Tensor) -> Tensor:
        logits: Tensor = side(ids) if side is ours else side(ids, use_cache=False).logits
        return logits

    def step(side: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor) -> float:
        loss = F.cross_entropy(logits_of(side, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    for turn in range(turns + 1):
        ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
        for k in (1, 0) if turn % 2 else (0, 1):  # who begins changes from turn to turn
            side, optimizer = sides[k]
            taken = timed(lambda: losses[k].append(step(side, optimizer, ids)))  # noqa: B023
            if turn:
                times[k].append(taken)
    gap = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    same = f"losses within {gap:.1%} over {turns + 1} steps"
    return Comparison(f"{name}, training step ({batch} x {length} tokens)", *times, target, same, gap < 0.01)


def compare(name: str, model: PreTrainedModel, batch: int, length: int, turns: int, target: float) -> list[Comparison]:
    """Both, on one size."""
    return [
        forward(name, model, batch, length, turns, target),
        training(name, model, batch, length, turns, target),
    ]
