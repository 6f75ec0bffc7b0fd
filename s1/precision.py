"""The number type that a device computes fastest in.

GPUs compute in bfloat16. Of the CPUs only some have matrix instructions for it; the others take it apart into 32-bit
numbers, operation by operation, which is many times slower than to compute in float32 in the first place. The dot
products of AVX-512 (`avx512_bf16`) alone do not make up for that (docs/decisions/training.md).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

Dtype = Literal["bfloat16", "float16", "float32"]

_CPUINFO = Path("/proc/cpuinfo")
# x86 with AMX; ARM with its bf16 extension.
_INSTRUCTIONS = frozenset({"amx_bf16", "bf16"})


def resolve(dtype: Dtype | Literal["auto"], *, gpu: bool) -> Dtype:
    """`dtype`; in place of "auto" bfloat16, or float32 on a CPU without matrix instructions for it."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if gpu or cpu_has_bfloat16() else "float32"


@cache
def cpu_has_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this machine's CPU computes in bfloat16; False where nothing is known of it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    names = ("flags", "Features")  # on x86, on ARM
    return any(_INSTRUCTIONS & set(line.split()) for line in lines if line.startswith(names))
