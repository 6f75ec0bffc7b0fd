"""lm-eval's `local-chat-completions`, unchanged, against our endpoint on a small task of sums.

    make bench/lm_eval_client           # installs lm-eval in an environment of its own
    python tests/benchmarks/lm_eval_client.py --lm-eval ~/lm-eval/bin/lm_eval --model runs/laptop/checkpoint

Deploys the model, writes the task (questions and exact match of the last number) into a temporary folder, runs lm-eval
with and without a budget, and prints its accuracy for each. The budget goes in through lm-eval's own `gen_kwargs`; the
server's metrics say whether it arrived. Exit code 1 when a run has not one completion for every question, or one that
thinks longer than its budget.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

MODEL = "embedded:smollm2-135m-instruct"
TASK = """\
task: small_sums
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "Calculate {{{{a}}}} + {{{{b}}}}."
doc_to_target: "{{{{total}}}}"
generation_kwargs: {{until: [], max_gen_toks: 200, temperature: 0}}
filter_list:
  - name: last-number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match}}
"""


def main() -> None:
    """Serve, evaluate from outside, print what lm-eval found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="reference of s1.models")
    parser.add_argument("--lm-eval", default=shutil.which("lm_eval"), help="the command; by default the one on PATH")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--budgets", type=int, nargs="*", default=[16], help="thinking_token_budget, one run each")
    options = parser.parse_args()
    if options.lm_eval is None:
        print("error: lm_eval is not on the PATH; `make bench/lm_eval_client` installs it", file=sys.stderr)
        raise SystemExit(2)

    from jobs.ray_session import ray_session
    from serve.app import deployed

    with tempfile.TemporaryDirectory() as folder, ray_session(), deployed({"m": options.model}) as url:
        write_task(Path(folder), options.questions)
        missed: list[str] = []
        for budget in [None, *options.budgets]:
            before = thinking(url)
            accuracy = evaluate(options.lm_eval, Path(folder), url, budget)
            completions = thinking(url) - before
            found = {"thinking_token_budget": budget, "exact_match": accuracy, "completions": completions.total()}
            print(json.dumps(found), flush=True)
            missed += missed_bounds(budget, options.questions, completions)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


def thinking(url: str) -> Counter[float]:
    """Completions so far, by the upper bound of the histogram's bucket that their number of thinking tokens is in."""
    text = httpx.get(f"{url.removesuffix('/v1')}/metrics", timeout=60).raise_for_status().text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found: Counter[float] = Counter()
    below = 0.0
    for sample in getattr(families.get("s1_thinking_length_tokens"), "samples", ()):
        if sample.name.endswith("_bucket"):
            found[float(sample.labels["le"])] = int(sample.value - below)
            below = sample.value
    return found


def missed_bounds(budget: int | None, questions: int, completions: Counter[float]) -> list[str]:
    """What a run of so many questions misses whose `completions` are counted as `thinking` does."""
    missed: list[str] = []
    if completions.total() != questions:
        missed.append(f"budget {budget}: {completions.total()} completions of {questions} questions")
    # The smallest bucket that holds the budget holds all that keep to it; one of the histogram's bounds is exact.
    holds = min((bound for bound in completions if budget is not None and bound >= budget), default=float("inf"))
    longer = sum(count for bound, count in completions.items() if bound > holds)
    if longer:
        missed.append(f"budget {budget}: {longer} completions think longer than {holds:g} tokens")
    return missed


def write_task(folder: Path, num_questions: int) -> None:
    """The task and its questions, the same every time."""
    draw = random.Random(0)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(num_questions)]
    rows = (json.dumps({"a": a, "b": b, "total": str(a + b)}) for a, b in pairs)
    data = folder / "questions.jsonl"
    data.write_text("\n".join(rows) + "\n")
    (folder / "small_sums.yaml").write_text(TASK.format(data=data))


def evaluate(command: str, folder: Path, url: str, budget: int | None) -> float:
    """What lm-eval reports for one budget."""
    arguments = f"base_url={url}/chat/completions,model=m,num_concurrent=8,max_retries=3,tokenized_requests=False"
    run: list[str] = [command, "--model", "local-chat-completions", "--model_args", arguments, "--tasks", "small_sums"]
    run += ["--include_path", str(folder), "--apply_chat_template", "--output_path", str(folder / f"out-{budget}")]
    run += [] if budget is None else ["--gen_kwargs", f"thinking_token_budget={budget}"]
    subprocess.run(run, check=True, stdout=sys.stderr, stderr=sys.stderr)
    (result,) = (folder / f"out-{budget}").rglob("results*.json")
    found: dict[str, Any] = json.loads(result.read_text())["results"]["small_sums"]
    return next(value for key, value in found.items() if key.startswith("exact_match,"))


if __name__ == "__main__":
    main()
