"""The recipe of "s1: Simple test-time scaling" (arXiv 2501.19393) as a library of values and pure functions.

Nothing in this package imports Ray. Heavy dependencies (torch, transformers, vllm) are imported where they are used,
so that `import s1` answers at once.
"""

__version__ = "0.1.0"
