"""The ways in which clients say how long to think, and the one policy that they mean together.

vLLM says `thinking_token_budget`, OpenAI `reasoning_effort`, OpenRouter `reasoning`, Anthropic `thinking`; ours is
`budget_forcing`. Each is read as claims about fields of `budget_forcing`; claims that contradict each other are
refused by both names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

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


_THINKING = "enable_thinking"


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
    enabled: bool = Field(True, description="false: no thinking, as chat_template_kwargs.enable_thinking.")


class Thinking(Strict):
    """Anthropic's object."""

    type: Literal["enabled", "disabled"] = Field(
        description="disabled: no thinking, as chat_template_kwargs.enable_thinking."
    )
    budget_tokens: Count | None = Field(None, description="Cap on the thinking.")


class ChatTemplateKwargs(Strict):
    """vLLM's object, with the one variable of a chat template that is known here, by Qwen3's name."""

    enable_thinking: bool = Field(
        True, description="false: no thinking; the model answers in its own chat format, and nothing is forced."
    )


class Effort(Config):
    """What a level of effort means: fields of `budget_forcing`, or no thinking. What is left out is free."""

    max_tokens: Count | None = Field(None, description="Cap on the thinking, in tokens.")
    min_tokens: Count | None = Field(None, description="An end before this many tokens is ignored.")
    num_ignore: Ignores | None = Field(None, description="How many ends are ignored.")
    enable_thinking: bool = Field(True, description="false: no thinking, as chat_template_kwargs.enable_thinking.")

    @model_validator(mode="after")
    def _check_thinking(self) -> Effort:
        if not self.enable_thinking and (self.max_tokens or self.min_tokens or self.num_ignore):
            raise ValueError("enable_thinking=false leaves no thinking to bound; leave out the other fields")
        return self


# OpenAI's levels. Up to `high` the caps are those of the paper's scaling curve (figure 1).
EFFORTS: dict[str, Effort] = {
    name: Effort(max_tokens=tokens, min_tokens=None, num_ignore=None, enable_thinking=tokens > 0)
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
    chat_template_kwargs: ChatTemplateKwargs | None = Field(None, description="vLLM's object: whether to think at all.")
    budget_forcing: BudgetForcing | None = Field(None, description="Everything that can be set, by our names.")


class Contradiction(UserError):
    """Two fields of a request that cannot both be kept."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class _Claim(NamedTuple):
    """`field` of budget_forcing, or enable_thinking, has to be `value`: so the client wrote under the name `param`."""

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
    _check_thinking(claims)
    _check_minimum(claims, bound)
    _check_grace(claims)
    said = {claim.field: claim.value for claim in claims.values()}
    enable_thinking = said.pop(_THINKING, True)
    forcing = BudgetForcing.model_validate(said)
    return BudgetPolicy(
        max_thinking_tokens=forcing.max_tokens,
        min_thinking_tokens=forcing.min_tokens,
        num_ignore=forcing.num_ignore,
        ignore_str=forcing.ignore_str if isinstance(forcing.ignore_str, str) else tuple(forcing.ignore_str),
        final_answer_prefix=forcing.final_answer_prefix,
        max_answer_tokens=forcing.max_answer_tokens,
        before_end=forcing.before_end,
        grace_tokens=forcing.grace_tokens,
        enable_thinking=enable_thinking,
    )


def _claims(request: BudgetFields, efforts: Mapping[str, Effort]) -> Iterator[_Claim]:
    yield from _plain("thinking_token_budget", request.thinking_token_budget)
    if request.reasoning_effort is not None:
        yield from _of_effort("reasoning_effort", request.reasoning_effort, efforts)
    if (reasoning := request.reasoning) is not None:
        if "enabled" in reasoning.model_fields_set:
            yield from _switch("reasoning.enabled", reasoning.enabled, str(reasoning.enabled).lower())
        if reasoning.effort is not None:
            yield from _of_effort("reasoning.effort", reasoning.effort, efforts)
        yield from _plain("reasoning.max_tokens", reasoning.max_tokens)
    if (thinking := request.thinking) is not None:
        yield from _switch("thinking.type", thinking.type == "enabled", thinking.type)
        yield from _plain("thinking.budget_tokens", thinking.budget_tokens)
    if (variables := request.chat_template_kwargs) is not None and variables.model_fields_set:
        on = variables.enable_thinking
        yield from _switch(f"chat_template_kwargs.{_THINKING}", on, str(on).lower())
    if (forcing := request.budget_forcing) is not None:
        for name in sorted(forcing.model_fields_set):
            if (value := getattr(forcing, name)) is not None:
                yield _Claim(name, value, f"budget_forcing.{name}", f"budget_forcing.{name}={value}")


def _plain(param: str, cap: int | None) -> Iterator[_Claim]:
    if cap is not None:
        yield _Claim("max_tokens", cap, param, f"{param}={cap}")


def _switch(param: str, on: bool, value: str) -> Iterator[_Claim]:
    """Thinking is switched on, or off: then a cap of 0 is all that can be said of it as well."""
    yield _Claim(_THINKING, on, param, f"{param}={value}")
    if not on:
        yield _Claim("max_tokens", 0, param, f"{param}={value}")


def _of_effort(param: str, level: str, efforts: Mapping[str, Effort]) -> Iterator[_Claim]:
    if level not in efforts:
        raise Contradiction(f"{param}={level!r} is not a level here; there are {', '.join(efforts)}", param)
    effort = efforts[level]
    if not effort.enable_thinking:
        yield from _switch(param, False, level)
        return
    for name, value in effort.model_dump(exclude_none=True, exclude={_THINKING}).items():
        yield _Claim(name, value, param, f"{param}={level} ({name}={value})")


def _check_thinking(claims: Mapping[str, _Claim]) -> None:
    """Thinking that is switched on is not capped at 0, and none that is switched off is asked to be longer."""
    switch = claims.get(_THINKING)
    if switch is None:
        return
    cap = claims.get("max_tokens")
    wrong = [cap] if switch.value and cap is not None and cap.value == 0 else []
    if not switch.value:
        wrong = [claims[name] for name in ("min_tokens", "num_ignore") if name in claims and claims[name].value]
    if wrong:
        raise Contradiction(
            f"{switch.said} and {wrong[0].said} contradict each other; send one of them", param=wrong[0].param
        )


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
