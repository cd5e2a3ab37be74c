"""I2, exhaustively: one byte flipped in every file of an index, several times; the answers stay the same."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import Principal
from memory.domain.recall import RecallResult
from tests.invariants.worlds import PRIVATE, World, world

ME = Principal("default", agent_id="ann")
WORDS = "garden kitchen meeting train doctor holiday invoice guitar passport bicycle".split()
QUESTIONS = ["who repaired the bicycle", "the doctor", "invoice 17", "nothing of the kind"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sequence[RecallResult]]]:
    """A data folder whose server has stopped, and what it answered before."""
    folder = tmp_path_factory.mktemp("saved")
    with world(folder) as small:

        async def fill() -> list[Sequence[RecallResult]]:
            for session in "abc":
                for n in range(0, 30, 10):
                    talk = [f"day {m} the {WORDS[(m + ord(session)) % 10]} number {m}" for m in range(n, n + 10)]
                    await small.say(ME, session, *talk, agent_id="ann")
                await small.find(ME, "garden")
                await small.say(ME, session, f"my secret {session}", agent_id="ann", visibility=PRIVATE)
                await small.container.longterm.save()  # several segments of tantivy
            notes = [NewMemory(f"a {word}", MemoryKind.FACT, MemoryVisibility.TENANT) for word in WORDS]
            await small.container.memories.add(ME, notes)
            await small.index("default")
            await answers(small)
            # Until the words are committed, BM25 takes the average length of those that are: scores move by 0.003.
            await small.container.longterm.save()
            return await answers(small)

        before = small.run(fill())
    return folder, before


async def answers(small: World) -> list[Sequence[RecallResult]]:
    found = [await small.find(ME, q, top_k=30, session_ids=ids) for q in QUESTIONS for ids in (None, ("a",))]
    assert not await small.container.longterm.verify("default")
    return found


def compare(before: list[Sequence[RecallResult]], after: list[Sequence[RecallResult]]) -> None:
    for old, new in zip(before, after, strict=True):
        assert [(r.memory_id, r.session_id, r.events) for r in new] == [
            (r.memory_id, r.session_id, r.events) for r in old
        ]
        assert [r.score for r in new] == pytest.approx([r.score for r in old], abs=1e-3)


def test_a_restart_answers_the_same(saved: tuple[Path, list[Sequence[RecallResult]]]) -> None:
    folder, before = saved
    with world(folder) as small:
        compare(before, small.run(answers(small)))


def test_without_its_index_it_answers_the_same(
    saved: tuple[Path, list[Sequence[RecallResult]]], tmp_path: Path
) -> None:
    copy = shutil.copytree(saved[0], tmp_path / "copy")
    shutil.rmtree(copy / "index")
    with world(copy) as small:
        compare(saved[1], small.run(answers(small)))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_every_file_may_be_damaged_or_missing(
    saved: tuple[Path, list[Sequence[RecallResult]]], tmp_path: Path, damage: str
) -> None:
    source, before = saved
    names = [p.relative_to(source) for p in sorted((source / "index").rglob("*")) if p.is_file()]
    assert {"vectors.json", "lexical.json", "meta.json"} <= {n.name for n in names}
    assert {"rows", "catalogue"} <= {n.name.split("-")[0] for n in names}
    dice = random.Random(damage)
    failed = []
    for number, name in enumerate(names):
        copy = shutil.copytree(source, tmp_path / str(number))
        file = copy / name
        if damage == "gone" and file.suffix == ".pos":
            continue  # see below
        content = bytearray(file.read_bytes())
        if damage == "gone":
            file.unlink()
        elif content:
            place = dice.randrange(len(content))
            content[place] ^= 1 << dice.randrange(8)
            file.write_bytes(content[:place] if damage == "cut" else content)
        try:
            with world(copy) as small:
                compare(before, small.run(answers(small)))
        except Exception as error:
            failed.append(f"{name.name}: {type(error).__name__} {str(error)[:200]}")
        shutil.rmtree(copy)
    assert not failed


def test_a_missing_file_of_positions_is_noticed(
    saved: tuple[Path, list[Sequence[RecallResult]]], tmp_path: Path
) -> None:
    copy = shutil.copytree(saved[0], tmp_path / "copy")
    for path in (copy / "index").rglob("*.pos"):
        path.unlink()
    with world(copy) as small:
        compare(saved[1], small.run(answers(small)))
