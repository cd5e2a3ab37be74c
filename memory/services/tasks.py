"""What are the jobs called, and what are they about? Services send these names; workers register them."""

from memory.domain.operations import Operation, OperationKind

CONSOLIDATE = "consolidate"
EMBED = "embed"
EVICT = "evict"
INDEXES = "indexes"
PURGE = "purge"
FORGET = "forget"
SWEEP = "sweep"
CODEC = "codec"
REEMBED = "reembed"

FIRST_STEP = {
    OperationKind.INDEX: CONSOLIDATE,
    OperationKind.PURGE: PURGE,
    OperationKind.REBUILD: INDEXES,
    OperationKind.VERIFY: INDEXES,
    OperationKind.CODEC: CODEC,
    OperationKind.FORGET: FORGET,
    OperationKind.REEMBED: REEMBED,
}
"""The job with which each kind of operation begins, and begins again."""

SUBJECT_MEMORIES = "memories"
SUBJECT_CODEC = "codec"
SUBJECT_SPACE = "space"


def subject_of_session(session_key: int) -> str:
    return f"session:{session_key}"


def of_one_process(operation: Operation) -> bool:
    """An index that no worker can reach: its own process takes it up (`services/indexes.py`)."""
    return "node" in (operation.result or {})
