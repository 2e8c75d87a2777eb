"""Conditions: CEL, JSON Schema or JSONPath, each a question about what arrived, answered yes or no."""
