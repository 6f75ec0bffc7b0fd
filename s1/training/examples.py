"""SELECTION → EXAMPLES: what the model is shown, token by token."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s1 import schema
from s1.errors import UserError
from s1.template import Template

TooLong = Literal["error", "drop"]
COLUMNS = ["question_id", "question", "thinking", "attempt"]


def render(selection: pa.Table, template: Template, block_size: int, too_long: TooLong) -> tuple[pa.Table, int]:
    """EXAMPLES of `selection` in its order, and the number of rows that were set aside because they do not fit.

    A trace is never cut: cut traces make a model think longer and answer worse (PAPER.md, section 2). UserError for a
    table without traces, for a row without one, and, unless `too_long` is "drop", for one longer than `block_size`.
    """
    rows: list[dict[str, Any]] = []
    too_long_rows = 0
    for row in selection.select(COLUMNS).to_pylist():
        for name in ("thinking", "attempt"):
            if not row[name]:
                raise UserError(f"question {row['question_id']}: {name} is empty; run distill and select again")
        example = template.render_example(row["question"], row["thinking"], row["attempt"])
        length = len(example.input_ids)
        if length > block_size:
            if too_long == "error":
                raise UserError(
                    f"question {row['question_id']}: {length} tokens do not fit block_size={block_size}; raise it, or "
                    "set too_long=drop to leave such examples out"
                )
            too_long_rows += 1
            continue
        rows.append(
            {
                "question_id": row["question_id"],
                "input_ids": example.input_ids,
                "num_prompt_tokens": example.num_prompt_tokens,
            }
        )
    if not rows:
        reason = f"all {too_long_rows} exceed block_size={block_size}" if too_long_rows else "the table is empty"
        raise UserError(f"no traces to train on: {reason}; select more questions or raise block_size")
    return schema.to_table(rows, schema.EXAMPLES), too_long_rows


def hold_out(examples: pa.Table, num: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """`examples` without `num` of them, drawn by `seed`, and those. UserError when none would be left to train on."""
    is_out = drawn(examples.num_rows, num, seed)
    return examples.filter(pa.array(~is_out)), examples.filter(pa.array(is_out))


def drawn(num_examples: int, num: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which of `num_examples` are the `num` that are held out. UserError when none would be left to train on."""
    if num >= num_examples:
        raise UserError(f"held_out={num} leaves none of {num_examples} examples to train on; hold out fewer")
    is_out = np.zeros(num_examples, dtype=bool)
    is_out[np.random.default_rng([seed, 1]).choice(num_examples, num, replace=False)] = True
    return is_out
