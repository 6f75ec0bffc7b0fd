"""The model card: what a trained model was made of and what it took, as Markdown with a Hugging Face header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CURVE_POINTS = 12
HYPER_PARAMETERS = (
    *("epochs", "batch_size", "learning_rate", "warmup_ratio", "adam_beta1", "adam_beta2", "weight_decay"),
    *("max_grad_norm", "block_size", "precision", "template", "packing", "lora_rank", "seed"),
)


def render(
    options: Mapping[str, Any], data: Mapping[str, int], facts: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
) -> str:
    """The card of a training with `options` on `data` (counts of examples), with its facts and its record of steps."""
    model = str(options["model"])
    # A hub only knows its own names.
    base = [f"base_model: {model.partition('@')[0]}"] if model.count("/") == 1 and model[0] not in "./~" else []
    hardware = options["hardware"]
    unit = "CPU worker" if hardware["device"] == "cpu" else "GPU"
    # A price of the user's may have changed between attempts, a typical one has not.
    price = " at a typical price" if hardware["usd_per_hour"] is None else ""
    cost = f", ${facts['cost_usd']:.2f}{price}" if facts["cost_usd"] else ""
    held_out = (
        [] if facts["held_out_loss"] is None else [f"Loss of held-out traces at the end: {facts['held_out_loss']:.4f}."]
    )
    return "\n".join(
        [
            "---",
            *base,
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [s1, test-time-scaling, reasoning]",
            "---",
            "",
            f"# {model}, fine-tuned on reasoning traces",
            "",
            "Made with the s1 recipe (Simple test-time scaling, arXiv 2501.19393): supervised fine-tuning on selected",
            "questions with their thinking and answers; the loss counts thinking and answer only.",
            "",
            "## Data",
            "",
            *_table([(name, f"{count:,}") for name, count in data.items()], ("examples", "number")),
            "",
            "No trace was cut. The questions are in the run's `selection` table.",
            "",
            "## Hyper-parameters",
            "",
            *_table([(name, f"{options[name]}") for name in HYPER_PARAMETERS], ("option", "value")),
            "",
            "## Training",
            "",
            f"{facts['steps']:,} steps, {facts['tokens']:,} tokens in {facts['train_seconds'] / 60:,.1f} minutes on "
            f"{options['workers']} x {hardware['device']}.",
            "Billed, with loading, checkpoints, evaluation, export and what was repeated after failures: "
            f"{facts['billed_seconds'] / 60:,.1f} minutes, {facts['billed_worker_hours']:,.2f} {unit} hours{cost}.",
            f"Largest memory of a worker: {facts['peak_gib']:.1f} GiB.",
            *held_out,
            "",
            *_table(_points(curve), ("step", "loss", "learning rate")),
            "",
            "Every step is in `loss.json`.",
            "",
        ]
    )


def _points(curve: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """At most CURVE_POINTS evenly spaced steps, the first and the last among them."""
    last = len(curve) - 1
    chosen = sorted({round(index * last / (CURVE_POINTS - 1)) for index in range(CURVE_POINTS)})
    return [(str(curve[i]["step"]), f"{curve[i]['loss']:.4f}", f"{curve[i]['learning_rate']:.3g}") for i in chosen]


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
