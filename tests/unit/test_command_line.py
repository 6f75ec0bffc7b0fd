"""A value that breaks a rule is named as the user wrote it."""

import pytest

from jobs import cli, distill, evaluate, pipeline, runner
from jobs.runner import Job


def mistake(job: Job | None, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a job, or the pipeline, says about the command line."""
    with pytest.raises(SystemExit) as exit_:
        if job is None:
            cli.main(lambda: pipeline.main(argv))
        else:
            runner.command(job, argv)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("job", "argv", "says"),
    [
        (distill.JOB, ["--openai.max-tokens", "0"], "error: openai.max_tokens=0: "),
        (distill.JOB, ["--pool.num-workers=0"], "error: pool.num_workers=0: "),
        (distill.JOB, ["--num-questions", "0"], "error: num_questions=0: "),
        (evaluate.JOB, ["--serve.engine.max-num-seqs", "-1"], "error: serve.engine.max_num_seqs=-1: "),
        (None, ["--evaluate.serve.engine.max-num-seqs", "0"], "error: evaluate.serve.engine.max_num_seqs=0: "),
        (None, ["--train.epochs", "0"], "error: train.epochs=0: "),
        (evaluate.JOB, ["--budgets", "0"], "error: budgets=0: must be greater than 0; "),
        (None, ["--evaluate.budgets", "4", "0"], "error: evaluate.budgets=0: must be greater than 0; "),
        (evaluate.JOB, ["--budgets", "4", "9999"], "error: budget 9999 is above natural_max_tokens 80"),
        (None, ["--evaluate.budgets", "4", "9999"], "error: budget 9999 is above natural_max_tokens 80"),
    ],
)
def test_the_whole_name_of_a_nested_option_is_said(
    job: Job | None, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
):
    assert mistake(job, argv, capsys).startswith(says)


@pytest.mark.parametrize(
    ("job", "argv", "meant"),
    [
        (None, ["--size", "3"], "--select.size"),
        (None, ["--size=3"], "--select.size"),
        (None, ["--colect.seed", "3"], "--collect.seed"),
        (None, ["--batch-sise", "3"], "--train.batch-size"),
        (None, ["--seed", "3"], "--collect.seed or --evaluate.seed or --select.seed"),
        (None, ["--no-packing"], "--train.no-packing"),
        (None, ["--memory_gib", "3"], "--train.hardware.memory-gib"),
        (evaluate.JOB, ["--evaluate.budgets", "3"], "--budgets"),
    ],
)
def test_an_unknown_option_names_the_one_with_the_same_last_part(
    job: Job | None, argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
):
    assert mistake(job, argv, capsys).endswith(f"; did you mean {meant}?\n")


def test_an_option_like_no_other_refers_to_the_help(capsys: pytest.CaptureFixture[str]):
    assert mistake(None, ["--xyzzy"], capsys) == "error: unknown option --xyzzy; see python -m jobs.pipeline --help\n"
