"""A cluster that does not grow and is too small is refused at once, in one line."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import capacity, pipeline
from jobs.capacity import Demand
from jobs.ray_session import ray_session
from s1.errors import UserError


def test_more_than_there_is_is_refused_before_anything_runs_and_the_rest_is_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session():
        capacity.check([Demand("distill", "pool.num_workers", 1, 0.5)])
        with pytest.raises(
            UserError, match=r"^train\.workers=1600 needs 1600 x \(8 CPU and 1 GPU on one node\), but"
        ) as lack:
            capacity.check([Demand("distill", "pool.num_workers", 1, 0.5), Demand("train", "workers", 1600, 8, 1)])
        check_pipeline_on_a_running_cluster(monkeypatch, tmp_path / "run")
    assert "\n" not in str(lack.value)
    assert "RAY_BACKEND_LOG_LEVEL" not in capfd.readouterr().err


def check_pipeline_on_a_running_cluster(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    """It is refused before the first stage has written anything."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    while capacity.grows():  # as long as the cluster's monitor has not said otherwise
        time.sleep(0.2)
    with pytest.raises(UserError, match=r"^train\.workers=1600 needs 1600 x"):
        pipeline.main(["--run-dir", str(run_dir), "--train.workers", "1600", "--train.batch-size", "1600"])
    assert not list(run_dir.iterdir())


def test_an_endpoint_on_a_loopback_address_is_refused_only_where_workers_lie_on_several_nodes(
    monkeypatch: pytest.MonkeyPatch,
):
    from ray.cluster_utils import Cluster

    demand = Demand("distill", "pool.num_workers", 1, 0.5, asks=("http://127.0.0.1:8000/v1",))
    small = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        with ray_session():
            while capacity.grows():  # as long as the cluster's monitor has not said otherwise
                time.sleep(0.2)
            capacity.check([demand])
            cluster.add_node(**small)
            cluster.wait_for_nodes()
            with pytest.raises(UserError, match=r"^distill: its workers ask http://127\.0\.0\.1:8000/v1, which is"):
                capacity.check([demand])
            capacity.check([replace(demand, asks=("http://10.0.0.7:8000/v1",))])
    finally:
        cluster.shutdown()
