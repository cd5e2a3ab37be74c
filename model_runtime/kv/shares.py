"""How much of each tier may one tenant hold when others need room, and how much of that may it pin?

A share is no wall: room that nobody else needs may be used. When a tier is full, tenants over their share give up
blocks first, so nobody below it loses anything to somebody above it.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """Fractions. `tenant` of each tier; `pins` of a tenant's share of the lowest tier, the one that decides what stays.

    `most_pinned` of that tier by all tenants together: what is not pinned must still find room.
    """

    tenant: float = 0.5
    pins: float = 0.5
    most_pinned: float = 0.5


class Shares:
    """Whose is a namespace? One thread. A namespace that nobody has claimed since the start is a tenant of its own."""

    def __init__(self, options: ShareOptions) -> None:
        self._options = options
        self._owners: dict[bytes, str] = {}

    def claim(self, namespace: bytes, tenant: str) -> None:
        self._owners[namespace] = tenant

    def taken_from(self, tenant: str, known: Iterable[bytes]) -> frozenset[bytes]:
        """What a tenant has claimed, and of the `known` ones what nobody has."""
        unclaimed = {namespace for namespace in known if namespace not in self._owners}
        return frozenset(namespace for namespace, owner in self._owners.items() if owner == tenant) | unclaimed

    def owner(self, namespace: bytes) -> str:
        return self._owners.get(namespace) or namespace.hex()

    def quota(self, tier_bytes: int) -> int:
        """Bytes of a tier of this size."""
        return int(tier_bytes * self._options.tenant)

    def pin_budget(self, tier_bytes: int) -> int:
        """Bytes that a tenant may pin in the lowest tier."""
        return int(self.quota(tier_bytes) * self._options.pins)

    def most_pinned(self, tier_bytes: int) -> int:
        """Bytes that all tenants together may pin there."""
        return int(tier_bytes * self._options.most_pinned)
