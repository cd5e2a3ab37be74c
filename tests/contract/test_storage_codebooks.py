"""What every database keeps to about codebooks and codes."""

import pytest

from memory.domain.codecs import Code, NewCodebook, Retention
from memory.domain.principals import SHARED
from tests.services import NOW, SPACE, TENANT, add_events, add_session, segments_of

KEPT = Retention(recall=0.95, asked=100, bytes_per_segment=43.25)


def new(codec="pq", body=b"\0body\xff"):
    return NewCodebook(codec, body, KEPT, trained_on=2_000)


@pytest.fixture
async def cold(storage):
    """A session with four embedded segments that the semantic tier has let go of; their keys."""
    async with storage.write() as tx:
        session = await add_session(tx)
        events = await add_events(tx, session, "One.", "Two.", "Three.", "Four.", "Held.")
        await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
        pending = await tx.segments.pending(TENANT, SPACE, session.session_key, 9)
        await tx.segments.set_vectors({p.segment_key: b"12" for p in pending}, NOW)
        await tx.segments.hold(dict.fromkeys([p.segment_key for p in pending[:4]]))
    return session.session_key, [p.segment_key for p in pending[:4]]


async def publish(storage, *codebooks, tenant=TENANT, space=SPACE):
    async with storage.write() as tx:
        await tx.codebooks.publish(tenant, space, codebooks, NOW)
        return (await tx.codebooks.all(tenant, space))[0]


async def test_versions_count_up_for_each_codec_tenant_and_space(storage):
    await publish(storage, new(), new("rq", None))
    await publish(storage, new())
    await publish(storage, new(), tenant="other")
    await publish(storage, new(), space="other")
    async with storage.read() as tx:
        found = await tx.codebooks.all(TENANT, SPACE)
        assert [(c.codec, c.version, c.adopted) for c in found] == [("pq", 2, True), ("rq", 1, False), ("pq", 1, True)]
        assert (found[0].retention, found[0].trained_on, found[0].created_at, found[0].codes) == (KEPT, 2_000, NOW, 0)
        assert await tx.codebooks.body(found[0].codebook_key) == b"\0body\xff"
        assert await tx.codebooks.body(found[1].codebook_key) is None
        assert await tx.codebooks.body(10**9) is None


async def test_cold_segments_are_those_let_go_of_until_a_code_holds_them(storage, cold):
    key, segments = cold
    codebook = (await publish(storage, new())).codebook_key
    async with storage.write() as tx:
        assert [s.segment_key for s in await tx.codebooks.uncoded(key, SPACE, 9)] == segments
        assert await tx.codebooks.sessions_with_uncoded(TENANT, SPACE, 0, 9) == [key]
        assert await tx.codebooks.sessions_with_uncoded(TENANT, SPACE, key, 9) == []
        first = Code(codebook, key, SHARED, tuple(segments[:2]), b"code")
        twice = Code(codebook, key, SHARED, tuple(segments[1:]), b"overlaps")
        await tx.codebooks.add_codes(TENANT, [first])
        await tx.codebooks.add_codes(TENANT, [first, twice])
        assert await tx.codebooks.codes(key) == [first]
        assert [s.segment_key for s in await tx.codebooks.uncoded(key, SPACE, 9)] == segments[2:]
        assert await tx.codebooks.cold(TENANT, SPACE) == {"segments": 4, "coded": 2, "code_bytes": 4}
        assert await tx.codebooks.cold("other", SPACE) == {"segments": 0, "coded": 0, "code_bytes": 0}
        assert (await tx.codebooks.all(TENANT, SPACE))[0].codes == 1


async def test_superseded_codebooks_stay_while_they_have_codes(storage, cold):
    key, segments = cold
    old = (await publish(storage, new())).codebook_key
    await publish(storage, new())
    async with storage.write() as tx:
        await tx.codebooks.add_codes(TENANT, [Code(old, key, SHARED, (segments[0],), b"c")])
        await tx.codebooks.remove_superseded(TENANT, SPACE)
        assert [c.version for c in await tx.codebooks.all(TENANT, SPACE)] == [2, 1]
        assert await tx.codebooks.remove(old) == 1
        await tx.codebooks.publish(TENANT, SPACE, [new()], NOW)
        await tx.codebooks.remove_superseded(TENANT, SPACE)
        assert [c.version for c in await tx.codebooks.all(TENANT, SPACE)] == [3]


async def test_forgetting_reaches_one_tenant(storage, cold):
    key, segments = cold
    codebook = (await publish(storage, new())).codebook_key
    await publish(storage, new(), tenant="other")
    async with storage.write() as tx:
        await tx.codebooks.add_codes(TENANT, [Code(codebook, key, SHARED, tuple(segments), b"c")])
        assert await tx.codebooks.forget(TENANT, NOW) == {"codes": 1, "codebooks": 1}
        assert await tx.codebooks.forget(TENANT, NOW) == {"codes": 0, "codebooks": 0}
        assert await tx.codebooks.codes(key) == []
        assert len(await tx.codebooks.all("other", SPACE)) == 1
        await tx.sessions.purge(key)


async def test_what_is_learned_from_comes_by_key_of_one_class_and_tenant(storage, cold):
    _, segments = cold
    async with storage.read() as tx:
        found = await tx.codebooks.sample(TENANT, SPACE, SHARED, segments[0], 3)
        assert [s.segment_key for s in found] == segments[1:]
        assert len(await tx.codebooks.sample(TENANT, SPACE, SHARED, 0, 99)) == 5  # what is held as well
        assert await tx.codebooks.sample(TENANT, SPACE, "agent:ann", 0, 9) == []
        assert await tx.codebooks.sample("other", SPACE, SHARED, 0, 9) == []
