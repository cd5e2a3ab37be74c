"""What left which tier and why, and what would go next?"""

from dataclasses import dataclass

from memory.domain.kv import BlockMove
from memory.domain.moves import Move, Parts, PolicyName, Reason
from memory.domain.principals import Principal, Scope
from memory.domain.recall import TierName
from memory.domain.sessions import Session
from memory.ports.kv import KVStore
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.tiers import economy
from memory.tiers.economy import SEGMENT, TOKEN
from memory.tiers.hot.tier import HotTier
from memory.tiers.semantic.room import Departure
from memory.tiers.semantic.tier import SemanticTier

_SHOWN = 500
_NEVER = "long-term holds every event and memory and gives up nothing but what is purged: the others are caches of it"
_SLIDES = "the window holds the newest tokens and gives up its oldest range, so that a prompt begins as the one before"


@dataclass(frozen=True, slots=True)
class Wanted:
    """capacity: segments or tokens to be held, None: what the session may hold now."""

    session_id: str
    tier: TierName = TierName.SEMANTIC
    policy: PolicyName = PolicyName.LRU_SIMILARITY
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece that would go. score, parts: see tiers/eviction.py. like_seq: of what stays that it is most like."""

    first_seq: int
    last_seq: int
    reason: Reason
    size: int
    score: float | None = None
    parts: Parts | None = None
    like_seq: int | None = None
    uses: int | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """`leaving`: at most the first 500 of `would_leave`, those that go first first. Sizes are counted in `unit`s.

    price: seconds that the absence of a byte costs when it is asked for.
    """

    session_id: str
    tier: TierName
    policy: PolicyName
    capacity: int
    held: int
    unit: str
    would_leave: int
    leaving: tuple[Candidate, ...] = ()
    price: float | None = None
    note: str | None = None


class Evictions:
    def __init__(self, *, storage: Storage, hot: HotTier, semantic: SemanticTier, kv: KVStore) -> None:
        self._storage = storage
        self._kv = kv
        self._hot = hot
        self._semantic = semantic

    async def page(
        self, principal: Principal, session_id: str | None, *, before_key: int | None, limit: int
    ) -> list[Move]:
        """Newest first. Raises NotFound. Moves of other agents' private events are not shown."""
        audiences = Scope.of(principal, None).audiences
        async with self._storage.read() as tx:
            session = None if session_id is None else await access.any_session(tx, principal, session_id)
            return await tx.moves.page(
                principal.tenant_id,
                audiences,
                session_key=None if session is None else session.session_key,
                before_key=before_key,
                limit=limit,
                only_sessions=principal.session_ids,
            )

    async def blocks(self, principal: Principal) -> list[BlockMove]:
        """Latest moves of the tenant's KV blocks first. Raises NoModelConfigured, KVElsewhere, GeneratorUnavailable.

        A block has no session: it is found by content.
        """
        self._kv.check()
        return await self._kv.moves(principal.tenant_id)

    async def preview(self, principal: Principal, wanted: Wanted) -> Preview:
        """Changes nothing. Raises NotFound."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, wanted.session_id)
            match wanted.tier:
                case TierName.SEMANTIC:
                    return await self._of_semantic(tx, session, principal, wanted)
                case TierName.HOT:
                    return await self._of_hot(tx, session, wanted)
                case TierName.LONGTERM:
                    return _of_longterm(session, wanted)

    async def _of_semantic(self, tx: UnitOfWork, session: Session, principal: Principal, wanted: Wanted) -> Preview:
        audiences = Scope.of(principal, None).audiences
        held, capacity, gone = await self._semantic.preview(tx, session, wanted.policy, wanted.capacity)
        shown = [one for one in gone if one.segment.audience in audiences]
        return Preview(
            session_id=session.session_id,
            tier=wanted.tier,
            policy=wanted.policy,
            capacity=capacity,
            held=sum(segment.audience in audiences for segment in held),
            unit="segments",
            would_leave=len(shown),
            leaving=tuple(_candidate(one) for one in shown[:_SHOWN]),
            price=SEGMENT.per_byte,
        )

    async def _of_hot(self, tx: UnitOfWork, session: Session, wanted: Wanted) -> Preview:
        window = session.window_tokens if wanted.capacity is None else wanted.capacity
        extents = await tx.events.extents(session.lineage, self._hot.window_begin(session))
        sliding = self._hot.sliding(extents, session, window)
        return Preview(
            session_id=session.session_id,
            tier=wanted.tier,
            policy=PolicyName.FIFO,
            capacity=window,
            held=sum(extent.token_count for extent in extents),
            unit="tokens",
            would_leave=len(sliding),
            leaving=tuple(
                Candidate(
                    first_seq=part.first_seq,
                    last_seq=part.last_seq,
                    reason=Reason.WINDOW_SLID,
                    size=part.tokens,
                    score=economy.score(TOKEN, -(session.shared_tokens - part.token_start) / max(1, window)),
                )
                for part in sliding[:_SHOWN]
            ),
            price=TOKEN.per_byte,
            note=_SLIDES,
        )


def _of_longterm(session: Session, wanted: Wanted) -> Preview:
    return Preview(
        session_id=session.session_id,
        tier=wanted.tier,
        policy=wanted.policy,
        capacity=session.event_count,
        held=session.event_count,
        unit="events",
        would_leave=0,
        note=_NEVER,
    )


def _candidate(one: Departure) -> Candidate:
    return Candidate(
        first_seq=one.segment.seq,
        last_seq=one.segment.seq,
        reason=one.decision.reason,
        size=1,
        score=one.decision.score,
        parts=one.decision.parts,
        like_seq=None if one.like is None else one.like.seq,
        uses=one.segment.uses,
    )
