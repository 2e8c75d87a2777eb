"""Tests of the engines: the adapter, and the simulated engine that it is tested against."""
