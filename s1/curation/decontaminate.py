"""Find questions that share a run of words with a test question (paper, section 2.2 and its reference code).

Only the test side is indexed. Words of the test side get numbers; the questions become number sequences whose n-grams
are hashed all at once; a hash that the index knows is then compared word by word, so that the verdicts are exactly
those of comparing every n-gram with every other.

A shared run is enough in the paper. Boilerplate is shared too ("where m and n are relatively prime positive integers"),
so a hit can be asked to cover a share of the shorter of the two texts: near copies do, boilerplate does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BATCH_WORDS = 500_000
CACHED_CHUNKS = 200_000  # about 30 MB

_SPACING = re.compile(r"\\(?:[,;:!> ]|quad(?![a-z])|qquad(?![a-z])|left(?![a-z])|right(?![a-z])|displaystyle(?![a-z]))")
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_WORD = re.compile(r"\\?[a-z]+|\d+|[^\W\d_]+|[^\w\s]|_")


def words(text: str) -> list[str]:
    """As in the paper: lower case, split at white space."""
    return text.lower().split()


def normalised_words(text: str) -> list[str]:
    """Words, numbers and signs one by one, without Unicode variants and LaTeX spacing: `$f\\left(x\\right)=2$` and
    `$f (x) = 2$` are the same. Signs count as words, so runs are shorter: 13 of them are about as telling as 8 words.
    """
    return [word for chunk in _normalised_chunks(text) for word in _WORD.findall(chunk)]


def _normalised_chunks(text: str) -> list[str]:
    """The text without variants and LaTeX spacing, split at white space; no word reaches over the end of a chunk."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = _FRACTION.sub(r"\\frac", _SPACING.sub(" ", text))
    return text.replace("\u2212", "-").split()


def contaminated(
    questions: Sequence[str],
    test_questions: Sequence[str],
    ngram: int = 8,
    normalise: bool = False,
    coverage: float = 0.0,
) -> NDArray[np.bool_]:
    """Which `questions` touch a test question, as a bool array (N,)."""
    return touched(questions, test_questions, ngram, normalise, coverage) >= 0


def touched(
    questions: Sequence[str],
    test_questions: Sequence[str],
    ngram: int = 8,
    normalise: bool = False,
    coverage: float = 0.0,
) -> NDArray[np.int64]:
    """Index of the test question that each question touches, or -1, as int64 (N,).

    Two texts touch when they share at least one run of `ngram` words, and the runs that they share cover at least
    `coverage` (0 to 1) of the words of the shorter one. Of several test questions the one that is covered best counts,
    then the first. Text with fewer than `ngram` words touches none. `normalise` compares normalised words instead of
    the paper's.
    """
    return Index(test_questions, ngram, normalise, coverage).touched(questions)


class Index:
    """All n-grams of the test questions."""

    def __init__(
        self, test_questions: Sequence[str], ngram: int = 8, normalise: bool = False, coverage: float = 0.0
    ) -> None:
        if ngram < 1:
            raise ValueError(f"ngram={ngram}: must be at least 1")
        self.ngram, self.coverage = ngram, coverage
        self._normalise = normalise
        self._known: dict[str, tuple[int, ...]] = {}  # chunk -> numbers of its words; most chunks come again and again
        self._numbers: dict[str, int] = {}  # word -> number, from 1; 0 is any other word
        self._owners: dict[tuple[int, ...], tuple[int, ...]] = {}  # n-gram -> test questions that have it
        self._lengths: list[int] = []  # words of every test question
        for at, text in enumerate(test_questions):
            split = normalised_words if normalise else words
            row = [self._numbers.setdefault(word, len(self._numbers) + 1) for word in split(text)]
            self._lengths.append(len(row))
            for gram in {tuple(row[start : start + ngram]) for start in range(len(row) - ngram + 1)}:
                self._owners[gram] = (*self._owners.get(gram, ()), at)
        grams = np.array(list(self._owners), dtype=np.int64).reshape(-1, ngram)  # (G, n)
        with np.errstate(over="ignore"):
            self._hashes = np.unique((grams.astype(np.uint64) * self._weights()).sum(axis=1, dtype=np.uint64))

    def touched(self, questions: Sequence[str]) -> NDArray[np.int64]:
        """As the function of the same name."""
        found = np.full(len(questions), -1, dtype=np.int64)
        if self._hashes.size:
            for rows, numbers in self._batches(questions):
                self._mark(found, rows, numbers)
        return found

    def _weights(self) -> NDArray[np.uint64]:
        return np.random.default_rng(8).integers(1, 2**63, size=self.ngram, dtype=np.uint64) * np.uint64(2) + np.uint64(
            1
        )

    def _batches(self, questions: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(row of every word, number of every word), a bounded number of words at a time; rows are never split."""
        rows: list[int] = []
        lengths: list[int] = []
        numbers: list[int] = []
        for at, text in enumerate(questions):
            row = self._row(text)
            rows.append(at)
            lengths.append(len(row))
            numbers += row
            if len(numbers) >= BATCH_WORDS or at + 1 == len(questions):
                yield np.repeat(np.array(rows, dtype=np.int64), lengths), np.array(numbers, dtype=np.int64)
                rows, lengths, numbers = [], [], []

    def _row(self, text: str) -> list[int]:
        """The number of every word."""
        number_of = self._numbers.get
        if not self._normalise:
            return [number_of(word, 0) for word in words(text)]
        row: list[int] = []
        for chunk in _normalised_chunks(text):
            numbers = self._known.get(chunk)
            if numbers is None:
                numbers = tuple(number_of(word, 0) for word in _WORD.findall(chunk))
                if len(self._known) < CACHED_CHUNKS:
                    self._known[chunk] = numbers
            row += numbers
        return row

    def _mark(self, found: NDArray[np.int64], rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        num_grams = len(numbers) - self.ngram + 1
        if num_grams <= 0:
            return
        hashes = np.zeros(num_grams, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for offset, weight in enumerate(self._weights()):
                hashes += numbers[offset : offset + num_grams].astype(np.uint64) * weight
        slot = np.minimum(np.searchsorted(self._hashes, hashes), self._hashes.size - 1)
        within_row = rows[:num_grams] == rows[self.ngram - 1 :]
        starts = np.flatnonzero(within_row & (self._hashes[slot] == hashes))
        if not len(starts):
            return
        hit_rows, first = np.unique(rows[starts], return_index=True)
        lengths = np.searchsorted(rows, hit_rows, side="right") - np.searchsorted(rows, hit_rows, side="left")
        own = np.split(starts, first[1:])
        for row, length, begins in zip(hit_rows.tolist(), lengths.tolist(), own, strict=True):
            here = int(begins[0])
            text = numbers[here : int(begins[-1]) + self.ngram].tolist()
            found[row] = self._best_covered(text, (begins - here).tolist(), length)

    def _best_covered(self, numbers: list[int], starts: list[int], length: int) -> int:
        """The test question that shares most with a text of `length` words, whose hits begin at `starts`; -1: none."""
        covered: dict[int, int] = {}  # test question -> words of the text that are in shared runs
        reach: dict[int, int] = {}  # test question -> end of its last run
        for start in starts:
            for owner in self._owners.get(tuple(numbers[start : start + self.ngram]), ()):
                end = start + self.ngram
                covered[owner] = covered.get(owner, 0) + end - max(start, reach.get(owner, start))
                reach[owner] = end
        shares = {owner: min(1.0, count / min(length, self._lengths[owner])) for owner, count in covered.items()}
        best = min(shares, key=lambda owner: (-shares[owner], owner), default=-1)
        return best if best >= 0 and shares[best] >= self.coverage else -1
