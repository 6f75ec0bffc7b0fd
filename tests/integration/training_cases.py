"""A selection and a model small enough to train in seconds."""

from __future__ import annotations

import random
from pathlib import Path

from s1 import models, schema
from s1.artifacts import Artifact, Manifest
from s1.hashing import question_id


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


def write_model(folder: Path, kind: str = "llama") -> Path:
    """A model of 1.6 million random weights with the embedded model's tokenizer."""
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
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
