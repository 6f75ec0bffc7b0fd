import gzip
import json
import time
from pathlib import Path

import pytest

from s1.curation import quality
from s1.curation.decontaminate import contaminated
from s1.curation.difficulty import reason_to_drop, solved

SHARED = Path(__file__).parents[3] / "shared" / "data"
GOOD = {
    "question": "What is 6 times 7?",
    "answer": "42",
    "source": "gym",
    "thinking": "6 * 7 = 42.",
    "attempt": "Answer: 42",
    "finish_reason": "stop",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"thinking": " \n"}, ["empty_thinking"]),
        ({"attempt": None}, ["empty_attempt"]),
        ({"finish_reason": "length"}, ["truncated"]),
        ({"finish_reason": "MAX_TOKENS"}, ["truncated"]),
        ({"attempt": "So it is \\boxed{4"}, ["truncated"]),
        ({"thinking": "Let me see. " + "Wait, is it 41? No. " * 30}, ["repetition"]),
        ({"thinking": "so 4" + "2" * 500}, ["repetition"]),
        ({"thinking": "\n".join(["Then we try it again."] * 20 + ["a", "b", "end"])}, ["repetition"]),
        ({"thinking": "\n".join(f"{n} * 7 = {7 * n}" for n in range(60))}, []),
        (
            {"attempt": "We talk about it for long. " * 4 + "It is known that numbers are many things. " * 5},
            ["answer_missing"],
        ),
        ({"attempt": "First we multiply, then we add what is left to carry. " * 4 + "That makes 42."}, []),
        ({"question": "See ![Image](x.png)"}, ["question_format"]),
        ({"question": "Solve p12. and p13."}, ["question_format"]),
        ({"question": "Do **3.** first"}, ["question_format"]),
        ({"question": "Do **this** 3 times"}, ["question_format"]),
        ({"question": "Do **this** often"}, []),
        ({"question": "[asy] draw(); [/asy]"}, ["question_format"]),
        ({"question": "[asy] draw(); [/asy]", "source": "files:aime_1983"}, []),
        ({"question": "[asy] draw(); [/asy]", "source": "hub:di-zhang-fdu/AIME_1983_2024"}, []),
        ({"question": "[asy] draw(); [/asy]", "source": "hub:AI-MO/NuminaMath-CoT/amc_aime"}, ["question_format"]),
        ({"question": "x" * 200_000}, ["question_too_long"]),
        ({"answer": None, "attempt": "Some words about it. " * 5}, []),
    ],
)
def test_faults_have_names(change: dict, expected: list[str]):
    assert quality.issues({**GOOD, **change}) == expected


def test_faults_are_found_in_linear_time():
    row = {**GOOD, "question": "**" * 40_000, "thinking": "ab " * 1_000_000, "attempt": "*" * 2_000_000}
    started = time.process_time()
    assert "repetition" in quality.issues(row)
    assert time.process_time() - started < 10


def test_real_traces_have_no_faults():
    path = SHARED / "traces" / "rasbt_sample_ollama_outputs.json"
    if not path.is_file():
        pytest.skip(f"left out: {path} is not there")
    rows = [
        {
            "question": row["problem"],
            "answer": row["gtruth_answer"],
            "thinking": row["message_thinking"],
            "attempt": row["message_content"],
        }
        for row in json.loads(path.read_text())
    ]
    assert [quality.issues(row) for row in rows] == [[] for _ in rows]


def test_difficulty():
    assert solved([False, None, True]) is True
    assert solved([False, None]) is False
    assert solved([None]) is None
    assert reason_to_drop(True, True) == "solved"
    assert reason_to_drop(False, False) == "trace_wrong"
    assert reason_to_drop(None, None) is None
    assert reason_to_drop(True, False, drop_solved=False, drop_wrong=False) is None


def test_contamination_counts_of_the_reference():
    """Counts that the reference's own code gives on the same files (data/MANIFEST.md)."""
    if not SHARED.is_dir():
        pytest.skip(f"left out: {SHARED} is not there")
    questions = [
        json.loads(line)["question"]
        for line in (SHARED / "s1" / "s1K_questions_solutions_noGPQA.jsonl").read_text().splitlines()
    ]
    math500 = [row["problem"] for row in json.loads((SHARED / "questions" / "math500.json").read_text())]
    with gzip.open(SHARED / "questions" / "math_train_nosol.json.gz") as stream:
        math_train = [row["problem"] for row in json.load(stream)]
    assert int(contaminated(questions, math500).sum()) == 79
    assert int(contaminated(math_train, math500).sum()) == 619
    assert int(contaminated(math_train, math500, ngram=13).sum()) == 74


def test_near_copies_of_an_audit_are_found():
    path = SHARED / "decontam" / "s1_c_lex.jsonl"
    if not path.is_file():
        pytest.skip(f"left out: {path} is not there")
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    found = [contaminated([pair["train_problem"]], [pair["math500_problem"]], normalise=True)[0] for pair in pairs]
    assert sum(found) >= 34


def test_text_shorter_than_the_run_shares_none():
    assert contaminated(["a b c", ""], ["a b c", ""], ngram=4).tolist() == [False, False]
    assert contaminated([], ["a"]).tolist() == []
    assert contaminated(["a b"], [], ngram=1).tolist() == [False]
    with pytest.raises(ValueError, match="at least 1"):
        contaminated(["a"], ["a"], ngram=0)


def test_spacing_and_punctuation_do_not_hide_a_copy():
    test = "If $f(x) = \\dfrac{x+1}{2}$, what is the value of $f(f(3))$?"
    copy = "suppose $f (x)=\\frac{x + 1}{2}$ ; find $f\\left(f(3)\\right)$"
    assert not contaminated([copy], [test])[0]
    assert contaminated([copy], [test], normalise=True)[0]
