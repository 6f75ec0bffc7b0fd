"""Generated tasks: families of reasoning-gym, seeded, with what their own verifiers need."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from s1.errors import UserError
from s1.sources.mapping import RawQuestion

COUNT = "count"  # key of a family that is ours; every other key goes to reasoning-gym


def check(families: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError for a family that does not exist and for parameters that it refuses."""
    if not families:
        raise UserError("source gym needs at least one family, such as products; add it under collect.gym")
    for name, settings in families.items():
        dataset(name, settings, seed=0)


def questions(families: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[RawQuestion]:
    """`count` questions of every family; the same seed gives the same ones."""
    for name, settings in families.items():
        for entry in dataset(name, settings, seed):
            metadata = {"source_dataset": name, "entry": entry}
            yield RawQuestion(entry["question"].strip(), entry["answer"], "gym", name, None, _plain(metadata))


def dataset(name: str, settings: Mapping[str, Any], seed: int) -> Any:
    """reasoning-gym's data set of one family."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise UserError(f"gym family {name!r} does not exist{f'; did you mean {near[0]!r}?' if near else ''}")
    count = settings.get(COUNT)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"gym.{name}.{COUNT}={count!r}: must be a whole number of questions, 1 or more")
    parameters = {key: value for key, value in settings.items() if key != COUNT}
    try:
        return reasoning_gym.create_dataset(name, size=count, seed=_spread(seed, name), **parameters)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"gym.{name}: parameters {parameters} are refused by reasoning-gym: {error}") from error


def _spread(seed: int, name: str) -> int:
    """reasoning-gym draws question i from seed + i: neighbouring seeds would give almost the same questions."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4])


def _plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists, dates text."""
    return json.loads(json.dumps(value, ensure_ascii=False, default=str))
