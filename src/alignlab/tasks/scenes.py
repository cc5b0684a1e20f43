"""Endings of a scene: prompts such as "The old bear", 1,100 responses to each, and a gold reward that is known.

A world for preference learning in which every expectation is a sum: `tiny` gives these responses 98% of its mass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from alignlab import logprobs, text
from alignlab.tasks import Split, held_out
from alignlab.tasks.sentences import ADJECTIVES, HOMES, PLACES, SOUNDS, TIMES, VERBS, WORK

HELD_OUT = 0.25
END = "<|endoftext|>"
"""What `tiny` writes after a text that is not part of a chat; the last token of every response."""
LIVELY = ("sings", "plays", "walks", "works", "dances")
INDOORS = ("in the kitchen", "near the door", "at the market")
BROKEN = -1.0
"""The gold reward of a response that ends no scene: it is cut, garbled or of another kind."""


@dataclass(frozen=True)
class Ending:
    """What someone does, where, and (unless None) when."""

    verb: str
    place: str
    time: str | None = None

    @property
    def text(self) -> str:
        """As it follows a prompt: ` sleeps in the garden at night.`"""
        return f" {self.verb} {self.place}{f' {self.time}' if self.time else ''}."

    @property
    def gold(self) -> float:
        """The gold reward, 0 to 2.5: 1 for a lively verb, 1 for a place outdoors, 0.5 for naming no time."""
        return 1.0 * (self.verb in LIVELY) + 1.0 * (self.place not in INDOORS) + 0.5 * (self.time is None)


ENDINGS = tuple(Ending(*parts) for parts in product(VERBS, PLACES, (None, *TIMES)))
GOLD = torch.tensor([ending.gold for ending in ENDINGS], dtype=torch.float64)
"""The gold reward of every ending, (1100,)."""
_BY_TEXT = {ending.text: ending for ending in ENDINGS}


def prompts(split: Split | None = None) -> Iterator[str]:
    """Every beginning of a scene, such as "The old bear"; of one split, if given."""
    for adjective, someone in product(ADJECTIVES, dict.fromkeys([*HOMES, *WORK, *SOUNDS])):
        prompt = f"The {adjective} {someone}"
        if split in (None, "held-out" if held_out(f"scene {prompt}", HELD_OUT) else "train"):
            yield prompt


def gold_reward(response: str, ended: bool = True) -> float:
    """The gold reward of any response, its end token left out: that of the ending it is, or BROKEN."""
    ending = _BY_TEXT.get(response) if ended else None
    return ending.gold if ending else BROKEN


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, ended: bool = True) -> text.Example:
    """Prompt and response as one sequence in plain text (no chat format), the response and its END marked."""
    return text.join(tokenizer.encode(prompt, add_special_tokens=False), _response_ids(tokenizer, response, ended))


def _response_ids(tokenizer: PreTrainedTokenizerBase, response: str, ended: bool = True) -> list[int]:
    ids = tokenizer.encode(response, add_special_tokens=False)
    ids += [tokenizer.convert_tokens_to_ids(END)] if ended else []
    return ids


@torch.no_grad()
def exact_logprobs(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """log p(ending | prompt) of every ending, in nats: (prompts, 1100), float64.

    The probabilities of a row sum to less than 1; what is missing went to broken responses.
    """
    device = next(model.parameters()).device
    endings = [_response_ids(tokenizer, ending.text) for ending in ENDINGS]
    rows = []
    for prompt in prompts:
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        batch = text.pad([text.join(prompt_ids, ids) for ids in endings], tokenizer.pad_token_id)
        rows.append(logprobs.sequence_logprobs(model, *batch.to(device)).double().cpu())
    return torch.stack(rows)


def expected_gold(ending_logprobs: Tensor) -> Tensor:
    """E[gold reward] of a policy, exactly: (..., 1100) -> (...). What is not an ending counts as BROKEN."""
    probs = ending_logprobs.exp()
    return probs @ GOLD + (1 - probs.sum(-1)) * BROKEN


def exact_kl(ending_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) in nats over the endings and one more outcome, "broken": (..., 1100) twice -> (...).

    A lower bound of the KL over all texts, since broken responses are not told apart; exact while they are rare.
    """

    def with_broken(values: Tensor) -> Tensor:
        missing = (1 - values.exp().sum(-1, keepdim=True)).clamp_min(1e-12)
        return torch.cat([values, missing.log()], -1)

    p, q = with_broken(ending_logprobs), with_broken(ref_logprobs)
    return (p.exp() * (p - q)).sum(-1)
