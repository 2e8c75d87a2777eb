"""Dead letters: listed, filtered, shown with what failed, retried, dropped."""

from typing import Any

import orjson

from schemas.messages import Failure
from tests.api.conftest import Api
from tests.api.workflows import ASK, CALLS, EACH, HELLO, sized


def fails(klass: str = "permanent") -> Any:
    return lambda task, started: Failure(klass, f"{task.node_id} has failed", retryable=False)


async def letters(api: Api, query: str = "") -> list[Any]:
    return list((await api.get(f"/dead-letters{query}"))["dead_letters"])


async def fail(api: Api, workflow: Any, given: Any, klass: str = "permanent", **fields: Any) -> str:
    run_id = await api.start(workflow, given, **fields)
    await api.play(workflow, fails(klass))
    return run_id


async def test_lists_and_filters(api: Api, record: Any) -> None:
    hello = await fail(api, HELLO, {"name": "Ada"})
    ask = await fail(api, ASK, {"q": "why"}, "timeout")
    await api.store.dead_letter("malformed", "not JSON")
    taken = await api.post("/batches", {"workflow": HELLO, "items": [{"name": "Alan"}], "key": "item.name"}, 202)
    await api.admit()
    await api.play(answer=fails())
    found = await letters(api)
    assert [one["reason"] for one in found] == ["task", "malformed", "task", "task"]
    newest = found[0]
    assert (newest["workflow_id"], newest["batch_id"], newest["key"]) == ("hello", taken["batch_id"], "Alan")
    assert newest["error"]["message"] == "greet has failed" and found[1]["detail"] == "not JSON"

    async def runs(query: str) -> list[str]:
        return [one.get("run_id") for one in await letters(api, f"?{query}")]

    assert await runs("reason=malformed") == [None]
    assert await runs("workflow_id=ask") == [ask]
    assert await runs("class=timeout") == [ask]
    assert await runs("node=greet&limit=1") == [newest["run_id"]]
    assert await runs(f"batch_id={taken['batch_id']}") == [newest["run_id"]]
    assert await runs("workflow_id=hello&reason=malformed") == []
    await record()
    await api.store.redis.delete(api.store.keys.run(hello))
    assert hello in await runs("workflow_id=hello"), "Postgres knows the run when Redis has forgotten it"
    for bad in ("limit=0", "cursor=x", "colour=red", "workflow_id=A B"):
        await api.get(f"/dead-letters?{bad}", 422)


async def test_pages(api: Api) -> None:
    for number in range(7):
        await api.store.dead_letter("malformed" if number % 2 else "event", str(number))
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = await api.get(f"/dead-letters?limit=3{cursor}")
        seen += [one["detail"] for one in page["dead_letters"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["6", "5", "4", "3", "2", "1", "0"] and page["next_cursor"] is None


async def test_a_letter_shows_what_failed(api: Api, record: Any) -> None:
    given = sized("Ada", 50_000)

    def answer(task: Any, started: Any) -> Any:
        return {"text": "x" * 20_000} if task.node_id == "greet" else Failure("permanent", "no", retryable=False)

    run_id = await api.start(HELLO, given, labels={"team": "red"})
    await api.play(answer=answer)
    (one,) = await letters(api)
    shown = await api.get(f"/dead-letters/{one['id']}")
    assert shown["input"] == {
        "token_id": one["token_id"], "node_id": "sign", "node_type": "function", "input": given,
        "output": {"text": "x" * 20_000}, "ctx": {}, "iteration": 0,
    }  # fmt: skip
    assert shown["run"]["status"] == "FAILED" and shown["run"]["labels"] == {"team": "red"}
    assert (shown["error"]["attempts"], shown["attempt"]) == (1, 1)
    await record()
    for key in await api.store.redis.keys(f"*{run_id}*"):
        await api.store.redis.delete(key)
    assert await api.get(f"/dead-letters/{one['id']}") == shown, "also when Redis has forgotten the run"


async def test_the_words_of_a_model_are_shown(api: Api) -> None:
    run_id = await api.start(ASK, {"q": "why"})
    play = await api.play(ASK, lambda task, started: Failure("invalid_output", "no JSON", retryable=False))
    assert play.executed
    (one,) = await letters(api)
    entry = (await api.store.redis.xrange(api.store.keys.dead_letters))[0][1]
    await api.store.redis.xadd(
        api.store.keys.dead_letters,
        entry | {b"detail": orjson.dumps(orjson.loads(entry[b"detail"]) | {"raw": "I think {"})},
    )
    newest = (await letters(api))[0]
    assert newest["id"] != one["id"] and newest["run_id"] == run_id
    shown = await api.get(f"/dead-letters/{newest['id']}")
    assert shown["raw"] == "I think {" and shown["input"]["output"] == {"q": "why"}


async def test_of_a_map_the_task_in_the_item_is_shown(api: Api) -> None:
    def answer(task: Any, started: Any) -> Any:
        return Failure("handler", "no", retryable=False) if b"Alan" in started.item.encode() else {"ok": True}

    await api.start(EACH, {"names": ["Ada", "Alan"]})
    await api.play(EACH, answer)
    (one,) = await letters(api)
    assert (one["node_id"], one["error"]["class"]) == ("all", "item")
    given = (await api.get(f"/dead-letters/{one['id']}"))["input"]
    assert (given["node_id"], given["item"], given["index"]) == ("judge", "Alan", 1)
    assert given["ctx"] == {"clean": {"output": {"name": "Alan"}}} and given["output"] == {"name": "Alan"}


async def test_letters_that_are_of_no_run(api: Api) -> None:
    await api.store.dead_letter("malformed", "not JSON", run="run_\0", token="?")
    (one,) = await letters(api)
    shown = await api.get(f"/dead-letters/{one['id']}")
    assert shown["input"] is None and shown["run"] is None
    await api.post(f"/dead-letters/{one['id']}/retry", status=404)
    await api.store.dead_letter("malformed", "not JSON")
    newest = (await letters(api))[0]
    await api.post(f"/dead-letters/{newest['id']}/retry", status=409)
    for path in ("/dead-letters/1-0", "/dead-letters/1-0/retry", "/dead-letters/1-0/drop"):
        if path.endswith("1-0"):
            await api.get(path, 404)
        else:
            await api.post(path, {"reason": "x"}, 404)
    await api.get("/dead-letters/nonsense", 422)


async def test_one_is_retried(api: Api) -> None:
    run_id = await fail(api, HELLO, {"name": "Ada"})
    (one,) = await letters(api)
    answer = await api.post(f"/dead-letters/{one['id']}/retry", {"reason": "it is there now"})
    assert answer == {"id": one["id"], "run_id": run_id, "status": "RUNNING"}
    assert await letters(api) == []
    await api.post(f"/dead-letters/{one['id']}/retry", status=404)
    await api.play()
    assert (await api.get(f"/runs/{run_id}"))["status"] == "COMPLETED"


async def test_many_are_retried_by_a_filter(api: Api, record: Any) -> None:
    slow = [await fail(api, ASK, {"q": str(number)}, "timeout") for number in range(5)]
    other = await fail(api, HELLO, {"name": "Ada"})
    first = await api.post("/dead-letters/retry", {"class": "timeout", "limit": 2})
    assert (first["found"], first["retried"], first["refused"]) == (2, 2, {}) and first["next_cursor"]
    await record()
    async with api.history.pool.connection() as connection:
        await connection.execute("DELETE FROM irs")
    await api.store.redis.delete(api.store.keys.run(slow[0]), api.store.keys.ir(slow[0]))
    rest = await api.post("/dead-letters/retry", {"workflow_id": "ask", "why": "the card is back"})
    assert (rest["found"], rest["retried"], rest["refused"], rest["next_cursor"]) == (3, 2, {"gone": 1}, None)
    assert [one["run_id"] for one in await letters(api)] == [other, slow[0]]
    retried = (await api.get(f"/runs/{slow[1]}/events"))["events"][-1]
    assert (retried["type"], retried["by"], retried["reason"]) == ("run_retried", "api", "the card is back")
    await api.post("/dead-letters/retry", {"limit": 0}, 422)
    await api.post("/dead-letters/retry", {}, 422)  # a filter that was forgotten is no request for all
    await api.post("/dead-letters/retry", {"colour": "red"}, 422)


async def test_one_is_dropped_and_kept_with_the_reason(api: Api) -> None:
    run_id = await fail(api, HELLO, {"name": "Ada"})
    (one,) = await letters(api)
    for reason in ({}, {"reason": ""}, {"reason": None}):
        await api.post(f"/dead-letters/{one['id']}/drop", reason, 422)
    assert await api.post(f"/dead-letters/{one['id']}/drop", {"reason": "a test item"}) == {
        "id": one["id"], "dropped": True,
    }  # fmt: skip
    assert await letters(api) == []
    (kept,) = await letters(api, "?dropped=true")
    assert kept["run_id"] == run_id and kept["error"]["message"] == "greet has failed"
    assert (kept["dropped"]["by"], kept["dropped"]["reason"]) == ("api", "a test item") and kept["dropped"]["at"] > 0
    shown = await api.get(f"/dead-letters/{one['id']}")
    assert shown["dropped"] == kept["dropped"] and shown["input"]["output"] == {"name": "Ada"}
    assert await letters(api, "?dropped=true&node=sign") == []
    assert (await api.get(f"/runs/{run_id}"))["status"] == "FAILED"


async def test_the_letter_of_a_child_stays_until_its_parent_is_retried(api: Api, record: Any) -> None:
    parent = await fail(api, CALLS, {"name": "Ada"})
    found = await letters(api)
    assert [one["run_id"] for one in found] == [parent, f"{parent}:1"]
    refused = await api.post(f"/dead-letters/{found[1]['id']}/retry", status=409)
    assert f"called by {parent}" in refused["detail"]
