"""What clients send: OpenAI's chat and text completions, with a budget for the thinking.

A request is validated strictly: a key that nobody knows, or a value of a wrong type, would change nothing or something
else than was meant, so it is refused by name. `parse` gives it the one form that the engines know.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from s1.errors import UserError
from serve import events
from serve.budget import (
    EFFORTS,
    MAX_COUNT,
    MAX_STRINGS,
    BudgetFields,
    Contradiction,
    Effort,
    NonEmptyText,
    PositiveCount,
    Strict,
    policy,
)

MAX_CHOICES = 16
MAX_PARALLEL = 64
MAX_DEADLINE_S = 86_400.0
# However short they are, each costs the replica's time.
MAX_MESSAGES = 2048
MAX_PARTS = 1024  # of one message

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
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}


Stops = Annotated[list[NonEmptyText], Field(max_length=MAX_STRINGS)]  # lm-eval sends empty lists


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message; what clients add beside role and content (a name, an earlier reasoning) is not read."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @model_validator(mode="before")
    @classmethod
    def _fill_empty_turn(cls, message: Any) -> Any:
        """OpenAI's clients hand on a turn of the model that had no content, such as one cut off, with null."""
        if isinstance(message, dict) and message.get("role") == "assistant" and message.get("content") is None:
            return {**cast(dict[str, Any], message), "content": ""}
        return cast(Any, message)

    @field_validator("content", mode="before")
    @classmethod
    def _check_parts(cls, content: Any) -> Any:
        """Before the parts themselves are, and by the one rule that is broken, not by all that a content can be."""
        if isinstance(content, list) and len(parts := cast(list[Any], content)) > MAX_PARTS:
            raise ValueError(f"has {len(parts)} parts, and at most {MAX_PARTS} are allowed; join them")
        return content

    def plain(self) -> events.Message:
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return events.Message(role, content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    include_usage: bool = False
    continuous_usage_stats: bool = False

    @field_validator("continuous_usage_stats")
    @classmethod
    def _check_continuous(cls, wanted: bool) -> bool:
        if wanted:
            raise ValueError("is not supported here; leave it out")
        return wanted


class ParallelSampling(Strict):
    """Several forced generations of one request, of which one is answered with."""

    n: int = Field(ge=2, le=MAX_PARALLEL, description="Number of generations.")
    method: Literal["majority", "best_of"] = Field(
        "majority",
        description="majority: the most frequent answer. best_of: of the generations that ended by themselves, the "
        "one that thought least.",
    )


class _Request(BudgetFields):
    """What both kinds of requests share."""

    model: str
    max_tokens: PositiveCount | None = Field(None, description="Limit for the completion, including the thinking.")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=MAX_COUNT, description="0 or -1: all tokens.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: NonEmptyText | Stops | None = Field(None, description="Ends the answer; the thinking is not searched.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    deadline_s: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_S, description="Seconds, including waiting, after which the request is abandoned."
    )
    parallel_sampling: ParallelSampling | None = None

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
    def _check_parallel_sampling(self) -> _Request:
        parallel = self.parallel_sampling
        if parallel is not None and self.n != 1:
            raise ValueError(f"n={self.n} and parallel_sampling.n={parallel.n} contradict each other; send one of them")
        if parallel is not None and self.temperature == 0:
            raise ValueError(
                f"temperature=0 and parallel_sampling.n={parallel.n} contradict each other: all generations would be "
                "equal; raise the temperature"
            )
        return self

    @abstractmethod
    def conversation(self) -> tuple[events.Message, ...]:
        """Who said what, in text."""

    def bound(self) -> tuple[str, int | None]:
        """Name and value of what bounds the whole completion."""
        return "max_tokens", self.max_tokens


class ChatRequest(_Request):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: PositiveCount | None = Field(None, description="The newer name of max_tokens.")

    @model_validator(mode="after")
    def _check_bounds(self) -> ChatRequest:
        one, other = self.max_tokens, self.max_completion_tokens
        if one is not None and other is not None and one != other:
            raise ValueError(
                f"max_tokens={one} and max_completion_tokens={other} contradict each other; send one of them"
            )
        return self

    def conversation(self) -> tuple[events.Message, ...]:
        return tuple(message.plain() for message in self.messages)

    def bound(self) -> tuple[str, int | None]:
        if self.max_tokens is None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().bound()


class TextRequest(_Request):
    """The body of `POST /v1/completions`: the prompt is one turn of a user, as plain text."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]

    def conversation(self) -> tuple[events.Message, ...]:
        return (events.Message("user", self.prompt if isinstance(self.prompt, str) else self.prompt[0]),)


class BadRequest(UserError):
    """What the client has to mend; `param` is the field's path."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Terms:
    """What a server agrees to. Without `max_tokens`, a completion is bounded by the model's context alone."""

    efforts: Mapping[str, Effort] = field(default_factory=lambda: EFFORTS)
    max_tokens: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True)
class Order:
    """A request as it is carried out: what an engine generates, and how it is answered."""

    model: str
    generation: events.Generation
    stream: bool
    include_usage: bool
    with_reasoning: bool
    deadline_s: float | None
    parallel: ParallelSampling | None


RequestT = TypeVar("RequestT", bound=_Request)


def parse(kind: type[RequestT], body: Any, terms: Terms) -> Order:
    """The order in a decoded JSON body. BadRequest names the first field that is wrong."""
    request = _validated(kind, body)
    name, wanted = request.bound()
    if terms.max_tokens is not None and wanted is not None and wanted > terms.max_tokens:
        raise BadRequest(
            f"{name}={wanted}: this server completes at most {terms.max_tokens} tokens; ask for less", name
        )
    limit = terms.max_tokens if wanted is None else wanted
    try:
        budget = policy(request, terms.efforts, (name, limit))
    except Contradiction as error:
        raise BadRequest(str(error), error.param) from error
    except UserError as error:  # what the policy itself cannot be
        raise BadRequest(str(error), "budget_forcing") from error
    stop = request.stop
    return Order(
        model=request.model,
        generation=events.Generation(
            messages=request.conversation(),
            policy=budget,
            n=request.n,
            max_tokens=limit,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed,
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        ),
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        with_reasoning=request.reasoning is None or not request.reasoning.exclude,
        deadline_s=min((s for s in (request.deadline_s, terms.deadline_s) if s is not None), default=None),
        parallel=request.parallel_sampling,
    )


def _validated(kind: type[RequestT], body: Any) -> RequestT:
    try:
        # JSON can write halves of characters (\ud800) that no tokenizer and no answer can.
        json.dumps(body, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise BadRequest(
            f"the body holds text that is not Unicode, or is nested too deeply: {type(error).__name__}"
        ) from error
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        wrong = _broken_rule(error)
    param = _path(wrong["loc"]) or None
    unknown = wrong["type"] == "extra_forbidden"
    rule = "is not known here; leave it out" if unknown else wrong["msg"].removeprefix("Value error, ")
    raise BadRequest(f"{param}: {rule}" if param else rule, param)


def _broken_rule(error: ValidationError) -> ErrorDetails:
    """The first error; where a field has alternatives, that of the one whose type the value has, if it has any."""
    first, *others = error.errors(include_url=False, include_input=False)
    field = _path(first["loc"])
    of_field = [other for other in others if f"{_path(other['loc'])}.".startswith(f"{field}.")]
    return max([first, *of_field], key=lambda found: (not found["type"].endswith("_type"), len(_path(found["loc"]))))


def _path(location: tuple[int | str, ...]) -> str:
    """The field as the client wrote it: pydantic adds the alternative of a union that it tried."""
    parts = (str(part) for part in location)
    return ".".join(part for part in parts if "[" not in part and part not in ("str", "constrained-str"))
