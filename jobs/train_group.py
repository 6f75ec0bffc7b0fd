"""The workers of a training: started, followed to the end, asked to save when the job is told to go."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import train_sizes
from jobs.progress import Progress
from jobs.runner import Context
from jobs.termination import EXIT_CODE
from jobs.tracking import Trackers
from jobs.train_bill import Bill
from jobs.train_options import TrainOptions
from s1.artifacts import Artifact
from s1.errors import UserError

if TYPE_CHECKING:
    from ray.train import WorkerGroupError

    from actors.journal import News, Record
    from actors.train_engine import TrainTask


WORKERS = "workers"  # folder of the checkpoints in the job's scratch folder
ENDING_S = 30.0  # between the end of the workers and that of Ray Train, at most


def train(options: TrainOptions, task: TrainTask, context: Context, trackers: Trackers, bill: Bill) -> list[Record]:
    """Run the workers to the end and return the record of every step.

    UserError when the training stops by itself, or for a failure that the user can mend; exit code 143 after SIGTERM,
    with a checkpoint of the last step.
    """
    import ray
    from ray.train import ControllerError, WorkerGroupError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors import checkpoint_index, failures
    from actors.journal import Journal

    place = Path(Artifact(context.scratch).path)
    if checkpoint_index.mend(place / WORKERS):
        print(
            f"train: {place / WORKERS / checkpoint_index.INDEX} was half-written; going on from its copy",
            file=sys.stderr,
        )

    # Beside this process: a worker node that is lost must not take the record of the steps along.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Journal)
    journal = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    failure: WorkerGroupError | None = None
    ended = False
    with bill:
        try:
            with _asked_to_go() as gone:
                ended = _follow(_trainer(options, task, context, journal), journal, task.steps, trackers, bill, gone)
        except WorkerGroupError as error:
            failure = error
        except ControllerError as error:  # Ray Train's own process, beside this one, which lists the checkpoints
            line = failures.reason(error.controller_failure, str(place))
            if line is None:
                raise
            raise UserError(line) from error
        bill.tick(ray.get(journal.held.remote()))
    records, stopped = ray.get(journal.result.remote())
    reason = stopped or (failure and lost(failure, options))
    if reason:
        raise UserError(reason) from failure
    if failure is not None:
        raise failure
    if not ended or len(records) < task.steps:
        kept = f"after step {len(records)}, which is kept" if ended else "while no workers were there"
        print(f"train: stopped by SIGTERM {kept}; run the same command again to go on", file=sys.stderr)
        raise SystemExit(EXIT_CODE)
    return records


def lost(failure: WorkerGroupError, options: TrainOptions) -> str | None:
    """A line about processes that are gone; None for an exception in one of them, which is a fault of ours."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    # Who is gone does not answer Ray Train's health check, which carries the reason.
    causes = [getattr(error, "health_check_failure", error) for error in failure.worker_failures.values()]
    gone = [error for error in causes if isinstance(error, (RayActorError, OutOfMemoryError))]
    if not gone:
        return None
    reason = " ".join(str(gone[0]).split())[:300]
    return (
        f"workers were lost more than max_failures={options.max_failures} times, the last time: {reason}; give them "
        "more host memory if it ran out, then run the same command again, it goes on from the last checkpoint"
    )


def _trainer(options: TrainOptions, task: TrainTask, context: Context, journal: Any) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import LoggingConfig

    from actors.train_worker import train_loop
    from jobs.elastic import DividingTrainer
    from jobs.train_callback import ReleaseLost

    scratch = Artifact(context.scratch)
    elastic = options.min_workers not in (None, options.workers)
    return DividingTrainer(
        train_loop,
        run=scratch.path,
        sizes=train_sizes.sizes(options),
        group=options.sequence_parallel,
        train_loop_config={"task": task, "journal": journal},
        torch_config=TorchConfig(backend="nccl" if options.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(options.min_workers or 1, options.workers) if elastic else options.workers,
            use_gpu=bool(options.gpus_per_worker),
            resources_per_worker={"CPU": options.cpus_per_worker} | ({"GPU": 1} if options.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            # The same name in the same place: Ray Train goes on from the last committed checkpoint it finds there.
            name=WORKERS,
            storage_path=scratch.path,
            storage_filesystem=scratch.fs,
            failure_config=FailureConfig(max_failures=options.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[ReleaseLost(journal)],
            worker_runtime_env={"env_vars": _worker_environment(options)},
        ),
    )


@contextmanager
def _asked_to_go() -> Generator[threading.Event]:
    """An event that SIGTERM sets: a spot instance that is taken away, or a job that is stopped."""
    gone = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield gone  # signals belong to whoever runs the job in a thread
        return
    before = signal.signal(signal.SIGTERM, lambda *_: gone.set())
    try:
        yield gone
    finally:
        signal.signal(signal.SIGTERM, before)


def _worker_environment(options: TrainOptions) -> dict[str, str]:
    # Ray sets OMP_NUM_THREADS to the logical CPUs of the worker unless it is given.
    environment = {"OMP_NUM_THREADS": str(options.threads_per_worker), "TRANSFORMERS_VERBOSITY": "error"}
    if options.gpus_per_worker:
        # Passes differ in size: blocks of fixed sizes would leave gaps that none of them fits into.
        return {**environment, "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    return {**environment, **_keep_freed_memory(), "DS_ACCELERATOR": "cpu"}


def _keep_freed_memory() -> dict[str, str]:
    """Activations come and go with every pass. The C library gives their pages back and faults them in again, which
    costs a small model on CPUs much of its time; the allocator that Ray brings along can be told to keep them, large
    blocks too. In a single arena, because the backward pass runs in a thread of its own: with one arena each, neither
    pass would use what the other has freed.
    """
    import ray

    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    if not library.is_file():
        return {}
    settings = "narenas:1,oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1"
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": settings}


def _follow(trainer: Any, journal: Any, steps: int, trackers: Trackers, bill: Bill, gone: threading.Event) -> bool:
    """Run the trainer; meanwhile show what the journal notes, and pass a request to go on to it.

    False when it was left to itself: asked to go while no workers were there, who could have saved anything.
    """
    import ray

    outcome: Future[Any] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:  # handed to the main thread, which raises it
            outcome.set_exception(error)

    # Beside the main thread, so that Ctrl-C stays ours: in it, Ray Train would take the signal and end in a traceback.
    threading.Thread(target=fit, daemon=True).start()
    told, workers, group, alone_since = False, False, 0, None

    def show() -> None:
        nonlocal group, workers
        news: News = ray.get(journal.since.remote(trackers.shown))
        if news.group != group:
            for done in ray.get(journal.starts.remote())[group : news.group]:
                print(f"train: workers begin at step {done + 1} of {steps}", file=sys.stderr)
            group = news.group
            bar.resume(news.restored)
        workers = bool(news.held) and news.held[-1][1] is None
        bill.tick(news.held)
        trackers.show(news)
        bar.update(trackers.shown, trackers.note)

    with Progress("train", total=steps, unit="steps") as bar:
        while not wait([outcome], timeout=1.0).done:
            show()
            alone_since = None if workers else alone_since or time.monotonic()
            if gone.is_set() and not told:
                ray.get(journal.ask_to_stop.remote())
                told = True
                if workers:
                    print("train: SIGTERM; saving after this step", file=sys.stderr)
            if told and alone_since is not None and time.monotonic() - alone_since > ENDING_S:
                return False
        if outcome.exception() is None:
            show()
    outcome.result()
    return True
