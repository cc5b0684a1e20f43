"""Beam search: alignlab.decoding.beam_search beside transformers' generate(num_beams=...), the same tokens."""

from measure import Comparison, alternate, padded
from torch import nn
from transformers import GenerationConfig

from alignlab.decoding import beam_search


def compare(
    name: str, model: nn.Module, prompts: list[list[int]], tokens: int, width: int, turns: int, target: float
) -> Comparison:
    """Both find `width` continuations of each prompt, of exactly `tokens` tokens, in float32.

    ValueError where any token of any of them differs.
    """
    ids, mask = padded(prompts)
    model.generation_config = GenerationConfig(
        max_new_tokens=tokens, num_beams=width, num_return_sequences=width, do_sample=False, pad_token_id=0
    )

    def ours() -> list[list[int]]:
        found = beam_search(model, prompts, tokens, width)
        return [hypothesis.ids for hypotheses in found for hypothesis in hypotheses]

    def theirs() -> list[list[int]]:
        return model.generate(ids, attention_mask=mask)[:, ids.shape[1] :].tolist()

    a, b = ours(), theirs()
    if a != b:
        different = sum(x != y for x, y in zip(a, b, strict=True))
        raise ValueError(
            f"{name}: {different} of {len(a)} hypotheses differ from transformers'; the times would not compare"
        )
    same = f"{len(a)} hypotheses identical"
    return Comparison(
        f"{name}, {len(prompts)} prompts, {width} beams, {tokens} new tokens",
        *alternate(ours, theirs, turns),
        target,
        same,
    )
