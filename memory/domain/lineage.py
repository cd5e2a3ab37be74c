"""Of which stretches of which logs does a session consist? Of its own and, if it is a fork, of those it inherited.

A fork copies no row. Its `seq`, turns and token axis go on where it left, so the stretches of a lineage follow each
other without overlap, and every event of a family is a node of one tree: whoever sees an event sees all before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

MAX_STRETCHES = 64
"""Inherited by one session: a fork of a fork of a fork … needs one more each time its parent had grown."""

_NO_END = 2**62


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events `first_seq` to `last_seq` of one session's log, and its memories up to the memory_key `last_memory`.

    `shared_tokens`: where it ends on the token axis.
    """

    session_key: int
    first_seq: int
    last_seq: int
    last_memory: int
    shared_tokens: int

    @property
    def open(self) -> bool:
        """Whether it grows: the end of a session's own log."""
        return self.last_seq == _NO_END

    def holds(self, session_key: int, seq: int) -> bool:
        return session_key == self.session_key and self.first_seq <= seq <= self.last_seq

    def holds_memory(self, session_key: int | None, memory_key: int) -> bool:
        return session_key == self.session_key and memory_key <= self.last_memory


@dataclass(frozen=True, slots=True)
class Lineage:
    """The log of one session. `inherited`: in the order of the log; what it took over from a purged session is its own
    and may stand between what is others'."""

    session_key: int
    inherited: tuple[Stretch, ...] = ()

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All of the log, oldest first; the last one is the session's own and open."""
        first = self.inherited[-1].last_seq + 1 if self.inherited else 1
        return (*self.inherited, Stretch(self.session_key, first, _NO_END, _NO_END, _NO_END))

    @property
    def elsewhere(self) -> tuple[Stretch, ...]:
        """What is kept among other sessions' rows."""
        return tuple(stretch for stretch in self.inherited if stretch.session_key != self.session_key)

    def between(self, after_seq: int | None, before_seq: int | None) -> tuple[Stretch, ...]:
        """The stretches that have events between the two, both exclusive."""
        low, high = after_seq or 0, _NO_END if before_seq is None else before_seq
        return tuple(s for s in self.stretches if s.last_seq > low and s.first_seq < high)

    def from_token(self, token_start: int) -> tuple[Stretch, ...]:
        """The stretches that reach this place on the token axis."""
        return tuple(stretch for stretch in self.stretches if stretch.shared_tokens >= token_start)

    def up_to(self, seq: int, shared_tokens: int, last_memories: Mapping[int, int]) -> tuple[Stretch, ...]:
        """What a fork at `seq` inherits.

        `shared_tokens`: of the log up to there. `last_memories`: by session_key, the last memory that was written
        before the log went on; a memory learnt of later events is not part of an earlier past.
        """
        found: list[Stretch] = []
        for stretch in self.stretches:
            if stretch.first_seq > seq + 1:
                break
            memory = min(stretch.last_memory, last_memories.get(stretch.session_key, 0))
            end = min(stretch.last_seq, seq)
            if end >= stretch.first_seq or memory:
                tokens = min(stretch.shared_tokens, shared_tokens)
                found.append(replace(stretch, last_seq=end, last_memory=memory, shared_tokens=tokens))
        return tuple(found)

    def handed_over(self, gone: int, heir: int) -> "Lineage":
        """After the rows of the session `gone` have become the heir's."""
        named = (replace(s, session_key=heir if s.session_key == gone else s.session_key) for s in self.inherited)
        joined = list(_joined(named))
        while joined and joined[-1].session_key == self.session_key:
            joined.pop()
        return Lineage(self.session_key, tuple(joined))

    def share_of(self, session_key: int) -> Stretch | None:
        """The last of what it inherits from this session: all that it sees of it lies before the end of that."""
        shares = [stretch for stretch in self.elsewhere if stretch.session_key == session_key]
        return shares[-1] if shares else None


def heir_of(session_key: int, survivors: Iterable[Lineage]) -> tuple[Lineage, Stretch] | None:
    """Who keeps the rows of a session that goes: the one that sees most of it, and what it sees. None: nobody does.

    What all others see of it lies within that.
    """
    shares = [(lineage, share) for lineage in survivors if (share := lineage.share_of(session_key)) is not None]
    return max(shares, key=lambda one: (one[1].last_seq, one[1].last_memory), default=None)


def _joined(stretches: Iterable[Stretch]) -> Sequence[Stretch]:
    """Neighbours of the same session become one."""
    joined: list[Stretch] = []
    for stretch in stretches:
        if joined and joined[-1].session_key == stretch.session_key:
            before = joined.pop()
            stretch = replace(
                stretch,
                first_seq=before.first_seq,
                last_memory=max(before.last_memory, stretch.last_memory),
            )
        joined.append(stretch)
    return joined
