import json
from pathlib import Path

import pytest

from jobs.cli import PRESETS
from jobs.plan import Data, Expected, Hardware, PlanOptions, selected, shape, training
from jobs.train import TrainOptions
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.config import read_preset, validate
from s1.errors import UserError
from s1.training import plan as planner
from s1.training.plan import GIB, KNOWN, Run, flops, memory, shape_from_config, states

QWEN = KNOWN["Qwen/Qwen2.5-32B-Instruct"]
H100_GIB = 79.6
ALL_AT_ONCE = 10**9


def run(workers: int, *, checkpointing: bool = True, chunk: int = 4096, stage: int = 3) -> Run:
    return Run(QWEN, workers, stage, "bf16", 1, None, "sdpa", checkpointing, chunk)


def peak_gib(of: Run, tokens: int) -> float:
    return sum(memory(of, tokens).values()) / GIB


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", 32_763.9),
        ("Qwen/Qwen2.5-14B-Instruct", 14_770.0),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615.6),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085.9),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543.7),
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
    assert (peak_gib(run(workers, checkpointing=checkpointing, chunk=chunk), tokens) <= H100_GIB) == fits


def test_logits_cost_what_was_measured():
    whole = run(16, checkpointing=False, chunk=ALL_AT_ONCE)
    assert memory(whole, 20000)["logits"] / GIB == pytest.approx(28.3, abs=0.1)
    assert memory(whole, 32768)["logits"] / GIB == pytest.approx(46.4, abs=0.1)


def test_the_papers_26_minutes_are_a_fifth_of_the_machine():
    seconds = flops(run(16), 5 * 4.7e6, 4700) / (16 * 989e12)
    assert 0.17 < seconds / (26 * 60) < 0.21


@pytest.mark.parametrize(("preset", "examples"), [("laptop", None), ("s1", 1000), ("s1.1", 1000)])
def test_every_preset_can_be_planned(preset, examples, tmp_path):
    sections = read_preset(PRESETS, preset)
    train, options = validate(TrainOptions, sections["train"], "train"), validate(PlanOptions, sections["plan"], "plan")
    data, origin = selected(str(tmp_path), 1000, options.expected)
    found = training(train, options.hardware, data)
    assert origin == "expected" and found["fits"]
    assert sum(found["components"].values()) == pytest.approx(found["peak_gib"], abs=0.1)
    if examples:
        assert (found["steps"], found["warmup_steps"], found["workers"], found["nodes"]) == (315, 16, 16, 2)
        assert (train.epochs, train.batch_size, train.learning_rate) == (5, 16, 1e-5)
        assert train.block_size == {"s1": 32768, "s1.1": 20000}[preset]
        assert 0.3 < found["hours"] < 1 and found["usd"] > 0


def test_the_selected_table_takes_the_place_of_the_expectation(tmp_path):
    rows = [{"question_id": str(number), "trace_tokens": 100 + number} for number in range(10)]
    with Artifact(str(tmp_path / "selection")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.SELECTION))
        staging.commit(Manifest("select", "f" * 16, {}, {}, "0", rows_in=10, rows_out=10))
    assert selected(str(tmp_path), 1000, Expected()) == (Data(10, 104.5, 109), "selected table")


def test_any_folder_of_the_known_kinds_can_be_planned(tmp_path: Path):
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape(str(tmp_path)) == planner.ModelShape(2, 64, 128, 4, 4, 16, 100, tied=False)
    with pytest.raises(UserError, match=r"config\.json has no 'num_hidden_layers'"):
        shape_from_config({"num_attention_heads": 1}, "here")
    with pytest.raises(UserError, match="its shape is not known"):
        shape("somebody/some-model")


def test_hardware_without_a_speed_is_refused():
    with pytest.raises(UserError, match="tokens_per_s or peak_tflops"):
        training(TrainOptions(), Hardware(), Data(1000, 4700, 8121))
