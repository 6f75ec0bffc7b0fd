import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs.set_aside import SetAside
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError


def manifest(rows: int) -> Manifest:
    return Manifest("collect", "f" * 16, {}, {}, "0", rows_in=rows, rows_out=rows)


def questions(*texts: str) -> pa.Table:
    return schema.to_table([{"question_id": text, "question": text} for text in texts], schema.QUESTIONS)


def test_what_was_committed_is_read_back_in_order(tmp_path):
    artifact = Artifact(str(tmp_path / "questions"))
    with artifact.staging() as staging:
        staging.write_table(questions("a", "b"), "part-00000.parquet")
        staging.write_table(questions("c"), "part-00001.parquet")
        staging.commit(manifest(3))
    assert artifact.read(schema.QUESTIONS)["question"].to_pylist() == ["a", "b", "c"]
    assert artifact.read(schema.QUESTIONS, columns=["question"]).column_names == ["question"]


def test_any_parquet_reader_opens_the_folder_of_a_table(tmp_path):
    folder = str(tmp_path / "questions")
    aside = SetAside()
    aside.add("questions.jsonl:3: no question")
    with Artifact(folder).staging() as staging:
        staging.write_table(questions("a", "b"), "part-00000.parquet")
        staging.write_table(questions("c"), "part-00001.parquet")
        aside.tell("collect", staging)
        staging.commit(manifest(3))
    with Artifact(folder).staging() as staging:  # another attempt, half-way
        staging.write_table(questions("d"))
        for table in (
            pq.read_table(folder),
            ds.dataset(folder).to_table(),
            pa.Table.from_pandas(pd.read_parquet(folder)),
        ):
            assert table["question"].to_pylist() == ["a", "b", "c"]


def test_half_written_output_is_not_there_for_any_reader(tmp_path):
    artifact = Artifact(str(tmp_path / "questions"))
    with artifact.staging() as staging:
        staging.write_table(questions("a"))
        assert artifact.manifest() is None
        assert ds.dataset(str(tmp_path / "questions"), format="parquet").count_rows() == 0
        with pytest.raises(UserError, match="no committed QUESTIONS"):
            artifact.read(schema.QUESTIONS)
    with artifact.staging() as staging:
        staging.write_table(questions("b"))
        staging.commit(manifest(1))
    assert [path.name for path in sorted((tmp_path / "questions").iterdir())] == [
        "_manifest.json",
        "part-00000.parquet",
    ]


def test_a_second_commit_replaces_the_first_whole(tmp_path):
    artifact = Artifact(str(tmp_path / "questions"))
    for parts in (("a", "b"), ("c",)):
        with artifact.staging() as staging:
            for number, text in enumerate(parts):
                staging.write_table(questions(text), f"part-{number:05d}.parquet")
            staging.commit(manifest(len(parts)))
    assert artifact.read(schema.QUESTIONS)["question"].to_pylist() == ["c"]
    assert ds.dataset([str(path) for path in (tmp_path / "questions").glob("*.parquet")]).count_rows() == 1


def test_another_table_version_is_named(tmp_path):
    artifact = Artifact(str(tmp_path / "questions"))
    with artifact.staging() as staging:
        staging.write_table(questions("a").replace_schema_metadata({"table": "QUESTIONS", "version": "0"}))
        staging.commit(manifest(1))
    with pytest.raises(UserError, match=r"QUESTIONS version 0, but QUESTIONS version 1"):
        artifact.read(schema.QUESTIONS)


def test_a_missing_column_is_named_with_its_file(tmp_path):
    artifact = Artifact(str(tmp_path / "questions"))
    with artifact.staging() as staging:
        staging.write_table(questions("a").drop_columns(["answer"]))
        staging.commit(manifest(1))
    for read in (artifact.read, lambda table: list(artifact.batches(table))):
        with pytest.raises(UserError, match=r"part-00000.parquet: table QUESTIONS lacks column 'answer'"):
            read(schema.QUESTIONS)


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"), Artifact(str(tmp_path / "file" / "x")).staging():
        pass
