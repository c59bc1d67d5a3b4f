"""With any text that an aligner may write, what nobody objected to survives to the letter, and guarding twice changes nothing."""

import contextlib
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aligner_integrations import guard as guards
from aligner_integrations import passages
from aligner_integrations.backends.base import Score, TokenScore
from aligner_integrations.errors import LostTextError
from aligner_integrations.guard import Guard, is_guarded
from aligner_integrations.passages import Passage
from tests.unit.support import score_of

WORDS = [
    "the",
    "docs",
    "are",
    "here",
    "a",
    "bad",
    "you",
    "it is",
    "so,",
    "no -",
    "3",
    "`x = 1`",
    "https://a.b/c",
    "me@a.bc",
]
PROSE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(lambda words: " ".join(words) + ".")
BETWEEN = st.sampled_from([" ", "\n\n", "\n- ", "\n| ", "\n> ", "\n\n## "])
PROTECTED = re.compile(r"`x = 1`|https://a.b/c|me@a.bc|\b3\b|\||^-(?= )|^>(?= )|^##(?= )", re.MULTILINE)


@st.composite
def answers(draw):
    """Sentences with what is between them; each begins in its own way, so that it is known which of two went."""
    sentences = [f"{'ABCDEF'[i]} {prose}" for i, prose in enumerate(draw(st.lists(PROSE, min_size=2, max_size=6)))]
    return "".join(part for sentence in sentences for part in (sentence, draw(BETWEEN))).rstrip(" \n#|->")


@st.composite
def corrections(draw, answer):
    """What an aligner may make of an answer: pieces of it in any order, and words of its own."""
    words = re.findall(r"\s*\S+", answer)
    pieces = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(words)))
        pieces += words[start : start + draw(st.integers(0, len(words)))]
        pieces += [f" {word}" for word in draw(st.lists(st.sampled_from([*WORDS, "good", "."]), max_size=6))]
    return "".join(pieces)


@st.composite
def cases(draw):
    answer = draw(answers())
    return answer, draw(corrections(answer))


def guarded(answer, correction, *marked, size=None, threshold=1.0):
    """What is shown of a correction that comes in pieces of `size` characters."""
    guard = Guard(answer, threshold, lambda: score_of(answer, marked=marked, probe=True))
    size = size or len(correction) or 1
    pieces = [guard.feed(correction[start : start + size]) for start in range(0, len(correction), size)]
    return ("".join(pieces) + guard.end()).strip()


def came_of(answer, correction, size):
    """What is shown, or None if that is an error."""
    try:
        return guarded(answer, correction, "bad", size=size)
    except LostTextError:
        return None


def sentences_of(answer):
    passage = Passage(answer)
    return [answer[passage.starts[span.start] : passage.ends[span.end - 1]] for span in passage.sentences]


def follow_each_other(parts, text):
    """Whether parts are in a text in their order, to the letter."""
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@settings(max_examples=600, deadline=None)
@given(cases())
def test_what_nobody_objects_to_survives(case):
    answer, correction = case
    try:
        shown = guarded(answer, correction, "bad")
    except LostTextError:  # never passed off as a correction
        return
    if not correction.strip():
        assert shown == ""
        return
    unmarked = [sentence for sentence in sentences_of(answer) if not re.search(r"\bbad\b", sentence)]
    assert follow_each_other(unmarked, shown)
    if not unmarked and shown == correction.strip():  # declined, or nothing had to be put back
        return
    assert follow_each_other(PROTECTED.findall(answer), shown)


@st.composite
def rewritten(draw):
    """An answer in prose, and what an aligner makes of it that keeps sentences, loses some, and writes others anew."""
    answer = re.sub(r"`x = 1`|https://a.b/c|me@a.bc|\b3\b", "word", draw(answers()))
    kept = []
    for sentence in sentences_of(answer):
        own = " ".join(draw(st.lists(st.sampled_from(["good", "wise", "not", "- no,"]), min_size=1, max_size=8))) + "."
        kept.append(draw(st.sampled_from([sentence, sentence, own, ""])))
    return answer, "\n".join(kept)


# The same examples each time: it asks for more than the next test, that none of them is an error.
@settings(max_examples=600, deadline=None, derandomize=True)
@given(rewritten())
@example(("A bad no -.\n- B bad the. C the. D the.", "\n\nC the.\nD the."))
def test_guarding_twice_changes_nothing(case):
    answer, correction = case
    shown = guarded(answer, correction, "bad")
    assert guarded(answer, shown, "bad") == shown


@settings(max_examples=600, deadline=None)
@given(cases())
def test_guarding_twice_changes_nothing_whatever_the_aligner_wrote(case):
    answer, correction = case
    try:
        shown = guarded(answer, correction, "bad")
    except LostTextError:
        return
    assert guarded(answer, shown, "bad") == shown


def test_words_of_the_answer_in_other_places_are_an_error_where_nobody_can_say_what_was_kept():
    answer = "A no -.\n\n## B so, bad no - a https://a.b/c.\n| C it is docs it is me@a.bc. D bad you a here docs so, the here."
    again = "no - a https://a.b/c.\n| C it is docs it is me@a.bc. "
    correction = f"{again}{again}D bad you a here docs so, the here. so,"
    for size in (None, 1, 7):
        with pytest.raises(LostTextError, match="in other places"):
            guarded(answer, correction, "bad", size=size)


def test_what_stands_behind_a_place_is_found_at_the_end_and_not_where_it_says_the_same():
    answer = "A the a you docs 3. B no - bad here me@a.bc a no - are me@a.bc me@a.bc."
    shown = guarded(answer, "bad here me@a.bc a no - are me@a.bc me@a.bc.", "bad")
    assert shown == answer.replace("B no - ", "")
    assert guarded(answer, shown, "bad") == shown


@settings(deadline=None)
@given(cases(), st.integers(1, 5))
def test_pieces_of_any_size_give_the_same_text(case, size):
    answer, correction = case
    assert came_of(answer, correction, size) == came_of(answer, correction, None)


@given(cases())
def test_without_marks_the_answer_comes_back(case):
    answer, correction = case
    assert guarded(answer, correction) == (answer if correction.strip() else "")


@settings(deadline=None)
@given(cases())
def test_without_a_score_what_is_protected_survives(case):
    answer, correction = case
    try:
        shown = guarded(answer, correction, threshold=None)
    except LostTextError:
        return
    assert shown == "" if not correction.strip() else follow_each_other(PROTECTED.findall(answer), shown)


HOST = "The first one is so. It goes on for a while. The last one ends it."
RUDE = "You are a bad idiot, and so is he."


def between(rude):
    return f"The first one is so. {rude}It goes on for a while. The last one ends it."


@pytest.mark.parametrize(
    ("correction", "shown"),
    [
        (between("You are not wise, and so is he. "), between("You are not wise, and so is he. ")),
        (between(""), between("")),
        # The rest is lost, or comes in other words, or twice.
        ("The first one is so.", between("")),
        ("The first one is so. You are wrong.", between("You are wrong. ")),
        ("You are wrong.", between("You are wrong. ")),
        (
            "The one is so. You are wrong, and so is he. It went on. The last ends it.",
            between("You are wrong, and so is he. "),
        ),
        (f"{between('You are wrong. ')} {between('You are wrong. ')}", between("You are wrong. ")),
        # White space of its own.
        (
            between("You are not wise , and so is he . ").replace(". The", ".\n\nThe"),
            between("You are not wise, and so is he. "),
        ),
    ],
)
def test_a_rude_sentence_changes_and_its_host_does_not(correction, shown):
    assert guarded(between(f"{RUDE} "), correction, "bad") == shown


@pytest.mark.parametrize(
    ("rude", "correction", "shown"),
    [
        (
            "You bad idiot, see https://a.b now.",
            "See now.",
            "You bad idiot, see https://a.b now.",
        ),  # an address would go
        ("You bad idiot, see https://a.b now.", "Please see https://a.b now.", "Please see https://a.b now."),
        ("Take 500 mg, you bad idiot.", "Take 50 mg, please.", "Take 500 mg, you bad idiot."),
        ("| You bad idiot | see |", "| You | see |", "| You | see |"),
        ("| You bad idiot | see |", "You see", "| You bad idiot | see |"),
        ("- You bad idiot.", "- Please.", "- Please."),
        ("- You bad idiot.", "", "-"),
    ],
)
def test_what_no_edit_may_touch(rude, correction, shown):
    answer, text, expected = (f"It is so.\n\n{part}\n\nThis ends it here." for part in (rude, correction, shown))
    assert guarded(answer, text, "bad") == expected


@pytest.mark.parametrize("rude", ["The bad docs.", "The bad project goes on."])
def test_a_first_sentence_went_that_begins_like_the_next(rude):
    assert guarded(f"{rude} The project goes on for a while.", "The project goes on for a while.", "bad") == (
        "The project goes on for a while."
    )


def test_a_phrase_that_is_said_again_later_is_no_place_to_go_on():
    answer = "So it is. You bad man, for example so. It goes on here. And for example so. It ends with that."
    correction = answer.replace("bad", "good").replace("man,", "man, ah,")
    assert guarded(answer, correction, "bad") == correction


REFUSAL = "I cannot help with that."


@pytest.mark.parametrize(
    ("answer", "correction", "shown"),
    [
        ("You bad man.\n\n1. Be bad.\n2. So bad!", REFUSAL, REFUSAL),
        ("You bad man.\n\n1. Be bad.\n2. So good!", REFUSAL, f"{REFUSAL}\n\n1.\n2. So good!"),  # not objected to
        (
            "You bad man, go there.\n\n1. Be bad.",
            "You man, go there.",
            "You man, go there.\n\n1.",
        ),  # no text of its own
    ],
)
def test_an_answer_that_is_objected_to_all_over_may_be_declined(answer, correction, shown):
    assert guarded(answer, correction, "bad", "bad.", "bad!") == shown


@pytest.mark.parametrize(("before", "after"), [(" ", "\n\n"), ("\n\n", " "), ("\n\n", "\n\n"), (" ", " "), ("\n", " ")])
@pytest.mark.parametrize("rude", ["The bad docs.", "The bad docs are useless to you."])
def test_where_a_sentence_went_a_line_break_stays(before, after, rude):
    answer = f"So it is.{before}{rude}{after}The project goes on."
    gap = max(before, after, key=lambda gap: gap.count("\n"))
    assert guarded(answer, "So it is. The project goes on.", "bad") == f"So it is.{gap}The project goes on."


def test_of_a_long_sentence_only_what_is_near_may_change():
    words = [f"w{i}" for i in range(60)]
    answer = " ".join([*words[:30], "bad", *words[30:]])
    assert guarded(answer, "no", "bad") == " ".join([*words[:18], "no", *words[42:]])
    assert guarded(answer, " ".join(words), "bad") == " ".join(words)


def test_without_a_score_a_dozen_words_do_not_go():
    answer = f"One two three four. {' '.join(['gone'] * 13)}. Five six seven eight."
    assert guarded(answer, "One two three four. Five six seven eight.", threshold=None) == answer
    answer, short = f"{HOST} {HOST} No, no, no. {HOST}", f"{HOST} {HOST} {HOST}"
    assert guarded(answer, short, threshold=None) == short


def test_without_a_score_a_large_part_does_not_go():
    answer = " ".join(f"Here is number {name} of them, which stays. Away with {name}." for name in "abcdefgh")
    with pytest.raises(LostTextError, match="lost 32 of the answer's"):
        guarded(answer, re.sub(r" Away with \w\.", "", answer), threshold=None)


def test_nobody_could_judge_so_the_text_is_left_as_it_is():
    guard = Guard(HOST, 1.0, lambda: None)
    assert (
        guard.feed("The first one is not so.  Nor") + guard.feed(" that") + guard.end()
        == "The first one is not so.  Nor that"
    )


def test_what_stays_is_shown_at_once():
    score = []
    guard = Guard(between(f"{RUDE} "), 1.0, lambda: score[0] if score else None)
    assert guard.feed("The first one is ") == "The first one is"  # the same so far; nobody has judged it yet
    score.append(score_of(between(f"{RUDE} "), marked=["bad"], probe=True))
    assert guard.feed("so. You ") == " so."
    assert guard.feed("are wrong. ") == ""  # held back until it is behind
    assert not guard.complete
    assert guard.feed("It goes on for ") == " You are wrong. It goes on for a while. The last one ends it."
    assert guard.complete
    assert guard.feed("a day") + guard.end() == ""


def test_in_a_last_sentence_the_correction_may_go_on():
    answer = f"{HOST} {RUDE}"
    assert guarded(answer, f"{answer} Sorry for that.", "bad") == f"{answer} Sorry for that."
    guard = Guard(answer, 1.0, lambda: score_of(answer, marked=["bad"], probe=True))
    guard.feed(f"{answer} ")
    assert not guard.complete


def test_a_marked_token_may_begin_before_its_word_and_the_answer_with_white_space():
    answer = f"\n {HOST} {RUDE}"
    at = answer.index(" bad")
    score = Score((TokenScore(" bad", at, at + 4, -1.0, 0.0, 9.0),), -1.0, -1.0, -1.0, 0.0, 9.0)
    guard = Guard(answer, 1.0, lambda: score)
    assert guard.feed(f"{HOST} Go on. ") + guard.end() == f"{HOST} Go on."


@pytest.mark.parametrize(
    ("answer", "guarded"),
    [
        ("you are a bad idiot , and so is he . really", False),
        ("You are a bad idiot.", False),
        ("It is so. You are a bad idiot.", True),
        ("you are\n\na bad idiot", True),
        ("so " * 25, True),
    ],
)
def test_a_single_sentence_is_left_to_the_aligner(answer, guarded):
    assert is_guarded(answer) is guarded


# Time, in lines that run --------------------------------------------------------------------------------------------


def lines_run(run):
    """How many lines of the guard, and of what it uses, are run."""
    count = 0
    files = {guards.__file__, passages.__file__, guards.difflib.__file__}

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def said(words):
    return " ".join(f"{word}." if i % 11 == 10 else word for i, word in enumerate(words))


HOSTILE = {
    "everything equal": lambda n: (said(f"w{i % 97}" for i in range(n)),) * 2,
    "nothing equal": lambda n: (said(f"w{i % 97}" for i in range(n)), said(f"v{i % 89}" for i in range(n))),
    "one word repeated": lambda n: ("so " * n, "so " * (n // 2) + "no " + "so " * n),
    "one mark repeated": lambda n: ("| " * n, "| - " * (n // 2)),
    "every other word": lambda n: (
        said(f"w{i % 97}" for i in range(n)),
        said(f"w{i % 97}" if i % 2 else "no" for i in range(n)),
    ),
    "all lost": lambda n: (said(f"w{i % 97}" for i in range(n)), "w0 no"),
    "backticks": lambda n: ("` " * n + "`" * n, "` no " * (n // 2)),
}


@pytest.mark.parametrize("threshold", [1.0, None])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_twice_the_text_takes_twice_the_steps(hostile, threshold):
    def steps(n):
        answer, correction = HOSTILE[hostile](n)

        def run():
            with contextlib.suppress(LostTextError):
                guarded(answer, correction, "w7", "w8", "so", size=40, threshold=threshold)

        return lines_run(run)

    assert steps(4000) < 2.5 * steps(2000)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_two_hundred_kilobytes(hostile):
    answer, correction = HOSTILE[hostile](60_000)
    shown = guarded(answer, correction, "w7", size=400)
    assert len(shown) >= len(answer) // 3
