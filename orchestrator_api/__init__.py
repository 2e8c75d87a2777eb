"""The HTTP surface: submit, validate, read, follow and control runs and batches."""
