"""Training aligners: from rows to a folder that `Aligner` loads.

`data.py` reads and encodes the rows, `recipes.py` holds the hyper-parameters, `sft.py` trains, `gate.py` fits the gate, `card.py`
describes the result, and `run.py` does all of it in order. The embedded aligner's own data and stages: `embedded/`. Recorded
corrections become data in `preferences/`, an upstream learns from them in `bootstrap/`, and `warm_up.py` measures the identity warm-up.
"""
