"""A long-term index takes another form while it serves: nobody waits, nothing is lost, whatever ends the process."""

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import bootstrap
from memory.adapters.vectors.faiss_index import FaissIndexes, Sizes, Training
from memory.domain.operations import IndexName, Operation, OperationState, Receipt
from memory.domain.principals import Principal
from memory.domain.recall import RecallRequest, RecallResult
from memory.tiers.longterm import follower, opening, policy
from memory.tiers.longterm.opened import OpenTenant, untold
from tests.invariants.worlds import World, world

ME = Principal("default")
WORDS = "garden kitchen meeting train doctor holiday invoice guitar passport bicycle".split()
QUESTIONS = ["who repaired the bicycle", "the doctor", "invoice 17", "nothing of the kind"]
SMALL = Sizes(chunk_rows=64, scan_up_to=100, file_from=20)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred events have lists, several chunks, and something to compact."""
    monkeypatch.setattr(bootstrap, "FaissIndexes", lambda: FaissIndexes(SMALL))
    monkeypatch.setattr(policy, "_LEAST_WASTE", 30)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, longterm=QUIET) as made:
        yield made


QUIET = {"follow_seconds": 3_600}
"""Nothing happens by itself."""


async def talk(small: World, session: str, count: int) -> None:
    texts = [f"day {n} the {WORDS[(n + ord(session[0])) % 10]} number {n} of {session}" for n in range(count)]
    await small.say(ME, session, *texts)
    await small.index("default")
    await small.find(ME, "garden")


async def tended(small: World) -> OpenTenant:
    tenant = opened(small)
    while await tenant.tend():
        pass
    return tenant


def opened(small: World) -> OpenTenant:
    return small.container.longterm._tenants._open["default"]


async def answers(small: World) -> list[Sequence[RecallResult]]:
    found = [await small.find(ME, q, top_k=20, session_ids=ids) for q in QUESTIONS for ids in (None, ("a",))]
    for index in (IndexName.VECTORS, IndexName.LEXICAL):
        assert not await small.container.longterm.compare("default", index, untold)
    return found


async def committed_answers(small: World) -> list[Sequence[RecallResult]]:
    """Until the words are committed, BM25 takes the average length of those that are."""
    await small.find(ME, "garden")
    await opened(small).upkeep()  # erases what was purged, if that was not done
    await small.container.longterm.save()
    vectors = opened(small).index.vectors
    for row in range(0, len(vectors), 7):  # by lists or by a scan: nothing is in the wrong place
        (vector,) = vectors.vectors(np.array([row]))
        if vector.any():
            assert row in vectors.search(vector, 20).rows
    return await answers(small)


def alike(before: list[Sequence[RecallResult]], after: list[Sequence[RecallResult]]) -> None:
    for old, new in zip(before, after, strict=True):
        assert [r.events for r in new] == [r.events for r in old]
        assert [r.score for r in new] == pytest.approx([r.score for r in old], abs=1e-3)


def test_kill_9_at_any_step_leaves_the_old_index_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The index folder is copied at every flush to disk; each copy is what a killed process might leave."""
    data, states, flush = tmp_path / "data", [], os.fsync

    def noted(descriptor: int) -> None:
        flush(descriptor)
        states.append(shutil.copytree(data / "index", tmp_path / f"state-{len(states)}"))

    async def live(small: World) -> list[Sequence[RecallResult]]:
        await talk(small, "a", 120)
        await small.container.longterm.save()  # before it there is no old index
        monkeypatch.setattr(os, "fsync", noted)
        await tended(small)
        await small.container.longterm.save()
        await talk(small, "b", 60)
        await talk(small, "c", 90)
        await tended(small)
        await small.container.longterm.save()
        assert isinstance(await small.container.forgetting.purge_session(ME, "c"), Receipt)
        await talk(small, "d", 20)
        tenant = await tended(small)
        assert len(tenant.index.vectors) == 200, "it was compacted"
        await small.container.longterm.save()
        await small.container.longterm.rebuild("default", IndexName.VECTORS, untold)
        await small.container.longterm.rebuild("default", IndexName.LEXICAL, untold)
        monkeypatch.setattr(os, "fsync", flush)
        return await committed_answers(small)

    with world(data, longterm=QUIET) as small:
        right = small.run(live(small))
    assert len(states) > 40
    for state in states[::3]:
        shutil.rmtree(data / "index")
        shutil.move(state, data / "index")
        with world(data, longterm=QUIET) as small:
            alike(right, small.run(committed_answers(small)))
    assert "is rebuilt from the database" not in caplog.text


def test_words_that_were_saved_before_the_rest_go_with_a_purge_that_came_after(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with world(data, longterm=QUIET) as small:

        async def play() -> None:
            await talk(small, "a", 20)
            await small.container.longterm.save()
            await talk(small, "b", 20)
            await opened(small)._save_words()
            shutil.copytree(data / "index", tmp_path / "killed")
            assert isinstance(await small.container.forgetting.purge_session(ME, "b"), Receipt)

        small.run(play())
    shutil.rmtree(data / "index")
    shutil.move(tmp_path / "killed", data / "index")
    with world(data, longterm=QUIET) as small:
        small.run(answers(small))


def test_nobody_waits_while_lists_are_made_and_nothing_that_happens_meanwhile_is_lost(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, prepare = threading.Event(), threading.Event(), Training.prepare

    def slow(work: Training) -> None:
        begun.set()
        assert go_on.wait(20)
        prepare(work)

    monkeypatch.setattr(Training, "prepare", slow)

    async def play() -> None:
        await talk(small, "a", 150)
        await talk(small, "b", 50)
        tending = asyncio.create_task(opened(small).tend())
        await asyncio.to_thread(begun.wait, 20)
        await small.say(ME, "a", "the xylophone is under the pot")
        assert (await small.find(ME, "xylophone"))[0].text == "the xylophone is under the pot"
        assert isinstance(await small.container.forgetting.purge_session(ME, "b"), Receipt)
        await small.container.longterm.save()
        assert not tending.done()
        go_on.set()
        assert await tending
        lists = opened(small).index.vectors.lists  # type: ignore[attr-defined]
        assert lists.covered == 200
        assert lists._index.ntotal == 150
        assert (await small.find(ME, "xylophone"))[0].text == "the xylophone is under the pot"
        assert not any("of b" in r.text for r in await small.find(ME, "number of b", top_k=200))
        await answers(small)

    small.run(play())


def test_nobody_waits_while_an_index_is_written(small: World) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def play() -> None:
        await talk(small, "a", 30)
        index = opened(small).index
        snapshot = index.vectors.snapshot

        class Slow:
            def __init__(self) -> None:
                self.taken = snapshot()

            def write(self, folder: Path) -> tuple[str, ...]:
                begun.set()
                assert go_on.wait(20)
                return self.taken.write(folder)

        index.vectors.snapshot = Slow  # type: ignore[method-assign]
        saving = asyncio.create_task(small.container.longterm.save())
        await asyncio.to_thread(begun.wait, 20)
        await small.say(ME, "a", "the xylophone")
        assert (await small.find(ME, "xylophone"))[0].text == "the xylophone"
        assert index.unsaved
        assert not saving.done()
        go_on.set()
        await saving
        assert index.unsaved, "what came meanwhile is not saved yet"

    small.run(play())


def test_an_index_that_is_not_what_the_database_holds_is_noticed_and_rebuilt_while_it_serves(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on, vector_pages = asyncio.Event(), asyncio.Event(), follower.vector_pages

    async def slow(*given: Any) -> Any:
        reached.set()
        await go_on.wait()
        async for page in vector_pages(*given):
            yield page

    async def play() -> None:
        tier = small.container.longterm
        await talk(small, "a", 150)
        await talk(small, "b", 30)
        tenant = await tended(small)
        assert not await tier.compare("default", IndexName.VECTORS, untold)
        tenant.index.vectors.blank(np.array([3, 77]))
        tenant.index.catalogue.column("created_at")[5] += 1
        assert await tier.compare("default", IndexName.VECTORS, untold) == ["3 items differ from the database"]
        told: list[int] = []

        async def tell(done: int) -> None:
            told.append(done)

        monkeypatch.setattr(follower, "vector_pages", slow)
        rebuilding = asyncio.create_task(tier.rebuild("default", IndexName.VECTORS, tell))
        await reached.wait()
        await small.say(ME, "a", "the xylophone")
        assert (await small.find(ME, "xylophone"))[0].text == "the xylophone"
        purge = await small.container.forgetting.purge_session(ME, "b")
        assert isinstance(purge, Operation), "what is being built has read some of it"
        await tier.save()
        go_on.set()
        await rebuilding
        await tier.forget("default")
        await small.container.forgetting.finish_purge(purge.operation_id)
        done = await small.container.operations.get(ME, purge.operation_id)
        assert done.state is OperationState.SUCCEEDED
        monkeypatch.setattr(follower, "vector_pages", vector_pages)
        await answers(small)
        assert told == sorted(told)
        assert told[-1] == 180 + 150, "every item, then those that have vectors still"
        assert not any("of b" in r.text for r in await small.find(ME, "number of b", top_k=200))

    small.run(play())


def test_words_that_are_missing_are_noticed_and_written_again(small: World) -> None:
    async def play() -> None:
        tier = small.container.longterm
        await talk(small, "a", 40)
        items = opened(small).index.catalogue.column("item")[[4, 9]].tolist()
        opened(small).index.lexical.remove(items)
        found = await tier.compare("default", IndexName.LEXICAL, untold)
        assert found[0] == "2 items are not in the word index as they are in the database"
        assert found[1] == "the word index holds 38 items, the database 40"
        await tier.rebuild("default", IndexName.LEXICAL, untold)
        await answers(small)

    small.run(play())


def test_while_an_index_is_built_the_other_tiers_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path, longterm=QUIET) as small:
        small.run(talk(small, "a", 40))
    shutil.rmtree(tmp_path / "index")
    go_on, build_index = asyncio.Event(), opening.build_index

    async def slow(*given: Any) -> Any:
        await given[-1](17)
        await go_on.wait()
        return await build_index(*given)

    monkeypatch.setattr(opening, "build_index", slow)
    with world(tmp_path, longterm=QUIET | {"open_patience": 0.3}) as small:

        async def play() -> None:
            found = await small.container.recall.recall(ME, RecallRequest("the bicycle number 7"))
            assert found.results
            assert [(d.tier, "17 of 80 steps" in d.reason) for d in found.degraded] == [("longterm", True)]
            tiers = {tier["tier"]: tier for tier in await small.container.admin.tiers(ME)}
            assert "17 of 80 steps" in tiers["longterm"]["problems"][0]
            assert (tiers["hot"]["problems"], tiers["semantic"]["problems"]) == ([], [])
            go_on.set()
            while (await small.container.recall.recall(ME, RecallRequest("the bicycle"))).degraded:
                await asyncio.sleep(0.05)
            await answers(small)

        small.run(play())


def test_a_failed_build_is_tried_again_by_who_asks_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path, longterm=QUIET) as small:

        async def play() -> None:
            await small.say(ME, "s", "the xylophone")
            with monkeypatch.context() as patch:
                patch.setattr(opening, "build_index", failing)
                found = await small.container.recall.recall(ME, RecallRequest("xylophone"))
            assert [d.tier for d in found.degraded] == ["longterm"]
            assert len(await small.find(ME, "xylophone")) == 1

        small.run(play())


async def failing(*given: Any) -> Any:
    from memory.domain.errors import StorageUnavailable

    raise StorageUnavailable("the database is away")
