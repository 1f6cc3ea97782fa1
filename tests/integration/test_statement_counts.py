"""A list is written with as many statements as one item, on a real database."""

from collections.abc import Awaitable, Callable

import pytest

from common.database import Database
from tests.integration.shop import Shop
from tests.integration.writes import (
    Write,
    accept,
    capture,
    charge_at_the_sandbox,
    complete_orders,
    create,
    decrease_many_skus,
    decrease_one_sku,
    decrease_too_much,
    increase,
    move_orders,
    open_payments,
    promise_refunds,
    roll_back,
    roll_back_beforehand,
)


@pytest.mark.parametrize(
    ("service", "prepare", "tables_inserted_into", "tables_updated"),
    [
        ("inventory", create, 2, 0),
        ("inventory", decrease_one_sku, 1, 1),
        ("inventory", decrease_many_skus, 1, 1),
        ("inventory", decrease_too_much, 1, 1),
        ("inventory", increase, 1, 1),
        ("inventory", roll_back, 1, 1),
        ("inventory", roll_back_beforehand, 1, 0),
        ("order", accept, 3, 0),
        ("order", move_orders, 1, 1),
        ("order", complete_orders, 1, 1),
        ("payment", open_payments, 2, 0),
        ("payment", capture, 1, 1),
        ("payment", promise_refunds, 2, 1),
        ("payment", charge_at_the_sandbox, 1, 0),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_a_list_is_written_with_a_statement_a_table(
    service: str,
    prepare: Callable[[Shop, int], Awaitable[Write]],
    tables_inserted_into: int,
    tables_updated: int,
    shop: Shop,
) -> None:
    """Sixty-four items cost as many statements as two: one INSERT or UPDATE a table, one COMMIT."""
    two, many = [await statements(shop.databases[service], await prepare(shop, n)) for n in (2, 64)]
    assert many == two
    assert (many["Com_insert"], many["Com_commit"]) == (tables_inserted_into, 1)
    assert many["Com_update"] <= tables_updated


async def statements(database: Database, write: Write) -> dict[str, int]:
    """How many statements of each kind a write takes."""
    before = await session_status(database)
    await write()
    after = await session_status(database)
    return {name: after[name] - before[name] for name in before}


async def session_status(database: Database) -> dict[str, int]:
    kinds = "'Com_insert', 'Com_update', 'Com_delete', 'Com_select', 'Com_commit', 'Questions'"
    rows = await database.read(lambda tx: tx.fetch_all(f"SHOW SESSION STATUS WHERE Variable_name IN ({kinds})"))
    return {name: int(count) for name, count in rows}
