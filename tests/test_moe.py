"""Mixture of experts: equal to a loop over tokens and to transformers' layers; loads, limits and biases by hand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.architectures.moe import (
    Experts,
    MoE,
    Routing,
    balanced_bias,
    capacity,
    expert_load,
    load_balance_loss,
    route,
    within_capacity,
)
from alignlab.transformer import Config, Transformer


def layer(seed: int = 0, **more: Any) -> MoE:
    """A small layer in float64 with weights far from zero."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 6, "intermediate_size": 5, "num_experts": 4, "top_k": 2, "std": 0.5}
    return MoE(**(sizes | more)).double()


def by_loop(moe: MoE, x: Tensor) -> Tensor:
    """The definition, one token and one expert at a time; softmax by its formula, no sorting of tokens."""
    rows = []
    limit = math.inf
    if moe.capacity_factor is not None:
        limit = math.ceil(moe.capacity_factor * len(x) * moe.top_k / len(moe.bias) - 1e-9)
    taken = [0] * len(moe.bias)
    chosen: list[list[int]] = []
    scores = []
    for token in x:
        logits = [float(w @ token) for w in moe.gate.weight.detach()]
        if moe.scores == "softmax":
            total = sum(math.exp(z) for z in logits)
            score = [math.exp(z) / total for z in logits]
        else:
            score = [1 / (1 + math.exp(-z)) for z in logits]
        order = sorted(range(len(score)), key=lambda e: -(score[e] + float(moe.bias[e])))
        chosen.append(order[: moe.top_k])
        scores.append(score)
    kept = {}
    for j in range(moe.top_k):
        for t, experts in enumerate(chosen):
            kept[t, j] = taken[experts[j]] < limit
            taken[experts[j]] += 1
    for t, token in enumerate(x):
        total = sum(scores[t][e] for e in chosen[t]) if moe.normalize else 1.0
        out = torch.zeros_like(token)
        for j, e in enumerate(chosen[t]):
            if kept[t, j]:
                gate, up = (moe.experts.gate_up_proj[e].detach() @ token).chunk(2)
                inner = gate / (1 + torch.exp(-gate)) * up
                out += moe.scale * scores[t][e] / total * (moe.experts.down_proj[e].detach() @ inner)
        if moe.shared_experts is not None:
            shared = moe.shared_experts
            gate = shared.gate_proj.weight.detach() @ token
            inner = gate / (1 + torch.exp(-gate)) * (shared.up_proj.weight.detach() @ token)
            out += shared.down_proj.weight.detach() @ inner
        rows.append(out)
    return torch.stack(rows)


SETTINGS: dict[str, dict[str, Any]] = {
    "Mixtral's": {},
    "Switch's": {"top_k": 1, "normalize": False},
    "all experts": {"top_k": 4},
    "shared": {"shared": 2},
    "DeepSeek-V3's": {"scores": "sigmoid", "shared": 1, "scale": 2.5},
    "limited": {"capacity_factor": 0.75},
    "limited, one choice": {"capacity_factor": 1.0, "top_k": 1, "normalize": False},
}


def check_layer(name: str) -> None:
    """A layer of these settings against the loop, with a bias that moves choices."""
    moe = layer(**SETTINGS[name])
    moe.bias.copy_(torch.tensor([0.2, -0.1, 0.0, 0.3]))
    x = torch.randn(17, 6, dtype=torch.float64)
    torch.testing.assert_close(moe(x), by_loop(moe, x), rtol=1e-5, atol=1e-6)  # scores are in float32
    torch.testing.assert_close(moe(x.view(1, 17, 6))[0], moe(x))


def check_layers() -> None:
    for name in SETTINGS:
        check_layer(name)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_layer_equals_a_loop_over_tokens_and_experts(name: str) -> None:
    check_layer(name)


def dispatch(
    self: Experts, tokens: Tensor, experts: Tensor, weights: Tensor, kept: Tensor | None = None, wrong: str = ""
) -> Tensor:
    """Another way to compute all experts, with a fault by name; none where `wrong` is empty."""
    output = torch.zeros_like(tokens)
    for e in range(len(self.gate_up_proj)):
        t, j = torch.where(experts == e)
        if kept is not None and wrong != "dropped tokens computed":
            t, j = t[kept[t, j]], j[kept[t, j]]
        gate, up = F.linear(tokens[t], self.gate_up_proj[e]).chunk(2, -1)
        if wrong == "gate and up swapped":
            gate, up = up, gate
        result = F.linear(F.silu(gate) * up, self.down_proj[e])
        t_weight = t.roll(1) if wrong == "weights of other tokens" else t
        if wrong != "weights left out":
            result = result * weights[t_weight, 0 if wrong == "first weight for all" else j, None].to(tokens.dtype)
        if wrong == "later experts overwrite":
            output = output.index_copy(0, t, result)
        else:
            output = output.index_add(0, t, result)
    return output


DISPATCH_FAULTS = (
    "weights left out", "first weight for all", "weights of other tokens", "later experts overwrite",
    "dropped tokens computed", "gate and up swapped",
)  # fmt: skip


def test_another_way_to_compute_the_experts_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experts, "forward", dispatch)
    check_layers()


@pytest.mark.parametrize("wrong", DISPATCH_FAULTS)
def test_a_wrong_dispatch_is_rejected(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experts, "forward", functools.partialmethod(dispatch, wrong=wrong))
    with pytest.raises(AssertionError):
        check_layers()


def test_a_layer_of_copies_is_the_network_that_was_copied() -> None:
    moe = layer(top_k=3)
    with torch.no_grad():
        for weights in (moe.experts.gate_up_proj, moe.experts.down_proj):
            weights.copy_(weights[:1].expand_as(weights))
    x = torch.randn(9, 6, dtype=torch.float64)
    gate, up = F.linear(x, moe.experts.gate_up_proj[0]).chunk(2, -1)
    torch.testing.assert_close(moe(x), F.linear(F.silu(gate) * up, moe.experts.down_proj[0]), rtol=1e-5, atol=1e-6)


# ---- routing, with wrong versions


def check_route(route: Callable[..., Routing]) -> None:
    """What makes a routing right: choices, weights, who sees the bias, and a gradient that reaches the router."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 3.0]])
    e = math.e
    plain = route(logits, 2)
    assert plain.experts.tolist() == [[0, 1], [2, 0]]
    torch.testing.assert_close(plain.weights[0], torch.tensor([e / (e + 1), 1 / (e + 1)]))
    whole = e**2 + e + 1
    torch.testing.assert_close(route(logits, 2, normalize=False).weights[0], torch.tensor([e**2 / whole, e / whole]))
    gated = route(logits, 1, scores="sigmoid", normalize=False, scale=2.5)
    torch.testing.assert_close(gated.weights[1], torch.tensor([2.5 / (1 + math.exp(-3))]))
    moved = route(logits, 1, normalize=False, bias=torch.tensor([-1.0, 0.1, 0.0]))
    assert moved.experts.tolist() == [[1], [2]]
    torch.testing.assert_close(moved.weights[0], torch.tensor([e / whole]))  # the weight does not see the bias

    live = logits.clone().requires_grad_()
    value = torch.tensor([[1.0, 0.0, 3.0], [2.0, 5.0, -1.0]])

    def objective(z: Tensor) -> Tensor:
        found = route(z, 2)
        return (found.weights * value.gather(1, found.experts)).sum()

    value_there = objective(live)
    assert value_there.requires_grad
    (gradient,) = torch.autograd.grad(value_there, live)
    for t in range(2):
        for i in range(3):
            nudge = torch.zeros_like(logits)
            nudge[t, i] = 1e-2
            slope = (objective(logits + nudge) - objective(logits - nudge)) / 2e-2
            assert gradient[t, i].item() == pytest.approx(slope.item(), abs=2e-3)


def test_routing_equals_its_definition_and_its_gradient() -> None:
    check_route(route)


def _lost(*args: Any, **kwargs: Any) -> Routing:
    found = route(*args, **kwargs)
    return found._replace(weights=found.weights.detach())


def _over_all(logits: Tensor, k: int, scores: Any = "softmax", normalize: bool = True, **more: Any) -> Routing:
    return route(logits, k, scores, False, **more)


def _biased(
    logits: Tensor, k: int, scores: Any = "softmax", normalize: bool = True, bias: Any = None, scale: float = 1.0
) -> Routing:
    found = route(logits, k, scores, False, bias)
    values = found.scores if bias is None else found.scores + bias
    weights = values.gather(-1, found.experts)
    return found._replace(weights=(weights / weights.sum(-1, keepdim=True) if normalize else weights) * scale)


def _bias_before_softmax(
    logits: Tensor, k: int, scores: Any = "softmax", normalize: bool = True, bias: Any = None, scale: float = 1.0
) -> Routing:
    return route(logits if bias is None else logits + bias, k, scores, normalize, None, scale)


def _without_scale(*args: Any, scale: float = 1.0, **kwargs: Any) -> Routing:
    return route(*args, **kwargs)


def _smallest(logits: Tensor, k: int, *args: Any, **kwargs: Any) -> Routing:
    found = route(logits, k, *args, **kwargs)
    experts = found.scores.topk(k, largest=False).indices
    return found._replace(experts=experts, weights=found.scores.gather(-1, experts))


WRONG_ROUTES: dict[str, Callable[..., Routing]] = {
    "router gradient lost": _lost,
    "never renormalized": _over_all,
    "the weights see the bias": _biased,
    "bias inside the softmax": _bias_before_softmax,
    "scale left out": _without_scale,
    "smallest scores": _smallest,
}


@pytest.mark.parametrize("name", WRONG_ROUTES)
def test_a_wrong_routing_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_route(WRONG_ROUTES[name])


def test_one_expert_with_normalized_weights_teaches_its_router_nothing() -> None:
    x = torch.randn(12, 6, dtype=torch.float64)
    for normalize in (True, False):
        moe = layer(top_k=1, normalize=normalize)
        moe(x).square().sum().backward()
        assert moe.gate.weight.grad is not None
        assert bool((moe.gate.weight.grad.abs().max() < 1e-7) == normalize)


# ---- the balance loss, with wrong versions


def check_balance_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Worked by hand: 4 tokens, 2 experts; then its extremes and its gradient."""
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    experts = scores.argmax(-1, keepdim=True)
    assert loss(scores, experts).item() == pytest.approx(2 * (0.75 * 0.65 + 0.25 * 0.35))
    both = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]])
    assert loss(torch.full((4, 4), 0.25), both).item() == pytest.approx(1.0)
    assert loss(F.one_hot(torch.zeros(5, dtype=torch.long), 8).double(), torch.zeros(5, 1, dtype=torch.long)) == 8
    live = scores.clone().requires_grad_()
    value = loss(live, experts)
    assert value.requires_grad
    (gradient,) = torch.autograd.grad(value, live)
    torch.testing.assert_close(gradient, torch.tensor([[2 * 0.75 / 4, 2 * 0.25 / 4]]).double().expand(4, 2))


def test_the_balance_loss_equals_its_definition_and_its_gradient() -> None:
    check_balance_loss(load_balance_loss)


WRONG_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "factor E left out": lambda s, e: load_balance_loss(s, e) / s.shape[-1],
    "means squared": lambda s, e: s.shape[-1] * s.mean(0).square().sum(),
    "shares squared, no gradient": lambda s, e: s.shape[-1] * expert_load(e, s.shape[-1]).square().sum(),
    "shares per token, not per choice": lambda s, e: load_balance_loss(s, e) * e.shape[1],
    "mean over experts": lambda s, e: load_balance_loss(s, e) / s.shape[-1] ** 2,
    "scores of the chosen": lambda s, e: s.gather(-1, e).mean() * s.shape[-1],
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_wrong_balance_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_balance_loss(WRONG_LOSSES[name])


# ---- capacity, with wrong versions


def check_within_capacity(within: Callable[[Tensor, int, int], Tensor]) -> None:
    """Against a queue: first choices of all tokens, then second ones; each expert takes the first `limit`."""
    generator = torch.Generator().manual_seed(0)
    for tokens, num_experts, k, limit in ((10, 3, 1, 2), (23, 4, 2, 5), (8, 5, 3, 1), (6, 2, 2, 6)):
        experts = torch.stack([torch.randperm(num_experts, generator=generator)[:k] for _ in range(tokens)])
        taken = dict.fromkeys(range(num_experts), 0)
        want = torch.zeros(tokens, k, dtype=torch.bool)
        for j in range(k):
            for t in range(tokens):
                e = int(experts[t, j])
                want[t, j] = taken[e] < limit
                taken[e] += 1
        assert torch.equal(within(experts, num_experts, limit), want)


def test_a_full_expert_drops_those_who_come_later() -> None:
    check_within_capacity(within_capacity)


def _token_by_token(experts: Tensor, num_experts: int, limit: int) -> Tensor:
    flat = experts.reshape(-1)
    place = F.one_hot(flat, num_experts).cumsum(0).gather(1, flat[:, None])[:, 0]
    return (place <= limit).view(experts.shape)


WRONG_LIMITS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "one too few": lambda e, n, limit: within_capacity(e, n, limit - 1),
    "one too many": lambda e, n, limit: within_capacity(e, n, limit + 1),
    "the last are kept": lambda e, n, limit: within_capacity(e.flip(0), n, limit).flip(0),
    "second choices before the first of later tokens": _token_by_token,
    "no limit": lambda e, n, limit: torch.ones_like(e, dtype=torch.bool),
}


@pytest.mark.parametrize("name", WRONG_LIMITS)
def test_a_wrong_limit_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_within_capacity(WRONG_LIMITS[name])


def test_capacity_is_the_even_share_times_the_factor_rounded_up() -> None:
    assert capacity(1024, 8, 1, 1.0) == 128
    assert capacity(1024, 8, 2, 1.25) == 320
    assert capacity(10, 4, 1, 1.0) == 3
    with pytest.raises(ValueError, match="capacity factor is 0"):
        capacity(10, 4, 1, 0)


# ---- the bias


def check_bias(move: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    bias = torch.tensor([0.0, 0.5, -0.1, 0.2])
    load = torch.tensor([0.5, 0.1, 0.25, 0.15])
    torch.testing.assert_close(move(bias, load, 0.01), torch.tensor([-0.01, 0.51, -0.1, 0.21]))


def test_the_bias_moves_by_its_speed_towards_an_even_load() -> None:
    check_bias(balanced_bias)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b, load, speed: b + speed * torch.sign(load - load.mean()),
        lambda b, load, speed: b + speed * (load.mean() - load),
        lambda b, load, speed: speed * torch.sign(load.mean() - load),
        lambda b, load, speed: b + speed * torch.sign(0.5 - load),
    ],
    ids=["sign flipped", "proportional", "old bias forgotten", "not against the mean"],
)
def test_a_wrong_bias_is_rejected(wrong: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_bias(wrong)


def test_rebalancing_evens_out_a_router_that_sends_all_to_one_expert() -> None:
    moe = layer(top_k=1, scores="sigmoid", normalize=False)
    with torch.no_grad():
        moe.gate.weight[0] += 2.0
    x = torch.randn(400, 6, dtype=torch.float64).abs()
    moe(x)
    assert moe.load().max() > 0.9
    for _ in range(300):
        moe.rebalance(0.005)
        moe(x)
    assert moe.load().max() < 0.35
    assert not moe.bias.requires_grad and "bias" in moe.state_dict()


# ---- transformers


def test_the_layer_equals_transformers_mixtral_with_the_same_weights() -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

    config = MixtralConfig(hidden_size=12, intermediate_size=10, num_local_experts=5, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    ours = MoE(12, 10, 5, 2, std=0.5)
    theirs = MixtralSparseMoeBlock(config).eval()
    state = {name: value for name, value in ours.state_dict().items() if name != "bias"}
    theirs.load_state_dict(state)
    x = torch.randn(3, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    logits = ours.gate(x.view(-1, 12))
    theirs_loss = load_balancing_loss_func((logits,), 5, 2)
    assert isinstance(theirs_loss, Tensor)
    assert theirs_loss.item() == pytest.approx(2 * ours.balance_loss().item(), rel=1e-5)


def test_the_layer_equals_transformers_deepseek_v3_with_the_same_weights() -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(
        hidden_size=12, moe_intermediate_size=10, n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=3,
        n_group=1, topk_group=1, routed_scaling_factor=2.5,
    )  # fmt: skip
    config._experts_implementation = "eager"
    ours = MoE(12, 10, 6, 3, shared=2, scores="sigmoid", scale=2.5, std=0.5)
    ours.bias.copy_(torch.linspace(-0.3, 0.3, 6))
    theirs = DeepseekV3MoE(config).eval()
    state = ours.state_dict()
    state["gate.e_score_correction_bias"] = state.pop("bias")
    theirs.load_state_dict(state)
    x = torch.randn(2, 9, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_one_choice_and_its_limit_equal_transformers_switch_router() -> None:
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router

    config = SwitchTransformersConfig(d_model=12, num_experts=4, expert_capacity=6, router_jitter_noise=0.0)
    theirs = SwitchTransformersTop1Router(config).eval()
    x = torch.randn(1, 30, 12)
    dispatched, probability, logits = theirs(x)
    found = route(logits[0], 1, normalize=False)
    kept = within_capacity(found.experts, 4, 6)
    assert torch.equal(dispatched[0], F.one_hot(found.experts[:, 0], 4) * kept)
    torch.testing.assert_close(found.weights, probability[0])


def test_a_decoder_with_experts_trains_and_keeps_its_cache_exact() -> None:
    torch.manual_seed(0)
    config = Config(vocab_size=20, hidden_size=16, intermediate_size=1, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=8)  # fmt: skip
    model = Transformer(config).initialize(0.2)
    for block in model.layers:
        block.mlp = MoE(16, 12, 4, 2, std=0.2)
    ids = torch.randint(20, (2, 9))
    whole = model(ids)
    cache = model.cache(2, 9)
    parts = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(9)], 1)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    whole.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# ---- input that is wrong


def test_a_wrong_number_of_experts_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 5 of 4 experts"):
        MoE(8, 4, 4, 5)
    with pytest.raises(ValueError, match="top_k is 0 of 3 experts"):
        route(torch.zeros(2, 3), 0)


def test_the_load_of_a_layer_that_has_seen_nothing_is_refused() -> None:
    for ask in (layer().load, layer().balance_loss):
        with pytest.raises(ValueError, match="no forward pass"):
            ask()
