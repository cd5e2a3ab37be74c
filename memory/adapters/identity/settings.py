"""Whose tokens are believed, and what do their claims mean here?"""

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator

from memory.domain.ids import CLIENT_ID

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class OidcSettings(BaseModel):
    issuer: str | None = Field(
        default=None, description="https://… of an OpenID Connect provider whose tokens are let in; unset: none."
    )
    audience: str | None = Field(default=None, description="What tokens for this service name as `aud`; needed.")
    jwks_url: str | None = Field(
        default=None, description="Where the issuer's keys are; unset: what its discovery document says."
    )
    tenant: str | None = Field(default=None, description="The tenant of all tokens; unset: `tenant_claim` says it.")
    tenant_claim: str = Field(default="tenant_id", description="The claim that names the tenant.")
    scopes_claim: str = Field(default="scope", description="The claim with the scopes: words or a list.")
    scope_prefix: str = Field(default="stratamem:", description="What scopes for this service begin with.")
    agent_claim: str | None = Field(
        default=None,
        description="The claim with the only agent that a token may act as; a token without it is refused.",
    )
    sessions_claim: str | None = Field(
        default=None,
        description="The claim with the only sessions that a token reaches; a token without it is refused.",
    )
    leeway: float = Field(default=30, ge=0, le=300, description="Seconds that the issuer's clock may differ.")
    timeout: float = Field(default=5, gt=0, le=60, description="Seconds that the issuer may take to tell its keys.")
    keys_for: float = Field(default=300, gt=0, description="Seconds until the issuer's keys are asked for again.")

    @field_validator("issuer", "audience", "jwks_url", "tenant", "agent_claim", "sessions_claim", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        """Who can change the keys on their way could make any token."""
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("must begin with https:// (http:// only on this machine)")
        return url

    @field_validator("tenant")
    @classmethod
    def _an_id(cls, tenant: str | None) -> str | None:
        if tenant is not None and not CLIENT_ID.fullmatch(tenant):
            raise ValueError("not an id: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
        return tenant

    @model_validator(mode="after")
    def _has_an_audience(self) -> "OidcSettings":
        if self.issuer is not None and not self.audience:
            raise ValueError("an issuer needs an audience: else its tokens for other services would be let in")
        return self
