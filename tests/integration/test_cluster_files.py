"""The cluster files pass the checks of the tools that read them, and hold what the presets ask for."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_files import (
    CLOUDS,
    CLUSTER,
    MANIFESTS,
    ROOT,
    autoscaling_config,
    launched,
    load,
    ray_cluster_spec,
    strict_crd,
    worker_types,
)

from jobs import capacity, pipeline
from jobs.capacity import Demand
from serve.options import AppOptions

EVERYTHING = [*CLOUDS, "raycluster.yaml", "rayjob.yaml"]
PRESETS = ["s1", "s1.1"]
RAYS_DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
SERVE_FILES = sorted(path.name for path in CLUSTER.glob("serve.*.yaml"))


@pytest.fixture(scope="module", params=[*CLOUDS, *MANIFESTS])
def named_config(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, autoscaling_config(request.param)


def demands(preset: str) -> tuple[Demand, ...]:
    return capacity.of_stages((job.name, stage) for job, stage in pipeline.parse(["--preset", preset]).stages())


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cluster_file_passes_rays_own_check(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


def test_ec2_takes_the_nodes_of_the_aws_file():
    """By the published model of EC2's interface: Ray's schema leaves `node_config` open."""
    from botocore.session import Session
    from botocore.validate import ParamValidator

    shape: Any = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    nodes = {name: node["node_config"] for name, node in load("aws.yaml")["available_node_types"].items()}
    for name, node in nodes.items():
        faults = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
        assert not faults.has_errors(), f"{name}: {faults.generate_report()}"
        assert node["InstanceType"] in shape.members["InstanceType"].enum
        market = node.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == ("spot" if name.endswith("_spot") else None)
    wrong = {**nodes["head"], "InstanceTyp": "m7i.2xlarge", "MinCount": 1, "MaxCount": 1}
    assert ParamValidator().validate(wrong, shape).has_errors()


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_passes_the_schema_of_the_operator(name: str):
    manifest = load(f"kuberay/{name}")
    jsonschema.Draft202012Validator(strict_crd(manifest["kind"])).validate(manifest)


def test_the_check_of_manifests_finds_a_typo():
    manifest = load("kuberay/raycluster.yaml")
    group = manifest["spec"]["workerGroupSpecs"][0]
    group["maxReplica"] = group.pop("maxReplicas")
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.Draft202012Validator(strict_crd("RayCluster")).validate(manifest)


def test_the_cluster_is_a_head_alone_until_it_is_asked_for_more(named_config: tuple[str, dict[str, Any]]):
    _, config = named_config
    types, workers = config["available_node_types"], worker_types(config)
    head = types[config["head_node_type"]]["resources"]
    assert head["CPU"] == 0 and "GPU" not in head
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert sum(node["max_workers"] for node in workers.values()) <= config["max_workers"]


def test_two_nodes_of_eight_gpus_at_most_on_demand_or_spot(named_config: tuple[str, dict[str, Any]]):
    _, config = named_config
    workers = worker_types(config)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for name, node in workers.items():
        by_kind.setdefault(re.split("[_-]", name)[0], []).append(node)
    assert set(by_kind) <= {"cpu", "h100"}
    for kind, variants in by_kind.items():
        wanted, other = sorted(variants, key=lambda node: -node["max_workers"])
        assert wanted["resources"] == other["resources"]
        assert (wanted["max_workers"], other["max_workers"]) == ({"cpu": 8, "h100": 2}[kind], 0)
        assert wanted["resources"].get("GPU", 0) == (8 if kind == "h100" else 0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_rays_scheduler_finds_room_for_every_stage(name: str, preset: str):
    config = autoscaling_config(name)
    for demand in demands(preset):
        nodes, unplaced = launched(config, demand, gang=demand.stage == "train")
        assert unplaced == 0, demand
        expected = {"h100_on_demand"} if demand.gpus else {"cpu_spot"}
        assert {name.replace("-", "_") for name in nodes} == expected, demand


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_the_training_takes_sixteen_gpus_on_two_nodes_of_eight(name: str, preset: str):
    (train,) = [demand for demand in demands(preset) if demand.stage == "train"]
    assert (train.count, train.gpus) == (16, 1)
    nodes, unplaced = launched(autoscaling_config(name), train, gang=True)
    assert (list(nodes.values()), unplaced) == ([2], 0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_more_than_the_cluster_has_is_told_by_the_scheduler_and_by_us(name: str):
    config = autoscaling_config(name)
    too_much = Demand("train", "workers", 17, 8, 1)
    assert launched(config, too_much, gang=True)[1] == 17
    said = capacity.shortage([too_much], capacity.limits(config))
    assert said is not None and "train.workers=17" in said and "room for 16" in said and "16 GPU" in said


def test_on_kubernetes_the_limits_are_those_of_the_raycluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ray's client answers with the manifest that the operator holds; the real one wants HTTPS with the pod's keys."""
    import requests
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    (tmp_path / "namespace").write_text("default")
    monkeypatch.setattr(capacity, "BOOTSTRAP_FILE", tmp_path / "none")
    monkeypatch.setattr(capacity, "POD_NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "s1")
    manifest = load("kuberay/raycluster.yaml")
    manifest["metadata"]["namespace"] = "default"
    asked: list[str] = []

    def get(_: Any, path: str) -> dict[str, Any]:
        asked.append(path)
        return manifest

    def refuse(_: Any, path: str) -> dict[str, Any]:
        raise requests.HTTPError("403 Forbidden")

    monkeypatch.setattr(KubernetesHttpApiClient, "get", get)
    assert capacity.nodes_at_most() == capacity.limits(autoscaling_config("raycluster.yaml"))
    assert asked == ["rayclusters/s1"]
    monkeypatch.setattr(KubernetesHttpApiClient, "get", refuse)
    assert capacity.nodes_at_most() is None
    monkeypatch.undo()
    monkeypatch.setattr(capacity, "BOOTSTRAP_FILE", tmp_path / "none")
    assert capacity.nodes_at_most() is None  # no pod


def test_the_service_finds_room_for_what_it_serves():
    service = yaml.safe_load(load("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])
    (application,) = service["applications"]
    options = AppOptions.model_validate(application["args"])
    gpus = options.engine.tensor_parallel_size if options.engine.device == "gpu" else 0
    engines = Demand("serve", "num_replicas", options.num_replicas, options.num_cpus, gpus)
    nodes, unplaced = launched(autoscaling_config("rayservice.yaml"), engines, gang=False)
    assert (nodes, unplaced) == ({"h100-on-demand": engines.count}, 0)
    http = Demand("serve", "ingress_replicas", options.ingress_replicas, options.ingress_cpus)
    assert launched(autoscaling_config("rayservice.yaml"), http, gang=False)[1] == 0
    one_more = replace(engines, gpus=gpus + 1)
    assert launched(autoscaling_config("rayservice.yaml"), one_more, gang=False)[1] == engines.count


def test_the_service_lets_long_thinking_finish():
    manifest = load("kuberay/rayservice.yaml")
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    drain_s = AppOptions.model_validate(application["args"]).drain_timeout_s
    assert manifest["spec"]["rayClusterDeletionDelaySeconds"] >= drain_s
    spec = ray_cluster_spec(manifest)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (of_ray,) = (float(one["value"]) for one in container["env"] if one["name"] == RAYS_DRAIN)
        assert pod["terminationGracePeriodSeconds"] > of_ray >= drain_s


def test_ray_reads_how_long_its_nodes_drain():
    from ray._private import ray_constants

    assert hasattr(ray_constants, RAYS_DRAIN)


def test_the_manifests_agree_with_each_other():
    specs = {name: without_drain(ray_cluster_spec(load(f"kuberay/{name}"))) for name in MANIFESTS}
    whole = specs.pop("raycluster.yaml")
    groups = {group["groupName"]: group for group in whole["workerGroupSpecs"]}
    assert len(groups) == 4
    for spec in specs.values():
        assert {key: value for key, value in spec.items() if key != "workerGroupSpecs"} == {
            key: value for key, value in whole.items() if key != "workerGroupSpecs"
        }
        for group in spec["workerGroupSpecs"]:
            assert group == groups[group["groupName"]]
    names = [[group["groupName"] for group in spec["workerGroupSpecs"]] for spec in specs.values()]
    assert names == [list(groups), ["h100-on-demand", "h100-spot"]]


def without_drain(spec: dict[str, Any]) -> dict[str, Any]:
    """`spec` without what the service alone has: time for its pods to end what they have begun."""
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod.pop("terminationGracePeriodSeconds", None)
        for container in pod["containers"]:
            container["env"] = [one for one in container["env"] if one["name"] != RAYS_DRAIN]
    return spec


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_pod_has_the_keys_of_the_one_secret_if_there_is_one(name: str):
    spec = ray_cluster_spec(load(f"kuberay/{name}"))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "s1-keys", "optional": True}}]


def test_versions_are_those_of_the_project():
    import ray

    project = (ROOT / "pyproject.toml").read_text()
    assert f"ray[train,data,serve]=={ray.__version__}" in project
    for name in MANIFESTS:
        spec = ray_cluster_spec(load(f"kuberay/{name}"))
        assert spec["rayVersion"] == ray.__version__
        containers = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        images = {group["template"]["spec"]["containers"][0]["image"] for group in containers}
        version = re.search(r'^version = "(.*)"', project, re.MULTILINE)
        assert version and images == {f"CHANGE-ME/s1-on-ray:{version[1]}"}


def test_the_job_runs_a_command_that_the_pipeline_accepts():
    entrypoint = load("kuberay/rayjob.yaml")["spec"]["entrypoint"].split()
    assert entrypoint[:3] == ["python", "-m", "jobs.pipeline"]
    options = pipeline.parse(entrypoint[3:])
    mounts = ray_cluster_spec(load("kuberay/rayjob.yaml"))["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert options.run_dir.startswith(mounts["volumeMounts"][0]["mountPath"] + "/")


@pytest.mark.parametrize("name", CLOUDS)
def test_what_is_to_be_filled_in_is_named_at_the_top(name: str):
    text = (CLUSTER / name).read_text()
    head, body = text.split("cluster_name:")
    assert "CHANGE-ME" in head
    filled = yaml.safe_load(body.replace("CHANGE-ME", "x1") and text.replace("CHANGE-ME", "x1"))
    assert "CHANGE" not in yaml.safe_dump(filled)


@pytest.mark.parametrize("name", SERVE_FILES)
def test_a_serve_file_passes_serves_own_check_and_ours(name: str):
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(load(name))
    (application,) = config.applications
    assert application.import_path == "serve.app:build"
    AppOptions.model_validate(application.args)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_served_as_it_was_evaluated(preset: str):
    options = pipeline.parse(["--preset", preset])
    (application,) = load(f"serve.{preset}.yaml")["applications"]
    served = AppOptions.model_validate(application["args"])
    assert served.engine == options.evaluate.serve.engine
    assert served.num_cpus == options.evaluate.serve.num_cpus
    assert served.engine.tensor_parallel_size == 8
    assert served.models == {preset: f"/mnt/s1/{options.run_dir}/checkpoint"}


def test_the_service_serves_what_the_serve_file_serves():
    service = yaml.safe_load(load("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])
    assert service["applications"] == load("serve.s1.yaml")["applications"]


def test_the_container_file_copies_what_the_project_ships():
    text = (CLUSTER / "Containerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    project = (ROOT / "pyproject.toml").read_text()
    include = re.search(r"include = \[(.*)\]", project[project.index("packages.find") :])
    assert include
    packages = {name.strip(' "*') for name in include[1].split(",")}
    assert packages | {"requirements.gpu.lock", "pyproject.toml", "README.md", "LICENSE"} == copied


def test_the_monitoring_reads_what_ray_writes():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    prometheus = load("monitoring/prometheus.yaml")
    jobs = {job.pop("job_name"): job for job in prometheus["scrape_configs"]}
    assert jobs["ray"] == {"file_sd_configs": [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]}
    http = load("serve.s1.yaml")["http_options"]
    assert jobs["serve"] == {"static_configs": [{"targets": [f"{http['host']}:{http['port']}"]}]}


def test_the_monitoring_mounts_what_it_reads():
    services = load("monitoring/compose.yaml")["services"]
    mounts = [volume.split(":")[:2] for service in services.values() for volume in service["volumes"]]
    assert all((CLUSTER / "monitoring" / source).exists() for source, _ in mounts if source.startswith("."))
    paths = [provider["options"]["path"] for provider in load("monitoring/dashboards.yaml")["providers"]]
    assert all(any(path.startswith(target) for _, target in mounts) for path in paths)
    (source,) = load("monitoring/grafana.yaml")["datasources"]
    assert source["url"].removeprefix("http://") in services["prometheus"]["command"][1]


def test_alerts_ask_for_metrics_that_ray_exports():
    rules = load("monitoring/alerts.yaml")
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    asked = {name for text in expressions for name in re.findall(r"\b(?:ray|autoscaler)_\w+", text)}
    assert asked and asked <= exported_metrics()


def exported_metrics() -> set[str]:
    """Names that Ray's own dashboards draw."""
    import ray

    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    panels = [path.read_text() for path in folder.glob("*_panels.py")]
    return {name for text in panels for name in re.findall(r"\b(?:ray|autoscaler)_\w+", text)}
