"""Where the curves and samples of a training go: TensorBoard always, Weights & Biases and MLflow when configured.

No service may end a training: what goes wrong after its start is told once, and the training goes on without it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from jobs.runner import Context
from jobs.train_options import TrainOptions
from s1.artifacts import Artifact, join
from s1.errors import UserError

CLOSING_S = 30.0  # that all services together have for what is still to be written at the end


class Service(Protocol):
    """Somewhere that curves and samples go to. Steps ascend, and start again after `restart`."""

    def write(self, values: Mapping[str, float], step: int) -> None: ...

    def write_texts(self, samples: Sequence[Mapping[str, str]], step: int) -> None:
        """`samples`: `question_id` and `text` each."""
        ...

    def restart(self) -> None:
        """All points will be written again."""
        ...

    def close(self, *, finished: bool) -> None:
        """No more is written; `finished`: the training came to its end."""
        ...


class Sink:
    """A service in a thread of its own, where it may take its time: neither a training nor its end is kept waiting.

    Raises what `make` raises. What fails later is told once on stderr, and nothing is sent from then on.
    """

    def __init__(self, name: str, make: Callable[[], Service]) -> None:
        self._name, self._fails = name, False
        self._to_do: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        made: Future[Service] = Future()
        # Not of an executor, whose threads the interpreter waits for when it exits.
        self._thread = threading.Thread(target=self._work, args=(made, make), name=name, daemon=True)
        self._thread.start()
        self._service = made.result()

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._do(lambda: self._service.write(values, step))

    def write_texts(self, samples: Sequence[Mapping[str, str]], step: int) -> None:
        self._do(lambda: self._service.write_texts(samples, step))

    def restart(self) -> None:
        self._do(self._service.restart)

    def end(self, *, finished: bool) -> None:
        """Nothing more is written after what was to be written until now; does not wait for it."""
        self._do(lambda: self._service.close(finished=finished))
        self._to_do.put(None)

    def wait(self, seconds: float) -> None:
        """After `end`: return when all is written, or after `seconds`, which is told, and leave the rest unwritten."""
        self._thread.join(seconds)
        if self._thread.is_alive() and not self._fails:
            self._tell(f"has not taken all points {CLOSING_S:g} s after the end; going on without them")

    def _do(self, what: Callable[[], None]) -> None:
        self._to_do.put(what)

    def _work(self, made: Future[Service], make: Callable[[], Service]) -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # handed to the thread that waits for it
            made.set_exception(error)
            return
        while (what := self._to_do.get()) is not None:
            if self._fails:
                continue
            try:
                what()
            except Exception as error:  # of whatever type the service has for it
                if not self._fails:
                    self._tell(f"gets no more points ({_first_line(error)})")

    def _tell(self, wrong: str) -> None:
        self._fails = True
        print(f"train: {self._name} {wrong}", file=sys.stderr, flush=True)


def close(sinks: Sequence[Sink], *, finished: bool) -> None:
    """Let all of them write what is left, for CLOSING_S together: a service that hangs keeps no result waiting."""
    for sink in sinks:
        sink.end(finished=finished)
    until = time.monotonic() + CLOSING_S
    for sink in sinks:
        sink.wait(max(0.0, until - time.monotonic()))


def configured(options: TrainOptions, context: Context) -> list[Sink]:
    """The services that `options` ask for. UserError when one of them does not let itself be used."""
    makers = {"wandb": WandB, "mlflow": MLflow}
    sinks: list[Sink] = []
    for name in options.trackers:
        try:
            sinks.append(Sink(name, partial(makers[name], options, context)))
        except Exception as error:  # of whatever type the service has for it
            close(sinks, finished=False)
            raise UserError(
                f"trackers={name}: cannot be used ({_first_line(error)}); give it its key and address in the "
                "environment, or leave it out"
            ) from error
    return sinks


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


class TensorBoard:
    """Event files in the run folder's `tensorboard`."""

    def __init__(self, context: Context) -> None:
        self._folder = Artifact(join(context.run_dir, "tensorboard", f"train-{context.identity}")).path
        self._writer = self._open()

    def _open(self) -> Any:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What an earlier attempt has written is written again.
        return SummaryWriter(self._folder, purge_step=1, flush_secs=10)

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_texts(self, samples: Sequence[Mapping[str, str]], step: int) -> None:
        for number, sample in enumerate(samples):
            self._writer.add_text(f"sample/{number} {sample['question_id']}", sample["text"], step)

    def restart(self) -> None:
        self._writer.close()
        self._writer = self._open()

    def close(self, *, finished: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the same training goes on in the same run."""

    def __init__(self, options: TrainOptions, context: Context) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb
        # Drawn, not derived from the options: a training that is forced again, or repeated in another folder, is
        # another run.
        file = _run_file(context, "wandb")
        if not file.is_file():
            _keep(file, uuid.uuid4().hex)
        self._run: Any = wandb.init(
            project="s1",
            id=file.read_text(),
            name=f"train-{context.identity}",
            resume="allow",
            config=options.model_dump(mode="json"),
        )

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def write_texts(self, samples: Sequence[Mapping[str, str]], step: int) -> None:
        rows = [[sample["question_id"], sample["text"]] for sample in samples]
        self._run.log({"samples": self._wandb.Table(columns=["question_id", "text"], data=rows)}, step=step)

    def restart(self) -> None:
        """Steps that were logged stay; the service ignores them the second time."""

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow, at the place that its environment variables name; the same training goes on in the same run."""

    def __init__(self, options: TrainOptions, context: Context) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        self._client: Any = mlflow.MlflowClient()
        file = _run_file(context, "mlflow")
        self._logged = 0  # steps: the service would keep a point that comes twice beside the first one
        with _impatient():
            if file.is_file() and self._goes_on(file.read_text()):
                return
            experiment = mlflow.set_experiment("s1")
        run = self._client.create_run(experiment.experiment_id, run_name=f"train-{context.identity}")
        self._run_id = run.info.run_id
        for name, value in options.model_dump(mode="json").items():
            self._client.log_param(self._run_id, name, str(value))
        _keep(file, self._run_id)

    def _goes_on(self, run_id: str) -> bool:
        """Go on in the run `run_id`, if there is one here."""
        try:
            self._client.update_run(run_id, status="RUNNING")
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        history = self._client.get_metric_history(run_id, "loss/train")
        self._run_id, self._logged = run_id, max((point.step for point in history), default=0)
        return True

    def write(self, values: Mapping[str, float], step: int) -> None:
        if step <= self._logged:
            return
        now = int(time.time() * 1000)
        points = [self._mlflow.entities.Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=points)
        self._logged = step

    def write_texts(self, samples: Sequence[Mapping[str, str]], step: int) -> None:
        text = "\n\n".join(f"## {sample['question_id']}\n\n{sample['text']}" for sample in samples)
        self._client.log_text(self._run_id, text, f"samples/step-{step:06d}.md")

    def restart(self) -> None:
        """Steps that were logged are left out the second time."""

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run_id, status="FINISHED" if finished else "FAILED")


# A wrong address is told after seconds: MLflow tries a server that does not answer for four minutes and more, as it
# should in the middle of a training.
_AT_THE_START = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@contextmanager
def _impatient() -> Generator[None]:
    """MLflow's requests in this block take what `_AT_THE_START` says, if the user has not set something else."""
    ours = {name: value for name, value in _AT_THE_START.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _run_file(context: Context, service: str) -> Path:
    """Where the id of the training's run is kept: in its scratch folder, which lives as long as its checkpoints."""
    return Path(Artifact(context.scratch).path) / f"{service}-run"


def _keep(file: Path, run_id: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run_id)
