"""Greedy generation: alignlab.decoding.generate beside transformers' generate, the same tokens from both."""

from measure import Comparison, alternate, padded
from torch import nn
from transformers import GenerationConfig

from alignlab import decoding


def compare(
    name: str, model: nn.Module, prompts: list[list[int]], tokens: int, turns: int, target: float
) -> Comparison:
    """Both continue the prompts by exactly `tokens` tokens, in float32. ValueError where any token differs."""
    ids, mask = padded(prompts)
    model.generation_config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0)

    def ours() -> list[list[int]]:
        return [completion.ids for completion in decoding.generate(model, prompts, tokens)]

    def theirs() -> list[list[int]]:
        return model.generate(ids, attention_mask=mask)[:, ids.shape[1] :].tolist()

    a, b = ours(), theirs()
    if a != b:
        different = sum(x != y for x, y in zip(a, b, strict=True))
        raise ValueError(
            f"{name}: {different} of {len(prompts)} completions differ from transformers'; the times would not compare"
        )
    same = f"{len(prompts) * tokens} greedy tokens identical"
    return Comparison(
        f"{name}, batch {len(prompts)}, {tokens} new tokens", *alternate(ours, theirs, turns), target, same
    )
