"""A batch is patched while items are admitted, while others ask, while processes die: each run has the patch once."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from coordinator.admission import Admission
from history.batch_patches import BatchPatches
from lua.patching import Patch, Patching, PatchRefused
from schemas.revision import revise
from tests.api.batch_runs import (
    ADD_CHECK,
    NEW,
    OLD,
    RENAME,
    admit,
    batch_of,
    counts,
    nodes_of,
    patch,
    revisions,
    runs_of,
)
from tests.api.conftest import Api

BODY = {"operations": ADD_CHECK}


class Held(Admission):
    """Stops between reading what an item begins with and starting it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.holding, self.go = asyncio.Event(), asyncio.Event()

    async def _start_runs(self, starts: Any) -> Any:
        self.holding.set()
        await self.go.wait()
        return await super()._start_runs(starts)


async def test_an_admission_that_is_under_way(
    api: Api, database: psycopg.AsyncConnection[Any], wait_until: Callable[..., Any]
) -> None:
    """It read the old workflow: the patch waits for its runs, and patches them as live ones."""

    async def waits() -> bool:
        cursor = await database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        row = await cursor.fetchone()
        return bool(row and row[0])

    batch_id = await batch_of(api, 6)
    admission = Held(api.store, api.history.pool, per_gpu=4)
    admitting = asyncio.create_task(admission.admit())
    await admission.holding.wait()
    patching = asyncio.create_task(patch(api, batch_id))
    await wait_until(waits)
    assert not patching.done()
    admission.go.set()
    assert await admitting == 4
    assert counts(await patching) == {"patched": 4, "begin": 2}
    assert await admit(api) == 2
    assert await nodes_of(api, batch_id) == [NEW] * 6
    assert await revisions(api, batch_id) == [2, 2, 2, 2, 1, 1]


async def test_admission_and_patches_side_by_side(api: Api) -> None:
    """Whatever the order: in the end each run has the patch, and has it once."""
    batch_id = await batch_of(api, 120)
    admissions = [Admission(api.store, api.history.pool, per_gpu=n) for n in range(10, 130, 10)]
    await asyncio.gather(patch(api, batch_id), *(admission.admit() for admission in admissions))
    while await admit(api):
        pass
    assert await nodes_of(api, batch_id) == [NEW] * 120
    found = await revisions(api, batch_id)
    assert set(found) <= {1, 2}
    runs = await runs_of(api, batch_id)
    for run_id, revision in zip(runs, found, strict=True):
        started = (await api.get(f"/runs/{run_id}/events"))["events"][0]
        assert ("batch_patch" in started) == (revision == 1)


async def test_runs_of_an_admission_that_died(api: Api) -> None:
    """They began with the old workflow and their items wait still: they are patched, and admitted later as they are."""

    class Dying(Admission):
        async def _start_runs(self, starts: Any) -> Any:
            await super()._start_runs(starts)
            raise RuntimeError("killed")

    batch_id = await batch_of(api, 4)
    with pytest.raises(RuntimeError):
        await Dying(api.store, api.history.pool, per_gpu=2).admit()
    assert counts(await patch(api, batch_id)) == {"patched": 2, "begin": 4}
    assert await admit(api) == 4
    assert await nodes_of(api, batch_id) == [NEW] * 4 and await revisions(api, batch_id) == [2, 2, 1, 1]


async def test_the_script_itself_knows_what_a_run_had(api: Api) -> None:
    """Whoever asks twice, or asks for a run that began with the patch: nothing happens, and the revision stays."""
    batch_id = await batch_of(api, 2, admitted=1)
    await patch(api, batch_id)
    await admit(api)
    again = Patch(lambda ir: revise(ir, RENAME), {"by": "ada"}, mark="1")
    for answer in await Patching(api.store).patch_all(await runs_of(api, batch_id), again):
        assert isinstance(answer, PatchRefused) and answer.reason == "already"
    assert await revisions(api, batch_id) == [2, 1]


async def test_two_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = await batch_of(api, 3, admitted=3)
    inside, go = asyncio.Event(), asyncio.Event()
    patch_all = Patching.patch_all

    async def held(*given: Any) -> Any:
        inside.set()
        await go.wait()
        return await patch_all(*given)

    monkeypatch.setattr(Patching, "patch_all", held)
    first = asyncio.create_task(patch(api, batch_id))
    await inside.wait()
    for action in ("patch", "promote", "revert", "pause"):
        answer = await api.http.post(f"/batches/{batch_id}/{action}", json={} if action != "patch" else BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    go.set()
    assert counts(await first) == {"patched": 3}


@pytest.mark.parametrize("cut", ["after the runs", "before the runs"])
@pytest.mark.parametrize("finish", ["patch", "promote", "revert"])
async def test_killed_in_the_middle(api: Api, monkeypatch: pytest.MonkeyPatch, cut: str, finish: str) -> None:
    """An API that dies between two slices, before or after it kept what came of one: asked again it goes on."""
    monkeypatch.setattr("orchestrator_api.batch_patching.SLICE", 2)
    batch_id = await batch_of(api, 7, admitted=5)
    with monkeypatch.context() as patched:
        _die_at(patched, 2, cut)
        with pytest.raises(RuntimeError, match="killed"):
            await patch(api, batch_id)
    assert sorted(await revisions(api, batch_id)) == (
        [0, 0, 1, 2, 2, 2, 2] if cut == "after the runs" else [0, 0, 1, 1, 1, 2, 2]
    )
    (shown,) = (await api.get(f"/batches/{batch_id}/patches"))["patches"]
    assert (shown["done"], shown["counts"]["patched"]) == (False, 2)
    await admit(api, 6)
    assert (
        "promote completes it, revert takes it back" in (await patch(api, batch_id, 409, operations=RENAME))["detail"]
    )

    done = await api.post(f"/batches/{batch_id}/{finish}", BODY if finish == "patch" else None)
    await admit(api)
    assert done["done"] is True and done["number"] == 1
    if finish == "revert":
        assert await nodes_of(api, batch_id) == [OLD] * 7
    else:
        assert counts(done) == {"patched": 5, "begin": 1}
        assert await nodes_of(api, batch_id) == [NEW] * 7
        assert await revisions(api, batch_id) == [2, 2, 2, 2, 2, 1, 1]


def _die_at(monkeypatch: pytest.MonkeyPatch, call: int, cut: str) -> None:
    owner, name = (BatchPatches, "keep_results") if cut == "after the runs" else (Patching, "patch_all")
    whole, calls = getattr(owner, name), 0

    async def dying(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("killed")
        return await whole(*given)

    monkeypatch.setattr(owner, name, dying)


async def test_a_revert_that_was_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator_api.batch_patching.SLICE", 2)
    batch_id = await batch_of(api, 5, admitted=5)
    await patch(api, batch_id)
    with monkeypatch.context() as patched:
        _die_at(patched, 2, "after the runs")
        with pytest.raises(RuntimeError, match="killed"):
            await api.post(f"/batches/{batch_id}/revert")
    assert "revert completes" in (await patch(api, batch_id, 409))["detail"]
    assert counts(await api.post(f"/batches/{batch_id}/revert")) == {"reverted": 5}
    assert await revisions(api, batch_id) == [3] * 5


async def test_somebody_else_patches_a_run_at_the_same_moment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is asked once more, on what it has then."""
    batch_id = await batch_of(api, 2, admitted=2)
    first = (await runs_of(api, batch_id))[0]
    patch_all = Patching.patch_all

    async def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(Patching, "patch_all", patch_all)
        await api.post(f"/runs/{first}/patch", {"operations": RENAME})
        return await patch_all(*given)

    monkeypatch.setattr(Patching, "patch_all", overtaken)
    assert counts(await patch(api, batch_id)) == {"patched": 2}
    assert await revisions(api, batch_id) == [3, 2]
    assert counts(await api.post(f"/batches/{batch_id}/revert")) == {"reverted": 2}
    ir = (await api.http.get(f"/runs/{first}/ir")).json()
    assert [node["config"]["handler"] for node in ir["workflow"]["nodes"]] == ["greet", "autograph"]
