import json
from pathlib import Path

import pytest

from jobs.cli import PRESETS
from jobs.plan import Lengths, PlanOptions, selected, training
from jobs.train_options import TrainOptions, known_shape, shape
from s1.config import read_preset, validate
from s1.errors import UserError
from s1.training.duration import (
    HOST_GB_PER_S,
    Spread,
    checkpoint_seconds,
    communication_seconds,
    epoch,
    held_out_seconds,
    pass_sizes,
    sampling_seconds,
    saving_seconds,
)
from s1.training.hardware import DEVICES, Hardware
from s1.training.lengths import published, spread
from s1.training.memory import (
    CPU_REDUCE_BUCKET,
    GIB,
    Run,
    checkpoint_bytes,
    components,
    disk_bytes,
    host_bytes_at_load,
    host_bytes_in_steps,
    peak_gib,
    states,
)
from s1.training.shapes import KNOWN, ModelShape, shape_from_config

QWEN = KNOWN["Qwen/Qwen2.5-32B-Instruct"]
H100 = Hardware(device="h100", usd_per_hour=2.0, spot_usd_per_hour=1.0)
ALL_AT_ONCE = 10**9


def run(workers: int, *, checkpointing: bool = True, chunk: int = 4096, stage: int = 3, **more) -> Run:
    return Run(QWEN, workers, stage, "bf16", "sdpa", checkpointing, chunk, 16, 1, None, **more)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", 32_763.9),
        ("Qwen/Qwen2.5-14B-Instruct", 14_770.0),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615.6),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085.9),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543.7),
        ("Qwen/Qwen2.5-32B", 32_763.9),
        ("Qwen/Qwen3-32B", 32_762.1),
        ("Qwen/Qwen3-14B", 14_768.3),
        ("Qwen/Qwen3-8B", 8_190.7),
        ("Qwen/Qwen3-4B", 4_022.5),
        ("embedded:smollm2-135m-instruct", 134.5),
    ],
)
def test_parameters_are_those_that_the_models_publish(name, millions):
    assert KNOWN[name].num_parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_states_are_16_bytes_a_parameter_shared_as_zero_shares_them():
    assert sum(states(run(16)).values()) / GIB == pytest.approx(30.5, abs=0.05)
    one = sum(states(run(1)).values())
    assert one == 16 * QWEN.num_parameters
    by_stage = [states(run(16, stage=stage)) for stage in (1, 2, 3)]
    assert by_stage[0]["optimizer"] == by_stage[2]["optimizer"] == 12 * QWEN.num_parameters / 16
    assert by_stage[0]["gradients"] == 16 * by_stage[1]["gradients"]
    assert by_stage[1]["weights"] == 16 * by_stage[2]["weights"]


@pytest.mark.parametrize(
    ("workers", "checkpointing", "chunk", "tokens", "fits"),
    [
        (16, True, ALL_AT_ONCE, 32768, False),
        (16, True, ALL_AT_ONCE, 20000, True),
        (16, True, 4096, 32768, True),
        (8, False, 4096, 8121, False),
        (8, True, 4096, 8121, True),
    ],
)
def test_the_known_cases_on_h100_are_called_right(workers, checkpointing, chunk, tokens, fits):
    needed = peak_gib(run(workers, checkpointing=checkpointing, chunk=chunk), tokens, tokens)
    assert (needed <= H100.resolved().memory_gib) == fits


def test_a_logit_takes_its_own_and_32_bits():
    def peak(chunk: int) -> float:
        return peak_gib(run(16, checkpointing=False, chunk=chunk), 20000, 20000) * GIB

    assert peak(ALL_AT_ONCE) - peak(4096) == pytest.approx((20000 - 4096) * QWEN.vocabulary * (2 + 4))


def test_the_files_are_read_once_a_node_unless_zero_3_hands_them_out():
    assert host_bytes_at_load(run(16), 8) == 2 * QWEN.num_parameters
    assert host_bytes_at_load(run(16, stage=2), 8) == 16 * QWEN.num_parameters


def test_the_papers_run_comes_out_at_26_minutes_a_third_of_them_waiting():
    found = epoch(run(16), H100, published("s1", 1000), 32768)
    seconds = 5 * sum(found.seconds.values())
    assert seconds / 60 == pytest.approx(26, abs=0.5)
    assert found.seconds["straggling"] * 5 / seconds == pytest.approx(1 / 3, abs=0.03)
    assert 5 * found.model_flops / (seconds * 16 * 989e12) == pytest.approx(0.2, abs=0.01)


def test_dividing_packed_sequences_ends_the_waiting():
    alone = epoch(run(16), H100, published("s1", 1000), 32768)
    shared = epoch(run(16, packing=True, sequence_parallel=8), H100, published("s1", 1000), 32768)
    assert shared.seconds["compute"] == pytest.approx(alone.seconds["compute"])
    assert shared.seconds["straggling"] < 0.1 * alone.seconds["straggling"]


def test_zero_3_moves_three_times_the_weights_a_pass():
    moved, per_step = communication_seconds(run(16), Hardware(device="h100", node_gbit_per_s=100))
    assert (moved, per_step) == (pytest.approx(197e9 / 12.5e9 * 15 / 16, rel=0.01), 0)
    copies, _ = communication_seconds(run(16, secondary_shards=8), Hardware(device="h100", node_gbit_per_s=100))
    assert copies == pytest.approx(moved * 2 / 3, rel=0.03)


def test_checkpoints_written_in_the_background_cost_the_copy_and_what_is_not_hidden():
    behind, before = run(16, save_in_background=True), run(16)
    gigabytes = 14 * QWEN.num_parameters / 1e9
    written, copied = gigabytes / 4, gigabytes / 16 / HOST_GB_PER_S
    assert checkpoint_seconds(behind, H100) == pytest.approx(written)
    assert saving_seconds(before, H100, 315, 63, 3.0) == pytest.approx(4 * written)
    assert saving_seconds(behind, H100, 315, 63, 3.0) == pytest.approx(4 * copied)
    # 10 steps last 30 s: each checkpoint waits for the one before, the training for the last one.
    assert saving_seconds(behind, H100, 41, 10, 3.0) == pytest.approx(4 * copied + 3 * (written - 30) + written - 3)
    assert saving_seconds(behind, H100, 63, 63, 3.0) == pytest.approx(written)  # none is due before the export
    assert saving_seconds(behind, H100, 315, 0, 3.0) == 0
    assert host_bytes_in_steps(behind, 8, 1) == 14 * QWEN.num_parameters / 2


def test_lora_needs_states_for_its_updates_only():
    full, adapted = run(1), run(1, lora_rank=16)
    small = ModelShape(1, 8, 32, 2, 1, 4, 50, tied=True)
    # q and o 8 x 8, k and v 4 x 8, three matrices of 8 x 32.
    assert small.lora_parameters(3) == 3 * (2 * (8 + 8) + 2 * (8 + 4) + 3 * (8 + 32))
    assert adapted.num_trained == QWEN.lora_parameters(16) < 0.01 * full.num_trained
    assert states(adapted)["weights"] == 2 * (QWEN.num_parameters + adapted.num_trained)
    assert states(adapted)["gradients"] + states(adapted)["optimizer"] == 14 * adapted.num_trained
    assert checkpoint_bytes(adapted) == 14 * adapted.num_trained
    assert adapted.flops(100) == pytest.approx(full.flops(100) * 2 / 3, rel=0.02)


def test_published_lengths_are_those_of_the_papers():
    assert (len(published("s1", 1000)), max(published("s1", 1000))) == (1000, 8121)
    assert sum(published("s1", 1000)) == pytest.approx(4.7e6, rel=0.01)
    assert sum(published("s1.1", 1000)) == pytest.approx(9.28e6, rel=0.01)
    assert max(published("s1.1", 100)) == 26238 and published("s1.1", 1) == [26238]
    assert spread(120, 200, 81) == list(range(40, 201, 2))


@pytest.mark.parametrize(
    ("preset", "examples", "steps"), [("laptop", None, None), ("s1", 1000, 315), ("s1.1", 992, 310)]
)
def test_every_preset_can_be_planned(preset, examples, steps, tmp_path):
    sections = read_preset(PRESETS, preset)
    train, options = validate(TrainOptions, sections["train"], "train"), validate(PlanOptions, sections["plan"], "plan")
    found = training(train, selected(str(tmp_path), 1000, options.expected))
    assert found["fits"]
    assert sum(found["components"].values()) == pytest.approx(found["peak_gib"], abs=0.1)
    assert sum(found["time_shares"].values()) == pytest.approx(1, abs=0.01)
    if examples:
        assert (found["steps"], found["warmup_steps"], found["workers"], found["nodes"]) == (steps, 16, 16, 2)
        assert (found["examples"], found["too_long"]) == (examples, 1000 - examples)
        assert (train.epochs, train.batch_size, train.learning_rate) == (5, 16, 1e-5)
        assert train.block_size == {"s1": 32768, "s1.1": 20000}[preset]
        assert found["hours"] <= {"s1": 0.25, "s1.1": 0.7}[preset] and found["usd"] > 0


def test_hardware_without_a_speed_is_refused():
    with pytest.raises(UserError, match=r"set hardware\.tokens_per_s"):
        training(TrainOptions(), Lengths((4700,), (4700,), "counted", known=True))
    with pytest.raises(UserError, match="device='h1000': must be one of a100-40"):
        validate(TrainOptions, {"hardware": {"device": "h1000"}}, "train")


def test_examples_beyond_the_block_are_not_planned():
    with pytest.raises(UserError, match="all 1 examples exceed block_size=100"):
        training(TrainOptions(block_size=100, hardware=H100), Lengths((200,), (200,), "counted", known=True))


def test_offloaded_activations_move_from_the_gpu_to_the_host():
    kept, sent = (components(run(16, offload_activations=offload), 32768, 32768) for offload in (False, True))
    moved = kept["activations"] - sent["activations"]
    assert moved == 63 * 5120 * 2 * 32768
    assert host_bytes_in_steps(run(16, offload_activations=True), 8, 32768) == 8 * 64 * 5120 * 2 * 32768


CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def test_any_folder_of_the_known_kinds_can_be_planned(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "llama"}))
    assert shape(str(tmp_path)) == ModelShape(2, 64, 128, 4, 4, 16, 100, tied=False)
    assert shape_from_config({**CONFIG, "model_type": "qwen2"}, "here").qkv_bias
    with pytest.raises(UserError, match=r"config\.json has no 'num_hidden_layers'"):
        shape_from_config({"model_type": "llama", "num_attention_heads": 1}, "here")
    assert known_shape("somebody/some-model") is None
    with pytest.raises(UserError, match="not in the hub's cache"):
        shape("somebody/some-model")


@pytest.mark.parametrize("kind", ["phi3", "mixtral", "gemma2", None])
def test_another_kind_of_model_with_the_same_keys_is_trained_and_not_planned(kind, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": kind}))
    assert known_shape(str(tmp_path)) is None
    with pytest.raises(UserError, match=f"models of the kind {kind} can be trained, but not planned"):
        shape(str(tmp_path))


def test_prices_are_those_of_the_device_unless_given():
    a100, h100 = Hardware(device="a100-80"), Hardware(device="h100")
    assert a100.price < h100.price == DEVICES["h100"].usd_per_hour
    assert a100.spot_price is not None and a100.spot_price < a100.price
    assert (H100.price, H100.spot_price) == (2.0, 1.0)
    # A typical spot price beside somebody else's price on demand would be a guess.
    assert Hardware(device="h100", usd_per_hour=2.0).spot_price is None
    assert (Hardware().price, Hardware().spot_price) == (0, None)


def test_on_cpus_the_bucket_is_the_one_that_the_training_sets():
    small = ModelShape(30, 576, 1536, 9, 3, 64, 49152, tied=True)
    for on_cpu, numbers in ((False, small.num_parameters), (True, CPU_REDUCE_BUCKET)):
        for workers in (1, 2):  # DeepSpeed has one whatever there is to reduce
            of = Run(small, workers, 1, "fp32", "sdpa", False, 4096, 4, 1, None, on_cpu=on_cpu)
            assert components(of, 100, 100)["buckets"] == 4 * numbers


def test_passes_above_the_limit_are_recomputed_and_no_others():
    above = run(16, checkpointing=False, recompute_above_tokens=5000)
    never, always = run(16, checkpointing=False), run(16)
    for tokens, same in ((5000, never), (5001, always)):
        assert components(above, tokens, tokens) == components(same, tokens, tokens)
    for lengths, same in (([5000] * 16, never), ([8000] * 16, always)):
        assert epoch(above, H100, lengths, 32768) == epoch(same, H100, lengths, 32768)


def test_passes_of_all_steps_count():
    lengths = tuple(published("s1", 1000))
    spread = Spread(2, 16, 1, 10000, True, 32768, seed=0)
    first, all_steps = (pass_sizes(spread, lengths, steps) for steps in (63, 315))
    assert set(first) < set(all_steps) and all_steps == tuple(sorted(all_steps, reverse=True))
    assert all_steps[0] <= 10000


def test_held_out_losses_are_forward_passes_and_answers_gather_all_weights_a_token():
    lengths, node = [4000] * 16, run(8, checkpointing=False)
    trained = sum(epoch(node, H100, lengths, 32768).seconds.values())
    assert held_out_seconds(node, H100, lengths, 32768) == pytest.approx(trained / 3)
    gathered = 2 * QWEN.num_parameters * 7 / 8 / 450e9
    assert sampling_seconds(node, H100, 10) == pytest.approx(10 * gathered)
    read = 2 * QWEN.num_parameters / 3350e9
    assert sampling_seconds(run(8, stage=1), H100, 10) == pytest.approx(10 * read)


def test_the_run_folder_holds_two_checkpoints_or_three_when_one_is_rewritten():
    usual, resized = disk_bytes(run(16), 3)
    assert usual == 2 * checkpoint_bytes(run(16))
    assert resized / checkpoint_bytes(run(16)) == pytest.approx(3, abs=0.2)
    assert disk_bytes(run(16), 0) == (2 * QWEN.num_parameters, 2 * QWEN.num_parameters)
    assert disk_bytes(run(16), 1)[0] == checkpoint_bytes(run(16)) + 2 * QWEN.num_parameters
    adapted = run(1, lora_rank=16)  # small checkpoints, a whole model
    assert disk_bytes(adapted, 3)[0] == checkpoint_bytes(adapted) + 2 * QWEN.num_parameters
