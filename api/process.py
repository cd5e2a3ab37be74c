"""How does a process that answers HTTP begin, listen and end? Within ten seconds of Ctrl-C or SIGTERM.

A taken port is known at once, before models are loaded; nothing is accepted before the server is ready.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.start import StartError

_REQUESTS_GRACE = 5
_LAST_MOMENT = 9.5
"""Seconds after the signal at which the process ends whatever still hangs; what was acknowledged is on disk."""
KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than our own clients keep theirs, so they never use a closed one."""
_MOST_SOCKET_BYTES = 1_048_576
"""That a browser may send over a socket at once."""


@contextmanager
def listening(host: str, port: int, settings: str) -> Iterator[socket.socket]:
    """A bound socket, which does not accept before the server is ready. Raises StartError.

    `settings`: what the names of the settings for both begin with.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"not an address to listen on: {host} ({error.strerror}); set {settings}_HOST") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartError(
                f"can't listen on {host}:{port}: {error.strerror}; set {settings}_PORT or --port"
            ) from error
        yield listener


def base_url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn raises the signal again once it has stopped, which would end the process before the rest is closed."""

    def __init__(self, app: FastAPI, started: Callable[[], None], *, sockets: bool = False) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="websockets-sansio" if sockets else "none",
                ws_max_size=_MOST_SOCKET_BYTES,
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=_REQUESTS_GRACE,
            )
        )
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
def on_signals(handle: Callable[[], object]) -> Iterator[None]:
    """The newest one counts: while the server runs, a signal stops it; before, it cancels the start."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle)
    yield
