"""Batch marks: a run's hash says in `batch_patch` which patch of its batch it had last. lua/patch_run.lua writes it in
the step that patches the run, admission where a run begins with the patched workflow; so that no run is patched twice,
and a patch can be taken back."""

from __future__ import annotations

from typing import NamedTuple, Self


class BatchMark(NamedTuple):
    """`<name> <revision> <digest>`. The name is the patch's number, or `<number>-reverted`."""

    name: str
    revision: int  # that the run had with it
    before: str  # digest of the IR that it leads away from

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None for ""."""
        if not text:
            return None
        name, revision, before = text.split(" ")
        return cls(name, int(revision), before)

    def __str__(self) -> str:
        return f"{self.name} {self.revision} {self.before}"


def reverted(number: int) -> str:
    """Name of the mark of a run whose patch was taken back."""
    return f"{number}-reverted"
