"""What is answered before, during and after a tenant moves to another embedding model, and by whom?"""

import asyncio

from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility, NewMemory
from memory.domain.operations import UNFINISHED, OperationState
from memory.domain.recall import RecallRequest, TierName
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
)


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
