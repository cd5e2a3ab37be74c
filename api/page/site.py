"""How is the page made and served? The one module that starts NiceGUI; importing it takes half a second."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from nicegui import app, core, ui
from starlette.types import ASGIApp

from api.logs import describe
from api.page.frame import broken
from api.page.views import audit, indexes, jobs, keys, overview, recall, session, sessions

__all__ = ["VIEWS", "opened"]

VIEWS = (overview, sessions, session, recall, jobs, keys, indexes, audit)
"""Each registers its page when it is imported."""

_log = structlog.get_logger("api")
_HISTORY = 100
"""Messages that are kept for a browser whose connection breaks for a moment."""

_host = FastAPI()
ui.run_with(
    _host,
    title="Stratamem",
    favicon=None,
    dark=None,  # as the viewer's system
    language="en-US",
    binding_refresh_interval=None,
    message_history_length=_HISTORY,
    gzip_middleware_factory=None,  # the door does it
    tailwind=False,
    show_welcome_message=False,
)
app.config.socket_io_js_transports = ["websocket"]
app.config.quasar_config["loadingBar"]["skipHijack"] = True
core.sio.eio.transports = ["websocket"]
core.sio.on("log", handler=lambda *_: None)  # what a browser says has no place in the server's log
app.on_exception(lambda error: _log.error("the admin page failed", **describe(error)))
app.on_page_exception(broken)
logging.getLogger("nicegui").setLevel(logging.CRITICAL)  # its messages may quote what is shown


@asynccontextmanager
async def opened() -> AsyncIterator[ASGIApp]:
    async with _host.router.lifespan_context(_host):
        yield app
