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
