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
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"data set {where!r} (split {hub.split!r}) cannot be read: {reason}; check its name, the connection and "
            "HF_TOKEN, or use your own files: --source files, or NAME=PATH for a benchmark"
        ) from error
