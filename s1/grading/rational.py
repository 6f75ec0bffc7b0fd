"""Exact value of an arithmetic expression, or None.

Knows numbers (thousands separators, decimals), + - * / ^ ! and brackets; every value is an exact fraction, and a
value that would need more than `MAX_BITS` is refused before it is computed, so that the time is bounded.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_BITS = 1 << 17
MAX_LENGTH = 400

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[1-9]\d{0,2}(?:[, ]\d{3})+(?:\.\d+)?(?!\d)|\d+\.?\d*(?:[eE][+-]?\d{1,3}(?!\d))?|\.\d+)"
    r"|(?P<symbol>[-+*/^!(){}]))"
)
_UNIT = re.compile(r"\s*(?:%|percent(?:age)?\b|pct\b|\$|dollars?\b|cents?\b|euros?\b|€|£)\s*$", re.IGNORECASE)
_CURRENCY = re.compile(r"^\s*(-?)\s*(?:[$€£])\s*")
_PERCENT = re.compile(r"%|percent(?:age)?\b|pct\b", re.IGNORECASE)


class _Refused(Exception):
    """The text is no exact arithmetic expression, or its value is too large."""


def rational(text: str) -> Fraction | None:
    """Exact value of `text` without its unit (percent signs and currencies are units), None when it has none."""
    text = _CURRENCY.sub(r"\1", _UNIT.sub("", text))
    if not text or len(text) > MAX_LENGTH:
        return None
    try:
        tokens = _tokens(text)
        value, at = _sum(tokens, 0)
    except (_Refused, RecursionError):
        return None
    return value if at == len(tokens) else None


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _Refused
        tokens.append((found["number"] or found["symbol"]).replace("{", "(").replace("}", ")"))
        at = found.end()
    return tokens


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        sign = 1 if tokens[at] == "+" else -1
        term, at = _product(tokens, at + 1)
        value = _checked(value + sign * term)
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _signed(tokens, at)
    while at < len(tokens) and (tokens[at] in "*/" or tokens[at] == "("):
        operator = tokens[at]
        factor, at = _signed(tokens, at + (operator != "("))
        if operator == "/" and factor == 0:
            raise _Refused
        value = _checked(value / factor if operator == "/" else value * factor)
    return value, at


def _signed(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if at < len(tokens) and tokens[at] in "+-":
        value, end = _signed(tokens, at + 1)
        return (-value if tokens[at] == "-" else value), end
    return _power(tokens, at)


def _power(tokens: list[str], at: int) -> tuple[Fraction, int]:
    base, at = _atom(tokens, at)
    while at < len(tokens) and tokens[at] == "!":
        base, at = _factorial(base), at + 1
    if at < len(tokens) and tokens[at] == "^":
        exponent, at = _signed(tokens, at + 1)
        return _raise_to(base, exponent), at
    return base, at


def _atom(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if at >= len(tokens):
        raise _Refused
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise _Refused
        return value, at + 1
    try:
        return Fraction(re.sub(r"[, ]", "", tokens[at]).rstrip(".")), at + 1
    except ValueError:
        raise _Refused from None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _checked(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise _Refused
    return value


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= 5000:
        raise _Refused
    return Fraction(math.factorial(value.numerator))


def _raise_to(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise _Refused
    if abs(base) not in (0, 1) and _bits(base) * abs(exponent) > MAX_BITS:
        raise _Refused
    if abs(base) == 1:
        return base if exponent % 2 else Fraction(1)
    return base**exponent.numerator
