"""A value that breaks a rule is named as the user wrote it."""

import pytest

from jobs import cli, distill, evaluate, pipeline, runner
from jobs.runner import Job


@pytest.mark.parametrize(
    ("job", "argv", "says"),
    [
        (distill.JOB, ["--openai.max-tokens", "0"], "error: openai.max_tokens=0: "),
        (distill.JOB, ["--pool.num-workers=0"], "error: pool.num_workers=0: "),
        (distill.JOB, ["--num-questions", "0"], "error: num_questions=0: "),
        (evaluate.JOB, ["--serve.engine.max-num-seqs", "-1"], "error: serve.engine.max_num_seqs=-1: "),
        (None, ["--evaluate.serve.engine.max-num-seqs", "0"], "error: evaluate.serve.engine.max_num_seqs=0: "),
        (None, ["--train.epochs", "0"], "error: train.epochs=0: "),
        (evaluate.JOB, ["--budgets", "4", "9999"], "error: budget 9999 is above natural_max_tokens 80"),
        (None, ["--evaluate.budgets", "4", "9999"], "error: budget 9999 is above natural_max_tokens 80"),
    ],
)
def test_the_whole_name_of_a_nested_option_is_said(
    job: Job | None, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit_:
        if job is None:
            cli.main(lambda: pipeline.main(argv))
        else:
            runner.command(job, argv)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(says) and error.count("\n") == 1
