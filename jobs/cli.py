"""Command line of every job: preset, overrides, one-line errors.

`--preset` is read first and fills the defaults, so that `--help` shows the values of that very preset; every other flag
overrides one value. A mistake ends in one line on stderr and exit code 2, before anything is started.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from jobs import termination
from s1.config import Config, ConfigT, plain_rule, preset_names, read_preset, validate
from s1.errors import UserError

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "laptop"
# What a preset may hold beside `run_dir` and `extends`: the jobs that have options of their own.
SECTIONS = ("collect", "distill", "featurize", "select", "train", "evaluate", "report", "publish", "plan")

_BOX = re.compile(r"[─│╭╮╰╯]|-{8,}")
# Of one field, or (`whole`) of several together.
_VIOLATION = re.compile(
    r"validation errors? for (?P<model>\S+) "
    r"(?:Value error, (?P<whole>.+?)|(?P<key>\S+) (?:Value error, )?(?P<rule>.+?)) "
    r"\[type=.*?input_value=(?P<value>.+?), "
)
_UNKNOWN = "Unrecognized options:"
Result = TypeVar("Result")


def main(run: Callable[[], Result]) -> Result:
    """Call `run`; a UserError becomes one line and exit code 2, Ctrl-C exit code 130, SIGTERM 143."""
    termination.end_on_sigterm()
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        terminated = termination.was_terminated()
        how = "terminated" if terminated else "interrupted"
        print(f"{how}: what was finished is kept; run the same command again to go on", file=sys.stderr)
        raise SystemExit(termination.EXIT_CODE if terminated else 130) from None
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def parse(
    cls: type[ConfigT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    fill: Callable[[dict[str, Any]], dict[str, Any]],
) -> ConfigT:
    """The configuration that `argv` asks for.

    `fill` turns the sections of the preset into the keyword arguments of `cls`.
    """
    import tyro

    preset, rest = _take_preset(argv)
    sections = read_preset(PRESETS, preset)
    _check_sections(preset, sections)
    default = validate(cls, {**fill(sections), "preset": preset}, f"preset {preset!r}")
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            parsed = tyro.cli(cls, args=rest, default=default, prog=prog, description=description)
    except SystemExit as exit_:
        if exit_.code:
            raise UserError(_one_line(complaints.getvalue(), prog, cls, rest)) from None
        raise
    except ValueError as error:
        raise UserError(f"{' '.join(str(error).split())}; see {prog} --help") from error
    # tyro builds the values one by one; validate them together once more.
    return validate(cls, parsed.model_dump(), prog)


def presets() -> list[str]:
    """Names that `--preset` takes."""
    return preset_names(PRESETS)


def _check_sections(preset: str, sections: Mapping[str, Any]) -> None:
    """UserError for a section that no job reads: what it says would be ignored."""
    for name in sections:
        if name not in ("run_dir", *SECTIONS):
            near = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"preset {preset!r}: unknown section {name!r}: sections are {', '.join(SECTIONS)}{hint}")


def _take_preset(argv: Sequence[str]) -> tuple[str, list[str]]:
    preset, rest, index = DEFAULT_PRESET, [], 0
    args = list(argv)
    while index < len(args):
        name, equals, value = args[index].partition("=")
        if name != "--preset":
            rest.append(args[index])
        elif equals:
            preset = value
        elif index + 1 < len(args):
            index += 1
            preset = args[index]
        else:
            raise UserError(f"--preset needs a name ({', '.join(presets())}) or the path of a YAML file")
        index += 1
    return preset, rest


def flags(args: Sequence[str]) -> set[str]:
    """The options that a command line gives, by their names in the configuration: `train.batch_size`."""
    return {
        argument.partition("=")[0].removeprefix("--").replace("-", "_")
        for argument in args
        if argument.startswith("--")
    }


def _option(cls: type[Config], args: Sequence[str], model: str, key: str) -> str:
    """The whole name of the option `key` of the group that `model` describes, as the command line has it."""
    places = [f"{place}.{key}" for place in _places(cls, model)]
    given = [place for place in places if place in flags(args)]
    return (given or places or [key])[0]


def _places(cls: type[Config], model: str) -> Iterator[str]:
    """Where groups of options that the class named `model` describes lie within `cls`, as dotted names."""
    for name, field in cls.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Config):
                yield from [name] if kind.__name__ == model else []
                yield from (f"{name}.{place}" for place in _places(kind, model))


def _one_line(box: str, prog: str, cls: type[Config], args: Sequence[str]) -> str:
    """tyro's message box about `args`, several lines in a frame, as one line."""
    lines = [line.strip() for line in _BOX.sub("", box).splitlines()]
    lines = [line for line in lines if line]
    body = lines[1:] if len(lines) > 1 and not lines[0].startswith(("Error", _UNKNOWN)) else lines
    text: list[str] = []
    for line in body:
        if line.startswith(("Argument helptext", "For full helptext", "Arguments similar", "Perhaps you meant")):
            break
        text.append(line)
    tail = f"; see {prog} --help"
    said = " ".join(text)
    if said.startswith(_UNKNOWN):
        unknown = said.removeprefix(_UNKNOWN).split(",")[0].strip()
        meant = " or ".join(_meant(cls, unknown))
        return f"unknown option {unknown}" + (f"; did you mean {meant}?" if meant else tail)
    found = _VIOLATION.search(said)
    if found is None:
        return said + tail
    if found["whole"]:
        return found["whole"] + tail
    key = re.sub(r"\.\d+\b", "", found["key"])  # of a list: which of its values is wrong stands behind it
    return f"{_option(cls, args, found['model'], key)}={found['value']}: {plain_rule(found['rule'])}{tail}"


def _meant(cls: type[Config], unknown: str) -> list[str]:
    """The options of `cls` that `unknown` may stand for: those with the same last part, else the nearest."""
    name = unknown.partition("=")[0].removeprefix("--").replace("_", "-")
    options = sorted(_options(cls), key=lambda option: (option.count("."), option))
    last = name.rpartition(".")[2]
    for part in (last, last.removeprefix("no-")):
        same = [option for option in options if option.rpartition(".")[2] == part]
        if same:
            same = difflib.get_close_matches(name, same, n=1, cutoff=0.8) or same
            negated = "" if part == last else "no-"
            return ["--" + ".".join([*option.split(".")[:-1], negated + part]) for option in same[:3]]
    parts = [option.rpartition(".")[2] for option in options]
    near = difflib.get_close_matches(name, options, n=1) or [
        options[parts.index(part)] for part in difflib.get_close_matches(last, parts, n=1)
    ]
    return [f"--{option}" for option in near]


def _options(cls: type[Config]) -> Iterator[str]:
    """The names of all options of `cls` as they stand on a command line, without the dashes before them."""
    for name, field in cls.model_fields.items():
        kind = field.annotation
        flag = name.replace("_", "-")
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from (f"{flag}.{option}" for option in _options(kind))
        else:
            yield flag


def show(config: Config) -> str:
    """A configuration as indented YAML, for `--dry-run`."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip()
