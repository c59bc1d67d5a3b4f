import dataclasses
import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from aligner_integrations import Correction
from aligner_integrations.correction import Usage, diff_words
from aligner_integrations.errors import ConfigurationError

CORRECTION = Correction("Is it?", "It is bad.", "It is good.", "corrected", None, 1, Usage(7, 4), 0.25)
# Short words of a small alphabet, so that texts share parts.
TEXTS = st.text("ab .,\n é", max_size=30) | st.text(max_size=30)


def side(diff, kind):
    return "".join(edit.text for edit in diff if edit.kind in ("equal", kind))


@given(TEXTS, TEXTS)
def test_a_diff_holds_both_texts(before, after):
    diff = diff_words(before, after)
    assert side(diff, "delete") == before
    assert side(diff, "insert") == after
    assert 0 <= diff.changed_share <= 1
    assert (diff.changed_share == 0) == (before == after)
    kinds = [edit.kind for edit in diff]
    assert all(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    assert all(edit.text for edit in diff)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("It is bad.", "It is good.", "It is [-bad-]{+good+}."),
        ("It is bad", "It is not bad", "It is {+not +}bad"),
        ("Well, yes", "yes", "[-Well, -]yes"),
        ("a b", "a  b", "a[- -]{+  +}b"),
        ("Über Maß", "Über Mass", "Über [-Maß-]{+Mass+}"),
        ("same", "same", "same"),
        ("", "", ""),
    ],
)
def test_diff_on_words(before, after, shown):
    assert str(diff_words(before, after)) == shown


@pytest.mark.parametrize(
    ("before", "after", "share"), [("same", "same", 0), ("one", "two", 1), ("", "new", 1), ("ab cd", "ab ef", 4 / 10)]
)
def test_changed_share(before, after, share):
    assert diff_words(before, after).changed_share == pytest.approx(share)


def test_html_is_escaped():
    html = diff_words('<b>"x"</b> & y', "<script>").to_html()
    assert "<b>" not in html
    assert "<script>" not in html
    assert '"' not in re.sub(r'<(?:del|ins) style="[^"<>&]*">', "", html)
    plain = re.sub(r' style="[^"]*"', "", diff_words("1 < 2 bad", "1 < 2 good").to_html())
    assert plain == "1 &lt; 2 <del>bad</del><ins>good</ins>"


def test_html_reads_on_any_background():
    """Colours are translucent and say nothing of the letters' own; what they say is said by lines, too."""
    for kind, (gone, new), line in (("del", ("bad", ""), "line-through"), ("ins", ("", "good"), "underline")):
        style = re.search(rf'<{kind} style="([^"]*)">', diff_words(gone, new).to_html()).group(1)
        red, green, blue, share = map(float, re.search(r"background: rgba\(([^)]*)\)", style).group(1).split(","))
        assert line in style and not re.search(r"(?<![-\w])color", style)
        for letters, page in ((0, 255), (255, 0)):  # black on white, white on black
            behind = [page * (1 - share) + part * share for part in (red, green, blue)]
            assert _contrast([letters] * 3, behind) > 7  # WCAG's AAA


def _contrast(one, other):
    def light(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_notebook_shows_what_happened_and_what_changed():
    shown = Correction("q", "a <bad>\nday", "a good\nday", "corrected", seconds=0.5)._repr_html_()
    assert "corrected, 0.5 s" in shown and "pre-wrap" in shown
    assert "&lt;" in shown and "<bad>" not in shown and ">good</ins>" in shown
    assert "kept (gate)" in Correction("q", "a", "a", "kept", "gate")._repr_html_()
    assert pretty(Correction("q", "a bad day", "a good day", "corrected").diff()) == "a [-bad-]{+good+} day"


RANDOM = random.Random(0)
WORDS = RANDOM.choices([f"w{i}" for i in range(3000)], [1 / (i + 1) for i in range(3000)], k=2000)  # as in real text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (" ".join(WORDS), " ".join(w if RANDOM.random() < 0.5 else RANDOM.choice(WORDS) for w in WORDS)),
        ("the cat, sat on a mat. " * 600, "the dog, sat on a rug. " * 600),
        ("a " * 3000, "b a " * 1500),
    ],
    ids=["real", "repetitive", "one word"],
)
@pytest.mark.timeout(60)
def test_long_texts_take_no_minutes(before, after):
    diff = diff_words(before, after)
    assert side(diff, "delete") == before
    assert side(diff, "insert") == after


def test_beyond_a_limit_only_head_and_tail_are_equal():
    before, after = ("head " + f"{w} " * 20_000 + "tail" for w in ("old", "new"))
    assert [edit.kind for edit in diff_words(before, after)] == ["equal", "delete", "insert", "equal"]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CORRECTION.text = "other"


def test_changed_and_diff():
    assert CORRECTION.changed
    assert str(CORRECTION.diff()) == "It is [-bad-]{+good+}."
    assert not dataclasses.replace(CORRECTION, text=CORRECTION.answer).changed


def test_usage_adds():
    assert Usage(1, 2) + Usage(10, 20) == Usage(11, 22)


def test_dict_round_trip_through_json():
    assert Correction.from_dict(json.loads(json.dumps(CORRECTION.to_dict()))) == CORRECTION


def test_a_dict_needs_only_what_has_no_default():
    data = {"question": "q", "answer": "a", "text": "a", "outcome": "kept"}
    assert Correction.from_dict(data) == Correction("q", "a", "a", "kept")


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "improved"},
        {"outcome": None},
        {"more": 1},
        {"usage": {"tokens": 1}},
        {"usage": None},
        {"question": None},
        {"text": 3},
    ],
)
def test_bad_dicts(change):
    with pytest.raises(ConfigurationError):
        Correction.from_dict({**CORRECTION.to_dict(), **change})


@pytest.mark.parametrize("data", [{}, [1, 2], ["ab"], None])
def test_not_a_stored_correction(data):
    with pytest.raises(ConfigurationError, match="not a stored correction"):
        Correction.from_dict(data)


def test_record_holds_no_original_text():
    record = CORRECTION.record()
    assert record == {"outcome": "corrected", "reason": None, "changed_share": 0.3333, "rounds": 1, "seconds": 0.25}
    assert CORRECTION.record(include_original=True) == {**record, "original": "It is bad."}


def test_the_record_of_a_failure_names_the_error_without_its_message():
    failed = Correction("q", "my secret", "my secret", "failed", "BackendError: status 500: 'my secret' is too long")
    assert failed.record()["reason"] == "BackendError"
    assert failed.record(include_original=True)["reason"] == failed.reason
