"""Who carries work to the workers, and what time is it?"""

from datetime import datetime
from typing import Protocol


class JobQueue(Protocol):
    """Carries task names and ids to the workers. The outbox is the guarantee; this is only the quick way."""

    def send(self, task: str, *ids: str) -> None:
        """Hands over and returns at once; a broker that is away delays the job until the sweep."""

    async def check(self) -> None:
        """Raises BrokerUnavailable when the broker can't be reached."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, timezone-aware, UTC."""
