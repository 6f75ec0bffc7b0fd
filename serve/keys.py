"""API keys: who may ask. The server knows the keys' hashes only.

    python -m serve.keys NAME     # makes a key, shows it once, and prints the line for `api_keys`

A key is 256 random bits, so its plain SHA-256 cannot be guessed back; a slow hash would only slow down requests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import Mapping

_PREFIX = "s1-"
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w.-]{1,64}")


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """What a server is told of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None


class KeyRing:
    """The keys that are accepted: name -> hash. Without any, everybody is let in."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {name: bytes.fromhex(text) for name, text in hashes.items()}

    def owner(self, authorization: str | None) -> str | None:
        """Name of the key that an `Authorization` header carries as `Bearer KEY`; None: it carries none of the ring.

        Empty for everybody when the ring is. Every hash is compared, each in constant time: how long it takes does not
        tell how near a guess was.
        """
        if not self._hashes:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
        matches = [name for name, known in self._hashes.items() if hmac.compare_digest(given, known)]
        return matches[0] if matches and scheme.lower() == "bearer" else None


def main() -> None:
    """Make a key for the name on the command line."""
    if len(sys.argv) != 2 or not _NAME.fullmatch(sys.argv[1]):
        print("usage: python -m serve.keys NAME      (letters, digits and . _ -)", file=sys.stderr)
        raise SystemExit(2)
    key = new_key()
    print(f"key, shown this once:   {key}\nline for api_keys:      {sys.argv[1]}: {hashed(key)}")


if __name__ == "__main__":
    main()
