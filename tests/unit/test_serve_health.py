import pytest

from serve.health import OK, state


@pytest.mark.parametrize(
    ("replicas", "says"),
    [
        ({"RUNNING": 1}, OK),
        ({"RUNNING": 1, "STOPPING": 3, "STARTING": 1}, OK),
        ({"PENDING_MIGRATION": 1}, OK),  # its node is about to leave
        ({"RECOVERING": 2}, OK),  # Serve's controller was started again
        ({"STARTING": 1, "STOPPING": 2}, "no replica answers (1 STARTING, 2 STOPPING)"),
        ({"RUNNING": 0}, "no replica answers (there is none)"),
        ({}, "no replica answers (there is none)"),
    ],
)
def test_a_model_is_there_as_long_as_one_replica_answers(replicas, says):
    assert state(replicas) == says


def test_the_states_are_those_of_serve():
    from ray.serve._private.common import ReplicaState

    from serve import health

    assert {one.value for one in ReplicaState} > health._ANSWERING
