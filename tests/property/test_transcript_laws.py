"""Laws of what a reader gets, on both templates: the delimiter of think-tags is several tokens of this tokenizer."""

import asyncio

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s1.forcing import BudgetPolicy, compile_policy, segments
from s1.forcing.transcript import Transcript
from s1.template import STYLES

TEXTS = st.lists(
    st.lists(
        st.sampled_from([" so", "4", ".", "\n", "answer\n", "<", "</", "think", ">", "</think>", "END"]), max_size=8
    ),
    min_size=1,
    max_size=4,
).map(lambda texts: ["".join(text) for text in texts])


@st.composite
def policies(draw):
    cap = draw(st.none() | st.integers(0, 12))
    return BudgetPolicy(
        max_thinking_tokens=cap,
        min_thinking_tokens=draw(st.integers(0, 8 if cap is None else cap)),
        num_ignore=draw(st.integers(0, 2)),
        ignore_str=draw(st.sampled_from(["Wait", "</think>", "<|im_start|>"])),
        final_answer_prefix=draw(st.sampled_from(["", "Final Answer:", "</think>"])),
        max_answer_tokens=draw(st.none() | st.integers(1, 9)),
    )


@pytest.mark.parametrize("style", STYLES)
@given(policies(), TEXTS, st.integers(1, 4))
def test_a_reader_gets_what_the_template_reads_from_the_tokens(templates, style, policy, texts, chunk):
    template = templates[style]
    program = compile_policy(policy, template, prompt_tokens=1, context_tokens=120)
    words = [id for text in texts for id in (*template.plain(text), *template.thinking_end)]
    script = iter([*words, *template.end_of_turn])

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        said = []
        while len(said) < max_tokens and not (said and said[-1] in stop_ids):
            said.append(next(script, template.end_of_turn[0]))
        for start in range(0, len(said), chunk):
            yield said[start : start + chunk]

    async def collect():
        transcript = Transcript(template)
        deltas = []
        async for step in segments.run(program, [0], engine):
            deltas.append(transcript.add(step.tokens))
        deltas.append(transcript.finish())
        return transcript, deltas, step.state

    transcript, deltas, state = asyncio.run(collect())
    tokens = transcript.tokens
    assert (transcript.reasoning, transcript.content) == (
        "".join(delta.reasoning for delta in deltas),
        "".join(delta.content for delta in deltas),
    )
    assume(state.phase != "forcing" and not template.special_ids & {t.id for t in tokens if t.part == "answer"})
    read = template.parse([token.id for token in tokens])
    assert read.thinking_ended == (state.ended_by is not None)
    assert (read.thinking, read.attempt) == (transcript.reasoning, transcript.content)
