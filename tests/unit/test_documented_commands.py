"""Every command line of the README, of docs/ and in the heads of the cluster files exists, and takes its flags."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from jobs import ablate, pipeline, plan, runner
from jobs.__main__ import JOBS
from s1.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
CONFIGURATION = ROOT / "docs" / "configuration.md"
FILES = sorted(path for path in ROOT.glob("cluster/**/*") if path.suffix == ".yaml")
_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$|((?:^ {4}\S.*\n)+)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_KNOWN = ("python", "s1", "make", "ray", "serve")


def lines_of(path: Path) -> Iterator[str]:
    """Lines of code blocks, and code within sentences; of a YAML file its comments."""
    text = path.read_text()
    if path.suffix == ".yaml":
        yield from re.findall(r"^#\s+(\S.*)$", text, re.MULTILINE)
        yield from re.findall(r"^\s+(?:entrypoint|-): (.*)$", text, re.MULTILINE)
        return
    for fenced, indented in _BLOCK.findall(text):
        yield from re.sub(r"\\\n\s*", "", fenced or indented).splitlines()
    yield from _SPAN.findall(_BLOCK.sub("", text))


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every command that is ours, Ray's or make's; what a submitted job runs is a command of its own."""
    for line in lines_of(path):
        for part in re.split(r"&&|;|\|\|", line.partition(" #")[0]):
            try:
                words = shlex.split(part)
            except ValueError:  # a sentence with an apostrophe
                continue
            if ">" in words:
                words = words[: words.index(">")]
            while words and words[0] in _KNOWN and len(words) > 1:
                yield words
                words = words[words.index("--") + 1 :] if "--" in words else []


def preset_of_ones_own() -> str:
    """The file mine.yaml as the configuration page has it."""
    (text,) = re.findall(r"^```yaml\n# mine\.yaml\n(.*?)^```$", CONFIGURATION.read_text(), re.MULTILINE | re.DOTALL)
    return text


# Every command once, with the first page that has it.
PLACES: dict[tuple[str, ...], Path] = {}
for page in (*PAGES, *FILES):
    for found in commands(page):
        PLACES.setdefault(tuple(found), page.relative_to(ROOT))


def check_python(words: list[str], folder: Path) -> None:
    if words[1] == "-m" and words[2].startswith("jobs."):
        check_job(words[2].removeprefix("jobs."), words[3:], folder)
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
    else:
        script = (ROOT / words[1]).read_text()
        own = words[: words.index("--")] if "--" in words else words  # what follows is passed on to a job
        assert all(f'"{word}"' in script for word in own if word.startswith("--")), words


def check_job(name: str, arguments: list[str], folder: Path) -> None:
    assert name in JOBS
    argv = [word for word in arguments if word not in ("--help", "…")]
    if name == "pipeline":
        pipeline.parse(argv)
    elif name == "plan":
        plan.main([*argv, "--run-dir", str(folder)])
    elif name == "ablate":
        ablate.main([*argv, "--run-dir", str(folder), "--dry-run"])
    else:
        runner.parse(importlib.import_module(f"jobs.{name}").JOB, argv)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {target for line in re.findall(r"^([\w. ]+):", makefile, re.MULTILINE) for target in line.split()}
    benchmarks = {f"bench/{path.stem}" for path in ROOT.glob("tests/benchmarks/*.py")}
    for word in words[1:]:
        assert word.startswith("-") or word in targets | benchmarks, words


def check_click(group: Any, words: list[str]) -> None:
    """Whether the command exists and takes these options; a name that a sentence leaves out is no fault."""
    command, rest = group, words[1:]
    while isinstance(command, click.Group):
        assert rest and rest[0] in command.commands, words
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.parse_args(click.Context(command), rest)
    except click.MissingParameter:
        assert not any(word.startswith("-") for word in rest) or "JOB" in words, words


def check(words: list[str], folder: Path) -> None:
    if words[0] == "python":
        check_python(words, folder)
    elif words[0] == "s1":
        if not words[1].startswith("-") and words[1] != "JOB":
            check_job(words[1], words[2:], folder)
    elif words[0] == "make":
        check_make(words)
    elif words[0] == "ray":
        from ray.scripts.scripts import cli

        check_click(cli, words)
    else:
        from ray.serve.scripts import cli

        check_click(cli, words)


@pytest.mark.parametrize("words", [pytest.param(list(its), id=f"{PLACES[its]}: {' '.join(its)}") for its in PLACES])
def test_a_command_of_the_docs_is_accepted(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.yaml").write_text(preset_of_ones_own())
    monkeypatch.chdir(tmp_path)
    check(words, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "python -m jobs.collect --sauce files",
        "python -m jobs.pipeline --preset s2",
        "python -m jobs.train --max-steps many",
        "python -m jobs.evil",
        "python -m serve.chek FILE",
        "python tests/benchmarks/grading.py --date x",
        "s1 selekt --size 5",
        "make dome",
        "ray job submitt -- x",
        "ray start --heads",
        "serve deploy --bogus file",
    ],
)
def test_a_command_that_there_is_not_is_found(text: str, tmp_path: Path):
    with pytest.raises((AssertionError, UserError, click.UsageError)):
        check(text.split(), tmp_path)


def test_the_commands_are_found():
    jobs = {words[2] for words in PLACES if words[:2] == ("python", "-m")}
    assert {f"jobs.{name}" for name in JOBS} <= jobs
    assert len(PLACES) > 80 and ("ray", "start", "--head", "--num-cpus", "2") in PLACES


def anchors(page: Path) -> set[str]:
    """What links can name in a page: its headings as GitHub writes them in addresses."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def test_the_dollars_of_the_cloud_page_are_what_the_plan_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs" / "cluster.md").read_text()
    rows = re.findall(r"^\| .* \| `python -m jobs\.plan (.*)` \| ([\d.]+ min) \| (\$[\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 11
    for arguments, minutes, dollars in rows:
        plan.main([*arguments.split(), "--run-dir", str(tmp_path)])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  time: ")]
        assert f" {minutes}," in line and dollars in line


def test_what_solvers_and_evaluation_cost_on_the_cloud_page_is_what_the_plan_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page = (ROOT / "docs" / "cluster.md").read_text()
    (arguments,) = re.findall(r"`python -m jobs\.plan (.*--plan\.expected\.tokens-per-s-per-gpu \d+)`", page)
    rows = re.findall(r"^\| [^|]*, ([\d,]+) questions \|(.*)\|$", page, re.MULTILINE)
    plan.main([*arguments.split(), "--run-dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert len(rows) == 2
    for questions, cells in rows:
        completions, tokens, most, hours, dollars = map(str.strip, cells.strip("|").split(" | "))
        fewest, _, at_most = completions.partition(" to ")
        work = f"{fewest} completions with {tokens} tokens expected, at most {at_most or fewest} with {most}"
        assert f"generates for {questions} questions: {work}" in text
        assert f"GPU-hours: {hours} at 1,130 tokens/s of a GPU, {dollars} at $6.88" in text


def test_the_trainings_of_the_gpu_page_take_what_the_plan_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = re.findall(
        r"^\| .* \| `python -m jobs\.plan (.*)` \| ([\d.]+ of [\d.]+ GiB) \| ([\d.]+ min) \| (\$[\d.]+) \|$",
        (ROOT / "docs" / "gpu.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 5
    for arguments, memory, minutes, dollars in rows:
        plan.main([*arguments.split(), "--run-dir", str(tmp_path)])
        text = capsys.readouterr().out
        assert f"together {memory}" in text and f"  time: {minutes}, {dollars} " in text


def test_the_numbers_of_questions_of_the_evaluation_page_are_those_of_the_presets():
    page = " ".join((ROOT / "docs" / "jobs" / "evaluate.md").read_text().split())
    says = r"preset asks the tuned model (\d+) questions in words\. The presets `s1` and `s1\.1` ask it (\d+), "
    (found,) = re.findall(says, page)
    for preset, number in (("laptop", found[0]), ("s1", found[1]), ("s1.1", found[1])):
        asked = pipeline.parse(["--preset", preset]).evaluate
        parts = [asked.conditional] if preset == "laptop" else [asked.conditional, asked.parallel]
        assert {(part.num_questions, part.models) for part in parts} == {(int(number), ("tuned",))}


def test_the_preset_of_the_configuration_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(preset_of_ones_own())
    options = pipeline.parse(["--preset", "mine.yaml"])
    pipeline.check(options)
    assert (options.select.size, options.train.epochs, options.evaluate.budgets) == (100, 2, (8, 32))
    assert options.train.hardware.memory_gib == 12  # of the laptop
