"""One process at a time makes a table: two of the same job would pay twice and remove each other's files."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pyarrow.fs import LocalFileSystem

from s1.artifacts import Artifact
from s1.errors import DISK_FULL, UserError

# What a driver that was killed has started may hold its lock a little longer.
PATIENCE_S = 15.0
POLL_S = 0.25


@contextmanager
def alone(uri: str, what: str) -> Generator[None]:
    """Hold the lock file `uri`, so that nobody else makes `what`, on any machine that mounts the folder.

    The lock ends with the process, however that ends. UserError when another process has it for longer than
    PATIENCE_S, or when the folder cannot be written. On object storage, and where the file system knows no locks,
    nothing is held.
    """
    artifact = Artifact(uri)
    if not isinstance(artifact.fs, LocalFileSystem):
        yield
        return
    file = Path(artifact.path)
    with _locked(file, what) as handle:
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _locked(file: Path, what: str) -> TextIO:
    """The open and locked file."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        handle = _opened(file)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
        except OSError:  # a file system without locks
            return handle
        else:
            if _is_at(handle, file):
                return handle
            handle.close()  # who had it has just removed it
            continue
        if time.monotonic() > deadline:
            holder = file.read_text() if file.is_file() else ""
            raise UserError(f"{what} is being made by {holder or 'another process'}; wait for it, or end it first")
        time.sleep(POLL_S)


def _opened(file: Path) -> TextIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a+")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(f"{file}: cannot be written ({error}); choose a folder that can be") from error


def _is_at(handle: TextIO, file: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    return False
