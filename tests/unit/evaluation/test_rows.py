"""Reading the rows that quality is measured on."""

import gzip
import json

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.rows import Row, read_rows
from aligner_integrations.jsonl import parse_jsonl, read_jsonl

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


def test_files_that_cannot_be_read(tmp_path):
    empty, latin, cut = tmp_path / "empty.jsonl", tmp_path / "latin.jsonl", tmp_path / "cut.jsonl.gz"
    empty.write_text("\n")
    latin.write_bytes(b'{"kind": "caf\xe9"}')
    cut.write_bytes(gzip.compress(b"{}\n" * 1000)[:-10])
    for path, words in (
        (empty, "holds no rows"),
        (latin, "not UTF-8 text"),
        (tmp_path / "none.jsonl", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_rows(path)
    with pytest.raises(ConfigurationError, match="not a whole gzip file"):
        list(read_jsonl(cut))
    cut.write_bytes(b"plain")
    with pytest.raises(ConfigurationError, match="not a whole gzip file"):
        read_rows(cut)


def test_lines_are_numbered_with_the_blank_ones():
    assert list(parse_jsonl(["\n", '{"a": 1}\n'], "x")) == [(2, {"a": 1})]
    with pytest.raises(ConfigurationError, match="x, line 1: this is not JSON"):
        list(parse_jsonl(["[" * 100_000], "x"))
