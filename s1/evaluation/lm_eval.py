"""Results of lm-evaluation-harness into our tables, and ours as its sample files.

It writes `results_<date>.json` with the metrics of every task and, with --log_samples, `samples_<task>_<date>.jsonl`
with one line per question and filter. Sample files say more: from them differences to other runs are paired.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.fs as pafs

from s1.artifacts import resolve
from s1.errors import UserError
from s1.evaluation.bootstrap import interval
from s1.evaluation.sheet import Row
from s1.hashing import question_id

# Metrics of a sample that say whether it is right, the first that there is.
_METRICS = ("exact_match", "acc", "math_verify", "pass@1")
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
_RESULTS = re.compile(r"results_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.json")
_FIELDS = ("problem", "question", "query", "prompt", "input")  # in lower case: `Problem` is one of them


@dataclass(frozen=True)
class Task:
    """What one run of the harness found in one task.

    `verdicts` is empty when it kept no samples. `engine`: engine, batch_size, precision and versions as its results
    file names them; empty without one.
    """

    name: str
    metric: str
    accuracy_pct: float
    interval_pct: tuple[float, float] | None
    num_questions: int | None
    verdicts: dict[str, float]  # question_id -> 0 … 1
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read(folder: str) -> list[Task]:
    """The newest results of every task under `folder`, which may hold folders of several models.

    Those of several are called `folder/task`. UserError when there are none, or they cannot be read.
    """
    fs, path = resolve(folder)
    if fs.get_file_info(path).type == pafs.FileType.NotFound:
        raise UserError(f"{folder}: no such file or folder; give what lm-eval wrote with --output_path")
    files = [path] if fs.get_file_info(path).type == pafs.FileType.File else _files(fs, path)
    newest: dict[tuple[str, str], tuple[str, Task]] = {}  # by folder and task, with its date
    engines: dict[tuple[str, str], dict[str, Any]] = {}  # by folder and date
    logged: dict[tuple[str, str], tuple[str, str]] = {}
    for name in files:  # sorted by date: later ones win
        parent, _, file = name.rpartition("/")
        if found := _RESULTS.fullmatch(file):
            results = _json(fs, name)
            newest |= {(parent, task.name): (found["date"], task) for task in _from_results(results, name)}
            engines[parent, found["date"]] = _engine(results)
        elif found := _SAMPLES.fullmatch(file):
            logged[parent, found["task"]] = found["date"], name
    for key, (date, name) in logged.items():
        # Of one run, samples say more than results.
        if key not in newest or date >= newest[key][0]:
            task = _from_samples(key[1], _lines(fs, name), name)
            newest[key] = date, replace(task, engine=engines.get((key[0], date), {}))
    if not newest:
        raise UserError(f"{folder}: holds neither results_*.json nor samples_*.jsonl of lm-eval; give its output_path")
    several = len({parent for parent, _ in newest}) > 1
    tasks = [
        replace(task, name=f"{parent.removeprefix(path)}/{task.name}".lstrip("/")) if several else task
        for (parent, _), (_, task) in newest.items()
    ]
    return sorted(tasks, key=lambda task: task.name)


def _files(fs: pafs.FileSystem, path: str) -> list[str]:
    infos: Any = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    names = [info.path for info in infos if info.type == pafs.FileType.File]
    return sorted(names, key=lambda name: name.rpartition("_")[2])


def _json(fs: pafs.FileSystem, path: str) -> Any:
    with fs.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); give the file as lm-eval wrote it") from error


def _lines(fs: pafs.FileSystem, path: str) -> list[dict[str, Any]]:
    with fs.open_input_stream(path) as stream:
        lines = stream.read().splitlines()
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            sample = json.loads(line)
            sample["doc_id"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no sample of lm-eval ({error!r})") from error
        found.append(sample)
    return found


def _from_samples(task: str, samples: Sequence[Mapping[str, Any]], path: str) -> Task:
    """Accuracy of the first filter, by question; a question that was asked several times counts once, by its mean."""
    if not samples:
        raise UserError(f"{path}: holds no sample")
    first = samples[0].get("filter")
    metric = _metric(samples[0], path)
    hits: dict[str, list[float]] = {}
    for sample in samples:
        if sample.get("filter") == first:
            hits.setdefault(_key(sample), []).append(float(sample[metric]))
    verdicts = {key: sum(values) / len(values) for key, values in hits.items()}
    return _task(task, metric, verdicts)


def _metric(sample: Mapping[str, Any], path: str) -> str:
    named = [name for name in sample.get("metrics") or () if isinstance(sample.get(name), int | float)]
    known = [name for name in (*_METRICS, *named) if isinstance(sample.get(name), int | float)]
    if not known:
        raise UserError(f"{path}: no metric that says whether a sample is right; known are {', '.join(_METRICS)}")
    return known[0]


def _key(sample: Mapping[str, Any]) -> str:
    """The question's own key, as in our tables, so that runs can be paired; else the number of the document."""
    doc: Any = sample.get("doc")
    text = None
    if isinstance(doc, Mapping):
        fields = {name.lower(): value for name, value in doc.items() if isinstance(value, str)}
        text = next((fields[name] for name in _FIELDS if name in fields), None)
    text = text or _asked(sample)
    return f"doc {sample['doc_id']}" if text is None else question_id(text)


def _asked(sample: Mapping[str, Any]) -> str | None:
    """The last message of the user in the sample's prompt; None when the prompt is no chat."""
    try:
        prompt = sample["arguments"]["gen_args_0"]["arg_0"]
        messages = json.loads(prompt[0] if isinstance(prompt, list) else prompt)
        text = [message["content"] for message in messages if message["role"] == "user"][-1]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return text if isinstance(text, str) else None


def _task(name: str, metric: str, verdicts: dict[str, float]) -> Task:
    found = interval([100 * share for share in verdicts.values()])
    return Task(name, metric, found.mean, (found.low, found.high), len(verdicts), verdicts)


def _from_results(results: Any, path: str) -> Iterable[Task]:
    """Tasks of a results file; intervals from its standard errors."""
    found = results.get("results") if isinstance(results, dict) else None
    if not isinstance(found, dict):
        raise UserError(f"{path}: has no 'results'; give the results_*.json of lm-eval")
    for task, numbers in found.items():
        for key, value in numbers.items():
            metric, _, chosen = key.partition(",")
            if metric in _METRICS and isinstance(value, int | float):
                error = numbers.get(f"{metric}_stderr,{chosen}")
                spread = 1.96 * 100 * error if isinstance(error, int | float) else None
                bounds = None if spread is None else (max(0.0, 100 * value - spread), min(100.0, 100 * value + spread))
                count = results.get("n-samples", {}).get(task, {}).get("effective")
                yield Task(task, metric, 100 * value, bounds, count, {}, _engine(results))
                break


def _engine(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a results file says of how it was measured."""
    config: Any = results.get("config") or {}
    packages = {"lm-eval": "lm_eval_version", "transformers": "transformers_version"}
    return {
        "engine": config.get("model"),
        "batch_size": config.get("batch_size"),
        "precision": config.get("model_dtype"),
        "versions": {name: results[key] for name, key in packages.items() if results.get(key)},
    }


def samples(rows: Iterable[Row], date: str) -> Iterator[tuple[str, str]]:
    """Rows of GENERATIONS that were graded as sample files: path and content, in no order.

    MODEL/SETTING/samples_TASK_DATE.jsonl for every benchmark or domain, so that `read` takes the folder of one setting.
    Names that would be the same as paths are numbered (`a_b`, `a_b-2`). A question has the same doc_id in all files of
    its task. `date` is as the harness writes it (2026-11-24T03-00-00).
    """
    files: dict[tuple[str, str, str], list[Row]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["correct"] is not None:
            task = row["domain"] or "questions"
            ids = numbers.setdefault(task, {})
            ids.setdefault(row["question_id"], len(ids))
            files.setdefault((row["model"], row["setting"], task), []).append(row)
    models = _file_names((model for model, _, _ in files), r"[^\w.-]+")
    settings = _file_names((setting for _, setting, _ in files), r"[^\w.-]+")
    tasks = _file_names((task for _, _, task in files), r"\W+")
    for (model, setting, task), found in files.items():
        lines = (json.dumps(_sample(row, numbers[task][row["question_id"]]), ensure_ascii=False) for row in found)
        path = f"{models[model]}/{settings[setting]}/samples_{tasks[task]}_{date}.jsonl"
        yield path, "".join(f"{line}\n" for line in lines)


def _file_names(names: Iterable[str], not_in_paths: str) -> dict[str, str]:
    """A file name of its own for each of `names`, in their order; `not_in_paths`: pattern of what becomes `_`."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name not in found:
            plain = re.sub(not_in_paths, "_", name)
            numbered = (f"{plain}-{number}" for number in itertools.count(2))
            found[name] = next(candidate for candidate in itertools.chain([plain], numbered) if candidate not in taken)
            taken.add(found[name])
    return found


def _sample(row: Row, doc_id: int) -> dict[str, Any]:
    doc = {"question": row["question"], "answer": row["answer"]}
    request = {"temperature": 0.0 if row["seed"] is None else None, "max_thinking_tokens": row["max_thinking_tokens"]}
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": row["answer"],
        "arguments": {"gen_args_0": {"arg_0": row["question"], "arg_1": request}},
        "resps": [[f"{row['thinking']}\n{row['content']}"]],
        "filtered_resps": [row["content"]],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(row["question"]),
        "target_hash": _hash(str(row["answer"])),
        "exact_match": float(row["correct"]),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
