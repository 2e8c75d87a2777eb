"""Log lines for machines and for people."""

import io
import json
import logging

import pytest

from pavane.logs import JsonFormatter, TextFormatter


def record(
    message: str, level: int = logging.INFO, error: Exception | None = None, **extra: object
) -> logging.LogRecord:
    return logging.getLogger("coordinator").makeRecord(
        "coordinator",
        level,
        "file.py",
        1,
        message,
        (),
        (type(error), error, None) if error else None,
        extra=extra,
    )


def test_a_json_line_holds_the_ids_and_whatever_else_was_given() -> None:
    text = JsonFormatter().format(record("advanced", size=3, token_id="t", node_id="n", run_id="r"))
    line = json.loads(text)
    assert list(line) == ["time", "level", "logger", "message", "run_id", "node_id", "token_id", "size"]
    assert (line["message"], line["run_id"], line["size"]) == ("advanced", "r", 3)


def test_a_line_is_one_line_whatever_it_says() -> None:
    text = JsonFormatter().format(record("a\nb", error=ValueError("c\nd"), odd=object(), keyed={1: 2}))
    assert "\n" not in text and json.loads(text)["error"].startswith("ValueError: c")


@pytest.mark.parametrize("colour", [True, False])
def test_text_for_people(colour: bool) -> None:
    text = TextFormatter(colour=colour).format(record("late", logging.WARNING, run_id="r"))
    assert "coordinator warning: late" in text and "run_id=r" in text
    assert ("\x1b[" in text) is colour


def test_auto_writes_json_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    from pavane import logs

    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    try:
        logs.configure("INFO", "auto", stream)
        logging.getLogger("recorder").info("copied", extra={"run_id": "r"})
    finally:
        logging.getLogger().handlers[:] = before
    assert json.loads(stream.getvalue())["run_id"] == "r"
