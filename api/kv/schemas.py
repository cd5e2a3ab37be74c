"""A session's KV as clients see it."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field

from api.values import Answer, Body
from memory.domain.kv import KVReport

MAX_TTL_SECONDS = 30 * 86_400


class PinKV(Body):
    ttl_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_TTL_SECONDS)] = Field(
        description="How long what the session has, and adds, is kept; 0 ends the pin."
    )


class ByTier(Answer):
    device: int
    host: int
    disk: int


class SessionKVAnswer(Answer):
    fidelity: str = Field(description="How exactly it is kept.")
    fingerprint: str | None = Field(
        description="Stands for every token up to the last full block, and for all that decides their KV."
    )
    tokens: int = Field(description="With the tail.")
    tail_tokens: int = Field(description="After the last full block.")
    tail: str | None = Field(description="The tier that has the tail; null: it will be computed again.")
    blocks: ByTier = Field(description="A block in two tiers counts in both.")
    bytes: ByTier
    lost: int = Field(description="Blocks that no tier has any more: they will be computed again.")
    pinned_until: datetime | None
    pinned_blocks: int
    generation: int = Field(description="How often the session's KV has changed.")


class TenantKVAnswer(Answer):
    """Bytes. Above its quota a tenant gives up blocks first when others need room."""

    used: ByTier
    quota: ByTier
    pinned: int
    pin_budget: int


class KVAnswer(Answer):
    session_id: str
    kept: SessionKVAnswer | None = Field(description="null: no answer was asked for yet, or its KV was dropped.")
    tenant: TenantKVAnswer

    @classmethod
    def of(cls, session_id: str, report: KVReport) -> Self:
        kept = None if report.session is None else SessionKVAnswer.model_validate(report.session)
        return cls(session_id=session_id, kept=kept, tenant=TenantKVAnswer.model_validate(report.tenant))


class BroughtAnswer(Answer):
    host: int
    disk: int


class PrefetchAnswer(Answer):
    brought: BroughtAnswer = Field(description="Blocks, by the tier they came from.")
    there: int = Field(description="Blocks that were on the device already.")
    left: int = Field(description="Blocks beyond the tenant's share of the device, or quicker computed than loaded.")
    tail_tokens: int
    restore_ms: float


class SuspendAnswer(Answer):
    moved: int = Field(description="Blocks that left the device.")
    stayed: int = Field(description="Blocks that another session has too, or that are being read.")
    bytes: int = Field(description="Free on the device now.")
    tail_tokens: int = Field(description="Tokens of the unfinished block that are kept.")


class DropAnswer(Answer):
    blocks: int
    kept: int = Field(description="Blocks that another session has too.")
    bytes: ByTier
