"""The one history of the schema, on both databases: up, down, up again; two at once; the same columns."""

import asyncio
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from memory.adapters.sql import migrate as history
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine
from memory.adapters.sql.tables import metadata
from tests.services import migrate

UPGRADE = """
import asyncio, sys
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage

async def main(url):
    storage = SqlStorage(url, DatabaseSettings())
    print("ready", flush=True)
    sys.stdin.readline()
    await storage.migrate()
    await storage.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'stratamem.db'}"
    return request.getfixturevalue("new_postgres")()


def inspected(url, ask):
    """What a synchronous inspection of the database answers."""

    async def run():
        engine = make_engine(url, DatabaseSettings(pool_size=1))
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(lambda opened: ask(sa.inspect(opened)))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def tables(url):
    return set(inspected(url, lambda found: found.get_table_names()))


def version(url):
    async def run():
        engine = make_engine(url, DatabaseSettings(pool_size=1))
        try:
            async with engine.connect() as connection:
                return (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar_one()
        finally:
            await engine.dispose()

    return asyncio.run(run())


def test_from_nothing_to_the_newest_and_back_and_up_again(empty_url):
    for _ in range(2):
        asyncio.run(migrate(empty_url))
        assert tables(empty_url) == set(metadata.tables) | {"alembic_version"}
        assert version(empty_url) == history.newest()
        asyncio.run(migrate(empty_url, history.downgrade, "base"))
        assert tables(empty_url) == {"alembic_version"}


def test_every_step_goes_down_and_up_by_itself(empty_url):
    steps = [script.revision for script in ScriptDirectory.from_config(history.config()).walk_revisions()][::-1]
    for step in steps:
        asyncio.run(migrate(empty_url, history.upgrade, step))
        assert version(empty_url) == step
    for step in steps[::-1]:
        asyncio.run(migrate(empty_url, history.downgrade, f"{step}@base" if step == steps[0] else "-1"))
    asyncio.run(migrate(empty_url))


def test_upgrading_again_changes_nothing_and_keeps_the_rows(empty_url):
    asyncio.run(migrate(empty_url))

    async def insert(engine):
        async with engine.begin() as connection:
            await connection.execute(sa.text("INSERT INTO followers VALUES ('n', 1, 2, 3)"))

    async def count(engine):
        async with engine.connect() as connection:
            assert (await connection.execute(sa.text("SELECT count(*) FROM followers"))).scalar_one() == 1

    asyncio.run(migrate(empty_url, insert))
    asyncio.run(migrate(empty_url))
    asyncio.run(migrate(empty_url, count))


def test_the_tables_of_the_code_are_those_of_the_history(empty_url):
    asyncio.run(migrate(empty_url))
    asyncio.run(migrate(empty_url, history.check))


def test_the_history_is_one_line_with_dated_names():
    scripts = list(ScriptDirectory.from_config(history.config()).walk_revisions())
    assert len(ScriptDirectory.from_config(history.config()).get_heads()) == 1
    for script in scripts:
        assert script.path.rsplit("/", 1)[-1][:11].replace("_", "").isdigit()


def test_columns_indexes_and_keys_are_the_same_on_both(tmp_path, new_postgres):
    def described(found):
        return {
            table: {
                "columns": [(c["name"], c["nullable"], _kind(c["type"])) for c in found.get_columns(table)],
                "key": found.get_pk_constraint(table)["constrained_columns"],
                "indexes": sorted(
                    (i["name"], tuple(i["column_names"]), bool(i["unique"]))
                    for i in found.get_indexes(table)
                    if not i.get("duplicates_constraint")
                ),
                "unique": sorted((u["name"], tuple(u["column_names"])) for u in found.get_unique_constraints(table)),
                "foreign": sorted(
                    (f["name"], tuple(f["constrained_columns"]), f["referred_table"], tuple(f["referred_columns"]))
                    for f in found.get_foreign_keys(table)
                ),
            }
            for table in metadata.tables
        }

    urls = [f"sqlite:///{tmp_path / 'stratamem.db'}", new_postgres()]
    for url in urls:
        asyncio.run(migrate(url))
    sqlite, postgresql = (inspected(url, described) for url in urls)
    for table in metadata.tables:
        for what, of_sqlite in sqlite[table].items():
            assert of_sqlite == postgresql[table][what], f"{what} of {table}"


def _kind(column_type):
    """What a caller may put in: widths and names differ between the databases."""
    kinds = {
        sa.Boolean: "boolean",
        sa.Integer: "whole",
        sa.Float: "fraction",
        sa.LargeBinary: "bytes",
        sa.JSON: "json",
        sa.String: "text",
    }
    kind = next((kind for base, kind in kinds.items() if isinstance(column_type, base)), repr(column_type))
    return kind, getattr(column_type, "length", None) if kind == "text" else None


def test_processes_that_start_together_migrate_once(empty_url):
    command = [sys.executable, "-c", UPGRADE, empty_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    assert version(empty_url) == history.newest()
    asyncio.run(migrate(empty_url, history.check))


def test_a_migration_that_fails_half_way_leaves_nothing(empty_url):
    """Alembic runs in one transaction on both: the next start finds the schema of before."""

    async def fail(engine):
        def half(connection):
            history.command.upgrade(history.config(connection), "head")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await history._run(engine, half)

    asyncio.run(migrate(empty_url, fail))
    assert tables(empty_url) == set()
    asyncio.run(migrate(empty_url))
