"""lm-eval's files in, and ours as its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from s1.errors import UserError
from s1.evaluation import lm_eval
from s1.hashing import question_id

DATE = "2026-11-24T03-00-00.123456"


def sample(doc_id: int, right: float, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "doc": {"problem": f"Question {doc_id}?", "answer": "4"},
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": f"Question {doc_id}?", "arg_1": {"until": []}}},
        "resps": [["4"]],
        "filtered_resps": ["4"],
        "filter": "none",
        "metrics": ["exact_match"],
        "exact_match": right,
        **more,
    }


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, list) else [content]
    (folder / name).write_text("\n".join(json.dumps(line) for line in lines))


def test_samples_are_read_by_question(tmp_path: Path):
    rows = [sample(0, 1.0), sample(1, 0.0), sample(1, 1.0), sample(0, 0.0, filter="flexible")]
    write(tmp_path / "model", f"samples_aime24_{DATE}.jsonl", rows)
    (task,) = lm_eval.read(str(tmp_path))
    assert (task.name, task.metric, task.num_questions) == ("aime24", "exact_match", 2)
    assert task.verdicts == {question_id("Question 0?"): 1.0, question_id("Question 1?"): 0.5}
    assert task.accuracy_pct == 75
    assert task.interval_pct is not None and task.interval_pct[0] <= 75 <= task.interval_pct[1]


def test_a_document_without_a_question_is_known_by_what_was_asked(tmp_path: Path):
    """As lm-eval 0.4.13 writes the samples of its `local-chat-completions`."""
    chat = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Calculate 59 + 63."}])
    asked = {"gen_args_0": {"arg_0": [chat], "arg_1": {"until": []}}}
    plain = {"gen_args_0": {"arg_0": "Calculate 1 + 1.", "arg_1": {"until": []}}}
    rows = [sample(0, 1.0, doc={"a": 59, "b": 63}, arguments=asked), sample(1, 0.0, doc={"a": 1}, arguments=plain)]
    write(tmp_path, f"samples_sums_{DATE}.jsonl", rows)
    (task,) = lm_eval.read(str(tmp_path))
    assert task.verdicts == {question_id("Calculate 59 + 63."): 1.0, "doc 1": 0.0}


def test_the_newest_samples_win_and_results_fill_in(tmp_path: Path):
    write(tmp_path, f"samples_aime24_{DATE}.jsonl", [sample(0, 1.0)])
    write(tmp_path, "samples_aime24_2026-01-01T00-00-00.000001.jsonl", [sample(0, 0.0)])
    results = {
        "results": {
            "aime24": {"alias": "aime24", "exact_match,none": 0.1, "exact_match_stderr,none": 0.01},
            "gpqa": {"alias": "gpqa", "acc,none": 0.5, "acc_stderr,none": 0.05},
            "other": {"alias": "other", "perplexity,none": 8.0},
        },
        "n-samples": {"gpqa": {"original": 198, "effective": 198}},
    }
    write(tmp_path, f"results_{DATE}.json", results)
    aime, gpqa = lm_eval.read(str(tmp_path))
    assert aime.accuracy_pct == 100
    assert (gpqa.accuracy_pct, gpqa.num_questions, gpqa.verdicts) == (50, 198, {})
    assert gpqa.interval_pct == pytest.approx((40.2, 59.8))


def test_every_model_under_a_folder_is_kept(tmp_path: Path):
    for model, right in (("one", 1.0), ("two", 0.0)):
        write(tmp_path / model, f"samples_aime24_{DATE}.jsonl", [sample(0, right)])
        write(tmp_path / model, f"results_{DATE}.json", {"results": {"gpqa": {"acc,none": right}}})
    found = [(task.name, task.accuracy_pct) for task in lm_eval.read(str(tmp_path))]
    assert found == [("one/aime24", 100), ("one/gpqa", 100), ("two/aime24", 0), ("two/gpqa", 0)]


def test_later_results_win_over_earlier_samples(tmp_path: Path):
    write(tmp_path, "samples_aime24_2026-01-01T00-00-00.000001.jsonl", [sample(0, 0.0)])
    write(tmp_path, f"results_{DATE}.json", {"results": {"aime24": {"exact_match,none": 0.9}}})
    (task,) = lm_eval.read(str(tmp_path))
    assert (task.accuracy_pct, task.verdicts) == (90, {})


def test_a_task_knows_what_it_was_measured_with(tmp_path: Path):
    """As lm-eval 0.4 writes its results; the samples of the same run say nothing of it."""
    results = {
        "results": {"gpqa": {"acc,none": 0.5}, "aime24": {"exact_match,none": 1.0}},
        "config": {"model": "hf", "batch_size": "8", "model_dtype": "torch.bfloat16"},
        "lm_eval_version": "0.4.13",
        "transformers_version": None,
    }
    write(tmp_path, f"results_{DATE}.json", results)
    write(tmp_path, f"samples_aime24_{DATE}.jsonl", [sample(0, 1.0)])
    for task in lm_eval.read(str(tmp_path)):
        assert task.engine == {
            "engine": "hf",
            "batch_size": "8",
            "precision": "torch.bfloat16",
            "versions": {"lm-eval": "0.4.13"},
        }


@pytest.mark.parametrize("field", ["Problem", "question", "QUERY"])
def test_a_question_is_found_however_its_field_is_spelt(tmp_path: Path, field: str):
    write(tmp_path, f"samples_aime24_{DATE}.jsonl", [sample(0, 1.0, doc={"ID": "I-1", field: "What is 2 + 2?"})])
    (task,) = lm_eval.read(str(tmp_path))
    assert task.verdicts == {question_id("What is 2 + 2?"): 1.0}


def test_ours_come_back_as_they_went(tmp_path: Path):
    rows = [
        {
            "question_id": question_id(f"Question {number}?"),
            "question": f"Question {number}?",
            "answer": "4",
            "domain": "aime24" if number < 4 else "math/500",
            "model": "tuned",
            "setting": "natural",
            "seed": None,
            "max_thinking_tokens": None,
            "thinking": "2 + 2",
            "content": "Answer: 4",
            "correct": number % 2 == 0,
        }
        for number in range(6)
    ]
    others = [{**rows[2], "model": "a/base"}, {**rows[2], "setting": "max_16"}, {**rows[3], "correct": None}]
    files = dict(lm_eval.samples([*rows, *others], DATE))
    assert list(files) == [
        f"tuned/natural/samples_aime24_{DATE}.jsonl",
        f"tuned/natural/samples_math_500_{DATE}.jsonl",
        f"a_base/natural/samples_aime24_{DATE}.jsonl",
        f"tuned/max_16/samples_aime24_{DATE}.jsonl",
    ]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
        assert name.startswith("tuned/natural/") or json.loads(content)["doc_id"] == 2
    assert len(lm_eval.read(str(tmp_path))) == 4
    aime, math = lm_eval.read(str(tmp_path / "tuned" / "natural"))
    assert (aime.accuracy_pct, math.num_questions) == (50, 2)
    assert set(aime.verdicts) | set(math.verdicts) == {row["question_id"] for row in rows}
    line = json.loads(next(iter(files.values())).splitlines()[0])
    assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "exact_match"} <= set(line)


def test_names_that_are_the_same_as_paths_have_files_of_their_own():
    row = {
        "question_id": question_id("Question?"),
        "question": "Question?",
        "answer": "4",
        "seed": None,
        "max_thinking_tokens": None,
        "thinking": "2 + 2",
        "content": "Answer: 4",
        "correct": True,
    }
    names = ["a/b", "a_b", "a_b-2", "a:b"]
    rows = [
        {**row, "model": model, "setting": setting, "domain": domain}
        for model in names
        for setting in names
        for domain in names
    ]
    written = list(lm_eval.samples(rows, DATE))
    assert len({path for path, _ in written}) == len(rows)
    assert all(content.count("\n") == 1 for _, content in written)
    assert written[0][0] == f"a_b/a_b/samples_a_b_{DATE}.jsonl"
    assert written[1][0] == f"a_b/a_b/samples_a_b-2_{DATE}.jsonl"
    assert {lm_eval._SAMPLES.fullmatch(path.split("/")[-1])["task"] for path, _ in written} == {
        "a_b",
        "a_b-2",
        "a_b_2",
        "a_b-3",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"results_{DATE}.json", {"config": {}}, "has no 'results'"),
        (f"samples_x_{DATE}.jsonl", {"question": "x"}, "line 1 is no sample"),
        (f"samples_x_{DATE}.jsonl", {"doc_id": 0, "bleu": 0.3}, "no metric that says"),
        ("notes.txt", {}, "holds neither"),
    ],
)
def test_what_is_not_lm_evals_is_said(tmp_path: Path, name: str, content: Any, message: str):
    write(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        lm_eval.read(str(tmp_path))
