"""What stands behind the URL of an endpoint, before it is asked anything: whether it is there, and what it says of
itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx

from s1.errors import UserError

# No connection came about: nothing was sent.
UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
PROBE_TIMEOUT_S = 10.0
_NOT_THERE = frozenset({404, 405, 501})
_FACTS = ("engine", "batch_size", "parallelism", "precision", "driver")


@dataclass(frozen=True)
class Endpoint:
    """Where to ask. `base_url` ends in /v1; the key goes into the header and nowhere else."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def url(self, path: str) -> str:
        return f"{self.base_url.rstrip('/')}/{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def check_reached(endpoint: Endpoint, option: str) -> None:
    """UserError when no connection to the endpoint comes about; `option` is where its URL was given.

    Any answer will do: many services know no /models, refuse it to a key that may ask the model, or are busy.
    """
    try:
        httpx.get(endpoint.url("models"), headers=endpoint.headers, timeout=PROBE_TIMEOUT_S)
    except UNREACHED as error:
        raise UserError(
            f"{option}={endpoint.base_url!r}: nothing answers there ({error}); start it, or give the URL that it is at"
        ) from error
    except httpx.HTTPError:
        return


def served_models(endpoint: Endpoint) -> list[str] | None:
    """Names that the endpoint serves; None when it does not say. UserError when no chat completions are there."""
    response = _probe(endpoint, "GET", "models")
    if response.status_code == 404 and _probe(endpoint, "POST", "chat/completions").status_code in _NOT_THERE:
        raise UserError(
            f"endpoint {endpoint.base_url}: something answers, but no chat completions; give the URL that they are "
            "under, which usually ends in /v1"
        )
    try:
        return [str(model["id"]) for model in response.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        return None


def _probe(endpoint: Endpoint, method: str, path: str) -> httpx.Response:
    """Ask for `path` with an empty request. UserError when nothing answers, when it is not up or refuses the key."""
    body = {} if method == "POST" else None
    try:
        response = httpx.request(
            method, endpoint.url(path), json=body, headers=endpoint.headers, timeout=PROBE_TIMEOUT_S
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"endpoint {endpoint.base_url}: nothing answers there ({error}); start it, or give the URL that ends in /v1"
        ) from error
    if response.status_code in (401, 403):
        raise UserError(f"endpoint {endpoint.base_url}: refuses the key ({response.status_code}); set the right one")
    if response.status_code in (502, 503, 504):
        raise UserError(
            f"endpoint {endpoint.base_url}: what stands before it answers {response.status_code}; wait until it is up"
        )
    return response


def server_facts(endpoint: Endpoint) -> dict[str, Any]:
    """What the server says at `/version` that results depend on; nothing when it says nothing.

    vLLM says its `version`, our own server `engine`, `batch_size`, `parallelism`, `precision`, `driver`
    and `versions` as well.
    """
    url = endpoint.base_url.rstrip("/").removesuffix("/v1") + "/version"
    try:
        told = httpx.get(url, headers=endpoint.headers, timeout=PROBE_TIMEOUT_S).raise_for_status().json()
        version = told.pop("version")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError):
        return {}
    found = {name: told[name] for name in _FACTS if isinstance(told.get(name), str | int)}
    versions = told.get("versions")
    return found | {"versions": versions if isinstance(versions, dict) else {"server": str(version)}}
