"""Engines on GPUs start on machines without CUDA's compiler: vLLM reads so from the environment of its process."""

import os

import pytest

from actors.solver import SolverOptions
from s1.teachers.vllm import Vllm, VllmTeacher
from serve.engine import EngineOptions

COMPILED = ("VLLM_USE_FLASHINFER_SAMPLER", "VLLM_ALLREDUCE_USE_FLASHINFER")


@pytest.fixture(autouse=True)
def build_for_gpus(monkeypatch):
    """A teacher asks which build of vLLM is installed."""
    monkeypatch.setattr("s1.teachers.vllm.installed_device", lambda: "gpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is put back when the teacher leaves it to vLLM


def of_teacher() -> dict[str, str]:
    VllmTeacher(Vllm(model="embedded:smollm2-135m-instruct"))
    return dict(os.environ)


EVERYWHERE = pytest.mark.parametrize(
    "environment",
    [EngineOptions(device="gpu").environment, SolverOptions(num_gpus=1).environment, of_teacher],
    ids=["served model", "solver", "teacher"],
)


@EVERYWHERE
def test_an_engine_on_gpus_takes_no_kernels_that_would_have_to_be_compiled(environment, monkeypatch):
    for name in COMPILED:
        monkeypatch.setenv(name, "1")  # so that it is put back, whatever the teacher sets
        monkeypatch.delenv(name)
    given = environment()
    assert [given.get(name) for name in COMPILED] == ["0", "0"]
    from vllm import envs  # reads the environment anew each time

    for name in COMPILED:
        monkeypatch.setenv(name, given[name])
    assert not envs.VLLM_USE_FLASHINFER_SAMPLER and not envs.VLLM_ALLREDUCE_USE_FLASHINFER


@EVERYWHERE
def test_who_has_the_compiler_can_ask_for_them(environment, monkeypatch):
    for name in COMPILED:
        monkeypatch.setenv(name, "1")
    given = environment()
    assert [given.get(name) for name in COMPILED] == ["1", "1"]
