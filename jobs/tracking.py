"""What a training says while it runs: a line for the terminal, curves for TensorBoard and for configured services."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs import sinks
from jobs.runner import Context
from jobs.sinks import Sink, TensorBoard
from jobs.train_bill import Bill
from jobs.train_options import TrainOptions
from s1.training.hardware import DEVICES

if TYPE_CHECKING:
    from actors.journal import News, Record

# Name of the curve -> field of the record; a record without the field has no point there.
CURVES = {
    "loss/train": "loss",
    "loss/held_out": "held_out_loss",
    "train/learning_rate": "learning_rate",
    "train/grad_norm": "grad_norm",
    "speed/seconds_per_step": "seconds",
    "speed/seconds_left": "seconds_left",
    "speed/tokens_per_s": "tokens_per_s",
    "speed/tflops_per_worker": "tflops",
    "speed/mfu": "mfu",
    "speed/balance": "balance",
    "speed/straggling": "straggling",
    "speed/slowest_rank": "slowest_rank",
    "memory/gib_per_worker": "memory_gib",
    "cost/usd": "usd",
    "cost/usd_left": "usd_left",
}
RECENT_STEPS = 20  # that say how long the next ones will take
COMPARED_STEPS = 5  # with what was planned for a step
SLOW = 2.0  # times as long as planned
# Nothing new for longer than this, and than so many steps: workers were lost, or hang, or write a large checkpoint.
SILENT_S, SILENT_STEPS = 60.0, 5


class Trackers:
    """Follows the records of a training of `steps` steps.

    `planned_s`: seconds of a step as planned, if they are; steps that take much longer are told once. UserError when a
    service that is asked for does not let itself be used.
    """

    def __init__(
        self, options: TrainOptions, context: Context, steps: int, bill: Bill, planned_s: float | None = None
    ) -> None:
        self.shown = 0  # steps
        self._note = "starting workers"
        self._last: tuple[float, float] | None = None  # when the last step was told, and the seconds that it took
        self._options, self._steps, self._bill, self._planned_s = options, steps, bill, planned_s
        self._group = 0
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)  # of the last steps of this group of workers
        self._peak = options.hardware.peak_tflops or DEVICES[options.hardware.device].peak_tflops
        self._sinks = [*sinks.configured(options, context), Sink("TensorBoard", lambda: TensorBoard(context))]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        sinks.close(self._sinks, finished=kind is None)

    @property
    def note(self) -> str:
        """A line about the last step; when the next one is long in coming, for how long."""
        if self._last is not None and self.shown < self._steps:
            told, seconds = self._last
            silent_s = time.monotonic() - told
            if silent_s > max(SILENT_S, SILENT_STEPS * seconds):
                return f"no step for {silent_s:.0f} s"
        return self._note

    def show(self, news: News) -> None:
        """Write the new records; there are fewer in all than before after a restart."""
        if news.done < self.shown:
            for sink in self._sinks:
                sink.restart()
        if news.group != self._group:
            self._group = news.group
            self._ends.clear()
        self.shown = news.done
        values: dict[str, float] = {}
        for record in news.records:
            values = self._derived(record, restored=record["step"] <= news.restored, workers=news.workers)
            for sink in self._sinks:
                sink.write({name: values[key] for name, key in CURVES.items() if key in values}, record["step"])
                if record.get("samples"):
                    sink.write_texts(record["samples"], record["step"])
            self._note, self._last = self._line(values), (time.monotonic(), record["seconds"])
        if news.workers == self._options.workers and len(self._ends) > COMPARED_STEPS:
            self._compare_with_plan(values)

    def _compare_with_plan(self, values: Mapping[str, float]) -> None:
        """Whoever pays for the machines should hear early that they are slower than was planned."""
        planned_s, self._planned_s = self._planned_s, None
        seconds = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        if planned_s is None or seconds <= SLOW * planned_s:
            return
        left = f", ${values['usd_left']:.2f}" if "usd_left" in values else ""
        print(
            f"train: a step takes {seconds:.1f} s, {seconds / planned_s:.1f} times as long as planned; about "
            f"{values['seconds_left'] / 60:.0f} min{left} are left. On several nodes slow links are the usual reason: "
            "python -m jobs.plan with the right --train.hardware.node-gbit-per-s says what is cheaper; a training that "
            "is stopped goes on from its last checkpoint",
            file=sys.stderr,
        )

    def _derived(self, record: Record, *, restored: bool, workers: int) -> dict[str, float]:
        values = {**record, "tokens_per_s": record["tokens"] / max(record["seconds"], 1e-9)}
        if self._peak and "tflops" in record:
            values["mfu"] = record["tflops"] / self._peak
        if self._bill.usd_per_hour:
            values["usd"] = self._bill.usd(until=record["ended"])
        if not restored:  # steps of other workers say nothing about the time that these need
            self._ends.append(record["ended"])
            left = (self._steps - record["step"]) * self._seconds_per_step(record)
            values["seconds_left"] = left
            if self._bill.usd_per_hour:
                values["usd_left"] = left / 3600 * workers * self._bill.usd_per_hour
        return values

    def _seconds_per_step(self, record: Record) -> float:
        """Recent time from step to step, checkpoints and held-out passes included."""
        if len(self._ends) < 2:
            return record["seconds"]
        return max(0.0, self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)

    def _line(self, values: Mapping[str, float]) -> str:
        parts = [f"loss {values['loss']:.3f}", f"{values['tokens_per_s']:.0f} tokens/s"]
        if "held_out_loss" in values:
            parts.append(f"held out {values['held_out_loss']:.3f}")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.0%}")
        if self._options.workers > 1 and "balance" in values:
            parts.append(f"balance {values['balance']:.0%}")
        if "straggling" in values:
            parts.append(f"straggling {values['straggling']:.0%} (rank {values['slowest_rank']})")
        parts.append(f"{values['memory_gib']:.1f} GiB")
        if "usd" in values:
            left = f", ${values['usd_left']:.2f} left" if "usd_left" in values else ""
            about = "about " if self._options.hardware.usd_per_hour is None else ""  # a typical price
            parts.append(f"{about}${values['usd']:.2f}{left}")
        return ", ".join(parts)
