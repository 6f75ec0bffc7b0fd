"""Ask the base and the tuned model unseen questions, in every setting of the paper's methods (section 3.2).

    python -m jobs.evaluate --preset laptop
    python -m jobs.evaluate --endpoint http://localhost:8000/v1 --benchmarks aime24 math500

Without an endpoint both models are deployed on Ray Serve for the time of the job, or run on Ray Data with --offline. An
answer is written down as soon as it is graded, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from jobs import capacity
from jobs.evaluation_options import BASE, HOW, TUNED, ConditionalOptions, EvaluateOptions, ParallelOptions
from jobs.leftovers import name_leftovers
from jobs.progress import Progress
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from jobs.served import served
from s1 import extensions, schema, workload
from s1.artifacts import Manifest
from s1.endpoint import Endpoint, served_models, server_facts
from s1.errors import UserError
from s1.evaluation import benchmarks
from s1.evaluation.client import connected
from s1.evaluation.engine import OVERFLOW, as_they_come
from s1.evaluation.methods import Response, respond
from s1.evaluation.questions import choose, verdict
from s1.evaluation.settings import DIRECT, NATURAL, BestOf, Plan, Tree
from s1.evaluation.summary import summarise
from s1.evaluation.tasks import Sweep, Task, key_of
from s1.journal import Journal
from serve.measured import measured_with

NEVER_ENDS = 16  # responses in a row that only the context ended, before a model counts as one that never ends


def run(options: EvaluateOptions, context: Context) -> Outcome:
    """Ask, grade, write GENERATIONS."""
    questions = _questions(options, context)
    chosen = choose(questions, _domains(options, context), options.num_questions)
    if not chosen.questions:
        raise UserError(
            f"none of {len(questions)} test questions is of the domains that evaluate asks for; raise collect's "
            "num_test or set evaluate's domains"
        )
    sweep = _sweep(options, chosen.questions)
    name_leftovers("evaluate", context.scratch)
    with Journal(context.scratch) as journal:
        left = sweep.tasks(frozenset(map(key_of, journal.rows)))
        engine = _engine(options)
        if left:
            with _Recorder(options, journal, total=len(journal.rows) + len(left)) as recorder:
                _ask(options, context, sweep, left, recorder)
        table = schema.to_table(_in_order(journal.rows, sweep), schema.GENERATIONS)
    context.staging.write_table(table)
    facts = {"num_questions": len(chosen.questions), "engine": engine, "summary": summarise(table)}
    cost_usd = sum(table["cost_usd"].to_pylist())
    return Outcome(len(questions), table.num_rows, chosen.dropped, cost_usd=round(cost_usd, 6), facts=facts)


def _sweep(options: EvaluateOptions, questions: Sequence[Mapping[str, Any]]) -> Sweep:
    settings = options.settings
    parts: list[tuple[str, ConditionalOptions | ParallelOptions]] = [
        (setting.name, options.conditional) for setting in settings if setting.instruction is not None
    ]
    parts += [(setting.name, options.parallel) for setting in settings if setting.plan is not None]
    return Sweep(
        models=options.models,
        questions=tuple(questions),
        settings=settings,
        max_answer_tokens=options.max_answer_tokens,
        final_answer_prefix=options.final_answer_prefix,
        temperature=options.temperature,
        samples=options.samples,
        seed=options.seed,
        plain=options.plain,
        only_models={DIRECT: options.direct_models, **{name: part.models for name, part in parts}},
        only_questions={name: part.num_questions for name, part in parts if part.num_questions is not None},
    )


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


class _Recorder:
    """Grades responses and writes them down; notices a model that never ends its thinking."""

    def __init__(self, options: EvaluateOptions, journal: Journal, total: int) -> None:
        self.options, self.journal = options, journal
        self._bar = Progress("evaluate", total=total, unit="answers")
        self._cut: Counter[str] = Counter()
        self._ends: set[str] = set()

    def __enter__(self) -> _Recorder:
        self._bar.__enter__()
        self._bar.resume(len(self.journal.rows))
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.__exit__(*failure)

    def add(self, task: Task, response: Response) -> None:
        """Blocks while it grades."""
        self.journal.add(task.row(response, verdict(task.question, response), self.options.prices))
        self._bar.advance()
        self._check_ending(task, response)

    def _check_ending(self, task: Task, response: Response) -> None:
        model, setting = task.key[:2]
        if setting != NATURAL or model in self._ends:
            return
        if response.answer.ended_by not in ("context", "length", "budget"):
            if response.answer.ended_by != OVERFLOW:
                self._ends.add(model)
            return
        self._cut[model] += 1
        if self._cut[model] != NEVER_ENDS:
            return
        cap = task.setting.max_thinking_tokens
        if cap is not None:
            print(f"evaluate: {model} has not ended its thinking once in {cap} tokens", file=sys.stderr)
            return
        raise UserError(
            f"{model} filled its context {NEVER_ENDS} times without ending its thinking; check that it was trained "
            "with this template, or bound it with natural_max_tokens, which asks every question anew"
        )


def _ask(options: EvaluateOptions, context: Context, sweep: Sweep, tasks: Sequence[Task], recorder: _Recorder) -> None:
    """Ask what is left, and hand every response to the recorder as soon as it is there."""
    if options.offline:
        _ask_offline(options, context, tasks, recorder)
        return
    ordered = list(tasks) if options.shares_cores else sweep.mixed(tasks)
    with _endpoint(options, context) as endpoint:
        asyncio.run(_ask_endpoint(endpoint, options, ordered, recorder))


async def _ask_endpoint(
    endpoint: Endpoint, options: EvaluateOptions, tasks: Sequence[Task], recorder: _Recorder
) -> None:
    async with connected(endpoint, concurrency=options.concurrency, timeout_s=options.timeout_s) as engine:

        async def work(task: Task) -> Response:
            return await respond(engine, task.request, task.setting.plan)

        async with contextlib.aclosing(as_they_come(work, tasks, options.concurrency)) as responses:
            async for task, response in responses:
                # Grading takes a while for some answers: the requests under way must not wait for it.
                await asyncio.to_thread(recorder.add, task, response)


def _ask_offline(options: EvaluateOptions, context: Context, tasks: Sequence[Task], recorder: _Recorder) -> None:
    from jobs.offline import responses

    references, serving = _models(options, context)
    with ray_session(*capacity.of_evaluate(options)):
        for model, reference in references.items():
            asked = [task for task in tasks if task.key[0] == model]
            if asked:
                with contextlib.closing(responses(reference, asked, serving, options.concurrency)) as found:
                    for task, response in found:
                        recorder.add(task, response)


def _in_order(rows: Sequence[dict[str, Any]], sweep: Sweep) -> list[dict[str, Any]]:
    """By model, setting, question and sample, whatever came first."""
    by_key = {key_of(row): row for row in rows}
    return [by_key[task.key] for task in sweep.tasks()]


def _models(options: EvaluateOptions, context: Context) -> tuple[dict[str, str], Any]:
    """References of the models to run, and how: with the delimiters that the tuned one has learned."""
    checkpoint = context.inputs["checkpoint"]
    manifest = checkpoint.manifest()
    assert manifest is not None, "the runner looks for it"
    references = {BASE: options.base_model or manifest.config["model"], TUNED: checkpoint.path}
    engine = options.serve.engine.model_copy(update={"style": manifest.config["template"]})
    return {name: references[name] for name in options.models}, options.serve.model_copy(update={"engine": engine})


@contextlib.contextmanager
def _endpoint(options: EvaluateOptions, context: Context) -> Generator[Endpoint]:
    """The endpoint that was given, or the models deployed for the time of the block."""
    if options.endpoint is not None:
        yield _given_endpoint(options, options.endpoint)
        return
    asked, serving = _models(options, context)
    with ray_session(*capacity.of_evaluate(options)), served(asked, serving) as base_url:
        yield Endpoint(base_url)


def _engine(options: EvaluateOptions) -> dict[str, Any]:
    """What results depend on beside the model: engine, batch size, parallelism, precision, versions.

    Ours tells it at /version, others do not: what is not known is None.
    """
    facts: dict[str, Any] = {
        "concurrency": options.concurrency,
        "temperature": options.temperature,
        "samples": options.samples,
        "seed": options.seed,
    }
    if options.endpoint is not None:
        told = server_facts(_given_endpoint(options, options.endpoint))
        unknown = dict.fromkeys(("batch_size", "parallelism", "precision"))
        return {"engine": "endpoint", "endpoint": options.endpoint, **unknown, "versions": {}, **told, **facts}
    measured = measured_with(options.serve.engine, options.serve.num_replicas, "Data" if options.offline else "Serve")
    return {**measured, **facts, "serve": options.serve.model_dump(mode="json")}


def _given_endpoint(options: EvaluateOptions, base_url: str) -> Endpoint:
    return Endpoint(base_url, os.environ.get(options.api_key_env))


def check(options: EvaluateOptions) -> None:
    """What can be known before anything runs: the models' names, the base model, the benchmarks, the endpoint."""
    for text in options.benchmarks:
        benchmarks.check(text, options.fields)
    for setting in options.settings:
        _check_plan(setting.plan)
    if options.endpoint is None:
        unknown = sorted(set(options.models) - {BASE, TUNED})
        if unknown:
            raise UserError(f"models={unknown[0]!r}: only base and tuned can be run; give the endpoint that serves it")
        if options.base_model is not None:
            from s1 import models

            models.check(options.base_model)
        if options.serve.engine.device == "cpu":  # GPUs may be where the models run, and not here
            options.serve.engine.check_device("serve.engine")
        return
    if not options.endpoint.startswith(("http://", "https://")):
        raise UserError(f"endpoint={options.endpoint!r}: must be a URL like http://localhost:8000/v1")
    served = served_models(_given_endpoint(options, options.endpoint))
    missing = [name for name in options.models if served is not None and name not in served]
    if missing:
        raise UserError(
            f"endpoint {options.endpoint} does not serve {missing[0]!r} but {', '.join(served or ())}; set models"
        )


def check_hub(options: EvaluateOptions) -> None:
    """What only the hub can say, for jobs that train before they evaluate: its benchmarks can be read and graded."""
    for text in options.benchmarks:
        try:
            benchmarks.check_hub(text, options.fields)
        except UserError as error:
            raise UserError(f"evaluate: {error}") from error


def _code(plan: Plan | None) -> dict[str, str]:
    """The functions that a plan asks, `module:function`, by what they are for."""
    match plan:
        case BestOf():
            return {"scorer": plan.scorer}
        case Tree():
            return {"reward": plan.reward}
        case _:
            return {}


def _check_plan(plan: Plan | None) -> None:
    for name, reference in _code(plan).items():
        if not inspect.iscoroutinefunction(extensions.load(reference)):
            raise UserError(f"{name}={reference!r} is no async function; give module:function of one")


def outside(options: EvaluateOptions) -> object:
    """State of the benchmarks' files, and of the code of scorers and rewards."""
    code = {reference for setting in options.settings for reference in _code(setting.plan).values()}
    return [
        [benchmarks.state(text) for text in options.benchmarks],
        {reference: extensions.state(reference) for reference in code},
    ]


def describe(options: EvaluateOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    names = [setting.name for setting in options.settings]
    where = options.endpoint or f"Ray {'Data' if options.offline else 'Serve'}, for the time of the job"
    number = num_questions(options, manifests)
    work = workload_of(options, number)
    return (
        f"asks {', '.join(options.models)} in {len(names)} settings: {', '.join(names)}",
        "generates: unknown before the questions are there, unless num_questions is given"
        if work is None
        else f"generates for {number:,} questions: {work}",
        *((workload.ASSUMED,) if work is not None else ()),
        f"engine: {where}",
    )


def num_questions(options: EvaluateOptions, manifests: Mapping[str, Manifest | None]) -> int | None:
    """Most questions that are asked; None: not known before they are there."""
    if options.benchmarks:
        specs = [benchmarks.parse(text).spec for text in options.benchmarks]
        known = None if None in specs else sum(spec.num_questions for spec in specs if spec is not None)
    else:
        questions = manifests.get("questions")
        known = questions.facts.get("num_test") if questions else None
    return min((number for number in (known, options.num_questions) if number is not None), default=None)


def workload_of(options: EvaluateOptions, number: int | None) -> workload.Workload | None:
    """What the models generate for `number` questions; None for None."""
    if number is None:
        return None
    questions = [{"question_id": str(at), "question": ""} for at in range(number)]
    context = None if options.endpoint else options.serve.engine.context_tokens
    return workload.of_sweep(_sweep(options, questions), context)


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
    needs_folder=lambda options: options.endpoint is None,
    outside=outside,
    how=HOW,
)

if __name__ == "__main__":
    command(JOB)
