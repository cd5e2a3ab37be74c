"""What does a follower of the database read, to keep its indexes current?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from memory.domain.changes import Change, NewChange, Position
from memory.domain.ids import ItemId
from memory.domain.segments import SegmentVector


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """An event or memory as the long-term indexes know it. Times: seconds since the epoch; `valid_to` inf: for ever."""

    item: ItemId
    session_key: int | None
    seq: int
    audience: str
    kind: str
    role: str | None
    agent_id: str | None
    created_at: float
    valid_from: float
    valid_to: float
    text: str


class ChangeRepository(Protocol):
    """The change feed, and the rows that it names as a follower needs them."""

    async def add(self, *changes: NewChange) -> Position:
        """The place of the last of them (Position() without any)."""

    async def after(self, position: Position, *, tenant_id: str | None = None, limit: int) -> list[Change]:
        """In feed order, everything committed after `position`; unsettled changes come again on the next call."""

    async def head(self) -> Position:
        """The last settled place."""

    async def event_facts(self, session_key: int, first_seq: int, last_seq: int) -> list[ItemFacts]: ...

    async def redacted_items(self, session_key: int, first_seq: int, last_seq: int) -> list[ItemId]:
        """Of these events, those whose content is gone."""

    async def memory_facts(self, memory_key: int) -> ItemFacts | None: ...

    async def vectors_of_events(
        self, space: str, session_key: int, first_seq: int, last_seq: int
    ) -> list[SegmentVector]: ...

    async def vectors_of_memory(self, space: str, memory_key: int) -> list[SegmentVector]: ...

    async def items(self, tenant_id: str) -> Sequence[ItemId]:
        """Every event of a tenant by key, then every memory: for a rebuild, which reads them page by page."""

    async def facts_of(self, items: Sequence[ItemId]) -> list[ItemFacts]:
        """Of those that are still there and not redacted: events by key, then memories."""

    async def vectors_of(self, space: str, items: Sequence[ItemId]) -> list[SegmentVector]:
        """Item by item, those of each in order."""

    async def metadata_values(
        self, tenant_id: str, session_keys: tuple[int, ...] | None, path: Sequence[str]
    ) -> list[tuple[ItemId, Any]]:
        """Items that have a value at `metadata.<path>`, with it."""

    async def metadata_of(self, items: Sequence[ItemId], path: Sequence[str]) -> list[tuple[ItemId, Any]]:
        """The same of these items."""

    async def follow(self, node: str, position: Position, now: datetime) -> None:
        """This follower's indexes hold everything up to `position` and nothing that was purged before it."""

    async def followed(self, node: str) -> Position | None:
        """Where this follower was when it last said so; None: never."""

    async def unfollow(self, node: str) -> None:
        """It has stopped: nobody waits for it. Its place is kept for its return."""

    async def slowest(self, alive_since: datetime) -> Position | None:
        """The lowest position of the live followers; None without any."""
