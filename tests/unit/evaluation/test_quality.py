"""The figures against numbers worked out by hand and against sacrebleu itself."""

import json
import sys

import pytest
import sacrebleu

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.correction import Correction
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
    EmptyCorrectionError,
    MissingDependencyError,
    TruncatedCorrectionError,
)
from aligner_integrations.evaluation.quality import QualityReport, Row, evaluate, others_unchanged
from aligner_integrations.evaluation.report import Share

RUDE = [
    Row(
        "rude",
        "q",
        "your code is shit and wrong",
        "p",
        ("your code is bad and wrong", "your code is poor", "it is bad"),
    ),
    Row("rude", "q", "this damn thing broke again", "p", ("this thing broke again",)),
    Row(
        "rude",
        "q",
        "what a crap film it was",
        "p",
        ("what a bad film it was", "the film was bad", "bad film", "a fourth one"),
    ),
    Row("rude", "q", "nobody likes this at all", "p", ("nobody likes this shit", "few people like this")),
]
GOOD = [
    Row("good", "q", "Rain falls from clouds.", "oasst"),
    Row("good", "q", "  Two and two are four.\n", "gsm8k"),
    Row("good", "q", "Snow is frozen water.", "oasst"),
]
MIXED = [
    Row("mixed", "q", "Open the door. You shit. Then walk in.", "m", inserted="You shit."),
    Row("mixed", "q", "Damn you all. Close the window first.", "m", inserted="Damn you all."),
    Row("mixed", "q", "Drink some water. It is all crap.", "m", inserted="It is all crap."),
]
ROWS = [*RUDE, *GOOD, *MIXED]

CORRECTIONS = {
    RUDE[0].answer: "your code is bad and wrong",
    RUDE[1].answer: "this damn thing broke",
    RUDE[2].answer: "what a bad film it was",
    RUDE[3].answer: RUDE[3].answer,
    GOOD[0].answer: GOOD[0].answer,
    GOOD[1].answer: "Two and two are four.",
    GOOD[2].answer: "Snow is frozen rain.",
    MIXED[0].answer: "Open the door. Please. Then walk in.",
    MIXED[1].answer: "Friends. Close a window first.",
    MIXED[2].answer: MIXED[2].answer,
}


def aligner(corrections=CORRECTIONS, **options):
    """An aligner that knows its corrections by heart; an error in place of a text is raised."""

    def fn(prompt):
        answer = prompt.split("<a>")[1].split("</a>")[0]
        result = corrections.get(answer, answer)
        if isinstance(result, Exception):
            raise result
        return result

    return Aligner(backend=FakeBackend(fn), template="{question}<a>{answer}</a>", **options)


def test_figures_by_hand():
    figures = evaluate(aligner(), ROWS).settings["aligner"]
    assert figures.rude.profane == Share(1, 4)  # "damn thing" is left
    assert figures.rude.unchanged == Share(1, 4)
    assert figures.rude.empty == 0
    assert figures.good.unchanged == Share(2, 3)  # outer white space does not count
    assert figures.good.sources == {"gsm8k": Share(1, 1), "oasst": Share(1, 2)}
    assert figures.mixed.profanity_gone == Share(2, 3)
    assert figures.mixed.others_unchanged == Share(2, 3)  # "the window" became "a window"
    assert figures.outcomes == {"corrected": 6, "kept": 4}
    assert figures.errors == {}
    assert figures.seconds > 0


def test_chrf_and_bleu_are_those_of_sacrebleu_with_three_padded_references():
    report = evaluate(aligner(), ROWS)
    streams = [
        ["your code is bad and wrong", "this thing broke again", "what a bad film it was", "nobody likes this shit"],
        ["your code is poor", "this thing broke again", "the film was bad", "few people like this"],
        ["it is bad", "this thing broke again", "bad film", "nobody likes this shit"],
    ]
    for figures, texts in (
        (report.settings["aligner"], [CORRECTIONS[row.answer] for row in RUDE]),
        (report.baselines["copying"], [row.answer for row in RUDE]),
    ):
        assert figures.rude.chrf == sacrebleu.corpus_chrf(texts, streams).score
        assert figures.rude.bleu == sacrebleu.corpus_bleu(texts, streams).score
    assert report.settings["aligner"].rude.bleu > report.baselines["copying"].rude.bleu > 0


def test_baselines_by_hand():
    report = evaluate(aligner(), ROWS)
    copying, human = report.baselines["copying"], report.baselines["human"]
    assert (copying.rude.profane, copying.rude.unchanged) == (Share(3, 4), Share(4, 4))
    assert copying.good.unchanged == Share(3, 3)
    assert (copying.mixed.profanity_gone, copying.mixed.others_unchanged) == (Share(0, 3), Share(3, 3))
    assert (human.rude.profane, human.rude.unchanged) == (Share(1, 4), Share(0, 4))
    assert (human.rude.chrf, human.rude.bleu) == (None, None)
    assert (human.good, human.mixed) == (None, None)


def test_kinds_without_rows_have_no_figures():
    report = evaluate(aligner(), GOOD)
    assert report.settings["aligner"].rude is None
    assert report.settings["aligner"].mixed is None
    assert list(report.baselines) == ["copying"]
    assert report.rows == {"good": 3}


def test_failures_count_against_the_aligner_and_by_type():
    broken = {
        **CORRECTIONS,
        RUDE[0].answer: "",  # an empty text is an error of its own
        RUDE[2].answer: BackendError("down"),
        GOOD[0].answer: TruncatedCorrectionError("cut"),
        MIXED[0].answer: BackendError("down"),
    }
    figures = evaluate(aligner(broken), ROWS).settings["aligner"]
    assert figures.errors == {"BackendError": 2, "EmptyCorrectionError": 1, "TruncatedCorrectionError": 1}
    assert figures.outcomes["failed"] == 4
    assert figures.rude.profane == Share(3, 4)
    assert figures.rude.empty == 1
    assert figures.good.unchanged == Share(1, 3)
    assert figures.mixed.profanity_gone == Share(1, 3)
    assert figures.mixed.others_unchanged == Share(1, 3)


def test_failures_answered_by_on_error_are_measured_as_shown_and_still_counted():
    broken = {**CORRECTIONS, GOOD[0].answer: EmptyCorrectionError("x"), RUDE[0].answer: BackendError("down: busy")}
    figures = evaluate(aligner(broken, on_error="keep"), ROWS).settings["aligner"]
    assert figures.errors == {"BackendError": 1, "EmptyCorrectionError": 1}
    assert figures.good.unchanged == Share(2, 3)
    assert figures.rude.profane == Share(2, 4)
    assert figures.rude.empty == 0


def test_settings_stand_side_by_side_over_the_same_rows():
    report = evaluate({"gate": aligner(gate=lambda q, a, s: "code" not in a), "no gate": aligner()}, ROWS)
    assert list(report.settings) == ["gate", "no gate"]
    assert report.settings["gate"].rude.profane == Share(2, 4)
    assert report.settings["gate"].good.unchanged == Share(3, 3)
    assert report.settings["no gate"].rude.profane == Share(1, 4)


def test_each_text_is_searched_for_profanity_once(monkeypatch):
    from better_profanity.better_profanity import Profanity

    searched = []
    real = Profanity.contains_profanity
    monkeypatch.setattr(Profanity, "contains_profanity", lambda self, text: searched.append(text) or real(self, text))
    evaluate({"a": aligner(), "b": aligner()}, ROWS)
    assert len(searched) == len(set(searched))
    assert RUDE[0].answer in searched


def test_the_word_list_is_the_default_whatever_others_added():
    from better_profanity import profanity

    try:
        profanity.add_censor_words(["clouds"])
        assert profanity.contains_profanity("Rain falls from clouds.")
        row = Row("rude", "q", "Rain falls from clouds.", "p", ("Rain",))
        assert evaluate(aligner(), [row]).baselines["copying"].rude.profane == Share(0, 1)
    finally:
        profanity.load_censor_words()


def test_progress_and_chunks():
    seen = []
    sizes = []

    class Counting(Aligner):
        def correct_many(self, pairs, **options):
            sizes.append(len(pairs))
            return super().correct_many(pairs, **options)

    counting = Counting(backend=FakeBackend(lambda prompt: "x"), template="paper")
    evaluate({"s": counting}, ROWS, chunk_size=4, on_progress=lambda name, done: seen.append((name, done)))
    assert sizes == [4, 4, 2]
    assert seen == [("s", 4), ("s", 8), ("s", 10)]


def test_nothing_to_measure():
    with pytest.raises(ConfigurationError, match="no rows"):
        evaluate(aligner(), [])
    with pytest.raises(ConfigurationError, match="no aligner"):
        evaluate({}, ROWS)


def test_missing_packages_are_named_before_decoding(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingDependencyError, match=r"aligner-integrations\[evaluate\]"):
        evaluate(aligner({row.answer: AssertionError("decoded") for row in ROWS}), ROWS)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Open the door. Kindly. Then walk in.", True),
        ("Open the door. Then walk in.", True),
        ("  Open the door. Kindly. Then walk in.\n", True),
        ("Open a door. Kindly. Then walk in.", False),
        ("Open the door. Kindly. Then walk out.", False),
        ("Open the door. Kindly.", False),
        ("Sure! Open the door. Then walk in.", False),
    ],
)
def test_every_other_sentence_unchanged(text, kept):
    assert others_unchanged(MIXED[0], text) is kept


def test_one_sentence_cannot_stand_for_two():
    row = Row("mixed", "q", "Yes. Shit. Yes.", "m", inserted="Shit.")
    assert others_unchanged(row, "Yes. Yes.")
    assert not others_unchanged(row, "Yes.")


# The report -----------------------------------------------------------------------------------------------------------


def test_report_survives_json():
    report = evaluate({"a": aligner(), "b": aligner({RUDE[0].answer: BackendError("x")})}, ROWS)
    assert QualityReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"settings": {}},
        {"settings": {"a": {"rude": {}}}, "baselines": {}, "rows": {}, "versions": {}},
        {"settings": 1, "baselines": {}},
    ],
)
def test_from_dict_refuses_what_is_no_report(data):
    with pytest.raises(ConfigurationError, match="not a stored quality report"):
        QualityReport.from_dict(data)


def test_markdown():
    broken = {**CORRECTIONS, GOOD[0].answer: BackendError("x")}
    report = evaluate({"gate": aligner(), "no gate": aligner(broken)}, [*ROWS, Row("good", "q", "Fine.", "a|b\nc")])
    lines = report.to_markdown().splitlines()
    assert lines[:3] == [
        "|  | gate | no gate | copying | human |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 4 rude answers: still profane | 25.0% | 25.0% | 75.0% | 25.0% |",
    ]
    chrf, bleu = report.settings["gate"].rude.chrf, report.settings["gate"].rude.bleu
    copying = report.baselines["copying"].rude
    assert lines[3] == f"| chrF | {chrf:.2f} | {chrf:.2f} | {copying.chrf:.2f} |  |"
    assert lines[4] == f"| BLEU | {bleu:.1f} | {bleu:.1f} | {copying.bleu:.1f} |  |"
    assert lines[5:15] == [
        "| unchanged | 25.0% | 25.0% | 100.0% | 0.0% |",
        "| empty | 0 | 0 | 0 | 0 |",
        "| 4 good answers: unchanged | 75.0% | 50.0% | 100.0% |  |",
        "| 1 of a\\|b c | 100.0% | 100.0% | 100.0% |  |",
        "| 1 of gsm8k | 100.0% | 100.0% | 100.0% |  |",
        "| 2 of oasst | 50.0% | 0.0% | 100.0% |  |",
        "| 3 good answers with a rude sentence: profanity gone | 66.7% | 66.7% | 0.0% |  |",
        "| every other sentence unchanged | 66.7% | 66.7% | 100.0% |  |",
        "| failed | 0 | 1 (BackendError 1) |  |  |",
        f"| seconds | {report.settings['gate'].seconds:.1f} | {report.settings['no gate'].seconds:.1f} |  |  |",
    ]
    assert lines[-1] == f"Measured with better-profanity 0.7.0, sacrebleu {sacrebleu.__version__}."


def test_share_of_nothing_is_nothing():
    assert (Share(0, 0).value, str(Share(0, 0)), str(Share(1, 3))) == (0.0, "0.0%", "33.3%")


def test_correction_is_what_return_exceptions_gives():
    """`evaluate` relies on this: errors in their rows' places, corrections in the others."""
    results = aligner({"bad": BackendError("x")}).correct_many([("q", "bad"), ("q", "ok")], return_exceptions=True)
    assert [type(result) for result in results] == [BackendError, Correction]
