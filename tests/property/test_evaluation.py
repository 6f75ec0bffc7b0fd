"""Laws of the evaluation: what is asked, what is kept, what is counted."""

import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from s1 import schema
from s1.evaluation.questions import choose
from s1.evaluation.summary import summarise
from s1.journal import Journal

DOMAINS = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30)


@given(DOMAINS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_choice_is_fair_and_knows_no_order(domains: list[str | None], limit: int, shuffle: random.Random):
    rows = [{"question_id": f"{number:03d}", "domain": domain} for number, domain in enumerate(domains)]
    chosen = choose(rows, {"a", "b", None}, limit)
    mixed = list(rows)
    shuffle.shuffle(mixed)
    assert choose(mixed, {"a", "b", None}, limit) == chosen
    assert len(chosen.questions) + sum(chosen.dropped.values()) == len(rows)
    there, taken = Counter(domains), Counter(row["domain"] for row in chosen.questions)
    most = max(taken.values(), default=0)
    for domain in {"a", "b", None} & set(domains):
        assert taken[domain] >= min(there[domain], most - 1)
    assert taken["c"] == 0


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3), max_size=6), st.data())
def test_a_journal_that_was_cut_anywhere_gives_whole_rows_only(rows: list[dict[str, str]], data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        with Journal(folder) as journal:
            for row in rows:
                journal.add(row)
        (file,) = Path(folder).glob("*.jsonl")
        content = file.read_bytes()
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        kept = Journal(folder).rows
        assert kept == rows[: len(kept)]
        assert len(kept) == file.read_bytes().count(b"\n")


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60), st.booleans()), min_size=1, max_size=20))
def test_control_is_the_share_of_responses_within_their_own_budget(responses: list[tuple[int, int, bool]]):
    rows = [
        {
            "question_id": str(number),
            "model": "tuned",
            "setting": f"max_{budget}",
            "max_thinking_tokens": budget,
            "num_ignore": 0,
            "correct": correct,
            "thinking_tokens": tokens,
        }
        for number, (budget, tokens, correct) in enumerate(responses)
    ]
    numbers = summarise(schema.to_table(rows, schema.GENERATIONS), resamples=20)["tuned"]
    within = sum(tokens <= budget for budget, tokens, _ in responses)
    assert abs(numbers["control_pct"] - 100 * within / len(rows)) < 1e-3
    assert [point["budget"] for point in numbers["points"]] == sorted({budget for budget, _, _ in responses})
    assert sum(point["num_questions"] for point in numbers["points"]) == len(rows)
    assert numbers["performance_pct"] == max(point["accuracy_pct"] for point in numbers["points"])
