"""What operators see of sessions; forks are in test_forks."""

from memory.domain.agents import AgentRole
from memory.domain.principals import KeyScope, Principal
from memory.domain.sessions import NewSession
from tests.unit.memory.services.conftest import ME, say

OPERATOR = Principal("default", scopes=frozenset({KeyScope.ADMIN}))
BOUND = Principal("default", session_ids=frozenset({"open"}))


async def shown(container, who, named=None):
    found = await container.sessions.all(who, named=named, after_key=None, limit=9)
    return {view.session.session_id: view.session.title for view in found}


async def test_an_operator_sees_every_session_and_no_title_that_he_may_not_read(container):
    for name in ("open", "closed"):
        await container.sessions.create(ME, NewSession(name, title=f"About {name}", metadata={"of": name}))
    await container.agents.put(ME, "closed", "ann", AgentRole.OWNER)
    assert await shown(container, ME) == {"open": "About open", "closed": None}
    assert await shown(container, OPERATOR) == {"open": None, "closed": None}
    assert await shown(container, BOUND) == {"open": "About open"}
    assert await shown(container, Principal("other")) == {}


async def test_what_may_not_be_read_is_not_searched_either(container):
    await container.sessions.create(ME, NewSession("s", title="Lisbon"))
    await say(container, "lisbon-2", "hello")
    assert set(await shown(container, ME, "lisbon")) == {"s", "lisbon-2"}
    assert set(await shown(container, OPERATOR, "lisbon")) == {"lisbon-2"}
