"""Data ablations (paper, section 4 and table 2): the selection compared with simpler choices of equal size.

    python -m jobs.ablate --preset laptop --run-dir runs/laptop

Reads the questions and features of a run. Every variant is selected, trained and evaluated with the same options, one
after the other, each in its own folder; what is up to date is skipped. Differences to the selection come with 95%
intervals from a paired bootstrap over the same questions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from jobs import capacity, cli, evaluate, select, train
from jobs.capacity import Demand
from jobs.evaluation_options import TUNED, ConditionalOptions, DirectOptions, EvaluateOptions, ParallelOptions
from jobs.ray_session import ray_session, run_folder
from jobs.runner import Context, Job, JobFlags, Outcome, check_folder, execute, plan, render_plan, up_to_date
from jobs.select import SelectOptions
from jobs.train import TrainOptions
from s1 import schema
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config
from s1.errors import UserError
from s1.evaluation import paper
from s1.evaluation.display import UNKNOWN, align, percent, signed
from s1.evaluation.report.compare import significance
from s1.evaluation.report.numbers import MEASURED, as_csv, as_markdown, measured
from s1.evaluation.settings import NATURAL
from s1.evaluation.summary import verdicts

FOLDER = "ablations"
SELECTION = "selection"
Variant = Literal["selection", "random", "diverse", "longest", "all"]
VARIANTS: tuple[Variant, ...] = ("selection", "random", "diverse", "longest", "all")
EVERYTHING = 10**9  # rows: more than there can be
OWN = frozenset({"selection", "checkpoint"})  # what each variant has of its own; the rest is the run's
COLUMNS = (
    *("variant", "benchmark", "num_examples", "accuracy_pct", "difference_pct", "low_pct", "high_pct", "significant"),
    *("num_questions", "paper_pct", "paper_low_pct", "paper_high_pct"),
    *MEASURED,
)


class AblateOptions(JobFlags):
    """Which variants, and the options of the stages that all of them share."""

    variants: tuple[Variant, ...] = Field(
        VARIANTS, description="Variants to compare; the selection is always included."
    )
    sweep: bool = Field(False, description="Evaluate every variant in all settings, not only at the natural end.")
    select: SelectOptions = Field(description="The selection; the other variants have the same size.")
    train: TrainOptions = Field(description="Fine-tuning of every variant.")
    evaluate: EvaluateOptions = Field(description="Evaluation of every variant: questions, engine.")


def selecting(variant: Variant, options: SelectOptions) -> SelectOptions:
    """The options that choose `variant`.

    The baselines take their rows from all of good quality, solved ones too: difficulty is what they do without. `all`
    takes every one of them.
    """
    if variant == "selection":
        return options
    shared = {
        name: getattr(options, name)
        for name in ("size", "seed", "ignore_issues", "drop_wrong", "max_trace_tokens", "near_duplicates")
    }
    method = {"random": "random", "diverse": "cluster", "longest": "longest", "all": "random"}[variant]
    size = EVERYTHING if variant == "all" else options.size
    return SelectOptions.model_validate({**shared, "drop_solved": False, "method": method, "size": size})


def evaluating(options: EvaluateOptions, sweep: bool) -> EvaluateOptions:
    """The tuned model alone; at its natural end alone unless the sweep is wanted."""
    one = options.model_copy(update={"models": (TUNED,)})
    if sweep:
        return one
    less: dict[str, Any] = {"budgets": (), "waits": (), "conditional": ConditionalOptions.model_validate({})}
    less["direct"] = DirectOptions.model_validate({"models": ()})
    return one.model_copy(update={**less, "parallel": ParallelOptions.model_validate({})})


def placed(job: Job[Any], variant: str) -> Job[Any]:
    """`job` with what a variant has of its own under the variant's folder."""
    where = {name: f"{FOLDER}/{variant}/{name}" if name in OWN else name for name in job.inputs}
    back = {path: name for name, path in where.items()}

    def run(options: Any, context: Context) -> Outcome:
        inputs = {back[path]: artifact for path, artifact in context.inputs.items()}
        return job.run(options, replace(context, inputs=inputs))

    def describe(options: Any, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
        return job.describe(options, {back[path]: manifest for path, manifest in manifests.items()})

    def needs(options: Any) -> tuple[str, ...]:
        return tuple(where[name] for name in (job.inputs if job.needs is None else job.needs(options)))

    return replace(
        job,
        inputs=tuple(where.values()),
        output=f"{FOLDER}/{variant}/{job.output}",
        run=run,
        describe=describe,
        needs=needs,
    )


def stages(options: AblateOptions, variant: Variant) -> list[tuple[Job[Any], Config]]:
    """Selection, training and evaluation of one variant."""
    asked = evaluating(options.evaluate, options.sweep)
    if not asked.domains and not asked.benchmarks:
        # All variants are asked the same questions: those of the domains that the selection covers.
        asked = asked.model_copy(update={"domains": _domains(options.run_dir)})
    return [
        (placed(select.JOB, variant), selecting(variant, options.select)),
        (placed(train.JOB, variant), options.train),
        (placed(evaluate.JOB, variant), asked),
    ]


def every_stage(options: AblateOptions) -> list[tuple[Job[Any], Config]]:
    """The stages of all variants."""
    return [stage for variant in in_order(options.variants) for stage in stages(options, variant)]


def demands(options: AblateOptions) -> tuple[Demand, ...]:
    """What all variants ask of a cluster: what none can give is told before the first has cost anything."""
    return capacity.of_stages((job.name, stage) for job, stage in every_stage(options))


def _domains(run_dir: str) -> tuple[str, ...]:
    chosen = Artifact(join(run_dir, FOLDER, SELECTION, "selection"))
    if chosen.manifest() is None:
        return ()
    domains = chosen.read(schema.SELECTION, ["domain"])["domain"].to_pylist()
    return tuple(sorted({domain for domain in domains if domain is not None}))


def in_order(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The selection first: the others are measured against it, and asked its questions."""
    return ("selection", *(variant for variant in dict.fromkeys(variants) if variant != "selection"))


def run(options: AblateOptions) -> list[dict[str, Any]]:
    """Run what is not up to date; returns the rows of the table."""
    with ExitStack() as stack:
        print("starting Ray", file=sys.stderr)
        stack.enter_context(ray_session(*demands(options)))
        for variant in in_order(options.variants):
            # The selection has to be there before the questions are known.
            for step in range(3):
                job, stage = stages(options, variant)[step]
                print(f"[{variant}] {job.name}", file=sys.stderr)
                execute(job, stage, options.run_dir, force=options.force)
    return table(options)


def table(options: AblateOptions) -> list[dict[str, Any]]:
    """One row of `COLUMNS` per variant, for all questions and for every benchmark."""
    found: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    engines: dict[str, Mapping[str, Any]] = {}
    for variant in in_order(options.variants):
        folder = join(options.run_dir, FOLDER, variant)
        generations = Artifact(join(folder, "generations"))
        found[variant] = generations.read(schema.GENERATIONS)
        evaluated = generations.manifest()
        engines[variant] = {} if evaluated is None else evaluated.facts.get("engine", {})
        chosen = Artifact(join(folder, "selection")).manifest()
        sizes[variant] = 0 if chosen is None else chosen.rows_out
    return rows(found, sizes, engines)


def rows(
    generations: Mapping[str, Any], sizes: Mapping[str, int], engines: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per variant and benchmark. `generations`: variant -> its table; `engines`: what it was measured with."""
    domains: dict[str, str | None] = {}
    for each in generations.values():
        domains |= dict(zip(each["question_id"].to_pylist(), each["domain"].to_pylist(), strict=True))
    right = {variant: verdicts(each, NATURAL).get(TUNED, {}) for variant, each in generations.items()}
    benchmarks = sorted({domain for domain in domains.values() if domain is not None})
    parts: dict[str, set[str]] = {"all": set(domains)}
    if len(benchmarks) > 1:
        parts |= {name: {key for key, domain in domains.items() if domain == name} for name in benchmarks}
    found: list[dict[str, Any]] = []
    for benchmark, keys in parts.items():
        part = {name: {key: hit for key, hit in run.items() if key in keys} for name, run in right.items()}
        if not set.intersection(*(set(run) for run in part.values())):
            if benchmark == "all":
                raise UserError("no question of the evaluation has a reference answer; nothing can be compared")
            continue
        for row in significance(part, SELECTION):
            low, high = row["interval_pct"] or (None, None)
            values = {**row, "variant": row["name"], "benchmark": benchmark, "low_pct": low, "high_pct": high}
            values |= {"num_examples": sizes.get(row["name"]), **_published(row["name"], benchmark, benchmarks)}
            values |= measured(engines.get(row["name"], {}))
            found.append({name: values[name] for name in COLUMNS})
    return found


def _published(variant: str, benchmark: str, benchmarks: Sequence[str]) -> dict[str, float | None]:
    """What the paper's table 2 has for the variant, where the benchmark is one of its own; bounds of its difference."""
    asked = benchmarks[0] if benchmark == "all" and len(benchmarks) == 1 else benchmark
    accuracy, interval = paper.ablation(variant, paper.NAMES.get(asked, ""))
    low, high = interval or (None, None)
    return {"paper_pct": accuracy, "paper_low_pct": low, "paper_high_pct": high}


def write(options: AblateOptions, found: Sequence[Mapping[str, Any]]) -> None:
    """The table as JSON, CSV and Markdown, beside the variants."""
    with Artifact(join(options.run_dir, FOLDER, "table")).staging() as staging:
        staging.write_bytes("ablations.json", json.dumps(list(found), indent=2).encode())
        staging.write_bytes("ablations.csv", as_csv(found, COLUMNS).encode())
        staging.write_bytes("ablations.md", as_markdown(found, COLUMNS).encode())
        config = options.model_dump(mode="json")
        staging.commit(Manifest("ablate", "", config, {}, "", len(found), len(found)))


def short_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    lines = [["variant", "examples", "questions", "accuracy", "difference", "95% interval"]]
    for row in found:
        name = row["variant"] if row["benchmark"] == "all" else f"{row['variant']}, {row['benchmark']}"
        known = row["low_pct"] is not None
        interval = f"{signed(row['low_pct'])} to {signed(row['high_pct'])}{' *' if row['significant'] else ''}"
        cells = (row["num_examples"], row["num_questions"], percent(row["accuracy_pct"]), signed(row["difference_pct"]))
        lines.append([name, *map(str, cells), interval if known else UNKNOWN])
    return align(lines)


def main(argv: Sequence[str]) -> None:
    """Parse, check, then print the plans or run."""
    options = cli.parse(
        AblateOptions,
        argv,
        prog="python -m jobs.ablate",
        description=str(__doc__),
        fill=lambda sections: {
            "run_dir": sections["run_dir"],
            **{name: sections.get(name, {}) for name in ("select", "train", "evaluate")},
        },
    )
    options = options.model_copy(update={"run_dir": run_folder(options.run_dir)})
    if options.evaluate.endpoint is not None:
        raise UserError(
            f"evaluate.endpoint={options.evaluate.endpoint}: every variant runs its own model; leave it out"
        )
    check_folder(train.JOB, options.train, options.run_dir)
    asked = every_stage(options)
    for job, stage in asked:
        job.check(stage)
    if options.dry_run:
        print("\n\n".join(render_plan(plan(job, stage, options.run_dir)) for job, stage in asked))
        return
    for name in ("questions", "features") if not options.evaluate.benchmarks else ("features",):
        if Artifact(join(options.run_dir, name)).manifest() is None:
            raise UserError(
                f"ablate needs the {name} of a run, but {options.run_dir} holds none; run python -m jobs.pipeline first"
            )
    if options.force or not all(up_to_date(job, stage, options.run_dir) for job, stage in asked):
        train.check_hub(options.train)
        evaluate.check_hub(options.evaluate)
    found = run(options)
    write(options, found)
    print(f"\n{short_table(found)}\n\n{join(Artifact(options.run_dir).path, FOLDER, 'table')}")


if __name__ == "__main__":
    cli.main(lambda: main(sys.argv[1:]))
