"""Constrained decoding: our mask and whole answers beside Outlines' and transformers', the same tokens from both.

Outlines masks with its index written in Rust and its own kernel, as it comes (compiled by torch at first use);
transformers takes a function that lists the allowed tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from measure import Comparison, alternate
from outlines.backends.outlines_core import OutlinesCoreLogitsProcessor
from outlines_core import Index
from outlines_core import Vocabulary as OutlinesVocabulary
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList

from alignlab import decoding
from alignlab.decoding.regular import compile_regex
from alignlab.decoding.structured import Constraint, TokenAutomaton, Vocabulary, schema_regex

BOOKING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 16},
        "day": {"enum": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]},
        "people": {"type": "integer", "minimum": 1, "maximum": 12},
    },
    "required": ["name", "day", "people"],
}
DOCUMENT = '{"name": "Ann", "day": "Tuesday", "people": 4}'


def toy_vocabulary() -> Vocabulary:
    """Each byte a token, and an end token: 257 ids, for a smoke run."""
    return Vocabulary([*(bytes([byte]) for byte in range(256)), None], 256)


def outlines_index(vocabulary: Vocabulary, pattern: str) -> Index:
    """Outlines' index of a pattern over the same bytes."""
    names: dict[bytes, list[int]] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token:
            names.setdefault(token, []).append(i)
    return Index(pattern, OutlinesVocabulary(vocabulary.end_id, names))


def compare_masks(
    name: str, vocabulary: Vocabulary, ids: Sequence[int], batch: int, turns: int, target: float
) -> Comparison:
    """All masks of one document, step by step, on a batch of equal rows. ValueError where a mask differs."""
    pattern = schema_regex(BOOKING)
    constraint = Constraint(TokenAutomaton(compile_regex(pattern), vocabulary))
    theirs_processor = OutlinesCoreLogitsProcessor(outlines_index(vocabulary, pattern), "torch")
    logits = torch.randn(batch, len(vocabulary), generator=torch.Generator().manual_seed(0))
    steps = [[list(ids[:t])] * batch for t in range(len(ids) + 1)]
    tensors = [torch.tensor(step, dtype=torch.long).view(batch, -1) for step in steps]

    def ours() -> list[torch.Tensor]:
        return [constraint(logits, step) for step in steps]

    def theirs() -> list[torch.Tensor]:
        theirs_processor.reset()
        return [theirs_processor.process_logits(tensor, logits.clone()) for tensor in tensors]

    if any(not torch.equal(a, b) for a, b in zip(ours(), theirs(), strict=True)):
        raise ValueError(f"{name}: a mask differs from Outlines'; the times would not compare")
    same = f"{len(steps)} masks of {len(vocabulary):,} tokens identical"
    return Comparison(f"{name}, {len(steps)} masks, batch {batch}", *alternate(ours, theirs, turns), target, same)


def compare_answers(
    name: str,
    model: nn.Module,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    turns: int,
    target: float,
    peer: str = "Outlines",
    limit: int = 40,
) -> Comparison:
    """Whole greedy answers of one length of prompt. peer: "Outlines", or "transformers" with a function of ours.

    ValueError where any token differs.
    """
    pattern = schema_regex(BOOKING)
    automaton = TokenAutomaton(compile_regex(pattern), vocabulary)
    index = outlines_index(vocabulary, pattern)
    end, longest = vocabulary.end_id, len(prompts[0])
    tensor = torch.tensor(prompts)
    constraint = Constraint(automaton)

    def fitting(_: int, ids: torch.Tensor) -> list[int]:
        allowed: list[int] = automaton.row(constraint.state(ids[longest:].tolist()))[0].tolist()
        return allowed

    def ours() -> list[list[int]]:
        answers = decoding.generate(model, prompts, limit, stop_id=end, processor=Constraint(automaton))
        return [answer.ids for answer in answers]

    def theirs() -> list[list[int]]:
        extra: dict[str, Any] = {"prefix_allowed_tokens_fn": fitting}
        if peer == "Outlines":
            extra = {"logits_processor": LogitsProcessorList([OutlinesCoreLogitsProcessor(index, "torch")])}
        model.generation_config = GenerationConfig(
            max_new_tokens=limit, do_sample=False, pad_token_id=end, eos_token_id=end
        )
        rows = model.generate(tensor, attention_mask=torch.ones_like(tensor), **extra)[:, longest:].tolist()  # type: ignore[operator]
        return [row[: row.index(end)] if end in row else row for row in rows]

    a, b = ours(), theirs()
    if a != b:
        different = sum(x != y for x, y in zip(a, b, strict=True))
        raise ValueError(f"{name}: {different} of {len(prompts)} answers differ; the times would not compare")
    same = f"{sum(map(len, a))} tokens identical"
    return Comparison(f"{name}, batch {len(prompts)}, beside {peer}", *alternate(ours, theirs, turns), target, same)
