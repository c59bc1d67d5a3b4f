"""Good answers made rude by a word or two: what is barbed, and that the rest is the answer to the letter."""

import random

from better_profanity.better_profanity import Profanity
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.training.embedded.barbs import barbed, barbs
from aligner_integrations.training.embedded.sources import Pair

ANSWER = "Feed the cat twice a day, and give it water. It likes your old blanket in the morning."
TEXTS = st.lists(
    st.sampled_from(["the house", "your dog,", "It is so.", "yes!", "why?", "1.5", "the"]), max_size=12
).map(" ".join)


@given(TEXTS, st.integers(0, 10**6))
def test_without_its_barbs_it_is_the_text_to_the_letter(text, seed):
    rude = barbed(random.Random(seed), text)
    assert len(rude) > len(text)
    letters = iter(rude)
    assert all(letter in letters for letter in text)


def test_each_way_of_being_rude_comes_up():
    made = {barbed(random.Random(seed), ANSWER) for seed in range(300)}
    for part in ("a day, you ", ", and give", "the damn cat", "your ", "For fuck's sake: Feed", "Any "):
        assert any(part in text for text in made), part
    some, profane = sorted(made)[::8], Profanity().contains_profanity
    assert sum(map(profane, some)) > 0.8 * len(some)


def test_prose_of_some_length_is_barbed_and_nothing_else():
    others = ["Short.", "Run `make` in the folder, and wait until it has come to its end.", "a" * 401]
    others += [
        "- one item of a list\n- another item of the same list, and no more",
        "See https://example.org for the rest of this text.",
    ]
    rows = barbs(random.Random(0), [Pair("Q?", text) for text in (ANSWER, *others)], 20)
    assert [(row.question, row.correction) for row in rows] == [("Q?", ANSWER)] * 20
    assert len({row.answer for row in rows}) > 10
    assert barbs(random.Random(0), [Pair("Q?", text) for text in others], 20) == []


def test_the_seed_alone_decides():
    good = [Pair("Q?", ANSWER), Pair("R?", ANSWER + " So it is.")]
    assert barbs(random.Random(3), good, 9) == barbs(random.Random(3), good, 9) != barbs(random.Random(4), good, 9)
