"""Verifiers that may hang, eat all memory or run what they are given, in processes that can be killed.

math-verify uses the alarm of the main thread, and some inputs keep sympy busy for ever; verifiers of reasoning-gym
evaluate answers as Python. So both run in a few worker processes (`_worker.py`) that any thread may ask; a question
that is not answered in time has no verdict. Workers start with the first question and end with this process, however
that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT_S = 3.5  # for one question, on a machine that has other things to do; computing is limited in `_worker`
LOAD_S = 60.0  # for a worker to load a verifier, on a machine that has other things to do
NUM_WORKERS = max(1, min(4, (os.cpu_count() or 2) // 2))


def verify_math(gold: str, prediction: str) -> bool | None:
    """Whether math-verify holds `prediction` for equal to `gold`; None when it could not say so in time."""
    return _the_pool().ask("math", gold, prediction)


def verify_gym(dataset: str, entry: Mapping[str, Any], answer: str) -> bool | None:
    """Whether the verifier of reasoning-gym's `dataset` gives `answer` the full score; None: not in time."""
    return _the_pool().ask("gym", dataset, entry, answer)


class _Worker:
    """One worker process; asked by one thread at a time."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("_worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", script, str(LIMIT_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # sympy's results depend on the order of sets.
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for us: the worker ends when its input does
        )
        self._loaded: set[str] = set()

    def ask(self, kind: str, *question: Any) -> bool | None:
        """The verdict; None when there was none in time. Raises OSError when the worker is gone."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps([kind, *question]).encode() + b"\n")
        stdin.flush()
        verdict = json.loads(self._read_line(LIMIT_S + 0.8 + (LOAD_S if kind not in self._loaded else 0.0)))
        self._loaded.add(kind)
        return verdict

    def _read_line(self, limit_s: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], limit_s)
        line = stdout.readline() if ready else b""
        if ready and not line:
            self._process.wait()
        if not line:
            raise OSError("the grading worker does not answer")
        return line

    def end(self) -> int | None:
        """Exit code when the process had ended by itself."""
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what is left in its buffer has no reader
                    stream.close()
        return code


class _Pool:
    """Workers for the threads of one process, started when they are needed."""

    def __init__(self) -> None:
        # Last in, first out: a second worker is only started when two threads ask at once.
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._all: set[_Worker] = set()
        self._pid = os.getpid()
        for _ in range(NUM_WORKERS):
            self._free.put(None)

    def ask(self, kind: str, *question: Any) -> bool | None:
        worker = self._free.get()
        try:
            if worker is None:
                worker = _Worker()
                self._all.add(worker)
            return worker.ask(kind, *question)
        except OSError as error:
            broken, worker = worker, None
            if broken is not None:
                self._all.discard(broken)
                if broken.end() == 1:
                    raise RuntimeError(
                        f"no {kind} verifier could be loaded; are math-verify and reasoning-gym installed?"
                    ) from error
            return None
        finally:
            self._free.put(worker)

    def close(self) -> None:
        if self._pid != os.getpid():
            return  # a fork of ours: the workers are not its own
        for worker in list(self._all):
            worker.end()
        self._all.clear()


_pool: _Pool | None = None
_lock = threading.Lock()


def _the_pool() -> _Pool:
    global _pool
    with _lock:
        if _pool is None:
            _pool = _Pool()
            atexit.register(_pool.close)
        return _pool


def _after_fork() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
