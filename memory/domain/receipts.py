"""What proves that something was purged? A signed statement that names it, in a chain with those before it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

BEGINNING = "0" * 64
"""What the first receipt of a database follows."""


class ReceiptKind(StrEnum):
    SESSION = "session"
    MEMORY = "memory"
    EVENT = "event"
    AGENT = "agent"
    TENANT = "tenant"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """`statement`: the JSON that was signed, letter by letter; ids, counts and times, never a text.

    `signature`, `public_key`: Ed25519, in base64.
    """

    number: int
    receipt_id: str
    tenant_id: str
    statement: str
    signature: str
    public_key: str
    at: datetime

    @property
    def digest(self) -> str:
        """What the next one names as `previous`."""
        return hashlib.sha256(f"{self.statement}\n{self.signature}".encode()).hexdigest()

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.statement)
        return content


def written(content: Mapping[str, Any]) -> str:
    """One form for one content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def previous_of(last: SignedReceipt | None) -> str:
    return BEGINNING if last is None else last.digest
