import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from s1.template import Example
from s1.training.attention import PACKED
from s1.training.loss import SequenceMeanLoss, pack

CPU = torch.device("cpu")
EXAMPLES = [
    Example([1, 2, 3, 4, 9, 8, 7], 5),
    Example([1, 2, 3, 5, 6, 4, 4, 4, 4, 2, 6], 4),
    Example([1, 2, 3, 4, 9, 9], 5),
]
CONFIGS = [LlamaConfig, Qwen2Config, Qwen3Config]


def tiny(config=Qwen2Config, attention: str = PACKED):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        config(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=4,
            initializer_range=0.5,
        ),
        attn_implementation=attention,
    )


def one_at_a_time(model) -> torch.Tensor:
    losses = []
    for example in EXAMPLES:
        ids, start = torch.tensor(example.input_ids), example.num_prompt_tokens
        losses.append(functional.cross_entropy(model(ids[None]).logits[0, start - 1 : -1], ids[start:]))
    return torch.stack(losses).sum()


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pack_is_worth_its_sequences_one_at_a_time(config, checkpointing):
    plain = tiny(config, "sdpa")
    expected = one_at_a_time(plain)
    wanted = gradients(plain, expected)
    model = tiny(config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    loss = SequenceMeanLoss(model, chunk_tokens=7)(pack(EXAMPLES, CPU))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)


def hidden_of_last(model, first: list[int]) -> torch.Tensor:
    examples = [Example(first, 1), EXAMPLES[0]]
    batch = pack(examples, CPU)
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False, **batch.attention).last_hidden_state
    return hidden[0, len(first) : len(first) + len(EXAMPLES[0].input_ids)]


@pytest.mark.parametrize("config", CONFIGS)
def test_no_sequence_sees_another_one_of_its_pack(config):
    model = tiny(config)
    assert torch.equal(hidden_of_last(model, [5, 6, 7, 8]), hidden_of_last(model, [40, 41, 42, 43]))


def test_an_attention_without_borders_would_leak_and_be_seen():
    """What the test above relies on: the same comparison finds the leak of a kernel that takes a pack for one text."""
    model = tiny(attention="sdpa")

    def last(first: list[int]) -> torch.Tensor:
        ids = torch.tensor([[*first, *EXAMPLES[0].input_ids]])
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(first) :]

    assert not torch.allclose(last([5, 6, 7, 8]), last([40, 41, 42, 43]), atol=1e-3)


def test_a_model_that_is_trained_on_packs_can_answer_in_between():
    model = tiny()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    before = SequenceMeanLoss(model, chunk_tokens=100)(pack(EXAMPLES, CPU)).item()
    model.eval()
    model.set_attn_implementation("sdpa")
    prompt = torch.tensor([[1, 2, 3]])
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    again = tiny(attention="sdpa").generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False
    )
    assert torch.equal(ids, again)
    model.set_attn_implementation(PACKED)
    model.train()
    assert SequenceMeanLoss(model, chunk_tokens=100)(pack(EXAMPLES, CPU)).item() == pytest.approx(before)
