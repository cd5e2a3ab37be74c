"""How does the service run, and how does it stop?

Everything is opened here, in order: the address (so that a taken port is known at once), the container, the embedded
workers, the server; and closed in reverse, within ten seconds of Ctrl-C or SIGTERM.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
import uvicorn
import uvloop

from api import logs
from api.app import create_app
from api.start import StartError, explained, prepare_data_folder
from memory import bootstrap
from memory.bootstrap import Container
from memory.settings import Settings

_SWITCH_INTERVAL = 0.0005
"""Seconds a computing thread (embedding, ranking) may keep the interpreter from a request; Python's 5 ms made an append
beside an ingest take 150 ms instead of 70, since each of its statements waits for it."""
_REQUESTS_GRACE = 5
_WORKERS_GRACE = 3.0
_LAST_MOMENT = 9.5
"""Seconds after the signal at which the process ends whatever still hangs; what was acknowledged is on disk."""

_log = structlog.get_logger("api")


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until a signal. `announce` is told the base URL once requests are answered. Raises StartError."""
    logs.configure(settings)
    prepare_data_folder(settings)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with _listening(settings) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, listener, announce))
        except asyncio.CancelledError:
            _log.info("stopped before it had started")


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """A bound socket, which does not accept before the server is ready. Raises StartError."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(
            f"not an address to listen on: {settings.host} ({error.strerror}); set STRATAMEM_HOST"
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.host}:{settings.port}: {error.strerror}; set STRATAMEM_PORT or --port"
            ) from error
        yield listener


async def _serve(settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
    starting = asyncio.current_task()
    assert starting is not None
    async with AsyncExitStack() as stack:
        stack.enter_context(_on_signals(starting.cancel))
        container = await _opened(stack, settings)
        if not settings.loopback and not await container.keys.any():
            raise StartError(
                f"listening on {settings.host} without a key would open the memory to everybody:"
                " make a key with `stratamem keys create`, then start again",
                exit_code=2,
            )
        if settings.embedded:
            await stack.enter_async_context(embedded_workers(container))
        server = _Server(_config(container), lambda: announce(_base_url(settings, listener)))
        stack.enter_context(_on_signals(server.stop))
        # The half million objects of the libraries live as long as the process: a collection need not walk them.
        gc.freeze()
        await server.serve(sockets=[listener])


async def _opened(stack: AsyncExitStack, settings: Settings) -> Container:
    """Raises StartError."""
    with explained():
        return await stack.enter_async_context(bootstrap.build(settings))


@asynccontextmanager
async def embedded_workers(container: Container) -> AsyncIterator[None]:
    """Background work in a thread of this process, on the models that are loaded here already."""
    from workers import embedded

    handle = await asyncio.to_thread(embedded.start, container.settings, container, container.traffic)
    try:
        yield
    finally:
        if not await asyncio.to_thread(handle.stop, _WORKERS_GRACE):
            _log.warning("the workers did not stop in time; what they had begun is taken up at the next start")


def _config(container: Container) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(container),
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_REQUESTS_GRACE,
    )


class _Server(uvicorn.Server):
    """uvicorn raises the signal again once it has stopped, which would end the process before the rest is closed."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce_start = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._announce_start()

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        watchdog = threading.Timer(_LAST_MOMENT, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()


@contextmanager
def _on_signals(handle: Callable[[], object]) -> Iterator[None]:
    """The newest one counts: while the server runs, a signal stops it; before, it cancels the start."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle)
    yield


def _base_url(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
