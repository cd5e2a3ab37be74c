"""Which questions does the memory ask its database?

`Storage.read` and `Storage.write` open one unit of work = one transaction; `UnitOfWork` gives one repository per
aggregate in it. Nobody else commits. Queries live in the repositories; rows come back as frozen domain values.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol

from memory.domain.changes import Position
from memory.domain.events import Appended, Event, Extent
from memory.domain.ids import ItemId
from memory.domain.lineage import Lineage, Stretch
from memory.domain.operations import NewOperation, Operation, OperationKind, OperationState
from memory.domain.principals import Reach
from memory.domain.segments import Cluster, NewSegment, PendingSegment, Span, TierSegment
from memory.domain.sessions import Holdings, LogSize, NewSession, Session
from memory.ports.agents import AgentRepository
from memory.ports.audit import AuditRepository
from memory.ports.codecs import CodebookRepository
from memory.ports.feed import ChangeRepository
from memory.ports.keys import KeyRepository
from memory.ports.memories import MemoryRepository, VersionRepository
from memory.ports.moves import MoveRepository
from memory.ports.private import PrivateRepository
from memory.ports.receipts import ReceiptRepository
from memory.ports.spaces import SpaceRepository
from memory.ports.tenants import TenantRepository
from memory.ports.turns import TurnRepository


class SessionRepository(Protocol):
    async def create(self, tenant_id: str, new: NewSession, now: datetime) -> Session | None:
        """None when the session exists."""

    async def fork(
        self, parent: Session, session_id: str, size: LogSize, inherited: Sequence[Stretch], now: datetime
    ) -> Session | None:
        """A session whose log begins as `inherited`, as closed as its parent; None when the name is taken."""

    async def get(self, tenant_id: str, session_id: str) -> Session | None: ...

    async def locked(self, tenant_id: str, session_id: str) -> Session | None:
        """The session; no other unit of work writes its log until this one ends."""

    async def locked_by_key(self, session_key: int) -> Session | None: ...

    async def by_keys(self, session_keys: Collection[int]) -> dict[int, Session]: ...

    async def lineages(self, tenant_id: str, session_ids: Iterable[str] | None, reach: Reach) -> dict[str, Lineage]:
        """Of these (None: of all), those that exist and are within reach, by session_id."""

    async def page(
        self,
        tenant_id: str,
        *,
        after_key: int | None,
        limit: int,
        reach: Reach | None = None,
        named: str | None = None,
        titles: bool = False,
    ) -> list[Session]:
        """Newest first. `reach` None: all. `named`: with this in the session_id or, of an open one and with `titles`,
        in its title."""

    async def update(self, session: Session, changes: Mapping[str, Any], now: datetime) -> Session: ...

    async def all_locked(self, names: Sequence[tuple[str, str]]) -> list[Session]:
        """Those that exist of (tenant_id, session_id), as `locked`, in an order that no two callers can block in."""

    async def advance(self, sessions: Sequence[Session], now: datetime) -> None:
        """Writes the counters of sessions that have grown (`Session.grown`)."""

    async def mark_segmented(self, session_key: int, seq: int) -> None: ...

    async def bump_semantic(self, session_key: int) -> None: ...

    async def mark_slid(self, session_key: int, tokens: int) -> None: ...

    async def holdings(self, sessions: Sequence[Session]) -> dict[int, Holdings]:
        """Of each by session_key, what it inherits with it."""

    async def inherited_holdings(self, session: Session) -> Holdings:
        """Of a fork, what it inherits alone: all that there is of a new one."""

    async def window_start(self, lineage: Lineage, token_start: int) -> int | None:
        """The place of the first shared event at or after `token_start` on the token axis; None: there is none."""

    async def redacted(self, session_key: int, count: int = 1) -> None:
        """So many more of its own events were."""

    async def all_redactions(self, tenant_id: str) -> int:
        """Events of the tenant that are in the log without their content."""

    async def family_locked(self, session: Session) -> list[Session]:
        """All that were forked from each other, this one with them, as `locked`; nobody forks any of them meanwhile."""

    async def set_descent(self, session: Session) -> None:
        """Writes `parent_key` and `inherited`."""

    async def hand_over(self, session: Session, heir: int, share: Stretch) -> dict[str, int]:
        """Makes the session's events up to the end of `share`, and all its memories, the heir's; counts by kind."""

    async def purge(self, session_key: int) -> dict[str, int]:
        """Deletes the session and all that belongs to it; counts by kind, but for codes (`codebooks.forget`)."""

    async def count(self, tenant_id: str) -> int: ...

    async def totals(self, tenant_id: str) -> dict[str, int]:
        """sessions, events, tokens."""


class EventRepository(Protocol):
    async def add(self, events: Sequence[Event], tokenizer: str) -> None:
        """`tokenizer`: the fingerprint of what counted their tokens."""

    async def by_ids(self, lineage: Lineage, event_ids: Sequence[str]) -> list[Event]: ...

    async def by_keys(self, event_keys: Sequence[int]) -> list[Event]: ...

    async def page(
        self,
        lineage: Lineage,
        audiences: frozenset[str],
        *,
        after_seq: int | None = None,
        before_seq: int | None = None,
        limit: int,
        descending: bool = False,
    ) -> list[Event]:
        """Visible events between the two, both exclusive, in `seq` order or against it."""

    async def redact(self, *events: Event) -> None:
        """Their content, name and metadata go; their places in the log and their token counts stay."""

    async def shared_from(
        self, lineage: Lineage, token_start: int, *, below: int | None = None, limit: int
    ) -> list[Event]:
        """Session-visible events whose place on the shared token axis is in [token_start, below)."""

    async def extents(self, lineage: Lineage, token_start: int, *, below: int | None = None) -> list[Extent]:
        """The same events, in order, without their texts."""

    async def private_from(self, lineage: Lineage, agent_id: str, seq: int, *, limit: int) -> list[Event]:
        """The newest private events of one agent from `seq` on, oldest first."""

    async def size(self, session: Session, last_seq: int) -> LogSize:
        """Of its log up to an event that it has, or up to none (0)."""

    async def unsegmented(self, session_key: int, after_seq: int, limit: int) -> list[Event]:
        """Of the session's own rows."""

    async def recall_answer(self, lineage: Lineage, key_hash: bytes) -> tuple[bytes, Appended] | None:
        """The request hash and the first answer of an Idempotency-Key, as this session's."""

    async def remember_answer(
        self, session_key: int, key_hash: bytes, request_hash: bytes, answer: Appended, now: datetime
    ) -> None: ...

    async def forget_answers(self, before: datetime) -> int: ...


class SegmentRepository(Protocol):
    async def add(self, tenant_id: str, space: str, segments: Sequence[NewSegment], now: datetime) -> None:
        """Segments that are there already are left as they are."""

    async def remove_items(self, *items: ItemId) -> int: ...

    async def pending(self, tenant_id: str, space: str, session_key: int | None, limit: int) -> list[PendingSegment]:
        """Segments without a vector, in the order they were made."""

    async def vectors_by_hash(self, tenant_id: str, space: str, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Vectors of identical texts of the same tenant: they need not be embedded again."""

    async def set_vectors(self, vectors: Mapping[int, bytes], now: datetime) -> None: ...

    async def sign(self, space: str, signatures: Mapping[ItemId, int]) -> None:
        """Of memories' first segments: what like ones are looked up by (services/likeness)."""

    async def signatures(self, tenant_id: str, space: str, after_key: int) -> list[tuple[int, ItemId, int]]:
        """(segment_key, item, signature) of all that have one, by key."""

    async def newest(self, session_key: int, space: str, limit: int) -> list[TierSegment]:
        """Embedded segments of the session that the semantic tier has not seen, oldest first."""

    async def held(self, session_key: int, space: str) -> list[TierSegment]:
        """What the semantic tier holds of the session."""

    async def held_elsewhere(self, session: Session, space: str) -> list[TierSegment]:
        """What counts as held for a fork of what the tier holds of the others in its lineage: of its recent turns."""

    async def since_turn(self, session_key: int, space: str, turn: int) -> int:
        """Number of embedded segments of the session's events after this turn, held or not."""

    async def hold(self, assignment: Mapping[int, int | None]) -> None:
        """segment_key → cluster_key; None: it leaves the semantic tier."""

    async def used(self, uses: Mapping[ItemId, int], now: datetime) -> None:
        """Adds to the uses of the items that the semantic tier holds."""

    async def unsee(self, session_key: int, space: str | None) -> None:
        """For the semantic tier all embedded segments of the session are new again. `space` None: of every space."""

    async def held_items(self, items: Sequence[ItemId]) -> set[ItemId]:
        """Those of which the semantic tier holds a segment."""

    async def spans(self, space: str, items: Sequence[ItemId]) -> dict[ItemId, list[tuple[Span, bytes | None]]]:
        """The segments of each item in order, with their vectors (float16)."""

    async def spans_of(self, segment_keys: Sequence[int]) -> dict[int, Span]:
        """Which characters of its item each segment has."""

    async def counts(self, tenant_id: str) -> dict[str, int]:
        """segments, pending, held"""


class ClusterRepository(Protocol):
    async def of_session(self, session_key: int) -> list[Cluster]: ...

    async def add(self, session_key: int, audience: str, centroid: bytes, size: int) -> int: ...

    async def set(self, centroids: Mapping[int, tuple[bytes, int]]) -> None: ...

    async def remove(self, cluster_keys: Sequence[int]) -> None: ...

    async def count(self, tenant_id: str) -> int: ...


class SummaryRepository(Protocol):
    async def newest(self, session_key: int, *, up_to: int) -> tuple[int, list[str]]:
        """The last step made, at most `up_to`, and its sentences; (0, []) without any."""

    async def add(self, session_key: int, steps: Mapping[int, Sequence[str]]) -> None: ...

    async def forget(self, session_keys: Collection[int]) -> int:
        """All summaries of these sessions; how many."""


class OperationRepository(Protocol):
    async def enqueue(
        self,
        tenant_id: str,
        kind: OperationKind,
        subject: str,
        now: datetime,
        *,
        session_key: int | None = None,
        session_id: str | None = None,
        total: int = 0,
        unit: str,
    ) -> tuple[str, bool]:
        """The id of the unfinished operation of this kind and subject, and whether it is new. `total` adds up."""

    async def enqueue_all(self, wanted: Sequence[NewOperation], now: datetime) -> list[str]:
        """As `enqueue` for several subjects, which the caller has locked; the ids of those that are new."""

    async def get(self, tenant_id: str, operation_id: str) -> Operation | None: ...

    async def by_id(self, operation_id: str, *, locked: bool = False) -> Operation | None:
        """`locked`: nobody else changes it until the unit of work ends."""

    async def claim(self, operation_id: str, lease: timedelta, now: datetime) -> Operation | None:
        """Takes the operation for `lease`; None when it is finished or another worker is at it."""

    async def progress(self, operation_id: str, done: int, lease: timedelta, now: datetime) -> bool:
        """Prolongs the lease. False: it was cancelled."""

    async def finish(
        self,
        operation_id: str,
        state: OperationState,
        now: datetime,
        *,
        error: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """A failed one keeps what was noted of it, so that it can be tried again."""

    async def note(self, operation_id: str, result: Mapping[str, Any]) -> None:
        """Sets the result of an unfinished operation, as far as it is known."""

    async def release(self, operation_id: str, error: str | None, *, afresh: bool = False) -> None:
        """Queued again: the next sweep takes it up. `afresh`: what was to do is done, and there is more."""

    async def retry(self, operation_id: str) -> bool:
        """A failed one is queued again, with all its attempts before it; False: another does the same meanwhile."""

    async def unfinished(self, tenant_id: str, kind: OperationKind, subject: str) -> Operation | None: ...

    async def abandoned(
        self, now: datetime, idle: timedelta, limit: int, *, kinds: Sequence[OperationKind] | None = None
    ) -> list[Operation]:
        """Unfinished operations at which nobody works: queued for longer than `idle`, or the lease ran out."""

    async def page(
        self,
        tenant_id: str,
        *,
        states: Sequence[OperationState] | None,
        after_id: str | None,
        limit: int,
        reach: Reach | None = None,
    ) -> list[Operation]:
        """Newest first."""

    async def counts(self, tenant_id: str | None = None) -> dict[str, int]:
        """Number by state."""

    async def forget(self, finished_before: datetime) -> int: ...

    async def remove(self, operation_id: str) -> None: ...


class UnitOfWork(Protocol):
    """One transaction. The repositories belong to it and end with it."""

    @property
    def tenants(self) -> TenantRepository: ...
    @property
    def keys(self) -> KeyRepository: ...
    @property
    def sessions(self) -> SessionRepository: ...
    @property
    def agents(self) -> AgentRepository: ...
    @property
    def events(self) -> EventRepository: ...
    @property
    def memories(self) -> MemoryRepository: ...
    @property
    def versions(self) -> VersionRepository: ...
    @property
    def segments(self) -> SegmentRepository: ...
    @property
    def spaces(self) -> SpaceRepository: ...
    @property
    def clusters(self) -> ClusterRepository: ...
    @property
    def summaries(self) -> SummaryRepository: ...
    @property
    def codebooks(self) -> CodebookRepository: ...
    @property
    def changes(self) -> ChangeRepository: ...
    @property
    def operations(self) -> OperationRepository: ...
    @property
    def turns(self) -> TurnRepository: ...
    @property
    def moves(self) -> MoveRepository: ...
    @property
    def audit(self) -> AuditRepository: ...
    @property
    def private(self) -> PrivateRepository: ...
    @property
    def receipts(self) -> ReceiptRepository: ...


class Storage(Protocol):
    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A consistent view of what is committed. Raises StorageUnavailable."""

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Commits when the block ends, rolls back when it raises. Keep it short: never embed inside it.

        Raises StorageUnavailable when the database can't be reached or the commit fails.
        """

    async def ping(self) -> None:
        """Raises StorageUnavailable."""

    async def erase_leftovers(self, upto: Position | None = None, *, within: float = math.inf) -> None:
        """Makes deleted rows unreadable in the database's own files, as far as the database lets us (invariant I5).

        `upto`: those that were deleted by this place in the feed, by default all of now. `within`: seconds that the
        caller can wait. Raises StorageUnavailable when it can't be done now, or would take longer.
        """

    async def bytes_used(self) -> int: ...
