"""A selection and a model small enough to train in seconds."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.train_options import TrainOptions
from s1 import models, schema
from s1.artifacts import Artifact, Manifest
from s1.hashing import question_id
from s1.template import Template
from s1.training import batches, lora, schedule
from s1.training.examples import render

if TYPE_CHECKING:
    from pyarrow import Table
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from s1.training.shapes import ModelShape


def committed(run_dir: Path) -> set[Path]:
    """The folders of the checkpoints that Ray Train has recorded."""
    deadline = time.monotonic() + 300
    while True:
        try:
            return {
                snapshot.parent / item["checkpoint_dir_name"]
                for snapshot in run_dir.glob("_scratch/*/workers/checkpoint_manager_snapshot.json")
                for item in json.loads(snapshot.read_text())["checkpoint_results"]
            }
        except (json.JSONDecodeError, FileNotFoundError):  # it is being written, or removed
            assert time.monotonic() < deadline
            time.sleep(0.01)


def last_committed(run_dir: Path) -> Path | None:
    return max(committed(run_dir), default=None)


def write_selection(run_dir: Path, size: int) -> None:
    """Sums with a worked solution, of lengths that differ."""
    rng = random.Random(0)
    rows = []
    for number in range(size):
        terms = [rng.randint(1, 9) for _ in range(rng.randint(2, 12))]
        question = f"{number}: " + " + ".join(map(str, terms))
        totals = [sum(terms[: end + 1]) for end in range(len(terms))]
        rows.append(
            {
                "question_id": question_id(question),
                "question": question,
                "thinking": "\n".join(map(str, totals)),
                "attempt": str(totals[-1]),
                "pick_order": number,
            }
        )
    with Artifact(str(run_dir / "selection")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.SELECTION))
        staging.commit(Manifest("select", "f" * 16, {}, {}, "0", rows_in=size, rows_out=size))


def write_model(folder: Path, kind: str = "llama", kv_heads: int = 1) -> Path:
    """A model of 1.6 million random weights with the embedded model's tokenizer, twice as many heads as `kv_heads`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.resolve("embedded:smollm2-135m-instruct"))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2 * kv_heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen2_config(shape: ModelShape) -> PretrainedConfig:
    """The configuration of a Qwen2 of `shape`."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
    )


def examples_of(options: TrainOptions, run_dir: str) -> Table:
    """EXAMPLES of the selection in `run_dir`."""
    from transformers import AutoTokenizer

    table = Artifact(f"{run_dir}/selection").read(schema.SELECTION)
    return render(table, Template(AutoTokenizer.from_pretrained(options.model)), options.block_size, "error")[0]


def plain_loop(options: TrainOptions, run_dir: str, until: int | None = None) -> tuple[list[float], PreTrainedModel]:
    """The recipe's training, one sequence at a time in one process, written to be read; losses and trained model.

    It ends after `until` steps.
    """
    import torch
    from torch.nn import functional
    from transformers import AutoModelForCausalLM

    # Other processes of the tests use the cores too, and threads that spin at every small operation keep them from it.
    torch.set_num_threads(1)
    rows = examples_of(options, run_dir).to_pylist()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    if options.lora_rank:
        lora.adapt(model, options.lora_rank, options.seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(options.adam_beta1, options.adam_beta2))
    steps = schedule.num_steps(len(rows), options.batch_size, options.epochs, options.max_steps)
    warmup = schedule.num_warmup_steps(steps, options.warmup_ratio)
    losses = []
    for step in range(steps)[:until]:
        indices = batches.batch(step, len(rows), options.batch_size, options.seed)
        means = []
        for index in indices:
            ids, start = torch.tensor(rows[index]["input_ids"]), rows[index]["num_prompt_tokens"]
            logits = model(ids[None]).logits[0]
            means.append(functional.cross_entropy(logits[start - 1 : -1], ids[start:]))
        loss = torch.stack(means).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step, steps, warmup, options.learning_rate)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def plain_weights(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of a plain model, with what LoRA trained added into them."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        update = lora.update_of(name)
        if not lora.is_update(name):
            parts = [parameters[part].detach() for part in update or ()]
            found[lora.plain_name(name)] = lora.merged(parameter.detach(), *parts) if parts else parameter.detach()
    return found
