"""The process that `workers` talks to; run as a script, imports nothing of this project.

One JSON request a line on stdin: ["math", gold, prediction] or ["gym", dataset, entry, answer]; one JSON verdict (true,
false, or null: no verdict) a line on stdout. The process itself only hands requests over to a child that it forks from
its warm self. The child sets the kernel's own alarms before it looks at a request, so that nothing it is given outlives
its time: a second and a half of computing, and a few seconds by the clock, for a machine that is busy. Its memory is
limited; and it can neither write files nor start processes nor open connections, because both sympy and some verifiers
of the gym evaluate parts of an answer as Python. A child that died is replaced by a fork, which costs milliseconds
instead of an import of sympy.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import select
import signal
import sys
from typing import Any

MEMORY_BYTES = 3 << 30
COMPUTE_S = 1.5  # several times what the slowest of the collected cases takes
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir"),
    *("os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "shutil.", "subprocess.", "socket."),
    *("ctypes.", "pty.", "signal.", "resource."),
)


class Child:
    """A forked copy of this process that answers requests on a pipe."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        requests, self.to_child = os.pipe()
        self.from_child, verdicts = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.to_child)
            os.close(self.from_child)
            _serve(requests, verdicts, limit_s)
        os.close(requests)
        os.close(verdicts)

    def ask(self, line: bytes) -> bytes | None:
        """The verdict as a byte, b"1" or b"0"; None when the child died of the question."""
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self.to_child, view) :]
            # The alarm in the child comes first; this is for a child that cannot even take its question.
            ready, _, _ = select.select([self.from_child], [], [], self.limit_s + 0.3)
            return (os.read(self.from_child, 1) or None) if ready else None
        except OSError:
            return None

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.to_child)
        os.close(self.from_child)


def _serve(requests: int, verdicts: int, limit_s: float) -> None:
    """Answer until the pipe is closed; never returns."""
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)  # the kernel ends the process: no Python has to run for it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_forbid)
    with os.fdopen(requests, "rb") as stream:
        for line in stream:
            _set_alarms(limit_s)
            verdict = _verdict(*json.loads(line))
            _set_alarms(0)
            os.write(verdicts, b"1" if verdict else b"0")
    os._exit(0)


def _set_alarms(limit_s: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    signal.setitimer(signal.ITIMER_PROF, min(COMPUTE_S, limit_s))


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(_FORBIDDEN):
        os._exit(1)


def _verdict(kind: str, *question: Any) -> bool:
    try:
        return _gym(*question) if kind == "gym" else _math(*question)
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


def _warm_up(kind: str) -> None:
    """Load what questions of this kind need, so that every child has it from its birth."""
    if kind == "gym":
        importlib.import_module("reasoning_gym")
    else:
        _math("$\\frac{1}{2}$", "$0.5x$")


def main() -> None:
    limit_s = float(sys.argv[1])
    logging.disable(logging.CRITICAL)
    child: Child | None = None
    loaded: set[str] = set()
    for line in sys.stdin.buffer:
        kind = "gym" if line.startswith(b'["gym"') else "math"
        if kind not in loaded:
            _warm_up(kind)
            loaded.add(kind)
            if child is not None:
                child.end()
                child = None
        child = child or Child(limit_s)
        verdict = child.ask(line)
        sys.stdout.write({b"1": "true\n", b"0": "false\n"}.get(verdict or b"", "null\n"))
        sys.stdout.flush()
        if verdict is None:
            child.end()
            child = None
    if child is not None:
        child.end()


if __name__ == "__main__":
    main()
