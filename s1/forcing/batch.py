"""The machine inside an engine: what becomes of the model's logits for the requests that are decoded together.

A forced token is the only one that is left to sample. An engine cannot take back a token, so the end of the thinking is
decided before the token is drawn: it comes with the probability that everything that ends the thinking has in the
distribution that the request samples from (temperature, top-k, top-p), and is replaced; otherwise these tokens are out.

A step costs a few operations on the whole batch. A request is looked at by itself only where its machine may want
something else: at its `horizon`, after an end, and when an end has become possible at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from s1.forcing.machine import Done, Force, Sample, action, advance, horizon, start, thought
from s1.forcing.policy import Program

FORCED_LOGIT = 1e8
GREEDY_BELOW = 1e-5  # vLLM's own bound of a temperature that means greedy

# An end can only come where its logit is near the largest. These many logits give a lower bound of the largest one.
_NUM_LOOKED_AT = 4096


@dataclass(frozen=True)
class Drawing:
    """How the engine samples for a request."""

    temperature: float
    top_k: int  # 0 or -1: all tokens
    top_p: float
    seed: int  # of the draws that decide about ends: the same in every process that samples for the request

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def draw(self, position: int) -> float:
        """A number in (0, 1) that depends on seed and position alone (splitmix64)."""
        mask = 2**64 - 1
        bits = (self.seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        return (((bits ^ (bits >> 31)) >> 11) + 0.5) / 2**53

    def share(self, logits: torch.Tensor, ids: list[int]) -> float:
        """Probability of `ids` in what is sampled from `logits` (V,)."""
        scaled = logits / self.temperature
        if 0 < self.top_k < len(scaled):
            scaled = scaled.masked_fill(scaled < scaled.topk(self.top_k).values[-1], -torch.inf)
        probabilities = scaled.softmax(0)
        if self.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            out = order[ordered.cumsum(0) - ordered >= self.top_p]
            probabilities[out] = 0.0
        return (probabilities[ids].sum() / probabilities.sum()).item()


class Replacements(Protocol):
    """Positions of a request's tokens that were put in place of an end; they outlive a preemption of the request."""

    def mark(self, position: int) -> None: ...

    def before(self, stop: int) -> list[int]: ...  # marked positions

    def clear(self, start: int, stop: int) -> None: ...


class Row:
    """One request. `output` is the engine's own list of the request's tokens, which grows by one at every step.

    A request that was preempted comes back as a new row, with the tokens and the marks that it had.
    """

    def __init__(self, program: Program, output: list[int], drawing: Drawing, marks: Replacements) -> None:
        self.program, self.output, self.drawing, self._marks = program, output, drawing, marks
        self._state, self._seen = start(program), 0
        self.todo: Force | Sample | Done = action(program, self._state)
        self._is_new = True  # nobody has looked yet
        self._wake = 0  # that many tokens change what is to be done
        self._replaced: int | None = None  # position of the last token that was put in place of an end
        self._delimiter = program.delimiter[0]

    @property
    def is_watched(self) -> bool:
        """Whether an end that comes now may have to be replaced."""
        is_thinking = self._state.phase == "thinking" and isinstance(self.todo, Sample)
        return is_thinking and not self.program.forces_nothing

    @property
    def is_over(self) -> bool:
        """Whether the rest is the model's alone."""
        return not (self.is_watched or isinstance(self.todo, Force))

    def look(self) -> bool:
        """Take notice of the tokens since the last time. Whether they change what is to be done."""
        num, is_new = len(self.output), self._is_new
        self._is_new = False
        if is_new:
            # A replacement that the request had not put out when it was preempted.
            self._marks.clear(num, self.program.longest)
        if self._replaced is not None and num <= self._replaced:
            # The engine dropped the token, because it had not computed the whole prompt yet.
            self._marks.clear(self._replaced, self._replaced + 1)
            self._replaced = None
        if num <= self._seen or self.is_over:
            return False
        if is_new:
            self._replay()
        elif num < self._wake and self.output[-1] != self._delimiter:
            return False
        else:
            *before, last = self.output[self._seen :]
            self._state = thought(self._state, before)
            self._advance(last, self._replaced == num - 1)
        self._seen, self._replaced = num, None
        self._wake = num + max(1, horizon(self.program, self._state))
        return True

    def _replay(self) -> None:
        """Follow the tokens that were there before this row, any of which may be forced, as far as the program goes.

        Thousands of them come back at once while the whole batch waits: what is only thought is taken in runs.
        """
        num, replaced = len(self.output), set(self._marks.before(len(self.output)))
        ends = np.isin(np.asarray(self.output), [self._delimiter, *self.program.stop_ids]).nonzero()[0].tolist()
        turns = [*sorted({*ends, *replaced}), num]  # positions at which more than a thought may come
        at = 0
        while at < num and not self.is_over:
            run = min(turns[bisect_left(turns, at)] - at, horizon(self.program, self._state))
            if run > 1:
                self._state = thought(self._state, self.output[at : at + run])
                self.todo = action(self.program, self._state)
            else:
                run = 1
                self._advance(self.output[at], at in replaced)
            at += run

    def _advance(self, token: int, replaced: bool) -> None:
        forced = replaced or isinstance(self.todo, Force)
        self._state, _ = advance(self.program, self._state, token, forced)
        self.todo = action(self.program, self._state)

    def replacement(self) -> int:
        """The first token of what replaces an end here. It is put out next."""
        self._replaced, self._wake = len(self.output), len(self.output) + 1
        self._marks.mark(self._replaced)
        swap = self.todo.swap if isinstance(self.todo, Sample) else None
        return self._delimiter if swap is None else swap[0]

    @property
    def enders(self) -> tuple[int, ...]:
        """Ids that must not be put out now, and are replaced when the model wants them."""
        delimiter = (self._delimiter,) if isinstance(self.todo, Sample) and self.todo.swap is not None else ()
        return (*delimiter, *sorted(self.program.stop_ids))


class _Watch:
    """The rows in whose place an end may have to be put, as tensors: R rows, E ids that end the thinking of some."""

    def __init__(self, rows: dict[int, Row], device: torch.device) -> None:
        self.rows = list(rows.items())
        ids = sorted({id for row in rows.values() for id in row.enders})
        self.indices = torch.tensor(list(rows), device=device)
        self.ids = torch.tensor(ids, device=device)
        out = [[0.0 if id in row.enders else -torch.inf for id in ids] for row in rows.values()]
        self.out = torch.tensor(out, device=device)  # (R, E): -inf where an id ends nothing
        drawn = [(index, id) for index, row in self.rows if not row.drawing.greedy for id in row.enders]
        self.drawn = torch.tensor(drawn, device=device).T if drawn else None  # (2, pairs) that are barred
        self._greedy_margins = torch.zeros(len(rows), device=device)

    def margins(self, draws: dict[int, float]) -> torch.Tensor:
        """(R,): how far below the largest logit an end may be and still come. `draws`: index -> number in (0, 1)."""
        if not draws:
            return self._greedy_margins
        margins = [
            row.drawing.temperature * math.log(draws[index] / len(self.ids)) if index in draws else 0.0
            for index, row in self.rows
        ]
        return torch.tensor(margins, device=self._greedy_margins.device)


class Batch:
    """The requests with a program among those whose logits are processed together, by their row."""

    def __init__(self, num_tokens: int) -> None:
        """`num_tokens`: ids at and above it mean nothing to the tokenizer, and are never sampled."""
        self._num_tokens = num_tokens
        self._rows: dict[int, Row] = {}
        self._active: list[Row] = []  # rows whose program is not over
        self._forced: dict[int, int] = {}
        self._watch: _Watch | None = None
        self._stale = False

    def put(self, index: int, row: Row | None) -> None:
        """`row` is at `index` from now on; None: a request without a program, or nothing."""
        if row is not None:
            self._rows[index] = row
            self._stale = True
        elif self._rows.pop(index, None) is not None:
            self._stale = True

    def move(self, one: int, other: int, *, swap: bool) -> None:
        """The request at `one` goes to `other`, and with `swap` the other way too."""
        first, second = self._rows.get(one), self._rows.get(other)
        self.put(other, first)
        self.put(one, second if swap else None)

    def arrange(self, rows: dict[int, Row]) -> None:
        """These rows, by index, and no others."""
        if rows != self._rows:
            self._rows, self._stale = rows, True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, V), in float32, in place: what is forced alone, what may not be sampled out."""
        if logits.shape[-1] > self._num_tokens:
            logits[:, self._num_tokens :] = -torch.inf
        if not self._rows:
            return logits
        changed = [row for row in (self._rows.values() if self._stale else self._active) if row.look()]
        if changed or self._stale:
            self._plan(logits.device)
        forced = self._forced if self._watch is None else self._forced | self._ended(logits, self._watch)
        if forced:
            rows = torch.tensor(list(forced), device=logits.device)
            tokens = torch.tensor(list(forced.values()), device=logits.device)
            logits[rows] = -torch.inf
            logits[rows, tokens] = FORCED_LOGIT
        return logits

    def _plan(self, device: torch.device) -> None:
        """What stays the same until a row changes."""
        watched = {index: row for index, row in self._rows.items() if row.is_watched and row.enders}
        self._forced = {i: row.todo.tokens[0] for i, row in self._rows.items() if isinstance(row.todo, Force)}
        self._active = [row for row in self._rows.values() if not row.is_over]
        self._watch = _Watch(watched, device) if watched else None
        self._stale = False

    def _ended(self, logits: torch.Tensor, watch: _Watch) -> dict[int, int]:
        """Rows whose model wants to end its thinking now, with what replaces the end. Bars the end in the others."""
        draws = {i: row.drawing.draw(len(row.output)) for i, row in watch.rows if not row.drawing.greedy}
        ends = (logits[watch.indices[:, None], watch.ids] + watch.out).amax(-1)  # (R,)
        largest = logits[:, :_NUM_LOOKED_AT].amax(-1)[watch.indices]  # or less
        near = (ends >= largest + watch.margins(draws)).nonzero().flatten().tolist()
        ended: dict[int, int] = {}
        for number in near:
            index, row = watch.rows[number]
            if _wants_end(logits[index], row, draws.get(index)):
                ended[index] = row.replacement()
        if watch.drawn is not None:
            logits[watch.drawn[0], watch.drawn[1]] = -torch.inf
        return ended


def _wants_end(logits: torch.Tensor, row: Row, draw: float | None) -> bool:
    """Whether the model of `row` ends its thinking with the token that comes next."""
    if draw is None:
        return int(logits.argmax()) in row.enders
    return draw < row.drawing.share(logits, list(row.enders))
