"""How fast an aligner corrects: each of these measures two ways in one run."""
