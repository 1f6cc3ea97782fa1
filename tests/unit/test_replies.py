import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from common.clients import OutOfStock, ServiceError, ServiceUnavailable, StockLevel
from common.clients.replies import read_outcomes, read_reply
from common.clients.transport import Reply, Request
from common.contracts.base import Outcome, Outcomes, Problem

REQUEST = Request("GET", URL("http://admin:hunter2@shop.test/inventory/sku?sku=book"), {})


def read(status: int, body: bytes, headers: dict[str, str] | None = None) -> StockLevel | ServiceError:
    try:
        return read_reply(REQUEST, Reply(status, headers or {}, body), StockLevel)
    except ServiceError as error:
        return error


def problem(**members: Any) -> bytes:
    return json.dumps({"status": 409, "code": "out_of_stock", "detail": "None left.", **members}).encode()


@given(status=st.integers(200, 599), body=st.binary(max_size=200))
def test_bytes_that_are_no_reply_are_an_unknown_outcome(status: int, body: bytes) -> None:
    """Whatever a broken server or proxy sends, with whatever status, it is never taken for a refusal."""
    error = read(status, body)

    assert isinstance(error, ServiceError)
    assert error.retryable
    assert not error.is_refusal


def test_deep_and_huge_bodies_are_an_unknown_outcome() -> None:
    """A hundred thousand brackets and a number of 5000 digits are handled like any other garbage."""
    for body in (b"[" * 100_000, b'{"status": ' + b"9" * 5000 + b"}"):
        assert isinstance(read(409, body), ServiceUnavailable)


def test_a_problem_document_becomes_the_error_that_was_raised_in_the_service() -> None:
    """Class, sentence, request id and further members arrive as the service sent them."""
    lines = [{"sku": "book", "requested": 2, "available": 0}]

    error = read(409, problem(lines=lines, request_id="r-1"))

    assert isinstance(error, OutOfStock)
    assert error.is_refusal
    assert (error.detail, error.request_id, error.extra["lines"]) == ("None left.", "r-1", lines)


def test_an_unknown_code_keeps_the_meaning_of_its_status() -> None:
    """A client that is older than the service still tells a refusal from an outage."""
    refusal, outage = read(409, problem(code="too_new")), read(503, problem(code="too_new"))

    assert isinstance(refusal, ServiceError)
    assert isinstance(outage, ServiceError)
    assert (refusal.is_refusal, outage.is_refusal) == (True, False)


@pytest.mark.parametrize(
    ("members", "header", "expected"),
    [
        ({}, None, None),
        ({}, "7", 7.0),
        ({"retry_after_s": 0.25}, "1", 0.25),
        ({"retry_after_s": "soon"}, None, None),
        ({"retry_after_s": -1}, "3", 3.0),
        ({}, "soon", None),
        ({}, "-5", None),
        ({}, format_datetime(datetime(2000, 1, 1, tzinfo=UTC), usegmt=True), 0.0),
    ],
)
def test_retry_after(members: dict[str, Any], header: str | None, expected: float | None) -> None:
    """The document's fractional seconds count before the header's whole ones; nonsense counts as nothing."""
    error = read(409, problem(**members), {"Retry-After": header} if header else {})

    assert isinstance(error, ServiceError)
    assert error.retry_after_s == expected


def test_retry_after_as_a_date() -> None:
    """A proxy may say when instead of how long (RFC 9110)."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)

    error = read(503, b"<html>", {"Retry-After": date})

    assert isinstance(error, ServiceError)
    assert error.retry_after_s is not None
    assert 95 < error.retry_after_s <= 100


def test_the_sentence_names_the_request_without_its_secrets() -> None:
    """People see which request failed where, but neither the password in the URL nor the query."""
    error = read(502, b"<html>", {"Content-Type": "text/html"})

    assert isinstance(error, ServiceError)
    assert "GET /inventory/sku at shop.test:80" in error.detail
    assert "502 (text/html)" in error.detail
    assert "hunter2" not in error.detail
    assert "book" not in error.detail


def test_outcomes_of_a_batch_are_results_or_typed_errors_in_order() -> None:
    """Item by item: what it asked for, the error of the single call, or an unknown outcome."""
    level = StockLevel(product_id="p", sku="book", quantity=1)
    batch = Outcomes[StockLevel](
        items=[
            Outcome(status=200, result=level),
            Outcome(status=409, error=Problem.model_validate_json(problem())),
            Outcome(status=200),
        ]
    )

    first, second, third = read_outcomes(batch, expected=3)

    assert first == level
    assert isinstance(second, OutOfStock)
    assert isinstance(third, ServiceUnavailable)


def test_a_batch_with_the_wrong_number_of_outcomes_is_an_unknown_outcome() -> None:
    """Outcomes that cannot be matched to their items are not guessed at."""
    with pytest.raises(ServiceUnavailable):
        read_outcomes(Outcomes[StockLevel](items=[]), expected=1)
