"""A cluster that does not grow and is too small is refused at once, in one line."""

import pytest

from jobs import capacity
from jobs.capacity import Demand
from jobs.ray_session import ray_session
from s1.errors import UserError


def test_more_than_this_machine_has_is_refused_and_the_rest_is_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session():
        capacity.check([Demand("distill", "pool.num_workers", 1, 0.5)])
        with pytest.raises(
            UserError, match=r"^train\.workers=1600 needs 1600 x \(8 CPU and 1 GPU on one node\), but"
        ) as lack:
            capacity.check([Demand("distill", "pool.num_workers", 1, 0.5), Demand("train", "workers", 1600, 8, 1)])
    assert "\n" not in str(lack.value)
    assert "RAY_BACKEND_LOG_LEVEL" not in capfd.readouterr().err
