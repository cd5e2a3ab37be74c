"""Where is it written down who did what? Entries are added and read, and never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from memory.domain.audit import Entry, Search


class AuditRepository(Protocol):
    async def add(self, entries: Sequence[Entry]) -> None: ...

    async def page(
        self, tenant_id: str, search: Search, *, after: int | None, limit: int, descending: bool
    ) -> list[Entry]:
        """By number; `after`: the number that the page before ended with."""

    async def forget(self, before: datetime) -> int:
        """Removes what is older."""
