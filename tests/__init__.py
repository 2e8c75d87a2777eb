"""Tests of the whole, by area."""
