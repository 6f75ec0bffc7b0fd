"""Whatever a file holds: its records, or one line that names the file. Never anything else."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s1.errors import UserError
from s1.sources.mapping import Fields, to_question
from s1.sources.records import SUFFIXES, read

ROWS = [{"question": f"What is {n}?\n", "answer": n, "options": ["a", None]} for n in range(3)]
TEXTS = st.text('{}[]":,\\ \n\r\t\x00aé\u2028"', max_size=40).map(str.encode)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "answer", "x"]), inner),
    max_leaves=6,
)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def test_a_value_that_is_nested_too_deeply_is_named_with_its_row(tmp_path):
    deep = "[" * 700 + "1" + "]" * 700
    with pytest.raises(UserError, match=r"row 1: .*nested too deeply"):
        path = tmp_path / "a.jsonl"
        path.write_text(f'{{"question": {deep}}}')
        for record in read(str(path)):
            to_question(record, Fields(), "files:x")


VALID = {
    ".jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    ".json": json.dumps(ROWS).encode(),
    ".csv": b'question,answer\n"What\n is 1?",1\nWhat is 2?,2\n',
    ".parquet": parquet(),
}


def outcome(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        for record in read(str(path)):
            to_question(record, Fields(), "files:x")
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b'"\n"\n\x00')
@given(content=st.binary(max_size=60) | TEXTS | NESTED.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(tmp_path, suffix, packed, content):
    outcome(tmp_path / f"a{suffix}{packed}", gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_good_file_with_a_bad_place(tmp_path, suffix, packed, data):
    content = VALID[suffix]
    content = gzip.compress(content) if packed else content
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = data.draw(st.sampled_from([content[:at], content[:at] + b"\xff" + content[at + 1 :], content + b"\x00"]))
    outcome(tmp_path / f"a{suffix}{packed}", damaged)
