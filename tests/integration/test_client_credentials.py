"""A program's own tokens: fetched when needed, renewed in time, and used to their end while the issuer is down."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from common import oidc
from common.clients import AsyncInventoryClient, ClientCredentials, DeadlineExceeded, ServiceUnavailable
from common.clients import credentials as credentials_module
from tests.forged_tokens import decode
from tests.issuer_process import IssuerProcess


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProcess]:
    process = IssuerProcess(tmp_path_factory.mktemp("credentials")).start()
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(autouse=True)
def is_as_usual(process: IssuerProcess) -> Iterator[None]:
    yield
    process.behave(mode="up", lifetime_s=300)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_TIMEOUT_S", 0.5)


@pytest.fixture
def own(process: IssuerProcess) -> ClientCredentials:
    return ClientCredentials(process.url, "order-service", "order-secret")


async def test_who_needs_a_token_at_once_shares_it(process: IssuerProcess, own: ClientCredentials) -> None:
    """One question for a hundred callers, and none as long as the token is good."""
    before = process.asked("token")
    assert len(set(await asyncio.gather(*(own.token() for _ in range(100))))) == 1
    await own.token()
    assert process.asked("token") == before + 1


async def test_a_token_is_renewed_before_it_expires(process: IssuerProcess, own: ClientCredentials) -> None:
    """So that none is ever sent which expires on its way."""
    process.behave(lifetime_s=2)
    seen = set()
    for _ in range(22):
        token = await own.token()
        assert decode(token)[1]["exp"] > time.time()
        seen.add(token)
        await asyncio.sleep(0.1)
    assert 2 <= len(seen) <= 3


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["refuse", "hang"])
async def test_nobody_waits_for_a_renewal(
    mode: str, process: IssuerProcess, own: ClientCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the old token is good it is used, also if the issuer does not answer; afterwards the new one is."""
    monkeypatch.setattr(credentials_module, "_RETRY_S", 0.1)
    process.behave(lifetime_s=2)
    old = await own.token()
    process.behave(mode=mode)
    await asyncio.sleep(1.05)
    for _ in range(6):
        started = time.monotonic()
        assert await own.token() == old
        assert time.monotonic() - started < 0.4
        await asyncio.sleep(0.05)
    process.behave(mode="up")
    async with asyncio.timeout(5):
        while await own.token() == old:
            await asyncio.sleep(0.05)


@pytest.mark.alone
async def test_a_failure_is_everybodys(process: IssuerProcess, own: ClientCredentials) -> None:
    """Without a token all fail together when the issuer hangs, not one after the other, and for a second at once."""
    process.behave(mode="hang")
    before, started = process.asked("discovery"), time.monotonic()
    outcomes = await asyncio.gather(*(own.token() for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ServiceUnavailable}
    assert time.monotonic() - started < 3
    with pytest.raises(ServiceUnavailable):
        await own.token()
    assert process.asked("discovery") == before + 1


async def test_who_gives_up_leaves_the_others_waiting(process: IssuerProcess, own: ClientCredentials) -> None:
    """The question goes on for them."""
    first, second = asyncio.create_task(own.token()), asyncio.create_task(own.token())
    await asyncio.sleep(0)
    first.cancel()
    assert decode(await second)[1]["azp"] == "order-service"


@pytest.mark.alone
async def test_a_call_ends_with_its_deadline(process: IssuerProcess, own: ClientCredentials) -> None:
    """Also when it is the issuer who does not answer."""
    process.behave(mode="hang")
    async with AsyncInventoryClient("http://127.0.0.1:9", timeout_s=0.2, token=own) as inventory:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await inventory.get("sku")
        assert time.monotonic() - started < 0.4


async def test_a_wrong_secret_is_not_repeated(process: IssuerProcess) -> None:
    """The error says which server refused, and nothing of what was sent."""
    wrong = ClientCredentials(process.url, "order-service", "guessed-secret")
    with pytest.raises(ServiceUnavailable, match="answers 401") as refusal:
        await wrong.token()
    assert "guessed-secret" not in str(refusal.value)


@pytest.mark.parametrize("secret", ["a:b", "50% off+1", "päß wört", "=&?/\\"])
async def test_a_secret_may_have_any_characters(secret: str, process: IssuerProcess) -> None:
    """They are encoded as RFC 6749, section 2.3.1 has it."""
    process.set_client("odd-service", secret, "stock:read")
    token = await ClientCredentials(process.url, "odd-service", secret).token()
    assert decode(token)[1]["azp"] == "odd-service"


async def test_another_token_in_place_of_a_refused_one(
    process: IssuerProcess, own: ClientCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for once a second at the most; who comes with an older one is told that there is another already."""
    old = await own.token()
    assert not await own.has_other(old)
    monkeypatch.setattr(credentials_module, "_RETRY_S", 0.0)
    process.rotate(keep=False)
    assert await own.has_other(old)
    new = await own.token()
    assert decode(new)[0]["kid"] != decode(old)[0]["kid"]
    before = process.asked("token")
    assert await own.has_other(old)
    assert process.asked("token") == before
    process.behave(mode="refuse")
    assert not await own.has_other(new)
    assert await own.token() == new
