"""Which questions an evaluation asks, and what becomes of an answer."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s1.evaluation.engine import OVERFLOW
from s1.evaluation.methods import REJECTED, Response
from s1.evaluation.settings import Setting

Row = Mapping[str, Any]
COLUMNS = ("question_id", "question", "answer", "source", "domain")


@dataclass(frozen=True)
class Chosen:
    """The questions to ask, in order, and how many others there were and why they are left out."""

    questions: tuple[Row, ...]
    dropped: dict[str, int]


def choose(rows: Sequence[Row], domains: Collection[str | None] | None, num_questions: int | None) -> Chosen:
    """At most `num_questions` of `rows`, as many of each domain as there can be, independent of the order of rows.

    `domains` None: every domain counts. The key of a question is a hash, so its order is as good as random.
    """
    wanted = [row for row in rows if domains is None or row["domain"] in domains]
    rank: dict[str | None, int] = {}
    ordered: list[tuple[int, str, Row]] = []
    for row in sorted(wanted, key=lambda row: row["question_id"]):
        rank[row["domain"]] = rank.get(row["domain"], -1) + 1
        ordered.append((rank[row["domain"]], row["question_id"], row))
    ordered.sort(key=lambda item: item[:2])
    kept = tuple(row for _, _, row in ordered[:num_questions])
    return Chosen(kept, {"other domains": len(rows) - len(wanted), "over num_questions": len(wanted) - len(kept)})


@dataclass(frozen=True)
class Prices:
    """What tokens cost, in dollars per million."""

    usd_per_million_input: float = 0.0
    usd_per_million_output: float = 0.0

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        cost = prompt_tokens * self.usd_per_million_input + completion_tokens * self.usd_per_million_output
        return cost / 1e6


def verdict(question: Row, response: Response) -> bool | None:
    """Whether the response is right; None without a reference. What did not fit, or was rejected, is wrong."""
    from s1.grading.verify import correct

    if response.answer.ended_by in (OVERFLOW, REJECTED):
        return correct(question, "")
    return correct(question, response.answer.content)


def generation(
    question: Row,
    model: str,
    setting: Setting,
    response: Response,
    correct: bool | None,
    *,
    sample: int = 0,
    seed: int | None = None,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """One row of GENERATIONS."""
    answer = response.answer
    return {
        **{name: question[name] for name in COLUMNS},
        "model": model,
        "method": setting.method,
        "setting": setting.name,
        "sample": sample,
        "seed": seed,
        "max_thinking_tokens": setting.max_thinking_tokens,
        "num_ignore": setting.num_ignore,
        "asked_max_tokens": setting.asked_max_tokens,
        "asked_min_tokens": setting.asked_min_tokens,
        "thinking": answer.thinking,
        "content": answer.content,
        "correct": correct,
        "thinking_tokens": answer.thinking_tokens,
        "forced_tokens": answer.forced_tokens,
        "answer_tokens": answer.answer_tokens,
        "ended_by": answer.ended_by,
        "segments": json.dumps([asdict(segment) for segment in answer.segments], ensure_ascii=False),
        "latency_s": answer.latency_s,
        "num_tries": len(response.spent),
        "total_tokens": response.prompt_tokens + response.completion_tokens,
        "cost_usd": (prices or Prices()).usd(response.prompt_tokens, response.completion_tokens),
    }
