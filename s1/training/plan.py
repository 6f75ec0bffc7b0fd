"""What a training would need: memory of one worker by component, hours, dollars. Pure arithmetic; nothing is started.

The formulas count what the loop of this project allocates. Sizes are in bytes until they are printed; P parameters,
L layers, h hidden size, i intermediate size, V vocabulary, T tokens of the longest sequence in a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from s1.errors import UserError

GIB = 2**30

# DeepSpeed's own defaults: parameters that ZeRO-3 keeps gathered, elements of the reduction bucket.
MAX_LIVE_PARAMETERS = 1_000_000_000
REDUCE_BUCKET = 500_000_000
# CUDA context, NCCL buffers, fragmentation.
RUNTIME_BYTES = 1.8 * GIB
# A logit exists in bf16, in 32 bits and as a 32-bit gradient.
LOGIT_BYTES = 10


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama or Qwen2 kind."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False

    @property
    def num_parameters(self) -> int:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * q + 2 * kv) + (q + 2 * kv if self.qkv_bias else 0)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden


def _qwen(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = False):
    return ModelShape(layers, hidden, intermediate, heads, kv_heads, 128, vocabulary, tied, qkv_bias=True)


# Models of the recipe, so that they can be planned without a connection.
KNOWN: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-32B-Instruct": _qwen(64, 5120, 27648, 40, 8, 152064),
    "Qwen/Qwen2.5-14B-Instruct": _qwen(48, 5120, 13824, 40, 8, 152064),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 18944, 28, 4, 152064),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(36, 2048, 11008, 16, 2, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(28, 1536, 8960, 12, 2, 151936, tied=True),
    "embedded:smollm2-135m-instruct": ModelShape(30, 576, 1536, 9, 3, 64, 49152, tied=True),
}


def shape_from_config(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a `config.json` describes. UserError when it is of another kind."""
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
            qkv_bias=config.get("model_type") == "qwen2",
        )
    except KeyError as error:
        raise UserError(
            f"{where}: config.json has no {error}; only Llama- and Qwen2-like models can be planned"
        ) from error


@dataclass(frozen=True)
class Run:
    """The part of a training that decides about memory and time."""

    shape: ModelShape
    workers: int
    zero_stage: Literal[1, 2, 3]
    precision: Literal["bf16", "fp32"]
    micro_batch_size: int
    micro_batch_tokens: int | None
    attention: str
    activation_checkpointing: bool
    loss_chunk_tokens: int


def states(run: Run) -> dict[str, float]:
    """Bytes of weights, gradients and optimiser on one worker: 16 a parameter in all, shared as ZeRO shares them."""
    parameters = run.shape.num_parameters
    width = 2 if run.precision == "bf16" else 4
    shared = 1 / run.workers
    return {
        "weights": parameters * width * (shared if run.zero_stage == 3 else 1),
        "gradients": parameters * width * (shared if run.zero_stage >= 2 else 1),
        "optimizer": parameters * 12 * shared,  # 32-bit master weights and the two moments
    }


def _layer_bytes(run: Run, longest_tokens: int) -> int:
    """Activations that one layer keeps for its backward pass, per token of sequences of `longest_tokens`."""
    shape = run.shape
    width = 2 if run.precision == "bf16" else 4
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    residual_and_norms = 4 * shape.hidden * width + 2 * 2 * shape.hidden * 4  # norms are computed in 32 bits
    attention = (2 * q + 3 * kv + q) * width  # q and k before and after the rotation, v, the output
    # Scores, their softmax in 32 bits and its copy: kernels other than `eager` compute them again.
    scores = shape.heads * longest_tokens * (4 + 2 * width) if run.attention == "eager" else 0
    return residual_and_norms + attention + scores + 4 * shape.intermediate * width


def memory(run: Run, longest_tokens: int) -> dict[str, float]:
    """Bytes of one worker at its peak, by component, when the longest sequence has `longest_tokens`."""
    width = 2 if run.precision == "bf16" else 4
    tokens = longest_tokens * run.micro_batch_size
    if run.micro_batch_tokens is not None:
        tokens = max(longest_tokens, min(tokens, run.micro_batch_tokens))
    layer = _layer_bytes(run, longest_tokens) * tokens
    logits = min(tokens, run.loss_chunk_tokens) * run.shape.vocabulary * LOGIT_BYTES
    if run.activation_checkpointing:
        kept = run.shape.layers * run.shape.hidden * width * tokens
    else:
        kept, layer = run.shape.layers * layer, 0.0
    parameters = run.shape.num_parameters
    several = run.workers > 1
    return {
        **states(run),
        "gathered": width * min(parameters, MAX_LIVE_PARAMETERS) if run.zero_stage == 3 and several else 0.0,
        "buckets": width * min(parameters, REDUCE_BUCKET) if several else 0.0,
        "activations": float(kept),
        # The logits are gone when the backward pass recomputes its first layer.
        "logits": max(0.0, logits - layer),
        "recomputed layer": float(layer),
        "runtime": RUNTIME_BYTES,
    }


def flops(run: Run, tokens: float, mean_tokens: float) -> float:
    """Floating point operations of a forward and backward pass over `tokens`, in sequences of `mean_tokens`."""
    attention = 6 * run.shape.layers * run.shape.heads * run.shape.head_dim * mean_tokens  # causal: half of 12
    return tokens * (6 * run.shape.num_parameters + attention)
