import gzip

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import parse_jsonl, read_jsonl


def test_files_that_cannot_be_read(tmp_path):
    latin, cut = tmp_path / "latin.jsonl", tmp_path / "cut.jsonl.gz"
    latin.write_bytes(b'{"kind": "caf\xe9"}')
    cut.write_bytes(gzip.compress(b"{}\n" * 1000)[:-10])
    for path, words in (
        (latin, "not UTF-8 text"),
        (tmp_path / "none.jsonl", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (cut, "not a whole gzip file"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            list(read_jsonl(path))
    cut.write_bytes(b"plain")
    with pytest.raises(ConfigurationError, match="not a whole gzip file"):
        list(read_jsonl(cut))


def test_lines_are_numbered_with_the_blank_ones():
    assert list(parse_jsonl(["\n", '{"a": 1}\n'], "x")) == [(2, {"a": 1})]
    with pytest.raises(ConfigurationError, match="x, line 1: this is not JSON"):
        list(parse_jsonl(["[" * 100_000], "x"))
