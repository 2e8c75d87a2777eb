"""The reference interpreter held against patches whose outcome was written by hand."""

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.reference import orders
from tests.reference.golden import INPUT, flow, says, step, task
from tests.reference.golden_patches import GOLDEN_PATCHES, GoldenPatch
from tests.reference.graph import refused
from tests.reference.interpreter import Interpreter
from tests.reference.records import Choose, Token
from tests.reference.switch import PatchRefusedError


def led_by(names: Sequence[str], then: Choose) -> Choose:
    """The tokens on these nodes, one after the other, and then as `then` has it. Maps start at once."""
    left = list(names)

    def choose(running: Sequence[Token]) -> int:
        maps = [i for i, token in enumerate(running) if token.type == "map"]
        if maps or not left:
            return maps[0] if maps else then(running)
        name, _, items = left.pop(0).partition("/")
        node = name.partition(":")[0]
        at = [i for i, token in enumerate(running) if token.node == node]
        return next(i for i in at if not items or str(running[i].scope.index) == items)

    return choose


@pytest.mark.parametrize("golden", GOLDEN_PATCHES.values(), ids=GOLDEN_PATCHES)
def test_golden_patch(golden: GoldenPatch) -> None:
    assert refused(golden.workflow) == refused(golden.patched) == []
    for then in orders.many(seed=1, count=8):
        before = golden.before.split()
        run = Interpreter(golden.workflow, INPUT, golden.outcome_of, led_by(before, then))
        run.start()
        while len(run.log) < len(before):
            run.advance()
        run.patch(golden.patched, cancel=golden.cancel, restart=golden.restart)
        while run.advance():
            pass
        result = run.end()
        assert Counter(map(step, result.trace)) == Counter(before + golden.after.split())
        assert (result.status, result.output) == ("COMPLETED", golden.output)
        assert result.loop_counts == golden.loop_counts


A_B = flow(task("a", "b"), task("b"))


@pytest.mark.parametrize(
    ("patched", "allowed", "gone", "retyped"),
    [
        (flow(task("a")), {}, ["b"], []),
        (flow(task("a")), {"cancel": True}, [], []),
        (flow(task("a", "b"), {"id": "b", "type": "human", "config": {}, "after": ()}), {}, [], ["b"]),
        (flow(task("a", "b"), {"id": "b", "type": "human", "config": {}, "after": ()}), {"restart": True}, [], []),
    ],
)
def test_what_live_tokens_refuse(patched, allowed, gone, retyped):
    run = Interpreter(A_B, INPUT, says(), orders.first)
    run.start()
    run.advance()
    run.begin(run.root.live[0])
    try:
        run.patch(patched, **allowed)
        refused_for = ([], [])
    except PatchRefusedError as refused_by:
        refused_for = ([token.node for token in refused_by.gone], [token.node for token in refused_by.retyped])
    assert refused_for == (gone, retyped)
