"""Log lines: JSON for machines, short text for a terminal."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

# What `extra=` adds to a line comes after these; the three ids first, because they are what one searches for.
IDS = ("run_id", "node_id", "token_id")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_DIM, _YELLOW, _RED, _PLAIN = "\x1b[2m", "\x1b[33m", "\x1b[31m", "\x1b[0m"


def extras(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave with `extra=`, ids first."""
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {name: given[name] for name in IDS if name in given} | given


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, service, logger, message, then `extra`, then error."""

    def __init__(self, *, service: str = "") -> None:
        super().__init__()
        self._service = {"service": service} if service else {}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in extras(record).items() if name not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """`12:00:01 service message  run_id=...`, coloured by level on a terminal."""

    def __init__(self, *, colour: bool, service: str = "") -> None:
        super().__init__()
        self._colour = colour
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        pairs = "".join(f"  {name}={value}" for name, value in extras(record).items())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{clock} {self._service or record.name} {level}{record.getMessage()}"
        if self._colour:
            tint = _RED if record.levelno >= logging.ERROR else _YELLOW if record.levelno > logging.INFO else ""
            text, pairs = f"{tint}{text}{_PLAIN if tint else ''}", pairs and f"{_DIM}{pairs}{_PLAIN}"
        error = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{text}{pairs}{error}"


def configure(
    level: str = "INFO",
    style: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
    *,
    service: str = "",
) -> None:
    """Sends all log lines of this process to `stream` (default: stderr); replaces what was configured before."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    text = style == "text" or (style == "auto" and terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(colour=terminal, service=service) if text else JsonFormatter(service=service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
