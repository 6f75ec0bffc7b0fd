"""The report in a real browser: quiet console, nothing cut off, readable in every window."""

import json
from pathlib import Path

import pytest
from report_browser import WIDTHS, chromium, look

from jobs.report import JOB, ReportOptions
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact, Manifest


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page can show of an evaluation, with long words and long lines."""
    folder = tmp_path_factory.mktemp("run")
    settings = [
        *(("budget_forcing", f"max_{tokens}", tokens, None, 0) for tokens in (512, 1024, 4096)),
        ("budget_forcing", "natural", None, None, 0),
        ("budget_forcing", "wait_2", None, None, 2),
        ("token_conditional", "tokens_512", None, 512, 0),
        ("rejection_sampling", "reject_2048", 2048, 2048, 0),
        ("majority_voting", "vote_8", None, None, 0),
    ]
    segments = [{"text": "so " * 300 + "x" * 500, "forced": False}, {"text": "Wait", "forced": True}]
    rows = [
        {
            "question_id": f"{number:02d}",
            "question": f"What is {number} + {'9' * 200}?",
            "answer": "4",
            "source": "benchmark:aime24",
            "domain": "aime24",
            "model": model,
            "method": method,
            "setting": setting,
            "sample": 0,
            "max_thinking_tokens": cap,
            "num_ignore": waits,
            "asked_max_tokens": asked,
            "thinking": "2 + 2",
            "content": "Answer: 4",
            "correct": number < 3 + place + 4 * (model == "tuned"),
            "thinking_tokens": cap or 3000,
            "ended_by": "natural",
            "segments": json.dumps(segments),
            "num_tries": 1,
            "total_tokens": (cap or 3000) + 60,
            "cost_usd": 0.0,
        }
        for model in ("base", "tuned")
        for place, (method, setting, cap, asked, waits) in enumerate(settings)
        for number in range(12)
    ]
    with Artifact(str(folder / "generations")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.GENERATIONS))
        facts = {"num_questions": 12, "engine": {"engine": "vLLM", "versions": {"vllm": "0.29.0"}}}
        staging.commit(Manifest("evaluate", "g", {"seed": 1}, {}, "0", 12, len(rows), facts=facts))
    execute(JOB, ReportOptions(only_results=True, compare=(f"the-run-before={folder}",)), str(folder))
    return folder / "report" / "report.html"


def test_the_page_reads_well_in_every_window(report: Path):
    with chromium() as browser:
        faults = {
            (scheme, width): look(browser, report, width, scheme).faults
            for width in WIDTHS
            for scheme in ("light", "dark")
        }
    assert faults == {(scheme, width): [] for width in WIDTHS for scheme in ("light", "dark")}
