"""What needs no server."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

import pgpubsub
from pgpubsub import _common


def message(payload: str, channel: str = "c") -> pgpubsub.Message:
    return pgpubsub.Message(1, channel, payload, 1, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload",
    ["", "text", "1", "null", "[]", '{"op":"c"}', '{"op":[]}', '{"op":"x","source":{"table":"t"}}'],
)
def test_not_a_change(payload: str) -> None:
    with pytest.raises(pgpubsub.NotAChange):
        message(payload).change()


def test_other_formats() -> None:
    change = message(
        '{"specversion":"1.0","data":{"id":"7-1","op":"DELETE","table":"t","key":{"id":1}}}'
    ).change()
    assert (change.id, change.op, change.key) == ("7-1", "DELETE", {"id": 1})
    change = message(
        '{"id":"9-1","key":{"id":1},"before":{"a":1.50},"after":{"id":1,"a":2},"source":{"schema":"s",'
        '"table":"t","txId":18446744073709551615},"op":"u","ts_ms":1796032781961}'
    ).change()
    assert (change.op, change.schema, change.table, change.key) == ("UPDATE", "s", "t", {"id": 1})
    assert (change.old, change.new) == ({"a": Decimal("1.50")}, {"id": 1, "a": 2})
    assert change.txid == 18446744073709551615
    assert change.time is not None
    assert change.time.isoformat() == "2026-11-30T09:59:41.961000+00:00"
    change = message(
        '{"id":"8-1","op":"UPDATE","table":"t","count":2,'
        '"rows":[{"key":{"id":1},"new":{"a":1.50}},{"key":{"id":2}}]}'
    ).change()
    assert [row.key for row in change.rows] == [{"id": 1}, {"id": 2}]
    assert change.rows[0].new == {"a": Decimal("1.50")}


def test_router() -> None:
    router: pgpubsub.Router[str] = pgpubsub.Router()
    with pytest.raises(LookupError):
        router(message("", "orders"))
    with pytest.raises(LookupError):
        router(pgpubsub.Gap(1, 1))
    router.on("shop_*")(lambda _: "pattern")
    router.on("shop_a")(lambda _: "name")
    router.on_gap(lambda gap: f"gap {gap.lost}")
    assert router(message("", "shop_a")) == "name"
    assert router(message("", "shop_b")) == "pattern"
    assert router(pgpubsub.Gap(1, 2)) == "gap 2"
    router.on_other(lambda _: "other")
    assert router(message("", "orders")) == "other"


def test_permanent() -> None:
    error: type[psycopg.Error]
    for error in (
        errors.InsufficientPrivilege,
        errors.UndefinedObject,
        psycopg.ProgrammingError,
        PoolClosed,
    ):
        assert _common.permanent(error())
    for error in (
        errors.ObjectInUse,
        errors.ObjectNotInPrerequisiteState,
        errors.AdminShutdown,
        errors.ReadOnlySqlTransaction,
        psycopg.OperationalError,
        psycopg.InternalError,
        PoolTimeout,
    ):
        assert not _common.permanent(error())


def test_pauses() -> None:
    retry = _common.Retry("s", pgpubsub.Options(max_pause=5.0))
    longest = 0.1
    for _ in range(20):
        assert longest / 2 <= retry.pause(psycopg.OperationalError()) <= longest
        longest = min(2 * longest, 5.0)
    assert retry.pause(errors.ObjectInUse()) <= 1.0
    retry.succeeded()
    assert retry.pause(psycopg.OperationalError()) <= 0.1


def test_turns() -> None:
    assert _common.waiting_share(60.0, 2, 2, False) == 60.0
    assert _common.waiting_share(60.0, 10, 2, False) == pytest.approx(0.04)
    assert _common.waiting_share(60.0, 100_000, 2, False) == pytest.approx(0.01)
    assert _common.waiting_share(60.0, 1, 1, True) == pytest.approx(0.2)
