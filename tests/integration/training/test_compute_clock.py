"""What is counted as a worker's own computing."""

import time

import pytest
import torch
from torch import nn

from actors.compute_clock import ComputeClock


class Waits(nn.Module):
    """A linear layer after a wait for others; `waited` is the time of the wait."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.waited = 0.0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        time.sleep(0.05)
        self.waited += time.perf_counter() - began
        return self.linear(values)


def test_waiting_is_not_counted_and_computing_is():
    model = Waits()
    clock = ComputeClock(model, torch.device("cpu"))
    began = time.perf_counter()
    clock.start()
    for _ in range(3):
        model(torch.ones(8, 64))
    counted, whole = clock.stop(), time.perf_counter() - began
    assert 0 < counted <= whole - model.waited


def test_only_what_lies_between_start_and_stop_counts():
    model = nn.Sequential(nn.Linear(64, 64))
    clock = ComputeClock(model, torch.device("cpu"))
    model(torch.ones(8, 64))
    assert clock.stop() == 0
    clock.start()
    model(torch.ones(8, 64))
    counted = clock.stop()
    model(torch.ones(8, 64))
    assert clock.stop() == counted > 0
    clock.start()
    assert clock.stop() == 0


def test_the_head_is_left_out():
    layer, head = nn.Linear(64, 64), nn.Linear(64, 64)
    clock = ComputeClock(nn.Sequential(layer, head), torch.device("cpu"), head=head)
    clock.start()
    head(torch.ones(8, 64))
    assert clock.stop() == 0
    clock.start()
    layer(torch.ones(8, 64))
    assert clock.stop() > 0


def test_a_layer_that_is_left_before_its_end_does_not_count():
    model = nn.Linear(64, 64)
    clock = ComputeClock(model, torch.device("cpu"))
    clock.start()
    with pytest.raises(RuntimeError):
        model(torch.ones(8, 63))
    assert clock.stop() == 0
