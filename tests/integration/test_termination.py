"""A job that is told to go, by Ctrl-C or SIGTERM, says one line and takes its Ray with it."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

# Ray is there, and the job waits for it, as a job does for most of its time.
JOB = """
import ray
from jobs import cli
from jobs.ray_session import ray_session

@ray.remote
def wait():
    import time
    print("begun", flush=True)
    time.sleep(600)

def run():
    with ray_session():
        waiting = wait.remote()
        print("waiting", flush=True)
        ray.get(waiting)

cli.main(run)
"""


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 143, "terminated: what was finished is kept; run the same command again to go on\n"),
        (signal.SIGINT, 130, "interrupted: what was finished is kept; run the same command again to go on\n"),
    ],
)
def test_a_job_that_is_told_to_go_says_so_and_leaves_nothing_running(number: signal.Signals, code: int, line: str):
    command = [sys.executable, "-c", JOB]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal, also when the tests run in the background, where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "waiting\n"
        started = psutil.Process(job.pid).children(recursive=True)
        assert started
        os.kill(job.pid, number)
        _, complaints = job.communicate(timeout=600)
    assert job.returncode == code
    assert complaints == line
    _, alive = psutil.wait_procs(started, timeout=300)
    assert not alive, alive
