"""What happens between two steps: the index against edits, purges, eviction and its own saving.

Every test holds one step up where the race is, so that it is lost every time and not once a month.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memory.domain.context import ContextRequest
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.operations import UNFINISHED, Receipt
from memory.domain.principals import Principal
from memory.domain.recall import FieldTest, FilterOp
from memory.tiers.longterm import follower
from memory.tiers.longterm.tenant_index import TenantIndex
from tests.invariants.worlds import PRIVATE, World, world

ME = Principal("default")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def index_of(small: World) -> TenantIndex:
    return small.container.longterm._tenants._open["default"].index


def long_text(number: int, words: int = 700) -> str:
    return " ".join(f"word{number}x{place}." for place in range(words))


def test_a_rebuild_keeps_every_vector_where_pages_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "PAGE", 7)  # long events have five segments: some stand on both sides of a border
    with world(tmp_path) as small:

        async def fill() -> list[Any]:
            await small.say(ME, "s", *(long_text(number) for number in range(12)))
            await small.find(ME, "word3x650.")  # opened: from now on the index follows change by change
            await small.index("default")
            return list(await small.find(ME, "word3x650.", top_k=12))

        before = small.run(fill())
        followed = small.run(small.container.longterm.stats("default")).details["vectors"]
    index = tmp_path / "index"
    for path in sorted(index.rglob("*.json")):
        if path.name in ("vectors.json", "lexical.json"):
            path.unlink()
    with world(tmp_path) as small:
        after = small.run(small.find(ME, "word3x650.", top_k=12))
        rebuilt = small.run(small.container.longterm.stats("default")).details["vectors"]
    assert (followed, rebuilt) == (12 * 5, 12 * 5)
    assert [r.events for r in after] == [r.events for r in before]
    assert [r.score for r in after] == pytest.approx([r.score for r in before], abs=1e-3)


def test_a_filter_by_session_stands_beside_appends(small: World) -> None:
    """The catalogue grows while the names of its sessions are read from the database."""

    async def play() -> None:
        await small.say(ME, "s", "the first event")
        condition = FieldTest("session_id", FilterOp.EQ, "s")

        async def ask() -> None:
            for _ in range(60):
                assert await small.find(ME, "event", filter=condition, top_k=5)

        async def talk(session: str) -> None:
            for number in range(60):
                await small.say(ME, session, f"event {number}")

        await asyncio.gather(ask(), ask(), ask(), talk("s"), talk("t"))

    small.run(play())


def test_an_edited_memory_never_keeps_the_old_vector(small: World) -> None:
    """A recall embeds the old text while the edit is committed and followed."""
    old, new = "zebra lion giraffe", "sonata fugue rondo"

    async def play() -> None:
        reached, edited = asyncio.Event(), asyncio.Event()

        async def hold(texts: Sequence[str]) -> None:
            if list(texts) == [old]:
                small.models.embedder.before = None
                reached.set()
                await edited.wait()

        note = NewMemory(old, MemoryKind.NOTE, MemoryVisibility.TENANT, memory_id="m")
        await small.container.memories.add(ME, [note])
        small.models.embedder.before = hold
        slow = asyncio.create_task(small.find(ME, "anything"))
        await reached.wait()
        await small.container.memories.update(ME, "m", {"text": new}, if_match=None)
        await small.container.longterm.absorb("default")
        edited.set()
        await slow
        await small.index("default")
        await small.find(ME, "anything")
        item = (await small.container.memories.get(ME, "m")).item
        index = index_of(small)
        (held,) = index.vectors.vectors(index.catalogue.column("first_vector")[[index.catalogue.row(item)]])
        (wanted,) = await small.models.embedder.embed([new])
        assert index.catalogue.column("vectors")[index.catalogue.row(item)]
        assert float(held @ wanted) > 0.99

    small.run(play())


def test_tenants_that_are_closed_and_opened_answer_all_the_while(tmp_path: Path) -> None:
    with world(tmp_path, longterm={"open_tenants": 1, "follow_seconds": 0.01}) as small:

        async def ask(tenant: str) -> None:
            principal = Principal(tenant)
            for number in range(40):
                await small.say(principal, "s", f"event {number} of {tenant}")
                found = await small.find(principal, f"event {number}", top_k=50)
                assert len(found) == number + 1
                assert all(tenant in result.text for result in found)

        async def play() -> None:
            await asyncio.gather(*(ask(f"tenant{number}") for number in range(4)))

        small.run(play())
        assert small.container.longterm.failure is None


def test_a_receipt_waits_until_the_files_are_clean(small: World, tmp_path: Path) -> None:
    """The follower erases by itself; a purge that comes meanwhile must not be confirmed before that is done."""
    marker = "xylophone"

    async def play() -> None:
        await small.say(ME, "s", f"the {marker} is under the pot")
        await small.say(ME, "t", "something else")
        await small.index("default")
        await small.find(ME, marker)
        await small.container.longterm.save()
        (vector,) = await small.models.embedder.embed([f"the {marker} is under the pot"])
        raw = vector.astype("<f2").tobytes()

        def dirty() -> bool:
            return any(raw in path.read_bytes() for path in (tmp_path / "index").rglob("rows-*"))

        assert dirty()
        let_go = threading.Event()
        index, held = index_of(small), []
        snapshot = index.vectors.snapshot

        def slow_save() -> Any:
            held.append(None)
            let_go.wait(5)
            return snapshot()

        index.vectors.snapshot = slow_save  # type: ignore[method-assign]
        first = asyncio.create_task(small.container.forgetting.purge_session(ME, "s"))
        while not held:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.8)  # the follower has its turn
        async with small.container.storage.read() as tx:
            position = await tx.changes.followed(small.container.settings.node_name)
            head = await tx.changes.head()
        still = dirty()
        let_go.set()
        outcome = await first
        assert isinstance(outcome, Receipt)
        assert not dirty()
        assert not (still and position == head), "confirmed while the file still held the vector"

    small.run(play())


@pytest.mark.parametrize("part", ["vectors", "lexical"])
def test_a_changed_position_in_a_manifest_is_noticed(tmp_path: Path, part: str) -> None:
    with world(tmp_path) as small:
        small.run(small.say(ME, "s", *(f"event {number}" for number in range(5))))
        small.run(small.find(ME, "event"))
    for name in ("vectors", "lexical"):
        manifest = next((tmp_path / "index").rglob(f"{name}.json"))
        body = json.loads(manifest.read_text())
        body["position"][1] += 40  # as one flipped bit in a digit would
        if name == part or part == "vectors":
            manifest.write_text(json.dumps(body, indent=1))
    with world(tmp_path) as small:
        small.run(small.say(ME, "s", "the xylophone"))
        found = small.run(small.find(ME, "xylophone"))
        assert "the xylophone" in [result.text for result in found]
        assert not small.run(small.container.longterm.verify("default"))


def test_closed_tenants_lose_their_files_when_something_is_purged(tmp_path: Path) -> None:
    """A purge while the tenant is being opened does not pull the folder away from under it."""
    with world(tmp_path, longterm={"follow_seconds": 60}) as small:

        async def play() -> None:
            await small.say(ME, "s", "one")
            await small.say(ME, "t", "two")
            opening = asyncio.create_task(small.find(ME, "one"))
            await asyncio.sleep(0)
            outcome = await small.container.forgetting.purge_session(ME, "t")
            await opening
            assert isinstance(outcome, Receipt)
            await small.say(ME, "s", "three")
            assert {r.text for r in await small.find(ME, "three")} == {"one", "three"}
            await small.container.longterm.save()
            assert not await small.container.longterm.verify("default")

        small.run(play())
    with world(tmp_path) as small:
        assert {r.text for r in small.run(small.find(ME, "three"))} == {"one", "three"}


def test_a_long_transaction_elsewhere_hides_nothing(tmp_path: Path, postgres_url: str) -> None:
    """Two pages of changes that are not settled, because some client of the cluster keeps a transaction open."""
    import sqlalchemy as sa

    from memory.domain.changes import ChangeKind, NewChange

    with world(tmp_path, database_url=postgres_url) as small:
        storage = small.container.storage

        async def play() -> None:
            await small.say(ME, "s", "the first event")
            await small.find(ME, "event")
            async with storage._engine.begin() as held:
                await held.execute(sa.text("SELECT pg_current_xact_id()"))
                async with storage.write() as tx:
                    nothing = NewChange(ChangeKind.EVENTS, "default", 999_999, 1, 1)
                    await tx.changes.add(*[nothing] * (follower.PAGE + 10))
                await small.say(ME, "s", "the xylophone")
                assert "the xylophone" in [r.text for r in await small.find(ME, "xylophone")]
                assert len(await small.find(ME, "event")) == 2

        small.run(play())


def test_a_vector_that_two_changes_name_is_held_once(small: World) -> None:
    async def play() -> None:
        await small.say(ME, "s", "the first event")
        await small.find(ME, "event")
        note = NewMemory("the second", MemoryKind.NOTE, MemoryVisibility.TENANT, memory_id="m")
        small.container.longterm._tasks[0].cancel()  # both changes come in one batch
        await small.container.memories.add(ME, [note])
        await small.index("default")
        assert (await small.container.longterm.stats("default")).details["vectors"] == 2

    small.run(play())


def test_a_tenant_that_was_emptied_goes_on(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            for number in range(3):
                await small.say(ME, "s", "only this")
                await small.find(ME, "only this")
                await small.container.forgetting.purge_session(ME, "s")
                assert not await small.find(ME, "only this")
                await small.say(ME, "t", f"event {number}")
                assert len(await small.find(ME, "event")) == 1
                await small.container.forgetting.purge_session(ME, "t")

        small.run(play())
    with world(tmp_path) as small:
        small.run(small.say(ME, "s", "again"))
        assert len(small.run(small.find(ME, "again"))) == 1


def test_one_failure_of_a_busy_session_is_not_its_last(small: World) -> None:
    async def play() -> None:
        await small.say(ME, "s", "event 0")
        (operation,) = await small.container.operations.page(ME, states=UNFINISHED, after_id=None, limit=2)
        name, work = operation.operation_id, small.container.consolidation
        for number in range(3):
            await work.consolidate(name)
            await work.embed(name)
            await small.say(ME, "s", f"event {number + 1}")
            await work.evict(name)

        async def fail(_: Sequence[str]) -> None:
            small.models.embedder.before = None
            raise RuntimeError("once")

        await work.consolidate(name)
        small.models.embedder.before = fail
        with pytest.raises(RuntimeError):
            await work.embed(name)
        assert (await small.container.operations.get(ME, name)).state in UNFINISHED

    small.run(play())


def test_private_events_that_do_not_fit_are_recalled(small: World) -> None:
    ann = Principal("default", agent_id="ann")

    async def play() -> None:
        await small.say(ann, "s", "the first shared event")
        await small.say(ann, "s", "the xylophone is mine", visibility=PRIVATE)
        await small.say(ann, "s", *(f"private remark {n} of no weight" for n in range(30)), visibility=PRIVATE)
        request = ContextRequest(max_tokens=200, query="xylophone")
        ready = await small.container.context.build(ann, "s", request)
        assert any("the xylophone is mine" in message.content for message in ready.messages)

    small.run(play())
