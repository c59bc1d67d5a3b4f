"""Training aligners: data, supervised training, the gate, and the embedded aligner's recipe."""
