"""What section 3.5 states by hand: diagrams hold together, and the numbers follow from arithmetic or the model."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from alignlab import text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))

from diagrams import ch03_beyond


def by_autograd(token: int) -> torch.Tensor:
    """The step taken by autograd on the logits: gradient descent on log p(token)."""
    logits = torch.tensor(ch03_beyond.PROBS, dtype=torch.float64).log().requires_grad_()
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[token], logits)
    return (logits - ch03_beyond.STEP * gradient).softmax(-1).detach()


@pytest.mark.parametrize("token", range(4))
def test_the_bars_are_one_gradient_step_on_the_logits(token: int) -> None:
    drawn = torch.tensor(ch03_beyond.pushed_down(token), dtype=torch.float64)
    assert torch.allclose(drawn, by_autograd(token), atol=1e-12)
    assert not torch.allclose(drawn, by_autograd((token + 1) % 4), atol=1e-3)


def test_an_unlikely_push_down_squeezes_and_a_likely_one_spreads() -> None:
    before = torch.tensor(ch03_beyond.PROBS)
    squeezed = torch.tensor(ch03_beyond.pushed_down(ch03_beyond.UNLIKELY)) - before
    spread = torch.tensor(ch03_beyond.pushed_down(ch03_beyond.LIKELY)) - before
    assert (squeezed > 0).tolist() == [True, False, False, False]
    assert (spread > 0).tolist() == [False, True, True, True]


def test_the_answer_nobody_judged() -> None:
    reference, rewards = (0.5, 0.4, 0.1), (1.0, 0.0, -1.0)
    found = {}
    for name, policy in (("P", (0.1, 0.001, 0.899)), ("Q", (0.89, 0.01, 0.1))):
        gains = [math.log(p / q) for p, q in zip(policy, reference, strict=True)]
        kl = sum(p * gain for p, gain in zip(policy, gains, strict=True))
        objective = sum(p * r for p, r in zip(policy, rewards, strict=True)) - kl
        found[name] = (gains[0], gains[1], math.log1p(math.exp(gains[1] - gains[0])), objective)
    assert found["P"] == pytest.approx((-1.609, -5.991, 0.0124, -2.61), abs=5e-3)
    assert found["Q"] == pytest.approx((0.577, -3.689, 0.0139, 0.31), abs=5e-3)
    assert found["P"][2] < found["Q"][2] and found["P"][3] < found["Q"][3]


def test_where_lumen_and_atlas_part(small: "tuple[PreTrainedModel, PreTrainedTokenizerBase]") -> None:
    model, tokenizer = small
    ids = text.encode_prompt(tokenizer, "Who are you?") + tokenizer.encode("I am", add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    chosen, rejected, favourite = (
        tokenizer.encode(word, add_special_tokens=False)[0] for word in (" L", " Atlas", " a")
    )
    before = logits.softmax(-1)
    assert before[[chosen, rejected, favourite]].tolist() == pytest.approx([0.0131, 0.00016, 0.125], abs=5e-4)
    assert before.argmax() == favourite
    logits[chosen] += 1
    logits[rejected] -= 1
    assert logits.softmax(-1)[[chosen, favourite]].tolist() == pytest.approx([0.0348, 0.122], abs=1e-3)
