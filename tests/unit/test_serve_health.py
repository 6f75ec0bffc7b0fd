import asyncio
import threading
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from serve.health import OK, Health, state

ENGINES = {"base": DeploymentHandle("engine-base", "s1")}
UNASKED = {"base": "Serve's controller has not answered yet"}


def told(**replicas):
    """What Serve says of an application with one engine."""
    deployments = {"engine-base": SimpleNamespace(replica_states=replicas)}
    return SimpleNamespace(applications={"s1": SimpleNamespace(deployments=deployments)})


class Controller:
    """Says one thing after the other, the last one for ever; an exception is raised."""

    def __init__(self, *answers):
        self.answers, self.asked, self.free = list(answers), 0, threading.Event()
        self.free.set()

    def status(self):
        self.asked += 1
        self.free.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


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


def test_while_the_controller_does_not_answer_its_last_word_stands():
    async def run():
        controller = Controller(RayError("away"), told(RUNNING=1), RayError("away"), told(STARTING=1))
        health = Health(ENGINES, controller.status)
        return [await health.states() for _ in range(4)]

    before, well, away, lost = asyncio.run(run())
    assert before == UNASKED
    assert well == away == {"base": OK}
    assert lost == {"base": "no replica answers (1 STARTING)"}


def test_an_application_that_serve_does_not_know_has_no_replica():
    async def run():
        controller = Controller(SimpleNamespace(applications={}))
        return await Health(ENGINES, controller.status).states()

    assert asyncio.run(run()) == {"base": "no replica answers (there is none)"}


def test_probes_at_the_same_time_share_one_question_and_none_waits_longer_than_the_timeout():
    async def run():
        controller = Controller(told(RUNNING=1))
        controller.free.clear()
        health = Health(ENGINES, controller.status, timeout_s=0.01)
        try:
            slow = await asyncio.gather(*(health.states() for _ in range(5)))
            slow.append(await health.states())
        finally:
            controller.free.set()
        assert controller.asked == 1, "the question that is under way is not asked again"
        patient = Health(ENGINES, controller.status)
        well = await asyncio.gather(*(patient.states() for _ in range(5)))
        return slow, well, controller.asked

    slow, well, asked = asyncio.run(run())
    assert slow == [UNASKED] * 6 and well == [{"base": OK}] * 5 and asked == 2


def test_what_nobody_expected_is_raised_and_the_next_probe_asks_again():
    async def run():
        controller = Controller(ValueError("odd"), told(RUNNING=1))
        health = Health(ENGINES, controller.status)
        with pytest.raises(ValueError, match="odd"):
            await health.states()
        return await health.states()

    assert asyncio.run(run()) == {"base": OK}
