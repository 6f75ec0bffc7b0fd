"""A hub that cannot be reached is one line, whatever its client's HTTP library makes of it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from s1 import schema
from s1.artifacts import Artifact, Manifest

COMMANDS = {
    "publish": (["jobs.publish", "--repo", "me/mine"], "'me/mine': the hub refused it ("),
    "collect": (["jobs.collect", "--source", "hub", "--hub.name", "me/mine"], "data set 'me/mine' (split 'train')"),
    "train": (["jobs.train", "--model", "me/mine"], "model 'me/mine' is not in the hub's cache and cannot be downl"),
}


def put(run_dir: Path) -> None:
    """SELECTION and QUESTIONS of one row."""
    row: dict[str, object] = {"question_id": "a", "question": "?", "answer": "1", "source": "files:a"}
    for name, table, more in (
        ("selection", schema.SELECTION, {"thinking": "…", "attempt": "1", "trace_tokens": 2, "pick_order": 0}),
        ("questions", schema.QUESTIONS, {"split": "train"}),
    ):
        with Artifact(str(run_dir / name)).staging() as staging:
            staging.write_table(schema.to_table([row | more], table))
            staging.commit(Manifest(name, name[0] * 16, {}, {}, "0", 1, 1))


def run(name: str, run_dir: Path, port: int) -> str:
    """What a job says about a hub at that port of this machine."""
    env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"}
    found = subprocess.run(
        [sys.executable, "-m", *COMMANDS[name][0], "--run-dir", str(run_dir / "run")],
        env={**env, "HF_HOME": str(run_dir / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 2, found.stderr
    (error,) = (line for line in found.stderr.splitlines() if line.startswith("error: "))
    return error


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is bound and refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def hangs_up() -> Iterator[int]:
    """A server that takes connections and closes them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # it is closed
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def test_publishing_is_refused_the_connection(tmp_path: Path):
    put(tmp_path / "run")
    with closed_port() as port:
        assert "Connection refused" in (said := run("publish", tmp_path, port)) and COMMANDS["publish"][1] in said
    assert Artifact(str(tmp_path / "run" / "published")).manifest() is None


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hub_that_hangs_up(tmp_path: Path, name: str):
    put(tmp_path / "run")
    with hangs_up() as port:
        assert COMMANDS[name][1] in run(name, tmp_path, port)
