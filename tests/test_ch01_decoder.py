"""The decoder page's worked examples and its table of parameters, computed anew."""

import torch
import torch.nn.functional as F

from alignlab.transformer import MLP, Config, KVCache, RMSNorm, Transformer

SMOLLM2 = Config(49_152, 576, 1536, 30, 9, 3, 64)


def test_norm_by_hand() -> None:
    normed = RMSNorm(4, 1e-5)(torch.tensor([3.0, 4.0, 0.0, 0.0]))
    torch.testing.assert_close(normed, torch.tensor([1.2, 1.6, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_attention_by_hand() -> None:
    query, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weights = (query @ keys.T / 2**0.5).softmax(-1)
    torch.testing.assert_close(weights, torch.tensor([[0.670, 0.330]]), atol=5e-4, rtol=0)
    mixed = F.scaled_dot_product_attention(query, keys, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    torch.testing.assert_close(mixed, torch.tensor([[1.34, 0.66]]), atol=5e-3, rtol=0)


def test_variance_of_a_product_of_vectors() -> None:
    q, k = torch.randn(2, 200_000, 64, generator=torch.Generator().manual_seed(0))
    assert abs((q * k).sum(-1).var().item() - 64) < 1


def test_swiglu_by_hand() -> None:
    mlp = MLP(1, 1)
    with torch.no_grad():
        mlp.down_proj.weight.fill_(1.0)
        for gate, up, out in [(1.0, 2.0, 1.462), (-4.0, 2.0, -0.144)]:
            mlp.gate_proj.weight.fill_(gate)
            mlp.up_proj.weight.fill_(up)
            assert abs(mlp(torch.ones(1)).item() - out) < 5e-4


def test_the_table_of_parameters() -> None:
    with torch.device("meta"):
        model = Transformer(SMOLLM2)
    block = model.layers[0]

    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    attention = block.self_attn
    assert count(model.embed_tokens) == 28_311_552 and model.lm_head.weight is model.embed_tokens.weight
    assert count(attention.q_proj, attention.o_proj) == 663_552
    assert count(attention.k_proj, attention.v_proj) == 221_184
    assert count(block.mlp) == 2_654_208
    assert count(block.input_layernorm, block.post_attention_layernorm) == 1_152
    assert count(block) == 3_540_096 and count(model.layers) == 106_202_880
    assert count(model.norm) == 576 and count(model) == 134_515_008


def test_the_cache_of_a_token() -> None:
    cache = KVCache(SMOLLM2, 1, 1, torch.device("cpu"), torch.float32)
    assert cache.keys.nbytes + cache.values.nbytes == 46_080
    assert round(46_080 * 8192 / 1e6) == 377 and round(134_515_008 * 4 / 1e6) == 538
    assert 2 * 32 * 32 * 128 * 2 == 512 * 1024


def test_functional_dropout_does_not_know_the_mode() -> None:
    class Careless(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(x, 0.5)

    torch.manual_seed(0)
    model = Careless().eval()
    assert not torch.equal(model(torch.ones(100)), torch.ones(100))
