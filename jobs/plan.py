"""What a run would take, without starting anything: stages, steps, tokens, memory of a worker, hours, dollars.

    python -m jobs.plan --preset s1
    python -m jobs.plan --preset s1 --train.workers 8 --json

Not a job: it reads manifests and the selected table, and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs import cli
from jobs.runner import JobFlags, plan
from jobs.select import SelectOptions
from jobs.train import TrainOptions, check
from s1 import models, schema
from s1.artifacts import Artifact, join
from s1.config import Config, validate
from s1.errors import UserError
from s1.training import plan as planner
from s1.training import schedule


class Hardware(Config):
    """One worker's device and what it costs."""

    name: str = Field("CPU", description="What a worker runs on.")
    memory_gib: float = Field(12, gt=0, description="Memory of one worker.")
    per_node: int = Field(1, ge=1, description="Workers of one node.")
    peak_tflops: float = Field(0, ge=0, description="Peak of one device at the training's precision.")
    mfu: float = Field(0.2, gt=0, le=1, description="Share of the peak that the training reaches.")
    tokens_per_s: float | None = Field(None, gt=0, description="Measured speed of one worker; instead of peak and mfu.")
    usd_per_hour: float = Field(0, ge=0, description="Price of one device for an hour.")


class Expected(Config):
    """The selected table before there is one."""

    mean_tokens: float = Field(4700, gt=0, description="Tokens of an example on average.")
    longest_tokens: int = Field(8121, ge=1, description="Tokens of the longest example.")


@dataclass(frozen=True)
class Data:
    """Size of the selection."""

    examples: int
    mean_tokens: float
    longest_tokens: int


class PlanOptions(Config):
    """Hardware, and what to expect of a selection that is not there yet."""

    hardware: Hardware = Field(default_factory=lambda: Hardware.model_validate({}))
    expected: Expected = Field(default_factory=lambda: Expected.model_validate({}))


class PlanCommand(JobFlags):
    """The command line."""

    train: TrainOptions = Field(description="Fine-tuning.")
    plan: PlanOptions = Field(description="Hardware and expectations.")
    as_json: bool = Field(False, description="Print one JSON object (also --json).")


def selected(run_dir: str, size: int, expected: Expected) -> tuple[Data, str]:
    """Size of the selection, of the table when it is there, else as expected; and which of the two."""
    default = Data(size, expected.mean_tokens, expected.longest_tokens), "expected"
    artifact = Artifact(join(run_dir, "selection"))
    if artifact.manifest() is None:
        return default
    tokens = [value or 0 for value in artifact.read(schema.SELECTION, ["trace_tokens"])["trace_tokens"].to_pylist()]
    if not any(tokens):
        return default
    return Data(len(tokens), sum(tokens) / len(tokens), max(tokens)), "selected table"


def shape(ref: str) -> planner.ModelShape:
    """Shape of the model `ref`, without downloading or converting its weights."""
    name = ref.partition("@")[0]
    if name in planner.KNOWN:
        return planner.KNOWN[name]
    file = Path(ref).expanduser() / "config.json"
    if file.is_file():
        return planner.shape_from_config(json.loads(file.read_text()), ref)
    models.check(ref)
    raise UserError(f"model {ref!r}: its shape is not known here; known are {', '.join(planner.KNOWN)}, and any folder")


def training(options: TrainOptions, hardware: Hardware, data: Data) -> dict[str, Any]:
    """The training as one JSON object: `fits`, `peak_gib`, `hours`, `usd`, `components` and what they follow from."""
    run = planner.Run(
        shape=shape(options.model),
        workers=options.workers,
        zero_stage=options.zero_stage,
        precision=options.precision,
        micro_batch_size=options.micro_batch_size,
        micro_batch_tokens=options.micro_batch_tokens,
        attention=options.attention,
        activation_checkpointing=options.activation_checkpointing,
        loss_chunk_tokens=options.loss_chunk_tokens,
    )
    steps = schedule.num_steps(data.examples, options.batch_size, options.epochs, options.max_steps)
    epochs = steps / schedule.steps_per_epoch(data.examples, options.batch_size)
    tokens = data.examples * data.mean_tokens * epochs
    longest = min(data.longest_tokens, options.block_size)
    components = _gib(planner.memory(run, longest))
    at_block = sum(_gib(planner.memory(run, options.block_size)).values())
    peak = sum(components.values())
    seconds = _seconds(run, hardware, tokens, data.mean_tokens)
    return {
        "fits": peak <= hardware.memory_gib,
        "peak_gib": round(peak, 2),
        "limit_gib": hardware.memory_gib,
        "components": {name: round(size, 2) for name, size in components.items()},
        "longest_tokens": longest,
        "at_block_size": {
            "block_size": options.block_size,
            "fits": at_block <= hardware.memory_gib,
            "peak_gib": round(at_block, 2),
        },
        "examples": data.examples,
        "steps": steps,
        "warmup_steps": schedule.num_warmup_steps(steps, options.warmup_ratio),
        "tokens": round(tokens),
        "workers": options.workers,
        "nodes": -(-options.workers // hardware.per_node),
        "hardware": hardware.name,
        "parameters": run.shape.num_parameters,
        "hours": round(seconds / 3600, 3),
        "usd": round(seconds / 3600 * options.workers * hardware.usd_per_hour, 2),
    }


def _gib(sizes: dict[str, float]) -> dict[str, float]:
    return {name: size / planner.GIB for name, size in sizes.items()}


def _seconds(run: planner.Run, hardware: Hardware, tokens: float, mean_tokens: float) -> float:
    if hardware.tokens_per_s is not None:
        return tokens / (hardware.tokens_per_s * run.workers)
    if not hardware.peak_tflops:
        raise UserError("plan.hardware needs tokens_per_s or peak_tflops; set one of them")
    return planner.flops(run, tokens, mean_tokens) / (run.workers * hardware.peak_tflops * 1e12 * hardware.mfu)


def render(found: dict[str, Any], options: TrainOptions, stages: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The plan as text."""
    verdict = "fits" if found["fits"] else "does not fit"
    block = found["at_block_size"]
    of_block = "fits" if block["fits"] else "does not fit"
    lines = ["stages"]
    for name, notes in stages:
        lines += [f"  {name}: {notes[0] if notes else 'no notes'}", *(f"    {note}" for note in notes[1:])]
    lines += [
        "training",
        f"  model: {options.model}, {found['parameters'] / 1e9:.2f} billion parameters, {options.precision}",
        f"  data: {found['examples']} examples ({found['data']}), {found['tokens'] / 1e6:.2f} million tokens in "
        f"{options.epochs} epochs",
        f"  steps: {found['steps']} of batch {options.batch_size}, {found['warmup_steps']} of them warm-up, "
        f"learning rate {options.learning_rate:g}",
        f"  workers: {found['workers']} x {found['hardware']} in {found['nodes']} node(s), ZeRO-{options.zero_stage}",
        f"  memory of a worker, longest sequence {found['longest_tokens']} tokens:",
        *(f"    {name}: {size:.2f} GiB" for name, size in found["components"].items()),
        f"    together {found['peak_gib']:.1f} of {found['limit_gib']:.1f} GiB: {verdict}",
        f"    with a sequence of block_size={block['block_size']}: {block['peak_gib']:.1f} GiB, {of_block}",
        f"  time: {found['hours'] * 60:.0f} min, ${found['usd']:.2f}",
    ]
    return "\n".join(lines)


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
    data, origin = selected(options.run_dir, size, options.plan.expected)
    found = {**training(options.train, options.plan.hardware, data), "data": origin}
    stages = stage_notes(options, sections)
    if options.as_json:
        print(json.dumps({**found, "stages": {name: list(notes) for name, notes in stages}}, indent=2))
    else:
        print(render(found, options.train, stages))


if __name__ == "__main__":
    cli.main(lambda: main(sys.argv[1:]))
