"""`python -m jobs.train`: SELECTION → a fine-tuned model.

Ray Train starts the workers, DeepSpeed shards the states; the result is a Hugging Face folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jobs.runner import Context, Job, Outcome, command
from s1 import models, schema
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config
from s1.errors import UserError
from s1.template import STYLES, Style
from s1.training import schedule

CURVE = "loss.json"


class TrainOptions(Config):
    """Supervised fine-tuning on the selected traces."""

    model: str = Field(
        "embedded:smollm2-135m-instruct", description="Model to start from: embedded:…, folder or hub id."
    )
    template: Style = Field("s1", description="Delimiters of the thinking: s1 (ChatML) or think-tags.")
    epochs: int = Field(5, ge=1, description="Passes over the selection.")
    max_steps: int | None = Field(None, ge=1, description="End after this many optimiser steps.")
    batch_size: int = Field(16, ge=1, description="Examples per optimiser step, over all workers.")
    micro_batch_size: int = Field(1, ge=1, description="Examples per worker and forward pass.")
    micro_batch_tokens: int | None = Field(
        None, ge=1, description="Tokens per worker and forward pass, padding included, unless one example has more."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak of the schedule: linear warm-up, cosine to 0.")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of the steps that warm up.")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient norm is clipped to this; 0: not at all.")
    block_size: int = Field(32768, ge=2, description="Most tokens of an example. Traces are never cut.")
    too_long: Literal["error", "drop"] = Field("error", description="What to do with an example beyond block_size.")
    seed: int = Field(0, ge=0, description="Order of the data.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 keeps 32-bit master weights in the optimiser.")
    zero_stage: Literal[1, 2, 3] = Field(1, description="What DeepSpeed shards: optimiser, gradients, weights.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="Kernel of the attention; eager is the fastest one for short sequences on CPUs."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    loss_chunk_tokens: int = Field(4096, ge=1, description="Positions whose logits are in memory at a time.")
    workers: int = Field(1, ge=1, description="Training workers.")
    gpus_per_worker: int = Field(0, ge=0, le=1)
    cpus_per_worker: float = Field(1.0, gt=0, description="Logical CPUs that Ray reserves for a worker.")
    threads_per_worker: int = Field(2, ge=1, description="Threads of torch in a worker.")
    save_steps: int = Field(20, ge=0, description="Steps between checkpoints; 0: none, a killed run starts over.")
    max_failures: int = Field(3, ge=0, description="Lost workers that a run survives.")


def check(options: TrainOptions) -> None:
    """What can be seen without starting anything: sizes that fit each other, the model, its tokenizer's delimiters."""
    if options.batch_size % options.workers:
        raise UserError(
            f"batch_size={options.batch_size} is not divisible by workers={options.workers}; change one of them"
        )
    models.check(options.model)
    _check_tokenizer(options)


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


def describe(options: TrainOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    manifest = manifests.get("selection")
    device = "GPU" if options.gpus_per_worker else f"{options.threads_per_worker} CPU threads"
    workers = f"{options.workers} workers, {device} each, ZeRO-{options.zero_stage}, {options.precision}"
    if manifest is None:
        return (workers,)
    steps = schedule.num_steps(manifest.rows_out, options.batch_size, options.epochs, options.max_steps)
    warmup = schedule.num_warmup_steps(steps, options.warmup_ratio)
    return (f"{manifest.rows_out} examples, {steps} steps, {warmup} of them warm-up", workers)


def run(options: TrainOptions, context: Context) -> Outcome:
    """Render, train, export."""
    from transformers import AutoTokenizer

    from actors.train_worker import TrainTask
    from jobs.ray_session import ray_session
    from s1.template import Template
    from s1.training.examples import COLUMNS, render

    export_folder = context.staging.local_path
    selection = context.inputs["selection"].read(schema.SELECTION, COLUMNS)
    folder = models.resolve(options.model)
    _check_head(options.model, folder)
    template = Template(AutoTokenizer.from_pretrained(folder), options.template)
    examples, too_long = render(selection, template, options.block_size, options.too_long)
    steps = schedule.num_steps(examples.num_rows, options.batch_size, options.epochs, options.max_steps)
    task = TrainTask(
        model=options.model,
        examples=_store(examples, context),
        export_folder=str(export_folder),
        stop_ids=sorted(template.stop_ids),
        steps=steps,
        warmup_steps=schedule.num_warmup_steps(steps, options.warmup_ratio),
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        micro_batch_tokens=options.micro_batch_tokens,
        seed=options.seed,
        learning_rate=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        precision=options.precision,
        zero_stage=options.zero_stage,
        attention=options.attention,
        activation_checkpointing=options.activation_checkpointing,
        loss_chunk_tokens=options.loss_chunk_tokens,
        save_steps=options.save_steps,
        threads=options.threads_per_worker,
    )
    with ray_session():
        _check_cluster(options)
        records = _train(options, task, context)
    context.staging.write_bytes(CURVE, json.dumps(records).encode())
    return Outcome(
        rows_in=selection.num_rows,
        rows_out=examples.num_rows,
        dropped={"too_long": too_long},
        facts=_facts(options, records),
    )


def _check_head(ref: str, folder: Path) -> None:
    """Refuse a model that changes its logits after the head: the loss sees the head's own."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if config.get(name) not in (None, 1, 1.0):
            raise UserError(f"{ref}: {name}={config[name]} is not supported; choose a model without it")


def _store(examples: Any, context: Context) -> str:
    """EXAMPLES beside the checkpoints, where workers of every node read them."""
    artifact = Artifact(join(context.scratch, "examples"))
    with artifact.staging() as staging:
        staging.write_table(examples)
        rows = examples.num_rows
        staging.commit(Manifest("train", context.identity, {}, {}, "", rows_in=rows, rows_out=rows))
    return artifact.uri if "://" in artifact.uri else artifact.path


def _check_cluster(options: TrainOptions) -> None:
    """On a machine of our own nothing will ever add what is missing; on a cluster the autoscaler may."""
    import os
    import sys

    import ray

    found = ray.cluster_resources()
    wanted = {"CPU": options.workers * options.cpus_per_worker, "GPU": options.workers * options.gpus_per_worker}
    for name, count in wanted.items():
        if count <= found.get(name, 0):
            continue
        lack = f"workers={options.workers} need {count:g} {name}s, but there are {found.get(name, 0):g}"
        if "RAY_ADDRESS" not in os.environ:
            raise UserError(
                f"{lack} on this machine; ask for less, or submit the job to a cluster (docs/jobs/train.md)"
            )
        print(f"train: {lack} now; waiting for the cluster to grow", file=sys.stderr)


def _train(options: TrainOptions, task: Any, context: Context) -> list[dict[str, Any]]:
    """Run the workers to the end and return the record of every step. UserError when the loss is not a number."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    from actors.journal import Journal
    from actors.train_worker import train_loop

    scratch = Artifact(context.scratch)
    actor: Any = ray.remote(num_cpus=0)(Journal)
    journal = actor.remote()
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"task": task, "journal": journal},
        torch_config=TorchConfig(backend="nccl" if options.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=bool(options.gpus_per_worker),
            resources_per_worker={"CPU": options.cpus_per_worker} | ({"GPU": 1} if options.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            # The same name in the same place: Ray Train goes on from the last committed checkpoint it finds there.
            name="workers",
            storage_path=scratch.path,
            storage_filesystem=scratch.fs,
            failure_config=FailureConfig(max_failures=options.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": _worker_environment(options)},
        ),
    )
    _fit(trainer, journal, task.steps)
    records, stopped = ray.get(journal.result.remote())
    if stopped:
        raise UserError(stopped)
    return records


def _worker_environment(options: TrainOptions) -> dict[str, str]:
    # Ray sets OMP_NUM_THREADS to the logical CPUs of the worker unless it is given.
    environment = {"OMP_NUM_THREADS": str(options.threads_per_worker), "TRANSFORMERS_VERBOSITY": "error"}
    if options.gpus_per_worker:
        return environment
    return {**environment, **_keep_freed_memory(), "DS_ACCELERATOR": "cpu"}


def _keep_freed_memory() -> dict[str, str]:
    """Activations come and go with every pass. The C library gives their pages back and faults them in again, which
    costs a small model on CPUs much of its time. The allocator that Ray brings along can be told to keep them until
    they have been idle for a while; large blocks too, which it would give back at once.
    """
    import ray

    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    if not library.is_file():
        return {}
    settings = "oversize_threshold:0,dirty_decay_ms:20000,muzzy_decay_ms:0,thp:always"
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": settings}


def _fit(trainer: Any, journal: Any, steps: int) -> None:
    """Run the trainer and show the journal's last record meanwhile."""
    import threading
    from concurrent.futures import Future, wait

    import ray

    from jobs.progress import Progress

    outcome: Future[Any] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:  # handed to the main thread, which raises it
            outcome.set_exception(error)

    # Beside the main thread, so that Ctrl-C stays ours: in it, Ray Train would take the signal and end in a traceback.
    threading.Thread(target=fit, daemon=True).start()
    with Progress("train", total=steps, unit="steps") as bar:
        while not wait([outcome], timeout=1.0).done:
            count, record = ray.get(journal.latest.remote())
            bar.update(count, _note(record))
        if outcome.exception() is None:
            count, record = ray.get(journal.latest.remote())
            bar.update(count, _note(record))
    outcome.result()


def _note(record: dict[str, Any] | None) -> str:
    if record is None:
        return "starting workers"
    return f"loss {record['loss']:.3f}, {record['tokens'] / max(record['seconds'], 1e-9):.0f} tokens/s"


def _facts(options: TrainOptions, records: list[dict[str, Any]]) -> dict[str, Any]:
    tokens, seconds = sum(r["tokens"] for r in records), sum(r["seconds"] for r in records)
    return {
        "base_model": options.model,
        "steps": len(records),
        "tokens": tokens,
        "train_seconds": round(seconds, 1),
        "tokens_per_s": round(tokens / max(seconds, 1e-9), 1),
        "first_loss": records[0]["loss"],
        "last_loss": records[-1]["loss"],
        "best_loss": min((r["loss"] for r in records), default=math.nan),
        "loss_curve": CURVE,  # one object per step: step, loss, learning_rate, grad_norm, tokens, seconds
    }


JOB = Job(
    name="train",
    summary="Fine-tune the model on the selected traces: SELECTION → checkpoint (a Hugging Face folder).",
    options=TrainOptions,
    inputs=("selection",),
    output="checkpoint",
    run=run,
    check=check,
    describe=describe,
)

if __name__ == "__main__":
    command(JOB)
