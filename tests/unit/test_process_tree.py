"""Looking for processes while they come and go."""

import os
import subprocess
import sys
import time

import psutil
from process_tree import below


def test_a_process_that_has_ended_and_was_not_waited_for_is_left_out():
    there = subprocess.Popen([sys.executable, "-c", "input()", "s1-looked-for"], stdin=subprocess.PIPE)
    ended = subprocess.Popen([sys.executable, "-c", "", "s1-looked-for"])
    deadline = time.monotonic() + 60
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        assert [process.pid for process in below("s1-looked-for")] == [there.pid]
        assert below("s1-looked-for", root=psutil.Process(there.pid)) == []
    finally:
        there.communicate(os.linesep.encode())
        ended.wait()
