"""Who asks, and what may they see?"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from memory.domain.agents import AgentRole
from memory.domain.lineage import Stretch

DEFAULT_TENANT = "default"
KEY_PREFIX = "sm_"
"""What our own keys begin with; other Bearer values are not ours."""


class KeyScope(StrEnum):
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


ALL_SCOPES = frozenset(KeyScope)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which sessions of its tenant a caller may read (`needed`: or more): these (None: all), but no closed one in which
    its agent has not that role."""

    session_ids: frozenset[str] | None
    agent_id: str | None
    needed: AgentRole = AgentRole.READER


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `agent_id` is who it acts as; `bound` says that the key allows no other agent.

    `subject`: whom a token of another issuer names; such a caller has no key.
    """

    tenant_id: str
    scopes: frozenset[KeyScope] = ALL_SCOPES
    agent_id: str | None = None
    bound: bool = False
    session_ids: frozenset[str] | None = None
    key_id: str | None = None
    subject: str | None = None

    def acting_as(self, agent_id: str | None) -> "Principal":
        return self if agent_id is None else replace(self, agent_id=agent_id)

    @property
    def reach(self) -> Reach:
        return Reach(self.session_ids, self.agent_id)

    @property
    def caller_id(self) -> str | None:
        """Who is counted and noted: the key, or whom a token names; None: nobody had to say who he is."""
        return f"sub:{self.subject}" if self.subject is not None else self.key_id

    @property
    def limited(self) -> bool:
        """It is somebody's within the tenant: an agent's, or for some sessions only."""
        return self.bound or self.session_ids is not None

    def may_reach(self, session_id: str) -> bool:
        return self.session_ids is None or session_id in self.session_ids


SHARED = "session"
TENANT_WIDE = "tenant"
_PRIVATE = "private:"


def private_to(agent_id: str) -> str:
    """The visibility class of what only one agent may see."""
    return _PRIVATE + agent_id


@dataclass(frozen=True, slots=True)
class Inherited:
    """A stretch of a log that is not asked for itself, visible as part of the fork `heir` (a session_key)."""

    heir: int
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Scope:
    """What one caller may see, resolved before anything is ranked (invariant I3).

    `session_keys` None: every session of the tenant. `inherited`: what forks among them share with sessions that are
    not among them. `audiences` are the visibility classes that are visible; memories of the tenant are included
    whatever the sessions.
    """

    tenant_id: str
    session_keys: tuple[int, ...] | None
    audiences: frozenset[str]
    inherited: tuple[Inherited, ...] = ()
    _keys: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", frozenset(self.session_keys or ()))

    @staticmethod
    def of(
        principal: Principal, session_keys: tuple[int, ...] | None, inherited: tuple[Inherited, ...] = ()
    ) -> "Scope":
        audiences = {SHARED, TENANT_WIDE}
        if principal.agent_id is not None:
            audiences.add(private_to(principal.agent_id))
        return Scope(principal.tenant_id, session_keys, frozenset(audiences), inherited)

    @property
    def logs(self) -> tuple[int, ...] | None:
        """Every session of which something may be visible; None: all."""
        if self.session_keys is None:
            return None
        return tuple(sorted({*self.session_keys, *(one.stretch.session_key for one in self.inherited)}))

    def shows(self, session_key: int, seq: int) -> int | None:
        """The session as part of which an event is visible, whatever its audience; None: it is not."""
        if self.session_keys is None or session_key in self._keys:
            return session_key
        return next((one.heir for one in self.inherited if one.stretch.holds(session_key, seq)), None)

    def shows_memory(self, session_key: int, memory_key: int) -> int | None:
        """The same of a memory that belongs to a session."""
        if self.session_keys is None or session_key in self._keys:
            return session_key
        return next((one.heir for one in self.inherited if one.stretch.holds_memory(session_key, memory_key)), None)


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key: its secret part is known only as a hash. `last_used_at` is true to the minute."""

    key_id: str
    tenant_id: str
    secret_hash: bytes
    scopes: frozenset[KeyScope]
    agent_id: str | None = None
    session_ids: frozenset[str] | None = None
    name: str | None = None
    created_at: datetime = field(kw_only=True)
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    @property
    def prefix(self) -> str:
        """What its bearer's token begins with: enough to recognise it, nothing to use."""
        return f"{KEY_PREFIX}{self.key_id}"

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
