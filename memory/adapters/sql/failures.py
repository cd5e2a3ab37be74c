"""Which errors of a database pass by themselves? Those are StorageUnavailable: the same call may succeed later."""

import asyncio
import sqlite3

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from memory.domain.errors import StorageUnavailable

# Classes of SQLSTATE: connection, refused (role, database), rollback (deadlock), resources, not now (locks), operator,
# system; 25006 is what a replica answers. https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING = ("08", "28", "3D", "40", "53", "55", "57", "58", "25006")


class translated:
    """Turns the drivers' words for "not now" into StorageUnavailable."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and _passes(error):
            reason = getattr(error, "orig", None) or error or type(error).__name__
            raise StorageUnavailable(f"the database does not answer: {reason}; try again") from error


def _passes(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and _driver_passes(error.orig))
    # Only a failed attempt to connect comes without SQLAlchemy's wrapper.
    refused = (asyncpg.PostgresError, asyncpg.InterfaceError, PoolTimeout, asyncio.TimeoutError, OSError)
    return (isinstance(error, refused) and not isinstance(error, FileNotFoundError)) or _driver_passes(error)


def _driver_passes(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError  # a damaged file
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING)
    # asyncpg's own: the connection is gone, or (as a ValueError) an argument is of no use however often it is tried.
    cause = error.__cause__
    return isinstance(cause, asyncpg.InterfaceError) and not isinstance(cause, ValueError)
