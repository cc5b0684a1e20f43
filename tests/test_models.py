"""The model ladder: what loads, from where, and what is said when it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignlab import models


def test_small_is_smollm2_instruct(small: Any) -> None:
    model, tokenizer = small
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) == 49152


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
