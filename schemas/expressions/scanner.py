"""One pass over the text before the parser sees it, in time linear in its length.

celpy's lexer backtracks exponentially on some string literals, reads raw strings wrongly and knows no quoted
selectors. So the literals are read here, and the parser gets the same text with each of them blanked out:
every offset stays what it was, and no text can make the parser slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from schemas.expressions.error import ExpressionError
from schemas.limits import LIMITS

MAX_TOKENS = 1500
MAX_NESTING = 64

_TOKEN = re.compile(
    r"""
    (?P<space>[\t\n\f\r ]+|//[^\n]*)
  | (?P<string>(?:[bB]?[rR]?)(?P<quote>\"{3}|'{3}|["']))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*|(?:0x[0-9a-fA-F]+|[0-9]+(?:[eE][-+]?[0-9]+)?)[uU]?(?![A-Za-z0-9_]))
  | (?P<selector>`[A-Za-z0-9_./ -]+`(?![A-Za-z0-9_]))
  | (?P<mark>&&|\|\||[=!<>]=|[-+*/%<>!?:.,(){}\[\]])
    """,
    re.VERBOSE,
)
_BODIES = {
    (quote, raw): re.compile(
        (rf"(?:[^{quote[0]}\\\n\r]|\\[^\n\r])*+" if len(quote) == 1 else rf"(?:[^{q}\\]|\\.|{q}(?!{q}{q}))*+")
        if not raw
        else (rf"[^{q}\n\r]*+" if len(quote) == 1 else rf"(?:[^{q}]|{q}(?!{q}{q}))*+"),
        re.DOTALL,
    )
    for quote in ('"', "'", '"""', "'''")
    for raw in (False, True)
    for q in (quote[0],)
}
_ESCAPE = re.compile(
    r"""\\(?:
    (?P<plain>[abfnrtv\\?"'`]) | [xX](?P<hex>[0-9a-fA-F]{2}) | (?P<octal>[0-3][0-7]{2})
  | u(?P<short>[0-9a-fA-F]{4}) | U(?P<long>[0-9a-fA-F]{8}) | (?P<bad>.?) )""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(slots=True)
class Scan:
    """The text for the parser, and what was taken out of it, by offset."""

    text: str
    end: int  # where the expression ends: the length, or the offset of a template's `}}`
    literals: dict[int, str | bytes] = field(default_factory=dict)
    selectors: dict[int, str] = field(default_factory=dict)


def scan(text: str) -> Scan:
    """Read a whole expression. Raises ExpressionError: `too-long`, `too-deep`, `syntax`."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ExpressionError("syntax", "the text is no valid Unicode", "", error.start) from None
    if size > LIMITS.expression_bytes:
        message = f"the expression is longer than {LIMITS.expression_bytes} bytes"
        raise ExpressionError("too-long", message, text[:80])
    return _Scanner(text, 0, in_template=False).run()


def find_end(text: str, start: int) -> int:
    """The offset of the `}}` that ends the expression starting at `start` of a template; -1 if none does."""
    return _Scanner(text, start, in_template=True).run().end


class _Scanner:
    def __init__(self, text: str, start: int, in_template: bool) -> None:
        self.text = text
        self.start = self.position = start
        self.in_template = in_template
        self.pieces: list[str] = []
        self.comma = 0  # index of the last comma in pieces
        self.after_operand = False
        self.before = ["", ""]  # the last two tokens that are no space
        self.open: list[str] = []
        self.tokens = 0
        self.result = Scan("", -1)

    def run(self) -> Scan:
        text = self.text
        while self.position < len(text):
            if self.in_template and not self.open and text.startswith("}}", self.position):
                self.result.end = self.position
                return self.result
            token = _TOKEN.match(text, self.position)
            if token is None:
                raise self.error("syntax", f"unexpected character {text[self.position]!r}")
            start, self.position = token.span()
            if token.lastgroup == "space":
                self.pieces.append(" " * len(token[0]))
            else:
                self.read_token(token, start)
        self.result.text = "".join(self.pieces)
        self.result.end = -1 if self.in_template else len(text)
        return self.result

    def read_token(self, token: re.Match[str], start: int) -> None:
        self.tokens += 1
        if self.tokens > MAX_TOKENS:
            raise self.error("too-long", f"the expression has more than {MAX_TOKENS} tokens", start)
        operand = token["mark"] is None and token[0] != "in"
        if operand and self.after_operand:
            # celpy's lexer takes words apart to make sense of this: `x inside` would be `x in side`.
            raise self.error("syntax", f"unexpected {token[0][:40]!r}", start)
        if token["string"] is not None:
            self.read_literal(start, token["string"])
        elif token["selector"]:
            if self.before[1] != ".":
                raise self.error("syntax", "a quoted name may only follow a dot", start)
            self.result.selectors[start] = token[0][1:-1]
            self.pieces.append("_" * len(token[0]))
        elif token["mark"]:
            self.read_mark(start, token[0])
        else:
            self.pieces.append(token[0])
        self.after_operand = operand or token[0] in ")]}"
        self.before = [self.before[1], token[0]]

    def error(self, code: str, message: str, position: int | None = None) -> ExpressionError:
        at = self.position if position is None else position
        shown = self.text[self.start : self.start + LIMITS.expression_bytes]
        return ExpressionError(code, message, shown, at - self.start)

    def read_mark(self, start: int, mark: str) -> None:
        if mark in _CLOSING:
            if len(self.open) == MAX_NESTING:
                raise self.error("too-deep", f"brackets are nested deeper than {MAX_NESTING}", start)
            self.open.append(_CLOSING[mark])
        elif mark in ")]}":
            if not self.open or self.open.pop() != mark:
                raise self.error("syntax", f"unexpected {mark!r}", start)
            # CEL allows `[1, 2,]` and `{"a": 1,}`; celpy's grammar does not.
            if mark != ")" and self.before[1] == "," and self.before[0] not in ("[", "{", ","):
                self.pieces[self.comma] = " "
        elif mark == ",":
            self.comma = len(self.pieces)
        self.pieces.append(mark)

    def read_literal(self, start: int, opening: str) -> None:
        quote = opening.lstrip("bBrR")
        prefix = opening[: -len(quote)].lower()
        body = _BODIES[quote, "r" in prefix].match(self.text, self.position)
        assert body is not None  # every body matches the empty text
        if not self.text.startswith(quote, body.end()):
            raise self.error("syntax", "a string that is not closed", start)
        self.position = body.end() + len(quote)
        self.pieces.append('"' + "_" * (self.position - start - 2) + '"')
        if not self.in_template:
            self.result.literals[start] = self.decode(body[0], prefix, start)

    def decode(self, body: str, prefix: str, start: int) -> str | bytes:
        binary = "b" in prefix
        try:
            if "r" not in prefix and "\\" in body:
                unescape = _unescape_byte if binary else _unescape
                body = _ESCAPE.sub(unescape, body)
            # In bytes, an escape is a byte (held as a surrogate until here) and other characters are UTF-8.
            data = body.encode("utf-8", "surrogateescape" if binary else "strict")
        except UnicodeEncodeError:
            raise self.error("syntax", "a string must hold valid Unicode", start) from None
        except ValueError as error:
            raise self.error("syntax", str(error), start) from None
        return data if binary else body


def _unescape(match: re.Match[str]) -> str:
    if match["plain"]:
        return _PLAIN[match["plain"]]
    if match["octal"]:
        return chr(int(match["octal"], 8))
    digits = match["hex"] or match["short"] or match["long"]
    if digits is None:
        raise ValueError(f"no such escape: \\{match['bad']}")
    code = int(digits, 16)
    if code > 0x10FFFF:
        raise ValueError("no such character in Unicode")
    return chr(code)


def _unescape_byte(match: re.Match[str]) -> str:
    if match["short"] or match["long"]:
        raise ValueError("bytes have no \\u escapes; use \\x")
    byte = ord(_unescape(match))
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)
