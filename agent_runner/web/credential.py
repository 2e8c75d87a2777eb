"""Credentials: secrets that documents name and never hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_runner.web.origin import Hosts


@dataclass(frozen=True, slots=True)
class Credential:
    """A header that goes to `hosts` and nowhere else."""

    header: str
    value: str = field(repr=False)
    hosts: Hosts
