"""What a training would take, before anything is rented: memory by component, time by share, dollars, disk.

Pure arithmetic over the lengths of the examples, the model's shape and the hardware; nothing is started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from s1.training import memory, schedule
from s1.training.duration import (
    Passes,
    checkpoint_seconds,
    epoch,
    held_out_seconds,
    pass_sizes,
    sampling_seconds,
    saving_seconds,
    spread_of,
)
from s1.training.hardware import Hardware
from s1.training.memory import GIB, Run


@dataclass(frozen=True)
class Training:
    """A training whose needs are asked for."""

    run: Run
    hardware: Hardware
    lengths: tuple[int, ...]  # tokens of every example that is trained on; none is longer than the block
    block_size: int
    epochs: int
    max_steps: int | None = None
    warmup_ratio: float = 0.0
    save_steps: int = 0
    seed: int = 0
    longest: int | None = None  # tokens of the longest example that may occur; None: the longest of `lengths`
    held_out: tuple[int, ...] = ()  # tokens of the examples whose loss is taken after every epoch
    samples: int = 0
    sample_tokens: int = 0

    @property
    def steps(self) -> int:
        return schedule.num_steps(len(self.lengths), self.run.batch_size, self.epochs, self.max_steps)

    @property
    def checkpoints(self) -> int:
        """How many it writes; one before its export when none was due."""
        return max(1, (self.steps - 1) // self.save_steps) if self.save_steps else 0

    @property
    def evaluations(self) -> int:
        """Times that the held-out examples are looked at: after every epoch and after the last step."""
        if not self.held_out:
            return 0
        return -(-self.steps // schedule.steps_per_epoch(len(self.lengths), self.run.batch_size))

    @property
    def limit_gib(self) -> float:
        return self.hardware.resolved().memory_gib

    @property
    def host_limit_gib(self) -> float | None:
        return self.hardware.resolved().host_gib


@dataclass(frozen=True)
class Peak:
    """The pass at which a worker holds most."""

    pass_tokens: int
    longest_tokens: int
    components: dict[str, float]  # bytes

    @property
    def gib(self) -> float:
        return sum(self.components.values()) / GIB


@dataclass(frozen=True)
class Cost:
    """Peak memory, seconds and dollars of a training."""

    peak_gib: float
    seconds: float
    usd: float


@lru_cache(maxsize=64)
def peak(training: Training) -> Peak:
    """The fullest of all passes that the training makes, and of one with the longest example that may occur."""
    run, longest = training.run, max(training.lengths)
    sizes = _sizes(training)
    kept = next((size for size in sizes if not run.recomputes(size)), sizes[0])
    passes = {(sizes[0], longest), (kept, longest)}
    if training.longest is not None:
        passes.add((_padded(training, training.longest), training.longest))
    return max((Peak(*held, memory.components(run, *held)) for held in passes), key=lambda found: found.gib)


def device_has_room(training: Training, spare: float = 0.0) -> bool:
    """Whether a worker has the memory, with a share of it to spare."""
    return peak(training).gib <= (1 - spare) * training.limit_gib


def host_has_room(training: Training, spare: float = 0.0) -> bool:
    """Whether a node has the memory beside its devices', as far as it is known, with a share of it to spare."""
    limit = training.host_limit_gib
    return limit is None or max(_host_bytes(training)) / GIB <= (1 - spare) * limit


def has_room(training: Training, spare: float = 0.0) -> bool:
    """Whether a worker and a node have the memory, with a share of it to spare."""
    return device_has_room(training, spare) and host_has_room(training, spare)


def needs(training: Training) -> dict[str, Any]:
    """Memory of a worker and of a node, what there is, and whether it `fits`."""
    at_load, in_steps = _host_bytes(training)
    return {
        "fits": has_room(training),
        "device_fits": device_has_room(training),
        "peak_gib": round(peak(training).gib, 2),
        "limit_gib": training.limit_gib,
        "host_fits": host_has_room(training),
        "host_gib_at_load": round(at_load / GIB, 2),
        "host_gib_in_steps": round(in_steps / GIB, 2),
        "host_limit_gib": training.host_limit_gib,
    }


def cost(training: Training) -> Cost:
    """What `training` needs, in short."""
    seconds = _seconds(training, _epoch(training))
    return Cost(peak(training).gib, seconds, seconds / 3600 * training.run.workers * training.hardware.price)


def nodes(training: Training) -> int:
    """How many nodes the workers take."""
    return -(-training.run.workers // training.hardware.resolved().per_node)


def report(training: Training) -> dict[str, Any]:
    """The plan as one JSON object: `fits`, `peak_gib`, `hours`, `usd`, `components` and what they follow from."""
    run, hardware, passes = training.run, training.hardware, _epoch(training)
    limit, steps, fullest = training.limit_gib, training.steps, peak(training)
    seconds = _seconds(training, passes)
    device_hours = seconds / 3600 * run.workers
    spot = hardware.spot_price
    return {
        **needs(training),
        "margin_gib": round(limit - fullest.gib, 2),
        "components": {name: round(size / GIB, 2) for name, size in fullest.components.items()},
        **_disk(training),
        "longest_tokens": max(training.lengths),
        "longest_counted_tokens": training.longest or max(training.lengths),
        "pass_tokens": fullest.pass_tokens,
        "at_block_size": _at_block_size(training),
        "examples": len(training.lengths),
        "held_out": len(training.held_out),
        "steps": steps,
        "warmup_steps": schedule.num_warmup_steps(steps, training.warmup_ratio),
        "tokens": round(passes.tokens * steps / passes.steps),
        "workers": run.workers,
        "nodes": nodes(training),
        "node_gbit_per_s": hardware.resolved().node_gbit_per_s,
        "hardware": hardware.device,
        "parameters": run.shape.num_parameters,
        **_time(training, passes),
        "checkpoint_gib": round(memory.checkpoint_bytes(run) / GIB, 2),
        "checkpoint_seconds": round(checkpoint_seconds(run, hardware), 1),
        "saving_seconds": round(_saving_seconds(training, passes), 1),
        "evaluation_seconds": round(_evaluation_seconds(training), 1),
        "hours": round(seconds / 3600, 3),
        "usd": round(device_hours * hardware.price, 2),
        "usd_per_hour": hardware.price,
        "usd_spot": None if spot is None else round(device_hours * spot, 2),
        "spot_usd_per_hour": spot,
    }


def _at_block_size(training: Training) -> dict[str, Any]:
    return {"block_size": training.block_size, **needs(replace(training, longest=training.block_size))}


def _disk(training: Training) -> dict[str, float]:
    usual, resized = memory.disk_bytes(training.run, training.checkpoints)
    found = {"export_gib": memory.export_bytes(training.run), "disk_gib": usual, "disk_gib_resized": resized}
    return {name: round(size / GIB, 2) for name, size in found.items()}


def _host_bytes(training: Training) -> tuple[float, float]:
    """Of a node: while the model is loaded, and while it trains."""
    run, per_node = training.run, training.hardware.resolved().per_node
    held = max(peak(training).pass_tokens, *_sizes(training))
    return memory.host_bytes_at_load(run, per_node), memory.host_bytes_in_steps(run, per_node, held)


def _time(training: Training, passes: Passes) -> dict[str, Any]:
    total = sum(passes.seconds.values())
    at_best = training.hardware.resolved().peak_tflops * 1e12 * training.run.workers
    return {
        "seconds_per_step": round(total / passes.steps, 3),
        "time_shares": {name: round(seconds / total, 3) for name, seconds in passes.seconds.items()},
        "mfu": round(passes.model_flops / (total * at_best), 3) if at_best else None,
    }


def _epoch(training: Training) -> Passes:
    return epoch(training.run, training.hardware, training.lengths, training.block_size, training.seed)


def _sizes(training: Training) -> tuple[int, ...]:
    """Tokens of the passes of all epochs, most first."""
    spread = spread_of(training.run, training.block_size, training.seed)
    return pass_sizes(spread, training.lengths, training.steps)


def _padded(training: Training, longest: int) -> int:
    """Most tokens of a pass that holds an example of `longest` tokens: packed it fills one, padded it sets a length."""
    run = training.run
    if run.packing:
        return longest
    number = min(run.micro_batch_size, -(-run.batch_size // run.num_groups))
    if run.micro_batch_tokens is not None:
        number = max(1, min(number, run.micro_batch_tokens // longest))
    return number * longest


def _seconds(training: Training, passes: Passes) -> float:
    return _step_seconds(passes) * training.steps + _saving_seconds(training, passes) + _evaluation_seconds(training)


def _step_seconds(passes: Passes) -> float:
    return sum(passes.seconds.values()) / passes.steps


def _saving_seconds(training: Training, passes: Passes) -> float:
    every, step = training.save_steps, _step_seconds(passes)
    return saving_seconds(training.run, training.hardware, training.steps, every, step)


def _evaluation_seconds(training: Training) -> float:
    """Of the held-out losses and the sampled answers, after every epoch."""
    run, hardware = training.run, training.hardware
    loss = held_out_seconds(run, hardware, training.held_out, training.block_size)
    answers = sampling_seconds(run, hardware, training.samples * training.sample_tokens)
    return training.evaluations * (loss + answers)
