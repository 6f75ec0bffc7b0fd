"""What the files of a model hold, without reading all of it: whether it is the model that config.json describes, and
whether it is the same model as another time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from s1.errors import UserError
from s1.training.shapes import ModelShape

# Bytes and places of a file that are looked at; the weights of two models differ nearly everywhere.
_SAMPLE_BYTES = 4096
_SAMPLES = 256
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
    wanted = {
        "model.embed_tokens.weight": [shape.vocabulary, shape.hidden],
        "model.layers.0.mlp.gate_proj.weight": [shape.intermediate, shape.hidden],
        "model.layers.0.self_attn.q_proj.weight": [shape.heads * shape.head_dim, shape.hidden],
    }
    for name, size in wanted.items():
        if found.get(name) != size:
            _other(folder, f"{name} is {found.get(name, 'missing')}, not {size}")
    if len(layers) != shape.layers:
        _other(folder, f"they have {len(layers)} layers, not {shape.layers}")


def identity(ref: str) -> list[list[object]]:
    """Name, size and a hash of samples of every file of the model folder `ref`; empty when it is no folder.

    A copy of the folder is the same model, whatever its times; other weights in files of the same sizes are another
    one. Of a large file 1 MiB is read.
    """
    folder = Path(ref).expanduser()
    if not ref or not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [[path.name, path.stat().st_size, _samples(path)] for path in files]


def _samples(file: Path) -> str:
    """Hash of the beginning, the end and places evenly between; of the whole file when it is small."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _SAMPLES * _SAMPLE_BYTES:
            found.update(stream.read())
            return found.hexdigest()[:16]
        for number in range(_SAMPLES):
            stream.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            found.update(stream.read(_SAMPLE_BYTES))
    return found.hexdigest()[:16]


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
