"""What docs/cluster.md says to run fits the clusters of the files, and what it says to set up is what they use."""

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import CLOUDS, CLUSTER, MANIFESTS, ROOT, autoscaling_config, launched, load, ray_cluster_spec

from jobs import capacity, pipeline
from jobs.capacity import Demand

PAGE = (ROOT / "docs" / "cluster.md").read_text()
GROUP = "ray-autoscaler-s1"


def documented() -> list[str]:
    """Arguments of the pipeline that the page submits to a cluster."""
    (command,) = re.findall(r"--no-wait -- \\\n\s*python -m jobs\.pipeline ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    return command.replace("\\\n", " ").split()


def on_one_node() -> list[str]:
    """The same with what the page adds for one H100 node."""
    (added,) = re.findall(r"If you have one H100 node only, add\s+`([^`]+)`", PAGE)
    return [*documented(), *added.split()]


def demands(arguments: list[str]) -> tuple[Demand, ...]:
    return capacity.of_stages((job.name, stage) for job, stage in pipeline.parse(arguments).stages())


@pytest.mark.parametrize("name", [*CLOUDS, "raycluster.yaml", "rayjob.yaml"])
def test_the_documented_run_trains_on_one_node_and_every_stage_finds_room(name: str):
    config = autoscaling_config(name)
    for demand in demands(documented()):
        nodes, unplaced = launched(config, demand, gang=demand.stage == "train")
        assert unplaced == 0, demand
        if demand.stage == "train":
            assert (demand.count * demand.gpus, list(nodes.values())) == (8, [1])


@pytest.mark.parametrize("name", CLOUDS)
def test_one_node_will_do_with_the_documented_options(name: str):
    config = copy.deepcopy(autoscaling_config(name))
    config["available_node_types"]["h100_on_demand"]["max_workers"] = 1
    assert capacity.shortage(demands(documented()), capacity.limits(config)) is not None
    assert capacity.shortage(demands(on_one_node()), capacity.limits(config)) is None


def test_the_kubernetes_job_runs_what_the_page_submits():
    assert load("kuberay/rayjob.yaml")["spec"]["entrypoint"].split()[3:] == documented()


def test_the_costs_of_the_shipped_files_are_those_of_the_documented_run():
    rows = re.findall(r"^\| \*\*`(\w+\.yaml)`\*\*.*`python -m jobs\.plan ([^`]*)`", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(CLOUDS)
    run = documented()
    for _, arguments in rows:
        of_the_run = arguments.split(" --train.hardware.")[0].split()
        assert of_the_run == run[: run.index("--run-dir")]


def filled(**values: str) -> dict[str, Any]:
    """The AWS file with its places filled in, as its reader sees it."""
    text = (CLUSTER / "aws.yaml").read_text()
    for place, value in values.items():
        assert f"{place}-CHANGE-ME" in text
        text = text.replace(f"{place}-CHANGE-ME", value)
    return yaml.load(text, Loader=yaml.CSafeLoader)


def test_rays_provider_starts_all_nodes_in_one_zone_and_in_the_group_of_the_file_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """In a simulated EC2, by the steps of the page; Ray's own code finds subnets, group and rules."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "simulated")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key for SSH there
    assert f"--group-name {GROUP}" in PAGE
    with mock_aws():
        ec2, iam = boto3.client("ec2", "us-east-1"), boto3.client("iam", "us-east-1")
        # Of an earlier cluster: Ray would wait half a minute for new ones.
        iam.create_role(RoleName=aws.DEFAULT_RAY_IAM_ROLE, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=aws.DEFAULT_RAY_INSTANCE_PROFILE)
        iam.add_role_to_instance_profile(
            InstanceProfileName=aws.DEFAULT_RAY_INSTANCE_PROFILE, RoleName=aws.DEFAULT_RAY_IAM_ROLE
        )
        group = ec2.create_security_group(GroupName=GROUP, Description="of the page")["GroupId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        config = aws.bootstrap_aws(prepare_config(filled(ami=image, **{"us-east-1": "us-east-1b"})))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            (started,) = provider.create_node(node["node_config"], {"ray-user-node-type": name}, 1).values()
            assert started.placement["AvailabilityZone"] == "us-east-1b", name
            assert [one["GroupId"] for one in started.security_groups] == [group], name
        (rules,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
        among_members = [rule for rule in rules["IpPermissions"] if rule["IpProtocol"] == "-1"]
        assert [pair["GroupId"] for rule in among_members for pair in rule["UserIdGroupPairs"]] == [group]


def test_region_and_zone_are_the_same_in_all_places():
    aws, gcp = load("aws.yaml"), load("gcp.yaml")
    assert "," not in aws["provider"]["availability_zone"]
    assert f".efs.{aws['provider']['region']}.amazonaws.com:" in " ".join(aws["initialization_commands"])
    zone = gcp["provider"]["availability_zone"]
    assert "," not in zone and zone.startswith(gcp["provider"]["region"])
    disks = [disk for node in gcp["available_node_types"].values() for disk in node["node_config"]["disks"]]
    assert {disk["initializeParams"]["diskType"].split("/")[1] for disk in disks} == {zone}
    assert f"gcloud filestore instances create s1 --zone {zone}" in PAGE


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_head_gives_the_shared_folder_to_the_user_of_the_image(name: str):
    image = (CLUSTER / "Containerfile").read_text()
    user = re.search(r"useradd .*--uid (\d+) --gid (\d+) (\w+)", image)
    assert user and f"USER {user[3]}" in image
    pod = ray_cluster_spec(load(f"kuberay/{name}"))["headGroupSpec"]["template"]["spec"]
    (first,) = pod["initContainers"]
    assert first["securityContext"] == {"runAsUser": 0}
    (mount,) = first["volumeMounts"]
    assert mount in pod["containers"][0]["volumeMounts"]
    assert f"chown {user[1]}:{user[2]} {mount['mountPath']}" in first["command"][-1]


def test_the_image_does_without_a_cuda_toolkit_and_finds_the_driver_on_gke():
    text = (CLUSTER / "Containerfile").read_text()
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in text
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None and vllm.submodule_search_locations
    known = (Path(vllm.submodule_search_locations[0]) / "envs.py").read_text()
    switches = re.findall(r"\b(VLLM_\w+)=0\b", text)
    assert "VLLM_USE_FLASHINFER_SAMPLER" in switches
    assert all(f'"{switch}"' in known for switch in switches)
