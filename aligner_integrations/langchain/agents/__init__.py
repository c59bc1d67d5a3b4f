"""Agents whose answers and thoughts are corrected."""
