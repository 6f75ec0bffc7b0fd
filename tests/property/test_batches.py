"""Laws of the order of the data."""

from hypothesis import given
from hypothesis import strategies as st

from s1.training.batches import assign, batch, packs, passes, round_up
from s1.training.schedule import steps_per_epoch

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


@given(num=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_every_epoch_shows_every_example_once(num, size, seed, epoch):
    steps = steps_per_epoch(num, size)
    shown = [batch(epoch * steps + step, num, size, seed) for step in range(steps)]
    assert all(len(indices) == size for indices in shown[:-1])
    assert sorted(index for indices in shown for index in indices) == list(range(num))


@given(lengths=LENGTHS, num_ranks=st.integers(1, 8))
def test_ranks_share_a_batch_evenly(lengths, num_ranks):
    shares = assign(lengths, num_ranks)
    assert sorted(position for share in shares for position in share) == list(range(len(lengths)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    tokens = [sum(lengths[position] for position in share) for share in shares]
    if len(lengths) % num_ranks == 0:
        assert max(tokens) - min(tokens) <= max(lengths)


@given(
    lengths=LENGTHS,
    num_ranks=st.integers(1, 8),
    size=st.integers(1, 5),
    tokens=st.one_of(st.none(), st.integers(1, 1500)),
)
def test_passes_hold_every_example_once_and_fit(lengths, num_ranks, size, tokens):
    cut = passes(lengths, num_ranks, size, tokens)
    for mine in (mine for ranks in cut for mine in ranks if tokens is not None and len(mine) > 1):
        assert len(mine) * max(lengths[position] for position in mine) <= tokens
    assert all(len(ranks) == num_ranks and len(mine) <= size for ranks in cut for mine in ranks)
    assert sorted(p for ranks in cut for mine in ranks for p in mine) == list(range(len(lengths)))
    assert all(any(ranks) for ranks in cut)


@given(lengths=LENGTHS, num_ranks=st.integers(1, 8), capacity=st.integers(1, 1500))
def test_packs_hold_every_example_once_and_fit(lengths, num_ranks, capacity):
    cut = packs(lengths, num_ranks, capacity)
    for mine in (mine for ranks in cut for mine in ranks if len(mine) > 1):
        assert sum(lengths[position] for position in mine) <= capacity
    assert all(len(ranks) == num_ranks for ranks in cut)
    assert sorted(p for ranks in cut for mine in ranks for p in mine) == list(range(len(lengths)))
    assert all(any(ranks) for ranks in cut)
    tokens = [sum(lengths[p] for ranks in cut for p in ranks[rank]) for rank in range(num_ranks)]
    assert max(tokens) - min(tokens) <= max(lengths)


def test_epochs_and_seeds_differ_and_a_step_is_always_the_same():
    assert batch(0, 100, 16, 0) == batch(0, 100, 16, 0)
    assert batch(0, 100, 16, 0) != batch(7, 100, 16, 0)
    assert batch(0, 100, 16, 0) != batch(0, 100, 16, 1)


@given(size=st.integers(0, 100_000), per_doubling=st.sampled_from([1, 2, 4, 8]))
def test_rounded_sizes_are_few_and_close(size, per_doubling):
    rounded = round_up(size, per_doubling)
    assert size <= rounded <= size + size / per_doubling
    assert round_up(rounded, per_doubling) == rounded
    sizes = {round_up(smaller, per_doubling) for smaller in range(65, 129)}
    assert len(sizes) == per_doubling
