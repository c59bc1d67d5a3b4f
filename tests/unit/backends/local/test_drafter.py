"""What is guessed, and how long a guess pays. That guesses never change a text: tests/integration/local/test_speculative.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.local.drafter import Draft, Drafter, best_length

PROMPT = [90, 91, 92, 93]
ANSWER = list(range(10, 40))


def test_the_beginning_of_the_answer_is_the_first_guess_and_the_rest_goes_at_once():
    drafter = Drafter(PROMPT, ANSWER)
    assert drafter.propose(99).tokens == ANSWER[:16]
    drafter.take(ANSWER[:17], 16)
    assert drafter.propose(99).tokens == ANSWER[17:]
    assert Drafter(PROMPT, ANSWER).propose(3).tokens == [10, 11, 12]
    assert Drafter(PROMPT, []).propose(99).tokens == []


def test_what_was_right_goes_on():
    drafter = Drafter(PROMPT, ANSWER)
    drafter.propose(5)
    drafter.take([10, 11, 12, 13, 14, 15], 5)
    draft = drafter.propose(99)
    assert draft.tokens == ANSWER[6:]
    assert draft.first > 0.75


@pytest.mark.parametrize(
    ("wrote", "goes_on"),
    [
        ([10, 11, 15], ANSWER[6:]),  # three tokens left out
        ([10, 11, 77], ANSWER[3:]),  # one token replaced
        ([10, 11, 92], [93, 10, 11, 92]),  # copied from the prompt, and on into what was written
    ],
)
def test_after_a_mismatch(wrote, goes_on):
    drafter = Drafter(PROMPT, ANSWER)
    drafter.propose(8)
    drafter.take(wrote, 8)
    assert drafter.propose(99).tokens == goes_on


def test_the_place_reached_decides_between_equal_matches():
    answer = [1, 5, 2, 3, 4, 8, 9, 1, 5, 6, 7]
    drafter = Drafter(PROMPT, answer)
    drafter.propose(7)
    drafter.take([1, 5, 2, 3, 4, 8, 5], 7)  # 5 stands at 1 and at 8; the correction had come to 6
    assert drafter.propose(9).tokens == [6, 7]


def test_a_longer_match_wins():
    drafter = Drafter([50, 51, 52, 60, 0, 99, 52, 70], [])
    drafter.take([50], 0)
    drafter.take([51], 0)
    drafter.take([52], 0)
    assert drafter.propose(1).tokens == [60]


def test_a_guess_never_runs_from_the_answer_into_the_prompt():
    drafter = Drafter(PROMPT, ANSWER)
    drafter.propose(99)
    drafter.take([*ANSWER, 7], len(ANSWER))
    assert drafter.propose(99).tokens == []
    drafter.take([39], 0)  # the answer's last word again: nothing follows it there, but 7 did when it was written
    assert drafter.propose(99).tokens == [7, 39]


def test_a_text_that_goes_round_in_circles_is_drafted_beyond_its_end():
    drafter = Drafter(PROMPT, ANSWER)
    drafter.propose(8)
    drafter.take([61, 62, 63, 61], 8)
    assert drafter.propose(9).tokens == [62, 63, 61], "said once, it may go anywhere"
    drafter.take([62, 63, 61], 3)
    assert drafter.propose(8).tokens == [62, 63, 61, 62, 63, 61, 62, 63]
    drafter.take([62, 63, 61, 62, 63, 61, 62, 63, 61], 8)
    assert drafter.propose(7).tokens == [62, 63, 61, 62, 63, 61, 62]
    for _ in range(4):
        draft = drafter.propose(60)
        drafter.take([*draft.tokens, draft.tokens[len(draft.tokens) % 3]], len(draft.tokens))
    assert best_length([drafter.propose(60)], 1 / 32) > 30


def test_success_lengthens_and_failure_shortens():
    drafter = Drafter(PROMPT, list(range(100, 400)))
    lengths = []
    while (draft := drafter.propose(300)).tokens and len(lengths) < 4:
        lengths.append(best_length([draft], 1 / 16))
        drafter.take(draft.tokens[: lengths[-1] + 1], lengths[-1])
    assert lengths == sorted(lengths) and lengths[-1] > 2 * lengths[0] > 0

    # Always the same word after which something new comes: in the end no guess is worth its time.
    drafter = Drafter(PROMPT, [5, 6] * 10)
    lengths = []
    for new in range(1000, 1100):
        lengths.append(best_length([drafter.propose(20)], 1 / 16))
        drafter.take([new], lengths[-1])
        lengths.append(best_length([drafter.propose(20)], 1 / 16))
        drafter.take([5], lengths[-1])
    assert max(lengths) > 0
    assert lengths[-20:] == [0] * 20


def test_a_draft_is_as_long_as_it_pays():
    sure, vain = Draft([1] * 50, 0.99, 0.99), Draft([1] * 50, 0.01, 0.5)
    assert best_length([sure], 1e-6) == 50
    assert best_length([sure], 1.0) == 0
    assert best_length([vain], 1 / 8) == 0
    assert best_length([Draft([])], 1e-6) == 0
    lengths = [best_length([sure], cost) for cost in (1 / 64, 1 / 16, 1 / 4)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[2] > 0
    # In a batch every row pays for the length of one.
    assert best_length([sure] + [vain] * 15, 1 / 16) < best_length([sure], 1 / 16)


@given(
    st.lists(st.integers(0, 6), max_size=20),
    st.lists(st.integers(0, 6), max_size=20),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=30),
)
def test_any_course_of_events_gives_copies_within_bounds(prompt, answer, events):
    drafter = Drafter(prompt, answer)
    written: list[int] = []
    for wanted, own in events:
        draft = drafter.propose(wanted)
        assert len(draft.tokens) <= wanted
        assert 0 <= draft.expected(len(draft.tokens)) <= len(draft.tokens)
        # A copy of what goes round in circles overlaps with itself.
        texts = (answer, prompt + written + draft.tokens[:-1])
        sources = ["," + ",".join(map(str, text)) + "," for text in texts]
        copy = "," + "".join(f"{token}," for token in draft.tokens)
        assert any(copy in source for source in sources)
        accepted = draft.tokens[: len(draft.tokens) // 2]
        drafter.take([*accepted, own], len(draft.tokens))
        written += [*accepted, own]
