"""A process and everything below it: who is there, and the memory of all of them while they run."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

import psutil


def below(*words: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes below `root`, or below this one, in whose name or command line one of `words` stands."""
    found: list[psutil.Process] = []
    for process in (root or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            text = " ".join([process.name(), *process.cmdline()])
            if any(word in text for word in words):
                found.append(process)
    return found


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of `root` and all below it, in bytes: pages that several share count once."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            total += int(process.memory_full_info().pss)
    return total


def watched(
    command: Sequence[str], line: Callable[[str, int], None] = lambda *_: None, every_s: float = 1.0
) -> tuple[float, int]:
    """Run `command`; its seconds and the peak of its tree in bytes. SystemExit when it fails.

    `line` gets every line of its standard error, with the peak since the line before. Counting the pages of large
    processes takes time from them: at most a tenth of it.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    root = psutil.Process(process.pid)
    peaks, ended = [0], threading.Event()

    def watch() -> None:
        pause = every_s
        while not ended.wait(pause):
            before = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                peaks[-1] = max(peaks[-1], tree_bytes(root))
            pause = max(every_s, 10 * (time.monotonic() - before))

    thread = threading.Thread(target=watch)
    thread.start()
    assert process.stderr is not None
    for text in process.stderr:
        peaks.append(0)
        line(text.rstrip("\n"), peaks[-2])
    code = process.wait()
    ended.set()
    thread.join()
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return time.monotonic() - started, max(peaks)
