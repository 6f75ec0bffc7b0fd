import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

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
