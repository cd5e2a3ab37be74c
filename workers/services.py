"""Where do the workers get their container from?"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from memory.settings import Settings
from workers.task import Services

if TYPE_CHECKING:
    from memory.ports.models import Models
    from memory.services.traffic import Traffic


def open_container(
    settings: Settings,
    models: "Models | None" = None,
    traffic: "Traffic | None" = None,
    former: "Mapping[str, Models] | None" = None,
) -> AbstractAsyncContextManager[Services]:
    """The container without what only requests need. `models`, `former`, `traffic`: those of this process."""
    from memory.bootstrap import build  # here: a health check must not wait for the model libraries

    return build(settings, models, former=former, traffic=traffic, serving=False)
