"""Options of the training, what makes them impossible, and what the planner says about them. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jobs import train_sizes
from s1 import models, precision
from s1.config import Config
from s1.errors import UserError
from s1.template import STYLES, Style
from s1.training.hardware import DEVICES, Hardware
from s1.training.memory import Run
from s1.training.plan import Training
from s1.training.shapes import KNOWN, ModelShape, shape_from_config

# Kinds of models whose sequences are proven not to see each other in a pack, in tests/integration/training
# (test_training_attention.py).
PACKABLE = ("llama", "qwen2", "qwen3")
# Options that change how the model is trained, not which model comes out: losses and weights are equal to rounding.
# `precision` counts by the number type that it means.
HOW = (
    *("workers", "min_workers", "gpus_per_worker", "cpus_per_worker", "threads_per_worker", "max_failures"),
    *("micro_batch_size", "micro_batch_tokens", "packing", "sequence_parallel", "secondary_shards", "attention"),
    *("activation_checkpointing", "recompute_above_tokens", "offload_activations", "loss_chunk_tokens"),
    *("samples", "sample_tokens", "spike_factor", "save_steps", "save_in_background", "hardware", "ignore_plan"),
    *("trackers", "precision"),
)


class TrainOptions(Config):
    """Supervised fine-tuning on the selected traces."""

    model: str = Field(
        "embedded:smollm2-135m-instruct", description="Model to start from: embedded:…, folder or hub id."
    )
    template: Style = Field("s1", description="Delimiters of the thinking: s1 (ChatML) or think-tags.")
    epochs: int = Field(5, ge=1, description="Passes over the selection.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps.")
    batch_size: int = Field(16, ge=1, description="Examples per optimiser step, over all workers.")
    micro_batch_size: int = Field(1, ge=1, description="Examples per worker and forward pass.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens per worker and pass, padding included; with packing, block_size by default.",
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate; linear warm-up, then a cosine to 0.")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of the steps used for the warm-up.")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the gradient norm to this; 0: no clipping.")
    block_size: int = Field(32768, ge=2, description="Longest example, in tokens. Traces are never cut.")
    too_long: Literal["error", "drop"] = Field(
        "error", description="What to do with an example longer than block_size."
    )
    seed: int = Field(0, ge=0, description="Seed of the order of the data.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="bf16 keeps 32-bit master weights in the optimiser; auto: bf16, or fp32 on CPUs without bf16 "
        "instructions.",
    )
    zero_stage: Literal[1, 2, 3] = Field(
        1, description="What DeepSpeed shards: 1 optimiser, 2 also gradients, 3 also weights."
    )
    packing: bool = Field(False, description="Put the sequences of a pass end to end instead of padding them.")
    sequence_parallel: int = Field(1, ge=1, description="Number of workers of a node that share every packed sequence.")
    secondary_shards: int = Field(
        1, ge=1, description="ZeRO-3: number of workers that keep a copy of the weights among them, for slow links."
    )
    lora_rank: int = Field(
        0,
        ge=0,
        description="Train an update of this rank (LoRA) beside frozen weights and add it into them at the end; 0: "
        "train all weights.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_3"] = Field(
        "sdpa",
        description="sdpa: torch's own kernels, FlashAttention 2 on GPUs; flash_attention_3: those of the package "
        "flash_attn_3, for H100 and H200; eager: the fastest for short sequences on CPUs.",
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    recompute_above_tokens: int | None = Field(
        None,
        ge=0,
        description="Recompute them only in passes of more tokens than this (per worker, or group of workers).",
    )
    offload_activations: bool = Field(False, description="Keep the checkpointed activations in host memory.")
    loss_chunk_tokens: int = Field(4096, ge=1, description="Number of positions whose logits are in memory at a time.")
    held_out: int = Field(0, ge=0, description="Examples to hold out; their loss is computed every epoch.")
    samples: int = Field(0, ge=0, description="Held-out questions for the model to answer after every epoch.")
    sample_tokens: int = Field(256, ge=1, description="Most tokens of such an answer, thinking included.")
    spike_factor: float = Field(
        4.0, ge=0, description="Stop at a loss this many times the median of the last 20 steps; 0: never."
    )
    workers: int = Field(1, ge=1, description="Number of training workers.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="If not all workers are available, train with fewer, at least this many, that share a batch "
        "equally.",
    )
    gpus_per_worker: int = Field(0, ge=0, le=1)
    cpus_per_worker: float = Field(1.0, gt=0, description="Logical CPUs that Ray reserves for a worker.")
    threads_per_worker: int = Field(2, ge=1, description="Threads of torch per worker.")
    save_steps: int = Field(20, ge=0, description="Steps between checkpoints; 0: none, a killed run starts over.")
    save_in_background: bool = Field(
        True, description="Write checkpoints from a copy in host memory while the training continues."
    )
    max_failures: int = Field(3, ge=0, description="Number of lost workers that a run survives.")
    hardware: Hardware = Field(
        default_factory=lambda: Hardware.model_validate({}), description="What a worker runs on, for the plan."
    )
    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field((), description="Where to report besides TensorBoard.")
    ignore_plan: bool = Field(False, description="Start even if the plan says that memory or disk space is not enough.")

    @property
    def number_type(self) -> Literal["bf16", "fp32"]:
        """What `precision` means here."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if precision.resolve("auto", gpu=self.gpus_per_worker > 0) == "bfloat16" else "fp32"


def check(options: TrainOptions) -> None:
    """What can be seen without starting anything: sizes that fit each other, the model, its tokenizer's delimiters."""
    models.check(options.model)
    file = Path(options.model).expanduser() / "config.json"
    if options.model and file.is_file():  # else a model of the hub or an embedded one
        configuration(file)
    _check_tokenizer(options)
    _check_device(options)
    _check_parallel(options)
    if options.offload_activations and not options.activation_checkpointing:
        raise UserError(
            "offload_activations keeps checkpointed activations on the host; add --activation-checkpointing"
        )
    if options.samples > options.held_out:
        raise UserError(f"samples={options.samples} are drawn from held_out={options.held_out} examples; hold out more")
    if options.packing:
        _check_packing(options)
    if options.attention == "flash_attention_3" and not (options.gpus_per_worker and options.number_type == "bf16"):
        raise UserError(
            f"attention=flash_attention_3 needs GPUs and bf16, not gpus_per_worker={options.gpus_per_worker} and "
            f"{options.number_type}; take sdpa"
        )
    if options.attention == "flash_attention_3" and find_spec("flash_attn_interface") is None:
        raise UserError(
            "attention=flash_attention_3: the package flash_attn_3 is not installed; install it, or take sdpa, which "
            "is FlashAttention 2 on GPUs"
        )
    for name in options.trackers:
        if find_spec(name) is None:
            raise UserError(f"trackers={name}: the package is not installed; run: pip install {name}")


def _check_packing(options: TrainOptions) -> None:
    """Refuse what would let the sequences of a pack see each other."""
    if options.attention == "eager":
        raise UserError(
            "packing with attention=eager would let a sequence see the one before it: only torch's attention is called "
            "once per sequence; use attention=sdpa"
        )
    file = Path(options.model).expanduser() / "config.json"
    if not file.is_file():
        return  # a model of the hub or an embedded one: looked at when it is there
    check_packable(options.model, configuration(file))


def check_packable(ref: str, config: Mapping[str, Any]) -> None:
    """UserError for a kind of model that may mix the sequences of a pack, by a state or a window over the whole row."""
    kind = config.get("model_type")
    layers = set(config.get("layer_types") or ["full_attention"])
    if kind not in PACKABLE or layers != {"full_attention"} or config.get("use_sliding_window"):
        raise UserError(
            f"{ref}: packing is tested for full attention in models of the kinds {', '.join(PACKABLE)}, not for {kind} "
            f"with {', '.join(sorted(layers))}; leave out packing"
        )


def _check_device(options: TrainOptions) -> None:
    """Workers on what the plan and the bill take them to be on."""
    device, gpus = options.hardware.device, options.gpus_per_worker
    if device != "cpu" and not gpus:
        raise UserError(
            f"hardware.device={device} with gpus_per_worker=0: the workers would train on CPUs but be planned and "
            f"billed as {device}; set gpus_per_worker=1, or hardware.device=cpu"
        )
    if device == "cpu" and gpus:
        known = ", ".join(name for name in DEVICES if name != device)
        raise UserError(
            f"gpus_per_worker={gpus} with hardware.device=cpu: the workers would train on GPUs but be planned and "
            f"billed as CPUs; set hardware.device to the nearest of {known}, or gpus_per_worker=0"
        )


def _check_parallel(options: TrainOptions) -> None:
    """Workers, groups of workers and heads that fit each other."""
    size, shards = options.sequence_parallel, options.secondary_shards
    if size > 1 and not options.packing:
        raise UserError(f"sequence_parallel={size} divides packed sequences; add --packing")
    train_sizes.check(options)
    if shards > 1 and options.zero_stage != 3:
        raise UserError(f"secondary_shards={shards} needs zero_stage=3, not {options.zero_stage}")
    known = known_shape(options.model)
    if known is not None:  # else it is looked at when the model is there
        check_heads(options, known)


def check_heads(options: TrainOptions, of: ModelShape) -> None:
    """UserError when the workers that share a sequence cannot share the model's attention heads."""
    size = options.sequence_parallel
    if of.heads % size:
        raise UserError(
            f"sequence_parallel={size}: the {of.heads} attention heads of {options.model} are not divisible by it; "
            f"use one of {', '.join(str(n) for n in range(1, of.heads + 1) if of.heads % n == 0)}"
        )


def check_configuration(options: TrainOptions, config: Mapping[str, Any], of: ModelShape | None) -> None:
    """Refuse a model that changes its logits after the head, where the loss does not look, or cannot be divided."""
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if config.get(name) not in (None, 1, 1.0):
            raise UserError(f"{options.model}: {name}={config[name]} is not supported; choose a model without it")
    if options.packing:
        check_packable(options.model, config)
    if of is not None:
        check_heads(options, of)


def check_hub(options: TrainOptions) -> None:
    """What only the hub can say, before anything is started: that it has the model, and the model can be trained so.

    It is asked for the configuration alone, and only for that of a model that is not known.
    """
    if models.is_on_hub(options.model) and known_shape(options.model) is None:
        config = configuration(models.config_file(options.model))
        check_configuration(options, config, _shape_or_none(config))


def known_shape(ref: str) -> ModelShape | None:
    """Shape of the model `ref`, as far as it can be seen here; nobody is asked for it."""
    file = Path(ref).expanduser() / models.CONFIG
    if ref and file.is_file():
        return _shape_or_none(configuration(file))
    return KNOWN.get(ref.partition("@")[0])


def shape(ref: str) -> ModelShape:
    """Shape of the model `ref`, without its weights; the hub is asked for the configuration of one that is not known.

    UserError when there is no such model, or it is of a kind that is not planned.
    """
    return known_shape(ref) or shape_from_config(configuration(models.config_file(ref)), ref)


def _shape_or_none(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a configuration describes; None: it is of a kind that is trained, but not planned or counted."""
    try:
        return shape_from_config(config, "")
    except UserError:
        return None


def configuration(file: Path) -> dict[str, Any]:
    """A model's config.json. UserError when it is not there or no configuration."""
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{file}: not the configuration of a model ({error}); give a folder in Hugging Face layout"
        ) from error


def planned(options: TrainOptions, lengths: Sequence[int], of: ModelShape) -> Training:
    """What the planner is asked about `options` on examples of `lengths` and a model of shape `of`."""
    return Training(
        run=Run(
            shape=of,
            workers=options.workers,
            zero_stage=options.zero_stage,
            precision=options.number_type,
            attention=options.attention,
            activation_checkpointing=options.activation_checkpointing,
            recompute_above_tokens=options.recompute_above_tokens,
            offload_activations=options.offload_activations,
            loss_chunk_tokens=options.loss_chunk_tokens,
            batch_size=options.batch_size,
            micro_batch_size=options.micro_batch_size,
            micro_batch_tokens=options.micro_batch_tokens,
            packing=options.packing,
            sequence_parallel=options.sequence_parallel,
            secondary_shards=options.secondary_shards,
            save_in_background=options.save_in_background and options.save_steps > 0,
            lora_rank=options.lora_rank,
            on_cpu=options.hardware.device == "cpu",
        ),
        hardware=options.hardware,
        lengths=tuple(lengths),
        block_size=options.block_size,
        epochs=options.epochs,
        max_steps=options.max_steps,
        warmup_ratio=options.warmup_ratio,
        save_steps=options.save_steps,
        seed=options.seed,
        samples=options.samples,
        sample_tokens=options.sample_tokens,
    )


def _check_tokenizer(options: TrainOptions) -> None:
    file = Path(options.model).expanduser() / "tokenizer.json"
    if options.template != "s1" or not file.is_file():
        return
    try:
        added = {token["content"] for token in json.loads(file.read_text())["added_tokens"]}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{file}: not a tokenizer ({error}); give a folder in Hugging Face layout") from error
    delimiter = STYLES["s1"].thinking_end
    if delimiter not in added:
        raise UserError(f"{options.model}: its tokenizer has no token {delimiter}; use a ChatML model or think-tags")
