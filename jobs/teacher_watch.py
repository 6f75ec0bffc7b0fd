"""The driver's side of a run with paid teachers: progress once a second, and a clean end on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from jobs.progress import Progress
from jobs.termination import terminate
from s1.errors import UserError
from s1.teachers.numbers import Numbers

_LOOK_S = 0.25
_PUBLISH_S = 1.0
# Whoever sends SIGTERM kills soon after: Kubernetes after 30 s.
_GRACE_S = 20.0
_AGAIN_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Watch:
    """Within the block the first signal stops the asking, and what is under way is waited for; the second ends it.

    After SIGTERM the wait is short. Use from the main thread, otherwise signals stay as they are.
    """

    def __init__(self, limiter: Any, bar: Progress) -> None:
        self.signal: int | None = None
        self._limiter, self._bar = limiter, bar
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="teacher watch", daemon=True)
        self._previous: dict[int, Any] = {}
        self._error: Exception | None = None
        self._published = 0.0
        self._end_at: float | None = None  # set by the first signal
        self._is_told = False  # the limiter, that nothing more is asked

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ended.set()
        self._thread.join(5.0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if error is None and self._error is not None:
            raise self._error

    def numbers(self) -> Numbers:
        """How things are now."""
        numbers: Numbers = self._call("publish")
        self._bar.update(numbers.num_done, numbers.note())
        return numbers

    def end_if_told(self) -> None:
        """End the job as the signal that came does, if one came: after the block, when nothing is under way."""
        if self.signal == signal.SIGTERM:
            terminate()
        if self.signal is not None:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif signal.SIGTERM in (self.signal, number):  # the second one may be ours, when the grace is over
            terminate()
        else:
            raise KeyboardInterrupt

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the limiter. UserError when it is gone: then nothing is asked any more."""
        import ray
        from ray.exceptions import RayActorError

        try:
            return ray.get(getattr(self._limiter, method).remote(*arguments))
        except RayActorError as error:
            raise UserError(
                "the process that gives out the permits of this job has died (out of memory?); what was finished is "
                "kept, run the same command again to go on"
            ) from error

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            try:
                self._look(time.monotonic())
                self._error = None  # an actor that is out of reach for a moment has not died
            except Exception as error:  # raised where the block ends; signals are heeded all the same
                self._error = error

    def _look(self, now: float) -> None:
        if self.signal is not None and self._end_at is None:
            self._end_at = now + _GRACE_S
        if self._end_at is not None and self.signal == signal.SIGTERM and now >= self._end_at:
            # Again after a while: an exception that is raised inside a callback of a library is lost.
            self._end_at = now + _AGAIN_S
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if self.signal is not None and not self._is_told:
            self._call("stop", "interrupted")
            self._is_told = True
            under_way = self.numbers().num_under_way
            line = f"\nstopping: {under_way} paid request(s) under way are waited for; once more to leave them"
            print(line, file=sys.stderr, flush=True)
        if now - self._published >= _PUBLISH_S:
            self._published = now
            self.numbers()
