"""What is wrong with a document, and where: every refusal of the product is built from `Problem`s."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a document. `path` is a JSON pointer (RFC 6901) into it, "" for the whole."""

    path: str
    code: str
    message: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class InvalidDocument(ValueError):
    """A document that is refused, with all of its problems, in the order of the document."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.path or '/'}: {p.message}" for p in self.problems))


def pointer(*steps: str | int) -> str:
    """JSON pointer (RFC 6901) of the given steps: `pointer("nodes", 0, "config")` is `/nodes/0/config`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
