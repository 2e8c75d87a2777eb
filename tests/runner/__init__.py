"""The runner against real Redis and scripted engines."""
