"""Check a Serve file before it is deployed: nothing is started, nothing is downloaded.

    python -m serve.check cluster/serve.laptop.yaml && serve deploy cluster/serve.laptop.yaml

Prints what would be deployed; a mistake is one line and exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from s1.errors import UserError

_BUILDER = "serve.app:build"


def check(path: Path) -> list[str]:
    """What the file deploys, a line for each model. UserError for the first thing in it that cannot work."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    from s1.config import one_line

    try:
        file = ServeDeploySchema.model_validate(_read(path))
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    lines: list[str] = []
    for application in file.applications:
        if application.import_path != _BUILDER:
            raise UserError(f"{path}: import_path={application.import_path!r}: must be {_BUILDER}")
        lines += _application(f"{path}: {application.name}.args", application.args)
    if not lines:
        raise UserError(f"{path}: applications=[]: give at least one, with import_path: {_BUILDER}")
    return lines


def _application(where: str, args: dict[str, Any]) -> list[str]:
    from s1 import models
    from s1.config import validate
    from serve.app import build
    from serve.options import AppOptions

    options = validate(AppOptions, args, where)
    scale, engine = options.autoscaling, options.engine
    number = f"{options.num_replicas}" if scale is None else f"{scale.min_replicas} to {scale.max_replicas}"
    lines: list[str] = []
    for name, reference in options.served().items():
        try:
            models.check(reference)
        except UserError as error:
            raise UserError(f"{where}.models.{name}: {error}") from error
        context = engine.context_tokens or "of the model"
        lines.append(
            f"{name}: {reference}, {number} replica(s) on {engine.device}, context {context}, "
            f"{options.max_ongoing_requests} requests each and {options.max_queued_requests} waiting, "
            f"{len(options.api_keys) or 'no'} API key(s)"
        )
    try:
        build(options)  # what Serve itself refuses
    except ValueError as error:  # pydantic's is one too
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    return lines


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a Serve file such as cluster/serve.laptop.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable YAML: {' '.join(str(error).split())}") from error


def main() -> None:
    """Check the file on the command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stdout if sys.argv[1:] == ["--help"] else sys.stderr)
        raise SystemExit(0 if sys.argv[1:] == ["--help"] else 2)
    try:
        lines = check(Path(sys.argv[1]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
