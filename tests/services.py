"""Stand-ins for the packages `wandb` and `mlflow`, as modules on the path that write down how they are called.

They have the calls that a training makes, with the names, arguments and errors of the real packages. The services
behind them are two folders: what is kept there outlives a process, as a server's runs do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WANDB = """
import json, os, pathlib

FOLDER = pathlib.Path(os.environ["WANDB_DIR"])

class Error(Exception): pass
class UsageError(Error): pass

class Table:
    def __init__(self, columns=None, data=None):
        self.columns, self.data = columns, data

class Run:
    def __init__(self, file): self.file = file
    def log(self, data, step=None):
        if (FOLDER / "down").exists(): raise Error("The wandb backend process\\nis gone")
        rows = {k: v.data if isinstance(v, Table) else v for k, v in data.items()}
        with self.file.open("a") as file: file.write(json.dumps({"step": step, **rows}) + "\\n")
    def finish(self, exit_code=None):
        with self.file.open("a") as file: file.write(json.dumps({"exit_code": exit_code}) + "\\n")

def init(project=None, id=None, name=None, resume=None, config=None):
    if not os.environ.get("WANDB_API_KEY"):
        raise UsageError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")
    file = FOLDER / id
    assert resume == "allow" or not file.exists()
    with file.open("a") as stream: stream.write(json.dumps({"config": config}) + "\\n")
    return Run(file)
"""

MLFLOW = """
import collections, json, os, pathlib, types, uuid

FOLDER = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"])

class MlflowException(Exception):
    def __init__(self, message, error_code="INTERNAL_ERROR"):
        super().__init__(message)
        self.error_code = error_code

Metric = collections.namedtuple("Metric", "key value timestamp step")
entities = types.SimpleNamespace(Metric=Metric)

def _write(run_id, **what):
    if (FOLDER / "down").exists(): raise MlflowException("API request failed with exception\\nMax retries exceeded")
    with (FOLDER / run_id).open("a") as file: file.write(json.dumps(what) + "\\n")

def _known(run_id):
    if not (FOLDER / run_id).exists():
        raise MlflowException(f"Run with id={run_id} not found", "RESOURCE_DOES_NOT_EXIST")

def set_experiment(experiment_name):
    if (FOLDER / "down").exists(): raise MlflowException("API request failed with exception\\nMax retries exceeded")
    return types.SimpleNamespace(experiment_id="1")

class MlflowClient:
    def create_run(self, experiment_id, run_name=None):
        run_id = uuid.uuid4().hex
        _write(run_id, status="RUNNING")
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))
    def update_run(self, run_id, status=None):
        _known(run_id)
        _write(run_id, status=status)
    def log_param(self, run_id, key, value): _write(run_id, param={key: value})
    def log_batch(self, run_id, metrics=()): _write(run_id, step=metrics[0].step, **{m.key: m.value for m in metrics})
    def log_text(self, run_id, text, artifact_file): _write(run_id, text=text, file=artifact_file)
    def set_terminated(self, run_id, status=None): _write(run_id, status=status)
    def get_metric_history(self, run_id, key):
        _known(run_id)
        lines = [json.loads(line) for line in (FOLDER / run_id).read_text().splitlines()]
        return [Metric(key, line[key], 0, line["step"]) for line in lines if key in line]
"""


def install(monkeypatch: Any, tmp_path: Path) -> dict[str, Path]:
    """Put both on the path of this test; the folders of their services by name. A file `down` in one breaks it."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "wandb.py").write_text(WANDB)
    (packages / "mlflow.py").write_text(MLFLOW)
    folders = {name: tmp_path / f"{name}-service" for name in ("wandb", "mlflow")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("WANDB_DIR", str(folders["wandb"]))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(folders["mlflow"]))
    return folders


def logged(file: Path) -> list[dict[str, Any]]:
    """All that a run was told."""
    return [json.loads(line) for line in file.read_text().splitlines()]
