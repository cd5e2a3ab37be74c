"""Where do the workers get their container from?"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from memory.settings import Settings
from workers.task import Services

if TYPE_CHECKING:
    from memory.bootstrap import Models
    from memory.services.traffic import Traffic


def open_container(
    settings: Settings, models: "Models | None" = None, traffic: "Traffic | None" = None
) -> AbstractAsyncContextManager[Services]:
    """The container without what only requests need. `models`, `traffic`: those of this process."""
    from memory.bootstrap import build  # here: a health check must not wait for the model libraries

    return build(settings, models, traffic=traffic, serving=False)
