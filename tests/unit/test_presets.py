"""Presets: ours fit the machines that they are made for, and a user's own extends any of them."""

import json
from pathlib import Path

import pytest

from jobs import capacity, cli, pipeline, plan, runner, select
from jobs.capacity import Nodes, shortage
from s1.config import read_preset
from s1.errors import UserError

# What each preset is made for.
MACHINES = {
    "laptop": Nodes(1, 2),
    "one-gpu": Nodes(1, 8, 1),
    "one-node": Nodes(1, 64, 8),
    "s1": Nodes(2, 96, 8),
    "s1.1": Nodes(2, 96, 8),
}


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def mistake(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        pipeline.parse(argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("preset", cli.presets())
def test_every_preset_fits_its_machine(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan.main(["--preset", preset, "--run-dir", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["refused"] is None and found["margin_gib"] > 0
    assert found["time_shares"]["communication"] < 0.5
    options = pipeline.parse(["--preset", preset])
    pipeline.check(options)
    demands = capacity.of_stages((job.name, stage) for job, stage in options.stages())
    machine = MACHINES[preset]
    assert shortage(demands, [machine]) is None
    assert options.train.gpus_per_worker * options.train.workers == machine.count * machine.gpus


def test_a_node_of_slower_devices_has_room_for_its_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan.main(["--preset", "one-node", "--train.hardware.device", "a100-80", "--run-dir", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["fits"]


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "folder/mine"])
def test_a_preset_of_ones_own_is_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / name, "extends: s1\nselect: {size: 77}\ntrain: {hardware: {usd_per_hour: 2}}\n")
    monkeypatch.chdir(tmp_path)
    for argv in (["--preset", name], [f"--preset={name}"], ["--preset", str(tmp_path / name)]):
        options = pipeline.parse(argv)
        assert (options.select.size, options.select.method) == (77, "s1")
        assert (options.train.hardware.device, options.train.hardware.usd_per_hour) == ("h100", 2)
        assert options.run_dir == "runs/mine"
    assert pipeline.parse(["--preset", name, "--select.size", "5"]).select.size == 5
    assert runner.parse(select.JOB, ["--preset", name])[0].size == 77
    plan.main(["--preset", name])


def test_what_a_table_came_from_is_its_values_not_the_file_that_holds_them(tmp_path: Path):
    mine = written(tmp_path / "mine.yaml", "extends: s1\nselect: {size: 77}\n")
    identities = [
        runner.plan(select.JOB, runner.parse(select.JOB, argv)[0], str(tmp_path)).fingerprint
        for argv in (["--preset", mine], ["--preset", "s1", "--size", "77"])
    ]
    assert identities[0] == identities[1]


def test_presets_extend_each_other_from_where_they_lie_and_the_later_wins(tmp_path: Path):
    written(tmp_path / "base" / "low.yaml", "extends: ../lower.yml\nselect: {size: 2}\nplan:\n")
    written(
        tmp_path / "lower.yml", "run_dir: elsewhere\nselect: {size: 1, seed: 1, keep_first: {a: 1}}\ncollect: {gym: {}}"
    )
    top = written(tmp_path / "top.yaml", "extends: base/low.yaml\nselect: {keep_first: {b: 2}, ignore_issues: [x]}\n")
    assert read_preset(cli.PRESETS, top) == {
        "run_dir": "runs/top",
        "collect": {"gym": {}},
        "select": {"size": 2, "seed": 1, "keep_first": {"a": 1, "b": 2}, "ignore_issues": ["x"]},
        "plan": {},
    }
    assert read_preset(cli.PRESETS, str(tmp_path / "lower.yml"))["run_dir"] == "elsewhere"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: s2\n", "extends: unknown preset 's2': presets are laptop, "),
        ("extends: nowhere.yaml\n", "/nowhere.yaml': no such file"),
        ("extends: mine.yaml\n", "extends='mine.yaml' leads back to itself"),
        ("extends: other.yaml\n", "leads back to itself"),
        ("extends: [s1]\n", "extends=['s1'] must be the name of a preset"),
        ("trian: {epochs: 1}\n", "unknown section 'trian': sections are collect, "),
        ("extends: s1\ntrain: {epoch: 1}\n", "train.epoch=1: there is no such option"),
        ("extends: s1\ntrain: {epochs: 0}\n", "train.epochs=0: must be greater than or equal to 1"),
        ("extends: s1\nevaluate: {budgets: [4, 0]}\n", "evaluate.budgets=0: must be greater than 0"),
        ("extends: s1\ntrain: 3\n", "train=3 must be a section"),
        ("- s1\n", "must be a mapping of sections, not list"),
        ("a: [\n", "is not readable YAML"),
    ],
)
def test_a_mistake_in_a_preset_is_one_line_with_its_file(text: str, says: str, tmp_path: Path):
    path = written(tmp_path / "mine.yaml", text)
    written(tmp_path / "other.yaml", f"extends: {path}\n")
    said = mistake("--preset", path)
    assert said.startswith("preset '") and path in said and says in said


def test_a_path_that_is_not_there_says_where_a_submitted_job_looks(tmp_path: Path):
    assert "under `ray job submit` it has to lie in the --working-dir" in mistake("--preset", "nowhere/mine.yaml")
    assert mistake("--preset", "mine") == (
        f"unknown preset 'mine': presets are {', '.join(cli.presets())}, or the path of a YAML file"
    )
