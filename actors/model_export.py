"""A trained model as a folder that transformers and vLLM load as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s1.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import GenerationConfig, PreTrainedModel

MAX_SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Weight:
    """A parameter of the exported model: the one that was loaded, and the update (up, down) that LoRA trained."""

    base: Parameter
    update: tuple[Parameter, Parameter] | None = None

    @property
    def parameters(self) -> list[Parameter]:
        return [self.base, *(self.update or ())]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole parameter in bf16."""
        return 2 * int(getattr(self.base, "ds_numel", self.base.numel()))


def export_weights(
    model: PreTrainedModel,
    folder: Path,
    *,
    rank: int,
    num_ranks: int,
    partitioned: bool,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights as bf16 safetensors and the configuration; the first rank writes what there is one of.

    Every rank calls this, and each writes its share of the files. Under ZeRO-3 (`partitioned`) the parameters of one
    file at a time are gathered: no rank ever holds the model. While one rank writes, the next file is gathered for
    another. What LoRA trained is added into the weights.
    """
    weights = _weights(model)
    shards = list(_shards(weights, max_shard_bytes))
    weight_map: dict[str, str] = {}
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            weight_map |= dict.fromkeys(shard, name)
            writes = number % num_ranks == (rank + 1) % num_ranks
            if writes and written is not None:
                written.result()  # one file of a rank is in memory at a time
            tensors = _gather(shard, keep=writes, partitioned=partitioned)
            if writes:
                written = writer.submit(_write, tensors, folder / name)
            del tensors
        if written is not None:
            written.result()
    if rank == 0:
        if len(shards) > 1:
            total = sum(weight.num_bytes for weight in weights.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        _write_config(model, folder)


def _weights(model: PreTrainedModel) -> dict[str, Weight]:
    """The weights by the names that a plain model has for them; a tied one appears once."""
    from s1.training import lora

    parameters = dict(model.named_parameters())
    found: dict[str, Weight] = {}
    for name, parameter in parameters.items():
        if lora.is_update(name):
            continue
        update = lora.update_of(name)
        pair = None if update is None else (parameters[update[0]], parameters[update[1]])
        found[lora.plain_name(name)] = Weight(parameter, pair)
    return found


def _shards(weights: dict[str, Weight], max_shard_bytes: int) -> Iterator[dict[str, Weight]]:
    """The weights in groups of at most `max_shard_bytes` of bf16."""
    shard: dict[str, Weight] = {}
    size = 0
    for name, weight in weights.items():
        if shard and size + weight.num_bytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = weight
        size += weight.num_bytes
    yield shard


def _gather(shard: dict[str, Weight], *, keep: bool, partitioned: bool) -> dict[str, Tensor]:
    if not partitioned:
        return {name: _whole(weight) for name, weight in shard.items()} if keep else {}
    import deepspeed

    parameters = [parameter for weight in shard.values() for parameter in weight.parameters]
    with deepspeed.zero.GatheredParameters(parameters):
        return {name: _whole(weight) for name, weight in shard.items()} if keep else {}


def _whole(weight: Weight) -> Tensor:
    import torch

    from s1.training.lora import merged

    value = weight.base.detach()
    if weight.update is not None:
        value = merged(value, *(part.detach() for part in weight.update))
    return value.to("cpu", torch.bfloat16, copy=True)


def _write(tensors: dict[str, Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors leaves it to its owner alone


def _write_config(model: PreTrainedModel, folder: Path) -> None:
    import torch

    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype = torch.bfloat16
    config.use_cache = True
    config.save_pretrained(folder)


def export_tokenizer(model_folder: Path, folder: Path, stop_ids: list[int]) -> None:
    """Tokenizer, chat template and a generation config that ends at any of `stop_ids`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(folder)
    generation, _ = generation_config(model_folder, tokenizer.pad_token_id, stop_ids)
    generation.save_pretrained(folder)


def generation_config(
    model_folder: Path, pad_token_id: int | None, stop_ids: list[int]
) -> tuple[GenerationConfig, bool]:
    """The model's own generation config, ending at any of `stop_ids`, and whether do_sample had to be set in it.

    Many models give a temperature without do_sample=True: vLLM samples with it, `transformers` does not, and refuses to
    write it. UserError for a config that contradicts itself in other ways.
    """
    from transformers import GenerationConfig

    file = model_folder / "generation_config.json"
    try:
        config = GenerationConfig.from_pretrained(model_folder) if file.is_file() else GenerationConfig()
        config.eos_token_id, config.pad_token_id = stop_ids, pad_token_id
        if config.do_sample or _is_valid(config):
            config.validate(strict=True)
            return config, False
        config.do_sample = True
        config.validate(strict=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be written for the trained model ({reason}); correct or remove it") from error
    return config, True


def _is_valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
