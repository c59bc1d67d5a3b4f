"""What an answer is made of: words, sentences, and what no edit may touch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.passages import Passage


def parts(passage, spans):
    return [passage.text[passage.starts[span.start] : passage.ends[span.end - 1]] for span in spans]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "no." Then (it was late.) he left', ['He said "no."', "Then (it was late.)", "he left"]),
        ("it is so . and so ! what ?", ["it is so . and so ! what ?"]),  # as data sets write; not how sentences end
        ("A line\nthat goes on.", ["A line\nthat goes on."]),
        ("A paragraph\n\nanother", ["A paragraph", "another"]),
        ("- one\n- two\n  goes on\n3. three", ["- one", "- two\n  goes on", "3. three"]),
        ("# Title\ntext", ["# Title", "text"]),
        ("| a. b | c |\n|---|---|\n| d | e |\ntext", ["| a. b | c |", "|---|---|", "| d | e |", "text"]),
        ("Title\n=====\ntext", ["Title", "=====", "text"]),
        ("3.5 is more than 3.4", ["3.5 is more than 3.4"]),
    ],
)
def test_sentences(text, sentences):
    passage = Passage(text)
    assert parts(passage, passage.sentences) == sentences
    assert [passage.begins.index(span.start) for span in passage.sentences] == [s.start for s in passage.sentences]


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("see\n```py\nx = 1\n```\nthere", ["```py\nx = 1\n```"]),
        ("see\n```py\nx = 1", ["```py\nx = 1"]),
        ("so:\n\n    x = 1\n    y = 2\n\nthere", ["x = 1\n    y = 2"]),
        ("the `x` and ``y z`` are", ["`x`", "``y z``"]),
        ("a ` alone", []),
        ("go to https://a.b/c?d=(e). Or www.f.g, now", ["https://a.b/c?d=(e", "www.f.g"]),
        ("mail me.too@a-b.cd!", ["me.too@a-b.cd"]),
        ("<b>so</b> it 1 < 2", ["<b>", "</b>", "1", "2"]),
        ("![the logo](x.png) and [a link][1]", ["![", "](x.png)", "[", "][1]"]),
        ("| a | b |", ["|", "|", "|"]),
        ("- one\n2. two\n## three\n> four - five", ["-", "2.", "##", ">"]),
        ("Title\n-----\nText", ["-----"]),
        (".. image:: x y\n\ntext", [".. image:: x y"]),
        ("3 of 4.5% on 1/2/2024, not x2 or 2nd", ["3", "4.5%", "1/2/2024"]),
        ("Title\n~~~~~\ntext that goes on", ["~~~~~"]),
    ],
)
def test_what_is_protected(text, protected):
    passage = Passage(text)
    assert parts(passage, passage.protected) == protected


@given(st.text("ab .!\n-`|", max_size=60).map(str.strip))
def test_words_and_gaps_make_up_the_text(text):
    passage = Passage(text)
    assert "".join(passage.gap(i) + word for i, word in enumerate(passage.words)) == text
    assert [i for span in passage.sentences for i in range(span.start, span.end)] == list(range(len(passage)))
