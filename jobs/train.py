"""Fine-tune the base model on the selected traces: SELECTION becomes a checkpoint.

    python -m jobs.train --preset laptop
    python -m jobs.train --preset s1 --workers 8 --dry-run

Ray Train starts the workers, DeepSpeed shards the states; the result is a Hugging Face folder.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import capacity, train_bill
from jobs.leftovers import name_leftovers
from jobs.runner import Context, Job, Outcome, command
from jobs.train_bill import Bill
from jobs.train_options import (
    HOW,
    TrainOptions,
    check,
    check_configuration,
    check_hub,
    configuration,
    known_shape,
    planned,
)
from jobs.train_plan import Data, link_note, report, verdict
from s1 import models, schema
from s1.artifacts import Artifact, Manifest, join
from s1.errors import UserError
from s1.training import card, memory, schedule, weights

if TYPE_CHECKING:
    from pyarrow import Table

    from actors.train_engine import TrainTask
    from s1.template import Template
    from s1.training.plan import Training
    from s1.training.shapes import ModelShape

CURVE = "loss.json"
CARD = "README.md"


def describe(options: TrainOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    manifest = manifests.get("selection")
    device = "GPU" if options.gpus_per_worker else f"{options.threads_per_worker} CPU threads"
    workers = f"{options.workers} workers, {device} each, ZeRO-{options.zero_stage}, {options.number_type}"
    if manifest is None:
        return (workers,)
    examples = max(1, manifest.rows_out - options.held_out)
    steps = schedule.num_steps(examples, options.batch_size, options.epochs, options.max_steps)
    warmup = schedule.num_warmup_steps(steps, options.warmup_ratio)
    return (f"{examples} examples, {steps} steps, {warmup} of them warm-up", workers)


def run(options: TrainOptions, context: Context) -> Outcome:
    """Render, plan, train, export."""
    from transformers import AutoTokenizer

    from jobs.ray_session import ray_session
    from jobs.tracking import Trackers
    from jobs.train_group import train
    from s1.template import Template
    from s1.training.examples import COLUMNS, hold_out, render

    selection = context.inputs["selection"].read(schema.SELECTION, COLUMNS)
    check_hub(options)
    folder = models.resolve(options.model, weights=False)  # they come when nothing speaks against the training
    of = known_shape(str(folder))  # None: another kind of model, which is trained, but not planned or counted
    check_configuration(options, configuration(folder / models.CONFIG), of)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{options.model}: no tokenizer can be read there ({reason}); give a whole folder") from error
    if of is not None and len(tokenizer) > of.vocabulary:
        raise UserError(
            f"{options.model}: its tokenizer has {len(tokenizer)} tokens, its model knows {of.vocabulary}: they belong "
            "to different models; give a folder whose files belong together"
        )
    template = Template(tokenizer, options.template)
    rendered, too_long = render(selection, template, options.block_size, options.too_long)
    examples, held_out = hold_out(rendered, options.held_out, options.seed)
    planned_s: float | None = None
    if of is not None:
        data = Data(_lengths(examples), _lengths(held_out))
        planned_s = _check_plan(options, data, of)
        if not options.ignore_plan:
            training = planned(options, data.lengths, of)
            check_disk(training, context.staging.local_path, Path(Artifact(context.scratch).path))
    _check_generation(options, folder, tokenizer.pad_token_id, sorted(template.stop_ids))
    folder = models.resolve(options.model)
    if of is not None:
        weights.check(folder, of)
    name_leftovers("train", context.scratch)
    task = _task(options, context, template, examples, held_out, of)
    bill = Bill(context.scratch, options.hardware.price)
    with Trackers(options, context, task.steps, bill, planned_s) as trackers, ray_session(*capacity.of_train(options)):
        curve = train(options, task, context, trackers, bill)
    facts = _facts(options, curve, bill)
    context.staging.write_bytes(CURVE, json.dumps(curve).encode())
    data = {"examples": examples.num_rows, "held out": held_out.num_rows, "left out": too_long}
    context.staging.write_bytes(CARD, card.render(options.model_dump(mode="json"), data, facts, curve).encode())
    return Outcome(
        rows_in=selection.num_rows,
        rows_out=examples.num_rows,
        dropped={"too_long": too_long, "held_out": held_out.num_rows},
        cost_usd=facts["cost_usd"],
        facts=facts,
    )


def _task(
    options: TrainOptions,
    context: Context,
    template: Template,
    examples: Table,
    held_out: Table,
    of: ModelShape | None,
) -> TrainTask:
    from actors.train_engine import TrainTask

    steps = schedule.num_steps(examples.num_rows, options.batch_size, options.epochs, options.max_steps)
    return TrainTask.of(
        options,
        precision=options.number_type,
        shape=of,
        examples=_store(examples, context, "examples"),
        held_out=_store(held_out, context, "held_out") if held_out.num_rows else None,
        export_folder=str(context.staging.local_path),
        stop_ids=sorted(template.stop_ids),
        steps=steps,
        warmup_steps=schedule.num_warmup_steps(steps, options.warmup_ratio),
        betas=(options.adam_beta1, options.adam_beta2),
        threads=options.threads_per_worker,
    )


def _lengths(examples: Table) -> tuple[int, ...]:
    return tuple(len(ids) for ids in examples["input_ids"])


def _check_plan(options: TrainOptions, data: Data, of: ModelShape) -> float | None:
    """Refuse a training whose memory is not enough, also on the fewest workers, before a single one is started.

    Seconds of a step on GPUs; on CPUs a plan is too rough to be held to.
    """
    hardware = options.hardware
    if hardware.device == "cpu" and not (hardware.tokens_per_s or hardware.peak_tflops):
        return None  # nothing is known about this machine; Ray and its own memory decide
    found = report(options, data, of)
    line = verdict(found)
    if not found["fits"] and not options.ignore_plan:
        raise UserError(f"{line}; or go on with --ignore-plan")
    promised = f"about {found['hours'] * 60:.0f} min, ${found['usd']:.2f}{link_note(found)}"
    print(f"train: {line}; {promised}", file=sys.stderr)
    return found["seconds_per_step"] if options.gpus_per_worker else None


def check_disk(training: Training, folder: Path, scratch: Path) -> None:
    """UserError when the disk of `folder` has no room for the checkpoints and the trained model.

    The checkpoint that an earlier attempt has left in `scratch`, on the same disk, makes room for what comes after it.
    """
    from actors.train_engine import SHARDS

    disk = shutil.disk_usage(folder)
    if not disk.total:  # a mounted store that does not tell
        return
    needed = memory.disk_bytes(training.run, training.checkpoints)[0] / memory.GIB
    left = sum(file.stat().st_size for file in scratch.glob(f"workers/step-*/{SHARDS}/*"))
    free = (disk.free + left) / memory.GIB
    if free < needed:
        kept = (
            "the trained model",
            "a checkpoint and the trained model",
            "two checkpoints, or one and the trained model",
        )
        raise UserError(
            f"{folder}: {free:.1f} GiB of disk are there, the training keeps up to {needed:.1f} GiB "
            f"({kept[min(training.checkpoints, 2)]}); choose a --run-dir on a larger disk, or go on with --ignore-plan"
        )


def _check_generation(options: TrainOptions, folder: Path, pad_id: int | None, stop_ids: list[int]) -> None:
    """Refuse a generation config that could not be written beside the trained model, before it is trained."""
    from actors.model_export import generation_config

    if generation_config(folder, pad_id, stop_ids)[1]:
        print(
            f"train: {options.model}: its generation config gives values for sampling without do_sample=True; the "
            "trained model's has it",
            file=sys.stderr,
        )


def _store(examples: Table, context: Context, name: str) -> str:
    """EXAMPLES beside the checkpoints, where workers of every node read them."""
    artifact = Artifact(join(context.scratch, name))
    with artifact.staging() as staging:
        staging.write_table(examples)
        rows = examples.num_rows
        staging.commit(Manifest("train", context.identity, {}, {}, "", rows_in=rows, rows_out=rows))
    return artifact.uri if "://" in artifact.uri else artifact.path


def _facts(options: TrainOptions, curve: list[dict[str, Any]], bill: Bill) -> dict[str, Any]:
    tokens, seconds = sum(r["tokens"] for r in curve), sum(r["seconds"] for r in curve)
    held_out = [r["held_out_loss"] for r in curve if "held_out_loss" in r]
    return {
        "base_model": options.model,
        "steps": len(curve),
        "tokens": tokens,
        "train_seconds": round(seconds, 1),
        "tokens_per_s": round(tokens / max(seconds, 1e-9), 1),
        "first_loss": curve[0]["loss"],
        "last_loss": curve[-1]["loss"],
        "best_loss": min((r["loss"] for r in curve), default=math.nan),
        "held_out_loss": held_out[-1] if held_out else None,
        "peak_gib": max(r["memory_gib"] for r in curve),
        # All attempts, while workers were there: loading, checkpoints, what was done twice, export.
        "billed_seconds": round(train_bill.seconds(bill.spans), 1),
        "billed_worker_hours": round(train_bill.worker_seconds(bill.spans) / 3600, 4),
        "cost_usd": round(bill.usd(), 2),
        "loss_curve": CURVE,  # one object per step
    }


JOB = Job(
    name="train",
    summary=str(__doc__),
    options=TrainOptions,
    inputs=("selection",),
    output="checkpoint",
    run=run,
    check=check,
    describe=describe,
    # Another model in the same folder, or another number type, is another training: checkpoints are never mixed up.
    outside=lambda options: [weights.identity(options.model), options.number_type],
    needs_folder=lambda _: True,
    how=HOW,
)

if __name__ == "__main__":
    command(JOB)
