"""The loops for asyncio, directly and through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

import pgpubsub
from conftest import World, text


async def until(reached: Callable[[], object]) -> None:
    """Wait for a state, and let the other tasks run."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(reached):
            await asyncio.sleep(0.01)  # between two looks


async def take(subscription: pgpubsub.AsyncSubscription, count: int) -> list[str]:
    """Read events; all but the last are acknowledged."""
    taken = []
    async with aclosing(subscription.events()) as events:
        async for event in events:
            taken.append(text(event))
            if len(taken) == count:
                break
    return taken


@asynccontextmanager
async def client_of(
    world: World, size: int = 6, **options: Any
) -> AsyncIterator[pgpubsub.AsyncClient]:
    async with world.async_pool(size) as pool:
        yield pgpubsub.AsyncClient(pool, replace(world.options, **options))


def test_events(world: World) -> None:
    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            world.publish(1, 7)
            world.pending(7)
            assert await take(subscription, 2) == ["1", "2"]
            assert await take(subscription, 2) == ["2", "3"]
            batches = []
            async with aclosing(subscription.batches(3)) as events:
                async for batch in events:
                    batches.append([text(event) for event in batch])
                    if len(batches) == 2:
                        break
            assert batches == [["3", "4", "5"], ["6", "7"]]

            async def handler(event: pgpubsub.Event) -> None:
                if text(event) == "7":
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await subscription.handle(handler)

            async def in_transaction(_: object, batch: list[pgpubsub.Event]) -> None:
                assert [text(event) for event in batch] == ["7"]
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await subscription.handle_in_transaction(in_transaction)
            with pytest.raises(psycopg.Error, match="py_nosuch"):
                await take(client.open("py_nosuch"), 1)
            assert await client.unsubscribe(world.sub)

    asyncio.run(main())


@pytest.mark.parametrize("failure", ["backend", "relay", "restart", "crash", "bouncer"])
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
def test_failure(world: World, failure: str, durable: bool) -> None:
    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            if durable:
                world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)
            gap = failure in ("relay", "restart", "crash") and not durable
            world.publish(1, 1)
            taken = asyncio.create_task(take(subscription, 4 if gap else 3))
            await until(lambda: world.waiting() and world.stat("pending") == 0)
            await asyncio.to_thread(getattr(world, failure))
            world.publish(2, 3)
            async with asyncio.timeout(60):
                assert await taken == ["1", *(["gap -1"] if gap else []), "2", "3"]

    asyncio.run(main())


def test_exactly_once(world: World) -> None:
    count = 400
    with psycopg.connect(world.conninfo) as connection:
        connection.execute("DROP TABLE IF EXISTS py_async_results")
        connection.execute("CREATE TABLE py_async_results (n int)")
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)

    async def handler(
        connection: psycopg.AsyncConnection[Any], batch: list[pgpubsub.Event]
    ) -> None:
        for event in batch:
            await connection.execute(
                "INSERT INTO py_async_results VALUES (%s::text::int)", [text(event)], prepare=False
            )

    def results() -> int:
        return int(world.value("SELECT count(*) FROM py_async_results"))

    async def main() -> None:
        async with client_of(world, batch_size=20) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            tasks = [
                asyncio.create_task(subscription.handle_in_transaction(handler)) for _ in range(2)
            ]
            for first, what in ((0, "crash"), (count // 2, "bouncer-restart")):
                world.publish(first + 1, first + count // 2)
                await until(lambda first=first: results() > first)  # type: ignore[misc]
                await asyncio.to_thread(world.control, what)
            await until(lambda: results() >= count)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError)

    asyncio.run(main())
    assert results() == count
    assert world.value("SELECT count(DISTINCT n) FROM py_async_results") == count


def test_at_least_once_over_a_crash(world: World) -> None:
    """None is missing, in the order in which they were published; some may come twice."""
    count, seen = 1000, 0
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)

    async def handler(event: pgpubsub.Event) -> None:
        nonlocal seen
        assert int(text(event)) <= seen + 1
        seen = max(seen, int(text(event)))

    async def main() -> None:
        async with client_of(world, batch_size=20) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            task = asyncio.create_task(subscription.handle(handler))
            for first, what in ((0, "crash"), (count // 2, "bouncer-restart")):
                world.publish(first + 1, first + count // 2)
                await until(lambda first=first: seen > first or task.done())  # type: ignore[misc]
                await asyncio.to_thread(world.control, what)
            await until(lambda: seen == count or task.done())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_cancel_loses_nothing(world: World) -> None:
    count = 200
    seen: list[str] = []

    async def handler(event: pgpubsub.Event) -> None:
        assert text(event) == str(len(seen) + 1)
        seen.append(text(event))

    async def main() -> None:
        async with client_of(world, batch_size=7) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            world.publish(1, count)
            turn = stalled = 0
            while len(seen) < count:
                turn, before = turn + 1, len(seen)
                task = asyncio.create_task(subscription.handle(handler))
                # any moment; a later one where nothing was reached, as on a machine
                # that has other work a connection takes longer
                for _ in range(turn % 50 * (1 + stalled // 50)):
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                stalled = 0 if len(seen) > before else stalled + 1

    asyncio.run(main())


class Deaf(AsyncConnectionPool[psycopg.AsyncConnection[Any]]):
    """A pool that swallows a cancellation while it is waited for, as wait_for() may."""

    async def getconn(self, timeout: float | None = None) -> psycopg.AsyncConnection[Any]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        return await super().getconn(timeout)


@pytest.mark.parametrize("form", ["events", "batches", "transaction"])
def test_cancel_that_the_pool_swallows(world: World, form: str) -> None:
    async def main() -> None:
        async with Deaf(world.conninfo, min_size=1, max_size=2, open=False) as pool:
            client = pgpubsub.AsyncClient(pool, world.options)
            subscription = await client.subscribe(world.sub, [world.channel])

            async def consume() -> None:
                if form == "transaction":
                    await subscription.handle_in_transaction(AsyncMock())
                elif form == "events":
                    await take(subscription, 1)
                else:
                    async for _ in subscription.batches():
                        pass

            for moment in (0.01, 0.06, 0.2):
                task = asyncio.create_task(consume())
                await asyncio.sleep(moment)
                task.cancel()
                ended, _ = await asyncio.wait({task}, timeout=20)
                assert ended
                assert task.cancelled()

    asyncio.run(main())


def test_many_consumers_over_one_pool(world: World) -> None:
    consumers = 20

    async def main() -> None:
        seen: set[tuple[int, str]] = set()
        async with client_of(world, 4) as client, asyncio.TaskGroup() as group:
            tasks = []
            for i in range(consumers):
                subscription = await client.subscribe(f"{world.sub}_{i}", [world.channel])

                async def handler(event: pgpubsub.Event, i: int = i) -> None:
                    seen.add((i, text(event)))

                tasks.append(group.create_task(subscription.handle(handler)))
            for n in range(1, 4):
                world.publish(n, n)
                await until(lambda n=n: len(seen) == n * consumers)  # type: ignore[misc]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for i in range(consumers):
                assert await client.unsubscribe(f"{world.sub}_{i}")

    asyncio.run(main())


def test_huge_and_unicode(world: World) -> None:
    huge = "ünïcödé ☃ 𝄞 \\ ' \" \n" * 20000

    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            world.value("SELECT pgpubsub.publish(%s::text, %s::text)", world.channel, huge)
            assert await take(subscription, 1) == [huge]

    asyncio.run(main())


def test_many_events_in_order(world: World) -> None:
    world.value("SELECT pgpubsub.set_durable(%s::text)", world.channel)

    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            published = asyncio.create_task(asyncio.to_thread(world.publish, 1, 100_000))
            expected = 1
            async with aclosing(subscription.batches(1000)) as batches:
                async for batch in batches:
                    for event in batch:
                        assert text(event) == str(expected)
                        expected += 1
                    if expected > 100_000:
                        break
            await published

    asyncio.run(main())


def test_evicted(world: World) -> None:
    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            world.value(
                "SELECT count(pgpubsub.publish(%s::text, i || repeat('x', 5000)))"
                " FROM generate_series(1, 3000) AS i",
                world.channel,
            )
            published = "SELECT published FROM pgpubsub.stat_channels WHERE channel = %s"
            await until(lambda: world.value(published, world.channel) == 3000)
            missing = count = 0
            async with aclosing(subscription.events()) as events:
                async for event in events:
                    if isinstance(event, pgpubsub.Gap):
                        missing += event.lost
                    else:
                        count += 1
                        if event.payload.startswith("3000x"):
                            break
            # what a look has shown may be told as missing, too
            assert missing > 0
            assert count + missing >= 3000

    asyncio.run(main())


def test_in_use(world: World) -> None:
    async def main() -> None:
        async with client_of(world) as client:
            subscription = await client.subscribe(world.sub, [world.channel])
            world.publish(1, 2)
            world.pending(2)
            async with await psycopg.AsyncConnection.connect(world.conninfo) as other:
                assert [text(event) for event in await subscription.poll(other, 1)] == ["1"]
                taken = asyncio.create_task(take(subscription, 1))
                await until(
                    lambda: (
                        world.retries
                        or world.value(
                            "SELECT 1 FROM pg_stat_activity"
                            " WHERE state = 'active' AND query LIKE 'CALL pgpubsub.wait%%' LIMIT 1"
                        )
                    )
                )
            assert await taken == ["2"]

    asyncio.run(main())
