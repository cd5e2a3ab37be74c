"""Which memories go by a policy, and why? Pure: the same memories, policy and moment give the same verdicts.

Each bound of a policy stands alone: what breaks one goes. What is pinned never does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from memory.domain.events import Metadata
from memory.domain.recall import Filter

HALF_LIFE = timedelta(days=30)
"""Of disuse, after which a memory is worth half."""


@dataclass(frozen=True, slots=True)
class ForgetPolicy:
    """`kinds`, `filter`: of which memories; without a bound all of them go.

    Bounds: max_age_days since it was written; unused_days since it was last recalled, edited or written; redundancy:
    of those that repeat one that stays, those that are at least so alike; keep_top: of the rest the most valuable stay.
    """

    max_age_days: float | None = None
    unused_days: float | None = None
    keep_top: int | None = None
    kinds: frozenset[str] | None = None
    filter: Filter | None = None
    redundancy: float | None = None

    @property
    def bounded(self) -> bool:
        bounds = (self.max_age_days, self.unused_days, self.keep_top, self.redundancy)
        return any(bound is not None for bound in bounds)


class ForgetRule(StrEnum):
    MAX_AGE = "max_age_days"
    UNUSED = "unused_days"
    REDUNDANCY = "redundancy"
    KEEP_TOP = "keep_top"
    SELECTED = "selected"


@dataclass(frozen=True, slots=True)
class Outline:
    """A memory without its text. `repeats`: the memory_id that it is marked with as a near-duplicate."""

    memory_key: int
    memory_id: str
    kind: str
    session_id: str | None
    agent_id: str | None
    created_at: datetime
    last_used: datetime
    uses: int
    pinned: bool
    valid_to: datetime | None
    repeats: str | None
    metadata: Metadata

    def ended(self, now: datetime) -> bool:
        return self.valid_to is not None and self.valid_to <= now

    def value(self, now: datetime) -> float:
        """Nothing once it has ended."""
        return 0.0 if self.ended(now) else decayed(self.uses, now - self.last_used)


@dataclass(frozen=True, slots=True)
class Reason:
    rule: ForgetRule
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """It goes, for at least one reason."""

    outline: Outline
    value: float
    reasons: tuple[Reason, ...]


def decayed(uses: int, idle: timedelta) -> float:
    """(1 + ln(1 + uses)) · 2^(-idle / 30 days): as the semantic tier values its segments, at another pace."""
    return (1 + math.log1p(uses)) * math.pow(0.5, max(idle, timedelta(0)) / HALF_LIFE)


def judge(
    outlines: Sequence[Outline], policy: ForgetPolicy, now: datetime, alike: Mapping[int, tuple[str, float]]
) -> list[Verdict]:
    """What goes of these memories, the least valuable first.

    `alike`: by memory_key the valid memory that each repeats, and how alike the two are.
    """
    reasons = {o.memory_key: _overdue(o, policy, now) for o in outlines if not o.pinned}
    if not policy.bounded:
        selected = (Reason(ForgetRule.SELECTED, "the policy names it and sets no bound"),)
        reasons = dict.fromkeys(reasons, selected)
    if policy.redundancy is not None:
        going = {o.memory_id for o in outlines if reasons.get(o.memory_key)}
        for key, (repeated, similarity) in alike.items():
            if key in reasons and similarity >= policy.redundancy and repeated not in going:
                detail = f"repeats '{repeated}', {similarity:.2f} alike"
                reasons[key] = (*reasons[key], Reason(ForgetRule.REDUNDANCY, detail))
    if policy.keep_top is not None:
        for outline in _beyond(policy.keep_top, [o for o in outlines if not reasons.get(o.memory_key)], now):
            detail = f"its value of {outline.value(now):.3g} is not among the {policy.keep_top} highest"
            reasons[outline.memory_key] = (Reason(ForgetRule.KEEP_TOP, detail),)
    verdicts = [Verdict(o, o.value(now), found) for o in outlines if (found := reasons.get(o.memory_key, ()))]
    return sorted(verdicts, key=lambda verdict: (verdict.value, verdict.outline.memory_key))


def _overdue(outline: Outline, policy: ForgetPolicy, now: datetime) -> tuple[Reason, ...]:
    age, idle = (_days(now - moment) for moment in (outline.created_at, outline.last_used))
    found = []
    if policy.max_age_days is not None and age > policy.max_age_days:
        found.append(Reason(ForgetRule.MAX_AGE, f"{age:.1f} days old, more than {policy.max_age_days:g}"))
    if policy.unused_days is not None and idle > policy.unused_days:
        found.append(Reason(ForgetRule.UNUSED, f"unused for {idle:.1f} days, more than {policy.unused_days:g}"))
    return tuple(found)


def _beyond(most: int, staying: Sequence[Outline], now: datetime) -> list[Outline]:
    """The pinned ones count among those that stay; of equal value the newer one does."""
    ranked = sorted(staying, key=lambda o: (o.pinned, o.value(now), o.memory_key), reverse=True)
    return [outline for outline in ranked[most:] if not outline.pinned]


def _days(elapsed: timedelta) -> float:
    return elapsed / timedelta(days=1)
