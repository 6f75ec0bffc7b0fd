"""The head with the loss on top: values and gradients of PyTorch's own cross-entropy."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from s1.training.head import with_loss

POSITIONS, HIDDEN, VOCABULARY = 1100, 8, 50  # more rows than are copied at a time


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "hidden": torch.randn(POSITIONS, HIDDEN, generator=random),
        "targets": torch.randint(VOCABULARY, (POSITIONS,), generator=random),
        "weights": torch.rand(POSITIONS, generator=random),
    }


def head_of(number_type: torch.dtype = torch.float32, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias, dtype=number_type)
    with_loss(head)
    return head


def plain(head: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy(
        functional.linear(hidden, head.weight, head.bias).float(), targets, reduction="none"
    )
    return (losses * weights).sum()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_chunks", [1, 3, POSITIONS])
def test_values_and_gradients_are_those_of_pytorchs_own(values, num_chunks, bias):
    head, hidden = head_of(bias=bias), values["hidden"].requires_grad_()
    inputs = [hidden, *head.parameters()]
    expected = 3 * plain(head, **values)
    wanted = torch.autograd.grad(expected, inputs)
    loss = 3 * head(**values, num_chunks=num_chunks)
    torch.testing.assert_close(loss, expected)
    for found, gradient in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_in_16_bits_the_loss_is_computed_in_32(values):
    head = head_of(torch.bfloat16)
    values["hidden"] = values["hidden"].to(torch.bfloat16).requires_grad_()
    expected = plain(head, **values)
    loss = head(**values)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    inputs = [values["hidden"], head.weight]
    for found, gradient in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(found, gradient)


def test_a_frozen_head_hands_gradients_on_and_gets_none(values):
    head = head_of().requires_grad_(False)
    values["hidden"].requires_grad_()
    head(**values, num_chunks=2).backward()
    (wanted,) = torch.autograd.grad(plain(head, **values), values["hidden"])
    torch.testing.assert_close(values["hidden"].grad, wanted, rtol=1e-4, atol=1e-5)
    assert head.weight.grad is None


def test_without_gradients_there_is_the_loss_alone(values):
    head = head_of()
    with torch.no_grad():
        loss = head(**values)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(head, **values).detach())


def test_without_targets_it_is_the_head_that_it_was(values):
    head = head_of(bias=True)
    torch.testing.assert_close(head(values["hidden"]), functional.linear(values["hidden"], head.weight, head.bias))


def beside_the_weight(size: tuple[int, int, int], loss_of) -> float:
    """Bytes at the peak of forward and backward pass beside a head's weight; `size`: positions, hidden, vocabulary."""
    positions, width, vocabulary = size
    with torch.device("meta"):
        head = nn.Linear(width, vocabulary, bias=False, dtype=torch.bfloat16)
        hidden = torch.zeros(positions, width, dtype=torch.bfloat16, requires_grad=True)
        targets, weights = torch.zeros(positions, dtype=torch.long), torch.zeros(positions)
    with_loss(head)
    tracker = MemTracker()
    tracker.track_external(head)
    with tracker:
        loss_of(head, hidden, targets, weights).backward()
    return tracker.get_tracker_snapshot("peak")[torch.device("meta")]["Total"] - 2 * width * vocabulary


def ours(head, hidden, targets, weights, num_chunks: int = 1) -> torch.Tensor:
    return head(hidden, targets=targets, weights=weights, num_chunks=num_chunks)


def in_checkpointed_chunks(head, hidden, targets, weights) -> torch.Tensor:
    chunks = zip(hidden.split(8), targets.split(8), weights.split(8), strict=True)
    return torch.stack([checkpoint(plain, head, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def test_a_logit_takes_half_of_what_pytorchs_own_takes():
    size = (4096, 8, 50_000)
    logits = 4096 * 50_000
    assert beside_the_weight(size, ours) / logits == pytest.approx(6, rel=0.02)
    assert beside_the_weight(size, plain) / logits == pytest.approx(12, rel=0.02)


def test_the_gradient_of_the_weight_exists_once_where_checkpointed_chunks_hold_three():
    size = (32, 4096, 8192)
    gradient = 2 * 4096 * 8192
    assert beside_the_weight(size, partial(ours, num_chunks=4)) / gradient == pytest.approx(1, abs=0.1)
    assert beside_the_weight(size, in_checkpointed_chunks) / gradient == pytest.approx(3, abs=0.1)
