"""The model as judge: asked where no rule says that an answer is right, about traces and about solvers' attempts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import Field

from actors.grader import ruled_out
from jobs.asking import AskOptions, Prompt, ask
from s1 import schema
from s1.artifacts import Artifact
from s1.grading import judge

Row = dict[str, Any]
_COLUMNS = ["question_id", "question", "answer", "source", "attempt"]


class JudgeOptions(AskOptions):
    """Whether a model is asked, and which."""

    enabled: bool = Field(default=False, description="Ask a model about answers that no rule accepts.")


def references(questions: Artifact) -> dict[str, str]:
    """Worked solutions by question id: what the judge compares with where there is no answer."""
    table = questions.read(schema.QUESTIONS, columns=["question_id", "solution"])
    pairs = zip(table["question_id"].to_pylist(), table["solution"].to_pylist(), strict=True)
    return {key: solution for key, solution in pairs if solution}


def judge_traces(
    options: JudgeOptions, traces: Artifact, features: Mapping[str, Row], solutions: Mapping[str, str], ledger_uri: str
) -> Row:
    """Set trace_correct of the traces that no rule finds right and no fault rules out; what the report tells of it."""
    prompts: dict[str, Prompt] = {}
    for batch in traces.batches(schema.TRACES, _COLUMNS):
        for row in batch.to_pylist():
            known = features[row["question_id"]]
            if not known["trace_correct"] and not ruled_out(known["quality_issues"]):
                add_prompt(prompts, row["question_id"], row, row["attempt"], solutions)
    answers = ask(options, prompts, judge.verdict, ledger_uri, "featurize: judge of traces")
    for key, verdict in answers.found.items():
        features[key]["trace_correct"] = verdict
    right = sum(answers.found.values())
    return {"asked": len(prompts), "right": right, "unread": answers.num_unread, "cost_usd": answers.cost_usd}


def judge_attempts(
    options: JudgeOptions,
    attempts: list[Row],
    questions: pa.Table,
    solutions: Mapping[str, str],
    ledger_uri: str,
    spent_usd: float,
) -> Row:
    """Set solver_correct of attempts that no rule finds right; what the report tells about it.

    `spent_usd`: what the judge has cost before.
    """
    asked = {row["question_id"]: row for row in questions.to_pylist()}
    prompts: dict[str, Prompt] = {}
    for at, row in enumerate(attempts):
        if not row["solver_correct"]:
            add_prompt(prompts, str(at), asked[row["question_id"]], row["solver_attempt"], solutions)
    answers = ask(options, prompts, judge.verdict, ledger_uri, "featurize: judge of solvers", spent_usd)
    for key, verdict in answers.found.items():
        attempts[int(key)]["solver_correct"] = verdict
    right = sum(answers.found.values())
    return {"asked": len(prompts), "right": right, "unread": answers.num_unread, "cost_usd": answers.cost_usd}


def add_prompt(
    prompts: dict[str, Prompt], key: str, row: Mapping[str, Any], attempt: str | None, solutions: Mapping[str, str]
) -> None:
    """Ask about an attempt, if there is one and something to compare it with; the gym's verifiers need no judge."""
    reference = solutions.get(row["question_id"]) or row["answer"]
    if attempt and attempt.strip() and reference and row["source"] != "gym":
        prompts[key] = partial(judge.prompt, row["question"], reference, attempt)
