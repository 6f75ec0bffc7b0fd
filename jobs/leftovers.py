"""What runs that were never finished have left in a run folder.

Checkpoints of a large model fill a disk, and answers of an evaluation may have been paid for.
"""

from __future__ import annotations

import sys

import pyarrow.fs as pafs

from s1.artifacts import resolve


def name_leftovers(job: str, scratch: str) -> None:
    """Say in one line each which other unfinished runs of `job` lie beside the folder `scratch`, with their size.

    They are kept: the same options as theirs go on from them.
    """
    fs, path = resolve(scratch)
    beside, _, own = path.rpartition("/")
    for folder in fs.get_file_info(pafs.FileSelector(beside, allow_not_found=True)):
        if (
            folder.type == pafs.FileType.Directory
            and folder.base_name.startswith(f"{job}-")
            and folder.base_name != own
        ):
            files = fs.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True))
            size = sum(file.size or 0 for file in files)
            print(
                f"{job}: {folder.path} holds {_readable(size)} of a run with other options or data that was not "
                "finished; remove it if you do not mean to go on with that one",
                file=sys.stderr,
            )


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:.1f} MiB"
