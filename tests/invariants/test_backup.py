"""I2 after a restore: an index that knows a later history than the database is not believed, wherever it was kept."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from memory.bootstrap.backups import back_up, restore
from memory.domain.principals import Principal
from memory.settings import Settings
from tests.invariants.worlds import World, settings_in, world

ME = Principal("default", agent_id="ann")
OLD = [f"the old bicycle number {n}" for n in range(5)]
LOST = [f"the lost bicycle number {n}" for n in range(9)]
NEW = [f"the new bicycle number {n}" for n in range(3)]
"""Fewer than what is lost: the keys of rows are given out a second time, and not all of them."""


def untold(what: str, done: int, total: int | None) -> None: ...


async def texts(small: World) -> set[str]:
    assert not await small.container.longterm.verify("default")
    return {result.text for result in await small.find(ME, "bicycle", top_k=50)}


def live_on(settings: Settings, file: Path) -> None:
    """Says something, saves it all, says more, and has that in its index."""
    with world(settings.data_dir, database_url=settings.database_url) as small:

        async def lives_on() -> None:
            await small.say(ME, "s", *OLD)
            await small.index("default")
            await back_up(settings, file, "1", untold)  # beside the open container
            await small.say(ME, "s", *LOST)
            await small.index("default")
            assert await texts(small) == {*OLD, *LOST}
            await small.container.longterm.save()

        small.run(lives_on())


def begin_again(settings: Settings) -> None:
    with world(settings.data_dir, database_url=settings.database_url) as small:

        async def begins_again() -> None:
            assert await texts(small) == set(OLD)
            await small.say(ME, "s", *NEW)
            await small.index("default")
            assert await texts(small) == {*OLD, *NEW}

        small.run(begins_again())


def test_what_was_said_after_the_backup_is_not_found_after_the_restore(tmp_path: Path) -> None:
    settings, file, aside = settings_in(tmp_path / "data"), tmp_path / "backup.tar.gz", tmp_path / "aside"
    live_on(settings, file)
    shutil.copytree(settings.data_dir / "index", aside)
    asyncio.run(restore(settings, file, untold, replace=True))
    begin_again(settings)
    shutil.rmtree(settings.data_dir / "index")
    shutil.move(aside, settings.data_dir / "index")  # somebody had kept it, and brings it back
    with world(settings.data_dir) as small:
        assert small.run(texts(small)) == {*OLD, *NEW}


def test_a_node_that_was_away_does_not_believe_its_index(tmp_path: Path, new_postgres: Callable[[], str]) -> None:
    away, file = settings_in(tmp_path / "away", database_url=new_postgres()), tmp_path / "backup.tar.gz"
    live_on(away, file)
    there = settings_in(tmp_path / "there", database_url=new_postgres())
    asyncio.run(restore(there, file, untold))
    begin_again(there)
    with world(away.data_dir, database_url=there.database_url) as small:
        assert small.run(texts(small)) == {*OLD, *NEW}
