"""What vLLM has to find in its environment, wherever one of our processes starts it on GPUs.

vLLM samples, and adds up what several GPUs have computed, with kernels of FlashInfer that are compiled when the engine
starts. That takes CUDA's compiler, nvcc, and neither our nodes nor our image have a CUDA toolkit: vLLM's own kernels
do the same.
"""

from __future__ import annotations

import os

_ON_GPUS = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}


def on_gpus() -> dict[str, str]:
    """Variables and their values; what is set already stands."""
    return {name: os.environ.get(name, value) for name, value in _ON_GPUS.items()}
