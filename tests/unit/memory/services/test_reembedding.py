"""Another embedding model, over both databases and with the indexes of the service."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from memory.bootstrap import build
from memory.domain.errors import Conflict, SpaceChanged
from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility, NewMemory
from memory.domain.operations import UNFINISHED, OperationKind, OperationState
from memory.domain.recall import RecallRequest, TierName
from memory.services import filling
from memory.settings import Settings
from memory.testing import WordHashEmbedder, WordTokenizer
from tests.unit.memory.services.conftest import ME, Models, say, work

OLD, NEW = "word-hash-64", "word-hash-96"
TENANT = "default"


def models(dimensions):
    return Models(WordHashEmbedder(dimensions), WordTokenizer())


class Service:
    """Starts containers on one database, each with the embedder that is configured by then."""

    def __init__(self, stack, folder, url):
        self.stack, self.folder, self.url, self.started = stack, folder, url, 0

    async def start(self, dimensions, *former, node=None, serving=True):
        settings = Settings(_env_file=None, data_dir=self.folder, database_url=self.url, node=node)
        loaded = {f"word-hash-{d}": models(d) for d in former}
        stack = AsyncExitStack()
        built = build(settings, models(dimensions), former=loaded, serving=serving)
        container = await stack.enter_async_context(built)
        self.stack.push_async_exit(stack)
        return container, stack

    async def once(self, dimensions, *former, **options):
        container, _ = await self.start(dimensions, *former, **options)
        return container


@pytest.fixture
async def service(tmp_path, database_url):
    async with AsyncExitStack() as stack:
        yield Service(stack, tmp_path, database_url)


@pytest.fixture
async def filled(service):
    """Thirty events and ten memories, embedded with the old model; the process has stopped."""
    container, stack = await service.start(64)
    await say(container, "s", *[f"remark number {n} about thing{n % 7}" for n in range(30)])
    new = [NewMemory(f"note {n} about plan{n % 5}", MemoryKind.NOTE, MemoryVisibility.TENANT) for n in range(10)]
    await container.memories.add(ME, new)
    await work(container)
    await stack.aclose()
    return service


async def operations(container, *states):
    found = await container.operations.page(ME, states=states or None, after_id=None, limit=99)
    return [one for one in found if one.kind is OperationKind.REEMBED]


def worker_of(container):
    """What would run beside it, with the same models."""
    own = Models(container.embedder, container.tokenizer)
    return build(container.settings, own, former=container.former, serving=False)


async def finish(container):
    (operation,) = await operations(container, *UNFINISHED)
    async with worker_of(container) as worker:
        await worker.reembedding.reembed(operation.operation_id)
    return await container.operations.get(ME, operation.operation_id)


async def followed(container, space=NEW):
    """The process has noticed the move."""
    async with asyncio.timeout(20):
        while container.longterm._spaces.of(TENANT).space != space or container.longterm._moving:
            await asyncio.sleep(0.02)


async def texts(container, query="thing3 remark", **options):
    recalled = await container.recall.recall(ME, RecallRequest(query, **options))
    assert not recalled.degraded
    return [result.text for result in recalled.results]


async def vectors_in(tx, space):
    return await tx.changes.vectors_of(space, await tx.changes.items(TENANT))


async def dense(container, query="thing3 remark"):
    """How many of forty results were compared by their vectors."""
    recalled = await container.recall.recall(ME, RecallRequest(query, top_k=200, explain=True))
    return sum("dense" in result.signals for result in recalled.results)


async def spaces(container):
    async with container.storage.read() as tx:
        served = await tx.spaces.of(TENANT)
        missing = await tx.spaces.count_unfilled(TENANT, NEW)
        return served, missing, await tx.spaces.others(TENANT, served)


async def test_the_old_model_serves_until_the_new_one_has_everything(filled):
    container = await filled.once(96, 64)
    assert container.embedder.space == NEW
    assert await spaces(container) == (OLD, 40, [])
    before = await texts(container)
    assert await dense(container) == 40
    (operation,) = await operations(container, *UNFINISHED)
    assert operation.progress.unit == "items"
    done = await finish(container)
    assert (done.state, done.progress.done, done.progress.total) == (OperationState.SUCCEEDED, 40, 40)
    assert done.result == {"from": OLD, "to": NEW}
    assert await spaces(container) == (NEW, 0, [OLD])
    assert await dense(container) == 40  # whether or not this process has noticed by now: it asks as it answers
    await followed(container)
    assert await dense(container) == 40
    assert set(await texts(container, top_k=3)) == set(before[:3])
    assert container.longterm._spaces.of(TENANT).space == NEW
    assert await container.longterm.verify(TENANT) == []
    assert await operations(container, *UNFINISHED) == []


async def test_nothing_is_done_while_the_model_stays_the_same(filled):
    container = await filled.once(64)
    assert await operations(container) == []
    assert await spaces(container) == (OLD, 40, [])


async def test_what_comes_during_the_change_is_there_in_both(filled, monkeypatch):
    monkeypatch.setattr(filling, "_PAGE", 16)
    container = await filled.once(96, 64)
    (operation,) = await operations(container, *UNFINISHED)
    async with container.storage.write() as tx:
        claimed = await tx.operations.claim(operation.operation_id, container.reembedding._lease, container.clock.now())
    reached = await container.reembedding._filling.fill(claimed, container, 0)
    await say(container, "s", "a late remark about thing3")
    ids = [m.memory_id for m in await container.memories.page(ME, after_key=None, limit=99)]
    await container.memories.update(ME, ids[0], {"text": "thing3 was edited late"}, if_match=None)
    await container.forgetting.purge_memory(ME, ids[1])
    await index(container)
    assert "a late remark about thing3" in await texts(container, "late remark thing3", top_k=3)
    async with container.storage.write() as tx:
        await tx.operations.release(operation.operation_id, "killed")
    assert reached is not None
    await finish(container)
    await followed(container)
    assert (await spaces(container))[:2] == (NEW, 0)
    assert await dense(container) == 40
    assert {"a late remark about thing3", "thing3 was edited late"} <= set(await texts(container, "thing3 late"))


async def index(container):
    """Only what the INDEX operations have to do."""
    async with worker_of(container) as worker:
        for operation in await container.operations.page(ME, states=UNFINISHED, after_id=None, limit=9):
            if operation.kind is OperationKind.INDEX:
                for step in ("consolidate", "embed", "evict"):
                    await getattr(worker.consolidation, step)(operation.operation_id)


async def test_what_is_purged_or_edited_while_a_page_is_embedded_does_not_come_back(filled, monkeypatch):
    container = await filled.once(96, 64)
    ids = [m.memory_id for m in await container.memories.page(ME, after_key=None, limit=99)]
    embed = container.embedder.embed

    async def meanwhile(batch):
        monkeypatch.setattr(container.embedder, "embed", embed)
        await container.forgetting.purge_session(ME, "s")
        await container.forgetting.purge_memory(ME, ids[0])
        await container.memories.update(ME, ids[1], {"text": "edited meanwhile"}, if_match=None)
        return await embed(batch)

    monkeypatch.setattr(container.embedder, "embed", meanwhile)
    await finish(container)
    await work_on(container)
    async with container.storage.read() as tx:
        left = await vectors_in(tx, NEW)
        edited = await tx.memories.get(TENANT, ids[1])
        spans = await tx.segments.spans(NEW, [edited.item])
    assert len({vector.item for vector in left}) == 9
    (embedded,) = await embed(["edited meanwhile"])
    assert spans[edited.item][0][1] == embedded.astype("<f2").tobytes()


async def work_on(container):
    await index(container)
    while await operations(container, *UNFINISHED):
        await finish(container)


async def test_a_worker_that_was_killed_is_followed_by_one_that_goes_on_where_it_was(filled, monkeypatch):
    monkeypatch.setattr(filling, "_PAGE", 8)
    first = await filled.once(96, 64, serving=False)
    container = await filled.once(96, 64)
    embed, pages = first.embedder.embed, []

    async def killed(batch):
        pages.append(len(batch))
        if len(pages) == 3:
            raise ZeroDivisionError("as if killed")
        return await embed(batch)

    monkeypatch.setattr(first.embedder, "embed", killed)
    (operation,) = await operations(container, *UNFINISHED)
    with pytest.raises(ZeroDivisionError):
        await first.reembedding.reembed(operation.operation_id)
    (operation,) = await operations(container, *UNFINISHED)
    assert (operation.progress.done, operation.progress.total) == (16, 40)
    before = container.embedder.embedded
    done = await finish(container)
    assert (done.state, done.progress.done) == (OperationState.SUCCEEDED, 40)
    assert container.embedder.embedded - before <= 24
    assert (await spaces(container))[:2] == (NEW, 0)


async def test_two_workers_at_once_fill_everything_once(filled, monkeypatch):
    monkeypatch.setattr(filling, "_PAGE", 8)
    container = await filled.once(96, 64)
    other = await filled.once(96, 64, serving=False)
    (operation,) = await operations(container, *UNFINISHED)
    async with container.storage.write() as tx:
        claimed = await tx.operations.claim(operation.operation_id, container.reembedding._lease, container.clock.now())
    await asyncio.gather(container.reembedding._work(claimed), other.reembedding._work(claimed))
    async with container.storage.read() as tx:
        vectors = await vectors_in(tx, NEW)
        assert await tx.spaces.of(TENANT) == NEW
    assert len(vectors) == len({vector.item for vector in vectors}) == 40


async def test_the_semantic_tier_chooses_anew(filled):
    container = await filled.once(96, 64)
    async with container.storage.read() as tx:
        held = (await tx.segments.counts(TENANT))["held"]
        clusters = await tx.clusters.count(TENANT)
    await finish(container)
    await followed(container)
    async with container.storage.read() as tx:
        counts = await tx.segments.counts(TENANT)
        session = await tx.sessions.get(TENANT, "s")
        of_session = await tx.clusters.of_session(session.session_key)
        now_held = await tx.segments.held(session.session_key, NEW)
    assert counts["held"] == held == len(now_held) > 0
    assert {len(cluster.centroid) for cluster in of_session} == {4 * 96}
    assert clusters > 0
    recalled = await container.recall.recall(ME, RecallRequest("thing3", tiers=frozenset({TierName.SEMANTIC})))
    assert recalled.results
    assert {result.tier for result in recalled.results} == {TierName.SEMANTIC}


async def test_an_old_model_that_is_gone_leaves_words_until_the_new_vectors_come(filled):
    container = await filled.once(96)
    assert await dense(container) == 8  # the newest ones are embedded on the spot
    recalled = await container.recall.recall(ME, RecallRequest("thing3", top_k=5))
    assert "remark number 3 about thing3" in [result.text for result in recalled.results]
    (degraded,) = recalled.degraded
    assert (degraded.tier, OLD in degraded.reason) == ("embedder", True)
    again, stack = await filled.start(96, node="elsewhere")
    assert (await again.recall.recall(ME, RecallRequest("thing3"))).degraded, "whoever starts meanwhile says so, too"
    await stack.aclose()
    assert (await finish(container)).state is OperationState.SUCCEEDED
    await told_again(container)
    assert await dense(container) == 40
    assert await texts(container)
    assert (await spaces(container))[:2] == (NEW, 0)


async def told_again(container):
    async with asyncio.timeout(20):
        while container.longterm._spaces.left_to_words(TENANT):
            await asyncio.sleep(0.02)


async def test_a_process_without_the_new_model_serves_the_old_vectors_and_says_so(filled):
    stale = await filled.once(64, node="stale")
    before = await texts(stale)
    container = await filled.once(96, 64)
    await finish(container)
    async with asyncio.timeout(20):
        while not stale.longterm._spaces.left_to_words(TENANT):
            await asyncio.sleep(0.02)
    recalled = await stale.recall.recall(ME, RecallRequest("thing3 remark"))
    assert [result.text for result in recalled.results] == before
    assert "STRATAMEM_EMBEDDER" in recalled.degraded[0].reason
    await say(container, "s", "a zebra at last")
    assert (await stale.recall.recall(ME, RecallRequest("zebra"))).results[0].text == "a zebra at last"


async def test_it_is_asked_for_and_shown(filled):
    container = await filled.once(96, 64)
    (begun,) = await operations(container, *UNFINISHED)
    assert (await container.reembedding.request(ME)).operation_id == begun.operation_id
    shown = await container.reembedding.overview(ME)
    assert (shown["space"], shown["configured"], shown["served_here"], shown["items_left"]) == (OLD, NEW, OLD, 40)
    async with container.storage.write() as tx:
        await tx.operations.finish(begun.operation_id, OperationState.FAILED, container.clock.now(), error="no room")
    again = await container.reembedding.request(ME)
    assert again.operation_id != begun.operation_id
    await finish(container)
    with pytest.raises(Conflict, match="STRATAMEM_EMBEDDER"):
        await container.reembedding.request(ME)
    shown = await container.reembedding.overview(ME)
    assert (shown["space"], shown["items_left"], shown["other_spaces"], shown["operation_id"]) == (NEW, 0, [OLD], None)


async def test_going_back_to_the_old_model_calls_it_off(filled):
    container, stack = await filled.start(96, 64)
    (operation,) = await operations(container, *UNFINISHED)
    with pytest.raises(Conflict, match="STRATAMEM_EMBEDDER"):
        await container.operations.cancel(ME, operation.operation_id)
    await stack.aclose()
    container = await filled.once(64)
    assert [one.state for one in await operations(container)] == [OperationState.CANCELLED]
    assert await dense(container) == 40
    async with container.storage.read() as tx:
        assert await tx.spaces.of(TENANT) == OLD


async def test_a_third_model_takes_the_place_of_the_second(filled, monkeypatch):
    monkeypatch.setattr(filling, "_PAGE", 8)
    container, stack = await filled.start(96, 64)
    (operation,) = await operations(container, *UNFINISHED)
    async with container.storage.write() as tx:
        claimed = await tx.operations.claim(operation.operation_id, container.reembedding._lease, container.clock.now())
    await container.reembedding._filling.fill(claimed, container, 0)
    async with container.storage.write() as tx:
        await tx.operations.release(operation.operation_id, "killed")
    await stack.aclose()
    container = await filled.once(128, 64)
    done = await finish(container)
    assert done.result == {"from": OLD, "to": "word-hash-128"}
    await container.upkeep.tidy()
    async with container.storage.read() as tx:
        assert await tx.spaces.of(TENANT) == "word-hash-128"
        assert await tx.spaces.others(TENANT, "word-hash-128") == []
        assert len(await vectors_in(tx, "word-hash-128")) == 40


async def test_a_worker_with_another_model_leaves_it_to_one_that_has_it(filled):
    stale = await filled.once(64, serving=False)
    container = await filled.once(96, 64)
    (operation,) = await operations(container, *UNFINISHED)
    await stale.reembedding.reembed(operation.operation_id)
    (waiting,) = await operations(container, *UNFINISHED)
    assert NEW in waiting.error
    assert (await finish(container)).state is OperationState.SUCCEEDED


async def test_who_cuts_texts_for_a_space_that_was_left_writes_nothing(filled, monkeypatch):
    """Else what it writes would never get a vector in the new one."""
    worker = await filled.once(96, 64, serving=False)
    container = await filled.once(96, 64)
    await say(container, "s", "said just before the move")
    (pending,) = [
        one
        for one in await container.operations.page(ME, states=UNFINISHED, after_id=None, limit=9)
        if one.kind is OperationKind.INDEX
    ]
    hold = worker.consolidation._spaces.hold

    async def moved_meanwhile(tx, tenant_id, space):
        if not await operations(container, OperationState.SUCCEEDED):
            raise asyncio.CancelledError  # the transaction is given up; the move could not wait for it on SQLite
        await hold(tx, tenant_id, space)

    monkeypatch.setattr(worker.consolidation._spaces, "hold", moved_meanwhile)
    with pytest.raises(asyncio.CancelledError):
        await worker.consolidation.consolidate(pending.operation_id)
    await finish(container)
    async with worker.storage.write() as tx:
        with pytest.raises(SpaceChanged):
            await hold(tx, TENANT, OLD)
    await index(container)
    async with container.storage.read() as tx:
        assert len(await vectors_in(tx, NEW)) == 41


async def test_upkeep_drops_the_old_vectors_when_nothing_moves_any_more(filled):
    container = await filled.once(96, 64)
    await container.upkeep.tidy()
    assert (await spaces(container))[2] == []
    await finish(container)
    assert (await spaces(container))[2] == [OLD]
    await container.upkeep.tidy()
    assert (await spaces(container))[2] == []
    async with container.storage.read() as tx:
        assert len(await vectors_in(tx, NEW)) == 40
    await followed(container)
    assert await dense(container) == 40


async def test_a_process_that_was_down_during_the_move_rebuilds_its_index(filled):
    container, stack = await filled.start(96, 64)
    await texts(container)
    await container.longterm.save()
    await stack.aclose()
    worker, stack = await filled.start(96, 64, node="elsewhere")
    await finish(worker)
    await stack.aclose()
    container = await filled.once(96)
    assert await dense(container) == 40
    assert await container.longterm.verify(TENANT) == []


async def test_duplicates_and_sources_live_on(filled):
    container = await filled.once(96, 64)
    source = MemorySource("s", ("e1",))
    tea = "in the long dark afternoons of winter she likes to drink a cup of hot green tea"
    new = NewMemory(tea, MemoryKind.FACT, MemoryVisibility.TENANT, source=source)
    first, _ = await container.memories.add(ME, [new, NewMemory("other", MemoryKind.FACT, MemoryVisibility.TENANT)])
    await index(container)
    await finish(container)
    again = NewMemory(f"{tea} indeed", MemoryKind.FACT, MemoryVisibility.TENANT)
    (second,) = await container.memories.add(ME, [again])
    await index(container)
    marked = await container.memories.get(ME, second.memory.memory_id)
    assert marked.near_duplicate_of == first.memory.memory_id


async def test_what_was_called_off_writes_and_moves_nothing_more(filled, monkeypatch):
    container = await filled.once(96, 64)
    (operation,) = await operations(container, *UNFINISHED)
    embed = container.embedder.embed

    async def called_off(batch):
        async with container.storage.write() as tx:
            await tx.operations.finish(operation.operation_id, OperationState.CANCELLED, container.clock.now())
        return await embed(batch)

    monkeypatch.setattr(container.embedder, "embed", called_off)
    await container.reembedding.reembed(operation.operation_id)
    assert await spaces(container) == (OLD, 40, [])


async def test_a_fork_that_inherits_rows_meanwhile_gets_its_vectors(filled, monkeypatch):
    container = await filled.once(96, 64)
    await container.sessions.fork(ME, "s", "f", None)
    embed = container.embedder.embed

    async def handed_over(batch):
        monkeypatch.setattr(container.embedder, "embed", embed)
        await container.forgetting.purge_session(ME, "s")
        return await embed(batch)

    monkeypatch.setattr(container.embedder, "embed", handed_over)
    await finish(container)
    await followed(container)
    async with container.storage.read() as tx:
        fork = await tx.sessions.get(TENANT, "f")
        left = await tx.spaces.count_unfilled(TENANT, NEW)
        held = await tx.segments.since_turn(fork.session_key, NEW, 0)
    assert (left, held) == (0, 30)
    assert await dense(container) == 40
