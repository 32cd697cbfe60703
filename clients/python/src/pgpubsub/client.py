"""The loops for threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from . import _common as common
from ._common import OnFull, Options, logger
from .events import Event

__all__ = ["Client", "Subscription"]

Connection: TypeAlias = psycopg.Connection[Any]
T = TypeVar("T")


class _Stopped(Exception):
    """The client was stopped."""


class _HandlerFailed(Exception):
    """A handler has raised an error that is not tried again."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Client:
    """Reads subscriptions over one pool, from any number of threads.

    A connection of the pool is taken for as long as it is needed; the pool stays the
    caller's, to use and to close. Nothing is left on a connection, and no statement is
    prepared, so it may be one of a pooler in transaction mode.
    """

    def __init__(
        self, pool: ConnectionPool[psycopg.Connection[Any]], options: Options | None = None
    ) -> None:
        self._pool = pool
        self._options = options or Options()
        connections = pool.max_size
        self._slots = self._options.max_waiting or max(1, connections // 2)
        self._shared = self._slots >= connections
        self._slot = threading.Semaphore(self._slots)
        self._consumers = 0
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._waiting: set[Connection] = set()

    def subscribe(
        self,
        subscription: str,
        channels: Sequence[str],
        *,
        on_full: OnFull = "evict",
        start_at: str = "now",
    ) -> Subscription:
        """Create the subscription, or give one that stands these channels and this on_full.

        In a channel's name, * stands for any run of characters. When this returns, every
        event of a transaction that commits afterwards will be handed out, or counted in a
        gap. Unlike the loops, it does not try again: a program that cannot subscribe when
        it starts is best told why.
        """
        with self._autocommit() as connection:
            connection.execute(
                common.SUBSCRIBE,
                (subscription, list(channels), on_full, start_at),
                prepare=False,
            )
        return self.open(subscription)

    def open(self, subscription: str) -> Subscription:
        """Return a handle on a subscription that somebody has created."""
        return Subscription(self, subscription)

    def unsubscribe(self, subscription: str) -> bool:
        """Drop the subscription; whether there was one."""
        with self._autocommit() as connection:
            return bool(_value(connection, common.UNSUBSCRIBE, (subscription,)))

    def stop(self) -> None:
        """End all loops of this client, from any thread or signal handler: none loses an event.

        Those that wait end at once, those that handle an event with that. The iterators
        end as at the end of a sequence.
        """
        self._stopped.set()
        # A thread of its own, since the one that is interrupted for a signal handler may
        # be the one that waits.
        threading.Thread(target=self._end_waits, name="pgpubsub stop", daemon=True).start()

    def _end_waits(self) -> None:
        with self._changed:
            while self._waiting:
                for connection in self._waiting:
                    connection.cancel()
                # again, should one have begun to wait just behind the cancel
                self._changed.wait(0.1)

    @contextmanager
    def _autocommit(self) -> Iterator[Connection]:
        with self._pool.connection() as connection:
            before = connection.autocommit
            connection.autocommit = True
            try:
                yield connection
            finally:
                if connection.info.transaction_status == TransactionStatus.IDLE:
                    connection.autocommit = before

    @contextmanager
    def _cancellable(self, connection: Connection) -> Iterator[None]:
        with self._changed:
            if self._stopped.is_set():
                raise _Stopped
            self._waiting.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.discard(connection)
                self._changed.notify_all()

    def _share(self, longest: float) -> float:
        return common.waiting_share(longest, self._consumers, self._slots, self._shared)


class Subscription:
    """A handle on a subscription, and the loops that read it.

    One consumer at a time should read a subscription. A second one that reads it with
    handle_in_transaction() takes turns with the first; with the other forms, both may be
    handed the same events.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def __iter__(self) -> Generator[Event, None, None]:
        """Iterate over the events, as events() does."""
        return self.events()

    def events(self) -> Generator[Event, None, None]:
        """Iterate over the events from now on, each at least once.

        An event counts as handled when the next one is asked for, and comes again if the
        loop is left in its body. It ends when the client is stopped.
        """
        consumer = _Consumer(self)
        try:
            while True:
                for event in consumer.look(self._client._options.batch_size):
                    consumer.ack_in_time()
                    yield event
                    consumer.handled = event.seq
                consumer.ack()
        except _Stopped:
            pass
        finally:
            consumer.leave()

    def batches(self, limit: int | None = None) -> Generator[list[Event], None, None]:
        """Iterate over what there is, at most so many events at a time.

        A batch counts as handled when the next one is asked for.
        """
        consumer = _Consumer(self)
        try:
            while True:
                if batch := consumer.look(limit or self._client._options.batch_size):
                    yield batch
                    consumer.handled = batch[-1].seq
                    consumer.ack()
        except _Stopped:
            pass
        finally:
            consumer.leave()

    def handle(self, handler: Callable[[Event], object]) -> None:
        """Call the handler for each event, at least once, until the client is stopped.

        What the handler raises ends it; that event comes again at the next time.
        """
        for event in (events := self.events()):
            try:
                handler(event)
            except BaseException:
                events.close()
                raise

    def handle_in_transaction(self, handler: Callable[[Connection, list[Event]], object]) -> None:
        """Call the handler for batches of events, in the transaction that consumes them.

        The transaction commits what the handler wrote with that connection, and that the
        events were consumed. So each event takes effect exactly once; also if the
        connection is lost in the commit. What the handler raises rolls back and ends it;
        but if the connection was lost, or the transaction could not be serialized, it is
        tried again, with the same events. It ends when the client is stopped.
        """
        consumer = _Consumer(self)
        try:
            while True:
                consumer.transaction(handler)
        except _Stopped:
            pass
        finally:
            consumer.leave()

    def poll(self, connection: Connection, limit: int = 100) -> list[Event]:
        """Consume at most so many events in the caller's transaction, without waiting.

        They are consumed if it commits, and come again if it rolls back.
        """
        return self._poll(connection, limit, True)

    def ack(self, seq: int) -> int:
        """Consume all events up to and including that one; how many that were.

        The loops do so themselves.
        """
        with self._client._autocommit() as connection:
            count = int(_value(connection, common.ACK, (self.name, seq)))
        if (hook := self._client._options.on_consumed) is not None:
            hook(self.name, count)
        return count

    def _poll(self, connection: Connection, limit: int, consume: bool) -> list[Event]:
        with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
            cursor.execute(common.POLL, (self.name, limit, consume), prepare=False)
            events = common.events_of(cursor.fetchall())
        if events and (hook := self._client._options.on_received) is not None:
            hook(self.name, events)
        return events


def _value(connection: Connection, sql: LiteralString, parameters: Sequence[object]) -> Any:
    """Ask for a single value, whatever row factory the connection has."""
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        row = cursor.execute(sql, parameters, prepare=False).fetchone()
    assert row is not None
    return row[0]


class _Consumer:
    """The state of one loop."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._client = client = subscription._client
        self._retry = common.Retry(subscription.name, client._options)
        self._full = False  # the last batch was: there may be more already
        self._longest = common.first_wait(client._options)
        self._acked_at = time.monotonic()
        self.handled: int | None = None  # to be acknowledged up to this
        with client._changed:
            client._consumers += 1

    def leave(self) -> None:
        """Acknowledge what was handled, once; what that fails for comes again."""
        with self._client._changed:
            self._client._consumers -= 1
        if self.handled is not None:
            try:
                self._subscription.ack(self.handled)
            except psycopg.Error as error:
                logger.warning("handled events were not acknowledged, and come again: %s", error)

    def look(self, limit: int) -> list[Event]:
        """Wait for events, and look at them."""
        return self._try(lambda: self._look(limit))

    def ack_in_time(self) -> None:
        """Acknowledge what was handled if that was not done for long."""
        if self._client._stopped.is_set():
            raise _Stopped
        if time.monotonic() - self._acked_at >= self._client._options.ack_interval:
            self.ack()

    def ack(self) -> None:
        """Acknowledge what was handled.

        This may be repeated, also on a server that has restarted in the meantime: what was
        not handed out yet has higher numbers. A server that does not know the number (a
        standby that was promoted, say) is asked for its events again.
        """
        handled = self.handled
        if handled is not None:
            try:
                self._try(lambda: self._subscription.ack(handled))
            except errors.InvalidParameterValue as error:
                logger.warning("the server may send handled events again: %s", error)
            self.handled, self._acked_at = None, time.monotonic()

    def transaction(self, handler: Callable[[Connection, list[Event]], object]) -> None:
        """Handle one batch in one transaction."""
        self._try(lambda: self._transaction(handler))

    def _transaction(self, handler: Callable[[Connection, list[Event]], object]) -> None:
        client, options = self._client, self._client._options
        self._wait()
        with client._pool.connection() as connection, connection.transaction():
            batch = self._subscription.poll(connection, options.batch_size)
            self._full = len(batch) >= options.batch_size
            if not batch:
                return
            try:
                handler(connection, batch)
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

    def _try(self, call: Callable[[], T]) -> T:
        while True:
            if self._client._stopped.is_set():
                raise _Stopped
            try:
                result = call()
            except _HandlerFailed as failed:
                raise failed.error from None
            except psycopg.Error as error:
                if self._client._stopped.is_set():
                    raise _Stopped from None
                if common.permanent(error):
                    raise
                self._full = False
                pause = self._retry.pause(error)
                self._client._stopped.wait(pause)
            else:
                self._retry.succeeded()
                return result

    def _look(self, limit: int) -> list[Event]:
        self._wait()
        with self._client._autocommit() as connection:
            batch = self._subscription._poll(connection, limit, False)
        self._full = len(batch) >= limit
        return batch

    def _wait(self) -> None:
        """Return when there may be something to read. It holds no snapshot."""
        if self._full:
            return
        client = self._client
        with client._slot, client._autocommit() as connection, client._cancellable(connection):
            interval = common.milliseconds(client._share(self._longest))
            self._longest = min(2 * self._longest, client._options.wait)
            connection.execute(common.WAIT, (self._subscription.name, interval), prepare=False)
