"""Laws of stop strings: however an answer comes in pieces, it is shown up to the first of them, and no further."""

from hypothesis import given
from hypothesis import strategies as st

from s1.forcing.transcript import Span
from serve.stops import StopStrings

STRINGS = st.lists(st.text("ENDx\n", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(st.tuples(st.text("ENDx\n", min_size=1, max_size=4), st.booleans()), max_size=12)


def shown(strings, pieces):
    """The characters that are given out, each with whether it was forced."""
    stop = StopStrings(strings)
    spans = [span for text, forced in pieces for span in stop.pass_on([Span(text, forced, "answer")])]
    spans += stop.pass_on([], last=True)
    return [(character, span.forced) for span in spans for character in span.text], stop.found


@given(STRINGS, PIECES)
def test_an_answer_is_shown_up_to_the_first_stop_string(strings, pieces):
    whole = [(character, forced) for text, forced in pieces for character in text]
    text = "".join(character for character, _ in whole)
    # The end that comes first decides; of those that end at once, the one that begins first.
    ends = [at + len(string) for string in strings if (at := text.find(string)) >= 0]
    found, is_found = shown(strings, pieces)
    assert is_found == bool(ends)
    assert found == whole[: len(found)]
    if not ends:
        assert found == whole
    else:
        starts = [at for string in strings if (at := text.find(string)) >= 0]
        assert len(found) in starts and not any(string in text[: len(found)] for string in strings)


@given(STRINGS.filter(bool), PIECES)
def test_nothing_of_a_stop_string_is_shown_before_it_is_known_to_be_none(strings, pieces):
    stop, text, given_out = StopStrings(strings), "", ""
    for piece, forced in pieces:
        text += piece
        given_out += "".join(span.text for span in stop.pass_on([Span(piece, forced, "answer")]))
        if stop.found:
            return
        kept = text[len(given_out) :]
        assert text.startswith(given_out)
        assert not kept or any(string.startswith(kept) for string in strings)
        assert not any(text.endswith(string[:size]) for string in strings for size in range(len(kept) + 1, len(string)))


def test_a_stop_string_cuts_the_segments_as_it_cuts_the_content():
    stop = StopStrings(["END"])
    spans = [Span("so", False, "thinking"), Span("answer\n", True, "control"), Span("Final Answer: E", True, "answer")]
    assert stop.pass_on(spans) == (*spans[:2], Span("Final Answer: ", True, "answer"))
    assert stop.pass_on([Span("4 EN", False, "answer")]) == (Span("E", True, "answer"), Span("4 ", False, "answer"))
    assert stop.pass_on([Span("D junk", False, "answer")]) == () and stop.found
    assert stop.pass_on([Span(" more", False, "answer")]) == ()
