"""Recorded corrections become data to train on.

`filters.py` says which records are fit for that, `near_duplicates.py` finds what is there twice in other words, `formats.py` lays out rows as TRL and
`aligner train` take them, and `export.py` writes all of it with statistics and a card. What records are: `recording/records.py`.
"""
