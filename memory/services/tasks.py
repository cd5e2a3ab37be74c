"""What are the jobs called, and what are they about? Services send these names; workers register them."""

CONSOLIDATE = "consolidate"
EMBED = "embed"
EVICT = "evict"
PURGE = "purge"
FORGET = "forget"
SWEEP = "sweep"

SUBJECT_MEMORIES = "memories"


def subject_of_session(session_key: int) -> str:
    return f"session:{session_key}"
