"""From next-token logits to text: truncations as pure functions of logits, and a sampler with a KV cache.

A truncation sets what it cuts to -inf and leaves the rest as it was; softmax then renormalizes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from alignlab import text
from alignlab.transformer import Transformer

Processor = Callable[[Tensor, list[list[int]]], Tensor]
"""Changes raw logits (B, V), given the tokens generated so far in each of the B rows, before every other step."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def repetition_penalty(logits: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely, Keskar et al. (2019), section 4.1.

    The paper divides the logits by the penalty; that would favour negative ones, which are multiplied here.
    logits: (B, V); seen_ids: (B, T) tokens so far, the prompt's included; penalty: > 0, 1 changes nothing.
    """
    _require(penalty > 0, f"repetition penalty is {penalty}; it must be positive (1 changes nothing)")
    seen = logits.gather(-1, seen_ids)
    return logits.scatter(-1, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def occurrence_penalty(logits: Tensor, new_ids: Tensor, frequency: float = 0.0, presence: float = 0.0) -> Tensor:
    """Subtract `frequency` for each time that a token was generated, and `presence` once if it was at all.

    The penalties of OpenAI's and vLLM's interfaces; the prompt's tokens do not count. logits: (B, V);
    new_ids: (B, T) tokens generated so far; both penalties are in logits, a negative one favours what occurred.
    """
    _require(math.isfinite(frequency), f"frequency penalty is {frequency}; it must be finite (0 changes nothing)")
    _require(math.isfinite(presence), f"presence penalty is {presence}; it must be finite (0 changes nothing)")
    counts = torch.zeros_like(logits).scatter_add(-1, new_ids, torch.ones_like(new_ids, dtype=logits.dtype))
    return logits - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(logits: Tensor, seen_ids: Tensor, n: int) -> Tensor:
    """Cut each token that would repeat n tokens in a row, Paulus et al. (2018), section 2.5.

    logits: (B, V); seen_ids: (B, T) tokens so far, the prompt's included, -1 where a row is padded; n: at least 1.
    """
    _require(n >= 1 and n == int(n), f"no-repeat n is {n}; it must be a whole number, at least 1")
    if seen_ids.shape[1] < n:
        return logits
    windows = seen_ids.unfold(1, n, 1)  # (B, T - n + 1, n): every n-gram so far
    last = seen_ids[:, None, seen_ids.shape[1] - n + 1 :]
    repeats = (windows[..., :-1] == last).all(-1) & (windows[..., -1] >= 0)
    spare = logits.shape[-1]  # a column beyond the vocabulary takes what is not cut
    cut = torch.zeros(logits.shape[0], spare + 1, dtype=torch.bool, device=logits.device)
    cut.scatter_(1, torch.where(repeats, windows[..., -1], spare), True)
    return logits.masked_fill(cut[:, :spare], -torch.inf)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide logits (..., V) by a temperature > 0: below 1 sharpens, above 1 flattens the distribution."""
    _require(value > 0, f"temperature is {value}; it must be positive (for greedy decoding take the argmax)")
    return logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens, Fan et al. (2018), and those tied with the last of them. logits: (..., V)."""
    _require(k >= 1 and k == int(k), f"top-k is {k}; it must be a whole number, at least 1")
    least = logits.topk(min(int(k), logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p, Holtzman et al. (2020), eq. 2.

    The token that crosses p is kept, so that at least one always is. logits: (..., V); 0 < p <= 1.
    """
    _require(0 < p <= 1, f"top-p is {p}; it must be above 0 and at most 1")
    return _keep_until(logits, order_by=-logits, p=p)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the most likely one, Nguyen et al. (2024).

    logits: (..., V); 0 <= p <= 1.
    """
    _require(0 <= p <= 1, f"min-p is {p}; it must be between 0 and 1")
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)


def typical(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy, up to probability p, Meister et al. (2023).

    logits: (..., V); 0 < p <= 1.
    """
    _require(0 < p <= 1, f"typical p is {p}; it must be above 0 and at most 1")
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).nansum(-1, keepdim=True)
    return _keep_until(logits, order_by=(-logprobs - entropy).abs(), p=p)


def eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keep tokens at least as likely as min(epsilon, sqrt(epsilon) exp(-entropy)), Hewitt et al. (2022), section 4.

    The most likely one always stays, since its probability is never below exp(-entropy). logits: (..., V);
    0 <= epsilon < 1, usually 0.0003 to 0.004; 0 cuts nothing.
    """
    _require(0 <= epsilon < 1, f"eta's epsilon is {epsilon}; it must be at least 0 and below 1")
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).nansum(-1, keepdim=True)
    return logits.masked_fill(probs < (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon), -torch.inf)


def _keep_until(logits: Tensor, order_by: Tensor, p: float) -> Tensor:
    """Keep tokens in ascending order of `order_by` until their probability reaches p, the crossing one included."""
    if p == 1:
        return logits  # rounding lets the sum of a large vocabulary reach 1 before its last tokens
    order = order_by.argsort(dim=-1, stable=True)
    sorted_probs = logits.softmax(-1).gather(-1, order)
    before = sorted_probs.cumsum(-1) - sorted_probs
    return logits.masked_fill((before >= p).scatter(-1, order, before >= p), -torch.inf)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults sample from the model's own distribution.

    The steps run in this order: repetition penalty, frequency and presence penalty, no-repeat n-gram, temperature,
    top-k, top-p, min-p, typical, eta. Temperature 0 is greedy: it takes the most likely token after the penalties.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    eta: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 (greedy) or positive")
        # Each step once on two tokens: a value out of range is told before anything is generated.
        logits, ids = torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.long)
        repetition_penalty(logits, ids, self.repetition_penalty)
        occurrence_penalty(logits, ids, self.frequency_penalty, self.presence_penalty)
        if self.no_repeat_ngram is not None:
            no_repeat_ngram(logits, ids, self.no_repeat_ngram)
        if self.top_k is not None:
            top_k(logits, self.top_k)
        for truncation, p in ((top_p, self.top_p), (min_p, self.min_p), (typical, self.typical), (eta, self.eta)):
            truncation(logits, p)

    @property
    def looks_back(self) -> bool:
        """Whether a step needs the tokens so far."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram is not None

    def apply(self, logits: Tensor, seen_ids: Tensor, new_ids: Tensor | None = None) -> Tensor:
        """The logits (B, V) to sample from. Greedy leaves out what can't matter.

        seen_ids: (B, T) tokens so far, the prompt's included, -1 where a row is padded. new_ids: (B, T') those
        of them that were generated; none, if left out.
        """
        if self.repetition_penalty != 1.0:
            real = torch.where(seen_ids < 0, seen_ids[:, -1:], seen_ids)  # padding repeats the last token instead
            logits = repetition_penalty(logits, real, self.repetition_penalty)
        if new_ids is not None and (self.frequency_penalty or self.presence_penalty):
            logits = occurrence_penalty(logits, new_ids, self.frequency_penalty, self.presence_penalty)
        if self.no_repeat_ngram is not None:
            logits = no_repeat_ngram(logits, seen_ids, self.no_repeat_ngram)
        if self.temperature == 0:
            return logits
        if self.temperature != 1.0:
            logits = temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        if self.top_p < 1.0:
            logits = top_p(logits, self.top_p)
        if self.min_p > 0.0:
            logits = min_p(logits, self.min_p)
        if self.typical < 1.0:
            logits = typical(logits, self.typical)
        if self.eta > 0.0:
            logits = eta(logits, self.eta)
        return logits


GREEDY = Sampling(temperature=0.0)


class Completion(NamedTuple):
    """What was generated after one prompt: token ids without the stop token, and whether it stopped by itself."""

    ids: list[int]
    ended: bool


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    *,
    stop_id: int | None = None,
    generator: torch.Generator | None = None,
    processor: Processor | None = None,
) -> list[Completion]:
    """Continue each prompt by at most max_new_tokens tokens, until its stop token.

    model: a Transformer or a transformers model of the Llama family. prompts: token ids, of any lengths.
    Prompts run as one batch, padded on the left; a finished one leaves the batch. processor: changes the raw logits
    of the rows still in the batch before every other step, for instance to forbid tokens. ValueError for an empty
    prompt, for no prompt at all, where both exceed the model's context, or where nothing is left to choose.
    """
    decoder = Transformer.view(model)
    device = decoder.norm.weight.device
    tokens, present, padded = pad_left(prompts, max_new_tokens, decoder.config.max_position_embeddings, device)
    longest = tokens.shape[1] - max_new_tokens
    cache = decoder.cache(len(prompts), longest + max_new_tokens)
    rows = torch.arange(len(prompts), device=device)  # which prompt each row of the shrinking batch belongs to
    new_ids = tokens[:, :longest]
    completions: dict[int, Completion] = {}
    for end in range(longest, longest + max_new_tokens):
        mask = present[rows, :end] if padded else None
        logits = decoder.lm_head(decoder.hidden(new_ids, mask, cache)[:, -1]).float()
        new = tokens[rows, longest:end]
        if processor is not None:
            logits = processor(logits, new.tolist())
        seen = tokens[:, :end]
        if sampling.looks_back:
            seen = seen[rows]
            if mask is not None:
                seen = seen.masked_fill(mask == 0, -1)
        logits = sampling.apply(logits, seen, new)
        if processor is not None or sampling.no_repeat_ngram is not None:
            nothing = logits.isneginf().all(-1)
            _require(
                not nothing.any(),
                f"no token is left to choose for prompt {rows[nothing].tolist()[:1]} after {end - longest} new tokens: "
                "the processor or no_repeat_ngram forbids them all",
            )
        next_ids = choose(logits, sampling, generator)
        tokens[rows, end] = next_ids
        if stop_id is not None and bool((stopped := next_ids == stop_id).any()):
            for row in rows[stopped].tolist():
                completions[row] = Completion(tokens[row, longest:end].tolist(), ended=True)
            going = (~stopped).nonzero().flatten()
            if not len(going):
                break
            rows, next_ids = rows[going], next_ids[going]
            cache.select(going)
        new_ids = next_ids[:, None]
    for row in set(range(len(prompts))) - completions.keys():
        completions[row] = Completion(tokens[row, longest:].tolist(), ended=False)
    return [completions[row] for row in range(len(prompts))]


def pad_left(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int, device: torch.device
) -> tuple[Tensor, Tensor, bool]:
    """Prompts as one batch with room for new tokens: ids and presence (1 for a token), each (B, T + new), and whether
    any row is padded.

    context: how many positions the model has. ValueError for an empty prompt, none at all, or too little context.
    """
    lengths = [len(prompt) for prompt in prompts]
    _require(bool(lengths), "there are no prompts; give at least one")
    _require(min(lengths) > 0, f"prompt {lengths.index(min(lengths))} is empty; give each at least one token")
    _require(max_new_tokens >= 0, f"max_new_tokens is {max_new_tokens}; it must not be negative")
    longest = max(lengths)
    _require(
        longest + max_new_tokens <= context,
        f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's context of {context}",
    )
    tokens = torch.zeros(len(prompts), longest + max_new_tokens, dtype=torch.long, device=device)
    present = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) : longest] = torch.tensor(prompt, device=device)
        present[row, longest - len(prompt) :] = 1
    return tokens, present, min(lengths) < longest


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """One token id a row, (B, V) -> (B,): the most likely at temperature 0, else drawn from softmax(logits)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    max_new_tokens: int = 64,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | None = None,
) -> list[str]:
    """The model's answers to questions, each asked in the tokenizer's chat format."""
    prompts = [text.encode_prompt(tokenizer, question) for question in questions]
    completions = generate(
        model, prompts, max_new_tokens, sampling, stop_id=tokenizer.eos_token_id, generator=generator
    )
    return [str(tokenizer.decode(completion.ids, skip_special_tokens=True)) for completion in completions]
