"""Agents listed in sessions, and what a reach leaves out."""

from dataclasses import replace

import pytest

from memory.domain.agents import AgentRole, SessionAgent
from memory.domain.memories import MemoryVisibility
from memory.domain.operations import NewOperation, OperationKind
from memory.domain.principals import Reach
from memory.domain.sessions import LogSize
from tests.services import EVERYONE, NOW, TENANT, add_memory, add_session

OWNER, WRITER, READER = AgentRole.OWNER, AgentRole.WRITER, AgentRole.READER
ANN, BOB, NOBODY = Reach(None, "ann"), Reach(None, "bob"), Reach(None, None)
LATER = NOW.replace(hour=20)


async def test_an_agent_is_listed_once_and_keeps_its_time(storage):
    async with storage.write() as tx:
        key = (await add_session(tx)).session_key
        assert not (await tx.sessions.get(TENANT, "s")).closed
        assert await tx.agents.put(key, "ann", OWNER, NOW) == SessionAgent("ann", OWNER, NOW)
        assert await tx.agents.put(key, "bob", READER, NOW) == SessionAgent("bob", READER, NOW)
        assert await tx.agents.put(key, "bob", WRITER, LATER) == SessionAgent("bob", WRITER, NOW)
        assert (await tx.sessions.get(TENANT, "s")).closed
        assert await tx.agents.count(key) == 2
        assert await tx.agents.roles(key, ["ann", "bob", "cyd"]) == {"ann": OWNER, "bob": WRITER}
        assert await tx.agents.roles(key, []) == {}


async def test_agents_are_paged_by_name(storage):
    async with storage.write() as tx:
        key = (await add_session(tx)).session_key
        for name in ("c", "a", "B", "d"):
            await tx.agents.put(key, name, READER, NOW)
        names = [agent.agent_id for agent in await tx.agents.page(key, after=None, limit=9)]
        assert sorted(names) == ["B", "a", "c", "d"]
        first = await tx.agents.page(key, after=None, limit=3)
        rest = await tx.agents.page(key, after=first[-1].agent_id, limit=9)
        assert [agent.agent_id for agent in first + rest] == names


async def test_a_session_stays_closed_when_its_last_agent_is_removed(storage):
    async with storage.write() as tx:
        key = (await add_session(tx)).session_key
        await tx.agents.put(key, "ann", OWNER, NOW)
        assert await tx.agents.remove(key, "ann")
        assert not await tx.agents.remove(key, "ann")
        assert (await tx.sessions.get(TENANT, "s")).closed
        assert await tx.agents.any_closed_to(TENANT, "ann")


async def test_a_reach_leaves_out_what_is_closed_to_its_agent(storage):
    async with storage.write() as tx:
        of = {name: await add_session(tx, name) for name in ("open", "anns", "bobs", "both")}
        elsewhere = await add_session(tx, "anns", "other")
        for name, agents in (("anns", ["ann"]), ("bobs", ["bob"]), ("both", ["ann", "bob"])):
            for agent in agents:
                await tx.agents.put(of[name].session_key, agent, READER, NOW)
        await tx.agents.put(elsewhere.session_key, "cyd", READER, NOW)
        for reach, names in ((ANN, ["both", "anns", "open"]), (BOB, ["both", "bobs", "open"]), (NOBODY, ["open"])):
            page = await tx.sessions.page(TENANT, after_key=None, limit=9, reach=reach)
            assert [session.session_id for session in page] == names
            assert set(await tx.sessions.lineages(TENANT, None, reach)) == set(names)
            assert set(await tx.sessions.lineages(TENANT, ["anns", "open"], reach)) == {"anns", "open"} & set(names)
        some = replace(ANN, session_ids=frozenset({"anns", "bobs"}))
        assert set(await tx.sessions.lineages(TENANT, None, some)) == {"anns"}
        assert len(await tx.sessions.page(TENANT, after_key=None, limit=9)) == 4


@pytest.mark.parametrize(
    ("agents", "closed_to"), [([], []), (["ann"], ["bob", None]), (["ann", "bob"], [None])], ids=str
)
async def test_whether_anything_is_closed_to_an_agent(storage, agents, closed_to):
    async with storage.write() as tx:
        await add_session(tx, "open")
        key = (await add_session(tx)).session_key
        foreign = (await add_session(tx, "s", "other")).session_key
        await tx.agents.put(foreign, "cyd", READER, NOW)
        for agent in agents:
            await tx.agents.put(key, agent, READER, NOW)
        for agent in ("ann", "bob", None):
            assert await tx.agents.any_closed_to(TENANT, agent) == (agent in closed_to), agent


async def test_memories_and_operations_of_a_closed_session_are_left_out(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.agents.put(session.session_key, "ann", READER, NOW)
        inside = await add_memory(tx, session_key=session.session_key, visibility=MemoryVisibility.SESSION)
        outside = await add_memory(tx)
        made = []
        for key, name in ((session.session_key, "s"), (None, None)):
            operation = NewOperation(TENANT, OperationKind.INDEX, f"subject {name}", 1, "events", key, name)
            made += await tx.operations.enqueue_all([operation], NOW)
        for reach, all_of_it in ((ANN, True), (BOB, False), (NOBODY, False)):
            memories = await tx.memories.page(TENANT, EVERYONE, after_key=None, limit=9, reach=reach)
            wanted = {inside.memory_id, outside.memory_id} if all_of_it else {outside.memory_id}
            assert {memory.memory_id for memory in memories} == wanted
            listed = await tx.operations.page(TENANT, states=None, after_id=None, limit=9, reach=reach)
            assert {one.operation_id for one in listed} == set(made if all_of_it else made[1:])


async def test_a_fork_of_a_closed_session_is_closed_to_the_same(storage):
    async with storage.write() as tx:
        parent = await add_session(tx)
        await tx.agents.put(parent.session_key, "ann", OWNER, NOW)
        await tx.agents.put(parent.session_key, "bob", READER, NOW)
        parent = await tx.sessions.get(TENANT, "s")
        fork = await tx.sessions.fork(parent, "fork", LogSize(), (), NOW)
        await tx.agents.inherit(parent.session_key, fork.session_key, LATER)
        assert await tx.agents.page(fork.session_key, after=None, limit=9) == [
            SessionAgent("ann", OWNER, LATER),
            SessionAgent("bob", READER, LATER),
        ]
        assert fork.closed


async def test_a_purge_takes_the_list_along(storage, database):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.agents.put(session.session_key, "ann", OWNER, NOW)
        await tx.sessions.purge(session.session_key)
    assert await database.rows("SELECT * FROM session_agents") == []
