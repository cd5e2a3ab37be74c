"""One Alembic history, up and down, on both databases."""

import asyncio

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from memory.adapters.sql import migrate
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine
from memory.adapters.sql.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("new_postgres")()


@pytest.fixture
async def engine(empty):
    made = make_engine(empty, DatabaseSettings())
    yield made
    await made.dispose()


async def tables(engine):
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))


async def test_up_down_and_up_again(engine):
    await migrate.upgrade(engine)
    assert await tables(engine) == {*metadata.tables, "alembic_version"}
    await migrate.downgrade(engine, "base")
    assert await tables(engine) == {"alembic_version"}
    await migrate.upgrade(engine)
    assert await tables(engine) == {*metadata.tables, "alembic_version"}


async def test_the_history_makes_exactly_the_tables_of_the_code(engine):
    await migrate.upgrade(engine)
    await migrate.check(engine)


async def test_upgrading_twice_changes_nothing(engine):
    await migrate.upgrade(engine)
    await migrate.upgrade(engine)
    async with engine.connect() as connection:
        versions = (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).scalars().all()
    assert versions == [migrate.newest()]


async def test_two_processes_that_start_together_both_come_up(empty):
    engines = [make_engine(empty, DatabaseSettings()) for _ in range(3)]
    await asyncio.gather(*(migrate.upgrade(engine) for engine in engines))
    assert await tables(engines[0]) == {*metadata.tables, "alembic_version"}
    for engine in engines:
        await engine.dispose()


def test_the_history_has_one_line():
    assert len(ScriptDirectory.from_config(migrate.config()).get_heads()) == 1
