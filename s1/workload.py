"""How much models generate in a stage, counted before anything is started: completions and tokens.

What a cap does not bound is expected to be as long as the paper's: a statement about its model and questions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from s1.evaluation.settings import BestOf, Rejection, Setting, Tree, Vote
from s1.evaluation.tasks import FORCED_END_TOKENS, Sweep

# s1-32B on AIME24, the benchmark that it thinks longest about (figure 4a): until the natural end, and for every Wait of
# the six that take it to 8,474.
NATURAL_TOKENS = 5300
WAIT_TOKENS = 530
# An answer with its explanation: Qwen2.5-32B-Instruct on GPQA Diamond (figure 4b, 64 samples of 198 questions).
ANSWER_TOKENS = 640
ASSUMED = (
    f"expected as in the paper: {NATURAL_TOKENS:,} tokens of a thinking that ends by itself, {WAIT_TOKENS} more for a "
    f"Wait, {ANSWER_TOKENS} of an answer"
)


@dataclass(frozen=True)
class Workload:
    """Completions and their tokens, prompts not counted: as expected, and at most."""

    completions: int
    tokens: int
    most_completions: int
    most_tokens: int | None  # None: only a context of unknown size bounds them

    def times(self, number: int) -> Workload:
        most = None if self.most_tokens is None else number * self.most_tokens
        return Workload(number * self.completions, number * self.tokens, number * self.most_completions, most)

    def __add__(self, other: Workload) -> Workload:
        known = self.most_tokens is not None and other.most_tokens is not None
        return Workload(
            self.completions + other.completions,
            self.tokens + other.tokens,
            self.most_completions + other.most_completions,
            (self.most_tokens or 0) + (other.most_tokens or 0) if known else None,
        )

    def __str__(self) -> str:
        most = "" if self.most_tokens is None else f" with {short(self.most_tokens)}"
        return (
            f"{self.completions:,} completions with {short(self.tokens)} tokens expected, at most "
            f"{self.most_completions:,}{most}"
        )


NOTHING = Workload(0, 0, 0, 0)


def of_attempts(number: int, max_tokens: int) -> Workload:
    """Answers in the model's own chat format, of at most `max_tokens`."""
    return Workload(1, min(ANSWER_TOKENS, max_tokens), 1, max_tokens).times(number)


def of_sweep(sweep: Sweep, context_tokens: int | None) -> Workload:
    """Everything that an evaluation asks; `context_tokens` bound what nothing else does."""
    asked = Counter(setting.name for _, setting, _, _ in sweep.asked())
    each = (of_setting(it, sweep.max_answer_tokens, context_tokens).times(asked[it.name]) for it in sweep.settings)
    return sum(each, NOTHING)


def of_setting(setting: Setting, max_answer_tokens: int, context_tokens: int | None) -> Workload:
    """One question in this setting."""
    thinking, answer = _thinking(setting), min(ANSWER_TOKENS, max_answer_tokens)
    bound = setting.max_completion_tokens
    if not setting.enable_thinking:
        thinking, answer = 0, min(ANSWER_TOKENS, bound or ANSWER_TOKENS)
    elif setting.max_thinking_tokens is not None:
        bound = setting.max_thinking_tokens + FORCED_END_TOKENS + max_answer_tokens
    most = min((size for size in (bound, context_tokens) if size is not None), default=None)
    tokens = thinking + answer if most is None else min(thinking + answer, most)
    match setting.plan:
        case Rejection(max_tries):
            fits = setting.max_thinking_tokens is None or setting.max_thinking_tokens >= NATURAL_TOKENS
            tries = 1 if fits else max_tries
            return Workload(tries, tries * tokens, max_tries, most and max_tries * most)
        case Vote(count) | BestOf(count):
            return Workload(1, tokens, 1, most).times(count)
        case Tree(width, step_tokens, max_steps):
            steps = min(max_steps, -(-thinking // step_tokens))
            last = FORCED_END_TOKENS + max_answer_tokens
            usual, longest = steps * step_tokens + answer, max_steps * step_tokens + last
            return Workload(steps + 1, usual, max_steps + 1, longest).times(width)
        case None:
            return Workload(1, tokens, 1, most)


def _thinking(setting: Setting) -> int:
    """Expected tokens of a thinking."""
    natural = max(NATURAL_TOKENS + setting.num_ignore * WAIT_TOKENS, setting.min_thinking_tokens)
    return natural if setting.max_thinking_tokens is None else min(natural, setting.max_thinking_tokens)


def short(number: float) -> str:
    """A number of tokens to read."""
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f} million"
