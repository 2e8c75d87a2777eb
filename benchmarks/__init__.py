"""Measurements, each as a ratio to a floor or a peer in the same run (README.md says how to read them)."""
