"""How much smaller can the vectors of segments be kept, and which of them lie together in one code?

A **stretch** of segments is what one **code** holds: consecutive segments of one session and one visibility class,
about 1,000 tokens. A **codec** makes codes, with the **codebook** that it learned from a tenant's own vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from memory.domain.ids import ItemId
from memory.domain.segments import Span

CODE_CHARACTERS = 4_000
"""About 1,000 tokens; what two segments overlap by counts once."""
CODE_SEGMENTS = 32
"""Turns are short: a thousand tokens of LoCoMo are some forty of them."""


@dataclass(frozen=True, slots=True)
class ColdSegment:
    """An embedded segment that the semantic tier has let go of. `vector`: float16, little-endian."""

    segment_key: int
    item: ItemId
    session_key: int
    audience: str
    span: Span
    vector: bytes


@dataclass(frozen=True, slots=True)
class Retention:
    """What a codec keeps, measured on vectors that it had not seen: `recall` of 0–1.

    Of `asked` vectors, the share whose nearest other is among the ten best by codes.
    """

    recall: float
    asked: int
    bytes_per_segment: float


@dataclass(frozen=True, slots=True)
class NewCodebook:
    """`body` None: it was not adopted, only its figure is kept. `trained_on`: segments, the asked ones included."""

    codec: str
    body: bytes | None
    retention: Retention
    trained_on: int


@dataclass(frozen=True, slots=True)
class Codebook:
    """One of a tenant's in one vector space. `version`: counts up for each codec; `codes`: how many were made with it.

    `body` is read apart: it can be megabytes.
    """

    codebook_key: int
    tenant_id: str
    space: str
    codec: str
    version: int
    adopted: bool
    retention: Retention
    trained_on: int
    created_at: datetime
    codes: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """`segment_keys`: whose vectors it holds, in order."""

    codebook_key: int
    session_key: int
    audience: str
    segment_keys: tuple[int, ...]
    code: bytes


def stretches(segments: Sequence[ColdSegment], *, whole: bool) -> list[list[ColdSegment]]:
    """Cuts segments, in the order of their keys, into what one code holds. `whole`: the last wait for more."""
    found: list[list[ColdSegment]] = []
    ordered = sorted(segments, key=lambda s: (s.session_key, s.audience, s.segment_key))
    for _, group in groupby(ordered, key=lambda s: (s.session_key, s.audience)):
        found += _cut(list(group), whole)
    return found


def _cut(segments: Sequence[ColdSegment], whole: bool) -> list[list[ColdSegment]]:
    found: list[list[ColdSegment]] = []
    current: list[ColdSegment] = []
    characters = 0
    for segment in segments:
        characters += _new_characters(segment, current[-1] if current else None)
        current.append(segment)
        if characters >= CODE_CHARACTERS or len(current) == CODE_SEGMENTS:
            found.append(current)
            current, characters = [], 0
    return found if whole or not current else [*found, current]


def _new_characters(segment: ColdSegment, before: ColdSegment | None) -> int:
    start = segment.span.start
    if before is not None and before.item == segment.item:
        start = max(start, before.span.end)
    return max(0, segment.span.end - start)
