"""I3: no recall crosses a tenant, a session or a visibility border, and `top_k` is met whenever enough is visible.

Random worlds and random questions; what comes back is compared with a plain model of who may see what.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.domain.errors import NotFound
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import Principal
from memory.domain.recall import AllOf, AnyOf, FieldTest, Filter, FilterOp, Not, RecallResult
from tests.examples import examples
from tests.invariants.worlds import World, world

AGENTS = [None, "ann", "bob", "cyd"]
SESSIONS = ["s1", "s2", "s3"]
WORDS = "key pot blue garden train ticket meeting monday doctor guitar".split()
TOPICS = [None, "home", "work"]

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


@dataclass(frozen=True)
class Said:
    session: str
    author: str | None
    private: bool
    role: Role
    topic: str | None
    text: str


@dataclass(frozen=True)
class Written:
    session: str | None
    agent: str | None
    visibility: MemoryVisibility
    kind: MemoryKind
    topic: str | None
    text: str


@st.composite
def events(draw: st.DrawFn) -> Said:
    author = draw(st.sampled_from(AGENTS))
    return Said(
        session=draw(st.sampled_from(SESSIONS)),
        author=author,
        private=author is not None and draw(st.booleans()),
        role=draw(st.sampled_from([Role.USER, Role.ASSISTANT])),
        topic=draw(st.sampled_from(TOPICS)),
        text=draw(texts),
    )


@st.composite
def memories(draw: st.DrawFn) -> Written:
    session, agent = draw(st.sampled_from([None, *SESSIONS])), draw(st.sampled_from(AGENTS))
    allowed = [MemoryVisibility.TENANT]
    allowed += [MemoryVisibility.SESSION] if session is not None else []
    allowed += [MemoryVisibility.PRIVATE] if agent is not None else []
    return Written(
        session=session,
        agent=agent,
        visibility=draw(st.sampled_from(allowed)),
        kind=draw(st.sampled_from([MemoryKind.FACT, MemoryKind.NOTE])),
        topic=draw(st.sampled_from(TOPICS)),
        text=draw(texts),
    )


leaves = st.one_of(
    st.builds(FieldTest, st.just("role"), st.just(FilterOp.EQ), st.sampled_from(["user", "assistant"])),
    st.builds(FieldTest, st.just("agent_id"), st.sampled_from([FilterOp.EQ, FilterOp.NE]), st.sampled_from(AGENTS[1:])),
    st.builds(FieldTest, st.just("kind"), st.just(FilterOp.IN), st.just(["event", "note"])),
    st.builds(FieldTest, st.just("session_id"), st.sampled_from([FilterOp.EQ, FilterOp.NE]), st.sampled_from(SESSIONS)),
    st.builds(FieldTest, st.just("metadata.topic"), st.just(FilterOp.EQ), st.sampled_from(TOPICS[1:])),
    st.builds(FieldTest, st.just("metadata.topic"), st.just(FilterOp.EXISTS), st.booleans()),
)
filters = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.builds(lambda some: AllOf(tuple(some)), st.lists(parts, min_size=1, max_size=2)),
        st.builds(lambda some: AnyOf(tuple(some)), st.lists(parts, min_size=1, max_size=2)),
        st.builds(Not, parts),
    ),
    max_leaves=3,
)


@dataclass(frozen=True)
class Asked:
    tenant: int
    agent: str | None
    key_sessions: frozenset[str] | None
    session_ids: tuple[str, ...] | None
    kinds: frozenset[str] | None
    filter: Filter | None
    top_k: int
    query: str


questions = st.builds(
    Asked,
    tenant=st.integers(0, 1),
    agent=st.sampled_from([*AGENTS, "stranger"]),
    key_sessions=st.sampled_from([None, None, None, frozenset({"s1"}), frozenset({"s2", "s3"})]),
    session_ids=st.one_of(st.none(), st.lists(st.sampled_from(SESSIONS), unique=True, max_size=3).map(tuple)),
    kinds=st.sampled_from([None, None, frozenset({"event"}), frozenset({"fact", "note"})]),
    filter=st.one_of(st.none(), filters),
    top_k=st.integers(1, 30),
    query=texts,
)


@dataclass
class Tenant:
    """The plain model: everything that was stored, by id."""

    name: str
    events: dict[tuple[str, str], Said] = field(default_factory=dict)
    memories: dict[str, Written] = field(default_factory=dict)

    def visible(self, asked: Asked) -> set[tuple[str, str]]:
        reach = asked.session_ids if asked.session_ids is not None else asked.key_sessions
        found: set[tuple[str, str]] = set()
        for (session, event_id), said in self.events.items():
            inside = reach is None or session in reach
            if inside and (not said.private or said.author == asked.agent) and self._asked_for(asked, said):
                found.add((session, event_id))
        for memory_id, written in self.memories.items():
            inside = reach is None or written.session is None or written.session in reach
            mine = written.visibility is not MemoryVisibility.PRIVATE or written.agent == asked.agent
            if inside and mine and self._asked_for(asked, written):
                found.add(("memory", memory_id))
        return found

    def _asked_for(self, asked: Asked, item: Said | Written) -> bool:
        kind = "event" if isinstance(item, Said) else str(item.kind)
        if asked.kinds is not None and kind not in asked.kinds:
            return False
        values: dict[str, Any] = {
            "role": str(item.role) if isinstance(item, Said) else None,
            "agent_id": item.author if isinstance(item, Said) else item.agent,
            "kind": kind,
            "session_id": item.session,
            "metadata.topic": item.topic,
        }
        return asked.filter is None or _passes(asked.filter, values)


def _passes(condition: Filter, values: dict[str, Any]) -> bool:
    match condition:
        case AllOf(parts):
            return all(_passes(part, values) for part in parts)
        case AnyOf(parts):
            return any(_passes(part, values) for part in parts)
        case Not(part):
            return not _passes(part, values)
        case FieldTest(field, FilterOp.EQ, wanted):
            return bool(values[field] == wanted)
        case FieldTest(field, FilterOp.NE, wanted):
            return bool(values[field] != wanted)
        case FieldTest(field, FilterOp.IN, wanted):
            return values[field] in wanted
        case FieldTest(field, FilterOp.EXISTS, wanted):
            return (values[field] is not None) == wanted
    raise AssertionError(condition)


def _key(result: RecallResult) -> tuple[str, str]:
    if result.memory_id is not None:
        return "memory", result.memory_id
    return result.session_id or "", result.events[0].event_id


async def _fill(small: World, tenant: Tenant, said: list[Said], written: list[Written]) -> None:
    everybody = Principal(tenant.name)
    await small.container.events.append(everybody, "s0", [NewEvent(role=Role.USER, content="one more session")])
    tenant.events["s0", (await _ids(small, everybody, "s0"))[0]] = Said("s0", None, False, Role.USER, None, "")
    logs: dict[str, list[NewEvent]] = {s: [NewEvent(Role.USER, "key pot", event_id=f"{s}-0")] for s in SESSIONS}
    for session in SESSIONS:
        tenant.events[session, f"{session}-0"] = Said(session, None, False, Role.USER, None, "key pot")
    for number, event in enumerate(said):
        tenant.events[event.session, f"e{number}"] = event
        new = NewEvent(
            role=event.role,
            content=event.text,
            event_id=f"e{number}",
            agent_id=event.author,
            metadata={} if event.topic is None else {"topic": event.topic},
            visibility=EventVisibility.PRIVATE if event.private else EventVisibility.SESSION,
        )
        logs[event.session].append(new)
    for session, log in logs.items():
        half = len(log) // 2 + 1
        for part in (log[:half], log[half:]):
            if part:
                await small.container.events.append(everybody, session, part)
    for number, memory in enumerate(written):
        new_memory = NewMemory(
            text=memory.text,
            kind=memory.kind,
            visibility=memory.visibility,
            memory_id=f"m{number}",
            session_id=memory.session,
            agent_id=memory.agent,
            metadata={} if memory.topic is None else {"topic": memory.topic},
        )
        # A double in one scope is answered with the one that is there: nothing new to find. With a memory_id of its
        # own it would be a conflict.
        if memory not in tenant.memories.values() and not _double(tenant, memory):
            await small.container.memories.add(everybody, [new_memory])
            tenant.memories[f"m{number}"] = memory


def _double(tenant: Tenant, memory: Written) -> bool:
    def scope(one: Written) -> tuple[Any, ...]:
        owner = one.agent if one.visibility is MemoryVisibility.PRIVATE else None
        return one.visibility, one.session, owner, one.kind, one.text

    return any(scope(one) == scope(memory) for one in tenant.memories.values())


async def _ids(small: World, principal: Principal, session: str) -> list[str]:
    return [e.event_id for e in await small.container.events.page(principal, session, after_seq=None, limit=10)]


async def _compare(small: World, tenant: Tenant, asked: Asked) -> None:
    principal = Principal(tenant.name, agent_id=asked.agent, session_ids=asked.key_sessions)
    wanted = {
        "session_ids": asked.session_ids,
        "top_k": asked.top_k,
        "kinds": asked.kinds,
        "filter": asked.filter,
    }
    beyond = set(asked.session_ids or ()) - (asked.key_sessions or set(SESSIONS))
    if beyond:
        with pytest.raises(NotFound):
            await small.find(principal, asked.query, **wanted)
        return
    results = await small.find(principal, asked.query, **wanted)
    found = [_key(result) for result in results]
    visible = tenant.visible(asked)
    assert set(found) <= visible, f"not for {principal}: {set(found) - visible}"
    assert len(found) == len(set(found)), "shown twice"
    assert len(found) == min(asked.top_k, len(visible))
    assert [r.score for r in results] == sorted((r.score for r in results), reverse=True)
    for result in results:
        if result.memory_id is None:
            assert result.text == tenant.events[_key(result)].text or result.session_id == "s0"


numbers = itertools.count()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("isolation"), longterm={"open_tenants": 4, "commit_after": 40}) as made:
        yield made


@settings(max_examples=examples(16), suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    said=st.lists(st.lists(events(), max_size=25), min_size=2, max_size=2),
    written=st.lists(st.lists(memories(), max_size=8), min_size=2, max_size=2),
    asked=st.lists(questions, min_size=10, max_size=10),
    indexed=st.booleans(),
)
def test_a_recall_gives_what_is_visible_and_nothing_else(
    small: World, said: list[list[Said]], written: list[list[Written]], asked: list[Asked], indexed: bool
) -> None:
    number = next(numbers)
    tenants = [Tenant(f"w{number}.{side}") for side in (0, 1)]

    async def play() -> None:
        for tenant, of_events, of_memories in zip(tenants, said, written, strict=True):
            await _fill(small, tenant, of_events, of_memories)
        if indexed:
            await small.index(tenants[0].name)
        for question in asked:
            await _compare(small, tenants[question.tenant], question)

    small.run(play())


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, list[Tenant]]]:
    """More visible items than a search ranks: only the best candidates are looked at."""
    made = world(tmp_path_factory.mktemp("crowded"), longterm={"scan_limit": 100, "candidates": 10})
    with made as large:
        tenants = [Tenant("big"), Tenant("other")]

        async def fill() -> None:
            for tenant in tenants:
                said = [
                    Said(
                        session=SESSIONS[n % 3],
                        author=AGENTS[n % 4],
                        private=n % 4 != 0 and n % 5 < 3,
                        role=Role.USER if n % 2 else Role.ASSISTANT,
                        topic=TOPICS[n % 7 % 3],
                        text=f"{WORDS[n % 10]} {WORDS[n * 7 % 10]} {WORDS[n // 10 % 10]} {n % 50}",
                    )
                    for n in range(500)
                ]
                await _fill(large, tenant, said, [])
            await large.index("big")

        large.run(fill())
        yield large, tenants


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(asked=questions, many=st.integers(1, 200))
def test_top_k_is_met_where_only_candidates_are_ranked(
    crowded: tuple[World, list[Tenant]], asked: Asked, many: int
) -> None:
    large, tenants = crowded
    for top_k in (asked.top_k, many):
        changed = Asked(**{**{n: getattr(asked, n) for n in Asked.__dataclass_fields__}, "top_k": top_k})
        large.run(_compare(large, tenants[asked.tenant], changed))
