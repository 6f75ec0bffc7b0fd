"""The Hugging Face hub. Its client is imported when it is used."""

from __future__ import annotations


def failures() -> tuple[type[Exception], ...]:
    """What the client raises when the hub refuses, cannot be reached, or a name cannot be one.

    The client passes on what its HTTP library raises and changes that library from one version to the next: the name
    below is the one that it promises to keep.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx

    return OSError, HFValidationError, httpx.HTTPError, httpx.InvalidURL


def page(data_set: str) -> str:
    """Where a reader finds the data set and, when it is gated, gives the consent."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/datasets/{data_set}"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE keeps the client from asking."""
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()
