"""Which pieces of a text are embedded?

A segment is a span of characters of one event or memory: cut at sentence borders, at most `limit` of the embedder's
own tokens, each overlapping the one before by about half, so that nothing falls between two of them.
"""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from memory.domain.ids import ItemId

SEGMENT_TOKENS = 240
OVERLAP = 0.5

# A run of stops is tried once, from its first character, and never given back (`*+`): without that, dots are
# searched again from each of them (32 KiB took 13 s, a megabyte hours). CJK writes no space after a sentence.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"')\]»”]*+\s+|[。！？]+[\"')\]»”」』）]*\s*|\n+")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` (inclusive) to `end` (exclusive) of a text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class NewSegment:
    """`seq` and `turn` are those of its event, 0 for a memory; `content_hash` is keyed with the tenant's secret."""

    item: ItemId
    session_key: int | None
    seq: int
    ordinal: int
    turn: int
    audience: str
    span: Span
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class PendingSegment:
    """A stored segment that has no vector yet, with the text to embed."""

    segment_key: int
    item: ItemId
    ordinal: int
    seq: int
    content_hash: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Unfilled:
    """An item that has no segments in a space yet, by its first segment in another one."""

    segment_key: int
    item: ItemId
    session_key: int | None
    seq: int
    turn: int
    audience: str


@dataclass(frozen=True, slots=True)
class SegmentVector:
    """A segment with its vector: float16, little-endian, `dimensions * 2` bytes."""

    item: ItemId
    ordinal: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class TierSegment:
    """A segment as the semantic tier sees it.

    `last_use`: seconds since the epoch. `used_seq`: the last seq of its log by then; at first its own.
    """

    segment_key: int
    item: ItemId
    seq: int
    turn: int
    audience: str
    vector: bytes
    cluster_key: int | None
    uses: int
    last_use: float
    used_seq: int
    characters: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A centroid (float32, little-endian) over segments of one visibility class of one session."""

    cluster_key: int
    session_key: int
    audience: str
    centroid: bytes
    size: int


def cut(
    text: str,
    token_spans: Sequence[tuple[int, int]],
    *,
    limit: int = SEGMENT_TOKENS,
    overlap: float = OVERLAP,
) -> list[Span]:
    """The segments of `text` in order. `token_spans`: the characters of each token, ascending.

    Every token is in at least one segment; a segment holds at most `limit` tokens; a border falls on the last end
    of a sentence that leaves the segment at least half full, else on a token.
    """
    if len(token_spans) <= limit:
        return [Span(0, len(text))] if text.strip() else []
    starts = [start for start, _ in token_spans]
    sentence_ends = sorted({bisect.bisect_left(starts, m.end()) for m in _SENTENCE_END.finditer(text)})
    spans, first, last = [], 0, 0
    while True:
        # `last + 1`: else the same end of a sentence is found again and the segment lies inside the one before.
        last = _border(sentence_ends, max(first + limit // 2, last + 1), first + limit, len(token_spans))
        end = len(text) if last == len(token_spans) else token_spans[last - 1][1]
        spans.append(Span(token_spans[first][0] if first else 0, end))
        if last == len(token_spans):
            return spans
        step = max(1, int((last - first) * (1 - overlap)))
        first = _border(sentence_ends, first + max(1, step // 2), first + step, last)


def _border(sentence_ends: list[int], low: int, high: int, total: int) -> int:
    """The last sentence border in [low, high], else `high`; never beyond `total`."""
    if high >= total:
        return total
    at = bisect.bisect_right(sentence_ends, high) - 1
    return sentence_ends[at] if at >= 0 and sentence_ends[at] >= low else high
