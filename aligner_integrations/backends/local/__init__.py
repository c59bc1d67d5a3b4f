"""An aligner on this machine, with transformers and torch.

`backend.py` is what others use. Callers at the same time meet in `batching.py`, and `scheduling.py` runs what they ask for
together. `loading.py` loads weights once, `gguf.py` unpacks those of a package, `gguf_export.py` writes such a file, `cpu.py` makes a CPU fast.
`libraries.py` says which library is missing.
`generation.py` goes from prompt to completion and `streaming.py` shows it piece by piece; `speculative.py` verifies many
drafted tokens in one pass, and `drafter.py` guesses them. `scoring.py` judges answers; `probe.py` is the gate's arithmetic.
`kv_cache.py` holds the tensors on their way, `prefix_cache.py` keeps what can be gone on from, and `prefill.py` reads ahead.
"""
