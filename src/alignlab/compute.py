"""Where and how tensors are computed: device, precision, seeds, and how long a lab may run.

Knows nothing about models or algorithms.
"""

import os
import random
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

Profile = Literal["full", "quick"]


def device() -> torch.device:
    """The fastest device of this machine: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def autocast(where: torch.device | None = None) -> AbstractContextManager[Any]:
    """A context in which matrix products run in bfloat16 where that is faster, and in float32 elsewhere.

    Weights stay in float32; logprobs computes its logits in float32 even here.
    """
    where = where or device()
    return torch.autocast(where.type, torch.bfloat16) if bfloat16_pays(where.type) else nullcontext()


def bfloat16_pays(device_type: str) -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware: the same answer at every start."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def freeze_in_bfloat16(model: nn.Module) -> None:
    """Keep the frozen matrices of linear layers in bfloat16 from now on, where bfloat16 pays; elsewhere do nothing.

    autocast rounds them before each product anyway, anew at every pass: the results stay the same, bit by bit, and a
    LoRA step is half as long again without it. Output layers, whose logits want float32, stay as they are. Afterwards
    the model runs under autocast only.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name.endswith("lm_head") or id(module.weight) in embedded:
            continue
        if not module.weight.requires_grad and bfloat16_pays(module.weight.device.type):
            module.weight.data = module.weight.data.to(torch.bfloat16)


def seed(value: int) -> None:
    """Seed the random numbers of Python, NumPy and torch (all devices)."""
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def profile() -> Profile:
    """`full` (the default: what a reader runs) or `quick` (CI: every cell runs, nothing is learned).

    Set by the environment variable ALIGNLAB_PROFILE; any other value is a ValueError.
    """
    value = os.environ.get("ALIGNLAB_PROFILE", "full")
    if value not in ("full", "quick"):
        raise ValueError(f"ALIGNLAB_PROFILE is {value!r}; set it to 'full' or 'quick', or unset it")
    return value  # type: ignore[return-value]


def budget(*, full: dict[str, Any], quick: dict[str, Any]) -> SimpleNamespace:
    """The sizes of a lab under the current profile, as attributes. Both profiles must name the same sizes."""
    if full.keys() != quick.keys():
        raise ValueError(f"the profiles differ in {sorted(full.keys() ^ quick.keys())}; give each size in both")
    return SimpleNamespace(**(full if profile() == "full" else quick))
