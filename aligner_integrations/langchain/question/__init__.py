"""Which question an answer belongs to, found by itself."""
