"""Group commit against a real database: a list costs as many statements as one item, and one bad item is alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import pymysql
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from pymysql.err import OperationalError
from uuid_utils import uuid7

from common.batching import Batcher
from common.context import trace_context
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    IncreaseStock,
    OutOfStock,
    SkuNotFound,
    StockChange,
    StockLevel,
    StockRequestRolledBack,
)
from common.contracts.orders import CreateOrder, OrderStatus
from common.contracts.payments import CreatePayment, PaymentStatus, RefundPayment
from common.database import Database
from common.database_url import parse_database_url
from common.errors import DatabaseUnavailable, IdempotencyMismatch
from common.settings import ServiceSettings
from common.telemetry import Metrics
from common.transaction import Transaction
from common.versioned import LostRace
from inventory_service.stock import Stock
from order_service import domain as order_domain
from order_service.domain import NewOrder, OrderRow
from order_service.handoff import Handoff
from order_service.metrics import OrderMetrics
from order_service.orders import Orders
from order_service.purchase import Purchases
from order_service.settings import Settings as OrderSettings
from payment_service import domain as payment_domain
from payment_service.domain import NewPayment, PaymentRow
from payment_service.payments import Payments
from payment_service.sandbox import SandboxGateway
from payment_service.settings import Settings as PaymentSettings

T = TypeVar("T")
TOO_LONG = 1406
URL = SecretStr("mysql://u:p@h/d")


@dataclass
class Shop:
    """The use cases of the three services on their databases, without the services around them."""

    databases: dict[str, Database]
    metrics: Metrics

    def __post_init__(self) -> None:
        self.stock = Stock(self.databases["inventory"])
        self.orders = Orders(self.databases["order"], 60, OrderMetrics(CollectorRegistry()))
        self.payments = Payments(self.databases["payment"], 60)
        settings = PaymentSettings(database_url=URL, port=1)
        self.sandbox = SandboxGateway(self.databases["payment"], settings, Metrics("test"))

    async def new_skus(self, n: int, quantity: int = 1_000) -> list[str]:
        """In SKU order."""
        names = sorted(f"SKU-{uuid4().hex}" for _ in range(n))
        levels = await self.stock.create([CreateStock(product_id="p", sku=sku, quantity=quantity) for sku in names])
        assert all(isinstance(level, StockLevel) for level in levels)
        return names

    async def new_orders(self, n: int) -> list[OrderRow]:
        return await self.orders.accept([new_order() for _ in range(n)])

    async def new_payments(self, n: int) -> list[PaymentRow]:
        return await self.payments.open([new_payment() for _ in range(n)])


@contextlib.asynccontextmanager
async def shop_at(urls: Mapping[str, str], kind: type[Database] = Database) -> AsyncIterator[Shop]:
    """One connection a database, so that the status of a session counts everything that the shop does."""
    metrics = Metrics("test")
    limits = {"pool_size_max": 1, "pool_wait_s": 10.0, "lock_wait_s": 1, "transaction_timeout_s": 30.0}
    async with contextlib.AsyncExitStack() as stack:
        made = {name: kind(url, metrics, **limits) for name, url in urls.items()}  # type: ignore[arg-type]
        yield Shop({name: await stack.enter_async_context(database) for name, database in made.items()}, metrics)


@pytest.fixture
async def shop(urls: dict[str, str]) -> AsyncIterator[Shop]:
    async with shop_at(urls) as opened:
        yield opened


def new_order(key: str | None = None, lines: int = 1, **fields: Any) -> NewOrder:
    items = [{"sku": f"S{n}", "quantity": 1} for n in range(lines)]
    wanted = CreateOrder.model_validate({"user_id": "ada", "items": items, "total_amount": 5})
    return NewOrder.of(str(uuid7()), fields.pop("user_id", "ada"), wanted.model_copy(update=fields), key)


def new_payment(**fields: Any) -> NewPayment:
    wanted = CreatePayment(order_id=str(uuid4()), amount=5)
    return NewPayment(str(uuid7()), wanted.model_copy(update=fields))


def decrease(sku: str, quantity: int = 1, **fields: Any) -> DecreaseStock:
    wanted = DecreaseStock(sku=sku, quantity=quantity, request_id=f"{uuid4()}")
    return wanted.model_copy(update=fields)


# --- A list of n is written with as many statements as a list of two.

Write = Callable[[], Awaitable[Any]]


async def create(shop: Shop, n: int) -> Write:
    return partial(shop.stock.create, [CreateStock(product_id="p", sku=f"{uuid4()}", quantity=1) for _ in range(n)])


async def decrease_one_sku(shop: Shop, n: int) -> Write:
    [sku] = await shop.new_skus(1)
    return partial(shop.stock.decrease, [decrease(sku) for _ in range(n)])


async def decrease_many_skus(shop: Shop, n: int) -> Write:
    return partial(shop.stock.decrease, [decrease(sku) for sku in await shop.new_skus(n)])


async def decrease_too_much(shop: Shop, n: int) -> Write:
    return partial(shop.stock.decrease, [decrease(sku) for sku in await shop.new_skus(n, quantity=0)])


async def increase(shop: Shop, n: int) -> Write:
    skus = await shop.new_skus(n)
    return partial(shop.stock.increase, [IncreaseStock(sku=sku, quantity=1, request_id=sku) for sku in skus])


async def roll_back(shop: Shop, n: int) -> Write:
    wanted = [decrease(sku) for sku in await shop.new_skus(n)]
    await shop.stock.decrease(wanted)
    return partial(shop.stock.rollback, [str(item.request_id) for item in wanted])


async def roll_back_beforehand(shop: Shop, n: int) -> Write:
    return partial(shop.stock.rollback, [f"{uuid4()}" for _ in range(n)])


async def accept(shop: Shop, n: int) -> Write:
    return partial(shop.orders.accept, [new_order(str(uuid4()), lines=3) for _ in range(n)])


async def move_orders(shop: Shop, n: int) -> Write:
    orders = await shop.new_orders(n)
    reserved = (OrderStatus.INVENTORY_RESERVED,)
    return partial(shop.orders.move, [order_domain.Move(order, reserved) for order in orders])


async def complete_orders(shop: Shop, n: int) -> Write:
    reserved = await (await move_orders(shop, n))()
    both = (OrderStatus.PAID, OrderStatus.COMPLETED)
    return partial(shop.orders.move, [order_domain.Move(order, both) for order in reserved])


async def open_payments(shop: Shop, n: int) -> Write:
    return partial(shop.payments.open, [new_payment() for _ in range(n)])


async def capture(shop: Shop, n: int) -> Write:
    payments = await shop.new_payments(n)
    moves = [payment_domain.Move(payment, PaymentStatus.CAPTURED) for payment in payments]
    return partial(shop.payments.move, moves)


async def promise_refunds(shop: Shop, n: int) -> Write:
    captured = await (await capture(shop, n))()
    moves = [payment_domain.Move(payment, PaymentStatus.REFUNDING, "late", refund=5) for payment in captured]
    return partial(shop.payments.move, moves)


async def charge_at_the_sandbox(shop: Shop, n: int) -> Write:
    def charge() -> Awaitable[Any]:
        return shop.sandbox.charge(
            f"{uuid4()}", amount=1, currency="USD", payment_method="tok_ok", reference="anything"
        )

    return lambda: asyncio.gather(*(charge() for _ in range(n)))


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


# --- A batch with something in it that the database refuses.


def batcher(run: Callable[[Any], Awaitable[Any]], **settings: Any) -> Batcher[Any, Any]:
    return Batcher("test", run, ServiceSettings(database_url=URL, port=1, **settings), Metrics("test"))


async def decreases_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items: list[Any] = [decrease(sku) for sku in await shop.new_skus(16)]
    items[bad] = items[bad].model_copy(update={"request_id": "r" * 129})
    return batcher(shop.stock.decrease), items


async def rollbacks_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [f"{uuid4()}" for _ in range(16)]
    items[bad] = "r" * 129
    return batcher(shop.stock.rollback), items


async def orders_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [new_order() for _ in range(16)]
    items[bad] = new_order(user_id="u" * 65)
    return batcher(shop.orders.accept), items


async def order_moves_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [order_domain.Move(order, (OrderStatus.FAILED,), "why") for order in await shop.new_orders(16)]
    items[bad] = replace(items[bad], reason="r" * 65)
    return batcher(shop.orders.move), items


async def payments_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [new_payment() for _ in range(16)]
    items[bad] = new_payment(currency="EURO")
    return batcher(shop.payments.open), items


async def payment_moves_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    payments = await shop.new_payments(16)
    items = [payment_domain.Move(payment, PaymentStatus.DECLINED, "why") for payment in payments]
    items[bad] = replace(items[bad], reason="r" * 65)
    return batcher(shop.payments.move), items


def key_of(thing: Any) -> str:
    """What tells an item, and the outcome that belongs to it."""
    if isinstance(thing, order_domain.Move):
        return thing.order.order_id
    if isinstance(thing, payment_domain.Move):
        return thing.payment.order_id
    if isinstance(thing, DecreaseStock | StockChange):
        return str(thing.request_id)
    return str(getattr(thing, "order_id", thing))


@pytest.mark.parametrize("bad", [0, 7, 15])
@pytest.mark.parametrize(
    "prepare",
    [decreases_with, rollbacks_with, orders_with, order_moves_with, payments_with, payment_moves_with],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_value_that_the_database_refuses_is_refused_alone(
    prepare: Callable[[Shop, int], Awaitable[tuple[Batcher[Any, Any], list[Any]]]], bad: int, shop: Shop
) -> None:
    """Its caller gets the database's error, wherever it stands in the batch; each neighbour gets what is his."""
    shared, items = await prepare(shop, bad)

    async with asyncio.timeout(2):
        outcomes = await together(shared, items)

    refused = outcomes.pop(bad)
    assert isinstance(refused, pymysql.err.DataError), refused
    assert refused.args[0] == TOO_LONG
    assert [key_of(outcome) for outcome in outcomes] == [key_of(item) for n, item in enumerate(items) if n != bad]


async def test_what_can_be_refused_is_refused_before_the_write(shop: Shop) -> None:
    """Every kind of refusal in one batch: each is its own caller's, and the stock is exact."""
    [sku, scarce] = await shop.new_skus(2, quantity=3)
    first, undone = decrease(sku), decrease(sku)
    await shop.stock.rollback([str(undone.request_id)])
    items = [
        *(first, decrease("UNKNOWN"), decrease(scarce, 4), decrease(scarce, 3), decrease(scarce, 1)),
        *(first, first.model_copy(update={"quantity": 2}), undone, decrease(sku)),
    ]

    outcomes = await together(batcher(shop.stock.decrease), items)

    assert [type(outcome) for outcome in outcomes] == [
        *(StockChange, SkuNotFound, OutOfStock, StockChange, OutOfStock),
        *(StockChange, IdempotencyMismatch, StockRequestRolledBack, StockChange),
    ]
    assert outcomes[5] == outcomes[0]
    assert [(await shop.stock.get(each)).quantity for each in (sku, scarce)] == [1, 0]


async def test_of_one_key_the_first_in_the_batch_wins(shop: Shop) -> None:
    """Two orders with one idempotency key, two charges of one order: the later one is shown the earlier one."""
    key = f"{uuid4()}"
    orders = [new_order(), new_order(key), new_order(key), new_order(key, total_amount=7), new_order()]
    accepted = await together(batcher(shop.orders.accept), orders)
    assert [orders.index(next(new for new in orders if new.order_id == one.order_id)) for one in accepted] == [
        *(0, 1, 1, 1, 4)
    ]
    charges = [new_payment(), new_payment(order_id=key), new_payment(order_id=key, amount=7), new_payment()]
    opened = await together(batcher(shop.payments.open), charges)
    assert [one.payment_id for one in opened] == [charges[n].payment_id for n in (0, 1, 1, 3)]
    assert opened[2].amount == 5


async def test_of_two_moves_of_one_order_in_a_batch_the_later_has_lost(shop: Shop) -> None:
    """As if each had a transaction of its own."""
    [order, other] = await shop.new_orders(2)
    moves = [
        order_domain.Move(order, (OrderStatus.CANCELLING,), "asked"),
        order_domain.Move(other, (OrderStatus.INVENTORY_RESERVED,)),
        order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,)),
    ]
    won, neighbour, lost = await together(batcher(shop.orders.move), moves)
    assert (won.status, neighbour.status) == (OrderStatus.CANCELLING, OrderStatus.INVENTORY_RESERVED)
    assert isinstance(lost, LostRace)


async def test_stock_is_given_out_in_arrival_order(shop: Shop) -> None:
    """Of sixty requests over several batches the first twenty get the twenty units."""
    [sku] = await shop.new_skus(1, quantity=20)
    outcomes = await together(batcher(shop.stock.decrease, max_batch=7), [decrease(sku) for _ in range(60)])
    assert [isinstance(outcome, StockChange) for outcome in outcomes] == [True] * 20 + [False] * 40
    assert [outcome.items[0].quantity for outcome in outcomes[:20]] == [*range(19, -1, -1)]


async def together(shared: Batcher[Any, Any], items: Sequence[Any]) -> list[Any]:
    """The outcome of each item, all submitted at once."""
    return await asyncio.gather(*(shared.submit(item) for item in items), return_exceptions=True)


# --- A batch that meets locks of somebody else.


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


def runs_again(shop: Shop, errno: int) -> float:
    return shop.metrics.registry.get_sample_value("vv_db_transaction_retries_total", {"errno": str(errno)}) or 0


# --- A COMMIT of which nobody knows whether it took effect.


class LosesItsFirstCommit(Transaction):
    """The reply to the COMMIT gets lost after it took effect: the transaction is run again as a whole."""

    async def commit(self) -> None:
        await super().commit()
        if not self.is_rerun:
            raise OperationalError(2013, "Lost connection to server during query")


@pytest.mark.parametrize(
    "prepare",
    [
        *(create, decrease_one_sku, decrease_too_much, increase, roll_back, roll_back_beforehand),
        *(accept, move_orders, complete_orders, open_payments, capture, promise_refunds),
    ],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_lost_commit_changes_nothing(
    prepare: Callable[[Shop, int], Awaitable[Write]], urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run again after it took effect, a write gives the same answers and leaves the same rows as if run once."""
    once, twice = [await effect(urls, kind, prepare, monkeypatch) for kind in (Transaction, LosesItsFirstCommit)]
    assert twice == once
    assert any(any(numbers) for numbers in once[1])


async def effect(
    urls: dict[str, str],
    kind: type[Transaction],
    prepare: Callable[[Shop, int], Awaitable[Write]],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[type], list[tuple[int, ...]]]:
    """What kind of answers a write of three items gave, and what it added to each table."""
    async with shop_at(urls) as shop:
        write = await prepare(shop, 3)
        before = await books(shop)
        with monkeypatch.context() as patch:
            patch.setattr("common.database.Transaction", kind)
            outcomes = await write()
        assert (runs_again(shop, 2013) > 0) == (kind is LosesItsFirstCommit)
        after = await books(shop)
    changes = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
    return [type(outcome) for outcome in outcomes], changes


async def test_a_lost_commit_makes_no_winner_of_who_came_too_late(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two moves of one order only the one that was written is told so, also when the reply to it got lost."""
    [order] = await shop.new_orders(1)
    won = order_domain.Move(order, (OrderStatus.FAILED,), "why")
    lost = order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,))
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    outcomes = await shop.orders.move([won, lost])
    assert [type(outcome) for outcome in outcomes] == [OrderRow, LostRace]
    assert await shop.orders.move([lost]) != [won.taken(order.updated_at)]
    assert (await shop.orders.get(order.order_id)).status is OrderStatus.FAILED


async def test_a_lost_commit_of_a_traced_order_is_recognised(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace travels with the order and is in no row of it: it does not tell two orders apart."""
    trace_context.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    [order] = await shop.new_orders(1)
    assert order.trace is not None
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    [moved] = await shop.orders.move([order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,))])
    assert isinstance(moved, OrderRow)


async def test_orders_that_were_moved_since_a_lost_commit_are_left_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted by a transaction whose reply came late, and meanwhile driven on by recovery: told as they are."""
    new = [new_order()]
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    accepted = await shop.orders.accept(new)
    await shop.orders.move([order_domain.Move(accepted[0], (OrderStatus.FAILED,), "why")])
    settings = OrderSettings(database_url=URL)
    nobody: Any = None
    let_go = Handoff(shop.orders, settings)
    metrics = Metrics("order")
    order_metrics = OrderMetrics(metrics.registry)
    purchases = Purchases(shop.orders, nobody, nobody, let_go, settings, metrics, order_metrics, lambda _: None)
    [begun] = await purchases.begin(new)
    assert (begun.order.order_id, begun.order.status, begun.goes_on) == (new[0].order_id, OrderStatus.FAILED, False)


@pytest.mark.parametrize("ask", ["cancel", "refund"])
async def test_a_lost_commit_leaves_no_promised_refund_to_its_lease(
    ask: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who promised the money back, and did not hear of it, carries it out all the same."""
    captured = await (await capture(shop, 1))()
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    order_id = captured[0].order_id
    asked = (
        shop.payments.begin_cancel(order_id)
        if ask == "cancel"
        else shop.payments.begin_refund(RefundPayment(order_id=order_id))
    )
    begun = await asked
    assert begun.is_new
    assert begun.payment.status is PaymentStatus.REFUNDING
    assert len(await shop.payments.open_refunds(order_id)) == 1


# --- A row that somebody else holds.


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


async def test_of_one_key_the_later_is_shown_the_lines_of_the_first(shop: Shop) -> None:
    """Also when both came in one batch."""
    key = f"{uuid4()}"
    first, later = await together(batcher(shop.orders.accept), [new_order(key, lines=3), new_order(key, lines=3)])
    assert first == later
    assert len(later.lines) == 3


async def test_how_often_a_charge_was_not_known_is_counted_to_a_thousand(shop: Shop) -> None:
    """A gateway may be down for weeks; the column is a SMALLINT."""
    [payment] = await shop.new_payments(1)
    for times, counted in [(999, 999), (1_001, 1_000), (40_000, 1_000)]:
        await shop.payments.postpone(payment, 60, times)
        assert (await shop.payments.get(payment.order_id)).times_not_found == counted


@pytest.mark.parametrize("card", ["tok_declined", "tok_bogus", "tok_ok"])
async def test_the_sandbox_says_the_same_of_a_charge_whenever_it_is_asked(card: str, shop: Shop) -> None:
    """When it is made, made again, found, and cancelled too late."""
    key = f"{uuid4()}:charge"
    charge = partial(shop.sandbox.charge, key, amount=5, currency="USD", payment_method=card, reference="anything")
    first = await charge()
    assert [await charge(), await shop.sandbox.find(key), await shop.sandbox.cancel(key)] == [first] * 3


async def books(shop: Shop) -> list[tuple[int, ...]]:
    """Rows and sums of each table."""
    numbers = {
        "inventory": ["COUNT(*), SUM(quantity) FROM inventory", "COUNT(*), SUM(delta) FROM stock_ledger"],
        "order": ["COUNT(*) FROM orders", "COUNT(*), SUM(quantity) FROM order_lines", "COUNT(*) FROM order_events"],
        "payment": ["COUNT(*), SUM(amount) FROM payments", "COUNT(*) FROM payment_events"],
    }
    rows = [
        await shop.databases[service].read(lambda tx, sql=f"SELECT {each}": tx.fetch_one(sql))  # type: ignore[misc]
        for service, tables in numbers.items()
        for each in tables
    ]
    return [tuple(int(value or 0) for value in row) for row in rows if row is not None]
