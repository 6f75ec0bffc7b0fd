"""Which responses the report shows in full, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s1.evaluation.display import DIRECT_LABEL, NATURAL_LABEL
from s1.evaluation.settings import BUDGET_FORCING, DIRECT, NATURAL

Row = Mapping[str, Any]
BySetting = Mapping[str, Row]

LONG_CHARS = 800


@dataclass(frozen=True)
class Response:
    """One model in one setting. `segments` are (text, whether the policy wrote it), in order."""

    title: str
    correct: bool | None
    thinking_tokens: int
    ended_by: str | None
    segments: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Transcript:
    """One question and what was answered to it."""

    why: str
    question: str
    answer: str | None
    responses: tuple[Response, ...]

    @property
    def is_long(self) -> bool:
        """Whether a response needs the room of a wide column."""
        return any(sum(len(text) for text, _ in response.segments) > LONG_CHARS for response in self.responses)


def transcripts(rows: Iterable[Row], count: int, model: str = "tuned", beside: str = "base") -> tuple[Transcript, ...]:
    """Up to `count` questions that show what budgets do to `model`, and what `beside` answers where nothing is forced.

    That is its answer in its own chat format, else at its natural end. Of the methods only budget forcing is shown, and
    the first sample of a setting that was sampled several times. One question of each kind in turn: more thinking
    helps, a "Wait" changes the verdict, the model fails, the rest.
    """
    by_model: dict[str, dict[str, dict[str, Row]]] = {}
    direct: dict[str, Row] = {}
    for row in rows:
        method = row["method"] or BUDGET_FORCING
        if method == BUDGET_FORCING and not row["sample"]:
            by_model.setdefault(row["model"], {}).setdefault(row["question_id"], {})[row["setting"]] = row
        elif method == DIRECT and not row["sample"] and row["model"] == beside:
            direct[row["question_id"]] = row
    model = model if model in by_model else min(by_model, default="")
    others = by_model.get(beside, {}) if model != beside else {}
    chosen = _choose(by_model.get(model, {}), count)
    return tuple(
        _transcript(why, answers, direct.get(question_id) or others.get(question_id, {}).get(NATURAL))
        for why, question_id, answers in chosen
    )


def _choose(questions: Mapping[str, BySetting], count: int) -> list[tuple[str, str, BySetting]]:
    queues = [
        [
            (why, question_id, questions[question_id])
            for question_id in sorted(questions)
            if kind(questions[question_id])
        ]
        for why, kind in _KINDS
    ]
    chosen: dict[str, tuple[str, str, BySetting]] = {}
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue and queue[0][1] in chosen:
                queue.pop(0)
            if queue and len(chosen) < count:
                found = queue.pop(0)
                chosen[found[1]] = found
    return list(chosen.values())


def _verdict(answers: BySetting, setting: str) -> bool | None:
    return answers[setting]["correct"] if setting in answers else None


def _budgets(answers: BySetting) -> list[Row]:
    """The capped responses, the shortest cap first."""
    capped = [row for row in answers.values() if row["setting"] != NATURAL and not row["num_ignore"]]
    return sorted(capped, key=lambda row: row["max_thinking_tokens"])


def _waits(answers: BySetting) -> list[Row]:
    return sorted((row for row in answers.values() if row["num_ignore"]), key=lambda row: row["num_ignore"])


def _helped(answers: BySetting) -> bool:
    budgets = _budgets(answers)
    return bool(budgets) and budgets[0]["correct"] is False and _verdict(answers, NATURAL) is True


def _wait_mattered(answers: BySetting) -> bool:
    natural = _verdict(answers, NATURAL)
    return natural is not None and any(row["correct"] is not natural for row in _waits(answers))


_KINDS: Sequence[tuple[str, Callable[[BySetting], bool]]] = (
    ("More thinking turns a wrong answer into a right one", _helped),
    ("A forced “Wait” changes the verdict", _wait_mattered),
    ("Wrong at the natural end", lambda answers: _verdict(answers, NATURAL) is False),
    ("One of the others", lambda _: True),
)


def _transcript(why: str, answers: BySetting, baseline: Row | None) -> Transcript:
    budgets = _budgets(answers)
    shown = budgets[:1]
    # The smallest budget that is enough, else the middle one.
    enough = [row for row in budgets[1:] if row["correct"]] or budgets[len(budgets) // 2 :][:1]
    shown += [row for row in enough[:1] if row not in shown]
    shown += [answers[NATURAL]] if NATURAL in answers else []
    shown += _waits(answers)[:1]
    shown += [baseline] if baseline is not None else []
    first = next(iter(answers.values()))
    return Transcript(why, first["question"], first["answer"], tuple(map(response, shown)))


def response(row: Row) -> Response:
    """A row of GENERATIONS for the page."""
    setting = row["setting"]
    if setting == DIRECT:
        title = DIRECT_LABEL
    elif setting == NATURAL:
        title = NATURAL_LABEL
    elif row["num_ignore"]:
        title = "one Wait" if row["num_ignore"] == 1 else f"{row['num_ignore']} Waits"
    else:
        title = f"at most {row['max_thinking_tokens']} thinking tokens"
    pieces = [(piece["text"], bool(piece["forced"])) for piece in json.loads(row["segments"] or "[]")]
    if not pieces:  # the endpoint tells no segments
        pieces = [(text, False) for text in (row["thinking"], "\n\n", row["content"]) if text]
    return Response(f"{row['model']}, {title}", row["correct"], row["thinking_tokens"], row["ended_by"], tuple(pieces))
