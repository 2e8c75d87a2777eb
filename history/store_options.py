"""Store options: where artifacts go if not to Postgres. Apart, so that settings load no database library."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where artifacts go, and what lets us in. `url` is s3://bucket or s3://bucket/prefix."""

    url: str
    endpoint: str | None = None  # of a store that is not Amazon's
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
