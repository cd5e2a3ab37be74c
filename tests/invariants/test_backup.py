"""I2 after a restore: an index that knows a later history than the database is not believed, wherever it was kept."""

import asyncio
import shutil
from pathlib import Path

import pytest

from memory.bootstrap.backups import back_up, restore
from memory.domain.principals import Principal
from tests.invariants.worlds import World, settings_in, world

ME = Principal("default", agent_id="ann")


def untold(what: str, done: int, total: int | None) -> None: ...


async def texts(small: World, query: str) -> set[str]:
    assert not await small.container.longterm.verify("default")
    return {result.text for result in await small.find(ME, query, top_k=50)}


@pytest.mark.parametrize("kept", [False, True], ids=["removed", "came back"])
def test_what_was_said_after_the_backup_is_not_found_after_the_restore(tmp_path: Path, kept: bool) -> None:
    data, file, aside = tmp_path / "data", tmp_path / "backup.tar.gz", tmp_path / "aside"
    old = [f"the old bicycle number {n}" for n in range(5)]
    with world(data) as small:

        async def lives_on() -> None:
            await small.say(ME, "s", *old)
            await small.index("default")
            await back_up(settings_in(data), file, "1", untold)  # beside the open container
            await small.say(ME, "s", *[f"the lost bicycle number {n}" for n in range(9)])
            await small.index("default")
            assert len(await texts(small, "bicycle")) == 14
            await small.container.longterm.save()

        small.run(lives_on())
    shutil.copytree(data / "index", aside)
    asyncio.run(restore(settings_in(data), file, untold, replace=True))
    new = [f"the new bicycle number {n}" for n in range(3)]
    with world(data) as small:

        async def begins_again() -> None:
            assert await texts(small, "bicycle") == set(old)
            await small.say(ME, "s", *new)
            await small.index("default")

        small.run(begins_again())
    if kept:  # by another node, which was away meanwhile
        shutil.rmtree(data / "index")
        shutil.move(aside, data / "index")
    with world(data) as small:
        assert small.run(texts(small, "bicycle")) == {*old, *new}
