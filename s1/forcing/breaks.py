"""Where a text may be cut: after a line, after a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A point after a digit may be a decimal point or the number of a list item.
_SENTENCE_END = re.compile(r"""((?<!\d)\.|[!?…。\uff01\uff1f])["'”\u2019)\]}*]*\s*$""")


@dataclass(frozen=True)
class Breaks:
    """Looks at the text of the last tokens."""

    decode: Callable[[Sequence[int]], str]

    def after_line(self, token: int) -> bool:
        """Whether a line ends with `token`."""
        return self.decode([token]).endswith("\n")

    def after_sentence(self, tail: Sequence[int]) -> bool:
        """Whether a sentence or a line ends with `tail`, the last two tokens of a text or what there is of them."""
        text = self.decode(tail)
        return text.endswith("\n") or _SENTENCE_END.search(text) is not None
