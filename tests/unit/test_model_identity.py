"""Which model a folder holds: the same after a copy, another one as soon as other weights lie in it."""

import os
import shutil
import time
from types import SimpleNamespace

from s1.training import weights


def test_a_copy_of_a_model_folder_is_the_same_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(os.urandom(3_000_000))
    copy = shutil.copytree(tmp_path / "model", tmp_path / "copy")
    os.utime(copy / "config.json", (0, 0))
    assert weights.identity(str(tmp_path / "model")) == weights.identity(str(copy)) != []
    assert weights.identity("owner/name") == weights.identity("") == []


def test_other_contents_of_the_same_size_are_another_model(tmp_path):
    config, large = tmp_path / "config.json", tmp_path / "model.safetensors"
    config.write_text("{}")
    large.write_bytes(bytes(3_000_000))
    seen = [weights.identity(str(tmp_path))]
    config.write_text("[]")
    seen.append(weights.identity(str(tmp_path)))
    for start in (0, 1_500_000, 3_000_000 - 20_000):  # wherever a piece of 20 kB differs
        large.write_bytes(bytes(start) + b"x" * 20_000 + bytes(3_000_000 - start - 20_000))
        seen.append(weights.identity(str(tmp_path)))
    assert len({str(one) for one in seen}) == len(seen)


def test_a_small_edit_of_a_large_file_is_another_model_and_an_unchanged_one_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("S1_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    large = tmp_path / "model" / "model.safetensors"
    large.write_bytes(bytes(17 * 2**20))
    hours_later = time.time() + 7200
    monkeypatch.setattr(weights, "time", SimpleNamespace(time=lambda: hours_later))
    before = weights.identity(str(tmp_path / "model"))
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_text("kept")  # is what is answered as long as nothing changes
    assert weights.identity(str(tmp_path / "model"))[0][2] == "kept"
    times = large.stat()
    with large.open("r+b") as stream:
        stream.seek(5_000_001)
        stream.write(b"x")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = weights.identity(str(tmp_path / "model"))
    assert after != before and after[0][2] != "kept"


def test_a_file_that_may_still_change_is_not_remembered_and_a_cache_that_cannot_be_written_is_done_without(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("S1_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(17 * 2**20))
    seen = weights.identity(str(tmp_path / "model"))
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").write_text("a file where the folder should be")
    later = time.time() + 7200
    monkeypatch.setattr(weights, "time", SimpleNamespace(time=lambda: later))
    assert weights.identity(str(tmp_path / "model")) == seen
