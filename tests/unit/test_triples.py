"""Rows from every kind of file, under the names they have there; what is wrong is said with its place."""

import csv
import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.triples import Triple, read_records, read_triples

ROWS = [
    {"question": "Is it?", "answer": "It is bad.", "correction": "It is good."},
    {"question": "Ünï?", "answer": "a\nb", "correction": "a b"},
]
TRIPLES = [Triple("Is it?", "It is bad.", "It is good."), Triple("Ünï?", "a\nb", "a b")]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rows))
    return read_triples(path)


# Reading ------------------------------------------------------------------------------------------------------------


def write_jsonl(folder):
    (folder / "rows.jsonl").write_text(lines(ROWS))
    return folder / "rows.jsonl"


def write_gz(folder):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write(lines(ROWS))
    return folder / "rows.jsonl.gz"


def write_parquet(folder):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    return folder / "rows.parquet"


def write_csv(folder):
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "correction"])
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "rows.csv"


def write_folder(folder):
    for number, row in enumerate(ROWS):
        (folder / f"{number}.jsonl").write_text(lines([row]))
    (folder / "README.md").write_text("not data")
    return folder


@pytest.mark.parametrize("write", [write_jsonl, write_gz, write_parquet, write_csv, write_folder])
def test_triples_from(tmp_path, write):
    source = write(tmp_path)
    assert read_triples(source) == TRIPLES
    assert read_triples(str(source)) == TRIPLES


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it?", "rejected": "It is bad.", "chosen": "It is good."},
        {
            "prompt": [message("system", "Be."), message("user", "Is it?")],
            "rejected": [message("assistant", "It is bad.")],
            "chosen": [message("assistant", "It is good.")],
        },
        {
            "prompt": "Is it?",
            "rejected": [message("user", "Is it?"), message("assistant", "It is bad.")],
            "chosen": [message("user", "Is it?"), message("assistant", "It is good.")],
        },
    ],
    ids=["strings", "conversational", "conversational answers"],
)
def test_preference_pairs(tmp_path, row):
    assert read(tmp_path, row) == TRIPLES[:1]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"question": "q", "answer": "a"}, r"\['answer', 'question'\]"),
        ({"question": "q", "answer": "a", "correction": None}, "not text"),
        ({"question": "q", "answer": 3, "correction": "c"}, "not text"),
        ({"chosen": "c", "rejected": "a"}, "not text"),
        ({"prompt": "q", "chosen": [], "rejected": "a"}, "not text"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, named):
    with pytest.raises(ConfigurationError, match=f"line 1: .*{named}"):
        read(tmp_path, row)


def test_a_later_bad_row_is_named_by_its_number(tmp_path):
    with pytest.raises(ConfigurationError, match="line 2: "):
        read(tmp_path, ROWS[0], {**ROWS[1], "answer": None})


@pytest.mark.parametrize("name", ["rows.txt", "rows.tsv"])
def test_a_file_of_another_kind(tmp_path, name):
    (tmp_path / name).write_text("x")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigurationError, match="no .jsonl"):
            read_triples(source)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("content", ["{", "", "[1, 2]\n3\n"], ids=["cut", "empty", "lists"])
def test_a_file_that_is_not_what_it_is_called(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(name)):
        read_triples(tmp_path / name)


def test_the_second_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl").write_text(lines([*ROWS, {}]))
    with pytest.raises(ConfigurationError, match=r"b\.jsonl, line 3"):
        read_triples(tmp_path)


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigurationError, match="neither a file here nor a data set"):
        read_triples(tmp_path / "missing.jsonl")


def test_columns_of_other_names(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([{"ask": "q", "draft": "a", "gold": "c", "answer": "not this one"}]))
    columns = {"question": "ask", "answer": "draft", "correction": "gold"}
    assert read_triples(path, columns=columns) == [Triple("q", "a", "c")]
    ((place, row),) = read_records(path, columns={"question": "ask"})
    assert place == f"{path}, line 1"
    assert row["question"] == "q" and row["gold"] == "c"


def test_a_column_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(ROWS))
    with pytest.raises(ConfigurationError, match=r"line 1: it has no column 'draft'; its columns are \['answer', "):
        read_triples(path, columns={"answer": "draft"})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"question,answer\nq\n", "line 2: it has not as many cells"),
        (b"question,answer\nq,a,more\n", "line 2: it has not as many cells"),
        (b'question,answer\nq,"a\n', "cannot be read as CSV"),
        (b"question,answer\nq,\xff\n", "not UTF-8"),
        (b"", "holds no rows"),
    ],
)
def test_a_csv_file_that_is_none(tmp_path, content, named):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ConfigurationError, match=named):
        read_records(tmp_path / "rows.csv")


def test_a_long_answer_in_a_csv_file(tmp_path):
    before = csv.field_size_limit()
    long = "word, " * 50_000
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer", "correction"], ["q", long, "c"]])
    assert read_triples(tmp_path / "rows.csv") == [Triple("q", long, "c")]
    assert csv.field_size_limit() == before  # of the whole process
