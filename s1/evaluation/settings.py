"""What a model is asked for in an evaluation: its natural end, a budget of thinking tokens, a number of "Wait"s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NATURAL = "natural"


@dataclass(frozen=True)
class Setting:
    """One way to ask every question."""

    name: str  # natural | max_16 | wait_1
    max_thinking_tokens: int | None  # None: nothing but the context ends the thinking
    num_ignore: int = 0  # how many ends of the thinking are answered with "Wait"

    def budget_forcing(self, ignore_str: str, final_answer_prefix: str | None) -> dict[str, Any]:
        """The `budget_forcing` object of the request; keys that are not set keep the server's default."""
        wanted: dict[str, Any] = {"num_ignore": self.num_ignore}
        if self.max_thinking_tokens is not None:
            wanted["max_tokens"] = self.max_thinking_tokens
        if self.num_ignore:
            wanted["ignore_str"] = ignore_str
        if final_answer_prefix is not None:
            wanted["final_answer_prefix"] = final_answer_prefix
        return wanted


def settings(budgets: Sequence[int], waits: Sequence[int], guard_tokens: int | None) -> tuple[Setting, ...]:
    """Every number of "Wait"s, the natural end, every budget; duplicates once.

    `guard_tokens` is the cap of the settings that end by themselves, large enough not to matter for a model that ever
    ends. The longest answers come first, so that the short ones fill the gaps at the end of a run.
    """
    extended = [Setting(f"wait_{count}", guard_tokens, count) for count in sorted(set(waits), reverse=True)]
    capped = [Setting(f"max_{tokens}", tokens) for tokens in sorted(set(budgets), reverse=True)]
    return (*extended, Setting(NATURAL, guard_tokens), *capped)
