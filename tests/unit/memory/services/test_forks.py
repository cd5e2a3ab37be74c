"""A fork shares rows: what it shows, what it never shows, and what is left when one of a family goes."""

import pytest

from memory.bootstrap import build
from memory.domain.context import ContextRequest, Include
from memory.domain.errors import (
    BeyondTheLog,
    EventConflict,
    Forbidden,
    ForkTooDeep,
    IdempotencyConflict,
    NotFound,
    SessionExists,
)
from memory.domain.events import NewEvent, Role
from memory.domain.lineage import MAX_STRETCHES
from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility, NewMemory
from memory.domain.operations import Receipt
from memory.domain.principals import Principal
from memory.domain.recall import FieldTest, FilterOp, RecallRequest, TierName
from memory.settings import Settings
from tests.unit.memory.services.conftest import ME, say, work

ANN, BOB = Principal("default", agent_id="ann"), Principal("default", agent_id="bob")


@pytest.fixture
async def container(tmp_path, models, database_url):
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", database_url=database_url)
    async with build(settings, models=models) as opened:
        yield opened


def fact(text, session_id, **options):
    options = {"visibility": MemoryVisibility.SESSION} | options
    return NewMemory(text, MemoryKind.FACT, session_id=session_id, **options)


async def fork(container, parent, name, at_seq=None, by=ME):
    return (await container.sessions.fork(by, parent, name, at_seq)).session


async def log(container, session_id, by=ME, **options):
    options = {"after_seq": None, "limit": 100} | options
    return [event.content for event in await container.events.page(by, session_id, **options)]


async def recalled(container, query, *session_ids, by=ME, **options):
    wanted = RecallRequest(query, session_ids or None, **options)
    return (await container.recall.recall(by, wanted)).results


async def found(container, query, *session_ids, **options):
    return sorted(result.text for result in await recalled(container, query, *session_ids, **options))


async def rows(container, table):
    from memory.adapters.sql.tables import metadata

    async with container.storage.read() as tx:
        query = metadata.tables[table].select()
        return [tuple(row) for row in await tx.events._db.execute(query)]


async def stored(container):
    return {name: len(await rows(container, name)) for name in ("events", "segments", "clusters", "summaries")}


async def test_a_fork_begins_with_the_parents_log_and_copies_no_row(container, models):
    await say(container, "p", "alpha one", "alpha two", "alpha three")
    await work(container)
    before, embedded = await stored(container), models.embedder.embedded
    session = await fork(container, "p", "f", 2)
    assert (session.last_seq, session.event_count, session.turns) == (2, 2, 2)
    assert (session.token_count, session.shared_tokens) == (4, 4)
    await work(container)
    assert await log(container, "f") == ["alpha one", "alpha two"]
    assert await found(container, "alpha", "f") == ["alpha one", "alpha two"]
    assert await stored(container) == before
    assert models.embedder.embedded == embedded + 1  # the question


async def test_the_two_go_separate_ways(container):
    await say(container, "p", "alpha one", "alpha two")
    await fork(container, "p", "f")
    await say(container, "p", "alpha of the parent")
    answer = await say(container, "f", "alpha of the fork")
    assert answer.first_seq == 3
    await work(container)
    assert await log(container, "p") == ["alpha one", "alpha two", "alpha of the parent"]
    assert await log(container, "f") == ["alpha one", "alpha two", "alpha of the fork"]
    assert await log(container, "f", after_seq=1) == ["alpha two", "alpha of the fork"]
    assert await log(container, "f", descending=True, limit=2) == ["alpha of the fork", "alpha two"]
    assert await log(container, "f", before_seq=3, descending=True, limit=1) == ["alpha two"]
    for tiers in ({TierName.HOT}, {TierName.SEMANTIC}, {TierName.LONGTERM}, set(TierName)):
        tiers = frozenset(tiers)
        assert await found(container, "alpha", "f", tiers=tiers) == ["alpha of the fork", "alpha one", "alpha two"]
        assert await found(container, "alpha", "p", tiers=tiers) == ["alpha of the parent", "alpha one", "alpha two"]


async def test_what_a_family_shares_is_found_once_and_as_what_was_asked_for(container):
    await say(container, "p", "alpha shared", "alpha late")
    await fork(container, "p", "f", 1)
    await fork(container, "f", "g")
    await say(container, "f", "alpha of f")
    for asked in ((), ("p", "f"), ("p", "f", "g"), ("f", "g")):
        results = await recalled(container, "alpha shared", *asked)
        assert [r.text for r in results].count("alpha shared") == 1, asked
    named = {r.text: r.session_id for r in await recalled(container, "alpha", "f")}
    assert named == {"alpha shared": "f", "alpha of f": "f"}
    named = {r.text: r.session_id for r in await recalled(container, "alpha", "p", "g")}
    assert named == {"alpha shared": "p", "alpha late": "p"}
    of_f = FieldTest("session_id", FilterOp.EQ, "f")
    for tiers in ({TierName.HOT}, {TierName.LONGTERM}):
        assert await found(container, "alpha", "f", filter=of_f, tiers=frozenset(tiers)) == [
            "alpha of f",
            "alpha shared",
        ]


async def test_a_fork_of_a_fork_of_the_past(container):
    await say(container, "p", "one", "two", "three")
    await fork(container, "p", "f", 2)
    await say(container, "f", "three of f", "four of f")
    await fork(container, "f", "deep", 3)
    await fork(container, "f", "early", 1)
    await fork(container, "f", "nothing", 0)
    assert await log(container, "deep") == ["one", "two", "three of f"]
    assert await log(container, "early") == ["one"]
    assert await log(container, "nothing") == []
    await say(container, "nothing", "a new beginning")
    assert await log(container, "nothing") == ["a new beginning"]
    assert await found(container, "one two three four beginning", "early") == ["one"]


async def test_what_cannot_be_forked(container):
    await say(container, "p", "one")
    with pytest.raises(BeyondTheLog):
        await fork(container, "p", "f", 2)
    with pytest.raises(NotFound):
        await fork(container, "absent", "f")
    with pytest.raises(NotFound):
        await fork(container, "p", "f", by=Principal("other"))
    with pytest.raises(SessionExists):
        await fork(container, "p", "p")
    with pytest.raises(Forbidden):
        await fork(container, "p", "f", by=Principal("default", session_ids=frozenset({"p"})))
    with pytest.raises(NotFound):
        await container.sessions.get(ME, "f")


async def test_a_chain_of_forks_has_an_end(container):
    await say(container, "s0", "event 0")
    for number in range(1, MAX_STRETCHES + 1):
        await fork(container, f"s{number - 1}", f"s{number}")
        await say(container, f"s{number}", f"event {number}")
    with pytest.raises(ForkTooDeep):
        await fork(container, f"s{MAX_STRETCHES}", "too-deep")
    last = f"s{MAX_STRETCHES}"
    assert await log(container, last) == [f"event {number}" for number in range(MAX_STRETCHES + 1)]
    assert len(await found(container, "event", last, top_k=100)) == MAX_STRETCHES + 1
    await fork(container, last, "not-so-deep", 3)


async def test_ids_and_keys_of_what_was_inherited_are_known(container):
    sent = [NewEvent(Role.USER, "one", event_id="e1")]
    await container.events.append(ME, "p", sent, idempotency_key="k1")
    await container.events.append(ME, "p", [NewEvent(Role.USER, "two", event_id="e2")], idempotency_key="k2")
    await fork(container, "p", "f", 1)
    again = await container.events.append(ME, "f", sent)
    assert (again.repeated, again.first_seq) == (True, 1)
    again = await container.events.append(ME, "f", sent, idempotency_key="k1")
    assert (again.repeated, again.session_id) == (True, "f")
    with pytest.raises(EventConflict):
        await container.events.append(ME, "f", [NewEvent(Role.USER, "other", event_id="e1")])
    with pytest.raises(IdempotencyConflict):
        await container.events.append(ME, "f", [NewEvent(Role.USER, "other")], idempotency_key="k1")
    # what the parent said afterwards is free
    other = [NewEvent(Role.USER, "two of f", event_id="e2")]
    assert not (await container.events.append(ME, "f", other, idempotency_key="k2")).repeated


async def test_private_events_stay_their_agents(container):
    await say(container, "p", "ann: alpha of ann", private=True, by=ANN)
    await say(container, "p", "alpha for all")
    await fork(container, "p", "f")
    assert await log(container, "f", by=ANN) == ["alpha of ann", "alpha for all"]
    assert await log(container, "f", by=BOB) == ["alpha for all"]
    assert await found(container, "alpha", "f", by=BOB) == ["alpha for all"]
    assert await found(container, "alpha", "f", by=ANN) == ["alpha for all", "alpha of ann"]
    wanted = ContextRequest(max_tokens=100, include=Include(recall=False))
    assert [m.content for m in (await container.context.build(ANN, "f", wanted)).messages][-1] == "alpha of ann"
    assert [m.content for m in (await container.context.build(BOB, "f", wanted)).messages] == ["alpha for all"]


async def test_a_fork_sees_the_memories_of_the_past_that_it_shares(container):
    await say(container, "p", "one")
    await container.memories.add(ME, [fact("gamma early", "p")])
    await say(container, "p", "two")
    await container.memories.add(ME, [fact("gamma late", "p")])
    await fork(container, "p", "past", 1)
    await fork(container, "p", "now")
    await container.memories.add(ME, [fact("gamma after", "p"), fact("gamma of now", "now")])
    kinds = frozenset({"fact"})
    assert await found(container, "gamma", "past", kinds=kinds) == ["gamma early"]
    assert await found(container, "gamma", "now", kinds=kinds) == ["gamma early", "gamma late", "gamma of now"]
    assert await found(container, "gamma", "p", kinds=kinds) == ["gamma after", "gamma early", "gamma late"]
    assert {r.session_id for r in await recalled(container, "gamma", "past", kinds=kinds)} == {"past"}
    listed = await container.memories.page(ME, after_key=None, limit=9, session_id="past")
    assert [memory.text for memory in listed] == ["gamma early"]
    bound = Principal("default", session_ids=frozenset({"past"}))
    listed = await container.memories.page(bound, after_key=None, limit=9, session_id="past")
    assert [memory.text for memory in listed] == ["gamma early"]
    assert await found(container, "gamma", by=bound, kinds=kinds) == ["gamma early"]
    view = await container.sessions.get(ME, "now")
    assert view.tiers.longterm_memories == 2 + 3


async def test_the_context_of_a_fork_is_the_parents_byte_for_byte(container):
    await say(container, "p", "be brief", role=Role.SYSTEM)
    for turn in range(12):
        await say(container, "p", f"question {turn} " + "word " * 30)
    await fork(container, "p", "f")
    for budget in (120, 300, 2_000):
        wanted = ContextRequest(max_tokens=budget, include=Include(recall=False))
        parent, child = [await container.context.build(ME, name, wanted) for name in ("p", "f")]
        assert child.messages == parent.messages
        assert child.tokens == parent.tokens
    await say(container, "f", "and another")
    wanted = ContextRequest(max_tokens=2_000, query="question 3", include=Include())
    grown = await container.context.build(ME, "f", wanted)
    assert grown.messages[: len(parent.messages)] == parent.messages
    assert not grown.sources or all(source.session_id == "f" for source in grown.sources)


async def test_summaries_of_what_is_shared_are_made_once(container):
    for turn in range(40):
        await say(container, "p", f"The key number {turn} lies under stone {turn}. " + "word " * 200)
    wanted = ContextRequest(max_tokens=2_000, include=Include(recall=False))
    parent = await container.context.build(ME, "p", wanted)
    before = len(await rows(container, "summaries"))
    assert before
    await fork(container, "p", "f")
    assert (await container.context.build(ME, "f", wanted)).messages == parent.messages
    assert len(await rows(container, "summaries")) == before


async def test_counts_of_a_fork_and_of_its_tenant(container):
    await say(container, "p", *(f"alpha {n}" for n in range(8)))
    await work(container)
    await fork(container, "p", "f", 6)
    await say(container, "f", "beta nine")
    await work(container)
    parent, child = [await container.sessions.get(ME, name) for name in ("p", "f")]
    assert child.forked_from == "p"
    assert parent.forked_from is None
    assert child.tiers.hot_tokens == 14
    assert (parent.tiers.semantic_segments, child.tiers.semantic_segments) == (8, 7)
    assert child.tiers.semantic_clusters >= 2
    overview = await container.admin.overview(ME)
    assert (overview["sessions"], overview["events"], overview["tokens"]) == (2, 9, 18)
    assert not [problem for tier in overview["tiers"] for problem in tier["problems"]]
    shown = await container.admin.session_tiers(ME, "f")
    assert shown["semantic"]["segments"] == 7
    assert sum(cluster["size"] for cluster in shown["semantic"]["clusters"]) == 7
    assert sorted(seq for c in shown["semantic"]["clusters"] for seq in c["seqs"]) == [1, 2, 3, 4, 5, 6, 7]
    hidden = await container.sessions.get(Principal("default", session_ids=frozenset({"f"})), "f")
    assert hidden.forked_from is None


async def test_the_semantic_tier_of_a_fork_keeps_to_its_bound(container):
    await say(container, "p", *(f"alpha {n}" for n in range(150)))
    await work(container)
    await fork(container, "p", "f")
    await say(container, "f", *(f"beta {n}" for n in range(60)))
    await work(container)
    view = await container.sessions.get(ME, "f")
    assert 60 <= view.tiers.semantic_segments <= 100


async def test_a_purged_parent_leaves_to_its_forks_what_they_share(container):
    await say(container, "p", "alpha one", "alpha two", "alpha three", "alpha four")
    await container.memories.add(ME, [fact("alpha fact", "p")])
    await work(container)
    await fork(container, "p", "short", 1)
    await fork(container, "p", "long", 3)
    await say(container, "long", "alpha of long")
    await work(container)
    assert await found(container, "alpha", "long") == ["alpha of long", "alpha one", "alpha three", "alpha two"]
    receipt = await container.forgetting.purge_session(ME, "p")
    assert isinstance(receipt, Receipt)
    assert receipt.verified
    assert (receipt.purged["events"], receipt.purged["memories"]) == (1, 1)
    assert (receipt.kept["events"], receipt.kept["segments"], receipt.kept["vectors"]) == (3, 3, 3)
    assert receipt.kept_for == ("long", "short")
    with pytest.raises(NotFound):
        await container.sessions.get(ME, "p")
    for _ in range(2):
        assert await log(container, "short") == ["alpha one"]
        assert await log(container, "long") == ["alpha one", "alpha two", "alpha three", "alpha of long"]
        assert await found(container, "alpha", "short") == ["alpha one"]
        assert await found(container, "alpha", "long") == ["alpha of long", "alpha one", "alpha three", "alpha two"]
        assert await found(container, "alpha") == ["alpha of long", "alpha one", "alpha three", "alpha two"]
        await work(container)
    view = await container.sessions.get(ME, "long")
    assert (view.forked_from, view.tiers.semantic_segments, view.session.last_seq) == (None, 4, 4)
    assert not await container.longterm.verify("default")
    receipt = await container.forgetting.purge_session(ME, "long", cascade=True)
    assert isinstance(receipt, Receipt)
    assert (receipt.purged["events"], receipt.kept["events"], receipt.kept_for) == (3, 1, ("short",))
    assert await found(container, "alpha") == ["alpha one"]
    receipt = await container.forgetting.purge_session(ME, "short")
    assert isinstance(receipt, Receipt)
    assert (receipt.purged["events"], receipt.kept) == (1, {})
    assert set((await stored(container)).values()) == {0}
    assert await found(container, "alpha") == []
    assert not await container.longterm.verify("default")


async def test_a_parent_made_again_is_no_part_of_its_former_forks(container):
    await say(container, "p", "alpha one")
    await fork(container, "p", "f")
    await container.forgetting.purge_session(ME, "p")
    await say(container, "p", "alpha anew")
    assert await log(container, "f") == ["alpha one"]
    assert await found(container, "alpha", "f") == ["alpha one"]
    await container.forgetting.purge_session(ME, "p", cascade=True)
    assert await log(container, "f") == ["alpha one"]


async def test_a_cascade_takes_forks_and_theirs_and_no_one_else(container):
    await say(container, "g", "alpha one")
    await fork(container, "g", "p")
    await say(container, "p", "alpha two")
    await fork(container, "p", "f")
    await say(container, "f", "alpha three")
    await fork(container, "f", "ff")
    bound = Principal("default", session_ids=frozenset({"p", "f"}))
    with pytest.raises(Forbidden):
        await container.forgetting.purge_session(bound, "p", cascade=True)
    receipt = await container.forgetting.purge_session(ME, "p", cascade=True)
    assert isinstance(receipt, Receipt)
    assert (receipt.purged["events"], receipt.kept) == (2, {})
    assert await found(container, "alpha") == ["alpha one"]
    for gone in ("p", "f", "ff"):
        with pytest.raises(NotFound):
            await container.sessions.get(ME, gone)
    assert await log(container, "g") == ["alpha one"]


async def test_a_purged_fork_takes_nothing_of_the_parent(container):
    await say(container, "p", "alpha one")
    await container.memories.add(ME, [fact("alpha fact", "p")])
    await fork(container, "p", "f")
    await say(container, "f", "alpha two")
    await fork(container, "f", "ff")
    receipt = await container.forgetting.purge_session(ME, "f")
    assert isinstance(receipt, Receipt)
    assert (receipt.purged["events"], receipt.kept["events"], receipt.kept_for) == (0, 1, ("ff",))
    assert await log(container, "p") == ["alpha one"]
    assert await log(container, "ff") == ["alpha one", "alpha two"]
    assert (await container.sessions.get(ME, "ff")).forked_from == "p"
    assert await found(container, "alpha", "p") == ["alpha fact", "alpha one"]
    assert await found(container, "alpha", "ff") == ["alpha fact", "alpha one", "alpha two"]


async def test_memories_stay_with_the_forks_that_see_them_unless_their_source_goes(container):
    for number in (1, 2):
        await container.events.append(ME, "p", [NewEvent(Role.USER, f"alpha {number}", event_id=f"e{number}")])
        source = MemorySource("p", (f"e{number}",))
        new = [fact(f"beta {number}", "p", source=source)]
        new.append(fact(f"delta {number}", None, visibility=MemoryVisibility.TENANT, source=source))
        await container.memories.add(ME, new)
    await fork(container, "p", "f", 1)
    await container.forgetting.purge_session(ME, "p")
    kinds = frozenset({"fact"})
    assert await found(container, "beta delta", "f", kinds=kinds) == ["beta 1", "delta 1"]
    assert await found(container, "beta delta", kinds=kinds) == ["beta 1", "delta 1"]
    listed = await container.memories.page(ME, after_key=None, limit=9)
    assert [(m.text, m.source.session_id) for m in listed] == [("delta 1", "f"), ("beta 1", "f")]
    await container.forgetting.purge_session(ME, "f")
    assert await container.memories.page(ME, after_key=None, limit=9) == []


async def test_a_backlog_of_a_purged_parent_is_indexed_as_the_heirs(container):
    await say(container, "p", "alpha one", "alpha two")
    await fork(container, "p", "f", 1)
    async with container.storage.read() as tx:
        (late,) = await tx.operations.page("default", states=None, after_id=None, limit=9)
    await container.forgetting.purge_session(ME, "p")
    for step in (container.consolidation.consolidate, container.consolidation.embed, container.consolidation.evict):
        await step(late.operation_id)
    assert await rows(container, "segments") == []
    await work(container)
    assert len(await rows(container, "segments")) == 1
    view = await container.sessions.get(ME, "f")
    assert view.tiers.semantic_segments == 1
    assert await found(container, "alpha", "f", tiers=frozenset({TierName.SEMANTIC})) == ["alpha one"]
