"""Who may see what? The one place where a caller's reach is turned into a scope."""

from collections.abc import Sequence

from memory.domain.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed
from memory.domain.principals import Inherited, KeyScope, Principal, Scope
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork


def require(principal: Principal, scope: KeyScope) -> None:
    """Raises Forbidden."""
    if scope not in principal.scopes:
        raise Forbidden(f"this needs a key with the scope '{scope}'")


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


async def session(tx: UnitOfWork, principal: Principal, session_id: str) -> Session:
    """Raises NotFound."""
    check_reach(principal, session_id)
    found = await tx.sessions.get(principal.tenant_id, session_id)
    if found is None:
        raise _absent(session_id)
    return found


async def locked(tx: UnitOfWork, principal: Principal, session_id: str) -> Session:
    """As `session`; nobody else writes its log until the unit of work ends. Raises NotFound."""
    check_reach(principal, session_id)
    found = await tx.sessions.locked(principal.tenant_id, session_id)
    if found is None:
        raise _absent(session_id)
    return found


async def scope(tx: UnitOfWork, principal: Principal, session_ids: Sequence[str] | None) -> Scope:
    """What the caller may see of these sessions, or of all that it may reach. Raises NotFound for an absent one."""
    wanted = session_ids
    if wanted is None and principal.session_ids is not None:
        wanted = sorted(principal.session_ids)
    if wanted is None:
        return Scope.of(principal, None)
    found = await tx.sessions.lineages(principal.tenant_id, wanted)
    for session_id in session_ids or ():
        check_reach(principal, session_id)
        if session_id not in found:
            raise _absent(session_id)
    lineages = sorted(found.values(), key=lambda lineage: lineage.session_key)
    keys = tuple(lineage.session_key for lineage in lineages)
    inherited = [Inherited(lineage.session_key, s) for lineage in lineages for s in lineage.elsewhere]
    return Scope.of(principal, keys, tuple(one for one in inherited if one.stretch.session_key not in keys))


def check_unchanged(if_match: str | None, etag: str) -> None:
    """`if_match`: one entity tag or several, or `*`. Raises PreconditionFailed when none is the current one."""
    if if_match is not None and not {"*", etag} & {tag.strip() for tag in if_match.split(",")}:
        raise PreconditionFailed(f"it has changed meanwhile: its ETag is {etag}", etag=etag)


def _absent(session_id: str) -> NotFound:
    return NotFound(f"there is no session '{session_id}'")
