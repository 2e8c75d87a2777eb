"""Gates: who is asked together, who waits, and who is left alone."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from agent_runner.nodes.gate import Gates


class Oracle:
    """Answers keys in upper case, once it may."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may = asyncio.Event()
        self.may.set()
        self.cancelled = 0

    async def ask(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(list(keys))
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {key: key.upper() for key in keys}


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def gates() -> Gates[str]:
    return Gates(quiet_s=0.01, longest_s=5.0)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_that_come_together_are_asked_together(gates: Gates[str], oracle: Oracle) -> None:
    answers = await asyncio.gather(*(gates.ask("q", key, oracle.ask) for key in "abcb"))
    assert answers == ["A", "B", "C", "B"] and oracle.asked == [["a", "b", "c"]]
    assert await gates.ask("q", "d", oracle.ask) == "D"
    assert gates._gatherings == {}  # nothing is kept of a question


async def test_who_comes_a_little_later_is_asked_with_the_others(gates: Gates[str], oracle: Oracle) -> None:
    first = asyncio.create_task(gates.ask("q", "a", oracle.ask))
    await settled()
    assert await gates.ask("q", "b", oracle.ask) == "B" and await first == "A"
    assert oracle.asked == [["a", "b"]]


async def test_each_question_is_asked_for_itself(gates: Gates[str], oracle: Oracle) -> None:
    await asyncio.gather(gates.ask("q", "a", oracle.ask), gates.ask("r", "b", oracle.ask))
    assert sorted(oracle.asked) == [["a"], ["b"]]


async def test_who_comes_while_it_is_asked_is_asked_next(gates: Gates[str], oracle: Oracle) -> None:
    oracle.may.clear()
    first = asyncio.create_task(gates.ask("q", "a", oracle.ask))
    while not oracle.asked:
        await asyncio.sleep(0)
    later = [asyncio.create_task(gates.ask("q", key, oracle.ask)) for key in "bc"]
    await settled()
    assert oracle.asked == [["a"]]
    oracle.may.set()
    assert [await first, *await asyncio.gather(*later)] == ["A", "B", "C"]
    assert oracle.asked == [["a"], ["b", "c"]]


async def test_a_question_does_not_wait_for_ever(oracle: Oracle) -> None:
    gates: Gates[str] = Gates(quiet_s=0.01, longest_s=0.05)
    asks: list[asyncio.Task[str]] = []
    async with asyncio.timeout(5):
        while not oracle.asked:  # there is never any quiet
            asks.append(asyncio.create_task(gates.ask("q", str(len(asks)), oracle.ask)))
            await asyncio.sleep(0)
    await asyncio.gather(*asks)


async def test_one_who_gives_up_leaves_the_others_their_answer(gates: Gates[str], oracle: Oracle) -> None:
    oracle.may.clear()
    one, other = (asyncio.create_task(gates.ask("q", key, oracle.ask)) for key in "ab")
    while not oracle.asked:
        await asyncio.sleep(0)
    one.cancel()
    await settled()
    oracle.may.set()
    assert await other == "B" and oracle.cancelled == 0


async def test_a_question_that_nobody_waits_for_is_given_up(gates: Gates[str], oracle: Oracle) -> None:
    oracle.may.clear()
    asking = [asyncio.create_task(gates.ask("q", key, oracle.ask)) for key in "ab"]
    while not oracle.asked:
        await asyncio.sleep(0)
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await settled()
    assert oracle.cancelled == 1
    oracle.may.set()
    assert await gates.ask("q", "c", oracle.ask) == "C"


async def test_what_is_raised_is_raised_for_all(gates: Gates[str]) -> None:
    async def fail(keys: Sequence[str]) -> Mapping[str, str]:
        raise LookupError(len(keys))

    caught = await asyncio.gather(*(gates.ask("q", key, fail) for key in "ab"), return_exceptions=True)
    assert [repr(error) for error in caught] == ["LookupError(2)"] * 2
