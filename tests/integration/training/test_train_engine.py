"""What differs on a GPU, as far as a CPU can tell."""

import torch

from actors.train_engine import own_steps
from s1.training.attention import choose_kernels


def test_steps_from_a_universal_checkpoint_are_where_the_fused_optimizer_looks_for_them():
    on_host = torch.tensor(3.0)
    parameters = [torch.nn.Parameter(torch.zeros(2, device="meta")) for _ in range(2)]
    states = {parameter: {"step": on_host, "exp_avg": torch.zeros(2)} for parameter in parameters}
    own_steps(states)
    steps = [state["step"] for state in states.values()]
    assert [step.device.type for step in steps] == ["meta", "meta"] and steps[0] is not steps[1]
    here = {
        torch.nn.Parameter(torch.zeros(2)): {"step": on_host},
        torch.nn.Parameter(torch.zeros(2)): {"step": on_host},
    }
    own_steps(here)
    one, other = (state["step"] for state in here.values())
    one += 1
    assert (one, other, on_host) == (4, 3, 3)


def test_no_kernel_is_planned_anew_for_every_length():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        choose_kernels("sdpa")
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
