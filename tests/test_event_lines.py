"""Events as lines for people."""

from typing import Any

from pavane.event_lines import EventLines


def line(kind: str, **more: Any) -> str:
    return EventLines().line({"run_id": "r", "seq": 1, "type": kind, "at": 1_000, **more})


def test_what_took_over_for_a_failure_is_said() -> None:
    error = {"class": "rejected", "message": "no", "attempts": 1}
    tokens = {
        "r.3": {"node": "sorry", "state": "queued", "from": [["ask", 0, ""]]},
        "r.1": {"node": "x", "state": "held"},
    }
    said = line("node_failed", node_id="ask", error=error, tokens=tokens, outputs={"note": {}})
    assert said.endswith("failed: rejected: no -> note, sorry")


def test_the_item_stands_beside_the_node() -> None:
    assert "a[3][0]" in line("node_completed", node_id="a", scope="12-3.40-0", outputs={"a": 1})


def test_who_paused_and_why() -> None:
    assert line("run_paused", by="ada", reason="lunch").endswith("paused, by ada, reason lunch")


def test_what_a_run_came_from_is_said() -> None:
    origin = {"run_id": "run_1", "seq": 12}
    assert line("run_forked", forked_from=origin, by="ada").endswith("forked from run_1 after event 12, by ada")
    assert line("run_recovered", from_seq=7, by="recorder").endswith("rebuilt in Redis from event 7, by recorder")
    assert line("run_restated", reason="Postgres was older").endswith(
        "told anew as it stands in Redis, reason Postgres was older"
    )
