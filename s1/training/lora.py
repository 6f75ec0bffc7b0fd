"""LoRA: small trained matrices beside frozen weights, added into them when the model is exported.

Every linear layer of the decoder gets a pair of rank r: `down` (r, inputs) and `up` (outputs, r), whose product times
`scale` is added to the weight W (outputs, inputs). `up` starts at zero, so that training starts at the model itself.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

SCALE = 2.0  # of the update, whatever its rank: alpha = 2 r


class LoRALinear(nn.Module):
    """A frozen linear layer and the trained update of its weight."""

    def __init__(self, base: nn.Linear, rank: int, random: Generator) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False).to(base.weight)
        self.up = nn.Linear(rank, base.out_features, bias=False).to(base.weight)
        bound = base.in_features**-0.5
        drawn = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=random)
        self.down.weight.data.copy_(drawn)
        nn.init.zeros_(self.up.weight)

    def forward(self, values: Tensor) -> Tensor:
        return self.base(values) + self.up(self.down(values) * SCALE)  # scaled where it is small


def adapt(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze `model` and give every linear layer of its decoder an update of `rank`; the head stays as it is."""
    random = Generator().manual_seed(seed)
    model.requires_grad_(False)
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, LoRALinear(child, rank, random))
    # Checkpointed layers compute gradients only when their inputs ask for them.
    model.enable_input_require_grads()


def plain_name(name: str) -> str:
    """Name that a parameter of an adapted model has in a plain one."""
    return name.replace(".base.", ".")


def update_of(name: str) -> tuple[str, str] | None:
    """Names of the matrices (`up`, `down`) that are added to the parameter `name`; None: nothing is."""
    if not name.endswith(".base.weight"):
        return None
    stem = name.removesuffix("base.weight")
    return f"{stem}up.weight", f"{stem}down.weight"


def is_update(name: str) -> bool:
    """Whether the parameter `name` is one of those matrices, which an exported model has no place for."""
    return name.endswith((".up.weight", ".down.weight"))


def merged(weight: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The weight that does the work of all three, in the precision of `weight`."""
    return (weight.float() + SCALE * up.float() @ down.float()).to(weight.dtype)
