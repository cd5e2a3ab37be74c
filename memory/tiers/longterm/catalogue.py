"""What is known of every event and memory of a tenant without asking the database?

One row an item, one numpy column a fact: scope and conditions become masks over all rows before anything is ranked
(invariant I3), and the neighbours of an event are found without a query. About 110 bytes an item.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId, memory_item
from memory.domain.principals import Scope
from memory.ports.feed import ItemFacts
from memory.tiers.longterm.logs import Logs
from memory.tiers.longterm.places import Places
from memory.tiers.scan import asks, tells_time

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]

NO_SESSION = 0
EPISODE_GAP = 1_800.0
"""Seconds of silence after which a session's next event begins a new episode."""

_COLUMNS: dict[str, Any] = {
    "item": np.int64,
    "session": np.int64,
    "seq": np.int64,
    "audience": np.int32,
    "kind": np.int16,
    "role": np.int16,
    "agent": np.int32,
    "created_at": np.float64,
    "valid_from": np.float64,
    "valid_to": np.float64,
    "episode": np.int32,
    "terms": np.int32,
    "asks": np.bool_,
    "tells_time": np.bool_,
    "alive": np.bool_,
    "previous": np.int32,
    "following": np.int32,
    "first_vector": np.int32,
    "vectors": np.int32,
}


@dataclass(slots=True)
class Names:
    """Strings and the small numbers that stand for them in a column; -1 stands for none."""

    names: list[str]
    codes: dict[str, int]

    @staticmethod
    def of(names: Iterable[str] = ()) -> "Names":
        listed = list(names)
        return Names(listed, {name: code for code, name in enumerate(listed)})

    def code(self, name: str | None) -> int:
        """The number of a name, given at first sight."""
        if name is None:
            return -1
        if name not in self.codes:
            self.codes[name] = len(self.names)
            self.names.append(name)
        return self.codes[name]

    def known(self, names: Iterable[str]) -> list[int]:
        return [self.codes[name] for name in names if name in self.codes]


class Catalogue:
    """Mutable, one writer. A row is never moved or used again until `compacted`."""

    def __init__(self) -> None:
        self._size = 0
        self._columns = {name: np.zeros(1024, kind) for name, kind in _COLUMNS.items()}
        self._places = Places()
        self._logs = Logs()
        self._episodes = 0
        self.timed = False
        """Something has a beginning or an end of validity."""
        self.audiences, self.kinds, self.roles, self.agents = Names.of(), Names.of(), Names.of(), Names.of()

    def __len__(self) -> int:
        """Rows, with those of removed items."""
        return self._size

    @property
    def live(self) -> int:
        return len(self._places)

    def column(self, name: str) -> NDArray[Any]:
        """A view of [len(self)]; valid until the next `put`."""
        return self._columns[name][: self._size]

    def put(self, facts: ItemFacts, terms: int) -> int:
        """Adds an item, or brings a known one up to date; returns its row. `terms`: its length in terms."""
        row = self._places.get(facts.item)
        if row is None:
            row = self._new_row(facts)
        for name, value in (
            ("audience", self.audiences.code(facts.audience)),
            ("kind", self.kinds.code(facts.kind)),
            ("role", self.roles.code(facts.role)),
            ("agent", self.agents.code(facts.agent_id)),
            ("created_at", facts.created_at),
            ("valid_from", facts.valid_from),
            ("valid_to", facts.valid_to),
            ("terms", terms),
            ("asks", asks(facts.text)),
            ("tells_time", tells_time(facts.text)),
        ):
            self._columns[name][row] = value
        self.timed = self.timed or facts.valid_to < np.inf or facts.valid_from > -np.inf
        return row

    def remove(self, item: ItemId) -> int | None:
        """Its row, which is dead from now on; None when it was unknown."""
        row = self._places.pop(item)
        if row is not None:
            self._columns["alive"][row] = False
            self._columns["vectors"][row] = 0
            self._unlink(row)
        return row

    def items_of_session(self, session_key: int) -> list[ItemId]:
        """Events and memories of a session."""
        rows = np.flatnonzero((self.column("session") == session_key) & self.column("alive"))
        return [int(item) for item in self.column("item")[rows]]

    def set_vectors(self, row: int, first: int, count: int) -> None:
        self._columns["first_vector"][row] = first
        self._columns["vectors"][row] = count

    def row(self, item: ItemId) -> int | None:
        return self._places.get(item)

    def rows(self, items: Iterable[int]) -> Rows:
        """The rows of items, -1 where one is unknown."""
        return self._places.of(items)

    def in_scope(self, scope: Scope) -> Rows:
        """Everything that the scope lets the caller see, ascending."""
        if scope.session_keys is None:
            return np.flatnonzero(self.shown(scope.audiences))
        session, seq = self.column("session"), self.column("seq")
        written = np.flatnonzero(seq == 0)  # memories: of these sessions, or of none and so part of every question
        wanted = np.array([*scope.session_keys, NO_SESSION], np.int64)
        shown = np.isin(session[written], wanted)
        logs = [self._logs.rows(key) for key in scope.session_keys]
        for stretch in (one.stretch for one in scope.inherited):
            logs.append(self._logs.between(stretch.session_key, stretch.first_seq, stretch.last_seq))
            item = self.column("item")[written]
            shown |= (session[written] == stretch.session_key) & (item <= memory_item(stretch.last_memory))
        rows = np.concatenate([written[shown], *logs])
        rows = np.unique(rows[rows >= 0])  # forks of one session share what they inherited
        return rows[self.shown(scope.audiences, rows)]

    def shown(self, audiences: Iterable[str], rows: Rows | slice = slice(None)) -> Mask:
        """Bool [rows] (a copy): which of these rows, whatever their session, live and are of these audiences."""
        visible = np.zeros(len(self.audiences.names) + 1, np.bool_)
        visible[self.audiences.known(audiences)] = True
        return np.asarray(visible[self.column("audience")[rows]] & self.column("alive")[rows])

    def valid_at(self, rows: Rows | slice, moment: float) -> Mask:
        return np.asarray((self.column("valid_from")[rows] <= moment) & (self.column("valid_to")[rows] > moment))

    def log(self, session_key: int, first_seq: int, last_seq: int) -> Rows:
        """The rows of a stretch of a session's log, -1 where an event is unknown."""
        return self._logs.between(session_key, first_seq, last_seq)

    def neighbours(self, rows: Rows) -> Rows:
        """int64 [n, 5]: the rows two before to two after each event in its session, -1 where there is none."""
        previous, following = self.column("previous"), self.column("following")
        one_before, one_after = previous[rows], following[rows]
        return np.stack([_step(previous, one_before), one_before, rows, one_after, _step(following, one_after)], axis=1)

    def dump(self) -> Arrays:
        """The live part as arrays, for `restore`; rows keep their order, vector places are kept as they are."""
        kept = np.flatnonzero(self.column("alive"))
        arrays: Arrays = {name: self.column(name)[kept] for name in _COLUMNS}
        for name in ("audiences", "kinds", "roles", "agents"):
            arrays["names_" + name] = np.array(getattr(self, name).names, dtype=np.str_)
        return arrays

    @staticmethod
    def restore(arrays: Arrays) -> "Catalogue":
        """Raises KeyError or ValueError when `arrays` are not a dump."""
        made = Catalogue()
        made._size = len(arrays["item"])
        made._columns = {name: arrays[name].astype(kind) for name, kind in _COLUMNS.items()}
        for name in ("audiences", "kinds", "roles", "agents"):
            setattr(made, name, Names.of(str(n) for n in arrays["names_" + name]))
        made._places = Places(made.column("item"))
        made._logs = Logs.of(made.column("session"), made.column("seq"))
        made._link()
        made.timed = bool(np.isfinite(made.column("valid_to")).any() or np.isfinite(made.column("valid_from")).any())
        made._episodes = int(arrays["episode"].max(initial=0)) + 1
        return made

    def _new_row(self, facts: ItemFacts) -> int:
        row = self._size
        if row == len(self._columns["item"]):
            more = max(row // 8, 1_024)  # not as much again: at a million that is 100 MB, and a second
            self._columns = {n: np.concatenate([c, np.zeros(more, c.dtype)]) for n, c in self._columns.items()}
        self._size += 1
        self._places.put(facts.item, row)
        session = facts.session_key or NO_SESSION
        values = {"item": facts.item, "session": session, "seq": facts.seq, "alive": True, "vectors": 0}
        for name, value in (values | {"episode": -1, "previous": -1, "following": -1}).items():
            self._columns[name][row] = value
        if facts.seq:
            self._columns["episode"][row] = self._episode(session, facts)
            self._place_in_log(session, facts.seq, row)
        return row

    def _unlink(self, row: int) -> None:
        """A removed event is no one's neighbour; those beside it do not become neighbours of each other."""
        for link, back in (("previous", "following"), ("following", "previous")):
            beside = int(self._columns[link][row])
            if self._columns["seq"][row] and beside >= 0:
                self._columns[back][beside] = -1

    def _link(self) -> None:
        """All neighbours at once."""
        session, seq = self.column("session"), self.column("seq")
        order = np.lexsort((seq, session))
        one, next_one = order[:-1], order[1:]
        beside = (session[one] == session[next_one]) & (seq[one] > 0) & (seq[next_one] == seq[one] + 1)
        self.column("previous")[:], self.column("following")[:] = -1, -1
        self.column("following")[one[beside]] = next_one[beside]
        self.column("previous")[next_one[beside]] = one[beside]

    def _place_in_log(self, session: int, seq: int, row: int) -> None:
        self._logs.place(session, seq, row)
        before, after = self._logs.at(session, seq - 1), self._logs.at(session, seq + 1)
        self._columns["previous"][row], self._columns["following"][row] = before, after
        if before >= 0:
            self._columns["following"][before] = row
        if after >= 0:
            self._columns["previous"][after] = row

    def _episode(self, session: int, facts: ItemFacts) -> int:
        """That of the event before, unless there was a long silence between them."""
        before = self._logs.at(session, facts.seq - 1)
        if before >= 0 and abs(facts.created_at - float(self._columns["created_at"][before])) < EPISODE_GAP:
            return int(self._columns["episode"][before])
        self._episodes += 1
        return self._episodes


def _step(links: NDArray[np.int32], rows: NDArray[np.int32]) -> Rows:
    return np.where(rows >= 0, links[np.maximum(rows, 0)], -1)
