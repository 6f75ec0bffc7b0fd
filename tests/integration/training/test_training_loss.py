import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from s1.template import Example
from s1.training.loss import SequenceMeanLoss, collate

CPU = torch.device("cpu")
EXAMPLES = [
    Example([1, 2, 3, 4, 9, 8, 7], 5),
    Example([1, 2, 3, 5, 6, 4, 4, 4, 4, 2, 6], 4),
    Example([1, 2, 3, 4, 9, 9], 5),
]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config)


def plain(model: LlamaForCausalLM) -> torch.Tensor:
    losses = []
    for example in EXAMPLES:
        ids, start = torch.tensor(example.input_ids), example.num_prompt_tokens
        losses.append(functional.cross_entropy(model(ids[None]).logits[0, start - 1 : -1], ids[start:]))
    return torch.stack(losses).sum()


def gradients(model: LlamaForCausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("chunk_tokens", [100, 7, 1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_one_sequence_at_a_time(model, chunk_tokens, checkpointing):
    expected = plain(model)
    wanted = gradients(model, expected)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    batch = collate(EXAMPLES, CPU)
    loss = SequenceMeanLoss(model, chunk_tokens=chunk_tokens)(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found = gradients(model, loss)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_count_has_no_gradient(model):
    found = gradients(model, SequenceMeanLoss(model, chunk_tokens=100)(collate(EXAMPLES[:1], CPU, counts=False)))
    assert all(not gradient.any() for gradient in found.values())


def test_activations_that_wait_on_the_host_change_nothing(model):
    expected = plain(model)
    wanted = gradients(model, expected)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.train()
    loss = SequenceMeanLoss(model, chunk_tokens=7, offload=True)(collate(EXAMPLES, CPU))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)
