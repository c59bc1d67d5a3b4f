"""An aligner on this machine, with transformers and torch."""
