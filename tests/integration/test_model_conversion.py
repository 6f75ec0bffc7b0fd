import json
import multiprocessing
import os
from pathlib import Path

from s1 import models


def _resolve_in(cache: str, results: "multiprocessing.Queue[str]") -> None:
    os.environ["S1_CACHE"] = cache
    results.put(str(models.resolve("embedded:smollm2-135m-instruct")))


def test_concurrent_callers_share_one_whole_conversion(tmp_path: Path):
    # What a killed conversion leaves behind must not matter.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f".smollm2-135m-instruct-0.1.2-{models._CONVERSION}.killed").mkdir()
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    callers = [spawn.Process(target=_resolve_in, args=(str(tmp_path), results)) for _ in range(2)]
    for caller in callers:
        caller.start()
    folders = {results.get(timeout=600) for _ in callers}
    for caller in callers:
        caller.join()
    (folder,) = map(Path, folders)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {folder.name, folder.name + ".lock"}
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert (folder / "model.safetensors").stat().st_size > 250e6
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()
