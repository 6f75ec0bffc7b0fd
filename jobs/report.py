"""Draw what a run has found: report.html, its figures as PNG, and metrics.json for programs.

python -m jobs.report --run-dir runs/laptop
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, NonNegativeInt

from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config
from s1.evaluation.report import numbers
from s1.evaluation.report.transcripts import transcripts
from s1.evaluation.summary import gain, summarise

STAGES = ("questions", "traces", "features", "selection", "checkpoint", "generations")
DATA_STAGES = STAGES[:4]


class ReportOptions(Config):
    """How much to show."""

    title: str = Field("Thinking as long as it is told", description="Headline of the page.")
    num_transcripts: NonNegativeInt = Field(4, description="Questions whose responses are shown in full.")


def run(options: ReportOptions, context: Context) -> Outcome:
    """Read every table of the run, write the page."""
    from s1.evaluation.report import figures, page

    manifests = _manifests(context)
    generations = context.inputs["generations"].read(schema.GENERATIONS)
    summary = summarise(generations)
    metrics = numbers.metrics(summary, gain(generations), manifests.values())
    losses = _losses(context.inputs["checkpoint"], manifests["checkpoint"])
    coverage, plane = _coverage(context)
    drawn = {
        "funnel": figures.funnel(numbers.funnel(manifests[name] for name in DATA_STAGES)),
        "map": figures.embedding_map(*plane),
        "loss": figures.loss_curve([record["step"] for record in losses], [record["loss"] for record in losses]),
        "scaling": figures.scaling_curve(summary),
    }
    shown = {name: _figure(name, figure) for name, figure in drawn.items()}
    html = page.render(
        page.Page(
            title=options.title,
            subtitle=_subtitle(manifests),
            metrics=metrics,
            scaling=shown.pop("scaling"),
            figures=tuple(shown.values()),
            coverage=coverage,
            transcripts=transcripts(generations.to_pylist(), options.num_transcripts),
            facts=_facts(manifests),
            configs=tuple((manifest.job, _yaml(manifest.config)) for manifest in manifests.values()),
        )
    )
    context.staging.write_bytes("report.html", html.encode())
    context.staging.write_bytes("metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False).encode())
    rows = numbers.results(summary)
    context.staging.write_bytes("results.csv", numbers.as_csv(rows).encode())
    context.staging.write_bytes("results.md", numbers.as_markdown(rows).encode())
    for name, figure in drawn.items():
        context.staging.write_bytes(f"{name}.png", figures.png(figure))
        context.staging.write_bytes(f"{name}.svg", figures.svg(figure))
    return Outcome(rows_in=generations.num_rows, rows_out=generations.num_rows)


def _manifests(context: Context) -> dict[str, Manifest]:
    found = {name: context.inputs[name].manifest() for name in STAGES}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _losses(checkpoint: Artifact, manifest: Manifest) -> list[dict[str, Any]]:
    """One record per optimiser step, from the file that training names."""
    with checkpoint.fs.open_input_stream(join(checkpoint.path, manifest.facts["loss_curve"])) as stream:
        return json.loads(stream.read())


def _coverage(context: Context) -> tuple[list[tuple[str, int, int]], tuple[Any, Any, tuple[float, float]]]:
    """Per domain how many candidates and how many picks; and the plane on which to draw them."""
    import numpy as np

    from s1.evaluation.report.figures import principal_plane

    features = context.inputs["features"].read(schema.FEATURES, ["question_id", "domain", "embedding"])
    picked = set(context.inputs["selection"].read(schema.SELECTION, ["question_id"])["question_id"].to_pylist())
    selected = np.array([question_id in picked for question_id in features["question_id"].to_pylist()], dtype=bool)
    domains = [domain or "unknown" for domain in features["domain"].to_pylist()]
    chosen = Counter(domain for domain, hit in zip(domains, selected, strict=True) if hit)
    coverage = [(domain, count, chosen[domain]) for domain, count in Counter(domains).most_common()]
    embeddings = features["embedding"].combine_chunks()
    matrix = embeddings.flatten().to_numpy(zero_copy_only=False).reshape(len(embeddings), -1)  # (N, D)
    points, explained = principal_plane(matrix)
    return coverage, (points, selected, explained)


CAPTIONS = {
    "funnel": ("What is left after every step", "Rows, from what the source gave to what was selected."),
    "map": (
        "What the selection covers",
        "Embeddings of all candidates, on the plane of their first two principal components.",
    ),
    "loss": ("Training loss", "Cross-entropy of thinking and answer, in nats per token."),
    "scaling": (
        "Accuracy over thinking tokens",
        "Every point is one setting: a budget, the natural end, or a forced “Wait”. Bars are 95% intervals.",
    ),
}


def _figure(name: str, figure: Any) -> Any:
    from s1.evaluation.report import figures, page

    title, caption = CAPTIONS[name]
    return page.Figure(title, caption, figures.inline_svg(figure, name, title))


def _subtitle(manifests: Mapping[str, Manifest]) -> str:
    trained, asked = manifests["checkpoint"], manifests["generations"].facts.get("num_questions")
    base = trained.facts.get("base_model", "the base model")
    return f"{base}, trained on {trained.rows_out:,} traces, asked {asked:,} questions that it has not seen."


def _facts(manifests: Mapping[str, Manifest]) -> list[tuple[str, str]]:
    """What the results depend on, from the manifests."""
    evaluated, trained = manifests["generations"], manifests["checkpoint"]
    engine = dict(evaluated.facts.get("engine", {}))
    versions = engine.pop("versions", {})
    lines = {name.replace("_", " "): value for name, value in engine.items() if not isinstance(value, dict)}
    lines |= {f"serve {name}".replace("_", " "): value for name, value in engine.get("serve", {}).items()}
    lines |= {"training steps": trained.facts.get("steps"), "training tokens": trained.facts.get("tokens")}
    lines |= {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    lines |= {"code": evaluated.code_version, "cost, USD": sum(manifest.cost_usd for manifest in manifests.values())}
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in lines.items() if value]


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).rstrip()


JOB = Job(
    name="report",
    summary=str(__doc__),
    options=ReportOptions,
    inputs=STAGES,
    output="report",
    run=run,
)

if __name__ == "__main__":
    command(JOB)
