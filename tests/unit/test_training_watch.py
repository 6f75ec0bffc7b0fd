import math

import pytest

from s1.training.card import render
from s1.training.watch import WINDOW, complaint


def record(step: int, loss: float, norm: float = 1.0) -> dict[str, float]:
    return {"step": step, "loss": loss, "grad_norm": norm}


USUAL = [record(step, 2.0 if step == 1 else 0.5) for step in range(1, WINDOW + 1)]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)])
def test_what_is_not_a_number_is_told_at_any_step(loss, norm):
    assert "step 1: loss" in (complaint([], record(1, loss, norm), 4.0) or "")


def test_a_jump_back_to_the_beginning_is_a_spike():
    assert complaint(USUAL, record(21, 2.1), 4.0) == "step 21: loss 2.1 after a median of 0.5 (spike_factor=4)"
    assert complaint(USUAL, record(21, 1.9), 4.0) is None
    assert complaint(USUAL, record(21, 2.1), 0.0) is None
    assert complaint(USUAL[:-1], record(20, 2.1), 4.0) is None


def test_noise_of_a_loss_near_zero_is_none():
    learnt = [record(1, 2.0), *(record(step, 0.01) for step in range(2, 30))]
    assert complaint(learnt, record(30, 0.3), 4.0) is None


def test_the_card_names_data_options_cost_and_curve():
    options = {
        **dict.fromkeys(
            ("epochs", "batch_size", "warmup_ratio", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm"), 1
        ),
        **{"model": "Qwen/Qwen2.5-1.5B-Instruct", "learning_rate": 1e-5, "block_size": 32768, "precision": "bf16"},
        **{
            "template": "s1",
            "packing": True,
            "lora_rank": 0,
            "seed": 0,
            "workers": 16,
            "hardware": {"device": "h100", "usd_per_hour": None},
        },
    }
    facts = {"steps": 315, "tokens": 23_500_000, "train_seconds": 1560.0, "cost_usd": 63.6, "peak_gib": 45.9}
    facts |= {"billed_seconds": 2080.0, "billed_worker_hours": 9.24}
    curve = [{"step": step, "loss": 1 / step, "learning_rate": 1e-5} for step in range(1, 316)]
    text = render(options, {"examples": 1000, "left out": 8}, {**facts, "held_out_loss": 0.5}, curve)
    assert text.startswith("---\nbase_model: Qwen/Qwen2.5-1.5B-Instruct\n")
    for expected in (
        "| examples | 1,000 |",
        "26.0 minutes on 16 x h100.",
        "34.7 minutes, 9.24 GPU hours, $63.60 at a typical price.",
        "0.5000",
        "| learning_rate | 1e-05 |",
    ):
        assert expected in text
    assert "| 1 | 1.0000 | 1e-05 |" in text and "| 315 | 0.0032 | 1e-05 |" in text
    local = render({**options, "model": "./folder"}, {}, {**facts, "held_out_loss": None}, curve[:1])
    given = {"device": "h100", "usd_per_hour": 6.88}
    assert "$63.60.\n" in render({**options, "hardware": given}, {}, {**facts, "held_out_loss": None}, curve)
    assert "base_model" not in local and "| 1 | 1.0000 | 1e-05 |" in local
