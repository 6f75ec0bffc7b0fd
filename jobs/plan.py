"""What a run would take, without starting anything: stages, tokens, steps, memory of a worker, hours, dollars.

    python -m jobs.plan --preset s1
    python -m jobs.plan --preset s1 --train.workers 8 --train.no-activation-checkpointing --json

Not a job: it reads manifests and the selected table, and the hub's config.json of a model that is not known, and writes
nothing to the run folder.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs import capacity, cli
from jobs.runner import RunFlags, plan, section
from jobs.select import SelectOptions
from jobs.train_options import TrainOptions, check, check_hub, shape
from jobs.train_plan import Data, lack, link_note, link_warning, report, verdict
from s1 import schema
from s1.artifacts import Artifact, join
from s1.config import Config, validate
from s1.errors import UserError
from s1.training.examples import drawn
from s1.training.lengths import Histogram, published, spread
from s1.workload import Workload

if TYPE_CHECKING:
    from jobs.evaluation_options import EvaluateOptions
    from jobs.featurize import FeaturizeOptions

# Tokens of an example beside question, thinking and attempt: the model's own system prompt, the turns, the delimiters.
TEMPLATE_TOKENS = 50
CHARACTERS_PER_TOKEN = 2.5  # of mathematical questions: MATH500 has 2.6
_OF_TABLE = "selected table, prompts estimated"


class Expected(Config):
    """Lengths of the examples before there is a selected table, and the speed of models that answer."""

    histogram: Histogram | None = Field(None, description="Lengths as in the paper's data set s1 or s1.1.")
    mean_tokens: float = Field(4700, gt=0, description="Tokens of an example on average, without a histogram.")
    longest_tokens: int = Field(8121, ge=1, description="Tokens of the longest example, without a histogram.")
    tokens_per_s_per_gpu: float | None = Field(
        None,
        gt=0,
        description="Tokens that one GPU generates per second while solvers and evaluation run, for their GPU-hours: "
        "measure it. Published: 1,130 by vLLM 0.11 with Qwen3-32B on an H100, 1,000 requests at once "
        "(docs.gpustack.ai/2.0/performance-lab/qwen3-32b/h100).",
    )


class PlanOptions(Config):
    """What to expect of a selection that is not there yet."""

    expected: Expected = Field(default_factory=lambda: Expected.model_validate({}))


class PlanCommand(RunFlags):
    """The command line."""

    train: TrainOptions = Field(description="Fine-tuning.")
    plan: PlanOptions = Field(description="Expectations.")
    as_json: bool = Field(False, description="Print one JSON object (also --json).")


@dataclass(frozen=True)
class Lengths:
    """Tokens of every example, as far as they can be told without a tokenizer."""

    tokens: tuple[int, ...]
    certain: tuple[int, ...]  # of these, those that were counted; the rest is estimated
    origin: str
    known: bool  # they are those of a table


def selected(run_dir: str, size: int, expected: Expected) -> Lengths:
    """The examples of the selected table when it is there, else as expected.

    The table knows the tokens of its traces; those of the prompts are estimated.
    """
    artifact = Artifact(join(run_dir, "selection"))
    if artifact.manifest() is not None:
        rows = artifact.read(schema.SELECTION, ["question", "trace_tokens"]).to_pylist()
        rows = [row for row in rows if row["trace_tokens"]]
        if rows:
            traces = tuple(row["trace_tokens"] for row in rows)
            prompts = (prompt_tokens(row["question"] or "") for row in rows)
            return Lengths(tuple(map(sum, zip(traces, prompts, strict=True))), traces, _OF_TABLE, known=True)
    tokens, origin = spread(expected.mean_tokens, expected.longest_tokens, size), "expected"
    if expected.histogram is not None:
        tokens, origin = published(expected.histogram, size), f"lengths as published for {expected.histogram}"
    return Lengths(tuple(tokens), (0,) * len(tokens), origin, known=False)


def prompt_tokens(question: str) -> int:
    """About how many tokens an example has beside its trace."""
    return TEMPLATE_TOKENS + math.ceil(len(question) / CHARACTERS_PER_TOKEN)


def training(options: TrainOptions, lengths: Lengths) -> dict[str, Any]:
    """The training as one JSON object, with `refused`: why `train` would end with an error, or None; `refused_surely`
    says whether that follows from what was counted; and `memory_fits`, whatever is refused.

    Examples beyond the block are left out, and those that are held out are drawn, as the training does it. Unless the
    lengths are known, an example of block_size may occur and has to fit, too.
    """
    fitting = [length for length in lengths.tokens if length <= options.block_size]
    if not fitting:
        raise UserError(f"all {len(lengths.tokens)} examples exceed block_size={options.block_size}; raise it")
    is_out = drawn(len(fitting), options.held_out, options.seed)
    data = Data(
        lengths=tuple(length for length, out in zip(fitting, is_out, strict=True) if not out),
        held_out=tuple(length for length, out in zip(fitting, is_out, strict=True) if out),
        longest=None if lengths.known else options.block_size,
    )
    too_long = len(lengths.tokens) - len(fitting)
    refused = None
    if too_long and options.too_long == "error":
        refused = (
            f"{too_long} of {len(lengths.tokens)} examples exceed block_size={options.block_size}, the longest has "
            f"about {max(lengths.tokens)} tokens; raise it, or set too_long=drop to leave them out"
        )
    found = report(options, data, shape(options.model))
    return {
        **found,
        "fits": found["fits"] and refused is None,
        "memory_fits": found["fits"],
        "too_long": too_long,
        "refused": refused,
        "refused_surely": refused is not None and max(lengths.certain) > options.block_size,
    }


def _verdict(found: dict[str, Any]) -> str:
    memory = verdict({**found, "fits": found["memory_fits"]}, prefix="train.")
    if found["refused"] is None:
        return memory
    how = "will" if found["refused_surely"] else "will probably"
    return f"train {how} refuse this: {found['refused']}. The memory: {memory}"


def render(found: dict[str, Any], options: TrainOptions, stages: Sequence[Stage]) -> str:
    """The plan as text."""
    lines = ["stages"]
    for stage in stages:
        first = stage.notes[0] if stage.notes else "no notes"
        lines += [f"  {stage.name}: {first}", *(f"    {note}" for note in stage.notes[1:])]
    left_out = f", {found['too_long']} left out beyond block_size" if found["too_long"] else ""
    held_out = f", {found['held_out']} more held out" if found["held_out"] else ""
    lines += [
        "training",
        f"  model: {options.model}, {found['parameters'] / 1e9:.2f} billion parameters, {options.number_type}",
        f"  data: {found['examples']} examples ({found['data']}){left_out}{held_out}, "
        f"{found['tokens'] / 1e6:.2f} million tokens in {options.epochs} epochs",
        f"  steps: {found['steps']} of batch {options.batch_size}, {found['warmup_steps']} of them warm-up, "
        f"learning rate {options.learning_rate:g}",
        f"  workers: {found['workers']} x {found['hardware']} in {found['nodes']} node(s), ZeRO-{options.zero_stage}",
        *_memory_lines(found),
        *_time_lines(found),
        *_warnings(found),
        f"  verdict: {_verdict(found)}",
    ]
    return "\n".join(lines)


def _memory_lines(found: dict[str, Any]) -> list[str]:
    block, fewer, longest = found["at_block_size"], found["fewer_workers"], found["longest_tokens"]
    counted = found["longest_counted_tokens"]
    may_come = f"; one of {counted} tokens may come and is counted" if counted > longest else ""
    limit = found["host_limit_gib"]
    there = "" if limit is None else f", of {limit:.0f} GiB"
    elastic = [] if fewer is None else [f"    on {fewer['workers']} workers: {_fits(fewer)}"]
    return [
        f"  memory of a worker: longest example {longest} tokens{may_come}; the pass that takes most has "
        f"{found['pass_tokens']}",
        *(f"    {name}: {size:.2f} GiB" for name, size in found["components"].items() if size),
        f"    together {found['peak_gib']:.1f} of {found['limit_gib']:.1f} GiB",
        f"    with a sequence of block_size={block['block_size']}: {_fits(block)}",
        *elastic,
        f"  host memory of a node: {found['host_gib_at_load']:.1f} GiB at load, {found['host_gib_in_steps']:.1f} GiB "
        f"of offloaded activations and checkpoints on their way while it trains{there}",
        f"  disk of the run folder: {found['disk_gib']:.1f} GiB, with the exported model "
        f"({found['export_gib']:.1f} GiB); {found['disk_gib_resized']:.1f} GiB when another number of workers goes on "
        "with it",
    ]


def _fits(needs: dict[str, Any]) -> str:
    return f"{needs['peak_gib']:.1f} GiB, fits" if needs["fits"] else f"{lack(needs)}, does not fit"


def _time_lines(found: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["time_shares"].items())
    mfu = "" if found["mfu"] is None else f"; {found['mfu']:.0%} of the peak (MFU)"
    prices = f"${found['usd']:.2f}"
    if found["usd"]:
        prices += f" at ${found['usd_per_hour']:.2f} a device and hour"
    if found["usd_spot"] is not None:
        prices += f", ${found['usd_spot']:.2f} as spot instances at ${found['spot_usd_per_hour']:.2f}"
    promised = f"{found['hours'] * 60:.1f} min, {prices}"
    if links := link_note(found, "train."):
        promised += f";{links}"
    seconds = found["evaluation_seconds"]
    evaluation = [f"  held-out losses and answers: {seconds:.0f} s in all"] if seconds else []
    return [
        f"  step: {found['seconds_per_step']:.2f} s ({shares}){mfu}",
        f"  checkpoint: {found['checkpoint_gib']:.1f} GiB, written in {found['checkpoint_seconds']:.0f} s; all of them "
        f"lengthen the training by {found['saving_seconds']:.0f} s",
        *evaluation,
        f"  time: {promised}; training only, for solver and evaluation see their stages",
    ]


def _warnings(found: dict[str, Any]) -> list[str]:
    line = link_warning({**found, "fits": found["memory_fits"]}, prefix="train.")
    return [] if line is None else [f"  warning: {line}"]


@dataclass(frozen=True)
class Stage:
    """What a job of the pipeline says about itself, and what its models generate on GPUs that have to be paid for."""

    name: str
    notes: tuple[str, ...]
    work: Workload | None = None


def stages_of(options: PlanCommand, sections: dict[str, Any]) -> list[Stage]:
    """Every job of the pipeline with its own description of what it would do, and the workers that it asks for."""
    from jobs import featurize
    from jobs.pipeline import STAGES

    found: dict[str, Any] = {
        job.name: options.train if job.name == "train" else validate(job.options, section(job, sections), job.name)
        for job in STAGES
    }
    traces = Artifact(join(options.run_dir, "traces")).manifest()
    count = traces.rows_out if traces else _expected_questions(found)
    work = {"featurize": _solvers(found["featurize"], count), "evaluate": _evaluation(options, found["evaluate"])}
    stages: list[Stage] = []
    for job in STAGES:
        notes = [*plan(job, found[job.name], options.run_dir).notes]
        if job.name == "featurize" and traces is None and count is not None:
            notes += featurize.generates(found["featurize"], count)
        generated = work.get(job.name)
        hours = [] if generated is None else [_gpu_hours(options, generated)]
        asked = [f"{demand.option}: {demand.needs}" for demand in capacity.of_stages([(job.name, found[job.name])])]
        stages.append(Stage(job.name, (*notes, *hours, *asked), generated))
    return stages


def _expected_questions(stages: Mapping[str, Any]) -> int | None:
    """Most questions that will have a trace, as far as the options say."""
    said = (stages["distill"].num_questions, stages["collect"].num_questions, stages["collect"].expected)
    return min((number for number in said if number is not None), default=None)


def _solvers(asked: FeaturizeOptions, count: int | None) -> Workload | None:
    """Of the solvers on GPUs."""
    from jobs import featurize

    return featurize.workload_of(asked, count) if count is not None and asked.solver.num_gpus else None


def _evaluation(options: PlanCommand, asked: EvaluateOptions) -> Workload | None:
    """Of the models that are evaluated on GPUs."""
    from jobs import evaluate

    if asked.endpoint or asked.serve.engine.device != "gpu":
        return None
    questions = Artifact(join(options.run_dir, "questions")).manifest()
    return evaluate.workload_of(asked, evaluate.num_questions(asked, {"questions": questions}))


def _gpu_hours(options: PlanCommand, work: Workload) -> str:
    """GPU-hours, expected and at most, and their dollars at the speed that was given."""
    rate, price = options.plan.expected.tokens_per_s_per_gpu, options.train.hardware.price
    sizes = [tokens / 3600 for tokens in (work.tokens, work.most_tokens) if tokens is not None]
    if rate is None:
        hours = " to ".join(f"{size:,.0f} / N" for size in sizes)
        return f"GPU-hours: {hours} at N tokens/s of a GPU (plan.expected.tokens_per_s_per_gpu)"
    hours = " to ".join(f"{size / rate:,.1f}" for size in sizes)
    usd = " to ".join(f"${size / rate * price:,.0f}" for size in sizes)
    return f"GPU-hours: {hours} at {rate:,.0f} tokens/s of a GPU, {usd} at ${price:.2f} an hour"


def _work_found(stage: Stage, expected: Expected) -> dict[str, Any]:
    """The work of a stage for the JSON object; its GPU-hours are null without a speed."""
    assert stage.work is not None
    rate = expected.tokens_per_s_per_gpu
    return {**asdict(stage.work), "gpu_hours": None if rate is None else round(stage.work.tokens / 3600 / rate, 2)}


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
    check_hub(options.train)
    size = validate(SelectOptions, sections.get("select", {}), "select").size
    lengths = selected(options.run_dir, size, options.plan.expected)
    found = {**training(options.train, lengths), "data": lengths.origin}
    stages = stages_of(options, sections)
    if options.as_json:
        work = {stage.name: _work_found(stage, options.plan.expected) for stage in stages if stage.work is not None}
        notes = {stage.name: list(stage.notes) for stage in stages}
        print(json.dumps({**found, "stages": notes, "work": work}, indent=2))
    else:
        print(render(found, options.train, stages))


if __name__ == "__main__":
    cli.main(lambda: main(sys.argv[1:]))
