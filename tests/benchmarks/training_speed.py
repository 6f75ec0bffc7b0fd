"""Tokens per second of the training job and of TRL's SFTTrainer on the same samples, batches and precision.

    python tests/benchmarks/training_speed.py --steps 8 --rounds 2
    python tests/benchmarks/training_speed.py --no-peer -- --no-packing --micro-batch-size 8

Writes a selection of worked sums of mixed lengths into a temporary run folder, runs `jobs.train` on it, then TRL with
the same examples in the same order, the same schedule, the same loss (mean over a sequence's counted tokens, averaged
over the batch), as many threads, and the same precision: what this machine computes fastest in, float32 or bf16 with
32-bit master weights. The job packs, as it does by default on a laptop. TRL pads: its own packing wants kernels for
GPUs, or lets samples see each other. Its number of examples per pass and its attention are those that are the fastest
for it on a CPU. The two take turns for some rounds. Prints one JSON object; what follows `--` goes to the job.

Exit code 1 when a bound is missed, which is said on stderr: the median of the rounds is at least 1.3 times TRL's tokens
per second, and the losses of every step are equal within 0.1% (2% in bf16). TRL is no dependency of the project; it is
in the extra `bench`, and is installed beside the pinned packages with:
pip install --no-deps trl==1.16.0
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from jobs.train_options import TrainOptions
from s1 import models, schema
from s1.artifacts import Artifact, Manifest
from s1.hashing import question_id
from s1.training import batches, schedule

MODEL = "embedded:smollm2-135m-instruct"
BATCH, RATE = 16, 1e-4
PEER = "trl==1.16.0"  # as in the extra `bench`
MIN_RATIO = 1.3
# Of the losses of any step, relative: both compute the same, in another order of additions.
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 2e-2}
OPTIONS = {
    "epochs": "5",
    "batch-size": str(BATCH),
    "micro-batch-tokens": "2048",
    "learning-rate": str(RATE),
    "block-size": "1024",
    "lora-rank": "0",
    "save-steps": "0",
}


def row(number: int, rng: random.Random) -> dict[str, object]:
    """A sum of 2 to 24 numbers of two digits, worked term by term: from 77 to 450 tokens, most of them short."""
    terms = [rng.randint(10, 99) for _ in range(round(2 * 12 ** rng.random()))]
    lines, total = [], 0
    for term in terms:
        lines.append(f"{total} + {term} = {total + term}")
        total += term
    question = f"({number}) What is {' + '.join(map(str, terms))}?"
    return {
        "question_id": question_id(question),
        "question": question,
        "thinking": "\n".join(lines),
        "attempt": str(total),
        "pick_order": number,
    }


def write_selection(folder: Path, rows: int) -> None:
    rng = random.Random(0)
    with Artifact(f"{folder}/selection").staging() as staging:
        staging.write_table(schema.to_table([row(number, rng) for number in range(rows)], schema.SELECTION))
        staging.commit(Manifest("select", "0" * 16, {}, {}, "", rows_in=rows, rows_out=rows))


def run(command: list[str]) -> tuple[float, float]:
    """Seconds that `command` takes and the largest resident memory, in GiB, that one of its processes reached."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=sys.stderr)
    family = psutil.Process(process.pid)
    while process.poll() is None:
        for member in [family, *children(family)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, member.memory_info().rss)
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - started, peak / 2**30


def children(family: psutil.Process) -> list[psutil.Process]:
    try:
        return family.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def measure(command: list[str], curve: Path) -> dict[str, Any]:
    """Run `command`; what the records that it leaves in `curve` come to."""
    seconds, peak_gib = run(command)
    records = json.loads(curve.read_text())
    later = records[1:]  # the first step pays for first calls and page faults
    return {
        "tokens_per_s": round(sum(r["tokens"] for r in later) / sum(r["seconds"] for r in later), 1),
        "tokens_per_step": round(statistics.mean(r["tokens"] for r in records)),
        "seconds_per_step": round(statistics.mean(r["seconds"] for r in later), 2),
        "peak_gib": round(peak_gib, 2),
        "seconds_around": round(seconds - sum(r["seconds"] for r in records), 1),
        "losses": [round(r["loss"], 6) for r in records],
    }


def peer_batches(folder: Path, tokenizer: Any, steps: int) -> list[list[dict[str, Any]]]:
    """The job's examples of every step, as TRL takes them: input_ids and completion_mask."""
    from s1.template import Template
    from s1.training.examples import render

    table = Artifact(f"{folder}/selection").read(schema.SELECTION)
    rows: list[dict[str, Any]] = [
        {
            "input_ids": row["input_ids"],
            "completion_mask": [int(place >= row["num_prompt_tokens"]) for place in range(len(row["input_ids"]))],
        }
        for row in render(table, Template(tokenizer), 1024, "error")[0].to_pylist()
    ]
    return [[rows[index] for index in batches.batch(step, len(rows), BATCH, 0)] for step in range(steps)]


def peer_config(given: argparse.Namespace, folder: Path) -> Any:
    """The job's optimiser, schedule and precision in TRL's names."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=f"{folder}/trl",
        max_steps=given.steps,
        per_device_train_batch_size=given.peer_micro_batch,
        gradient_accumulation_steps=BATCH // given.peer_micro_batch,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.num_warmup_steps(given.steps, 0.05),
        weight_decay=1e-4,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=given.precision == "bf16",
        use_cpu=True,
        gradient_checkpointing=False,
        completion_only_loss=True,
        max_length=None,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        model_init_kwargs={"attn_implementation": given.peer_attention, "dtype": "float32"},
    )


def peer_trainer() -> Any:
    """TRL's trainer with the job's order of samples and the job's loss."""
    import torch
    from torch.nn import functional
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, *_: object, **__: object) -> torch.Tensor:
            # Without TRL's own loss and metrics, which would only make it slower.
            labels = inputs.pop("labels")[:, 1:]
            logits = model(**inputs).logits[:, :-1].float().transpose(1, 2)
            losses = functional.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
            return (losses.sum(1) / (labels != -100).sum(1)).sum() / BATCH

    return InOrder


def peer_clock() -> Any:
    """A callback that times steps, in `seconds`."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.seconds.append(time.monotonic() - self.started)

    return Clock()


def peer(given: argparse.Namespace, folder: Path) -> None:
    """TRL's trainer on the selection in `folder`: writes the same records as the job into trl.json."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer

    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(models.resolve(given.model))
    steps = peer_batches(folder, tokenizer, given.steps)
    clock = peer_clock()
    trainer = peer_trainer()(
        model=str(models.resolve(given.model)),
        args=peer_config(given, folder),
        train_dataset=Dataset.from_list([row for rows in steps for row in rows]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    records = [
        {"step": number, "tokens": sum(len(row["input_ids"]) for row in rows), "seconds": seconds, "loss": loss}
        for number, (rows, seconds, loss) in enumerate(zip(steps, clock.seconds, losses, strict=True), start=1)
    ]
    (folder / "trl.json").write_text(json.dumps(records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="times that both are measured, in turns")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument(
        "--precision", default=TrainOptions().number_type, choices=tuple(MAX_DIFFERENCE), help="of both"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each")
    parser.add_argument("--peer-micro-batch", type=int, default=2, help="examples per pass of TRL; it pads them")
    parser.add_argument("--peer-attention", default="eager", help="of TRL")
    parser.add_argument("--no-peer", action="store_true", help="the job alone")
    parser.add_argument("--as-peer", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="after --: options of jobs.train")
    given = parser.parse_args()
    if given.as_peer:
        peer(given, Path(given.as_peer))
        return
    if not given.no_peer and importlib.util.find_spec("trl") is None:
        print(f"TRL is missing: pip install --no-deps {PEER}; or measure the job alone with --no-peer", file=sys.stderr)
        raise SystemExit(2)
    os.environ.update(RAY_worker_niceness="0")  # as the peer, where others want the processors too
    rounds = [one_round(given) for _ in range(given.rounds)]
    result: dict[str, Any] = {"precision": given.precision, "options": given.options, "rounds": rounds}
    if not given.no_peer:
        result["ratio"] = round(statistics.median(found["ratio"] for found in rounds), 2)
    print(json.dumps(result))
    missed = [] if given.no_peer else missed_bounds(result)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


def missed_bounds(result: dict[str, Any]) -> list[str]:
    """What is said of the job beside TRL and does not hold."""
    missed: list[str] = []
    if result["ratio"] < MIN_RATIO:
        missed.append(f"tokens/s over TRL: {result['ratio']}, at least {MIN_RATIO}")
    apart, most = max(found["largest_difference_of_losses"] for found in result["rounds"]), MAX_DIFFERENCE
    if not apart <= most[result["precision"]]:
        missed.append(f"losses apart from those of TRL by {apart:.2g}, at most {most[result['precision']]}")
    return missed


def one_round(given: argparse.Namespace) -> dict[str, Any]:
    """The job, then TRL, on a fresh folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_selection(folder, given.rows)
        options = {
            **OPTIONS,
            "model": given.model,
            "threads-per-worker": str(given.threads),
            "precision": given.precision,
            "max-steps": str(given.steps),
            "run-dir": name,
        }
        # The plan is about the preset's machine, not about this one.
        flags = ("--packing", "--ignore-plan", *(f"--{key}={value}" for key, value in options.items()))
        command = [sys.executable, "-m", "jobs.train", *flags]
        found: dict[str, Any] = {"job": measure([*command, *given.options], folder / "checkpoint" / "loss.json")}
        if given.no_peer:
            return found
        same = ["--model", given.model, "--steps", str(given.steps), "--peer-attention", given.peer_attention]
        size = ["--peer-micro-batch", str(given.peer_micro_batch), "--threads", str(given.threads)]
        size += ["--precision", given.precision]
        found["trl"] = measure([sys.executable, __file__, "--as-peer", name, *same, *size], folder / "trl.json")
        pairs = list(zip(found["job"]["losses"], found["trl"]["losses"], strict=True))
        found["largest_difference_of_losses"] = max(abs(a - b) / b for a, b in pairs)
        found["ratio"] = round(found["job"]["tokens_per_s"] / found["trl"]["tokens_per_s"], 2)
        return found


if __name__ == "__main__":
    main()
