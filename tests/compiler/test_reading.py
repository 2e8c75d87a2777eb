"""Reading a document's text: JSON and YAML, bounded, with the line of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidDocument, Problem
from schemas.limits import Limits
from schemas.workflow import Media, read_workflow


def refusal(text: str | bytes, media: Media, limits: Limits | None = None) -> Problem:
    with pytest.raises(InvalidDocument) as caught:
        read_workflow(text, media, limits or Limits())
    return caught.value.problems[0]


BILLION = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)

REFUSED: dict[str, tuple[str | bytes, Media, str, str]] = {
    "empty JSON": ("", "json", "not-json", "Line 1, column 1"),
    "broken JSON": ('{"id": "a",\n "nodes": [}', "json", "not-json", "Line 2, column 12"),
    "a list": ("[]", "json", "wrong-type", "object"),
    "NaN": ('{"x": NaN}', "json", "not-json", "NaN"),
    "Infinity": ('{"x": -Infinity}', "json", "not-json", "Infinity"),
    "a number that is infinite": ('{"x": 1e999}', "json", "not-json", "Infinity"),
    "a number of 5,000 digits": ('{"x": ' + "1" * 5_000 + "}", "json", "not-json", "digits"),
    "a number of 65 bits": ('{"x": 18446744073709551616}', "json", "not-json", "64 bits"),
    "a key twice": ('{"x": {"a": 1, "a": 2}}', "json", "duplicate-key", "`a`"),
    "deep JSON": ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "json", "too-deep", "deep"),
    "JSON of depth 65": ('{"x": ' + "[" * 64 + "1" + "]" * 64 + "}", "json", "too-deep", "json_depth"),
    "not UTF-8": (b'{"x": "\xff"}', "json", "not-utf-8", "byte 8"),
    "half of a surrogate pair": ('{"x": "\\ud800"}', "json", "bad-text", "surrogate"),
    "empty YAML": ("", "yaml", "wrong-type", "object"),
    "broken YAML": ("id: a\nnodes: [", "yaml", "not-yaml", "Line 3, column 1"),
    "a tab in YAML": ("a:\n\t- b", "yaml", "not-yaml", "Line 2"),
    "a control character": ("a: \x01", "yaml", "not-yaml", "YAML"),
    "two documents": ("a: 1\n---\nb: 2", "yaml", "not-yaml", "second document"),
    "a tag": ("a: !!python/object/apply:os.system [ls]", "yaml", "not-yaml", "tag"),
    "a scalar's tag": ("a: !!binary aGk=", "yaml", "not-yaml", "tag"),
    "a YAML key twice": ("a: 1\nb: 2\na: 3", "yaml", "duplicate-key", "Line 3, column 1"),
    "a number as a key": ("1: a", "yaml", "not-yaml", "quote it"),
    "a list as a key": ("[a]: b", "yaml", "not-yaml", "key"),
    "deep YAML": ("a: " + "[" * 900, "yaml", "too-deep", "json_depth"),
    "a billion laughs": (BILLION, "yaml", "too-large", "aliases"),
    "an alias inside itself": ("a: &a [*a]", "yaml", "not-yaml", "complete"),
    "an unknown alias": ("a: *b", "yaml", "not-yaml", "Line 1"),
    "YAML infinity": ("a: .inf", "yaml", "not-json", ".inf"),
    "YAML's number that is infinite": ("a: 1e999", "yaml", "not-json", "1e999"),
}


@pytest.mark.parametrize(("text", "media", "code", "part"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str | bytes, media: Media, code: str, part: str) -> None:
    problem = refusal(text, media)
    assert problem.code == code
    assert part in problem.message


@pytest.mark.parametrize("media", ["json", "yaml"])
def test_too_large_names_the_limit(media: Media) -> None:
    problem = refusal('{"a": "' + "ü" * 600 + '"}', media, Limits(workflow_bytes=1_000))
    assert problem.code == "too-large"
    assert "workflow_bytes" in problem.message


def test_yaml_scalars_are_those_of_version_1_2() -> None:
    text = """
    strings: [no, on, yes, 2020-01-01, 1:30, "1", 'true', 1_000, !!str 5, 0b1]
    numbers: [10, 010, -3, +4, 0x1f, 0o17, 1.5, .5, 1e3, 2.]
    others: [true, False, null, ~, ]
    empty:
    folded: >-
      a
      b
    """
    assert read_workflow(text, "yaml") == {
        "strings": ["no", "on", "yes", "2020-01-01", "1:30", "1", "true", "1_000", "5", "0b1"],
        "numbers": [10, 10, -3, 4, 31, 15, 1.5, 0.5, 1000.0, 2.0],
        "others": [True, False, None, None],
        "empty": None,
        "folded": "a b",
    }


def test_yaml_aliases_are_copies_of_what_they_name() -> None:
    text = "a: &x {type: object}\nb: *x\nc: [*x, &y 5, *y]"
    assert read_workflow(text, "yaml") == {
        "a": {"type": "object"},
        "b": {"type": "object"},
        "c": [{"type": "object"}, 5, 5],
    }


def test_a_byte_order_mark_is_no_part_of_the_document() -> None:
    assert read_workflow(b"\xef\xbb\xbf{}", "json") == read_workflow("\ufeff{}", "yaml") == {}


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_json_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    assert read_workflow(json.dumps(document), "json") == document


@given(st.dictionaries(st.text("abcn:-#'\" \n", max_size=6), values, max_size=4))
def test_yaml_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, default_style='"', allow_unicode=False)
    read = read_workflow(text, "yaml")
    assert json.dumps(read, sort_keys=True) == json.dumps(yaml.safe_load(text), sort_keys=True)


@given(st.text(max_size=60) | st.text("[]{}:,&*!-#|>'\"ab \n\t?", max_size=60), st.sampled_from(["json", "yaml"]))
def test_no_text_crashes_the_reader(text: str, media: Media) -> None:
    try:
        assert isinstance(read_workflow(text, media), dict)
    except InvalidDocument as invalid:
        assert invalid.problems


@given(st.binary(max_size=40), st.sampled_from(["json", "yaml"]))
def test_no_bytes_crash_the_reader(text: bytes, media: Media) -> None:
    try:
        assert isinstance(read_workflow(text, media), dict)
    except InvalidDocument as invalid:
        assert invalid.problems
