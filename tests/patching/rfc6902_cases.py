"""What RFC 6902 and 6901 ask for: (name, document, operations, document after them or the code of the refusal)."""

from __future__ import annotations

from typing import Any

Case = tuple[str, Any, list[dict[str, Any]], Any]


class Refused(str):
    """The code of a refusal."""


def op(name: str, path: str, *value: Any, source: str | None = None) -> dict[str, Any]:
    made = {"op": name, "path": path}
    if value:
        (made["value"],) = value
    if source is not None:
        made["from"] = source
    return made


def inside(operation: dict[str, Any]) -> dict[str, Any]:
    """The same on a document that lies at `d/~` in another one."""
    places = {name: text for name, text in operation.items() if name in ("path", "from") and text[:1] in ("", "/")}
    return operation | {name: "/d~1~0" + text for name, text in places.items()}


APPENDIX_A: list[Case] = [
    ("A.1", {"foo": "bar"}, [op("add", "/baz", "qux")], {"baz": "qux", "foo": "bar"}),
    ("A.2", {"foo": ["bar", "baz"]}, [op("add", "/foo/1", "qux")], {"foo": ["bar", "qux", "baz"]}),
    ("A.3", {"baz": "qux", "foo": "bar"}, [op("remove", "/baz")], {"foo": "bar"}),
    ("A.4", {"foo": ["bar", "qux", "baz"]}, [op("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
    ("A.5", {"baz": "qux", "foo": "bar"}, [op("replace", "/baz", "boo")], {"baz": "boo", "foo": "bar"}),
    (
        "A.6",
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [op("move", "/qux/thud", source="/foo/waldo")],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        "A.7",
        {"foo": ["all", "grass", "cows", "eat"]},
        [op("move", "/foo/3", source="/foo/1")],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        "A.8",
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [op("test", "/baz", "qux"), op("test", "/foo/1", 2)],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ("A.9", {"baz": "qux"}, [op("test", "/baz", "bar")], Refused("test-failed")),
    ("A.10", {"foo": "bar"}, [op("add", "/child", {"grandchild": {}})], {"foo": "bar", "child": {"grandchild": {}}}),
    ("A.11", {"foo": "bar"}, [op("add", "/baz", "qux") | {"xyz": 123}], {"foo": "bar", "baz": "qux"}),
    ("A.12", {"foo": "bar"}, [op("add", "/baz/bat", "qux")], Refused("not-found")),
    ("A.14", {"/": 9, "~1": 10}, [op("test", "/~01", 10)], {"/": 9, "~1": 10}),
    ("A.15", {"/": 9, "~1": 10}, [op("test", "/~01", "10")], Refused("test-failed")),
    ("A.16", {"foo": ["bar"]}, [op("add", "/foo/-", ["abc", "def"])], {"foo": ["bar", ["abc", "def"]]}),
]
"""The examples of the RFC; A.13 (a member twice) is for who reads the JSON."""

_KEYS = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}
POINTERS: list[Case] = [
    ("6901-5 " + path, _KEYS, [op("test", path, value)], _KEYS)
    for path, value in {
        "": _KEYS,
        "/foo": ["bar", "baz"],
        "/foo/0": "bar",
        "/": 0,
        "/a~1b": 1,
        "/c%d": 2,
        "/e^f": 3,
        "/g|h": 4,
        "/i\\j": 5,
        '/k"l': 6,
        "/ ": 7,
        "/m~0n": 8,
    }.items()
]
"""The example of RFC 6901, section 5."""

INDEXES: list[Case] = [
    (f"index {index!r} {name}", {"a": [1, 2, 3]}, [made], Refused("bad-index"))
    for index in ("01", "00", "+1", "-1", "1.0", "1e0", " 1", "1 ", "١", "0x1", "", "first", "--", "9" * 5000)
    for name, made in (
        ("add", op("add", f"/a/{index}", 0)),
        ("remove", op("remove", f"/a/{index}")),
        ("replace", op("replace", f"/a/{index}", 0)),
        ("test", op("test", f"/a/{index}", 2)),
        ("move", op("move", "/b", source=f"/a/{index}")),
        ("copy", op("copy", f"/a/{index}", source="/a/0")),
    )
]
MISSING: list[Case] = [
    (
        f"nothing at {path}: {made['op']} {made.get('from', '')}",
        {"a": [1, 2], "s": "ab", "n": 1, "z": None},
        [made],
        code,
    )
    for path in ("/a/2", "/a/-", "/a/-/x", "/a/9999999999", "/b", "/b/c", "/", "/s/0", "/n/0", "/z/x", "/A", "/a/0/x")
    for made, code in (
        (op("remove", path), Refused("not-found")),
        (op("replace", path, 1), Refused("not-found")),
        (op("move", "/x", source=path), Refused("not-found")),
        (op("copy", "/x", source=path), Refused("not-found")),
        (op("test", path, None), Refused("test-failed")),
    )
]
POINTER_FAULTS: list[Case] = [
    (f"pointer {path!r}", {"a~2": 1, "a~": 1, "~": 1}, [made], Refused("bad-pointer"))
    for path in ("a", "#/a", "/a~2", "/a~", "/~", "/~~0", " /a", "/a~\n", "0")
    for made in (op("add", path, 1), op("remove", path), op("copy", "/x", source=path), op("test", path, 1))
]
VALUES: list[Case] = [
    ("no operations", {"a": 1}, [], {"a": 1}),
    ("add instead of what is there", {"a": None}, [op("add", "/a", 1)], {"a": 1}),
    ("add null", {"a": 1}, [op("add", "/b", None)], {"a": 1, "b": None}),
    ("add with the empty key", {"a": {}}, [op("add", "/a/", 1), op("add", "/", 2)], {"a": {"": 1}, "": 2}),
    ("digits and - are keys of objects", {}, [op("add", "/0", 1), op("add", "/01", 2), op("add", "/-", 3)],
     {"0": 1, "01": 2, "-": 3}),
    ("test by a key of digits", {"1e0": "a"}, [op("test", "/1e0", "a")], {"1e0": "a"}),
    ("add at the end by index", {"a": [1]}, [op("add", "/a/1", 2)], {"a": [1, 2]}),
    ("add to an empty list", {"a": []}, [op("add", "/a/0", 1)], {"a": [1]}),
    ("add behind the end", {"a": [1]}, [op("add", "/a/2", 2)], Refused("not-found")),
    ("add a list as one member", {"a": [1, 4]}, [op("add", "/a/1", [2, 3])], {"a": [1, [2, 3], 4]}),
    ("add deep at the end", {"a": [1, [2, [3]]]}, [op("add", "/a/1/1/-", 4)], {"a": [1, [2, [3, 4]]]}),
    ("add inside what would be the next member", {"a": [1]}, [op("add", "/a/1/x", 2)], Refused("not-found")),
    ("add inside what - means", {"a": [{}]}, [op("add", "/a/-/x", 2)], Refused("not-found")),
    ("add inside a string", {"a": "x"}, [op("add", "/a/0", "y")], Refused("not-found")),
    ("replace the whole", {"a": 1}, [op("replace", "", {"b": 2})], {"b": 2}),
    ("add the whole", {"a": 1}, [op("add", "", {"b": 2})], {"b": 2}),
    ("replace by null, false, 0, empty", {"a": [1, 1, 1, 1]},
     [op("replace", f"/a/{i}", value) for i, value in enumerate((None, False, 0, ""))], {"a": [None, False, 0, ""]}),
    ("replace null", {"a": None}, [op("replace", "/a", 1)], {"a": 1}),
    ("remove null", {"a": None}, [op("remove", "/a")], {}),
    ("removes shift", {"a": [1, 2, 3, 4]}, [op("remove", "/a/1"), op("remove", "/a/2")], {"a": [1, 3]}),
    ("move null", {"a": None}, [op("move", "/b", source="/a")], {"b": None}),
    ("move to where it is", {"a": [1, 2]}, [op("move", "/a/1", source="/a/1")], {"a": [1, 2]}),
    ("move the whole to where it is", {"a": 1}, [op("move", "", source="")], {"a": 1}),
    ("move over the whole", {"a": {"b": 1}}, [op("move", "", source="/a")], {"b": 1}),
    ("move over its parent", {"a": {"b": {"c": 1}}}, [op("move", "/a", source="/a/b")], {"a": {"c": 1}}),
    ("move to the end", {"a": [1, 2, 3]}, [op("move", "/a/-", source="/a/0")], {"a": [2, 3, 1]}),
    ("move behind the end that is left", {"a": [1, 2]}, [op("move", "/a/2", source="/a/0")], Refused("not-found")),
    ("move into itself", {"a": {"b": 1}}, [op("move", "/a/b/c", source="/a")], Refused("into-itself")),
    ("move a member into itself", {"a": [{}, {}]}, [op("move", "/a/0/x", source="/a/0")], Refused("into-itself")),
    ("move the whole into itself", {"a": 1}, [op("move", "/a", source="")], Refused("into-itself")),
    ("move beside a longer key", {"a": 1, "ab": {}}, [op("move", "/ab/c", source="/a")], {"ab": {"c": 1}}),
    ("copy null", {"a": None}, [op("copy", "/b", source="/a")], {"a": None, "b": None}),
    ("copy into itself", {"a": {"b": 1}}, [op("copy", "/a/c", source="/a")], {"a": {"b": 1, "c": {"b": 1}}}),
    ("copy the whole", {"a": 1}, [op("copy", "/b", source="")], {"a": 1, "b": {"a": 1}}),
    ("a copy is one of its own", {"a": [1]}, [op("copy", "/b", source="/a"), op("add", "/b/-", 2)],
     {"a": [1], "b": [1, 2]}),
    ("copy within a list", {"a": [1, 2]}, [op("copy", "/a/0", source="/a/1")], {"a": [2, 1, 2]}),
    ("test in another order", {"a": [{"b": 1, "c": 2}]}, [op("test", "/a", [{"c": 2, "b": 1}])],
     {"a": [{"b": 1, "c": 2}]}),
    ("test after a change", {"a": 1}, [op("replace", "/a", 2), op("test", "/a", 2)], {"a": 2}),
    ("a later fault undoes all", {"a": 1}, [op("replace", "/a", 2), op("test", "/a", 1)], Refused("test-failed")),
    ("remove the whole", {"a": 1}, [op("remove", "")], Refused("whole-document")),
    ("an unknown operation", {"a": 1}, [op("spam", "/a", 1)], Refused("unknown-op")),
    ("an operation in capitals", {"a": 1}, [op("Remove", "/a")], Refused("unknown-op")),
]  # fmt: skip
EQUAL = [(1, 1.0), (0, -0.0), (10**15, 1e15), ([], []), ({}, {}), ("", ""), (None, None), ({"a": [1.0]}, {"a": [1]})]
UNEQUAL = [
    (1, True), (0, False), (True, 1.0), (None, False), (None, 0), ("", None), ("1", 1), ([], {}), ([1], [1, 1]),
    ({"a": None}, {}), ({"a": 1}, {"b": 1}), ([True], [1]), ({"a": False}, {"a": 0}), ("a", "A"), ("é", "e\u0301"),
    (2**53, 2**53 + 1), ([1, 2], [2, 1]),
]  # fmt: skip
TESTS: list[Case] = [
    *((f"{a!r} is {b!r}", {"v": a}, [op("test", "/v", b)], {"v": a}) for a, b in EQUAL),
    *((f"{a!r} is not {b!r}", {"v": a}, [op("test", "/v", b)], Refused("test-failed")) for a, b in UNEQUAL),
    *((f"{b!r} is not {a!r}", {"v": b}, [op("test", "/v", a)], Refused("test-failed")) for a, b in UNEQUAL),
]
INCOMPLETE: list[Case] = [
    (
        f"without {name}: {made['op']}",
        {"a": None},
        [{k: v for k, v in made.items() if k != name}],
        Refused("missing-field"),
    )
    for made, names in (
        (op("add", "/a", 1), ("op", "path", "value")),
        (op("replace", "/a", 1), ("op", "path", "value")),
        (op("test", "/a", None), ("op", "path", "value")),
        (op("remove", "/a"), ("op", "path")),
        (op("move", "/b", source="/a"), ("op", "path", "from")),
        (op("copy", "/b", source="/a"), ("op", "path", "from")),
    )
    for name in names
]
CASES = [*APPENDIX_A, *POINTERS, *INDEXES, *MISSING, *POINTER_FAULTS, *VALUES, *TESTS, *INCOMPLETE]
