import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_tables import feature_rows, put

from actors import selector
from jobs.cli import PRESETS
from jobs.feature_rows import Row
from jobs.runner import execute
from jobs.select import JOB, SelectOptions, is_kept_first
from s1 import schema
from s1.artifacts import Artifact
from s1.config import read_preset, validate
from s1.errors import UserError


def chosen(run_dir: Path) -> list[dict[str, Any]]:
    return Artifact(str(run_dir / "selection")).read(schema.SELECTION).to_pylist()


def test_the_funnel_counts_every_row_that_goes(tmp_path: Path):
    rows = feature_rows()
    rows[0]["quality_issues"] = ["truncated", "repetition"]
    rows[1]["quality_issues"] = ["contaminated"]
    for at in (2, 3, 4):
        rows[at]["solver_correct"] = True
    rows[5]["trace_correct"] = False
    rows[6] |= {"trace_correct": None, "solver_correct": None, "answer": None}
    rows[8]["embedding"] = rows[7]["embedding"]
    rows[9]["trace_tokens"] = 5000
    put(tmp_path, rows)
    manifest = execute(JOB, SelectOptions(size=10, near_duplicates=0.99, max_trace_tokens=1000), str(tmp_path))
    assert manifest.dropped == {
        "truncated": 1,
        "contaminated": 1,
        "too_long": 1,
        "solved": 3,
        "trace_wrong": 1,
        "near_duplicate": 1,
        "not_picked": 22,
    }
    assert manifest.facts["funnel"] == {
        "traces": 40,
        "quality": 37,
        "difficulty": 33,
        "distinct": 32,
        "selected": 10,
    }
    assert manifest.rows_in - manifest.rows_out == sum(manifest.dropped.values())
    picked = chosen(tmp_path)
    assert [row["pick_order"] for row in picked] == list(range(10))
    assert all(row["thinking"] == f"Thought {row['question_id'][1:]}." for row in picked)


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path):
    rows = feature_rows()
    put(tmp_path / "a", rows)
    random.Random(1).shuffle(rows)
    put(tmp_path / "b", rows)
    for method in ("s1", "facility_location", "k_center"):
        for run in ("a", "b"):
            execute(JOB, SelectOptions(size=12, method=method, near_duplicates=0.9), str(tmp_path / run))
        assert chosen(tmp_path / "a") == chosen(tmp_path / "b")


def test_rows_to_keep_come_first(tmp_path: Path):
    rows = feature_rows()
    rows[20]["trace_correct"] = None
    put(tmp_path, rows)
    execute(JOB, SelectOptions(size=8, method="s1", keep_first={"*aime*": 0}), str(tmp_path))
    assert [row["question_id"] for row in chosen(tmp_path)][:3] == ["q30", "q10", "q0"]


@pytest.mark.parametrize("preset", ["s1", "s1.1"])
def test_the_presets_of_the_paper_drop_no_wrong_trace_and_keep_three_sources_first(preset: str):
    options = validate(SelectOptions, read_preset(PRESETS, preset)["select"], "select")
    assert not options.drop_wrong
    kept = {"qq8933/AIME_1983_2024", "hub:di-zhang-fdu/AIME_1983_2024", "Idavidrein/gpqa", "hub:Idavidrein/gpqa"}
    longer = {"simplescaling/openaimath/Algebra", "hub:simplescaling/openaimath/Geometry"}
    others = {"AI-MO/NuminaMath-CoT/amc_aime", "hub:AI-MO/NuminaMath-CoT/aops_forum", "KbsdJames/Omni-MATH"}
    for source in kept | longer | others:
        for num_tokens in (5600, 5601):
            row = Row("q", source, None, [], True, False, 2, 0, num_tokens + 100, num_tokens)
            wanted = source in kept or (source in longer and num_tokens > 5600)
            assert is_kept_first(row, options.keep_first) is wanted
            assert not is_kept_first(replace(row, trace_correct=False), options.keep_first)


def test_algorithm_1_goes_by_the_thinking_alone(tmp_path: Path):
    rows = feature_rows()
    for row in rows:
        row["domain"] = "a"
    rows[7] |= {"thinking_tokens": 5000, "trace_tokens": 5001}
    rows[8] |= {"thinking_tokens": 10, "trace_tokens": 9000}
    put(tmp_path, rows)
    firsts = []
    for seed in range(20):
        execute(JOB, SelectOptions(size=5, method="s1", seed=seed), str(tmp_path))
        firsts += [row["question_id"] for row in chosen(tmp_path)]
    assert firsts.count("q7") == 20 and firsts.count("q8") == 0


def test_all_that_is_left_is_taken_when_more_is_asked_for(tmp_path: Path):
    put(tmp_path, feature_rows())
    manifest = execute(JOB, SelectOptions(size=500), str(tmp_path))
    assert (manifest.rows_out, manifest.facts["asked_for"], manifest.dropped) == (40, 500, {})


def test_issues_can_be_ignored_and_filters_switched_off(tmp_path: Path):
    rows = feature_rows()
    for row in rows:
        row |= {"quality_issues": ["contaminated"], "solver_correct": True, "trace_correct": False}
    put(tmp_path, rows)
    with pytest.raises(UserError, match=r"40 contaminated.*--ignore-issues"):
        execute(JOB, SelectOptions(), str(tmp_path))
    lenient = SelectOptions(ignore_issues=("contaminated",), drop_solved=False, drop_wrong=False)
    assert execute(JOB, lenient, str(tmp_path)).rows_out == 40


@pytest.mark.parametrize("row", [0, 3, 33])
@pytest.mark.parametrize("embedding", [None, [], [1.0]])
def test_missing_embeddings_are_said_in_one_line(tmp_path: Path, row: int, embedding: list[float] | None):
    rows = feature_rows()
    rows[row]["embedding"] = embedding
    put(tmp_path, rows)
    with pytest.raises(UserError, match="run featurize again"):
        execute(JOB, SelectOptions(), str(tmp_path))
    rows[row]["solver_correct"] = True  # goes before it is looked at
    put(tmp_path, rows, fingerprint="e" * 16)
    assert execute(JOB, SelectOptions(), str(tmp_path)).rows_out == 39


def test_a_question_that_is_there_twice_is_named(tmp_path: Path):
    rows = feature_rows()
    rows[35]["question_id"] = "q3"
    put(tmp_path, rows)
    with pytest.raises(UserError, match=r"/features: question_id 'q3' is there 2 times; keep one row"):
        execute(JOB, SelectOptions(), str(tmp_path))
    assert Artifact(str(tmp_path / "selection")).manifest() is None


def test_quality_counts_beside_diversity(tmp_path: Path):
    put(tmp_path, feature_rows(200))
    lengths = {}
    for weight in (0.0, 1.0, 8.0):
        execute(JOB, SelectOptions(size=20, method="k_center", quality_weight=weight), str(tmp_path))
        lengths[weight] = np.mean([row["trace_tokens"] for row in chosen(tmp_path)])
    assert lengths[0.0] < lengths[1.0] < lengths[8.0]


def test_questions_that_solvers_fail_at_are_preferred(tmp_path: Path):
    rows = feature_rows(100)
    for at, row in enumerate(rows):
        row |= {"solver_attempts": 8, "solver_solved": 0 if at < 30 else 7}
    put(tmp_path, rows)
    options = SelectOptions(size=30, method="random", quality="difficulty", quality_weight=6.0)
    execute(JOB, options, str(tmp_path))
    assert sum(int(row["question_id"][1:]) < 30 for row in chosen(tmp_path)) >= 28


def test_patterns_of_domains_have_quotas(tmp_path: Path):
    put(tmp_path, feature_rows())
    execute(JOB, SelectOptions(size=10, quotas={"A": 3, "*": 6}), str(tmp_path))
    assert sorted(row["domain"] for row in chosen(tmp_path)) == ["a"] * 3 + ["b"] * 6
    with pytest.raises(UserError, match=r"no domain matches 'algebra'; the domains are a, b"):
        execute(JOB, SelectOptions(quotas={"algebra": 3}), str(tmp_path))


def test_the_benchmarks_mix_comes_from_featurize(tmp_path: Path):
    rows = feature_rows(200)
    put(tmp_path, rows)
    options = SelectOptions(size=40, method="s1", benchmark_picks=30)
    with pytest.raises(UserError, match="does not know the domains of the test sets"):
        execute(JOB, options, str(tmp_path))
    put(tmp_path, rows, fingerprint="e" * 16, facts={"test_domains": {"a": 1, "z": 5}})
    execute(JOB, options, str(tmp_path))
    assert all(row["domain"] == "a" for row in chosen(tmp_path)[10:])
    named = SelectOptions(size=40, method="s1", benchmark_picks=30, benchmark_domains={"b": 1})
    execute(JOB, named, str(tmp_path))
    assert all(row["domain"] == "b" for row in chosen(tmp_path)[10:])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"quality_weight": 1, "method": "longest"}, "ranks by length alone"),
        ({"benchmark_picks": 3}, "only method s1"),
        ({"shards": 2, "method": "dpp"}, "must be one of k_center, facility_location"),
        ({"shards": 2, "near_duplicates": 0.9}, "leave it out, or use shards=1"),
    ],
)
def test_options_that_do_not_go_together_are_said_first(tmp_path: Path, values: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says):
        execute(JOB, SelectOptions.model_validate(values), str(tmp_path))


def test_a_shard_reads_a_file_of_which_no_row_is_kept(tmp_path: Path):
    put(tmp_path, feature_rows(4))
    file = selector.File(str(tmp_path / "features" / "part-00000.parquet"), 0)
    shard = selector.SelectionShard(2, 0)
    for keep, num_rows in ([False, False], 0), ([False, True], 1):
        table = selector.Table(np.array(keep), np.ones(2), None, None)
        parts = [part for part in shard.read(file, table) if isinstance(part, selector.Part)]
        assert len(parts) == 2 and sum(len(part.rows) for part in parts) == num_rows
        rows, keys = selector.SelectionShard(2, 0).hold(*parts)
        assert len(rows) == len(keys) == num_rows
