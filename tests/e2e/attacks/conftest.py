"""A stack with its doors locked, which the tests in this folder attack, and who is there."""

from collections.abc import Iterator

import pytest

from tests.database_server import DatabaseServer
from tests.e2e.forgeries import Forge
from tests.e2e.guarded import Guarded, Person, Trap, guarded_stack


@pytest.fixture(scope="package")
def trap() -> Iterator[Trap]:
    """An attacker's server, to which nobody may ever go."""
    with Trap() as trap:
        yield trap
        assert trap.visits == 0


@pytest.fixture(scope="package")
def stack(database_server: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_stack(database_server, tmp_path_factory.mktemp("attacked")) as stack:
        yield stack


@pytest.fixture(scope="package")
def forge(stack: Guarded, trap: Trap) -> Forge:
    return Forge.of(stack.issuer, trap.url)


@pytest.fixture(scope="package")
def staff(stack: Guarded) -> Person:
    return stack.staff()


@pytest.fixture(scope="package")
def ann(stack: Guarded) -> Person:
    return stack.person("ann")


@pytest.fixture(scope="package")
def eve(stack: Guarded) -> Person:
    """A buyer with every right of a buyer, who is curious about ann."""
    return stack.person("eve")


@pytest.fixture(scope="package")
def sku(staff: Person) -> str:
    return staff.new_sku(100_000)


@pytest.fixture(scope="package")
def anns(ann: Person, sku: str) -> str:
    """An order of ann's."""
    return ann.bought(sku)


@pytest.fixture
def unchanged(stack: Guarded) -> Iterator[None]:
    """Whatever the test does leaves no trace in any table."""
    before = stack.books.state()
    yield
    assert stack.books.state() == before


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_of_an_attack(stack: Guarded, ann: Person, forge: Forge) -> Iterator[None]:
    """Whatever a module does: the books come to rest, and nothing secret is in the logs."""
    yield
    stack.books.settle()
    assert_nothing_secret_was_logged(stack, ann, forge)


def assert_nothing_secret_was_logged(stack: Guarded, ann: Person, forge: Forge) -> None:
    """Each line is one object; none was forged, none holds a token, and none tells of an unexpected error."""
    lines = stack.log_lines()
    assert {line["event"] for line in lines} & {"forged"} == set()
    assert {line["service"] for line in lines} == {"order", "inventory", "payment"}
    assert [line for line in lines if line["event"] == "internal_error" or "exception" in line] == []
    text = "".join(service.log.read_text(encoding="utf-8") for service in stack.services.all)
    assert str(ann.token) not in text
    assert str(ann.token).split(".")[2] not in text
    assert "eyJ" not in text
    assert "order-secret" not in text
    assert forge.attacker_url not in text
