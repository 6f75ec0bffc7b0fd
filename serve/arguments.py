"""Arguments of `serve run` as the nested values of a Serve file.

Ray hands over each `name=value` as text by its name, so `engine.device=gpu` arrives as a key with a dot in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from s1.config import Config


def nested(values: Mapping[str, Any], cls: type[Config]) -> dict[str, Any]:
    """`values` of `cls`, with dotted names put where they belong and text read as YAML where a mapping belongs.

    Values that are nested already stay as they are, and so do names that `cls` does not know: it refuses them itself.
    ValueError for text that is not YAML.
    """
    found: dict[str, Any] = {}
    dotted: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if rest and _holds_more(cls, head):
            dotted.setdefault(head, {})[rest] = value
        else:
            found[name] = _read(name, value) if _holds_more(cls, name) else value
    for head, parts in dotted.items():
        whole = found.get(head, {})
        if not isinstance(whole, Mapping):
            raise ValueError(f"{head}={whole!r} and {head}.{next(iter(parts))} contradict each other; give one of them")
        found[head] = {**whole, **_parts(cls, head, parts)}
    return {name: _inside(cls, name, value) for name, value in found.items()}


def _annotation(cls: type[Config], name: str) -> Any:
    field = cls.model_fields.get(name)
    return None if field is None else field.annotation


def _config(annotation: Any) -> type[Config] | None:
    """The configuration that `annotation` stands for, optional or not."""
    if get_origin(annotation) is dict:
        return None
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), None)


def _holds_more(cls: type[Config], name: str) -> bool:
    annotation = _annotation(cls, name)
    return get_origin(annotation) is dict or _config(annotation) is not None


def _read(name: str, value: Any) -> Any:
    """Text as the YAML, or JSON, that it is."""
    import yaml

    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:  # its text is not told: it may hold keys in the clear
        raise ValueError(f"{name} is not readable YAML; write for example {name}='{{key: value}}'") from error


def _parts(cls: type[Config], head: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping `head` from its dotted parts. Keys may have dots of their own: `models.qwen2.5=…`."""
    annotation = _annotation(cls, head)
    if get_origin(annotation) is not dict:
        return dict(parts)
    _, kind = get_args(annotation)
    if _config(kind) is None:
        return {key: value if kind is str else _read(f"{head}.{key}", value) for key, value in parts.items()}
    entries: dict[str, Any] = {}
    for path, value in parts.items():
        key, dot, field = path.rpartition(".")
        if dot:
            entries.setdefault(key, {})[field] = value
        else:
            entries[path] = _read(f"{head}.{path}", value)
    return entries


def _inside(cls: type[Config], name: str, value: Any) -> Any:
    inner = _config(_annotation(cls, name))
    return nested(value, inner) if inner is not None and isinstance(value, Mapping) else value
