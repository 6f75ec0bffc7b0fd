"""What the services are told about a training, and what the terminal shows."""

import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import services
from services import logged

from actors.journal import News
from jobs import sinks
from jobs.runner import Context
from jobs.tracking import Trackers
from jobs.train_bill import Bill, Span
from jobs.train_options import TrainOptions
from s1.artifacts import Artifact, Staging
from s1.errors import UserError
from s1.training.hardware import Hardware

STEPS = 10


class Recorder:
    """A service that remembers how it was ended."""

    finished: bool | None = None

    def write(self, values: object, step: int) -> None: ...

    def write_texts(self, samples: object, step: int) -> None: ...

    def restart(self) -> None: ...

    def close(self, *, finished: bool) -> None:
        self.finished = finished


@pytest.fixture
def folders(monkeypatch, tmp_path):
    yield services.install(monkeypatch, tmp_path)
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("jobs.tracking.time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def context_of(run_dir: Path) -> Context:
    staging = Staging(Artifact(str(run_dir / "checkpoint")), str(run_dir / "checkpoint"))
    return Context({}, staging, str(run_dir), "same-options", str(run_dir / "_scratch"))


def trackers_of(
    run_dir: Path, spans: list[Span] | None = None, planned_s: float | None = None, **options: object
) -> Trackers:
    hardware = Hardware(device="h100", usd_per_hour=3.6)
    chosen = {"trackers": ("wandb", "mlflow"), "workers": 16, "hardware": hardware, **options}
    validated = TrainOptions.model_validate(chosen)
    bill = Bill(str(run_dir / "_scratch"), validated.hardware.price)
    bill.spans = spans or []
    return Trackers(validated, context_of(run_dir), STEPS, bill, planned_s)


def record(step: int, ended: float, **more: object) -> dict[str, object]:
    values = {"loss": 1 / step, "learning_rate": 1e-5, "grad_norm": 1.0, "tokens": 1000, "memory_gib": 2.0}
    return {"step": step, "seconds": 8.0, "ended": ended, **values, **more}


def news(first: int, last: int, restored: int = 0, group: int = 1, **more: object) -> News:
    """Steps of 10 s from `first` to `last`; the last one has `more`."""
    records = [record(step, 1000.0 + 10 * step, **(more if step == last else {})) for step in range(first, last + 1)]
    return News(last, records, restored, group, 16)


def run_of(folder: Path) -> Path:
    (file,) = [file for file in folder.iterdir() if file.name != "down"]
    return file


def steps_in(file: Path) -> list[int]:
    return [line["step"] for line in logged(file) if "loss/train" in line]


def test_services_get_losses_held_out_losses_and_samples(folders, tmp_path):
    samples = [{"question_id": "q7", "text": "It is 4."}]
    with trackers_of(tmp_path / "run") as trackers:
        trackers.show(news(1, 2, held_out_loss=0.75, samples=samples))
    points = [line for line in logged(run_of(folders["wandb"])) if "step" in line]
    assert [point.get("loss/train") for point in points] == [1.0, 0.5, None]
    assert points[1]["loss/held_out"] == 0.75 and points[2] == {"step": 2, "samples": [["q7", "It is 4."]]}
    assert logged(run_of(folders["wandb"]))[-1] == {"exit_code": 0}
    lines = logged(run_of(folders["mlflow"]))
    assert {"param": {"batch_size": "16"}} in lines and lines[-1] == {"status": "FINISHED"}
    assert lines[-3]["loss/held_out"] == 0.75
    assert lines[-2] == {"text": "## q7\n\nIt is 4.", "file": "samples/step-000002.md"}


def test_a_training_that_goes_on_goes_on_in_the_same_runs(folders, tmp_path):
    with pytest.raises(SystemExit), trackers_of(tmp_path / "run") as trackers:
        trackers.show(news(1, 4))
        raise SystemExit(143)
    assert logged(run_of(folders["mlflow"]))[-1] == {"status": "FAILED"}
    with trackers_of(tmp_path / "run") as trackers:
        trackers.show(news(1, 3, restored=3))
        trackers.show(news(4, 6, restored=3))
    assert steps_in(run_of(folders["mlflow"])) == [1, 2, 3, 4, 5, 6]
    assert set(steps_in(run_of(folders["wandb"]))) == {1, 2, 3, 4, 5, 6}


def test_the_same_options_elsewhere_or_again_are_other_runs(folders, tmp_path):
    for name in ("one", "two"):
        with trackers_of(tmp_path / name) as trackers:
            trackers.show(news(1, 2))
    for service in ("wandb", "mlflow"):
        (folders[service] / (tmp_path / "one" / "_scratch" / f"{service}-run").read_text()).unlink()  # deleted there
        assert steps_in(run_of(folders[service])) == [1, 2]
    with trackers_of(tmp_path / "one") as trackers:
        trackers.show(news(1, 3))
    for service in ("wandb", "mlflow"):
        assert [sorted(map(len, map(steps_in, folders[service].iterdir())))] == [[2, 3]]


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_service_that_breaks_is_told_once_and_left_out(folders, tmp_path, capsys, service):
    with trackers_of(tmp_path / "run") as trackers:
        trackers.show(news(1, 2))
        trackers.show(News(0, [], 0, 2, 16))  # waits for nothing; what follows is in the order of the calls
        (folders[service] / "down").touch()
        trackers.show(news(3, 6))
        trackers.show(news(1, 2, group=2))
        trackers.show(news(3, 8, group=2))
    errors = capsys.readouterr().err
    assert errors.count(f"train: {service} gets no more points (") == 1 and len(errors.splitlines()) == 1
    other = run_of(folders["mlflow" if service == "wandb" else "wandb"])
    assert set(steps_in(other)) == set(range(1, 9))
    assert max(steps_in(run_of(folders[service])), default=0) <= 2
    assert trackers.note.startswith("loss 0.125")


def test_a_service_that_cannot_be_used_ends_the_job_before_it_starts(folders, tmp_path, monkeypatch):
    (folders["mlflow"] / "down").touch()
    with pytest.raises(UserError, match=r"^trackers=mlflow: cannot be used \(API request failed with exception\)"):
        trackers_of(tmp_path / "run")
    assert logged(run_of(folders["wandb"]))[-1] == {"exit_code": 1}
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"trackers=wandb: cannot be used \(api_key not configured"):
        trackers_of(tmp_path / "other")


def test_what_is_left_follows_from_the_steps_of_these_workers(folders, tmp_path):
    spans = [Span(900.0, 1035.0, 16, 3.6), Span(5000.0, 6000.0, 16, 3.6)]
    with trackers_of(tmp_path / "run", spans) as trackers:
        trackers.show(News(3, [record(step, 1000.0 + 10 * step) for step in (1, 2, 3)], 3, 1, 16))
        assert trackers.note.endswith("2.0 GiB, $2.08")  # 130 s of 16 workers until step 3; how fast these are is open
        trackers.show(News(4, [record(4, 5100.0)], 3, 1, 8))
        assert trackers.note.endswith("$3.76, $0.38 left")  # 6 steps of 8 s on 8 workers
        trackers.show(News(6, [record(5, 5120.0), record(6, 5140.0)], 3, 1, 8))
        assert trackers.note.endswith("$4.40, $0.64 left")  # 4 steps of 20 s


def test_a_step_that_is_long_in_coming_is_told(tmp_path, clock):
    with trackers_of(tmp_path / "run", trackers=()) as trackers:
        clock.seconds = 300.0
        assert trackers.note == "starting workers"
        trackers.show(news(1, 1))
        clock.seconds += 60
        assert trackers.note.startswith("loss 1.000")
        clock.seconds += 15
        trackers.show(News(1, [], 0, 1, 16))
        assert trackers.note == "no step for 75 s"
        trackers.show(news(2, 2))
        assert trackers.note.startswith("loss 0.500")
        trackers.show(news(3, STEPS))
        clock.seconds += 300  # it writes the model
        assert trackers.note.startswith("loss 0.100")


def test_steps_of_minutes_are_not_called_late(tmp_path, clock):
    with trackers_of(tmp_path / "run", trackers=()) as trackers:
        trackers.show(news(1, 1, seconds=100.0))
        clock.seconds = 400.0
        assert trackers.note.startswith("loss 1.000")


def test_a_service_that_hangs_keeps_neither_a_result_nor_a_process_waiting(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sinks, "CLOSING_S", 0.1)
    let_go = threading.Event()

    class Stuck(Recorder):
        def close(self, *, finished: bool) -> None:
            let_go.wait()
            raise OSError("gone meanwhile")

    written = Recorder()
    services = {"stuck": Stuck(), "other": written}
    sinks.close([sinks.Sink(name, partial(services.get, name)) for name in services], finished=True)
    assert written.finished is True  # by one that does not hang, whatever the others do
    (waiting,) = [thread for thread in threading.enumerate() if thread.name == "stuck"]
    assert waiting.daemon  # the interpreter does not wait for it
    let_go.set()
    waiting.join()
    told = capsys.readouterr().err
    assert told == "train: stuck has not taken all points 0.1 s after the end; going on without them\n"


def test_without_a_price_nothing_is_said_about_dollars(folders, tmp_path):
    with trackers_of(tmp_path / "run", hardware=Hardware(), trackers=("wandb",)) as trackers:
        trackers.show(news(1, 4))
        assert "$" not in trackers.note
    last = logged(run_of(folders["wandb"]))[-2]
    assert last["speed/seconds_left"] == 60.0 and not any(name.startswith("cost/") for name in last)


def test_steps_that_take_much_longer_than_planned_are_told_once(tmp_path, capsys):
    def told(planned_s: float | None, *shown: News) -> list[str]:
        with trackers_of(tmp_path / "run", planned_s=planned_s, trackers=()) as trackers:
            for each in shown:
                trackers.show(each)
        return [line for line in capsys.readouterr().err.splitlines() if "as long as planned" in line]

    (line,) = told(2.0, news(1, 6), news(7, 12))
    assert line.startswith("train: a step takes 10.0 s, 5.0 times as long as planned; about ")
    assert "$" in line and "--train.hardware.node-gbit-per-s" in line
    assert told(8.0, news(1, 6)) == told(None, news(1, 6)) == told(2.0, news(1, 3)) == []
    # Fewer workers than planned take longer, and nobody wonders.
    assert told(2.0, News(6, news(1, 6).records, 0, 1, 8)) == []
