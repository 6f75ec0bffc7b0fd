import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.collect import JOB, CollectOptions
from jobs.runner import command, execute
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.hashing import question_id
from s1.sources import gym, records
from s1.sources.mapping import Fields, to_question

ROWS = [{"problem": f"What is {n} + {n}?", "answer": 2.0 * n, "subject": "sums"} for n in range(1, 6)]


def collect_files(tmp_path: Path, path: Path, **options: object) -> list[dict]:
    values = {"source": "files", "path": str(path), **options}
    execute(JOB, CollectOptions.model_validate(values), str(tmp_path / "run"))
    return Artifact(str(tmp_path / "run" / "questions")).read(schema.QUESTIONS).to_pylist()


def encode(suffix: str) -> bytes:
    if suffix == ".jsonl":
        return "\n\n".join(json.dumps(row) for row in ROWS).encode()
    if suffix == ".json":
        return json.dumps(ROWS, indent=1).encode()
    if suffix == ".csv":
        lines = ["problem,answer,subject", *(f'"{r["problem"]}",{r["answer"]:.0f},{r["subject"]}' for r in ROWS)]
        return b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", records.SUFFIXES)
def test_every_format_gives_the_same_questions(tmp_path, suffix, packed):
    path = tmp_path / f"sums{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(encode(suffix)) if packed else encode(suffix))
    rows = collect_files(tmp_path, path)
    assert [row["question"] for row in rows] == [row["problem"] for row in ROWS]
    assert [row["answer"] for row in rows] == ["2", "4", "6", "8", "10"]
    assert {row["domain"] for row in rows} == {"sums"}
    assert {row["source"] for row in rows} == {"files:sums"}


def test_a_folder_and_a_glob_are_read_in_order_of_their_names(tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "notes.txt"):
        (folder / name).write_text(json.dumps({"question": f"From {name}?"}))
    assert [row["question"] for row in collect_files(tmp_path, folder)] == [
        "From a.jsonl?",
        "From b.jsonl?",
        "From deep/c.jsonl?",
    ]
    assert [row["source"] for row in collect_files(tmp_path, folder / "*.jsonl")] == ["files:a", "files:b"]


def test_an_answer_after_four_hashes_is_split_from_its_working(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "How much?", "answer": "3 x 4 = 12\n12 + 30 = 42\n#### 42"}))
    (row,) = collect_files(tmp_path, path)
    assert (row["answer"], row["solution"]) == ("42", "3 x 4 = 12\n12 + 30 = 42")


def test_passage_and_options_belong_to_the_question():
    values = {
        "passage": "Two cats.",
        "question": "How many?",
        "options": ["(A)2", "(B)3"],
        "answer": None,
        "label": "A",
    }
    question = to_question(records.Record("lsat.jsonl", 1, values), Fields(), "files:lsat")
    assert question.question == "Two cats.\nHow many?\n(A)2\n(B)3"
    assert question.answer == "A"


def test_a_field_mapping_overrides_the_usual_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "the wrong one", "frage": "Wie viel?", "antwort": 7}))
    (row,) = collect_files(tmp_path, path, fields={"question": "frage", "answer": "antwort"})
    assert (row["question"], row["answer"]) == ("Wie viel?", "7")


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"question": text}) for text in ("One?", " one? ", "Two?")))
    manifest = execute(JOB, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped["duplicate"]) == (3, 2, 1)


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}')
    assert len(collect_files(tmp_path, path)) == 1
    path.write_text('{"question": "One?"}\n{"question": "Two?"}')
    assert len(collect_files(tmp_path, path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"question": "One?"}\n{"answer": "2"}', "row 2: no question (the fields are answer; name"),
        ("a.jsonl", b'{"question": "One?"}\n{"question": " "}', "row 2: no question (the field is empty"),
        ("a.jsonl", b'{"question": "One?"}\n{"question"', "row 2: not JSON"),
        ("a.jsonl", b'{"question": "One?"}\n{"question": "\xff"}', "row 2: not UTF-8"),
        ("a.jsonl", b'{"question": "One?"}\n[1]', "row 2: is a list, must be an object"),
        ("a.json", b'["One?"]', "row 1: is a str, must be an object"),
        ("a.csv", b"question,answer\nOne?,1\nTwo?", "row 2: another number of fields"),
        ("a.parquet", b"PAR1 nothing of the kind", "not readable as Parquet"),
        ("a.jsonl.gz", gzip.compress(encode(".jsonl"))[:-20], "truncated gzip"),
        ("a.jsonl.gz", b"not gzip at all", "truncated gzip"),
        ("a.jsonl", b"", "no question in"),
    ],
)
def test_a_bad_file_is_one_line_with_file_and_row_and_exit_code_2(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_:
        command(JOB, ["--source", "files", "--path", str(path), "--run-dir", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in err and str(path) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "questions" / "_manifest.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--source", "files"], "needs --path"),
        (["--source", "files", "--path", "/nowhere/x.jsonl"], "no such file or folder"),
        (["--source", "files", "--path", "/nowhere/*.jsonl"], "no such file or folder"),
        (["--source", "files", "--path", __file__], "no file to read here"),
        (["--source", "hub"], "needs --hub.name"),
        (["--source", "gim"], "source"),
        (["--gym.products.count", "0"], "gym.products.count=0"),
        (["--gym.products.min-digits", "9"], "refused by reasoning-gym"),
        (["--num-test", "-1"], "num_test=-1"),
    ],
)
def test_an_impossible_request_is_one_line_and_exit_code_2(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as exit_:
        command(JOB, [*argv, "--run-dir", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_wrong_field_mapping_names_the_fields_that_there_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?", "answer": 1}')
    with pytest.raises(UserError, match=r"row 1: no field 'lösung' for the answer; the fields are answer, question"):
        collect_files(tmp_path, path, fields={"answer": "lösung"})


def test_an_unknown_gym_family_suggests_the_nearest():
    with pytest.raises(UserError, match="'product' does not exist; did you mean 'products'"):
        gym.check({"product": {"count": 1}})


def test_generated_questions_are_seeded_and_carry_what_their_verifier_needs():
    import reasoning_gym

    families = {"products": {"count": 5}, "calendar_arithmetic": {"count": 5}, "number_sorting": {"count": 5}}
    first, again, other = (list(gym.questions(families, seed)) for seed in (1, 1, 2))
    assert first == again
    assert {question_id(q.question) for q in first}.isdisjoint({question_id(q.question) for q in other})
    for question in first:
        metadata = json.loads(json.dumps(question.metadata))
        verifier = reasoning_gym.get_score_answer_fn(metadata["source_dataset"])
        assert verifier(question.answer, metadata["entry"]) == 1.0
        assert metadata["source_dataset"] == question.domain


def test_the_laptop_preset_collects_ten_families_or_more_and_holds_some_out(tmp_path):
    command(JOB, ["--run-dir", str(tmp_path)])
    table = Artifact(str(tmp_path / "questions")).read(schema.QUESTIONS).to_pandas()
    assert table["domain"].nunique() >= 10
    assert (table[table["split"] == "test"].groupby("domain").size() > 0).all()
    assert table["question_id"].is_unique


def test_a_source_that_gives_another_number_is_reported(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}')
    manifest = execute(JOB, CollectOptions(source="files", path=str(path), expected=2), str(tmp_path / "run"))
    assert manifest.facts["count_differs"] == "1 rows met, 2 expected"
    assert "1 rows met, 2 expected" in capsys.readouterr().err


def test_a_data_set_is_read_as_the_hub_lays_it_out(tmp_path):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "train-00000-of-00001.parquet")
    options = {"source": "hub", "hub": {"name": str(tmp_path / "set")}}
    execute(JOB, CollectOptions.model_validate(options), str(tmp_path / "run"))
    rows = Artifact(str(tmp_path / "run" / "questions")).read(schema.QUESTIONS).to_pylist()
    assert [row["answer"] for row in rows] == ["2", "4", "6", "8", "10"]
    with pytest.raises(UserError, match=r"data set .*\(split 'test'\) cannot be read"):
        options["hub"]["split"] = "test"
        execute(JOB, CollectOptions.model_validate(options), str(tmp_path / "other"))


def test_a_data_set_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit):
        command(JOB, ["--source", "hub", "--hub.name", "nobody/nothing", "--run-dir", str(tmp_path)])
    err = capsys.readouterr().err
    assert "data set 'nobody/nothing' (split 'train') cannot be read" in err
    assert err.count("\n") == 1
