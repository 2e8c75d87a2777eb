"""`pavane ask`: what it asks the API, and how answers read."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from pavane import answers
from pavane.client import Client

SCOPE = {"since": None, "until": None, "batch_id": "batch_1", "workflow_id": None, "next_cursor": None, "groups": 1}
REASON = {"node": "", "detail": "", "since": None, "message": None, "examples": [{"key": "k1", "run_id": "run_1"}]}
MISSING = {
    "node": "grade", "batch_id": "batch_1", "total": 9, "missing": 3, "next_cursor": "more",
    "reasons": [{**REASON, "reason": "failed", "node": "extract", "detail": "timeout", "items": 2,
                 "message": "no\nanswer"},
                {**REASON, "reason": "pending", "items": 1}],
    "items": [{**REASON, "key": "k1", "run_id": "run_1", "status": "FAILED", "reason": "elsewhere", "node": "pick",
               "detail": "rule 0 -> b"}],
}  # fmt: skip
USED = {
    "tasks": 1_200, "failed": 0, "prompt_tokens": 10, "completion_tokens": 2, "execution_s": 61.0, "gpu_s": 30.0,
    "failed_gpu_s": 0, "loads": 0, "load_s": 0,
}  # fmt: skip
TIMES = {"p50": 0.1, "p95": 2.5, "max": 9}
NEWEST = {"class": "timeout", "message": "no result", "run_id": "run_9", "node": "grade"}
FAILURE = {
    "name": "timeout", "attempts": 7, "tasks": 5, "recovered": 4, "taken_over": 0, "open": 0, "final": 1,
    "first_at": 0, "last_at": 0, "newest": NEWEST, "examples": ["run_9"],
}  # fmt: skip
RUN = {
    "run_id": "run_1", "workflow_id": "w", "status": "FAILED", "key": "k", "created_at": 0, "labels": {},
    "error": {"class": "timeout"},
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "missing": MISSING,
    "cost": {**SCOPE, "by": "model", "model": None, "total": USED, "rows": [{"name": "m1", **USED}]},
    "conditions": {**SCOPE, "rows": [{
        "workflow_id": "w", "node": "pick", "rule": "0", "to": None, "expression": "output.x > 1",
        "code": "no-such-field", "message": "none", "count": 3, "runs": 2, "first_at": 0, "last_at": 0,
        "examples": ["run_1"]}]},
    "slowest": {**SCOPE, "by": "node", "rows": [{
        "name": "grade", "workflow_id": "w", "tasks": 5, "total_s": 9, "execution_s": TIMES, "waiting_s": None,
        "examples": ["run_1"]}]},
    "failures": {**SCOPE, "by": "class", "rows": [FAILURE]},
    "search": {**SCOPE, "runs": [RUN], "looked_at": 20_000, "whole": False,
               "not_searched": {"inputs": 2, "outputs": 0, "unfinished": 0}},
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of the API, which gives the answers above."""
    seen: list[tuple[Any, ...]] = []

    def get(_: Client, *path: str, **query: Any) -> Any:
        seen.append((path, query))
        return ANSWERS[path[-1]]

    monkeypatch.setattr(Client, "get", get)
    return seen


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_missing(pavane: Callable[..., Result], asked: list[tuple[Any, ...]]) -> None:
    text = said(pavane("ask", "missing", "grade", "--batch", "batch_1"))
    assert text.startswith("3 of 9 items of batch_1 have no output of grade.")
    assert "2 failed at extract: timeout" in text
    assert "no answer" in text
    assert "1 not admitted yet" in text
    text = said(pavane("ask", "missing", "grade", "--batch", "batch_1", "--list", "--limit", "7"))
    assert "k1 run_1 went another way at pick: rule 0 -> b" in text
    assert asked[-1] == (("ask", "missing"), {"node": "grade", "batch_id": "batch_1", "limit": 7, "cursor": None})


def test_the_others(pavane: Callable[..., Result], asked: list[tuple[Any, ...]]) -> None:
    text = said(pavane("ask", "cost", "--by", "model", "--since", "7d"))
    assert "1,200 tasks took 30 s of GPU time and 12 tokens in batch_1." in text
    assert "FAILED" not in text, "a column of nothing but 0 says nothing"
    assert asked[-1] == (("ask", "cost"), {"limit": 50, "since": "7d", "by": "model"})
    text = said(pavane("ask", "conditions"))
    assert "1 condition was in error" in text
    assert "rule 0: output.x > 1" in text
    assert "no-such-field: none" in text
    text = said(pavane("ask", "slowest"))
    assert "grade 5 100 ms 2.5 s 9 s" in text
    text = said(pavane("ask", "failures"))
    assert "timeout 7 5 4 1 no result" in text
    assert "pavane explain run_9 grade" in text
    assert "pavane retry batch_1" in text
    text = said(pavane("ask", "search", "--input", "a=1", "--input", "b~x", "--label", "t=x", "--status", "failed"))
    assert "the newest 20,000 runs in batch_1 were looked at. Not looked into: 2 have an input over 16 KB." in text
    assert asked[-1][1] == {"limit": 50, "input": ["a=1", "b~x"], "label": ["t=x"], "status": "FAILED"}


@pytest.mark.parametrize("question", sorted(ANSWERS))
def test_answers_to_nothing_and_for_machines(
    pavane: Callable[..., Result], asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    words = ("missing", "grade", "--batch", "batch_1") if question == "missing" else (question,)
    assert pavane("ask", *words, "--json").stdout.startswith("{")
    empty = {"rows": [], "runs": [], "missing": 0, "reasons": [], "items": [], "total": 0, "whole": True}
    if question == "cost":
        empty["total"] = {**USED, "tasks": 0}
    monkeypatch.setitem(ANSWERS, question, {**ANSWERS[question], **empty, "next_cursor": None})
    text = said(pavane("ask", *words))
    assert text.endswith(".")


def test_what_is_left_out(pavane: Callable[..., Result]) -> None:
    assert pavane("ask", "missing", "grade").exit_code == 2
    assert pavane("ask", "slowest", "--by", "colour").exit_code == 2
    assert answers.where_text({"reason": "live", "node": "", "detail": "paused", "since": None}) == "live, paused"


def test_what_a_retention_has_taken_is_said() -> None:
    dropped = {"events": 1200, "until": 1761955200000, "exports": ["execution_events_2025_10.ndjson.gz"]}
    said = answers.dropped_text({"dropped": dropped})
    assert "before 2025-1" in said and "1,200; exported to execution_events_2025_10.ndjson.gz" in said
    assert answers.dropped_text({"dropped": None}) == answers.dropped_text({}) == ""
    assert "not known" in answers.where_text({"reason": "not kept", "node": "", "detail": ""})
