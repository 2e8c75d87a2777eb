"""Text for answers, made from the prompt's own words, so that a summary looks like one of that text."""

from __future__ import annotations

import random
import re

LOOKED_AT = 20_000  # characters of a prompt: enough to quote from
_STOP = frozenset(["the", "and", "for", "that", "this", "with", "from", "are", "was", "not", "you", "can"])
_FILLER = "Nothing more can be said about it."
_LABEL = re.compile(r"^[A-Z][\w ]{0,30}:(?=\s)", re.MULTILINE)  # `Docstring:` before the text that a prompt is about
_BETTER = re.compile(r"\b(improve|revise|rewrite|better)", re.IGNORECASE)


class Prose:
    """The sentences and words of one prompt: of its labelled parts if there are any, else of all but its first line,
    which is taken for the instruction."""

    def __init__(self, prompt: str) -> None:
        text = prompt[:LOOKED_AT].encode("utf-8", "replace").decode()
        instruction, _, body = text.strip().partition("\n")
        labelled = _LABEL.split(body)[1:]
        source = "\n\n".join(labelled).strip() or body.strip() or instruction
        pieces = re.split(r"(?<=[.!?])\s+|\n\s*\n", source)
        found = [" ".join(piece.split()) for piece in pieces]
        self._sentences = [one[:300] for one in found if len(one) >= 12] or [source[:300].strip() or _FILLER]
        words = re.findall(r"[^\W\d_]{3,}", source)
        self._words = [word for word in words if word.lower() not in _STOP] or ["text"]
        self.improving = _BETTER.search(instruction) is not None

    def sentences(self, draw: random.Random, count: int) -> str:
        """Up to `count` sentences, in the order in which they stand in the prompt, the first among them."""
        last = len(self._sentences) - 1
        places = sorted({0, *(draw.randint(0, last) for _ in range(count - 1))})
        return " ".join(self._sentences[place] for place in places)

    def words(self, draw: random.Random, count: int) -> str:
        """`count` words that stand side by side in the prompt."""
        start = draw.randrange(max(1, len(self._words) - count + 1))
        return " ".join(self._words[start : start + count])
