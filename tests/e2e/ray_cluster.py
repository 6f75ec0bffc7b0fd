"""A Ray cluster on this machine that is a head alone and grows when it is asked to, and jobs submitted to it.

Its worker nodes are started and ended by the autoscaler that rents machines in a cloud as well (`local_machines`): each
has a raylet, an object store, agents, workers and a folder of its own.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from local_machines import LocalMachines
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Ray 2.60 asks every client of a cluster for its token; its own command line sends it only when told to. Nodes and jobs
# inherit all of it from the head.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parent)))),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": (TOKEN := secrets.token_hex(32)),
    "HF_HUB_OFFLINE": "1",
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "AUTOSCALER_METRIC_PORT": "0",  # any that is free
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_health_check_period_ms": "1000",
}
# A training that is stopped saves after its step; Ray would kill it after 3 s.
PATIENT = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
MIB = 2**20
MOST_NODES, NODE_CPUS, IDLE_MINUTES = 3, 1, 0.2
START_S, END_S, POLL_S = 600, 120, 0.5


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its job server listens, and the session that all of its processes belong to."""

    address: str
    session: int

    def ray(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`ray job …` against this cluster."""
        command = [str(BIN / "ray"), "job", *arguments]
        environment = {**ENVIRONMENT, "RAY_ADDRESS": self.address}
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    def submit(self, name: str, *entrypoint: str) -> None:
        """Submit the repository as it lies here, without waiting for the end of the job."""
        flags = ["--no-wait", "--submission-id", name, "--working-dir", ".", "--runtime-env-json", PATIENT]
        deadline = time.monotonic() + START_S
        while (done := self.ray("submit", *flags, "--", *entrypoint)).returncode != 0:
            said = done.stdout + done.stderr
            assert "No available agent" in said and time.monotonic() < deadline, said  # the job server comes last
            time.sleep(POLL_S)

    def stop(self, name: str) -> None:
        """`ray job stop`, which waits for the end of the job."""
        done = self.ray("stop", name)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self, name: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        headers = {"Authorization": f"Bearer {TOKEN}"}  # the command would take a second of a core each time
        return (
            httpx.get(f"{self.address}/api/jobs/{name}", headers=headers, timeout=300)
            .raise_for_status()
            .json()["status"]
        )

    def wait(self, name: str, timeout: float) -> str:
        """The status in which the job ends."""
        deadline = time.monotonic() + timeout
        while (status := self.status(name)) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return status

    def logs(self, name: str) -> str:
        return self.ray("logs", name).stdout

    def follow(self, name: str, timeout: float) -> str:
        """What `ray job logs --follow` shows until the job ends."""
        return self.ray("logs", "--follow", name, timeout=timeout).stdout

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of the cluster whose command line holds all of `words`."""
        return [process for process in processes(*words) if _session(process) == self.session]

    def worker_nodes(self) -> list[psutil.Process]:
        """The raylets of the nodes that the autoscaler has added."""
        of_head = self.processes("raylet/raylet ", "--head")
        return [raylet for raylet in self.processes("raylet/raylet ") if raylet not in of_head]

    def shrink(self, timeout: float) -> None:
        """Wait until the autoscaler has taken all worker nodes away."""
        deadline = time.monotonic() + timeout
        while nodes := self.worker_nodes():
            assert time.monotonic() < deadline, nodes
            time.sleep(POLL_S)

    def lose_node_of(self, worker: psutil.Process) -> None:
        """SIGKILL to the raylet whose worker this is and to all that belongs to that node, as on a lost machine.

        At once: workers notice only after a while that their raylet is gone, and go on with their work until then.
        """
        [raylet] = [node for node in self.worker_nodes() if node.pid == worker.ppid()]
        for process in (raylet, *raylet.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait(END_S)


@contextmanager
def cluster(folder: Path) -> Generator[Cluster]:
    """A cluster for the time of the block; everything that it started ends with it."""
    port, dashboard, agent, client = free_ports(4)
    # Of its own, so that no command finds this cluster by itself; short, because sockets lie there.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        file = folder / "cluster.json"
        file.write_text(json.dumps(cluster_file(f"{get_node_ip_address()}:{port}", temporary)))
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "0", "--disable-usage-stats"]
        command += ["--port", str(port), "--dashboard-port", str(dashboard)]
        command += ["--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)]
        command += ["--autoscaling-config", str(file), "--temp-dir", f"{temporary}/0"]
        command += ["--object-store-memory", str(300 * MIB)]
        log = folder / "ray.log"
        with log.open("w") as sink:
            head = subprocess.Popen(command, env=ENVIRONMENT, stdout=sink, stderr=sink, start_new_session=True)
        try:
            running = Cluster(f"http://127.0.0.1:{dashboard}", head.pid)
            deadline = time.monotonic() + START_S
            while running.ray("list").returncode != 0:
                assert head.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(POLL_S)
            yield running
        finally:
            # At once: a node that has lost workers may take its time, and nothing of it is needed any more.
            kill_session(head.pid)
            head.wait(END_S)


def cluster_file(gcs_address: str, disks: str) -> dict[str, Any]:
    """A head that takes no task, and workers that come when they are asked for and go when they are not."""
    head, worker = "ray.head.default", "worker"  # the head is called so by the provider
    node = {"node_config": {}, "min_workers": 0}
    commands = [f"{who}{what}" for who in ("head_", "worker_") for what in ("setup_commands", "start_ray_commands")]
    return {
        "cluster_name": "growing",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": f"{LocalMachines.__module__}.{LocalMachines.__name__}",
            "ray": str(BIN / "ray"),
            "disks": disks,
            "gcs_address": gcs_address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        # `ray up` would fill these in.
        **{name: {} for name in ("auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "initialization_commands", "setup_commands", *commands)},
        "head_node_type": head,
        "available_node_types": {
            head: {**node, "resources": {"CPU": 0}, "max_workers": 0},
            worker: {
                **node,
                "resources": {"CPU": NODE_CPUS, "object_store_memory": 200 * MIB},
                "max_workers": MOST_NODES,
            },
        },
    }


def processes(*words: str) -> list[psutil.Process]:
    """Processes whose command line holds all of `words`."""
    lines = ((process, " ".join(process.info["cmdline"] or ())) for process in psutil.process_iter(["cmdline"]))
    return [process for process, line in lines if all(word in line for word in words)]


def kill_session(session: int) -> None:
    """SIGKILL to every process of a session, and to those below its leader: drivers have sessions of their own."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        members = {process for process in psutil.process_iter() if _session(process) == session}
        with suppress(psutil.NoSuchProcess):
            members |= {*psutil.Process(session).children(recursive=True)}
        if not members:
            return
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, 1)


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None  # it has ended meanwhile


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
