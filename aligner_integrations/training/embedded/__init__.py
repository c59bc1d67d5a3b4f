"""The recipe that makes the embedded aligner again, from data to model card."""
