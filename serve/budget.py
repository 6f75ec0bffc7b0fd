"""The ways in which clients say how long to think, and the one policy that they mean together.

vLLM says `thinking_token_budget`, OpenAI `reasoning_effort`, OpenRouter `reasoning`, Anthropic `thinking`; ours is
`budget_forcing`. Each is read as claims about fields of `budget_forcing`; claims that contradict each other are
refused by both names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from s1.config import Config
from s1.errors import UserError
from s1.forcing import BudgetPolicy

MAX_IGNORE = 64
MAX_TEXT_CHARS = 1000  # of the strings that a policy writes
MAX_STRINGS = 16  # of a list of them
MAX_COUNT = 2**31 - 1

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]
NonEmptyText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
Texts = Annotated[list[NonEmptyText], Field(min_length=1, max_length=MAX_STRINGS)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Ignores = Annotated[int, Field(ge=0, le=MAX_IGNORE)]


class Strict(BaseModel):
    """Part of a request: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BudgetForcing(Strict):
    """How long to think. Counts are tokens of the thinking, sampled and forced ones together."""

    max_tokens: Count | None = Field(None, description="Cap on the thinking; at the cap the answer is forced.")
    min_tokens: Count = Field(0, description="An end before this many tokens is ignored.")
    num_ignore: Ignores = Field(0, description="How many ends are ignored, however late they come.")
    ignore_str: NonEmptyText | Texts = Field(
        "Wait", description="Text that replaces an ignored end; several take turns."
    )
    final_answer_prefix: Text = Field("Final Answer:", description="Opens the answer after a forced end.")
    before_end: Text = Field("", description="Closes the thinking at a forced end.")
    max_answer_tokens: PositiveCount | None = Field(None, description="Limit for the answer alone.")
    grace_tokens: Count = Field(
        0, description="Last tokens before the cap in which the end of a sentence or line is taken as the forced end."
    )


class Reasoning(Strict):
    """OpenRouter's object."""

    effort: str | None = Field(None, description="A level of effort, like reasoning_effort.")
    max_tokens: Count | None = Field(None, description="Cap on the thinking.")
    exclude: bool = Field(False, description="Think, but leave the thinking out of the response.")
    enabled: bool = Field(True, description="false: answer at once.")


class Thinking(Strict):
    """Anthropic's object."""

    type: Literal["enabled", "disabled"]
    budget_tokens: Count | None = Field(None, description="Cap on the thinking.")


class Effort(Config):
    """What a level of effort means: fields of `budget_forcing`. Those that are left out are free."""

    max_tokens: Count | None = Field(None, description="Cap on the thinking, in tokens.")
    min_tokens: Count | None = Field(None, description="An end before this many tokens is ignored.")
    num_ignore: Ignores | None = Field(None, description="How many ends are ignored.")


# OpenAI's levels. Up to `high` the caps are those of the paper's scaling curve (figure 1).
EFFORTS: dict[str, Effort] = {
    name: Effort(max_tokens=tokens, min_tokens=None, num_ignore=None)
    for name, tokens in {
        "none": 0,
        "minimal": 512,
        "low": 1024,
        "medium": 4096,
        "high": 8192,
        "xhigh": 16384,
        "max": MAX_COUNT,  # reduced to what the context leaves beside an answer
    }.items()
}


class BudgetFields(Strict):
    """The fields of a request that say how long to think."""

    thinking_token_budget: Count | None = Field(None, description="vLLM's name for budget_forcing.max_tokens.")
    reasoning_effort: str | None = Field(None, description="A level whose budget the server defines.")
    reasoning: Reasoning | None = Field(None, description="OpenRouter's object.")
    thinking: Thinking | None = Field(None, description="Anthropic's object.")
    budget_forcing: BudgetForcing | None = Field(None, description="Everything that can be set, by our names.")


class Contradiction(UserError):
    """Two fields of a request that cannot both be kept."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class _Claim(NamedTuple):
    """`field` of budget_forcing has to be `value`, says what the client wrote under the name `param`."""

    field: str
    value: Any
    param: str
    said: str  # the name with its value, as the client wrote it


def policy(request: BudgetFields, efforts: Mapping[str, Effort], bound: tuple[str, int | None]) -> BudgetPolicy:
    """What all budget fields of `request` mean together.

    `bound` is the name and value of what bounds the whole completion. Contradiction when two fields cannot both be
    kept, or when a level of effort is unknown.
    """
    claims: dict[str, _Claim] = {}
    for claim in _claims(request, efforts):
        other = claims.setdefault(claim.field, claim)
        if other.value != claim.value:
            raise Contradiction(
                f"{other.said} and {claim.said} contradict each other; send one of them", param=claim.param
            )
    _check_enabled(request, claims)
    _check_minimum(claims, bound)
    _check_grace(claims)
    forcing = BudgetForcing.model_validate({claim.field: claim.value for claim in claims.values()})
    return BudgetPolicy(
        max_thinking_tokens=forcing.max_tokens,
        min_thinking_tokens=forcing.min_tokens,
        num_ignore=forcing.num_ignore,
        ignore_str=forcing.ignore_str if isinstance(forcing.ignore_str, str) else tuple(forcing.ignore_str),
        final_answer_prefix=forcing.final_answer_prefix,
        max_answer_tokens=forcing.max_answer_tokens,
        before_end=forcing.before_end,
        grace_tokens=forcing.grace_tokens,
    )


def _claims(request: BudgetFields, efforts: Mapping[str, Effort]) -> Iterator[_Claim]:
    yield from _plain("thinking_token_budget", request.thinking_token_budget)
    if request.reasoning_effort is not None:
        yield from _of_effort("reasoning_effort", request.reasoning_effort, efforts)
    if (reasoning := request.reasoning) is not None:
        if not reasoning.enabled:
            yield _Claim("max_tokens", 0, "reasoning.enabled", "reasoning.enabled=false")
        if reasoning.effort is not None:
            yield from _of_effort("reasoning.effort", reasoning.effort, efforts)
        yield from _plain("reasoning.max_tokens", reasoning.max_tokens)
    if (thinking := request.thinking) is not None:
        if thinking.type == "disabled":
            yield _Claim("max_tokens", 0, "thinking.type", "thinking.type=disabled")
        yield from _plain("thinking.budget_tokens", thinking.budget_tokens)
    if (forcing := request.budget_forcing) is not None:
        for name in sorted(forcing.model_fields_set):
            if (value := getattr(forcing, name)) is not None:
                yield _Claim(name, value, f"budget_forcing.{name}", f"budget_forcing.{name}={value}")


def _plain(param: str, cap: int | None) -> Iterator[_Claim]:
    if cap is not None:
        yield _Claim("max_tokens", cap, param, f"{param}={cap}")


def _of_effort(param: str, level: str, efforts: Mapping[str, Effort]) -> Iterator[_Claim]:
    if level not in efforts:
        raise Contradiction(f"{param}={level!r} is not a level here; there are {', '.join(efforts)}", param)
    for name, value in efforts[level].model_dump(exclude_none=True).items():
        yield _Claim(name, value, param, f"{param}={level} ({name}={value})")


def _check_enabled(request: BudgetFields, claims: Mapping[str, _Claim]) -> None:
    """Thinking that is switched on by one field is not switched off by another."""
    cap = claims.get("max_tokens")
    if cap is None or cap.value > 0:
        return
    if request.thinking is not None and request.thinking.type == "enabled":
        raise Contradiction(f"thinking.type=enabled and {cap.said} contradict each other; send one of them", cap.param)
    reasoning = request.reasoning
    if reasoning is not None and reasoning.enabled and "enabled" in reasoning.model_fields_set:
        raise Contradiction(f"reasoning.enabled=true and {cap.said} contradict each other; send one of them", cap.param)


def _check_minimum(claims: Mapping[str, _Claim], bound: tuple[str, int | None]) -> None:
    least = claims.get("min_tokens")
    if least is None:
        return
    cap = claims.get("max_tokens")
    name, limit = bound
    bounds = [] if cap is None else [(cap.said, cap.value)]
    bounds += [] if limit is None else [(f"{name}={limit}", limit)]
    for said, most in bounds:
        if least.value > most:
            raise Contradiction(f"{least.said} is above {said}; lower the one or raise the other", param=least.param)


def _check_grace(claims: Mapping[str, _Claim]) -> None:
    grace, cap = claims.get("grace_tokens"), claims.get("max_tokens")
    if grace is None or (cap is not None and grace.value <= cap.value):
        return
    if cap is None and grace.value:
        raise Contradiction(f"{grace.said} needs a cap of the thinking; send budget_forcing.max_tokens", grace.param)
    if cap is not None:
        raise Contradiction(f"{grace.said} is above {cap.said}; lower the one or raise the other", grace.param)
