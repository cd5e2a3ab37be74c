"""Writers of one SQLite database, and one that keeps its turn."""

import asyncio

import pytest

from tests.services import NOW


@pytest.fixture
def storage(sqlite):
    return sqlite.open()


async def write(storage, name):
    async with storage.write() as tx:
        await tx.tenants.secret(name, NOW)


async def names(database):
    """In the order in which they were written."""
    return [name for (name,) in await database.rows("SELECT tenant_id FROM tenants ORDER BY rowid")]


class Turn:
    """A writer that keeps its turn until it is told to go on; who starts meanwhile joins its group."""

    def __init__(self, storage, name="first"):
        self.storage, self.name = storage, name
        self.taken, self.go = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self.storage.write() as tx:
            await tx.tenants.secret(self.name, NOW)
            self.taken.set()
            await self.go.wait()

    async def __aenter__(self):
        await self.taken.wait()
        return self

    async def __aexit__(self, *error):
        self.go.set()


async def queued(*writers):
    """Tasks that have come to the queue, in this order."""
    tasks = [asyncio.ensure_future(writer) for writer in writers]
    await asyncio.sleep(0.02)
    return tasks
