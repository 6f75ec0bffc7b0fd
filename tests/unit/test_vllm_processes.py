import os
import subprocess
import sys
import time

import psutil
import pytest

from s1.vllm_processes import EngineProcesses, last_error

# Starts one process as a program and one as a copy of itself, and says their numbers; then stays, still starting.
LOADING = """
import os, subprocess, sys, time
from s1.vllm_processes import EngineProcesses
processes = EngineProcesses()
with processes.starting():
    program = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    if not (copy := os.fork()):
        os.close(1)
        time.sleep(600)
    while not {program.pid, copy} <= processes.told:
        time.sleep(0.01)
    print(program.pid, copy, flush=True)
    time.sleep(0 if "loaded" in sys.argv else 600)
if "closed" in sys.argv:
    processes.close()
print("loaded", flush=True)
time.sleep(600)
"""


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("states", [[], ["loaded"]])
def test_what_an_engine_started_is_gone_when_its_process_is_killed(states):
    with subprocess.Popen([sys.executable, "-c", LOADING, *states], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        if states:
            assert process.stdout.readline() == "loaded\n"
        assert all(map(is_alive, pids))
        process.kill()
        wait_until_gone(pids)


def test_a_closed_engine_is_left_to_end_by_itself():
    arguments = [sys.executable, "-c", LOADING, "loaded", "closed"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "loaded\n"
        process.kill()
        process.wait()
        try:
            assert all(map(is_alive, pids))
        finally:
            for pid in pids:
                os.kill(pid, 9)


LOG = """\
(EngineCore pid=7) ERROR 11-28 22:11:11 [core.py:1] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-28 22:11:11 [core.py:1] Traceback (most recent call last):
(Worker_TP0 pid=9) ERROR 11-28 22:11:11 [multiproc_executor.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried
(EngineCore pid=7) ERROR 11-28 22:11:11 [core.py:1] Exception: WorkerProc initialization failed due to an exception \
in a background process. See stack trace for root cause.
"""


def test_the_cause_of_a_failed_start_is_the_last_error_that_is_one():
    assert last_error(LOG.splitlines()) == "torch.OutOfMemoryError: CUDA out of memory. Tried"
    assert last_error(["all is well", "ERROR: no", "  raise ValueError(x)"]) is None


FAILING = """
import subprocess, sys
from s1.vllm_processes import EngineProcesses, StartFailed
print("ValueError: of long ago", file=sys.stderr, flush=True)
try:
    with EngineProcesses().starting():
        subprocess.run([sys.executable, "-c", sys.argv[1]])
        raise RuntimeError("Engine core initialization failed. See root cause above.")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_why_an_engine_did_not_start_is_told_with_the_place_of_its_log(tmp_path):
    def said(child):
        log = tmp_path / "worker.err"
        with log.open("a") as stderr:
            command = [sys.executable, "-c", FAILING, child]
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True).stdout

    told = said("raise MemoryError('the weights do not fit')")
    assert told.startswith("StartFailed: MemoryError: the weights do not fit; see ")
    assert str(tmp_path / "worker.err") in told
    # Killed without a word: what was said before the start is not its cause.
    assert said("") == "RuntimeError: Engine core initialization failed. See root cause above.\n"


def test_an_error_that_tells_its_cause_stays_as_it_is():
    with pytest.raises(ValueError, match="no_such_setting"), EngineProcesses().starting():
        raise ValueError("no_such_setting")
