"""How is the web application put together? One table of routers, five layers around them, one container behind."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

import api.admin.endpoints
import api.agents.data
import api.agents.endpoints
import api.audit.endpoints
import api.chat.endpoints
import api.context.endpoints
import api.events.endpoints
import api.health.endpoints
import api.keys.endpoints
import api.kv.endpoints
import api.memories.endpoints
import api.operations.endpoints
import api.recall.endpoints
import api.receipts.endpoints
import api.sessions.endpoints
import api.tenants.endpoints
from api import errors
from api.audit.trail import Audited
from api.limits import BodyLimit, ReadDeadline
from api.meter import Meter
from api.observe import Observe
from api.page.door import Door
from api.version import VERSION
from memory import bootstrap
from memory.bootstrap import Container
from memory.settings import Settings

# In the order of their traffic: routes are tried one after the other.
ROUTERS: tuple[APIRouter, ...] = (
    api.events.endpoints.router,
    api.recall.endpoints.router,
    api.context.endpoints.router,
    api.memories.endpoints.router,
    api.chat.endpoints.router,
    api.sessions.endpoints.router,
    api.agents.endpoints.router,
    api.agents.data.router,
    api.kv.endpoints.router,
    api.operations.endpoints.router,
    api.health.endpoints.router,
    api.admin.endpoints.router,
    api.keys.endpoints.router,
    api.audit.endpoints.router,
    api.tenants.endpoints.router,
    api.receipts.endpoints.router,
)

# From the outermost to the innermost.
LAYERS = (Observe, ReadDeadline, Audited, Meter, BodyLimit)

_DESCRIPTION = """Memory for agents: what was said stays in an append-only log and is recalled from three tiers.
Errors are problem details (RFC 9457): match on `code`. Every answer has an `X-Request-Id`."""


def create_app(source: Settings | Container) -> FastAPI:
    """Settings: the container is opened and closed with the application. A container stays its owner's."""
    door = Door()
    app = FastAPIOffline(  # /docs with the viewer's files from its package: a browser loads nothing from the web
        title="Stratamem",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=_lifespan(source, door),
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        middleware=[Middleware(layer) for layer in LAYERS],
    )
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    if (source if isinstance(source, Settings) else source.settings).admin_page:
        app.router.routes.extend(door.routes())
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    if not isinstance(source, Settings):
        app.state.container = source
    return app


def _lifespan(source: Settings | Container, door: Door) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening: AbstractAsyncContextManager[Container] = (
            bootstrap.build(source) if isinstance(source, Settings) else nullcontext(source)
        )
        async with opening as container:
            app.state.container = container
            yield
            await door.close()

    return lifespan


def _operation_id(route: APIRoute) -> str:
    return "_".join(map(str, (*route.tags, route.name)))


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        made.setdefault("components", {}).setdefault("schemas", {}).update(errors.schemas())
        app.openapi_schema = made
    return app.openapi_schema
