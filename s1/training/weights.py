"""What the files of a model hold: whether it is the model that config.json describes, and whether it is the same model
as another time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from s1 import models
from s1.errors import UserError
from s1.training.shapes import ModelShape

# Files from here on take so long to read that their hashes are kept.
_KEPT_BYTES = 16 * 2**20
# A file that was changed less than this ago may be changed once more within the clock tick of its times.
_SETTLED_S = 2.0
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def check(folder: Path, shape: ModelShape) -> None:
    """UserError when `folder` holds no weights, or those of a model of another shape. Reads no weights."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if not any(folder.glob("*.bin")):
            raise UserError(f"{folder}: holds no weights (*.safetensors); give a whole model folder")
        return  # an older format, whose headers cannot be read without its weights
    found = {name: size for file in files for name, size in _tensors(file)}
    layers = {match[1] for name in found if (match := _LAYER.match(name))}
    kv = shape.kv_heads * shape.head_dim
    wanted = {
        "model.embed_tokens.weight": [shape.vocabulary, shape.hidden],
        "model.layers.0.mlp.gate_proj.weight": [shape.intermediate, shape.hidden],
        "model.layers.0.self_attn.q_proj.weight": [shape.heads * shape.head_dim, shape.hidden],
        "model.layers.0.self_attn.k_proj.weight": [kv, shape.hidden],
    }
    if shape.qkv_bias:
        wanted["model.layers.0.self_attn.k_proj.bias"] = [kv]
    if shape.qk_norm:
        wanted["model.layers.0.self_attn.k_norm.weight"] = [shape.head_dim]
    if not shape.tied:
        wanted["lm_head.weight"] = [shape.vocabulary, shape.hidden]
    for name, size in wanted.items():
        if found.get(name) != size:
            _other(folder, f"{name} is {found.get(name, 'missing')}, not {size}")
    if len(layers) != shape.layers:
        _other(folder, f"they have {len(layers)} layers, not {shape.layers}")
    numbers = sum(math.prod(size) for size in found.values())
    if numbers < shape.num_parameters:  # there may be more: tied weights that are written twice
        _other(folder, f"they are {numbers:,} numbers, not {shape.num_parameters:,}; a file of them may be missing")


def identity(ref: str) -> list[list[object]]:
    """Name, size and hash of every file of the model folder `ref`; empty when it is no folder.

    A copy of the folder is the same model, whatever its times; any other content is another one. A large file is read
    once: its hash is kept in the cache folder until its size or its times change.
    """
    folder = Path(ref).expanduser()
    if not ref or not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [[path.name, path.stat().st_size, _hash(path)] for path in files]


def _hash(file: Path) -> str:
    """Of the whole content."""
    state = file.stat()
    if state.st_size < _KEPT_BYTES:
        return _read(file)
    kept = _kept(file)
    if kept.is_file():
        return kept.read_text()
    found = _read(file)
    if time.time() - max(state.st_mtime, state.st_ctime) > _SETTLED_S and _kept(file) == kept:
        _keep(kept, found)
    return found


def _kept(file: Path) -> Path:
    """Where the hash of `file` is kept: another place after any change."""
    state = file.stat()
    key = json.dumps([str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    return models.cache_folder() / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _keep(kept: Path, found: str) -> None:
    new = kept.with_name(f"{kept.name}.{os.getpid()}")
    with suppress(OSError):  # a cache that cannot be written costs the time to read the file again
        kept.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(found)
        os.replace(new, kept)


def _other(folder: Path, what: str) -> None:
    raise UserError(f"{folder}: its weights are not those of the model in config.json: {what}; restore the folder")


def _tensors(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor of a safetensors file, which begins with the length of its JSON header."""
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
    except (OSError, ValueError, struct.error, MemoryError, OverflowError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); restore the folder") from error
    yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")
