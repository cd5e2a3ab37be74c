"""Load a range of blocks, or compute it again? Whichever was measured to be faster on this machine.

A naive file tier loses: 131K tokens took 5.1 s to compute and 5.3 s to load (sglang#26305). Rates are exponentially
weighted sums of amounts over sums of seconds, so a small slow read counts little.
"""

import threading
from dataclasses import dataclass

_WEIGHT = 0.2
_PROBE_EVERY = 64


@dataclass(frozen=True, slots=True)
class GateStats:
    loads: int
    """Of these, `unmeasured` and `probes` were not decided by two rates."""
    recomputes: int
    unmeasured: int
    probes: int


class Gate:
    """Any number of threads may call. `weight` of the newest measurement, 0 to 1.

    A tier that lost once would never be measured again, so each `probe_every`th refusal in a row is a load.
    """

    def __init__(self, *, weight: float = _WEIGHT, probe_every: int = _PROBE_EVERY) -> None:
        if not 0 < weight <= 1 or probe_every < 1:
            raise ValueError("a weight lies above 0 and up to 1; a probe comes every 1 or more")
        self._weight = weight
        self._probe_every = probe_every
        self._tiers: dict[str, _Rate] = {}
        self._prefill: _Rate | None = None
        self._refused: dict[str, int] = {}
        self._stats = GateStats(0, 0, 0, 0)
        self._lock = threading.Lock()

    def measured_load(self, tier: str, nbytes: int, seconds: float) -> None:
        """A load that took `seconds` with its checks. Amounts that are not positive are no measurement."""
        if nbytes > 0 and seconds > 0:
            with self._lock:
                self._tiers[tier] = _next(self._tiers.get(tier), nbytes, seconds, self._weight)

    def measured_prefill(self, tokens: int, seconds: float) -> None:
        if tokens > 0 and seconds > 0:
            with self._lock:
                self._prefill = _next(self._prefill, tokens, seconds, self._weight)

    def load(self, tier: str, nbytes: int, tokens: int) -> bool:
        """Whether `nbytes` from `tier` are there before `tokens` are computed. True while a rate is unknown."""
        with self._lock:
            rate, prefill, stats = self._tiers.get(tier), self._prefill, self._stats
            if rate is None or prefill is None:
                self._stats = GateStats(stats.loads + 1, stats.recomputes, stats.unmeasured + 1, stats.probes)
                return True
            faster = nbytes / rate.per_second < tokens / prefill.per_second
            self._refused[tier] = 0 if faster else self._refused.get(tier, 0) + 1
            probe = self._refused[tier] >= self._probe_every
            if probe:
                self._refused[tier] = 0
            load = faster or probe
            self._stats = GateStats(
                stats.loads + load, stats.recomputes + (not load), stats.unmeasured, stats.probes + probe
            )
            return load

    def tokens_per_second(self) -> float | None:
        """None before a prefill was measured."""
        return None if self._prefill is None else self._prefill.per_second

    def stats(self) -> GateStats:
        return self._stats


@dataclass(frozen=True, slots=True)
class _Rate:
    amount: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.amount / self.seconds


def _next(rate: _Rate | None, amount: float, seconds: float, weight: float) -> _Rate:
    if rate is None:
        return _Rate(amount, seconds)
    return _Rate(rate.amount * (1 - weight) + amount * weight, rate.seconds * (1 - weight) + seconds * weight)
