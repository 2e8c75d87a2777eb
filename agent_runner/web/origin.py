"""Origins: where a call goes, and which of them an operator allows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(?:(https?)://)?(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """host: lower case and ASCII (IDNA), an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """As the header `Host` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def secured(self) -> Origin:
        """The same host over TLS, where each scheme has its usual port."""
        return Origin("https", self.host, 443) if (self.scheme, self.port) == ("http", 80) else self


class Hosts:
    """A list of hosts that an operator wrote: `example.org`, `*.example.org`, `http://10.0.0.7:8000`.

    Without a scheme an entry means any of `schemes`, without a port any port. `*.` stands for all names below a host.
    """

    def __init__(self, entries: Iterable[str], schemes: Sequence[str] = ("http", "https")) -> None:
        """Raises ValueError for an entry that can not be read, and does not show it: it may be a whole URL."""
        self._entries = [_entry(number, text, schemes) for number, text in enumerate(entries, 1)]

    def __contains__(self, origin: Origin) -> bool:
        return any(
            origin.scheme in schemes
            and port in (None, origin.port)
            and (origin.host.endswith("." + host) if below else origin.host == host)
            for schemes, below, host, port in self._entries
        )


def _entry(number: int, text: str, schemes: Sequence[str]) -> tuple[Sequence[str], bool, str, int | None]:
    read = _ENTRY.fullmatch(text.strip().lower())
    if read is None or int(read[5] or 1) not in range(1, 65_536):
        raise ValueError(
            f"entry {number} is no host: write `example.org`, `*.example.org` or `http://example.org:8000`"
        )
    return (read[1],) if read[1] else schemes, bool(read[2]), read[3].strip("[]"), int(read[5]) if read[5] else None
