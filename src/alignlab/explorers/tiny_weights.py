"""`tiny` for a page: its weights as int8, its tokenizer and its chat format, in one object that JSON can hold.

What a reader's browser runs is `dequantized(weights)`; tiny_engine.js does the arithmetic. Needs numpy, no torch.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]

FOLDER = Path(__file__).parents[1] / "tiny"
BLOCK = 0  # columns that share a scale; 0: the whole row
CONFIG = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta", "rms_norm_eps"),
)
LAYER = (
    *(f"self_attn.{kind}_proj" for kind in "qkvo"),
    *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
)
SPOKEN = "\ue000"  # stands for what a reader says; no template holds it


class Quantized(NamedTuple):
    """A matrix (rows, columns) as whole numbers in [-127, 127] and a scale for each block of a row, (rows, blocks)."""

    whole: NDArray[np.int8]
    scales: NDArray[np.float32]
    block: int

    def matrix(self) -> NDArray[np.float32]:
        """Whole number times scale, in float32: the very weights that the page computes with."""
        columns = self.whole.shape[1]
        return self.whole.astype(np.float32) * np.repeat(self.scales, self.block or columns, axis=1)[:, :columns]


def quantize(matrix: NDArray[Any], block: int = BLOCK) -> Quantized:
    """Round a matrix (rows, columns) to int8, symmetric about 0: each block's largest weight becomes 127 or -127.

    block: columns that share a scale, 0 for whole rows. No weight moves by more than half its block's scale.
    """
    if matrix.ndim != 2 or block < 0:
        raise ValueError(f"got shape {matrix.shape} and block {block}; give a matrix and a block of 0 (row) or more")
    rows, columns = matrix.shape
    wide = block or columns
    blocks = math.ceil(columns / wide)
    padded = np.zeros((rows, blocks * wide), np.float32)
    padded[:, :columns] = matrix
    parts = padded.reshape(rows, blocks, wide)
    scales = np.abs(parts).max(axis=2) / np.float32(127)
    scales[scales == 0] = 1.0  # a block of zeros stays zero, whatever its scale
    whole = np.rint(parts / scales[:, :, None]).astype(np.int8).reshape(rows, -1)[:, :columns]
    return Quantized(np.ascontiguousarray(whole), scales.astype(np.float32), block)


def dequantized(weights: Weights, block: int = BLOCK) -> dict[str, NDArray[np.float32]]:
    """Every matrix rounded to int8 and back, every vector as it is: the model that the page runs, by the same names."""
    return {
        name: quantize(value, block).matrix() if value.ndim == 2 else value.astype(np.float32)
        for name, value in weights.items()
    }


def packed(
    config: Mapping[str, Any], weights: Weights, tokenizer: Mapping[str, Any], template: str, block: int = BLOCK
) -> dict[str, Any]:
    """What tiny_engine.js reads, from the contents of config.json, model.safetensors, tokenizer.json and the template.

    ValueError for a model or a tokenizer with parts that the engine lacks.
    """
    rope = dict(config.get("rope_parameters") or {})
    sizes = {**config, "rope_theta": rope.get("rope_theta", 10_000.0)}
    strange = {
        "model_type": config.get("model_type") != "llama",
        "hidden_act": config.get("hidden_act") != "silu",
        "rope_type": rope.get("rope_type", "default") != "default",
        "tie_word_embeddings": not config.get("tie_word_embeddings"),
        "bias": config.get("attention_bias") or config.get("mlp_bias"),
        "sizes (multiples of 4)": any(
            sizes[name] % 4 for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")
        ),
        "tokenizer": tokenizer["model"]["type"] != "BPE" or tokenizer["normalizer"] is not None,
    }
    if any(strange.values()):
        raise ValueError(
            f"the page's engine does not cover the model's {', '.join(k for k, v in strange.items() if v)}"
        )
    named = {name.removeprefix("model."): value for name, value in weights.items()}
    prefixes = [f"layers.{layer}." for layer in range(sizes["num_hidden_layers"])]
    matrices = ["embed_tokens.weight", *(f"{prefix}{part}.weight" for prefix in prefixes for part in LAYER)]
    norms = ("input_layernorm", "post_attention_layernorm")
    gains = [*(f"{prefix}{norm}.weight" for prefix in prefixes for norm in norms), "norm.weight"]
    rounded = [quantize(named[name], block) for name in matrices]
    floats = [*(one.scales for one in rounded), *(named[name] for name in gains)]
    data = b"".join([
        *(part.astype("<f4").tobytes() for part in floats),
        *(one.whole.tobytes() for one in rounded),
    ])  # fmt: skip
    return {
        "config": {name: sizes[name] for name in CONFIG},
        "block": block,
        "parameters": sum(value.size for value in named.values()),
        "tokenizer": _tokenizer(tokenizer),
        "chat": _chat(template),
        "stops": sorted({config["eos_token_id"], config["pad_token_id"]}),
        "data": base64.b64encode(data).decode(),
    }


def _tokenizer(described: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens by id, merges by rank, special tokens, and the pattern that splits a text into words, for JavaScript."""
    vocabulary: dict[str, int] = described["model"]["vocab"]
    special = [one["content"] for one in described["added_tokens"]]
    split, bytes_ = described["pre_tokenizer"]["pretokenizers"]
    if split["type"] != "Split" or split["behavior"] != "Isolated" or bytes_["type"] != "ByteLevel":
        raise ValueError(
            f"the page's tokenizer splits by one pattern, then into bytes; got {described['pre_tokenizer']}"
        )
    by_id = {id_: token for token, id_ in vocabulary.items()}
    by_id |= {one["id"]: one["content"] for one in described["added_tokens"]}
    # In JavaScript \d and \s mean other characters than in tokenizers; the names of the properties mean the same.
    pattern = split["pattern"]["Regex"].replace(r"\d", r"\p{Nd}").replace(r"\s", r"\p{White_Space}")
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in described["model"]["merges"]]
    return {
        "tokens": [by_id[id_] for id_ in range(len(by_id))],
        "merges": merges,
        "special": special,
        "pattern": pattern,
    }


def _chat(template: str) -> list[str]:
    """What the chat format puts before and after what the user says."""
    import jinja2

    messages = [{"role": "user", "content": SPOKEN}]
    text = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
    return text.split(SPOKEN)


@cache
def tiny(folder: Path = FOLDER) -> dict[str, Any]:
    """`tiny` as it ships, packed."""
    return packed(
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
        weights(folder),
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")),
        (folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def weights(folder: Path = FOLDER) -> dict[str, NDArray[Any]]:
    """A model's tensors by name, as they are kept (tiny: float16)."""
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))
