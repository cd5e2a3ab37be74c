"""A tenant as operators see it."""

from datetime import datetime

from pydantic import Field

from api.values import Answer
from memory.services.tenants import TenantView


class TenantAnswer(Answer):
    tenant_id: str
    created_at: datetime
    sessions: int
    events: int
    tokens: int
    memories: int
    keys: int
    purging: bool = Field(description="It is on its way out: nobody comes in.")

    @classmethod
    def of(cls, view: TenantView) -> "TenantAnswer":
        names = ("sessions", "events", "tokens", "memories", "keys")
        figures = {name: getattr(view.figures, name) for name in names}
        tenant = view.tenant
        return cls(
            tenant_id=tenant.tenant_id, created_at=tenant.created_at, purging=tenant.purging is not None, **figures
        )
