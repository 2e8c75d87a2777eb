"""Explanations: why a node of a run was executed as it was, or was not, from the events alone. Pure."""
