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

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from s1.config import Config
from serve.budget import EFFORTS, Effort
from serve.engine import EngineOptions
from serve.keys import is_hash
from serve.protocol import Terms

if TYPE_CHECKING:
    from ray.serve import Application

STARTUP_TIMEOUT_S = 600.0
_POLL_S = 0.5
# On a machine whose cores are all busy with the model, a replica may take longer than Serve's 0.1 s to say how many
# requests it has; the router would go on asking instead of sending.
_PATIENCE = {"RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1", "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5"}


class Autoscaling(Config):
    """Replicas follow the load: requests under way and waiting, divided by the target."""

    min_replicas: PositiveInt = Field(1, description="Replicas that always stand ready.")
    max_replicas: PositiveInt = Field(description="Replicas at the highest load.")
    target_ongoing_requests: PositiveFloat = Field(32, description="Requests for each replica to aim at.")
    upscale_delay_s: NonNegativeFloat = Field(10, description="How long the load has to be higher.")
    downscale_delay_s: NonNegativeFloat = Field(300, description="How long the load has to be lower.")

    @model_validator(mode="after")
    def _check_order(self) -> "Autoscaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}")
        return self


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
    autoscaling: Autoscaling | None = Field(None, description="Replicas by load, instead of num_replicas.")
    num_cpus: NonNegativeFloat = Field(0.5, description="Logical CPUs that one engine replica reserves in Ray.")
    max_ongoing_requests: PositiveInt = Field(64, description="Requests that one engine replica works on.")
    max_queued_requests: NonNegativeInt = Field(
        256, description="Requests that wait for a replica; more are refused with 429 and Retry-After."
    )
    ingress_cpus: NonNegativeFloat = Field(0.1, description="Logical CPUs that the HTTP side reserves in Ray.")
    sampler_replicas: NonNegativeInt = Field(1, description="Replicas of the parallel sampler; 0: it is not served.")
    efforts: dict[str, Effort] = Field(
        default_factory=lambda: EFFORTS, description="What the levels of reasoning_effort mean; replaces all of them."
    )
    max_completion_tokens: PositiveInt | None = Field(
        None, description="Longest completion that may be asked for; by default the model's context alone is the bound."
    )
    max_body_bytes: PositiveInt = Field(4 * 2**20, description="Longest body of a request; longer ones get 413.")
    deadline_s: PositiveFloat | None = Field(
        None, description="Longest time for a request, waiting included. A request can ask for less."
    )
    drain_timeout_s: PositiveFloat = Field(
        900, description="How long a replica that is taken down may finish what it has begun."
    )
    api_keys: dict[str, str] = Field(
        default_factory=lambda: {},
        description="Name -> SHA-256 of a key that clients have to send; none: everybody is let in. "
        "`python -m serve.keys NAME` makes one.",
    )

    @field_validator("models")
    @classmethod
    def _ids_are_names(cls, models: dict[str, str]) -> dict[str, str]:
        bad = [name for name in models if not re.fullmatch(r"[\w./:-]+", name)]
        if bad:
            raise ValueError(f"model id {bad[0]!r} must consist of letters, digits and . / : _ -")
        return models

    @field_validator("api_keys")
    @classmethod
    def _keys_are_hashed(cls, keys: dict[str, str]) -> dict[str, str]:
        bad = [name for name, value in keys.items() if not is_hash(value)]
        if bad:  # the value may be a key in the clear: it is not shown
            raise ValueError(f"{bad[0]!r} is not the SHA-256 of a key in hex; `python -m serve.keys NAME` makes one")
        return keys

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> "AppOptions":
        if self.autoscaling is not None and "num_replicas" in self.model_fields_set:
            raise ValueError("give either num_replicas=… or autoscaling={max_replicas: …}")
        return self

    @model_validator(mode="after")
    def _some_model(self) -> "AppOptions":
        if bool(self.models) == bool(self.model):
            raise ValueError("give either model=… or models={id: …}")
        return self

    def served(self) -> dict[str, str]:
        return self.models or {self.model_id: self.model or ""}


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
    deployment: Any = serve.deployment  # typed for functions only
    engines = {name: _engine(name, reference, options) for name, reference in options.served().items()}
    waiting = len(engines) * (options.max_ongoing_requests + options.max_queued_requests)
    light = {
        # What pushes back is the queue in front of the engines.
        "max_ongoing_requests": waiting * 4,
        "graceful_shutdown_timeout_s": options.drain_timeout_s,
        "ray_actor_options": {"num_cpus": options.ingress_cpus, "runtime_env": {"env_vars": _PATIENCE}},
    }
    sampler = None
    if options.sampler_replicas:
        from serve.sampler import Sampler

        replicas = options.sampler_replicas
        sampler = deployment(Sampler).options(name="sampler", num_replicas=replicas, **light).bind(engines)
    front = FrontOptions(
        context_tokens=options.engine.max_model_len,
        terms=Terms(options.efforts, options.max_completion_tokens, options.deadline_s),
        max_body_bytes=options.max_body_bytes,
        api_keys=options.api_keys,
        measured=measured_with(options.engine, options.num_replicas),
    )
    return deployment(serve.ingress(api)(Ingress)).options(name="ingress", **light).bind(engines, sampler, front)


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
