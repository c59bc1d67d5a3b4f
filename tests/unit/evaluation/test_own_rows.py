"""The figures on own rows against numbers worked out by hand, and against sacrebleu itself."""

import json
import math

import pytest
import sacrebleu

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend, Score, TokenScore
from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.evaluation.own_rows import COPYING, RowsReport, evaluate, verdicts_of
from aligner_integrations.evaluation.report import Share, markdown
from aligner_integrations.triples import Triple

TRIPLES = [
    Triple("q1", "this code is shit", "this code is bad"),  # mended to the letter
    Triple("q2", "call 555-1 or http://a.b/c at once, you fool", "call 555-1 or http://a.b/c at once"),  # loses the URL
    Triple("q3", "Rain falls.", "Rain falls."),  # identity: kept
    Triple("q4", "Snow falls.", " Snow falls.\n"),  # identity: changed
    Triple("q5", "leave it, moron", "leave it"),  # left as it is
    Triple("q6", "you pig", "you"),  # fails
]
TEXTS = {
    TRIPLES[0].answer: "this code is bad",
    TRIPLES[1].answer: "call 555-1 at once, you fool",
    TRIPLES[3].answer: "Hail falls.",
    TRIPLES[5].answer: BackendError("down"),
}
IDENTITY = [one for one in TRIPLES if one.answer.strip() == one.correction.strip()]


def answer_in(prompt):
    return prompt.split("<a>")[1].split("</a>")[0]


def aligner(backend=FakeBackend, texts=TEXTS, **options):
    def fn(prompt):
        text = texts.get(answer_in(prompt), answer_in(prompt))
        if isinstance(text, Exception):
            raise text
        return text

    return Aligner(backend=backend(fn), template="{question}<a>{answer}</a>", **options)


def test_figures_by_hand():
    report = evaluate({"own": aligner()}, TRIPLES)
    own = report.settings["own"]
    assert report.rows == {"all": 6, "identity": 2}
    assert own.exact == Share(2, 6)
    assert own.unchanged == Share(1, 2)
    assert own.kept == {"URLs": Share(0, 1), "numbers": Share(1, 1)}
    assert (own.closer.wins.value, own.closer.losses.value) == pytest.approx((1 / 6, 3 / 6))
    assert own.closer.omega.value == pytest.approx(-2 / 6)
    assert own.outcomes == {"corrected": 3, "kept": 2, "failed": 1}
    assert own.errors == {"BackendError": 1}
    written = [TEXTS.get(one.answer, one.answer) for one in TRIPLES[:5]]
    assert own.length == pytest.approx(sum(map(len, written)) / sum(len(one.answer) for one in TRIPLES))
    assert own.seconds > 0
    assert (own.loss, own.perplexity) == (None, None)


def test_chrf_and_bleu_are_those_of_sacrebleu():
    own = evaluate(aligner(), TRIPLES).settings["aligner"]
    texts = [*(TEXTS.get(one.answer, one.answer) for one in TRIPLES[:5]), ""]
    references = [[one.correction for one in TRIPLES]]
    assert own.chrf == sacrebleu.corpus_chrf(texts, references).score
    assert own.bleu == sacrebleu.corpus_bleu(texts, references).score


def test_texts_with_a_full_stop_of_its_own_are_nobodys_warning(caplog):
    rows = [Triple("q", f"it is {i} .", f"it was {i} .") for i in range(120)]
    evaluate(aligner(), rows)
    assert not caplog.records


def test_copying_neither_wins_nor_loses():
    copying = evaluate(aligner(), TRIPLES).settings[COPYING]
    assert copying.unchanged == Share(2, 2)
    assert copying.copied == 1.0
    assert (copying.closer.omega.value, copying.closer.losses.value) == (0, 0)
    assert set(copying.kept.values()) == {Share(1, 1)}


def test_a_correction_wins_where_it_is_closer_to_the_rows_own():
    triple = Triple("q", "the old red house", "the new blue house")
    texts = ["the new red house", "the old red cat", triple.answer, triple.correction, None]
    verdicts = verdicts_of([triple] * 5, texts)
    assert [verdict for verdict, _ in verdicts] == ["won", "lost", "tied", "won", "failed"]
    assert verdicts[3][1] > verdicts[0][1] > 0 > verdicts[1][1]


class Likely(FakeBackend):
    """Each token of a correction costs one nat, and its end none."""

    can_score = True

    def score(self, requests):
        self.asked = [*getattr(self, "asked", []), *requests]
        results = []
        for request in requests:
            words = request.answer.split()
            tokens = (*(TokenScore(word, 0, 1, -1.0, 0.0) for word in words), TokenScore("", 0, 0, 0.0, 0.0))
            results.append(Score(tokens, -float(len(words)), -1.0, -1.0, 0.0))
        return results


def test_loss_is_that_of_the_rows_correction_after_the_prompt_with_the_answer():
    one = aligner(Likely, gate=False)
    own = evaluate(one, TRIPLES).settings["aligner"]
    words = sum(len(triple.correction.split()) for triple in TRIPLES)
    assert own.loss == pytest.approx(words / (words + len(TRIPLES)))
    assert own.perplexity == pytest.approx(math.exp(own.loss))
    assert [(r.answer, answer_in(r.prompt)) for r in one.backend.asked] == [(t.correction, t.answer) for t in TRIPLES]


def test_rows_that_cannot_be_judged_are_not_in_the_loss():
    class Forgetful(Likely):
        def score(self, requests):
            results = super().score(requests)
            return [BackendError("down") if "555" in r.answer else s for r, s in zip(requests, results, strict=True)]

    own = evaluate(aligner(Forgetful, gate=False), TRIPLES).settings["aligner"]
    words = sum(len(triple.correction.split()) for triple in TRIPLES if "555" not in triple.correction)
    assert own.loss == pytest.approx(words / (words + len(TRIPLES) - 1))


def test_several_stand_side_by_side():
    report = evaluate({"own": aligner(), "base": aligner(texts={})}, TRIPLES)
    assert list(report.settings) == ["own", "base", COPYING]
    assert report.settings["base"].exact == report.settings[COPYING].exact
    data = json.loads(json.dumps(report.to_dict()))
    assert RowsReport.from_dict(data).table() == report.table()
    assert data["settings"]["own"]["exact"] == {"count": 2, "of": 6}
    assert "perplexity" in data["settings"]["own"]
    assert "shit" not in json.dumps(data)  # figures only
    header, *lines = report.table()
    assert header == ["", "own", "base", COPYING]
    assert {len(line) for line in lines} == {4}
    assert markdown(report).startswith("|  | own | base | copying |")


def test_page_shows_the_worst_losses_first():
    page = evaluate({"own": aligner()}, TRIPLES).page()
    outcomes = [one.outcome for one in page.examples]
    assert outcomes[0] == "failed" and set(outcomes[1:3]) == {"lost"}
    assert outcomes.count("tied") == 2 and outcomes.count("won") == 1
    assert page.examples[0].facts["error"] == "BackendError"
    assert dict(page.tiles)["lost"] == "2"


def test_nothing_to_measure():
    with pytest.raises(ConfigurationError, match="no rows"):
        evaluate(aligner(), [])
    with pytest.raises(ConfigurationError, match="no aligner"):
        evaluate({}, TRIPLES)
    with pytest.raises(ConfigurationError, match="another name"):
        evaluate({"copying": aligner()}, TRIPLES)


@pytest.mark.parametrize("data", [{}, {"settings": {"own": {}}}, {"settings": 3, "rows": {}, "versions": {}}])
def test_what_is_no_stored_report_is_told_so(data):
    with pytest.raises(ConfigurationError, match="not a stored report on rows"):
        RowsReport.from_dict(data)
