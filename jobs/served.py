"""The models of an evaluation on Ray Serve, for the time of a block."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING

from jobs.evaluation_options import ServeOptions
from jobs.progress import Progress
from s1.errors import UserError
from s1.vllm_processes import last_error

if TYPE_CHECKING:
    from serve.options import AppOptions


@contextlib.contextmanager
def served(models: Mapping[str, str], serving: ServeOptions) -> Generator[str]:
    """Yields the URL where `models` (id -> reference) answer; needs an open Ray session.

    UserError when they do not start, or not within `startup_timeout_s`.
    """
    from serve.app import deployed

    importlib.import_module("ray.serve")  # sets up its logger when it is imported
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    app, timeout_s = application(models, serving), serving.startup_timeout_s
    with contextlib.ExitStack() as stack:
        with starting(timeout_s) as on_wait:
            base_url = stack.enter_context(deployed(models, app, timeout_s=timeout_s, on_wait=on_wait))
        yield base_url


def application(models: Mapping[str, str], serving: ServeOptions) -> AppOptions:
    """What is deployed."""
    from serve.options import AppOptions

    same = serving.model_dump(exclude={"startup_timeout_s"})
    # Every sample is a request of its own: the sampler's process would only take memory.
    return AppOptions.model_validate({**same, "models": dict(models), "sampler_replicas": 0})


@contextlib.contextmanager
def starting(timeout_s: float) -> Generator[Callable[[str], None]]:
    """The start of the models: says every few seconds which are not there yet, and in one line why they never are."""
    try:
        with Progress("evaluate: starting the models") as bar:
            yield lambda waiting: bar.update(0, waiting)
    except TimeoutError as error:
        raise UserError(
            f"the models are {error}; serve.startup_timeout_s={timeout_s:g} has to cover new nodes and the loading of "
            "the weights: raise it, or see what `ray status` waits for"
        ) from error
    except RuntimeError as error:
        cause = last_error(str(error).splitlines())  # Serve tells it at the end of a traceback
        told = " ".join(str(error).split()) if cause is None else f"the models could not be served: {cause}"
        raise UserError(
            f"{told}; a model must load within what serve.engine and its node have: change serve.engine, or the model"
        ) from error
