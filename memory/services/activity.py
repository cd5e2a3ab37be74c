"""How busy is this process? Counts by second, over the last minute; nothing is stored."""

import time
from collections import Counter
from collections.abc import Callable

_SECONDS = 60


class Activity:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_second: dict[int, Counter[str]] = {}

    def note(self, what: str, count: int = 1) -> None:
        second = int(self._clock())
        if second not in self._by_second:
            self._forget(second)
            self._by_second[second] = Counter()
        self._by_second[second][what] += count

    def per_second(self, *names: str) -> dict[str, float]:
        """The mean rate of each over the last minute."""
        self._forget(int(self._clock()))
        total = sum(self._by_second.values(), Counter())
        return {name: round(total[name] / _SECONDS, 3) for name in names}

    def _forget(self, now: int) -> None:
        for second in [second for second in self._by_second if second <= now - _SECONDS]:
            del self._by_second[second]
