"""The model ladder: what loads, from where, and what is said when it cannot."""

import random
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits
from transformers import LlamaConfig, LlamaForCausalLM

from alignlab import models


def test_small_is_smollm2_instruct(small: Any) -> None:
    model, tokenizer = small
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) == 49152


BYTES = {"add_prefix_space": False}
PUBLISHED = [Digits(individual_digits=True), ByteLevel(**BYTES)]
WRONG_CUTS: dict[str, list[Any]] = {
    "the plain conversion, GPT-2's pattern alone": [ByteLevel(**BYTES)],
    "digits cut off after the pattern": [ByteLevel(**BYTES), Digits(individual_digits=True)],
    "digits alone, no pattern": [Digits(individual_digits=True), ByteLevel(use_regex=False, **BYTES)],
    "a space before each text": [Digits(individual_digits=True), ByteLevel(add_prefix_space=True)],
}


def cut_by(tokenizer: Any, parts: list[Any]) -> Tokenizer:
    """The library's tokenizer with the merges of this one and other cuts."""
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return other


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def check_digits_are_cut_off_first(loaded: Tokenizer, plain: Tokenizer) -> None:
    """SmolLM2's rule by its words: each digit by itself, and what stands between digits under GPT-2's cuts alone."""
    rng = random.Random(0)
    texts = ["What is 17 + 25?", "Tips:\n\n1. Sleep.\n\n2. Eat.", "  42", "a  7", "add ½ cup", "don't, 3.14\r\n\t9"]
    texts += ["".join(rng.choices("  \n\t0123456789abcé.'s½²三", k=rng.randint(0, 20))) for _ in range(1000)]
    for text in texts:
        want = [i for part in regex.findall(r"\p{N}|\P{N}+", text) for i in ids_of(plain, part)]
        assert ids_of(loaded, text) == want, text


def test_smalls_tokenizer_cuts_digits_off_first_as_the_published_one_does(small: Any) -> None:
    check_digits_are_cut_off_first(small[1].backend_tokenizer, cut_by(small[1], [ByteLevel(**BYTES)]))
    check_digits_are_cut_off_first(cut_by(small[1], PUBLISHED), cut_by(small[1], [ByteLevel(**BYTES)]))


@pytest.mark.parametrize("name", WRONG_CUTS)
def test_a_tokenizer_with_other_cuts_is_rejected(name: str, small: Any) -> None:
    with pytest.raises(AssertionError):
        check_digits_are_cut_off_first(cut_by(small[1], WRONG_CUTS[name]), cut_by(small[1], [ByteLevel(**BYTES)]))


def test_tiny_ships_with_the_package_below_a_million_parameters(tiny: Any) -> None:
    model, _ = tiny
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert sum(path.stat().st_size for path in models.TINY.iterdir() if path.is_file()) < 4_000_000


def test_a_folder_loads_and_pickled_weights_are_refused(tmp_path: Path, small: Any) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    model.save_pretrained(tmp_path)
    small[1].save_pretrained(tmp_path)
    loaded, _ = models.load(str(tmp_path), device="cpu")
    assert torch.equal(loaded.model.norm.weight, model.model.norm.weight)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        models.load(str(tmp_path), device="cpu")


def test_a_name_that_is_nowhere_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'tiny', 'small', a folder"):
        models.load(str(tmp_path / "nothing"))
