"""Backends around other backends: trying again, looking up what was done before, spans."""
