"""An application of Ray Serve that is taken down with the driver that has deployed it, however the driver ends.

All of Serve's actors are detached, so what a killed driver has deployed would hold its GPUs for ever. Two small actors
on the head see to it. The sentinel belongs to the driver: Ray ends it with the driver. The watcher is detached and
waits for the end of the sentinel. A driver that ends in order takes down its application itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve._private.client import ServeControllerClient

# Only the head has this resource. Any other node may be taken away as idle, and the watcher with it.
_ON_HEAD: dict[str, Any] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
_STARTED = b"s1/serve-started"  # key in Ray's own store: id of the Serve controller that one of our drivers has started
_RETRY_S = 5.0


class Sentinel:
    """An actor of the driver: it is gone when the driver is."""

    async def wait(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()


class Watcher:
    """A detached actor that takes application `name` down when `sentinel` is gone, and then ends itself."""

    def __init__(self, name: str, sentinel: Any) -> None:
        # Not a method: a driver that was killed before it called one would leave a watcher that watches nothing.
        threading.Thread(target=self._watch, args=(name, sentinel), daemon=True).start()

    def _watch(self, name: str, sentinel: Any) -> None:
        import ray

        while _is_there(sentinel) or not _is_taken_down(name):
            time.sleep(_RETRY_S)
        ray.kill(ray.get_runtime_context().current_actor)


def _is_there(sentinel: Any) -> bool:
    """Returns when it is gone, or when nobody knows."""
    import ray
    from ray.exceptions import ActorDiedError, RayActorError

    try:
        ray.get(sentinel.wait.remote())
    except RayActorError as error:
        return not isinstance(error, ActorDiedError)  # else its process has crashed and comes again
    return True


def _is_taken_down(name: str) -> bool:
    from ray.exceptions import RayError

    try:
        take_down(name)
    except (RayError, TimeoutError):  # the controller comes again; replicas finish what they have begun
        return False
    return True


@contextlib.contextmanager
def taken_down_with_driver(name: str) -> Generator[None]:
    """Application `name`, which the block deploys, is taken down after the block, or when this process is gone."""
    import ray

    remote: Any = ray.remote  # typed for functions only
    # A crash of one of the two says nothing about the driver: Ray starts it again.
    sentinel = remote(Sentinel).options(**_ON_HEAD, max_restarts=-1, max_task_retries=-1).remote()
    detached = {"lifetime": "detached", "name": f"{name}-watcher", "namespace": "s1", "max_restarts": -1}
    watcher = remote(Watcher).options(**_ON_HEAD, **detached).remote(name, sentinel)
    try:
        yield
    finally:
        take_down(name)
        ray.kill(watcher)
        ray.kill(sentinel)


def mark_started() -> None:
    """Note that the Serve that runs was started by one of our drivers, and not by the cluster's user."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_STARTED, _controller_id())  # pyright: ignore[reportPrivateUsage]


def take_down(name: str) -> None:
    """Delete application `name`, if it is there; end Serve when a driver of ours started it and nothing else is on it.

    Returns when the replicas are gone. TimeoutError when that takes longer than a minute; it goes on all the same.
    """
    from ray import serve
    from ray.experimental import internal_kv

    if running() is None:
        return
    others = [
        other
        for other, application in serve.status().applications.items()
        if other != name and application.status.value != "DELETING"
    ]
    is_ours = internal_kv._internal_kv_get(_STARTED) == _controller_id()  # pyright: ignore[reportPrivateUsage]
    if is_ours and not others:
        serve.shutdown()
    else:
        serve.delete(name)


def running() -> ServeControllerClient | None:
    """The Serve that runs on this cluster, if one does."""
    from ray.serve import context

    context._check_cached_client_alive()  # another process may have ended it  # pyright: ignore[reportPrivateUsage]
    return context._get_global_client(raise_if_no_controller_running=False)  # pyright: ignore[reportPrivateUsage]


def _controller_id() -> bytes:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    return controller._actor_id.binary()
