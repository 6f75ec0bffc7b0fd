import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli, plan
from s1 import schema
from s1.artifacts import Artifact, Manifest

PAGE = Path(__file__).parents[2] / "docs" / "jobs" / "plan.md"
REFERENCE = (
    *("--preset", "s1", "--train.no-packing", "--train.sequence-parallel", "1"),
    "--train.activation-checkpointing",
)
ALL_LOGITS = (*REFERENCE, "--train.loss-chunk-tokens", "32768")


def planned(argv, run_dir, capsys):
    plan.main([*argv, "--run-dir", str(run_dir), "--json"])
    return json.loads(capsys.readouterr().out)


def select(run_dir, lengths, question="x" * 400):
    rows = [
        {"question_id": str(number), "question": question, "trace_tokens": tokens}
        for number, tokens in enumerate(lengths)
    ]
    with Artifact(str(run_dir / "selection")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.SELECTION))
        staging.commit(Manifest("select", "f" * 16, {}, {}, "0", rows_in=len(rows), rows_out=len(rows)))


def rows_of_the_page(num_columns):
    """Rows of the page's tables that have this many cells and a command: its arguments, and the cells after it."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if len(row) == num_columns and row[1].startswith("`python -m jobs.plan ")]
    return [(row[1].strip("`").split()[3:], row[2:]) for row in rows]


def test_the_known_cases_are_called_as_the_page_says(tmp_path, capsys):
    rows = rows_of_the_page(4)
    assert len(rows) == 7 and {verdict for _, (_, verdict) in rows} == {"fits", "does not fit"}
    for argv, (peak, verdict) in rows:
        plan.main([*argv, "--run-dir", str(tmp_path)])
        text = capsys.readouterr().out
        assert f"together {peak.removesuffix(' GiB')} of 79.1 GiB" in text and f"  verdict: {verdict}, " in text, argv
        assert ("; the cheapest change: " in text) is (verdict == "does not fit")


def test_memory_time_and_dollars_of_the_page_are_what_is_printed(tmp_path, capsys):
    rows = rows_of_the_page(5)
    assert len(rows) == 3
    for argv, (peak, minutes, dollars) in rows:
        plan.main([*argv, "--run-dir", str(tmp_path)])
        text = capsys.readouterr().out
        assert f"together {peak.removesuffix(' GiB')} of 79.1 GiB" in text, argv
        assert f"  time: {minutes}, {dollars} at $6.88" in text, argv


def test_without_a_table_an_example_of_block_size_counts_and_with_one_its_own_do(tmp_path, capsys):
    expected = planned(ALL_LOGITS, tmp_path, capsys)
    assert (expected["longest_tokens"], expected["longest_counted_tokens"]) == (8121, 32768)
    assert expected["peak_gib"] == expected["at_block_size"]["peak_gib"] > 80
    select(tmp_path, [8000] * 100)
    found = planned(ALL_LOGITS, tmp_path, capsys)
    assert found["fits"] and not found["at_block_size"]["fits"]
    assert found["data"] == "selected table, prompts estimated"
    assert found["longest_tokens"] == found["longest_counted_tokens"] == 8000 + 160 + plan.TEMPLATE_TOKENS


def test_examples_that_train_would_refuse_are_refused(tmp_path, capsys):
    select(tmp_path, [*[4000] * 99, 20000])
    argv = ["--preset", "s1", "--train.block-size", "20000"]
    found = planned(argv, tmp_path, capsys)
    assert not found["fits"] and found["too_long"] == 1
    assert found["refused"].startswith("1 of 100 examples exceed block_size=20000, the longest has about 20210 tokens")
    assert found["memory_fits"] and not found["refused_surely"]  # it is the estimated prompt that exceeds the block
    plan.main([*argv, "--run-dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "verdict: train will probably refuse this: 1 of 100 examples" in text and ". The memory: fits, " in text
    plan.main([*argv[:-1], "19999", "--run-dir", str(tmp_path)])
    assert "verdict: train will refuse this: 1 of 100 examples" in capsys.readouterr().out
    dropped = planned([*argv, "--train.too-long", "drop"], tmp_path, capsys)
    assert dropped["fits"] and dropped["refused"] is None
    assert (dropped["examples"], dropped["too_long"]) == (99, 1)


def test_held_out_examples_are_not_trained_on_and_take_their_time(tmp_path, capsys):
    plain = planned(["--preset", "s1"], tmp_path, capsys)
    found = planned(["--preset", "s1", "--train.held-out", "40", "--train.samples", "2"], tmp_path, capsys)
    assert (found["examples"], found["held_out"], found["steps"]) == (960, 40, 300)
    assert plain["evaluation_seconds"] == 0 < found["evaluation_seconds"]
    assert 3600 * found["hours"] > 300 * found["seconds_per_step"] + found["evaluation_seconds"]


def test_another_device_has_another_price(tmp_path, capsys):
    h100 = planned(["--preset", "s1"], tmp_path, capsys)
    a100 = planned(["--preset", "s1", "--train.hardware.device", "a100-80"], tmp_path, capsys)
    assert (h100["usd_per_hour"], a100["usd_per_hour"]) == (6.88, 3.43)
    for found in (h100, a100):
        assert found["usd"] == pytest.approx(found["hours"] * 16 * found["usd_per_hour"], rel=0.01)
        assert 0 < found["usd_spot"] < found["usd"]


@pytest.mark.parametrize(("preset", "steps", "tokens", "workers"), [("s1", 315, 23.5e6, 16), ("s1.1", 310, 45.5e6, 16)])
def test_the_papers_runs_are_planned_as_one_object(preset, steps, tokens, workers, tmp_path, capsys):
    plan.main(["--preset", preset, "--run-dir", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["workers"], found["nodes"]) == (steps, workers, 2)
    assert found["tokens"] == pytest.approx(tokens, rel=0.02)
    assert found["fits"] is True and found["peak_gib"] < found["limit_gib"]
    assert {"hours", "usd", "usd_spot", "components", "warmup_steps"} <= found.keys()
    sizes = ["host_gib_at_load", "checkpoint_gib", "checkpoint_seconds", "export_gib", "disk_gib", "disk_gib_resized"]
    assert all(found[size] > 0 for size in sizes)
    assert found["hours"] < {"s1": 0.25, "s1.1": 0.7}[preset]
    stages = ["collect", "distill", "featurize", "select", "train", "evaluate", "report"]
    assert list(found["stages"]) == stages
    assert "serve.num_replicas: 2 x (8 CPU and 8 GPU on one node)" in found["stages"]["evaluate"]
    assert found["stages"]["featurize"][3:] == [
        "grader_workers: 16 x (2 CPU on one node)",
        "solver.num_workers: 8 x (4 CPU and 2 GPU on one node)",
        "embedder.num_workers: 4 x (4 CPU and 1 GPU on one node)",
    ]
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
    assert "of 79.1 GiB" in text and "straggling" in text
    assert "verdict: does not fit" in text and "the cheapest change: --train.activation-checkpointing" in text
    assert "host memory of a node: 61.0 GiB at load" in text and "checkpoint: 427.2 GiB, written in" in text
    assert "disk of the run folder: 854.4 GiB" in text and "spot instances at $3.00" in text


def test_steps_that_wait_for_their_links_are_told_with_the_cheapest_remedy(tmp_path, capsys):
    argv = ["--preset", "s1", "--train.hardware.node-gbit-per-s", "100"]
    slow = planned(argv, tmp_path, capsys)
    assert slow["fits"] and slow["time_shares"]["communication"] > 0.5
    remedy = slow["less_communication"]
    flags = [
        word for name, value in remedy["options"].items() for word in (f"--train.{name.replace('_', '-')}", str(value))
    ]
    mended = planned([*argv, *flags], tmp_path, capsys)
    assert mended["fits"] and mended["time_shares"]["communication"] <= 0.5
    assert mended["usd"] == remedy["usd"] < slow["usd"] / 10
    plan.main([*argv, "--run-dir", str(tmp_path)])
    text = capsys.readouterr().out
    warned = f"  warning: communication takes 96% of a step; the cheapest remedy: {' '.join(flags)} ("
    assert text.count(warned) == 1
    assert "; with links of 100 Gbit/s between nodes (train.hardware.node_gbit_per_s); training only, " in text
    assert slow["node_gbit_per_s"] == 100

    plan.main(["--preset", "s1", "--run-dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "warning" not in text and "; with links of 3200 Gbit/s between nodes (train.hardware.node_g" in text
    plan.main(["--preset", "s1", "--train.workers", "8", "--run-dir", str(tmp_path)])
    assert " Gbit/s between nodes" not in capsys.readouterr().out
    none = [*argv, "--train.no-packing", "--train.sequence-parallel", "1", "--train.activation-checkpointing"]
    plan.main([*none, "--run-dir", str(tmp_path)])
    assert "of a step; no option helps enough: take faster links or fewer nodes" in capsys.readouterr().out


def test_what_solvers_and_evaluation_generate_is_counted_and_priced_at_the_speed_that_is_given(tmp_path, capsys):
    found = planned(["--preset", "s1"], tmp_path, capsys)
    solvers, evaluation = found["work"]["featurize"], found["work"]["evaluate"]
    assert (solvers["completions"], solvers["most_tokens"]) == (2 * 59029, 2 * 59029 * 8192)
    # Of 90 questions the tuned model: 5 x 32 tries, 30 votes, 22 answers in words; of 728 both: 10, the base one more.
    assert evaluation["most_completions"] == 90 * (5 * 32 + 30 + 22) + 728 * (2 * 10 + 1) == 34_368
    assert evaluation["tokens"] < evaluation["most_tokens"] / 3 and evaluation["gpu_hours"] is None
    note = f"GPU-hours: 20,988 / N to {solvers['most_tokens'] / 3600:,.0f} / N at N tokens/s of a GPU ("
    assert any(line.startswith(note) for line in found["stages"]["featurize"])

    found = planned(["--preset", "s1", "--plan.expected.tokens-per-s-per-gpu", "1000"], tmp_path, capsys)
    hours = evaluation["tokens"] / 3.6e6
    assert found["work"]["evaluate"]["gpu_hours"] == pytest.approx(hours, abs=0.01)
    line = f"GPU-hours: {hours:.1f} to {evaluation['most_tokens'] / 3.6e6:.1f} at 1,000 tokens/s of a GPU, "
    assert f"{line}${hours * 6.88:.0f} to " in " ".join(found["stages"]["evaluate"])
    assert planned([], tmp_path, capsys)["work"] == {}  # CPUs are not paid for


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
