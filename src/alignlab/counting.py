"""Parameters, FLOPs and bytes of a decoder from its sizes alone: dense, grouped queries, latent attention, experts.

Knows shapes and what published models have chosen; it makes no tensor and measures nothing.
"""

from dataclasses import dataclass, fields
from typing import Any

from alignlab.transformer import Config


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention, DeepSeek-AI (2024, arXiv 2405.04434), section 2.1: keys and values from one vector.

    kv_rank: width of the vector that is cached for keys and values together. query_rank: the same for queries, which
    is not cached; 0 where queries come from the hidden state at once. A head's queries and keys have `plain_dim`
    entries without position and `rotary_dim` with one (keys share the latter), its values have `value_dim`.
    """

    kv_rank: int
    query_rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP, in all layers but the first `dense_layers`.

    Of `routed` experts each token uses `active`, of `shared` ones all; each is a SwiGLU of inner width `width`.
    """

    routed: int
    active: int
    width: int
    shared: int = 0
    dense_layers: int = 0


@dataclass(frozen=True)
class Architecture(Config):
    """Sizes of a decoder of the Llama family and its relatives; a plain `Config` is one with nothing added.

    attention_bias: queries, keys and values have a bias (Qwen2). query_key_norm: each head's queries and keys pass an
    RMSNorm (Qwen3). latent: attention by latent vectors; then head_dim and num_key_value_heads count for nothing.
    """

    attention_bias: bool = False
    query_key_norm: bool = False
    latent: Latent | None = None
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.latent is None and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key/value heads evenly"
            )
        if self.experts and not 0 < self.experts.active <= self.experts.routed:
            raise ValueError(f"{self.experts.active} of {self.experts.routed} routed experts cannot be active")
        if self.experts and not 0 <= self.experts.dense_layers <= self.num_hidden_layers:
            raise ValueError(f"{self.experts.dense_layers} of {self.num_hidden_layers} layers cannot be dense")

    @property
    def expert_layers(self) -> int:
        """How many layers hold experts."""
        return self.num_hidden_layers - self.experts.dense_layers if self.experts else 0

    @property
    def dense_layers(self) -> int:
        """How many layers hold one MLP for all tokens."""
        return self.num_hidden_layers - self.expert_layers


PARTS = ("embedding", "attention", "mlp", "router", "experts", "shared_experts", "norms", "head")
"""The parts that `parameters` counts, in the order in which a token meets them."""


def parameters(config: Config) -> dict[str, int]:
    """How many parameters each part has, over all layers; `sum(parameters(config).values())` is the model's size N.

    A tied head counts 0, its matrix being the embedding's. "norms" holds every RMSNorm, those of queries, keys and
    latent vectors included; "attention" and "experts" are matrices (and biases) alone.
    """
    a = _architecture(config)
    d, layers, experts = a.hidden_size, a.num_hidden_layers, a.experts
    counts = dict.fromkeys(PARTS, 0)
    counts["embedding"] = a.vocab_size * d
    counts["head"] = 0 if a.tie_word_embeddings else a.vocab_size * d
    counts["attention"] = layers * (_attention_weights(a) + _attention_biases(a))
    counts["mlp"] = a.dense_layers * 3 * d * a.intermediate_size
    counts["norms"] = layers * (2 * d + _attention_norms(a)) + d
    if experts:
        counts["router"] = a.expert_layers * d * experts.routed
        counts["experts"] = a.expert_layers * experts.routed * 3 * d * experts.width
        counts["shared_experts"] = a.expert_layers * experts.shared * 3 * d * experts.width
    return counts


def active_parameters(config: Config) -> dict[str, int]:
    """The same without the routed experts that sleep while one token passes. Embedding and head count whole."""
    a = _architecture(config)
    counts = parameters(a)
    if a.experts:
        counts["experts"] = counts["experts"] // a.experts.routed * a.experts.active
    return counts


def forward_flops(
    config: Config, tokens: int, past: int = 0, causal: bool = False, logits: int | None = None
) -> dict[str, int]:
    """FLOPs of one forward pass over a row of new tokens, by part; a multiplication and an addition count 2.

    tokens: new positions T. past: positions S - T that stand in the cache already. causal: count only the pairs that
    are seen, T(T+1)/2 of T^2; without it all pairs, as most kernels compute and most reports count them.
    logits: at how many positions the head is read, all by default (generation needs the last alone).
    Matrix products alone: norms, softmax, rotations and activations are left out. "scores" holds the two products
    with T x S entries. Latent attention with a past is counted in its absorbed form, which scores the cached vectors
    themselves. A backward pass costs twice as much (Kaplan et al., 2020, section 2.1).
    """
    if tokens < 1 or past < 0:
        raise ValueError(f"{tokens} new tokens after {past}: give at least 1 after at least 0")
    a = _architecture(config)
    pairs = tokens * past + (tokens * (tokens + 1) // 2 if causal else tokens * tokens)
    flops = {part: 2 * tokens * count for part, count in active_parameters(a).items()}
    flops["attention"] = 2 * tokens * a.num_hidden_layers * _attention_weights(a)
    flops["head"] = 2 * (tokens if logits is None else logits) * a.vocab_size * a.hidden_size
    del flops["embedding"], flops["norms"]
    flops["scores"] = 2 * a.num_hidden_layers * a.num_attention_heads * _score_width(a, past > 0) * pairs
    return flops


def kv_cache_bytes(config: Config, tokens: int, batch: int = 1, bytes_per_number: float = 2) -> float:
    """Bytes of the cache of `batch` rows of `tokens` positions: keys and values, or one latent vector, per layer."""
    a = _architecture(config)
    numbers = a.latent.kv_rank + a.latent.rotary_dim if a.latent else 2 * a.num_key_value_heads * a.head_dim
    return a.num_hidden_layers * numbers * tokens * batch * bytes_per_number


def training_bytes(count: float, mixed: bool = True) -> dict[str, float]:
    """Bytes that Adam keeps for so many trained parameters, activations aside: Rajbhandari et al. (2019), section 3.1.

    mixed: 16-bit weights and gradients with 32-bit copies and moments, 16 bytes each in all; else all in 32 bits.
    """
    if mixed:
        return {"weights": 2 * count, "gradients": 2 * count, "master weights": 4 * count, "moments": 8 * count}
    return {"weights": 4 * count, "gradients": 4 * count, "master weights": 0, "moments": 8 * count}


def _architecture(config: Config) -> Architecture:
    """A plain Config as the Architecture that it is."""
    if isinstance(config, Architecture):
        return config
    return Architecture(**{field.name: getattr(config, field.name) for field in fields(Config)})


def _attention_weights(a: Architecture) -> int:
    """Entries of one layer's attention matrices."""
    d, heads = a.hidden_size, a.num_attention_heads
    if a.latent is None:
        return 2 * d * heads * a.head_dim + 2 * d * a.num_key_value_heads * a.head_dim
    m = a.latent
    queries = heads * (m.plain_dim + m.rotary_dim)
    down, up = d * (m.kv_rank + m.rotary_dim), m.kv_rank * heads * (m.plain_dim + m.value_dim)
    from_state = d * m.query_rank + m.query_rank * queries if m.query_rank else d * queries
    return from_state + down + up + heads * m.value_dim * d


def _attention_biases(a: Architecture) -> int:
    return (a.num_attention_heads + 2 * a.num_key_value_heads) * a.head_dim if a.attention_bias else 0


def _attention_norms(a: Architecture) -> int:
    """Weights of the norms inside one layer's attention."""
    return (a.latent.kv_rank + a.latent.query_rank if a.latent else 0) + 2 * a.head_dim * a.query_key_norm


def _score_width(a: Architecture, absorbed: bool) -> int:
    """Multiplications of one head for one pair of positions: score and weighted value."""
    if a.latent is None:
        return 2 * a.head_dim
    if absorbed:
        return 2 * a.latent.kv_rank + a.latent.rotary_dim
    return a.latent.plain_dim + a.latent.rotary_dim + a.latent.value_dim


def architecture_of(config: Any) -> Architecture:
    """The sizes in a transformers configuration; ValueError for a model type that is not counted here."""
    kind = config.model_type
    if kind not in ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3"):
        raise ValueError(f"models of type {kind!r} are not counted here; write their sizes as an Architecture")
    names = [field.name for field in fields(Config)]
    sizes = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    sizes["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes.update(attention_bias=kind == "qwen2", query_key_norm=kind in ("qwen3", "qwen3_moe"))
    if kind == "mixtral":
        sizes["experts"] = Experts(config.num_local_experts, config.num_experts_per_tok, config.intermediate_size)
    if kind == "qwen3_moe":
        if config.mlp_only_layers or config.decoder_sparse_step != 1:
            raise ValueError("only models with experts in every layer are counted here")
        sizes["experts"] = Experts(config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size)
    if kind.startswith("deepseek"):
        sizes["latent"] = Latent(
            config.kv_lora_rank, config.q_lora_rank or 0, config.qk_nope_head_dim, config.qk_rope_head_dim,
            config.v_head_dim,
        )  # fmt: skip
        sizes["num_key_value_heads"] = config.num_attention_heads
        sizes["experts"] = Experts(
            config.n_routed_experts, config.num_experts_per_tok, config.moe_intermediate_size, config.n_shared_experts,
            config.first_k_dense_replace,
        )  # fmt: skip
    return Architecture(**sizes)


# ---- published models


@dataclass(frozen=True)
class Published:
    """A model as its makers describe it.

    stated, active: parameters in all and per token in their own words ("6.7B"). tokens: of pre-training, in
    trillions, None where it was not said. source: key of the bibliography.
    """

    name: str
    architecture: Architecture
    stated: str
    year: int
    source: str
    tokens: float | None = None
    active: str = ""


def _sizes(
    vocab: int, width: int, inner: int, layers: int, heads: int, kv: int, context: int, head: int = 0, **more: Any
) -> Architecture:
    more.setdefault("tie_word_embeddings", False)
    return Architecture(vocab, width, inner, layers, heads, kv, head or width // heads, context, **more)


def _deepseek(width: int, inner: int, layers: int, heads: int, context: int, **more: Any) -> Architecture:
    return _sizes(more.pop("vocab", 102_400), width, inner, layers, heads, heads, context, 128, **more)


_SMOL, _LLAMA, _LLAMA2, _LLAMA3 = "allal2025smollm2", "touvron2023llama", "touvron2023llama2", "grattafiori2024llama3"
_QWEN25, _QWEN3, _V2, _V3 = "qwen2024qwen25", "yang2025qwen3", "deepseek2024v2", "deepseek2024v3"
_Q2, _Q3 = {"attention_bias": True}, {"query_key_norm": True}
_TIED = {"tie_word_embeddings": True}

PUBLISHED = (
    Published("SmolLM2-135M", _sizes(49_152, 576, 1536, 30, 9, 3, 8192, **_TIED), "135M", 2025, _SMOL, 2),
    Published("SmolLM2-360M", _sizes(49_152, 960, 2560, 32, 15, 5, 8192, **_TIED), "360M", 2025, _SMOL, 4),
    Published("SmolLM2-1.7B", _sizes(49_152, 2048, 8192, 24, 32, 32, 8192, **_TIED), "1.7B", 2025, _SMOL, 11),
    Published("LLaMA-7B", _sizes(32_000, 4096, 11_008, 32, 32, 32, 2048), "6.7B", 2023, _LLAMA, 1.0),
    Published("LLaMA-13B", _sizes(32_000, 5120, 13_824, 40, 40, 40, 2048), "13.0B", 2023, _LLAMA, 1.0),
    Published("LLaMA-33B", _sizes(32_000, 6656, 17_920, 60, 52, 52, 2048), "32.5B", 2023, _LLAMA, 1.4),
    Published("LLaMA-65B", _sizes(32_000, 8192, 22_016, 80, 64, 64, 2048), "65.2B", 2023, _LLAMA, 1.4),
    Published("Llama-2-7B", _sizes(32_000, 4096, 11_008, 32, 32, 32, 4096), "7B", 2023, _LLAMA2, 2.0),
    Published("Llama-2-13B", _sizes(32_000, 5120, 13_824, 40, 40, 40, 4096), "13B", 2023, _LLAMA2, 2.0),
    Published("Llama-2-70B", _sizes(32_000, 8192, 28_672, 80, 64, 8, 4096), "70B", 2023, _LLAMA2, 2.0),
    Published("Llama-3.1-8B", _sizes(128_256, 4096, 14_336, 32, 32, 8, 131_072), "8B", 2024, _LLAMA3, 15),
    Published("Llama-3.1-70B", _sizes(128_256, 8192, 28_672, 80, 64, 8, 131_072), "70B", 2024, _LLAMA3, 15),
    Published("Llama-3.1-405B", _sizes(128_256, 16_384, 53_248, 126, 128, 8, 131_072), "405B", 2024, _LLAMA3, 15.6),
    Published("Qwen2.5-0.5B", _sizes(151_936, 896, 4864, 24, 14, 2, 32_768, **_Q2, **_TIED), "0.5B", 2024, _QWEN25, 18),
    Published("Qwen2.5-7B", _sizes(152_064, 3584, 18_944, 28, 28, 4, 131_072, **_Q2), "7B", 2024, _QWEN25, 18),
    Published("Qwen2.5-72B", _sizes(152_064, 8192, 29_568, 80, 64, 8, 131_072, **_Q2), "72B", 2024, _QWEN25, 18),
    Published(
        "Qwen3-0.6B", _sizes(151_936, 1024, 3072, 28, 16, 8, 32_768, 128, **_Q3, **_TIED), "0.6B", 2025, _QWEN3, 36
    ),
    Published("Qwen3-8B", _sizes(151_936, 4096, 12_288, 36, 32, 8, 32_768, 128, **_Q3), "8B", 2025, _QWEN3, 36),
    Published("Qwen3-32B", _sizes(151_936, 5120, 25_600, 64, 64, 8, 32_768, 128, **_Q3), "32B", 2025, _QWEN3, 36),
    Published(
        "Qwen3-30B-A3B",
        _sizes(151_936, 2048, 6144, 48, 32, 4, 32_768, 128, **_Q3, experts=Experts(128, 8, 768)),
        "30B", 2025, _QWEN3, 36, "3B",
    ),
    Published(
        "Qwen3-235B-A22B",
        _sizes(151_936, 4096, 12_288, 94, 64, 4, 32_768, 128, **_Q3, experts=Experts(128, 8, 1536)),
        "235B", 2025, _QWEN3, 36, "22B",
    ),
    Published(
        "Mixtral-8x7B",
        _sizes(32_000, 4096, 14_336, 32, 32, 8, 32_768, experts=Experts(8, 2, 14_336)),
        "47B", 2024, "jiang2024mixtral", None, "13B",
    ),
    Published(
        "DeepSeek-V2-Lite",
        _deepseek(
            2048, 10_944, 27, 16, 32_768, latent=Latent(512, 0, 128, 64, 128), experts=Experts(64, 6, 1408, 2, 1)
        ),
        "15.7B", 2024, _V2, 5.7, "2.4B",
    ),
    Published(
        "DeepSeek-V2",
        _deepseek(
            5120, 12_288, 60, 128, 131_072, latent=Latent(512, 1536, 128, 64, 128), experts=Experts(160, 6, 1536, 2, 1)
        ),
        "236B", 2024, _V2, 8.1, "21B",
    ),
    Published(
        "DeepSeek-V3",
        _deepseek(
            7168, 18_432, 61, 128, 131_072, vocab=129_280,
            latent=Latent(512, 1536, 128, 64, 128), experts=Experts(256, 8, 2048, 1, 3),
        ),
        "671B", 2024, _V3, 14.8, "37B",
    ),
)  # fmt: skip
"""Models whose weights are open, with what their reports say; the tests count each of them and compare."""


def published(name: str) -> Published:
    """The published model of that name; LookupError that lists them."""
    for model in PUBLISHED:
        if model.name == name:
            return model
    raise LookupError(f"no published model is called {name!r}; there are {', '.join(m.name for m in PUBLISHED)}")


def plain(model: Published) -> dict[str, Any]:
    """A published model as plain numbers, with its counted sizes: a row of the explorer `parameter_counter`."""
    a = model.architecture
    m, e = a.latent, a.experts
    return {
        "name": model.name, "stated": model.stated, "active": model.active, "year": model.year, "tokens": model.tokens,
        "vocab": a.vocab_size, "d": a.hidden_size, "ff": a.intermediate_size, "layers": a.num_hidden_layers,
        "heads": a.num_attention_heads, "kv": a.num_key_value_heads, "head": a.head_dim,
        "context": a.max_position_embeddings, "tied": a.tie_word_embeddings, "bias": a.attention_bias,
        "norm": a.query_key_norm,
        "latent": [m.kv_rank, m.query_rank, m.plain_dim, m.rotary_dim, m.value_dim] if m else None,
        "experts": [e.routed, e.active, e.width, e.shared, e.dense_layers] if e else None,
        "total": sum(parameters(a).values()), "used": sum(active_parameters(a).values()),
    }  # fmt: skip
