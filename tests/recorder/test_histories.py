"""Histories that older releases have recorded still fold, to the same facts; and so do their snapshots.

`record_histories.py` has made them. A file here is never changed: databases hold what it holds.
"""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.events import Event
from schemas.fold import fold
from schemas.snapshot import dump_state, load_state

FOLDER = Path(__file__).parent / "histories"
FILES = sorted(path.name for path in FOLDER.glob("*.json.gz"))
KINDS = {"plain", "loop", "map", "join_any", "failed", "retried", "failed_item", "patched", "paused", "child", "human"}


def events_of(run_id: str, run: Any) -> list[Event]:
    return [Event(run_id, *one) for one in run["events"]]


@pytest.mark.parametrize("name", FILES)
def test_histories_still_fold_to_the_same_facts(name: str) -> None:
    kinds = orjson.loads(gzip.decompress((FOLDER / name).read_bytes()))
    assert kinds.keys() >= KINDS
    for kind, runs in kinds.items():
        for run_id, run in runs.items():
            events = events_of(run_id, run)
            for seq, facts in run["states"].items():
                state = fold(events[: int(seq)])
                # Newer releases may know more; what was known stays.
                found = orjson.loads(dump_state(state))
                assert {field: found.get(field) for field in facts} == facts, f"{kind}, {run_id} after {seq}"
                # A run goes on from the snapshot that the older release has left.
                later = orjson.loads(dump_state(fold(events[int(seq) :], load_state(facts))))
                last = run["states"][str(len(events))]
                assert {field: later.get(field) for field in last} == last, f"{kind}, {run_id} from {seq}"


def test_there_is_one() -> None:
    assert FILES
