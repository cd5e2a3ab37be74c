"""What is said about the KV of a session and of a tenant? Plain data, so that it crosses to another process.

Tiers are device, host and disk; a block in two of them counts in both.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class SessionKV:
    """What is kept of a session. A block in several tiers counts in each; `lost` ones are in none.

    `namespace` and `last_block` are hex: together they stand for every token and for all that decides its KV.
    """

    codec: str
    namespace: str
    last_block: str | None
    tokens: int
    tail_tokens: int
    generation: int
    pinned_until: float | None
    pinned_blocks: int
    """Fewer than there are where the budget is used up."""
    blocks: dict[str, int]
    bytes: dict[str, int]
    lost: int


@dataclass(frozen=True, slots=True)
class TenantKV:
    """Bytes by tier: what a tenant has, and its share. Pins count in the lowest tier."""

    used: dict[str, int]
    quota: dict[str, int]
    pinned: int
    pin_budget: int


@dataclass(frozen=True, slots=True)
class Described:
    """`session` None: nothing is kept of it. `tail`: the tier of its unfinished block, None where that is lost."""

    session: SessionKV | None
    tail: str | None
    tenant: TenantKV


@dataclass(frozen=True, slots=True)
class Prefetched:
    """Blocks: `brought` to the device by the tier they came from, `there` already, and `left` where they are."""

    brought: dict[str, int]
    there: int
    left: int
    tail_tokens: int
    restore_ms: float


@dataclass(frozen=True, slots=True)
class Suspended:
    """Blocks: `moved` off the device, `stayed` on it (another session has them, or they are read); bytes it freed."""

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


@dataclass(frozen=True, slots=True)
class BlockMove:
    """`blocks` that left the tier `origin` within a second from `at` on (seconds since 1970), or were brought from it.

    `target` None: no tier has them any more. `bytes`: in the tier that they left or were brought to.
    """

    at: float
    origin: str
    target: str | None
    reason: str
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Of a tenant's blocks, newest first; only the latest are known."""

    moves: tuple[BlockMove, ...]


@dataclass(frozen=True, slots=True)
class NotPinned:
    """More than may be pinned: bytes `wanted`, and what is `left` to the tenant, or (`of_all`) to all of them."""

    wanted: int
    left: int
    of_all: bool


Report: TypeAlias = Described | NotPinned | Prefetched | Suspended | Dropped | Moved

QUESTIONS = ("report", "pin", "prefetch", "suspend", "drop", "moves")
"""What may be asked of a session's KV, and (`moves`) of its tenant's.

None comes back where nothing is kept of the session; of `report` always Described, of `moves` always Moved.
"""
