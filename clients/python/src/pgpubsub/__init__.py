"""Reads subscriptions of the PostgreSQL extension pgpubsub over a pool of psycopg 3.

    client = pgpubsub.Client(pool)
    for event in client.subscribe("billing", ["orders"]):
        match event:
            case pgpubsub.Message():
                ...  # handle it
            case pgpubsub.Gap():
                ...  # events are missing: read the tables again

Iterating, and handle(), hand out each event at least once: they look, and acknowledge an
event once the next one is asked for. handle_in_transaction() hands out events in the
transaction that consumes them, so each takes effect exactly once.

The loops go on whatever happens to the connection, the pooler or the server: they try again
for ever, with growing random pauses. They raise only what no retry would cure, such as a
missing privilege.
"""

from ._common import OnFull, Options
from .aio import AsyncClient, AsyncSubscription
from .client import Client, Subscription
from .events import Change, Event, Gap, Message, NotAChange, Op, Row, RowChange
from .router import Router

__all__ = [
    "AsyncClient",
    "AsyncSubscription",
    "Change",
    "Client",
    "Event",
    "Gap",
    "Message",
    "NotAChange",
    "OnFull",
    "Op",
    "Options",
    "Router",
    "Row",
    "RowChange",
    "Subscription",
]
