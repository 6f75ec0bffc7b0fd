"""What clients get: OpenAI's response objects, with the reasoning and the report of budget forcing beside them.

The reasoning is one block before the content, in messages and in streams. The content is never null.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from serve.events import Added, Choice, Completed, Finished, Progress, Report, Segment
from serve.protocol import ParallelSampling

Kind = Literal["chat", "text"]
_PREFIX: dict[Kind, str] = {"chat": "chatcmpl", "text": "cmpl"}
_WHOLE: dict[Kind, str] = {"chat": "chat.completion", "text": "text_completion"}
_CHUNK: dict[Kind, str] = {"chat": "chat.completion.chunk", "text": "text_completion"}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class Envelope:
    """What all objects of one response share. Without `with_reasoning` nothing shows what was thought.

    Chunks of a stream `with_usage` have the key, as OpenAI's: null in all but the last one.
    """

    def __init__(self, kind: Kind, model: str, *, with_reasoning: bool = True, with_usage: bool = False) -> None:
        self.kind: Kind = kind
        self.id, self.created, self.model = f"{_PREFIX[kind]}-{uuid.uuid4().hex}", int(time.time()), model
        self.with_reasoning, self.with_usage = with_reasoning, with_usage

    def completion(
        self, completed: Completed, progress: Sequence[Progress] = (), parallel: ParallelSampling | None = None
    ) -> dict[str, Any]:
        """The response that is sent as a whole. `progress` and `parallel` are those of a parallel sampling."""
        choices = [self._choice(index, choice) for index, choice in enumerate(completed.choices)]
        reports = [choice.report for choice in completed.choices] if parallel is None else [p.report for p in progress]
        response = {
            **self._head(_WHOLE),
            "choices": choices,
            "usage": usage(completed.prompt_tokens, reports),
            "budget_forcing": choices[0]["budget_forcing"],
        }
        if parallel is not None:
            response["parallel_sampling"] = _progress(progress[-1]) | {"method": parallel.method}
        return response

    def opening(self, choice: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        return self._chunk(choice, {"role": "assistant", "content": ""} if self.kind == "chat" else {"text": ""})

    def added(self, event: Added) -> list[dict[str, Any]]:
        """The chunks of `event`: one with reasoning ends before one with content begins.

        None when the event shows only what is left out.
        """
        if not self.with_reasoning:
            return [self._text(event.choice, event.content)] if event.content else []
        chunks = [self._chunk(event.choice, self._empty() | _thought(event.reasoning))] if event.reasoning else []
        if event.content or not chunks:
            chunks.append(self._text(event.choice, event.content))
        chunks[0]["budget_forcing"] = {
            "segments": _pieces(event.segments),
            "thinking_tokens": event.thinking_tokens,
            "forced_tokens": event.forced_tokens,
            "answer_tokens": event.answer_tokens,
        }
        return chunks

    def finished(self, event: Finished) -> dict[str, Any]:
        """The last chunk of a choice, with its report."""
        reason = event.report.finish_reason
        return {**self._chunk(event.choice, self._empty(), reason), "budget_forcing": _report(event.report)}

    def progress(self, event: Progress) -> dict[str, Any]:
        """The chunk that says how far a parallel sampling is."""
        return {**self._chunk(0, self._empty()), "parallel_sampling": _progress(event)}

    def usage(self, prompt_tokens: int, reports: Sequence[Report]) -> dict[str, Any]:
        """The chunk that a client gets when it asks for the usage."""
        return {**self._head(_CHUNK), "choices": [], "usage": usage(prompt_tokens, reports)}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        thought = _thought(choice.reasoning) if self.with_reasoning else {}
        if self.kind == "chat":
            text = {"message": {"role": "assistant", "content": choice.content, **thought}}
        else:
            text = {"text": choice.content, **thought}
        forcing = _report(choice.report)
        if self.with_reasoning:
            forcing["segments"] = _pieces(choice.segments)
        reason = choice.report.finish_reason
        return {"index": index, **text, "finish_reason": reason, "logprobs": None, "budget_forcing": forcing}

    def _empty(self) -> dict[str, Any]:
        """A delta without text."""
        return {} if self.kind == "chat" else {"text": ""}

    def _text(self, choice: int, content: str) -> dict[str, Any]:
        name = "content" if self.kind == "chat" else "text"
        return self._chunk(choice, {name: content} if content else self._empty())

    def _chunk(self, choice: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        text = {"delta": delta} if self.kind == "chat" else delta
        return {
            **self._head(_CHUNK),
            "choices": [{"index": choice, **text, "finish_reason": finish_reason, "logprobs": None}],
            **({"usage": None} if self.with_usage else {}),
        }

    def _head(self, names: dict[Kind, str]) -> dict[str, Any]:
        return {"id": self.id, "object": names[self.kind], "created": self.created, "model": self.model}


def _thought(reasoning: str) -> dict[str, str]:
    """vLLM's and OpenRouter's name, and DeepSeek's."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


def _progress(progress: Progress) -> dict[str, Any]:
    votes = [{"answer": vote.answer, "count": vote.count} for vote in progress.votes]
    return {"done": progress.done, "n": progress.n, "votes": votes}


def _pieces(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    return [{"text": piece.text, "forced": piece.forced, "part": piece.part} for piece in segments]


def _report(report: Report) -> dict[str, Any]:
    return {
        "thinking_tokens": report.thinking_tokens,
        "forced_tokens": report.forced_tokens,
        "answer_tokens": report.answer_tokens,
        "rounds": report.rounds,
        "max_tokens": report.max_tokens,
        "ended_by": report.ended_by,
        "unmet": report.unmet,
    }


def usage(prompt_tokens: int, reports: Sequence[Report]) -> dict[str, Any]:
    """OpenAI's usage object; forced tokens are tokens of the completion like others."""
    completion = sum(report.completion_tokens for report in reports)
    reasoning = sum(report.thinking_tokens for report in reports)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def error(status: int, message: str, *, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}
