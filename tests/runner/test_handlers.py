"""Which functions become handlers."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from agent_runner.handlers import HandlerConflict, Handlers

SOURCE = """
from json import dumps
from os import path

LIMIT = 3

class Grade:
    def __call__(self): ...

def visible(x): ...

async def visible_async(): ...

def _hidden(): ...

alias = visible
nameless = lambda: 1
grade = Grade()
"""


def make_module(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    exec(source, module.__dict__)
    sys.modules[name] = module
    return module


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    make_module("made_handlers", SOURCE)
    make_module("more_handlers", "def visible(): ...")
    yield
    del sys.modules["made_handlers"], sys.modules["more_handlers"]


def test_only_functions_defined_in_the_module() -> None:
    handlers = Handlers.from_modules(["made_handlers"], installed=False)
    assert handlers.names == ["visible", "visible_async"]
    assert [handlers.get(name).is_async for name in handlers.names] == [False, True]  # type: ignore[union-attr]
    assert handlers.get("dumps") is None


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(HandlerConflict, match="'visible' is defined in made_handlers and more_handlers"):
        Handlers.from_modules(["made_handlers", "more_handlers"], installed=False)


def test_the_same_module_twice_is_fine() -> None:
    assert Handlers.from_modules(["made_handlers", "made_handlers"], installed=False).names


def test_a_module_that_can_not_be_imported_is_named() -> None:
    with pytest.raises(HandlerConflict, match="no_such_module"):
        Handlers.from_modules(["no_such_module"])
