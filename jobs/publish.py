"""Publish the selected rows: SELECTION becomes a data set in the schema of s1K, with its card.

    python -m jobs.publish --preset laptop --title "s1K of my own"
    python -m jobs.publish --preset s1 --repo owner/name --licence apache-2.0
    python -m jobs.publish --preset s1 --model-repo owner/name

Writes Parquet and README.md into the run's folder `published`, and uploads it if a repository on the hub is named. With
--model-repo, the trained model in the run's folder `checkpoint` is uploaded too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field, PositiveInt

from jobs.runner import Context, Job, Outcome, command
from s1 import hub_client, schema
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config
from s1.errors import UserError
from s1.publication import card, rows

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
CARD_COLUMNS = ["question_id", "source", "domain", "teacher", "trace_kind"]


class PublishOptions(Config):
    """What the data set is called, and where it goes."""

    title: str = Field(default="s1K, made anew", description="Title of the card.")
    licence: str = Field(default="", description="Licence of the data set, as the hub names it, such as apache-2.0.")
    licences: dict[str, str] = Field(default={}, description="Patterns of sources, and the licence of each.")
    repo: str = Field(default="", description="Repository on the hub, owner/name; if empty, nothing is uploaded.")
    model_repo: str = Field(default="", description="Repository for the trained model; if empty, it is not uploaded.")
    private: bool = Field(default=True, description="Make a repository that does not exist yet private.")
    rows_per_file: PositiveInt = Field(default=100_000, description="Rows per Parquet file.")


def check(options: PublishOptions) -> None:
    """Raise UserError for a repository that cannot be one."""
    for name in ("repo", "model_repo"):
        value = getattr(options, name)
        if value and not _REPO.fullmatch(value):
            raise UserError(f"{name}={value!r}: must be owner/name")
    if options.repo and options.repo == options.model_repo:
        raise UserError(f"repo and model_repo are both {options.repo!r}; name two")


def describe(options: PublishOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """How many rows go where."""
    selection = manifests.get("selection")
    count = "?" if selection is None else selection.rows_out
    notes = [f"publishes: {count} rows, {'to ' + options.repo if options.repo else 'to the folder only'}"]
    return [*notes, f"publishes: the trained model, to {options.model_repo}"] if options.model_repo else notes


def needs(options: PublishOptions) -> tuple[str, ...]:
    """The trained model is read only when it is published."""
    return ("selection", "questions", "checkpoint") if options.model_repo else ("selection", "questions")


def run(options: PublishOptions, context: Context) -> Outcome:
    """Write the rows and the card, then upload them."""
    selection = context.inputs["selection"]
    described = selection.read(schema.SELECTION, columns=CARD_COLUMNS).to_pylist()
    solutions = _solutions(context.inputs["questions"], {row["question_id"] for row in described})
    context.staging.fs.create_dir(join(context.staging.path, "data"), recursive=True)
    files = max(1, -(-len(described) // options.rows_per_file))
    for number, table in enumerate(_tables(selection, solutions, options.rows_per_file)):
        context.staging.write_table(table, f"data/train-{number:05d}-of-{files:05d}.parquet")
    manifests = {
        name: Artifact(join(context.run_dir, name)).manifest() for name in ("questions", "traces", "selection")
    }
    known = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    text = card.render(card.Card(options.title, options.licence, options.licences, known), described)
    context.staging.write_bytes("README.md", text.encode())
    facts: dict[str, Any] = {"files": files}
    if options.repo:
        folder = str(context.staging.local_path)
        facts["url"] = upload(options.repo, "dataset", folder, "Publish the selection", private=options.private)
    if options.model_repo:
        folder = context.inputs["checkpoint"].path
        facts["model_url"] = upload(options.model_repo, "model", folder, "Publish the model", private=options.private)
    return Outcome(len(described), len(described), facts=facts)


def _solutions(questions: Artifact, wanted: set[str]) -> dict[str, str | None]:
    """Worked solutions of the questions that were chosen."""
    table = questions.read(schema.QUESTIONS, columns=["question_id", "solution"])
    table = table.filter(pa.array([key in wanted for key in table["question_id"].to_pylist()], pa.bool_()))
    return dict(zip(table["question_id"].to_pylist(), table["solution"].to_pylist(), strict=True))


def _tables(selection: Artifact, solutions: Mapping[str, str | None], rows_per_file: int) -> Iterator[pa.Table]:
    table = selection.read(schema.SELECTION).sort_by("pick_order")
    for start in range(0, max(1, table.num_rows), rows_per_file):
        part = table.slice(start, rows_per_file).to_pylist()
        made = [rows.published(row, solutions.get(row["question_id"])) for row in part]
        yield pa.Table.from_pylist(made, schema=rows.PUBLISHED)


def upload(repo: str, kind: str, folder: str, message: str, *, private: bool) -> str:
    """Put the folder into the repository `repo` of `kind`; its address. UserError when the hub refuses."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=message)
    except hub_client.failures() as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{repo!r}: the hub refused it ({reason}); check the name, the connection and HF_TOKEN"
        ) from error
    return str(url)


JOB = Job(
    name="publish",
    summary=(__doc__ or "").strip(),
    options=PublishOptions,
    inputs=("selection", "questions", "checkpoint"),
    needs=needs,
    needs_folder=lambda options: bool(options.repo or options.model_repo),
    output="published",
    run=run,
    check=check,
    describe=describe,
)

if __name__ == "__main__":
    command(JOB)
