"""Programs on a vocabulary of ten, for the laws of budget forcing."""

from hypothesis import strategies as st

from s1.forcing.breaks import Breaks
from s1.forcing.policy import Program

# 0..4 words (2 ends a sentence), 5 ends a line, 6 and 7 make up delimiters, 8 opens the answer,
# 9 stops.
TEXTS = [" a", " b", ".", " Wait", " So:", "\n", "<", ">", "answer\n", "<end>"]
STOP, OPEN, NEWLINE, WAIT, PREFIX = 9, 8, 5, 3, 4
BREAKS = Breaks(lambda ids: "".join(TEXTS[id] for id in ids))
DELIMITERS = st.sampled_from([(6,), (6, 7), (6, 6, 7), (6, 7, 6)])
SCRIPTS = st.lists(st.sampled_from([0, 1, 2, 5, 6, 6, 7, 9]), max_size=60)


@st.composite
def programs(draw, delimiters=DELIMITERS):
    enable_thinking = draw(st.sampled_from([True, True, True, False]))
    cap = draw(st.none() | st.integers(0, 30)) if enable_thinking else None
    minimum = draw(st.integers(0, 20 if cap is None else cap)) if enable_thinking else 0
    return Program(
        delimiter=draw(delimiters),
        answer_open=(OPEN,),
        stop_ids=frozenset({STOP}),
        ignore=draw(st.sampled_from([((WAIT,),), ((WAIT, WAIT, 2),), ((WAIT,), (2, WAIT))])),
        newline=(NEWLINE,),
        before_end=draw(st.sampled_from([(), (1,)])),
        answer_prefix=draw(st.sampled_from([(), (PREFIX, PREFIX)])),
        max_thinking=cap,
        min_thinking=minimum,
        num_ignore=draw(st.integers(0, 4)) if enable_thinking else 0,
        max_answer=draw(st.none() | st.integers(1, 8)),
        room=draw(st.integers(1, 80)),
        cut_by="budget",
        room_by="context",
        breaks=BREAKS,
        grace=0 if cap is None else draw(st.integers(0, cap)),
        enable_thinking=enable_thinking,
    )
