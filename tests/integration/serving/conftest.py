import httpx
import pytest

from jobs.ray_session import ray_session
from serve.app import deployed
from serve.engine_options import EngineOptions
from serve.options import AppOptions
from serving.asking import HEADERS, KEYS, ONGOING, QUEUED


@pytest.fixture(scope="package")
def url():
    """Of the application, without a slash at its end."""
    options = AppOptions(
        models={"base": "embedded:smollm2-135m-instruct"},
        engine=EngineOptions(max_model_len=512),
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        max_body_bytes=2**20,
        efforts={"none": {"max_tokens": 0}, "low": {"max_tokens": 6, "min_tokens": 6}},
        api_keys=KEYS,
    )
    with ray_session(), deployed(options.models, options, timeout_s=600) as base_url:
        yield base_url.removesuffix("/v1")


@pytest.fixture(scope="package")
def client(url):
    with httpx.Client(base_url=url, headers=HEADERS, timeout=300) as client:
        yield client


@pytest.fixture(scope="package")
def engine(url):
    """The handle of the engine's deployment."""
    from ray import serve

    (name,) = serve.status().applications
    return serve.get_deployment_handle("engine-base", app_name=name)
