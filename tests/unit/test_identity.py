"""What a stage is recognised by: every option but those that only say how it runs."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from jobs import collect, distill, evaluate, featurize, publish, report, select, train
from jobs.distill import DistillOptions, suffices
from jobs.runner import Job, identity, parse
from s1.artifacts import Manifest

JOBS: list[Job[Any]] = [
    *(collect.JOB, distill.JOB, featurize.JOB, select.JOB, train.JOB, evaluate.JOB),
    *(report.JOB, publish.JOB),
]
# What nobody may take into `how`: it decides what is written, or the numbers that it is computed with.
DECIDES = {
    "collect": ("seed", "num_questions", "on_fault", "max_question_chars"),
    "distill": ("teacher", "openai.model", "openai.temperature", "openai.max_tokens", "recorded.path", "vllm.engine"),
    "featurize": ("solver.max_num_seqs", "solver.num_gpus", "solver.dtype", "embedder.batch_rows", "judge.rounds"),
    "select": ("size", "method", "seed", "shards"),
    "train": ("seed", "learning_rate", "batch_size", "zero_stage"),
    "evaluate": (
        *("budgets", "endpoint", "offline", "natural_max_tokens", "seed", "temperature", "parallel.scorer"),
        *("serve.engine.dtype", "serve.engine.tensor_parallel_size", "serve.engine.max_num_seqs"),
        *("serve.engine.engine_kwargs", "serve.engine.max_model_len", "serve.engine.threads"),
    ),
    "report": ("title", "paper"),
    "publish": ("repo", "rows_per_file"),
}


def config_of(job: Job[Any]) -> dict[str, Any]:
    return parse(job, ["--preset", "laptop"])[0].model_dump(mode="json")


def options_of(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every option; a mapping without keys is an option too."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from options_of(value, (*above, name))
        else:
            yield (*above, name)


def with_another_value(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    section = changed
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = ["another value", json.dumps(section[path[-1]])]
    return changed


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_only_options_that_say_how_a_job_runs_leave_its_fingerprint_alone(job: Job[Any]):
    config = config_of(job)
    own = identity(job, config, {}, None)
    for path in options_of(config):
        says_how = any(".".join(path[: at + 1]) in job.how for at in range(len(path)))
        changed = identity(job, with_another_value(config, path), {}, None)
        assert (changed == own) == says_how, ".".join(path)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_what_says_how_a_job_runs_is_an_option_and_named_once(job: Job[Any]):
    config = config_of(job)
    paths = {".".join(path[: at + 1]) for path in options_of(config) for at in range(len(path))}
    assert set(job.how) <= paths
    assert len(set(job.how)) == len(job.how)
    assert set(DECIDES[job.name]) <= paths - set(job.how)


@pytest.mark.parametrize(
    ("job", "options"),
    [
        (distill.JOB, ("pool.num_workers", "max_lost", "max_usd", "openai.timeout_s", "openai.limits.max_concurrency")),
        (featurize.JOB, ("grader_workers", "solver.num_workers", "judge.openai.retry", "domains.llm.pool.concurrency")),
        (select.JOB, ("shard_cpus",)),
        (train.JOB, ("workers", "micro_batch_size", "hardware")),
        (evaluate.JOB, ("timeout_s", "concurrency", "serve.startup_timeout_s", "usd_per_million_input")),
    ],
    ids=lambda value: value.name if isinstance(value, Job) else "",
)
def test_what_is_done_about_a_failure_does_not_start_over(job: Job[Any], options: tuple[str, ...]):
    config = config_of(job)
    for name in options:
        assert identity(job, with_another_value(config, tuple(name.split("."))), {}, None) == identity(
            job, config, {}, None
        )


def made(dropped: dict[str, int], **bounds: Any) -> Manifest:
    config = DistillOptions(**bounds).model_dump(mode="json")
    return Manifest("distill", "d" * 16, config, {}, "0", rows_in=100, rows_out=90, dropped=dropped)


def test_traces_that_lack_none_do_under_any_bounds():
    whole = made({"declined": 10}, max_usd=5, max_lost=0.5)
    assert suffices(DistillOptions(), whole) and suffices(DistillOptions(max_usd=50), whole)


def test_traces_that_lack_some_are_asked_for_again_under_other_bounds():
    partial = made({"unasked": 6, "transient": 4}, max_usd=5, max_lost=0.1)
    assert suffices(DistillOptions(max_usd=5, max_lost=0.1), partial)
    assert suffices(DistillOptions(max_usd=5, max_lost=0.9), partial)
    assert not suffices(DistillOptions(max_usd=5, max_lost=0.05), partial)
    assert not suffices(DistillOptions(max_usd=50, max_lost=0.1), partial)
    assert not suffices(DistillOptions(max_lost=0.1), partial)
