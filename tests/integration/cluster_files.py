"""The cluster files as their readers see them: one set of node types, whatever the dialect."""

import functools
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.capacity import Demand

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "schemas" / "kuberay"
CLOUDS = ("aws.yaml", "gcp.yaml")
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")


def load(name: str) -> dict[str, Any]:
    return yaml.load((CLUSTER / name).read_text(), Loader=yaml.CSafeLoader)


def ray_cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster inside any of the three kinds."""
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def autoscaling_config(name: str) -> dict[str, Any]:
    """What Ray's autoscaler works with: of a cloud file itself, of a manifest what Ray itself derives from it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import prepare_config

    if name in CLOUDS:
        return prepare_config(load(name))
    spec = ray_cluster_spec(load(f"kuberay/{name}"))
    return _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "s1", "namespace": "default"}, "spec": spec})


def worker_types(config: dict[str, Any]) -> dict[str, Any]:
    return {key: node for key, node in config["available_node_types"].items() if key != config["head_node_type"]}


def launched(config: dict[str, Any], demand: Demand, *, gang: bool) -> tuple[dict[str, int], int]:
    """Nodes that Ray's own scheduler would start for `demand` beside the head, by type; and how many workers would find
    no place even then. `gang`: they start together, as in a placement group.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    bundle = {"CPU": demand.cpus, "GPU": demand.gpus} if demand.gpus else {"CPU": demand.cpus}
    requests = [ResourceRequestUtil.make(bundle) for _ in range(demand.count)]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=autoscaling.get_node_type_configs(),
        max_num_nodes=autoscaling.get_max_num_nodes(),
        resource_requests=[] if gang else ResourceRequestUtil.group_by_count(requests),
        gang_resource_requests=[GangResourceRequest(requests=requests)] if gang else [],
    )
    reply = ResourceDemandScheduler().schedule(request)
    unplaced = demand.count * len(reply.infeasible_gang_resource_requests) + len(reply.infeasible_resource_requests)
    return {launch.instance_type: launch.count for launch in reply.to_launch}, unplaced


@functools.cache
def strict_crd(kind: str) -> dict[str, Any]:
    """The JSON schema of `kind` as the operator's chart publishes it, with keys it does not know made errors."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml.gz"
    if not path.is_file():
        pytest.skip(f"left out: {path} is not there")
    with gzip.open(path) as stream:
        definition = yaml.load(stream, Loader=yaml.CSafeLoader)
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = versions["v1"]["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    _close(schema["properties"]["spec"])
    return schema


def _close(schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    if "properties" in schema and "additionalProperties" not in schema:
        schema["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    for part in _parts(schema):
        _close(part)


def _parts(schema: dict[str, Any]) -> Iterable[Any]:
    yield from schema.get("properties", {}).values()
    yield schema.get("items")
    yield schema.get("additionalProperties")
