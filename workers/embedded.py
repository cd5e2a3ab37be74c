"""How do the workers live inside the API process?

Threads of their own, at a lower priority: a request that wants the CPU gets it first.
"""

import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from memory.settings import Settings
from workers.crew import Crew
from workers.services import open_container
from workers.task import OpenServices

if TYPE_CHECKING:
    from memory.ports.models import Models
    from memory.services.traffic import Traffic

_NICENESS = 5
"""About a third of a request's share of a contended core. More would let requests wait for a worker's locks."""


def start(
    settings: Settings,
    models: "Models | None" = None,
    traffic: "Traffic | None" = None,
    former: "Mapping[str, Models] | None" = None,
    *,
    open_services: OpenServices | None = None,
) -> Crew:
    """Workers that run; `stop()` ends them. Blocks until the container is open and raises what opening it raised.

    `open_services` replaces the container of `memory.bootstrap`.
    """
    crew = Crew(settings, open_services or (lambda: open_container(settings, models, traffic, former)), lower_priority)
    crew.start()
    return crew


def lower_priority() -> None:
    """Of the calling thread and the threads it makes. Linux only: elsewhere niceness belongs to the process."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
