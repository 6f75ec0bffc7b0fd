"""The cheapest change that makes a training fit."""

import random
from typing import Any

import pytest

from jobs import train
from jobs.cli import PRESETS
from jobs.train_options import TrainOptions, check, planned
from jobs.train_plan import SEARCHED, SPARE, Data, elastic_sizes, report, verdict
from s1.config import read_preset, validate
from s1.training import plan as planner
from s1.training.hardware import Hardware
from s1.training.lengths import published
from s1.training.shapes import KNOWN

QWEN_32B, QWEN_15B = "Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"
S1 = Data(tuple(published("s1", 1000)))
WAY_OF_THE_REFERENCE = {"packing": False, "sequence_parallel": 1, "activation_checkpointing": True}


def preset(**more) -> TrainOptions:
    values = {**read_preset(PRESETS, "s1")["train"], "recompute_above_tokens": None, **more}
    return validate(TrainOptions, values, "train")


def small(**more) -> TrainOptions:
    values = {"model": QWEN_15B, "precision": "bf16", "hardware": {"device": "rtx-4090"}, "gpus_per_worker": 1}
    return TrainOptions(**{**values, "activation_checkpointing": True, "zero_stage": 3, **more})


def plan_of(options: TrainOptions, data: Data = S1):
    return report(options, data, KNOWN[options.model])


@pytest.mark.parametrize(
    ("options", "change"),
    [
        # Smaller passes cost less than computing activations twice.
        (preset(micro_batch_tokens=40000), {"micro_batch_tokens": 20000}),
        # Copies of the weights that 80 GB have no room for are given up first.
        (
            preset(**WAY_OF_THE_REFERENCE, workers=8, secondary_shards=2),
            {"secondary_shards": 1},
        ),
        (preset(**WAY_OF_THE_REFERENCE, workers=8, attention="eager"), {"attention": "sdpa"}),
        (preset(workers=8), {"activation_checkpointing": True}),
    ],
)
def test_the_cheapest_change_is_found(options, change):
    found = plan_of(options)
    assert not found["fits"] and found["change"]["options"] == change
    (name, value), *_ = change.items()
    flag = f"--{name.replace('_', '-')}"
    assert f"the cheapest change: {flag if value is True else f'{flag} {value}'} (" in verdict(found)


@pytest.mark.parametrize(
    "options",
    [
        preset(micro_batch_tokens=40000),
        preset(workers=8, secondary_shards=2),
        preset(workers=4, sequence_parallel=4),
        preset(**WAY_OF_THE_REFERENCE, workers=1),
        preset(**WAY_OF_THE_REFERENCE, workers=8, attention="eager"),
        preset(**WAY_OF_THE_REFERENCE, min_workers=4),
        small(),
        small(batch_size=2, zero_stage=1, activation_checkpointing=False),
    ],
)
def test_what_is_proposed_is_allowed_and_fits_with_room_to_spare(options):
    found = plan_of(options)
    assert not found["fits"]
    for proposed in (found["change"], found["lora"]):
        if proposed is None:
            continue
        changed = validate(TrainOptions, {**options.model_dump(), **proposed["options"]}, "train")
        check(changed)
        fitting = plan_of(changed)
        assert fitting["fits"] and fitting["usd"] == proposed["usd"]
        assert max(fitting["peak_gib"], proposed["peak_gib"]) <= (1 - SPARE) * fitting["limit_gib"] + 0.01
        assert "GiB to spare" in verdict(fitting)
    assert found["change"] is None or "lora_rank" not in found["change"]["options"]


def test_lora_is_named_as_other_mathematics_beside_the_change():
    found = plan_of(small())
    assert found["lora"]["options"]["lora_rank"] == 16 and found["change"]["options"]["workers"] > 1
    assert "or train other mathematics, updates only (LoRA): --lora-rank 16" in verdict(found)


def test_a_model_that_no_change_makes_fit_is_told_so():
    found = plan_of(TrainOptions(model=QWEN_32B, hardware=Hardware(device="rtx-4090")), Data((1000,) * 16))
    assert found["change"] is None and "no change of memory options is enough" in verdict(found)


def test_more_workers_than_a_batch_has_examples_are_proposed_where_groups_share_sequences():
    found = plan_of(preset(hardware={"device": "a100-40"}), Data(S1.lengths, longest=32768))
    assert found["change"]["options"] == {"workers": 32, "activation_checkpointing": True}
    assert found["change"]["peak_gib"] == pytest.approx(28.4, abs=0.05)
    assert " min with links of 1600 Gbit/s between nodes)" in verdict(found)
    # Groups may come with the change itself: two workers have one example each, eight of them share two.
    found = plan_of(small(batch_size=2, workers=2, hardware={"device": "rtx-4090", "memory_gib": 12}))
    assert found["change"]["options"] == {"workers": 8, "sequence_parallel": 4, "packing": True}


def test_a_time_of_several_nodes_names_the_links_that_it_takes_for_granted(capsys):
    train._check_plan(preset(), S1, KNOWN[QWEN_32B])
    assert (
        " min, $26.64 with links of 3200 Gbit/s between nodes (hardware.node_gbit_per_s)\n" in capsys.readouterr().err
    )
    train._check_plan(preset(workers=8, activation_checkpointing=True), S1, KNOWN[QWEN_32B])
    assert capsys.readouterr().err.endswith(" min, $33.29\n")


def test_a_long_example_that_may_come_is_recomputed_alone():
    found = plan_of(preset(), Data(S1.lengths, longest=32768))
    assert found["change"]["options"] == {"recompute_above_tokens": 10000}
    fitting = plan_of(preset(recompute_above_tokens=10000), Data(S1.lengths, longest=32768))
    assert fitting["fits"] and fitting["hours"] == plan_of(preset(), S1)["hours"]


def test_the_fewest_workers_have_to_have_the_memory():
    options = preset(**WAY_OF_THE_REFERENCE, min_workers=4)
    for fewest in (3, 4):
        assert elastic_sizes(options.model_copy(update={"min_workers": fewest})) == [4, 8, 16]
    found = plan_of(options)
    assert found["margin_gib"] > 0 and not found["fits"]
    assert (found["fewer_workers"]["workers"], found["fewer_workers"]["fits"]) == (4, False)
    assert "does not fit when only 4 of 16 workers can be had, 137.8 of" in verdict(found)
    assert found["change"]["options"] == {"min_workers": 8}
    assert plan_of(options.model_copy(update={"min_workers": 8}))["fewer_workers"]["fits"]
    assert plan_of(preset())["fewer_workers"] is None


def test_a_peak_that_exceeds_the_memory_by_less_than_is_printed_is_told_as_any_other():
    options = preset()
    training = planned(options, S1.lengths, KNOWN[options.model])
    limit = planner.peak(training).gib - 1e-4
    lacking = options.model_copy(update={"hardware": Hardware(device="h100", memory_gib=limit)})
    found = plan_of(lacking)
    assert not found["fits"] and found["margin_gib"] == 0 and found["fewer_workers"] is None
    assert verdict(found).startswith("does not fit, ")


def test_a_number_of_workers_between_the_fewest_and_all_has_to_have_the_memory():
    # Packs fill differently among other numbers of workers, and with LoRA the states hardly shrink with more of them.
    ways = {"packing": True, "micro_batch_tokens": 2000, "batch_size": 8, "epochs": 1, "zero_stage": 1, "lora_rank": 8}
    data = Data((1900, 900, 900, 100, 100, 1100, 1100, 500))
    limit = 6.65
    options = small(**ways, workers=8, min_workers=1, hardware={"device": "rtx-4090", "memory_gib": limit})
    alone = {
        size: plan_of(options.model_copy(update={"workers": size, "min_workers": None}), data) for size in (1, 2, 4, 8)
    }
    assert {size for size, found in alone.items() if not found["fits"]} == {2}
    found = plan_of(options, data)
    assert found["fits_on_all"] and not found["fits"]
    lacking = {"workers": 2, "fits": False, "peak_gib": alone[2]["peak_gib"]}
    assert found["fewer_workers"].items() >= lacking.items()
    assert "does not fit when only 2 of 8 workers can be had" in verdict(found)


def test_the_memory_of_a_node_has_to_hold_checkpoints_on_their_way():
    # 14 bytes for each of 1.5 billion weights wait to be written, and 8 copies of 3 GiB are loaded without ZeRO-3.
    ways = {"workers": 8, "batch_size": 8, "save_steps": 10, "save_in_background": True}
    of = {"device": "h100", "host_gib": 16}
    options = small(**ways, hardware=of)
    found = plan_of(options)
    assert (found["device_fits"], found["host_fits"], found["fits"]) == (True, False, False)
    assert found["host_gib_in_steps"] > 16 > found["host_gib_at_load"]
    assert verdict(found).startswith(
        f"does not fit, {found['host_gib_in_steps']:.1f} of 16.0 GiB of a node's own memory"
    )
    assert found["change"]["options"] == {"save_in_background": False}
    assert plan_of(small(**{**ways, "save_in_background": False}, hardware=of))["fits"]
    assert plan_of(small(**ways, hardware={**of, "host_gib": 32}))["fits"]

    hopeless = verdict(plan_of(small(**ways, hardware={**of, "host_gib": 1})))
    assert "of a node's own memory; no change of memory options is enough: take nodes with more memory or" in hopeless

    copies = plan_of(small(**{**ways, "zero_stage": 2, "save_in_background": False}, hardware=of))
    assert copies["host_gib_at_load"] > 16 and copies["change"]["options"] == {"zero_stage": 3}


def test_the_memory_of_a_node_has_to_be_enough_with_fewer_workers_too():
    # Fewer workers share the same checkpoint: each node holds more of it.
    ways = {"workers": 16, "min_workers": 8, "batch_size": 16, "save_steps": 10, "save_in_background": True}
    found = plan_of(small(**ways, hardware={"device": "h100", "host_gib": 16}))
    assert (found["fits_on_all"], found["fits"]) == (True, False)
    assert "only 8 of 16 workers can be had, 20" in verdict(found) and "of a node's own memory" in verdict(found)


def test_a_node_that_lacks_memory_for_a_change_writes_its_checkpoints_at_once():
    # Long sequences fit on these devices when their activations wait on the host, where checkpoints wait already.
    ways = {"workers": 8, "batch_size": 8, "block_size": 60000, "max_steps": 60, "save_steps": 10}
    hardware = {"device": "h100", "memory_gib": 74, "host_gib": 442}
    options = preset(**ways, hardware=hardware, activation_checkpointing=True)
    data = Data((60000,) * 16)
    found = plan_of(options, data)
    assert found["host_fits"] and not found["device_fits"]
    assert found["change"]["options"] == {"offload_activations": True, "save_in_background": False}
    assert plan_of(options.model_copy(update=found["change"]["options"]), data)["fits"]


def test_part_of_a_machine_has_its_part_of_the_memory():
    assert [Hardware(device="h100", per_node=number).resolved().host_gib for number in (8, 1)] == [2048, 256]
    assert Hardware(device="h100", per_node=1, host_gib=500).resolved().host_gib == 500
    assert Hardware(device="rtx-4090", per_node=1).resolved().host_gib is None


def test_what_is_proposed_for_many_examples_has_room_for_all_of_them():
    data = Data(tuple(random.Random(0).choices(range(100, 2000), k=SEARCHED + 1000)))
    ways = {"packing": True, "micro_batch_tokens": 4000, "batch_size": 32, "epochs": 1}

    def found_with(memory_gib: float, **more: object) -> dict[str, Any]:
        hardware = {"device": "rtx-4090", "memory_gib": memory_gib}
        return plan_of(small(**ways, workers=8, lora_rank=16, hardware=hardware, **more), data)

    # Recomputing has room for the fullest pass of the examples that a search looks at, not quite for that of all.
    room = found_with(24)["peak_gib"] - 0.01
    limit = room / (1 - SPARE)
    found = found_with(limit, activation_checkpointing=False)
    assert not found["fits"]
    assert found["change"]["options"] != {"activation_checkpointing": True}
    assert found["change"]["peak_gib"] <= room
