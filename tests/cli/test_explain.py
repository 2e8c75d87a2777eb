"""`pavane explain` and the story that `pavane show` tells, of events written by hand."""

from typing import Any

import pytest

from pavane.cli import explain, show
from pavane.run_story import RunStory

RUN = {
    "run_id": "run_1", "status": "FAILED", "workflow_id": "hello", "version": 2, "revision": 1, "batch_id": "batch_1",
    "key": "k", "labels": {"team": "x"}, "seq": 9, "input": {"name": "Ada"}, "outputs": {"a": {"n": 1}}, "output": None,
    "error": {"class": "timeout", "message": "slow", "attempts": 2, "node": "b"}, "live_tokens": [], "parent": None,
    "children": [], "created_at": 1_000, "ended_at": 3_000,
    "usage": {"tasks": 3, "prompt_tokens": 5, "completion_tokens": 7, "execution_time_ms": 40.0},
}  # fmt: skip


def events() -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = [
        {"type": "run_started", "by": "ada"},
        {"type": "task_started", "node_id": "a", "token_id": "t1", "attempt": 1},
        {"type": "node_completed", "node_id": "a", "token_id": "t1", "outputs": {"a": {"n": 1}, "q": {"n": 1}},
         "usage": {"llm_model": "m", "prompt_tokens": 5, "completion_tokens": 7},
         "decisions": [{"node": "q", "rule": 0, "next": ["b"], "true": "output.n > 0", "values": {"output.n": 1}}],
         "condition_errors": [{"node": "q", "expression": "output.z", "message": "output has no field 'z'"}]},
        {"type": "run_paused", "by": "ada", "reason": "lunch"},
        {"type": "run_resumed", "by": "bob"},
        {"type": "task_started", "node_id": "b", "token_id": "t2", "attempt": 1},
        {"type": "task_retried", "node_id": "b", "token_id": "t2", "delay_ms": 500,
         "error": {"class": "timeout", "message": "slow", "attempts": 1, "node": "b"}},
        {"type": "node_failed", "node_id": "b", "token_id": "t2", "error": RUN["error"]},
        {"type": "run_failed", "error": RUN["error"]},
    ]  # fmt: skip
    return [{"seq": seq, "at": 1_000 + 100 * seq, "run_id": "run_1", **body} for seq, body in enumerate(bodies, 1)]


class Answers:
    """The client, and what the API would say."""

    def __init__(self, run: dict[str, Any], told: list[dict[str, Any]]) -> None:
        self.run, self.told = run, told

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def get(self, *path: str, **query: Any) -> Any:
        if path[-1] == "events":
            after, limit = query.get("after", 0), query["limit"]
            return {"events": [event for event in self.told if event["seq"] > after][:limit]}
        if path[-1] == "cost":
            return {"cost": 0.0000021}
        if path[-1] == "explain":
            return {"sentences": [["a completed.", "It gave 1."], ["a failed."]], "executions": [], "limit": query}
        return self.run


def test_the_story_of_a_run() -> None:
    assert [(one.at, one.text) for one in RunStory(1_000).tell(events())] == [
        (100, "ada started it."),
        (300, 'a gave {"n": 1} after 100 ms (m, 5 + 7 tokens).'),
        (300, "q went to b: rule 1, because `output.n > 0` was true (output.n is 1)."),
        (300, "q: `output.z` has no value, and counts as false: output has no field 'z'."),
        (400, "ada paused it: lunch."),
        (500, "bob let it go on."),
        (700, "b failed after 100 ms: timeout: slow; it is tried again after 500 ms."),
        (800, "b failed: timeout: slow (attempt 2)."),
    ]


@pytest.mark.parametrize("kind", ["run_recovered", "run_restated", "run_forked", "run_cancelled", "run_timed_out"])
def test_whatever_happens_to_a_run_is_told(kind: str) -> None:
    (told,) = RunStory(0).tell([{"seq": 1, "at": 5, "type": kind, "by": "ada", "reason": "so"}])
    assert told.text.endswith(".") and ("ada" in told.text) == (kind != "run_timed_out")


def test_show_tells_it(pavane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "client_of", lambda api, data: Answers(RUN, events()))
    said = pavane("show", "run_1").stdout.splitlines()
    assert said[0] == "run_1, a run of hello version 2, is FAILED."
    assert "  It belongs to the batch batch_1, with the key k." in said
    assert "What happened" in said and "Now" not in said
    assert said[-2:] == [
        '  a gave {"n": 1}.', "  It took 3 tasks, 40 ms of work, 5 + 7 tokens, and cost 0.0000021.",
    ]  # fmt: skip


def test_a_run_that_redis_has_lost_waits_for_nobody(pavane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**RUN, "status": "RUNNING", "ended_at": None, "lost": True, "live_tokens": [{"node_id": "b"}]}
    monkeypatch.setattr(show, "client_of", lambda api, data: Answers(found, events()))
    assert show.LOST in pavane("show", "run_1").stdout


def test_a_long_story_is_cut_in_the_middle(pavane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = [
        {"seq": seq, "at": 1_000 + seq, "type": "run_paused", "by": f"user{seq}", "run_id": "run_1"}
        for seq in range(1, 5_001)
    ]
    for seq in (5_000, 100):
        monkeypatch.setattr(show, "client_of", lambda api, data, seq=seq: Answers({**RUN, "seq": seq}, paused[:seq]))
        said = pavane("show", "run_1").stdout
        assert "More lies between: pavane logs run_1 shows all of it." in said
        assert "user1 paused it." in said and f"user{seq} paused it." in said and "user50 paused" not in said
        assert said.count("paused it.") == show.FIRST_SENTENCES + show.LAST_SENTENCES


def test_explain(pavane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "client_of", lambda api, data: Answers(RUN, []))
    assert pavane("explain", "run_1", "a").stdout == "a completed.\n  It gave 1.\n\na failed.\n"
    assert '"item":3' in pavane("explain", "run_1", "a", "--item", "3", "--json").stdout
    assert "sentences" not in pavane("explain", "run_1", "a", "--json").stdout
    assert pavane("explain", "run_1", "a", "--item", "-1").exit_code == 2
