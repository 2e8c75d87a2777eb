"""Text with CEL in `{{ }}`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.expressions.error import ExpressionError
from schemas.expressions.template import TemplateError, parse_template, parse_value
from schemas.limits import LIMITS

VARIABLES = {
    "input": {"text": "hello", "n": 3, "f": 1.5, "list": [1, "ä", None], "none": None, "braces": "{{ x }}"},
    "output": {"score": 80},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a }} b { c", "a }} b { c"),
        ("{{ input.text }}", "hello"),
        ("{{input.list}}", [1, "ä", None]),
        (" {{ input.n }}", " 3"),
        ("{{ input.n }}{{ input.f }}", "31.5"),
        ("list: {{ input.list }}", 'list: [1,"ä",null]'),
        ("{{ input.braces }}!", "{{ x }}!"),
        ('{{ {"a": {"b": input.n}} }}', {"a": {"b": 3}}),
        ('x{{ {"a": {"b": input.n}}}}', 'x{"a":{"b":3}}'),
        ('{{ "}}" }}.', "}}."),
        ("{{ '{{' }}.", "{{."),
        ('{{ r"\\" + "}}" }}', "\\}}"),
        ("{{ '''a\n}}''' }}", "a\n}}"),
        ("{{ input.n // three\n }}", 3),
        ("{{ has(input.z) ? input.z : 'none' }}", "none"),
        ("{{ input.list.filter(x, x != null).map(x, string(x)).join(', ') }}", "1, ä"),
    ],
)
def test_rendering(text: str, value: Any) -> None:
    assert parse_template(text).render(VARIABLES) == value


@pytest.mark.parametrize(
    ("text", "code", "expression"),
    [
        ("{{ input.none }}", "null", "input.none"),
        ("a {{ input.none }}", "null", "input.none"),
        ("a {{ input.text }} {{ input.nope }}", "no-such-field", "input.nope"),
        ("{{ 1.0 / 0.0 }}", "not-json", "1.0 / 0.0"),
        ("{{ input.list.map(x, input.list.map(y, input.list.map(z, nope.x))) }}", "", ""),
    ],
)
def test_what_can_not_be_rendered(text: str, code: str, expression: str) -> None:
    if not code:
        with pytest.raises(ExpressionError):
            parse_template(text)
        return
    with pytest.raises(TemplateError) as caught:
        parse_template(text).render(VARIABLES)
    assert (caught.value.code, caught.value.expression) == (code, expression)
    assert caught.value.error_class == "template"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{", "unclosed"),
        ("{{ input.text", "unclosed"),
        ("{{ input.text }", "syntax"),
        ("{{ '}} }}", "syntax"),
        ("{{ }}", "syntax"),
        ("{{ input.text | upper }}", "syntax"),
        ("{{ text }}", "unknown-variable"),
        ("{{ " + "1 + " * 2000 + "1 }}", "too-long"),
    ],
)
def test_what_is_refused_at_submission(text: str, code: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_template(text)
    assert caught.value.code == code


def test_a_prompt_has_a_limit() -> None:
    variables = {"input": {"text": "ü" * 500_000}}
    template = parse_template("{{ input.text }}" * 5)
    with pytest.raises(TemplateError, match=str(LIMITS.prompt_bytes)) as caught:
        template.render(variables)
    assert caught.value.code == "too-large"


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(TemplateError, match="no valid Unicode"):
        parse_template("a {{ input.text }}").render({"input": {"text": "\ud800"}})


def test_a_value_is_rendered_throughout_and_names_its_templates() -> None:
    template = parse_value(
        {"a": ["{{ input.n }}", {"b/c": "n={{ input.n }}", "~": "{{ output.score }}"}], "k": 1, "{{ x }}": "plain"}
    )
    assert template.render(VARIABLES) == {"a": [3, {"b/c": "n=3", "~": 80}], "k": 1, "{{ x }}": "plain"}
    assert [pointer for pointer, _ in template.templates] == ["/a/0", "/a/1/b~1c", "/a/1/~0"]
    assert template.references.paths == {("input", "n"), ("output", "score")}


def test_an_error_in_a_value_has_a_pointer() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_value({"headers": {"X/Y": ["ok", "{{ nope }}"]}})
    assert (caught.value.code, caught.value.pointer) == ("unknown-variable", "/headers/X~1Y/1")


def test_a_value_nested_too_deep_is_refused() -> None:
    value: Any = "{{ input.n }}"
    for _ in range(5000):
        value = [value]
    with pytest.raises(ExpressionError) as caught:
        parse_value(value)
    assert caught.value.code == "too-deep"


def test_a_small_value_can_not_make_a_large_one() -> None:
    template = parse_value(["{{ input.text }}"] * 100)
    with pytest.raises(TemplateError) as caught:
        template.render({"input": {"text": ["x" * 1000] * 1000}})
    assert caught.value.code == "too-large"


TEXT = st.text(max_size=20)


@settings(max_examples=120, deadline=None)
@given(st.lists(TEXT | st.sampled_from(["text", "list"]).map(lambda name: f"{{{{ input.{name} }}}}"), max_size=6))
def test_text_around_expressions_stays_as_it_is(parts: list[str]) -> None:
    values = {"{{ input.text }}": "hello", "{{ input.list }}": '[1,"ä",null]'}
    assume(not any("{" in part for part in parts if part not in values))
    assume(sum(map(bool, parts)) != 1)
    assert parse_template("".join(parts)).render(VARIABLES) == "".join(values.get(part, part) for part in parts)


@settings(max_examples=120, deadline=None)
@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=10,
    )
)
def test_a_value_goes_through_unchanged_and_into_text_as_json(value: Any) -> None:
    variables = {"input": {"v": value}}
    assert parse_template("{{ input.v }}").render(variables) == value
    text = parse_template("={{ input.v }}").render(variables)
    assert text == "=" + value if isinstance(value, str) else json.loads(text[1:]) == value


@settings(max_examples=120, deadline=None)
@given(st.text(alphabet="{}'\"\\ab.input()[]:/\n", max_size=40))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        parse_template(text).render(VARIABLES)
    except (ExpressionError, TemplateError):
        pass
