"""The loop that every training worker runs inside `ray.train.torch.TorchTrainer`, with DeepSpeed.

load → resume → (batch → loss → step → record → checkpoint)* → export. Every worker makes the same calls in the same
order.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.journal import Record
from s1 import models, schema
from s1.artifacts import Artifact
from s1.template import Example
from s1.training import batches, schedule

if TYPE_CHECKING:
    import torch
    from pyarrow import Table

CHECKPOINT_TAG = "state"


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know; the same for all of them."""

    model: str
    examples: str  # artifact of EXAMPLES
    export_folder: str
    stop_ids: list[int]
    steps: int
    warmup_steps: int
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    seed: int
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    precision: Literal["bf16", "fp32"]
    zero_stage: Literal[1, 2, 3]
    attention: str
    activation_checkpointing: bool
    loss_chunk_tokens: int
    save_steps: int
    threads: int


def train_loop(config: dict[str, Any]) -> None:
    """`config`: `task` (TrainTask) and `journal` (handle of a Journal actor)."""
    import ray.train

    task, journal = config["task"], config["journal"]
    rank = ray.train.get_context().get_world_rank()
    worker = Worker(task, rank, ray.train.get_context().get_world_size())
    records = worker.restore()
    if rank == 0:
        journal.restart.remote(records)
    for step in range(len(records), task.steps):
        record = worker.train_step(step)
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            if rank == 0:
                ray.get(journal.stop.remote(worker.not_finite(step, record)))
            return
        records.append(record)
        if rank == 0:
            journal.add.remote(record)
        if task.save_steps and (step + 1) % task.save_steps == 0 and step + 1 < task.steps:
            worker.save(records)
    worker.export()


class Worker:
    """One rank: its DeepSpeed engine and its view of the examples."""

    def __init__(self, task: TrainTask, rank: int, num_ranks: int) -> None:
        import torch
        from ray.train.torch import get_device

        self.task, self.rank, self.num_ranks = task, rank, num_ranks
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
        self.device = get_device()
        self.examples: Table = Artifact(task.examples).read(schema.EXAMPLES)
        self.engine = _engine(task)

    def example(self, index: int) -> Example:
        row = self.examples.slice(index, 1).to_pylist()[0]
        return Example(row["input_ids"], row["num_prompt_tokens"])

    def batch(self, step: int) -> list[int]:
        return batches.batch(step, self.examples.num_rows, self.task.batch_size, self.task.seed)

    def train_step(self, step: int) -> Record:
        """One optimiser step; the gradient is that of the mean over the batch of the per-sequence means."""
        import torch
        from torch import distributed

        from s1.training.loss import padded_length

        started = time.monotonic()
        examples = [self.example(index) for index in self.batch(step)]
        lengths = [len(example.input_ids) for example in examples]
        padded = [padded_length(length) for length in lengths]
        passes = batches.passes(padded, self.num_ranks, self.task.micro_batch_size, self.task.micro_batch_tokens)
        rate = schedule.learning_rate(step, self.task.steps, self.task.warmup_steps, self.task.learning_rate)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for number, ranks in enumerate(passes, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(passes))
            loss = self._forward([[examples[position] for position in positions] for positions in ranks])
            # DeepSpeed averages over the ranks; the batch's mean is wanted, whatever each rank holds of it.
            self.engine.backward(loss * (self.num_ranks / len(examples)), scale_wrt_gas=False)
            total += loss.detach() / len(examples)
        distributed.all_reduce(total)
        loss_value = float(total)
        if math.isfinite(loss_value):
            self.engine.step()
        # DeepSpeed says -1 for a norm that is not a number.
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        return {
            "step": step + 1,
            "loss": loss_value,
            "learning_rate": rate,
            "grad_norm": norm if norm >= 0 else math.inf,
            "tokens": sum(lengths),
            "seconds": round(time.monotonic() - started, 4),
        }

    def _forward(self, ranks: list[list[Example]]) -> torch.Tensor:
        """Sum of the losses of this rank's examples in a pass of all ranks."""
        from s1.training.loss import collate

        positions = max(sum(_num_counted(example) for example in examples) for examples in ranks)
        num_chunks = -(-positions // self.task.loss_chunk_tokens)
        mine = ranks[self.rank]
        # A rank that has nothing left to do still takes part: collective operations wait for it.
        spare = min((example for examples in ranks for example in examples), key=_num_tokens)
        return self.engine(collate(mine or [spare], self.device, num_chunks=num_chunks, counts=bool(mine)))

    def not_finite(self, step: int, record: Record) -> str:
        """One line about a step whose loss or gradient is not a number."""
        names = self.examples["question_id"].take(self.batch(step)).to_pylist()
        return (
            f"step {record['step']}: loss {record['loss']}, gradient norm {record['grad_norm']}; the batch's questions "
            f"are {', '.join(names)}: look at their traces, or lower learning_rate={self.task.learning_rate:g}"
        )

    def restore(self) -> list[Record]:
        """Load the last committed checkpoint, if there is one; the records of the steps it covers."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return []
        with checkpoint.as_directory() as folder:
            loaded, state = self.engine.load_checkpoint(folder, tag=CHECKPOINT_TAG)
        assert loaded is not None, f"{checkpoint}: DeepSpeed found no checkpoint here"
        return list(state["records"])

    def save(self, records: list[Record]) -> None:
        """Commit a checkpoint of every rank's share: when this returns, a kill loses nothing up to here."""
        import ray.train
        from ray.train.v2.api.report_config import CheckpointUploadMode

        storage: Any = ray.train.get_context().get_storage()
        # Written where it stays, in a folder that all workers see: gigabytes are not copied a second time.
        path = storage.build_checkpoint_path_from_name(f"step-{len(records):06d}")
        self._write_state(Path(path), records)
        checkpoint = ray.train.Checkpoint(path, filesystem=storage.storage_filesystem)
        ray.train.report({}, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        # report() returns before the controller has written down that the checkpoint exists; this waits for it.
        ray.train.get_all_reported_checkpoints()

    def _write_state(self, folder: Path, records: list[Record]) -> None:
        from torch import distributed

        if self.rank == 0 and (folder / CHECKPOINT_TAG).exists():
            shutil.rmtree(folder / CHECKPOINT_TAG)  # of a worker that was killed while it wrote
        distributed.barrier()
        state = {"records": records}
        self.engine.save_checkpoint(str(folder), tag=CHECKPOINT_TAG, client_state=state, save_latest=False)

    def export(self) -> None:
        """Write the trained model as a Hugging Face folder."""
        from torch import distributed

        from actors.model_export import export_tokenizer, export_weights

        folder = Path(self.task.export_folder)
        model = self.engine.module.model
        export_weights(model, folder, writes=self.rank == 0, partitioned=self.task.zero_stage == 3)
        if self.rank == 0:
            export_tokenizer(models.resolve(self.task.model), folder, self.task.stop_ids)
        distributed.barrier()


def _num_tokens(example: Example) -> int:
    return len(example.input_ids)


def _num_counted(example: Example) -> int:
    return len(example.input_ids) - example.num_prompt_tokens


def _engine(task: TrainTask) -> Any:
    """The model with its loss, wrapped by DeepSpeed."""
    import deepspeed.ops
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    from s1.training.loss import SequenceMeanLoss

    # Its first use would compile a shared-memory extension, and need a compiler for it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = _deepspeed_settings(task)
    # While this object lives, from_pretrained hands every rank its share only.
    zero3 = HfDeepSpeedConfig(settings) if task.zero_stage == 3 else None
    dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        models.resolve(task.model), dtype=dtype, attn_implementation=task.attention
    )
    if task.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, task.weight_decay), lr=task.learning_rate, betas=task.betas, fused=True
    )
    engine, *_ = deepspeed.initialize(model=SequenceMeanLoss(model), optimizer=optimizer, config=settings)
    del zero3
    return engine


def _parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and norms do not, as in the reference's trainer."""
    shapes = [(parameter, len(getattr(parameter, "ds_shape", parameter.shape))) for parameter in model.parameters()]
    return [
        {"params": [parameter for parameter, dims in shapes if dims > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter, dims in shapes if dims <= 1], "weight_decay": 0.0},
    ]


def _deepspeed_settings(task: TrainTask) -> dict[str, Any]:
    return {
        # Passes and their weights are counted by the loop; these two only satisfy DeepSpeed's bookkeeping.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": task.precision == "bf16"},
        "gradient_clipping": task.max_grad_norm,
        "zero_optimization": {"stage": task.zero_stage},
    }
