"""How long a training takes, from the very passes that it will make: compute, communication, straggling.

The batches of an epoch are drawn and spread over the workers as the training itself does it. A pass lasts as long as
its slowest worker computes, or as long as its communication lasts, which overlaps with the computation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from s1.training import batches
from s1.training.hardware import Hardware
from s1.training.memory import Run, checkpoint_bytes
from s1.training.schedule import steps_per_epoch

# From a device to the memory of its host, into pages that are not pinned.
HOST_GB_PER_S = 5.0


@dataclass(frozen=True)
class Passes:
    """What the steps of one epoch come to."""

    steps: int
    tokens: int  # without padding
    seconds: dict[str, float]  # of all steps: compute, communication, straggling
    model_flops: float


def bandwidth(run: Run, hardware: Hardware) -> tuple[float, float]:
    """Bytes per second of a collective operation: inside a node, and over all workers."""
    device = hardware.resolved()
    inside = device.local_gb_per_s * 1e9
    if run.workers <= device.per_node:
        return inside, inside
    return inside, min(inside, device.node_gbit_per_s / 8 * 1e9)


def communication_seconds(run: Run, hardware: Hardware) -> tuple[float, float]:
    """Seconds of communication of every pass, and of every step on top of it."""
    if run.workers == 1:
        return 0.0, 0.0
    inside, across = bandwidth(run, hardware)
    share = run.width * (run.workers - 1) / run.workers
    weights, trained = share * run.num_weights, share * run.num_trained  # bytes of one all-gather, of one reduction
    if run.zero_stage == 3:  # gathered for the forward and again for the backward pass, gradients reduced
        again = inside if run.secondary_shards > 1 else across
        return weights / across + weights / again + trained / across, 0.0
    # DeepSpeed sums gradients up on all workers (ZeRO-2 in every pass), which moves them twice, and gathers weights.
    return (2 * trained / across, trained / across) if run.zero_stage == 2 else (0.0, 3 * trained / across)


def _exchange_seconds(run: Run, hardware: Hardware, tokens: int) -> float:
    """Of the attention under sequence parallelism: queries, keys, values and outputs change hands in every layer."""
    if run.sequence_parallel == 1:
        return 0.0
    inside, _ = bandwidth(run, hardware)
    shape = run.shape
    columns = 2 * shape.heads * shape.head_dim + 2 * shape.kv_heads * shape.head_dim
    times = 3 if run.recomputes(tokens) else 2
    return times * shape.layers * columns * run.width * tokens / run.sequence_parallel / inside


def device_seconds(run: Run, hardware: Hardware, lengths: Sequence[int], *, recompute: bool) -> float:
    """Seconds that one worker, or a group that shares sequences, computes for a pass over sequences of `lengths`."""
    if hardware.tokens_per_s is not None:
        return sum(lengths) / hardware.tokens_per_s / run.sequence_parallel
    again = 0.0
    if recompute:  # the forward pass once more: a third of a full training
        again = sum(map(run.shape.flops, lengths)) / 3
    peak = hardware.resolved().peak_tflops * 1e12 * hardware.efficiency
    return (sum(map(run.flops, lengths)) + again) / peak / run.sequence_parallel


@dataclass(frozen=True)
class Spread:
    """What decides which examples meet in a pass."""

    num_groups: int
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    packing: bool
    block_size: int
    seed: int


def spread_of(run: Run, block_size: int, seed: int = 0) -> Spread:
    """How `run` spreads its batches."""
    sizes = run.batch_size, run.micro_batch_size, run.micro_batch_tokens
    return Spread(run.num_groups, *sizes, run.packing, block_size, seed)


@lru_cache(maxsize=64)
def pass_sizes(spread: Spread, lengths: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """Tokens, padding included, that a worker (or group of workers) holds in any pass of `steps`, most first."""
    passes = (shares for step in _steps(spread, lengths, steps) for shares in step)
    return tuple(sorted({_held(shares, spread.packing) for shares in passes}, reverse=True))


def _held(shares: Sequence[Sequence[int]], packing: bool) -> int:
    """Tokens of a pass of the worker, or group, that holds most; `shares`: lengths of the sequences of each."""
    return max(batches.pass_tokens(share, packing=packing) for share in shares)


def _steps(spread: Spread, lengths: Sequence[int], steps: int) -> Iterator[list[list[list[int]]]]:
    """Of each of the first `steps`: its passes, and in each the lengths of the sequences of each worker or group."""
    for step in range(steps):
        sizes = [lengths[index] for index in batches.batch(step, len(lengths), spread.batch_size, spread.seed)]
        found = batches.spread(
            sizes,
            spread.num_groups,
            packing=spread.packing,
            micro_batch_size=spread.micro_batch_size,
            micro_batch_tokens=spread.micro_batch_tokens,
            block_size=spread.block_size,
        )
        yield [[[sizes[position] for position in positions] for positions in ranks] for ranks in found]


def epoch(run: Run, hardware: Hardware, lengths: Sequence[int], block_size: int, seed: int = 0) -> Passes:
    """The first epoch over examples of `lengths`, pass by pass."""
    per_pass, per_step = communication_seconds(run, hardware)
    compute = communication = straggling = 0.0
    steps = steps_per_epoch(len(lengths), run.batch_size)
    for passes in _steps(spread_of(run, block_size, seed), lengths, steps):
        communication += per_step
        for shares in passes:
            held = _held(shares, run.packing)
            busy = [device_seconds(run, hardware, share, recompute=run.recomputes(held)) for share in shares]
            mean = sum(busy) / len(busy)
            compute += mean
            straggling += max(busy) - mean
            communication += max(0.0, per_pass - max(busy)) + _exchange_seconds(run, hardware, held)
    seconds = {"compute": compute, "communication": communication, "straggling": straggling}
    return Passes(steps, sum(lengths), seconds, sum(map(run.flops, lengths)))


def held_out_seconds(run: Run, hardware: Hardware, lengths: Sequence[int], block_size: int) -> float:
    """Seconds of taking the loss of held-out examples of `lengths` once: forward passes, a third of a training's."""
    gathered = _gather_seconds(run, hardware)
    found = 0.0
    # The training takes them in their order, which this shuffles: the same passes on average.
    steps = steps_per_epoch(len(lengths), run.batch_size)
    for passes in _steps(spread_of(run, block_size), lengths, steps):
        for shares in passes:
            longest = max(device_seconds(run, hardware, share, recompute=False) for share in shares)
            found += max(longest / (2 if run.lora_rank else 3), gathered)
    return found


def sampling_seconds(run: Run, hardware: Hardware, num_tokens: int) -> float:
    """Seconds of writing `num_tokens` one by one, which reads, and under ZeRO-3 gathers, all weights for each."""
    read = run.width * run.num_weights / (hardware.resolved().memory_gb_per_s * 1e9)
    return num_tokens * max(read, _gather_seconds(run, hardware))


def _gather_seconds(run: Run, hardware: Hardware) -> float:
    """Of all weights once, where they are shared."""
    if run.zero_stage < 3 or run.workers == 1:
        return 0.0
    return run.width * run.num_weights * (run.workers - 1) / run.workers / bandwidth(run, hardware)[1]


def checkpoint_seconds(run: Run, hardware: Hardware) -> float:
    """Seconds in which all nodes together write a checkpoint."""
    nodes = -(-run.workers // hardware.resolved().per_node)
    return checkpoint_bytes(run) / (nodes * hardware.storage_gb_per_s * 1e9)


def saving_seconds(run: Run, hardware: Hardware, steps: int, save_steps: int, seconds_per_step: float) -> float:
    """Seconds by which the checkpoints every `save_steps` lengthen a training of `steps`.

    Written in the background, each stops the training while the states are copied, and makes it wait when the one
    before, or at the end of the training the last one, is not written yet. A training that ends before the first is
    due writes one before its export.
    """
    if not save_steps:
        return 0.0
    write = checkpoint_seconds(run, hardware)
    checkpoints = (steps - 1) // save_steps
    if not checkpoints:
        return write
    if not run.save_in_background:
        return checkpoints * write
    copy = checkpoint_bytes(run) / run.workers / (HOST_GB_PER_S * 1e9)
    between, after = save_steps * seconds_per_step, (steps - checkpoints * save_steps) * seconds_per_step
    return checkpoints * copy + (checkpoints - 1) * max(0.0, write - between) + max(0.0, write - after)
