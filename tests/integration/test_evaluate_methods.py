"""The methods of an evaluation, asked of a given endpoint: a real server of this process, no Ray."""

import json
from collections import Counter
from pathlib import Path

import pytest
from chat_server import FORCED, serving
from evaluation_cases import options, table, write_questions

from jobs import pipeline
from jobs.evaluate import JOB, NEVER_ENDS
from jobs.report import JOB as REPORT
from jobs.report import ReportOptions
from jobs.runner import execute
from s1.errors import UserError
from s1.evaluation.display import UNKNOWN


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_questions(tmp_path)


def test_every_method_is_asked_over_the_one_protocol(run_dir: Path):
    with serving(budget_forcing={**FORCED, "ended_by": "natural"}) as server:
        wanted = options(
            server,
            models=("base", "tuned"),
            num_questions=4,
            waits=(),
            budgets=(8,),
            conditional={"tokens": (2, 8), "steps": (1,), "classes": True, "models": ("tuned",), "num_questions": 2},
            parallel={"rejection": (2, 8), "max_tries": 3, "majority": (4,), "best_of": (2,)},
            usd_per_million_output=1e6,
        )
        manifest = execute(JOB, wanted, str(run_dir))
    rows = table(run_dir)
    by_setting = {name: [row for row in rows if row["setting"] == name] for name in {row["setting"] for row in rows}}
    assert {name: (len(group), group[0]["num_tries"]) for name, group in by_setting.items()} == {
        "natural": (8, 1),
        "direct": (4, 1),
        "max_8": (8, 1),
        "tokens_2": (2, 1),
        "tokens_8": (2, 1),
        "steps_1": (2, 1),
        "class_short": (2, 1),
        "class_long": (2, 1),
        "reject_8": (8, 1),
        "reject_2": (8, 3),  # the server always thinks 4 tokens
        "vote_4": (8, 4),
        "best_2": (8, 2),
    }
    assert all(row["ended_by"] == "rejected" and row["correct"] is False for row in by_setting["reject_2"])
    assert any(row["correct"] for row in by_setting["reject_8"])
    assert all("Think for up to 2 tokens." not in str(row["question"]) for row in by_setting["tokens_2"])
    asked = [body["messages"][0]["content"] for body in server.bodies]
    assert sum(text.endswith("Think for up to 2 tokens.") for text in asked) == 2
    methods = manifest.facts["summary"]["tuned"]["methods"]
    assert methods["budget_forcing"]["control_pct"] == 100
    assert methods["token_conditional"]["control_pct"] == 50
    assert methods["rejection_sampling"]["control_pct"] == 50
    sampled = [row for row in rows if row["method"] == "majority_voting"]
    assert len({row["seed"] for row in sampled}) == 4  # one per question, the same for both models
    assert manifest.cost_usd == sum(12.0 * float(str(row["num_tries"])) for row in rows)
    assert "conditional" not in manifest.facts["summary"]["base"]["methods"]


def test_the_base_model_is_asked_without_thinking_in_its_own_chat_format(run_dir: Path):
    with serving() as server:
        wanted = options(server, num_questions=2, budgets=(), waits=(), direct={"max_tokens": 99}, seed=3)
        manifest = execute(JOB, wanted, str(run_dir))
    (one, other) = (body for body in server.bodies if "chat_template_kwargs" in body)
    assert one["chat_template_kwargs"] == {"enable_thinking": False} and one["max_tokens"] == 99
    assert {one["model"], other["model"]} == {"base"}
    assert "budget_forcing" not in one
    rows = [row for row in table(run_dir) if row["method"] == "direct"]
    assert {(row["setting"], row["max_thinking_tokens"]) for row in rows} == {("direct", None)}
    summary = manifest.facts["summary"]
    assert summary["base"]["direct"]["num_questions"] == 2 and summary["tuned"]["direct"] is None


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"direct": {"models": ("base", "tuned")}}, {"base", "tuned"}),
        ({"models": ("tuned",)}, set()),
        ({"models": ("tuned",), "direct": {"models": ("tuned",)}}, {"tuned"}),
        ({"direct": {"models": ()}}, set()),
        ({"plain": True}, set()),  # its natural end is asked just so
    ],
)
def test_who_is_asked_without_thinking(more: dict[str, object], asked: set[str], run_dir: Path):
    with serving() as server:
        execute(JOB, options(server, num_questions=1, budgets=(), waits=(), **more), str(run_dir))
    assert {body["model"] for body in server.bodies if "chat_template_kwargs" in body} == asked
    assert {row["model"] for row in table(run_dir) if row["setting"] == "direct"} == asked


def test_methods_that_sample_can_be_kept_to_a_model_and_a_few_questions(run_dir: Path):
    with serving(budget_forcing={**FORCED, "ended_by": "natural"}) as server:
        few = {"rejection": (8,), "majority": (2,), "models": ("tuned",), "num_questions": 3}
        execute(JOB, options(server, waits=(), budgets=(8,), parallel=few), str(run_dir))
    asked = Counter((row["model"], row["setting"]) for row in table(run_dir))
    assert asked == {
        ("base", "natural"): 16,
        ("base", "direct"): 16,
        ("base", "max_8"): 16,
        ("tuned", "natural"): 16,
        ("tuned", "max_8"): 16,
        ("tuned", "reject_8"): 3,
        ("tuned", "vote_2"): 3,
    }


@pytest.mark.parametrize("preset", ["s1", "s1.1"])
def test_the_presets_of_the_paper_ask_for_its_methods(preset: str):
    methods = Counter(setting.method for setting in pipeline.parse(["--preset", preset]).evaluate.settings)
    assert methods == {
        "direct": 1,
        "budget_forcing": 6 + 3 + 1,
        "token_conditional": 5,
        "token_conditional_forced": 5,
        "step_conditional": 5,
        "step_conditional_forced": 5,
        "class_conditional": 2,
        "rejection_sampling": 5,
        "majority_voting": 4,
    }


def test_a_strict_endpoint_gets_openai_s_protocol_and_nothing_else(run_dir: Path):
    with serving() as server:
        wanted = options(server, plain=True, num_questions=2, models=("tuned",), conditional={"tokens": (8,)})
        execute(JOB, wanted, str(run_dir))
    assert {key for body in server.bodies for key in body} == {"model", "messages", "temperature"}
    assert {row["setting"] for row in table(run_dir)} == {"natural", "tokens_8"}


def test_of_an_endpoint_that_was_told_of_no_cap_control_is_not_known(run_dir: Path):
    with serving() as server:
        wanted = options(server, plain=True, num_questions=2, models=("tuned",), natural_max_tokens=64)
        manifest = execute(JOB, wanted, str(run_dir))
    assert {"max_tokens"} < {key for body in server.bodies for key in body}, "the completion is bounded all the same"
    tuned = manifest.facts["summary"]["tuned"]
    assert tuned["control_pct"] is tuned["scaling"] is None
    report = run_dir / "report"
    execute(REPORT, ReportOptions(only_results=True), str(run_dir))
    assert json.loads((report / "metrics.json").read_text())["models"]["tuned"]["control_pct"] is None
    assert f"<td>budget forcing</td><td>tuned</td><td>{UNKNOWN}</td>" in (report / "report.html").read_text()
    assert f"| budget_forcing | {UNKNOWN} |" in (report / "methods.md").read_text()


def test_samples_are_seeded_and_told_apart(run_dir: Path):
    with serving() as server:
        wanted = options(server, samples=3, temperature=0.8, num_questions=2, models=("tuned",), budgets=(), waits=())
        manifest = execute(JOB, wanted, str(run_dir))
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(seeds) == 6
    assert [row["sample"] for row in table(run_dir)] == [0, 1, 2] * 2
    assert set(manifest.facts["summary"]["tuned"]["natural"]["pass_at_k_pct"]) == {"1", "2", "3"}


def test_a_model_that_never_ends_is_said_early(run_dir: Path):
    endless = {**FORCED, "ended_by": "context"}
    with serving(budget_forcing=endless) as server, pytest.raises(UserError, match="without ending its thinking"):
        execute(JOB, options(server, concurrency=1, domains=("sums", "other"), models=("tuned",)), str(run_dir))
    assert len(server.bodies) <= NEVER_ENDS + 1


def test_a_model_that_never_ends_under_a_guard_is_told_and_counted(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    with serving(budget_forcing=FORCED) as server:
        manifest = execute(JOB, options(server, natural_max_tokens=8, waits=(), models=("tuned",)), str(run_dir))
    assert "tuned has not ended its thinking once in 8 tokens" in capsys.readouterr().err
    assert manifest.facts["summary"]["tuned"]["natural"]["ended_by"] == {"budget": 16}
