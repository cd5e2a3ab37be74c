"""How is a database copied as it is at one moment, while others write to it, and how is a copy taken into use?

SQLite: its own backup of pages, within one reader's snapshot, so that writers neither wait nor make it begin anew.
PostgreSQL: its own pg_dump and pg_restore.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.archive import BackupRefused, Told
from memory.adapters.sql.changes import THIS_TRANSACTION
from memory.adapters.sql.failures import translated
from memory.adapters.sql.migrate import config
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine
from memory.adapters.sql.tables import changes, followers, operations, tenants, turns
from memory.domain.changes import ChangeKind

_PAGES = 2_048
"""Of 4 KiB, between two looks at how far it is."""
_PATIENCE = 60.0
_GLANCE = 0.1
_BEYOND = 1 << 32
"""Changes, of which no database has had as many."""
_MOST_SAID = 1 << 16


def file_of(url: str) -> Path:
    """Of a SQLite database."""
    name = sa.make_url(url).database
    assert name is not None
    return Path(name).resolve()


def copy_sqlite(source: Path, target: Path, told: Told) -> None:
    """A whole database in a new file. Raises BackupRefused, sqlite3.Error."""
    with closing(_opened(source)) as original, closing(sqlite3.connect(target)) as copy:
        (size,) = original.execute("PRAGMA page_size").fetchone()
        original.execute("BEGIN")
        original.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the snapshot
        copy.execute("PRAGMA synchronous = OFF")  # whoever keeps it flushes it
        original.backup(
            copy,
            pages=_PAGES,
            progress=lambda _, left, all_: told("copying the database", (all_ - left) * size, all_ * size),
        )
    check_sqlite(target)


def check_sqlite(file: Path) -> None:
    """Raises BackupRefused for a database that is damaged."""
    with closing(_opened(file)) as database:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise BackupRefused(f"the database {file} is damaged ({found}): take an earlier backup")


def release_sqlite(file: Path) -> None:
    """Whole in its one file afterwards, without a log. Raises BackupRefused when any process has it open."""
    try:
        with closing(_opened(file, patience=0.0)) as database:
            (mode,) = database.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        raise BackupRefused(f"a process uses the database {file} ({error}): stop it first") from error
    if mode != "delete":
        raise BackupRefused(f"a process uses the database {file}: stop it first")


def dump_postgres(url: str, target: Path, told: Told) -> None:
    """One snapshot, by one REPEATABLE READ transaction. Raises BackupRefused."""
    _run("pg_dump", ("--format=custom", "--compress=0", "--no-owner", "--no-privileges"), url, target, told)


def restore_postgres(url: str, dump: Path, told: Told) -> None:
    """Into an empty database: everything, or nothing. Raises BackupRefused."""
    database = str(sa.make_url(url).database)
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", f"--dbname={database}")
    _run("pg_restore", options, url, None, told, str(dump))


async def has_tables(url: str) -> bool:
    """Any, also of others."""
    engine = make_engine(url, DatabaseSettings(pool_size=1))
    try:
        with translated():
            async with engine.connect() as connection:
                return bool(await connection.run_sync(lambda opened: sa.inspect(opened).get_table_names()))
    finally:
        await engine.dispose()


def knows(revision: str) -> bool:
    """Whether this version can bring a database of that schema up to date."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(config()).walk_revisions())


async def begin_anew(url: str) -> None:
    """A restored database has no followers yet, and its change feed begins again.

    What an index elsewhere has followed is of another history. For each tenant the feed begins with a mark: whoever
    comes with a place before it learns that its index is not to be believed. On SQLite, which would give out numbers a
    second time, the mark is beyond all that may have been given out since; on PostgreSQL transactions only go up.
    """
    engine = make_engine(url, DatabaseSettings(pool_size=1))
    try:
        async with engine.begin() as connection:
            for table in (changes, followers, turns):
                await connection.execute(table.delete())
            await _confirm_from_the_start(connection)
            for tenant_id in (await connection.scalars(sa.select(tenants.c.tenant_id))).all():
                mark = await _place(connection) | {"tenant_id": tenant_id, "kind": ChangeKind.RESTORED}
                await connection.execute(changes.insert().values(mark))
    finally:
        await engine.dispose()


async def _confirm_from_the_start(connection: AsyncConnection) -> None:
    """Purges that waited for followers: whoever comes now has nothing of what they removed."""
    unfinished = operations.c.state.in_(["queued", "running"]) & (operations.c.kind == "purge")
    for row in (await connection.execute(sa.select(operations).where(unfinished))).all():
        if row.result and "position" in row.result:
            noted = operations.update().where(operations.c.operation_id == row.operation_id)
            await connection.execute(noted.values(result=row.result | {"position": [0, 0]}))


async def _place(connection: AsyncConnection) -> dict[str, Any]:
    """Of a mark in the feed."""
    if connection.dialect.name == "postgresql":
        return {"xid": THIS_TRANSACTION}
    given_out = await connection.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'changes'"))
    return {"xid": 0, "number": (given_out or 0) + _BEYOND}


def _opened(file: Path, patience: float = _PATIENCE) -> sqlite3.Connection:
    """As it is there, never a new one. Raises sqlite3.OperationalError."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None)


def _run(tool: str, options: Sequence[str], url: str, target: Path | None, told: Told, *arguments: str) -> None:
    command = shutil.which(tool)
    if command is None:
        raise BackupRefused(
            f"{tool} is not installed here: PostgreSQL is backed up by its own tools (Debian: postgresql-client), so"
            " install them, or do it where they are"
        )
    output = () if target is None else (f"--file={target}",)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # no shell, and nothing of a client's in it
            [command, *options, *output, "--no-password", *arguments],
            env=os.environ | _environment(url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            while process.poll() is None:
                told(f"{tool} is at work", target.stat().st_size if target and target.exists() else 0, None)
                time.sleep(_GLANCE)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        lines = said.read(_MOST_SAID).decode(errors="replace").splitlines()
    if process.returncode:
        # One line only: what follows may quote rows.
        why = next((line for line in lines if line.startswith(f"{tool}: error")), f"{tool} does not say why")
        raise BackupRefused(f"{why} (exit status {process.returncode})")


def _environment(url: str) -> dict[str, str]:
    """Where the database is, for PostgreSQL's tools: a password in their arguments could be read by everybody."""
    parsed = sa.make_url(url)
    given = {
        "PGHOST": parsed.host or parsed.query.get("host"),
        "PGPORT": parsed.port or parsed.query.get("port"),
        "PGUSER": parsed.username,
        "PGPASSWORD": parsed.password,
        "PGDATABASE": parsed.database,
        "PGSSLMODE": parsed.query.get("sslmode") or parsed.query.get("ssl"),
    }
    return {name: str(value) for name, value in given.items() if value is not None}
