"""What every database keeps to about segments, their vectors, clusters and summaries."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy.exc import IntegrityError

from memory.domain.segments import Cluster, Span
from tests.services import (
    NOW,
    SPACE,
    TENANT,
    add_events,
    add_memory,
    add_session,
    new_segment,
    segments_of,
)


@pytest.fixture
async def said(storage):
    """A session with three events, of one segment each."""
    async with storage.write() as tx:
        session = await add_session(tx)
        events = await add_events(tx, session, "One Ünïcode 🙂 line.", "Two.", "Three.")
        await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
    return events


async def test_pending_segments_come_in_order_with_their_texts(storage, said):
    key = said[0].session_key
    async with storage.read() as tx:
        pending = await tx.segments.pending(TENANT, SPACE, key, 2)
        assert [(p.item, p.seq, p.text) for p in pending] == [(e.item, e.seq, e.content) for e in said[:2]]
        assert pending[0].content_hash == said[0].content.encode()
        assert await tx.segments.pending(TENANT, "another space", key, 9) == []
        assert await tx.segments.pending(TENANT, SPACE, key + 1, 9) == []


async def test_spans_are_cut_by_characters_not_bytes(storage):
    async with storage.write() as tx:
        (event,) = await add_events(tx, await add_session(tx), "a🙂漢b")
        spans = [Span(0, 2), Span(1, 4)]
        segments = [new_segment(event.item, n, session_key=event.session_key, span=s) for n, s in enumerate(spans)]
        await tx.segments.add(TENANT, SPACE, segments, NOW)
        assert [p.text for p in await tx.segments.pending(TENANT, SPACE, event.session_key, 9)] == ["a🙂", "🙂漢b"]
        assert await tx.segments.spans(SPACE, [event.item]) == {event.item: [(span, None) for span in spans]}


async def test_segments_of_memories_and_of_sessions_are_apart(storage, said):
    async with storage.write() as tx:
        memory = await add_memory(tx, "Tea.")
        kept_by_session = {"session_key": said[0].session_key}
        await tx.segments.add(TENANT, SPACE, [new_segment(memory.item, **kept_by_session, span=Span(0, 4))], NOW)
        assert [p.text for p in await tx.segments.pending(TENANT, SPACE, None, 9)] == ["Tea."]
        assert memory.item not in {p.item for p in await tx.segments.pending(TENANT, SPACE, said[0].session_key, 9)}
        assert await tx.segments.pending("other", SPACE, None, 9) == []


async def test_cutting_the_same_event_twice_changes_nothing(storage, said):
    key = said[0].session_key
    async with storage.write() as tx:
        before = await tx.segments.pending(TENANT, SPACE, key, 9)
        await tx.segments.set_vectors({before[0].segment_key: b"12"}, NOW)
        await tx.segments.add(TENANT, SPACE, segments_of(*said), NOW)
        await tx.segments.add(TENANT, SPACE, [], NOW)
        assert await tx.segments.pending(TENANT, SPACE, key, 9) == before[1:]
        assert (await tx.segments.counts(TENANT))["segments"] == 3


async def test_float16_vectors_come_back_bit_by_bit(storage, said):
    vectors = np.array([[0, 1, -1, 65504, 6e-8], [np.inf, np.nan, 0.1, 1 / 3, -0.0], [0] * 5], "<f2")
    async with storage.write() as tx:
        pending = await tx.segments.pending(TENANT, SPACE, said[0].session_key, 9)
        await tx.segments.set_vectors({p.segment_key: v.tobytes() for p, v in zip(pending, vectors, strict=True)}, NOW)
        found = await tx.changes.vectors_of_events(SPACE, said[0].session_key, 1, 3)
        assert b"".join(vector.vector for vector in found) == vectors.tobytes()
        assert [(vector.item, vector.ordinal) for vector in found] == [(event.item, 0) for event in said]
        tier = await tx.segments.newest(said[0].session_key, SPACE, 100)
        assert [segment.vector for segment in tier] == [vector.tobytes() for vector in vectors]


async def test_a_vector_is_set_once(storage, said):
    async with storage.write() as tx:
        (pending,) = await tx.segments.pending(TENANT, SPACE, said[0].session_key, 1)
        await tx.segments.set_vectors({}, NOW)
        await tx.segments.set_vectors({pending.segment_key: b"first", 10**9: b"of nobody"}, NOW)
        await tx.segments.set_vectors({pending.segment_key: b"second"}, NOW)
        found = await tx.segments.vectors_by_hash(TENANT, SPACE, [pending.content_hash, b"unknown"])
        assert found == {pending.content_hash: b"first"}


async def test_known_vectors_never_cross_tenants_or_spaces(storage, said):
    async with storage.write() as tx:
        (pending,) = await tx.segments.pending(TENANT, SPACE, said[0].session_key, 1)
        await tx.segments.set_vectors({pending.segment_key: b"12"}, NOW)
        hashes = [pending.content_hash, *(str(n).encode() for n in range(10_001))]
        assert len(await tx.segments.vectors_by_hash(TENANT, SPACE, hashes)) == 1
        assert await tx.segments.vectors_by_hash("other", SPACE, hashes) == {}
        assert await tx.segments.vectors_by_hash(TENANT, "other", hashes) == {}
        assert await tx.segments.vectors_by_hash(TENANT, SPACE, []) == {}


async def test_the_semantic_tier_takes_in_and_lets_go(storage, said):
    key = said[0].session_key
    items = [event.item for event in said]
    async with storage.write() as tx:
        pending = await tx.segments.pending(TENANT, SPACE, key, 9)
        keys = [p.segment_key for p in pending]
        assert await tx.segments.newest(key, SPACE, 100) == []
        await tx.segments.set_vectors(dict.fromkeys(keys[:2], b"12"), NOW)
        assert [s.segment_key for s in await tx.segments.newest(key, SPACE, 100)] == keys[:2]
        cluster = await tx.clusters.add(key, "session", b"c", 2)
        await tx.segments.hold({})
        await tx.segments.hold({keys[0]: cluster, keys[1]: None})
        (held,) = await tx.segments.held(key, SPACE)
        assert (held.segment_key, held.cluster_key, held.item) == (keys[0], cluster, items[0])
        assert (held.seq, held.turn, held.audience, held.uses) == (1, 1, "session", 0)
        assert held.last_use == NOW.timestamp()
        assert await tx.segments.newest(key, SPACE, 100) == []
        assert await tx.segments.held_items([*items, *range(10**9, 10**9 + 40_000)]) == {items[0]}
        later = NOW + timedelta(hours=1)
        await tx.segments.used(dict.fromkeys([*items, *range(10**9, 10**9 + 4_000)], 1), later)
        (used,) = await tx.segments.held(key, SPACE)
        assert (used.uses, used.last_use) == (1, later.timestamp())
        await tx.segments.unsee(key, "other")
        assert len(await tx.segments.held(key, SPACE)) == 1
        assert await tx.segments.counts(TENANT) == {"segments": 3, "pending": 1, "held": 1}
        assert await tx.segments.counts("nobody") == {"segments": 0, "pending": 0, "held": 0}
        await tx.segments.unsee(key, SPACE)
        await tx.clusters.remove([cluster])
        assert [s.segment_key for s in await tx.segments.newest(key, SPACE, 100)] == keys[:2]
        assert await tx.segments.held(key, SPACE) == []


async def test_a_removed_item_has_no_segments(storage, said):
    async with storage.write() as tx:
        assert await tx.segments.remove_items(said[0].item) == 1
        assert await tx.segments.remove_items(said[0].item) == 0
        assert (await tx.segments.counts(TENANT))["segments"] == 2


async def test_spans_of_forty_thousand_items_are_asked_for_at_once(storage, said):
    async with storage.read() as tx:
        items = [event.item for event in said]
        found = await tx.segments.spans(SPACE, [*items, *range(10**9, 10**9 + 40_000)])
        assert sorted(found) == items
        assert await tx.segments.spans("other", items) == {}
        assert await tx.segments.spans(SPACE, []) == {}


async def test_which_characters_a_segment_has_is_known_by_its_key(storage):
    async with storage.write() as tx:
        (event,) = await add_events(tx, await add_session(tx), "One. Two. Three.")
        spans = [Span(0, 9), Span(5, 16)]
        pieces = [new_segment(event.item, n, session_key=event.session_key, span=s) for n, s in enumerate(spans)]
        await tx.segments.add(TENANT, SPACE, pieces, NOW)
        keys = [p.segment_key for p in await tx.segments.pending(TENANT, SPACE, event.session_key, 9)]
        found = await tx.segments.spans_of([*keys, *range(10**9, 10**9 + 40_000)])
        assert found == dict(zip(keys, spans, strict=True))
        assert await tx.segments.spans_of([]) == {}


async def test_clusters_are_made_changed_and_removed(storage):
    async with storage.write() as tx:
        session, other = await add_session(tx, "s1"), await add_session(tx, "s2", "other")
        key = session.session_key
        centroid = np.linspace(-1, 1, 256, dtype="<f4").tobytes()
        first = await tx.clusters.add(key, "session", centroid, 3)
        second = await tx.clusters.add(key, "private:ann", b"x", 1)
        await tx.clusters.add(other.session_key, "session", b"y", 1)
        assert await tx.clusters.of_session(key) == [
            Cluster(first, key, "session", centroid, 3),
            Cluster(second, key, "private:ann", b"x", 1),
        ]
        await tx.clusters.set({})
        await tx.clusters.set({first: (b"new", 4), second: (b"newer", 5)})
        assert [(c.centroid, c.size) for c in await tx.clusters.of_session(key)] == [(b"new", 4), (b"newer", 5)]
        assert await tx.clusters.count(TENANT) == 2
        await tx.clusters.remove([])
        await tx.clusters.remove([first])
        assert [c.cluster_key for c in await tx.clusters.of_session(key)] == [second]
        assert (await tx.clusters.count("other"), await tx.clusters.count("nobody")) == (1, 0)


async def test_a_cluster_with_segments_can_not_go(storage, said):
    async with storage.write() as tx:
        (pending,) = await tx.segments.pending(TENANT, SPACE, said[0].session_key, 1)
        cluster = await tx.clusters.add(said[0].session_key, "session", b"c", 1)
        await tx.segments.hold({pending.segment_key: cluster})
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.clusters.remove([cluster])
    async with storage.write() as tx:
        await tx.segments.hold({pending.segment_key: None})
        await tx.clusters.remove([cluster])


async def test_the_newest_summary_up_to_a_step_is_read(storage):
    async with storage.write() as tx:
        key = (await add_session(tx)).session_key
        assert await tx.summaries.newest(key, up_to=9) == (0, [])
        await tx.summaries.add(key, {1: ["One.", "Ünï 🙂"], 3: []})
        await tx.summaries.add(key, {1: ["made a second time"], 4: ["Four."]})
        await tx.summaries.add(key, {})
        assert await tx.summaries.newest(key, up_to=0) == (0, [])
        assert await tx.summaries.newest(key, up_to=2) == (1, ["One.", "Ünï 🙂"])
        assert await tx.summaries.newest(key, up_to=3) == (3, [])
        assert await tx.summaries.newest(key, up_to=9) == (4, ["Four."])
        assert await tx.summaries.newest(key + 1, up_to=9) == (0, [])
