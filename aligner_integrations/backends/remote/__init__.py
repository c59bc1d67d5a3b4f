"""An aligner on a server, over HTTP."""
