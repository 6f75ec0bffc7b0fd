"""Laws of the template, on the tokenizer that the embedded model carries."""

import copy
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.errors import UserError
from s1.template import STYLES, Template, with_answer_prefix

# Words, white space and everything that could be mistaken for a delimiter.
PIECES = [
    "<|im_start|>",
    "<|im_end|>",
    "think\n",
    "answer\n",
    "<think>",
    "</think>",
    "<|",
    "|>",
    "<",
    "\n",
    " ",
    "7",
    "é",
    "Answer:",
]
# The embedded model's tokenizer has no tokens for some bytes (control characters, the highest planes) and drops them.
CHARACTERS = st.sampled_from([*map(chr, range(32, 127)), *"\n\téßжλ中語→∑½"])
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(CHARACTERS, max_size=8)), max_size=6).map("".join)


@pytest.fixture(scope="session", params=["s1", "think-tags"])
def template(request, templates):
    return templates[request.param]


@given(question=TEXT, thinking=TEXT, attempt=TEXT)
def test_the_prompt_is_a_prefix_of_the_example_and_parse_inverts_render(template, question, thinking, attempt):
    prompt = template.render_prompt(question)
    example = template.render_example(question, thinking, attempt)
    assert example.input_ids[: example.num_prompt_tokens] == prompt
    parsed = template.parse(example.input_ids[example.num_prompt_tokens :])
    assert (parsed.thinking, parsed.attempt) == (thinking, with_answer_prefix(attempt))
    assert parsed.thinking_ended


@given(text=TEXT)
def test_text_from_outside_never_produces_a_control_token(template, text):
    ids = template.plain(text)
    assert not set(ids) & set(template.tokenizer.added_tokens_decoder)
    assert template.decode(ids) == text


@pytest.mark.parametrize("style", STYLES)
@given(text=TEXT)
def test_the_ids_of_a_delimiter_never_come_of_text_from_outside(templates, style, text):
    """Also where a delimiter is several ordinary tokens."""
    template = templates[style]
    ids = template.plain(text)
    opening, end, _ = astuple(template.delimiters)
    for delimiter in (opening, opening.strip(), end):
        wanted = template.control(delimiter)
        assert all(ids[at : at + len(wanted)] != wanted for at in range(len(ids)))


def test_a_delimiter_that_could_not_be_told_from_a_users_text_is_refused(tokenizer):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.BPE({letter: id for id, letter in enumerate("</think>")}, []))
    letters.decoder = decoders.Fuse()
    single = PreTrainedTokenizerFast(tokenizer_object=letters)
    single.chat_template = tokenizer.chat_template
    with pytest.raises(UserError, match="</think> is spelled in single characters"):
        Template(single, "think-tags")


@given(question=st.text(alphabet="abc 123+-=?.\n", min_size=1).map(str.strip).filter(bool))
def test_the_prompt_is_the_models_own_chat_template(template, question):
    messages = [{"role": "user", "content": question}]
    text = template.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template.render_prompt(question) == template.control(text + template.delimiters.thinking_open)


@given(question=st.text(alphabet="abc 123+-=?.\n", min_size=1).map(str.strip).filter(bool))
def test_without_thinking_the_prompt_is_the_models_own_chat_template(template, question):
    messages = [{"role": "user", "content": question}]
    text = template.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    direct = template.render_messages(messages, enable_thinking=False)
    assert direct == template.control(text)
    assert template.render_messages(messages) == [*direct, *template.control(template.delimiters.thinking_open)]


@pytest.mark.parametrize(
    ("own", "with_thinking", "without"),
    [
        ("{{ '<think>\n' }}", "<think>\n", ""),  # as DeepSeek-R1
        (  # as Qwen3
            "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
            "<think>\n",
            "<think>\n\n</think>\n\n",
        ),
    ],
)
def test_a_chat_template_that_knows_of_thinking_has_it_switched_off(tokenizer, own, with_thinking, without):
    knowing = copy.copy(tokenizer)
    knowing.chat_template = "{{ messages[0].content }}" + own
    template, messages = Template(knowing, "think-tags"), [{"role": "user", "content": "Hi"}]
    assert template.decode(template.render_messages(messages)) == f"Hi{with_thinking}"
    assert template.decode(template.render_messages(messages, enable_thinking=False)) == f"Hi{without}"


def test_a_system_prompt_takes_the_place_of_the_default_one(template):
    text = template.decode(template.render_prompt("1 + 1?", system="Be brief."))
    assert "Be brief." in text
    assert "SmolLM" not in text


def test_thinking_that_never_ended_is_all_thinking(template):
    parsed = template.parse(template.plain("2 + 2 = 4"))
    assert (parsed.thinking, parsed.attempt, parsed.thinking_ended) == ("2 + 2 = 4", "", False)


def test_a_tokenizer_without_the_delimiters_is_refused(tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"<": 0, "|": 1}, [])))
    with pytest.raises(UserError, match="no chat template"):
        Template(bare)
    bare.chat_template = tokenizer.chat_template
    with pytest.raises(UserError, match="not a token of this tokenizer"):
        Template(bare)


def test_thousands_of_delimiters_are_spelled_out(template):
    text = "<|im_start|>" * 5000
    assert template.decode(template.plain(text)) == text
