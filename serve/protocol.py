"""What clients send and get: OpenAI's chat completions, with a budget for the thinking.

A request is validated strictly: a key that nobody knows, or a value of a wrong type, would change nothing or something
else than was meant, so it is refused by name.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from s1.errors import UserError
from s1.forcing import BudgetPolicy

MAX_CHOICES = 16
MAX_IGNORE = 64
MAX_TEXT_CHARS = 1000  # of the strings that a policy writes
MAX_STRINGS = 16  # of a list of them
MAX_COUNT = 2**31 - 1

# Keys of OpenAI's protocol that clients send by themselves and that change nothing here.
_WITHOUT_EFFECT = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# Keys that would change the answer, with the values that leave it as it is.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]
NonEmptyText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
Texts = Annotated[list[NonEmptyText], Field(min_length=1, max_length=MAX_STRINGS)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BudgetForcing(_Strict):
    """How long to think. Counts are tokens of the thinking, sampled and forced ones together."""

    max_tokens: Count | None = Field(None, description="Cap; the thinking is ended there and an answer asked for.")
    min_tokens: Count = Field(0, description="An end before this many tokens is ignored.")
    num_ignore: int = Field(0, ge=0, le=MAX_IGNORE, description="How many ends are ignored, however late they come.")
    ignore_str: NonEmptyText | Texts = Field(
        "Wait", description="What is written in place of an ignored end; several take turns."
    )
    final_answer_prefix: Text = Field("Final Answer:", description="Opens the answer after a forced end.")
    before_end: Text = Field("", description="Closes the thinking at a forced end.")
    max_answer_tokens: PositiveCount | None = Field(None, description="Bound of the answer alone.")


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message; what clients add beside role and content (a name, an earlier reasoning) is not read."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": role, "content": content}


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    include_usage: bool = False


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: PositiveCount | None = Field(None, description="Bound of the completion, the thinking included.")
    max_completion_tokens: PositiveCount | None = Field(None, description="The newer name of max_tokens.")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=MAX_COUNT, description="0 or -1: all tokens.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: NonEmptyText | Texts | None = Field(None, description="Ends the answer; the thinking is not searched.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    thinking_token_budget: Count | None = Field(None, description="vLLM's name of budget_forcing.max_tokens.")
    budget_forcing: BudgetForcing = Field(default_factory=lambda: BudgetForcing.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _drop_what_changes_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        kept: dict[str, Any] = {}
        for key, value in body.items():
            if key in _UNSUPPORTED and value is not None and value not in _UNSUPPORTED[key]:
                raise ValueError(f"{key} is not supported here; leave it out")
            # OpenAI's clients write null for what is not set.
            if value is not None and key not in _WITHOUT_EFFECT and key not in _UNSUPPORTED:
                kept[key] = value
        return kept

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        forcing = self.budget_forcing
        _agree("max_tokens", self.max_tokens, "max_completion_tokens", self.max_completion_tokens)
        budget, name = self.thinking_token_budget, "thinking_token_budget"
        _agree(name, budget, "budget_forcing.max_tokens", forcing.max_tokens)
        if budget is None:
            budget, name = forcing.max_tokens, "budget_forcing.max_tokens"
        for bound, limit in ((name, budget), ("max_tokens", self.completion_limit)):
            if limit is not None and forcing.min_tokens > limit:
                raise ValueError(
                    f"budget_forcing.min_tokens={forcing.min_tokens} is above {bound}={limit}; lower the one or raise "
                    "the other"
                )
        return self

    @property
    def completion_limit(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def policy(self) -> BudgetPolicy:
        forcing = self.budget_forcing
        budget = self.thinking_token_budget
        return BudgetPolicy(
            max_thinking_tokens=forcing.max_tokens if budget is None else budget,
            min_thinking_tokens=forcing.min_tokens,
            num_ignore=forcing.num_ignore,
            ignore_str=forcing.ignore_str if isinstance(forcing.ignore_str, str) else tuple(forcing.ignore_str),
            final_answer_prefix=forcing.final_answer_prefix,
            max_answer_tokens=forcing.max_answer_tokens,
            before_end=forcing.before_end,
        )


def _agree(one: str, value: int | None, other: str, second: int | None) -> None:
    if value is not None and second is not None and value != second:
        raise ValueError(f"{one}={value} and {other}={second} contradict each other; send one of them")


class BadRequest(UserError):
    """What the client has to mend; `param` is the field's path."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def parse(body: Any) -> ChatRequest:
    """The request in a decoded JSON body. BadRequest names the first field that is wrong."""
    try:
        # JSON can write halves of characters (\ud800) that no tokenizer and no answer can.
        json.dumps(body, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise BadRequest(
            f"the body holds text that is not Unicode, or is nested too deeply: {type(error).__name__}"
        ) from error
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    param = _path(first["loc"]) or None
    rule = first["msg"].removeprefix("Value error, ")
    raise BadRequest(f"{param}: {rule}" if param else rule, param)


def _path(location: tuple[int | str, ...]) -> str:
    """The field as the client wrote it: pydantic adds the alternative of a union that it tried."""
    parts = (str(part) for part in location)
    return ".".join(part for part in parts if "[" not in part and part not in ("str", "constrained-str"))


@dataclass(frozen=True)
class Segment:
    """A piece of a completion, in order: sampled by the model, or written by the policy."""

    text: str
    forced: bool

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "forced": self.forced}


@dataclass(frozen=True)
class Report:
    """What budget forcing did to one completion. Counts are tokens."""

    thinking_tokens: int
    forced_tokens: int
    answer_tokens: int
    completion_tokens: int
    rounds: int  # ends that were ignored
    max_tokens: int | None  # the cap as it was kept; below the request's when it had to be reduced
    ended_by: str  # natural | budget | context | length
    unmet: str | None  # why the thinking is shorter than the minimum
    finish_reason: str

    def as_json(self, segments: Sequence[Segment]) -> dict[str, Any]:
        return {
            "thinking_tokens": self.thinking_tokens,
            "forced_tokens": self.forced_tokens,
            "answer_tokens": self.answer_tokens,
            "rounds": self.rounds,
            "max_tokens": self.max_tokens,
            "ended_by": self.ended_by,
            "unmet": self.unmet,
            "segments": [segment.as_json() for segment in segments],
        }


@dataclass(frozen=True)
class Accepted:
    """The request fits the model; completions follow."""

    prompt_tokens: int


@dataclass(frozen=True)
class Rejected:
    """The request does not fit the model: the client's to mend."""

    message: str
    param: str | None


@dataclass(frozen=True)
class Added:
    """Text that was added to completion `choice`."""

    choice: int
    reasoning: str
    content: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Finished:
    """Completion `choice` is complete."""

    choice: int
    report: Report


@dataclass(frozen=True)
class Choice:
    """One whole completion."""

    reasoning: str
    content: str
    segments: tuple[Segment, ...]
    report: Report


@dataclass(frozen=True)
class Completed:
    """Every completion of a request."""

    prompt_tokens: int
    choices: tuple[Choice, ...]


Event = Accepted | Rejected | Added | Finished


class Envelope:
    """What all objects of one response share."""

    def __init__(self, model: str) -> None:
        self.id, self.created, self.model = f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model

    def completion(self, completed: Completed) -> dict[str, Any]:
        """The response that is sent as a whole."""
        choices = [_choice(index, choice) for index, choice in enumerate(completed.choices)]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": usage(completed.prompt_tokens, [choice.report for choice in completed.choices]),
            "budget_forcing": choices[0]["budget_forcing"],
        }

    def opening(self, choice: int) -> dict[str, Any]:
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def added(self, event: Added) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if event.reasoning:
            delta |= {"reasoning": event.reasoning, "reasoning_content": event.reasoning}
        if event.content:
            delta["content"] = event.content
        forcing = {"segments": [segment.as_json() for segment in event.segments]}
        return {**self._chunk(event.choice, delta), "budget_forcing": forcing}

    def finished(self, event: Finished) -> dict[str, Any]:
        report = event.report.as_json(())
        del report["segments"]
        return {**self._chunk(event.choice, {}, event.report.finish_reason), "budget_forcing": report}

    def usage(self, prompt_tokens: int, reports: Sequence[Report]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(prompt_tokens, reports)}

    def _chunk(self, choice: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choices = [{"index": choice, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]
        return {**self._head("chat.completion.chunk"), "choices": choices}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": choice.content,
        "reasoning": choice.reasoning,
        "reasoning_content": choice.reasoning,
    }
    forcing = choice.report.as_json(choice.segments)
    reason = choice.report.finish_reason
    return {"index": index, "message": message, "finish_reason": reason, "logprobs": None, "budget_forcing": forcing}


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
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}
