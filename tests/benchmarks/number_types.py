"""Matrix products in float32 and bfloat16 on this machine's CPU, and which of them `auto` takes.

    python tests/benchmarks/number_types.py

The shapes are those of SmolLM2-135M's layers with the tokens of a training pass, of a full decoding batch, and of one
request. Types take turns; the best of --rounds counts, since other work can only slow a product down. Prints one JSON
object a shape (GFLOP/s), and the choice last.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from s1.precision import resolve

HIDDEN, INNER = 576, 1536
TOKENS = (1024, 32, 1)


def gflops(tokens: int, dtype: torch.dtype) -> float:
    inputs, weights = torch.randn(tokens, HIDDEN, dtype=dtype), torch.randn(INNER, HIDDEN, dtype=dtype)
    torch.nn.functional.linear(inputs, weights)
    started = time.perf_counter()
    torch.nn.functional.linear(inputs, weights)
    return 2 * tokens * HIDDEN * INNER / (time.perf_counter() - started) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    for tokens in TOKENS:
        best = {"float32": 0.0, "bfloat16": 0.0}
        for _ in range(options.rounds):
            for name in best:
                best[name] = max(best[name], gflops(tokens, getattr(torch, name)))
        ratio = round(best["float32"] / best["bfloat16"], 1)
        print(json.dumps({"tokens": tokens, **{k: round(v, 1) for k, v in best.items()}, "float32 / bfloat16": ratio}))
    print(json.dumps({"auto": resolve("auto", gpu=False)}))


if __name__ == "__main__":
    main()
