"""A node that is going to be taken away says so: the training saves, and goes on on another node."""

import json
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import last_committed, plain_loop, write_model, write_selection

from jobs.runner import execute
from jobs.train import JOB
from jobs.train_options import TrainOptions

pytestmark = pytest.mark.timeout(900)

SAVE_STEPS = 40


@pytest.fixture
def cluster(monkeypatch) -> Generator[Any]:
    from ray.cluster_utils import Cluster

    # The head holds no worker; each of the other two has room for one.
    small = {"object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **small)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    yield cluster
    cluster.shutdown()


def take_the_workers_node(cluster: Any, run_dir: Path, saved: list[Any], ended: threading.Event) -> None:
    """Give notice to the node of the only worker, and take it away when a checkpoint was made of it."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
    from ray.util import placement_group_table

    while last_committed(run_dir) is None:  # it trains
        if ended.wait(0.02):
            return
    (used,) = {
        node
        for group in placement_group_table().values()
        if group["state"] == "CREATED"
        for node in group["bundles_to_node_id"].values()
    }
    deadline_ms = int((time.time() + 60) * 1000)
    accepted, why = GcsClient(address=cluster.address).drain_node(
        used, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline_ms
    )
    assert accepted, why
    while (folder := last_committed(run_dir)) is None or int(folder.name.removeprefix("step-")) % SAVE_STEPS == 0:
        if ended.wait(0.005):
            return
    (node,) = [node for node in cluster.worker_nodes if node.node_id == used]
    cluster.remove_node(node, allow_graceful=False)
    file = next((folder / "state").glob("*model_states.pt"))
    saved += torch.load(file, map_location="cpu", weights_only=False)["records"]


def test_a_notice_is_followed_by_a_checkpoint_and_the_other_node_goes_on_from_it(cluster, tmp_path):
    write_selection(tmp_path, 22)
    options = TrainOptions(
        model=str(write_model(tmp_path / "model")),
        batch_size=8,
        epochs=60,
        learning_rate=1e-3,
        weight_decay=5.0,  # that of the recipe would be less than what is compared
        block_size=256,
        precision="fp32",
        micro_batch_size=8,
        threads_per_worker=1,
        save_steps=SAVE_STEPS,
        save_in_background=False,
        max_failures=1,
    )
    saved: list[dict[str, Any]] = []
    ended = threading.Event()
    thread = threading.Thread(target=take_the_workers_node, args=(cluster, tmp_path, saved, ended))
    thread.start()
    try:
        execute(JOB, options, str(tmp_path))
    finally:
        ended.set()
        thread.join()
    records = json.loads((tmp_path / "checkpoint" / "loss.json").read_text())
    assert SAVE_STEPS < len(saved) < len(records) and records[: len(saved)] == saved
    losses, _ = plain_loop(options, str(tmp_path), until=len(saved) + SAVE_STEPS)
    assert [record["loss"] for record in records[: len(losses)]] == pytest.approx(losses, rel=1e-4)
