"""Draw the results of a run: report.html, its figures as PNG and SVG, tables, and metrics.json for programs.

python -m jobs.report --run-dir runs/laptop
python -m jobs.report --run-dir runs/laptop --compare runs/other --lm-eval results/ --paper AIME24
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt

from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import MANIFEST, Artifact, Manifest, join
from s1.config import Config
from s1.errors import UserError
from s1.evaluation import lm_eval, paper
from s1.evaluation.report import compare, numbers
from s1.evaluation.report.abstract import abstract
from s1.evaluation.report.transcripts import transcripts
from s1.evaluation.summary import by_benchmark, gain, summarise, verdicts
from s1.sources import records

if TYPE_CHECKING:
    from s1.evaluation.report.drawings import Drawing

STAGES = ("questions", "traces", "features", "selection", "checkpoint", "generations")
DATA_STAGES = STAGES[:4]


class ReportOptions(Config):
    """How much to show."""

    title: str = Field("Thinking as long as it is told", description="Headline of the page.")
    num_transcripts: NonNegativeInt = Field(4, description="Number of questions whose responses are shown in full.")
    only_results: bool = Field(
        False, description="Show only the evaluation's results; no other table of the run is needed."
    )
    compare: tuple[str, ...] = Field((), description="Other run folders to compare with this one: PATH or NAME=PATH.")
    lm_eval: tuple[str, ...] = Field((), description="Output of lm-eval to compare with this run: PATH or NAME=PATH.")
    paper: tuple[str, ...] = Field(
        (), description="Draw the paper's points of AIME24, MATH500 or GPQA Diamond under the curve of all questions."
    )


def run(options: ReportOptions, context: Context) -> Outcome:
    """Read every table of the run, write the page."""
    from s1.evaluation.report import drawings, figures, page

    manifests = _manifests(context)
    generations = context.inputs["generations"].read(schema.GENERATIONS)
    summary, benchmarks = summarise(generations), by_benchmark(generations)
    engine = manifests["generations"].facts.get("engine", {})
    others = _others(options)
    main = compare.main_model(summary)
    right = verdicts(generations)
    compared = compare.rows(main, right.get(main, {}), others)
    metrics = numbers.metrics(summary, benchmarks, gain(generations), manifests.values(), engine, compared)
    beside = {other.name: other.numbers for other in others if other.numbers}
    evaluated = drawings.evaluation(summary, benchmarks, options.paper, main, beside)
    coverage, data = ([], []) if options.only_results else _data_figures(context, manifests)
    html = page.render(
        page.Page(
            title=options.title,
            subtitle=_subtitle(manifests, metrics["seconds"]),
            main=main,
            abstract=abstract(metrics, main),
            metrics=metrics,
            beside_paper=numbers.beside_paper(benchmarks),
            evaluation=tuple(map(_figure, (drawing for drawing in evaluated if drawing.kind != "methods"))),
            methods=tuple(map(_figure, (drawing for drawing in evaluated if drawing.kind == "methods"))),
            figures=tuple(map(_figure, data)),
            coverage=coverage,
            transcripts=transcripts(generations.to_pylist(), options.num_transcripts),
            facts=_facts(manifests),
            configs=tuple((manifest.job, _yaml(manifest.config)) for manifest in manifests.values()),
        )
    )
    context.staging.write_bytes("report.html", html.encode())
    context.staging.write_bytes("metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False).encode())
    _write_tables(context, metrics)
    for drawing in (*evaluated, *data):
        context.staging.write_bytes(f"{drawing.name}.png", figures.png(drawing.figure))
        context.staging.write_bytes(f"{drawing.name}.svg", figures.svg(drawing.figure))
    _export(context, generations.to_pylist())
    return Outcome(rows_in=generations.num_rows, rows_out=generations.num_rows)


def _manifests(context: Context) -> dict[str, Manifest]:
    found = {name: context.inputs[name].manifest() for name in STAGES if name in context.inputs}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _named(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH whose last part is the name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and "://" not in name else (text.rstrip("/").rpartition("/")[2], text)


def _check_names(options: ReportOptions) -> None:
    """Figures and tables tell runs by their names, among them the models of this one."""
    seen = {compare.TUNED, compare.BASE}
    for name, path in map(_named, (*options.compare, *options.lm_eval)):
        if name in seen:
            raise UserError(
                f"compare: {path} is called {name!r}, like a model or another run; names must differ: use NAME={path}"
            )
        seen.add(name)


def _others(options: ReportOptions) -> list[compare.Other]:
    found: list[compare.Other] = []
    for name, path in map(_named, options.compare):
        generations = Artifact(join(path, "generations"))
        manifest = generations.manifest()
        engine = manifest.facts.get("engine", {}) if manifest else {}
        found += compare.of_run(name, generations.read(schema.GENERATIONS), engine)
    for name, path in map(_named, options.lm_eval):
        found += compare.of_lm_eval(name, lm_eval.read(path))
    return found


def _data_figures(
    context: Context, manifests: Mapping[str, Manifest]
) -> tuple[list[tuple[str, int, int]], list[Drawing]]:
    from s1.evaluation.report import drawings, figures

    losses = _losses(context.inputs["checkpoint"], manifests["checkpoint"])
    steps, values = ([record[name] for record in losses] for name in ("step", "loss"))
    coverage, plane = _coverage(context)
    return coverage, [
        drawings.Drawing("funnel", figures.funnel(numbers.funnel(manifests[name] for name in DATA_STAGES))),
        drawings.Drawing("map", figures.embedding_map(*plane)),
        drawings.Drawing("loss", figures.loss_curve(steps, values)),
    ]


def _write_tables(context: Context, metrics: Mapping[str, Any]) -> None:
    summary, benchmarks, engine = (metrics[name] for name in ("models", "benchmarks", "engine"))
    tables = {
        "results": (numbers.results(summary, benchmarks, engine), numbers.RESULTS),
        "methods": (numbers.methods(summary, benchmarks, engine), numbers.METHODS),
    }
    if metrics["compared"]:
        tables["compared"] = numbers.compared(metrics["compared"]), numbers.COMPARED
    columns, beside = numbers.beside_paper(benchmarks)
    if beside:
        tables["beside_paper"] = beside, tuple(columns)
    for name, (rows, columns) in tables.items():
        context.staging.write_bytes(f"{name}.csv", numbers.as_csv(rows, columns).encode())
        context.staging.write_bytes(f"{name}.md", numbers.as_markdown(rows, columns).encode())


def _export(context: Context, rows: list[dict[str, Any]]) -> None:
    """Everything that was graded as sample files of lm-eval. Their names hold a date: the evaluation's own."""
    manifest = context.inputs["generations"]
    info: Any = manifest.fs.get_file_info(join(manifest.path, MANIFEST))
    date = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime((info.mtime_ns or 0) / 1e9))
    for name, content in lm_eval.samples(rows, date):
        context.staging.write_bytes(f"lm-eval/{name}", content.encode())


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
        "Every point is one setting: a budget, the natural end, a forced “Wait”, or no thinking (own chat format). "
        "Bars are 95% intervals.",
    ),
    "parallel": (
        "Sequential against parallel",
        "Thinking longer against answering several times. Compute is every token of a question, discarded ones too.",
    ),
    "rejection": (
        "Rejection sampling",
        "Accuracy of the responses whose thinking ended by itself within the limit, and how many it took.",
    ),
    "comparison": ("Runs side by side", "Budgets of every run, its main model alone."),
    "methods": (
        "Every method",
        "How often responses keep to what is asked, and the best accuracy of all settings, with 95% intervals.",
    ),
}


def _figure(drawing: Drawing) -> Any:
    from s1.evaluation.report import figures, page

    title, caption = CAPTIONS[drawing.kind]
    if drawing.benchmark:
        title = f"{title}: {drawing.benchmark}"
    if any(str(line.get_label()).startswith("paper") for line in drawing.figure.axes[0].lines):
        caption += f" Dashed: points of the paper ({paper.source()})."
    return page.Figure(title, caption, figures.inline_svg(drawing.figure, drawing.name, title))


def _subtitle(manifests: Mapping[str, Manifest], seconds: float) -> str:
    from s1.evaluation.report import page

    trained, asked = manifests.get("checkpoint"), manifests["generations"].facts.get("num_questions")
    if trained is None:
        return f"{asked:,} questions."
    base = str(trained.facts.get("base_model", "the base model")).rpartition(":")[2]
    return (
        f"{base}, trained on {trained.rows_out:,} traces and asked {asked:,} questions that it has not seen; "
        f"{page.seconds(seconds)} from the first question to the last answer."
    )


def _facts(manifests: Mapping[str, Manifest]) -> list[tuple[str, str]]:
    """What the results depend on, from the manifests."""
    evaluated, trained = manifests["generations"], manifests.get("checkpoint")
    engine = dict(evaluated.facts.get("engine", {}))
    versions = engine.pop("versions", {})
    lines = {name.replace("_", " "): value for name, value in engine.items() if not isinstance(value, dict)}
    lines |= {f"serve {name}".replace("_", " "): value for name, value in engine.get("serve", {}).items()}
    if trained is not None:
        lines |= {"training steps": trained.facts.get("steps"), "training tokens": trained.facts.get("tokens")}
    lines |= {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    lines |= {"code": evaluated.code_version, "cost, USD": sum(manifest.cost_usd for manifest in manifests.values())}
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in lines.items() if value]


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).rstrip()


def check(options: ReportOptions) -> None:
    """The names of the paper's benchmarks, and that what is compared is there and has a name of its own."""
    unknown = sorted(set(options.paper) - set(paper.benchmarks()))
    if unknown:
        raise UserError(f"paper={unknown[0]!r}: the paper has points of {', '.join(paper.benchmarks())}")
    _check_names(options)
    for name, path in map(_named, options.compare):
        if Artifact(join(path, "generations")).manifest() is None:
            raise UserError(
                f"compare: {name}: {path} holds no generations; give the folder of a run that has evaluated"
            )
    for _, path in map(_named, options.lm_eval):
        lm_eval.read(path)


def _outside(options: ReportOptions) -> object:
    """Changes when another run does."""
    runs = [Artifact(join(path, "generations")).manifest() for _, path in map(_named, options.compare)]
    results = [records.state(path) for _, path in map(_named, options.lm_eval)]
    return [[manifest.fingerprint for manifest in runs if manifest], results]


JOB = Job(
    name="report",
    summary=str(__doc__),
    options=ReportOptions,
    inputs=STAGES,
    output="report",
    run=run,
    check=check,
    needs=lambda options: ("generations",) if options.only_results else STAGES,
    outside=_outside,
)

if __name__ == "__main__":
    command(JOB)
