from jobs.leftovers import name_leftovers


def test_other_unfinished_runs_are_named_with_their_size(tmp_path, capsys):
    scratch = tmp_path / "_scratch"
    name_leftovers("train", str(scratch / "train-mine"))  # nothing there yet
    for name in ("train-mine", "train-other", "distill-other"):
        (scratch / name / "workers").mkdir(parents=True)
        (scratch / name / "workers" / "shard").open("wb").truncate(2**29)
    name_leftovers("train", str(scratch / "train-mine"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train: {scratch}/train-other holds 0.5 GiB of a run") and "remove it" in line
    assert (scratch / "train-other" / "workers" / "shard").exists()


def test_answers_are_small(tmp_path, capsys):
    (tmp_path / "evaluate-other").mkdir()
    (tmp_path / "evaluate-other" / "answers.jsonl").write_bytes(bytes(3 * 2**20))
    name_leftovers("evaluate", str(tmp_path / "evaluate-mine"))
    assert "evaluate-other holds 3.0 MiB of a run" in capsys.readouterr().err
