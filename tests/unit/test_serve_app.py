import shlex
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from actors.solver import SolverOptions
from s1 import precision
from s1.config import validate
from s1.errors import UserError
from serve import check
from serve.app import build
from serve.engine import check_mask
from serve.engine_options import EngineOptions, choose_driver
from serve.options import AppOptions

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


def run_with(*arguments):
    """The options that `serve run serve.app:build ARGUMENTS` gives."""
    from ray.serve.scripts import convert_args_to_dict

    return AppOptions.model_validate(convert_args_to_dict(arguments))


def test_serve_run_sets_every_option_by_its_name():
    options = run_with(
        "models.qwen2.5=embedded:smollm2-135m-instruct",
        "max_queued_requests=4",
        "num_cpus=0.25",
        "engine.device=gpu",
        "engine.max_num_seqs=8",
        "engine.enforce_eager=true",
        "engine.engine_kwargs.num_gpu_blocks_override=64",
        'engine.engine_kwargs.hf_overrides={"num_hidden_layers": 2}',
        "autoscaling.max_replicas=3",
        "efforts.low.max_tokens=7",
        "efforts.none={max_tokens: 0}",
        f"api_keys.ann.b={'0' * 64}",
    )
    assert options.served() == {"qwen2.5": EMBEDDED}
    assert (options.max_queued_requests, options.num_cpus) == (4, 0.25)
    engine = options.engine
    assert (engine.device, engine.max_num_seqs, engine.enforce_eager) == ("gpu", 8, True)
    assert engine.engine_kwargs == {"num_gpu_blocks_override": 64, "hf_overrides": {"num_hidden_layers": 2}}
    assert options.autoscaling is not None and options.autoscaling.max_replicas == 3
    assert {level: effort.max_tokens for level, effort in options.efforts.items()} == {"low": 7, "none": 0}
    assert options.api_keys == {"ann.b": "0" * 64}


def test_the_preset_for_one_gpu_is_served_as_it_was_evaluated():
    from jobs import pipeline

    text = (LAPTOP.parents[1] / "docs" / "gpu.md").read_text().replace("\\\n", "")
    command = next(line for line in text.splitlines() if line.startswith("serve run"))
    options = run_with(*shlex.split(command)[3:])
    evaluated = pipeline.parse(["--preset", "one-gpu"])
    assert options.engine == evaluated.evaluate.serve.engine
    assert options.served() == {"s1": f"$PWD/{evaluated.run_dir}/checkpoint"}


def test_serve_run_reads_mappings_as_yaml_and_as_json():
    options = run_with("models={a: embedded:smollm2-135m-instruct}", 'engine={"device": "gpu"}', "engine.threads=3")
    assert options.served() == {"a": EMBEDDED}
    assert (options.engine.device, options.engine.threads) == ("gpu", 3)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("engine.devise=gpu", r"engine\.devise\n +Extra inputs"),
        ("num_cpus.x=1", r"num_cpus\.x`\n +Extra inputs"),
        ("engine={device: gpu", "engine is not readable YAML; write for example"),
        ("autoscaling.max_replicas=many", r"autoscaling\.max_replicas"),
    ],
)
def test_serve_run_says_which_argument_is_wrong(argument, says):
    with pytest.raises(ValidationError, match=says):
        run_with(f"model={EMBEDDED}", argument)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "give either model"),
        ({"model": EMBEDDED, "models": {"a": EMBEDDED}}, "give either model"),
        ({"models": {"a b": EMBEDDED}}, "model id 'a b'"),
        ({"model": EMBEDDED, "replicas": 2}, "replicas"),
        ({"model": EMBEDDED, "engine": {"device": "tpu"}}, "engine.device"),
        ({"model": EMBEDDED, "engine": {"engine_kwargs": {"max_model_len": 9}}}, r"set engine\.max_model_len"),
        ({"model": EMBEDDED, "engine": {"engine_kwargs": {"pipeline_parallel_size": 2}}}, "nothing has reserved"),
        ({"model": EMBEDDED, "engine": {"engine_kwargs": {"speculative_config": {}}}}, "takes no logit bias"),
        ({"model": EMBEDDED, "num_replicas": 2, "autoscaling": {"max_replicas": 3}}, "num_replicas=… or autoscaling"),
        ({"model": EMBEDDED, "autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas=3 is above"),
        ({"model": EMBEDDED, "api_keys": {"ann": "s1-secret"}}, "'ann' is not the SHA-256"),
        ({"model": EMBEDDED, "efforts": {"low": {"max_tokens": -1}}}, "efforts.low.max_tokens"),
        (
            {"model": EMBEDDED, "efforts": {"low": {"max_tokens": 5, "min_tokens": 9}}},
            "efforts.low.min_tokens=9 is above efforts.low.max_tokens=5",
        ),
        (
            {"model": EMBEDDED, "max_completion_tokens": 8, "efforts": {"low": {"min_tokens": 9}}},
            "efforts.low.min_tokens=9 is above max_completion_tokens=8",
        ),
        ({"model": EMBEDDED, "max_queued_requests": 0}, "max_queued_requests"),
        ({"model": EMBEDDED, "ingress_replicas": 0}, "ingress_replicas"),
    ],
)
def test_wrong_options_say_what_is_wrong(values, says):
    with pytest.raises(ValidationError, match=says):
        AppOptions.model_validate(values)


def test_a_key_in_the_clear_is_not_shown():
    with pytest.raises(UserError) as refused:
        validate(AppOptions, {"model": EMBEDDED, "api_keys": {"ann": "s1-secret"}}, "file")
    assert "s1-secret" not in str(refused.value)


def test_replicas_can_follow_the_load():
    application = build(AppOptions.model_validate({"model": EMBEDDED, "autoscaling": {"max_replicas": 3}}))
    engine = application._bound_deployment.init_args[0]["s1"]._bound_deployment
    scale = engine._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas, scale.target_ongoing_requests) == (1, 3, 32)


@pytest.mark.parametrize(
    ("scale", "most"),
    [
        ({}, 8 + 2 * 4),
        ({"num_replicas": 3}, 3 * 8 + 2 * 4),
        ({"autoscaling": {"max_replicas": 5}}, 5 * 8 + 2 * 4),
        ({"ingress_replicas": 2, "sampler_replicas": 0}, 8 + 2 * 4),
        ({"models": {"a": EMBEDDED, "b": EMBEDDED}, "model": None}, 2 * (8 + 2 * 4)),
    ],
)
def test_the_http_side_takes_what_all_engines_and_their_queues_hold(scale, most):
    values = {"model": EMBEDDED, "max_ongoing_requests": 8, "max_queued_requests": 4, **scale}
    options = AppOptions.model_validate(values)
    assert options.most_requests() == most
    ingress = build(options)._bound_deployment
    assert ingress._deployment_config.max_ongoing_requests > most
    assert ingress._deployment_config.max_queued_requests > 0
    pushes_back = ingress._deployment_config.backpressure_config
    assert pushes_back.status_code == 429 and pushes_back.retry_after_s > 0


def test_several_replicas_of_the_http_side_keep_one_account():
    ingress = build(AppOptions.model_validate({"model": EMBEDDED, "ingress_replicas": 2}))._bound_deployment
    assert ingress._deployment_config.num_replicas == 2
    assert ingress.init_args[-1]._bound_deployment.name == "tally"
    alone = build(AppOptions.model_validate({"model": EMBEDDED}))._bound_deployment
    assert alone.init_args[-1] is None


def test_a_serve_file_is_checked_without_deploying_it(tmp_path, capsys, monkeypatch):
    def run(path):
        monkeypatch.setattr("sys.argv", ["serve.check", str(path)])
        check.main()
        return capsys.readouterr()

    assert run(LAPTOP).out.startswith(f"base: {EMBEDDED}, 1 replica(s) on cpu, context 2048")
    text = LAPTOP.read_text()
    for name, (old, new, says) in {
        "key": ("deadline_s:", "deadline:", "s1.args: deadline=600"),
        "model": ("embedded:smollm2-135m-instruct", "/nowhere", "args.models.base: model '/nowhere': no such folder"),
        "builder": ("serve.app:build", "serve.app:make", "import_path='serve.app:make'"),
        "yaml": ("applications:", "applications: [", "not readable YAML"),
        "queue": ("max_queued_requests: 256", "max_queued_requests: 0", "args: max_queued_requests=0"),
        "effort": ("low: {max_tokens: 64}", "low: {max_tokens: 5, min_tokens: 9}", "efforts.low.min_tokens=9 is above"),
        "port": ("port: 8000", "port: many", "http_options.port='many'"),
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace(old, new))
        with pytest.raises(SystemExit) as end:
            run(path)
        error = capsys.readouterr().err
        assert end.value.code == 2 and says in error and error.count("\n") == 1, error


def test_a_model_that_cannot_be_is_refused_before_anything_is_deployed():
    with pytest.raises(UserError, match="embedded:nothing"):
        build(AppOptions(model="embedded:nothing"))


def test_a_model_with_more_ids_to_mask_than_vllm_takes_is_refused_when_it_starts():
    check_mask(1024)
    with pytest.raises(UserError, match=r"1025 ids .* at most 1024 .*; set engine\.driver=in-engine"):
        check_mask(1025)


def test_the_driver_is_chosen_for_a_reason():
    class Delimiter:
        def __init__(self, *ids):
            self.thinking_end = ids

    auto, gpu = EngineOptions(driver="auto"), EngineOptions(driver="auto", device="gpu")
    for is_v2 in (False, True):
        driver, why = choose_driver(auto, Delimiter(1), is_v2=is_v2)
        assert driver == "in-engine" and "V1" in why
        driver, why = choose_driver(gpu, Delimiter(1, 2, 3), is_v2=is_v2)
        assert driver == "segments" and "3 tokens" in why
        for driver in ("segments", "in-engine"):
            for device in ("cpu", "gpu"):
                asked = EngineOptions(driver=driver, device=device)
                assert choose_driver(asked, Delimiter(1), is_v2=is_v2) == (driver, "asked for")
    driver, why = choose_driver(gpu, Delimiter(1), is_v2=False)
    assert driver == "segments" and "before 0.31" in why
    driver, why = choose_driver(gpu, Delimiter(1), is_v2=True)
    assert driver == "segments" and "has not been run on GPUs" in why


def test_what_is_not_said_follows_from_the_device():
    cpu, gpu = EngineOptions(), EngineOptions(device="gpu")
    assert (cpu.context_tokens, gpu.context_tokens) == (2048, None)
    assert (cpu.number_type, gpu.number_type) == (precision.resolve("auto", gpu=False), "auto")
    assert EngineOptions(device="gpu", max_model_len=9).context_tokens == 9
    assert (cpu.is_eager, cpu.kv_cache_bytes) == (True, 2**29)
    assert (gpu.is_eager, gpu.kv_cache_bytes) == (False, None)
    said = {"enforce_eager": True, "kv_cache_gib": 2}
    assert all(
        (options.is_eager, options.kv_cache_bytes) == (True, 2**31)
        for options in (EngineOptions(**said), EngineOptions(device="gpu", **said), SolverOptions(num_gpus=1, **said))
    )
    assert (SolverOptions().is_eager, SolverOptions().kv_cache_bytes) == (True, 2**30)
    assert (SolverOptions(num_gpus=1).is_eager, SolverOptions(num_gpus=1).kv_cache_bytes) == (False, None)


@pytest.mark.parametrize("sharing", [2, 3, 4])
def test_solvers_that_share_a_gpu_find_room_on_it_together(sharing):
    share = SolverOptions(num_gpus=1 / sharing).gpu_memory_utilization
    assert share is not None and share * sharing == pytest.approx(0.9)


@pytest.mark.parametrize("num_gpus", [0, 1, 2])
def test_a_solver_without_a_gpu_or_with_one_of_its_own_uses_it_as_vllm_does(num_gpus):
    options = SolverOptions(num_gpus=num_gpus, tensor_parallel_size=max(1, num_gpus))
    assert options.gpu_memory_utilization is None


@pytest.mark.parametrize("values", [{"num_gpus": 2}, {"num_gpus": 1.5}, {"num_gpus": 0.5, "tensor_parallel_size": 2}])
def test_a_solver_reserves_the_gpus_that_it_uses(values):
    with pytest.raises(ValidationError, match="is not tensor_parallel_size="):
        SolverOptions(**values)


def test_a_cpu_replica_sets_its_threads_itself():
    environment = EngineOptions(threads=3).environment()
    assert environment["OMP_NUM_THREADS"] == "3" and environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "OMP_NUM_THREADS" not in EngineOptions(device="gpu").environment()
