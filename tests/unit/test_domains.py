import numpy as np
import pytest

from s1.curation import domains
from s1.curation.subjects import SUBJECTS, descriptions, label


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("11", "11"),
        ("**11**", "11"),
        ("11-XX", "11"),
        ("05: Combinatorics", "05"),
        ("It has to do with 17 primes.\nCode: 11", "11"),
        ("Number theory", "11"),
        ("51 or 52", None),
        ("51 or 52?\n\n51", "51"),
        ("99", None),
        ("3.11", None),
        ("2011", None),
        ("", None),
    ],
)
def test_a_code_is_read_from_what_a_model_replies(reply: str, expected: str | None):
    assert domains.code(reply) == expected


def test_the_prompt_lists_all_subjects():
    first, second = domains.prompt("How many primes?"), domains.prompt("How many primes?", 2)
    assert all(code in first for code in SUBJECTS)
    assert second.startswith(first) and second != first
    assert len(domains.prompt("x" * 10**6)) < 20_000


def test_a_question_gets_the_most_similar_subject():
    subjects = np.eye(len(SUBJECTS), dtype=np.float32)
    codes = list(SUBJECTS)
    points = subjects[[3, 0, 3]] + 0.1
    assert domains.nearest_subjects(points, subjects) == [label(codes[3]), label(codes[0]), label(codes[3])]
    assert len(descriptions()) == len(SUBJECTS)


def test_clusters_are_labels_that_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    sizes = [200, 100, 60]
    centers = 5 * np.eye(3, 8)
    points = np.concatenate([c + 0.1 * rng.normal(size=(n, 8)) for c, n in zip(centers, sizes, strict=True)])
    points = points.astype(np.float32)
    labels = domains.clusters(points, 3, seed=1)
    assert [labels.count(f"cluster {n:03d}") for n in range(3)] == sizes
    order = rng.permutation(len(points))
    assert domains.clusters(points[order], 3, seed=1) == [labels[row] for row in order]
    assert set(domains.clusters(points[:5], 3, seed=1)) == {"cluster 000"}
