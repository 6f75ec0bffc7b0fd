"""What runs that were never finished have left in a run folder: checkpoints of a large model fill a disk."""

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
            gib = sum(file.size or 0 for file in files) / 2**30
            print(
                f"{job}: {folder.path} holds {gib:.1f} GiB of a run with other options or data that was not finished; "
                "remove it if you do not mean to go on with that one",
                file=sys.stderr,
            )
