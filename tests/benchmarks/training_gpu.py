"""One GPU: how much of its peak the training reaches, and whether the planner knows its memory. Needs no cluster.

    python tests/benchmarks/training_gpu.py
    python tests/benchmarks/training_gpu.py --attention flash_attention_3
    python tests/benchmarks/training_gpu.py --tiny

Trains models with random weights of the shapes of Qwen2.5 through the project's own DeepSpeed engine and loss, a few
steps each, every case in a process of its own, and prints one JSON object per case: tokens/s, MFU, the shares of the
parts of a step, the kernels of the attention, and predicted and measured peak memory; or that the memory was not
enough. One case is a pack whose sequences have other lengths in every step, as in a training. MFU counts operations as
the planner does: 6 per parameter and token and causal attention, none for what is computed again. Exit code 1 when a
bound is missed, which is said on stderr: 45% MFU of the first case, predicted memory within 10% of the measured one in
every case, of three shapes at least, no case out of memory that was predicted to fit, and none that failed. `--tiny`
runs the same code on a small shape, on a CPU too, to show that it works, without bounds. Otherwise all is left out
where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As the workers of the job have it. Read when the first memory is taken.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "training"))

from training_cases import qwen2_config

from actors import train_engine
from actors.collectives import finish
from actors.train_engine import TrainTask
from s1.template import Example
from s1.training.attention import FLASH_3
from s1.training.hardware import DEVICES
from s1.training.loss import pack
from s1.training.memory import GIB, Run, components
from s1.training.shapes import KNOWN, ModelShape

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`tokens` a step, in one sequence or in several whose lengths change."""

    shape: ModelShape
    tokens: int
    checkpointing: bool
    offload: bool = False
    num_sequences: int = 1


# The first is the one whose MFU counts, the others are for the memory.
CASES = [
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 16384, checkpointing=False),
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 16384, checkpointing=False, num_sequences=4),
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 16384, checkpointing=True),
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 32768, checkpointing=True, offload=True),
    Case(KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], 16384, checkpointing=False),
    Case(KNOWN["Qwen/Qwen2.5-3B-Instruct"], 16384, checkpointing=True),
]
LOSS_CHUNK_TOKENS = 4096
MIN_MFU, MAX_ERROR, MIN_SHAPES = 0.45, 0.1, 3
SMALL = ModelShape(2, 64, 128, 4, 2, 16, 1000, tied=True, qkv_bias=True)
TINY = [
    Case(SMALL, 512, checkpointing=True, num_sequences=3),
    Case(SMALL, 512, checkpointing=True, offload=True),
]
# By the driver's name of the device; other versions of a chip (PCIe, NVL) are slower.
NAMES = {
    "A100-SXM4-40GB": "a100-40",
    "A100-SXM4-80GB": "a100-80",
    "H100 80GB HBM3": "h100",
    "H200": "h200",
    "L40S": "l40s",
    "RTX 4090": "rtx-4090",
}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_model(shape: ModelShape, folder: Path) -> str:
    """A model of `shape` with random weights, in Hugging Face layout."""
    from transformers import AutoModelForCausalLM

    with device():
        model = AutoModelForCausalLM.from_config(qwen2_config(shape), dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == shape.num_parameters
    model.save_pretrained(folder)
    return str(folder)


def task(model: str, case: Case, attention: str) -> TrainTask:
    return TrainTask(
        model=model,
        shape=case.shape,
        examples="",
        held_out=None,
        export_folder="",
        stop_ids=[],
        steps=10,
        warmup_steps=1,
        batch_size=1,
        micro_batch_size=1,
        micro_batch_tokens=None,
        block_size=case.tokens,
        packing=True,
        sequence_parallel=1,
        secondary_shards=1,
        lora_rank=0,
        seed=0,
        learning_rate=1e-5,
        betas=(0.9, 0.95),
        weight_decay=1e-4,
        max_grad_norm=1.0,
        precision="bf16",
        zero_stage=1,
        attention=attention,
        activation_checkpointing=case.checkpointing,
        recompute_above_tokens=None,
        offload_activations=case.offload,
        loss_chunk_tokens=LOSS_CHUNK_TOKENS,
        samples=0,
        sample_tokens=1,
        spike_factor=0.0,
        save_steps=0,
        save_in_background=False,
        threads=os.cpu_count() or 1,
    )


def predict(case: Case) -> Row:
    """The case, and the memory that the planner expects of it."""
    run = Run(
        case.shape,
        1,
        1,
        "bf16",
        "sdpa",  # whose memory is that of all kernels but `eager`
        case.checkpointing,
        LOSS_CHUNK_TOKENS,
        1,
        1,
        None,
        packing=True,
        offload_activations=case.offload,
    )
    parts = {name: round(size / GIB, 2) for name, size in components(run, case.tokens, case.tokens).items() if size}
    return {
        "parameters": case.shape.num_parameters,
        "tokens": case.tokens,
        "sequences": case.num_sequences,
        "activation_checkpointing": case.checkpointing,
        "offload_activations": case.offload,
        "predicted_gib": round(sum(parts.values()), 2),
        "predicted_components": parts,
    }


def lengths_of(case: Case, rng: random.Random) -> list[int]:
    """Lengths of the sequences of one step; they differ by at most a factor of three."""
    parts = [rng.uniform(1, 3) for _ in range(case.num_sequences)]
    lengths = [int(case.tokens * part / sum(parts)) for part in parts]
    return [case.tokens - sum(lengths[1:]), *lengths[1:]]


def measure(case: Case, attention: str, steps: int, peak_tflops: float) -> Row:
    """Train for some steps."""
    shape, on_gpu = case.shape, torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        engine = train_engine.build(task(write_model(shape, Path(folder)), case, attention), universal=False)
    rng = random.Random(0)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    parts: list[dict[str, float]] = []
    flops: list[float] = []
    for _ in range(steps + 1):
        lengths, timed = lengths_of(case, rng), dict[str, float]()
        examples = [Example([rng.randrange(shape.vocabulary) for _ in range(length)], 64) for length in lengths]
        batch = pack(examples, device())
        loss = clocked(timed, "forward", lambda batch=batch: engine(batch))
        clocked(timed, "backward", lambda loss=loss: engine.backward(loss, scale_wrt_gas=False))
        clocked(timed, "optimizer", engine.step)
        parts.append(timed)
        flops.append(sum(map(shape.flops, lengths)))
    # The first step makes what the others find: kernels that are loaded, states of the optimizer, memory.
    mean = {name: statistics.mean(timed[name] for timed in parts[1:]) for name in parts[0]}
    seconds = sum(mean.values())
    tflops = statistics.mean(flops[1:]) / seconds / 1e12
    found: Row = {
        "loss": round(float(loss.detach()), 4),
        "tokens_per_s": round(case.tokens / seconds, 1),
        "tflops": round(tflops, 3),
        "mfu": round(tflops / peak_tflops, 3) if peak_tflops else None,
        "shares": {name: round(part / seconds, 3) for name, part in mean.items()},
    }
    if on_gpu:
        free, total = torch.cuda.mem_get_info()
        # What the device lacks: allocator, context and libraries together.
        found["measured_gib"] = round((total - free) / GIB, 2)
        found["measured_allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        found["attention_kernels"] = attention_kernels(lambda: engine(batch))
    return found


def attention_kernels(call: Callable[[], Any]) -> list[str]:
    """Names of the kernels of the attention that `call` starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    names = {event.key for event in profile.key_averages()}
    return sorted(name[:80] for name in names if any(part in name.lower() for part in ("flash", "fmha", "sdpa")))


def clocked(timed: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    started = time.monotonic()
    result = call()
    finish(device())
    timed[name] = time.monotonic() - started
    return result


def here(case: Case, attention: str, steps: int, peak_tflops: float | None) -> Row:
    """Predict and measure a case in this process."""
    on_gpu = torch.cuda.is_available()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    found = {"device": name, "attention": attention, **predict(case)}
    try:
        found |= measure(case, attention, steps, peak_tflops or known_peak())
    except torch.cuda.OutOfMemoryError:
        found |= {"out_of_memory": True, "device_gib": round(torch.cuda.mem_get_info()[1] / GIB, 2)}
    if "measured_gib" in found:
        found["predicted_over_measured"] = round(found["predicted_gib"] / found["measured_gib"], 3)
    torch.distributed.destroy_process_group()
    return found


def alone(number: int) -> Row:
    """A case in a process of its own: what one leaves behind is not the next one's."""
    command = [sys.executable, *sys.argv, f"--case={number}"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    found = {"case": number, "failed": done.returncode} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def missed_bounds(found: Sequence[Row]) -> list[str]:
    """What is said of the speed and of the planner and does not hold; the first case is the one whose MFU counts."""
    missed: list[str] = []
    mfu = found[0].get("mfu")
    if mfu is None:
        missed.append("MFU: not measured; if the device's peak is not known, give --peak-tflops")
    elif mfu < MIN_MFU:
        missed.append(f"MFU: {mfu}, at least {MIN_MFU}")
    missed += [f"case {case['case']} failed with code {case['failed']}" for case in found if "failed" in case]
    for case in (case for case in found if "failed" not in case):
        name = f"{case['parameters']} parameters, {case['tokens']} tokens"
        if case.get("out_of_memory") and case["predicted_gib"] <= case["device_gib"]:
            missed.append(f"{name}: out of {case['device_gib']} GiB, predicted {case['predicted_gib']}")
        elif not case.get("out_of_memory") and abs(case["predicted_over_measured"] - 1) > MAX_ERROR:
            both = f"predicted {case['predicted_gib']} GiB, measured {case['measured_gib']}"
            missed.append(f"{name}: {both}, at most {MAX_ERROR:.0%} apart")
    shapes = {case["parameters"] for case in found if "measured_gib" in case}
    if len(shapes) < MIN_SHAPES:
        missed.append(f"memory was measured for {len(shapes)} shapes, at least {MIN_SHAPES}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--attention", choices=["sdpa", FLASH_3], default="sdpa", help="as the option of the training")
    parser.add_argument("--tiny", action="store_true", help="a small shape, for any machine")
    parser.add_argument("--case", type=int, help="only this case, counted from 0, without bounds")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the device; else known by its name")
    given = parser.parse_args()
    if not (given.tiny or torch.cuda.is_available()):
        print("left out: no GPU here (--tiny shows that it works)", file=sys.stderr)
        return
    cases = TINY if given.tiny else CASES
    if given.case is not None:
        print(json.dumps(here(cases[given.case], given.attention, given.steps, given.peak_tflops)), flush=True)
        return
    found = [alone(number) for number in range(len(cases))]
    missed = [] if given.tiny else missed_bounds(found)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


def known_peak() -> float:
    """bf16 peak of the GPU by its name, 0 when it is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((DEVICES[key].peak_tflops for known, key in NAMES.items() if name.endswith(known)), 0.0)


if __name__ == "__main__":
    main()
