"""The HTTP client of our API: what the commands ask, and errors that say what to do."""

import getpass
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from pavane.data_folder import DataFolder
from pavane.settings import Settings
from schemas.events import STATUS_OF

TIMEOUT_S = 60.0
RECONNECT_TRIES = 20
RECONNECT_S = 0.5
FOLLOW_TIMEOUT_S = 60.0
"""Longer than the API's pings: a silence of this length is a broken connection."""
_STANDARD = ("type", "title", "status", "detail", "errors")
"""Members of every problem document."""


class Unreachable(RuntimeError):
    """The API does not answer, or can not serve now; the text says where and what to do."""


class Refused(RuntimeError):
    """The API refused a request. `errors`: [{path, code, message}]; `more`: what else its problem document says."""

    def __init__(
        self, status: int, detail: str, errors: Iterable[Mapping[str, str]] = (), more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.more = dict(more or {})


def api_url(settings: Settings) -> str:
    """PAVANE_API, else the API of the instance in the data folder, else the default port of this machine."""
    if settings.api:
        return settings.api.rstrip("/")
    if instance := DataFolder(settings.data).running():
        return instance.api
    return f"http://127.0.0.1:{settings.port or 8080}"


def _user() -> str:
    """Who asks, as far as this machine knows: events name it where no API keys are configured."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return ""


class Client:
    """One connection to the API at `url`. Every method raises Unreachable or Refused."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {"Pavane-User": _user()}
        # Proxies are for the outside world.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=url.startswith("https:"))

    @classmethod
    def of(cls, settings: Settings) -> Self:
        key = settings.api_key.get_secret_value() if settings.api_key else None
        return cls(api_url(settings), key)

    def get(self, *path: str, timeout_s: float = TIMEOUT_S, **parameters: Any) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given, timeout=timeout_s)

    def get_tagged(self, *path: str) -> tuple[Any, str | None]:
        """What is there, and its entity tag."""
        with self._failures():
            answer = self._http.get(_path(path))
            _check(answer)
            return answer.json(), answer.headers.get("etag")

    def post(
        self, *path: str, body: Any = None, timeout_s: float = TIMEOUT_S, if_match: str | None = None, **parameters: Any
    ) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        headers = {"If-Match": if_match} if if_match else {}
        if body is None:
            return self._ask("POST", path, params=given, headers=headers, timeout=timeout_s)
        headers["Content-Type"] = "application/json"
        return self._ask("POST", path, params=given, content=json.dumps(body), headers=headers, timeout=timeout_s)

    def post_lines(self, *path: str, values: Iterable[Any], **parameters: Any) -> Any:
        """A body of JSON lines, written as it is sent."""
        given = {name: value for name, value in parameters.items() if value is not None}
        body = (json.dumps(value).encode() + b"\n" for value in values)
        headers = {"Content-Type": "application/x-ndjson"}
        return self._ask("POST", path, params=given, content=body, headers=headers)

    def chunks(self, *path: str, **parameters: Any) -> Iterator[bytes]:
        """A streamed answer, as it comes."""
        given = {name: value for name, value in parameters.items() if value is not None}
        with self._failures(), self._http.stream("GET", _path(path), params=given) as answer:
            _check(answer)
            yield from answer.iter_bytes()

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All events of a run so far."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.get("runs", run_id, "events", after=after)
            found += page["events"]
            after = page["next_after"]
        return found

    def follow(self, run_id: str) -> Iterator[dict[str, Any]]:
        """The events of a run from its first on, as they happen, until the run has ended."""
        seq, failures, ended = 0, 0, False
        while True:
            try:
                for event in self._follow(run_id, seq):
                    seq, failures = event["seq"], 0
                    ended = event["type"] in STATUS_OF  # unless it was retried, and more follows
                    yield event
                if ended:
                    return
                raise Unreachable(f"{self.url} ended the connection")
            except Unreachable:
                if ended:
                    return
                failures += 1
                if failures > RECONNECT_TRIES or seq == 0:
                    raise
                _pause(RECONNECT_S)

    def _follow(self, run_id: str, seq: int) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seq)}
        path = _path(("runs", run_id, "events"))
        with (
            self._failures(),
            self._http.stream("GET", path, params={"after": seq}, headers=headers, timeout=FOLLOW_TIMEOUT_S) as answer,
        ):
            _check(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def _ask(self, method: str, path: Iterable[str], **request: Any) -> Any:
        with self._failures():
            answer = self._http.request(method, _path(path), **request)
            _check(answer)
            return answer.json() if answer.content else None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unreachable(
                f"Pavane does not answer at {self.url} ({error or type(error).__name__}); "
                "`pavane up` starts it, --api or --data says where it is"
            ) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Unreachable(f"{self.url} is no URL of an API: {error}") from None
        except json.JSONDecodeError:
            raise Unreachable(f"{self.url} is not Pavane's API: its answer is not JSON") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


def _path(steps: Iterable[str]) -> str:
    return "/" + "/".join(quote(step, safe=":") for step in steps)


def _check(answer: httpx.Response) -> None:
    """Raises what a refusal means."""
    if answer.is_success:
        return
    answer.read()
    try:
        problem = answer.json()
        detail, errors = str(problem["detail"]), problem.get("errors", [])
        more = {name: value for name, value in problem.items() if name not in _STANDARD}
    except (ValueError, KeyError, TypeError):
        raise Unreachable(
            f"{answer.request.url} is not Pavane's API: it answered {answer.status_code} {answer.reason_phrase}"
        ) from None
    if answer.status_code == 503:
        raise Unreachable(detail)
    raise Refused(answer.status_code, detail, errors, more)


def _pause(seconds: float) -> None:
    from threading import Event

    Event().wait(seconds)
