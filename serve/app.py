"""Build and deploy the budget-forcing application.

    serve run serve.app:build model=embedded:smollm2-135m-instruct
    serve deploy cluster/serve.laptop.yaml

One deployment holds the HTTP side, and one for each model its engine replicas; all start at the same time.
"""

# Annotations are read by Serve at run time to validate the arguments of `build`: they must not become strings.
import contextlib
import re
import socket
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from s1.config import Config
from serve.engine import EngineOptions

if TYPE_CHECKING:
    from ray.serve import Application

STARTUP_TIMEOUT_S = 600.0
_POLL_S = 0.5
# On a machine whose cores are all busy with the model, a replica may take longer than Serve's 0.1 s to say how many
# requests it has; the router would go on asking instead of sending.
_PATIENCE = {"RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1", "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5"}


class AppOptions(Config):
    """Which models are served, and how."""

    models: dict[str, str] = Field(
        default_factory=lambda: {},
        description="Model id -> folder in Hugging Face layout, hub id, or embedded:NAME. Clients name the id.",
    )
    model: str | None = Field(None, description="A single model, served under the id `model_id`.")
    model_id: str = Field("s1", description="Id of the single model.")
    engine: EngineOptions = Field(default_factory=lambda: EngineOptions.model_validate({}))
    num_replicas: PositiveInt = Field(1, description="Engine replicas of each model.")
    num_cpus: NonNegativeFloat = Field(0.5, description="Logical CPUs that one engine replica reserves in Ray.")
    max_ongoing_requests: PositiveInt = Field(64, description="Requests that one engine replica works on.")
    max_queued_requests: NonNegativeInt = Field(
        256, description="Requests that wait for a replica; more are refused with 429 and Retry-After."
    )
    ingress_cpus: NonNegativeFloat = Field(0.1, description="Logical CPUs that the HTTP side reserves in Ray.")

    @field_validator("models")
    @classmethod
    def _ids_are_names(cls, models: dict[str, str]) -> dict[str, str]:
        bad = [name for name in models if not re.fullmatch(r"[\w./:-]+", name)]
        if bad:
            raise ValueError(f"model id {bad[0]!r} must consist of letters, digits and . / : _ -")
        return models

    @model_validator(mode="after")
    def _some_model(self) -> "AppOptions":
        if bool(self.models) == bool(self.model):
            raise ValueError("give either model=… or models={id: …}")
        return self

    def served(self) -> dict[str, str]:
        return self.models or {self.model_id: self.model or ""}


def build(options: AppOptions) -> "Application":
    """The application, for `serve run` and `serve deploy`. Arguments are the fields of AppOptions."""
    from ray import serve

    from s1 import models
    from serve.forced import ForcedEngine
    from serve.ingress import Ingress, api

    for reference in options.served().values():
        models.check(reference)
    deployment: Any = serve.deployment  # typed for functions only
    engines = {
        name: deployment(ForcedEngine)
        .options(
            name=f"engine-{re.sub(r'[^A-Za-z0-9_-]', '-', name)}",
            num_replicas=options.num_replicas,
            ray_actor_options=_engine_resources(options),
            max_ongoing_requests=options.max_ongoing_requests,
            max_queued_requests=options.max_queued_requests,
            health_check_timeout_s=60,
            graceful_shutdown_timeout_s=30,
        )
        .bind(reference, options.engine)
        for name, reference in options.served().items()
    }
    front = deployment(serve.ingress(api)(Ingress)).options(
        name="ingress",
        ray_actor_options={"num_cpus": options.ingress_cpus, "runtime_env": {"env_vars": _PATIENCE}},
        # What pushes back is the queue in front of the engines.
        max_ongoing_requests=len(engines) * (options.max_ongoing_requests + options.max_queued_requests) * 4,
    )
    return front.bind(engines)


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
    name: str | None = None,
    timeout_s: float = STARTUP_TIMEOUT_S,
    on_wait: Callable[[str], None] | None = None,
) -> Generator[str]:
    """`models` (id -> reference) on Ray Serve for the time of the block; yields the URL for clients, ending in /v1.

    Needs an open Ray session. A Serve that runs on the cluster already gets one more application under a path of its
    own; otherwise Serve is started on a free port of the loopback interface and ended again. An application outlives
    a caller that is killed: who gives the same `name` again takes such a one down first. `on_wait` is told twice a
    second what is still starting. Raises RuntimeError when a model does not start, TimeoutError after `timeout_s`.
    """
    import ray
    from ray import serve
    from ray.serve.api import RunTarget

    assert ray.is_initialized(), "the caller opens the Ray session"
    values = {} if options is None else options.model_dump(exclude={"models", "model"})
    application = build(AppOptions(**values, models=dict(models)))
    name = name or f"s1-{uuid.uuid4().hex[:8]}"
    port, path = _running_port(), f"/{name}"
    ours = port is None
    if port is None:
        port, path = _free_port(), ""
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    elif name in serve.status().applications:
        serve.delete(name)
    try:
        target = RunTarget(target=application, name=name, route_prefix=path or "/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait_until_running(name, timeout_s, on_wait)
        yield f"http://127.0.0.1:{port}{path}/v1"
    finally:
        if ours:
            serve.shutdown()
        else:
            serve.delete(name)


def _running_port() -> int | None:
    """HTTP port of the Serve that runs on this cluster, if one does."""
    from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.port


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
