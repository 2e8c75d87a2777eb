"""Origins: what a template names in letters, and what an operator's list has."""

import pytest

from agent_runner.web.origin import Hosts, Origin
from agent_runner.web.url import literal_origin, origin_of, read_url


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG:443/{{ input }}", "https://example.org"),
        ("http://example.org:8080?q={{ input }}", "http://example.org:8080"),
        ("http://[::1]:80/x", "http://[::1]"),
        ("http://exämple.org/", "http://xn--exmple-cua.org"),
        ("https://example.org{{ input }}", None),
        ("https://{{ input }}.example.org/", None),
        ("https://example.org:{{ input }}/", None),
        ("https://example.org\\{{ input }}/", None),
        ("https://user@example.org/{{ input }}", None),
        ("{{ input }}", None),
        ("//example.org/", None),
        ("ftp://example.org/", None),
    ],
)
def test_what_a_template_names(template: str, expected: str | None) -> None:
    origin = literal_origin(template)
    assert (str(origin) if origin else None) == expected


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("example.org", ["http://example.org", "https://EXAMPLE.org:8443"], ["http://a.example.org", "http://example.com"]),
        ("*.example.org", ["https://a.example.org", "https://a.b.example.org"], ["https://example.org", "https://anexample.org"]),
        ("https://example.org", ["https://example.org", "https://example.org:1"], ["http://example.org"]),
        ("example.org:8000", ["http://example.org:8000"], ["http://example.org", "https://example.org"]),
        ("Example.org:443", ["https://example.org"], ["http://example.org"]),
        ("[::1]", ["http://[::1]:3000"], ["http://[::2]"]),
    ],
)  # fmt: skip
def test_a_list_of_hosts(entry: str, allowed: list[str], refused: list[str]) -> None:
    hosts = Hosts([entry])
    assert [url for url in allowed if origin_of(read_url(url)) not in hosts] == []
    assert [url for url in refused if origin_of(read_url(url)) in hosts] == []


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "a b", "example.org/x", "u:p@example.org", "example.org:0", "ftp://a", "é.org"]
)
def test_entries_that_are_no_hosts(entry: str) -> None:
    with pytest.raises(ValueError, match="entry 2 is no host") as refused:
        Hosts(["example.org", entry])
    assert entry in ("", "*", "*.") or entry not in str(refused.value)


def test_where_a_host_is_the_same_over_tls() -> None:
    assert str(Origin("http", "example.org", 80).secured) == "https://example.org"
    assert str(Origin("http", "example.org", 8080).secured) == "http://example.org:8080"
