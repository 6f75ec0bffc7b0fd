"""The whole recipe: questions, traces, features, selection, training, evaluation, report.

    python -m jobs.pipeline --preset laptop
    ray job submit --working-dir . -- python -m jobs.pipeline --preset laptop --run-dir /shared/runs/demo

Options of a stage carry its name: --collect.seed 7. A stage whose output is up to date is skipped, so the same command
continues a killed run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pydantic import Field

from jobs import capacity, cli, collect, distill, evaluate, featurize, report, runner, select, train
from jobs.collect import CollectOptions
from jobs.distill import DistillOptions
from jobs.evaluation_options import EvaluateOptions
from jobs.featurize import FeaturizeOptions
from jobs.ray_session import joins_cluster, ray_session, run_folder
from jobs.report import ReportOptions
from jobs.runner import Job, JobFlags, execute, plan, render_plan, section, up_to_date
from jobs.select import SelectOptions
from jobs.train import TrainOptions
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config
from s1.errors import UserError
from s1.evaluation import benchmarks
from s1.evaluation.display import align, short_table
from s1.evaluation.report.page import seconds
from s1.sources import hub as data_sets

STAGES: tuple[Job[Any], ...] = (
    collect.JOB,
    distill.JOB,
    featurize.JOB,
    select.JOB,
    train.JOB,
    evaluate.JOB,
    report.JOB,
)


class PipelineOptions(JobFlags):
    """The options of all stages."""

    collect: CollectOptions = Field(description="Questions: where they come from.")
    distill: DistillOptions = Field(description="Traces: who writes them.")
    featurize: FeaturizeOptions = Field(description="Features: quality, the solver's attempt, embeddings.")
    select: SelectOptions = Field(description="Selection: how many, and how they are chosen.")
    train: TrainOptions = Field(description="Fine-tuning.")
    evaluate: EvaluateOptions = Field(description="Evaluation: settings, questions, endpoint.")
    report: ReportOptions = Field(description="Report.")

    def stages(self) -> Iterator[tuple[Job[Any], Config]]:
        """Every job with its options, in order."""
        return ((job, getattr(self, job.name)) for job in STAGES)


def check(options: PipelineOptions) -> None:
    """Everything that can be known before anything starts: each stage by itself, then what they ask of each other."""
    # The model to train is the student of featurize, too: what is wrong with it is told of train.
    for job, stage in sorted(options.stages(), key=lambda each: each[0] is not train.JOB):
        with _named(job):
            runner.check(job, stage, options.run_dir)
    if options.featurize.student != options.train.model:
        raise UserError(
            f"featurize.student={options.featurize.student!r}: its tokenizer would count the traces that "
            f"train.model={options.train.model!r} learns from; leave featurize.student out, or name the same model"
        )
    if options.collect.num_test == 0 and not options.evaluate.benchmarks:
        raise UserError(
            "collect.num_test=0 leaves no unseen question to evaluate on; give at least 1, or evaluate.benchmarks"
        )


def say_overlap(options: PipelineOptions) -> None:
    """One line about each benchmark whose questions are not kept out of the training."""
    for text in options.evaluate.benchmarks:
        if not benchmarks.is_among(text, options.featurize.test_sets):
            print(
                f"evaluate.benchmarks={text!r} is not among featurize.test_sets: questions that overlap with it may be "
                f"trained on; add {benchmarks.source(text)} there",
                file=sys.stderr,
            )


def check_hub(options: PipelineOptions) -> None:
    """Whether the hub gives every data set that the stages still to run will read, and the model to train can be.

    UserError with the stage's name. The first row of each data set is read, since nothing less shows that a name, a
    split and a token are right; of the model its configuration.
    """
    checked = set[data_sets.Hub]()
    stages = list(options.stages())
    current = [not options.force and up_to_date(*stage, options.run_dir) is not None for stage in stages]
    for number, (job, stage) in enumerate(stages):
        if all(current[: number + 1]):
            continue
        for hub in job.on_hub(stage):
            if hub in checked:
                continue
            if not checked:
                print("asking the hub for the data sets", file=sys.stderr)
            checked.add(hub)
            with _named(job):
                data_sets.check(hub)
        if job is train.JOB:
            with _named(job):
                train.check_hub(options.train)
        if job is evaluate.JOB:
            evaluate.check_hub(options.evaluate)


@contextmanager
def _named(job: Job[Any]) -> Generator[None]:
    """A UserError with the name of the stage, and its flags as they are given here."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{job.name}: {with_section(job, str(error))}") from error


def with_section(job: Job[Any], message: str) -> str:
    """`message` of a job run by itself, with its flags as the pipeline has them: `--packing` is `--train.packing`."""

    def named(flag: re.Match[str]) -> str:
        option = flag[1].removeprefix("no-").partition(".")[0].replace("-", "_")
        return f"--{job.name}.{flag[1]}" if option in job.options.model_fields else flag[0]

    return re.sub(r"(?<!\S)--([a-z][\w.-]*)", named, message)


def check_writable(run_dir: str) -> None:
    """Raise UserError when nothing can be written under `run_dir`; makes the folder."""
    folder = Artifact(run_dir)
    probe = join(folder.path, "_writable")
    try:
        folder.fs.create_dir(folder.path, recursive=True)
        with folder.fs.open_output_stream(probe) as sink:
            sink.write(b"")
        folder.fs.delete_file(probe)
    except OSError as error:
        raise UserError(f"run_dir={run_dir!r} cannot be written ({error}); choose a folder that can be") from error


def run(options: PipelineOptions) -> list[Manifest]:
    """Run what is not up to date; Ray is started or joined once, and only when a stage has to run."""
    manifests: list[Manifest] = []
    stages = list(options.stages())
    with ExitStack() as stack:
        waiting = True
        for number, (job, stage) in enumerate(stages, start=1):
            # Collecting needs no Ray: a bad row of the user's files is told before one is started for this run. A
            # cluster that is there already is asked even before that whether it can give what the stages need.
            may_start = job is not collect.JOB or joins_cluster()
            needed = may_start and (options.force or up_to_date(job, stage, options.run_dir) is None)
            if waiting and needed:
                print("joining the cluster" if joins_cluster() else "starting Ray", file=sys.stderr)
                # What a later stage will never get is told before the first one has cost anything.
                asked = capacity.of_stages((left.name, its) for left, its in stages[number - 1 :])
                stack.enter_context(ray_session(*asked))
                waiting = False
            print(f"[{number}/{len(STAGES)}] {job.name}", file=sys.stderr)
            try:
                manifests.append(execute(job, stage, options.run_dir, force=options.force))
            except UserError as error:
                raise UserError(with_section(job, str(error))) from error
    return manifests


def result(manifests: Sequence[Manifest]) -> str:
    """What the run has found and what it took, as a short table."""
    by_job = {manifest.job: manifest for manifest in manifests}
    times = [["stage", "rows in", "rows out", "time"]]
    times += [[m.job, f"{m.rows_in:,}", f"{m.rows_out:,}", seconds(m.seconds)] for m in manifests]
    times.append(["total", "", "", seconds(sum(manifest.seconds for manifest in manifests))])
    return f"{align(times)}\n\n{short_table(by_job['evaluate'].facts['summary'])}"


def parse(argv: Sequence[str]) -> PipelineOptions:
    """The options that a command line asks for."""
    options = cli.parse(
        PipelineOptions,
        argv,
        prog="python -m jobs.pipeline",
        description=str(__doc__),
        fill=lambda sections: {
            "run_dir": sections["run_dir"],
            **{job.name: section(job, sections) for job in STAGES},
        },
    )
    given = cli.flags(argv)
    featurize_options = options.featurize
    if "train.model" in given and "featurize.student" not in given:
        featurize_options = featurize_options.model_copy(update={"student": options.train.model})
    return options.model_copy(update={"run_dir": run_folder(options.run_dir), "featurize": featurize_options})


def main(argv: Sequence[str]) -> None:
    """Parse, check, then print the plans or run."""
    options = parse(argv)
    check(options)
    if options.dry_run:
        say_overlap(options)
        print("\n\n".join(render_plan(plan(job, stage, options.run_dir)) for job, stage in options.stages()))
        return
    check_writable(options.run_dir)
    check_hub(options)
    say_overlap(options)
    manifests = run(options)
    print(f"\n{result(manifests)}\n\n{join(Artifact(options.run_dir).path, 'report', 'report.html')}")


if __name__ == "__main__":
    cli.main(lambda: main(sys.argv[1:]))
