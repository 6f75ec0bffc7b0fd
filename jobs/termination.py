"""SIGTERM ends a job as Ctrl-C does: cleaned up, with one line. `ray job stop`, schedulers and spot notices send it."""

from __future__ import annotations

import signal
import threading
from typing import NoReturn

EXIT_CODE = 143  # what a shell reports of a process that SIGTERM ended

# Ray gives on every interruption of a wait as a KeyboardInterrupt of its own: which signal it was is kept here.
_received = threading.Event()


def terminate(*_: object) -> NoReturn:
    """End the job as SIGTERM does. Raises KeyboardInterrupt."""
    _received.set()
    raise KeyboardInterrupt


def was_terminated() -> bool:
    """Whether the job ends because of SIGTERM."""
    return _received.is_set()


def end_on_sigterm() -> None:
    """From here on SIGTERM interrupts the main thread. To be called again after Ray's start, which puts a handler of
    its own in place that aborts the process with a trace of native code. In another thread signals stay as they are.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
