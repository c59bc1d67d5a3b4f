"""AlpacaEval's figures by hand, the published ones where their files are at hand, and files that are none."""

import gzip
import json
import math
import os
import random
from pathlib import Path

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.alpaca import evaluate
from aligner_integrations.evaluation.alpaca_files import (
    Annotation,
    aligner_rows,
    read_annotations,
    read_difficulty,
    read_gamed,
)

# CC BY-NC 4.0, so it is measured with where it lies and comes with nobody. ALPACA_DATA names the folder.
DATA = Path(os.environ.get("ALPACA_DATA", "no folder"))
published = pytest.mark.skipif(
    not (DATA / "alpacaeval2_lc").is_dir(),
    reason="ALPACA_DATA names no folder with AlpacaEval's annotations, which are under CC BY-NC 4.0",
)


def annotation(preference, first="a baseline", second="a model"):
    return Annotation("why?", first, second, preference)


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_by_hand():
    rows = [annotation(1.0), annotation(0.0), annotation(0.75), annotation(0.5), annotation(None)]
    figures = evaluate({"m": rows}).models["m"]
    assert figures.win_rate == pytest.approx(100 * 2.25 / 4)
    assert figures.standard_error == pytest.approx(
        100 * math.sqrt(sum((x - 0.5625) ** 2 for x in (1, 0, 0.75, 0.5)) / 3 / 4)
    )
    assert (figures.wins, figures.losses, figures.ties, figures.without) == (2, 1, 1, 1)
    assert (figures.length, figures.baseline_length) == (7, 10)
    assert figures.length_controlled_win_rate is None
    assert figures.why_not == "The length-controlled win rate needs a file of difficulties and one of gamed rows."


def made(count, longer_wins, seed=0):
    """A judge that decides by length alone, or not by length at all (60% won); outputs of the model are longer."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        more = rng.randint(-30, 60)
        won = more > 0 if longer_wins else rng.random() < 0.6
        rows.append(annotation(0.95 if won else 0.05, "b" * 100, "m" * (100 + more)))
    return rows


@pytest.fixture
def files(tmp_path):
    hard = write_csv(tmp_path / "d.csv", ",glm_preference", [(i, math.sin(i)) for i in range(300)])
    header = "index,instruction_difficulty,model,preference,std_delta_len,not_gamed_baseline"
    rng = random.Random(1)
    rows = []
    for i in range(300):
        for name, shift in (("verbose", -1.5), ("concise", 1.5)):
            length = shift + rng.gauss(0, 0.5)
            rows.append((i, math.sin(i), name, 1 / (1 + math.exp(length)), length, False))
    return hard, write_csv(tmp_path / "g.csv", header, rows)


def test_lengths_are_taken_out(files):
    hard, gamed = files
    by_length = evaluate({"m": made(300, longer_wins=True)}, difficulty=hard, gamed=gamed).models["m"]
    by_worth = evaluate({"m": made(300, longer_wins=False)}, difficulty=hard, gamed=gamed).models["m"]
    assert by_length.win_rate > 60 and by_length.length_controlled_win_rate == pytest.approx(50, abs=6)
    assert by_worth.length_controlled_win_rate == pytest.approx(by_worth.win_rate, abs=4)


def test_annotations_without_a_preference_are_in_no_rate(files):
    hard, gamed = files
    rows = made(290, longer_wins=False)
    some = evaluate({"m": [*rows, *[annotation(None, "b" * 9, "m")] * 5]}, difficulty=hard, gamed=gamed).models["m"]
    assert some.win_rate == evaluate({"m": rows}).models["m"].win_rate
    assert some.length_controlled_win_rate is not None


def test_what_cannot_be_fitted_is_a_sentence(files):
    hard, gamed = files
    with pytest.raises(ConfigurationError, match="301 annotations, and difficulties of 300"):
        evaluate({"m": made(301, longer_wins=True)}, difficulty=hard, gamed=gamed)
    with pytest.raises(ConfigurationError, match="the same length"):
        evaluate({"m": [annotation(1.0)] * 9}, difficulty=hard, gamed=gamed)
    with pytest.raises(ConfigurationError, match="no annotations"):
        evaluate({})
    with pytest.raises(ConfigurationError, match="None of the annotations"):
        evaluate({"m": [annotation(None)]})


@published
@pytest.mark.parametrize(
    ("name", "win_rate", "controlled"),
    [("vicuna-13b", 5.831, 9.222), ("gemma-2b-it", 3.402, 5.437), ("claude-2", 17.188, 28.155)],
)
def test_published_figures(name, win_rate, controlled):
    board = {
        row.split(",")[0]: row.split(",") for row in (DATA / "alpacaeval2_leaderboard.csv").read_text().splitlines()
    }
    figures = evaluate(
        {name: read_annotations(DATA / "alpacaeval2_annotations" / f"{name}.json.gz")},
        difficulty=DATA / "alpacaeval2_lc" / "difficulty.csv",
        gamed=DATA / "alpacaeval2_lc" / "df_gamed_rebuilt.csv",
    ).models[name]
    assert figures.win_rate == pytest.approx(float(board[name][1]), abs=0.001)
    assert figures.win_rate == pytest.approx(win_rate, abs=0.01)
    assert figures.length_controlled_win_rate == pytest.approx(float(board[name][10]), abs=0.15)
    assert figures.length_controlled_win_rate == pytest.approx(controlled, abs=0.15)


@published
def test_the_leaderboards_rows_of_aligner_2b():
    lines = aligner_rows(DATA / "alpacaeval2_leaderboard.csv")
    assert [line[0] for line in lines[1:3]] == ["gpt-4-turbo-2024-04-09", "aligner-2b_gpt-4-turbo-2024-04-09"]
    assert lines[2][1:] == ["58.33", "46.77", "1370"]


# Files ----------------------------------------------------------------------------------------------------------------


ROW = {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.25}


@pytest.mark.parametrize(("raw", "share"), [(1, 0.0), (2, 1.0), (1.25, 0.25), (0, 0.5), (None, None), (math.nan, None)])
def test_preferences_as_annotators_write_them(tmp_path, raw, share):
    (tmp_path / "a.json").write_text(json.dumps([{**ROW, "preference": raw}]))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    for name in ("a.json", "a.json.gz"):
        assert read_annotations(tmp_path / name) == [Annotation("i", "a", "b", share)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("{}", "no list"),
        ("[]", "no list"),
        ("[3]", "annotation 0: it is int"),
        (json.dumps([{**ROW, "output_2": None}]), "output_2 is missing"),
        (json.dumps([ROW, {**ROW, "preference": "1"}]), "annotation 1: its preference is '1'"),
        (json.dumps([{**ROW, "preference": 3}]), "its preference is 3"),
        (json.dumps([{**ROW, "preference": True}]), "its preference is True"),
    ],
)
def test_annotations_that_are_none(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigurationError, match=says):
        read_annotations(tmp_path / "a.json")
    (tmp_path / "a.json.gz").write_bytes(content.encode())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_annotations(tmp_path / "a.json.gz")


def test_tables_that_are_none(tmp_path):
    path = tmp_path / "x.csv"
    for content, says in (
        ("", "no rows"),
        ("a\n1\n", "no column"),
        (",glm_preference\n0,x\n", "line 2: 'x' is no number"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=says):
            read_difficulty(path)
    path.write_text("std_delta_len,instruction_difficulty,not_gamed_baseline,preference\n1,1,maybe,1\n")
    with pytest.raises(ConfigurationError, match="line 2: not_gamed_baseline is 'maybe'"):
        read_gamed(path)
    path.write_text(",win_rate,length_controlled_winrate,avg_length\nmodel,1,2,3\n")
    with pytest.raises(ConfigurationError, match="no row of an aligner"):
        aligner_rows(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_difficulty(tmp_path / "none.csv")
