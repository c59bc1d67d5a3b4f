"""Ways to run an aligner, one file each."""
