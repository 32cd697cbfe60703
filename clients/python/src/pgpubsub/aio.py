"""The loops for asyncio. They end when their task is cancelled, which loses no event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from . import _common as common
from ._common import OnFull, Options, logger
from .events import Event

__all__ = ["AsyncClient", "AsyncSubscription"]

AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
TxHandler: TypeAlias = Callable[[AsyncConnection, list[Event]], Awaitable[object]]
T = TypeVar("T")

# How long a loop that ends tries to acknowledge what was handled, and how long a
# call may take above what the server is asked to wait; in seconds.
_LEAVE_TIMEOUT = 5.0
_CALL_TIMEOUT = 30.0


class _HandlerFailed(Exception):
    """A handler has raised an error that is not tried again."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class AsyncClient:
    """Reads subscriptions over one pool, in any number of tasks.

    A connection of the pool is taken for as long as it is needed; the pool stays the
    caller's, to use and to close. Nothing is left on a connection, and no statement is
    prepared, so it may be one of a pooler in transaction mode.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        options: Options | None = None,
    ) -> None:
        self._pool = pool
        self._options = options or Options()
        connections = pool.max_size
        self._slots = self._options.max_waiting or max(1, connections // 2)
        self._shared = self._slots >= connections
        self._slot = asyncio.Semaphore(self._slots)
        self._consumers = 0

    async def subscribe(
        self,
        subscription: str,
        channels: Sequence[str],
        *,
        on_full: OnFull = "evict",
        start_at: str = "now",
    ) -> AsyncSubscription:
        """Create the subscription, or give one that stands these channels and this on_full.

        In a channel's name, * stands for any run of characters. When this returns, every
        event of a transaction that commits afterwards will be handed out, or counted in a
        gap. Unlike the loops, it does not try again: a program that cannot subscribe when
        it starts is best told why.
        """
        async with self._autocommit() as connection:
            await connection.execute(
                common.SUBSCRIBE,
                (subscription, list(channels), on_full, start_at),
                prepare=False,
            )
        return self.open(subscription)

    def open(self, subscription: str) -> AsyncSubscription:
        """Return a handle on a subscription that somebody has created."""
        return AsyncSubscription(self, subscription)

    async def unsubscribe(self, subscription: str) -> bool:
        """Drop the subscription; whether there was one."""
        async with self._autocommit() as connection:
            return bool(await _value(connection, common.UNSUBSCRIBE, (subscription,)))

    @asynccontextmanager
    async def _autocommit(self) -> AsyncIterator[AsyncConnection]:
        async with self._pool.connection() as connection:
            before = connection.autocommit
            await connection.set_autocommit(True)
            try:
                yield connection
            finally:
                if connection.info.transaction_status == TransactionStatus.IDLE:
                    await connection.set_autocommit(before)

    def _share(self, longest: float) -> float:
        return common.waiting_share(longest, self._consumers, self._slots, self._shared)


class AsyncSubscription:
    """A handle on a subscription, and the loops that read it.

    One consumer at a time should read a subscription. A second one that reads it with
    handle_in_transaction() takes turns with the first; with the other forms, both may be
    handed the same events.
    """

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        """Iterate over the events, as events() does."""
        return self.events()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Iterate over the events from now on, each at least once.

        An event counts as handled when the next one is asked for, and comes again if the
        loop is left in its body. (A loop that may be left is best written with
        contextlib.aclosing(), so that what was handled is acknowledged at once.)
        """
        consumer = _Consumer(self)
        try:
            while True:
                for event in await consumer.look(self._client._options.batch_size):
                    await consumer.ack_in_time()
                    yield event
                    consumer.handled = event.seq
                await consumer.ack()
        finally:
            await consumer.leave()

    async def batches(self, limit: int | None = None) -> AsyncGenerator[list[Event], None]:
        """Iterate over what there is, at most so many events at a time.

        A batch counts as handled when the next one is asked for.
        """
        consumer = _Consumer(self)
        try:
            while True:
                if batch := await consumer.look(limit or self._client._options.batch_size):
                    yield batch
                    consumer.handled = batch[-1].seq
                    await consumer.ack()
        finally:
            await consumer.leave()

    async def handle(self, handler: Callable[[Event], Awaitable[object]]) -> None:
        """Call the handler for each event, at least once.

        What the handler raises ends it; that event comes again at the next time.
        """
        async with aclosing(self.events()) as events:
            async for event in events:
                await handler(event)

    async def handle_in_transaction(self, handler: TxHandler) -> None:
        """Call the handler for batches of events, in the transaction that consumes them.

        The transaction commits what the handler wrote with that connection, and that the
        events were consumed. So each event takes effect exactly once; also if the
        connection is lost in the commit. What the handler raises rolls back and ends it;
        but if the connection was lost, or the transaction could not be serialized, it is
        tried again, with the same events.
        """
        consumer = _Consumer(self)
        try:
            while True:
                await consumer.transaction(handler)
        finally:
            await consumer.leave()

    async def poll(self, connection: AsyncConnection, limit: int = 100) -> list[Event]:
        """Consume at most so many events in the caller's transaction, without waiting.

        They are consumed if it commits, and come again if it rolls back.
        """
        return await self._poll(connection, limit, True)

    async def ack(self, seq: int) -> int:
        """Consume all events up to and including that one; how many that were.

        The loops do so themselves.
        """
        async with self._client._autocommit() as connection:
            count = int(await _value(connection, common.ACK, (self.name, seq)))
        if (hook := self._client._options.on_consumed) is not None:
            hook(self.name, count)
        return count

    async def _poll(self, connection: AsyncConnection, limit: int, consume: bool) -> list[Event]:
        async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
            await cursor.execute(common.POLL, (self.name, limit, consume), prepare=False)
            events = common.events_of(await cursor.fetchall())
        if events and (hook := self._client._options.on_received) is not None:
            hook(self.name, events)
        return events


async def _value(
    connection: AsyncConnection, sql: LiteralString, parameters: Sequence[object]
) -> Any:
    """Ask for a single value, whatever row factory the connection has."""
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(sql, parameters, prepare=False)
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


class _Consumer:
    """The state of one loop."""

    def __init__(self, subscription: AsyncSubscription) -> None:
        self._subscription = subscription
        self._client = client = subscription._client
        self._retry = common.Retry(subscription.name, client._options)
        self._full = False  # the last batch was: there may be more already
        self._longest = common.first_wait(client._options)
        self._acked_at = time.monotonic()
        self.handled: int | None = None  # to be acknowledged up to this
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        client._consumers += 1

    async def leave(self) -> None:
        """Acknowledge what was handled, once; what that fails for comes again."""
        self._client._consumers -= 1
        if self.handled is not None:
            try:
                async with asyncio.timeout(_LEAVE_TIMEOUT):
                    await self._subscription.ack(self.handled)
            except (psycopg.Error, TimeoutError) as error:
                logger.warning("handled events were not acknowledged, and come again: %s", error)

    async def look(self, limit: int) -> list[Event]:
        """Wait for events, and look at them."""
        return await self._try(lambda: self._look(limit))

    async def ack_in_time(self) -> None:
        """Acknowledge what was handled if that was not done for long."""
        if time.monotonic() - self._acked_at >= self._client._options.ack_interval:
            await self.ack()

    async def ack(self) -> None:
        """Acknowledge what was handled.

        This may be repeated, also on a server that has restarted in the meantime: what was
        not handed out yet has higher numbers. A server that does not know the number (a
        standby that was promoted, say) is asked for its events again.
        """
        handled = self.handled
        if handled is not None:
            try:
                await self._try(lambda: self._ack(handled))
            except errors.InvalidParameterValue as error:
                logger.warning("the server may send handled events again: %s", error)
            self.handled, self._acked_at = None, time.monotonic()

    async def transaction(self, handler: TxHandler) -> None:
        """Handle one batch in one transaction."""
        await self._try(lambda: self._transaction(handler))

    def _end_if_cancelled(self) -> None:
        """Raise what may have got lost.

        Up to Python 3.11, asyncio.wait_for(), in which a pool waits, swallows a cancellation
        that comes in the moment in which it gets what it waits for; and an error of a
        connection may come in place of one.
        """
        task = asyncio.current_task()
        if task is None or task is not self._task:
            self._task, self._cancelling = task, task.cancelling() if task else 0
        elif task.cancelling() > self._cancelling:
            raise asyncio.CancelledError

    async def _transaction(self, handler: TxHandler) -> None:
        client, options = self._client, self._client._options
        await self._wait()
        async with client._pool.connection() as connection, connection.transaction():
            self._end_if_cancelled()
            async with asyncio.timeout(_CALL_TIMEOUT):
                batch = await self._subscription.poll(connection, options.batch_size)
            self._full = len(batch) >= options.batch_size
            if not batch:
                return
            try:
                await handler(connection, batch)
            except Exception as error:
                if common.retryable(error, connection.closed or connection.broken):
                    raise
                raise _HandlerFailed(error) from error
            if connection.info.transaction_status == TransactionStatus.INERROR:
                raise _HandlerFailed(
                    errors.InFailedSqlTransaction("the handler has ignored an error")
                )
        if options.on_consumed is not None:
            options.on_consumed(self._subscription.name, common.messages(batch))

    async def _try(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            self._end_if_cancelled()
            try:
                result = await call()
            except _HandlerFailed as failed:
                raise failed.error from None
            except (psycopg.Error, TimeoutError) as error:
                self._end_if_cancelled()
                if not isinstance(error, TimeoutError) and common.permanent(error):
                    raise
                self._full = False
                await asyncio.sleep(self._retry.pause(error))
            else:
                self._retry.succeeded()
                return result

    async def _look(self, limit: int) -> list[Event]:
        await self._wait()
        async with self._client._autocommit() as connection, asyncio.timeout(_CALL_TIMEOUT):
            self._end_if_cancelled()
            batch = await self._subscription._poll(connection, limit, False)
        self._full = len(batch) >= limit
        return batch

    async def _ack(self, seq: int) -> int:
        async with asyncio.timeout(_CALL_TIMEOUT):
            return await self._subscription.ack(seq)

    async def _wait(self) -> None:
        """Return when there may be something to read. It holds no snapshot."""
        if self._full:
            return
        client = self._client
        async with client._slot, client._autocommit() as connection:
            self._end_if_cancelled()
            share = client._share(self._longest)
            self._longest = min(2 * self._longest, client._options.wait)
            async with asyncio.timeout(share + _CALL_TIMEOUT):
                await connection.execute(
                    common.WAIT,
                    (self._subscription.name, common.milliseconds(share)),
                    prepare=False,
                )
