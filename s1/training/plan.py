"""What a training would take, before anything is rented: memory by component, time by share, dollars, a verdict.

Pure arithmetic over the lengths of the examples, the model's shape and the hardware; nothing is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from s1.training import memory, schedule
from s1.training.duration import Passes, checkpoint_seconds, epoch, saving_seconds
from s1.training.hardware import Hardware
from s1.training.memory import GIB, Run


@dataclass(frozen=True)
class Training:
    """A training whose needs are asked for."""

    run: Run
    hardware: Hardware
    lengths: Sequence[int]  # tokens of every example; none is longer than the block
    block_size: int
    epochs: int
    max_steps: int | None = None
    warmup_ratio: float = 0.0
    save_steps: int = 0

    @property
    def steps(self) -> int:
        return schedule.num_steps(len(self.lengths), self.run.batch_size, self.epochs, self.max_steps)

    @property
    def limit_gib(self) -> float:
        return self.hardware.resolved().memory_gib


@dataclass(frozen=True)
class Cost:
    """Peak memory, seconds and dollars of a training."""

    peak_gib: float
    seconds: float
    usd: float


def cost(training: Training) -> Cost:
    """What `training` needs, in short."""
    passes = _epoch(training)
    seconds = _step_seconds(passes) * training.steps + _saving_seconds(training, passes)
    peak = memory.peak_gib(training.run, passes.longest_pass, max(training.lengths))
    return Cost(peak, seconds, seconds / 3600 * training.run.workers * training.hardware.usd_per_hour)


def report(training: Training) -> dict[str, Any]:
    """The plan as one JSON object: `fits`, `peak_gib`, `hours`, `usd`, `components` and what they follow from."""
    run, hardware, passes = training.run, training.hardware, _epoch(training)
    needed = cost(training)
    components = memory.components(run, passes.longest_pass, max(training.lengths))
    at_block = memory.peak_gib(run, max(passes.longest_pass, training.block_size), training.block_size)
    limit, steps = training.limit_gib, training.steps
    fits = needed.peak_gib <= limit
    hours = needed.seconds / 3600
    spot = hardware.spot_usd_per_hour
    return {
        "fits": fits,
        "peak_gib": round(needed.peak_gib, 2),
        "limit_gib": limit,
        "margin_gib": round(limit - needed.peak_gib, 2),
        "change": None if fits else cheapest_change(training),
        "components": {name: round(size / GIB, 2) for name, size in components.items()},
        "host_gib_at_load": round(memory.host_bytes_at_load(run, hardware.resolved().per_node) / GIB, 2),
        "host_gib_in_steps": round(
            memory.host_bytes_in_steps(run, hardware.resolved().per_node, passes.longest_pass) / GIB, 2
        ),
        "longest_tokens": max(training.lengths),
        "pass_tokens": passes.longest_pass,
        "at_block_size": {
            "block_size": training.block_size,
            "fits": at_block <= limit,
            "peak_gib": round(at_block, 2),
        },
        "examples": len(training.lengths),
        "steps": steps,
        "warmup_steps": schedule.num_warmup_steps(steps, training.warmup_ratio),
        "tokens": round(passes.tokens * steps / passes.steps),
        "workers": run.workers,
        "nodes": -(-run.workers // hardware.resolved().per_node),
        "hardware": hardware.device,
        "parameters": run.shape.num_parameters,
        **_time(training, passes),
        "checkpoint_gib": round(memory.checkpoint_bytes(run) / GIB, 2),
        "checkpoint_seconds": round(checkpoint_seconds(run, hardware), 1),
        "saving_seconds": round(_saving_seconds(training, passes), 1),
        "hours": round(hours, 3),
        "usd": round(needed.usd, 2),
        "usd_spot": None if spot is None else round(hours * run.workers * spot, 2),
    }


def _time(training: Training, passes: Passes) -> dict[str, Any]:
    total = sum(passes.seconds.values())
    peak = training.hardware.resolved().peak_tflops * 1e12 * training.run.workers
    return {
        "seconds_per_step": round(total / passes.steps, 3),
        "time_shares": {name: round(seconds / total, 3) for name, seconds in passes.seconds.items()},
        "mfu": round(passes.model_flops / (total * peak), 3) if peak else None,
    }


def _epoch(training: Training) -> Passes:
    return epoch(training.run, training.hardware, training.lengths, training.block_size)


def _step_seconds(passes: Passes) -> float:
    return sum(passes.seconds.values()) / passes.steps


def _saving_seconds(training: Training, passes: Passes) -> float:
    every, step = training.save_steps, _step_seconds(passes)
    return saving_seconds(training.run, training.hardware, training.steps, every, step)


def cheapest_change(training: Training) -> dict[str, Any] | None:
    """The change that makes `training` fit: fewest workers, then fewest options, then dollars; None: none does."""
    found: list[tuple[int, int, float, float, dict[str, Any], Cost]] = []
    for changes in _changes(training.run):
        changed = replace(training, run=replace(training.run, **changes))
        needed = cost(changed)
        if needed.peak_gib <= training.limit_gib:
            order = (changed.run.workers, len(changes), round(needed.usd, 2), round(needed.seconds))
            found.append((*order, changes, needed))
    if not found:
        return None
    *_, changes, needed = min(found, key=lambda entry: entry[:4])
    return {
        "options": changes,
        "peak_gib": round(needed.peak_gib, 2),
        "hours": round(needed.seconds / 3600, 3),
        "usd": round(needed.usd, 2),
    }


def _changes(run: Run) -> Iterator[dict[str, Any]]:
    """Options that save memory, in all combinations; the number of workers only grows."""
    for workers in (run.workers, *(run.workers * times for times in (2, 4, 8) if run.batch_size % times == 0)):
        if run.batch_size % workers:
            continue
        for stage in sorted({run.zero_stage, 3}):
            for checkpointing in sorted({run.activation_checkpointing, True}):
                for chunk in {run.loss_chunk_tokens, min(run.loss_chunk_tokens, 4096)}:
                    for size in {run.micro_batch_size, 1}:
                        wanted = {
                            "workers": workers,
                            "zero_stage": stage,
                            "activation_checkpointing": checkpointing,
                            "loss_chunk_tokens": chunk,
                            "micro_batch_size": size,
                        }
                        changes = {name: value for name, value in wanted.items() if value != getattr(run, name)}
                        if changes:
                            yield changes
                        yield from _divided(run, changes, workers)


def _divided(run: Run, changes: dict[str, Any], workers: int) -> Iterator[dict[str, Any]]:
    """`changes` with each sequence among 2, 4 or 8 workers."""
    for size in (2, 4, 8):
        if size > run.sequence_parallel and workers % size == 0 and run.shape.heads % size == 0:
            yield {**changes, "sequence_parallel": size, "packing": True}
