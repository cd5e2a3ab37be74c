"""Sessions as clients send and read them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from api.values import Answer, Body, ClientId, Count, Metadata, Title, WindowTokens, absent, unsent
from memory.domain.ids import new_id
from memory.domain.sessions import DEFAULT_SEMANTIC_TURNS, DEFAULT_WINDOW_TOKENS, NewSession
from memory.services.sessions import SessionView


class CreateSession(Body):
    session_id: ClientId | None = Field(default=None, description="Made by the server when absent.")
    title: Title | None = None
    metadata: Metadata = Field(default_factory=dict)
    window_tokens: WindowTokens = DEFAULT_WINDOW_TOKENS
    semantic_turns: Annotated[int, Field(strict=True, ge=1, le=10_000)] = DEFAULT_SEMANTIC_TURNS

    def to_domain(self) -> NewSession:
        return NewSession(
            session_id=self.session_id or new_id(),
            title=self.title,
            metadata=self.metadata,
            window_tokens=self.window_tokens,
            semantic_turns=self.semantic_turns,
        )


class ForkSession(Body):
    session_id: ClientId | None = Field(default=None, description="Of the fork; made by the server when absent.")
    at_seq: Count | None = Field(default=None, description="The last event that it shares; all of them when absent.")


class SummariseSession(Body):
    words: Annotated[int, Field(strict=True, ge=20, le=1_000)] = Field(default=150, description="At most, about.")


class PatchSession(Body):
    """Only what is sent changes; `title: null` removes the title."""

    title: Title | None = unsent()
    metadata: Metadata = unsent()
    window_tokens: WindowTokens = unsent()

    def changes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class HotTier(Answer):
    tokens: int
    blocks: int


class SemanticTier(Answer):
    segments: int
    clusters: int


class LongTermTier(Answer):
    memories: int


class Tiers(Answer):
    hot: HotTier
    semantic: SemanticTier
    longterm: LongTermTier


class SessionAnswer(Answer):
    session_id: str
    title: str | None
    metadata: dict[str, Any]
    window_tokens: int
    semantic_turns: int
    created_at: datetime
    updated_at: datetime
    last_seq: int
    event_count: int
    token_count: int
    forked_from: str | None = Field(
        default=None, exclude_if=absent, description="Unless it is no fork or that is gone."
    )
    closed: bool = Field(description="To all but the agents that it lists.")
    tiers: Tiers

    @classmethod
    def of(cls, view: SessionView) -> Self:
        session, held = view.session, view.tiers
        return cls(
            session_id=session.session_id,
            title=session.title,
            metadata=session.metadata,
            window_tokens=session.window_tokens,
            semantic_turns=session.semantic_turns,
            created_at=session.created_at,
            updated_at=session.updated_at,
            last_seq=session.last_seq,
            event_count=session.event_count,
            token_count=session.token_count,
            forked_from=view.forked_from,
            closed=session.closed,
            tiers=Tiers(
                hot=HotTier(tokens=held.hot_tokens, blocks=held.hot_blocks),
                semantic=SemanticTier(segments=held.semantic_segments, clusters=held.semantic_clusters),
                longterm=LongTermTier(memories=held.longterm_memories),
            ),
        )
