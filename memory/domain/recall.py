"""What is asked of the memory, and what comes back?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import reduce
from operator import and_, or_
from typing import Any, TypeVar

from memory.domain.events import Metadata
from memory.domain.segments import Span

EVENT_KIND = "event"
MAX_TOP_K = 200


class TierName(StrEnum):
    HOT = "hot"
    SEMANTIC = "semantic"
    LONGTERM = "longterm"


ALL_TIERS = frozenset(TierName)


class FilterOp(StrEnum):
    EQ = "eq"
    NE = "ne"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    CONTAINS = "contains"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class FieldTest:
    """`field`: role, agent_id, kind, created_at, session_id or metadata.<key>."""

    field: str
    op: FilterOp
    value: Any = None

    def holds(self, value: Any) -> bool:
        """Whether one value passes; None means that the field is absent. Values of unlike types never compare."""
        match self.op:
            case FilterOp.EXISTS:
                return (value is not None) == bool(self.value if self.value is not None else True)
            case FilterOp.EQ:
                return _equal(value, self.value)
            case FilterOp.NE:
                return not _equal(value, self.value)
            case FilterOp.IN:
                return isinstance(self.value, list) and any(_equal(value, one) for one in self.value)
            case FilterOp.CONTAINS:
                if isinstance(value, str):
                    return isinstance(self.value, str) and self.value in value
                return isinstance(value, list) and self.value in value
        if value is None or not _comparable(value, self.value):
            return False
        match self.op:
            case FilterOp.GT:
                return bool(value > self.value)
            case FilterOp.GTE:
                return bool(value >= self.value)
            case FilterOp.LT:
                return bool(value < self.value)
            case _:
                return bool(value <= self.value)


def _equal(a: Any, b: Any) -> bool:
    """True is not 1 here."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _comparable(a: Any, b: Any) -> bool:
    numbers = (int, float)
    return (isinstance(a, str) and isinstance(b, str)) or (isinstance(a, numbers) and isinstance(b, numbers))


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Filter"


Filter = FieldTest | AllOf | AnyOf | Not

Mask = TypeVar("Mask")


def evaluate(condition: Filter, leaf: Callable[[FieldTest], Mask]) -> Mask:
    """Combines what `leaf` says of each field test with `&`, `|` and `~`."""
    match condition:
        case FieldTest():
            return leaf(condition)
        case AllOf(parts):
            return reduce(and_, (evaluate(part, leaf) for part in parts))
        case AnyOf(parts):
            return reduce(or_, (evaluate(part, leaf) for part in parts))
        case Not(part):
            return ~evaluate(part, leaf)  # type: ignore[operator,no-any-return]  # masks are arrays of bool


def field_tests(condition: Filter) -> list[FieldTest]:
    match condition:
        case FieldTest():
            return [condition]
        case Not(part):
            return field_tests(part)
        case AllOf(parts) | AnyOf(parts):
            return [test for part in parts for test in field_tests(part)]


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """`threshold` 0–1 on the score; `max_tokens` bounds the sum of the results' tokens."""

    query: str
    session_ids: tuple[str, ...] | None = None
    top_k: int = 10
    max_tokens: int | None = None
    threshold: float | None = None
    tiers: frozenset[TierName] = ALL_TIERS
    kinds: frozenset[str] | None = None
    filter: Filter | None = None
    as_of: datetime | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class EventRef:
    event_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class RecallResult:
    """`span`: the characters of the event that `text` shows, where it is too long to be shown whole."""

    text: str
    score: float
    tier: TierName
    kind: str
    memory_id: str | None
    session_id: str | None
    events: tuple[EventRef, ...]
    agent_id: str | None
    created_at: datetime
    tokens: int
    metadata: Metadata
    role: str | None = None
    span: Span | None = None
    private: bool = False
    """Whether only one agent may see it."""
    signals: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """How often something was recalled, and when for the last time."""

    times: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Degraded:
    """A tier that could not answer, and why. The other tiers' results stand."""

    tier: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recalled:
    results: tuple[RecallResult, ...]
    degraded: tuple[Degraded, ...] = field(default=())

    @property
    def tokens(self) -> int:
        return sum(result.tokens for result in self.results)
