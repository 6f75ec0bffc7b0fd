"""FEATURES as tests want them."""

from pathlib import Path
from typing import Any

import numpy as np

from s1 import schema
from s1.artifacts import Artifact, Manifest


def feature_rows(num_rows: int = 40) -> list[dict[str, Any]]:
    points = np.random.default_rng(0).normal(size=(num_rows, 8)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return [
        {
            "question_id": f"q{at}",
            "question": f"Question {at}?",
            "answer": "1",
            "source": "hub:aime" if at % 10 == 0 else "gym",
            "domain": "ab"[at % 2],
            "thinking": f"Thought {at}.",
            "attempt": "Answer: 1",
            "quality_issues": [],
            "trace_correct": True,
            "solver_correct": False,
            "trace_tokens": 100 + at,
            "thinking_tokens": 90 + at,
            "embedding": point.tolist(),
        }
        for at, point in enumerate(points)
    ]


def put(
    run_dir: Path, rows: list[dict[str, Any]], fingerprint: str = "f" * 16, facts: dict[str, Any] | None = None
) -> None:
    """FEATURES in two files."""
    with Artifact(str(run_dir / "features")).staging() as staging:
        half = len(rows) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            staging.write_table(schema.to_table(part, schema.FEATURES), f"part-{number:05d}.parquet")
        staging.commit(Manifest("featurize", fingerprint, {}, {}, "0", len(rows), len(rows), facts=facts or {}))
