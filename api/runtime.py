"""How does the model runtime run as a process of its own, and how does it stop?

The application is `model_runtime.server`; here it gets an address, the limits that every server of ours has, and the
same end as `stratamem serve`: within ten seconds of Ctrl-C or SIGTERM.
"""

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
import uvloop
from prometheus_client import generate_latest
from starlette.middleware import Middleware

from api import logs
from api.limits import BodyLimit, ReadDeadline
from api.metrics import RuntimeMetrics
from api.observe import Observe
from api.process import Server, base_url, listening, on_signals
from api.start import StartError, explained, prepare_data_folder
from memory.adapters.models.runtime_process import runtime_app
from memory.domain.generation import RuntimeStats
from memory.settings import Settings, is_loopback

_log = structlog.get_logger("api")


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until a signal. `announce` is told the base URL once requests are answered. Raises StartError."""
    logs.configure(settings)
    host = settings.runtime_host
    if not is_loopback(host) and not settings.runtime_key:
        raise StartError(
            f"listening on {host} without a key would give the models, and all KV, to everybody: set"
            " STRATAMEM_RUNTIME_KEY to a long random text, the same for the runtime and for who asks it"
            " (`openssl rand -hex 32`)",
            exit_code=2,
        )
    if settings.model is not None and "://" in settings.model:
        raise StartError(
            "STRATAMEM_MODEL is the URL of another engine: there is nothing to run here; unset it to serve embeddings",
            exit_code=2,
        )
    prepare_data_folder(settings)
    with (
        listening(host, settings.runtime_port, "STRATAMEM_RUNTIME") as listener,
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
        opening = runtime_app(
            settings.model,
            settings.embedder,
            settings.embedder_precision,
            settings.exports_dir,
            settings.runtime_kv_dir,
            settings.generation,
            settings.runtime_key,
            _metrics,
            [Middleware(Observe), Middleware(ReadDeadline), Middleware(BodyLimit)],
        )
        with explained():
            app = await stack.enter_async_context(opening)
        server = Server(app, lambda: announce(base_url(settings.runtime_host, listener)))
        stack.enter_context(on_signals(server.stop))
        gc.freeze()
        gc.enable()
        await server.serve(sockets=[listener])


def _metrics(stats: dict[str, Any] | None) -> bytes:
    return generate_latest() + (b"" if stats is None else generate_latest(RuntimeMetrics(RuntimeStats(**stats))))
