"""Which token ranges are in the window? Pure, and derived from the log alone: nothing is stored that could be wrong.

The shared log of a session is an axis of tokens. It is cut into ranges on a fixed grid, each holding the events that
begin in it; a window of `window_tokens` holds the newest ranges that fit, and always whole events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memory.domain.events import Extent
from memory.domain.moves import NewMove, Reason
from memory.domain.principals import SHARED
from memory.domain.recall import TierName

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Consecutive events of a session's shared log, and their place on its token axis (end exclusive)."""

    first_seq: int
    last_seq: int
    token_start: int
    token_end: int

    @property
    def tokens(self) -> int:
        return self.token_end - self.token_start


def grid_of(window_tokens: int, range_tokens: int) -> int:
    """Tokens of one range: at most an eighth of the window, so that a full window gives up little at a time."""
    return max(1, min(range_tokens, window_tokens // 8))


def threshold(shared_tokens: int, window_tokens: int, grid: int) -> int:
    """The place on the axis from which events are in the window: on the grid, and no further back than fits."""
    surplus = shared_tokens - window_tokens
    return 0 if surplus <= 0 else -(-surplus // grid) * grid


def ranges(events: Sequence[Extent], grid: int) -> list[TokenRange]:
    """The ranges of consecutive shared events, in order; the sum of their tokens is that of the events."""
    found: list[TokenRange] = []
    for event in events:
        end = event.token_start + event.token_count
        last = found[-1] if found else None
        if last is not None and last.token_start // grid == event.token_start // grid:
            found[-1] = TokenRange(last.first_seq, event.seq, last.token_start, end)
        else:
            found.append(TokenRange(event.seq, event.seq, event.token_start, end))
    return found


def slide(session_key: int, left: Sequence[Extent]) -> NewMove:
    """What the window no longer holds, as one move: it is always the oldest that goes, so nothing was compared."""
    return NewMove(
        session_key=session_key,
        audience=SHARED,
        origin=TierName.HOT,
        target=TierName.SEMANTIC,
        reason=Reason.WINDOW_SLID,
        first_seq=left[0].seq,
        last_seq=left[-1].seq,
        pieces=len(left),
        size=sum(extent.token_count for extent in left),
        unit="tokens",
    )


def blocks(tokens: int) -> int:
    """KV blocks that so many tokens fill or begin."""
    return -(-tokens // BLOCK_TOKENS)
