"""A list of committed checkpoints that a kill left half-written is replaced by its copy."""

import json

import pytest

from actors.checkpoint_index import INDEX, keep, mend
from s1.errors import UserError


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


def test_checkpoints_are_not_thrown_away_on_a_guess(tmp_path):
    commit(tmp_path, "step-000005")
    keep(tmp_path)
    commit(tmp_path, "step-000010")
    (tmp_path / "step-000005").rmdir()
    (tmp_path / INDEX).write_text("{")  # the machine lost what it had not written to its disk yet
    with pytest.raises(UserError, match=f"list of checkpoints is broken, and step-000005 .* or remove {tmp_path}"):
        mend(tmp_path)
    assert (tmp_path / "step-000010").is_dir()
