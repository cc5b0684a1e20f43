"""Log-probabilities, entropy and KL against exact sums over a small vocabulary, and wrong versions rejected."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alignlab import logprobs
from alignlab.transformer import Config, Transformer

VOCAB = 11


@pytest.fixture(scope="module")
def decoder() -> Transformer:
    torch.manual_seed(0)
    config = Config(VOCAB, 16, 32, 2, 4, 2, 4, max_position_embeddings=32)
    return Transformer(config).initialize(std=0.5).double().eval()


IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
RESPONSE = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0]])


def by_hand(decoder: Transformer, ids: list[int], response: list[int]) -> float:
    """Sum of log p(token | prefix), one prefix at a time, through the softmax itself."""
    total = 0.0
    for position, (token, wanted) in enumerate(zip(ids, response, strict=True)):
        if wanted:
            probs = torch.softmax(decoder(torch.tensor([ids[:position]]))[0, -1].double(), -1)
            total += probs[token].log().item()
    return total


Sequence = Callable[[Transformer, Tensor, Tensor, Tensor], Tensor]


def check_sequence_logprobs(function: Sequence, decoder: Transformer) -> None:
    with torch.no_grad():
        values = function(decoder, IDS, ATTENTION, RESPONSE)
        assert values[0].item() == pytest.approx(by_hand(decoder, IDS[0].tolist(), RESPONSE[0].tolist()), abs=1e-5)
        assert values[1].item() == pytest.approx(by_hand(decoder, [7, 8, 9], [0, 1, 1]), abs=1e-5)


def test_sequence_logprobs_sum_the_response_tokens_prefix_by_prefix(decoder: Transformer) -> None:
    check_sequence_logprobs(logprobs.sequence_logprobs, decoder)


def full(decoder: Transformer, ids: Tensor, attention: Tensor) -> Tensor:
    """All log-probabilities (B, T, V), the plain way."""
    return decoder(ids, attention).float().log_softmax(-1)


WRONG: dict[str, Sequence] = {
    "no next-token shift": lambda m, i, a, r: (full(m, i, a).gather(-1, i[..., None])[..., 0] * r).sum(-1),
    "prompt not masked": lambda m, i, a, r: logprobs.sequence_logprobs(m, i, a, a),
    "padding not masked": lambda m, i, a, r: logprobs.sequence_logprobs(m, i, a, (r.cumsum(-1) > 0).long()),
    "mean for sum": lambda m, i, a, r: logprobs.sequence_logprobs(m, i, a, r) / r.sum(-1),
    "mask shifted once more": lambda m, i, a, r: logprobs.sequence_logprobs(m, i, a, r.roll(1, -1)),
    "logits for log-probabilities": lambda m, i, a, r: (
        m(i, a)[:, :-1].gather(-1, i[:, 1:, None])[..., 0] * r[:, 1:]
    ).sum(-1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_sequence_logprob_is_rejected(name: str, decoder: Transformer) -> None:
    with pytest.raises(AssertionError):
        check_sequence_logprobs(WRONG[name], decoder)


PAIRS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [1, 2, 3, 9, 4, 0], [7, 8, 9, 9, 2, 1]])
PAIRS_ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
PAIRS_RESPONSE = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 1]])
"""Two pairs, chosen first; the responses have 3, 1, 2 and 4 tokens, one of which does not count."""


def check_pair_logprobs(function: Callable[..., tuple[Tensor, Tensor]], decoder: Transformer) -> None:
    with torch.no_grad():
        values = torch.cat(function(decoder, PAIRS, PAIRS_ATTENTION, PAIRS_RESPONSE))
    for row, value in enumerate(values.tolist()):
        length = int(PAIRS_ATTENTION[row].sum())
        truth = by_hand(decoder, PAIRS[row, :length].tolist(), PAIRS_RESPONSE[row, :length].tolist())
        assert value == pytest.approx(truth, abs=1e-5)


def test_pair_logprobs_share_the_prompt_and_nothing_else(decoder: Transformer) -> None:
    check_pair_logprobs(logprobs.pair_logprobs, decoder)


def test_pair_logprobs_have_the_gradient_of_the_rows_apart(decoder: Transformer) -> None:
    weight = decoder.layers[0].self_attn.k_proj.weight
    gradients = []
    for function in (logprobs.pair_logprobs, lambda *a: logprobs.sequence_logprobs(*a).chunk(2)):
        chosen, rejected = function(decoder, PAIRS, PAIRS_ATTENTION, PAIRS_RESPONSE)
        gradients.append(torch.autograd.grad((chosen - 2 * rejected).sum(), weight)[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_pair_logprobs_in_bfloat16_see_through_another_kernel_the_same(decoder: Transformer) -> None:
    decoder, found = copy.deepcopy(decoder).float(), []
    weight = decoder.layers[0].self_attn.k_proj.weight
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values = torch.cat(logprobs.pair_logprobs(decoder, PAIRS, PAIRS_ATTENTION, PAIRS_RESPONSE))
        found.append((values, torch.autograd.grad(values.square().sum(), weight)[0]))
    for exact, rounded in zip(*found, strict=True):
        assert 0 < (exact - rounded).norm() / exact.norm() < 0.1  # bfloat16 keeps 8 bits: 0.4% a number


def forgetting(keep: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """pair_logprobs with another tree."""

    def wrong(decoder: Transformer, *batch: Tensor) -> tuple[Tensor, Tensor]:
        hidden = decoder.hidden
        decoder.hidden = lambda ids, tree: hidden(ids, tree=keep(tree))  # type: ignore[method-assign,assignment]
        try:
            return logprobs.pair_logprobs(decoder, *batch)
        finally:
            del decoder.hidden

    return wrong


WRONG_PAIRS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "the rejected response sees the chosen one": forgetting(lambda tree: torch.ones_like(tree).tril()),
    "a branch that has lost the first token": forgetting(
        lambda tree: tree & ~(torch.eye(tree.shape[-1]).bool().roll(1, 0) & (tree.sum(-1, keepdim=True) > 4))
    ),
    "chosen and rejected exchanged": lambda *a: logprobs.pair_logprobs(*a)[::-1],
    "prompts counted": lambda d, ids, a, r: logprobs.sequence_logprobs(d, ids, a, a).chunk(2),
}


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_a_wrong_pair_logprob_is_rejected(name: str, decoder: Transformer) -> None:
    with pytest.raises(AssertionError):
        check_pair_logprobs(WRONG_PAIRS[name], decoder)


def test_rows_that_are_no_pairs_are_refused(decoder: Transformer) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        logprobs.pair_logprobs(decoder, PAIRS[:3], PAIRS_ATTENTION[:3], PAIRS_RESPONSE[:3])
    with pytest.raises(ValueError, match=r"pairs \[1\] do not begin"):
        logprobs.pair_logprobs(
            decoder, PAIRS[[0, 1, 2, 0]], PAIRS_ATTENTION[[0, 1, 2, 0]], PAIRS_RESPONSE[[0, 1, 2, 0]]
        )


def test_token_logprobs_are_zero_outside_the_response_and_carry_gradient_inside(decoder: Transformer) -> None:
    values = logprobs.token_logprobs(decoder, IDS, ATTENTION, RESPONSE)
    assert values.shape == (2, 5)
    assert torch.equal(values == 0, RESPONSE[:, 1:] == 0)
    values.sum().backward()
    assert decoder.embed_tokens.weight.grad is not None and decoder.embed_tokens.weight.grad.abs().sum() > 0
    decoder.zero_grad()


def test_probabilities_of_all_responses_sum_to_one(decoder: Transformer) -> None:
    """All 11^2 two-token responses to one prompt, enumerated."""
    every = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
    ids = torch.cat([torch.tensor([[3, 1]]).expand(len(every), 2), every], dim=1)
    mask = torch.tensor([[0, 0, 1, 1]]).expand_as(ids)
    with torch.no_grad():
        total = logprobs.sequence_logprobs(decoder, ids, torch.ones_like(ids), mask).double().exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_model_of_any_precision_is_scored(decoder: Transformer, dtype: torch.dtype) -> None:
    other = Transformer(decoder.config).to(dtype)
    other.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        values = logprobs.sequence_logprobs(other, IDS, ATTENTION, RESPONSE)
        expected = logprobs.sequence_logprobs(decoder, IDS, ATTENTION, RESPONSE)
    assert values.dtype == torch.float32
    assert torch.allclose(values, expected, atol=0.5 if dtype == torch.bfloat16 else 1e-5)


def test_a_row_without_response_is_refused_by_number(decoder: Transformer) -> None:
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        logprobs.sequence_logprobs(decoder, IDS, ATTENTION, RESPONSE * torch.tensor([[1], [0]]))


def test_entropy_equals_its_sum_and_knows_cut_tokens() -> None:
    assert logprobs.entropy(torch.zeros(3, 8)).tolist() == pytest.approx([torch.tensor(8.0).log().item()] * 3)
    probs = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert logprobs.entropy(probs.log()).item() == pytest.approx(1.5 * torch.tensor(2.0).log().item())


Estimator = Callable[[Tensor, Tensor], Tensor]


def expectation(estimator: Estimator, p: Tensor, q: Tensor) -> float:
    """The estimator's mean over samples of p, as an exact sum."""
    return (p * estimator(p.log(), q.log())).sum().item()


def check_unbiased_and_not_negative(k3: Estimator) -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    exact = (p * (p / q).log()).sum().item()
    assert expectation(k3, p, q) == pytest.approx(exact)
    assert (k3(p.log(), q.log()) >= 0).all()


def test_kl_estimators_against_the_exact_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    exact = (p * (p / q).log()).sum().item()
    assert logprobs.kl_divergence(p.log(), q.log()).item() == pytest.approx(exact)
    assert expectation(logprobs.kl_k1, p, q) == pytest.approx(exact)
    check_unbiased_and_not_negative(logprobs.kl_k3)
    near = 0.99 * p + 0.01 * q  # k2 is biased, but right to second order where p is near q
    assert expectation(logprobs.kl_k2, near, p) == pytest.approx((near * (near / p).log()).sum().item(), rel=0.05)


WRONG_K3: dict[str, Estimator] = {
    "ratio reversed": lambda p, q: (p - q).exp() - 1 - (p - q),
    "sign of the logarithm": lambda p, q: (q - p).exp() - 1 + (q - p),
    "missing minus one": lambda p, q: (q - p).exp() - (q - p),
    "k1 in its place": lambda p, q: p - q,
    "k2 in its place": lambda p, q: (p - q).square() / 2,
}


@pytest.mark.parametrize("name", WRONG_K3)
def test_a_wrong_k3_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_unbiased_and_not_negative(WRONG_K3[name])


def test_the_gradient_of_k2_is_the_gradient_of_the_kl_and_that_of_k1_vanishes() -> None:
    """In expectation over samples of p, Tang and Munos (2025): exact sums over three outcomes."""
    logits = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.5, 0.3]).double().log()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits)[0]

    p = logits.log_softmax(-1)
    exact = gradient((p.exp() * (p - q)).sum())
    p = logits.log_softmax(-1)
    assert torch.allclose(gradient((p.exp().detach() * logprobs.kl_k2(p, q)).sum()), exact)
    p = logits.log_softmax(-1)
    assert torch.allclose(
        gradient((p.exp().detach() * logprobs.kl_k1(p, q)).sum()), torch.zeros(3).double(), atol=1e-12
    )
