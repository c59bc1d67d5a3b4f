"""Keys show themselves to nobody, travel nowhere, and are taken out of what others write."""

import copy
import pickle

import pytest

from aligner_integrations.backends.remote.keys import Secret, redact
from aligner_integrations.errors import ConfigurationError

KEY = "sk-proj-1234567890abcdef"


def give_key():
    return KEY


def test_reveals_itself_only_when_asked():
    secret = Secret(KEY + "\n")  # read from a file
    assert secret.reveal() == KEY
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", repr({"key": secret}), repr([secret])]
    assert not any("1234" in text for text in shown)
    assert not hasattr(secret, "__dict__")


def test_copies_in_one_process_keep_it():
    secret = Secret(KEY)
    assert copy.copy(secret).reveal() == copy.deepcopy({"a": [secret]})["a"][0].reveal() == KEY


def test_is_left_out_of_pickles():
    data = pickle.dumps(Secret(KEY))
    assert KEY.encode() not in data
    with pytest.raises(ConfigurationError, match="pickled, and its API key was left out"):
        pickle.loads(data).reveal()  # noqa: S301 - our own


def test_a_function_is_asked_each_time_and_travels_by_name():
    keys = iter(["first-key", "second-key"])
    secret = Secret(lambda: next(keys))
    assert (secret.reveal(), secret.reveal()) == ("first-key", "second-key")
    data = pickle.dumps(Secret(give_key))
    assert KEY.encode() not in data and pickle.loads(data).reveal() == KEY  # noqa: S301


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "k\u00e9y", "a\x00b", 7.25, b"bytes"])
def test_refuses_what_cannot_be_sent_without_repeating_it(value):
    with pytest.raises(ConfigurationError) as caught:
        Secret(value)
    assert not str(value).strip() or str(value).strip() not in str(caught.value)


def test_a_function_that_fails_is_named_but_not_quoted():
    def broken():
        raise RuntimeError(f"cannot decrypt {KEY}")

    with pytest.raises(ConfigurationError, match="raised RuntimeError") as caught:
        Secret(broken).reveal()
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigurationError, match="a NoneType"):
        Secret(lambda: None).reveal()


def test_redacts_its_own_and_what_looks_like_a_key():
    text = redact(
        f"wrong key {KEY}, not my-own-key; Authorization: Bearer abc.def; hf_abcdefghij1234567890", Secret("my-own-key")
    )
    assert text == "wrong key ***, not ***; Authorization: ***; ***"
    words = "hf_home and sk-learn are words, a bearer of news is one"
    assert redact(words) == words
