"""Forks copy nothing, yet behave as if each had copied its parent: compared with a plain model that does copy.

Random families that append, write down, fork, purge (with and without their forks) and index in any order.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.adapters.sql.tables import clusters, events, segments, sessions
from memory.domain.errors import NotFound
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import Principal
from memory.domain.recall import TierName
from tests.examples import examples
from tests.invariants.worlds import PRIVATE, World, world

numbers = itertools.count(1)
places = st.integers(0, 99)
KINDS = ["append", "append", "whisper", "write", "fork", "fork", "fork", "purge", "purge", "cascade"]
actions = st.one_of(
    st.tuples(
        st.sampled_from(["append", "append", "whisper", "write", "fork", "fork", "purge", "cascade"]), places, places
    ),
    st.just(("index", 0, 0)),
    st.just(("ask", 0, 0)),
)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("forks")) as opened:
        yield opened


@dataclass(frozen=True)
class Copied:
    """A session that copied what it inherited. `log`: text and owner; `memories`: text and the last seq by then."""

    parent: str | None = None
    log: tuple[tuple[str, str | None], ...] = ()
    memories: tuple[tuple[str, int], ...] = ()

    def forked(self, name: str, seq: int) -> "Copied":
        return Copied(name, self.log[:seq], tuple(m for m in self.memories if m[1] <= seq))

    def seen(self, agent: str | None) -> list[str]:
        return [text for text, owner in self.log if owner in (None, agent)]


@dataclass
class Family:
    world: World
    tenant: str
    model: dict[str, Copied] = field(default_factory=dict)

    def caller(self, agent: str | None = None) -> Principal:
        return Principal(self.tenant, agent_id=agent)

    async def play(self, kind: str, who: int, place: int) -> None:
        if kind == "index":
            await self.world.index(self.tenant)
        elif kind == "ask":
            await self.check()
        elif not self.model:
            await self.append("root", None)
        else:
            await self.act(kind, sorted(self.model)[who % len(self.model)], place)

    async def act(self, kind: str, name: str, place: int) -> None:
        before = self.model[name]
        if kind in ("append", "whisper"):
            await self.append(name, "ann" if kind == "whisper" else None)
        elif kind == "write":
            text = f"common fact{next(numbers)}"
            new = NewMemory(text, MemoryKind.FACT, MemoryVisibility.SESSION, session_id=name)
            await self.world.container.memories.add(self.caller(), [new])
            self.model[name] = replace(before, memories=(*before.memories, (text, len(before.log))))
        elif kind == "fork":
            seq, fork = place % (len(before.log) + 1), f"f{next(numbers)}"
            view = await self.world.container.sessions.fork(self.caller(), name, fork, seq)
            assert (view.session.last_seq, view.forked_from) == (seq, name)
            self.model[fork] = before.forked(name, seq)
        else:
            await self.purge(name, cascade=kind == "cascade")

    async def append(self, name: str, agent: str | None) -> None:
        text = f"common word{next(numbers)}"
        private = {"visibility": PRIVATE, "agent_id": agent} if agent else {}
        await self.world.say(self.caller(agent), name, text, **private)
        before = self.model.get(name, Copied())
        self.model[name] = replace(before, log=(*before.log, (text, agent)))

    async def purge(self, name: str, *, cascade: bool) -> None:
        await self.world.container.forgetting.purge_session(self.caller(), name, cascade=cascade)
        going = {name}
        while cascade and (more := {n for n, one in self.model.items() if one.parent in going} - going):
            going |= more
        parent = self.model[name].parent
        for one in going:
            del self.model[one]
        self.model = {n: replace(one, parent=parent) if one.parent == name else one for n, one in self.model.items()}
        with pytest.raises(NotFound):
            await self.world.container.sessions.get(self.caller(), name)

    async def check(self) -> None:
        for name, copied in self.model.items():
            await self.check_session(name, copied)
        everything = {text for one in self.model.values() for text in one.seen("ann")}
        written = {text for one in self.model.values() for text, _ in one.memories}
        assert await self.found(self.caller("ann")) == sorted(everything | written)
        if len(self.model) > 1:
            some = sorted(self.model)[::2]
            asked = {t for n in some for t in (*self.model[n].seen(None), *(m for m, _ in self.model[n].memories))}
            assert await self.found(self.caller(), tuple(some)) == sorted(asked)
        assert await self.world.container.longterm.verify(self.tenant) == []

    async def check_session(self, name: str, copied: Copied) -> None:
        container = self.world.container
        for agent in (None, "ann"):
            page = await container.events.page(self.caller(agent), name, limit=500)
            assert [event.content for event in page] == copied.seen(agent)
            every = sorted([*copied.seen(agent), *(text for text, _ in copied.memories)])
            assert await self.found(self.caller(agent), (name,)) == every
            hot = await self.found(self.caller(agent), (name,), tiers=frozenset({TierName.HOT}))
            assert hot == sorted(copied.seen(agent))
        view = await container.sessions.get(self.caller(), name)
        assert view.forked_from == copied.parent
        assert (view.session.last_seq, view.session.event_count) == (len(copied.log), len(copied.log))
        assert view.session.token_count == 2 * len(copied.log)
        assert view.tiers.longterm_memories == len(copied.log) + len(copied.memories)

    async def found(self, caller: Principal, names: tuple[str, ...] | None = None, **options: Any) -> list[str]:
        results = await self.world.find(caller, "common", session_ids=names, top_k=200, **options)
        return sorted(result.text for result in results)

    async def check_rows(self) -> None:
        """What is stored is what somebody sees, once."""
        shown = {text for one in self.model.values() for text, _ in one.log}
        async with self.world.container.storage.read() as tx:
            db: Any = tx.events._db  # type: ignore[attr-defined]
            keys = sa.select(sessions.c.session_key).where(sessions.c.tenant_id == self.tenant)
            texts = await db.execute(sa.select(events.c.content).where(events.c.session_key.in_(keys)))
            assert sorted(texts.scalars()) == sorted(shown)
            totals = await tx.sessions.totals(self.tenant)
            assert totals == {"sessions": len(self.model), "events": len(shown), "tokens": 2 * len(shown)}
            items = sa.select(segments.c.item).where(segments.c.tenant_id == self.tenant, segments.c.item % 2 == 0)
            known = sa.select(events.c.event_key * 2)
            assert (await db.execute(items.where(segments.c.item.not_in(known)))).all() == []
            if not self.model:
                assert (await db.execute(items)).all() == []
                left = sa.select(clusters).where(clusters.c.session_key.not_in(sa.select(sessions.c.session_key)))
                assert (await db.execute(left)).all() == []


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=st.lists(actions, min_size=5, max_size=30))
def test_a_family_of_forks_behaves_like_copies(forks: World, played: list[tuple[str, int, int]]) -> None:
    family = Family(forks, f"tenant-{next(numbers)}")

    async def play() -> None:
        for kind, who, place in played:
            await family.play(kind, who, place)
        await family.check()
        await family.check_rows()
        await forks.index(family.tenant)
        await family.check()

    forks.run(play())
