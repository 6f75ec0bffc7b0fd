import pickle

from s1.errors import UserError


def test_a_message_is_one_line_whatever_it_quotes():
    error = UserError("no field 'a\nb\x00\u2028' in é.csv")
    assert str(error) == "no field 'a\\nb\\x00\\u2028' in é.csv"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
