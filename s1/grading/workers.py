"""Verifiers that may hang, eat all memory or run what they are given, in processes that can be killed.

math-verify uses the alarm of the main thread, and some inputs keep sympy busy for ever; verifiers of reasoning-gym
evaluate answers as Python. So each question is put to a process of its own, forked from one that has the verifier
loaded (`_worker.py`). Any thread may ask. What has no verdict in a moment of computing, as nearly everything has, is
asked again among others like it, so that questions which take long hold up each other and nothing else. All limits
count what a question takes itself, not the time it waits for a core or its turn: a busy machine makes no answer wrong.
The loaded processes, one for each kind of question, start with the first question and end with this process, however
that ends.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Kind = Literal["math", "gym"]

LOAD_S = 120.0  # for a verifier to be loaded, on a machine that has other things to do
_PATIENCE_S = 90.0  # more than a child ever gets; for one that nothing can be heard of any more
_QUICK, _LONG = b"q", b"l"  # the lanes of `_worker`
NUM_QUICK = 8  # questions under way at once
NUM_LONG = max(2, min(4, os.cpu_count() or 2))  # more would wait for cores, and each may take gigabytes


def verify_math(gold: str, prediction: str) -> bool | None:
    """Whether math-verify holds `prediction` for equal to `gold`; None when it could not say so in time."""
    return _verifiers.ask("math", gold, prediction)


def verify_gym(dataset: str, entry: Mapping[str, Any], answer: str) -> bool | None:
    """Whether the verifier of reasoning-gym's `dataset` gives `answer` the full score; None: not in time."""
    return _verifiers.ask("gym", dataset, entry, answer)


class _Process:
    """A process that has one verifier loaded and forks a child for every question."""

    def __init__(self, kind: Kind) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("_worker.py")), kind],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # sympy's results depend on the order of sets.
                env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for us: the process ends when its socket is closed
            )
        try:
            self._wait_until_loaded(kind)
        except RuntimeError:
            self.end()
            raise

    def _wait_until_loaded(self, kind: Kind) -> None:
        self._control.settimeout(LOAD_S)
        try:
            loaded = self._control.recv(1)
        except TimeoutError:
            raise RuntimeError(f"the {kind} verifier was not loaded within {LOAD_S:.0f} s") from None
        if not loaded:
            raise RuntimeError(f"no {kind} verifier could be loaded; are math-verify and reasoning-gym installed?")
        self._control.settimeout(None)

    def ask(self, lane: bytes, question: bytes) -> bool | None:
        """The verdict of a child; None when there was none within the limits of the lane."""
        ours, theirs = socket.socketpair()
        try:
            with ours:
                with theirs:
                    socket.send_fds(self._control, [lane], [theirs.fileno()])
                ours.settimeout(_PATIENCE_S)
                ours.sendall(question)
                return {b"1": True, b"0": False}.get(ours.recv(1))
        except OSError:
            return None

    def has_ended(self) -> bool:
        """Whether it closed its socket, on which it says nothing any more."""
        try:
            return not self._control.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """End it; its children end with it."""
        self._control.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # it is still loading: it has no children
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """In a fork of ours, whose process it is not."""
        self._control.close()


class _Verifiers:
    """What the threads of one process ask; processes are started when they are needed."""

    def __init__(self) -> None:
        self._turns = {_QUICK: threading.BoundedSemaphore(NUM_QUICK), _LONG: threading.BoundedSemaphore(NUM_LONG)}
        self._starting: dict[Kind, threading.Lock] = {"math": threading.Lock(), "gym": threading.Lock()}
        self._processes: dict[Kind, _Process] = {}

    def ask(self, kind: Kind, *question: Any) -> bool | None:
        line = json.dumps(question).encode() + b"\n"
        for lane, turn in self._turns.items():
            with turn:
                verdict = self._put(kind, lane, line)
            if verdict is not None:
                return verdict
        return None

    def _put(self, kind: Kind, lane: bytes, line: bytes) -> bool | None:
        process = self._loaded(kind)
        verdict = process.ask(lane, line)
        if verdict is None and process.has_ended():  # not over the question, which it never sees
            verdict = self._loaded(kind).ask(lane, line)
        return verdict

    def _loaded(self, kind: Kind) -> _Process:
        with self._starting[kind]:
            process = self._processes.get(kind)
            if process is not None and process.has_ended():
                self._processes.pop(kind).end()
                process = None
            if process is None:
                self._processes[kind] = process = _Process(kind)
            return process

    def close(self) -> None:
        for process in self._processes.values():
            process.end()
        self._processes.clear()

    def abandon(self) -> None:
        for process in self._processes.values():
            process.abandon()


_verifiers = _Verifiers()


def _close() -> None:
    _verifiers.close()


def _after_fork() -> None:
    global _verifiers
    _verifiers.abandon()
    _verifiers = _Verifiers()


atexit.register(_close)
os.register_at_fork(after_in_child=_after_fork)
