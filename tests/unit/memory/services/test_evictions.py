import pytest

from memory.domain.errors import NotFound
from memory.domain.moves import PolicyName, Reason
from memory.domain.principals import Principal
from memory.domain.recall import RecallRequest, TierName
from memory.domain.sessions import NewSession
from memory.services.evictions import Wanted
from memory.tiers.economy import SEGMENT, TOKEN
from tests.unit.memory.services.conftest import ME, say, work

ANN = Principal("default", agent_id="ann")


async def moves(container, session_id=None, by=ME, **options):
    return await container.evictions.page(by, session_id, **({"before_key": None, "limit": 500} | options))


async def filled(container, session_id="s", turns=40, semantic_turns=10):
    await container.sessions.create(ME, NewSession(session_id, semantic_turns=semantic_turns))
    await say(container, session_id, *[f"the cat number {n} sat on mat {n * n}" for n in range(turns)])
    await work(container)


def reasons(found):
    return {move.what.reason for move in found}


async def held(container, session_id="s"):
    return (await container.sessions.get(ME, session_id)).tiers.semantic_segments


async def test_all_that_came_in_and_went_is_written_down(container):
    await filled(container)
    found = await moves(container, "s")
    came = sum(move.what.pieces for move in found if move.what.target is TierName.SEMANTIC)
    went = sum(move.what.pieces for move in found if move.what.origin is TierName.SEMANTIC)
    passed = sum(move.what.pieces for move in found if move.what.reason is Reason.PASSED_BY)
    assert came + passed == 40
    assert came - went == await held(container) == 10
    assert Reason.FOUNDED in reasons(found)
    assert reasons(found) >= {Reason.LEAST_VALUE} or reasons(found) >= {Reason.REDUNDANT}
    assert [move.move_key for move in found] == sorted((move.move_key for move in found), reverse=True)


async def test_each_that_left_says_why(container):
    await filled(container)
    left = [move.what for move in await moves(container) if move.what.origin is TierName.SEMANTIC]
    assert left
    for what in left:
        assert what.parts is not None
        assert what.score == pytest.approx(
            what.parts.recency + what.parts.use + what.parts.importance + what.parts.cost + what.parts.redundancy,
            abs=1e-5,
        )
        assert (what.size, what.unit, what.pieces) == (SEGMENT.bytes, "bytes", 1)


async def test_evicted_is_not_lost(container):
    await filled(container)
    left = next(m.what for m in await moves(container) if m.what.origin is TierName.SEMANTIC)
    wanted = f"the cat number {left.first_seq - 1} sat on mat {(left.first_seq - 1) ** 2}"
    answer = await container.recall.recall(ME, RecallRequest(wanted))
    assert answer.results[0].text == wanted
    assert answer.results[0].tier is not TierName.SEMANTIC


async def test_working_again_writes_nothing_down_twice(container):
    await filled(container)
    before = await moves(container)
    async with container.storage.write() as tx:
        await tx.operations.enqueue(
            "default", "index", "session:1", container.clock.now(), session_key=1, unit="events"
        )
    await work(container)
    assert await moves(container) == before


async def test_what_slid_out_of_the_window_is_written_down_once(container):
    await container.sessions.create(ME, NewSession("s", window_tokens=1_024))
    for _ in range(2):
        await say(container, "s", *["word " * 200] * 8)
        await work(container)
    slid = [m.what for m in await moves(container) if m.what.reason is Reason.WINDOW_SLID]
    view = await container.sessions.get(ME, "s")
    assert sum(what.size for what in slid) == view.session.shared_tokens - view.tiers.hot_tokens
    first, last = slid[-1], slid[0]
    assert first.first_seq == 1
    assert [what.first_seq for what in slid[:-1]] == [what.last_seq + 1 for what in slid[1:]]
    assert (last.unit, last.origin, last.target) == ("tokens", TierName.HOT, TierName.SEMANTIC)


async def test_a_recall_keeps_what_it_found(container):
    """Old, but it was asked for: the policy hears of it, once for many reads."""
    await filled(container, turns=10)
    for _ in range(3):
        await container.recall.recall(ME, RecallRequest("the cat number 0 sat on mat 0", top_k=1))
    await container.recall._usage.flush()
    async with container.storage.read() as tx:
        session = await tx.sessions.get("default", "s")
        kept = await tx.segments.held(session.session_key, container.embedder.space)
    (used,) = [segment for segment in kept if segment.uses]
    assert (used.seq, used.uses, used.used_seq) == (1, 3, 10)
    fifo = await container.evictions.preview(ME, Wanted("s", policy=PolicyName.FIFO, capacity=5))
    ours = await container.evictions.preview(ME, Wanted("s", capacity=5))
    assert fifo.leaving[0].first_seq == 1
    assert 1 not in {candidate.first_seq for candidate in ours.leaving}


@pytest.mark.parametrize("policy", list(PolicyName))
async def test_a_preview_shows_what_would_go_and_changes_nothing(container, policy):
    await filled(container)
    before = await moves(container)
    shown = await container.evictions.preview(ME, Wanted("s", policy=policy, capacity=4))
    assert (shown.held, shown.would_leave, shown.capacity, shown.unit) == (10, 6, 4, "segments")
    assert len(shown.leaving) == 6
    assert all((candidate.parts is not None) == (policy is PolicyName.LRU_SIMILARITY) for candidate in shown.leaving)
    assert await held(container) == 10
    assert await moves(container) == before
    assert shown == await container.evictions.preview(ME, Wanted("s", policy=policy, capacity=4))


async def test_a_preview_without_a_capacity_is_of_what_the_session_may_hold(container):
    await filled(container)
    shown = await container.evictions.preview(ME, Wanted("s"))
    assert (shown.capacity, shown.held, shown.would_leave, shown.leaving) == (10, 10, 0, ())


async def test_what_a_preview_says_is_what_happens(container):
    await filled(container, turns=12, semantic_turns=12)
    shown = await container.evictions.preview(ME, Wanted("s", capacity=8))
    async with container.storage.write() as tx:
        session = await tx.sessions.get("default", "s")
        await tx.sessions.update(session, {"semantic_turns": 8}, container.clock.now())
    await container.admin._semantic.evict("default", session.session_key)
    left = [move.what.first_seq for move in await moves(container) if move.what.origin is TierName.SEMANTIC]
    assert left[::-1] == [candidate.first_seq for candidate in shown.leaving]


async def test_a_preview_of_the_window_shows_whole_ranges_from_its_beginning(container):
    await container.sessions.create(ME, NewSession("s", window_tokens=4_096))
    await say(container, "s", *["word " * 200] * 10)
    await work(container)
    shown = await container.evictions.preview(ME, Wanted("s", TierName.HOT, capacity=1_024))
    assert (shown.unit, shown.policy, shown.capacity) == ("tokens", PolicyName.FIFO, 1_024)
    assert shown.price == TOKEN.per_byte
    assert shown.leaving[0].first_seq == 1
    assert shown.held - sum(candidate.size for candidate in shown.leaving) <= 1_024
    assert reasons_of(shown) == {Reason.WINDOW_SLID}
    scores = [candidate.score for candidate in shown.leaving]
    assert scores == sorted(scores)
    whole = await container.evictions.preview(ME, Wanted("s", TierName.HOT))
    assert (whole.would_leave, whole.held) == (0, shown.held)


def reasons_of(shown):
    return {candidate.reason for candidate in shown.leaving}


async def test_long_term_gives_up_nothing_and_says_so(container):
    await filled(container)
    shown = await container.evictions.preview(ME, Wanted("s", TierName.LONGTERM, capacity=1))
    assert (shown.held, shown.would_leave, shown.leaving) == (40, 0, ())
    assert "purged" in shown.note


async def test_private_events_are_not_shown_to_others(container):
    await container.sessions.create(ME, NewSession("s", semantic_turns=3))
    for n in range(8):
        await say(container, "s", f"the shared cat {n}", by=ANN)
        await say(container, "s", f"the private dog {n}", by=ANN, private=True)
    await work(container)
    mine = await moves(container, by=ANN)
    assert {move.what.audience for move in mine} == {"session", "private:ann"}
    for other in (ME, Principal("default", agent_id="bob")):
        assert {move.what.audience for move in await moves(container, by=other)} == {"session"}
        shown = await container.evictions.preview(other, Wanted("s", capacity=0))
        assert shown.held < (await container.evictions.preview(ANN, Wanted("s", capacity=0))).held
        assert all(one.first_seq % 2 == 1 for one in shown.leaving)
        assert all(one.like_seq is None or one.like_seq % 2 == 1 for one in shown.leaving)


async def test_what_a_key_does_not_reach_does_not_exist_for_it(container):
    await filled(container)
    await filled(container, "t")
    bound = Principal("default", session_ids=frozenset({"t"}))
    assert {move.session_id for move in await moves(container, by=bound)} == {"t"}
    assert await moves(container, by=Principal("other")) == []
    for refused in (bound, Principal("other")):
        with pytest.raises(NotFound):
            await moves(container, "s", by=refused)
        with pytest.raises(NotFound):
            await container.evictions.preview(refused, Wanted("s"))


async def test_a_purged_session_takes_its_moves_along_and_the_receipt_counts_them(container):
    await filled(container)
    await filled(container, "t")
    there = len(await moves(container, "s"))
    receipt = await container.forgetting.purge_session(ME, "s")
    assert receipt.purged["moves"] == there
    assert {move.session_id for move in await moves(container)} == {"t"}


async def test_moves_are_forgotten_like_finished_operations(container):
    await filled(container)
    await container.upkeep.tidy()
    assert await moves(container)
    container.upkeep._retention *= 0
    await container.upkeep.tidy()
    assert not await moves(container)
