import pytest

from s1.training.schedule import learning_rate, num_steps, num_warmup_steps, steps_per_epoch


def test_the_papers_run_is_315_steps_16_of_them_warm_up():
    assert steps_per_epoch(1000, 16) == 63
    assert num_steps(1000, 16, epochs=5) == 315
    assert num_warmup_steps(315, 0.05) == 16


def test_max_steps_ends_the_training_earlier():
    assert num_steps(1000, 16, epochs=5, max_steps=60) == 60
    assert num_steps(10, 16, epochs=2, max_steps=60) == 2


def test_the_rate_rises_in_a_line_and_falls_to_zero_along_a_cosine():
    rates = [learning_rate(step, 315, 16, 1e-5) for step in range(316)]
    assert rates[0] == 0
    assert rates[8] == pytest.approx(5e-6)
    assert max(rates) == rates[16] == 1e-5
    assert rates[16 + 299 // 2] == pytest.approx(5e-6, rel=0.01)
    assert rates[315] == pytest.approx(0, abs=1e-12)
    assert rates[16:] == sorted(rates[16:], reverse=True)


def test_it_is_the_schedule_of_the_references_trainer():
    import torch
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, 16, 315)
    for step in range(315):
        assert schedule.get_last_lr()[0] == pytest.approx(learning_rate(step, 315, 16, 1e-5), abs=1e-18)
        optimizer.step()
        schedule.step()


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(0, 10, 0, 1.0) == 1.0
