"""Who hears that a log has changed, in whichever process that was done?"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Protocol


class Notices(Protocol):
    """Hints, no more: one may be lost on its way from another process, and one may come for nothing.

    Who follows a log looks into the database when a notice comes, and now and then without one.
    """

    def changed(self, session_keys: Collection[int]) -> None:
        """These logs have grown, are gone, or may be read by others; it is committed. Returns at once, never raises."""

    def listening(self, session_key: int) -> AbstractContextManager[asyncio.Event]:
        """Set by every notice about this log, as long as the block lasts; who hears it clears it."""

    async def close(self) -> None: ...
