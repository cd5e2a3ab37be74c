"""What are the jobs called, and what are they about? Services send these names; workers register them."""

CONSOLIDATE = "consolidate"
EMBED = "embed"
EVICT = "evict"
INDEXES = "indexes"
PURGE = "purge"
FORGET = "forget"
SWEEP = "sweep"
CODEC = "codec"
REEMBED = "reembed"

SUBJECT_MEMORIES = "memories"
SUBJECT_CODEC = "codec"
SUBJECT_SPACE = "space"


def subject_of_session(session_key: int) -> str:
    return f"session:{session_key}"
