"""Registered workflows: the same document is the same version."""

import asyncio

from history.history import History
from tests.store_postgres.samples import ir


async def test_versions_count_up_and_the_same_document_keeps_its_own(history: History) -> None:
    first, new = await history.workflows.register(ir(description="one"))
    assert (first.version, new, first.digest) == (1, True, ir(description="one").digest)
    second, new = await history.workflows.register(ir(description="two"))
    assert (second.version, new) == (2, True)
    again, new = await history.workflows.register(ir(description="one"))
    assert (again, new) == (first, False)


async def test_reads(history: History) -> None:
    for name in ("b", "a"):
        for text in ("old", "new"):
            await history.workflows.register(ir(name, description=text))
    listed = await history.workflows.list()
    assert [(w["workflow_id"], w["version"], w["description"]) for w in listed] == [("a", 2, "new"), ("b", 2, "new")]
    assert [w["workflow_id"] for w in await history.workflows.list(after="a")] == ["b"]
    newest = await history.workflows.get("a")
    assert newest and newest.document == ir("a", description="new").workflow
    old = await history.workflows.get("a", 1)
    assert old and await history.workflows.ir(old.digest) == ir("a", description="old").text
    assert await history.workflows.get("a", 3) is None
    assert await history.workflows.get("nobody") is None
    assert await history.workflows.ir("sha256-none") is None


async def test_first_registrations_at_once(history: History) -> None:
    found = await asyncio.gather(*[history.workflows.register(ir(description=str(n % 2))) for n in range(4)])
    assert sorted(version.version for version, _ in found) == [1, 1, 2, 2]
    assert sum(new for _, new in found) == 2
