"""Checkpoints of a training: every rank writes its share, and a kill loses nothing of what was committed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import checkpoint_index, collectives, train_engine
from actors.journal import Record
from actors.train_engine import TrainTask

if TYPE_CHECKING:
    import torch

    from actors.checkpoint_writer import BackgroundWriter

_REMOVED = "removed-"  # begins the name of what is on its way out


class Checkpoints:
    """One rank's view of them. Every rank makes the same calls in the same order, after `restore`.

    `exists`: whether a checkpoint of this training was made, also one that is not committed yet; `universal`: whether
    the last one is of another number of workers, so that the engine has to be built for the universal format.
    """

    def __init__(self, task: TrainTask, rank: int, num_ranks: int, device: torch.device) -> None:
        self.task, self.rank, self.num_ranks, self.device = task, rank, num_ranks, device
        self.last = _last_committed()
        self.universal = self.last is not None and train_engine.num_writers(self.last) != num_ranks
        self.exists = self.last is not None
        self._saving: str | None = None  # written but not committed
        self.engine: Any = None  # given to `restore`

    def restore(self, engine: Any) -> list[Record]:
        """Load the last committed checkpoint into `engine`, if there is one; the records of the steps it covers."""
        from ray.train.collective import barrier

        self.engine = engine
        if self.rank == 0:
            remove_uncommitted(_storage_folder(), self.last)
        if self.last is None:
            return []
        if self.universal and self.rank == 0:
            train_engine.make_universal(self.last)
        # Of Ray, not of torch: a large model takes longer to rewrite than torch waits for a worker that hangs.
        barrier()
        state = train_engine.load(engine, self.last, self.task, universal=self.universal)
        return list(state["records"])

    def save(self, records: list[Record]) -> None:
        """Write a checkpoint of every rank's share, in the background if asked so; `commit` makes it count."""
        import ray.train

        self.commit(wait=True)  # the one before
        storage: Any = ray.train.get_context().get_storage()
        # Written where it stays, in a folder that all workers see: gigabytes are not copied a second time.
        path = str(storage.build_checkpoint_path_from_name(f"step-{len(records):06d}"))
        state = {"records": list(records)}
        train_engine.write_shards(self.engine, Path(path), state, rank=self.rank, num_ranks=self.num_ranks)
        self._saving, self.exists = path, True

    def commit(self, *, wait: bool) -> None:
        """Commit what `save` began once all ranks have written it: from then on a kill loses nothing up to there.

        Without `wait`, a checkpoint that some rank still writes is left for a later call.
        """
        import ray.train
        from ray.train.v2.api.report_config import CheckpointUploadMode

        if self._saving is None:
            return
        if self.task.save_in_background:
            writer: BackgroundWriter = self.engine.checkpoint_engine
            if not wait and collectives.total(float(not writer.idle), self.device) > 0:
                return
            writer.wait()
        storage: Any = ray.train.get_context().get_storage()
        checkpoint = ray.train.Checkpoint(self._saving, filesystem=storage.storage_filesystem)
        ray.train.report({}, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        # report() returns before the controller has written down that the checkpoint exists; this waits for it.
        ray.train.get_all_reported_checkpoints()
        if self.rank == 0:
            checkpoint_index.keep(_storage_folder())
        self._saving = None


def _last_committed() -> Path | None:
    """The folder of the last committed checkpoint; all workers see it."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    return None if checkpoint is None else Path(checkpoint.path)


def _storage_folder() -> Path:
    """Where all checkpoints of the training lie."""
    import ray.train

    storage: Any = ray.train.get_context().get_storage()
    return Path(storage.build_checkpoint_path_from_name(""))


def remove_uncommitted(place: Path, last: Path | None) -> None:
    """Remove from `place` what workers that were lost had begun to save after `last`, or before anything was committed.

    What cannot be removed now, as a file on NFS that somebody still holds open, is named and left under another name,
    where no later checkpoint meets it.
    """
    begun = [folder for folder in place.glob("step-*") if folder != last]
    for folder in begun:
        with suppress(OSError):  # told below, when it cannot be removed either
            folder.rename(f"{tempfile.mkdtemp(prefix=_REMOVED, dir=place)}/{folder.name}")
    for folder in (*place.glob(f"{_REMOVED}*"), *(folder for folder in begun if folder.exists())):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            print(f"train: {folder}: left behind, it cannot be removed ({error})", file=sys.stderr, flush=True)
