"""Ray Train's list of committed checkpoints, kept a second time.

Ray writes it in place, and a kill or a full disk in that moment leaves half of it, with which Ray starts no training.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as INDEX

from s1.errors import UserError

KEPT = "committed.json"


def keep(place: Path) -> None:
    """Copy the list in `place`, the folder of the checkpoints, once a checkpoint is committed and before the next is.

    Ray removes a checkpoint after it has written the list without it, so that the copy names one that is there for as
    long as the list may be broken.
    """
    new = place / f"{KEPT}.new"
    shutil.copyfile(place / INDEX, new)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(new, place / KEPT)


def mend(place: Path) -> bool:
    """Put the copy in the place of a list that is broken or gone; True when that was done.

    Without a copy a broken list is removed: nothing was committed when it was written. UserError when the copy is
    older than what is left, as after a crash of the machine: checkpoints are not thrown away on a guess.
    """
    if not place.is_dir() or _read(place / INDEX) is not None:
        return False
    kept = _read(place / KEPT)
    if kept is None:
        (place / INDEX).unlink(missing_ok=True)
        return False
    gone = [
        name for result in kept["checkpoint_results"] if not (place / (name := result["checkpoint_dir_name"])).is_dir()
    ]
    if gone:
        raise UserError(
            f"{place / INDEX}: the list of checkpoints is broken, and {gone[0]} of its copy is gone; put the list back "
            f"from a backup, or remove {place} to start over"
        )
    new = place / f"{INDEX}.new"
    shutil.copyfile(place / KEPT, new)
    os.replace(new, place / INDEX)
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """A list; None when there is none, or not a whole one."""
    try:
        return dict(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
