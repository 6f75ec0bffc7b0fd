"""The column domain: as collected, or by clusters, by subject descriptions, or by a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from actors.grader import ruled_out
from jobs.asking import AskOptions, ask
from s1.config import Config
from s1.curation import domains, subjects

Encode = Callable[[Sequence[str], str], NDArray[np.float32]]  # texts, label -> (N, D)
Row = dict[str, Any]


class DomainOptions(Config):
    """How a question gets its domain."""

    method: Literal["given", "clusters", "nearest", "llm"] = Field(
        default="given",
        description="given: as collected; clusters: of the embeddings; nearest: the subject of the Mathematics Subject "
        "Classification whose description is most similar; llm: the subject that a model names.",
    )
    num_clusters: PositiveInt = Field(default=50, description="Maximum number of clusters.")
    seed: int = Field(default=0, description="Seed of the clusters.")
    llm: AskOptions = Field(default=AskOptions(), description="The model that names subjects.")


def label(
    options: DomainOptions,
    features: Mapping[str, Row],
    questions: Mapping[str, str],
    tests: Sequence[str],
    encode: Encode,
    ledger_uri: str,
) -> Row:
    """Fill in the column domain; what the report tells, the mix of the test questions among it.

    A model is paid for the rows alone that can be chosen; the others have no domain then.
    """
    if options.method == "given":
        return {}
    cost: Row = {}
    if options.method == "llm":
        wanted = {key: text for key, text in questions.items() if not ruled_out(features[key]["quality_issues"])}
        found, test_domains, cost = _named(options.llm, wanted, tests, ledger_uri)
    else:
        points = np.stack([features[key]["embedding"] for key in questions])
        if options.method == "clusters":
            labels, test_domains = domains.clusters(points, options.num_clusters, options.seed), []
        else:
            described = encode(subjects.descriptions(), "subjects")
            labels = domains.nearest_subjects(points, described)
            points_of_tests = encode(tests, "test questions") if tests else described[:0]
            test_domains = domains.nearest_subjects(points_of_tests, described)
        found = dict(zip(questions, labels, strict=True))
    for key in questions:
        features[key]["domain"] = found.get(key)
    mixes = {"domains": found.values(), "test_domains": test_domains}
    return cost | {name: dict(Counter(names).most_common()) for name, names in mixes.items()}


def _named(
    options: AskOptions, questions: Mapping[str, str], tests: Sequence[str], ledger_uri: str
) -> tuple[dict[str, str], list[str], Row]:
    """Subjects that a model names: of the questions by id, and of the test questions."""
    prompts = {f"question {key}": partial(domains.prompt, text) for key, text in questions.items()}
    prompts |= {f"test {at}": partial(domains.prompt, text) for at, text in enumerate(tests)}
    answers = ask(options, prompts, domains.code, ledger_uri, "featurize: domains")
    named = {key: subjects.label(code) for key, code in answers.found.items()}
    by_id = {key: named[f"question {key}"] for key in questions if f"question {key}" in named}
    of_tests = [subject for key, subject in named.items() if key.startswith("test ")]
    return by_id, of_tests, {"domains_asked": {"unread": answers.num_unread, "cost_usd": answers.cost_usd}}
