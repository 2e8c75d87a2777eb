"""Faults: real processes, killed and stopped at any point, on servers that go away; nothing is lost or done twice."""
