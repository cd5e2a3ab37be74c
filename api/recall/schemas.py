"""What is asked of the memory, and what comes back."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.recall.filters import BoundedFilter
from api.values import Answer, Body, ClientId, Content, Flag, MaxTokens, Time, absent
from memory.domain.memories import MemoryKind
from memory.domain.recall import ALL_TIERS, MAX_TOP_K, Recalled, RecallRequest, RecallResult, TierName

TopK = Annotated[int, Field(strict=True, ge=1, le=MAX_TOP_K)]
MAX_SESSIONS = 1_000


class RecallQuery(Body):
    query: Content
    session_ids: Annotated[list[ClientId], Field(max_length=MAX_SESSIONS)] | None = Field(
        default=None, description="All that the caller may see when absent; memories of the tenant are always included."
    )
    agent_id: ClientId | None = Field(default=None, description="Who asks; goes before `X-Agent-Id`.")
    top_k: TopK = 10
    max_tokens: MaxTokens | None = None
    threshold: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    tiers: Annotated[list[TierName], Field(min_length=1, max_length=16)] | None = None
    kinds: Annotated[list[Literal["event"] | MemoryKind], Field(min_length=1, max_length=16)] | None = None
    filter: BoundedFilter | None = None
    as_of: Time | None = None
    explain: Flag = False

    def to_domain(self) -> RecallRequest:
        return RecallRequest(
            query=self.query,
            session_ids=None if self.session_ids is None else tuple(self.session_ids),
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            threshold=self.threshold,
            tiers=ALL_TIERS if self.tiers is None else frozenset(self.tiers),
            kinds=None if self.kinds is None else frozenset(str(kind) for kind in self.kinds),
            filter=None if self.filter is None else self.filter.to_domain(),
            as_of=self.as_of,
            explain=self.explain,
        )


class EventRefAnswer(Answer):
    event_id: str
    seq: int


class ResultAnswer(Answer):
    """`char_start` and `char_end` where the event is too long to be shown whole; `signals` only with `explain`."""

    text: str
    score: float = Field(description="0 to 1; comparable within an answer, and between answers only roughly.")
    tier: TierName
    kind: str
    memory_id: str | None
    session_id: str | None
    events: list[EventRefAnswer]
    agent_id: str | None
    role: str | None
    created_at: datetime
    tokens: int
    metadata: dict[str, Any]
    char_start: int | None = Field(default=None, exclude_if=absent)
    char_end: int | None = Field(default=None, exclude_if=absent)
    signals: dict[str, float] | None = Field(default=None, exclude_if=absent)

    @staticmethod
    def of(result: RecallResult) -> "ResultAnswer":
        return ResultAnswer(
            text=result.text,
            score=result.score,
            tier=result.tier,
            kind=result.kind,
            memory_id=result.memory_id,
            session_id=result.session_id,
            events=[EventRefAnswer(event_id=e.event_id, seq=e.seq) for e in result.events],
            agent_id=result.agent_id,
            role=result.role,
            created_at=result.created_at,
            tokens=result.tokens,
            metadata=result.metadata,
            char_start=None if result.span is None else result.span.start,
            char_end=None if result.span is None else result.span.end,
            signals=result.signals,
        )


class DegradedAnswer(Answer):
    tier: str
    reason: str


class Usage(Answer):
    tokens: int
    took_ms: float


class RecallAnswer(Answer):
    """Best first. `degraded` names tiers that could not answer: without it, what is not here was not found."""

    results: list[ResultAnswer]
    degraded: list[DegradedAnswer]
    usage: Usage

    @staticmethod
    def of(recalled: Recalled, seconds: float) -> "RecallAnswer":
        return RecallAnswer(
            results=[ResultAnswer.of(result) for result in recalled.results],
            degraded=[DegradedAnswer.model_validate(tier) for tier in recalled.degraded],
            usage=Usage(tokens=recalled.tokens, took_ms=round(seconds * 1_000, 2)),
        )
