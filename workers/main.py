"""What is `stratamem worker`, and how does a supervisor know that it is well?

While it is well, the process touches `<data_dir>/worker-<host>-<pid>.alive` every few seconds; `ping`, the container's
health check, looks for a fresh one of this host.
"""

import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType

from memory.domain.errors import InvalidInput
from memory.settings import Settings
from workers.crew import Crew
from workers.services import open_container
from workers.task import OpenServices

_BEAT_EVERY = 5.0
_GLANCE = 0.5
"""Seconds: a signal that comes in the instant before a wait begins is seen only when that ends."""
_FRESH_FOR = 20.0
_STOP_WITHIN = 7.0
"""Seconds; a supervisor kills after ten."""

logger = logging.getLogger(__name__)


def run(settings: Settings, *, open_services: OpenServices | None = None) -> None:
    """Works until SIGTERM or SIGINT, then ends within ten seconds. Call it in the main thread.

    `open_services` replaces the container of `memory.bootstrap`. Raises InvalidInput for the in-process broker.
    """
    if settings.embedded:
        raise InvalidInput(
            "workers run inside `stratamem serve`; set STRATAMEM_BROKER_URL (redis://… or amqp://…) "
            "to run them as processes of their own"
        )
    asked = _stop_signals()
    crew = Crew(settings, open_services or (lambda: open_container(settings)))
    crew.start()
    logger.info("working, %d jobs at a time", settings.jobs.concurrency)
    _stay(settings.data_dir, crew, asked)
    if not crew.stop(_STOP_WITHIN):
        logger.warning("a job could not be ended in time; it comes again when its lease is over")
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the thread that sits in native code


def ping(settings: Settings) -> bool:
    """A worker of this host is well: connected to the broker, its event loop turns."""
    return any(_age(path) < _FRESH_FOR for path in _life_signs(settings.data_dir))


def _stop_signals() -> threading.Event:
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked


def _stay(data_dir: Path, crew: Crew, asked: threading.Event) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    for path in _life_signs(data_dir):
        if _age(path) > _FRESH_FOR:
            path.unlink(missing_ok=True)  # of a worker that was killed
    sign = data_dir / f"worker-{socket.gethostname()}-{os.getpid()}.alive"
    try:
        while True:
            if crew.healthy:
                _touch(sign)
            if any(asked.wait(_GLANCE) for _ in range(round(_BEAT_EVERY / _GLANCE))):
                return
    finally:
        sign.unlink(missing_ok=True)


def _touch(sign: Path) -> None:
    """On a full disk the health check fails and the work goes on."""
    try:
        sign.touch()
    except OSError as error:
        logger.warning("the sign of life can't be written: %s", error)


def _life_signs(data_dir: Path) -> list[Path]:
    return list(data_dir.glob(f"worker-{socket.gethostname()}-*.alive"))


def _age(path: Path) -> float:
    """Seconds since it was touched; for ever when it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
