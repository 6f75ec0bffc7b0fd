"""Stable identities: of a question, and of anything that JSON can say."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any


def normalise_question(text: str) -> str:
    """Lower case, NFKC, white space collapsed: two questions with the same normal form are exact duplicates."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def question_id(text: str) -> str:
    """The key of a question in every table: 16 hex digits of the SHA-256 of its normal form."""
    return hashlib.sha256(normalise_question(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """16 hex digits that identify a JSON value, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
