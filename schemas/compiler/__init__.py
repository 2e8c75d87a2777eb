"""Workflow document -> IR: its shape, its graph, and what its expressions may read."""
