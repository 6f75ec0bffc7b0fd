"""The processes of a vLLM engine: they end with ours, and why they did not start is told.

On GPUs vLLM computes in processes below the one that asked for the engine. They end when they are told to; a process
that is killed outright tells nobody, and its engine would keep the GPU's memory for ever. And of a failed start the
asker learns only that it failed: the cause stands in the log of the other process.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Generator, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import IO, NoReturn
from weakref import WeakSet

import psutil

logger = logging.getLogger(__name__)

# Of an actor of Ray Data whose engine died or whose node was lost. Ray's own number has no end, and what kills an
# engine may be the very work that it is given again.
MAX_RESTARTS = 8
_LOOK_S = 0.2  # between two looks for new processes
_LOG_BYTES = 1 << 20  # at most so much of the log is searched
_STDERR = "/proc/self/fd/2"
_POINTS_TO_LOG = re.compile(r"root cause|stack trace", re.IGNORECASE)
_ERROR = re.compile(r"(?:^|\s)((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Failed): \S.*)$")
# Kills what it was told of, a line each, at the end of its input: when all who could write to it are gone.
_MOURNER = 'pids=; while read -r pid; do pids="$pids $pid"; done; kill -9 $pids'


class StartFailed(RuntimeError):
    """An engine did not start, and its log says why."""


class EngineProcesses:
    """Processes that are started within `starting` are killed when this process is gone, however it ends."""

    def __init__(self) -> None:
        self.told: set[int] = set()  # numbers of the processes that will be killed
        self._engines: list[BaseProcess] = []
        self._mourner = subprocess.Popen(
            ["/bin/sh", "-c", _MOURNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._mourner.stdin is not None
        self._input: IO[bytes] = self._mourner.stdin
        _INPUTS.add(self._input)

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """The start of an engine. StartFailed in place of an error that only says that the cause is in the log."""
        known = {process.pid for process in _descendants()}
        others = set(multiprocessing.active_children())
        over, log_begin = threading.Event(), _log_size()
        thread = threading.Thread(target=self._tell, args=(known, over), daemon=True)
        thread.start()
        try:
            yield
            self._engines = [child for child in multiprocessing.active_children() if child not in others]
        except Exception as error:
            self.close()  # vLLM ends by itself what it has started in vain
            cause = last_error(_log_lines(log_begin)) if _POINTS_TO_LOG.search(str(error)) else None
            if cause is None:
                raise
            raise StartFailed(f"{cause}; see {os.readlink(_STDERR)} on {socket.gethostname()}") from error
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def working(self) -> Generator[None]:
        """Work for the engine in an actor of Ray Data: when the engine dies in it, this process ends too.

        Ray Data starts a lost actor again and repeats what it was doing; an exception would end the job. And vLLM's
        synchronous client waits for ever for an engine that was killed.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        over = threading.Event()
        thread = threading.Thread(target=self._end_with_engine, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        except EngineDeadError:
            _end()
        finally:
            over.set()
            thread.join()

    def _end_with_engine(self, over: threading.Event) -> None:
        sentinels = [engine.sentinel for engine in self._engines]
        while sentinels and not over.is_set():
            if connection.wait(sentinels, _LOOK_S):
                _end()

    def close(self) -> None:
        """Let the processes end by themselves."""
        self._mourner.kill()
        self._mourner.wait()

    def _tell(self, known: set[int], over: threading.Event) -> None:
        """Tell the mourner of new processes until it is over, and then once more."""
        is_last = False
        while not is_last:
            is_last = over.wait(_LOOK_S)
            for pid in [process.pid for process in _descendants() if process.pid not in known]:
                known.add(pid)
                if not _is_resource_tracker(pid):
                    with contextlib.suppress(BrokenPipeError):  # closed in the meantime
                        os.write(self._input.fileno(), f"{pid}\n".encode())
                    self.told.add(pid)


def _end() -> NoReturn:
    logger.error("the engine has died, and the process that works with it ends")
    os._exit(1)  # Ray takes any other end for a wish of ours, and does not start the actor again


def last_error(lines: Iterable[str]) -> str | None:
    """The last error among the lines of a log that is a cause by itself, as `ValueError: …`; None: there is none."""
    found = (match[1].strip() for line in lines if (match := _ERROR.search(line.rstrip())))
    causes = [error for error in found if not _POINTS_TO_LOG.search(error)]
    return causes[-1] if causes else None


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _is_resource_tracker(pid: int) -> bool:
    """Whether it is Python's own, which ends by itself after it has cleared away what killed processes leave behind."""
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker" in word for word in psutil.Process(pid).cmdline())
    return False


def _log_size() -> int | None:
    """Bytes of the file that is this process's standard error, and its children's; None when that is no file."""
    status = os.fstat(2)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _log_lines(begin: int | None) -> Iterator[str]:
    if begin is None:
        return
    with open(_STDERR, "rb") as log:
        log.seek(max(begin, os.fstat(log.fileno()).st_size - _LOG_BYTES))
        yield from log.read().decode(errors="replace").splitlines()


# A forked child would hold the inputs of our mourners open: they would wait for its end, too, before they kill it.
_INPUTS: WeakSet[IO[bytes]] = WeakSet()


def _let_go_of_inputs() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for each in _INPUTS:
        os.dup2(nowhere, each.fileno(), inheritable=False)
    os.close(nowhere)


os.register_at_fork(after_in_child=_let_go_of_inputs)
