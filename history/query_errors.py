"""Why a query of somebody else's database failed, in the failure classes of schemas/messages.py."""

from __future__ import annotations

import psycopg

from schemas.messages import RETRIABLE

_BY_STATE = {
    "08P01": "invalid_input",  # a parameter without a name
    "08": "connection",
    "53": "connection",  # too many connections, no memory
    "57P": "connection",  # it shuts down, or starts
    "57014": "timeout",
    "25P04": "timeout",
    "40": "interrupted",  # deadlock, serialization
    "55P03": "interrupted",  # a lock was not to be had
    "42501": "permanent",  # no privilege
    "42": "invalid_input",
    "22": "invalid_input",
    "23": "invalid_input",
}
_MESSAGE_CHARS = 1_000


class QueryFailed(Exception):
    """A query that gave no rows that can be used. `of_data`: another value in its parameters may do better."""

    def __init__(self, klass: str, message: str, *, of_data: bool = False) -> None:
        super().__init__(message)
        self.klass = klass
        self.message = message
        self.of_data = of_data

    @property
    def retryable(self) -> bool:
        return self.klass in RETRIABLE


def query_failure(connection: str, error: psycopg.Error | UnicodeError) -> QueryFailed:
    """What an error of psycopg means. What libpq says of a server it can not reach is left out: it names the place."""
    if isinstance(error, UnicodeError):
        return QueryFailed("invalid_input", "a parameter holds text that is no Unicode", of_data=True)
    state = error.sqlstate
    if state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return QueryFailed("connection", f"the connection {connection!r} is not to be had, or was lost")
    if state is None:  # psycopg's own, about the query or its parameters
        return QueryFailed("invalid_input", str(error)[:_MESSAGE_CHARS], of_data=isinstance(error, psycopg.DataError))
    klass = next((_BY_STATE[state[:n]] for n in (5, 3, 2) if state[:n] in _BY_STATE), "permanent")
    message = f"{(error.diag.message_primary or 'no message')[:_MESSAGE_CHARS]} (SQLSTATE {state})"
    of_data = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    return QueryFailed(klass, f"the connection {connection!r}: {message}" if klass == "connection" else message,
                       of_data=of_data)  # fmt: skip
