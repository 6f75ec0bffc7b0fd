"""The model with its loss, wrapped by DeepSpeed; and its checkpoints, every worker's share in files of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from actors import rewrite_shards
from s1 import models
from s1.training.memory import reduce_bucket
from s1.training.shapes import ModelShape

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARDS = "state"
UNIVERSAL = "universal"
_PART = f"{UNIVERSAL}.part."
LAYOUT = "layout.json"  # how many workers wrote the shards


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know; the same for all of them."""

    model: str
    shape: ModelShape | None  # None: another kind of model, whose operations cannot be counted
    examples: str  # artifact of EXAMPLES
    held_out: str | None  # artifact of EXAMPLES that are never trained on
    export_folder: str
    stop_ids: list[int]
    steps: int
    warmup_steps: int
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    block_size: int
    packing: bool
    sequence_parallel: int
    secondary_shards: int
    lora_rank: int
    seed: int
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    precision: Literal["bf16", "fp32"]
    zero_stage: Literal[1, 2, 3]
    attention: str
    activation_checkpointing: bool
    recompute_above_tokens: int | None
    offload_activations: bool
    loss_chunk_tokens: int
    samples: int
    sample_tokens: int
    spike_factor: float
    save_steps: int
    save_in_background: bool
    threads: int

    @classmethod
    def of(cls, options: object, **given: Any) -> TrainTask:
        """The task with the values `given`; every other field is the attribute of `options` that has its name."""
        rest = {field.name: getattr(options, field.name) for field in fields(cls) if field.name not in given}
        return cls(**rest, **given)


def build(task: TrainTask, *, universal: bool) -> Any:
    """The DeepSpeed engine; with `universal` it loads checkpoints of any number of workers."""
    import deepspeed.ops
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    from s1.training.attention import choose_kernels
    from s1.training.lean import make_lean
    from s1.training.loss import SequenceMeanLoss

    # Asking for this list would look for compilers, and find an extension of CPUs to be compiled at its first use.
    setattr(deepspeed.ops, "__compatible_ops__", {"deepspeed_shm_comm": False})  # noqa: B010
    choose_kernels(task.attention)
    settings = _settings(task, universal)
    # While this object lives, from_pretrained hands every rank its share only.
    zero3 = HfDeepSpeedConfig(settings) if task.zero_stage == 3 else None
    model = AutoModelForCausalLM.from_pretrained(
        models.resolve(task.model),
        dtype=torch.bfloat16 if task.precision == "bf16" else torch.float32,
        attn_implementation=attention(task),
    )
    make_lean(model)
    if task.lora_rank:
        from s1.training import lora

        lora.adapt(model, task.lora_rank, task.seed)
    if task.activation_checkpointing or task.recompute_above_tokens is not None:
        # Only the reentrant kind keeps the inputs of layers where they can be sent to the host.
        kind = {"use_reentrant": task.offload_activations}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
    model.train()
    settings["zero_optimization"]["reduce_bucket_size"] = reduce_bucket(
        sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in _trained(model)),
        on_cpu=not torch.cuda.is_available(),
    )
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, task.weight_decay), lr=task.learning_rate, betas=task.betas, fused=True
    )
    engine, *_ = deepspeed.initialize(
        model=SequenceMeanLoss(model, chunk_tokens=task.loss_chunk_tokens, offload=task.offload_activations),
        optimizer=optimizer,
        config=settings,
    )
    del zero3
    if task.save_in_background:
        from actors.checkpoint_writer import BackgroundWriter

        engine.checkpoint_engine = BackgroundWriter(engine.checkpoint_engine)
    return engine


def recompute(model: PreTrainedModel, wanted: bool) -> None:
    """Whether the layers of `model` compute their activations again in the next backward pass, or keep them."""
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = wanted


def attention(task: TrainTask) -> str:
    """Name of the model's attention while it is trained."""
    from s1.training.attention import FLASH_3, PACKED

    if task.packing:
        return PACKED
    return "sdpa" if task.attention == FLASH_3 else task.attention


def _trained(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and norms do not, as in the reference's trainer."""
    shapes = [(parameter, len(getattr(parameter, "ds_shape", parameter.shape))) for parameter in _trained(model)]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter, dims in shapes if dims > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter, dims in shapes if dims <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # LoRA trains matrices only


def _settings(task: TrainTask, universal: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": task.zero_stage}
    if task.secondary_shards > 1:
        zero["zero_hpz_partition_size"] = task.secondary_shards
    return {
        # Passes and their weights are counted by the loop; these two only satisfy DeepSpeed's bookkeeping.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": task.precision == "bf16"},
        "gradient_clipping": task.max_grad_norm,
        "zero_optimization": zero,
        # They would wait for the device before every pass.
        "timers": {"throughput": {"enabled": False}},
        "checkpoint": {"load_universal": universal},
    }


def num_writers(folder: Path) -> int:
    """How many workers wrote the checkpoint in `folder`."""
    return int(json.loads((folder / LAYOUT).read_text())["workers"])


def write_shards(engine: Any, folder: Path, state: dict[str, Any], *, rank: int, num_ranks: int) -> None:
    """Every worker writes its share of the checkpoint."""
    from torch import distributed

    if rank == 0:
        shutil.rmtree(folder / SHARDS, ignore_errors=True)  # of a worker that was killed while it wrote
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LAYOUT).write_text(json.dumps({"workers": num_ranks}))
    distributed.barrier()
    # Weights that are not trained are those of the model that the training starts from.
    engine.save_checkpoint(
        str(folder), tag=SHARDS, client_state=state, save_latest=False, exclude_frozen_parameters=True
    )


def make_universal(folder: Path) -> None:
    """Rewrite the shards in `folder` so that any number of workers can load them, unless that is done. One worker does
    it, in processes of its own beside it: they know nothing of its GPU and its threads.
    """
    made = folder / UNIVERSAL
    if made.is_dir():
        return
    for part in folder.glob(f"{_PART}*"):  # of workers that were killed while they wrote
        shutil.rmtree(part, ignore_errors=True)
    # A name that nobody has had: what such a worker started may not have ended with it.
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=folder))
    begun = part / UNIVERSAL  # made with the usual permissions, which `part` does not have
    processes = str(_num_processes(folder / SHARDS))
    command = [sys.executable, "-P", str(Path(rewrite_shards.__file__)), "--inject_missing_state"]
    command += ["--input_folder", str(folder / SHARDS), "--output_folder", str(begun)]
    command += ["--num_extract_workers", processes, "--num_merge_workers", processes]
    # Without the worker's allocator, which keeps all memory that it has ever had.
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder}: not rewritten for another number of workers: {done.stderr[-2000:]}")
    begun.rename(made)
    shutil.rmtree(part, ignore_errors=True)  # the next one that is made removes it


def _num_processes(shards: Path) -> int:
    """As many as this node has CPUs, shards to rewrite, and memory: each holds a shard and what it makes of it."""
    sizes = [file.stat().st_size for file in shards.glob("*optim_states.pt")]
    by_memory = psutil.virtual_memory().available // (2 * max(sizes))
    return max(1, min(len(os.sched_getaffinity(0)), len(sizes), by_memory))


def load(engine: Any, folder: Path, task: TrainTask, *, universal: bool) -> dict[str, Any]:
    """Load the checkpoint in `folder`; what was saved beside it."""
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    loaded, state = engine.load_checkpoint(
        str(folder), tag=UNIVERSAL if universal else SHARDS, load_module_strict=not task.lora_rank
    )
    assert loaded is not None, f"{folder}: DeepSpeed found no checkpoint here"
    if universal:  # a universal checkpoint carries one set of hyper-parameters for all groups
        for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        own_steps(engine.optimizer.optimizer.state)
    return state


def own_steps(states: Mapping[torch.Tensor, dict[str, Any]]) -> None:
    """Give every parameter a number of steps of its own, where the parameter is.

    From a universal checkpoint all groups have the same tensor, which each update would count up, and it lies on the
    host, where the fused optimizer of a GPU refuses it.
    """
    for parameter, values in states.items():
        if hasattr(values.get("step"), "clone"):
            values["step"] = values["step"].to(parameter.device, copy=True)
