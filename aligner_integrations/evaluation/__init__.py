"""Measuring an aligner. `quality.py`: is rude text civil, does good text stay as it is; `rows.py`: what it is measured on."""
