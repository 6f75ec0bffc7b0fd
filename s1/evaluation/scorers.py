"""Scorers for best-of-n and a process reward that need no model; functions of your own do as well."""

from __future__ import annotations

from s1.evaluation.engine import Answer


async def shortest_thinking(question: str, answer: Answer) -> float:
    """The least thinking among the responses that have an answer at all."""
    return -answer.thinking_tokens if answer.content.strip() else float("-inf")


async def longest_thinking(question: str, answer: Answer) -> float:
    """The most thinking among the responses that have an answer at all."""
    return answer.thinking_tokens if answer.content.strip() else float("-inf")


async def few_repetitions(question: str, thinking: str) -> float:
    """A process reward: the share of four words in a row that were not there before. Small models get lost in loops."""
    words = thinking.split()
    runs = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    return len(set(runs)) / len(runs) if runs else 1.0
