"""What is wrong with a server that is to run an aligner, in sentences, and which flag mends it.

    examine (`checks.py`) asks a server (`asking.py`) and comes to findings

What lives elsewhere: how corrections are asked for (`backends/remote/`).
"""
