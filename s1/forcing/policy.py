"""What is asked of a response's thinking, and the same compiled into token ids (paper, section 3.1).

`BudgetPolicy` is what a user writes. `compile_policy` turns it, for one prompt and one context, into a `Program`: the
ids that the machine forces and the bounds that it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s1.errors import UserError
from s1.forcing.breaks import Breaks
from s1.template import Template

Bound = Literal["budget", "context", "length"]  # the policy's cap, the model's context, the request's max_tokens

# Tokens that a reduced budget leaves for the answer when the policy does not say how long it may be; the reference's
# automatic budget keeps the same number free.
ANSWER_RESERVE_TOKENS = 100


@dataclass(frozen=True)
class BudgetPolicy:
    """How long to think. The cap counts every token of the thinking, sampled or forced."""

    max_thinking_tokens: int | None = None  # None: until the model ends its thinking
    min_thinking_tokens: int = 0
    num_ignore: int = 0  # ends of the thinking that are replaced, however long it was
    ignore_str: str | tuple[str, ...] = "Wait"  # what replaces such an end; several take turns
    final_answer_prefix: str = "Final Answer:"  # opens the answer after a forced end
    max_answer_tokens: int | None = None
    before_end: str = ""  # closes the thinking at a forced end
    grace_tokens: int = 0  # last tokens before the cap in which a sentence's or line's end is taken as the forced end
    enable_thinking: bool = True  # False: all of the completion is the answer, and nothing is forced

    def __post_init__(self) -> None:
        for name in ("max_thinking_tokens", "min_thinking_tokens", "num_ignore", "grace_tokens"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name}={value}: must be 0 or more")
            if value and not self.enable_thinking:
                raise UserError(
                    f"{name}={value} and enable_thinking=False contradict each other; leave one of them out"
                )
        if self.max_answer_tokens is not None and self.max_answer_tokens < 1:
            raise UserError(f"max_answer_tokens={self.max_answer_tokens}: must be 1 or more, or left out")
        if self.max_thinking_tokens is not None and self.min_thinking_tokens > self.max_thinking_tokens:
            raise UserError(
                f"min_thinking_tokens={self.min_thinking_tokens} is above "
                f"max_thinking_tokens={self.max_thinking_tokens}; lower the one or raise the other"
            )
        if self.grace_tokens > (self.max_thinking_tokens or 0):
            raise UserError(
                f"grace_tokens={self.grace_tokens} is above max_thinking_tokens={self.max_thinking_tokens}; it is the "
                "part of that budget in which a sentence's end is awaited"
            )
        if not self.ignore_strings or not all(self.ignore_strings):
            raise UserError(
                f"ignore_str={self.ignore_str!r}: must be a text of at least one character, or a list of them"
            )

    @property
    def ignore_strings(self) -> tuple[str, ...]:
        return (self.ignore_str,) if isinstance(self.ignore_str, str) else self.ignore_str


@dataclass(frozen=True)
class Program:
    """A policy compiled for one prompt: token ids to force, and bounds to keep. All counts are tokens."""

    delimiter: tuple[int, ...]  # ends the thinking
    answer_open: tuple[int, ...]
    stop_ids: frozenset[int]  # end the completion
    ignore: tuple[tuple[int, ...], ...]
    newline: tuple[int, ...]
    before_end: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    max_thinking: int | None
    min_thinking: int
    num_ignore: int
    max_answer: int | None
    room: int  # of the whole completion, forced tokens included
    cut_by: Bound  # what set `max_thinking`
    room_by: Bound  # what set `room`
    breaks: Breaks
    grace: int = 0  # last tokens before `max_thinking` in which the thinking may be ended
    enable_thinking: bool = True  # False: the completion begins with the answer

    def closing(self, tail: Sequence[int]) -> tuple[int, ...]:
        """What stands between `tail` and a forced end; empty: nothing was thought, and its opening ended a line."""
        newline = self.newline if tail and not self.breaks.after_line(tail[-1]) else ()
        return (*newline, *self.before_end)

    @property
    def forces_nothing(self) -> bool:
        """Nothing is asked of thinking or answer: every token is the model's own."""
        is_bounded = self.max_thinking is not None or self.max_answer is not None
        return not (is_bounded or self.min_thinking or self.num_ignore)

    @property
    def longest(self) -> int:
        """No completion has more tokens than this; `room`, or less where thinking and answer are both bounded."""
        if self.max_answer is not None and not self.enable_thinking:
            return min(self.room, self.max_answer)
        if self.max_thinking is None or self.max_answer is None:
            return self.room
        around = (self.newline, self.before_end, self.delimiter, self.answer_open, self.answer_prefix)
        return min(self.room, self.max_thinking + sum(map(len, around)) + self.max_answer)


def compile_policy(
    policy: BudgetPolicy,
    template: Template,
    *,
    prompt_tokens: int,
    context_tokens: int,
    max_tokens: int | None = None,
) -> Program:
    """Ids and bounds of `policy` after a prompt of `prompt_tokens` in a model of `context_tokens`.

    `max_tokens` bounds the whole completion. A cap that leaves no room for an answer is reduced; `Program.cut_by` says
    by what. UserError when not one token fits behind the prompt.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens}: must be 1 or more")
    left = context_tokens - prompt_tokens
    if left < 1:
        raise UserError(f"the prompt has {prompt_tokens} tokens and the model's context {context_tokens}; shorten it")
    room_by: Bound = "context" if max_tokens is None or left < max_tokens else "length"
    room = left if max_tokens is None else min(left, max_tokens)
    newline, before_end = template.newline, tuple(template.plain(policy.before_end))
    prefix = tuple(template.plain(policy.final_answer_prefix))
    end = len(newline) + len(before_end) + len(template.thinking_end) + len(template.answer_open) + len(prefix)
    wanted = policy.max_thinking_tokens if policy.enable_thinking else None
    reserve = min(policy.max_answer_tokens or ANSWER_RESERVE_TOKENS, max(1, room // 4))
    cap = None if wanted is None else min(wanted, max(0, room - end - reserve))
    return Program(
        delimiter=template.thinking_end,
        answer_open=template.answer_open,
        stop_ids=template.stop_ids - set(template.thinking_end),
        ignore=tuple(tuple(template.plain(text)) for text in policy.ignore_strings),
        newline=newline,
        before_end=before_end,
        answer_prefix=prefix,
        max_thinking=cap,
        min_thinking=policy.min_thinking_tokens,
        num_ignore=policy.num_ignore,
        max_answer=policy.max_answer_tokens,
        room=room,
        cut_by="budget" if cap == wanted else room_by,
        room_by=room_by,
        breaks=Breaks(template.decode),
        grace=0 if cap is None else min(policy.grace_tokens, cap),
        enable_thinking=policy.enable_thinking,
    )
