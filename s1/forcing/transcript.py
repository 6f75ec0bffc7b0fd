"""Text of a completion while it is being made: reasoning, content, and which of it was forced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from s1.forcing.machine import Part, Token
from s1.template import Template

_UNFINISHED = "\ufffd"  # how an incomplete character decodes


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a completion, in order: sampled by the model, or written by the policy."""

    text: str
    forced: bool
    part: Part


@dataclass(frozen=True, slots=True)
class Delta:
    """What was added to a completion."""

    reasoning: str
    content: str
    spans: tuple[Span, ...]


@dataclass
class _Decoder:
    """Text of ids that come one by one; characters of several tokens are kept back until they are whole."""

    template: Template
    ids: list[int] = field(default_factory=lambda: [])
    start: int = 0  # ids before this one are no longer needed to decode those behind
    done: int = 0  # ids whose text was given out

    def add(self, ids: Iterable[int]) -> str:
        self.ids += ids
        text = self._text()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self.start, self.done = self.done, len(self.ids)
        return text

    def rest(self) -> str:
        text = self._text()
        self.start = self.done = len(self.ids)
        return text

    def _text(self) -> str:
        known = self.template.decode(self.ids[self.start : self.done])
        return self.template.decode(self.ids[self.start :])[len(known) :]


class Transcript:
    """Collects the tokens of one completion.

    The deltas that `add` and `finish` return add up to `reasoning` and `content`, the spans to the whole completion
    without its stop token. The line end before the delimiter belongs to the template, not to the reasoning.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.tokens: list[Token] = []
        self._reasoning = _Decoder(template)
        self._content = _Decoder(template)
        self._pieces: dict[str, list[str]] = {"reasoning": [], "content": []}
        self._spans: list[Span] = []
        self._line_end = ""  # of the reasoning, kept back until more of it comes
        self._hidden = template.special_ids

    @property
    def reasoning(self) -> str:
        return "".join(self._pieces["reasoning"])

    @property
    def content(self) -> str:
        return "".join(self._pieces["content"])

    @property
    def spans(self) -> tuple[Span, ...]:
        """Neighbours of one kind are joined."""
        groups = groupby(self._spans, key=lambda span: (span.forced, span.part))
        return tuple(Span("".join(span.text for span in spans), *kind) for kind, spans in groups)

    def add(self, tokens: Sequence[Token]) -> Delta:
        """The text that `tokens` add."""
        self.tokens += tokens
        spans: list[Span] = []
        for (forced, part), group in groupby(tokens, key=lambda token: (token.forced, token.part)):
            ids = [token.id for token in group]
            if part in ("thinking", "closing"):
                text = self._reasoning.add(ids)
            elif part == "answer":
                text = self._content.add(id for id in ids if id not in self._hidden)
            else:
                spans += self._rest_of_reasoning()
                text = self.template.decode([id for id in ids if id not in self.template.stop_ids])
            if text:
                spans.append(Span(text, forced, part))
        return self._delta(spans)

    def finish(self) -> Delta:
        """What is left when no token follows."""
        spans = self._rest_of_reasoning()
        if text := self._content.rest():
            spans.append(Span(text, False, "answer"))
        return self._delta(spans)

    def _rest_of_reasoning(self) -> list[Span]:
        text = self._reasoning.rest()
        return [Span(text, False, "thinking")] if text else []

    def _delta(self, spans: list[Span]) -> Delta:
        self._spans += spans
        thought = "".join(span.text for span in spans if span.part in ("thinking", "closing"))
        reasoning, self._line_end = _without_line_end(self._line_end + thought)
        content = "".join(span.text for span in spans if span.part == "answer")
        self._pieces["reasoning"].append(reasoning)
        self._pieces["content"].append(content)
        return Delta(reasoning, content, tuple(spans))


def _without_line_end(text: str) -> tuple[str, str]:
    kept = text.removesuffix("\n")
    return kept, text[len(kept) :]
