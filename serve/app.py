"""Build and deploy the budget-forcing application.

    serve run serve.app:build model=embedded:smollm2-135m-instruct
    serve deploy cluster/serve.laptop.yaml

One deployment holds the HTTP side, and one for each model its engine replicas; all start at the same time.
"""

# Annotations are read by Serve at run time to validate the arguments of `build`: they must not become strings.
import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from serve.failures import RETRY_AFTER_S
from serve.options import AppOptions
from serve.protocol import Terms

if TYPE_CHECKING:
    from ray.serve import Application

STARTUP_TIMEOUT_S = 600.0
_HEADROOM = 4
_FLOOD = 4096  # requests that wait in Serve's HTTP proxy, where no deadline runs: reached only by a flood
_HEALTH_CHECK_S = 2.0  # how long a lost replica may go unnoticed by Serve's controller
_POLL_S = 0.5
# On a machine whose cores are all busy with the model, a replica may take longer than Serve's 0.1 s to say how many
# requests it has; the router would go on asking instead of sending.
_PATIENCE = {"RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1", "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5"}


def build(options: AppOptions) -> "Application":
    """The application, for `serve run` and `serve deploy`. Arguments are the fields of AppOptions."""
    # Read by Serve's HTTP proxy on a Ray that is started after this, as `serve run` does: streams cost it less.
    os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")
    from ray import serve

    from s1 import models
    from serve.ingress import FrontOptions, Ingress, api
    from serve.measured import measured_with

    for reference in options.served().values():
        models.check(reference)
    if options.engine.device == "cpu":  # GPUs may be where the replicas are, and not here
        options.engine.check_device()
    deployment: Any = serve.deployment  # typed for functions only
    engines = {name: _engine(name, reference, options) for name, reference in options.served().items()}
    light = _light(options)
    sampler = None
    if options.sampler_replicas:
        from serve.sampler import Sampler

        replicas = options.sampler_replicas
        sampler = deployment(Sampler).options(name="sampler", num_replicas=replicas, **light).bind(engines)
    tally = None
    if options.ingress_replicas > 1:
        from serve.tally import Tally

        tally = deployment(Tally).options(name="tally", **light).bind()
    front = FrontOptions(
        context_tokens=options.engine.context_tokens,
        terms=Terms(options.efforts, options.max_completion_tokens, options.deadline_s),
        max_body_bytes=options.max_body_bytes,
        api_keys=options.api_keys,
        measured=measured_with(options.engine, options.num_replicas),
    )
    ingress = deployment(serve.ingress(api)(Ingress))
    ingress = ingress.options(name="ingress", num_replicas=options.ingress_replicas, **light)
    return ingress.bind(engines, sampler, front, tally)


def _light(options: AppOptions) -> dict[str, Any]:
    """Options of the deployments that hold no model."""
    return {
        # What pushes back is the queue in front of the engines; these take what goes there, and what is refused there.
        "max_ongoing_requests": _HEADROOM * options.most_requests(),
        "max_queued_requests": _FLOOD,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "graceful_shutdown_timeout_s": options.drain_timeout_s,
        "ray_actor_options": {"num_cpus": options.ingress_cpus, "runtime_env": {"env_vars": _PATIENCE}},
    }


def _engine(name: str, reference: str, options: AppOptions) -> Any:
    """The deployment of one model's replicas."""
    from ray import serve

    from serve.forced import ForcedEngine

    deployment: Any = serve.deployment
    scale = options.autoscaling
    replicas = {"num_replicas": options.num_replicas} if scale is None else {"autoscaling_config": scale.model_dump()}
    return (
        deployment(ForcedEngine)
        .options(
            name=f"engine-{re.sub(r'[^A-Za-z0-9_-]', '-', name)}",
            ray_actor_options=_engine_resources(options),
            max_ongoing_requests=options.max_ongoing_requests,
            max_queued_requests=options.max_queued_requests,
            health_check_period_s=_HEALTH_CHECK_S,
            health_check_timeout_s=60,
            graceful_shutdown_timeout_s=options.drain_timeout_s,
            **replicas,
        )
        .bind(name, reference, options.engine)
    )


def _engine_resources(options: AppOptions) -> dict[str, Any]:
    engine = options.engine
    resources: dict[str, Any] = {"num_cpus": options.num_cpus, "runtime_env": {"env_vars": engine.environment()}}
    if engine.device == "gpu":
        resources["num_gpus"] = engine.tensor_parallel_size
    return resources


@contextlib.contextmanager
def deployed(
    models: Mapping[str, str],
    options: AppOptions | None = None,
    *,
    timeout_s: float = STARTUP_TIMEOUT_S,
    on_wait: Callable[[str], None] | None = None,
) -> Generator[str]:
    """`models` (id -> reference) on Ray Serve for the time of the block; yields the URL for clients, ending in /v1.

    Needs an open Ray session. A Serve that runs on the cluster already gets one more application under a path of its
    own; otherwise Serve is started on a free port of the loopback interface, and ended with the last application. A
    caller that is killed leaves nothing behind: see `serve.watcher`. `on_wait` is told twice a second what is still
    starting. Raises RuntimeError when a model does not start, TimeoutError after `timeout_s`.
    """
    import ray
    from ray import serve
    from ray.serve.api import RunTarget

    from serve.watcher import mark_started, running, taken_down_with_driver

    assert ray.is_initialized(), "the caller opens the Ray session"
    options = (
        AppOptions.model_validate({"models": dict(models)})
        if options is None
        else options.model_copy(update={"models": dict(models)})
    )
    application = build(options)
    name = f"s1-{uuid.uuid4().hex[:8]}"
    with taken_down_with_driver(name):
        if (client := running()) is not None:
            port, path = client.http_config.port, f"/{name}"
        else:
            port, path = _free_port(), ""
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            mark_started()
        target = RunTarget(target=application, name=name, route_prefix=path or "/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait_until_running(name, timeout_s, on_wait)
        yield f"http://127.0.0.1:{port}{path}/v1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_running(name: str, timeout_s: float, on_wait: Callable[[str], None] | None) -> None:
    from ray import serve

    deadline = time.monotonic() + timeout_s
    while True:
        application = serve.status().applications.get(name)
        state = "NOT_STARTED" if application is None else application.status.value
        if state == "RUNNING":
            return
        starting = [
            deployment
            for deployment, status in (application.deployments if application else {}).items()
            if status.status.value != "HEALTHY"
        ]
        if application is not None and state in ("DEPLOY_FAILED", "UNHEALTHY"):
            reasons = [status.message for status in application.deployments.values() if status.message]
            raise RuntimeError(f"the models could not be served: {' '.join([application.message, *reasons])}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not serving after {timeout_s:.0f} s: {', '.join(starting) or state}")
        if on_wait is not None:
            on_wait(", ".join(starting))
        time.sleep(_POLL_S)
