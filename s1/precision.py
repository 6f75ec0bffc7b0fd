"""The number type that a device computes fastest in.

GPUs compute in bfloat16. Of the CPUs only some have instructions for it; the others take it apart into 32-bit numbers,
operation by operation, which is many times slower than to compute in float32 in the first place.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

Dtype = Literal["bfloat16", "float16", "float32"]

_CPUINFO = Path("/proc/cpuinfo")
# x86 with AVX-512 or AMX for bfloat16; ARM with its bf16 extension.
_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def resolve(dtype: Dtype | Literal["auto"], *, gpu: bool) -> Dtype:
    """`dtype`; in place of "auto" bfloat16, or float32 where the model runs on a CPU without instructions for it."""
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
