import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s1.curation import facility, farthest
from s1.curation.diversity import METHODS, select


@st.composite
def pools(draw):
    """(embeddings, lengths, domains, size); with copies and rows of zeros among them."""
    num_rows, dimensions = draw(st.integers(1, 24)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num_rows, dimensions)).astype(np.float32)
    for row in range(1, num_rows):
        if draw(st.integers(0, 5)) == 0:
            points[row] = points[row - 1] * draw(st.sampled_from([0, 1]))
    lengths = rng.integers(1, 5, size=num_rows)
    domains = [str(code) for code in rng.integers(0, 3, size=num_rows)]
    return points, lengths, domains, draw(st.integers(0, 30))


methods = st.sampled_from(METHODS)


@given(pools(), methods, st.integers(0, 3), st.booleans())
def test_picks_are_different_rows_and_as_many_as_asked(pool, method, seed, weighted):
    points, lengths, domains, size = pool
    quality = lengths / 5 if weighted else None
    picks = select(points, size, method, lengths=lengths, domains=domains, quality=quality, seed=seed)
    assert picks.dtype == np.int64
    assert len(picks) == min(size, len(points))
    assert len(set(picks.tolist())) == len(picks)
    assert all(0 <= row < len(points) for row in picks)


def described(picks, points, lengths, domains):
    return [(points[row].tobytes(), int(lengths[row]), domains[row]) for row in picks]


@given(pools(), methods, st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_the_order_of_rows_does_not_matter(pool, method, seed, random):
    points, lengths, domains, size = pool
    order = list(range(len(points)))
    random.shuffle(order)
    turned = [points[order], lengths[order], [domains[row] for row in order]]
    picks = select(points, size, method, lengths=lengths, domains=domains, seed=seed)
    again = select(turned[0], size, method, lengths=turned[1], domains=turned[2], seed=seed)
    assert described(picks, points, lengths, domains) == described(again, *turned)


@given(pools(), methods)
def test_the_same_seed_gives_the_same_picks(pool, method):
    points, lengths, domains, size = pool
    first = select(points, size, method, lengths=lengths, domains=domains, seed=5)
    assert first.tolist() == select(points, size, method, lengths=lengths, domains=domains, seed=5).tolist()


@given(pools(), st.integers(1, 5), st.integers(1, 8), st.booleans(), st.booleans())
def test_k_center_on_shards_picks_what_one_machine_picks(pool, num_shards, front_rows, weighted, limited):
    points, lengths, domains, size = pool
    quality = lengths / 5 if weighted else None
    groups, most = np.array([int(name) for name in domains]), {0: 2, 1: 1} if limited else {}
    first, size = len(points) // 2, max(1, min(size, len(points)))
    alone = farthest.k_center(points, size, first, quality, groups, most)

    ranks = np.arange(len(points))
    cut = [np.flatnonzero(ranks * 7 % num_shards == at) for at in range(num_shards)]
    shards = [
        farthest.Shard(points[rows], rows, None if quality is None else quality[rows], groups[rows])
        for rows in cut
        if len(rows)
    ]
    grid = farthest.grid_of(max(shard.largest_norm() for shard in shards))
    found = next(answer for shard in shards if (answer := shard.point(first)) is not None)
    together = farthest.greedy(
        lambda picked: [shard.front(picked, grid, front_rows) for shard in shards], first, *found, size, grid, most
    )
    assert together.tolist() == alone.tolist()


@given(pools(), methods, st.integers(1, 4))
def test_quotas_hold_and_nothing_that_fits_is_left_out(pool, method, most):
    points, lengths, domains, size = pool
    quotas = {"0": most, "2": 1}
    picks = select(points, size, method, lengths=lengths, domains=domains, quotas=quotas)
    room = sum(min(domains.count(name), quotas.get(name, len(domains))) for name in set(domains))
    assert len(picks) == len(set(picks.tolist())) == min(size, room)
    assert all([domains[row] for row in picks].count(name) <= limit for name, limit in quotas.items())


@given(st.integers(1, 10**8), st.integers(1, 10**8))
@example(59_000, 10_000)
@example(23_170, 23_170)
def test_the_table_of_facility_location_is_bounded(num_rows, size):
    sampled = facility.num_sample_rows(num_rows, size)
    candidates = facility.num_candidates(num_rows, sampled, size)
    assert 0 < sampled * candidates <= facility.TABLE_BYTES
    assert candidates >= min(num_rows, size)
    if num_rows <= 8_192 or num_rows <= min(8 * size, 23_170):
        assert sampled == candidates == num_rows
