"""How much of each tier does everybody hold, and what leaves a tier when room is needed?

Reads the cache's blocks and the tiers; changes neither. Sums may be asked for from any thread.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from model_runtime.kv.arena import Arena
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.eviction import Candidate, Choice, choose
from model_runtime.kv.host import HostTier
from model_runtime.kv.shares import Shares

if TYPE_CHECKING:
    from model_runtime.kv.nodes import Node

TIERS = ("device", "host", "disk")


class Holdings:
    def __init__(
        self,
        nodes: "Mapping[bytes, Node]",
        arena: Arena,
        host: HostTier,
        disk: DiskTier | None,
        shares: Shares,
        clock: Callable[[], float],
    ) -> None:
        self.shares = shares
        self._nodes = nodes
        self._arena = arena
        self._host = host
        self._disk = disk
        self._clock = clock

    @property
    def block_bytes(self) -> int:
        """On the device."""
        return self._arena.shape.block_bytes

    @property
    def lowest(self) -> str:
        """The tier that decides what is kept."""
        return "host" if self._disk is None else "disk"

    def capacity(self) -> dict[str, int]:
        """Bytes by tier."""
        return {
            "device": self._arena.slots * self.block_bytes,
            "host": self._host.quota_bytes,
            "disk": 0 if self._disk is None else self._disk.quota_bytes,
        }

    def of(self, node: "Node") -> dict[str, int]:
        """Bytes of a block by tier; 0 where it is not."""
        return {
            "device": 0 if node.slot is None else self.block_bytes,
            "host": self._host.size(node.block_id),
            "disk": 0 if self._disk is None else self._disk.size(node.block_id),
        }

    def where(self, node: "Node") -> str | None:
        """The tier that it is read from."""
        if node.slot is not None:
            return "device"
        if self._host.has(node.block_id):
            return "host"
        return "disk" if self.on_disk(node) else None

    def on_disk(self, node: "Node") -> bool:
        return self._disk is not None and self._disk.has(node.block_id)

    def kept_bytes(self, node: "Node") -> int:
        """In the lowest tier, or as they will be there."""
        held = self.of(node)
        return held[self.lowest] or max(held.values())

    def used_by(self, tenant: str) -> dict[str, int]:
        """Bytes by tier."""
        used = Counter[str]()
        for node in self._of_tenant(tenant):
            used.update(self.of(node))
        return {tier: used[tier] for tier in TIERS}

    def room_of(self, tenant: str) -> int:
        """Bytes that a tenant's share of the lowest tier still takes, with what is to be written there."""
        used = sum(map(self.kept_bytes, self._of_tenant(tenant)))
        return self.shares.quota(self.capacity()[self.lowest]) - used

    def pinned(self, tenant: str | None) -> int:
        """Bytes in the lowest tier; None: of all tenants."""
        now = self._clock()
        nodes = list(self._nodes.values()) if tenant is None else self._of_tenant(tenant)
        return sum(self.kept_bytes(node) for node in nodes if node.pinned_until > now)

    def fullest(self) -> dict[str, float]:
        """By tier, how much of its share the tenant has that has the most of it."""
        used = {tier: Counter[str]() for tier in TIERS}
        for node in list(self._nodes.values()):
            owner = self.shares.owner(node.namespace)
            for tier, nbytes in self.of(node).items():
                used[tier][owner] += nbytes
        return {
            tier: max(used[tier].values(), default=0) / max(1, self.shares.quota(capacity))
            for tier, capacity in self.capacity().items()
        }

    def stats(self) -> dict[str, Any]:
        """Blocks and bytes by tier."""
        disk = self._disk.stats() if self._disk is not None else None
        on_device = self._arena.slots - self._arena.free
        return {
            "blocks": {"device": on_device, "host": len(self._host), "disk": disk.blocks if disk else 0},
            "bytes": {
                "device": on_device * self.block_bytes,
                "host": self._host.bytes,
                "disk": disk.bytes if disk else 0,
            },
            "capacity": self.capacity(),
            "pinned_bytes": self.pinned(None),
            "quota_used": {tier: round(used, 4) for tier, used in self.fullest().items()},
            "quarantined": disk.quarantined if disk else 0,
        }

    def leaving(self, tier: str, need: int) -> list[Choice]:
        """What leaves this tier for so many bytes."""
        there = [node for node in self._nodes.values() if self.of(node)[tier]]
        owners = {self.shares.owner(node.namespace) for node in there}
        quota = self.shares.quota(self.capacity()[tier])
        quotas = dict.fromkeys(owners, quota) if len(owners) > 1 else None  # nobody to be fair to
        now = self._clock()
        return choose([self._candidate(node, tier, now) for node in there], need, now, quotas)

    def _candidate(self, node: "Node", tier: str, now: float) -> Candidate:
        held = self.of(node)
        lasts = any(held[other] for other in ("host", "disk") if other != tier)
        lasts = lasts or (tier == "disk" and held["device"] > 0)
        return Candidate(
            block_id=node.block_id,
            parent=node.parent,
            tenant=self.shares.owner(node.namespace),
            bytes=held[tier],
            last_use=node.last_use,
            uses=node.uses,
            recompute_seconds=node.seconds,
            pinned=node.pinned_until > now and (tier == self.lowest or not held[self.lowest]),
            superseded=node.superseded > node.last_use,
            # Who reads a block finds another copy of it; from the device only those go down that nobody reads.
            refs=0 if lasts and tier != "device" else node.refs,
        )

    def _of_tenant(self, tenant: str) -> "list[Node]":
        return [node for node in list(self._nodes.values()) if self.shares.owner(node.namespace) == tenant]
