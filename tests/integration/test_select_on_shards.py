"""select on Ray actors: the same picks as in one process, or nearly as good ones."""

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from process_tree import below

from jobs.ray_session import ray_session
from jobs.runner import execute
from jobs.select import JOB, SelectOptions
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError


def put(run_dir: Path, points: np.ndarray, file_rows: int, missing: int | None = None) -> None:
    with Artifact(str(run_dir / "features")).staging() as staging:
        for part, start in enumerate(range(0, len(points), file_rows)):
            rows = [
                {
                    "question_id": f"q{start + at}",
                    "quality_issues": ["truncated"] if (start + at) % 7 == 0 else [],
                    "domain": "ab"[(start + at) % 5 == 0],
                    "trace_tokens": 100 + (start + at) * 31 % 97,
                    "embedding": None if start + at == missing else point.tolist(),
                }
                for at, point in enumerate(points[start : start + file_rows])
            ]
            staging.write_table(schema.to_table(rows, schema.FEATURES), f"part-{part:05d}.parquet")
        staging.commit(Manifest("featurize", "f" * 16, {}, {}, "0", len(points), len(points)))


def damage_embeddings(file: Path) -> None:
    """Overwrite a page of the last column; the other columns and the footer stay as they are."""
    group = pq.read_metadata(file).row_group(0)
    start = group.column(group.num_columns - 1).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 100] = b"\xff" * 100
    file.write_bytes(content)


def chosen(run_dir: Path, **options: object) -> list[str]:
    execute(JOB, SelectOptions.model_validate({"size": 100, **options}), str(run_dir))
    return (
        Artifact(str(run_dir / "selection")).read(schema.SELECTION, columns=["question_id"])["question_id"].to_pylist()
    )


def shards_of_ray() -> dict[int, psutil.Process]:
    """The shards of this process's Ray, by process id."""
    return {process.pid: process for process in below("SelectionShard")}


def kill_a_shard(before: set[int], killed: list[int]) -> None:
    """SIGKILL to the first shard that is none of those `before`, which may be about to end."""
    deadline = time.monotonic() + 600
    while not killed and time.monotonic() < deadline:
        for pid, process in shards_of_ray().items():
            if pid not in before and not killed:
                process.kill()
                killed.append(pid)
        time.sleep(0.02)


def test_shards_choose_as_one_process_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(40, 32))[rng.integers(40, size=2500)] + 0.8 * rng.normal(size=(2500, 32))).astype("f4")
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[1000:1020] = points[:20]  # copies: ties
    put(tmp_path, points, 400)
    with ray_session():
        for more in ({}, {"quality_weight": 1.0, "quotas": {"b": 30}, "seed": 3}):
            alone = chosen(tmp_path, method="k_center", **more)
            assert chosen(tmp_path, method="k_center", shards=3, **more) == alone
        killed: list[int] = []
        killer = threading.Thread(target=kill_a_shard, args=(set(shards_of_ray()), killed))
        killer.start()
        assert chosen(tmp_path, method="k_center", shards=2, **more) == alone
        killer.join()
        assert killed and "a shard was lost with its node" in capsys.readouterr().err
        values = {}
        for shards in (1, 3):
            rows = [int(key[1:]) for key in chosen(tmp_path, method="facility_location", shards=shards)]
            assert len(set(rows)) == 100
            values[shards] = np.maximum(points @ points[rows].T, 0).max(axis=1).mean()
        assert values[3] >= 0.98 * values[1]

        put(tmp_path / "gap", points[:300], 100, missing=150)
        with pytest.raises(UserError, match=r"part-00001.parquet: embeddings are missing"):
            chosen(tmp_path / "gap", method="k_center", shards=2)

        put(tmp_path / "damaged", points[:300], 100)
        file = tmp_path / "damaged" / "features" / "part-00001.parquet"
        damage_embeddings(file)
        for shards in (1, 2):
            with pytest.raises(UserError, match=rf"{file}: not readable as Parquet .*; run"):
                chosen(tmp_path / "damaged", method="k_center", shards=shards)
