"""A world for each test: names of its own, and a way to the server of scripts/client-server."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import pgpubsub

numbers = itertools.count(time.time_ns())


def eventually(reached: Callable[[], object], what: str = "a state") -> None:
    """Wait for a state."""
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, f"never came to pass: {what}"
        time.sleep(0.01)  # between two looks


class World:
    def __init__(self, port: str) -> None:
        self.conninfo = self._conninfo(port)
        self.channel = f"py_{next(numbers)}"
        self.sub = f"{self.channel}_sub"
        self.retries: list[Exception] = []
        self.options = pgpubsub.Options(
            max_pause=1.0, on_retry=lambda _name, error, _pause: self.retries.append(error)
        )

    @staticmethod
    def _conninfo(port: str) -> str:
        return f"host={os.environ['PGHOST']} port={port} user={os.environ['PGUSER']}"

    @staticmethod
    def control(what: str) -> None:
        """Have scripts/client-server end or start something."""
        subprocess.run([os.environ["CLIENT_SERVER"], what], check=True, capture_output=True)

    def pool(self, size: int = 6) -> ConnectionPool[psycopg.Connection[Any]]:
        return ConnectionPool(self.conninfo, min_size=1, max_size=size, timeout=3, open=True)

    def async_pool(self, size: int = 6) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        return AsyncConnectionPool(self.conninfo, min_size=1, max_size=size, timeout=3, open=False)

    def value(self, sql: str, *parameters: object) -> Any:
        """The value of a query, past the pooler; None if it has no row."""
        direct = self._conninfo(os.environ["PGPORT"])
        with psycopg.connect(direct, autocommit=True) as connection:
            row = connection.execute(sql.encode(), parameters).fetchone()
        return None if row is None else row[0]

    def publish(self, first: int, last: int) -> None:
        self.value(
            "SELECT count(pgpubsub.publish(%s::text, i::text))"
            " FROM generate_series(%s::int, %s::int) AS i",
            self.channel,
            first,
            last,
        )

    def stat(self, column: str) -> Any:
        return self.value(
            f"SELECT {column} FROM pgpubsub.stat_subscriptions WHERE subscription = %s", self.sub
        )

    def pending(self, count: int) -> None:
        eventually(lambda: self.stat("pending") == count, f"{count} events are there")

    def waiting(self) -> bool:
        return bool(self.stat("state") == "waiting")

    def relay_listens(self, but: int = 0) -> None:
        """Wait for a relay, other than the one of that process."""
        eventually(
            lambda: self.value(
                "SELECT 1 FROM pgpubsub.stat_queue WHERE datname = current_database()"
                " AND relay_state = 'listening' AND relay_pid <> %s",
                but,
            ),
            "the relay listens",
        )

    # What may happen to a consumer that waits.

    def backend(self) -> None:
        eventually(
            lambda: self.value(
                "SELECT pg_terminate_backend(pid) FROM pgpubsub.stat_subscriptions"
                " WHERE subscription = %s AND state = 'waiting'",
                self.sub,
            )
        )

    def relay(self) -> None:
        pid = self.value(
            "SELECT relay_pid FROM pgpubsub.stat_queue WHERE datname = current_database()"
        )
        self.value("SELECT pg_terminate_backend(%s)", pid)
        self.relay_listens(but=pid)

    def restart(self) -> None:
        self.control("restart")
        self.relay_listens()

    def crash(self) -> None:
        self.control("crash")
        self.relay_listens()

    def bouncer(self) -> None:
        self.control("bouncer-restart")


@pytest.fixture(params=["PGPORT", "BOUNCER_PORT"], ids=["direct", "bouncer"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if "CLIENT_SERVER" not in os.environ:
        pytest.skip("needs the server of scripts/client-server")
    world = World(os.environ[request.param])
    yield world
    world.value("SELECT pgpubsub.unsubscribe(%s)", world.sub)


def text(event: pgpubsub.Event) -> str:
    """Name an event."""
    return f"gap {event.lost}" if isinstance(event, pgpubsub.Gap) else event.payload
