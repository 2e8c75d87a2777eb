"""The documents say what is there, and nothing else."""
