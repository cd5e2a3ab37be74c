"""Keys as operators make and see them."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.values import Answer, Body, ClientId, Name, Time
from memory.domain.principals import Key, KeyScope
from memory.services.keys import MOST_SESSIONS, NewKey


class CreateKey(Body):
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=len(KeyScope))]
    name: Annotated[Name, Field(min_length=1)] | None = Field(
        default=None, description="For people: whose it is, or what for."
    )
    agent_id: ClientId | None = Field(default=None, description="The only agent that its bearer may act as.")
    session_ids: Annotated[list[ClientId], Field(min_length=1, max_length=MOST_SESSIONS)] | None = Field(
        default=None, description="The only sessions that its bearer reaches; they may be yet to be made."
    )
    expires_at: Time | None = None


class KeyAnswer(Answer):
    key_id: str
    prefix: str = Field(description="What the key begins with.", examples=["sm_7c3k0q9mzx4a"])
    name: str | None
    scopes: list[KeyScope]
    agent_id: str | None
    session_ids: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="True to the minute.")

    @classmethod
    def of(cls, key: Key) -> "KeyAnswer":
        return cls(**_shown(key))


class NewKeyAnswer(KeyAnswer):
    token: str = Field(description="The key itself. It is shown this once, and stored hashed.")

    @classmethod
    def made(cls, new: NewKey) -> "NewKeyAnswer":
        return cls(**_shown(new.key), token=new.token)


def _shown(key: Key) -> dict[str, object]:
    bounds = None if key.session_ids is None else sorted(key.session_ids)
    names = ("key_id", "prefix", "name", "agent_id", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {name: getattr(key, name) for name in names} | {"scopes": sorted(key.scopes), "session_ids": bounds}
