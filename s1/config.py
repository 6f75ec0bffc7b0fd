"""The base of every configuration, and the presets that fill it in.

A preset is a YAML file with one section per job. Keys that no configuration knows are errors, not typos that pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from s1.errors import UserError


class Config(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=Config)


def preset_names(folder: Path) -> list[str]:
    """Names of the presets in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(folder: Path, name: str) -> dict[str, Any]:
    """The sections of preset `name`, unvalidated.

    Raises UserError for a name that is not there and for a file that is not a mapping of sections.
    """
    import yaml

    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = preset_names(folder)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown preset {name!r}: presets are {', '.join(known)}{hint}")
    try:
        sections = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"preset {name!r} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict):
        raise UserError(f"preset {name!r} must be a mapping of sections, not {type(sections).__name__}")
    return sections


def validate(cls: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build `cls` from `values`; the first violation becomes one line that names the key, the value and the rule."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error)}") from error


def one_line(error: ValidationError) -> str:
    """The first violation of a pydantic error as `key=value: rule`, and how many more there are."""
    first, *rest = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"]) or "configuration"
    rule = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(rest)} more)" if rest else ""
    value = "" if first["type"] == "missing" or isinstance(first["input"], dict | BaseModel) else f"={first['input']!r}"
    return f"{key}{value}: {rule}{more}"
