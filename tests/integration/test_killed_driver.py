"""What a driver has deployed on a cluster that stays goes with the driver; what others have deployed does not."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from chain_model import write_chain_model
from process_tree import below

from jobs.ray_session import ray_session
from serve.watcher import running

Result = TypeVar("Result")
BOUND_S = 600  # no measurement: only to end at all
DRIVER = """
import sys

from jobs.ray_session import ray_session
from serve.app import deployed
from serve.engine import EngineOptions
from serve.options import AppOptions

engine = EngineOptions(max_model_len=256, kv_cache_gib=0.1)
options = AppOptions(models={"m": sys.argv[1]}, engine=engine, num_cpus=0.2, sampler_replicas=0)
with ray_session(), deployed(options.models, options, timeout_s=600) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    write_chain_model(folder, " one", " two", then=" one")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Generator[Any]:
    """A cluster that this process has joined, as drivers do."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        with ray_session():
            yield cluster
    cluster.shutdown()


@pytest.fixture
def start(cluster, model) -> Generator[Callable[[], subprocess.Popen[str]]]:
    """Starts a driver that deploys the model until its input ends."""
    with ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            command = [sys.executable, "-c", DRIVER, str(model)]
            driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(driver)
            stack.callback(driver.kill)
            return driver

        yield start


def wait_for(what: Callable[[], Result]) -> Result:
    deadline = time.monotonic() + BOUND_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def applications() -> dict[str, Any]:
    from ray import serve

    return {} if running() is None else serve.status().applications


def url_of(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def answers(url: str) -> bool:
    return httpx.get(f"{url}/models", timeout=300).status_code == 200


def nothing_is_left() -> bool:
    """No actor that outlives a driver, and no process of one."""
    from ray.util import list_named_actors

    named = list_named_actors(all_namespaces=True)
    return not named and not below("ray::Serve", "ray::Proxy", "ray::Watcher", "ray::Sentinel")


def test_what_a_killed_driver_has_deployed_goes_and_what_another_one_has_deployed_stays(start):
    killed = start()
    url = url_of(killed)
    (name,) = applications()
    other = start()
    url_of_other = url_of(other)
    assert url_of_other.startswith(url.removesuffix("/v1"))  # on the same Serve
    assert below(f":{name}:engine")

    before = {process.pid for process in below("ray::Sentinel")}
    assert len(before) == 2
    for process in below("ray::Sentinel"):
        process.kill()  # says nothing about the drivers
    wait_for(lambda: len({process.pid for process in below("ray::Sentinel")} - before) == 2)
    assert answers(url) and answers(url_of_other)

    killed.kill()
    wait_for(lambda: name not in applications() and not below(f":{name}:"))
    assert answers(url_of_other)
    other.communicate()
    assert other.returncode == 0
    wait_for(nothing_is_left)


def test_a_driver_that_is_killed_while_its_models_start_leaves_nothing(start):
    driver = start()
    wait_for(applications)
    driver.kill()
    wait_for(nothing_is_left)


def test_a_driver_that_is_told_to_go_leaves_nothing(start):
    driver = start()
    assert answers(url_of(driver))
    driver.terminate()
    driver.wait(BOUND_S)
    wait_for(nothing_is_left)
