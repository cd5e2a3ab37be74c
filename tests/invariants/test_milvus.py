"""The long-term tier over a Milvus: what holds of FAISS holds of it. milvus-lite runs in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memory.adapters.vectors.milvus import Connection
from memory.domain.operations import IndexName, Receipt
from memory.domain.principals import Principal
from memory.domain.recall import RecallResult
from memory.tiers.longterm.opened import untold
from tests.invariants.worlds import World, world

ME = Principal("default")
pytest.importorskip("pymilvus", reason="pip install -e '.[milvus]'")


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the tier. `scan_limit`: so that vectors are searched."""
    uri = str(tmp_path_factory.mktemp("milvus") / "milvus.db")
    return {"vectors": "milvus", "milvus_uri": uri, "follow_seconds": 3_600, "scan_limit": 100}


async def answers(small: World) -> list[Sequence[RecallResult]]:
    found = [await small.find(ME, f"the garden number {n}", top_k=10) for n in (3, 40)]
    assert not await small.container.longterm.compare("default", IndexName.VECTORS, untold)
    return found


def collections(over: dict[str, Any]) -> list[str]:
    names: list[str] = Connection(over["milvus_uri"], "").ask("list_collections")
    return names


def test_it_answers_the_same_after_a_restart_a_purge_and_a_rebuild(tmp_path: Path, over: dict[str, Any]) -> None:
    with world(tmp_path, longterm=over) as small:

        async def fill() -> list[Sequence[RecallResult]]:
            await small.say(ME, "a", *(f"the garden number {n} of a" for n in range(150)))
            await small.index("default")
            await small.find(ME, "garden")
            await small.container.longterm.save()
            await small.say(ME, "a", "the garden number 3 of all")  # not saved before the end: it is asked for again
            await small.index("default")
            return await answers(small)

        before = small.run(fill())
        small.container.longterm._tenants._open.clear()  # as if it had been killed
    with world(tmp_path, longterm=over) as small:

        async def go_on() -> None:
            after = await answers(small)
            assert [[r.text for r in found] for found in after] == [[r.text for r in found] for found in before]
            await small.say(ME, "b", *(f"the garden number {n} of b" for n in range(50)))
            await small.index("default")
            assert any(r.text.endswith("of b") for found in await answers(small) for r in found)
            assert isinstance(await small.container.forgetting.purge_session(ME, "b"), Receipt)
            index = small.container.longterm._tenants._open["default"].index.vectors
            counted = index._counted(index._collection, 1 << 40)  # type: ignore[attr-defined]
            assert (len(index), counted) == (201, 151)
            assert not any(r.text.endswith("of b") for found in await answers(small) for r in found)
            await small.container.longterm.rebuild("default", IndexName.VECTORS, untold)
            assert len(small.container.longterm._tenants._open["default"].index.vectors) == 151
            await answers(small)

        small.run(go_on())
    assert len(collections(over)) == 1, "those of before are dropped"
