import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_server
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.publish import JOB, PublishOptions
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError
from s1.publication.card import funnel
from s1.publication.rows import PUBLISHED

SELECTED: list[dict[str, Any]] = [
    {
        "question_id": "b",
        "question": "How fast is it?",
        "answer": "5",
        "source": "hub:TIGER-Lab/TheoremQA/float",
        "domain": "70 Mechanics of particles and systems",
        "metadata": None,
        "teacher": "r1",
        "trace_kind": "raw",
        "thinking": "It is 5.",
        "attempt": "Answer: 5",
        "finish_reason": "stop",
        "trace_tokens": 9,
        "pick_order": 1,
    },
    {
        "question_id": "a",
        "question": "What is 2 + 2?",
        "answer": "4",
        "source": "files:sums|x",
        "domain": None,
        "metadata": '{"n": 1}',
        "teacher": "gemini",
        "trace_kind": "summary",
        "thinking": "2 + 2 = 4.",
        "attempt": "Answer: 4",
        "finish_reason": "stop",
        "trace_tokens": 9,
        "pick_order": 0,
    },
]


def put(run_dir: Path) -> None:
    config = {"method": "s1", "size": 2, "seed": 7, "near_duplicates": 0.95, "quotas": {}}
    facts = {"funnel": {"traces": 9, "quality": 8, "difficulty": 5, "selected": 2}}
    with Artifact(str(run_dir / "selection")).staging() as staging:
        staging.write_table(schema.to_table(SELECTED, schema.SELECTION))
        dropped = {"solved": 3, "not_picked": 3}
        staging.commit(Manifest("select", "s" * 16, config, {}, "0.1", 9, 2, dropped=dropped, facts=facts))
    questions = [
        {"question_id": "a", "question": "What is 2 + 2?", "answer": "4", "split": "train", "solution": "Count to 4."},
        {"question_id": "b", "question": "How fast is it?", "answer": "5", "split": "train", "solution": None},
        {"question_id": "c", "question": "Not chosen", "answer": "5", "split": "train", "solution": "x"},
    ]
    with Artifact(str(run_dir / "questions")).staging() as staging:
        staging.write_table(schema.to_table(questions, schema.QUESTIONS))
        staging.commit(Manifest("collect", "q" * 16, {}, {}, "0.1", 12, 3))


def test_the_selection_becomes_a_data_set_in_the_published_schema(tmp_path: Path):
    import datasets

    put(tmp_path)
    execute(JOB, PublishOptions(), str(tmp_path))
    file = tmp_path / "published" / "data" / "train-00000-of-00001.parquet"
    assert pq.read_schema(file).names == PUBLISHED.names
    rows = datasets.load_dataset(str(tmp_path / "published"), split="train").to_list()
    assert rows[0] == {
        "solution": "Count to 4.",
        "question": "What is 2 + 2?",
        "cot_type": "math",
        "source_type": "sums|x",
        "metadata": '{"n": 1}',
        "cot": None,
        "thinking_trajectories": ["2 + 2 = 4."],
        "attempt": "Answer: 4",
    }
    assert (rows[1]["solution"], rows[1]["cot_type"]) == ("5", "science")


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"drop_solved": True, "drop_wrong": False}, "not solved by a solver"),
        ({"drop_solved": False, "drop_wrong": True}, "trace not wrong"),
        ({"drop_solved": False, "drop_wrong": False}, "of any difficulty"),
    ],
)
def test_the_card_names_no_reason_that_was_switched_off(config: dict[str, bool], label: str):
    facts = {"funnel": {"difficulty": 5}}
    assert funnel({"selection": Manifest("select", "s" * 16, config, {}, "0.1", 9, 2, facts=facts)}) == [(label, 5)]


def test_the_card_says_how_the_rows_came_about(tmp_path: Path):
    put(tmp_path)
    licences = {"TIGER-Lab/*": "mit"}
    execute(JOB, PublishOptions(title='A "set"', licence="apache-2.0", licences=licences), str(tmp_path))
    card = (tmp_path / "published" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["pretty_name"] == 'A "set"' and header["license"] == "apache-2.0"
    for line in (
        "| questions met | 12 |",
        "| different questions | 3 |",
        "| not solved by a solver, trace not wrong | 5 |",
        "| selected | 2 |",
        "Chosen with method s1, size 2, seed 7, near_duplicates 0.95. Left out: 3 solved, 3 not_picked.",
        "| r1 | raw | 1 |",
        "| gemini | summary | 1 |",
        "are summaries of the thinking",
        "| 70 Mechanics of particles and systems | 1 |",
        "| TIGER-Lab/TheoremQA/float | 1 | mit |",
        "| sums\\|x | 1 | not stated |",
    ):
        assert line in card


def test_rows_are_spread_over_files(tmp_path: Path):
    put(tmp_path)
    execute(JOB, PublishOptions(rows_per_file=1), str(tmp_path))
    names = sorted(path.name for path in (tmp_path / "published" / "data").iterdir())
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


def test_a_repository_that_cannot_be_one_is_said_first(tmp_path: Path):
    with pytest.raises(UserError, match="must be owner/name"):
        execute(JOB, PublishOptions(repo="mine"), str(tmp_path))


def test_a_hub_that_does_not_take_it_is_one_line_and_nothing_is_committed(tmp_path: Path, monkeypatch):
    put(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub refused it"):
        execute(JOB, PublishOptions(repo="me/mine"), str(tmp_path))
    assert Artifact(str(tmp_path / "published")).manifest() is None


def test_a_repository_of_the_hub_gets_the_same_files(tmp_path: Path):
    put(tmp_path)
    with hub_server.running() as server:
        # The hub's client reads its address when it is imported: a process of its own.
        subprocess.run(
            [sys.executable, "-m", "jobs.publish", "--run-dir", str(tmp_path), "--repo", "me/mine"],
            env={**os.environ, "HF_ENDPOINT": server.origin, "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"},
            check=True,
            timeout=600,
        )
    assert server.created == [{"name": "mine", "organization": "me", "visibility": "private", "type": "dataset"}]
    folder = tmp_path / "published"
    assert server.files == {name: (folder / name).read_bytes() for name in ("README.md", *_data_files(folder))}
    rows = pq.read_table(io.BytesIO(server.files["data/train-00000-of-00001.parquet"])).to_pylist()
    assert [row["attempt"] for row in rows] == ["Answer: 4", "Answer: 5"]
    manifest = Artifact(str(folder)).manifest()
    assert manifest is not None and manifest.facts["url"] == f"{server.origin}/datasets/me/mine"
    assert "hf_none" not in (folder / "_manifest.json").read_text()


def _data_files(folder: Path) -> list[str]:
    return [f"data/{path.name}" for path in (folder / "data").iterdir()]


def test_the_trained_model_goes_to_a_repository_of_its_own(tmp_path: Path):
    put(tmp_path)
    with pytest.raises(UserError, match="publish needs the checkpoint of this run"):
        execute(JOB, PublishOptions(model_repo="me/model"), str(tmp_path))
    with Artifact(str(tmp_path / "checkpoint")).staging() as staging:
        staging.write_bytes("config.json", b"{}")
        staging.write_bytes("README.md", b"# A model")
        staging.commit(Manifest("train", "t" * 16, {}, {}, "0.1", 2, 2))
    with hub_server.running() as server:
        subprocess.run(
            [sys.executable, "-m", "jobs.publish", "--run-dir", str(tmp_path), "--model-repo", "me/model"],
            env={**os.environ, "HF_ENDPOINT": server.origin, "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"},
            check=True,
            timeout=600,
        )
    assert server.created == [{"name": "model", "organization": "me", "visibility": "private", "type": "model"}]
    assert server.files["config.json"] == b"{}" and server.files["README.md"] == b"# A model"
    manifest = Artifact(str(tmp_path / "published")).manifest()
    assert manifest is not None and "model_url" in manifest.facts
