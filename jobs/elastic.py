"""Ray Train that asks the cluster for one training at a time, and whose elastic number of workers divides it equally.

Ray's own elastic policy takes every number between the fewest and the most, for example 15 of 16 workers. It has no
public place for a condition; this replaces the method of it that counts, and hands the policy to the controller
through the method that starts it. A Ray that no longer calls one of them fails the elastic tests of the training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

# Ray's controller asks again at once when there is no room for workers, with a whole CPU.
WAITING_INTERVAL_S = 0.5


class _OneRequest(ScalingPolicy):
    """Asks the cluster in the name of `run`, whatever the attempt.

    Ray makes up a name for each: what a driver that was killed had asked for would be kept for three minutes beside
    what the next one asks for, which would have to wait for it, or get the nodes twice.
    """

    run: str

    def after_controller_start(self, train_run_context: Any) -> None:
        self._requester_id = f"train-{self.run}"
        self._coordinator_client = TrainAutoscalingCoordinatorClient(self._requester_id)
        self._send_resource_request()


class FixedPolicy(_OneRequest, FixedScalingPolicy):
    """All workers or none."""

    def __init__(self, scaling_config: Any, run: str) -> None:
        super().__init__(scaling_config)
        self.run = run


class DividingPolicy(_OneRequest, ElasticScalingPolicy):
    """As many workers as there is room for when they start, out of `sizes`; each `group` of them has room on one node.

    Workers that run are left alone: Ray would end them without a checkpoint, for every node that comes or goes, and
    what they had done since the last one would be done again.
    """

    def __init__(self, scaling_config: Any, run: str, sizes: Sequence[int], group: int) -> None:
        super().__init__(scaling_config)
        self.run = run
        self._sizes, self._group = sizes, group

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(WAITING_INTERVAL_S)
        return decision

    def make_decision_for_running_worker_group(self, *_: Any, **__: Any) -> NoopDecision:
        self._maybe_send_resource_request()  # the request for the nodes lapses when it is not renewed
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        groups = sum(
            super(DividingPolicy, self)._count_possible_workers({node: resources}) // self._group
            for node, resources in reserved_resources.items()
        )
        return max((size for size in self._sizes if size <= groups * self._group), default=0)


class DividingTrainer(TorchTrainer):
    """A TorchTrainer of the training `run`, whose number of workers, where it is elastic, is one of `sizes`."""

    def __init__(self, *arguments: Any, run: str, sizes: Sequence[int], group: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._run, self._sizes, self._group = run, sizes, group

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        named["scaling_policy"] = (
            DividingPolicy(self.scaling_config, self._run, self._sizes, self._group)
            if self.scaling_config.elasticity_enabled
            else FixedPolicy(self.scaling_config, self._run)
        )
        return super()._initialize_and_run_controller(**named)
