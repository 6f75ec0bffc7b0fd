"""Extract an answer, decide equality, verify a response."""

from s1.grading.equality import equivalent

__all__ = ["equivalent"]
