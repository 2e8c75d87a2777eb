"""Rehearsals: a workflow played against scripted outputs, by the real scripts and decisions, without a server."""
