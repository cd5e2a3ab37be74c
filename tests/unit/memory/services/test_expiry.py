"""Time to live: over both databases and with the indexes of the service."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from memory.adapters.clock import SystemClock
from memory.adapters.jobs.recording import RecordingQueue
from memory.bootstrap import build
from memory.domain.errors import NotFound, StorageUnavailable
from memory.domain.forgetting import ForgetPolicy
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.operations import Receipt
from memory.domain.recall import RecallRequest
from memory.services.upkeep import Upkeep
from memory.settings import Settings
from tests.unit.memory.services.conftest import ME as CALLER
from tests.unit.memory.services.conftest import work
from tests.unit.memory.services.world import ME, World


@pytest.fixture
def world(storage):
    return World(storage)


def upkeep(world):
    week = timedelta(days=7)
    return Upkeep(world.storage, RecordingQueue(), world.clock, idle=timedelta(0), retention=week)


async def test_what_has_expired_is_gone_before_its_rows_are(world):
    (short,) = await world.add("short", ttl_seconds=60, pinned=True)
    await world.add("long", ttl_seconds=600)
    world.clock.pass_time(seconds=60)
    with pytest.raises(NotFound):
        await world.get(short)
    with pytest.raises(NotFound):
        await world.history.supersede(ME, short, "longer", None, if_match=None)
    with pytest.raises(NotFound):
        await world.forgetting.purge_memory(ME, short)
    page = await world.memories.page(ME, after_key=None, limit=9)
    assert [memory.text for memory in page] == ["long"]
    assert (await world.policies.preview(ME, ForgetPolicy(keep_top=0))).considered == 1


async def test_upkeep_removes_it_with_all_its_rows(world, database, monkeypatch):
    from memory.services import upkeep as module

    monkeypatch.setattr(module, "_BATCH", 2)
    await world.add(*[f"note {number}" for number in range(5)], ttl_seconds=60)
    await world.add("kept")
    await world.work()
    assert await upkeep(world).expire() == 0
    world.clock.pass_time(minutes=2)
    assert await upkeep(world).expire() == 5
    assert await upkeep(world).expire() == 0
    for table in ("memories", "memory_versions", "segments"):
        assert await database.rows(f"SELECT count(*) FROM {table}") == [(1,)]


async def test_workers_that_expire_at_once_share_it(database):
    worlds = [World(database.open()) for _ in range(3)]
    await worlds[0].add(*[f"note {number}" for number in range(20)], ttl_seconds=1)
    for world in worlds:
        world.clock.pass_time(minutes=1)
    removed = await asyncio.gather(*(upkeep(world).expire() for world in worlds))
    assert sum(removed) == 20


async def test_what_a_reader_kept_in_the_files_goes_at_the_next_time(sqlite):
    world = World(sqlite.open())
    keeping = upkeep(world)
    await world.add("xyzzy marker", ttl_seconds=60)
    world.clock.pass_time(minutes=2)

    def left():
        return [file.name for file in sqlite.file.parent.iterdir() if b"xyzzy" in file.read_bytes()]

    async with world.storage.read() as tx:
        await tx.tenants.ids()
        with pytest.raises(StorageUnavailable):
            await keeping.expire()
    assert left()
    assert await keeping.expire() == 0
    assert not left()


async def test_its_text_and_its_name_are_free_at_once(world):
    (first,) = await world.add("tea", ttl_seconds=60, memory_id="m")
    world.clock.pass_time(minutes=2)
    assert await world.add("coffee", memory_id="m") == ["m"]
    await world.add("milk", ttl_seconds=60)
    world.clock.pass_time(minutes=2)
    (again,) = await world.memories.add(ME, [NewMemory("milk", MemoryKind.FACT, MemoryVisibility.TENANT)])
    assert not again.deduplicated
    assert first == "m"


@pytest.fixture
async def container(tmp_path, models, database_url):
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)
    async with build(settings, models=models) as opened:
        yield opened


@pytest.fixture
def a_minute_later(monkeypatch):
    def pass_time():
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(minutes=1))

    return pass_time


async def test_an_expired_memory_leaves_the_indexes_and_the_past(container, tmp_path, a_minute_later):
    sent = [
        NewMemory("the quixotic password", MemoryKind.FACT, MemoryVisibility.TENANT, ttl_seconds=60),
        NewMemory("the password is kept elsewhere", MemoryKind.FACT, MemoryVisibility.TENANT),
    ]
    await container.memories.add(CALLER, sent)
    await work(container)
    await container.longterm.save()
    before = container.clock.now()

    async def found(as_of=None):
        request = RecallRequest("quixotic password", as_of=as_of)
        return [result.text for result in (await container.recall.recall(CALLER, request)).results]

    assert await found() == ["the quixotic password", "the password is kept elsewhere"]
    a_minute_later()
    for _ in range(2):
        assert await found() == await found(before) == ["the password is kept elsewhere"]
        await container.upkeep.expire()
    await container.longterm._follow()
    async with container.longterm._tenants.using("default") as tenant:
        assert not tenant.index.lexical.holds_term("quixot")
        assert not tenant.index.lexical.holds_term("quixotic")
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"quixotic password" in content for content in files)
    operations = await container.operations.page(CALLER, states=None, after_id=None, limit=9)
    assert {operation.kind for operation in operations} == {"index"}


async def test_a_purge_that_follows_is_verified(container, a_minute_later):
    sent = NewMemory("short lived", MemoryKind.FACT, MemoryVisibility.TENANT, ttl_seconds=60)
    other = NewMemory("to be purged", MemoryKind.FACT, MemoryVisibility.TENANT, memory_id="m")
    await container.memories.add(CALLER, [sent, other])
    a_minute_later()
    await container.upkeep.expire()
    assert isinstance(await container.forgetting.purge_memory(CALLER, "m"), Receipt)
