"""A batch that meets locks of somebody else: the others wait for one lock wait at most, and nothing is lost."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from common.database_url import parse_database_url
from common.errors import DatabaseUnavailable
from common.transaction import Transaction
from order_service import domain as order_domain
from payment_service import domain as payment_domain
from payment_service.domain import PaymentRow
from tests.integration.shop import Shop, batcher, key_of, new_order, new_payment, runs_again, together


@pytest.mark.alone
async def test_a_deadlock_costs_the_batch_nothing_but_another_run(shop: Shop, urls: dict[str, str]) -> None:
    """The batch is the victim (errno 1213): it is run again as a whole, and everybody gets what he wanted."""
    skus, ballast = await shop.new_skus(2), await shop.new_skus(64)
    lock = "UPDATE inventory SET version = version + 1 WHERE sku = %s"

    async def touch_in_order(items: Sequence[str]) -> list[str]:
        async def work(tx: Transaction) -> list[str]:
            return [sku for sku in items if await tx.execute(lock, (sku,))]

        return await shop.databases["inventory"].transaction(work)

    with another_session(urls["inventory"]) as (rival, waits):
        # The heavier transaction survives a deadlock.
        for sku in (*ballast, skus[1]):
            rival.execute(lock, (sku,))
        touching = asyncio.create_task(together(batcher(touch_in_order), skus))
        await waits()
        await asyncio.to_thread(rival.execute, lock, (skus[0],))
        rival.execute("COMMIT")
        assert await asyncio.wait_for(touching, 1) == skus
    assert runs_again(shop, 1213) == 1


@contextlib.contextmanager
def another_session(url: str) -> Iterator[tuple[Any, Callable[[], Awaitable[None]]]]:
    """A transaction of somebody else, and a function that waits until the shop waits for a lock."""
    # As every process of ours: by MariaDB's default it would hold the gap before a key, too, and keep new keys out.
    read_committed = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    address = parse_database_url(url) | {"init_command": read_committed}
    with (
        contextlib.closing(pymysql.connect(database=address.pop("db"), **address)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("BEGIN")

        async def waits() -> None:
            waiting = (
                "SELECT 1 FROM information_schema.innodb_trx JOIN information_schema.processlist "
                "ON id = trx_mysql_thread_id WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()"
            )
            async with asyncio.timeout(5):
                while not cursor.execute(waiting):
                    # The server renews this table only when nobody has looked for 0.1 seconds.
                    await asyncio.sleep(0.15)

        yield cursor, waits


@pytest.mark.alone
@pytest.mark.parametrize("service", ["order", "payment"])
async def test_a_locked_row_does_not_keep_its_batch_back_for_long(
    service: str, shop: Shop, urls: dict[str, str]
) -> None:
    """The others move after one lock wait (1 s); the one that is held is told so, and can move later."""
    moves: list[Any]
    if service == "order":
        moves = [order_domain.Move(order, (OrderStatus.FAILED,), "why") for order in await shop.new_orders(8)]
        move: Any = shop.orders.move
    else:
        opened = await shop.new_payments(8)
        moves = [payment_domain.Move(payment, PaymentStatus.CAPTURED) for payment in opened]
        move = shop.payments.move
    with another_session(urls[service]) as (rival, _):
        rival.execute(f"SELECT * FROM {service}s WHERE order_id = %s FOR UPDATE", (key_of(moves[3]),))
        outcomes = await asyncio.wait_for(move(moves), 2.5)
    assert [isinstance(outcome, DatabaseUnavailable) for outcome in outcomes] == [n == 3 for n in range(8)]
    [late] = await move([moves[3]])
    assert late.status is moves[3].to


def hold_payment(rival: Any, payment: PaymentRow) -> None:
    rival.execute("SELECT * FROM payments WHERE order_id = %s FOR UPDATE", (payment.order_id,))


@pytest.mark.alone
@pytest.mark.parametrize("position", [0, 3, 7])
async def test_a_payment_that_somebody_holds_is_answered_and_keeps_no_new_one_back(
    position: int, shop: Shop, urls: dict[str, str]
) -> None:
    """It is read without a lock; the others are written after one lock wait (1 s)."""
    [held] = await shop.new_payments(1)
    items = [new_payment() for _ in range(8)]
    items[position] = new_payment(order_id=held.order_id, amount=7)
    with another_session(urls["payment"]) as (rival, _):
        hold_payment(rival, held)
        opened = await asyncio.wait_for(together(batcher(shop.payments.open), items), 2.5)
    new = [item.payment_id for item in items]
    new[position] = held.payment_id
    assert [one.payment_id for one in opened] == new
    assert opened[position] == held
    assert runs_again(shop, 1205) == 1


@pytest.mark.alone
async def test_what_holds_a_payment_costs_nothing_when_another_one_is_there_already(
    shop: Shop, urls: dict[str, str]
) -> None:
    """The taken key comes first: nobody waits for the lock at all."""
    taken, held = sorted(await shop.new_payments(2), key=key_of)
    items = [new_payment(order_id=one.order_id) for one in (taken, held)] + [new_payment()]
    with another_session(urls["payment"]) as (rival, _):
        hold_payment(rival, held)
        opened = await asyncio.wait_for(together(batcher(shop.payments.open), items), 0.9)
    assert opened[:2] == [taken, held]
    assert opened[2].payment_id == items[2].payment_id


HELD_BY = {
    "its id": "SELECT * FROM orders WHERE order_id = %(order_id)s FOR UPDATE",
    "its key": "SELECT * FROM orders WHERE user_id = 'ada' AND idempotency_key = %(key)s FOR UPDATE",
}


@pytest.mark.alone
@pytest.mark.parametrize("position", [0, 3, 7])
@pytest.mark.parametrize("held_by", HELD_BY)
async def test_an_order_that_somebody_holds_is_answered_and_keeps_no_new_one_back(
    held_by: str, position: int, shop: Shop, urls: dict[str, str]
) -> None:
    """It is read without a lock; the others, with and without a key, are written after one lock wait (1 s) at most."""
    key = f"{uuid4()}"
    [held] = await shop.orders.accept([new_order(key, lines=2)])
    items = [new_order(f"{uuid4()}" if n % 2 else None) for n in range(8)]
    items[position] = new_order(key, total_amount=7)
    with another_session(urls["order"]) as (rival, _):
        rival.execute(HELD_BY[held_by], {"order_id": held.order_id, "key": key})
        accepted = await asyncio.wait_for(together(batcher(shop.orders.accept), items), 2.5)
    new = [item.order_id for item in items]
    new[position] = held.order_id
    assert [one.order_id for one in accepted] == new
    assert replace(accepted[position], trace=held.trace) == held
    for order in accepted:
        assert (await shop.orders.get(order.order_id)).lines == order.lines
        assert len(await shop.orders.events(order.order_id)) == 1
