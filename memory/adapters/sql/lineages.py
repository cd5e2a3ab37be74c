"""Which rows are a session's, its own and those it inherited? As conditions, and in the order of its log."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.tables import memories, segments
from memory.domain.lineage import Stretch
from memory.domain.sessions import Session


def of_stretch(stretch: Stretch, session_key: sa.Column[Any], seq: sa.Column[Any]) -> list[sa.ColumnElement[bool]]:
    """A session that is no fork has one stretch and no border: its statements are those of a plain session."""
    conditions: list[sa.ColumnElement[bool]] = [session_key == stretch.session_key]
    if stretch.first_seq > 1:
        conditions.append(seq >= stretch.first_seq)
    if not stretch.open:
        conditions.append(seq <= stretch.last_seq)
    return conditions


def in_any(stretches: Iterable[Stretch], session_key: sa.Column[Any], seq: sa.Column[Any]) -> sa.ColumnElement[bool]:
    return sa.or_(sa.false(), *(sa.and_(*of_stretch(s, session_key, seq)) for s in stretches))


def memories_in_any(stretches: Iterable[Stretch]) -> sa.ColumnElement[bool]:
    known = (
        memories.c.session_key == s.session_key
        if s.open
        else sa.and_(memories.c.session_key == s.session_key, memories.c.memory_key <= s.last_memory)
        for s in stretches
    )
    return sa.or_(sa.false(), *known)


def held_elsewhere(session: Session) -> sa.ColumnElement[bool]:
    """Segments that the semantic tier counts for a fork while its other sessions' tiers hold them: of recent turns."""
    return sa.and_(
        in_any(session.lineage.elsewhere, segments.c.session_key, segments.c.seq),
        segments.c.item % 2 == 0,
        segments.c.semantic,
        segments.c.turn > session.turns - session.semantic_turns,
    )


async def along(
    db: AsyncConnection,
    query: sa.Select[Any],
    stretches: Sequence[Stretch],
    session_key: sa.Column[Any],
    seq: sa.Column[Any],
    *,
    limit: int | None = None,
    descending: bool = False,
) -> list[sa.Row[Any]]:
    """The rows in the order of the log or against it: stretch by stretch, so that each is read by its index."""
    query = query.order_by(seq.desc() if descending else seq)
    found: list[sa.Row[Any]] = []
    for stretch in reversed(stretches) if descending else stretches:
        left = None if limit is None else limit - len(found)
        if left is not None and left <= 0:
            break
        found += await db.execute(query.where(*of_stretch(stretch, session_key, seq)).limit(left))
    return found


def stored(stretches: Sequence[Stretch]) -> list[list[int]] | None:
    """As `rows.stretches` reads them."""
    return [[s.session_key, s.first_seq, s.last_seq, s.last_memory, s.shared_tokens] for s in stretches] or None
