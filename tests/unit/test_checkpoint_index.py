"""A list of committed checkpoints that a kill left half-written is replaced by its copy."""

import json

import pytest

from actors.checkpoint_index import INDEX, KEPT, keep, mend


def commit(place, name):
    """As Ray Train does it: the list names the new checkpoint before the old one goes."""
    (place / name).mkdir()
    (place / INDEX).write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name}]}))


@pytest.mark.parametrize("written", ["", '{"checkpoint_results": [{"chec', "3", None])
def test_a_broken_list_is_that_of_the_last_commit_again(tmp_path, written):
    commit(tmp_path, "step-000005")
    keep(tmp_path)
    whole = (tmp_path / INDEX).read_text()
    assert not mend(tmp_path)
    if written is None:
        (tmp_path / INDEX).unlink()
    else:
        (tmp_path / INDEX).write_text(written)
    assert mend(tmp_path)
    assert (tmp_path / INDEX).read_text() == whole
    assert not mend(tmp_path)


def test_a_whole_list_is_newer_than_its_copy(tmp_path):
    commit(tmp_path, "step-000005")
    keep(tmp_path)
    commit(tmp_path, "step-000010")
    newer = (tmp_path / INDEX).read_text()
    assert not mend(tmp_path) and (tmp_path / INDEX).read_text() == newer


def test_without_a_commit_a_broken_list_goes(tmp_path):
    assert not mend(tmp_path / "nothing")
    (tmp_path / INDEX).write_text("")
    assert not mend(tmp_path) and not (tmp_path / INDEX).exists()
    # Of a checkpoint that somebody has removed nothing can be read.
    (tmp_path / KEPT).write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "step-000005"}]}))
    (tmp_path / INDEX).write_text("{")
    assert not mend(tmp_path) and not (tmp_path / INDEX).exists()
