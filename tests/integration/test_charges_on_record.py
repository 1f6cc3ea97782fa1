"""What the databases keep of a charge, whenever it is asked for: how often nobody knew, and what the sandbox said."""

from functools import partial
from uuid import uuid4

import pytest

from tests.integration.shop import Shop


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
