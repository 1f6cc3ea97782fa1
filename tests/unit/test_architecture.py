"""The tree is the architecture: who may import whom, and what lives in which file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.contracts.inventory import LedgerKind
from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus

ROOT = Path(__file__).parents[2]
SERVICES = ("order_service", "inventory_service", "payment_service")
FILES = sorted(path for top in (*SERVICES, "common", "vv") for path in (ROOT / top).rglob("*.py"))
SERVICE_FILES = [path for path in FILES if path.parts[len(ROOT.parts)] in SERVICES]
# The language between services, and the client library; everything else in common is the kit.
LANGUAGE = ("common.contracts", "common.clients")
COMMON_LANGUAGE = ("common.contracts.base", "common.contracts.access")
KIT_FILES = [
    path for path in (ROOT / "common").rglob("*.py") if path.relative_to(ROOT).parts[1] not in ("contracts", "clients")
]
STATES: dict[str, set[str]] = {
    "order_service": set(OrderStatus),
    "inventory_service": set(LedgerKind),
    "payment_service": set(PaymentStatus),
}
# What a statement begins with. Sentences do, too, but not in capitals.
SQL = re.compile(
    r"^\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|MERGE|WITH|CREATE|ALTER|DROP|TRUNCATE|SET|LOCK|CALL|BEGIN|COMMIT"
    r"|ROLLBACK|FROM|WHERE|VALUES|ORDER BY|GROUP BY)\b"
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, also inside functions, ``from package import module`` spelt out."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def texts_of(path: Path) -> Iterator[str]:
    """The string literals of a file, docstrings left out."""
    tree = tree_of(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


each_file = pytest.mark.parametrize("path", FILES, ids=name_of)
each_service_file = pytest.mark.parametrize("path", SERVICE_FILES, ids=name_of)


@each_file
def test_imports_run_one_way(path: Path) -> None:
    """vv -> services -> common: nobody imports upwards, and no service imports another one."""
    top = path.relative_to(ROOT).parts[0]
    forbidden = {
        "vv": (),
        "common": ("vv", *SERVICES),
        **{service: ("vv", *(other for other in SERVICES if other != service)) for service in SERVICES},
    }
    assert [module for module in imports_of(path) if is_within(module, ("tests", *forbidden[top]))] == []


@pytest.mark.parametrize("path", KIT_FILES, ids=name_of)
def test_kit_knows_no_order_sku_or_payment(path: Path) -> None:
    """The kit imports neither contracts, but for what all of them share, nor clients."""
    imported = [module for module in imports_of(path) if is_within(module, LANGUAGE)]
    assert [module for module in imported if not is_within(module, COMMON_LANGUAGE)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "common" / "contracts").glob("*.py")), ids=name_of)
def test_contracts_need_no_kit(path: Path) -> None:
    """The wire models import each other and the errors, and nothing that opens a socket or a database."""
    imported = [module for module in imports_of(path) if is_within(module, ("common", "aiohttp", "aiomysql"))]
    assert [module for module in imported if not is_within(module, ("common.contracts", "common.errors"))] == []


@pytest.mark.parametrize("path", sorted((ROOT / "common" / "clients").glob("*.py")), ids=name_of)
def test_clients_need_no_server_and_no_database(path: Path) -> None:
    """A script that embeds the client library loads neither aiomysql, nor the web kit, nor anything that measures."""
    kit = tuple(
        f"common.{module}" for module in ("telemetry", "web", "server", "middleware", "openapi", "database", "settings")
    )
    assert [
        module for module in imports_of(path) if is_within(module, (*kit, "aiomysql", "pymysql", "prometheus_client"))
    ] == []


@pytest.mark.parametrize("service", SERVICES)
def test_services_have_the_same_rooms(service: str) -> None:
    """Reading one service teaches all three."""
    files = {path.name for path in (ROOT / service).iterdir() if path.suffix == ".py"}
    assert {"__main__.py", "app.py", "settings.py", "handlers.py", "queries.py", "domain.py"} <= files


def test_common_has_no_lumber_room() -> None:
    """No utils, helpers, constants or misc, anywhere."""
    assert [name_of(path) for path in FILES if re.search("util|helper|constant|misc|shared", path.stem)] == []


@pytest.mark.parametrize(
    "path", [path for path in SERVICE_FILES if path.name not in ("queries.py", "sandbox.py")], ids=name_of
)
def test_sql_lives_in_queries(path: Path) -> None:
    """Every SQL statement of a service is in its queries.py; the sandbox gateway keeps books of its own."""
    assert [text for text in texts_of(path) if SQL.match(text)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_queries_are_functions_named_after_their_lock(service: str) -> None:
    """One function a statement, the transaction first; ``lock_`` is FOR UPDATE, and nothing else is. Those that pass
    over what somebody else holds say so: ``lock_free_``, and recovery's ``lock_expired``."""
    functions = [
        node
        for node in tree_of(ROOT / service / "queries.py").body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    assert functions
    for function in functions:
        assert re.match("(get|list|count|with|lock|insert|mark|change)_", function.name), function.name
        assert function.args.args[0].arg == "tx", function.name
        sql = ast.unparse(function)
        assert ("FOR UPDATE" in sql) == function.name.startswith("lock_"), function.name
        assert ("SKIP LOCKED" in sql) == function.name.startswith(("lock_free_", "lock_expired")), function.name


@pytest.mark.parametrize("service", SERVICES)
def test_queries_decide_nothing(service: str) -> None:
    """queries.py has no policy: it imports neither the use cases nor the HTTP kit, and raises nothing of its own."""
    path = ROOT / service / "queries.py"
    forbidden = ("common.web", "common.routes", "common.clients")
    assert [module for module in imports_of(path) if is_within(module, forbidden)] == []
    assert [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Raise | ast.Try)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_handlers_only_parse_and_reply(service: str) -> None:
    """No try around business errors, no SQL kit, no queries."""
    path = ROOT / service / "handlers.py"
    assert [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Try)] == []
    forbidden = ("common.database", "common.clients", "aiohttp", f"{service}.queries")
    assert [module for module in imports_of(path) if is_within(module, forbidden)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_domain_does_no_io(service: str) -> None:
    """Pure decisions: no await, no kit that does I/O, no clock, no chance."""
    path = ROOT / service / "domain.py"
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncWith, ast.AsyncFor)
    assert [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, waits)] == []
    forbidden = (
        *("asyncio", "time", "random", "os", "aiohttp"),
        *("common.database", "common.clients", "common.web", "common.routes"),
    )
    assert [module for module in imports_of(path) if is_within(module, forbidden)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] != "vv"], ids=name_of)
def test_environment_is_read_in_settings_only(path: Path) -> None:
    """A setting that is read elsewhere is one that no documentation knows of."""
    read = [
        node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and node.attr == "environ"
    ]
    called = [module for module in imports_of(path) if module in ("os.environ", "os.getenv", "dotenv")]
    getenv = [
        node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and node.attr == "getenv"
    ]
    assert (read, called, getenv) == ([], [], [])


@each_service_file
def test_states_are_no_bare_strings(path: Path) -> None:
    """Outside the contracts a state is a member of its enum, so that a typing mistake is a type error."""
    states = STATES[path.parent.name]
    nodes = list(ast.walk(tree_of(path)))
    # The names of crash points are no states, though some are called after one.
    crash_points = {
        id(argument)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_reached"
        for argument in node.args
    }
    bare = [node for node in nodes if isinstance(node, ast.Constant) and node.value in states]
    assert [node.lineno for node in bare if id(node) not in crash_points] == []


@each_file
def test_modules_and_functions_are_short(path: Path) -> None:
    """A module one can read in one go: 300 lines at the most, a function 60."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []
