"""Everything that an evaluation asks: every question of every model in every setting, as often as was wished."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from s1.evaluation.engine import Request, derived_seed
from s1.evaluation.methods import Response
from s1.evaluation.questions import Prices, Row, generation
from s1.evaluation.settings import Setting

Key: TypeAlias = tuple[str, str, str, int]  # model, setting, question_id, sample

# Tokens that the policy may write around the end of the thinking: delimiters, "Final Answer:".
FORCED_END_TOKENS = 32


@dataclass(frozen=True)
class Task:
    """One question to one model in one setting."""

    key: Key
    setting: Setting
    question: Row
    request: Request

    def row(self, response: Response, correct: bool | None, prices: Prices) -> dict[str, Any]:
        """What becomes of it: a row of GENERATIONS."""
        model, _, _, sample = self.key
        # A plain endpoint was told of no cap: there is none to keep to.
        setting = replace(self.setting, max_thinking_tokens=None) if self.request.plain else self.setting
        return generation(
            self.question,
            model,
            setting,
            response,
            correct,
            sample=sample,
            seed=self.request.seed,
            prices=prices,
        )


def key_of(row: Mapping[str, Any]) -> Key:
    """The task that a row of GENERATIONS answers."""
    return row["model"], row["setting"], row["question_id"], row["sample"]


@dataclass(frozen=True)
class Sweep:
    """What is asked, and how. The settings stand in the order of asking."""

    models: tuple[str, ...]
    questions: tuple[Row, ...]
    settings: tuple[Setting, ...]
    max_answer_tokens: int
    final_answer_prefix: str | None = None
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    plain: bool = False
    # Settings that only some models are asked in, or with only so many questions.
    only_models: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    only_questions: Mapping[str, int] = field(default_factory=dict[str, int])

    def tasks(self, done: Container[Key] = ()) -> list[Task]:
        """What is not `done` yet: by model, setting, question and sample."""
        return [task for asked in self.asked() if (task := self._task(*asked)).key not in done]

    def asked(self) -> Iterator[tuple[str, Setting, Row, int]]:
        """Model, setting, question and sample of every task."""
        for model in self.models:
            for setting in self.settings:
                if model not in (self.only_models.get(setting.name) or self.models):
                    continue
                for question in self.questions[: self.only_questions.get(setting.name)]:
                    for sample in range(self.samples if setting.plan is None else 1):
                        yield model, setting, question, sample

    def mixed(self, tasks: Sequence[Task]) -> list[Task]:
        """`tasks` for an endpoint that serves all models at a time: setting by setting."""
        order = {setting.name: at for at, setting in enumerate(self.settings)}
        return sorted(tasks, key=lambda task: order[task.setting.name])

    def _task(self, model: str, setting: Setting, question: Row, sample: int) -> Task:
        key = (model, setting.name, question["question_id"], sample)
        if setting.enable_thinking:
            forcing = {**setting.budget_forcing(self.final_answer_prefix), "max_answer_tokens": self.max_answer_tokens}
            cap = setting.max_thinking_tokens
            bound = None if cap is None else cap + FORCED_END_TOKENS + self.max_answer_tokens
        else:
            forcing, bound = {}, setting.max_completion_tokens
        temperature = self.temperature if setting.temperature is None else setting.temperature
        # The same numbers for every model and setting: what differs between them is not luck.
        seed = derived_seed(self.seed, question["question_id"], sample) if temperature else None
        text = setting.prompt(question["question"])
        request = Request(
            key, model, text, bound, forcing, temperature, seed, self.plain, enable_thinking=setting.enable_thinking
        )
        return Task(key, setting, question, request)
