"""The jobs by name: `s1 select --preset laptop` is `python -m jobs.select --preset laptop`.

s1 pipeline --preset laptop
s1 select --preset laptop --size 500 --seed 7 --dry-run
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import cli
from s1.errors import UserError

# The stages in their order, all of them, and what stands beside them.
JOBS = (
    "collect",
    "distill",
    "featurize",
    "select",
    "train",
    "evaluate",
    "report",
    "pipeline",
    "plan",
    "ablate",
    "publish",
)


def help_text() -> str:
    """What every job is for: the first line of its module, which is not imported."""
    folder = Path(__file__).parent
    docs = {name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) or "" for name in JOBS}
    lines = [f"  {name:<10} {text.splitlines()[0]}" for name, text in docs.items()]
    return "\n".join(
        ["usage: s1 JOB [OPTIONS]", "", *lines, "", "`s1 JOB --help` shows the options and presets of a job."]
    )


def run(argv: Sequence[str]) -> None:
    """Run the job that the first argument names, with the others."""
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return
    if name not in JOBS:
        near = difflib.get_close_matches(name, JOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see s1 --help"
        raise UserError(f"unknown job {name!r}: jobs are {', '.join(JOBS)}; {hint}")
    sys.argv[1:] = arguments
    sys.path.insert(0, "")  # as `python -m` has it: extensions of the user's lie in the working directory
    runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)


def main() -> None:
    """The command `s1`."""
    cli.main(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
