"""A run's questions and the options of an evaluation that asks a given endpoint."""

from pathlib import Path

from chat_server import Server

from jobs.evaluation_options import EvaluateOptions
from s1 import schema
from s1.artifacts import Artifact, Manifest


def write_questions(folder: Path) -> Path:
    """QUESTIONS in the run folder `folder`: 4 to train on, 16 to ask, 8 of these of the domain sums."""
    rows = [
        {
            "question_id": f"{number:02d}",
            "question": str(number),
            "answer": str(number if number % 2 else -1),  # the server repeats the question: odd ones come out right
            "source": "files:x",
            "domain": "sums" if number < 12 else "other",
            "split": "train" if number < 4 else "test",
        }
        for number in range(20)
    ]
    with Artifact(str(folder / "questions")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.QUESTIONS))
        staging.commit(Manifest("collect", "c", {}, {}, "0", 20, 20))
    return folder


def options(server: Server, **more: object) -> EvaluateOptions:
    values = {"endpoint": server.endpoint.base_url, "budgets": (4, 8), "max_answer_tokens": 16, **more}
    return EvaluateOptions.model_validate(values)


def table(run_dir: Path) -> list[dict[str, object]]:
    return Artifact(str(run_dir / "generations")).read(schema.GENERATIONS).to_pylist()
