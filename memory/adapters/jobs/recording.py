"""What is the least a JobQueue can do? For tests and for commands that start no work."""

import threading


class NullQueue:
    """Carries nothing: the sweep of a running system finds the outbox rows."""

    def send(self, task: str, *ids: str) -> None:
        pass

    async def check(self) -> None:
        pass

    def close(self) -> None:
        pass


class RecordingQueue(NullQueue):
    """Remembers what was handed over: `sent` holds (task, ids), oldest first."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self._lock = threading.Lock()

    def send(self, task: str, *ids: str) -> None:
        with self._lock:
            self.sent.append((task, ids))

    def taken(self) -> list[tuple[str, tuple[str, ...]]]:
        """What was sent since the last call."""
        with self._lock:
            taken, self.sent = self.sent, []
        return taken
