"""A small redis-cli: the wheel brings a server, and no client."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.exceptions import RedisError, ResponseError

import lua
from pavane.preflight import PreflightError
from pavane.settings import without_password

BLOCKING_S = 60.0


class BadCommand(ValueError):
    """What the server, or the reading of a line, refused."""


class RedisShell:
    """Commands as text, answers as JSON-like values; raises PreflightError where the server is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = redis.Redis.from_url(
            # RESP3, because there a map is a map.
            url,
            protocol=3,
            decode_responses=True,
            encoding_errors="backslashreplace",
            socket_timeout=BLOCKING_S,
        )
        # The answers as the server gives them, not as redis-py would have them.
        self._client.response_callbacks.clear()

    def command(self, words: Sequence[str]) -> Any:
        """Raises BadCommand with the server's words."""
        try:
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            raise BadCommand(str(error)) from None
        except (RedisError, OSError) as error:
            raise PreflightError(f"Redis is not reachable at {without_password(self._url)}: {error}") from None

    def eval(self, script: str, words: Sequence[str]) -> Any:
        """Runs one of our scripts by its name, or a file, as `redis-cli --eval` does: keys, a comma, arguments."""
        named = Path(lua.__path__[0]) / f"{script.removesuffix('.lua')}.lua"
        file = named if named.parent == Path(lua.__path__[0]) and named.exists() else Path(script)
        try:
            source = file.read_text("utf-8")
        except OSError as error:
            raise BadCommand(f"{script}: {error.strerror}") from None
        cut = list(words).index(",") if "," in words else len(words)
        keys, arguments = words[:cut], words[cut + 1 :]
        return self.command(["EVAL", source, str(len(keys)), *keys, *arguments])

    def repl(self) -> None:
        """A prompt, until Ctrl-D or `quit`."""
        try:
            import readline  # noqa: F401 - gives input() its history
        except ImportError:
            pass
        self.command(["PING"])
        prompt = f"{without_password(self._url).rpartition('@')[2]}> "
        while True:
            try:
                words = shlex.split(input(prompt))
                if words and words[0].lower() in ("quit", "exit"):
                    return
                if words:
                    print(self.shown(self.command(words)))
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
            except ValueError as error:
                print(f"(error) {error}")

    @staticmethod
    def shown(answer: Any, indent: str = "") -> str:
        """An answer as lines: lists are numbered, maps are `name: value`."""
        if answer is None:
            return f"{indent}(nil)"
        if isinstance(answer, Mapping):
            pairs = (_named(name, value, indent) for name, value in answer.items())
            return "\n".join(pairs) or f"{indent}(empty)"
        if isinstance(answer, list | tuple | set):
            return "\n".join(_numbered(list(answer), indent)) or f"{indent}(empty)"
        return f"{indent}{answer}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _named(name: Any, value: Any, indent: str) -> str:
    if isinstance(value, list | dict | set):
        return f"{indent}{name}:\n{RedisShell.shown(value, indent + '  ')}"
    return f"{indent}{name}: {RedisShell.shown(value)}"


def _numbered(parts: list[Any], indent: str) -> list[str]:
    lines = []
    width = len(str(len(parts)))
    for number, part in enumerate(parts, 1):
        head = f"{indent}{number:>{width}}) "
        inner = " " * len(head)
        text = RedisShell.shown(part, inner)
        lines.append(head + text[len(inner) :])
    return lines
