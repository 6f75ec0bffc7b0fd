"""Whatever number of workers an elastic training goes on with, none of them has more of a batch to do than another."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from jobs.elastic import DividingPolicy
from jobs.train_options import TrainOptions
from jobs.train_sizes import sizes
from s1.training import batches
from s1.training.hardware import Hardware

WORKERS = st.integers(1, 24)
PARALLEL = st.sampled_from([1, 2, 4, 8])


@given(st.integers(1, 32), WORKERS, PARALLEL, PARALLEL)
def test_every_possible_number_of_workers_shares_the_batch_equally(batch_size, workers, parallel, shards):
    options = TrainOptions(
        batch_size=batch_size, workers=workers, packing=True, sequence_parallel=parallel, secondary_shards=shards
    )
    possible = sizes(options)
    for number in range(1, workers + 1):
        whole = number % parallel == 0 and number % shards == 0
        shares = {len(share) for share in batches.assign([1] * batch_size, number // parallel)} if whole else {0, 1}
        assert (number in possible) == (len(shares) == 1 and shares != {0})


def test_no_node_of_gpus_is_divided():
    options = TrainOptions(
        batch_size=16,
        workers=32,
        gpus_per_worker=1,
        packing=True,
        sequence_parallel=2,
        hardware=Hardware(device="h100"),
    )
    assert sizes(options) == [2, 4, 8, 16, 32]


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 32), WORKERS, PARALLEL)
def test_an_elastic_training_takes_the_most_that_has_room_on_the_nodes_and_divides_it(
    rooms, batch_size, workers, parallel
):
    from ray.train import ScalingConfig

    options = TrainOptions(batch_size=batch_size, workers=workers, packing=True, sequence_parallel=parallel)
    config = ScalingConfig(num_workers=(1, workers), resources_per_worker={"CPU": 2})
    policy = DividingPolicy(config, "run", sizes(options), parallel)
    nodes = {str(number): {"CPU": 2.0 * room + 1} for number, room in enumerate(rooms)}
    taken = policy._count_possible_workers(nodes)
    room = sum(room // parallel for room in rooms) * parallel
    assert taken == max([size for size in sizes(options) if size <= room], default=0)


@given(st.integers(0, 16), st.integers(1, 8))
def test_workers_that_run_are_left_alone_whatever_nodes_come_and_go(room, running):
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import NoopDecision

    policy = DividingPolicy(
        ScalingConfig(num_workers=(1, 8), elastic_resize_monitor_interval_s=0), "run", range(1, 9), 1
    )
    asked: list[int] = []
    # What Ray's coordinator of nodes, an actor, is asked and answers.
    policy._coordinator_client = SimpleNamespace(maybe_send_resource_request=lambda _, count: asked.append(count))
    policy._get_reserved_resources = lambda: {"node": {"CPU": float(room)}}
    state = SimpleNamespace(num_workers=running, start_time=float("-inf"))
    assert isinstance(policy.make_decision_for_running_worker_group(state, SimpleNamespace()), NoopDecision)
    assert asked == [8]  # nodes for the next start stay asked for
