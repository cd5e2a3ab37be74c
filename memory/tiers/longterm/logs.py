"""Which row of the catalogue is which event of a session?"""

from array import array

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_NONE = np.zeros(0, np.int64)


class _Log:
    """The rows of one session's events by seq, 4 bytes each, -1 where one is unknown. A fork's begins where it left."""

    __slots__ = ("first", "rows")

    def __init__(self, first: int, rows: "array[int]") -> None:
        self.first = first
        self.rows = rows

    def place(self, seq: int, row: int) -> None:
        if seq < self.first:  # it takes over what it had inherited
            self.rows[:0] = array("i", [-1]) * (self.first - seq)
            self.first = seq
        self.rows.extend(array("i", [-1]) * (seq + 1 - self.first - len(self.rows)))
        self.rows[seq - self.first] = row


class Logs:
    """Mutable, one writer."""

    def __init__(self) -> None:
        self._logs: dict[int, _Log] = {}

    @staticmethod
    def of(sessions: Rows, seqs: Rows) -> "Logs":
        """Of the rows 0, 1, 2, …; a seq of 0 is that of no event."""
        made = Logs()
        events = np.flatnonzero(seqs)
        order = events[np.lexsort((seqs[events], sessions[events]))]
        begins = np.flatnonzero(np.diff(sessions[order], prepend=-1))
        for rows in np.split(order, begins)[1:]:
            first, last = int(seqs[rows[0]]), int(seqs[rows[-1]])
            log = np.full(last + 1 - first, -1, np.int32)
            log[seqs[rows] - first] = rows
            made._logs[int(sessions[rows[0]])] = _Log(first, array("i", log.tobytes()))
        return made

    def at(self, session: int, seq: int) -> int:
        """-1: unknown."""
        log = self._logs.get(session)
        place = -1 if log is None else seq - log.first
        return log.rows[place] if log is not None and 0 <= place < len(log.rows) else -1

    def rows(self, session: int) -> Rows:
        """In the order of the log, with -1 where an event is unknown."""
        log = self._logs.get(session)
        return _NONE if log is None else np.array(log.rows, np.int64)

    def between(self, session: int, first_seq: int, last_seq: int) -> Rows:
        log = self._logs.get(session)
        if log is None:
            return _NONE
        return np.array(log.rows[max(0, first_seq - log.first) : max(0, last_seq + 1 - log.first)], np.int64)

    def place(self, session: int, seq: int, row: int) -> None:
        """Mutates."""
        self._logs.setdefault(session, _Log(seq, array("i"))).place(seq, row)
