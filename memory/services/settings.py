"""When do memories say the same, how good must codes be, who may ask how much, and what is noted of them?"""

from pathlib import Path

from pydantic import BaseModel, Field


class MemorySettings(BaseModel):
    near_duplicate: float = Field(
        default=0.9,
        ge=0.5,
        le=1,
        description="Cosine from which a memory is marked as repeating another; 1: only what is the same.",
    )


class CodecSettings(BaseModel):
    enabled: bool = Field(
        default=False, description="Keep codes of what the semantic tier has let go of, beside its vectors."
    )
    least_recall: float = Field(
        default=0.92,
        ge=0,
        le=1,
        description="Share of nearest neighbours that must stay among the ten best by codes, to adopt a codec.",
    )
    least_segments: int = Field(
        default=2_000, ge=64, description="Segments of a tenant from which on codecs are trained."
    )
    sample: int = Field(default=10_000, ge=64, le=1_000_000, description="Segments that are learned from at most.")
    train_seconds: float = Field(
        default=300, gt=0, description="After so long the training of a codec ends with what it has learned."
    )


class AuditSettings(BaseModel):
    reads: bool = Field(default=False, description="Whether also those are noted who only read.")
    retention_days: int = Field(default=365, ge=1, description="How long the audit is kept.")


class ReceiptSettings(BaseModel):
    folder: Path | None = Field(
        default=None,
        description="Where this process keeps receipts of purges; unset: `receipts` in the data folder.",
    )
    key: Path | None = Field(
        default=None,
        description="File of the Ed25519 key (PEM) that signs them; unset: one that is made once in that folder.",
    )


class LimitSettings(BaseModel):
    """Unset: without limit."""

    counter_url: str | None = Field(
        default=None, description="redis://… that counts for all API processes; unset: each counts for itself."
    )
    key_requests_per_minute: int | None = Field(default=None, ge=1, description="Of one key.")
    key_bytes_per_minute: int | None = Field(default=None, ge=1, description="Of one key: bytes of what it sends.")
    key_tokens_per_day: int | None = Field(
        default=None, ge=1, description="Of one key: tokens that are kept, embedded, or read and written by a model."
    )
    tenant_requests_per_minute: int | None = Field(default=None, ge=1, description="Of all of a tenant.")
    tenant_bytes_per_minute: int | None = Field(default=None, ge=1, description="Of all of a tenant.")
    tenant_tokens_per_day: int | None = Field(default=None, ge=1, description="Of all of a tenant.")
    tenant_sessions: int | None = Field(default=None, ge=1, description="Sessions that a tenant may have at a time.")
