"""Which domain a question belongs to: the nearest subject description, a cluster, or what a model says.

All three give labels for the column `domain`. A model is asked with `prompt` and read with `code`; what it is asked
again, and how often, is the caller's business.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from s1.curation import coverage, diversity
from s1.curation.coverage import Matrix, unit_length
from s1.curation.subjects import SUBJECTS, label

MAX_CHARS = 8_000  # of a question: enough to tell its subject
ROWS_PER_CLUSTER = 16

_PROMPT = """\
Which field does this question belong to? Fields and codes are those of the Mathematics Subject Classification.

{subjects}

Question:
{question}

Choose the one field whose methods the solution needs most. Reply with its two-digit code alone."""
_AGAIN = "\n\nReply with one code of the list: two digits, nothing else. (Request {number}.)"
_CODE = re.compile(r"(?<![\d.])(\d{2})(?:-?XX)?(?![\d.]\d|\d)", re.IGNORECASE)


def nearest_subjects(points: Matrix, subjects: Matrix) -> list[str]:
    """Label of the subject that is most similar to each row; `subjects` (S, D): descriptions, in their order."""
    labels = [label(code) for code in SUBJECTS]
    found: list[str] = []
    unit = unit_length(points)
    for start in range(0, len(unit), coverage.BLOCK_ROWS):
        best = (unit[start : start + coverage.BLOCK_ROWS] @ unit_length(subjects).T).argmax(axis=1)
        found += [labels[at] for at in best.tolist()]
    return found


def clusters(points: Matrix, count: int, seed: int) -> list[str]:
    """Cluster of every row as a label, the largest cluster first; at most one cluster for `ROWS_PER_CLUSTER` rows.

    The labels follow from the rows' content and the seed, not from their order.
    """
    order = np.argsort(diversity.content_keys(points, [], None, seed), kind="stable")
    count = int(np.clip(len(points) // ROWS_PER_CLUSTER, 1, count))
    found = coverage.k_means(points[order], count, diversity.generator(seed)).labels
    sizes = np.bincount(found, minlength=count)
    place = np.empty(count, dtype=np.int64)
    place[np.argsort(-sizes, kind="stable")] = np.arange(count)
    labels: NDArray[np.int64] = np.empty(len(points), dtype=np.int64)
    labels[order] = place[found]
    return [f"cluster {number:03d}" for number in labels.tolist()]


def prompt(question: str, number: int = 1) -> str:
    """What a model is asked; from the second time on it is told what a reply looks like."""
    subjects = "\n".join(f"{code} {title}: {words}" for code, (title, words) in SUBJECTS.items())
    asked = _PROMPT.format(subjects=subjects, question=question[:MAX_CHARS])
    return asked if number == 1 else asked + _AGAIN.format(number=number)


def code(reply: str) -> str | None:
    """The code that a reply names: the only one, or the only one of its last line, or the only title; None: unclear."""
    lines = [line for line in reply.splitlines() if line.strip()]
    for text in (reply, lines[-1] if lines else ""):
        named = {found for found in _CODE.findall(text) if found in SUBJECTS}
        if len(named) == 1:
            return named.pop()
    lower = reply.lower()
    titled = [code for code, (title, _) in SUBJECTS.items() if title.lower() in lower]
    return titled[0] if len(titled) == 1 else None
