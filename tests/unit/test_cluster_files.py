"""The cluster files hold what the presets ask for, and pass the checks of the tools that read them."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.mark.parametrize("name", ["aws.yaml"])
def test_a_cluster_file_passes_rays_own_check(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / name).read_text())
    validate_config(prepare_config(config))


@pytest.mark.parametrize("name", ["aws.yaml"])
def test_the_cluster_starts_with_its_head_alone_and_can_grow_to_sixteen_h100(name: str):
    config = yaml.safe_load((CLUSTER / name).read_text())
    types = config["available_node_types"]
    workers = {key: node for key, node in types.items() if key != config["head_node_type"]}
    assert all(node["min_workers"] == 0 for node in workers.values())
    gpus = sum(node["max_workers"] * node["resources"].get("GPU", 0) for node in workers.values())
    assert gpus == 16
    assert sum(node["max_workers"] for node in workers.values()) <= config["max_workers"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    assert 0 < config["idle_timeout_minutes"] <= 15
