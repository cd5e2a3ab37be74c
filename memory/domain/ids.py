"""How are things named?

Clients name sessions, events, agents and memories with at most 128 characters of a small alphabet. The server's
own names are UUIDv7: they sort by the time they were made. Inside the store a session has a `session_key` of its
own that is never used twice, so a late task cannot touch a session that was purged and made again.
"""

import os
import re
import time
import uuid

CLIENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

ItemId = int
"""An event or a memory in the indexes: `key * 2` for an event, `key * 2 + 1` for a memory."""


def new_id() -> str:
    """A UUIDv7 in its usual 36 characters: 48 bits of milliseconds, 74 random bits (RFC 9562, section 5.7)."""
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80
    value |= 0x7 << 76 | ((random_bits >> 62) & 0xFFF) << 64
    value |= 0b10 << 62 | (random_bits & 0x3FFF_FFFF_FFFF_FFFF)
    return str(uuid.UUID(int=value))


def event_item(event_key: int) -> ItemId:
    return event_key * 2


def memory_item(memory_key: int) -> ItemId:
    return memory_key * 2 + 1


def is_memory(item: ItemId) -> bool:
    return item % 2 == 1


def item_key(item: ItemId) -> int:
    """The event's or memory's own key."""
    return item // 2
