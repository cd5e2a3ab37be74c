"""I3 with agents: who may see what while sessions are closed, agents come and go, and forks are made and purged.

A state machine over the real container, beside a plain model: lists of texts and dictionaries of roles.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memory.domain.agents import AgentRole
from memory.domain.errors import Forbidden, NotFound
from memory.domain.events import EventVisibility
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import KeyScope, Principal
from tests.examples import examples
from tests.invariants.worlds import World, world

AGENTS = (None, "ann", "bob", "cyd")
NAMES = ("s1", "s2", "s3", "s4")
agents, named, names = st.sampled_from(AGENTS), st.sampled_from(AGENTS[1:]), st.sampled_from(NAMES)
CONTENT = frozenset({KeyScope.READ, KeyScope.WRITE})
"""Without `admin`: agents manage each other by their roles alone."""


@dataclass
class Text:
    """Of an event or a memory. `owner`: the one agent that sees it, None: all who see the session."""

    text: str
    owner: str | None
    memory: bool = False


@dataclass
class Modelled:
    log: list[Text] = field(default_factory=list)
    roles: dict[str, AgentRole] | None = None
    """None: open."""

    def may(self, agent: str | None, needed: AgentRole) -> bool:
        if self.roles is None:
            return True
        role = None if agent is None else self.roles.get(agent)
        return role is not None and role.allows(needed)

    def shown(self, agent: str | None) -> set[str]:
        if not self.may(agent, AgentRole.READER):
            return set()
        return {one.text for one in self.log if one.owner in (None, agent)}


class Agents(RuleBasedStateMachine):
    world: ClassVar[World]
    runs: ClassVar[int] = 0

    @initialize()
    def begin(self) -> None:
        Agents.runs += 1
        self.tenant = f"tenant-{Agents.runs}"
        self.sessions: dict[str, Modelled] = {}
        self.said = 0

    def who(self, agent: str | None, *, admin: bool = False) -> Principal:
        return Principal(self.tenant, scopes=CONTENT | ({KeyScope.ADMIN} if admin else frozenset()), agent_id=agent)

    def tried(self, work: Any, allowed: bool) -> None:
        """Done when it is allowed, refused when it is not."""
        if allowed:
            self.world.run(work)
        else:
            with pytest.raises(Forbidden):
                self.world.run(work)

    def new_text(self) -> str:
        self.said += 1
        return f"thing number{self.said}"

    @rule(name=names, agent=agents, private=st.booleans())
    def say(self, name: str, agent: str | None, private: bool) -> None:
        private = private and agent is not None
        session = self.sessions.get(name, Modelled())
        text, visibility = self.new_text(), EventVisibility.PRIVATE if private else EventVisibility.SESSION
        work = self.world.say(self.who(agent), name, text, visibility=visibility)
        allowed = session.may(agent, AgentRole.WRITER)
        self.tried(work, allowed)
        if allowed:
            session.log.append(Text(text, agent if private else None))
            self.sessions[name] = session

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), agent=agents)
    def remember(self, data: st.DataObject, agent: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        session, text = self.sessions[name], self.new_text()
        new = NewMemory(text=text, kind=MemoryKind.NOTE, visibility=MemoryVisibility.SESSION, session_id=name)
        allowed = session.may(agent, AgentRole.WRITER)
        self.tried(self.world.container.memories.add(self.who(agent), [new]), allowed)
        if allowed:
            session.log.append(Text(text, None, memory=True))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), by=agents, admin=st.booleans(), agent=named, role=st.sampled_from(AgentRole))
    def put(self, data: st.DataObject, by: str | None, admin: bool, agent: str, role: AgentRole) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        session = self.sessions[name]
        allowed = admin or (session.roles is not None and session.may(by, AgentRole.OWNER))
        self.tried(self.world.container.agents.put(self.who(by, admin=admin), name, agent, role), allowed)
        if allowed:
            session.roles = (session.roles or {}) | {agent: role}

    @precondition(lambda self: any(session.roles for session in self.sessions.values()))
    @rule(data=st.data(), by=agents)
    def remove(self, data: st.DataObject, by: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, one in self.sessions.items() if one.roles)))
        session = self.sessions[name]
        assert session.roles is not None
        agent = data.draw(st.sampled_from(sorted(session.roles)))
        allowed = agent == by or session.may(by, AgentRole.OWNER)
        self.tried(self.world.container.agents.remove(self.who(by), name, agent), allowed)
        if allowed:
            del session.roles[agent]

    @precondition(lambda self: self.sessions and len(self.sessions) < len(NAMES))
    @rule(data=st.data(), agent=agents)
    def fork(self, data: st.DataObject, agent: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        fork = data.draw(st.sampled_from(sorted(set(NAMES) - set(self.sessions))))
        session = self.sessions[name]
        allowed = session.may(agent, AgentRole.READER)
        self.tried(self.world.container.sessions.fork(self.who(agent), name, fork, None), allowed)
        if allowed:
            self.sessions[fork] = Modelled(list(session.log), None if session.roles is None else dict(session.roles))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), agent=agents)
    def purge(self, data: st.DataObject, agent: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        allowed = self.sessions[name].may(agent, AgentRole.OWNER)
        self.tried(self.world.container.forgetting.purge_session(self.who(agent), name), allowed)
        if allowed:
            del self.sessions[name]

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        if not hasattr(self, "sessions"):
            return
        for agent in AGENTS:
            visible = set[str]().union(*(one.shown(agent) for one in self.sessions.values()))
            assert self.recalled(agent) == visible, agent
            for name, session in self.sessions.items():
                if session.may(agent, AgentRole.READER):
                    assert self.recalled(agent, name) == session.shown(agent), (agent, name)
                    assert self.listed(agent, name) == {
                        one.text for one in session.log if not one.memory and one.owner in (None, agent)
                    }
                else:
                    with pytest.raises((Forbidden, NotFound)):
                        self.recalled(agent, name)
                    with pytest.raises((Forbidden, NotFound)):
                        self.listed(agent, name)

    def recalled(self, agent: str | None, *names: str) -> set[str]:
        found = self.world.run(self.world.find(self.who(agent), "thing", top_k=200, session_ids=names or None))
        return {result.text for result in found}

    def listed(self, agent: str | None, name: str) -> set[str]:
        events = self.world.run(self.world.container.events.page(self.who(agent), name, limit=500))
        return {event.content for event in events}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("agents")) as made:
        yield made


def test_no_agent_sees_what_a_session_keeps_from_it(shared: World) -> None:
    Agents.world = shared
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Agents,
        settings=settings(
            max_examples=examples(6),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_an_operator_sees_the_tiers_of_a_session_and_no_sentence_that_it_may_not_read(shared: World) -> None:
    tenant, admin = "operators", frozenset({KeyScope.ADMIN})
    container, ann = shared.container, Principal("operators", agent_id="ann")

    async def play() -> None:
        await shared.say(ann, "s", "The password of the shed is tangerine.")
        await shared.index(tenant)
        await container.agents.put(ann, "s", "ann", AgentRole.OWNER)
        assert "tangerine" in str(await container.admin.session_tiers(ann, "s"))
        for other in (Principal(tenant), Principal(tenant, agent_id="bob"), Principal(tenant, admin, "ann")):
            shown = await container.admin.session_tiers(other, "s")
            assert shown["semantic"]["segments"] == 1
            assert "tangerine" not in str(shown)

    shared.run(play())
