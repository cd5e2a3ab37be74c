"""How does the service run, and how does it stop?

Everything is opened here, in order: the address (so that a taken port is known at once), the container, the embedded
workers, the server; and closed in reverse, within ten seconds of Ctrl-C or SIGTERM.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
import uvloop

from api import logs
from api.app import create_app
from api.process import Server, base_url, listening, on_signals
from api.start import StartError, explained, prepare_data_folder
from memory import bootstrap
from memory.bootstrap import Container
from memory.settings import Settings

_SWITCH_INTERVAL = 0.0005
"""Seconds a computing thread (embedding, ranking) may keep the interpreter from a request; Python's 5 ms made an append
beside an ingest take 150 ms instead of 70, since each of its statements waits for it."""
_WORKERS_GRACE = 3.0

_log = structlog.get_logger("api")


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until a signal. `announce` is told the base URL once requests are answered. Raises StartError."""
    logs.configure(settings)
    prepare_data_folder(settings)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with (
        listening(settings.host, settings.port, "STRATAMEM") as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            runner.run(_serve(settings, listener, announce))
        except asyncio.CancelledError:
            _log.info("stopped before it had started")


async def _serve(settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
    starting = asyncio.current_task()
    assert starting is not None
    async with AsyncExitStack() as stack:
        stack.enter_context(on_signals(starting.cancel))
        container = await _opened(stack, settings)
        if not settings.loopback and container.tokens is None and not await container.keys.any():
            raise StartError(
                f"listening on {settings.host} without a key would open the memory to everybody:"
                " make a key with `stratamem keys create`, then start again",
                exit_code=2,
            )
        if settings.embedded:
            await stack.enter_async_context(embedded_workers(container))
        app, url = create_app(container), base_url(settings.host, listener)
        server = Server(app, lambda: announce(url), sockets=settings.admin_page)

        def stop() -> None:
            container.streams.end()  # the server waits for answers that go on for ever
            server.stop()

        stack.enter_context(on_signals(stop))
        # The half million objects of the libraries live as long as the process: a collection need not walk them.
        gc.freeze()
        gc.enable()
        await server.serve(sockets=[listener])


async def _opened(stack: AsyncExitStack, settings: Settings) -> Container:
    """Raises StartError."""
    with explained():
        return await stack.enter_async_context(bootstrap.build(settings))


@asynccontextmanager
async def embedded_workers(container: Container) -> AsyncIterator[None]:
    """Background work in a thread of this process, on the models that are loaded here already."""
    from workers import embedded

    handle = await asyncio.to_thread(embedded.start, container.settings, container, container.traffic, container.former)
    try:
        yield
    finally:
        if not await asyncio.to_thread(handle.stop, _WORKERS_GRACE):
            _log.warning("the workers did not stop in time; what they had begun is taken up at the next start")
