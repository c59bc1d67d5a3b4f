"""Training aligners: from rows to a folder that `Aligner` loads.

`data.py` reads and encodes the rows, `recipes.py` holds the hyper-parameters, `sft.py` trains, `gate.py` fits the gate, `card.py`
describes the result, and `run.py` does all of it in order. The embedded aligner's own data and stages: `embedded/`.
"""
