"""What a training says while it runs: a line for the terminal, curves for TensorBoard and for configured services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jobs.runner import Context
from jobs.train_options import TrainOptions
from s1.artifacts import Artifact, join
from s1.training.hardware import DEVICES

if TYPE_CHECKING:
    from actors.journal import Record

# Name of the curve -> field of the record; a record without the field has no point there.
CURVES = {
    "loss/train": "loss",
    "loss/held_out": "held_out_loss",
    "train/learning_rate": "learning_rate",
    "train/grad_norm": "grad_norm",
    "speed/seconds_per_step": "seconds",
    "speed/tokens_per_s": "tokens_per_s",
    "speed/tflops_per_worker": "tflops",
    "speed/mfu": "mfu",
    "speed/balance": "balance",
    "memory/gib_per_worker": "memory_gib",
    "cost/usd": "usd",
}


class Sink(Protocol):
    """Somewhere that curves go to."""

    def write(self, values: dict[str, float], step: int) -> None: ...

    def restart(self) -> None:
        """All points will be written again."""
        ...

    def close(self) -> None: ...


class Trackers:
    """Follows the records of a training; `note` is a line about the last one."""

    def __init__(self, options: TrainOptions, context: Context) -> None:
        self.shown = 0  # steps
        self.note = "starting workers"
        self._options = options
        self._seconds = 0.0
        self._peak = options.hardware.peak_tflops or DEVICES[options.hardware.device].peak_tflops
        self._tensorboard = TensorBoard(context)
        self._sinks: list[Sink] = [self._tensorboard]
        makers = {"wandb": WandB, "mlflow": MLflow}
        self._sinks += [makers[name](options, context) for name in options.trackers]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.close()

    def show(self, count: int, records: Sequence[Record]) -> None:
        """Write the `records` that are new; there are `count` in all, fewer than before after a restart."""
        if count < self.shown:
            for sink in self._sinks:
                sink.restart()
            self._seconds = 0.0
        self.shown = count
        for record in records:
            self._seconds += record["seconds"]
            values = self._derived(record)
            for sink in self._sinks:
                sink.write({name: values[key] for name, key in CURVES.items() if key in values}, record["step"])
            self._tensorboard.write_texts(record.get("samples", ()), record["step"])
            self.note = self._line(values)

    def _derived(self, record: Record) -> dict[str, float]:
        values = {
            **record,
            "tokens_per_s": record["tokens"] / max(record["seconds"], 1e-9),
            "usd": self._usd(self._seconds),
        }
        if self._peak and "tflops" in record:
            values["mfu"] = record["tflops"] / self._peak
        return values

    def _usd(self, seconds: float) -> float:
        return seconds / 3600 * self._options.workers * self._options.hardware.price

    def _line(self, values: dict[str, float]) -> str:
        parts = [f"loss {values['loss']:.3f}", f"{values['tokens_per_s']:.0f} tokens/s"]
        if "held_out_loss" in values:
            parts.append(f"held out {values['held_out_loss']:.3f}")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.0%}")
        if self._options.workers > 1 and "balance" in values:
            parts.append(f"balance {values['balance']:.0%}")
        parts.append(f"{values['memory_gib']:.1f} GiB")
        if values["usd"]:
            parts.append(f"${values['usd']:.2f}")
        return ", ".join(parts)


class TensorBoard:
    """Event files in the run folder's `tensorboard`."""

    def __init__(self, context: Context) -> None:
        self._folder = Artifact(join(context.run_dir, "tensorboard", f"train-{context.identity}")).path
        self._writer = self._open()

    def _open(self) -> Any:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What an earlier attempt has written is written again.
        return SummaryWriter(self._folder, purge_step=1, flush_secs=10)

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_texts(self, samples: Sequence[dict[str, str]], step: int) -> None:
        for number, sample in enumerate(samples):
            self._writer.add_text(f"sample/{number} {sample['question_id']}", sample["text"], step)

    def restart(self) -> None:
        self._writer.close()
        self._writer = self._open()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the same training goes on in the same run."""

    def __init__(self, options: TrainOptions, context: Context) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(
            project="s1", id=context.identity, resume="allow", config=options.model_dump(mode="json")
        )

    def write(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def restart(self) -> None:
        """Steps that were logged stay; the service ignores them the second time."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, at the place that its environment variables name."""

    def __init__(self, options: TrainOptions, context: Context) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        mlflow.set_experiment("s1")
        mlflow.start_run(run_name=f"train-{context.identity}")
        mlflow.log_params({name: str(value) for name, value in options.model_dump(mode="json").items()})

    def write(self, values: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(values, step=step)

    def restart(self) -> None:
        """Points of a step that was seen before are kept beside the new ones."""

    def close(self) -> None:
        self._mlflow.end_run()
