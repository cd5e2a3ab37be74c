"""I5 for one event: after a redaction its words are nowhere, in its session, its forks, the indexes and the files."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from memory.domain.context import ContextRequest
from memory.domain.errors import EventConflict, NotFound
from memory.domain.events import NewEvent, Role
from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility, NewMemory
from memory.domain.operations import Operation, Receipt
from memory.domain.principals import Principal
from memory.services import consolidation
from tests.invariants.worlds import PRIVATE, World, world

ME, ANN, BOB = Principal("default"), Principal("default", agent_id="ann"), Principal("default", agent_id="bob")
SECRET = "quetzalcoatl"
TEXT = f"The {SECRET} statue stands in the cellar of the old house."


async def say(small: World, who: Principal = ME, **fields: Any) -> None:
    await small.say(who, "s", "We should clean the cellar.", "Where is the statue of yours?")
    event = NewEvent(role=Role.USER, content=TEXT, event_id="secret", metadata={"about": SECRET}, **fields)
    await small.container.events.append(who, "s", [event])
    await small.say(who, "s", "I see. And the garden?")


async def redact(small: World, who: Principal = ME, session_id: str = "s") -> Receipt | Operation:
    return await small.container.forgetting.redact_event(who, session_id, "secret")


def holding(folder: Path, *texts: str) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(text.encode() in path.read_bytes() for text in texts)]


def test_it_is_found_nowhere_afterwards(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            await say(small)
            await small.container.sessions.fork(ME, "s", "fork", None)
            source = MemorySource("s", ("secret",))
            derived = NewMemory(f"a {SECRET}", MemoryKind.FACT, MemoryVisibility.TENANT, session_id="s", source=source)
            await small.container.memories.add(ME, [derived])
            await small.index("default")
            assert [r for r in await small.find(ME, SECRET) if SECRET in r.text]
            await small.container.longterm.save()
            assert holding(tmp_path, SECRET), "the scan finds nothing: it proves nothing"
            receipt = await redact(small)
            assert isinstance(receipt, Receipt)
            assert receipt.verified
            assert (receipt.purged["events"], receipt.purged["memories"]) == (1, 1)
            await small.index("default")
            for session in ("s", "fork"):
                log = await small.container.events.page(ME, session, limit=9)
                assert [(event.seq, event.redacted) for event in log] == [(1, False), (2, False), (3, True), (4, False)]
                assert log[2].content == ""
                context = await small.container.context.build(
                    ME, session, ContextRequest(query="statue in the cellar", max_tokens=2_000)
                )
                assert SECRET not in str(context)
                assert all(message.content for message in context.messages)
            for query in (SECRET, "statue in the cellar of the old house"):
                for sessions in (None, ("s",), ("fork",)):
                    found = await small.find(ME, query, top_k=50, session_ids=sessions)
                    assert len(found) == 3
                    assert not [result for result in found if SECRET in result.text or not result.text]
            assert await small.container.longterm.verify("default") == []
            assert await small.container.admin.session_tiers(ME, "s") is not None
            await small.container.longterm.save()

        small.run(play())
        assert holding(tmp_path, SECRET) == []
    assert holding(tmp_path, SECRET) == []
    with world(tmp_path) as small:  # a rebuilt index does not bring it back
        assert not [r for r in small.run(small.find(ME, SECRET, top_k=50)) if SECRET in r.text]


def test_its_place_is_taken_and_it_is_redacted_once(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            await say(small)
            await redact(small)
            with pytest.raises(NotFound):
                await redact(small)
            with pytest.raises(EventConflict):
                await say(small)
            for session_id, event_id in (("s", "absent"), ("absent", "secret")):
                with pytest.raises(NotFound):
                    await small.container.forgetting.redact_event(ME, session_id, event_id)

        small.run(play())


def test_another_agents_private_event_is_not_there_for_it(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            await say(small, ANN, visibility=PRIVATE)
            with pytest.raises(NotFound):
                await redact(small, BOB)
            assert (await small.container.events.page(ANN, "s", limit=9))[2].content == TEXT
            await redact(small, ANN)
            assert (await small.container.events.page(ANN, "s", limit=9))[2].redacted

        small.run(play())


def test_what_a_fork_redacts_is_redacted_for_all_that_share_it(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            await say(small)
            await small.container.sessions.fork(ME, "s", "fork", None)
            await small.container.sessions.fork(ME, "s", "earlier", 2)
            await redact(small, session_id="fork")
            with pytest.raises(NotFound):
                await redact(small, session_id="earlier")
            for session in ("s", "fork"):
                assert (await small.container.events.page(ME, session, limit=9))[2].redacted

        small.run(play())


def test_a_worker_that_had_read_it_writes_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The redaction comes between its reading and its writing."""
    with world(tmp_path) as small:
        cut, redactions = consolidation._cut, []

        async def play() -> None:
            loop = asyncio.get_running_loop()

            def cut_late(*arguments: Any) -> Any:
                if not redactions:
                    redactions.append(asyncio.run_coroutine_threadsafe(redact(small), loop).result(30))
                return cut(*arguments)

            monkeypatch.setattr(consolidation, "_cut", cut_late)
            await say(small)
            await small.index("default")
            async with small.container.storage.read() as tx:
                items = await tx.changes.items("default")
                vectors = await tx.changes.vectors_of(small.container.embedder.space, items)
            assert len(vectors) == 3

        small.run(play())
        assert redactions


def test_an_heir_takes_over_that_something_was_redacted(tmp_path: Path) -> None:
    with world(tmp_path) as small:

        async def play() -> None:
            await say(small)
            await small.container.sessions.fork(ME, "s", "fork", None)
            await redact(small)
            await small.container.forgetting.purge_session(ME, "s")
            await small.index("default")
            log = await small.container.events.page(ME, "fork", limit=9)
            assert [(event.seq, event.redacted) for event in log] == [(1, False), (2, False), (3, True), (4, False)]
            assert len(await small.find(ME, "cellar garden statue", top_k=50)) == 3
            assert await small.container.longterm.verify("default") == []

        small.run(play())
