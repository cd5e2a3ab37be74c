"""What is known of a block, of those that an answer holds, and of what became of all of them?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model_runtime.kv.codecs import NAMES, Codec
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.holdings import TIERS

if TYPE_CHECKING:
    import torch

_UNMEASURED = 1.0
"""Seconds that computing a block is said to take, where nobody in this process has computed it."""


@dataclass(eq=False, slots=True)
class Node:
    """A block that some tier holds. `slot`: where it lies on the device. `refs`: sequences that read it."""

    block_id: bytes
    parent: bytes | None
    index: int
    namespace: bytes
    token_ids: tuple[int, ...] | None
    """None of a block that an earlier process wrote: the disk compares them when it is read."""
    codec: Codec
    seconds: float
    """What computing it took."""
    slot: int | None = None
    refs: int = 0
    uses: int = 0
    last_use: float = 0.0
    pinned_until: float = 0.0
    superseded: float = 0.0
    """When the last session that had it went on without it; it counts until somebody uses it again."""
    summary: "torch.Tensor | None" = None
    """Of its keys, on the CPU, once it was asked for: 1/32 of its bytes, wherever it lies."""


@dataclass(slots=True)
class Lease:
    """Blocks that can be read until they are released, and the tier each came from or is streamed from."""

    nodes: list[Node] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Counts:
    """Since the start. `hits`: tokens by tier; the others are blocks."""

    hits: dict[str, int] = field(default_factory=lambda: {"device": 0, "host": 0, "disk": 0})
    evicted: dict[str, dict[str, int]] = field(default_factory=lambda: {tier: {} for tier in TIERS})
    """By tier and reason."""
    prefetched: dict[str, int] = field(default_factory=lambda: {"host": 0, "disk": 0})
    """By the tier they came from."""
    lost: int = 0
    """Blocks that were known and could not be read: damaged, late, or gone."""
    streamed: dict[str, int] = field(default_factory=lambda: {"host": 0, "disk": 0})
    """Bytes that were read where they are, because the device had no room for them."""
    summary_bytes: int = 0
    """Now."""

    def stats(self) -> dict[str, Any]:
        """A copy, from any thread."""
        return {
            "reused_tokens": dict(self.hits),
            "evicted": {tier: dict(reasons) for tier, reasons in self.evicted.items()},
            "prefetched": dict(self.prefetched),
            "lost": self.lost,
            "streamed_bytes": dict(self.streamed),
        }


def adopted(disk: DiskTier, codecs: Callable[[str], Codec]) -> Iterator[Node]:
    """What an earlier process wrote is found again; its content is checked when it is read."""
    for header in disk.scan():
        if header.codec not in NAMES:
            disk.drop(header.block_id)
            continue
        yield Node(
            header.block_id, header.parent, header.index, header.namespace, None, codecs(header.codec), _UNMEASURED
        )
