"""Keys: what a person presses at a terminal, one at a time and without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

ESCAPE_S = 0.05
"""In which the rest of an arrow's sequence comes; a lone Escape has none."""
_NAMES = {
    "\r": "enter", "\n": "enter", " ": "right", "n": "right", "p": "left", "q": "quit", "\x03": "quit", "\x04": "quit",
    "": "quit", "\x7f": "back", "\x08": "back", "\x1b": "escape", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOC": "right", "\x1bOD": "left", "\x1b[H": "home", "\x1b[F": "end", "\x1b[1~": "home", "\x1b[4~": "end",
    "\x1bOH": "home", "\x1bOF": "end", "g": "home", "G": "end",
}  # fmt: skip


@contextmanager
def pressed() -> Iterator[Iterator[str]]:
    """The keys, by name (`right`, `enter`, `quit` ...) or as their character; the terminal is as before in the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield _keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _keys(descriptor: int) -> Iterator[str]:
    while True:
        read = os.read(descriptor, 1)
        if read == b"\x1b":
            while len(read) < 8 and select.select([descriptor], [], [], ESCAPE_S)[0]:
                read += os.read(descriptor, 1)
                if (read[-1:].isalpha() and read[-1:] != b"O") or read[-1:] == b"~":
                    break
        text = read.decode(errors="replace")
        yield _NAMES.get(text, text)
