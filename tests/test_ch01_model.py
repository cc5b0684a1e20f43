"""Section 1.1.1: the forward pass by hand against the library, and the diagrams' sizes against the model."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch01_model  # noqa: E402

from alignlab.exercises.open_the_model import MODELS, parameters  # noqa: E402
from alignlab.transformer import Config, Transformer  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch01_structure" / "large_model.md").read_text(encoding="utf-8"))


def says(*parts: str) -> None:
    for part in parts:
        assert part in PAGE, part


def identity() -> Transformer:
    """The page's model: width 2, three tokens, every matrix the identity."""
    model = Transformer(Config(3, 2, 2, 1, 1, 1, 2, rms_norm_eps=0.0))
    with torch.no_grad():
        model.embed_tokens.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]]))
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.copy_(torch.eye(2))
    return model


def seen_by_hooks() -> dict[str, list[float]]:
    """What flows through the library's modules at the token b; both tokens at position 0, so that nothing is turned."""
    model, seen = identity(), {}
    block: Any = model.layers[0]

    def keep(name: str) -> Any:
        return lambda module, args, out: seen.__setitem__(name, out[0, -1].tolist())

    block.self_attn.o_proj.register_forward_hook(keep("mixed"))
    block.post_attention_layernorm.register_forward_hook(keep("normed"))
    block.post_attention_layernorm.register_forward_pre_hook(
        lambda m, args: seen.update(middle=args[0][0, -1].tolist())
    )
    block.mlp.register_forward_hook(keep("written"))
    block.register_forward_hook(keep("out"))
    with torch.no_grad():
        x = model.embed_tokens(torch.tensor([[0, 1]]))
        states = model.states(x, torch.zeros(1, 2, dtype=torch.long))
        logits = model.lm_head(states)
    seen |= {"x": x[0, -1].tolist(), "final": states[0, -1].tolist(), "logits": logits[0, -1].tolist()}
    return seen | {"probabilities": logits[0, -1].softmax(-1).tolist()}


def test_the_pass_by_hand_is_the_librarys() -> None:
    hand, library = ch01_model.by_hand(), seen_by_hooks()
    for name, values in library.items():
        assert hand[name] == pytest.approx(values, abs=1e-5), name
    assert sum(hand["weights"]) == pytest.approx(1)


def test_the_page_prints_the_numbers_of_the_pass_by_hand() -> None:
    hand = {name: [round(value, 2) for value in values] for name, values in ch01_model.by_hand().items()}
    assert hand["weights"] == [0.2, 0.8] and hand["scores"] == [0, round(2 / 2**0.5, 2)]
    assert hand["mixed"] == [1.0, -0.61] and hand["middle"] == [2.0, -1.61]
    size = (sum(value**2 for value in ch01_model.by_hand()["middle"]) / 2) ** 0.5
    assert round(size, 2) == 1.81
    assert hand["written"] == [0.91, 0.23] and hand["out"] == [2.91, -1.38] and hand["final"] == [1.28, -0.61]
    assert hand["logits"] == [0.67, 1.88, -1.28]
    assert [round(100 * p) for p in ch01_model.by_hand()["probabilities"]] == [22, 75, 3]
    says("$0.20\\,(1,1)+0.80\\,(1,-1)=(1.00,-0.61)$", "the sum with the stream is $(2.00,-1.61)$", "divides by $1.81$")
    says("$0.91$ and $0.23$", "ends at $(2.91,-1.38)$, normed $(1.28,-0.61)$", "$0.67$, $1.88$ and $-1.28$")
    says("b with 75%, a with 22%, c with 3%")


def test_sizes_of_diagrams_and_page_are_the_models(small: Any) -> None:
    config = small[0].config
    drawn = (
        ch01_model.D, ch01_model.D_FF, ch01_model.LAYERS, ch01_model.HEADS, ch01_model.KV_HEADS, ch01_model.HEAD,
        ch01_model.VOCABULARY,
    )  # fmt: skip
    assert drawn == (
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.head_dim, config.vocab_size,
    )  # fmt: skip
    assert config.max_position_embeddings == 8192
    assert ch01_model.PARAMETERS == sum(p.numel() for p in small[0].parameters()) == parameters(*MODELS[0])
    attention = sum(p.numel() for p in small[0].model.layers[0].self_attn.parameters())
    assert attention == ch01_model.ATTENTION
    assert sum(p.numel() for p in small[0].model.layers[0].mlp.parameters()) == ch01_model.MLP
    says("134,515,008 numbers", "context of 8,192 tokens", "$d=576$, $L=30$, $h=9$", "$d_{\\mathrm{ff}}=1536$")
    says(f"a file of {round(4 * ch01_model.PARAMETERS / 1e6)} MB")


def test_the_tokens_drawn_are_the_tokenizers(small: Any) -> None:
    ids = small[1].encode("What is 17 + 25?", add_special_tokens=False)
    assert [small[1].decode([i]) for i in ids] == list(ch01_model.TOKENS)


def test_the_count_of_the_exercise_is_that_of_the_module() -> None:
    for vocab, d, d_ff, layers, heads, kv_heads, d_h, tied in MODELS[:2]:
        with torch.device("meta"):
            model = Transformer(Config(vocab, d, d_ff, layers, heads, kv_heads, d_h, tie_word_embeddings=tied))
        counted = parameters(vocab, d, d_ff, layers, heads, kv_heads, d_h, tied)
        assert counted == sum(p.numel() for p in model.parameters())
