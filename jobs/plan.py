"""What a run would take, without starting anything: stages, steps, tokens, memory of a worker, hours, dollars.

    python -m jobs.plan --preset s1
    python -m jobs.plan --preset s1 --train.workers 8 --train.no-activation-checkpointing --json

Not a job: it reads manifests and the selected table, and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs import cli
from jobs.runner import RunFlags, plan
from jobs.select import SelectOptions
from jobs.train_options import TrainOptions, check, planned, shape, verdict
from s1 import schema
from s1.artifacts import Artifact, join
from s1.config import Config, validate
from s1.errors import UserError
from s1.training import plan as planner
from s1.training.lengths import Histogram, published, spread


class Expected(Config):
    """Lengths of the examples before there is a selected table."""

    histogram: Histogram | None = Field(None, description="Lengths as in the paper's data set s1 or s1.1.")
    mean_tokens: float = Field(4700, gt=0, description="Tokens of an example on average, without a histogram.")
    longest_tokens: int = Field(8121, ge=1, description="Tokens of the longest example, without a histogram.")


class PlanOptions(Config):
    """What to expect of a selection that is not there yet."""

    expected: Expected = Field(default_factory=lambda: Expected.model_validate({}))


class PlanCommand(RunFlags):
    """The command line."""

    train: TrainOptions = Field(description="Fine-tuning.")
    plan: PlanOptions = Field(description="Expectations.")
    as_json: bool = Field(False, description="Print one JSON object (also --json).")


def selected(run_dir: str, size: int, expected: Expected) -> tuple[list[int], str]:
    """Tokens of every example, of the selected table when it is there, else as expected; and which of the two."""
    artifact = Artifact(join(run_dir, "selection"))
    if artifact.manifest() is not None:
        column = artifact.read(schema.SELECTION, ["trace_tokens"])["trace_tokens"]
        lengths = [value for value in column.to_pylist() if value]
        if lengths:
            return lengths, "selected table"
    if expected.histogram is not None:
        return published(expected.histogram, size), f"lengths as published for {expected.histogram}"
    return spread(expected.mean_tokens, expected.longest_tokens, size), "expected"


def training(options: TrainOptions, lengths: Sequence[int]) -> dict[str, Any]:
    """The training as one JSON object; examples that do not fit the block are left out, as the training leaves them."""
    fitting = [length for length in lengths if length <= options.block_size]
    if not fitting:
        raise UserError(f"all {len(lengths)} examples exceed block_size={options.block_size}; raise it")
    return {**planner.report(planned(options, fitting, shape(options.model))), "too_long": len(lengths) - len(fitting)}


def render(found: dict[str, Any], options: TrainOptions, stages: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The plan as text."""
    lines = ["stages"]
    for name, notes in stages:
        lines += [f"  {name}: {notes[0] if notes else 'no notes'}", *(f"    {note}" for note in notes[1:])]
    left_out = f", {found['too_long']} left out beyond block_size" if found["too_long"] else ""
    lines += [
        "training",
        f"  model: {options.model}, {found['parameters'] / 1e9:.2f} billion parameters, {options.number_type}",
        f"  data: {found['examples']} examples ({found['data']}){left_out}, "
        f"{found['tokens'] / 1e6:.2f} million tokens in {options.epochs} epochs",
        f"  steps: {found['steps']} of batch {options.batch_size}, {found['warmup_steps']} of them warm-up, "
        f"learning rate {options.learning_rate:g}",
        f"  workers: {found['workers']} x {found['hardware']} in {found['nodes']} node(s), ZeRO-{options.zero_stage}",
        *_memory_lines(found),
        *_time_lines(found),
        f"  verdict: {verdict(found)}",
    ]
    return "\n".join(lines)


def _memory_lines(found: dict[str, Any]) -> list[str]:
    block = found["at_block_size"]
    return [
        f"  memory of a worker: longest sequence {found['longest_tokens']}, fullest pass {found['pass_tokens']} tokens",
        *(f"    {name}: {size:.2f} GiB" for name, size in found["components"].items() if size),
        f"    together {found['peak_gib']:.1f} of {found['limit_gib']:.1f} GiB",
        f"    with a sequence of block_size={block['block_size']}: {block['peak_gib']:.1f} GiB, "
        f"{'fits' if block['fits'] else 'does not fit'}",
        f"  host memory of a node: {found['host_gib_at_load']:.1f} GiB at load, {found['host_gib_in_steps']:.1f} GiB "
        "of offloaded activations and checkpoints on their way while it trains",
    ]


def _time_lines(found: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["time_shares"].items())
    mfu = "" if found["mfu"] is None else f"; {found['mfu']:.0%} of the peak (MFU)"
    spot = "" if found["usd_spot"] is None else f", ${found['usd_spot']:.2f} as spot instances"
    return [
        f"  step: {found['seconds_per_step']:.2f} s ({shares}){mfu}",
        f"  checkpoint: {found['checkpoint_gib']:.1f} GiB, written in {found['checkpoint_seconds']:.0f} s; all of them "
        f"lengthen the training by {found['saving_seconds']:.0f} s",
        f"  time: {found['hours'] * 60:.1f} min, ${found['usd']:.2f}{spot}",
    ]


def stage_notes(options: PlanCommand, sections: dict[str, Any]) -> list[tuple[str, Sequence[str]]]:
    """Every job of the pipeline with its own description of what it would do."""
    from jobs.pipeline import STAGES

    notes: list[tuple[str, Sequence[str]]] = []
    for job in STAGES:
        stage = options.train if job.name == "train" else validate(job.options, sections.get(job.name, {}), job.name)
        notes.append((job.name, [*plan(job, stage, options.run_dir).notes, *workers(stage.model_dump())]))
    return notes


def workers(values: dict[str, Any], name: str = "") -> list[str]:
    """Who works for a job, from its options: pools of workers and replicas of an engine, with what each takes."""
    found: list[str] = []
    if "num_workers" in values:
        each = [
            f"{values[key]:g} {unit}" for key, unit in (("num_cpus", "CPU"), ("num_gpus", "GPU")) if values.get(key)
        ]
        found.append(f"{name}: {values['num_workers']} worker(s){', each ' + ', '.join(each) if each else ''}")
    engine = values.get("engine")
    if "num_replicas" in values and isinstance(engine, dict):
        gpus = engine.get("tensor_parallel_size", 1) if engine.get("device") == "gpu" else 0
        takes = f"{gpus} GPU" if gpus else "no GPU"
        found.append(f"serving: {values['num_replicas']} replica(s) of each model, each {takes}")
    for key, value in values.items():
        if isinstance(value, dict):
            found += workers(value, key)
    return found


def main(argv: Sequence[str]) -> None:
    """Parse, compute, print."""
    sections: dict[str, Any] = {}

    def fill(read: dict[str, Any]) -> dict[str, Any]:
        sections.update(read)
        return {"run_dir": read["run_dir"], "train": read.get("train", {}), "plan": read.get("plan", {})}

    arguments = ["--as-json" if argument == "--json" else argument for argument in argv]
    summary = "Print what a run would take, and start nothing."
    options = cli.parse(PlanCommand, arguments, prog="python -m jobs.plan", description=summary, fill=fill)
    check(options.train)
    size = validate(SelectOptions, sections.get("select", {}), "select").size
    lengths, origin = selected(options.run_dir, size, options.plan.expected)
    found = {**training(options.train, lengths), "data": origin}
    stages = stage_notes(options, sections)
    if options.as_json:
        print(json.dumps({**found, "stages": {name: list(notes) for name, notes in stages}}, indent=2))
    else:
        print(render(found, options.train, stages))


if __name__ == "__main__":
    cli.main(lambda: main(sys.argv[1:]))
