"""Replay: a recorded run step by step, as people read it."""
