"""Strings that end an answer, found while it is being made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from s1.forcing.transcript import Span


class StopStrings:
    """Cuts an answer at the first stop string. What may be the beginning of one is kept back."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        self.found = False
        self._kept: list[Span] = []

    def pass_on(self, spans: Sequence[Span], *, last: bool = False) -> tuple[Span, ...]:
        """What can be given out of the spans so far: the answer up to a stop string, other parts as they are."""
        others = [span for span in spans if span.part != "answer"]
        if self.found:
            return tuple(others)
        self._kept += (span for span in spans if span.part == "answer")
        text = "".join(span.text for span in self._kept)
        hits = [at for string in self.strings if (at := text.find(string)) >= 0]
        if hits:
            self.found = True
            size = min(hits)
        else:
            size = len(text) - (0 if last else max((_overlap(text, string) for string in self.strings), default=0))
        answer, self._kept = _split(self._kept, size)
        return (*others, *answer)


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)


def _split(spans: Sequence[Span], size: int) -> tuple[list[Span], list[Span]]:
    """The first `size` characters, and the others."""
    before: list[Span] = []
    after: list[Span] = []
    for span in spans:
        head, tail = span.text[:size], span.text[size:]
        size -= len(head)
        before += [replace(span, text=head)] if head else []
        after += [replace(span, text=tail)] if tail else []
    return before, after
