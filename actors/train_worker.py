"""The loop that every training worker runs inside `ray.train.torch.TorchTrainer`, with DeepSpeed.

load → resume → (batch → loss → step → record → checkpoint)* → export. Every worker makes the same calls in the same
order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import collectives, compute_clock, failures, train_engine
from actors.journal import Record
from actors.train_checkpoints import Checkpoints
from actors.train_engine import TrainTask
from s1 import models, schema
from s1.artifacts import Artifact
from s1.template import Example
from s1.training import batches, schedule, watch

if TYPE_CHECKING:
    import torch
    from pyarrow import Table


def train_loop(config: dict[str, Any]) -> None:
    """`config`: `task` (TrainTask) and `journal` (handle of a Journal actor)."""
    import ray.train

    task, journal = config["task"], config["journal"]
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    if first:
        ray.get(journal.hold.remote(context.get_world_size()))
    try:
        # Ray Train tries again whatever the failure was; one with a reason would come back.
        if not ray.get(journal.stopped.remote()):
            _train(task, journal)
    except Exception as error:
        reason = failures.reason(error, task.export_folder)
        if reason is not None:
            ray.get(journal.stop.remote(reason))
        raise
    finally:
        if first:
            journal.release.remote()


def _train(task: TrainTask, journal: Any) -> None:
    import ray.train

    failures.check_folder(task.export_folder)
    context = ray.train.get_context()
    worker = Worker(task, context.get_world_rank(), context.get_world_size())
    checkpoints = worker.checkpoints
    records = checkpoints.restore(worker.engine)
    if worker.rank == 0:
        journal.restart.remote(records, worker.num_ranks)
    warned = False
    for step in range(len(records), task.steps):
        record = worker.train_step(step)
        checkpoints.commit(wait=False)
        wrong = watch.complaint(records, record, task.spike_factor)
        if wrong is not None:
            if worker.rank == 0:
                ray.get(journal.stop.remote(worker.with_questions(step, wrong)))
            checkpoints.commit(wait=True)
            return
        last = step + 1 == task.steps
        if worker.held_out is not None and (last or worker.ends_epoch(step)):
            record["held_out_loss"] = worker.held_out_loss()
            record |= {"samples": worker.samples()} if task.samples else {}
        records.append(record)
        stopping = worker.from_first(lambda: ray.get(journal.add.remote(records[-1])))
        leaving = ray.train.get_preemption_info() is not None
        due = task.save_steps and (step + 1) % task.save_steps == 0 and not last
        noticed = leaving and not warned
        # An export that fails, as on a full disk, costs what any failure does, and never the whole training.
        first = last and task.save_steps and not checkpoints.exists
        if due or stopping or noticed or first:
            checkpoints.save(records)
            checkpoints.commit(wait=stopping or noticed)
        if stopping and not last:
            return
        warned = leaving
    checkpoints.commit(wait=True)
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
        self.held_out: Table | None = Artifact(task.held_out).read(schema.EXAMPLES) if task.held_out else None
        # Neighbouring ranks share sequences; Ray Train numbers the workers of a node in a row.
        self.group_number, self.part = divmod(rank, task.sequence_parallel)
        self.num_groups = num_ranks // task.sequence_parallel
        self.group = self._sequence_group()
        self.checkpoints = Checkpoints(task, rank, num_ranks, self.device)
        self.engine = train_engine.build(task, universal=self.checkpoints.universal)
        self.clock = compute_clock.ComputeClock(self.engine.module, self.device, head=self.engine.module.head)

    def _sequence_group(self) -> Any:
        from torch import distributed

        size, mine = self.task.sequence_parallel, None
        if size == 1:
            return None
        for number in range(self.num_groups):  # every rank takes part in making every group
            group = distributed.new_group(list(range(number * size, (number + 1) * size)))
            mine = group if number == self.group_number else mine
        return mine

    def batch(self, step: int) -> list[int]:
        return batches.batch(step, self.examples.num_rows, self.task.batch_size, self.task.seed)

    def ends_epoch(self, step: int) -> bool:
        return (step + 1) % schedule.steps_per_epoch(self.examples.num_rows, self.task.batch_size) == 0

    def from_first(self, value: Any) -> bool:
        """What `value()` is on the first rank, for all ranks."""
        return collectives.total(float(value()) if self.rank == 0 else 0.0, self.device) > 0

    def train_step(self, step: int) -> Record:
        """One optimiser step; the gradient is that of the mean over the batch of the per-sequence means."""
        import torch

        started = time.monotonic()
        self.clock.start()
        examples = [_example(self.examples, index) for index in self.batch(step)]
        passes = self._passes(examples)
        rate = schedule.learning_rate(step, self.task.steps, self.task.warmup_steps, self.task.learning_rate)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for number, ranks in enumerate(passes, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(passes))
            loss = self._forward(ranks)
            # DeepSpeed averages over the ranks; the batch's mean is wanted, whatever each rank holds of it.
            self.engine.backward(loss * (self.num_ranks / len(examples)), scale_wrt_gas=False)
            total += loss.detach() / len(examples)
        loss_value = collectives.total(total, self.device)
        straggling = compute_clock.straggling(self.clock.stop(), self.device)
        if loss_value - loss_value == 0:  # finite
            self.engine.step()
        # DeepSpeed says -1 for a norm that is not a number.
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        collectives.finish(self.device)
        seconds = time.monotonic() - started
        return {
            "step": step + 1,
            "loss": loss_value,
            "learning_rate": rate,
            "grad_norm": norm if norm >= 0 else float("inf"),
            "tokens": sum(map(_num_tokens, examples)),
            "seconds": round(seconds, 4),
            "ended": round(time.time(), 3),
            **self._shares(examples, passes, seconds),
            **straggling,
            "memory_gib": round(collectives.peak_memory(self.device) / 2**30, 2),
        }

    def _shares(self, examples: list[Example], passes: list[list[list[Example]]], seconds: float) -> Record:
        """`tflops` of a worker, without recomputation, and `balance`: mean over longest time of the workers."""
        shape = self.task.shape
        if shape is None:
            return {}

        def flops_of(examples: list[Example]) -> float:
            return sum(shape.flops(_num_tokens(example), self.task.lora_rank) for example in examples)

        work = [[flops_of(mine) for mine in ranks] for ranks in passes]
        flops = flops_of(examples)
        return {
            "tflops": round(flops / seconds / self.num_ranks / 1e12, 4),
            "balance": round(flops / self.num_groups / sum(map(max, work)), 4),
        }

    def held_out_loss(self) -> float:
        """Mean loss of the examples that are never trained on."""
        import torch

        assert self.held_out is not None
        examples = [_example(self.held_out, index) for index in range(self.held_out.num_rows)]
        total = torch.zeros((), device=self.device)
        with torch.no_grad():
            for start in range(0, len(examples), self.task.batch_size):
                for ranks in self._passes(examples[start : start + self.task.batch_size]):
                    total += self._forward(ranks)
        return collectives.total(total, self.device) / len(examples)

    def samples(self) -> list[dict[str, str]]:
        """What the model answers now to some held-out questions, greedily. Every rank generates the same."""
        import torch
        from transformers import AutoTokenizer

        assert self.held_out is not None
        tokenizer = AutoTokenizer.from_pretrained(models.resolve(self.task.model))
        model = self.engine.module.model
        model.eval()
        model.set_attn_implementation("sdpa")  # of packs knows no cache
        found: list[dict[str, str]] = []
        for index in range(self.task.samples):
            example = _example(self.held_out, index)
            prompt = torch.tensor([example.input_ids[: example.num_prompt_tokens]], device=self.device)
            with torch.no_grad():
                ids = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=self.task.sample_tokens,
                    do_sample=False,
                    eos_token_id=self.task.stop_ids,
                    pad_token_id=self.task.stop_ids[0],
                    use_cache=True,
                    # Each of its passes gathers the weights: no rank may end before the others.
                    synced_gpus=self.task.zero_stage == 3 and self.num_ranks > 1,
                )
            text = str(tokenizer.decode(ids[0, prompt.shape[1] :].tolist()))
            found.append({"question_id": str(self.held_out["question_id"][index].as_py()), "text": text})
        model.set_attn_implementation(train_engine.attention(self.task))
        model.train()
        return found

    def _passes(self, examples: list[Example]) -> list[list[list[Example]]]:
        """The examples of each forward pass and, inside it, each rank (or group of ranks)."""
        from s1.training.loss import padded_length

        task = self.task
        lengths = [_num_tokens(example) for example in examples]
        spread = batches.spread(
            lengths if task.packing else [padded_length(length, self.device) for length in lengths],
            self.num_groups,
            packing=task.packing,
            micro_batch_size=task.micro_batch_size,
            micro_batch_tokens=task.micro_batch_tokens,
            block_size=task.block_size,
        )
        return [[[examples[position] for position in positions] for positions in ranks] for ranks in spread]

    def _forward(self, ranks: list[list[Example]]) -> torch.Tensor:
        """Sum of the losses of this rank's share of a pass of all ranks."""
        from s1.training.loss import collate, pack

        mine = ranks[self.group_number]
        # A rank that has nothing left to do still takes part: collective operations wait for it.
        spare = min((example for examples in ranks for example in examples), key=_num_tokens)
        shown, counts = mine or [spare], bool(mine)
        self._recompute(ranks)
        if not self.task.packing:
            return self.engine(collate(shown, self.device, counts=counts))
        parts = self.task.sequence_parallel
        return self.engine(pack(shown, self.device, counts=counts, part=self.part, parts=parts, group=self.group))

    def _recompute(self, ranks: list[list[Example]]) -> None:
        """Choose between keeping and recomputing the activations of a pass, for all ranks alike."""
        task, above = self.task, self.task.recompute_above_tokens
        if above is None or task.activation_checkpointing:
            return
        held = (batches.pass_tokens(list(map(_num_tokens, mine)), packing=task.packing) for mine in ranks)
        train_engine.recompute(self.engine.module.model, max(held) > above)

    def with_questions(self, step: int, wrong: str) -> str:
        """One line about a step at which the training stops."""
        names = self.examples["question_id"].take(self.batch(step)).to_pylist()
        return (
            f"{wrong}; the batch's questions are {', '.join(names)}: look at their traces, or lower "
            f"learning_rate={self.task.learning_rate:g}"
        )

    def export(self) -> None:
        """Write the trained model as a Hugging Face folder, every rank its share of the files."""
        from torch import distributed

        from actors.model_export import export_tokenizer, export_weights

        folder = Path(self.task.export_folder)
        model = self.engine.module.model
        export_weights(model, folder, rank=self.rank, num_ranks=self.num_ranks, partitioned=self.task.zero_stage == 3)
        if self.rank == 0:
            export_tokenizer(models.resolve(self.task.model), folder, self.task.stop_ids)
        distributed.barrier()


def _example(table: Table, index: int) -> Example:
    row = table.slice(index, 1).to_pylist()[0]
    return Example(row["input_ids"], row["num_prompt_tokens"])


def _num_tokens(example: Example) -> int:
    return len(example.input_ids)
