"""What the loops for threads and for asyncio share: no input or output here."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed

from .events import Event, Gap, Message

logger = logging.getLogger("pgpubsub")

OnFull: TypeAlias = Literal["evict", "drop", "block"]

SUBSCRIBE = "SELECT pgpubsub.subscribe(%s::text, %s::text[], %s::text, %s::text)"
UNSUBSCRIBE = "SELECT pgpubsub.unsubscribe(%s::text)"
WAIT = "CALL pgpubsub.wait(%s::text, %s::interval)"
POLL = (
    "SELECT seq, channel, payload, pid, relayed_at, lost"
    " FROM pgpubsub.poll(%s::text, %s::bigint, '0', %s::boolean)"
)
ACK = "SELECT pgpubsub.ack(%s::text, %s::bigint)"

PollRow: TypeAlias = tuple[int, str, str, int, datetime, int | None]

# How long it takes about until all of the consumers that share too few slots
# had one, and what bounds the cost of taking turns; in seconds. A consumer's first
# wait is as long as a turn, and each is twice as long as the one before: of consumers
# that begin together the first ones must not keep all slots before it is known how
# many there are.
_TURN = 0.2
_SHORTEST_WAIT = 0.01

# The longest pause after a first failure, and after any number of them while
# another session reads the subscription; in seconds.
_FIRST_PAUSE = 0.1
_IN_USE_PAUSE = 1.0

# Classes of SQLSTATEs that stay however often the same is tried: a wrong
# argument, login or privilege, a missing subscription, extension or database.
_PERMANENT = frozenset({"0A", "22", "28", "3D", "3F", "42"})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a client does; the defaults are good for most. Times are in seconds."""

    batch_size: int = 100
    """How many events a consumer fetches at a time."""
    max_waiting: int | None = None
    """How many consumers wait at the same time, each with a connection of the pool.

    With more than that they take turns. None: half of the pool's connections, at least one.
    """
    wait: float = 30.0
    """The longest time for which the server is asked to wait, before it is asked again."""
    ack_interval: float = 1.0
    """How often events are acknowledged while a batch is being handled."""
    max_pause: float = 30.0
    """The longest pause between two tries."""
    on_received: Callable[[str, Sequence[Event]], None] | None = None
    """Called with the subscription and events that came from the server."""
    on_consumed: Callable[[str, int], None] | None = None
    """Called when the server has taken note that so many events were handled."""
    on_retry: Callable[[str, Exception, float], None] | None = None
    """Called when something failed and is tried again after a pause."""


def events_of(rows: Iterable[PollRow]) -> list[Event]:
    """Make events of the rows of poll()."""
    return [
        Message(seq, channel, payload, pid, relayed_at) if lost is None else Gap(seq, lost)
        for seq, channel, payload, pid, relayed_at, lost in rows
    ]


def messages(batch: Sequence[Event]) -> int:
    """Count the events that are no gaps."""
    return sum(isinstance(event, Message) for event in batch)


def milliseconds(seconds: float) -> str:
    """Write a time as an interval."""
    return f"{round(seconds * 1000)} ms"


def permanent(error: BaseException) -> bool:
    """Whether a failure stays one, however often the same is tried."""
    if not isinstance(error, psycopg.Error) or isinstance(error, PoolClosed):
        return True
    if error.sqlstate is not None:
        return error.sqlstate[:2] in _PERMANENT
    # (an InternalError of psycopg's own: a server that ended just behind a COMMIT has
    # answered twice; whether that one has committed, the next poll finds out)
    return not isinstance(
        error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError
    )


def retryable(error: BaseException, broken: bool) -> bool:
    """Whether a transaction whose handler failed may be tried again."""
    if isinstance(error, errors.SerializationFailure | errors.DeadlockDetected):
        return True
    return broken and isinstance(error, psycopg.Error)


def waiting_share(longest: float, consumers: int, slots: int, shared: bool) -> float:
    """How long who has a slot may keep it: as long as it likes while there are enough."""
    if consumers <= slots and not shared:
        return longest
    share = _TURN * slots / max(consumers, slots)
    return min(longest, max(share, _SHORTEST_WAIT))


def first_wait(options: Options) -> float:
    """How long a consumer's first wait is at most."""
    return min(_TURN, options.wait)


class Retry:
    """The pauses between tries: random, and at most twice as long each time."""

    def __init__(self, subscription: str, options: Options) -> None:
        self._subscription = subscription
        self._options = options
        self._next = 0.0

    def succeeded(self) -> None:
        """Begin anew."""
        if self._next:
            logger.info("subscription %s can be read again", self._subscription)
        self._next = 0.0

    def pause(self, error: Exception) -> float:
        """Tell the log and the hook of the failure; how long to wait now."""
        limit = self._options.max_pause
        self._next = self._next or _FIRST_PAUSE
        longest = min(self._next, limit)
        if isinstance(error, errors.ObjectInUse):
            longest = min(longest, _IN_USE_PAUSE)
        self._next = min(2 * self._next, limit)
        # at least half of it, so that the first tries do not come all at once
        pause = longest * random.uniform(0.5, 1.0)
        logger.warning(
            "could not read subscription %s, trying again in %.1f s: %s",
            self._subscription,
            pause,
            str(error).strip(),
        )
        if self._options.on_retry is not None:
            self._options.on_retry(self._subscription, error, pause)
        return pause
