"""Device, seeds, profile and budget."""

import random

import numpy as np
import pytest
import torch

from alignlab import compute


def test_a_seed_repeats_python_numpy_and_torch() -> None:
    def draws() -> tuple[float, float, float]:
        compute.seed(5)
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    first = draws()
    assert draws() == first
    compute.seed(6)
    assert (random.random(), float(np.random.rand()), torch.rand(1).item()) != first


def test_the_profile_is_full_unless_the_environment_says_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"full": {"steps": 80}, "quick": {"steps": 2}}
    monkeypatch.delenv("ALIGNLAB_PROFILE", raising=False)
    assert compute.profile() == "full" and compute.budget(**sizes).steps == 80
    monkeypatch.setenv("ALIGNLAB_PROFILE", "quick")
    assert compute.profile() == "quick" and compute.budget(**sizes).steps == 2
    monkeypatch.setenv("ALIGNLAB_PROFILE", "fast")
    with pytest.raises(ValueError, match="'fast'"):
        compute.profile()


def test_a_size_missing_from_one_profile_is_told() -> None:
    with pytest.raises(ValueError, match=r"\['batch'\]"):
        compute.budget(full={"steps": 1, "batch": 2}, quick={"steps": 1})


def test_frozen_matrices_in_bfloat16_change_no_product_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "bfloat16_pays", lambda device_type: True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    model.add_module("lm_head", torch.nn.Linear(8, 7, bias=False))
    model[3].weight = model[0].weight
    model[0].requires_grad_(False), model[1].requires_grad_(False)
    ids = torch.arange(7)
    with compute.autocast(torch.device("cpu")):
        before = model(ids)
        compute.freeze_in_bfloat16(model)
        assert torch.equal(model(ids), before)
    kinds = [model[i].weight.dtype for i in range(4)]
    assert kinds == [torch.float32, torch.bfloat16, torch.float32, torch.float32]  # tied, frozen, trained, output


def test_autocast_lowers_products_where_that_pays_and_keeps_the_weights() -> None:
    weight = torch.ones(2, 2)
    with compute.autocast(torch.device("cpu")):
        product = weight @ weight
    assert product.dtype == (torch.bfloat16 if compute.bfloat16_pays("cpu") else torch.float32)
    assert weight.dtype == torch.float32
