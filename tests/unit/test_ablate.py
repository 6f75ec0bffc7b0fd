"""What the ablations compare, and where they put it."""

from pathlib import Path
from typing import Any

import pytest

from jobs import ablate, cli
from jobs.ablate import in_order, placed, rows, selecting, short_table
from jobs.runner import Context, Job, Outcome, execute
from jobs.select import SelectOptions
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.config import Config
from s1.evaluation.display import UNKNOWN


def test_the_selection_comes_first_and_once():
    assert in_order(("random", "selection", "random")) == ("selection", "random")
    assert in_order(("all",)) == ("selection", "all")


def test_every_variant_has_the_size_of_the_selection():
    chosen = SelectOptions(size=880, method="s1", seed=3, keep_first={"*aime*": 0})
    assert selecting("selection", chosen) == chosen
    found = {name: selecting(name, chosen) for name in ("random", "diverse", "longest", "all")}
    assert {name: each.method for name, each in found.items()} == {
        "random": "random",
        "diverse": "cluster",
        "longest": "longest",
        "all": "random",
    }
    assert all(each.seed == 3 and not each.drop_solved and not each.keep_first for each in found.values())
    assert [found[name].size for name in ("random", "diverse", "longest")] == [880] * 3
    assert found["all"].size > 10**6


class Nothing(Config):
    """No options."""


def test_a_stage_is_placed_under_its_variant(tmp_path: Path):
    seen: dict[str, str] = {}

    def run(options: Nothing, context: Context) -> Outcome:
        seen.update({name: artifact.uri for name, artifact in context.inputs.items()})
        context.staging.write_bytes("weights", b"x")
        return Outcome(1, 1)

    for name in ("questions", "ablations/random/selection"):
        with Artifact(str(tmp_path / name)).staging() as staging:
            staging.commit(Manifest("x", f"of {name}", {}, {}, "0", 1, 1))
    job = Job("train", "", Nothing, ("questions", "selection"), "checkpoint", run)
    execute(placed(job, "random"), Nothing(), str(tmp_path))
    assert seen == {
        "questions": str(tmp_path / "questions"),
        "selection": str(tmp_path / "ablations" / "random" / "selection"),
    }
    assert (tmp_path / "ablations" / "random" / "checkpoint" / "weights").exists()


def generations(verdicts: dict[str, bool], domain: str = "sums") -> Any:
    values = [
        {"question_id": key, "domain": domain, "model": "tuned", "setting": "natural", "correct": right}
        for key, right in verdicts.items()
    ]
    return schema.to_table(values, schema.GENERATIONS)


def test_differences_carry_their_significance():
    questions = [f"q{number:02d}" for number in range(60)]
    found = rows(
        {
            "selection": generations({key: at < 50 for at, key in enumerate(questions)}),
            "random": generations({key: at < 30 for at, key in enumerate(questions)}),
            "all": generations({key: at < 49 for at, key in enumerate(questions)}),
        },
        {"selection": 100, "random": 100, "all": 900},
        {"random": {"engine": "vllm", "precision": "float32", "versions": {"vllm": "1", "ray": "2"}}},
    )
    assert [(row["engine"], row["precision"], row["versions"]) for row in found] == [
        (None, None, None),
        ("vllm", "float32", "vllm 1 ray 2"),
        (None, None, None),
    ]
    assert [(row["variant"], row["num_examples"], row["significant"]) for row in found] == [
        ("selection", 100, None),
        ("random", 100, True),
        ("all", 900, False),
    ]
    assert found[1]["difference_pct"] == pytest.approx(-100 / 3, abs=1e-3)
    assert found[1]["low_pct"] < -100 / 3 < found[1]["high_pct"] < 0
    text = short_table(found).splitlines()
    assert text[1].split()[-2:] == [UNKNOWN] * 2, "the selection has no difference to itself"
    assert text[2].split()[:4] == ["random", "100", "60", "50.0%"] and text[2].endswith("*")


def test_benchmarks_stand_apart():
    import pyarrow as pa

    both = pa.concat_tables([generations({"a": True, "b": False}, "aime24"), generations({"c": True}, "math500")])
    found = rows({"selection": both, "random": both}, {"selection": 1, "random": 1}, {})
    assert [(row["variant"], row["benchmark"], row["num_questions"]) for row in found] == [
        ("selection", "all", 3),
        ("random", "all", 3),
        ("selection", "aime24", 2),
        ("random", "aime24", 2),
        ("selection", "math500", 1),
        ("random", "math500", 1),
    ]
    assert [row["paper_pct"] for row in found] == [None, None, 50.0, 36.7, 93.0, 90.6]
    assert [(row["paper_low_pct"], row["paper_high_pct"]) for row in found[3::2]] == [(-26.7, -3.3), (-4.8, 0.0)]
    assert found[2]["paper_low_pct"] is None  # the selection is what the others are measured against


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(lambda: ablate.main(argv))
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_without_features_there_is_nothing_to_choose_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "run python -m jobs.pipeline first" in refused(["--run-dir", str(tmp_path)], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_that_the_hub_does_not_give_is_said_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with Artifact(str(tmp_path / "features")).staging() as staging:
        staging.commit(Manifest("featurize", "f", {}, {}, "0", 0, 0))
    said = refused(["--run-dir", str(tmp_path), "--evaluate.benchmarks", "hub:nobody/nothing"], capsys)
    assert said.startswith("error: evaluate: data set 'nobody/nothing'")


def test_the_cluster_is_asked_for_what_every_variant_needs(tmp_path: Path):
    options = cli.parse(
        ablate.AblateOptions,
        ["--preset", "s1", "--run-dir", str(tmp_path), "--variants", "random"],
        prog="ablate",
        description="",
        fill=lambda sections: {"run_dir": "", **{name: sections[name] for name in ("select", "train", "evaluate")}},
    )
    asked = [(demand.option, demand.count, demand.gpus) for demand in ablate.demands(options)]
    assert asked == [("workers", 16, 1), ("serve.num_replicas", 1, 8)] * 2  # the selection and the random one


def test_an_endpoint_serves_one_model_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["--run-dir", str(tmp_path), "--evaluate.endpoint", "http://x/v1"]
    assert "every variant runs its own model" in refused(argv, capsys)


def test_the_plan_of_every_stage_can_be_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ablate.main(["--run-dir", str(tmp_path), "--variants", "random", "--dry-run"])
    out = capsys.readouterr().out
    for stage in ("selection/selection", "selection/checkpoint", "random/selection", "random/generations"):
        assert f"writes: {tmp_path}/ablations/{stage}" in out
    assert "1 settings: natural" in out
