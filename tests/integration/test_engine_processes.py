"""Engines of the solver and of the teacher: what they leave behind when killed, and what becomes of their work."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
from chain_model import write_chain_model
from process_tree import below

# Each starts an engine, says so, and does what it is told, line by line.
SOLVER = """
import sys
import pyarrow as pa
from actors.solver import Solver, SolverOptions
if __name__ == "__main__":
    solver = Solver(sys.argv[1], SolverOptions(max_tokens=8, max_model_len=128, max_num_seqs=4, kv_cache_gib=0.1))
    print("started", flush=True)
    for line in sys.stdin:
        print(solver(pa.table({"question": [line]}))["solver_attempt"].to_pylist(), flush=True)
"""
TEACHER = """
import asyncio, json, sys
from s1.teachers.protocol import Question
from s1.teachers.vllm import Vllm, VllmTeacher
engine = {"max_model_len": 128, "enforce_eager": True, "max_num_seqs": 4}
settings = Vllm(model=sys.argv[1], temperature=0, max_tokens=20, engine=engine)
async def main():
    teacher = VllmTeacher(settings)
    await teacher.trace(Question("0" * 16, "hm"))
    print("started", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        outcome = await teacher.trace(Question("1" * 16, line))
        print(json.dumps([outcome.status, outcome.attempt, outcome.detail]), flush=True)
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_chain_model(folder, "\n", "hmm", "</think>", "seven", "<|im_end|>")
    return folder


@contextmanager
def started(script, model):
    # The solver, too, as on GPUs: its engine in a process of its own.
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    file = model / f"{len(list(model.glob('*.py')))}.py"
    file.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(file), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert next(line for line in process.stdout if not line.startswith("(")) == "started\n"
        (engine,) = below("EngineCore", root=psutil.Process(process.pid))
        yield process, engine
    finally:
        process.kill()
        process.wait()


def ask(process, question):
    """What it says to that, in a minute at most; nothing when it has ended."""
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    readable, _, _ = select.select([process.stdout], [], [], 60)
    assert readable, "no answer"
    return process.stdout.readline()


def wait_until_gone(process):
    deadline = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("script", [SOLVER, TEACHER], ids=["solver", "teacher"])
def test_the_engine_of_a_killed_actor_is_killed_too(script, model):
    with started(script, model) as (process, engine):
        process.kill()
        wait_until_gone(engine)


def test_a_solver_ends_with_its_engine_so_that_ray_data_starts_it_again(model):
    with started(SOLVER, model) as (process, engine):
        assert "seven" in ask(process, "hm")
        engine.kill()
        assert ask(process, "hm") == ""
        assert process.wait(60) == 1


def test_a_question_that_is_too_long_is_declined_and_ends_nothing(model):
    with started(TEACHER, model) as (process, _):
        status, _, detail = json.loads(ask(process, "word " * 200))
        assert status == "declined" and "reduce the length of the input prompt" in detail
        assert json.loads(ask(process, "hm"))[:2] == ["ok", "seven"]
