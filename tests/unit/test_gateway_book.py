"""What the gateway decides, key by key, and that it decides the same after a restart."""

from collections.abc import Iterator

import pytest

from common.contracts.payments import RefundExceedsCharge
from common.errors import IdempotencyMismatch
from payment_service.gateway_wire import ChargeNotFound, ChargeStatus, CreateCharge, CreateRefund
from vv.gateway_book import Book
from vv.gateway_ledger import Entry, Kind, Ledger

WANTED = CreateCharge(amount=700, currency="USD", payment_method="tok_ok", reference="order")


class Memory(Ledger):
    """A ledger without its file: these tests are about the decisions."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(-1, entries)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)


@pytest.fixture
def ledger() -> Iterator[Memory]:
    ledger = Memory([])
    yield ledger
    ledger.close()


@pytest.fixture
def book(ledger: Memory) -> Book:
    return Book(ledger)


def refund(amount: int, charge_key: str = "c", currency: str = "USD") -> CreateRefund:
    return CreateRefund(charge_key=charge_key, amount=amount, currency=currency)


def test_a_charge_is_found_by_its_key_also_after_a_restart(book: Book, ledger: Memory) -> None:
    charge = book.charge("c", WANTED, None)
    assert (charge.id, charge.kind, charge.status, charge.charge_key) == ("charge_1", "charge", "approved", "c")
    for one in (book, Book(ledger)):
        assert one.find("c") is charge
        assert one.earlier_charge("c", WANTED) is charge


@pytest.mark.parametrize(
    "other", [{"amount": 701}, {"currency": "EUR"}, {"payment_method": "tok_slow"}, {"reference": "another"}], ids=str
)
def test_a_key_with_another_body_is_a_mistake(other: dict[str, object], book: Book) -> None:
    book.charge("c", WANTED, None)
    with pytest.raises(IdempotencyMismatch):
        book.earlier_charge("c", WANTED.model_copy(update=other))


def test_refunds_never_exceed_the_charge(book: Book, ledger: Memory) -> None:
    """Each key counts once, over a restart, and what is left is said."""
    book.charge("c", WANTED, None)
    first, is_new = book.refund("r1", refund(500))
    assert (first.kind, first.amount, is_new) == (Kind.REFUND, 500, True)
    for one in (book, Book(ledger)):
        assert one.refund("r1", refund(500)) == (first, False)
        with pytest.raises(RefundExceedsCharge) as exceeded:
            one.refund("r2", refund(201))
        assert exceeded.value.extra == {"refundable": 200}
    assert book.refund("r2", refund(200))[1]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (refund(1, charge_key="nothing"), ChargeNotFound),
        (refund(1, charge_key="r1"), ChargeNotFound),
        (refund(1, charge_key="declined"), RefundExceedsCharge),
        (refund(1, charge_key="cancelled"), RefundExceedsCharge),
        (refund(1, currency="EUR"), RefundExceedsCharge),
    ],
    ids=["unknown", "refund", "declined", "cancelled", "currency"],
)
def test_what_was_not_charged_is_not_refunded(wanted: CreateRefund, error: type[Exception], book: Book) -> None:
    book.charge("c", WANTED, None)
    book.charge("declined", WANTED, "card_declined")
    book.cancel("cancelled")
    book.refund("r1", refund(1))
    with pytest.raises(error):
        book.refund("r2", wanted)


@pytest.mark.parametrize("other", [refund(2), refund(1, charge_key="d"), refund(1, currency="EUR")], ids=str)
def test_a_refund_key_with_another_body_is_a_mistake(other: CreateRefund, book: Book) -> None:
    book.charge("c", WANTED, None)
    book.charge("d", WANTED, None)
    book.refund("r1", refund(1))
    with pytest.raises(IdempotencyMismatch):
        book.refund("r1", other)


def test_a_cancelled_key_is_never_charged(book: Book, ledger: Memory) -> None:
    """The fence: whatever comes later with the key is answered with its cancellation, over a restart."""
    cancelled, is_new = book.cancel("c")
    assert (cancelled.status, is_new) == (ChargeStatus.CANCELLED, True)
    for one in (book, Book(ledger)):
        assert one.earlier_charge("c", WANTED) is cancelled
        assert one.find("c") is cancelled
        assert one.cancel("c") == (cancelled, False)


@pytest.mark.parametrize("why_declined", [None, "card_declined"])
def test_a_charge_that_was_made_is_not_cancelled(why_declined: str | None, book: Book) -> None:
    """Who cancels too late is told what became of it."""
    charge = book.charge("c", WANTED, why_declined)
    assert book.cancel("c") == (charge, False)


def test_a_key_is_of_one_kind(book: Book) -> None:
    """A refund's key is no charge's, and the other way round."""
    book.charge("c", WANTED, None)
    book.refund("r", refund(1))
    with pytest.raises(IdempotencyMismatch):
        book.cancel("r")
    with pytest.raises(IdempotencyMismatch):
        book.earlier_charge("r", WANTED)
    with pytest.raises(IdempotencyMismatch):
        book.refund("c", refund(1))
    with pytest.raises(ChargeNotFound):
        book.find("r")
