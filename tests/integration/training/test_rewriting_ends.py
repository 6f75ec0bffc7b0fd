"""What rewrites shards ends with the worker that started it, with all of its processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from actors import rewrite_shards

# A pool as DeepSpeed's, which says who is in it and then works for ever.
REWRITER = """
import os, time
from concurrent.futures import ProcessPoolExecutor
import rewrite_shards

def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece
    time.sleep(3600)

rewrite_shards.end_with_parent()
os.write(1, b"%d\\n" % os.getpid())  # in one piece
with ProcessPoolExecutor(2) as pool:
    list(pool.map(work, range(2)))
"""
WORKER = "import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]])"


def works(process: psutil.Process) -> bool:
    """Whether it is there, and not only as an entry that nobody has read yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.timeout(60)  # what is left would be left for ever
def test_no_process_is_left_when_the_worker_is_killed(tmp_path):
    (tmp_path / "rewriter.py").write_text(REWRITER)
    environment = {**os.environ, "PYTHONPATH": str(Path(rewrite_shards.__file__).parent)}
    command = [sys.executable, "-c", WORKER, str(tmp_path / "rewriter.py")]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    started = [psutil.Process(int(worker.stdout.readline())) for _ in range(3)]
    worker.kill()
    worker.wait()
    try:
        while any(map(works, started)):
            time.sleep(0.1)
    finally:
        for process in filter(works, started):
            process.kill()
