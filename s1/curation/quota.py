"""At most so many rows of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_ROWS: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


class Room:
    """What each group may still give: `most` rows (1 at least); a group that is not in `most` gives any number."""

    def __init__(self, groups: NDArray[np.int64], most: dict[int, int]) -> None:
        self.groups = groups  # (N,) code of every row's group
        self._left = dict(most)

    def among(self, rows: slice | NDArray[np.int64]) -> Room:
        """The room as it is for some of the rows alone, which are numbered in their order."""
        return Room(self.groups[rows], self._left)

    def has(self, group: int) -> bool:
        """Whether the group may still give a row."""
        return self._left.get(group, 1) > 0

    def take(self, row: int) -> NDArray[np.int64]:
        """Count `row` as picked; the rows that cannot be picked any more because of it."""
        group = int(self.groups[row])
        if group not in self._left:
            return NO_ROWS
        self._left[group] -= 1
        return np.flatnonzero(self.groups == group).astype(np.int64) if self._left[group] == 0 else NO_ROWS

    def admits(self, row: int) -> bool:
        """Count `row` as picked if its group has room for it."""
        group = int(self.groups[row])
        if group not in self._left:
            return True
        self._left[group] -= 1
        return self._left[group] >= 0


def walk(order: NDArray[np.int64], size: int, room: Room | None) -> NDArray[np.int64]:
    """The first `size` rows of `order` that there is room for."""
    if room is None:
        return order[:size]
    picks: list[int] = []
    for row in order.tolist():
        if len(picks) == size:
            break
        if room.admits(row):
            picks.append(row)
    return np.array(picks, dtype=np.int64)
