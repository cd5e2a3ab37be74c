"""Which vector space does a tenant live in, and what does it take to move it into another?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from memory.domain.segments import NewSegment, Unfilled
from memory.ports.models import Embedder


class Spaces(Protocol):
    """What this process embeds with."""

    def of(self, tenant_id: str) -> Embedder:
        """The one whose space this process serves the tenant in. Question and index must be of the same space."""

    def embedder(self, space: str) -> Embedder | None:
        """None: its model is not loaded here."""

    def serve(self, tenant_id: str, space: str) -> None:
        """Mutates: from now on this process serves the tenant, wholly, in a space that it has loaded."""

    def leave_to_words(self, tenant_id: str, reason: str) -> None:
        """Mutates: until it is served again, something of the tenant has no vector that this process can compare."""

    def left_to_words(self, tenant_id: str) -> str | None:
        """The reason; None: nothing is."""


class SpaceRepository(Protocol):
    """The space of each tenant as all processes agree on it, and the segments of others."""

    async def all(self) -> dict[str, str | None]:
        """By tenant; None: nothing was embedded for it yet."""

    async def of(self, tenant_id: str, *, held: bool = False) -> str | None:
        """`held`: nobody changes it until the unit of work ends; many may hold it at once."""

    async def begin(self, tenant_id: str, space: str) -> None:
        """Unless it has one."""

    async def change(self, tenant_id: str, space: str) -> None:
        """Waits for those who hold the old one."""

    async def note(self, space: str, embedder: str, now: datetime) -> None:
        """How its model is loaded: by this name (STRATAMEM_EMBEDDER)."""

    async def embedders(self) -> dict[str, str]:
        """What was noted, by space."""

    async def unfilled(self, tenant_id: str, space: str, after_key: int, limit: int) -> list[Unfilled]:
        """Items that have segments in another space and none in this one, by the key of their first segment there."""

    async def count_unfilled(self, tenant_id: str, space: str) -> int: ...

    async def fill(
        self, tenant_id: str, space: str, segments: Sequence[NewSegment], vectors: Sequence[bytes], now: datetime
    ) -> None:
        """Segments with their vectors; those that are there already are left as they are."""

    async def leave(self, tenant_id: str, space: str) -> None:
        """The semantic tier forgets what it holds of other spaces, and all clusters."""

    async def others(self, tenant_id: str, space: str) -> list[str]:
        """Spaces that the tenant has segments in, beside this one."""

    async def drop(self, tenant_id: str, space: str, limit: int) -> int:
        """Deletes segments of a space, as many at most; the number of them."""
