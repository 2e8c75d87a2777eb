"""Documents as YAML: what is written is read as the same document."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.workflow import read_workflow
from schemas.yaml_text import yaml_text

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.text(
    "01eExo._+-~ \nyn:#'\"|>", max_size=5
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
keys = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
values = st.recursive(
    plain | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    document = {"id": "w", "value": value}
    assert read_workflow(yaml_text(document), "yaml") == document


@pytest.mark.parametrize(
    "text", ["no", "1e3", "0o17", "1:30", "2001-01-01", "<<", "~", ".inf", "", "a: b #c", "a\u2028b"]
)
def test_texts_that_look_like_something_else(text: str) -> None:
    assert read_workflow(yaml_text({"id": text}), "yaml") == {"id": text}


def test_texts_of_several_lines_read_as_they_are() -> None:
    assert yaml_text({"b": "x\n  y\n", "a": ["p\nq"]}) == "b: |\n  x\n    y\na:\n- |-\n  p\n  q\n"
