"""A trained model as a folder that transformers and vLLM load as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel

MAX_SHARD_BYTES = 4_000_000_000


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
    file at a time are gathered: no rank ever holds the model.
    """
    from safetensors.torch import save_file

    shards = list(_shards(model, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        writes = number % num_ranks == (rank + 1) % num_ranks
        tensors = _gather(shard, keep=writes, partitioned=partitioned)
        if writes:
            save_file(tensors, folder / name, metadata={"format": "pt"})
            (folder / name).chmod(0o644)  # safetensors leaves it to its owner alone
    if rank == 0:
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(map(_num_bytes, model.parameters()))}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        _write_config(model, folder)


def _num_bytes(parameter: Parameter) -> int:
    """Bytes of the whole parameter in bf16."""
    return 2 * int(getattr(parameter, "ds_numel", parameter.numel()))


def _shards(model: PreTrainedModel, max_shard_bytes: int) -> Iterator[dict[str, Parameter]]:
    """Parameters in groups of at most `max_shard_bytes` of bf16; a tied one appears once."""
    shard: dict[str, Parameter] = {}
    size = 0
    for name, parameter in model.named_parameters():
        num_bytes = _num_bytes(parameter)
        if shard and size + num_bytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = parameter
        size += num_bytes
    yield shard


def _gather(shard: dict[str, Parameter], *, keep: bool, partitioned: bool) -> dict[str, Tensor]:
    import torch

    def copies() -> dict[str, Tensor]:
        if not keep:
            return {}
        return {name: value.detach().to("cpu", torch.bfloat16, copy=True) for name, value in shard.items()}

    if not partitioned:
        return copies()
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(shard.values())):
        return copies()


def _write_config(model: PreTrainedModel, folder: Path) -> None:
    import torch

    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype = torch.bfloat16
    config.use_cache = True
    config.save_pretrained(folder)


def export_tokenizer(model_folder: Path, folder: Path, stop_ids: list[int]) -> None:
    """Tokenizer, chat template and a generation config that ends at any of `stop_ids`."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(folder)
    known = model_folder / "generation_config.json"
    generation = GenerationConfig.from_pretrained(model_folder) if known.is_file() else GenerationConfig()
    generation.eos_token_id, generation.pad_token_id = stop_ids, tokenizer.pad_token_id
    generation.save_pretrained(folder)
