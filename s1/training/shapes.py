"""Shapes of decoder models, for everything that can be computed about them without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s1.errors import UserError


@dataclass(frozen=True)
class ModelShape:
    """A decoder of one of the kinds in PLANNED."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False  # of queries and keys, per head dimension

    @property
    def num_parameters(self) -> int:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * q + 2 * kv) + (q + 2 * kv if self.qkv_bias else 0)
        attention += 2 * self.head_dim if self.qk_norm else 0
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Parameters of the updates of `rank` that LoRA trains, two matrices for each of a layer's linear maps."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        maps = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        maps += [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return self.layers * rank * sum(map(sum, maps))

    def flops(self, length: int, lora_rank: int = 0) -> float:
        """Floating point operations of a forward and backward pass over one sequence of `length` tokens.

        6 per trained parameter and token, 4 per frozen one, which needs no gradient; and causal attention: half of 12
        per token, earlier token, layer and head dimension.
        """
        weights = (
            4 * self.num_parameters + 6 * self.lora_parameters(lora_rank) if lora_rank else 6 * self.num_parameters
        )
        return weights * length + 6 * self.layers * self.heads * self.head_dim * length**2


def _qwen(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = False):
    return ModelShape(layers, hidden, intermediate, heads, kv_heads, hidden // heads, vocabulary, tied, qkv_bias=True)


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int, tied: bool = False):
    return ModelShape(layers, hidden, intermediate, heads, 8, 128, 151936, tied, qk_norm=True)


# Models of the recipe and their nearest relatives, so that they can be planned without a connection.
KNOWN: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-32B-Instruct": _qwen(64, 5120, 27648, 40, 8, 152064),
    "Qwen/Qwen2.5-32B": _qwen(64, 5120, 27648, 40, 8, 152064),
    "Qwen/Qwen2.5-14B-Instruct": _qwen(48, 5120, 13824, 40, 8, 152064),
    "Qwen/Qwen2.5-14B": _qwen(48, 5120, 13824, 40, 8, 152064),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 18944, 28, 4, 152064),
    "Qwen/Qwen2.5-7B": _qwen(28, 3584, 18944, 28, 4, 152064),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(36, 2048, 11008, 16, 2, 151936, tied=True),
    "Qwen/Qwen2.5-3B": _qwen(36, 2048, 11008, 16, 2, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(28, 1536, 8960, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(24, 896, 4864, 14, 2, 151936, tied=True),
    "Qwen/Qwen3-32B": _qwen3(64, 5120, 25600, 64),
    "Qwen/Qwen3-14B": _qwen3(40, 5120, 17408, 40),
    "Qwen/Qwen3-8B": _qwen3(36, 4096, 12288, 32),
    "Qwen/Qwen3-4B": _qwen3(36, 2560, 9728, 32, tied=True),
    "embedded:smollm2-135m-instruct": ModelShape(30, 576, 1536, 9, 3, 64, 49152, tied=True),
}


# Values of `model_type` whose layers are those of ModelShape: an attention with weights for q, k, v and o, a gated MLP
# with gate, up and down. Others use the same keys for other layers: fused weights, experts, further norms.
PLANNED = ("llama", "mistral", "qwen2", "qwen3")


def shape_from_config(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a `config.json` describes. UserError when it is of another kind."""
    kind = config.get("model_type")
    if kind not in PLANNED:
        raise UserError(
            f"{where}: models of the kind {kind} can be trained, but not planned; planned are {', '.join(PLANNED)}"
        )
    try:
        heads = int(config["num_attention_heads"])
        return ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
        )
    except KeyError as error:
        raise UserError(f"{where}: config.json has no {error}; give the complete configuration of a model") from error
