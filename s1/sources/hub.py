"""Data sets of the Hugging Face hub, for users who have a connection. `datasets` is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pydantic import Field

from s1 import hub_client
from s1.config import Config
from s1.errors import UserError
from s1.sources.records import Record


class Hub(Config):
    """One split of one data set."""

    name: str = Field(default="", description="Data set, such as simplescaling/s1K-1.1.")
    config: str | None = Field(default=None, description="Configuration (subset), if the data set has several.")
    split: str = Field(default="train", description="Split of the data set.")
    files: str | None = Field(default=None, description="Files to read, with a format such as json as the name.")
    revision: str | None = Field(default=None, description="Commit or tag; by default the newest.")


def records(hub: Hub) -> Iterator[Record]:
    """Rows of the data set, streamed. UserError when it cannot be reached."""
    import datasets
    from datasets.exceptions import DatasetsError

    where = hub.files or "/".join(filter(None, (hub.name, hub.config)))
    try:
        rows = datasets.load_dataset(
            hub.name, hub.config, data_files=hub.files, split=hub.split, revision=hub.revision, streaming=True
        )
        for row, values in enumerate(rows, start=1):
            yield Record(f"hub:{where}", row, cast(dict[str, Any], values))
    except (DatasetsError, ValueError, *hub_client.failures()) as error:
        raise UserError(f"data set {where!r} (split {hub.split!r}) cannot be read: {_why(hub, error)}") from error


def check(hub: Hub) -> None:
    """UserError when the hub does not give the first row of the data set."""
    for _ in records(hub):
        return


def _why(hub: Hub, error: Exception) -> str:
    """The reason in one line, and what to do about it."""
    reason = str(error).strip().partition("\n")[0].removesuffix(".")
    if "gated" in reason.lower():
        return (
            f"its owner asks for your consent; give it at {hub_client.page(hub.name)} and set HF_TOKEN to a token of "
            "that account (docs/cluster.md: how a submitted job gets it)"
        )
    first = "unset HF_HUB_OFFLINE" if hub_client.is_offline() else "check its name, the connection and HF_TOKEN"
    return f"{reason}; {first}, or use your own files: --source files, or NAME=PATH for a benchmark"
