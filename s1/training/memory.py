"""Bytes that a training takes: on one worker by component, on a node at load, in a checkpoint. Pure arithmetic.

The formulas count what the loop of this project allocates. P parameters, L layers, h hidden size, i intermediate size,
V vocabulary, T tokens of a forward pass on one worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s1.training.shapes import ModelShape

GIB = 2**30

# DeepSpeed's own defaults: parameters that ZeRO-3 keeps gathered and that it updates at a time, numbers that it reduces
# at a time, if so many are trained.
MAX_LIVE_PARAMETERS = 1_000_000_000
SUB_GROUP = 1_000_000_000
REDUCE_BUCKET = 500_000_000
# That many keep a large GPU's links busy. On CPUs this is set instead: a bucket that is larger than a small model costs
# a second copy of its gradients, written to fresh memory every step.
CPU_REDUCE_BUCKET = 20_000_000
# CUDA context, NCCL buffers, fragmentation.
RUNTIME_BYTES = 1.8 * GIB
# Copies of the hidden states while the head works on them: before and after the last norm, of the positions that count,
# and the gradients of these.
HIDDEN_COPIES = 4


@dataclass(frozen=True)
class Run:
    """The part of a training that decides about memory and time."""

    shape: ModelShape
    workers: int
    zero_stage: Literal[1, 2, 3]
    precision: Literal["bf16", "fp32"]
    attention: str
    activation_checkpointing: bool
    loss_chunk_tokens: int
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    packing: bool = False
    sequence_parallel: int = 1
    secondary_shards: int = 1
    recompute_above_tokens: int | None = None
    offload_activations: bool = False
    save_in_background: bool = False
    lora_rank: int = 0
    on_cpu: bool = False

    def recomputes(self, pass_tokens: int) -> bool:
        """Whether the activations of a pass of `pass_tokens` are computed again instead of kept."""
        above = self.recompute_above_tokens
        return self.activation_checkpointing or (above is not None and pass_tokens > above)

    @property
    def num_groups(self) -> int:
        """Workers, or groups of workers, that work on sequences of their own."""
        return self.workers // self.sequence_parallel

    @property
    def num_trained(self) -> int:
        """Parameters with gradients and optimiser states."""
        return self.shape.lora_parameters(self.lora_rank) if self.lora_rank else self.shape.num_parameters

    @property
    def num_weights(self) -> int:
        """Parameters, those that LoRA adds among them."""
        return self.shape.num_parameters + (self.num_trained if self.lora_rank else 0)

    def flops(self, length: int) -> float:
        """Floating point operations of one sequence, without recomputation."""
        return self.shape.flops(length, self.lora_rank)

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return 2 if self.precision == "bf16" else 4


def states(run: Run) -> dict[str, float]:
    """Bytes of weights, gradients and optimiser on one worker: 16 a parameter in all, shared as ZeRO shares them.

    Weights that LoRA leaves as they are have neither gradients nor optimiser states.
    """
    shared = 1 / run.workers
    return {
        "weights": run.num_weights * run.width * (shared if run.zero_stage == 3 else 1),
        "gradients": run.num_trained * run.width * (shared if run.zero_stage >= 2 else 1),
        "optimizer": run.num_trained * 12 * shared,  # 32-bit master weights and the two moments
    }


def reduce_bucket(num_trained: int, *, on_cpu: bool) -> int:
    """Numbers of a bucket in which DeepSpeed collects gradients; it makes one whatever the number of workers."""
    return min(num_trained, CPU_REDUCE_BUCKET if on_cpu else REDUCE_BUCKET)


def step_gradients(run: Run) -> float:
    """Bytes of what the optimiser makes of its share of the gradients, when the activations are gone: all of them in a
    row, and from these 32-bit ones, if they are not that already.

    ZeRO-3 makes them for one group of parameters at a time.
    """
    share = run.num_trained / run.workers
    width = 4 if run.precision == "fp32" else run.width + 4
    return width * (min(share, SUB_GROUP) if run.zero_stage == 3 else share)


def _layer_bytes(run: Run, longest_tokens: int) -> int:
    """Activations that one layer keeps for its backward pass, per token of sequences of `longest_tokens`."""
    shape = run.shape
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 4 * shape.hidden * run.width  # what goes into the two of them and what comes out
    if run.sequence_parallel > 1 and shape.kv_heads % run.sequence_parallel:
        kv = q  # every head of queries gets keys and values of its own
    # Rotated q and k, v, the output, and in a pack of several sequences theirs in a row.
    attention = ((3 if run.packing else 2) * q + 2 * kv) * run.width
    # Scores, their softmax in 32 bits and its copy: kernels other than `eager` compute them again.
    scores = shape.heads * longest_tokens * (4 + 2 * run.width) if run.attention == "eager" else 0
    return norms + attention + scores + 3 * shape.intermediate * run.width  # gate, up, their product


def _layer_input(run: Run, tokens: int) -> int:
    """What activation checkpointing keeps of one layer for `tokens` on a worker."""
    return run.shape.hidden * run.width * tokens


def _head_bytes(run: Run, tokens: int) -> int:
    """What the head and the loss take (s1/training/head.py) for `tokens` on a worker, of which all may count.

    A logit exists in the weights' precision and in 32 bits; the gradient of the head's weight is made beside that of
    the passes before.
    """
    shape = run.shape
    logits = min(tokens, run.loss_chunk_tokens) * shape.vocabulary * (run.width + 4)
    hidden = HIDDEN_COPIES * shape.hidden * run.width * tokens
    return logits + hidden + _head_gradient(run)


def _backward_bytes(run: Run, tokens: int) -> int:
    """What the backward pass makes beside a layer's activations: most in its MLP, whose product is gone by then.

    Where the head's weight is the embedding's, its gradient waits for the end of the pass.
    """
    mlp = 2 * run.shape.intermediate * run.width * tokens
    return mlp + (_head_gradient(run) if run.shape.tied else 0)


def _head_gradient(run: Run) -> int:
    return 0 if run.lora_rank else run.shape.vocabulary * run.shape.hidden * run.width


def host_bytes_in_steps(run: Run, per_node: int, pass_tokens: int) -> float:
    """Host memory of a node that holds offloaded activations, and the states while a checkpoint is written."""
    workers = min(per_node, run.workers)
    tokens = -(-pass_tokens // run.sequence_parallel)
    activations = workers * run.shape.layers * _layer_input(run, tokens) if run.offload_activations else 0
    return activations + (checkpoint_bytes(run) * workers / run.workers if run.save_in_background else 0.0)


def components(run: Run, pass_tokens: int, longest_tokens: int) -> dict[str, float]:
    """Bytes of one worker at its peak, by component.

    `pass_tokens` is the most that a forward pass of a worker (with sequence parallelism: of a group of workers) holds,
    padding included; `longest_tokens` the longest sequence in it.
    """
    tokens = -(-pass_tokens // run.sequence_parallel)
    layer = _layer_bytes(run, longest_tokens) * tokens
    if run.recomputes(pass_tokens):
        kept = (1 if run.offload_activations else run.shape.layers) * _layer_input(run, tokens)
    else:
        kept, layer = run.shape.layers * layer, 0
    head, backward = _head_bytes(run, tokens), layer + _backward_bytes(run, tokens)
    parameters = run.num_weights
    sharded = run.zero_stage == 3 and run.workers > 1
    found = {
        **states(run),
        "gathered": float(run.width * min(parameters, MAX_LIVE_PARAMETERS)) if sharded else 0.0,
        "secondary shard": run.width * parameters / run.secondary_shards if run.secondary_shards > 1 else 0.0,
        # ZeRO-3 puts the gradients of a bucket in another order, worker by worker, before it reduces them.
        "buckets": float(run.width * reduce_bucket(run.num_trained, on_cpu=run.on_cpu)) * (2 if sharded else 1),
        "activations": float(kept),
        # The logits are gone when the backward pass comes to its first layer.
        "logits": float(max(0, head - backward)),
        "backward pass of a layer": float(backward),
        "runtime": RUNTIME_BYTES,
    }
    passing = found["activations"] + found["logits"] + found["backward pass of a layer"]
    if run.zero_stage < 3:
        passing += found["buckets"]  # ZeRO-3 keeps its bucket
    found["optimizer step"] = max(0.0, step_gradients(run) - passing)
    return found


def peak_gib(run: Run, pass_tokens: int, longest_tokens: int) -> float:
    """GiB of one worker at its peak."""
    return sum(components(run, pass_tokens, longest_tokens).values()) / GIB


def host_bytes_at_load(run: Run, per_node: int) -> float:
    """Host memory of a node while the model is loaded.

    Under ZeRO-3 the first worker reads the files of the whole model (2 bytes a parameter) and hands every layer out;
    otherwise each worker of the node holds a copy in the training's precision.
    """
    parameters = run.shape.num_parameters
    return 2.0 * parameters if run.zero_stage == 3 else run.width * parameters * float(min(per_node, run.workers))


def checkpoint_bytes(run: Run) -> float:
    """All shards of a checkpoint together: weights, master weights and two moments of what is trained."""
    return run.num_trained * (run.width + 12.0)


def export_bytes(run: Run) -> float:
    """The finished model in bf16."""
    return 2.0 * run.shape.num_parameters


def disk_bytes(run: Run, checkpoints: int) -> tuple[float, float]:
    """Most that the run folder holds of a training: usually, and when another number of workers goes on with it.

    `checkpoints`: how many it writes. One is removed when the next one is committed, the last one when the exported
    model is. For another number of workers it is rewritten: 12 bytes a number, of which there are two copies while they
    are put together, and which stay until the next checkpoint is committed.
    """
    if not checkpoints:
        return export_bytes(run), export_bytes(run)
    shards, rewritten = checkpoint_bytes(run), 12.0 * run.num_trained
    usual = shards + (export_bytes(run) if checkpoints == 1 else max(shards, export_bytes(run)))
    return usual, max(usual, shards + rewritten + max(rewritten, shards, export_bytes(run)))
