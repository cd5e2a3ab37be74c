"""A tenant is moved to another embedding model, over both databases: once, whole, and whatever comes between."""

import asyncio

import pytest

from memory.domain.errors import Conflict, SpaceChanged
from memory.domain.operations import UNFINISHED, OperationKind, OperationState
from memory.services import filling
from tests.unit.memory.services.conftest import ME, say
from tests.unit.memory.services.reembedding.conftest import (
    NEW,
    OLD,
    TENANT,
    dense,
    finish,
    followed,
    index,
    operations,
    spaces,
    texts,
    vectors_in,
)


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
