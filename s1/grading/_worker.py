"""The process that `workers` talks to; run as a script, imports nothing of this project.

Its argument is the kind of questions it is for, "math" or "gym"; its standard input is a socket. On it, it says one
byte when the verifier is loaded. From then on every byte that it gets names a lane and brings a further socket, and it
forks a child from its warm self for what is asked there: one line of JSON, [gold, prediction] or [dataset, entry,
answer], answered by one byte, b"1" or b"0". A socket that closes without one tells that there was no verdict in time.

What a child is given can do no harm that outlives it: the child is asked once, its computing is limited by the kernel's
own alarm, and the time that it neither computes nor waits for a core by this process, which never looks at a question.
Its memory is limited; and it can neither write files nor start processes nor open connections, because both sympy and
some verifiers of the gym evaluate parts of an answer as Python. A fork costs milliseconds instead of an import of
sympy, and shares its memory.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

MEMORY_BYTES = 2 << 30
BUSY_S = 60.0  # for which a child may wait for a core, all in all
_ABANDONED_S = 120.0  # after which a child ends that has lost this process
_LOOK_S = 0.1


class Limits(NamedTuple):
    """Of one child: seconds of computing, and seconds by the clock without those it waited for a core."""

    compute_s: float
    clock_s: float


# Nearly all of the collected cases fit into the first lane, and all into the second, several times.
LANES = {b"q": Limits(0.3, 0.5), b"l": Limits(1.5, 3.5)}
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir"),
    *("os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "shutil.", "subprocess.", "socket."),
    *("ctypes.", "pty.", "signal.", "resource."),
)
# Between them they load what sympy and the parser load late, so that it is loaded once.
_WARM_UP = (
    ("$\\frac{1}{2}$", "$0.5x$"),
    ("$\\frac{\\sqrt{8}}{2}$", "The root is $\\sqrt{2}$."),
    ("$(x+1)^2$", "$x^2+\\sin(2)x+1$"),
    ("$[0,1) \\cup \\{2\\}$", "$x < \\pi$"),
    ("$\\begin{pmatrix} 1 \\\\ \\pi \\end{pmatrix}$", "$\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}$"),
)


class Child:
    """A fork of this process that answers the question on one socket."""

    def __init__(self, reply: int, limits: Limits, control: socket.socket) -> None:
        self._clock_s = limits.clock_s
        self._started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            control.close()
            _answer(reply, limits)

    def late(self) -> bool:
        """Whether it takes longer than it may."""
        return time.monotonic() - self._started - min(_waited_s(self.pid), BUSY_S) > self._clock_s


def _waited_s(pid: int) -> float:
    """How long a process was ready to compute and had no core; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _answer(reply: int, limits: Limits) -> NoReturn:
    """Answer the question on `reply` and end."""
    try:
        for alarm in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(alarm, signal.SIG_DFL)  # the kernel ends the process: no Python has to run for it
        signal.setitimer(signal.ITIMER_PROF, limits.compute_s)
        signal.setitimer(signal.ITIMER_REAL, _ABANDONED_S)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(reply, "rb", closefd=False) as stream:
            question = json.loads(stream.readline())
        _forbid_to_act(reply)
        os.write(reply, b"1" if _verdict(*question) else b"0")
    finally:
        os._exit(0)


def _forbid_to_act(reply: int) -> None:
    """From now on, whatever would act on the world ends this process; such an answer is not right."""

    def look(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event.startswith(_FORBIDDEN):
            os.write(reply, b"0")
            os._exit(1)

    sys.addaudithook(look)


def _verdict(*question: Any) -> bool:
    try:
        return _math(*question) if len(question) == 2 else _gym(*question)
    except Exception:
        # The verifiers parse what a model wrote and raise whatever comes to them; such an answer is not right.
        return False


def _math(gold: str, prediction: str) -> bool:
    from math_verify import parse, verify

    # Their own time limits need the main thread's alarm, which is ours.
    golds = parse(gold, parsing_timeout=0)
    predictions = parse(prediction, parsing_timeout=0)
    return verify(golds, predictions, timeout_seconds=0)


def _gym(dataset: str, entry: dict[str, Any], answer: str) -> bool:
    from reasoning_gym.factory import get_score_answer_fn

    score: Any = get_score_answer_fn(dataset)
    return score(answer=answer, entry=entry) >= 1.0


def _load(kind: str) -> None:
    """Load what questions of this kind need, so that every child has it from its birth."""
    if kind == "gym":
        importlib.import_module("reasoning_gym")
    else:
        for gold, prediction in _WARM_UP:
            _math(gold, prediction)
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the children


def main() -> None:
    logging.disable(logging.CRITICAL)
    _load(sys.argv[1])
    control = socket.socket(fileno=sys.stdin.fileno())
    control.sendall(b"+")
    children: list[Child] = []
    while True:
        asked, _, _ = select.select([control], [], [], _LOOK_S if children else None)
        if asked:
            lane, sockets, _, _ = socket.recv_fds(control, 1, 1)
            if not lane:  # who asked has ended, however that came
                break
            children.append(Child(sockets[0], LANES[lane], control))
            os.close(sockets[0])
        children = [child for child in children if os.waitpid(child.pid, os.WNOHANG)[0] == 0]
        for child in children:
            if child.late():
                os.kill(child.pid, signal.SIGKILL)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)


if __name__ == "__main__":
    main()
