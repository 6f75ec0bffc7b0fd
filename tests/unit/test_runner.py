import os
import threading
from dataclasses import replace

import pytest

from jobs import lock
from jobs.runner import Context, Job, Outcome, command, execute
from s1 import schema
from s1.artifacts import Artifact
from s1.config import Config
from s1.errors import UserError


class Pool(Config):
    workers: int = 1
    seed: int = 0


class Options(Config):
    size: int = 2
    at_least: int = 0
    pool: Pool = Pool()


calls: list[int] = []


def write_questions(options: Options, context: Context) -> Outcome:
    calls.append(options.size)
    rows = [{"question_id": str(i), "question": str(i)} for i in range(options.size)]
    context.staging.write_table(schema.to_table(rows, schema.QUESTIONS))
    return Outcome(rows_in=options.size, rows_out=options.size)


FIRST = Job("first", "First.", Options, (), "questions", write_questions)
SECOND = Job("second", "Second.", Options, ("questions",), "traces", write_questions)


@pytest.fixture(autouse=True)
def fresh_calls():
    calls.clear()


def test_a_job_whose_manifest_matches_is_skipped(tmp_path):
    first = execute(FIRST, Options(size=3), str(tmp_path))
    assert execute(FIRST, Options(size=3), str(tmp_path)) == first
    assert calls == [3]


def test_other_options_or_other_inputs_run_again(tmp_path):
    execute(FIRST, Options(size=3), str(tmp_path))
    execute(SECOND, Options(), str(tmp_path))
    execute(FIRST, Options(size=4), str(tmp_path))
    execute(SECOND, Options(), str(tmp_path))
    assert calls == [3, 2, 4, 2]


HOW = replace(FIRST, how=("pool.workers", "at_least"), suffices=lambda options, made: made.rows_out >= options.at_least)


def test_options_that_say_how_a_job_runs_run_nothing_again(tmp_path):
    run_dir = str(tmp_path)
    for pool in (Pool(), Pool(workers=4), Pool(seed=1), Pool(workers=4)):
        execute(HOW, Options(pool=pool), run_dir)
        execute(SECOND, Options(size=9), run_dir)
    assert calls == [2, 9, 2, 9, 2, 9]  # the third changes the seed, the fourth changes it back


def test_an_output_that_does_not_suffice_is_made_again_and_what_is_made_of_it_when_its_rows_differ(tmp_path):
    sizes = iter((2, 2, 3))

    def write(options: Options, context: Context) -> Outcome:
        return write_questions(Options(size=next(sizes)), context)

    job = replace(HOW, run=write)
    for at_least in (0, 2, 3, 3, 1):
        execute(job, Options(at_least=at_least), str(tmp_path))
        execute(SECOND, Options(size=9), str(tmp_path))
    assert calls == [2, 9, 2, 3, 9]


def test_a_missing_input_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="second needs the questions of this run"):
        execute(SECOND, Options(), str(tmp_path))


def test_a_run_that_fails_keeps_what_was_there(tmp_path):
    def fail(options: Options, context: Context) -> Outcome:
        context.staging.write_bytes("part-00000.parquet", b"half")
        raise RuntimeError("worker lost")

    execute(FIRST, Options(size=1), str(tmp_path))
    with pytest.raises(RuntimeError):
        execute(Job("first", "", Options, (), "questions", fail), Options(size=2), str(tmp_path))
    assert Artifact(str(tmp_path / "questions")).read(schema.QUESTIONS).num_rows == 1


def test_one_process_at_a_time_makes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    begun, end = threading.Event(), threading.Event()

    def wait(options: Options, context: Context) -> Outcome:
        begun.set()
        assert end.wait(60)
        return write_questions(options, context)

    job = Job("first", "", Options, (), "questions", wait)
    slow = threading.Thread(target=execute, args=(job, Options(), str(tmp_path)))
    slow.start()
    assert begun.wait(60)
    says = rf"questions is being made by process {os.getpid()} on \S+; wait for it, or end it first"
    with pytest.raises(UserError, match=says):
        execute(FIRST, Options(size=5), str(tmp_path))
    execute(Job("other", "", Options, (), "others", write_questions), Options(size=7), str(tmp_path))
    end.set()
    slow.join()
    execute(FIRST, Options(size=5), str(tmp_path))
    assert calls == [7, 2, 5] and not list((tmp_path / "_scratch").iterdir())


def test_who_waited_takes_what_was_made_meanwhile_and_leaves_its_scratch_alone(tmp_path):
    begun, end = threading.Event(), threading.Event()

    def wait(options: Options, context: Context) -> Outcome:
        os.makedirs(context.scratch)
        begun.set()
        assert end.wait(60)
        return write_questions(options, context)

    job = Job("first", "", Options, (), "questions", wait)
    both = [threading.Thread(target=execute, args=(job, Options(), str(tmp_path))) for _ in range(2)]
    both[0].start()
    assert begun.wait(60)
    both[1].start()
    end.set()
    for thread in both:
        thread.join()
    assert calls == [2] and not list((tmp_path / "_scratch").iterdir())


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*; choose a folder that can be"):
        execute(FIRST, Options(), str(tmp_path / "file" / "run"))


def test_a_job_that_failed_is_not_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)

    def fail(options: Options, context: Context) -> Outcome:
        raise RuntimeError("worker lost")

    with pytest.raises(RuntimeError):
        execute(Job("first", "", Options, (), "questions", fail), Options(), str(tmp_path))
    (tmp_path / "_scratch" / "questions.lock").write_text("process 1 on a machine that was lost")
    execute(FIRST, Options(size=3), str(tmp_path))
    assert calls == [3]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--preset", "labtop"],
            "unknown preset 'labtop': presets are laptop, one-gpu, one-node, s1, s1.1; did you mean 'laptop'?",
        ),
        (["--siz", "3"], "unknown option --siz"),
        (["--size", "x"], "--size"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        command(FIRST, argv)
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_dry_run_prints_the_plan_and_runs_nothing(tmp_path, capsys):
    command(FIRST, ["--size", "7", "--run-dir", str(tmp_path), "--dry-run"])
    assert "size: 7" in capsys.readouterr().out
    assert calls == []
    assert list(tmp_path.iterdir()) == []
