"""Which question an answer belongs to, found by itself.

`recorder.py` listens to all runs, `run_tree.py` is what it keeps of them, and `matching.py` looks there for the question
that led to an answer. Whose words of it are the question is decided in `user.py`.
"""
