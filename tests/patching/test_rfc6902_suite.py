"""`apply_patch` by the public test suite of RFC 6902 (tests/patching/rfc6902)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator_api.bodies import read_json
from orchestrator_api.problems import Refusal
from schemas.patch import apply_patch
from tests.patching import naive
from tests.patching.refusals import refused
from tests.patching.rfc6902_cases import inside

SUITE = Path(__file__).parent / "rfc6902"


def _records() -> Iterator[tuple[str, str]]:
    """Name and text of each record: one that says a key twice can only be told by its text."""
    for file in sorted(SUITE.glob("*.json")):
        text = file.read_text()
        end = text.index("[")
        while (begin := text.find("{", end)) != -1:
            record, end = json.JSONDecoder().raw_decode(text, begin)
            yield record.get("comment", str(record["patch"]))[:80], text[begin:end]


RECORDS = list(_records())


def test_the_suite_is_whole() -> None:
    assert len(RECORDS) == sum(len(json.loads(file.read_text())) for file in SUITE.glob("*.json")) == 95


@pytest.mark.parametrize("text", [text for _, text in RECORDS], ids=[name for name, _ in RECORDS])
def test_a_record(text: str) -> None:
    """Those that the suite disables too. Its documents are any JSON and ours are objects: they lie inside one."""
    record = json.loads(text)
    document = {"id": "w", "d/~": record["doc"]}
    operations = [inside(operation) for operation in record["patch"]]
    if "two 'op' members" in record.get("error", ""):
        with pytest.raises(Refusal, match="op"):
            read_json(text.encode(), unique=True)
    elif "error" in record:
        assert refused(document, operations)
    else:
        wanted = {"id": "w", "d/~": record.get("expected", record["doc"])}
        assert naive.canonical(apply_patch(document, operations)) == naive.canonical(wanted)
