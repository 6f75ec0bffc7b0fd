import json
import subprocess
import sys

import pytest

from jobs import cli, plan


@pytest.mark.parametrize(("preset", "steps", "tokens", "workers"), [("s1", 315, 23.5e6, 16), ("s1.1", 310, 45.5e6, 16)])
def test_the_papers_runs_are_planned_as_one_object(preset, steps, tokens, workers, tmp_path, capsys):
    plan.main(["--preset", preset, "--run-dir", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["workers"], found["nodes"]) == (steps, workers, 2)
    assert found["tokens"] == pytest.approx(tokens, rel=0.02)
    assert found["fits"] is True and found["peak_gib"] < found["limit_gib"]
    assert {"hours", "usd", "components", "warmup_steps"} <= found.keys()
    stages = ["collect", "distill", "featurize", "select", "train", "evaluate", "report"]
    assert list(found["stages"]) == stages
    assert "serving: 1 replica(s) of each model, each 8 GPU" in found["stages"]["evaluate"]
    assert list(tmp_path.iterdir()) == []


def test_the_text_names_stages_memory_and_verdict_and_starts_nothing(tmp_path):
    script = (
        "import sys; from jobs import plan; plan.main(sys.argv[1:]); "
        "assert not {'ray', 'torch', 'transformers', 'vllm'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, "--preset", "s1", "--train.workers", "8", "--run-dir", str(tmp_path)]
    text = subprocess.run(
        [*command, "--train.no-activation-checkpointing"], check=True, capture_output=True, text=True
    ).stdout
    assert "train: 8 workers" in text
    assert "315 of batch 16, 16 of them warm-up" in text
    assert "of 79.6 GiB" in text and "straggling" in text
    assert "verdict: does not fit" in text and "the cheapest change: --activation-checkpointing" in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--preset", "s2"], "unknown preset 's2'"),
        (["--train.workers", "3"], "batch_size=4 is not divisible by workers=3"),
        (["--train.model", "./nowhere"], "no such folder"),
    ],
)
def test_a_mistake_is_one_line(argv, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(lambda: plan.main(argv))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert says in error and error.count("\n") == 1
