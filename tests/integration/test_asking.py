"""Asking a model short questions on a real Ray: how it ends, what it costs, and that nothing is bought twice."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from teacher_server import Reply, completion, refusal, teaching

from jobs import asking, termination
from jobs.asking import AskOptions, ask
from jobs.ray_session import ray_session
from jobs.teacher_watch import Watch
from s1.errors import UserError
from s1.teachers.ledger import Ledger


@pytest.fixture(scope="module")
def ray():
    with ray_session():
        yield


def options(base_url: str, **settings: object) -> AskOptions:
    price = {"usd_per_million_output": 1e6 / 20, "expected_output_tokens": 20}  # a dollar for every reply
    endpoint = {"base_url": base_url, "model": "r1", **price}
    return AskOptions.model_validate({"openai": endpoint, "pool": {"num_cpus": 0.1, "concurrency": 32}, **settings})


def prompts(*texts: str) -> dict:
    """Each says in its second round that it is asked again."""
    return {f"key {at}": partial(said, text) for at, text in enumerate(texts)}


def said(text: str, number: int) -> str:
    return text if number == 1 else f"{text} (again)"


def num_recorded(uri: Path) -> int:
    ledger = Ledger(str(uri))
    ledger.refresh()
    return len(ledger)


MANY = [f"question {number}" for number in range(40)]


@pytest.mark.parametrize("ending", ["cap", "fatal", "interrupted"])
def test_what_is_under_way_when_the_asking_stops_is_waited_for(ray, tmp_path: Path, ending: str):
    under_way = threading.Event()

    def script(text: str, _: int) -> Reply:
        if text != MANY[0]:
            under_way.set()
            time.sleep(2)
            return completion("hm", "yes")
        under_way.wait(30)
        if ending == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        return refusal(401, "invalid key") if ending == "fatal" else completion("hm", "yes", tokens=20 * 50)

    says = {
        "cap": (UserError, r"label: stopped \(max_usd=30 is reached.*\); what was finished is kept"),
        "fatal": (UserError, "invalid key; what was finished is kept"),
        "interrupted": (KeyboardInterrupt, None),
    }
    with teaching(script) as server:
        kind, message = says[ending]
        max_usd = 30 if ending == "cap" else None
        with pytest.raises(kind, match=message):
            ask(options(server.base_url, max_usd=max_usd), prompts(*MANY), str.strip, str(tmp_path), "label")
        assert num_recorded(tmp_path) == server.finished.total() - (ending == "fatal")
        assert server.paid.total() == num_recorded(tmp_path) > 1


def test_the_cap_counts_what_was_spent_before_and_what_is_recorded(ray, tmp_path: Path):
    def read(reply: str) -> str | None:
        return reply if "again" in reply else None

    with teaching(lambda text, _: completion("hm", text)) as server:
        capped = options(server.base_url, max_usd=5.5)
        three = prompts("a", "b (again)", "c (again)")  # one of them takes two rounds
        answers = ask(capped, three, read, str(tmp_path), "label", 1.0)
        assert (len(answers.found), answers.cost_usd) == (3, 4.0)
        answers = ask(capped, three, read, str(tmp_path), "label", 1.0)
        assert (len(answers.found), answers.cost_usd, server.asked.total()) == (3, 4.0, 4)
        with pytest.raises(UserError, match=r"max_usd=5.5 is reached: \$5.0000 are spent"):
            ask(capped, {**three, "more": partial(said, "d (again)")}, read, str(tmp_path), "label", 1.0)
        assert server.asked.total() == 4


def test_prompts_that_are_the_same_are_asked_once(ray, tmp_path: Path):
    with teaching(lambda text, _: completion("hm", text)) as server:
        answers = ask(options(server.base_url), prompts(*"abaab"), str.strip, str(tmp_path), "label")
        assert [answers.found[f"key {at}"] for at in range(5)] == list("abaab")
        assert server.asked == {"a": 1, "b": 1}
    assert answers.cost_usd == 2.0


def test_a_model_that_is_gone_still_has_said_what_is_recorded(ray, tmp_path: Path):
    uri = str(tmp_path)
    with teaching(lambda text, _: completion("hm", text)) as server:
        asked = options(server.base_url)
        asking.check_reached(asked, "judge.openai", uri)
        first = ask(asked, prompts("a"), str.strip, uri, "label")
    asking.check_reached(asked, "judge.openai", uri)
    assert ask(asked, prompts("a"), str.strip, uri, "label") == first
    with pytest.raises(UserError, match=r"^label: openai.base_url='.*': nothing answers there"):
        ask(asked, prompts("a", "b"), str.strip, uri, "label")
    with pytest.raises(UserError, match=r"^judge.openai.base_url='.*': nothing answers there"):
        asking.check_reached(asked, "judge.openai", str(tmp_path / "another"))


def test_no_more_prompts_are_made_at_once_than_memory_is_given(ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "PART_CHARS", 1000)
    texts = [f"{number} ".ljust(400, "x") for number in range(9)]
    num_asked: dict[str, int] = {}  # when a prompt was made for the last time

    def made(text: str, _: int) -> str:
        num_asked[text] = server.asked.total()
        return text

    with teaching(lambda text, _: completion("hm", text)) as server:
        asked = {f"key {at}": partial(made, text) for at, text in enumerate([*texts, *texts])}
        answers = ask(options(server.base_url), asked, str, str(tmp_path), "label")
        assert server.asked.total() == 9
    assert [answers.found[f"key {at}"] for at in range(18)] == 2 * texts
    assert [num_asked[text] for text in texts] == [0, 0, 0, 3, 3, 3, 6, 6, 6] and answers.cost_usd == 9.0


def test_a_signal_that_was_waited_for_ends_the_job_as_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(termination, "_received", threading.Event())
    watch = Watch(None, None)  # pyright: ignore[reportArgumentType]
    watch.end_if_told()
    for number, terminated in ((signal.SIGINT, False), (signal.SIGTERM, True)):
        watch.signal = number
        with pytest.raises(KeyboardInterrupt):
            watch.end_if_told()
        assert termination.was_terminated() is terminated
