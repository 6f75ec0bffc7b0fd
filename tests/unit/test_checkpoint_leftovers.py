"""What lost workers had begun to save goes, and what cannot go harms nothing that comes later."""

import os

from actors import train_engine
from actors.train_checkpoints import remove_uncommitted


def begun(place, name):
    folder = place / name / train_engine.UNIVERSAL
    folder.mkdir(parents=True)
    (folder / "shard").write_text(name)
    return place / name


def test_only_the_last_committed_checkpoint_stays(tmp_path):
    last, _ = begun(tmp_path, "step-000020"), begun(tmp_path, "step-000040")
    remove_uncommitted(tmp_path, last)
    assert list(tmp_path.iterdir()) == [last] and (last / train_engine.UNIVERSAL / "shard").exists()
    remove_uncommitted(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_removed_is_named_and_out_of_the_way_of_the_next_checkpoint(
    tmp_path, monkeypatch, capsys
):
    folder = begun(tmp_path, "step-000040")
    remove = os.unlink

    def unlink(path, **named):
        if str(path).endswith("shard"):
            raise OSError(16, "Device or resource busy")  # as NFS says of a file that somebody has open
        remove(path, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", unlink)
        remove_uncommitted(tmp_path, None)
        told = capsys.readouterr().err
        assert told.startswith(f"train: {tmp_path / 'removed-'}") and "Device or resource busy" in told
        assert not folder.exists() and len(list(tmp_path.iterdir())) == 1
    remove_uncommitted(tmp_path, None)  # of the next group of workers
    assert list(tmp_path.iterdir()) == []


def test_shards_that_are_rewritten_are_not_rewritten_again(tmp_path):
    folder = begun(tmp_path, "step-000020")
    train_engine.make_universal(folder)
    assert (folder / train_engine.UNIVERSAL / "shard").read_text() == "step-000020"
