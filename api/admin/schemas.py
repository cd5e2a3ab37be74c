"""Jobs and moves between tiers as operators see them, and what they may ask for."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field

from api.operations.schemas import ProgressAnswer
from api.paging import Page
from api.values import CLIENT_ID_PATTERN, Answer, Body
from memory.domain.moves import Move, PolicyName, Reason
from memory.domain.operations import OperationKind, OperationState
from memory.domain.recall import TierName
from memory.services.evictions import Wanted

_MOST = 1_000_000_000


class JobAnswer(Answer):
    operation_id: str
    kind: OperationKind
    session_id: str | None
    state: OperationState
    progress: ProgressAnswer
    attempts: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobPage(Page[JobAnswer]):
    counts: dict[OperationState, int] = Field(description="Of all the tenant's, not of this page.")


class PartsAnswer(Answer):
    """What a score is the sum of; each is a logarithm."""

    recency: float = Field(description="Minus what was said since the last use, in tierfuls.")
    use: float
    importance: float = Field(description="Of its length: a longer segment answers more questions.")
    cost: float = Field(description="Of the seconds that the absence of a byte costs when it is asked for.")
    redundancy: float = Field(description="Minus what it loses for being like something that stays.")


class MoveAnswer(Answer):
    move_id: str
    at: datetime
    session_id: str
    origin: TierName
    target: TierName
    reason: Reason
    first_seq: int
    last_seq: int
    pieces: int = Field(description="Segments, or events of a window.")
    size: int
    unit: str = Field(description="Of the size: bytes or tokens.")
    score: float | None = Field(description="The lowest goes first; null: nothing was compared.")
    parts: PartsAnswer | None
    cluster: int | None

    @classmethod
    def of(cls, move: Move) -> Self:
        what = move.what
        return cls(
            move_id=str(move.move_key),
            at=move.at,
            session_id=move.session_id,
            origin=what.origin,
            target=what.target,
            reason=what.reason,
            first_seq=what.first_seq,
            last_seq=what.last_seq,
            pieces=what.pieces,
            size=what.size,
            unit=what.unit,
            score=what.score,
            parts=None if what.parts is None else PartsAnswer.model_validate(what.parts),
            cluster=what.cluster_key,
        )


class BlockMoveAnswer(Answer):
    at: datetime
    origin: str
    target: str | None = Field(description="null: no tier has them any more.")
    reason: str
    blocks: int = Field(description="That moved within a second.")
    bytes: int = Field(description="In the tier that they left, or were brought to.")


class PreviewEvictions(Body):
    session_id: Annotated[str, Field(pattern=CLIENT_ID_PATTERN)]
    tier: TierName = TierName.SEMANTIC
    policy: PolicyName = Field(default=PolicyName.LRU_SIMILARITY, description="Of the semantic tier.")
    capacity: Annotated[int, Field(strict=True, ge=0, le=_MOST)] | None = Field(
        default=None, description="Segments (semantic) or tokens (hot); null: what the session may hold now."
    )

    def to_domain(self) -> Wanted:
        return Wanted(self.session_id, self.tier, self.policy, self.capacity)


class CandidateAnswer(Answer):
    first_seq: int
    last_seq: int
    reason: Reason
    size: int
    score: float | None
    parts: PartsAnswer | None
    like_seq: int | None = Field(description="Of what stays, the event that it is most like.")
    uses: int | None


class PreviewAnswer(Answer):
    session_id: str
    tier: TierName
    policy: PolicyName
    capacity: int
    held: int
    unit: str
    would_leave: int
    leaving: list[CandidateAnswer] = Field(description="The first 500 of them, in the order in which they would go.")
    price: float | None = Field(description="Seconds that the absence of a byte costs when it is asked for.")
    note: str | None
