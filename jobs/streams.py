"""Tables that become data sets of Ray, and come back block by block, with progress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa

from jobs.progress import Progress

Row = dict[str, Any]


def blocks(table: pa.Table, block_rows: int) -> Any:
    """A data set in blocks: what workers share out among themselves, and what is done again when one dies."""
    import ray

    return ray.data.from_arrow([table.slice(at, block_rows) for at in range(0, table.num_rows, block_rows)])


def rows(dataset: Any, label: str, num_rows: int) -> Iterator[Row]:
    """Rows of a data set as they come, with progress."""
    for table in tables(dataset, label, num_rows):
        yield from table.to_pylist()


def tables(dataset: Any, label: str, num_rows: int) -> Iterator[pa.Table]:
    """Blocks of a data set as they come, with progress."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours says more
    context.max_errored_blocks = 0
    with Progress(label, num_rows, "rows") as bar:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            table = cast(pa.Table, batch)
            yield table
            bar.advance(table.num_rows)
