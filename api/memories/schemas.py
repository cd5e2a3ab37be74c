"""Memories as clients send and read them."""

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from api.purges import ReceiptAnswer
from api.recall.filters import BoundedFilter
from api.values import (
    MAX_INT,
    Answer,
    Body,
    ClientId,
    Content,
    Flag,
    Metadata,
    Reason,
    Time,
    absent,
    unsent,
)
from memory.domain.forgetting import ForgetPolicy, ForgetRule
from memory.domain.memories import (
    MAX_MEMORIES_PER_REQUEST,
    MemoryKind,
    MemorySource,
    MemoryVisibility,
    NewMemory,
)
from memory.services.keeping import Added
from memory.services.policies import Forecast, Shown

_CENTURY = 100 * 366 * 24 * 3_600


class Source(Body):
    """The events that a memory was derived from: it goes when they are purged."""

    session_id: ClientId
    event_ids: Annotated[list[ClientId], Field(min_length=1, max_length=1_000)]

    def to_domain(self) -> MemorySource:
        return MemorySource(self.session_id, tuple(self.event_ids))


class SentMemory(Body):
    memory_id: ClientId | None = Field(default=None, description="Made by the server when absent.")
    text: Content
    kind: MemoryKind
    session_id: ClientId | None = None
    agent_id: ClientId | None = Field(default=None, description="Whose memory it is; the acting agent when absent.")
    visibility: MemoryVisibility | None = Field(
        default=None, description="When absent: `session` with a `session_id`, else `tenant`."
    )
    metadata: Metadata = Field(default_factory=dict)
    valid_from: Time | None = None
    valid_to: Time | None = None
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=_CENTURY)] | None = None
    pinned: Flag = False
    source: Source | None = None

    def to_domain(self) -> NewMemory:
        fallback = MemoryVisibility.TENANT if self.session_id is None else MemoryVisibility.SESSION
        return NewMemory(
            text=self.text,
            kind=self.kind,
            visibility=self.visibility or fallback,
            memory_id=self.memory_id,
            session_id=self.session_id,
            agent_id=self.agent_id,
            metadata=self.metadata,
            valid_from=self.valid_from,
            valid_to=self.valid_to,
            ttl_seconds=self.ttl_seconds,
            pinned=self.pinned,
            source=None if self.source is None else self.source.to_domain(),
        )


class AddMemories(Body):
    memories: Annotated[list[SentMemory], Field(min_length=1, max_length=MAX_MEMORIES_PER_REQUEST)]

    def to_domain(self) -> list[NewMemory]:
        return [memory.to_domain() for memory in self.memories]


class PatchMemory(Body):
    """Only what is sent changes; the old version is kept. `valid_to: null` makes it valid for ever."""

    text: Content = unsent()
    metadata: Metadata = unsent()
    valid_to: Time | None = unsent()
    pinned: Flag = unsent()
    visibility: MemoryVisibility = unsent()

    def changes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class SupersedeMemory(Body):
    """What takes its place: of the same scope and kind, valid from now on."""

    text: Content
    reason: Reason | None = None


class RestoreMemory(Body):
    reason: Reason | None = None


_Days = Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)]


class Policy(Body):
    """Each bound stands alone: what breaks one goes. Without a bound, all that `kinds` and `filter` name goes."""

    max_age_days: _Days | None = Field(default=None, description="Since it was written.")
    unused_days: _Days | None = Field(default=None, description="Since it was last recalled, edited or written.")
    keep_top: Annotated[int, Field(strict=True, ge=0, le=MAX_INT)] | None = Field(
        default=None, description="Of the rest the most valuable stay: value falls with disuse, and grows with use."
    )
    kinds: Annotated[list[MemoryKind], Field(min_length=1, max_length=16)] | None = None
    filter: BoundedFilter | None = None
    redundancy: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Of those marked with `near_duplicate_of`, those at least so alike."
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Policy":
        if all(value is None for _, value in self):
            raise PydanticCustomError("empty_policy", "a policy names what is to go: at least one of its fields")
        return self

    def to_domain(self) -> ForgetPolicy:
        return ForgetPolicy(
            max_age_days=self.max_age_days,
            unused_days=self.unused_days,
            keep_top=self.keep_top,
            kinds=None if self.kinds is None else frozenset(str(kind) for kind in self.kinds),
            filter=None if self.filter is None else self.filter.to_domain(),
            redundancy=self.redundancy,
        )


class ForgetMemories(Body):
    policy: Policy
    dry_run: Flag = Field(default=True, description="Shows what would go; `false` purges it.")


class SourceAnswer(Answer):
    session_id: str
    event_ids: list[str]


class MemoryAnswer(Answer):
    memory_id: str
    text: str
    kind: MemoryKind
    session_id: str | None
    agent_id: str | None
    visibility: MemoryVisibility
    metadata: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None
    pinned: bool
    source: SourceAnswer | None
    version: int
    token_count: int
    created_at: datetime
    updated_at: datetime
    access_count: int
    last_accessed_at: datetime | None
    superseded_by: str | None = Field(description="What took its place; `restore` undoes that.")
    supersedes: str | None = Field(description="Whose place it took.")
    near_duplicate_of: str | None = Field(
        description="An earlier memory of its scope that says the same in slightly other words. Both are kept."
    )


class VersionAnswer(Answer):
    """What the memory was from `changed_at` on. `changed_by`: the agent, else the key."""

    version: int
    text: str
    metadata: dict[str, Any]
    visibility: MemoryVisibility
    valid_to: datetime | None
    pinned: bool
    superseded_by: str | None
    changed_at: datetime
    changed_by: str | None
    reason: str | None


class AddedMemory(MemoryAnswer):
    """`deduplicated`: the same text was there in the same scope; this is that memory."""

    deduplicated: bool = False

    @classmethod
    def of(cls, added: Added) -> Self:
        answer = cls.model_validate(added.memory)
        answer.deduplicated = added.deduplicated
        return answer


class AddedMemories(Answer):
    items: list[AddedMemory]


class ReasonAnswer(Answer):
    rule: ForgetRule
    detail: str


class GoingAnswer(Answer):
    """`text`: its first 200 characters. `value`: what it is worth by its use, as `keep_top` ranks it."""

    memory_id: str
    kind: MemoryKind
    session_id: str | None
    created_at: datetime
    text: str
    value: float
    reasons: list[ReasonAnswer]

    @staticmethod
    def of(shown: Shown) -> "GoingAnswer":
        outline = shown.verdict.outline
        return GoingAnswer(
            memory_id=outline.memory_id,
            kind=MemoryKind(outline.kind),
            session_id=outline.session_id,
            created_at=outline.created_at,
            text=shown.text,
            value=round(shown.verdict.value, 6),
            reasons=[ReasonAnswer.model_validate(reason) for reason in shown.verdict.reasons],
        )


class ForgetAnswer(Answer):
    """What would go, or went, the least valuable first; `items` has the first thousand of `total`.

    Pinned memories never go. One call purges 50,000 at most: then ask again. `receipt`: unless it was a dry run.
    """

    dry_run: bool
    considered: int = Field(description="Memories that the policy is about.")
    pinned: int = Field(description="Of these, those that stay because they are pinned.")
    total: int
    by_rule: dict[ForgetRule, int]
    items: list[GoingAnswer]
    receipt: ReceiptAnswer | None = Field(default=None, exclude_if=absent)

    @staticmethod
    def of(forecast: Forecast, *, dry_run: bool) -> "ForgetAnswer":
        rules = Counter(reason.rule for verdict in forecast.going for reason in verdict.reasons)
        return ForgetAnswer(
            dry_run=dry_run,
            considered=forecast.considered,
            pinned=forecast.pinned,
            total=len(forecast.going),
            by_rule=dict(rules),
            items=[GoingAnswer.of(shown) for shown in forecast.shown],
        )
