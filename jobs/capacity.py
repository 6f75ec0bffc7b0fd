"""What the stages ask of a cluster at a time, and whether it can ever give it."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from s1.config import Config
from s1.errors import UserError
from s1.teachers.registry import TeacherSpec

if TYPE_CHECKING:
    from jobs.distill import DistillOptions
    from jobs.evaluation_options import EvaluateOptions
    from jobs.featurize import FeaturizeOptions
    from jobs.select import SelectOptions
    from jobs.train_options import TrainOptions


@dataclass(frozen=True)
class Demand:
    """`count` workers at the same time; each of them lies on one node, and so do every `together` of them."""

    stage: str
    option: str  # the one that sets the count
    count: int
    cpus: float
    gpus: float = 0
    together: int = 1
    asks: tuple[str, ...] = ()  # URLs of what each of them asks
    instead: str = ""  # what the user can do about it beside asking for less

    @property
    def needs(self) -> str:
        """What all workers take, by the groups that lie on one node."""
        cpus, gpus = self.cpus * self.together, self.gpus * self.together
        each = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        return f"{self.count // self.together} x ({each} on one node)"

    def __str__(self) -> str:
        return f"{self.stage}.{self.option}={self.count} needs {self.needs}"


@dataclass(frozen=True)
class Nodes:
    """`count` nodes of one kind."""

    count: int
    cpus: float
    gpus: float = 0

    def places(self, demand: Demand) -> int:
        """Workers of `demand` that find room on these nodes when nothing else runs."""
        per_node = math.inf
        for has, takes in ((self.cpus, demand.cpus), (self.gpus, demand.gpus)):
            if takes:
                per_node = min(per_node, (has + 1e-6) // (takes * demand.together))
        return demand.count if per_node == math.inf else int(self.count * per_node) * demand.together


def of_distill(options: DistillOptions) -> tuple[Demand, ...]:
    """The pool of teachers."""
    pool, spec = options.pool, TeacherSpec(options)
    gpus = spec.num_gpus if pool.num_gpus is None else pool.num_gpus
    asks = tuple(service.base_url for service in spec.services.values())
    return (Demand("distill", "pool.num_workers", pool.num_workers, pool.num_cpus, gpus, asks=asks),)


def of_featurize(options: FeaturizeOptions) -> tuple[Demand, ...]:
    """Graders, solvers, encoders, and who asks a model: one after the other."""
    solver, embedder = options.solver, options.embedder
    asking = {"judge": options.judge} if options.judge.enabled else {}
    asking |= {"domains.llm": options.domains.llm} if options.domains.method == "llm" else {}
    askers = [
        Demand(
            "featurize",
            f"{name}.pool.num_workers",
            its.pool.num_workers,
            its.pool.num_cpus,
            asks=(its.openai.base_url,),
        )
        for name, its in asking.items()
    ]
    graders = Demand("featurize", "grader_workers", options.grader_workers, options.grader_cpus)
    solvers = Demand("featurize", "solver.num_workers", solver.num_workers, solver.num_cpus, solver.num_gpus)
    encoders = Demand("featurize", "embedder.num_workers", embedder.num_workers, embedder.num_cpus, embedder.num_gpus)
    return (graders, *([solvers] if solver.models else []), encoders, *askers)


def of_select(options: SelectOptions) -> tuple[Demand, ...]:
    """The shards, when there are several."""
    return (Demand("select", "shards", options.shards, options.shard_cpus),) if options.shards > 1 else ()


def of_train(options: TrainOptions) -> tuple[Demand, ...]:
    """The training workers, or as many as it goes on with; those that share a sequence on the same node."""
    option, count = ("min_workers", options.min_workers) if options.min_workers else ("workers", options.workers)
    each = options.cpus_per_worker, options.gpus_per_worker
    return (Demand("train", option, count, *each, together=options.sequence_parallel),)


def of_evaluate(options: EvaluateOptions) -> tuple[Demand, ...]:
    """Replicas of all models together, or of one after the other offline; nothing when an endpoint serves them."""
    if options.endpoint is not None:
        return ()
    serve = options.serve
    gpus = serve.engine.tensor_parallel_size if serve.engine.device == "gpu" else 0
    replicas = serve.num_replicas * (1 if options.offline else len(options.models))
    instead = "" if replicas == serve.num_replicas else " (with --offline the models run one after the other)"
    return (Demand("evaluate", "serve.num_replicas", replicas, serve.num_cpus, gpus, instead=instead),)


# Where `ray up` puts the cluster file on the head, which is where submitted jobs run.
BOOTSTRAP_FILE = Path("~/ray_bootstrap_config.yaml")
POD_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_OF: dict[str, Callable[[Any], tuple[Demand, ...]]] = {
    "distill": of_distill,
    "featurize": of_featurize,
    "select": of_select,
    "train": of_train,
    "evaluate": of_evaluate,
}


def of_stages(stages: Iterable[tuple[str, Config]]) -> tuple[Demand, ...]:
    """What stages (name and options) ask for, in their order."""
    return tuple(demand for name, options in stages if name in _OF for demand in _OF[name](options))


def shortage(demands: Iterable[Demand], nodes: Sequence[Nodes]) -> str | None:
    """The first demand that these nodes can never meet, in words; None when they can meet each by itself."""
    for demand in demands:
        places = sum(group.places(demand) for group in nodes)
        if places < demand.count:
            gpus = sum(group.count * group.gpus for group in nodes)
            cpus = sum(group.count * group.cpus for group in nodes)
            num_nodes = sum(group.count for group in nodes)
            return (
                f"{demand}, but the cluster has room for {places}: {cpus:g} CPU and {gpus:g} GPU on {num_nodes} node(s)"
                f"{demand.instead}"
            )
    return None


def their_own_node(demands: Iterable[Demand]) -> str | None:
    """The first demand whose workers ask the loopback interface, in words; None when there is none."""
    for demand in demands:
        for url in demand.asks:
            host = urlsplit(url).hostname or ""
            with contextlib.suppress(ValueError):  # a name
                host = "localhost" if ip_address(host).is_loopback else host
            if host == "localhost":
                return f"{demand.stage}: its workers ask {url}"
    return None


def check(demands: Sequence[Demand]) -> None:
    """UserError when the cluster of the open Ray session can never meet one of the demands, as far as that is known,
    or when workers on several nodes would each ask their own node.

    A cluster that is too small now and grows when it is asked to is said in one line.
    """
    own = their_own_node(demands)
    if own is not None and (len(nodes_now()) > 1 or grows()):
        raise UserError(
            f"{own}, which is another machine on every node of this cluster; give base_url an address that all reach"
        )
    lack = shortage(demands, nodes_now())
    if lack is None:
        return
    if not grows():
        raise UserError(f"{lack}; ask for less, or use a larger cluster (docs/cluster.md)")
    most = nodes_at_most()
    lack_for_ever = None if most is None else shortage(demands, most)
    if lack_for_ever is not None:
        raise UserError(
            f"{lack_for_ever} at most; ask for less, or raise max_workers in the cluster file (maxReplicas on "
            "Kubernetes)"
        )
    print(f"{lack} now; waiting for the cluster to grow", file=sys.stderr)


def nodes_now() -> list[Nodes]:
    """The nodes that are there, as of the open Ray session."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Nodes(1, resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]


def grows() -> bool:
    """Whether an autoscaler may add nodes to the cluster of the open Ray session.

    A cluster without one is watched by a monitor that only reports: it makes up a type for every node.
    """
    import json

    from ray._private import ray_constants
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental import internal_kv

    if "RAY_ADDRESS" not in os.environ:
        return False  # a Ray of our own, on this machine
    if is_autoscaler_v2():
        return True
    status: bytes | None = internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)  # pyright: ignore[reportPrivateUsage]
    report = json.loads(status).get("autoscaler_report") if status else None
    return report is None or not all(name.startswith("node_") for name in report["active_nodes"])


def nodes_at_most() -> list[Nodes] | None:
    """The nodes that the cluster file, or KubeRay's RayCluster, allows; None where neither can be read."""
    import yaml

    path = BOOTSTRAP_FILE.expanduser()
    if path.is_file():
        return limits(yaml.safe_load(path.read_text()))
    name = os.environ.get("RAY_CLUSTER_NAME")  # set by the operator in every pod
    if name is None or not POD_NAMESPACE_FILE.is_file():
        return None
    return kubernetes_limits(name, POD_NAMESPACE_FILE.read_text().strip())


def kubernetes_limits(name: str, namespace: str) -> list[Nodes] | None:
    """The workers that RayCluster `name` allows; None when the pod may not read it or nothing answers."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        # Not by the autoscaler's own producer: what is not permitted it tries again for 20 s.
        manifest: dict[str, Any] = node_provider.KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except OSError:  # no token, no answer, not permitted: the errors of requests are some, too
        return None
    derive: Any = autoscaling_config._derive_autoscaling_config_from_ray_cr  # pyright: ignore[reportPrivateUsage]
    return limits(derive(manifest))


def limits(cluster_file: Mapping[str, Any]) -> list[Nodes]:
    """The workers that a Ray cluster file allows; the head takes none of our tasks."""
    most = cluster_file["max_workers"]
    found: list[Nodes] = []
    for name, node in cluster_file["available_node_types"].items():
        resources = node.get("resources", {})
        count = 0 if name == cluster_file["head_node_type"] else min(node.get("max_workers", most), most)
        found.append(Nodes(count, resources.get("CPU", 0), resources.get("GPU", 0)))
    return found
