"""What a real MLflow server and the real client of Weights & Biases keep of a training.

    python tests/benchmarks/trackers.py

A small model is trained and told to stop after a checkpoint; the same command goes on. The server is asked, and what
W&B's client wrote (offline, there is no account) is read: the points of five curves, that the others are there, the
samples, an option, how the runs ended. Then a second training loses the server after its first steps, and a third one
never finds it. Prints one JSON object; exit code 1, and a line on stderr for each fault, when a service keeps something
else than the training's own loss curve, or when a server that is gone keeps a training.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "training"))

from training_cases import last_committed, write_model, write_selection

from jobs.ray_session import ray_session
from jobs.runner import execute
from jobs.termination import EXIT_CODE
from jobs.tracking import CURVES
from jobs.train import JOB
from jobs.train_options import TrainOptions
from s1.errors import UserError

# Of the record itself; the others follow from them and the time of day.
RECORDED = ("loss/train", "loss/held_out", "train/learning_rate", "train/grad_norm", "memory/gib_per_worker")
OF_OTHERS = {"speed/mfu", "speed/straggling", "speed/slowest_rank"}  # of devices with a known peak, of several workers
EXAMPLES, HELD_OUT = 36, 4
MAX_WAIT_S = 60.0  # for a server that is not there, before the training starts


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of its own, at its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command + stores, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{place}/health").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.2)
        yield place, process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def options_of(model: Path, *trackers: str) -> TrainOptions:
    same = {"batch_size": 8, "epochs": 6, "learning_rate": 1e-3, "block_size": 256, "precision": "fp32"}
    how = {"threads_per_worker": 1, "cpus_per_worker": 0.5, "save_steps": 4, "save_in_background": False}
    seen = {"held_out": HELD_OUT, "samples": 1, "sample_tokens": 4, "hardware": {"usd_per_hour": 3.6}}
    return TrainOptions.model_validate({**same, **how, **seen, "model": str(model), "trackers": trackers})


def at_the_first_checkpoint(run_dir: Path, do: Callable[[], None]) -> threading.Thread:
    """Does it as soon as the training in `run_dir` has committed one."""

    def wait_and_do() -> None:
        while last_committed(run_dir) is None:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=wait_and_do, daemon=True)
    thread.start()
    return thread


def curve(run_dir: Path) -> list[dict[str, Any]]:
    return json.loads((run_dir / "checkpoint" / "loss.json").read_text())


def interrupted_and_continued(options: TrainOptions, run_dir: Path) -> int:
    """Steps before the interruption."""
    at_the_first_checkpoint(run_dir, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        execute(JOB, options, str(run_dir))
    except SystemExit as stopped:
        if stopped.code != EXIT_CODE:
            raise
    else:
        raise SystemExit("the training came to its end before it was told to stop; give it more steps")
    saved = last_committed(run_dir)
    assert saved is not None
    execute(JOB, options, str(run_dir))
    return int(saved.name.removeprefix("step-"))


def kept_by_mlflow(records: list[dict[str, Any]]) -> list[str]:
    """What the server has that the training has not, or the other way round."""
    from mlflow import MlflowClient

    client, wrong = MlflowClient(), list[str]()
    experiment = client.get_experiment_by_name("s1")
    runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
    if len(runs) != 1:
        return [f"mlflow: {len(runs)} runs, not one"]
    run, run_id = runs[0], runs[0].info.run_id
    if run.info.status != "FINISHED":
        wrong.append(f"the run is {run.info.status}")
    if run.data.params.get("learning_rate") != "0.001":
        wrong.append(f"learning_rate is {run.data.params.get('learning_rate')}")
    for name in RECORDED:
        told = [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        if sorted(told) != points(records, CURVES[name]):
            wrong.append(f"{name}: {sorted(told)}")
    if missing := sorted(set(CURVES) - set(run.data.metrics) - OF_OTHERS):
        wrong.append(f"curves that are not there: {', '.join(missing)}")
    files = [file.path for file in client.list_artifacts(run_id, "samples")]
    due = [f"samples/step-{record['step']:06d}.md" for record in records if record.get("samples")]
    if files != due:
        wrong.append(f"samples: {files}, not {due}")
    return [f"mlflow: {line}" for line in wrong]


def kept_by_wandb(folder: Path, records: list[dict[str, Any]]) -> list[str]:
    """The same for the files that W&B's client would send; a later run of the same id goes on in the earlier one."""
    history: dict[int, dict[str, Any]] = {}
    ends, ids = list[int](), set[str]()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for entry in written_by_wandb(file.read_bytes()):
            kind = entry.WhichOneof("record_type")
            if kind == "run":
                ids.add(entry.run.run_id)
            elif kind == "exit":
                ends.append(entry.exit.exit_code)
            elif kind == "history":
                line = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entry.history.item
                }
                # As the service does it: a step that it has is not taken a second time.
                history.setdefault(int(line["_step"]), line)
    wrong = list[str]()
    if (len(ids), ends) != (1, [1, 0]):
        wrong.append(f"runs {sorted(ids)} ended with {ends}, not one run that ended with 1 and then with 0")
    for name in RECORDED:
        told = [(step, line[name]) for step, line in sorted(history.items()) if name in line]
        if told != points(records, CURVES[name]):
            wrong.append(f"{name}: {told}")
    due = {r["step"]: [[s["question_id"], s["text"]] for s in r["samples"]] for r in records if r.get("samples")}
    tables = {step: line["samples/path"] for step, line in sorted(history.items()) if "samples/path" in line}
    found = {
        step: json.loads(next(folder.glob(f"wandb/*/files/{path}")).read_text())["data"]
        for step, path in tables.items()
    }
    if found != due:
        wrong.append(f"samples: {found}, not {due}")
    return [f"wandb: {line}" for line in wrong]


def written_by_wandb(content: bytes) -> Iterator[Any]:
    """The records in a file of W&B's client: a header, then LevelDB's log of protocol buffers, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    header, block, at, data = 7, 2**15, 7, b""
    while at + header <= len(content):
        if block - at % block < header:  # too little for another one
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        at += header
        data += content[at : at + length]
        at += length
        if kind in (1, 4):  # whole, or the last part
            entry = Record()
            entry.ParseFromString(data)
            data = b""
            yield entry


def points(records: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(record["step"], record[key]) for record in records if key in record]


def told_while(do: Callable[[], None]) -> tuple[float, list[str]]:
    """Seconds, and what was said about MLflow meanwhile."""
    said, started = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(said):
        do()
    return round(time.monotonic() - started, 1), [line for line in said.getvalue().splitlines() if "mlflow" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if missing := [name for name in ("mlflow", "wandb") if importlib.util.find_spec(name) is None]:
        print(f"trackers: needs {' and '.join(missing)}; run it as `make bench/trackers`", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as name, ray_session():
        folder = Path(name)
        model = write_model(folder / "model")
        runs = [folder / run for run in ("whole", "losing", "without")]
        for run in runs:
            write_selection(run, EXAMPLES)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
        with mlflow_server(folder) as (place, server):
            os.environ["MLFLOW_TRACKING_URI"] = place
            stopped_after = interrupted_and_continued(options_of(model, "wandb", "mlflow"), runs[0])
            records = curve(runs[0])
            faults = [*kept_by_mlflow(records), *kept_by_wandb(folder, records)]

            losing = options_of(model, "mlflow")
            at_the_first_checkpoint(runs[1], lambda: stop(server))
            seconds, told = told_while(lambda: execute(JOB, losing, str(runs[1])))
            if len(curve(runs[1])) != len(records) or len(told) != 1:
                faults.append(f"a server that is lost: {len(curve(runs[1]))} steps, told {told}")
        refused, started = "", time.monotonic()
        try:
            execute(JOB, losing, str(runs[2]))
        except UserError as error:
            refused = str(error)
        waited = round(time.monotonic() - started, 1)
        if "trackers=mlflow: cannot be used" not in refused or waited > MAX_WAIT_S:
            faults.append(f"a server that is not there, told after {waited} s: {refused or 'nothing'}")
        result = {
            "steps": len(records),
            "stopped_after": stopped_after,
            "training_that_loses_the_server_s": seconds,
            "told_then": told,
            "server_that_is_not_there_s": waited,
            "told_before_it_starts": refused,
            "faults": len(faults),
        }
    print(json.dumps(result, indent=2))
    for fault in faults:
        print(f"trackers: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
