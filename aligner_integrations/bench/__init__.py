"""How fast an aligner corrects: each of these measures two ways in one run, because machines differ and are busy.

`decoding.py` times corrections one at a time (`scripted.py` makes hard ones), `callers.py` many callers, `overlap.py` the wait
after the upstream's last word; `replay.py` counts passes of recorded corrections. How good the texts are: `evaluation/`.
"""
