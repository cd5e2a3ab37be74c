"""Who may see what? The one place where a caller's reach is turned into a scope."""

from collections.abc import Collection, Sequence

from memory.domain.agents import AgentRole
from memory.domain.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed
from memory.domain.generation import WHOLE_TENANT
from memory.domain.principals import Inherited, KeyScope, Principal, Scope
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork


def require(principal: Principal, *scopes: KeyScope) -> None:
    """One of them. Raises Forbidden."""
    if principal.scopes.isdisjoint(scopes):
        named = " or ".join(f"'{scope}'" for scope in scopes)
        raise Forbidden(f"this needs a key with the scope {named}")


def require_unlimited(principal: Principal) -> None:
    """For what is the whole tenant's: who is an agent's, or for some sessions, could reach beyond. Raises Forbidden."""
    if principal.limited:
        raise Forbidden("this needs a key that is not bound to an agent or to sessions")


def check_author(principal: Principal, agent_id: str | None) -> None:
    """Whether the caller may write in the name of this agent. Raises Forbidden when its key is bound to another."""
    if principal.bound and agent_id is not None and agent_id != principal.agent_id:
        raise Forbidden(f"this key is bound to the agent '{principal.agent_id}' and can't act as '{agent_id}'")


def act_as(principal: Principal, agent_id: str | None) -> Principal:
    """The caller, acting as this agent. Raises Forbidden as above, and InvalidInput when it named another before."""
    check_author(principal, agent_id)
    if agent_id is not None and principal.agent_id not in (None, agent_id):
        raise InvalidInput(
            f"the header X-Agent-Id names '{principal.agent_id}', the body '{agent_id}': which of them acts?"
        )
    return principal.acting_as(agent_id)


def check_reach(principal: Principal, session_id: str) -> None:
    """Raises NotFound: what a key may not reach does not exist for it."""
    if not principal.may_reach(session_id):
        raise _absent(session_id)


async def session(
    tx: UnitOfWork, principal: Principal, session_id: str, needed: AgentRole = AgentRole.READER
) -> Session:
    """Raises NotFound, and Forbidden for an agent without that role in a closed session."""
    found = await any_session(tx, principal, session_id)
    await check_roles(tx, found, [principal.agent_id], needed)
    return found


async def locked(
    tx: UnitOfWork, principal: Principal, session_id: str, needed: AgentRole = AgentRole.WRITER
) -> Session:
    """As `session`; nobody else writes its log until the unit of work ends."""
    check_reach(principal, session_id)
    found = await tx.sessions.locked(principal.tenant_id, session_id)
    if found is None:
        raise _absent(session_id)
    await check_roles(tx, found, [principal.agent_id], needed)
    return found


async def managed(tx: UnitOfWork, principal: Principal, session_id: str) -> Session:
    """A session whose agents the caller may name: with the scope `admin`, or as one of its owners. Locked.

    Raises NotFound and Forbidden.
    """
    check_reach(principal, session_id)
    found = await tx.sessions.locked(principal.tenant_id, session_id)
    if found is None:
        raise _absent(session_id)
    if KeyScope.ADMIN not in principal.scopes:
        if not found.closed:
            raise Forbidden("the first agents of a session are named with the scope 'admin'")
        await check_roles(tx, found, [principal.agent_id], AgentRole.OWNER)
    return found


async def purgeable(tx: UnitOfWork, principal: Principal, found: Session) -> None:
    """An open session may be purged by whoever may write; a closed one by its owners and with the scope `admin`.

    Raises Forbidden.
    """
    if KeyScope.ADMIN not in principal.scopes:
        await check_roles(tx, found, [principal.agent_id], AgentRole.OWNER)


async def any_session(tx: UnitOfWork, principal: Principal, session_id: str) -> Session:
    """Whoever takes part in it: for what shows nothing of its content. Raises NotFound."""
    check_reach(principal, session_id)
    found = await tx.sessions.get(principal.tenant_id, session_id)
    if found is None:
        raise _absent(session_id)
    return found


async def check_roles(tx: UnitOfWork, found: Session, agent_ids: Collection[str | None], needed: AgentRole) -> None:
    """Whether each of these agents may do it. Raises Forbidden."""
    if not found.closed:
        return
    named = [agent_id for agent_id in agent_ids if agent_id is not None]
    roles = await tx.agents.roles(found.session_key, named)
    for agent_id in agent_ids:
        role = roles.get(agent_id) if agent_id is not None else None
        if role is None:
            who = f"'{agent_id}' is not" if agent_id is not None else "say which agent acts (X-Agent-Id): it must be"
            raise Forbidden(f"the session '{found.session_id}' is closed, and {who} among its agents")
        if not role.allows(needed):
            raise Forbidden(f"'{agent_id}' is a {role} of '{found.session_id}': this needs a {needed}")


async def scope(tx: UnitOfWork, principal: Principal, session_ids: Sequence[str] | None) -> Scope:
    """What the caller may see of these sessions, or of all that it may reach. Raises NotFound for an absent one, and
    Forbidden for a closed one that does not list the agent."""
    everything = session_ids is None and principal.session_ids is None
    if everything and not await tx.agents.any_closed_to(principal.tenant_id, principal.agent_id):
        return Scope.of(principal, None)
    found = await tx.sessions.lineages(principal.tenant_id, session_ids, principal.reach)
    for session_id in session_ids or ():
        if session_id not in found:
            await session(tx, principal, session_id)  # says why
            raise _absent(session_id)
    lineages = sorted(found.values(), key=lambda lineage: lineage.session_key)
    keys = tuple(lineage.session_key for lineage in lineages)
    inherited = [Inherited(lineage.session_key, s) for lineage in lineages for s in lineage.elsewhere]
    asked = set(keys)
    return Scope.of(principal, keys, tuple(one for one in inherited if one.stretch.session_key not in asked))


async def reads(tx: UnitOfWork, principal: Principal, found: Session) -> bool:
    """Whether the caller may see its content: an operator may see the rest."""
    if KeyScope.READ not in principal.scopes:
        return False
    try:
        await check_roles(tx, found, [principal.agent_id], AgentRole.READER)
    except Forbidden:
        return False
    return True


def share_group(found: Session | None) -> str:
    """With whom a session shares its KV (decision 16): a closed one with its family, any other with its tenant."""
    return f"family {found.family}" if found is not None and found.closed else WHOLE_TENANT


def check_unchanged(if_match: str | None, etag: str) -> None:
    """`if_match`: one entity tag or several, or `*`. Raises PreconditionFailed when none is the current one."""
    if if_match is not None and not {"*", etag} & {tag.strip() for tag in if_match.split(",")}:
        raise PreconditionFailed(f"it has changed meanwhile: its ETag is {etag}", etag=etag)


def _absent(session_id: str) -> NotFound:
    return NotFound(f"there is no session '{session_id}'")
