"""How much of the log is shown verbatim, and from where on? Pure; depends on nothing that changes from call to call.

A context is laid out as system and summary, window, recalled memories, query. The window begins at an anchor: a place
on a fixed grid of the session's token axis. It moves only when the window has outgrown its share, and then by half of
it, so between two moves (compactions) a later context begins with the bytes of the earlier one (invariant I8).
"""

from collections.abc import Sequence
from fractions import Fraction

WINDOW_SHARE = Fraction(5, 8)
"""Of what is left after the system messages. With a summary (1/16) and a query of up to a tenth, recall keeps at least
a quarter of the rest. A longer query takes from recall: the window gives way only when there is no other room, at some
five sixteenths, since what it shows is a prefix that was computed."""
WINDOW_SHARE_ALONE = Fraction(7, 8)
"""The same, where no recall is wanted."""
SUMMARY_SHARE = Fraction(1, 16)
PRIVATE_SHARE = Fraction(1, 8)
RECALL_SHARE = Fraction(1, 4)


def window_room(max_tokens: int, system: int, *, recall: bool) -> int:
    """Tokens that the window may take, whatever the query."""
    share = WINDOW_SHARE if recall else WINDOW_SHARE_ALONE
    return max(0, int((max_tokens - system) * share))


def room_beside(max_tokens: int, system: int, summary: int, query: int) -> int:
    """Tokens that there are at all beside this summary and query."""
    return max(0, max_tokens - system - summary - query)


def grid(room: int) -> int:
    return max(1, room // 2)


def first_anchor(shared_tokens: int, room: int) -> int:
    """The earliest place on the grid from which the log's own tokens fit into `room`."""
    surplus = shared_tokens - room
    step = grid(room)
    return 0 if surplus <= 0 else -(-surplus // step) * step


def anchor_that_fits(starts: Sequence[int], rendered: Sequence[int], anchor: int, room: int) -> tuple[int, int]:
    """The anchor, at or after `anchor`, from which the events' rendered tokens fit, and the first event shown.

    `starts`: each event's place on the token axis, ascending; `rendered`: its tokens with those of its message.
    """
    first, total = 0, sum(rendered)
    while first < len(starts) and (total > room or starts[first] < anchor):
        if starts[first] >= anchor:
            anchor = (starts[first] // grid(room) + 1) * grid(room)
        total -= rendered[first]
        first += 1
    return anchor, first
