"""Failures of a training worker that another try would meet again, as a line for the user."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s1.errors import DISK_FULL, UserError

PROBE_BYTES = 1 << 20


def reason(error: BaseException, folder: str) -> str | None:
    """What the user can mend about `error`, in one line; None: nothing that is known, another try may help.

    `folder` is a folder of the run, on the same disk as its checkpoints.
    """
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
        if _is_out_of_memory(cause):
            return (
                f"the node {socket.gethostname()} ran out of memory ({' '.join(str(cause).split())[:200]}); lower "
                "micro_batch_tokens or loss_chunk_tokens, add --activation-checkpointing, or take more workers: "
                "python -m jobs.plan says what fits"
            )
        number = _number(cause)
        if number in DISK_FULL:
            return _full(folder, number)
    # torch writes files in native code, whose errors have no number, and leaves the disk full: it is asked itself.
    full = _write_probe(folder)
    return None if full is None else _full(folder, full)


def check_folder(folder: str) -> None:
    """UserError when this node does not see `folder`, which the job has made."""
    if not Path(folder).is_dir():
        raise UserError(
            f"{folder}: the node {socket.gethostname()} does not see this folder of the run; put the run folder "
            "(--run-dir) where all nodes mount it under the same name"
        )


def _full(folder: str, number: int) -> str:
    return (
        f"{folder}: the node {socket.gethostname()} cannot write there ({os.strerror(number)}); free some space and "
        "run the same command again, it goes on from the last checkpoint"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from or while handling."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _number(error: BaseException) -> int:
    """Number of an error of the operating system; 0: none."""
    if isinstance(error, OSError):
        return error.errno or 0
    of_safetensors = re.search(r"\(os error (\d+)\)", str(error))
    return int(of_safetensors[1]) if of_safetensors else 0


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    on_host = "DefaultCPUAllocator: can't allocate" in str(error)  # torch has no type for it
    return on_host or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def _write_probe(folder: str) -> int | None:
    """Number of the error of writing a file into `folder`, when it is one of a full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in DISK_FULL else None
    return None
