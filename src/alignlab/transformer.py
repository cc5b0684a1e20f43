"""A Llama-family decoder from scratch: RMSNorm, rotary positions, grouped-query attention, SwiGLU, KV cache.

Its modules carry the names of transformers' Llama, so that weights load by name and `Transformer.view` can run the
modules of a transformers model (adapters included) without copying them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder. `head_dim` times `num_attention_heads` need not equal `hidden_size`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key and value heads; "
                "num_key_value_heads must divide num_attention_heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions turn pairs, so it must be even")

    @classmethod
    def of(cls, config: Any) -> Self:
        """From transformers' LlamaConfig; ValueError where the model has parts that this decoder lacks."""
        rope = dict(config.rope_parameters or {})
        strange = {
            "model_type": config.model_type not in ("llama", "mistral"),
            "rope_type": rope.get("rope_type", "default") != "default",
            "hidden_act": config.hidden_act != "silu",
            "attention_bias": getattr(config, "attention_bias", False),
            "mlp_bias": getattr(config, "mlp_bias", False),
            "sliding_window": getattr(config, "sliding_window", None) is not None,
        }
        if any(strange.values()):
            names = ", ".join(name for name, is_strange in strange.items() if is_strange)
            raise ValueError(f"this decoder does not cover the model's {names}; use the transformers model itself")
        shared = {name: getattr(config, name) for name in cls.__dataclass_fields__ if hasattr(config, name)}
        return cls(**{**shared, "rope_theta": float(rope.get("rope_theta", 10_000.0))})


class KVCache:
    """Keys and values of the positions seen so far, allocated once: (layers, batch, kv_heads, capacity, head_dim)."""

    def __init__(self, config: Config, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.keys.shape[3]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, each (B, kv_heads, T, head_dim); return all so far."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"{end} positions do not fit in a cache of {self.capacity}; make it with a larger capacity"
            )
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, (B',) indices: finished sequences cost nothing more."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on, as after a rejected draft; what is read next overwrites them."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot keep {length} positions of a cache that holds {self.length}")
        self.length = length

    def keep(self, start: int, offsets: Tensor) -> None:
        """Of the positions from `start` on keep these, (n,) offsets in order, side by side: one branch of a tree."""
        end, kept = start + len(offsets), start + offsets.to(self.keys.device)
        self.keys[:, :, :, start:end] = self.keys[:, :, :, kept]
        self.values[:, :, :, start:end] = self.values[:, :, :, kept]
        self.length = end


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, Zhang and Sennrich (2019), eq. 4. Statistics in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)"""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotary_angles(config: Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, Su et al. (2021), eq. 15: each (B or 1, 1, T, head_dim).

    positions: (B or 1, T) integers. The second half of the last axis repeats the first.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
    angles = positions[:, None, :, None].float() * (1.0 / config.rope_theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + head_dim/2}) of queries or keys (B, heads, T, head_dim) by its angle."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention, Ainslie et al. (2023): each key/value head serves several query heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, shared = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """x (B, T, hidden) -> (B, T, hidden). mask: None for causal, else (B or 1, 1, T, S) where True may be seen."""
        batch, length, _ = x.shape

        def heads(projection: nn.Linear) -> Tensor:
            return projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, heads, T, head_dim)

        q, k, v = rotate(heads(self.q_proj), *rotary), rotate(heads(self.k_proj), *rotary), heads(self.v_proj)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        causal = mask is None and length > 1
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU, Shazeer (2020), eq. 6: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)"""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm layer: the residual stream plus attention, plus the MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """(B, T, hidden) -> (B, T, hidden); arguments as in Attention."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def initialize(self, std: float = 0.02) -> Self:
        """Fresh weights, normal with this standard deviation, as for training from nothing."""
        draw_weights(self, std)
        return self

    @classmethod
    def load(cls, folder: str | Path) -> "Transformer":
        """The decoder of a folder that transformers saved, with config.json and *.safetensors, in evaluation mode.

        FileNotFoundError where one of them is not there, ValueError as from `Config.of` and `load_weights`.
        """
        from safetensors.torch import load_file
        from transformers import AutoConfig

        files = sorted(Path(folder).glob("*.safetensors"))
        if not files or not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"{folder} is no checkpoint: it needs config.json and *.safetensors")
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        try:
            return cls(Config.of(AutoConfig.from_pretrained(folder))).load_weights(weights).eval()
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def load_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Copy a checkpoint's tensors in, by the names of transformers' Llama, with "model." in front or without.

        A tied output matrix may be left out or repeated; rotary frequencies of old checkpoints are passed over.
        ValueError, before anything is copied, that names what is missing, unknown, of another shape or not a number.
        """
        given = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        given = {name: tensor for name, tensor in given.items() if not name.endswith("rotary_emb.inv_freq")}
        own = dict(self.named_parameters())  # a tied output matrix stands here once, as embed_tokens.weight
        faults = []
        if self.config.tie_word_embeddings and (output := given.pop("lm_head.weight", None)) is not None:
            embedding = given.setdefault("embed_tokens.weight", output)
            if embedding.shape != output.shape or not torch.equal(embedding, output):
                faults.append("lm_head.weight differs from embed_tokens.weight, though tie_word_embeddings is set")
        faults += _listed("missing", [f"{name} {tuple(own[name].shape)}" for name in own if name not in given])
        faults += _listed("unknown", [f"{name} {tuple(given[name].shape)}" for name in given if name not in own])
        both = [name for name in own if name in given]
        misshapen = [
            f"{name} is {tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
            for name in both
            if given[name].shape != own[name].shape
        ]
        faults += _listed("misshapen", misshapen)
        if not faults:  # the one check that reads every number
            faults = _listed("not finite", [name for name in both if not given[name].isfinite().all()])
        if faults:
            raise ValueError("the checkpoint does not fit the decoder. " + ". ".join(faults))
        with torch.no_grad():
            for name in both:
                own[name].copy_(given[name])
        return self

    @classmethod
    def view(cls, model: nn.Module) -> "Transformer":
        """The same network over the very modules of a transformers model of the Llama family (no weight is copied).

        What trains or adapts that model (LoRA layers included) is seen here at once. A Transformer is returned as is.
        """
        from transformers.initialization import no_init_weights

        if isinstance(model, Transformer):
            return model
        causal_lm: Any = model
        if hasattr(causal_lm, "get_base_model"):
            causal_lm = causal_lm.get_base_model()
        with torch.device("meta"), no_init_weights():  # a skeleton: nothing is drawn, nothing allocated
            ours = cls(Config.of(causal_lm.config))
        theirs = causal_lm.model
        ours.embed_tokens, ours.lm_head = theirs.embed_tokens, causal_lm.lm_head
        ours.norm.weight = theirs.norm.weight
        for block, other in zip(cast(Iterable[Any], ours.layers), theirs.layers, strict=True):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(block.self_attn, name, getattr(other.self_attn, name))
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(block.mlp, name, getattr(other.mlp, name))
            block.input_layernorm.weight = other.input_layernorm.weight
            block.post_attention_layernorm.weight = other.post_attention_layernorm.weight
        return ours.train(model.training)

    def cache(self, batch: int, capacity: int) -> KVCache:
        """An empty KV cache for `batch` sequences of at most `capacity` positions."""
        weight = self.norm.weight
        dtype = torch.get_autocast_dtype(weight.device.type) if torch.is_autocast_enabled(weight.device.type) else None
        return KVCache(self.config, batch, capacity, weight.device, dtype or weight.dtype)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        tree: Tensor | None = None,
    ) -> Tensor:
        """The last layer's normalized states, (B, T, hidden).

        input_ids: (B, T) new tokens. attention_mask: (B, S), 1 for a token and 0 for padding on either side, over
        all S positions, those in the cache first; positions count the tokens that are not padding.
        tree: (T, T) or (B, T, T), where the new tokens are branches of a tree: True where the row's token sees the
        column's, which is itself or one of its ancestors. As many ancestors, as many positions after the cached ones.
        """
        batch, length = input_ids.shape
        past = cache.length if cache is not None else 0
        if past + length > self.config.max_position_embeddings:
            cached = f" ({past} in the cache, {length} new)" if past else ""
            raise ValueError(
                f"{past + length} tokens exceed the model's context of {self.config.max_position_embeddings}{cached}: "
                f"those from position {self.config.max_position_embeddings} on have no place; shorten the text"
            )
        mask: Tensor | None
        if tree is not None:
            if attention_mask is not None or tree.shape[-2:] != (length, length):
                raise ValueError(f"a tree of {length} tokens needs a ({length}, {length}) mask and no attention_mask")
            tree = tree.to(input_ids.device, torch.bool).view(-1, length, length)
            positions = past + tree.sum(-1) - 1
            mask = torch.cat([tree.new_ones(len(tree), length, past), tree], dim=-1)[:, None]
        elif attention_mask is None:
            positions = torch.arange(past, past + length, device=input_ids.device)[None]
            mask = None if past == 0 or length == 1 else _causal(past, length, input_ids.device)[None, None]
        else:
            if attention_mask.shape != (batch, past + length):
                raise ValueError(
                    f"attention_mask is {tuple(attention_mask.shape)}; expected {(batch, past + length)}: a column for "
                    "each cached and each new position"
                )
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
            # A padding query sees itself, so that its softmax is over something; nobody sees it.
            mask = attention_mask.bool()[:, None, :] & _causal(past, length, input_ids.device)
            mask = (mask | _itself(past, length, input_ids.device))[:, None]
        return self.states(self.embed_tokens(input_ids), positions, mask, cache)

    def states(self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """The last layer's normalized states, (B, T, hidden), of inputs that are vectors already: x (B, T, hidden).

        So an image's patches stand among tokens, and another mask makes another architecture. positions: (B or 1, T),
        by which queries and keys are turned; where all are 0, nothing is. mask: None for causal, else (B or 1, 1 or
        heads, T, S): True where a row may see a column, or numbers that are added to the scores.
        """
        rotary = rotary_angles(self.config, positions)
        for layer, block in enumerate(self.layers):
            x = block(x, rotary, mask, cache, layer)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Next-token logits (B, T, vocab); arguments as in `hidden`."""
        return self.lm_head(self.hidden(input_ids, attention_mask, cache))


def draw_weights(network: nn.Module, std: float) -> None:
    """Every matrix and embedding of a network anew, normal with this standard deviation; norms stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)


def _listed(what: str, names: list[str], most: int = 8) -> list[str]:
    """One sentence of an error with the first names, or none where there are no names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{what}: {', '.join(names[:most])}{more}"] if names else []


def _causal(past: int, length: int, device: torch.device) -> Tensor:
    """(length, past + length): which positions each new token may see, itself included."""
    return torch.arange(past + length, device=device) <= torch.arange(past, past + length, device=device)[:, None]


def _itself(past: int, length: int, device: torch.device) -> Tensor:
    """(length, past + length): each new token's own position."""
    return torch.arange(past + length, device=device) == torch.arange(past, past + length, device=device)[:, None]
