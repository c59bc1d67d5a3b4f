"""A chat model that is told to correct, instead of an aligner's weights."""
