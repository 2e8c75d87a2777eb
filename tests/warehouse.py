"""A database that workflows ask: with a password-holding role of its own, which may read and write its tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from history.connection_options import ConnectionOptions

PASSWORD = "kingfisher"
TABLES = """
CREATE TABLE article (id int PRIMARY KEY, author text NOT NULL, words numeric);
INSERT INTO article SELECT n, CASE WHEN n % 2 = 0 THEN 'ada' ELSE 'alan' END, n * 1.5 FROM generate_series(1, 6) n;
CREATE TABLE verdict (id text PRIMARY KEY, note text);
CREATE TABLE secret (id int);
"""


@dataclass(frozen=True)
class Warehouse:
    """`url` is the role's, `admin` a connection of the superuser's."""

    url: str
    role: str
    admin: psycopg.Connection[Any]

    def options(self, **fields: Any) -> ConnectionOptions:
        return ConnectionOptions(self.url, **fields)

    def ask(self, query: str, *params: Any) -> Any:
        """The first column of the first row, as the superuser sees it."""
        row = self.admin.execute(query.encode(), params or None).fetchone()
        assert row is not None
        return row[0]

    def active(self) -> int:
        """Statements of the role that the server executes now."""
        return int(self.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'", self.role))


@contextmanager
def made_warehouse(server: str) -> Iterator[Warehouse]:
    name = f"warehouse_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD))
        with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as admin:
            admin.execute(TABLES)
            admin.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON article, verdict TO {}").format(sql.Identifier(name))
            )
            yield Warehouse(make_conninfo(server, dbname=name, user=name, password=PASSWORD), name, admin)
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
