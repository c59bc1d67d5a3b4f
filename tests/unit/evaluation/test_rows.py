"""Reading the rows that quality is measured on."""

import gzip
import json

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.rows import Row, kept_back, read_rows

GOOD = {"kind": "good", "source": "oasst", "question": "q", "answer": "a", "note": "ignored"}
RUDE = {"kind": "rude", "source": "p", "question": "q", "answer": "shit", "references": ["bad", "poor"]}
MIXED = {"kind": "mixed", "source": "m", "question": "q", "answer": "Yes. Shit. No.", "inserted": "Shit."}


def test_reads_each_kind_plain_and_compressed(tmp_path):
    text = "\n\n".join(json.dumps(row) for row in (GOOD, RUDE, MIXED))
    (tmp_path / "rows.jsonl").write_text("\ufeff" + text, "utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    expected = [
        Row("good", "q", "a", "oasst"),
        Row("rude", "q", "shit", "p", ("bad", "poor")),
        Row("mixed", "q", "Yes. Shit. No.", "m", inserted="Shit."),
    ]
    assert read_rows(tmp_path / "rows.jsonl") == expected
    assert read_rows(tmp_path / "rows.jsonl.gz") == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "kind": "odd"}, "kind is 'odd'"),
        ({**GOOD, "answer": "  "}, "answer is empty"),
        ({**GOOD, "answer": None}, "answer is NoneType, not text"),
        ({"kind": "good", "answer": "a"}, "has no question"),
        ({**RUDE, "references": []}, "needs references"),
        ({**RUDE, "references": "bad"}, "not a list of texts"),
        ({**RUDE, "references": [1]}, "not a list of texts"),
        ({**MIXED, "inserted": ""}, "needs the inserted sentence"),
        ({**MIXED, "inserted": "Damn."}, "stands 0 times"),
        ({**MIXED, "answer": "Shit. Shit."}, "stands 2 times"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, row, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(row), "utf-8")
    with pytest.raises(ConfigurationError, match="line 2: ") as caught:
        read_rows(path)
    assert words in str(caught.value)


def test_a_file_without_rows(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigurationError, match="holds no rows"):
        read_rows(tmp_path / "empty.jsonl")


def test_texts_that_come_with_the_package():
    assert {row.kind for row in kept_back("talk")} == {"good"} and {row.kind for row in kept_back("rants")} == {"rant"}
    with pytest.raises(ConfigurationError, match="No texts called 'jokes'.*abuse, rants, talk"):
        kept_back("jokes")
