import pytest
from hypothesis import given
from hypothesis import strategies as st

from vv.api_output import money


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1999, "USD", "19.99 USD"),
        (5, "EUR", "0.05 EUR"),
        (1999, "JPY", "1999 JPY"),
        (1999, "KWD", "1.999 KWD"),
        (1999, "CLF", "0.1999 CLF"),
        (10**15, "USD", "10000000000000.00 USD"),
    ],
)
def test_money_has_the_digits_of_its_currency(amount: int, currency: str, text: str) -> None:
    """Minor units are written with as many digits after the point as ISO 4217 gives the currency."""
    assert money(amount, currency) == text


@given(amount=st.integers(0, 10**15), currency=st.from_regex(r"[A-Z]{3}", fullmatch=True))
def test_money_loses_no_digit(amount: int, currency: str) -> None:
    """Without the point the printed number is the amount again, however large."""
    number, printed_currency = money(amount, currency).split(" ")

    assert int(number.replace(".", "")) == amount
    assert printed_currency == currency
