"""The keys of the issuer as a service keeps them: fetched, rotated, and kept while the issuer is down."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from common import issuer as keys_module
from common import oidc
from common.errors import ServiceUnavailable, Unauthenticated
from common.issuer import Issuer
from common.tokens import Tokens
from tests.e2e.guarded import Trap
from tests.forged_tokens import TokenForger, decode
from tests.issuer_process import IssuerProcess
from tests.issuer_realm import AUDIENCE

COOLDOWN_S = 0.2
DOWN = ["refuse", "unavailable", "garbage", "not_keys", "huge", "redirect", "other_issuer"]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProcess]:
    process = IssuerProcess(tmp_path_factory.mktemp("keys")).start()
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(autouse=True)
def is_up(process: IssuerProcess) -> Iterator[None]:
    yield
    process.behave(mode="up")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_COOLDOWN_S", COOLDOWN_S)
    monkeypatch.setattr(keys_module, "_RETRY_S", 0.05)
    monkeypatch.setattr(oidc, "_TIMEOUT_S", 0.3)


@pytest.fixture
async def issuer(process: IssuerProcess) -> AsyncIterator[Issuer]:
    """With the keys of the issuer as they are now, and past its cooldown."""
    async with Issuer(process.url) as issuer:
        await until_ready(issuer)
        await asyncio.sleep(COOLDOWN_S)
        yield issuer


@pytest.fixture
def tokens(issuer: Issuer) -> Tokens:
    return Tokens(issuer, audience=AUDIENCE, skew_s=0)


async def until_ready(issuer: Issuer) -> None:
    deadline = time.monotonic() + 10
    while issuer.why_not_ready() is not None:
        assert time.monotonic() < deadline, issuer.why_not_ready()
        await asyncio.sleep(0.01)


async def test_keys_are_fetched_once(process: IssuerProcess, tokens: Tokens) -> None:
    """However many tokens are verified."""
    before = process.asked("jwks"), process.asked("discovery")
    token = process.token("ann")
    for _ in range(50):
        assert (await tokens.verify(token)).subject == "ann"
    assert (process.asked("jwks"), process.asked("discovery")) == before


async def test_a_hundred_unknown_keys_are_one_question(process: IssuerProcess, tokens: Tokens) -> None:
    """All at once, and again within the cooldown: whoever forges tokens cannot have us flood the issuer."""
    forger, before = TokenForger.of(process), process.asked("jwks")

    async def forge(kid: str) -> None:
        with pytest.raises(Unauthenticated):
            await tokens.verify(forger.with_header(kid=kid))

    await asyncio.gather(*(forge(f"forged-{n}") for n in range(100)))
    assert process.asked("jwks") == before + 1
    await forge("forged-again")
    assert process.asked("jwks") == before + 1
    await asyncio.sleep(COOLDOWN_S)
    await forge("forged-later")
    assert process.asked("jwks") == before + 2


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_new_key_is_found_when_a_token_names_it(algorithm: str, process: IssuerProcess, tokens: Tokens) -> None:
    """At once, and the old one counts as long as the issuer publishes it."""
    old = process.token("ann")
    process.rotate(algorithm)
    new = process.token("bob")
    assert decode(new)[0]["alg"] == algorithm
    assert (await tokens.verify(new)).subject == "bob"
    assert (await tokens.verify(old)).subject == "ann"


async def test_a_key_that_is_gone_is_refused(process: IssuerProcess, tokens: Tokens) -> None:
    """As soon as the keys are fetched anew: with it, whoever has stolen it is out."""
    stolen = TokenForger.of(process)
    old = process.token("ann")
    process.rotate(keep=False)
    assert (await tokens.verify(process.token("bob"))).subject == "bob"
    for token in (old, stolen.token()):
        with pytest.raises(Unauthenticated):
            await tokens.verify(token)


async def test_keys_are_fetched_from_time_to_time(process: IssuerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a key that is gone stops counting although nobody comes with a new one."""
    monkeypatch.setattr(keys_module, "_REFRESH_S", 0.1)
    async with Issuer(process.url) as issuer:
        await until_ready(issuer)
        tokens = Tokens(issuer, audience=AUDIENCE, skew_s=0)
        old = process.token("ann")
        process.rotate(keep=False)
        fetched = process.asked("jwks")
        while process.asked("jwks") < fetched + 2:
            await asyncio.sleep(0.05)
        with pytest.raises(Unauthenticated):
            await tokens.verify(old)


@pytest.mark.parametrize("mode", [*DOWN, "hang"])
async def test_known_keys_count_while_the_issuer_is_down(mode: str, process: IssuerProcess, tokens: Tokens) -> None:
    """Whatever is wrong with it. A new key is refused meanwhile, and found when the issuer is back."""
    known = process.token("ann")
    process.rotate()
    new = process.token("bob")
    with Trap() as trap:
        process.behave(mode=mode, elsewhere=trap.url)
        with pytest.raises(Unauthenticated):
            await tokens.verify(new)
        assert (await tokens.verify(known)).subject == "ann"
        process.behave(mode="up")
        await asyncio.sleep(COOLDOWN_S)
        assert (await tokens.verify(new)).subject == "bob"
        assert trap.visits == 0


@pytest.mark.alone
async def test_nobody_waits_for_an_issuer_that_hangs(process: IssuerProcess, tokens: Tokens) -> None:
    """Who comes with a known key is let in while others wait for an answer about theirs."""
    known, forged = process.token("ann"), TokenForger.of(process).with_header(kid="forged")
    process.behave(mode="hang")
    waiting = asyncio.create_task(tokens.verify(forged))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    assert (await tokens.verify(known)).subject == "ann"
    assert time.monotonic() - started < 0.25
    assert not waiting.done()
    with pytest.raises(Unauthenticated):
        await waiting


@pytest.mark.parametrize("mode", DOWN)
async def test_without_any_key_nobody_can_say(mode: str, process: IssuerProcess) -> None:
    """Neither yes nor no: 503, and not ready, until the issuer is there; that is found out by itself."""
    process.behave(mode=mode)
    async with Issuer(process.url) as issuer:
        tokens = Tokens(issuer, audience=AUDIENCE, skew_s=0)
        with pytest.raises(ServiceUnavailable):
            await tokens.verify(TokenForger.of(process).token())
        assert process.url in str(issuer.why_not_ready())
        process.behave(mode="up")
        await until_ready(issuer)
        assert (await tokens.verify(process.token("ann"))).subject == "ann"
