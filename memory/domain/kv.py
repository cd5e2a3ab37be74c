"""What is kept of the KV of a session and of a tenant?

Tiers are device, host and disk; a block in two of them counts in both.
"""

from dataclasses import dataclass
from datetime import datetime

TIERS = ("device", "host", "disk")


def by_tier() -> dict[str, int]:
    return dict.fromkeys(TIERS, 0)


@dataclass(frozen=True, slots=True)
class SessionKV:
    """`fidelity`: how exactly it is kept. `fingerprint` stands for every token up to the last full block, and for all
    that decides their KV. `tokens` with the `tail`: tokens after that block, and the tier that has them (None: lost).
    `lost` blocks are in no tier: they are computed again. `generation`: how often the session's KV has changed.
    """

    fidelity: str
    fingerprint: str | None
    tokens: int
    tail_tokens: int
    tail: str | None
    blocks: dict[str, int]
    bytes: dict[str, int]
    lost: int
    pinned_until: datetime | None
    pinned_blocks: int
    generation: int


@dataclass(frozen=True, slots=True)
class TenantKV:
    """Bytes by tier: what a tenant has, and its share. Pins count in the lowest tier."""

    used: dict[str, int]
    quota: dict[str, int]
    pinned: int
    pin_budget: int


@dataclass(frozen=True, slots=True)
class KVReport:
    """`session` None: nothing is kept of it."""

    session: SessionKV | None
    tenant: TenantKV


@dataclass(frozen=True, slots=True)
class BlockMove:
    """`blocks` that left the tier `origin` within a second from `at` on, or were brought from it to be `read`.

    `target` None: no tier has them any more. `bytes`: in the tier that they left or were brought to.
    """

    at: datetime
    origin: str
    target: str | None
    reason: str
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Prefetched:
    """Blocks: `brought` to the device by the tier they came from, `there` already, `left` where they are."""

    brought: dict[str, int]
    there: int
    left: int
    tail_tokens: int
    restore_ms: float


@dataclass(frozen=True, slots=True)
class Suspended:
    """Blocks: `moved` off the device, `stayed` (another session has them, or they are read). `bytes`: free now."""

    moved: int
    stayed: int
    bytes: int
    tail_tokens: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Blocks: dropped everywhere, and kept because another session has them. `bytes` by tier."""

    blocks: int
    kept: int
    bytes: dict[str, int]
