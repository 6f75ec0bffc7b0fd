"""A Ray cluster of one node, as `ray start --head` makes it, and jobs submitted to it as users submit them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Ray 2.60 asks every client of a cluster for its token; its own command line sends it only when told to.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
    "HF_HUB_OFFLINE": "1",
}
START_S, POLL_S = 90, 0.5
STATUS_S = 3  # `ray job status` takes a second of a core each time


@dataclass(frozen=True)
class Cluster:
    """Where the job server of a running cluster listens."""

    address: str

    def ray(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`ray job …` against this cluster."""
        command = [str(BIN / "ray"), "job", *arguments]
        environment = {**ENVIRONMENT, "RAY_ADDRESS": self.address}
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    def submit(self, name: str, *entrypoint: str) -> None:
        """Submit the repository as it lies here, without waiting for the end of the job."""
        done = self.ray("submit", "--no-wait", "--submission-id", name, "--working-dir", ".", "--", *entrypoint)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self, name: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        text = self.ray("status", name).stdout
        return next((word for word in ("SUCCEEDED", "FAILED", "STOPPED", "RUNNING") if word in text.upper()), "PENDING")

    def wait(self, name: str, timeout: float) -> str:
        """The status in which the job ends."""
        deadline = time.monotonic() + timeout
        while (status := self.status(name)) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
            time.sleep(STATUS_S)
        return status

    def logs(self, name: str) -> str:
        return self.ray("logs", name).stdout


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A head node for the time of the block; everything that it started ends with it."""
    port, dashboard, agent, client = free_ports(4)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2", "--disable-usage-stats"]
    command += ["--port", str(port), "--dashboard-port", str(dashboard), "--dashboard-agent-listen-port", str(agent)]
    command += ["--ray-client-server-port", str(client)]
    log = folder / "ray.log"
    with log.open("w") as sink:
        head = subprocess.Popen(command, env=ENVIRONMENT, stdout=sink, stderr=sink, start_new_session=True)
    try:
        running = Cluster(f"http://127.0.0.1:{dashboard}")
        deadline = time.monotonic() + START_S
        while running.ray("list").returncode != 0:
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_S)
        yield running
    finally:
        head.terminate()
        # A node that has lost workers to kills may take its time; nothing of it is needed any more.
        with suppress(subprocess.TimeoutExpired):
            head.wait(15)
        kill_group(head.pid)
        head.wait(15)


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


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


def processes(*words: str) -> list[int]:
    """Process ids whose command line holds all of `words`."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if all(word in line for word in words):
            found.append(int(folder.name))
    return found
