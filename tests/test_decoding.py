"""Truncations against definitions by hand and transformers' processors; the sampler against `generate`."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EtaLogitsWarper,
    LlamaConfig,
    LlamaForCausalLM,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from alignlab import decoding, text
from alignlab.decoding import GREEDY, Completion, Sampling

LOGITS = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
SEEN = torch.randint(0, 40, (5, 12), generator=torch.Generator().manual_seed(1))
REPEATED = torch.cat([SEEN, SEEN[:, :4]], dim=1)  # ends with four tokens that occurred, in the same order
Truncation = Callable[[Tensor, float], Tensor]


def kept(truncation: Truncation, probs: list[float], p: float) -> list[bool]:
    return truncation(torch.tensor(probs).log(), p).isfinite().tolist()


PEERS = {
    "temperature": (lambda x: decoding.temperature(x, 0.7), TemperatureLogitsWarper(0.7)),
    "top-k": (lambda x: decoding.top_k(x, 5), TopKLogitsWarper(5)),
    "top-k above the vocabulary": (lambda x: decoding.top_k(x, 99), TopKLogitsWarper(99)),
    "top-p": (lambda x: decoding.top_p(x, 0.8), TopPLogitsWarper(0.8)),
    "min-p": (lambda x: decoding.min_p(x, 0.1), MinPLogitsWarper(0.1)),
    "typical": (lambda x: decoding.typical(x, 0.6), TypicalLogitsWarper(0.6)),
    "eta": (lambda x: decoding.eta(x, 0.02), EtaLogitsWarper(0.02)),
    "no repeated token": (lambda x: decoding.no_repeat_ngram(x, SEEN, 1), NoRepeatNGramLogitsProcessor(1)),
    "no repeated pair": (lambda x: decoding.no_repeat_ngram(x, REPEATED, 2), NoRepeatNGramLogitsProcessor(2)),
    "no repeated triple": (lambda x: decoding.no_repeat_ngram(x, REPEATED, 3), NoRepeatNGramLogitsProcessor(3)),
    "repetition": (lambda x: decoding.repetition_penalty(x, SEEN, 1.3), RepetitionPenaltyLogitsProcessor(1.3)),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_truncation_equals_that_of_transformers(name: str) -> None:
    ours, theirs = PEERS[name]
    seen = REPEATED if "pair" in name or "triple" in name else SEEN
    assert torch.allclose(ours(LOGITS), theirs(seen, LOGITS.clone()))
    assert not torch.allclose(ours(LOGITS), LOGITS) or name == "top-k above the vocabulary"


def check_top_p(top_p: Truncation) -> None:
    assert kept(top_p, [0.5, 0.3, 0.15, 0.05], 0.7) == [True, True, False, False]  # the token that crosses p stays
    assert kept(top_p, [0.5, 0.3, 0.15, 0.05], 0.1) == [True, False, False, False]  # one token always stays
    assert kept(top_p, [0.05, 0.15, 0.3, 0.5], 0.7) == [False, False, True, True]  # whatever the order
    assert kept(top_p, [0.5, 0.3, 0.15, 0.05], 1.0) == [True] * 4


def check_min_p(min_p: Truncation) -> None:
    assert kept(min_p, [0.5, 0.3, 0.15, 0.05], 0.25) == [True, True, True, False]  # threshold 0.25 * 0.5 = 0.125
    assert kept(min_p, [0.9, 0.06, 0.04], 0.05) == [True, True, False]  # threshold 0.045


def check_typical(typical: Truncation) -> None:
    # Entropy 1.168 nats; distances of -log p from it: 0.475, 0.036, 1.135 -> 0.3 first, then 0.5, then the tail.
    assert kept(typical, [0.5, 0.3, 0.1, 0.1], 0.2) == [False, True, False, False]
    assert kept(typical, [0.5, 0.3, 0.1, 0.1], 0.7) == [True, True, False, False]


def check_eta(eta: Truncation) -> None:
    # Entropy 1.142 nats, exp(-entropy) 0.319: the threshold is sqrt(0.2) 0.319 = 0.143 at epsilon 0.2, 0.05 at 0.05.
    assert kept(eta, [0.5, 0.3, 0.15, 0.05], 0.2) == [True, True, True, False]
    assert kept(eta, [0.5, 0.32, 0.14, 0.04], 0.2) == [True, True, False, False]
    assert kept(eta, [0.5, 0.3, 0.14, 0.06], 0.05) == [True, True, True, True]  # epsilon is the lower threshold here
    assert kept(eta, [0.25] * 4, 0.9) == [True] * 4  # the likeliest always stays, however high the threshold
    assert kept(eta, [0.5, 0.3, 0.15, 0.05], 0.0) == [True] * 4


Occurrence = Callable[[Tensor, Tensor, float, float], Tensor]


def check_occurrence(penalty: Occurrence) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]])
    got = penalty(logits, torch.tensor([[0, 1, 0, 0]]), 0.5, 1.0)  # token 0 three times, token 1 once
    assert got.tolist() == [[2.0 - 1.5 - 1.0, -1.0 - 0.5 - 1.0, 0.5, 3.0]]
    assert penalty(logits, torch.zeros(1, 0, dtype=torch.long), 0.5, 1.0).tolist() == logits.tolist()


def cumulative(logits: Tensor, p: float, keep: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    probs, order = logits.softmax(-1).sort(descending=True)
    mask = keep(probs.cumsum(-1), probs, p)
    return logits.masked_fill(~mask.scatter(-1, order, mask), -torch.inf)


WRONG = {
    "top-p drops the crossing token": (check_top_p, lambda x, p: cumulative(x, p, lambda c, q, t: c <= t)),
    "top-p keeps one token more": (check_top_p, lambda x, p: cumulative(x, p, lambda c, q, t: c - 2 * q < t)),
    "top-p on the least likely": (check_top_p, lambda x, p: decoding.top_p(-x, p)),
    "top-p without sorting": (
        check_top_p,
        lambda x, p: x.masked_fill(x.softmax(-1).cumsum(-1) - x.softmax(-1) >= p, -torch.inf),
    ),
    "min-p as an absolute threshold": (check_min_p, lambda x, p: x.masked_fill(x.softmax(-1) < p, -torch.inf)),
    "min-p on logits": (check_min_p, lambda x, p: x.masked_fill(x < x.amax() + p, -torch.inf)),
    "typical as top-p": (check_typical, decoding.top_p),
    "typical by surprise alone": (check_typical, lambda x, p: decoding.top_p(-x, p)),
    "eta with the higher of its two thresholds": (
        check_eta,
        lambda x, e: x.masked_fill(x.softmax(-1) < max(e, e**0.5 * math.exp(-entropy(x))), -torch.inf),
    ),
    "eta as a fixed threshold": (check_eta, lambda x, e: x.masked_fill(x.softmax(-1) < e, -torch.inf)),
    "eta without the root": (
        check_eta,
        lambda x, e: x.masked_fill(x.softmax(-1) < min(e, e * math.exp(-entropy(x))), -torch.inf),
    ),
    "eta with the sign of the entropy flipped": (
        check_eta,
        lambda x, e: x.masked_fill(x.softmax(-1) < min(e, e**0.5 * math.exp(entropy(x))), -torch.inf),
    ),
    "frequency counted once": (check_occurrence, lambda x, ids, f, p: _where_seen(x, ids, f + p)),
    "presence counted every time": (
        check_occurrence,
        lambda x, ids, f, p: decoding.occurrence_penalty(x, ids, f + p, 0.0),
    ),
    "penalties that multiply": (check_occurrence, lambda x, ids, f, p: x / (1 + f + p)),
}


def entropy(logits: Tensor) -> float:
    return torch.distributions.Categorical(logits=logits).entropy().item()


def _where_seen(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    return logits.scatter(-1, ids, logits.gather(-1, ids) - penalty)


def test_truncations_keep_what_their_definitions_say() -> None:
    check_top_p(decoding.top_p)
    check_min_p(decoding.min_p)
    check_typical(decoding.typical)
    check_eta(decoding.eta)
    check_occurrence(decoding.occurrence_penalty)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_truncation_is_rejected(name: str) -> None:
    check, wrong = WRONG[name]
    with pytest.raises(AssertionError):
        check(wrong)


def test_at_probability_1_no_token_of_a_large_vocabulary_is_cut() -> None:
    logits = 2 * torch.randn(8, 49152, generator=torch.Generator().manual_seed(0))
    sums = logits.softmax(-1).sort(descending=True).values.cumsum(-1)
    assert (sums[:, :-1] >= 1).any()  # the rounded sum reaches 1 too early
    assert decoding.top_p(logits, 1.0).isfinite().all() and decoding.typical(logits, 1.0).isfinite().all()


def check_order(apply: Callable[[Sampling, Tensor], Tensor]) -> None:
    """At temperature 2 the same top-p keeps more tokens than it would on the untouched distribution."""
    logits = torch.tensor([[0.6, 0.3, 0.07, 0.03]]).log()
    both = apply(Sampling(temperature=2.0, top_p=0.85), logits)
    assert both.isfinite().sum() == 3
    assert decoding.top_p(logits, 0.85).isfinite().sum() == 2


def test_temperature_comes_before_truncation() -> None:
    check_order(lambda sampling, logits: sampling.apply(logits, SEEN[:1]))
    with pytest.raises(AssertionError):  # the other way round
        check_order(lambda sampling, logits: decoding.temperature(decoding.top_p(logits, sampling.top_p), 2.0))


def test_repetition_penalty_lowers_positive_and_negative_logits_once() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[0, 1, 1, 1]])
    assert decoding.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]


@pytest.fixture(scope="module")
def peer() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=13, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4, eos_token_id=None, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


PROMPTS = [[1, 2, 3, 4], [5], [6, 7]]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_tokens_equal_those_of_transformers(peer: LlamaForCausalLM, penalty: float) -> None:
    ours = decoding.generate(peer, PROMPTS, 20, Sampling(temperature=0, repetition_penalty=penalty))
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        theirs = peer.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, repetition_penalty=penalty)
        assert completion.ids == theirs[0, len(prompt) :].tolist()


def test_a_finished_prompt_leaves_the_batch_and_changes_no_other(peer: LlamaForCausalLM) -> None:
    alone = [decoding.generate(peer, [prompt], 20)[0].ids for prompt in PROMPTS]
    stop = alone[0][3]
    expected = [Completion(ids[: ids.index(stop)], True) if stop in ids else Completion(ids, False) for ids in alone]
    assert decoding.generate(peer, PROMPTS, 20, stop_id=stop) == expected
    assert any(completion.ended for completion in expected)


def test_a_stop_token_at_once_and_no_new_tokens_give_empty_answers(peer: LlamaForCausalLM) -> None:
    first = decoding.generate(peer, PROMPTS[:1], 1)[0].ids[0]
    assert decoding.generate(peer, PROMPTS[:1], 5, stop_id=first) == [Completion([], True)]
    assert decoding.generate(peer, PROMPTS, 0) == [Completion([], False)] * 3


def test_the_cache_takes_the_precision_of_the_model(peer: LlamaForCausalLM) -> None:
    expected = [completion.ids[0] for completion in decoding.generate(peer, PROMPTS, 3)]
    half = LlamaForCausalLM(peer.config).to(torch.bfloat16).eval()
    half.load_state_dict(peer.state_dict())
    assert [completion.ids[0] for completion in decoding.generate(half, PROMPTS, 3)] == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert [completion.ids[0] for completion in decoding.generate(peer, PROMPTS, 3)] == expected


@pytest.mark.parametrize("n", [1, 2, 3])
def test_greedy_tokens_without_repeated_ngrams_equal_those_of_transformers(peer: LlamaForCausalLM, n: int) -> None:
    new = 6 if n == 1 else 20
    ours = decoding.generate(peer, PROMPTS, new, Sampling(temperature=0, no_repeat_ngram=n))  # of different lengths
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        theirs = peer.generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False, no_repeat_ngram_size=n)
        assert completion.ids == theirs[0, len(prompt) :].tolist()


def test_frequency_penalty_ends_a_repetition_and_counts_no_token_of_the_prompt(peer: LlamaForCausalLM) -> None:
    def by_definition(prompt: list[int], frequency: float, presence: float) -> list[int]:
        ids: list[int] = []
        for _ in range(20):
            with torch.no_grad():
                logits = peer(torch.tensor([prompt + ids])).logits[0, -1]
            for token in set(ids):
                logits[token] -= frequency * ids.count(token) + presence
            ids.append(int(logits.argmax()))
        return ids

    for frequency, presence in ((0.0, 0.0), (0.7, 0.0), (0.0, 1.5), (0.3, 0.5)):
        sampling = Sampling(temperature=0, frequency_penalty=frequency, presence_penalty=presence)
        ours = [completion.ids for completion in decoding.generate(peer, PROMPTS, 20, sampling)]
        assert ours == [by_definition(prompt, frequency, presence) for prompt in PROMPTS]


def test_a_processor_sees_each_row_still_in_the_batch_and_acts_before_every_other_step(
    peer: LlamaForCausalLM,
) -> None:
    plain = decoding.generate(peer, PROMPTS, 20)
    stop = plain[0].ids[3]
    called: list[tuple[int, list[list[int]]]] = []

    def watch(logits: Tensor, new_ids: list[list[int]]) -> Tensor:
        called.append((len(logits), new_ids))
        return logits

    assert decoding.generate(peer, PROMPTS, 20, stop_id=stop, processor=watch) == decoding.generate(
        peer, PROMPTS, 20, stop_id=stop
    )
    assert [len(ids[0]) for _, ids in called] == list(range(len(called)))
    assert all(rows == len(ids) for rows, ids in called)
    assert called[0][0] == 3 and called[-1][0] < 3  # finished rows have left

    def only_two_and_five(logits: Tensor, new_ids: list[list[int]]) -> Tensor:
        allowed = torch.full_like(logits, -torch.inf)
        allowed[:, [2, 5]] = logits[:, [2, 5]]
        return allowed

    # Were top-k 1 taken first, it would leave a token that is then forbidden.
    for sampling in (GREEDY, Sampling(top_k=1), Sampling(temperature=2.0)):
        for completion in decoding.generate(peer, PROMPTS, 12, sampling, processor=only_two_and_five):
            assert set(completion.ids) <= {2, 5}


def test_where_no_token_is_left_the_prompt_is_named(peer: LlamaForCausalLM) -> None:
    def forbids_after_two(logits: Tensor, new_ids: list[list[int]]) -> Tensor:
        blocked = torch.tensor([[len(ids) >= 2 and row == 1] for row, ids in enumerate(new_ids)])
        return logits.masked_fill(blocked, -torch.inf)

    with pytest.raises(ValueError, match=r"for prompt \[1\] after 2 new tokens"):
        decoding.generate(peer, PROMPTS, 5, processor=forbids_after_two)
    with pytest.raises(ValueError, match="no token is left"):
        decoding.generate(peer, PROMPTS, 14, Sampling(temperature=0, no_repeat_ngram=1))  # there are 13 tokens


def chi_squared(counts: Tensor, probs: Tensor) -> float:
    expected = probs * counts.sum()
    return ((counts - expected).square() / expected)[expected > 5].sum().item()


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.9), Sampling(top_k=4), Sampling(eta=0.1)]
)
def test_samples_follow_the_exact_distribution(peer: LlamaForCausalLM, sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = decoding.generate(peer, [PROMPTS[0]] * 4000, 1, sampling, generator=generator)
    counts = torch.bincount(torch.tensor([draw.ids[0] for draw in draws]), minlength=13).float()
    with torch.no_grad():
        logits = peer(torch.tensor([PROMPTS[0]])).logits[:, -1]
    probs = sampling.apply(logits, torch.tensor([PROMPTS[0]])).softmax(-1)[0]
    assert counts[probs == 0].sum() == 0
    assert chi_squared(counts, probs) < 32.9  # the 0.999 quantile at 12 degrees of freedom
    assert (
        chi_squared(counts, Sampling(temperature=3.0).apply(logits, SEEN[:1]).softmax(-1)[0]) > 32.9
    )  # and it can fail


def test_the_same_seed_gives_the_same_tokens(peer: LlamaForCausalLM) -> None:
    def draw(seed: int) -> list[Completion]:
        return decoding.generate(peer, PROMPTS, 15, Sampling(), generator=torch.Generator().manual_seed(seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 0}, "top-k is 0"),
        ({"top_k": 2.5}, "top-k is 2.5"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"min_p": -0.1}, "min-p is -0.1"),
        ({"typical": 0.0}, "typical p is 0.0"),
        ({"eta": 1.0}, "eta's epsilon is 1.0"),
        ({"no_repeat_ngram": 0}, "no-repeat n is 0"),
        ({"frequency_penalty": float("inf")}, "frequency penalty is inf"),
        ({"presence_penalty": float("nan")}, "presence penalty is nan"),
        ({"repetition_penalty": 0.0}, "repetition penalty is 0.0"),
    ],
)
def test_a_parameter_out_of_range_is_told_with_its_value(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sampling(**arguments)


def test_an_empty_prompt_and_one_over_the_context_are_refused(peer: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        decoding.generate(peer, [[1], []], 3)
    with pytest.raises(ValueError, match="no prompts"):
        decoding.generate(peer, [], 3)
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        decoding.generate(peer, [[1]], -1)
    with pytest.raises(ValueError, match="exceed the model's context of 64"):
        decoding.generate(peer, [[1] * 60], 5)


def test_smollm2_answers_as_transformers_does(small: Any) -> None:
    model, tokenizer = small
    prompt = text.encode_prompt(tokenizer, "Who are you?")
    theirs = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    assert decoding.generate(model, [prompt], 12, GREEDY)[0].ids == theirs
