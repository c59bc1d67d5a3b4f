"""Which question an answer belongs to, found by itself.

`recorder.py` listens to all runs, `run_tree.py` is what it keeps of them, and `matching.py` looks there for the question
that led to an answer. Which text of it is the question is picked in `tasks.py`, one folder up.
"""
