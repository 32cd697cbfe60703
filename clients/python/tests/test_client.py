"""The loops for threads, directly and through PgBouncer in transaction mode."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import errors

import pgpubsub
from conftest import World, eventually, text


def take(subscription: pgpubsub.Subscription, count: int) -> list[str]:
    """Read events; all but the last are acknowledged."""
    taken = []
    for event in subscription:
        taken.append(text(event))
        if len(taken) == count:
            break
    return taken


def test_events(world: World) -> None:
    with world.pool() as pool:
        client = pgpubsub.Client(pool, world.options)
        subscription = client.subscribe(world.sub, [world.channel])
        world.publish(1, 3)
        assert take(subscription, 2) == ["1", "2"]
        # the loop was left at 2, so only 1 was acknowledged
        assert take(subscription, 2) == ["2", "3"]
        huge = "ünïcödé ☃ 𝄞 \\ ' \" \n" * 20000
        world.value("SELECT pgpubsub.publish(%s::text, %s::text)", world.channel, huge)
        assert take(subscription, 2) == ["3", huge]


@pytest.mark.parametrize("form", ["plain", "cloudevents", "debezium"])
def test_change(world: World, form: str) -> None:
    with psycopg.connect(world.conninfo) as connection:
        connection.execute("DROP TABLE IF EXISTS py_items")
        connection.execute(
            "CREATE TABLE py_items (id bigint PRIMARY KEY, name text, price numeric)"
        )
        connection.execute(
            "SELECT pgpubsub.attach('py_items', %s::text, format => %s::text)",
            [world.channel, form],
        )
    with world.pool() as pool:
        subscription = pgpubsub.Client(pool, world.options).subscribe(world.sub, [world.channel])
        with psycopg.connect(world.conninfo) as connection:
            connection.execute(
                "INSERT INTO py_items VALUES (9007199254740993, 'Äpfel', 0.12345678901234567890)"
            )
            connection.execute("UPDATE py_items SET name = NULL")
        changes = []
        for event in subscription:
            assert isinstance(event, pgpubsub.Message)
            changes.append(event.change())
            if len(changes) == 2:
                break
    insert, update = changes
    assert (insert.op, insert.table, insert.old) == ("INSERT", "py_items", None)
    assert insert.key == {"id": 9007199254740993}
    assert insert.new is not None
    assert insert.new["price"] == Decimal("0.12345678901234567890")
    assert update.old == {"name": "Äpfel"}
    assert update.changed == (() if form == "debezium" else ("name",))
    assert update.new is not None
    assert update.new["name"] is None
    assert update.time is not None
    assert update.time.tzinfo is not None


def test_consumer_that_raises(world: World) -> None:
    with world.pool() as pool:
        subscription = pgpubsub.Client(pool, world.options).subscribe(world.sub, [world.channel])
        world.publish(1, 4)
        world.pending(4)
        seen = []

        def handler(event: pgpubsub.Event) -> None:
            seen.append(text(event))
            if text(event) == "3":
                raise ZeroDivisionError

        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                subscription.handle(handler)
        assert seen == ["1", "2", "3", "3"]
        assert take(subscription, 2) == ["3", "4"]

        def in_transaction(_connection: object, batch: list[pgpubsub.Event]) -> None:
            assert text(batch[0]) == "4"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            subscription.handle_in_transaction(in_transaction)

        def ignores(connection: psycopg.Connection[Any], _batch: object) -> None:
            with pytest.raises(errors.DivisionByZero):
                connection.execute("SELECT 1 / 0")

        with pytest.raises(errors.InFailedSqlTransaction):
            subscription.handle_in_transaction(ignores)
        with pool.connection() as connection:
            assert [text(event) for event in subscription.poll(connection)] == ["4"]


def test_batches(world: World) -> None:
    received: list[str] = []
    consumed: list[int] = []
    options = replace(
        world.options,
        on_received=lambda _name, events: received.extend(map(text, events)),
        on_consumed=lambda _name, count: consumed.append(count),
    )
    with world.pool() as pool:
        subscription = pgpubsub.Client(pool, options).subscribe(world.sub, [world.channel])
        world.publish(1, 7)
        world.pending(7)
        batches = []
        for batch in subscription.batches(3):
            batches.append([text(event) for event in batch])
            if len(batches) == 3:
                break
        assert batches == [["1", "2", "3"], ["4", "5", "6"], ["7"]]
        assert received == ["1", "2", "3", "4", "5", "6", "7"]
        assert consumed == [3, 3]
        assert take(subscription, 1) == ["7"]


@pytest.mark.parametrize("on_full", ["drop", "evict"])
def test_evicted(world: World, on_full: pgpubsub.OnFull) -> None:
    with world.pool() as pool:
        client = pgpubsub.Client(pool, world.options)
        subscription = client.subscribe(world.sub, [world.channel], on_full=on_full)
        world.value(
            "SELECT count(pgpubsub.publish(%s::text, i || repeat('x', 5000)))"
            " FROM generate_series(1, 3000) AS i",
            world.channel,
        )
        eventually(
            lambda: (
                world.value(
                    "SELECT published FROM pgpubsub.stat_channels WHERE channel = %s", world.channel
                )
                == 3000
            )
        )
        missing = count = 0
        for event in subscription:
            if isinstance(event, pgpubsub.Gap):
                assert event.known
                missing += event.lost
            else:
                count += 1
                if event.payload.startswith("3000x"):
                    break
        # what a look has shown may be lost before it is acknowledged, and is
        # told as missing then, too
        assert missing > 0
        assert count + missing >= 3000


def test_many_events_in_order(world: World) -> None:
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)
    with world.pool() as pool, ThreadPoolExecutor() as threads:
        subscription = pgpubsub.Client(pool, world.options).subscribe(world.sub, [world.channel])
        threads.submit(world.publish, 1, 100_000)
        expected = 1
        for batch in subscription.batches(1000):
            for event in batch:
                assert text(event) == str(expected)
                expected += 1
            if expected > 100_000:
                break


@pytest.mark.parametrize("failure", ["backend", "relay", "restart", "crash", "bouncer"])
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
def test_failure(world: World, failure: str, durable: bool) -> None:
    with world.pool() as pool, ThreadPoolExecutor() as threads:
        subscription = pgpubsub.Client(pool, world.options).subscribe(world.sub, [world.channel])
        if durable:
            world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)
        gap = failure in ("relay", "restart", "crash") and not durable
        world.publish(1, 1)
        taken = threads.submit(take, subscription, 4 if gap else 3)
        eventually(lambda: world.waiting() and world.stat("pending") == 0, "it waits")
        getattr(world, failure)()
        world.publish(2, 3)
        assert taken.result(60) == ["1", *(["gap -1"] if gap else []), "2", "3"]


def test_exactly_once(world: World) -> None:
    """Two consumers write what they get in its transaction, while all that can happen does."""
    count = 1000
    with psycopg.connect(world.conninfo) as connection:
        connection.execute("DROP TABLE IF EXISTS py_results")
        connection.execute("CREATE TABLE py_results (n int)")
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)

    def handler(connection: psycopg.Connection[Any], batch: list[pgpubsub.Event]) -> None:
        for event in batch:
            connection.execute(
                "INSERT INTO py_results VALUES (%s::text::int)", [text(event)], prepare=False
            )

    with world.pool() as pool, ThreadPoolExecutor() as threads:
        client = pgpubsub.Client(pool, replace(world.options, batch_size=20))
        subscription = client.subscribe(world.sub, [world.channel])
        ended = [threads.submit(subscription.handle_in_transaction, handler) for _ in range(2)]

        def results() -> int:
            return int(world.value("SELECT count(*) FROM py_results"))

        for i, what in enumerate(["crash", "bouncer-restart", "backends", "restart"]):
            world.publish(i * count // 4 + 1, (i + 1) * count // 4)
            eventually(lambda before=i * count // 4: results() > before, "some are handled")  # type: ignore[misc]
            if what == "backends":
                world.value(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            else:
                world.control(what)
        eventually(lambda: results() >= count, "all are handled")
        client.stop()
        for future in ended:
            future.result(60)
    assert results() == count
    assert world.value("SELECT count(DISTINCT n) FROM py_results") == count


def test_at_least_once_over_a_crash(world: World) -> None:
    """None is missing, in the order in which they were published; some may come twice."""
    count, seen = 1000, 0
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)

    def handler(event: pgpubsub.Event) -> None:
        nonlocal seen
        assert int(text(event)) <= seen + 1
        seen = max(seen, int(text(event)))

    with world.pool() as pool, ThreadPoolExecutor() as threads:
        client = pgpubsub.Client(pool, replace(world.options, batch_size=20))
        ended = threads.submit(client.subscribe(world.sub, [world.channel]).handle, handler)
        for first, what in ((0, "crash"), (count // 2, "bouncer-restart")):
            world.publish(first + 1, first + count // 2)
            eventually(lambda first=first: seen > first, "some are handled")  # type: ignore[misc]
            world.control(what)
        eventually(lambda: seen == count or ended.done(), "all are handled")
        client.stop()
        ended.result(60)


def test_stop_loses_nothing(world: World) -> None:
    count, expected = 200, 1
    with world.pool() as pool:
        options = replace(world.options, batch_size=7)
        subscription = pgpubsub.Client(pool, options).subscribe(world.sub, [world.channel])
        world.publish(1, count)
        while expected <= count:
            # stopped at any moment, by another thread
            client = pgpubsub.Client(pool, options)
            stopper = threading.Thread(target=client.stop)
            stopper.start()
            for event in client.open(subscription.name):
                assert text(event) == str(expected)
                expected += 1
            stopper.join()
            client = pgpubsub.Client(pool, options)
            for event in client.open(subscription.name):
                assert text(event) == str(expected)
                expected += 1
                if expected % 5 == 0 or expected > count:
                    client.stop()
        # and one that waits
        client = pgpubsub.Client(pool, options)
        with ThreadPoolExecutor() as threads:
            ended = threads.submit(client.open(world.sub).handle, print)
            eventually(world.waiting, "it waits")
            client.stop()
            ended.result(10)


def test_stop_in_a_signal_handler(world: World) -> None:
    with world.pool() as pool, ThreadPoolExecutor() as threads:
        client = pgpubsub.Client(pool, world.options)
        subscription = client.subscribe(world.sub, [world.channel])

        def terminate() -> None:
            eventually(world.waiting, "it waits")
            os.kill(os.getpid(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, lambda _signal, _frame: client.stop())
        try:
            terminated = threads.submit(terminate)
            subscription.handle(print)
            terminated.result()
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_many_consumers_over_one_pool(world: World) -> None:
    consumers = 20
    with world.pool(4) as pool, ThreadPoolExecutor(consumers) as threads:
        client = pgpubsub.Client(pool, world.options)
        seen: set[tuple[int, str]] = set()
        ended = []
        for i in range(consumers):
            router: pgpubsub.Router[None] = pgpubsub.Router()
            router.on("py_*")(lambda message, i=i: seen.add((i, message.payload)))  # type: ignore[misc]
            subscription = client.subscribe(f"{world.sub}_{i}", [world.channel])
            ended.append(threads.submit(subscription.handle, router))
        for n in range(1, 4):
            # the pool has connections for others
            with pool.connection() as connection:
                connection.execute(
                    "SELECT pgpubsub.publish(%s::text, %s::text)",
                    [world.channel, str(n)],
                    prepare=False,
                )
            eventually(lambda n=n: len(seen) == n * consumers, "all have it")  # type: ignore[misc]
        client.stop()
        for future in ended:
            future.result(60)
        for i in range(consumers):
            assert client.unsubscribe(f"{world.sub}_{i}")


def test_errors_that_stay(world: World) -> None:
    with world.pool() as pool, ThreadPoolExecutor() as threads:
        client = pgpubsub.Client(pool, world.options)
        with pytest.raises(psycopg.Error, match="py_nosuch"):
            take(client.open("py_nosuch"), 1)
        with pytest.raises(errors.InvalidParameterValue):
            client.subscribe("", [world.channel])
        subscription = client.subscribe(world.sub, [world.channel], start_at="oldest")
        ended = threads.submit(take, subscription, 1)
        eventually(world.waiting, "it waits")
        assert client.unsubscribe(world.sub)
        with pytest.raises(psycopg.Error, match=world.sub):
            ended.result(60)
        assert not client.unsubscribe(world.sub)


def test_in_use(world: World) -> None:
    with world.pool() as pool, ThreadPoolExecutor() as threads:
        subscription = pgpubsub.Client(pool, world.options).subscribe(world.sub, [world.channel])
        world.publish(1, 2)
        world.pending(2)
        with psycopg.connect(world.conninfo) as other:
            assert [text(event) for event in subscription.poll(other, 1)] == ["1"]
            taken = threads.submit(take, subscription, 1)
            eventually(
                lambda: (
                    world.retries
                    or world.value(
                        "SELECT 1 FROM pg_stat_activity"
                        " WHERE state = 'active' AND query LIKE 'CALL pgpubsub.wait%%' LIMIT 1"
                    )
                ),
                "it waits or has tried",
            )
        assert taken.result(60) == ["2"]
