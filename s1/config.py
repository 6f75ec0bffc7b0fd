"""The base of every configuration, and the presets that fill it in.

A preset is a YAML file with one section per job, which may extend another one. Keys that no configuration knows are
errors, not typos that pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from s1.errors import UserError


class Config(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=Config)
EXTENDS = "extends"  # key of a preset: the one that it adds to


def under(section: str, names: Iterable[str]) -> tuple[str, ...]:
    """Dotted names of options that lie in a section of a configuration: `pool`, (`num_cpus`,) -> `pool.num_cpus`."""
    return tuple(f"{section}.{name}" for name in names)


def preset_names(folder: Path) -> list[str]:
    """Names of the presets in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(folder: Path, name: str) -> dict[str, Any]:
    """`run_dir` and the sections of preset `name`, unvalidated.

    `name` is a preset in `folder`, or a path: it ends in .yaml or .yml, or has a slash. What the preset `extends` (a
    name, or a path relative to its file) is read first; then mappings are merged key by key, and every other value
    replaces the one before. `run_dir` is not inherited, since two presets would overwrite each other's tables; by
    default it is runs/NAME.

    Raises UserError for a preset that is not there, extends itself, or is not a mapping of sections.
    """
    path = _preset_path(folder, name, Path())
    sections = _extended(folder, path, (path,))
    return {"run_dir": f"runs/{path.stem}", **sections}


def _preset_path(folder: Path, name: str, beside: Path) -> Path:
    """The file of preset `name`; a relative path starts at `beside`."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = beside / Path(name).expanduser()
        if not path.is_file():
            raise UserError(
                f"preset {str(path)!r}: no such file; under `ray job submit` it has to lie in the --working-dir"
            )
        return path
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = preset_names(folder)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ", or the path of a YAML file"
        raise UserError(f"unknown preset {name!r}: presets are {', '.join(known)}{hint}")
    return path


def _extended(folder: Path, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """The sections of the file `path` over those of what it extends; `chain`: the files that led here, it included."""
    sections = _read(path)
    base = sections.pop(EXTENDS, None)
    if base is None:
        return sections
    if not isinstance(base, str):
        raise UserError(f"preset {str(path)!r}: {EXTENDS}={base!r} must be the name of a preset or the path of a file")
    try:
        below = _preset_path(folder, base, path.parent)
    except UserError as error:
        raise UserError(f"preset {str(path)!r}: {EXTENDS}: {error}") from error
    if below.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, below))
        raise UserError(f"preset {str(path)!r}: {EXTENDS}={base!r} leads back to itself ({circle}); remove one of them")
    inherited = _extended(folder, below, (*chain, below))
    inherited.pop("run_dir", None)
    return _merged(inherited, sections)


def _read(path: Path) -> dict[str, Any]:
    """The mapping that the file holds; an empty section is one without options."""
    import yaml

    try:
        found = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"preset {str(path)!r} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UserError(f"preset {str(path)!r} must be a mapping of sections, not {type(found).__name__}")
    sections = {name: {} if values is None else values for name, values in found.items()}
    for name, values in sections.items():
        if name not in ("run_dir", EXTENDS) and not isinstance(values, dict):
            raise UserError(f"preset {str(path)!r}: {name}={values!r} must be a section: options, one a line")
    return sections


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; where both have a mapping, the two are merged."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(cast(dict[str, Any], below), cast(dict[str, Any], value))
        merged[key] = value
    return merged


def validate(cls: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build `cls` from `values`; the first violation becomes one line that names the key, the value and the rule."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error)}") from error


def one_line(error: ValidationError) -> str:
    """The first violation of a pydantic error as `key=value: rule`, and how many more there are."""
    first, *rest = error.errors(include_url=False)
    # Which value of a list is wrong stands behind it.
    key = ".".join(part for part in first["loc"] if isinstance(part, str)) or "configuration"
    rule = plain_rule(first["msg"])
    more = f" (and {len(rest)} more)" if rest else ""
    value = "" if first["type"] == "missing" or isinstance(first["input"], dict | BaseModel) else f"={first['input']!r}"
    return f"{key}{value}: {rule}{more}"


def plain_rule(message: str) -> str:
    """Pydantic's words for a rule as ours: what a value must be."""
    if message == "Extra inputs are not permitted":
        return "there is no such option"
    return message.removeprefix("Value error, ").replace("Input should", "must")
