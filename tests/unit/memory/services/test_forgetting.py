import pytest

from memory.domain.codecs import Code, NewCodebook, Retention
from memory.domain.errors import NotFound
from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility, NewMemory
from memory.domain.operations import Operation, OperationState, Receipt
from memory.domain.principals import Principal
from memory.domain.recall import RecallRequest
from tests.services import NOW
from tests.unit.memory.services.conftest import ME, say, work


def fact(text, **options):
    return NewMemory(text, MemoryKind.FACT, options.pop("visibility", MemoryVisibility.TENANT), **options)


async def found(container, query="secret"):
    return [r.text for r in (await container.recall.recall(ME, RecallRequest(query))).results]


async def test_a_purge_counts_what_went_and_nothing_is_found_again(container):
    await say(container, "s", "a secret word", "another secret")
    await say(container, "other", "no secret at all")
    await container.memories.add(ME, [fact("secret fact", session_id="s")])
    await work(container)
    receipt = await container.forgetting.purge_session(ME, "s")
    assert isinstance(receipt, Receipt)
    assert receipt.verified
    counted = {"events": 2, "memories": 1, "segments": 3, "vectors": 3, "lexical": 3, "kv_blocks": 0}
    assert receipt.purged | counted == receipt.purged
    assert await found(container) == ["no secret at all"]
    with pytest.raises(NotFound):
        await container.sessions.get(ME, "s")
    with pytest.raises(NotFound):
        await container.forgetting.purge_session(ME, "s")


async def test_a_memory_that_was_derived_from_a_purged_session_goes_too(container):
    await say(container, "s", "a secret word")
    source = MemorySource("s", ("e1",))
    await container.memories.add(ME, [fact("derived secret", source=source), fact("independent secret")])
    await container.forgetting.purge_session(ME, "s")
    assert await found(container) == ["independent secret"]


async def test_a_session_made_again_under_its_old_name_begins_anew(container):
    await say(container, "s", "a secret word")
    await container.forgetting.purge_session(ME, "s")
    assert (await say(container, "s", "hello")).first_seq == 1
    assert await found(container) == ["hello"]


async def test_one_memory_is_purged_and_the_others_stay(container):
    one, two = await container.memories.add(ME, [fact("secret one"), fact("secret two")])
    await work(container)
    receipt = await container.forgetting.purge_memory(ME, one.memory.memory_id)
    assert isinstance(receipt, Receipt)
    assert (receipt.purged["memories"], receipt.purged["vectors"]) == (1, 1)
    assert await found(container) == ["secret two"]
    assert (await container.memories.get(ME, two.memory.memory_id)).text == "secret two"


async def test_another_tenants_session_and_another_agents_memory_cannot_be_purged(container):
    await say(container, "s", "a secret word", by=Principal("other"))
    private = fact("my secret", visibility=MemoryVisibility.PRIVATE, agent_id="ann")
    (added,) = await container.memories.add(ME, [private])
    with pytest.raises(NotFound):
        await container.forgetting.purge_session(ME, "s")
    with pytest.raises(NotFound):
        await container.forgetting.purge_memory(Principal("default", agent_id="bob"), added.memory.memory_id)


async def test_a_follower_that_has_not_confirmed_makes_the_purge_an_operation(container, monkeypatch):
    from memory.domain.changes import Position
    from memory.services import erasure

    monkeypatch.setattr(erasure, "_PATIENCE", 0.2)
    await say(container, "s", "a secret word")
    async with container.storage.write() as tx:
        await tx.changes.follow("slow", Position(), container.clock.now())
    pending = await container.forgetting.purge_session(ME, "s")
    assert isinstance(pending, Operation)
    assert pending.state is not OperationState.SUCCEEDED
    assert await found(container) == []
    async with container.storage.write() as tx:
        await tx.changes.follow("slow", await tx.changes.head(), container.clock.now())
    await container.forgetting.finish_purge(pending.operation_id)
    done = await container.operations.get(ME, pending.operation_id)
    assert done.state is OperationState.SUCCEEDED
    assert done.result["verified"] is True
    assert done.result["purged"]["events"] == 1


async def test_a_closed_tenants_files_go_when_something_is_purged_elsewhere(settings, models, tmp_path):
    """A process that does not hold the tenant open still has its words on disk."""
    from memory.bootstrap import build

    async with build(settings, models=models) as container:
        await say(container, "s", "a secret word")
        await work(container)
        await found(container)
    assert any("rows-" in str(path) for path in settings.index_dir.rglob("*"))
    elsewhere = settings.model_copy(update={"node": "elsewhere"})
    async with build(elsewhere, models=models) as container:
        await container.forgetting.purge_session(ME, "s")
    async with build(settings, models=models) as container:
        assert not any("rows-" in str(path) for path in settings.index_dir.rglob("*"))
        assert await found(container) == []


async def test_a_purge_takes_codes_and_codebooks_along(container):
    """Of other sessions, too: nobody can say from which texts an entry of a codebook comes."""
    await say(container, "s", "the cat sat")
    await say(container, "other", "on the mat")
    await work(container)
    async with container.storage.write() as tx:
        retention = Retention(recall=1.0, asked=1, bytes_per_segment=1.0)
        await tx.codebooks.publish("default", container.embedder.space, [NewCodebook("pq", b"body", retention, 2)], NOW)
        (codebook,) = await tx.codebooks.all("default", container.embedder.space)
        for name in ("s", "other"):
            session = await tx.sessions.get("default", name)
            (held,) = await tx.segments.held(session.session_key, container.embedder.space)
            code = Code(codebook.codebook_key, session.session_key, "session", (held.segment_key,), b"code")
            await tx.codebooks.add_codes("default", [code])
    receipt = await container.forgetting.purge_session(ME, "s")
    assert (receipt.purged["codes"], receipt.purged["codebooks"]) == (2, 1)
    again = await container.forgetting.purge_session(ME, "other")
    assert "codes" not in again.purged
