"""A conversation that agents share: an append-only log and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from memory.domain.events import Event, EventVisibility, Metadata, Role
from memory.domain.lineage import Lineage, Stretch

DEFAULT_WINDOW_TOKENS = 131_072
DEFAULT_SEMANTIC_TURNS = 100


@dataclass(frozen=True, slots=True)
class NewSession:
    session_id: str
    title: str | None = None
    metadata: Metadata = field(default_factory=dict)
    window_tokens: int = DEFAULT_WINDOW_TOKENS
    semantic_turns: int = DEFAULT_SEMANTIC_TURNS


@dataclass(frozen=True, slots=True)
class Session:
    """`version` counts changes of the patchable fields (the ETag), `semantic_version` those of its clusters.

    A fork: `parent_key` is the nearest session it was forked from that still exists, `family_key` the same for all that
    come of one session, `inherited` what it shares; `inherited_events` and `inherited_tokens` are in its counters, but
    others' rows. `segmented_seq` is about its own rows. `closed`: agents were listed, and nobody else may come in.
    `slid_tokens`: up to there on the token axis it is written down that the window has moved on. `redactions`: of its
    own events.
    """

    session_key: int
    tenant_id: str
    session_id: str
    title: str | None
    metadata: Metadata
    window_tokens: int
    semantic_turns: int
    created_at: datetime
    updated_at: datetime
    last_seq: int
    event_count: int
    token_count: int
    shared_tokens: int
    turns: int
    version: int
    segmented_seq: int
    semantic_version: int
    parent_key: int | None = None
    family_key: int | None = None
    inherited: tuple[Stretch, ...] = ()
    inherited_events: int = 0
    inherited_tokens: int = 0
    closed: bool = False
    redactions: int = 0
    slid_tokens: int = 0

    @property
    def lineage(self) -> Lineage:
        return Lineage(self.session_key, self.inherited)

    @property
    def family(self) -> int:
        """The key of the first of its family, whether that one still exists or not."""
        return self.session_key if self.family_key is None else self.family_key

    @property
    def etag(self) -> str:
        return f'"{self.session_key}-{self.version}"'

    def grown(self, added: Sequence[Event]) -> "Session":
        """With its counters after these events at the end of its log."""
        if not added:
            return self
        return replace(
            self,
            last_seq=added[-1].seq,
            event_count=self.event_count + len(added),
            token_count=self.token_count + sum(event.token_count for event in added),
            shared_tokens=self.shared_tokens
            + sum(event.token_count for event in added if event.visibility is EventVisibility.SESSION),
            turns=self.turns + sum(event.role is Role.USER for event in added),
        )


@dataclass(frozen=True, slots=True)
class LogSize:
    """What a log amounts to up to a place; `shared_tokens` is that place on the token axis."""

    last_seq: int = 0
    token_count: int = 0
    shared_tokens: int = 0
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is derived from a session or written down in it: memories, and what the semantic tier holds of it."""

    memories: int = 0
    segments: int = 0
    clusters: int = 0

    def __add__(self, other: "Holdings") -> "Holdings":
        return Holdings(self.memories + other.memories, self.segments + other.segments, self.clusters + other.clusters)


@dataclass(frozen=True, slots=True)
class TierCounts:
    """How much of one session each tier holds."""

    hot_tokens: int
    hot_blocks: int
    semantic_segments: int
    semantic_clusters: int
    longterm_memories: int
