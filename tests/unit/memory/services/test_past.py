"""Questions about the past, over both databases and the indexes of the service."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from memory.bootstrap import build
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import Principal
from memory.domain.recall import FieldTest, FilterOp, RecallRequest
from memory.settings import Settings
from tests.unit.memory.services.conftest import ME, say, work

BOB = Principal("default", agent_id="bob")


@pytest.fixture
async def container(tmp_path, models, database_url):
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)
    async with build(settings, models=models) as opened:
        yield opened


async def add(container, *texts, **options):
    kind, visibility = options.pop("kind", MemoryKind.FACT), options.pop("visibility", MemoryVisibility.TENANT)
    new = [NewMemory(text, kind, visibility, **options) for text in texts]
    return [added.memory.memory_id for added in await container.memories.add(ME, new)]


async def moment(container):
    """Between what was done before it and what is done after it."""
    await asyncio.sleep(0.002)
    now = container.clock.now()
    await asyncio.sleep(0.002)
    return now


async def found(container, query, as_of=None, by=ME, **options):
    recalled = await container.recall.recall(by, RecallRequest(query, as_of=as_of, **options))
    assert recalled.degraded == ()
    return [result.text for result in recalled.results]


async def patch(container, memory_id, **changes):
    await container.memories.update(ME, memory_id, changes, if_match=None)


async def test_each_moment_sees_its_own_text(container):
    (home,) = await add(container, "Ann lives in Oslo")
    first = await moment(container)
    await patch(container, home, text="Ann lives in Bergen")
    second = await moment(container)
    third_id = (await container.history.supersede(ME, home, "Ann lives in Narvik", None, if_match=None)).memory_id
    third = await moment(container)
    await container.history.restore(ME, home, None, if_match=None)
    for _ in range(2):
        for as_of, text in ((first, "Oslo"), (second, "Bergen"), (third, "Narvik"), (None, "Bergen")):
            assert await found(container, "where does Ann live", as_of) == [f"Ann lives in {text}"]
        await work(container)
    assert await found(container, "Ann", datetime(2020, 1, 1, tzinfo=UTC)) == []
    assert third_id != home


async def test_a_former_text_is_found_by_its_own_words(container):
    await add(container, *[f"remark number {n} about the weather" for n in range(20)])
    (note,) = await add(container, "the treasure lies under the old oak")
    before = await moment(container)
    await patch(container, note, text="nothing to see here")
    await work(container)
    assert (await found(container, "treasure under the oak", before))[0] == "the treasure lies under the old oak"
    assert len(await found(container, "treasure", before, top_k=30)) == 21
    assert "the treasure lies under the old oak" not in await found(container, "treasure", top_k=30)


async def test_an_end_that_was_set_later_counts_from_then_on(container):
    (offer,) = await add(container, "the offer is open")
    open_then = await moment(container)
    await patch(container, offer, valid_to=open_then - timedelta(days=1))
    closed = await moment(container)
    await patch(container, offer, valid_to=None)
    assert await found(container, "offer", open_then) == ["the offer is open"]
    assert await found(container, "offer", closed) == []
    assert await found(container, "offer") == ["the offer is open"]


async def test_what_was_written_down_later_is_seen_in_the_time_it_tells_of(container):
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    await add(container, "Ann worked in Rome", valid_from=start, valid_to=end)
    for as_of, expected in (
        (start - timedelta(days=1), []),
        (start, ["Ann worked in Rome"]),
        (end - timedelta(days=1), ["Ann worked in Rome"]),
        (end, []),
        (None, []),
    ):
        assert await found(container, "work in Rome", as_of) == expected


async def test_conditions_ask_for_what_it_was_then(container):
    (note,) = await add(container, "the blue key", metadata={"room": "hall"})
    before = await moment(container)
    await patch(container, note, text="the red key", metadata={"room": "attic"})
    hall, attic = (FieldTest("metadata.room", FilterOp.EQ, room) for room in ("hall", "attic"))
    assert await found(container, "key", before, filter=hall) == ["the blue key"]
    assert await found(container, "key", before, filter=attic) == []
    assert await found(container, "key", filter=attic) == ["the red key"]
    assert await found(container, "key", before, kinds=frozenset({"note"})) == []
    assert await found(container, "key", before, kinds=frozenset({"fact"})) == ["the blue key"]


async def test_a_private_past_stays_private(container):
    (note,) = await add(container, "my secret plan", visibility=MemoryVisibility.PRIVATE, agent_id="ann")
    later_hidden, _ = await add(container, "our former plan", "our common plan")
    before = await moment(container)
    ann = Principal("default", agent_id="ann")
    changes = {"text": "a plan for all", "visibility": MemoryVisibility.TENANT}
    await container.memories.update(ann, note, changes, if_match=None)
    async with container.storage.write() as tx:
        former = await tx.memories.locked("default", later_hidden)
        changes = {"text": "another", "visibility": MemoryVisibility.PRIVATE, "agent_id": "ann"}
        await tx.memories.update(former, changes, None, "ann", container.clock.now())
    assert await found(container, "plan", before, by=BOB, top_k=1) == ["our common plan"]
    assert set(await found(container, "plan", before, by=ann)) == {
        "our common plan",
        "my secret plan",
        "our former plan",
    }


async def test_of_a_session_only_what_it_shows_is_seen(container):
    for name in ("one", "two"):
        await say(container, name, "hello")
    ids = [
        *(await add(container, "plan of one", visibility=MemoryVisibility.SESSION, session_id="one")),
        *(await add(container, "plan of two", visibility=MemoryVisibility.SESSION, session_id="two")),
        *(await add(container, "plan of all")),
    ]
    before = await moment(container)
    for memory_id in ids:
        await patch(container, memory_id, text="changed")
    asked = {"session_ids": ("one",), "kinds": frozenset({"fact"})}
    assert set(await found(container, "plan", before, **asked)) == {"plan of one", "plan of all"}


async def test_when_too_much_has_changed_the_answer_says_so(container, monkeypatch):
    from memory.services import past

    monkeypatch.setattr(past, "_MOST", 2)
    ids = await add(container, "one tea", "two tea", "three tea")
    before = await moment(container)
    for memory_id in ids:
        await patch(container, memory_id, text="coffee")
    recalled = await container.recall.recall(ME, RecallRequest("tea", as_of=before))
    assert [tier.tier for tier in recalled.degraded] == ["longterm"]
    assert {"two tea", "three tea"} <= {result.text for result in recalled.results}
