"""The sentence encoder on Ray Data: a vector of unit length for every question."""

from __future__ import annotations

import os

import pyarrow as pa
from pydantic import Field, PositiveInt

from s1 import models
from s1.config import Config

# Options that change how encoders run, not what they give. `batch_rows` decides how questions are padded, `num_gpus` on
# what they are encoded: the rounding differs.
HOW = ("num_workers", "num_cpus")


class EmbedderOptions(Config):
    """Which encoder, and how it runs."""

    model: str = Field(default="embedded:minilm", description="Sentence encoder: embedded:NAME, a folder, or a hub id.")
    batch_rows: PositiveInt = Field(default=256, description="Questions given to a worker at a time.")
    num_workers: PositiveInt = Field(default=1, description="Number of encoders that work in parallel.")
    num_cpus: float = Field(default=1.0, gt=0, description="CPUs that Ray sets aside for an encoder.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of an encoder; 0: it runs on CPUs.")

    def environment(self) -> dict[str, str]:
        """Environment of an encoder's process; Ray would set the threads to its logical CPUs."""
        return {} if self.num_gpus else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.num_workers))}


class Embedder:
    """One encoder on a worker; takes and gives Arrow tables."""

    def __init__(self, options: EmbedderOptions) -> None:
        from sentence_transformers import SentenceTransformer

        device = "cuda" if options.num_gpus else "cpu"
        self._model = SentenceTransformer(str(models.resolve(options.model)), device=device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """question_id and embedding of every row."""
        vectors = self._model.encode(
            batch["question"].to_pylist(), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        column = pa.array(list(vectors), pa.list_(pa.float32()))
        return pa.table({"question_id": batch["question_id"], "embedding": column})
