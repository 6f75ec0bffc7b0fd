"""The planner's formulas beside DeepSpeed's own."""

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from s1.training.memory import Run, states, step_gradients
from s1.training.shapes import KNOWN


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"])
@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (8, 1), (8, 2)])
def test_model_states_are_those_of_deepspeeds_own_estimator(name, gpus, nodes):
    model, workers = KNOWN[name], gpus * nodes
    of = {stage: Run(model, workers, stage, "bf16", "sdpa", True, 4096, 16, 1, None) for stage in (2, 3)}
    _, stage2 = estimate_zero2_model_states_mem_needs(model.num_parameters, gpus, nodes, cpu_offload=False)
    # It counts the 32-bit gradients of a step, and not the row of 16-bit ones that they are made of.
    share = model.num_parameters / workers
    assert sum(states(of[2]).values()) + 4 * share == pytest.approx(stage2, rel=1e-6)
    assert step_gradients(of[2]) == pytest.approx(4 * share + 2 * share)
    # For ZeRO-3 it counts all gradients in 32 bits, where the optimiser holds those of one group of parameters.
    _, stage3, _ = estimate_zero3_model_states_mem_needs(model.num_parameters, 0, gpus, nodes, cpu_offload=False)
    assert sum(states(of[3]).values()) + 2 * share == pytest.approx(stage3, rel=1e-6)
