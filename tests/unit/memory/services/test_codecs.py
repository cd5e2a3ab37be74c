"""Codecs are measured, adopted, used and dropped; whatever happens to codes, the vectors are there."""

import asyncio
import threading
from datetime import timedelta

import numpy as np
import pytest

from memory.adapters.clock import SystemClock
from memory.adapters.codecs.plain import Int8
from memory.adapters.codecs.quantised import product
from memory.adapters.codecs.sealed import SealedCodec
from memory.adapters.jobs.recording import RecordingQueue
from memory.domain.errors import Conflict
from memory.domain.events import EventVisibility
from memory.domain.operations import OperationState
from memory.domain.principals import SHARED, Principal
from memory.services.codecs import Codecs
from memory.services.settings import CodecSettings
from memory.services.tasks import CODEC
from tests.services import NOW, SPACE, TENANT, add_events, add_session, segments_of

DIMENSIONS = 32
ME = Principal(TENANT)
SETTINGS = CodecSettings(enabled=True, least_segments=320, sample=5_000, least_recall=0.6)


class Small:
    """Product quantisation that is content with few vectors."""

    def __init__(self, before_training=lambda: None, size=8):
        self.inner = SealedCodec(product(size))
        self.name, self.least = "pq", 256
        self.before_training = before_training

    def train(self, stretches, goes_on):
        self.before_training()
        return self.inner.train(stretches, goes_on)

    def open(self, codebook, dimensions):
        return self.inner.open(codebook, dimensions)


@pytest.fixture
def jobs():
    return RecordingQueue()


@pytest.fixture
def make(storage, jobs):
    def made(*codecs, settings=SETTINGS, **changes):
        return Codecs(
            storage=storage,
            codecs=codecs or [Small()],
            space=SPACE,
            dimensions=DIMENSIONS,
            jobs=jobs,
            clock=SystemClock(),
            lease=timedelta(seconds=60),
            settings=settings,
            **changes,
        )

    return made


def vectors(count, seed):
    draw = np.random.default_rng(seed)
    near = draw.standard_normal((count, 6)) @ np.random.default_rng(9).standard_normal((6, DIMENSIONS))
    found = near + 0.3 * draw.standard_normal((count, DIMENSIONS))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("<f2")


async def say_cold(storage, session_id="s", count=400, seed=0, private=False):
    """A session whose segments the semantic tier has let go of; their vectors by segment_key."""
    values = {"visibility": EventVisibility.PRIVATE, "agent_id": "ann"} if private else {}
    async with storage.write() as tx:
        session = await tx.sessions.get(TENANT, session_id) or await add_session(tx, session_id)
        events = await add_events(tx, session, *(f"{session_id} {seed} {n}" for n in range(count)), **values)
        await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
        pending = await tx.segments.pending(TENANT, SPACE, session.session_key, count)
        known = {p.segment_key: v for p, v in zip(pending, vectors(count, seed), strict=True)}
        await tx.segments.set_vectors({key: vector.tobytes() for key, vector in known.items()}, NOW)
        await tx.segments.hold(dict.fromkeys(known))
    return session, known


async def run(codecs):
    operation = await codecs.train(ME)
    await codecs.work(operation.operation_id)
    return operation.operation_id


async def state(storage, operation_id):
    async with storage.read() as tx:
        return await tx.operations.by_id(operation_id)


async def test_a_codebook_must_be_worth_its_bytes(storage, make):
    await say_cold(storage)
    done = await state(storage, await run(make(Small(), SealedCodec(Int8()))))
    assert done.result["adopted"] == "int8 1"


async def test_the_smallest_codec_that_keeps_enough_is_adopted_and_used(storage, make):
    session, known = await say_cold(storage)
    codecs = make()
    done = await state(storage, await run(codecs))
    assert done.state is OperationState.SUCCEEDED
    assert done.result["adopted"] == "pq 1"
    assert set(done.result["measured"]) == {"pq"}
    shown = await codecs.overview(ME)
    assert [(c["codec"], c["adopted"]) for c in shown["codebooks"]] == [("pq", True)]
    assert shown["cold"]["coded"] == 384  # twelve full stretches of 32; the rest waits
    assert shown["cold"]["code_bytes"] == 12 * (8 * 32 + 9)
    read = await codecs.read(session.session_key)
    cosines = [read.vectors[key] @ known[key].astype(np.float32) for key in read.vectors]
    assert (len(cosines), read.unreadable) == (384, [])
    assert np.mean(cosines) > 0.9


async def test_what_keeps_too_little_is_not_adopted_and_leaves_its_figure(storage, make):
    await say_cold(storage)
    codecs = make(Small(size=1), settings=CodecSettings(enabled=True, least_segments=320, least_recall=1.0))
    done = await state(storage, await run(codecs))
    assert done.result["adopted"] is None
    (only,) = (await codecs.overview(ME))["codebooks"]
    assert not only["adopted"]
    assert 0 < only["recall_kept"] < 1
    assert await codecs.plan() == 0  # nothing is due until the tenant has twice as many


async def test_a_small_tenant_is_left_alone(storage, make, jobs):
    await say_cold(storage, count=100)
    codecs = make()
    assert await codecs.plan() == 0
    done = await state(storage, await run(codecs))
    assert (done.result["trained_on"], done.result["adopted"]) == (0, None)


async def test_upkeep_promises_what_is_due_once(storage, make, jobs):
    await say_cold(storage)
    codecs = make()
    assert await codecs.plan() == 1
    await codecs.plan()
    assert [name for name, *_ in jobs.sent] == [CODEC]
    assert await make(settings=CodecSettings(enabled=False)).plan() == 0
    with pytest.raises(Conflict):
        await make(settings=CodecSettings(enabled=False)).train(ME)


async def test_old_codes_stay_readable_when_a_tenant_has_outgrown_its_codebook(storage, make):
    session, _ = await say_cold(storage)
    codecs = make()
    await run(codecs)
    await say_cold(storage, seed=1, count=900)
    await run(codecs)
    versions = {c["version"]: c["codes"] for c in (await codecs.overview(ME))["codebooks"] if c["adopted"]}
    assert versions[1] == 12
    assert versions[2] == (1300 - 384) // 32
    read = await codecs.read(session.session_key)
    assert (len(read.vectors), read.unreadable) == (384 + versions[2] * 32, [])


async def test_two_workers_at_once_publish_once(storage, make):
    await say_cold(storage)
    codecs = [make(), make()]
    operation = await codecs[0].train(ME)
    await asyncio.gather(*(one.work(operation.operation_id) for one in codecs))
    shown = await codecs[0].overview(ME)
    assert sorted((c["codec"], c["version"]) for c in shown["codebooks"]) == [("pq", 1)]
    assert shown["cold"]["coded"] == 384


async def test_a_worker_that_lost_its_lease_and_comes_back_changes_nothing(storage, make):
    """Both train; the first to publish ends the operation, the other finds it over."""
    await say_cold(storage)
    codecs = make()
    operation = await codecs.train(ME)
    async with storage.write() as tx:
        late = await tx.operations.claim(operation.operation_id, timedelta(seconds=-1), SystemClock().now())
    await codecs.work(operation.operation_id)
    before = await codecs.overview(ME)
    assert (await codecs._work(late))["trained_on"] == 0
    assert await codecs.overview(ME) == before


async def test_a_crash_in_training_changes_nothing_and_the_next_run_does_it(storage, make):
    await say_cold(storage)

    def full_disk():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        await run(make(Small(full_disk)))
    codecs = make()
    assert (await codecs.overview(ME))["codebooks"] == []
    waiting = await codecs.train(ME)
    assert "No space left" in waiting.error
    await codecs.work(waiting.operation_id)
    assert (await state(storage, waiting.operation_id)).state is OperationState.SUCCEEDED


async def test_a_purge_drops_codes_and_codebooks_with_the_work_on_them(storage, make):
    session, _ = await say_cold(storage)
    await run(make())
    running = await make().train(ME)
    async with storage.write() as tx:
        assert await tx.codebooks.forget(TENANT, NOW) == {"codes": 12, "codebooks": 1}
        await tx.sessions.purge(session.session_key)
    assert (await state(storage, running.operation_id)).state is OperationState.CANCELLED
    assert (await make().overview(ME))["codebooks"] == []


async def test_what_was_being_learned_from_purged_text_is_not_published(storage, make):
    session, _ = await say_cold(storage)
    loop = asyncio.get_running_loop()

    async def purge():
        async with storage.write() as tx:
            await tx.codebooks.forget(TENANT, NOW)
            await tx.sessions.purge(session.session_key)

    codecs = make(Small(lambda: asyncio.run_coroutine_threadsafe(purge(), loop).result(20)))
    await run(codecs)
    assert (await codecs.overview(ME))["codebooks"] == []


async def test_a_damaged_codebook_is_named_and_trained_anew(storage, make, database):
    session, _ = await say_cold(storage)
    codecs = make()
    await run(codecs)
    async with storage.write() as tx:
        (adopted,) = [c for c in await tx.codebooks.all(TENANT, SPACE) if c.adopted]
        body = bytearray(await tx.codebooks.body(adopted.codebook_key))
    body[len(body) // 2] ^= 1
    await database.rows("UPDATE codebooks SET body = :body WHERE body IS NOT NULL", body=bytes(body))
    (named,) = (await codecs.overview(ME))["degraded"]
    assert named["tier"] == "longterm"
    assert "pq 1" in named["reason"]
    read = await codecs.read(session.session_key)
    assert read.vectors == {}
    assert len(read.unreadable) == 12
    assert await codecs.plan() == 1
    done = await state(storage, await run(codecs))
    assert "pq 1" in done.result["damaged"][0]
    assert (await codecs.overview(ME))["degraded"] == []
    assert len((await codecs.read(session.session_key)).vectors) == 384


async def test_private_segments_are_coded_apart_and_never_learned_from(storage, make):
    await say_cold(storage)
    await say_cold(storage, seed=1, count=64, private=True)
    codecs = make()
    done = await state(storage, await run(codecs))
    assert done.result["trained_on"] == 400
    async with storage.read() as tx:
        session = await tx.sessions.get(TENANT, "s")
        audiences = [code.audience for code in await tx.codebooks.codes(session.session_key)]
    assert len(audiences) == 12 + 2
    assert SHARED in audiences
    assert len(set(audiences)) == 2


async def test_a_worker_that_stops_does_not_wait_for_a_training(storage, make):
    await say_cold(storage)
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go_on.wait(20)

    codecs = make(Small(wait))
    operation = await codecs.train(ME)
    working = asyncio.create_task(codecs.work(operation.operation_id))
    await asyncio.to_thread(begun.wait, 20)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(working, 5)
    go_on.set()
    after = await state(storage, operation.operation_id)
    assert (after.state, after.error) == (OperationState.QUEUED, "the worker was stopped")
    assert (await codecs.overview(ME))["codebooks"] == []


async def test_training_ends_soon_when_its_operation_is_cancelled(storage, make):
    await say_cold(storage)
    codecs = make()
    operation = await codecs.train(ME)
    async with storage.write() as tx:
        await tx.operations.finish(operation.operation_id, OperationState.CANCELLED, NOW)
    await codecs.work(operation.operation_id)
    assert (await codecs.overview(ME))["codebooks"] == []
