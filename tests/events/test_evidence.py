"""Evidence: what a decision keeps of what it read. Whatever the values are, it stays small and is true."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.conditions.condition import Condition
from schemas.evidence import CONDITIONS, PATHS, TEXT_CHARS, VALUE_BYTES, read_values, short_texts

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=30), inner, max_size=9),
    max_leaves=30,
)


def cel(text: str) -> Condition:
    return Condition({"type": "cel", "expression": text})


@given(json_values)
def test_a_value_is_kept_whole_or_cut_and_marked(value):
    found = read_values([cel("output.x == 1")], {"output": {"x": value}})
    if "values" in found:
        assert found == {"values": {"output.x": value}}
        assert len(orjson.dumps(value)) <= VALUE_BYTES
    else:
        (cut,) = found["cut"].values()
        assert len(cut) <= VALUE_BYTES and cut.endswith("…")
        assert len(orjson.dumps(value)) > VALUE_BYTES / 3, "what is short is kept"


def test_paths_are_named_as_they_are_written_and_bounded():
    many = [cel(f'output.a{n} == 1 && output["b c"] == 2') for n in range(30)]
    found = read_values(many, {"output": {"b c": 2, "a0": 1}})
    assert found["values"] == {"output.a0": 1, 'output["b c"]': 2}
    assert len(found["values"]) + len(found["absent"]) == PATHS


def test_the_longest_part_that_is_read_counts():
    condition = cel("ctx.a.output.n > 1 && has(ctx.b) && iteration < 3")
    found = read_values([condition], {"ctx": {"a": {"output": {"n": 7, "text": "x" * 999}}}, "iteration": 2})
    assert found == {"values": {"ctx.a.output.n": 7, "iteration": 2}, "absent": ["ctx.b"]}


def test_texts_of_conditions_are_bounded():
    texts = short_texts([cel(f"output.a == '{'x' * 900}'")] * 50)
    assert len(texts) == CONDITIONS and {len(text) for text in texts} == {TEXT_CHARS}
