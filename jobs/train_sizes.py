"""How many workers a training can have: groups that share every batch equally, on whole nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s1.errors import UserError
from s1.training.hardware import DEVICES

if TYPE_CHECKING:
    from jobs.train_options import TrainOptions


def sizes(options: TrainOptions) -> list[int]:
    """The numbers of workers, up to `workers`, among which the training can be divided equally."""
    return [number for number in range(1, options.workers + 1) if _complaint(options, number) is None]


def check(options: TrainOptions) -> None:
    """UserError for a number of workers, or a fewest number of them, that cannot divide the training."""
    wrong = _complaint(options, options.workers)
    if wrong is not None:
        raise UserError(wrong)
    per_node = _per_node(options)
    if per_node is not None and per_node % options.sequence_parallel:
        raise UserError(
            f"sequence_parallel={options.sequence_parallel} would divide sequences between nodes of {per_node} GPUs; "
            "take a divisor of that"
        )
    fewest = options.min_workers
    if fewest is None:
        return
    if fewest > options.workers:
        raise UserError(f"min_workers={fewest} is more than workers={options.workers}; lower it")
    wrong = _complaint(options, fewest)
    if wrong is not None:
        possible = ", ".join(map(str, sizes(options)))
        raise UserError(f"min_workers={fewest} cannot share the training equally; use one of {possible}")


def _complaint(options: TrainOptions, workers: int) -> str | None:
    """Why `workers` workers cannot divide the training equally; None when they can."""
    for name, size in (
        ("sequence_parallel", options.sequence_parallel),
        ("secondary_shards", options.secondary_shards),
    ):
        if workers % size:
            return f"workers={workers} is not divisible by {name}={size}; change one of them"
    groups = workers // options.sequence_parallel
    if options.batch_size % groups:
        of = f"workers={workers}"
        if options.sequence_parallel > 1:
            of = f"the {groups} groups of sequence_parallel={options.sequence_parallel} among {of}"
        return f"batch_size={options.batch_size} is not divisible by {of}; change one of them"
    per_node = _per_node(options)
    if per_node is not None and workers > per_node and workers % per_node:
        return (
            f"workers={workers} are not the GPUs of whole nodes, {per_node} of {options.hardware.device} each; "
            f"take {workers // per_node * per_node}, or set hardware.per_node"
        )
    return None


def _per_node(options: TrainOptions) -> int | None:
    """GPUs of a node; None where nothing is known about the nodes."""
    if not options.gpus_per_worker or options.hardware.device == "cpu":
        return None
    return options.hardware.per_node or DEVICES[options.hardware.device].per_node
