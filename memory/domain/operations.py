"""An asynchronous job with progress. Its row is also the outbox: what was promised and is not yet done."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class OperationKind(StrEnum):
    INDEX = "index"
    PURGE = "purge"
    REBUILD = "rebuild"
    VERIFY = "verify"
    CODEC = "codec"
    FORGET = "forget"
    REEMBED = "reembed"


class IndexName(StrEnum):
    """An index that can be rebuilt and verified by itself."""

    VECTORS = "vectors"
    LEXICAL = "lexical"
    SEMANTIC = "semantic"


class OperationState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (OperationState.QUEUED, OperationState.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class NewOperation:
    """`subject`: what it is about; there is one unfinished operation of a kind and subject at a time."""

    tenant_id: str
    kind: OperationKind
    subject: str
    total: int
    unit: str
    session_key: int | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    operation_id: str
    tenant_id: str
    kind: OperationKind
    session_key: int | None
    session_id: str | None
    state: OperationState
    progress: Progress
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a purge removed, store by store.

    `verified`: every live follower has confirmed that its indexes are clean. `kept`: what forks still see of it, by
    kind; `kept_for`: their session_ids. `receipt_id` None: nothing was to be purged, so nothing was signed.
    """

    purged: dict[str, int]
    verified: bool
    at: datetime
    kept: dict[str, int] = field(default_factory=dict)
    kept_for: tuple[str, ...] = ()
    receipt_id: str | None = None
    signature: str | None = None
