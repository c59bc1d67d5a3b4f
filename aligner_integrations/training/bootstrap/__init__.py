"""Bootstrapping an upstream (paper, section 4): its answers are corrected, and it learns from the corrections, round after round.

    questions -> answers of the upstream -> corrections -> SFT, or DPO with an SFT term -> measured -> next round on fresh questions

`recipe.py` holds the settings, `questions.py` what is asked and what is held out, `upstream.py` answers, `data.py` makes rows of corrections, `tune.py`
trains, `measure.py` measures, `rounds.py` is one round and what is built upon, `run.py` all rounds of all arms, and `report.py` the
card with its plots. What the embedded recipe asks: `paradetox.py`. Weak to strong is the same: the upstream may be larger than its aligner.
"""
