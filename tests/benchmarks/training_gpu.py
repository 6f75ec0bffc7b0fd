"""One GPU: how much of its peak the training reaches, and whether the planner knows its memory. Needs no cluster.

    python tests/benchmarks/training_gpu.py
    python tests/benchmarks/training_gpu.py --tiny

Trains models with random weights of the shapes of Qwen2.5 through the project's own DeepSpeed engine and loss, a few
steps each, every case in a process of its own, and prints one JSON object per case: tokens/s, MFU, the shares of the
parts of a step, and predicted and measured peak memory; or that the memory was not enough. MFU counts operations as
the planner does: 6 per parameter and token and causal attention, none for what is computed again. `--tiny` runs the
same code on a small shape, on a CPU too, to show that it works.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As the workers of the job have it. Read when the first memory is taken.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch

from actors import train_engine
from actors.train_engine import TrainTask
from s1.template import Example
from s1.training.hardware import DEVICES
from s1.training.loss import pack
from s1.training.memory import GIB, Run, components
from s1.training.shapes import KNOWN, ModelShape


@dataclass(frozen=True)
class Case:
    """One sequence of `tokens` a step."""

    shape: ModelShape
    tokens: int
    checkpointing: bool
    offload: bool = False


# The first is the one whose MFU counts, the others are for the memory.
CASES = [
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 16384, checkpointing=False),
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 16384, checkpointing=True),
    Case(KNOWN["Qwen/Qwen2.5-1.5B-Instruct"], 32768, checkpointing=True, offload=True),
    Case(KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], 16384, checkpointing=False),
    Case(KNOWN["Qwen/Qwen2.5-3B-Instruct"], 16384, checkpointing=True),
]
SMALL = ModelShape(2, 64, 128, 4, 2, 16, 1000, tied=True, qkv_bias=True)
TINY = [Case(SMALL, 512, checkpointing=True), Case(SMALL, 512, checkpointing=True, offload=True)]


def write_model(shape: ModelShape, folder: Path) -> str:
    """A model of `shape` with random weights, in Hugging Face layout."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == shape.num_parameters
    model.save_pretrained(folder)
    return str(folder)


def task(model: str, shape: ModelShape, tokens: int, checkpointing: bool, offload: bool) -> TrainTask:
    return TrainTask(
        model=model,
        shape=shape,
        examples="",
        held_out=None,
        export_folder="",
        stop_ids=[],
        steps=10,
        warmup_steps=1,
        batch_size=1,
        micro_batch_size=1,
        micro_batch_tokens=None,
        block_size=tokens,
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
        attention="sdpa",
        activation_checkpointing=checkpointing,
        recompute_above_tokens=None,
        offload_activations=offload,
        loss_chunk_tokens=4096,
        samples=0,
        sample_tokens=1,
        spike_factor=0.0,
        save_steps=0,
        save_in_background=False,
        threads=os.cpu_count() or 1,
    )


def measure(case: Case, steps: int, peak_tflops: float) -> dict[str, Any]:
    """Train on one sequence for some steps."""
    shape, tokens, checkpointing, offload = case.shape, case.tokens, case.checkpointing, case.offload
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        asked = task(write_model(shape, Path(folder)), shape, tokens, checkpointing, offload)
        engine = train_engine.build(asked, universal=False)
    rng = random.Random(0)
    example = Example([rng.randrange(shape.vocabulary) for _ in range(tokens)], 64)
    batch = pack([example], device, num_chunks=-(-(tokens - 64) // asked.loss_chunk_tokens))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    parts: list[dict[str, float]] = []
    for _ in range(steps + 1):
        timed: dict[str, float] = {}
        loss = clocked(timed, "forward", device, lambda: engine(batch))
        clocked(timed, "backward", device, lambda loss=loss: engine.backward(loss, scale_wrt_gas=False))
        clocked(timed, "optimizer", device, engine.step)
        parts.append(timed)
    mean = {name: statistics.mean(timed[name] for timed in parts[1:]) for name in parts[0]}
    seconds = sum(mean.values())
    run = Run(
        shape,
        1,
        1,
        "bf16",
        "sdpa",
        checkpointing,
        asked.loss_chunk_tokens,
        1,
        1,
        None,
        packing=True,
        offload_activations=offload,
    )
    predicted = {name: round(size / GIB, 2) for name, size in components(run, tokens, tokens).items() if size}
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "parameters": shape.num_parameters,
        "tokens": tokens,
        "activation_checkpointing": checkpointing,
        "offload_activations": offload,
        "loss": round(float(loss.detach()), 4),
        "tokens_per_s": round(tokens / seconds, 1),
        "tflops": round(shape.flops(tokens) / seconds / 1e12, 3),
        "mfu": round(shape.flops(tokens) / seconds / 1e12 / peak_tflops, 3) if peak_tflops else None,
        "shares": {name: round(part / seconds, 3) for name, part in mean.items()},
        "predicted_gib": round(sum(predicted.values()), 2),
        "predicted_components": predicted,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        # What the device lacks: allocator, context and libraries together.
        found["measured_gib"] = round((total - free) / GIB, 2)
        found["measured_allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        found["predicted_over_measured"] = round(found["predicted_gib"] / found["measured_gib"], 3)
    return found


def clocked(timed: dict[str, float], name: str, device: torch.device, call: Callable[[], Any]) -> Any:
    started = time.monotonic()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    timed[name] = time.monotonic() - started
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small shape, for any machine")
    parser.add_argument("--case", type=int, help="only this case, counted from 0")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the device; else known by its name")
    given = parser.parse_args()
    if not (given.tiny or torch.cuda.is_available()):
        raise SystemExit("no GPU here: try --tiny")
    cases = TINY if given.tiny else CASES
    if given.case is None:
        for number in range(len(cases)):  # in processes of their own: what one leaves behind is not the next one's
            subprocess.run([sys.executable, *sys.argv, f"--case={number}"], check=True)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    case = cases[given.case]
    try:
        found = measure(case, given.steps, given.peak_tflops or known_peak())
    except torch.cuda.OutOfMemoryError:
        found = {"parameters": case.shape.num_parameters, "tokens": case.tokens, "out_of_memory": True}
    print(json.dumps(found), flush=True)
    torch.distributed.destroy_process_group()


def known_peak() -> float:
    """bf16 peak of the GPU by its name, 0 when it is not known."""
    name = torch.cuda.get_device_name().lower() if torch.cuda.is_available() else ""
    return next((known.peak_tflops for key, known in DEVICES.items() if key.split("-")[0] in name), 0.0)


if __name__ == "__main__":
    main()
