"""The SQL that makes finished orders in a private database, as the services would have left them.

Each order has a number n, bought one unit of one SKU and was charged. Its id is a UUIDv7 of the moment at which it was
placed, so that ids and times agree and rows come in the order in which orders arrive.
"""

from collections.abc import Mapping, Sequence

# Called as those of orders.lua.
USERS = 500_000
SKUS = 10_000
UNITS = 1_000_000_000
CHUNK_MAX = 100_000

_DIGITS = "(SELECT 0 n" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"
# From 0 to 99,999. A sequence table would be shorter, but MySQL has none.
_NUMBERS = (
    "(SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n AS n FROM "
    f"{_DIGITS} a, {_DIGITS} b, {_DIGITS} c, {_DIGITS} d, {_DIGITS} e)"
)
_SKU = f"CONCAT('FILLED-', LPAD(MOD(n, {SKUS}), 5, '0'))"
_USER = f"CONCAT('user-', LPAD(MOD(n * 7919, {USERS}), 6, '0'))"
_PAYMENT_ID = (
    "CONCAT(LEFT(order_id, 14), '7', SUBSTR(digits, 18, 3), '-8', SUBSTR(digits, 21, 3), '-', RIGHT(digits, 12))"
)

# Before the first order. All of its memory for filling, and no flush a transaction: another server process is measured.
SETTINGS: Sequence[str] = (
    "SET GLOBAL innodb_buffer_pool_size = 2147483648",
    "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
    "SET GLOBAL innodb_io_capacity_max = 40000",
    "SET GLOBAL innodb_io_capacity = 20000",
)
# So that the server ends soon: its dirty pages are written before.
SETTINGS_AFTER: Sequence[str] = ("SET GLOBAL innodb_max_dirty_pages_pct = 0",)
DIRTY_PAGES = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'"

# A row for each order of a chunk, with random hexadecimal digits. Takes %(start)s and %(step_us)s: the moment of the
# first order and microseconds between two; %(first)s and %(end)s: the numbers of the chunk.
STAGE: Sequence[str] = (
    (
        "CREATE TEMPORARY TABLE staged (n BIGINT PRIMARY KEY, at DATETIME(6) NOT NULL, digits CHAR(32) NOT NULL, "
        "order_id CHAR(36) NOT NULL) CHARACTER SET ascii COLLATE ascii_bin"
    ),
    (
        "INSERT INTO staged SELECT n, at, digits, CONCAT(LEFT(ms, 8), '-', RIGHT(ms, 4), '-7', SUBSTR(digits, 1, 3), "
        "'-', SUBSTR('89ab', 1 + MOD(n, 4), 1), SUBSTR(digits, 4, 3), '-', SUBSTR(digits, 7, 12)) "
        "FROM (SELECT n, at, digits, LPAD(LOWER(HEX(FLOOR(UNIX_TIMESTAMP(at) * 1000))), 12, '0') ms "
        "FROM (SELECT n, CAST(%(start)s AS DATETIME(6)) + INTERVAL n * %(step_us)s MICROSECOND at, "
        f"MD5(CONCAT('filled', n)) digits FROM (SELECT %(first)s + n n FROM {_NUMBERS} every) some "
        "WHERE n < %(end)s) moments) stamped ORDER BY n"
    ),
)


def _event_rows(table: str, more: str, values: str, path: Sequence[str]) -> str:
    steps = " UNION ALL ".join(f"SELECT {seq} seq, '{status}' status" for seq, status in enumerate(path, start=1))
    return (
        f"INSERT INTO {table} (order_id, seq, status, created_at{more}) SELECT order_id, seq, status, "
        f"at + INTERVAL seq * 5000 MICROSECOND{values} FROM staged JOIN ({steps}) steps ORDER BY n, seq"
    )


# By service: what it has of the staged orders.
ROWS: Mapping[str, Sequence[str]] = {
    "order": (
        (
            "INSERT INTO orders (order_id, user_id, status, total_amount, currency, payment_method, idempotency_key, "
            f"fingerprint, version, last_seq, created_at, updated_at) SELECT order_id, {_USER}, 'completed', 1999, "
            "'USD', 'tok_ok', CONCAT('filled-', n), digits, 3, 4, at, "
            "at + INTERVAL 20000 MICROSECOND FROM staged ORDER BY n"
        ),
        f"INSERT INTO order_lines (order_id, sku, quantity) SELECT order_id, {_SKU}, 1 FROM staged ORDER BY n",
        _event_rows("order_events", "", "", ("created", "inventory_reserved", "paid", "completed")),
    ),
    "inventory": (
        (
            "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity, order_id, created_at) "
            f"SELECT CONCAT(order_id, ':deduct'), 'deduct', 1, {_SKU}, -1, {UNITS} - 1 - n DIV {SKUS}, order_id, "
            "at + INTERVAL 10000 MICROSECOND FROM staged ORDER BY n"
        ),
    ),
    "payment": (
        (
            "INSERT INTO payments (order_id, payment_id, user_id, amount, currency, payment_method, status, version, "
            f"last_seq, created_at, updated_at) SELECT order_id, {_PAYMENT_ID}, {_USER}, 1999, 'USD', 'tok_ok', "
            "'captured', 2, 2, at + INTERVAL 5000 MICROSECOND, at + INTERVAL 10000 MICROSECOND FROM staged ORDER BY n"
        ),
        _event_rows("payment_events", ", amount", ", 1999", ("pending", "captured")),
        (
            "INSERT INTO sandbox_gateway "
            "(gateway_key, kind, charge_key, amount, currency, approved, reason, created_at) "
            "SELECT CONCAT(order_id, ':charge'), 'charge', CONCAT(order_id, ':charge'), 1999, 'USD', TRUE, NULL, "
            "at + INTERVAL 8000 MICROSECOND FROM staged ORDER BY n"
        ),
    ),
}

# The SKUs, as they are after %(orders)s orders, and their creation. Takes %(start)s, too.
STOCK: Sequence[str] = (
    (
        "INSERT INTO inventory (sku, product_id, quantity, version, created_at) "
        f"SELECT {_SKU}, 'filled', {UNITS} - sold, 1 + sold, %(start)s "
        f"FROM (SELECT n, (%(orders)s - n + {SKUS} - 1) DIV {SKUS} sold FROM {_NUMBERS} every WHERE n < {SKUS}) skus "
        "ORDER BY n"
    ),
    (
        "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity, created_at) "
        f"SELECT CONCAT('filled-', n), 'create', 1, {_SKU}, {UNITS}, {UNITS}, %(start)s "
        f"FROM {_NUMBERS} every WHERE n < {SKUS} ORDER BY n"
    ),
)
