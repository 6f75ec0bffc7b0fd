"""Arrow schema of every table that one stage hands to the next, with versions.

`question_id` is the key throughout. Tokens are counted with the student's tokenizer unless a column says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from s1.errors import UserError

STRING = pa.string()
INT = pa.int64()
FLOAT = pa.float64()
BOOL = pa.bool_()


def _schema(name: str, version: int, *fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(fields, metadata={"table": name, "version": str(version)})


_QUESTION = (
    ("question_id", STRING),
    ("question", STRING),
    ("answer", STRING),  # reference answer; null when the source has none
    ("source", STRING),  # gym, files:<name>, hub:<name>, <module>:<function>
    ("domain", STRING),  # task family, subject or code; null when unknown
)

QUESTIONS = _schema(
    "QUESTIONS",
    1,
    *_QUESTION,
    ("split", STRING),  # train | test: test questions are kept for the evaluation and never shown to a teacher
    ("solution", STRING),  # worked solution that came with the question, or null
    ("metadata", STRING),  # JSON: what the source's own verifier needs
)

_TRACE = (
    ("teacher", STRING),
    ("trace_kind", STRING),  # raw | summary | worked | recorded
    ("thinking", STRING),
    ("attempt", STRING),  # the teacher's answer to the reader, after the thinking
    ("finish_reason", STRING),
)

TRACES = _schema(
    "TRACES",
    2,
    *_QUESTION,
    ("metadata", STRING),
    *_TRACE,
    ("model_version", STRING),  # which model answered, as the teacher's service says; empty when it does not
    ("input_tokens", INT),  # as the teacher's service counts; null when it does not
    ("output_tokens", INT),
    ("cost_usd", FLOAT),
)

FEATURES = _schema(
    "FEATURES",
    3,
    *_QUESTION,
    ("metadata", STRING),
    *_TRACE,
    ("quality_issues", pa.list_(STRING)),  # empty: nothing wrong
    ("question_touches", STRING),  # test question that the question shares words with: file:row; null for none
    ("trace_touches", STRING),  # the same for thinking and attempt
    ("trace_correct", BOOL),  # the teacher's attempt agrees with the reference; null without a reference
    ("solver", STRING),
    ("solver_attempt", STRING),
    ("solver_correct", BOOL),  # null without a reference
    ("solver_attempts", INT),  # attempts of all solvers that have a verdict
    ("solver_solved", INT),  # and how many of them were right
    ("trace_tokens", INT),  # thinking and attempt
    ("thinking_tokens", INT),
    ("embedding", pa.list_(pa.float32())),  # unit length
)

SELECTION = _schema(
    "SELECTION",
    1,
    *_QUESTION,
    ("metadata", STRING),
    *_TRACE,
    ("trace_tokens", INT),
    ("pick_order", INT),  # 0 is the first pick
)

EXAMPLES = _schema(
    "EXAMPLES",
    1,
    ("question_id", STRING),
    ("input_ids", pa.list_(pa.int32())),
    ("num_prompt_tokens", INT),  # the loss starts after them
)

GENERATIONS = _schema(
    "GENERATIONS",
    2,
    *_QUESTION,
    ("model", STRING),  # base | tuned | a served name
    ("method", STRING),  # budget_forcing | token_conditional | …: s1.evaluation.settings.Method
    ("setting", STRING),  # natural | max_16 | wait_1 | tokens_16 | …
    ("sample", INT),  # 0, 1, … when every question is asked several times
    ("seed", INT),  # null under greedy decoding
    ("max_thinking_tokens", INT),  # enforced; null: no cap
    ("num_ignore", INT),  # thinking ends to ignore
    ("asked_max_tokens", INT),  # thinking that a conditional method or a limit asks for; null: nothing
    ("asked_min_tokens", INT),
    ("thinking", STRING),
    ("content", STRING),
    ("correct", BOOL),
    ("thinking_tokens", INT),  # all tokens of the thinking, forced ones included
    ("forced_tokens", INT),  # tokens that the policy wrote, in the thinking and around its end
    ("answer_tokens", INT),
    ("ended_by", STRING),  # natural | budget | context | length | overflow (did not fit) | rejected (no try did)
    ("segments", STRING),  # JSON: [{text, forced}] in order
    ("latency_s", FLOAT),
    ("num_tries", INT),  # responses that were generated for this one
    ("total_tokens", INT),  # prompts and completions of all of them
    ("cost_usd", FLOAT),
)

TABLES = {
    schema.metadata[b"table"].decode(): schema
    for schema in (QUESTIONS, TRACES, FEATURES, SELECTION, EXAMPLES, GENERATIONS)
}


def table_name(schema: pa.Schema) -> str:
    return (schema.metadata or {}).get(b"table", b"?").decode()


def check(found: pa.Schema, expected: pa.Schema, path: str) -> None:
    """Raise UserError when `found`, read from `path`, is not the table that `expected` describes."""
    name = table_name(expected)
    metadata, wanted = found.metadata or {}, expected.metadata
    if metadata.get(b"table") != wanted[b"table"] or metadata.get(b"version") != wanted[b"version"]:
        met = f"{metadata.get(b'table', b'no table').decode()} version {metadata.get(b'version', b'?').decode()}"
        raise UserError(
            f"{path}: holds {met}, but {name} version {wanted[b'version'].decode()} is needed; run its job again"
        )
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            raise UserError(f"{path}: table {name} lacks column {field.name!r}; run its job again")
        if found.field(index).type != field.type:
            raise UserError(
                f"{path}: column {field.name!r} of {name} is {found.field(index).type}, must be {field.type}; "
                "run its job again"
            )


def check_keys(ids: Sequence[str], where: str) -> None:
    """Raise UserError when a question_id is twice in a table, whose place is `where`."""
    if len(set(ids)) < len(ids):
        key, times = Counter(ids).most_common(1)[0]
        raise UserError(f"{where}: question_id {key!r} is there {times} times; keep one row for each question")


def to_table(rows: Iterable[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`; a row with a key that the schema does not know is our mistake."""
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(schema.names)
    assert not unknown, f"rows of {table_name(schema)} have unknown columns {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)
