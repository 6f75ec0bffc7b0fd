import json
from typing import Any

import pytest

from jobs.runner import plan
from jobs.train import JOB
from jobs.train_options import TrainOptions, check, check_packable
from s1 import schema
from s1.config import validate
from s1.errors import UserError
from s1.template import Template
from s1.training.examples import hold_out, render
from s1.training.hardware import Hardware


@pytest.fixture(scope="module")
def template(tokenizer) -> Template:
    return Template(tokenizer)


def selection(*rows: tuple[str, str | None, str]):
    keys = ("question", "thinking", "attempt")
    named = [{**dict(zip(keys, row, strict=True)), "question_id": row[0]} for row in rows]
    return schema.to_table(named, schema.SELECTION)


def test_examples_are_the_templates_in_the_order_of_the_selection(template):
    examples, too_long = render(selection(("b", "1 + 1 = 2", "2"), ("a", "2", "Answer: 2")), template, 500, "error")
    assert examples["question_id"].to_pylist() == ["b", "a"] and too_long == 0
    first = examples.to_pylist()[0]
    text = template.decode(first["input_ids"][first["num_prompt_tokens"] :])
    assert text == "1 + 1 = 2\n<|im_start|>answer\nAnswer: 2<|im_end|>"


def test_a_trace_is_never_cut(template):
    table = selection(("short", "1", "1"), ("long", "1 + " * 100, "1"))
    with pytest.raises(UserError, match=r"question long: \d+ tokens do not fit block_size=100"):
        render(table, template, 100, "error")
    examples, too_long = render(table, template, 100, "drop")
    assert (examples["question_id"].to_pylist(), too_long) == (["short"], 1)


@pytest.mark.parametrize("thinking", ["", None])
def test_a_row_without_a_trace_is_named(template, thinking):
    with pytest.raises(UserError, match="question q: thinking is empty"):
        render(selection(("q", thinking, "1")), template, 100, "error")


def test_a_table_without_traces_is_refused(template):
    with pytest.raises(UserError, match="no traces to train on: the table is empty"):
        render(selection(), template, 100, "error")
    with pytest.raises(UserError, match="no traces to train on: all 1 exceed block_size=10"):
        render(selection(("q", "1", "1")), template, 10, "drop")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"workers": 0}, "workers=0"),
        ({"zero_stage": 4}, "zero_stage=4"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_impossible_options_are_one_line(values, says):
    with pytest.raises(UserError, match=says) as error:
        validate(TrainOptions, values, "train")
    assert "\n" not in str(error.value)


def test_a_batch_that_the_workers_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size=16 is not divisible by workers=3"):
        check(TrainOptions(batch_size=16, workers=3))


def test_a_tokenizer_without_the_delimiters_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<s>"}]}))
    with pytest.raises(UserError, match="has no token"):
        check(TrainOptions(model=str(tmp_path)))
    check(TrainOptions(model=str(tmp_path), template="think-tags"))


@pytest.mark.parametrize("packing", [False, True])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path, packing):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2",')
    with pytest.raises(UserError, match="not the configuration of a model") as error:
        check(TrainOptions(model=str(tmp_path), packing=packing))
    assert "\n" not in str(error.value)


def test_a_model_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(TrainOptions(model=str(tmp_path / "nowhere")))


H100 = Hardware(device="h100")
SMOL = "embedded:smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"packing": True, "attention": "eager"}, "would let a sequence see the one before it: .*; use attention=sdpa"),
        ({"sequence_parallel": 3}, "divides packed sequences; add --packing"),
        ({"packing": True, "sequence_parallel": 2}, "workers=1 is not divisible by sequence_parallel=2"),
        ({"packing": True, "sequence_parallel": 2, "workers": 2}, "the 9 attention heads .* use one of 1, 3, 9"),
        ({"secondary_shards": 2, "workers": 2}, "secondary_shards=2 needs zero_stage=3, not 1"),
        ({"min_workers": 2}, "min_workers=2 is more than workers=1"),
        ({"attention": "flash_attention_3"}, "needs GPUs and bf16, not gpus_per_worker=0 and .*; take sdpa"),
        (
            {"attention": "flash_attention_3", "gpus_per_worker": 1, "precision": "fp32", "hardware": H100},
            "needs GPUs and bf16, not gpus_per_worker=1 and fp32",
        ),
        ({"hardware": H100}, "hardware.device=h100 with gpus_per_worker=0: .* set gpus_per_worker=1"),
        ({"gpus_per_worker": 1}, "with hardware.device=cpu: .* the nearest of .* h100, .*, or gpus_per_worker=0"),
        (
            {"gpus_per_worker": 1, "hardware": Hardware(memory_gib=24, tokens_per_s=900)},
            "gpus_per_worker=1 with hardware.device=cpu: ",
        ),
        ({"samples": 3, "held_out": 2}, "samples=3 are drawn from held_out=2"),
        (
            {"workers": 12, "gpus_per_worker": 1, "batch_size": 12, "hardware": H100},
            "12 are not the GPUs of whole nodes",
        ),
        (
            {"workers": 6, "gpus_per_worker": 1, "batch_size": 6, "hardware": H100, "packing": True}
            | {"sequence_parallel": 3},
            "would divide sequences between nodes of 8 GPUs",
        ),
        (
            {"workers": 16, "min_workers": 3},
            "min_workers=3 cannot share the training equally; use one of 1, 2, 4, 8, 16$",
        ),
        (
            {"packing": True, "sequence_parallel": 3, "workers": 12, "batch_size": 12, "min_workers": 2},
            "min_workers=2 cannot share the training equally; use one of 3, 6, 9, 12$",
        ),
        (
            {"packing": True, "sequence_parallel": 3, "workers": 15, "batch_size": 12},
            "batch_size=12 is not divisible by the 5 groups of sequence_parallel=3 among workers=15",
        ),
    ],
)
def test_options_that_do_not_fit_each_other_are_one_line(values, says):
    with pytest.raises(UserError, match=says) as error:
        check(TrainOptions(model=SMOL, **values))
    assert "\n" not in str(error.value)
    check(TrainOptions(model=SMOL, packing=True, sequence_parallel=3, workers=12, batch_size=12))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("jobs.train_options.find_spec", lambda _: None)
    flash = {"attention": "flash_attention_3", "gpus_per_worker": 1, "precision": "bf16", "hardware": H100}
    says = "the package flash_attn_3 is not installed; install it, or take sdpa"
    for values, line in (({"trackers": ("wandb",)}, "run: pip install wandb"), (flash, says)):
        with pytest.raises(UserError, match=line):
            check(TrainOptions(**values))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba2"},
        {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]},
        {"model_type": "qwen2", "use_sliding_window": True},
    ],
)
def test_models_that_may_mix_the_sequences_of_a_pack_are_refused(config):
    with pytest.raises(UserError, match="packing is tested for full attention"):
        check_packable("model", config)
    check_packable("model", {"model_type": "qwen2", "layer_types": ["full_attention"] * 2, "use_sliding_window": False})


def test_held_out_examples_are_drawn_by_the_seed_and_never_trained_on(template):
    examples, _ = render(selection(*((f"q{number}", "1", "1") for number in range(10))), template, 500, "error")
    kept, out = hold_out(examples, 3, seed=0)
    assert (kept.num_rows, out.num_rows) == (7, 3)
    names = kept["question_id"].to_pylist(), out["question_id"].to_pylist()
    assert sorted(names[0] + names[1]) == sorted(examples["question_id"].to_pylist())
    assert hold_out(examples, 3, seed=0)[1] == out != hold_out(examples, 3, seed=1)[1]
    assert hold_out(examples, 0, seed=0)[0] == examples
    with pytest.raises(UserError, match="held_out=10 leaves none of 10 examples"):
        hold_out(examples, 10, seed=0)


def test_how_a_model_is_trained_is_no_part_of_which_model_it_is(tmp_path):
    def identity(**values) -> str:
        return plan(JOB, TrainOptions(model=SMOL, **values), str(tmp_path)).fingerprint

    equal: list[dict[str, Any]] = [
        {"workers": 2, "min_workers": 1, "save_steps": 5, "hardware": Hardware(usd_per_hour=3)},
        {"activation_checkpointing": True, "offload_activations": True, "loss_chunk_tokens": 128},
        {"micro_batch_size": 4, "micro_batch_tokens": 9000, "attention": "eager"},
        {"packing": True, "sequence_parallel": 3, "secondary_shards": 3, "workers": 3},
        {"samples": 1, "sample_tokens": 9, "spike_factor": 0.0},
        {"precision": TrainOptions(model=SMOL).number_type},
    ]
    assert {identity(**values) for values in equal} == {identity()}
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"zero_stage": 3},  # whose shards DeepSpeed reads by itself only
        {"batch_size": 8},
        {"learning_rate": 1e-4},
        {"lora_rank": 4},
        {"held_out": 1},
        {"epochs": 1},
        {"precision": "fp32" if TrainOptions(model=SMOL).number_type == "bf16" else "bf16"},
    ]
    assert len({identity(), *(identity(**values) for values in others)}) == len(others) + 1


def test_a_broken_configuration_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not the configuration of a model"):
        check(TrainOptions(model=str(tmp_path), packing=True, template="think-tags"))
