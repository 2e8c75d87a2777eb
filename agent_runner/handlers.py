"""Handlers: the Python functions that `function` nodes may call, by name.

Only functions *defined in* a module that the operator named are registered, so a document can never name other code.
A handler is called with the node's rendered `args` as keywords and returns JSON. Plain functions run in threads,
`async def` ones on the runner's loop. An exception is a failure that is retried, unless it is a PermanentError or has
an attribute `retryable` that is false.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

ENTRY_POINTS = "pavane.handlers"


class PermanentError(Exception):
    """For handlers to raise: this task fails for good, trying again can not help."""

    retryable = False


class HandlerConflict(ValueError):
    """Two modules define a handler of the same name, or a named module can not be imported."""


@dataclass(frozen=True, slots=True)
class Handler:
    name: str
    function: Callable[..., Any]
    is_async: bool

    def refusal(self, args: Mapping[str, Any]) -> str | None:
        """Why the function can not be called with these arguments."""
        try:
            inspect.signature(self.function).bind(**args)
        except TypeError as error:
            return str(error)
        return None


class Handlers:
    """A registry, complete when the runner starts."""

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        """Raises HandlerConflict."""
        self._by_name: dict[str, Handler] = {}
        for function in functions:
            self._add(function)

    @classmethod
    def from_modules(cls, names: Iterable[str] = (), *, installed: bool = True) -> Handlers:
        """Handlers of the modules with these names and, if `installed`, of the modules that installed packages
        offer under the entry point group `pavane.handlers`. Raises HandlerConflict."""
        modules = {name: _import(name) for name in names}
        if installed:
            offered = entry_points(group=ENTRY_POINTS)
            modules |= {point.value: _import(point.value) for point in offered if point.value not in modules}
        return cls(function for module in modules.values() for function in _defined_in(module))

    @property
    def names(self) -> list[str]:
        return sorted(self._by_name)

    def get(self, name: str) -> Handler | None:
        return self._by_name.get(name)

    def _add(self, function: Callable[..., Any]) -> None:
        name = function.__name__
        known = self._by_name.get(name)
        if known is not None and known.function is not function:
            both = f"{known.function.__module__} and {function.__module__}"
            raise HandlerConflict(f"handler {name!r} is defined in {both}")
        self._by_name[name] = Handler(name, function, inspect.iscoroutinefunction(function))


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:  # whatever the module raises, its name has to be in what the operator reads
        raise HandlerConflict(f"handler module {name!r} can not be imported: {error!r}") from error


def _defined_in(module: ModuleType) -> list[Callable[..., Any]]:
    return [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and value.__name__ == name
        and not name.startswith("_")
    ]
