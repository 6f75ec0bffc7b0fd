"""Files with faults: one line, or set aside and counted; what is good is collected."""

import errno
import gzip
import json
import os
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.collect import JOB, CollectOptions
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.sources.records import read

GOOD = b'{"question": "One?"}\n'


def set_aside(tmp_path, name: str, content: bytes, **options: object) -> tuple[list[str], int, list[str]]:
    """Questions that are collected, how many rows are set aside, and the lines about them."""
    path = tmp_path / name
    path.write_bytes(content)
    values = {"source": "files", "path": str(path), "on_fault": "set_aside", **options}
    manifest = execute(JOB, CollectOptions.model_validate(values), str(tmp_path / "run"))
    table = Artifact(str(tmp_path / "run" / "questions"))
    lines = (tmp_path / "run" / "questions" / "_set_aside.txt").read_text().splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    questions = table.read(schema.QUESTIONS, columns=["question"])["question"].to_pylist()
    assert manifest.rows_in == len(questions) + manifest.dropped["set aside"] + manifest.dropped["duplicate"]
    return questions, manifest.dropped["set aside"], lines


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"question": "\xff"}', "row 2: not UTF-8"),
        (b'{"question": null}', "row 2: no question"),
        (b'{"answer": "1"}', "row 2: no question"),
        (b'{"question"', "row 2: not JSON"),
        (b"[1]", "row 2: is a list"),
        (json.dumps({"question": "x" * 10_000_000}).encode(), "row 2: a question of 10000000 characters"),
        (json.dumps({"question": "?", "answer": "x" * 200_000}).encode(), "row 2: an answer of 200000 characters"),
        (json.dumps({"question": "?", "solution": "x" * 200_000}).encode(), "row 2: a solution of 200000 characters"),
    ],
)
def test_a_bad_row_is_set_aside_and_the_rest_is_collected(tmp_path, row, says):
    content = GOOD + row + b'\n{"question": "Two?"}'
    questions, count, lines = set_aside(tmp_path, "a.jsonl", content)
    assert (questions, count) == (["One?", "Two?"], 1)
    assert says in lines[0]


@pytest.mark.parametrize(
    ("field", "says"), [("question", "a question"), ("answer", "an answer"), ("solution", "a solution")]
)
def test_a_text_that_is_too_long_is_one_line(tmp_path, field, says):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "Short?", field: "x" * 200}))
    with pytest.raises(UserError, match=rf"row 1: {says} of 200 characters, at most 100"):
        execute(JOB, CollectOptions(source="files", path=str(path), max_question_chars=100), str(tmp_path / "run"))


def test_a_truncated_gzip_keeps_what_was_read(tmp_path):
    # Random text hardly shrinks, so that half of the file is half of the rows.
    rows = b"".join(json.dumps({"question": os.urandom(200).hex()}).encode() + b"\n" for _ in range(2000))
    packed = gzip.compress(rows)
    questions, count, lines = set_aside(tmp_path, "a.jsonl.gz", packed[: len(packed) // 2])
    assert 500 < len(questions) < 1500 and count <= 2
    assert "truncated gzip" in lines[-1]


def test_csv_rows_of_another_shape_are_set_aside(tmp_path):
    content = b"question,answer\nOne?,1\nTwo?\nThree?,3,3\nFour?,4\n"
    questions, count, _ = set_aside(tmp_path, "a.csv", content)
    assert (questions, count) == (["One?", "Four?"], 2)


@pytest.mark.parametrize(
    ("header", "bad", "lost"),
    [
        (b"question,answer", b"Stra\xdfe?,1", [2]),
        (b"question,answer", b'"Two\nlines \xff?",1', [2]),
        (b"question,r\xe9ponse", b"Two?,2", range(1, 503)),
    ],
)
def test_csv_rows_that_are_not_utf8_are_set_aside_one_by_one(tmp_path, header, bad, lost):
    good = [f"Question {n}?,{n}".encode() for n in range(501)]
    content = b"\n".join([header, good[0], bad, *good[1:], b""])
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    found: list[str] = []
    records = list(read(str(path), lambda line, num_rows=1: found.append(line)))
    assert [line.partition(":")[0] for line in found] == [str(path)] * len(lost)
    assert [f": row {row}: not UTF-8" in line for row, line in zip(lost, found, strict=True)] == [True] * len(lost)
    assert len(records) == 502 - len(lost)
    with pytest.raises(UserError, match=rf"a\.csv: row {lost[0]}: not UTF-8"):
        list(read(str(path)))


def test_a_damaged_part_of_a_parquet_file_takes_its_row_group_with_it(tmp_path):
    rows = [{"question": f"Question {n} {os.urandom(20).hex()}?"} for n in range(300)]
    file = tmp_path / "good.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100, compression="zstd")
    start = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    questions, count, lines = set_aside(tmp_path, "a.parquet", bytes(content))
    assert (len(questions), count) == (200, 100)
    assert "rows 101 to 200: not readable as Parquet" in lines[0]


def test_duplicates_are_no_fault(tmp_path):
    questions, count, _ = set_aside(tmp_path, "a.jsonl", GOOD + GOOD + b"nothing\n")
    assert (questions, count) == (["One?"], 1)


def test_a_file_with_nothing_good_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"nothing\n")
    options = CollectOptions(source="files", path=str(path), on_fault="set_aside")
    with pytest.raises(UserError, match=r"1 rows set aside; the first: .*a.jsonl: row 1: not JSON"):
        execute(JOB, options, str(tmp_path / "run"))


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    run = str(tmp_path / "run")
    before = execute(JOB, CollectOptions(source="files", path=str(path)), run)
    path.write_text("".join(json.dumps({"question": os.urandom(1000).hex()}) + "\n" for _ in range(200)))
    # A limit of file sizes stands for a disk that is full; Python ignores its signal and gets an error.
    found = subprocess.run(
        [sys.executable, "-m", "jobs.collect", "--source", "files", "--path", str(path), "--run-dir", run],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert os.strerror(errno.EFBIG) in line and "questions" in line
    table = Artifact(str(tmp_path / "run" / "questions"))
    assert table.manifest() == before
    assert table.read(schema.QUESTIONS, columns=["question"])["question"].to_pylist() == ["One?"]
