"""Events of a subscription, and what the payload of a change event says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias, cast

__all__ = ["Change", "Event", "Gap", "Message", "NotAChange", "Op", "Row", "RowChange"]

Row: TypeAlias = dict[str, Any]
"""Columns and their values: None, bool, str, int, Decimal, list or dict."""

Op: TypeAlias = Literal["INSERT", "UPDATE", "DELETE", "TRUNCATE"]

_OPS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
_DEBEZIUM_OPS = dict(zip("cudt", _OPS, strict=True))


class NotAChange(ValueError):
    """The payload is no change event, but a message of somebody's own."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands where events are missing: read again from the tables what you derived from them."""

    seq: int
    lost: int
    """How many are missing; -1 if that is not known."""

    @property
    def known(self) -> bool:
        """Whether the number of missing events is known."""
        return self.lost >= 0


@dataclass(frozen=True, slots=True)
class Message:
    """An event that somebody published."""

    seq: int
    """Numbers of one database increase, also over restarts, and mean nothing else."""
    channel: str
    payload: str
    pid: int
    """The server process that published it."""
    relayed_at: datetime
    """When it was put onto the queue."""

    def change(self) -> Change:
        """Decode the payload of a change event in the format plain, cloudevents or debezium.

        Integers are int, other numbers Decimal, with every digit that the server wrote.
        Raises NotAChange if the payload is no change event.
        """
        return _decode(self.payload)


Event: TypeAlias = Message | Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """What happened to one row. What the event does not carry is None."""

    key: Row | None = None
    """The primary key, or the replica identity."""
    old_key: Row | None = None
    """The key before, if it changed."""
    new: Row | None = None
    old: Row | None = None
    changed: tuple[str, ...] = ()
    """The columns that an UPDATE changed; the format debezium has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(RowChange):
    """A change event: of one row, or, attached with level 'statement', of rows."""

    id: str
    """Unique: a key by which to know what was handled."""
    op: Op
    schema: str
    table: str
    partition: str | None = None
    """The leaf, if that is not the table."""
    txid: int | None = None
    pid: int | None = None
    time: datetime | None = None
    node: str | None = None
    """The server's pgpubsub.node_name."""
    truncated: bool = False
    """It was too large, and came without its rows."""
    count: int | None = None
    """How many rows the statement has."""
    rows: tuple[RowChange, ...] = field(default=())
    part: int | None = None
    """Which of how many parts this is, if a statement's event was split."""
    parts: int | None = None


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _row_change(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": value.get("key"),
        "old_key": value.get("old_key"),
        "new": value.get("new"),
        "old": value.get("old"),
        "changed": tuple(value.get("changed", ())),
    }


def _of_debezium(value: Mapping[str, Any]) -> dict[str, Any]:
    """Name the members of Debezium's envelope as the plain format does."""
    source, op, ts_ms = value["source"], value.get("op"), value.get("ts_ms")
    names = ("schema", "table", "partition")
    return {
        **{name: source[name] for name in names if name in source},
        **{
            name: value[name]
            for name in ("id", "key", "old_key", "node", "truncated")
            if name in value
        },
        "op": _DEBEZIUM_OPS.get(op) if isinstance(op, str) else None,
        "old": value.get("before"),
        "new": value.get("after"),
        "txid": source.get("txId"),
        "ts_ms": ts_ms,
    }


def _decode(payload: str) -> Change:
    try:
        value = _loads(payload)
    except ValueError:
        raise NotAChange("the payload is not JSON") from None
    if isinstance(value, dict) and "specversion" in value:
        value = value.get("data")
    if isinstance(value, dict) and isinstance(value.get("source"), dict):
        value = _of_debezium(value)
    if not isinstance(value, dict) or value.get("op") not in _OPS or "table" not in value:
        raise NotAChange("the payload is not a change event")
    time = None
    if "ts" in value:
        time = datetime.fromisoformat(value["ts"])
    elif isinstance(value.get("ts_ms"), int):
        time = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=value["ts_ms"])
    return Change(
        **_row_change(value),
        id=str(value.get("id", "")),
        op=cast(Op, value["op"]),
        schema=value.get("schema", ""),
        table=value["table"],
        partition=value.get("partition"),
        txid=value.get("txid"),
        pid=value.get("pid"),
        time=time,
        node=value.get("node"),
        truncated=value.get("truncated", False),
        count=value.get("count"),
        rows=tuple(RowChange(**_row_change(row)) for row in value.get("rows", ())),
        part=value.get("part"),
        parts=value.get("parts"),
    )
