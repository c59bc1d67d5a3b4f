"""Whatever stands in a corpus: each damaged row costs itself, with its number and a reason, and the rest is corrected."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.corpus import correct_corpus, lines, readers
from aligner_integrations.corpus.records import LONGEST_TEXT, Columns
from aligner_integrations.errors import ConfigurationError
from tests.unit.support import TEMPLATE, mend

GOOD = b'{"question": "q", "answer": "bad"}\n'


@pytest.fixture
def run(tmp_path):
    """Correct a file and return its rows and its dead letters, as (row, reason)."""

    def correct(content, name="in.jsonl", out="out.jsonl", **options):
        source = tmp_path / name
        if content is not None:
            source.write_bytes(content)
        correct_corpus(source, tmp_path / out, Aligner(backend=FakeBackend(mend), template=TEMPLATE), **options)
        dead = tmp_path / f"{out}.dead.jsonl"
        letters = [json.loads(line) for line in dead.read_text().splitlines()] if dead.exists() else []
        assert all(letter["file"] == str(source) for letter in letters)
        return tmp_path / out, [(letter["row"], letter["reason"]) for letter in letters]

    return correct


def corrections(path):
    return [json.loads(line)["correction"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "It is not JSON at column 1."),
        (b'{"question": "q", "answer": "cut', "It is not JSON at column 29."),
        (b"[1]", "It is no object but list."),
        (b"[" * 100_000, "It is not JSON."),
        (b'{"question": "q"}', "It has no column 'answer', where the answer should be."),
        (b'{"answer": "a"}', "It has no column 'question', where the question should be."),
        (b'{"question": null, "answer": "a"}', "Its question is empty (null)."),
        (b'{"question": "q", "answer": 7}', "Its answer is no text but int."),
        (b'{"question": "q", "answer": ["a"]}', "Its answer is no text but list."),
        (b'{"question": "q", "answer": "caf\xe9"}', "It is not UTF-8: invalid continuation byte at byte 32."),
        (b"\xff\xfe{\x00", "It is not UTF-8: invalid start byte at byte 0."),
        (
            b'{"question": "q", "answer": "a", "score": 1}',
            "It already has a column 'score'; give the new ones a prefix.",
        ),
        (
            b'{"question": "q", "answer": "\\ud800"}',
            "InvalidTextError: The question or the answer cannot be encoded as UTF-8: surrogates not allowed.",
        ),
        (
            b'{"question": "q", "answer": "' + b"a" * 10_000_000 + b'"}',
            f"Its answer has 10,000,000 characters; at most {LONGEST_TEXT:,} are corrected.",
        ),
        (b" " * lines.LONGEST_LINE + b"1", f"It has more than {lines.LONGEST_LINE:,} bytes."),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_bad_line_costs_that_line(run, line, reason):
    out, dead = run(GOOD + line + b"\n" + GOOD)
    assert dead == [(2, reason)]
    assert corrections(out) == ["good", "good"]


def test_empty_lines_are_no_rows_but_are_counted(run):
    out, dead = run(b"\xef\xbb\xbf" + GOOD + b"\n  \n" + GOOD + b"no\n" + GOOD.rstrip())
    assert dead == [(5, "It is not JSON at column 1.")]
    assert corrections(out) == ["good"] * 3


def test_half_a_character_in_another_column_stays(run):
    out, dead = run(b'{"question": "q", "answer": "bad", "x": "\\ud800"}\n')
    assert not dead and json.loads(out.read_bytes())["x"] == "\ud800"


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_an_empty_file_is_an_empty_output(run, name):
    out, dead = run(gzip.compress(b"") if name.endswith("gz") else b"", name)
    assert out.read_bytes() == b"" and not dead


def zstandard(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKED = {".gz": gzip.compress, ".zst": zstandard}


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_in_and_out(run, ending):
    pack = PACKED[ending]
    out, dead = run(pack(GOOD) + pack(b"no\n" + GOOD), f"in.jsonl{ending}", f"out.jsonl{ending}", shard_rows=1)
    assert dead == [(2, "It is not JSON at column 1.")]
    with lines.opened(out) as stream:
        assert [json.loads(line)["correction"] for _, line in lines.lines(stream)] == ["good", "good"]


@pytest.mark.parametrize("ending", PACKED)
def test_a_cut_archive_is_told_before_anything_is_asked(run, tmp_path, ending):
    with pytest.raises(ConfigurationError, match="is not a whole"):
        run(PACKED[ending](GOOD * 1000)[:-9], f"in.jsonl{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"in.jsonl{ending}"]


# CSV ------------------------------------------------------------------------------------------------------------------


def records(path, delimiter=","):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_csv_with_quotes_and_newlines(run):
    out, dead = run(
        b'id,question,answer\r\n1,"a, ""b""\nc","bad\n\nthing"\r\n\r\n2,q,5" bad\r\n3,q,\xc3\xa9 bad',
        "in.csv",
        "out.csv",
    )
    rows = records(out)
    assert [row["id"] for row in rows] == ["1", "2", "3"] and not dead
    assert [row["correction"] for row in rows] == ["good\n\nthing", '5" good', "é good"]
    assert rows[0]["question"] == 'a, "b"\nc' and rows[0]["answer"] == "bad\n\nthing"
    assert (rows[0]["outcome"], rows[0]["reason"], rows[0]["score"]) == ("corrected", "", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"q", "It has 1 cells where the header has 2."),
        (b"q,a,b", "It has 3 cells where the header has 2."),
        (b"q,caf\xe9", "It is not UTF-8."),
        (b'q,"a"b', "It is not CSV: a quote is never closed, or stands within a cell."),
        (b'q,"never closed', "It is not CSV: a quote is never closed, or stands within a cell."),
        (
            b'q,"' + b"a" * 10_000_000 + b'"',
            f"Its answer has 10,000,000 characters; at most {LONGEST_TEXT:,} are corrected.",
        ),
        (
            b'q,"' + (b"a" * 79 + b"\n") * 125_000 + b'"',
            f"Its answer has 10,000,000 characters; at most {LONGEST_TEXT:,} are corrected.",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_bad_record_costs_that_record(run, line, reason):
    out, dead = run(b"question,answer\nq,bad 1\n" + line + b"\nq,bad 2\nq,bad 3\n", "in.csv", "out.jsonl")
    assert dead == [(3, reason)]
    assert corrections(out) == ["good 1", "good 2", "good 3"]
    assert csv.field_size_limit() == 131_072


def test_tabs(run):
    out, _ = run(b"question\tanswer\nq\tbad, 1\n", "in.tsv", "out.tsv")
    assert records(out, "\t")[0]["correction"] == "good, 1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column 'question'"),
        (b"question,answer,answer\n", "two columns called 'answer'"),
        (b"question,answer,score\n", "already has a column 'score'"),
        (b"question,caf\xe9\n", "no header"),
    ],
)
def test_a_header_that_does_not_fit(run, tmp_path, content, words):
    with pytest.raises(ConfigurationError, match=words):
        run(content, "in.csv")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_header_alone(run):
    out, dead = run(b"question,answer\n", "in.csv", "out.csv")
    assert records(out) == [] and out.read_text().startswith("question,answer,correction,") and not dead


# Parquet --------------------------------------------------------------------------------------------------------------


def test_parquet_with_nulls(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_TABLE_ROWS", 2)
    table = pyarrow.table(
        {
            "question": ["q1", None, "q3", "q4", "q5"],
            "answer": ["bad 1", "bad 2", None, "bad 4", "bad 5"],
            "when": pyarrow.array([1, None, 3, 4, 5], pyarrow.timestamp("us")),
            "many": [[1], None, [], [4], [5]],
        }
    ).replace_schema_metadata({"made": "here"})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    out, dead = run(None, "in.parquet", "out.parquet", shard_rows=3)
    assert dead == [(2, "Its question is empty (null)."), (3, "Its answer is empty (null).")]
    found = pyarrow.parquet.read_table(out)
    assert found.select(table.column_names).equals(table.take([0, 3, 4]))
    assert found.schema.metadata[b"made"] == b"here"
    assert found["correction"].to_pylist() == ["good 1", "good 4", "good 5"]
    assert found["score"].type == pyarrow.float64()


def test_parquet_of_other_kinds_and_as_json(run, tmp_path):
    table = pyarrow.table({"question": ["q"], "answer": ["bad"], "when": pyarrow.array([0], pyarrow.timestamp("s"))})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    out, _ = run(None, "in.parquet")
    assert json.loads(out.read_text())["when"] == "1970-01-01 00:00:00"
    pyarrow.parquet.write_table(pyarrow.table({"question": [1], "answer": ["a"]}), tmp_path / "in.parquet")
    assert run(None, "in.parquet", "other.jsonl")[1] == [(1, "Its question is no text but int.")]


def test_a_parquet_without_rows(run, tmp_path):
    table = pyarrow.table(
        {"question": pyarrow.array([], pyarrow.string()), "answer": pyarrow.array([], pyarrow.string())}
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    out, dead = run(None, "in.parquet", "out.parquet")
    assert pyarrow.parquet.read_table(out).num_rows == 0 and not dead


@pytest.mark.parametrize("content", [b"", b"PAR1 no", b"no"])
def test_what_is_no_parquet(run, content):
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        run(content, "in.parquet")


# Which files ------------------------------------------------------------------------------------------------------------


def test_patterns_and_folders_in_the_order_of_their_names(run, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in (2, 1, 3):
        (folder / f"{i}.jsonl").write_bytes(GOOD.replace(b"bad", b"bad %d" % i) + (b"no\n" if i == 2 else b""))
    (folder / "README.md").write_text("not read")
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE)
    correct_corpus(folder, tmp_path / "a.jsonl", aligner)
    correct_corpus([f"{folder}/[12].jsonl", folder / "3.jsonl"], tmp_path / "b.jsonl", aligner)
    assert corrections(tmp_path / "a.jsonl") == ["good 1", "good 2", "good 3"]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    (letter,) = map(json.loads, (tmp_path / "a.jsonl.dead.jsonl").read_text().splitlines())
    assert (letter["file"], letter["row"]) == (str(folder / "2.jsonl"), 2)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["none.jsonl"], "no such file"),
        (["none/*.jsonl"], "no such file"),
        (["-"], "standard input cannot be read twice"),
        (["a.jsonl", "a.jsonl"], "named twice"),
        (["a.jsonl", "a.csv"], "different formats"),
        (["a.csv", "b.csv"], "other columns"),
        (["a.txt"], "told by its name"),
    ],
)
def test_files_that_do_not_fit(tmp_path, monkeypatch, names, words):
    monkeypatch.chdir(tmp_path)
    for name, text in {"a.jsonl": "", "a.csv": "question,answer\n", "b.csv": "answer,question\n", "a.txt": ""}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        correct_corpus(names, "out.jsonl", Aligner(backend=FakeBackend(mend), template=TEMPLATE))


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("in.jsonl", "out.txt", "told by its name"),
        ("in.jsonl", "out.csv", "each their own columns"),
        ("in.jsonl", "out.parquet", "come with types"),
        ("in.csv", "out.parquet", "come with types"),
        ("in.jsonl", "out.parquet.gz", "told by its name"),
    ],
)
def test_an_output_that_these_rows_cannot_become(run, name, out, words):
    with pytest.raises(ConfigurationError, match=words):
        run(b"question,answer\n" if name == "in.csv" else GOOD, name, out)


def test_a_data_set_like_one_on_the_hub(tmp_path, monkeypatch):
    """The library reads a folder of this name as it reads a repository of the Hub."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_bytes(GOOD * 3)
    monkeypatch.chdir(tmp_path)
    from aligner_integrations.corpus.source import HubSource

    source = HubSource("owner/name", "train")
    columns = Columns()
    columns.check(source.header, str(source))
    assert [placed.record.pair(columns)[:2] for placed in source.records()] == [("q", "bad")] * 3
    assert source.identities([], print)[0].rows == 3
    assert source.identities([], print) == HubSource("owner/name", "train").identities([], print)
