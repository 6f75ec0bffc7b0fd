"""The report's numbers for programs: `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from s1.artifacts import Manifest


def stages(manifests: Iterable[Manifest]) -> dict[str, dict[str, Any]]:
    """What every stage took in, gave out, dropped and cost, in the order of `manifests`."""
    return {
        manifest.job: {
            "rows_in": manifest.rows_in,
            "rows_out": manifest.rows_out,
            "dropped": {reason: count for reason, count in manifest.dropped.items() if count},
            "seconds": manifest.seconds,
            "cost_usd": manifest.cost_usd,
        }
        for manifest in manifests
    }


def metrics(
    summary: Mapping[str, Mapping[str, Any]], gain: Mapping[str, Any] | None, manifests: Iterable[Manifest]
) -> dict[str, Any]:
    """`models` and `gain`: see `s1.evaluation.summary`; `stages` by name; `seconds` of all of them together."""
    by_stage = stages(manifests)
    total = sum(stage["seconds"] for stage in by_stage.values())
    return {"models": dict(summary), "gain": gain, "stages": by_stage, "seconds": round(total, 3)}


def funnel(manifests: Iterable[Manifest]) -> list[tuple[str, int]]:
    """Rows that are left after every step from what the source gave to the selection, as (label, rows).

    The reasons of a stage are taken off in the order in which its manifest gives them. What a stage leaves aside
    without dropping it (the questions kept for the evaluation) is a step of its own.
    """
    steps: list[tuple[str, int]] = []
    left = 0
    for manifest in manifests:
        if not steps or manifest.rows_in != left:
            steps.append((f"{manifest.job}: in", manifest.rows_in))
        left = manifest.rows_in
        for reason, count in manifest.dropped.items():
            if count:
                left -= count
                steps.append((f"without {reason.replace('_', ' ')}", left))
        if manifest.rows_out != left:
            left = manifest.rows_out
            steps.append((f"{manifest.job}: out", left))
    return steps
