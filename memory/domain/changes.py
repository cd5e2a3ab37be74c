"""What must a follower of the database do to keep its indexes current?

The change feed lists what was committed, in an order that never changes afterwards. Its entries name rows, they hold
no text; a follower reads the rows as they are now, so applying an entry twice is harmless.
"""

from dataclasses import dataclass
from enum import StrEnum


class ChangeKind(StrEnum):
    EVENTS = "events"
    """events `first_seq` to `last_seq` of a session were appended"""
    VECTORS = "vectors"
    """segments of events `first_seq` to `last_seq` (or of the memory `memory_key`) got their vectors"""
    MEMORY = "memory"
    """the memory `memory_key` was written, edited or purged"""
    REDACTED = "redacted"
    """events `first_seq` to `last_seq` of a session lost their content"""
    SESSION_PURGED = "session_purged"
    TENANT_PURGED = "tenant_purged"
    """all that the tenant had is gone; what the feed says of it later is of a new one of its name"""
    SPACE = "space"
    """the tenant is served in another vector space, and that has all its vectors"""
    RESTORED = "restored"
    """the database was restored from a backup: what was indexed before is of another history"""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the feed. `xid` is the transaction on PostgreSQL and 0 on SQLite, which has one writer."""

    xid: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class NewChange:
    kind: ChangeKind
    tenant_id: str
    session_key: int | None = None
    first_seq: int = 0
    last_seq: int = 0
    memory_key: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """`settled`: no transaction that is still running can commit a change before this one."""

    position: Position
    settled: bool
    kind: ChangeKind
    tenant_id: str
    session_key: int | None
    first_seq: int
    last_seq: int
    memory_key: int | None
