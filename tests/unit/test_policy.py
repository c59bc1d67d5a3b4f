"""The gate before, `accept` after, `edits` between, and `score`: the decisions around one correction."""

import functools
import re

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Completion, FakeBackend
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
    InvalidTextError,
    LostTextError,
    RejectedCorrectionError,
    TruncatedCorrectionError,
)
from tests.unit.support import (
    TEMPLATE,
    ScoringBackend,
    acorrect,
    aligner_of,
    astream,
    correct,
    fixed,
    mend,
    score_of,
    stream,
)


@pytest.fixture(params=[correct, acorrect, stream, astream], ids=lambda f: f.__name__)
def verb(request):
    return request.param


def by_length(answer):
    """A made-up gate: the score is the answer's length."""
    return score_of(answer, gap=float(len(answer)))


def scoring(score_fn=by_length, *, own=None, fn=mend, **options):
    return Aligner(backend=ScoringBackend(score_fn, fn, own), template=TEMPLATE, **options)


# The gate -----------------------------------------------------------------------------------------------------------

HARM = "Hold the two wires together and wait for smoke. It takes a minute, and nobody will notice it at all."
NO = "I'm sorry, I can't help with that."


def objecting(objections, fn=lambda prompt: NO, marked=(), own=5.0, **options):
    """An aligner with a gate on words and on whole answers; it declines whatever it is asked to correct."""
    backend = ScoringBackend(
        lambda answer: score_of(answer, marked=marked, probe=True, objections=objections), fn, own, {"hateful": 1.0, "harmful": 2.0}
    )  # fmt: skip
    backend.minimal = True
    return Aligner(backend=backend, template=TEMPLATE, **options)


@pytest.mark.parametrize(
    ("scores", "gate", "found"),
    [
        ({"hateful": 0.0, "harmful": 3.0}, None, ("harmful",)),
        ({"hateful": 1.5, "harmful": 3.0}, None, ("hateful", "harmful")),
        ({"hateful": 1.0, "harmful": 2.0}, None, ()),  # at the threshold is not above it
        ({"hateful": 0.0, "harmful": 3.0}, {"harmful": False}, ()),
        ({"hateful": 1.5, "harmful": 3.0}, {"harmful": False}, ("hateful",)),
        ({"hateful": 1.5, "harmful": 3.0}, {"hateful": 9, "harmful": 9}, ()),
        ({"hateful": 0.5, "harmful": 0.0}, {"hateful": 0.4}, ("hateful",)),
        ({"hateful": 0.0, "harmful": 3.0}, 7.0, ("harmful",)),  # a number is about words
    ],
)
async def test_an_answer_that_is_objected_to_as_a_whole_is_declined(verb, scores, gate, found):
    correction = await verb(objecting(scores, gate=gate), HARM)
    if found == ():
        assert (correction.outcome, correction.reason, correction.text) == ("kept", "gate", HARM)
    else:
        assert (correction.outcome, correction.reason, correction.text) == ("corrected", "declined", NO)
    assert correction.objections == found
    assert correction.record().get("objections") == (list(found) if found else None)


async def test_words_that_are_let_be_stay(verb):
    answer = "It is so. This is bad for all of us, and so on."
    for gate, text in ((None, "It is so. This is good for all of us, and so on."), ({"rude": False}, answer)):
        aligner = objecting(
            {"harmful": 0.0}, lambda prompt: "It is so. This is good for all of us, and so on.", ["bad"], gate=gate
        )
        assert (await verb(aligner, answer)).text == text


async def test_a_refusal_may_name_what_it_refuses(verb):
    refusal = "I'm sorry, I won't say how to hold the two wires together."
    assert (await verb(objecting({"harmful": 3.0}, lambda prompt: refusal), HARM)).text == refusal


async def test_marked_edits_may_decline_too():
    correction = await correct(objecting({"harmful": 3.0}, edits="marked"), HARM)
    assert (correction.text, correction.reason) == (NO, "declined")


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"boring": 1.0}, "kinds of objection are rude, hateful, harmful"),
        ({"harmful": True}, "takes a number, or False"),
        ({"harmful": "much"}, "takes a number, or False"),
    ],
)
def test_a_kind_or_threshold_that_makes_no_sense_is_refused_at_once(gate, message):
    with pytest.raises(ConfigurationError, match=message):
        objecting({}, gate=gate)


async def test_a_kind_that_the_aligners_gate_cannot_see_is_an_error():
    aligner = scoring(own=3.0, gate={"harmful": 1.0})
    with pytest.raises(ConfigurationError, match="cannot see that; it knows rude"):
        await correct(aligner, "one")
    assert (await correct(scoring(own=3.0, gate={"harmful": False}), "one")).outcome == "kept"


@pytest.mark.parametrize(
    ("gate", "own", "kept", "scored"),
    [
        (None, None, False, False),
        (None, 3, True, True),
        (None, 2.9, False, True),
        (False, 3, False, False),
        (3, None, True, True),
        (2.5, 99, False, True),
        (0, 99, False, True),
    ],
)
async def test_gate_by_number(verb, gate, own, kept, scored):
    aligner = scoring(own=own, gate=gate)
    done = await verb(aligner, "bad")
    assert (done.text, done.outcome) == (("bad", "kept") if kept else ("good", "corrected"))
    assert (done.reason, done.rounds) == (("gate", 0) if kept else (None, 1))
    assert aligner.backend.scored == (["bad"] if scored else [])
    assert aligner.backend.completed == ([] if kept else ["bad"])


async def test_the_probes_score_counts_before_the_gap(verb):
    marked = scoring(lambda answer: score_of(answer, gap=0.0, marked=["bad"], probe=True), gate=1.0)
    unmarked = scoring(lambda answer: score_of(answer, gap=9.0, probe=True), gate=1.0)
    assert (await verb(marked, "bad")).outcome == "corrected"
    assert (await verb(unmarked, "bad")).reason == "gate"


@pytest.mark.parametrize("keep", [True, False])
async def test_gate_by_function(verb, keep):
    seen = []
    aligner = scoring(own=99, gate=lambda *values: seen.append(values) or keep)
    done = await verb(aligner, "bad")
    assert seen == [("q", "bad", by_length("bad"))]
    assert done.reason == ("gate" if keep else None)


async def test_gate_by_function_without_scores(verb):
    seen = []
    done = await verb(aligner_of(mend, gate=lambda *values: seen.append(values) or True), "bad")
    assert seen == [("q", "bad", None)]
    assert done.reason == "gate"


async def test_a_gate_that_raises(verb):
    def gate(*_):
        raise KeyError("no")

    with pytest.raises(BackendError, match="gate raised KeyError"):
        await verb(aligner_of(pytest.fail, gate=gate), "bad")
    assert (await verb(aligner_of(pytest.fail, gate=gate, on_error="keep"), "bad")).outcome == "failed"


def test_a_gate_cannot_be_a_coroutine_function():
    async def gate(*_):
        return False

    with pytest.raises(ConfigurationError, match="coroutine"):
        aligner_of(mend, gate=gate)


async def test_a_score_that_fails(verb):
    failing = functools.partial(scoring, lambda _: BackendError("out of memory"), gate=1.0)
    with pytest.raises(BackendError, match="out of memory"):
        await verb(failing(), "bad")
    done = await verb(failing(on_error="block", block_message="withheld"), "bad")
    assert (done.text, done.outcome) == ("withheld", "failed")


async def test_a_gate_by_score_needs_scores(verb):
    with pytest.raises(ConfigurationError, match="FakeBackend"):
        await verb(aligner_of(mend, gate=1.0), "bad")


async def test_skipped_answers_are_not_scored(verb):
    aligner = scoring(pytest.fail, gate=1.0)
    assert [(await verb(aligner, answer)).outcome for answer in ("", "[]")] == ["skipped", "skipped"]


def test_the_gate_is_asked_again_in_each_round():
    aligner = scoring(lambda answer: score_of(answer, gap=9.0 if "bad" in answer else 0.0), gate=1.0, rounds=5)
    done = aligner.correct("q", "bad")
    assert (done.text, done.outcome, done.rounds, done.reason) == ("good", "corrected", 1, None)
    assert aligner.backend.scored == ["bad", "good"]


# accept -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "shown"), [("keep", "bad"), ("block", "withheld")])
async def test_refused(verb, policy, shown):
    aligner = aligner_of(mend, accept=lambda *_: False, on_reject=policy, on_error="raise", block_message="withheld")
    done = await verb(aligner, "bad")
    assert (done.text, done.outcome, done.reason, done.rounds) == (shown, "rejected", "accept", 1)


async def test_refused_and_raised(verb):
    with pytest.raises(RejectedCorrectionError):
        await verb(aligner_of(mend, accept=lambda *_: False, on_reject="raise", on_error="keep"), "bad")


async def test_accept_sees_question_answer_and_the_last_correction(verb):
    seen = []
    aligner = aligner_of(mend, accept=lambda *values: seen.append(values) or True, rounds=2)
    assert (await verb(aligner, "bad")).outcome == "corrected"
    assert seen == [("q", "bad", "good")]


async def test_accept_is_asked_about_changes_only(verb):
    aligner = aligner_of(mend, accept=pytest.fail)
    assert [(await verb(aligner, answer)).outcome for answer in ("fine", "", "[]")] == ["kept", "skipped", "skipped"]


@pytest.mark.parametrize("policy", ["keep", "raise"])
async def test_accept_that_raises_is_an_error_and_not_a_refusal(verb, policy):
    def accept(*_):
        raise KeyError("no")

    aligner = aligner_of(mend, accept=accept, on_error=policy, on_reject="block")
    if policy == "raise":
        with pytest.raises(BackendError, match="accept raised KeyError") as caught:
            await verb(aligner, "bad")
        assert isinstance(caught.value.__cause__, KeyError)
    else:
        assert (await verb(aligner, "bad")).outcome == "failed"


class AsyncAccept:
    """Callable, but no coroutine function by inspection."""

    async def __call__(self, question, answer, text):
        return text == "good"


async def accept_good(question, answer, text):
    return text == "good"


@pytest.mark.parametrize(
    "accept", [accept_good, AsyncAccept(), lambda *v: accept_good(*v), functools.partial(accept_good)]
)
class TestAsyncAccept:
    @pytest.mark.parametrize("twin", [acorrect, astream])
    async def test_awaited(self, twin, accept):
        assert (await twin(aligner_of(mend, accept=accept), "bad")).outcome == "corrected"
        assert (await twin(aligner_of(fixed("worse"), accept=accept), "bad")).outcome == "rejected"

    @pytest.mark.parametrize("twin", [correct, stream])
    async def test_refused_by_the_synchronous_verbs(self, twin, accept):
        with pytest.raises(ConfigurationError, match="acorrect"):
            await twin(aligner_of(mend, accept=accept, on_error="keep"), "bad")


async def test_async_accept_that_raises():
    async def accept(*_):
        raise KeyError("no")

    with pytest.raises(BackendError, match="accept raised KeyError"):
        await acorrect(aligner_of(mend, accept=accept), "bad")


# edits="marked" -----------------------------------------------------------------------------------------------------

ANSWER = "one two three bad five six seven"
WRITTEN = "I two three good five six VII"


def marking(*marked, **options):
    return scoring(
        lambda answer: score_of(answer, marked=marked, probe=True),
        own=1.0,
        fn=fixed(WRITTEN),
        edits="marked",
        **options,
    )


async def test_only_marked_edits_stay(verb):
    done = await verb(marking("bad"), ANSWER)
    assert (done.text, done.outcome) == ("one two three good five six seven", "corrected")


@pytest.mark.parametrize("gate", [False, 5])
async def test_marked_edits_with_another_gate(verb, gate):
    assert (await verb(marking("bad", gate=gate), ANSWER)).text == "one two three good five six seven"


async def test_all_edits_taken_back_is_unchanged(verb):
    done = await verb(marking(gate=lambda *_: False), f" {ANSWER}\n")
    assert (done.text, done.outcome, done.reason, done.rounds) == (f" {ANSWER}\n", "kept", "unchanged", 1)


async def test_marked_edits_need_scores_and_a_threshold(verb):
    with pytest.raises(ConfigurationError, match="FakeBackend"):
        await verb(aligner_of(mend, edits="marked"), "bad")
    with pytest.raises(ConfigurationError, match="threshold"):
        await verb(scoring(edits="marked"), "bad")


# edits="guarded", and by default for aligners that make minimal edits ----------------------------------------------

LONG = "The first is so. You bad man. It goes on like that. And it ends."
MENDED = "The first is so. You good man. It goes on like that. And it ends."


def minimal(*marked, backend=ScoringBackend, **options):
    """An aligner that makes minimal edits, by its own word, and then loses most of an answer."""
    scores = () if backend is FakeBackend else (lambda answer: score_of(answer, marked=marked, probe=True),)
    made = backend(*scores, fn=fixed("The first. You good man."))
    made.minimal, made.gate = True, 1.0 if scores else None
    return Aligner(backend=made, template=TEMPLATE, **options)


@pytest.mark.parametrize(
    "options", [{}, {"gate": False}, {"gate": 5}, {"gate": lambda *_: False}, {"edits": "guarded"}]
)
async def test_what_nobody_asks_for_is_taken_back(verb, options):
    aligner = minimal("bad", **options)
    done = await verb(aligner, f"\n{LONG} ")
    assert (done.text, done.outcome, done.rounds) == (MENDED, "corrected", 1)
    assert len(aligner.backend.scored) == 1


async def test_with_all_edits_it_is_the_aligners_own_text(verb):
    aligner = minimal("bad", edits="all", gate=False)
    assert (await verb(aligner, LONG)).text == "The first. You good man."
    assert aligner.backend.scored == []


async def test_a_single_sentence_is_the_aligners(verb):
    assert (await verb(minimal("bad"), "You bad man, the first is so")).text == "The first. You good man."


async def test_an_aligner_that_does_not_say_rewrites(verb):
    aligner = scoring(lambda answer: score_of(answer, marked=["bad"], probe=True), own=1.0, fn=fixed("Go on."))
    assert (await verb(aligner, LONG)).text == "Go on."


async def test_guarded_edits_that_are_all_taken_back_are_unchanged(verb):
    done = await verb(minimal(gate=False), f" {LONG}\n")
    assert (done.text, done.outcome, done.reason, done.rounds) == (f" {LONG}\n", "kept", "unchanged", 1)


@pytest.mark.parametrize("edits", [None, "guarded"])
async def test_without_scores_no_dozen_words_go(verb, edits):
    answer = f"You bad man. The first is so. {' '.join(['It'] * 20)}."
    done = await verb(minimal(backend=FakeBackend, edits=edits), answer)
    assert (done.text, done.outcome) == (answer, "kept")


MANY = " ".join(f"Here is number {name} of them. Away with {name}, you bad man." for name in "abcdefgh")


@pytest.mark.parametrize(("on_error", "text"), [("keep", MANY), ("block", "withheld")])
async def test_a_large_part_that_is_lost_without_a_score_is_a_failure(verb, on_error, text):
    fn = fixed(re.sub(r" Away with \w, you bad man\.", "", MANY))
    aligner = aligner_of(fn, edits="guarded", rounds=2, on_error=on_error, block_message="withheld")  # nothing is out
    done = await verb(aligner, MANY)
    assert (done.text, done.outcome, done.rounds) == (text, "failed", 1)
    assert done.reason.startswith("LostTextError: The correction lost ")
    with pytest.raises(LostTextError):
        await verb(aligner_of(fn, edits="guarded"), MANY)


@pytest.mark.parametrize("marked", ["bad", "so."])
async def test_a_correction_cut_after_its_last_change_is_complete(verb, marked):
    backend = ScoringBackend(lambda answer: score_of(answer, marked=[marked], probe=True), gate=1.0)
    backend.minimal = True
    text = f"{LONG.replace('bad', 'good')} and so on, and so on"
    backend._one = lambda request: Completion(text, "length")
    backend.stream = lambda request: cut(text)
    aligner = Aligner(backend=backend, template=TEMPLATE)
    done = await verb(aligner, f"{LONG}\n")
    expected = (MENDED, "corrected") if marked == "bad" else (f"{LONG}\n", "kept")
    assert (done.text, done.outcome, done.rounds) == (*expected, 1)
    with pytest.raises(TruncatedCorrectionError):
        await verb(aligner.with_options(edits="all"), LONG)


def cut(text):
    yield from re.findall(r"\s*\S+", text)
    raise TruncatedCorrectionError("cut")


async def test_a_fallback_is_not_guarded_where_nobody_could_judge(verb):
    class Falling(ScoringBackend):
        minimal = may_fall_back = True

    backend = Falling(lambda answer: BackendError("down", retryable=True), fixed("Go on."), 1.0)
    assert (await verb(Aligner(backend=backend, template=TEMPLATE), LONG)).text == "Go on."


# score --------------------------------------------------------------------------------------------------------------


async def test_score():
    aligner = scoring()
    assert aligner.score("q", "bad") == by_length("bad")
    assert await aligner.ascore("q", "bad") == by_length("bad")


@pytest.mark.parametrize(
    ("aligner", "answer", "error"),
    [
        (aligner_of(mend), "bad", ConfigurationError),
        (scoring(lambda _: BackendError("down")), "bad", BackendError),
        (scoring(), "\ud800", InvalidTextError),
        (scoring(), None, InvalidTextError),
        (Aligner(backend=ScoringBackend(by_length), template="metaaligner-hh"), "bad", ConfigurationError),
    ],
)
async def test_score_that_cannot_be(aligner, answer, error):
    with pytest.raises(error):
        aligner.score("q", answer)
    with pytest.raises(error):
        await aligner.ascore("q", answer)


def test_a_backend_without_a_gate_of_its_own_is_not_scored():
    assert aligner_of(mend).correct("q", "bad").outcome == "corrected"
    assert FakeBackend(mend).gate is None


# Repair after, before accept --------------------------------------------------------------------------------------------


async def test_repair_has_the_last_hand_in_the_text(verb):
    seen = []
    aligner = aligner_of(
        mend,
        repair=lambda answer, correction: seen.append((answer, correction)) or f" {correction} [1]",
        accept=lambda question, answer, correction: correction.endswith("[1]"),
    )
    correction = await verb(aligner, "a bad day")
    assert (correction.text, correction.outcome) == ("a good day [1]", "corrected")
    assert seen == [("a bad day", "a good day")]


async def test_repair_back_to_the_answer_is_kept(verb):
    correction = await verb(aligner_of(mend, repair=lambda answer, correction: answer.strip()), " a bad day ")
    assert (correction.text, correction.outcome, correction.reason) == (" a bad day ", "kept", "unchanged")


async def test_an_unchanged_answer_needs_no_repair(verb):
    correction = await verb(aligner_of(mend, repair=lambda answer, correction: 1 / 0), "a fine day")
    assert correction.outcome == "kept"


def refuse(answer, correction):
    raise RejectedCorrectionError("no")


async def test_repair_may_refuse(verb):
    correction = await verb(aligner_of(mend, repair=refuse), "a bad day")
    assert (correction.text, correction.outcome, correction.reason) == ("a bad day", "rejected", "repair")
    with pytest.raises(RejectedCorrectionError):
        await verb(aligner_of(mend, repair=refuse, on_reject="raise"), "a bad day")


@pytest.mark.parametrize("repair", [lambda answer, correction: 1 / 0, lambda answer, correction: " "])
async def test_a_repair_that_fails(verb, repair):
    correction = await verb(aligner_of(mend, repair=repair, on_error="keep"), "a bad day")
    assert (correction.text, correction.outcome) == ("a bad day", "failed")


class Evaluator:
    """Of LlamaIndex: its integration makes a function of it."""

    async def aevaluate(self, **_):
        raise NotImplementedError


async def test_an_accept_that_is_no_function(verb):
    with pytest.raises(ConfigurationError, match="accept is Evaluator, which is no function"):
        await verb(aligner_of(mend, accept=Evaluator()), "a bad day")
    with pytest.raises(ConfigurationError, match="accept is 'yes'; it takes a function"):
        aligner_of(mend, accept="yes")
