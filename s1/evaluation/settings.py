"""What a model is asked for in an evaluation: every method of the paper, in every setting of its sweep (section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

NATURAL = "natural"
WAIT = "Wait"

Method = Literal[
    "direct",
    "budget_forcing",
    "token_conditional",
    "token_conditional_forced",
    "step_conditional",
    "step_conditional_forced",
    "class_conditional",
    "class_conditional_forced",
    "rejection_sampling",
    "majority_voting",
    "best_of_n",
    "tree_search",
]
BUDGET_FORCING: Method = "budget_forcing"
DIRECT: Method = "direct"  # also the name of its one setting
CONDITIONAL: dict[str, tuple[Method, Method]] = {  # kind -> in words, and with forcing
    "tokens": ("token_conditional", "token_conditional_forced"),
    "steps": ("step_conditional", "step_conditional_forced"),
    "class": ("class_conditional", "class_conditional_forced"),
}
SHORT, LONG = "short", "long"
WHOLE_CONTEXT = 2**31 - 1  # as a cap: the server reduces it to what the context leaves beside an answer


@dataclass(frozen=True)
class Rejection:
    """Sample until the thinking fits; at most `max_tries` times."""

    max_tries: int


@dataclass(frozen=True)
class Vote:
    """Sample `count` responses, take the most frequent answer."""

    count: int


@dataclass(frozen=True)
class BestOf:
    """Sample `count` responses, take the one that the scorer (module:function) likes best."""

    count: int
    scorer: str


@dataclass(frozen=True)
class Tree:
    """Search over partial thinking: `width` open ends, steps of `step_tokens`, a process reward (module:function)."""

    width: int
    step_tokens: int
    max_steps: int
    reward: str


Plan = Rejection | Vote | BestOf | Tree


@dataclass(frozen=True)
class Setting:
    """One way to ask every question."""

    name: str  # direct | natural | max_16 | wait_1 | tokens_16 | …
    max_thinking_tokens: int | None  # what is enforced; None: nothing but the context ends the thinking
    num_ignore: int = 0  # how many ends of the thinking are replaced
    ignore_str: str = WAIT  # by what
    method: Method = BUDGET_FORCING
    instruction: str | None = None  # written behind the question
    asked_max_tokens: int | None = None  # what a conditional method asks for, and Control measures
    asked_min_tokens: int | None = None
    min_thinking_tokens: int = 0  # what is enforced
    temperature: float | None = None  # None: that of the evaluation
    plan: Plan | None = None  # None: one response
    enable_thinking: bool = True  # False: in the model's own chat format
    max_completion_tokens: int | None = None  # without thinking; None: the context is the bound

    def budget_forcing(self, final_answer_prefix: str | None) -> dict[str, Any]:
        """The `budget_forcing` object of the request; keys that are not set keep the server's default.

        Thinking that is lengthened may fill the context: as in the paper, it is cut off where an answer still fits.
        """
        wanted: dict[str, Any] = {"num_ignore": self.num_ignore}
        lengthened = bool(self.num_ignore or self.min_thinking_tokens)
        if self.max_thinking_tokens is not None:
            wanted["max_tokens"] = self.max_thinking_tokens
        elif lengthened:
            wanted["max_tokens"] = WHOLE_CONTEXT
        if self.min_thinking_tokens:
            wanted["min_tokens"] = self.min_thinking_tokens
        if lengthened:
            wanted["ignore_str"] = self.ignore_str
        if final_answer_prefix is not None:
            wanted["final_answer_prefix"] = final_answer_prefix
        return wanted

    def prompt(self, question: str) -> str:
        return question if self.instruction is None else f"{question}\n\n{self.instruction}"


def direct(max_completion_tokens: int | None) -> Setting:
    """The model as it is, in its own chat format: no delimiter, nothing forced. What others are to be compared with."""
    return Setting(DIRECT, None, method=DIRECT, enable_thinking=False, max_completion_tokens=max_completion_tokens)


def forced(
    budgets: Sequence[int], waits: Sequence[int], guard_tokens: int | None, ignore_strs: Sequence[str] = (WAIT,)
) -> tuple[Setting, ...]:
    """Every number of every string, the natural end, every budget; duplicates once.

    `guard_tokens` is the cap of the settings that end by themselves, large enough not to matter for a model that ever
    ends. The longest answers come first, so that the short ones fill the gaps at the end of a run.
    """
    extended = [
        Setting(f"{_slug(text)}_{count}", guard_tokens, count, text)
        for count in sorted(set(waits), reverse=True)
        for text in dict.fromkeys(ignore_strs)
    ]
    capped = [Setting(f"max_{tokens}", tokens) for tokens in sorted(set(budgets), reverse=True)]
    return (*extended, Setting(NATURAL, guard_tokens), *capped)


def conditional(
    *,
    tokens: Sequence[int] = (),
    steps: Sequence[int] = (),
    tokens_per_step: int = 100,
    classes: bool = False,
    class_tokens: int | None = None,
    with_forcing: bool = False,
    guard_tokens: int | None = None,
) -> tuple[Setting, ...]:
    """Settings that ask in words (paper, section 3.2 and appendix D), each also with forcing when that is asked for.

    A step stands for `tokens_per_step` tokens, as in the paper's traces. Short thinking has at most `class_tokens`,
    long thinking at least as many; without them the mean of the natural end is the bound, and nothing can be forced.
    """
    asked: list[Setting] = []
    for count in sorted(set(tokens)):
        asked.append(_asking("tokens", str(count), f"Think for up to {count} tokens.", guard_tokens, most=count))
    for count in sorted(set(steps)):
        most = count * tokens_per_step
        asked.append(_asking("steps", str(count), f"Think for up to {count} steps.", guard_tokens, most=most))
    if classes:
        asked.append(_asking("class", SHORT, "Think for a short time.", guard_tokens, most=class_tokens))
        asked.append(_asking("class", LONG, "Think for a long time.", guard_tokens, least=class_tokens))
    if not with_forcing:
        return tuple(asked)
    return tuple(kept for setting in asked for kept in (setting, _with_forcing(setting)) if kept is not None)


def _asking(
    kind: str, value: str, instruction: str, guard: int | None, *, most: int | None = None, least: int | None = None
) -> Setting:
    return Setting(
        f"{kind}_{value}",
        guard,
        method=CONDITIONAL[kind][0],
        instruction=instruction,
        asked_max_tokens=most,
        asked_min_tokens=least,
    )


def _with_forcing(setting: Setting) -> Setting | None:
    """What was asked for in words, enforced as well; None when there is no bound."""
    most, least = setting.asked_max_tokens, setting.asked_min_tokens
    if most is None and least is None:
        return None
    kind = setting.name.partition("_")[0]
    cap = setting.max_thinking_tokens if most is None else most
    return replace(
        setting,
        name=f"{setting.name}_forced",
        method=CONDITIONAL[kind][1],
        max_thinking_tokens=cap,
        min_thinking_tokens=least or 0,
    )


def rejection(limits: Sequence[int], max_tries: int, temperature: float) -> tuple[Setting, ...]:
    """Rejection sampling: the thinking has to end by itself within the limit."""
    return tuple(
        Setting(
            f"reject_{limit}",
            limit,
            method="rejection_sampling",
            asked_max_tokens=limit,
            temperature=temperature,
            plan=Rejection(max_tries),
        )
        for limit in sorted(set(limits), reverse=True)
    )


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-") or "string"
