"""How are the events of a log turned into candidates with no index at all?

The hot and the semantic tier hold few events and read them from the database, so they answer even while the long-term
indexes are being rebuilt.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory.domain.events import Event, Metadata
from memory.domain.principals import SHARED, Scope
from memory.domain.recall import EVENT_KIND, Filter, evaluate
from memory.tiers.base import NEIGHBOURS, Candidates, Conditions, Floats, Population

_WORD = re.compile(r"[^\W_]+")
_TIME_WORDS = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|ago|last|next|recently|since|weeks?|weekend|months?|years?"
    r"|(mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august|september"
    r"|october|november|december|(19|20)\d\d)\b",
    re.IGNORECASE,
)


def matching(events: Sequence[Event], scope: Scope, conditions: Conditions, session_ids: dict[int, str]) -> list[Event]:
    """Those that the scope shows and the conditions accept. `session_ids`: by session_key, of the sessions asked."""
    shown = [(event, scope.shows(event.session_key, event.seq)) for event in events]
    return [
        event
        for event, session_key in shown
        if session_key is not None
        and not event.redacted
        and event.audience in scope.audiences
        and _accepted(event, conditions, session_ids.get(session_key))
    ]


@dataclass(frozen=True, slots=True)
class Words:
    """What the words of a question have in common with n events: see Candidates."""

    terms: tuple[str, ...]
    term_weights: Floats
    lexical: Floats
    coverage: NDArray[np.bool_]

    @staticmethod
    def none(n: int) -> "Words":
        return Words((), np.zeros(0, np.float32), np.zeros(n, np.float32), np.zeros((n, 0), np.bool_))


def indexed_text(author: str | None, text: str) -> str:
    """The words of an item and its author's name: else a name weighs where *others* say it.

    LoCoMo's recall@10: .855 with the name, .847 without.
    """
    return text if author is None else f"{author} {text}"


def passes(condition: Filter, metadata: Metadata, facts: Mapping[str, object]) -> bool:
    """`facts`: the values of a filter's fields but for `metadata.…`."""
    # numpy's bool, because `~True` of a plain bool is -2
    return bool(evaluate(condition, lambda test: np.bool_(test.holds(_value(test.field, metadata, facts)))))


class Recorded(Protocol):
    """What a filter asks of a memory."""

    @property
    def kind(self) -> str: ...
    @property
    def agent_id(self) -> str | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def metadata(self) -> Metadata: ...


def memory_passes(condition: Filter, memory: Recorded) -> bool:
    facts = {
        "role": None,
        "agent_id": memory.agent_id,
        "kind": str(memory.kind),
        "created_at": memory.created_at.timestamp(),
        "session_id": memory.session_id,
    }
    return passes(condition, memory.metadata, facts)


def _value(field: str, metadata: Metadata, facts: Mapping[str, object]) -> object:
    if not field.startswith("metadata."):
        return facts[field]
    value: object = metadata
    for part in field.split(".")[1:]:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def asks(text: str) -> bool:
    return "?" in text


def tells_time(text: str) -> bool:
    return _TIME_WORDS.search(text) is not None


def candidates(question: str, events: Sequence[Event], dense: Floats, words: Words) -> Candidates:
    """`events` in the order of (session, seq); `dense`: float32 [n], nan without a vector."""
    spoken = set(_WORD.findall(question.lower()))
    names = {event.agent_id: set(_WORD.findall(event.agent_id.lower())) for event in events if event.agent_id}
    all_names = set().union(*names.values())
    length = float(np.mean([len(_WORD.findall(event.content)) / 2 for event in events])) if events else 0.0
    return Candidates(
        items=np.array([event.item for event in events], np.int64),
        sessions=np.array([event.session_key for event in events], np.int64),
        seqs=np.array([event.seq for event in events], np.int64),
        created_at=np.array([event.created_at.timestamp() for event in events], np.float64),
        asks=np.array([asks(event.content) for event in events], np.bool_),
        tells_time=np.array([tells_time(event.content) for event in events], np.bool_),
        speaker=np.array([bool(names.get(event.agent_id or "", set()) & spoken) for event in events], np.bool_),
        episodes=np.full(len(events), -1, np.int32),
        neighbours=_neighbours(events),
        dense=dense,
        lexical=words.lexical,
        coverage=words.coverage,
        terms=words.terms,
        term_weights=words.term_weights,
        named_terms=np.array([term in all_names for term in words.terms], np.bool_),
        population=Population.of(dense, len(events), length),  # about half of the words of a text are stop words
    )


def _neighbours(events: Sequence[Event]) -> NDArray[np.int32]:
    place = {(event.session_key, event.seq): at for at, event in enumerate(events)}
    found = np.full((len(events), len(NEIGHBOURS)), -1, np.int32)
    for (at, event), (column, offset) in itertools.product(enumerate(events), enumerate(NEIGHBOURS)):
        found[at, column] = place.get((event.session_key, event.seq + offset), -1)
    return found


def _accepted(event: Event, conditions: Conditions, session_id: str | None) -> bool:
    if conditions.outside is not None and event.seq >= conditions.outside and event.audience == SHARED:
        return False
    if conditions.kinds is not None and EVENT_KIND not in conditions.kinds:
        return False
    if conditions.as_of is not None and event.created_at.timestamp() > conditions.as_of:
        return False
    if conditions.filter is None:
        return True
    facts = {
        "role": event.role.value,
        "agent_id": event.agent_id,
        "kind": EVENT_KIND,
        "created_at": event.created_at.timestamp(),
        "session_id": session_id,
    }
    return passes(conditions.filter, event.metadata, facts)
