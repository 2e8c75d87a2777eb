"""People, events, times, called workflows, and calls to the world outside."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rehearsal.stories import Document, function, places, play, transform, workflow

DAY_MS = 86_400_000


def asked(**config: Any) -> Document:
    node = {"id": "ask", "type": "human", "config": {"deadline_ms": DAY_MS, "deadline_path": ["late"], **config}}
    return workflow(node | {"on_error": ["no"]}, transform("late", how="output.error.class"),
                    transform("no", how="output.error.message"))  # fmt: skip


async def test_a_person_answers() -> None:
    document = asked(prompt="Publish {{ input.title }}?", choices=["yes", "no"], assignee="ada")
    played = await play(document, input={"title": "T"}, outputs={"ask": {"choice": "yes"}},
                        expect={"output": {"choice": "yes"}, "path": ["ask"]})  # fmt: skip
    assert played.passed, (played.fault, played.differences)
    assert played.record.rendered["ask"] == {"prompt": "Publish T?", "assignee": "ada"}


async def test_a_person_does_not_answer_in_time() -> None:
    document = asked(remind_ms=DAY_MS // 4)
    played = await play(document, outputs={"ask": {"deadline": True}}, expect={"output": {"how": "deadline"}})
    assert played.passed, (played.fault, played.differences)
    assert played.took_ms == DAY_MS
    too_late = {"output": {}, "after_ms": DAY_MS + 1}
    assert (await play(document, outputs={"ask": too_late}, expect={"path": ["ask", "late"]})).passed


async def test_a_person_says_no() -> None:
    reply = {"error": {"class": "rejected", "message": "too dear"}}
    played = await play(asked(), outputs={"ask": reply}, expect={"path": ["ask", "no"], "output": {"how": "too dear"}})
    assert played.passed, (played.fault, played.differences)


@pytest.mark.parametrize(
    ("config", "reply"),
    [
        ({"choices": ["yes"]}, {"choice": "no"}),
        ({"form": {"type": "object", "required": ["n"]}}, {"m": 1}),
        ({}, "yes"),
        ({}, {"error": "timeout"}),
    ],
    ids=str,
)
async def test_an_answer_that_the_api_would_refuse_is_a_fault(config: Any, reply: Any) -> None:
    played = await play(asked(**config), outputs={"ask": reply})
    assert played.fault is not None and played.fault.place.startswith("outputs.ask")


async def test_a_deadline_that_is_not_there_is_a_fault() -> None:
    plain = workflow({"id": "ask", "type": "human", "config": {}})
    played = await play(plain, outputs={"ask": {"deadline": True}})
    assert played.fault is not None and "deadline_ms" in played.fault.message


async def test_an_unscripted_question_says_what_was_asked() -> None:
    played = await play(asked(prompt="Sure?"))
    assert played.fault is not None
    assert (played.fault.place, played.fault.rendered) == ("outputs.ask", {"prompt": "Sure?"})


async def test_waits_for_a_time_take_none() -> None:
    document = workflow(
        {"id": "rest", "type": "wait", "config": {"for_ms": 7 * DAY_MS}},
        {"id": "until", "type": "wait", "config": {"until": "timestamp(input.at)"}},
        edges=["rest -> until"],
    )
    played = await play(document, at="2026-01-01T00:00:00Z", input={"at": "2026-02-01T00:00:00Z"},
                        expect={"output": {"at": "2026-02-01T00:00:00Z"}})  # fmt: skip
    assert played.passed, (played.fault, played.differences)
    assert played.took_ms == 31 * DAY_MS
    scripted = await play(document, outputs={"rest": 1})
    assert scripted.fault is not None and "by itself" in scripted.fault.message


@pytest.mark.parametrize(
    ("reply", "output"),
    [({"paid": 3}, {"paid": 3}), ({"event": {"paid": 3}}, {"paid": 3}), ({"event": None}, {"order": 7})],
    ids=str,
)
async def test_an_event_comes(reply: Any, output: Any) -> None:
    document = workflow({"id": "paid", "type": "wait", "config": {"event": "payment", "key": "{{ input.order }}"}})
    played = await play(document, input={"order": 7}, outputs={"paid": reply}, expect={"output": output})
    assert played.passed, (played.fault, played.differences)
    assert played.record.rendered["paid"] == {"event": "payment", "key": "7"}


async def test_an_event_does_not_come() -> None:
    config = {"event": "payment", "deadline_ms": 1_000, "deadline_path": ["gone"]}
    document = workflow({"id": "paid", "type": "wait", "config": config}, transform("gone", n="1"))
    played = await play(document, outputs={"paid": {"deadline": True}}, expect={"path": ["paid", "gone"]})
    assert played.passed and played.took_ms == 1_000


# -- called workflows --------------------------------------------------------------------------------


def calling(**config: Any) -> Document:
    node = {"id": "call", "type": "workflow", "config": config, "on_error": ["sorry"], "timeout_ms": 5_000}
    return workflow(node, transform("sorry", why="output.error.class"))


async def test_what_a_called_workflow_gives_is_scripted() -> None:
    document = calling(workflow_id="elsewhere", input={"n": "{{ input.n + 1 }}"})
    played = await play(document, input={"n": 1}, outputs={"call": {"sum": 3}}, expect={"output": {"sum": 3}})
    assert played.passed, (played.fault, played.differences)
    assert played.record.rendered["call"] == {"input": {"n": 2}}
    assert played.record.path == ["call"] and played.record.times == {"call": 1}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"error": "child_failed"}, "child_failed"),
        ({"error": "child_cancelled"}, "child_cancelled"),
        ({"error": "timeout"}, "timeout"),
        ({"deadline": True}, "timeout"),
        ({"output": 1, "after_ms": 5_001}, "timeout"),
    ],
    ids=str,
)
async def test_a_called_workflow_fails(reply: Any, why: str) -> None:
    played = await play(calling(workflow_id="x"), outputs={"call": reply}, expect={"output": {"why": why}})
    assert played.passed, (played.fault, played.differences)


async def test_a_registered_workflow_has_to_be_scripted() -> None:
    played = await play(calling(workflow_id="elsewhere"))
    assert played.fault is not None and played.fault.place == "outputs.call"
    assert "elsewhere" in played.fault.message


async def test_an_inline_workflow_is_played() -> None:
    inner = workflow(function("inside", args={"n": "{{ input }}"}), transform("add", n="output + input"),
                     edges=["inside -> add"])  # fmt: skip
    document = calling(document=inner, input="{{ input.n }}")
    played = await play(document, input={"n": 2}, outputs={"inside": 5}, expect={
        "output": {"n": 7}, "path": ["call"], "times": {"inside": 1, "add": 1}, "outputs": {"inside": 5},
    })  # fmt: skip
    assert played.passed, (played.fault, played.differences)
    scripted = await play(document, input={"n": 2}, outputs={"call": "instead"}, expect={"never": ["inside"]})
    assert scripted.passed and scripted.record.newest("call") == "instead"


# -- http, sql, queues -------------------------------------------------------------------------------


def http(**config: Any) -> Document:
    base = {"method": "POST", "url": "https://example.org/notes", "body": {"text": "{{ input.text }}"}}
    return workflow({"id": "note", "type": "http", "config": base | config, "retry": {"jitter": 0}})


async def test_an_http_call_is_rendered_and_its_answer_completed() -> None:
    played = await play(http(), input={"text": "hi"}, outputs={"note": {"status": 201}},
                        expect={"output": {"status": 201, "headers": {}, "body": None}, "exact": True})  # fmt: skip
    assert played.passed, (played.fault, played.differences)
    assert played.record.rendered["note"]["body"] == {"text": "hi"}


async def test_a_status_decides_as_it_would() -> None:
    outputs = {"note": [{"status": 503}, {"status": 429}, {"status": 200, "body": {"id": 1}}]}
    assert (await play(http(), input={"text": "x"}, outputs=outputs, expect={"attempts": {"note": 3}})).passed
    refused = await play(http(), input={"text": "x"}, outputs={"note": {"status": 404}})
    assert places(refused) == ["status"] and refused.record.state().error["attempts"] == 1
    outputs = {"note": {"status": 404}}
    assert (await play(http(expect_status=[404]), input={"text": "x"}, outputs=outputs)).passed


async def test_rows_of_a_query() -> None:
    config = {"connection": "crm", "query": "select 1", "params": {"id": "{{ input.id }}"}}
    document = workflow({"id": "q", "type": "sql", "config": config})
    rows = {"rows": [{"n": 1}]}
    played = await play(document, input={"id": 7}, outputs={"q": rows}, expect={"output": rows})
    assert played.passed and played.record.rendered["q"] == {"params": {"id": 7}}
    wrong = await play(document, input={"id": 7}, outputs={"q": {"n": 1}})
    assert wrong.fault is not None and "rows" in wrong.fault.message


async def test_nobody_takes_a_task_up() -> None:
    document = workflow(function("a", queue_timeout_ms=60_000, on_error=["sorry"]), transform("sorry", n="1"))
    expect = {"path": ["a", "sorry"], "attempts": {"a": 0}}
    played = await play(document, outputs={"a": {"deadline": True}}, expect=expect)
    assert played.passed, (played.fault, played.differences)
    assert played.took_ms == 60_000


async def test_a_task_that_is_left_alone_uses_its_reply_up() -> None:
    inner = {"items": "[1, 2]", "nodes": [function("a", queue_timeout_ms=60_000)], "on_item_error": "collect"}
    document = workflow({"id": "m", "type": "map", "config": inner | {"max_parallel": 1}})
    expect = {"output": [{"error": {"class": "queue_timeout"}}, 5]}
    played = await play(document, outputs={"a": [{"deadline": True}, 5]}, expect=expect)
    assert played.passed, (played.fault, played.differences)
