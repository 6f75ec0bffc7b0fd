from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from s1.errors import UserError
from serve.app import AppOptions, build
from serve.engine import EngineOptions, choose_driver

LAPTOP = Path(__file__).parents[2] / "cluster" / "serve.laptop.yaml"
EMBEDDED = "embedded:smollm2-135m-instruct"


def test_the_laptop_config_passes_serves_own_schema_and_builds():
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(LAPTOP.read_text()))
    (application,) = config.applications
    assert application.import_path == "serve.app:build"
    options = AppOptions.model_validate(application.args)
    assert build(options) is not None
    assert config.http_options.host == "127.0.0.1"


def test_arguments_of_the_command_line_are_text_and_become_what_they_mean():
    options = AppOptions.model_validate({"model": EMBEDDED, "max_queued_requests": "4", "num_cpus": "0.25"})
    assert options.served() == {"s1": EMBEDDED}
    assert (options.max_queued_requests, options.num_cpus) == (4, 0.25)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "give either model"),
        ({"model": EMBEDDED, "models": {"a": EMBEDDED}}, "give either model"),
        ({"models": {"a b": EMBEDDED}}, "model id 'a b'"),
        ({"model": EMBEDDED, "replicas": 2}, "replicas"),
        ({"model": EMBEDDED, "engine": {"device": "tpu"}}, "engine.device"),
    ],
)
def test_wrong_options_say_what_is_wrong(values, says):
    with pytest.raises(ValidationError, match=says):
        AppOptions.model_validate(values)


def test_a_model_that_cannot_be_is_refused_before_anything_is_deployed():
    with pytest.raises(UserError, match="embedded:nothing"):
        build(AppOptions(model="embedded:nothing"))


def test_the_driver_is_chosen_for_a_reason():
    class Delimiter:
        def __init__(self, *ids):
            self.thinking_end = ids

    auto = EngineOptions(driver="auto")
    assert choose_driver(auto, Delimiter(1))[0] == "in-engine"
    driver, why = choose_driver(auto, Delimiter(1, 2, 3))
    assert driver == "segments" and "3 tokens" in why
    driver, why = choose_driver(EngineOptions(driver="auto", device="gpu"), Delimiter(1))
    assert driver == "segments" and "model runner" in why
    assert choose_driver(EngineOptions(driver="segments"), Delimiter(1)) == ("segments", "asked for")


def test_a_cpu_replica_sets_its_threads_itself():
    environment = EngineOptions(threads=3).environment()
    assert environment["OMP_NUM_THREADS"] == "3" and environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "OMP_NUM_THREADS" not in EngineOptions(device="gpu").environment()
