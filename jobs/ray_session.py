"""The one place that starts Ray or joins a cluster."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jobs import capacity
from jobs.capacity import Demand
from jobs.termination import end_on_sigterm
from s1.errors import UserError

START_ATTEMPTS = 3
_TOO_SLOW = "timed out during startup"  # Ray waits for its own processes for 30 s, which cannot be set
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's job server for the driver of a submitted job
# Read by libraries when they are imported in a worker: their chatter would drown our progress lines.
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    # One line of Ray's own about every pool of actors ends up on the terminal otherwise.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Serve's controller ends itself while it is asked to, and a sentinel (serve/watcher.py) while it is waited for:
    # every regular end would be reported as a failed task.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"ServeController\.graceful_shutdown|Sentinel\.wait",
}


def run_folder(run_dir: str) -> str:
    """Where `run_dir` lies. A submitted job runs in a copy of the working directory that the cluster throws away with
    the job: there a relative folder is meant to be under the home folder, so that the next job finds it again.
    """
    submitted = _SUBMITTED in os.environ
    if not submitted or "://" in run_dir or Path(run_dir).expanduser().is_absolute():
        return run_dir
    return str(Path.home() / run_dir)


def joins_cluster() -> bool:
    """Whether a session joins a cluster that runs already; otherwise it starts a Ray on this machine."""
    return "RAY_ADDRESS" in os.environ  # set by Ray's job server for the driver


@contextmanager
def ray_session(*demands: Demand) -> Generator[None]:
    """Ray for the time of the block; UserError when it can never give what is asked of it.

    Under `ray job submit`, or with RAY_ADDRESS set, this joins that cluster; otherwise it starts a local one and ends
    it again. A session that is open already is shared, so that the pipeline starts Ray once.
    """
    for name, value in QUIET.items():  # some are read when Ray is imported
        os.environ.setdefault(name, value)
    # How often Ray Data starts an actor again can be said in no other way yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    import ray

    if ray.is_initialized():
        capacity.check(demands)
        yield
        return
    _start(os.environ.get("RAY_ADDRESS", "local"))
    end_on_sigterm()
    try:
        capacity.check(demands)
        yield
    finally:
        ray.shutdown()


def _start(address: str) -> None:
    """Start a local Ray, or join the one at `address`; a local one has a few tries on a machine that is busy."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with _without_lines_of("RAY_BACKEND_LOG_LEVEL"):
                ray.init(
                    address=address,
                    # A cluster that runs already decides about its dashboard itself.
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": _worker_environment()},
                )
            return
        except Exception as error:  # Ray has no type for it
            if _TOO_SLOW not in str(error):
                raise
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise UserError(
                    f"Ray did not start in {START_ATTEMPTS} tries of 30 s: this machine has too much else to do; try "
                    "again when it has less"
                ) from error
            print("Ray did not start within 30 s; once more", file=sys.stderr)


def _worker_environment() -> dict[str, str]:
    """QUIET for the workers, without what the job was submitted with: Ray refuses a variable that both of them set."""
    submitted = json.loads(os.environ.get(_SUBMITTED, "{}"))
    given = (submitted.get("runtime_env") or {}).get("env_vars") or {}
    return {name: os.environ[name] for name in QUIET if name not in given}


@contextmanager
def _without_lines_of(words: str) -> Generator[None]:
    """Keep back lines with `words` that native code writes to standard error within the block; show all others."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            os.write(2, b"".join(line for line in caught if words.encode() not in line))
