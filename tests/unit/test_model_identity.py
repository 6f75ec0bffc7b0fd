"""Which model a folder holds: the same after a copy, another one as soon as other weights lie in it."""

import os
import shutil

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
