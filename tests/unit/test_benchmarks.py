"""Benchmarks by name, as copies and as tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from s1.errors import UserError
from s1.evaluation.benchmarks import SPECS, check, load, parse
from s1.grading.verify import correct
from s1.sources.mapping import Fields


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GPQA = {
    "Question": "Which planet is the largest?",
    "Correct Answer": "Jupiter",
    "Incorrect Answer 1": "Mars",
    "Incorrect Answer 2": "Venus",
    "Incorrect Answer 3": "Earth",
    "Record ID": "r1",
}


def test_the_paper_s_benchmarks_and_more_are_known_by_name():
    assert {name: spec.num_questions for name, spec in SPECS.items()} == {
        "aime24": 30,
        "aime25": 30,
        "amc23": 40,
        "math500": 500,
        "gsm8k": 1319,
        "gpqa_diamond": 198,
    }
    assert parse("aime24").reference is None
    assert parse("hub:me/quiz:test").name == "quiz"
    assert parse("quiz=some/table.jsonl").spec is None


def test_a_copy_of_ones_own_reads_as_the_benchmark(tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", [{"problem": "What is 40 + 2?", "answer": "042", "solution": "…"}])
    (row,) = load(f"aime24={path}", Fields())
    assert (row["domain"], row["source"], row["split"]) == ("aime24", "benchmark:aime24", "test")
    assert correct(row, "so \\boxed{42}.") and correct(row, "Answer: 042") and not correct(row, "Answer: 43")


def test_gsm8k_s_worked_answers(tmp_path: Path):
    path = write(tmp_path / "g.jsonl", [{"question": "2 * 800?", "answer": "2 * 800 = 1600\n#### 1,600"}])
    (row,) = load(f"gsm8k={path}", Fields())
    assert row["answer"] == "1,600" and correct(row, "\\boxed{1600}")


def test_a_choice_is_told_its_options_in_an_order_of_its_own(tmp_path: Path):
    rows = [GPQA, *({**GPQA, "Question": f"{number}: {GPQA['Question']}"} for number in range(8))]
    path = write(tmp_path / "gpqa.jsonl", rows)
    loaded = load(f"gpqa_diamond={path}", Fields())
    assert len(loaded) == 9
    for row in loaded:
        lines = row["question"].splitlines()
        assert f"({row['answer']}) Jupiter" in lines
        assert [line[:3] for line in lines if line.startswith("(")] == ["(A)", "(B)", "(C)", "(D)"]
        assert lines[-1] == "Answer with the letter of the right option."
        other = "ABCD"[("ABCD".index(row["answer"]) + 1) % 4]
        for response in (
            f"\\boxed{{{row['answer']}}}",
            f"Answer: ({row['answer']}) Jupiter",
            f"Answer: {row['answer']}",
        ):
            assert correct(row, response), response
        assert not correct(row, f"Answer: {other}")
    assert len({row["answer"] for row in loaded}) > 1
    assert load(f"gpqa_diamond={path}", Fields()) == loaded


def test_a_copy_with_lettered_answers_is_taken_as_it_is(tmp_path: Path):
    path = write(tmp_path / "gpqa.jsonl", [{"question": "Which?", "options": ["(A) a", "(B) b"], "answer": "B"}])
    (row,) = load(f"gpqa_diamond={path}", Fields())
    assert row["answer"] == "B" and "(B) b" in row["question"]


def test_any_table_is_a_benchmark_by_its_name(tmp_path: Path):
    path = write(tmp_path / "quiz.jsonl", [{"q": "x?", "gold": "4"}])
    (row,) = load(path, Fields(question="q", answer="gold"))
    assert (row["domain"], row["answer"]) == ("quiz", "4")


@pytest.mark.parametrize(
    ("reference", "row", "message"),
    [
        ("aime24={}", {"problem": "x", "answer": "x + 1"}, "aime24 answers are a whole number, not 'x \\+ 1'"),
        ("gpqa_diamond={}", {"question": "x", "answer": "Jupiter"}, "the letter of an option"),
        ("gpqa_diamond={}", {"question": "x", "answer": "AB"}, "the letter of an option, not 'AB'"),
        ("gpqa_diamond={}", {"question": "x", "answer": "()"}, "the letter of an option"),
        ("gpqa_diamond={}", {"Question": "x", "Correct Answer": "y"}, "no field 'Incorrect Answer 1'"),
        ("math500={}", {"problem": "x"}, "no row has an answer"),
    ],
)
def test_what_is_not_the_benchmark_is_said(tmp_path: Path, reference: str, row: dict[str, Any], message: str):
    path = write(tmp_path / "copy.jsonl", [row])
    for look in (check, load):  # the first before anything runs
        with pytest.raises(UserError, match=message):
            look(reference.format(path), Fields())


@pytest.mark.parametrize("text", ["aime99", "nowhere.jsonl", "aime24=nowhere.jsonl", "=x", "aime24="])
def test_what_cannot_be_found_is_said_before_anything_runs(text: str):
    with pytest.raises(UserError, match="benchmark "):
        check(text, Fields())
    check("gpqa_diamond", Fields())


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a b", "a[0]", "a(1)"])
def test_a_name_that_no_file_could_have_is_refused(name: str, tmp_path: Path):
    path = write(tmp_path / "q.jsonl", [{"question": "x?", "answer": "4"}])
    with pytest.raises(UserError, match="has a space, slash or bracket; give another one: NAME=PATH"):
        check(f"{name}={path}", Fields())
    with pytest.raises(UserError, match="'my quiz' has a space"):
        parse("tables/my quiz.jsonl")
    assert parse("data/*.parquet").reference == "data/*.parquet"


def test_another_number_of_questions_than_the_benchmark_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"problem": f"{number}?", "answer": str(number)} for number in range(30)]
    load("aime24=" + write(tmp_path / "all.jsonl", rows), Fields())
    assert capsys.readouterr().err == ""
    some = "aime24=" + write(tmp_path / "some.jsonl", rows[:29])
    load(some, Fields())
    assert capsys.readouterr().err == f"benchmark {some!r}: 29 questions, aime24 has 30\n"
    load("quiz=" + write(tmp_path / "quiz.jsonl", rows[:2]), Fields())
    assert capsys.readouterr().err == ""
