"""What users bring beside the project: a source, a teacher, a selection method, a benchmark, a scorer; `module:name`.

The module is found where Python finds it: in the folder that a job is started from, which is what `ray job submit
--working-dir .` takes along to every node, or among what is installed. `docs/extending.md` has an example of each.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import AfterValidator

from s1.errors import UserError
from s1.hashing import fingerprint

_NAME = r"[^\W\d]\w*"
_REFERENCE = re.compile(rf"(?!hub:){_NAME}(?:\.{_NAME})*:{_NAME}")


def is_reference(text: str) -> bool:
    """Whether `text` reads as `module:name`. Paths, URIs and `hub:…` do not."""
    return _REFERENCE.fullmatch(text) is not None


def load(reference: str) -> Any:
    """What `module:name` names. UserError when it reads otherwise, or when there is no such module or name in it."""
    if not is_reference(reference):
        raise UserError(f"{reference!r} cannot be loaded; give module:name")
    module, _, name = reference.partition(":")
    try:
        found = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        missing = getattr(error, "name", None) or module
        hint = f"put {missing}.py into the folder that the job is started from, or install it"
        found_it = not isinstance(error, ModuleNotFoundError)
        raise UserError(f"{reference!r} cannot be loaded ({error}); {'mend it' if found_it else hint}") from error
    if not hasattr(found, name):
        names = [key for key in vars(found) if not key.startswith("_")]
        near = difflib.get_close_matches(name, names, n=1)
        raise UserError(f"{reference!r}: {module} has no {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return getattr(found, name)


def state(reference: str) -> str:
    """Changes with the file of the module: what an extension has made is made again when its code is another one."""
    spec = importlib.util.find_spec(reference.partition(":")[0])
    return fingerprint(Path(spec.origin).read_bytes().hex() if spec and spec.origin else None)


def one_of(what: str, names: Sequence[str]) -> AfterValidator:
    """For a field of a configuration: one of `names`, or `module:name`. Whether that exists, `load` says."""

    def check(value: str) -> str:
        if value in names or is_reference(value):
            return value
        near = difflib.get_close_matches(value, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{what} are {', '.join(names)}, or module:name of your own (docs/extending.md){hint}")

    return AfterValidator(check)
