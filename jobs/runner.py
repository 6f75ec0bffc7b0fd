"""What every job shares: config → plan → run → manifest.

A job is a value: its options, the artifacts it reads, the one it writes, a check that costs nothing, and `run`. The
plan is pure; `--dry-run` prints it. A job whose output carries a manifest with the plan's fingerprint is skipped.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import Field, create_model

from jobs import cli
from jobs.lock import alone
from jobs.ray_session import run_folder
from s1 import __version__
from s1.artifacts import Artifact, Manifest, Staging, join
from s1.config import Config
from s1.errors import DISK_FULL, UserError
from s1.hashing import fingerprint
from s1.sources.hub import Hub

OptionsT = TypeVar("OptionsT", bound=Config)


class RunFlags(Config):
    """Flags of every command about a run."""

    preset: str = Field(
        "laptop",
        description=f"Values of all options that are not given: {', '.join(cli.presets())}, or a YAML file of your own "
        "(docs/configuration.md).",
    )
    run_dir: str = Field(
        "runs/laptop",
        description="Folder that holds the tables of this run, one folder each. Jobs that neither train, run nor "
        "publish a model take a URI (s3://…, gs://…) too.",
    )


class JobFlags(RunFlags):
    """Flags that every job takes beside its own options."""

    dry_run: bool = Field(False, description="Print the plan and stop.")
    force: bool = Field(False, description="Run even when the manifest says that the output is up to date.")


@dataclass(frozen=True)
class Outcome:
    """What a run reports about itself; it becomes the manifest."""

    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    cost_usd: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a run may touch: inputs to read, a staging folder to write, a folder that survives a kill."""

    inputs: Mapping[str, Artifact]
    staging: Staging
    run_dir: str
    identity: str  # the plan's fingerprint
    scratch: str  # belongs to this very plan; kept until the job is committed, so that a killed run can go on


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """One stage of the recipe."""

    name: str
    summary: str  # first lines of --help
    options: type[OptionsT]
    inputs: tuple[str, ...]  # names of artifacts under the run folder
    output: str
    run: Callable[[OptionsT, Context], Outcome]
    check: Callable[[OptionsT], None] = lambda _: None  # raises UserError; touches files, never Ray
    describe: Callable[[OptionsT, Mapping[str, Manifest | None]], Sequence[str]] = lambda *_: ()
    outside: Callable[[OptionsT], object] = lambda _: None  # state of files outside the run folder, as JSON
    on_hub: Callable[[OptionsT], Sequence[Hub]] = lambda _: ()  # data sets of the hub that it reads
    needs: Callable[[OptionsT], tuple[str, ...]] | None = None  # the inputs that these very options need; else all
    linked: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}  # options that other sections of a preset give
    needs_folder: Callable[[OptionsT], bool] = lambda _: False  # a run folder in an object store does not do
    # Dotted names of options, or of sections of them, that change how the job runs and not what it writes: no part of
    # its identity, so that another value goes on from what is finished.
    how: tuple[str, ...] = ()
    # Whether a finished output does under these options, which may differ from its own in `how`.
    suffices: Callable[[OptionsT, Manifest], bool] = lambda *_: True


@dataclass(frozen=True)
class Plan:
    """What a job would do: pure, printable."""

    job: str
    output: str
    inputs: dict[str, str]  # artifact name -> URI
    input_fingerprints: dict[str, str | None]  # None: not there yet
    config: dict[str, Any]
    fingerprint: str
    notes: tuple[str, ...]


def plan(job: Job[OptionsT], options: OptionsT, run_dir: str) -> Plan:
    """The plan of `job` in `run_dir`. Reads manifests, starts nothing."""
    needed = job.inputs if job.needs is None else job.needs(options)
    inputs = {name: join(run_dir, name) for name in needed}
    manifests = {name: Artifact(uri).manifest() for name, uri in inputs.items()}
    prints = {name: manifest.fingerprint if manifest else None for name, manifest in manifests.items()}
    config = options.model_dump(mode="json")
    # What was made again under the same fingerprint, of a teacher that first lacked some traces, differs in its rows.
    read = {name: found and [found.fingerprint, found.rows_out] for name, found in manifests.items()}
    own = identity(job, config, read, job.outside(options))
    notes = tuple(job.describe(options, manifests))
    return Plan(job.name, join(run_dir, job.output), inputs, prints, config, own, notes)


def identity(job: Job[Any], config: Mapping[str, Any], inputs: object, outside: object) -> str:
    """The fingerprint of what `job` would write. KeyError when a name in `job.how` is no option of `config`."""
    what = copy.deepcopy(dict(config))
    for name in job.how:
        *sections, option = name.split(".")
        section = what
        for each in sections:
            section = section[each]
        del section[option]
    return fingerprint({"job": job.name, "config": what, "inputs": inputs, "code": __version__, "outside": outside})


def up_to_date(job: Job[OptionsT], options: OptionsT, run_dir: str) -> Manifest | None:
    """The manifest of the output when it is what `job` would write now, else None."""
    return _found(job, options, plan(job, options, run_dir))


def _found(job: Job[OptionsT], options: OptionsT, planned: Plan) -> Manifest | None:
    found = Artifact(planned.output).manifest()
    if found is None or found.fingerprint != planned.fingerprint or not job.suffices(options, found):
        return None
    return found


def check(job: Job[OptionsT], options: OptionsT, run_dir: str) -> None:
    """UserError for what can be known before anything is started: options that cannot be, or not in this run folder."""
    check_folder(job, options, run_dir)
    job.check(options)


def check_folder(job: Job[OptionsT], options: OptionsT, run_dir: str) -> None:
    """UserError when `run_dir` is an object store and the job needs a folder. Asks no object store."""
    if "://" in run_dir and not run_dir.startswith("file://") and job.needs_folder(options):
        raise UserError(
            f"run_dir={run_dir!r} is an object store; a model that is trained, run or published, and a data set that "
            "is uploaded, have to lie in a folder: give one, on a cluster one that every node mounts"
        )


def execute(job: Job[OptionsT], options: OptionsT, run_dir: str, *, force: bool = False) -> Manifest:
    """Run `job` unless its output is up to date; returns the manifest of the output."""
    check(job, options, run_dir)
    planned = plan(job, options, run_dir)
    missing = [name for name, value in planned.input_fingerprints.items() if value is None]
    if missing:
        raise UserError(
            f"{job.name} needs the {missing[0]} of this run, but {planned.inputs[missing[0]]} holds none; "
            "run the job that writes it, or python -m jobs.pipeline"
        )
    if not force and (found := _found(job, options, planned)) is not None:
        return _said(job, planned, found)
    lock = join(run_dir, "_scratch", f"{job.output.replace('/', '-')}.lock")
    with _space_is_left(planned.output), alone(lock, planned.output):
        # Whoever had the lock may have made it.
        made = None if force else _found(job, options, planned)
        return _make(job, options, planned, run_dir) if made is None else _said(job, planned, made)


def _said(job: Job[Any], planned: Plan, found: Manifest) -> Manifest:
    print(f"{job.name}: up to date ({found.rows_out} rows in {planned.output})", file=sys.stderr)
    return found


def _make(job: Job[OptionsT], options: OptionsT, planned: Plan, run_dir: str) -> Manifest:
    started = time.monotonic()
    with Artifact(planned.output).staging() as staging:
        context = Context(
            inputs={name: Artifact(uri) for name, uri in planned.inputs.items()},
            staging=staging,
            run_dir=run_dir,
            identity=planned.fingerprint,
            scratch=join(run_dir, "_scratch", f"{job.name}-{planned.fingerprint}"),
        )
        outcome = job.run(options, context)
        manifest = staging.commit(
            Manifest(
                job=job.name,
                fingerprint=planned.fingerprint,
                config=planned.config,
                inputs={name: value or "" for name, value in planned.input_fingerprints.items()},
                code_version=__version__,
                rows_in=outcome.rows_in,
                rows_out=outcome.rows_out,
                dropped=outcome.dropped,
                seconds=round(time.monotonic() - started, 3),
                cost_usd=outcome.cost_usd,
                facts=outcome.facts,
            )
        )
    _clear(context.scratch)
    print(f"{job.name}: {_summary(manifest)} -> {planned.output}", file=sys.stderr)
    return manifest


@contextmanager
def _space_is_left(uri: str) -> Generator[None]:
    """A full disk as one line; what was there before is untouched, since an artifact is committed as a whole."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{uri}: cannot be written ({os.strerror(error.errno)}); free some space and run the same command again, "
            "what was finished before is kept"
        ) from error


def _clear(uri: str) -> None:
    scratch = Artifact(uri)
    if scratch.exists():
        scratch.fs.delete_dir(scratch.path)


def _summary(manifest: Manifest) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items() if count)
    cost = f", ${manifest.cost_usd:.2f}" if manifest.cost_usd else ""
    tail = f" (dropped: {dropped})" if dropped else ""
    return f"{manifest.rows_in} in, {manifest.rows_out} out{tail}, {manifest.seconds:.1f} s{cost}"


def render_plan(planned: Plan) -> str:
    """The plan as text, for `--dry-run`."""
    import yaml

    inputs = [
        f"  {name}: {uri} ({planned.input_fingerprints[name] or 'not there yet'})"
        for name, uri in planned.inputs.items()
    ]
    config = yaml.safe_dump(planned.config, sort_keys=False, allow_unicode=True).rstrip().replace("\n", "\n  ")
    lines = [f"{planned.job} [{planned.fingerprint}]", f"  writes: {planned.output}"]
    if inputs:
        lines += ["  reads:", *(f"  {line}" for line in inputs)]
    return "\n".join([*lines, *(f"  {note}" for note in planned.notes), f"  {config}"])


def command(job: Job[OptionsT], argv: Sequence[str] | None = None) -> None:
    """`python -m jobs.<name>`: parse, plan, run."""
    arguments = sys.argv[1:] if argv is None else argv
    cli.main(lambda: _command(job, arguments))


def section(job: Job[Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset says about the options of `job`."""
    return {**job.linked(sections), **sections.get(job.name, {})}


def parse(job: Job[OptionsT], argv: Sequence[str]) -> tuple[OptionsT, JobFlags]:
    """The options of a job and the flags of every job that a command line asks for. UserError for a mistake in it."""
    flags_and_options = create_model(f"{job.name.title()}Command", __base__=(job.options, JobFlags))

    def fill(sections: dict[str, Any]) -> dict[str, Any]:
        return {**section(job, sections), "run_dir": sections["run_dir"]}

    parsed = cli.parse(flags_and_options, argv, prog=f"python -m jobs.{job.name}", description=job.summary, fill=fill)
    flags = JobFlags(**{name: getattr(parsed, name) for name in JobFlags.model_fields})
    options = job.options(**{name: getattr(parsed, name) for name in job.options.model_fields})
    return options, flags.model_copy(update={"run_dir": run_folder(flags.run_dir)})


def _command(job: Job[OptionsT], argv: Sequence[str]) -> None:
    options, flags = parse(job, argv)
    check(job, options, flags.run_dir)
    if flags.dry_run:
        print(render_plan(plan(job, options, flags.run_dir)))
        return
    execute(job, options, flags.run_dir, force=flags.force)
