"""Optimistic writes: a row carries a version, and who does not hold the version that was read has lost."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from common.errors import DatabaseUnavailable, ServiceError
from common.transaction import StaleVersion, Transaction


class LostRace(Exception):
    """Somebody else has moved the row since it was read."""


class VersionedRow(Protocol):
    @property
    def version(self) -> int: ...

    @property
    def updated_at(self) -> datetime: ...


Row = TypeVar("Row", bound=VersionedRow)


class VersionedMove(Protocol[Row]):
    """A change that was decided on, of the row ``key`` as it was when it had ``version``."""

    @property
    def key(self) -> str: ...

    @property
    def version(self) -> int: ...

    def taken(self, now: datetime) -> Row:
        """The row as it is once the move was written."""

    def led_to(self, row: Row) -> bool:
        """Whether the row is as this move, and no other one, leaves it."""


Move = TypeVar("Move", bound=VersionedMove[Any])


async def write_moves(
    tx: Transaction,
    moves: Sequence[Move],
    *,
    write: Callable[[Transaction, Sequence[Move]], Awaitable[dict[str, Row]]],
    lock_free: Callable[[Transaction, Collection[str]], Awaitable[dict[str, Row]]],
) -> list[Row | LostRace | ServiceError]:
    """Write moves in one transaction, and at first take for granted that all of them win.

    Outcomes: the row as it is now, LostRace, or DatabaseUnavailable if somebody else holds it.

    :param write: writes and commits, in one round trip, and returns the rows by their keys; raises StaleVersion when
        one of them has another version than was read
    :param lock_free: locks those rows that nobody else holds
    """
    if not tx.is_rerun and len({move.key for move in moves}) == len(moves):
        try:
            return [*(await write(tx, moves)).values()]
        except StaleVersion:
            tx.start_again()
    found = await lock_free(tx, [move.key for move in moves])
    winners = _winners(moves, found)
    moved = await write(tx, list(winners.values()))
    return [
        moved[move.key] if winners.get(move.key) is move else _not_moved(tx, move, found.get(move.key))
        for move in moves
    ]


def _winners(moves: Sequence[Move], found: dict[str, Row]) -> dict[str, Move]:
    """Those that hold the version that they read; of two of one row the earlier one."""
    winners: dict[str, Move] = {}
    for move in moves:
        row = found.get(move.key)
        if row is not None and row.version == move.version:
            winners.setdefault(move.key, move)
    return winners


def _not_moved(tx: Transaction, move: VersionedMove[Row], row: Row | None) -> Row | LostRace | ServiceError:
    if row is None:
        return DatabaseUnavailable(f"Somebody else holds {move.key}.", retry_after_s=1)
    if tx.was_lost and move.led_to(row):
        # Our own COMMIT took effect, and only its reply got lost.
        return move.taken(row.updated_at)
    return LostRace(move.key)
