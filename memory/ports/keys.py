"""Which keys are there, whose are they, and when were they last used?"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from memory.domain.principals import Key


class KeyRepository(Protocol):
    async def add(self, key: Key) -> None: ...

    async def find(self, key_id: str) -> Key | None: ...

    async def any(self, now: datetime) -> bool:
        """Whether a key is valid now."""

    async def page(self, tenant_id: str | None, *, after: Key | None, limit: int) -> list[Key]:
        """Newest first, the revoked and the expired with them. `tenant_id` None: of all tenants."""

    async def revoke(self, key_id: str, now: datetime) -> None:
        """It stays listed; the first revocation counts."""

    async def used(self, moments: Mapping[str, datetime]) -> None:
        """By key_id; a later moment that is known already stays."""
