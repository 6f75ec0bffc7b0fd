from s1.curation.decontaminate import touched

BOILERPLATE = "where m and n are relatively prime positive integers find m plus n"
TEST = f"A fair coin is tossed until two heads come up in a row the chance is m over n {BOILERPLATE}"


def test_boilerplate_touches_and_covers_little_a_near_copy_covers_most():
    other = f"Three frogs sit around a pond and jump at random for an hour they meet with chance m over n {BOILERPLATE}"
    copy = TEST.replace("A fair coin", "One fair coin").replace("tossed until", "tossed again until")
    assert touched([other, copy], [TEST], coverage=0.0).tolist() == [0, 0]
    assert touched([other, copy], [TEST], coverage=0.8).tolist() == [-1, 0]


def test_the_test_question_that_is_covered_best_counts():
    part = " ".join(TEST.split()[:10])
    tests = [part + " and then something else happens that nobody had seen before", TEST]
    assert touched([TEST], tests).tolist() == [1]
    # A test question that stands within a longer text is covered as a whole.
    assert touched(["Once upon a time. " * 20 + TEST], [TEST], coverage=1.0).tolist() == [0]
