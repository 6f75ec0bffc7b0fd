"""What can be set of an application: the `args` of a Serve file, `name=value` after `serve run`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

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
from serve.arguments import nested
from serve.budget import EFFORTS, Effort
from serve.engine_options import EngineOptions
from serve.keys import is_hash


class Autoscaling(Config):
    """Replicas follow the load: requests under way and waiting, divided by the target."""

    min_replicas: PositiveInt = Field(1, description="Fewest replicas.")
    max_replicas: PositiveInt = Field(description="Most replicas.")
    target_ongoing_requests: PositiveFloat = Field(32, description="Target number of requests per replica.")
    upscale_delay_s: NonNegativeFloat = Field(
        10, description="How long the load must be higher before replicas are added."
    )
    downscale_delay_s: NonNegativeFloat = Field(
        300, description="How long the load must be lower before replicas are removed."
    )

    @model_validator(mode="after")
    def _check_order(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}")
        return self


class AppOptions(Config):
    """Which models are served, and how."""

    models: dict[str, str] = Field(
        default_factory=lambda: {},
        description="Model id -> folder in Hugging Face layout, hub id, or embedded:NAME. Clients use the id.",
    )
    model: str | None = Field(None, description="A single model, served under the id `model_id`.")
    model_id: str = Field("s1", description="Id of the single model.")
    engine: EngineOptions = Field(default_factory=lambda: EngineOptions.model_validate({}))
    num_replicas: PositiveInt = Field(1, description="Engine replicas of each model.")
    autoscaling: Autoscaling | None = Field(None, description="Scale replicas with the load, instead of num_replicas.")
    num_cpus: NonNegativeFloat = Field(0.5, description="Logical CPUs that one engine replica reserves in Ray.")
    max_ongoing_requests: PositiveInt = Field(64, description="Requests that one engine replica works on.")
    max_queued_requests: PositiveInt = Field(
        256,
        description="Requests for a model that may wait in each ingress replica; more are refused with 429 and "
        "Retry-After.",
    )
    ingress_replicas: PositiveInt = Field(1, description="Replicas of the ingress, which handles HTTP.")
    ingress_cpus: NonNegativeFloat = Field(0.1, description="Logical CPUs that each ingress replica reserves in Ray.")
    sampler_replicas: NonNegativeInt = Field(1, description="Replicas of the parallel sampler; 0 turns it off.")
    efforts: dict[str, Effort] = Field(
        default_factory=lambda: EFFORTS, description="Budgets of the levels of reasoning_effort; replaces all of them."
    )
    max_completion_tokens: PositiveInt | None = Field(
        None,
        description="Longest completion that a request may ask for; by default only the model's context limits it.",
    )
    max_body_bytes: PositiveInt = Field(4 * 2**20, description="Longest request body; a longer one gets 413.")
    deadline_s: PositiveFloat | None = Field(
        None, description="Longest time for a request, waiting included. A request can ask for less."
    )
    drain_timeout_s: PositiveFloat = Field(
        900, description="Time for a replica that is taken down to finish its requests."
    )
    api_keys: dict[str, str] = Field(
        default_factory=lambda: {},
        description="Name -> SHA-256 of a key that clients must send; if empty, no key is needed. `python -m "
        "serve.keys NAME` makes one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_arguments(cls, values: Any) -> Any:
        return nested(cast(Mapping[str, Any], values), cls) if isinstance(values, Mapping) else values

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
    def _one_number_of_replicas(self) -> AppOptions:
        if self.autoscaling is not None and "num_replicas" in self.model_fields_set:
            raise ValueError("give either num_replicas=… or autoscaling={max_replicas: …}")
        return self

    @model_validator(mode="after")
    def _some_model(self) -> AppOptions:
        if bool(self.models) == bool(self.model):
            raise ValueError("give either model=… or models={id: …}")
        return self

    @model_validator(mode="after")
    def _efforts_can_be_kept(self) -> AppOptions:
        for level, effort in self.efforts.items():
            bounds = {
                f"efforts.{level}.max_tokens": effort.max_tokens,
                "max_completion_tokens": self.max_completion_tokens,
            }
            for name, most in bounds.items():
                if effort.min_tokens is not None and most is not None and effort.min_tokens > most:
                    raise ValueError(
                        f"efforts.{level}.min_tokens={effort.min_tokens} is above {name}={most}; lower one or raise "
                        "the other"
                    )
        return self

    def served(self) -> dict[str, str]:
        return self.models or {self.model_id: self.model or ""}

    def most_requests(self) -> int:
        """Requests that are under way or wait for an engine when no more can."""
        replicas = self.num_replicas if self.autoscaling is None else self.autoscaling.max_replicas
        queues = self.ingress_replicas + self.sampler_replicas  # each asks the engines by itself
        return len(self.served()) * (replicas * self.max_ongoing_requests + queues * self.max_queued_requests)
