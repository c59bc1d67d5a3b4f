"""Measuring an aligner. Each measure is one word of `aligner evaluate` and one file here.

    rows        own_rows.py   how close to the corrections of one's own rows, what is kept, how often worse
    quality     quality.py    is rude text civil, does good text stay as it is; its rows: `rows.py`
    harmless    harmless.py   is harm declined and abuse made civil, do harmless answers and refusals stay
    win-rate    win_rate.py   how often a judge finds corrections better, and how often worse: its words in `judge.py` and
                              `wordings/`, who is asked and what is kept in `asked.py`, its rows in `pairs.py`
    three-h     three_h.py    win rates of several upstreams on several question sets: the paper's Table 1
    alpaca      alpaca.py     AlpacaEval's win rates, raw and length-controlled, from annotation files

`aligner calibrate` turns win rates into a gate with a promise: `calibration.py`, and `score_gate.py` for aligners that brought none.

What all of them share: running the aligner (`corrected.py`), win and loss rates with their intervals (`intervals.py`), what a report
is (`report.py`), and the page it becomes (`html/`).
"""
