"""What do endpoints ask for? Typed aliases, so that a signature says it all."""

from typing import Annotated

from fastapi import Depends, Header, Path, Request

from api.audit.trail import Trailing
from api.auth import Administrator, Reader, TenantAdministrator, Writer
from api.meter import Spending
from api.paging import PageParameters
from api.values import CLIENT_ID_PATTERN
from memory.bootstrap import Container

__all__ = [
    "Administrator",
    "App",
    "EventId",
    "IfMatch",
    "KeyId",
    "MemoryId",
    "OperationId",
    "PageParameters",
    "Reader",
    "SessionId",
    "Spending",
    "TenantAdministrator",
    "Trailing",
    "Writer",
]


async def _container(request: Request) -> Container:
    return request.app.state.container  # type: ignore[no-any-return]  # put there by api.app


App = Annotated[Container, Depends(_container)]
IfMatch = Annotated[str | None, Header(max_length=256, description="The `ETag` last read, or `*`.")]
SessionId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
EventId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
KeyId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
MemoryId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
OperationId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
