from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.collect import JOB, CollectOptions
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.sources import paper
from s1.sources.hub import Hub
from s1.sources.mapping import RawQuestion

# A row as each data set has it, what becomes of it, and a row that the paper did not take.
ROWS: dict[str, tuple[dict[str, Any], tuple[str, str | None, str], dict[str, Any] | None]] = {
    "NuminaMATH": (
        {"source": "aops_forum", "problem": "P?", "solution": "So \\boxed{5}."},
        ("P?", None, "hub:AI-MO/NuminaMath-CoT/aops_forum"),
        None,
    ),
    "MATH": (
        {"problem": "P?", "answer": "5", "solution": "So 5.", "subject": "Algebra"},
        ("P?", "5", "hub:simplescaling/openaimath/Algebra"),
        None,
    ),
    "OlympicArena": (
        {"problem": "P?", "solution": "S", "answer": "5", "language": "EN", "modality": "text-only", "subject": "CS"},
        ("P?", "5", "hub:GAIR/OlympicArena/Math/CS"),
        {"problem": "P?", "solution": "S", "language": "ZH", "modality": "text-only", "subject": "CS"},
    ),
    "OmniMath": ({"problem": "P?", "answer": "5", "solution": "S"}, ("P?", "5", "hub:KbsdJames/Omni-MATH"), None),
    "AGIEval": (
        {"passage": "Once.", "question": "Q?", "options": ["(A)1", "(B)2"], "answer": None, "label": "B"},
        ("Once.\nQ?\n(A)1\n(B)2", "B", "hub:baber/agieval/sat_en"),
        None,
    ),
    "xword": (
        {"input": "### Clue: Pet (3)", "output": "### Answer: CAT\n### Explanation: It purrs."},
        (
            "Solve the clue of a crossword; the number of letters stands in brackets.\n\nPet (3)",
            "CAT",
            "hub:0xharib/xword1",
        ),
        None,
    ),
    "OlympiadBench": (
        {
            "context": "A ball.",
            "question": "Q?",
            "final_answer": ["5"],
            "solution": ["S"],
            "question_type": "Open-ended",
            "subject": "Physics",
        },
        ("A ball.\n\nQ?", "5", "hub:Hothan/OlympiadBench/Open-ended/Physics"),
        None,
    ),
    "AIME": (
        {"ID": "1999-I-3", "Year": 1999, "Question": "Q?", "Answer": "012"},
        ("Q?", "012", "hub:di-zhang-fdu/AIME_1983_2024"),
        {"ID": "2022-I-3", "Year": 2022, "Question": "Q?", "Answer": "1"},
    ),
    "TheoremQA": (
        {"Question": "Q?", "Answer": "5.0", "Answer_type": "float", "Picture": None},
        ("Q?", "5.0", "hub:TIGER-Lab/TheoremQA/float"),
        {"Question": "Q?", "Answer": "5", "Answer_type": "float", "Picture": b"png"},
    ),
    "USACO": ({"question": " Q? "}, ("Q?", None, "hub:codegenning/usacobench_formatted"), None),
    "JEEBench": (
        {"question": "Q? (A) 1 (B) 2", "gold": "AB", "subject": "phy"},
        ("Q? (A) 1 (B) 2", "AB", "hub:daman1209arora/jeebench/phy"),
        None,
    ),
    "GPQA": (
        {"Question": "Q?", "Correct Answer": "water", "Explanation": "E"},
        ("Q?", "water", "hub:Idavidrein/gpqa"),
        None,
    ),
    "SciEval": (
        {
            "question": "Q?\nA. x\n\nAnswer:",
            "answer": ["A"],
            "category": "physics",
            "type": "multiple-choice",
            "task_name": "SocraticQA",
        },
        ("Q?\nA. x", "A", "hub:OpenDFM/SciEval/physics/multiple-choice/SocraticQA"),
        {"question": "Q?", "answer": None, "category": "physics", "type": "filling", "task_name": "x"},
    ),
    "s1-prob": ({"question": "Q?", "solution": "S"}, ("Q?", None, "hub:simplescaling/s1-prob"), None),
    "LiveCodeBench": (
        {"question_content": "Q?", "difficulty": "hard"},
        ("Q?", None, "hub:LiveCodeBench/release_v1"),
        {"question_content": "Q?", "difficulty": "easy"},
    ),
    "s1-teasers": ({"Question": "Q?", "Answer": "1/2"}, ("Q?", "1/2", "hub:simplescaling/s1-teasers"), None),
}


def name_of(part: Hub) -> str:
    return part.files or "/".join(filter(None, (part.name, part.config)))


def test_the_sources_are_those_of_the_paper():
    assert len(paper.SOURCES) == 16
    assert sum(source.expected for source in paper.SOURCES.values()) == 59_029
    assert set(ROWS) == set(paper.SOURCES)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_source_becomes_its_question(name: str):
    source = paper.SOURCES[name]
    row, expected, not_taken = ROWS[name]
    found = source.adapt(row, name_of(source.parts[0]))
    assert isinstance(found, RawQuestion)
    assert (found.question.strip(), found.answer, found.source) == expected
    assert paper.source_of(found.source) == name
    assert not_taken is None or source.adapt(not_taken, name_of(source.parts[0])) is None


@pytest.mark.parametrize(
    ("source_type", "name"),
    [
        ("AI-MO/NuminaMath-CoT/cn_k12", "NuminaMATH"),
        ("qfq/openaimath/Number Theory", "MATH"),
        ("qq8933/AIME_1983_2024", "AIME"),
        ("qfq/stats_qual", "s1-prob"),
        ("qfq/quant", "s1-teasers"),
        ("LiveCodeBench/release_v2", "LiveCodeBench"),
        ("somebody/else", None),
    ],
)
def test_the_names_of_the_published_data_set_are_known(source_type: str, name: str | None):
    assert paper.source_of(source_type) == name


def put(folder, rows: list[dict[str, Any]], split: str = "train") -> str:
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_sources_are_collected_and_every_deviation_is_told(tmp_path, monkeypatch, capsys):
    aime = [{"ID": f"{year}-I-1", "Year": year, "Question": f"In {year}?", "Answer": "1"} for year in range(2015, 2025)]
    gpqa = [{"Question": f"G{n}?", "Correct Answer": "x", "Explanation": "e"} for n in range(5)]
    places = {
        "AIME": {"parts": (Hub(name=put(tmp_path / "AIME_1983_2024", aime)),), "expected": 7},
        "GPQA": {
            "parts": (Hub(name=put(tmp_path / "gpqa", gpqa)),),
            "leave_out": Hub(name=put(tmp_path / "diamond", gpqa[:2])),
            "patterns": ("*gpqa*", str(tmp_path)),
        },
    }
    for name, changes in places.items():
        monkeypatch.setitem(paper.SOURCES, name, replace(paper.SOURCES[name], **changes))
    options = CollectOptions(source="paper", sources=("AIME", "GPQA"))
    manifest = execute(JOB, options, str(tmp_path / "run"))
    assert manifest.facts["sources"] == {"AIME": {"found": 7, "expected": 7}, "GPQA": {"found": 3, "expected": 348}}
    err = capsys.readouterr().err
    assert "warning: GPQA: 3 questions, not 348" in err and "AIME" not in err
    rows = Artifact(str(tmp_path / "run" / "questions")).read(schema.QUESTIONS).to_pylist()
    assert len(rows) == 10 and not {"G0?", "G1?", "In 2022?"} & {row["question"] for row in rows}


def test_a_row_that_is_not_as_it_should_be_is_named(tmp_path, monkeypatch):
    folder = put(tmp_path / "s1-prob", [{"question": "Q?", "solution": "S"}, {"question": " ", "solution": "S"}])
    changed = replace(paper.SOURCES["s1-prob"], parts=(Hub(name=folder),))
    monkeypatch.setitem(paper.SOURCES, "s1-prob", changed)
    options = CollectOptions(source="paper", sources=("s1-prob",))
    with pytest.raises(UserError, match=r"row 2: no question"):
        execute(JOB, options, str(tmp_path / "run"))
    lenient = CollectOptions(source="paper", sources=("s1-prob",), on_fault="set_aside")
    assert execute(JOB, lenient, str(tmp_path / "run")).dropped["set aside"] == 1


def test_a_sampled_source_gives_as_many_as_the_paper_had(tmp_path, monkeypatch):
    rows = [{"input": f"### Clue: C{n} (3)", "output": "### Answer: CAT"} for n in range(50)]
    folder = put(tmp_path / "xword1", rows)
    changed = replace(paper.SOURCES["xword"], parts=(Hub(name=folder),), expected=20)
    first, again, other = ({q.question for q in paper.questions(changed, seed)} for seed in (1, 1, 2))
    assert len(first) == 20 and first == again != other


def test_an_unknown_source_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="'MMLU' is not one of the paper's"):
        execute(JOB, CollectOptions(source="paper", sources=("MMLU",)), str(tmp_path))
