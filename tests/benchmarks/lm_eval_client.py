"""lm-eval's `local-chat-completions`, unchanged, against our endpoint on a small task of sums.

    make bench/lm_eval_client           # installs lm-eval in an environment of its own
    python tests/benchmarks/lm_eval_client.py --lm-eval ~/lm-eval/bin/lm_eval --model runs/laptop/checkpoint

Deploys the model, writes the task (questions and exact match of the last number) into a temporary folder, runs lm-eval
with and without a budget, and prints its accuracy for each. The budget goes in through lm-eval's own `gen_kwargs`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
        for budget in [None, *options.budgets]:
            accuracy = evaluate(options.lm_eval, Path(folder), url, budget)
            print(json.dumps({"thinking_token_budget": budget, "exact_match": accuracy}), flush=True)


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
