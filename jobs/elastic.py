"""Ray Train with an elastic number of workers that only takes the numbers which divide the training equally.

Ray's own elastic policy takes every number between the fewest and the most, for example 15 of 16 workers. It has no
public place for a condition; this replaces the method of it that counts, and hands the policy to the controller
through the method that starts it. A Ray that no longer calls one of the two fails the elastic test of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision


class DividingPolicy(ElasticScalingPolicy):
    """As many workers as there is room for when they start, out of `sizes`; each `group` of them has room on one node.

    Workers that run are left alone: Ray would end them without a checkpoint, for every node that comes or goes, and
    what they had done since the last one would be done again.
    """

    def __init__(self, scaling_config: Any, sizes: Sequence[int], group: int) -> None:
        super().__init__(scaling_config)
        self._sizes, self._group = sizes, group

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
    """A TorchTrainer whose number of workers, where it is elastic, is one of `sizes`."""

    def __init__(self, *arguments: Any, sizes: Sequence[int], group: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._sizes, self._group = sizes, group

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            named["scaling_policy"] = DividingPolicy(self.scaling_config, self._sizes, self._group)
        return super()._initialize_and_run_controller(**named)
