import numpy as np
import pytest

from s1.curation import coverage, facility, farthest
from s1.curation.diversity import METHODS, select
from s1.errors import UserError


def cloud(num_rows: int, dimensions: int = 16, num_clusters: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num_clusters, dimensions))
    points = centers[rng.integers(num_clusters, size=num_rows)] + 0.4 * rng.normal(size=(num_rows, dimensions))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def value(points: np.ndarray, picks: np.ndarray) -> float:
    """Facility location: mean similarity to the nearest pick."""
    return float(np.maximum(points @ points[picks].T, 0).max(axis=1).mean())


def plain_greedy(points: np.ndarray, size: int) -> list[int]:
    similar, best, picks = np.maximum(points @ points.T, 0), np.zeros(len(points)), []
    for _ in range(size):
        gains = np.maximum(similar - best, 0).sum(axis=1, dtype=np.float64)
        gains[picks] = -1
        picks.append(int(gains.argmax()))
        best = np.maximum(best, similar[picks[-1]])
    return picks


def farthest_first(points: np.ndarray, size: int, first: int) -> list[int]:
    picks = [first]
    gap = np.full(len(points), np.inf)
    while len(picks) < size:
        gap = np.minimum(gap, ((points - points[picks[-1]]) ** 2).sum(axis=1))
        gap[picks] = -1
        picks.append(int(gap.argmax()))
    return picks


def test_facility_location_is_greedy():
    points = cloud(400)
    picks = select(points, 30, "facility_location")
    assert value(points, picks) == pytest.approx(value(points, np.array(plain_greedy(points, 30))), rel=1e-4)


def test_facility_location_on_a_sample_is_as_good_as_on_all(monkeypatch: pytest.MonkeyPatch):
    points = cloud(3000, num_clusters=60)
    greedy = value(points, select(points, 50, "facility_location"))
    monkeypatch.setattr(facility, "SAMPLE_ROWS", 500)
    monkeypatch.setattr(facility, "TABLE_BYTES", 500 * 1000)
    picks = select(points, 50, "facility_location")
    assert len(set(picks.tolist())) == 50
    assert value(points, picks) >= 0.995 * greedy
    # In greedy order: a prefix is a good selection itself.
    assert value(points, picks[:10]) >= 0.9 * value(points, select(points, 10, "facility_location"))


def test_the_last_run_of_facility_location_sees_all_rows(monkeypatch: pytest.MonkeyPatch):
    points = cloud(4000, num_clusters=14)
    greedy = value(points, select(points, 70, "facility_location"))
    monkeypatch.setattr(facility, "SAMPLE_ROWS", 560)  # too few to tell which of many similar rows is the best
    monkeypatch.setattr(facility, "TABLE_BYTES", 560 * 4000)
    assert value(points, select(points, 70, "facility_location")) >= 0.999 * greedy


def test_a_byte_for_a_similarity_is_as_good_as_four(monkeypatch: pytest.MonkeyPatch):
    points = cloud(3000)
    exact = value(points, select(points, 40, "facility_location"))
    monkeypatch.setattr(facility, "TABLE_BYTES", 3000 * 3000)
    assert value(points, select(points, 40, "facility_location")) >= 0.999 * exact


def test_k_center_takes_the_farthest_row_each_time(monkeypatch: pytest.MonkeyPatch):
    points = cloud(700)
    picks = farthest.k_center(points, 60, first=3)
    assert picks.tolist() == farthest_first(points.astype(np.float64), 60, 3)
    monkeypatch.setattr(farthest, "FRONT_ROWS", 50)
    assert farthest.k_center(points, 60, first=3).tolist() == picks.tolist()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "longest"])
def test_a_domain_gives_no_more_rows_than_its_quota(method: str):
    points = cloud(600)
    domains = np.where(np.arange(600) < 500, "big", np.where(np.arange(600) < 580, "small", "other"))
    arguments = {"lengths": np.arange(600), "domains": domains}
    picks = select(points, 100, method, **arguments, quotas={"big": 30, "small": 20})
    counts = {name: int((domains[picks] == name).sum()) for name in ("big", "small", "other")}
    assert counts == {"big": 30, "small": 20, "other": 20}


def test_quotas_hold_where_candidates_are_a_sample(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(facility, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(facility, "TABLE_BYTES", 100 * 400)
    domains = np.array(["a", "b", "c"])[np.arange(900) % 3]
    picks = select(cloud(900), 40, "facility_location", domains=domains, quotas={"a": 5})
    assert (domains[picks] == "a").sum() <= 5 and len(set(picks.tolist())) == 40


def test_the_last_picks_of_algorithm_1_can_follow_a_mix_of_domains():
    points = cloud(2000)
    domains = np.array(["a", "b", "c", "d"])[np.arange(2000) % 4]
    picks = select(
        points,
        400,
        "s1",
        lengths=np.arange(2000),
        domains=domains,
        benchmark={"c": 3, "d": 1, "not here": 9},
        benchmark_picks=200,
    )
    first, last = domains[picks[:200]], domains[picks[200:]]
    assert all(35 <= (first == name).sum() <= 65 for name in "abcd")
    assert set(last) == {"c", "d"} and 130 <= (last == "c").sum() <= 170
    # A mix of domains that are not here says nothing: the draws are uniform again.
    again = select(points, 400, "s1", lengths=np.arange(2000), domains=domains, benchmark_picks=200)
    assert set(domains[again[200:]]) == set("abcd")


def test_dpp_takes_different_rows_before_copies():
    points = cloud(40, seed=3)
    picks = select(np.concatenate([points, points, points]), 40, "dpp")
    assert len({int(row) % 40 for row in picks}) == 40


def test_clusters_are_served_alike():
    rng = np.random.default_rng(1)
    centers = 10 * np.eye(4, 8)
    sizes = [300, 60, 20, 20]
    points = np.concatenate([center + 0.1 * rng.normal(size=(n, 8)) for center, n in zip(centers, sizes, strict=True)])
    labels = np.repeat(np.arange(4), sizes)
    picks = select(points, 4, "cluster")
    assert sorted(labels[picks].tolist()) == [0, 1, 2, 3]


def test_algorithm_1_draws_domains_uniformly_and_prefers_long_traces():
    num_rows = 3000
    points = cloud(num_rows)
    lengths = np.random.default_rng(2).permutation(num_rows)
    domains = np.where(np.arange(num_rows) < 2700, "big", "small")
    picks = select(points, 200, "s1", lengths=lengths, domains=domains)
    share = (domains[picks] == "small").mean()
    assert 0.4 < share < 0.6
    ranks = {name: np.argsort(-lengths[domains == name]) for name in ("big", "small")}
    longest_of_big = set(np.flatnonzero(domains == "big")[ranks["big"][:130]].tolist())
    big_picks = [row for row in picks.tolist() if domains[row] == "big"]
    assert len(longest_of_big & set(big_picks)) / len(big_picks) > 0.9


def test_algorithm_1_takes_the_best_rows_first():
    quality = np.zeros(50)
    quality[[4, 40]] = 1
    picks = select(cloud(50), 10, "s1", lengths=np.arange(50), quality=quality)
    assert picks[:2].tolist() == [40, 4]


def test_longest_and_random():
    lengths = np.array([3, 9, 1, 7])
    assert select(cloud(4), 3, "longest", lengths=lengths).tolist() == [1, 3, 0]
    points = cloud(500)
    assert select(points, 100, "random", seed=1).tolist() != select(points, 100, "random", seed=2).tolist()
    heavy = np.where(np.arange(500) < 50, 1.0, 0.0)
    assert max(select(points, 50, "random", quality=heavy)) < 50


@pytest.mark.parametrize("method", METHODS)
def test_more_than_there_is_gives_all(method: str):
    assert sorted(select(cloud(7), 99, method, lengths=np.arange(7)).tolist()) == list(range(7))
    assert select(np.zeros((0, 4)), 5, method, lengths=[]).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "best"}, "methods are s1, k_center"),
        ({"size": -1}, "must not be negative"),
        ({"method": "longest"}, "needs lengths"),
        ({"lengths": [1, 2]}, "one value for each of the 3 rows"),
        ({"domains": ["a"]}, "one for each of the 3 rows"),
        ({"quotas": {"a": 1}}, "need domains"),
        ({"quotas": {"a": 0}, "domains": ["a", "a", "b"]}, "'a' may give 0 rows"),
        ({"quality": [1, 1, -1]}, "not negative"),
        ({"embeddings": [[0.0], [float("nan")], [1.0]]}, "row 1"),
        ({"embeddings": [[[0.0]]]}, "rows x dimensions"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(arguments: dict, says: str):
    with pytest.raises(UserError, match=says):
        select(**{"embeddings": np.eye(3), "size": 2, "method": "random", **arguments})


def test_near_duplicates_go_and_their_first_stays(monkeypatch: pytest.MonkeyPatch):
    points = cloud(300, num_clusters=300, dimensions=32)
    doubled = np.concatenate([points, points[:40] + 0.001, points[:5]])
    monkeypatch.setattr(coverage, "BLOCK_ROWS", 64)
    dropped = coverage.near_duplicates(doubled, 0.98)
    assert not dropped[:300].any()
    assert dropped[300:].all()
