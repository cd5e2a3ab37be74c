"""How does a view stay true while somebody looks at it?"""

import time
from collections.abc import Awaitable, Callable

from nicegui import ui

from api.page.frame import fail
from api.page.parts import Pulse
from memory.domain.errors import StratamemError

_REST = 9
"""Times as long as a look took, nothing is asked again: watching costs a tenth of a core at most."""


class Live:
    """Shows at once and with every beat. What went wrong stands above the view until it goes well again."""

    def __init__(self, show: Callable[[], Awaitable[None]], seconds: float = 2.0) -> None:
        self._show = show
        self._not_before = 0.0
        self._busy = False
        self._trouble = ui.element("div")
        Pulse(self._beat, seconds)

    async def now(self) -> None:
        """After an action, too."""
        self._busy, begun = True, time.monotonic()
        try:
            await self._show()
            self._trouble.clear()
        except StratamemError as error:
            self._trouble.clear()
            with self._trouble:
                fail(error)
        finally:
            self._busy = False
            self._not_before = time.monotonic() + _REST * (time.monotonic() - begun)

    async def _beat(self) -> None:
        if not self._busy and time.monotonic() >= self._not_before:
            await self.now()
